"""Physics on operators that are evaluated at points, `model(a, point)`: derivatives by automatic differentiation."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._fit import Stream
from .._loss import Groups
from ._condition import Observations
from ._derivatives import derivatives
from ._differences import GridAxis
from ._domain import nearest
from ._grid_terms import GridEquations, GridTerm
from ._groups import Joined
from ._names import Coordinate, Derivative, Meaning, Normal, Parameter, Point, space
from ._pde import INTERIOR, PDE
from ._physics import Names, check_batch, read_equations

Inputs = Mapping[str, Callable]


def physics_at_points(
    equations: Any,
    axes: Sequence[str] | None = None,
    *,
    outputs: Names = ("u",),
    inputs: Names | Inputs = (),
    sensors: Mapping[str, Any] | None = None,
    **parameters: Any,
) -> Callable:
    """A loss: the residuals of equations at points, for a model `(*arguments, point) -> value` or `(channels,)`, such
    as a DeepONet; derivatives by the planner that PINNs use.

    A batch is `Groups` of tuples `(*arguments, points)`, one for each region as `with_points` draws them: the
    arguments with a leading axis of samples, and points `(samples, n, d)`, or `(n, d)` for all samples. The groups are
    those of the PDE: "interior", and one for each condition.

    - `equations`: a `PDE`, an equation, or a list of equations and `derived(...)`. Axes that are periodic are the
      model's matter: it is given the plain coordinates.
    - `axes`: the names of a point's coordinates where there is no PDE.
    - `outputs`: the fields that the model's values are.
    - `inputs`: what the model's arguments are in the equations and conditions (an initial value, a source, a parameter
      per sample), as for `physics`: names of their channels, which are functions on `sensors`, or numbers; or a mapping
      of names to functions `(*arguments, point) -> number`, for anything else.
    - `sensors`: the places at which the inputs are known, an array for each axis that they depend on, in the order of
      their dimensions. Between them they are linear (and so along the last piece beyond an end); for derivatives of
      inputs give a smooth function.
    - Further keywords: the numbers of parameters.

    Residuals have the shape `(samples, n)`.

    Raises ValueError for names that the equations do not know, for groups that they do not have, and for arguments or
    values of another shape; TypeError for other objects.

    Physics-informed DeepONet: Wang, Wang & Perdikaris, Science Advances 7, eabi8605 (2021).
    """
    if axes is None and not isinstance(equations, PDE):
        raise ValueError('equations without a PDE need axes, as in physics_at_points(equation, ("x", "y"))')
    names = equations.axes if isinstance(equations, PDE) else tuple(axes or ())
    bare, channels, slots = read_equations(equations, outputs, inputs, names, parameters, "physics_at_points")
    places = _sensors(sensors or {}, names)
    groups = _groups(equations, bare)

    def loss(model: Callable, batch: Any) -> dict[str, Array]:
        if not isinstance(batch, Mapping):
            raise TypeError(f"expected Groups of (*arguments, points), got {type(batch).__name__}; see with_points")
        out: dict[str, Array] = {}
        for label, (*arguments, points) in batch.items():
            if label not in groups:
                raise ValueError(f"no group '{label}'; {nearest(label, groups)}there are {', '.join(groups)}")
            region, terms = groups[label]
            check_batch(arguments, False)
            _check_points(points, arguments, names)
            functions = slots if isinstance(slots, Mapping) else _interpolators(slots, arguments, places)
            fields = functools.partial(_values, model, channels)
            residuals = functools.partial(_residuals, bare, channels, fields, functions, terms)
            normals = _normals(region, terms, points)
            each = jax.vmap(residuals, (0, 0, None))
            out |= jax.vmap(each, (0 if points.ndim == 3 else None,) * 2 + (0,))(points, normals, tuple(arguments))
        return out

    return loss


def with_points(
    data: Any, pde: PDE, n: int = 1024, boundary: int | None = None, *, shared: bool = False, key: Array | None = None
) -> Any:
    """Batches for `physics_at_points`, from batches of the model's arguments `(a, ...)` in `data`: a function of a key,
    or an iterable.

    Each sample gets `n` random points in the interior and `boundary` (by default n // 8, at least 64) on the region of
    each condition, drawn anew for every batch; `shared` gives all samples of a batch the same ones, which costs a
    DeepONet's trunk once. `key` is that of the points where `data` is an iterable.

    Raises TypeError for other data and ValueError unless n > 0.
    """
    edge = max(64, n // 8) if boundary is None else boundary
    if n < 1 or edge < 1:
        raise ValueError(f"with_points: n and boundary must be above 0, got {n} and {boundary}")
    groups = [g for g in pde.groups.values() if not isinstance(g.region, Observations)]

    def add(arguments, key) -> Groups:
        arguments = check_batch(arguments, False)
        samples = jnp.shape(jax.tree.leaves(arguments)[0])[0]

        def points(group, key):
            draw = functools.partial(pde.draw, group, n if group.label == INTERIOR else edge)
            return draw(key) if shared else jax.vmap(draw)(jax.random.split(key, samples))

        return Groups({g.label: (*arguments, points(g, jax.random.fold_in(key, i))) for i, g in enumerate(groups)})

    if callable(data) and not isinstance(data, Stream):
        return lambda key: add(data(jax.random.fold_in(key, 0)), jax.random.fold_in(key, 1))
    if not isinstance(data, Iterable):
        raise TypeError(f"with_points: expected a function key -> batch or an iterable, got {type(data).__name__}")
    start, add = jax.random.key(0) if key is None else key, jax.jit(add)
    return Joined({"data": data}, lambda step, parts: add(tuple(parts["data"]), jax.random.fold_in(start, step)))


def _groups(equations, bare: GridEquations) -> dict[str, tuple[Any, tuple[GridTerm, ...]]]:
    if not isinstance(equations, PDE):
        return {INTERIOR: (None, bare.terms)}
    return {
        g.label: (g.region, tuple(GridTerm(t.name, t.function, t.meanings) for t in g.terms))
        for g in equations.groups.values()
        if not isinstance(g.region, Observations)
    }


def _check_points(points, arguments, names) -> None:
    samples = jnp.shape(jax.tree.leaves(arguments)[0])[0]
    if points.ndim not in (2, 3) or points.shape[-1] != len(names) or (points.ndim == 3 and len(points) != samples):
        raise ValueError(
            f"expected points of shape ({samples}, n, {len(names)}) or (n, {len(names)}) with the coordinates "
            f"{', '.join(names)}, got {points.shape}"
        )


def _normals(region, terms, points: Array) -> Array:
    if not any(isinstance(m, Normal) for t in terms for m in t.meanings.values()):
        return jnp.zeros_like(points)
    return region.normal(points.reshape(-1, points.shape[-1])).reshape(points.shape)


def _values(model, channels, arguments, point) -> Float[Array, " m"]:
    """The model's values at a point."""
    values = jnp.ravel(model(*arguments, point))
    if values.shape != (len(channels),):
        raise ValueError(
            f"the model returned {values.size} numbers at a point, expected {len(channels)}: "
            f"{', '.join(map(str, channels))}"
        )
    return values


def _residuals(bare, channels, fields, functions, terms, point, normal, arguments) -> dict[str, Array]:
    """The residual of every term at one point of one sample."""
    given = {n: functools.partial(_number, f, n, arguments) for n, f in functions.items()}
    view = AtPoint(bare, channels, functools.partial(fields, arguments), given)
    meanings = {n: m for t in terms for n, m in t.meanings.items()}
    values = view.read(meanings, point, normal)
    return {t.name: jnp.asarray(t.function(**{n: values[n] for n in t.meanings}), point.dtype) for t in terms}


def _number(function, name, arguments, point) -> Array:
    value = jnp.asarray(function(*arguments, point), point.dtype)
    if value.shape != ():
        raise ValueError(f"the input '{name}' must be one number at a point, its function returned {value.shape}")
    return value


class AtPoint:
    """What names stand for at a point, where `fields` gives the outputs called `channels` and `given` the inputs."""

    def __init__(self, equations: GridEquations, channels, fields: Callable, given: Mapping[str, Callable]):
        self.equations, self.channels, self.fields, self.given = equations, channels, fields, given

    def read(self, meanings: Mapping[str, Meaning], point: Array, normal: Array | None = None) -> dict[str, Any]:
        """The number of every name, the derivatives of all outputs in one sweep."""
        along = space(self.equations.axes)
        wanted: dict[str, dict] = {}
        for meaning in meanings.values():
            if isinstance(meaning, Derivative):
                wanted.setdefault(meaning.of, {})[meaning.partial] = None
            elif isinstance(meaning, Normal):
                wanted.setdefault(meaning.of, {}).update({(i,): None for i in along})
        found = self._quantities(wanted, point)

        def one(meaning: Meaning):
            match meaning:
                case Coordinate(index):
                    return point[index]
                case Point():
                    return point
                case Parameter(name):
                    return self.given[name](point) if name in self.given else self.equations.parameters[name]
                case Normal(of):
                    assert normal is not None
                    return sum(normal[i] * found[of][(i,)] for i in along)
                case Derivative(of, partial):
                    return found[of][partial]

        return {name: one(meaning) for name, meaning in meanings.items()}

    def _quantities(self, wanted, point) -> dict[str, dict]:
        outputs = [n for n in wanted if n in self.channels]
        partials = dict.fromkeys(p for n in outputs for p in wanted[n])
        sweep = derivatives(self.fields, point, partials) if partials else {}
        found = {n: {p: v[self.channels.index(n)] for p, v in sweep.items()} for n in outputs}
        for name in wanted:
            if name not in found:
                function = self.given.get(name) or functools.partial(self._derived, name)
                found[name] = derivatives(function, point, wanted[name])
        return found

    def _derived(self, name: str, point) -> Array:
        values = self.read(self.equations.derived_meanings[name], point)
        return jnp.asarray(self.equations.derived[name](**values), point.dtype)


# Inputs that are known at sensors.


def _sensors(sensors: Mapping[str, Any], names) -> dict[str, tuple[int, np.ndarray]]:
    """For every axis of the sensors, its number and the places. Raises ValueError for an axis that does not exist."""
    out = {}
    for name, points in sensors.items():
        if name not in names:
            raise ValueError(f"sensors: no axis '{name}'; the axes are {', '.join(names)}")
        points = np.asarray(points)
        if len(GridAxis(name, points).points) < 2:
            raise ValueError(f"sensors: expected 2 or more places along '{name}', got {len(points)}")
        out[name] = (names.index(name), points)
    return out


def _interpolators(slots, arguments, places) -> Inputs:
    """A function `(*arguments, point) -> number` for each named channel of the arguments."""
    if not slots:
        return {}
    grid = tuple(len(points) for _, points in places.values())
    kinds = []
    for position, array in enumerate(arguments):
        shape = jnp.shape(array)[1:]
        if grid and shape == grid or not shape:
            kinds.append((position, None))
        elif len(shape) == 1 or (grid and shape[1:] == grid):
            kinds += [(position, i) for i in range(shape[0])]
        else:
            raise ValueError(
                f"argument {position + 1} of the model has the shape {shape} for a sample, expected numbers (k,) or "
                f"functions on the sensors, (k, {', '.join(map(str, grid)) or '...'}); give a mapping of names to "
                "functions of the arguments and a point for anything else"
            )
    if len(kinds) != len(slots):
        raise ValueError(
            f"inputs names {len(slots)} channels ({', '.join(map(str, slots))}), but the arguments of the model have "
            f"{len(kinds)}; give None for those that the equations do not use, sensors={{...}} for functions, or a "
            "mapping of names to functions of the arguments and a point"
        )
    return {n: functools.partial(_channel, places, *kind) for n, kind in zip(slots, kinds) if n is not None}


def _channel(places, position, channel, *arguments_and_point) -> Array:
    *arguments, point = arguments_and_point
    values = arguments[position] if channel is None else arguments[position][channel]
    if jnp.ndim(values):
        for index, points in places.values():
            values = _linear(values, points, point[index])
    return values


def _linear(values: Array, points: np.ndarray, place: Array) -> Array:
    """Linear interpolation along the first axis, by operations that the derivative planner knows."""
    if points[0] > points[-1]:
        values, points = values[::-1], points[::-1]
    ends = jnp.asarray(points, place.dtype)
    left = jnp.sum(ends[1:-1] <= place)
    share = (place - ends[left]) / (ends[left + 1] - ends[left])
    return values[left] * (1 - share) + values[left + 1] * share
