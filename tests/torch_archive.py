"""What `torch.save` writes, without torch: a zip archive with a pickle that refers to storages by persistent ids."""

import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from io import BytesIO
from unittest import mock

import numpy as np

KINDS = {
    "f8": "DoubleStorage",
    "f4": "FloatStorage",
    "f2": "HalfStorage",
    "i8": "LongStorage",
    "i4": "IntStorage",
    "i2": "ShortStorage",
    "i1": "CharStorage",
    "u1": "ByteStorage",
    "b1": "BoolStorage",
    "c16": "ComplexDoubleStorage",
    "c8": "ComplexFloatStorage",
    "bfloat16": "BFloat16Storage",
}
TORCH, UTILS = types.ModuleType("torch"), types.ModuleType("torch._utils")


def _named(module: types.ModuleType, name: str):
    """A class that pickles as `module.name`."""
    made = type(name, (), {"__module__": module.__name__, "__qualname__": name})
    setattr(module, name, made)
    return made


STORAGES = {kind: _named(TORCH, name) for kind, name in KINDS.items()}
REBUILD_TENSOR, REBUILD_PARAMETER = _named(UTILS, "_rebuild_tensor_v2"), _named(UTILS, "_rebuild_parameter")


class Storage:
    """The numbers of one or several tensors."""

    def __init__(self, values, kind: str | None = None):
        self.values = np.ravel(values)
        self.kind = kind or self.values.dtype.str[1:]


class Tensor:
    """A view of a storage; by default the whole, in C order. Offset and strides count numbers."""

    def __init__(self, storage: Storage, shape, strides=None, offset: int = 0):
        whole = (np.cumprod([1, *shape[::-1]])[-2::-1] if shape else ()) if strides is None else strides
        self.storage, self.offset, self.shape, self.strides = storage, offset, tuple(shape), tuple(map(int, whole))

    def __reduce__(self):
        return REBUILD_TENSOR, (self.storage, self.offset, self.shape, self.strides, False, OrderedDict())


class Parameter:
    """A tensor that is trained."""

    def __init__(self, tensor: Tensor):
        self.tensor = tensor

    def __reduce__(self):
        return REBUILD_PARAMETER, (self.tensor, True, OrderedDict())


def tensor(values) -> Tensor:
    """A contiguous tensor with a storage of its own."""
    values = np.asarray(values)
    return Tensor(Storage(values), values.shape)


def bfloat16(values) -> Tensor:
    """The upper halves of 32-bit numbers."""
    values = np.asarray(values, np.float32)
    return Tensor(Storage((values.view(np.uint32) >> 16).astype(np.uint16), "bfloat16"), values.shape)


class _Pickler(pickle.Pickler):
    def __init__(self, stream):
        super().__init__(stream, protocol=2)
        self.storages: list[Storage] = []

    def persistent_id(self, obj):
        if not isinstance(obj, Storage):
            return None
        if not any(s is obj for s in self.storages):
            self.storages.append(obj)
        key = next(str(i) for i, s in enumerate(self.storages) if s is obj)
        return ("storage", STORAGES[obj.kind], key, "cpu", len(obj.values))


def save(content, path, order: str = "little") -> None:
    """Writes tensors, in dicts and lists, as torch does."""
    stream = BytesIO()
    pickler = _Pickler(stream)
    with mock.patch.dict(sys.modules, {"torch": TORCH, "torch._utils": UTILS}):
        pickler.dump(content)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", stream.getvalue())
        archive.writestr("archive/byteorder", order)
        for key, storage in enumerate(pickler.storages):
            swapped = storage.values.astype(storage.values.dtype.newbyteorder("<" if order == "little" else ">"))
            archive.writestr(f"archive/data/{key}", swapped.tobytes())
        archive.writestr("archive/version", "3\n")
