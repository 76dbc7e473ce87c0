"""Maps over channels at each point of a grid; channels come last."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class Pointwise(eqx.Module):
    """A linear map over channels at each point, `(*grid, in) -> (*grid, out)`."""

    # Stored as (out, in): the gradient of the other layout takes a slow path on CPUs (benchmarks/operators.py).
    matrix: Float[Array, "out in"]
    bias: Float[Array, " out"]

    def __init__(self, in_channels: int, out_channels: int, *, key: Array):
        bound = in_channels**-0.5
        keys = jax.random.split(key)
        self.matrix = jax.random.uniform(keys[0], (out_channels, in_channels), minval=-bound, maxval=bound)
        self.bias = jax.random.uniform(keys[1], (out_channels,), minval=-bound, maxval=bound)

    def __call__(self, u: Float[Array, "*grid in_channels"]) -> Float[Array, "*grid out_channels"]:
        """The map at each point."""
        return jnp.einsum("...i,oi->...o", u, self.matrix) + self.bias


class ChannelMLP(eqx.Module):
    """Two linear maps over channels with an activation between, at each point."""

    first: Pointwise
    second: Pointwise
    activation: Callable = eqx.field(static=True)

    def __init__(self, in_channels: int, hidden: int, out_channels: int, activation: Callable, *, key: Array):
        keys = jax.random.split(key)
        self.first = Pointwise(in_channels, hidden, key=keys[0])
        self.second = Pointwise(hidden, out_channels, key=keys[1])
        self.activation = activation

    def __call__(self, u: Float[Array, "*grid in_channels"]) -> Float[Array, "*grid out_channels"]:
        """The perceptron at each point."""
        return self.second(self.activation(self.first(u)))
