"""Physics on operators: the residuals of equations on the grid of a model's output, as a loss."""

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from .._fit import fit
from ._differences import ORDER, GridAxis, whole_period
from ._domain import Box, nearest
from ._grid import closures, equations_of, needed, periods_of, with_faces, with_terms
from ._grid_terms import Evaluation, GridEquations, GridTerm, pointwise
from ._names import Derivative, Meaning, space
from ._pde import PDE
from ._staggered import Staggered, inner_part, sobolev

Names = str | Sequence[str | None]


def physics(
    equations: Any,
    coordinates: Mapping[str, Any] | None = None,
    *,
    outputs: Names = ("u",),
    inputs: Names | Mapping[str, Callable] = (),
    periodic: Collection[str] | Mapping[str, float] | None = None,
    order: int = ORDER,
    spectral: bool | None = None,
    conditions: bool | Collection[str] = True,
    labelled: bool = False,
    staggered: Callable | None = None,
    norm: float = 0,
    **parameters: Any,
) -> Callable:
    """A loss: the residuals of equations on the grid of an operator's output, `(model, batch) -> residuals by name`.

    The model maps one sample to fields on a grid, `(channels, *grid)` (or `(*grid)` where there is one). A batch is a
    tuple of its arguments, each with a leading axis of samples, and a target that is left out if `labelled`.
    Derivatives and residuals have the precision of the output, at least single.

    - `equations`: a `PDE` on a box, an equation, or a list of equations and `derived(...)`, as for `grid_residuals`,
      whose residuals these are.
    - `coordinates`: the points along each axis of the grid by name, in the order of the output's dimensions: an array
      or a function of the number of points. By default the axes of the PDE with equal steps from end to end (without
      the last end where periodic), for any resolution.
    - `outputs`: the fields that the output's channels are.
    - `inputs`: what the channels of the model's arguments are in the equations (fields, or parameters of the PDE), one
      argument after the other; None for a channel that they do not use. An argument is a number, k numbers `(k,)` or k
      fields `(k, *grid)`, where the grid may leave out the time `t`. Or a mapping of names to functions of the
      arguments of one sample, for anything else: `{"a": lambda a: jnp.exp(a[0])}`.
    - `periodic`, `order`, `spectral`: as for `grid_residuals`; the periods of a PDE's axes are those of its domain.
    - `conditions`: whether the values, fluxes and conditions of the PDE count too, or the names of those that do. They
      must lie on faces that the grid has.
    - `staggered`: for conservation laws whose coefficients jump. Along the space axes, derived quantities that are
      differentiated (the `q` of `q_x`) are then computed midway between points, from differences of neighbours, means
      of outputs, and `staggered(low, high)` of inputs, as in `harmonic_mean`: finite volumes, of second order. The
      equations hold at the points between the ends.
    - `norm`: for elliptic equations of second order: the Sobolev space in whose norm their residuals are measured, 0
      (as they are), -1 or -2, by the eigenvectors of the grid's Laplace operator, zero at ends that are not periodic.
      The mean square is then about that of the error's second derivatives, of its slope, or of itself: waves of all
      lengths are learned at once. The equations hold at the points between the ends of the space axes.
    - Further keywords: the numbers of parameters.

    A residual has the shape `(samples, *axes)` in the order of the PDE's axes, without those that a condition fixes.

    Raises ValueError for names that the equations do not know, for an output, an argument or a coordinate of another
    shape, and for conditions on faces that the grid does not have; TypeError for other objects.

    Physics-informed operators: Li et al., ACM/IMS Journal of Data Science 1(3), 2024 (arXiv:2111.03794).
    """
    if not norm <= 0:
        raise ValueError(f"physics: norm must be 0 or negative, got {norm}")
    reading = GridReading.of(equations, coordinates, outputs, inputs, periodic, labelled, parameters)

    def loss(model: Callable, batch: Any) -> dict[str, Array]:
        axes, values = reading.read(model, batch)
        bare = reading.bare
        faces, absent = with_faces(equations, (), axes)
        closing, first = closures(bare, axes, values)
        outputs = [Derivative(n, ()) for n in reading.outputs if n is not None]
        made = [t for t in closing if t.meanings["last"] in outputs]
        terms = (*bare.terms, *made, *_chosen(faces, absent, conditions))
        fourier = frozenset(a.name for a in axes if a.period is not None and a.uniform and spectral is not False)
        evaluate = Evaluation if staggered is None else functools.partial(Staggered, staggered, reading.given)
        evaluation = evaluate(with_terms(bare, terms), axes, values | first, order, fourier)
        cut = space(bare.axes) if staggered is not None or norm else ()
        out = {}
        for term in terms:
            residual = _on_face(evaluation, term)
            if cut and not term.face:
                residual = inner_part(residual, axes, cut)
                residual = sobolev(residual, axes, cut, norm) if norm else residual
            out[term.name] = residual
        return out

    return loss


