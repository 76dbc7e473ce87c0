"""Integrals of the fields along axes as quantities that equations may ask for."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._names import Meaning, arguments

Limit = float | int | Callable


class Along(NamedTuple):
    """A variable of integration: the axis that it runs along, and from where to where."""

    axis: str
    low: Limit
    high: Limit


@dataclass(frozen=True)
class Integral:
    """A named integral; see `integral`."""

    name: str
    integrand: Callable
    variables: Mapping[str, Along]
    points: int


def integral(name: str, integrand: Callable, /, *, points: int = 24, **variables: tuple[str, Limit, Limit]) -> Integral:
    """Names an integral so that equations and conditions may ask for it.

    `integral("memory", lambda u, s, x: jnp.exp(s - x) * u, s=("x", 0.0, lambda x: x))` is the integral of
    exp(s - x) u(s) over s from 0 to x, where s runs along the axis x. Each keyword is a variable of integration with
    its axis and its limits, numbers or functions of coordinates. In the integrand, fields, their derivatives, derived
    quantities and coefficients are those at the place of integration, coordinates by their own names those of the
    point where the integral is asked for, and the variables those of the place.

    The value is that of Gauss and Legendre's rule with `points` nodes along each variable, exact for polynomials of
    degree 2 `points` - 1; an integrand with a kink needs its parts as integrals of their own. Each point of an equation
    costs as many evaluations of the fields as there are nodes. A constraint on the whole is a condition at one point:
    `condition(lambda mass: mass - 1, on=domain.at(x=0))`.

    Raises ValueError without a variable and unless `points` is above 0, TypeError for other arguments.
    """
    if not isinstance(name, str) or not name.isidentifier():
        raise TypeError(f"integral: the first argument is a name such as 'mass', got {name!r}")
    if not callable(integrand):
        raise TypeError(f"integral: '{name}' needs a function, got {type(integrand).__name__}")
    if not variables:
        raise ValueError(f"integral: '{name}' needs a variable, as in s=('x', 0.0, 1.0)")
    if isinstance(points, bool) or not isinstance(points, int) or points < 1:
        raise ValueError(f"integral: points must be an integer above 0, got {points!r}")
    return Integral(name, integrand, {v: _along(name, v, given) for v, given in variables.items()}, points)


def _along(name: str, variable: str, given: Any) -> Along:
    if not isinstance(given, tuple | list) or len(given) != 3 or not isinstance(given[0], str):
        raise TypeError(f"integral: '{name}' needs {variable}=(axis, low, high), got {given!r}")
    for limit in given[1:]:
        if not callable(limit) and not (np.ndim(limit) == 0 and np.isfinite(float(limit))):
            raise ValueError(f"integral: the limits of {variable} must be finite numbers or functions, got {limit!r}")
    return Along(*given)


def check_integral(pde, wanted: Integral) -> None:
    """Raises ValueError for axes that do not exist, and names that mean something else already."""
    for variable, along in wanted.variables.items():
        if along.axis not in pde.axes:
            raise ValueError(f"integral '{wanted.name}': no axis '{along.axis}'; the axes are {', '.join(pde.axes)}")
        if variable in (*pde.axes, *pde.numbers, *pde.derived):
            raise ValueError(f"integral '{wanted.name}': '{variable}' is known already; rename the variable")
        for limit in (along.low, along.high):
            unknown = [n for n in _names(limit) if n not in (*pde.axes, *pde.numbers)]
            if unknown:
                raise ValueError(
                    f"integral '{wanted.name}': limits may depend on coordinates and parameters, not on "
                    f"{', '.join(unknown)}"
                )


def field_names(wanted: Integral) -> list[str]:
    """The arguments of the integrand but its variables."""
    return [n for n in arguments(wanted.integrand, f"integral '{wanted.name}'") if n not in wanted.variables]


def integrated(pde, wanted: Integral, meanings: Mapping[str, Meaning], model, point: Float[Array, " d"]) -> Array:
    """The integral at one point for the fields of `model`; `meanings` are those of the integrand's arguments but
    coordinates and variables.
    """
    coordinates = dict(zip(pde.axes, point))
    known = coordinates | pde.parameters(model)
    lines, weights = [], []
    nodes, node_weights = np.polynomial.legendre.leggauss(wanted.points)
    for along in wanted.variables.values():
        low, high = (_at(limit, known) for limit in (along.low, along.high))
        lines.append(low + (high - low) * jnp.asarray((nodes + 1) / 2, point.dtype))
        weights.append((high - low) * jnp.asarray(node_weights / 2, point.dtype))
    grid = [m.ravel() for m in jnp.meshgrid(*lines, indexing="ij")]
    total = [m.ravel() for m in jnp.meshgrid(*weights, indexing="ij")]

    def at_node(*place):
        moved = point
        for along, value in zip(wanted.variables.values(), place):
            moved = moved.at[pde.axes.index(along.axis)].set(value)
        found = known | pde.evaluate(meanings, model, moved) | coordinates | dict(zip(wanted.variables, place))
        return jnp.asarray(wanted.integrand(**{n: found[n] for n in inspect.signature(wanted.integrand).parameters}))

    return jnp.sum(jnp.prod(jnp.stack(total), axis=0) * jax.vmap(at_node)(*grid))


def _at(limit: Limit, known: Mapping[str, Any]):
    return limit(**{n: known[n] for n in _names(limit)}) if callable(limit) else limit


def _names(limit: Limit) -> tuple[str, ...]:
    return arguments(limit, "limit of an integral") if callable(limit) else ()
