"""Checks of a PDE when it is built: each names what is wrong and the remedy."""

import warnings
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..nn._unknown import Unknown
from ._condition import Condition, Derived, Jump, Observations, Periodic, Value
from ._derivatives import Laplacian
from ._domain import Domain
from ._integral import Integral
from ._names import INTERIOR, POINT, Derivative, Normal, coordinates, space


class UndeterminedWarning(UserWarning):
    """The conditions of a PDE do not determine its solution."""


def check_arguments(domain, items, parameters) -> None:
    """Raises TypeError for objects that are not what PDE takes."""
    if not isinstance(domain, Domain):
        raise TypeError(
            f"PDE: the first argument must be a domain such as Box(t=(0, 1), x=(-1, 1)), got {type(domain).__name__}"
        )
    for item in items:
        if isinstance(item, Value | Condition | Jump | Periodic | Observations | Derived | Integral):
            continue
        if not callable(item):
            raise TypeError(
                f"PDE: expected equations (functions) and conditions (value, flux, ...), got {type(item).__name__}; "
                "parameters are keywords"
            )
    if not any(callable(i) for i in items):
        raise ValueError("PDE: no equation given; an equation is a function such as `def heat(u_t, u_xx)`")
    for name, number in parameters.items():
        if name in domain.axes:
            raise ValueError(f"PDE: '{name}' is both an axis of the domain and a parameter; rename one of them")
        if not callable(number) and not isinstance(number, Unknown | Mapping):
            _check_number(name, number)
    for item in items:
        _check_region_axes(domain, item)


def _check_number(name, number) -> None:
    try:
        finite = np.ndim(number) == 0 and bool(np.isfinite(float(number)))
    except (TypeError, ValueError):
        finite = False
    if not finite:
        raise ValueError(
            f"PDE: parameter '{name}' must be a finite number, a function of coordinates or Unknown(initial), "
            f"got {number!r}"
        )


def _check_region_axes(domain, item) -> None:
    region = getattr(item, "on", None)
    if region is not None and tuple(region.axes) != tuple(domain.axes):
        raise ValueError(
            f"the region '{region.label}' has axes {', '.join(region.axes)}, the domain {', '.join(domain.axes)}; "
            "take regions from the domain itself, as in domain.boundary('x')"
        )
    if isinstance(item, Periodic):
        for axis in item.axes:
            if axis not in domain.axes:
                raise ValueError(f"periodic: no axis '{axis}'; the domain has {', '.join(domain.axes)}")
    if isinstance(item, Observations) and set(item.coordinates) != set(domain.axes):
        raise ValueError(f"observe: coordinates {', '.join(item.coordinates)} given, expected {', '.join(domain.axes)}")


def check_scalar(name, function, arguments) -> None:
    """Raises where an equation does not return one real number per point."""
    out = jax.eval_shape(lambda kw: function(**kw), arguments)
    leaves = jax.tree.leaves(out)
    if len(leaves) != 1 or not hasattr(out, "shape"):
        raise TypeError(
            f"'{name}' must return one number per point, it returned {type(out).__name__}; "
            "write one function per equation of a system"
        )
    if out.shape != ():
        raise ValueError(
            f"'{name}' must return one number per point, it returned an array of shape {out.shape}; all equations "
            "get and return plain numbers"
        )
    if jnp.issubdtype(out.dtype, jnp.complexfloating):
        raise TypeError(
            f"'{name}' returned a complex number; write a complex problem as two fields, the real and the "
            "imaginary part, with one equation each"
        )


def refuse_normals(terms) -> None:
    """An interior has no normal."""
    for term in terms:
        for name, meaning in term.meanings.items():
            if isinstance(meaning, Normal):
                raise ValueError(
                    f"equation '{term.name}' asks for the normal derivative '{name}', which exists on boundaries "
                    "only: use condition(equation, on=domain.boundary(...)), or a derivative along an axis"
                )


