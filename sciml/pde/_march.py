"""Evolution in windows of time, each solved for the output layer of random features of its own.

A window begins with what the one before ends with, as time-stepping does, so that a long or nonlinear evolution becomes
short and nearly linear ones (block time marching; Dong & Li, CMAME 387, 2021, section 2.3). Within a window fields
change little in time: features have small weights for time and large ones for space, and where the fields are steep in
few places, features crowd there and are as steep (as the sampled weights of Bolager et al., NeurIPS 2023, which follow
differences of the data).
"""

import time
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._loss import Groups
from ..nn import (
    InWindow,
    PolynomialFeatures,
    RandomFeatures,
    TanhFeatures,
    WindowedFeatures,
)
from ..optim._newton import Corrected, Factored, Normal, minimise
from ._condition import Value
from ._constraint import features as inputs_at
from ._crowded import crowded, crowded_on
from ._degrees import Decay, degree_sets
from ._derivatives import derivatives
from ._domain import TIME, Box, Product
from ._names import Derivative
from ._pde import INTERIOR, PDE
from ._quantities import expanded
from ._rows import jacobian_rows, linearised_rows, residual_rows, tabulate, target_values

# Standard deviation of the features' weights for time, which goes from -1 to 1 within a window.
TIME_SPREAD = 0.3
# Features follow the fields where these are so many times steeper in some place than on average.
STEEP = 2.0
POOL = 4096
# Velocities count as much as fields that swing once in about this share of all time, over 2 pi.
SWING = 0.15
POINTS_PER_FEATURE = 3
# Residuals of this size, relative to those of zero output in the first window if that is more than one, mean that a
# window was not solved.
LOST = 1e3


Hidden = TanhFeatures | PolynomialFeatures


class Plan(NamedTuple):
    """How many windows and features there are, and the standard deviation of the features' weights for space, or the
    `shape` of the set of polynomials.

    Features that do not follow the fields are the same in all windows, so that what a window begins with is in the span
    of its features: errors grow less where nothing damps them.
    """

    windows: int
    features: int
    spread: float | Array | None = None
    following: bool = True
    shape: Decay | None = None


def initial_groups(pde: PDE) -> tuple[str, ...]:
    """The conditions at the first time; none where `pde` is no evolution from declared values in one piece."""
    if pde.parts > 1 or pde.integrals:
        return ()
    if TIME not in pde.axes or TIME in pde.periodic_axes or not _is_product(pde.domain):
        return ()
    first, labels = pde.domain.bounds[TIME][0], []
    for group in pde.groups.values():
        at = getattr(group.region, "fixed", {}).get(TIME)
        if group.label == INTERIOR or at is None:
            continue
        declared = isinstance(group.source, Value) and all(_declares_derivative(t) for t in group.terms)
        if at != first or not declared:
            return ()
        labels.append(group.label)
    return tuple(labels)


class Marched(NamedTuple):
    """The network, and the seconds that a window took (the lower quartile: what else the machine does delays some)."""

    network: WindowedFeatures
    pace: float


