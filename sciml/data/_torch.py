"""The zip archives of `torch.save`, read without torch: only tensors are rebuilt, no code of the file is run."""

import os
import pickle
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ._numpy import ENDED, Arrays, member_offset
from ._source import DataError

STORAGES = {
    "DoubleStorage": "f8",
    "FloatStorage": "f4",
    "HalfStorage": "f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
    "ComplexDoubleStorage": "c16",
    "ComplexFloatStorage": "c8",
}


@dataclass(frozen=True)
class _Storage:
    """The numbers of one or several tensors: a member of the archive."""

    key: str
    dtype: str


@dataclass(frozen=True)
class _Tensor:
    """A view of a storage; `offset` and `strides` count numbers."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Torch(Arrays):
    """The tensors of a `.pt` or `.pth` file that `torch.save` has written (version 1.6 or later). Those in dicts and
    lists are named `a/b`, a single one `data`; numbers and text become attributes. bfloat16 is read as float32.

    Raises DataError for a damaged file, and for one whose pickle asks for anything but tensors, naming it.
    """

    def __init__(self, path: str | os.PathLike):
        super().__init__(path)
        try:
            with zipfile.ZipFile(self.path) as archive:
                members = {m.filename: m for m in archive.infolist()}
                head = next((n for n in members if n.rsplit("/", 1)[-1] == "data.pkl"), None)
                if head is None:
                    raise DataError(f"{self.path}: no archive of torch.save (it has no data.pkl)")
                root = head.removesuffix("data.pkl")
                order = archive.read(root + "byteorder") if root + "byteorder" in members else b"little"
                with archive.open(head) as stream:
                    content = _Unpickler(stream, self.path).load()
            tensors: dict[str, _Tensor] = {}
            _collect(content, "", tensors, self.attributes)
        except (*ENDED, pickle.UnpicklingError, IndexError, AttributeError, TypeError, KeyError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{self.path}: not an archive of torch.save, or damaged ({error})") from None
        found = {}
        for name, tensor in tensors.items():
            member = members.get(f"{root}data/{tensor.storage.key}")
            if member is None:
                raise DataError(f"{self.path}: truncated: the numbers of '{name}' are missing")
            self._refuse_beyond(name, tensor, member)
            self._makers[name] = lambda t=tensor, m=member: _view(self.path, m, t, order)
            kind = np.dtype("f4" if tensor.storage.dtype == "bfloat16" else tensor.storage.dtype)
            found[name] = (tensor.shape, kind)
        self._name_dimensions(found)

    def _refuse_beyond(self, name: str, tensor: _Tensor, member: zipfile.ZipInfo) -> None:
        size = 2 if tensor.storage.dtype == "bfloat16" else np.dtype(tensor.storage.dtype).itemsize
        last = tensor.offset + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.strides))
        numbers = int(np.prod(tensor.shape, dtype=np.int64))
        if numbers and (
            tensor.offset < 0 or min(tensor.strides, default=0) < 0 or (last + 1) * size > member.file_size
        ):
            raise DataError(f"{self.path}: damaged: '{name}' reaches beyond its {member.file_size} bytes")


class _Unpickler(pickle.Unpickler):
    """Knows tensors, their storages and ordered dicts and refuses all else: no code of a file is run."""

    def __init__(self, stream, path: Path):
        super().__init__(stream, encoding="utf-8")
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module in ("torch", "torch.storage") and name in STORAGES:
            return STORAGES[name]
        if (module, name) == ("torch", "Size"):
            return tuple
        if module == "torch._utils" and name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if module == "torch._utils" and name == "_rebuild_parameter":
            return _rebuild_parameter
        raise DataError(
            f"{self.path}: its pickle asks for {module}.{name}, which is not read: expected tensors in dicts and "
            "lists. Save the tensors alone: torch.save({'x': x, 'y': y}, path)"
        )

    def persistent_load(self, pid: Any) -> _Storage:
        if not (isinstance(pid, tuple) and len(pid) >= 3 and pid[0] == "storage" and pid[1] in STORAGES.values()):
            raise DataError(f"{self.path}: its pickle has an unknown reference {pid!r}")
        return _Storage(str(pid[2]), pid[1])


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, _Storage) or any(type(n) is not int for n in numbers) or len(shape) != len(strides):
        raise pickle.UnpicklingError("a tensor without a storage, or with an odd shape")
    if any(n < 0 for n in shape):
        raise pickle.UnpicklingError(f"a tensor of shape {tuple(shape)}")
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _rebuild_parameter(tensor: Any, *_: Any) -> Any:
    return tensor


def _collect(value: Any, name: str, tensors: dict[str, _Tensor], attributes: dict[str, Any]) -> None:
    """Tensors by path, and plain values as attributes."""
    if isinstance(value, _Tensor):
        tensors[name or "data"] = value
        return
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else None
    if items is not None:
        for key, entry in items:
            _collect(entry, f"{name}/{key}" if name else str(key), tensors, attributes)
    elif isinstance(value, str | int | float | bool):
        attributes[name or "value"] = value


def _view(path: Path, member: zipfile.ZipInfo, tensor: _Tensor, order: bytes) -> np.ndarray:
    half = tensor.storage.dtype == "bfloat16"
    dtype = np.dtype("u2" if half else tensor.storage.dtype).newbyteorder(">" if order == b"big" else "<")
    if not np.prod(tensor.shape, dtype=np.int64):
        return np.empty(tensor.shape, "f4" if half else dtype)
    if member.compress_type == zipfile.ZIP_STORED:
        flat = np.memmap(path, dtype, "r", member_offset(path, member), (member.file_size // dtype.itemsize,))
    else:
        with zipfile.ZipFile(path) as archive:
            flat = np.frombuffer(archive.read(member), dtype)
    strides = tuple(s * dtype.itemsize for s in tensor.strides)
    view = np.lib.stride_tricks.as_strided(flat[tensor.offset :], tensor.shape, strides, writeable=False)
    # bfloat16 is the upper half of a float32.
    return (view.astype("u4") << 16).view("f4") if half else view
