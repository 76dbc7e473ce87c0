"""NetCDF: version 4 is HDF5 and is read as such; the classic formats go through the C library, one thread at a time."""

import os
import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ._handles import Handles
from ._hdf5 import HDF5, identity, plain, sampled
from ._source import Chunk, DataError, Source, Variable, digest

# The netCDF C library may be called by one thread at a time.
LIBRARY = threading.RLock()
# What the library puts before a variable that has the name of a dimension without being its coordinate.
HIDDEN_PREFIX = "_nc4_non_coord_"


def _close_library(file) -> None:
    with LIBRARY:
        file.close()


FILES = Handles(_close_library)


class NetCDF4(HDF5):
    """A NetCDF-4 file, which is HDF5 with dimension scales."""

    def __init__(self, path: str | os.PathLike, group: str | None = None):
        super().__init__(path, group)
        self._arrays = {n.replace(HIDDEN_PREFIX, ""): a for n, a in self._arrays.items()}


class NetCDF3(Source):
    """A NetCDF file of a classic format: CDF-1, CDF-2 (64-bit offsets) or CDF-5.

    Raises DataError for a file that is not NetCDF or damaged.
    """

    def __init__(self, path: str | os.PathLike):
        self.path, self.name = Path(path), Path(path).name
        self._identity = identity(self.path)
        self.skipped: list[str] = []
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
            self._refuse_truncated()

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
            except (OSError, RuntimeError) as error:
                raise DataError(f"{self.path}: not a NetCDF file, or truncated ({error})") from None
            # Packed and missing numbers are decoded by the data set.
            file.set_auto_maskandscale(False)
            file.set_auto_chartostring(False)
            return file

    def _refuse_truncated(self) -> None:
        # The library gives zeros for what is beyond the end of a classic file.
        least = sum(int(np.prod(v.shape, dtype=np.int64)) * v.dtype.itemsize for v in self._variables.values())
        if self._identity[0] < least:
            raise DataError(f"{self.path}: truncated: {self._identity[0]} bytes, its variables need {least}")
