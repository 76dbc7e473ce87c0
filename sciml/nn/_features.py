"""Random features: a hidden layer that is drawn, and an output layer that is found."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class RandomFeatures(eqx.Module):
    """`(in_size,) -> (out_size,)`: output @ tanh(weight @ x + bias), linear in `output`."""

    weight: Float[Array, "features in_size"]
    bias: Float[Array, " features"]
    output: Float[Array, "out_size features"]

    def __call__(self, x: Float[Array, " in_size"]) -> Float[Array, " out_size"]:
        return self.output @ jnp.tanh(self.weight @ x + self.bias)


class WindowedFeatures(eqx.Module):
    """`(in_size,) -> (out_size,)`: random features of their own in each of several windows of equal length along one
    input, which goes from -1 to 1 in each window. Beyond the ends the outermost windows go on.
    """

    weight: Float[Array, "windows features in_size"]
    bias: Float[Array, "windows features"]
    output: Float[Array, "windows out_size features"]
    axis: int = eqx.field(static=True)

    def __call__(self, x: Float[Array, " in_size"]) -> Float[Array, " out_size"]:
        windows = self.weight.shape[0]
        # Which window it is has no derivative.
        place = jax.lax.stop_gradient(x[self.axis])
        window = jnp.clip(jnp.floor((place + 1) / 2 * windows), 0, windows - 1).astype(int)
        local = jnp.where(jnp.arange(x.size) == self.axis, windows * (x + 1) - 2 * window - 1, x)
        return self.output[window] @ jnp.tanh(self.weight[window] @ local + self.bias[window])


def random_features(in_size: int, out_size: int, count: int, spread: float, *, key: Array) -> RandomFeatures:
    """`count` features with normal weights of standard deviation `spread`, each bending at a random place of
    [-1, 1]^in_size (Huang, Zhu & Siew, Neurocomputing 70, 2006), and an output of zero.
    """
    directions, places = jax.random.split(key)
    weight = spread * jax.random.normal(directions, (count, in_size))
    centre = jax.random.uniform(places, (count, in_size), minval=-1.0, maxval=1.0)
    return RandomFeatures(weight, -jnp.sum(weight * centre, axis=1), jnp.zeros((out_size, count)))
