"""How often a fit succeeds at 10 % noise: plain single shooting, shooting that begins at data, and the usual way here.

    python benchmarks/success.py [NAME ...] [--seeds 20]

- `predation`: a universal differential equation. Lotka and Volterra's growth and death are known, a network stands for
  both interactions. Either species is known at 121 times in about three periods. A fit has succeeded if its solution is
  off from the one without noise by less than the noise, in the root mean square over all times and both species: the
  solution from the true start or from the one that the fit has, whichever is nearer.
- `double_pendulum`: two lengths and a mass ratio, from angles and velocities at 201 times in 8 s of large swings. First
  guesses are off by factors from 1/2 to 2. A fit has succeeded if all three are within 5 %.

Noise is normal, with 10 % of the standard deviation of each component. Seeds differ in the noise and in the first
guess. All ways take the steps of Gauss-Newton, as many of them, in double precision:

- `single shooting`: one solution from the first measured values;
- `anchored`: segments of ten intervals that begin at measured values, with a weight of 100 on the mean square of
  what they miss of the next one's beginning (100 is the default of DiffEqFlux's multiple shooting);
- `gradient matching`: to the slopes of smoothed trajectories, without a solution;
- `sciml`: the same, then segments of ten intervals that begin at states of their own, whose weight of continuity grows.

Seeds are fitted at the same time, by `jax.vmap`. Writes benchmarks/success.json and the table in docs/ode.md.
"""

import argparse
import datetime
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import sciml
from sciml import Unknown, nn, ode, optim

PATH = Path(__file__).with_suffix(".json")
PAGE = Path(__file__).parents[1] / "docs" / "ode.md"
NOISE, LENGTH = 0.1, 10
STEPS = {"matching": 20, "shooting": 30}
WAYS = ("single shooting", "anchored", "gradient matching", "sciml")


class Task(NamedTuple):
    """True trajectories, a model with a random first guess (key -> model), the error of a model and the start that it
    was fitted with, and how small it must be.
    """

    ts: np.ndarray
    truth: Any
    start: np.ndarray
    guess: Callable
    error: Callable
    least: float


def predation(hare, lynx, interactions):
    """The rates of both species."""
    eaten, gained = interactions(jnp.stack([hare, lynx]))
    return 1.3 * hare - eaten, gained - 0.8 * lynx


def pendulum(angle_1, angle_2, velocity_1, velocity_2, length_1, length_2, ratio):
    """Two masses on rods without mass, `ratio` of the second to the first, under 9.81 m/s2."""
    apart = angle_1 - angle_2
    share = ratio / (1 + ratio)
    cosine, sine = jnp.cos(apart), jnp.sin(apart)
    # a_1 + m_12 a_2 = b_1 and m_21 a_1 + a_2 = b_2.
    m_12, m_21 = share * length_2 / length_1 * cosine, length_1 / length_2 * cosine
    b_1 = -share * length_2 / length_1 * velocity_2**2 * sine - 9.81 / length_1 * jnp.sin(angle_1)
    b_2 = length_1 / length_2 * velocity_1**2 * sine - 9.81 / length_2 * jnp.sin(angle_2)
    determinant = 1 - m_12 * m_21
    return velocity_1, velocity_2, (b_1 - m_12 * b_2) / determinant, (b_2 - m_21 * b_1) / determinant


def predation_task() -> Task:
    """See above."""
    ts, start = np.linspace(0, 18, 121), np.array([1.0, 1.0])
    states = ("hare", "lynx")
    steps = ode.Steps(diffrax.Tsit5(), dt=float(ts[1]))
    exact = ode.mechanism(predation, states, interactions=lambda y: (0.9 * y[0] * y[1], 1.8 * y[0] * y[1]))
    clean = exact(start, ts)

    def error(model, own):
        apart = jnp.stack([model(y0, ts) for y0 in (start, own)]) - clean
        return jnp.nanmin(jnp.sqrt(jnp.mean((apart / jnp.std(clean, axis=0)) ** 2, axis=(1, 2))))

    return Task(
        ts,
        exact,
        start,
        lambda key: ode.mechanism(predation, states, steps, interactions=nn.mlp(2, 2, 6, 1, key=key)),
        error,
        NOISE,
    )


