"""Local operators: kernels of compact support that tend to derivatives and integrals as the grid is refined."""

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from ._axes import Axis, Bounded, Periodic, as_axes, check_field, extra_channels, with_coordinates
from ._convolution import Convolution, along_channels


class LocalOperator(eqx.Module):
    """Neural operator of local kernels (Liu-Schiaffini et al., 2024, "Neural operators with localized integral and
    differential kernels"), without their global Fourier layers: pointwise to `width` channels, `layers` residual
    layers `u + P s(W u + D u + K u)` and a pointwise perceptron back, where s is the activation, P and W mix channels
    at each point, D is a `DifferentialKernel` and K an `IntegralKernel`.

    `(in_channels, *grid) -> (out_channels, *grid)` for any number of points (two at least along an axis that is not
    periodic). The same weights serve every grid: on smooth fields the results of finer and finer grids converge. (Of a
    field with jumps the derivatives grow without bound.) Axes that are not periodic add a channel with their
    coordinate; along periodic axes the model commutes with all translations by whole points.

    `radius` is the reach of K as a part of each axis, `basis` its number of functions along each, `stencil` the number
    of points of D. K costs a product with a matrix of n x n for each axis of n points and basis function.
    """

    lift: Convolution
    layers: list["_Layer"]
    project: list[Convolution]
    axes: tuple[Axis, ...]
    in_channels: int = eqx.field(static=True)
    activation: Callable = eqx.field(static=True)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        dimensions: int = 2,
        width: int = 32,
        layers: int = 4,
        radius: float | Sequence[float] = 0.125,
        basis: int = 3,
        stencil: int = 3,
        axes: Axis | Sequence[Axis] = Periodic(),
        activation: Callable = jax.nn.gelu,
        key: Array,
    ):
        self.axes = as_axes(axes, dimensions)
        self.in_channels = in_channels
        self.activation = activation
        pointwise = {"dimensions": dimensions, "axes": self.axes, "window": 1}
        lift, hidden, out, *keys = jax.random.split(key, layers + 3)
        self.lift = Convolution(in_channels + extra_channels(self.axes), width, **pointwise, key=lift)
        self.layers = [_Layer(width, radius, basis, stencil, activation, self.axes, k) for k in keys]
        self.project = [
            Convolution(width, width, **pointwise, key=hidden),
            Convolution(width, out_channels, **pointwise, key=out),
        ]

    def __call__(self, a: Float[Array, " in_channels *grid"]) -> Float[Array, " out_channels *grid"]:
        check_field(a, self.in_channels, len(self.axes), "LocalOperator")
        u = self.lift(with_coordinates(a, self.axes))
        for layer in self.layers:
            u = layer(u)
        hidden, out = self.project
        return out(self.activation(hidden(u)))


class _Layer(eqx.Module):
    """u + P s(W u + D u + K u)."""

    pointwise: Convolution
    differential: "DifferentialKernel"
    integral: "IntegralKernel"
    mix: Convolution
    activation: Callable = eqx.field(static=True)

    def __init__(
        self,
        width: int,
        radius: float | Sequence[float],
        basis: int,
        stencil: int,
        activation: Callable,
        axes: tuple[Axis, ...],
        key: Array,
    ):
        keys = jax.random.split(key, 4)
        grid = {"dimensions": len(axes), "axes": axes}
        self.pointwise = Convolution(width, width, window=1, **grid, key=keys[0])
        self.differential = DifferentialKernel(width, width, stencil=stencil, **grid, key=keys[1])
        self.integral = IntegralKernel(width, width, radius=radius, basis=basis, **grid, key=keys[2])
        self.mix = Convolution(width, width, window=1, **grid, key=keys[3])
        self.activation = activation

    def __call__(self, u: Array) -> Array:
        v = self.pointwise(u) + self.differential(u) + self.integral(u)
        return u + self.mix(self.activation(v))


