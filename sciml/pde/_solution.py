"""The solution of a PDE: a function of named coordinates, with its error, picture and file."""

import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .. import nn
from .._precision import double_precision
from .._save import load as load_model
from .._save import read_archive
from .._save import save as save_model
from ._domain import TIME
from ._pde import PDE

# Points evaluated at once: thousands of polynomials in several fields take some 100 kB a point.
CHUNK = 4096
# Points at one time for which coefficients of that time are worth while.
FEW = 64


@dataclass(frozen=True)
class Solution:
    """What `solve` returns: the problem, the trained fields, the history of the losses (an xarray Dataset), what
    `solve` chose, and the seconds it took.
    """

    pde: PDE
    model: Any
    history: Any
    chosen: Mapping[str, Any]
    seconds: float

    def __repr__(self) -> str:
        return f"Solution({', '.join(self.pde.fields)} of {', '.join(self.pde.axes)}; {self.seconds:.1f} s)"

    def __call__(self, **coordinates: Any) -> Any:
        """The field at points given by name: `solution(t=0.5, x=[0.0, 0.1])`.

        Coordinates are numbers or arrays that broadcast against each other. Returns a NumPy array of their common
        shape, or a dict of them by field where there are several fields. Points outside the domain are
        extrapolated. Raises ValueError for a missing or unknown coordinate.
        """
        return self._by_field(self._evaluate, coordinates)

    def _by_field(self, function, coordinates: Mapping[str, Any]) -> Any:
        """`function(points)` -> `(n, fields)` at coordinates, in their common shape, by field if there are several."""
        self._check_axes(coordinates)
        arrays = np.broadcast_arrays(*[np.asarray(coordinates[a], float) for a in self.pde.axes])
        values = function(np.stack([a.ravel() for a in arrays], axis=1))
        fields = {f: values[:, i].reshape(arrays[0].shape) for i, f in enumerate(self.pde.fields)}
        return fields[self.pde.fields[0]] if len(fields) == 1 else fields

    def on(self, grid: Any = None, **axes: Any) -> Any:
        """The fields on a grid, as an xarray Dataset with named dimensions and units.

        `grid` is a number of points per axis, a mapping from axes to numbers of points or coordinate values, or an
        xarray object that has the axes as coordinates; axes can be given as keywords too. By default about 65,000
        points. Points outside the domain are NaN. Where the problem has a reference, use `compare`.
        """
        import xarray as xr

        if hasattr(grid, "coords"):
            return self._at_coordinates(grid)
        points = self._grid_axes(grid, axes)
        mesh = np.meshgrid(*points.values(), indexing="ij")
        flat = np.stack([m.ravel() for m in mesh], axis=1)
        # A ball of many dimensions is a small part of its box.
        inside = np.asarray(self.pde.domain.contains(flat))
        values = np.full((len(flat), len(self.pde.fields)), np.nan)
        values[inside] = self._evaluate(flat[inside])
        data = {f: (self.pde.axes, values[:, i].reshape(mesh[0].shape)) for i, f in enumerate(self.pde.fields)}
        return self._labelled(xr.Dataset(data, coords=points))

    def compare(self, grid: Any = None) -> Any:
        """As `on`, with `u_reference` and `u_error` beside each field `u` that the reference has.

        A reference that is an xarray object is compared at its own coordinates, without interpolation.
        Raises ValueError where the problem has no reference.
        """
        return self._default_comparison.copy() if grid is None else self._compare(grid)

    @functools.cached_property
    def _default_comparison(self) -> Any:
        # References can be slow, and the error, the figure and the file all want this one.
        return self._compare(None)

    def _compare(self, grid: Any) -> Any:
        reference = self.pde.reference
        if reference is None:
            raise ValueError("the problem has no reference: give one as PDE(..., reference=...)")
        if hasattr(reference, "coords"):
            dataset, known = self.on(reference), self._reference_variables(reference)
        else:
            dataset = self.on(grid)
            known = self._reference_values(dataset)
        for field, values in known.items():
            dataset[f"{field}_reference"] = values.where(np.isfinite(dataset[field]))
            dataset[f"{field}_error"] = dataset[field] - dataset[f"{field}_reference"]
        return self._labelled(dataset)

    def error(self, grid: Any = None) -> dict[str, float]:
        """`relative_l2` (over all fields that the reference has) and `max_error` against the reference, on a grid
        as for `on`; `relative_l2_u`, ... per field where there are several.
        """
        dataset = self.compare(grid)
        fields = [f for f in self.pde.fields if f"{f}_error" in dataset]
        squares = {
            f: (float((dataset[f"{f}_error"] ** 2).sum()), float((dataset[f"{f}_reference"] ** 2).sum()))
            for f in fields
        }
        out = {"relative_l2": _ratio(*(sum(s) for s in zip(*squares.values())))}
        out["max_error"] = max(float(abs(dataset[f"{f}_error"]).max()) for f in fields)
        if len(fields) > 1:
            out |= {f"relative_l2_{f}": _ratio(*squares[f]) for f in fields}
        return out

    @property
    def parameters(self) -> dict[str, float]:
        """The parameters of the equation; unknown ones as found."""
        with double_precision(self._is_double):
            return {name: float(number) for name, number in self.pde.parameters(self.model).items()}

    def standard_errors(self, **coordinates: Any) -> Any:
        """What the noise of the data makes uncertain: without coordinates a dict of the standard error of each unknown
        parameter, in its own unit; `solution.standard_errors(t=0.5, x=[0.0, 0.1])` those of the fields at points, in
        the shapes of `solution(...)`.

        The noise is taken as Gaussian and independent, its size from what each `observe` misses; equations and
        conditions as exact; all is linearised around the solution (Seber & Wild, Nonlinear Regression, 1989, section
        2.1). Fields that nothing observes, if they were found by least squares, have a prior, which counts too.
        Raises ValueError for problems without observations, or with too few of them to tell their noise, and for
        ensembles.
        """
        from ._uncertainty import field_errors, parameter_errors

        with double_precision():
            if not coordinates:
                return parameter_errors(self.pde, self._linearised)
            return self._by_field(lambda points: field_errors(self._linearised, points), coordinates)

    @functools.cached_property
    def _linearised(self) -> Any:
        from ._uncertainty import linearised

        return linearised(self.pde, self.model)

    def spread(self, **coordinates: Any) -> Any:
        """How far the members of an ensemble are from each other: their standard deviation (of a sample: n - 1) in
        each field at points, in the shapes of `solution(...)`; without coordinates a dict of that of each unknown
        parameter.

        Raises ValueError for the solution of one network.
        """
        if not isinstance(self.model, nn.Ensemble):
            raise ValueError(
                "the spread is that of an ensemble, and this is the solution of one network: solve with "
                "model=sciml.nn.ensemble(...), or join solutions of several keys by sciml.pde.ensemble_of([...])"
            )
        if coordinates:
            return self._by_field(lambda points: self._evaluate(points, _spread_at), coordinates)
        with double_precision(self._is_double):
            found = self.model.each(lambda member: {name: member.unknown[name]() for name in self.pde.unknowns})
            return {name: float(jnp.std(values, ddof=1)) for name, values in found.items()}

    def plot(self, path: Any = None) -> Any:
        """A figure of the solution, the reference and the error where there is one, and the losses; also written as
        PNG to `path` (a name or a binary file) where given. Returns the matplotlib Figure.
        """
        from ._plot import plot_solution

        return plot_solution(self, path)

    def save(self, path: str | os.PathLike) -> None:
        """Writes the trained network and the parameters found to one file, whole or not at all."""
        save_model(path, _numbers(self.model))

    @staticmethod
    def load(path: str | os.PathLike, pde: PDE, model: Any = None) -> "Solution":
        """Reads a solution of `pde` that `save` wrote. `model` is the network that was given to `solve`, if one was.

        Raises ValueError where the file does not belong to this problem and network.
        """
        import xarray as xr

        with double_precision():
            network = _network_of(path, pde) if model is None else model
            like = pde.model(network)
            fields = _with_numbers(like, *load_model(path, _numbers(like)))
        return Solution(pde, fields, xr.Dataset(), {"loaded from": str(path)}, 0.0)

    @property
    def _is_double(self) -> bool:
        return any(a.dtype == np.float64 for a in jax.tree.leaves(eqx.filter(self.model, eqx.is_array)))

    def _evaluate(self, points: np.ndarray, function: Callable | None = None) -> np.ndarray:
        at = _fields_at if function is None else function
        with double_precision(self._is_double):
            if isinstance(getattr(self.model, "network", None), nn.WindowedWaves):
                return self._in_windows(points, at)
            parts = [
                np.asarray(at(self.model, jnp.asarray(points[i : i + CHUNK])), float)
                for i in range(0, len(points), CHUNK)
            ]
        return np.concatenate(parts) if parts else np.zeros((0, len(self.pde.fields)))

    def _in_windows(self, points: np.ndarray, at: Callable) -> np.ndarray:
        """The points of one time or window after another, all chunks of one shape."""
        network, values = self.model.network, np.zeros((len(points), len(self.pde.fields)))
        low, high = self.pde.domain.bounds[TIME]
        inputs = 2 * (points[:, self.pde.axes.index(TIME)] - low) / (high - low) - 1
        times, which = np.unique(inputs, return_inverse=True)
        windows = np.array([network.window_of(t) for t in times])
        # Many points at few times, as on a grid.
        frozen = len(times) * FEW <= len(points)
        parts = (
            {i: (w, t) for i, (w, t) in enumerate(zip(windows, times))} if frozen else {w: (w, None) for w in windows}
        )
        place = which if frozen else windows[which]
        size = min(CHUNK, int(np.unique(place, return_counts=True)[1].max(initial=1)))
        for number, (window, time) in parts.items():
            alone = eqx.tree_at(lambda m: m.network, self.model, network.alone(int(window), time))
            of = np.flatnonzero(place == number)
            for i in range(0, len(of), size):
                chunk = of[i : i + size]
                filled = np.resize(points[chunk], (size, points.shape[1]))
                values[chunk] = np.asarray(at(alone, jnp.asarray(filled)))[: len(chunk)]
        return values

    def _check_axes(self, coordinates) -> None:
        unknown = [a for a in coordinates if a not in self.pde.axes]
        missing = [a for a in self.pde.axes if a not in coordinates]
        if unknown or missing:
            raise ValueError(
                f"coordinates expected: {', '.join(self.pde.axes)}"
                + (f"; missing: {', '.join(missing)}" if missing else "")
                + (f"; unknown: {', '.join(unknown)}" if unknown else "")
            )

    def _grid_axes(self, grid, axes) -> dict[str, np.ndarray]:
        size = len(self.pde.axes)
        default = {1: 1001, 2: 257}.get(size, max(9, int(65536 ** (1 / size))))
        given = dict(grid) if isinstance(grid, Mapping) else dict.fromkeys(self.pde.axes, grid or default)
        given = dict.fromkeys(self.pde.axes, default) | given | axes
        self._check_axes(given)
        out = {}
        for axis in self.pde.axes:
            low, high = self.pde.domain.bounds[axis]
            value = given[axis]
            whole = isinstance(value, int | np.integer)
            out[axis] = np.linspace(low, high, value) if whole else np.atleast_1d(np.asarray(value, float))
        return out

    def _at_coordinates(self, grid) -> Any:
        import xarray as xr

        missing = [a for a in self.pde.axes if a not in grid.coords]
        if missing:
            raise ValueError(f"the grid has no coordinate {', '.join(missing)}; it has {', '.join(grid.coords)}")
        arrays = xr.broadcast(*[grid[a] for a in self.pde.axes])
        values = self(**dict(zip(self.pde.axes, (a.values for a in arrays))))
        values = values if isinstance(values, dict) else {self.pde.fields[0]: values}
        coords = {a: grid.coords[a] for a in self.pde.axes}
        # Nodes on a curved boundary, or of single precision, count as inside.
        size = max(high - low for low, high in self.pde.domain.bounds.values())
        points = np.stack([a.values.ravel() for a in arrays], axis=1)
        inside = self.pde.domain.contains(points, tolerance=1e-6 * size).reshape(arrays[0].shape)
        data = {f: (arrays[0].dims, np.where(inside, v, np.nan)) for f, v in values.items()}
        return self._labelled(xr.Dataset(data, coords=coords))

    def _reference_variables(self, reference) -> dict:
        if not hasattr(reference, "data_vars"):
            return {self.pde.fields[0]: reference}
        return {f: reference[f] for f in self.pde.fields if f in reference}

    def _reference_values(self, dataset) -> dict:
        mesh = np.meshgrid(*[dataset[a].values for a in self.pde.axes], indexing="ij")
        values = self.pde.reference(**dict(zip(self.pde.axes, mesh)))
        values = values if isinstance(values, Mapping) else {self.pde.fields[0]: values}
        unknown = set(values) - set(self.pde.fields)
        if unknown:
            raise ValueError(f"the reference returns {unknown}; the fields are {', '.join(self.pde.fields)}")
        like = dataset[self.pde.fields[0]]
        return {f: like.copy(data=np.broadcast_to(np.asarray(v, float), like.shape)) for f, v in values.items()}

    def _labelled(self, dataset) -> Any:
        for name in (*self.pde.axes, *self.pde.fields):
            if name in dataset and name in self.pde.units:
                dataset[name].attrs["units"] = self.pde.units[name]
        for field in self.pde.fields:
            dataset[field].attrs.setdefault("long_name", f"solution for {field}")
            for suffix in ("reference", "error"):
                name = f"{field}_{suffix}"
                if name in dataset:
                    dataset[name].attrs["long_name"] = f"{suffix} of {field}"
                    dataset[name].attrs |= {k: v for k, v in dataset[field].attrs.items() if k == "units"}
        dataset.attrs["Conventions"] = "CF-1.11"
        return dataset


