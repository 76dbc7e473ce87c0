"""Fourier series along axes of space times Chebyshev polynomials of time, in windows of time.

A window's coefficients are an array `(fields, degrees, *waves)` in the layout of `rfftn`, of two thirds of the waves
that the grid resolves: the others are zero, so that products of two fields have no aliased waves there (Orszag, J.
Atmos. Sci. 28, 1971).
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.polynomial import chebyshev as series
from numpy.polynomial import legendre

from ..nn import WindowedWaves
from ._condition import Value
from ._derivatives import Laplacian, Partial
from ._domain import TIME
from ._mirrors import Mirrors, Places, places_of, targets_of, terms_on
from ._names import Derivative
from ._pde import INTERIOR, PDE, Group
from ._quantities import demands
from ._rows import Partials, bare_table, partials_of, terms_at

# The degree of the polynomials of time.
DEGREE = 8
# In units of a window, from -1 to 1: times at which the residual is measured, between those where it vanishes.
BETWEEN = (-0.93, -0.35, 0.2, 0.7)


class Grid(NamedTuple):
    """How many windows there are, and points along each axis of space."""

    windows: int
    points: tuple[int, ...]


class Basis(eqx.Module):
    """How fields go on beyond the ends of axes that are not periodic; times in a window, from -1 to 1, where residuals
    vanish, the first of which counts little; by order of derivative, the polynomials' derivatives there, at the
    beginning, at the end and between; angular wave numbers along each axis, as they broadcast; which waves are used,
    and their places in a row.
    """

    mirrors: Mirrors
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


def basis_of(pde: PDE, mirrors: Mirrors, grid: Grid) -> Basis:
    """That of a grid."""
    axis, initial = pde.axes.index(TIME), [len(m.partial) for _, _, m in initial_terms(pde)]
    orders = range(1 + max([p.count(axis) for p in interior_partials(pde)] + initial))
    low, high = pde.domain.bounds[TIME]
    # Of P_(n-1) - P_n, one of which is the end of the window.
    count = DEGREE + 1 - max(1 + n for n in initial)
    times = np.array([-1.0, *legendre.legroots([0.0] * (count - 1) + [1.0, -1.0])])

    def derivative(order, at):
        each = [series.chebval(at, series.chebder(row, order)) for row in np.eye(DEGREE + 1)]
        return (2 * grid.windows / (high - low)) ** order * np.stack(each, axis=-1)

    along, begin, end, between = ([derivative(o, np.asarray(at)) for o in orders] for at in (times, -1.0, 1.0, BETWEEN))
    numbers, kept = [], True
    for i, (n, period) in enumerate(zip(grid.points, periods(pde, mirrors))):
        last = i == len(grid.points) - 1
        number = (np.fft.rfftfreq if last else np.fft.fftfreq)(n, 1 / n)
        number = number.reshape([-1 if i == j else 1 for j in range(len(grid.points))])
        numbers.append(2 * np.pi / period * number)
        kept = kept & (np.abs(number) < n / 3)
    kept = np.asarray(kept)
    return Basis(mirrors, times, along, begin, end, between, numbers, kept, np.flatnonzero(kept), grid.points)


def periods(pde: PDE, mirrors: Mirrors) -> np.ndarray:
    """Those of the fields along each axis of space."""
    axes = [i for i, a in enumerate(pde.axes) if a != TIME]
    return np.array([np.ptp(pde.domain.bounds[pde.axes[i]]) * (2 if i in mirrors.axes else 1) for i in axes])


def interior_partials(pde: PDE) -> tuple[Partial, ...]:
    """The partial derivatives that the equations ask for."""
    return partials_of(pde, pde.groups[INTERIOR])


def initial_groups(pde: PDE) -> list[str]:
    """The conditions that declare fields or their derivatives everywhere at the first time."""
    begin = {TIME: pde.domain.bounds[TIME][0]}
    at_begin = [n for n, g in pde.groups.items() if isinstance(g.source, Value) and _fixed(g) == begin]
    return [n for n in at_begin if all(isinstance(m, Derivative) for m in targets_of(pde.groups[n]))]


def pins(pde: PDE) -> dict[str, int]:
    """By group, which field it declares at a point of space, where equations have derivatives of it only, along space
    among others: any function of time may be added to it.
    """
    space, found = {a for a in pde.axes if a != TIME}, {}
    places = {i for i, a in enumerate(pde.axes) if a in space}
    for name, group in pde.groups.items():
        targets = targets_of(group) if isinstance(group.source, Value) and space <= set(_fixed(group)) else []
        if len(targets) != 1 or not isinstance(targets[0], Derivative):
            continue
        meaning = targets[0]
        used = demands(pde, (m for t in pde.groups[INTERIOR].terms for m in t.meanings.values())).get(meaning.of, {})
        if meaning.of in pde.fields and not meaning.partial and all(set(p) & places for p in used):
            found[name] = pde.fields.index(meaning.of)
    return found


def _fixed(group: Group) -> dict[str, float]:
    """The coordinates that are the same everywhere in a condition's region."""
    return getattr(group.region, "fixed", {})


def initial_terms(pde: PDE) -> list[tuple[str, int, Any]]:
    """By group, the places of its terms and the derivatives they declare."""
    found = []
    for name in initial_groups(pde):
        found += [(name, i, m) for i, m in enumerate(targets_of(pde.groups[name]))]
    return found


def order_in_time(pde: PDE, partial: Partial) -> int:
    """How often a partial derivative is along time."""
    return 0 if isinstance(partial, Laplacian) else partial.count(pde.axes.index(TIME))


