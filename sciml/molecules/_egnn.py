"""EGNN: an E(n)-equivariant graph network that moves its atoms (Satorras, Hoogeboom & Welling, ICML 2021)."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._layers import Perceptron, Species, require_potential, smooth_basis, sum_over_atoms
from ._radial import polynomial_cutoff
from ._structure import Structure, edges, to_neighbours


class EGNN(eqx.Module):
    """The energy of a structure in eV, called as `model(structure)`: a sum over atoms, invariant under motions and
    reflections. Each layer moves the atoms along their edges (eqs. 3 to 6 of the paper) and sees how far apart they
    then are. Messages are multiplied by a smooth function of the true distance, and they see a Bessel basis of it,
    which the paper does not have.

    Atoms of species that are not among `species` raise ValueError, and inside `jit` make it NaN.

    Raises ValueError for sizes that are not positive and species that are no elements.
    """

    species: Species
    embedding: Float[Array, "s f"]
    messages: list[Perceptron]
    moves: list[Perceptron]
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
        radial: int = 8,
        key: Array,
    ):
        require_potential("EGNN", cutoff, width=width, layers=layers, radial=radial)
        keys = iter(jax.random.split(key, 2 + 3 * layers))
        self.species = Species(species)
        self.embedding = jax.random.normal(next(keys), (len(self.species), width))
        self.messages = [Perceptron(2 * width + radial + 1, width, width, key=next(keys)) for _ in range(layers)]
        # After the last layer nobody looks where the atoms are.
        self.moves = [Perceptron(width, width, 1, key=next(keys)) for _ in range(layers - 1)]
        self.updates = [Perceptron(2 * width, width, width, key=next(keys)) for _ in range(layers)]
        self.readout = Perceptron(width, max(1, width // 2), 1, key=next(keys))
        self.cutoff, self.radial = float(cutoff), radial

    def __call__(self, structure: Structure) -> Float[Array, ""]:
        between = edges(structure)
        basis = smooth_basis(between.distances, self.radial, self.cutoff)
        envelope = polynomial_cutoff(between.distances, self.cutoff)[..., None]
        x = self.species.values(structure.species, self.embedding)
        moved = jnp.zeros_like(structure.positions)
        for layer, (message, update) in enumerate(zip(self.messages, self.updates)):
            vectors = between.vectors + to_neighbours(structure, moved) - moved[:, None]
            sent = _messages(structure, message, x, vectors / self.cutoff, basis) * envelope
            if layer < len(self.moves):
                # Divided by the true distance and one, as the authors' code does, for the sake of stability.
                along = vectors / (between.distances[..., None] + 1)
                moved = moved - jnp.sum(self.moves[layer](sent) * envelope * along, axis=1)
            x = x + update(jnp.concatenate([x, jnp.sum(sent, axis=1)], axis=-1))
        return sum_over_atoms(structure, self.readout(x)[:, 0])


def _messages(structure, message, x, vectors, basis):
    """What each atom gets from each neighbour: a function of both, of their distance and of that after the moves."""
    squares = jnp.where(structure.is_edge, jnp.sum(vectors**2, axis=-1), 0.0)[..., None]
    own = jnp.broadcast_to(x[:, None], (*squares.shape[:2], x.shape[-1]))
    seen = jnp.concatenate([own, to_neighbours(structure, x), squares, basis], axis=-1)
    return jax.nn.silu(message(seen))
