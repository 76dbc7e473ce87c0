"""Potentials that are sums over pairs of atoms, in closed form."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._structure import Structure, edges


class LennardJones(eqx.Module):
    """4 epsilon ((sigma / r)^12 - (sigma / r)^6) over all pairs nearer than a cutoff, whatever their species
    (Lennard-Jones, Proc. R. Soc. A 106, 463, 1924); called on one `Structure`, it gives the energy in eV.

    - `epsilon`: the depth in eV; `sigma`: where the energy of a pair is 0, in angstroms.
    - `cutoff`: in angstroms. What a pair has there is subtracted, so that the energy is continuous and the force jumps.
    - `onset`: where it is given, nothing is subtracted and the energy goes to 0 between here and the cutoff, by a cubic
      of r^2 whose derivative is 0 at both (as in ASE), so that the force is continuous too.

    The defaults are argon's (Rahman, Phys. Rev. 136, A405, 1964). Raises ValueError where a number is not positive, or
    the onset not below the cutoff.
    """

    epsilon: Float[Array, ""] | float = 0.010323
    sigma: Float[Array, ""] | float = 3.4
    cutoff: float = eqx.field(static=True, default=8.5)
    onset: float | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        if not self.cutoff > 0:
            raise ValueError(f"LennardJones: the cutoff must be a positive number of angstroms, got {self.cutoff}")
        for name in ("epsilon", "sigma"):
            value = getattr(self, name)
            if isinstance(value, float) and not value > 0:
                raise ValueError(f"LennardJones: {name} must be positive, got {value}")
        if self.onset is not None and not 0 <= self.onset < self.cutoff:
            raise ValueError(f"LennardJones: the onset {self.onset} must be below the cutoff {self.cutoff}")

    def __call__(self, structure: Structure) -> Float[Array, ""]:
        """The energy in eV."""
        distances = edges(structure).distances
        inside = structure.is_edge & (distances < self.cutoff)
        r = jnp.where(inside, distances, self.cutoff)
        energy = self._pair(r)
        if self.onset is None:
            energy = energy - self._pair(jnp.asarray(self.cutoff, r.dtype))
        else:
            a, b, square = self.onset**2, self.cutoff**2, r**2
            energy = energy * jnp.where(
                r < self.onset, 1.0, (b - square) ** 2 * (b + 2 * square - 3 * a) / (b - a) ** 3
            )
        return 0.5 * jnp.sum(jnp.where(inside, energy, 0.0))

    def _pair(self, r):
        sixth = (self.sigma / r) ** 6
        return 4 * self.epsilon * (sixth**2 - sixth)
