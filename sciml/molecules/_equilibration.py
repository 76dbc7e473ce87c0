"""Charges that equalise the electronegativities of atoms, and their energy."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jax.scipy.special import erf, erfc
from jaxtyping import Array, Float, Int

from ._electrostatics import checked_splitting, half_of_waves, in_waves
from ._layers import Species
from ._structure import Structure, edges, to_neighbours, volume
from ._terms import COULOMB, all_pairs, checked_table, where_valid

# The energy of a Gaussian charge with itself times its width is half of this, in eV angstroms.
ITSELF = COULOMB / math.sqrt(math.pi)
# What rounding may take from a hardness.
ROUNDING = 1e-5


class ChargeEquilibration(eqx.Module):
    """The least energy of charges that sum to the structure's (QEq; Rappe & Goddard, J. Phys. Chem. 95, 3358, 1991,
    eqs. 6 to 10): sum_i chi_i q_i + 1/2 sum_ij J_ij q_i q_j. Between atoms J is the Coulomb energy of two Gaussian
    charges of one elementary charge (theirs is of Slater orbitals), as in Ko et al., Nat. Commun. 12, 398, 2021. It
    takes a linear system of n + 1 equations, and n^2 memory. `charge_equilibration` makes it.

    - `electronegativity`: chi, in eV per elementary charge, `hardness`: J_ii, in eV per its square, and `width`: the
      standard deviation of the Gaussians in angstroms, are functions from a structure to (n,).
    - `waves` and `splitting`: of Ewald's sum, see `Ewald`; no waves for molecules. A cell that has a charge is in a
      uniform background.

    A hardness below the energy 14.3996 / (sqrt(pi) width) of the atom's own Gaussian would let charges grow without
    bound, and raises ValueError; so do molecules with waves, crystals without, and in crystals Gaussians so wide that
    they reach beyond the cutoff. Inside `jit` charges and energy are NaN then.
    """

    electronegativity: Callable
    hardness: Callable
    width: Callable
    waves: Int[Array, "k 3"] | None = None
    splitting: float = eqx.field(static=True, default=0.0)

    def __call__(self, structure: Structure) -> Float[Array, ""]:
        """The energy in eV, 0 for atoms without charges."""
        return self._solved(structure)[1]

    def charges(self, structure: Structure) -> Float[Array, "n"]:
        """In elementary charges; their sum is the structure's charge to rounding, and those of padding are 0."""
        return self._solved(structure)[0]

    def _solved(self, structure):
        here, n = structure.is_atom, len(structure.species)
        width = jnp.where(here, self.width(structure), 1.0)
        hardness = jnp.where(here, self.hardness(structure), ITSELF)
        message = (
            "ChargeEquilibration: the hardness of an atom is below the energy of its own Gaussian, "
            "14.3996 / (sqrt(pi) width); make the Gaussians wider"
        )
        width = where_valid(width, jnp.all(hardness * width >= (1 - ROUNDING) * ITSELF), message)
        matrix = self._between(structure, width) + jnp.diag(hardness)
        # What is no atom has an equation of its own, q = 0.
        matrix = jnp.where(here[:, None] & here, matrix, jnp.eye(n, dtype=width.dtype))
        chi = jnp.where(here, self.electronegativity(structure), 0.0)
        one = here.astype(width.dtype)
        bordered = jnp.block([[matrix, one[:, None]], [one, jnp.zeros(1, width.dtype)]])
        charge = structure.charge.astype(width.dtype)
        q = jnp.linalg.solve(bordered, jnp.append(-chi, charge))[:n]
        return q, chi @ q + 0.5 * q @ matrix @ q

    def _between(self, structure, width):
        """The energies of unit charges on two atoms, and of images of the same atom, (n, n)."""
        if self.waves is not None:
            return COULOMB * self._periodic(structure, width, self.waves)
        r, is_pair = all_pairs(structure, "ChargeEquilibration without a cell")
        return COULOMB * jnp.where(is_pair, erf(r / jnp.sqrt(2 * (width[:, None] ** 2 + width**2))) / r, 0.0)

    def _periodic(self, structure, width, waves):
        size = volume(structure.cell)
        message = "ChargeEquilibration: the structure is not periodic; expected a cell that has a volume"
        size = where_valid(jnp.where(size > 0, size, 1.0), size > 0, message)
        message = (
            f"ChargeEquilibration: Gaussians may be at most {0.5 / self.splitting:.3g} angstroms wide with this cutoff "
            "and accuracy; take a larger cutoff"
        )
        widest = jnp.max(jnp.where(structure.is_atom, width, 0.0))
        size = where_valid(size, 2 * self.splitting * widest <= 1 + ROUNDING, message)
        phases, weights = in_waves(structure.positions, waves, structure.cell, size, self.splitting)
        squares = width**2
        r = edges(structure).distances
        spread = jnp.sqrt(2 * (squares[:, None] + to_neighbours(structure, squares)))
        near = (erfc(self.splitting * r) - erfc(r / spread)) / r
        rows = jnp.arange(len(width))[:, None]
        matrix = jnp.zeros((len(width),) * 2, r.dtype).at[rows, structure.neighbours].add(near)
        for part in (jnp.cos(phases), jnp.sin(phases)):
            matrix += (part * weights) @ part.T
        # The mean over the cell of what is near, so that the mean of the whole is 0.
        uniform = jnp.pi / self.splitting**2 - 2 * jnp.pi * (squares[:, None] + squares)
        return matrix - uniform / size - jnp.diag(jnp.full_like(width, 2 * self.splitting / math.sqrt(math.pi)))


