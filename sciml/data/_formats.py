"""How data sets lie in files: dimension scales in HDF5, dimension names in Zarr, and two published layouts."""

import asyncio
import contextlib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ._content import Content, Shapes, plain_attributes
from ._source import DataError

FORMATS = ("hdf5", "netcdf", "zarr")
COMPRESSIONS = {"hdf5": ("gzip", "lzf"), "netcdf": ("gzip",), "zarr": ("zstd", "gzip")}
# How NetCDF-4 marks a dimension that has no coordinate.
NO_COORDINATE = "This is a netCDF dimension but not a netCDF variable. {:10d}"
SPECIAL = ("sample", "time", "component")
BOUNDARIES = {"periodic": "PERIODIC", "wall": "WALL", "dirichlet": "WALL", "open": "OPEN"}


def check_options(format: str, compression: str | None) -> None:
    """Raises ValueError for a compression that the format does not have."""
    known = COMPRESSIONS[format]
    if compression not in ("auto", None, *known):
        raise ValueError(f"no compression '{compression}' in {format}; there are auto, None, {', '.join(known)}")


class _Guarded:
    """A file for h5py that keeps the first error of the disk instead of raising it inside the HDF5 library, which
    cannot close a file after one and then ends the process.
    """

    def __init__(self, path: Path):
        self._file = open(path, "w+b", buffering=0)
        self.error: OSError | None = None

    def write(self, data) -> int:
        view = memoryview(data).cast("B")
        done = 0
        while self.error is None and done < len(view):
            try:
                done += self._file.write(view[done:]) or 0
            except OSError as error:
                self.error = error
        if done < len(view):
            self._file.seek(len(view) - done, 1)
        return len(view)

    def readinto(self, buffer) -> int:
        view = memoryview(buffer).cast("B")
        count = self._file.readinto(view) or 0
        view[count:] = bytes(len(view) - count)
        return len(view)

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def truncate(self, size: int | None = None) -> int:
        try:
            return self._file.truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self._file.close()

    def check(self) -> None:
        """Raises the error of the disk, if there was one."""
        if self.error is not None:
            raise self.error


@contextlib.contextmanager
def open_store(path: Path, format: str) -> Iterator[tuple[Any, Callable[[], None]]]:
    """A new HDF5 file or Zarr group, and a function that raises what went wrong on the disk."""
    if format == "zarr":
        import zarr

        # By default chunks of zeros are left out, and could not be told from chunks that are lost.
        try:
            with zarr.config.set({"array.write_empty_chunks": True}):
                yield zarr.create_group(path, zarr_format=3), lambda: None
        except BaseException:
            _wait_for_zarr()
            raise
        return
    import h5py

    guarded = _Guarded(path)
    try:
        # NetCDF-4 asks for the order of creation.
        with h5py.File(guarded, "w", track_order=True) as store:
            yield store, guarded.check
        guarded.check()
    finally:
        guarded.close()


def _wait_for_zarr() -> None:
    """Lets zarr-python end: after an error it goes on writing other chunks, into a folder that is to be removed."""
    from zarr.core.sync import sync

    async def others() -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*tasks, return_exceptions=True)

    sync(others())


# The plain layout: one array per variable and per coordinate.


def create_plain(store, content: Content, shapes: Shapes, compression: str | None) -> None:
    """Makes the arrays of all variables, without their numbers."""
    for name, variable in content.variables.items():
        dims = variable.dims
        _array(store, name, dims, variable.shape, variable.dtype, shapes[name], compression)
        store[name].attrs.update(plain_attributes(_without_packing(variable.attributes)))
    store.attrs.update(plain_attributes(content.attributes))
    for name, value in content.parameters.items():
        if name not in content.attributes:
            store.attrs[name] = float(value)


