"""The residuals of random features as one vector, and its derivatives by the output layer.

Fields and their partial derivatives are affine in the output layer, so they are tabulated at the points once: for any
output they are then a product of matrices, and what remains of a residual is the equation itself.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .._loss import Groups
from ..nn import PriorFeatures
from ._compile import compiled_quickly
from ._condition import Jump, Observations
from ._constraint import factors, of_part
from ._constraint import features as inputs_at
from ._derivatives import Partial, closure, derivatives, product
from ._pde import INTERIOR, PDE, Group
from ._quantities import demands, field_partials, read
from ._subdomains import PART

# Residuals of conditions count this much more than those of equations, whose derivatives make them larger.
CONDITION_WEIGHT = 100.0

# By group, values that its targets should have instead of the declared ones: `(n, number of terms)`.
Given = Mapping[str, Array]
Partials = dict[Partial, Array]


# Points whose integrals are tabulated at once.
CHUNK = 64


class Table(eqx.Module):
    """The fields' partial derivatives at the points of a group: those without the network, `base`, and those of each
    feature in each field, `basis` (of all fields, if it is the same for them).

    Of an interface, fields are those before it and those behind it; `part` says in which part of the domain they are.
    Integrals, by name, are affine in the output too: `total` without the network, and by `share` of each output.
    """

    points: Float[Array, "n d"]
    normals: Float[Array, "n d"]
    known: Float[Array, "n terms"]  # what was measured, or the values of the targets instead of the declared ones
    base: dict[Partial, Float[Array, "n fields"]]
    basis: dict[Partial, Float[Array, "n shared features"]]
    part: Int[Array, "n sides"]
    total: dict[str, Float[Array, "n 1"]]
    share: dict[str, Float[Array, "n outputs features"]]


def tabulate(
    pde: PDE, network: Any, batch: Groups, given: Given, same: Mapping[str, Table] | None = None
) -> dict[str, Table]:
    """The tables of all groups for the features of `network`, or with those of other tables, which are the same."""
    # Two programs: that without the network, of which the declared data are a part, serves all networks.
    places = _places(pde, batch, network.output.shape[0])
    if same is not None:
        features = {n: (t.basis, t.total, t.share) for n, t in same.items()}
        return {n: _table(place, features[n], given.get(n)) for n, place in places.items()}
    features, *integrals = _features(pde, network, batch, {n: place.part for n, place in places.items()})
    features = _in_fields(pde, features, places)
    every = {n: (features[n], *(i[n] for i in integrals)) for n in places}
    return {n: _table(place, every[n], given.get(n)) for n, place in places.items()}


def bare_table(points: Float[Array, "n d"]) -> Table:
    """A table for fields that are made of something else than features."""
    nothing, part = jnp.zeros((len(points), 0)), jnp.zeros((len(points), 1), int)
    return Table(points, jnp.zeros_like(points), nothing, {}, {}, part, {}, {})


def terms_at(pde: PDE, label: str, table: Table, partials: Partials) -> Float[Array, "n terms"]:
    """The residuals of a group at the points of its table, from the partial derivatives of fields, `(n, fields)`."""
    return _at_points(_terms(pde, label), table)((partials, {}))


def slopes_at(pde: PDE, label: str, table: Table, partials: Partials) -> dict[Partial, Float[Array, "n terms fields"]]:
    """Their derivatives by those of the fields."""
    return _slopes(pde, label, table, (partials, {}))[0]


@eqx.filter_jit
def residual_rows(
    pde: PDE, tables: dict[str, Table], output: Float[Array, "outputs features"], numbers: Mapping | None = None
) -> Float[Array, " rows"]:
    """The weighted residuals of all groups at their points; their squares add up to weighted mean squares.

    `numbers` are the parameters of the equations, where some are unknown.
    """
    rows = []
    for label, table in tables.items():
        terms = _at_points(_terms(pde, label, numbers), table)(_fields(pde, table, output))
        rows.append(row_weight(label, len(table.points)) * terms.ravel())
    return jnp.concatenate(rows)


@eqx.filter_jit
def mean_square_rows(pde: PDE, tables: dict[str, Table], output: Float[Array, "outputs features"]) -> dict[str, Array]:
    """The mean squares of the residuals, not weighted, by name."""
    found = {}
    for label, table in tables.items():
        terms = _at_points(_terms(pde, label), table)(_fields(pde, table, output))
        found |= {t.name: jnp.mean(terms[:, i] ** 2) for i, t in enumerate(pde.groups[label].terms)}
    return found


@eqx.filter_jit
def jacobian_rows(
    pde: PDE, tables: dict[str, Table], output: Float[Array, "outputs features"], numbers: Mapping | None = None
) -> Float[Array, "rows entries"]:
    """The derivatives of `residual_rows` by the entries of `output`."""
    rows = []
    for label, table in tables.items():
        slopes = _slopes(pde, label, table, _fields(pde, table, output), numbers)
        rows.append(_by_output(pde, label, table, slopes, output.shape))
    return jnp.concatenate(rows)


def interior_rows(pde: PDE, tables: dict[str, Table]) -> slice:
    """Where the residuals of the equations are among the rows."""
    start = 0
    # In the order that dictionaries have in a compiled function.
    for label in sorted(tables):
        rows = len(tables[label].points) * len(pde.groups[label].terms)
        if label == INTERIOR:
            return slice(start, start + rows)
        start += rows
    return slice(0, 0)


@eqx.filter_jit
def linearised_rows(
    pde: PDE, tables: dict[str, Table], shape: tuple[int, int], fields: Callable
) -> tuple[Float[Array, "rows entries"], Float[Array, " rows"]]:
    """A matrix A and a vector b: the output with the smallest |A output - b| is that of Newton's step from other
    fields, which need not be made of these features: `fields(point, partials)` returns their partial derivatives.
    """
    rows, right = [], []
    for label, table in tables.items():
        at = jax.vmap(lambda p, table=table: fields(p, tuple(table.base)))(table.points)
        residuals = _at_points(_terms(pde, label), table)((at, {}))
        slopes = _slopes(pde, label, table, (at, {}))
        from_base = sum(jnp.einsum("ntf,nf->nt", slopes[0][p], at[p] - base) for p, base in table.base.items())
        rows.append(_by_output(pde, label, table, slopes, shape))
        right.append(row_weight(label, len(table.points)) * (from_base - residuals).ravel())
    return jnp.concatenate(rows), jnp.concatenate(right)


def terms_size(pde: PDE, tables: dict[str, Table], output, numbers: Mapping) -> Array:
    """The norm of the terms that the weighted residuals are the sum of: derivatives of the fields times the slopes by
    them."""
    total = jnp.zeros(())
    for label, table in tables.items():
        partials, integrals = _fields(pde, table, output)
        slopes, _ = _slopes(pde, label, table, (partials, integrals), numbers)
        terms = sum(jnp.sum((s * partials[p][:, None]) ** 2) for p, s in slopes.items())
        total = total + row_weight(label, len(table.points)) ** 2 * terms
    return jnp.sqrt(total)


class _Place(NamedTuple):
    """What a table has that does not depend on the features."""

    points: Array
    measured: Array | None
    normals: Array
    base: Partials
    factor: Partials
    part: Array


@compiled_quickly
def _places(pde: PDE, batch: Groups, outputs: int) -> dict[str, _Place]:
    nothing = pde.model(lambda inputs: jnp.zeros(outputs, inputs.dtype))

    def one(group, points):
        points, measured = _measured(group, points)
        normals = group.region.normal(points) if group.needs_normal else jnp.zeros_like(points)
        part = _parts(pde, group, points, normals)
        partials = partials_of(pde, group)
        base = _of_sides(lambda p, k: nothing.in_part(k)(p), points, part, partials)
        factor = jax.vmap(lambda p: derivatives(lambda q: factors(pde, q), p, closure(partials)))(points)
        return _Place(points, measured, normals, base, factor, part)

    return {n: one(pde.groups[n], points) for n, points in batch.items()}


@eqx.filter_jit
def _features(pde: PDE, network, batch: Groups, parts: dict[str, Array]):
    """By group, the features' partial derivatives before they are multiplied by the factors of exact conditions, those
    of the two sides of an interface one after the other, and the integrals without the network and by its output.
    """

    def of_side(point, part):
        features = network.hidden(inputs_at(pde, point))
        features = features[None] if features.ndim == 1 else of_part(pde, features, part)
        return network.scale * features if isinstance(network, PriorFeatures) else features

    def one(group, points, part):
        points, _ = _measured(group, points)
        asked = pde.integrals_in({n: m for t in group.terms for n, m in t.meanings.items()})
        partials = closure(partials_of(pde, group))
        return _of_sides(of_side, points, part, partials), *_integrals(pde, network, asked, points)

    found = {n: one(pde.groups[n], points, parts[n]) for n, points in batch.items()}
    return tuple({n: f[i] for n, f in found.items()} for i in range(3))


@eqx.filter_jit
def _in_fields(pde: PDE, features: Mapping[str, Partials], places: Mapping[str, _Place]) -> dict[str, Partials]:
    """The features' partial derivatives in each field: of their products with the factors of exact conditions.

    A program of its own: in one with the features, these would be computed anew for each derivative.
    """
    free = not any(c.faces or c.regions for c in pde.constraints)

    def one(group, found, place):
        partials, sides = partials_of(pde, group), place.part.shape[1]

        def times(factor, feature):
            own = feature.reshape(len(feature), sides, -1, feature.shape[2])
            return (factor[:, None, :, None] * own).reshape(len(feature), -1, feature.shape[2])

        every = found if free else product(times, place.factor, found, closure(partials))
        return {p: every[p] for p in partials}

    return {n: one(pde.groups[n], found, places[n]) for n, found in features.items()}


def _measured(group: Group, points: Any) -> tuple[Array, Array | None]:
    """The points of a group, and what was measured there."""
    return (points["points"], points["values"]) if isinstance(group.region, Observations) else (points, None)


def _table(place: _Place, features, known: Array | None) -> Table:
    known = place.measured if known is None else known
    known = jnp.zeros((len(place.points), 0)) if known is None else known
    return Table(place.points, place.normals, known, place.base, features[0], place.part, *features[1:])


def partials_of(pde: PDE, group: Group) -> tuple[Partial, ...]:
    """The partial derivatives of fields that a group asks for."""
    return field_partials(pde, demands(pde, (m for t in group.terms for m in t.meanings.values())))


def _of_sides(function: Callable, points, part, partials) -> Partials:
    """The partial derivatives of a function of a point and a part, one side after the other."""

    def one(point, parts):
        found = [derivatives(lambda p, k=k: function(p, k), point, partials) for k in parts]
        return {p: jnp.concatenate([f[p] for f in found]) for p in partials}

    return jax.vmap(one)(points, part)


def _parts(pde: PDE, group: Group, points, normals) -> Int[Array, "n sides"]:
    if pde.parts == 1:
        return jnp.zeros((len(points), 1), int)
    domain: Any = pde.domain
    if isinstance(group.source, Jump):
        return jax.vmap(lambda p, n: jax.vmap(domain.part_at)(domain.sides(p, n)))(points, normals)
    return jax.vmap(domain.part_at)(points)[:, None]


def _integrals(pde: PDE, network, names, points):
    """Integrals at the points without the network, and their derivatives by its output."""

    def at(point, name, output):
        return pde.integrated(name, pde.model(eqx.tree_at(lambda n: n.output, network, output)), point)

    nothing = jnp.zeros_like(network.output)
    total, share = {}, {}
    for name in names:
        both = jax.value_and_grad(lambda output, point, name=name: at(point, name, output))
        values, share[name] = jax.lax.map(lambda p, both=both: both(nothing, p), points, batch_size=CHUNK)
        total[name] = values[:, None]
    return total, share


def _owners(pde: PDE, table: Table) -> Int[Array, "n fields"]:
    """The output that each field of a table is of."""
    fields = len(pde.fields)
    return (table.part[:, :, None] * fields + jnp.arange(fields)).reshape(len(table.points), -1)


def _fields(pde: PDE, table: Table, output):
    """The fields' partial derivatives, and the integrals, for an output."""

    def one(base, basis):
        if pde.parts > 1:
            return base + jnp.einsum("nck,nck->nc", basis, output[_owners(pde, table)])
        if basis.shape[1] == 1:
            return base + basis[:, 0] @ output.T
        return base + jnp.einsum("nfk,fk->nf", basis, output)

    partials = {p: one(base, table.basis[p]) for p, base in table.base.items()}
    return partials, {n: t + jnp.einsum("nok,ok->n", table.share[n], output)[:, None] for n, t in table.total.items()}


