"""A bouncing ball: gravity, the loss at each bounce and the height of the drop from noisy heights, through the bounces.

h' = v, v' = -gravity, and v becomes -kept v where h reaches 0. Heights are measured with noise at 60 times, of which
some lie on either side of six bounces; the times of the bounces are found by the solver and differentiated. The truth
is a gravity of 9.81, kept = 0.85 and a drop from 1, with the solution in closed form.

`error` is the largest relative error of the three numbers, `deviations` the largest in units of its standard error, and
`rmse` that of the heights against the truth without noise.
"""

import equinox as eqx
import jax.numpy as jnp
import numpy as np

import sciml
from sciml import Unknown, ode, optim

EXPECTED = {"error": 5e-3}
BUDGET = 120.0
TRUTH = {"gravity": 9.81, "kept": 0.85, "height": 1.0}


class Ball(eqx.Module):
    """Heights and velocities (n, 2) of a ball that is dropped from rest; the initial state given is not used."""

    numbers: dict

    def __call__(self, y0, ts, args=None):
        gravity, kept, height = (self.numbers[n]() for n in TRUTH)
        flight = ode.Hybrid(
            Falling(gravity), lambda t, y, args: y[0], Bounce(kept), most=8, steps=ode.Steps(rtol=1e-8, atol=1e-8)
        )
        return flight(jnp.stack([height, 0.0 * height]), ts)


class Falling(eqx.Module):
    """The rates of height and velocity."""

    gravity: jnp.ndarray

    def __call__(self, t, y, args):
        return jnp.stack([y[1], -self.gravity])


class Bounce(eqx.Module):
    """The state after a bounce."""

    kept: jnp.ndarray

    def __call__(self, t, y, args):
        return jnp.stack([jnp.zeros_like(y[0]), -self.kept * y[1]])


def problem(
    points: int = 60, noise: float = 0.01, end: float = 3.3, steps: int = 12, data_seed: int = 0
) -> sciml.Problem:
    """points: number of times; noise: of the heights; end: the last time; steps: of Gauss-Newton; data_seed: of the
    noise.
    """
    ts = np.linspace(0, end, points)
    truth = np.array([height_at(t, **TRUTH) for t in ts])
    measured = truth + noise * np.random.default_rng(data_seed).standard_normal(points)
    with sciml.double_precision():
        data = ode.trajectories([(ts, measured)], starts=np.zeros((1, 2)))
        guesses = {"gravity": Unknown(9.0, positive=True), "kept": Unknown(0.8, between=(0.0, 1.0))}
        guesses["height"] = Unknown(0.9, positive=True)
        model = Ball({name: guess.trainable() for name, guess in guesses.items()})
    loss = ode.trajectory_misfit(scale=noise, observed=lambda y: y[:1])

    def evaluate(model):
        found, errors = ode.parameters(model), ode.standard_errors(ode.linearised(model, loss, data))
        heights = np.asarray(ode.predicted(model, data))[0, :, 0]
        return (
            {"error": max(abs(float(found[n]) / v - 1) for n, v in TRUTH.items())}
            | {"deviations": max(abs(float(found[n]) - v) / errors[n] for n, v in TRUTH.items())}
            | {"rmse": float(np.sqrt(np.mean((heights - truth) ** 2)))}
            | dict(found)
            | {f"{n}_se": errors[n] for n in TRUTH}
        )

    def figure(model):
        fine = np.linspace(0, end, 600)
        states = np.asarray(eqx.filter_jit(model)(data.y0[0], fine))
        exact = np.stack([[height_at(t, **TRUTH) for t in fine], np.full(600, np.nan)], axis=1)
        values = np.stack([measured, np.full(points, np.nan)], axis=1)
        curves = {"model": states, "truth": exact}
        return ode.trajectory_figure(fine, curves, names=("height", "velocity"), measured=(ts, values))

    return sciml.Problem(
        model,
        loss,
        lambda key: data,
        optim.gauss_newton(accelerate=False),
        steps,
        evaluate,
        baselines={"first_guess": model},
        figure=figure,
        double=True,
    )


def height_at(t, gravity, kept, height):
    """The height at a time, in closed form."""
    begin, speed = np.sqrt(2 * height / gravity), kept * np.sqrt(2 * gravity * height)
    if t <= begin:
        return height - gravity * t**2 / 2
    while t > begin + 2 * speed / gravity:
        begin, speed = begin + 2 * speed / gravity, kept * speed
    return speed * (t - begin) - gravity * (t - begin) ** 2 / 2
