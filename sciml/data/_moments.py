"""Moments of an array that does not fit into memory: of boxes, merged in a fixed order."""

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ._cf import LARGEST
from ._lazy import Joined, Lazy, Sliced, Slices, Stacked
from ._source import DataError

# Numbers in a box, unless a chunk has more.
BOX = 1 << 20
# What a thread holds for each number of a box: the box, its differences in time, deviations and masks, in float64.
BYTES_PER_NUMBER = 56


@dataclass
class Tally:
    """What is known of some numbers, for each channel: shapes have 1 where an axis was summed over.

    `count` excludes missing numbers, `weight` is the sum of their weights, `squares` the weighted sum of squares about
    `mean`; `least` and `largest` are NaN where there are no numbers.
    """

    count: np.ndarray
    total: np.ndarray
    weight: np.ndarray
    mean: np.ndarray
    squares: np.ndarray
    least: np.ndarray
    largest: np.ndarray

    @classmethod
    def empty(cls, shape: tuple[int, ...]) -> "Tally":
        """Of no numbers."""
        zeros, nan = np.zeros(shape), np.full(shape, np.nan)
        whole = np.zeros(shape, np.int64)
        return cls(whole, whole.copy(), zeros, zeros.copy(), zeros.copy(), nan, nan.copy())

    def add(self, other: "Tally", where: Slices) -> None:
        """Merges the tally of a box into the channels `where` (Chan, Golub & LeVeque, 1979, equations 2.1)."""
        weight = self.weight[where] + other.weight
        share = np.divide(other.weight, weight, out=np.zeros_like(weight), where=weight > 0)
        step = other.mean - self.mean[where]
        self.squares[where] += other.squares + step**2 * self.weight[where] * share
        self.mean[where] += step * share
        self.weight[where] = weight
        self.count[where] += other.count
        self.total[where] += other.total
        self.least[where] = np.fmin(self.least[where], other.least)
        self.largest[where] = np.fmax(self.largest[where], other.largest)


