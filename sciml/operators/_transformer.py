"""Transformers for fields on a grid: attention along each axis, or among patches.

Attention is a weighted mean over the points that a token looks at, in which each counts by the length or area that it
stands for, so that it approximates an integral whatever the grid (Calvello et al., "Continuum attention for neural
operators", 2024). Tokens know where they are relative to each other: queries and keys are turned by angles proportional
to their positions (Su et al., "RoFormer", 2021), here with whole wavenumbers, so that along a periodic axis the product
of the two is periodic in their distance.
"""

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._axes import Axis, Periodic, as_axes, check_field, extra_channels, with_coordinates


class AxialTransformer(eqx.Module):
    """Maps fields to fields on the same grid, `(in_channels, *grid) -> (out_channels, *grid)`: in each of `layers`
    blocks every point attends to those on its line along one axis, then along the next (Ho et al., "Axial attention in
    multidimensional transformers", 2019); a perceptron over the channels follows. On a grid of n_1 * n_2 * ... points
    attention costs points * (n_1 + n_2 + ...), not points**2. The grid may have another size in each call.

    With `patch` above 1 (for each axis, or for all) the tokens are patches of so many points, as in
    `VisionTransformer`. Axes that are not periodic give their coordinate as another channel; where all are periodic the
    model commutes with translations by whole points, or whole patches.

    Raises ValueError for another number of channels or dimensions than stated, for a width that is no even multiple of
    `heads`, and where the points of a periodic axis are no whole number of patches. (Other axes are continued to fill
    the last one.)
    """

    network: "_Network"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        dimensions: int = 2,
        patch: int | Sequence[int] = 1,
        width: int = 64,
        layers: int = 4,
        heads: int = 4,
        expansion: int = 4,
        axes: Axis | Sequence[Axis] = Periodic(),
        activation: Callable = jax.nn.gelu,
        key: Array,
    ):
        self.network = _Network(
            (in_channels, out_channels),
            as_axes(axes, dimensions),
            tuple((i,) for i in range(dimensions)),
            _patch_sizes(patch, dimensions),
            (width, layers, heads, expansion),
            activation,
            key=key,
        )

    def __call__(self, a: Float[Array, " in_channels *grid"]) -> Float[Array, " out_channels *grid"]:
        return self.network(a, "AxialTransformer")


class VisionTransformer(eqx.Module):
    """Maps fields to fields on the same grid, `(in_channels, *grid) -> (out_channels, *grid)`: patches of `patch`
    points (for each axis, or for all) are tokens, which attend to each other in each of `layers` blocks, each with a
    perceptron over the channels, and become patches of the output (Dosovitskiy et al., "An image is worth 16x16 words",
    2021; with positions as above). Attention costs tokens**2.

    Axes that are not periodic give their coordinate as another channel; where all are periodic the model commutes with
    translations by whole patches. A patch is a number of points, not a length: on another resolution than that of the
    training the model runs, but is another function.

    Raises ValueError for another number of channels or dimensions than stated, for a width that is no even multiple of
    `heads`, and where the points of a periodic axis are no whole number of patches. (Other axes are continued to fill
    the last one, with zeros or as they mirror.)
    """

    network: "_Network"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        dimensions: int = 2,
        patch: int | Sequence[int] = 4,
        width: int = 64,
        layers: int = 4,
        heads: int = 4,
        expansion: int = 4,
        axes: Axis | Sequence[Axis] = Periodic(),
        activation: Callable = jax.nn.gelu,
        key: Array,
    ):
        self.network = _Network(
            (in_channels, out_channels),
            as_axes(axes, dimensions),
            (tuple(range(dimensions)),),
            _patch_sizes(patch, dimensions),
            (width, layers, heads, expansion),
            activation,
            key=key,
        )

    def __call__(self, a: Float[Array, " in_channels *grid"]) -> Float[Array, " out_channels *grid"]:
        return self.network(a, "VisionTransformer")


