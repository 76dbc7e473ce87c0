"""A real pendulum by motion capture: a damped one is fitted, beside learned energies and the published networks.

Angle and velocity at 556 times, 1/6 apart but for gaps (Schmidt & Lipson, Science 324, 2009), under the protocol of
Greydanus, Dzamba & Yosinski (NeurIPS 2019, section 3, and the code of their experiment). Rates are the quotients of
consecutive differences. The first 80 % of the 555 pairs are for training, the next 110 are the test. (The published
training set has the very last pair too.)

`one_step_loss` is the mean square of predicted minus measured quotients, `energy_mse` that of the error of the energy
E = 2.4 (1 - cos q) + p^2, as published, along one solution through all test times from the first test state.

The trained model is the equation of a damped pendulum with five unknown numbers, `dissipative` a network for the energy
H(q, p) with two numbers for a damping; both by Gauss-Newton on windows of a few times. `network` and `hamiltonian` are
the two published kinds of model: right-hand sides fitted to quotients, as published, which is to say that they are
steps of Euler's method. Their one-step loss is that of such a step, their energy that of an exact solution, again as
published. Here they are smaller and fitted by Gauss-Newton. Published, with 200 units and by Adam: a one-step loss of
2.19e-3 for the network and 5.96e-3 for the Hamiltonian one, an error of the energy of 0.386 and 1.45e-2.
"""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import sciml
from sciml import Unknown, nn, ode, optim

# The better of the two published models in either column.
EXPECTED = {"one_step_loss": 2.19e-3, "energy_mse": 1.45e-2}
BUDGET = 180.0
NAMES = ("angle", "velocity")
INTERVAL = 1 / 6


class Damping(eqx.Module):
    """Numbers that do not depend on the state."""

    numbers: jax.Array

    def __call__(self, y):
        return self.numbers


def swing(angle, velocity, rate, stiffness, middle, friction, offset):
    """A damped pendulum whose velocity is measured on a scale of its own."""
    return rate * velocity + offset, -stiffness * jnp.sin(angle - middle) - friction * velocity


def problem(steps: int = 10, width: int = 8, window: int = 6, baseline_steps: int = 20, seed: int = 0) -> sciml.Problem:
    """steps, baseline_steps: of Gauss-Newton; width: of all networks; window: times of a window."""
    keys = jax.random.split(jax.random.key(seed), 3)
    fine = ode.Steps(diffrax.Tsit5(), dt=INTERVAL, forward=True)
    newton = optim.gauss_newton(accelerate=False)
    loss = ode.trajectory_misfit()
    with sciml.double_precision():
        data = ode.from_dataset(sciml.dataset("pendulum"), NAMES, time="t")
        ts, ys = data.ts[0], data.ys[0]
        first = int(0.8 * (len(ts) - 1))
        last = first + int((1 - 0.8) * (len(ts) - 1))
        train = ode.trajectories([(ts[: first + 1], ys[: first + 1])])
        windows = ode.windows(train, window)
        unknown = {"rate": 1.0, "stiffness": 1.0, "middle": 0.0, "friction": 0.0, "offset": 0.0}
        model = ode.mechanism(swing, NAMES, fine, **{n: Unknown(v) for n, v in unknown.items()})
        learned = ode.ODE(ode.Dissipative(nn.mlp(2, 1, width, 2, key=keys[0]), Damping(jnp.full(2, 0.1))), fine)
        learned, _ = sciml.fit(learned, loss, lambda key: windows, newton, steps=baseline_steps, report=None)
        quotients = np.diff(ys, axis=0) / np.diff(ts)[:, None]
        points = ode.Slopes(ts[:first], ys[:first], None, np.ones((first, 2)), quotients[:first])
        fields = {
            "network": ode.Network(nn.mlp(2, 2, width, 2, key=keys[1])),
            "hamiltonian": ode.Hamiltonian(nn.mlp(2, 1, width, 2, key=keys[2])),
        }
        baselines = {"dissipative": learned}
        for name, field in fields.items():
            found, _ = sciml.fit(field, ode.slope_misfit, lambda key: points, newton, steps=baseline_steps, report=None)
            baselines[name] = ode.ODE(found, ode.Steps(diffrax.Euler(), dt=INTERVAL))

    pairs = ode.trajectories([(ts[i : i + 2], ys[i : i + 2]) for i in range(first, last)])
    whole = ode.trajectories([(ts[first:last], ys[first:last])])

    def evaluate(model):
        found = np.asarray(ode.predicted(model, pairs))
        predicted = (found[:, 1] - found[:, 0]) / np.diff(pairs.ts)
        path = solution(model, whole)
        return {
            "one_step_loss": np.mean((predicted - quotients[first:last]) ** 2),
            "energy_mse": np.mean((energy(path) - energy(whole.ys[0])) ** 2),
            "angle_rmse": np.sqrt(np.mean((path - whole.ys[0])[:, 0] ** 2)),
        } | ode.parameters(model)

    def figure(model):
        curves = {"equation": solution(model, whole)} | {n: solution(m, whole) for n, m in baselines.items()}
        shown = {"names": NAMES, "measured": (whole.ts[0], whole.ys[0]), "quantity": "energy"}
        energies = {n: energy(c) for n, c in curves.items()} | {"measured": energy(whole.ys[0])}
        return ode.trajectory_figure(whole.ts[0], curves, quantities=energies, **shown)

    return sciml.Problem(
        model, loss, lambda key: windows, newton, steps, evaluate, baselines=baselines, figure=figure, double=True
    )


def solution(model, data):
    """The states at all times of one trajectory, by adaptive steps."""
    return np.asarray(ode.predicted(ode.ODE(model.field, ode.Steps(rtol=1e-6, atol=1e-8)), data))[0]


def energy(states):
    """The published energy, with its fitted coefficient."""
    return 2.4 * (1 - np.cos(states[:, 0])) + states[:, 1] ** 2
