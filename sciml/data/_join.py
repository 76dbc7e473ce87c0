"""Several data sets as one: along a dimension that they have, or along a new one, and what makes them not fit."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from ._cf import calendar_of, times_report
from ._dataset import SAMPLE_NAMES, Coordinate, Dataset
from ._lazy import Joined, Lazy, Stacked
from ._source import DataError

TOLERANCE = 1e-3  # of the smallest step: positions that differ by less are the same
COMPARED_BYTES = 2**20


def join(parts: Sequence[Dataset], labels: Sequence[str], along: str | None = None) -> Dataset:
    """One data set of several, named by `labels` in errors.

    Along a dimension that they have they are ordered by its coordinate (by name without one); a new dimension keeps
    their order. By default it is the dimension along which they differ. Raises DataError, naming file and variable,
    for missing variables, other units, calendars, kinds of numbers or grids, and for times that overlap or repeat.
    """
    if len(parts) == 1 and along is None:
        return parts[0]
    _refuse_differences(parts, labels)
    along = _differing_dimension(parts, labels) if along is None else along
    _refuse_other_grids(parts, labels, along)
    if along in parts[0].dims:
        parts, labels = _in_order(parts, labels, along)
        return _joined(parts, labels, along)
    return _stacked(parts, labels, along)


def _refuse_differences(parts: Sequence[Dataset], labels: Sequence[str]) -> None:
    """Variables, their dimensions, units and kinds, and calendars must be those of the first file."""
    first = parts[0]
    for part, label in zip(parts[1:], labels[1:]):
        for name in (*first.arrays, *part.arrays):
            if name in first.arrays and name in part.arrays:
                continue
            has, lacks = (labels[0], label) if name in first.arrays else (label, labels[0])
            raise DataError(f"{lacks} has no variable '{name}', which {has} has; leave one of the files out")
        for name, array in first.arrays.items():
            _refuse_other_array(name, array, part.arrays[name], labels[0], label)
        # Time itself is named before its bounds.
        for name in sorted(first.coords.keys() & part.coords.keys(), key=lambda n: (n not in first.dims, n)):
            one, other = first.coords[name], part.coords[name]
            calendars = calendar_of(one.values), calendar_of(other.values)
            _refuse_unequal(f"the calendar of '{name}'", *calendars, labels[0], label)
            units, others = (c.attributes.get("units") for c in (one, other))
            _refuse_unequal(f"the units of '{name}'", units, others, labels[0], label)


def _refuse_other_array(name: str, one: Lazy, other: Lazy, label: str, other_label: str) -> None:
    _refuse_unequal(f"the dimensions of '{name}'", one.dims, other.dims, label, other_label)
    units = (one.attributes.get("units"), other.attributes.get("units"))
    _refuse_unequal(f"the units of '{name}'", *units, label, other_label)
    if _kind(one.dtype) != _kind(other.dtype):
        raise DataError(
            f"mixed dtypes: '{name}' is {one.dtype} in {label} and {other.dtype} in {other_label}; convert one of them"
        )


def _kind(dtype: np.dtype) -> str:
    return {"u": "i"}.get(dtype.kind, dtype.kind)


def _refuse_unequal(what: str, one: object, other: object, label: str, other_label: str) -> None:
    if one != other:
        raise DataError(
            f"files differ in {what}: {one!r} in {label}, {other!r} in {other_label}; convert one or leave it out"
        )


def _differing_dimension(parts: Sequence[Dataset], labels: Sequence[str]) -> str:
    first = parts[0]

    def differs(dim: str) -> bool:
        if any(p.dims.get(dim) != first.dims[dim] for p in parts[1:]):
            return True
        return any(_difference(_positions(first, dim), _positions(p, dim)) for p in parts[1:])

    found = [d for d in first.dims if differs(d)]
    if not found:
        # Samples have no positions, so nothing tells them apart.
        found = [d for d in first.dims if d in SAMPLE_NAMES and _positions(first, d) is None][:1]
    if len(found) == 1:
        return found[0]
    reason = f"the files differ along {' and '.join(found)}" if found else "the files have the same coordinates"
    raise DataError(
        f"{reason} ({labels[0]}, ...): give along=, one of {', '.join(first.dims)} or the name of a new dimension"
    )


def _positions(dataset: Dataset, dim: str) -> np.ndarray | None:
    coord = dataset.coords.get(dim)
    return coord.values if coord is not None and coord.dims == (dim,) else None


def _difference(one: np.ndarray | None, other: np.ndarray | None) -> str:
    """How the positions along a dimension differ; empty where they agree."""
    if one is None or other is None:
        return "" if one is other else "only one has a coordinate"
    if one.shape != other.shape:
        return f"{one.shape} and {other.shape} entries"
    if one.dtype.kind in "iuf" and other.dtype.kind in "iuf":
        a, b = one.astype(np.float64), other.astype(np.float64)
        steps = np.abs(np.diff(a, axis=-1)) if a.ndim and a.shape[-1] > 1 else np.zeros(0)
        smallest = float(steps[steps > 0].min()) if (steps > 0).any() else 0.0
        # float32 and float64 writings of one grid differ by rounding.
        rounding = 1e-6 * float(np.nanmax(np.abs(a))) if a.size else 0.0
        wrong = np.abs(a - b) > max(TOLERANCE * smallest, min(rounding, 0.1 * smallest) if smallest else rounding)
        wrong |= np.isnan(a) != np.isnan(b)
    else:
        wrong = np.asarray(one != other)
    if not wrong.any():
        return ""
    place = tuple(int(i) for i in np.argwhere(wrong)[0]) if wrong.ndim else ()
    return f"{one[place]} and {other[place]} at {place}"


def _refuse_other_grids(parts: Sequence[Dataset], labels: Sequence[str], along: str) -> None:
    first = parts[0]
    for part, label in zip(parts[1:], labels[1:]):
        for dim, size in first.dims.items():
            if dim == along:
                continue
            if part.dims.get(dim) != size:
                raise DataError(f"'{dim}' has {size} entries in {labels[0]} and {part.dims.get(dim)} in {label}")
            how = _difference(_positions(first, dim), _positions(part, dim))
            if how:
                raise DataError(f"the grids differ: '{dim}' is {how} in {labels[0]} and {label}")


def _in_order(parts: Sequence[Dataset], labels: Sequence[str], along: str):
    """The parts by the first position along the dimension, which must run on from each part to the next."""
    positions = [_positions(p, along) for p in parts]
    if any(p is None or not p.size for p in positions):
        return parts, labels
    known = [p for p in positions if p is not None]
    if known[0].dtype.kind not in "iuf" and not calendar_of(known[0]):
        return parts, labels
    falling = all(len(p) < 2 or p[0] > p[-1] for p in known) and any(len(p) > 1 for p in known)
    order = sorted(range(len(parts)), key=lambda i: known[i][0], reverse=falling)
    for before, after in zip(order, order[1:]):
        last, start = known[before][-1], known[after][0]
        if (start >= last) if falling else (start <= last):
            what = "is repeated" if start == last else "overlaps"
            raise DataError(
                f"'{along}' {what}: {labels[before]} ends at {last}, {labels[after]} begins at {start}; leave one file "
                "out, or select parts that do not overlap with xarray and pass those to sciml.open"
            )
    return [parts[i] for i in order], [labels[i] for i in order]


def _joined(parts: Sequence[Dataset], labels: Sequence[str], along: str) -> Dataset:
    def one(name: str) -> Lazy:
        arrays = tuple(p.arrays[name] for p in parts)
        if along in arrays[0].dims:
            return Joined(arrays, arrays[0].dims.index(along))
        _refuse_other_constant(name, arrays, labels)
        return arrays[0]

    return _whole(parts, one, along, {})


def _stacked(parts: Sequence[Dataset], labels: Sequence[str], along: str) -> Dataset:
    def one(name: str) -> Lazy:
        return Stacked(tuple(p.arrays[name] for p in parts), 0, along)

    scalars = [p.coords[along].values for p in parts if along in p.coords and not p.coords[along].dims]
    names = [label.rsplit("/", 1)[-1] for label in labels]
    values = np.array([s[()] for s in scalars]) if len(scalars) == len(parts) else np.array(names)
    return _whole(parts, one, along, {along: Coordinate((along,), values)})


def _whole(parts: Sequence[Dataset], one: Callable[[str], Lazy], along: str, new: Mapping[str, Coordinate]) -> Dataset:
    first = parts[0]
    coords = dict(new)
    for name, coord in first.coords.items():
        every = [p.coords[name].values for p in parts if name in p.coords]
        if name in new or len(every) < len(parts):
            continue
        if along in coord.dims:
            coords[name] = replace(coord, values=np.concatenate(every, axis=coord.dims.index(along)))
        elif not any(_difference(coord.values, values) for values in every):
            coords[name] = coord
        elif new and len({v.shape for v in every}) == 1:
            coords[name] = replace(coord, dims=(along, *coord.dims), values=np.stack(every))
    attributes = {k: v for k, v in first.attributes.items() if all(p.attributes.get(k) == v for p in parts)}
    sources = tuple(s for p in parts for s in p.sources)
    return Dataset({n: one(n) for n in first.arrays}, coords, attributes, sources)


def _refuse_other_constant(name: str, arrays: Sequence[Lazy], labels: Sequence[str]) -> None:
    """A variable without the dimension must be the same in all files; large ones are taken from the first unread."""
    first = arrays[0]
    if int(np.prod(first.shape, dtype=np.int64)) * first.dtype.itemsize > COMPARED_BYTES:
        return
    values = first.read()
    for other, label in zip(arrays[1:], labels[1:]):
        if not np.array_equal(values, other.read(), equal_nan=values.dtype.kind == "f"):
            raise DataError(
                f"'{name}' differs between {labels[0]} and {label} but has not the dimension along which they are "
                "joined; leave it out, or join along a new dimension (along='file')"
            )


def refuse_bad_times(name: str, values: np.ndarray, label: str) -> None:
    """Raises DataError for times that are missing, repeated or run backwards, naming the first place."""
    report = times_report(values)
    known, ordered = f"isel({name}=ds['{name}'].notnull())", f"sortby('{name}').drop_duplicates('{name}')"
    for what, places, remedy in (
        ("is missing", report.missing, known),
        ("repeats the one before (duplicate times)", report.duplicates, ordered),
        ("is before the one before it (reversed times)", report.reversed, ordered),
    ):
        if places:
            where = places[0]
            more = f" and {len(places) - 1} more" if len(places) > 1 else ""
            raise DataError(
                f"{label}: '{name}'[{where}] = {values[where]} {what}{more}; mend it with xarray: "
                f"ds = xarray.open_dataset(path); sciml.open(ds.{remedy})"
            )
