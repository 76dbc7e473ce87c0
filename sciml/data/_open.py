"""`sciml.open`: from paths to a data set, whatever the format."""

import glob
import os
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ._cf import calendar_of, decode_time, decoded, finest_dates, is_time, relabelled
from ._dataset import TIME_NAMES, Coordinate, Dataset
from ._hdf5 import HDF5
from ._join import join, refuse_bad_times
from ._layouts import LAYOUTS, Arranged, arranged
from ._lazy import Lazy
from ._matlab import Matlab
from ._netcdf import NetCDF3, NetCDF4
from ._numpy import Npy, Npz
from ._source import DataError, Source
from ._text import SUFFIXES as TEXT_SUFFIXES
from ._text import Text
from ._torch import Torch
from ._xarray import XArray
from ._zarr import MARKS, Zarr

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
NETCDF_SUFFIXES = (".nc", ".nc4", ".cdf", ".netcdf")
SUFFIXES = (*NETCDF_SUFFIXES, ".h5", ".hdf5", ".zarr", ".npy", ".npz", ".pt", ".pth", ".mat")
TABLES = (".csv", ".tsv")
FOREIGN = {
    b"GRIB": "GRIB: open it with xarray and cfgrib, and pass the xarray Dataset to sciml.open",
    b"\x0e\x03\x13\x01": "HDF4: convert it to HDF5 (h4toh5) or NetCDF",
    b"\x80\x02\x8a\x0a": "a torch file from before 1.6: load it with torch and save it again",
}


def open(
    path: Any,
    *,
    group: str | None = None,
    along: str | None = None,
    absent: str = "error",
    layout: str | None = None,
) -> Dataset:
    """A data set of named variables, which are read when they are needed.

    - `path`: a file or folder (HDF5, NetCDF-3 and -4, Zarr 2 and 3, `.npy`, `.npz`, torch's `.pt`, MATLAB's `.mat`,
      told apart by their content; tables `.csv`, `.tsv`, `.txt` and `.dat`), a pattern such as `"run_*.nc"`, a folder
      of such files, a `Source`, an xarray Dataset or DataArray, or a list of any of these, which become one data set.
    - `group`: the group of the file to take, by default all, named `group/name`.
    - `along`: the dimension along which several files are joined, in the order of its coordinate; one that they do not
      have becomes a new first dimension. By default the one along which they differ.
    - `absent`: `"fill"` gives the fill value for chunks that a Zarr store does not have, which else are an error.
    - `layout`: `"pdebench"`, `"the_well"`, `"matlab"` or `"plain"`; by default recognised.

    CF conventions are applied: packed numbers are unpacked, missing ones are NaN, times become dates in their calendar.
    Raises FileNotFoundError where nothing matches, DataError naming the file for what cannot be read or does not fit.
    """
    if layout not in (None, "plain", *LAYOUTS):
        raise ValueError(f"layout must be 'plain' or one of {', '.join(LAYOUTS)}, got {layout!r}")
    parts, labels = [], []
    for part, label in parts_of(path, group, absent, layout):
        _refuse_bad_times(part, label)
        parts.append(part)
        labels.append(label)
    return join(parts, labels, along)


def parts_of(
    path: Any, group: str | None = None, absent: str = "error", layout: str | None = None
) -> Iterator[tuple[Dataset, str]]:
    """The data set of each file and its name for errors, whatever their times are like. Arguments as in `open`."""
    try:
        for item in _expand(path):
            source = item if isinstance(item, Source) else _source(item, group, absent)
            label = str(getattr(source, "path", None) or getattr(source, "name", type(source).__name__))
            yield _dataset(source, label, layout), label
    except PermissionError as error:
        raise DataError(f"{error.filename}: no permission to read it; see its owner and mode (ls -l)") from None


def _refuse_bad_times(part: Dataset, label: str) -> None:
    for name, coord in part.coords.items():
        if coord.dims == (name,) and _is_time_axis(name, coord):
            refuse_bad_times(name, coord.values, label)


def _expand(path: Any) -> list[Any]:
    """Files, stores, sources and xarray objects, one by one."""
    if isinstance(path, str | os.PathLike):
        return _expand_path(path)
    if isinstance(path, Source) or _is_xarray(path):
        return [path]
    if isinstance(path, Sequence) or hasattr(path, "__iter__"):
        found = [item for entry in path for item in _expand(entry)]
        if not found:
            raise FileNotFoundError("no files: the list is empty")
        return found
    raise TypeError(f"expected a path, a pattern, a list, a Source or an xarray Dataset, got {type(path).__name__}")