def put_plain(store, content: Content, corner: tuple[int, ...], arrays: dict[str, np.ndarray]) -> None:
    """Writes a block."""
    for name, array in arrays.items():
        starts = (*corner, *(0,) * (array.ndim - len(corner)))
        box = tuple(slice(start, start + size) for start, size in zip(starts, array.shape))
        store[name][box or ...] = array


def write_coordinates(store, content: Content) -> None:
    """Writes the coordinates, and in HDF5 makes them the scales of their dimensions."""
    is_zarr = not hasattr(store, "id")
    for name, (dims, values, attributes) in content.coords.items():
        if name in content.variables:
            raise DataError(f"'{name}' is both a variable and a coordinate; rename one")
        _put_array(store, name, dims, np.asarray(values))
        store[name].attrs.update(plain_attributes(attributes))
    auxiliary = [n for n in content.coords if n not in content.dims]
    for name, variable in content.variables.items():
        found = [n for n in auxiliary if set(content.coords[n][0]) <= set(variable.dims)]
        if found:
            store[name].attrs["coordinates"] = " ".join(found)
    if is_zarr:
        return
    for number, (dim, size) in enumerate(content.dims.items()):
        if dim not in store:
            store.create_dataset(dim, shape=(size,), dtype=">f4")
            store[dim].make_scale(NO_COORDINATE.format(size))
        elif content.coords[dim][0] == (dim,):
            store[dim].make_scale(dim)
        else:
            raise DataError(f"the coordinate '{dim}' has the dimensions {content.coords[dim][0]}, expected itself only")
        store[dim].attrs["_Netcdf4Dimid"] = np.int32(number)
    named = {n: v.dims for n, v in content.variables.items()} | {n: c[0] for n, c in content.coords.items()}
    for name, dims in named.items():
        for axis, dim in enumerate(dims):
            if name != dim:
                store[name].dims[axis].attach_scale(store[dim])


def _without_packing(attributes) -> dict[str, Any]:
    """Values are written decoded: how they were packed no longer holds."""
    gone = ("scale_factor", "add_offset", "_FillValue", "missing_value", "_Unsigned", "valid_range", "coordinates")
    gone += ("DIMENSION_LIST", "REFERENCE_LIST", "CLASS", "NAME", "_Netcdf4Dimid", "_Netcdf4Coordinates", "valid_min")
    return {k: v for k, v in attributes.items() if k not in (*gone, "valid_max")}


def _array(store, name, dims, shape, dtype, chunks, compression) -> None:
    if hasattr(store, "id"):
        packed = bool(shape) and min(shape) > 0 and compression is not None
        kind = "gzip" if compression == "auto" else compression
        options = {"compression": kind, "shuffle": True} if packed else {}
        if packed and kind == "gzip":
            options["compression_opts"] = 4
        cut = chunks if shape and min(shape) > 0 else None
        store.create_dataset(name, shape=shape, dtype=dtype, chunks=cut, track_times=False, **options)
        return
    from zarr.codecs import GzipCodec, ZstdCodec

    codec = {None: None, "auto": ZstdCodec(level=3), "zstd": ZstdCodec(level=3), "gzip": GzipCodec(level=4)}[
        compression
    ]
    cut = tuple(max(1, c) for c in chunks)
    store.create_array(name, shape=shape, dtype=dtype, chunks=cut, compressors=codec, dimension_names=dims)


def _put_array(store, name, dims, values) -> None:
    if hasattr(store, "id"):
        import h5py

        if values.dtype.kind == "U":
            values = values.astype(h5py.string_dtype())
        store.create_dataset(name, data=values, track_times=False)
        return
    with warnings.catch_warnings():
        # Text in Zarr 3 is not yet in the specification; zarr-python, xarray and tensorstore agree on it.
        warnings.simplefilter("ignore")
        store.create_array(name, data=values, chunks=values.shape or "auto", dimension_names=dims)


# PDEBench: https://github.com/pdebench/PDEBench, the files that its FNO loaders read.


