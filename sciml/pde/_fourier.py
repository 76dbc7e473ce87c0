"""Evolution where all axes of space are periodic: Fourier series times polynomials of time, in windows of time.

The same expansion as that of `_march`, with so many waves that factors of the least-squares problem would take too
long. The residuals vanish at the points of a grid and at Radau's times (collocation; Hairer & Wanner, Solving Ordinary
Differential Equations II, section IV.5), for two thirds of the waves that the grid resolves (Orszag, J. Atmos. Sci. 28,
1971). Derivatives along space are Fourier transforms. A correction solves the equations with the mean of their slopes
over the grid, wave by wave, so that corrections contract where a window is short for what varies in space.
"""

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float
from numpy.polynomial import chebyshev as series
from numpy.polynomial import legendre

from .._loss import Groups
from ..nn import WindowedWaves
from ._condition import Value
from ._derivatives import Laplacian, Partial
from ._domain import TIME
from ._names import Derivative, Meaning
from ._pde import INTERIOR, PDE, Group
from ._quantities import demands
from ._rows import Partials, Table, partials_of, slopes_at, tables_of_points, terms_at

# The degree of the polynomials of time.
DEGREE = 8
# Windows of a first attempt.
WINDOWS = 16
# By the number of axes of space, the most points along the longest axis of a first attempt, and those at which initial
# values are looked at. Waves beyond those that are needed have less than so much of the rest.
POINTS, LEAST_POINTS, RESOLVED = {1: (1024, 4096), 2: (96, 384), 3: (24, 48)}, 24, 1e-5
# Where the shortest waves have this share of a window, more points are needed rather than shorter windows; where they
# have the second, what follows is of no use.
COARSE, HOPELESS = 1e-3, 0.1
# Of the time, until which there should be a first solution.
PATIENCE = 0.4
# As many times the points along each axis in the next attempt, by the number of axes.
FINER = {1: 2.0, 2: 1.5, 3: 1.5}
# The most numbers of a solution.
LARGEST = 1e8
# Corrections below this share of the coefficients end a window. Where they do not contract or are so many, the last one
# is to be below the second.
CONVERGED, ROUNDING = 1e-13, 1e-9
CORRECTIONS = 100
# The equations at the beginning of a window count so little that they only tell what nothing else does: fields without
# derivatives along time.
FAINT = 1e-4
# Singular values below this share of the largest one belong to what no equation determines.
UNDETERMINED = 1e-11
# In units of a window, from -1 to 1: times at which the residual is measured, between those where it vanishes.
BETWEEN = (-0.93, -0.35, 0.2, 0.7)
# Neither more waves nor more windows are of use below this.
ENOUGH = 1e-11


Losses = dict[str, Array]


class Grid(NamedTuple):
    """How many windows there are, and points along each axis of space."""

    windows: int
    points: tuple[int, ...]


class Found(NamedTuple):
    """A network, the mean squares of its residuals between the points of the grid, those of zero output there, the
    shares of the shortest waves and of the last polynomial of time, and the seconds it took.
    """

    network: WindowedWaves
    losses: dict[str, float]
    of_zero: dict[str, float]
    last_waves: float
    last_times: float
    seconds: float


class Lost(NamedTuple):
    """That a window could not be solved, and the share of the shortest waves in the last one that was."""

    last_waves: float


def suits_fourier(pde: PDE) -> bool:
    """Whether all axes of space are periodic, and nothing is asked for but equations, initial values, and values at a
    point of fields that are determined up to a constant.
    """
    space = [a for a in pde.axes if a != TIME]
    if TIME not in pde.axes or len(space) not in POINTS or set(space) != set(pde.periodic_axes):
        return False
    initial = _initial_groups(pde)
    if not initial or set(pde.groups) != {INTERIOR, *initial, *_pins(pde)}:
        return False
    if pde.parts > 1 or pde.integrals or any(c.regions for c in pde.constraints):
        return False
    axis = pde.axes.index(TIME)
    along = [p for p in _partials(pde) if isinstance(p, Laplacian) and axis in p]
    return not along and all(set(m.partial) <= {axis} for _, _, m in _initial_terms(pde))


