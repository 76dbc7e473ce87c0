"""Conditions that hold by construction: u(p) = lift(p) + vanish(p) * network(features(p)).

The lift takes the declared values on their regions, the factor is zero there. On faces of a box the lift is the
Boolean sum of interpolations axis by axis (transfinite interpolation; Gordon & Hall, 1973), on other regions it
weighs the data by inverse distances (Sukumar & Srivastava, CMAME 389, 2022). Periodic axes enter the network as
cosine and sine.
"""

import itertools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..nn._features import WindowedWaves
from ..nn._unknown import TrainableNumber
from ._condition import Value
from ._derivatives import Laplacian, derivatives
from ._domain import Region
from ._kinks import kink
from ._names import coordinates
from ._quantities import demands

# Jumps between the ends of a periodic axis that are larger than this, relative to the data, are no rounding errors.
SEAM = 1e-9
# Lines along each axis on which data are looked at.
LINES = 4
# The lift of values on faces is a sum over 3^n places.
MOST_AXES = 6


class ConstrainedFields(eqx.Module):
    """The fields of a PDE as a function of one point `(d,)` -> `(number of fields,)`; see `PDE.model`."""

    network: Callable
    unknown: dict[str, TrainableNumber]
    pde: Any = eqx.field(static=True)

    def __call__(self, point: Float[Array, " d"]) -> Float[Array, " m"]:
        # Which part it is has no derivative.
        part = self.pde.domain.part_at(jax.lax.stop_gradient(point)) if self.pde.parts > 1 else 0
        return self.in_part(part)(point)

    def in_part(self, part: Array | int) -> Callable:
        """The fields of the part of the domain with the number `part`, as a function of one point anywhere."""
        return lambda point: self._in_part(point, part)

    def _in_part(self, point, part):
        raw = jnp.ravel(self.network(features(self.pde, point)))
        raw = of_part(self.pde, raw, part)
        constraints = self.pde.constraints
        if isinstance(self.network, WindowedWaves) or not any(c.faces or c.regions for c in constraints):
            return raw
        numbers = self.pde.parameters(self)
        return jnp.stack([_constrained(c, point, raw[i], numbers) for i, c in enumerate(constraints)])


@dataclass(frozen=True)
class Face:
    """A declared value (order 0) or derivative (order 1) on the face where an axis has a fixed value."""

    axis: int
    at: float
    order: int
    data: Callable  # (point, numbers) -> value


@dataclass(frozen=True)
class Constraint:
    """What one field satisfies exactly: on faces of a box, or on regions by distance."""

    bounds: tuple[tuple[float, float], ...]
    faces: tuple[Face, ...] = ()
    regions: tuple[tuple[Region, Callable], ...] = ()


def part_ranges(pde) -> tuple[tuple[tuple[float, ...], ...], ...]:
    """The least and largest inputs of a network in each part of the domain."""
    lows, highs = [], []
    for part in pde.domain.parts.values():
        ends = [[], []]
        for axis, (low, high) in part.bounds.items():
            first, last = pde.domain.bounds[axis]
            periodic = axis in pde.periodic_axes
            for end, at in zip(ends, (low, high)):
                s = 2 * (at - first) / (last - first) - 1
                end += ([-1.0, -1.0] if end is ends[0] else [1.0, 1.0]) if periodic else [s]
        lows.append(tuple(ends[0]))
        highs.append(tuple(ends[1]))
    return tuple(lows), tuple(highs)


def of_part(pde, outputs: Array, part) -> Array:
    """The outputs that belong to one part of the domain, `(outputs, ...)` -> `(fields, ...)`."""
    if pde.parts == 1:
        return outputs
    # A product, since Taylor mode has no rule for indexing by numbers that are not known.
    by_part = outputs.reshape(pde.parts, len(pde.fields), *outputs.shape[1:])
    return jnp.tensordot(jax.nn.one_hot(part, pde.parts, dtype=outputs.dtype), by_part, axes=1)


def constrain(pde, network) -> ConstrainedFields:
    """`network` made to satisfy the exact conditions of `pde`, with its unknown parameters beside it."""
    unknown = {name: number.trainable() for name, number in pde.unknowns.items()}
    return ConstrainedFields(network, unknown, pde)


