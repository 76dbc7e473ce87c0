"""Multilayer perceptrons."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array


def mlp(
    in_size: int,
    out_size: int,
    width: int = 20,
    depth: int = 3,
    activation: Callable = jnp.tanh,
    *,
    key: Array,
) -> eqx.nn.MLP:
    """A multilayer perceptron `(in_size,) -> (out_size,)` with `depth` hidden layers of `width` units.

    Weights are normal with variance 2 / (fan in + fan out) (Glorot & Bengio, 2010); the first biases are uniform in
    [-1, 1], so that the units bend at different places of inputs scaled to [-1, 1], and the others zero. Numbers
    have JAX's default precision at the time of the call.
    """
    network = eqx.nn.MLP(in_size, out_size, width, depth, activation, key=key)
    keys = jax.random.split(key, 2 * len(network.layers))
    weights, biases = [], []
    for i, layer in enumerate(network.layers):
        shape = layer.weight.shape
        weights.append(jax.random.normal(keys[2 * i], shape) * (2.0 / sum(shape)) ** 0.5)
        spread = 1.0 if i == 0 else 0.0
        biases.append(jax.random.uniform(keys[2 * i + 1], (shape[0],), minval=-spread, maxval=spread))
    network = eqx.tree_at(lambda n: [layer.weight for layer in n.layers], network, weights)
    return eqx.tree_at(lambda n: [layer.bias for layer in n.layers], network, biases)
