"""The equations of a problem evaluated on arrays over a grid: residuals, the sizes of their terms, the error floor."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ._derivatives import Laplacian
from ._differences import GridAxis, differentiate, half_resolution, possible_order
from ._names import POINT, Coordinate, Derivative, Meaning, Normal, Parameter, Point

# A residual above the tolerance says something about the data only where it is this much above the floor.
MARGIN = 2.0


@dataclass(frozen=True)
class GridTerm:
    """A residual on the whole grid, or on a face: `face` maps axes to indices, `normal` is an axis and a sign."""

    name: str
    function: Callable
    meanings: Mapping[str, Meaning]
    face: Mapping[int, int] = field(default_factory=dict)
    normal: tuple[int, int] | None = None


@dataclass(frozen=True)
class GridEquations:
    """Terms, derived quantities and parameters, by name."""

    axes: tuple[str, ...]
    terms: tuple[GridTerm, ...]
    derived: Mapping[str, Callable]
    derived_meanings: Mapping[str, Mapping[str, Meaning]]
    parameters: Mapping[str, Any]


class Evaluation:
    """Quantities and their derivatives on one grid. May be traced.

    `values` are arrays by name whose last dimensions are the axes (of length 1 where a variable does not depend on
    one); dimensions before those are a batch. `coarse` takes every second point.
    """

    def __init__(
        self,
        equations: GridEquations,
        axes: tuple[GridAxis, ...],
        values: Mapping[str, Array],
        order: int,
        spectral: frozenset,
        coarse: bool = False,
    ):
        self.equations, self.axes, self.values = equations, axes, values
        self.order, self.spectral, self.coarse = order, spectral, coarse
        self.dtype = jnp.result_type(*values.values()) if values else jnp.result_type(float)
        self._known: dict[Any, Array] = {}

    def arguments(self, term: GridTerm) -> dict[str, Array]:
        """The arrays that a term's function takes at every point."""
        return {n: self._read(m, term.normal) for n, m in term.meanings.items()}

    def residual(self, term: GridTerm, zero: str | None = None) -> Array:
        """A term's residual, with one of its arguments set to zero if asked for."""
        arguments = self.arguments(term)
        if zero is not None:
            arguments[zero] = jnp.zeros_like(arguments[zero])
        shape = jnp.broadcast_shapes(*(jnp.shape(a) for a in arguments.values()), (1,) * len(self.axes))
        return pointwise(term.function, arguments, shape, self.dtype)

    def _read(self, meaning: Meaning, normal) -> Array:
        match meaning:
            case Coordinate(index):
                points = jnp.asarray(self.axes[index].points, self.dtype)
                return points.reshape([-1 if i == index else 1 for i in range(len(self.axes))])
            case Point():
                raise ValueError(f"on a grid coordinates are read one by one: name them in place of '{POINT}'")
            case Parameter(name):
                number = self.values[name] if name in self.values else self.equations.parameters[name]
                return jnp.asarray(number, None if isinstance(number, int) else self.dtype)
            case Normal(of):
                return normal[1] * self._partial(of, (normal[0],))
            case Derivative(of, partial):
                if isinstance(partial, Laplacian):
                    return functools.reduce(jnp.add, [self._partial(of, (a, a)) for a in partial])
                return self._partial(of, tuple(partial))

    def _partial(self, name: str, partial: tuple[int, ...]) -> Array:
        if (name, partial) not in self._known:
            out = self._quantity(name)
            for axis in sorted(set(partial)):
                out = self._along(out, axis, partial.count(axis))
            self._known[name, partial] = out
        return self._known[name, partial]

    def _quantity(self, name: str) -> Array:
        if name in self.values:
            return self.values[name]
        if (name, ()) not in self._known:
            term = GridTerm(name, self.equations.derived[name], self.equations.derived_meanings[name])
            self._known[name, ()] = self.residual(term)
        return self._known[name, ()]

    def _along(self, values: Array, axis: int, derivative: int) -> Array:
        along, place = self.axes[axis], values.ndim - len(self.axes) + axis
        if along.name not in self.spectral:
            possible_order(along, derivative, self.order)
        if values.shape[place] == 1 and len(along.points) > 1:
            return jnp.zeros_like(values)
        spectral = along.name in self.spectral
        scheme = half_resolution if self.coarse else differentiate
        return scheme(values, along, place, derivative, self.order, spectral)


def pointwise(function: Callable, arguments: Mapping[str, Array], shape: tuple[int, ...], dtype: Any) -> Array:
    """A function of numbers at every point of arrays that broadcast to `shape`."""
    flat = {n: jnp.broadcast_to(a, shape).ravel() for n, a in arguments.items()}
    size = int(np.prod(shape))
    if not flat:
        return jnp.full(shape, jnp.asarray(function(), dtype))
    out = jax.vmap(lambda values: jnp.asarray(function(**values), dtype), axis_size=size)(flat)
    return out.reshape(shape)


