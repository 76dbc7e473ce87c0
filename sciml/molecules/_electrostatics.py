"""Charges of atoms and the energy of their Coulomb interaction: of molecules over all pairs, of crystals by Ewald."""

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erf, erfc
from jaxtyping import Array, Float, Int

from ._layers import Species
from ._neighbours import checked_cell
from ._structure import Structure, edges, to_neighbours, volume
from ._terms import COULOMB, all_pairs, checked_table, where_valid

# Charges whose sum is further from zero are no neutral cell.
NEUTRAL = 1e-4


def conserved(structure: Structure, charges: Float[Array, "n"], weights: Any = None) -> Float[Array, "n"]:
    """The charges, made to sum to `structure.charge`: each atom takes the same part of the excess, or one in proportion
    to its weight (n,), as its hardness would have it. 0 where there is no atom.
    """
    share = jnp.where(structure.is_atom, 1.0 if weights is None else weights, 0.0).astype(charges.dtype)
    charges = jnp.where(structure.is_atom, charges, 0.0)
    return charges + share / jnp.sum(share) * (structure.charge.astype(charges.dtype) - jnp.sum(charges))


class SpeciesCharges(eqx.Module):
    """A charge by species, whatever the neighbours; `species_charges` makes it."""

    species: tuple[int, ...] = eqx.field(static=True)
    charges: tuple[float, ...] = eqx.field(static=True)

    def __call__(self, structure: Structure) -> Float[Array, "n"]:
        """In elementary charges, and not made to sum to the structure's."""
        table = jnp.asarray(self.charges, structure.positions.dtype)
        return Species(self.species).values(structure.species, table, "SpeciesCharges")


def species_charges(charges: Mapping[int, float]) -> SpeciesCharges:
    """The function from structures to charges of atoms which gives each what its species has: {11: 1.0, 17: -1.0}.

    Raises ValueError where there are none, a key is no atomic number or a charge is not finite; where it is called,
    for other species.
    """
    return SpeciesCharges(*checked_table(charges, "charges"))


class ChargeHead(eqx.Module):
    """Charges of atoms from their features, made to sum to the structure's charge (`conserved`).

    - `features`: a function from a structure to features of atoms, (n, w).
    - `readout`: a function from (w,) to a number or (1,), as `equinox.nn.MLP`.
    """

    features: Callable
    readout: Callable

    def __call__(self, structure: Structure) -> Float[Array, "n"]:
        """In elementary charges."""
        raw = jax.vmap(self.readout)(self.features(structure))
        return conserved(structure, raw.reshape(len(structure.species)))


class Coulomb(eqx.Module):
    """The Coulomb energy of the charges of a molecule's atoms, over all pairs whatever the cutoff: n^2 of them.

    - `charges`: a function from a structure to charges of atoms, (n,), in elementary charges.
    - `width`: the standard deviation of the Gaussians that charges are spread over, in angstroms, which keeps the
      energy finite at short distances; 0 for points.
    """

    charges: Callable
    width: float = eqx.field(static=True, default=0.0)

    def __check_init__(self):
        if not 0 <= self.width < math.inf:
            raise ValueError(f"Coulomb: expected a width of at least 0 angstroms, got {self.width}")

    def __call__(self, structure: Structure) -> Float[Array, ""]:
        """In eV. Raises ValueError where the structure is periodic; inside `jit` the energy is NaN then."""
        q = jnp.where(structure.is_atom, self.charges(structure), 0.0)
        r, is_pair = all_pairs(structure, "Coulomb")
        smeared = erf(r / (2 * self.width)) if self.width else 1.0
        return 0.5 * COULOMB * (q @ jnp.where(is_pair, smeared / r, 0.0) @ q)


