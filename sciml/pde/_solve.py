"""From a PDE to a solution in one call."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from .._fit import fit
from .._loss import by_member, weighted
from .._precision import double_precision
from .._progress import busy
from ..nn import Ensemble, PartNetworks, WindowedWaves, mlp
from ..optim import by_member as optimiser_by_member
from ..optim import self_scaled_broyden
from ._condition import Observations
from ._constraint import part_ranges
from ._direct import Direct, solve_directly
from ._inverse import is_inverse
from ._linear import relative_residual
from ._pde import PDE
from ._points import AdaptivePoints, adaptive
from ._polish import polish
from ._scales import ScaledOutput, nondimensional, scaled_residuals
from ._solution import Solution

# Above this many parameters a dense inverse Hessian costs more than it saves.
MAX_DENSE = 5000
# Training may do better than least squares that leave more than this share of the residual.
ACCEPTED = 1e-3
# With fewer seconds left no network is trained: compilation alone takes as long.
TRAINING_SECONDS = 5.0
# What it takes to polish an output layer, most of it compilation.
POLISH_SECONDS = 5.0
# The weight of conditions that are penalties, whose residuals lack the derivatives that make those of equations large.
PENALTY = 100.0


def solve(
    pde: PDE,
    model: Callable | None = None,
    *,
    loss: Callable | None = None,
    points: Any = None,
    optimiser: optax.GradientTransformation | None = None,
    budget: float | None = 60.0,
    steps: int | None = None,
    key: Array | None = None,
    double: bool = True,
    report: Callable | bool | None = True,
    **fit_arguments: Any,
) -> Solution:
    """Solves `pde` by a network.

    If nothing but the budget is given, the output layer of polynomials or random features is found by least squares, on
    the whole domain for problems that are affine in the fields or have no time, and in windows of time for evolutions
    if the budget is 30 s or more; together with unknown parameters where there are observations. Evolutions where all
    axes of space are periodic, or have walls about which fields are even or odd, are Fourier series in windows of time.
    The result is taken if it leaves less than 1e-3 of
    the residual (with observations: less than their noise hides) at points that were not fitted, or no time is left.
    Otherwise a network is trained, and the better of the two returned. All that is not given is chosen:

    - `model`, the network `(pde.in_size,) -> (pde.out_size,)`: tanh, three hidden layers of 20 units (30 for three
      axes or more, or several fields). Inputs are scaled, and exact conditions applied, by `pde.model`.
      Its outputs are in the units of declared values that are far from 1 (`nondimensional`). Each member of a
      `sciml.nn.ensemble` is trained as if alone, at points in common: it has conditions, unknown parameters and an
      optimiser of its own, and `loss` and `optimiser` are those of a member.
    - `loss`: `pde.residuals`, where conditions that are penalties count a hundredfold; relative to its terms at the
      start if outputs have such units (`scaled_residuals`).
    - `points`, a stream or a number of interior points: `adaptive(pde)`, half of them drawn by residual.
    - `optimiser`: self-scaled Broyden, or L-BFGS above 5,000 parameters. After another one that is given, `polish`
      finds the output layer of the chosen network anew, if loss and network are the chosen ones, nothing is to be found
      from data and the budget is 20 s or more; the chosen optimisers leave it nothing to gain.
    - `budget` in seconds of wall time, compilation included; or `steps` (then `budget=None` lifts the time limit).
      A budget in seconds gives results that depend on the machine; `steps` with a `key` gives the same bits.
    - `double`: work in double precision, within this call only. JAX's global setting is not touched; the arrays
      of the solution are float64, and its methods compute in float64.

    Further keywords (`checkpoint`, `every`, ...) go to `fit`. Interrupting (Ctrl-C) returns the solution
    as it stands. Raises TypeError where the network does not fit the problem, ValueError without budget and steps.
    """
    start = time.perf_counter()
    if not isinstance(pde, PDE):
        raise TypeError(f"solve: expected a PDE, got {type(pde).__name__}")
    if budget is None and steps is None:
        raise ValueError("solve: without a budget in seconds the number of steps must be given")
    key = jax.random.key(0) if key is None else key
    direct = None
    with double_precision(double):
        free = all(given is None for given in (model, loss, points, optimiser, steps)) and not fit_arguments
        if double and budget is not None and free:
            with busy("least squares", bool(report)):
                found = solve_directly(pde, key, budget)
            if found is not None:
                direct = _direct_solution(pde, found, time.perf_counter() - start)
                late = budget - direct.seconds < TRAINING_SECONDS
                if found.fit.residual <= ACCEPTED or is_inverse(pde) or late:
                    return direct
        network = default_network(pde, jax.random.fold_in(key, 1)) if model is None else _cast(model)
        fields = pde.model(network)
        stream = adaptive(pde, n=default_points(pde)) if points is None else points
        stream = adaptive(pde, n=stream) if isinstance(stream, int) else stream
        chosen = default_optimiser(_one(fields)) if optimiser is None else optimiser
        objective = _default_loss_of(pde, _one(network), _one(fields)) if loss is None else loss
        several = isinstance(fields, Ensemble)
        polishes = model is None and loss is None and optimiser is not None and _can_polish(pde, budget)
        end = None if budget is None else start + budget - polishes * POLISH_SECONDS
        left = None if end is None else max(0.1, end - time.perf_counter())
        fields, history = fit(
            fields,
            by_member(objective) if several else objective,
            stream,
            optimiser_by_member(chosen) if several else chosen,
            steps=steps,
            seconds=left,
            key=key,
            report=report,
            **fit_arguments,
        )
        if direct is not None and direct.chosen["residual"] < relative_residual(pde, fields, key):
            return replace(direct, seconds=time.perf_counter() - start)
        trained = fields
        if polishes and history.attrs["stopped"] in ("steps", "time"):
            fields = polish(pde, trained, key=jax.random.fold_in(key, 5))
    choice = _conditions(pde) | {
        "method": "training" if fields is trained else "training, then least squares for the output layer",
        "network": _describe(network),
        "parameters": _count(fields),
        "points": _describe_points(stream),
        "optimiser": "given" if optimiser is not None else _optimiser_name(_one(fields)),
        "precision": "float64" if double else "default",
    }
    return Solution(pde, fields, history, choice, time.perf_counter() - start)


def _one(model):
    """A member of an ensemble; other models as they are."""
    return model.member(0) if isinstance(model, Ensemble) else model


def _can_polish(pde: PDE, budget: float | None) -> bool:
    """Whether the output layer alone can be found anew, and there is time for it."""
    return not is_inverse(pde) and (budget is None or budget >= 4 * POLISH_SECONDS)


def default_loss(pde: PDE) -> Callable:
    """The residuals, those of conditions that are penalties with a weight of 100."""
    conditions = [g for g in pde.trained_groups if g.source is not None and not isinstance(g.region, Observations)]
    return weighted(pde.residuals, {t.name: PENALTY for g in conditions for t in g.terms})


def _default_loss_of(pde: PDE, network, fields) -> Callable:
    """The default loss; without units, if the fields have sizes far from 1."""
    loss = default_loss(pde)
    return scaled_residuals(pde, loss, fields) if isinstance(network, ScaledOutput) else loss


def _direct_solution(pde: PDE, found: Direct, seconds: float) -> Solution:
    # Series are the fields themselves: no condition is added to them.
    series = isinstance(found.fit.fields.network, WindowedWaves)
    choice = ({"periodic": list(pde.periodic_axes)} if series else _conditions(pde)) | {
        "method": found.method,
        "network": found.network,
        "parameters": found.features,
        "residual": found.fit.residual,
        "precision": "float64",
    }
    return Solution(pde, found.fit.fields, _single_entry(found.fit.losses, seconds), choice, seconds)


def _single_entry(losses: dict[str, float], seconds: float):
    """The history of a direct solution: one entry, in the form that `fit` returns."""
    import xarray as xr

    data = {n: ("step", [v]) for n, v in (losses | {"loss": sum(losses.values())}).items()}
    coords = {"step": [1], "seconds": ("step", [seconds], {"units": "s"})}
    return xr.Dataset(data, coords=coords, attrs={"stopped": "solved"})


def _conditions(pde: PDE) -> dict[str, Any]:
    return {
        "exact": [f"{', '.join(v.targets)} on {v.on.label}" for v in pde.exact],
        "penalty": [g.label for g in pde.trained_groups if g.source is not None],
        "periodic": list(pde.periodic_axes),
    }


def default_points(pde: PDE) -> int:
    """How many interior points `solve` takes: fewer where data limit the accuracy or points cost more."""
    if pde.integrals:
        # Each point has an integral of its own.
        return 512
    return 2048 if pde.unknowns else 4096


def default_network(pde: PDE, key: Array) -> Callable:
    """The network that `solve` takes if none is given."""
    fields = len(pde.fields)
    width = 20 if pde.in_size <= 2 and fields == 1 else 30

    @eqx.filter_jit
    def draw(key):
        return mlp(pde.in_size, fields, width, 3, key=key)

    # Compiled as one program: a dozen small ones would take two seconds.
    if pde.parts == 1:
        return nondimensional(pde, draw(key))
    return PartNetworks(eqx.filter_vmap(draw)(jax.random.split(key, pde.parts)), *part_ranges(pde))


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
    if isinstance(network, Ensemble):
        return f"ensemble of {len(network)} networks {_describe(network.member(0))}"
    if isinstance(network, ScaledOutput):
        return f"{_describe(network.network)}, its output in units of {', '.join(f'{s:.3g}' for s in network.sizes)}"
    if isinstance(network, PartNetworks):
        members: Any = network.networks
        return f"{len(network.low)} networks {_describe(members)}, one for each part of the domain"
    if isinstance(network, eqx.nn.MLP):
        return f"MLP {network.in_size}-{'-'.join([str(network.width_size)] * network.depth)}-{network.out_size}"
    return type(network).__name__


def _describe_points(stream) -> str:
    if not isinstance(stream, AdaptivePoints):
        return "given"
    return f"{stream.n} in the interior, half by residual, redrawn every {stream.every} steps"
