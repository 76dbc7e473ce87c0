"""Solutions by least squares over polynomials or random features: on the whole domain, or in windows of time."""

import time
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from ._declared import Declared, declared_degrees
from ._fourier import fourier_solutions, suits_fourier
from ._inverse import is_inverse, solve_inverse
from ._linear import (
    ENOUGH,
    ENOUGH_OF_SMOOTH,
    MANY,
    SMOOTH,
    Fit,
    described,
    is_affine,
    measured,
    refined,
    solve_whole,
    suits_polynomials,
    tried,
)
from ._march import Plan, initial_groups, march
from ._mirrors import Mirrors
from ._pde import PDE
from ._rows import weighted_size

# Windows and features of the trials, and of solutions after them.
TRIAL = (8, 400)
LADDER = ((16, 600), (16, 800), (24, 800), (32, 800), (32, 1000), (32, 1200), (48, 1200), (64, 1600), (128, 1600))
# Of polynomials, where a window after the first few takes little time: as many as what is declared asks for, and more.
POLYNOMIAL_WINDOWS = (16, 32, 64, 128, 256)
DEGREES, POLYNOMIALS, LARGE_TRIAL = (1.0, 1.25, 1.6, 2.0), (100, 3200), 1200
# A solution takes at most so many times as long as the one before, so that easy problems end early.
GROWTH = 25.0
# Times the usual spread, features do not follow the fields but are spread evenly, all of them steep.
EVEN_FACTOR = 4.0
# A trial that leaves more than this share of the residual shows that windows do not help.
HOPELESS = 0.7
# Trials that leave more than this share are too coarse to be told apart by it.
UNRESOLVED = 0.3
# Of the budget, where training may do better.
SHARE = 0.85
# Of the budget, until which windows should be done. The expected time is an upper bound; those begun may take it all.
PLANNED = 0.95
# Evolutions are solved on the whole domain before windows are tried if few features leave less than this: of a smooth
# front in Burgers' equation 561 polynomials leave 5e-5, of a wave packet that swings to and fro 0.13.
PROMISING = 0.03
# Of the time left, for nonlinear evolutions on the whole domain.
SMOOTH_SHARE = 0.4
# Fourier series that leave less than this are taken; each is followed by a finer one unless that leaves so many times
# as much.
WELL, WORSE = 1e-3, 2.0
# Of the time left, for Fourier series where walls are mirrors: sources that are not smooth there make them converge
# slowly.
MIRRORED = 0.6
# Of the budget, for problems with unknown parameters or data: training takes longer.
INVERSE_SHARE = 0.6
# Windows are not tried with fewer seconds than this: compilation and trials take 10 s (those of random features have
# an error of 1.6e-5 for Burgers' equation in 30 s, where training has 6e-4, and in 25 s nothing better than a trial).
LONG = 30.0
# Nor after a solution on the whole domain that leaves less than this: windows repeat the errors of their beginnings.
GOOD = 1e-6


class Direct(NamedTuple):
    """What was found, and how."""

    fit: Fit
    method: str
    network: str
    features: int


def solve_directly(pde: PDE, key: Array, budget: float) -> Direct | None:
    """The best solution by least squares within `budget` seconds; None where nothing was found, and for problems with
    unknown parameters or data whose equations the features do not fulfil within the noise.
    """
    if is_inverse(pde) and (pde.parts > 1 or pde.integrals):
        return None
    if is_inverse(pde):
        return _inverse(pde, key, INVERSE_SHARE * budget)
    start = time.perf_counter()
    mirrors = suits_fourier(pde)
    periodic = mirrors is not None and not mirrors.axes
    series = _fourier(pde, mirrors, start + PLANNED * budget) if mirrors is not None and periodic else []
    if _enough(series, WELL):
        return series[0]
    known, whole_key, march_key = (jax.random.fold_in(key, i) for i in (2, 3, 4))
    affine, evolves = is_affine(pde, known), bool(initial_groups(pde))
    if pde.integrals and not affine:
        # Integrals are tabulated as affine functions of the output.
        return None
    deadline = start + SHARE * budget
    # In many dimensions windows would have too few features: one solution for all time makes more of them.
    if evolves and len(pde.axes) < MANY:
        found = _evolution(
            pde,
            (whole_key, march_key),
            affine,
            budget >= LONG,
            Until(deadline, start + PLANNED * budget, start + budget),
            None if periodic else mirrors,
        )
    else:
        found = [_whole(pde, whole_key, start + budget if affine else deadline, affine)]
    return min(series + found, key=lambda d: d.fit.residual, default=None)


class Until(NamedTuple):
    """When solutions on the whole domain should be done, when windows should be by the time they are expected to take,
    and when they are given up.
    """

    whole: float
    planned: float
    last: float


