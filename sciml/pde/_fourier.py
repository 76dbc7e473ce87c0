"""Evolution along axes that are periodic or have walls at which fields are even or odd: Fourier series in windows of
time, by collocation.

The residuals vanish at the points of a grid and at Radau's times (Hairer & Wanner, Solving Ordinary Differential
Equations II, section IV.5). A correction solves the equations with the mean of their slopes over the grid, wave by
wave, so that corrections contract where a window is short for what varies in space.
"""

import time
from collections.abc import Iterator
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from ..nn import WindowedWaves
from ._derivatives import Laplacian, Partial
from ._domain import TIME, Box
from ._mirrors import Mirrors, Places, mirrors_of, slopes_on, terms_on, walls
from ._pde import INTERIOR, PDE
from ._rows import Partials, partials_of
from ._waves import (
    BETWEEN,
    DEGREE,
    Basis,
    Grid,
    basis_of,
    declared,
    initial_groups,
    initial_terms,
    initial_waves,
    interior_partials,
    last_shares,
    network_of,
    order_in_time,
    periods,
    pinned,
    pins,
    places_in,
    symbol,
    values_of,
)

# Windows of a first attempt.
WINDOWS = 16
# By the number of axes of space, the least and the most points along the longest axis of a first attempt, and those at
# which initial values are looked at. Waves beyond those that are needed have less than so much of the rest.
POINTS, RESOLVED = {1: (96, 1024, 4096), 2: (24, 96, 384), 3: (24, 24, 48)}, 1e-5
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
# Neither more waves nor more windows are of use below this.
ENOUGH = 1e-11


Losses = dict[str, Array]


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


def suits_fourier(pde: PDE) -> Mirrors | None:
    """How fields go on where all axes of space are periodic, or have walls about which fields are even or odd, and
    nothing else is asked for but equations, initial values, and values at a point of fields that are determined up to a
    constant; None where that is not so.
    """
    space = [a for a in pde.axes if a != TIME]
    if TIME not in pde.axes or len(space) not in POINTS or TIME in pde.periodic_axes or not isinstance(pde.domain, Box):
        return None
    initial, axis = initial_groups(pde), pde.axes.index(TIME)
    if not initial or set(pde.groups) != {INTERIOR, *initial, *walls(pde), *pins(pde)} or pde.integrals:
        return None
    along = [p for p in interior_partials(pde) if isinstance(p, Laplacian) and axis in p]
    if along or not all(set(m.partial) <= {axis} for _, _, m in initial_terms(pde)):
        return None
    return mirrors_of(pde)


def fourier_solutions(pde: PDE, mirrors: Mirrors, deadline: float) -> Iterator[tuple[Grid, Found]]:
    """Solutions on finer and finer grids, with shorter and shorter windows, while there is time."""
    start = time.perf_counter()
    grid, pace, rest, size = Grid(WINDOWS, _first_points(pde, mirrors)), 0.0, 0.0, 1.0
    while _numbers(pde, grid) <= LARGEST:
        began = time.perf_counter()
        if not pace and began > start + PATIENCE * (deadline - start):
            return
        if pace and began + rest * max(1.0, _size(grid) / size) + pace * _work(grid) > deadline:
            return
        found = _marched(pde, mirrors, grid, deadline)
        if isinstance(found, Lost):
            if time.perf_counter() > deadline:
                return
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


def _first_points(pde: PDE, mirrors: Mirrors) -> tuple[int, ...]:
    """As many as the initial values ask for."""
    lengths = periods(pde, mirrors)
    shares, (least, most, probed) = lengths / lengths.max(), POINTS[len(lengths)]
    grid = Grid(1, tuple(_even(max(8, probed * share)) for share in shares))
    basis = basis_of(pde, mirrors, grid)
    initial = np.asarray(initial_waves(pde, basis, grid))
    size = np.abs(initial).max(axis=0)
    # By wave, the points along the longest axis that resolve it.
    each = [np.abs(k) * n / (2 * np.pi * share) for k, n, share in zip(basis.numbers, lengths, shares)]
    needed = 3 * np.max(np.stack(np.broadcast_arrays(*each)), axis=0)
    large = needed[size > RESOLVED * size.max()] if size.any() else np.zeros(1)
    count = min(most, max(least, float(large.max()) + 2))
    return tuple(_even(max(8, count * share)) for share in shares)


class _State(NamedTuple):
    """Coefficients, the sizes of the last correction and of that before relative to them, and how many there were."""

    coefficients: Complex[Array, "fields degrees *waves"]
    last: Array
    before: Array
    count: Array


@eqx.filter_jit
def _corrected(pde: PDE, basis: Basis, places: Places, initial, inverse, start) -> _State:
    """Corrections as long as they contract and change anything."""
    kept, space = basis.places, tuple(range(-len(basis.points), 0))
    weights = np.where(np.arange(len(basis.times)) == 0, FAINT, 1.0)

    def correction(coefficients):
        partials = values_of(pde, basis, basis.along, coefficients, interior_partials(pde))
        terms = terms_on(pde, basis.mirrors, INTERIOR, places, partials)
        by_time = terms.T.reshape(terms.shape[1], len(basis.times), *basis.points)
        equations = weights[:, None] * jnp.fft.rfftn(by_time, axes=space).reshape(*by_time.shape[:2], -1)[..., kept]
        begins = declared(pde, basis.begin, coefficients) - initial
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
def _mean_slopes(pde: PDE, basis: Basis, places: Places, coefficients) -> dict[Partial, Float[Array, "terms fields"]]:
    partials = values_of(pde, basis, basis.along, coefficients, interior_partials(pde))
    return {p: jnp.mean(s, axis=0) for p, s in slopes_on(pde, basis.mirrors, places, partials).items()}


