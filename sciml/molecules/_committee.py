"""Committees: what the members of an ensemble of potentials agree on, how far they are apart, and what that means."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.special import ndtri

from ..nn._ensemble import Ensemble
from ..nn._layers import require_positive
from ._energy import energy_and_forces
from ._frames import Frames
from ._predict import by_structure
from ._structure import Structure


class Opinion(NamedTuple):
    """The means over the members, and their standard deviations: of the energy in eV, and of a component of the force
    on each atom in eV per angstrom (the root mean square of the three, which no rotation changes).
    """

    energy: Float[Array, ""]
    forces: Float[Array, "n 3"]
    energy_spread: Float[Array, ""]
    force_spread: Float[Array, " n"]


def opinion(committee: Ensemble, structure: Structure) -> Opinion:
    """What the potentials of an ensemble say of one structure (query by committee: Schran, Brezina & Marsalek, J. Chem.
    Phys. 153, 104105, 2020). The sum of squared deviations is divided by one less than there are members.
    """
    found = committee.each(lambda member: energy_and_forces(member, structure))
    spread = jnp.sqrt(jnp.mean(jnp.var(found.forces, axis=0, ddof=1), axis=-1))
    means = jnp.mean(found.energy, axis=0), jnp.mean(found.forces, axis=0)
    return Opinion(*means, jnp.std(found.energy, axis=0, ddof=1), spread)


def disagreement(committee: Ensemble, structure: Structure) -> Float[Array, ""]:
    """The `force_spread` of the atom on which the members agree least, in eV per angstrom."""
    return jnp.max(jnp.where(structure.is_atom, opinion(committee, structure).force_spread, 0.0))


def predicted_with_spread(
    committee: Ensemble, data: Frames, cutoff: float, *, size: int = 50, buckets: int = 4
) -> Frames:
    """The same structures with the labels `energy` and `forces` that the members have in the mean, and their standard
    deviations as the labels `energy_spread` and, one for each atom, `force_spread`; see `Opinion`. `size` structures at
    a time.

    Raises ValueError for a size that is not positive, and as `neighbour_list` does.
    """
    require_positive("predicted_with_spread", size=size, buckets=buckets)
    energy, energy_spread = np.zeros(len(data)), np.zeros(len(data))
    forces, force_spread = np.zeros((len(data.species), 3)), np.zeros(len(data.species))
    for number, found in by_structure(lambda s: _opinions(committee, s), data, cutoff, size, buckets):
        rows, n = data.atoms_of(number), data.counts[number]
        energy[number], energy_spread[number] = found.energy, found.energy_spread
        forces[rows], force_spread[rows] = found.forces[:n], found.force_spread[:n]
    labels = {"energy": energy, "energy_spread": energy_spread}
    return data.with_labels(labels, {"forces": forces, "force_spread": force_spread})


@eqx.filter_jit
def _opinions(committee, structures):
    return jax.vmap(lambda s: opinion(committee, s))(structures)


class Calibration(NamedTuple):
    """By what the standard deviations of the energy and of forces are multiplied to be those of the errors."""

    energy: float
    forces: float


def calibration(data: Frames, found: Frames) -> Calibration:
    """From labels of structures that the committee was not trained on, and what `predicted_with_spread` gives for them:
    the factors that make the mean of (error / spread)^2 one, which have the highest likelihood where errors are normal
    (Musil et al., J. Chem. Theory Comput. 15, 906, 2019, eq. 13). Members that learn from the same labels share errors,
    so that the factors are above 1 as a rule. Labels that are NaN do not count.

    Raises ValueError where no label is known, or members agree exactly where they are wrong.
    """
    factors = [float(np.sqrt(np.nanmean(ratio**2))) for ratio in _ratios(data, found)]
    if not np.isfinite(factors).all():
        raise ValueError(f"calibration: the members agree exactly where they are wrong; the factors would be {factors}")
    return Calibration(*factors)


def calibrated(found: Frames, factors: Calibration) -> Frames:
    """The same predictions with their spreads multiplied by the factors of a `calibration`."""
    return found.with_labels(
        {"energy_spread": factors.energy * found.labels["energy_spread"]},
        {"force_spread": factors.forces * found.atom_labels["force_spread"]},
    )


def coverage(data: Frames, found: Frames, level: float = 0.95) -> dict[str, float]:
    """`energy_coverage` and `force_coverage`: the share of errors (of forces: of components) that are within the
    interval that has the probability `level` where errors are normal with the spread as standard deviation. It is near
    `level` where the spread is calibrated.

    Raises ValueError for a level that is not between 0 and 1, and where no label is known.
    """
    if not 0 < level < 1:
        raise ValueError(f"coverage: the level must be between 0 and 1, got {level}")
    width = float(ndtri((1 + level) / 2))
    shares = [float(np.mean(ratio[~np.isnan(ratio)] <= width)) for ratio in _ratios(data, found)]
    return dict(zip(("energy_coverage", "force_coverage"), shares))


def _ratios(data: Frames, found: Frames) -> tuple[np.ndarray, np.ndarray]:
    """The sizes of errors in units of the spread: 0 where nothing is wrong, NaN where no label is known."""
    if "energy_spread" not in found.labels or "force_spread" not in found.atom_labels:
        raise ValueError("expected predictions with 'energy_spread' and 'force_spread', as predicted_with_spread gives")
    if "energy" not in data.labels or "forces" not in data.atom_labels:
        raise ValueError("expected structures with the labels 'energy' and 'forces'")
    energy = _ratio(found.labels["energy"] - data.labels["energy"], found.labels["energy_spread"])
    spread = found.atom_labels["force_spread"][:, None]
    forces = _ratio(found.atom_labels["forces"] - data.atom_labels["forces"], spread)
    for name, ratio in (("energy", energy), ("forces", forces)):
        if np.isnan(ratio).all():
            raise ValueError(f"no label '{name}' is known")
    return energy, forces


def _ratio(errors: np.ndarray, spread: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(errors == 0, 0.0, np.abs(errors) / spread)
