"""Curvature optimisers on problems with known minima, and for the invariances they promise."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sciml import Groups, fit, optim
from sciml.optim._line_search import Trial, strong_wolfe


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def _run(optimiser, loss, start, batch, steps):
    model, history = fit(start, loss, lambda key: batch, optimiser, steps=steps, every=steps, report=None)
    return model, float(history["loss"][-1])


def rosenbrock(model, batch):
    x, y = model["x"]
    return {"valley": 10 * (y - x**2) + 0 * batch, "distance": 1 - x + 0 * batch}


def decay(model, batch):
    t, target = batch
    return {"misfit": model["a"] * jnp.exp(-model["b"] * t) + model["c"] - target}


def powell(model, batch):
    a, b, c, d = model
    zero = 0 * batch
    return {
        "1": a + 10 * b + zero,
        "2": 5**0.5 * (c - d) + zero,
        "3": (b - 2 * c) ** 2 + zero,
        "4": 10**0.5 * (a - d) ** 2 + zero,
    }


T = np.linspace(0, 4, 50)
PROBLEMS = {
    "rosenbrock": (rosenbrock, {"x": jnp.array([-1.2, 1.0])}, jnp.zeros(1), {"x": [1.0, 1.0]}),
    "decay": (
        decay,
        {"a": 1.0, "b": 0.3, "c": 0.0},
        (jnp.asarray(T), jnp.asarray(2.5 * np.exp(-1.3 * T) + 0.5)),
        {"a": 2.5, "b": 1.3, "c": 0.5},
    ),
    "powell": (powell, jnp.array([3.0, -1.0, 0.0, 1.0]), jnp.zeros(1), [0.0, 0.0, 0.0, 0.0]),
}
OPTIMISERS = {
    "gauss_newton": optim.gauss_newton,
    "self_scaled_broyden": optim.self_scaled_broyden,
    "self_scaled_bfgs": optim.self_scaled_bfgs,
}


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_finds_the_minimum(problem, optimiser):
    loss, start, batch, truth = PROBLEMS[problem]
    start = jax.tree.map(lambda a: jnp.asarray(a, float), start)
    model, value = _run(OPTIMISERS[optimiser](), loss, start, batch, 120)
    assert value < 1e-13
    # Powell's function is flat at its minimum, so that the loss is the sharper test there.
    tolerance = 2e-3 if problem == "powell" else 1e-5
    for got, expected in zip(jax.tree.leaves(model), jax.tree.leaves(truth)):
        np.testing.assert_allclose(got, expected, atol=tolerance)


def test_gauss_newton_solves_a_linear_problem_at_once():
    matrix = jax.random.normal(jax.random.key(0), (30, 5))
    right = jax.random.normal(jax.random.key(1), (30,))
    model, _ = _run(
        optim.gauss_newton(damping=1e-14),
        lambda m, b: {"r": b[0] @ m - b[1]},
        jnp.zeros(5),
        (matrix, right),
        1,
    )
    np.testing.assert_allclose(model, np.linalg.lstsq(np.asarray(matrix), np.asarray(right))[0], rtol=1e-9)


def test_normal_equations_equal_the_dense_jacobian():
    """By group, in chunks that do not divide the number of examples, with two terms of different size."""
    params = jnp.array([0.3, -0.7, 1.1])
    batch = Groups({"a": jnp.linspace(0, 1, 7), "b": jnp.linspace(2, 3, 5)})

    def residual_fn(p, groups):
        out = {}
        if "a" in groups:
            x = groups["a"]
            out |= {"r": jnp.sin(p[0] * x) + p[1], "s": jnp.stack([p[2] * x, p[0] * x**2], axis=1)}
        if "b" in groups:
            out["q"] = p[1] * groups["b"] ** 2 - p[2]
        return out

    def dense(p):
        return jnp.concatenate([jnp.ravel(r) / jnp.sqrt(r.size) for r in residual_fn(p, batch).values()])

    jacobian, residual = jax.jacfwd(dense)(params), dense(params)
    for memory in (1e9, 3 * 8 * 2):
        matrix, gradient, value = optim.normal_equations(residual_fn, params, batch, memory)
        np.testing.assert_allclose(matrix, jacobian.T @ jacobian, rtol=1e-12)
        np.testing.assert_allclose(gradient, jacobian.T @ residual, rtol=1e-12)
        np.testing.assert_allclose(value, residual @ residual, rtol=1e-12)


def test_gauss_newton_needs_residuals():
    with pytest.raises(TypeError, match="dict of residual"):
        _run(optim.gauss_newton(), lambda m, b: jnp.sum(m**2), jnp.ones(2), jnp.zeros(1), 1)


@pytest.mark.parametrize("optimiser", ["self_scaled_broyden", "self_scaled_bfgs"])
def test_quasi_newton_is_invariant_under_rotation(optimiser):
    rotation = jnp.linalg.qr(jax.random.normal(jax.random.key(4), (3, 3)))[0]
    scales = jnp.array([1.0, 10.0, 100.0])

    def loss(model, batch):
        return jnp.sum(scales * (model - 1) ** 2) + jnp.sum((model - 1) ** 4) + 0 * jnp.sum(batch)

    start = jnp.array([0.5, 0.1, -0.3])
    plain, _ = _run(OPTIMISERS[optimiser](), loss, start, jnp.zeros(1), 6)
    turned, _ = _run(OPTIMISERS[optimiser](), lambda m, b: loss(rotation @ m, b), rotation.T @ start, jnp.zeros(1), 6)
    np.testing.assert_allclose(rotation @ turned, plain, rtol=1e-8)


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_loss_never_rises_on_a_fixed_batch(optimiser):
    loss, start, batch, _ = PROBLEMS["rosenbrock"]
    start = jax.tree.map(lambda a: jnp.asarray(a, float), start)
    _, history = fit(start, loss, lambda key: batch, OPTIMISERS[optimiser](), steps=25, every=1, report=None)
    losses = history["loss"].values
    assert (np.diff(losses) <= 1e-15 * losses[:-1]).all()


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_survives_new_batches(optimiser):
    """Each step sees other points of one exact model, so that the minimum is common to all batches."""

    def data(key):
        t = jax.random.uniform(key, (40,), maxval=4.0)
        return t, 2.5 * jnp.exp(-1.3 * t) + 0.5

    start = {k: jnp.asarray(v) for k, v in {"a": 1.0, "b": 0.3, "c": 0.0}.items()}
    model, _ = fit(start, decay, data, OPTIMISERS[optimiser](), steps=150, key=jax.random.key(0), report=None)
    np.testing.assert_allclose([model["a"], model["b"], model["c"]], [2.5, 1.3, 0.5], atol=1e-4)


def test_line_search_meets_both_wolfe_conditions():
    def value_and_grad(p):
        return jax.value_and_grad(lambda q: jnp.sum(jnp.cos(q) + 0.05 * q**2))(p)

    for seed in range(20):
        point = 3 * jax.random.normal(jax.random.key(seed), (4,))
        value, gradient = value_and_grad(point)
        direction = -gradient * 10.0 ** (seed % 5 - 2)
        slope = jnp.vdot(direction, gradient)
        start = Trial(jnp.zeros(()), value, slope, gradient)
        end = strong_wolfe(value_and_grad, point, start, direction, max_evaluations=30)
        assert end.step > 0
        assert end.value <= value + 1e-4 * end.step * slope
        assert abs(end.slope) <= 0.9 * abs(slope)


def test_line_search_avoids_values_that_are_not_finite():
    def value_and_grad(p):
        return jax.value_and_grad(lambda q: -jnp.log(q[0]) + q[0])(p)

    point = jnp.array([3.0])
    value, gradient = value_and_grad(point)
    direction = jnp.array([-30.0])
    start = Trial(jnp.zeros(()), value, jnp.vdot(gradient, direction), gradient)
    end = strong_wolfe(value_and_grad, point, start, direction)
    assert jnp.isfinite(end.value) and end.value < value


def test_curvature_optimisers_are_optax_transformations():
    """Chained with others, and stepped by hand as Optax documents."""
    optimiser = optax.chain(optim.self_scaled_bfgs(), optax.scale(1.0))
    params = jnp.array([2.0, -1.0])

    def value_fn(p, **_):
        return jnp.sum(p**2 * jnp.array([1.0, 30.0]))

    state = optimiser.init(params)
    for _ in range(15):
        updates, state = optimiser.update(jax.grad(value_fn)(params), state, params, value_fn=value_fn, fresh=True)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params, 0.0, atol=1e-6)
