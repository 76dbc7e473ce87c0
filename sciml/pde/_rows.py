"""The residuals of random features as one vector, and its derivatives by the output layer."""

from collections.abc import Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._loss import Groups
from ._pde import INTERIOR, PDE, Group

# Residuals of conditions count this much more than those of equations, whose derivatives make them larger.
CONDITION_WEIGHT = 100.0

# By group, values that its targets should have instead of the declared ones: `(n, number of terms)`.
Given = Mapping[str, Array]


@eqx.filter_jit
def residual_rows(pde: PDE, network, batch: Groups, given: Given) -> Float[Array, " rows"]:
    """The weighted residuals of all groups at their points; their squares add up to weighted mean squares."""

    def rows(label, points, known):
        found = jax.vmap(lambda p, v: _at_point(pde, network, label, p, v))(points, known)
        return _weight(label, len(points)) * found.ravel()

    return jnp.concatenate([rows(label, *part) for label, part in _parts(batch, given)])


@eqx.filter_jit
def jacobian_rows(pde: PDE, network, batch: Groups, given: Given) -> Float[Array, "rows outputs"]:
    """The derivatives of `residual_rows` by the entries of `network.output`."""

    def rows(label, points, known):
        def at_point(point, value):
            def residual(output):
                return _at_point(pde, eqx.tree_at(lambda n: n.output, network, output), label, point, value)

            return jax.jacrev(residual)(network.output)

        found = jax.vmap(at_point)(points, known)
        return _weight(label, len(points)) * found.reshape(-1, network.output.size)

    return jnp.concatenate([rows(label, *part) for label, part in _parts(batch, given)])


@eqx.filter_jit
def field_rows(pde: PDE, network, points) -> tuple[Float[Array, "n fields"], Float[Array, "rows outputs"]]:
    """The fields at points, and their derivatives by the entries of `network.output`."""

    def at_point(point):
        def values(output):
            return pde.model(eqx.tree_at(lambda n: n.output, network, output))(point)

        return values(network.output), jax.jacrev(values)(network.output)

    found, derivatives = jax.vmap(at_point)(points)
    return found, derivatives.reshape(-1, network.output.size)


def target_values(pde: PDE, group: Group, fields, points) -> Float[Array, "n terms"]:
    """What the targets of a declared condition are in `fields`."""
    wanted = {t.function.target: t.meanings[t.function.target] for t in group.terms}  # pyright: ignore

    def at_point(point):
        found = pde.evaluate(wanted, fields, point)
        return jnp.stack([jnp.asarray(v) for v in found.values()])

    return jax.vmap(at_point)(points)


def weighted_size(pde: PDE, losses: Mapping[str, Array]) -> float:
    """The root of the weighted sum of mean squares."""
    equations = {t.name for t in pde.groups[INTERIOR].terms}
    weights = {n: 1.0 if n in equations else CONDITION_WEIGHT**2 for n in losses}
    return float(np.sqrt(sum(weights[n] * float(v) for n, v in losses.items())))


def _parts(batch, given):
    return [(label, (points, given.get(label, jnp.zeros((len(points), 0))))) for label, points in batch.items()]


def _at_point(pde, network, label, point, known):
    fields = pde.model(network)
    if known.size:
        return target_values(pde, pde.groups[label], fields, point[None])[0] - known
    terms = pde.residuals(fields, Groups({label: point[None]}))
    return jnp.concatenate([jnp.ravel(r) for r in terms.values()])


def _weight(label, count) -> float:
    return (1.0 if label == INTERIOR else CONDITION_WEIGHT) / np.sqrt(count)
