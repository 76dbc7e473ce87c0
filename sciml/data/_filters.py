"""The filters of HDF5 chunks, undone without the library and so without its lock."""

from typing import Any

import deflate
import numpy as np

DEFLATE, SHUFFLE, FLETCHER32, BLOSC, ZSTD = FILTERS = (1, 2, 3, 32001, 32015)
NAMES = {
    DEFLATE: "gzip",
    SHUFFLE: "shuffle",
    FLETCHER32: "fletcher32",
    BLOSC: "blosc",
    ZSTD: "zstd",
    32000: "lzf",
    4: "szip",
}
Bytes = bytes | bytearray | memoryview


def decode(raw: memoryview, filters, mask: int, size: int, itemsize: int) -> tuple[Bytes, bool]:
    """Undoes the filters of a chunk, all but a shuffle that comes first; says whether the bytes are still shuffled."""
    data: Any = raw
    for number in range(len(filters) - 1, -1, -1):
        code, _ = filters[number]
        if mask >> number & 1 or (code == SHUFFLE and itemsize == 1):
            continue
        if code == SHUFFLE:
            if number == 0:
                return data, True
            # A few bytes at the end that make no whole number are left where they are.
            whole = len(data) // itemsize * itemsize
            lanes = np.frombuffer(data, np.uint8, whole).reshape(itemsize, -1)
            data = lanes.T.tobytes() + bytes(data[whole:])
        elif code == DEFLATE:
            # NetCDF takes checksums first, which are then shuffled and compressed with the numbers.
            sums = sum(c == FLETCHER32 and not mask >> i & 1 for i, (c, _) in enumerate(filters[:number]))
            data = deflate.zlib_decompress(data, size + 4 * sums)
        elif code == FLETCHER32:
            if fletcher32(data[:-4]) != int.from_bytes(data[-4:], "little"):
                raise ValueError("its checksum is wrong")
            data = data[:-4]
        elif code == ZSTD:
            import numcodecs  # slow to import

            data = numcodecs.Zstd().decode(data)
        elif code == BLOSC:
            import numcodecs

            data = numcodecs.Blosc().decode(data)
    return data, False


def unshuffle(data: Bytes, chunks: int, out: np.ndarray) -> None:
    """Of chunks beside each other, puts the first bytes of all numbers of a chunk, then all second bytes, ... back
    together.
    """
    item = out.dtype.itemsize
    lanes = np.frombuffer(data, np.uint8).reshape(chunks, item, -1)
    target = out.reshape(-1).view(np.uint8).reshape(chunks, -1, item)
    for lane in range(item):
        target[:, :, lane] = lanes[:, lane]


def fletcher32(data: Bytes) -> int:
    """The checksum of HDF5's filter: two sums of big-endian 16-bit words, modulo 65535."""
    words = np.frombuffer(data[: len(data) // 2 * 2], ">u2").astype(np.uint64)
    if len(data) % 2:
        words = np.append(words, np.uint64(data[-1] << 8))
    first = int(words.sum() % np.uint64(65535))
    weights = np.arange(len(words), 0, -1, dtype=np.uint64) % np.uint64(65535)
    second = int((words * weights % np.uint64(65535)).sum() % np.uint64(65535))
    first = first or (65535 if words.any() else 0)
    second = second or (65535 if words.any() else 0)
    return second << 16 | first