def _by_output(pde: PDE, label: str, table: Table, slopes, shape) -> Float[Array, "rows entries"]:
    """The derivatives of a group's weighted residuals by the output, from those by the fields' derivatives."""
    by_partial, by_integral = slopes
    # By point, term, field and feature: the sum over the partial derivatives.
    parts: Any = sum(by_partial[p][..., None] * basis[:, None] for p, basis in table.basis.items())
    if pde.parts > 1 and table.basis:
        parts = jnp.einsum("ntck,nco->ntok", parts, jax.nn.one_hot(_owners(pde, table), shape[0], dtype=parts.dtype))
    found: Any = parts + sum(slope[..., None] * table.share[n][:, None] for n, slope in by_integral.items())
    found = jnp.broadcast_to(found, (*found.shape[:2], *shape))
    return row_weight(label, len(table.points)) * found.reshape(-1, shape[0] * shape[1])


def _at_points(function: Callable, table: Table) -> Callable:
    """A function of the fields and integrals of one point as one of those of all points of a table."""
    return lambda fields: jax.vmap(function)(fields, table.points, table.normals, table.known, table.part)


def _slopes(pde: PDE, label: str, table: Table, fields, numbers: Mapping | None = None):
    """The derivatives of the residuals by the fields' partial derivatives, and by the integrals."""
    return _at_points(jax.jacrev(_terms(pde, label, numbers)), table)(fields)


