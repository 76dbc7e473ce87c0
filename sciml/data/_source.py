"""Where arrays come from: the two methods that a source has, and what is known of a variable before it is read."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

# What readers decode at once: by few large calls, so that threads wait little for each other. A reader holds up to
# three times this, or three chunks where these are larger, besides the result.
READ_BYTES = 2**20


class DataError(ValueError):
    """A file that cannot be read, or that is not what it says: names the file, the place and the remedy."""


@dataclass(frozen=True)
class Variable:
    """A named array as it lies in a file: `chunks` is None where any part of it can be read at its own cost.

    `attributes` are those of the file (`units`, `long_name`, `scale_factor`, `_FillValue`, `calendar`, ...); packed
    numbers and times are decoded by the data set, not by the source.
    """

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: Any
    chunks: tuple[int, ...] | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    codec: str = ""

    def __post_init__(self):
        if len(self.dims) != len(self.shape) or (self.chunks and len(self.chunks) != len(self.shape)):
            raise ValueError(f"dims {self.dims}, shape {self.shape} and chunks {self.chunks} differ in length")
        object.__setattr__(self, "dtype", np.dtype(self.dtype))


class Chunk(NamedTuple):
    """A box of a variable: a slice with start and stop for each of its dimensions (an empty tuple for a scalar)."""

    variable: str
    slices: tuple[slice, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the box."""
        return tuple(s.stop - s.start for s in self.slices)


class Source(ABC):
    """A file, or anything else that arrays can be read from, from several threads at once.

    One's own source has `variables()` and `read(chunk)`, and is opened with `sciml.open(source)`.
    """

    attributes: Mapping[str, Any] = {}

    @abstractmethod
    def variables(self) -> Mapping[str, Variable]:
        """What there is to read, by name."""

    @abstractmethod
    def read(self, chunk: Chunk) -> np.ndarray:
        """The numbers in a box, of shape `chunk.shape`. Raises DataError where they cannot be read."""

    def read_into(self, chunk: Chunk, out: np.ndarray) -> None:
        """Reads a box into an array, converting the type; a source that can save a copy does so here."""
        out[...] = self.read(chunk)

    def fingerprint(self) -> str:
        """What tells these data from others; of files, their sizes and times of change as well."""
        return digest({"class": f"{type(self).__module__}.{type(self).__qualname__}", "variables": self.describe()})

    def describe(self) -> dict[str, Any]:
        """Names, dimensions, shapes and types, as JSON."""
        return {n: [list(v.dims), list(v.shape), str(v.dtype)] for n, v in self.variables().items()}


def digest(value: Any) -> str:
    """A short hash of a value of JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]
