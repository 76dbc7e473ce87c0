"""Poisson's equation on random domains with unstructured meshes: source to solution.

-u_xx - u_yy = f with u = 0 on the boundary. The domain is star-shaped, with the logarithm of its radius a random
Fourier series (waves 2 to 5 around the origin); about half of the domains have a hole of the same kind. f is the sum
of four plane waves with random directions, phases, normal amplitudes and wavenumbers of up to 6.

- What: position(sample, point, axis), f, u, the distance to the boundary and the weight (a third of the area of the
  triangles around a vertex) at (sample, point), triangle(sample, cell, corner) as numbers of points, and mask, 1
  where there is a point. Zeros stand behind the last point and the last triangle of a sample: weight and mask are 0
  there, and the corners of such a triangle are one and the same.
- Who: made here, free of rights.
- Meshes: points on the boundary at equal distances, in the domain a randomly turned and jittered triangular lattice,
  Delaunay's triangulation. A domain has `fewest` to `most` vertices, whatever its size. The same sample with other
  numbers of vertices is the same domain and the same f.
- Solver: scikit-fem, quadratic triangles of the same mesh, curved at the boundary, f at the quadrature points; u at the
  vertices. Third order (tests). At the default sizes u differs from that on meshes with 16 times the triangles by
  5e-4 (relative norm at the vertices, median of 50 samples; the largest is 2.7e-3).
- Size: 1000 samples are 20 MB, made in about half a minute.
- Baselines: those of the problem `poisson_mesh`.
"""

from typing import NamedTuple

import numpy as np
from scipy.spatial import Delaunay, KDTree

import sciml

# Of a point in the domain from the boundary, in spacings. Above a half, an edge of the boundary has no point in the
# circle around it, so that it is one of Delaunay's triangulation.
MARGIN = 0.6
GAP = 0.2
FIELDS = {"f": "source", "u": "solution", "distance": "distance to the boundary", "weight": "area of a vertex"}


def make(
    samples: int = 1000,
    fewest: int = 150,
    most: int = 400,
    holes: float = 0.5,
    seed: int = 0,
    dtype: str = "float32",
) -> sciml.data.Recipe:
    """fewest, most: vertices of a mesh, between which their number is uniform; holes: the share of domains with one."""
    if not 80 <= fewest <= most or not 0 <= holes <= 1:
        raise ValueError(f"needs 80 <= fewest <= most and holes from 0 to 1, got {fewest}, {most} and {holes}")
    if np.dtype(dtype).kind != "f":
        raise ValueError(f"dtype must be float32 or float64, got {dtype}")

    def generate(start, stop):
        made = [padded(sample(seed, number, fewest, most, holes), most) for number in range(start, stop)]
        return {name: np.stack([one[name] for one in made]) for name in made[0]}

    def variable(dims, shape, kind, name):
        return sciml.data.Variable(
            ("sample", *dims), (samples, *shape), kind, attributes={"long_name": name, "units": "1"}
        )

    variables = {"position": variable(("point", "axis"), (most, 2), dtype, "vertices")}
    variables |= {name: variable(("point",), (most,), dtype, text) for name, text in FIELDS.items()}
    variables["mask"] = variable(("point",), (most,), "int8", "whether there is a vertex")
    variables["triangle"] = variable(("cell", "corner"), (2 * most, 3), "int32", "vertices of triangles")
    return sciml.data.Recipe(variables, {}, samples, generate)


def equations(**settings) -> sciml.PDE:
    """On the unit disc, in place of the domain of a sample."""

    def poisson(u_xx, u_yy, f):
        return u_xx + u_yy + f

    domain = sciml.Ball(x=0, y=0, radius=1)
    return sciml.PDE(domain, poisson, sciml.value(u=0.0, on=domain.boundary()), f=0.0)


class Curve(NamedTuple):
    """A closed curve around a centre; the logarithm of its radius is a Fourier series from wavenumber 2 on."""

    centre: np.ndarray
    radius: float
    waves: np.ndarray

    def __call__(self, angle: np.ndarray) -> np.ndarray:
        """The points `(n, 2)` in these directions."""
        return self.centre + self.reach(angle)[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)

    def reach(self, angle: np.ndarray) -> np.ndarray:
        """The distance of the curve from the centre in these directions."""
        phases = np.multiply.outer(angle, 2 + np.arange(self.waves.shape[1]))
        return self.radius * np.exp(np.cos(phases) @ self.waves[0] + np.sin(phases) @ self.waves[1])

    def encloses(self, points: np.ndarray) -> np.ndarray:
        """Which points lie within."""
        x, y = (points - self.centre).T
        return np.hypot(x, y) < self.reach(np.arctan2(y, x))

    def angles(self, count: int, first: float = 0.0) -> np.ndarray:
        """Directions of points at equal distances along the curve, from a share `first` of one distance on."""
        fine = np.linspace(0, 2 * np.pi, 1025)
        length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(self(fine), axis=0), axis=1))])
        return np.interp((np.arange(count) + first) / count * length[-1], length, fine)

    def length_and_area(self) -> tuple[float, float]:
        """Its length, and the area within."""
        points = self(np.linspace(0, 2 * np.pi, 1025))
        area = np.sum(points[:-1, 0] * points[1:, 1] - points[1:, 0] * points[:-1, 1]) / 2
        return float(np.linalg.norm(np.diff(points, axis=0), axis=1).sum()), float(area)


