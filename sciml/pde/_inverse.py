"""Unknown parameters, and fields from data, by least squares over random features.

The output layer and the unknown parameters together make the sum of squares least by Gauss-Newton steps (Bjorck,
Numerical Methods for Least Squares Problems, 1996, section 9.2). Data count in units of their noise, which is estimated
from what they miss; equations and conditions count so much more that they hold nearly exactly. As a curved valley
leads there, their weight grows in stages.
"""

import time
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._loss import mean_squares
from ..optim._newton import Equilibrated, minimise
from ._condition import Observations
from ._constraint import ConstrainedFields
from ._derivatives import derivatives
from ._hidden import Drawn, adapted, draw, steady_axes
from ._linear import sobol_points
from ._pde import INTERIOR, PDE
from ._quantities import demands
from ._rows import Table, jacobian_rows, residual_rows, row_weight, tabulate, terms_size

SPREADS = (2.0, 4.0, 1.0, 8.0)
# For one axis a third of them.
FEATURES = (400, 900)
POINTS_PER_FEATURE = 3
# How much more than the data, in units of the noise, equations count: in stages.
STAGES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
# The equations' share of the sum of squares, by parameter that the data determine: as good as none; hardly felt by the
# parameters; that with which equations do not count for more; and from which on a solution is not taken, and after two
# scales others are not tried.
ENOUGH, FREE, STRAINED, HOPELESS = 0.3, 1.0, 30.0, 100.0
# Steps end that would change the root of the sum of squares by less than this share.
CONVERGED = 1e-3
# The noise that data are assumed to have at first, and at least, as a share of their deviation.
FIRST_NOISE, LEAST_NOISE = 1e-2, 1e-9
# Rounds in which the prior of hidden fields adapts at the end, and where it has.
ROUNDS, SETTLED = 12, 0.05


class Inverse(NamedTuple):
    """The fields with the parameters found; the residual left, relative to the terms of the equations; its share of the
    sum of squares, by parameter that the data determine (`strain`); what the data miss, in units of their deviation;
    the features' scale and number.
    """

    fields: ConstrainedFields
    residual: float
    strain: float
    misfit: float
    spread: float
    count: int
    losses: dict[str, float]


def is_inverse(pde: PDE) -> bool:
    """Whether there is something to be found from data."""
    return bool(pde.unknowns) or bool(observed(pde))


def observed(pde: PDE) -> dict[str, Any]:
    """The groups of observations by label."""
    return {g.label: g for g in pde.trained_groups if isinstance(g.region, Observations)}


