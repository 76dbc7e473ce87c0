"""Batches of a data set on the devices: shuffled, read ahead, resumable at any step, sharded."""

import copy
import math
import queue
import threading
import time
import warnings
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from .._save import refuse_difference
from ._cf import LARGEST
from ._dataset import Dataset, _bytes
from ._handles import MOST_THREADS, reader_threads
from ._plan import Output, Plan, plan
from ._pool import Fresh, Memory, Pool, describe_rows
from ._shuffle import Order, lanes_of
from ._source import READ_BYTES, DataError

MEMORY = 512 * 1024 * 1024


class DataWarning(UserWarning):
    """Something about the data that a user should know, while work goes on."""


class Batches:
    """The batches of a data set, epoch after epoch: an iterable for `fit`, or for a loop of one's own.

    `for batch in batches` gives the rest of the current epoch; the next loop gives the next epoch. A batch is a tuple
    of arrays in the order of the variables, `(batch, ...)` each: the last is the target, the others are the model's
    arguments. The order is a pure function of the seed, the epoch and the position.

    - `size`: rows of a batch, over all devices and processes.
    - `seed`, `shuffle`: blocks of rows (whole chunks of the file) are permuted over all files, then rows within a pool.
    - `pool`: how many rows are mixed with each other; by default as many as `memory` allows. A pool that holds the
      whole data set gives an exact permutation, and is read only once.
    - `memory`: bytes for everything that is read ahead in this process. `batches.memory` states the bound that holds.
    - `pad`: the last batch of an epoch is filled up with copies, and each batch is `(batch, mask)` for `sciml.masked`;
      otherwise rows that do not fill a batch wait for another epoch.
    - `threads`: readers, by default one for each processor, up to eight that fit into a tenth of the memory; `ahead`:
      batches that are ready on the devices. Neither changes the batches.
    - `sharding`: a `NamedSharding` for all arrays of the batch, or one for each: the leading axis is that of the batch,
      a further mesh axis may cut the grid. Each process reads only its part.
    - `nan`: whether missing values (NaN) may reach the model; otherwise they raise a DataError.
    - `skip_bad`: rows that cannot be read, or hold NaN, are replaced by good rows of the same batch (mask 0 if padded)
      with a DataWarning, and listed in `batches.skipped`.

    Raises ValueError for a batch larger than the data and for a sharding that does not divide it.
    """

    def __init__(
        self,
        dataset: Dataset,
        size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        pool: int | None = None,
        memory: int = MEMORY,
        pad: bool = False,
        threads: int | None = None,
        ahead: int = 2,
        sharding: Any = None,
        nan: bool = False,
        skip_bad: bool = False,
    ):
        options = {"seed": seed, "shuffle": shuffle, "pool": pool, "memory": memory, "pad": pad, "threads": threads}
        self._options = options | {"ahead": ahead, "nan": nan, "skip_bad": skip_bad}
        if size < 1 or ahead < 1 or (threads is not None and threads < 1):
            raise ValueError(f"size, ahead and threads must be above 0, got {size}, {ahead}, {threads}")
        self.dataset, self.size, self.pad = dataset, size, pad
        self.ahead, self.nan, self.skip_bad = ahead, nan, skip_bad
        whole = plan(dataset)
        self.threads = threads or min(reader_threads(), _most_readers(whole, memory))
        if whole.rows < size and not pad:
            raise ValueError(
                f"a batch of {size} is larger than the data, {whole.rows} rows; pass pad=True or a smaller size"
            )
        self._local = _Local(whole, size, sharding)
        self._plan = self._local.plan
        self.order = _order(whole, size, seed, shuffle, pool, _budget(whole, size, memory))
        self.memory = self._bound()
        if self.memory > memory and pool is None:
            warnings.warn(
                f"the batches need {_bytes(self.memory)}, more than memory={_bytes(memory)}: batches or chunks of the "
                "file are large; rechunk it (sciml rechunk) or allow more",
                DataWarning,
                stacklevel=3,
            )
        self.skipped: list[str] = []
        self._step = 0
        self._stream: Reading | None = None

    def __len__(self) -> int:
        """The number of batches of an epoch."""
        return -(-self.order.rows // self.size) if self.pad else self.order.rows // self.size

    def __repr__(self) -> str:
        return (
            f"<Batches: {len(self)} of {self.size} rows in an epoch of {self.order.rows}, mixing radius "
            f"{self.mixing_radius} rows, memory at most {_bytes(self.memory)}, {self.threads} threads>"
        )

    @property
    def mixing_radius(self) -> int:
        """How many rows are permuted among themselves; all of them give an exact permutation."""
        return min(self.order.pool, self.order.rows) if self.order.shuffle else 1

    @property
    def mesh(self) -> Any:
        """The mesh that batches lie on; None for a single device."""
        return self._local.shardings[0].mesh if self._local.shardings else None

    def sharded(self, sharding: Any) -> "Batches":
        """The same batches on other devices."""
        return Batches(self.dataset, self.size, sharding=sharding, **self._options)

    # Where it is.

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What must agree for a state to fit: the files, the selection and how it is batched."""
        order = self.order
        batching = {
            "size": self.size,
            "seed": order.seed,
            "shuffle": order.shuffle,
            "pool": order.pool,
            "pad": self.pad,
        }
        return self.dataset.fingerprint() | {"batches": batching | {"block": order.block, "lanes": order.lanes}}

    @property
    def state(self) -> dict[str, Any]:
        """The position after the last batch that was given out, as JSON."""
        epoch, step = divmod(self._step, len(self))
        return {"fingerprint": self.fingerprint, "epoch": epoch, "step": step}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes to a position: the batches from here on are those that followed it, bit for bit, whatever the number of
        threads, devices and processes. Raises ValueError for a state of other data, naming the difference.
        """
        refuse_difference("restore", state.get("fingerprint"), self.fingerprint, "the state", "the batches")
        if not 0 <= state["step"] < len(self) or state["epoch"] < 0:
            raise ValueError(
                f"an epoch has {len(self)} steps; the state is at epoch {state['epoch']}, step {state['step']}"
            )
        self._step = state["epoch"] * len(self) + state["step"]

    def __iter__(self) -> Iterator[Any]:
        end = (self._step // len(self) + 1) * len(self)
        # What the last epoch read ahead, or holds in memory, serves this one.
        stream, self._stream = self._stream, None
        if stream is None or stream.step != self._step:
            stream = self.from_step(self._step)
        try:
            while self._step < end:
                batch = next(stream)
                self._step += 1
                yield batch
            self._stream, stream = stream, None
        finally:
            if stream is not None:
                stream.close()

    def from_step(self, step: int) -> "Reading":
        """The endless stream of batches from a step on, counted from the first of epoch 0."""
        return Reading(self, step)

    # Making a batch.

    def _fixed_bytes(self) -> int:
        """What is held besides pools."""
        # One is being made and one is with the training step, besides those ahead.
        return _fixed_bytes(self._plan, len(self._local.rows), self.ahead + 2, self.threads)

    def _bound(self) -> int:
        order, feeds = self.order, self._plan.feeds
        rows = min(order.pool, order.rows)
        one = sum(f.frame_bytes * self._plan.most_frames(f, rows, order.block) for f in feeds)
        # The places of the rows: where each lies, and the permutation.
        index = rows * 8 * (4 + 2 * len(feeds))
        return (one + index) * min(2, order.pools) + self._fixed_bytes()

    def _make(self, pool: Pool, permutation: np.ndarray, step: int, fresh: Fresh):
        """Batch `step` of an epoch, from its pool, as host arrays of this process."""
        first = step * self.size % self.order.pool
        rows = self._local.rows
        places = first + rows
        mask = places < pool.count
        # Copies of the batch's first row fill up what is missing.
        places = permutation[np.where(mask, places, first)]
        pool.wait(places, self.skip_bad)
        bad = pool.unreadable(places) if pool.errors else np.zeros(0, bool)
        if bad.any():
            places, mask = self._replace(pool, places, mask, bad, "unreadable")
        arrays = [pool.gather(output, places, fresh) for output in self._plan.outputs]
        if not self.nan and pool.suspicious(places):
            bad = _missing(arrays)
            if bad.any() and not self.skip_bad:
                self._refuse_missing(pool, arrays, places, bad)
            if bad.any():
                places, mask = self._replace(pool, places, mask, bad, "missing values")
                arrays = [pool.gather(output, places, fresh) for output in self._plan.outputs]
        return tuple(arrays), mask

    def _replace(self, pool: Pool, places, mask, bad, why: str):
        where = ", ".join(describe_rows(self._plan, r) for r in np.unique(pool.rows[places[bad]])[:4])
        errors = [str(pool.errors[box]) for box in pool.box_of[places[bad]].tolist() if box in pool.errors]
        reason = f"{why}: {where}" + (f" ({errors[0]})" if errors else "")
        if bad.all():
            raise DataError(f"no row of a batch can be used; {reason}")
        if reason not in self.skipped:
            self.skipped.append(reason)
            warnings.warn(f"skipped {int(bad.sum())} row(s) of a batch, {reason}", DataWarning, stacklevel=2)
        good = places[~bad]
        filled = places.copy()
        filled[bad] = good[np.arange(int(bad.sum())) % len(good)]
        return filled, mask & ~bad

    def _refuse_missing(self, pool: Pool, arrays, places, bad) -> None:
        row = pool.rows[places[bad]][0]
        name = next(o.name for o, a in zip(self._plan.outputs, arrays) if _missing([a]).any())
        raise DataError(
            f"'{name}' has missing or infinite values in {describe_rows(self._plan, row)} (NaN, infinity, or the fill "
            f"value of NetCDF, 9.97e36); fill them with .map({name}=...), select what is complete, pass nan=True for a "
            "loss that masks them, or skip_bad=True to leave such rows out"
        )


class Reading:
    """A running stream of batches: threads read into pools, one thread makes batches and puts them on the devices."""

    def __init__(self, batches: Batches, step: int):
        self.step = step  # of the next batch
        self.waited = 0.0  # seconds that `next` waited
        self._queue: queue.Queue = queue.Queue(batches.ahead)
        self._stop = threading.Event()
        # The thread must not keep alive what owns this stream, or neither would ever end.
        source = copy.copy(batches)
        source._stream = None
        arguments = (source, step, self._queue, self._stop, jax.config.read("jax_enable_x64"))
        self._thread = threading.Thread(target=_produce, args=arguments, daemon=True, name="sciml batches")
        self._finalizer = weakref.finalize(self, _halt, self._queue, self._stop, self._thread)
        self._thread.start()

    def __iter__(self):
        return self

    def __next__(self):
        if self._stop.is_set():
            raise StopIteration
        began = time.perf_counter()
        while True:
            try:
                batch, error = self._queue.get(timeout=1.0)
                break
            except queue.Empty:
                if not self._thread.is_alive() and self._queue.empty():
                    raise DataError("the reading thread ended without a word; please report this") from None
        self.waited += time.perf_counter() - began
        if error is not None:
            self.close()
            raise error
        self.step += 1
        return batch

    def close(self) -> None:
        """Ends the threads; further batches cannot be had."""
        self._finalizer()


def _halt(box: queue.Queue, stop: threading.Event, thread: threading.Thread) -> None:
    stop.set()
    # The garbage collector may run this in the thread that is to end, which cannot wait for itself.
    while thread.is_alive() and thread is not threading.current_thread():
        # The thread may be waiting for room in the queue.
        try:
            box.get_nowait()
        except queue.Empty:
            pass
        thread.join(timeout=0.02)


def _produce(batches: Batches, step: int, box: queue.Queue, stop: threading.Event, x64: bool) -> None:
    """Fills the queue until told to stop; an error is the last thing in it."""

    def put(item) -> None:
        while not stop.is_set():
            try:
                return box.put(item, timeout=0.05)
            except queue.Full:
                continue

    executor = ThreadPoolExecutor(batches.threads, "sciml reader")
    try:
        # The precision is a setting of each thread.
        with jax.enable_x64(x64):
            for batch in _endless(batches, step, executor, stop):
                put((batch, None))
                if stop.is_set():
                    return
    except BaseException as error:
        put((None, error))
    finally:
        stop_reading = stop.is_set
        executor.shutdown(wait=not stop_reading(), cancel_futures=True)


def _endless(batches: Batches, step: int, executor: ThreadPoolExecutor, stop: threading.Event) -> Iterator[Any]:
    """Batch after batch; while one pool is served, the next one is read."""
    order, memory = batches.order, Memory()
    fresh = Fresh((batches.ahead + 2) * len(batches._plan.outputs))
    per_pool = max(1, order.pool // order.size)
    ready: dict[tuple[int, int], tuple[Pool, np.ndarray]] = {}

    def load(epoch: int, number: int) -> None:
        if (epoch, number) in ready:
            return
        permutation = order.permutation(epoch, number)
        if order.pools == 1 and ready:
            ready[epoch, number] = (next(iter(ready.values()))[0], permutation)
            return
        # With one pool every process has all rows at some time; otherwise only those of its own places.
        wanted = permutation if order.pools == 1 else permutation[batches._local.places(len(permutation))]
        pool = Pool(batches._plan, order.pieces(epoch, number), memory, wanted)
        pool.read(executor, wanted, stop.is_set, batches.skip_bad)
        ready[epoch, number] = (pool, permutation)

    try:
        while True:
            epoch, inside = divmod(step, len(batches))
            number = inside // per_pool
            load(epoch, number)
            last = number == (len(batches) - 1) // per_pool
            following = (epoch + 1, 0) if last else (epoch, number + 1)
            if order.pools > 1:
                load(*following)
            pool, permutation = ready[epoch, number]
            end = len(batches) if last else (number + 1) * per_pool
            for s in range(inside, end):
                arrays, mask = batches._make(pool, permutation, s, fresh)
                yield batches._local.put(arrays, mask if batches.pad else None)
            step += end - inside
            if order.pools > 1 or not last:
                ready.pop((epoch, number))[0].release()
            else:
                ready = {following: (pool, order.permutation(*following))}
    finally:
        for pool, _ in ready.values():
            pool.release()


def _fixed_bytes(plan: Plan, rows: int, batches: int, threads: int) -> int:
    """The memory of batches of that many rows, and of readers."""
    batch = sum(math.prod(plan.shape(o, rows)) * plan.feeds[o.feed].dtype.itemsize for o in plan.outputs)
    return batches * batch + threads * max(_scratch(f.array) for f in plan.feeds)


def _most_readers(whole: Plan, memory: int) -> int:
    """For how many readers there is room in a tenth of the memory."""
    return max(1, min(MOST_THREADS, memory // 10 // max(_scratch(f.array) for f in whole.feeds)))


def _budget(whole: Plan, size: int, memory: int) -> int:
    """What pools may have. The order follows from it, so it must not depend on threads, devices and processes: it is
    what four batches and as many readers as there is room for leave, or half of the memory where that is more.
    """
    return max(memory // 2, memory - _fixed_bytes(whole, size, 4, _most_readers(whole, memory)))


def _order(whole: Plan, size: int, seed: int, shuffle: bool, pool: int | None, budget: int) -> Order:
    """Blocks and pool. They must not depend on the number of processes, so they follow from the whole grid."""
    rows = whole.rows
    if pool is not None and pool < 1:
        raise ValueError(f"pool must be above 0, got {pool}")
    if pool is None:
        pool = _rows_that_fit(whole, budget)
    if pool >= rows:
        return Order(whole.segments, whole.block(rows), -(-rows // size) * size, size, 1, seed, shuffle)
    # Small enough that each row of a batch may come from a block of its own.
    block = whole.block(max(1, pool // size))
    lanes = lanes_of(size, block, pool)
    while lanes > 1 and math.lcm(size, lanes * block) > pool:
        lanes = max(d for d in range(1, lanes) if size % d == 0)
    unit = math.lcm(size, lanes * block)
    # Where not even that fits, pools begin and end within blocks, which are then read twice.
    unit = size if unit > pool else unit
    return Order(whole.segments, block, max(1, pool // unit) * unit, size, lanes, seed, shuffle)


def _rows_that_fit(whole: Plan, budget: int) -> int:
    """The largest pool of which two fit into memory; all rows if one such pool fits."""

    def needed(count):
        index = count * 8 * (4 + 2 * len(whole.feeds))
        return index + sum(f.frame_bytes * whole.most_frames(f, count, whole.block(count)) for f in whole.feeds)

    if needed(whole.rows) <= budget:
        return whole.rows
    low, high = 1, whole.rows
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if 2 * needed(middle) <= budget else (low, middle)
    return low


def _scratch(array) -> int:
    """What one thread holds besides the pool: chunks as they lie in the file, and decoded."""
    return 3 * max(READ_BYTES, math.prod(array.chunks) * array.dtype.itemsize)


def _missing(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Which rows hold NaN, infinity or NetCDF's fill value."""
    bad = np.zeros(len(arrays[0]), bool)
    for array in arrays:
        if array.dtype.kind in "fc":
            bad |= ~(np.abs(array) < LARGEST).reshape(len(array), -1).all(axis=1)
    return bad


class _Local:
    """The part of each batch that belongs to this process, and how it becomes arrays on its devices."""

    def __init__(self, whole: Plan, size: int, sharding: Any):
        self.plan, self.size = whole, size
        self.rows = np.arange(size)
        self.shardings: list[Any] = []
        self._slabs: dict[int, tuple[slice, ...]] = {}
        self._shapes = [whole.shape(o, size) for o in whole.outputs]
        if sharding is None:
            return
        given = list(sharding) if isinstance(sharding, tuple | list) else [sharding] * len(whole.outputs)
        if len(given) != len(whole.outputs):
            raise ValueError(f"give one sharding, or one for each of the {len(whole.outputs)} arrays of a batch")
        self.shardings = [_fitted(s, shape, o) for s, shape, o in zip(given, self._shapes, whole.outputs)]
        indices = [
            list(s.addressable_devices_indices_map(shape).values()) for s, shape in zip(self.shardings, self._shapes)
        ]
        held = np.zeros(size, bool)
        for boxes in indices:
            for index in boxes:
                held[index[0]] = True
        self.rows = np.flatnonzero(held)
        for output, boxes, shape in zip(whole.outputs, indices, self._shapes):
            self._add_slab(output, boxes, shape)
        if whole.tiles > 1 and any(
            (s.start, s.stop) != (0, n) for f, slab in self._slabs.items() for s, n in zip(slab, whole.feeds[f].frame)
        ):
            raise ValueError("patches cannot be cut along a mesh axis; shard the batch only")
        if whole.tiles == 1:
            self.plan = whole.restricted(self._slabs)

    def _add_slab(self, output: Output, boxes, shape) -> None:
        """Widens what is read of a feed to the box that this process's devices hold of the output."""
        lead = 1 if output.offsets is None else 2
        mine = []
        for axis in range(lead, len(shape)):
            ranges = [index[axis].indices(shape[axis])[:2] for index in boxes]
            mine.append(slice(min(a for a, _ in ranges), max(b for _, b in ranges)))
        old = self._slabs.get(output.feed, tuple(mine))
        self._slabs[output.feed] = tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(old, mine))

    def places(self, count: int) -> np.ndarray:
        """The places, in a run of batches of `count` rows, that belong to this process."""
        if len(self.rows) == self.size:
            return np.arange(count)
        found = (np.arange(-(-count // self.size))[:, None] * self.size + self.rows).reshape(-1)
        found = found[found < count]
        # A batch that is padded copies its first row.
        return np.union1d(found, [count // self.size * self.size]) if count % self.size else found

    def put(self, arrays: tuple[np.ndarray, ...], mask: np.ndarray | None):
        """The arrays of this process's rows as arrays on the devices."""
        if not self.shardings:
            placed = tuple(jax.device_put(a) for a in arrays)
            return placed if mask is None else (placed, jax.device_put(mask))
        placed = tuple(
            self._assemble(a, s, shape, self._slabs[o.feed], 1 if o.offsets is None else 2)
            for a, s, shape, o in zip(arrays, self.shardings, self._shapes, self.plan.outputs)
        )
        if mask is None:
            return placed
        first = self.shardings[0]
        rows = jax.sharding.NamedSharding(first.mesh, jax.sharding.PartitionSpec(*first.spec[:1]))
        return placed, self._assemble(mask, rows, (self.size,), (), 1)

    def _assemble(self, array, sharding, shape, slab, lead):
        whole = len(slab) == 0 or array.shape[lead:] == shape[lead:]

        def part(index):
            start, stop, _ = index[0].indices(self.size)
            begin = int(np.searchsorted(self.rows, start))
            grid = index[lead:]
            if not whole:
                grid = [
                    slice(i.indices(n)[0] - s.start, i.indices(n)[1] - s.start)
                    for i, s, n in zip(grid, slab, shape[lead:])
                ]
            return array[(slice(begin, begin + stop - start), *index[1:lead], *grid)]

        return jax.make_array_from_callback(shape, sharding, part)


def _fitted(sharding: Any, shape: tuple[int, ...], output: Output):
    """The sharding of one array. Raises where it does not divide the shape."""
    if not isinstance(sharding, jax.sharding.NamedSharding):
        raise TypeError(f"sharding must be a jax.sharding.NamedSharding, got {type(sharding).__name__}")
    if len(sharding.spec) > len(shape):
        raise ValueError(
            f"the sharding {sharding.spec} has more axes than '{output.name}' of shape {shape}; give one for each array"
        )
    try:
        sharding.shard_shape(shape)
    except ValueError as error:
        raise ValueError(f"the mesh does not divide '{output.name}' of shape {shape}: {error}") from None
    return sharding
