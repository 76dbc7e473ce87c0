"""Meshes for reference solutions by finite elements (scikit-fem has elements and no mesher)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

# No two nodes are closer than this share of the length of the edges there.
CLOSEST = 0.75
CORNERS = ((0, 0), (1, 0), (1, 1), (0, 1), (0, 0))


def triangles_around(
    x: Sequence[float], y: Sequence[float], discs: Sequence[Sequence[float]], size: float, around: int = 24
) -> Any:
    """Triangles of a rectangle without discs, with curved sides along the circles.

    `discs` are (x, y, radius). Edges are about `size` long, and shorter around a disc: there the nodes form rings of
    `around` nodes each (or as many as make the edges of the circle `size` long), as far as their edges are shorter
    than `size`. With half the size and twice the `around`, all edges are half as long.

    Returns a `skfem.MeshTri2`, whose nodes in the middles of the circles' edges are on the circles, so that elements of
    orders 2 and 3 converge as on a polygon (Ciarlet & Raviart, 1972). Its `boundaries` are "rectangle", "disc 0",
    "disc 1", ... Raises ValueError for bounds, discs or sizes that are not finite or not positive, for discs that
    overlap or leave the rectangle, and where gaps between them are too narrow for the edges.
    """
    import skfem
    from scipy.spatial import Delaunay

    bounds = np.array([x, y], float)
    circles = _checked(bounds, discs, size, around)
    points, owner = _nodes(bounds, circles, size, around)
    # Circles have no nodes inside, so that their edges are among those of Delaunay's triangulation.
    triangles = Delaunay(points).simplices
    (ax, ay), (bx, by), (cx, cy) = (points[corner].T for corner in triangles.T)
    area = abs((bx - ax) * (cy - ay) - (by - ay) * (cx - ax)) / 2
    owners = owner[triangles]
    inside = (owners[:, 0] >= 0) & (owners == owners[:, :1]).all(axis=1)
    kept = triangles[~inside & (area > 1e-9 * size**2)]
    mesh = skfem.MeshTri2.from_mesh(skfem.MeshTri(np.ascontiguousarray(points.T), np.ascontiguousarray(kept.T)))
    numbers = {"rectangle": -1} | {f"disc {i}": i for i in range(len(circles))}
    edges, facets = mesh.boundary_facets(), np.asarray(mesh.facets)
    mesh = mesh.with_boundaries({name: edges[owner[facets[0, edges]] == number] for name, number in numbers.items()})
    for centre, radius in zip(circles[:, :2], circles[:, 2]):
        offset = mesh.doflocs - centre[:, None]
        distance = np.linalg.norm(offset, axis=0)
        on = distance < radius * (1 + 1e-9)
        mesh.doflocs[:, on] = centre[:, None] + radius * offset[:, on] / distance[on]
    # At the corners and middles of their sides, triangles must be turned the same way.
    turned = mesh.mapping().detDF(np.array([[0, 1, 0, 0.5, 0.5, 0], [0, 0, 1, 0, 0.5, 0.5]]))
    if not (turned * turned[:, :1] > 0).all():
        raise ValueError("triangles_around: a gap is too narrow for the edges; give a smaller size or a larger around")
    return mesh


def _checked(bounds: np.ndarray, discs: Sequence[Sequence[float]], size: float, around: int) -> np.ndarray:
    if any(np.shape(disc) != (3,) for disc in discs):
        raise ValueError(f"triangles_around: each disc is (x, y, radius), got {discs}")
    circles = np.array(discs, float).reshape(-1, 3)
    if bounds.shape != (2, 2) or not np.isfinite(bounds).all() or not (bounds[:, 0] < bounds[:, 1]).all():
        raise ValueError(f"triangles_around: x and y must be (low, high), got {bounds.tolist()}")
    if not np.isfinite(circles).all() or not (circles[:, 2] > 0).all():
        raise ValueError(f"triangles_around: discs must be finite and have a radius > 0, got {discs}")
    if not 0 < size < np.inf or around < 8:
        raise ValueError(f"triangles_around: needs size > 0 and around >= 8, got {size} and {around}")
    centres, radii = circles[:, :2], circles[:, 2]
    leaves = (centres - radii[:, None] <= bounds[:, 0]) | (centres + radii[:, None] >= bounds[:, 1])
    if leaves.any():
        raise ValueError(f"triangles_around: disc {discs[int(leaves.any(axis=1).argmax())]} leaves the rectangle")
    gaps = np.linalg.norm(centres[:, None] - centres, axis=2) - radii[:, None] - radii
    overlap = np.argwhere(np.triu(gaps <= 0, 1))
    if len(overlap):
        raise ValueError("triangles_around: discs {} and {} overlap".format(*(discs[i] for i in overlap[0])))
    return circles


def _nodes(bounds: np.ndarray, circles: np.ndarray, size: float, around: int) -> tuple[np.ndarray, np.ndarray]:
    """The nodes, and for each the number of its circle: -1 on the rectangle, -2 elsewhere."""
    from scipy.spatial import KDTree

    counts = np.maximum(around, np.ceil(2 * np.pi * circles[:, 2] / size)).astype(int)

    def length(points):
        """Of the edges at points: a share of the distance from the centre of a disc, as its rings have it."""
        distances = np.linalg.norm(points[:, None] - circles[:, :2], axis=2)
        return np.min(2 * np.pi * distances / counts, axis=1, initial=size)

    # The rings of a disc have ever larger radii and are turned by half an edge: a lattice of equilateral triangles, in
    # the logarithm of the radius and the angle.
    rings = []
    for (cx, cy, radius), count in zip(circles, counts):
        factor, most = 1 + np.sqrt(3) * np.pi / count, size * count / (2 * np.pi)
        for number in range(2 + max(0, int(np.log(most / radius) / np.log(factor)))):
            angle, reach = 2 * np.pi * (np.arange(count) + number / 2) / count, radius * factor**number
            rings.append((number, np.stack([cx + reach * np.cos(angle), cy + reach * np.sin(angle)], axis=1)))
    fixed = [ring for number, ring in rings if number == 0]
    nodes = np.concatenate([_sides(bounds, length), *fixed])
    owner = np.repeat([-1, *range(len(circles))], [len(nodes) - sum(map(len, fixed)), *map(len, fixed)])
    free = [ring for number, ring in sorted(rings, key=lambda ring: ring[0]) if number > 0]
    for group in [*free, _lattice(bounds, size)]:
        within = ((group > bounds[:, 0]) & (group < bounds[:, 1])).all(axis=1)
        outside = np.linalg.norm(group[:, None] - circles[:, :2], axis=2) > circles[:, 2]
        group = group[within & outside.all(axis=1)]
        nodes = np.concatenate([nodes, group[KDTree(nodes).query(group)[0] > CLOSEST * length(group)]])
    return nodes, np.r_[owner, np.full(len(nodes) - len(owner), -2)]


def _sides(bounds: np.ndarray, length) -> np.ndarray:
    """Nodes on the rectangle, at the distances that `length` asks for."""
    corners = np.array([(bounds[0, i], bounds[1, j]) for i, j in CORNERS])
    out, s = [], np.linspace(0, 1, 2001)
    for a, b in zip(corners[:-1], corners[1:]):
        density = np.linalg.norm(b - a) / length(a + s[:, None] * (b - a))
        passed = np.r_[0, np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(s))]
        count = int(np.ceil(passed[-1]))
        out.append(a + np.interp(np.arange(count) / count * passed[-1], passed, s)[:, None] * (b - a))
    return np.concatenate(out)


def _lattice(bounds: np.ndarray, size: float) -> np.ndarray:
    """Equilateral triangles over the rectangle."""
    (x0, x1), (y0, y1) = bounds
    row, column = np.mgrid[0 : (y1 - y0) / size * 2 / np.sqrt(3), 0 : (x1 - x0) / size]
    return np.stack([x0 + size * (column + row % 2 / 2), y0 + size * np.sqrt(3) / 2 * row], axis=2).reshape(-1, 2)
