"""What several potentials share: rows of species, layers of the last axis of any array, a radial basis that ends
smoothly, and the sum over atoms.
"""

import math
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from ..nn._layers import require_positive
from ._radial import bessel_basis, polynomial_cutoff
from ._structure import PADDING, Structure


class Species(eqx.Module):
    """The atomic numbers that a model knows, in rising order."""

    numbers: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, numbers: Sequence[int]):
        kinds = tuple(sorted({int(z) for z in numbers}))
        if not kinds or kinds[0] < 1 or kinds[-1] > 118:
            raise ValueError(f"species: expected atomic numbers from 1 to 118, got {tuple(numbers)}")
        self.numbers = kinds

    def __len__(self) -> int:
        return len(self.numbers)

    def rows(self, species: Int[Array, "*n"]) -> Int[Array, "*n"]:
        """Which of them each atom is; one past the last for padding and for what is not known."""
        table = np.full(119, len(self.numbers), np.int32)
        table[list(self.numbers)] = np.arange(len(self.numbers))
        return jnp.asarray(table)[species]

    def values(
        self, species: Int[Array, " n"], table: Float[Array, "s *c"], name: str = "the model"
    ) -> Float[Array, "n *c"]:
        """The row of each atom in a table of one row by species, 0 for padding. Raises ValueError for species not
        known; inside `jit` they have NaN.
        """
        if not isinstance(species, Tracer):
            self.check(np.asarray(species), name)
        rows = self.rows(species)
        known = jnp.where(rows < len(self), 1.0, jnp.where(species == PADDING, 0.0, jnp.nan))
        known = known.reshape(*known.shape, *(1,) * (table.ndim - 1)).astype(table.dtype)
        found = jnp.take(table, jnp.minimum(rows, len(self) - 1), axis=0)
        return jnp.where(known == 0, 0, found * jnp.where(known == 0, 1, known))

    def check(self, species: np.ndarray, name: str = "the model") -> None:
        """Raises ValueError for an element that is not known, on arrays (not in compiled functions)."""
        unknown = sorted(set(np.unique(species).tolist()) - {PADDING, *self.numbers})
        if unknown:
            raise ValueError(f"{name} knows the elements {self.numbers}, the structure has {tuple(unknown)} too")


class Linear(eqx.Module):
    """A linear layer of the last axis; weights normal with variance 2 / (fan in + fan out), biases zero."""

    weight: Float[Array, "i o"]
    bias: Float[Array, " o"] | None

    def __init__(self, in_size: int, out_size: int, *, bias: bool = True, key: Array):
        deviation = (2.0 / (in_size + out_size)) ** 0.5
        self.weight = deviation * jax.random.normal(key, (in_size, out_size))
        self.bias = jnp.zeros(out_size) if bias else None

    def __call__(self, x: Float[Array, "*n i"]) -> Float[Array, "*n o"]:
        y = x @ self.weight
        return y if self.bias is None else y + self.bias


class Perceptron(eqx.Module):
    """Two linear layers of the last axis, with silu between them."""

    first: Linear
    second: Linear

    def __init__(self, in_size: int, width: int, out_size: int, *, key: Array):
        keys = jax.random.split(key)
        self.first = Linear(in_size, width, key=keys[0])
        self.second = Linear(width, out_size, key=keys[1])

    def __call__(self, x: Float[Array, "*n i"]) -> Float[Array, "*n o"]:
        return self.second(jax.nn.silu(self.first(x)))


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


def sum_over_atoms(structure: Structure, energies: Float[Array, " n"]) -> Float[Array, ""]:
    """The sum of what each atom has, without those places that have no atom."""
    return jnp.sum(jnp.where(structure.is_atom, energies, 0.0))
