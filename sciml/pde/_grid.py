"""Residuals of equations on stored grids: the names of a data set read as those of a problem."""

import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from .._precision import double_precision
from ..nn._unknown import Unknown
from ._condition import Derived, Observations
from ._differences import ORDER, GridAxis, whole_period
from ._domain import Box, nearest
from ._grid_terms import Assessment, GridEquations, GridTerm, assess
from ._names import Derivative, Normal, Parameter, Vocabulary, arguments
from ._pde import INTERIOR, PDE

ALIASES = (("t", "time"), ("lat", "latitude"), ("lon", "longitude"))
BATCH = {"sample", "samples", "member", "number", "ensemble", "realization", "trajectory", "batch", "n"}
TOLERANCE = 0.01
# Points evaluated at once, of all dimensions together.
BLOCK = 2**21
HINT = (
    "Here the fields are the variables of the data set: rename={...} gives them other names, and a parameter is a "
    "keyword of grid_residuals."
)


def grid_residuals(
    equations: Any,
    fields: Any,
    *,
    rename: Mapping[str, str] | None = None,
    periodic: Collection[str] | Mapping[str, float] | None = None,
    axes: Sequence[str] | None = None,
    order: int = ORDER,
    spectral: bool | None = None,
    tolerance: float = TOLERANCE,
    **parameters: Any,
) -> Any:
    """The residuals of equations on the grid of an xarray Dataset, by the very functions that a `PDE` trains with.

    **Arguments:** `equations` is a `PDE`, an equation, or a list of equations and `derived(...)`. Their argument names
    are variables of `fields`, derivatives of those (`u_xx`, `laplacian_u`), derived quantities, coordinates and
    parameters. A variable that has the name of a parameter stands for it (a coefficient `a(x, y)`, a viscosity per
    sample). `rename` maps names of `fields` to those of the equations (`time` is read as `t` without). `periodic`
    names the periodic axes, or maps them to their periods; by default those of the `PDE`, or with the attribute
    `boundary="periodic"` or `periodic=True`. `axes` names the coordinates to differentiate along, where no `PDE`
    does; other dimensions (samples, members) are a batch. `order` and `spectral` are those of `grid_derivative`.
    Dates are read as seconds since the first.

    Returns a Dataset in float64 with a variable for each equation, and for each value, flux and condition on a face of
    a box that the grid has. Where a stencil meets NaN the residual is NaN. Their attributes: `rms`; `relative`, over
    the root mean square of the `largest_term` (the part of the residual that vanishes with an argument); `floor`, what
    the derivatives' error (what every second point changes) and the rounding of the data explain of it; and
    `verdict`: "yes" where `relative` is within `tolerance`, "no" where it is above that and clearly above the floor,
    else "undecided".

    Raises ValueError for a name that neither the data set nor the equations know, and for too few points; TypeError for
    other objects.
    """
    import xarray as xr

    grid = read_grid(equations, fields, rename, periodic, axes, order, spectral, parameters)
    found = grid.evaluate(slice(None))
    out = {}
    for term in grid.equations.terms:
        assessment = Assessment(term.name, tolerance)
        assessment.add(found[term.name], lambda index: {})
        dims = (*grid.batch, *grid.equations.axes)
        values = xr.DataArray(np.asarray(found[term.name]["residual"]), dims=dims[-found[term.name]["residual"].ndim :])
        values = values.isel({grid.equations.axes[i]: 0 for i in term.face})
        out[term.name] = values.assign_attrs(
            rms=assessment.rms,
            relative=assessment.relative,
            floor=assessment.floor,
            largest_term=assessment.largest_term,
            verdict=assessment.verdict,
        )
    coords = {a.name: a.points for a in grid.axes} | {b: grid.fields[b] for b in grid.batch if b in grid.fields.coords}
    return xr.Dataset(out, coords=coords, attrs={"derivatives": grid.treatment(), "not checked": grid.skipped})