class SpeciesNumbers(eqx.Module):
    """A number by species, as a function from structures to (n,)."""

    name: str = eqx.field(static=True)
    species: tuple[int, ...] = eqx.field(static=True)
    numbers: tuple[float, ...] = eqx.field(static=True)

    def __call__(self, structure: Structure) -> Float[Array, "n"]:
        table = jnp.asarray(self.numbers, structure.positions.dtype)
        return Species(self.species).values(structure.species, table, self.name)


class OwnWidth(eqx.Module):
    """The width of Gaussians whose own energy is the hardness of the atom."""

    hardness: Callable

    def __call__(self, structure: Structure) -> Float[Array, "n"]:
        return ITSELF / jnp.where(structure.is_atom, self.hardness(structure), ITSELF)


def charge_equilibration(
    electronegativity: Callable | Mapping[int, float],
    hardness: Callable | Mapping[int, float],
    width: Callable | Mapping[int, float] | None = None,
    *,
    cell: Any = None,
    cutoff: float | None = None,
    accuracy: float = 1e-6,
) -> ChargeEquilibration:
    """`ChargeEquilibration` of molecules, or of crystals with cells like `cell` (rows, in angstroms). A term of a
    `total`; its `.charges` is a function from structures to charges.

    - `electronegativity`, `hardness`: numbers by species, in eV, such as {1: 4.528, 8: 8.741} and {1: 13.8904,
      8: 13.364} (Rappe & Goddard, 1991, table I), or functions from a structure to (n,), which may be learned.
    - `width`: the same of Gaussians in angstroms; by default those whose own energy is the hardness, about 0.6 of H
      and O, 1.8 of Na.
    - `cutoff`, `accuracy`: with a cell, as of `ewald`. The cutoff must be 7.5 times the largest width for 1e-6.

    Raises ValueError for tables that are not by atomic number or whose hardnesses or widths are not positive, a cell
    without a cutoff or a cutoff without a cell, and as `ewald` does.
    """
    chi, own = _as_function("electronegativity", electronegativity), _as_function("hardness", hardness)
    gauss = OwnWidth(own) if width is None else _as_function("width", width)
    if (cell is None) != (cutoff is None):
        raise ValueError("charge_equilibration: expected both a cell and a cutoff, or none of them")
    if cell is None or cutoff is None:
        return ChargeEquilibration(chi, own, gauss)
    box, alpha, largest = checked_splitting("charge_equilibration", cell, cutoff, accuracy)
    return ChargeEquilibration(chi, own, gauss, jnp.asarray(half_of_waves(box, largest)), alpha)


def _as_function(name, values) -> Any:
    if not isinstance(values, Mapping):
        return values
    species, numbers = checked_table(values, name)
    if name != "electronegativity" and min(numbers) <= 0:
        raise ValueError(f"charge_equilibration: expected a positive {name}, got {dict(zip(species, numbers))}")
    return SpeciesNumbers(name, species, numbers)
