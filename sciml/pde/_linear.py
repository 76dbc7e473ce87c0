"""Problems that are affine in their fields, solved for the output layer of random features by least squares.

Equations and conditions that are affine in the fields make every residual affine in the output layer, so the best one
is a linear least-squares problem (Dong & Li, CMAME 387, 2021). The scale of the features is the one that leaves the
smallest residual at points that were not fitted.
"""

import time
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._loss import Groups, mean_squares
from ..nn import RandomFeatures, random_features
from ._condition import Observations
from ._constraint import ConstrainedFields
from ._pde import INTERIOR, PDE

SPREADS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 10.0)
TRIAL_FEATURES = 500
FEATURES = (1500, 3000)
POINTS_PER_FEATURE = 3
# Residuals of conditions count this much more than those of equations, whose derivatives make them larger.
CONDITION_WEIGHT = 100.0
# Relative to the longest column of the matrix.
DAMPING = 1e-14
# More features than before are not worth their time below this share of the residual, ...
ENOUGH = 1e-7
# ... and above this one training may do better.
ACCEPTED = 1e-3


class LinearFit(NamedTuple):
    """The fields found, the root mean square residual left relative to that of zero output, and the features' scale."""

    fields: ConstrainedFields
    residual: float
    spread: float
    losses: dict[str, float]


def is_affine(pde: PDE, key: Array) -> bool:
    """Whether all residuals are affine in the fields: checked on a mixture of random networks at random points."""
    if pde.unknowns or any(isinstance(g.region, Observations) for g in pde.trained_groups):
        return False
    return all(bool(gap <= 1e-8 * size) for gap, size in _affine_gaps(pde, key).values())


@eqx.filter_jit
def _affine_gaps(pde: PDE, key: Array) -> dict[str, tuple[Array, Array]]:
    """By residual, how far that of a mixture is from the mixture of the residuals, and how large they are."""
    one, two = (_filled(random_features(pde.in_size, pde.out_size, 20, 2.0, key=k), k) for k in jax.random.split(key))
    batch = pde.points(8, 8)(key)
    first, second, mixed = (
        pde.residuals(pde.model(n), batch) for n in (one, two, lambda x: 0.3 * one(x) + 0.7 * two(x))
    )

    def gap(name):
        difference = jnp.max(jnp.abs(mixed[name] - 0.3 * first[name] - 0.7 * second[name]))
        return difference, jnp.max(jnp.abs(first[name]) + jnp.abs(second[name]))

    return {name: gap(name) for name in mixed}