def features(pde, point) -> Float[Array, " k"]:
    """The inputs of a network: coordinates scaled to [-1, 1]; cosine and sine of periodic ones."""
    if not pde.periodic_axes:
        low, high = np.array([pde.domain.bounds[a] for a in pde.axes]).T
        return 2 * ((point - low.astype(point.dtype)) / (high - low).astype(point.dtype)) - 1
    out = []
    for i, axis in enumerate(pde.axes):
        low, high = pde.domain.bounds[axis]
        s = (point[i] - low) / (high - low)
        if axis in pde.periodic_axes:
            out += [jnp.cos(2 * jnp.pi * s), jnp.sin(2 * jnp.pi * s)]
        else:
            out.append(2 * s - 1)
    return jnp.stack(out)


def make_constraints(pde) -> tuple[Constraint, ...]:
    """For each field of `pde`, what `pde.exact` asks of it."""
    bounds = tuple(pde.domain.bounds[a] for a in pde.axes)
    by_field = {f: Constraint(bounds) for f in pde.fields}
    for value in pde.exact:
        for target, data in value.targets.items():
            field, order = _target(pde, target, value)
            c = by_field[field]
            read = _reader(pde, data, target)
            faces = [whole_face(pde, piece) for piece in value.on.pieces]
            if all(faces):
                more = tuple(Face(*face, order, read) for face in faces if face)
                c = Constraint(bounds, c.faces + more, c.regions)
            else:
                c = Constraint(bounds, c.faces, (*c.regions, (value.on, read)))
            by_field[field] = c
    return tuple(by_field.values())


def exact_values(pde) -> tuple[Value, ...]:
    """The declared values that `pde.model` satisfies by construction.

    By default those on whole faces of a box that agree where faces meet and are smooth enough along periodic axes;
    `exact=True` adds other regions.
    Raises ValueError where `exact=True` cannot be had.
    """
    chosen = []
    for value in pde.conditions:
        if not isinstance(value, Value) or value.exact is False:
            continue
        reason = _obstacle(pde, value) or _too_many(pde, [*chosen, value])
        if reason and value.exact:
            raise ValueError(f"the condition on {value.on.label} cannot hold exactly: {reason}")
        if not reason:
            chosen.append(value)
    chosen = [v for v in chosen if not _jumps_inside(pde, v)]
    chosen = [v for v in chosen if not _needs_missing_value(pde, v, chosen)]
    for value in list(chosen):
        if _disagrees(pde, value, chosen):
            chosen.remove(value)
    return tuple(v for v in chosen if not _needs_missing_value(pde, v, chosen))


def _target(pde, target: str, value: Value) -> tuple[str | None, int]:
    """The field and order (0: value, 1: derivative across the face) of a target; (None, 0) for others."""
    if target in pde.fields:
        return target, 0
    faces = [whole_face(pde, piece) for piece in value.on.pieces]
    if len(faces) == 1 and faces[0]:
        field, _, axis = target.rpartition("_")
        if field in pde.fields and axis == pde.axes[faces[0][0]]:
            return field, 1
    return None, 0


def whole_face(pde, piece) -> tuple[int, float] | None:
    """Axis and value of a whole face of the domain where one axis is at an end; None for other regions."""
    fixed = getattr(piece, "fixed", {})
    if len(fixed) != 1 or piece.dim != pde.domain.dim - 1:
        return None
    ((axis, at),) = fixed.items()
    if at not in pde.domain.bounds[axis]:
        return None
    if any(piece.bounds[a] != pde.domain.bounds[a] for a in pde.axes if a != axis):
        return None
    return pde.axes.index(axis), at


def _obstacle(pde, value: Value) -> str:
    faces = [whole_face(pde, piece) for piece in value.on.pieces]
    for target in value.targets:
        field, order = _target(pde, target, value)
        if field is None:
            return f"'{target}' is neither a field nor its derivative across a face of a box"
        if order == 0 and not all(faces):
            if not value.exact:
                return "it is not a face of a box"
            if not hasattr(value.on, "smooth_distance"):
                return "its distance function is not known"
        if pde.parts > 1 and callable(value.targets[target]) and not value.exact:
            return "its data may have kinks where parts of the domain meet"
        axis = _seam(pde, value, field, target)
        if axis and not value.exact:
            return f"its derivatives jump between the ends of the periodic axis {axis}"
    return ""


