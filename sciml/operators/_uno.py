"""U-shaped neural operator: Fourier layers between grids of several sizes."""

import math
from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._axes import Axis, Periodic, as_axes, check_field, extra_channels, with_coordinates
from ._pointwise import ChannelMLP, Pointwise
from ._resample import resample_last
from ._spectral import SpectralConvolution
from ._weights import Dense, Weights


class _Level(eqx.Module):
    """`activation(K u + W u)` onto another grid, then a perceptron beside the identity; channels last."""

    spectral: SpectralConvolution
    local: Pointwise
    mlp: ChannelMLP
    activation: Callable = eqx.field(static=True)

    def __init__(self, in_channels, out_channels, *, modes, axes, weights, activation, key):
        keys = jax.random.split(key, 3)
        options = {"modes": modes, "axes": axes, "weights": weights}
        self.spectral = SpectralConvolution(in_channels, out_channels, **options, key=keys[0])
        self.local = Pointwise(in_channels, out_channels, key=keys[1])
        self.mlp = ChannelMLP(out_channels, out_channels, out_channels, activation, key=keys[2])
        self.activation = activation

    def __call__(self, u, shape):
        moved = resample_last(self.local(u), shape, self.spectral.axes)
        v = self.activation(self.spectral.channels_last(u, shape) + moved)
        return v + self.mlp(v)


class UNO(eqx.Module):
    """U-shaped neural operator (Rahman, Ross & Azizzadenesheli, "U-NO: U-shaped neural operators", TMLR 2023),
    `(in_channels, *grid) -> (out_channels, *grid)`, on any grid.

    Each of `depth` levels halves the grid along each axis (rounded up) and multiplies the channels by `growth`; on the
    way back each level takes its counterpart's field beside its own. Fields move between grids by their modes and by
    interpolation, so that points of a coarse grid need not be points of the fine one. `modes`, `axes` and `weights` are
    those of `FNO`; coarse grids use the modes that they hold.

    Raises ValueError for an input that is not one sample with these channels and dimensions.
    """

    lift: Pointwise
    down: list[_Level]
    middle: _Level
    up: list[_Level]
    project: ChannelMLP
    axes: tuple[Axis, ...]
    in_channels: int = eqx.field(static=True)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        modes: int | Sequence[int] = (12, 12),
        width: int = 32,
        depth: int = 2,
        growth: float = 2.0,
        axes: Axis | Sequence[Axis] = Periodic(),
        weights: Callable[..., Weights] = Dense,
        activation: Callable = jax.nn.gelu,
        key: Array,
    ):
        if depth < 1 or width < 1:
            raise ValueError(f"UNO: depth and width must be 1 or more, got {depth} and {width}")
        modes = (modes,) if isinstance(modes, int) else tuple(modes)
        self.axes = as_axes(axes, len(modes))
        self.in_channels = in_channels
        options = {"axes": self.axes, "weights": weights, "activation": activation}
        keys = iter(jax.random.split(key, 2 * depth + 3))
        widths = [round(width * growth**i) for i in range(depth + 1)]
        counts = [tuple(max(1, math.ceil(m / 2**i)) for m in modes) for i in range(depth + 1)]
        self.lift = Pointwise(in_channels + extra_channels(self.axes), width, key=next(keys))
        self.down = [
            _Level(widths[i], widths[i + 1], modes=counts[i + 1], **options, key=next(keys)) for i in range(depth)
        ]
        self.middle = _Level(widths[-1], widths[-1], modes=counts[-1], **options, key=next(keys))
        self.up = [
            _Level(2 * widths[i + 1], widths[i], modes=counts[i], **options, key=next(keys))
            for i in reversed(range(depth))
        ]
        self.project = ChannelMLP(2 * width, 2 * width, out_channels, activation, key=next(keys))

    def __call__(self, a: Float[Array, "in_channels *grid"]) -> Float[Array, "out_channels *grid"]:
        """The output field of one sample."""
        check_field(a, self.in_channels, len(self.axes), "UNO")
        shapes = [tuple(-(-n // 2**i) for n in a.shape[1:]) for i in range(len(self.down) + 1)]
        u = self.lift(jnp.moveaxis(with_coordinates(a, self.axes), 0, -1))
        passed = [u]
        for level, shape in zip(self.down, shapes[1:]):
            u = level(u, shape)
            passed.append(u)
        u = self.middle(u, shapes[-1])
        for level, shape in zip(self.up, reversed(shapes[:-1])):
            u = level(jnp.concatenate([u, passed.pop()], axis=-1), shape)
        return jnp.moveaxis(self.project(jnp.concatenate([u, passed.pop()], axis=-1)), -1, 0)
