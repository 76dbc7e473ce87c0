"""The metrics of The Well (Ohana et al., NeurIPS 2024 Datasets and Benchmarks; `the_well/benchmark/metrics` of its
package, version 1.2), by their definitions there.

Axes of the grid are named by `grid`; each function gives one value for each entry along all other axes (samples, lead
times, variables), in their order. The published numbers are means of these.

What to know when comparing: the mean is taken over the grid alone and the root before any other mean; `eps` = 1e-7 is
added to the denominator below the root, in squared units of the data; the variance of a target divides by the number of
points less one.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike

from ._fields import Fields, fields, in_their_precision, root
from ._spectrum import binned

Grid = int | Sequence[int]
EPS = 1e-7


@in_their_precision
def mse(prediction: ArrayLike, target: ArrayLike, *, grid: Grid) -> Array:
    """MSE: the mean square error over the grid."""
    found, shape = _fields(prediction, target, grid)
    return _mean(found, found.error**2).reshape(shape)


@in_their_precision
def mae(prediction: ArrayLike, target: ArrayLike, *, grid: Grid) -> Array:
    """MAE: the mean absolute error over the grid."""
    found, shape = _fields(prediction, target, grid)
    return _mean(found, jnp.abs(found.error)).reshape(shape)


@in_their_precision
def nmse(prediction: ArrayLike, target: ArrayLike, *, grid: Grid, eps: float = EPS) -> Array:
    """NMSE: the mean square error over the mean square of the target plus `eps`."""
    found, shape = _fields(prediction, target, grid)
    return (_mean(found, found.error**2) / (_mean(found, found.target**2) + eps)).reshape(shape)


@in_their_precision
def nmae(prediction: ArrayLike, target: ArrayLike, *, grid: Grid, eps: float = EPS) -> Array:
    """NMAE: the mean absolute error over the mean modulus of the target plus `eps`."""
    found, shape = _fields(prediction, target, grid)
    return (_mean(found, jnp.abs(found.error)) / (_mean(found, jnp.abs(found.target)) + eps)).reshape(shape)


@in_their_precision
def vmse(prediction: ArrayLike, target: ArrayLike, *, grid: Grid) -> Array:
    """VMSE: the mean square error over the variance of the target (over n - 1) plus 1e-7."""
    found, shape = _fields(prediction, target, grid)
    variance = jnp.var(found.target, found.layout.summed, ddof=1)
    return (_mean(found, found.error**2) / (variance + EPS)).reshape(shape)


@in_their_precision
def rmse(prediction: ArrayLike, target: ArrayLike, *, grid: Grid) -> Array:
    """RMSE: the root of `mse`."""
    return root(mse(prediction, target, grid=grid))


@in_their_precision
def nrmse(prediction: ArrayLike, target: ArrayLike, *, grid: Grid, eps: float = EPS) -> Array:
    """NRMSE: the root of `nmse`."""
    return root(nmse(prediction, target, grid=grid, eps=eps))


@in_their_precision
def vrmse(prediction: ArrayLike, target: ArrayLike, *, grid: Grid) -> Array:
    """VRMSE: the root of `vmse`."""
    return root(vmse(prediction, target, grid=grid))


@in_their_precision
def linf(prediction: ArrayLike, target: ArrayLike, *, grid: Grid) -> Array:
    """LInfinity: the largest absolute error on the grid."""
    found, shape = _fields(prediction, target, grid)
    return jnp.max(jnp.abs(found.error), found.layout.summed).reshape(shape)


@in_their_precision
def pearson_r(prediction: ArrayLike, target: ArrayLike, *, grid: Grid, eps: float = EPS) -> Array:
    """PearsonR: the covariance (over n) over the product of the standard deviations (over n - 1) plus `eps`; a perfect
    prediction has (n - 1) / n.
    """
    found, shape = _fields(prediction, target, grid)
    axes = found.layout.summed
    p, t = (u - jnp.mean(u, axes, keepdims=True) for u in (found.prediction, found.target))
    deviations = jnp.std(p, axes, ddof=1) * jnp.std(t, axes, ddof=1)
    return (_mean(found, p * t) / (deviations + eps)).reshape(shape)


@in_their_precision
def binned_spectral_mse(
    prediction: ArrayLike, target: ArrayLike, *, grid: Grid, edges: Sequence[float] | None = None
) -> tuple[Array, Array]:
    """binned_spectral_mse: the mean square error within bins of the modulus of wavenumbers in radians per point, and
    the same over the mean square of the target in the bin plus 1e-7; each `(*others, bins)`.

    `edges` are those of the bins, a lower one belongs to its bin and an upper one does not; by default four, evenly
    spaced by their logarithm from 2 pi / the longest side to pi sqrt(dimensions), the first replaced by 0. Modes
    outside of all bins are left out; otherwise the errors add up to `mse`. Raises ValueError for edges that do not
    rise from 0.
    """
    found, shape = _fields(prediction, target, grid)
    sides = found.target.shape[-len(found.layout.grid) :]
    limits = default_edges(sides) if edges is None else np.asarray(edges, np.float32)
    if len(limits) < 2 or limits[0] > 0 or not (np.diff(limits) > 0).all():
        raise ValueError(f"edges must rise, from 0 or below: got {np.asarray(limits).tolist()}")
    index = np.searchsorted(limits, _moduli(sides), side="right") - 1
    bins = len(limits) - 1
    counts = np.array([(index == b).sum() for b in range(bins)], np.float32)
    # A mean over the modes, whose count has 1e-7 added to it in single precision, times that count.
    factor = counts / (counts + np.float32(EPS)) / np.prod(sides, dtype=float) ** 2
    error, truth = (_power(found, u, index, bins) * jnp.asarray(factor, u.dtype) for u in (found.error, found.target))
    normalised = error / (truth + EPS)
    return error.reshape(*shape, bins), normalised.reshape(*shape, bins)


def default_edges(sides: Sequence[int]) -> np.ndarray:
    """The four edges of the default bins, rounded as The Well has them (in `torch.logspace`): on grids of 16, 32, 128,
    ... points a mode lies on an edge, and rounding decides on its bin. (Where torch rounds a square root in another way
    than the nearest number, such a mode may still be in another bin: of cubes up to 64 points those of 6 and 48.)
    """
    first, last = np.log10(2 * np.pi / max(sides)), np.log10(np.pi * np.sqrt(len(sides)) + 1e-6)
    first, last = np.float32(first), np.float32(last)
    step = float(last - first) / 3
    edges = np.array([0.0, 10 ** (float(first) + step), 10 ** (float(last) - step), 10 ** float(last)])
    return edges.astype(np.float32)


def _moduli(sides: Sequence[int]) -> np.ndarray:
    """The modulus of each mode's wave vector in radians per point, in single precision."""
    total = np.zeros(tuple(sides), np.float32)
    for axis, n in enumerate(sides):
        numbers = np.fft.ifftshift(np.arange(-(n // 2), (n + 1) // 2)).astype(np.float32)
        along = np.float32(2 * np.pi) * (numbers * np.float32(1 / n))
        total += (along**2).reshape([-1 if a == axis else 1 for a in range(len(sides))])
    return np.sqrt(total)


def _power(found: Fields, u: Array, index: np.ndarray, bins: int) -> Array:
    modes = jnp.fft.fftn(u, axes=found.layout.summed)
    return binned(modes.real**2 + modes.imag**2, index, bins)


def _fields(prediction: ArrayLike, target: ArrayLike, grid: Grid) -> tuple[Fields, tuple[int, ...]]:
    """The fields, where all that is not of the grid counts as samples, and the shape of those axes."""
    axes = [grid] if isinstance(grid, int) else list(grid)
    p, t = (jnp.moveaxis(jnp.asarray(u), axes, range(-len(axes), 0)) for u in (prediction, target))
    shape, sides = t.shape[: -len(axes)], t.shape[-len(axes) :]
    if p.shape != t.shape:
        raise ValueError(f"prediction and target must have one shape, got {p.shape} and {t.shape}")
    return fields(p.reshape(-1, *sides), t.reshape(-1, *sides)), shape


def _mean(found: Fields, values: Array) -> Array:
    return jnp.mean(values, found.layout.summed)
