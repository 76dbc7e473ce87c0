"""Gauss-Newton, natural gradient and their solvers against dense references and known minima."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize

from sciml import Groups, Stream, fit, hold, optim
from sciml.optim._equations import Residuals

CG = optim.conjugate_gradients(1e-12, max_steps=500, sketch=5)
SOLVERS = {
    "cholesky": optim.cholesky,
    "qr": optim.qr,
    "woodbury": optim.woodbury,
    "conjugate_gradients": CG,
    "without_sketch": optim.conjugate_gradients(1e-12, max_steps=500, sketch=0),
}
METHODS = {"gauss_newton": optim.gauss_newton, "energy_natural_gradient": optim.energy_natural_gradient}


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def _run(optimiser, loss, start, batch, steps, **kwargs):
    data = batch if callable(batch) or isinstance(batch, Stream) else lambda key: batch
    return fit(start, loss, data, optimiser, steps=steps, every=steps, report=None, **kwargs)


def groups_residuals(p, batch):
    """Two groups, of one and of three residuals per example."""
    out = {}
    if "a" in batch:
        x = batch["a"]
        out |= {"r": jnp.sin(p[0] * x) + p[1] - p[5], "s": jnp.stack([p[2] * x, p[3] + p[0] * x**2], axis=1)}
    if "b" in batch:
        out["q"] = p[1] * batch["b"] ** 2 - jnp.exp(p[2] * batch["b"]) * p[4]
    return out


PARAMS = np.array([0.3, -0.7, 1.1, 0.2, -0.4, 0.9])
MANY = Groups({"a": np.linspace(0, 1, 7), "b": np.linspace(2, 3, 5)})
FEW = Groups({"a": np.linspace(0, 1, 1), "b": np.linspace(2, 3, 2)})


def problem_of(batch, memory=1e9, dtype=float):
    batch = jax.tree.map(lambda a: jnp.asarray(a, dtype), batch)
    return Residuals(groups_residuals, jnp.asarray(PARAMS, dtype), batch, memory)


def dense(batch):
    """Residuals, Jacobian and second derivatives of all at once."""

    def residual(p):
        return jnp.concatenate([jnp.ravel(r) / jnp.sqrt(r.size) for r in groups_residuals(p, batch).values()])

    p = jnp.asarray(PARAMS)
    return residual(p), np.asarray(jax.jacfwd(residual)(p)), np.asarray(jax.jacfwd(jax.jacfwd(residual))(p))


# Solvers.


@pytest.mark.parametrize("batch, memory", [(MANY, 1e9), (MANY, 4000), (FEW, 1)], ids=["whole", "chunks", "single"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_solvers_equal_dense_least_squares(solver, batch, memory):
    """Whole, in chunks that do not divide the number of examples, and example by example."""
    r, jacobian, second = dense(batch)
    damping, toward = 0.03, np.linspace(-1, 1, 6)
    stacked = np.vstack([jacobian, np.sqrt(damping) * np.eye(6)])
    expected = np.linalg.lstsq(stacked, np.concatenate([-r, np.sqrt(damping) * toward]))[0]

    @jax.jit
    def solve(damping, toward):
        system = SOLVERS[solver](problem_of(batch, memory))
        step, bend = system.solve(damping, toward)
        return system.value, system.gradient, step, bend(toward)

    value, gradient, step, bent = solve(damping, jnp.asarray(toward))
    np.testing.assert_allclose(value, r @ r, rtol=1e-12)
    np.testing.assert_allclose(gradient, jacobian.T @ r, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(step, expected, rtol=1e-9)
    curvature = np.einsum("ijk,j,k", second, toward, toward)
    expected = -np.linalg.solve(jacobian.T @ jacobian + damping * np.eye(6), jacobian.T @ curvature) / 2
    np.testing.assert_allclose(bent, expected, rtol=1e-8, atol=1e-12)


def test_chunks_are_chunks():
    """The test above means something only if its memory makes several chunks, the last one not full."""
    numbers = [[part.real.shape for part in problem_of(MANY, m).parts_with_rows] for m in (1e9, 4000, 1)]
    assert numbers[0] == [(1, 7), (1, 5)] and numbers[2] == [(7, 1), (5, 1)]
    assert any(chunks * size > part for (chunks, size), part in zip(numbers[1], (7, 5)))
    assert problem_of(MANY).number == 3 * 7 + 5


def test_products_equal_the_dense_jacobian():
    r, jacobian, _ = dense(MANY)
    vector = np.linspace(1, 2, 6)
    for memory in (1e9, 500):
        problem = problem_of(MANY, memory)
        np.testing.assert_allclose(problem.gram(jnp.asarray(vector)), jacobian.T @ (jacobian @ vector), rtol=1e-12)
        np.testing.assert_allclose(problem.value(problem.flat), r @ r, rtol=1e-12)
        value, gradient = problem.value_and_gradient()
        np.testing.assert_allclose([value, *gradient], [r @ r, *(jacobian.T @ r)], rtol=1e-11, atol=1e-13)
        rows, residual = problem.rows()
        np.testing.assert_allclose(rows.T @ rows, jacobian.T @ jacobian, rtol=1e-12)
        np.testing.assert_allclose(rows.T @ residual, jacobian.T @ r, rtol=1e-11, atol=1e-13)


def test_examples_with_more_residuals_than_parameters():
    """A field of 50 numbers from two parameters: rows then come forward, a column at a time."""
    x = jnp.linspace(0, 1, 50)

    def residual_fn(p, batch):
        return {"u": jnp.sin(p[0] * x) * batch[:, None] + p[1]}

    flat, batch = jnp.array([0.4, -0.2]), jnp.arange(1.0, 5.0)
    matrix, gradient, _ = optim.normal_equations(residual_fn, flat, batch)
    jacobian = jax.jacfwd(lambda p: residual_fn(p, batch)["u"].ravel())(flat)
    np.testing.assert_allclose(matrix, jacobian.T @ jacobian / 200, rtol=1e-12)
    np.testing.assert_allclose(gradient, jacobian.T @ residual_fn(flat, batch)["u"].ravel() / 200, rtol=1e-12)


def test_choice_by_size_and_memory():
    def chosen(parameters, examples, memory):
        problem = Residuals(lambda p, b: {"r": b * jnp.sum(p)}, jnp.zeros(parameters), jnp.ones(examples), memory)
        return optim.choose(problem)

    assert chosen(100, 1000, 1e9) is optim.cholesky
    assert chosen(1000, 100, 1e9) is optim.woodbury
    # 4 x 100^2 and 1000 x 100 + 4 x 100^2 numbers of 8 bytes, in half of the memory.
    assert chosen(100, 1000, 2 * 8 * 40_000) is optim.cholesky
    assert chosen(1000, 100, 2 * 8 * 140_000) is optim.woodbury
    assert chosen(100, 1000, 2 * 8 * 39_999) not in (optim.cholesky, optim.woodbury)
    assert chosen(1000, 100, 2 * 8 * 139_999) not in (optim.cholesky, optim.woodbury)
    # A little fewer residuals than parameters: J itself does not fit, J^T J does.
    assert chosen(100, 99, 2 * 8 * 40_000) is optim.cholesky


def vandermonde(columns):
    t = np.linspace(0, 1, 60)
    return t[:, None] ** np.arange(columns)


def test_qr_keeps_what_normal_equations_lose():
    """Monomials of degree up to 11 (condition 4e8): their coefficients from the values of one such polynomial."""
    matrix, truth = jnp.asarray(vandermonde(12)), jnp.ones(12)

    def error(solver):
        problem = Residuals(lambda p, b: {"r": b @ (p - truth)}, jnp.zeros(12), matrix, 1e9)
        system = solver(problem)
        return float(jnp.linalg.norm(system.solve(system.least, jnp.zeros(12)).step - truth))

    assert error(optim.qr) < 1e-6
    assert error(optim.cholesky) > 1e-3


def test_sketch_saves_steps_of_conjugate_gradients():
    """A spectrum that falls by 10 orders: after 4 steps the preconditioned solution is exact."""
    matrix, truth, damping = jnp.asarray(vandermonde(40)), jnp.ones(40), jnp.array(1e-6)
    problem = Residuals(lambda p, b: {"r": b @ (p - truth)}, jnp.zeros(40), matrix, 1e9)
    exact = optim.qr(problem).solve(damping, jnp.zeros(40)).step

    def error(sketch):
        solver = optim.conjugate_gradients(1e-10, max_steps=4, sketch=sketch)
        got = solver(problem).solve(damping, jnp.zeros(40)).step
        return float(jnp.linalg.norm(got - exact) / jnp.linalg.norm(exact))

    assert error(20) < 1e-5 < 1e-2 < error(0)


@pytest.mark.parametrize("solver", ["cholesky", "qr", "woodbury", "conjugate_gradients"])
def test_single_precision_stays_single(solver):
    batch = jax.tree.map(lambda a: a.astype(np.float32), MANY)
    r, jacobian, _ = dense(MANY)
    with jax.enable_x64(False):
        chosen = optim.conjugate_gradients(1e-5, sketch=5) if solver == "conjugate_gradients" else SOLVERS[solver]
        problem = problem_of(batch, dtype=jnp.float32)
        step = jax.jit(lambda: chosen(problem).solve(jnp.float32(0.1), jnp.zeros(6, jnp.float32)).step)()
    assert step.dtype == jnp.float32
    expected = -np.linalg.solve(jacobian.T @ jacobian + 0.1 * np.eye(6), jacobian.T @ r)
    np.testing.assert_allclose(step, expected, rtol=1e-4, atol=1e-5)


# Methods.


def decay(model, batch):
    t, target = batch
    return {"misfit": model["a"] * jnp.exp(-model["b"] * t) + model["c"] - target}


T = jnp.linspace(0, 4, 50)
NOISY = 2.5 * jnp.exp(-1.3 * T) + 0.5 + 0.1 * jnp.sin(40 * T)
DECAY_START = {"a": 1.0, "b": 0.3, "c": 0.0}


@pytest.mark.parametrize("solver", ["cholesky", "qr", "woodbury", "conjugate_gradients"])
@pytest.mark.parametrize("method", METHODS)
def test_fits_a_curve_as_scipy_does(method, solver):
    """Residuals that do not vanish at the minimum."""
    start = jax.tree.map(jnp.asarray, DECAY_START)
    model, history = _run(METHODS[method](solver=SOLVERS[solver]), decay, start, (T, NOISY), 40)

    def misfit(p):
        return p[0] * np.exp(-p[1] * np.asarray(T)) + p[2] - np.asarray(NOISY)

    tolerances = {name: 1e-15 for name in ("xtol", "ftol", "gtol")}
    expected = scipy.optimize.least_squares(misfit, [1.0, 0.3, 0.0], **tolerances)
    np.testing.assert_allclose([model["a"], model["b"], model["c"]], expected.x, rtol=1e-6)
    np.testing.assert_allclose(history["loss"][-1], 2 * expected.cost / 50, rtol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_rosenbrock_in_few_steps(method):
    def rosenbrock(model, batch):
        x, y = model
        return {"valley": 10 * (y - x**2) + 0 * batch, "distance": 1 - x + 0 * batch}

    steps = {"gauss_newton": 30, "energy_natural_gradient": 60}[method]
    model, _ = _run(METHODS[method](), rosenbrock, jnp.array([-1.2, 1.0]), jnp.zeros(1), steps)
    np.testing.assert_allclose(model, 1.0, rtol=1e-8)


@pytest.mark.parametrize("method", METHODS)
def test_solves_a_linear_problem_at_once(method):
    matrix = jax.random.normal(jax.random.key(0), (30, 5))
    right = jax.random.normal(jax.random.key(1), (30,))
    optimiser = METHODS[method](damping=1e-14)
    model, _ = _run(optimiser, lambda m, b: {"r": b[0] @ m - b[1]}, jnp.zeros(5), (matrix, right), 1)
    np.testing.assert_allclose(model, np.linalg.lstsq(np.asarray(matrix), np.asarray(right))[0], rtol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_invariant_under_affine_reparametrisation(method):
    """Without damping, a step is the same in whatever linear coordinates parameters are given."""
    change = jnp.array([[1.0, 0.5, 0.0], [0.0, 3.0, -0.2], [0.1, 0.0, 0.01]])
    shift = jnp.array([0.3, -0.1, 2.0])
    target = 2.5 * jnp.exp(-1.3 * T) + 0.5

    def loss(model, batch):
        return {"misfit": model[0] * jnp.exp(-model[1] * batch[0]) + model[2] - batch[1]}

    start = jnp.array([2.0, 1.0, 0.2])
    plain, _ = _run(METHODS[method](1e-13), loss, start, (T, target), 2)
    moved, _ = _run(
        METHODS[method](1e-13),
        lambda m, b: loss(change @ m + shift, b),
        jnp.linalg.solve(change, start - shift),
        (T, target),
        2,
    )
    assert float(jnp.max(jnp.abs(plain - start))) > 0.2
    np.testing.assert_allclose(change @ moved + shift, plain, rtol=1e-6)


def test_damping_follows_the_gain():
    """A linear problem is as predicted, so that the damping falls by 3 each step; a step refused raises it."""
    optimiser = optim.gauss_newton(damping=0.9)
    params, batch = jnp.array([1.0, 2.0]), jnp.array([[1.0, 2.0], [0.5, 1.0], [2.0, -1.0]])

    def take(residual_fn, state):
        _, state = optimiser.update(None, state, params, batch=batch, residual_fn=residual_fn)
        return float(state.damping)

    state = optimiser.init(params)
    np.testing.assert_allclose(take(lambda p, b: {"r": b @ p - 1}, state), 0.3, rtol=1e-12)
    # From here each step overshoots until the damping is large: 0.9 x 2 x 4 x ...
    grown = take(lambda p, b: {"r": jnp.tanh(50 * (b @ (p - jnp.array([1.05, 2.0])))) + 0.5}, state)
    assert grown > 0.9


def test_no_step_where_nothing_decreases():
    """At a minimum with rounding errors the parameters stay, and the damping stays finite."""
    optimiser = optim.gauss_newton(max_tries=3)
    params = jnp.array([1.0])
    state, batch = optimiser.init(params), jnp.ones(1)

    @jax.jit
    def step(state):
        return optimiser.update(None, state, params, batch=batch, residual_fn=lambda p, b: {"r": 1.0 + 0 * p * b})

    for _ in range(50):
        updates, state = step(state)
        assert float(updates[0]) == 0.0
    assert np.isfinite(float(state.damping))


def test_new_batches():
    """Each step sees other points of one exact model, so that the minimum is common to all batches."""

    def data(key):
        t = jax.random.uniform(key, (40,), maxval=4.0)
        return t, 2.5 * jnp.exp(-1.3 * t) + 0.5

    for method in METHODS.values():
        start = jax.tree.map(jnp.asarray, DECAY_START)
        model, _ = _run(method(), decay, start, data, 80, key=jax.random.key(0))
        np.testing.assert_allclose([model["a"], model["b"], model["c"]], [2.5, 1.3, 0.5], rtol=1e-7)


def test_momentum_is_the_projection_of_spring():
    """Two steps by hand: d = argmin |J d + r|^2 + damping |d - momentum d'|^2, on batches of two rows."""
    rows = np.random.default_rng(0).normal(size=(4, 5))
    right = np.array([1.0, -2.0, 0.5, 3.0])
    optimiser = optim.energy_natural_gradient(0.1, 0.8)
    params, state = jnp.zeros(5), optimiser.init(jnp.zeros(5))
    expected, last, damping = np.zeros(5), np.zeros(5), 0.1
    for part in (slice(0, 2), slice(2, 4)):
        batch = (jnp.asarray(rows[part]), jnp.asarray(right[part]))
        updates, state = optimiser.update(
            None, state, params, batch=batch, residual_fn=lambda p, b: {"r": b[0] @ p - b[1]}
        )
        params = optax.apply_updates(params, updates)
        j, r = rows[part] / np.sqrt(2), (rows[part] @ expected - right[part]) / np.sqrt(2)
        last = np.linalg.solve(j.T @ j + damping * np.eye(5), damping * 0.8 * last - j.T @ r)
        # Twice 1 - momentum is the length of a step.
        expected, damping = expected + 0.4 * last, damping / 3
    np.testing.assert_allclose(params, expected, rtol=1e-10)


