"""Balls, polygons and clouds of points."""

import functools
import math
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._domain import Atom, Domain, Region, check_axes


class Ball(Domain):
    """A ball in any dimension with a centre per named axis: `Ball(x=0.0, y=0.0, radius=1.0)`.

    Raises ValueError for a radius or centre that is not finite, or a radius that is not positive.
    """

    def __init__(self, *, radius: float, **centre: float):
        check_axes(centre)
        if not centre:
            raise ValueError("Ball needs a centre per axis, as in Ball(x=0.0, y=0.0, radius=1.0)")
        if not (math.isfinite(radius) and radius > 0):
            raise ValueError(f"Ball: the radius must be a positive number, got {radius}")
        if not all(math.isfinite(c) for c in centre.values()):
            raise ValueError(f"Ball: the centre must be finite, got {centre}")
        self.axes = tuple(centre)
        self.centre = np.array(list(centre.values()), float)
        self.radius = float(radius)

    def __repr__(self) -> str:
        return f"Ball({', '.join(f'{a}={c:g}' for a, c in zip(self.axes, self.centre))}, radius={self.radius:g})"

    @property
    def bounds(self) -> dict[str, tuple[float, float]]:
        return {a: (float(c) - self.radius, float(c) + self.radius) for a, c in zip(self.axes, self.centre)}

    @functools.cached_property
    def atoms(self) -> tuple[Atom, ...]:
        volume = _unit_ball_volume(self.dim) * self.radius**self.dim
        return (Atom(self.dim + (self.dim > 2), self._place, volume),)

    def _place(self, unit):
        if self.dim == 1:
            return _like(self.centre, unit) + self.radius * (2 * unit - 1)
        return _like(self.centre, unit) + self.radius * unit[:, :1] ** (1 / self.dim) * _direction(
            unit[:, 1:], self.dim
        )

    def distance(self, points: Float[Array, "n d"]) -> Float[Array, " n"]:
        return jnp.linalg.norm(points - _like(self.centre, points), axis=1) - self.radius

    def boundary(self, *axes: str) -> "Sphere":
        """The whole sphere. Raises ValueError for some of its axes only."""
        check_whole(self, axes)
        return Sphere(self)


class Sphere(Region):
    """The boundary of a ball."""

    def __init__(self, ball: Ball):
        self.ball = ball
        self.axes = ball.axes
        self.label = "boundary"

    @property
    def dim(self) -> int:
        return self.ball.dim - 1

    @property
    def bounds(self) -> dict[str, tuple[float, float]]:
        return self.ball.bounds

    @functools.cached_property
    def atoms(self) -> tuple[Atom, ...]:
        d, r = self.ball.dim, self.ball.radius
        return (Atom(max(1, d if d > 2 else d - 1), self._place, d * _unit_ball_volume(d) * r ** (d - 1)),)

    def _place(self, unit):
        if self.ball.dim == 1:
            return _like(self.ball.centre, unit) + self.ball.radius * jnp.where(unit < 0.5, -1.0, 1.0)
        return _like(self.ball.centre, unit) + self.ball.radius * _direction(unit, self.ball.dim)

    def grid(self, n: int | Mapping[str, int]) -> Float[np.ndarray, "m d"]:
        count = n if isinstance(n, int) else max(n.values())
        if self.ball.dim == 1:
            return _on_host(lambda: self._place(jnp.array([[0.25], [0.75]])))
        if self.ball.dim == 2:
            return _on_host(lambda: self._place(jnp.asarray(np.arange(count)[:, None] / count)))
        return _on_host(lambda: self.sobol(count))

    def gap(self, points):
        """Distance from the sphere."""
        return jnp.abs(self.ball.distance(points))

    def normal(self, points: Float[Array, "n d"]) -> Float[Array, "n d"]:
        outward = points - _like(self.ball.centre, points)
        return outward / jnp.linalg.norm(outward, axis=1, keepdims=True)

    def smooth_distance(self, point: Float[Array, " d"]) -> Float[Array, ""]:
        """Positive inside the ball."""
        return (self.ball.radius**2 - jnp.sum((point - _like(self.ball.centre, point)) ** 2)) / (2 * self.ball.radius)


