"""A source in memory, for tests: arrays with names and chunks, which counts what is read."""

import numpy as np

from sciml.data import Chunk, Coordinate, Dataset, Source, Variable
from sciml.data._lazy import Stored


class InMemory(Source):
    """Arrays by name as `(dims, values)`, with chunks by name."""

    name = "memory"

    def __init__(self, arrays, chunks=None, attributes=None):
        self.arrays, self.chunks, self.attributes_of = arrays, chunks or {}, attributes or {}
        self.reads: list[Chunk] = []

    def variables(self):
        return {
            n: Variable(dims, a.shape, a.dtype, self.chunks.get(n), self.attributes_of.get(n, {}))
            for n, (dims, a) in self.arrays.items()
        }

    def read(self, chunk):
        self.reads.append(chunk)
        return self.arrays[chunk.variable][1][chunk.slices]


def in_memory(arrays, chunks=None, coords=None) -> Dataset:
    """A data set of arrays in memory; its only source counts the reads."""
    source = InMemory({n: (dims, np.asarray(a)) for n, (dims, a) in arrays.items()}, chunks)
    coordinates = {n: Coordinate((n,), np.asarray(v)) for n, v in (coords or {}).items()}
    return Dataset({n: Stored(source, n) for n in arrays}, coordinates, sources=(source,))
