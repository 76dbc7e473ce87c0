"""Batches: every row once, the same again after a resume, within the memory that is stated, and no bad row unseen."""

import gc
import threading
import time
import tracemalloc
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from memory_source import InMemory, in_memory

from sciml.data import DataError, Dataset, DataWarning
from sciml.data._lazy import Stored

ROWS = 200


def pairs(rows=ROWS, chunks=(8, 10)):
    a = np.arange(rows * 6, dtype=np.float32).reshape(rows, 6)
    arrays = {"a": (("sample", "x"), a), "u": (("sample", "x"), 2 * a)}
    return in_memory(arrays, {"a": (chunks[0], 6), "u": (chunks[1], 6)})


def ids(batch):
    return (np.asarray(batch[0])[:, 0] / 6).astype(int).tolist()


@pytest.mark.parametrize("pool", [None, 64, 100, 7])
@pytest.mark.parametrize("size", [16, 7])
def test_each_epoch_has_each_row_at_most_once_in_a_new_order(pool, size):
    batches = pairs().batches(size, pool=pool, seed=1)
    epochs = []
    for _ in range(2):
        seen = []
        for a, u in batches:
            assert a.shape == (size, 6) and (u == 2 * a).all()
            seen += ids((a, u))
        assert len(set(seen)) == len(seen) == ROWS // size * size
        epochs.append(seen)
    assert epochs[0] != epochs[1]


def test_one_pool_reads_each_chunk_once_for_all_epochs():
    data = pairs()
    batches = data.batches(16)
    assert batches.mixing_radius == ROWS
    for _ in range(3):
        list(batches)
    read = [c for c in data.sources[0].reads if c.variable == "a"]
    assert sum(c.slices[0].stop - c.slices[0].start for c in read) == ROWS


def test_small_pools_read_each_row_once_in_an_epoch():
    data = pairs(192, (8, 8))
    batches = data.batches(16, pool=64)
    assert batches.mixing_radius == 64
    list(batches)
    read = [c for c in data.sources[0].reads if c.variable == "a"]
    starts = [c.slices[0].start for c in read]
    # Of the next epoch no more than the first two of its three pools may have been read ahead.
    assert len(set(starts)) == 24 and len(starts) <= 24 + 16 and max(Counter(starts).values()) <= 2


def test_padding_fills_the_last_batch_and_masks_it():
    seen = []
    shapes = set()
    for batch, mask in pairs(37).batches(8, pad=True):
        shapes.add((batch[0].shape, mask.shape))
        seen += np.array(ids(batch))[np.asarray(mask)].tolist()
    assert sorted(seen) == list(range(37))
    assert len(shapes) == 1


@pytest.mark.parametrize("threads", [1, 3])
def test_a_state_gives_the_same_batches_bit_for_bit(threads):
    whole = pairs().batches(16, pool=64, seed=3)
    stream = whole.from_step(0)
    expected = [np.asarray(next(stream)[0]) for _ in range(40)]
    stream.close()
    for _, batch in zip(range(5), whole):
        pass
    state = whole.state
    assert (state["epoch"], state["step"]) == (0, 5)
    again = pairs().batches(16, pool=64, seed=3, threads=threads, ahead=3)
    again.restore(state)
    got = [np.asarray(a) for _ in range(2) for a, _ in again]
    assert len(got) == 2 * len(again) - 5
    assert all((g == e).all() for g, e in zip(got, expected[5:]))


@pytest.mark.filterwarnings("ignore:the batches need")
def test_order_does_not_depend_on_threads_and_what_is_ahead():
    data = in_memory({"a": (("sample", "x"), np.zeros((4096, 1024), np.float32))}, {"a": (16, 1024)})
    found = [data.batches(32, memory=10 << 20, threads=t, ahead=a) for t, a in ((1, 1), (2, 5), (8, 2))]
    assert found[0].order.pools > 1
    assert found[0].order == found[1].order == found[2].order


def test_a_state_of_other_data_is_refused_by_name():
    state = pairs().batches(16, seed=3).state
    with pytest.raises(ValueError, match="batches.seed.*3 in the state, 4"):
        pairs().batches(16, seed=4).restore(state)
    with pytest.raises(ValueError, match="variables"):
        pairs()["u", "a"].isel(x=slice(0, 3)).batches(16, seed=3).restore(state)
    with pytest.raises(ValueError, match="files"):
        pairs(300).batches(16, seed=3).restore(state)