def solve_affine(pde: PDE, key: Array, budget: float) -> LinearFit:
    """The best random-feature solution of an affine problem."""
    start = time.perf_counter()
    share = max(1, pde.out_size)
    trials = []
    for i, spread in enumerate(SPREADS):
        trials.append(_fit(pde, TRIAL_FEATURES // share, spread, jax.random.fold_in(key, i)))
        if time.perf_counter() - start > budget / 3:
            break
    best = min(trials, key=lambda t: t.residual)
    # More features resolve finer scales, so the next larger spread is tried with them too.
    for i, count in enumerate(FEATURES):
        for spread in (best.spread, *[s for s in SPREADS if s > best.spread][:1]):
            began = time.perf_counter()
            full = _fit(pde, count // share, spread, jax.random.fold_in(key, len(SPREADS) + i))
            best = min(best, full, key=lambda t: t.residual)
            took = time.perf_counter() - began
            # Twice the features take up to eight times as long.
            if best.residual <= ENOUGH or time.perf_counter() - start + 8 * took > budget:
                return best
    return best


def relative_residual(pde: PDE, fields, key: Array) -> float:
    """The root mean square residual of `fields` over that of a network that returns zero, at random points."""
    return _relative(pde, _mean_squares(pde, fields, _random_points(pde, key)), key)


def _relative(pde: PDE, losses: dict[str, Array], key: Array) -> float:
    nothing = pde.model(random_features(pde.in_size, pde.out_size, 1, 1.0, key=key))
    zero = _weighted_size(pde, _mean_squares(pde, nothing, _random_points(pde, key)))
    return _weighted_size(pde, losses) / (zero if zero > 0 else 1.0)


def _fit(pde: PDE, count: int, spread: float, key: Array) -> LinearFit:
    drawn, fitted, checked = jax.random.split(key, 3)
    network = random_features(pde.in_size, pde.out_size, count, spread, key=drawn)
    size = network.output.size
    points = _sobol_points(pde, fitted, POINTS_PER_FEATURE * size)
    rows = {label: _scaled(label, *part, size) for label, part in _linear_parts(pde, network, points).items()}
    matrix = np.concatenate([m for m, _ in rows.values()])
    right = np.concatenate([r for _, r in rows.values()])
    output = _least_squares(matrix, right)
    found = eqx.tree_at(lambda n: n.output, network, jnp.asarray(output.reshape(network.output.shape)))
    fields = pde.model(found)
    losses = _mean_squares(pde, fields, _random_points(pde, checked))
    residual = _relative(pde, losses, checked)
    return LinearFit(fields, residual, spread, {n: float(v) for n, v in losses.items()})


def _least_squares(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    """min |matrix x - right|^2 + damping^2 |x|^2 by QR of the extended matrix.

    The damping is at the level of rounding. It is three times faster than a rank-revealing factorisation and leaves the
    same residual.
    """
    import scipy.linalg.lapack

    lapack: Any = scipy.linalg.lapack

    size = matrix.shape[1]
    damping = DAMPING * np.sqrt((matrix**2).sum(axis=0).max())
    extended = np.zeros((len(matrix) + size, size), order="F")
    extended[: len(matrix)] = matrix
    extended[len(matrix) :][np.diag_indices(size)] = damping
    target = np.concatenate([right, np.zeros(size)])
    work, _ = lapack.dgels_lwork(*extended.shape, 1)
    _, solution, info = lapack.dgels(extended, target, lwork=int(work), overwrite_a=True)
    if info != 0:
        raise FloatingPointError(f"the least-squares system of {size} features could not be solved (LAPACK {info})")
    return solution[:size]


def _scaled(label: str, residuals, jacobian, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows of a group, weighted, and minus its residuals."""
    scale = (1.0 if label == INTERIOR else CONDITION_WEIGHT) / np.sqrt(len(residuals))
    return scale * np.asarray(jacobian).reshape(-1, size), -scale * np.asarray(residuals).ravel()


# Compiled once for all scales of the features.


@eqx.filter_jit
def _sobol_points(pde: PDE, key: Array, n: int) -> Groups:
    counts = pde.point_counts(n)
    return Groups({g.label: pde.draw(g, counts[g.label], key, even=True) for g in pde.trained_groups})


@eqx.filter_jit
def _random_points(pde: PDE, key: Array) -> Groups:
    return pde.points(2048, 512)(key)


@eqx.filter_jit
def _mean_squares(pde: PDE, fields, batch: Groups) -> dict[str, Array]:
    return mean_squares(pde.residuals(fields, batch))


@eqx.filter_jit
def _linear_parts(pde: PDE, network: RandomFeatures, batch: Groups) -> dict[str, tuple[Array, Array]]:
    """By group, the residuals of zero output at each point and their derivatives by the output layer."""

    def at_point(label, point):
        def residual(output):
            fields = pde.model(eqx.tree_at(lambda n: n.output, network, output))
            terms = pde.residuals(fields, Groups({label: point[None]}))
            return jnp.concatenate([jnp.ravel(r) for r in terms.values()])

        return residual(network.output), jax.jacrev(residual)(network.output)

    return {label: jax.vmap(lambda p, at=label: at_point(at, p))(points) for label, points in batch.items()}


def _weighted_size(pde: PDE, losses: dict[str, Array]) -> float:
    equations = {t.name for t in pde.groups[INTERIOR].terms}
    weights = {n: 1.0 if n in equations else CONDITION_WEIGHT**2 for n in losses}
    return float(np.sqrt(sum(weights[n] * float(v) for n, v in losses.items())))


def _filled(network: RandomFeatures, key: Array) -> RandomFeatures:
    return eqx.tree_at(lambda n: n.output, network, jax.random.normal(key, network.output.shape))
