"""What is read for a run of rows, and where in it the frames of each lie: the geometry of samples, windows, patches."""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import jax
import numpy as np

from ._dataset import Dataset
from ._lazy import Lazy, Sliced, Transposed
from ._source import READ_BYTES

# A trajectory larger than this is cut in time, unless its chunks forbid it.
TRAJECTORY_BYTES = 4 * 1024 * 1024


class Feed(NamedTuple):
    """A variable as it is read: dimensions are samples and time (where it has them), then the grid."""

    name: str
    array: Lazy
    by_sample: bool
    by_time: bool

    @property
    def lead(self) -> int:
        """How many leading axes are not part of a frame."""
        return self.by_sample + self.by_time

    @property
    def frame(self) -> tuple[int, ...]:
        """The shape of one frame."""
        return self.array.shape[self.lead :]

    @property
    def dtype(self) -> np.dtype:
        """The type in batches: JAX's own, so that nothing is converted twice."""
        return np.dtype(jax.dtypes.canonicalize_dtype(self.array.dtype))

    @property
    def frame_bytes(self) -> int:
        """The size of one frame in memory."""
        return math.prod(self.frame) * self.dtype.itemsize


class Output(NamedTuple):
    """An array of the batch: of which feed, and which frames after the row's first; None where a row is one frame."""

    name: str
    feed: int
    offsets: np.ndarray | None


class Rects(NamedTuple):
    """Boxes of (sample, window) that are read at once, and the runs of rows that each serves."""

    samples: np.ndarray  # (rects, 2) start and stop
    windows: np.ndarray  # (rects, 2)
    rows: np.ndarray  # (rects, 2)


