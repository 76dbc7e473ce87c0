"""Laplacians along random directions against exact ones, and problems with a hundred axes."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray as xr

import sciml
from sciml import PDE, Ball, Box, Groups, derived, fit, periodic, value
from sciml.nn import mlp
from sciml.pde import (
    attention_weights,
    axis_directions,
    gradient_norm_weights,
    grid_residuals,
    rademacher_directions,
    stochastic_laplacian,
)
from sciml.pde._derivatives import Laplacian
from sciml.pde._stochastic import derivatives_along

KEY = jax.random.key(0)
DRAWS = [axis_directions, rademacher_directions]


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def names(d):
    return tuple(f"x{i}" for i in range(1, d + 1))


def ball_problem(d=6, **settings):
    """laplace u = -1 in the unit ball."""
    domain = Ball(**dict.fromkeys(names(d), 0.0), radius=1.0)
    return PDE(domain, lambda laplacian_u: laplacian_u + 1, value(u=0.0, on=domain.boundary(), exact=True), **settings)


def quadratic(d, seed=0):
    """A symmetric matrix A and x^T A x + sin(x1), whose Hessian is 2 A but for one entry."""
    a = np.random.default_rng(seed).standard_normal((d, d))
    a = a + a.T
    return a, lambda x: x @ jnp.asarray(a, x.dtype) @ x + jnp.sin(x[0])


def estimates(function, point, draw, count, n):
    """Of the Laplacian of a function at a point, for n sets of directions."""
    directions = jax.jit(jax.vmap(lambda k: draw(k, count, len(point))))(jax.random.split(KEY, n))
    over = Laplacian(range(len(point)))
    return np.asarray(jax.jit(jax.vmap(lambda v: derivatives_along(function, point, [over], v)[over]))(directions))


# The estimate.


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("d", [3, 30])
def test_all_axes_give_the_laplacian(d, dtype):
    layers = jax.tree.map(lambda a: a.astype(dtype) if eqx.is_array(a) else a, mlp(d, 1, 8, 2, key=KEY))

    def network(x):
        return layers(x)[0]

    point = jnp.linspace(-0.5, 0.5, d, dtype=dtype)
    over, directions = Laplacian(range(d)), axis_directions(KEY, d, d)
    hessian = jax.jit(jax.hessian(network))(point)
    exact, tolerance = jnp.trace(hessian), 300 * jnp.finfo(dtype).eps * jnp.abs(hessian).sum()
    for given in (directions, None):
        found = jax.jit(lambda p, given=given: derivatives_along(network, p, [(), over], given))(point)
        assert found[over].dtype == dtype
        assert jnp.abs(found[over] - exact) < tolerance
        np.testing.assert_allclose(found[()], network(point), rtol=1e-6)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("draw", DRAWS)
def test_the_mean_is_the_laplacian(draw, count):
    a, function = quadratic(5)
    point = jnp.linspace(0.1, 1.0, 5)
    found = estimates(function, point, draw, count, 5_000)
    exact = 2 * np.trace(a) - np.sin(0.1)
    assert found.std() > 0.1
    assert abs(found.mean() - exact) < 4 * found.std() / np.sqrt(len(found))


def test_variances():
    a, function = quadratic(5)
    point = jnp.zeros(5)
    mixed = np.sum((2 * a) ** 2) - np.sum(np.diag(2 * a) ** 2)
    signs = estimates(function, point, rademacher_directions, 4, 5_000)
    np.testing.assert_allclose(signs.var(), 2 / 4 * mixed, rtol=0.1)
    # Sampling without replacement: the variance of a mean times (1 - B / d).
    axes = estimates(function, point, axis_directions, 4, 5_000)
    np.testing.assert_allclose(axes.var(), 25 / 4 * np.diag(2 * a).var(ddof=1) * (1 - 4 / 5), rtol=0.1)


def test_exact_where_the_kind_of_direction_says():
    point = jnp.linspace(0.1, 1.0, 5)
    np.testing.assert_allclose(estimates(lambda x: jnp.sum(x**2), point, axis_directions, 2, 50), 10.0)
    found = estimates(lambda x: jnp.sum(jnp.arange(5) * x**2), point, rademacher_directions, 2, 50)
    np.testing.assert_allclose(found, 20.0)


def test_axes_are_drawn_without_replacement():
    drawn = np.asarray(jax.vmap(lambda k: axis_directions(k, 3, 5))(jax.random.split(KEY, 200)))
    np.testing.assert_allclose(drawn.sum(axis=1) @ np.ones(5), 3 * np.sqrt(5 / 3))
    assert np.all(drawn.sum(axis=1).max(axis=1) < 1.5)
    np.testing.assert_allclose((drawn != 0).any(axis=1).mean(axis=0), 3 / 5, atol=0.15)


# The loss and the data.


def heat(d=4):
    domain = Box(t=(0, 1)) * Ball(**dict.fromkeys(names(d), 0.0), radius=1.0)

    def equation(u, u_t, u_x1, u_x2x2, laplacian_u, t):
        return u_t + u * u_x1 - laplacian_u + t * u_x2x2

    return PDE(domain, equation, value(u=0.0, on=domain.boundary(), exact=True), value(u=0.0, on=domain.at(t=0)))


def test_other_derivatives_in_the_same_sweep_are_exact():
    pde = heat()
    model = pde.model(mlp(pde.in_size, 1, 8, 2, key=KEY))
    loss, data = stochastic_laplacian(pde, pde.points(20), 4)
    batch = data.init(KEY, model)
    exact = pde.residuals(model, Groups(dict(batch) | {"interior": batch["interior"].points}))
    assert set(exact) == {"equation"}
    for name, residual in eqx.filter_jit(loss)(model, batch).items():
        np.testing.assert_allclose(residual, exact[name], rtol=1e-10, atol=1e-12)


def test_directions_leave_time_alone():
    pde = heat()
    _, data = stochastic_laplacian(pde, pde.points(20), 2)
    assert data.init(KEY, None)["interior"].directions.shape == (20, 2, 4)


@pytest.mark.parametrize("draw", DRAWS)
def test_squares_are_biased_and_products_are_not(draw):
    pde = ball_problem()
    model = pde.model(lambda x: x[:1] * x[1] + x[2] ** 3)
    points = pde.points(10_000)
    loss, data = stochastic_laplacian(pde, points, 3, draw=draw)
    biased = eqx.filter_jit(loss)(model, data.init(KEY, model))["equation 1"]
    exact = eqx.filter_jit(pde.residuals)(model, points(KEY))["equation 1"]
    two, data = stochastic_laplacian(pde, points, 3, draw=draw, unbiased=True)
    batch = data.init(KEY, model)
    # The bias is the variance of the estimate.
    noise = float(jnp.mean((biased - exact) ** 2))
    doubt = 2 * float(jnp.mean(exact**2 * (biased - exact) ** 2)) ** 0.5 / np.sqrt(10_000)
    assert noise > 5 * doubt
    assert abs(jnp.mean(biased**2) - jnp.mean(exact**2) - noise) < 4 * doubt
    spread = float(jnp.mean(exact**2) * noise) ** 0.5 + noise
    assert abs(eqx.filter_jit(two)(model, batch) - jnp.mean(exact**2)) < 4 * spread / np.sqrt(10_000)


def test_products_count_conditions_once():
    domain = Ball(**dict.fromkeys(names(4), 0.0), radius=1.0)
    pde = PDE(domain, lambda laplacian_u: laplacian_u + 8, value(u=0.0, on=domain.boundary()))
    model = pde.model(lambda x: 1 - jnp.sum(x**2, keepdims=True) + 0.5)
    loss, data = stochastic_laplacian(pde, pde.points(32), 2, unbiased=True)
    np.testing.assert_allclose(loss(model, data.init(KEY, model)), 0.25, rtol=1e-12)
    heavier = sciml.weighted(pde.residuals, {"u on boundary": 4.0})
    loss, data = stochastic_laplacian(pde, pde.points(32), 2, unbiased=True, loss=heavier)
    np.testing.assert_allclose(loss(model, data.init(KEY, model)), 1.0, rtol=1e-12)


def test_directions_are_new_at_each_step_unless_held():
    pde = ball_problem()
    held = sciml.hold(pde.points(8), 1000)
    for every, changes in ((1, [True] * 6), (3, [False, False, True, False, False, True])):
        _, data = stochastic_laplacian(pde, held, 2, every=every)
        batch, following = (
            data.init(KEY, None),
            jax.jit(lambda *args, data=data: data.next(args[0], args[1], None, args[2])),
        )
        for step, change in enumerate(changes, start=1):
            after, fresh = following(jax.random.fold_in(KEY, step), jnp.asarray(step), batch)
            assert bool(fresh) == change
            assert bool(jnp.any(after["interior"].directions != batch["interior"].directions)) == change
            np.testing.assert_array_equal(after["interior"].points, batch["interior"].points)
            batch = after


def test_new_points_get_new_directions():
    pde = ball_problem()
    _, data = stochastic_laplacian(pde, pde.points(8), 2, every=100)
    batch = data.init(KEY, None)
    after, fresh = data.next(jax.random.key(3), jnp.asarray(1), None, batch)
    assert fresh and jnp.all(jnp.any(after["interior"].points != batch["interior"].points, axis=1))
    assert jnp.any(after["interior"].directions != batch["interior"].directions)


def around(pde, kind):
    """What other functions make of the loss and the data."""
    if kind == "adaptive":
        return stochastic_laplacian(pde, sciml.adaptive(pde, 64, every=5, pool=128), 3)
    if kind == "unbiased":
        return stochastic_laplacian(pde, pde.points(64), 3, unbiased=True)
    if kind == "terms":
        return gradient_norm_weights(*stochastic_laplacian(pde, pde.points(64), 3), every=5)
    return attention_weights(*stochastic_laplacian(pde, sciml.hold(pde.points(64), 10), 3, every=10))


@pytest.mark.parametrize("kind", ["adaptive", "unbiased", "terms", "examples"])
def test_training_finds_the_solution(kind):
    pde = ball_problem()
    loss, data = around(pde, kind)
    start = pde.model(mlp(6, 1, 8, 1, spread=0.1, key=KEY))
    model, _ = fit(start, loss, data, optax.adam(2e-2), steps=400, report=None)
    points = pde.domain.sample(KEY, 100)
    exact = (1 - jnp.sum(points**2, axis=1)) / 12
    assert jnp.max(jnp.abs(jax.vmap(model)(points)[:, 0] - exact)) < 0.02 * jnp.max(exact)


def test_gauss_newton_works_on_held_directions():
    pde = ball_problem(3)
    loss, data = stochastic_laplacian(pde, sciml.hold(pde.points(64), 100), 3, every=100)
    start = pde.model(mlp(3, 1, 6, 1, spread=0.1, key=KEY))
    model, _ = fit(start, loss, data, sciml.optim.gauss_newton(), steps=20, report=None)
    # All axes: the exact Laplacian.
    assert float(jnp.max(jnp.abs(pde.residuals(model, pde.points(64)(KEY))["equation 1"]))) < 1e-3


def test_bad_settings():
    pde = ball_problem()
    points = pde.points(8)
    with pytest.raises(ValueError, match="above 0"):
        stochastic_laplacian(pde, points, 0)
    with pytest.raises(ValueError, match="above 0"):
        stochastic_laplacian(pde, points, 2, every=0)
    with pytest.raises(ValueError, match="at most 6"):
        stochastic_laplacian(pde, points, 7)
    stochastic_laplacian(pde, points, 7, draw=rademacher_directions)
    with pytest.raises(ValueError, match="shape"):
        stochastic_laplacian(pde, points, 2, draw=lambda key, count, dimensions: jnp.ones(dimensions))
    with pytest.raises(TypeError):
        stochastic_laplacian(pde, [1, 2])
    with pytest.raises(TypeError, match="points"):
        stochastic_laplacian(pde, attention_weights(pde.residuals, points)[1], 2)[1].init(
            KEY, pde.model(lambda x: x[:1])
        )
    box = Box(x=(0, 1), y=(0, 1))
    plain = PDE(box, lambda u_xx, u_yy: u_xx + u_yy, value(u=0.0, on=box.boundary()))
    with pytest.raises(ValueError, match="laplacian_u"):
        stochastic_laplacian(plain, plain.points(8))


# Many axes, and all coordinates as one argument.


def test_point_is_all_coordinates():
    box = Box(x=(0, 1), y=(0, 2))
    f = jnp.array([3.0, -2.0])

    def by_name(u_x, q_y, x, y):
        return u_x + q_y - (3 * x - 2 * y)

    def by_point(u_x, q_y, point):
        return u_x + q_y - f @ point

    problems = [
        PDE(
            box,
            by_name,
            derived(q=lambda u, k, x, y: k * u * x * y**2),
            value(u=lambda x, y: x * y, on=box.at(x=0)),
            k=lambda x, y: jnp.exp(x * y),
        ),
        PDE(
            box,
            by_point,
            derived(q=lambda u, k, point: k * u * point[0] * point[1] ** 2),
            value(u=lambda point: jnp.prod(point), on=box.at(x=0)),
            k=lambda point: jnp.exp(jnp.prod(point)),
        ),
    ]
    points = Groups(interior=box.sample(KEY, 20))
    network = mlp(2, 1, 8, 2, key=KEY)
    one, two = (next(iter(p.residuals(p.model(network), points).values())) for p in problems)
    np.testing.assert_allclose(one, two, rtol=1e-10)


def test_a_name_of_the_problem_goes_before_point():
    box = Box(x=(0, 1))
    pde = PDE(box, lambda u_x, point: u_x - point, value(u=0.0, on=box.at(x=0)), point=2.0)
    model = pde.model(lambda s: s)
    np.testing.assert_allclose(pde.residuals(model, Groups(interior=jnp.array([[0.3]])))["equation 1"], 0.2 - 2.0)


def test_data_of_a_point_must_repeat_along_periodic_axes():
    box = Box(t=(0, 1), x=(0, 1))

    def initial(frequency):
        return value(u=lambda point: jnp.sin(frequency * jnp.pi * point[1]), on=box.at(t=0))

    PDE(box, lambda u_t, u_x: u_t + u_x, initial(2.0), periodic("x"))
    with pytest.raises(ValueError, match="periodic"):
        PDE(box, lambda u_t, u_x: u_t + u_x, initial(0.5), periodic("x"))


def test_a_grid_asks_for_names():
    fields = xr.Dataset({"u": ("x", np.ones(20))}, coords={"x": np.linspace(0, 1, 20)})
    with pytest.raises(ValueError, match="name them"):
        grid_residuals(lambda u_x, point: u_x - point[0], fields)


def test_exact_values_on_faces_of_many_axes():
    def problem(d, exact=None):
        box = Box(**dict.fromkeys(names(d), (0, 1)))
        conditions = [value(u=0.0, on=box.boundary(a), exact=exact) for a in names(d)]
        return PDE(box, lambda laplacian_u: laplacian_u, *conditions)

    assert len(problem(6).exact) == 6
    # Beyond that conditions are penalties, of which the first few could have been exact.
    assert len(problem(40).exact) == 6
    with pytest.raises(ValueError, match=r"3\^7"):
        problem(7, exact=True)


def test_a_hundred_axes():
    d = 100
    pde = ball_problem(d)
    assert len(repr(pde)) < 200
    with pytest.raises(ValueError, match="unknown name") as error:
        PDE(pde.domain, lambda laplacian_u, oops: laplacian_u + oops)
    assert len(str(error.value)) < 600
    model = pde.model(lambda x: jnp.sum(x**2 * jnp.arange(1, 101), keepdims=True))
    points = pde.domain.sample(KEY, 4000)
    radius = jnp.linalg.norm(points, axis=1)
    # Uniform in the ball: r^100 is uniform in (0, 1).
    np.testing.assert_allclose(jnp.mean(radius**d), 0.5, atol=0.03)
    exact = jax.jit(jax.vmap(lambda p: jnp.trace(jax.hessian(lambda q: model(q)[0])(p))))(points[:3])
    found = eqx.filter_jit(pde.residuals)(model, Groups(interior=points[:3]))["equation 1"]
    np.testing.assert_allclose(found - 1, exact, rtol=1e-10)
    edge = pde.domain.boundary().sample(KEY, 5)
    np.testing.assert_allclose(jax.vmap(model)(edge), 0.0, atol=1e-12)


def test_a_box_of_many_axes_is_sampled_uniformly():
    box = Box(a=(0, 1), b=(2, 5), c=(-1, 1))
    points = np.asarray(box.at(b=2.5).sample(KEY, 4000))
    assert np.all(points[:, 1] == 2.5)
    np.testing.assert_allclose(points[:, [0, 2]].mean(axis=0), [0.5, 0.0], atol=0.04)
    np.testing.assert_allclose(points[:, [0, 2]].var(axis=0), [1 / 12, 4 / 12], atol=0.03)
