"""Regions of space, time and parameters with named axes: what can be sampled, and what has a boundary.

A `Region` is a set with a measure (length, area, volume, ...) from which points are drawn. A `Domain` is a solid
region, with an interior, a boundary and a signed distance. Points have one column per axis of the ambient space,
also on faces, where one column is constant.
"""

import abc
import difflib
import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

if TYPE_CHECKING:
    from ._subdomains import Subdomains

TIME = "t"


@dataclass(frozen=True)
class Atom:
    """One part of a region: an image of the unit cube, of which the points that `keep` accepts are taken."""

    unit_size: int
    place: Callable  # uniform numbers (n, unit_size) -> points (n, d), uniform by measure
    measure: float  # of what is kept
    share: float = 1.0  # the part of the image that is kept
    keep: Callable | None = None  # points (n, d) -> bool (n,)

    def draw(self, n: int, unit: Callable) -> Float[Array, "n d"]:
        """`n` points from uniform numbers `unit(m, k)`."""
        if self.keep is None:
            return self.place(unit(n, self.unit_size))
        # More than enough candidates: a shortage of eight standard deviations would repeat points, never bad ones.
        m = math.ceil((1.02 * n + 8 * math.sqrt(n) + 16) / self.share)
        points = self.place(unit(m, self.unit_size))
        kept = self.keep(points)
        order = jnp.argsort(~kept, stable=True)
        return points[order[jnp.arange(n) % jnp.maximum(kept.sum(), 1)]]

    def clipped(self, keep: Callable) -> "Atom | None":
        """The part that `keep` accepts too, measured with 2^16 Sobol points; None where nothing is left."""
        # Regions find their atoms when they are first asked for, which may be while a function is traced.
        with jax.enable_x64(True), jax.ensure_compile_time_eval():
            points = self.place(jnp.asarray(_sobol(2**16, self.unit_size)))
            before = np.ones(len(points), bool) if self.keep is None else np.asarray(self.keep(points))
            after = before & np.asarray(keep(points))
        if not after.any():
            return None
        if after.all():
            return self
        earlier = self.keep
        both = keep if earlier is None else lambda p: earlier(p) & keep(p)
        return Atom(self.unit_size, self.place, self.measure * after.sum() / before.sum(), after.mean(), both)