class DifferentialKernel(eqx.Module):
    """Finite differences with learnt weights (Liu-Schiaffini et al., 2024, section 3.1): along each axis a stencil of
    sum zero, divided by the distance of the points in units of the axis. As the grid is refined it tends to
    sum_i c_i du/dx_i, where c_i, the first moment of the stencil along axis i, mixes channels.

    A stencil for each axis, instead of one over all, keeps this limit on grids that differ in their numbers of points
    along each. Beyond the ends of an axis that is not periodic the field goes on in a straight line: zeros, and
    mirrored fields that are not what the axis takes them for, would make jumps, whose derivatives grow without bound.
    """

    weight: Float[Array, "dimensions out_channels in_channels stencil"]
    axes: tuple[Axis, ...]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        dimensions: int = 2,
        stencil: int = 3,
        axes: Axis | Sequence[Axis] = Periodic(),
        key: Array,
    ):
        if stencil < 3 or stencil % 2 == 0:
            raise ValueError(f"DifferentialKernel: the stencil must have 3, 5, ... points, got {stencil}")
        self.axes = as_axes(axes, dimensions)
        # Of a wave along the axis the derivative is 2 pi times as large as the wave.
        moment = 2 * np.pi * (stencil * (stencil**2 - 1) / 12) ** 0.5
        shape = (dimensions, out_channels, in_channels, stencil)
        self.weight = jax.random.normal(key, shape) / (moment * (dimensions * in_channels) ** 0.5)

    def __call__(self, u: Float[Array, " in_channels *grid"]) -> Float[Array, " out_channels *grid"]:
        check_field(u, self.weight.shape[2], len(self.axes), "DifferentialKernel")
        dtype = jnp.result_type(u, self.weight)
        stencils = (self.weight - jnp.mean(self.weight, -1, keepdims=True)).astype(dtype)
        parts = []
        for dim, (axis, stencil) in enumerate(zip(self.axes, stencils)):
            shape = [1] * (u.ndim - 1)
            shape[dim] = -1
            kernel = stencil.reshape(*stencil.shape[:2], *shape)
            distances = _distances(axis, u.shape[dim + 1]).reshape(shape)
            padded = _continued(u.astype(dtype), axis, dim + 1, stencil.shape[-1] // 2)
            differences = lax.conv_general_dilated(padded[None], kernel, (1,) * len(shape), "VALID")[0]
            parts.append(differences / jnp.asarray(distances, dtype))
        return sum(parts[1:], start=parts[0])


def _distances(axis: Axis, n: int) -> np.ndarray:
    """How far apart points lie, at each one."""
    if isinstance(axis, Periodic):
        return axis.weights(n)
    if n < 2:
        raise ValueError(f"a derivative along a {type(axis).__name__} axis needs at least 2 points, got {n}")
    return np.gradient(axis.coordinates(n))


def _continued(u: Array, axis: Axis, dim: int, width: int) -> Array:
    """A field with smooth values beyond the ends of one of its axes."""
    if isinstance(axis, Periodic):
        return axis.pad(u, dim, width, width)
    n = u.shape[dim]
    steps = along_channels(jnp.arange(1, width + 1, dtype=u.dtype), jnp.moveaxis(u, dim, 0))
    steps = jnp.moveaxis(steps, 0, dim)
    first, second, last, before = (lax.slice_in_dim(u, i, i + 1, axis=dim) for i in (0, 1, n - 1, n - 2))
    left = first + jnp.flip(steps, dim) * (first - second)
    return jnp.concatenate([left, u, last + steps * (last - before)], dim)


class IntegralKernel(eqx.Module):
    """Integral over the neighbourhood, `v(x) = integral of k(y - x) u(y) dy` with a kernel k that vanishes where y is
    farther than `radius` from x along an axis (Liu-Schiaffini et al., 2024, section 3.2).

    For each pair of channels k is a sum of products of `basis` hat functions along each axis, of integral one, with
    learnt factors. Along each axis hats are integrated exactly over the cell of each point, which converges with the
    square of the distance of the points and keeps the integral of each hat on the coarsest grid. What lies beyond the
    ends is as the axis has it: a bounded one has nothing there, so that the integral is over the domain.
    """

    weight: Float[Array, "out_channels in_channels *basis"]
    axes: tuple[Axis, ...]
    radius: tuple[float, ...] = eqx.field(static=True)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        dimensions: int = 2,
        radius: float | Sequence[float] = 0.125,
        basis: int = 3,
        axes: Axis | Sequence[Axis] = Periodic(),
        key: Array,
    ):
        self.axes = as_axes(axes, dimensions)
        self.radius = tuple(map(float, (radius,) * dimensions if isinstance(radius, int | float) else radius))
        if len(self.radius) != dimensions or not all(r > 0 for r in self.radius) or basis < 1:
            raise ValueError(
                f"IntegralKernel: expected a positive radius, or one for each of {dimensions} axes, and at least one "
                f"basis function; got radius {radius} and basis {basis}"
            )
        shape = (out_channels, in_channels, *(basis,) * dimensions)
        self.weight = jax.random.normal(key, shape) / (in_channels * basis**dimensions) ** 0.5

    def __call__(self, u: Float[Array, " in_channels *grid"]) -> Float[Array, " out_channels *grid"]:
        dimensions, basis = len(self.axes), self.weight.shape[-1]
        check_field(u, self.weight.shape[1], dimensions, "IntegralKernel")
        dtype = jnp.result_type(u, self.weight)
        matrices = [
            jnp.asarray(_hat_integrals(axis, n, radius, basis), dtype)
            for axis, n, radius in zip(self.axes, u.shape[1:], self.radius)
        ]
        v = u.astype(dtype)
        # Hats along all axes but the last, each of which adds a dimension in front, `(..., in_channels, *grid)`;
        for dim, matrix in enumerate(matrices[:-1]):
            place = v.ndim - dimensions + dim
            v = jnp.moveaxis(jnp.tensordot(matrix, v, ((2,), (place,))), 1, place + 1)
        # then channels, and last the sum over the hats of the last axis: fewer and smaller fields than all hats first.
        inner = tuple(range(1, dimensions + 1))
        v = jnp.tensordot(self.weight.astype(dtype), v, (inner, (dimensions - 1, *reversed(range(dimensions - 1)))))
        return jnp.tensordot(v, matrices[-1], ((1, v.ndim - 1), (0, 2)))


