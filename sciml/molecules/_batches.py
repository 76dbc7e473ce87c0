"""Structures with their neighbours, padded into few shapes, and shuffled batches of them for `fit`."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from ase import Atoms

from ..nn._layers import require_positive
from ._frames import Frames, from_atoms
from ._neighbours import Neighbours, neighbour_list
from ._search import room_for
from ._structure import PADDING, Structure, stack


def structure(
    atoms: Atoms | Frames, cutoff: float, *, places: int | None = None, neighbours: int | None = None
) -> Structure:
    """One structure with its neighbours within `cutoff` angstroms, as a model takes it.

    - `places`, `neighbours`: to how many atoms, and neighbours of each, it is padded; by default as many as there are.

    Raises ValueError for several frames, too few places, and what `neighbour_list` refuses.
    """
    frame = from_atoms([atoms]) if isinstance(atoms, Atoms) else atoms
    if len(frame) != 1:
        raise ValueError(f"structure: expected one structure, got {len(frame)}")
    found = _neighbours_of(frame, cutoff)
    n, k = found.neighbours.shape
    return placed(frame, found, n if places is None else places, k if neighbours is None else neighbours)


def structure_with_room(atoms: Atoms, cutoff: float, least: int = 0) -> Structure:
    """As `structure`, with `least` places for neighbours, or more than there are where these are too few."""
    frame = from_atoms([atoms])
    found = _neighbours_of(frame, cutoff)
    n, k = found.neighbours.shape
    return placed(frame, found, n, least if least >= k else room_for(k))


def structures(data: Frames, cutoff: float) -> Structure:
    """All structures of a set as one batch, padded to the largest. Raises ValueError as `structure` does."""
    return grouped(data, cutoff, 1)[0][1]


def grouped(data: Frames, cutoff: float, buckets: int) -> list[tuple[np.ndarray, Structure]]:
    """The structures in groups of one shape each, with their numbers. Raises ValueError as `neighbour_list` does."""
    found = [_neighbours_of(f, cutoff) for f in data]
    places = np.array([f.neighbours.shape[1] for f in found])
    groups = []
    for members in cheapest_buckets(data.counts, places, buckets):
        shape = int(data.counts[members].max()), int(places[members].max())
        groups.append((members, stack([placed(data[i], found[i], *shape) for i in members])))
    return groups


def _neighbours_of(frame: Frames, cutoff: float) -> Neighbours:
    return neighbour_list(frame.positions, cutoff, frame.cells[0], tuple(frame.pbc[0].tolist()))


def placed(frame: Frames, found: Neighbours, n: int, k: int) -> Structure:
    """One structure in n places for atoms and k for neighbours. Raises ValueError where these are too few."""
    atoms, places = found.neighbours.shape
    if atoms > n or places > k:
        raise ValueError(f"structure: {atoms} atoms with up to {places} neighbours do not fit into {n} and {k} places")
    dtype = np.dtype(jax.numpy.result_type(float))

    def put(array, shape, fill=0):
        out = np.full(shape, fill, array.dtype)
        out[tuple(slice(s) for s in array.shape)] = array
        return out

    neighbours = np.repeat(np.arange(n, dtype=np.int32)[:, None], k, axis=1)
    neighbours[:atoms, :places] = found.neighbours
    reverse = np.repeat(np.arange(k, dtype=np.int32)[None], n, axis=0)
    reverse[:atoms, :places] = found.reverse
    periodic = frame.pbc[0].any()
    arrays: Any = (
        put(frame.positions.astype(dtype), (n, 3)),
        put(frame.species.astype(np.int32), (n,), PADDING),
        (frame.cells[0] if periodic else np.zeros((3, 3))).astype(dtype),
        neighbours,
        put(found.shifts, (n, k, 3)),
        reverse,
        put(found.is_edge, (n, k)),
        frame.charges[:1].astype(dtype).reshape(()),
    )
    return Structure(*map(jax.numpy.asarray, arrays))


class Batches:
    """Batches (structures, labels) without an end, epoch after epoch, of at most `buckets` shapes; see `batches`."""

    def __init__(self, data: Frames, cutoff: float, size: int, buckets: int, seed: int):
        self.size, self.seed = size, seed
        groups = grouped(data, cutoff, buckets)
        if (data.counts > 1).any() and not any(np.any(padded.is_edge) for _, padded in groups):
            raise ValueError(
                f"batches: no atom of {len(data)} structures has a neighbour within {cutoff} angstroms; are positions "
                "in another unit?"
            )
        # Batches are put together on the host.
        self.groups = [
            (jax.tree.map(np.asarray, padded), _labels(data, members, padded.species.shape[1]))
            for members, padded in groups
        ]

    def __len__(self) -> int:
        """The batches of an epoch."""
        return sum(-(-len(padded.species) // self.size) for padded, _ in self.groups)

    def __iter__(self) -> Iterator[tuple[Structure, dict[str, Any]]]:
        random = np.random.default_rng(self.seed)
        while True:
            groups = []
            for bucket, (padded, _) in enumerate(self.groups):
                order = random.permutation(len(padded.species))
                groups += [(bucket, order[i : i + self.size]) for i in range(0, len(order), self.size)]
            for number in random.permutation(len(groups)):
                yield self._batch(*groups[number])

    def _batch(self, bucket: int, which: np.ndarray) -> tuple[Structure, dict[str, Any]]:
        padded, labels = self.groups[bucket]
        full = np.resize(which, self.size)
        taken = jax.tree.map(lambda a: a[full], padded)
        targets = {n: v[full] for n, v in labels.items()}
        for values in targets.values():
            values[len(which) :] = np.nan
        return taken, targets


def batches(data: Frames, cutoff: float, size: int, *, buckets: int = 4, seed: int = 0) -> Batches:
    """Shuffled batches of `size` structures for `fit`: pairs of a `Structure` and the labels by name, those of atoms
    padded by NaN. A last batch that is not full is filled with structures of which no label is known.

    Structures are padded into at most `buckets` shapes, those with which the fewest places are wasted, so that a
    training step is compiled so many times at most. Neighbours within `cutoff` angstroms are searched once, now.

    Raises ValueError unless sizes are positive, where no structure has an edge, and as `neighbour_list` does.
    """
    require_positive("batches", size=size, buckets=buckets)
    return Batches(data, cutoff, size, buckets, seed)


def cheapest_buckets(atoms: Any, places: Any, buckets: int) -> list[np.ndarray]:
    """The structures, by number, in at most so many groups of similar numbers of atoms, each of which is padded to its
    largest: those whose places (atoms times neighbours) are fewest in sum, by dynamic programming.
    """
    atoms, places = np.asarray(atoms), np.asarray(places)
    sizes, kind = np.unique(atoms, return_inverse=True)
    count = np.bincount(kind)
    widest = np.zeros(len(sizes), int)
    np.maximum.at(widest, kind, places)
    u = len(sizes)
    before = np.concatenate([[0], np.cumsum(count)])
    # cost[a, b]: of one group with the sizes from a to b.
    cost = np.full((u, u), np.inf)
    for a in range(u):
        cost[a, a:] = (before[a + 1 :] - before[a]) * sizes[a:] * np.maximum.accumulate(widest[a:] + 1)
    best, cuts = cost[0].copy(), [np.zeros(u, int)]
    for _ in range(1, min(buckets, u)):
        # One group more, from a on; the sizes before a are in the groups so far.
        options = np.concatenate([[np.inf], best[:-1]])[:, None] + cost
        start = options.argmin(axis=0)
        better = options.min(axis=0) < best
        cuts.append(np.where(better, start, -1))
        best = np.minimum(best, options.min(axis=0))
    groups, end, level = [], u - 1, len(cuts) - 1
    while end >= 0:
        while level > 0 and cuts[level][end] < 0:
            level -= 1
        start = int(cuts[level][end]) if level else 0
        groups.append(np.flatnonzero((kind >= start) & (kind <= end)))
        end, level = start - 1, level - 1
    return groups[::-1]


def _labels(data: Frames, members: np.ndarray, n: int) -> dict[str, np.ndarray]:
    dtype = np.dtype(jax.numpy.result_type(float))
    found = {name: np.asarray(v)[members].astype(dtype) for name, v in data.labels.items() if _is_number(v)}
    for name, values in data.atom_labels.items():
        out = np.full((len(members), n, *values.shape[1:]), np.nan, dtype)
        for row, i in enumerate(members.tolist()):
            out[row, : data.counts[i]] = values[data.atoms_of(i)]
        found[name] = out
    return found


def _is_number(values: Any) -> bool:
    return np.asarray(values).dtype.kind in "fiub"
