"""A PDE on its whole domain by polynomials or random features, whose output layer is found by least squares.

Equations and conditions that are affine in the fields make every residual affine in the output layer, so the best one
is a linear least-squares problem (Dong & Li, CMAME 387, 2021); for others it is the limit of a few. Polynomials, or
random features of one of several scales: whatever leaves the smallest residual at points that were not fitted.
"""

import time
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._loss import Groups, mean_squares
from ..nn import JoinedFeatures, PartFeatures, RandomFeatures, polynomial_features, random_features
from ..optim._newton import MAX_STEPS, Corrected, Factored, minimise
from ._compile import compiled_quickly
from ._condition import Observations
from ._constraint import ConstrainedFields, part_ranges
from ._corners import corner_features
from ._crowded import crowded_on
from ._declared import declared_degrees
from ._degrees import Decay, Found, decay, degree_sets, is_uneven, total_degree
from ._derivatives import closure
from ._domain import Box, Domain, Product
from ._holes import hole_features, without_holes
from ._pde import INTERIOR, PDE
from ._rows import interior_rows, jacobian_rows, mean_square_rows, partials_of, residual_rows, tabulate, weighted_size
from ._shapes import Ball, Polygon
from ._subdomains import Subdomains

# Scales of random features.
SPREADS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 10.0)
# Of four inputs or more: the argument of a feature adds up over them.
SPREADS_OF_MANY = (0.25, 0.15, 0.5, 1.0, 2.0)
MANY = 4
TRIAL_FEATURES = 500
FEATURES = (1500, 3000, 6000)
POINTS_PER_FEATURE = 3
LEAST_POINTS = 128
# Bytes of tables of features, beyond which there are no more of them; twice as much is needed while they are made.
MEMORY = 5e9
# Points at most where the residual of what was found is measured.
CHECKED = 2048
# Where a trial of polynomials leaves less than this, nothing else is tried. They converge faster than random features
# where they converge, so that they are preferred unless those leave less than half.
SMOOTH = 1e-3
PREFERENCE = 2.0
# Where it leaves less than this, and shows which degrees matter, one of those is tried too.
PROMISING = 0.1
# Where all trials leave more than zero would, they are too small to be told apart: more polynomials are tried (waves in
# a square with u_n = 0: 500 polynomials leave 13, 500 random features 2.3, 1,500 polynomials 0.21).
NOTHING = 1.0
# Residuals smaller than this share of those of a feature are rounding errors.
ROUNDING = 1e-9
# More features than before are not worth their time below this share of the residual. Polynomials, which may converge
# to rounding, are given up where more of them do not halve it.
ENOUGH, ENOUGH_OF_SMOOTH = 1e-7, 1e-9


class Fit(NamedTuple):
    """The fields found, the root mean square residual left relative to that of zero output, the scale of random
    features (None: polynomials), mean squares by residual, the seconds that matrices were factored, and polynomials.
    """

    fields: ConstrainedFields
    residual: float
    spread: float | None
    losses: dict[str, float]
    factoring: float = 0.0
    found: Found | None = None


def is_affine(pde: PDE, key: Array) -> bool:
    """Whether all residuals are affine in the fields: checked on a mixture of random networks at random points."""
    return all(bool(gap <= 1e-8 * size) for gap, size in _affine_gaps(pde, key).values())


@compiled_quickly
def _affine_gaps(pde: PDE, key: Array) -> dict[str, tuple[Array, Array]]:
    """By residual, how far that of a mixture is from the mixture of the residuals, and how large they are."""
    one, two = (_filled(draw_features(pde, 20, 2.0, k), k) for k in jax.random.split(key))
    batch = pde.points(8, 8)(key)
    first, second, mixed = (
        pde.residuals(pde.model(n), batch) for n in (one, two, lambda x: 0.3 * one(x) + 0.7 * two(x))
    )

    def gap(name):
        difference = jnp.max(jnp.abs(mixed[name] - 0.3 * first[name] - 0.7 * second[name]))
        return difference, jnp.max(jnp.abs(first[name]) + jnp.abs(second[name]))

    return {name: gap(name) for name in mixed}


