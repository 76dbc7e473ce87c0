"""DeepONet and its kin: a function's values at sensors and a query point in, the operator's value at that point out."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from numpy.typing import ArrayLike

from ..nn import mlp

Shape = int | tuple[int, ...]


class DeepONet(eqx.Module):
    """`sum_k b_k(a) t_k(x)`: coefficients from the branch network, basis functions from the trunk network (Lu, Jin,
    Pang, Zhang & Karniadakis, Nature Machine Intelligence 3, 2021, eq. 2). Each output channel has its own
    coefficients and basis functions ("split both", Lu et al., CMAME 393, 2022, section 3.1.6); the sum is divided by
    the square root of their number, so that it is of order one at the start.

    `sensors` is the shape of one input, `(channels, *grid)` or the number of sensors. A `branch` given is called with
    the input as it is and returns `out_channels * basis` numbers in any shape; the default is a multilayer perceptron
    of the flattened input. A `trunk` given takes a point `(dimensions,)` to `out_channels * basis` numbers; the
    default expects coordinates of order one.

    Called with one point it is a function of the point like a network of the PINN kind:
    `jax.jacfwd(lambda x: model(a, x))`.
    """

    branch: Callable
    trunk: Callable
    bias: Float[Array, " out_channels"]
    sensors: tuple[int, ...] = eqx.field(static=True)
    dimensions: int = eqx.field(static=True)
    basis: int = eqx.field(static=True)

    def __init__(
        self,
        sensors: Shape,
        out_channels: int,
        *,
        dimensions: int = 2,
        basis: int = 64,
        width: int = 128,
        layers: int = 3,
        branch: Callable | None = None,
        trunk: Callable | None = None,
        activation: Callable = jax.nn.gelu,
        key: Array,
    ):
        branch_key, trunk_key = jax.random.split(key)
        count = out_channels * basis
        self.sensors = _shape(sensors)
        self.branch = branch or _branch(self.sensors, count, width, layers, activation, branch_key)
        self.trunk = trunk or mlp(dimensions, count, width, layers, activation, key=trunk_key)
        self.bias = jnp.zeros(out_channels)
        self.dimensions, self.basis = dimensions, basis

    def __call__(
        self,
        a: Float[Array, "*sensors"],
        points: Float[Array, "*n d"],
        mask: Bool[Array, "*n"] | None = None,
    ) -> Float[Array, "out_channels *n"]:
        """The output at `points`, `(n, d)` or one `(d,)`; 0 where the mask is False.

        Raises ValueError for an input or points of another shape.
        """
        count = len(self.bias)
        coefficients = _coefficients(self.branch, a, self.sensors, (count, self.basis), "DeepONet")
        return _at_points(coefficients, self.trunk, self.bias, points, mask, self.dimensions)


class MultipleInputDeepONet(eqx.Module):
    """A DeepONet of several input functions: `sum_k b1_k(a1) b2_k(a2) ... t_k(x)`, one branch for each input (MIONet:
    Jin, Meng & Lu, SIAM J. Sci. Comput. 44, 2022, eq. 2.13).

    `sensors` has the shape of each input and `branches` the network of each, None for a multilayer perceptron; the
    rest as of `DeepONet`.
    """

    branches: tuple[Callable, ...]
    trunk: Callable
    bias: Float[Array, " out_channels"]
    sensors: tuple[tuple[int, ...], ...] = eqx.field(static=True)
    dimensions: int = eqx.field(static=True)
    basis: int = eqx.field(static=True)

    def __init__(
        self,
        sensors: Sequence[Shape],
        out_channels: int,
        *,
        dimensions: int = 2,
        basis: int = 64,
        width: int = 128,
        layers: int = 3,
        branches: Sequence[Callable | None] | None = None,
        trunk: Callable | None = None,
        activation: Callable = jax.nn.gelu,
        key: Array,
    ):
        given = tuple(branches or [None] * len(sensors))
        if not sensors or len(given) != len(sensors):
            raise ValueError(f"MultipleInputDeepONet: {len(sensors)} shapes of sensors, {len(given)} branches")
        trunk_key, *keys = jax.random.split(key, 1 + len(given))
        count = out_channels * basis
        self.sensors = tuple(_shape(s) for s in sensors)
        self.branches = tuple(
            b or _branch(s, count, width, layers, activation, k) for b, s, k in zip(given, self.sensors, keys)
        )
        self.trunk = trunk or mlp(dimensions, count, width, layers, activation, key=trunk_key)
        self.bias = jnp.zeros(out_channels)
        self.dimensions, self.basis = dimensions, basis

    def __call__(self, *inputs_and_points: Float[Array, "..."]) -> Float[Array, "out_channels *n"]:
        """`model(a1, a2, ..., points)`: the output at `points`, `(n, d)` or one `(d,)`.

        Raises ValueError for another number of inputs, and for an input or points of another shape.
        """
        *inputs, points = inputs_and_points
        if len(inputs) != len(self.branches):
            raise ValueError(
                f"MultipleInputDeepONet: expected {len(self.branches)} inputs and points, got {len(inputs)}"
            )
        shape = (len(self.bias), self.basis)
        product = jnp.ones(())
        for branch, a, sensors in zip(self.branches, inputs, self.sensors):
            product = product * _coefficients(branch, a, sensors, shape, "MultipleInputDeepONet")
        return _at_points(product, self.trunk, self.bias, points, None, self.dimensions)


class Basis(eqx.Module):
    """The mean and the leading modes of fields on fixed points, of each channel by itself, on the host: see `pod`.

    - `mean`: `(channels, *grid)`; `modes`: `(channels, count, *grid)`, orthonormal under the weights.
    - `weights`: `(*grid,)`; `singular_values`: all of them, `(channels, rank)`.
    - `deviations`: root mean square of each coefficient over the samples, `(channels, count)`.
    """

    mean: np.ndarray
    modes: np.ndarray
    weights: np.ndarray
    singular_values: np.ndarray
    deviations: np.ndarray

    def project(self, u: Float[Array, "channels *grid"]) -> Float[Array, "channels count"]:
        """The coefficients of a field: integrals of its difference from the mean times each mode."""
        weighted = (u - jnp.asarray(self.mean, u.dtype)) * jnp.asarray(self.weights, u.dtype)
        modes = jnp.asarray(self.modes, u.dtype)
        return jnp.sum(weighted[:, None] * modes, axis=tuple(range(2, modes.ndim)))

    def expand(self, coefficients: Float[Array, "channels count"]) -> Float[Array, "channels *grid"]:
        """The field of given coefficients."""
        modes = jnp.asarray(self.modes, coefficients.dtype)
        return jnp.asarray(self.mean, coefficients.dtype) + jnp.einsum("ck,ck...->c...", coefficients, modes)


def pod(targets: ArrayLike, count: int, weights: ArrayLike | None = None) -> Basis:
    """The proper orthogonal decomposition of fields `(samples, channels, *grid)`: for each channel the mean and the
    `count` modes, orthonormal under the quadrature weights `(*grid,)` (by default 1 / number of points), that are
    nearest to the fields in the mean square. What they leave of all fields, squared and integrated, is the sum of the
    squares of the other singular values. Computed in double precision on the host.

    Raises ValueError for fields or weights that are not finite or of another shape, weights not above 0, and more
    modes than samples or points.
    """
    fields = np.asarray(targets, float)
    if fields.ndim < 3 or not np.isfinite(fields).all():
        raise ValueError(f"pod: expected finite fields (samples, channels, *grid), got shape {fields.shape}")
    samples, channels, *grid = fields.shape
    points = math.prod(grid)
    w = np.full(grid, 1 / points) if weights is None else np.asarray(weights, float)
    if w.shape != tuple(grid) or not (np.isfinite(w) & (w > 0)).all():
        raise ValueError(f"pod: expected weights above 0 of shape {tuple(grid)}, got shape {w.shape}")
    if not 1 <= count <= min(samples, points):
        raise ValueError(f"pod: count must be 1 to {min(samples, points)} for {samples} fields of {points} points")
    mean = fields.mean(axis=0)
    scaled = ((fields - mean) * np.sqrt(w)).reshape(samples, channels, points).transpose(1, 0, 2)
    _, singular, right = np.linalg.svd(scaled, full_matrices=False)
    modes = right[:, :count].reshape(channels, count, *grid) / np.sqrt(w)
    return Basis(mean, modes, w, singular, singular[:, :count] / np.sqrt(samples))


class PODDeepONet(eqx.Module):
    """A DeepONet whose trunk is the POD basis of the training targets (Lu et al., CMAME 393, 2022, section 3.1.3): the
    mean plus modes times coefficients from the branch. It gives the output on the points of the targets, all at once,
    and on no others.

    `sensors` and `branch` as of `DeepONet`, with `channels * count` coefficients, each in units of its root mean
    square over the training targets, so that the branch has to give numbers of order one.
    """

    branch: Callable
    table: Array | np.ndarray
    sensors: tuple[int, ...] = eqx.field(static=True)

    def __init__(
        self,
        sensors: Shape,
        basis: Basis,
        *,
        width: int = 128,
        layers: int = 3,
        branch: Callable | None = None,
        activation: Callable = jax.nn.gelu,
        key: Array,
    ):
        self.sensors = _shape(sensors)
        self.branch = branch or _branch(self.sensors, basis.deviations.size, width, layers, activation, key)
        spread = (..., *(None,) * (basis.modes.ndim - 2))
        scaled = basis.modes * basis.deviations[spread]
        self.table = _words(np.concatenate([basis.mean[:, None], scaled], axis=1))

    def __call__(self, a: Float[Array, "*sensors"]) -> Float[Array, "channels *grid"]:
        """The output on the grid of the basis. Raises ValueError for an input of another shape."""
        _, channels, rows, *_ = self.table.shape
        numbers = _coefficients(self.branch, a, self.sensors, (channels, rows - 1), "PODDeepONet")
        table = _numbers(self.table, numbers.dtype)
        return table[:, 0] + jnp.einsum("ck,ck...->c...", numbers, table[:, 1:])


def _words(values: np.ndarray) -> np.ndarray:
    """Real numbers as two float32 each (their sum has 48 bits), and those as integers: all floating-point arrays of a
    model are trained, or at least decayed, and these must stay as they are.
    """
    high = values.astype(np.float32)
    return np.stack([high, (values - high).astype(np.float32)]).view(np.uint32)


def _numbers(words: Array | np.ndarray, dtype: Any) -> Array:
    """The inverse of `_words`."""
    high, low = jax.lax.bitcast_convert_type(words, jnp.float32).astype(dtype)
    return high + low


class _Flat(eqx.Module):
    """A network of the flattened input."""

    network: Callable

    def __call__(self, a: Array) -> Array:
        return self.network(a.reshape(-1))


def _shape(sensors: Shape) -> tuple[int, ...]:
    return (sensors,) if isinstance(sensors, int) else tuple(sensors)


def _branch(sensors, count, width, layers, activation, key) -> Callable:
    size = math.prod(sensors)
    # Sensors are many and alike: their weighted sum is to be of order one.
    return _Flat(mlp(size, count, width, layers, activation, spread=size**-0.5, key=key))


def _coefficients(branch: Callable, a: Array, sensors: tuple[int, ...], shape: tuple[int, ...], name: str) -> Array:
    if a.shape != sensors:
        raise ValueError(f"{name}: expected one input of shape {sensors}, got {a.shape}; a batch needs jax.vmap")
    numbers = branch(a)
    if numbers.size != math.prod(shape):
        raise ValueError(
            f"{name}: the branch must return {shape[0]} channels x {shape[1]} numbers, it returned {numbers.shape}"
        )
    return numbers.reshape(shape)


def _at_points(coefficients: Array, trunk: Callable, bias: Array, points: Array, mask: Array | None, dimensions: int):
    if points.ndim not in (1, 2) or points.shape[-1] != dimensions:
        raise ValueError(
            f"expected points (n, {dimensions}) or one point ({dimensions},), got {points.shape}; "
            "a batch needs jax.vmap"
        )

    def at(x: Array) -> Array:
        values = trunk(x)
        if values.size != coefficients.size:
            raise ValueError(f"the trunk must return {coefficients.size} numbers, it returned {values.shape}")
        products = coefficients * values.reshape(coefficients.shape)
        return jnp.sum(products, axis=1) / coefficients.shape[1] ** 0.5 + bias

    if mask is not None:
        points = jnp.where(mask[..., None], points, 0)
    out = at(points) if points.ndim == 1 else jax.vmap(at, out_axes=1)(points)
    return out if mask is None else jnp.where(mask, out, 0)
