"""Point clouds and meshes on the host: who is near whom, quadrature weights, and batches of clouds of several sizes.

Everything here but `cloud_misfit` is NumPy and runs before training: the arrays it returns have fixed shapes.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from numpy.typing import ArrayLike
from scipy.spatial import KDTree

Period = float | Sequence[float | None] | None


class Edges(NamedTuple):
    """Directed edges of a graph, each array of shape `(edges,)`: edge k carries something from point `senders[k]` to
    point `receivers[k]`. Where `mask` is False there is no edge, only padding.
    """

    senders: Any
    receivers: Any
    mask: Any


def bucket(count: int) -> int:
    """The least of the sizes 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, ... that is not below `count`: four to each
    doubling, so that data of many sizes need few compilations, with at most a quarter of padding.
    """
    step = 2 ** max(1, (count - 1).bit_length() - 3)
    return max(8, -(-count // step) * step)


def radius_edges(
    points: ArrayLike,
    radius: float,
    *,
    targets: ArrayLike | None = None,
    period: Period = None,
    size: int | None = None,
) -> Edges:
    """Edges from each point to every target within `radius` of it, both ends included; sorted by receiver.

    - `points`: senders `(n, d)`; `targets`: receivers `(m, d)`, by default the points (each is then its own neighbour).
    - `period`: the length of the periodic box, one number or one for each dimension with None where it is not periodic.
    - `size`: how many edges to pad to, by default the next `bucket`.

    Raises ValueError for arrays that are not finite points, and for a radius above half a period: a pair would have
    two edges.
    """
    tree, others = _trees(points, targets, period)
    if not 0 < radius < math.inf:
        raise ValueError(f"radius_edges: the radius must be above 0 and finite, got {radius}")
    if any(length and radius > length / 2 for length in _lengths(period, tree.m)):
        raise ValueError(f"radius_edges: the radius {radius} is above half of the period {period}")
    pairs = others.sparse_distance_matrix(tree, radius, output_type="ndarray")
    order = np.lexsort((pairs["j"], pairs["i"]))
    return _edges(pairs["j"][order], pairs["i"][order], size)


def nearest_edges(
    points: ArrayLike, k: int, *, targets: ArrayLike | None = None, period: Period = None, size: int | None = None
) -> Edges:
    """Edges from the `k` points nearest to each target, sorted by receiver and then by distance; arguments as of
    `radius_edges`. A point is the nearest to itself and counts as one of the k.

    Raises ValueError for arrays that are not finite points and where there are fewer than k points.
    """
    tree, others = _trees(points, targets, period)
    if not 1 <= k <= tree.n:
        raise ValueError(f"nearest_edges: k must be 1 to {tree.n}, the number of points; got {k}")
    senders = np.asarray(tree.query(others.data, k=k)[1])
    return _edges(senders.reshape(-1), np.repeat(np.arange(others.n), k), size)


def mesh_edges(cells: ArrayLike, *, size: int | None = None) -> Edges:
    """Edges both ways between the vertices that share a cell, once each, sorted by receiver. `cells` has the vertices
    of each as numbers, `(cells, k)`: segments, triangles or tetrahedra. Raises ValueError for another array.
    """
    corners = _cells(cells)
    k = corners.shape[1]
    pairs = [corners[:, [i, j]] for i in range(k) for j in range(k) if i != j]
    found = np.unique(np.concatenate(pairs), axis=0)
    return _edges(found[:, 1], found[:, 0], size)


def pad_edges(edges: Edges, size: int) -> Edges:
    """The edges, as many as `size` by padding. Raises ValueError where there are more."""
    return Edges(*(pad_cloud(np.asarray(values), size) for values in edges))


def mesh_weights(points: ArrayLike, cells: ArrayLike) -> np.ndarray:
    """What length, area or volume each vertex stands for, `(n,)`: an equal part of each cell that it is a corner of.
    The sum of values times weights is the integral of their piecewise linear interpolant.

    - `points`: `(n, d)`; `cells`: vertices of segments, triangles or tetrahedra, `(cells, k)` with k - 1 <= d, so that
      curves and surfaces in space are measured too.
    """
    x, corners = _points(points), _cells(cells)
    if corners.max() >= len(x) or corners.shape[1] - 1 > x.shape[1]:
        raise ValueError(
            f"mesh_weights: cells of {corners.shape[1]} vertices up to number {corners.max()} do not fit "
            f"{len(x)} points in {x.shape[1]} dimensions"
        )
    sides = x[corners[:, 1:]] - x[corners[:, :1]]
    gram = np.linalg.det(sides @ sides.transpose(0, 2, 1))
    sizes = np.sqrt(np.maximum(gram, 0)) / math.factorial(corners.shape[1] - 1)
    shares = np.repeat(sizes / corners.shape[1], corners.shape[1])
    return np.bincount(corners.ravel(), shares, minlength=len(x))


def pad_cloud(values: ArrayLike, size: int, axis: int = 0) -> np.ndarray:
    """The array with zeros (False) behind, so that it has `size` entries along `axis`. Raises ValueError where it has
    more already.
    """
    array = np.asarray(values)
    if array.shape[axis] > size:
        raise ValueError(f"pad_cloud: {array.shape[axis]} entries do not fit in {size}")
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, size - array.shape[axis])
    return np.pad(array, widths)


def stack_clouds(
    features: Sequence[ArrayLike],
    points: Sequence[ArrayLike],
    *edges: Sequence[Edges],
    weights: Sequence[ArrayLike] | None = None,
    targets: Sequence[ArrayLike] | None = None,
    size: int | None = None,
) -> tuple:
    """A batch of clouds of several sizes, padded: `(features, points, *edges, weights, mask)`, and then `targets`
    where they are given. Its entries are the arguments of the models on points, in their order, with a first axis for
    the samples; `cloud_misfit` is its loss.

    - `features`: `(in_channels, n)` of each cloud; `points`: `(n, d)`; `targets`: `(out_channels, n)`.
    - `edges`: for each set of edges that the model takes, those of each cloud; none for a `Transolver`.
    - `weights`: quadrature weights `(n,)`, by default all 1.
    - `size`: how many points to pad to, by default the next `bucket` above the largest cloud.

    Raises ValueError for lists of different lengths, arrays of one cloud that differ in their number of points and
    clouds of more than `size` points.
    """
    counts = [len(np.asarray(x)) for x in points]
    if weights is None:
        weights = [np.ones(n) for n in counts]
    columns = {"features": features, "points": points, "weights": weights, "targets": targets}
    given = {name: column for name, column in columns.items() if column is not None}
    lengths = {name: len(column) for name, column in given.items()} | {
        f"edges {i}": len(e) for i, e in enumerate(edges)
    }
    if len(set(lengths.values())) > 1 or not counts:
        raise ValueError(f"stack_clouds: expected one entry for each cloud in every list, got {lengths}")
    size = size or bucket(max(counts))
    stacked = {name: _stacked(name, column, counts, size) for name, column in given.items()}
    kind = stacked["features"].dtype
    mask = np.arange(size) < np.array(counts)[:, None]
    graphs = [_stacked_edges(column) for column in edges]
    batch = (stacked["features"], stacked["points"], *graphs, stacked["weights"].astype(kind), mask)
    return batch if targets is None else (*batch, stacked["targets"])


def cloud_misfit(model: Callable, batch: tuple) -> dict[str, Array]:
    """As `relative_misfit`, for padded clouds: a batch is `(*arguments, mask, target)`, with the mask of the points of
    the target `(batch, n)` as the model's last argument, and the target `(batch, out_channels, n)`.

    The mean square of the residual is the mean over the clouds of `|prediction - target|^2 / |target|^2`, whatever
    their sizes. Padded entries do not count and may hold anything, NaN too.
    """
    *arguments, mask, target = batch
    counted = jnp.broadcast_to(mask[:, None, :], target.shape)
    error = jnp.where(counted, jax.vmap(model)(*arguments, mask) - jnp.where(counted, target, 0), 0)
    squares = jnp.sum(jnp.where(counted, target, 0) ** 2, axis=(1, 2), keepdims=True)
    # A cloud without points has no error either.
    squares = jnp.where(jnp.any(counted, axis=(1, 2), keepdims=True), squares, 1)
    return {"misfit": error * jnp.sqrt(target[0].size / squares)}


def _edges(senders: np.ndarray, receivers: np.ndarray, size: int | None) -> Edges:
    edges = Edges(senders.astype(np.int32), receivers.astype(np.int32), np.ones(len(senders), bool))
    return pad_edges(edges, size or bucket(len(senders)))


def _points(values: ArrayLike) -> np.ndarray:
    x = np.asarray(values, float)
    if x.ndim != 2 or not x.size or not np.isfinite(x).all():
        raise ValueError(f"expected finite points (n, d), before padding; got shape {x.shape}{_first_bad(x)}")
    return x


def _first_bad(x: np.ndarray) -> str:
    bad = np.argwhere(~np.isfinite(x))
    return f" with {x[tuple(bad[0])]} at {bad[0].tolist()}" if len(bad) else ""


def _cells(cells: ArrayLike) -> np.ndarray:
    corners = np.asarray(cells)
    if corners.ndim != 2 or corners.shape[1] < 2 or not corners.size or corners.dtype.kind not in "iu":
        raise ValueError(f"expected cells (m, k) of vertex numbers, got {corners.dtype} of shape {corners.shape}")
    if corners.min() < 0:
        raise ValueError(f"expected vertex numbers from 0, got {corners.min()}")
    return corners


def _lengths(period: Period, dimensions: int) -> list[float]:
    """The length of the box in each dimension, 0 where it is not periodic."""
    given = [period] * dimensions if period is None or isinstance(period, float | int) else list(period)
    if len(given) != dimensions or any(length is not None and not 0 < length < math.inf for length in given):
        raise ValueError(f"expected a period above 0, or None, for each of {dimensions} dimensions; got {period}")
    return [float(length or 0) for length in given]


def _trees(points: ArrayLike, targets: ArrayLike | None, period: Period) -> tuple[KDTree, KDTree]:
    x = _points(points)
    y = x if targets is None else _points(targets)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"points have {x.shape[1]} dimensions, targets {y.shape[1]}")
    box = np.array(_lengths(period, x.shape[1]))
    return KDTree(_wrapped(x, box), boxsize=box), KDTree(_wrapped(y, box), boxsize=box)


def _wrapped(x: np.ndarray, box: np.ndarray) -> np.ndarray:
    inside = np.where(box > 0, x % np.where(box > 0, box, 1), x)
    # The remainder of a tiny negative number is the length itself, by rounding.
    return np.where((box > 0) & (inside >= box), 0, inside)


def _stacked(name: str, column: Sequence[ArrayLike], counts: list[int], size: int) -> np.ndarray:
    axis = -1 if name in ("features", "targets") else 0
    arrays = [np.asarray(values) for values in column]
    for number, (array, count) in enumerate(zip(arrays, counts)):
        if array.ndim != (1 if name == "weights" else 2) or array.shape[axis] != count:
            shape = {"weights": "(n,)", "points": "(n, d)"}.get(name, "(channels, n)")
            raise ValueError(f"stack_clouds: {name} of cloud {number} must be {shape}, n={count}; got {array.shape}")
    return np.stack([pad_cloud(array, size, axis) for array in arrays])


def _stacked_edges(column: Sequence[Edges]) -> Edges:
    size = max(len(edges.mask) for edges in column)
    padded = [pad_edges(edges, size) for edges in column]
    return Edges(*(np.stack(arrays) for arrays in zip(*padded)))
