"""SOAP against its paper's algorithm in NumPy, Adam, and for its invariance."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sciml import fit, misfit, optim
from sciml.nn import mlp


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def _steps(optimiser, grads):
    """The updates that follow from gradients given beforehand."""
    state, out = optimiser.init(grads[0]), []
    for g in grads:
        updates, state = optimiser.update(g, state, jnp.zeros_like(g))
        out.append(np.asarray(updates))
    return out


def _gradients(shape, count=8, seed=0):
    return list(jax.random.normal(jax.random.key(seed), (count, *shape)))


def _algorithm(grads, b1, b2, eps, every):
    """Algorithm 3 of the paper for matrices, with bias corrections; its first gradient makes the bases only."""
    g = np.asarray(grads[0])
    left, right = g @ g.T, g.T @ g
    ql, qr = (np.linalg.eigh(a)[1][:, ::-1] for a in (left, right))
    mean, square, out = np.zeros_like(g), np.zeros_like(g), [0 * g]
    for t, g in enumerate(np.asarray(grads[1:]), start=1):
        mean = b1 * mean + (1 - b1) * g
        square = b2 * square + (1 - b2) * (ql.T @ g @ qr) ** 2
        step = (ql.T @ mean @ qr) / (1 - b1**t) / (np.sqrt(square / (1 - b2**t)) + eps)
        out.append(ql @ step @ qr.T)
        left, right = b2 * left + (1 - b2) * g @ g.T, b2 * right + (1 - b2) * g.T @ g
        if t % every == 0:
            rows = np.argsort(-np.diag(ql.T @ left @ ql))
            columns = np.argsort(-np.diag(qr.T @ right @ qr))
            square = square[rows][:, columns]
            ql, qr = np.linalg.qr(left @ ql[:, rows])[0], np.linalg.qr(right @ qr[:, columns])[0]
    return out


@pytest.mark.parametrize("every", [1, 3])
def test_follows_the_algorithm(every):
    grads = _gradients((4, 4), 9)
    got = _steps(optim.scale_by_soap(0.9, 0.8, 1e-6, every=every), grads)
    np.testing.assert_allclose(got, _algorithm(grads, 0.9, 0.8, 1e-6, every), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("shape", [(), (5,), (1, 5), (5, 3)])
def test_is_adam_where_nothing_is_turned(shape):
    """Numbers, vectors, those with axes of length 1 besides, and axes longer than `largest`."""
    grads = _gradients(shape)
    largest = 2 if shape == (5, 3) else 100
    got = _steps(optim.soap(0.1, b1=0.9, b2=0.99, largest=largest), grads)
    assert np.all(got[0] == 0)
    np.testing.assert_allclose(got[1:], _steps(optax.adam(0.1, 0.9, 0.99), grads[1:]), rtol=1e-10)


def test_long_axes_are_left_alone():
    """Of a 6 x 3 matrix with `largest=4` the columns are turned and the rows are not."""
    state = optim.scale_by_soap(largest=4).init(jnp.zeros((6, 3)))
    assert state.factors[0][0] is None and state.factors[0][1].shape == (3, 3)


def test_turns_with_the_parameters():
    """Gradients in turned coordinates give turned steps; Adam's do not."""
    a, b = (jnp.linalg.qr(jax.random.normal(jax.random.key(i), (4, 4)))[0] for i in (1, 2))
    grads = _gradients((4, 4), 12)
    turned = [a @ g @ b for g in grads]

    def difference(optimiser):
        plain, other = _steps(optimiser, grads), _steps(optimiser, turned)
        return max(float(jnp.max(jnp.abs(a @ p @ b - o))) for p, o in zip(plain, other))

    assert difference(optim.scale_by_soap(every=3)) < 1e-7
    assert difference(optax.scale_by_adam()) > 0.1


def test_minimises_what_adam_cannot():
    """A least-squares problem whose condition, 1e4, lies in turned coordinates of a matrix."""
    turn = jnp.linalg.qr(jax.random.normal(jax.random.key(0), (8, 8)))[0]
    matrix = turn @ jnp.diag(jnp.logspace(0, -2, 8)) @ turn.T
    truth = jax.random.normal(jax.random.key(1), (8, 8))

    def error(optimiser):
        loss = lambda m, b: jnp.sum((matrix @ (m - truth) @ matrix) ** 2) + 0 * jnp.sum(b)  # noqa: E731
        _, history = fit(
            jnp.zeros((8, 8)), loss, lambda key: jnp.zeros(1), optimiser, steps=600, every=600, report=None
        )
        return float(history["loss"][-1])

    schedule = optax.cosine_decay_schedule(0.1, 600)
    assert error(optim.soap(schedule)) < 1e-2 * error(optax.adam(schedule))


class _Ranks(eqx.Module):
    """A model with parameters of ranks 0 to 4."""

    parts: list

    def __init__(self, dtype):
        self.parts = [jnp.full((2,) * rank, 0.5, dtype) for rank in range(5)]

    def __call__(self, x):
        return x * sum(jnp.sum(jnp.sin(p * (1 + jnp.arange(p.size).reshape(p.shape)))) for p in self.parts)


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32, jnp.bfloat16])
def test_any_rank_and_precision_through_fit(dtype):
    x = jnp.linspace(0, 1, 8).astype(dtype)
    batch, schedule = (x, 3 * x), optax.cosine_decay_schedule(2e-2, 200)
    model, history = fit(
        _Ranks(dtype), misfit, lambda key: batch, optim.soap(schedule), steps=200, every=200, report=None
    )
    assert {p.dtype for p in model.parts} == {jnp.dtype(dtype)}
    assert all(bool(jnp.any(p != 0.5)) for p in model.parts)
    # A bfloat16 has three digits.
    assert float(history["loss"][-1]) < (1e-2 if dtype == jnp.bfloat16 else 1e-4)


def test_trains_a_network_on_new_batches():
    def data(key):
        x = jax.random.uniform(key, (64, 2))
        return x, jnp.sin(3 * x[:, :1]) * x[:, 1:]

    network = mlp(2, 1, 16, 2, key=jax.random.key(0))
    _, history = fit(network, misfit, data, optim.soap(1e-2), steps=300, every=300, report=None)
    assert history["loss"][-1] < 1e-4


def test_decays_weights():
    updates = _steps(optim.soap(0.1, weight_decay=0.5), [jnp.ones((2, 2))])
    np.testing.assert_array_equal(updates[0], 0.0)
    state = (optimiser := optim.soap(0.1, weight_decay=0.5)).init(jnp.ones(2))
    updates, _ = optimiser.update(jnp.zeros(2), state, jnp.ones(2))
    np.testing.assert_allclose(updates, -0.05)


@pytest.mark.parametrize("wrong", [{"b1": 1.0}, {"b2": -0.1}, {"every": 0}, {"largest": 0}])
def test_refuses(wrong):
    with pytest.raises(ValueError, match="soap"):
        optim.soap(**wrong)
