"""What is in a data set and how fast it can be read: variables, coordinates, times, numbers, the cost of reading."""

import math
import time
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from .._progress import track
from ._batches import MEMORY, Batches, DataWarning
from ._cf import TimeReport, _seconds, calendar_of, times_report
from ._chunking import Cost, Suggestion, cost_of_batches, cost_of_rows, nbytes, stored_in, suggestion, trainable
from ._dataset import Dataset
from ._handles import reader_threads
from ._hdf5 import HDF5, LIBRARY
from ._lazy import Joined, Lazy, Sliced, Stacked, Stored
from ._moments import Work, tallies
from ._netcdf import NetCDF3
from ._numpy import Npy, Npz
from ._open import open as open_data
from ._open import parts_of
from ._plan import plan
from ._source import DataError, Source
from ._zarr import Zarr

# Data sets above this are described by numbers of a random sample of their chunks, of this size.
WHOLE_BYTES, SAMPLE_BYTES = 2**30, 2**28
# NetCDF's own fill value, and what else is in use.
MARKS = (9.969209968386869e36, -9.969209968386869e36, 1e20, -1e20, 1e30, -1e30, -999.0, -9999.0, -99999.0, -32768.0)
# Batches that may need more memory are not tried.
TRIED_BYTES = 2**31
PLACES_SHOWN = 3


@dataclass(frozen=True)
class VariableReport:
    """A variable: `chunks` is None where any part can be read at its own cost; `stored` are its bytes in the file, None
    where they are not known; `nbytes` those in memory.
    """

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype
    stored_dtype: np.dtype
    units: str
    chunks: tuple[int, ...] | None
    codec: str
    nbytes: int
    stored: int | None

    @property
    def ratio(self) -> float | None:
        """Bytes in memory for each byte in the file."""
        return self.nbytes / self.stored if self.stored else None


@dataclass(frozen=True)
class CoordinateReport:
    """A coordinate: its ends along one dimension, its extremes along several; `step` where all steps are equal."""

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    first: Any
    last: Any
    step: float | None
    units: str


@dataclass(frozen=True)
class TimesReport:
    """The axis of time: its ends, calendar (empty for plain numbers) and units, the usual, the shortest and the longest
    step (seconds for dates), and its faults; `places` are the first times of each kind of fault.
    """

    dim: str
    first: Any
    last: Any
    calendar: str
    units: str
    shortest: float
    longest: float
    report: TimeReport
    places: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class NumbersReport:
    """The share of missing numbers (NaN), and the extremes and the plain mean of the others; NaN where all are missing.
    `read` is the share of the numbers that was read; `problem` says why there is nothing.
    """

    missing: float = math.nan
    min: float = math.nan
    max: float = math.nan
    mean: float = math.nan
    read: float = 1.0
    problem: str = ""

    @property
    def mark(self) -> float | None:
        """An extreme that elsewhere marks missing numbers, and that the file does not declare as such; None without."""
        ends = (self.min, self.max)
        return next((e for e in ends for m in MARKS if math.isclose(e, m, rel_tol=1e-6)), None)


@dataclass(frozen=True)
class ReadingReport:
    """Batches of `batch` rows: what single rows cost, read one by one at random, and what shuffled batches cost in the
    first epoch with the default memory; rows per second as measured now, over `seconds` (None where batches may need
    over 2 GiB); `memory` in bytes; `mixing_radius` in rows. `kept` says whether all rows stay in memory, so that later
    epochs read nothing.
    """

    batch: int
    window: tuple[int, int] | None
    rows: int
    left_out: tuple[str, ...]
    single: Cost
    shuffled: Cost
    kept: bool
    memory: int
    mixing_radius: int
    per_second: float | None
    seconds: float
    problem: str
    suggestion: Suggestion


@dataclass(frozen=True)
class Report:
    """All that `inspect` finds. `reading` is text, the reason, where the variables make no batches."""

    formats: tuple[str, ...]
    files: int
    disk: int | None
    nbytes: int
    variables: Mapping[str, VariableReport]
    coords: Mapping[str, CoordinateReport]
    times: TimesReport | None
    numbers: Mapping[str, NumbersReport]
    reading: ReadingReport | str
    skipped: tuple[str, ...] = ()

    @property
    def problems(self) -> list[str]:
        """What could not be read."""
        found = [n.problem for n in self.numbers.values() if n.problem]
        if isinstance(self.reading, ReadingReport) and self.reading.problem:
            found.append(self.reading.problem)
        return list(dict.fromkeys(found))


def open_anyhow(path: Any) -> tuple[Dataset, str]:
    """A data set as `sciml.open` gives it, and an empty text; where that refuses a single file for its times, the data
    set all the same, and the reason.
    """
    try:
        return open_data(path), ""
    except DataError as error:
        # Another reason raises its error again here.
        parts = [part for part, _ in parts_of(path)]
        if len(parts) > 1:
            raise
        return parts[0], str(error)


