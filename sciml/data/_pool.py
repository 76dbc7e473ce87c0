"""A pool of decoded blocks in memory: read by threads, gathered into batches."""

import math
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

import numpy as np

from ._cf import LARGEST
from ._plan import Feed, Output, Plan
from ._source import READ_BYTES, DataError

# JAX takes an array on the host without a copy if it begins at such an address.
ALIGNMENT = 64


def _aligned(buffer: np.ndarray, nbytes: int) -> np.ndarray:
    start = -buffer.ctypes.data % ALIGNMENT
    return buffer[start : start + nbytes]


class Memory:
    """Buffers that are used again for one pool after another, so that the system need not clear new pages."""

    def __init__(self):
        self.free: list[np.ndarray] = []

    def take(self, nbytes: int) -> np.ndarray:
        """A buffer of at least that many bytes."""
        fits = [b for b in self.free if b.nbytes >= nbytes]
        if fits:
            best = min(fits, key=lambda b: b.nbytes)
            self.free = [b for b in self.free if b is not best]
            return best
        # What is too small would lie idle beside its successor.
        self.free = self.free[1:]
        return np.empty(nbytes, np.uint8)

    def give(self, buffers: list[np.ndarray]) -> None:
        """Takes buffers back."""
        self.free.extend(buffers)


class _Lease:
    """What an array and all its views refer to, so that its end is the end of the last of them."""

    def __init__(self, memory: np.ndarray):
        self.__array_interface__ = memory.__array_interface__


class Fresh:
    """Memory for batches: what an array held is used again only when nothing refers to that array any more.

    JAX may take the memory of an array on the host as its own, for as long as it keeps a reference to it. New memory
    for each batch would cost more than filling it, since the system clears it first.
    """

    def __init__(self, most: int):
        self._most = most
        self._free: dict[int, deque[np.ndarray]] = {}

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """An array that nobody else holds, with arbitrary contents."""
        nbytes = math.prod(shape) * dtype.itemsize
        free = self._free.setdefault(nbytes, deque(maxlen=self._most))
        try:
            buffer = free.pop()
        except IndexError:
            buffer = np.empty(nbytes + ALIGNMENT, np.uint8)
        lease = _Lease(_aligned(buffer, nbytes))
        weakref.finalize(lease, free.append, buffer).atexit = False
        return np.asarray(lease).view(dtype).reshape(shape)


