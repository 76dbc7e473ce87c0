"""A data set: named arrays on named dimensions, selected and shaped without reading or copying them."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from .._save import describe as describe_value
from ._cf import calendar_of, relabelled
from ._lazy import Dropped, Joined, Lazy, Mapped, Sliced, Stacked, Transposed, describe, lengths_by_file
from ._source import Source, digest

SAMPLE_NAMES = ("sample", "trajectory", "realization", "realisation", "ensemble", "member", "case", "number", "batch")
TIME_NAMES = ("time", "t", "valid_time", "step")
MANY_FILES = 64
# A longer recipe of an array is told by its hash.
RECIPE_CHARACTERS = 2000


@dataclass(frozen=True)
class Coordinate:
    """The positions along a dimension (or several), read and decoded: numbers, datetime64 or cftime dates."""

    dims: tuple[str, ...]
    values: np.ndarray
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Window:
    """How windows lie on the time axis: `inputs` frames, then `targets` frames, `steps` apart; each window begins
    `stride` frames after the one before.
    """

    dim: str
    inputs: int
    targets: int
    stride: int
    steps: int

    @property
    def span(self) -> int:
        """The number of frames from the first to the last of a window."""
        return (self.inputs + self.targets - 1) * self.steps + 1

    def count(self, frames: int) -> int:
        """How many windows fit into a series."""
        return max(0, (frames - self.span) // self.stride + 1)


@dataclass(frozen=True)
class Patches:
    """Tiles of the grid: for each dimension the starts and the length."""

    dims: tuple[str, ...]
    starts: tuple[tuple[int, ...], ...]
    lengths: tuple[int, ...]

    @property
    def count(self) -> int:
        """The number of tiles."""
        return int(np.prod([len(s) for s in self.starts]))


@dataclass(frozen=True)
class Dataset:
    """Named variables on named dimensions, not read yet. Each method gives a new data set and copies nothing.

    `arrays` are the variables by name, in the order in which batches have them; `coords` the coordinates, which are
    read; `attributes` those of the file.
    """

    arrays: Mapping[str, Lazy]
    coords: Mapping[str, Coordinate] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    sources: tuple[Source, ...] = ()
    window: Window | None = None
    tiles: Patches | None = None

    def __post_init__(self):
        sizes: dict[str, tuple[int, str]] = {}
        for name, array in self.arrays.items():
            for dim, size in zip(array.dims, array.shape):
                known, of = sizes.setdefault(dim, (size, name))
                if known != size:
                    raise ValueError(f"the dimension '{dim}' has {known} entries in '{of}' and {size} in '{name}'")

    @property
    def dims(self) -> dict[str, int]:
        """The sizes of the dimensions."""
        return {d: n for a in self.arrays.values() for d, n in zip(a.dims, a.shape)}

    @property
    def units(self) -> dict[str, str]:
        """The units of the variables that have any."""
        return {n: str(a.attributes["units"]) for n, a in self.arrays.items() if "units" in a.attributes}

    @property
    def nbytes(self) -> int:
        """The size of all variables in memory."""
        return sum(int(np.prod(a.shape, dtype=np.int64)) * a.dtype.itemsize for a in self.arrays.values())

    def __repr__(self) -> str:
        lines = [f"<sciml Dataset: {_bytes(self.nbytes)} in {len(self.sources)} source(s)>"]
        lines.append("dimensions: " + ", ".join(f"{d} {n}" for d, n in self.dims.items()))
        for name, coord in self.coords.items():
            if coord.values.size:
                span = f"{coord.values.flat[0]} ... {coord.values.flat[-1]}"
                lines.append(f"  coordinate {name} ({', '.join(coord.dims)})  {span}")
        for name, a in self.arrays.items():
            chunks = "" if max(a.chunks, default=1) == 1 else f"  chunks {a.chunks}"
            units = f"  [{self.units[name]}]" if name in self.units else ""
            lines.append(f"  {name} ({', '.join(a.dims)})  {a.shape} {a.dtype}{units}{chunks}")
        if self.window:
            lines.append(f"windows: {self.window}")
        return "\n".join(lines)

    # Selecting.

    def __getitem__(self, names: str | tuple[str, ...] | list[str]) -> "Dataset":
        """The named variables, in this order. Raises KeyError for a name that does not exist."""
        wanted = [names] if isinstance(names, str) else list(names)
        for name in wanted:
            if name not in self.arrays:
                raise KeyError(f"no variable '{name}'; {_nearest(name, list(self.arrays))}")
        return self._with({n: self.arrays[n] for n in wanted})

    def isel(self, **indices: int | np.integer | slice) -> "Dataset":
        """Parts of dimensions by number: `isel(time=slice(0, 100), level=0, latitude=slice(None, None, 2))`. A number
        drops the dimension. Raises ValueError for an unknown dimension and for a slice that selects nothing.
        """
        self._refuse_shaped("isel")
        arrays, coords = dict(self.arrays), dict(self.coords)
        for dim, index in indices.items():
            size = self._size(dim)
            chosen = _as_slice(dim, index, size)
            arrays = {n: _slice(a, dim, chosen, isinstance(index, slice)) for n, a in arrays.items()}
            coords = {n: c for n, c in _slice_coords(coords, dim, index)}
        return replace(self, arrays=arrays, coords=coords)

    def sel(self, **labels: Any) -> "Dataset":
        """Parts of dimensions by coordinate: `sel(time=slice("2001", "2005"), latitude=slice(60, 40))`, as xarray's
        `sel`. Raises KeyError for a label that is not there, ValueError for a selection that is no range.
        """
        import xarray as xr

        indices: dict[str, int | slice] = {}
        for dim, label in labels.items():
            size = self._size(dim)
            if dim not in self.coords or self.coords[dim].dims != (dim,):
                raise ValueError(f"sel: '{dim}' has no coordinate; select by number with isel({dim}=...)")
            axis = xr.DataArray(np.arange(size), dims=dim, coords={dim: self.coords[dim].values})
            found = axis.sel({dim: label}).values
            indices[dim] = int(found) if found.ndim == 0 else _range_of(dim, found)
        return self.isel(**indices)

    def split(
        self, *parts: float, by: str | None = None, gap: int = 0, seed: int | None = None
    ) -> tuple["Dataset", ...]:
        """Parts that share no sample: `split(0.8, 0.2)`, `split(1000)` (the first 1000 and the rest).

        - `parts`: counts (whole numbers) or fractions; if they leave something over, it is a last part.
        - `by`: the dimension, by default the samples; of a series, its time. `"file"` keeps files whole.
        - `gap`: entries left out between two parts, so that neighbours in time do not leak. Windows are made after
          the split, so none crosses it.
        - `seed`: deals whole chunks (or files) at random instead of in order, so that no chunk is read for two parts.

        Raises ValueError for parts that do not fit, and on windows or patches.
        """
        self._refuse_shaped("split")
        dim = self.sample_dim if by in (None, "file") else by
        size = self._size(dim)
        array = next(a for a in self.arrays.values() if dim in a.dims)
        axis = array.dims.index(dim)
        lengths = lengths_by_file(array, axis) if by == "file" else None
        counts = _counts(parts, len(lengths) if lengths is not None else size)
        if gap and (seed is not None or by == "file"):
            raise ValueError("split: gap needs parts in order, without seed and not by file")
        if lengths is None and seed is None:
            return tuple(self.isel(**{dim: s}) for s in _in_order(counts, gap))
        if lengths is None:
            lengths = [n for run in array.segments(axis) for n in _cut(run, array.chunks[axis])]
            counts = _counts(parts, len(lengths))
        order = np.arange(len(lengths)) if seed is None else np.random.default_rng(seed).permutation(len(lengths))
        starts = np.concatenate([[0], np.cumsum(lengths)])
        out, begin = [], 0
        for count in counts:
            chosen = np.sort(order[begin : begin + count])
            ranges = [slice(int(starts[i]), int(starts[i + 1])) for i in chosen]
            out.append(self._pick(dim, ranges))
            begin += count
        return tuple(out)

    # Shaping.

    def windows(
        self, inputs: int = 1, targets: int = 1, *, stride: int = 1, steps: int = 1, dim: str | None = None
    ) -> "Dataset":
        """Windows over a series or over trajectories: `inputs` frames to predict the `targets` frames after them.

        `steps` frames lie between two frames of a window (6 for six-hourly frames of an hourly series), `stride`
        between the beginnings of two windows. Windows are computed while batches are made and never stored: one
        contiguous read covers the frames of many. Batches are `(inputs, targets)` of shapes `(batch, inputs, ...)`;
        several variables of one shape are stacked, `(batch, inputs, channel, ...)`; variables without the time
        dimension stand between them.

        Raises ValueError where no window fits.
        """
        self._refuse_shaped("windows")
        dim = self.time_dim if dim is None else dim
        size = self._size(dim)
        if min(inputs, targets, stride, steps) < 1:
            raise ValueError(
                f"windows: inputs, targets, stride and steps must be above 0, got {(inputs, targets, stride, steps)}"
            )
        window = Window(dim, inputs, targets, stride, steps)
        if window.count(size) < 1:
            raise ValueError(f"windows: a window spans {window.span} entries of '{dim}', which has {size}")
        moving = [n for n, a in self.arrays.items() if dim in a.dims]
        shapes = {n: _other_dims(self.arrays[n], dim) for n in moving}
        if len(set(shapes.values())) > 1:
            raise ValueError(f"windows: variables on different dimensions, {shapes}; select those that belong together")
        return replace(self, window=window)

    def patches(self, stride: int | None = None, **sizes: int) -> "Dataset":
        """Tiles of the grid as samples of their own: `patches(x=32, y=32)`. They do not overlap unless `stride` (in
        grid points) is smaller than the tile; a last tile is moved inwards so that the grid is covered.

        Raises ValueError for a tile larger than the grid.
        """
        if self.tiles or not sizes:
            raise ValueError("patches: give the size of a tile for one or more dimensions, once")
        starts = []
        for dim, length in sizes.items():
            size = self._size(dim)
            if not 0 < length <= size:
                raise ValueError(f"patches: a tile of {length} does not fit into '{dim}' of {size}")
            begin = list(range(0, size - length + 1, stride or length))
            starts.append(tuple(begin if begin[-1] == size - length else [*begin, size - length]))
        return replace(self, tiles=Patches(tuple(sizes), tuple(starts), tuple(sizes.values())))

    def map(self, **functions: Callable[[np.ndarray], np.ndarray]) -> "Dataset":
        """A function of each number of a variable, applied as it is read: `map(pr=lambda p: p * 86400)`, or a type:
        `map(a=np.float32)`. The result has the type that the function gives.
        """
        arrays = dict(self.arrays)
        for name, function in functions.items():
            if name not in arrays:
                raise KeyError(f"map: no variable '{name}'; {_nearest(name, list(arrays))}")
            array = arrays[name]
            dtype = np.asarray(function(np.ones(1, array.dtype))).dtype
            applied = partial(_applied, function)
            arrays[name] = Mapped(array, applied, dtype, describe_value(function), array.attributes)
        return self._with(arrays)

    def transpose(self, *dims: Any) -> "Dataset":
        """Dimensions in another order, as xarray's: each variable has those of `dims` that are its own, in this order;
        `...` stands for all others. Channels from last to first: `data.transpose("sample", "channel", ...)`.

        Raises ValueError for a dimension that is unknown, twice or missing without `...`.
        """
        self._refuse_shaped("transpose")
        named = [d for d in dims if d is not ...]
        for dim in named:
            self._size(dim)
        others = [d for d in self.dims if d not in named]
        if len(set(named)) < len(named) or dims.count(...) > 1 or (others and ... not in dims):
            raise ValueError(
                f"transpose: each dimension once, or ... for the others; got {dims}, there are {', '.join(self.dims)}"
            )
        place = {d: i for i, d in enumerate(dims)}

        def turned(array: Lazy) -> Lazy:
            order = tuple(sorted(array.dims, key=lambda d: place.get(d, place.get(..., 0))))
            return array if order == array.dims else Transposed(array, order)

        return self._with({n: turned(a) for n, a in self.arrays.items()})

    def rename(self, **names: str) -> "Dataset":
        """Other names for variables and dimensions: `rename(dim_1="time", tensor="u")`. A dimension named `time` is
        that of windows, one named `sample` that of samples.

        Raises KeyError for a name that does not exist, ValueError for one that is taken.
        """
        self._refuse_shaped("rename")
        known = [*self.arrays, *self.dims]
        for old, new in names.items():
            if old not in known:
                raise KeyError(f"rename: no variable or dimension '{old}'; {_nearest(old, known)}")
        for group in (list(self.arrays), list(self.dims)):
            new = [names.get(n, n) for n in group]
            twice = next((n for n in new if new.count(n) > 1), None)
            if twice is not None:
                raise ValueError(f"rename: '{twice}' is taken already")

        def called(items: Sequence[str]) -> tuple[str, ...]:
            return tuple(str(names.get(i, i)) for i in items)

        arrays = {
            names.get(n, n): a if called(a.dims) == a.dims else relabelled(a, called(a.dims))
            for n, a in self.arrays.items()
        }
        coords = {names.get(n, n): replace(c, dims=called(c.dims)) for n, c in self.coords.items()}
        return replace(self, arrays=arrays, coords=coords)

    def stack(self, **groups: Sequence[str]) -> "Dataset":
        """Several variables of one shape as one with channels: `stack(state=["u", "v"])` is
        `state(..., channel, grid)`.

        The channels stand before the dimensions of the grid, after samples and time. Raises ValueError where shapes or
        dimensions differ.
        """
        arrays = dict(self.arrays)
        coords = dict(self.coords)
        for new, names in groups.items():
            parts = tuple(self[list(names)].arrays.values())
            if len({(p.dims, p.shape) for p in parts}) > 1:
                raise ValueError(f"stack: {', '.join(names)} differ in shape: {[(p.dims, p.shape) for p in parts]}")
            first = min((i for i, n in enumerate(arrays) if n in names), default=len(arrays))
            rest = [(n, a) for n, a in arrays.items() if n not in names]
            dim = "channel" if len(groups) == 1 else f"{new}_channel"
            axis = sum(d in (self.sample_dim, *self._time_dims()) for d in parts[0].dims)
            arrays = dict([*rest[:first], (new, Stacked(parts, axis, dim)), *rest[first:]])
            coords[dim] = Coordinate((dim,), np.array(list(names)))
        return replace(self, arrays=arrays, coords=coords)

    # Reading.

    def read(self) -> dict[str, np.ndarray]:
        """All variables as arrays in memory."""
        self._refuse_shaped("read")
        return {n: a.read() for n, a in self.arrays.items()}

    def samples(self) -> tuple[np.ndarray, ...]:
        """All samples in order as arrays in memory, as one batch of them all would be: those of windows and patches
        too, missing numbers among them.
        """
        if self.window is None and self.tiles is None:
            return tuple(self.read().values())
        rows = self.batches(1, shuffle=False).order.rows
        (batch,) = self.batches(rows, shuffle=False, nan=True)
        return tuple(map(np.asarray, batch))

    def to_xarray(self):
        """An xarray Dataset, with coordinates and attributes, in memory."""
        import xarray as xr

        data = {n: (a.dims, v, dict(a.attributes)) for (n, a), v in zip(self.arrays.items(), self.read().values())}
        coords = {n: (c.dims, c.values, dict(c.attributes)) for n, c in self.coords.items()}
        return xr.Dataset(data, coords=coords, attrs=dict(self.attributes))

    def batches(self, size: int, **options: Any):
        """Shuffled batches of this data set, on the devices: see `sciml.data.Batches` for the options."""
        from ._batches import Batches

        return Batches(self, size, **options)

    def statistics(self, **options: Any):
        """Mean, standard deviation and more of each variable, in one pass: see `sciml.data.statistics`."""
        from ._statistics import statistics

        return statistics(self, **options)

    def fingerprint(self) -> dict[str, Any]:
        """What tells this selection of these files from any other, as JSON."""
        names = {id(s): f"{i}" for i, s in enumerate(self.sources)}
        marks = [s.fingerprint() for s in self.sources]
        files = {f"{i} {_label(s)}": m for i, (s, m) in enumerate(zip(self.sources, marks))}
        return {
            "files": files if len(files) <= MANY_FILES else {f"{len(files)} files": digest(files)},
            "variables": {n: _short(describe(a, names)) for n, a in self.arrays.items()},
            "windows": describe_value(self.window),
            "patches": describe_value(self.tiles),
        }

    # Which dimension is which.

    @property
    def sample_dim(self) -> str:
        """The dimension of independent samples: one of the usual names, else the first of the first variable."""
        dims = [d for a in self.arrays.values() for d in a.dims]
        if not dims:
            raise ValueError("the data set has no dimensions")
        return next((d for d in dims if d in SAMPLE_NAMES), dims[0])

    @property
    def time_dim(self) -> str:
        """The dimension of time: by its coordinate (dates, CF `axis` or units), else by name.

        Raises ValueError where there is none.
        """
        found = self._time_dims()
        if not found:
            raise ValueError(f"which dimension is time? Give windows(dim=...), one of {', '.join(self.dims)}")
        return found[0]

    def _time_dims(self) -> list[str]:
        def is_time(dim):
            coord = self.coords.get(dim)
            return coord is not None and (
                calendar_of(coord.values) != ""
                or coord.attributes.get("axis") == "T"
                or coord.attributes.get("standard_name") == "time"
            )

        return [d for d in self.dims if is_time(d)] or [d for d in TIME_NAMES if d in self.dims]

    def _size(self, dim: str) -> int:
        if dim not in self.dims:
            raise ValueError(f"no dimension '{dim}'; {_nearest(dim, list(self.dims))}")
        return self.dims[dim]

    def _with(self, arrays: Mapping[str, Lazy]) -> "Dataset":
        dims = {d for a in arrays.values() for d in a.dims}
        coords = {n: c for n, c in self.coords.items() if set(c.dims) <= dims}
        return replace(self, arrays=dict(arrays), coords=coords)

    def _pick(self, dim: str, ranges: list[slice]) -> "Dataset":
        if not ranges:
            raise ValueError(f"split: a part would be empty; '{dim}' has too few chunks or files to deal")
        parts = [self.isel(**{dim: r}) for r in ranges]

        def join(name):
            arrays = tuple(p.arrays[name] for p in parts)
            return Joined(arrays, arrays[0].dims.index(dim)) if dim in arrays[0].dims else arrays[0]

        def join_coord(name, coord):
            if dim not in coord.dims:
                return coord
            values = np.concatenate([p.coords[name].values for p in parts], axis=coord.dims.index(dim))
            return replace(coord, values=values)

        coords = {n: join_coord(n, c) for n, c in self.coords.items()}
        return replace(self, arrays={n: join(n) for n in self.arrays}, coords=coords)

    def _refuse_shaped(self, what: str) -> None:
        if self.window or self.tiles:
            raise ValueError(f"{what}: do this before windows and patches, which are the last step before batches")


def _slice(array: Lazy, dim: str, chosen: slice, keep: bool) -> Lazy:
    if dim not in array.dims:
        return array
    axis = array.dims.index(dim)
    if isinstance(array, Sliced):
        # One slice of a slice, so that a long chain of selections stays one node.
        old = array.slices[axis]
        new = slice(
            old.start + chosen.start * old.step, old.start + (chosen.stop - 1) * old.step + 1, old.step * chosen.step
        )
        sliced: Lazy = Sliced(array.inner, (*array.slices[:axis], new, *array.slices[axis + 1 :]))
    else:
        whole = [slice(0, n, 1) for n in array.shape]
        sliced = Sliced(array, (*whole[:axis], chosen, *whole[axis + 1 :]))
    return sliced if keep else Dropped(sliced, axis)


def _slice_coords(coords, dim, index):
    for name, coord in coords.items():
        if dim not in coord.dims:
            yield name, coord
            continue
        axis = coord.dims.index(dim)
        values = np.asarray(coord.values[(*(slice(None),) * axis, index)])
        if isinstance(index, slice):
            yield name, replace(coord, values=values)
        else:
            dims = (*coord.dims[:axis], *coord.dims[axis + 1 :])
            yield name, Coordinate(dims, values, coord.attributes)


def _as_slice(dim: str, index: int | np.integer | slice, size: int) -> slice:
    if isinstance(index, int | np.integer):
        if not -size <= index < size:
            raise ValueError(f"isel: '{dim}' has {size} entries, there is no number {index}")
        start = int(index) % size
        return slice(start, start + 1, 1)
    if not isinstance(index, slice):
        raise TypeError(f"isel: give a number or a slice for '{dim}', got {type(index).__name__}")
    start, stop, step = index.indices(size)
    if step < 0:
        raise ValueError(f"isel: the step for '{dim}' must be positive, got {step}")
    if stop <= start:
        raise ValueError(f"isel: {index} selects nothing of '{dim}' with {size} entries")
    return slice(start, stop, step)


def _range_of(dim: str, found: np.ndarray) -> slice:
    if not found.size:
        raise ValueError(f"sel: nothing of '{dim}' is selected; its coordinate may run the other way")
    steps = np.unique(np.diff(found))
    if len(steps) > 1 or (len(steps) and steps[0] < 1):
        raise ValueError(f"sel: the selection along '{dim}' is no range with a constant step")
    return slice(int(found[0]), int(found[-1]) + 1, int(steps[0]) if len(steps) else 1)


def _counts(parts: tuple[float, ...], size: int) -> list[int]:
    if not parts or any(not p > 0 for p in parts):
        raise ValueError(f"split: give positive counts or fractions, got {parts}")
    fractions = all(p <= 1 for p in parts) and not all(isinstance(p, int | np.integer) for p in parts)
    if fractions:
        if sum(parts) > 1 + 1e-9:
            raise ValueError(f"split: the fractions {parts} add up to more than 1")
        edges = [round(size * float(f)) for f in np.cumsum(parts)]
    else:
        if any(p != int(p) for p in parts):
            raise ValueError(f"split: give counts or fractions, not both, got {parts}")
        edges = [int(c) for c in np.cumsum(parts)]
        if edges[-1] > size:
            raise ValueError(f"split: the parts {parts} need {edges[-1]} entries, there are {size}")
    counts = np.diff([0, *edges]).tolist()
    if edges[-1] < size and (not fractions or sum(parts) < 1 - 1e-9):
        counts.append(size - edges[-1])
    if min(counts) < 1:
        raise ValueError(f"split: a part of {parts} would be empty; there are {size} entries")
    return counts


def _in_order(counts: list[int], gap: int) -> list[slice]:
    out, begin = [], 0
    for count in counts:
        start = begin + (gap if begin else 0)
        if start >= begin + count:
            raise ValueError(f"split: a gap of {gap} leaves nothing of a part of {count}")
        out.append(slice(start, begin + count))
        begin += count
    return out


def _cut(length: int, chunk: int) -> list[int]:
    return [min(chunk, length - i) for i in range(0, length, chunk)]


def _other_dims(array: Lazy, dim: str) -> tuple:
    return tuple((d, n) for d, n in zip(array.dims, array.shape) if d != dim)


def _applied(function: Callable, values: np.ndarray) -> np.ndarray:
    return np.asarray(function(values))


def _short(recipe: Any) -> Any:
    return recipe if len(json.dumps(recipe)) <= RECIPE_CHARACTERS else digest(recipe)


def _label(source: Source) -> str:
    return str(getattr(source, "name", type(source).__name__))


def _nearest(name: str, known: list[str]) -> str:
    import difflib

    close = difflib.get_close_matches(name, known, n=3)
    return f"did you mean {' or '.join(map(repr, close))}?" if close else f"there are {', '.join(known) or 'none'}"


def _bytes(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} TiB"
