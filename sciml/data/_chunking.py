"""What reading costs: the bytes that are decoded for each byte that is used, and lengths of chunks that keep it low."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ._dataset import Dataset
from ._lazy import Dropped, Lazy, Sliced, Stored
from ._plan import Feed, Plan, plan
from ._shuffle import Order
from ._source import Variable

LEAST_BYTES = 16 * 1024
MOST_BYTES = 16 * 1024 * 1024
# Of a suggested chunk, unless a frame is larger; and the number of chunks up to which they may be smaller.
AIM_BYTES = 2**20
MOST_CHUNKS = 2**20
# Small chunks are no trouble where there are fewer.
MANY = 1000
# Bytes decoded for each byte used, up to which single rows are read well.
LIMIT = 2.0
# Rows and pools that are looked at where there are more.
ROWS, POOLS = 2048, 32

Length = Mapping[str, int]


@dataclass(frozen=True)
class Cost:
    """The bytes decoded for each byte of the rows that come out, and how often an epoch decodes each number."""

    amplification: float
    per_epoch: float


def trainable(dataset: Dataset, window: tuple[int, int] | None = None) -> tuple[Dataset, tuple[str, ...]]:
    """The variables that can be batched together, in windows of (inputs, targets) frames if these are given, and the
    names of the others: those without samples, or of another shape than the largest ones that move.

    Raises ValueError where there is no time axis or no window fits.
    """
    if dataset.window or dataset.tiles:
        return dataset, ()
    if window is None:
        dim = dataset.sample_dim
        chosen = [n for n, a in dataset.arrays.items() if dim in a.dims]
    else:
        dim = dataset.time_dim
        sizes: dict[tuple, int] = {}
        shapes = {n: _others(a, dim) for n, a in dataset.arrays.items() if dim in a.dims}
        for name, shape in shapes.items():
            sizes[shape] = sizes.get(shape, 0) + nbytes(dataset.arrays[name])
        largest = max(sizes, key=lambda shape: sizes[shape])
        chosen = [n for n in dataset.arrays if shapes.get(n, largest) == largest]
    left_out = tuple(n for n in dataset.arrays if n not in chosen)
    selected = dataset[chosen] if left_out else dataset
    return (selected if window is None else selected.windows(*window)), left_out


def _others(array: Lazy, dim: str) -> tuple:
    return tuple((d, n) for d, n in zip(array.dims, array.shape) if d != dim)


def nbytes(array: Lazy) -> int:
    """The size of an array in memory."""
    return math.prod(array.shape) * array.dtype.itemsize


# Counting chunks.


@dataclass(frozen=True)
class Grid:
    """The chunks of an array: of the file, or of the given lengths by dimension."""

    array: Lazy
    lengths: Length | None = None

    @property
    def chunk_bytes(self) -> int:
        """What is decoded at once."""
        if self.lengths is None:
            return math.prod(self.array.chunks) * self.array.dtype.itemsize * _unused(self.array)
        return math.prod(self._length(i) for i in range(len(self.array.shape))) * self.array.dtype.itemsize

    def _length(self, axis: int) -> int:
        known = {} if self.lengths is None else self.lengths
        return min(known.get(self.array.dims[axis], self.array.chunks[axis]), self.array.shape[axis])

    @cached_property
    def _starts(self) -> dict[int, np.ndarray]:
        """Where chunks begin along each axis on which they are longer than one."""
        found = {}
        for axis, size in enumerate(self.array.shape):
            length = self.array.chunks[axis] if self.lengths is None else self._length(axis)
            if length == 1:
                continue
            segments = self.array.segments(axis) if self.lengths is None else [size]
            begins = np.cumsum([0, *segments[:-1]])
            found[axis] = np.concatenate([np.arange(b, b + n, length) for b, n in zip(begins, segments)])
        return found

    def number(self, axis: int, places: np.ndarray) -> np.ndarray:
        """The numbers, along an axis, of the chunks that hold these entries."""
        return np.searchsorted(self._starts[axis], places, side="right") if axis in self._starts else places

    def touched(self, axis: int, starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
        """How many chunks ranges along an axis lie in."""
        return self.number(axis, stops - 1) - self.number(axis, starts) + 1

    def count(self, axes: Iterable[int]) -> int:
        """How many chunks all entries of some axes lie in."""
        return math.prod(int(self.touched(a, np.zeros(1, int), np.array([self.array.shape[a]]))[0]) for a in axes)


def _unused(array: Lazy) -> int:
    """How many numbers are decoded for each one of a chunk of a selection: of steps, and of a dimension of which one
    entry is taken.
    """
    inner, factor = _inner(array), 1
    if isinstance(array, Sliced):
        factor = math.prod(s.step for s in array.slices)
    elif isinstance(array, Dropped):
        factor = array.inner.chunks[array.axis]
    return factor * (1 if inner is None else _unused(inner))


def _inner(array: Lazy) -> Lazy | None:
    parts = getattr(array, "parts", ())
    return parts[0] if parts else getattr(array, "inner", None)


def stored_in(array: Lazy) -> Variable | None:
    """The first variable of a source that an array is made of; None where it is made of something else."""
    inner = _inner(array)
    if inner is not None:
        return stored_in(inner)
    return array.source.variables()[array.name] if isinstance(array, Stored) else None


def _moving(rows: Plan) -> list[tuple[int, Feed]]:
    """The feeds that are not the same in all rows, which are read once and kept."""
    return [(i, f) for i, f in enumerate(rows.feeds) if f.lead]


def _row_bytes(rows: Plan) -> int:
    moving = {i: f for i, f in _moving(rows)}
    outputs = [o for o in rows.outputs if o.feed in moving]
    return sum(math.prod(rows.shape(o, 1)) * moving[o.feed].array.dtype.itemsize for o in outputs)


def _cost(rows: Plan, decoded_per_row: float) -> Cost:
    stored = sum(nbytes(f.array) for _, f in _moving(rows))
    return Cost(decoded_per_row / max(1, _row_bytes(rows)), decoded_per_row * rows.rows / max(1, stored))


def cost_of_rows(rows: Plan, lengths: Length | None = None) -> Cost:
    """Of reading rows one by one at random, keeping nothing; with chunks of the file or of other lengths. Where there
    are many rows, of a random sample.
    """
    some = rows.rows > ROWS
    chosen = np.random.default_rng(0).integers(rows.rows, size=ROWS) if some else np.arange(rows.rows)
    decoded = sum(_decoded_by_rows(rows, i, Grid(f.array, lengths), chosen) for i, f in _moving(rows))
    return _cost(rows, decoded / len(chosen))


def _decoded_by_rows(rows: Plan, number: int, grid: Grid, chosen: np.ndarray) -> int:
    feed = rows.feeds[number]
    count = np.ones(len(chosen), np.int64)
    if feed.by_time:
        offsets = [o.offsets for o in rows.outputs if o.feed == number and o.offsets is not None]
        firsts = chosen // rows.tiles % rows.windows * rows.stride
        frames = firsts[:, None] + np.sort(np.concatenate(offsets))
        count += (np.diff(grid.number(feed.lead - 1, frames), axis=1) != 0).sum(axis=1)
    cut = [feed.array.dims.index(d) for d in rows.tile_dims]
    for i, axis in enumerate(cut):
        places = np.unravel_index(chosen % rows.tiles, [len(s) for s in rows.tile_starts])[i]
        starts = np.asarray(rows.tile_starts[i])[places]
        count *= grid.touched(axis, starts, starts + rows.tile_lengths[i])
    rest = grid.count(a for a in range(feed.lead, len(grid.array.shape)) if a not in cut)
    return int(count.sum()) * rest * grid.chunk_bytes


def cost_of_batches(rows: Plan, order: Order) -> Cost:
    """Of shuffled batches; of an epoch with many pools, of some of them."""
    pools = np.unique(np.linspace(0, order.pools - 1, min(POOLS, order.pools)).astype(int))
    decoded, count = 0, 0
    for pool in pools.tolist():
        pieces = order.pieces(0, pool)
        rects = rows.rects(pieces)
        count += int((pieces[:, 1] - pieces[:, 0]).sum())
        for _, feed in _moving(rows):
            grid = Grid(feed.array)
            boxes = np.ones(len(rects.rows), np.int64)
            if feed.by_sample:
                boxes = boxes * grid.touched(0, *rects.samples.T)
            if feed.by_time:
                low, high = rects.windows.T
                start = low * rows.stride
                boxes = boxes * grid.touched(feed.lead - 1, start, start + rows.reach(high - low))
            decoded += int(boxes.sum()) * grid.count(range(feed.lead, len(feed.array.shape))) * grid.chunk_bytes
    return _cost(rows, decoded / max(1, count))


# Suggesting chunks.


@dataclass(frozen=True)
class Suggestion:
    """Lengths of chunks by dimension, what makes those of the file worse (nothing, if they will do), and what single
    rows cost with the new ones.
    """

    chunks: Length
    reasons: tuple[str, ...]
    rows: Cost
    chunk_bytes: int


def suggest_chunks(dataset: Dataset, window: tuple[int, int] | None = None) -> dict[str, int]:
    """Lengths of chunks, for all dimensions, that suit reading rows (samples, or windows of (inputs, targets) frames)
    at random and in shuffled batches.

    The grid is whole, unless a frame has more than 16 MiB. Along samples, or along time for windows, chunks are as long
    as keeps what a single row decodes within twice its size, but not below 16 KiB (more where that would make over a
    million chunks), nor above 1 MiB. Raises ValueError as `Dataset.windows`.
    """
    data, _ = trainable(dataset, window)
    return _lengths(dataset.dims, data, plan(data))


def _lengths(dims: Length, data: Dataset, rows: Plan) -> dict[str, int]:
    lead = data.window.dim if data.window else data.sample_dim
    array = main_array(data)
    chunks = dict(dims) | dict(zip(rows.tile_dims, rows.tile_lengths))
    first = rows.feeds[0]
    sample = first.array.dims[0] if data.window and first.by_sample else None
    chunks |= {lead: 1} | ({} if sample is None else {sample: 1})
    frame = _cut_frame(array, chunks, (lead, sample))
    least = min(AIM_BYTES, max(LEAST_BYTES, nbytes(array) // MOST_CHUNKS))
    # Chunks of c frames decode c + span - 1 frames on the average.
    used = 1 if data.window is None else data.window.inputs + data.window.targets
    best = int(LIMIT * used) - rows.span + 1
    wanted = max(1, best, -(-least // frame))
    chunks[lead] = min(wanted, dims[lead], max(1, AIM_BYTES // frame))
    if sample is not None and chunks[lead] * frame < least:
        chunks[sample] = min(dims[sample], -(-least // (chunks[lead] * frame)))
    return chunks


def main_array(data: Dataset) -> Lazy:
    """The largest of the variables that are read for each row."""
    lead = data.window.dim if data.window else data.sample_dim
    return max((a for a in data.arrays.values() if lead in a.dims), key=nbytes)


def _cut_frame(array: Lazy, chunks: dict[str, int], others: tuple) -> int:
    """Cuts the first dimensions of frames that are too large; returns the bytes of what is left."""
    frame = math.prod(chunks[d] for d in array.dims) * array.dtype.itemsize
    for dim in array.dims:
        if frame <= MOST_BYTES:
            break
        if dim not in others:
            rest = frame // chunks[dim]
            chunks[dim] = max(1, AIM_BYTES // rest)
            frame = rest * chunks[dim]
    return frame


def suggestion(dims: Length, data: Dataset, rows: Plan, now: Cost, shuffled: Cost) -> Suggestion:
    """Better chunks than those of the file, of all its dimensions, and why; `data` are the variables that make rows,
    `now` and `shuffled` what single rows and batches cost.
    """
    chunks = _lengths(dims, data, rows)
    array, then = main_array(data), cost_of_rows(rows, chunks)
    proposed = Grid(array, chunks).chunk_bytes
    # A chunk of the file may be longer than the array.
    largest = max(_bytes_of_chunk(a) for a in data.arrays.values())
    present = _bytes_of_chunk(array)
    reasons = []
    if now.amplification > LIMIT and now.amplification > 2 * then.amplification:
        others = "; sciml's shuffled batches do not" if shuffled.per_epoch <= LIMIT else ""
        reasons.append(f"single rows decode {short(now.amplification)} times what they use{others}")
    if shuffled.per_epoch > LIMIT:
        reasons.append(f"an epoch of shuffled batches decodes the file {short(shuffled.per_epoch)} times")
    if 0 < present < min(LEAST_BYTES, nbytes(array) / MANY) and proposed > present:
        reasons.append(f"chunks of {present / 1024:.3g} KiB are small: each of {nbytes(array) // present} costs a call")
    if largest > MOST_BYTES:
        reasons.append(f"chunks of {largest / 2**20:.3g} MiB are large: each is decoded whole, by every reader")
    return Suggestion(chunks, tuple(reasons), then, proposed)


def short(number: float) -> str:
    """Three digits."""
    return f"{number:.0f}" if number >= 100 else f"{number:.3g}"


def _bytes_of_chunk(array: Lazy) -> int:
    """The size of a chunk in memory; 0 where any part can be read."""
    variable = stored_in(array)
    cut = variable is not None and variable.chunks is not None
    return math.prod(array.chunks) * array.dtype.itemsize if cut else 0
