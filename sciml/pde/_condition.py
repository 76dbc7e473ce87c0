"""What a solution must satisfy on a region: values, fluxes, periodicity, observations, any equation."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ._domain import Region
from ._names import NORMAL

Data = float | int | Callable | Any


@dataclass(frozen=True)
class Value:
    """Declared values of fields or of their derivatives on a region; see `value` and `flux`."""

    targets: Mapping[str, Data]
    on: Region
    exact: bool | None = None


@dataclass(frozen=True)
class Condition:
    """An equation on a region; see `condition`."""

    equation: Callable
    on: Region
    name: str


@dataclass(frozen=True)
class Jump:
    """What a quantity gains across an interface; see `jump`."""

    quantity: Callable
    on: Region
    gain: Data
    name: str


@dataclass(frozen=True)
class Periodic:
    """Axes along which all fields are periodic with the domain's extent; see `periodic`."""

    axes: tuple[str, ...]


@dataclass(frozen=True)
class Observations:
    """Measured values at points; see `observe`."""

    coordinates: Mapping[str, np.ndarray]
    values: Mapping[str, np.ndarray]
    weight: float
    name: str


@dataclass(frozen=True)
class Derived:
    """Named quantities that equations may differentiate; see `derived`."""

    functions: Mapping[str, Callable] = field(default_factory=dict)


def value(*, on: Region, exact: bool | None = None, **targets: Data) -> Value:
    """Dirichlet and initial conditions: `value(u=0.0, on=domain.boundary("x"))`.

    Each target is a field or one of its derivatives (an initial velocity: `u_t=0.0`) and gets a number or a
    function of coordinates and parameters, read by their names. `exact=True` asks that it holds by
    construction, `False` that it is a penalty; by default conditions on faces of a box hold by construction
    and others are penalties.

    Raises ValueError without a target, TypeError where `on` is not a region.
    """
    return Value(_targets(targets, on, "value"), on, exact)


def flux(*, on: Region, **targets: Data) -> Value:
    """Neumann conditions: `flux(u=g, on=...)` asks that the derivative of u along the outward normal is g."""
    return Value({f"{k}_{NORMAL}": v for k, v in _targets(targets, on, "flux").items()}, on, False)


def condition(equation: Callable, *, on: Region, name: str | None = None) -> Condition:
    """Any equation on a region: `condition(lambda u, u_n: u_n + u - 5, on=...)` is a Robin condition."""
    _check_region(on, "condition")
    return Condition(equation, on, name or _readable(equation, f"condition on {on.label}"))


def jump(quantity: Callable, gain: Data = 0.0, *, on: Region, name: str | None = None) -> Jump:
    """What a quantity gains across an interface of `Subdomains`, in the direction of the interface's normal.

    `jump(lambda u: u, on=disc.boundary())` says that u is continuous, `jump(lambda k, u_n: k * u_n, on=...)` that the
    flux is. `gain` is a number or a function of coordinates and parameters. u_n is the derivative along the normal,
    the same on both sides: outward of the shape whose boundary is given, along the axis for `domain.interface()`.

    Raises TypeError where `on` is not a region or `quantity` not a function, ValueError for a gain that is not finite.
    """
    _check_region(on, "jump")
    if not callable(quantity):
        raise TypeError(f"jump: expected a function such as `lambda u: u`, got {type(quantity).__name__}")
    if not callable(gain) and not (np.ndim(gain) == 0 and np.isfinite(float(gain))):
        raise ValueError(f"jump: the gain must be a finite number or a function of coordinates, got {gain!r}")
    return Jump(quantity, on, gain, name or _readable(quantity, f"jump on {on.label}"))


def periodic(*axes: str) -> Periodic:
    """All fields repeat along these axes, with the extent of the domain as the period (by construction)."""
    if not axes or not all(isinstance(a, str) for a in axes):
        raise ValueError('periodic needs names of axes, as in periodic("x")')
    return Periodic(axes)


def observe(
    coordinates: Mapping[str, Any], *, weight: float = 0.01, name: str = "observations", **values: Any
) -> Observations:
    """Measurements of fields at n points: `observe({"t": t, "x": x}, u=u)` with arrays of shape `(n,)`.

    Their mean square counts with `weight` beside the equations. A small weight lets the equations hold where the
    measurements have noise; exact measurements may have a larger one.

    Raises ValueError where the arrays are empty, differ in length or hold a value that is not finite.
    """
    points = {k: np.ravel(np.asarray(v, float)) for k, v in coordinates.items()}
    data = {k: np.ravel(np.asarray(v, float)) for k, v in values.items()}
    if not points or not data:
        raise ValueError("observe needs coordinates and at least one field, as in observe({'x': x}, u=u)")
    sizes = {k: len(v) for k, v in (points | data).items()}
    if len(set(sizes.values())) != 1 or 0 in sizes.values():
        raise ValueError(f"observe needs arrays of one common length above 0, got lengths {sizes}")
    for key, array in (points | data).items():
        if not np.isfinite(array).all():
            bad = int(np.flatnonzero(~np.isfinite(array))[0])
            raise ValueError(f"observe: '{key}' is {array[bad]} at index {bad}; drop missing values first")
    if not weight > 0:
        raise ValueError(f"observe: the weight must be positive, got {weight}")
    return Observations(points, data, float(weight), name)


def derived(**functions: Callable) -> Derived:
    """Names a quantity so that equations can use and differentiate it.

    `derived(q=lambda u_x, k: k * u_x)` is a flux whose derivative an equation asks for as `q_x`.
    """
    for name, function in functions.items():
        if not callable(function):
            raise TypeError(f"derived: '{name}' must be a function, got {type(function).__name__}")
    if not functions:
        raise ValueError("derived needs a named function, as in derived(q=lambda u_x: 2 * u_x)")
    return Derived(functions)


def _targets(targets, on, where) -> dict:
    _check_region(on, where)
    if not targets:
        raise ValueError(f"{where} needs a field, as in {where}(u=0.0, on=...)")
    for name, data in targets.items():
        if not callable(data) and np.ndim(data) != 0:
            raise ValueError(
                f"{where}: '{name}' must be a number or a function of coordinates, got an array of shape "
                f"{np.shape(data)}; use observe(...) for values at points"
            )
        if not callable(data) and not np.isfinite(float(data)):
            raise ValueError(f"{where}: '{name}' is {data}; a condition needs a finite number")
    return dict(targets)


def _check_region(on, where) -> None:
    if not isinstance(on, Region):
        raise TypeError(
            f"{where}: `on` must be a region such as domain.at(t=0) or domain.boundary('x'), got {type(on).__name__}"
        )


def _readable(function: Callable, otherwise: str) -> str:
    name = getattr(function, "__name__", "<lambda>")
    return otherwise if name == "<lambda>" else name