def _numbers(fields: Any) -> tuple[Any, Any]:
    """What is saved of fields: the network and the unknown parameters, of an ensemble those of all members."""
    if not isinstance(fields, nn.Ensemble):
        return fields.network, fields.unknown
    if isinstance(fields.members, tuple):
        return fields.changed(lambda member: member.network), tuple(member.unknown for member in fields.members)
    return nn.Ensemble(fields.members.network), fields.members.unknown


def _with_numbers(fields: Any, network: Any, unknown: Any) -> Any:
    """The fields with what `_numbers` takes of them."""
    if not isinstance(fields, nn.Ensemble):
        return eqx.tree_at(lambda f: (f.network, f.unknown), fields, (network, unknown))
    if isinstance(fields.members, tuple):
        return nn.Ensemble(tuple(map(_with_numbers, fields.members, network.members, unknown)))
    return nn.Ensemble(_with_numbers(fields.members, network.members, unknown))


def _network_of(path: str | os.PathLike, pde: PDE) -> Any:
    """A network like the one that `solve` chose and `Solution.save` wrote, or several of several solutions."""
    config, _ = read_archive(path)
    stored = config.get("model")
    return _drawn_like(stored[0] if isinstance(stored, list) and stored else {}, pde)


def _drawn_like(described: Any, pde: PDE) -> Any:
    from ._solve import default_network

    if _is_of(nn.Ensemble, described) and isinstance(described["members"], list):
        return nn.Ensemble(tuple(_drawn_like(member, pde) for member in described["members"]))
    found = _blank(described)
    return default_network(pde, jax.random.key(0)) if isinstance(found, Mapping) else found