def test_momentum_helps_on_small_batches():
    """Batches of 4 rows of a consistent system of 40 unknowns, as in the paper's analysis by Kaczmarz' method."""
    matrix = jax.random.normal(jax.random.key(3), (200, 40)) * jnp.logspace(0, -1, 40)
    truth = jax.random.normal(jax.random.key(4), (40,))

    def data(key):
        rows = matrix[jax.random.choice(key, 200, (4,))]
        return rows, rows @ truth

    def error(momentum):
        optimiser = optim.energy_natural_gradient(1e-3, momentum)
        model, _ = _run(optimiser, lambda m, b: {"r": b[0] @ m - b[1]}, jnp.zeros(40), data, 1000)
        return float(jnp.linalg.norm(model - truth) / jnp.linalg.norm(truth))

    without = error(0.0)
    assert error(0.5) < without / 3
    assert error(0.9) < without / 3


@pytest.mark.parametrize("method", METHODS)
def test_single_precision(method):
    with jax.enable_x64(False):
        start = {k: jnp.float32(v) for k, v in DECAY_START.items()}
        batch = (T.astype(jnp.float32), (2.5 * jnp.exp(-1.3 * T) + 0.5).astype(jnp.float32))
        model, history = _run(METHODS[method](), decay, start, batch, 40)
    assert model["a"].dtype == jnp.float32 and history["loss"][-1] < 1e-11
    np.testing.assert_allclose([model["a"], model["b"], model["c"]], [2.5, 1.3, 0.5], rtol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_refuses(method):
    make, start, batch = METHODS[method], jnp.ones(2), jnp.zeros(3)
    with pytest.raises(TypeError, match="dict of residual"):
        _run(make(), lambda m, b: jnp.sum(m**2), start, batch, 1)
    with pytest.raises(ValueError, match="first axis in common"):
        _run(make(), lambda m, b: {"r": m[0] + b[0]}, start, (batch, jnp.zeros(4)), 1)
    for wrong in ({"damping": 0.0}, {"damping": float("nan")}, {"max_tries": 0}, {"memory": -1.0}):
        with pytest.raises(ValueError, match="must be above 0"):
            make(**wrong)
    with pytest.raises(ValueError, match="momentum"):
        optim.energy_natural_gradient(momentum=1.0)
    for wrong in ({"tolerance": 0.0}, {"max_steps": 0}, {"sketch": -1}):
        with pytest.raises(ValueError, match="conjugate_gradients"):
            optim.conjugate_gradients(**wrong)


@pytest.mark.parametrize("solver", ["cholesky", "qr", "woodbury", "conjugate_gradients"])
def test_memory_stays_bounded(solver):
    """A network of 1,341 parameters at 100,000 points (woodbury: 20,000 parameters at 1,000), with second derivatives:
    what the compiled step takes beside its arguments stays below the bound, where J itself takes 1.1 GB.
    """
    width, points, memory = (140, 1000, 500e6) if solver == "woodbury" else (25, 100_000, 256e6)
    network = eqx.nn.MLP(2, "scalar", width, 3, jnp.tanh, key=jax.random.key(0))
    params, static = eqx.partition(network, eqx.is_inexact_array)

    def residual_fn(params, batch):
        u = eqx.combine(params, static)
        return {"laplace": jax.vmap(lambda x: jnp.trace(jax.hessian(u)(x)))(batch)}

    optimiser = optim.gauss_newton(solver=SOLVERS[solver], memory=memory)
    state = optimiser.init(params)

    def step(params, state, batch):
        return optimiser.update(None, state, params, batch=batch, residual_fn=residual_fn)

    batch = jax.ShapeDtypeStruct((points, 2), jnp.result_type(float))
    compiled = jax.jit(step).lower(params, state, batch).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < memory


# Quasi-Newton methods on batches that change.


@pytest.mark.parametrize("optimiser", ["self_scaled_broyden", "self_scaled_bfgs"])
def test_quasi_newton_survives_resampling(optimiser):
    """New points each 20 steps, of a model that fits exactly: the inverse Hessian is kept and stays of use."""
    truth = jnp.array([2.5, 1.3, 0.5, 0.8, -1.7, 0.4])

    def model_at(p, t):
        return p[0] * jnp.exp(-p[1] * t) + p[2] + p[3] * jnp.sin(p[4] * t + p[5])

    def data(key):
        t = jax.random.uniform(key, (30,), maxval=4.0)
        return t, model_at(truth, t)

    start = truth + jnp.array([-0.5, 0.4, 0.3, 0.3, 0.2, -0.3])
    loss = lambda p, b: {"r": model_at(p, b[0]) - b[1]}  # noqa: E731
    method = getattr(optim, optimiser)()
    model, _ = _run(method, loss, start, hold(data, 20), 300, key=jax.random.key(1))
    np.testing.assert_allclose(model, truth, atol=1e-6)
