"""Silicon: a potential for periodic cells from 214 structures labelled by density functional theory.

NequIP with harmonics up to degree 2 learns energies, forces and stress of molecular dynamics, strained cells, surfaces
and a vacancy (the split of Zuo et al., J. Phys. Chem. A 124, 731, 2020), by SOAP, one structure at a step; the 25
structures of the test set are seen by nobody. `force_rmse` and `force_mae` over components are in eV per angstrom,
`energy_mae_atom` in eV per atom, `stress_mae` in eV per cubic angstrom (1e-3 of it are 0.16 GPa). The energy of an atom
in the mean of the training set is subtracted in double precision. Baseline: that mean alone (`mean`). Zuo et al. report
a force RMSE of 0.06 to 0.11 for classical machine-learned potentials on this data.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import sciml
from sciml import molecules, optim

EXPECTED = {"force_rmse": 0.1, "energy_mae_atom": 0.005}
BUDGET = 1800.0


def problem(
    steps: int = 70_000,
    width: int = 32,
    layers: int = 2,
    radial: int = 10,
    batch: int = 1,
    rate: float = 4e-3,
    cutoff: float = 4.3,
    seed: int = 0,
) -> sciml.Problem:
    """steps: of training; width, layers, radial: of NequIP; batch: structures of a step; rate: the largest step size of
    SOAP; cutoff: in angstroms; seed: of network and batches."""
    train = molecules.frames_from_dataset(sciml.dataset("mlearn", element="Si", part="train"))
    test = molecules.frames_from_dataset(sciml.dataset("mlearn", element="Si", part="test"))
    kinds, table = train.composition()
    reference = molecules.fitted_reference_energies(kinds, table, train.labels["energy"])
    train, test = (data.with_labels({"energy": binding(data, reference)}) for data in (train, test))

    def evaluate(model):
        return molecules.errors(test, molecules.predicted(model, test, cutoff, size=5))

    def figure(model):
        found = molecules.predicted(model, test, cutoff, size=5)
        return molecules.labels_figure(test, found, title="silicon, 25 structures of the test set")

    sizes = {"width": width, "layers": layers, "radial": radial, "degree": 2, "neighbours": 16}
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, max(1, min(500, steps // 20)), steps, 1e-3 * rate)
    return sciml.Problem(
        molecules.NequIP(kinds.tolist(), cutoff, **sizes, linear=True, products=True, key=jax.random.key(seed)),
        molecules.potential_misfit(energy=0.02, forces=0.3, stress=0.01),
        molecules.batches(train, cutoff, batch, buckets=2, seed=seed),
        optim.averaged(optax.chain(optax.clip_by_global_norm(10.0), optim.soap(schedule)), 0.998),
        steps,
        evaluate,
        baselines={"mean": lambda s: 0.0 * jnp.sum(s.positions)},
        figure=figure,
    )


def binding(data, reference):
    """Energies less those of the atoms by themselves."""
    _, table = data.composition()
    return data.labels["energy"] - table @ np.asarray(reference.energies)
