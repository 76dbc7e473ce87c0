"""Data sets to files, whole or not at all: HDF5, NetCDF-4 and Zarr, and the layouts of PDEBench and The Well."""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from .._progress import bars
from ._content import Content, chunk_shape, content_of_recipe
from ._copy import content_of_dataset
from ._dataset import Dataset
from ._formats import FORMATS, LAYOUTS, check_options, open_store, write_coordinates
from ._recipe import Recipe
from ._source import DataError

SUFFIXES = {".h5": "hdf5", ".hdf5": "hdf5", ".nc": "netcdf", ".nc4": "netcdf", ".zarr": "zarr"}
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write(
    data: Dataset | Recipe,
    path: str | os.PathLike,
    *,
    format: str | None = None,
    layout: str | None = None,
    chunks: Mapping[str, int] | None = None,
    compression: str | None = "auto",
    progress: bool = True,
) -> None:
    """Writes a data set, or what a recipe makes, to a file: whole or not at all.

    - `format`: `hdf5`, `netcdf` (NetCDF-4) or `zarr` (version 3, a folder); by default from the suffix of `path`. HDF5
      files have dimension scales and are readable as NetCDF-4, too.
    - `layout`: `pdebench` or `the_well`, both HDF5.
    - `chunks`: lengths by dimension; dimensions that are not named are not cut. By default chunks have about one MiB
      and hold whole samples where these fit.
    - `compression`: `auto` (gzip of level 4 after shuffling for HDF5 and NetCDF, zstd for Zarr), `gzip`, `lzf` (HDF5),
      `zstd` (Zarr) or None.
    - `progress`: a progress bar, on a terminal.

    Work in progress lies in the hidden folder `.NAME.partial` beside the target: each batch that a recipe makes, and
    the file before it is moved to its place. If the process is killed, the same call goes on where it ended; the result
    has the same values. An existing file is replaced at the end.

    A data set is held in memory in blocks of up to 256 MiB, or of one chunk of its source or of the file where these
    are larger. Where the two lie across each other (series at single points, say, to be cut into whole frames), it is
    first copied to that folder without compression, so that each chunk is decoded once; that needs its size on disk.

    Raises DataError for a full disk (the batches of a recipe are kept), for values that are not finite, for work in
    progress of other settings, where another process writes the same file, and where the data do not fit the layout;
    ValueError for unknown options.
    """
    path = Path(path)
    format = _format(path, format, layout)
    check_options(format, compression)
    _refuse_foreign_folder(path, format)
    work = path.parent / f".{path.name}.partial"
    with _disk_errors(path, work), _working_folder(work), bars(progress) as bar:
        if isinstance(data, Recipe):
            content = content_of_recipe(data, work / "parts", bar)
        else:
            _remove(work / "parts")
            content = content_of_dataset(data, work / "scratch", bar)
        _remove(work / "whole")
        _assemble(content, work / "whole", format, layout, chunks, compression, bar)
        _sync(work / "whole")
        _move(work / "whole", path, work)
        _remove(work)


def _format(path: Path, format: str | None, layout: str | None) -> str:
    if format is None and path.suffix not in SUFFIXES:
        raise ValueError(
            f"{path}: the format does not follow from the suffix '{path.suffix}'; known are {', '.join(SUFFIXES)}, or "
            f"give format={' or '.join(map(repr, FORMATS))}"
        )
    found = SUFFIXES[path.suffix] if format is None else format
    if found not in FORMATS:
        raise ValueError(f"no format '{found}'; there are {', '.join(FORMATS)}")
    if layout is not None and layout not in LAYOUTS:
        raise ValueError(f"no layout '{layout}'; there are {', '.join(LAYOUTS)}")
    if layout is not None and found != "hdf5":
        raise ValueError(f"the layout {layout} is HDF5, not {found}; leave out the format or name the file .h5")
    return found


def _assemble(content: Content, path: Path, format, layout, chunks, compression, bar) -> None:
    unknown = set(chunks or {}) - {d for v in content.variables.values() for d in v.dims}
    if unknown:
        raise ValueError(f"chunks: no dimension {', '.join(sorted(unknown))}")
    shapes = {n: chunk_shape(v, chunks) for n, v in content.variables.items()}
    create, put = LAYOUTS[layout] if layout is not None else LAYOUTS["plain"]
    total = sum(int(np.prod(v.shape, dtype=np.int64)) for v in content.variables.values())
    advance = bar("writing", total)
    with open_store(path, format) as (store, check):
        create(store, content, shapes, compression)
        if layout is None:
            write_coordinates(store, content)
        check()
        for corner, arrays in content.blocks(shapes, layout is not None):
            put(store, content, corner, arrays)
            check()
            advance(sum(a.size for a in arrays.values()))
            del arrays  # before the next block is read


def _refuse_foreign_folder(path: Path, format: str) -> None:
    """A folder is replaced only by Zarr, and only if it is Zarr."""
    if path.is_dir() and not (format == "zarr" and any((path / n).exists() for n in ("zarr.json", ".zgroup"))):
        raise DataError(f"{path} is a folder that is not Zarr and is not replaced; choose another name")


@contextlib.contextmanager
def _disk_errors(path: Path, work: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        free = shutil.disk_usage(work if work.exists() else path.parent).free
        kept = f"What was made is kept in {work}: make" if work.exists() else "Nothing was kept: make"
        other = ", or delete that folder and write elsewhere" if work.exists() else ", or write elsewhere"
        raise DataError(
            f"no space left to write {path} ({error.strerror or error}; {free / 2**20:.0f} MiB free). {kept} room and "
            f"run the same again{other}."
        ) from error


@contextlib.contextmanager
def _working_folder(work: Path) -> Iterator[None]:
    """A folder that one process at a time works in."""
    import fcntl

    work.mkdir(parents=True, exist_ok=True)
    with open(work / "lock", "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DataError(f"another process is writing this file, in {work}; wait for it or end it") from None
        try:
            yield
        finally:
            # The batches that a recipe made serve the next run.
            for half_made in ("whole", "scratch"):
                _remove(work / half_made)
            if not (work / "parts").exists():
                _remove(work)


def _move(made: Path, path: Path, work: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if made.is_dir() and path.is_dir():
        old = work / "replaced"
        _remove(old)
        os.rename(path, old)
        try:
            os.rename(made, path)
        except BaseException:
            os.rename(old, path)
            raise
    else:
        os.replace(made, path)
    _sync_one(path.parent)


def _sync(path: Path) -> None:
    """Brings a file, or all files of a folder, to the disk."""
    for file in [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]:
        _sync_one(file)


def _sync_one(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
