"""MACE: products of the features that an atom's neighbours send, for terms of several bodies in few layers (Batatia et
al., NeurIPS 2022).
"""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..nn._layers import require_positive
from ._harmonics import HIGHEST, harmonics, paths, symmetric_products
from ._layers import Linear, Perceptron, Species, require_potential, smooth_basis, sum_over_atoms
from ._messages import Messages
from ._structure import Structure, edges


class MACE(eqx.Module):
    """The energy of a structure in eV, called as `model(structure)`: a sum over atoms, invariant under motions and
    reflections, smooth at the cutoff. Each layer sums what neighbours send, up to the degree `degree` (the paper's A,
    eq. 8), takes products of up to `order` of these sums (its B, eq. 10: terms of `order` + 1 bodies), and keeps
    features up to the degree `hidden`, of parity (-1)^l. `neighbours` is how many an atom has on average: sums are
    divided by its root. The paper's filters have more layers.

    Atoms of species that are not among `species` raise ValueError, and inside `jit` make it NaN.

    Raises ValueError for sizes that are not positive, degrees above 2, and species that are no elements.
    """

    species: Species
    embedding: Float[Array, "s f"]
    layers: list["Interaction"]
    readouts: list[Linear | Perceptron]
    cutoff: float = eqx.field(static=True)
    radial: int = eqx.field(static=True)
    degree: int = eqx.field(static=True)

    def __init__(
        self,
        species: Sequence[int],
        cutoff: float = 5.0,
        *,
        width: int = 32,
        layers: int = 2,
        radial: int = 8,
        degree: int = 2,
        hidden: int = 1,
        order: int = 3,
        neighbours: float = 10.0,
        key: Array,
    ):
        require_potential("MACE", cutoff, width=width, layers=layers, radial=radial, degree=degree, hidden=hidden)
        require_positive("MACE", order=order)
        if max(degree, hidden) > HIGHEST:
            raise ValueError(f"MACE: degree and hidden must be at most {HIGHEST}, got {degree} and {hidden}")
        keys = jax.random.split(key, 2 + 2 * layers)
        self.species = Species(species)
        self.embedding = jax.random.normal(keys[0], (len(self.species), width))
        # The first layer gets scalars only, and of the last one only scalars are read.
        ends = [0, *[hidden] * (layers - 1), 0]
        self.layers = [
            Interaction(len(self.species), width, radial, (a, degree, b), order, neighbours, key=k)
            for a, b, k in zip(ends, ends[1:], keys[2:])
        ]
        self.readouts = [Linear(width, 1, key=k) for k in keys[2 + layers : -1]]
        self.readouts += [Perceptron(width, max(1, width // 2), 1, key=keys[1])]
        self.cutoff, self.radial, self.degree = float(cutoff), radial, degree

    def __call__(self, structure: Structure) -> Float[Array, ""]:
        between = edges(structure)
        basis = smooth_basis(between.distances, self.radial, self.cutoff)
        around = harmonics(between.vectors / between.distances[..., None], self.degree)
        x = self.species.values(structure.species, self.embedding)[:, None]
        energies = jnp.zeros(len(x), x.dtype)
        for layer, readout in zip(self.layers, self.readouts):
            x = layer(self.species, structure, x, basis, around)
            energies += readout(x[:, 0])[:, 0]
        return sum_over_atoms(structure, energies)


class Interaction(eqx.Module):
    """Features (n, m, f) of each atom from products of its neighbours' and, by species, from its own."""

    messages: Messages
    weights: list[list[Float[Array, "s p f"]]]
    mixings: list[Linear]
    own: Float[Array, "s f g"]
    degrees: tuple[int, int, int] = eqx.field(static=True)

    def __init__(self, species, width, radial, degrees, order, neighbours, *, key):
        left, middle, out = degrees
        keys = iter(jax.random.split(key, 2 + (out + 1) * (order + 1)))
        self.messages = Messages(width, radial, paths(left, middle, middle), middle, neighbours, key=next(keys))
        self.own = jax.random.normal(next(keys), (species, width, width)) / width**0.5
        counts = [[symmetric_products(middle, o + 1, c).maps.shape[-1] for o in range(order)] for c in range(out + 1)]
        # The sum over all products of one degree has the variance of one.
        self.weights = [
            [jax.random.normal(next(keys), (species, p, width)) / sum(row) ** 0.5 for p in row] for row in counts
        ]
        self.mixings = [Linear(width, width, bias=False, key=next(keys)) for _ in counts]
        self.degrees = degrees

    def __call__(self, species, structure, x, basis, around):
        a = self.messages(structure, x, basis, around)
        sums = []
        for c, weights in enumerate(self.weights):
            total = jnp.zeros((len(a), 2 * c + 1, a.shape[-1]), a.dtype)
            for order, w in enumerate(weights, start=1):
                total += self._products(a, order, c, species.values(structure.species, w))
            sums.append(self.mixings[c](total))
        own = jnp.einsum("nmf,nfg->nmg", x, species.values(structure.species, self.own))
        # What both the atom before and after has.
        shared = (min(self.degrees[0], self.degrees[2]) + 1) ** 2
        return jnp.concatenate(sums, axis=1).at[:, :shared].add(own[:, :shared])

    def _products(self, a, order, out, weights):
        """The sum of all couplings of `order` features to one degree: (n, 2 out + 1, f)."""
        factors, maps = symmetric_products(self.degrees[1], order, out)
        # Factors are picked by products with ones and zeros, whose derivatives are products where those of indexing
        # scatter.
        picked = [jnp.einsum("nmf,mt->ntf", a, jnp.eye(a.shape[1], dtype=a.dtype)[:, f]) for f in factors]
        products = picked[0]
        for other in picked[1:]:
            products = products * other
        return jnp.einsum("ntf,tcp,npf->ncf", products, maps.astype(a.dtype), weights)