class Mesh(NamedTuple):
    """Vertices `(n, 2)`, those of the boundary first, triangles `(m, 3)`, and for each edge of the boundary its two
    vertices and the point in the middle of the curve between them.
    """

    points: np.ndarray
    triangles: np.ndarray
    edges: np.ndarray
    middles: np.ndarray


class Waves(NamedTuple):
    """A sum of plane waves."""

    numbers: np.ndarray
    phases: np.ndarray
    amplitudes: np.ndarray

    def __call__(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        waves = zip(self.numbers, self.phases, self.amplitudes)
        return sum((a * np.cos(k[0] * x + k[1] * y + p) for k, p, a in waves), np.zeros(np.shape(x)))


def sample(seed: int, number: int, fewest: int, most: int, holes: float) -> dict[str, np.ndarray]:
    """The arrays of one sample, before padding."""
    rng = np.random.default_rng([seed, number])
    curves, f = domain(rng, holes), source(rng)
    target = fewest + (most - fewest) * rng.random()
    mesh = triangulated(curves, target, most, rng)
    inner = np.arange(len(mesh.points)) >= len(mesh.edges)
    weight = sciml.operators.mesh_weights(mesh.points, mesh.triangles)
    return {
        "position": mesh.points,
        "f": f(*mesh.points.T),
        "u": solve(mesh, f)[: len(mesh.points)],
        "distance": np.where(inner, to_boundary(curves, mesh.points), 0.0),
        "weight": weight,
        "mask": np.ones(len(mesh.points), np.int8),
        "triangle": mesh.triangles,
    }


def padded(arrays: dict[str, np.ndarray], most: int) -> dict[str, np.ndarray]:
    """The arrays with zeros behind: as many points as `most`, and twice as many triangles."""
    sizes = {name: 2 * most if name == "triangle" else most for name in arrays}
    return {name: sciml.operators.pad_cloud(array, sizes[name]) for name, array in arrays.items()}


def domain(rng: np.random.Generator, holes: float) -> list[Curve]:
    """The outer curve, and that of the hole if there is one."""
    numbers = np.arange(2, 6)
    outer = Curve(np.zeros(2), rng.uniform(0.8, 1.2), rng.uniform(-0.35, 0.35, (2, 4)) / numbers)
    waves = rng.uniform(-0.25, 0.25, (2, 4)) / numbers
    has_hole = rng.random() < holes
    for _ in range(1000 if has_hole else 0):
        centre = rng.uniform(-0.7, 0.7, 2)
        room = to_boundary([outer], centre[None])[0] - GAP
        if outer.encloses(centre[None])[0] and room > 0.2:
            hole = Curve(centre, 1.0, waves)
            most = hole.reach(np.linspace(0, 2 * np.pi, 200)).max()
            return [outer, hole._replace(radius=rng.uniform(0.5, 1.0) * min(room, 0.5) / most)]
    return [outer]


def source(rng: np.random.Generator) -> Waves:
    """The random right side."""
    number, angle = rng.uniform(0, 6, 4), rng.uniform(0, 2 * np.pi, 4)
    numbers = number[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return Waves(numbers, rng.uniform(0, 2 * np.pi, 4), rng.standard_normal(4))


def to_boundary(curves: list[Curve], points: np.ndarray) -> np.ndarray:
    """Distances to the nearest of the curves, to about 1e-5."""
    dense = np.concatenate([curve(np.linspace(0, 2 * np.pi, 2000, endpoint=False)) for curve in curves])
    return KDTree(dense).query(points)[0]


def triangulated(curves: list[Curve], target: float, most: int, rng: np.random.Generator) -> Mesh:
    """A mesh of about `target` vertices and at most `most`. Raises ValueError where they are too few for the domain."""
    lengths, areas = zip(*(curve.length_and_area() for curve in curves))
    length, area = sum(lengths), areas[0] - sum(areas[1:])
    # A lattice has 2 / sqrt(3) points in a square of its spacing; the boundary has more than it takes away.
    density, excess = 2 / 3**0.5, 1 - MARGIN * 2 / 3**0.5
    spacing = 2 * density * area / (np.hypot(excess * length, 2 * (density * area * target) ** 0.5) - excess * length)
    state = rng.bit_generator.state
    while True:
        rng.bit_generator.state = state
        mesh = spaced(curves, spacing, lengths, rng)
        if len(mesh.points) <= most:
            return mesh
        spacing *= 1.02


def spaced(curves: list[Curve], spacing: float, lengths: tuple[float, ...], rng: np.random.Generator) -> Mesh:
    """The mesh whose points are about so far apart. Raises ValueError where it does not resolve the boundary."""
    points, edges, middles = [], [], []
    for curve, length in zip(curves, lengths):
        count = max(10, round(length / spacing))
        angles = curve.angles(count, rng.random())
        first, ring = sum(map(len, points)), np.arange(count)
        points.append(curve(angles))
        edges.append(first + np.stack([ring, (ring + 1) % count], axis=1))
        middles.append(curve(angles + ((np.roll(angles, -1) - angles) % (2 * np.pi)) / 2))
    boundary = np.concatenate(points)
    inner = lattice(spacing, np.abs(boundary).max(), rng)
    inner = inner[curves[0].encloses(inner)]
    for hole in curves[1:]:
        inner = inner[~hole.encloses(inner)]
    inner = inner[to_boundary(curves, inner) > MARGIN * spacing]
    every = np.concatenate([boundary, inner])
    rings = np.concatenate(edges)
    triangles = Delaunay(every).simplices
    triangles = triangles[within(every[triangles].mean(axis=1), boundary[rings])]
    sides = np.sort(np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]), axis=1)
    found, times = np.unique(sides, axis=0, return_counts=True)
    if not np.array_equal(found[times == 1], np.unique(np.sort(rings, axis=1), axis=0)):
        raise ValueError(f"a mesh of {len(every)} vertices does not resolve the boundary; take larger `fewest`")
    return Mesh(every, triangles, rings, np.concatenate(middles))


