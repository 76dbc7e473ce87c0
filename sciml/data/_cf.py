"""The CF conventions: packed and missing numbers, dates in their calendars, and what is wrong with a time axis."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ._lazy import Lazy, Mapped
from ._source import DataError

PACKING = ("scale_factor", "add_offset", "_FillValue", "missing_value", "_Unsigned")
# NetCDF's own fill value, 9.97e36, where a file does not declare it; no data are as large.
LARGEST = 9.9e36
GAP = 1.5  # a step that is longer than this many usual steps is a gap


@dataclass(frozen=True)
class Unpack:
    """Packed numbers to physical ones: `number * scale + offset`, NaN where a number is one of `missing`.

    CF conventions 1.11, sections 2.5.1 and 8.1. Computed in float64 and rounded once.
    """

    dtype: np.dtype
    scale: float | None
    offset: float | None
    missing: tuple[float, ...]
    unsigned: str | None = None

    def __call__(self, packed: np.ndarray) -> np.ndarray:
        """The physical numbers, of the same shape."""
        packed = packed.view(self.unsigned) if self.unsigned else packed
        if self.scale is None and self.offset is None:
            values = packed.astype(self.dtype)
        else:
            values = np.empty(packed.shape, self.dtype)
            exact = np.multiply(packed, 1.0 if self.scale is None else self.scale, dtype=np.float64)
            np.add(exact, self.offset or 0.0, out=values, casting="same_kind")
        for mark in self.missing:
            found = packed == np.asarray(mark, packed.dtype)
            if found.any():
                values[found] = np.nan
        return values


def decoded(array: Lazy) -> Lazy:
    """The same array with `scale_factor`, `add_offset`, `_FillValue`, `missing_value` and `_Unsigned` applied; itself
    where it has none.

    Packed integers of 8 and 16 bits become float32, wider ones float64; floating-point numbers keep their type.
    Raises DataError for attributes that are no numbers.
    """
    attributes, kind = array.attributes, array.dtype.kind
    if kind not in "biuf" or not any(name in attributes for name in PACKING):
        return array
    scale, offset = (_number(attributes, name) for name in ("scale_factor", "add_offset"))
    unsigned = _unsigned(array)
    stored = np.dtype(unsigned) if unsigned else array.dtype
    missing = _missing(attributes, stored)
    rest = {k: v for k, v in attributes.items() if k not in PACKING}
    if scale is None and offset is None and not missing and not unsigned:
        return relabelled(array, attributes=rest) if rest != attributes else array
    wanted = _decoded_type(stored, scale, offset, missing)
    function = Unpack(wanted, scale, offset, missing, unsigned)
    name = f"scale {scale}, offset {offset}, missing {missing}, unsigned {unsigned}"
    return Mapped(array, function, wanted, name, rest)


@dataclass(frozen=True)
class Relabelled(Mapped):
    """The same numbers with other dimensions or attributes."""

    names: tuple[str, ...] = ()

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "dims", self.names)

    def read_into(self, box, out):
        self.inner.read_into(box, out)


def relabelled(array: Lazy, dims: tuple[str, ...] | None = None, attributes: Mapping[str, Any] | None = None) -> Lazy:
    """The same array with other names of its dimensions, or other attributes."""
    names = array.dims if dims is None else dims
    labels = array.attributes if attributes is None else attributes
    return Relabelled(array, _unchanged, array.dtype, f"on {', '.join(names)}", labels, names)


def _unchanged(values: np.ndarray) -> np.ndarray:
    return values


def _decoded_type(stored: np.dtype, scale, offset, missing) -> np.dtype:
    if scale is None and offset is None and not missing:
        return stored
    if stored.kind == "f":
        return stored
    return np.dtype(np.float32 if stored.itemsize <= 2 else np.float64)


def _number(attributes: Mapping[str, Any], name: str) -> float | None:
    if name not in attributes:
        return None
    try:
        return float(attributes[name])
    except (TypeError, ValueError):
        raise DataError(f"the attribute {name} must be a number, got {attributes[name]!r}") from None


def _unsigned(array: Lazy) -> str | None:
    """The type that signed bytes stand for, or that unsigned ones do: NetCDF-3 has no unsigned integers."""
    flag = str(array.attributes.get("_Unsigned", "")).lower()
    if array.dtype.kind == "i" and flag == "true":
        return f"u{array.dtype.itemsize}"
    if array.dtype.kind == "u" and flag == "false":
        return f"i{array.dtype.itemsize}"
    return None


def _missing(attributes: Mapping[str, Any], stored: np.dtype) -> tuple[float, ...]:
    """The marks of missing numbers that the stored type can hold; NaN marks itself."""
    found: list[Any] = []
    for name in ("_FillValue", "missing_value"):
        if name not in attributes:
            continue
        for value in np.atleast_1d(np.asarray(attributes[name])):
            if np.asarray(value).dtype.kind not in "biuf":
                raise DataError(f"the attribute {name} must be a number, got {attributes[name]!r}")
            if stored.kind == "f":
                mark = float(np.asarray(value).astype(stored))
                found += [] if np.isnan(mark) else [mark]
            elif np.isfinite(value) and float(value) == int(value):
                # -1 written for 255 where signed bytes stand for unsigned ones.
                wrapped = int(value) + (256**stored.itemsize if stored.kind == "u" and value < 0 else 0)
                info = np.iinfo(stored) if stored.kind in "iu" else np.iinfo(np.uint8)
                found += [wrapped] if info.min <= wrapped <= info.max else []
    return tuple(dict.fromkeys(found))


def is_time(attributes: Mapping[str, Any]) -> bool:
    """Whether numbers with these attributes are dates: CF units "... since ..."."""
    return " since " in str(attributes.get("units", ""))


def decode_time(values: np.ndarray, attributes: Mapping[str, Any]) -> np.ndarray:
    """Numbers with units such as "hours since 1900-01-01" as dates: datetime64[ns] in the standard calendar where it
    reaches (1678 to 2262), else cftime's dates in the calendar that is named (`noleap`, `360_day`, ...).

    Raises DataError for units or a calendar that CF does not know.
    """
    import xarray as xr

    wanted = {k: attributes[k] for k in ("units", "calendar", "_FillValue", "missing_value") if k in attributes}
    variable = xr.Dataset({"time": xr.Variable(tuple(f"d{i}" for i in range(values.ndim)), values, wanted)})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # dates beyond datetime64 come as cftime's, as documented
            out = xr.decode_cf(variable, decode_times=xr.coders.CFDatetimeCoder(time_unit="ns"))["time"].values
    except (ValueError, OverflowError) as error:
        raise DataError(
            f"cannot decode times with units {attributes.get('units')!r} and calendar "
            f"{attributes.get('calendar', 'standard')!r} ({str(error).splitlines()[0]}); expected for example "
            "'days since 2000-01-01' and a CF calendar"
        ) from None
    return finest_dates(out) if out.dtype.kind == "M" else out


def finest_dates(values: np.ndarray) -> np.ndarray:
    """The same datetime64 in nanoseconds where these reach (1678 to 2262), else in microseconds."""
    reach = np.array(["1678", "2262"], "datetime64[Y]")
    inside = np.isnat(values) | ((values >= reach[0]) & (values < reach[1]))
    return values.astype("datetime64[ns]" if inside.all() else "datetime64[us]")


def calendar_of(values: np.ndarray) -> str:
    """The calendar of decoded dates, one name for each; empty for numbers."""
    if values.dtype.kind == "M":
        return "standard"
    if values.dtype.kind == "O" and values.size and hasattr(values.flat[0], "calendar"):
        name = str(values.flat[0].calendar)
        return {"gregorian": "standard", "365_day": "noleap", "366_day": "all_leap"}.get(name, name)
    return ""


@dataclass(frozen=True)
class TimeReport:
    """What a time axis looks like: the places (numbers of entries) where it is repeated, runs backwards, jumps over
    more than 1.5 usual steps, or is missing; `step` is the usual one, in seconds for dates.
    """

    count: int
    step: float
    duplicates: tuple[int, ...]
    reversed: tuple[int, ...]
    gaps: tuple[int, ...]
    missing: tuple[int, ...]


def times_report(values: np.ndarray) -> TimeReport:
    """The faults of a one-dimensional time axis: dates (datetime64 or cftime) or numbers."""
    values = np.asarray(values)
    seconds = _seconds(values)
    missing = np.flatnonzero(np.isnan(seconds))
    kept = np.flatnonzero(~np.isnan(seconds))
    steps = np.diff(seconds[kept])
    forward = steps[steps > 0]
    usual = float(np.median(forward)) if forward.size else 0.0

    def places(which: np.ndarray) -> tuple[int, ...]:
        return tuple(int(kept[i + 1]) for i in np.flatnonzero(which))

    return TimeReport(
        count=len(values),
        step=usual,
        duplicates=places(steps == 0),
        reversed=places(steps < 0),
        gaps=places(steps > GAP * usual) if usual else (),
        missing=tuple(int(i) for i in missing),
    )


def _seconds(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind in "Mm":
        # From the first day on, since float64 holds nanoseconds exactly for a hundred days only; days apart from the
        # rest, since 64 bits hold nanoseconds for 292 years only.
        days = values.astype(f"{values.dtype.kind}8[D]")
        start = days[~np.isnat(days)][:1]
        second = np.timedelta64(1, "s")
        return (days - start) / second + (values - days) / second if start.size else np.full(len(values), np.nan)
    if values.dtype.kind == "O":
        first = next((v for v in values if hasattr(v, "calendar")), None)
        return np.array([(v - first).total_seconds() if hasattr(v, "calendar") else np.nan for v in values], float)
    return values.astype(np.float64)