def fourier_solutions(pde: PDE, deadline: float) -> Iterator[tuple[Grid, Found]]:
    """Solutions on finer and finer grids, with shorter and shorter windows, while there is time."""
    points, start = _first_points(pde), time.perf_counter()
    if points is None:
        return
    grid, pace, rest, size = Grid(WINDOWS, points), 0.0, 0.0, 1.0
    while _numbers(pde, grid) <= LARGEST:
        began = time.perf_counter()
        if not pace and began > start + PATIENCE * (deadline - start):
            return
        if pace and began + rest * max(1.0, _size(grid) / size) + pace * _work(grid) > deadline:
            return
        found = _marched(pde, grid, deadline)
        if time.perf_counter() > deadline:
            return
        if isinstance(found, Lost):
            grid = _with_more_points(grid) if found.last_waves > COARSE else _with_more_windows(grid)
            continue
        yield grid, found
        pace, rest, size = found.seconds / _work(grid), time.perf_counter() - began - found.seconds, _size(grid)
        if max(found.last_waves, found.last_times) <= ENOUGH:
            return
        grid = _with_more_points(grid) if found.last_waves > found.last_times else _with_more_windows(grid)


def _with_more_points(grid: Grid) -> Grid:
    return grid._replace(points=tuple(_even(FINER[len(grid.points)] * n) for n in grid.points))


def _with_more_windows(grid: Grid) -> Grid:
    return grid._replace(windows=2 * grid.windows)


def _size(grid: Grid) -> float:
    return float(np.prod(grid.points))


def _work(grid: Grid) -> float:
    return grid.windows * _size(grid)


def _numbers(pde: PDE, grid: Grid) -> float:
    return _work(grid) * (2 / 3) ** len(grid.points) * len(pde.fields) * (DEGREE + 1)


def _even(number: float) -> int:
    return 2 * int(np.ceil(number / 2))


def _first_points(pde: PDE) -> tuple[int, ...] | None:
    """As many as the initial values ask for; None where those jump, so that no number of waves has them."""
    lengths = np.array([np.ptp(pde.domain.bounds[a]) for a in pde.axes if a != TIME])
    shares, (most, probed) = lengths / lengths.max(), POINTS[len(lengths)]
    grid = Grid(1, tuple(_even(max(8, probed * share)) for share in shares))
    basis = _basis(pde, grid)
    initial = np.asarray(_initial(pde, basis, grid)[1])
    if _shares(basis, [initial[:, None]])[0] > COARSE:
        return None
    size = np.abs(initial).max(axis=0)
    # By wave, the points along the longest axis that resolve it.
    each = [np.abs(k) * n / (2 * np.pi * share) for k, n, share in zip(basis.numbers, lengths, shares)]
    needed = 3 * np.max(np.stack(np.broadcast_arrays(*each)), axis=0)
    large = needed[size > RESOLVED * size.max()] if size.any() else np.zeros(1)
    count = min(most, max(LEAST_POINTS, float(large.max()) + 2))
    return tuple(_even(max(8, count * share)) for share in shares)


class _Basis(eqx.Module):
    """Times in a window, from -1 to 1, where residuals vanish, the first of which counts little; by order of
    derivative, the polynomials' derivatives there, at the beginning, at the end and between; angular wave numbers along
    each axis, as they broadcast; which waves are used, and their places in a row.
    """

    times: Float[np.ndarray, " times"]
    along: list[Float[np.ndarray, "times degrees"]]
    begin: list[Float[np.ndarray, " degrees"]]
    end: list[Float[np.ndarray, " degrees"]]
    between: list[Float[np.ndarray, "some degrees"]]
    numbers: list[np.ndarray]
    kept: np.ndarray
    places: np.ndarray
    # Not the number of windows, so that more of them are no new program.
    points: tuple[int, ...]


