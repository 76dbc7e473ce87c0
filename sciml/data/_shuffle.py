"""The order in which rows are read: a permutation of blocks, and one of the rows in a pool of blocks.

Everything here is a pure function of (seed, epoch, position), in whole numbers only, so that any step of any epoch can
be found at once, on any machine, without what came before.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

_MASK = 0xFFFFFFFFFFFFFFFF
# Up to this many numbers a table of the permutation is less work than its rounds.
TABLE = 2**16


def mix(*words: Any) -> np.ndarray:
    """A 64-bit hash of whole numbers, or arrays of them (the finaliser of SplitMix64; Steele et al., OOPSLA 2014)."""
    state: np.ndarray = np.zeros((), np.uint64)
    with np.errstate(over="ignore"):
        for word in words:
            number = np.uint64(word & _MASK) if isinstance(word, int) else np.asarray(word).astype(np.uint64)
            state = np.asarray((state ^ number) + np.uint64(0x9E3779B97F4A7C15))
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return np.asarray(state)


@lru_cache(maxsize=4)
def _tables(n: int, key: int) -> tuple[np.ndarray, np.ndarray]:
    """A permutation of range(n) and its inverse."""
    there = shuffled(n, key)
    return there, np.argsort(there)


def permute(numbers: np.ndarray, n: int, key: int, inverse: bool = False) -> np.ndarray:
    """Where a permutation of range(n) takes `numbers`. A large one is not made as a whole: the swap-or-not shuffle
    (Hoang, Morris & Rogaway, CRYPTO 2012).
    """
    x = np.asarray(numbers, np.int64)
    if n <= TABLE:
        return _tables(n, key)[int(inverse)][x]
    rounds = np.arange(6 * n.bit_length() + 24)
    pivots = (mix(key, rounds) % np.uint64(n)).astype(np.int64)
    order = zip(rounds[::-1], pivots[::-1]) if inverse else zip(rounds, pivots)
    for number, pivot in order:
        partner = (pivot - x) % n
        swap = mix(key, int(number), np.maximum(x, partner)) & np.uint64(1)
        x = np.where(swap.astype(bool), partner, x)
    return x


def shuffled(n: int, key: int, first: int = 0) -> np.ndarray:
    """A permutation of range(n) drawn with equal chances: the order of the hashes of `first`, `first` + 1, ..."""
    return np.argsort(mix(key, np.arange(first, first + n)), kind="stable")


@dataclass(frozen=True)
class Order:
    """How the rows of an epoch follow each other.

    Rows are numbered through segments (files, trajectories), each cut into blocks of `block` rows, the last of a
    segment shorter. An epoch permutes the blocks; `pool` consecutive rows of that sequence are permuted among
    themselves. Of a pool that is not the last, each of `lanes` equal parts is permuted by itself and gives each batch
    an equal share, so that a process that holds some rows of the batch reads some blocks of the pool.
    """

    segments: tuple[int, ...]
    block: int
    pool: int
    size: int
    lanes: int
    seed: int
    shuffle: bool = True

    @cached_property
    def rows(self) -> int:
        """The number of rows."""
        return int(sum(self.segments))

    @property
    def pools(self) -> int:
        """The number of pools of an epoch."""
        return -(-self.rows // self.pool)

    @cached_property
    def _blocks_of(self) -> np.ndarray:
        """The number of the first block of each segment, and of all blocks at the end."""
        return np.concatenate([[0], np.cumsum([-(-n // self.block) for n in self.segments])])

    @cached_property
    def _starts_of(self) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(self.segments)])

    @cached_property
    def _short(self) -> tuple[np.ndarray, np.ndarray]:
        """The blocks that are shorter than the others, and by how much."""
        lack = -np.asarray(self.segments) % self.block
        return self._blocks_of[1:][lack > 0] - 1, lack[lack > 0]

    def pieces(self, epoch: int, pool: int) -> np.ndarray:
        """The runs of rows, (start, stop) in the numbering of the segments, whose rows the pool holds."""
        begin, end = pool * self.pool, min((pool + 1) * self.pool, self.rows)
        # A pool that holds everything need not be sorted into blocks: its rows are permuted anyway.
        mixed = self.shuffle and self.pools > 1
        positions, lacks = self._short
        if mixed:
            positions = permute(positions, self._count, self._key(epoch, 0), inverse=True)
        order = np.argsort(positions)
        positions, lost = positions[order], np.cumsum(lacks[order])
        first, last = self._block_at(begin, positions, lost), self._block_at(end - 1, positions, lost)
        places = np.arange(first, last + 1)
        before = np.concatenate([[0], lost])[np.searchsorted(positions, places)]
        offsets = places * self.block - before
        numbers = permute(places, self._count, self._key(epoch, 0)) if mixed else places
        segment = np.searchsorted(self._blocks_of, numbers, side="right") - 1
        start = self._starts_of[segment] + (numbers - self._blocks_of[segment]) * self.block
        stop = np.minimum(start + self.block, self._starts_of[segment + 1])
        low, high = np.maximum(begin - offsets, 0), np.minimum(stop - start, end - offsets)
        return np.stack([start + low, start + high], axis=1)

    def permutation(self, epoch: int, pool: int) -> np.ndarray:
        """For each place in the batches of a pool, the place in its pieces laid end to end."""
        count = min(self.pool, self.rows - pool * self.pool)
        if not self.shuffle:
            return np.arange(count)
        lanes = self.lanes if count == self.pool and pool < self.pools - 1 else 1
        part, key = count // lanes, self._key(epoch, pool + 1)
        order = np.stack([lane * part + shuffled(part, key, lane * part) for lane in range(lanes)])
        if lanes > 1:
            order = order.reshape(lanes, -1, self.size // lanes).transpose(1, 0, 2)
        return order.reshape(-1)

    def rows_of_pool(self, epoch: int, pool: int) -> np.ndarray:
        """The numbers of the rows of a pool, in the order of the batches."""
        runs = [np.arange(a, b) for a, b in self.pieces(epoch, pool)]
        return np.concatenate(runs)[self.permutation(epoch, pool)]

    @property
    def _count(self) -> int:
        return int(self._blocks_of[-1])

    def _key(self, epoch: int, what: int) -> int:
        return int(mix(self.seed, epoch, what))

    def _block_at(self, row: int, positions: np.ndarray, lost: np.ndarray) -> int:
        """The place, in the permuted sequence, of the block that holds a row of that sequence."""
        # Where the blocks after each short one begin; a row before that start is not beyond the short block.
        after = (positions + 1) * self.block - lost
        k = int(np.searchsorted(after, row, side="right"))
        if k == 0:
            return min(row // self.block, int(positions[0]) if len(positions) else row // self.block)
        place = int(positions[k - 1]) + 1 + (row - int(after[k - 1])) // self.block
        return min(place, int(positions[k])) if k < len(positions) else place


def lanes_of(size: int, block: int, pool: int) -> int:
    """In how many parts a pool can be dealt: the largest divisor of the batch that leaves a part a whole block."""
    return max(d for d in range(1, size + 1) if size % d == 0 and (d == 1 or d * block <= pool))
