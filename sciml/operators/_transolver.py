"""Transolver: attention among slices of a set of points, in time linear in their number."""

import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ._axes import Axis, Bounded, as_axes
from ._graph import check_cloud, cleared, grid_points, grid_weights


class PhysicsAttention(eqx.Module):
    """Points are assigned softly to slices, attention takes place among the slices' means, and each point gets back
    the results of its slices (Wu, Luo, Wang, Wang & Long, "Transolver", ICML 2024, eqs. 1-3), with the heads beside
    each other. A slice's mean is an integral: points count by their quadrature weights.
    """

    values: eqx.nn.Linear
    places: eqx.nn.Linear
    slices: eqx.nn.Linear
    log_temperature: Float[Array, " heads"]
    mix: Float[Array, "three size size"]
    out: eqx.nn.Linear

    def __init__(self, width: int, heads: int, slices: int, *, key: Array):
        keys = jax.random.split(key, 5)
        size = width // heads
        self.values = eqx.nn.Linear(width, width, key=keys[0])
        self.places = eqx.nn.Linear(width, width, key=keys[1])
        self.slices = eqx.nn.Linear(size, slices, key=keys[2])
        # The authors' code starts at 0.5; its logarithm keeps the temperature above 0.
        self.log_temperature = jnp.full(heads, math.log(0.5))
        self.mix = jax.random.normal(keys[3], (3, size, size)) / size**0.5
        self.out = eqx.nn.Linear(width, width, key=keys[4])

    def __call__(self, v: Float[Array, "n width"], weights: Float[Array, " n"]) -> Float[Array, "n width"]:
        heads = self.log_temperature.shape[0]
        values, places = (jax.vmap(f)(v).reshape(len(v), heads, -1) for f in (self.values, self.places))
        logits = jax.vmap(jax.vmap(self.slices))(places) / jnp.exp(self.log_temperature)[:, None]
        share = jax.nn.softmax(logits, axis=-1)
        counted = share * weights[:, None, None]
        measure = jnp.sum(counted, axis=0)
        # A slice with next to no points has a mean of 0 rather than of rounding errors.
        tokens = jnp.einsum("nhs,nhc->hsc", counted, values) / (measure + 1e-5 * jnp.sum(weights) + _tiny(v))[..., None]
        queries, keys, contents = jnp.einsum("hsc,icd->ihsd", tokens, self.mix)
        scores = jnp.einsum("hsd,htd->hst", queries, keys) / queries.shape[-1] ** 0.5
        tokens = jnp.einsum("hst,htd->hsd", jax.nn.softmax(scores, axis=-1), contents)
        back = jnp.einsum("nhs,hsd->nhd", share, tokens)
        return jax.vmap(self.out)(back.reshape(len(v), -1))


class _Block(eqx.Module):
    """Attention and a network at each point, both residual and of normalised values (eq. 5 of the paper)."""

    first: eqx.nn.LayerNorm
    attention: PhysicsAttention
    second: eqx.nn.LayerNorm
    network: eqx.nn.MLP

    def __init__(self, width, heads, slices, activation, *, key):
        attention, network = jax.random.split(key)
        self.first, self.second = eqx.nn.LayerNorm(width), eqx.nn.LayerNorm(width)
        self.attention = PhysicsAttention(width, heads, slices, key=attention)
        self.network = eqx.nn.MLP(width, width, 2 * width, 1, activation, key=network)

    def __call__(self, v, weights):
        v = v + self.attention(jax.vmap(self.first)(v), weights)
        return v + jax.vmap(lambda x: self.network(self.second(x)))(v)


class Transolver(eqx.Module):
    """Transformer layers with attention among `slices` learned slices of the points (Wu et al., ICML 2024), on any set
    of points: no edges, each point may depend on all others, cost linear in their number. Permuting the points
    permutes the output. Coordinates are an input; they should be of order one. With quadrature weights the operator
    converges as points are refined.

    Raises ValueError unless `heads` divides `width`.
    """

    lift: eqx.nn.MLP
    blocks: tuple[_Block, ...]
    norm: eqx.nn.LayerNorm
    project: eqx.nn.Linear
    in_channels: int = eqx.field(static=True)
    dimensions: int = eqx.field(static=True)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        dimensions: int = 2,
        width: int = 64,
        layers: int = 4,
        heads: int = 4,
        slices: int = 32,
        activation: Callable = jax.nn.gelu,
        key: Array,
    ):
        if width % heads:
            raise ValueError(f"Transolver: heads must divide the width, got {heads} heads and width {width}")
        lift, project, *keys = jax.random.split(key, 2 + layers)
        self.lift = eqx.nn.MLP(in_channels + dimensions, width, 2 * width, 1, activation, key=lift)
        self.blocks = tuple(_Block(width, heads, slices, activation, key=k) for k in keys)
        self.norm = eqx.nn.LayerNorm(width)
        self.project = eqx.nn.Linear(width, out_channels, key=project)
        self.in_channels, self.dimensions = in_channels, dimensions

    def __call__(
        self,
        features: Float[Array, "in_channels n"],
        points: Float[Array, "n d"],
        weights: Float[Array, " n"] | None = None,
        mask: Bool[Array, " n"] | None = None,
    ) -> Float[Array, "out_channels n"]:
        """The output at the points of one cloud; 0 where the mask is False.

        - `weights`: quadrature weights of the points, up to a factor, by default all 1.
        - `mask`: False at padding, which may hold anything.

        Raises ValueError for features or points of another shape.
        """
        check_cloud(features, points, self.in_channels, self.dimensions, "Transolver")
        features, points, share, there = cleared(features, points, weights, mask)
        v = jax.vmap(self.lift)(jnp.concatenate([features.T, points], axis=1))
        for block in self.blocks:
            v = block(v, share)
        out = jax.vmap(lambda x: self.project(self.norm(x)))(v)
        return jnp.where(there, out.T, 0)


class OnGrid(eqx.Module):
    """A model `(features, points, weights)` on clouds as one on grids, `(in_channels, *grid) -> (out_channels, *grid)`:
    the grid is flattened, with coordinates in [-1, 1] and the quadrature weights of its axes.
    """

    model: Callable
    axes: tuple[Axis, ...]

    def __init__(self, model: Callable, *, dimensions: int = 2, axes: Axis | tuple[Axis, ...] = Bounded()):
        self.model, self.axes = model, as_axes(axes, dimensions)

    def __call__(self, a: Float[Array, "in_channels *grid"]) -> Float[Array, "out_channels *grid"]:
        grid = a.shape[1:]
        if len(grid) != len(self.axes):
            raise ValueError(f"OnGrid: expected (channels, *grid) with {len(self.axes)} dimensions, got {a.shape}")
        points = jnp.asarray(2 * grid_points(grid, self.axes) - 1, a.dtype)
        weights = jnp.asarray(grid_weights(grid, self.axes), a.dtype)
        return self.model(a.reshape(a.shape[0], -1), points, weights).reshape(-1, *grid)


def _tiny(v: Array) -> float:
    """Keeps the mean over no points at all from being 0 / 0."""
    return float(jnp.finfo(v.dtype).tiny)