def inspect(
    dataset: Dataset,
    window: tuple[int, int] | None = None,
    batch: int = 32,
    *,
    seconds: float = 1.5,
    progress: bool = False,
) -> Report:
    """What is in a data set, and what reading it costs.

    - `window`: (inputs, targets) frames of windows over time; by default rows are samples.
    - `batch`: rows of the batches that are read; at most all.
    - `seconds`: for which batches are read to measure the rate. Numbers (missing, min, max, mean) are those of a single
      pass, above 1 GiB of a random sample of chunks of 256 MiB.

    Raises ValueError for a window that does not fit and a batch below 1. What cannot be read is said in the report.
    """
    if batch < 1:
        raise ValueError(f"batch must be above 0, got {batch}")
    paths = list(dict.fromkeys(Path(p) for s in dataset.sources if (p := getattr(s, "path", None)) is not None))
    return Report(
        formats=tuple(sorted({_format(s) for s in dataset.sources})),
        files=len(dataset.sources),
        disk=sum(map(size_on_disk, paths)) if paths else None,
        nbytes=dataset.nbytes,
        variables=storage(dataset),
        coords=_coordinates(dataset),
        times=_times(dataset),
        numbers=_numbers(dataset, progress),
        reading=_reading(dataset, window, batch, seconds),
        skipped=tuple(dataset.attributes.get("skipped", ())),
    )


# What there is.


def storage(dataset: Dataset) -> dict[str, VariableReport]:
    """The variables of a data set and how they lie in its files."""
    sizes = {id(s): _stored_bytes(s) for s in dataset.sources}
    return {n: _variable(a, sizes) for n, a in dataset.arrays.items()}


def _variable(array: Lazy, sizes: Mapping[int, Mapping[str, int]]) -> VariableReport:
    variable = stored_in(array)
    stored = _bytes_of(array, sizes)
    cut = variable is not None and variable.chunks is not None
    dtype = array.dtype if variable is None else variable.dtype
    codec = "" if variable is None else variable.codec
    if not cut and stored and stored < math.prod(array.shape) * dtype.itemsize:
        codec = "zip"
    return VariableReport(
        dims=array.dims,
        shape=array.shape,
        dtype=array.dtype,
        stored_dtype=dtype,
        units=str(array.attributes.get("units", "")),
        chunks=array.chunks if cut else None,
        codec=codec,
        nbytes=nbytes(array),
        stored=stored,
    )


def _bytes_of(array: Lazy, sizes: Mapping[int, Mapping[str, int]]) -> int | None:
    """The bytes in files; of a part of a variable its share."""
    if isinstance(array, Stored):
        return sizes.get(id(array.source), {}).get(array.name)
    if isinstance(array, Joined | Stacked):
        found = [_bytes_of(p, sizes) for p in array.parts]
        return None if None in found else sum(n for n in found if n is not None)
    inner = getattr(array, "inner", None)
    whole = None if inner is None else _bytes_of(inner, sizes)
    if whole is None or not isinstance(array, Sliced):
        return whole
    return round(whole * math.prod(array.shape) / math.prod(array.inner.shape))


def _stored_bytes(source: Source) -> Mapping[str, int]:
    """The bytes of the variables in a file, as far as they are known."""
    if isinstance(source, HDF5):
        import h5py

        with LIBRARY, h5py.File(source.path, "r") as file:
            return {n: file[a.path].id.get_storage_size() for n, a in source._arrays.items()}
    if isinstance(source, Zarr):
        return {n: a.nbytes_stored() for n, a in source._arrays.items()}
    if isinstance(source, Npz):
        with zipfile.ZipFile(source.path) as archive:
            return {m.filename.removesuffix(".npy"): m.compress_size for m in archive.infolist()}
    if isinstance(source, NetCDF3 | Npy):
        return {n: math.prod(v.shape) * v.dtype.itemsize for n, v in source.variables().items()}
    return {}


def _format(source: Source) -> str:
    kind = type(source).__name__
    return {"NetCDF4": "NetCDF-4", "NetCDF3": "NetCDF-3", "Npy": ".npy", "Npz": ".npz", "XArray": "xarray"}.get(
        kind, kind
    )


