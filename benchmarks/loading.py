"""Reading shuffled batches from files: sciml against the usual ways, on the same files, in one run.

    python benchmarks/loading.py [--rounds 3]
    python benchmarks/loading.py --table

Needs the extra `peers` (torch, the_well, xbatcher, dask). The files have 4096 samples of two fields of 64 x 64 in
float32, 128 MiB in all, in chunks of 8 samples: `a` has two values, as the permeability of Darcy flow, `u` is a sum of
48 random waves; gzip makes them 0.03 and 0.82 as large. Each measurement is one epoch of batches of 32 in a process of
its own, from the first request to the last batch; imports, the opening of files and the start of worker processes do
not count. The ways are measured in turn, so that a drift of the machine's speed meets them all; medians of the rounds.
Warm: the file is in the page cache. Cold: it has been put out of it. Writes benchmarks/loading.json.

sciml has 64 MiB for all that it reads ahead, half of the numbers, so that it cannot keep the data in memory, as with
data that are larger than the memory, and each epoch reads the files again. `ten epochs` is the default (512 MiB, which
holds the data), from the first request to the end of the tenth epoch. The others read the files in each epoch.
"""

import argparse
import datetime
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

SAMPLES, SIDE, CHUNK, BATCH = 4096, 64, 8, 32
TRAJECTORIES, TIMES = 64, 65  # of The Well's layout: 4096 windows of one frame and its successor
MEMORY = 64 * 2**20
DEFAULT = 512 * 2**20
RATIOS = {
    "torch DataLoader over h5py (best worker count)": ("sciml, HDF5 gzip", 8),
    "The Well's WellDataset (best worker count)": ("sciml, The Well's layout", 15),
    "xarray isel per batch, NetCDF-4": ("sciml, NetCDF-4", 10),
    "xbatcher, NetCDF-4, rows shuffled by torch (best worker count)": ("sciml, NetCDF-4", 10),
    "zarr-python one by one, Zarr 3": ("sciml, Zarr 3", 10),
}
LIMITS = {
    "h5py, whole chunks in order": "sciml, HDF5 gzip",
    "sciml's reader, whole chunks in order, same threads": "sciml, HDF5 gzip",
}


def fields(samples: int, seed: int) -> np.ndarray:
    """Sums of random plane waves, (samples, SIDE, SIDE)."""
    random = np.random.default_rng(seed)
    x = np.arange(SIDE) / SIDE
    out = np.zeros((samples, SIDE, SIDE), np.float32)
    for _ in range(48):
        kx, ky = random.integers(-8, 9, (2, samples, 1, 1))
        phase = random.uniform(0, 2 * np.pi, (samples, 1, 1))
        out += np.cos(2 * np.pi * (kx * x[:, None] + ky * x) + phase) / (1 + np.hypot(kx, ky))
    return out


