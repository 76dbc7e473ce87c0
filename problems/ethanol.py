"""Ethanol: a potential from 950 frames of molecular dynamics labelled by density functional theory (revised MD17).

NequIP with harmonics up to degree 2 learns energies and forces by SOAP; 50 frames are held out for looking at
(`validation`), the 1,000 of the test set are seen by nobody. `energy_mae` is in eV, `force_mae` and `force_rmse` over
components in eV per angstrom. The energy of the model is that above the mean of the training set, which is subtracted
in double precision. Baseline: the mean energy without forces (`mean`).

Published with as many frames: 0.4 meV and 2.1 meV per angstrom (MACE; Batatia et al., NeurIPS 2022). For a longer run,
which nobody has measured: `--steps 500000 --width 48 --budget 14400`.
"""

import jax
import jax.numpy as jnp
import optax

import sciml
from sciml import molecules, optim

EXPECTED = {"force_mae": 0.012, "energy_mae": 0.003}
BUDGET = 900.0
CUTOFF = 5.0
SPECIES = (1, 6, 8)


def problem(
    steps: int = 50_000,
    width: int = 24,
    layers: int = 3,
    radial: int = 10,
    batch: int = 5,
    rate: float = 4e-3,
    seed: int = 0,
) -> sciml.Problem:
    """steps: of training; width, layers, radial: of NequIP; batch: structures of a step; rate: the largest step size of
    SOAP; seed: of network and batches."""
    labelled = molecules.frames_from_dataset(sciml.dataset("ethanol", part="train"))
    mean = labelled.labels["energy"].mean()
    labelled = above(labelled, mean)
    test = above(molecules.frames_from_dataset(sciml.dataset("ethanol", part="test")), mean)
    train, validation = molecules.split(labelled, 950, seed=seed)
    key = jax.random.key(seed)
    model = molecules.NequIP(
        SPECIES, CUTOFF, width=width, layers=layers, radial=radial, degree=2, neighbours=8, linear=True, key=key
    )

    def evaluate(model):
        seen = molecules.errors(validation, molecules.predicted(model, validation, CUTOFF))
        found = molecules.errors(test, molecules.predicted(model, test, CUTOFF))
        return {**found, "force_mae_validation": seen["force_mae"]}

    def figure(model):
        found = molecules.predicted(model, test, CUTOFF)
        return molecules.labels_figure(test, found, title="ethanol, 1,000 frames of the test set")

    return sciml.Problem(
        model,
        # A meV of energy per atom counts as much as ten of force per angstrom.
        molecules.potential_misfit(energy=0.1, forces=1.0),
        molecules.batches(train, CUTOFF, batch, buckets=1, seed=seed),
        optimiser(steps, rate),
        steps,
        evaluate,
        baselines={"mean": lambda s: 0.0 * jnp.sum(s.positions)},
        figure=figure,
    )


def above(data, energy):
    """The frames with energies above this one."""
    return data.with_labels({"energy": data.labels["energy"] - energy})


def optimiser(steps, rate):
    """SOAP with a rate that rises and falls, gradients of bounded size, and an average of the parameters."""
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, max(1, min(500, steps // 10)), steps, 1e-3 * rate)
    return optim.averaged(optax.chain(optax.clip_by_global_norm(10.0), optim.soap(schedule)), 0.999)
