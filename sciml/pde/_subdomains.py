"""Domains made of parts, in each of which the fields are smooth, and what holds where the parts meet."""

import functools
import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._domain import Atom, Box, Domain, Pieces, Region
from ._names import arguments

# The name by which equations may ask for the number of the part that a point lies in.
PART = "part"
# How far from an interface, relative to the size of the domain, a point is on one side of it.
ASIDE = 1e-6


class Subdomains(Domain):
    """Several domains that meet at interfaces: `Subdomains(shell=square - disc, core=disc)`.

    A PDE on it has fields of its own in each part, and a network for each. Parameters may differ by part,
    `k={"shell": 1.0, "core": 100.0}`, and `jump(...)` says what holds at the interfaces. Equations may ask for `part`,
    the number of the part in the order given.

    `Box(...).split(x=2, y=(0.3, 0.5))` makes parts of one box, whose `interface()` is where they meet.

    Raises ValueError for fewer than two parts, and unless all have the same axes; TypeError for parts that are no
    domains.
    """

    def __init__(self, **parts: Domain):
        if len(parts) < 2:
            raise ValueError("Subdomains needs two parts or more, as in Subdomains(shell=square - disc, core=disc)")
        for name, part in parts.items():
            if not isinstance(part, Domain):
                raise TypeError(f"Subdomains: '{name}' must be a domain, got {type(part).__name__}")
        axes = {name: part.axes for name, part in parts.items()}
        if len(set(axes.values())) != 1:
            raise ValueError(f"Subdomains: all parts need the same axes in the same order, got {axes}")
        self.parts = dict(parts)
        self.axes = next(iter(axes.values()))

    def __repr__(self) -> str:
        return f"Subdomains({', '.join(f'{n}={p!r}' for n, p in self.parts.items())})"

    @functools.cached_property
    def bounds(self) -> dict[str, tuple[float, float]]:
        every = [p.bounds for p in self.parts.values()]
        return {a: (min(b[a][0] for b in every), max(b[a][1] for b in every)) for a in self.axes}

    @functools.cached_property
    def atoms(self) -> tuple[Atom, ...]:
        return tuple(atom for p in self.parts.values() for atom in p.atoms)

    def distance(self, points: Float[Array, "n d"]) -> Float[Array, " n"]:
        return jnp.min(self._distances(points), axis=0)

    def part_at(self, point: Float[Array, " d"]) -> Array:
        """The number of the part that a point lies in; of those at the same distance, the first."""
        return jnp.argmin(self._distances(point[None])[:, 0])

    def sides(self, point: Float[Array, " d"], normal: Float[Array, " d"]) -> Float[Array, "2 d"]:
        """Points just before and just behind an interface, in the direction of its normal."""
        size = max(high - low for low, high in self.bounds.values())
        return jnp.stack([point - ASIDE * size * normal, point + ASIDE * size * normal])

    def at(self, **fixed: float) -> Region:
        """The slice of all parts that reach there, as in `domain.at(t=0)`."""
        if self._fills_a_box:
            return self._whole.at(**fixed)
        reached = [
            part.at(**fixed)
            for part in self.parts.values()
            if all(a not in part.bounds or part.bounds[a][0] <= v <= part.bounds[a][1] for a, v in fixed.items())
        ]
        if not reached:
            raise ValueError(f"no part of {self!r} reaches {', '.join(f'{a}={v:g}' for a, v in fixed.items())}")
        return Pieces(tuple(reached), ", ".join(f"{a}={float(v):g}" for a, v in fixed.items()))

    def boundary(self, *axes: str) -> Region:
        """The outer boundary, of parts that are boxes and fill one. Raises ValueError for other parts: take the
        boundary of the shape that they were made from.
        """
        return self._whole.boundary(*axes)

    def interface(self) -> Region:
        """The faces that two parts share, of parts that are boxes; normals point along the axes.

        Raises ValueError for other parts: take the boundary of one of them.
        """
        faces = [f for a, b in itertools.permutations(self._boxes, 2) for f in _shared_faces(a, b)]
        if not faces:
            raise ValueError(f"no two parts of {self!r} meet")
        return Pieces(tuple(faces), "interface")

    def each(self, function: Callable) -> "Subdomains":
        """The parts that `function` makes of these."""
        return Subdomains(**{name: function(part) for name, part in self.parts.items()})

    @property
    def _boxes(self) -> list[Box]:
        if not all(type(p) is Box for p in self.parts.values()):
            raise ValueError(
                "only parts that are boxes have a boundary and an interface of their own: use the boundary of the "
                "shape that the parts were made from, as in square.boundary() and disc.boundary()"
            )
        return list(self.parts.values())  # pyright: ignore

    @property
    def _whole(self) -> Box:
        if self._boxes and not self._fills_a_box:
            raise ValueError("the parts do not fill a box: give conditions on the faces of the parts themselves")
        return Box(**self.bounds)

    @functools.cached_property
    def _fills_a_box(self) -> bool:
        boxes = [p for p in self.parts.values() if type(p) is Box]
        measure = Box(**self.bounds).measure
        return len(boxes) == len(self.parts) and abs(sum(p.measure for p in boxes) - measure) < 1e-9 * measure

    def _distances(self, points: Float[Array, "n d"]) -> Float[Array, "parts n"]:
        return jnp.stack([p.distance(points) for p in self.parts.values()])


