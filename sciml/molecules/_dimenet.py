"""DimeNet++: messages along edges that see the angles between them (Gasteiger, Gross & Guennemann, ICLR 2020; Gasteiger
et al., NeurIPS 2020 workshop on molecules, arXiv:2011.14115).
"""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..nn._layers import require_positive, require_scale
from ._layers import Linear, Perceptron, Species, require_potential, smooth_basis, sum_over_atoms
from ._structure import Structure, edges, exchanged, to_neighbours


class DimeNet(eqx.Module):
    """The energy of a structure in eV, called as `model(structure)`: a sum over atoms, invariant under motions and
    reflections, smooth at the cutoff. Every edge has a message; those that come into an atom change those that leave
    it, by functions of distance and angle, products of the Bessel basis and Legendre polynomials up to `degree`. Each
    layer's messages add to the energy of the atoms they come to.

    Unlike the paper: the radial functions are the same for all degrees, layers have one residual part before and one
    after the skip, and an atom has an energy by species without any neighbour too. `neighbours` is how many an atom has
    on average: sums are divided by its root. A layer takes time in proportion to atoms times neighbours squared.

    Atoms of species that are not among `species` raise ValueError, and inside `jit` make it NaN.

    Raises ValueError for sizes that are not positive and species that are no elements.
    """

    species: Species
    embedding: Float[Array, "s f"]
    distances: Linear
    pairs: Linear
    interactions: list["Interaction"]
    outputs: list["Output"]
    alone: Linear
    cutoff: float = eqx.field(static=True)
    radial: int = eqx.field(static=True)
    degree: int = eqx.field(static=True)
    neighbours: float = eqx.field(static=True)

    def __init__(
        self,
        species: Sequence[int],
        cutoff: float = 5.0,
        *,
        width: int = 64,
        layers: int = 3,
        radial: int = 6,
        degree: int = 6,
        neighbours: float = 10.0,
        key: Array,
    ):
        require_potential("DimeNet", cutoff, width=width, layers=layers, radial=radial)
        require_positive("DimeNet", degree=degree)
        require_scale("DimeNet", neighbours=neighbours)
        keys = iter(jax.random.split(key, 5 + 2 * layers))
        self.species = Species(species)
        self.embedding = jax.random.normal(next(keys), (len(self.species), width))
        self.distances = Linear(radial, width, key=next(keys))
        self.pairs = Linear(3 * width, width, key=next(keys))
        self.interactions = [Interaction(width, radial, degree, key=next(keys)) for _ in range(layers)]
        self.outputs = [Output(width, radial, key=next(keys)) for _ in range(layers + 1)]
        self.alone = Linear(width, 1, key=next(keys))
        self.cutoff, self.radial, self.degree, self.neighbours = float(cutoff), radial, degree, float(neighbours)

    def __call__(self, structure: Structure) -> Float[Array, ""]:
        between = edges(structure)
        basis = smooth_basis(between.distances, self.radial, self.cutoff)
        angles = _angles(between, self.degree)
        # Sums over neighbours are of what is linear in this.
        scaled = basis / self.neighbours**0.5
        x = self.species.values(structure.species, self.embedding)
        own = jnp.broadcast_to(x[:, None], (*basis.shape[:2], x.shape[-1]))
        seen = jnp.concatenate([own, to_neighbours(structure, x), jax.nn.silu(self.distances(basis))], axis=-1)
        messages = jax.nn.silu(self.pairs(seen))
        energies = self.alone(x)[:, 0] + self.outputs[0](messages, scaled)
        for interaction, output in zip(self.interactions, self.outputs[1:]):
            messages = interaction(structure, messages, basis, scaled, angles)
            energies += output(messages, scaled)
        return sum_over_atoms(structure, energies)


class Interaction(eqx.Module):
    """The messages (n, k, f) that atoms get, from those that their neighbours got."""

    own: Linear
    sent: Linear
    gate: Linear
    down: Linear
    filters: Linear
    up: Linear
    before: Perceptron
    middle: Linear
    after: Perceptron

    def __init__(self, width, radial, degree, *, key):
        keys = jax.random.split(key, 9)
        narrow = max(1, width // 2)
        self.own = Linear(width, width, key=keys[0])
        self.sent = Linear(width, width, key=keys[1])
        self.gate = Linear(radial, width, bias=False, key=keys[2])
        self.down = Linear(width, narrow, bias=False, key=keys[3])
        # Without a bias it is 0 where the basis is.
        self.filters = Linear(radial, (degree + 1) * narrow, bias=False, key=keys[4])
        self.up = Linear(narrow, width, bias=False, key=keys[5])
        self.before = Perceptron(width, width, width, key=keys[6])
        self.middle = Linear(width, width, key=keys[7])
        self.after = Perceptron(width, width, width, key=keys[8])

    def __call__(self, structure, messages, basis, scaled, angles):
        sent = jax.nn.silu(self.sent(messages)) * self.gate(basis)
        arrived = jax.nn.silu(self.down(sent))
        filters = self.filters(scaled).reshape(*basis.shape[:2], angles.shape[-1], -1)
        # Of each edge that leaves an atom, the sum over those that arrive there.
        leaving = jnp.einsum("nabl,nblf->naf", angles, filters * arrived[:, :, None])
        x = jax.nn.silu(self.own(messages)) + jax.nn.silu(self.up(exchanged(structure, leaving)))
        x = _residual(self.before, x)
        return _residual(self.after, jax.nn.silu(self.middle(x)) + messages)


class Output(eqx.Module):
    """An energy (n,) of each atom from the messages it gets."""

    filters: Linear
    readout: Perceptron

    def __init__(self, width, radial, *, key):
        keys = jax.random.split(key)
        self.filters = Linear(radial, width, bias=False, key=keys[0])
        self.readout = Perceptron(width, width, 1, key=keys[1])

    def __call__(self, messages, scaled):
        return self.readout(jnp.sum(self.filters(scaled) * messages, axis=1))[:, 0]


def _residual(layers: Perceptron, x):
    return x + jax.nn.silu(layers(x))


def _angles(between, degree):
    """The Legendre polynomials (n, k, k, l) of the cosines between the edges of each atom, of mean square 1 on the
    sphere; 0 for an edge with itself.
    """
    directions = between.vectors / between.distances[..., None]
    cosines = jnp.einsum("nad,nbd->nab", directions, directions)
    values = [jnp.ones_like(cosines), cosines]
    for i in range(1, degree):
        values.append(((2 * i + 1) * cosines * values[i] - i * values[i - 1]) / (i + 1))
    others = 1 - jnp.eye(cosines.shape[-1], dtype=cosines.dtype)
    return jnp.stack([(2 * i + 1) ** 0.5 * v * others for i, v in enumerate(values)], axis=-1)
