"""What terms of an energy share: their sum, energies where they are defined, checked tables, pairs of atoms."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float

from ._frames import ENERGIES, LENGTHS
from ._structure import Structure

# The energy of two elementary charges one angstrom apart, in eV (CODATA 2018).
COULOMB = 14.399645478425668
BOHR = LENGTHS["bohr"]
HARTREE = ENERGIES["Ha"]


class Sum(eqx.Module):
    """The sum of potentials, itself one; `total` makes it."""

    terms: tuple[Callable, ...]

    def __call__(self, structure: Structure) -> Float[Array, ""]:
        return sum((term(structure) for term in self.terms), jnp.zeros((), structure.positions.dtype))


def total(*terms: Any) -> Sum:
    """The potential whose energy is the sum of those of `terms`, each a function of one structure: reference energies,
    repulsion, a network. Its forces and stress are theirs, added.

    Raises ValueError without terms and TypeError where one is no function.
    """
    if not terms:
        raise ValueError("total: expected at least one potential")
    for number, term in enumerate(terms):
        if not callable(term):
            raise TypeError(f"total: expected functions of a structure, got {type(term).__name__} as number {number}")
    return Sum(terms)


def where_valid(values: Array, valid: Bool[Array, ""], message: str) -> Array:
    """The values where they are valid. Raises ValueError where they are not; while JAX traces, when this is not known,
    they become NaN instead (so that models can be exported, which those with callbacks cannot).
    """
    if not isinstance(valid, Tracer) and not bool(valid):
        raise ValueError(message)
    return jnp.where(valid, values, jnp.nan)


def checked_table(table: Mapping[int, float], name: str) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Species and their values, in order. Raises ValueError where there are none, or they are no such."""
    kinds = tuple(sorted(int(z) for z in table))
    values = tuple(float(table[z]) for z in kinds)
    if not kinds or kinds[0] < 1 or kinds[-1] > 118:
        raise ValueError(f"{name}: expected values by atomic number (1 to 118), got those of {list(kinds)}")
    if not np.isfinite(values).all():
        raise ValueError(f"{name}: the value of species {kinds[int(np.argmin(np.isfinite(values)))]} is not finite")
    return kinds, values


class Pairs(NamedTuple):
    """All pairs of atoms, both ways. What is no pair has distance 1 that depends on nothing."""

    distances: Float[Array, "n n"]
    is_pair: Bool[Array, "n n"]


def all_pairs(structure: Structure, name: str) -> Pairs:
    """The pairs of the atoms of a molecule, whatever the cutoff. Raises ValueError where the structure is periodic."""
    positions, is_atom = structure.positions, structure.is_atom
    is_pair = is_atom[:, None] & is_atom & ~jnp.eye(len(is_atom), dtype=bool)
    vectors = positions[:, None] - positions
    squares = jnp.where(is_pair, jnp.sum(vectors**2, axis=-1), 1.0)
    message = f"{name}: is of molecules, and the structure is periodic (its cell is not zero)"
    return Pairs(where_valid(jnp.sqrt(squares), jnp.all(structure.cell == 0), message), is_pair)
