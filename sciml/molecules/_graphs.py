"""Molecules as graphs: atoms and bonds, and the geometry where it is known."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._batches import placed
from ._frames import Frames
from ._neighbours import Neighbours, as_places, neighbour_list
from ._structure import Structure, stack


class Graph(eqx.Module):
    """A molecule with n places for atoms and k for the neighbours of each; `graphs` makes a batch of them.

    - `structure`: the atoms, and as neighbours those that they are bonded to (and, with a cutoff, those near).
    - `orders`: of the bond to each neighbour; 0 where there is none.
    - `features`: further numbers of each atom, such as its charge; 0 where there is no atom.
    """

    structure: Structure
    orders: Float[Array, "*batch n k"]
    features: Float[Array, "*batch n f"]


def graphs(
    data: Frames,
    ends: Any,
    counts: Any,
    orders: Any = None,
    *,
    features: Any = None,
    cutoff: float | None = None,
) -> Graph:
    """All molecules of a set as one batch, padded to the largest.

    - `ends`: the two atoms of each bond, (b, 2), of all molecules one after the other; atoms are counted from 0 in each
      molecule. `counts`: the number of bonds of each molecule, (m,).
    - `orders`: of the bonds, (b,), such as 1.5 for aromatic ones; by default 1.
    - `features`: further numbers of all atoms one after the other, (N, f).
    - `cutoff`: atoms within so many angstroms are neighbours too, with a bond or without. By default the positions are
      not looked at, and may be zeros.

    Raises ValueError where bonds join atoms that are not there, an atom with itself, or the same two twice, where
    numbers do not fit together or are not finite, and as `neighbour_list` does.
    """
    features = np.zeros((len(data.species), 0)) if features is None else np.asarray(features, float)
    if features.ndim != 2 or len(features) != len(data.species):
        raise ValueError(f"graphs: expected features ({len(data.species)}, f), got {features.shape}")
    if not np.isfinite(features).all():
        raise ValueError(f"graphs: a feature of atom {np.argwhere(~np.isfinite(features))[0][0]} is not finite")
    tables = bond_tables(data, ends, counts, orders)
    found = [_neighbours(frame, table, cutoff) for frame, table in zip(data, tables)]
    n, k = (max(f.neighbours.shape[axis] for f in found) for axis in (0, 1))
    structure = stack([placed(frame, f, n, k) for frame, f in zip(data, found)])
    between, of_atoms = np.zeros((len(data), n, n)), np.zeros((len(data), n, features.shape[1]))
    for padded, table in zip(between, tables):
        padded[: len(table), : len(table)] = table
    of_atoms[np.asarray(structure.is_atom)] = features
    # Places without a neighbour have the atom itself, which has no bond to itself.
    of_edges = np.take_along_axis(between, np.asarray(structure.neighbours), axis=2)
    dtype = structure.positions.dtype
    return Graph(structure, jnp.asarray(of_edges, dtype), jnp.asarray(of_atoms, dtype))


def _neighbours(frame: Frames, table: np.ndarray, cutoff: float | None) -> Neighbours:
    """Those that an atom is bonded to, and those that are near."""
    joined = table > 0
    if cutoff is not None:
        near = neighbour_list(frame.positions, cutoff)
        joined[np.nonzero(near.is_edge)[0], near.neighbours[near.is_edge]] = True
    first, second = np.nonzero(joined)
    return as_places(len(table), first, second, np.zeros((len(first), 3), int))


def bond_tables(data: Frames, ends: Any, counts: Any, orders: Any = None) -> list[np.ndarray]:
    """The order of the bond between each two atoms of each molecule, (n, n); arguments and errors are those of
    `graphs`.
    """
    ends, counts = np.asarray(ends, int).reshape(-1, 2), np.asarray(counts, int)
    orders = np.ones(len(ends)) if orders is None else np.asarray(orders, float)
    if counts.shape != (len(data),) or counts.sum() != len(ends) or orders.shape != (len(ends),):
        raise ValueError(
            f"bonds: counts of shape {counts.shape} add up to {counts.sum()} bonds, there are {len(data)} molecules, "
            f"{len(ends)} pairs of ends and orders of shape {orders.shape}"
        )
    if not (np.isfinite(orders) & (orders > 0)).all():
        raise ValueError("bonds: orders must be positive numbers")
    if data.pbc.any():
        raise ValueError("bonds: those through periodic boundaries are not supported; set pbc=False")
    at = np.cumsum(counts)[:-1]
    parts = zip(data.counts.tolist(), np.split(ends, at), np.split(orders, at))
    return [_bond_table(i, *part) for i, part in enumerate(parts)]


def _bond_table(number: int, n: int, ends: np.ndarray, orders: np.ndarray) -> np.ndarray:
    if ((ends < 0) | (ends >= n)).any():
        raise ValueError(f"bonds: molecule {number} has {n} atoms, its bonds join {ends.min()} to {ends.max()}")
    if (ends[:, 0] == ends[:, 1]).any():
        raise ValueError(f"bonds: one of molecule {number} joins an atom with itself")
    table = np.zeros((n, n))
    for (a, b), order in zip(ends.tolist(), orders.tolist()):
        if table[a, b]:
            raise ValueError(f"bonds: molecule {number} has that of atoms {a} and {b} twice")
        table[a, b] = table[b, a] = order
    return table
