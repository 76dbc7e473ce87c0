"""The order of rows: permutations, pools and lanes, against what they must be."""

import itertools
from collections import Counter

import numpy as np
import pytest

from sciml.data._shuffle import TABLE, Order, lanes_of, permute, shuffled


@pytest.mark.parametrize("table", [0, TABLE])
@pytest.mark.parametrize("n", [1, 2, 3, 5, 17, 1000, 4097])
def test_permute_is_a_permutation_and_has_an_inverse(n, table, monkeypatch):
    monkeypatch.setattr("sciml.data._shuffle.TABLE", table)
    there = permute(np.arange(n), n, 42)
    assert sorted(there) == list(range(n))
    assert (permute(there, n, 42, inverse=True) == np.arange(n)).all()
    # One at a time gives the same: no state.
    assert [int(permute(np.array([i]), n, 42)[0]) for i in range(min(n, 5))] == there[:5].tolist()


@pytest.mark.parametrize("draw", [lambda key: permute(np.arange(4), 4, key), lambda key: shuffled(4, key)])
def test_all_permutations_are_equally_likely(draw, monkeypatch):
    monkeypatch.setattr("sciml.data._shuffle.TABLE", 0)
    counts = Counter(tuple(draw(key).tolist()) for key in range(4800))
    assert set(counts) == set(itertools.permutations(range(4)))
    chi_square = sum((c - 200) ** 2 / 200 for c in counts.values())
    # 23 degrees of freedom: above 49.7 with probability 0.001.
    assert chi_square < 49.7


def orders(count=150):
    rng = np.random.default_rng(0)
    for seed in range(count):
        segments = tuple(int(n) for n in rng.integers(1, 50, rng.integers(1, 6)))
        block, size = int(rng.integers(1, 9)), int(rng.integers(1, 13))
        lanes = lanes_of(size, block, 64)
        pool = int(np.lcm(size, lanes * block)) * int(rng.integers(1, 4))
        yield Order(segments, block, pool, size, lanes, seed)


def test_each_epoch_has_each_row_once():
    for order in orders():
        rows = np.concatenate([order.rows_of_pool(3, g) for g in range(order.pools)])
        assert sorted(rows) == list(range(order.rows))


def test_pieces_are_parts_of_blocks_of_one_segment():
    for order in orders(60):
        edges = np.cumsum([0, *order.segments])
        for start, stop in np.concatenate([order.pieces(1, g) for g in range(order.pools)]):
            segment = np.searchsorted(edges, start, side="right") - 1
            assert stop <= edges[segment + 1]
            if order.pools > 1:
                assert (start - edges[segment]) // order.block == (stop - 1 - edges[segment]) // order.block


def test_epochs_and_seeds_differ_and_repeat():
    order = Order((1000,), 10, 200, 20, 20, seed=1)
    first = order.rows_of_pool(0, 0)
    assert (first == Order((1000,), 10, 200, 20, 20, seed=1).rows_of_pool(0, 0)).all()
    assert (first != order.rows_of_pool(1, 0)).any()
    assert (first != Order((1000,), 10, 200, 20, 20, seed=2).rows_of_pool(0, 0)).any()


def test_one_pool_is_an_exact_permutation():
    counts = Counter(tuple(Order((2, 2), 1, 4, 2, 1, seed).rows_of_pool(0, 0).tolist()) for seed in range(4800))
    assert len(counts) == 24
    assert sum((c - 200) ** 2 / 200 for c in counts.values()) < 49.7


def test_each_lane_of_a_batch_comes_from_its_own_blocks():
    order = Order((640,), 8, 320, 32, 8, seed=5)
    batches = order.rows_of_pool(0, 0).reshape(-1, 32)
    blocks = [set((batches[:, lane * 4 : lane * 4 + 4] // 8).ravel().tolist()) for lane in range(8)]
    assert all(len(b) == 5 for b in blocks)
    assert len(set().union(*blocks)) == 40


def test_any_position_is_found_at_once():
    order = Order((10**7 + 1,) * 300, 100, 12800, 32, 32, seed=0)
    row = order.rows_of_pool(7, 100_000)
    assert row.shape == (12800,) and len(set(row.tolist())) == 12800


def test_without_shuffling_rows_are_in_order():
    order = Order((7, 5), 3, 4, 2, 2, seed=0, shuffle=False)
    assert np.concatenate([order.rows_of_pool(9, g) for g in range(3)]).tolist() == list(range(12))