def harmonic_mean(low: Array, high: Array) -> Array:
    """The coefficient of a flux between two points where it jumps midway: that of two resistances in series."""
    return 2 * low * high / (low + high)


class Field(eqx.Module):
    """A model that returns the same values whatever its arguments, `(channels, *grid)`: `refine` finds them."""

    values: Float[Array, "..."]

    def __call__(self, *arguments: Any) -> Float[Array, "..."]:
        return self.values


def refine(
    model: Any,
    loss: Callable,
    batch: Any,
    optimiser: optax.GradientTransformation | None = None,
    *,
    steps: int | None = None,
    seconds: float | None = None,
    every: int = 100,
    report: Callable | bool | None = False,
) -> tuple[Any, Any]:
    """A model improved for the instances of one batch, by a loss that needs no target, such as `physics(pde)`.

    `batch` is `(a[None],)` for one instance a. `optimiser` is L-BFGS by default (the loss does not change from step to
    step); the other arguments are those of `fit`, and so is what comes back: the model and its history. Where the
    network is to be left alone, `refine(Field(model(a)), ...)` improves the field that it gave, from point to point.

    Raises ValueError without a budget, and for a loss that is not finite.
    """
    optimiser = optax.lbfgs() if optimiser is None else optimiser
    arrays = jax.tree.map(jnp.asarray, batch)
    return fit(model, loss, lambda key: arrays, optimiser, steps=steps, seconds=seconds, every=every, report=report)


def as_names(names: Names) -> tuple[str | None, ...]:
    """A sequence of names, of which a string is one."""
    return (names,) if isinstance(names, str) else tuple(names)


def check_known(given: Collection[str], equations: Any, bare: GridEquations) -> None:
    """Raises ValueError for an input that the equations do not use: they would take a number in its place."""
    if isinstance(equations, PDE):
        known = [*equations.numbers, *equations.derived, *equations.fields]
    else:
        every = [t.meanings for t in bare.terms] + list(bare.derived_meanings.values())
        known = [
            n for ms in every for m in ms.values() for n in (getattr(m, "of", None), getattr(m, "name", None)) if n
        ]
    for name in given:
        if name not in known:
            raise ValueError(
                f"inputs: the equations know no '{name}'; {nearest(name, known)}they know "
                f"{', '.join(dict.fromkeys(known))}. Give None for a channel that they do not use"
            )


def _subject(meaning: Meaning) -> str:
    """The quantity or parameter that a name is about; empty for a coordinate."""
    return getattr(meaning, "of", "") or getattr(meaning, "name", "")


def read_equations(equations, outputs, inputs, names, parameters, caller: str):
    """The equations with outputs and inputs as their quantities, and the names of both. Raises ValueError for unknown
    names.
    """
    channels = as_names(outputs)
    slots = inputs if isinstance(inputs, Mapping) else as_names(inputs)
    made, given = [n for n in channels if n is not None], [n for n in slots if n is not None]
    for name in (*made, *given):
        if [*made, *given].count(name) > 1 or name in names:
            raise ValueError(f"outputs and inputs: '{name}' is named twice, or is an axis")
    hint = (
        f"Here the fields are the model's outputs ({', '.join(made)}) and inputs ({', '.join(given) or 'none'}), and a "
        f"parameter is a keyword of {caller}."
    )
    bare = equations_of(equations, [*made, *given], names, parameters, hint)
    check_known(given, equations, bare)
    fields = set(equations.fields) if isinstance(equations, PDE) else set()
    missing = sorted((needed(bare) | fields) - {*made, *given})
    if missing:
        raise ValueError(f"the equations need '{missing[0]}', which is no output or input. {hint}")
    return bare, channels, slots