def _too_many(pde, chosen) -> str:
    """Interpolation between the faces of many axes costs too much."""
    faces = [whole_face(pde, piece) for value in chosen for piece in value.on.pieces]
    count = len({face[0] for face in faces if face})
    if count <= MOST_AXES:
        return ""
    return (
        f"interpolation between the faces of {count} axes takes the data at 3^{count} places; at most {MOST_AXES} axes "
        "can have faces with exact values. Leave out exact=True for a penalty, or take a domain with a distance "
        "function, such as a Ball"
    )


def _seam(pde, value: Value, field: str, target: str) -> str:
    """A periodic axis between whose ends the data of a value jump, or derivatives of lower order than those that the
    equations ask for, so that the lift would have no such derivative; empty where there is none.
    """
    if not callable(value.targets[target]):
        return ""
    read, numbers = _reader(pde, value.targets[target], target), _initial_numbers(pde)
    for axis in pde.periodic_axes:
        index = pde.axes.index(axis)
        order = order_along(pde, field, index)
        for piece in value.on.pieces:
            # Data that are a number have derivatives too.
            if (
                axis in piece.bounds
                and order
                and _jumps(pde, piece, index, order, lambda p: read(p, numbers) + 0 * p[0])
            ):
                return axis
    return ""


def _jumps_inside(pde, value: Value) -> bool:
    """Whether data of `value` jump on a face, or derivatives of lower order than those that the equations ask for: the
    lift would have such a derivative nowhere but there.
    """
    for target, data in value.targets.items():
        place = _kink(pde, value, target) if callable(data) else ""
        if place:
            message = f"the data of {target} on {value.on.label}, or their derivatives, jump near {place}"
            if value.exact:
                raise ValueError(f"{message}: they cannot hold exactly; leave out exact=True")
            warnings.warn(f"{message}: {value.on.label} is imposed by a penalty", stacklevel=2)
            return True
    return False


def _kink(pde, value: Value, target: str) -> str:
    """A place on a face where a target of `value` or one of those derivatives jumps; empty where there is none."""
    field, _ = _target(pde, target, value)
    assert field is not None, "others cannot hold exactly"
    read, numbers = _reader(pde, value.targets[target], target), _initial_numbers(pde)
    for piece in value.on.pieces:
        face = whole_face(pde, piece)
        for index, axis in enumerate(pde.axes):
            order = order_along(pde, field, index)
            if face is None or index == face[0] or order == 0:
                continue
            points = piece.sample(jax.random.key(0), LINES)
            place = kink(lambda p: read(p, numbers), points, index, pde.domain.bounds[axis], order)
            if place is not None:
                return f"{axis} = {place:.3g}"
    return ""


def order_along(pde, field: str, axis: int) -> int:
    """The highest order of derivatives of a field along an axis that the equations ask for."""
    meanings = (m for t in next(iter(pde.groups.values())).terms for m in t.meanings.values())
    partials = demands(pde, meanings).get(field, {})
    return max((p.count(axis) * (2 if isinstance(p, Laplacian) else 1) for p in partials), default=0)


def _jumps(pde, piece, index: int, order: int, data: Callable) -> bool:
    """Whether the data or one of their derivatives below `order` differ between the ends of an axis."""
    ends = pde.domain.bounds[pde.axes[index]]
    points = piece.sample(jax.random.key(0), 16)
    partials = [(index,) * n for n in range(order)]

    @jax.jit
    def at(end):
        return jax.vmap(lambda p: derivatives(data, p.at[index].set(end), partials))(points)

    low, high = (at(end) for end in ends)
    length = ends[1] - ends[0]
    scale = float(jnp.max(jnp.abs(jax.vmap(data)(points))))
    gaps = [float(jnp.max(jnp.abs(low[p] - high[p]))) * length ** len(p) for p in partials]
    return bool(max(gaps) > SEAM * (scale + np.finfo(float).tiny))


def _needs_missing_value(pde, value: Value, chosen) -> bool:
    """A derivative across a face is exact only together with the value there."""
    for target in value.targets:
        field, order = _target(pde, target, value)
        face = whole_face(pde, value.on.pieces[0])
        if order == 1 and not any(
            field in v.targets and face in [whole_face(pde, p) for p in v.on.pieces] for v in chosen
        ):
            return True
        if order == 1 and _opposite_is_fixed(pde, field, face, chosen):
            return True
    return False