def _expand_path(path: str | os.PathLike) -> list[Path]:
    text = os.path.expanduser(os.fspath(path))
    if not os.path.exists(text):
        if not glob.has_magic(text):
            raise FileNotFoundError(f"no file or folder '{text}' (in {os.getcwd()})")
        matches = sorted(glob.glob(text, recursive=True), key=_natural)
        if not matches:
            raise FileNotFoundError(f"no file matches the pattern '{text}' (in {os.getcwd()})")
        return [Path(m) for m in matches]
    here = Path(text)
    if here.is_dir() and not any((here / mark).exists() for mark in MARKS):
        inside = sorted((p for p in here.iterdir() if not p.name.startswith(".")), key=lambda p: _natural(str(p)))
        # A file that is named like data but is none must not be left out unseen.
        known = [p for p in inside if _kind_of(p) not in (None, "text") or p.suffix in SUFFIXES]
        # Beside other data a table is a list of them.
        known = known or [p for p in inside if p.suffix.lower() in TABLES]
        if not known:
            raise DataError(
                f"{here}: neither a Zarr store nor a folder of data files ({', '.join((*SUFFIXES, *TABLES))})"
            )
        return known
    return [here]


def _natural(text: str) -> list[Any]:
    """Sorts run_2 before run_10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", text)]


def _is_xarray(value: Any) -> bool:
    return type(value).__module__.split(".")[0] == "xarray" and hasattr(value, "dims") and hasattr(value, "encoding")


def _kind_of(path: Path) -> str | None:
    """The format of a file, by its content."""
    if path.is_dir():
        return "zarr" if any((path / mark).exists() for mark in MARKS) else None
    with path.open("rb") as file:
        head = file.read(8)
        if head == HDF5_MAGIC:
            return "netcdf4" if path.suffix in NETCDF_SUFFIXES else "hdf5"
        offset, size = 512, path.stat().st_size
        while offset < min(size, 2**24):  # a user block may stand before the superblock
            file.seek(offset)
            if file.read(8) == HDF5_MAGIC:
                return "hdf5"
            offset *= 2
    if head[:3] == b"CDF" and head[3:4] in (b"\x01", b"\x02", b"\x05"):
        return "netcdf3"
    if head[:6] == b"\x93NUMPY":
        return "npy"
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return _kind_of_zip(path)
    if head == b"MATLAB 5" or (path.suffix.lower() == ".mat" and size):
        return "matlab"
    return "text" if path.suffix.lower() in TEXT_SUFFIXES and size else None


def _kind_of_zip(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = {n.rsplit("/", 1)[-1] for n in archive.namelist()}
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError):
        raise DataError(f"{path}: a truncated or damaged zip archive; copy it again") from None
    if "data.pkl" in names:
        return "torch"
    if names & set(MARKS):
        return "zarr"
    return "npz" if not names or any(n.endswith(".npy") for n in names) else None


def _source(item: Any, group: str | None, absent: str) -> Source:
    if _is_xarray(item):
        return XArray(item if hasattr(item, "data_vars") else item.to_dataset(name=item.name or "data"))
    kind = _kind_of(item)
    if group is not None and kind not in (None, "hdf5", "netcdf4", "zarr"):
        raise DataError(f"{item}: has no groups; leave out group={group!r}")
    if kind == "zarr":
        return Zarr(item, group, absent)
    if kind in ("hdf5", "netcdf4"):
        return (HDF5 if kind == "hdf5" else NetCDF4)(item, group)
    readers = {"netcdf3": NetCDF3, "npy": Npy, "npz": Npz, "torch": Torch, "matlab": Matlab, "text": Text}
    if kind in readers:
        return readers[kind](item)
    raise DataError(_unknown(item))


def _unknown(path: Path) -> str:
    if path.is_dir():
        return f"{path}: neither a Zarr store nor a file"
    if not path.stat().st_size:
        return f"{path}: the file is empty (0 bytes)"
    with path.open("rb") as file:
        head = file.read(16)
    for magic, remedy in FOREIGN.items():
        if head.startswith(magic):
            return f"{path}: {remedy}"
    if path.suffix in (".h5", ".hdf5", *NETCDF_SUFFIXES):
        return f"{path}: not an HDF5 or NetCDF file, or truncated (it begins with {head[:8]!r}); copy it again"
    known = "HDF5, NetCDF, Zarr, .npy, .npz, .pt, .mat or a table"
    return f"{path}: unknown format (it begins with {head[:8]!r}); expected {known}"


# From a source to a data set.


def _dataset(source: Source, label: str, layout: str | None) -> Dataset:
    try:
        if isinstance(source, XArray):
            content = Arranged(*_described(source))
        else:
            content = arranged(source, layout) or _plain(source, label)
    except DataError as error:
        raise error if str(error).startswith(label) else DataError(f"{label}: {error}") from None
    skipped = list(getattr(source, "skipped", []))
    if not content.arrays:
        raise DataError(
            f"{label}: holds no variables of numbers; coordinates: {', '.join(content.coords) or 'none'}; "
            f"of other types: {', '.join(skipped) or 'none'}"
        )
    for name, array in content.arrays.items():
        if 0 in array.shape:
            dim = array.dims[array.shape.index(0)]
            raise DataError(
                f"{label}: '{name}' is empty: '{dim}' has no entries; leave the file out, or the variable: "
                f"sciml.open(xarray.open_dataset(path).drop_vars('{name}'))"
            )
    attributes = dict(source.attributes) | dict(content.attributes) | ({"skipped": skipped} if skipped else {})
    return Dataset(content.arrays, content.coords, attributes, (source,))


def _is_time_axis(name: str, coord: Coordinate) -> bool:
    marked = coord.attributes.get("axis") == "T" or coord.attributes.get("standard_name") == "time"
    return bool(calendar_of(coord.values)) or marked or name in TIME_NAMES


def _described(source: XArray):
    """The variables of an xarray Dataset, and its coordinates, which are decoded already."""
    from ._lazy import Stored

    coords = {}
    for name, variable in source.dataset.coords.items():
        values = np.asarray(variable.values)
        values = finest_dates(values) if values.dtype.kind == "M" else values
        coords[str(name)] = Coordinate(tuple(map(str, variable.dims)), values, dict(variable.attrs))
    return {n: Stored(source, n) for n in source.variables()}, coords


def _plain(source: Source, label: str) -> Arranged:
    """Variables and coordinates as CF and NetCDF mark them."""
    from ._lazy import Stored

    arrays: dict[str, Lazy] = {n: Stored(source, n) for n in source.variables()}
    owners = _coordinate_names(arrays, source.attributes)
    positions = {n: _coordinate(arrays[n], owner, n) for n, owner in owners.items()}
    dims = _unique_dims(arrays, positions)
    coords: dict[str, Coordinate] = {}
    for name, coord in positions.items():
        base, own = name.rsplit("/", 1)[-1], coord.dims
        renamed = tuple(dims[name, d] for d in own)
        title = renamed[0] if own == (base,) else base if base not in coords and base not in arrays else name
        coords.setdefault(title, Coordinate(renamed, coord.values, coord.attributes))
    out = {}
    for name, array in arrays.items():
        if name in owners:
            continue
        names = tuple(dims[name, d] for d in array.dims)
        out[name] = decoded(array if names == array.dims else relabelled(array, names))
    return Arranged(out, coords)


def _coordinate_names(arrays: Mapping[str, Lazy], attributes: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The variables that are coordinates, each with the attributes that tell how to decode it: those named like their
    dimension, those that `coordinates`, `bounds` and `grid_mapping` name, and scalars.
    """
    found: dict[str, Mapping[str, Any]] = {}
    for name, array in arrays.items():
        if array.dims in ((), (name.rsplit("/", 1)[-1],)):
            found.setdefault(name, array.attributes)
        folder = name[: name.rfind("/") + 1]
        for key in ("coordinates", "bounds", "climatology", "grid_mapping"):
            for word in str(array.attributes.get(key, "")).replace(":", " ").split():
                other = next((n for n in (folder + word, word) if n in arrays), None)
                if other is not None and other != name:
                    bounds = key in ("bounds", "climatology")
                    found[other] = (dict(array.attributes) if bounds else {}) | dict(arrays[other].attributes)
    for word in str(attributes.get("coordinates", "")).split():
        if word in arrays:
            found.setdefault(word, arrays[word].attributes)
    return found