def create_pdebench(store, content: Content, shapes: Shapes, compression: str | None) -> None:
    """One field on (sample, time, x): `tensor`; two on (sample, x, y): `nu` and `tensor`; otherwise a group per sample
    with `data` (time, x, [y,] field) and `grid`.
    """
    space = _space(content)
    kind, names = _pdebench_kind(content), list(content.variables)
    store.attrs.update(plain_attributes(content.attributes) | {k: float(v) for k, v in content.parameters.items()})
    count = content.dims["sample"]
    if kind == "groups":
        first = content.variables[names[0]].shape[1:]
        for sample in range(count):
            shape = (*first, len(names))
            chunks = (max(1, min(first[0], 2**20 // (4 * int(np.prod(shape[1:]))))), *shape[1:])
            _array(store, f"{sample:04d}/data", (), shape, np.float32, chunks, compression)
            for dim in ("time", *space):
                store[f"{sample:04d}/grid/{dim[0] if dim == 'time' else dim}"] = _axis(content, dim)
        store.attrs["fields"] = names
        return
    if kind == "darcy":
        _array(store, "nu", (), (count, *_sizes(content, space)), np.float32, shapes[names[0]], compression)
        shape, cut = (count, 1, *_sizes(content, space)), shapes[names[1]]
        _array(store, "tensor", (), shape, np.float32, (cut[0], 1, *cut[1:]), compression)
    else:
        store["t-coordinate"] = _axis(content, "time")
        _array(store, "tensor", (), content.variables[names[0]].shape, np.float32, shapes[names[0]], compression)
    for dim in space:
        store[f"{dim}-coordinate"] = _axis(content, dim)


def put_pdebench(store, content: Content, corner: tuple[int, ...], arrays: dict[str, np.ndarray]) -> None:
    """Writes a block of samples."""
    kind, names = _pdebench_kind(content), list(content.variables)
    (start,) = corner
    rows = slice(start, start + len(arrays[names[0]]))
    if kind == "groups":
        stacked = np.stack([arrays[n] for n in names], axis=-1)
        for number, one in enumerate(stacked, start=start):
            store[f"{number:04d}/data"][...] = one
    elif kind == "darcy":
        store["nu"][rows] = arrays[names[0]]
        store["tensor"][rows, 0] = arrays[names[1]]
    else:
        store["tensor"][rows] = arrays[names[0]]


def _pdebench_kind(content: Content) -> str:
    dims = [v.dims for v in content.variables.values()]
    space = tuple(_space(content))
    if len(space) == 2 and len(dims) == 2 and set(dims) == {("sample", *space)}:
        return "darcy"
    if set(dims) == {("sample", "time", *space)} and space:
        return "tensor" if len(dims) == 1 and len(space) == 1 else "groups"
    raise DataError(
        "the layout pdebench holds fields on (sample, time, x[, y]), or a coefficient and a solution on "
        f"(sample, x, y); here are {dict(zip(content.variables, dims))}. Store a trajectory (a setting such as "
        "frames) or leave out the layout."
    )


# The Well: https://github.com/PolymathicAI/the_well/blob/master/docs/data_format.md


def create_the_well(store, content: Content, shapes: Shapes, compression: str | None) -> None:
    """Fields by tensor rank, grids, scalars and boundary conditions."""
    space = _space(content)
    parameters = {k: float(v) for k, v in content.parameters.items()}
    store.attrs.update(plain_attributes(content.attributes) | parameters)
    store.attrs["dataset_name"] = str(content.attributes.get("dataset", "sciml"))
    store.attrs["grid_type"] = "cartesian"
    store.attrs["n_spatial_dims"] = len(space)
    store.attrs["n_trajectories"] = content.dims["sample"]
    _names(store, "simulation_parameters", list(parameters))
    grid = store.create_group("dimensions")
    _names(grid, "spatial_dims", space)
    grid["time"] = _axis(content, "time") if "time" in content.dims else np.zeros(1, np.float32)
    grid["time"].attrs["sample_varying"] = False
    for dim in space:
        grid[dim] = _axis(content, dim)
        grid[dim].attrs.update({"sample_varying": False, "time_varying": False})
    scalars = store.create_group("scalars")
    _names(scalars, "field_names", list(parameters))
    for name, value in parameters.items():
        scalars[name] = np.float32(value)
        scalars[name].attrs.update({"sample_varying": False, "time_varying": False})
    _boundaries(store.create_group("boundary_conditions"), content, space)
    ranks = {n: _rank(n, v, space) for n, v in content.variables.items()}
    for rank in range(3):
        group = store.create_group(f"t{rank}_fields")
        names = [n for n, r in ranks.items() if r == rank]
        _names(group, "field_names", names)
        for name in names:
            variable = content.variables[name]
            _array(group, name, (), variable.shape, np.float32, shapes[name], compression)
            flags = {"sample_varying": True, "time_varying": "time" in variable.dims}
            group[name].attrs.update(plain_attributes(variable.attributes) | {k: np.bool_(v) for k, v in flags.items()})
            group[name].attrs["dim_varying"] = np.array([d in variable.dims for d in space])


def put_the_well(store, content: Content, corner: tuple[int, ...], arrays: dict[str, np.ndarray]) -> None:
    """Writes a block of trajectories."""
    (start,) = corner
    for name, array in arrays.items():
        rank = int("component" in content.variables[name].dims)
        store[f"t{rank}_fields/{name}"][start : start + len(array)] = array


def _boundaries(group, content: Content, space: list[str]) -> None:
    for dim in space:
        kind = str(content.coords[dim][2].get("boundary", "open")) if dim in content.coords else "open"
        if kind not in BOUNDARIES:
            raise DataError(f"the boundary of '{dim}' is '{kind}'; the layout the_well has {', '.join(BOUNDARIES)}")
        bc = group.create_group(f"{dim}_{BOUNDARIES[kind].lower()}")
        _names(bc, "associated_dims", [dim])
        _names(bc, "associated_fields", [])
        bc.attrs.update({"bc_type": BOUNDARIES[kind], "sample_varying": False, "time_varying": False})
        mask = np.zeros(content.dims[dim], bool)
        mask[[0, -1]] = True
        bc["mask"] = mask
        bc["values"] = np.zeros(2, np.float32)


def _rank(name: str, variable, space: list[str]) -> int:
    dims = variable.dims
    order = [d for d in ("sample", "time", *space, "component") if d in dims]
    vector = "component" in dims
    if list(dims) != order or "sample" not in dims or (vector and variable.shape[-1] != len(space)):
        raise DataError(
            f"'{name}' has the dimensions {dims}; the layout the_well has (sample, time, {', '.join(space)}[, "
            f"component]) in this order, with {len(space)} components"
        )
    return int(vector)


def _names(store, key: str, names: list[str]) -> None:
    import h5py

    store.attrs.create(key, np.array(names, dtype=object), dtype=h5py.string_dtype())


def _space(content: Content) -> list[str]:
    missing = [n for n, v in content.variables.items() if v.dims[:1] != ("sample",)]
    if missing:
        raise DataError(f"both layouts hold samples: {', '.join(missing)} has no first dimension 'sample'")
    return [d for d in content.dims if d not in SPECIAL]


def _sizes(content: Content, dims: list[str]) -> tuple[int, ...]:
    return tuple(content.dims[d] for d in dims)


def _axis(content: Content, dim: str) -> np.ndarray:
    if dim in content.coords:
        return np.asarray(content.coords[dim][1], np.float32)
    return np.arange(content.dims[dim], dtype=np.float32)


LAYOUTS = {
    "plain": (create_plain, put_plain),
    "pdebench": (create_pdebench, put_pdebench),
    "the_well": (create_the_well, put_the_well),
}
