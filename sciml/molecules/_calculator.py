"""A potential as a calculator of ASE."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from ase.calculators.calculator import CalculationFailed, all_changes
from ase.calculators.calculator import Calculator as Base
from ase.stress import full_3x3_to_voigt_6_stress

from .._precision import double_precision
from ._batches import structure_with_room
from ._energy import Potential, energy_and_forces, energy_forces_stress
from ._structure import Structure


class Calculator(Base):
    """Gives ASE the energy and forces of a potential and, where something is periodic in a cell of three vectors, the
    stress (xx, yy, zz, yz, xz, xy in eV per cubic angstrom, positive under tension).

    - `cutoff`: that of the model, in angstroms: what is farther apart must not matter to it.
    - `skin` in angstroms: neighbours are found within `cutoff + skin`, and again once an atom has moved half a skin or
      something else has changed.
    - `double`: compute in double precision, by default; the model's own numbers stay as they are. Otherwise in JAX's
      default precision.

    There is room for more neighbours than there are, so that the model is compiled again only for another number of
    atoms or neighbours that become many more. The charge is `atoms.info["charge"]`, or 0.

    Raises ValueError as `structure` does, and for a skin that is negative; ASE's CalculationFailed where the energy is
    not finite.
    """

    implemented_properties = ["energy", "free_energy", "forces", "stress"]

    def __init__(self, model: Potential, cutoff: float, *, skin: float = 0.5, double: bool = True, **options: Any):
        if not skin >= 0:
            raise ValueError(f"Calculator: the skin must not be negative, got {skin}")
        super().__init__(**options)
        self.model, self.cutoff, self.skin, self.double = model, cutoff, skin, double
        self._found_for: Atoms | None = None
        self._structure: Any = None

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """What has changed since the last calculation, the charge in `info` too; called by ASE."""
        changes = super().check_state(atoms, tol)
        if self.atoms is not None and _charge(atoms) != _charge(self.atoms):
            changes.append("initial_charges")
        return changes

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        """Called by ASE."""
        super().calculate(atoms, properties, system_changes)
        current: Any = self.atoms
        periodic = bool(current.pbc.any() and current.cell.rank == 3)
        with double_precision(self.double):
            found = _evaluated(self.model, self._with_neighbours(current), periodic)
        energy = float(found.energy)
        if not np.isfinite(energy):
            raise CalculationFailed(f"the energy is {energy}: do atoms overlap, or does the model not know an element?")
        self.results = {"energy": energy, "free_energy": energy, "forces": np.asarray(found.forces, float)}
        if periodic:
            self.results["stress"] = full_3x3_to_voigt_6_stress(np.asarray(found.stress, float))

    def _with_neighbours(self, atoms: Atoms) -> Structure:
        if self._is_near(atoms):
            kind = self._structure.positions.dtype
            moved = jnp.asarray(atoms.positions, kind), jnp.asarray(_charge(atoms), kind)
            return eqx.tree_at(lambda s: (s.positions, s.charge), self._structure, moved)
        alike = self._found_for is not None and len(self._found_for) == len(atoms)
        places = self._structure.neighbours.shape[1] if alike else 0
        self._structure = structure_with_room(atoms, self.cutoff + self.skin, places)
        self._found_for = atoms.copy()
        return self._structure

    def _is_near(self, atoms: Atoms) -> bool:
        """Whether all pairs within the cutoff are among the neighbours that were found."""
        other = self._found_for
        if other is None or not np.array_equal(other.numbers, atoms.numbers):
            return False
        if not np.array_equal(other.cell.array, atoms.cell.array) or not np.array_equal(other.pbc, atoms.pbc):
            return False
        # Written so that NaN is not near.
        return bool(np.linalg.norm(atoms.positions - other.positions, axis=1).max(initial=0) < self.skin / 2)


def _charge(atoms: Atoms) -> float:
    return float(atoms.info.get("charge", 0.0))


@eqx.filter_jit
def _evaluated(model, structure, periodic):
    return (energy_forces_stress if periodic else energy_and_forces)(model, structure)
