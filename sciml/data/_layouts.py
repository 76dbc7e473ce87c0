"""The published layouts of PDEBench and The Well, and MATLAB's: fields, grids, times and boundaries as named variables.

PDEBench: Takamoto et al., NeurIPS 2022, https://github.com/pdebench/PDEBench. The Well: Ohana et al., NeurIPS 2024,
https://github.com/PolymathicAI/the_well/blob/master/docs/data_format.md.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ._cf import relabelled
from ._dataset import Coordinate
from ._lazy import Dropped, Lazy, Sliced, Stacked, Stored
from ._matlab import is_matlab, matlab_arrays
from ._source import DataError, Source

SAMPLE_GROUP = re.compile(r"(\d+)/data")
PLAIN = "; layout='plain' takes the file as it is"
PDEBENCH_FIELDS = {"tensor", "nu", "density", "pressure", "Vx", "Vy", "Vz"}


@dataclass(frozen=True)
class Arranged:
    """Variables and coordinates as a data set has them."""

    arrays: Mapping[str, Lazy]
    coords: Mapping[str, Coordinate]
    attributes: Mapping[str, Any] = field(default_factory=dict)


def arranged(source: Source, layout: str | None = None) -> Arranged | None:
    """The content of a file in a published layout, by default any that is recognised; None where it has none.

    Raises DataError for a file that is not in the layout that is asked for, or breaks its rules.
    """
    if layout == "plain":
        return None
    names = set(source.variables())
    for recognised, arrange in LAYOUTS.values() if layout is None else [LAYOUTS[layout]]:
        if recognised(source, names):
            return arrange(source)
    if layout is not None:
        shown = ", ".join(sorted(names)[:6])
        raise DataError(f"not in the layout '{layout}'; its variables are {shown}. Leave out layout=")
    return None


# PDEBench.


def _is_pdebench(source: Source, names: set[str]) -> bool:
    if any(SAMPLE_GROUP.fullmatch(n) for n in names):
        return all(re.match(r"\d+/(data$|grid/)", n) for n in names)
    if {"velocity", "force", "t"} <= names:
        return True
    return "x-coordinate" in names and bool(names & PDEBENCH_FIELDS)


def _pdebench(source: Source) -> Arranged:
    names = list(source.variables())
    if any(SAMPLE_GROUP.fullmatch(n) for n in names):
        return _pdebench_groups(source, names)
    return _pdebench_incompressible(source) if "velocity" in names else _pdebench_arrays(source)


def _pdebench_arrays(source: Source) -> Arranged:
    """Fields on (sample, time, x, ...) or (sample, x, ...), with `x-coordinate`, ..., `t-coordinate`."""
    variables = source.variables()
    space = [d for d in "xyz" if f"{d}-coordinate" in variables]
    arrays, sizes = {}, {}
    for name, variable in variables.items():
        if name.endswith("-coordinate"):
            continue
        array = Stored(source, name)
        extra = len(variable.shape) - len(space)
        if extra not in (1, 2):
            raise DataError(
                f"'{name}' of shape {variable.shape} is not PDEBench's (sample, [time,] {', '.join(space)}){PLAIN}"
            )
        dims = ("sample", "time", *space) if extra == 2 else ("sample", *space)
        lazy = relabelled(array, dims)
        # The solution of a steady problem has a time axis of length one.
        if extra == 2 and variable.shape[1] == 1 and "nu" in variables:
            lazy = Dropped(lazy, 1)
        arrays[name] = lazy
        sizes |= dict(zip(lazy.dims, lazy.shape))
    axes = {d: f"{d}-coordinate" for d in space} | {"time": "t-coordinate"}
    stored = {d: Stored(source, n).read() for d, n in axes.items() if n in variables}
    return Arranged(arrays, _axes(stored, sizes))


def _pdebench_groups(source: Source, names: list[str]) -> Arranged:
    """One group per sample: `0000/data` (time, x, ..., field) and `0000/grid/x`, `0000/grid/t`."""
    samples = sorted({m[1] for n in names if (m := SAMPLE_GROUP.fullmatch(n))}, key=int)
    first = Stored(source, f"{samples[0]}/data")
    space = [d for d in "xyz" if f"{samples[0]}/grid/{d}" in names]
    dims = ("time", *space, "component")
    if len(dims) != len(first.shape):
        raise DataError(f"'{first.name}' of shape {first.shape} is not PDEBench's ({', '.join(dims)}){PLAIN}")
    parts = [Stored(source, f"{s}/data") for s in samples]
    odd = next((p for p in parts if p.shape != first.shape), None)
    if odd is not None:
        raise DataError(f"'{odd.name}' has the shape {odd.shape}, '{first.name}' has {first.shape}{PLAIN}")
    whole = Stacked(tuple(relabelled(p, dims) for p in parts), 0, "sample")
    fields = _as_list(source.attributes.get("fields"))
    count = first.shape[-1]
    if len(fields) != count:
        fields = ["data"] if count == 1 else []
    arrays = {name: _component(whole, i) for i, name in enumerate(fields)} or {"data": whole}
    grid = {("time" if d == "t" else d): f"{samples[0]}/grid/{d}" for d in ("t", *space)}
    stored = {d: Stored(source, n).read() for d, n in grid.items() if n in names}
    return Arranged(arrays, _axes(stored, dict(zip(dims, first.shape))))


def _pdebench_incompressible(source: Source) -> Arranged:
    """`velocity` and `particles` on (sample, time, x, y, component), `force` on (sample, x, y, component)."""
    variables = source.variables()
    space = "xyz"[: len(variables["force"].shape) - 2]
    arrays: dict[str, Lazy] = {}
    for name, variable in variables.items():
        if name == "t":
            continue
        moving = len(variable.shape) == len(space) + 3
        array = relabelled(Stored(source, name), ("sample", *(("time",) if moving else ()), *space, "component"))
        arrays[name] = _component(array, 0) if array.shape[-1] == 1 else array
    sizes = {d: n for a in arrays.values() for d, n in zip(a.dims, a.shape)}
    times = Stored(source, "t").read()
    if times.ndim == 2 and (times == times[0]).all():
        times = times[0]
    if times.ndim == 2:
        return Arranged(arrays, {"time": Coordinate(("sample", "time"), times[:, : sizes["time"]])})
    return Arranged(arrays, _axes({"time": times}, sizes))


def _component(array: Lazy, number: int) -> Lazy:
    """One entry of the last dimension."""
    last = len(array.shape) - 1
    slices = (*(slice(0, n, 1) for n in array.shape[:-1]), slice(number, number + 1, 1))
    return Dropped(Sliced(array, slices), last)


def _axes(stored: Mapping[str, np.ndarray], sizes: Mapping[str, int]) -> dict[str, Coordinate]:
    """Coordinates that fit their dimension. PDEBench's times may have one entry more than there are frames."""
    coords = {}
    for dim, values in stored.items():
        values = np.ravel(values)
        if dim == "time" and dim in sizes:
            values = values[: sizes[dim]]
        if len(values) == sizes.get(dim):
            coords[dim] = Coordinate((dim,), values)
    return coords


