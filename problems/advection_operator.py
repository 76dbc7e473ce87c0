"""Advection: initial values to the solution two time units later, in one application.

u_t + beta u_x = 0 on (0, 1), periodic, from random initial values (see the data set `advection`); at t = 2 and
beta = 0.4 they have moved by 0.8 of the domain. 800 samples train and 200 test, on 128 points.

The operator is linear and commutes with translations, so that `linear_multiplier` is exact to rounding, and `linear`
nearly so, because the initial values span no more than 16 dimensions: no network can do better, and none should be used
here. What the problem tells is how near a network comes, and what kernel ridge regression and persistence make of it.
PDEBench (Takamoto et al., 2022) has this equation as a forecast from ten frames of values with windows and jumps; its
figures are not comparable. Its grid and number of samples, for a GPU:
`sciml run advection_operator --resolution 1024 --samples 10000 --test 1000 --epochs 500 --width 64 --budget 10h`
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import sciml
from sciml import operators

EXPECTED = {"relative_l2": 0.015}
BUDGET = 60.0


def problem(
    network: str = "fno",
    samples: int = 1000,
    test: int = 200,
    resolution: int = 128,
    beta: float = 0.4,
    end: float = 2.0,
    epochs: int = 16,
    width: int = 32,
    modes: int = 16,
    batch: int = 16,
    rate: float = 3e-3,
    seed: int = 0,
) -> sciml.Problem:
    """network: fno or deeponet; samples: of training and test; test: how many of them test; resolution: points; beta:
    speed; end: time of the target; epochs: passes over the data; width, modes: of the network (of a DeepONet the modes
    are the wavenumbers of its trunk, and its perceptrons are eight times as wide); batch: samples of a step; rate:
    largest learning rate.
    """
    if network not in NETWORKS:
        raise ValueError(f"network must be {' or '.join(NETWORKS)}, got '{network}'")
    settings = {"samples": samples, "resolution": resolution, "beta": beta, "end": end, "frames": 1}
    train, held = sciml.dataset("advection", **settings).split(samples - test)
    # Windows of one frame: the frame is the channel.
    pairs = train.windows(1, 1)
    a, u = np.split(held.read()["u"], 2, axis=1)
    scale = sciml.nn.normaliser(train.statistics(), "u")
    model = NETWORKS[network](resolution, width, modes, jax.random.key(seed))
    batches = pairs.batches(batch, seed=seed)
    steps = epochs * len(batches)
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, steps // 10, steps)

    def evaluate(model):
        return {"relative_l2": sciml.metrics.relative_l2(jax.vmap(model)(a), u)}

    def figure(model):
        return operators.field_figure(a, jax.vmap(model)(a), u, name=f"u at t = {end:g}", input_name="u at t = 0")

    return sciml.Problem(
        sciml.nn.normalised(model, scale, scale),
        sciml.relative_misfit,
        batches,
        optax.adam(schedule),
        steps,
        evaluate,
        baselines={
            "mean": operators.mean(pairs),
            "persistence": operators.persistence(),
            "linear_multiplier": operators.linear_multiplier(pairs),
            "linear": operators.linear(pairs),
            "kernel_ridge": operators.kernel_ridge(pairs, scales=(1.0, 2.0, 4.0, 8.0), ridges=(1e-6, 1e-4, 1e-2)),
        },
        figure=figure,
    )


class Periodic(eqx.Module):
    """A DeepONet at the points of the data, the centres of cells, whose trunk gets the first waves of the axis."""

    network: operators.DeepONet
    modes: int = eqx.field(static=True)

    def __call__(self, a):
        x = jnp.asarray(operators.centres(a.shape[-1]), a.dtype)
        angles = 2 * jnp.pi * x[:, None] * jnp.arange(1, self.modes + 1)
        waves = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1)
        return self.network(a, waves / self.modes**0.5)


def deeponet(resolution, width, modes, key):
    sizes = {"dimensions": 2 * modes, "width": 8 * width, "layers": 2}
    return Periodic(operators.DeepONet((1, resolution), 1, **sizes, key=key), modes)


def fno(resolution, width, modes, key):
    return operators.FNO(1, 1, modes=modes, width=width, key=key)


NETWORKS = {"fno": fno, "deeponet": deeponet}

if __name__ == "__main__":
    made = problem()
    model, _ = sciml.fit(made.model, made.loss, made.data, made.optimiser, steps=made.steps)
    print(made.evaluate(model))
