"""Fourier neural operators on grids."""

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._axes import Axis, Periodic, as_axes, check_field, extra_channels, with_coordinates
from ._pointwise import ChannelMLP, Pointwise
from ._spectral import SpectralConvolution
from ._weights import Dense, Weights


class FourierLayer(eqx.Module):
    """`u + mlp(activation(K u + W u))` for a field with channels last: K is a spectral convolution, W a linear map at
    each point. Unless it is the last of its stack, its result passes the activation once more.
    """

    spectral: SpectralConvolution
    local: Pointwise
    mlp: ChannelMLP
    activation: Callable = eqx.field(static=True)
    last: bool = eqx.field(static=True)

    def __init__(
        self,
        width: int,
        *,
        modes: Sequence[int],
        axes: Sequence[Axis],
        expansion: float,
        weights: Callable[..., Weights],
        activation: Callable,
        last: bool,
        key: Array,
    ):
        keys = jax.random.split(key, 3)
        self.spectral = SpectralConvolution(width, width, modes=modes, axes=axes, weights=weights, key=keys[0])
        self.local = Pointwise(width, width, key=keys[1])
        self.mlp = ChannelMLP(width, max(1, round(expansion * width)), width, activation, key=keys[2])
        self.activation = activation
        self.last = last

    def __call__(self, u: Float[Array, "*grid width"]) -> Float[Array, "*grid width"]:
        """One layer."""
        v = self.activation(self.spectral.channels_last(u) + self.local(u))
        v = u + self.mlp(v)
        return v if self.last else self.activation(v)


class FNO(eqx.Module):
    """Fourier neural operator (Li et al., ICLR 2021), `(in_channels, *grid) -> (out_channels, *grid)`, on any grid.

    A linear lift to `width` channels, `layers` layers with a spectral convolution, a skip connection and a perceptron
    over channels (as in Kossaifi et al., "A library for learning neural operators", 2024), and a perceptron to the
    output.

    - `modes`: wavenumbers of each axis from 0 up, one number for each dimension of space. Fewer points than about twice
      as many hold fewer, which is no error.
    - `axes`: one for all or one for each dimension; `Periodic`, `Bounded`, `Cosine` or `Sine`. It says where points lie
      and what is beyond the ends. The model commutes with translations of the grid along periodic axes; along others
      the coordinate is one more input channel.
    - `expansion`: hidden channels of the layers' perceptrons, as a multiple of `width`.
    - `weights`: `Dense`, `Separable`, `functools.partial(Tucker, rank=0.3)` or `functools.partial(CP, rank=32)`.

    Raises ValueError for an input that is not one sample with these channels and dimensions.
    """

    lift: Pointwise
    layers: list[FourierLayer]
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
        layers: int = 4,
        expansion: float = 0.5,
        axes: Axis | Sequence[Axis] = Periodic(),
        weights: Callable[..., Weights] = Dense,
        activation: Callable = jax.nn.gelu,
        key: Array,
    ):
        if layers < 1 or width < 1:
            raise ValueError(f"FNO: layers and width must be 1 or more, got {layers} and {width}")
        modes = (modes,) if isinstance(modes, int) else tuple(modes)
        self.axes = as_axes(axes, len(modes))
        self.in_channels = in_channels
        keys = jax.random.split(key, layers + 2)
        self.lift = Pointwise(in_channels + extra_channels(self.axes), width, key=keys[0])
        self.project = ChannelMLP(width, 2 * width, out_channels, activation, key=keys[1])
        options = {"modes": modes, "axes": self.axes, "expansion": expansion, "weights": weights}
        self.layers = [
            FourierLayer(width, **options, activation=activation, last=i == layers - 1, key=k)
            for i, k in enumerate(keys[2:])
        ]

    def __call__(self, a: Float[Array, "in_channels *grid"]) -> Float[Array, "out_channels *grid"]:
        """The output field of one sample."""
        check_field(a, self.in_channels, len(self.axes), "FNO")
        u = self.lift(jnp.moveaxis(with_coordinates(a, self.axes), 0, -1))
        for layer in self.layers:
            u = layer(u)
        return jnp.moveaxis(self.project(u), -1, 0)