def solve_whole(pde: PDE, key: Array, budget: float, affine: bool) -> Fit:
    """The best solution by polynomials or random features on the whole domain, by one step of least squares if the
    problem is affine.
    """
    start = time.perf_counter()
    return refined(pde, tried(pde, key, budget / 3, affine), key, start + budget, affine)


def _is_enough(fit: Fit) -> bool:
    """Whether more features are not worth their time."""
    return fit.residual <= (ENOUGH if fit.spread is not None else ENOUGH_OF_SMOOTH)


def refined(pde: PDE, best: Fit, key: Array, deadline: float, affine: bool) -> Fit:
    """The best solution by more and more features of the kind of a trial, while there is time and they are of use."""
    if _is_enough(best):
        return best
    share, adapted = max(1, pde.out_size), pde.in_size > 1
    # More features resolve finer scales, so the next larger spread is tried with them too.
    for i, count in enumerate(FEATURES):
        own, more = _own(best)
        if count // share <= own:
            continue
        # A large trial says how long more features take, assembling them about as long as their factors.
        needed = 2 * best.factoring * ((count / share + more) / (own + more)) ** 3
        too_long = share * (own + more) > FEATURES[0] and time.perf_counter() + needed > deadline
        if too_long or _bytes(pde, count) > MEMORY:
            return best
        for spread in (best.spread, *next_larger(pde, best.spread)):
            began = time.perf_counter()
            before = best if spread is None else None
            shape = decay(best.found) if adapted and before is not None and best.found is not None else None
            full = _fit(pde, count // share, spread, affine, jax.random.fold_in(key, 100 + i), before, shape)
            stuck = spread is None and full.residual > best.residual / 2
            # Degrees that seemed of no use may be of use.
            resolved = full.residual <= PROMISING
            converged, adapted = stuck and resolved and not adapted, adapted and not stuck
            best = min(best, full, key=lambda t: t.residual)
            # Factors take time by the cube of the features, and compilation as long again.
            longer = (FEATURES[min(i + 1, len(FEATURES) - 1)] / count) ** 3 - 1
            expected = time.perf_counter() - began + longer * full.factoring
            if _is_enough(best) or converged or time.perf_counter() + expected > deadline:
                return best
    return best


def _bytes(pde: PDE, count: int) -> float:
    """About what the derivatives of so many features at the points of a fit take."""
    partials = closure(partials_of(pde, pde.groups[INTERIOR]))
    return 8.0 * len(partials) * point_number(pde, count) * count / max(1, pde.out_size)


def _own(fit: Fit) -> tuple[int, int]:
    """How many features each field has of those that were asked for, and beside them those of corners and holes."""
    every = fit.fields.network.output.shape[1]
    if fit.found is None:
        return every, 0
    return int(np.ceil(fit.found.kept.sum() / len(fit.found.kept))), every - len(fit.found.degrees)


def tried(pde: PDE, key: Array, budget: float, affine: bool, polynomials_only: bool = False) -> Fit:
    """The best of small trials of polynomials and of random features of several scales, as long as those improve."""
    deadline, trials = time.perf_counter() + budget, []
    count = TRIAL_FEATURES // max(1, pde.out_size)
    for i, spread in enumerate([None] if polynomials_only else kinds(pde)):
        own = jax.random.fold_in(key, i)
        if spread is None:
            trials += _with_declared_degrees(pde, count, affine, own)
            if trials and trials[-1].residual <= PROMISING:
                break
        trials.append(_fit(pde, count, spread, affine, own))
        if spread is None and pde.in_size == 1 and trials[-1].residual > SMOOTH:
            # Along one axis even those that resolve thin layers take little time.
            trials.append(_fit(pde, FEATURES[-1] // max(1, pde.out_size), None, affine, own))
        elif spread is None and SMOOTH < trials[-1].residual < PROMISING and is_uneven(trials[-1].found):
            trials.append(_fit(pde, count, spread, affine, own, trials[-1], decay(trials[-1].found)))
        if time.perf_counter() > deadline or (spread is None and trials[-1].residual <= SMOOTH) or _worsens(trials):
            break
    least = min(t.residual for t in trials)
    if affine and least > NOTHING and suits_polynomials(pde) and time.perf_counter() < deadline:
        more = FEATURES[0] // max(1, pde.out_size)
        trials.append(_fit(pde, more, None, affine, jax.random.fold_in(key, len(trials))))
    return min(trials, key=lambda t: t.residual / (PREFERENCE if t.spread is None else 1))


def _with_declared_degrees(pde: PDE, count: int, affine: bool, key: Array) -> list[Fit]:
    """A trial of the polynomials that what is declared asks for, where they are others than all up to a degree."""
    if len(pde.axes) >= MANY:
        return []
    declared = declared_degrees(pde, key)
    shape = None if declared is None else declared.shape(pde.out_size)
    if declared is None or shape is None or (shape.weights < 2).all():
        return []
    most = FEATURES[1] // max(1, pde.out_size) if affine else count
    return [_fit(pde, int(np.clip(declared.count(), count, most)), None, affine, key, shape=shape)]


def _worsens(trials: list[Fit]) -> bool:
    """Whether two larger scales in a row have left more than a smaller one: so will those that follow."""
    residuals = [t.residual for t in trials if t.spread is not None]
    return len(residuals) > 2 and min(residuals) < min(residuals[-2:]) and residuals[-1] > residuals[-2]


def kinds(pde: PDE) -> list[float | None]:
    """What to try: None for polynomials, and scales of random features."""
    return [*([None] if suits_polynomials(pde) else []), *_spreads(pde)]


def suits_polynomials(pde: PDE) -> bool:
    """Whether solutions may be smooth beyond the domain: it has no corners that point inwards, and no holes but discs
    that have features of their own. (And polynomials in the cosine and the sine of a periodic coordinate are not
    independent.)
    """
    return _is_plain(without_holes(pde.domain)[0]) and not pde.periodic_axes


def _is_plain(domain: Domain) -> bool:
    if isinstance(domain, Product):
        return _is_plain(domain.first) and _is_plain(domain.second)
    if isinstance(domain, Subdomains):
        return all(_is_plain(part) for part in domain.parts.values())
    return isinstance(domain, Box | Ball) or (isinstance(domain, Polygon) and domain.is_convex)


def _spreads(pde: PDE) -> tuple[float, ...]:
    return SPREADS if pde.in_size < MANY else SPREADS_OF_MANY


def next_larger(pde: PDE, spread: float | None) -> list[float]:
    """The next larger scale than this one, if there is one."""
    return [] if spread is None else [s for s in _spreads(pde) if s > spread][:1]


def described(count: int, spread: float | None) -> str:
    """So many features of a kind, in words."""
    return f"{count} polynomials" if spread is None else f"{count} random tanh features of spread {spread:g}"


def measured(pde: PDE, fields, key: Array, spread: float | None) -> Fit:
    """The fields with the residual that they leave at random points."""
    losses = _mean_squares(pde, fields, random_points(pde, key))
    return Fit(fields, _relative(pde, losses, key), spread, {n: float(v) for n, v in losses.items()})


def relative_residual(pde: PDE, fields, key: Array) -> float:
    """The root mean square residual of `fields` over that of a network that returns zero, at random points."""
    return _relative(pde, _mean_squares(pde, fields, random_points(pde, key)), key)


def _relative(pde: PDE, losses: dict[str, Array], key: Array) -> float:
    one = draw_features(pde, 1, 1.0, key)
    others = (_mean_squares(pde, pde.model(n), random_points(pde, key)) for n in (one, _filled(one, key)))
    return _relative_size(pde, losses, *others)


def _relative_size(pde: PDE, losses, of_zero, of_some) -> float:
    found, zero, some = (weighted_size(pde, m) for m in (losses, of_zero, of_some))
    # Where zero output is the solution up to rounding, its residual is no measure.
    return found / max(zero, ROUNDING * some, np.finfo(float).tiny)


def _fit(
    pde: PDE,
    count: int,
    spread: float | None,
    affine: bool,
    key: Array,
    before: Fit | None = None,
    shape: Decay | None = None,
) -> Fit:
    """By `count` features for each field; of polynomials beginning with fewer, of degrees of a `shape`."""
    drawn, fitted, checked = jax.random.split(key, 3)
    if spread is None:
        network, kept = _polynomials(pde, count, shape)
        start = _start(network, kept, before)
    else:
        network = with_singular(pde, draw_features(pde, count, spread, drawn))
        kept = np.ones(network.output.shape, bool)
        start = np.zeros(network.output.shape)
    number = point_number(pde, int(kept.sum()))
    points = sobol_points(pde, fitted, number, spread is None)
    tables = tabulate(pde, network, points, {})

    def whole(entries):
        output = np.zeros(kept.shape)
        output[kept] = entries
        return jnp.asarray(output)

    found = minimise(
        lambda entries: residual_rows(pde, tables, whole(entries)),
        lambda entries: np.asarray(jacobian_rows(pde, tables, whole(entries)))[:, kept.ravel()],
        start[kept],
        steps=1 if affine else MAX_STEPS,
        factor=Corrected if spread is None else Factored,
    )
    network = eqx.tree_at(lambda n: n.output, network, whole(found.point))
    # As many points as were fitted, where the tables of both are made by one program soon.
    few = sobol_points(pde, checked, min(number, CHECKED))
    fit = _checked(pde, network, few, spread)._replace(factoring=found.seconds)
    if isinstance(found.factored, Corrected):
        return fit._replace(found=_shares(network, kept, found.factored.lengths(interior_rows(pde, tables))))
    return fit


def _polynomials(pde: PDE, count: int, shape: Decay | None) -> tuple[RandomFeatures, np.ndarray]:
    """About `count` polynomials for each field and what else belongs to the domain, and what each output is made of."""
    outputs = pde.parts * len(pde.fields)
    if shape is None:
        degrees = total_degree(pde.in_size, count)
        kept = np.ones((outputs, len(degrees)), bool)
    else:
        degrees, kept = degree_sets(shape, count)
    network = with_singular(pde, _of_degrees(pde, degrees))
    more = network.output.shape[1] - kept.shape[1]
    return network, np.concatenate([kept, np.ones((outputs, more), bool)], axis=1)


def _start(network: RandomFeatures, kept: np.ndarray, before: Fit | None) -> np.ndarray:
    """The output of fewer polynomials, and zero for the others."""
    start = np.zeros(network.output.shape)
    if before is not None:
        old, new = ([tuple(d) for d in _degrees(n.hidden).tolist()] for n in (before.fields.network, network))
        place, output = {d: i for i, d in enumerate(new)}, np.asarray(before.fields.network.output)
        for column, d in zip(output.T, old):
            if d in place:
                start[:, place[d]] = column
        # Features of corners and holes, as many as before, come last.
        start[:, len(new) :] = output[:, len(old) :]
    return np.where(kept, start, 0.0)


def _shares(network: RandomFeatures, kept: np.ndarray, lengths: np.ndarray) -> Found:
    """What polynomials account for in the equations' residuals, by the lengths of the columns that were kept."""
    degrees = np.asarray(_degrees(network.hidden))
    shares = np.zeros(kept.shape)
    shares[kept] = lengths
    shares = np.abs(network.output) * shares
    return Found(degrees, kept[:, : len(degrees)], shares[:, : len(degrees)])


def _degrees(hidden: Any) -> Array:
    """Those of polynomials, the same in all parts."""
    if isinstance(hidden, JoinedFeatures):
        return _degrees(hidden.parts[0])
    return hidden.hidden.degrees[0] if isinstance(hidden, PartFeatures) else hidden.degrees


def _checked(pde: PDE, network: RandomFeatures, points: Groups, spread: float | None) -> Fit:
    """As `measured`, by tables, which take less time to compile."""
    tables = tabulate(pde, network, points, {})
    zero, some = jnp.zeros_like(network.output), jnp.zeros_like(network.output).at[:, 0].set(1.0)
    losses, *others = (mean_square_rows(pde, tables, output) for output in (network.output, zero, some))
    residual = _relative_size(pde, losses, *others)
    return Fit(pde.model(network), residual, spread, {n: float(v) for n, v in losses.items()})


def draw_features(pde: PDE, count: int, spread: float | None, key: Array) -> RandomFeatures:
    """About `count` features for each part of the domain: polynomials without a spread."""
    if spread is None:
        return _of_degrees(pde, total_degree(pde.in_size, count))
    if pde.parts == 1:
        return random_features(pde.in_size, pde.out_size, count, spread, key=key)

    @eqx.filter_jit
    def own(keys, spread):
        return eqx.filter_vmap(lambda k: random_features(pde.in_size, pde.out_size, count, spread, key=k).hidden)(keys)

    return _in_parts(pde, own(jax.random.split(key, pde.parts), jnp.asarray(spread)))


def _of_degrees(pde: PDE, degrees: np.ndarray) -> RandomFeatures:
    network = polynomial_features(degrees, pde.out_size)
    if pde.parts == 1:
        return network
    return _in_parts(pde, jax.tree.map(lambda a: jnp.broadcast_to(a, (pde.parts, *a.shape)), network.hidden))


def _in_parts(pde: PDE, hidden) -> RandomFeatures:
    """Features of their own in each part of the domain."""
    low, high = part_ranges(pde)
    count = jax.tree.leaves(hidden)[0].shape[1]
    return RandomFeatures(PartFeatures(hidden, low, high, len(pde.fields)), jnp.zeros((pde.out_size, count)))


def point_number(pde: PDE, entries: int) -> int:
    """How many points determine so many entries of the output layer: twice as many where half are around holes."""
    each = POINTS_PER_FEATURE * (2 if without_holes(pde.domain)[1] else 1)
    return max(LEAST_POINTS, each * entries // len(pde.equations))


def with_singular(pde: PDE, network: RandomFeatures) -> RandomFeatures:
    """The features and those of the corners and holes of the domain."""
    found = [f for f in (corner_features(pde), hole_features(pde)) if f is not None]
    if not found:
        return network
    joined = JoinedFeatures((network.hidden, *found))
    count = jax.eval_shape(joined, jax.ShapeDtypeStruct((pde.in_size,), network.output.dtype)).shape[0]
    more = jnp.zeros((len(network.output), count - network.output.shape[1]))
    return RandomFeatures(joined, jnp.concatenate([network.output, more], axis=1))


# Compiled once for all scales of the features.


@eqx.filter_jit
def sobol_points(pde: PDE, key: Array, n: int, towards_boundary: bool = False) -> Groups:
    """Evenly drawn points of all groups, `n` in the interior, where they may crowd towards the boundary."""
    counts = pde.point_counts(n)
    points = {g.label: pde.draw(g, counts[g.label], key, even=True) for g in pde.trained_groups}
    if towards_boundary:
        regions = {g.label: g.region for g in pde.trained_groups if not isinstance(g.region, Observations)}
        points |= {n: crowded_on(r, pde.domain, points[n], pde.periodic_axes) for n, r in regions.items()}
    return Groups(points)


@eqx.filter_jit
def random_points(pde: PDE, key: Array) -> Groups:
    """Random points of all groups, as many for any features."""
    return pde.points(2048, 512)(key)


@eqx.filter_jit
def _mean_squares(pde: PDE, fields, batch: Groups) -> dict[str, Array]:
    return mean_squares(pde.residuals(fields, batch))


def _filled(network: RandomFeatures, key: Array) -> RandomFeatures:
    return eqx.tree_at(lambda n: n.output, network, jax.random.normal(key, network.output.shape))
