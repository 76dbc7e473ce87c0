"""Neighbours of atoms within a cutoff, through periodic boundaries too, as arrays of places for each atom."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

# Nuclei are never nearer than this, in angstroms: what is, is an atom that was entered twice.
OVERLAP = 0.1
# Cutoffs that a cell list may be long: at some hundred thousand of them vesin ends the process.
FARTHEST = 10_000


class Neighbours(NamedTuple):
    """Of n atoms, each with at most k neighbours; see `Structure`."""

    neighbours: Int[np.ndarray, "n k"]
    shifts: Int[np.ndarray, "n k 3"]
    reverse: Int[np.ndarray, "n k"]
    is_edge: Bool[np.ndarray, "n k"]


def neighbour_list(
    positions: Float[np.ndarray, "n 3"],
    cutoff: float,
    cell: Float[np.ndarray, "3 3"] | None = None,
    pbc: tuple[bool, bool, bool] = (False, False, False),
) -> Neighbours:
    """The neighbours of each atom within `cutoff` angstroms, all images of an atom in a small cell among them (found by
    vesin's cell list).

    Raises ValueError where positions are not finite, atoms overlap or are farther apart than 10,000 cutoffs, the cell
    is singular while something is periodic or longer than that, or the cutoff is not positive.
    """
    positions = np.asarray(positions, float)
    if not cutoff > 0 or not np.isfinite(cutoff):
        raise ValueError(f"neighbour_list: the cutoff must be a positive number of angstroms, got {cutoff}")
    if not np.isfinite(positions).all():
        bad = int(np.flatnonzero(~np.isfinite(positions).all(axis=1))[0])
        raise ValueError(f"neighbour_list: the position of atom {bad} is not finite: {positions[bad]}")
    box = checked_cell(cell, pbc)
    i, j, shift, distance = _pairs(positions, cutoff, box, pbc)
    _check_overlaps(i, j, distance)
    return as_places(len(positions), i, j, shift)


def checked_cell(cell, pbc) -> Float[np.ndarray, "3 3"]:
    """The cell as an array, zeros where nothing is periodic. Raises ValueError where a periodic cell has no volume."""
    box = np.zeros((3, 3)) if cell is None else np.array(cell, float)
    if box.shape != (3, 3) or not np.isfinite(box).all():
        raise ValueError(f"expected a cell of three finite vectors as rows, got shape {box.shape}: {box.tolist()}")
    if not any(pbc):
        return np.zeros((3, 3))
    lengths = np.linalg.norm(box, axis=1)
    for axis in np.flatnonzero((lengths == 0) & ~np.asarray(pbc)):
        # A direction that is not periodic needs some vector, so that the others span the space.
        box[axis] = _orthogonal(box, lengths)
        lengths = np.linalg.norm(box, axis=1)
    if (lengths == 0).any() or abs(np.linalg.det(box)) < 1e-6 * np.prod(lengths):
        raise ValueError(
            f"the cell {box.tolist()} has no volume; a periodic structure needs three independent cell vectors "
            "(angstroms), one that is not periodic needs pbc=False"
        )
    return box


def _orthogonal(box, lengths):
    known = box[lengths > 0]
    _, _, right = np.linalg.svd(np.concatenate([known, np.zeros((3 - len(known), 3))]))
    return right[len(known)]


def _pairs(positions, cutoff, box, pbc):
    try:
        from vesin import NeighborList
    except ImportError as error:
        raise ImportError("neighbour lists need vesin: pip install vesin") from error
    size = float(np.linalg.norm(np.ptp(positions, axis=0))) if len(positions) else 0.0
    if max(size, np.linalg.norm(box, axis=1).max()) > FARTHEST * cutoff:
        raise ValueError(
            f"neighbour_list: atoms {size:.3g} angstroms apart, or a cell as long, with a cutoff of {cutoff}; at most "
            f"{FARTHEST:,} times the cutoff is supported (are positions in another unit, or has a molecule exploded?)"
        )
    if not any(pbc):
        # vesin takes time in proportion to the cutoff cubed, however few atoms there are.
        cutoff = min(cutoff, 1 + size)
    search = NeighborList(cutoff=cutoff, full_list=True)
    # It wants a cell with volume even where nothing is periodic.
    found = search.compute(positions, box if any(pbc) else np.eye(3), list(pbc), "ijSd")
    i, j, shift, distance = (np.asarray(a) for a in found)
    return i.astype(int), j.astype(int), shift.astype(int), distance


def _check_overlaps(i, j, distance) -> None:
    if len(distance) and distance.min() < OVERLAP:
        worst = int(np.argmin(distance))
        raise ValueError(
            f"atoms {i[worst]} and {j[worst]} are {distance[worst]:.2g} angstroms apart; atoms may not overlap "
            "(are positions in another unit, or is an atom there twice?)"
        )


def as_places(n: int, i, j, shift) -> Neighbours:
    """Edges between n atoms, each there in both directions, as places of the atoms i for the neighbours j."""
    order = np.lexsort((*shift.T, j, i))
    i, j, shift = i[order], j[order], shift[order]
    counts = np.bincount(i, minlength=n)
    place = np.arange(len(i)) - np.repeat(np.cumsum(counts) - counts, counts)
    # The edges in the order of the same edges seen from the other side.
    mirrored = np.lexsort((*(-shift).T, i, j))
    other = np.empty(len(i), int)
    other[mirrored] = np.arange(len(i))
    k = int(counts.max(initial=0))
    neighbours = np.repeat(np.arange(n)[:, None], k, axis=1)
    reverse = np.repeat(np.arange(k)[None], n, axis=0)
    shifts, is_edge = np.zeros((n, k, 3), int), np.zeros((n, k), bool)
    neighbours[i, place], shifts[i, place], is_edge[i, place] = j, shift, True
    reverse[i, place] = place[other]
    return Neighbours(neighbours.astype(np.int32), shifts.astype(np.int32), reverse.astype(np.int32), is_edge)
