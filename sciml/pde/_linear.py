"""A PDE on its whole domain by random features, whose output layer is found by least squares.

Equations and conditions that are affine in the fields make every residual affine in the output layer, so the best one
is a linear least-squares problem (Dong & Li, CMAME 387, 2021); for others it is the limit of a few. The scale of the
features is the one that leaves the smallest residual at points that were not fitted.
"""

import time
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._loss import Groups, mean_squares
from ..nn import JoinedFeatures, PartFeatures, RandomFeatures, random_features
from ._constraint import ConstrainedFields, part_ranges
from ._corners import corner_features
from ._newton import MAX_STEPS, minimise
from ._pde import PDE
from ._rows import jacobian_rows, mean_square_rows, residual_rows, tabulate, weighted_size

SPREADS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 10.0)
# Of four inputs or more: the argument of a feature adds up over them.
SPREADS_OF_MANY = (0.25, 0.15, 0.5, 1.0, 2.0)
MANY = 4
TRIAL_FEATURES = 500
FEATURES = (1500, 3000, 5000)
POINTS_PER_FEATURE = 3
# Residuals smaller than this share of those of a feature are rounding errors.
ROUNDING = 1e-9
# More features than before are not worth their time below this share of the residual.
ENOUGH = 1e-7


class Fit(NamedTuple):
    """The fields found, the root mean square residual left relative to that of zero output, the features' scale, mean
    squares by residual, and the seconds that matrices were factored.
    """

    fields: ConstrainedFields
    residual: float
    spread: float
    losses: dict[str, float]
    factoring: float = 0.0


def is_affine(pde: PDE, key: Array) -> bool:
    """Whether all residuals are affine in the fields: checked on a mixture of random networks at random points."""
    return all(bool(gap <= 1e-8 * size) for gap, size in _affine_gaps(pde, key).values())


@eqx.filter_jit
def _affine_gaps(pde: PDE, key: Array) -> dict[str, tuple[Array, Array]]:
    """By residual, how far that of a mixture is from the mixture of the residuals, and how large they are."""
    one, two = (_filled(_drawn(pde, 20, 2.0, k), k) for k in jax.random.split(key))
    batch = pde.points(8, 8)(key)
    first, second, mixed = (
        pde.residuals(pde.model(n), batch) for n in (one, two, lambda x: 0.3 * one(x) + 0.7 * two(x))
    )

    def gap(name):
        difference = jnp.max(jnp.abs(mixed[name] - 0.3 * first[name] - 0.7 * second[name]))
        return difference, jnp.max(jnp.abs(first[name]) + jnp.abs(second[name]))

    return {name: gap(name) for name in mixed}