def _opposite_is_fixed(pde, field, face, chosen) -> bool:
    axis, at = face
    return any(
        field in v.targets and other is not None and other[0] == axis and other[1] != at
        for v in chosen
        for other in (whole_face(pde, p) for p in v.on.pieces)
    )


def _disagrees(pde, value: Value, chosen) -> bool:
    """Whether the data of `value` contradict those of another condition where two faces meet."""
    for other in chosen:
        if other is value and len(value.on.pieces) < 2:
            continue
        gap = _largest_gap(pde, value, other)
        if gap > 1e-6:
            message = f"the values on {value.on.label} and on {other.on.label} differ by {gap:.2g} where they meet"
            if value.exact:
                raise ValueError(f"{message}; set exact=False on one of them")
            warnings.warn(f"{message}: {value.on.label} is imposed by a penalty", stacklevel=2)
            return True
    return False


def _largest_gap(pde, first: Value, second: Value) -> float:
    rng = np.random.default_rng(0)
    lows, highs = np.array([pde.domain.bounds[a] for a in pde.axes]).T
    numbers, gap = _initial_numbers(pde), 0.0
    for target in set(first.targets) & set(second.targets) & set(pde.fields):
        reads = [_reader(pde, v.targets[target], target) for v in (first, second)]
        for a in (whole_face(pde, p) for p in first.on.pieces):
            for b in (whole_face(pde, p) for p in second.on.pieces):
                if a is None or b is None or a[0] == b[0]:
                    continue
                points = rng.uniform(lows, highs, (16, len(lows)))
                points[:, a[0]], points[:, b[0]] = a[1], b[1]
                values = [np.array([float(read(p, numbers)) for p in points]) for read in reads]
                scale = max(1.0, *(np.abs(v).max() for v in values))
                gap = max(gap, float(np.abs(values[0] - values[1]).max() / scale))
    return gap


def _initial_numbers(pde) -> dict[str, Any]:
    return {n: getattr(v, "initial", v) for n, v in pde.numbers.items()}


def _reader(pde, data, target) -> Callable:
    """The data of a declared value as a function of a point and the numbers of the PDE."""
    if not callable(data):
        return lambda point, numbers: jnp.asarray(data, jnp.result_type(float))
    names = pde.data_arguments(data, target)

    def read(point, numbers):
        known = coordinates(pde.axes, point) | numbers
        return jnp.asarray(data(**{n: known[n] for n in names}))

    return read


def factors(pde, point: Float[Array, " d"]) -> Float[Array, " fields"]:
    """What the outputs of a network are multiplied by, for each field: zero where conditions hold exactly."""
    return jnp.stack([jnp.asarray(_factor(c, point), point.dtype) for c in pde.constraints])


def _constrained(c: Constraint, point, raw, numbers):
    if not (c.faces or c.regions):
        return raw
    lift = _lift_by_distance(c, point, numbers) if c.regions else _lift(c, numbers)(point)
    return lift + _factor(c, point) * raw


def _factor(c: Constraint, point):
    if c.regions:
        return _multiply(_distances(c, point))
    return _multiply([_vanishing(c, axis, point[axis]) for axis in sorted({f.axis for f in c.faces})])


def _sides(c: Constraint, axis: int):
    low, high = c.bounds[axis]
    of = [f for f in c.faces if f.axis == axis]
    return (
        next((f for f in of if f.at == low and f.order == 0), None),
        next((f for f in of if f.at == high and f.order == 0), None),
        next((f for f in of if f.order == 1), None),
    )


def _vanishing(c: Constraint, axis: int, x):
    low, high = c.bounds[axis]
    s = (x - low) / (high - low)
    lower, upper, slope = _sides(c, axis)
    if slope is not None:
        return s**2 if lower is not None else (1 - s) ** 2
    if lower is not None and upper is not None:
        return 4 * s * (1 - s)
    return s if lower is not None else 1 - s


def _lift(c: Constraint, numbers) -> Callable:
    """A function of a point that takes the data on all faces."""
    return _lift_of_values(c, numbers) if all(f.order == 0 for f in c.faces) else _lift_by_axis(c, numbers)


