"""Operators on graphs of points: kernel integrals over neighbourhoods, alone or around an operator on a grid."""

import math
from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from numpy.typing import ArrayLike

from ..nn import mlp
from ._axes import Axis, Bounded, Periodic, as_axes
from ._neighbours import Edges, Period, radius_edges

Box = Sequence[tuple[float, float]]


class KernelIntegral(eqx.Module):
    """For each receiver x the integral over its senders y of `k(y - x, c(y), c(x)) * v(y)`, channel by channel, with
    the kernel k a multilayer perceptron of the offset, its square (both in units of `radius`) and the contexts c.

    Each sender counts by its quadrature weight and by the window `(1 - |y - x|^2 / radius^2)^2`, which is 0 from the
    radius on: points that come within reach do so smoothly. With `average` the integral is divided by that of the
    window alone (0 where there is no neighbour), so that it needs weights up to a factor only; without, it is a sum.
    """

    kernel: Callable
    radius: float = eqx.field(static=True)
    average: bool = eqx.field(static=True)
    period: tuple[float | None, ...] | None = eqx.field(static=True)

    def __call__(
        self,
        values: Float[Array, "n channels"],
        points: Float[Array, "n d"],
        targets: Float[Array, "m d"],
        edges: Edges,
        weights: Float[Array, " n"],
        contexts: tuple[Float[Array, "n c"], Float[Array, "m c"]] | None = None,
    ) -> Float[Array, "m channels"]:
        # Padded edges may hold any number.
        senders, receivers = (jnp.where(edges.mask, index, 0) for index in edges[:2])
        offsets = self._nearest_image(points[senders] - targets[receivers]) / self.radius
        squares = jnp.sum(offsets**2, axis=1)
        window = jnp.where(edges.mask & (squares < 1), (1 - squares) ** 2, 0)
        share = weights[senders] * window
        inputs = [offsets, squares[:, None]]
        if contexts is not None:
            inputs += [contexts[0][senders], contexts[1][receivers]]
        kernel = jax.vmap(self.kernel)(jnp.concatenate(inputs, axis=1))
        messages = share[:, None] * kernel * values[senders]
        total = jax.ops.segment_sum(messages, receivers, len(targets))
        if not self.average:
            return total
        measure = jax.ops.segment_sum(share, receivers, len(targets))
        return total / jnp.where(measure > 0, measure, 1)[:, None]

    def _nearest_image(self, offsets: Array) -> Array:
        """Offsets in a periodic box, to the nearest of the images."""
        if self.period is None:
            return offsets
        columns = [
            offset if length is None else offset - length * jnp.round(offset / length)
            for offset, length in zip(offsets.T, self.period)
        ]
        return jnp.stack(columns, axis=1)


class _Layer(eqx.Module):
    """`v + C f(A v' + integral of k * B v')`, where v' is v normalised at each point."""

    norm: eqx.nn.LayerNorm
    local: eqx.nn.Linear
    value: eqx.nn.Linear
    integral: KernelIntegral
    out: eqx.nn.Linear
    activation: Callable

    def __call__(self, v, points, edges, weights, context):
        normed = jax.vmap(self.norm)(v)
        near = self.integral(jax.vmap(self.value)(normed), points, points, edges, weights, (context, context))
        return v + jax.vmap(self.out)(self.activation(jax.vmap(self.local)(normed) + near))