def only_known(meanings, where):
    """Data of a condition are functions of coordinates and parameters."""
    for name, meaning in meanings.items():
        if isinstance(meaning, Derivative | Normal):
            raise ValueError(
                f"{where}: its data may depend on coordinates and parameters, not on '{name}'; "
                "use condition(equation, on=...) for an equation between fields"
            )
    return meanings


def check_cycles(meanings) -> None:
    """Raises ValueError where derived quantities are defined by one another."""

    def visit(name, path):
        if name in path:
            raise ValueError(f"derived quantities defined by one another: {' -> '.join([*path, name])}")
        for meaning in meanings[name].values():
            if getattr(meaning, "of", None) in meanings:
                visit(meaning.of, [*path, name])

    for name in meanings:
        visit(name, [])


def check_network(pde, network) -> None:
    """Raises TypeError where a network does not map `(in_size,)` to `(out_size,)`."""
    if not callable(network):
        raise TypeError(f"expected a network (a function of one point), got {type(network).__name__}")
    point = jax.ShapeDtypeStruct((pde.in_size,), jnp.result_type(float))
    try:
        out = jax.eval_shape(network, point)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"the network does not accept one input of shape ({pde.in_size},) (axes {', '.join(pde.axes)}, two "
            f"inputs for each periodic one): {error}"
        ) from error
    if not hasattr(out, "size") or out.size != pde.out_size:
        raise TypeError(
            f"the network must return {pde.out_size} numbers ({', '.join(pde.fields)}) at a point, it returned "
            f"{getattr(out, 'shape', type(out).__name__)}"
        )


def check_conditions(pde) -> None:
    """Raises ValueError for contradictions; warns where the solution is not determined."""
    _check_contradictions(pde)
    _check_periodic(pde)
    _check_data(pde)
    for field in pde.fields:
        missing = _missing_in_time(pde, field) or _missing_in_space(pde, field) or _free_constant(pde, field)
        if missing:
            warnings.warn(missing, UndeterminedWarning, stacklevel=3)


def _check_contradictions(pde) -> None:
    seen: dict = {}
    for item in pde.conditions:
        if not isinstance(item, Value):
            continue
        for piece in item.on.pieces:
            fixed = tuple(sorted(getattr(piece, "fixed", {}).items()))
            place = (fixed, tuple(piece.bounds.items())) if fixed else id(piece)
            for target, data in item.targets.items():
                before = seen.setdefault((place, target), data)
                if before is not data and (callable(before) or callable(data) or before != data):
                    raise ValueError(
                        f"two different values for '{target}' on {piece.label}; remove one of the conditions"
                    )


def _check_periodic(pde) -> None:
    for item in pde.conditions:
        if isinstance(item, Value):
            for piece in item.on.pieces:
                clash = set(getattr(piece, "fixed", {})) & set(pde.periodic_axes)
                if clash and piece.dim == pde.domain.dim - 1:
                    raise ValueError(
                        f"'{clash.pop()}' is periodic, so it has no boundary: remove the condition on {piece.label}"
                    )
    for axis in pde.periodic_axes:
        inside = [pde.domain.bounds[axis]]
        if not all(np.isfinite(inside[0])):
            raise ValueError(f"periodic: the extent of '{axis}' is not finite")


def _check_data(pde) -> None:
    """Declared values must be finite on their region, and repeat along periodic axes."""
    numbers = {n: getattr(v, "initial", v) for n, v in pde.numbers.items()}
    conditions: Any = pde.conditions
    for item in conditions:
        if not isinstance(item, Value):
            continue
        points = np.asarray(item.on.sample(jax.random.key(0), 16))
        data: Any
        for target, data in item.targets.items():
            if not callable(data):
                continue
            names = pde.data_arguments(data, target)
            for point in points:
                known: dict[str, Any] = coordinates(pde.axes, point) | numbers
                got = _number(data(**{n: known[n] for n in names}), target, item)
                for axis in pde.periodic_axes if POINT in names else set(pde.periodic_axes) & set(names):
                    low, high = pde.domain.bounds[axis]
                    moved = [np.where(np.array(pde.axes) == axis, x, point) for x in (low, high)]
                    places = [known | coordinates(pde.axes, p) for p in moved]
                    ends: list[Any] = [data(**{n: place[n] for n in names}) for place in places]
                    if abs(float(ends[0]) - float(ends[1])) > 1e-4 * max(1.0, abs(got)):
                        raise ValueError(
                            f"'{axis}' is periodic but the value of '{target}' on {item.on.label} differs between "
                            f"its ends: {float(ends[0]):.6g} and {float(ends[1]):.6g}"
                        )


