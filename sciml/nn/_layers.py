"""What the networks of this folder are built from: layers with a stated distribution at the start, and their checks."""

import math

import equinox as eqx
import jax
from jaxtyping import Array


def normal_layer(
    in_size: int, out_size: int, *, deviation: float | None = None, offset: float = 0.0, key: Array
) -> eqx.nn.Linear:
    """A linear layer with normal weights and biases uniform in [-offset, offset]. The standard deviation of the weights
    is by default that of Glorot & Bengio (2010), sqrt(2 / (fan in + fan out)).
    """
    if deviation is None:
        deviation = math.sqrt(2 / (in_size + out_size))
    weights, biases = jax.random.split(key)
    weight = deviation * jax.random.normal(weights, (out_size, in_size))
    return with_numbers(weight, jax.random.uniform(biases, (out_size,), minval=-offset, maxval=offset))


def with_numbers(weight: Array, bias: Array) -> eqx.nn.Linear:
    """The linear layer of these numbers."""
    out_size, in_size = weight.shape
    # Its own numbers are replaced at once, so the key does not matter.
    layer = eqx.nn.Linear(in_size, out_size, key=jax.random.key(0))
    return eqx.tree_at(lambda n: (n.weight, n.bias), layer, (weight, bias))


def require_positive(name: str, **sizes: int) -> None:
    """Raises ValueError for a size that is not a whole number above 0."""
    for what, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"{name}: {what} must be a whole number above 0, got {size!r}")


def require_scale(name: str, **numbers: float) -> None:
    """Raises ValueError for a number that is not finite and above 0."""
    for what, number in numbers.items():
        if not (math.isfinite(number) and number > 0):
            raise ValueError(f"{name}: {what} must be finite and above 0, got {number}")
