"""Dilated residual networks."""

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
from jaxtyping import Array, Float

from ._axes import Axis, Periodic, as_axes, check_field, extra_channels, with_coordinates
from ._convolution import Convolution


class DilatedResNet(eqx.Module):
    """Dilated ResNet (Stachenfeld et al., 2022, "Learned coarse models for efficient turbulence simulation"): a linear
    convolution to `width` channels, `blocks` residual blocks and a linear convolution back. A block is a convolution
    over 3 points along each axis for each of the `dilations`, each followed by the activation (in the paper, ReLU):
    with the defaults it sees 22 points to each side.

    `(in_channels, *grid) -> (out_channels, *grid)` for any number of points. Axes that are not periodic add a channel
    with their coordinate; along periodic axes the model commutes with all translations by whole points.
    """

    lift: Convolution
    blocks: list[list[Convolution]]
    project: Convolution
    axes: tuple[Axis, ...]
    in_channels: int = eqx.field(static=True)
    activation: Callable = eqx.field(static=True)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        dimensions: int = 2,
        width: int = 48,
        blocks: int = 4,
        dilations: Sequence[int] = (1, 2, 4, 8, 4, 2, 1),
        axes: Axis | Sequence[Axis] = Periodic(),
        activation: Callable = jax.nn.gelu,
        key: Array,
    ):
        self.axes = as_axes(axes, dimensions)
        self.in_channels = in_channels
        self.activation = activation
        grid = {"dimensions": dimensions, "axes": self.axes}
        lift, project, inner = jax.random.split(key, 3)

        def layer(dilation, key):
            # Twice 1 / fan in makes up for what the activation takes from the variance (He et al., 2015).
            return Convolution(width, width, dilation=dilation, gain=2.0, **grid, key=key)

        self.lift = Convolution(in_channels + extra_channels(self.axes), width, **grid, key=lift)
        self.blocks = [
            [layer(dilation, k) for dilation, k in zip(dilations, jax.random.split(key, len(dilations)))]
            for key in jax.random.split(inner, blocks)
        ]
        self.project = Convolution(width, out_channels, **grid, key=project)

    def __call__(self, a: Float[Array, " in_channels *grid"]) -> Float[Array, " out_channels *grid"]:
        check_field(a, self.in_channels, len(self.axes), "DilatedResNet")
        u = self.lift(with_coordinates(a, self.axes))
        for block in self.blocks:
            v = u
            for layer in block:
                v = self.activation(layer(v))
            u = u + v
        return self.project(u)
