"""Repulsion of nuclei at short distances, where no data are."""

import equinox as eqx
import jax.numpy as jnp
from ase.data import covalent_radii
from jaxtyping import Array, Float

from ._radial import polynomial_cutoff
from ._structure import Structure, edges, to_neighbours
from ._terms import COULOMB

# Ziegler, Biersack & Littmark, The stopping and range of ions in solids, 1985, universal screening: weights, exponents.
SCREENING = ((0.18175, 3.19980), (0.50986, 0.94229), (0.28022, 0.40290), (0.02817, 0.20162))
# In angstroms: 0.8854 Bohr radii; the power of the atomic number.
LENGTH, POWER = 0.46850, 0.23


class ScreenedRepulsion(eqx.Module):
    """The universal screened Coulomb repulsion of nuclei (Ziegler, Biersack & Littmark, 1985), Z Z' e^2 phi(r / a) / r
    with a = 0.46850 / (Z^0.23 + Z'^0.23) angstroms, times `polynomial_cutoff`. Nothing of it is trained.

    - `cutoff`: where it ends, in angstroms, not beyond that of the structures' neighbours; by default the sum of the
      covalent radii of each pair (ASE's), so that it leaves bonds alone.
    """

    cutoff: float | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        if self.cutoff is not None and not 0 < self.cutoff < float("inf"):
            raise ValueError(f"ScreenedRepulsion: expected a positive cutoff in angstroms, got {self.cutoff}")

    def __call__(self, structure: Structure) -> Float[Array, ""]:
        """In eV."""
        r = edges(structure).distances
        z = structure.species.astype(r.dtype)
        charges = z[:, None] * to_neighbours(structure, z)
        # Padding has Z = 0, whose power has no derivative, but none is taken.
        size = z**POWER
        x = r * (size[:, None] + to_neighbours(structure, size)) / LENGTH
        screening = sum(weight * jnp.exp(-rate * x) for weight, rate in SCREENING)
        return 0.5 * COULOMB * jnp.sum(charges / r * screening * self._cutoff(structure, r))

    def _cutoff(self, structure, r):
        if self.cutoff is not None:
            return polynomial_cutoff(r, self.cutoff)
        radii = jnp.asarray(covalent_radii, r.dtype)[structure.species]
        return polynomial_cutoff(r / (radii[:, None] + to_neighbours(structure, radii)), 1.0)