def _basis(pde: PDE, grid: Grid) -> _Basis:
    axis, initial = pde.axes.index(TIME), [len(m.partial) for _, _, m in _initial_terms(pde)]
    orders = range(1 + max([p.count(axis) for p in _partials(pde)] + initial))
    low, high = pde.domain.bounds[TIME]
    # Of P_(n-1) - P_n, one of which is the end of the window.
    count = DEGREE + 1 - max(1 + n for n in initial)
    times = np.array([-1.0, *legendre.legroots([0.0] * (count - 1) + [1.0, -1.0])])

    def derivative(order, at):
        each = [series.chebval(at, series.chebder(row, order)) for row in np.eye(DEGREE + 1)]
        return (2 * grid.windows / (high - low)) ** order * np.stack(each, axis=-1)

    along, begin, end, between = ([derivative(o, np.asarray(at)) for o in orders] for at in (times, -1.0, 1.0, BETWEEN))
    numbers, kept = [], True
    for i, (n, name) in enumerate(zip(grid.points, (a for a in pde.axes if a != TIME))):
        last = i == len(grid.points) - 1
        number = (np.fft.rfftfreq if last else np.fft.fftfreq)(n, 1 / n)
        number = number.reshape([-1 if i == j else 1 for j in range(len(grid.points))])
        numbers.append(2 * np.pi / np.ptp(pde.domain.bounds[name]) * number)
        kept = kept & (np.abs(number) < n / 3)
    return _Basis(times, along, begin, end, between, numbers, np.asarray(kept), np.flatnonzero(kept), grid.points)


def _partials(pde: PDE) -> tuple[Partial, ...]:
    return partials_of(pde, pde.groups[INTERIOR])


def _initial_groups(pde: PDE) -> list[str]:
    """The conditions that declare fields or their derivatives everywhere at the first time."""
    begin = {TIME: pde.domain.bounds[TIME][0]}
    at_begin = [n for n, g in pde.groups.items() if isinstance(g.source, Value) and _fixed(g) == begin]
    return [n for n in at_begin if all(isinstance(m, Derivative) for m in _targets(pde.groups[n]))]


def _fixed(group: Group) -> dict[str, float]:
    """The coordinates that are the same everywhere in a condition's region."""
    return getattr(group.region, "fixed", {})


def _targets(group: Group) -> list[Meaning]:
    """What a condition declares the values of."""
    return [t.meanings[t.function.target] for t in group.terms]  # pyright: ignore


def _initial_terms(pde: PDE) -> list[tuple[str, int, Any]]:
    """By group, the places of its terms and the derivatives they declare."""
    found = []
    for name in _initial_groups(pde):
        found += [(name, i, m) for i, m in enumerate(_targets(pde.groups[name]))]
    return found


def _orders(pde: PDE, partial: Partial) -> tuple[int, list[int]]:
    """Of a partial derivative, how often it is along time and along each axis of space."""
    return partial.count(pde.axes.index(TIME)), [partial.count(i) for i, a in enumerate(pde.axes) if a != TIME]


def _symbol(pde: PDE, basis: _Basis, partial: Partial):
    """What a derivative along space multiplies each wave by."""
    space = [i for i, a in enumerate(pde.axes) if a != TIME]
    if isinstance(partial, Laplacian):
        return -sum(k**2 for i, k in zip(space, basis.numbers) if i in partial)
    found = 1.0
    for k, order in zip(basis.numbers, _orders(pde, partial)[1]):
        # An odd derivative of the shortest wave of an even grid is not real, but that wave is not used.
        found = found * (1j * k) ** order
    return found


def _values(pde: PDE, basis: _Basis, along, coefficients, shift: float = 0.0, partials=None) -> Partials:
    """The partial derivatives of all fields at all times of `along` and points of the grid, `(times * points, fields)`,
    from coefficients `(fields, degrees, *waves)`; at points moved by a share of the distance between them. Those that
    the equations ask for, or others.
    """
    space, points = tuple(range(-len(basis.points), 0)), basis.points
    if shift:
        for n, k, name in zip(points, basis.numbers, (a for a in pde.axes if a != TIME)):
            coefficients = coefficients * jnp.exp(1j * k * shift * np.ptp(pde.domain.bounds[name]) / n)
    at_times = [jnp.einsum("nd,fd...->fn...", table, coefficients) for table in along]

    def one(partial):
        waves = at_times[_orders(pde, partial)[0] if not isinstance(partial, Laplacian) else 0]
        field = jnp.fft.irfftn(waves * _symbol(pde, basis, partial), points, axes=space)
        return field.reshape(len(pde.fields), -1).T

    return {p: one(p) for p in partials or _partials(pde)}