def pendulum_task() -> Task:
    """See above."""
    ts, start = np.linspace(0, 8, 201), np.array([2.0, 1.5, 0.0, 0.0])
    truth = {"length_1": 1.0, "length_2": 0.7, "ratio": 0.6}
    states = ("angle_1", "angle_2", "velocity_1", "velocity_2")
    steps = ode.Steps(diffrax.Tsit5(), dt=float(ts[1]))
    usual = ode.mechanism(pendulum, states, steps, **{n: Unknown(1.0, positive=True) for n in truth})

    def guess(key):
        factors = jax.random.uniform(key, (len(truth),), float, -1, 1)
        raws = [jnp.log(v) + jnp.log(2.0) * f for v, f in zip(truth.values(), factors)]
        return eqx.tree_at(lambda m: [m.field.parameters[n].raw for n in truth], usual, raws)

    def error(model, own):
        return jnp.max(jnp.abs(jnp.stack([ode.parameters(model)[n] / v - 1 for n, v in truth.items()])))

    exact = ode.mechanism(pendulum, states, ode.Steps(rtol=1e-10, atol=1e-10), **truth)
    return Task(ts, exact, start, guess, error, 0.05)


TASKS = {"predation": predation_task, "double_pendulum": pendulum_task}


class Prepared(NamedTuple):
    """What a fit takes of a noisy trajectory: all of it, its slopes, its segments with smooth and with measured values
    at their beginning, and the noise.
    """

    data: Any
    points: Any
    segments: Any
    smooth: Any
    measured: Any
    noise: Any


def prepared(task: Task, seeds: int) -> Prepared:
    """That of all seeds, which are the first axis of its arrays."""
    clean = np.asarray(task.truth(task.start, task.ts))
    noise = np.stack([np.random.default_rng(seed).standard_normal(clean.shape) for seed in range(seeds)])
    every = ode.trajectories([(task.ts, y) for y in clean + NOISE * clean.std(axis=0) * noise])
    smooth_ones = ode.smoothed(every)
    found = []
    for seed in range(seeds):
        data, smooth = (jax.tree.map(lambda a, s=seed: a[s : s + 1], x) for x in (every, smooth_ones))
        at_smooth, segments = ode.shooting(len, data, LENGTH, smooth.ys)
        at_measured, _ = ode.shooting(len, data, LENGTH, data.ys)
        points = ode.slopes(data, smooth)
        found.append(Prepared(data, points, segments, at_smooth.raw, at_measured.raw, smooth.noise[0]))
    return jax.tree.map(lambda *arrays: jnp.stack([jnp.asarray(a) for a in arrays]), *found)


def fitted(model, loss: Callable, stream: Any, steps: int):
    """As `sciml.fit` with Gauss-Newton, but such that it can be mapped over seeds."""
    newton = optim.gauss_newton(accelerate=False)
    trained, fixed = eqx.partition(model, eqx.is_inexact_array)
    key = jax.random.key(0)

    def step(carry, number):
        trained, state = carry
        batch, _ = stream.next(key, number, None, None)
        residuals = lambda t, b: loss(eqx.combine(t, fixed), b)  # noqa: E731
        change, state = newton.update(trained, state, trained, residual_fn=residuals, batch=batch)
        return (eqx.apply_updates(trained, change), state), None

    (trained, _), _ = jax.lax.scan(step, (trained, newton.init(trained)), jnp.arange(steps))
    return eqx.combine(trained, fixed)


class Always(sciml.Stream):
    """The same batch."""

    batch: Any

    def next(self, key, step, model, batch):
        return self.batch, jnp.array(False)