@dataclass(frozen=True)
class Plan:
    """How rows are numbered: `((sample * windows) + window) * tiles + tile`."""

    feeds: tuple[Feed, ...]
    outputs: tuple[Output, ...]
    samples: int
    windows: int
    stride: int
    span: int
    tiles: int
    tile_starts: tuple[tuple[int, ...], ...]
    tile_dims: tuple[str, ...]
    tile_lengths: tuple[int, ...]

    @property
    def rows(self) -> int:
        """The number of rows of an epoch."""
        return self.samples * self.windows * self.tiles

    @cached_property
    def whole(self) -> bool:
        """Whether blocks are whole trajectories (or samples), rather than parts of them in time."""
        if self.windows == 1:
            return True
        moving = [f for f in self.feeds if f.by_time]
        one = sum(self.reach(self.windows) * f.frame_bytes for f in moving)
        shared = any(f.by_sample and f.array.chunks[0] > 1 for f in moving)
        in_one_chunk = any(f.array.chunks[f.lead - 1] >= f.array.shape[f.lead - 1] for f in moving)
        return one <= TRAJECTORY_BYTES or shared or in_one_chunk

    def reach(self, windows: Any) -> Any:
        """How many frames that many windows after one another cover."""
        return (windows - 1) * self.stride + self.span

    @property
    def unit(self) -> int:
        """Rows that cannot be read apart: those of a chunk of samples."""
        chunk = max([f.array.chunks[0] for f in self.feeds if f.by_sample], default=1)
        return min(chunk, self.samples) * self.windows * self.tiles if self.whole else 1

    def block(self, most: int) -> int:
        """Rows that are read at once, if possible not above `most`: a chunk of samples or of time, or several."""
        if self.whole:
            one = sum(f.frame_bytes * self._frames_of_sample(f) for f in self.feeds if f.by_sample)
            rows = max(1, READ_BYTES // max(one, 1)) * self.windows * self.tiles
            rows = min(rows, most, self.rows)
            return max(self.unit, rows // self.unit * self.unit)
        chunk = max(f.array.chunks[f.lead - 1] for f in self.feeds if f.by_time)
        frame = sum(f.frame_bytes for f in self.feeds if f.by_time)
        # Long enough that what two neighbours both read, the span and a chunk at the edge, is a small part.
        frames = max(4 * chunk, 8 * self.span, READ_BYTES // max(frame, 1))
        windows = min(self.windows, frames // self.stride)
        # A small pool is worth more than few bytes read twice, down to some spans.
        least = min(windows, -(-2 * self.span // self.stride))
        return max(1, least, min(windows, most // self.tiles)) * self.tiles

    @cached_property
    def segments(self) -> tuple[int, ...]:
        """The runs of rows in which chunks follow each other without a gap."""
        feed = next((f for f in self.feeds if f.by_sample), None)
        if not self.whole or feed is None:
            return (self.rows,)
        return tuple(n * self.windows * self.tiles for n in feed.array.segments(0))

    def _frames_of_sample(self, feed: Feed) -> int:
        return self.reach(self.windows) if feed.by_time else 1

    def rects(self, pieces: np.ndarray) -> Rects:
        """The boxes that hold the rows of some pieces, in their order."""
        found: list[tuple[int, ...]] = []
        per = self.windows * self.tiles
        for start, stop in pieces.tolist():
            first, last = start // per, (stop - 1) // per
            if first == last:
                low, high = start % per // self.tiles, -(-(stop - first * per) // self.tiles)
                found.append((first, first + 1, low, high, start, stop))
            elif self.whole:
                found.append((first, last + 1, 0, self.windows, start, stop))
            else:
                for sample in range(first, last + 1):
                    begin, end = max(start, sample * per), min(stop, (sample + 1) * per)
                    low, high = (begin - sample * per) // self.tiles, -(-(end - sample * per) // self.tiles)
                    found.append((sample, sample + 1, low, high, begin, end))
        table = np.array(found, np.int64).reshape(-1, 6)
        return Rects(table[:, 0:2], table[:, 2:4], table[:, 4:6])

    def frames(self, feed: Feed, rects: Rects) -> np.ndarray:
        """How many frames of a feed each box has."""
        samples = rects.samples[:, 1] - rects.samples[:, 0] if feed.by_sample else 1
        windows = rects.windows[:, 1] - rects.windows[:, 0]
        times = (windows - 1) * self.stride + self.span if feed.by_time else 1
        return np.broadcast_to(np.asarray(samples * times), windows.shape)

    def first_frames(self, feed: Feed, rects: Rects, starts: np.ndarray, which: np.ndarray, rows: np.ndarray):
        """The number of each row's first frame, where box `which` of the row begins at frame `starts[which]`."""
        window, sample = rows // self.tiles % self.windows, rows // (self.tiles * self.windows)
        low, high = rects.windows[which].T
        at = starts[which]
        if feed.by_time:
            at = at + (window - low) * self.stride
        if feed.by_sample:
            at = at + (sample - rects.samples[which, 0]) * (self.reach(high - low) if feed.by_time else 1)
        return at

    def box(self, feed: Feed, rects: Rects, number: int) -> tuple[slice, ...]:
        """The part of a feed that one box needs."""
        low, high = rects.windows[number].tolist()
        lead = [slice(*rects.samples[number].tolist())] if feed.by_sample else []
        if feed.by_time:
            lead.append(slice(low * self.stride, low * self.stride + self.reach(high - low)))
        return (*lead, *(slice(0, n) for n in feed.frame))

    def most_frames(self, feed: Feed, rows: int, block: int) -> int:
        """An upper bound of the frames that a pool of that many rows holds."""
        base = -(-rows // self.tiles)
        if not self.whole:
            touched = -(-rows // block) + 2
            frames = base * self.stride + 2 * touched * self.span if feed.by_time else 2 * touched
            return frames if feed.by_sample or feed.by_time else 1
        units = min(self.samples, -(-base // self.windows) + (2 if self.windows * self.tiles > 1 else 0))
        if feed.by_sample:
            return units * self._frames_of_sample(feed)
        touched = -(-rows // block) + 2
        return touched * self._frames_of_sample(feed) if feed.by_time else 1

    def tile(self, number: int) -> dict[str, slice]:
        """The ranges of a tile by dimension."""
        places = np.unravel_index(number, [len(s) for s in self.tile_starts])
        return {
            dim: slice(starts[i], starts[i] + length)
            for dim, starts, i, length in zip(self.tile_dims, self.tile_starts, places, self.tile_lengths)
        }

    def shape(self, output: Output, rows: int) -> tuple[int, ...]:
        """The shape of an array of a batch."""
        feed = self.feeds[output.feed]
        sizes = dict(zip(self.tile_dims, self.tile_lengths))
        grid = tuple(sizes.get(d, n) for d, n in zip(feed.array.dims[feed.lead :], feed.frame))
        return (rows, *(() if output.offsets is None else (len(output.offsets),)), *grid)

    def restricted(self, slabs: dict[int, tuple[slice, ...]]) -> "Plan":
        """With only a part of the grid of some feeds."""
        feeds = list(self.feeds)
        for number, slab in slabs.items():
            feed = feeds[number]
            if any((s.start, s.stop) != (0, n) for s, n in zip(slab, feed.frame)):
                lead = tuple(slice(0, n, 1) for n in feed.array.shape[: feed.lead])
                grid = tuple(slice(s.start, s.stop, 1) for s in slab)
                feeds[number] = feed._replace(array=Sliced(feed.array, (*lead, *grid)))
        return replace(self, feeds=tuple(feeds))


def plan(dataset: Dataset) -> Plan:
    """The plan of a data set. Raises ValueError for variables that cannot be batched together."""
    if not dataset.arrays:
        raise ValueError("the data set has no variables; there is nothing to batch")
    if any(a.dtype.kind not in "biufc" for a in dataset.arrays.values()):
        bad = next(n for n, a in dataset.arrays.items() if a.dtype.kind not in "biufc")
        raise ValueError(f"'{bad}' is not numeric ({dataset.arrays[bad].dtype}); leave it out of the selection")
    zero = [d for d, n in dataset.dims.items() if n == 0]
    if zero:
        raise ValueError(f"the dimension '{zero[0]}' has no entries; there is nothing to batch")
    window, tiles = dataset.window, dataset.tiles
    if window is None:
        feeds, outputs, samples = _samples(dataset)
        windows, stride, span = 1, 1, 1
    else:
        feeds, outputs, samples = _series(dataset)
        windows, stride, span = window.count(dataset.dims[window.dim]), window.stride, window.span
    if tiles:
        for feed in feeds:
            missing = [d for d in tiles.dims if d not in feed.array.dims[feed.lead :]]
            if missing:
                raise ValueError(f"patches: '{feed.name}' has no '{missing[0]}'; leave it out of the selection")
    return Plan(
        feeds,
        outputs,
        samples,
        windows,
        stride,
        span,
        tiles.count if tiles else 1,
        tiles.starts if tiles else (),
        tiles.dims if tiles else (),
        tiles.lengths if tiles else (),
    )


def _samples(dataset: Dataset):
    dim = dataset.sample_dim
    without = [n for n, a in dataset.arrays.items() if dim not in a.dims]
    if without:
        raise ValueError(
            f"'{without[0]}' does not have the dimension '{dim}' that batches are taken along; leave it out of the "
            f'selection, as in ds["a", "u"]'
        )
    feeds = tuple(Feed(n, _in_front(a, (dim,)), True, False) for n, a in dataset.arrays.items())
    return feeds, tuple(Output(f.name, i, None) for i, f in enumerate(feeds)), dataset.dims[dim]


def _series(dataset: Dataset):
    window = dataset.window
    assert window is not None
    moving = [n for n, a in dataset.arrays.items() if window.dim in a.dims]
    sample = dataset.sample_dim if dataset.sample_dim != window.dim else None
    if sample is not None and sample not in dataset.arrays[moving[0]].dims:
        sample = None
    if sample is not None and not _is_sample(dataset, sample):
        sample = None
    if len(moving) > 1:
        plain = replace(dataset, window=None, tiles=None)
        stacked = plain.stack(fields=moving) if sample is None else _stack_after(plain, moving, sample, window.dim)
        arrays = dict(stacked.arrays)
        main = "fields"
    else:
        arrays, main = dict(dataset.arrays), moving[0]
    names = [main, *(n for n in arrays if n != main)]
    feeds = []
    for name in names:
        array = arrays[name]
        by_sample, by_time = sample is not None and sample in array.dims, window.dim in array.dims
        front = (*((sample,) if sample is not None and by_sample else ()), *((window.dim,) if by_time else ()))
        feeds.append(Feed(name, _in_front(array, front), by_sample, by_time))
    frames = np.arange(window.inputs + window.targets) * window.steps
    outputs = [
        Output(main, 0, frames[: window.inputs]),
        *(Output(f.name, i, None) for i, f in enumerate(feeds) if i > 0),
        Output(main, 0, frames[window.inputs :]),
    ]
    return tuple(feeds), tuple(outputs), dataset.dims[sample] if sample else 1


def _is_sample(dataset: Dataset, dim: str) -> bool:
    """A dimension before time counts trajectories; one after it belongs to the grid, whatever it is called first."""
    window = dataset.window
    assert window is not None
    from ._dataset import SAMPLE_NAMES

    if dim in SAMPLE_NAMES:
        return True
    return all(
        a.dims.index(dim) < a.dims.index(window.dim)
        for a in dataset.arrays.values()
        if {dim, window.dim} <= set(a.dims)
    )


def _stack_after(plain: Dataset, names: list[str], sample: str, time: str) -> Dataset:
    fronted = {n: _in_front(a, tuple(d for d in (sample, time) if d in a.dims)) for n, a in plain.arrays.items()}
    return replace(plain, arrays=fronted).stack(fields=names)


def _in_front(array: Lazy, dims: tuple[str, ...]) -> Lazy:
    order = (*dims, *(d for d in array.dims if d not in dims))
    return array if order == array.dims else Transposed(array, order)