def march(pde: PDE, plan: Plan, key: Array, deadline: float = np.inf) -> Marched | None:
    """The network whose residuals are least squares in each window, one after the other; None where a window could not
    be solved or time will be up before the last.
    """
    # As an array, so that another spread is no new program.
    fixed = plan.shape is not None
    plan = plan if fixed else plan._replace(spread=jnp.asarray(plan.spread))
    drawn, placed = jax.random.split(key)
    # Polynomials are not far from orthogonal, tanh features nearly dependent.
    factor = Corrected if fixed else Factored
    pool = _pool(pde, placed)
    shared = _polynomials(pde, plan, placed) if fixed else _even(pde, plan, drawn, placed)
    networks: list[RandomFeatures] = []
    follows = False
    repeated, limit, times = None, np.inf, [time.perf_counter()]
    for window in range(plan.windows):
        begin = _begin(pde, plan, window)
        previous = networks[-1] if networks else _window(pde, plan, shared.hidden, 0)
        used = shared
        if plan.following and not fixed:
            steepness = _steepness(pde, previous, jnp.asarray(begin), pool)
            # Once they follow, features go on to: even ones would lose what they have resolved.
            follows = follows or float(steepness.contrast) > STEEP
            if follows:
                used = _following(pde, plan, steepness, pool, jax.random.fold_in(drawn, window), placed)
        batch = _moved(pde, plan, used.batch, window)
        network = _window(pde, plan, used.hidden, window)
        known = _known(pde, network if window == 0 else previous, batch, declared=window == 0)
        tables = tabulate(pde, network, batch, known, repeated)
        if fixed and window > 0 and _initial_order(pde) is not None:
            repeated = tables
        if window == 0:
            limit = LOST * max(1.0, float(jnp.linalg.norm(residual_rows(pde, tables, network.output))))
        # Two windows before this one have the same features; polynomials in the first have others.
        if used.factored is not None and window > (2 if fixed else 1):
            start, factored = _extrapolated(networks), used.factored
        else:
            start, factored = _newton_step(pde, tables, network.output.shape, previous, jnp.asarray(begin), factor)
        found = _solved(pde, network, tables, start, factored, factor, limit)
        if found is None or _expected_end(times, plan.windows) > deadline:
            return None
        network, factored = found
        shared = shared._replace(factored=factored if used is shared else None)
        networks.append(network)
        times.append(time.perf_counter())
    return Marched(_joined(pde, networks), float(np.quantile(np.diff(times), 0.25)))


