"""NetCDF: version 4 is HDF5 and is read as such; the classic formats go through the C library, one thread at a time."""

import math
import os
import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ._handles import Handles
from ._hdf5 import HDF5, HIDDEN_PREFIX, identity, plain, sampled
from ._source import Chunk, DataError, Source, Variable, digest

# The netCDF C library may be called by one thread at a time.
LIBRARY = threading.RLock()
# Bytes of a number by the classic formats' code of its type.
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 4, 6: 8, 7: 1, 8: 2, 9: 4, 10: 8, 11: 8}


def _close_library(file) -> None:
    with LIBRARY:
        file.close()


FILES = Handles(_close_library)


class NetCDF4(HDF5):
    """A NetCDF-4 file, which is HDF5 with dimension scales. An unlimited dimension is as long as the longest variable
    on it; the others end in fill values.
    """

    def __init__(self, path: str | os.PathLike, group: str | None = None):
        super().__init__(path, group)
        self._arrays = {n.replace(HIDDEN_PREFIX, ""): a for n, a in self._arrays.items()}
        longest: dict[str, int] = {}
        for array in self._arrays.values():
            for scale, size in zip(array.growing, array.shape):
                longest[scale] = max(size, longest.get(scale, 0))
        for array in self._arrays.values():
            array.length = tuple(longest[s] if s else n for s, n in zip(array.growing, array.shape))


class NetCDF3(Source):
    """A NetCDF file of a classic format: CDF-1, CDF-2 (64-bit offsets) or CDF-5.

    Raises DataError for a file that is not NetCDF or damaged.
    """

    def __init__(self, path: str | os.PathLike):
        self.path, self.name = Path(path), Path(path).name
        self._identity = identity(self.path)
        self.skipped: list[str] = []
        self._refuse_damaged()
        with FILES.use(self, self._open_library) as file, LIBRARY:
            self.attributes = {n: plain(file.getncattr(n)) for n in file.ncattrs()}
            self._variables = {}
            for name, stored in file.variables.items():
                if stored.dtype is str or np.dtype(stored.dtype).kind not in "biuf":
                    self.skipped.append(name)
                    continue
                attributes = {n: plain(stored.getncattr(n)) for n in stored.ncattrs()}
                dtype = np.dtype(stored.dtype).newbyteorder("=")
                self._variables[name] = Variable(stored.dimensions, stored.shape, dtype, None, attributes)

    def variables(self) -> Mapping[str, Variable]:
        """The numeric variables of the file."""
        return self._variables

    def read(self, chunk: Chunk) -> np.ndarray:
        """The numbers of a box."""
        if 0 in chunk.shape:
            return np.empty(chunk.shape, self._variables[chunk.variable].dtype)
        if not self.path.exists() or identity(self.path) != self._identity:
            raise DataError(f"{self.path}: the file has changed or vanished since it was opened; open it again")
        with FILES.use(self, self._open_library) as file, LIBRARY:
            try:
                return np.asarray(file.variables[chunk.variable][chunk.slices or ...])
            except (OSError, RuntimeError) as error:
                place = tuple(s.start for s in chunk.slices)
                raise DataError(f"{self.path}: cannot read '{chunk.variable}' at {place}: {error}") from None

    def fingerprint(self) -> str:
        """A hash of the name, the size, samples of the bytes and the variables; a copy has the same."""
        return digest([self.name, self._identity[0], sampled(self.path), self.describe()])

    def _open_library(self):
        import netCDF4

        with LIBRARY:
            try:
                file = netCDF4.Dataset(self.path)
            except (OSError, RuntimeError, ValueError) as error:
                raise DataError(f"{self.path}: not a NetCDF file, or damaged ({error})") from None
            # Packed and missing numbers are decoded by the data set.
            file.set_auto_maskandscale(False)
            file.set_auto_chartostring(False)
            return file

    def _refuse_damaged(self) -> None:
        # The library gives zeros for what is beyond the end of the file, and may crash on a damaged header.
        try:
            least = _least_size(self.path)
        except (EOFError, LookupError, OSError, ValueError) as error:
            reason = str(error) or "it ends within the header"
            raise DataError(f"{self.path}: not a NetCDF file, truncated or damaged ({reason})") from None
        if self._identity[0] < least:
            raise DataError(f"{self.path}: truncated: {self._identity[0]} bytes, its variables need {least}")


def _least_size(path: Path) -> int:
    """Where the numbers of a classic file end, by its header: NetCDF Users Guide, appendix "File Format". Raises
    EOFError, LookupError, OSError or ValueError for a damaged one.
    """
    with path.open("rb") as file:
        version = file.read(4)[3]
        word = 8 if version == 5 else 4

        def number(size: int = word) -> int:
            raw = file.read(size)
            if len(raw) < size:
                raise EOFError
            return int.from_bytes(raw, "big")

        def skip(length: int) -> None:
            file.seek(-(-length // 4) * 4, os.SEEK_CUR)

        def entries(tag: int) -> range:
            found, count = number(4), number()
            if found != tag and (found or count):
                raise LookupError(f"part {found} of its header, expected {tag}")
            return range(count)

        def skip_attributes() -> None:
            for _ in entries(12):
                skip(number())
                kind = number(4)
                skip(number() * SIZES[kind])

        records, lengths = number(), []
        for _ in entries(10):
            skip(number())
            lengths.append(number())
        skip_attributes()
        fixed, moving = [0], []
        for _ in entries(11):
            skip(number())
            dims = [lengths[number()] for _ in range(number())]
            skip_attributes()
            size = SIZES[number(4)]
            number()
            begin = number(4 if version == 1 else 8)
            if dims and dims[0] == 0:  # unlimited
                moving.append((begin, math.prod(dims[1:]) * size))
            else:
                fixed.append(begin + math.prod(dims) * size)
    # Records are filled up to four bytes, unless they hold one variable only.
    record = sum(-(-n // 4) * 4 for _, n in moving) if len(moving) > 1 else sum(n for _, n in moving)
    # All bits set: a stream, whose records nobody has counted.
    known = 0 < records < 256**word - 1
    return max(fixed + [begin + (records - 1) * record + n for begin, n in moving if known])
