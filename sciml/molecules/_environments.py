"""What surrounds an atom as numbers that no motion, reflection or order of the neighbours changes."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..nn._layers import require_positive
from ._batches import grouped
from ._frames import Frames
from ._layers import Species, require_potential
from ._radial import cosine_cutoff
from ._structure import Structure, edges, to_neighbours

# Of the paper, for distances in angstroms: widths, powers of distances, and the weight of angles.
WIDTH_PAIRS, POWER_PAIRS = 0.32, 1.8
SHARPNESS_TRIPLES, POWER_TRIPLES, WEIGHT_TRIPLES = 2.7, 0.57, 13.4
WIDTH_ANGLES = math.pi


def environment(
    structure: Structure, species: Sequence[int], cutoff: float, *, pairs: int = 24, triples: int = 20
) -> Float[Array, "n d"]:
    """The surroundings of each atom up to the cutoff of the structure's neighbours, in angstroms (FCHL19; Christensen,
    Bratholm, Faber & von Lilienfeld, J. Chem. Phys. 152, 044107, 2020, with its constants).

    For each element among the neighbours, `pairs` log-normal functions of the distance; for each pair of elements,
    `triples` Gaussians of the mean of two distances, times the cosine and sine of the angle between them, weighted as
    the energy of three dipoles is. Rows of padding are 0.

    Raises ValueError for sizes and a cutoff that are not positive and species that are no elements. Species that are
    not among these raise it too, and inside `jit` make the numbers NaN.
    """
    require_potential("environment", cutoff, pairs=pairs, triples=triples)
    known = Species(species)
    kinds = to_neighbours(structure, known.values(structure.species, jnp.eye(len(known)), "environment"))
    between = edges(structure)
    r = between.distances
    fading = jnp.where(structure.is_edge, cosine_cutoff(r, cutoff), 0.0)
    n = len(r)
    two = jnp.einsum("nks,nkg->nsg", kinds, _pairs(r, fading, cutoff, pairs)).reshape(n, -1)
    three = jnp.einsum("nka,nlb,nklt->nabt", kinds, kinds, _triples(between, fading, cutoff, triples))
    first, second = np.triu_indices(len(known))
    found = jnp.concatenate([two, three[:, first, second].reshape(n, -1)], axis=-1)
    return jnp.where(structure.is_atom[:, None], found, 0.0)


def _pairs(r, fading, cutoff, count):
    centres = jnp.linspace(0, cutoff, count + 1)[1:]
    variance = jnp.log1p(WIDTH_PAIRS / r**2)[..., None]
    apart = jnp.log(centres) - jnp.log(r)[..., None] + variance / 2
    bells = jnp.exp(-(apart**2) / (2 * variance)) / (centres * jnp.sqrt(2 * jnp.pi * variance))
    return bells * (fading / r**POWER_PAIRS)[..., None]


def _triples(between, fading, cutoff, count):
    r, k = between.distances, between.distances.shape[1]
    directions = between.vectors / r[..., None]
    # At 1 the root below has no derivative.
    most = 1 - jnp.finfo(r.dtype).eps
    cosine = jnp.clip(jnp.einsum("nkd,nld->nkl", directions, directions), -most, most)
    one, other = r[:, :, None], r[:, None, :]
    # The third side; that of a neighbour with itself has no length and no weight.
    third = jnp.sqrt(jnp.maximum(one**2 + other**2 - 2 * one * other * cosine, 1e-4))
    angles = cosine * (one - other * cosine) / third * (other - one * cosine) / third
    weight = WEIGHT_TRIPLES * (1 + 3 * angles) / (one * other * third) ** POWER_TRIPLES
    weight = weight * fading[:, :, None] * fading[:, None, :] * (1 - jnp.eye(k))
    centres = jnp.linspace(0, cutoff, count + 1)[1:]
    apart = (one + other)[..., None] / 2 - centres
    radial = jnp.sqrt(SHARPNESS_TRIPLES / jnp.pi) * jnp.exp(-SHARPNESS_TRIPLES * apart**2) * weight[..., None]
    angular = 2 * math.exp(-(WIDTH_ANGLES**2) / 2) * jnp.stack([cosine, jnp.sqrt(1 - cosine**2)], axis=-1)
    return (radial[..., None, :] * angular[..., None]).reshape(*r.shape, k, -1)


def environments(
    data: Frames, cutoff: float = 8.0, *, pairs: int = 24, triples: int = 20, size: int = 32
) -> Float[np.ndarray, "N d"]:
    """The `environment` of all atoms of a set, one after the other, among the elements of the set; `size` structures
    at a time, in JAX's default precision.

    Raises ValueError for sizes that are not positive, and as `neighbour_list` does.
    """
    require_positive("environments", size=size)
    species = np.unique(data.species).tolist()

    @jax.jit
    def described(structures):
        return jax.lax.map(
            lambda s: environment(s, species, cutoff, pairs=pairs, triples=triples), structures, batch_size=size
        )

    owner = np.repeat(np.arange(len(data)), data.counts)
    parts = []
    for members, padded in grouped(data, cutoff, 5):
        parts.append((np.isin(owner, members), np.asarray(described(padded))[np.asarray(padded.is_atom)]))
    found = np.zeros((len(data.species), parts[0][1].shape[1]), parts[0][1].dtype)
    for rows, values in parts:
        found[rows] = values
    return found
