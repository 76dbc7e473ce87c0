"""Properties of molecules: messages along bonds, and readouts for quantities that grow with a molecule or do not."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ..nn._layers import require_positive
from ._energy import known_residual
from ._graphs import Graph
from ._layers import Linear, Perceptron, Species
from ._radial import cosine_cutoff, gaussian_basis
from ._structure import Structure, edges, exchanged

# Gaussians of the order of a bond, from 0 to 3.
ORDERS = 13


class BondNetwork(eqx.Module):
    """Features of the atoms of a `Graph` by messages along directed bonds, none of which returns at once along the
    bond that it came on (D-MPNN; Yang et al., J. Chem. Inf. Model. 59, 3370, 2019, eqs. 3 to 7; silu for ReLU).

    With a cutoff, in angstroms, the length of each edge goes into its messages too; edges that are no bonds fade out
    towards the cutoff. `features`: how many further numbers an atom has.

    Atoms of species that are not among `species` raise ValueError, and inside `jit` make the features NaN.

    Raises ValueError for sizes and a cutoff that are not positive and species that are no elements.
    """

    species: Species
    first: Linear
    step: Linear
    last: Linear
    width: int = eqx.field(static=True)
    layers: int = eqx.field(static=True)
    cutoff: float | None = eqx.field(static=True)
    radial: int = eqx.field(static=True)

    def __init__(
        self,
        species: Sequence[int],
        cutoff: float | None = None,
        *,
        features: int = 0,
        width: int = 64,
        layers: int = 3,
        radial: int = 20,
        key: Array,
    ):
        require_positive("BondNetwork", width=width, layers=layers, radial=radial - 1)
        if features < 0 or (cutoff is not None and not cutoff > 0):
            raise ValueError(
                f"BondNetwork: expected features of 0 or more and a positive cutoff, got {features}, {cutoff}"
            )
        keys = jax.random.split(key, 3)
        self.species = Species(species)
        atom = len(self.species) + features
        edge = ORDERS + (0 if cutoff is None else radial)
        self.first = Linear(atom + edge, width, key=keys[0])
        self.step = Linear(width, width, key=keys[1])
        self.last = Linear(atom + width, width, key=keys[2])
        self.width, self.layers, self.radial = width, layers, radial
        self.cutoff = None if cutoff is None else float(cutoff)

    def features(self, graph: Graph) -> tuple[Float[Array, "n f"], Float[Array, "n 3 f"] | None]:
        """The scalars of each atom, and vectors where there is a cutoff: messages times directions of edges."""
        structure = graph.structure
        kinds = self.species.values(structure.species, jnp.eye(len(self.species), dtype=graph.orders.dtype))
        atoms = jnp.concatenate([kinds, graph.features], axis=-1)
        described, weight, directions = self._edges(graph)
        sources = jnp.broadcast_to(atoms[:, None], (*weight.shape[:2], atoms.shape[-1]))
        initial = self.first(jnp.concatenate([sources, described], axis=-1))
        # In the place of a neighbour stands what goes out to it.
        sent = jax.nn.silu(initial) * weight
        for _ in range(self.layers):
            arriving = exchanged(structure, sent)
            others = jnp.sum(arriving, axis=1, keepdims=True) - arriving
            sent = jax.nn.silu(initial + self.step(others)) * weight
        arriving = exchanged(structure, sent)
        scalars = jax.nn.silu(self.last(jnp.concatenate([atoms, jnp.sum(arriving, axis=1)], axis=-1)))
        vectors = None if directions is None else jnp.einsum("nkf,nkd->ndf", arriving, directions)
        return jnp.where(structure.is_atom[:, None], scalars, 0.0), vectors

    def _edges(self, graph: Graph):
        """Of each edge what describes it, its weight, and its direction where the geometry is looked at."""
        bonded = gaussian_basis(graph.orders, ORDERS, 3.0)
        inside = jnp.where(graph.structure.is_edge, 1.0, 0.0).astype(graph.orders.dtype)
        if self.cutoff is None:
            return bonded, inside[..., None], None
        vectors, distances = edges(graph.structure)
        fading = jnp.where(graph.orders > 0, 1.0, cosine_cutoff(distances, self.cutoff)) * inside
        described = jnp.concatenate([bonded, gaussian_basis(distances, self.radial, self.cutoff)], axis=-1)
        return described, fading[..., None], vectors / distances[..., None]


Readout = Callable[[Float[Array, "n f"], Float[Array, "n *t"], Bool[Array, " n"]], Float[Array, "*t"]]


def summed(features: Any, values: Float[Array, "n *t"], is_atom: Bool[Array, " n"]) -> Float[Array, "*t"]:
    """The sum over the atoms: a quantity of two molecules far apart is that of one plus that of the other."""
    return jnp.sum(_of_atoms(values, is_atom), axis=0)


def averaged(features: Any, values: Float[Array, "n *t"], is_atom: Bool[Array, " n"]) -> Float[Array, "*t"]:
    """The mean over the atoms: a quantity that does not grow with the molecule."""
    return summed(features, values, is_atom) / jnp.maximum(jnp.sum(is_atom), 1)


class Attention(eqx.Module):
    """A mean over the atoms with weights that are learned: a softmax of a number made of each atom's features, (n, f)
    with f = `width` (after Li et al., ICLR 2016, eq. 7, with a softmax for the sigmoid).
    """

    scores: Linear

    def __init__(self, width: int, *, key: Array):
        require_positive("Attention", width=width)
        self.scores = Linear(width, 1, key=key)

    def __call__(self, features, values, is_atom):
        scores = jnp.where(is_atom, self.scores(features)[:, 0], -jnp.inf)
        weights = jnp.where(is_atom, jax.nn.softmax(scores), 0.0)
        return jnp.einsum("n,n...->...", weights, _of_atoms(values, is_atom))


def _of_atoms(values, is_atom):
    return jnp.where(is_atom.reshape(-1, *(1,) * (values.ndim - 1)), values, 0.0)


class Property(eqx.Module):
    """Quantities of a molecule, from what its atoms have: called on one sample, it gives (t,) numbers, or with
    `vector` (t, 3) vectors that turn with the molecule.

    - `body`: a model with `features(sample) -> (scalars (n, f), vectors (n, 3, f))`, as `BondNetwork` for a `Graph` and
      `PaiNN` for a `Structure` have it, with f = `width`. Vectors need the geometry.
    - `readout`: from features, values of each atom and `is_atom` to values of the molecule: `summed` for a quantity
      that grows with the molecule (the default), `averaged` or an `Attention` for one that does not.

    Raises ValueError for sizes that are not positive, and when called for vectors without the geometry.
    """

    body: Any
    head: Perceptron
    readout: Readout
    vector: bool = eqx.field(static=True)

    def __init__(
        self, body: Any, width: int, outputs: int = 1, *, readout: Readout = summed, vector: bool = False, key: Array
    ):
        require_positive("Property", width=width, outputs=outputs)
        self.body, self.readout, self.vector = body, readout, vector
        self.head = Perceptron(width, width, outputs * (width if vector else 1), key=key)

    def __call__(self, sample: Graph | Structure) -> Float[Array, "t *d"]:
        structure = sample.structure if isinstance(sample, Graph) else sample
        scalars, vectors = self.body.features(sample)
        values = self.head(scalars)
        if self.vector:
            if vectors is None:
                raise ValueError("Property: vectors need the geometry: give the body a cutoff")
            gates = values.reshape(len(values), -1, scalars.shape[-1])
            values = jnp.einsum("ntf,ndf->ntd", gates, vectors)
        return self.readout(scalars, values, structure.is_atom)


def property_misfit(scale: Any = 1.0) -> Callable:
    """The loss `(model, (samples, targets)) -> {"property": residuals}` of a `Property` on a batch of graphs or
    structures and targets, (m, t) or (m, t, 3), NaN where one is not known: the deviations over `scale`.

    Raises ValueError where predictions and targets differ in shape.
    """

    def loss(model, batch):
        samples, targets = batch
        found, targets = jax.vmap(model)(samples), jnp.asarray(targets)
        if found.shape != targets.shape:
            raise ValueError(f"property_misfit: predictions have shape {found.shape}, targets {targets.shape}")
        return {"property": known_residual((found - targets) / scale, targets)}

    return loss
