"""The output layer of a trained network by least squares, where all that comes before it are features."""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._precision import double_precision
from ..nn import Ensemble, PartFeatures, PartNetworks, RandomFeatures
from ..optim._newton import Equilibrated, minimise
from ._condition import Observations
from ._constraint import ConstrainedFields
from ._linear import sobol_points
from ._pde import PDE
from ._rows import CONDITION_WEIGHT, Table, jacobian_rows, residual_rows, tabulate
from ._scales import ScaledOutput

# Interior points; where each has an integral of its own, fewer.
POINTS, POINTS_OF_INTEGRALS = 4096, 512
# How far the output may be from what its last layer makes of the features, relative to its size.
ROUNDING = 1e-6


def polish(pde: PDE, fields: Any, *, key: Array | None = None) -> Any:
    """`fields`, such as `solution.model` or what `fit` made of `pde.model(network)`, with the output layer of the
    network that makes the residuals least where all before it stays as it is (after Dong & Li, CMAME 387, 2021, where
    the features are random): one linear least-squares problem where equations are affine in the fields, otherwise
    Newton's method from the output layer as it was trained. Exact conditions and unknown parameters stay as they are.
    In the sum of mean squares conditions that are penalties count 10,000 times as much as equations, and observations
    with their own weight. Of an ensemble, each member by itself.

    The network is any whose output is an affine function of its last `eqx.nn.Linear`, such as `eqx.nn.MLP` and those
    of `sciml.nn` but `separable` and factorised ones, also within `nondimensional`; or a `PartNetworks` of these.

    What was found is taken if it leaves smaller residuals at 4,096 points that were not fitted; otherwise `fields` are
    returned. It helps after first-order methods, such as Adam. Quasi-Newton methods and Gauss-Newton have found the
    output layer already, and leave little to gain.

    It works in double precision, and numbers come back in their own. Raises TypeError for a network without such a
    layer, and for what `pde.model` did not make.
    """
    key = jax.random.key(0) if key is None else key
    if isinstance(fields, Ensemble):
        with double_precision():
            return _joined(fields, [polish(pde, fields.member(i), key=key) for i in range(len(fields))])
    if not isinstance(fields, ConstrainedFields):
        raise TypeError(f"polish: expected fields that pde.model(network) gave, got {type(fields).__name__}")
    with double_precision():
        layer = output_layer(jax.tree.map(_wide, fields.network), pde)
        if layer is None:
            raise TypeError(
                f"polish: the output of {type(fields.network).__name__} is no affine function of a last linear layer "
                "(eqx.nn.Linear); take a network that ends in one, such as sciml.nn.mlp"
            )
        best = _least(_known(pde, fields), layer.network, key)
        if best is None:
            return fields
        # In here, where numbers in double precision stay what they are.
        network = jax.tree.map(_like, layer.put(best), fields.network)
    return eqx.tree_at(lambda f: f.network, fields, network)


class OutputLayer(NamedTuple):
    """A network as features and what its last layer makes of them, `(outputs, features)`, and the network with other
    such numbers.
    """

    network: RandomFeatures
    put: Callable


def output_layer(network: Any, pde: PDE) -> OutputLayer | None:
    """The last linear layer of a network; None where it has none, or where the output is no affine function of it."""
    try:
        found = _output_layer(network)
        agree = found is not None and _agree(network, found.network, pde.in_size)
    except (AttributeError, TypeError, ValueError, IndexError):
        # What is not made for features in place of its output.
        return None
    return found if agree else None


class BeforeOutput(eqx.Module):
    """`(in_size,) -> (features,)`: a network whose last layer was taken away, and a constant if that had a bias."""

    network: Callable
    constant: bool = eqx.field(static=True)

    def __call__(self, x: Float[Array, " in_size"]) -> Float[Array, " features"]:
        features = jnp.ravel(self.network(x))
        return jnp.append(features, jnp.ones((), features.dtype)) if self.constant else features


