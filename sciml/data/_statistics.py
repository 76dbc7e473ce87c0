"""Statistics of a data set in one pass: moments by variable and channel, weighted by area, without missing numbers."""

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any

import numpy as np

from .._progress import track
from .._save import write_atomically
from ._cf import Unpack, _seconds
from ._dataset import Dataset
from ._fetch import cache_folder
from ._handles import reader_threads
from ._lazy import Lazy, Mapped
from ._moments import Tally, Work, cell_areas, pairs, positions, tallies
from ._source import Source, digest

FORMAT = "sciml statistics 1"
LATITUDE_UNITS = {"degrees_north", "degree_north", "degree_n", "degrees_n", "degreen", "degreesn"}
# Of the span from the least number to the mean: where the logarithm of numbers down to zero turns over.
LOG_SHARE = 0.01
ROWS_SHOWN = 60


@dataclass(frozen=True, eq=False)
class Moments:
    """The moments of a variable, for each channel: arrays of the shape of its channel dimensions `dims`, of shape ()
    without any.

    `count` is of numbers, `missing` the share of NaN; `std` is that of the population; `rms` the root mean square.
    `difference_*` are of the changes in time, None where there are none. With a `log_offset` all but `count` and
    `missing` belong to `log(x + log_offset)`. `area` says whether cells count by their area.
    """

    dims: tuple[str, ...]
    count: np.ndarray
    missing: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    min: np.ndarray
    max: np.ndarray
    rms: np.ndarray
    difference_count: np.ndarray | None = None
    difference_mean: np.ndarray | None = None
    difference_std: np.ndarray | None = None
    log_offset: float | None = None
    area: bool = False
    units: str = ""


ARRAYS = tuple(f.name for f in fields(Moments) if f.name not in ("dims", "log_offset", "area", "units"))