class Polygon(Domain):
    """A simple polygon, convex or not: `Polygon([(0, 0), (1, 0), (0, 1)])`, vertices in either order of rotation.

    Raises ValueError for fewer than three vertices, zero area, or edges that cross.
    """

    def __init__(self, vertices: Sequence[tuple[float, float]], axes: tuple[str, str] = ("x", "y")):
        points = np.asarray(vertices, float)
        check_axes(axes)
        if points.ndim != 2 or points.shape[1:] != (2,) or len(points) < 3 or len(axes) != 2:
            raise ValueError(f"Polygon needs three or more vertices (x, y) and two axes, got shape {points.shape}")
        if not np.isfinite(points).all():
            raise ValueError("Polygon: every vertex must be finite")
        area = _signed_area(points)
        if abs(area) <= 1e-14 * np.ptp(points, axis=0).max() ** 2:
            raise ValueError("Polygon: the vertices lie on one line, so the area is zero")
        _refuse_crossing(points)
        self.axes = tuple(axes)
        self.vertices = points if area > 0 else points[::-1]

    def __repr__(self) -> str:
        return f"Polygon({len(self.vertices)} vertices)"

    @property
    def bounds(self) -> dict[str, tuple[float, float]]:
        low, high = self.vertices.min(axis=0), self.vertices.max(axis=0)
        return {a: (float(lo), float(hi)) for a, lo, hi in zip(self.axes, low, high)}

    @property
    def is_convex(self) -> bool:
        """Whether no corner points inwards."""
        edges = np.roll(self.vertices, -1, axis=0) - self.vertices
        following = np.roll(edges, -1, axis=0)
        return bool((edges[:, 0] * following[:, 1] >= edges[:, 1] * following[:, 0]).all())

    @functools.cached_property
    def _triangles(self) -> np.ndarray:
        return _ear_clipping(self.vertices)

    @functools.cached_property
    def atoms(self) -> tuple[Atom, ...]:
        return (Atom(3, self._place, abs(_signed_area(self.vertices))),)

    def _place(self, unit):
        areas = np.array([abs(_signed_area(t)) for t in self._triangles])
        ends = np.cumsum(areas)[:-1] / areas.sum()
        a, b, c = jnp.moveaxis(
            _like(self._triangles, unit)[jnp.searchsorted(_like(ends, unit), unit[:, 0], side="right")], 1, 0
        )
        root, v = jnp.sqrt(unit[:, 1:2]), unit[:, 2:3]
        return (1 - root) * a + root * (1 - v) * b + root * v * c

    def distance(self, points: Float[Array, "n d"]) -> Float[Array, " n"]:
        start, end = _like(self.vertices, points), _like(np.roll(self.vertices, -1, axis=0), points)
        nearest = jnp.min(_segment_distances(points, start, end), axis=1)
        # A ray to the right crosses the edges of a polygon an odd number of times from inside.
        above = start[None, :, 1] > points[:, 1:2]
        crosses = above != (end[None, :, 1] > points[:, 1:2])
        rise = jnp.where(end[:, 1] == start[:, 1], 1.0, end[:, 1] - start[:, 1])
        x = start[:, 0] + (points[:, 1:2] - start[:, 1]) * (end[:, 0] - start[:, 0]) / rise
        inside = jnp.sum(crosses & (points[:, 0:1] < x), axis=1) % 2 == 1
        return jnp.where(inside, -nearest, nearest)

    def boundary(self, *axes: str) -> "Edges":
        """All edges. Raises ValueError for one of its axes only."""
        check_whole(self, axes)
        return Edges(self)


