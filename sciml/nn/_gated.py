"""Networks with gates: the modified multilayer perceptron and PirateNet.

Both mix the output z of a hidden layer with two encodings u and v of the input: z u + (1 - z) v.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._embeddings import FourierFeatures, draw_frequencies
from ._layers import normal_layer, require_positive, require_scale


class ModifiedMLP(eqx.Module):
    """See `modified_mlp`, which makes one."""

    gates: tuple[eqx.nn.Linear, eqx.nn.Linear]
    layers: tuple[eqx.nn.Linear, ...]
    output: eqx.nn.Linear
    activation: Callable

    def __call__(self, x: Float[Array, " in_size"]) -> Float[Array, " out_size"]:
        u, v = (self.activation(gate(x)) for gate in self.gates)
        difference = u - v
        for layer in self.layers:
            x = v + self.activation(layer(x)) * difference
        return self.output(x)


def modified_mlp(
    in_size: int,
    out_size: int,
    width: int = 20,
    depth: int = 3,
    activation: Callable = jnp.tanh,
    *,
    spread: float = 1.0,
    key: Array,
) -> ModifiedMLP:
    """The modified multilayer perceptron `(in_size,) -> (out_size,)` of Wang, Teng & Perdikaris (SIAM J. Sci. Comput.
    43, 2021, section 2.6): two encodings u, v of the input, and `depth` hidden layers of `width` units of which each
    gives z u + (1 - z) v, where z is what a layer of a perceptron gives (in the form of Wang, Sankaran, Wang &
    Perdikaris, arXiv:2308.08468, where the first hidden layer has the gates too).

    At the start the layers that see the input are as the first layer of `mlp`, the others as its other layers. Numbers
    have JAX's default precision at the time of the call. Raises ValueError for a size below 1.
    """
    require_positive("modified_mlp", in_size=in_size, out_size=out_size, width=width, depth=depth)
    require_scale("modified_mlp", spread=spread)
    first, second, last, *keys = jax.random.split(key, 3 + depth)

    def entry(k):
        return normal_layer(in_size, width, deviation=spread, offset=spread, key=k)

    layers = (entry(keys[0]), *(normal_layer(width, width, key=k) for k in keys[1:]))
    output = normal_layer(width, out_size, key=last)
    return ModifiedMLP((entry(first), entry(second)), layers, output, activation)


class PirateBlock(eqx.Module):
    """A residual block of a PirateNet: (1 - alpha) x + alpha h(x), the identity at the start."""

    layers: tuple[eqx.nn.Linear, eqx.nn.Linear, eqx.nn.Linear]
    alpha: Float[Array, ""]

    def __call__(self, x: Array, v: Array, difference: Array, activation: Callable) -> Array:
        first, second, third = self.layers
        h = v + activation(first(x)) * difference
        h = v + activation(second(h)) * difference
        return x + self.alpha * (activation(third(h)) - x)


class PirateNet(eqx.Module):
    """See `piratenet`, which makes one."""

    embedding: FourierFeatures
    gates: tuple[eqx.nn.Linear, eqx.nn.Linear]
    blocks: tuple[PirateBlock, ...]
    output: eqx.nn.Linear
    activation: Callable

    def __call__(self, x: Float[Array, " in_size"]) -> Float[Array, " out_size"]:
        x = self.embedding(x)
        u, v = (self.activation(gate(x)) for gate in self.gates)
        for block in self.blocks:
            x = block(x, v, u - v, self.activation)
        return self.output(x)


def piratenet(
    in_size: int,
    out_size: int,
    width: int = 20,
    depth: int = 3,
    activation: Callable = jnp.tanh,
    *,
    scale: float = 2.0,
    key: Array,
) -> PirateNet:
    """A PirateNet `(in_size,) -> (out_size,)` (Wang, Li, Chen & Perdikaris, JMLR 25, 2024, section 4): the cosines and
    sines of width / 2 random frequencies, then `depth` residual blocks of three layers of `width` units each with two
    gates, then a linear layer.

    A block adds alpha times its change to its input, with a trained alpha that is 0 at the start: the network starts as
    a linear map of its embedding, to be chosen by `least_squares_output`, and deepens as it is trained.

    - `scale`: the standard deviation of the frequencies in radians per unit of the input; the paper takes 1 to 2. They
      are trained, as in the authors' code.

    Weights are those of Glorot & Bengio (2010), biases zero. Numbers have JAX's default precision at the time of the
    call. Raises ValueError for a size below 1 and an odd width.
    """
    require_positive("piratenet", in_size=in_size, out_size=out_size, width=width, depth=depth)
    if width % 2:
        raise ValueError(f"piratenet: the width must be even, half cosines and half sines, got {width}")
    frequencies, first, second, last, *keys = jax.random.split(key, 4 + 3 * depth)
    embedding = FourierFeatures(draw_frequencies(in_size, width, scale, frequencies))

    def square(k):
        return normal_layer(width, width, key=k)

    blocks = []
    for i in range(depth):
        one, two, three = (square(k) for k in keys[3 * i : 3 * i + 3])
        blocks.append(PirateBlock((one, two, three), jnp.zeros(())))
    gates = (square(first), square(second))
    return PirateNet(embedding, gates, tuple(blocks), normal_layer(width, out_size, key=last), activation)