def split(box: Box, cuts: Mapping[str, int | Sequence[float]]) -> Subdomains:
    """A box in parts; see `Box.split`."""
    ends = {}
    for axis, cut in cuts.items():
        if axis not in box.axes:
            raise ValueError(f"split: no axis '{axis}'; the axes are {', '.join(box.axes)}")
        low, high = box.bounds[axis]
        whole = isinstance(cut, int | np.integer)
        places = np.linspace(low, high, int(cut) + 1) if whole else np.array([low, *cut, high], float)  # pyright: ignore
        if len(places) < 2 or not (np.diff(places) > 0).all():
            raise ValueError(
                f"split: '{axis}' needs a number of parts or increasing places between {low:g} and {high:g}, got {cut}"
            )
        ends[axis] = list(zip(places[:-1].tolist(), places[1:].tolist()))
    parts = {}
    for index in itertools.product(*[range(len(e)) for e in ends.values()]):
        ranges = {a: ends[a][i] for a, i in zip(ends, index)}
        parts["_".join(f"{a}{i}" for a, i in zip(ends, index))] = Box(**(box.bounds | ranges))
    return Subdomains(**parts)


def _shared_faces(a: Box, b: Box):
    """The part of the upper faces of `a` that are lower faces of `b`."""
    for axis in a.axes:
        if a.bounds[axis][1] != b.bounds[axis][0]:
            continue
        common = {
            x: (max(a.bounds[x][0], b.bounds[x][0]), min(a.bounds[x][1], b.bounds[x][1])) for x in a.axes if x != axis
        }
        if all(low < high for low, high in common.values()):
            at = a.bounds[axis][1]
            yield Box(**{x: (a.bounds[axis] if x == axis else common[x]) for x in a.axes}).at(**{axis: at})


def by_part(domain: Domain, name: str, values: Mapping[str, Any]) -> Callable:
    """A parameter that differs from part to part as a function of the part, and of coordinates and other parameters
    where it is one.

    Raises ValueError unless there is a value for each part.
    """
    parts = domain.parts if isinstance(domain, Subdomains) else {}
    if set(values) != set(parts):
        raise ValueError(
            f"PDE: parameter '{name}' has values for {', '.join(map(str, values))}; the domain has "
            + (f"the parts {', '.join(parts)}" if parts else "no parts: give one number, or make it of Subdomains")
        )
    ordered = [values[p] for p in parts]
    needed = [arguments(v, f"'{name}'") if callable(v) else () for v in ordered]
    names = tuple(dict.fromkeys([PART, *itertools.chain(*needed)]))

    def chosen(**given):
        found: list[Any] = [v(**{n: given[n] for n in own}) if callable(v) else v for v, own in zip(ordered, needed)]
        out = found[0]
        part: Any = given[PART]
        for i, value in enumerate(found[1:], start=1):
            out = jnp.where(part == i, value, out)
        return out

    parameters = [inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY) for n in names]
    chosen.__signature__ = inspect.Signature(parameters)  # pyright: ignore
    return chosen


def parts_of(domain: Domain) -> int:
    """The number of parts of a domain."""
    return len(domain.parts) if isinstance(domain, Subdomains) else 1
