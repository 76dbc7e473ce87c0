"""NumPy's files: `.npy` and the stored members of `.npz` are mapped into memory, compressed members are read once."""

import os
import struct
import threading
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ._hdf5 import identity, invented_dims, sampled
from ._source import Chunk, DataError, Source, Variable, digest

# What zipfile and NumPy raise for damaged files.
ENDED = (
    zlib.error,
    zipfile.BadZipFile,
    tokenize.TokenError,
    EOFError,
    LookupError,
    OSError,
    OverflowError,
    RuntimeError,
    SyntaxError,
    ValueError,
    struct.error,
)


class Arrays(Source):
    """A file whose arrays are found as a whole: each is a function that maps it or reads it into memory, called when it
    is first needed and kept.
    """

    def __init__(self, path: str | os.PathLike):
        self.path, self.name = Path(path), Path(path).name
        self._identity = identity(self.path)
        self._makers: dict[str, Callable[[], np.ndarray]] = {}
        self._kept: dict[str, np.ndarray] = {}
        self._variables: dict[str, Variable] = {}
        self._lock = threading.Lock()
        self.skipped: list[str] = []
        self.attributes: dict[str, Any] = {}

    def variables(self) -> Mapping[str, Variable]:
        """The numeric arrays of the file."""
        return self._variables

    def read(self, chunk: Chunk) -> np.ndarray:
        """The numbers of a box."""
        out = np.empty(chunk.shape, self._variables[chunk.variable].dtype)
        self.read_into(chunk, out)
        return out

    def read_into(self, chunk: Chunk, out: np.ndarray) -> None:
        """Reads a box into an array."""
        # Reading a map of a file that has become shorter would end the process.
        try:
            now = identity(self.path)
        except OSError:
            raise DataError(f"{self.path}: the file has vanished since it was opened") from None
        if now != self._identity:
            raise DataError(f"{self.path}: the file has changed since it was opened; open it again")
        out[...] = self._whole(chunk.variable)[chunk.slices]

    def fingerprint(self) -> str:
        """A hash of the name, the size, samples of the bytes and the variables; a copy has the same."""
        return digest([self.name, self._identity[0], sampled(self.path), self.describe()])

    def _whole(self, name: str) -> np.ndarray:
        if name not in self._kept:
            with self._lock:
                if name not in self._kept:
                    try:
                        self._kept[name] = self._makers[name]()
                    except ENDED as error:
                        raise DataError(f"{self.path}: '{name}' is damaged or truncated ({error})") from None
        return self._kept[name]

    def _name_dimensions(self, found: Mapping[str, tuple[tuple[int, ...], np.dtype]]) -> None:
        dims = invented_dims({n: shape for n, (shape, _) in found.items()})
        self._variables = {n: Variable(dims[n], shape, dtype.newbyteorder("=")) for n, (shape, dtype) in found.items()}

    def __reduce__(self):
        return type(self), (self.path,)


class Npy(Arrays):
    """A `.npy` file, as the variable `data`. Raises DataError for a damaged one."""

    def __init__(self, path: str | os.PathLike):
        super().__init__(path)
        try:
            array = np.load(self.path, mmap_mode="r", allow_pickle=False)
        except ENDED as error:
            raise DataError(f"{self.path}: not a NumPy file of numbers, or truncated ({error})") from None
        if array.dtype.kind not in "biufc":
            raise DataError(f"{self.path}: holds {array.dtype}, expected numbers")
        self._makers["data"] = lambda: array
        self._name_dimensions({"data": (array.shape, array.dtype)})


class Npz(Arrays):
    """The arrays of an `.npz` file. What is stored without compression is mapped; a compressed array is decompressed
    when it is first read and then stays in memory whole.
    """

    def __init__(self, path: str | os.PathLike):
        super().__init__(path)
        found = {}
        try:
            with zipfile.ZipFile(self.path) as archive:
                for member in archive.infolist():
                    name = member.filename.removesuffix(".npy")
                    with archive.open(member) as stream:
                        shape, fortran, dtype, header = _npy_header(stream)
                    if dtype.kind not in "biufc":
                        self.skipped.append(name)
                        continue
                    found[name] = (shape, dtype)
                    self._makers[name] = self._maker(member, shape, fortran, dtype, header)
        except ENDED as error:
            raise DataError(f"{self.path}: not an .npz archive of numbers, or truncated ({error})") from None
        self._name_dimensions(found)

    def _maker(self, member: zipfile.ZipInfo, shape, fortran: bool, dtype: np.dtype, header: int):
        if member.compress_type == zipfile.ZIP_STORED and np.prod(shape, dtype=np.int64):
            offset = member_offset(self.path, member) + header
            order = "F" if fortran else "C"
            return lambda: np.memmap(self.path, dtype, "r", offset, shape, order)

        def load() -> np.ndarray:
            with zipfile.ZipFile(self.path) as archive, archive.open(member) as stream:
                return np.lib.format.read_array(stream, allow_pickle=False)

        return load


def _npy_header(stream) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Shape, order and type of an array, and the length of its header."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return (*read(stream), stream.tell())


def member_offset(path: Path, member: zipfile.ZipInfo) -> int:
    """Where the bytes of a member of a zip archive begin."""
    with open(path, "rb") as file:
        file.seek(member.header_offset)
        head = file.read(30)
    if len(head) < 30 or head[:4] != b"PK\x03\x04":
        raise zipfile.BadZipFile(f"no header for {member.filename}")
    return member.header_offset + 30 + sum(struct.unpack("<HH", head[26:30]))
