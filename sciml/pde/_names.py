"""What the argument names of an equation mean: fields, their partial derivatives, coordinates, parameters."""

import difflib
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ._derivatives import Laplacian, Partial

NORMAL = "n"
POINT = "point"
# The label of the points where equations hold.
INTERIOR = "interior"
# Of more names than this a message shows some.
LISTED = 20


@dataclass(frozen=True)
class Derivative:
    """A partial derivative of a quantity; `()` is the quantity itself."""

    of: str
    partial: Partial


@dataclass(frozen=True)
class Normal:
    """The derivative of a quantity along the outward normal."""

    of: str


@dataclass(frozen=True)
class Coordinate:
    """One coordinate of the point."""

    index: int


@dataclass(frozen=True)
class Parameter:
    """A number that belongs to the PDE."""

    name: str


@dataclass(frozen=True)
class Point:
    """All coordinates of the point, in the order of the axes."""


Meaning = Derivative | Normal | Coordinate | Point | Parameter


@dataclass(frozen=True)
class Vocabulary:
    """The names that equations may use. Quantities are fields and derived quantities."""

    axes: tuple[str, ...]
    parameters: tuple[str, ...]
    quantities: tuple[str, ...]

    def meaning(self, name: str, where: str) -> Meaning:
        """What a name stands for; ValueError, with the nearest known names, where it stands for nothing."""
        if name in self.axes:
            return Coordinate(self.axes.index(name))
        if name in self.parameters:
            return Parameter(name)
        if name in self.quantities:
            return Derivative(name, ())
        if name == POINT:
            return Point()
        if name.startswith("laplacian_") and name.removeprefix("laplacian_") in self.quantities:
            return Derivative(name.removeprefix("laplacian_"), Laplacian(space(self.axes)))
        for quantity, subscript in splits(name):
            if quantity in self.quantities:
                return self._subscripted(quantity, subscript, name, where)
        raise ValueError(f"{where}: unknown name '{name}'. {self._remedy(name)}")

    def _subscripted(self, quantity: str, subscript: str, name: str, where: str) -> Meaning:
        if subscript == NORMAL:
            return Normal(quantity)
        partial = read_subscript(subscript, self.axes)
        if partial is None:
            raise ValueError(
                f"{where}: '{name}' asks for a derivative of '{quantity}' along '{subscript}', but the axes of "
                f"the domain are {', '.join(self.axes)}. Write one axis after the other, as in "
                f"'{quantity}_{self.axes[0]}' or '{quantity}_{self.axes[-1] * 2}', separated by '_' where "
                f"the names of axes are long."
            )
        return Derivative(quantity, tuple(sorted(partial)))

    def _remedy(self, name: str) -> str:
        known = (*self.axes, *self.parameters, *self.quantities)
        near = difflib.get_close_matches(name, known, n=2)
        hint = f"Did you mean {' or '.join(repr(n) for n in near)}? " if near else ""
        return (
            f"{hint}Known are the coordinates {listed(self.axes)} (all of them: 'point'), the parameters "
            f"{listed(self.parameters)} and the fields {listed(self.quantities)}. Give a number to a parameter as a "
            f"keyword of PDE ({name}=...); a field is recognised by one of its derivatives in an equation or condition."
        )


def space(axes: tuple[str, ...]) -> tuple[int, ...]:
    """The indices of the axes that are not time."""
    return tuple(i for i, axis in enumerate(axes) if axis != "t")


def coordinates(axes: tuple[str, ...], point) -> dict[str, Any]:
    """The numbers of a point by the names that functions of coordinates may use."""
    return {POINT: point} | dict(zip(axes, point))


def listed(names: Iterable[str]) -> str:
    """Names in a sentence; some of them where there are many."""
    names = tuple(names)
    if len(names) > LISTED:
        names = (*names[: LISTED // 2], "...", names[-1])
    return ", ".join(names) or "(none)"


def splits(name: str):
    """All ways to read `a_b_c` as quantity and subscript, the longest quantity first."""
    parts = name.split("_")
    for i in range(len(parts) - 1, 0, -1):
        yield "_".join(parts[:i]), "_".join(parts[i:])


def read_subscript(subscript: str, axes: tuple[str, ...]) -> tuple[int, ...] | None:
    """`"xx"` or `"theta_theta"` as indices of axes; None where it cannot be read."""
    out: list[int] = []
    for part in subscript.split("_"):
        read = _read_part(part, axes)
        if read is None:
            return None
        out.extend(read)
    return tuple(out)


def _read_part(part: str, axes: tuple[str, ...]) -> tuple[int, ...] | None:
    if not part:
        return ()
    for axis in sorted(axes, key=len, reverse=True):
        if part.startswith(axis):
            rest = _read_part(part[len(axis) :], axes)
            if rest is not None:
                return (axes.index(axis), *rest)
    return None


def arguments(function: Callable, where: str) -> tuple[str, ...]:
    """The argument names of an equation. TypeError for `*args`, `**kwargs` or something not callable."""
    if not callable(function):
        raise TypeError(f"{where}: expected a function, got {type(function).__name__}")
    names = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise TypeError(
                f"{where}: the arguments of an equation are read by name, so '*{parameter.name}' cannot be "
                "used; name each field, derivative, coordinate and parameter."
            )
        if parameter.default is parameter.empty:
            names.append(parameter.name)
    return tuple(names)


def find_fields(
    names: Iterable[str], declared: Iterable[str], axes: tuple[str, ...], known: Iterable[str]
) -> tuple[str, ...]:
    """The fields, in the order of first appearance: names with a derivative, and those with a condition."""
    taken = (*axes, *known)
    declared = [name for name in declared if name not in taken]
    fields: dict[str, None] = {}
    for name in names:
        if name in taken:
            continue
        if name.startswith("laplacian_"):
            if name.removeprefix("laplacian_") not in taken:
                fields[name.removeprefix("laplacian_")] = None
            continue
        # The shortest root, so that u_theta_theta is a derivative of u and not of u_theta.
        roots = [q for q, s in splits(name) if _is_subscript(s, axes) and q not in taken]
        root = roots[-1] if roots else None
        if root is not None:
            fields[root] = None
        elif name in declared:
            fields[name] = None
    return tuple(fields | dict.fromkeys(declared))


def _is_subscript(text: str, axes: tuple[str, ...]) -> bool:
    return text == NORMAL or bool(read_subscript(text, axes))
