"""HDF5 files: structure through h5py, numbers through one's own reads of the chunks, outside of the library's lock."""

import hashlib
import itertools
import math
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ._filters import FILTERS, NAMES, decode, unshuffle
from ._handles import Handles
from ._source import READ_BYTES, Chunk, DataError, Source, Variable, digest

# HDF5 itself may be called by one thread at a time.
LIBRARY = threading.RLock()
ENDS_BYTES = 64 * 1024
# Shorter runs than this are read through a memory map instead of one call each.
RUN_BYTES = 4096
MOST_RUNS = 1024
# Chunks with less than this between them are read at once.
GAP_BYTES = 4096
# What NetCDF puts before a variable that has the name of a dimension without being its coordinate.
HIDDEN_PREFIX = "_nc4_non_coord_"


def _close_library(file) -> None:
    with LIBRARY:
        file.close()


SCRATCH = threading.local()
DESCRIPTORS = Handles(os.close)
LIBRARIES = Handles(_close_library)


class HDF5(Source):
    """An HDF5 file. Variables in groups are named `group/name`; dimensions come from dimension scales and labels, else
    from what arrays share.

    Chunks with the filters none, gzip, shuffle, fletcher32, zstd and blosc are read by offset and decoded in the
    calling thread; any other goes through h5py. Raises DataError for a file that is not HDF5 or truncated.
    """

    def __init__(self, path: str | os.PathLike, group: str | None = None):
        import h5py

        self.path, self.name = Path(path), Path(path).name
        self._identity = identity(self.path)
        try:
            with LIBRARY, h5py.File(self.path, "r") as file:
                root = file if group is None else _group(file, group, self.path)
                self.attributes = attributes_of(root)
                self._base = file.id.get_create_plist().get_userblock()
                self._arrays, self.groups, self.skipped = _scan(root)
        except (OSError, RuntimeError, KeyError) as error:
            raise DataError(f"{self.path}: not an HDF5 file, or truncated ({error})") from None
        self._name_dimensions()

    def variables(self) -> Mapping[str, Variable]:
        """The numeric arrays of the file."""
        return self._variables

    @cached_property
    def _variables(self) -> dict[str, Variable]:
        return {n: a.variable() for n, a in self._arrays.items()}

    def fingerprint(self) -> str:
        """A hash of the name, the size, samples of the bytes and the variables; a copy has the same."""
        return digest([self.name, self._identity[0], sampled(self.path), self.describe()])

    def read(self, chunk: Chunk) -> np.ndarray:
        """The numbers of a box."""
        out = np.empty(chunk.shape, self._arrays[chunk.variable].dtype.newbyteorder("="))
        self.read_into(chunk, out)
        return out

    def read_into(self, chunk: Chunk, out: np.ndarray) -> None:
        """Reads a box into an array."""
        array, box = self._arrays[chunk.variable], chunk.slices
        if array.length != array.shape:
            # What lies beyond the numbers that were written is the fill value.
            out[...] = array.fill
            box = tuple(slice(min(s.start, n), min(s.stop, n)) for s, n in zip(box, array.shape))
            out = out[tuple(slice(0, s.stop - s.start) for s in box)]
        if 0 in out.shape:
            return
        try:
            if self._base or (array.chunks is None and array.offset is None) or not array.direct:
                self._read_by_library(array, box, out)
                return
            with DESCRIPTORS.use(self, self._open_descriptor) as file:
                self._refuse_change(file)
                read = self._read_chunks if array.chunks else self._read_contiguous
                read(file, array, box, out)
        except (OSError, RuntimeError, KeyError) as error:
            raise DataError(f"{self.path}: cannot read '{chunk.variable}' at {_corner(box)}: {error}") from None

    # The file.

    def _open_descriptor(self) -> int:
        self._refuse_change()
        return os.open(self.path, os.O_RDONLY)

    def _open_library(self):
        import h5py

        self._refuse_change()
        with LIBRARY:
            return h5py.File(self.path, "r")

    def _refuse_change(self, file: int | None = None) -> None:
        """Raises DataError where what lies at the path, or is open already, is not what it was."""
        if file is None and not self.path.exists():
            raise DataError(f"{self.path}: the file has vanished since it was opened")
        if identity(self.path if file is None else file) != self._identity:
            raise DataError(f"{self.path}: the file has changed since it was opened; open it again")

    # Contiguous arrays.

    def _read_contiguous(self, file: int, array: "_Array", box, out: np.ndarray) -> None:
        assert array.offset is not None
        shape, item = array.shape, array.dtype.itemsize
        whole = len(shape)
        while whole and (box[whole - 1].start, box[whole - 1].stop) == (0, shape[whole - 1]):
            whole -= 1
        run_axes = max(0, whole - 1)
        lengths = [s.stop - s.start for s in box]
        run = math.prod(lengths[run_axes:])
        runs = math.prod(lengths[:run_axes])
        if runs > 1 and (runs > MOST_RUNS or run * item < RUN_BYTES):
            return self._read_mapped(file, array, box, out)
        direct = out.dtype == array.dtype and out.flags.c_contiguous
        target = out if direct else np.empty(out.shape, array.dtype)
        flat = target.reshape(runs, run).view(np.uint8)
        strides = [item * math.prod(shape[i + 1 :]) for i in range(len(shape))]
        tail = sum(s.start * strides[i] for i, s in enumerate(box) if i >= run_axes)
        for number, corner in enumerate(itertools.product(*(range(s.start, s.stop) for s in box[:run_axes]))):
            offset = array.offset + tail + sum(i * step for i, step in zip(corner, strides))
            self._read_run(file, flat[number], offset, array.name)
        if not direct:
            out[...] = target

    def _read_run(self, file: int, target: np.ndarray, offset: int, name: str) -> None:
        done = 0
        while done < len(target):
            got = os.preadv(file, [target[done:].data], offset + done)
            if got == 0:
                raise DataError(f"{self.path}: truncated: '{name}' should have {len(target)} bytes at {offset}")
            done += got

    def _read_mapped(self, file: int, array: "_Array", box, out: np.ndarray) -> None:
        assert array.offset is not None
        size = os.fstat(file).st_size
        if array.offset + math.prod(array.shape) * array.dtype.itemsize > size:
            raise DataError(f"{self.path}: truncated: '{array.name}' goes beyond the end of the file")
        # By the descriptor: another file may lie at the path by now.
        with os.fdopen(os.dup(file), "rb") as stream:
            out[...] = np.memmap(stream, array.dtype, "r", array.offset, array.shape)[box]

    # Chunked arrays.

    def _read_chunks(self, file: int, array: "_Array", box, out: np.ndarray) -> None:
        index, chunks = self._index(array), array.chunks
        assert chunks is not None
        ranges = [range(s.start // c, -(-s.stop // c)) for s, c in zip(box, chunks)]
        numbers = np.ravel_multi_index(np.ix_(*ranges), array.grid).reshape(-1).tolist()
        # Of rows of whole chunks many are put in their place at once.
        rows = out.shape[1:] == chunks[1:] and out.dtype == array.dtype and out.flags.c_contiguous
        at_once = max(1, READ_BYTES // array.chunk_bytes)
        for first in range(0, len(numbers), at_once):
            group = numbers[first : first + at_once]
            decoded = self._decoded(file, array, index, group)
            begin = (ranges[0].start + first) * chunks[0] - box[0].start
            end = begin + len(group) * chunks[0]
            if rows and begin >= 0 and end <= len(out) and all(shuffled for _, shuffled in decoded):
                unshuffle(_beside_each_other([data for data, _ in decoded]), len(group), out[begin:end])
                continue
            for number, (data, shuffled) in zip(group, decoded):
                _place(array, box, number, data, shuffled, out)

    def _decoded(self, file: int, array: "_Array", index, numbers: list[int]) -> list[tuple[Any, bool]]:
        """The bytes of chunks without their filters, and whether these are shuffled still; None for the fill value."""
        raws, masks, item = self._raws(file, array, index, numbers), index[2], array.dtype.itemsize
        found = []
        for number in numbers:
            if number not in raws:
                found.append((None, False))
                continue
            try:
                data, shuffled = decode(raws[number], array.filters, int(masks[number]), array.chunk_bytes, item)
            except Exception as error:
                raise DataError(f"{self.path}: {array.chunk_name(number)} is corrupt: {error}") from None
            if len(data) != array.chunk_bytes:
                wrong = f"{len(data)} bytes instead of {array.chunk_bytes}"
                raise DataError(f"{self.path}: {array.chunk_name(number)} is corrupt: {wrong}")
            found.append((data, shuffled))
        return found

    def _raws(self, file: int, array: "_Array", index, numbers: list[int]) -> dict[int, memoryview]:
        """The bytes of chunks as they lie in the file, those beside each other read at once. A chunk that was never
        written is not stored, and left out.
        """
        offsets, sizes, _ = index
        places = [(int(offsets[n]), int(sizes[n]), n) for n in numbers if offsets[n] >= 0]
        raws, begin = {}, 0
        while begin < len(places):
            end = begin + 1
            while end < len(places) and 0 <= places[end][0] - sum(places[end - 1][:2]) <= GAP_BYTES:
                end += 1
            start = places[begin][0]
            raw = memoryview(os.pread(file, sum(places[end - 1][:2]) - start, start))
            for offset, size, number in places[begin:end]:
                raws[number] = raw[offset - start : offset - start + size]
                if len(raws[number]) != size:
                    short = f"should have {size} bytes at {offset}, there are {len(raws[number])}"
                    raise DataError(f"{self.path}: truncated: {array.chunk_name(number)} {short}")
            begin = end
        return raws

    def _index(self, array: "_Array"):
        if array.index is None:
            with LIBRARIES.use(self, self._open_library) as file, LIBRARY:
                if array.index is None:
                    try:
                        array.index = _chunk_index(file[array.path], array)
                    except ValueError as error:
                        raise DataError(f"{self.path}: the chunk index of '{array.name}' is corrupt: {error}") from None
        return array.index

    # Everything else.

    def _read_by_library(self, array: "_Array", box, out: np.ndarray) -> None:
        self._refuse_change()
        for name in array.parts:
            if not (self.path.parent / name).exists() and not Path(name).exists():
                # HDF5 would give the fill value.
                raise DataError(f"{self.path}: '{array.name}' lies in other files, of which {name} is missing")
        with LIBRARIES.use(self, self._open_library) as file, LIBRARY:
            try:
                out[...] = file[array.path][box]
            except OSError as error:
                missing = [c for c, _ in array.filters if c not in NAMES]
                hint = f"; its filter {missing[0]} may need `pip install hdf5plugin`" if missing else ""
                raise DataError(f"{self.path}: cannot read '{array.name}' at {_corner(box)}: {error}{hint}") from None

    def _name_dimensions(self) -> None:
        shapes = {n: a.shape for n, a in self._arrays.items() if not a.dims}
        for name, dims in invented_dims(shapes).items():
            self._arrays[name].dims = dims


@dataclass
class _Array:
    """An HDF5 data set as it lies in the file.

    `native` says whether NumPy can take its bytes as they are and from this file; `parts` are the files of a virtual
    one. `growing` names the scale of each unlimited dimension; `length` is the shape with those as long as the longest
    array on the same scale, as NetCDF has it. `numbers` are NetCDF's dimensions of a scale that has several.
    """

    name: str
    path: str
    shape: tuple[int, ...]
    dtype: np.dtype
    chunks: tuple[int, ...] | None
    filters: tuple[tuple[int, tuple[int, ...]], ...]
    offset: int | None
    fill: Any
    attributes: dict[str, Any]
    native: bool = True
    parts: tuple[str, ...] = ()
    growing: tuple[str, ...] = ()
    numbers: tuple[int, ...] = ()
    length: tuple[int, ...] = ()
    dims: tuple[str, ...] = ()
    index: Any = field(default=None, repr=False)

    def __post_init__(self):
        self.length = self.length or self.shape

    @property
    def direct(self) -> bool:
        """Whether we know its type and all its filters."""
        return self.native and all(code in FILTERS for code, _ in self.filters)

    @cached_property
    def chunk_bytes(self) -> int:
        """The size of a decoded chunk."""
        return math.prod(self.chunks or ()) * self.dtype.itemsize

    def chunk_start(self, number: int) -> list[int]:
        """The first entry of a chunk along each axis."""
        return [int(i) * c for i, c in zip(np.unravel_index(number, self.grid), self.chunks or ())]

    def chunk_name(self, number: int) -> str:
        """What messages call a chunk."""
        return f"chunk at {tuple(self.chunk_start(number))} of '{self.name}'"

    @cached_property
    def grid(self) -> tuple[int, ...]:
        """The number of chunks along each axis."""
        return tuple(-(-n // c) for n, c in zip(self.shape, self.chunks or ()))

    def variable(self) -> Variable:
        """The same for the world."""
        codec = "+".join(NAMES.get(code, f"filter {code}") for code, _ in self.filters)
        return Variable(self.dims, self.length, self.dtype.newbyteorder("="), self.chunks, self.attributes, codec)


def _beside_each_other(parts: list[Any]) -> Any:
    """Bytes joined, in memory of this thread that is used again: new memory would have to be cleared by the system."""
    if len(parts) == 1:
        return parts[0]
    size = sum(map(len, parts))
    if len(getattr(SCRATCH, "memory", b"")) < size:
        SCRATCH.memory = bytearray(size)
    whole, end = memoryview(SCRATCH.memory)[:size], 0
    for part in parts:
        begin, end = end, end + len(part)
        whole[begin:end] = part
    return whole


def _place(array: _Array, box, number: int, data: Any, shuffled: bool, out: np.ndarray) -> None:
    """Puts the part of a chunk that is in a box in its place."""
    assert array.chunks is not None
    start = array.chunk_start(number)
    inside = tuple(slice(max(s.start - b, 0), min(s.stop - b, c)) for s, b, c in zip(box, start, array.chunks))
    there = tuple(slice(b + i.start - s.start, b + i.stop - s.start) for s, b, i in zip(box, start, inside))
    if data is None:
        out[there] = array.fill
    elif shuffled:
        target = np.empty(array.chunks, array.dtype)
        unshuffle(data, 1, target)
        out[there] = target[inside]
    else:
        out[there] = np.frombuffer(data, array.dtype).reshape(array.chunks)[inside]


def identity(file: Path | int) -> tuple[int, int]:
    """Size and time of change, of a path or an open file. Raises FileNotFoundError."""
    stat = os.stat(file)
    return stat.st_size, stat.st_mtime_ns


def sampled(path: Path) -> str:
    """A hash of the first and last 64 KiB of a file, and of 256 short runs of bytes spread evenly between."""
    found, size = hashlib.sha256(), os.path.getsize(path)
    with open(path, "rb") as file:
        for start, length in ((0, ENDS_BYTES), *((size * i // 256, 64) for i in range(256)), (size - ENDS_BYTES, size)):
            file.seek(max(0, start))
            found.update(file.read(length))
    return found.hexdigest()[:16]


def _group(file, group: str, path: Path):
    if group not in file:
        raise DataError(f"{path}: no group '{group}'; there are {', '.join(file)}")
    return file[group]


def attributes_of(node) -> dict[str, Any]:
    """Attributes as plain values; references and the library's own are left out."""
    import h5py

    hidden = {
        "DIMENSION_LIST",
        "REFERENCE_LIST",
        "CLASS",
        "NAME",
        "_Netcdf4Dimid",
        "_Netcdf4Coordinates",
        "_NCProperties",
        "_nc3_strict",
    }
    out = {}
    for name in node.attrs:
        if name in hidden:
            continue
        try:
            value = node.attrs[name]
        except (OSError, TypeError):
            continue
        # NetCDF stores empty text as nothing at all.
        value = "" if isinstance(value, h5py.Empty) else plain(value)
        if _is_plain(value):
            out[name] = value
    return out


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(v) for v in value)
    return isinstance(value, str | int | float | complex)


def plain(value: Any) -> Any:
    """An attribute as str, number, bool or list of them."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, np.ndarray):
        return plain(value.reshape(-1)[0]) if value.size == 1 else [plain(v) for v in value.reshape(-1)]
    return value.item() if isinstance(value, np.generic) else value


def _scan(root) -> tuple[dict[str, _Array], dict[str, dict[str, Any]], list[str]]:
    """All of a group: the arrays of numbers, the attributes of its groups, and the names of other arrays."""
    import h5py
    from h5py import h5o  # pyright: ignore[reportAttributeAccessIssue]

    found: dict[str, _Array] = {}
    groups: dict[str, dict[str, Any]] = {}
    skipped: list[str] = []
    dimensions: dict[int, str] = {}
    top = h5o.get_info(root.id)

    def visit(prefix: str, group, above: tuple) -> None:
        for key in group:
            try:
                node = group[key]
            except (KeyError, OSError):
                if isinstance(group.get(key, getlink=True), h5py.HardLink):
                    raise
                skipped.append(prefix + key)  # a link that leads nowhere
                continue
            info = h5o.get_info(node.id)
            if isinstance(node, h5py.Group):
                here = (info.fileno, info.addr)
                if here not in above:  # a link may lead back up
                    groups[prefix + key] = attributes_of(node)
                    visit(f"{prefix}{key}/", node, (*above, here))
            elif isinstance(node, h5py.Dataset) and _is_numeric(node):
                number: Any = node.attrs.get("_Netcdf4Dimid")
                if number is not None:
                    dimensions[int(number)] = key.removeprefix(HIDDEN_PREFIX)
                if _is_bare_dimension(node):
                    continue
                path = f"{root.name.rstrip('/')}/{prefix}{key}"
                found[prefix + key] = _array(prefix + key, path, node, info.fileno == top.fileno)
            else:
                skipped.append(prefix + key)

    visit("", root, ((top.fileno, top.addr),))
    for array in found.values():
        if not array.dims and array.numbers and all(n in dimensions for n in array.numbers):
            array.dims = tuple(dimensions[n] for n in array.numbers)
    return found, groups, skipped


def _is_numeric(node) -> bool:
    try:
        return node.shape is not None and node.dtype.kind in "biufc"
    except (TypeError, ValueError):  # NumPy has no such type
        return False


def _is_bare_dimension(node) -> bool:
    name = node.attrs.get("NAME", b"")
    text = name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
    return text.startswith("This is a netCDF dimension but not a netCDF variable")


def _array(name: str, path: str, node, own: bool) -> _Array:
    """What is known of a data set; `own` where it lies in the file itself, not in one that it links to."""
    from h5py import h5t

    plist = node.id.get_create_plist()
    filters = tuple((plist.get_filter(i)[0], tuple(plist.get_filter(i)[2])) for i in range(plist.get_nfilters()))
    fixed = not node.external and not node.is_virtual and node.chunks is None
    offset = node.id.get_offset() if fixed and node.size else None
    # NumPy has no type for some, such as 12 of 16 bits.
    native = own and node.id.get_type() == h5t.py_create(node.dtype, logical=True)
    sources = {s.file_name for s in node.virtual_sources()} if node.is_virtual else ()
    parts = tuple(sorted(s for s in sources if s != "." and "%" not in s))
    array = _Array(
        name, path, node.shape, node.dtype, node.chunks, filters, offset, node.fillvalue, attributes_of(node)
    )
    array.native, array.parts, array.dims, array.growing = native, parts, _dims(node), _growing(node)
    if "_Netcdf4Coordinates" in node.attrs:
        array.numbers = tuple(np.ravel(node.attrs["_Netcdf4Coordinates"]).tolist())
    return array


def _growing(node) -> tuple[str, ...]:
    """The scale of each unlimited dimension; empty for the others."""
    if None not in node.maxshape:
        return ("",) * len(node.maxshape)
    scales = [(node.dims[i][0] if len(node.dims[i]) else node).name or "" for i in range(node.ndim)]
    return tuple(scale if most is None else "" for scale, most in zip(scales, node.maxshape))


def _dims(node) -> tuple[str, ...]:
    """Dimension scales, else labels; empty where some have neither."""
    names = []
    is_scale = node.attrs.get("CLASS") == b"DIMENSION_SCALE"
    for axis in range(node.ndim):
        scales = node.dims[axis]
        if len(scales):
            names.append(scales[0].name.rsplit("/", 1)[-1])
        elif is_scale and node.ndim == 1:
            names.append(node.name.rsplit("/", 1)[-1])
        elif scales.label:
            names.append(scales.label)
    return tuple(names) if len(names) == node.ndim and len(set(names)) == len(names) else ()


def invented_dims(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[str, ...]]:
    """Names for dimensions that have none, by place and size: `sample`, `dim_1`, `dim_2`, ... where all arrays of two
    and more dimensions agree on the size, else `sample_1000`, `dim_1_16`, ...
    """
    grids = [s for s in shapes.values() if len(s) > 1] or list(shapes.values())
    sizes = [{s[axis] for s in grids if len(s) > axis} for axis in range(max(map(len, grids), default=0))]

    def name_of(name: str, axis: int, size: int, alone: bool) -> str:
        if alone and size not in sizes[0]:
            return name.replace("/", "_") + "_dim_0"
        base = "sample" if axis == 0 else f"dim_{axis}"
        return base if len(sizes[axis]) == 1 else f"{base}_{size}"

    return {n: tuple(name_of(n, i, size, len(s) == 1) for i, size in enumerate(s)) for n, s in shapes.items()}


def _chunk_index(node, array: _Array):
    """Where each chunk lies: offset (-1 where there is none), size and filter mask, by its number in C order."""
    count = math.prod(array.grid)
    offsets, sizes, masks = np.full(count, -1, np.int64), np.zeros(count, np.int64), np.zeros(count, np.int64)

    def note(info) -> None:
        position = [o // c for o, c in zip(info.chunk_offset, array.chunks or ())]
        number = int(np.ravel_multi_index(position, array.grid))
        offsets[number], sizes[number], masks[number] = info.byte_offset, info.size, info.filter_mask

    node.id.chunk_iter(note)
    return offsets, sizes, masks


def _corner(box) -> tuple[int, ...]:
    return tuple(s.start for s in box)
