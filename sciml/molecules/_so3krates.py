"""SO3krates: atoms that attend to their neighbours, with few equivariant numbers beside the invariant ones (Frank, Unke
& Mueller, NeurIPS 2022; Frank et al., Nature Commun. 15, 6539, 2024).
"""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..nn._layers import require_positive, require_scale
from ._harmonics import HIGHEST, block, harmonics
from ._layers import Linear, Perceptron, Species, require_potential, smooth_basis, sum_over_atoms
from ._radial import polynomial_cutoff
from ._structure import Structure, edges, to_neighbours


class SO3krates(eqx.Module):
    """The energy of a structure in eV, called as `model(structure)`: a sum over atoms, invariant under motions and
    reflections, smooth at the cutoff. An atom has `width` invariants, and one number for each harmonic of degrees 1 to
    `degree`, at first the sum of those of its edges. It attends to its neighbours with `heads` weights for invariants
    and one weight for each degree. The weights see the distance and how far the harmonics of both atoms are apart;
    they are multiplied by a smooth cutoff and not normalised by a softmax. The papers' layer norms are left out.

    `neighbours` is how many an atom has on average: sums are divided by its root.

    Atoms of species that are not among `species` raise ValueError, and inside `jit` make it NaN.

    Raises ValueError for sizes that are not positive, a width that is no multiple of heads and degree, a degree above
    2, and species that are no elements.
    """

    species: Species
    embedding: Float[Array, "s f"]
    layers: list["Attention"]
    readout: Perceptron
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
        radial: int = 20,
        degree: int = 2,
        heads: int = 4,
        neighbours: float = 10.0,
        key: Array,
    ):
        require_potential("SO3krates", cutoff, width=width, layers=layers, radial=radial)
        require_positive("SO3krates", degree=degree, heads=heads)
        require_scale("SO3krates", neighbours=neighbours)
        if degree > HIGHEST:
            raise ValueError(f"SO3krates: the degree must be at most {HIGHEST}, got {degree}")
        if width % heads or width % degree:
            raise ValueError(
                f"SO3krates: the width must be a multiple of heads={heads} and degree={degree}, got {width}"
            )
        keys = jax.random.split(key, 2 + layers)
        self.species = Species(species)
        self.embedding = jax.random.normal(keys[0], (len(self.species), width))
        self.layers = [Attention(width, radial, degree, heads, key=k) for k in keys[2:]]
        self.readout = Perceptron(width, max(1, width // 2), 1, key=keys[1])
        self.cutoff, self.radial, self.degree, self.neighbours = float(cutoff), radial, degree, float(neighbours)

    def __call__(self, structure: Structure) -> Float[Array, ""]:
        between = edges(structure)
        basis = smooth_basis(between.distances, self.radial, self.cutoff)
        envelope = polynomial_cutoff(between.distances, self.cutoff)[..., None] / self.neighbours**0.5
        around = envelope * harmonics(between.vectors / between.distances[..., None], self.degree)[..., 1:]
        x = self.species.values(structure.species, self.embedding)
        y = jnp.sum(around, axis=1)
        for layer in self.layers:
            x, y = layer(structure, x, y, basis, envelope, around)
        return sum_over_atoms(structure, self.readout(x)[:, 0])


class Attention(eqx.Module):
    """Invariants x (n, f) and harmonics y (n, m) of each atom from those of its neighbours, then from each other."""

    queries: Linear
    keys: Linear
    values: Linear
    by_distance: Perceptron
    by_order: Perceptron
    update: Perceptron
    exchange: Perceptron
    degree: int = eqx.field(static=True)
    heads: int = eqx.field(static=True)

    def __init__(self, width, radial, degree, heads, *, key):
        keys = jax.random.split(key, 7)
        # One half of queries, keys and filters is for the invariants, the other for the harmonics.
        self.queries = Linear(width, 2 * width, bias=False, key=keys[0])
        self.keys = Linear(width, 2 * width, bias=False, key=keys[1])
        self.values = Linear(width, width, bias=False, key=keys[2])
        self.by_distance = Perceptron(radial, width, 2 * width, key=keys[3])
        self.by_order = Perceptron(degree, width, 2 * width, key=keys[4])
        self.update = Perceptron(width, width, width, key=keys[5])
        self.exchange = Perceptron(width + degree, width, width + degree, key=keys[6])
        self.degree, self.heads = degree, heads

    def __call__(self, structure, x, y, basis, envelope, around):
        f = x.shape[-1]
        apart = self._squares(to_neighbours(structure, y) - y[:, None])
        filters = self.by_distance(basis) + self.by_order(apart)
        products = self.queries(x)[:, None] * to_neighbours(structure, self.keys(x)) * filters
        by_head = _sums(products[..., :f], self.heads) * envelope
        by_degree = _sums(products[..., f:], self.degree)
        values = to_neighbours(structure, self.values(x))
        values = values.reshape(*values.shape[:2], self.heads, -1)
        x = x + jnp.einsum("nkh,nkhf->nhf", by_head, values).reshape(x.shape)
        y = y + jnp.sum(self._spread(by_degree) * around, axis=1)
        x = x + self.update(x)
        change = self.exchange(jnp.concatenate([x, self._squares(y)], axis=-1))
        return x + change[:, :f], y + self._spread(change[:, f:]) * y

    def _squares(self, y):
        """The mean square of the harmonics of each degree."""
        members = _members(self.degree)
        return y**2 @ (members / members.sum(axis=0)).astype(y.dtype)

    def _spread(self, values):
        """What each harmonic gets of one number for each degree."""
        return values @ _members(self.degree).T.astype(values.dtype)


def _sums(products, parts):
    """The scaled sum over each of some equal parts of the last axis."""
    split = products.reshape(*products.shape[:-1], parts, -1)
    return jnp.sum(split, axis=-1) / split.shape[-1] ** 0.5


def _members(degree):
    """Which harmonics (m, degree) belong to each degree from 1 on."""
    members = np.zeros(((degree + 1) ** 2, degree))
    for i in range(degree):
        members[block(i + 1), i] = 1
    return members[1:]
