"""PaiNN: messages between scalars and vectors of atoms (Schuett, Unke & Gastegger, ICML 2021)."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..nn._layers import require_scale
from ._layers import Linear, Perceptron, Species, require_potential, sum_over_atoms
from ._radial import bessel_basis, polynomial_cutoff
from ._structure import Structure, edges, to_neighbours

# Lengths of vectors below this, which vanish at sites of high symmetry, are rounded off: a length has a kink there and
# no second derivatives.
ROUNDED = 0.1


class PaiNN(eqx.Module):
    """The energy of a structure in eV, called as `model(structure)`: a sum over atoms, invariant under motions and
    reflections, smooth at the cutoff.

    - `width`: scalars, and vectors, of each atom; `layers`: of messages; `radial`: functions of the distance.
    - `neighbours`: about how many an atom has, by the root of which sums over them are divided.

    Atoms of species that are not among `species` raise ValueError, and inside `jit` make it NaN.

    Raises ValueError for sizes that are not positive and species that are no elements.
    """

    species: Species
    embedding: Float[Array, "s f"]
    messages: list[Perceptron]
    filters: list[Float[Array, "b o"]]
    mixings: list[Linear]
    updates: list[Perceptron]
    readout: Perceptron
    cutoff: float = eqx.field(static=True)
    radial: int = eqx.field(static=True)
    neighbours: float = eqx.field(static=True)

    def __init__(
        self,
        species: Sequence[int],
        cutoff: float = 5.0,
        *,
        width: int = 64,
        layers: int = 3,
        radial: int = 20,
        neighbours: float = 10.0,
        key: Array,
    ):
        require_potential("PaiNN", cutoff, width=width, layers=layers, radial=radial)
        require_scale("PaiNN", neighbours=neighbours)
        keys = iter(jax.random.split(key, 2 + 4 * layers))
        f = width
        self.species = Species(species)
        self.embedding = jax.random.normal(next(keys), (len(self.species), f))
        # The first layer has no vectors yet, from which messages could come.
        sizes = [2 if i == 0 else 3 for i in range(layers)]
        self.messages = [Perceptron(f, f, n * f, key=next(keys)) for n in sizes]
        # One more function of the distance is the envelope itself.
        self.filters = [Linear(radial + 1, n * f, key=next(keys)).weight for n in sizes]
        self.mixings = [Linear(f, 2 * f, bias=False, key=next(keys)) for _ in sizes]
        self.updates = [Perceptron(2 * f, f, 3 * f, key=next(keys)) for _ in sizes]
        self.readout = Perceptron(f, max(1, f // 2), 1, key=next(keys))
        self.cutoff, self.radial, self.neighbours = float(cutoff), radial, float(neighbours)

    def __call__(self, structure: Structure) -> Float[Array, ""]:
        scalars, _ = self.features(structure)
        return sum_over_atoms(structure, self.readout(scalars)[:, 0])

    def features(self, structure: Structure) -> tuple[Float[Array, "n f"], Float[Array, "n 3 f"]]:
        """The scalars and vectors of each atom after the last layer."""
        between = edges(structure)
        envelope = polynomial_cutoff(between.distances, self.cutoff)[..., None]
        waves = bessel_basis(between.distances, self.radial, self.cutoff)
        basis = jnp.concatenate([waves, jnp.ones_like(envelope)], axis=-1) * envelope / self.neighbours**0.5
        directions = between.vectors / between.distances[..., None]
        scalars = self.species.values(structure.species, self.embedding)
        vectors = None
        for message, radial, mixing, update in zip(self.messages, self.filters, self.mixings, self.updates):
            d_scalars, d_vectors = _received(structure, message(scalars), vectors, basis @ radial, directions)
            scalars = scalars + d_scalars
            vectors = d_vectors if vectors is None else vectors + d_vectors
            scalars, vectors = _updated(scalars, vectors, mixing, update)
        assert vectors is not None
        return scalars, vectors


def _received(structure, sent, vectors, weights, directions):
    """Sums over the neighbours: of scalars, and of vectors along the edges and those that neighbours have."""
    f = weights.shape[-1] // (2 if vectors is None else 3)
    arriving = to_neighbours(structure, sent) * weights
    scalars = jnp.sum(arriving[..., :f], axis=1)
    along = jnp.einsum("nkf,nkd->ndf", arriving[..., f : 2 * f], directions)
    if vectors is None:
        return scalars, along
    carried = jnp.sum(arriving[:, :, None, 2 * f :] * to_neighbours(structure, vectors), axis=1)
    return scalars, along + carried


def _updated(scalars, vectors, mixing, update):
    """Scalars and vectors of an atom mixed with each other."""
    u, v = jnp.split(mixing(vectors), 2, axis=-1)
    norms = jnp.sqrt(jnp.sum(v**2, axis=1) + ROUNDED**2)
    change, scale, gate = jnp.split(update(jnp.concatenate([scalars, norms], axis=-1)), 3, axis=-1)
    scalars = scalars + change + scale * jnp.sum(u * v, axis=1)
    return scalars, vectors + gate[:, None] * u