def single(guess, given: Prepared):
    """Plain single shooting."""
    loss = ode.trajectory_misfit(scale=given.noise)
    return fitted(guess, loss, Always(given.data), sum(STEPS.values())), given.measured[0]


def anchored(guess, given: Prepared):
    """Segments that begin at measured values."""
    free = ode.shooting_misfit(scale=given.noise)

    def loss(model, batch):
        return free(eqx.tree_at(lambda m: m.raw, model, given.measured), batch)

    weighted = given.segments._replace(joined=100.0 * given.segments.joined)
    model = ode.FreeStarts(guess, given.measured)
    return fitted(model, loss, Always(weighted), sum(STEPS.values())).model, given.measured[0]


def matched(guess, given: Prepared):
    """Gradient matching."""
    return fitted(guess, ode.slope_misfit, Always(given.points), STEPS["matching"]), given.smooth[0]


def usual(guess, given: Prepared):
    """Gradient matching, then segments that begin at states of their own."""
    model = ode.FreeStarts(matched(guess, given)[0], given.smooth)
    stream = ode.tightening(given.segments, STEPS["shooting"] - 10)
    model = fitted(model, ode.shooting_misfit(scale=given.noise), stream, STEPS["shooting"])
    return model.model, model.starts[0]


def measure(name: str, seeds: int) -> dict:
    """The errors of each way, by seed."""
    found: dict = {}
    with sciml.double_precision():
        task = TASKS[name]()
        given = prepared(task, seeds)
        keys = jax.random.split(jax.random.key(0), seeds)
        for way, function in zip(WAYS, (single, anchored, matched, usual)):
            began = time.perf_counter()
            attempt = jax.jit(jax.vmap(lambda key, one, f=function: task.error(*f(task.guess(key), one))))
            # What has no solution is as wrong as can be.
            errors = np.nan_to_num(np.asarray(attempt(keys, given)), nan=np.inf)
            median = float(np.median(errors))
            found[way] = {
                "rate": float(np.mean(errors < task.least)),
                "median_error": median if np.isfinite(median) else None,
                "errors": [float(f"{e:.3g}") if np.isfinite(e) else None for e in errors],
                "seconds": round(time.perf_counter() - began, 1),
            }
            print(name, way, found[way], flush=True)
    return found


def table(report: dict) -> str:
    """The table of the page."""
    names = [n for n in TASKS if n in report]
    rows = [f"| way | {' | '.join(f'`{n}`' for n in names)} |", f"|---{'|---' * len(names)}|"]
    for way in WAYS:
        rows.append(f"| {way} | {' | '.join(cell(report[n][way]) for n in names)} |")
    return "\n".join(rows)


def cell(found: dict) -> str:
    """Rate and median error."""
    median = found["median_error"]
    return f"{100 * found['rate']:.0f} % ({'no solution' if median is None else f'{median:.2g}'})"


def main(names: list[str], seeds: int) -> None:
    """Measures, and writes the file."""
    report = json.loads(PATH.read_text()) if PATH.exists() else {}
    for name in names or TASKS:
        report[name] = measure(name, seeds)
        report["seeds"] = seeds
        report["machine"] = f"{os.cpu_count()} CPU cores, Python {platform.python_version()}"
        report["versions"] = {"jax": jax.__version__, "diffrax": diffrax.__version__}
        report["date"] = datetime.date.today().isoformat()
        PATH.write_text(json.dumps(report, indent=1) + "\n")
    page = PAGE.read_text()
    before, _, rest = page.partition("<!-- success -->\n")
    _, _, after = rest.partition("<!-- end -->\n")
    PAGE.write_text(f"{before}<!-- success -->\n\n{table(report)}\n\n<!-- end -->\n{after}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--seeds", type=int, default=20)
    given_ = parser.parse_args()
    main(given_.names, given_.seeds)