def check_batch(batch: Any, labelled: bool) -> tuple:
    """The model's arguments in a batch. Raises TypeError for no tuple, ValueError for an empty one."""
    if not isinstance(batch, tuple | list):
        raise TypeError(f"expected a batch that is a tuple of the model's arguments, got {type(batch).__name__}")
    arguments = jax.tree.map(jnp.asarray, tuple(batch[:-1] if labelled else batch))
    sizes = {a.shape[:1] for a in jax.tree.leaves(arguments)}
    if len(sizes) != 1 or sizes & {(), (0,)}:
        raise ValueError(
            f"the arguments must have one leading axis of samples, got lengths {sorted(sizes)}"
            f"{' without the target' if labelled else '; pass labelled=True where the last entry is a target'}"
        )
    return arguments


@dataclass(frozen=True)
class GridReading:
    """What the arrays of a batch and of a model's output are in the equations."""

    bare: GridEquations
    coordinates: Mapping[str, Any]
    periods: Mapping[str, float | None]
    outputs: tuple[str | None, ...]
    inputs: tuple[str | None, ...] | Mapping[str, Callable]
    labelled: bool

    @classmethod
    def of(cls, equations, coordinates, outputs, inputs, periodic, labelled, parameters) -> "GridReading":
        """Reads the arguments of `physics`."""
        if isinstance(equations, PDE) and not isinstance(equations.domain, Box):
            raise ValueError(
                f"a grid needs a Box, the domain of the PDE is a {type(equations.domain).__name__}; "
                "use physics_at_points"
            )
        if coordinates is None and not isinstance(equations, PDE):
            raise ValueError("equations without a PDE need coordinates, as in physics(equation, {'x': x, 'y': y})")
        names = equations.axes if isinstance(equations, PDE) else tuple(coordinates or {})
        periods = periods_of(equations, names, periodic)
        if coordinates is None:
            bounds = equations.domain.bounds
            coordinates = {a: functools.partial(_even, *bounds[a], a not in periods) for a in names}
        if set(coordinates) != set(names):
            raise ValueError(f"coordinates: expected the axes {', '.join(names)}, got {', '.join(coordinates)}")
        bare, channels, slots = read_equations(equations, outputs, inputs, names, parameters, "physics")
        reading = cls(bare, dict(coordinates), periods, channels, slots, labelled)
        for name, points in coordinates.items():
            if not callable(points):
                reading.axis(name, len(np.asarray(points)))
        return reading

    @property
    def given(self) -> frozenset[str]:
        """The names of the inputs."""
        return frozenset(n for n in self.inputs if n is not None)

    def axis(self, name: str, n: int) -> GridAxis:
        """The axis of a number of points. Raises ValueError where there are others."""
        given = self.coordinates[name]
        points = np.asarray(given(n) if callable(given) else given)
        if points.shape != (n,) or points.dtype.kind not in "fiu":
            raise ValueError(
                f"the output of the model has {n} points along '{name}', but the coordinates are of shape "
                f"{points.shape} and type {points.dtype}; the output's dimensions must be {', '.join(self.coordinates)}"
            )
        if name not in self.periods:
            return GridAxis(name, points)
        period = self.periods[name]
        return GridAxis(name, points, whole_period(points) if period is None else period)

    def read(self, model: Callable, batch: Any) -> tuple[tuple[GridAxis, ...], dict[str, Array]]:
        """The axes of the model's output, and every named array as `(samples, *axes)` in the order of the equations."""
        arguments = check_batch(batch, self.labelled)
        output = jax.vmap(model)(*arguments)
        dimensions = len(self.coordinates)
        if len(self.outputs) == 1 and jnp.ndim(output) == dimensions + 1:
            output = output[:, None]
        if jnp.ndim(output) != dimensions + 2 or output.shape[1] != len(self.outputs):
            raise ValueError(
                f"expected an output of shape ({len(self.outputs)}, {', '.join(self.coordinates)}) with the channels "
                f"{', '.join(map(str, self.outputs))}, the model returned {jnp.shape(output)[1:]} for a sample"
            )
        # Half precision does not hold differences of neighbours.
        dtype = jnp.promote_types(output.dtype, jnp.float32)
        grid = dict(zip(self.coordinates, output.shape[2:]))
        values = {n: output[:, i] for i, n in enumerate(self.outputs) if n is not None} | self._inputs(arguments)
        axes = tuple(self.axis(a, grid[a]) for a in self.bare.axes)
        return axes, {n: self._arranged(n, jnp.asarray(v, dtype), grid) for n, v in values.items()}

    def _inputs(self, arguments) -> dict[str, Array]:
        if isinstance(self.inputs, Mapping):
            return {n: jax.vmap(function)(*arguments) for n, function in self.inputs.items()}
        if not self.inputs:
            return {}
        shapes = [jnp.shape(a)[1:] for a in arguments]
        counts = [s[0] if s else 1 for s in shapes]
        if sum(counts) != len(self.inputs):
            raise ValueError(
                f"inputs names {len(self.inputs)} channels ({', '.join(map(str, self.inputs))}), but the arguments "
                f"of the model have {sum(counts)}, in shapes {', '.join(map(str, shapes))}, channels first; give "
                "None for those that the equations do not use, or a mapping of names to functions of the arguments"
            )
        channels = [a[:, i] if s else a for a, s, k in zip(arguments, shapes, counts) for i in range(k)]
        return {n: c for n, c in zip(self.inputs, channels) if n is not None}

    def _arranged(self, name: str, array: Array, grid: Mapping[str, int]) -> Array:
        every = tuple(grid)
        for names in (every, tuple(every[i] for i in space(every)), ()):
            if array.shape[1:] == tuple(grid[a] for a in names):
                whole = array.reshape(array.shape[0], *(grid[a] if a in names else 1 for a in every))
                return jnp.transpose(whole, (0, *(1 + every.index(a) for a in self.bare.axes)))
        raise ValueError(
            f"'{name}' has the shape {array.shape[1:]} for a sample, the output's grid is "
            f"{', '.join(f'{a}: {n}' for a, n in grid.items())}; give it on that grid (or without t), or as a number, "
            f"by a function: inputs={{'{name}': lambda ...: ...}}"
        )