def test_batches_stay_as_they_were_given():
    kept = list(pairs().batches(8, pool=40))
    values = [np.array(a) for a, _ in kept]
    assert sorted(int(v) for a in values for v in a[:, 0] / 6) == sorted(i for b in kept for i in ids(b))
    assert len({i for b in kept for i in ids(b)}) == ROWS


def test_memory_stays_under_the_stated_bound():
    rows, width = 8192, 1024
    a = np.zeros((rows, width), np.float32)
    data = in_memory({"a": (("sample", "x"), a)}, {"a": (16, width)})
    batches = data.batches(32, memory=14 << 20)
    assert batches.memory <= 14 << 20 and batches.order.pools > 1
    tracemalloc.start()
    try:
        count = sum(1 for _ in batches)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == rows // 32
    # Python's own objects come on top.
    assert peak < batches.memory + (1 << 20)


def test_double_precision_and_integers_arrive_as_jax_has_them():
    arrays = {"a": (("sample",), np.arange(8, dtype=np.int64)), "u": (("sample",), np.arange(8.0))}
    with jax.enable_x64(True):
        a, u = next(iter(in_memory(arrays).batches(4)))
        assert (a.dtype, u.dtype) == (np.int64, np.float64)
    a, u = next(iter(in_memory(arrays).batches(4)))
    assert (a.dtype, u.dtype) == (np.int32, np.float32)


def test_steps_do_not_recompile():
    traces = []

    @jax.jit
    def step(batch):
        traces.append(1)
        return jnp.sum(batch[0])

    for batch, _ in pairs(37).batches(8, pad=True):
        step(batch)
    assert len(traces) == 1


# Windows and patches.


def series(samples=7, times=50):
    u = np.arange(samples * times, dtype=np.float32).reshape(samples, times, 1) + np.zeros(3, np.float32)
    arrays = {
        "u": (("sample", "time", "x"), u),
        "c": (("sample",), np.arange(float(samples))),
        "mask": (("x",), np.arange(3.0)),
    }
    return in_memory(arrays)


