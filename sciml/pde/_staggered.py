"""Fluxes midway between the points of a grid, and norms in which residuals of elliptic equations are errors."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ._differences import GridAxis
from ._grid_terms import Evaluation, pointwise
from ._names import Coordinate, Derivative, Meaning, Parameter, space


class Staggered(Evaluation):
    """As `Evaluation`, but the first derivative of a derived quantity along a space axis is the difference of its
    values midway between neighbours. It is zero at the ends of an axis, where one neighbour is missing.

    `mean` gives the inputs called `given` at a midpoint from those at its two ends.
    """

    def __init__(self, mean: Callable, given: frozenset[str], *arguments):
        super().__init__(*arguments)
        self.mean, self.given = mean, given

    def _partial(self, name: str, partial: tuple[int, ...]) -> Array:
        if name not in self.equations.derived or len(partial) != 1 or partial[0] not in space(self.equations.axes):
            return super()._partial(name, partial)
        if (name, partial) not in self._known:
            self._known[name, partial] = self._divergence(name, partial[0])
        return self._known[name, partial]

    def _divergence(self, name: str, axis: int) -> Array:
        along = self.axes[axis]
        meanings = self.equations.derived_meanings[name]
        arguments = {n: self._midway(m, axis) for n, m in meanings.items()}
        sizes = [1] * len(self.axes)
        sizes[axis] = len(_steps(along))
        shape = jnp.broadcast_shapes(*(jnp.shape(a) for a in arguments.values()), tuple(sizes))
        flux = pointwise(self.equations.derived[name], arguments, shape, self.dtype)
        place = flux.ndim - len(self.axes) + axis
        flux, steps = jnp.moveaxis(flux, place, -1), jnp.asarray(_steps(along), self.dtype)
        if along.period is None:
            out = 2 * (flux[..., 1:] - flux[..., :-1]) / (steps[1:] + steps[:-1])
            out = jnp.pad(out, [(0, 0)] * (out.ndim - 1) + [(1, 1)])
        else:
            out = 2 * (flux - jnp.roll(flux, 1, -1)) / (steps + jnp.roll(steps, 1))
            out = jnp.concatenate([out, out[..., :1]], axis=-1) if along.closed else out
        return jnp.moveaxis(out, -1, place)

    def _midway(self, meaning: Meaning, axis: int) -> Array:
        """What a name stands for at the midpoints of an axis."""
        along, steps = self.axes[axis], jnp.asarray(_steps(self.axes[axis]), self.dtype)
        shape = [1] * len(self.axes)
        shape[axis] = -1
        if meaning == Coordinate(axis):
            points = jnp.asarray(along.points[: len(steps)], self.dtype)
            return (points + steps / 2).reshape(shape)
        if isinstance(meaning, Derivative) and meaning.partial == (axis,):
            low, high = self._neighbours(self._quantity(meaning.of), axis)
            return (high - low) / steps.reshape(shape)
        array = self._read(meaning, None)
        if jnp.ndim(array) == 0:
            return array
        low, high = self._neighbours(array, axis)
        value = isinstance(meaning, Derivative) and meaning.partial == ()
        name = meaning.of if isinstance(meaning, Derivative) and value else getattr(meaning, "name", None)
        if name in self.given and (value or isinstance(meaning, Parameter)):
            return self.mean(low, high)
        return (low + high) / 2

    def _neighbours(self, array: Array, axis: int) -> tuple[Array, Array]:
        """The values at both ends of every step."""
        along, place = self.axes[axis], array.ndim - len(self.axes) + axis
        if array.shape[place] == 1:
            return array, array
        array = jnp.moveaxis(array, place, -1)
        if along.period is None:
            low, high = array[..., :-1], array[..., 1:]
        else:
            low = array[..., :-1] if along.closed else array
            high = jnp.roll(low, -1, -1)
        return jnp.moveaxis(low, -1, place), jnp.moveaxis(high, -1, place)


def _steps(along: GridAxis) -> np.ndarray:
    """From each point to the next one; on a periodic axis from the last to the first one too."""
    points = np.asarray(along.points, float)
    if along.period is None or along.closed:
        return np.diff(points)
    return np.diff(np.append(points, points[0] + along.period * np.sign(points[-1] - points[0])))


def inner_part(residual: Array, axes: tuple[GridAxis, ...], cut: tuple[int, ...]) -> Array:
    """Without the ends of some axes; of a periodic one, without the last point that repeats the first one."""
    for i in cut:
        place = residual.ndim - len(axes) + i
        if residual.shape[place] > 1:
            stop = residual.shape[place] - (axes[i].period is None or axes[i].closed)
            index = slice(1 if axes[i].period is None else 0, stop)
            residual = residual[(slice(None),) * place + (index,)]
    return residual


def sobolev(residual: Array, axes: tuple[GridAxis, ...], along: tuple[int, ...], norm: float) -> Array:
    """Coefficients of residuals at inner points whose mean square is the squared norm in the Sobolev space H^norm, over
    the size of the domain. With w the solution of -Laplacian w = residual (three-point differences, w = 0 at the ends)
    it is the mean of |grad w|^2 for the norm -1, of w^2 for -2.

    A constant residual on periodic axes, for which there is no w, counts as the slowest wave does.
    """
    shape = list(residual.shape)
    total = np.zeros([1] * len(axes))
    for i in along:
        basis, numbers = _modes(axes[i])
        place = residual.ndim - len(axes) + i
        shape[place] = len(numbers)
        residual = jnp.broadcast_to(residual, shape)
        residual = jnp.moveaxis(jnp.moveaxis(residual, place, -1) @ jnp.asarray(basis, residual.dtype), -1, place)
        total = total + numbers.reshape([-1 if j == i else 1 for j in range(len(axes))])
    total = np.maximum(total, total[total > 1e-9 * total.max()].min())
    return residual * jnp.asarray(total ** (norm / 2), residual.dtype)


def _modes(axis: GridAxis) -> tuple[np.ndarray, np.ndarray]:
    """The eigenvalues of minus the second difference on the inner points of an axis, and the matrix that gives from
    values there the coefficients of the eigenvectors (of mean square 1, weighted by the length of each point).
    """
    steps = np.abs(_steps(axis))
    before, after = (steps[:-1], steps[1:]) if axis.period is None else (np.roll(steps, 1), steps)
    n, lengths = len(after), (before + after) / 2
    if n < 2:
        raise ValueError(f"norm: the axis '{axis.name}' has {n} inner points, expected 2 or more")
    stiffness = np.diag(1 / before + 1 / after)
    for k in range(n if axis.period is not None else n - 1):
        stiffness[k, (k + 1) % n] -= 1 / after[k]
        stiffness[(k + 1) % n, k] -= 1 / after[k]
    root = np.sqrt(lengths)
    numbers, vectors = np.linalg.eigh(stiffness / np.outer(root, root))
    return root[:, None] * vectors * np.sqrt(n / lengths.sum()), np.maximum(numbers, 0.0)
