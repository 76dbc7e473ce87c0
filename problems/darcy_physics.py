"""Darcy flow from 50 labelled samples and the equation.

-div(a grad u) = 1 on the unit square, u = 0 on its sides, as in `darcy`. Of 1,000 permeabilities 50 have their pressure
with them; for the others the operator is trained by the residual of the equation alone, that of the very `PDE` which a
solver takes, on the grid by finite volumes. Measured in the Sobolev space H^-1 it is the error of the flux, so that
waves of all lengths are learned at once. `--physics 0` learns from the 50 samples alone, to compare. Physics-informed
operators: Li et al., ACM/IMS Journal of Data Science 1(3), 2024.

The pressure vanishes at the sides by construction. The symmetries of the square, which multiply the labels, are not
used here: with them 50 labels alone give about 0.02.
"""

import jax
import numpy as np
import optax

import sciml
from sciml import operators

EXPECTED = {"relative_l2": 0.025}
BUDGET = 180.0
# About the ratio of the squared norms of slope and value, so that errors of both count alike.
BALANCE = 30.0
AXIS = operators.Bounded(points=operators.ends, padding=0.25)


def problem(
    labelled: int = 50,
    physics: float = 1.0,
    steps: int = 2000,
    resolution: int = 24,
    width: int = 32,
    modes: int = 8,
    batch: int = 8,
    rate: float = 3e-3,
    decay: float = 0.01,
    samples: int = 1000,
    seed: int = 0,
) -> sciml.Problem:
    """labelled: samples with a target; physics: weight of the mean square of the residual, relative to that of the
    misfit; steps: of training; resolution: points along each axis; width, modes: of the FNO; batch: samples of a step
    without a target, and half as many with one; rate: largest learning rate; decay: of the weights; samples:
    permeabilities in all.
    """
    data = sciml.dataset("darcy", resolution=resolution, samples=samples + 200).stack(a=["a"], u=["u"])
    known, unknown, test = data.split(labelled, samples - labelled, 200)
    statistics, test = known.statistics(), test.read()
    # About the mean square of the flux, that an error of the pressure of the size of the pressure has.
    flux = BALANCE * float(np.mean(known.read()["a"] ** 2) * np.mean(known.read()["u"] ** 2))
    model = sciml.nn.normalised(
        operators.FNO(1, 1, modes=(modes, modes), width=width, axes=AXIS, expansion=1.0, key=jax.random.key(seed)),
        sciml.nn.normaliser(statistics, "a", channel_axis=0),
        sciml.nn.normaliser(statistics, "u", channel_axis=0),
    )
    model = operators.vanishing(model, (AXIS, AXIS))
    misfit = sciml.weighted(sciml.metrics.h1_misfit(grid=(-2, -1), periodic=False), misfit=BALANCE)
    residual = sciml.pde.physics(
        sciml.equations("darcy"), inputs=("a",), conditions=False, staggered=sciml.pde.harmonic_mean, norm=-1
    )
    streams = {"known": known.batches(min(batch // 2, labelled), seed=seed)}
    losses = {"known": misfit}
    if physics:
        streams["unknown"] = unknown["a",].batches(batch, seed=seed)
        losses["unknown"] = sciml.weighted(residual, conservation=physics / flux)
    return sciml.Problem(
        model,
        sciml.pde.by_group(**losses),
        sciml.pde.together(**streams),
        optax.adamw(optax.warmup_cosine_decay_schedule(0.0, rate, steps // 10, steps), weight_decay=decay),
        steps,
        lambda model: {"relative_l2": sciml.metrics.relative_l2(jax.vmap(model)(test["a"]), test["u"])},
        baselines={
            "mean": operators.mean(known.read()["u"]),
            "linear": operators.linear(known),
            "kernel_ridge": operators.kernel_ridge(known),
        },
        figure=lambda model: operators.field_figure(
            test["a"], jax.vmap(model)(test["a"]), test["u"], name="pressure", input_name="permeability"
        ),
    )


if __name__ == "__main__":
    made = problem()
    model, _ = sciml.fit(made.model, made.loss, made.data, made.optimiser, steps=made.steps)
    print(made.evaluate(model))