def _points(pde: PDE, grid: Grid, times: np.ndarray, shift: float = 0.0) -> np.ndarray:
    """All times, from -1 to 1 in a first window, with all points of the grid."""
    low, high = pde.domain.bounds[TIME]
    columns = []
    for name in pde.axes:
        if name == TIME:
            columns.append(low + (np.asarray(times) + 1) / 2 * (high - low) / grid.windows)
        else:
            n = grid.points[len([a for a in pde.axes[: pde.axes.index(name)] if a != TIME])]
            begin, end = pde.domain.bounds[name]
            columns.append(begin + (end - begin) * (np.arange(n) + shift) / n)
    first = pde.axes.index(TIME)
    order = [first, *(i for i in range(len(columns)) if i != first)]
    every = np.meshgrid(*[columns[i] for i in order], indexing="ij")
    return np.stack([every[order.index(i)].ravel() for i in range(len(columns))], axis=1)


def _initial(pde: PDE, basis: _Basis, grid: Grid) -> tuple[Array, Array]:
    """What each initial condition asks of the network and of the fields, by wave, `(terms, *waves)`."""
    points, space = jnp.asarray(_points(pde, grid, np.array([-1.0]))), tuple(range(-len(basis.points), 0))
    tables = tables_of_points(pde, Groups(dict.fromkeys(_initial_groups(pde), points)))
    rows = {n: terms_at(pde, n, t, t.base) for n, t in tables.items()}
    of_network = [-rows[name][:, i] for name, i, _ in _initial_terms(pde)]
    known = [tables[name].base[m.partial][:, pde.fields.index(m.of)] for name, _, m in _initial_terms(pde)]
    both = jnp.stack([jnp.stack(of_network), jnp.stack(of_network) + jnp.stack(known)])
    waves = jnp.fft.rfftn(both.reshape(*both.shape[:2], *basis.points), axes=space) * basis.kept
    return waves[0], waves[1]


def _declared(pde: PDE, tables, coefficients) -> Array:
    """What initial conditions speak of, at the time of `tables`, by wave, `(terms, *waves)`."""
    fields = [(pde.fields.index(m.of), len(m.partial)) for _, _, m in _initial_terms(pde)]
    return jnp.stack([jnp.einsum("d,d...->...", tables[order], coefficients[f]) for f, order in fields])


class _State(NamedTuple):
    """Coefficients, the sizes of the last correction and of that before relative to them, and how many there were."""

    coefficients: Complex[Array, "fields degrees *waves"]
    last: Array
    before: Array
    count: Array


@eqx.filter_jit
def _corrected(pde: PDE, basis: _Basis, table: Table, initial, inverse, start) -> _State:
    """Corrections as long as they contract and change anything."""
    kept, space = basis.places, tuple(range(-len(basis.points), 0))
    weights = np.where(np.arange(len(basis.times)) == 0, FAINT, 1.0)

    def correction(coefficients):
        partials = _values(pde, basis, basis.along, coefficients)
        terms = terms_at(pde, INTERIOR, table, {p: table.base[p] + v for p, v in partials.items()})
        by_time = terms.T.reshape(terms.shape[1], len(basis.times), *basis.points)
        equations = weights[:, None] * jnp.fft.rfftn(by_time, axes=space).reshape(*by_time.shape[:2], -1)[..., kept]
        begins = _declared(pde, basis.begin, coefficients) - initial
        rows = [equations.reshape(-1, len(kept)), begins.reshape(len(begins), -1)[:, kept]]
        found = jnp.einsum("kur,rk->uk", inverse, jnp.concatenate(rows))
        every = jnp.zeros((len(found), basis.kept.size), found.dtype).at[:, kept].set(found)
        return every.reshape(coefficients.shape)

    def step(state):
        change = correction(state.coefficients)
        now = state.coefficients - change
        size = jnp.linalg.norm(change.ravel()) / (jnp.linalg.norm(now.ravel()) + jnp.finfo(float).tiny)
        return _State(now, size, state.last, state.count + 1)

    def goes_on(state):
        contracts = (state.last < 0.9 * state.before) | (state.count < 3)
        return (state.last > CONVERGED) & contracts & (state.count < CORRECTIONS)

    large = jnp.asarray(jnp.inf)
    return jax.lax.while_loop(goes_on, step, _State(start, large, large, jnp.asarray(0)))


