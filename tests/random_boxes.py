"""Random numbers of any type and random boxes of an array, for tests of readers."""

import numpy as np


def numbers(dtype, shape=(7, 10, 11), seed=0):
    """Random numbers of any type, over its whole range if it is one of integers."""
    rng, dtype = np.random.default_rng(seed), np.dtype(dtype)
    if dtype.kind in "iu":
        return np.frombuffer(rng.bytes(int(np.prod(shape)) * dtype.itemsize), dtype).reshape(shape)
    if dtype.kind == "b":
        return rng.random(shape) < 0.5
    values = rng.normal(size=shape) + (1j * rng.normal(size=shape) if dtype.kind == "c" else 0)
    return values.astype(dtype)


def boxes(shape, count, seed=0):
    """The whole array and random boxes in it, some of them empty."""
    rng = np.random.default_rng(seed)
    yield tuple(slice(0, n) for n in shape)
    for _ in range(count):
        yield tuple(slice(*np.sort(rng.integers(0, n + 1, 2)).tolist()) for n in shape)


def same_boxes(array, expected, count=20):
    """Compares a lazy array with NumPy's slices of the numbers that it should have."""
    assert array.shape == expected.shape and array.dtype == expected.dtype.newbyteorder("=")
    for box in boxes(array.shape, count):
        np.testing.assert_array_equal(array.read(box), expected[box], err_msg=str(box))
