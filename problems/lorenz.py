"""Lorenz's equations read off from noisy trajectories: which terms there are, and their coefficients.

x' = 10 (y - x), y' = x (28 - z) - y, z' = x y - 8/3 z (Lorenz, 1963). Five trajectories on the attractor, each of 200
values 0.02 apart, have noise of 1 % of the root mean square of each component. They are smoothed, and terms of up to
second order are selected by sequentially thresholded least squares on the slopes (Brunton, Proctor & Kutz, 2016). Then
the coefficients that are left are fitted to the values themselves by multiple shooting with free states, Gauss-Newton
and a weight of continuity that grows.

`wrong_terms` counts terms that are missing or too many, `coefficient_error` is the largest relative error of the seven
coefficients; `slopes` has those of the selection alone.
"""

import numpy as np

import sciml
from sciml import ode, optim

# Terms that are missing or too many: none.
EXPECTED = {"coefficient_error": 0.01, "wrong_terms": 0.5}
BUDGET = 120.0
NAMES = ("x", "y", "z")
TRUTH = {
    "x": {"x": -10.0, "y": 10.0},
    "y": {"x": 28.0, "y": -1.0, "x z": -1.0},
    "z": {"x y": 1.0, "z": -8 / 3},
}


def problem(
    noise: float = 0.01, count: int = 5, points: int = 200, threshold: float = 0.05, steps: int = 25, data_seed: int = 0
) -> sciml.Problem:
    """noise: over the root mean square; count, points: of the trajectories and their times; threshold: of the
    selection, see `sparse_terms`; steps: of Gauss-Newton; data_seed: of starts and noise.
    """
    random = np.random.default_rng(data_seed)
    ts = 0.02 * np.arange(points)
    clean = np.stack([solution(ts, random.uniform(-8, 8, 3) + [0, 0, 25]) for _ in range(count)])
    size = np.sqrt(np.mean(clean**2, axis=(0, 1)))
    values = clean + noise * size * random.standard_normal(clean.shape)
    with sciml.double_precision():
        data = ode.trajectories([(ts, y) for y in values])
        smooth = ode.smoothed(data)
        sparse = ode.sparse_terms(ode.slopes(data, smooth), NAMES, threshold=threshold)
        selected = ode.ODE(sparse)
        model, segments = ode.shooting(selected, data, 10, smooth.ys)

    def evaluate(model):
        found = getattr(model, "model", model).field
        wanted = {name: set(terms) for name, terms in TRUTH.items()}
        wrong = sum(len(found.support()[name] ^ wanted[name]) for name in NAMES)
        coefficients = np.asarray(found.coefficients)
        errors = [
            abs(coefficients[i, found.terms.index(term)] / value - 1)
            for i, name in enumerate(NAMES)
            for term, value in TRUTH[name].items()
        ]
        return {"coefficient_error": max(errors), "wrong_terms": float(wrong)}

    def figure(model):
        curves = {"read off": ode.predicted(model.model, ode.take(data._replace(y0=clean[:, 0]), slice(0, 1)))[0]}
        equations = ", ".join(model.model.field.equations())
        shown = {"names": NAMES, "measured": (ts, values[0]), "phase": (0, 2), "title": equations}
        return ode.trajectory_figure(ts, curves | {"truth": clean[0]}, **shown)

    return sciml.Problem(
        model,
        ode.shooting_misfit(scale=noise * size),
        ode.tightening(segments, steps, last=100.0),
        optim.gauss_newton(accelerate=False),
        steps,
        evaluate,
        baselines={"slopes": selected},
        figure=figure,
        double=True,
    )


def solution(ts, start):
    """The exact solution at increasing times, after one unit of time to reach the attractor."""
    from scipy.integrate import solve_ivp

    def rates(t, y):
        return [10 * (y[1] - y[0]), y[0] * (28 - y[2]) - y[1], y[0] * y[1] - 8 / 3 * y[2]]

    options = {"method": "DOP853", "rtol": 1e-11, "atol": 1e-12}
    return solve_ivp(rates, (0, 1 + ts[-1]), start, t_eval=1 + ts, **options).y.T