def _lift_of_values(c: Constraint, numbers) -> Callable:
    """The Boolean sum of interpolations along the axes: over all sets of axes, with the sign of their number, the
    interpolation along those. That is an evaluation of the data at 3^n - 1 places for n axes, done at once.
    """
    low, high = np.array(c.bounds).T
    sides = {axis: [f for f in _sides(c, axis)[:2] if f is not None] for axis in sorted({f.axis for f in c.faces})}
    places: dict[Callable, list] = {}
    for chosen in itertools.product(*[[None, *faces] for faces in sides.values()]):
        faces = [f for f in chosen if f is not None]
        if faces:
            places.setdefault(faces[0].data, []).append(faces)

    def lift(point):
        s = (point - low) / (high - low)
        total = jnp.zeros((), point.dtype)
        for data, sets in places.items():
            fixed, at, constant, slope = (np.zeros((len(sets), len(low))) for _ in range(4))
            constant[:] = 1.0
            for row, faces in enumerate(sets):
                for f in faces:
                    fixed[row, f.axis], at[row, f.axis] = 1, f.at
                    if len(sides[f.axis]) == 2:
                        lower = f.at == low[f.axis]
                        constant[row, f.axis], slope[row, f.axis] = float(lower), 1 - 2 * float(lower)
            signs = np.array([(-1.0) ** (len(faces) + 1) for faces in sets])
            weights = jnp.asarray(signs, point.dtype)
            for axis in sides:
                weights = weights * (constant[:, axis] + slope[:, axis] * s[axis])
            points = jnp.where(fixed == 1, jnp.asarray(at, point.dtype), point)
            total = total + jnp.sum(weights * jax.vmap(lambda p, read=data: read(p, numbers))(points))
        return total

    return lift


def _lift_by_axis(c: Constraint, numbers) -> Callable:
    """The same with derivatives across faces, corrected axis by axis."""

    def nothing(point):
        return jnp.zeros((), point.dtype)

    lift = nothing
    for axis in sorted({f.axis for f in c.faces}):
        lift = _corrected(lift, c, axis, numbers)
    return lift


def _corrected(lift, c: Constraint, axis: int, numbers) -> Callable:
    low, high = c.bounds[axis]
    lower, upper, slope = _sides(c, axis)
    single: Any = lower if lower is not None else upper

    def moved(point, x):
        return jnp.stack([jnp.asarray(x, point.dtype) if i == axis else point[i] for i in range(len(point))])

    def miss(face: Face, point):
        there = moved(point, face.at)
        return face.data(there, numbers) - lift(there)

    def miss_of_slope(face: Face, point):
        there = moved(point, face.at)
        direction = jnp.zeros_like(point).at[axis].set(1.0)
        return face.data(there, numbers) - jax.jvp(lift, (there,), (direction,))[1]

    def corrected(point):
        s = (point[axis] - low) / (high - low)
        value = lift(point)
        if slope is not None:
            return value + miss(single, point) + (point[axis] - slope.at) * miss_of_slope(slope, point)
        if lower is not None and upper is not None:
            return value + (1 - s) * miss(lower, point) + s * miss(upper, point)
        return value + miss(single, point)

    return corrected


def _distances(c: Constraint, point) -> list:
    """Functions that vanish on the regions and on the faces, relative to the size of the domain."""
    low, high = np.array(c.bounds).T
    size = float(np.max(high - low))
    if any(face.order == 1 for face in c.faces):
        raise ValueError("an exact derivative on a face cannot be joined with an exact value by distance")
    faces = [jnp.abs(point[face.axis] - face.at) / size for face in c.faces]
    return [region.smooth_distance(point) / size for region, _ in c.regions] + faces


def _lift_by_distance(c: Constraint, point, numbers):
    distances = _distances(c, point)
    reads = [read for _, read in c.regions] + [face.data for face in c.faces]
    weights = [_multiply(distances[:i] + distances[i + 1 :]) for i in range(len(distances))]
    total = sum(weights) + jnp.finfo(point.dtype).tiny
    return sum(w * read(point, numbers) for w, read in zip(weights, reads)) / total


def _multiply(factors):
    out = 1.0
    for f in factors:
        out = out * f
    return out
