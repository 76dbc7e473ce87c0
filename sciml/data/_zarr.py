"""Zarr stores, versions 2 and 3: structure through zarr-python, numbers through TensorStore, which needs no lock."""

import base64
import itertools
import os
import struct
import threading
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ._hdf5 import identity, invented_dims, plain, sampled
from ._source import Chunk, DataError, Source, Variable, digest

MARKS = ("zarr.json", ".zgroup", ".zarray", ".zmetadata")


class Zarr(Source):
    """A Zarr store: a folder, or a zip archive of one. Variables in groups are named `group/name`.

    Zarr leaves out chunks that hold nothing but the fill value, so one that is lost cannot be told from one that was
    left out: an absent chunk is an error unless `absent="fill"`. Of sharded arrays the inner chunks are what is read at
    one cost. Codecs that TensorStore lacks go through zarr-python. Raises DataError for a store that cannot be read.
    """

    def __init__(self, path: str | os.PathLike, group: str | None = None, absent: str = "error"):
        if absent not in ("error", "fill"):
            raise ValueError(f"absent must be 'error' or 'fill', got {absent!r}")
        self.path, self.name, self.absent = Path(path), Path(path).name, absent
        self._group = "" if group is None else group.strip("/")
        self._identity = identity(self.path) if self.path.is_file() else None
        self._lock = threading.Lock()
        self._stores: dict[str, Any] = {}
        self._arrays, self.groups, self.attributes = self._scan()
        self.skipped = [n for n, a in self._arrays.items() if a.dtype.kind not in "biufc"]
        self._arrays = {n: a for n, a in self._arrays.items() if n not in self.skipped}
        self._variables = self._describe_variables()

    def variables(self) -> Mapping[str, Variable]:
        """The numeric arrays of the store."""
        return self._variables

    def read(self, chunk: Chunk) -> np.ndarray:
        """The numbers of a box."""
        name, box = chunk.variable, chunk.slices
        if 0 in chunk.shape:
            return np.empty(chunk.shape, self._variables[name].dtype)
        if not self.path.exists():
            raise DataError(f"{self.path}: the store has vanished since it was opened")
        if self._identity is not None and identity(self.path) != self._identity:
            raise DataError(f"{self.path}: the file has changed since it was opened; open it again")
        store = self._store(name)
        try:
            if store is None:
                return self._read_by_zarr(name, box)
            return np.asarray(store[box].read().result())
        except DataError:
            raise
        except Exception as error:
            place, reason = tuple(s.start for s in box), str(error).split(" [")[0]
            if "is missing" in reason or "NOT_FOUND" in reason:
                raise DataError(self._absent_message(name, reason)) from None
            raise DataError(f"{self.path}: cannot read '{name}' at {place}, a chunk is damaged: {reason}") from None

    def fingerprint(self) -> str:
        """A hash of the name, the variables and their metadata, the number and sizes of files, and samples of some."""
        metadata = {n: a.metadata.to_dict() for n, a in self._arrays.items()}
        return digest([self.name, self.describe(), metadata, _marks(self.path)])

    def _scan(self) -> tuple[dict[str, Any], dict[str, dict[str, Any]], dict[str, Any]]:
        """The arrays, the attributes of the groups, and those of the root."""
        import zarr

        try:
            node: Any = zarr.open(self._zarr_store(), path=_root(self.path), mode="r")
            if self._group:
                node = self._inside(node)
            if isinstance(node, zarr.Array):
                return {node.basename or "data": node}, {}, {}
            members = sorted(node.members(max_depth=None))
            arrays = {n: a for n, a in members if isinstance(a, zarr.Array)}
            groups = {n: _attributes(g) for n, g in members if isinstance(g, zarr.Group)}
            return arrays, groups, _attributes(node)
        except DataError:
            raise
        except Exception as error:
            raise DataError(f"{self.path}: not a Zarr store, or damaged ({type(error).__name__}: {error})") from None

    def _inside(self, node):
        """The group that was asked for."""
        there = sorted(node) if hasattr(node, "members") else []
        if not there or self._group not in node:
            raise DataError(f"{self.path}: no group '{self._group}'; there are {', '.join(there) or 'none'}")
        return node[self._group]

    def _zarr_store(self):
        from zarr.storage import LocalStore, ZipStore

        return ZipStore(self.path, mode="r") if self.path.is_file() else LocalStore(self.path, read_only=True)

    def _describe_variables(self) -> dict[str, Variable]:
        given = {n: _dims(a) for n, a in self._arrays.items()}
        invented = invented_dims({n: a.shape for n, a in self._arrays.items() if given[n] is None})
        out = {}
        for name, array in self._arrays.items():
            attributes = _cf_attributes(array)
            codecs = (*getattr(array, "compressors", ()), *getattr(array, "filters", ()))
            codec = "+".join(type(c).__name__.removesuffix("Codec").lower() for c in codecs)
            chunks = array.chunks if array.shape and min(array.chunks) > 0 else None
            dims = given[name] or invented.get(name, ())
            out[name] = Variable(dims, array.shape, array.dtype.newbyteorder("="), chunks, attributes, codec)
        return out

    def _store(self, name: str) -> Any:
        """TensorStore's handle of an array; None where it cannot read it."""
        if name not in self._stores:
            with self._lock:
                if name not in self._stores:
                    self._stores[name] = self._open_store(name)
        return self._stores[name]

    def _open_store(self, name: str) -> Any:
        try:
            import tensorstore
        except ImportError:
            return None
        array, path = self._arrays[name], os.path.abspath(self.path)
        inside = f"{array.path}/" if array.path else ""
        kvstore: dict[str, Any] = {"driver": "file", "path": f"{path}/{inside}"}
        if self.path.is_file():
            kvstore = {"driver": "zip", "base": {"driver": "file", "path": path}, "path": inside}
        spec = {
            "driver": "zarr3" if array.metadata.zarr_format == 3 else "zarr",
            "kvstore": kvstore,
            "fill_missing_data_reads": self._fills(name),
        }
        try:
            return tensorstore.open(spec, open=True, read=True).result()
        except Exception:
            return None

    def _fills(self, name: str) -> bool:
        """Whether an absent chunk is the fill value: also for a coordinate of one chunk, which writers leave out when
        it is nothing but zeros.
        """
        array = self._arrays[name]
        return self.absent == "fill" or (array.ndim <= 1 and array.size <= max(1, *array.chunks, 1))

    def _read_by_zarr(self, name: str, box: tuple[slice, ...]) -> np.ndarray:
        array = self._arrays[name]
        if not self._fills(name):
            stored = array.shards or array.chunks
            for position in itertools.product(*(range(s.start // c, -(-s.stop // c)) for s, c in zip(box, stored))):
                key = array.metadata.encode_chunk_key(position)
                if not _exists(array.store_path / key):
                    raise DataError(self._absent_message(name, f"chunk {key} is missing"))
        return np.asarray(array[box])

    def _absent_message(self, name: str, reason: str) -> str:
        return (
            f"{self.path}: '{name}': {reason}. The store may be incomplete; if its writer left out chunks of nothing "
            "but the fill value, open it with absent='fill'"
        )

    def __reduce__(self):
        return type(self), (self.path, self._group or None, self.absent)


def _root(path: Path) -> str:
    """Where in an archive the store lies: an archive of a folder has the folder's name, too."""
    if not path.is_file():
        return ""
    with zipfile.ZipFile(path) as archive:
        folders = [name.rpartition("/")[0] for name in archive.namelist() if name.rpartition("/")[2] in MARKS]
    return min(folders, key=len, default="")


def _attributes(node) -> dict[str, Any]:
    return {str(k): plain(v) for k, v in node.attrs.items()}


def _cf_attributes(array) -> dict[str, Any]:
    """Attributes with `_FillValue` as a number: xarray has it in the metadata in version 2, as base64 in version 3."""
    attributes = _attributes(array)
    by_xarray = attributes.pop("_ARRAY_DIMENSIONS", None) is not None
    mark = attributes.get("_FillValue")
    if isinstance(mark, str) and array.dtype.kind == "f":
        attributes["_FillValue"] = struct.unpack("<d", base64.standard_b64decode(mark))[0]
    elif by_xarray and array.metadata.zarr_format == 2 and array.metadata.fill_value is not None:
        attributes.setdefault("_FillValue", plain(np.asarray(array.metadata.fill_value)))
    return attributes


def _dims(array) -> tuple[str, ...] | None:
    """Names of the dimensions: of the metadata in version 3, of xarray's attribute in version 2."""
    names = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS")
    if array.shape == ():
        return ()
    if names is None or len(names) != array.ndim or any(not n for n in names) or len(set(names)) < len(names):
        return None
    return tuple(str(n) for n in names)


def _exists(place) -> bool:
    from zarr.core.sync import sync

    return bool(sync(place.exists()))


def _marks(path: Path) -> list[Any]:
    """The number of files of a store, their bytes together, and samples of up to 64 of them."""
    if path.is_file():
        return [1, path.stat().st_size, sampled(path)]
    files = sorted(entry for entry in path.rglob("*") if entry.is_file())
    some = files[:: max(1, len(files) // 64)]
    return [len(files), sum(f.stat().st_size for f in files), [sampled(f) for f in some]]