class _Network(eqx.Module):
    """From points to tokens, blocks that attend along each group of axes in turn, and back to points."""

    lift: eqx.nn.Linear
    blocks: tuple["_Block", ...]
    scale: Array
    project: eqx.nn.Linear
    axes: tuple[Axis, ...]
    in_channels: int = eqx.field(static=True)
    patch: tuple[int, ...] = eqx.field(static=True)
    groups: tuple[tuple[int, ...], ...] = eqx.field(static=True)
    activation: Callable = eqx.field(static=True)

    def __init__(self, channels, axes, groups, patch, sizes, activation, *, key):
        width, layers, heads, expansion = sizes
        if width % (2 * heads) or width // heads < 2 * max(len(group) for group in groups):
            raise ValueError(
                f"each head must have an even number of channels, two or more for each axis that it attends along: "
                f"width {width} for {heads} heads is not"
            )
        keys = jax.random.split(key, layers + 2)
        points = int(np.prod(patch))
        self.lift = eqx.nn.Linear(points * (channels[0] + extra_channels(axes)), width, key=keys[0])
        self.blocks = tuple(_Block(len(groups), width, heads, expansion * width, key=k) for k in keys[2:])
        self.scale = jnp.ones(width)
        self.project = eqx.nn.Linear(width, points * channels[1], key=keys[1])
        self.axes = axes
        self.in_channels = channels[0]
        self.patch = patch
        self.groups = groups
        self.activation = activation

    def __call__(self, a: Array, name: str) -> Array:
        check_field(a, self.in_channels, len(self.axes), name)
        grid = a.shape[1:]
        a = with_coordinates(a, self.axes)
        for dim, (axis, size) in enumerate(zip(self.axes, self.patch)):
            a = _filled(a, dim + 1, axis, size, name)
        x = _linear(self.lift, _patches(jnp.moveaxis(a, 0, -1), self.patch))
        places = [_Places(self.axes, group, grid, self.patch, x.dtype) for group in self.groups]
        for block in self.blocks:
            x = block(x, places, self.activation)
        x = _points(_linear(self.project, _normalised(x, self.scale)), self.patch)
        return jnp.moveaxis(x, -1, 0)[(slice(None), *map(slice, grid))]


class _Block(eqx.Module):
    attentions: tuple["_Attention", ...]
    scale: Array
    wide: eqx.nn.Linear
    narrow: eqx.nn.Linear

    def __init__(self, groups: int, width: int, heads: int, hidden: int, *, key: Array):
        keys = jax.random.split(key, groups + 2)
        self.attentions = tuple(_Attention(width, heads, key=k) for k in keys[2:])
        self.scale = jnp.ones(width)
        self.wide = eqx.nn.Linear(width, hidden, key=keys[0])
        self.narrow = eqx.nn.Linear(hidden, width, key=keys[1])

    def __call__(self, x: Array, places: "list[_Places]", activation: Callable) -> Array:
        for attention, where in zip(self.attentions, places):
            x = x + where.restored(attention(where.lines(x), where), x.shape)
        return x + _linear(self.narrow, activation(_linear(self.wide, _normalised(x, self.scale))))


