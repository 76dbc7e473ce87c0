"""Robertson's reaction: three rate constants that span nine orders of magnitude, from times that span eleven.

x' = -a x + b y z, y' = a x - b y z - c y^2, z' = c y^2 with (x, y, z) = (1, 0, 0) at t = 0, a = 0.04, b = 1e4 and
c = 3e7 (Robertson, 1966; Hairer & Wanner, Solving Ordinary Differential Equations II, 1996, section IV.1). The
constants are found from concentrations at 45 times between 1e-5 and 1e6 with multiplicative noise, from first guesses
that are off by factors of 2 to 3, by Gauss-Newton in their logarithms through an implicit solver and its forward
sensitivities.

`relative_error` is the largest of all three concentrations at all times against the solution with the true constants by
SciPy's Radau method (relative tolerance 1e-10); `solver_error` is the same of the model with the true constants,
`constants_error` the largest relative error of a constant, `failed` the number of solutions that failed.
"""

import jax
import numpy as np

import sciml
from sciml import Unknown, ode, optim

# No solution fails.
EXPECTED = {"relative_error": 1e-3, "failed": 0.5}
BUDGET = 120.0
TRUTH = {"a": 0.04, "b": 1e4, "c": 3e7}
GUESS = {"a": 0.1, "b": 3e4, "c": 1e7}
NAMES = ("x", "y", "z")


def reaction(x, y, z, a, b, c):
    """The rates of the three concentrations."""
    made, used = a * x, b * y * z
    return used - made, made - used - c * y**2, c * y**2


def problem(points: int = 45, noise: float = 1e-3, steps: int = 15, data_seed: int = 0) -> sciml.Problem:
    """points: number of times; noise: the relative deviation of what is measured; steps: of Gauss-Newton; data_seed: of
    the noise.
    """
    ts = np.concatenate([[0.0], np.geomspace(1e-5, 1e6, points)])
    truth = reference(ts)
    measured = truth * np.exp(noise * np.random.default_rng(data_seed).standard_normal(truth.shape))
    measured[0] = np.nan
    # At 1e-8 and 1e-16 the solver takes 10,700 steps and errs by 4e-9, at these 2,100 and 2e-7.
    steps_taken = ode.stiff(rtol=1e-6, atol=1e-13)
    with sciml.double_precision():
        data = ode.trajectories([(ts, measured)], starts=truth[:1])
        unknown = {n: Unknown(v, positive=True) for n, v in GUESS.items()}
        model = ode.mechanism(reaction, NAMES, steps_taken, **unknown)
        exact = ode.mechanism(reaction, NAMES, steps_taken, **{n: Unknown(v, positive=True) for n, v in TRUTH.items()})

    def relative(model):
        found = np.asarray(ode.predicted(model, data))[0]
        return float(np.max(np.abs(found[1:] / truth[1:] - 1)))

    def evaluate(model):
        found = ode.parameters(model)
        return {
            "relative_error": relative(model),
            "failed": float(ode.failures(model, data).sum() + ode.failures(exact, data).sum()),
            "solver_error": relative(exact),
            "constants_error": max(abs(float(found[n]) / v - 1) for n, v in TRUTH.items()),
        }

    def figure(model):
        found = np.asarray(ode.predicted(model, data))[0]
        curves = {"model": found[1:], "reference": truth[1:]}
        shown = {"names": NAMES, "measured": (ts[1:], measured[1:]), "phase": None, "time": "time"}
        return ode.trajectory_figure(ts[1:], curves, **shown, log=True, logarithmic_time=True)

    return sciml.Problem(
        model,
        ode.trajectory_misfit(scale=noise, transform=ode.log, failed=1e4),
        lambda key: jax.tree.map(jax.numpy.asarray, data),
        optim.gauss_newton(accelerate=False),
        steps,
        evaluate,
        baselines={"first_guess": model},
        figure=figure,
        double=True,
    )


def reference(ts):
    """The solution with the true constants."""
    from scipy.integrate import solve_ivp

    def rates(t, y):
        return reaction(*y, **TRUTH)

    options = {"method": "Radau", "rtol": 1e-10, "atol": 1e-18}
    return solve_ivp(rates, (0, ts[-1]), [1.0, 0.0, 0.0], t_eval=ts, **options).y.T