def _inverse(pde: PDE, basis: Basis, slopes) -> Complex[np.ndarray, "waves unknowns rows"]:
    """By wave, the pseudo-inverse of the equations with these slopes, and of the conditions at the beginning."""
    kept, degrees = basis.places, DEGREE + 1
    terms, fields = len(pde.equations), len(pde.fields)
    matrix = np.zeros((len(kept), terms, len(basis.times), fields, degrees), complex)
    for partial, slope in slopes.items():
        by_wave = np.broadcast_to(symbol(pde, basis, partial), basis.kept.shape).ravel()[kept]
        in_time = basis.along[order_in_time(pde, partial)]
        matrix += np.einsum("k,tf,nd->ktnfd", by_wave, np.asarray(slope), in_time)
    matrix[:, :, 0] *= FAINT
    begins = np.zeros((len(kept), len(initial_terms(pde)), fields, degrees), complex)
    for i, (_, _, meaning) in enumerate(initial_terms(pde)):
        begins[:, i, pde.fields.index(meaning.of)] = basis.begin[len(meaning.partial)]
    rows = np.concatenate([m.reshape(len(kept), -1, fields * degrees) for m in (matrix, begins)], axis=1)
    size = np.maximum(np.abs(rows).max(axis=2), np.finfo(float).tiny)
    return np.linalg.pinv(rows / size[:, :, None], rcond=UNDETERMINED) / size[:, None]


@eqx.filter_jit
def _between(pde: PDE, basis: Basis, places: Places, coefficients) -> tuple[Losses, Losses]:
    """The mean squares of the equations' residuals between the points of the grid, and those of zero output."""
    partials = values_of(pde, basis, basis.between, coefficients, interior_partials(pde), 0.5)
    return _mean_squares(pde, basis, INTERIOR, places, partials)


def _initial_losses(pde: PDE, basis: Basis, grid: Grid, coefficients) -> list[tuple[Losses, Losses]]:
    """The same of initial conditions."""
    places, tables, found = places_in(pde, basis.mirrors, grid, [-1.0], 0.5), [b[None] for b in basis.begin], []
    for name in initial_groups(pde):
        partials = values_of(pde, basis, tables, coefficients, partials_of(pde, pde.groups[name]), 0.5)
        found.append(_mean_squares(pde, basis, name, places, partials))
    return found


def _mean_squares(pde: PDE, basis: Basis, label: str, places: Places, partials: Partials) -> tuple[Losses, Losses]:
    both = (terms_on(pde, basis.mirrors, label, places, {p: x * v for p, v in partials.items()}) for x in (1.0, 0.0))
    names = [t.name for t in pde.groups[label].terms]
    found, zero = (dict(zip(names, jnp.mean(terms**2, axis=0))) for terms in both)
    return found, zero


def _marched(pde: PDE, mirrors: Mirrors, grid: Grid, deadline: float) -> Found | Lost:
    """Lost where corrections do not contract, waves are too few, or time is up."""
    basis = basis_of(pde, mirrors, grid)
    initial = initial_waves(pde, basis, grid)
    values = jnp.zeros((len(pde.fields), *basis.kept.shape), complex)
    for i, (_, _, meaning) in enumerate(initial_terms(pde)):
        values = values if meaning.partial else values.at[pde.fields.index(meaning.of)].set(initial[i])
    found, measures, inverse, times, short = [], [], None, [time.perf_counter()], 0.0
    for window in range(grid.windows):
        at = places_in(pde, mirrors, grid, basis.times, window=window)
        solved = _solved(pde, basis, at, initial, inverse, _constant(values))
        if solved is None or time.perf_counter() > deadline:
            return Lost(short)
        coefficients, inverse = solved
        found.append(np.asarray(coefficients))
        short, _ = last_shares(basis, found[-1:])
        if short > HOPELESS:
            return Lost(short)
        between = places_in(pde, mirrors, grid, BETWEEN, 0.5, window)
        measures.append(_between(pde, basis, between, coefficients))
        initial = declared(pde, basis.end, coefficients)
        values = jnp.einsum("d,fd...->f...", basis.end[0], coefficients)
        times.append(time.perf_counter())
    losses, zero = ({n: float(np.mean([m[i][n] for m in measures])) for n in measures[0][i]} for i in (0, 1))
    for found_there, zero_there in _initial_losses(pde, basis, grid, found[0]):
        losses |= {n: float(v) for n, v in found_there.items()}
        zero |= {n: float(v) for n, v in zero_there.items()}
    last_waves, last_times = last_shares(basis, found)
    # The first window compiles.
    seconds = (times[-1] - times[1]) * grid.windows / max(1, grid.windows - 1)
    return Found(pinned(pde, network_of(pde, basis, found)), losses, zero, last_waves, last_times, seconds)


def _constant(values: Array) -> Array:
    """Coefficients of fields that do not change within a window."""
    return jnp.zeros((len(values), DEGREE + 1, *values.shape[1:]), complex).at[:, 0].set(values)


def _solved(pde: PDE, basis: Basis, places: Places, initial, inverse, start) -> tuple[Array, Array] | None:
    """The coefficients in a window, with the inverse of the window before or, where that does not do, one of its own;
    and that. None where corrections do not contract.
    """
    if inverse is not None:
        state = _corrected(pde, basis, places, initial, inverse, start)
        if float(state.last) < ROUNDING:
            return state.coefficients, inverse
    inverse = jnp.asarray(_inverse(pde, basis, _mean_slopes(pde, basis, places, start)))
    state = _corrected(pde, basis, places, initial, inverse, start)
    return (state.coefficients, inverse) if float(state.last) < ROUNDING else None
