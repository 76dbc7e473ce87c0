"""Networks of sines."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from ._layers import require_positive, require_scale, with_numbers


class Sine(eqx.Module):
    """sin(omega_0 z), element by element."""

    omega_0: float = eqx.field(static=True)

    def __call__(self, z: Array) -> Array:
        return jnp.sin(self.omega_0 * z)


def siren(
    in_size: int, out_size: int, width: int = 20, depth: int = 3, *, omega_0: float = 30.0, key: Array
) -> eqx.nn.MLP:
    """A network of sines `(in_size,) -> (out_size,)` with `depth` hidden layers x -> sin(omega_0 (W x + b)) of `width`
    units (Sitzmann, Martel, Bergman, Lindell & Wetzstein, NeurIPS 2020).

    With n the inputs of a layer, weights are uniform in [-1/n, 1/n] in the first and in
    [-sqrt(6/n), sqrt(6/n)] / omega_0 in the others, the output too (section 3.2 and the authors' code). Biases are
    uniform in [-1, 1] / sqrt(n) in the first, so that its phases differ, and zero in the others. The arguments of the
    second layer's sines are then normal with variance 1 at the start (theorem 1.8 of the supplement); as sin(z) has
    variance (1 - exp(-2 v)) / 2 for normal z of variance v, those of deeper layers have 0.86, 0.82, ..., 0.80. The
    authors' code has biases there too; they are small beside the weights in layers of hundreds of units, not in the
    narrow ones of PINNs.

    - `omega_0`: the largest frequency of the first layer in radians per unit of the input, on which a k-th derivative
      depends as omega_0^k. 30 is the paper's, for images and sound; smooth fields want less, such as 5.

    Numbers have JAX's default precision at the time of the call. Raises ValueError for a size below 1 and an omega_0
    that is not above 0.
    """
    require_positive("siren", in_size=in_size, out_size=out_size, width=width, depth=depth)
    require_scale("siren", omega_0=omega_0)
    network = eqx.nn.MLP(in_size, out_size, width, depth, Sine(float(omega_0)), key=key)
    layers = []
    for i, (layer, k) in enumerate(zip(network.layers, jax.random.split(key, depth + 1))):
        weights, biases = jax.random.split(k)
        n = layer.weight.shape[1]
        bound = 1 / n if i == 0 else math.sqrt(6 / n) / omega_0
        offset = 1 / math.sqrt(n) if i == 0 else 0.0
        weight = jax.random.uniform(weights, layer.weight.shape, minval=-bound, maxval=bound)
        bias = jax.random.uniform(biases, weight.shape[:1], minval=-offset, maxval=offset)
        layers.append(with_numbers(weight, bias))
    return eqx.tree_at(lambda n: n.layers, network, tuple(layers))
