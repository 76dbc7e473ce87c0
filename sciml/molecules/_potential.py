"""What several potentials share beside their layers: a radial basis that ends smoothly, and the sum over atoms."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..nn._layers import require_positive
from ._radial import bessel_basis, polynomial_cutoff
from ._structure import Structure


def require_potential(name: str, cutoff: float, **sizes: int) -> None:
    """Raises ValueError for a cutoff that is not a positive number of angstroms and sizes that are not whole numbers
    above 0.
    """
    require_positive(name, **sizes)
    if not (math.isfinite(cutoff) and cutoff > 0):
        raise ValueError(f"{name}: the cutoff must be a positive number of angstroms, got {cutoff}")


def smooth_basis(distances: Float[Array, "*e"], count: int, cutoff: float) -> Float[Array, "*e {count}"]:
    """The Bessel basis times the polynomial cutoff: any linear map of it has two derivatives that are 0 at the cutoff,
    and is 0 in places where there is no edge.
    """
    return bessel_basis(distances, count, cutoff) * polynomial_cutoff(distances, cutoff)[..., None]


def total(structure: Structure, energies: Float[Array, " n"]) -> Float[Array, ""]:
    """The sum of what each atom has, without those places that have no atom."""
    return jnp.sum(jnp.where(structure.is_atom, energies, 0.0))