def make_files(folder: Path) -> None:
    """The same numbers in each format."""
    import h5py
    import xarray as xr
    import zarr

    arrays = {"a": np.where(fields(SAMPLES, 0) > 0, 12, 3).astype(np.float32), "u": fields(SAMPLES, 1)}
    chunks = (CHUNK, SIDE, SIDE)
    with h5py.File(folder / "data.h5", "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, chunks=chunks, compression="gzip", compression_opts=4, shuffle=True)
    dataset = xr.Dataset({n: (("sample", "x", "y"), a) for n, a in arrays.items()})
    packing = {"zlib": True, "complevel": 4, "shuffle": True, "chunksizes": chunks}
    dataset.to_netcdf(folder / "data.nc", engine="netcdf4", encoding={n: packing for n in arrays})
    group = zarr.create_group(folder / "data.zarr", zarr_format=3)
    for name, array in arrays.items():
        group.create_array(name, data=array, chunks=chunks, dimension_names=("sample", "x", "y"))
    make_the_well(folder / "well" / "data" / "train")


def make_the_well(folder: Path) -> None:
    """Trajectories of one scalar field in The Well's layout, not compressed, as it is published."""
    import sciml

    values = fields(TRAJECTORIES * TIMES, 2).reshape(TRAJECTORIES, TIMES, SIDE, SIDE)
    source = sciml.open(_as_xarray(values))
    folder.mkdir(parents=True)
    sciml.data.write(source, folder / "waves.hdf5", layout="the_well", compression=None, progress=False)


def _as_xarray(values):
    import xarray as xr

    x = np.arange(SIDE) / SIDE
    coords = {"time": np.arange(values.shape[1], dtype=float)}
    coords |= {d: (d, x, {"boundary": "periodic"}) for d in "xy"}
    return xr.Dataset({"w": (("sample", "time", "x", "y"), values)}, coords=coords)


# The ways: each gives the batches of one epoch.


def by_sciml(path: Path, memory: int = MEMORY, windows: bool = False, epochs: int = 1) -> Iterable:
    """Shuffled batches on the device."""
    import jax

    import sciml

    jax.device_put(np.zeros(1)).block_until_ready()
    data = sciml.open(path)
    data = data.windows(1, 1) if windows else data["a", "u"]
    batches = data.batches(BATCH, memory=memory)
    return itertools.chain.from_iterable(batches for _ in range(epochs))


def by_torch(path: Path, workers: int) -> Iterable:
    """A map-style data set that opens the file once in each worker."""
    return _loader(Pairs(path), workers)


class Pairs:
    """Samples by number, as torch's DataLoader takes them."""

    def __init__(self, path: Path):
        self.path, self.file = path, None

    def __len__(self):
        return SAMPLES

    def __getitem__(self, index):
        import h5py

        if self.file is None:
            self.file = h5py.File(self.path, "r")
        return self.file["a"][index], self.file["u"][index]


def by_the_well(path: Path, workers: int) -> Iterable:
    """The Well's own data set, which opens the file for each sample."""
    from the_well.data import WellDataset

    return _loader(WellDataset(path=str(path), n_steps_input=1, n_steps_output=1), workers)


def _loader(dataset, workers: int) -> Iterable:
    import torch

    options = {"persistent_workers": True, "prefetch_factor": 4} if workers else {}
    loader = torch.utils.data.DataLoader(
        dataset,
        BATCH,
        shuffle=True,
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,
        **options,
    )
    if workers:
        # The processes start with the first epoch.
        for _ in loader:
            pass
    return loader


def by_xarray(path: Path) -> Iterator:
    """Random rows, in order within a batch."""
    import xarray as xr

    dataset = xr.open_dataset(path)
    found = (dataset.isel(sample=np.sort(rows)).load() for rows in shuffled_batches())
    return ((batch.a.values, batch.u.values) for batch in found)


def shuffled_batches() -> np.ndarray:
    """The numbers of the rows of each batch of an epoch."""
    return np.random.default_rng(0).permutation(SAMPLES).reshape(-1, BATCH)


def by_xbatcher_in_order(path: Path) -> Iterator:
    """Batches in order: xbatcher itself does not shuffle rows."""
    import xarray as xr
    import xbatcher

    batches = xbatcher.BatchGenerator(xr.open_dataset(path), input_dims={"sample": BATCH, "x": SIDE, "y": SIDE})
    return ((batch.a.values, batch.u.values) for batch in batches)


def by_xbatcher(path: Path, workers: int) -> Iterable:
    """Rows by xbatcher, shuffled and put together by torch's DataLoader."""
    return _loader(XbatcherRows(path), workers)


class XbatcherRows:
    """Samples by number, each a batch of one row of xbatcher."""

    def __init__(self, path: Path):
        self.path, self.rows = path, None

    def __len__(self):
        return SAMPLES

    def __getitem__(self, index):
        import xarray as xr
        import xbatcher

        if self.rows is None:
            dataset = xr.open_dataset(self.path)
            self.rows = xbatcher.BatchGenerator(dataset, input_dims={"sample": 1, "x": SIDE, "y": SIDE})
        row = self.rows[index]
        return row.a.values[0], row.u.values[0]


def by_zarr(path: Path) -> Iterator:
    """Random rows, one by one."""
    import zarr

    group = zarr.open_group(path, mode="r")
    a, u = group["a"], group["u"]
    return ((np.stack([a[i] for i in rows]), np.stack([u[i] for i in rows])) for rows in shuffled_batches())


def by_h5py_in_order(path: Path) -> Iterator:
    """The limit of h5py: each chunk read once, whole, into memory that is used again."""
    import h5py

    out = np.empty((BATCH, SIDE, SIDE), np.float32)
    file = h5py.File(path, "r")

    def read(start):
        for array in (file["a"], file["u"]):
            for i in range(0, BATCH, CHUNK):
                array.read_direct(out, np.s_[start + i : start + i + CHUNK], np.s_[i : i + CHUNK])
        return (out,)

    return map(read, range(0, SAMPLES, BATCH))


def by_reader_in_order(path: Path) -> Iterator:
    """The limit of sciml's own reader: whole chunks in order, by as many threads as the batches have, into memory that
    is used again.
    """
    from concurrent.futures import ThreadPoolExecutor

    import sciml

    arrays = sciml.open(path)["a", "u"].arrays.values()
    rows, threads = 4 * BATCH, min(8, os.cpu_count() or 1)
    memory = [np.ones((rows, SIDE, SIDE), np.float32) for _ in range(threads + 1)]

    def read(start):
        out = memory.pop()
        for array in arrays:
            array.read_into((slice(start, start + rows), slice(0, SIDE), slice(0, SIDE)), out)
        memory.append(out)
        return [(out,)] * (rows // BATCH)

    executor = ThreadPoolExecutor(threads)
    return (batch for batches in executor.map(read, range(0, SAMPLES, rows)) for batch in batches)


WAYS: dict[str, tuple[Callable[..., Iterable], str, tuple]] = {
    "sciml, HDF5 gzip": (by_sciml, "data.h5", ()),
    "sciml, NetCDF-4": (by_sciml, "data.nc", ()),
    "sciml, Zarr 3": (by_sciml, "data.zarr", ()),
    "sciml, HDF5 gzip, ten epochs": (by_sciml, "data.h5", (DEFAULT, False, 10)),
    "sciml, NetCDF-4, ten epochs": (by_sciml, "data.nc", (DEFAULT, False, 10)),
    "sciml, Zarr 3, ten epochs": (by_sciml, "data.zarr", (DEFAULT, False, 10)),
    "sciml, The Well's layout, ten epochs": (by_sciml, "well/data/train/waves.hdf5", (DEFAULT, True, 10)),
    "sciml, The Well's layout": (by_sciml, "well/data/train/waves.hdf5", (MEMORY, True)),
    **{f"torch DataLoader over h5py, {w} workers": (by_torch, "data.h5", (w,)) for w in (0, 1, 2, 4)},
    **{f"The Well's WellDataset, {w} workers": (by_the_well, "well/data/train", (w,)) for w in (0, 1, 2, 4)},
    "xarray isel per batch, NetCDF-4": (by_xarray, "data.nc", ()),
    "xbatcher, NetCDF-4, in order": (by_xbatcher_in_order, "data.nc", ()),
    **{f"xbatcher, NetCDF-4, rows shuffled by torch, {w} workers": (by_xbatcher, "data.nc", (w,)) for w in (0, 2)},
    "zarr-python one by one, Zarr 3": (by_zarr, "data.zarr", ()),
    "h5py, whole chunks in order": (by_h5py_in_order, "data.h5", ()),
    "sciml's reader, whole chunks in order, same threads": (by_reader_in_order, "data.h5", ()),
}


def measure(way: str, folder: Path, cold: bool) -> float:
    """Samples per second of one epoch, in this process."""
    function, name, options = WAYS[way]
    batches = function(folder / name, *options)
    if cold:
        evict(folder / name)
    started, count = time.perf_counter(), 0
    for batch in batches:
        count += 1
        if way.startswith("sciml, "):
            batch[0].block_until_ready()
    seconds = time.perf_counter() - started
    epochs, rest = divmod(count, SAMPLES // BATCH)
    if rest or epochs != (10 if way.endswith("ten epochs") else 1):
        raise RuntimeError(f"{way}: {count} batches, expected {SAMPLES // BATCH} an epoch")
    return count * BATCH / seconds


def evict(path: Path) -> None:
    """Puts a file or a folder out of the page cache."""
    for file in [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]:
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def in_new_process(way: str, folder: Path, cold: bool) -> float:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--one", way, "--folder", str(folder), *(["--cold"] if cold else [])]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{way}: {done.stderr}")
    return float(done.stdout.split()[-1])


def best_workers(found: dict[str, float], prefix: str) -> str:
    """The name of the fastest of the ways that differ in the number of workers."""
    return max((n for n in found if n.startswith(prefix)), key=lambda n: found[n])


def summarise(found: dict[str, float]) -> dict[str, dict]:
    """The ratios to the usual ways, for one epoch from the files and for ten with the default memory."""
    out = {}
    for peer, (own, target) in RATIOS.items():
        name = best_workers(found, peer.partition(" (best")[0])
        ratios = {"ratio": found[own] / found[name], "ten epochs": found[f"{own}, ten epochs"] / found[name]}
        out[peer] = {"theirs": name, "target": target} | {k: round(r, 1) for k, r in ratios.items()}
    for limit, own in LIMITS.items():
        out[f"share of: {limit}"] = {"target": 0.7, "ratio": round(found[own] / found[limit], 2)}
    return out


def main(rounds: int) -> None:
    """All ways, warm and cold."""
    report: dict = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_files(folder)
        report["file MiB"] = round((folder / "data.h5").stat().st_size / 2**20, 1)
        for state in ("warm", "cold"):
            speeds: dict[str, list[float]] = {way: [] for way in WAYS}
            for _ in range(rounds if state == "warm" else max(1, rounds // 2)):
                for way in WAYS:
                    speeds[way].append(in_new_process(way, folder, state == "cold"))
            medians = {way: round(statistics.median(values)) for way, values in speeds.items()}
            report[state] = {"samples/s": medians, "ratios": summarise(medians)}
            for way, value in medians.items():
                print(f"{state}: {way:<52} {value:>9,} samples/s", flush=True)
            for what, entry in report[state]["ratios"].items():
                print(f"{state}: {what:<66} {entry}", flush=True)
    report |= {"date": datetime.date.today().isoformat(), "rounds": rounds, "versions": versions()}
    Path(__file__).with_name("loading.json").write_text(json.dumps(report, indent=1) + "\n")


def table(report: dict) -> str:
    """The ratios as the documentation shows them."""
    lines = ["| against | one epoch, warm | cold | ten epochs, warm | cold | target |", "|---|---|---|---|---|---|"]
    for what, warm in report["warm"]["ratios"].items():
        cold = report["cold"]["ratios"][what]
        numbers = [warm["ratio"], cold["ratio"], warm.get("ten epochs", "-"), cold.get("ten epochs", "-")]
        lines.append(f"| {what} | " + " | ".join(map(str, numbers)) + f" | {warm['target']} |")
    return "\n".join(lines)


def versions() -> dict:
    """What the figures depend on."""
    from importlib.metadata import version

    names = ("jax", "numpy", "h5py", "netCDF4", "zarr", "tensorstore", "xarray", "torch", "the_well", "xbatcher")
    return {n: version(n) for n in names} | {"python": platform.python_version(), "cpus": os.cpu_count()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--table", action="store_true", help="print the ratios that were measured last")
    parser.add_argument("--one")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--cold", action="store_true")
    options = parser.parse_args()
    if options.table:
        print(table(json.loads(Path(__file__).with_name("loading.json").read_text())))
    elif options.one:
        print(measure(options.one, options.folder, options.cold))
    else:
        main(options.rounds)