# The Well.


def _is_the_well(source: Source, names: set[str]) -> bool:
    groups = getattr(source, "groups", {})
    return "dimensions" in groups and "spatial_dims" in groups["dimensions"] and "t0_fields" in groups


def _the_well(source: Source) -> Arranged:
    variables, groups = source.variables(), getattr(source, "groups", {})
    space = _as_list(groups["dimensions"]["spatial_dims"])
    arrays: dict[str, Lazy] = {}
    coords: dict[str, Coordinate] = {}
    boundaries = _boundaries(source, groups, space, coords)
    for name, variable in variables.items():
        group, _, short = name.partition("/")
        array = Stored(source, name)
        if group in ("t0_fields", "t1_fields", "t2_fields"):
            title = short if short not in arrays else name
            arrays[title] = relabelled(array, _well_dims(name, variable, space, int(group[1])))
        elif group == "dimensions":
            own = ("time",) if short == "time" else (short,)
            dims = (*(("sample",) if variable.attributes.get("sample_varying") else ()), *own)
            if len(dims) == len(variable.shape):
                edge = {"boundary": boundaries[short].lower()} if short in boundaries else {}
                coords[short] = Coordinate(dims, array.read(), dict(variable.attributes) | edge)
        elif group == "scalars":
            dims = _varying(variable)
            if int(np.prod(variable.shape)) == 1 and not dims:
                coords[short] = Coordinate((), array.read().reshape(()), dict(variable.attributes))
            elif len(dims) != len(variable.shape):
                raise DataError(
                    f"'{name}' of shape {variable.shape} does not have the dimensions that its attributes "
                    f"sample_varying and time_varying say: {', '.join(dims) or 'none'}{PLAIN}"
                )
            elif short not in arrays:
                arrays[short] = relabelled(array, dims)
    coords = {n: c for n, c in coords.items() if n not in arrays}
    return Arranged(arrays, coords, {"boundary_conditions": boundaries})