class GraphOperator(eqx.Module):
    """Layers of kernel integrals over the neighbours of each point (graph neural operator: Li et al., "Neural
    operator: graph kernel network for partial differential equations", 2020, eq. 8), on any points and edges: clouds
    (`radius_edges`, `nearest_edges`) and meshes (`mesh_edges`).

    The kernel depends on the offset between two points and on the features at both; places themselves are no input,
    so that the operator commutes with translations (give coordinates as features where it must not). It multiplies
    channel by channel, between dense maps at each point, in place of the paper's matrix for each edge. Layers are
    residual, with layer normalisation at each point.

    - `radius`: how far a point reaches: edges as long or longer do not count.
    - `average`: whether integrals are divided by the size of the neighbourhood; see `KernelIntegral`. With quadrature
      weights and edges of that radius the operator converges as points are refined.
    - `kernel_width`: width of the hidden layer of kernels, by default `width`.
    - `period`: of the box, as in `radius_edges`.
    """

    lift: eqx.nn.Linear
    layers: tuple[_Layer, ...]
    norm: eqx.nn.LayerNorm
    project: eqx.nn.MLP
    in_channels: int = eqx.field(static=True)
    dimensions: int = eqx.field(static=True)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        radius: float,
        dimensions: int = 2,
        width: int = 64,
        layers: int = 4,
        kernel_width: int | None = None,
        average: bool = True,
        period: Period = None,
        activation: Callable = jax.nn.gelu,
        key: Array,
    ):
        lift, project, *keys = jax.random.split(key, 2 + layers)
        self.lift = eqx.nn.Linear(in_channels, width, key=lift)
        self.norm = eqx.nn.LayerNorm(width)
        self.project = eqx.nn.MLP(width, out_channels, width, 1, activation, key=project)
        self.in_channels, self.dimensions = in_channels, dimensions

        def layer(key):
            first, second, third, fourth = jax.random.split(key, 4)
            size = dimensions + 1 + 2 * in_channels
            kernel = mlp(size, width, kernel_width or width, 1, activation, key=first)
            return _Layer(
                eqx.nn.LayerNorm(width),
                eqx.nn.Linear(width, width, key=second),
                eqx.nn.Linear(width, width, key=third),
                KernelIntegral(kernel, _checked(radius), average, _periods(period, dimensions)),
                eqx.nn.Linear(width, width, key=fourth),
                activation,
            )

        self.layers = tuple(layer(k) for k in keys)

    def __call__(
        self,
        features: Float[Array, "in_channels n"],
        points: Float[Array, "n d"],
        edges: Edges,
        weights: Float[Array, " n"] | None = None,
        mask: Bool[Array, " n"] | None = None,
    ) -> Float[Array, "out_channels n"]:
        """The output at the points of one cloud; 0 where the mask is False.

        - `edges`: of this cloud; `weights`: quadrature weights of the points, by default all 1.
        - `mask`: False at padding, which may hold anything.

        Raises ValueError for features or points of another shape.
        """
        check_cloud(features, points, self.in_channels, self.dimensions, "GraphOperator")
        features, points, share, there = cleared(features, points, weights, mask)
        context = features.T
        v = jax.vmap(self.lift)(context)
        for layer in self.layers:
            v = layer(v, points, edges, share, context)
        out = jax.vmap(lambda x: self.project(self.norm(x)))(v)
        return jnp.where(there, out.T, 0)


