"""Fields on other grids: interpolation that knows where points lie and what is beyond the ends."""

import functools
from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._axes import Axis, Bounded, Periodic, as_axes

# Points that a local interpolation uses: exact for polynomials of degree 5.
WIDTH = 6


def resample(
    u: Float[Array, "channels *grid"], shape: Sequence[int], axes: Axis | Sequence[Axis] = Periodic()
) -> Float[Array, "channels *other"]:
    """The field at the points that a grid of another shape has.

    Along periodic, cosine and sine axes this is the series through the points, evaluated at the others: exact for
    fields whose modes the grid holds; onto fewer points, modes that these do not hold are left out. Along `Bounded`
    axes it is a polynomial of degree 5 through the nearest points, with no smoothing onto fewer.

    Raises ValueError for another number of dimensions and for sizes below 1.
    """
    axes = as_axes(axes, u.ndim - 1)
    if len(shape) != len(axes) or min(shape) < 1:
        raise ValueError(f"resample: expected {len(axes)} sizes above 0, got {tuple(shape)}")
    return jnp.moveaxis(resample_last(jnp.moveaxis(u, 0, -1), shape, axes), -1, 0)


def resample_last(
    u: Float[Array, "*grid channels"], shape: Sequence[int], axes: Sequence[Axis]
) -> Float[Array, "*other channels"]:
    """As `resample`, with channels last."""
    for dim, (axis, size) in enumerate(zip(axes, shape)):
        if u.shape[dim] != size:
            matrix = jnp.asarray(_interpolation(axis, u.shape[dim], size), u.dtype)
            moved = jnp.tensordot(matrix, u, axes=(1, dim), precision=jax.lax.Precision.HIGHEST)
            u = jnp.moveaxis(moved, 0, dim)
    return u


class AtResolution(eqx.Module):
    """A model that works on a grid of its own: see `at_resolution`."""

    model: Callable
    shape: tuple[int, ...] = eqx.field(static=True)
    axes: tuple[Axis, ...]

    def __call__(self, a: Float[Array, "in_channels *grid"]) -> Float[Array, "out_channels *grid"]:
        """The output of one sample on the grid of the input."""
        out = self.model(resample(a, self.shape, self.axes))
        return resample(out, a.shape[1:], self.axes)


def at_resolution(model: Callable, shape: Sequence[int], axes: Axis | Sequence[Axis] = Periodic()) -> AtResolution:
    """The model on any grid through the one it was trained on: the input is brought to `shape`, the output back to the
    grid of the input. For models of one resolution (U-Nets, transformers, regressions), and to compare.
    """
    return AtResolution(model, tuple(shape), as_axes(axes, len(shape)))


@functools.lru_cache(maxsize=256)
def _interpolation(axis: Axis, n: int, size: int) -> np.ndarray:
    """The matrix `(size, n)` from values at n points to values at others."""
    points, places = axis.coordinates(n), axis.coordinates(size)
    if isinstance(axis, Bounded):
        return _local(points, places)
    count = min(axis.limit(n), axis.limit(size))
    # On few points modes are not orthogonal under the weights to rounding; a least-squares fit is exact on all grids.
    return _basis(axis, count, n, size, places).T @ np.linalg.pinv(_basis(axis, count, n, size, points).T)


def _basis(axis: Axis, count: int, n: int, size: int, x: np.ndarray) -> np.ndarray:
    """Real basis functions `(functions, points)`."""
    modes = axis.modes(count, x)
    if not np.iscomplexobj(modes):
        return modes
    rows = [np.real(modes), np.imag(modes[1:])]
    if n % 2 == 0 and n < size:
        # The highest wave of an even number of points, of which they see the cosine only.
        rows.append(np.cos(np.pi * n * x)[None])
    return np.concatenate(rows)


def _local(points: np.ndarray, places: np.ndarray) -> np.ndarray:
    n, width = len(points), min(WIDTH, len(points))
    first = np.clip(np.searchsorted(points, places) - width // 2, 0, n - width)
    columns = first[:, None] + np.arange(width)
    x = points[columns]
    weights = np.ones((len(places), width))
    for j in range(width):
        for k in range(width):
            if k != j:
                weights[:, j] *= (places - x[:, k]) / (x[:, j] - x[:, k])
    matrix = np.zeros((len(places), n))
    np.put_along_axis(matrix, columns, weights, axis=1)
    return matrix