def _hat_integrals(axis: Axis, n: int, radius: float, count: int) -> Float[np.ndarray, "count n n"]:
    """For each hat function the matrix that takes values at n points to the integrals of their products with the hat
    about each point.
    """
    x = axis.coordinates(n)
    places, values = _extended(axis, x, radius)
    middles = (places[1:] + places[:-1]) / 2
    edges = np.concatenate([[0.0], middles, [1.0]]) if isinstance(axis, Bounded) else middles
    half = 2 * radius / (count + 1)
    centres = -radius + half * np.arange(1, count + 1)
    s = np.clip((edges - x[:, None] - centres[:, None, None]) / half, -1.0, 1.0)
    below = s - np.sign(s) * s**2 / 2  # the integral of a hat of width 2 and height 1 from its centre
    return np.diff(below, axis=-1) @ values


def _extended(axis: Axis, x: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """The places of points, and of those beyond the ends that a kernel reaches; and the matrix that takes values at
    the points to those at all places that have a whole cell.
    """
    n = len(x)
    if isinstance(axis, Bounded):
        return x, np.eye(n)
    distances = np.diff(np.append(x, x[0] + 1)) if isinstance(axis, Periodic) else _distances(axis, n)
    reach = int(np.ceil(radius / distances.min())) + 1
    # One place more at each end closes the outermost cells.
    index = np.arange(-reach - 1, n + reach + 1)
    if isinstance(axis, Periodic):
        return x[index % n] + index // n, np.eye(n)[index[1:-1] % n]
    with jax.ensure_compile_time_eval():
        values = np.asarray(axis.pad(jnp.eye(n), 0, reach, reach), float)
    nearest = np.clip(index, 0, n - 1)
    return x[nearest] + (index - nearest) * distances.mean(), values