class Ewald(eqx.Module):
    """The Coulomb energy of point charges in a crystal, by Ewald's sum: a part of short range over the neighbours of
    the structure, one over wave vectors, the energy of each charge with itself, and where the cell has a charge, that
    of a uniform background which makes it neutral. The surroundings are a conductor. `ewald` makes it.

    - `charges`: a function from a structure to charges of atoms, (n,), in elementary charges.
    - `waves`: the integer coordinates of half of the wave vectors in the reciprocal cell, without 0.
    - `splitting`: alpha, in inverse angstroms.
    - `background`: whether cells may have a charge.
    """

    charges: Callable
    waves: Int[Array, "k 3"]
    splitting: float = eqx.field(static=True)
    background: bool = eqx.field(static=True, default=False)

    def __call__(self, structure: Structure) -> Float[Array, ""]:
        """In eV. Raises ValueError where the cell has no volume or a charge without a background; inside `jit` the
        energy is NaN then.
        """
        q = jnp.where(structure.is_atom, self.charges(structure), 0.0)
        size = volume(structure.cell)
        is_cell = size > 0
        cell = jnp.where(is_cell, structure.cell, jnp.eye(3, dtype=q.dtype))
        size = jnp.where(is_cell, size, 1.0)
        near, far = self._near(structure, q), self._far(structure.positions, q, cell, size)
        alone = self.splitting / math.sqrt(math.pi) * jnp.sum(q**2)
        uniform = math.pi / (2 * size * self.splitting**2) * jnp.sum(q) ** 2
        energy = COULOMB * (near + far - alone - uniform)
        energy = where_valid(energy, is_cell, "Ewald: the structure is not periodic; expected a cell that has a volume")
        if self.background:
            return energy
        neutral = jnp.abs(jnp.sum(q)) < NEUTRAL
        message = "Ewald: the charges of the cell do not sum to 0; use `conserved` charges, or background=True"
        return where_valid(energy, neutral, message)

    def _near(self, structure, q):
        r = edges(structure).distances
        return 0.5 * jnp.sum(q[:, None] * to_neighbours(structure, q) * erfc(self.splitting * r) / r)

    def _far(self, positions, q, cell, size):
        phases, weights = in_waves(positions, self.waves, cell, size, self.splitting)
        power = (q @ jnp.cos(phases)) ** 2 + (q @ jnp.sin(phases)) ** 2
        return 0.5 * jnp.sum(weights * power)


def in_waves(
    positions: Float[Array, "n 3"], waves: Int[Array, "k 3"], cell: Float[Array, "3 3"], size: Array, splitting: float
) -> tuple[Float[Array, "n k"], Float[Array, "k"]]:
    """The phases of atoms in half of the waves, and the energy of the waves of two unit charges for each, those of the
    other half included.
    """
    k = waves.astype(positions.dtype) @ (2 * jnp.pi * jnp.linalg.inv(cell).T)
    squares = jnp.sum(k**2, axis=1)
    return positions @ k.T, 8 * jnp.pi / size * jnp.exp(-squares / (4 * splitting**2)) / squares


def ewald(charges: Callable, cell: Any, cutoff: float, accuracy: float = 1e-6, *, background: bool = False) -> Ewald:
    """The `Ewald` energy of charges, a function from a structure to (n,), for cells like `cell` (rows, in angstroms).

    - `cutoff`: where the part of short range ends, in angstroms: that of the structures' neighbours, or less.
    - `accuracy`: of both parts; what each leaves out is about this times the energies of the charges alone. Halving
      the cutoff makes the wave vectors eight times as many.
    - `background`: whether cells may have a charge, which a uniform background cancels.

    The number of wave vectors is fixed here, so that compiled programs keep their shapes. They follow the cell as it
    deforms; where a cell grows by more than some percent, as in a set of different cells, give the largest: a smaller
    one is computed with more accuracy than asked. All three directions repeat: a slab needs vacuum.

    Raises ValueError for a cell without volume, a cutoff that is not positive or an accuracy not between 0 and 0.1.
    """
    box, alpha, largest = checked_splitting("ewald", cell, cutoff, accuracy)
    return Ewald(charges, jnp.asarray(half_of_waves(box, largest)), alpha, background)


def checked_splitting(name: str, cell: Any, cutoff: float, accuracy: float) -> tuple[np.ndarray, float, float]:
    """The cell, the splitting in inverse angstroms and the largest wave vector. Raises ValueError as `ewald` does."""
    if not 0 < cutoff < math.inf or not 0 < accuracy < 0.1:
        raise ValueError(f"{name}: expected cutoff > 0 and 0 < accuracy < 0.1, got {cutoff} and {accuracy}")
    steps = math.sqrt(-math.log(accuracy))
    return checked_cell(cell, (True, True, True)), steps / cutoff, 2 * steps**2 / cutoff


def half_of_waves(box: np.ndarray, largest: float) -> np.ndarray:
    """The integer coordinates of wave vectors no longer than `largest`, one of each pair of opposites."""
    most = np.floor(largest * np.linalg.norm(box, axis=1) / (2 * np.pi)).astype(int)
    grid = np.array(list(itertools.product(*(range(-m, m + 1) for m in most))))
    length = np.linalg.norm(2 * np.pi * grid @ np.linalg.inv(box).T, axis=1)
    # The first half in order of the coordinates; the second holds the opposites, and 0 is between.
    half = np.arange(len(grid)) < len(grid) // 2
    return grid[half & (length <= largest)].astype(np.int32)