class Pool:
    """The rows of some pieces of a data set, and the reads that bring them."""

    def __init__(self, plan: Plan, pieces: np.ndarray, memory: Memory, needed: np.ndarray | None = None):
        """`needed`: which places of the pieces, laid end to end, this process wants; by default all. Boxes without any
        keep their numbers but get no frames.
        """
        self.plan, self.pieces, self._memory = plan, pieces, memory
        rects = plan.rects(pieces)
        lengths = rects.rows[:, 1] - rects.rows[:, 0]
        self._ends = np.cumsum(lengths)
        count = int(self._ends[-1])
        self.box_of = np.repeat(np.arange(len(lengths)), lengths)
        wanted = np.full(len(lengths), needed is None)
        if needed is not None:
            wanted[self.box_of[needed]] = True
        self.wanted = wanted
        rows = np.arange(count) - (self._ends - lengths)[self.box_of] + rects.rows[self.box_of, 0]
        self.rows, self.rects = rows, rects
        self.first, self.frames, self._buffers, self._starts = [], [], [], []
        self._suspects: list[np.ndarray] = []
        self._broken: list[np.ndarray] = []
        for feed in plan.feeds:
            counts = np.where(wanted, plan.frames(feed, rects), 0)
            fixed = not (feed.by_sample or feed.by_time)
            starts = np.zeros(len(counts), np.int64) if fixed else np.cumsum(counts) - counts
            total = 1 if fixed else int(counts.sum())
            self.first.append(plan.first_frames(feed, rects, starts, self.box_of, rows))
            raw = memory.take(total * feed.frame_bytes)
            self._buffers.append(raw)
            flat = raw[: total * feed.frame_bytes].view(feed.dtype)
            self.frames.append(flat.reshape(total, *feed.frame))
            self._suspects.append(np.zeros(total, bool))
            self._broken.append(np.zeros(total, bool))
            self._starts.append(starts)
        self._reads: dict[int, Future] = {}
        self._done = ~wanted
        self.errors: dict[int, DataError] = {}

    @property
    def count(self) -> int:
        """The number of rows."""
        return len(self.rows)

    def read(self, executor: Executor, order: np.ndarray, stopped: Callable[[], bool], skip_bad: bool) -> None:
        """Starts the reads, in the order in which rows at these places will be wanted."""
        boxes, firsts = np.unique(self.box_of[order], return_index=True)
        numbers = [n for n in boxes[np.argsort(firsts, kind="stable")].tolist() if self.wanted[n]]
        sizes = sum(self.plan.frames(f, self.rects) * f.frame_bytes for f in self.plan.feeds)
        sizes = np.broadcast_to(sizes, self.wanted.shape)
        group, held = [], 0
        for number in numbers:
            group.append(number)
            held += int(sizes[number])
            if held >= READ_BYTES or number == numbers[-1]:
                self._reads |= dict.fromkeys(group, executor.submit(self._read_boxes, group, stopped, skip_bad))
                group, held = [], 0

    def _read_boxes(
        self, numbers: list[int], stopped: Callable[[], bool], skip_bad: bool
    ) -> dict[int, DataError | None]:
        """Reads boxes; returns what went wrong in each."""
        return {n: None if stopped() else self._read_box(n, skip_bad) for n in numbers}

    def _read_box(self, number: int, skip_bad: bool) -> DataError | None:
        plan, found = self.plan, None
        for which, feed in enumerate(plan.feeds):
            fixed = not (feed.by_sample or feed.by_time)
            if fixed and number != int(np.argmax(self.wanted)):
                continue
            box = plan.box(feed, self.rects, number)
            shape = tuple(s.stop - s.start for s in box)
            count = math.prod(shape[: feed.lead])
            mine = slice(int(self._starts[which][number]), int(self._starts[which][number]) + count)
            target = self.frames[which][mine].reshape(shape)
            error = _read_into(feed, box, target)
            if error is not None and skip_bad:
                self._broken[which][mine] = _salvage(feed, box, target)
            found = found or error
            if target.dtype.kind in "fc":
                # NaN and what is too large show in a sum; here the numbers are still in the processor's cache.
                with np.errstate(all="ignore"):
                    sums = np.abs(target.reshape(count, -1).sum(axis=1, dtype=target.dtype))
                self._suspects[which][mine] = ~(sums < LARGEST / 2)
        return found

    def wait(self, places: np.ndarray, skip_bad: bool) -> None:
        """Waits until the rows at these places are there. Raises the DataError of a read, unless bad rows are skipped:
        then `errors` has it, and `unreadable` tells which they are.
        """
        boxes = self.box_of[places]
        if any(not (f.by_sample or f.by_time) for f in self.plan.feeds):
            # What all rows share is read with the first box.
            boxes = np.append(boxes, np.argmax(self.wanted))
        for number in dict.fromkeys(boxes[~self._done[boxes]].tolist()):
            error = self._reads[number].result()[number]
            if error is not None and not skip_bad:
                raise error
            if error is not None:
                self.errors[number] = error
            self._done[number] = True

    def unreadable(self, places: np.ndarray) -> np.ndarray:
        """Which of the rows at these places have a frame that cannot be read."""
        bad = np.zeros(len(places), bool)
        for output in self.plan.outputs:
            bad |= self._broken[output.feed][self._index(output, places)].reshape(len(places), -1).any(axis=1)
        return bad

    def suspicious(self, places: np.ndarray) -> bool:
        """Whether rows at these places may hold missing numbers: one of their frames does, or its sum is too large."""
        return any(self._suspects[o.feed][self._index(o, places)].any() for o in self.plan.outputs)

    def _index(self, output: Output, places: np.ndarray) -> np.ndarray:
        """The numbers of the frames of rows, (row,) or (row, frame)."""
        index = self.first[output.feed][places]
        return index if output.offsets is None else index[:, None] + output.offsets

    def gather(self, output: Output, places: np.ndarray, fresh: Fresh) -> np.ndarray:
        """The rows at these places as an array of the batch, a copy."""
        index, frames = self._index(output, places), self.frames[output.feed]
        feed = self.plan.feeds[output.feed]
        out = fresh.empty(self.plan.shape(output, len(places)), frames.dtype)
        if self.plan.tiles == 1:
            # Any mode but "raise" writes straight into `out`.
            return np.take(frames, index, axis=0, out=out, mode="clip")
        dims = feed.array.dims[feed.lead :]
        for i, tile in enumerate((self.rows[places] % self.plan.tiles).tolist()):
            ranges = self.plan.tile(tile)
            out[i] = frames[(index[i], *(ranges.get(d, slice(None)) for d in dims))]
        return out

    def release(self) -> None:
        """Gives the buffers back. Nothing may be reading into them."""
        for future in self._reads.values():
            future.cancel()
        for future in self._reads.values():
            if not future.cancelled():
                future.exception()
        self._memory.give(self._buffers)
        self._buffers, self.frames = [], []


def _read_into(feed: Feed, box: tuple[slice, ...], target: np.ndarray) -> DataError | None:
    """Reads a box; returns what went wrong."""
    try:
        feed.array.read_into(box, target)
    except DataError as error:
        return error
    except OSError as error:
        return DataError(f"'{feed.name}': cannot read it at {tuple(s.start for s in box)}: {error}")
    return None


def _salvage(feed: Feed, box: tuple[slice, ...], target: np.ndarray) -> np.ndarray:
    """Reads the frames of a box one by one; returns which cannot be read. Those are zero."""
    broken = np.zeros(target.shape[: feed.lead], bool)
    for place in np.ndindex(broken.shape):
        one = tuple(slice(s.start + i, s.start + i + 1) for s, i in zip(box, place))
        here = target[tuple(slice(i, i + 1) for i in place)]
        if _read_into(feed, (*one, *box[feed.lead :]), here) is not None:
            broken[place], here[...] = True, 0
    return broken.reshape(-1)


def describe_rows(plan: Plan, rows: Any) -> str:
    """Where rows come from, for messages."""
    row = int(np.asarray(rows).flat[0])
    sample, window = row // (plan.tiles * plan.windows), row // plan.tiles % plan.windows
    return f"sample {sample}" + (f", window {window}" if plan.windows > 1 else "")
