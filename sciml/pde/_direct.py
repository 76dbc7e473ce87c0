"""Solutions by least squares over random features: on the whole domain, or window after window in time."""

import time
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from ._condition import Observations
from ._linear import ENOUGH, Fit, is_affine, measured, solve_whole
from ._march import Plan, initial_groups, march
from ._pde import PDE

# Windows and features: of the trials, in which the spread is found, and of solutions after them, by their cost.
TRIAL = (8, 400)
LADDER = ((16, 600), (16, 800), (24, 800), (32, 800), (32, 1000), (32, 1200), (48, 1200), (64, 1600), (128, 1600))
# A solution costs at most so many times the one before, so that easy problems end early.
GROWTH = 16.0
# A trial that leaves more than this share of the residual shows that windows do not help.
HOPELESS = 0.7
# Of the budget, where training may do better.
SHARE = 0.85
# Windows need more seconds than this for what training reaches in as many on fields with sharp fronts.
LONG = 100.0


class Direct(NamedTuple):
    """What was found, and how."""

    fit: Fit
    method: str
    network: str
    features: int


def solve_directly(pde: PDE, key: Array, budget: float) -> Direct | None:
    """The best solution by least squares within `budget` seconds; None for problems with unknown parameters or data,
    and where nothing was found.
    """
    if pde.unknowns or any(isinstance(g.region, Observations) for g in pde.trained_groups):
        return None
    start = time.perf_counter()
    known, whole_key, march_key = (jax.random.fold_in(key, i) for i in (2, 3, 4))
    best = None
    affine, evolves = is_affine(pde, known), bool(initial_groups(pde))
    if affine or not evolves:
        whole = solve_whole(pde, whole_key, budget if affine else SHARE * budget, affine)
        count = whole.fields.network.output.shape[1]
        best = Direct(
            whole,
            "least squares for the output layer of random features",
            f"{count} random tanh features of spread {whole.spread:g}",
            whole.fields.network.output.size,
        )
    if evolves and budget >= LONG and (best is None or best.fit.residual > ENOUGH):
        for found in _marched(pde, march_key, start + SHARE * budget):
            best = min((b for b in (best, found) if b is not None), key=lambda b: b.fit.residual)
            if best.fit.residual <= ENOUGH:
                break
    return best


def _marched(pde: PDE, key: Array, deadline: float) -> Iterator[Direct]:
    """Solutions in windows, more and more accurate, while there is time."""
    trials, cost = {}, np.inf
    for factor in (1.0, 2.0):
        began = time.perf_counter()
        found = _march(pde, TRIAL, factor, key, deadline)
        # The first one is compiled.
        cost = time.perf_counter() - began
        if found is not None:
            trials[factor] = found.fit.residual
            yield found
    if not trials or min(trials.values()) > HOPELESS:
        return
    factor, last = min(trials, key=lambda f: trials[f]), TRIAL
    while True:
        left = deadline - time.perf_counter()
        costs = {plan: cost * _work(*plan) / _work(*last) for plan in LADDER if _work(*plan) > 1.5 * _work(*last)}
        affordable = [plan for plan, seconds in costs.items() if seconds < min(left, GROWTH * cost)]
        if not affordable:
            return
        began, last = time.perf_counter(), affordable[-1]
        found = _march(pde, last, factor, key, deadline)
        cost = time.perf_counter() - began
        if found is None:
            return
        yield found


def _work(windows: int, features: int) -> float:
    """Proportional to the time that a solution takes: residuals by features squared, factors by their cube."""
    return windows * features**2.2


def _spread(pde: PDE, features: int) -> float:
    """So many times steeper than the domain is long that features overlap those next to them: about a fifth of the
    features of a window differ in space."""
    return max(0.5, (features / pde.out_size / 5) ** (1 / max(1, len(pde.axes) - 1)) / 24)


def _march(pde: PDE, size: tuple[int, int], factor: float, key: Array, deadline: float) -> Direct | None:
    plan = Plan(*size, factor * _spread(pde, size[1]))
    network = march(pde, plan, key, deadline)
    if network is None:
        return None
    fit = measured(pde, pde.model(network), jax.random.fold_in(key, 1), float(plan.spread))
    return Direct(
        fit,
        f"least squares in {plan.windows} windows of time, one after the other",
        f"{plan.features} random tanh features of spread {plan.spread:g} in each window",
        network.output.size,
    )
