"""A real double pendulum by motion capture: two arms of unknown inertia, and a network for the friction of the joints.

Two recordings of 9 s and 8 s (Schmidt & Lipson, Science 324, 2009), about every 0.01 s with gaps: angles and velocities
of both arms. The equations are those of two rigid arms,

A a_1 + C cos(d) a_2 = -C sin(d) v_2^2 - P sin(angle_1) + f_1 - f_2,    d = angle_1 - angle_2,
C cos(d) a_1 + a_2 = C sin(d) v_1^2 - Q sin(angle_2) + f_2,

in units of the second arm's moment of inertia. A, C, P and Q are found, and a network gives the friction f from the
velocities of the joints, v_1 and v_2 - v_1. All is fitted by Gauss-Newton to windows of 20 times within the first 70 %
of each recording.

The motion is chaotic, so forecasts are short: over 0.5 s, from measured states at every fifth time of the last 30 %.
`angle_rmse` is the root mean square error of both angles, in radians and at all times of the forecasts, turns counted;
`angle_rmse_end` that at their end, `angle_median` the median of absolute errors there. Baselines: `constant_velocity`;
`linear`, accelerations that are linear in velocities and the sines of angles, fitted to the measured ones;
`frictionless`, the equations without friction, which hardly matters within 0.5 s.
"""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

import sciml
from sciml import Unknown, nn, ode, optim

EXPECTED = {"angle_rmse": 0.1}
BUDGET = 180.0
STATES, ACCELERATIONS = ("angle_1", "angle_2", "velocity_1", "velocity_2"), ("acceleration_1", "acceleration_2")
SHARE = 0.7
# Sizes of deviations that count as much as each other.
SCALE = np.array([0.05, 0.05, 1.0, 1.0])
GUESS = {"inertia": 3.0, "coupling": 1.0, "pull_1": 150.0, "pull_2": 50.0}


def arms(angle_1, angle_2, velocity_1, velocity_2, inertia, coupling, pull_1, pull_2, friction):
    """The rates of both angles and velocities."""
    cosine, sine = coupling * jnp.cos(angle_1 - angle_2), coupling * jnp.sin(angle_1 - angle_2)
    first, second = friction(jnp.stack([velocity_1, velocity_2 - velocity_1]) / 20)
    right_1 = -sine * velocity_2**2 - pull_1 * jnp.sin(angle_1) + first - second
    right_2 = sine * velocity_1**2 - pull_2 * jnp.sin(angle_2) + second
    determinant = inertia - cosine**2
    acceleration_1 = (right_1 - cosine * right_2) / determinant
    return velocity_1, velocity_2, acceleration_1, (inertia * right_2 - cosine * right_1) / determinant


def problem(
    steps: int = 15, width: int = 6, window: int = 20, horizon: float = 0.5, every: int = 5, seed: int = 0
) -> sciml.Problem:
    """steps: of Gauss-Newton; window: times of one; horizon, every: of forecasts, in s, and times between two."""
    data = ode.from_dataset(sciml.dataset("double_pendulum"), (*STATES, *ACCELERATIONS), time="t", by="trial")
    series = [(ts[:n] - ts[0], ys[:n, :4], ys[:n, 4:]) for ts, ys, n in zip(data.ts, data.ys, ode.lengths(data))]
    train = [tuple(column[ts <= SHARE * ts[-1]] for column in (ts, ys, a)) for ts, ys, a in series]
    forecasts = [
        (ts[shown], ys[shown])
        for ts, ys, _ in series
        for i in range(0, len(ts), every)
        if SHARE * ts[-1] < ts[i] <= ts[-1] - horizon and (shown := (ts >= ts[i]) & (ts <= ts[i] + horizon)).any()
    ]
    test = ode.trajectories(forecasts)
    stepping = ode.Steps(diffrax.Tsit5(), dt=0.01, forward=True)
    newton, key = optim.gauss_newton(accelerate=False), jax.random.key(seed)
    loss = ode.trajectory_misfit(scale=SCALE)
    with sciml.double_precision():
        windows = ode.windows(ode.trajectories([(ts, ys) for ts, ys, _ in train]), window)
        unknown = {n: Unknown(v, positive=True) for n, v in GUESS.items()}
        model = ode.mechanism(arms, STATES, stepping, **unknown, friction=nn.mlp(2, 2, width, 1, key=key))
        plain = ode.mechanism(arms, STATES, stepping, **unknown, friction=jnp.zeros_like)
        plain, _ = sciml.fit(plain, loss, lambda key: windows, newton, steps=steps, report=None)
    baselines = {"constant_velocity": constant_velocity, "linear": linear(train, stepping), "frictionless": plain}

    def evaluate(model):
        errors = np.asarray(ode.predicted(model, test) - test.ys)[..., :2]
        ends = np.stack([e[n - 1] for e, n in zip(errors, ode.lengths(test))])
        sizes = {"angle_rmse": errors, "angle_rmse_end": ends}
        found = {name: np.sqrt(np.nanmean(e**2)) for name, e in sizes.items()} | {"angle_median": np.median(abs(ends))}
        return found | ode.parameters(model)

    def figure(model):
        ts, ys = max(forecasts[: len(forecasts) // 2], key=lambda forecast: len(forecast[0]))
        models = {"model": model} | {n: baselines[n] for n in ("linear", "constant_velocity")}
        curves = {n: np.asarray(m(ys[0], ts))[:, :2] for n, m in models.items()}
        return ode.trajectory_figure(ts, curves, names=STATES[:2], measured=(ts, ys[:, :2]), time="t (s)")

    return sciml.Problem(
        model,
        loss,
        lambda key: windows,
        newton,
        steps,
        evaluate,
        baselines=baselines,
        figure=figure,
        double=True,
    )


def constant_velocity(y0, ts, args=None):
    """Both arms turn as they do."""
    turned = y0[:2] + (ts - ts[0])[:, None] * y0[2:]
    return jnp.concatenate([turned, jnp.broadcast_to(y0[2:], turned.shape)], axis=1)


def linear(train, steps):
    """Accelerations as linear functions of the sines of angles and of velocities, by least squares."""
    features = lambda y: jnp.concatenate([jnp.sin(y[..., :2]), y[..., 2:]], axis=-1)  # noqa: E731
    ys, accelerations = (np.concatenate([part[i] for part in train]) for i in (1, 2))
    found, *_ = np.linalg.lstsq(np.asarray(features(ys)), accelerations)
    return ode.ODE(ode.SecondOrder(lambda y: features(y) @ found), steps)