def symbol(pde: PDE, basis: Basis, partial: Partial):
    """What a derivative along space multiplies each wave by."""
    space = [i for i, a in enumerate(pde.axes) if a != TIME]
    if isinstance(partial, Laplacian):
        return -sum(k**2 for i, k in zip(space, basis.numbers) if i in partial)
    found = 1.0
    for i, k in zip(space, basis.numbers):
        # An odd derivative of the shortest wave of an even grid is not real, but that wave is not used.
        found = found * (1j * k) ** partial.count(i)
    return found


def values_of(pde: PDE, basis: Basis, along, coefficients, wanted, shift: float = 0.0) -> Partials:
    """The partial derivatives that are wanted of all fields at all times of `along` and points of the grid, `(times *
    points, fields)`, from coefficients `(fields, degrees, *waves)`; at points moved by a share of the distance between
    them.
    """
    space, points = tuple(range(-len(basis.points), 0)), basis.points
    if shift:
        for n, k, period in zip(points, basis.numbers, periods(pde, basis.mirrors)):
            coefficients = coefficients * jnp.exp(1j * k * shift * period / n)
    at_times = [jnp.einsum("nd,fd...->fn...", table, coefficients) for table in along]

    def one(partial):
        waves = at_times[order_in_time(pde, partial)]
        field = jnp.fft.irfftn(waves * symbol(pde, basis, partial), points, axes=space)
        return field.reshape(len(pde.fields), -1).T

    return {p: one(p) for p in wanted}


def places_in(pde: PDE, mirrors: Mirrors, grid: Grid, times: Any, shift: float = 0.0, window: int = 0) -> Places:
    """All times, from -1 to 1 in a window, with all points of the grid."""
    low, high = pde.domain.bounds[TIME]
    space = [a for a in pde.axes if a != TIME]
    columns = {TIME: low + (window + (np.asarray(times) + 1) / 2) * (high - low) / grid.windows}
    for name, n, period in zip(space, grid.points, periods(pde, mirrors)):
        columns[name] = pde.domain.bounds[name][0] + period * (np.arange(n) + shift) / n
    every = dict(zip(columns, np.meshgrid(*columns.values(), indexing="ij")))
    return places_of(pde, mirrors, np.stack([every[a].ravel() for a in pde.axes], axis=1))


def initial_waves(pde: PDE, basis: Basis, grid: Grid) -> Array:
    """What initial conditions declare, by wave, `(terms, *waves)`."""
    places, space = places_in(pde, basis.mirrors, grid, [-1.0]), tuple(range(-len(basis.points), 0))
    nothing = jnp.zeros((len(places.mirrored), len(pde.fields)))
    rows = []
    for name in initial_groups(pde):
        zero = dict.fromkeys(partials_of(pde, pde.groups[name]), nothing)
        rows.append(-terms_on(pde, basis.mirrors, name, places, zero).T)
    return jnp.fft.rfftn(jnp.concatenate(rows).reshape(-1, *basis.points), axes=space) * basis.kept


def declared(pde: PDE, tables, coefficients) -> Array:
    """What initial conditions speak of, at the time of `tables`, by wave, `(terms, *waves)`."""
    fields = [(pde.fields.index(m.of), len(m.partial)) for _, _, m in initial_terms(pde)]
    return jnp.stack([jnp.einsum("d,d...->...", tables[order], coefficients[f]) for f, order in fields])


def last_shares(basis: Basis, found: list[np.ndarray]) -> tuple[float, float]:
    """Of the shortest waves, and of the last polynomial of time, in all windows together."""
    short = np.zeros(basis.kept.shape, bool)
    for k in basis.numbers:
        most = np.abs(np.where(basis.kept, k, 0)).max()
        short = short | (np.abs(k) > 0.85 * most)
    total = np.sqrt(sum(np.sum(np.abs(c) ** 2) for c in found)) + np.finfo(float).tiny
    waves = np.sqrt(sum(np.sum(np.abs(c[..., short]) ** 2) for c in found))
    return float(waves / total), float(np.sqrt(sum(np.sum(np.abs(c[:, -1]) ** 2) for c in found)) / total)


def network_of(pde: PDE, basis: Basis, found: list[np.ndarray]) -> WindowedWaves:
    """The sum of waves, each with its opposite."""
    axis = pde.axes.index(TIME)
    windows = np.stack([_in_order(basis, c) for c in found])
    inputs = np.cumsum([0, *(2 if a in pde.periodic_axes else 1 for a in pde.axes)])
    angles = tuple((int(inputs[i]), i in basis.mirrors.axes) for i in range(len(pde.axes)) if i != axis)
    real, imaginary = jnp.asarray(np.real(windows)), jnp.asarray(np.imag(windows))
    return WindowedWaves(real, imaginary, jnp.asarray(0), len(found), int(inputs[axis]), angles)


def _in_order(basis: Basis, coefficients: np.ndarray) -> np.ndarray:
    """Those of the waves in use, numbers in rising order."""
    dims = len(basis.points)
    for i, n in enumerate(basis.points):
        most, place = int(np.ceil(n / 3)) - 1, i - dims
        numbers = np.arange(0 if i == dims - 1 else -most, most + 1)
        coefficients = np.take(coefficients, numbers, axis=place)
    twice = np.where(np.arange(coefficients.shape[-1]) > 0, 2.0, 1.0)
    return twice * coefficients / np.prod(basis.points)


def pinned(pde: PDE, network: WindowedWaves) -> WindowedWaves:
    """With functions of time added to fields that are declared at a point."""
    (low, high), axis, real = pde.domain.bounds[TIME], pde.axes.index(TIME), np.array(network.real)
    mean = (*(n // 2 for n in real.shape[3:-1]), 0)
    nodes = series.chebpts1(DEGREE + 1)
    for name, field in pins(pde).items():
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
    return -terms_at(pde, name, bare_table(points), {(): jax.vmap(pde.model(network))(points)})[:, 0]