@eqx.filter_jit
def _mean_slopes(pde: PDE, basis: _Basis, table: Table, coefficients) -> dict[Partial, Float[Array, "terms fields"]]:
    partials = _values(pde, basis, basis.along, coefficients)
    slopes = slopes_at(pde, INTERIOR, table, {p: table.base[p] + v for p, v in partials.items()})
    return {p: jnp.mean(s, axis=0) for p, s in slopes.items()}


def _inverse(pde: PDE, basis: _Basis, slopes) -> Complex[np.ndarray, "waves unknowns rows"]:
    """By wave, the pseudo-inverse of the equations with these slopes, and of the conditions at the beginning."""
    kept, degrees = basis.places, DEGREE + 1
    terms, fields = len(pde.equations), len(pde.fields)
    matrix = np.zeros((len(kept), terms, len(basis.times), fields, degrees), complex)
    for partial, slope in slopes.items():
        symbol = np.broadcast_to(_symbol(pde, basis, partial), basis.kept.shape).ravel()[kept]
        order = 0 if isinstance(partial, Laplacian) else _orders(pde, partial)[0]
        matrix += np.einsum("k,tf,nd->ktnfd", symbol, np.asarray(slope), basis.along[order])
    matrix[:, :, 0] *= FAINT
    begins = np.zeros((len(kept), len(_initial_terms(pde)), fields, degrees), complex)
    for i, (_, _, meaning) in enumerate(_initial_terms(pde)):
        begins[:, i, pde.fields.index(meaning.of)] = basis.begin[len(meaning.partial)]
    rows = np.concatenate([m.reshape(len(kept), -1, fields * degrees) for m in (matrix, begins)], axis=1)
    size = np.maximum(np.abs(rows).max(axis=2), np.finfo(float).tiny)
    return np.linalg.pinv(rows / size[:, :, None], rcond=UNDETERMINED) / size[:, None]


@eqx.filter_jit
def _between(pde: PDE, basis: _Basis, table: Table, coefficients) -> tuple[Losses, Losses]:
    """The mean squares of the equations' residuals between the points of the grid, and those of zero output."""
    return _mean_squares(pde, INTERIOR, table, _values(pde, basis, basis.between, coefficients, shift=0.5))


def _initial_losses(
    pde: PDE, basis: _Basis, grid: Grid, coefficients
) -> list[tuple[dict[str, Array], dict[str, Array]]]:
    """The same of initial conditions that are not exact."""
    names = [n for n in _initial_groups(pde) if pde.groups[n] in pde.trained_groups]
    points = jnp.asarray(_points(pde, grid, np.array([-1.0]), 0.5))
    tables = tables_of_points(pde, Groups(dict.fromkeys(names, points)))
    return [
        _mean_squares(
            pde,
            n,
            t,
            _values(pde, basis, [b[None] for b in basis.begin], coefficients, 0.5, partials_of(pde, pde.groups[n])),
        )
        for n, t in tables.items()
    ]


def _mean_squares(pde: PDE, label: str, table: Table, partials: Partials) -> tuple[Losses, Losses]:
    both = (terms_at(pde, label, table, {p: b + x * partials[p] for p, b in table.base.items()}) for x in (1.0, 0.0))
    names = [t.name for t in pde.groups[label].terms]
    found, zero = (dict(zip(names, jnp.mean(terms**2, axis=0))) for terms in both)
    return found, zero


