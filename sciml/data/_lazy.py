"""Arrays that are not read yet: stored, sliced, joined, stacked and mapped, each a small node with `read`."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ._source import Chunk, Source

Slices = tuple[slice, ...]


class Lazy(ABC):
    """An array with named dimensions that can be read in boxes, from several threads at once."""

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype
    attributes: Mapping[str, Any]

    @abstractmethod
    def read_into(self, box: Slices, out: np.ndarray) -> None:
        """Reads a box (a slice with start and stop, step 1, for each dimension) into an array of its shape."""

    @property
    @abstractmethod
    def chunks(self) -> tuple[int, ...]:
        """The shape of what is read at one cost; 1 in each dimension where any part can be read."""

    @abstractmethod
    def segments(self, axis: int) -> list[int]:
        """The lengths of the runs along an axis in which chunks lie without a gap, from the edge of a chunk on."""

    def read(self, box: Slices | None = None) -> np.ndarray:
        """The numbers in a box, by default all."""
        box = tuple(slice(0, n) for n in self.shape) if box is None else box
        out = np.empty(shape_of(box), self.dtype)
        self.read_into(box, out)
        return out

    @property
    def row_bytes(self) -> int:
        """The size in memory of one entry of the first dimension."""
        return int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize


def shape_of(box: Slices) -> tuple[int, ...]:
    """The shape of a box."""
    return tuple(max(0, s.stop - s.start) for s in box)


@dataclass(frozen=True)
class Stored(Lazy):
    """A variable of a source."""

    source: Source
    name: str

    def __post_init__(self):
        variable = self.source.variables()[self.name]
        object.__setattr__(self, "dims", variable.dims)
        object.__setattr__(self, "shape", variable.shape)
        object.__setattr__(self, "dtype", np.dtype(variable.dtype).newbyteorder("="))
        object.__setattr__(self, "attributes", variable.attributes)
        object.__setattr__(self, "_chunks", variable.chunks or (1,) * len(variable.shape))

    @property
    def chunks(self):
        return self._chunks  # pyright: ignore[reportAttributeAccessIssue]

    def read_into(self, box, out):
        self.source.read_into(Chunk(self.name, box), out)

    def segments(self, axis):
        return [self.shape[axis]]


@dataclass(frozen=True)
class Sliced(Lazy):
    """Every `step`th entry of a range, along each dimension."""

    inner: Lazy
    slices: Slices  # with start, stop and a positive step

    def __post_init__(self):
        object.__setattr__(self, "dims", self.inner.dims)
        object.__setattr__(self, "shape", tuple(len(range(s.start, s.stop, s.step)) for s in self.slices))
        object.__setattr__(self, "dtype", self.inner.dtype)
        object.__setattr__(self, "attributes", self.inner.attributes)

    @property
    def chunks(self):
        return tuple(max(1, c // s.step) for c, s in zip(self.inner.chunks, self.slices))

    def read_into(self, box, out):
        inner, steps = [], []
        for b, s in zip(box, self.slices):
            start = s.start + b.start * s.step
            inner.append(slice(start, start if b.stop <= b.start else s.start + (b.stop - 1) * s.step + 1))
            steps.append(slice(None, None, s.step))
        if all(s.step == 1 for s in self.slices):
            self.inner.read_into(tuple(inner), out)
        else:
            out[...] = self.inner.read(tuple(inner))[tuple(steps)]

    def segments(self, axis):
        s, chunk = self.slices[axis], self.inner.chunks[axis]
        if s.step > 1:
            return [self.shape[axis]]
        found, begin = [], 0
        for length in self.inner.segments(axis):
            low, high = max(begin, s.start), min(begin + length, s.stop)
            # From an edge in the middle of a chunk to the next edge is a run of its own.
            lead = min(-(low - begin) % chunk, max(0, high - low))
            found += [n for n in (lead, high - low - lead) if n > 0]
            begin += length
        return found


@dataclass(frozen=True)
class Joined(Lazy):
    """Arrays one after another along a dimension."""

    parts: tuple[Lazy, ...]
    axis: int

    def __post_init__(self):
        first = self.parts[0]
        length = sum(p.shape[self.axis] for p in self.parts)
        object.__setattr__(self, "dims", first.dims)
        object.__setattr__(self, "shape", (*first.shape[: self.axis], length, *first.shape[self.axis + 1 :]))
        object.__setattr__(self, "dtype", np.result_type(*(p.dtype for p in self.parts)))
        object.__setattr__(self, "attributes", first.attributes)
        starts = np.cumsum([0, *(p.shape[self.axis] for p in self.parts)])
        object.__setattr__(self, "_starts", starts)

    @property
    def chunks(self):
        return tuple(max(sizes) for sizes in zip(*(p.chunks for p in self.parts)))

    def read_into(self, box, out):
        axis, starts = self.axis, self._starts  # pyright: ignore[reportAttributeAccessIssue]
        begin, end = box[axis].start, box[axis].stop
        number = int(np.searchsorted(starts, begin, side="right")) - 1
        while number < len(self.parts) and starts[number] < end:
            low, high = max(begin, int(starts[number])), min(end, int(starts[number + 1]))
            if high > low:
                inside = slice(low - int(starts[number]), high - int(starts[number]))
                there = (*(slice(None),) * axis, slice(low - begin, high - begin))
                self.parts[number].read_into((*box[:axis], inside, *box[axis + 1 :]), out[there])
            number += 1

    def segments(self, axis):
        if axis != self.axis:
            return self.parts[0].segments(axis)
        return [n for p in self.parts for n in p.segments(axis)]


@dataclass(frozen=True)
class Stacked(Lazy):
    """Arrays of one shape beside each other along a new dimension."""

    parts: tuple[Lazy, ...]
    axis: int
    dim: str

    def __post_init__(self):
        first, axis = self.parts[0], self.axis
        object.__setattr__(self, "dims", (*first.dims[:axis], self.dim, *first.dims[axis:]))
        object.__setattr__(self, "shape", (*first.shape[:axis], len(self.parts), *first.shape[axis:]))
        object.__setattr__(self, "dtype", np.result_type(*(p.dtype for p in self.parts)))
        object.__setattr__(self, "attributes", first.attributes)

    @property
    def chunks(self):
        sizes = [max(sizes) for sizes in zip(*(p.chunks for p in self.parts))]
        return (*sizes[: self.axis], 1, *sizes[self.axis :])

    def read_into(self, box, out):
        wanted, rest = box[self.axis], (*box[: self.axis], *box[self.axis + 1 :])
        for place, number in enumerate(range(wanted.start, wanted.stop)):
            self.parts[number].read_into(rest, out[(*(slice(None),) * self.axis, place)])

    def segments(self, axis):
        if axis == self.axis:
            return [len(self.parts)]
        return self.parts[0].segments(axis - (axis > self.axis))


@dataclass(frozen=True)
class Mapped(Lazy):
    """A function of each number, such as a unit conversion."""

    inner: Lazy
    function: Callable[[np.ndarray], np.ndarray]
    dtype: Any
    name: str  # what the function is, for fingerprints
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        object.__setattr__(self, "dims", self.inner.dims)
        object.__setattr__(self, "shape", self.inner.shape)
        object.__setattr__(self, "dtype", np.dtype(self.dtype))

    @property
    def chunks(self):
        return self.inner.chunks

    def read_into(self, box, out):
        result = self.function(self.inner.read(box))
        if result.shape != out.shape:
            raise ValueError(f"the function '{self.name}' changed the shape from {out.shape} to {result.shape}")
        out[...] = result

    def segments(self, axis):
        return self.inner.segments(axis)


@dataclass(frozen=True)
class Dropped(Lazy):
    """Without a dimension of length one."""

    inner: Lazy
    axis: int

    def __post_init__(self):
        object.__setattr__(self, "dims", _without(self.inner.dims, self.axis))
        object.__setattr__(self, "shape", _without(self.inner.shape, self.axis))
        object.__setattr__(self, "dtype", self.inner.dtype)
        object.__setattr__(self, "attributes", self.inner.attributes)

    @property
    def chunks(self):
        return _without(self.inner.chunks, self.axis)

    def read_into(self, box, out):
        self.inner.read_into((*box[: self.axis], slice(0, 1), *box[self.axis :]), np.expand_dims(out, self.axis))

    def segments(self, axis):
        return self.inner.segments(axis + (axis >= self.axis))


@dataclass(frozen=True)
class Transposed(Lazy):
    """With dimensions in another order."""

    inner: Lazy
    dims: tuple[str, ...]

    def __post_init__(self):
        order = tuple(self.inner.dims.index(d) for d in self.dims)
        object.__setattr__(self, "_order", order)
        object.__setattr__(self, "shape", tuple(self.inner.shape[i] for i in order))
        object.__setattr__(self, "dtype", self.inner.dtype)
        object.__setattr__(self, "attributes", self.inner.attributes)

    @property
    def chunks(self):
        return tuple(self.inner.chunks[i] for i in self._order)  # pyright: ignore[reportAttributeAccessIssue]

    def read_into(self, box, out):
        order = self._order  # pyright: ignore[reportAttributeAccessIssue]
        back = np.argsort(order)
        self.inner.read_into(tuple(box[i] for i in back), out.transpose(back))

    def segments(self, axis):
        return self.inner.segments(self._order[axis])  # pyright: ignore[reportAttributeAccessIssue]


def _without(sequence: tuple, place: int) -> tuple:
    return (*sequence[:place], *sequence[place + 1 :])


def describe(lazy: Lazy, sources: Mapping[int, str]) -> Any:
    """The recipe of an array as JSON; `sources` has a name for the identity of each source."""
    if isinstance(lazy, Stored):
        return [sources.get(id(lazy.source), "?"), lazy.name]
    if isinstance(lazy, Sliced):
        return {"of": describe(lazy.inner, sources), "slices": [[s.start, s.stop, s.step] for s in lazy.slices]}
    if isinstance(lazy, Joined | Stacked):
        return {type(lazy).__name__: [describe(p, sources) for p in lazy.parts], "axis": lazy.axis}
    if isinstance(lazy, Mapped):
        return {"of": describe(lazy.inner, sources), "map": lazy.name, "dtype": str(lazy.dtype)}
    if isinstance(lazy, Dropped):
        return {"of": describe(lazy.inner, sources), "dropped": lazy.axis}
    if isinstance(lazy, Transposed):
        return {"of": describe(lazy.inner, sources), "dims": list(lazy.dims)}
    return f"{type(lazy).__module__}.{type(lazy).__qualname__}"


def lengths_by_file(lazy: Lazy, axis: int) -> list[int]:
    """How many entries along an axis come from each file."""
    if isinstance(lazy, Joined) and lazy.axis == axis:
        return [p.shape[axis] for p in lazy.parts]
    if isinstance(lazy, Stacked):
        return [1] * len(lazy.parts) if lazy.axis == axis else lengths_by_file(lazy.parts[0], axis - (axis > lazy.axis))
    if isinstance(lazy, Sliced):
        s, begin, found = lazy.slices[axis], 0, []
        for length in lengths_by_file(lazy.inner, axis):
            first = s.start + -(-max(0, begin - s.start) // s.step) * s.step
            found.append(len(range(first, min(begin + length, s.stop), s.step)))
            begin += length
        return [n for n in found if n]
    if isinstance(lazy, Mapped):
        return lengths_by_file(lazy.inner, axis)
    if isinstance(lazy, Dropped):
        return lengths_by_file(lazy.inner, axis + (axis >= lazy.axis))
    if isinstance(lazy, Transposed):
        return lengths_by_file(lazy.inner, lazy.inner.dims.index(lazy.dims[axis]))
    return [lazy.shape[axis]]
