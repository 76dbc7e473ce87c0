"""Forces and stress as derivatives of the energy, and the residuals that train a potential."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._structure import Structure, strained, volume

Potential = Callable[[Structure], Float[Array, ""]]


class Prediction(NamedTuple):
    """The energy in eV, forces in eV per angstrom, and stress in eV per cubic angstrom, positive under tension (as in
    ASE), if it was asked for.
    """

    energy: Array
    forces: Array
    stress: Array | None = None


def energy_and_forces(model: Potential, structure: Structure) -> Prediction:
    """The energy, and forces (n, 3) = -dE/dR by one backward pass."""
    energy, slope = jax.value_and_grad(lambda r: model(_moved(structure, r)))(structure.positions)
    return Prediction(energy, -slope)


def energy_forces_stress(model: Potential, structure: Structure) -> Prediction:
    """As `energy_and_forces`, and the stress (3, 3) = dE/dstrain / volume by the same pass (Knuth et al., Comput. Phys.
    Commun. 190, 33, 2015). It is NaN where nothing is periodic.
    """

    def energy(positions, strain):
        return model(strained(_moved(structure, positions), strain))

    strain = jnp.zeros((3, 3), structure.positions.dtype)
    value, (slope, stress) = jax.value_and_grad(energy, argnums=(0, 1))(structure.positions, strain)
    size = volume(structure.cell)
    return Prediction(value, -slope, jnp.where(size > 0, stress / jnp.where(size > 0, size, 1), jnp.nan))


def _moved(structure: Structure, positions: Array) -> Structure:
    return eqx.tree_at(lambda s: s.positions, structure, positions)


def potential_misfit(*, energy: float = 1.0, forces: float = 1.0, stress: float | None = None) -> Callable:
    """The loss `(model, (structures, labels)) -> residuals` of a potential on batches of `batches`: those of the energy
    per atom, in units of `energy` eV, of the forces, in units of `forces` eV per angstrom, and of the stress if a unit
    is given, in eV per cubic angstrom. The units are how large deviations may be; their ratio says what counts more.
    Labels that are NaN do not count.

    Raises ValueError for units that are not positive, and where labels lack one that is fitted.
    """
    units = {"energy": energy, "forces": forces} | ({} if stress is None else {"stress": stress})
    for name, unit in units.items():
        if not unit > 0:
            raise ValueError(f"potential_misfit: the unit of '{name}' must be positive, got {unit}")

    def loss(model, batch):
        structures, labels = jax.tree.map(jnp.asarray, batch)
        missing = [n for n in units if n not in labels]
        if missing:
            raise ValueError(f"potential_misfit: no label '{missing[0]}'; labels are {', '.join(labels) or 'none'}")
        derived = energy_and_forces if stress is None else energy_forces_stress
        found = jax.vmap(lambda s: derived(model, s))(structures)._asdict()
        found["energy"] = found["energy"] / structures.count
        target = dict(labels) | {"energy": labels["energy"] / structures.count}
        return {n: known_residual((found[n] - target[n]) / unit, target[n]) for n, unit in units.items()}

    return loss


def known_residual(residual: Array, target: Array) -> Array:
    """The residual where the target is known and 0 elsewhere, scaled so that its mean square is that of the known."""
    known = jnp.isfinite(target)
    share = jnp.maximum(jnp.mean(known, dtype=residual.dtype), 1 / known.size)
    return jnp.where(known, residual, 0.0) / jnp.sqrt(share)