def _marched(pde: PDE, grid: Grid, deadline: float) -> Found | Lost:
    """Lost where corrections do not contract, waves are too few, or time is up."""
    basis = _basis(pde, grid)
    initial, _ = _initial(pde, basis, grid)
    values = jnp.zeros((len(pde.fields), *basis.kept.shape), complex)
    for i, (_, _, meaning) in enumerate(_initial_terms(pde)):
        values = values if meaning.partial else values.at[pde.fields.index(meaning.of)].set(initial[i])
    found, measures, inverse, times, short = [], [], None, [time.perf_counter()], 0.0
    tables = _tables(pde, basis, grid)
    for window in range(grid.windows):
        at, between = tables(window)
        solved = _solved(pde, basis, at, initial, inverse, _constant(values))
        if solved is None or time.perf_counter() > deadline:
            return Lost(short)
        coefficients, inverse = solved
        found.append(np.asarray(coefficients))
        short, _ = _shares(basis, found[-1:])
        if short > HOPELESS:
            return Lost(short)
        measures.append(_between(pde, basis, between, coefficients))
        initial = _declared(pde, basis.end, coefficients)
        values = jnp.einsum("d,fd...->f...", basis.end[0], coefficients)
        times.append(time.perf_counter())
    losses, zero = ({n: float(np.mean([m[i][n] for m in measures])) for n in measures[0][i]} for i in (0, 1))
    for found_there, zero_there in _initial_losses(pde, basis, grid, found[0]):
        losses |= {n: float(v) for n, v in found_there.items()}
        zero |= {n: float(v) for n, v in zero_there.items()}
    last_waves, last_times = _shares(basis, found)
    # The first window compiles.
    seconds = (times[-1] - times[1]) * grid.windows / max(1, grid.windows - 1)
    return Found(_pinned(pde, _network(pde, basis, found)), losses, zero, last_waves, last_times, seconds)


def _constant(values: Array) -> Array:
    """Coefficients of fields that do not change within a window."""
    return jnp.zeros((len(values), DEGREE + 1, *values.shape[1:]), complex).at[:, 0].set(values)


def _solved(pde: PDE, basis: _Basis, table: Table, initial, inverse, start) -> tuple[Array, Array] | None:
    """The coefficients in a window, with the inverse of the window before or, where that does not do, one of its own;
    and that. None where corrections do not contract.
    """
    if inverse is not None:
        state = _corrected(pde, basis, table, initial, inverse, start)
        if float(state.last) < ROUNDING:
            return state.coefficients, inverse
    inverse = jnp.asarray(_inverse(pde, basis, _mean_slopes(pde, basis, table, start)))
    state = _corrected(pde, basis, table, initial, inverse, start)
    return (state.coefficients, inverse) if float(state.last) < ROUNDING else None


def _tables(pde: PDE, basis: _Basis, grid: Grid):
    """A function of the number of a window: tables of the points where residuals vanish, and of those between."""
    axis, (low, high) = pde.axes.index(TIME), pde.domain.bounds[TIME]
    sets = _points(pde, grid, basis.times), _points(pde, grid, np.array(BETWEEN), 0.5)
    free = not any(c.faces for c in pde.constraints)
    first = [tables_of_points(pde, Groups({INTERIOR: jnp.asarray(p)}))[INTERIOR] for p in sets]

    def of(window):
        moved = [p + (high - low) * window / grid.windows * (np.arange(p.shape[1]) == axis) for p in sets]
        if free:
            return [eqx.tree_at(lambda t: t.points, t, jnp.asarray(p)) for t, p in zip(first, moved)]
        return [tables_of_points(pde, Groups({INTERIOR: jnp.asarray(p)}))[INTERIOR] for p in moved]

    return of


def _shares(basis: _Basis, found: list[np.ndarray]) -> tuple[float, float]:
    """Of the shortest waves, and of the last polynomial of time, in all windows together."""
    short = np.zeros(basis.kept.shape, bool)
    for k in basis.numbers:
        most = np.abs(np.where(basis.kept, k, 0)).max()
        short = short | (np.abs(k) > 0.85 * most)
    total = np.sqrt(sum(np.sum(np.abs(c) ** 2) for c in found)) + np.finfo(float).tiny
    waves = np.sqrt(sum(np.sum(np.abs(c[..., short]) ** 2) for c in found))
    return float(waves / total), float(np.sqrt(sum(np.sum(np.abs(c[:, -1]) ** 2) for c in found)) / total)


def _network(pde: PDE, basis: _Basis, found: list[np.ndarray]) -> WindowedWaves:
    """The sum of waves, each with its opposite, divided by the factors of exact initial conditions."""
    axis, bounds = pde.axes.index(TIME), pde.domain.bounds[TIME]
    power = tuple(
        max([1 + f.order for f in c.faces if f.axis == axis and f.at == bounds[0]], default=0) for c in pde.constraints
    )
    windows = np.stack([_in_order(basis, c) for c in found])
    for field, order in enumerate(power):
        if order:
            # All but the first window are divided as they are evaluated.
            windows[0, field] = _divided(windows[0, field], order) * (2 * len(found)) ** order
    inputs = np.cumsum([0, *(2 if a in pde.periodic_axes else 1 for a in pde.axes)])
    cosines = tuple(int(inputs[i]) for i in range(len(pde.axes)) if i != axis)
    real, imaginary = jnp.asarray(np.real(windows)), jnp.asarray(np.imag(windows))
    return WindowedWaves(real, imaginary, jnp.asarray(0), len(found), int(inputs[axis]), cosines, power)