def _terms(pde: PDE, label: str, numbers: Mapping | None = None):
    """The residuals of a group at a point, from the fields' partial derivatives and the integrals there."""
    group = pde.groups[label]
    meanings = {n: m for t in group.terms for n, m in t.meanings.items()}
    given = dict(pde.numbers if numbers is None else numbers)
    measured = isinstance(group.region, Observations)

    def side(partials, totals, point, normal, part):
        numbers = given | {n: t[0] for n, t in totals.items()}
        numbers |= {PART: part} if pde.parts > 1 else {}
        found = {f: {p: v[i] for p, v in partials.items()} for i, f in enumerate(pde.fields)}
        return read(pde, meanings, found, point, normal, numbers)

    def at_point(fields, point, normal, known, part):
        partials, totals = fields
        if isinstance(group.source, Jump):
            halves = [{p: jnp.split(v, 2)[i] for p, v in partials.items()} for i in (0, 1)]
            before, behind = (side(half, totals, point, normal, k) for half, k in zip(halves, part))
            return jnp.stack([jnp.asarray(t.function(before, behind)) for t in group.terms])
        values = side(partials, totals, point, normal, part[0])
        if known.size and not measured:
            return jnp.stack([values[t.function.target] for t in group.terms]) - known  # pyright: ignore
        extra = {"measured": known} if measured else {}
        return jnp.stack([jnp.asarray(t.function(**{n: values[n] for n in t.meanings}, **extra)) for t in group.terms])

    return at_point


def target_values(pde: PDE, group: Group, fields, points) -> Float[Array, "n terms"]:
    """What the targets of a declared condition are in `fields`."""
    wanted = {t.function.target: t.meanings[t.function.target] for t in group.terms}  # pyright: ignore

    def at_point(point):
        found = pde.evaluate(wanted, fields, point)
        return jnp.stack([jnp.asarray(v) for v in found.values()])

    return jax.vmap(at_point)(points)


def weighted_size(pde: PDE, losses: Mapping[str, Array] | Mapping[str, float]) -> float:
    """The root of the weighted sum of mean squares."""
    equations = {t.name for t in pde.groups[INTERIOR].terms}
    weights = {n: 1.0 if n in equations else CONDITION_WEIGHT**2 for n in losses}
    return float(np.sqrt(sum(weights[n] * float(v) for n, v in losses.items())))


def row_weight(label: str, count: int) -> float:
    """What the residuals of a group are multiplied by."""
    return (1.0 if label == INTERIOR else CONDITION_WEIGHT) / np.sqrt(count)
