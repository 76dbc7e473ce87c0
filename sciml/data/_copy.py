"""What a data set holds as something to be written: from chunks of one shape to chunks of another in bounded memory."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from ._cf import relabelled
from ._chunking import Grid
from ._content import Block, Content, Shapes, encoded, provenance
from ._dataset import Dataset
from ._formats import open_store
from ._hdf5 import HDF5
from ._lazy import Lazy, Slices, Stored
from ._source import DataError, Variable

# Of numbers that are held at once; the second where chunks of source and target lie across each other. A chunk that is
# larger is held whole.
BLOCK_BYTES, MOST_BYTES = 2**26, 2**28
# How often chunks of the source may be decoded, on the average, before they are copied to a file without compression.
DECODINGS = 2.0


def content_of_dataset(data: Dataset, scratch: Path, bar: Callable) -> Content:
    """The variables of a data set, which are read block by block.

    Blocks have up to 256 MiB and whole chunks of the target. Where that would decode chunks of the source more than
    twice, the variable is first copied to the file `scratch`, without compression. Raises ValueError for windows and
    patches, DataError for variables that are not real numbers.
    """
    if data.window or data.tiles:
        raise ValueError("windows and patches are not written: write the data set that they were made from")
    variables = {n: Variable(a.dims, a.shape, a.dtype, attributes=a.attributes) for n, a in data.arrays.items()}
    for name, variable in variables.items():
        if variable.dtype.kind not in "biuf":
            raise DataError(f"'{name}' has the type {variable.dtype}; numbers can be written")

    def blocks(shapes: Shapes, whole_rows: bool) -> Iterator[Block]:
        if whole_rows:
            yield from _rows(data.arrays, shapes)
            return
        arrays = _within_reach(data, shapes, scratch, bar)
        for name, array in arrays.items():
            for box in boxes(array.shape, block_shape(array, shapes[name])):
                yield tuple(s.start for s in box), {name: array.read(box)}

    coords = {n: (c.dims, *encoded(n, c.values, c.attributes)) for n, c in data.coords.items()}
    return Content(variables, coords, dict(data.attributes) | provenance(), {}, blocks)


def _rows(arrays: Mapping[str, Lazy], shapes: Shapes) -> Iterator[Block]:
    """Blocks of whole rows of all variables that have the same first dimension."""
    for dim in dict.fromkeys(a.dims[0] for a in arrays.values()):
        names = [n for n, a in arrays.items() if a.dims[0] == dim]
        row = sum(arrays[n].row_bytes for n in names)
        unit = max(shapes[n][0] for n in names)
        rows = unit * max(1, BLOCK_BYTES // max(1, row * unit))
        size = arrays[names[0]].shape[0]
        for start in range(0, size, rows):
            along = slice(start, min(start + rows, size))
            boxes = {n: (along, *(slice(0, k) for k in arrays[n].shape[1:])) for n in names}
            yield (start,), {n: arrays[n].read(box) for n, box in boxes.items()}


def boxes(shape: tuple[int, ...], block: tuple[int, ...]) -> Iterator[Slices]:
    """The boxes of a shape that cover an array."""
    for corner in itertools.product(*(range(0, n, b) for n, b in zip(shape, block))):
        yield tuple(slice(c, min(c + b, n)) for c, b, n in zip(corner, block, shape))


def block_shape(array: Lazy, target: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of blocks that are read and written at once: whole chunks of the target, and so many that they hold
    chunks of the source where `MOST_BYTES` allow it.
    """
    shape = list(target)
    ratios = [c / t for c, t in zip(array.chunks, target)]
    order = sorted(range(len(shape)), key=lambda axis: -ratios[axis])
    for axis in order:
        _extend(shape, axis, min(array.chunks[axis], array.shape[axis]), array, MOST_BYTES)
    for axis in order:
        _extend(shape, axis, array.shape[axis], array, BLOCK_BYTES)
    return tuple(shape)


def _extend(shape: list[int], axis: int, length: int, array: Lazy, most: int) -> None:
    """Makes a block a multiple of what it is along an axis, up to a length."""
    room = most // max(1, math.prod(shape) * array.dtype.itemsize)
    times = max(1, min(room, -(-length // shape[axis])))
    shape[axis] = min(shape[axis] * times, array.shape[axis])


def decodings(array: Lazy, block: tuple[int, ...]) -> float:
    """How often each chunk of the source is decoded, on the average, if an array is read in blocks."""
    grid, ratio = Grid(array), 1.0
    for axis, (size, length) in enumerate(zip(array.shape, block)):
        starts = np.arange(0, size, length)
        ratio *= grid.touched(axis, starts, np.minimum(starts + length, size)).sum() / grid.count([axis])
    return ratio


def _within_reach(data: Dataset, shapes: Shapes, scratch: Path, bar: Callable) -> Mapping[str, Lazy]:
    """The arrays; of those whose chunks would be decoded again and again, copies in a file, cut so that blocks of both
    the source and the target hold whole chunks of it.
    """
    blocks = {n: block_shape(a, shapes[n]) for n, a in data.arrays.items()}
    across = {n: a for n, a in data.arrays.items() if decodings(a, blocks[n]) > DECODINGS}
    if not across:
        return data.arrays
    advance = bar("copying chunks that lie across", sum(math.prod(a.shape) for a in across.values()))
    with open_store(scratch, "hdf5") as (store, check):
        for number, (name, array) in enumerate(across.items()):
            chunks = tuple(min(c, n) for c, n in zip(array.chunks, array.shape))
            reading = block_shape(array, chunks)
            cut = tuple(map(min, reading, blocks[name]))
            copy = store.create_dataset(str(number), array.shape, array.dtype, chunks=cut, track_times=False)
            for box in boxes(array.shape, reading):
                copy[box] = array.read(box)
                check()
                advance(math.prod(s.stop - s.start for s in box))
    source = HDF5(scratch)
    copies = {n: relabelled(Stored(source, str(i)), a.dims, a.attributes) for i, (n, a) in enumerate(across.items())}
    return dict(data.arrays) | copies