def assess_grid(read: Callable[[dict[str, slice]], Any], sizes: Mapping[str, int], batch: Sequence[str], **options):
    """Assessments of a data set of any size, by name: sample by sample, in blocks of the first axis where it is long.

    `read` gives the xarray Dataset of a selection of the `batch` dimensions, whose `sizes` are given; `options` are the
    arguments of `read_grid` after `fields`, and `tolerance`. Returns the assessments and the last grid.
    """
    tolerance = options.pop("tolerance", TOLERANCE)
    totals: dict[str, Assessment] = {}
    grid, compiled = None, {}
    for number in np.ndindex(*(sizes[b] for b in batch)):
        sample = dict(zip(batch, number))
        grid = read_grid(fields=read({b: slice(i, i + 1) for b, i in sample.items()}), **options)
        for core in grid.blocks():
            found = grid.evaluate(core, compiled)
            for term in grid.equations.terms:
                if _on_core(term, core, len(grid.axes[0].points)):
                    place = functools.partial(grid.place, term, core, sample)
                    totals.setdefault(term.name, Assessment(term.name, tolerance)).add(found[term.name], place)
    return totals, grid


def _on_core(term: GridTerm, core: slice, n: int) -> bool:
    start, stop, _ = core.indices(n)
    return start <= term.face.get(0, start) < stop


