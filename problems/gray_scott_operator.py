"""Gray-Scott: a step of ten time units of two reacting chemicals, and forecasts of twenty steps.

u_t = du Laplace(u) - u v^2 + feed (1 - u), v_t = dv Laplace(v) + u v^2 - (feed + kill) v, periodic, with the constants
of the pattern called maze (see the data set `gray_scott`). Diffusivities are eight times those of The Well: 64 points
then resolve the fronts to a few hundredths (with The Well's, 64 points are wrong by a fourth after five steps). Of 60
spots some survive in each sample; of 20 none did in most. The network predicts the change within a step from one frame.

`vrmse` is that of The Well (Ohana et al., NeurIPS 2024): the root mean square error over the standard deviation of the
target in each frame and field, averaged over both fields and all steps of the test trajectories; `vrmse_rollout` the
mean over twenty steps of forecasts that begin every twenty frames; `rmse` is of a step, in units of concentration. The
Well's own figures of a step are 0.1365 (FNO), 0.3633 (TFNO), 0.2252 (U-Net) and 0.1761 (CNextU-Net): of six patterns at
128 x 128, not comparable. Their grid and times, of one pattern, for a GPU: `sciml run gray_scott_operator --resolution
128 --samples 200 --test 20 --frames 1000 --du 2e-5 --dv 1e-5 --width 128 --epochs 20 --budget 12h`
"""

import jax
import numpy as np
import optax

import sciml
from sciml import operators

EXPECTED = {"vrmse": 0.02}
BUDGET = 180.0


def problem(
    network: str = "fno",
    samples: int = 20,
    test: int = 4,
    resolution: int = 64,
    du: float = 1.6e-4,
    dv: float = 8e-5,
    frames: int = 100,
    epochs: int = 6,
    width: int = 24,
    batch: int = 8,
    rate: float = 2e-3,
    seed: int = 0,
) -> sciml.Problem:
    """network: fno, unet or local; samples: trajectories of training and test; test: how many of them test; resolution:
    points along each axis; du, dv: diffusivities; frames: steps of each; epochs: passes over the data; width: of the
    network; batch: samples of a step of training; rate: largest learning rate.
    """
    if network not in NETWORKS:
        raise ValueError(f"network must be one of {', '.join(NETWORKS)}, got '{network}'")
    settings = {"resolution": resolution, "samples": samples, "du": du, "dv": dv}
    settings |= {"end": 10.0 * frames, "frames": frames, "step": 2.0, "spots": 60}
    train, held = sciml.dataset("gray_scott", **settings).stack(state=["u", "v"]).split(samples - test)
    model = sciml.nn.normalised(
        operators.Stepper(NETWORKS[network](width, jax.random.key(seed))),
        sciml.nn.normaliser(train.statistics(), "state", channel_axis=1),
        sciml.nn.normaliser(train.statistics(), "state", channel_axis=1, difference=True),
        residual=True,
    )
    batches = sciml.data.augmented(train.windows(1, 1).batches(batch, seed=seed), sciml.data.flips(-2, -1), seed=seed)
    steps = epochs * len(batches)
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, steps // 20, steps)
    truth = held.read()["state"]
    (a, u), (past, coming) = (part.windows(1, 1).samples() for part in (held, train))
    starts = range(0, frames - 19, 20)
    first = np.concatenate([truth[:, [i]] for i in starts])
    later = np.concatenate([truth[:, i + 1 : i + 21] for i in starts])

    def evaluate(model):
        step = jax.lax.map(model, a, batch_size=20)
        forecasts = jax.lax.map(operators.rolled(model, 20), first, batch_size=20)
        return {
            "vrmse": sciml.metrics.the_well.vrmse(step, u, grid=(-2, -1)).mean(),
            "vrmse_rollout": sciml.metrics.the_well.vrmse(forecasts, later, grid=(-2, -1)).mean(),
            "rmse": sciml.metrics.rmse(step, u),
        }

    def figure(model):
        forecasts = jax.lax.map(operators.rolled(model, 20), first, batch_size=20)
        return operators.field_figure(first[:, -1], forecasts[:, -1], later[:, -1], name="v after twenty steps")

    some = np.random.default_rng(seed).permutation(len(past))[:300]
    choices = {"scales": (0.5, 1.0, 2.0, 4.0), "ridges": (1e-6, 1e-4, 1e-2)}
    return sciml.Problem(
        model,
        sciml.chunked(sciml.nn.scaled_misfit, 4),
        batches,
        optax.adam(schedule),
        steps,
        evaluate,
        baselines={
            "persistence": operators.persistence(),
            "linear_stencil": operators.Stepper(operators.linear_stencil(past[:, 0], coming[:, 0])),
            "kernel_ridge": operators.kernel_ridge(past[some], coming[some], **choices),
        },
        figure=figure,
    )


NETWORKS = {
    "fno": lambda width, key: operators.FNO(2, 2, modes=(16, 16), width=width, key=key),
    "unet": lambda width, key: operators.UNet(2, 2, width=width // 2, levels=2, key=key),
    "local": lambda width, key: operators.LocalOperator(2, 2, width=width, key=key),
}

if __name__ == "__main__":
    made = problem()
    model, _ = sciml.fit(made.model, made.loss, made.data, made.optimiser, steps=made.steps)
    print(made.evaluate(model))
