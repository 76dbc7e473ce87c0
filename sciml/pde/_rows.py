"""The residuals of random features as one vector, and its derivatives by the output layer.

Fields and their partial derivatives are affine in the output layer, so they are tabulated at the points once: for any
output they are then a product of matrices, and what remains of a residual is the equation itself.
"""

from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._loss import Groups
from ._constraint import features as inputs_at
from ._derivatives import Partial, derivatives
from ._pde import INTERIOR, PDE, Group
from ._quantities import demands, field_partials, read

# Residuals of conditions count this much more than those of equations, whose derivatives make them larger.
CONDITION_WEIGHT = 100.0

# By group, values that its targets should have instead of the declared ones: `(n, number of terms)`.
Given = Mapping[str, Array]


class Table(eqx.Module):
    """The fields' partial derivatives at the points of a group: those without the network, `base`, and those of each
    feature in each field, `basis` (of all fields, if it is the same for them).
    """

    points: Float[Array, "n d"]
    normals: Float[Array, "n d"]
    known: Float[Array, "n terms"]
    base: dict[Partial, Float[Array, "n fields"]]
    basis: dict[Partial, Float[Array, "n shared features"]]


@eqx.filter_jit
def tabulate(pde: PDE, network: Any, batch: Groups, given: Given) -> dict[str, Table]:
    """The tables of all groups for the features of `network`."""
    return {n: _table(pde, network, pde.groups[n], points, given) for n, points in batch.items()}


@eqx.filter_jit
def residual_rows(pde: PDE, tables: dict[str, Table], output: Float[Array, "fields features"]) -> Float[Array, " rows"]:
    """The weighted residuals of all groups at their points; their squares add up to weighted mean squares."""
    rows = []
    for label, table in tables.items():
        terms = jax.vmap(_terms(pde, label))(_fields(table, output), table.points, table.normals, table.known)
        rows.append(_weight(label, len(table.points)) * terms.ravel())
    return jnp.concatenate(rows)


@eqx.filter_jit
def jacobian_rows(
    pde: PDE, tables: dict[str, Table], output: Float[Array, "fields features"]
) -> Float[Array, "rows outputs"]:
    """The derivatives of `residual_rows` by the entries of `output`."""
    rows = []
    for label, table in tables.items():
        slopes = _slopes(pde, label, table, _fields(table, output))
        rows.append(_by_output(label, table, slopes, output.shape))
    return jnp.concatenate(rows)


@eqx.filter_jit
def linearised_rows(
    pde: PDE, tables: dict[str, Table], shape: tuple[int, int], fields: Callable
) -> tuple[Float[Array, "rows outputs"], Float[Array, " rows"]]:
    """A matrix A and a vector b: the output with the smallest |A output - b| is that of Newton's step from other
    fields, which need not be made of these features: `fields(point, partials)` returns their partial derivatives.
    """
    rows, right = [], []
    for label, table in tables.items():
        at = jax.vmap(lambda p, table=table: fields(p, tuple(table.base)))(table.points)
        residuals = jax.vmap(_terms(pde, label))(at, table.points, table.normals, table.known)
        slopes = _slopes(pde, label, table, at)
        from_base = sum(jnp.einsum("ntf,nf->nt", slopes[p], at[p] - base) for p, base in table.base.items())
        rows.append(_by_output(label, table, slopes, shape))
        right.append(_weight(label, len(table.points)) * (from_base - residuals).ravel())
    return jnp.concatenate(rows), jnp.concatenate(right)


def _table(pde: PDE, network, group: Group, points, given: Given) -> Table:
    partials = field_partials(pde, demands(pde, (m for t in group.terms for m in t.meanings.values())))
    size = network.output.shape[0]
    nothing, unit = (pde.model(lambda inputs, v=v: jnp.full(size, v, inputs.dtype)) for v in (0.0, 1.0))
    shared = not any(c.faces or c.regions for c in pde.constraints)

    def in_fields(point):
        features = network.hidden(inputs_at(pde, point))
        return features[None] if shared else (unit(point) - nothing(point))[:, None] * features

    normals = group.region.normal(points) if group.needs_normal else jnp.zeros_like(points)
    known = given.get(group.label, jnp.zeros((len(points), 0)))
    base = jax.vmap(lambda p: derivatives(nothing, p, partials))(points)
    return Table(points, normals, known, base, jax.vmap(lambda p: derivatives(in_fields, p, partials))(points))


def _fields(table: Table, output) -> dict[Partial, Float[Array, "n fields"]]:
    """The fields' partial derivatives for an output."""

    def one(base, basis):
        if basis.shape[1] == 1:
            return base + basis[:, 0] @ output.T
        return base + jnp.einsum("nfk,fk->nf", basis, output)

    return {p: one(base, table.basis[p]) for p, base in table.base.items()}


def _by_output(label: str, table: Table, slopes, shape) -> Float[Array, "rows outputs"]:
    """The derivatives of a group's weighted residuals by the output, from those by the fields' derivatives."""
    # By point, term, field and feature: the sum over the partial derivatives.
    parts = [slopes[p][..., None] * basis[:, None] for p, basis in table.basis.items()]
    found = jnp.broadcast_to(sum(parts), (*parts[0].shape[:2], *shape))
    return _weight(label, len(table.points)) * found.reshape(-1, shape[0] * shape[1])


def _slopes(pde: PDE, label: str, table: Table, fields) -> dict[Partial, Float[Array, "n terms fields"]]:
    """The derivatives of the residuals by the fields' partial derivatives."""
    return jax.vmap(jax.jacrev(_terms(pde, label)))(fields, table.points, table.normals, table.known)


def _terms(pde: PDE, label: str):
    """The residuals of a group at a point, from the fields' partial derivatives there."""
    group = pde.groups[label]
    meanings = {n: m for t in group.terms for n, m in t.meanings.items()}
    numbers = {n: v for n, v in pde.numbers.items()}

    def at_point(partials, point, normal, known):
        found = {f: {p: v[i] for p, v in partials.items()} for i, f in enumerate(pde.fields)}
        values = read(pde, meanings, found, point, normal, numbers)
        if known.size:
            return jnp.stack([values[t.function.target] for t in group.terms]) - known  # pyright: ignore
        return jnp.stack([jnp.asarray(t.function(**{n: values[n] for n in t.meanings})) for t in group.terms])

    return at_point


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


def _weight(label, count) -> float:
    return (1.0 if label == INTERIOR else CONDITION_WEIGHT) / np.sqrt(count)
