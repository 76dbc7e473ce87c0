"""Dipoles and polarisabilities from what atoms have, and the energy of a molecule in an electric field."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._structure import Structure


def dipole(
    structure: Structure, charges: Float[Array, "n"], atomic: Float[Array, "n 3"] | None = None
) -> Float[Array, "3"]:
    """The sum of q r and of the atoms' own dipoles `atomic` (vectors of an equivariant network), in elementary charges
    times angstroms. For charges that sum to 0 (`conserved`) it is the same wherever the molecule is; that of an ion
    depends on the origin.
    """
    moments = charges[:, None] * structure.positions
    moments = moments if atomic is None else moments + atomic
    return jnp.sum(jnp.where(structure.is_atom[:, None], moments, 0.0), axis=0)


def polarisability(
    structure: Structure,
    isotropic: Float[Array, "n"],
    left: Float[Array, "n c 3"] | None = None,
    right: Float[Array, "n c 3"] | None = None,
) -> Float[Array, "3 3"]:
    """Symmetric, and turning with the molecule: the sum over atoms of a number times the identity and of the symmetric
    products (l r^T + r l^T) / 2 of vectors of an equivariant network, c of them for each atom. In the units of
    `isotropic`; those of `uniform_field` are squared elementary charges times squared angstroms per eV.

    Raises ValueError where only one of `left` and `right` is given.
    """
    if (left is None) != (right is None):
        raise ValueError("polarisability: expected both left and right vectors, or neither")
    found = jnp.sum(jnp.where(structure.is_atom, isotropic, 0.0)) * jnp.eye(3, dtype=isotropic.dtype)
    if left is None:
        return found
    products = jnp.einsum("nci,ncj->ij", jnp.where(structure.is_atom[:, None, None], left, 0.0), right)
    return found + (products + products.T) / 2


def field_energy(
    field: Float[Array, "3"], dipole: Float[Array, "3"], polarisability: Float[Array, "3 3"] | None = None
) -> Float[Array, ""]:
    """-mu.F - F.alpha.F / 2 in eV, of a molecule in a uniform electric field in volts per angstrom. Its derivatives
    are the dipole in the field, mu + alpha.F = -dE/dF, and the polarisability.
    """
    energy = -jnp.dot(dipole, field)
    return energy if polarisability is None else energy - field @ polarisability @ field / 2


class UniformField(eqx.Module):
    """The energy of molecules in a uniform electric field, a term of a `total`; `uniform_field` makes it."""

    field: tuple[float, float, float] = eqx.field(static=True)
    dipole: Callable
    polarisability: Callable | None

    def __call__(self, structure: Structure) -> Float[Array, ""]:
        """In eV."""
        mu = self.dipole(structure)
        alpha = None if self.polarisability is None else self.polarisability(structure)
        return field_energy(jnp.asarray(self.field, mu.dtype), mu, alpha)


def uniform_field(
    field: Sequence[float] | Any, dipole: Callable, polarisability: Callable | None = None
) -> UniformField:
    """The potential `field_energy` of a uniform field, (3,) in volts per angstrom, where `dipole` and `polarisability`
    are functions of a structure that give (3,) and (3, 3). The field is not trained.

    Raises ValueError where the field is not three finite numbers.
    """
    field = np.asarray(field, float)
    if field.shape != (3,) or not np.isfinite(field).all():
        raise ValueError(f"uniform_field: expected three finite numbers in volts per angstrom, got {field.tolist()}")
    return UniformField(tuple(field.tolist()), dipole, polarisability)