def size_on_disk(path: Path) -> int:
    """The bytes of a file, or of all files in a folder."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum(f.stat().st_size for f in files)


def _coordinates(dataset: Dataset) -> dict[str, CoordinateReport]:
    """All but bounds of cells and mappings of the grid, which only describe others."""
    keys = ("bounds", "climatology")
    bounds = {str(c.attributes[k]) for c in dataset.coords.values() for k in keys if k in c.attributes}
    found = {}
    for name, coord in dataset.coords.items():
        values = coord.values
        if not values.size or name in bounds or "grid_mapping_name" in coord.attributes:
            continue
        first, last = values.flat[0], values.flat[-1]
        if values.ndim > 1 and values.dtype.kind in "iuf":
            first, last = np.nanmin(values), np.nanmax(values)
        units = str(coord.attributes.get("units", ""))
        found[name] = CoordinateReport(coord.dims, values.shape, first, last, _equal_step(values), units)
    return found


def _equal_step(values: np.ndarray) -> float | None:
    if values.ndim != 1 or len(values) < 2 or values.dtype.kind not in "iuf":
        return None
    steps = np.diff(values.astype(np.float64))
    # Positions in float32 are rounded.
    return float(steps.mean()) if np.allclose(steps, steps.mean(), rtol=1e-2, atol=0) else None


def _times(dataset: Dataset) -> TimesReport | None:
    dims = [d for d in dataset._time_dims() if d in dataset.coords and dataset.coords[d].dims == (d,)]
    dims = [d for d in dims if dataset.coords[d].values.dtype.kind in "iufMO"]
    if not dims:
        return None
    coord = dataset.coords[dims[0]]
    values, report = coord.values, times_report(coord.values)
    seconds = _seconds(values)
    steps = np.diff(seconds[~np.isnan(seconds)])
    steps = steps[steps > 0]
    kinds = ("duplicates", "reversed", "gaps", "missing")
    places = {kind: tuple(values[i] for i in getattr(report, kind)[:PLACES_SHOWN]) for kind in kinds}
    known = values[~np.isnan(seconds)] if np.isnan(seconds).any() else values
    ends = (known[0], known[-1]) if len(known) else (None, None)
    shortest, longest = (float(steps.min()), float(steps.max())) if steps.size else (0.0, 0.0)
    units = "" if values.dtype.kind in "MO" else str(coord.attributes.get("units", ""))
    return TimesReport(dims[0], *ends, calendar_of(values), units, shortest, longest, report, places)


# What the numbers are.


def _numbers(dataset: Dataset, progress: bool) -> dict[str, NumbersReport]:
    real = {n: a for n, a in dataset.arrays.items() if a.dtype.kind in "biuf"}
    share = min(1.0, SAMPLE_BYTES / max(1, dataset.nbytes)) if dataset.nbytes > WHOLE_BYTES else 1.0
    return {name: _numbers_of(name, array, share, progress) for name, array in real.items()}


def _numbers_of(name: str, array: Lazy, share: float, progress: bool) -> NumbersReport:
    def chosen(boxes: Sequence[Any]):
        if share < 1:
            count = max(1, round(share * len(boxes)))
            places = np.sort(np.random.default_rng(0).choice(len(boxes), count, replace=False))
            boxes = [boxes[i] for i in places]
        return track(boxes, f"numbers of {name}", progress)

    try:
        tally, _ = tallies(Work(name, array, kept=(), limit=math.inf), reader_threads(), chosen)
    except DataError as error:
        return NumbersReport(problem=str(error))
    count, total = int(tally.count.sum()), int(tally.total.sum())
    mean = float(tally.mean.sum()) if count else math.nan
    read = total / max(1, math.prod(array.shape))
    return NumbersReport(1 - count / total, float(tally.least.min()), float(tally.largest.max()), mean, read)


# What reading costs.


def _reading(dataset: Dataset, window: tuple[int, int] | None, batch: int, seconds: float) -> ReadingReport | str:
    try:
        data, left_out = trainable(dataset, window)
        rows = plan(data)
    except ValueError as error:
        # A window that does not fit is the caller's mistake; data without samples are a fact.
        if window is not None:
            raise
        return str(error)
    with warnings.catch_warnings():
        # That chunks are too large for the memory is said below.
        warnings.simplefilter("ignore", DataWarning)
        batches = Batches(data, min(batch, rows.rows), nan=True)
    single, shuffled = cost_of_rows(rows), cost_of_batches(rows, batches.order)
    better = suggestion(dataset.dims, data, rows, single, shuffled)
    if batches.memory > MEMORY:
        better = replace(better, reasons=(*better.reasons, f"batches need {batches.memory / 2**20:.0f} MiB"))
    tried = batches.memory <= TRIED_BYTES
    per_second, spent, problem = _measure(batches, seconds) if tried else (None, 0.0, "")
    return ReadingReport(
        batch=batches.size,
        window=(data.window.inputs, data.window.targets) if data.window else None,
        rows=rows.rows,
        left_out=left_out,
        single=single,
        shuffled=shuffled,
        kept=batches.order.pools == 1,
        memory=batches.memory,
        mixing_radius=batches.mixing_radius,
        per_second=per_second,
        seconds=spent,
        problem=problem,
        suggestion=better,
    )


def _measure(batches: Batches, seconds: float) -> tuple[float, float, str]:
    """Rows per second of the first epoch or a part of it, the time this took, and what ended it early."""
    jax.device_put(np.zeros(1)).block_until_ready()
    count, began, problem = 0, time.perf_counter(), ""
    stream = batches.from_step(0)
    try:
        while count < len(batches) and time.perf_counter() - began < seconds:
            next(stream)
            count += 1
    except DataError as error:
        problem = str(error)
    finally:
        spent = time.perf_counter() - began
        stream.close()
    return count * batches.size / spent, spent, problem
