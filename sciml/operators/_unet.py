"""U-Nets: convolutions on ever coarser grids and back, with the finer fields carried across."""

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._axes import Axis, Periodic, as_axes, check_field, extra_channels, with_coordinates
from ._convolution import ChannelNorm, Convolution, Upsampling, along_channels, check_sizes, max_pool


class UNet(eqx.Module):
    """U-Net (Ronneberger et al., 2015) in the form of the PDEBench and The Well baselines (Takamoto et al., 2022;
    Ohana et al., 2024): two convolutions over 3 points on each grid, each followed by the activation, the maximum of
    each pair of points on the way down, a transposed convolution on the way up; `width` channels on the finest grid
    and twice as many on each of `levels` coarser ones.

    `(in_channels, *grid) -> (out_channels, *grid)`. Axes that are not periodic add a channel with their coordinate.
    Bounded axes take any number of points, others one that halves `levels` times into an axis of the same kind: a
    multiple of 2^levels, one more with `ends`, one less with `interior` points; otherwise raises ValueError with the
    nearest that fit. Along periodic axes the model commutes with translations by 2^levels points.

    The baselines normalise over the batch, which a model of one sample cannot: with `groups`, group normalisation
    stands in its place (Wu & He, 2018); the default, none, keeps the amplitude of the field.
    """

    encoder: list["_Pair"]
    bottom: "_Pair"
    rise: list[Upsampling]
    decoder: list["_Pair"]
    project: Convolution
    axes: tuple[Axis, ...]
    in_channels: int = eqx.field(static=True)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        dimensions: int = 2,
        width: int = 32,
        levels: int = 4,
        groups: int | None = None,
        axes: Axis | Sequence[Axis] = Periodic(),
        activation: Callable = jax.nn.gelu,
        key: Array,
    ):
        self.axes = as_axes(axes, dimensions)
        self.in_channels = in_channels
        keys = jax.random.split(key, 3 * levels + 2)
        widths = [width * 2**level for level in range(levels + 1)]
        grid = {"dimensions": dimensions, "axes": self.axes}

        def pair(inner, outer, key):
            return _Pair(inner, outer, groups, activation, grid, key)

        inputs = [in_channels + extra_channels(self.axes), *widths]
        self.encoder = [pair(inputs[i], widths[i], keys[i]) for i in range(levels)]
        self.bottom = pair(inputs[levels], widths[levels], keys[levels])
        rising = list(reversed(range(levels)))
        self.rise = [Upsampling(widths[i + 1], widths[i], **grid, key=keys[levels + 1 + i]) for i in rising]
        self.decoder = [pair(widths[i + 1], widths[i], keys[2 * levels + 1 + i]) for i in rising]
        self.project = Convolution(width, out_channels, window=1, **grid, key=keys[-1])

    def __call__(self, a: Float[Array, " in_channels *grid"]) -> Float[Array, " out_channels *grid"]:
        check_field(a, self.in_channels, len(self.axes), "UNet")
        check_sizes(self.axes, a.shape[1:], 2 ** len(self.encoder), "UNet")
        u = with_coordinates(a, self.axes)
        skips = []
        for block in self.encoder:
            skips.append(block(u))
            u = max_pool(skips[-1], self.axes)
        u = self.bottom(u)
        for rise, block, skip in zip(self.rise, self.decoder, reversed(skips)):
            u = block(jnp.concatenate([rise(u, skip.shape[1:]), skip]))
        return self.project(u)


class _Pair(eqx.Module):
    """Two convolutions, each followed by the normalisation, if any, and the activation."""

    convolutions: list[Convolution]
    norms: list[eqx.nn.GroupNorm]
    activation: Callable = eqx.field(static=True)

    def __init__(self, in_channels: int, width: int, groups: int | None, activation: Callable, grid: dict, key: Array):
        if groups is not None and (groups < 1 or width % groups):
            raise ValueError(f"UNet: {width} channels do not divide into {groups} groups")
        keys = jax.random.split(key)
        inputs = (in_channels, width)
        # Twice 1 / fan in makes up for what the activation takes from the variance (He et al., 2015).
        self.convolutions = [Convolution(n, width, gain=2.0, **grid, key=k) for n, k in zip(inputs, keys)]
        self.norms = [eqx.nn.GroupNorm(groups, width) for _ in inputs] if groups else []
        self.activation = activation

    def __call__(self, u: Array) -> Array:
        for i, convolution in enumerate(self.convolutions):
            u = convolution(u)
            u = self.activation(self.norms[i](u) if self.norms else u)
        return u