@dataclass(frozen=True)
class Grid:
    """A data set read as the arrays of equations."""

    equations: GridEquations
    axes: tuple[GridAxis, ...]
    batch: tuple[str, ...]
    fields: Any
    values: Mapping[str, np.ndarray]
    noise: Mapping[str, np.ndarray]
    order: int
    spectral: frozenset
    mask: np.ndarray | None
    skipped: str

    def evaluate(self, core: slice, compiled: dict | None = None) -> dict[str, dict[str, Any]]:
        """What `assess` finds for a range of the first axis, in double precision. `compiled` keeps the programs, for
        samples on the same grid.
        """
        n = len(self.axes[0].points)
        start, stop, _ = core.indices(n)
        low, high = (0, n) if stop - start == n else (max(0, start - self._margin), min(n, stop + self._margin))
        if high - low == n:
            low, high, axes = 0, n, self.axes
        else:
            axes = (GridAxis(self.axes[0].name, self.axes[0].points[low:high]), *self.axes[1:])
        cut, inner = slice(low, high), slice(start - low, stop - low)
        terms = tuple(
            GridTerm(
                t.name, t.function, t.meanings, dict(t.face) | ({0: t.face[0] - low} if 0 in t.face else {}), t.normal
            )
            for t in self.equations.terms
            if low <= t.face.get(0, low) < high and _on_core(t, core, n)
        )
        inner_terms = tuple(t for t in terms if 0 not in t.face)
        edge_terms = tuple(t for t in terms if 0 in t.face)
        out = {}
        with double_precision():
            values = {k: self._cut(v, cut) for k, v in self.values.items()}
            noise = {k: self._cut(v, cut) for k, v in self.noise.items()}
            mask = None if self.mask is None else self._cut(self.mask, cut)
            # On a face of the first axis the residual is one entry of it.
            for group, part in ((inner_terms, inner), (edge_terms, slice(None))):
                if group:
                    run = self._program(group, axes, part, {} if compiled is None else compiled)
                    out |= jax.device_get(run(values, noise, mask))
        return out

    def _program(self, terms, axes, part: slice, compiled: dict) -> Callable:
        faces = tuple((t.name, *t.face.items()) for t in terms)
        places = tuple((a.points.tobytes(), a.period) for a in axes)
        key = (faces, places, self.spectral, part.start, part.stop)
        if key not in compiled:
            equations = with_terms(self.equations, terms)
            compiled[key] = jax.jit(functools.partial(assess, equations, axes, self.order, self.spectral, part))
        return compiled[key]

    def _cut(self, array: np.ndarray, cut: slice) -> np.ndarray:
        place = array.ndim - len(self.axes)
        return array if array.shape[place] == 1 else array[(slice(None),) * place + (cut,)]

    @property
    def _margin(self) -> int:
        """More points than the stencils of all derived quantities reach, so that blocks give what the whole gives."""
        return (self.order + 6) * (2 + len(self.equations.derived))

    def blocks(self) -> Iterator[slice]:
        """Ranges of the first axis of which each has a bounded number of points."""
        n = len(self.axes[0].points)
        rest = max(1, int(np.prod([len(a.points) for a in self.axes[1:]])))
        size = max(BLOCK // rest, 2 * self._margin)
        if self.axes[0].period is not None or size >= n:
            yield slice(0, n)
            return
        for start in range(0, n, size):
            yield slice(start, min(n, start + size))

    def place(self, term: GridTerm, core: slice, sample: Mapping[str, int], index: tuple[int, ...]) -> dict[str, Any]:
        """The sample and the coordinates of an index of a residual."""
        start = core.indices(len(self.axes[0].points))[0]
        found: dict[str, Any] = dict(sample)
        for i, (axis, k) in enumerate(zip(self.axes, index[-len(self.axes) :])):
            k = term.face[i] if i in term.face else k + (start if i == 0 else 0)
            found[axis.name] = float(axis.points[k])
        return found

    def treatment(self) -> str:
        """How each axis is differentiated, in words."""

        def one(axis):
            if axis.name in self.spectral:
                return f"{axis.name}: spectral"
            kind = "periodic differences" if axis.period is not None else "differences"
            return f"{axis.name}: {kind} of order {min(self.order, max(1, len(axis.points) - 1))}"

        return ", ".join(one(a) for a in self.axes if len(a.points) > 1)


def with_terms(equations: GridEquations, terms) -> GridEquations:
    """The same quantities with other terms."""
    return GridEquations(equations.axes, terms, equations.derived, equations.derived_meanings, equations.parameters)


def read_grid(equations, fields, rename, periodic, axes, order, spectral, parameters) -> Grid:
    """Finds what the equations name in an xarray Dataset. Raises ValueError for what is not there."""
    if hasattr(fields, "to_dataset") and not hasattr(fields, "data_vars"):
        fields = fields.to_dataset(name=fields.name or "u")
    if not hasattr(fields, "data_vars"):
        raise TypeError(f"the fields must be an xarray Dataset, got {type(fields).__name__}")
    unknown = [n for n in rename or {} if n not in fields.variables and n not in fields.dims]
    if unknown:
        known = [str(n) for n in (*fields.variables, *fields.dims)]
        raise ValueError(
            f"rename: no variable or dimension '{unknown[0]}'; there are {', '.join(dict.fromkeys(known))}"
        )
    fields = fields.rename(dict(rename or {}))
    names = _axis_names(equations, fields, axes)
    aliases = _aliases(names, fields, _all_arguments(equations))
    fields, names = fields.rename(aliases), tuple(aliases.get(a, a) for a in names)
    bare = equations_of(equations, [str(v) for v in fields.data_vars], names, parameters, HINT)
    stored = needed(bare)
    missing = sorted(n for n in stored if n not in fields.data_vars)
    if missing:
        known = [str(v) for v in fields.data_vars]
        raise ValueError(
            f"the data set has no variable '{missing[0]}', which the equations need; {nearest(missing[0], known)}its "
            f"variables are {', '.join(known)}. Give rename={{'...': '{missing[0]}'}} where it has another name"
        )
    fields = _with_axes(fields, names)
    used = [*sorted(stored), *(n for n in bare.parameters if n in fields.data_vars)]
    used += [n for n in _coefficients(bare) if n in fields.data_vars]
    batch = tuple(dict.fromkeys(str(d) for n in used for d in fields[n].dims if d not in names))
    values = {n: _array(fields[n], batch, names) for n in used}
    holes = any(not np.isfinite(v).all() for v in values.values())
    periods = _periods(equations, fields, names, periodic)
    grid_axes = tuple(_grid_axis(fields, n, periods, [values[v] for v in sorted(stored)], names) for n in names)
    fourier = {a.name for a in grid_axes if a.period is not None and a.uniform and not holes}
    terms, skipped = with_faces(equations, bare.terms, grid_axes)
    closing, first = closures(bare, grid_axes, values)
    return Grid(
        with_terms(bare, (*terms, *closing)),
        grid_axes,
        batch,
        fields,
        values | first,
        {n: _rounding(fields[n], values[n]) for n in used},
        order,
        frozenset(() if spectral is False else fourier),
        _inside(equations, grid_axes),
        "; ".join(skipped),
    )


def _items(equations) -> list:
    return list(equations) if isinstance(equations, list | tuple) else [equations]


def _all_arguments(equations) -> list[str]:
    if isinstance(equations, PDE):
        return []
    functions = [i for i in _items(equations) if callable(i)]
    functions += [f for i in _items(equations) if isinstance(i, Derived) for f in i.functions.values()]
    return [n for f in functions for n in arguments(f, getattr(f, "__name__", "equation"))]


def _axis_names(equations, fields, axes) -> tuple[str, ...]:
    if isinstance(equations, PDE):
        return equations.axes
    if axes is not None:
        return tuple(axes)
    return tuple(str(d) for d in fields.dims if d in fields.coords and d not in BATCH)


def _aliases(names, fields, used: list[str]) -> dict[str, str]:
    """The dimensions to rename: only where there is no exact match, to a name that a PDE or an equation uses."""
    here = {*map(str, fields.dims), *map(str, fields.variables)}
    spoken = {part for name in used for part in name.split("_")}
    out = {}
    for short, long in ALIASES:
        if long in here and short not in here and (short in names or (long in names and used and long not in spoken)):
            out[long] = short
        elif short in here and long not in here and long in names:
            out[short] = long
    return out


def equations_of(equations, stored: Collection[str], names, parameters, hint: str) -> GridEquations:
    """Equations read as functions of the quantities called `stored` and of parameters. Raises ValueError, with a hint
    for equations without a PDE, for a name that is neither.
    """
    if isinstance(equations, PDE):
        pde = equations
        unknown = [p for p in parameters if p not in pde.numbers]
        if unknown:
            raise ValueError(f"no parameter '{unknown[0]}'; the PDE has {', '.join(pde.numbers) or 'none'}")
        numbers = pde.numbers | parameters
        open_ = [n for n, v in numbers.items() if isinstance(v, Unknown) and n not in stored]
        if open_:
            raise ValueError(f"the parameter '{open_[0]}' is unknown in this PDE: give it a number, {open_[0]}=...")
        terms = tuple(GridTerm(t.name, t.function, t.meanings) for t in pde.groups[INTERIOR].terms)
        given = [n for n in _coefficient_names(pde.derived_meanings) if n in stored]
        derived = {n: f for n, f in pde.derived.items() if n not in given}
        return GridEquations(pde.axes, terms, derived, pde.derived_meanings, numbers)
    functions: dict[str, Callable] = {}
    derived: dict[str, Callable] = {}
    for item in _items(equations):
        if isinstance(item, Derived):
            derived |= item.functions
        elif isinstance(item, Mapping):
            parameters = dict(item) | parameters
        elif callable(item):
            name = getattr(item, "__name__", "<lambda>")
            name = f"equation {len(functions) + 1}" if name == "<lambda>" or name in functions else name
            functions[name] = item
        else:
            raise TypeError(f"expected equations and derived(...), got {type(item).__name__}; conditions need a PDE")
    known = tuple(n for n in stored if n not in derived and n not in parameters)
    vocabulary = Vocabulary(names, tuple(parameters), (*known, *derived))

    def meanings(function, where):
        return {n: vocabulary.meaning(n, where) for n in arguments(function, where)}

    try:
        terms = tuple(GridTerm(n, f, meanings(f, f"equation '{n}'")) for n, f in functions.items())
        derived_meanings = {n: meanings(f, f"derived quantity '{n}'") for n, f in derived.items()}
    except ValueError as error:
        raise ValueError(f"{error} {hint}") from None
    return GridEquations(names, terms, derived, derived_meanings, parameters)


def _coefficient_names(derived_meanings) -> list[str]:
    """Derived quantities that are functions of coordinates and parameters only."""
    return [n for n, ms in derived_meanings.items() if not any(isinstance(m, Derivative) for m in ms.values())]


def _coefficients(equations: GridEquations) -> list[str]:
    return [n for n in _coefficient_names(equations.derived_meanings) if n not in equations.derived]


def needed(equations: GridEquations) -> set[str]:
    """The variables that must be stored."""
    every = [t.meanings for t in equations.terms] + [equations.derived_meanings[n] for n in equations.derived]
    names = {m.of for ms in every for m in ms.values() if isinstance(m, Derivative | Normal)}
    return names - set(equations.derived) - set(_coefficients(equations))


def _with_axes(fields, names):
    for name in names:
        if name in fields.dims and name in fields.coords:
            continue
        if name in fields.coords and fields.coords[name].ndim == 0:
            fields = fields.expand_dims(name)
        elif name in fields.dims:
            raise ValueError(
                f"the dimension '{name}' has no coordinate, so its step is not known; add one, as in "
                f"fields.assign_coords({name}=...)"
            )
        else:
            dims = [str(d) for d in fields.dims]
            raise ValueError(
                f"the data set has no dimension '{name}'; {nearest(name, dims)}its dimensions are {', '.join(dims)}. "
                f"Give rename={{'...': '{name}'}} where it has another name"
            )
    return fields


def _array(variable, batch, names) -> np.ndarray:
    if variable.dtype.kind not in "fiub":
        raise ValueError(
            f"'{variable.name}' has the type {variable.dtype}; expected real numbers (a complex field is two)"
        )
    dims = (*batch, *names)
    values = variable.transpose(*(d for d in dims if d in variable.dims)).values.astype(float)
    return values.reshape([variable.sizes.get(d, 1) for d in dims])


def _rounding(variable, values: np.ndarray) -> np.ndarray:
    """Random changes of the size of the rounding of the stored numbers."""
    packed = variable.encoding.get("scale_factor", variable.attrs.get("scale_factor"))
    if packed is not None:
        size = abs(float(packed)) / np.sqrt(12)
    else:
        size = np.abs(values) * (np.finfo(variable.dtype).eps if variable.dtype.kind == "f" else 0.0)
    return size * np.random.default_rng(0).standard_normal(values.shape)


def periods_of(equations, names, periodic) -> dict[str, float | None]:
    """The periods of the axes that are periodic, as given or as in the PDE; None where they follow from the points.
    Raises ValueError for an axis that does not exist.
    """
    if periodic is not None:
        periodic = [periodic] if isinstance(periodic, str) else periodic
        unknown = [a for a in periodic if a not in names]
        if unknown:
            raise ValueError(f"periodic: no axis '{unknown[0]}'; the axes are {', '.join(names)}")
        return dict(periodic) if isinstance(periodic, Mapping) else dict.fromkeys(periodic)
    if not isinstance(equations, PDE):
        return {}
    bounds = equations.domain.bounds
    return {a: bounds[a][1] - bounds[a][0] for a in equations.periodic_axes}


def _periods(equations, fields, names, periodic) -> dict[str, float | None]:
    out: dict[str, float | None] = {}
    for name in names if periodic is None else ():
        attributes = fields[name].attrs
        if attributes.get("boundary") == "periodic" or attributes.get("periodic") in (True, 1, "true", "True"):
            out[name] = None
    return out | periods_of(equations, names, periodic)


def _grid_axis(fields, name: str, periods, values: list[np.ndarray], names) -> GridAxis:
    points = _numbers(fields[name])
    if name not in periods:
        return GridAxis(name, points)
    if periods[name] is not None:
        return GridAxis(name, points, periods[name])
    place = names.index(name) - len(names)
    moved = [np.moveaxis(v, place, -1) for v in values if v.shape[place] > 1]
    closed = len(points) > 4 and bool(moved) and all(_repeats(v) for v in moved)
    return GridAxis(name, points, abs(float(points[-1] - points[0])) if closed else whole_period(points))


def _repeats(values: np.ndarray) -> bool:
    """Whether the last point repeats the first: equal, and smoother when it is left out than as two points."""
    size = np.nanmax(np.abs(values), initial=0.0)
    if not np.allclose(values[..., 0], values[..., -1], rtol=0, atol=1e-6 * size, equal_nan=True):
        return False
    without = np.diff(np.concatenate([values[..., -4:-1], values[..., :3]], axis=-1), 3)
    both = np.diff(np.concatenate([values[..., -3:], values[..., :3]], axis=-1), 3)
    return bool(np.nansum(without**2) <= np.nansum(both**2))


def _numbers(coordinate) -> np.ndarray:
    values = coordinate.values
    if values.dtype.kind in "mM":
        return (values - values[0]) / np.timedelta64(1, "s")
    if values.dtype.kind == "O":
        return np.array([(v - values[0]).total_seconds() for v in values])
    return values if values.dtype.kind == "f" else values.astype(float)


def _inside(equations, axes) -> np.ndarray | None:
    """The points of the grid in the domain, where it is not a box."""
    if not isinstance(equations, PDE) or isinstance(equations.domain, Box):
        return None
    mesh = np.meshgrid(*(a.points for a in axes), indexing="ij")
    return equations.domain.contains(np.stack([m.ravel() for m in mesh], axis=1)).reshape(mesh[0].shape)


def with_faces(equations, terms, axes) -> tuple[tuple[GridTerm, ...], list[str]]:
    """The conditions on faces that the grid has, and the names of the others."""
    out, skipped = list(terms), []
    if not isinstance(equations, PDE):
        return tuple(out), skipped
    for group in equations.groups.values():
        if group.label == INTERIOR:
            continue
        pieces = () if isinstance(group.region, Observations) else group.region.pieces
        for piece in pieces:
            face = _face(piece, axes)
            for term in group.terms:
                name = term.name if len(pieces) == 1 else f"{term.name}: {piece.label}"
                uses_normal = any(isinstance(m, Normal) for m in term.meanings.values())
                if face is None or (uses_normal and len(face) != 1):
                    skipped.append(name)
                    continue
                ((axis, index), *_) = face.items()
                sign = np.sign(axes[axis].points[index] - np.mean(axes[axis].points))
                out.append(GridTerm(name, term.function, term.meanings, face, (axis, int(sign))))
        if not pieces:
            skipped.append(group.label)
    return tuple(out), skipped


def _face(piece, axes) -> dict[int, int] | None:
    """The index along each axis that is constant on a part of the boundary; None where the grid has no such points."""
    if not isinstance(piece, Box) or not piece.fixed:
        return None
    face = {}
    for name, value in piece.fixed.items():
        axis = next(i for i, a in enumerate(axes) if a.name == name)
        points = np.asarray(axes[axis].points, float)
        index = int(np.argmin(np.abs(points - value)))
        step = np.ptp(points) / max(1, len(points) - 1)
        if abs(points[index] - value) > max(1e-4 * step, 1e-6 * abs(value)):
            return None
        face[axis] = index
    return face


def closures(bare: GridEquations, axes, values) -> tuple[tuple[GridTerm, ...], dict[str, Any]]:
    """Where the last point of a periodic grid repeats the first one, the values of both must agree."""
    terms, first = [], {}
    for i, axis in enumerate(axes):
        for name in sorted(needed(bare)) if axis.closed else ():
            place = values[name].ndim - len(axes) + i
            if values[name].shape[place] == 1:
                continue
            start = f"{name} at the start of {axis.name}"
            first[start] = values[name][(slice(None),) * place + (slice(0, 1),)]
            meanings = {"last": Derivative(name, ()), "first": Parameter(start)}
            terms.append(GridTerm(f"{name} periodic in {axis.name}", _jump, meanings, {i: len(axis.points) - 1}))
    return tuple(terms), first


def _jump(last, first):
    return last - first