class FourierGraphOperator(eqx.Module):
    """Points to a regular grid by a kernel integral, an operator on the grid, and back to points by another (geometry-
    informed neural operator: Li et al., NeurIPS 2023, section 3).

    - `latent`: any operator on grids `(width + grid_channels, *grid) -> (channels, *grid)`, such as an `FNO`.
    - `grid`: the shape of the grid; `box`: the (lower, upper) end of it in each dimension, by default (0, 1);
      `axes`: where its points lie, and along which dimensions it is periodic.
    - `radius`: of both integrals, by default the diagonal of a cell, within which every place of the box has points of
      the grid. Where clouds are coarser than the grid, a larger one lets every point of the grid see some.
    - `grid_channels`: of fields that are known on the grid (such as a signed distance), added before `latent`.

    Raises ValueError where `latent` does not take and return fields on this grid.
    """

    lift: eqx.nn.MLP
    encode: KernelIntegral
    latent: Callable
    decode: KernelIntegral
    value: eqx.nn.Linear
    project: eqx.nn.MLP
    in_channels: int = eqx.field(static=True)
    grid_channels: int = eqx.field(static=True)
    grid: tuple[int, ...] = eqx.field(static=True)
    box: tuple[tuple[float, float], ...] = eqx.field(static=True)
    axes: tuple[Axis, ...]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        latent: Callable,
        *,
        grid: Sequence[int],
        box: Box | None = None,
        axes: Axis | Sequence[Axis] = Bounded(),
        radius: float | None = None,
        width: int = 64,
        grid_channels: int = 0,
        activation: Callable = jax.nn.gelu,
        key: Array,
    ):
        keys = jax.random.split(key, 5)
        dimensions = len(grid)
        self.in_channels, self.grid_channels, self.grid = in_channels, grid_channels, tuple(grid)
        self.axes, self.box = as_axes(axes, dimensions), _box(box, dimensions)
        period = [b - a if isinstance(axis, Periodic) else None for axis, (a, b) in zip(self.axes, self.box)]
        reach = _diagonal(self.grid, self.axes, self.box) if radius is None else _checked(radius)
        integral = (reach, True, _periods(period, dimensions))
        channels = _latent_channels(latent, (width + grid_channels, *self.grid))
        self.lift = eqx.nn.MLP(in_channels, width, width, 1, activation, key=keys[0])
        self.encode = KernelIntegral(mlp(dimensions + 1, width, width, 1, activation, key=keys[1]), *integral)
        self.latent = latent
        self.value = eqx.nn.Linear(channels, width, key=keys[2])
        self.decode = KernelIntegral(mlp(dimensions + 1, width, width, 1, activation, key=keys[3]), *integral)
        self.project = eqx.nn.MLP(width, out_channels, width, 1, activation, key=keys[4])

    def edges(self, points: ArrayLike, queries: ArrayLike | None = None) -> tuple[Edges, Edges]:
        """The edges from the points `(n, d)` of a cloud to the grid, and from the grid to the queries `(m, d)`, by
        default the points. Computed on the host, before padding.

        Raises ValueError for a query that has no point of the grid within the radius.
        """
        nodes = grid_points(self.grid, self.axes, self.box)
        queries = np.asarray(points if queries is None else queries)
        reach, period = self.encode.radius, self.encode.period
        forth = radius_edges(points, reach, targets=nodes, period=period)
        back = radius_edges(nodes, reach, targets=queries, period=period)
        alone = np.bincount(back.receivers[back.mask], minlength=len(queries)) == 0
        if alone.any():
            place = queries[alone.argmax()].tolist()
            raise ValueError(
                f"FourierGraphOperator: {alone.sum()} queries have no point of the grid within {reach:g}, the first is "
                f"at {place}; the box is {self.box}"
            )
        return forth, back

    def __call__(
        self,
        features: Float[Array, "in_channels n"],
        points: Float[Array, "n d"],
        encode: Edges,
        decode: Edges,
        weights: Float[Array, " n"] | None = None,
        mask: Bool[Array, " n"] | None = None,
        *,
        queries: Float[Array, "m d"] | None = None,
        query_mask: Bool[Array, " m"] | None = None,
        grid_features: Float[Array, "grid_channels *grid"] | None = None,
    ) -> Float[Array, "out_channels m"]:
        """The output at `queries`, by default the points; 0 where their mask is False.

        - `encode`, `decode`: what `edges` returned; `weights`, `mask`: as of `GraphOperator`.

        Raises ValueError for features, points or fields on the grid of another shape.
        """
        check_cloud(features, points, self.in_channels, len(self.grid), "FourierGraphOperator")
        given = None if grid_features is None else grid_features.shape
        expected = (self.grid_channels, *self.grid) if self.grid_channels else None
        if given != expected:
            raise ValueError(f"FourierGraphOperator: expected grid_features of shape {expected}, got {given}")
        features, points, share, there = cleared(features, points, weights, mask)
        places, wanted = points, there
        if queries is not None:
            wanted = jnp.ones(len(queries), bool) if query_mask is None else query_mask
            places = jnp.where(wanted[:, None], queries, 0)
        nodes = jnp.asarray(grid_points(self.grid, self.axes, self.box), points.dtype)
        lifted = jax.vmap(self.lift)(features.T)
        field = self.encode(lifted, points, nodes, encode, share).T.reshape(-1, *self.grid)
        if grid_features is not None:
            field = jnp.concatenate([field, grid_features])
        out = self.latent(field)
        values = jax.vmap(self.value)(out.reshape(out.shape[0], -1).T)
        cells = jnp.asarray(grid_weights(self.grid, self.axes), values.dtype)
        v = self.decode(values, nodes, places, decode, cells)
        return jnp.where(wanted, jax.vmap(self.project)(v).T, 0)