def solve_whole(pde: PDE, key: Array, budget: float, affine: bool) -> Fit:
    """The best random-feature solution on the whole domain, by one step of least squares if the problem is affine."""
    start = time.perf_counter()
    share = max(1, pde.out_size)
    trials = []
    spreads = SPREADS if pde.in_size < MANY else SPREADS_OF_MANY
    for i, spread in enumerate(spreads):
        trials.append(_fit(pde, TRIAL_FEATURES // share, spread, affine, jax.random.fold_in(key, i)))
        if time.perf_counter() - start > budget / 3:
            break
    best = min(trials, key=lambda t: t.residual)
    # More features resolve finer scales, so the next larger spread is tried with them too.
    for i, count in enumerate(FEATURES):
        for spread in (best.spread, *[s for s in spreads if s > best.spread][:1]):
            began = time.perf_counter()
            full = _fit(pde, count // share, spread, affine, jax.random.fold_in(key, len(spreads) + i))
            best = min(best, full, key=lambda t: t.residual)
            # Factors take time by the cube of the features, and compilation as long again.
            longer = (FEATURES[min(i + 1, len(FEATURES) - 1)] / count) ** 3 - 1
            expected = time.perf_counter() - began + longer * full.factoring
            if best.residual <= ENOUGH or time.perf_counter() - start + expected > budget:
                return best
    return best


def measured(pde: PDE, fields, key: Array, spread: float) -> Fit:
    """The fields with the residual that they leave at random points."""
    losses = _mean_squares(pde, fields, random_points(pde, key))
    return Fit(fields, _relative(pde, losses, key), spread, {n: float(v) for n, v in losses.items()})


def relative_residual(pde: PDE, fields, key: Array) -> float:
    """The root mean square residual of `fields` over that of a network that returns zero, at random points."""
    return _relative(pde, _mean_squares(pde, fields, random_points(pde, key)), key)


def _relative(pde: PDE, losses: dict[str, Array], key: Array) -> float:
    one = _drawn(pde, 1, 1.0, key)
    others = (_mean_squares(pde, pde.model(n), random_points(pde, key)) for n in (one, _filled(one, key)))
    return _relative_size(pde, losses, *others)


def _relative_size(pde: PDE, losses, of_zero, of_some) -> float:
    found, zero, some = (weighted_size(pde, m) for m in (losses, of_zero, of_some))
    # Where zero output is the solution up to rounding, its residual is no measure.
    return found / max(zero, ROUNDING * some, np.finfo(float).tiny)


def _fit(pde: PDE, count: int, spread: float, affine: bool, key: Array) -> Fit:
    drawn, fitted, checked = jax.random.split(key, 3)
    network = _with_corners(pde, _drawn(pde, count, spread, drawn))
    points = sobol_points(pde, fitted, POINTS_PER_FEATURE * network.output.size // len(pde.equations))
    tables, shape = tabulate(pde, network, points, {}), network.output.shape

    found = minimise(
        lambda output: residual_rows(pde, tables, output.reshape(shape)),
        lambda output: jacobian_rows(pde, tables, output.reshape(shape)),
        np.zeros(network.output.size),
        steps=1 if affine else MAX_STEPS,
    )
    network = eqx.tree_at(lambda n: n.output, network, jnp.asarray(found.point.reshape(shape)))
    return _checked(pde, network, checked, spread)._replace(factoring=found.seconds)


def _checked(pde: PDE, network: RandomFeatures, key: Array, spread: float) -> Fit:
    """As `measured`, by tables, which take less time to compile."""
    tables = tabulate(pde, network, random_points(pde, key), {})
    zero, some = jnp.zeros_like(network.output), jnp.zeros_like(network.output).at[:, 0].set(1.0)
    losses, *others = (mean_square_rows(pde, tables, output) for output in (network.output, zero, some))
    residual = _relative_size(pde, losses, *others)
    return Fit(pde.model(network), residual, spread, {n: float(v) for n, v in losses.items()})


def _drawn(pde: PDE, count: int, spread: float, key: Array) -> RandomFeatures:
    """`count` features for each part of the domain."""
    if pde.parts == 1:
        return random_features(pde.in_size, pde.out_size, count, spread, key=key)
    fields = len(pde.fields)

    @eqx.filter_jit
    def own(keys, spread):
        return eqx.filter_vmap(lambda k: random_features(pde.in_size, fields, count, spread, key=k).hidden)(keys)

    low, high = part_ranges(pde)
    hidden = PartFeatures(own(jax.random.split(key, pde.parts), jnp.asarray(spread)), low, high, fields)
    return RandomFeatures(hidden, jnp.zeros((pde.out_size, count)))


def _with_corners(pde: PDE, network: RandomFeatures) -> RandomFeatures:
    """The features and those of the corners of the domain."""
    corners = corner_features(pde)
    if corners is None:
        return network
    size, fields = 4 * corners.exponent.size, network.output.shape[0]
    output = jnp.concatenate([network.output, jnp.zeros((fields, size))], axis=1)
    return RandomFeatures(JoinedFeatures((network.hidden, corners)), output)


# Compiled once for all scales of the features.


@eqx.filter_jit
def sobol_points(pde: PDE, key: Array, n: int) -> Groups:
    """Evenly drawn points of all groups, `n` in the interior."""
    counts = pde.point_counts(n)
    return Groups({g.label: pde.draw(g, counts[g.label], key, even=True) for g in pde.trained_groups})


@eqx.filter_jit
def random_points(pde: PDE, key: Array) -> Groups:
    """Random points of all groups, as many for any features."""
    return pde.points(2048, 512)(key)


@eqx.filter_jit
def _mean_squares(pde: PDE, fields, batch: Groups) -> dict[str, Array]:
    return mean_squares(pde.residuals(fields, batch))


def _filled(network: RandomFeatures, key: Array) -> RandomFeatures:
    return eqx.tree_at(lambda n: n.output, network, jax.random.normal(key, network.output.shape))
