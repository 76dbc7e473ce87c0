"""An xarray Dataset as a source."""

import hashlib
from collections.abc import Mapping

import numpy as np

from ._source import Chunk, Source, Variable, digest

HASHED_BYTES = 2**26


class XArray(Source):
    """The variables of an xarray Dataset, in memory or lazy (each box is then loaded by xarray)."""

    def __init__(self, dataset):
        self.dataset = dataset
        self.name = str(dataset.encoding.get("source", "xarray"))
        self.attributes = dict(dataset.attrs)
        numeric = {str(n): v for n, v in dataset.data_vars.items() if v.dtype.kind in "biufc"}
        self.skipped = [str(n) for n in dataset.data_vars if str(n) not in numeric]
        self._names = {str(n): n for n in dataset.data_vars}
        self._variables = {
            n: Variable(tuple(map(str, v.dims)), v.shape, v.dtype.newbyteorder("="), _chunks(v), dict(v.attrs))
            for n, v in numeric.items()
        }

    def variables(self) -> Mapping[str, Variable]:
        """The numeric data variables."""
        return self._variables

    def read(self, chunk: Chunk) -> np.ndarray:
        """The numbers of a box."""
        return np.asarray(self.dataset[self._names[chunk.variable]].variable[chunk.slices].values)

    def fingerprint(self) -> str:
        """A hash of what is in memory (of each variable the first and last 64 MiB) and of all names and shapes."""
        marks = {}
        for name in self._variables:
            variable = self.dataset[self._names[name]].variable
            if variable._in_memory:
                data = np.ascontiguousarray(variable.values).reshape(-1).view(np.uint8)
                both = hashlib.sha256(data[:HASHED_BYTES].data)
                both.update(data[-HASHED_BYTES:].data)
                marks[name] = both.hexdigest()
        return digest([self.name, self.describe(), marks])


def _chunks(variable) -> tuple[int, ...] | None:
    """The blocks of a dask array, or those of the file."""
    if variable.chunks:
        return tuple(max(lengths) for lengths in variable.chunks)
    preferred = variable.encoding.get("preferred_chunks") or {}
    if not preferred or variable.variable._in_memory:
        return None
    return tuple(min(n, int(preferred.get(d, n))) for d, n in zip(variable.dims, variable.shape))
