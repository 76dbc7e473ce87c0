"""SchNet: convolutions with filters that are functions of the distance (Schuett et al., NeurIPS 2017)."""

import math
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._layers import Linear, Perceptron, Species, require_potential, sum_over_atoms
from ._radial import cosine_cutoff, gaussian_basis
from ._structure import Structure, edges, to_neighbours


class SchNet(eqx.Module):
    """The energy of a structure in eV, called as `model(structure)`: a sum over atoms, invariant under motions and
    reflections. Filters are multiplied by a cosine cutoff, which the paper does not have, so that forces are
    continuous.

    Atoms of species that are not among `species` raise ValueError, and inside `jit` make it NaN.

    Raises ValueError for sizes that are not positive and species that are no elements.
    """

    species: Species
    embedding: Float[Array, "s f"]
    senders: list[Linear]
    filters: list[Perceptron]
    updates: list[Perceptron]
    readout: Perceptron
    cutoff: float = eqx.field(static=True)
    radial: int = eqx.field(static=True)

    def __init__(
        self,
        species: Sequence[int],
        cutoff: float = 5.0,
        *,
        width: int = 64,
        layers: int = 3,
        radial: int = 20,
        key: Array,
    ):
        require_potential("SchNet", cutoff, width=width, layers=layers, radial=radial - 1)
        keys = iter(jax.random.split(key, 2 + 3 * layers))
        self.species = Species(species)
        self.embedding = jax.random.normal(next(keys), (len(self.species), width))
        self.senders = [Linear(width, width, bias=False, key=next(keys)) for _ in range(layers)]
        self.filters = [Perceptron(radial, width, width, key=next(keys)) for _ in range(layers)]
        self.updates = [Perceptron(width, width, width, key=next(keys)) for _ in range(layers)]
        self.readout = Perceptron(width, max(1, width // 2), 1, key=next(keys))
        self.cutoff, self.radial = float(cutoff), radial

    def __call__(self, structure: Structure) -> Float[Array, ""]:
        distances = edges(structure).distances
        basis = gaussian_basis(distances, self.radial, self.cutoff)
        envelope = cosine_cutoff(distances, self.cutoff)[..., None]
        x = self.species.values(structure.species, self.embedding)
        for sender, radial, update in zip(self.senders, self.filters, self.updates):
            weights = _applied(radial, basis) * envelope
            x = x + _applied(update, jnp.sum(to_neighbours(structure, sender(x)) * weights, axis=1))
        return sum_over_atoms(structure, _applied(self.readout, x)[:, 0])


def _applied(layers: Perceptron, x):
    """Both layers with the paper's shifted softplus between them, log((1 + exp(x)) / 2)."""
    return layers.second(jax.nn.softplus(layers.first(x)) - math.log(2.0))