def _varying(variable) -> tuple[str, ...]:
    flags = (("sample", "sample_varying"), ("time", "time_varying"))
    return tuple(dim for dim, flag in flags if variable.attributes.get(flag))


def _well_dims(name: str, variable, space: list[str], rank: int) -> tuple[str, ...]:
    """The dimensions of a field, which lacks those along which it does not vary."""
    moving = _as_list(variable.attributes.get("dim_varying", [True] * len(space)))
    dims = (*_varying(variable), *(d for d, moves in zip(space, moving) if moves))
    components = ("component", "component_2")[: len(variable.shape) - len(dims)]
    dims = (*dims, *components)
    if len(dims) != len(variable.shape) or (rank == 0) != (not components):
        raise DataError(
            f"'{name}' of shape {variable.shape} does not have the dimensions that its attributes sample_varying, "
            f"time_varying and dim_varying say: {', '.join(dims)}{PLAIN}"
        )
    return dims


def _boundaries(source: Source, groups, space: list[str], coords: dict[str, Coordinate]) -> dict[str, str]:
    """The kind of boundary along each dimension (periodic, wall, open); masks and values become coordinates."""
    kinds: dict[str, str] = {}
    variables = source.variables()
    for name, attributes in groups.items():
        if not re.fullmatch(r"boundary_conditions/[^/]+", name):
            continue
        along = [d for d in _as_list(attributes.get("associated_dims")) if d in space]
        for dim in along:
            kind = str(attributes.get("bc_type", "unknown"))
            kinds[dim] = kind if kinds.get(dim, kind) == kind else f"{kinds[dim]}, {kind}"
        short = name.partition("/")[2]
        for part in ("mask", "values"):
            if f"{name}/{part}" not in variables:
                continue
            values = Stored(source, f"{name}/{part}").read()
            lead = _varying_of(attributes) if values.ndim > 1 else ()
            rest = values.ndim - len(lead)
            own = tuple(along) if part == "mask" and len(along) == rest else None
            dims = own or tuple(f"boundary_{short}_{part}_{i}" for i in range(rest))
            coords[f"boundary/{short}/{part}"] = Coordinate((*lead, *dims), values, dict(attributes))
    return kinds


def _varying_of(attributes: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(d for d in ("sample", "time") if attributes.get(f"{d}_varying"))


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple | np.ndarray) else [value]


def _matlab(source: Source) -> Arranged:
    """Arrays in MATLAB's order of dimensions; numbers on their own are coordinates."""
    arrays = matlab_arrays(source)
    single = {n: Coordinate((), a.read()) for n, a in arrays.items() if not a.shape}
    return Arranged({n: a for n, a in arrays.items() if a.shape}, single)


Recognise = Callable[[Source, set[str]], bool]
LAYOUTS: dict[str, tuple[Recognise, Callable[[Source], Arranged]]] = {
    "pdebench": (_is_pdebench, _pdebench),
    "the_well": (_is_the_well, _the_well),
    "matlab": (is_matlab, _matlab),
}
