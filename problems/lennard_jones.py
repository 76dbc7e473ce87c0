"""Argon: a network learns the Lennard-Jones potential from periodic crystals that are strained and shaken.

Energies, forces and stress of 32 atoms are exact, in double precision, so that errors are those of the network:
`force_mae` and `force_rmse` over components in eV per angstrom (of forces of some hundredths), `energy_mae_atom` in eV
per atom, `stress_mae` in eV per cubic angstrom. `drift` is how fast the total energy leaves its start in 5 ps of
molecular dynamics at constant energy with the learned potential, from 60 K, in eV per atom and ps; `drift_exact` that
of the Lennard-Jones potential itself. Nothing is downloaded. Baseline: no forces at all (`mean`).
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ase.build import bulk

import sciml
from sciml import molecules, optim

EXPECTED = {"force_mae": 0.006, "energy_mae_atom": 0.001}
BUDGET = 120.0
CUTOFF = 6.0


def problem(steps: int = 1500, samples: int = 120, width: int = 32, moved: int = 1000, seed: int = 0) -> sciml.Problem:
    """steps: of training; samples: crystals for training, and half as many for the test; width: of PaiNN; moved: steps
    of dynamics, 5 fs each; seed: of crystals, network and batches."""
    exact = molecules.LennardJones(cutoff=CUTOFF, onset=5.0)
    with sciml.double_precision():
        data = molecules.predicted(exact, crystals(samples + samples // 2, seed), CUTOFF)
    mean = np.mean(data.labels["energy"])
    data = data.with_labels({"energy": data.labels["energy"] - mean})
    train, test = molecules.split(data, samples, seed=seed)
    key = jax.random.key(seed)
    start = molecules.structure(bulk("Ar", "fcc", a=5.3, cubic=True).repeat(2), CUTOFF)

    def evaluate(model):
        found = molecules.errors(test, molecules.predicted(model, test, CUTOFF))
        return found | {"drift": drift(model, start, moved), "drift_exact": drift(exact, start, moved)}

    def figure(model):
        found = molecules.predicted(model, test, CUTOFF)
        return molecules.labels_figure(test, found, title="argon, crystals of the test set")

    schedule = optax.warmup_cosine_decay_schedule(0.0, 5e-3, max(1, steps // 20), steps, 5e-6)
    return sciml.Problem(
        molecules.PaiNN([18], CUTOFF, width=width, layers=2, neighbours=18, key=key),
        molecules.potential_misfit(energy=0.003, forces=0.03, stress=0.003),
        molecules.batches(train, CUTOFF, 4, buckets=1, seed=seed),
        optim.averaged(optax.chain(optax.clip_by_global_norm(10.0), optax.adam(schedule)), 0.99),
        steps,
        evaluate,
        baselines={"mean": lambda s: 0.0 * jnp.sum(s.positions)},
        figure=figure,
    )


def crystals(count, seed):
    """Face-centred crystals of 32 atoms, each strained by some percent and shaken by a tenth of an angstrom."""
    random, found = np.random.default_rng(seed), []
    for _ in range(count):
        atoms = bulk("Ar", "fcc", a=5.3, cubic=True).repeat(2)
        strain = random.normal(scale=0.02, size=(3, 3))
        atoms.set_cell(atoms.cell @ (np.eye(3) + (strain + strain.T) / 2), scale_atoms=True)
        atoms.positions += random.uniform(0.05, 0.15) * random.normal(size=atoms.positions.shape)
        found.append(atoms)
    return molecules.from_atoms(found)


def drift(model, start, steps):
    """By how much the total energy changes in the mean, in eV per atom and ps: the slope of a line through it."""
    if not steps:
        return 0.0
    run = molecules.dynamics(
        model, start, cutoff=CUTOFF, steps=steps, step=5.0, temperature=60.0, key=jax.random.key(0), progress=False
    )
    energy = np.asarray(run["energy"] + run["kinetic"], float)
    return abs(np.polyfit(np.asarray(run["time"], float) / 1000, energy, 1)[0]) / len(start.species)