class ConvNextUNet(eqx.Module):
    """U-Net of ConvNeXt blocks (Liu et al., 2022), after the CNextU-Net of The Well (Ohana et al., 2024): on each grid
    `blocks` of a convolution over 7 points channel by channel, normalisation over the channels of each point and a
    perceptron with four times as many channels, added to the field with a small learnt factor; strided convolutions
    over pairs of points on the way down, transposed ones on the way up; `width` channels on the finest grid and twice
    as many on each of `levels` coarser ones.

    `(in_channels, *grid) -> (out_channels, *grid)`. Axes, grids that fit and translations are as for `UNet`. Where The
    Well carries no field across on the finest grid, and divides channels by their Euclidean norm before the grid
    changes, this model does carry it across and normalises to mean 0 and variance 1.
    """

    lift: Convolution
    down: list[list["_Block"]]
    sink: list["_Normalised"]
    bottom: list["_Block"]
    rise: list["_Normalised"]
    merge: list[Convolution]
    up: list[list["_Block"]]
    project: Convolution
    axes: tuple[Axis, ...]
    in_channels: int = eqx.field(static=True)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        dimensions: int = 2,
        width: int = 42,
        levels: int = 4,
        blocks: int = 2,
        axes: Axis | Sequence[Axis] = Periodic(),
        activation: Callable = jax.nn.gelu,
        key: Array,
    ):
        self.axes = as_axes(axes, dimensions)
        self.in_channels = in_channels
        keys = iter(jax.random.split(key, 5 * levels + 3))
        widths = [width * 2**level for level in range(levels + 1)]
        grid = {"dimensions": dimensions, "axes": self.axes}

        def stage(width):
            return [_Block(width, activation, grid, key) for key in jax.random.split(next(keys), blocks)]

        def change(kind, inner, outer, **settings):
            return _Normalised(inner, kind(inner, outer, **settings, **grid, key=next(keys)))

        finer = list(zip(widths, widths[1:]))
        self.lift = Convolution(in_channels + extra_channels(self.axes), width, **grid, key=next(keys))
        self.down = [stage(n) for n, _ in finer]
        self.sink = [change(Convolution, n, twice, stride=2) for n, twice in finer]
        self.bottom = stage(widths[-1])
        self.rise = [change(Upsampling, twice, n) for n, twice in reversed(finer)]
        self.merge = [Convolution(2 * n, n, window=1, **grid, key=next(keys)) for n, _ in reversed(finer)]
        self.up = [stage(n) for n, _ in reversed(finer)]
        self.project = Convolution(width, out_channels, **grid, key=next(keys))

    def __call__(self, a: Float[Array, " in_channels *grid"]) -> Float[Array, " out_channels *grid"]:
        check_field(a, self.in_channels, len(self.axes), "ConvNextUNet")
        check_sizes(self.axes, a.shape[1:], 2 ** len(self.down), "ConvNextUNet")
        u = self.lift(with_coordinates(a, self.axes))
        skips = []
        for blocks, sink in zip(self.down, self.sink):
            skips.append(_through(blocks, u))
            u = sink(skips[-1])
        u = _through(self.bottom, u)
        for rise, merge, blocks, skip in zip(self.rise, self.merge, self.up, reversed(skips)):
            u = merge(jnp.concatenate([rise(u, skip.shape[1:]), skip]))
            u = _through(blocks, u)
        return self.project(u)


class _Block(eqx.Module):
    """ConvNeXt block (Liu et al., 2022, figure 4)."""

    depthwise: Convolution
    norm: ChannelNorm
    widen: Convolution
    narrow: Convolution
    factor: Float[Array, " channels"]
    activation: Callable = eqx.field(static=True)

    def __init__(self, width: int, activation: Callable, grid: dict, key: Array):
        keys = jax.random.split(key, 3)
        self.depthwise = Convolution(width, width, window=7, groups=width, **grid, key=keys[0])
        self.norm = ChannelNorm(width)
        self.widen = Convolution(width, 4 * width, window=1, **grid, key=keys[1])
        self.narrow = Convolution(4 * width, width, window=1, **grid, key=keys[2])
        self.factor = jnp.full(width, 1e-6)
        self.activation = activation

    def __call__(self, u: Array) -> Array:
        v = self.norm(self.depthwise(u))
        v = self.narrow(self.activation(self.widen(v)))
        return u + along_channels(self.factor, v) * v


class _Normalised(eqx.Module):
    """A change of grid of a field normalised over its channels."""

    norm: ChannelNorm
    layer: Convolution | Upsampling

    def __init__(self, channels: int, layer: Convolution | Upsampling):
        self.norm = ChannelNorm(channels)
        self.layer = layer

    def __call__(self, u: Array, *grid: tuple[int, ...]) -> Array:
        return self.layer(self.norm(u), *grid)


def _through(blocks: list[_Block], u: Array) -> Array:
    for block in blocks:
        u = block(u)
    return u