def _output_layer(network: Any) -> OutputLayer | None:
    if isinstance(network, ScaledOutput):
        return _of_scaled(network)
    parts = isinstance(network, PartNetworks)
    whole: Any = network.networks if parts else network
    if not _linear_layers(whole):
        return None
    layer = _last(whole)
    hidden: Any = BeforeOutput(eqx.tree_at(_last, whole, eqx.nn.Identity()), layer.bias is not None)
    output = layer.weight if layer.bias is None else jnp.append(layer.weight, layer.bias[..., None], axis=-1)
    shape = output.shape
    if parts:
        hidden = PartFeatures(hidden, network.low, network.high, shape[1])
        output = output.reshape(-1, shape[2])

    def put(output):
        output = jnp.reshape(output, shape)
        new = output if layer.bias is None else (output[..., :-1], output[..., -1])
        where = (lambda n: _last(n).weight) if layer.bias is None else (lambda n: (_last(n).weight, _last(n).bias))
        changed = eqx.tree_at(where, whole, new)
        return PartNetworks(changed, network.low, network.high) if parts else changed

    return OutputLayer(RandomFeatures(hidden, output), put)


def _of_scaled(network: ScaledOutput) -> OutputLayer | None:
    """Of outputs in units: those are the size times what the network gives, and its bias takes up their centre."""
    inner = _output_layer(network.network)
    if inner is None:
        return None
    sizes, centres = jnp.asarray(network.sizes)[:, None], jnp.asarray(network.centres)
    output = (sizes * inner.network.output).at[:, -1].add(centres)

    def put(output):
        own = jnp.reshape(output, (len(sizes), -1)).at[:, -1].add(-centres) / sizes
        return ScaledOutput(inner.put(own), network.centres, network.sizes)

    return OutputLayer(RandomFeatures(inner.network.hidden, output), put)


def _linear_layers(network: Any) -> list[eqx.nn.Linear]:
    leaves = jax.tree.leaves(network, is_leaf=lambda n: isinstance(n, eqx.nn.Linear))
    return [leaf for leaf in leaves if isinstance(leaf, eqx.nn.Linear)]


def _last(network: Any) -> Any:
    return _linear_layers(network)[-1]


@eqx.filter_jit
def _gaps(network, features: RandomFeatures, inputs) -> tuple[Array, Array]:
    raw, made = (jax.vmap(lambda x, f=f: jnp.ravel(f(x)))(inputs) for f in (network, features))
    return jnp.max(jnp.abs(raw - made)), jnp.max(jnp.abs(raw))


def _agree(network, features: RandomFeatures, in_size: int) -> bool:
    inputs = jax.random.uniform(jax.random.key(0), (16, in_size), minval=-1.0, maxval=1.0)
    gap, size = _gaps(network, features, inputs)
    return bool(gap <= ROUNDING * size)


def _least(pde: PDE, network: RandomFeatures, key: Array) -> Array | None:
    """The output with the least residuals; None if it leaves larger ones elsewhere than the present one."""
    count, shape = POINTS_OF_INTEGRALS if pde.integrals else POINTS, network.output.shape
    fitted, fresh = (tabulate(pde, network, sobol_points(pde, k, count), {}) for k in jax.random.split(key))
    weights = _weights(pde, fitted)

    def rows(tables, output):
        return weights * np.asarray(residual_rows(pde, tables, jnp.reshape(output, shape)))

    def columns(output):
        return weights[:, None] * np.asarray(jacobian_rows(pde, fitted, jnp.reshape(output, shape)))

    start = np.asarray(network.output).ravel()
    best = minimise(lambda output: rows(fitted, output), columns, start, factor=Equilibrated).point
    before, after = (np.linalg.norm(rows(fresh, output)) for output in (start, best))
    return jnp.asarray(best) if after < before else None


def _weights(pde: PDE, tables: dict[str, Table]) -> Float[np.ndarray, " rows"]:
    """Of each row: observations have the weight that they were declared with."""
    found = []
    for label, table in tables.items():
        group = pde.groups[label]
        weight = 1 / CONDITION_WEIGHT if isinstance(group.region, Observations) else 1.0
        found.append(np.full(len(table.points) * len(group.terms), weight))
    return np.concatenate(found)


def _known(pde: PDE, fields: ConstrainedFields) -> PDE:
    """The problem where the parameters are known to be what was found."""
    if not pde.unknowns:
        return pde
    known = copy.copy(pde)
    known.numbers = {name: float(number) for name, number in pde.parameters(fields).items()}
    known.unknowns = {}
    return known


def _joined(fields: Ensemble, members: list) -> Ensemble:
    if isinstance(fields.members, tuple):
        return Ensemble(tuple(members))
    return Ensemble(jax.tree.map(lambda *of: jnp.stack(of) if eqx.is_array(of[0]) else of[0], *members))


def _wide(leaf):
    return jnp.asarray(leaf, float) if eqx.is_inexact_array(leaf) else leaf


def _like(leaf, before):
    return leaf.astype(before.dtype) if eqx.is_inexact_array(before) else leaf