@dataclass(frozen=True, eq=False, repr=False)
class Statistics:
    """The moments of the variables of a data set: `statistics["u"].mean`.

    `time` is the dimension of differences and `steps` the number of its entries that they span; `labels` are the names
    of channels by dimension.
    """

    variables: Mapping[str, Moments]
    time: str | None = None
    steps: int = 1
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Moments:
        """The moments of a variable. Raises KeyError for a name that does not exist."""
        if name not in self.variables:
            raise KeyError(f"no statistics of '{name}'; there are {', '.join(self.variables)}")
        return self.variables[name]

    def __repr__(self) -> str:
        step = f"; differences over {self.steps} of '{self.time}'" if self.time else ""
        heads = ("mean", "std", "min", "max", "rms", "std of change")
        rows: list[tuple[str, ...]] = [("", "count", "missing", *heads, "")]
        for name, m in self.variables.items():
            notes = [m.units] * bool(m.units) + ["by area"] * m.area
            notes += [] if m.log_offset is None else [f"log(x + {m.log_offset:.4g})"]
            for index in np.ndindex(m.count.shape):
                inside = ", ".join(self._label(d, i) for d, i in zip(m.dims, index))
                numbers = [m.mean, m.std, m.min, m.max, m.rms, m.difference_std]
                shown = ["-" if a is None else f"{a[index]:.6g}" for a in numbers]
                head = f"{name}[{inside}]" if inside else name
                rows.append((head, str(m.count[index]), f"{m.missing[index]:.2%}", *shown, ", ".join(notes)))
        left = len(rows) - 1 - ROWS_SHOWN
        rows = rows[: ROWS_SHOWN + 1]
        widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
        lines = [f"<sciml Statistics{step}>"]
        for row in rows:
            cells = [f"{c:>{w}}" for c, w in zip(row[1:-1], widths[1:-1])]
            lines.append("  ".join([f"{row[0]:<{widths[0]}}", *cells, row[-1]]).rstrip())
        return "\n".join([*lines, f"... and {left} more"] if left > 0 else lines)

    def _label(self, dim: str, number: int) -> str:
        return self.labels[dim][number] if dim in self.labels else str(number)

    def to_xarray(self):
        """An xarray Dataset of the same variables, on a dimension `statistic` and those of channels."""
        import xarray as xr

        data = {}
        for name, m in self.variables.items():
            absent = np.full(m.count.shape, np.nan)
            values = [getattr(m, key) for key in ARRAYS]
            table = np.stack([absent if v is None else v.astype(np.float64) for v in values])
            attributes: dict[str, Any] = {"area_weighted": int(m.area)} | ({"units": m.units} if m.units else {})
            if m.log_offset is not None:
                attributes["log_offset"] = m.log_offset
            data[name] = (("statistic", *m.dims), table, attributes)
        used = {d for m in self.variables.values() for d in m.dims}
        coords = {"statistic": list(ARRAYS)} | {d: list(v) for d, v in self.labels.items() if d in used}
        return xr.Dataset(data, coords=coords, attrs={"time": self.time or "", "steps": self.steps})

    def to_json(self) -> str:
        """All of it as text, exactly."""
        variables = {n: {f.name: _plain(getattr(m, f.name)) for f in fields(m)} for n, m in self.variables.items()}
        rest = {"time": self.time, "steps": self.steps, "labels": {d: list(v) for d, v in self.labels.items()}}
        return json.dumps({"format": FORMAT, **rest, "variables": variables}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> "Statistics":
        """What `to_json` wrote. Raises ValueError for anything else."""
        try:
            found = json.loads(text)
            if found["format"] != FORMAT:
                raise ValueError(f"its format is {found['format']!r}")
            variables = {n: _moments_of(m) for n, m in found["variables"].items()}
            labels = {d: tuple(v) for d, v in found["labels"].items()}
            return cls(variables, found["time"], found["steps"], labels)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not statistics of this package ({error}); compute them anew") from error


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


def _moments_of(found: Mapping[str, Any]) -> Moments:
    if set(found) != {f.name for f in fields(Moments)}:
        raise ValueError(f"fields {', '.join(found)}")
    kinds = {key: np.int64 if key.endswith("count") else np.float64 for key in ARRAYS}
    arrays = {k: None if found[k] is None else np.asarray(found[k], kind) for k, kind in kinds.items()}
    return Moments(**{**found, **arrays, "dims": tuple(found["dims"])})


def statistics(
    dataset: Dataset,
    *,
    log: str | Sequence[str] | Mapping[str, float] = (),
    area: bool | None = None,
    channels: Sequence[str] | None = None,
    difference: str | bool = True,
    steps: int | None = None,
    cache: bool = True,
    threads: int | None = None,
    progress: bool = True,
) -> Statistics:
    """Mean, standard deviation, extremes and changes in time of each variable, read once, chunk by chunk, in float64.

    Statistics for a normaliser belong to the training part: `train, test = ds.split(0.8, 0.2)`, `train.statistics()`.
    Windows and patches do not change them. Missing numbers (NaN) are left out and counted.

    - `log`: skewed variables, which are described by `log(x + offset)`; a mapping gives the offsets. Those not given
      are 0 for positive variables and `0.01 (mean - min) - min` for others; such variables are read twice.
    - `area`: whether cells of a grid count by their area, the difference of the sine of latitude between the middles to
      their neighbours (poles at most); by default if a coordinate on its own dimension is a latitude by its units
      (degrees_north), standard name or name (lat, latitude).
    - `channels`: dimensions whose entries have statistics of their own; by default those called `channel` or
      `..._channel`.
    - `difference`: the dimension of time, found by default; False for none. Changes are those over `steps` entries (by
      default the steps of windows, or 1), from file to file too, but not across gaps: steps of the coordinate that are
      not 0.5 to 1.5 usual ones, or entries that the selection leaves out.
    - `cache`: results are kept in `$SCIML_CACHE/statistics` (by default ~/.cache/sciml) under the fingerprint of the
      data and the options; but not those of sources without a fingerprint of their own, nor of functions of one's own
      (`map`), which may change without notice.
    - `threads`: readers; they do not change the result, bit for bit. Each holds up to 56 bytes for each number of a
      box, which has 2^20 numbers, or those of one chunk if it is larger.

    Raises ValueError for variables that are not real numbers, that have no entries, or a channel without any number,
    for unknown names, and where the logarithm does not exist; DataError for infinite numbers and for what cannot be
    read.
    """
    works, offsets = _plan(dataset, log, area, channels, difference, steps)
    labels = _labels(dataset, works)
    time = next((w.array.dims[w.time] for w in works if w.time is not None), None)
    path = None
    if cache and not _unknown(dataset):
        path = cache_folder().parent / "statistics" / f"{_key(dataset, works, offsets)}.json"
        with contextlib.suppress(OSError, ValueError):
            return Statistics.from_json(path.read_text(encoding="utf-8"))
    threads = threads or reader_threads()
    variables = {}
    for work in works:
        tracked = partial(track, text=f"statistics of {work.name}", shown=progress)
        if work.name in offsets:
            offset = offsets[work.name]
            work = replace(work, offset=_offset(work, threads, tracked) if offset is None else offset)
        values, changes = tallies(work, threads, tracked)
        variables[work.name] = _moments(work, values, changes, dataset, labels)
    lag = next((w.lag for w in works if w.time is not None), 1)
    found = Statistics(variables, time, lag, labels)
    if path is not None:
        # Statistics do not fail where the cache cannot be written.
        with contextlib.suppress(OSError):
            write_atomically(path, lambda file: file.write(found.to_json().encode()))
    return found


# What is asked.


def _plan(dataset, log, area, channels, difference, steps) -> tuple[list[Work], dict[str, float | None]]:
    names = (log,) if isinstance(log, str) else tuple(log)
    offsets = {n: log[n] if isinstance(log, Mapping) else None for n in names}
    for name in offsets:
        if name not in dataset.arrays:
            raise ValueError(f"log: no variable '{name}'; there are {', '.join(dataset.arrays) or 'none'}")
    for dim in channels or ():
        if dim not in dataset.dims:
            raise ValueError(f"channels: no dimension '{dim}'; there are {', '.join(dataset.dims) or 'none'}")
    for name, array in dataset.arrays.items():
        if array.dtype.kind not in "biuf":
            raise ValueError(f"'{name}' is not real numbers ({array.dtype}); leave it out, or map it to real numbers")
        if 0 in array.shape:
            raise ValueError(f"'{name}' has no entries, its shape is {array.shape}")
    time = _time(dataset, difference)
    window = dataset.window
    lag = steps if steps is not None else window.steps if window is not None and window.dim == time else 1
    if lag < 1:
        raise ValueError(f"steps must be above 0, got {steps}")
    weights = _cell_areas(dataset, area)
    works = []
    for name, array in dataset.arrays.items():
        own = channels if channels is not None else [d for d in array.dims if d == "channel" or d.endswith("_channel")]
        latitude = next((i for i, d in enumerate(array.dims) if d in weights and d not in own), None)
        work = Work(name, array, tuple(i for i, d in enumerate(array.dims) if d in own))
        if latitude is not None:
            work = replace(work, latitude=latitude, area=weights[array.dims[latitude]])
        if time in array.dims and time not in own:
            axis = array.dims.index(time)
            work = replace(work, time=axis, lag=lag, pairs=_pairs(dataset, array, axis, lag))
        works.append(work)
    return works, offsets


def _time(dataset: Dataset, difference: str | bool) -> str | None:
    if isinstance(difference, str):
        if difference not in dataset.dims:
            raise ValueError(f"difference: no dimension '{difference}'; there are {', '.join(dataset.dims) or 'none'}")
        return difference
    return next(iter(dataset._time_dims()), None) if difference else None


def _pairs(dataset: Dataset, array: Lazy, axis: int, lag: int) -> np.ndarray:
    coord = dataset.coords.get(array.dims[axis])
    known = coord is not None and coord.dims == (array.dims[axis],) and coord.values.dtype.kind in "MmOiuf"
    return pairs(positions(array, axis), _seconds(coord.values) if coord is not None and known else None, lag)


def _cell_areas(dataset: Dataset, area: bool | None) -> dict[str, np.ndarray]:
    """The weights of latitudes by dimension; their mean is 1. Raises ValueError where they are wanted and not known."""
    if area is False:
        return {}
    found = {}
    for name, coord in dataset.coords.items():
        units = str(coord.attributes.get("units", "")).lower().replace(" ", "_")
        known = units in LATITUDE_UNITS or coord.attributes.get("standard_name") == "latitude"
        if coord.dims != (name,) or not (known or name.lower() in ("lat", "latitude")):
            continue
        degrees = np.asarray(coord.values)
        if degrees.dtype.kind not in "iuf":
            continue
        degrees = np.degrees(degrees) if units.startswith("rad") else degrees.astype(np.float64)
        steps = np.diff(degrees)
        if np.abs(degrees).max(initial=0) <= 90.001 and (np.all(steps > 0) or np.all(steps < 0)):
            found[name] = cell_areas(degrees)
    if area and not found:
        raise ValueError(
            "area=True needs a one-dimensional coordinate of latitudes in degrees_north, rising or falling, on its own "
            f"dimension; the coordinates are {', '.join(dataset.coords) or 'none'}"
        )
    return found


def _labels(dataset: Dataset, works: list[Work]) -> dict[str, tuple[str, ...]]:
    dims = {w.array.dims[i] for w in works for i in w.kept}
    coords = {d: dataset.coords[d] for d in sorted(dims) if d in dataset.coords}
    return {d: tuple(str(v) for v in c.values) for d, c in coords.items() if c.dims == (d,)}


# What comes out.


def _offset(work: Work, threads: int, track: Callable) -> float:
    values, _ = tallies(replace(work, time=None), threads, track)
    least = float(np.nanmin(values.least)) if values.count.any() else 1.0
    if least > 0:
        return 0.0
    weights = values.weight / values.weight.sum()
    mean = float((values.mean * weights).sum())
    return (LOG_SHARE * (mean - least) or 1.0) - least


def _moments(work: Work, values: Tally, changes: Tally, dataset: Dataset, labels) -> Moments:
    dims = tuple(work.array.dims[i] for i in work.kept)
    shape = tuple(work.array.shape[i] for i in work.kept)
    empty = np.argwhere(values.count.reshape(shape) == 0)
    if len(empty):
        inside = ", ".join(f"{d} {labels[d][i] if d in labels else i}" for d, i in zip(dims, empty[0]))
        raise ValueError(f"'{work.name}'{f' ({inside})' if inside else ''}: all numbers are missing; leave it out")
    mean, std = _mean_and_std(values)
    results = {
        "count": values.count,
        "missing": 1 - values.count / values.total,
        "mean": mean,
        "std": std,
        "min": values.least,
        "max": values.largest,
        "rms": np.sqrt(mean**2 + std**2),
    }
    if changes.count.all():
        results["difference_count"] = changes.count
        results["difference_mean"], results["difference_std"] = _mean_and_std(changes)
    arrays = {k: np.asarray(v).reshape(shape) for k, v in results.items()}
    units = dataset.units.get(work.name, "")
    return Moments(dims=dims, **arrays, log_offset=work.offset, area=work.area is not None, units=units)


def _mean_and_std(tally: Tally) -> tuple[np.ndarray, np.ndarray]:
    """A constant has a standard deviation of exactly zero."""
    constant = tally.least == tally.largest
    weight = np.where(tally.weight > 0, tally.weight, 1)
    return np.where(constant, tally.least, tally.mean), np.where(constant, 0, np.sqrt(tally.squares / weight))


# The cache.


def _key(dataset: Dataset, works: list[Work], offsets: Mapping[str, float | None]) -> str:
    def mark(array: np.ndarray | None):
        return None if array is None else hashlib.sha256(array.tobytes()).hexdigest()[:16]

    options = [[w.name, w.kept, w.latitude, mark(w.area), w.time, w.lag, mark(w.pairs)] for w in works]
    data = replace(dataset, window=None, tiles=None).fingerprint()
    names = {n: str(c.values.tolist()) for n, c in dataset.coords.items() if c.values.dtype.kind in "US"}
    return digest([FORMAT, data, options, offsets, dataset.units, names])


def _unknown(dataset: Dataset) -> bool:
    """Whether the fingerprint may be the same for other numbers."""
    return any(type(s).fingerprint is Source.fingerprint for s in dataset.sources) or any(
        _has_own_function(a) for a in dataset.arrays.values()
    )


def _has_own_function(array: Lazy) -> bool:
    if isinstance(array, Mapped):
        kind = getattr(array.function, "__module__", type(array.function).__module__)
        # NumPy's functions are told by their names, those of CF by their numbers.
        if kind != Unpack.__module__ and not array.name.startswith("function numpy."):
            return True
    inner = getattr(array, "inner", None)
    parts = getattr(array, "parts", ()) if inner is None else (inner,)
    return any(_has_own_function(p) for p in parts)
