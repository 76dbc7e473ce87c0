"""Kuramoto-Sivashinsky: a step of one time unit, and how long forecasts of chaos stay right.

u_t + u u_x + u_xx + u_xxxx = 0 on (0, 64), periodic, on its attractor (see the data set `kuramoto_sivashinsky`). The
network predicts the change within a step from one frame; training ends with a pass of two steps through time. Mirror
images -u(-x) of solutions are solutions, so half of the samples are mirrored. Errors grow as exp(0.09 t): a step ten
times as exact makes a forecast valid for about 25 time units more.

`relative_l2` and `rmse` are those of a step; `valid_time` is the mean time, over forecasts from the first frame of each
test trajectory, until the correlation with the truth falls below 0.8 (`end` where it does not); `growth` the largest
root mean square of a frame of any forecast over that of the first frames (1.1 for persistence): are they bounded?
`linear_multiplier` has the linear part of the equation in reach, `kernel_ridge` sees 1,500 pairs; neither lasts much
longer than persistence. No figures are published for this variant. A long run, for a GPU: `sciml run
kuramoto_sivashinsky_operator --trajectories 2048 --epochs 40 --width 64 --layers 6 --unroll 4 --budget 10h`
"""

import jax
import numpy as np
import optax

import sciml
from sciml import operators

EXPECTED = {"relative_l2": 0.003}
BUDGET = 180.0


def problem(
    trajectories: int = 100,
    test: int = 16,
    step: float = 1.0,
    end: float = 100.0,
    resolution: int = 128,
    epochs: int = 6,
    through_time: int = 1,
    unroll: int = 2,
    width: int = 32,
    modes: int = 32,
    layers: int = 4,
    batch: int = 16,
    rate: float = 2e-3,
    seed: int = 0,
) -> sciml.Problem:
    """trajectories: of training; test: of the test; step: time from frame to frame; end: length of each trajectory;
    resolution: points; epochs: passes over the data with single steps, through_time: those after with `unroll` steps;
    width, modes, layers: of the FNO; batch: windows of a step of training; rate: largest learning rate.
    """
    frames = round(end / step)
    settings = {"samples": trajectories + test, "resolution": resolution, "end": step * frames, "frames": frames}
    data = sciml.dataset("kuramoto_sivashinsky", **settings).stack(state=["u"])
    train, held = data.split(trajectories)
    network = operators.FNO(1, 1, modes=modes, width=width, layers=layers, expansion=1.0, key=jax.random.key(seed))
    model = sciml.nn.normalised(
        operators.Stepper(network),
        sciml.nn.normaliser(train.statistics(), "state", channel_axis=1),
        sciml.nn.normaliser(train.statistics(), "state", channel_axis=1, difference=True),
        residual=True,
    )
    first, later = (train.windows(1, k).batches(batch, seed=seed) for k in (1, unroll))
    counts = epochs * len(first), through_time * len(later)
    staged = sciml.data.staged((counts[0], first), later)
    batches = sciml.data.augmented(staged, sciml.data.flips(-1, odd={-1: [0]}), seed=seed)
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, sum(counts) // 20, sum(counts))
    truth = held.read()["state"]
    (a, u), (past, coming) = (part.windows(1, 1).samples() for part in (held, train))
    some = np.random.default_rng(seed).permutation(len(past))[:1500]

    def evaluate(model):
        predicted = jax.lax.map(model, a, batch_size=100)
        table = operators.stability(model, truth[:, :1], frames, target=truth[:, 1:])
        return {
            "relative_l2": sciml.metrics.relative_l2(predicted, u),
            "rmse": sciml.metrics.rmse(predicted, u),
            "valid_time": step * table["correlated"].mean(),
            "growth": table["growth"].max(),
        }

    def figure(model):
        start, target = truth[:, :1], truth[:, 1:].swapaxes(1, 2)
        forecast = jax.lax.map(operators.rolled(model, frames), start, batch_size=16)
        constant = np.broadcast_to(start.swapaxes(1, 2), target.shape)
        places = (step * np.arange(1, frames + 1), data.coords["x"].values)
        named = {"input_name": "first frame, held", "axes": ("t", "x"), "coordinates": places}
        return operators.field_figure(constant, forecast.swapaxes(1, 2), target, **named)

    choices = {"scales": (0.5, 1.0, 2.0, 4.0), "ridges": (1e-6, 1e-4, 1e-2)}
    return sciml.Problem(
        model,
        operators.rollout_misfit(),
        batches,
        optax.adam(schedule),
        sum(counts),
        evaluate,
        baselines={
            "persistence": operators.persistence(),
            "linear_multiplier": operators.linear_multiplier(past, coming),
            "kernel_ridge": operators.kernel_ridge(past[some], coming[some], **choices),
        },
        figure=figure,
    )


if __name__ == "__main__":
    made = problem()
    model, _ = sciml.fit(made.model, made.loss, made.data, made.optimiser, steps=made.steps)
    print(made.evaluate(model))