def lattice(spacing: float, extent: float, rng: np.random.Generator) -> np.ndarray:
    """Points of a triangular lattice, turned and jittered, that covers the square up to `extent`."""
    reach = int(2**0.5 * extent / spacing * 1.2) + 2
    i, j = np.meshgrid(np.arange(-reach, reach + 1), np.arange(-reach, reach + 1), indexing="ij")
    grid = np.stack([i + j % 2 / 2, j * 3**0.5 / 2], axis=-1).reshape(-1, 2) + rng.random(2)
    turn, angle = rng.uniform(0, np.pi / 3), rng.uniform(0, 2 * np.pi, len(grid))
    jitter = 0.25 * np.sqrt(rng.random(len(grid)))[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    turned = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return spacing * (grid + jitter) @ turned.T


def within(points: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Which points lie in the polygon, with holes, of these edges `(n, 2, 2)`: rays cross it an odd number of times."""
    (x, y), (ax, ay), (bx, by) = points.T[..., None], edges[:, 0].T, edges[:, 1].T
    with np.errstate(divide="ignore", invalid="ignore"):
        crosses = ((ay > y) != (by > y)) & (x < ax + (y - ay) * (bx - ax) / (by - ay))
    return crosses.sum(axis=1) % 2 == 1


def solve(mesh: Mesh, f, boundary=None) -> np.ndarray:
    """The solution at the vertices, and behind them at the middles of edges; `f` and the values on the boundary (by
    default 0) are functions of x and y.
    """
    import skfem
    from scipy.sparse.linalg import splu
    from skfem.models.poisson import laplace

    basis = skfem.Basis(curved(mesh), skfem.ElementTriP2(), intorder=4)
    fixed = basis.get_dofs().all()
    u = np.zeros(basis.N)
    if boundary is not None:
        u[fixed] = boundary(*basis.doflocs[:, fixed])
    load = skfem.LinearForm(lambda v, w: f(*w.x) * v).assemble(basis)
    matrix, right, u, free = skfem.condense(laplace.assemble(basis), load, x=u, D=fixed)
    options = {"permc_spec": "MMD_AT_PLUS_A", "diag_pivot_thresh": 0.0, "options": {"SymmetricMode": True}}
    u[free] = splu(matrix.tocsc(), **options).solve(right)
    return u


def curved(mesh: Mesh):
    """The mesh of scikit-fem with quadratic edges along the boundary."""
    import skfem

    straight = skfem.MeshTri(np.ascontiguousarray(mesh.points.T), np.ascontiguousarray(mesh.triangles.T))
    out = skfem.MeshTri2.from_mesh(straight)
    facets = np.asarray(straight.facets)
    number = {tuple(edge): i for i, edge in enumerate(np.sort(mesh.edges, axis=1).tolist())}
    for facet in straight.boundary_facets():
        middle = mesh.middles[number[tuple(sorted(facets[:, facet].tolist()))]]
        out.doflocs[:, len(mesh.points) + facet] = middle
    return out
