"""NequIP: convolutions of equivariant features with spherical harmonics (Batzner et al., Nature Commun. 13, 2453,
2022).
"""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._harmonics import HIGHEST, block, coupling, harmonics, paths
from ._layers import Linear, Perceptron, Species, require_potential, smooth_basis, sum_over_atoms
from ._messages import Messages
from ._structure import Structure, edges


class NequIP(eqx.Module):
    """The energy of a structure in eV, called as `model(structure)`: a sum over atoms, invariant under motions and
    reflections, smooth at the cutoff. Features of degree l have the parity (-1)^l; the paper's further ones, of the
    opposite parity, are left out. `neighbours` is how many an atom has on average: sums are divided by its root.
    `linear`: filters are linear in the `radial` functions of the distance, where the paper has networks: a step takes
    less time. `products`: to the features of an atom, in all layers but the last, products of two of them are added
    before the gate, terms of one more body as in MACE at the cost of an atom, not of an edge.

    Atoms of species that are not among `species` raise ValueError, and inside `jit` make it NaN.

    Raises ValueError for sizes that are not positive, a degree above 2, and species that are no elements.
    """

    species: Species
    embedding: Float[Array, "s f"]
    layers: list["Convolution"]
    readout: Perceptron
    cutoff: float = eqx.field(static=True)
    radial: int = eqx.field(static=True)
    degree: int = eqx.field(static=True)

    def __init__(
        self,
        species: Sequence[int],
        cutoff: float = 5.0,
        *,
        width: int = 32,
        layers: int = 3,
        radial: int = 8,
        degree: int = 1,
        neighbours: float = 10.0,
        linear: bool = False,
        products: bool = False,
        key: Array,
    ):
        require_potential("NequIP", cutoff, width=width, layers=layers, radial=radial, degree=degree)
        if degree > HIGHEST:
            raise ValueError(f"NequIP: the degree must be at most {HIGHEST}, got {degree}")
        keys = jax.random.split(key, 2 + layers)
        self.species = Species(species)
        self.embedding = jax.random.normal(keys[0], (len(self.species), width))
        # The first layer gets scalars only, and of the last one only scalars are read.
        ends = [0, *[degree] * (layers - 1), 0]
        couplings = [paths(a, degree, b) for a, b in zip(ends, ends[1:])]
        self.layers = [
            Convolution(width, radial, b, p, neighbours, linear, products and b > 0, key=k)
            for b, p, k in zip(ends[1:], couplings, keys[2:])
        ]
        self.readout = Perceptron(width, max(1, width // 2), 1, key=keys[1])
        self.cutoff, self.radial, self.degree = float(cutoff), radial, degree

    def __call__(self, structure: Structure) -> Float[Array, ""]:
        between = edges(structure)
        basis = smooth_basis(between.distances, self.radial, self.cutoff)
        around = harmonics(between.vectors / between.distances[..., None], self.degree)
        x = self.species.values(structure.species, self.embedding)[:, None]
        for layer in self.layers:
            x = layer(structure, x, basis, around)
        return sum_over_atoms(structure, self.readout(x[:, 0])[:, 0])


class Convolution(eqx.Module):
    """Features (n, m, f) of each atom, m by harmonic, from those of its neighbours, and a gate."""

    messages: Messages
    own: Linear
    gates: Linear
    products: Float[Array, "p f"] | None
    degree: int = eqx.field(static=True)

    def __init__(self, width, radial, degree, paths, neighbours, linear, products, *, key):
        keys = jax.random.split(key, 3)
        self.messages = Messages(width, radial, paths, degree, neighbours, linear=linear, key=keys[0])
        self.own = Linear(width, width, bias=False, key=keys[1])
        self.gates = Linear(width, degree * width, key=keys[2])
        count = len(pairs(degree))
        self.products = jax.random.normal(jax.random.fold_in(key, count), (count, width)) if products else None
        self.degree = degree

    def __call__(self, structure, x, basis, around):
        # What both the atom before and after has.
        shared = min(x.shape[1], (self.degree + 1) ** 2)
        y = self.messages(structure, x, basis, around)
        y = y + jnp.pad(self.own(x[:, :shared]), ((0, 0), (0, y.shape[1] - shared), (0, 0)))
        return self._gated(y if self.products is None else y + self._multiplied(y, self.products))

    def _multiplied(self, y, weights):
        sums = [jnp.zeros_like(y[:, block(c)]) for c in range(self.degree + 1)]
        for weight, (a, b, c) in zip(weights, pairs(self.degree)):
            both = jnp.einsum("nif,njf,ijo->nof", y[:, block(a)], y[:, block(b)], coupling(a, b, c).astype(y.dtype))
            sums[c] += weight * both
        return jnp.concatenate(sums, axis=1)

    def _gated(self, y):
        scalars = y[:, 0]
        gates = jnp.split(jax.nn.sigmoid(self.gates(scalars)), self.degree, axis=-1) if self.degree else []
        parts = [jax.nn.silu(scalars)[:, None]]
        parts += [y[:, block(c + 1)] * gate[:, None] for c, gate in enumerate(gates)]
        return jnp.concatenate(parts, axis=1)


def pairs(degree):
    """The paths of products of features with each other, of which the order does not matter."""
    return [(a, b, c) for a, b, c in paths(degree, degree, degree) if a <= b]
