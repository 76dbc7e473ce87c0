"""Networks for points: modified MLP, PirateNet, SIREN, factorised weights, embeddings and separable networks."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

import sciml
from sciml import PDE, Box, periodic, solve, value
from sciml.nn._embeddings import (
    FourierFeatures,
    Harmonics,
    PeriodicInput,
    fourier_features,
    harmonics,
    periodic_embedding,
)
from sciml.nn._factorised import FactorisedLinear, factorised, last_linear, least_squares_output
from sciml.nn._gated import modified_mlp, piratenet
from sciml.nn._mlp import mlp
from sciml.nn._separable import Separable, separable
from sciml.nn._siren import siren
from sciml.pde._derivatives import Laplacian, derivatives, nested_derivatives

# Two inputs, two outputs; the key gives the numbers.
NETWORKS = {
    "modified_mlp": lambda key: modified_mlp(2, 2, 8, 2, key=key),
    "piratenet": lambda key: piratenet(2, 2, 8, 1, key=key),
    "siren": lambda key: siren(2, 2, 8, 2, omega_0=3.0, key=key),
    "separable": lambda key: separable(2, 2, 8, 1, rank=5, key=key),
    "factorised piratenet": lambda key: factorised(piratenet(2, 2, 8, 1, key=key), key=key),
    "factorised separable": lambda key: factorised(separable(2, 2, 6, 1, rank=4, key=key), key=key),
    "frozen features": lambda key: fourier_features(mlp(8, 2, 8, 1, key=key), 2, 8, key=key),
    "trained features": lambda key: fourier_features(
        mlp(8, 2, 8, 1, key=key), 2, 8, scale=(1.0, 3.0), trainable=True, key=key
    ),
    "periodic": lambda key: periodic_embedding(mlp(7, 2, 8, 1, key=key), 1, harmonics=3),
    "trained period": lambda key: periodic_embedding(mlp(3, 2, 8, 1, key=key), 0, 3.0, trainable=True),
    "harmonics": lambda key: harmonics(mlp(6, 2, 8, 1, key=key), 0, 3),
    "both embeddings": lambda key: periodic_embedding(
        fourier_features(siren(8, 2, 8, 1, omega_0=3.0, key=key), 3, 8, key=key), 1
    ),
}
every = pytest.mark.parametrize("name", NETWORKS)
POINT = np.array([0.3, -0.6])
KEY = jax.random.key(0)


@functools.cache
def made(name):
    """A network in double precision with random numbers throughout, so that none is zero by construction (alpha)."""
    random = np.random.default_rng(0)

    def draw(leaf):
        if not hasattr(leaf, "dtype"):
            return leaf
        numbers = 0.6 * random.standard_normal(leaf.shape)
        # Integers are the frozen frequencies.
        return jnp.asarray(numbers if leaf.dtype == np.float64 else np.round(2**17 * numbers).astype(leaf.dtype))

    with jax.enable_x64(True):
        return jax.tree.map(draw, eqx.filter_eval_shape(NETWORKS[name], KEY))


@every
@pytest.mark.parametrize("double", [False, True])
def test_precision_is_that_of_the_call(name, double):
    with jax.enable_x64(double):
        network = eqx.filter_eval_shape(NETWORKS[name], KEY)
        out = eqx.filter_eval_shape(lambda n, x: n(x), network, jnp.asarray(POINT))
        dtype = np.dtype(np.float64 if double else np.float32)
        # Frozen frequencies are integers.
        numbers = [n for n in jax.tree.leaves(network) if hasattr(n, "dtype")]
        assert {n.dtype for n in numbers} - {np.dtype(np.int32)} == {dtype}
        assert out.shape == (2,) and out.dtype == dtype


@every
def test_jit_vmap_and_grad(name):
    with jax.enable_x64(True):
        points = np.random.default_rng(0).uniform(-1, 1, (3, 2))

        @eqx.filter_jit
        def evaluate(n, points):
            gradient = eqx.filter_grad(lambda n: jnp.sum(jax.vmap(n)(points) ** 2))(n)
            return jax.vmap(n)(points), n(points[1]), gradient

        together, alone, gradient = evaluate(made(name), points)
        np.testing.assert_allclose(together[1], alone, rtol=1e-12, atol=1e-13)
        for number in map(np.asarray, jax.tree.leaves(gradient)):
            assert np.isfinite(number).all() and np.abs(number).max() > 0


@every
def test_derivatives_are_planned_and_equal_nested_ones(name, monkeypatch):
    def refuse(*_):
        raise AssertionError("the planner has no rule for an operation of this network")

    monkeypatch.setattr(sciml.pde._derivatives, "nested_derivatives", refuse)
    wanted = [(), (0,), (1,), (0, 0), (0, 1), (1, 1, 1), (0, 0, 1)]

    @eqx.filter_jit
    def evaluate(network, point):
        nested = [network]
        for _ in range(3):
            nested.append(jax.jacfwd(nested[-1]))
        return list(derivatives(network, point, [*wanted, Laplacian((0, 1))]).values()), [f(point) for f in nested]

    with jax.enable_x64(True):
        planned, nested = evaluate(made(name), jnp.asarray(POINT))
    truth = [nested[len(p)][(slice(None), *p)] for p in wanted]
    truth.append(np.trace(nested[2], axis1=1, axis2=2))
    for one, other in zip(planned, truth, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)


@every
def test_save_and_load(name, tmp_path):
    with jax.enable_x64(True):
        network = made(name)
        sciml.save(tmp_path / "network", network)
        like = jax.tree.map(lambda n: jnp.zeros_like(n) if eqx.is_array(n) else n, network)
        assert eqx.tree_equal(sciml.load(tmp_path / "network", like), network)


@pytest.mark.parametrize(
    ("saved", "other"),
    [
        (lambda k: siren(2, 1, 4, 1, key=k), lambda k: siren(2, 1, 4, 1, omega_0=5.0, key=k)),
        (lambda k: modified_mlp(2, 1, 4, 1, key=k), lambda k: modified_mlp(2, 1, 4, 1, jnp.sin, key=k)),
        (
            lambda k: periodic_embedding(mlp(2, 1, 4, 1, key=k), 0),
            lambda k: periodic_embedding(mlp(2, 1, 4, 1, key=k), 1),
        ),
        (lambda k: separable(2, 2, 4, 1, rank=3, key=k), lambda k: separable(2, 3, 4, 1, rank=2, key=k)),
    ],
)
def test_other_settings_are_not_loaded(saved, other, tmp_path):
    sciml.save(tmp_path / "network", saved(jax.random.key(0)))
    with pytest.raises(ValueError, match="does not match"):
        sciml.load(tmp_path / "network", other(jax.random.key(0)))


@functools.cache
def system():
    """Two fields with exact initial and boundary values."""
    domain = Box(t=(0, 2), x=(-1, 3))
    return PDE(
        domain,
        lambda u_t, v_x: u_t + v_x,
        lambda v_t, u, v: v_t - u * v,
        value(u=lambda x: (x + 1) * (x - 3), v=lambda x: jnp.cos(x), on=domain.at(t=0)),
        value(u=0.0, on=domain.boundary("x")),
        value(v=np.cos(3.0), on=domain.at(x=3), exact=False),
    )


@every
def test_hard_constraints(name):
    with jax.enable_x64(True):
        x = np.linspace(-1, 3, 9)
        points = np.concatenate([np.stack([0 * x, x], axis=1), [[1.0, 3.0], [1.0, 0.5]]])
        out = eqx.filter_jit(lambda m, p: jax.vmap(m)(p))(system().model(made(name)), points)
        np.testing.assert_allclose(out[:9, 0], (x + 1) * (x - 3), atol=1e-13)
        np.testing.assert_allclose(out[:9, 1], np.cos(x), atol=1e-13)
        assert abs(float(out[9, 0])) < 1e-13 and abs(float(out[10, 0])) > 1e-6


@pytest.mark.parametrize("name", ["separable", "trained period"])
def test_solve_trains_it(name):
    before = NETWORKS[name](jax.random.key(0))
    pde = system()
    arguments = {"budget": None, "steps": 40, "every": 10, "report": None}
    result = solve(pde, before, points=pde.points(32, 8), optimiser=optax.adam(1e-2), **arguments)
    losses = result.history["loss"].values
    assert np.isfinite(losses).all() and losses[-1] < losses[0]
    changed = jax.tree.map(
        lambda a, b: not np.array_equal(a, b),
        *(eqx.filter(n, eqx.is_inexact_array) for n in (result.model.network, before)),
    )
    assert all(jax.tree.leaves(changed))


# Modified MLP.


def test_modified_mlp_is_its_formula():
    with jax.enable_x64(True):
        network, x = made("modified_mlp"), jnp.asarray(POINT)
        u, v = (np.tanh(g.weight @ x + g.bias) for g in network.gates)
        h = x
        for layer in network.layers:
            z = np.tanh(layer.weight @ h + layer.bias)
            h = z * u + (1 - z) * v
        np.testing.assert_allclose(network(x), network.output.weight @ h + network.output.bias, rtol=1e-13)


def test_modified_mlp_starts_with_the_statistics_of_mlp():
    network = modified_mlp(2, 1, 200, 3, spread=1.5, key=jax.random.key(0))
    for layer in (*network.gates, network.layers[0]):
        assert np.std(layer.weight) == pytest.approx(1.5, rel=0.1)
        assert scipy.stats.kstest(np.asarray(layer.bias), "uniform", (-1.5, 3.0)).pvalue > 1e-3
    for layer in network.layers[1:]:
        assert np.std(layer.weight) == pytest.approx(200**-0.5, rel=0.02) and not layer.bias.any()


# PirateNet.


def test_piratenet_starts_as_a_linear_map_of_its_embedding():
    network = piratenet(3, 2, 16, 4, key=jax.random.key(0))
    for p in jax.random.normal(jax.random.key(1), (5, 3)):
        angle = network.embedding.frequencies @ p
        embedded = jnp.concatenate([jnp.cos(angle), jnp.sin(angle)])
        np.testing.assert_allclose(network(p), network.output.weight @ embedded, rtol=1e-5, atol=1e-6)


def test_piratenet_is_its_formula():
    with jax.enable_x64(True):
        network, x = piratenet(2, 2, 8, 2, key=KEY), jnp.asarray(POINT)
        assert len(network.blocks) == 2 and all(len(b.layers) == 3 for b in network.blocks)
        network = eqx.tree_at(lambda n: [b.alpha for b in n.blocks], network, [jnp.asarray(0.3), jnp.asarray(-0.6)])
        h = network.embedding(x)
        u, v = (np.tanh(g.weight @ h + g.bias) for g in network.gates)
        for block in network.blocks:
            first, second, third = block.layers
            f = np.tanh(first.weight @ h + first.bias)
            z = f * u + (1 - f) * v
            g = np.tanh(second.weight @ z + second.bias)
            z = g * u + (1 - g) * v
            h = block.alpha * np.tanh(third.weight @ z + third.bias) + (1 - block.alpha) * h
        np.testing.assert_allclose(network(x), network.output.weight @ h + network.output.bias, rtol=1e-12)


def test_least_squares_start_finds_a_function_in_the_span_of_the_embedding():
    with jax.enable_x64(True):
        network = piratenet(2, 2, 12, 2, key=jax.random.key(0))
        b = network.embedding.frequencies
        points = np.random.default_rng(0).uniform(-1, 1, (200, 2))
        target = lambda p: jnp.stack([3 * jnp.cos(b[1] @ p) + 0.5, jnp.sin(b[0] @ p) - 2 * jnp.sin(b[4] @ p)])  # noqa: E731
        fitted = least_squares_output(network, points, jax.vmap(target)(points))
        other = np.random.default_rng(1).uniform(-1, 1, (50, 2))
        np.testing.assert_allclose(jax.vmap(fitted)(other), jax.vmap(target)(other), atol=1e-9)
        assert eqx.tree_equal(fitted.blocks, network.blocks)


@pytest.mark.parametrize("name", ["factorised separable", "both embeddings"])
def test_least_squares_output_is_optimal(name):
    """The residual is orthogonal to what the output layer can add, and nothing else has changed."""
    with jax.enable_x64(True):
        points = np.random.default_rng(0).uniform(-1, 1, (60, 2))
        values = np.stack([np.sin(3 * points[:, 0]), points[:, 1] ** 2], axis=1)

        def loss(n):
            return jnp.mean((jax.vmap(n)(points) - values) ** 2)

        network = made(name)
        fitted = eqx.filter_jit(least_squares_output)(network, points, values)
        least, slope = eqx.filter_jit(eqx.filter_value_and_grad(loss))(fitted)
        slope = last_linear(slope)
        assert max(np.abs(slope.weight).max(), np.abs(slope.bias).max()) < 1e-5
        assert least < 0.5 * loss(network)
        assert eqx.tree_equal(eqx.tree_at(last_linear, fitted, last_linear(network)), network)


def test_least_squares_output_allows_for_exact_conditions():
    with jax.enable_x64(True):
        domain = Box(x=(0, 2))
        pde = PDE(domain, lambda u_xx: u_xx, value(u=lambda x: 1 + 0 * x, on=domain.boundary()))
        truth = lambda x: 1 + x * (2 - x) * jnp.sin(x)  # noqa: E731
        x = jnp.linspace(0, 2, 40)[:, None]
        fitted = least_squares_output(pde.model(mlp(1, 1, 20, 2, key=jax.random.key(0))), x, truth(x[:, 0]))
        np.testing.assert_allclose(jax.vmap(fitted)(x), truth(x), atol=1e-6)
        assert fitted(jnp.zeros(1)) == 1


# SIREN.


def test_siren_has_the_papers_statistics():
    width, omega = 256, 30.0
    network = siren(1, 1, width, 4, omega_0=omega, key=jax.random.key(0))
    first, *rest = network.layers
    assert scipy.stats.kstest(np.ravel(first.weight), "uniform", (-1, 2)).pvalue > 1e-3
    bound = np.sqrt(6 / width) / omega
    for layer in rest:
        assert scipy.stats.kstest(np.ravel(layer.weight), "uniform", (-bound, 2 * bound)).pvalue > 1e-3
    h, variance = jnp.linspace(-1, 1, 400)[:, None], 1.0
    for i, layer in enumerate(network.layers[:-1]):
        argument = omega * jax.vmap(layer)(h)
        h = jnp.sin(argument)
        if i > 0:
            # Normal; of variance 1 in the second layer (theorem 1.8), then twice that of the sine of a normal number.
            variance = variance if i == 1 else 1 - np.exp(-2 * variance)
            assert np.var(argument) == pytest.approx(variance, rel=0.1)
            assert scipy.stats.kurtosis(np.ravel(argument)) == pytest.approx(0.0, abs=0.3)
    np.testing.assert_allclose(jax.vmap(network)(jnp.linspace(-1, 1, 400)[:, None]), jax.vmap(network.layers[-1])(h))


# Random weight factorisation.


@pytest.mark.parametrize("name", ["modified_mlp", "piratenet", "siren", "separable", "periodic"])
def test_factorisation_leaves_the_function_unchanged(name):
    with jax.enable_x64(True):
        network = made(name)
        changed = factorised(network, mean=0.5, deviation=0.3, key=KEY)
        np.testing.assert_allclose(changed(jnp.asarray(POINT)), network(jnp.asarray(POINT)), rtol=1e-10)
        linear = jax.tree.leaves(network, is_leaf=lambda n: isinstance(n, eqx.nn.Linear))
        layers = jax.tree.leaves(changed, is_leaf=lambda n: isinstance(n, FactorisedLinear))
        pairs = [(a, b) for a, b in zip(linear, layers, strict=True) if isinstance(a, eqx.nn.Linear)]
        assert pairs and all(isinstance(b, FactorisedLinear) for _, b in pairs)
        for before, after in pairs:
            product = np.diag(np.exp(after.log_scale)) @ after.linear.weight
            np.testing.assert_allclose(product, before.weight, rtol=1e-13)


def test_factorisation_has_the_stated_scales():
    changed = factorised(eqx.nn.MLP(2, 1, 500, 2, key=jax.random.key(0)), key=jax.random.key(1))
    scales = np.concatenate([np.ravel(layer.log_scale) for layer in changed.layers[:-1]])
    assert scales.mean() == pytest.approx(1.0, abs=0.02) and scales.std() == pytest.approx(0.1, rel=0.1)


def test_factorisation_of_scalar_and_biasless_layers():
    with jax.enable_x64(True):
        network = eqx.nn.MLP("scalar", "scalar", 5, 1, use_final_bias=False, key=jax.random.key(0))
        changed = factorised(network, key=jax.random.key(1))
        np.testing.assert_allclose(changed(jnp.asarray(0.3)), network(jnp.asarray(0.3)), rtol=1e-12)


# Embeddings.


@pytest.mark.parametrize("trainable", [False, True])
def test_inner_products_of_fourier_features_are_a_gaussian_kernel(trainable):
    """Rahimi & Recht: the mean over the features of cos b(x - y) is exp(-scale^2 |x - y|^2 / 2)."""
    network = fourier_features(lambda z: z, 2, 8000, scale=3.0, trainable=trainable, key=jax.random.key(0))
    x = jnp.array([0.1, -0.4])
    for step in (0.0, 0.1, 0.3, 0.6):
        y = x + step * jnp.array([0.6, 0.8])
        assert float(network(x) @ network(y)) == pytest.approx(np.exp(-9 * step**2 / 2), abs=0.04)


def test_each_scale_has_its_share_of_the_frequencies():
    network = fourier_features(lambda z: z, 1, 4000, scale=(1.0, 20.0), trainable=True, key=jax.random.key(0))
    low, high = jnp.split(network.embedding.frequencies, 2)
    assert np.std(low) == pytest.approx(1.0, rel=0.1) and np.std(high) == pytest.approx(20.0, rel=0.1)


def test_frozen_frequencies_are_no_parameters_and_the_same_in_both_precisions():
    frozen, trained = (fourier_features(mlp(8, 1, key=KEY), 2, 8, trainable=t, key=KEY) for t in (False, True))
    count = lambda n: sum(a.size for a in jax.tree.leaves(eqx.filter(n, eqx.is_inexact_array)))  # noqa: E731
    assert count(trained) - count(frozen) == 8
    np.testing.assert_allclose(frozen(jnp.asarray(POINT)), trained(jnp.asarray(POINT)), atol=1e-3)
    single = frozen.embedding(jnp.asarray(POINT, jnp.float32))
    with jax.enable_x64(True):
        np.testing.assert_allclose(frozen.embedding(jnp.asarray(POINT)), single, atol=1e-6)


@pytest.mark.parametrize("trainable", [False, True])
def test_periodicity_is_exact_with_all_derivatives(trainable):
    with jax.enable_x64(True):
        network = periodic_embedding(mlp(9, 1, 10, 2, key=jax.random.key(0)), 1, 0.7, harmonics=4, trainable=trainable)
        if trainable:
            network = eqx.tree_at(lambda n: n.embedding.log_stretch, network, jnp.asarray(0.3))
        period = float(network.embedding.current_period)
        assert period == pytest.approx(0.7 * np.exp(0.3 if trainable else 0.0))
        functions = [lambda s: network(jnp.stack([jnp.asarray(0.2), s]))[0]]
        for _ in range(3):
            functions.append(jax.grad(functions[-1]))
        places = -0.3 + period * np.array([0.0, 1.0, -5.0, 0.5])
        for values in jax.jit(lambda s: [jax.vmap(f)(s) for f in functions])(places):
            np.testing.assert_allclose(values[1:3], values[0], rtol=1e-10)
            assert abs(values[3] - values[0]) > 1e-3 * abs(values[0])


def test_embedded_input_keeps_the_others_in_place():
    x = jnp.array([0.1, 0.2, 0.3])
    angle = 2 * np.pi * 0.2 / 0.5
    expected = [0.1, np.cos(angle), np.cos(2 * angle), np.sin(angle), np.sin(2 * angle), 0.3]
    np.testing.assert_allclose(PeriodicInput(1, 0.5, 2, None)(x), expected, atol=1e-6)
    pair = jnp.array([0.1, np.cos(0.7), np.sin(0.7), 0.3])
    expected = [0.1, np.cos(0.7), np.cos(1.4), np.cos(2.1), np.sin(0.7), np.sin(1.4), np.sin(2.1), 0.3]
    np.testing.assert_allclose(Harmonics(1, 3)(pair), expected, atol=1e-6)


def test_a_period_is_learnt():
    with jax.enable_x64(True):
        network = periodic_embedding(lambda z: z[1:], 0, 1.5, trainable=True)
        x = jnp.linspace(-1, 1, 64)[:, None]

        def loss(n, batch):
            return jnp.mean((jax.vmap(n)(batch) - jnp.sin(2 * jnp.pi * batch / 1.7)) ** 2)

        fitted, _ = sciml.fit(network, loss, [x] * 400, optax.adam(1e-2), steps=400, report=None)
        assert float(fitted.embedding.current_period) == pytest.approx(1.7, rel=1e-3)


def test_harmonics_of_an_axis_that_the_pde_makes_periodic():
    with jax.enable_x64(True):
        domain = Box(t=(0, 1), x=(-1, 3))
        start = value(u=lambda x: jnp.sin(jnp.pi * x / 2), on=domain.at(t=0))
        pde = PDE(domain, lambda u_t, u_x: u_t + u_x, start, periodic("x"))
        # The last of the sines: the fourth harmonic of x.
        model = pde.model(harmonics(lambda z: z[-1:], 1, 4))
        truth = lambda t, x: np.sin(np.pi * x / 2) + t * np.sin(4 * 2 * np.pi * (x + 1) / 4)  # noqa: E731
        np.testing.assert_allclose(model(jnp.array([0.5, 0.3]))[0], truth(0.5, 0.3), rtol=1e-12)


# Separable networks.


def test_separable_is_a_sum_of_products():
    network = separable(3, 2, 6, 1, rank=4, key=jax.random.key(0))
    x = jnp.array([0.1, -0.5, 0.7])
    f, g, h = (np.asarray(factor(x[i : i + 1])).reshape(2, 4) for i, factor in enumerate(network.factors))
    np.testing.assert_allclose(network(x), (f * g * h).sum(axis=1), rtol=1e-5)


@pytest.mark.parametrize("dimensions", [1, 3, 4])
def test_grid_equals_points_with_derivatives(dimensions):
    last = dimensions - 1
    partials = [(), (last, last), (last, 0, last)]

    @eqx.filter_jit
    def evaluate(network, axes):
        points = jnp.stack(jnp.meshgrid(*axes, indexing="ij"), axis=-1)
        truth = jax.vmap(lambda p: nested_derivatives(network, p, partials))(points.reshape(-1, dimensions))
        return [(network.on_grid(*axes, partial=p), truth[tuple(sorted(p))].T) for p in partials]

    with jax.enable_x64(True):
        network = separable(dimensions, 2, 6, 1, rank=3, key=jax.random.key(dimensions))
        sizes = (3, 4, 2, 5)[:dimensions]
        for grid, truth in evaluate(network, [np.linspace(-1, 1, n) for n in sizes]):
            assert grid.shape == (2, *sizes)
            np.testing.assert_allclose(grid, truth.reshape(grid.shape), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize(("dimensions", "rank", "activation"), [(2, 32, jnp.tanh), (6, 8, jnp.sin)])
def test_separable_starts_at_order_one(dimensions, rank, activation):
    x = jax.random.uniform(jax.random.key(0), (200, dimensions), minval=-1, maxval=1)

    @jax.jit
    @jax.vmap
    def size(key):
        network = separable(dimensions, 1, 20, 1, activation, rank=rank, key=key)
        return jnp.sqrt(jnp.mean(jax.vmap(network)(x) ** 2))

    assert 0.2 < np.median(size(jax.random.split(jax.random.key(1), 16))) < 2


def test_separable_takes_other_factors():
    """A periodic axis, and one of sines."""
    with jax.enable_x64(True):
        one = periodic_embedding(mlp(6, 6, 8, 1, key=jax.random.key(0)), 0, harmonics=3)
        two = siren(1, 6, 8, 1, omega_0=4.0, key=jax.random.key(1))
        network = Separable((one, two), 2)
        x, y = jnp.array([-1.0, 0.2, 1.0]), jnp.linspace(-1, 1, 4)
        grid = network.on_grid(x, y, partial=(0, 1))
        np.testing.assert_allclose(grid[:, 0], grid[:, 2], rtol=1e-9)
        truth = jax.jacfwd(jax.jacfwd(network))(jnp.array([0.2, -1.0]))[:, 0, 1]
        np.testing.assert_allclose(grid[:, 1, 0], truth, rtol=1e-10)


def test_a_large_grid_costs_a_matrix_product():
    """Two operations for each number and rank, and little else; pointwise evaluation takes a hundred times as many."""
    network = eqx.filter_eval_shape(lambda: separable(3, 1, 20, 3, rank=32, key=KEY))
    numbers, static = eqx.partition(network, lambda n: hasattr(n, "dtype"))
    axes = [jax.ShapeDtypeStruct((128,), np.float32)] * 3

    def flops(function, *arguments):
        return jax.jit(function).lower(numbers, *arguments).cost_analysis()["flops"]

    def on_grid(n, *axes):
        return eqx.combine(n, static).on_grid(*axes, partial=(1, 1))

    def at_points(n, points):
        return jax.vmap(eqx.combine(n, static))(points)

    grid = flops(on_grid, *axes)
    assert 2 * 32 * 128**3 <= grid < 1.1 * 2 * 32 * 128**3
    assert flops(at_points, jax.ShapeDtypeStruct((128**3, 3), np.float32)) > 100 * grid


# Errors.


@pytest.mark.parametrize("make", [modified_mlp, piratenet, siren, separable])
@pytest.mark.parametrize("sizes", [(0, 1, 8, 2), (2, 0, 8, 2), (2, 1, 0, 2), (2, 1, 8, 0), (2, 1, 8, -1)])
def test_sizes_below_one_are_refused(make, sizes):
    with pytest.raises(ValueError, match="whole number above 0, got"):
        make(*sizes, key=KEY)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: piratenet(2, 1, 7, 1, key=KEY), "must be even"),
        (lambda: piratenet(2, 1, 8, 1, scale=0.0, key=KEY), "scale must be finite and above 0"),
        (lambda: modified_mlp(2, 1, spread=np.nan, key=KEY), "spread must be finite"),
        (lambda: siren(2, 1, omega_0=-1.0, key=KEY), "omega_0 must be finite and above 0, got -1"),
        (lambda: separable(2, 1, rank=0, key=KEY), "rank must be a whole number above 0"),
        (lambda: Separable((), 1), "axes must be a whole number"),
        (lambda: Separable((lambda x: jnp.ones(5), lambda x: jnp.ones(4)), 1), r"they give \[5, 4\]"),
        (lambda: Separable((lambda x: jnp.ones(5),), 2), r"they give \[5\], and out_size is 2"),
        (lambda: Separable((eqx.nn.Linear(2, 4, key=KEY),), 2), "factor of axis 0 does not take one coordinate"),
        (lambda: factorised(jnp.tanh, key=KEY), "no linear layers"),
        (lambda: factorised(NETWORKS["factorised piratenet"](KEY), key=KEY), "factorised already"),
        (lambda: factorised(mlp(1, 1, key=KEY), deviation=-0.1, key=KEY), "deviation must be finite"),
        (lambda: fourier_features(eqx.nn.Linear(6, 1, key=KEY), 2, 8, key=KEY), "does not take 8 inputs"),
        (lambda: fourier_features(eqx.nn.Linear(7, 1, key=KEY), 2, 7, key=KEY), "multiple of 2 features, got 7"),
        (
            lambda: fourier_features(eqx.nn.Linear(6, 1, key=KEY), 2, 6, scale=(1.0, 2.0), key=KEY),
            "multiple of 4 features",
        ),
        (lambda: fourier_features(eqx.nn.Linear(6, 1, key=KEY), 2, 6, scale=(), key=KEY), "need a scale"),
        (
            lambda: fourier_features(eqx.nn.Linear(6, 1, key=KEY), 2, 6, scale=(1.0, np.inf, 1.0), key=KEY),
            "scale must be finite",
        ),
        (lambda: fourier_features(eqx.nn.Linear(6, 1, key=KEY), 0, 6, key=KEY), "in_size must be"),
        (lambda: periodic_embedding(jnp.tanh, 0, 0.0), "period must be finite and above 0"),
        (lambda: periodic_embedding(jnp.tanh, 0, harmonics=0), "harmonics must be a whole number"),
        (lambda: periodic_embedding(jnp.tanh, -1), "axis is the number of an input"),
        (lambda: periodic_embedding(jnp.tanh, 2)(jnp.ones(2)), "no input 2 among 2"),
        (lambda: harmonics(jnp.tanh, 0, 0), "count must be"),
        (lambda: harmonics(jnp.tanh, 1, 2)(jnp.ones(2)), "no inputs 1 and 2 among 2"),
        (lambda: separable(2, 1, 4, 1, rank=2, key=KEY)(jnp.ones(3)), "each of 2 axes, got 3"),
        (lambda: separable(2, 1, 4, 1, rank=2, key=KEY).on_grid(jnp.ones(3)), "coordinates of 2 axes, got 1"),
        (
            lambda: separable(1, 1, 4, 1, rank=2, key=KEY).on_grid(jnp.ones(3), partial=(1,)),
            "names an axis outside of 0 to 0",
        ),
        (lambda: least_squares_output(jnp.tanh, np.ones((3, 1)), np.ones(3)), "no linear layers"),
        (lambda: least_squares_output(mlp(1, 1, key=KEY), np.ones((3, 1)), np.ones(4)), "3 points and 4 values"),
        (lambda: least_squares_output(mlp(1, 1, key=KEY), np.ones((0, 1)), np.ones(0)), "0 points"),
        (lambda: least_squares_output(mlp(1, 2, key=KEY), np.ones((3, 1)), np.ones(3)), r"gives the shape \(3, 2\)"),
    ],
)
def test_errors_name_what_is_wrong(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_least_squares_output_refuses_what_it_cannot_fit():
    with pytest.raises(RuntimeError, match="finite numbers"):
        least_squares_output(mlp(1, 1, key=KEY), np.ones((3, 1)), np.array([1.0, np.nan, 0.0]))
    network = mlp(1, 1, key=KEY)
    squashed = eqx.nn.Sequential([eqx.nn.Lambda(network), eqx.nn.Lambda(jnp.tanh)])
    with pytest.raises(RuntimeError, match="not affine"):
        least_squares_output(squashed, np.ones((3, 1)), np.ones(3))


@pytest.fixture(scope="module")
def four_axes():
    domain = Box(x=(0, 1), y=(0, 1), z=(0, 1), t=(0, 1))
    zero = value(u=0.0, on=domain.boundary("x", "y", "z"))
    return PDE(domain, lambda u_t, laplacian_u: u_t - laplacian_u, zero, value(u=0.0, on=domain.at(t=0)))


@every
def test_a_network_of_other_sizes_is_refused_by_the_pde(name, four_axes):
    with jax.enable_x64(True), pytest.raises(TypeError, match=r"one input of shape \(4,\)"):
        four_axes.model(made(name))


def test_features_are_of_the_shape_stated():
    assert FourierFeatures(jnp.ones((5, 3)))(jnp.ones(3)).shape == (10,)
