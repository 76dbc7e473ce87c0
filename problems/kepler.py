"""Kepler's orbit for a hundred revolutions: a learned potential with symplectic steps, beside a plain neural ODE.

q'' = -q / |q|^3 with an eccentricity of 0.5 and a period of 2 pi. Positions and momenta at 200 times of one revolution
are known exactly (Kepler's equation); models learn from the steps between them. The symplectic one is H = |p|^2 / 2 +
V(|q|) with a network for V, integrated by steps of order 4. The plain one is a network for the rates of all four
numbers and Runge-Kutta steps of order 5 (Dormand & Prince) of the same length. Both are trained by Gauss-Newton and
then run for a hundred revolutions, and the true energy of what they predict is compared with that of the orbit.

`energy_drift` is the relative difference of its mean over the last and the first revolution, `energy_error` its largest
relative deviation at any time, `position_error` the largest error of the position in the first revolution. Where the
solution failed, each is 1.
"""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import sciml
from sciml import nn, ode, optim

EXPECTED = {"energy_drift": 1e-6, "energy_error": 1e-6}
BUDGET = 180.0
ECCENTRICITY, PERIOD, ORBITS = 0.5, 2 * np.pi, 100
NAMES = ("x", "y", "p_x", "p_y")


class Central(eqx.Module):
    """A function of the distance from the centre."""

    network: eqx.nn.MLP

    def __call__(self, q):
        return self.network(jnp.sqrt(jnp.sum(q**2))[None] - 1)


def kinetic(p):
    """That of a unit mass."""
    return jnp.sum(p**2) / 2


def problem(steps: int = 300, width: int = 12, points: int = 200, seed: int = 0) -> sciml.Problem:
    """steps: of Gauss-Newton, for either model; width: of the networks; points: times of a revolution."""
    keys = jax.random.split(jax.random.key(seed))
    ts = PERIOD * np.arange(points + 1) / points
    loss = ode.trajectory_misfit(scale=PERIOD / points)
    newton = optim.gauss_newton(accelerate=False)
    with sciml.double_precision():
        pairs = ode.windows(ode.trajectories([(ts, orbit(ts))]), 2)
        potential = Central(nn.mlp(1, 1, width, 2, key=keys[0]))
        model = ode.ODE(ode.Separable(kinetic, potential), ode.Symplectic())
        runge_kutta = ode.Steps(diffrax.Dopri5(), dt=PERIOD / points, forward=True)
        plain = ode.neural_ode(4, width, 2, steps=runge_kutta, key=keys[1])
        plain, _ = sciml.fit(plain, loss, lambda key: pairs, newton, steps=steps, report=None)

    def evaluate(model):
        found = revolutions(model, points)
        energy = total_energy(found) / total_energy(orbit(ts[:1])) - 1
        drift = energy[-points:].mean() - energy[:points].mean()
        apart = np.linalg.norm(found[: points + 1, :2] - orbit(ts)[:, :2], axis=1).max()
        values = {"energy_drift": abs(drift), "energy_error": np.abs(energy).max(), "position_error": apart}
        return {name: float(v) if np.isfinite(v) else 1.0 for name, v in values.items()}

    def figure(model):
        curves = {"symplectic": revolutions(model, points), "plain": revolutions(plain, points)}
        errors = {n: np.abs(total_energy(c[1:]) / total_energy(orbit(ts[:1])) - 1) for n, c in curves.items()}
        last = {n: c[-points - 1 :, :2] for n, c in curves.items()} | {"truth": orbit(ts)[:, :2]}
        return ode.trajectory_figure(
            ORBITS - 1 + ts / PERIOD,
            last,
            names=NAMES[:2],
            quantities={n: e.reshape(ORBITS, points).max(axis=1) for n, e in errors.items()},
            quantity="largest relative error of the energy",
            quantity_times=np.arange(1, ORBITS + 1),
            time="revolutions",
        )

    return sciml.Problem(
        model, loss, lambda key: pairs, newton, steps, evaluate, baselines={"plain": plain}, figure=figure, double=True
    )


def revolutions(model, points):
    """The states of all revolutions, each from where the one before ended."""
    ts = PERIOD * np.arange(points + 1) / points

    @eqx.filter_jit
    def run(model, y):
        return jax.lax.scan(lambda y, _: ((ys := model(y, ts))[-1], ys[1:]), y, length=ORBITS)[1]

    start = jnp.asarray(orbit(ts[:1])[0])
    return np.concatenate([start[None], np.asarray(run(model, start)).reshape(-1, 4)])


def total_energy(states):
    """The true energy."""
    return np.sum(states[..., 2:] ** 2, axis=-1) / 2 - 1 / np.linalg.norm(states[..., :2], axis=-1)


def orbit(ts):
    """Positions and momenta from the perihelion on, by Newton's method on Kepler's equation."""
    anomaly = np.array(ts, float)
    for _ in range(50):
        anomaly -= (anomaly - ECCENTRICITY * np.sin(anomaly) - ts) / (1 - ECCENTRICITY * np.cos(anomaly))
    minor, rate = np.sqrt(1 - ECCENTRICITY**2), 1 / (1 - ECCENTRICITY * np.cos(anomaly))
    position = [np.cos(anomaly) - ECCENTRICITY, minor * np.sin(anomaly)]
    return np.stack([*position, -np.sin(anomaly) * rate, minor * np.cos(anomaly) * rate], axis=1)