def grid_points(shape: Sequence[int], axes: Axis | Sequence[Axis] = Bounded(), box: Box | None = None) -> np.ndarray:
    """The points of a regular grid as a cloud, `(n, d)`, in the order of a flattened field; `box` has the (lower,
    upper) end of each dimension, by default (0, 1).
    """
    several, ends = as_axes(axes, len(shape)), _box(box, len(shape))
    places = [a + (b - a) * axis.coordinates(n) for axis, n, (a, b) in zip(several, shape, ends)]
    return np.stack(np.meshgrid(*places, indexing="ij"), axis=-1).reshape(-1, len(shape))


def check_cloud(features: Array, points: Array, channels: int, dimensions: int, name: str) -> None:
    """Raises ValueError unless these are features and points of one cloud."""
    n = points.shape[0]
    if features.shape != (channels, n) or points.shape != (n, dimensions):
        raise ValueError(
            f"{name}: expected features ({channels}, n) and points (n, {dimensions}) of one cloud, got "
            f"{features.shape} and {points.shape}; a batch needs jax.vmap"
        )


def cleared(
    features: Array, points: Array, weights: Array | None, mask: Array | None
) -> tuple[Array, Array, Array, Array]:
    """The cloud with zeros at padding, weights and mask of ones where there are none. (A NaN that is only multiplied
    by zero, or left out after the computation, comes back in the gradient.)
    """
    n = points.shape[0]
    there = jnp.ones(n, bool) if mask is None else mask
    share = jnp.ones(n, features.dtype) if weights is None else weights.astype(features.dtype)
    return jnp.where(there, features, 0), jnp.where(there[:, None], points, 0), jnp.where(there, share, 0), there


def _checked(radius: float) -> float:
    if not 0 < radius < math.inf:
        raise ValueError(f"the radius must be above 0 and finite, got {radius}")
    return float(radius)


def _periods(period: Period, dimensions: int) -> tuple[float | None, ...] | None:
    if period is None or isinstance(period, float | int):
        period = [period] * dimensions
    if len(period) != dimensions:
        raise ValueError(f"expected a period, or None, for each of {dimensions} dimensions; got {tuple(period)}")
    return None if all(p is None for p in period) else tuple(None if p is None else float(p) for p in period)


def _box(box: Box | None, dimensions: int) -> tuple[tuple[float, float], ...]:
    ends = tuple((float(a), float(b)) for a, b in box or [(0.0, 1.0)] * dimensions)
    if len(ends) != dimensions or any(not a < b for a, b in ends):
        raise ValueError(f"expected (lower, upper) for each of {dimensions} dimensions, got {ends}")
    return ends


def _diagonal(shape: Sequence[int], axes: Sequence[Axis], box: Box) -> float:
    """The diagonal of the largest cell."""
    gaps = [(b - a) * np.diff(axis.coordinates(n)).max(initial=0) for axis, n, (a, b) in zip(axes, shape, box)]
    return _checked(math.hypot(*gaps))


def grid_weights(shape: Sequence[int], axes: Sequence[Axis]) -> np.ndarray:
    weights = np.ones(())
    for axis, n in zip(axes, shape):
        weights = np.multiply.outer(weights, axis.weights(n))
    return weights.ravel()


def _latent_channels(latent: Callable, shape: tuple[int, ...]) -> int:
    out = eqx.filter_eval_shape(latent, jax.ShapeDtypeStruct(shape, jnp.zeros(()).dtype))
    if getattr(out, "shape", ())[1:] != shape[1:]:
        raise ValueError(f"FourierGraphOperator: latent must take {shape} to (channels, *{shape[1:]}), it gave {out}")
    return out.shape[0]
