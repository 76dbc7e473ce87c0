"""How alike molecules are: sums over their atoms, subtrees of their bonds, and any numbers that describe them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from ..nn._layers import require_scale
from ._frames import Frames
from ._graphs import bond_tables

# Molecules whose atoms are compared with all others at a time.
BLOCK = 64


def environment_kernels(
    data: Frames, described: Any, widths: Sequence[float]
) -> Float[np.ndarray, "{len(widths)} {len(data)} {len(data)}"]:
    """For each two molecules the sum of `exp(-|d_i - d_j|^2 / (2 width^2))` over their pairs of atoms of one element,
    where d are the rows of `described`, (N, d), as `environments` gives them; one kernel for each width. A property
    that is regressed with it is a sum over atoms (Christensen et al., J. Chem. Phys. 152, 044107, 2020).

    Takes time in proportion to the square of the number of atoms of an element, and to d and the number of widths.

    Raises ValueError where numbers do not fit together or are not finite, and for widths that are not positive.
    """
    described = np.asarray(described)
    require_scale("environment_kernels", **{f"width {i}": width for i, width in enumerate(widths)})
    if described.ndim != 2 or len(described) != len(data.species):
        raise ValueError(f"environment_kernels: expected described ({len(data.species)}, d), got {described.shape}")
    if not np.isfinite(described).all():
        raise ValueError("environment_kernels: a description of an atom is not finite")
    owner = np.repeat(np.arange(len(data)), data.counts)
    found = np.zeros((len(widths), len(data), len(data)))
    for element in np.unique(data.species):
        atoms = np.flatnonzero(data.species == element)
        own = described[atoms] - described[atoms].mean(axis=0)
        rows, starts = np.unique(owner[atoms], return_index=True)
        ends = np.append(starts[1:], len(atoms))
        for first in range(0, len(rows), BLOCK):
            block = slice(first, first + BLOCK)
            begin, end = starts[block][0], ends[block][-1]
            # The kernel is symmetric: with these and the molecules before them.
            halves = -0.5 * _squares(own[begin:end], own[:end])
            until = starts[: first + BLOCK]
            for kernel, width in zip(found, widths):
                alike = np.add.reduceat(np.exp(halves / width**2), starts[block] - begin, axis=0)
                kernel[np.ix_(rows[block], rows[: first + BLOCK])] += np.add.reduceat(alike, until, axis=1)
    lower = np.tril(found)
    return lower + np.tril(found, -1).transpose(0, 2, 1)


def _squares(a, b):
    """The squared distances of rows."""
    distances = np.sum(a**2, axis=1)[:, None] + np.sum(b**2, axis=1) - 2 * (a @ b.T)
    return np.maximum(distances, 0, out=distances)


def subtree_kernels(
    data: Frames, ends: Any, counts: Any, orders: Any = None, *, depth: int = 3
) -> Float[np.ndarray, "{depth}+1 {len(data)} {len(data)}"]:
    """For each depth from 0 to `depth` how many subtrees of bonds two molecules share, over how many either has, from
    0 to 1 (the MinMax kernel; Ralaivola et al., Neural Networks 18, 1093, 2005). The subtree of an atom is its
    element and number of bonds at depth 0, and from then on its subtree and those of its neighbours, with the orders of
    the bonds to them, one depth before (Morgan, J. Chem. Doc. 5, 107, 1965). Bonds are given as for `graphs`; positions
    are not looked at.

    Raises ValueError for a negative depth, and as `graphs` does.
    """
    if depth < 0:
        raise ValueError(f"subtree_kernels: depth must be 0 or more, got {depth}")
    near = []
    for start, table in zip(data.starts.tolist(), bond_tables(data, ends, counts, orders)):
        near += [[(row[j], start + j) for j in np.flatnonzero(row).tolist()] for row in table]
    labels: list[Any] = [(z, len(others)) for z, others in zip(data.species.tolist(), near)]
    owner = np.repeat(np.arange(len(data)), data.counts)
    found = []
    for _ in range(depth + 1):
        numbers = {label: i for i, label in enumerate(dict.fromkeys(labels))}
        known = [numbers[label] for label in labels]
        table = np.zeros((len(data), len(numbers)))
        np.add.at(table, (owner, np.asarray(known)), 1)
        found.append(_shared(table))
        labels = [(own, *sorted((order, known[j]) for order, j in others)) for own, others in zip(known, near)]
    return np.stack(found)


def _shared(table):
    either = table.sum(axis=1)
    shared = np.stack([np.minimum(row, table).sum(axis=1) for row in table])
    return shared / (either[:, None] + either - shared)


def linear_kernel(features: Any) -> Float[np.ndarray, "m m"]:
    """The inner products of features (m, f), each over its root mean square: regression with it is linear, and a
    feature that is the same for all is a constant.

    Raises ValueError for another shape and numbers that are not finite.
    """
    scaled = _scaled("linear_kernel", features, centred=False)
    return scaled @ scaled.T


def gaussian_kernel(features: Any, width: float) -> Float[np.ndarray, "m m"]:
    """`exp(-|x_i - x_j|^2 / (2 width^2))` of features (m, f), each over its deviation and the root of f, so that a
    width of about 1 suits any number of them.

    Raises ValueError as `linear_kernel` does, and for a width that is not positive.
    """
    require_scale("gaussian_kernel", width=width)
    scaled = _scaled("gaussian_kernel", features, centred=True)
    return np.exp(-0.5 * _squares(scaled, scaled) / (width**2 * scaled.shape[1]))


def _scaled(name, features, centred):
    features = np.asarray(features, float)
    if features.ndim != 2 or not features.size or not np.isfinite(features).all():
        raise ValueError(f"{name}: expected finite features (m, f), got shape {features.shape}")
    moved = features - features.mean(axis=0) if centred else features
    sizes = np.sqrt(np.mean(moved**2, axis=0))
    return moved / np.where(sizes > 0, sizes, 1.0)
