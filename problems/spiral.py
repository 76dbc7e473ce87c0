"""A spiral: a neural ODE from one trajectory, by gradient matching, then windows, then the whole.

y' = A^T y^3 (componentwise) with A = [[-0.1, 2], [-2, -0.1]], y(0) = (2, 0) and 1,000 times up to 25, the example of
torchdiffeq (`ode_demo.py`), after Chen et al., "Neural ordinary differential equations", NeurIPS 2018. As there the
right-hand side is a network of y^3 with 50 hidden units; with `cubed=False` it is one of y.

From a random start the trajectory is nowhere near the data after a turn, and its misfit has no slope that leads there.
Here the right-hand side is first fitted to slopes of a smoothed trajectory, then to windows of 11 times by
Gauss-Newton.

`relative_l2` is that of the whole trajectory, from its first state alone; `relative_l2_other` that of a trajectory from
(1.2, -1), which the model has not seen; those of `gradient_matching` are from before the windows.
"""

import equinox as eqx
import jax
import numpy as np

import sciml
from sciml import nn, ode, optim

EXPECTED = {"relative_l2": 1e-3}
BUDGET = 60.0
MATRIX = np.array([[-0.1, 2.0], [-2.0, -0.1]])
STARTS = {"relative_l2": (2.0, 0.0), "relative_l2_other": (1.2, -1.0)}


class Cubed(eqx.Module):
    """A network of the cubes of a state, scaled to the size of one."""

    network: eqx.nn.MLP

    def __call__(self, y):
        return self.network(y**3 / 4)


def problem(
    points: int = 1000,
    cubed: bool = True,
    width: int = 50,
    window: int = 11,
    steps: int = 20,
    seed: int = 0,
) -> sciml.Problem:
    """points: times; cubed: whether the network gets y^3; width: its hidden units;
    window: times of each; steps: of Gauss-Newton.
    """
    ts = np.linspace(0, 25, points)
    truth = {name: solution(ts, start) for name, start in STARTS.items()}
    clean = truth["relative_l2"]
    newton = optim.gauss_newton()
    with sciml.double_precision():
        whole = ode.trajectories([(ts, clean)])
        pieces = ode.windows(whole, 51)
        slopes = ode.slopes(pieces, ode.smoothed(pieces))
        network = nn.mlp(2, 2, width, 1, key=jax.random.key(seed))
        model = ode.ODE(ode.Network(Cubed(network) if cubed else network), ode.Between(2))
        model, _ = sciml.fit(model, ode.slope_misfit, lambda key: slopes, newton, steps=30, report=None)
        cut = ode.windows(whole, window)

    def predicted(model):
        return {n: np.asarray(ode.predicted(model, ode.trajectories([(ts, y)])))[0] for n, y in truth.items()}

    def evaluate(model):
        # Where the solution failed it counts as zero.
        found = {n: np.nan_to_num(y) for n, y in predicted(model).items()}
        return {n: float(np.linalg.norm(y - truth[n]) / np.linalg.norm(truth[n])) for n, y in found.items()}

    def figure(trained):
        curves = {"neural ODE": predicted(trained)["relative_l2"], "truth": clean}
        return ode.trajectory_figure(ts, curves, names=("x", "y"), measured=(ts[::10], clean[::10]))

    return sciml.Problem(
        model,
        ode.trajectory_misfit(),
        lambda key: cut,
        newton,
        steps,
        evaluate,
        baselines={"gradient_matching": model},
        figure=figure,
        double=True,
    )


def solution(ts, start):
    """The states at increasing times from 0 on."""
    from scipy.integrate import solve_ivp

    options = {"method": "DOP853", "rtol": 1e-11, "atol": 1e-12}
    return solve_ivp(lambda t, y: y**3 @ MATRIX, (0, ts[-1]), start, t_eval=ts, **options).y.T
