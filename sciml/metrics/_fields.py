"""Batches of fields: which axes are what, what each point weighs, and which points count."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, ParamSpec, TypedDict, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike

from .._precision import double_precision

P = ParamSpec("P")
R = TypeVar("R")


class Kept(TypedDict, total=False):
    """What the result keeps.

    - `channel`, `time`: axes of variables and of lead times, which the result has in their order in the array.
    - `per_sample`: whether the result has the samples as its first axis; otherwise they are averaged.
    """

    channel: int | None
    time: int | None
    per_sample: bool


class Weighted(Kept, total=False):
    """As `Kept`, and

    - `weights`: quadrature weights such as areas of cells, with as many axes as the grid, each of its length or 1.
    """

    weights: ArrayLike | None


class Options(Weighted, total=False):
    """How a metric reads a batch, whose first axis is that of the samples: as `Weighted`, and

    - `grid`: the axes that have weights; by default all but the first one, `channel` and `time`. What a sample has
      besides these is summed over with them: a norm is then of several variables together.
    - `mask`: points that count, of the shape of the grid or of the batch (where a length of 1 means all).
    - `skip_missing`: whether points where the target is NaN do not count. A prediction that is NaN always shows.
    """

    grid: int | Sequence[int] | None
    mask: ArrayLike | None
    skip_missing: bool


class Layout(NamedTuple):
    """The axes of a batch after the first one, that of the samples, each in one of three groups."""

    kept: tuple[int, ...]
    inner: tuple[int, ...]
    grid: tuple[int, ...]

    def arranged(self, array: Array) -> Array:
        """The array as `(samples, *kept, *inner, *grid)`."""
        return jnp.transpose(array, (0, *self.kept, *self.inner, *self.grid))

    @property
    def space(self) -> tuple[int, ...]:
        """The axes of the grid of an arranged array."""
        return tuple(range(-len(self.grid), 0))

    @property
    def summed(self) -> tuple[int, ...]:
        """The axes of one sample of an arranged array that are summed over."""
        return tuple(range(-len(self.grid) - len(self.inner), 0))


def layout(
    shape: Sequence[int], grid: int | Sequence[int] | None = None, channel: int | None = None, time: int | None = None
) -> Layout:
    """The layout of a batch. Raises ValueError for axes that do not exist or are named twice, and an empty batch."""
    count = len(shape)
    if 0 in shape:
        raise ValueError(f"an empty batch: the shape is {tuple(shape)}")
    kept = sorted(_axis(a, count) for a in (channel, time) if a is not None)
    if grid is None:
        found = tuple(a for a in range(1, count) if a not in kept)
    else:
        found = tuple(_axis(a, count) for a in ([grid] if isinstance(grid, int) else grid))
    named = [0, *kept, *found]
    if len(set(named)) < len(named) or not found:
        raise ValueError(
            f"an axis is that of the samples (the first one), of the grid, the channels or the time: got grid={grid}, "
            f"channel={channel}, time={time} for the shape {tuple(shape)}; a single sample needs an axis, as in u[None]"
        )
    return Layout(tuple(kept), tuple(a for a in range(count) if a not in named), found)


def _axis(axis: int, count: int) -> int:
    if not -count <= axis < count:
        raise ValueError(f"there is no axis {axis} in an array with {count} axes")
    return axis % count


class Fields(NamedTuple):
    """Predictions and targets as arranged by the layout, zero where they do not count, and weights that broadcast."""

    prediction: Array
    target: Array
    weight: Array
    layout: Layout
    per_sample: bool

    @property
    def error(self) -> Array:
        """Prediction minus target."""
        return self.prediction - self.target

    def sum(self, values: ArrayLike) -> Array:
        """The weighted sum over what is not kept of a sample, `(samples, *kept)`."""
        return jnp.sum(jnp.broadcast_to(self.weight * values, self.target.shape), self.layout.summed)

    def pooled(self, values: ArrayLike) -> Array:
        """The weighted mean over the grid and the samples; of each sample if asked for."""
        total, weight = self.sum(values), self.sum(1.0)
        return total / weight if self.per_sample else total.sum(0) / weight.sum(0)

    def averaged(self, values: Array) -> Array:
        """The mean over the samples in which a point counts; the values themselves if asked for each sample."""
        if self.per_sample:
            return values
        some = self.sum(1.0) > 0
        return jnp.sum(jnp.where(some, values, 0), 0) / jnp.sum(some, 0)


def fields(
    prediction: ArrayLike,
    target: ArrayLike,
    *,
    grid: int | Sequence[int] | None = None,
    channel: int | None = None,
    time: int | None = None,
    weights: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    skip_missing: bool = False,
    per_sample: bool = False,
) -> Fields:
    """Arrays as metrics need them, in float32 at least; see `Options`. Raises ValueError for shapes that do not agree,
    TypeError for complex numbers.
    """
    p, t = as_floats(prediction, target)
    if p.shape != t.shape:
        raise ValueError(f"prediction and target must have one shape, got {p.shape} and {t.shape}")
    places = layout(p.shape, grid, channel, time)
    weight = quadrature(weights, [p.shape[a] for a in places.grid], p.dtype)
    weight = weight.reshape(*(1,) * (p.ndim - weight.ndim), *weight.shape)
    valid = _valid(mask, places, p.shape)
    p, t = places.arranged(p), places.arranged(t)
    if skip_missing:
        present = ~jnp.isnan(t)
        valid = present if valid is None else valid & present
    if valid is not None:
        weight = jnp.where(valid, weight, 0)
        p, t = jnp.where(valid, p, 0), jnp.where(valid, t, 0)
    return Fields(p, t, weight, places, per_sample)


def as_floats(*arrays: ArrayLike) -> list[Array]:
    """JAX arrays of one floating type, float32 at least. Raises TypeError for complex numbers."""
    found = [jnp.asarray(a) for a in arrays]
    if any(jnp.iscomplexobj(a) for a in found):
        raise TypeError("expected real fields, got complex ones; give real and imaginary parts as channels")
    dtype = jnp.result_type(jnp.float32, *found)
    return [a.astype(dtype) for a in found]


def quadrature(weights: ArrayLike | None, grid: Sequence[int], dtype: Any) -> Array:
    """Weights with one axis for each of the grid. Raises ValueError for another shape, and numbers below 0 or NaN."""
    if weights is None:
        return jnp.ones((1,) * len(grid), dtype)
    found = jnp.asarray(weights, dtype)
    if found.ndim != len(grid) or any(n not in (1, m) for n, m in zip(found.shape, grid)):
        raise ValueError(
            f"weights of shape {found.shape} do not fit the axes of the grid, {tuple(grid)}: as many axes, each of its "
            "length or 1; give grid= the axes that have weights, or add an axis as in weights[:, None]"
        )
    if not isinstance(found, Tracer) and not (np.isfinite(found).all() and np.min(found) >= 0):
        raise ValueError("weights must be finite and not negative")
    return found


def spread(array: Array, places: Layout, count: int) -> Array:
    """An array on the grid as one that broadcasts against a batch with `count` axes."""
    order = np.argsort(places.grid)
    shape = [1] * count
    for axis in order:
        shape[places.grid[axis]] = array.shape[axis]
    return jnp.transpose(array, order.tolist()).reshape(shape)


def _valid(mask: ArrayLike | None, places: Layout, shape: tuple[int, ...]) -> Array | None:
    if mask is None:
        return None
    found = jnp.asarray(mask, bool)
    if found.shape == tuple(shape[a] for a in places.grid):
        found = spread(found, places, len(shape))
    if found.ndim != len(shape) or any(n not in (1, m) for n, m in zip(found.shape, shape)):
        grid = tuple(shape[a] for a in places.grid)
        raise ValueError(f"a mask has the shape of the grid, {grid}, or of the batch, {shape}; got {found.shape}")
    return places.arranged(jnp.broadcast_to(found, shape))


def root(x: Array) -> Array:
    """The square root, with the gradient 0 where x is 0."""
    positive = x > 0
    # NaN is not positive, and has to stay NaN.
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), x)


def in_their_precision(function: Callable[P, R]) -> Callable[P, R]:
    """A function that computes in double precision where it is called with a NumPy array in float64, so that a small
    difference of large numbers is not lost on the way to JAX; its result has JAX's default precision. (Not within
    `jit`, `grad` and the like, where the caller's setting holds.)
    """

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        double = any(isinstance(a, np.ndarray) and a.dtype == np.float64 for a in args)
        # While `jit` traces, even a new array is a tracer.
        if not double or any(isinstance(a, Tracer) for a in (*args, *kwargs.values(), jnp.zeros(()))):
            return function(*args, **kwargs)
        with double_precision():
            result = jax.tree.map(np.asarray, function(*args, **kwargs))
        return jax.tree.map(jnp.asarray, result)

    return wrapped


def latitude_weights(degrees: ArrayLike | Sequence[float]) -> np.ndarray:
    """The areas of the cells of a grid of latitudes and longitudes, `(latitudes, 1)`, with a mean of 1: differences of
    the sine of latitude between the middles to the neighbours (poles at most).

    Raises ValueError for latitudes that do not rise or fall throughout, or lie beyond the poles.
    """
    latitudes = np.asarray(degrees, float)
    steps = np.diff(latitudes)
    if latitudes.ndim != 1 or len(latitudes) < 2 or not ((steps > 0).all() or (steps < 0).all()):
        raise ValueError(f"expected two or more latitudes, rising or falling, got the shape {latitudes.shape}")
    if np.abs(latitudes).max() > 90 + 1e-3:
        raise ValueError(f"latitudes are in degrees, from -90 to 90; got {latitudes.min():g} to {latitudes.max():g}")
    middles = latitudes[:-1] + steps / 2
    edges = np.concatenate([[latitudes[0] - steps[0] / 2], middles, [latitudes[-1] + steps[-1] / 2]])
    areas = np.abs(np.diff(np.sin(np.radians(np.clip(edges, -90, 90)))))
    return (areas / math.fsum(areas) * len(areas))[:, None]