def solve_inverse(pde: PDE, key: Array, budget: float) -> Inverse | None:
    """The best solution by random features that is found within `budget` seconds; None where nothing is observed."""
    if not observed(pde):
        return None
    start, found = time.perf_counter(), []
    for count in (n if len(pde.axes) > 1 else n // 3 for n in FEATURES):
        best = _best(found) if found else None
        spreads = SPREADS if best is None else (best.spread, *[s for s in SPREADS if s > best.spread][:1])
        for spread in spreads:
            began = time.perf_counter()
            found.append(_solve(pde, count, spread, jax.random.fold_in(key, len(found))))
            took, left = time.perf_counter() - began, start + budget - time.perf_counter()
            if found[-1].strain <= ENOUGH or left < 1.5 * took:
                break
            # Two scales say enough; one, where it took long.
            if _best(found).strain > HOPELESS and (len(found) == 2 or took > budget / 4):
                return None
        # Twice the features take up to eight times as long.
        if _best(found).strain <= ENOUGH or left < 10 * took:
            break
    best = _best(found)
    return best if best.strain <= HOPELESS else None


def _best(found: list[Inverse]) -> Inverse:
    """The least strained among those that miss the data hardly more than the one that fits them best."""
    least = min(f.misfit for f in found)
    return min((f for f in found if f.misfit <= 1.1 * least), key=lambda f: f.strain)


def _solve(pde: PDE, count: int, spread: float, key: Array) -> Inverse:
    drawn_key, fitted, checked = jax.random.split(key, 3)
    drawn = draw(pde, _observed_fields(pde), count, spread, drawn_key)
    trivial = sum(len(steady_axes(pde, f)) for f in pde.fields)
    number = POINTS_PER_FEATURE * int(drawn.active.sum()) // max(1, len(pde.equations) - trivial)
    system = System(pde, drawn, sobol_points(pde, fitted, number))
    strains = {}
    for stage in STAGES:
        system.fit(stage)
        system.adapt()
        strains[stage] = system.strain()
        if strains[stage] > STRAINED and len(strains) > 2:
            break
    # Noise strains equations that count for little, and what the features cannot express those that count for much.
    stage = max((s for s in strains if strains[s] <= FREE), default=min(strains, key=lambda s: strains[s]))
    for _ in range(ROUNDS if drawn.groups else 1):
        system.fit(stage)
        if system.adapt() < SETTLED:
            break
    return _checked(system, sobol_points(pde, checked, number), spread)


def _checked(system: "System", points, spread: float) -> Inverse:
    fields = system.fields()
    misfits = system.misfits()
    misfit = np.sqrt(np.mean([(misfits[d.name] / d.deviation) ** 2 for d in system.layout.data]))
    freedom, losses = system.freedom(), _mean_squares(system.pde, fields, points)
    system.move(points)
    return Inverse(
        fields,
        system.relative_residual(),
        system.strain(freedom),
        float(misfit),
        spread,
        int(system.active.sum()),
        {n: float(v) for n, v in losses.items()},
    )


def _observed_fields(pde: PDE) -> set[str]:
    meanings = [m for g in observed(pde).values() for t in g.terms for m in t.meanings.values()]
    return set(demands(pde, meanings)) & set(pde.fields)


class System:
    """The residuals of a problem at points, in units of the noise, as a function of one vector: the outputs of random
    features and the raw numbers of the unknown parameters.
    """

    def __init__(self, pde: PDE, drawn: Drawn, points):
        self.pde, self.drawn, self.points = pde, drawn, points
        self.tables = tabulate(pde, drawn.network, points, {})
        self.unknown = {n: u.trainable() for n, u in pde.unknowns.items()}
        self.active = drawn.active.ravel()
        start = np.asarray(drawn.network.output).ravel()[self.active]
        self.vector = np.concatenate([start, [float(u.raw) for u in self.unknown.values()]])
        self.layout = layout(pde, {n: len(t.points) for n, t in self.tables.items()})
        self.noise = {d.name: FIRST_NOISE * d.deviation for d in self.layout.data}
        self.strength = 1.0
        self.level = self._level()

    def fit(self, stage: float) -> None:
        """Gauss-Newton steps where equations count `stage` times as much as the data."""
        self.strength = stage * unit_strength(self.level, self.noise)
        found = minimise(self.residuals, self.jacobian, self.vector, factor=Equilibrated, converged=CONVERGED)
        self.vector: np.ndarray = found.point
        self.factored: Any = found.factored or Equilibrated(self.jacobian(found.point))

    def adapt(self) -> float:
        """The noise, and the prior of hidden fields, as the data have them; how much the prior changed."""
        freedom = self._freedom()
        misfits, change = self.misfits(), 0.0
        for d in self.layout.data:
            estimate = misfits[d.name] / np.sqrt(max(1 - freedom[d.name], 0.1))
            self.noise[d.name] = max(estimate, LEAST_NOISE * d.deviation)
        if self.drawn.groups:
            count = len(self.vector) - len(self.unknown)
            sizes = np.asarray(_field_sizes(self.fields(), self.points[INTERIOR]))
            self.drawn, change = adapted(self.drawn, self.vector[:count], self.factored.variances()[:count], sizes)
            outputs = np.asarray(self.drawn.network.output).ravel()[self.active]
            self.vector = np.concatenate([outputs, self.vector[count:]])
            self.tables = tabulate(self.pde, self.drawn.network, self.points, {})
        return change

    def residuals(self, vector: np.ndarray) -> np.ndarray:
        """In units of the noise; those of the prior are the outputs themselves."""
        rows = self._weights() * np.asarray(_rows(self.pde, self.tables, *self._parts(vector)))
        return np.concatenate([rows, vector[self._believed()]])

    def jacobian(self, vector: np.ndarray) -> np.ndarray:
        """The derivatives of the residuals by the vector."""
        columns = np.asarray(_columns(self.pde, self.tables, *self._parts(vector)))
        kept = np.concatenate([self.active, np.ones(len(self.unknown), bool)])
        rows = self._weights()[:, None] * columns[:, kept]
        return np.concatenate([rows, np.eye(len(vector))[self._believed()]])

    def fields(self) -> ConstrainedFields:
        """The fields of the vector."""
        output, unknown = self._parts(self.vector)
        network = eqx.tree_at(lambda n: n.output, self.drawn.network, output)
        return eqx.tree_at(lambda f: f.unknown, self.pde.model(network), unknown)

    def misfits(self) -> dict[str, float]:
        """The root mean square of what each observed term misses."""
        rows = np.asarray(_rows(self.pde, self.tables, *self._parts(self.vector)))
        return {d.name: float(np.sqrt(np.mean((rows[d.rows] * d.scale) ** 2))) for d in self.layout.data}

    def relative_residual(self) -> float:
        """Of equations and conditions, in units of the equations' terms."""
        left, terms = _sizes(self.pde, self.tables, *self._parts(self.vector))
        return float(left) / max(float(terms), np.finfo(float).tiny)

    def freedom(self) -> float:
        """How many parameters the data determine; one at least."""
        return max(1.0, sum(self._freedom()[d.name] * d.count for d in self.layout.data))

    def strain(self, freedom: float | None = None) -> float:
        """The sum of the squares of all rows but those of data and the prior, by parameter that the data determine."""
        left, _ = _sizes(self.pde, self.tables, *self._parts(self.vector))
        return (self.strength * float(left)) ** 2 / (self.freedom() if freedom is None else freedom)

    def move(self, points) -> None:
        """Takes other points."""
        self.points, self.tables = points, tabulate(self.pde, self.drawn.network, points, {})

    def _believed(self) -> np.ndarray:
        """The entries of the vector that have a prior."""
        rows = np.zeros(self.drawn.active.shape, bool)
        rows[[g.field for g in self.drawn.groups]] = True
        return np.flatnonzero(rows.ravel()[self.active])

    def _parts(self, vector: np.ndarray):
        output = np.zeros(self.active.shape)
        output[self.active] = vector[: self.active.sum()]
        raw = vector[self.active.sum() :]
        unknown = {
            n: eqx.tree_at(lambda u: u.raw, u, jnp.asarray(raw[i])) for i, (n, u) in enumerate(self.unknown.items())
        }
        return jnp.asarray(output.reshape(self.drawn.active.shape)), unknown

    def _weights(self) -> np.ndarray:
        return row_weights(self.layout, self.noise, self.strength)

    def _level(self) -> dict[str, float]:
        columns = np.asarray(_columns(self.pde, self.tables, *self._parts(self.vector)))
        return level(self.layout, columns)

    def _freedom(self) -> dict[str, float]:
        """By observed term, how many parameters the data determine, as a share of their number."""
        jacobian = self.jacobian(self.vector)
        return {d.name: float(np.mean(self.factored.variances(jacobian[d.rows]))) for d in self.layout.data}


class Data(NamedTuple):
    """An observed term: its rows, what makes them differences in units of the field, how many there are, and the
    deviation of the measured values.
    """

    name: str
    rows: slice
    scale: float
    count: int
    deviation: float


class Layout(NamedTuple):
    """How many rows there are, those of equations, and those of data."""

    count: int
    equations: slice
    data: tuple[Data, ...]


def layout(pde: PDE, counts: dict[str, int]) -> Layout:
    """The rows of groups with so many points: group after group, point after point, term after term."""
    first, data = 0, []
    for label, n in counts.items():
        group = pde.groups[label]
        last = first + n * len(group.terms)
        if isinstance(group.region, Observations):
            scale = 1 / (row_weight(label, n) * np.sqrt(group.region.weight))
            for i, term in enumerate(group.terms):
                values = group.region.values[term.function.field]  # pyright: ignore
                rows = slice(first + i, last, len(group.terms))
                data.append(Data(term.name, rows, scale, n, _deviation(values)))
        first = last
    return Layout(first, slice(0, counts[INTERIOR] * len(pde.groups[INTERIOR].terms)), tuple(data))


def row_weights(rows: Layout, noise: dict[str, float], strength: float) -> np.ndarray:
    """What makes the rows of data differences in units of the noise, and others count `strength`."""
    weights = np.full(rows.count, strength)
    for d in rows.data:
        weights[d.rows] = d.scale / noise[d.name]
    return weights


def level(rows: Layout, columns: np.ndarray) -> dict[str, float]:
    """By observed term, by how much a change of the fields changes all its data, over that of the equations."""
    equations = np.sqrt((columns[rows.equations] ** 2).sum(axis=0))
    found = {}
    for d in rows.data:
        data = d.scale * np.sqrt((columns[d.rows] ** 2).sum(axis=0))
        used = (data > 0) & (equations > 0)
        found[d.name] = float(np.median(data[used] / equations[used])) if used.any() else 1.0
    return found


def unit_strength(levels: dict[str, float], noise: dict[str, float]) -> float:
    """With which equations count as much as the data that count for most."""
    return max(size / noise[name] for name, size in levels.items())


def _deviation(values: np.ndarray) -> float:
    return float(np.std(values) or np.abs(values).max() or 1.0)


@eqx.filter_jit
def _rows(pde: PDE, tables: dict[str, Table], output, unknown) -> Float[Array, " rows"]:
    numbers = pde.numbers | {n: u() for n, u in unknown.items()}
    return residual_rows(pde, _based(pde, tables, unknown), output, numbers)


@eqx.filter_jit
def _columns(pde: PDE, tables: dict[str, Table], output, unknown) -> Float[Array, "rows numbers"]:
    numbers = pde.numbers | {n: u() for n, u in unknown.items()}
    columns = jacobian_rows(pde, _based(pde, tables, unknown), output, numbers)
    if not unknown:
        return columns
    by_unknown = jax.jacfwd(lambda u: _rows(pde, tables, output, u))(unknown)
    return jnp.concatenate([columns, *[u.raw[:, None] for u in by_unknown.values()]], axis=1)


@eqx.filter_jit
def _sizes(pde: PDE, tables: dict[str, Table], output, unknown) -> tuple[Array, Array]:
    """The norms of the residuals of all but the data, and of the terms that they are made of."""
    numbers = pde.numbers | {n: u() for n, u in unknown.items()}
    tables = {n: t for n, t in _based(pde, tables, unknown).items() if n not in observed(pde)}
    return jnp.linalg.norm(residual_rows(pde, tables, output, numbers)), terms_size(pde, tables, output, numbers)


def _based(pde: PDE, tables: dict[str, Table], unknown) -> dict[str, Table]:
    """The tables with what exact conditions make of the parameters."""
    if not _lift_has_unknowns(pde):
        return tables
    nothing = ConstrainedFields(lambda inputs: jnp.zeros(pde.out_size, inputs.dtype), unknown, pde)

    def based(table):
        base = jax.vmap(lambda p: derivatives(nothing, p, tuple(table.base)))(table.points)
        return eqx.tree_at(lambda t: t.base, table, base)

    return {name: based(table) for name, table in tables.items()}


def _lift_has_unknowns(pde: PDE) -> bool:
    data = [(d, target) for v in pde.exact for target, d in v.targets.items() if callable(d)]
    return any(set(pde.data_arguments(d, target)) & set(pde.unknowns) for d, target in data)


@eqx.filter_jit
def _field_sizes(fields, points) -> Float[Array, " fields"]:
    return jnp.sqrt(jnp.mean(jax.vmap(fields)(points) ** 2, axis=0))


@eqx.filter_jit
def _mean_squares(pde: PDE, fields, batch) -> dict[str, Array]:
    return mean_squares(pde.residuals(fields, batch))
