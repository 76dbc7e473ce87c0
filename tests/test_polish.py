"""The output layer by least squares after training: against a dense reference, for all kinds of networks."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sciml
from sciml import PDE, Box, Solution, Unknown, nn, observe, solve, value
from sciml.pde import nondimensional, polish
from sciml.pde._linear import sobol_points
from sciml.pde._polish import POINTS, output_layer
from sciml.pde._solve import default_network

LINE = Box(x=(0, 1))
TIME = Box(t=(0, 4))
KEY = jax.random.key(2)


@pytest.fixture(autouse=True)
def double():
    with sciml.double_precision():
        yield


def oscillation(size=1.0, **condition):
    """u'' + 9 u = 0 with u = size cos(3 x)."""
    return PDE(
        LINE,
        lambda u_xx, u: u_xx + 9 * u,
        value(u=size, on=LINE.at(x=0), **condition),
        value(u=float(size * np.cos(3.0)), on=LINE.at(x=1), **condition),
        reference=lambda x: size * np.cos(3 * x),
    )


def logistic():
    return PDE(
        TIME,
        lambda u, u_t: u_t - u * (1 - u),
        value(u=0.1, on=TIME.at(t=0)),
        reference=lambda t: 1 / (1 + 9 * np.exp(-t)),
    )


def error(pde, fields):
    return Solution(pde, fields, None, {}, 0.0).error()["relative_l2"]


def hidden_numbers(network):
    """All numbers of a perceptron but those of its last layer."""
    return jax.tree.leaves(eqx.filter(network.layers[:-1], eqx.is_array))


def test_the_output_layer_is_that_of_dense_least_squares():
    """The residuals of a problem that is affine, differentiated by all numbers of the output layer."""
    pde = oscillation(exact=False)
    fields = pde.model(nn.mlp(1, 1, 6, 2, key=KEY))
    polished = polish(pde, fields, key=KEY)
    points = sobol_points(pde, jax.random.split(KEY)[0], POINTS)

    @jax.jit
    def rows(numbers):
        last = fields.network.layers[-1]
        last = eqx.tree_at(lambda n: (n.weight, n.bias), last, (numbers[None, :-1], numbers[-1:]))
        changed = eqx.tree_at(lambda f: f.network.layers[-1], fields, last)
        terms = pde.residuals(changed, points)
        weights = {n: 1.0 if n.startswith("equation") else 100.0 for n in terms}
        return jnp.concatenate([weights[n] * r / np.sqrt(r.size) for n, r in terms.items()])

    zero = jnp.zeros(7)
    matrix = np.asarray(jax.jit(jax.jacfwd(rows))(zero))
    expected = np.linalg.lstsq(matrix, -np.asarray(rows(zero)))[0]
    last = polished.network.layers[-1]
    np.testing.assert_allclose(np.append(last.weight, last.bias), expected, rtol=1e-5)
    for one, other in zip(hidden_numbers(fields.network), hidden_numbers(polished.network)):
        assert (one == other).all()
    # There is nothing better, so it stays the same.
    assert polish(pde, polished, key=KEY) is polished


def test_newton_after_adam():
    """A nonlinear problem: the error falls, exact conditions stay; `solve` does it for an optimiser that was given."""
    pde = logistic()
    arguments = {"optimiser": optax.adam(3e-3), "points": 128, "steps": 200, "budget": None, "report": None}
    plain, solved = solve(pde, loss=pde.residuals, **arguments), solve(pde, **arguments)
    assert plain.chosen["method"] == "training"
    assert solved.chosen["method"] == "training, then least squares for the output layer"
    before = error(pde, plain.model)
    for polished in (polish(pde, plain.model), solved.model):
        assert error(pde, polished) < before / 10
        assert float(polished(jnp.zeros(1))[0]) == pytest.approx(0.1, abs=1e-14)
    assert before < 0.5


NETWORKS = {
    "mlp": lambda key: nn.mlp(1, 1, 6, 2, key=key),
    "scalar": lambda key: eqx.nn.MLP(1, "scalar", 6, 2, jnp.tanh, key=key),
    "without bias": lambda key: eqx.nn.MLP(1, 1, 6, 2, jnp.tanh, use_final_bias=False, key=key),
    "modified_mlp": lambda key: nn.modified_mlp(1, 1, 6, 2, key=key),
    "piratenet": lambda key: nn.piratenet(1, 1, 6, 1, key=key),
    "siren": lambda key: nn.siren(1, 1, 6, 2, omega_0=3.0, key=key),
    "fourier_features": lambda key: nn.fourier_features(nn.mlp(6, 1, 6, 1, key=key), 1, 6, key=key),
    "nondimensional": lambda key: nondimensional(oscillation(1e4), nn.mlp(1, 1, 6, 2, key=key), u=1e4),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_with_a_linear_last_layer(name):
    pde = oscillation(1e4 if name == "nondimensional" else 1.0)
    network = NETWORKS[name](KEY)
    layer = output_layer(network, pde)
    assert layer is not None
    x = jnp.array([0.3])
    np.testing.assert_allclose(layer.network(x), jnp.ravel(network(x)), rtol=1e-12)
    # Twice the output layer is twice the output, in the same network.
    twice = layer.put(2 * layer.network.output)
    assert jax.tree.structure(twice) == jax.tree.structure(network)
    np.testing.assert_allclose(jnp.ravel(twice(x)), 2 * jnp.ravel(network(x)), rtol=1e-12)


OTHERS = {
    "separable": lambda key: nn.separable(1, 1, 6, 1, rank=3, key=key),
    "final activation": lambda key: eqx.nn.MLP(1, 1, 6, 2, jnp.tanh, final_activation=jnp.tanh, key=key),
    "factorised": lambda key: nn.factorised(nn.mlp(1, 1, 6, 2, key=key), key=key),
    "function": lambda key: jnp.sin,
}


@pytest.mark.parametrize("name", OTHERS)
def test_networks_without_such_a_layer_are_refused(name):
    pde = oscillation()
    with pytest.raises(TypeError, match="last linear layer"):
        polish(pde, pde.model(OTHERS[name](KEY)))


def test_fields_are_asked_for():
    with pytest.raises(TypeError, match=r"pde.model\(network\)"):
        polish(oscillation(), nn.mlp(1, 1, 6, 2, key=KEY))


def test_a_network_for_each_part():
    """u is x up to 0.5 and 2 x - 0.5 behind it, where the conductivity is half as large."""
    rod = Box(x=(0, 1)).split(x=2)
    pde = PDE(
        rod,
        lambda k, u_xx: k * u_xx,
        sciml.jump(lambda u: u, on=rod.interface()),
        sciml.jump(lambda k, u_x: k * u_x, on=rod.interface()),
        value(u=0.0, on=rod.at(x=0)),
        value(u=1.5, on=rod.at(x=1)),
        k={"x0": 2.0, "x1": 1.0},
        reference=lambda x: np.where(x < 0.5, x, 2 * x - 0.5),
    )
    fields = pde.model(default_network(pde, KEY))
    polished = polish(pde, fields)
    assert error(pde, polished) < 1e-3 < error(pde, fields)


def test_unknown_parameters_and_precision_stay():
    t = np.linspace(0, 4, 20)
    pde = PDE(
        TIME,
        lambda u, u_t, r: u_t - r * u * (1 - u),
        value(u=0.1, on=TIME.at(t=0)),
        observe({"t": t}, u=1 / (1 + 9 * np.exp(-t))),
        r=Unknown(1.0),
        reference=lambda t: 1 / (1 + 9 * np.exp(-t)),
    )
    fields = pde.model(nn.mlp(1, 1, 10, 2, key=KEY))
    fields = jax.tree.map(lambda a: a.astype(jnp.float32) if eqx.is_array(a) else a, fields)
    polished = polish(pde, fields)
    assert error(pde, polished) < error(pde, fields) / 10
    assert polished.unknown["r"].raw == fields.unknown["r"].raw
    assert all(a.dtype == jnp.float32 for a in jax.tree.leaves(eqx.filter(polished, eqx.is_array)))


def test_double_precision_stays_where_it_is_not_set():
    """Of a solution and of an ensemble, whatever the user's setting is."""
    pde = oscillation()
    fields = pde.model(nn.mlp(1, 1, 10, 2, key=KEY))
    several = pde.model(nn.ensemble(lambda key: nn.mlp(1, 1, 10, 2, key=key), 2, key=KEY))
    with jax.enable_x64(False):
        polished = polish(pde, fields)
        assert error(pde, polished) < error(pde, fields) / 100
        for made in (polished, polish(pde, several)):
            assert all(a.dtype == jnp.float64 for a in jax.tree.leaves(eqx.filter(made, eqx.is_inexact_array)))


def test_members_of_an_ensemble_by_themselves():
    pde = oscillation()
    fields = pde.model(nn.ensemble(lambda key: nn.mlp(1, 1, 6, 2, key=key), 2, key=KEY))
    polished = polish(pde, fields, key=KEY)
    for i in range(2):
        member = fields.member(i)
        alone = polish(pde, member, key=KEY)
        assert alone is not member
        of_member = polished.member(i).network.layers[-1].weight
        np.testing.assert_allclose(of_member, alone.network.layers[-1].weight, rtol=1e-12)