def _even(low: float, high: float, ends: bool, n: int) -> np.ndarray:
    return np.linspace(low, high, n, endpoint=ends)


def _chosen(faces: Sequence[GridTerm], absent: Sequence[str], conditions) -> list[GridTerm]:
    """The conditions that are asked for. Raises ValueError for those that are not on the grid."""
    if conditions is False:
        return []
    if conditions is True:
        if absent:
            raise ValueError(
                f"the grid has no points of the conditions {', '.join(absent)}: choose coordinates that reach them, "
                "conditions=False (a model that satisfies them), or the names of those to be trained"
            )
        return list(faces)
    out = []
    for name in as_names(conditions):
        found = [t for t in faces if t.name == name or t.name.startswith(f"{name}: ")]
        if not found:
            have = [t.name for t in faces]
            raise ValueError(f"conditions: no '{name}' on the grid; there are {', '.join(have) or 'none'}")
        out += found
    return out


def _on_face(evaluation: Evaluation, term: GridTerm) -> Array:
    """A residual at the points where it holds, without the axes that are constant there."""
    d = len(evaluation.axes)

    def cut(array):
        for axis, index in term.face.items() if array.ndim else ():
            place = array.ndim - d + axis
            size = array.shape[place]
            array = jax.lax.slice_in_dim(array, index if size > 1 else 0, index + 1 if size > 1 else 1, axis=place)
        return array

    arguments = {n: cut(a) for n, a in evaluation.arguments(term).items()}
    shape = jnp.broadcast_shapes(*(a.shape for a in arguments.values()), (1,) * d)
    out = pointwise(term.function, arguments, shape, evaluation.dtype)
    return jnp.squeeze(out, tuple(out.ndim - d + axis for axis in term.face))
