"""Spherical harmonics and their couplings against e3nn-jax."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sciml
from sciml.molecules._harmonics import block, coupling, harmonics, paths, symmetric_products

e3nn = pytest.importorskip("e3nn_jax")


def test_harmonics_are_those_of_e3nn():
    with sciml.double_precision():
        directions = jax.random.normal(jax.random.key(0), (7, 3))
        directions = directions / jnp.linalg.norm(directions, axis=-1, keepdims=True)
        ours = harmonics(directions, 2)
        theirs = e3nn.spherical_harmonics("0e + 1o + 2e", directions, normalize=True, normalization="component")
        np.testing.assert_allclose(ours, theirs.array, atol=1e-6)


@pytest.mark.parametrize("path", [p for p in paths(2, 2, 2)])
def test_couplings_are_clebsch_gordan_coefficients_up_to_a_factor(path):
    ours, theirs = coupling(*path), np.asarray(e3nn.clebsch_gordan(*path), float)
    factor = np.sum(ours * theirs) / np.sum(theirs**2)
    np.testing.assert_allclose(ours, factor * theirs, atol=1e-6)
    assert np.sum(ours**2) == pytest.approx(2 * path[2] + 1)


def test_blocks_and_paths_are_those_of_natural_parity():
    assert [block(a) for a in range(3)] == [slice(0, 1), slice(1, 4), slice(4, 9)]
    assert paths(1, 1, 1) == [(0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 0)]
    assert len(paths(2, 2, 2)) == 11


@pytest.mark.parametrize("order, out", [(1, 1), (2, 2), (3, 0), (3, 1)])
def test_products_span_the_symmetric_couplings_of_e3nn(order, out):
    factors, maps = symmetric_products(2, order, out)
    features = np.random.default_rng(1).normal(size=(300, 9))
    ours = np.einsum("st,tcp->scp", features[:, factors].prod(axis=1), maps)
    assert np.mean(ours**2, axis=(0, 1)) == pytest.approx(np.ones(maps.shape[-1]), rel=0.5)
    kept = ["0e", "1o", "2e"][out]
    basis = e3nn.reduced_symmetric_tensor_product_basis("0e + 1o + 2e", order, keep_ir=[kept]).array
    indices = "ijk"[:order]
    theirs = np.einsum(f"{indices}o,{','.join('s' + i for i in indices)}->so", basis, *[features] * order)
    theirs = np.moveaxis(theirs.reshape(300, -1, 2 * out + 1), 1, -1)
    assert theirs.shape == ours.shape
    _, residual, rank, _ = np.linalg.lstsq(ours.reshape(-1, ours.shape[-1]), theirs.reshape(-1, ours.shape[-1]))
    assert rank == ours.shape[-1]
    np.testing.assert_allclose(residual / np.sum(theirs**2, axis=(0, 1)), 0, atol=1e-8)