class Edges(Region):
    """The boundary of a polygon."""

    label = "boundary"

    def __init__(self, polygon: Polygon):
        self.polygon = polygon
        self.axes = polygon.axes
        self._start = polygon.vertices
        self._end = np.roll(polygon.vertices, -1, axis=0)
        self._lengths = np.linalg.norm(self._end - self._start, axis=1)

    @property
    def dim(self) -> int:
        return 1

    @property
    def bounds(self) -> dict[str, tuple[float, float]]:
        return self.polygon.bounds

    @functools.cached_property
    def atoms(self) -> tuple[Atom, ...]:
        return (Atom(1, self._place, float(self._lengths.sum())),)

    def _place(self, unit):
        ends = np.cumsum(self._lengths)
        along = unit[:, 0] * ends[-1]
        i = jnp.searchsorted(_like(ends[:-1], unit), along, side="right")
        share = (along - _like(ends - self._lengths, unit)[i]) / _like(self._lengths, unit)[i]
        start, end = _like(self._start, unit)[i], _like(self._end, unit)[i]
        return start + share[:, None] * (end - start)

    def grid(self, n: int | Mapping[str, int]) -> Float[np.ndarray, "m d"]:
        count = n if isinstance(n, int) else max(n.values())
        return _on_host(lambda: self._place(jnp.asarray(np.arange(count)[:, None] / count)))

    def gap(self, points):
        """Distance from the nearest edge."""
        return jnp.min(_segment_distances(points, _like(self._start, points), _like(self._end, points)), axis=1)

    def normal(self, points: Float[Array, "n d"]) -> Float[Array, "n d"]:
        along = (self._end - self._start) / self._lengths[:, None]
        normals = _like(np.stack([along[:, 1], -along[:, 0]], axis=1), points)
        distances = _segment_distances(points, _like(self._start, points), _like(self._end, points))
        return normals[jnp.argmin(distances, axis=1)]

    def smooth_distance(self, point: Float[Array, " d"]) -> Float[Array, ""]:
        """Positive off the edges (Sukumar & Srivastava, CMAME 389, 2022, eqs. 5 and 12)."""
        start, end, length = (_like(a, point) for a in (self._start, self._end, self._lengths))
        along, off = end - start, point - start
        line = (off[:, 0] * along[:, 1] - off[:, 1] * along[:, 0]) / length
        trim = ((length / 2) ** 2 - jnp.sum((point - (start + end) / 2) ** 2, axis=1)) / length
        corner = jnp.sqrt(trim**2 + line**4)
        segments = jnp.sqrt(line**2 + ((corner - trim) / 2) ** 2)
        return 1.0 / jnp.sum(1.0 / (segments + jnp.finfo(point.dtype).tiny))


class Cloud(Domain):
    """Given points, with outward normals if they lie on a boundary: `Cloud(x=x, y=y)` with arrays of shape (n,).

    Samples are its points; the measure is their number. As a condition's region, `normals` (n, d) serve normal
    derivatives. Raises ValueError for arrays that differ in length, are empty or not finite.
    """

    label = "cloud"

    def __init__(self, *, normals: Float[np.ndarray, "n d"] | None = None, **coordinates):
        check_axes(coordinates)
        columns = {a: np.ravel(np.asarray(c, float)) for a, c in coordinates.items()}
        sizes = {a: len(c) for a, c in columns.items()}
        if not columns or len(set(sizes.values())) != 1 or 0 in sizes.values():
            raise ValueError(f"Cloud needs arrays of one common length above 0, got lengths {sizes}")
        self.axes = tuple(columns)
        self.points = np.stack(list(columns.values()), axis=1)
        if not np.isfinite(self.points).all():
            raise ValueError("Cloud: every coordinate must be finite")
        self.normals = None if normals is None else np.asarray(normals, float)
        if self.normals is not None and self.normals.shape != self.points.shape:
            raise ValueError(f"Cloud: normals have shape {self.normals.shape}, expected {self.points.shape}")

    @property
    def dim(self) -> int:
        return 0

    @property
    def fixed(self) -> dict[str, float]:
        return {}

    @property
    def bounds(self) -> dict[str, tuple[float, float]]:
        low, high = self.points.min(axis=0), self.points.max(axis=0)
        return {a: (float(lo), float(hi)) for a, lo, hi in zip(self.axes, low, high)}

    @functools.cached_property
    def atoms(self) -> tuple[Atom, ...]:
        count = len(self.points)

        def place(unit):
            index = jnp.minimum((unit[:, 0] * count).astype(int), count - 1)
            return _like(self.points, unit)[index]

        return (Atom(1, place, float(count)),)

    def grid(self, n: int | Mapping[str, int]) -> Float[np.ndarray, "m d"]:
        return self.points

    def distance(self, points: Float[Array, "n d"]) -> Float[Array, " n"]:
        """Distance from the nearest point of the cloud."""
        return jnp.min(self._distances(points), axis=1)

    def _distances(self, points):
        return jnp.linalg.norm(points[:, None] - _like(self.points, points), axis=2)

    def boundary(self, *axes: str) -> Region:
        """A cloud has no boundary of its own."""
        raise ValueError("a Cloud has no boundary: give the boundary points as a second Cloud, with normals")

    def normal(self, points: Float[Array, "n d"]) -> Float[Array, "n d"]:
        if self.normals is None:
            raise ValueError("this Cloud has no normals: give them as Cloud(..., normals=array)")
        return _like(self.normals, points)[jnp.argmin(self._distances(points), axis=1)]