def _number(result, target, item) -> float:
    if np.shape(result) != ():
        raise ValueError(
            f"the value of '{target}' on {item.on.label} must be one number at a point, got shape {np.shape(result)}"
        )
    if not np.isfinite(float(result)):
        raise ValueError(f"the value of '{target}' on {item.on.label} is {float(result)}; it must be finite")
    return float(result)


def _uses(pde, field):
    """All meanings that concern a field: in the interior, and in conditions."""
    interior = [m for t in pde.groups[INTERIOR].terms for m in t.meanings.values()]
    interior += [m for ms in (*pde.derived_meanings.values(), *pde.integral_meanings.values()) for m in ms.values()]
    outside = [
        (group, m)
        for group in pde.groups.values()
        if group.label != INTERIOR and not isinstance(group.source, Jump)
        for term in group.terms
        for m in term.meanings.values()
    ]
    return (
        [m for m in interior if getattr(m, "of", None) == field],
        [(g, m) for g, m in outside if getattr(m, "of", None) == field],
    )


def _order(meaning, axis: int) -> int:
    if not isinstance(meaning, Derivative):
        return 0
    if isinstance(meaning.partial, Laplacian):
        return 2 if axis in meaning.partial else 0
    return meaning.partial.count(axis)


def _observed(pde) -> bool:
    return any(isinstance(c, Observations) for c in pde.conditions)


def _missing_in_time(pde, field) -> str:
    if "t" not in pde.axes or "t" in pde.periodic_axes or _observed(pde):
        return ""
    axis = pde.axes.index("t")
    interior, outside = _uses(pde, field)
    order = max((_order(m, axis) for m in interior), default=0)
    given = {
        (tuple(piece.fixed.items()), m)
        for group, m in outside
        for piece in getattr(group.region, "pieces", ())
        if "t" in getattr(piece, "fixed", {})
    }
    if order <= len(given):
        return ""
    wanted = " and ".join(f"'{field}{'_' + 't' * k if k else ''}'" for k in range(order))
    return (
        f"'{field}' has time derivatives of order {order} but {len(given)} condition(s) in time: its values are not "
        f"determined. Give {wanted} at the initial time, as in value({field}=..., on=domain.at(t=0))"
    )


def _missing_in_space(pde, field) -> str:
    if _observed(pde):
        return ""
    interior, outside = _uses(pde, field)
    for axis in space(pde.axes):
        name = pde.axes[axis]
        order = max((_order(m, axis) for m in interior), default=0)
        if order < 2 or name in pde.periodic_axes:
            continue
        low, high = pde.domain.bounds[name]
        touched = any(
            not getattr(piece, "fixed", {}) or name in piece.fixed or piece.dim < pde.domain.dim - 1
            for group, _ in outside
            for piece in getattr(group.region, "pieces", ())
        )
        if not touched:
            return (
                f"'{field}' has derivatives of order {order} along '{name}' but no condition on its boundary: the "
                f"solution is not determined. Add value({field}=..., on=domain.boundary('{name}')), a flux or "
                f"periodic('{name}')"
            )
    return ""


def _free_constant(pde, field) -> str:
    interior, outside = _uses(pde, field)
    bare = Derivative(field, ())
    if bare in interior or any(m == bare for _, m in outside) or not interior:
        return ""
    return (
        f"only derivatives of '{field}' appear, in the equations and in the conditions: it is determined up to a "
        f"constant. Fix it at a point, as in value({field}=0.0, on=domain.at({pde.axes[0]}=..., ...))"
    )