def _coordinate(array: Lazy, attributes: Mapping[str, Any], name: str) -> Coordinate:
    """A coordinate, read and decoded."""
    kept = {k: v for k, v in array.attributes.items() if k not in ("units", "calendar", "_FillValue", "missing_value")}
    if is_time(attributes):
        try:
            return Coordinate(array.dims, decode_time(array.read(), attributes), kept)
        except DataError as error:
            raise DataError(f"'{name}': {error}") from None
    plain = decoded(array)
    return Coordinate(array.dims, plain.read(), dict(plain.attributes))


def _unique_dims(arrays: Mapping[str, Lazy], coords: Mapping[str, Coordinate]) -> dict[tuple[str, str], str]:
    """A name for each variable's dimensions: dimensions of one name in several groups are one if their sizes and
    coordinates agree, else each has its group's name before it.
    """
    known: dict[str, tuple[int, np.ndarray | None]] = {}
    chosen: dict[tuple[str, str, int], str] = {}
    out = {}
    for name, array in arrays.items():
        group = name.rpartition("/")[0]
        for dim, size in zip(array.dims, array.shape):
            if (group, dim, size) not in chosen:
                own = coords.get(f"{group}/{dim}" if group else dim)
                positions = own.values if own is not None and own.values.shape == (size,) else None
                title = dim
                if not _agrees(known.get(dim), size, positions):
                    title = f"{(group or name).replace('/', '_')}_{dim}"
                known.setdefault(title, (size, positions))
                chosen[group, dim, size] = title
            out[name, dim] = chosen[group, dim, size]
    return out


def _agrees(known: tuple[int, np.ndarray | None] | None, size: int, positions: np.ndarray | None) -> bool:
    if known is None:
        return True
    if known[0] != size:
        return False
    return known[1] is None or positions is None or np.array_equal(known[1], positions)
