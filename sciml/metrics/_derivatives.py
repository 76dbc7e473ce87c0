"""Derivatives of fields on grids: Fourier series along periodic axes, differences of fourth order along others."""

import itertools
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike

# A spacing: the step between points, or the places of the points.
Spacing = float | np.ndarray
# Points of a difference: one more than its order.
STENCIL = 5


def spacings(
    spacing: ArrayLike | Sequence[ArrayLike] | None, grid: Sequence[int], periodic: bool | Sequence[bool]
) -> list[tuple[Spacing, bool]]:
    """For each axis of the grid the step (or the places) of its points, and whether it is periodic.

    By default a grid has the length 1: steps of 1 / n on a periodic axis, 1 / (n - 1) from end to end on another.
    Raises ValueError for a number of entries that is not that of the axes, and places or steps that do not fit.
    """
    around = [periodic] * len(grid) if isinstance(periodic, bool) else list(periodic)
    if spacing is None:
        steps = [1 / n if p else 1 / max(1, n - 1) for n, p in zip(grid, around)]
    elif isinstance(spacing, Sequence):
        steps = list(spacing)
    else:
        steps = [spacing] * len(grid)
    if len(steps) != len(grid) or len(around) != len(grid):
        raise ValueError(f"the grid has {len(grid)} axes, but got {len(steps)} spacings and {len(around)} of periodic")
    return [(_step(s, n, p), p) for s, n, p in zip(steps, grid, around)]


def _step(spacing: ArrayLike, n: int, periodic: bool) -> Spacing:
    places = np.asarray(spacing, float)
    if places.ndim == 0:
        if not (np.isfinite(places) and places > 0):
            raise ValueError(f"a spacing must be above 0, got {places}")
        return float(places)
    steps = np.diff(places)
    if places.shape != (n,) or not ((steps > 0).all() or (steps < 0).all()):
        raise ValueError(f"places must be {n} rising or falling numbers, got the shape {places.shape}")
    if not periodic:
        return places
    if len(steps) == 0 or np.abs(steps - steps.mean()).max() > 1e-5 * abs(steps.mean()):
        raise ValueError("a periodic axis needs equal steps; give one number, or periodic=False")
    return float(abs(steps.mean()))


def derivative(u: Array, axis: int, spacing: Spacing, periodic: bool) -> Array:
    """The first derivative along an axis. Raises ValueError for an axis with a single point that is not periodic."""
    u = jnp.moveaxis(u, axis, -1)
    out = _fourier(u, float(spacing)) if periodic else _differences(u, spacing)
    return jnp.moveaxis(out, -1, axis)


def gradient(u: Array, axes: Sequence[int], steps: Sequence[tuple[Spacing, bool]]) -> list[Array]:
    """The derivatives along each of some axes."""
    return [derivative(u, a, *s) for a, s in zip(axes, steps)]


def _fourier(u: Array, step: float) -> Array:
    n = u.shape[-1]
    k = 2 * np.pi * np.fft.rfftfreq(n, step)
    if n % 2 == 0:
        # The highest mode is a cosine that is sampled at its extremes: its slope at the points is 0.
        k[-1] = 0.0
    series = jnp.fft.rfft(u)
    return jnp.fft.irfft(series * jnp.asarray(1j * k, series.dtype), n)


def _differences(u: Array, spacing: Spacing) -> Array:
    """Each from the points about it that are nearest, one-sided at the ends."""
    n = u.shape[-1]
    if n < 2:
        raise ValueError("a derivative needs two points or more along an axis that is not periodic")
    places = spacing if isinstance(spacing, np.ndarray) else np.arange(n) * float(spacing)
    width = min(STENCIL, n)
    first = np.clip(np.arange(n) - width // 2, 0, n - width)
    weights = jnp.asarray(_weights(places, first, width), u.dtype)
    low, count = width // 2, n - width + 1
    inner = sum(weights[low : low + count, k] * u[..., k : k + count] for k in range(width))
    left, right = u[..., :width] @ weights[:low].T, u[..., n - width :] @ weights[low + count :].T
    return jnp.concatenate([left, jnp.asarray(inner), right], axis=-1)


def _weights(places: np.ndarray, first: np.ndarray, width: int) -> np.ndarray:
    """For each point the weights of `width` neighbours, exact for polynomials of a degree below that number."""
    offsets = places[first[:, None] + np.arange(width)] - places[:, None]
    scale = np.abs(offsets).max(axis=1, keepdims=True)
    powers = (offsets / scale)[:, None, :] ** np.arange(width)[:, None]
    slope = np.zeros((len(places), width, 1))
    slope[:, 1] = 1.0
    return np.linalg.solve(powers, slope)[..., 0] / scale


def wavenumbers(grid: Sequence[int], steps: Sequence[float], real: bool = False) -> np.ndarray:
    """The modulus of the wave vector of each mode, in radians per unit of length; `real` for those of `rfftn`."""
    along = [np.fft.fftfreq(n, h) for n, h in zip(grid, steps)]
    if real:
        along[-1] = np.fft.rfftfreq(grid[-1], steps[-1])
    squares = [(2 * np.pi * f) ** 2 for f in along]
    return np.sqrt(sum(np.ix_(*squares), start=np.zeros(())))


def higher(u: Array, order: int, axes: Sequence[int], steps: Sequence[tuple[Spacing, bool]]) -> list[Array]:
    """All derivatives of an order: one along each axis of each of the order before."""
    level = [u]
    for _ in range(order):
        level = list(itertools.chain.from_iterable(gradient(v, axes, steps) for v in level))
    return level