def _evolution(
    pde: PDE, keys: tuple[Array, Array], affine: bool, windows: bool, until: Until, mirrors: Mirrors | None
) -> list[Direct]:
    """Solutions on the whole domain where it is smooth enough for that, and in windows of time."""
    (whole_key, march_key), deadline = keys, until.whole
    found: list[Direct] = []
    begun, trial = time.perf_counter(), None
    if mirrors is not None and not affine:
        found += _fourier(pde, mirrors, begun + MIRRORED * (until.planned - begun))
        if _enough(found, GOOD):
            return found
        begun = time.perf_counter()
    if affine or suits_polynomials(pde):
        trial = tried(pde, whole_key, (deadline - begun) / 3, affine, polynomials_only=not affine)
        if trial.residual <= PROMISING:
            refined_by = deadline if affine else begun + SMOOTH_SHARE * (deadline - begun)
            trial = refined(pde, trial, whole_key, refined_by, affine)
        found.append(_described(trial))
    if mirrors is not None and affine and not _enough(found, GOOD):
        begun = time.perf_counter()
        found += _fourier(pde, mirrors, begun + MIRRORED * (until.planned - begun))
    if windows and not _enough(found, GOOD):
        for better in _marched(pde, march_key, until, affine):
            found.append(better)
            if _enough(found):
                return found
    if affine and trial is not None and trial.residual > PROMISING and time.perf_counter() < deadline:
        found.append(_described(refined(pde, trial, whole_key, deadline, affine)))
    return found


def _fourier(pde: PDE, mirrors: Mirrors, deadline: float) -> list[Direct]:
    """The last of more and more accurate Fourier series in windows of time; none where there is none."""
    found: list[Direct] = []
    for grid, series in fourier_solutions(pde, mirrors, deadline):
        size = weighted_size(pde, series.of_zero)
        residual = weighted_size(pde, series.losses) / max(size, np.finfo(float).tiny)
        fit = Fit(pde.model(series.network), residual, None, series.losses)
        points = " x ".join(str(n) for n in grid.points)
        direct = Direct(
            fit,
            f"collocation in {grid.windows} windows of time, one after the other",
            f"Fourier series on {points} points times polynomials of time in each window",
            series.network.real.size + series.network.imaginary.size,
        )
        # Where data are not smooth residuals are largest there, and no measure of small differences.
        if not found or residual <= WORSE * found[0].fit.residual:
            found = [direct]
        if residual <= ENOUGH_OF_SMOOTH:
            break
    return found


def _inverse(pde: PDE, key: Array, budget: float) -> Direct | None:
    found = solve_inverse(pde, key, budget)
    if found is None:
        return None
    fit = Fit(found.fields, found.residual, found.spread, found.losses)
    kind = f"{found.count} numbers: outputs of random tanh features of spread {found.spread:g}, and parameters"
    return Direct(fit, "least squares for equations and data together", kind, found.count)


def _enough(found: list[Direct], limit: float = ENOUGH) -> bool:
    return any(d.fit.residual <= limit for d in found)


def _whole(pde: PDE, key: Array, deadline: float, affine: bool) -> Direct:
    return _described(solve_whole(pde, key, deadline - time.perf_counter(), affine))


def _described(fit: Fit) -> Direct:
    count = fit.fields.network.output.shape[1]
    kind = "random features" if fit.spread is not None else "polynomials"
    return Direct(
        fit,
        f"least squares for the output layer of {kind}",
        described(count, fit.spread),
        fit.fields.network.output.size,
    )


class _Kind(NamedTuple):
    """Features of windows: by how much steeper than usual random ones are, or the degrees declared for polynomials;
    numbers of windows and features of a trial, and after it.
    """

    trial: tuple[int, int]
    ladder: tuple[tuple[int, int], ...]
    factor: float | None = None
    declared: Declared | None = None


class _Attempt(NamedTuple):
    """A solution in windows, the seconds that one window took, and those for the rest, compilation most of all."""

    direct: Direct
    pace: float
    rest: float


