"""Vorticity on the torus with a constant forcing: steps of one time unit, and rollouts of 20.

w_t + u w_x + v w_y = nu Laplace(w) + f on (0, 1)^2, periodic: the problem of Li, Kovachki et al., "Fourier neural
operator for parametric partial differential equations", ICLR 2021, section 5.3, made by the recipe of this name at
64 x 64 points. `relative_l2` is the error of rollouts over all frames of test trajectories from their initial values,
`relative_l2_step` and `rmse` that of single steps, `largest` the largest value of a rollout over that of the truth.

The network sees the forcing beside the vorticity: it commutes with all translations. Samples are mirrored at random in
the ways that keep the forcing. Single steps are learned first, then several through time.

The paper learns times above 10 from 10 frames and reports 0.0128 (FNO-2D) and 0.0245 (U-Net) for nu = 1e-3 with 1,000
trajectories: `--samples 1000 --refine 4 --end 50 --width 64 --steps 200000` is of that size, for a GPU. `--nu 1e-4
--refine 4` is more turbulent.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import sciml
from sciml import operators

EXPECTED = {"relative_l2": 0.075}
BUDGET = 180.0


class Forced(eqx.Module):
    """A network that sees the forcing beside its input."""

    network: eqx.Module

    def __call__(self, a):
        phase = 2 * jnp.pi * jnp.add.outer(*(jnp.arange(n, dtype=a.dtype) / n for n in a.shape[1:]))
        return self.network(jnp.concatenate([a, jnp.stack([jnp.sin(phase), jnp.cos(phase)])]))


def problem(
    steps: int = 380,
    through: int = 2,
    samples: int = 24,
    nu: float = 1e-3,
    end: int = 20,
    refine: int = 1,
    width: int = 32,
    modes: int = 12,
    batch: int = 8,
    rate: float = 3e-3,
    seed: int = 0,
) -> sciml.Problem:
    """steps: of training; through: steps through time in its last quarter; samples: trajectories
    to learn from; nu: viscosity; end: frames of a trajectory; refine: how many times finer the solver's grid is; width,
    modes: of the network; batch: samples of a step; rate: largest learning rate.
    """
    settings = {"nu": nu, "end": float(end), "frames": end, "refine": refine, "velocity": False}
    train, test = sciml.dataset("navier_stokes", samples=samples + 8, **settings).stack(w=["w"]).split(samples)
    statistics, truth = train.statistics(), jnp.asarray(test.read()["w"])
    model = sciml.nn.normalised(
        operators.Stepper(Forced(operators.FNO(3, 1, modes=(modes, modes), width=width, key=jax.random.key(seed)))),
        sciml.nn.normaliser(statistics, "w", channel_axis=1),
        sciml.nn.normaliser(statistics, "w", channel_axis=1, difference=True),
        residual=True,
    )
    first, rest = (train.windows(1, k).batches(batch, seed=seed) for k in (1, through))
    pairs = train.windows(1, 1)
    return sciml.Problem(
        model,
        sciml.chunked(operators.rollout_misfit(), 4),
        sciml.data.augmented(sciml.data.staged((3 * steps // 4, first), rest), symmetric, seed=seed),
        optax.adamw(optax.warmup_cosine_decay_schedule(0.0, rate, steps // 10, steps)),
        steps,
        lambda model: errors(model, truth),
        baselines={
            "persistence": operators.persistence(),
            "linear": operators.linear_multiplier(pairs),
            "kernel_ridge": operators.kernel_ridge(pairs),
        },
        figure=lambda model: operators.field_figure(
            truth[:, 0], rolled(model, truth)[:, -1], truth[:, -1], name="vorticity, end", input_name="start"
        ),
    )


def rolled(model, truth):
    """The frames after the first one of each trajectory."""
    return jax.vmap(lambda frame: operators.rollout(model, frame[None], truth.shape[1] - 1))(truth[:, 0])


def errors(model, truth):
    """The metrics."""
    frames, target = rolled(model, truth), truth[:, 1:]
    one = jax.vmap(jax.vmap(lambda frame: model(frame[None])[0]))(truth[:, :-1])
    return {
        "relative_l2": sciml.metrics.relative_l2(frames, target),
        "relative_l2_step": sciml.metrics.relative_l2(one, target),
        "rmse": sciml.metrics.rmse(one, target),
        "largest": jnp.max(jnp.abs(frames)) / jnp.max(jnp.abs(target)),
    }


def symmetric(key, batch):
    """Half of the samples mirrored, half turned, moved so that the forcing stays; a mirrored vorticity changes sign."""
    axes, turned = jax.random.bernoulli(key, 0.5, (2, len(batch[0]), 1, 1, 1, 1))

    def change(w):
        n = w.shape[-1]
        w = jnp.where(axes, -jnp.roll(jnp.swapaxes(w, -1, -2), (n // 4, n // 4), (-2, -1)), w)
        return jnp.where(turned, jnp.roll(w[..., ::-1, ::-1], (n // 8 + 1, n // 8 + 1), (-2, -1)), w)

    return tuple(map(change, batch))
