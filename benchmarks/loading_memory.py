"""Does memory stay under the stated bound? Random windows worth 24 GB from a file of 4 GB, far larger than the bound.

    python benchmarks/loading_memory.py [--gigabytes 24] [--file FILE]

The file has 64 trajectories of 256 frames of 256 x 256 in float32, chunks of 4 frames, gzip. Batches of 8 windows
of four frames and the next one, 256 MiB of memory allowed. Measured is the growth of the anonymous memory of the
process (the page cache is the system's), every 10 ms, against `batches.memory`. Writes benchmarks/loading_memory.json.
"""

import argparse
import datetime
import json
import os
import platform
import tempfile
import threading
import time
from pathlib import Path

import h5py
import jax
import numpy as np

import sciml

TRAJECTORIES, FRAMES, SIDE, ALLOWED = 64, 256, 256, 256 * 2**20


def make(path: Path) -> None:
    """Waves and noise, which gzip hardly makes smaller; each frame tells its trajectory and time in two numbers."""
    x = np.linspace(0, 2 * np.pi, SIDE, endpoint=False, dtype=np.float32)
    random = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        shape, chunks = (TRAJECTORIES, FRAMES, SIDE, SIDE), (1, 4, SIDE, SIDE)
        u = file.create_dataset("u", shape, np.float32, chunks=chunks, compression="gzip", compression_opts=1)
        for i in range(TRAJECTORIES):
            t = np.arange(FRAMES, dtype=np.float32)[:, None, None]
            frames = np.sin(x[:, None] + t / 40) * np.cos((1 + i % 3) * x - t / 60)
            frames += random.standard_normal(frames.shape, np.float32)
            frames[:, 0, 0], frames[:, 0, 1] = i, np.arange(FRAMES)
            u[i] = frames
        for axis, name in enumerate(("sample", "time", "x", "y")):
            u.dims[axis].label = name


class Peak:
    """The largest anonymous memory of this process while it is watched."""

    def __init__(self):
        self.start = self.largest = anonymous()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self):
        while not self._stop.wait(0.01):
            self.largest = max(self.largest, anonymous())

    def growth(self) -> int:
        """Ends watching."""
        self._stop.set()
        self._thread.join()
        return self.largest - self.start


def anonymous() -> int:
    """The resident memory of the process that is not a file's, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("RssAnon")).split()[1])


def main(gigabytes: float, path: Path) -> None:
    """Reads windows until that many bytes were given out."""
    data = sciml.open(path).windows(4, 1)
    jax.block_until_ready(jax.numpy.ones(8) + 1)
    batches = data.batches(8, memory=ALLOWED, seed=1)
    peak, given, began = Peak(), 0, time.perf_counter()
    stream = batches.from_step(0)
    while given < gigabytes * 1e9:
        inputs, targets = next(stream)
        # Each frame says where it comes from: the window is what it should be.
        places = np.asarray(inputs[:, :, 0, 1])
        assert (np.diff(places) == 1).all() and (np.asarray(targets[:, 0, 0, 1]) == places[:, -1] + 1).all()
        assert (np.asarray(inputs[:, :, 0, 0]) == np.asarray(targets[:, :1, 0, 0])).all()
        given += inputs.nbytes + targets.nbytes
    stream.close()
    growth, seconds = peak.growth(), time.perf_counter() - began
    report = {
        "numbers in the file, GB": round(data.nbytes / 1e9, 2),
        "file, GB": round(path.stat().st_size / 1e9, 2),
        "given out, GB": round(given / 1e9, 1),
        "GB/s": round(given / 1e9 / seconds, 2),
        "stated bound, MiB": round(batches.memory / 2**20),
        "growth of the memory, MiB": round(growth / 2**20),
        "mixing radius, windows": batches.mixing_radius,
        "date": datetime.date.today().isoformat(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "cpus": os.cpu_count(),
    }
    print(report)
    assert growth <= batches.memory, "the memory grew beyond the stated bound"
    Path(__file__).with_name("loading_memory.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--gigabytes", type=float, default=24.0)
    parser.add_argument("--file", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = options.file or Path(folder) / "large.h5"
        if not file.exists():
            make(file)
        main(options.gigabytes, file)