def _marched(pde: PDE, key: Array, until: Until, affine: bool = False) -> Iterator[Direct]:
    """Solutions in windows, more and more accurate, while there is time."""
    trials = []
    for kind in _kinds(pde, key, affine):
        if time.perf_counter() > until.planned:
            break
        attempt = _march(pde, kind.trial, kind, key, until.last)
        if attempt is not None:
            trials.append((attempt.direct.fit.residual, attempt, kind))
            yield attempt.direct
            if kind.declared is not None and attempt.direct.fit.residual <= SMOOTH:
                break
    if not trials:
        return
    residual, last, kind = min(trials, key=lambda t: min(t[0], UNRESOLVED))
    size, ladder = kind.trial, kind.ladder
    if residual > HOPELESS and kind.factor is not None:
        return
    # Trials of the same shapes share what the first compiled.
    last = last._replace(rest=max(t[1].rest for t in trials))
    while True:
        plan = _next(last, size, ladder, until.planned - time.perf_counter())
        if plan is None:
            return
        attempt = _march(pde, plan, kind, key, until.last)
        if attempt is None:
            # It took longer than expected, or errors grew from window to window: smaller or fewer ones may not.
            ladder = tuple(p for i, p in enumerate(ladder) if i < ladder.index(plan) or p[0] < plan[0])
            continue
        last, size = attempt._replace(rest=max(attempt.rest, last.rest)), plan
        yield last.direct


def _kinds(pde: PDE, key: Array, affine: bool) -> list[_Kind]:
    """What to try in windows."""
    found = []
    # Layers that form in one dimension of space are for random features, which follow them.
    smooth = suits_polynomials(pde) and (affine or len(pde.axes) > 2)
    declared = declared_degrees(pde, key) if smooth else None
    if declared is not None and declared.shape(1, POLYNOMIAL_WINDOWS[-1]) is not None:
        ladder = _polynomial_ladder(pde, declared)
        found.append(_Kind(_polynomial_trial(ladder), ladder, declared=declared))
    return found + [_Kind(TRIAL, LADDER, factor) for factor in (1.0, 2.0, EVEN_FACTOR)]


def _polynomial_ladder(pde: PDE, declared: Declared) -> tuple[tuple[int, int], ...]:
    least = pde.out_size * declared.count(POLYNOMIAL_WINDOWS[-1])
    counts = {min(max(int(least * more ** len(pde.axes)), POLYNOMIALS[0]), POLYNOMIALS[1]) for more in DEGREES}
    if least > LARGE_TRIAL:
        counts |= {LARGE_TRIAL}
    plans = [(windows, count) for windows in POLYNOMIAL_WINDOWS for count in counts]
    return tuple(sorted(plans, key=lambda p: p[0] * p[1] ** 2))


def _polynomial_trial(ladder: tuple[tuple[int, int], ...]) -> tuple[int, int]:
    """The first plan with enough windows and polynomials to show whether more of them help."""
    least = min(count for _, count in ladder)
    return next((p for p in ladder if p[0] > POLYNOMIAL_WINDOWS[0] and least < p[1] <= LARGE_TRIAL), ladder[0])


def _next(last: _Attempt, size: tuple[int, int], ladder, left: float) -> tuple[int, int] | None:
    """The largest number of windows and features for which there is time."""
    work = size[0] * last.pace
    most = min(left, last.rest + GROWTH * work)

    def seconds(plan):
        # Residuals take time by features squared, factors by their cube.
        return last.rest + plan[0] * last.pace * (plan[1] / size[1]) ** 2.4

    return next((p for p in reversed(ladder) if seconds(p) < most and seconds(p) > last.rest + 1.5 * work), None)


def _spread(pde: PDE, features: int) -> float:
    """So many times steeper than the domain is long that the features of a trial overlap those next to them: about a
    fifth of the features of a window differ in space. More features are less than proportionally steeper (Burgers'
    equation, 32 windows of 1,200: 1.1e-7 at a spread of 5, 2.9e-7 at 10, 4.2e-6 at 20), as they overlap more.
    """
    space = max(1, len(pde.axes) - 1)
    trial = (TRIAL[1] / pde.out_size / 5) ** (1 / space) / 24
    return max(0.5, trial * (features / TRIAL[1]) ** (0.5 / space))


def _march(pde: PDE, size: tuple[int, int], kind: _Kind, key: Array, deadline: float) -> _Attempt | None:
    windows, features = size
    spread = None if kind.factor is None else kind.factor * _spread(pde, features)
    shape = None if kind.declared is None else kind.declared.shape(pde.out_size, windows)
    if shape is None and kind.declared is not None:
        return None
    following = kind.factor is not None and kind.factor != EVEN_FACTOR
    plan = Plan(windows, features, spread, following=following, shape=shape)
    began = time.perf_counter()
    marched = march(pde, plan, key, deadline)
    if marched is None:
        return None
    fit = measured(pde, pde.model(marched.network), jax.random.fold_in(key, 1), spread)
    named = "polynomials" if spread is None else f"random tanh features of spread {spread:g}"
    direct = Direct(
        fit,
        f"least squares in {plan.windows} windows of time, one after the other",
        f"{plan.features} {named} in each window",
        marched.network.output.size,
    )
    return _Attempt(direct, marched.pace, time.perf_counter() - began - plan.windows * marched.pace)