KINDS = (
    nn.RandomFeatures,
    nn.PriorFeatures,
    nn.WindowedFeatures,
    nn.WindowedWaves,
    nn.JoinedFeatures,
    nn.TanhFeatures,
    nn.PolynomialFeatures,
    nn.CornerFeatures,
    nn.HoleFeatures,
    nn.PartFeatures,
)


def _blank(described: Any) -> Any:
    """What a file describes, where it is of a kind that `solve` draws: arrays of the shape and type that it names."""
    if isinstance(described, str) and described.startswith("array "):
        kind, shape = described.removeprefix("array ").rstrip("]").split("[")
        return jnp.zeros([int(n) for n in shape.split(",") if n], kind)
    if isinstance(described, list):
        return tuple(_blank(d) for d in described)
    if not isinstance(described, Mapping):
        return described
    for kind in KINDS:
        if _is_of(kind, described):
            return kind(**{name: _blank(value) for name, value in described.items() if name != "class"})
    return described


def _is_of(kind: type, described: Any) -> bool:
    return isinstance(described, Mapping) and described.get("class") == f"{kind.__module__}.{kind.__qualname__}"


@eqx.filter_jit
def _fields_at(model, points):
    return jax.vmap(lambda p: jnp.ravel(model(p)))(points)


@eqx.filter_jit
def _spread_at(model, points):
    def at(point):
        return jnp.std(model.each(lambda member: jnp.ravel(member(point))), axis=0, ddof=1)

    return jax.vmap(at)(points)


def _ratio(error: float, size: float) -> float:
    return float(np.sqrt(error / size)) if size > 0 else float(np.sqrt(error))