def assess(
    equations: GridEquations,
    axes: tuple[GridAxis, ...],
    order: int,
    spectral: frozenset,
    core: slice,
    values: Mapping[str, Array],
    noise: Mapping[str, Array],
    mask: Array | None,
) -> dict[str, dict[str, Any]]:
    """For every term its residual (within `core` of the first axis) and sums of squares over the points where it is
    finite: of the residual, of what derivatives from every second point change, of what the rounding of the data
    changes, and of each argument's part. May be traced.
    """
    make = functools.partial(Evaluation, equations, axes, order=order, spectral=spectral)
    full, coarse = make(values), make(values, coarse=True)
    noisy = make({n: v + noise[n] if n in noise else v for n, v in values.items()})
    return {term.name: _assess_term(term, full, coarse, noisy, core, mask) for term in equations.terms}


def _assess_term(term: GridTerm, full, coarse, noisy, core, mask) -> dict[str, Any]:
    def place(array):
        lead = array.ndim - len(full.axes)
        array = jnp.broadcast_to(array, (*array.shape[:lead], *(len(a.points) for a in full.axes)))
        cuts = {0: core} | {axis: slice(i, i + 1) for axis, i in term.face.items()}
        return array[(..., *(cuts.get(i, slice(None)) for i in range(len(full.axes))))]

    whole = full.residual(term)
    residual = place(whole)
    if mask is not None and not term.face:
        residual = jnp.where(place(mask), residual, jnp.nan)
    valid = jnp.isfinite(residual)

    def squares(change):
        return jnp.sum(jnp.where(valid, jnp.where(jnp.isfinite(change), change**2, jnp.inf), 0.0))

    return {
        "residual": residual,
        "count": valid.sum(),
        "square": jnp.sum(jnp.where(valid, residual**2, 0.0)),
        "floor": squares(place(coarse.residual(term)) - residual) + squares(place(noisy.residual(term)) - residual),
        "sizes": {n: _mean_square(whole - full.residual(term, n)) for n in _weighed(term)},
    }


def _mean_square(array: Array) -> Array:
    finite = jnp.isfinite(array)
    return jnp.sum(jnp.where(finite, array**2, 0.0)) / jnp.maximum(finite.sum(), 1)


def _weighed(term: GridTerm) -> list[str]:
    """The arguments whose parts of the residual are its scale: derivatives, or where there are none the quantities."""
    known = {n: m for n, m in term.meanings.items() if isinstance(m, Derivative | Normal)}
    steep = [n for n, m in known.items() if isinstance(m, Normal) or m.partial != ()]
    return list(known) if term.face or not steep else steep


@dataclass
class Assessment:
    """Whether data satisfy one equation: sums over the parts of the data set seen so far.

    `verdict` is "yes" where the residual is within `tolerance` of the equation's largest term, "no" where it is above
    that and clearly above the `floor` (what the resolution and the rounding of the data explain), else "undecided".
    """

    name: str
    tolerance: float
    count: int = 0
    points: int = 0
    square: float = 0.0
    floor_square: float = 0.0
    size_squares: dict[str, float] = field(default_factory=dict)
    worst: float = 0.0
    where: dict[str, Any] = field(default_factory=dict)

    def add(self, found: Mapping[str, Any], place: Callable[[tuple[int, ...]], dict[str, Any]]) -> None:
        """Adds one part; `place` names the coordinates of an index."""
        count = int(found["count"])
        residual = np.abs(np.asarray(found["residual"]))
        self.points += residual.size
        if not count:
            return
        self.count += count
        self.square += float(found["square"])
        self.floor_square += float(found["floor"])
        for name, mean in found["sizes"].items():
            self.size_squares[name] = self.size_squares.get(name, 0.0) + count * float(mean)
        index = np.unravel_index(np.argmax(np.where(np.isfinite(residual), residual, -1.0)), residual.shape)
        if residual[index] > self.worst or not self.where:
            self.worst, self.where = float(residual[index]), place(tuple(int(i) for i in index))

    @property
    def rms(self) -> float:
        """The root mean square of the residual; NaN where no point could be evaluated."""
        return float(np.sqrt(self.square / self.count)) if self.count else float("nan")

    @property
    def largest_term(self) -> str:
        """The argument whose part of the equation is the largest."""
        return max(self.size_squares, key=self.size_squares.__getitem__, default="")

    @property
    def scale(self) -> float:
        """The root mean square of the largest term."""
        largest = max(self.size_squares.values(), default=0.0)
        return float(np.sqrt(largest / self.count)) if self.count else float("nan")

    @property
    def relative(self) -> float:
        """The residual over the largest term."""
        return self._over_scale(self.rms)

    @property
    def floor(self) -> float:
        """The part of the residual, over the largest term, that derivatives and rounding explain."""
        return self._over_scale(float(np.sqrt(self.floor_square / self.count)) if self.count else float("nan"))

    def _over_scale(self, size: float) -> float:
        if size == 0:
            return 0.0
        return size / self.scale if self.scale != 0 else float("inf")

    @property
    def verdict(self) -> str:
        """ "yes", "no" or "undecided"."""
        if not self.count:
            return "undecided"
        if self.relative <= self.tolerance:
            return "yes"
        return "no" if self.rms > MARGIN * np.sqrt(self.floor_square / self.count) else "undecided"