def _expected_end(times: list[float], windows: int) -> float:
    """When all windows will be done at the best pace so far; the first ones compile, and take longer until features
    follow the fields.
    """
    now = time.perf_counter()
    if len(times) < max(5, windows // 4):
        return now
    return now + float(np.diff([*times[3:], now]).min()) * (windows - len(times))


@eqx.filter_jit
def _pool(pde: PDE, key: Array) -> Array:
    return pde.domain.sobol(POOL, key)


class _Basis(NamedTuple):
    """Features in the coordinates of a window, points in those of the whole domain, and factors to begin with."""

    hidden: Hidden
    batch: Groups
    factored: Factored | Normal | None = None


class _Steepness(NamedTuple):
    """By point of the pool, how steep the fields are along each input relative to their mean, and over all; how fast
    they move along each axis, with the sign turned; and the largest steepness over the mean.
    """

    along: Float[Array, "pool inputs"]
    overall: Float[Array, " pool"]
    drift: Float[Array, "pool axes"]
    contrast: Array


@eqx.filter_jit
def _steepness(pde: PDE, network: RandomFeatures, begin, pool: Array) -> _Steepness:
    axis = _axis(pde)
    low, high = jnp.array([pde.domain.bounds[a] for a in pde.axes]).T
    fields, places = pde.model(network), pool.at[:, axis].set(begin)
    slopes = jax.vmap(jax.jacfwd(fields))(places)
    in_time, in_space = slopes[:, :, axis], slopes.at[:, :, axis].set(0.0)
    signed = in_space
    if _is_second_order(pde):
        # What swings is steep in its velocity where it is flat itself.
        swing = jax.vmap(jax.jacfwd(lambda p: jax.jacfwd(fields)(p)[:, axis]))(places).at[:, :, axis].set(0.0)
        in_space = jnp.sqrt(in_space**2 + (SWING * (high - low)[axis] * swing) ** 2)
    mean = jnp.mean(jnp.abs(in_space) * (high - low), axis=0)
    # A direction along which hardly anything changes has nothing to follow.
    floor = 1e-3 * jnp.max(mean, axis=1, keepdims=True) + jnp.finfo(mean.dtype).tiny
    relative = jnp.max(jnp.abs(in_space) * (high - low) / (mean + floor), axis=1)
    overall = jnp.sqrt(jnp.sum(relative**2, axis=1))
    along = jnp.repeat(relative, jnp.array(_inputs_of_axes(pde)), axis=1, total_repeat_length=pde.in_size)
    squares = jnp.sum(in_space**2, axis=(1, 2))
    drift = jnp.einsum("nf,nfa->na", in_time, signed) / (squares + jnp.mean(squares) + floor.min())[:, None]
    return _Steepness(along, overall, drift, jnp.max(1 + overall) / jnp.mean(1 + overall))


@eqx.filter_jit
def _even(pde: PDE, plan: Plan, drawn: Array, placed: Array) -> _Basis:
    """Features and points that are spread evenly."""
    directions, places = jax.random.split(drawn)
    count = plan.features // pde.out_size
    points = pde.domain.sample(places, count)
    hidden = _features(pde, plan, points, jnp.zeros(()), jnp.zeros((count, len(pde.axes))), directions)
    batch = _even_points(pde, _counts(pde, plan), placed)
    # The ends of a window are a part of its boundary.
    batch[INTERIOR] = crowded(pde.domain, batch[INTERIOR], pde.periodic_axes)
    return _Basis(hidden, Groups(batch))


def _even_points(pde: PDE, counts: dict[str, int], placed: Array) -> dict[str, Array]:
    return {n: pde.draw(pde.groups[n], count, placed, even=True) for n, count in counts.items()}


def _polynomials(pde: PDE, plan: Plan, placed: Array) -> _Basis:
    """Polynomials, and points that crowd towards the boundary, on which they depend most."""
    assert plan.shape is not None
    degrees, _ = degree_sets(plan.shape, plan.features // pde.out_size)
    counts = _counts(pde, plan._replace(features=pde.out_size * len(degrees)))

    @eqx.filter_jit
    def points(placed):
        drawn = _even_points(pde, counts, placed)
        return {n: crowded_on(pde.groups[n].region, pde.domain, p) for n, p in drawn.items()}

    return _Basis(PolynomialFeatures(jnp.asarray(degrees), int(degrees.max())), Groups(points(placed)))


@eqx.filter_jit
def _following(pde: PDE, plan: Plan, steepness: _Steepness, pool: Array, drawn: Array, placed: Array) -> _Basis:
    """Features, half of the interior points and half of those at the beginning where the fields are steep."""
    directions, places, chosen, rest = jax.random.split(drawn, 4)
    centres, index = _steep_points(pde, steepness, pool, places, plan.features // pde.out_size, evenly=1.0)
    hidden = _features(pde, plan, centres, steepness.along[index], steepness.drift[index], directions)
    counts, batch = _counts(pde, plan), {}
    steep, _ = _steep_points(pde, steepness, pool, chosen, counts[INTERIOR] // 2, evenly=0.05)
    space = tuple(a for a in pde.axes if a != TIME)
    for name, count in counts.items():
        group = pde.groups[name]
        if name == INTERIOR:
            even = pde.draw(group, count - len(steep), rest, even=True)
            parts = crowded(pde.domain, even, pde.periodic_axes), crowded(pde.domain, steep, space)
            batch[name] = jnp.concatenate(parts)
        elif name in initial_groups(pde):
            picked = steep[: count // 2].at[:, _axis(pde)].set(_first_time(pde))
            batch[name] = jnp.concatenate([pde.draw(group, count - len(picked), rest, even=True), picked])
        else:
            batch[name] = pde.draw(group, count, placed, even=True)
    return _Basis(hidden, Groups(batch))


def _steep_points(pde, steepness, pool, key, count, evenly) -> tuple[Array, Array]:
    """Points near those of the pool, more of them where the fields are steep, and near which ones."""
    chosen, moved = jax.random.split(key)
    density = evenly + steepness.overall
    index = jax.random.choice(chosen, POOL, (count,), p=density / density.sum())
    low, high = jnp.array([pde.domain.bounds[a] for a in pde.axes]).T
    # As far as to the next point of the pool in space, and to any time.
    reach = (high - low) * POOL ** (-1 / max(1, len(pde.axes) - 1))
    reach = reach.at[_axis(pde)].set(high[_axis(pde)] - low[_axis(pde)])
    shifted = pool[index] + reach * jax.random.uniform(moved, (count, len(pde.axes)), minval=-1.0)
    inside = jnp.all((shifted >= low) & (shifted <= high), axis=1) & (pde.domain.distance(shifted) <= 0)
    return jnp.where(inside[:, None], shifted, pool[index]), index


def _features(pde: PDE, plan: Plan, points, steepness, drift, key) -> TanhFeatures:
    """A feature that bends at each of the points, the more sharply the steeper the fields are there; in half of them
    the place moves with the fields, in the others less.
    """
    directions, moving, shares = jax.random.split(key, 3)
    is_time = jnp.arange(pde.in_size) == _time_input(pde)
    centres, slopes = jax.vmap(lambda p: (inputs_at(pde, p), jax.jacfwd(lambda q: inputs_at(pde, q))(p)))(points)
    normal = jax.random.normal(directions, centres.shape)
    weight = jnp.where(is_time, 0.0, plan.spread * (1 + steepness)) * normal
    count = len(points)
    share = jnp.where(jax.random.bernoulli(moving, 0.5, (count,)), 1.0, jax.random.uniform(shares, (count,)))
    low, high = pde.domain.bounds[TIME]
    moved = share * jnp.sum(jnp.einsum("ni,nia->na", weight, slopes) * drift, axis=1) * (high - low) / plan.windows / 2
    weight = jnp.where(is_time, TIME_SPREAD * normal + moved[:, None], weight)
    return TanhFeatures(weight, -jnp.sum(weight * centres, axis=1))


def _counts(pde: PDE, plan: Plan) -> dict[str, int]:
    """How many points each group has: those of a window's beginning carry all that was before."""
    interior = POINTS_PER_FEATURE * (plan.features // pde.out_size) * max(1, pde.out_size // len(pde.equations))
    initial = initial_groups(pde)
    labels = dict.fromkeys([g.label for g in pde.trained_groups] + list(initial))
    return {n: interior if n == INTERIOR else max(64, interior // (4 if n in initial else 8)) for n in labels}


def _solved(pde, network, tables, start, factored, factor, limit) -> tuple[RandomFeatures, Any] | None:
    shape = network.output.shape
    found = minimise(
        lambda output: residual_rows(pde, tables, output.reshape(shape)),
        lambda output: jacobian_rows(pde, tables, output.reshape(shape)),
        start,
        factored,
        factor=factor,
    )
    if not found.size < limit:
        return None
    return eqx.tree_at(lambda n: n.output, network, jnp.asarray(found.point.reshape(shape))), found.factored


def _newton_step(pde, tables, shape, previous, begin, factor) -> tuple[np.ndarray, Factored | Normal]:
    """The output after one step of Newton's method from fields that go on to change as they do at the beginning of the
    window, and the factors of that step.
    """
    matrix, right = _about_prediction(pde, tables, shape, previous, begin)
    factored = factor(np.asarray(matrix))
    return factored.solve(np.asarray(right))[0], factored


@eqx.filter_jit
def _about_prediction(pde: PDE, tables, shape, previous: RandomFeatures, begin: Array):
    axis, fields = _axis(pde), pde.model(previous)

    def predicted(point, partials):
        later = {p: [tuple(sorted((*q, axis))) for q in expanded((p,))] for p in partials}
        every = dict.fromkeys([*partials, *(q for qs in later.values() for q in qs)])
        found = derivatives(fields, point.at[axis].set(begin), every)
        passed = point[axis] - begin
        return {p: found[p] + passed * sum(found[q] for q in later[p]) for p in partials}

    return linearised_rows(pde, tables, shape, predicted)


def _extrapolated(networks: list[RandomFeatures]) -> np.ndarray:
    """The output of shared features, if it goes on to change as it did in the last two windows."""
    before, last = (np.asarray(n.output).ravel() for n in networks[-2:])
    return 2 * last - before


@eqx.filter_jit
def _known(pde: PDE, network: RandomFeatures, batch: Groups, declared: bool) -> dict[str, Array]:
    """What the fields are at the beginning of a window: as declared, or as in the network of the window before."""
    fields = pde.model(network)
    values = {n: target_values(pde, pde.groups[n], fields, batch[n]) for n in initial_groups(pde)}
    if not declared:
        return values
    found = pde.residuals(fields, Groups({n: batch[n] for n in values}))
    return {n: v - jnp.stack([found[t.name] for t in pde.groups[n].terms], axis=1) for n, v in values.items()}


def _joined(pde: PDE, networks: list[RandomFeatures]) -> WindowedFeatures:
    def stack(*arrays):
        return np.stack([np.asarray(a) for a in arrays]) if eqx.is_array(arrays[0]) else arrays[0]

    hidden, output = (jax.tree.map(stack, *parts) for parts in zip(*[(n.hidden.hidden, n.output) for n in networks]))
    power = networks[0].hidden.power  # pyright: ignore[reportFunctionMemberAccess]
    return WindowedFeatures(jax.tree.map(jnp.asarray, hidden), jnp.asarray(output), _time_input(pde), power)


def _window(pde: PDE, plan: Plan, hidden: Hidden, window: int) -> RandomFeatures:
    """The features in a window, with an output of zero."""
    output = jnp.zeros((pde.out_size, _size(hidden)))
    power = 0 if plan.shape is None else _initial_order(pde) or 0
    placed = InWindow(hidden, jnp.asarray(float(window)), plan.windows, _time_input(pde), power)
    return RandomFeatures(placed, output)


def _initial_order(pde: PDE) -> int | None:
    """How many times exact initial conditions make what the network adds zero at the first time; None where that
    differs between fields, so that windows cannot have the same features.
    """
    faces = [[f for f in c.faces if f.axis == _axis(pde) and f.at == _first_time(pde)] for c in pde.constraints]
    orders = {1 + max(f.order for f in of) if of else 0 for of in faces}
    return orders.pop() if len(orders) == 1 else None


def _size(hidden: Hidden) -> int:
    return len(hidden.degrees) if isinstance(hidden, PolynomialFeatures) else len(hidden.bias)


def _moved(pde: PDE, plan: Plan, batch: Groups, window: int) -> Groups:
    """The points of the whole domain in a window."""
    axis, first, begin = _axis(pde), _first_time(pde), _begin(pde, plan, window)

    def moved(points):
        points = np.array(points)
        points[:, axis] = begin + (points[:, axis] - first) / plan.windows
        return jnp.asarray(points)

    return Groups({name: moved(points) for name, points in batch.items()})


def _begin(pde: PDE, plan: Plan, window: int) -> float:
    low, high = pde.domain.bounds[TIME]
    return low + (high - low) * window / plan.windows


def _first_time(pde: PDE) -> float:
    return pde.domain.bounds[TIME][0]


def _axis(pde: PDE) -> int:
    return pde.axes.index(TIME)


def _inputs_of_axes(pde: PDE) -> list[int]:
    return [2 if a in pde.periodic_axes else 1 for a in pde.axes]


def _time_input(pde: PDE) -> int:
    return sum(_inputs_of_axes(pde)[: _axis(pde)])


def _is_product(domain) -> bool:
    """Whether the domain is the same at all times."""
    if isinstance(domain, Product):
        return all(_is_product(f) for f in (domain.first, domain.second) if TIME in f.axes)
    return isinstance(domain, Box)


def _is_second_order(pde: PDE) -> bool:
    """Whether an initial velocity is declared."""
    return any(t.meanings[t.function.target].partial for n in initial_groups(pde) for t in pde.groups[n].terms)  # pyright: ignore


def _declares_derivative(term) -> bool:
    return isinstance(term.meanings[term.function.target], Derivative)
