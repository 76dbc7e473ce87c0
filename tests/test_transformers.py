"""Transformers for fields: equivariance, positions, quadrature, patches."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sciml
from sciml.operators import Bounded, Cosine, Periodic, Sine, ends
from sciml.operators._transformer import AxialTransformer, VisionTransformer, _Attention, _patches, _Places, _points

BOTH = pytest.mark.parametrize("kind", [AxialTransformer, VisionTransformer])


def model_of(kind, **settings):
    return kind(2, 3, **{"width": 12, "layers": 1, "heads": 1, "key": jax.random.key(0)} | settings)


@eqx.filter_jit
def run(model, u):
    return model(u)


def noise(*shape):
    return np.random.default_rng(0).normal(size=shape)


@BOTH
@pytest.mark.parametrize("dimensions, grid", [(1, (12,)), (2, (8, 12)), (3, (4, 8, 4))])
def test_commutes_with_translations(kind, dimensions, grid):
    shift = [4, 4, 4] if kind is VisionTransformer else [1, 3, 2]
    shift, dims = shift[:dimensions], tuple(range(1, dimensions + 1))
    with sciml.double_precision():
        model = model_of(kind, dimensions=dimensions)
        u = noise(2, *grid)
        out = np.asarray(run(model, jnp.asarray(u)))
        moved = run(model, jnp.asarray(np.roll(u, shift, dims)))
        assert moved.shape == (3, *grid) and moved.dtype == jnp.float64
    np.testing.assert_allclose(moved, np.roll(out, shift, dims), atol=1e-13)
    assert np.abs(np.roll(out, shift, dims) - out).max() > 0.1


def test_commutes_along_the_periodic_axis_only():
    with sciml.double_precision():
        model = model_of(AxialTransformer, axes=(Bounded(), Periodic()))
        u = noise(2, 6, 8)
        out = np.asarray(run(model, jnp.asarray(u)))
        np.testing.assert_allclose(run(model, jnp.asarray(np.roll(u, 3, 2))), np.roll(out, 3, 2), atol=1e-13)
        assert np.abs(np.asarray(run(model, jnp.asarray(np.roll(u, 3, 1)))) - np.roll(out, 3, 1)).max() > 1e-3


def softmax_by_hand(layer, x, distance, shares, turn):
    """Attention among n tokens written out: a pair of channels of wavenumber w counts q k* as if one of the two were
    turned by w times their distance.
    """
    n, width = x.shape
    size, half = width // layer.heads, width // layer.heads // 2
    y = x / np.sqrt((x**2).mean(axis=1, keepdims=True) + 1e-6) * np.asarray(layer.scale)
    qkv = y @ np.asarray(layer.queries_keys_values.weight).T + np.asarray(layer.queries_keys_values.bias)
    q, k, v = (p.reshape(n, layer.heads, size) for p in np.split(qkv, 3, axis=1))
    out = np.zeros((n, layer.heads, size))
    for head in range(layer.heads):
        for i in range(n):
            scores = np.zeros(n)
            for j in range(n):
                a = q[i, head, :half] + 1j * q[i, head, half:]
                b = k[j, head, :half] + 1j * k[j, head, half:]
                scores[j] = (a * b.conj() * np.exp(1j * turn * np.arange(half) * distance[i, j])).real.sum()
            weights = shares * np.exp(scores / np.sqrt(size))
            out[i, head] = weights / weights.sum() @ v[:, head]
    return out.reshape(n, width) @ np.asarray(layer.out.weight).T + np.asarray(layer.out.bias)


@pytest.mark.parametrize("axis, turn", [(Periodic(), 2 * np.pi), (Bounded(ends), np.pi), (Cosine(), np.pi)])
def test_attention_written_out(axis, turn):
    n, x = 7, noise(7, 12)
    points = axis.coordinates(n)
    with sciml.double_precision():
        layer = _Attention(12, 2, key=jax.random.key(0))
        got = layer(jnp.asarray(x), _Places((axis,), (0,), (n,), (1,), jnp.float64))
    distance = points[:, None] - points
    # The nearer way around is the same distance along a periodic axis.
    if isinstance(axis, Periodic):
        distance = (distance + 0.5) % 1 - 0.5
    np.testing.assert_allclose(got, softmax_by_hand(layer, x, distance, axis.weights(n), turn), atol=1e-13)


def resolutions(axis, function, counts):
    """How far outputs of 1-D models on coarse grids are from that on the finest one; each grid has the points of the
    coarser ones.
    """
    with sciml.double_precision():
        model = model_of(AxialTransformer, dimensions=1, layers=2, axes=axis)
        outputs = [np.asarray(run(model, jnp.asarray(function(axis.coordinates(n))))) for n in counts]
    steps = [(counts[-1] - 1) // (n - 1) for n in counts]
    return [np.abs(u - outputs[-1][:, ::step]).max() for u, step in zip(outputs, steps)]


def test_second_resolution_of_a_periodic_axis_agrees():
    # Sums over a period converge faster than any power.
    waves = lambda x: np.array([np.sin(2 * np.pi * x), np.cos(4 * np.pi * x) - np.sin(2 * np.pi * x)])  # noqa: E731
    errors = resolutions(Periodic(), waves, (16, 32, 64))
    assert errors[0] < 1e-2 and errors[1] < 1e-4, errors


def test_second_resolution_of_a_bounded_axis_converges():
    # The trapezoidal rule: an end stands for half a step.
    errors = resolutions(Bounded(ends), lambda x: np.exp([x, -2 * x]), (9, 17, 33, 65))
    assert 1.8 < np.log2(errors[0] / errors[1]) < 2.5 and errors[1] < 1e-3, errors


@pytest.mark.parametrize("patch", [(2, 3), (1, 1), (4, 6)])
def test_patches_and_back(patch):
    u = jnp.asarray(np.arange(4.0 * 6 * 2).reshape(4, 6, 2))
    tokens = _patches(u, patch)
    assert tokens.shape == (4 // patch[0], 6 // patch[1], 2 * patch[0] * patch[1])
    np.testing.assert_array_equal(tokens[0, 0], u[: patch[0], : patch[1]].reshape(-1))
    np.testing.assert_array_equal(_points(tokens, patch), u)


@pytest.mark.parametrize("axes", [Bounded(), Cosine(), Sine(), (Bounded(ends), Periodic())])
def test_any_number_of_points_of_other_axes(axes):
    model = model_of(VisionTransformer, axes=axes)
    out = run(model, jnp.asarray(noise(2, 7, 8), jnp.float32))
    assert out.shape == (3, 7, 8) and out.dtype == jnp.float32 and jnp.isfinite(out).all()


def test_patches_count_the_points_that_they_have():
    # Of five points with both ends the last patch has one, which stands for half a step.
    places = _Places((Bounded(ends), Periodic()), (0, 1), (5, 4), (4, 2), np.float64)
    np.testing.assert_allclose(places.weights.reshape(2, 2), np.outer([7 / 8, 1 / 8], [1 / 2, 1 / 2]))
    np.testing.assert_allclose(places.angles[0].reshape(2, 2), [[0, 0], [np.pi, np.pi]])
    np.testing.assert_allclose(places.angles[1].reshape(2, 2), [[0, np.pi], [0, np.pi]])


@BOTH
def test_compiled_mapped_differentiated_and_saved(kind, tmp_path):
    model = model_of(kind, axes=(Bounded(), Periodic()))
    u = jnp.asarray(noise(3, 2, 8, 8), jnp.float32)
    batch = eqx.filter_jit(eqx.filter_vmap(model))(u)
    assert batch.dtype == jnp.float32
    np.testing.assert_allclose(batch[1], run(model, u[1]), atol=1e-5)
    grads = eqx.filter_jit(eqx.filter_grad(lambda m: jnp.mean(jax.vmap(m)(u) ** 2)))(model)
    sizes = [jnp.abs(g).max() for g in jax.tree.leaves(grads)]
    assert len(sizes) == len(jax.tree.leaves(eqx.filter(model, eqx.is_array))) and min(sizes) > 0
    sciml.save(tmp_path / "model", model)
    other = model_of(kind, axes=(Bounded(), Periodic()), key=jax.random.key(1))
    np.testing.assert_array_equal(run(sciml.load(tmp_path / "model", other), u[0]), run(model, u[0]))
    with pytest.raises(ValueError, match="does not match"):
        sciml.load(tmp_path / "model", model_of(kind, patch=2, axes=(Bounded(), Periodic())))


def test_single_precision_is_near_double():
    u = noise(2, 8, 8)
    with sciml.double_precision():
        model = model_of(AxialTransformer)
        want = run(model, jnp.asarray(u))
        got = run(jax.tree.map(lambda x: x.astype(jnp.float32), model), jnp.asarray(u, jnp.float32))
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, want, atol=1e-5)


@BOTH
def test_what_cannot_be_is_refused(kind):
    model = model_of(kind, patch=4)
    for shape in ((1, 8, 8), (5, 2, 8, 8), (2, 8)):
        with pytest.raises(ValueError, match="one sample of shape"):
            model(jnp.zeros(shape))
    with pytest.raises(ValueError, match="10 points of a periodic axis are no whole number of patches of 4"):
        model(jnp.zeros((2, 8, 10)))
    with pytest.raises(ValueError, match="even number of channels"):
        model_of(kind, width=15, heads=3)
    with pytest.raises(ValueError, match="patch must be"):
        model_of(kind, patch=0)
    with pytest.raises(ValueError, match="patch must be"):
        model_of(kind, patch=(2, 2, 2))
    with pytest.raises(ValueError, match="one axis for each"):
        model_of(kind, axes=(Periodic(),))


@BOTH
def test_nan_stays_visible(kind):
    u = jnp.zeros((2, 8, 8)).at[0, 3, 3].set(jnp.nan)
    assert jnp.isnan(run(model_of(kind), u)).any()


def test_learns_a_translation():
    # Without positions a token could at best tell itself from the mean of all: a mean square near 1.
    u, other = np.random.default_rng(0).normal(size=(2, 32, 1, 8)).astype(np.float32)
    pairs = jnp.asarray(u), jnp.asarray(np.roll(u, 3, axis=2))
    model = AxialTransformer(1, 1, dimensions=1, width=16, layers=1, heads=1, key=jax.random.key(0))
    model, _ = sciml.fit(model, sciml.misfit, [pairs], optax.adam(0.01), steps=60, every=60, report=None)
    outputs = np.asarray(run(eqx.filter_vmap(model), jnp.asarray(other)))
    error = np.mean((outputs - np.roll(other, 3, axis=2)) ** 2)
    assert error < 0.1
