"""Reference energies: what atoms have wherever they are, so that a network learns the energy of binding only."""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._structure import Structure
from ._terms import by_species, checked_table


class ReferenceEnergies(eqx.Module):
    """The sum of an energy for each atom, by its species; `reference_energies` and `fitted_reference_energies` make it.

    - `species`: atomic numbers.
    - `energies`: in eV; as numbers they are not trained, as an array they are.

    In single precision an energy of thousands of eV is known to some tenths of meV: subtract the reference from labels
    in double precision first (`minus`) where that matters.
    """

    species: tuple[int, ...] = eqx.field(static=True)
    energies: tuple[float, ...] | Float[Array, "s"]

    def __call__(self, structure: Structure) -> Float[Array, ""]:
        """In eV. Raises ValueError where a species is unknown; inside `jit` the energy is NaN then."""
        dtype = structure.positions.dtype
        return jnp.sum(by_species(structure, self.species, jnp.asarray(self.energies, dtype), "reference energies"))

    def trainable(self) -> "ReferenceEnergies":
        """The same energies, which training changes."""
        return ReferenceEnergies(self.species, jnp.asarray(self.energies))

    def frozen(self) -> "ReferenceEnergies":
        """The same energies, which training does not change."""
        return ReferenceEnergies(self.species, tuple(float(e) for e in self.energies))


def reference_energies(energies: Mapping[int, float]) -> ReferenceEnergies:
    """Of isolated atoms, by atomic number, in eV, computed by the method that labels the data. They are not trained.

    Raises ValueError where there are none, a key is no atomic number or an energy is not finite.
    """
    return ReferenceEnergies(*checked_table(energies, "reference energies"))


def fitted_reference_energies(species: Any, composition: Any, energies: Any) -> ReferenceEnergies:
    """Those whose sums are nearest to the energies of structures, by least squares. They are not trained.

    - `species`: the atomic numbers that occur, (s,); `composition`: how many atoms of each a structure has, (m, s);
      `energies`: of the structures, (m,), in eV; those that are NaN do not count.

    Where compositions do not tell species apart, as in a set of one molecule, the solution is the one whose deviations
    from a common energy of all atoms are the smallest: sums are right for the compositions seen, not for others.

    Raises ValueError for shapes that do not fit or where no energy is known.
    """
    kinds, table, energies = np.asarray(species), np.asarray(composition, float), np.asarray(energies, float)
    if kinds.ndim != 1 or energies.ndim != 1 or table.shape != (len(energies), len(kinds)):
        raise ValueError(
            "fitted reference energies: expected species (s,), composition (m, s) and energies (m,), "
            f"got {kinds.shape}, {table.shape} and {energies.shape}"
        )
    known = np.isfinite(energies)
    if not known.any():
        raise ValueError("fitted reference energies: no energy is known; expected at least one that is finite")
    table, energies = table[known], energies[known]
    # By atom in the mean first: the minimum norm is then that of deviations, not of energies.
    common = energies.sum() / table.sum()
    deviations = np.linalg.lstsq(table, energies - common * table.sum(axis=1), rcond=1e-10)[0]
    return reference_energies(dict(zip(kinds.tolist(), (common + deviations).tolist(), strict=True)))
