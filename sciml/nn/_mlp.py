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
    spread: float = 1.0,
    key: Array,
) -> eqx.nn.MLP:
    """A multilayer perceptron `(in_size,) -> (out_size,)` with `depth` hidden layers of `width` units.

    Weights are normal with variance 2 / (fan in + fan out) (Glorot & Bengio, 2010) and biases zero, but for the first
    layer: its weights are normal with standard deviation `spread` and its biases uniform in [-spread, spread], so that
    the units bend at different places of inputs scaled to [-1, 1], the more sharply the larger `spread`. Numbers have
    JAX's default precision at the time of the call.
    """
    make = lambda: eqx.nn.MLP(in_size, out_size, width, depth, activation, key=key)  # noqa: E731
    # Its own numbers are replaced at once, and not drawn unless the activation has some too.
    network = make() if any(map(eqx.is_array, jax.tree.leaves(activation))) else eqx.filter_eval_shape(make)
    keys = jax.random.split(key, 2 * len(network.layers))
    weights, biases = [], []
    for i, layer in enumerate(network.layers):
        shape = layer.weight.shape
        deviation = spread if i == 0 else (2.0 / sum(shape)) ** 0.5
        weights.append(deviation * jax.random.normal(keys[2 * i], shape))
        if i == 0:
            biases.append(jax.random.uniform(keys[1], (shape[0],), minval=-spread, maxval=spread))
        else:
            biases.append(jnp.zeros(shape[0]))
    network = eqx.tree_at(lambda n: [layer.weight for layer in n.layers], network, weights)
    return eqx.tree_at(lambda n: [layer.bias for layer in n.layers], network, biases)
