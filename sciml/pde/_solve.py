"""From a PDE to a solution in one call."""

import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from .._fit import fit
from .._precision import double_precision
from ..nn import mlp
from ..optim import self_scaled_broyden
from ._pde import PDE
from ._points import adaptive
from ._solution import Solution

# Above this many parameters a dense inverse Hessian costs more than it saves.
MAX_DENSE = 5000


def solve(
    pde: PDE,
    model: Callable | None = None,
    *,
    optimiser: optax.GradientTransformation | None = None,
    points: Any = None,
    budget: float | None = 60.0,
    steps: int | None = None,
    key: Array | None = None,
    double: bool = True,
    **fit_arguments: Any,
) -> Solution:
    """Trains a network to solve `pde`. All that is not given is chosen from the problem:

    - `model`, the network `(pde.in_size,) -> (pde.out_size,)`: tanh, three hidden layers of 20 units (30 for three
      axes or more, or several fields). Inputs are scaled, and exact conditions applied, by `pde.model`.
    - `points`, a stream or a number of interior points: `adaptive(pde)`, half of them drawn by residual.
    - `optimiser`: self-scaled Broyden, or L-BFGS above 5,000 parameters.
    - `budget` in seconds of wall time, compilation included; or `steps` (then `budget=None` lifts the time limit).
      A budget in seconds gives results that depend on the machine; `steps` with a `key` gives the same bits.
    - `double`: work in double precision, within this call only. JAX's global setting is not touched; the arrays
      of the solution are float64, and its methods compute in float64.

    Further keywords (`checkpoint`, `report`, `every`, ...) go to `fit`. Interrupting (Ctrl-C) returns the solution
    as it stands. Raises TypeError where the network does not fit the problem.
    """
    start = time.perf_counter()
    if not isinstance(pde, PDE):
        raise TypeError(f"solve: expected a PDE, got {type(pde).__name__}")
    key = jax.random.key(0) if key is None else key
    with double_precision(double):
        network = default_network(pde, jax.random.fold_in(key, 1)) if model is None else _cast(model)
        fields = pde.model(network)
        stream = adaptive(pde) if points is None else points
        stream = adaptive(pde, n=stream) if isinstance(stream, int) else stream
        chosen_optimiser = default_optimiser(fields) if optimiser is None else optimiser
        if budget is not None:
            budget = max(0.1, budget - (time.perf_counter() - start))
        fields, history = fit(
            fields, pde.residuals, stream, chosen_optimiser, steps=steps, seconds=budget, key=key, **fit_arguments
        )
    choice = {
        "network": _describe(network),
        "parameters": _count(fields),
        "points": "given" if points is not None and not isinstance(points, int) else _describe_points(stream),
        "optimiser": "given" if optimiser is not None else _optimiser_name(fields),
        "precision": "float64" if double else "default",
        "exact": [f"{', '.join(v.targets)} on {v.on.label}" for v in pde.exact],
        "penalty": [g.label for g in pde.trained_groups if g.source is not None],
        "periodic": list(pde.periodic_axes),
    }
    return Solution(pde, fields, history, choice, time.perf_counter() - start)


def default_network(pde: PDE, key: Array) -> eqx.nn.MLP:
    """The network that `solve` takes if none is given."""
    width = 20 if pde.in_size <= 2 and pde.out_size == 1 else 30
    return mlp(pde.in_size, pde.out_size, width, 3, key=key)


def default_optimiser(fields) -> optax.GradientTransformation:
    """The optimiser that `solve` takes if none is given."""
    return self_scaled_broyden() if _count(fields) <= MAX_DENSE else optax.lbfgs(memory_size=50)


def _optimiser_name(fields) -> str:
    return "self-scaled Broyden" if _count(fields) <= MAX_DENSE else "L-BFGS"


def _count(fields) -> int:
    return sum(a.size for a in jax.tree.leaves(eqx.filter(fields, eqx.is_inexact_array)))


def _cast(model):
    """The floating-point arrays of a model in the precision of the solve."""
    dtype = jnp.result_type(float)

    def cast(leaf):
        real = eqx.is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating)
        return jnp.asarray(leaf, dtype) if real else leaf

    return jax.tree.map(cast, model)


def _describe(network) -> str:
    if isinstance(network, eqx.nn.MLP):
        return f"MLP {network.in_size}-{'-'.join([str(network.width_size)] * network.depth)}-{network.out_size}"
    return type(network).__name__


def _describe_points(stream) -> str:
    return f"{stream.n} in the interior, half by residual, redrawn every {stream.every} steps"
