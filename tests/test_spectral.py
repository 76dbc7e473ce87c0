"""Spectral convolution against the discrete Fourier transform written out, its axes, weights and modes; resampling."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sciml
from sciml import operators as ops
from sciml.operators import _spectral

KEY = jax.random.key(0)
AXES = {
    "periodic": (ops.Periodic(),),
    "periodic 2-D": (ops.Periodic(), ops.Periodic()),
    "mixed": (ops.Periodic(), ops.Bounded(), ops.Periodic()),
    "cosine last": (ops.Periodic(), ops.Cosine()),
    "sine, cosine": (ops.Sine(), ops.Cosine()),
    "all": (ops.Cosine(), ops.Periodic(), ops.Sine()),
}


def layer_and_field(axes, grid, modes):
    layer = ops.SpectralConvolution(3, 2, modes=modes[: len(axes)], axes=axes, key=KEY)
    return layer, jax.random.normal(jax.random.key(1), (3, *grid[: len(axes)]))


def dense(layer, u):
    """The layer by sums over all wavenumbers, in complex numbers: a pair of opposite ones has conjugate matrices."""
    w = np.asarray(layer.weights.matrices)
    w, modes = w[..., 0, :, :] + 1j * w[..., 1, :, :], layer.modes
    axes = tuple(range(1, u.ndim))
    spectrum = np.fft.fftn(np.asarray(u), axes=axes, norm="forward")
    out = np.zeros((w.shape[-2], *u.shape[1:]), complex)

    def matrix(k):
        place = tuple(n + m - 1 if i < len(modes) - 1 else n for i, (n, m) in enumerate(zip(k, modes)))
        return None if k[-1] < 0 else w[place]

    for k in itertools.product(*(range(1 - m, m) for m in modes)):
        one, other = matrix(k), matrix(tuple(-n for n in k))
        mean = [m for m in (one, None if other is None else other.conj()) if m is not None]
        place = (slice(None), *(n % size for n, size in zip(k, u.shape[1:])))
        out[place] = np.mean(mean, axis=0) @ spectrum[place]
    result = np.fft.ifftn(out, axes=axes, norm="forward")
    assert np.abs(result.imag).max() < 1e-12
    return result.real


@pytest.mark.parametrize("name", ["periodic", "periodic 2-D"])
@pytest.mark.parametrize("grid", [(12, 10), (9, 11)])
def test_equals_the_transform_written_out(name, grid):
    with sciml.double_precision():
        layer, u = layer_and_field(AXES[name], grid, (4, 5))
        np.testing.assert_allclose(layer(u), dense(layer, u), atol=1e-12)


@pytest.mark.parametrize("name", AXES)
def test_fast_transforms_and_matrices_agree(name, monkeypatch):
    with sciml.double_precision():
        layer, u = layer_and_field(AXES[name], (12, 10, 14), (4, 5, 3))
        by_matrices = layer(u)
        assert not any(_spectral._uses_fft(a, m, n) for a, m, n in zip(layer.axes, layer.modes, u.shape[1:]))
        monkeypatch.setattr(_spectral, "FFT_COST", 0.0)
        np.testing.assert_allclose(layer(u), by_matrices, atol=1e-12)


@pytest.mark.parametrize(
    ("axis", "function"),
    [
        (ops.Periodic(), lambda x: np.cos(4 * np.pi * x) + np.sin(2 * np.pi * x)),
        (ops.Cosine(), lambda x: np.cos(3 * np.pi * x) - 2),
        (ops.Cosine(points=ops.ends), lambda x: np.cos(3 * np.pi * x) - 2),
        (ops.Sine(), lambda x: np.sin(2 * np.pi * x) + np.sin(np.pi * x)),
    ],
    ids=["periodic", "cosine", "cosine with ends", "sine"],
)
def test_basis_functions_pass_through_exactly(axis, function):
    """Analysis and synthesis of a function that the modes hold, onto the same and another grid."""
    with sciml.double_precision():
        u = jnp.asarray(function(axis.coordinates(16)))[:, None]
        z = _spectral.analysis(u, (axis,), (5,))
        for n in (16, 23):
            out = _spectral.synthesis(z, (axis,), (5,), (n,))[:, 0]
            np.testing.assert_allclose(out, function(axis.coordinates(n)), atol=1e-12)


def test_bounded_is_an_integral_over_the_domain():
    """A convolution with a kernel of a longer period: converges to the integral as the grid is refined."""
    axis = ops.Bounded(padding=0.5)
    with sciml.double_precision():
        layer = ops.SpectralConvolution(1, 1, modes=4, axes=axis, key=KEY)
        results = []
        for n in (32, 64, 128, 2048):
            u = jnp.asarray(np.exp(axis.coordinates(n)))[None]
            results.append(np.interp([0.25, 0.5, 0.75], axis.coordinates(n), np.asarray(layer(u)[0])))
    errors = [np.abs(r - results[-1]).max() for r in results[:-1]]
    assert errors[0] / errors[1] > 3.5 and errors[1] / errors[2] > 3.5


def test_fewer_points_than_modes():
    layer, _ = layer_and_field(AXES["periodic 2-D"], (12, 10), (4, 5))
    assert layer(jnp.ones((3, 3, 4))).shape == (2, 3, 4)
    fine = jax.random.normal(KEY, (3, 5, 5))
    low = ops.resample(fine, (12, 12))
    out = ops.resample(layer(low), (5, 5))
    np.testing.assert_allclose(layer(fine), out, atol=1e-5)


@pytest.mark.parametrize("weights", [ops.Dense, ops.Tucker, ops.CP], ids=["dense", "Tucker", "CP"])
def test_active_modes(weights):
    """Those that are not active count as zero; their number may change without a new program."""
    layer = ops.SpectralConvolution(2, 2, modes=(4, 5), weights=weights, key=KEY)
    u = jax.random.normal(KEY, (2, 12, 12))
    traces = []

    @eqx.filter_jit
    def compiled(m, u):
        traces.append(1)
        return m(u)

    some = {k: compiled(ops.with_active_modes(layer, k, k), u) for k in (1, 2, 4)}
    assert len(traces) == 1
    np.testing.assert_allclose(some[1], jnp.broadcast_to(some[1][:, :1, :1], some[1].shape), atol=1e-5)
    np.testing.assert_allclose(ops.with_active_modes(layer, 4, 5)(u), layer(u), atol=1e-5)
    spectrum = jnp.abs(jnp.fft.fft2(some[2]))
    assert float(spectrum[:, 2:-1].max()) < 1e-4 < float(spectrum[:, 1].max())
    gradient = eqx.filter_grad(lambda m: jnp.sum(m(u) ** 2))(ops.with_active_modes(layer, 2, 2))
    if weights is ops.Dense:
        assert (
            float(jnp.abs(gradient.weights.matrices[0]).max()) == 0
            and float(jnp.abs(gradient.weights.matrices).max()) > 0
        )


def test_numbers_of_weights():
    def count(weights):
        layer = ops.SpectralConvolution(16, 16, modes=(8, 8), weights=weights, key=KEY)
        return sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(layer, eqx.is_inexact_array)))

    # 15 and 8 wavenumbers, 16 channels in and out, pairs.
    assert count(ops.Dense) == 15 * 8 * 16 * 16 * 2
    assert count(ops.Separable) == 15 * 8 * 16 * 2
    assert count(ops.Tucker) == 2 * 8 * 4 * 8 * 8 + 15 * 8 + 8 * 4 + 2 * 16 * 8
    assert count(ops.CP) == 64 * (2 + 15 + 8 + 16 + 16)


def test_spectral_refuses():
    with pytest.raises(ValueError, match="modes must be 1 or more"):
        ops.SpectralConvolution(1, 1, modes=(0, 2), key=KEY)
    with pytest.raises(ValueError, match="one axis for each"):
        ops.SpectralConvolution(1, 1, modes=(2, 2), axes=(ops.Periodic(),), key=KEY)
    with pytest.raises(ValueError, match="as many channels out as in"):
        ops.SpectralConvolution(1, 2, modes=2, weights=ops.Separable, key=KEY)
    with pytest.raises(ValueError, match="expected 1 to"):
        ops.with_active_modes(ops.SpectralConvolution(1, 1, modes=2, key=KEY), 3)
    with pytest.raises(ValueError, match="padding must not be negative"):
        ops.Bounded(padding=-1.0)
    with pytest.raises(ValueError, match="rising numbers"):
        ops.Bounded(points=lambda n: np.zeros(n)).coordinates(3)


# Axes.


@pytest.mark.parametrize("points", [ops.centres, ops.ends])
def test_quadrature_weights(points):
    """Second order for smooth functions, exact for constants; sine axes for functions that vanish at the ends."""
    axis = ops.Bounded(points=points)
    errors = [abs(axis.weights(n) @ np.exp(axis.coordinates(n)) - (np.e - 1)) for n in (16, 32)]
    assert 3.5 < errors[0] / errors[1] < 4.6
    np.testing.assert_allclose(axis.weights(7).sum(), 1)
    sine = ops.Sine()
    np.testing.assert_allclose(sine.weights(31) @ np.sin(np.pi * sine.coordinates(31)), 2 / np.pi, rtol=1e-3)
    np.testing.assert_allclose(ops.Periodic().weights(8), 1 / 8)


def test_padding_of_each_axis():
    u = jnp.arange(1.0, 5.0)[None]
    assert ops.Periodic().pad(u, 1, 2, 1)[0].tolist() == [3, 4, 1, 2, 3, 4, 1]
    assert ops.Bounded().pad(u, 1, 1, 2)[0].tolist() == [0, 1, 2, 3, 4, 0, 0]
    assert ops.Cosine().pad(u, 1, 2, 1)[0].tolist() == [2, 1, 1, 2, 3, 4, 4]
    assert ops.Cosine(points=ops.ends).pad(u, 1, 2, 1)[0].tolist() == [3, 2, 1, 2, 3, 4, 3]
    assert ops.Sine().pad(u, 1, 2, 1)[0].tolist() == [-1, 0, 1, 2, 3, 4, 0]


# Other grids.


@pytest.mark.parametrize(
    ("axis", "function"),
    [
        (ops.Periodic(), lambda x: np.sin(6 * np.pi * x) + np.cos(4 * np.pi * x)),
        (ops.Cosine(), lambda x: np.cos(3 * np.pi * x)),
        (ops.Cosine(points=ops.ends), lambda x: np.cos(3 * np.pi * x)),
        (ops.Sine(), lambda x: np.sin(3 * np.pi * x)),
        (ops.Bounded(), lambda x: x**5 - x),
        (ops.Bounded(points=ops.ends), lambda x: x**4),
    ],
    ids=["periodic", "cosine", "cosine with ends", "sine", "bounded", "bounded with ends"],
)
@pytest.mark.parametrize("sizes", [(8, 13), (9, 16), (16, 9), (12, 7)])
def test_resampling_is_exact(axis, function, sizes):
    n, m = sizes
    with sciml.double_precision():
        out = ops.resample(jnp.asarray(function(axis.coordinates(n)))[None], (m,), axis)[0]
    np.testing.assert_allclose(out, function(axis.coordinates(m)), atol=1e-12)


def test_resampling_the_highest_wave():
    """Of an even number of points the highest wave is a cosine at twice as many."""
    u = jnp.asarray([1.0, -1.0] * 4)[None]
    np.testing.assert_allclose(ops.resample(u, (16,))[0], np.cos(8 * np.pi * np.arange(16) / 16), atol=1e-5)


def test_at_resolution_is_the_model_on_its_own_grid():
    def model(a):
        assert a.shape == (1, 8, 8)
        return 2 * a

    x = 2 * np.pi * np.arange(16) / 16
    a = jnp.asarray(np.sin(x)[:, None] * np.cos(2 * x))[None]
    np.testing.assert_allclose(ops.at_resolution(model, (8, 8))(a), 2 * a, atol=1e-5)
    with pytest.raises(ValueError, match="sizes above 0"):
        ops.resample(a, (8, 0))
    with pytest.raises(ValueError, match="sizes"):
        ops.resample(a, (8,))
