"""Union, intersection and difference of domains."""

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._domain import Atom, Domain, Region, gap, join
from ._shapes import check_whole

# Points nearer to a boundary than this share of the domain's size lie on it.
TOUCH = 1e-9


def combine(operation: str, first: Domain, second: Domain) -> "Combined":
    """`|`, `&` or `-` of two domains over the same axes. Raises ValueError where the result is empty."""
    if not isinstance(second, Domain):
        raise TypeError(f"domains combine with domains, got {type(second).__name__}")
    if first.axes != second.axes:
        raise ValueError(
            f"domains combine over the same axes in the same order, got {', '.join(first.axes)} and "
            f"{', '.join(second.axes)}"
        )
    if 0 in (first.dim, second.dim):
        raise ValueError("a Cloud has no interior, so it cannot be combined with a domain")
    return Combined(operation, first, second)


class Combined(Domain):
    """The union, intersection or difference of two domains."""

    def __init__(self, operation: str, first: Domain, second: Domain):
        self.operation, self.first, self.second = operation, first, second
        self.axes = first.axes
        if not self.atoms:
            raise ValueError(f"{self!r} is empty")

    def __repr__(self) -> str:
        return f"({self.first!r} {self.operation} {self.second!r})"

    @functools.cached_property
    def bounds(self) -> dict[str, tuple[float, float]]:
        a, b = self.first.bounds, self.second.bounds
        if self.operation == "-":
            return a
        low, high = (min, max) if self.operation == "|" else (max, min)
        return {k: (low(a[k][0], b[k][0]), high(a[k][1], b[k][1])) for k in self.axes}

    @functools.cached_property
    def atoms(self) -> tuple[Atom, ...]:
        a, b = self.first, self.second
        if self.operation == "|":
            return (*a.atoms, *_clip(b.atoms, lambda p: a.distance(p) > 0))
        if self.operation == "-":
            return _clip(a.atoms, lambda p: b.distance(p) > 0)
        small, large = sorted((a, b), key=lambda d: d.measure)
        return _clip(small.atoms, lambda p: large.distance(p) < 0)

    def distance(self, points: Float[Array, "n d"]) -> Float[Array, " n"]:
        a, b = self.first.distance(points), self.second.distance(points)
        if self.operation == "|":
            return jnp.minimum(a, b)
        return jnp.maximum(a, b if self.operation == "&" else -b)

    def boundary(self, *axes: str) -> "CombinedBoundary":
        """The whole boundary. Raises ValueError for some of its axes only."""
        check_whole(self, axes)
        return CombinedBoundary(self)


class CombinedBoundary(Region):
    """The boundary of a combined domain: the parts of both boundaries that bound the combination."""

    label = "boundary"

    def __init__(self, domain: Combined):
        self.domain = domain
        self.axes = domain.axes
        self._edges = (domain.first.boundary(), domain.second.boundary())
        self._size = max(high - low for low, high in domain.bounds.values())

    @property
    def dim(self) -> int:
        return self.domain.dim - 1

    @property
    def bounds(self) -> dict[str, tuple[float, float]]:
        return self.domain.bounds

    @functools.cached_property
    def atoms(self) -> tuple[Atom, ...]:
        return tuple(a for side in (0, 1) for a in _clip(self._edges[side].atoms, self._keeps(side)))

    def _keeps(self, side: int) -> Callable:
        """Which points of one boundary bound the combination. Where both boundaries coincide the normals decide, and
        the first counts.
        """
        operation = self.domain.operation
        other = (self.domain.second, self.domain.first)[side]
        own, opposite = self._edges[side], self._edges[1 - side]
        outside = operation == "|" or (operation == "-" and side == 0)

        def keep(points):
            distance = other.distance(points)
            touching = jnp.abs(distance) <= TOUCH * self._size
            clear = (distance > 0) if outside else (distance < 0)
            if side == 1:
                return clear & ~touching
            agree = jnp.sum(own.normal(points) * opposite.normal(points), axis=1) > 0
            return jnp.where(touching, ~agree if operation == "-" else agree, clear)

        return keep

    def grid(self, n: int | Mapping[str, int]) -> Float[np.ndarray, "m d"]:
        parts = [edge.grid(n) for edge in self._edges]
        with jax.enable_x64(True):
            kept = [np.asarray(self._keeps(i)(jnp.asarray(p))) for i, p in enumerate(parts)]
        return np.concatenate([p[k] for p, k in zip(parts, kept)])

    def gap(self, points):
        """Distance from the nearer of the two boundaries."""
        return jnp.min(jnp.stack([gap(edge, points) for edge in self._edges]), axis=0)

    def normal(self, points: Float[Array, "n d"]) -> Float[Array, "n d"]:
        first, second = (edge.normal(points) for edge in self._edges)
        if self.domain.operation == "-":
            second = -second
        nearer = gap(self._edges[0], points) <= gap(self._edges[1], points)
        return jnp.where(nearer[:, None], first, second)

    def smooth_distance(self, point: Float[Array, " d"]) -> Float[Array, ""]:
        first, second = (edge.smooth_distance(point) for edge in self._edges)
        if self.domain.operation == "-":
            # Positive in what remains: the taken-away part grows from its boundary outwards.
            second = -second
        return join([first, second])


def _clip(atoms: tuple[Atom, ...], keep: Callable) -> tuple[Atom, ...]:
    return tuple(c for c in (atom.clipped(keep) for atom in atoms) if c is not None)
