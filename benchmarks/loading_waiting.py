"""Does training wait for data? A Fourier neural operator on the small Darcy set, read from a gzip-chunked HDF5 file.

    python benchmarks/loading_waiting.py [--epochs 20]

Needs the data set `darcy_small` (SCIML_DATA or a network). 1000 samples at 16 x 16, batches of 16, FNO of 32 channels
and four layers with 8 modes, Adam. Two runs: the default, which keeps what it has read, and one with a pool of half of
the data, so that each epoch reads the file again. Writes benchmarks/loading_waiting.json with the share of the whole
run (with compilation) and of the steps after the first that `fit` waited for a batch.
"""

import argparse
import datetime
import json
import os
import platform
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
import optax

import sciml

BATCH = 16
AXIS = sciml.operators.Bounded(points=sciml.operators.left)


def run(data: sciml.data.Dataset, pool: int | None, epochs: int) -> dict:
    """One training."""
    statistics = data.statistics(cache=False)
    model = sciml.nn.normalised(
        sciml.operators.FNO(1, 1, modes=(8, 8), width=32, layers=4, axes=AXIS, key=jax.random.key(0)),
        sciml.nn.normaliser(statistics, "a", channel_axis=0),
        sciml.nn.normaliser(statistics, "u", channel_axis=0),
    )
    batches = data.batches(BATCH, seed=0, pool=pool)
    steps = epochs * len(batches)
    started, states = time.perf_counter(), []
    train = sciml.train(model, sciml.relative_misfit, batches, optax.adam(2e-3), steps=steps, every=len(batches))
    for state in train:
        states.append(state)
    seconds = time.perf_counter() - started
    first, last = states[0], states[-1]
    waited = [s.waiting * s.seconds for s in (first, last)]
    return {
        "steps": steps,
        "seconds": round(seconds, 2),
        "mixing radius": batches.mixing_radius,
        "relative misfit of the last epoch": round(float(np.sqrt(last.losses["loss"])), 4),
        "waiting, whole run": round(last.waiting, 4),
        "waiting, after the first epoch": round((waited[1] - waited[0]) / (last.seconds - first.seconds), 4),
    }


def main(epochs: int) -> None:
    """Both runs."""
    small = sciml.dataset("darcy_small")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "darcy.h5"
        chunks = {"sample": 8}
        sciml.data.write(small.map(x=np.float32), path, chunks=chunks, compression="gzip", progress=False)
        data = sciml.open(path).stack(a=["x"], u=["y"])
        report: dict = {"kept in memory": run(data, None, epochs), "read again": run(data, 512, epochs)}
    for name, found in report.items():
        print(name, found)
    report |= {
        "date": datetime.date.today().isoformat(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "cpus": os.cpu_count(),
    }
    Path(__file__).with_name("loading_waiting.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=20)
    main(parser.parse_args().epochs)