def test_windows_are_the_frames_they_should_be():
    windows = series().windows(3, 2, stride=2, steps=2)
    expected = [s * 50 + t for s in range(7) for t in range(0, 42, 2)]
    for pool in (None, 16):
        seen = []
        for (x, c, mask, y), good in windows.batches(4, pad=True, pool=pool):
            assert x.shape == (4, 3, 3) and y.shape == (4, 2, 3)
            first = x[:, :1, :1]
            assert (x == first + 2 * jnp.arange(3)[:, None]).all() and (
                y == first + 6 + 2 * jnp.arange(2)[:, None]
            ).all()
            assert (c == first[:, 0, 0] // 50).all() and (mask == jnp.arange(3.0)).all()
            seen += np.asarray(x)[np.asarray(good), 0, 0].astype(int).tolist()
        assert sorted(seen) == expected


def test_samples_are_all_windows_in_order_with_what_is_missing():
    values = np.arange(60, dtype=np.float32).reshape(20, 3)
    values[7, 1] = np.nan
    data = in_memory({"u": (("time", "x"), values)}, {"u": (4, 3)}).windows(2, 1, steps=3)
    inputs, targets = data.samples()
    expected = np.stack([values[i : i + 7 : 3] for i in range(14)])
    np.testing.assert_array_equal(inputs, expected[:, :2])
    np.testing.assert_array_equal(targets, expected[:, 2:])
    (whole,) = in_memory({"u": (("time", "x"), values)}, {"u": (4, 3)}).samples()
    np.testing.assert_array_equal(whole, values)


def test_overlapping_windows_are_read_once():
    data = in_memory({"u": (("time", "x"), np.zeros((1000, 64), np.float32))})
    list(data.windows(8, 1).batches(8))
    frames = sum(c.slices[0].stop - c.slices[0].start for c in data.sources[0].reads)
    assert frames < 1000 * 1.2


def test_long_series_are_cut_into_blocks_that_cover_all_windows():
    u = np.arange(3000, dtype=np.float32)[None, :, None] + 10000 * np.arange(2)[:, None, None]
    data = in_memory(
        {"u": (("member", "time", "x"), np.repeat(u, 1500, axis=2).astype(np.float32))}, {"u": (1, 10, 1500)}
    )
    windows = data.windows(2, 1)
    seen = []
    batches = windows.batches(8, pool=512)
    for x, y in batches:
        x = np.asarray(x)
        assert (x[:, 1] == x[:, 0] + 1).all() and (np.asarray(y)[:, 0] == x[:, 0] + 2).all()
        seen += x[:, 0, 0].astype(int).tolist()
    assert len(set(seen)) == len(seen) == 2 * 2998 // 8 * 8
    read = sum(np.prod(c.shape[:2]) for c in data.sources[0].reads)
    assert read < 1.5 * 6000


def test_several_variables_become_channels():
    arrays = {n: (("time", "x"), np.full((20, 4), i, np.float32)) for i, n in enumerate("uvw")}
    x, y = next(iter(in_memory(arrays).windows(2, 1).batches(4)))
    assert x.shape == (4, 2, 3, 4) and y.shape == (4, 1, 3, 4)
    assert (x[0, 0, :, 0] == jnp.arange(3)).all()


def test_patches_cover_the_grid():
    a = np.arange(4 * 6 * 5, dtype=np.float32).reshape(4, 6, 5)
    data = in_memory({"a": (("sample", "x", "y"), a), "u": (("sample", "x", "y"), -a)})
    seen = set()
    for (a_batch, u_batch), mask in data.patches(x=3, y=3).batches(5, pad=True):
        assert a_batch.shape == (5, 3, 3) and (u_batch == -a_batch).all()
        seen |= set(np.asarray(a_batch)[np.asarray(mask)].ravel().tolist())
    assert seen == set(range(4 * 6 * 5))


# What is wrong with data.


@pytest.mark.parametrize("mark", [np.nan, -np.inf, 9.969209968386869e36])
def test_missing_values_are_named(mark):
    a = np.zeros((40, 3), np.float32)
    a[23, 1] = mark
    data = in_memory({"a": (("sample", "x"), a)})
    with pytest.raises(DataError, match="'a' has missing or infinite values in sample 23"):
        list(data.batches(8))
    assert sum(int((~(abs(b[0]) < 1)).sum()) for b in data.batches(8, nan=True)) == 1
    batches = data.batches(8, skip_bad=True)
    with pytest.warns(DataWarning, match="sample 23"):
        got = list(batches)
    assert all(bool((b[0] == 0).all()) for b in got)
    assert len(batches.skipped) == 1
    with pytest.warns(DataWarning):
        masks = [mask for _, mask in data.batches(8, pad=True, skip_bad=True)]
    assert sum(int(m.sum()) for m in masks) == 39


class Broken(InMemory):
    """Cannot read one of its chunks."""

    def read(self, chunk):
        if chunk.slices[0].start <= 24 < chunk.slices[0].stop:
            raise DataError("chunk at (24, 0) of 'a' is corrupt")
        return super().read(chunk)


def broken():
    source = Broken({"a": (("sample", "x"), np.ones((80, 40000), np.float32))}, {"a": (8, 40000)})
    return Dataset({"a": Stored(source, "a")}, sources=(source,))


def test_an_unreadable_chunk_ends_reading_or_is_skipped():
    with pytest.raises(DataError, match="corrupt"):
        list(broken().batches(8, pool=40))
    batches = broken().batches(8, pool=40, skip_bad=True)
    with pytest.warns(DataWarning, match="unreadable: sample .*corrupt"):
        count = len(list(batches))
    assert count == 10 and batches.skipped


def reading_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if "sciml" in thread.name}


@pytest.mark.parametrize("steps", [1, 6, 12])
def test_no_thread_is_left_when_nobody_wants_more(steps):
    before = reading_threads()
    batches = pairs().batches(8, pool=40)
    stream = batches.from_step(3)
    for _ in range(steps):
        next(stream)
    # A whole epoch leaves a stream that waits for the next one.
    for _ in batches:
        if steps == 1:
            break
    assert reading_threads() - before
    del stream, batches
    gc.collect()
    deadline = time.monotonic() + 10
    while reading_threads() - before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not reading_threads() - before


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda d: d.batches(0), "above 0"),
        (lambda d: d.batches(500), "larger than the data"),
        (lambda d: d.batches(8, pool=0), "pool"),
        (lambda d: d.batches(8, sharding=3), "NamedSharding"),
        (lambda d: d.windows(1, 1, dim="x").isel(x=0), "before windows"),
        (lambda d: d.windows(5, 3, dim="x"), "spans 8"),
        (lambda d: d.windows(1, 1), "which dimension is time"),
        (lambda d: d.patches(x=9), "does not fit"),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make(pairs())


def test_variables_without_samples_are_refused():
    data = in_memory({"a": (("sample", "x"), np.ones((4, 2))), "g": (("x",), np.ones(2))})
    with pytest.raises(ValueError, match="'g' does not have the dimension 'sample'"):
        data.batches(2)
