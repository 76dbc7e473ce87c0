"""Data sets that are computed: what they hold, and how any of their samples is made."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ._source import DataError, Variable

Field = tuple[tuple[str, ...], Mapping[str, Any]]
Axis = tuple[tuple[str, ...], np.ndarray, Mapping[str, Any]]


@dataclass(frozen=True)
class Recipe:
    """A data set and how it is made.

    - `variables`: by name; the first dimension of each is `sample`.
    - `coords`: dimensions, values and attributes by name. The attribute `boundary` of an axis (`periodic`, `wall`,
      `open`, `dirichlet`) says what holds at its ends.
    - `samples`: their number.
    - `generate`: `(start, stop)` gives the arrays of these samples. It is a pure function of the samples' numbers, so
      that an interrupted run and an uninterrupted one give the same bits.
    - `batch`: samples made at once. The last batch is made whole and cut, so that nothing is compiled twice.
    - `parameters`: the physical constants by name, of the same value in all samples.
    - `attributes`: of the file.

    Raises ValueError where sizes disagree, and for a variable with the name of a dimension.
    """

    variables: Mapping[str, Variable]
    coords: Mapping[str, Axis]
    samples: int
    generate: Callable[[int, int], Mapping[str, np.ndarray]]
    batch: int = 32
    parameters: Mapping[str, float] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        if self.samples < 1 or self.batch < 1:
            raise ValueError(f"samples and batch must be above 0, got {self.samples} and {self.batch}")
        object.__setattr__(self, "batch", min(self.batch, self.samples))
        dims = {dim for variable in self.variables.values() for dim in variable.dims}
        for name, variable in self.variables.items():
            if name in dims or name in self.coords:
                raise ValueError(f"the variable '{name}' has the name of a dimension or coordinate; rename one")
            if variable.dims[:1] != ("sample",) or variable.shape[0] != self.samples:
                raise ValueError(f"'{name}' must have the first dimension 'sample' of {self.samples}, got {variable}")
            for dim, size in zip(variable.dims, variable.shape):
                if dim in self.coords and len(self.coords[dim][1]) != size:
                    raise ValueError(f"'{name}': '{dim}' has {size} entries, its coordinate {len(self.coords[dim][1])}")

    @classmethod
    def on_grid(
        cls,
        fields: Mapping[str, Field],
        coords: Mapping[str, tuple[np.ndarray, Mapping[str, Any]]],
        *,
        samples: int,
        generate: Callable[[int, int], Mapping[str, np.ndarray]],
        dtype: str = "float32",
        **rest: Any,
    ) -> "Recipe":
        """A recipe whose shapes follow from the coordinates: `fields` are dimensions (after `sample`) and attributes
        by name, `coords` values and attributes by axis. Further arguments are those of `Recipe`.
        """
        if np.dtype(dtype).kind != "f":
            raise ValueError(f"dtype must be float32 or float64, got {dtype}")
        sizes = {name: len(values) for name, (values, _) in coords.items()}
        variables = {
            name: Variable(("sample", *dims), (samples, *(sizes[d] for d in dims)), dtype, attributes=attributes)
            for name, (dims, attributes) in fields.items()
        }
        axes = {name: ((name,), np.asarray(values), attributes) for name, (values, attributes) in coords.items()}
        return cls(variables, axes, samples, generate, **rest)

    @property
    def batches(self) -> int:
        """The number of batches."""
        return -(-self.samples // self.batch)

    @property
    def nbytes(self) -> int:
        """The size of all variables."""
        return sum(int(np.prod(v.shape, dtype=np.int64)) * v.dtype.itemsize for v in self.variables.values())

    def make_batch(self, number: int) -> dict[str, np.ndarray]:
        """The arrays of one batch. Raises DataError for values that are not finite and for other shapes than stated."""
        start = number * self.batch
        stop = min(start + self.batch, self.samples)
        made = self.generate(start, start + self.batch)
        out = {}
        for name, variable in self.variables.items():
            expected = (self.batch, *variable.shape[1:])
            if name not in made or np.shape(made[name]) != expected:
                got = np.shape(made[name]) if name in made else f"only {', '.join(made)}"
                raise DataError(
                    f"generate({start}, {start + self.batch}): expected '{name}' of shape {expected}, got {got}"
                )
            array = np.asarray(made[name][: stop - start]).astype(variable.dtype)
            bad = ~np.isfinite(array).reshape(len(array), -1).all(axis=1)
            if bad.any():
                numbers = ", ".join(str(start + i) for i in np.flatnonzero(bad)[:5])
                raise DataError(
                    f"'{name}' is not finite in sample {numbers}: the solver became unstable. Take smaller time "
                    "steps or a finer grid."
                )
            out[name] = array
        return out

    def read(self) -> dict[str, np.ndarray]:
        """All variables, made in memory."""
        batches = [self.make_batch(i) for i in range(self.batches)]
        return {name: np.concatenate([b[name] for b in batches]) for name in self.variables}

    def to_xarray(self):
        """All variables, made in memory, as an xarray Dataset."""
        import xarray as xr

        data = {n: (self.variables[n].dims, a, dict(self.variables[n].attributes)) for n, a in self.read().items()}
        coords = {n: (dims, values, dict(attributes)) for n, (dims, values, attributes) in self.coords.items()}
        return xr.Dataset(data, coords=coords, attrs=dict(self.attributes))