def _in_order(basis: _Basis, coefficients: np.ndarray) -> np.ndarray:
    """Those of the waves in use, numbers in rising order."""
    dims = len(basis.points)
    for i, n in enumerate(basis.points):
        most, place = int(np.ceil(n / 3)) - 1, i - dims
        numbers = np.arange(0 if i == dims - 1 else -most, most + 1)
        coefficients = np.take(coefficients, numbers, axis=place)
    twice = np.where(np.arange(coefficients.shape[-1]) > 0, 2.0, 1.0)
    return twice * coefficients / np.prod(basis.points)


def _divided(coefficients: np.ndarray, order: int) -> np.ndarray:
    """Of polynomials `(degrees, ...)` that are zero at -1, those divided by (1 + input)^order."""
    factor = series.poly2cheb([1.0, 1.0]) if order == 1 else series.poly2cheb([1.0, 2.0, 1.0])
    small = np.eye(DEGREE + 1 - order)
    times = np.stack([np.pad(series.chebmul(factor, row), (0, DEGREE + 1))[: DEGREE + 1] for row in small], axis=1)
    found = np.linalg.lstsq(times, coefficients.reshape(DEGREE + 1, -1), rcond=None)[0]
    return np.pad(found, ((0, order), (0, 0))).reshape(coefficients.shape)


def _pins(pde: PDE) -> dict[str, int]:
    """By group, which field it declares at a point of space, where equations have derivatives of it only, along space
    among others: any function of time may be added to it.
    """
    space, found = {a for a in pde.axes if a != TIME}, {}
    places = {i for i, a in enumerate(pde.axes) if a in space}
    for name, group in pde.groups.items():
        targets = _targets(group) if isinstance(group.source, Value) and space <= set(_fixed(group)) else []
        if len(targets) != 1 or not isinstance(targets[0], Derivative):
            continue
        meaning = targets[0]
        used = demands(pde, (m for t in pde.groups[INTERIOR].terms for m in t.meanings.values())).get(meaning.of, {})
        if meaning.of in pde.fields and not meaning.partial and all(set(p) & places for p in used):
            found[name] = pde.fields.index(meaning.of)
    return found


def _pinned(pde: PDE, network: WindowedWaves) -> WindowedWaves:
    """With functions of time added to fields that are declared at a point."""
    (low, high), axis, real = pde.domain.bounds[TIME], pde.axes.index(TIME), np.array(network.real)
    mean = (*(n // 2 for n in real.shape[3:-1]), 0)
    nodes = series.chebpts1(DEGREE + 1)
    for name, field in _pins(pde).items():
        fixed = _fixed(pde.groups[name])
        once = TIME in fixed
        windows = [network.window_of(2 * (fixed[TIME] - low) / (high - low) - 1)] if once else range(network.count)
        for window in windows:
            times = low + (high - low) * (window + (nodes + 1) / 2) / network.count
            times = np.array([fixed[TIME]]) if once else times
            points = np.stack(
                [times if i == axis else np.full(len(times), fixed[a]) for i, a in enumerate(pde.axes)], 1
            )
            missing = _missing(pde, name, network.alone(window), jnp.asarray(points))
            if once:
                real[(slice(None), field, 0, *mean)] += missing[0]
            else:
                real[(window, field, slice(None), *mean)] += series.chebfit(nodes, missing, DEGREE)
    return eqx.tree_at(lambda n: n.real, network, jnp.asarray(real))


@eqx.filter_jit
def _missing(pde: PDE, name: str, network: WindowedWaves, points) -> Float[Array, " n"]:
    """What a field lacks of what is declared at points."""
    table = tables_of_points(pde, Groups({name: points}))[name]
    return -terms_at(pde, name, table, {(): jax.vmap(pde.model(network))(points)})[:, 0]