def measure(values: np.ndarray, kept: tuple[int, ...], axis: int | None, area: np.ndarray | None) -> Tally:
    """The tally of finite numbers and NaN: axes other than `kept` are summed over, `axis` with the weights `area`."""
    # Of arrays without dimensions NumPy gives numbers, which cannot be written into.
    missing = np.asarray(np.isnan(values))
    summed = tuple(i for i in range(values.ndim) if i not in kept)
    rest = tuple(i for i in summed if i != axis)

    def gather(numbers: np.ndarray) -> np.ndarray:
        sums = np.asarray(numbers.sum(axis=rest, keepdims=True, dtype=np.float64))
        if axis is None or area is None:
            return sums
        return (sums * area.reshape(-1, *(1,) * (values.ndim - 1 - axis))).sum(axis=axis, keepdims=True)

    present = np.asarray(~missing)
    count = np.asarray(present.sum(axis=summed, keepdims=True, dtype=np.int64))
    total = np.full(count.shape, values.size // max(1, count.size), np.int64)
    weight = gather(present)
    divisor = np.where(weight > 0, weight, 1)
    some = bool(missing.any())
    mean = gather(np.where(missing, 0, values) if some else values) / divisor
    deviation = np.asarray(values - mean)
    if some:
        deviation[missing] = 0
    # The rounding of the mean shows in the sum of the deviations.
    error = gather(deviation) / divisor
    np.square(deviation, out=deviation)
    squares = np.maximum(gather(deviation) - error**2 * weight, 0)
    least, largest = (np.asarray(f.reduce(values, axis=summed, keepdims=True)) for f in (np.fmin, np.fmax))
    return Tally(count, total, weight, np.asarray(mean + error), np.asarray(squares), least, largest)


@dataclass(frozen=True)
class Work:
    """A variable and what is asked of it. `pairs` says which entries of the time axis have a successor `lag` entries
    later that belongs to the same series.
    """

    name: str
    array: Lazy
    kept: tuple[int, ...]
    latitude: int | None = None
    area: np.ndarray | None = None
    time: int | None = None
    lag: int = 1
    pairs: np.ndarray = field(default_factory=lambda: np.ones(0, bool))
    offset: float | None = None  # of the logarithm
    limit: float = LARGEST  # numbers as large as this are no data

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the tally of the whole."""
        return tuple(n if i in self.kept else 1 for i, n in enumerate(self.array.shape))


class Part(NamedTuple):
    """What a box gives: the tallies of its numbers and differences, and its last frames for the box after it."""

    values: Tally
    changes: Tally | None
    tail: np.ndarray | None


def tallies(work: Work, threads: int, track: Callable) -> tuple[Tally, Tally]:
    """The tallies of a variable and of its differences in time, each number read once.

    Boxes are read and measured by threads, and merged in their own order: the result does not depend on the number of
    threads. At most `threads + 2` boxes are on their way. Raises DataError for infinite numbers and for what cannot be
    read.
    """
    boxes = list(boxes_of(work.array, work.time))
    values, changes = Tally.empty(work.shape), Tally.empty(work.shape)
    waiting: deque[tuple[Slices, Future]] = deque()
    last: Future | None = None
    executor = ThreadPoolExecutor(threads)

    def merge():
        box, future = waiting.popleft()
        part = future.result()
        where = tuple(s if i in work.kept else slice(0, 1) for i, s in enumerate(box))
        values.add(part.values, where)
        if part.changes is not None:
            changes.add(part.changes, where)

    try:
        for box in track(boxes):
            first = work.time is None or box[work.time].start == 0
            last = executor.submit(_measure_box, work, box, None if first else last)
            waiting.append((box, last))
            if len(waiting) > threads + 1:
                merge()
        while waiting:
            merge()
    finally:
        executor.shutdown(cancel_futures=True)
    return values, changes


def _measure_box(work: Work, box: Slices, before: Future | None) -> Part:
    try:
        values = work.array.read(box).astype(np.float64)
    except OSError as error:
        raise DataError(f"'{work.name}': cannot read {_place(work, box)}: {error}") from error
    _refuse_infinite(work, box, values)
    if work.offset is not None:
        values += work.offset
        if (values <= 0).any():
            where = _place(work, box, np.argwhere(values <= 0)[0])
            raise ValueError(f"log: '{work.name}' + {work.offset:g} is not positive at {where}; give a larger offset")
        np.log(values, out=values)
    area = None if work.area is None or work.latitude is None else work.area[box[work.latitude]]
    tally = measure(values, work.kept, work.latitude, area)
    if work.time is None:
        return Part(tally, None, None)
    # Boxes begin in the order in which they are given out, so this one's predecessor is being read or done.
    tail = None if before is None else before.result().tail
    frames = values if tail is None else np.concatenate([tail, values], axis=work.time)
    changes = _differences(work, frames, box[work.time].stop - frames.shape[work.time])
    kept = None if changes is None else measure(changes, work.kept, work.latitude, area)
    return Part(tally, kept, frames[_along(work.time, slice(-work.lag, None))].copy())


def _differences(work: Work, frames: np.ndarray, first: int) -> np.ndarray | None:
    """Frames minus those `lag` before them; `first` is the number of the first one on the time axis."""
    assert work.time is not None
    count = frames.shape[work.time] - work.lag
    valid = work.pairs[first : first + max(0, count)]
    if not valid.any():
        return None
    changes = frames[_along(work.time, slice(work.lag, None))] - frames[_along(work.time, slice(0, count))]
    return changes if valid.all() else np.compress(valid, changes, axis=work.time)


def _along(axis: int, part: slice) -> tuple[slice, ...]:
    return (*(slice(None),) * axis, part)


def _refuse_infinite(work: Work, box: Slices, values: np.ndarray) -> None:
    with np.errstate(invalid="ignore"):
        infinite = np.abs(values) >= work.limit
    if infinite.any():
        first = np.argwhere(infinite)[0]
        what = "infinite" if np.isinf(values[tuple(first)]) else f"{values[tuple(first)]:.3g} (a fill value?)"
        remedy = "mark such values as missing (NaN) with map, or leave the sample out"
        raise DataError(f"'{work.name}' is {what} at {_place(work, box, first)}; {remedy}")


def _place(work: Work, box: Slices, index: np.ndarray | None = None) -> str:
    dims = work.array.dims
    if index is not None:
        return ", ".join(f"{d} {s.start + int(i)}" for d, s, i in zip(dims, box, index)) or "its only entry"
    return ", ".join(f"{d} {s.start} to {s.stop - 1}" for d, s in zip(dims, box)) or "its only entry"


def pairs(places: np.ndarray, times: np.ndarray | None, lag: int) -> np.ndarray:
    """Which entries of a time axis have a successor `lag` entries later without a gap between: a jump of the places in
    what was selected from, or a step of time that is not 0.5 to 1.5 usual ones.
    """
    strides = np.diff(places)
    linked = strides == strides.min(initial=np.iinfo(np.int64).max)
    if times is not None and linked.any():
        steps = np.diff(times)
        known = steps[linked & np.isfinite(steps)]
        usual = np.median(known) if known.size else 0.0
        # Without a usual step the coordinate says nothing.
        linked = linked & (np.abs(steps / usual - 1) < 0.5) if usual else linked
    breaks = np.concatenate([[0], np.cumsum(~linked)])
    return breaks[lag:] == breaks[: max(0, len(breaks) - lag)]


def cell_areas(degrees: np.ndarray) -> np.ndarray:
    """The areas of cells about latitudes in order, differences of the sine between their middles, with a mean of 1."""
    if len(degrees) < 2:
        return np.ones(len(degrees))
    middles = (degrees[1:] + degrees[:-1]) / 2
    edges = np.concatenate([[2 * degrees[0] - middles[0]], middles, [2 * degrees[-1] - middles[-1]]])
    areas = np.abs(np.diff(np.sin(np.radians(np.clip(edges, -90, 90)))))
    return areas / areas.mean()


# Boxes.


def box_shape(array: Lazy) -> tuple[int, ...]:
    """The shape of the boxes that an array is read in: a chunk, or several beside each other up to `BOX` numbers."""
    shape = [max(1, min(c, n)) for c, n in zip(array.chunks, array.shape)]
    for axis in reversed(range(len(shape))):
        shape[axis] = min(array.shape[axis], shape[axis] * max(1, BOX // math.prod(shape)))
    return tuple(shape)


def boxes_of(array: Lazy, time: int | None) -> Iterator[Slices]:
    """Boxes that cover an array, with edges on those of chunks and files; along time they follow each other."""
    cuts = [_cuts(array.segments(i), n) for i, n in enumerate(box_shape(array))]
    order = sorted(range(len(cuts)), key=lambda i: (i == time, i))
    back = np.argsort(order).astype(int).tolist()
    for box in itertools.product(*(cuts[i] for i in order)):
        yield tuple(box[i] for i in back)


def _cuts(segments: list[int], length: int) -> list[slice]:
    """Ranges up to a length: short segments are put together, long ones cut from their beginning."""
    out, start, begin = [], 0, 0
    for size in segments:
        end = begin + size
        if end - start > length and begin > start:
            out.append(slice(start, begin))
            start = begin
        while end - start > length:
            out.append(slice(start, start + length))
            start += length
        begin = end
    return [*out, slice(start, begin)] if begin > start else out


def positions(array: Lazy, axis: int) -> np.ndarray:
    """The places of the entries along an axis in what they were selected from; files that are joined count on."""
    if isinstance(array, Joined) and array.axis == axis:
        first = array.parts[0]
        # Parts of one array, as `split` deals them out, have gaps between them.
        if isinstance(first, Sliced) and all(isinstance(p, Sliced) and p.inner is first.inner for p in array.parts):
            return np.concatenate([positions(p, axis) for p in array.parts])
        return np.arange(array.shape[axis])
    if isinstance(array, Sliced):
        s = array.slices[axis]
        return positions(array.inner, axis)[s.start : s.stop : s.step]
    if isinstance(array, Stacked):
        plain = array.axis == axis
        return np.arange(len(array.parts)) if plain else positions(array.parts[0], axis - (axis > array.axis))
    if isinstance(array, Joined):
        return positions(array.parts[0], axis)
    inner = getattr(array, "inner", None)
    if isinstance(inner, Lazy):
        return positions(inner, inner.dims.index(array.dims[axis]))
    return np.arange(array.shape[axis])