class _Attention(eqx.Module):
    """Attention with several heads among n tokens, `(*lines, n, width) -> (*lines, n, width)`, in the precision of the
    input.
    """

    scale: Array
    queries_keys_values: eqx.nn.Linear
    out: eqx.nn.Linear
    heads: int = eqx.field(static=True)

    def __init__(self, width: int, heads: int, *, key: Array):
        keys = jax.random.split(key)
        self.scale = jnp.ones(width)
        self.queries_keys_values = eqx.nn.Linear(width, 3 * width, key=keys[0])
        self.out = eqx.nn.Linear(width, width, key=keys[1])
        self.heads = heads

    def __call__(self, x: Float[Array, "*lines n width"], where: "_Places") -> Float[Array, "*lines n width"]:
        qkv = _linear(self.queries_keys_values, _normalised(x, self.scale))
        q, k, v = jnp.moveaxis(qkv.reshape(*x.shape[:-1], 3, self.heads, -1), -3, 0)
        turns = where.turns(q.shape[-1] // 2)
        scores = jnp.einsum("...nhd,...mhd->...hnm", _turned(q, *turns), _turned(k, *turns)) / q.shape[-1] ** 0.5
        # jax.nn.dot_product_attention would compute this in float32.
        shares = jax.nn.softmax(scores + where.logarithms(), axis=-1)
        return _linear(self.out, jnp.einsum("...hnm,...mhd->...nhd", shares, v).reshape(x.shape))


class _Places:
    """Where the tokens of a grid are along some of its axes, among which they attend."""

    def __init__(self, axes: Sequence[Axis], group: Sequence[int], grid: Sequence[int], patch: Sequence[int], dtype):
        self.group, self.dtype = group, dtype
        angles, shares = [], []
        for i in group:
            # Beyond the distance of a whole axis nothing repeats only where it is periodic.
            turn = 2 * np.pi if isinstance(axes[i], Periodic) else np.pi
            angles.append(turn * axes[i].coordinates(grid[i])[:: patch[i]])
            shares.append(np.add.reduceat(axes[i].weights(grid[i]), np.arange(0, grid[i], patch[i])))
        self.angles = [a.ravel() for a in np.meshgrid(*angles, indexing="ij")]
        self.weights = np.prod(np.meshgrid(*shares, indexing="ij"), axis=0).ravel()

    def lines(self, x: Array) -> Array:
        """Tokens `(*grid, width)` with those that attend to each other on the axis before the last."""
        x = jnp.moveaxis(x, self.group, self._last(x.ndim))
        return x.reshape(*x.shape[: x.ndim - 1 - len(self.group)], -1, x.shape[-1])

    def restored(self, x: Array, shape: tuple[int, ...]) -> Array:
        """The inverse of `lines`, to tokens of this shape."""
        others = [n for i, n in enumerate(shape[:-1]) if i not in self.group]
        x = x.reshape(*others, *(shape[i] for i in self.group), shape[-1])
        return jnp.moveaxis(x, self._last(len(shape)), self.group)

    def turns(self, pairs: int) -> tuple[Array, Array]:
        """Cosine and sine of the angles by which the pairs of channels of each token are turned, `(n, 1, pairs)`: along
        each axis wavenumbers 0, 1, ..., of which 0 sees content only.
        """
        count = len(self.group)
        angles = np.stack([(p // count) * self.angles[p % count] for p in range(pairs)], axis=-1)[:, None]
        return jnp.asarray(np.cos(angles), self.dtype), jnp.asarray(np.sin(angles), self.dtype)

    def logarithms(self) -> Array:
        """What makes the softmax count each token by its length, area, ..."""
        shares = self.weights / self.weights.max()
        return jnp.asarray(np.log(np.maximum(shares, 1e-30)), self.dtype)

    def _last(self, ndim: int) -> tuple[int, ...]:
        return tuple(range(ndim - 1 - len(self.group), ndim - 1))


def _patch_sizes(patch: int | Sequence[int], dimensions: int) -> tuple[int, ...]:
    sizes = (patch,) * dimensions if isinstance(patch, int) else tuple(patch)
    if len(sizes) != dimensions or min(sizes) < 1:
        raise ValueError(f"patch must be 1 point or more along each of {dimensions} dimensions, got {patch}")
    return sizes


def _filled(a: Array, dim: int, axis: Axis, size: int, name: str) -> Array:
    """The field continued to a whole number of patches along an axis."""
    missing = -a.shape[dim] % size
    if missing and isinstance(axis, Periodic):
        raise ValueError(
            f"{name}: the {a.shape[dim]} points of a periodic axis are no whole number of patches of {size}; choose "
            "a patch that divides them"
        )
    return axis.pad(a, dim, 0, missing) if missing else a


def _patches(x: Float[Array, "*grid channels"], patch: tuple[int, ...]) -> Float[Array, "*tokens more"]:
    """The points of each patch side by side as channels."""
    counts = [n // p for n, p in zip(x.shape, patch)]
    split = x.reshape(*(m for pair in zip(counts, patch) for m in pair), x.shape[-1])
    d = len(patch)
    return split.transpose(*range(0, 2 * d, 2), *range(1, 2 * d, 2), 2 * d).reshape(*counts, -1)


def _points(x: Float[Array, "*tokens more"], patch: tuple[int, ...]) -> Float[Array, "*grid channels"]:
    """The inverse of `_patches`."""
    d, counts = len(patch), x.shape[:-1]
    order = [i for pair in zip(range(d), range(d, 2 * d)) for i in pair]
    split = x.reshape(*counts, *patch, -1).transpose(*order, 2 * d)
    return split.reshape(*(n * p for n, p in zip(counts, patch)), -1)


def _turned(x: Float[Array, "*lines n heads size"], cosine: Array, sine: Array) -> Float[Array, "*lines n heads size"]:
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([a * cosine - b * sine, a * sine + b * cosine], axis=-1)


def _normalised(x: Array, scale: Array) -> Array:
    """Each token with mean square 1 (Zhang & Sennrich, "Root mean square layer normalization", 2019), times `scale`."""
    return x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-6) * scale


def _linear(layer: eqx.nn.Linear, x: Array) -> Array:
    """A linear layer over the channels, which come last."""
    y = x @ layer.weight.T
    return y if layer.bias is None else y + layer.bias