class Region(abc.ABC):
    """A set of points that can be sampled uniformly by its measure."""

    axes: tuple[str, ...]
    label: str

    @property
    @abc.abstractmethod
    def dim(self) -> int:
        """The dimension of the region itself: 1 for a curve, 0 for points."""

    @property
    def measure(self) -> float:
        """Length, area, volume, ... in the region's own dimension; the number of points in dimension 0."""
        return sum(atom.measure for atom in self.atoms)

    @property
    @abc.abstractmethod
    def bounds(self) -> dict[str, tuple[float, float]]:
        """The smallest box around the region."""

    @functools.cached_property
    @abc.abstractmethod
    def atoms(self) -> tuple["Atom", ...]:
        """The disjoint parts that the region is sampled from."""

    @abc.abstractmethod
    def grid(self, n: int | Mapping[str, int]) -> Float[np.ndarray, "m d"]:
        """Evenly spaced points: `n` per axis, or per axis by name; ends included."""

    @property
    def fixed(self) -> dict[str, float]:
        """The axes that are constant on this region, with their values."""
        return {a: low for a, (low, high) in self.bounds.items() if low == high}

    @property
    def pieces(self) -> tuple["Region", ...]:
        """The parts that the region consists of."""
        return (self,)

    def sample(self, key: Array, n: int) -> Float[Array, "n d"]:
        """`n` random points, uniform by measure (parts of a region get their share of `n`, rounded). May be compiled.

        Raises ValueError unless n > 0.
        """
        return self._draw(n, lambda i, m, k: jax.random.uniform(jax.random.fold_in(key, i), (m, k)))

    def sobol(self, n: int, key: Array | None = None) -> Float[Array, "n d"]:
        """`n` points of a Sobol sequence mapped to the region; `key` shifts the sequence at random (Cranley &
        Patterson, 1976). Raises ValueError unless n > 0.
        """

        def unit(i, m, k):
            sequence = jnp.asarray(_sobol(m, k), jnp.result_type(float))
            if key is None:
                return sequence
            return (sequence + jax.random.uniform(jax.random.fold_in(key, i), (k,))) % 1.0

        return self._draw(n, unit)

    def _draw(self, n: int, unit) -> Float[Array, "n d"]:
        _check_count(n)
        counts = _shares([atom.measure for atom in self.atoms], n)
        parts = [a.draw(m, functools.partial(unit, i)) for i, (a, m) in enumerate(zip(self.atoms, counts)) if m]
        return jnp.concatenate(parts)

    def normal(self, points: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """Outward unit normals at points of a boundary. Raises ValueError on a region that has none."""
        raise ValueError(f"the region '{self.label}' is not a boundary, so it has no outward normal")

    def smooth_distance(self, point: Float[Array, " d"]) -> Float[Array, ""]:
        """A smooth function that vanishes on this boundary and grows like the distance from it."""
        raise ValueError(f"no smooth distance function is known for the region '{self.label}'")

    def __mul__(self, other: "Region") -> "Region":
        return product(self, other)


class Domain(Region):
    """A solid region, with an interior and a boundary."""

    label = "interior"

    @abc.abstractmethod
    def distance(self, points: Float[Array, "n d"]) -> Float[Array, " n"]:
        """Signed distance to the boundary, negative inside (a bound on it for combined shapes)."""

    @abc.abstractmethod
    def boundary(self, *axes: str) -> Region:
        """The boundary, or its part that belongs to the given axes."""

    def at(self, **fixed: float) -> Region:
        """The slice of the domain where some axes are constant, as in `domain.at(t=0)`."""
        raise ValueError(
            f"a {type(self).__name__} has no slices: only axes of a Box can be fixed (got {', '.join(fixed)}); use "
            "condition(..., on=boundary) or observe(...) for values at points"
        )

    def contains(self, points: Any, tolerance: float = 1e-12) -> Bool[np.ndarray, " n"]:
        """Whether each of the points (n, d) lies in the closed domain; computed in double precision on the host."""
        with jax.enable_x64(True):
            return np.asarray(self.distance(jnp.asarray(np.asarray(points, float)))) <= tolerance

    @property
    def dim(self) -> int:
        return len(self.axes)

    def __or__(self, other: "Domain") -> "Domain":
        from ._combine import combine

        return combine("|", self, other)

    def __and__(self, other: "Domain") -> "Domain":
        from ._combine import combine

        return combine("&", self, other)

    def __sub__(self, other: "Domain") -> "Domain":
        from ._combine import combine

        return combine("-", self, other)

    def grid(self, n: int | Mapping[str, int]) -> Float[np.ndarray, "m d"]:
        points = box_grid(self.bounds, n)
        return points[self.contains(points)]


class Box(Domain):
    """A box with named axes, of any dimension: `Box(t=(0, 1), x=(-1, 1), nu=(0.01, 0.1))`.

    Axes may be space, time (named `t`) or parameters. A range whose ends are equal fixes the axis: faces of a box
    are boxes too.

    Raises ValueError for an empty, reversed or infinite range, and for an axis named `n`, which stands for the
    normal.
    """

    def __init__(self, **ranges: tuple[float, float]):
        if not ranges:
            raise ValueError("Box needs at least one axis, as in Box(x=(0, 1))")
        check_axes(ranges)
        for axis, ends in ranges.items():
            _check_range(axis, ends)
        self._setup({a: (float(low), float(high)) for a, (low, high) in ranges.items()}, {}, "interior")

    def _setup(self, ranges, signs, label) -> "Box":
        self.axes = tuple(ranges)
        self._ranges = ranges
        self._signs = signs  # the direction of the outward normal along each fixed axis; 0 inside
        self.label = label
        return self

    def __repr__(self) -> str:
        return f"Box({', '.join(f'{a}={r}' for a, r in self._ranges.items())})"

    @property
    def dim(self) -> int:
        return len(self._free)

    @property
    def _free(self) -> tuple[str, ...]:
        return tuple(a for a, (low, high) in self._ranges.items() if high > low)

    @functools.cached_property
    def atoms(self) -> tuple[Atom, ...]:
        measure = math.prod(self._ranges[a][1] - self._ranges[a][0] for a in self._free)
        return (Atom(max(1, self.dim), self._place, measure),)

    @property
    def bounds(self) -> dict[str, tuple[float, float]]:
        return dict(self._ranges)

    def _place(self, unit: Float[Array, "n k"]) -> Float[Array, "n d"]:
        low, high = np.array(list(self._ranges.values())).T
        free = np.flatnonzero(high > low)
        length = (high - low).astype(unit.dtype)
        low = low.astype(unit.dtype)
        placed = low[free] + length[free] * unit[:, : len(free)]
        if len(free) == len(low):
            return placed
        return jnp.broadcast_to(jnp.asarray(low), (unit.shape[0], len(low))).at[:, free].set(placed)

    def grid(self, n: int | Mapping[str, int]) -> Float[np.ndarray, "m d"]:
        return box_grid(self._ranges, n)

    def distance(self, points: Float[Array, "n d"]) -> Float[Array, " n"]:
        low, high = jnp.array([self._ranges[a] for a in self.axes], points.dtype).T
        excess = jnp.abs(points - (low + high) / 2) - (high - low) / 2
        outside = jnp.sqrt(jnp.sum(jnp.maximum(excess, 0.0) ** 2, axis=1))
        return outside + jnp.minimum(jnp.max(excess, axis=1), 0.0)

    def at(self, **fixed: float) -> "Box":
        """The face or slice where some axes are constant: `domain.at(t=0)`; with all axes, a point."""
        self._check_names(fixed)
        ranges, signs = dict(self._ranges), dict(self._signs)
        for axis, value in fixed.items():
            low, high = self._ranges[axis]
            value = float(value)
            if not low <= value <= high:
                raise ValueError(f"at({axis}={value:g}): the axis runs from {low:g} to {high:g}")
            if high > low:
                signs[axis] = -1 if value == low else 1 if value == high else 0
            ranges[axis] = (value, value)
        label = ", ".join(f"{a}={r[0]:g}" for a, r in ranges.items() if r[0] == r[1])
        return Box.__new__(Box)._setup(ranges, signs, label)

    def boundary(self, *axes: str) -> Region:
        """Both faces of each of the axes; without names, of all axes but time (`t`), which has an initial value but
        no condition at its end.
        """
        self._check_names(axes)
        free = [a for a in self._free if a != TIME] or list(self._free)
        chosen = axes or free
        closed = [a for a in chosen if a not in self._free]
        if closed:
            raise ValueError(f"boundary: {', '.join(closed)} is constant on this region")
        faces = [self.at(**{a: end}) for a in chosen for end in self._ranges[a]]
        label = f"{', '.join(axes)} boundary" if axes else "boundary"
        return Pieces(tuple(faces), label)

    def split(self, **cuts: int | Sequence[float]) -> "Subdomains":
        """The box in parts, `Box(x=(0, 1), y=(0, 1)).split(x=2, y=(0.3, 0.5))`: by axis, how many of equal length or
        the places where they meet. The parts are called `x0_y0`, `x0_y1`, ...

        Raises ValueError for unknown axes, and unless places increase inside the box.
        """
        from ._subdomains import split

        return split(self, cuts)

    def normal(self, points: Float[Array, "n d"]) -> Float[Array, "n d"]:
        sides = [(i, self._signs.get(a, 0)) for i, a in enumerate(self.axes) if a in self._signs]
        if len(sides) != 1 or sides[0][1] == 0:
            raise ValueError(
                f"the region '{self.label}' is not one face of its box, so it has no outward normal; use a derivative "
                "along an axis instead"
            )
        index, sign = sides[0]
        return jnp.zeros_like(points).at[:, index].set(float(sign))

    def smooth_distance(self, point: Float[Array, " d"]) -> Float[Array, ""]:
        ((axis, value),) = self.fixed.items()
        sign = self._signs.get(axis, 0)
        return (value - point[self.axes.index(axis)]) * (sign or 1)

    def _check_names(self, names) -> None:
        for name in names:
            if name not in self.axes:
                raise ValueError(f"no axis '{name}'; {nearest(name, self.axes)}the axes are {', '.join(self.axes)}")


class Pieces(Region):
    """Several regions of one dimension that do not overlap, such as the faces of a box."""

    def __init__(self, parts: tuple[Region, ...], label: str):
        self.axes = parts[0].axes
        self._parts = tuple(p for part in parts for p in part.pieces)
        self.label = label

    @property
    def pieces(self) -> tuple[Region, ...]:
        return self._parts

    @property
    def dim(self) -> int:
        return self._parts[0].dim

    @functools.cached_property
    def atoms(self) -> tuple[Atom, ...]:
        return tuple(atom for p in self._parts for atom in p.atoms)

    @property
    def bounds(self) -> dict[str, tuple[float, float]]:
        every = [p.bounds for p in self._parts]
        return {a: (min(b[a][0] for b in every), max(b[a][1] for b in every)) for a in self.axes}

    @property
    def fixed(self) -> dict[str, float]:
        return {}

    def grid(self, n: int | Mapping[str, int]) -> Float[np.ndarray, "m d"]:
        return np.concatenate([p.grid(n) for p in self._parts])

    def normal(self, points: Float[Array, "n d"]) -> Float[Array, "n d"]:
        normals = jnp.stack([p.normal(points) for p in self._parts])
        return normals[self._nearest(points), jnp.arange(points.shape[0])]

    def _nearest(self, points):
        return jnp.argmin(jnp.stack([gap(p, points) for p in self._parts]), axis=0)

    def smooth_distance(self, point: Float[Array, " d"]) -> Float[Array, ""]:
        return join([p.smooth_distance(point) for p in self._parts])


class Product(Domain):
    """All combinations of points of two regions with different axes, such as time and a shape in space."""

    def __init__(self, first: Region, second: Region, label: str = "interior"):
        shared = set(first.axes) & set(second.axes)
        if shared:
            raise ValueError(f"a product needs different axes; both factors have {', '.join(sorted(shared))}")
        self.first: Any = first
        self.second: Any = second
        self.label = label
        self.axes = (*first.axes, *second.axes)

    def __repr__(self) -> str:
        return f"{self.first!r} * {self.second!r}"

    @property
    def dim(self) -> int:
        return self.first.dim + self.second.dim

    @functools.cached_property
    def atoms(self) -> tuple[Atom, ...]:
        k = len(self.first.axes)
        return tuple(_product_atom(a, b, k) for a in self.first.atoms for b in self.second.atoms)

    @property
    def bounds(self) -> dict[str, tuple[float, float]]:
        return self.first.bounds | self.second.bounds

    @property
    def fixed(self) -> dict[str, float]:
        return self.first.fixed | self.second.fixed

    @property
    def pieces(self) -> tuple[Region, ...]:
        pairs = list(itertools.product(self.first.pieces, self.second.pieces))
        if len(pairs) == 1:
            return (self,)
        return tuple(Product(a, b, b.label if a.label == "interior" else a.label) for a, b in pairs)

    def grid(self, n: int | Mapping[str, int]) -> Float[np.ndarray, "m d"]:
        a, b = self.first.grid(n), self.second.grid(n)
        return np.concatenate([np.repeat(a, len(b), axis=0), np.tile(b, (len(a), 1))], axis=1)

    def distance(self, points: Float[Array, "n d"]) -> Float[Array, " n"]:
        k = len(self.first.axes)
        return jnp.maximum(distance_to(self.first, points[:, :k]), distance_to(self.second, points[:, k:]))

    def at(self, **fixed: float) -> Region:
        self._check_names(fixed)
        parts = []
        for factor in (self.first, self.second):
            own = {a: v for a, v in fixed.items() if a in factor.axes}
            parts.append(factor.at(**own) if own else factor)
        return Product(parts[0], parts[1], ", ".join(f"{a}={float(v):g}" for a, v in fixed.items()))

    def boundary(self, *axes: str) -> Region:
        """The boundary of the factors that own the axes, times the other; without names, of all but time."""
        self._check_names(axes)
        label = f"{', '.join(axes)} boundary" if axes else "boundary"
        chosen = axes or [a for a in self.axes if a != TIME]
        parts = []
        for factor, other, swap in ((self.first, self.second, False), (self.second, self.first, True)):
            own = [a for a in chosen if a in factor.axes and a not in factor.fixed]
            if own:
                edge = factor.boundary(*own) if axes else factor.boundary()
                parts.append(Product(other, edge, label) if swap else Product(edge, other, label))
        return parts[0] if len(parts) == 1 else Pieces(tuple(parts), label)

    def normal(self, points: Float[Array, "n d"]) -> Float[Array, "n d"]:
        k = len(self.first.axes)
        zero = jnp.zeros_like(points)
        if not _is_solid(self.first):
            return zero.at[:, :k].set(self.first.normal(points[:, :k]))
        return zero.at[:, k:].set(self.second.normal(points[:, k:]))

    def smooth_distance(self, point: Float[Array, " d"]) -> Float[Array, ""]:
        k = len(self.first.axes)
        if not _is_solid(self.first):
            return self.first.smooth_distance(point[:k])
        return self.second.smooth_distance(point[k:])

    def _check_names(self, names) -> None:
        for name in names:
            if name not in self.axes:
                raise ValueError(f"no axis '{name}'; {nearest(name, self.axes)}the axes are {', '.join(self.axes)}")


def product(first: Region, second: Region) -> Region:
    """All combinations of points of two regions; two boxes give a box, subdomains give subdomains."""
    from ._subdomains import Subdomains

    if isinstance(first, Subdomains):
        return first.each(lambda part: product(part, second))
    if isinstance(second, Subdomains):
        return second.each(lambda part: product(first, part))
    if type(first) is Box and type(second) is Box and not set(first.axes) & set(second.axes):
        if not first.fixed and not second.fixed:
            return Box(**first.bounds, **second.bounds)
    return Product(first, second)


def _product_atom(a: Atom, b: Atom, columns: int) -> Atom:
    def place(unit):
        return jnp.concatenate([a.place(unit[:, : a.unit_size]), b.place(unit[:, a.unit_size :])], axis=1)

    def keep(points):
        first = True if a.keep is None else a.keep(points[:, :columns])
        return first & (jnp.array(True) if b.keep is None else b.keep(points[:, columns:]))

    whole = a.keep is None and b.keep is None
    return Atom(a.unit_size + b.unit_size, place, a.measure * b.measure, a.share * b.share, None if whole else keep)


def _shares(measures: list[float], n: int) -> list[int]:
    """`n` shared out in proportion, whole numbers by largest remainder."""
    exact = np.array(measures) / sum(measures) * n
    counts = np.floor(exact).astype(int)
    counts[np.argsort(counts - exact, kind="stable")[: n - counts.sum()]] += 1
    return counts.tolist()


def _is_solid(region: Region) -> bool:
    return region.dim == len(region.axes)


def distance_to(region: Region, points):
    """Signed distance for solids, and the plain distance for boundaries."""
    return region.distance(points) if isinstance(region, Domain) else gap(region, points)


def gap(region: Any, points: Float[Array, "n d"]) -> Float[Array, " n"]:
    """How far points are from a piece of a boundary; zero on it."""
    if isinstance(region, Product):
        k = len(region.first.axes)
        return jnp.maximum(gap(region.first, points[:, :k]), gap(region.second, points[:, k:]))
    if isinstance(region, Pieces):
        return jnp.min(jnp.stack([gap(p, points) for p in region.pieces]), axis=0)
    if isinstance(region, Domain):
        return jnp.maximum(region.distance(points), 0.0)
    return region.gap(points)


def join(distances: list):
    """One function that vanishes where any of these does (R-equivalence of order 1; Sukumar & Srivastava, CMAME
    389, 2022, eq. 12): 1 / (1/a + 1/b + ...), written without division by zero.
    """
    total = distances[0]
    for d in distances[1:]:
        total = total * d / (total + d + jnp.finfo(d.dtype).tiny)
    return total


def box_grid(bounds: Mapping[str, tuple[float, float]], n: int | Mapping[str, int]) -> np.ndarray:
    """The tensor grid of a box, ends included; axes of zero extent get one point."""
    counts = dict.fromkeys(bounds, n) if isinstance(n, int) else dict(n)
    missing = [a for a, (low, high) in bounds.items() if a not in counts and high > low]
    if missing:
        raise ValueError(f"grid: no number of points given for {', '.join(missing)}")
    for axis, (low, high) in bounds.items():
        if low == high:
            counts[axis] = 1
        _check_count(counts[axis])
    lines = [np.linspace(low, high, counts[a]) for a, (low, high) in bounds.items()]
    return np.stack([m.ravel() for m in np.meshgrid(*lines, indexing="ij")], axis=1)


@functools.lru_cache(maxsize=32)
def _sobol(n: int, size: int) -> np.ndarray:
    from scipy.stats import qmc

    # Sobol numbers come in powers of two; the first is the origin, which a shift moves off the boundary.
    points = qmc.Sobol(size, scramble=False).random_base2(max(0, math.ceil(math.log2(n))))[:n]
    return (points + 0.5 / len(points)) % 1.0


def _check_count(n) -> None:
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
        raise ValueError(f"the number of points must be an integer above 0, got {n!r}")


def _check_range(axis, ends) -> None:
    try:
        low, high = (float(e) for e in ends)
    except (TypeError, ValueError):
        raise ValueError(f"Box: '{axis}' needs a range (low, high), got {ends!r}") from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"Box: '{axis}' needs finite ends with low < high, got ({low:g}, {high:g})")


def check_axes(axes) -> None:
    """Raises ValueError for names that equations could not use."""
    for axis in axes:
        if not (isinstance(axis, str) and axis.isidentifier()) or "_" in axis:
            raise ValueError(f"an axis needs a name such as 'x' or 'theta', without '_', got {axis!r}")
        if axis == "n":
            raise ValueError("an axis cannot be called 'n': u_n is the derivative along the normal")


def nearest(name: str, known) -> str:
    """`did you mean 'x'? `, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean '{close[0]}'? " if close else ""
