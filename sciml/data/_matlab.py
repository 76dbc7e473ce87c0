"""MATLAB's files: version 7.3 is HDF5 with dimensions reversed, versions 4 to 7 are read whole by SciPy."""

import os
from typing import Any

import numpy as np

from ._cf import relabelled
from ._hdf5 import invented_dims
from ._lazy import Dropped, Lazy, Stored, Transposed
from ._numpy import ENDED, Arrays
from ._source import DataError, Source

CLASS = "MATLAB_class"
NUMBERS = ("double", "single", "logical", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)))


class Matlab(Arrays):
    """A `.mat` file of version 4 to 7: arrays of numbers, real or complex. Cells, structures, text and sparse matrices
    are left out. Raises DataError for a damaged one.
    """

    def __init__(self, path: str | os.PathLike):
        import scipy.io

        super().__init__(path)
        try:
            stored = scipy.io.loadmat(self.path, mat_dtype=True)
        except (*ENDED, TypeError, scipy.io.matlab.MatReadError) as error:
            raise DataError(f"{self.path}: not a MATLAB file, or truncated ({error})") from None
        found = {}
        for name, value in stored.items():
            if not isinstance(value, np.ndarray) or value.dtype.kind not in "biufc":
                self.skipped += [] if name.startswith("__") else [name]
                continue
            array = value.reshape(_without_ones(value.shape))
            found[name] = (array.shape, array.dtype)
            self._makers[name] = lambda array=array: array
        self._name_dimensions(found)


def is_matlab(source: Source, names: set[str]) -> bool:
    """Whether an HDF5 file was written by MATLAB (version 7.3)."""
    variables = source.variables()
    own = [n for n in names if not n.startswith("#")]
    return bool(own) and all(CLASS in variables[n].attributes for n in own)


def matlab_arrays(source: Source) -> dict[str, Lazy]:
    """The numbers of such a file, with the dimensions in MATLAB's order. Members of cells are left out."""
    arrays: dict[str, Lazy] = {}
    for name, variable in source.variables().items():
        kind = _text(variable.attributes.get(CLASS, ""))
        if name.startswith("#") or kind not in NUMBERS or "MATLAB_empty" in variable.attributes:
            continue
        array: Lazy = Transposed(Stored(source, name), variable.dims[::-1])
        for _ in range(len(array.shape) - len(_without_ones(array.shape))):
            array = Dropped(array, array.shape.index(1))
        arrays[name] = array
    dims = invented_dims({n: a.shape for n, a in arrays.items()})
    return {n: relabelled(a, dims[n], {}) for n, a in arrays.items()}


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """MATLAB has no vectors: a row or a column is one, and a matrix of one entry is a number."""
    return tuple(n for n in shape if n > 1) if len(shape) == 2 and 1 in shape else shape


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
