"""What a model must keep, exactly: functions from models to models whose output conserves an integral, is free of
divergence, or stays within bounds.

Each takes and gives one sample, `(channels, *grid)`, or `(frames, channels, *grid)` with time in front. In which order
they are applied matters: what is outermost holds.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._axes import Axis, Periodic, as_axes


class Conserving(eqx.Module):
    """A model whose output keeps the integrals of its input: see `conserve`."""

    model: Callable
    pairs: tuple[tuple[int, int], ...] | None = eqx.field(static=True)
    axes: tuple[Axis, ...]
    multiplicative: bool = eqx.field(static=True)

    def __call__(self, x: Array, *others: Any, **options: Any) -> Array:
        """The output of the model for x, corrected."""
        u = self.model(x, *others, **options)
        dims = len(self.axes)
        base = _last_frame(x, dims, "conserve")
        _last_frame(u, dims, "conserve")
        places = u.ndim - dims - 1
        pairs = [(c, c) for c in range(u.shape[places])] if self.pairs is None else self.pairs
        _check_channels([c for c, _ in pairs], u.shape[places], "conserve", "output")
        _check_channels([c for _, c in pairs], base.shape[0], "conserve", "input")
        here, there = (jnp.asarray([pair[i] for pair in pairs], int) for i in (0, 1))
        old = jnp.take(u, here, axis=places)
        wanted, found = (_integral(a, self.axes) for a in (jnp.take(base, there, axis=0), old))
        shape = (*found.shape, *(1,) * dims)
        if self.multiplicative:
            new = old * (wanted / found).reshape(shape).astype(u.dtype)
        else:
            new = old + (wanted - found).reshape(shape).astype(u.dtype)
        return u.at[(slice(None),) * places + (here,)].set(new)


def conserve(
    model: Callable,
    channels: Sequence[int] | Mapping[int, int] | None = None,
    *,
    dimensions: int = 2,
    axes: Axis | Sequence[Axis] = Periodic(),
    multiplicative: bool = False,
) -> Conserving:
    """A model whose output has the integral over the grid that its input has, to rounding: mass, momentum, energy.

    - `channels`: those of the output that are conserved, by default all; a mapping says which channel of the input
      each has the integral of, `{0: 2}`, if that is not the one of the same number.
    - `axes`: one, or one for each of the `dimensions`; their `weights` are those of the quadrature.
    - `multiplicative`: the output is multiplied by a constant, which keeps its sign and its zeros, and suits what has
      one sign, such as a density; otherwise a constant is added (the smallest change in the L2 norm). The integral of
      the model's own output must not vanish then.

    With frames in front, each frame of the output has the integral of the last frame of the input. Called with more
    arguments, the first one counts. Raises ValueError for shapes and channels that do not fit.
    """
    pairs = channels.items() if isinstance(channels, Mapping) else None if channels is None else zip(channels, channels)
    chosen = None if pairs is None else tuple((int(a), int(b)) for a, b in pairs)
    return Conserving(model, chosen, as_axes(axes, dimensions), multiplicative)


class DivergenceFree(eqx.Module):
    """A model whose output has a velocity without divergence: see `divergence_free`."""

    model: Callable
    channels: tuple[int, ...] = eqx.field(static=True)
    lengths: tuple[float, ...] = eqx.field(static=True)

    def __call__(self, *arguments: Any, **options: Any) -> Array:
        """The output of the model, projected."""
        u = self.model(*arguments, **options)
        dims = len(self.channels)
        _last_frame(u, dims, "divergence_free")
        places = u.ndim - dims - 1
        _check_channels(self.channels, u.shape[places], "divergence_free", "output")
        index = (slice(None),) * places + (jnp.asarray(self.channels, int),)
        # One component after the other in front.
        velocity = jnp.moveaxis(u[index], places, 0)
        projected = leray(velocity, self.lengths)
        return u.at[index].set(jnp.moveaxis(projected, 0, places))


def divergence_free(
    model: Callable, channels: Sequence[int], *, lengths: float | Sequence[float] = 1.0
) -> DivergenceFree:
    """A model whose velocity has no divergence: the Leray projection of the model's own, on a periodic grid.

    - `channels`: the components of the velocity, in the order of the axes of the grid, one for each.
    - `lengths`: the period of the grid along each axis, or one for all. Only their ratios matter.

    The rest of the output stays as it is. Raises ValueError for channels that do not fit the grid.
    """
    chosen = tuple(int(c) for c in channels)
    sizes = (lengths,) * len(chosen) if isinstance(lengths, int | float) else tuple(lengths)
    if len(sizes) != len(chosen) or len(set(chosen)) != len(chosen) or not chosen:
        raise ValueError(
            f"divergence_free: expected a channel and a length for each axis of the grid, got {chosen} and {sizes}"
        )
    if not min(sizes) > 0:
        raise ValueError(f"divergence_free: lengths must be above 0, got {sizes}")
    return DivergenceFree(model, chosen, tuple(float(s) for s in sizes))


def leray(velocity: Float[Array, "axes *grid"], lengths: Sequence[float]) -> Float[Array, "axes *grid"]:
    """The part of a periodic velocity without divergence, the nearest one in the L2 norm: `u - grad(div u / laplacian)`
    (Chorin & Marsden, A Mathematical Introduction to Fluid Mechanics, section 1.3), by Fourier series over the last
    axes, one for each component; axes between are mapped over.

    The derivative along an axis is zero for the wavenumber half the number of points, where a real field has no other,
    as in `sciml.pde.grid_derivative`; of that derivative the divergence vanishes to rounding, and projecting twice is
    projecting once. The mean stays. Half precision is computed in float32.
    """
    dims = len(lengths)
    if velocity.shape[0] != dims or velocity.ndim < dims + 1:
        raise ValueError(
            f"leray: expected one component for each of {dims} axes, ({dims}, *grid), got {velocity.shape}"
        )
    grid = velocity.shape[-dims:]
    over = tuple(range(-dims, 0))
    z = jnp.fft.rfftn(velocity.astype(jnp.result_type(velocity.dtype, jnp.float32)), axes=over)
    waves = _wavenumbers(grid, lengths)
    square = np.sum(waves**2, axis=0)
    # Where no derivative exists, nothing is to be taken away.
    unit = waves / np.sqrt(np.where(square > 0, square, 1.0))
    between = velocity.ndim - dims - 1
    k = jnp.asarray(unit.reshape(dims, *(1,) * between, *unit.shape[1:]), z.real.dtype)
    real, imag = (part - k * jnp.sum(k * part, axis=0) for part in (z.real, z.imag))
    return jnp.fft.irfftn(jax.lax.complex(real, imag), s=grid, axes=over).astype(velocity.dtype)


def _wavenumbers(grid: Sequence[int], lengths: Sequence[float]) -> np.ndarray:
    """The wavenumber along each axis, `(axes, *spectrum)`, of a transform that is real along the last one."""
    rows = []
    for i, (n, length) in enumerate(zip(grid, lengths)):
        k = np.fft.rfftfreq(n, 1 / n) if i == len(grid) - 1 else np.fft.fftfreq(n, 1 / n)
        rows.append(np.where(2 * np.abs(k) == n, 0.0, k) / length)
    return np.stack(np.meshgrid(*rows, indexing="ij"))


class InRange(eqx.Module):
    """A model whose output stays within bounds: see `in_range`."""

    model: Callable
    low: float = eqx.field(static=True)
    high: float = eqx.field(static=True)
    softness: float = eqx.field(static=True)
    channels: tuple[int, ...] | None = eqx.field(static=True)
    dimensions: int = eqx.field(static=True)

    def __call__(self, *arguments: Any, **options: Any) -> Array:
        """The output of the model, within the bounds."""
        u = self.model(*arguments, **options)
        if self.channels is None:
            return self._limited(u)
        _last_frame(u, self.dimensions, "in_range")
        places = u.ndim - self.dimensions - 1
        _check_channels(self.channels, u.shape[places], "in_range", "output")
        index = (slice(None),) * places + (jnp.asarray(self.channels, int),)
        return u.at[index].set(self._limited(u[index]))

    def _limited(self, u: Array) -> Array:
        low, high, s = self.low, self.high, self.softness
        if math.isinf(low):
            return high - s * jax.nn.softplus((high - u) / s)
        risen = low + s * jax.nn.softplus((u - low) / s)
        if math.isinf(high):
            return risen
        # Far above, the difference of two large numbers may round to beyond the bound.
        return jnp.clip(risen - s * jax.nn.softplus((u - high) / s), low, high)


def in_range(
    model: Callable,
    low: float = 0.0,
    high: float = math.inf,
    *,
    softness: float,
    channels: Sequence[int] | None = None,
    dimensions: int = 2,
) -> InRange:
    """A model whose output lies between `low` and `high`: by default positive, as a density or a concentration is.

    The output stays as it is further than a few times `softness` (in its units) inside of the bounds and bends
    smoothly towards them: `low + s softplus((u - low) / s) - s softplus((u - high) / s)`. So a model of residuals, or
    one that is trained already, hardly changes where it keeps the bounds by itself.

    - `channels`: those that have the bounds, by default all; `dimensions`: of the grid, to find the channels by.

    Raises ValueError for bounds out of order and a softness that is not above 0.
    """
    if not low < high or (math.isinf(low) and math.isinf(high)) or not softness > 0:
        raise ValueError(
            f"in_range: expected low < high, one of them finite, and softness > 0, got {low, high, softness}"
        )
    chosen = None if channels is None else tuple(int(c) for c in channels)
    return InRange(model, float(low), float(high), float(softness), chosen, dimensions)


def _last_frame(a: Array, dims: int, who: str) -> Array:
    """The field itself, or the last one of frames. Raises ValueError for another number of dimensions."""
    if a.ndim not in (dims + 1, dims + 2):
        raise ValueError(
            f"{who}: expected one sample, (channels, *grid) or (frames, channels, *grid) with {dims} dimensions of "
            f"space, got {a.shape}; give dimensions=..., and jax.vmap for a batch"
        )
    return a if a.ndim == dims + 1 else a[-1]


def _check_channels(channels: Sequence[int], count: int, who: str, what: str) -> None:
    for channel in channels:
        if not 0 <= channel < count:
            raise ValueError(f"{who}: no channel {channel}; the {what} has {count}, numbered from 0")


def _integral(a: Array, axes: Sequence[Axis]) -> Array:
    """Over the last dimensions, one for each axis; in float32 at least."""
    a = a.astype(jnp.result_type(a.dtype, jnp.float32))
    for axis in reversed(axes):
        weights = axis.weights(a.shape[-1])
        a = jnp.sum(a * jnp.asarray(weights / weights.sum(), a.dtype), axis=-1)
    return a