def _on_host(make) -> np.ndarray:
    """Points in double precision, as NumPy has them."""
    with jax.enable_x64(True):
        return np.asarray(make())


def _like(constant: np.ndarray, array) -> Array:
    """A constant in the precision of the points it meets."""
    return jnp.asarray(constant, array.dtype)


def check_whole(domain: Domain, axes: tuple[str, ...]) -> None:
    """Raises ValueError where only some axes of a shape without flat faces are named."""
    if axes and set(axes) != set(domain.axes):
        raise ValueError(
            f"boundary({', '.join(axes)}): a {type(domain).__name__} has one boundary over its axes "
            f"{', '.join(domain.axes)}; write boundary()"
        )


def _unit_ball_volume(d: int) -> float:
    return math.pi ** (d / 2) / math.gamma(d / 2 + 1)


def _direction(unit, d: int):
    """Uniform unit vectors: an angle in the plane, normalised Gaussians in space."""
    if d == 2:
        angle = 2 * jnp.pi * unit[:, 0]
        return jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)
    tiny = jnp.finfo(unit.dtype).eps
    gauss = jax.scipy.special.ndtri(jnp.clip(unit[:, :d], tiny, 1 - tiny))
    return gauss / jnp.linalg.norm(gauss, axis=1, keepdims=True)


def _segment_distances(points, start, end):
    along = end - start
    share = jnp.sum((points[:, None] - start) * along, axis=2) / jnp.sum(along**2, axis=1)
    nearest = start + jnp.clip(share, 0.0, 1.0)[..., None] * along
    return jnp.linalg.norm(points[:, None] - nearest, axis=2)


def _signed_area(points) -> float:
    x, y = np.asarray(points).T
    return 0.5 * float(np.dot(x, np.roll(y, -1)) - np.dot(np.roll(x, -1), y))


def _refuse_crossing(points) -> None:
    n = len(points)
    for i in range(n):
        for j in range(i + 2, n):
            if (j + 1) % n != i and _crosses(points[i], points[i + 1], points[j], points[(j + 1) % n]):
                raise ValueError(f"Polygon: the edges from vertex {i} and from vertex {j} cross")


def _crosses(a, b, c, d) -> bool:
    def side(p, q, r):
        return np.sign((q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0]))

    return bool(side(a, b, c) * side(a, b, d) <= 0 and side(c, d, a) * side(c, d, b) <= 0)


def _ear_clipping(vertices) -> np.ndarray:
    """Triangles (m, 3, 2) that cover a simple polygon with counter-clockwise vertices."""
    left, triangles = list(range(len(vertices))), []
    while len(left) > 3:
        # Of all ears the fattest, which keeps triangles from degenerating; a straight corner is always an ear.
        ears = [k for k in range(len(left)) if _is_ear(vertices, left, k)]
        k = max(ears, key=lambda k: _corner_area(vertices, left, k))
        if _corner_area(vertices, left, k) > 0:
            triangles.append([left[k - 1], left[k], left[(k + 1) % len(left)]])
        left.pop(k)
    triangles.append(left)
    return vertices[np.array(triangles)]


def _corner_area(vertices, left, k) -> float:
    return _signed_area(vertices[[left[k - 1], left[k], left[(k + 1) % len(left)]]])


def _is_ear(vertices, left, k) -> bool:
    a, b, c = (vertices[left[i % len(left)]] for i in (k - 1, k, k + 1))
    if _signed_area([a, b, c]) < 0:
        return False
    others = [vertices[i] for i in left if i not in (left[k - 1], left[k], left[(k + 1) % len(left)])]
    return not any(
        _signed_area([a, b, p]) >= 0 and _signed_area([b, c, p]) >= 0 and _signed_area([c, a, p]) >= 0 for p in others
    )
