"""Neighbours of atoms that move, found inside a compiled function with a fixed number of places."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ._structure import Structure


class Search(eqx.Module):
    """Finds neighbours by comparing all pairs of atoms and images: a function from one `Structure` to the same with
    fresh neighbours. Memory is n^2 times the number of images.

    - `cutoff`: in angstroms, a skin included.
    - `places`: the neighbours that an atom may have.
    - `images`: the cell vectors to try around the nearest image of a pair.
    - `pbc`: in which directions the cell repeats.
    """

    cutoff: float = eqx.field(static=True)
    places: int = eqx.field(static=True)
    images: tuple[tuple[int, int, int], ...] = eqx.field(static=True)
    pbc: tuple[bool, bool, bool] = eqx.field(static=True)

    def __call__(self, structure: Structure) -> tuple[Structure, Int[Array, ""]]:
        """The structure with its neighbours, and how many the atom with the most has. Where this exceeds `places`, some
        are missing and what is computed from them is wrong: the caller must look.
        """
        positions, cell = structure.positions, structure.cell
        n = positions.shape[0]
        apart = positions[None] - positions[:, None]
        nearest = self._nearest(apart, cell)
        images = jnp.asarray(self.images, jnp.int32)
        shifts = nearest[:, :, None] + images
        squares = jnp.sum((apart[:, :, None] + shifts.astype(positions.dtype) @ cell) ** 2, axis=-1)
        both = structure.is_atom[:, None] & structure.is_atom[None]
        itself = jnp.eye(n, dtype=bool)[:, :, None] & jnp.all(images == 0, axis=-1)
        near = (both[:, :, None] & ~itself & (squares < self.cutoff**2)).reshape(n, -1)
        count = jnp.sum(near, axis=1)
        # The first of those that are near, in order.
        order = jnp.where(near, -jnp.arange(near.shape[1]), -near.shape[1])
        places = min(self.places, near.shape[1])
        chosen = jax.lax.top_k(order, places)[1]
        is_edge = jnp.arange(places) < count[:, None]
        neighbours = jnp.where(is_edge, chosen // len(self.images), jnp.arange(n)[:, None]).astype(jnp.int32)
        shifts = jnp.take_along_axis(shifts.reshape(n, -1, 3), chosen[..., None], axis=1)
        shifts = jnp.where(is_edge[..., None], shifts, 0)
        found = neighbours, shifts, reverse_places(neighbours, shifts, is_edge), is_edge
        fields = [jnp.pad(f, [(0, 0), (0, self.places - places)] + [(0, 0)] * (f.ndim - 2)) for f in found]
        # A place without an edge is exchanged with itself.
        numbers = jnp.broadcast_to(jnp.arange(self.places, dtype=jnp.int32), fields[3].shape)
        fields[0] = jnp.where(fields[3], fields[0], jnp.arange(n, dtype=jnp.int32)[:, None])
        fields[2] = jnp.where(fields[3], fields[2], numbers)
        listed = eqx.tree_at(lambda s: (s.neighbours, s.shifts, s.reverse, s.is_edge), structure, tuple(fields))
        return listed, jnp.max(count)

    def reaches(self, cell: Float[Array, "3 3"]) -> Bool[Array, ""]:
        """Whether the images are enough in this cell, as they are in that for which the search was made."""
        if not any(self.pbc):
            return jnp.asarray(True)
        most = jnp.max(jnp.asarray(self.images), axis=0)
        needed = jnp.floor(self.cutoff * jnp.sqrt(jnp.sum(inverse(cell) ** 2, axis=0)) + 0.5)
        return jnp.all((needed <= most) | ~jnp.asarray(self.pbc))

    def _nearest(self, apart, cell):
        """By how many cell vectors the second atom of a pair must move to be near the first."""
        if not any(self.pbc):
            return jnp.zeros(apart.shape, jnp.int32)
        nearest = -jnp.round(apart @ inverse(cell))
        return jnp.where(jnp.asarray(self.pbc), nearest, 0).astype(jnp.int32)


def inverse(matrix: Float[Array, "3 3"]) -> Float[Array, "3 3"]:
    """By cross products: as elementary operations it is exported for every platform."""
    columns = jnp.stack([jnp.cross(matrix[1], matrix[2]), jnp.cross(matrix[2], matrix[0]), jnp.cross(*matrix[:2])])
    return columns.T / jnp.dot(matrix[0], columns[0])


def reverse_places(neighbours, shifts, is_edge):
    """The place in which the neighbour of each edge has its atom with the opposite shift."""
    n = neighbours.shape[0]
    same = neighbours[neighbours] == jnp.arange(n)[:, None, None]
    same &= jnp.all(shifts[neighbours] == -shifts[:, :, None], axis=-1) & is_edge[neighbours]
    return jnp.argmax(same, axis=-1).astype(jnp.int32)


def heights(cell: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "3"]:
    """The distances between opposite faces: one over the length of a column of the inverse."""
    return 1 / np.linalg.norm(np.linalg.inv(cell), axis=0)


def room_for(most: int) -> int:
    """Places for a fifth more neighbours than there are, in steps of 4, so that few sizes occur."""
    return 4 * math.ceil((1.2 * most + 1) / 4)


def search(cutoff: float, places: int, cell: Float[np.ndarray, "3 3"], pbc: tuple[bool, bool, bool]) -> Search:
    """A `Search` in a cell of this size, which may deform by little: the images that it tries are those that can be
    within the cutoff. Raises ValueError where the cell has no volume while something is periodic.
    """
    if not any(pbc):
        return Search(cutoff, places, ((0, 0, 0),), (False, False, False))
    if abs(np.linalg.det(cell)) < 1e-9:
        raise ValueError(f"search: a periodic cell needs a volume, got {np.asarray(cell).tolist()}")
    most = [int(np.floor(cutoff / h + 0.5)) if p else 0 for h, p in zip(heights(cell), pbc)]
    images = np.stack(np.meshgrid(*[np.arange(-m, m + 1) for m in most], indexing="ij"), axis=-1).reshape(-1, 3)
    return Search(cutoff, places, tuple((int(a), int(b), int(c)) for a, b, c in images), pbc)
