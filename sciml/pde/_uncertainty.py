"""Standard errors of parameters and fields that were found from data.

The residuals are linearised in all trained numbers: J stacks their derivatives at the data, in units of the noise, over
those of equations and conditions, which count so much that they hold nearly exactly. The covariance of the numbers is
(J^T J)^-1 (Seber & Wild, Nonlinear Regression, 1989, section 2.1), computed from the QR factors of J, and that of a
parameter or a value of a field follows from its gradient.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from ..nn import Ensemble, PriorFeatures, RandomFeatures
from ..optim._newton import Equilibrated
from ._inverse import FREE, STAGES, Layout, layout, level, observed, row_weights, unit_strength
from ._linear import sobol_points
from ._pde import PDE
from ._rows import row_weight

# Points of the interior for each trained number, and at most.
POINTS_PER_NUMBER, MAX_POINTS = 3, 6000
# More numbers than these would need matrices of gigabytes.
MAX_NUMBERS = 6000
# Points at which derivatives are computed at once.
CHUNK = 256
# Data that determine more parameters than this share of their number say nothing of their noise.
DETERMINED = 0.9


class Linearised(NamedTuple):
    """The model around which residuals were linearised, the numbers that were trained, and the factors of J."""

    model: Any
    kept: np.ndarray
    factored: Equilibrated
    noise: dict[str, float]

    def variances(self, gradients: Float[np.ndarray, "n numbers"]) -> Float[np.ndarray, " n"]:
        """Those of quantities with these gradients by all trained numbers."""
        return self.factored.variances(gradients[:, self.kept])


def linearised(pde: PDE, model: Any) -> Linearised:
    """The problem around a solution. Raises ValueError without observations, with too few of them, for networks of
    more than 6,000 numbers and for ensembles.
    """
    if isinstance(model, Ensemble):
        raise ValueError("standard errors are those of one network; of an ensemble, `solution.spread` is computed")
    if not observed(pde):
        raise ValueError("standard errors come from the noise of data: the problem has no observe(...)")
    model = jax.tree.map(lambda a: a.astype(float) if eqx.is_inexact_array(a) else a, model)
    vector, _ = ravel_pytree(eqx.filter(model, _is_trained(model)))
    if vector.size > MAX_NUMBERS:
        raise ValueError(
            f"standard errors need matrices of {vector.size:,} columns, one for each trained number; at most "
            f"{MAX_NUMBERS:,} are supported: solve with a smaller network"
        )
    number = min(MAX_POINTS, max(1000, POINTS_PER_NUMBER * vector.size // len(pde.equations)))
    points = sobol_points(pde, jax.random.key(1), number)
    rows = layout(pde, {n: len(p["points"] if isinstance(p, dict) else p) for n, p in points.items()})
    parts = [_group_rows(pde, model, label, p) for label, p in points.items()]
    values = np.concatenate([np.asarray(v).ravel() for v, _ in parts])
    columns = np.concatenate([np.asarray(c).reshape(-1, vector.size) for _, c in parts])
    prior = _prior(model)
    kept = np.flatnonzero((columns != 0).any(axis=0))
    factored, noise = _weighed(rows, values, columns[:, kept], prior[:, kept], len(pde.unknowns))
    return Linearised(model, kept, factored, noise)


def parameter_errors(pde: PDE, at: Linearised) -> dict[str, float]:
    """The standard error of each unknown parameter, in its own unit."""

    def numbers(model):
        return jnp.stack([model.unknown[n]() for n in pde.unknowns])

    if not pde.unknowns:
        return {}
    _, gradients = _value_and_gradients(numbers, at.model)
    return dict(zip(pde.unknowns, np.sqrt(at.variances(np.asarray(gradients))).tolist()))


def field_errors(at: Linearised, points: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n fields"]:
    """The standard errors of all fields at points."""
    found = []
    for i in range(0, len(points), CHUNK):
        gradients = np.asarray(_field_gradients(at.model, jnp.asarray(points[i : i + CHUNK])))
        found.append(np.sqrt(at.variances(gradients.reshape(-1, gradients.shape[-1]))).reshape(gradients.shape[:2]))
    return np.concatenate(found)


def _weighed(rows: Layout, values, columns, prior, parameters: int) -> tuple[Equilibrated, dict[str, float]]:
    """The factors of J, and the noise of each observed term, which follows from what the data miss."""
    misfits = {d.name: float(np.sqrt(np.mean((values[d.rows] * d.scale) ** 2))) for d in rows.data}
    smallest = np.finfo(float).eps
    noise = {d.name: max(misfits[d.name], smallest * d.deviation) for d in rows.data}
    equations = row_weights(rows, dict.fromkeys(noise, np.inf), 1.0) * values
    freedom, levels = max(1.0, float(parameters)), level(rows, columns)
    for _ in range(2):
        unit = unit_strength(levels, noise)
        # As much as they can count without a misfit of their own that the parameters would feel.
        most = np.sqrt(FREE * freedom) / max(unit * float(np.linalg.norm(equations)), smallest)
        stage = float(np.clip(most, STAGES[0], STAGES[-1]))
        weights = row_weights(rows, noise, stage * unit)
        factored = Equilibrated(np.concatenate([weights[:, None] * columns, prior]))
        data = {d.name: columns[d.rows] * d.scale / noise[d.name] for d in rows.data}
        shares = {name: float(np.mean(factored.variances(block))) for name, block in data.items()}
        if max(shares.values()) > DETERMINED:
            raise ValueError(
                "the data determine about as many parameters as there are observations, so their noise cannot be told "
                "from them; more observations are needed"
            )
        noise = {d.name: max(misfits[d.name], smallest * d.deviation) / np.sqrt(1 - shares[d.name]) for d in rows.data}
        freedom = max(1.0, sum(shares[d.name] * d.count for d in rows.data))
    return factored, noise


def _is_trained(model) -> Any:
    """Which numbers of the fields are trained: of random features the output and the parameters, otherwise all."""
    everything = jax.tree.map(eqx.is_inexact_array, model)
    if not isinstance(model.network, RandomFeatures | PriorFeatures):
        return everything
    nothing = jax.tree.map(lambda _: False, model.network)
    return eqx.tree_at(lambda m: m.network, everything, eqx.tree_at(lambda n: n.output, nothing, True))


def _prior(model) -> Float[np.ndarray, "rows numbers"]:
    """The rows of J that come from beliefs: of outputs that are standard normal before anything is known."""
    trained = eqx.filter(model, _is_trained(model))
    believed = jax.tree.map(jnp.zeros_like, trained)
    if isinstance(model.network, PriorFeatures):
        rows = jnp.zeros_like(model.network.output).at[jnp.asarray(model.network.believed)].set(1.0)
        believed = eqx.tree_at(lambda b: b.network.output, believed, rows * (model.network.scale > 0))
    mask = np.asarray(ravel_pytree(believed)[0])
    return np.eye(mask.size)[mask > 0]


@eqx.filter_jit
def _group_rows(pde: PDE, model, label: str, points) -> tuple[Array, Array]:
    """The weighted residuals of a group, `(n, terms)`, and their derivatives by the trained numbers."""
    group = pde.groups[label]
    count = len(jax.tree.leaves(points)[0])

    def at(point):
        one = jax.tree.map(lambda p: p[None], point)

        def residuals(model):
            found = pde.group_residuals(group, model, one)
            return row_weight(label, count) * jnp.stack([r[0] for r in found.values()])

        return _value_and_gradients(residuals, model)

    return jax.lax.map(at, points, batch_size=CHUNK)


@eqx.filter_jit
def _field_gradients(model, points) -> Float[Array, "n fields numbers"]:
    return jax.vmap(lambda p: _value_and_gradients(lambda m: m(p), model)[1])(points)


def _value_and_gradients(function, model) -> tuple[Array, Array]:
    """`function(model)`, a vector, and its derivatives by the trained numbers, `(values, numbers)`."""
    trained, fixed = eqx.partition(model, _is_trained(model))
    vector, restore = ravel_pytree(trained)

    def of_vector(v):
        return function(eqx.combine(restore(v), fixed))

    return of_vector(vector), jax.jacrev(of_vector)(vector)
