"""Functions of a whole model that change its linear layers: random weight factorisation, and a least-squares output."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, ArrayLike, Float

from ._layers import require_scale


class FactorisedLinear(eqx.Module):
    """A linear layer whose weights are diag(exp(log_scale)) times those of `linear`: see `factorised`."""

    log_scale: Float[Array, "*stack out_size"]
    linear: eqx.nn.Linear

    def __call__(self, x: Array) -> Array:
        weight = jnp.exp(self.log_scale)[..., None] * self.linear.weight
        return eqx.tree_at(lambda n: n.weight, self.linear, weight)(x)


def factorised(model: Any, *, mean: float = 1.0, deviation: float = 0.1, key: Array) -> Any:
    """`model` with random weight factorisation (Wang, Wang, Seidman & Perdikaris, arXiv:2210.01274): the weights of all
    its linear layers (`eqx.nn.Linear`) become diag(exp(s)) V, where s, one number for each unit, is normal with this
    mean and standard deviation at the start, and s and V are trained. The function is the same at the start.

    Raises ValueError for a model without linear layers or one that is factorised already, and a negative deviation.
    """
    if deviation != 0:
        require_scale("factorised", deviation=deviation)
    leaves, structure = jax.tree.flatten(model, is_leaf=lambda n: isinstance(n, eqx.nn.Linear | FactorisedLinear))
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, eqx.nn.Linear)]
    if any(isinstance(leaf, FactorisedLinear) for leaf in leaves):
        raise ValueError("factorised: the model is factorised already")
    if not places:
        raise ValueError(f"factorised: no linear layers (eqx.nn.Linear) in a {type(model).__name__}")
    for place, k in zip(places, jax.random.split(key, len(places))):
        layer = leaves[place]
        weight = layer.weight
        log_scale = mean + deviation * jax.random.normal(k, weight.shape[:-1], weight.dtype)
        direction = weight / jnp.exp(log_scale)[..., None]
        leaves[place] = FactorisedLinear(log_scale, eqx.tree_at(lambda n: n.weight, layer, direction))
    return jax.tree.unflatten(structure, leaves)


def least_squares_output(model: Any, points: ArrayLike, values: ArrayLike) -> Any:
    """`model` with the numbers of its last linear layer replaced by those that fit `values` at `points` best.

    For a `piratenet`, which starts as a linear map of its embedding, this is the physics-informed initialisation of
    Wang, Li, Chen & Perdikaris (JMLR 25, 2024, section 4.2): the values may be an initial condition, repeated over
    time, measurements or the solution of a linearised problem. It serves any model whose output is an affine function
    of its last linear layer: a network of this folder, also inside `PDE.model`, where points are in the units of the
    domain, values in those of the fields, and the exact conditions are allowed for.

    Points are `(n, in_size)`, values `(n,)` or `(n, out_size)`. The solution is that of smallest norm, by singular
    values.
    Raises ValueError for shapes that do not agree and a model without linear layers, RuntimeError for numbers that are
    not finite and for a model that is not affine in its last linear layer.
    """
    last_linear(model)
    points, values = jnp.asarray(points, float), jnp.asarray(values, float)
    if len(points) != len(values) or len(values) == 0:
        raise ValueError(f"least_squares_output: {len(points)} points and {len(values)} values; give one for each")
    return _with_best_output(model, points, values)


def last_linear(model: Any) -> eqx.nn.Linear:
    """The last linear layer of a model, in the order of its fields. Raises ValueError where it has none."""
    leaves = jax.tree.leaves(model, is_leaf=lambda n: isinstance(n, eqx.nn.Linear))
    layers = [leaf for leaf in leaves if isinstance(leaf, eqx.nn.Linear)]
    if not layers:
        raise ValueError(f"least_squares_output: no linear layers (eqx.nn.Linear) in a {type(model).__name__}")
    return layers[-1]


@eqx.filter_jit
def _with_best_output(model: Any, points: Array, values: Array) -> Any:
    layer = last_linear(model)
    flat, unravel = ravel_pytree((layer.weight, layer.bias))

    def with_numbers(theta):
        new = eqx.tree_at(lambda n: (n.weight, n.bias), layer, unravel(theta), is_leaf=lambda n: n is None)
        return eqx.tree_at(last_linear, model, new)

    def at(theta, point):
        return jnp.ravel(with_numbers(theta)(point))

    def everywhere(f, theta):
        return jax.vmap(f, (None, 0))(theta, points)

    offset = everywhere(at, jnp.zeros_like(flat))
    if offset.size != values.size:
        raise ValueError(f"least_squares_output: the model gives the shape {offset.shape}, the values {values.shape}")
    finite = jnp.all(jnp.isfinite(points)) & jnp.all(jnp.isfinite(values))
    offset = eqx.error_if(offset, ~finite, "least_squares_output: points and values must be finite numbers")
    matrix = everywhere(jax.jacrev(at), jnp.zeros_like(flat))
    # Whether a model is affine in some numbers is seen where all of them are 1.
    ones = everywhere(at, jnp.ones_like(flat))
    gap = jnp.max(jnp.abs(ones - offset - matrix.sum(axis=-1)))
    affine = gap <= 1e-3 * (1 + jnp.max(jnp.abs(ones)))
    offset = eqx.error_if(offset, ~affine, "least_squares_output: the model is not affine in its last linear layer")
    right = jnp.ravel(values.reshape(offset.shape) - offset)
    return with_numbers(jnp.linalg.lstsq(matrix.reshape(-1, flat.size), right)[0])
