"""Averages of parameters and gradients over steps, in the training loop."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sciml
from sciml import fit, misfit, train
from sciml.optim._average import accumulated, averaged

RNG = np.random.default_rng(0)
X = RNG.standard_normal((6, 8, 3)).astype(np.float32)
Y = (X @ np.array([[1.0], [-2.0], [0.5]]) + 0.1 * RNG.standard_normal((6, 8, 1))).astype(np.float32)
BATCHES = list(zip(X, Y))


class Line(sciml.Stream):
    """Batches of a line through noise, as a stream."""

    def init(self, key, model):
        return batch_of(key)

    def next(self, key, step, model, batch):
        return batch_of(key), jnp.array(True)


def batch_of(key):
    x = jax.random.normal(key, (8, 3))
    return x, x @ jnp.array([[1.0], [-2.0], [0.5]]) + jax.random.normal(jax.random.fold_in(key, 1), (8, 1))


def linear(dtype=None):
    return eqx.nn.Linear(3, 1, key=jax.random.key(0), dtype=dtype)


def leaves(tree):
    return [np.asarray(x, np.float64) for x in jax.tree.leaves(tree)]


def distance(a, b):
    return max(np.abs(x - y).max() for x, y in zip(leaves(a), leaves(b), strict=True))


def iterates(optimiser, steps, data=BATCHES):
    return [s.model for s in train(linear(), misfit, data, optimiser, steps=steps, every=1)]


@pytest.mark.parametrize("warm_up", [False, True])
def test_average_is_the_weighted_mean_of_all_iterates(warm_up):
    decay, steps = 0.9, 25
    model, _ = fit(linear(), misfit, BATCHES, averaged(optax.adam(0.1), decay, warm_up=warm_up), steps=steps)
    weights = np.zeros(steps)
    for t in range(1, steps + 1):
        kept = min(decay, (1 + t) / (10 + t)) if warm_up else decay
        weights *= kept
        weights[t - 1] = 1 - kept
    weights /= weights.sum()
    models = [leaves(m) for m in iterates(optax.adam(0.1), steps)]
    for i, leaf in enumerate(leaves(model)):
        np.testing.assert_allclose(leaf, sum(w * m[i] for w, m in zip(weights, models)), atol=2e-6)


@pytest.mark.parametrize("data", [BATCHES, Line()], ids=["iterated", "scanned"])
def test_training_itself_goes_on_from_the_raw_parameters(data):
    plain = list(train(linear(), misfit, data, optax.adam(0.1), steps=40, every=10))
    states = list(train(linear(), misfit, data, averaged(optax.adam(0.1), 0.99), steps=40, every=10))
    for a, b in zip(plain, states, strict=True):
        assert a.losses == b.losses
        assert distance(a.model, b.model) > 1e-3


def test_average_is_nearer_to_the_truth_than_noisy_iterates():
    truth = np.array([[1.0, -2.0, 0.5]])
    raw, _ = fit(linear(), misfit, batch_of, optax.sgd(0.1), steps=2000, report=None)
    mean, _ = fit(linear(), misfit, batch_of, averaged(optax.sgd(0.1), 0.999), steps=2000, report=None)
    assert np.abs(mean.weight - truth).max() < 0.3 * np.abs(raw.weight - truth).max()


@pytest.mark.parametrize("decay", [0.0, 1e-9])
def test_without_memory_the_average_is_the_iterate(decay):
    raw, _ = fit(linear(), misfit, BATCHES, optax.adam(0.1), steps=9, report=None)
    mean, _ = fit(linear(), misfit, BATCHES, averaged(optax.adam(0.1), decay), steps=9, report=None)
    assert distance(raw, mean) < 1e-6
    start, _ = fit(linear(), misfit, BATCHES, averaged(optax.adam(0.1), decay), steps=0, report=None)
    assert distance(start, linear()) == 0


@pytest.mark.parametrize("data", [BATCHES, Line()], ids=["iterated", "scanned"])
def test_resume_keeps_parameters_and_average(data, tmp_path):
    optimiser = averaged(optax.adam(0.1), 0.95)
    whole, history = fit(linear(), misfit, data, optimiser, steps=31, every=5, report=None)
    path = tmp_path / "state"
    fit(linear(), misfit, data, optimiser, steps=13, every=5, report=None, checkpoint=path)
    resumed, again = fit(linear(), misfit, data, optimiser, steps=31, every=5, report=None, checkpoint=path)
    assert distance(whole, resumed) == 0
    np.testing.assert_array_equal(history["loss"], again["loss"])
    with pytest.raises(ValueError, match="does not match"):
        fit(linear(), misfit, data, optax.adam(0.1), steps=31, every=5, report=None, checkpoint=path)


@pytest.mark.parametrize("scanned", [False, True])
def test_a_step_that_is_not_finite_leaves_the_average(scanned):
    def broken(model, batch):
        return {"misfit": misfit(model, batch)["misfit"] * jnp.where(batch[0].sum() == 0, jnp.nan, 1.0)}

    bad = jnp.zeros((8, 3))
    batches = [*BATCHES[:4], (bad, Y[0])]

    class Listed(sciml.Stream):
        def init(self, key, model):
            return tuple(map(jnp.asarray, batches[0]))

        def next(self, key, step, model, batch):
            return tuple(jnp.stack(part)[step] for part in zip(*batches)), jnp.array(True)

    data = Listed() if scanned else batches
    optimiser = averaged(optax.adam(0.1), 0.9)
    with pytest.warns(sciml.NonFiniteWarning, match="step 5"):
        model, _ = fit(linear(), broken, data, optimiser, steps=20, report=None)
    good, _ = fit(linear(), misfit, BATCHES[:4], optimiser, steps=4, report=None)
    assert distance(model, good) < 1e-6


def test_average_in_half_precision_is_kept_in_float32():
    optimiser = averaged(optax.sgd(0.01), 0.999)
    params = {"w": jnp.ones(3, jnp.bfloat16)}
    state = optimiser.init(params)
    _, state = optimiser.update({"w": jnp.ones(3, jnp.bfloat16)}, state, params)
    assert state.average["w"].dtype == jnp.float32
    assert state.result(params)["w"].dtype == jnp.bfloat16


@pytest.mark.parametrize("inner", [optax.adam(0.05), optax.sgd(0.1, momentum=0.9)], ids=["adam", "sgd"])
def test_accumulated_batches_are_one_large_batch(inner):
    small = [(x[i : i + 2], y[i : i + 2]) for x, y in BATCHES for i in range(0, 8, 2)]
    large, history = fit(linear(), misfit, BATCHES, inner, steps=6, report=None)
    model, again = fit(linear(), misfit, small, accumulated(inner, 4), steps=24, report=None)
    assert distance(model, large) < 1e-6
    np.testing.assert_allclose(history["loss"][-1], again["loss"][-1], rtol=1e-5)


def test_parameters_wait_for_the_last_batch():
    models = iterates(accumulated(optax.sgd(0.1), 3), 7)
    assert distance(models[0], linear()) == distance(models[1], linear()) == 0
    assert distance(models[2], linear()) > 1e-3
    assert distance(models[2], models[3]) == distance(models[2], models[4]) == 0
    assert distance(models[5], models[4]) > 1e-3


def test_accumulation_passes_on_mean_loss_and_gradient():
    seen = optax.GradientTransformationExtraArgs(
        lambda params: jnp.zeros(2),
        lambda updates, state, params, *, value, grad, **extra: (
            jax.tree.map(jnp.zeros_like, updates),
            jnp.stack([value, optax.tree.norm(grad)]),
        ),
    )
    optimiser = accumulated(seen, 6)
    state = list(train(linear(), misfit, BATCHES, optimiser, steps=6, every=6))[-1]
    value, norm = state.optimiser.inner
    whole = (jnp.asarray(X.reshape(-1, 3)), jnp.asarray(Y.reshape(-1, 1)))
    loss, grad = eqx.filter_value_and_grad(lambda m: jnp.mean(misfit(m, whole)["misfit"] ** 2))(linear())
    np.testing.assert_allclose(value, loss, rtol=1e-5)
    np.testing.assert_allclose(norm, optax.tree.norm(grad), rtol=1e-5)


def test_accumulation_in_double_precision():
    with sciml.double_precision():
        x, y = jnp.asarray(X, jnp.float64), jnp.asarray(Y, jnp.float64)
        small = [(x[i, j : j + 2], y[i, j : j + 2]) for i in range(6) for j in range(0, 8, 2)]
        large, _ = fit(linear(jnp.float64), misfit, list(zip(x, y)), optax.adam(0.05), steps=6, report=None)
        model, _ = fit(linear(jnp.float64), misfit, small, accumulated(optax.adam(0.05), 4), steps=24, report=None)
        assert model.weight.dtype == jnp.float64 and distance(model, large) < 1e-13


def test_a_bad_batch_is_noticed_at_once():
    batches = [*BATCHES[:1], (X[1] * np.nan, Y[1]), *BATCHES[2:]]
    with pytest.warns(sciml.NonFiniteWarning, match="step 2 in term 'misfit'"):
        fit(linear(), misfit, batches, accumulated(optax.adam(0.1), 4), steps=12, report=None)


@pytest.mark.parametrize(
    "optimiser",
    [averaged(accumulated(optax.adam(0.1), 2), 0.5), accumulated(averaged(optax.adam(0.1), 0.5), 2)],
    ids=["averaged(accumulated)", "accumulated(averaged)"],
)
def test_both_together(optimiser):
    raw, _ = fit(linear(), misfit, BATCHES, accumulated(optax.adam(0.1), 2), steps=40, report=None)
    model, _ = fit(linear(), misfit, BATCHES, optimiser, steps=40, report=None)
    assert 0 < distance(raw, model) < 0.2


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_bad_decay(decay):
    with pytest.raises(ValueError, match="decay"):
        averaged(optax.adam(0.1), decay)


def test_bad_use():
    with pytest.raises(ValueError, match="above 0"):
        accumulated(optax.adam(0.1), 0)
    optimiser = averaged(optax.adam(0.1))
    params = {"w": jnp.ones(2)}
    with pytest.raises(ValueError, match="needs the parameters"):
        optimiser.update(params, optimiser.init(params))
