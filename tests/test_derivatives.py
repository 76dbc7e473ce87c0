"""The derivative planner against nested automatic differentiation and against formulas."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sciml.pde import Laplacian, derivatives
from sciml.pde._derivatives import nested_derivatives, taylor

KINDS = [(), (0,), (1,), (2,), (0, 0), (0, 1), (1, 2), (1, 1, 1), (0, 1, 1), (0, 1, 2), (2, 2, 2, 2), (0, 0, 1, 1)]
LAPLACIANS = [Laplacian((0, 1, 2)), Laplacian((1, 2))]


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


class Residual(eqx.Module):
    """A network of a user: gates, division, attention over its own features."""

    first: eqx.nn.Linear
    second: eqx.nn.Linear
    norm: eqx.nn.LayerNorm

    def __init__(self, key):
        a, b = jax.random.split(key)
        self.first, self.second = eqx.nn.Linear(3, 8, key=a), eqx.nn.Linear(8, 8, key=b)
        self.norm = eqx.nn.LayerNorm(8)

    def __call__(self, x):
        h = jax.nn.silu(self.first(x))
        h = h + self.norm(jnp.sin(self.second(h))) / (1 + h**2)
        weights = jax.nn.softmax(h)
        return jnp.stack([weights @ h, jnp.exp(-(h[0] ** 2)) * jnp.log(2 + jnp.cos(x[1]))])


class Looped(eqx.Module):
    """A network with a loop, for which there is no Taylor rule."""

    layer: eqx.nn.Linear

    def __call__(self, x):
        h = jnp.concatenate([x, jnp.ones(1)])
        return jax.lax.scan(lambda c, _: (jnp.tanh(self.layer(c)), None), h, None, length=3)[0]


def _functions():
    key = jax.random.key(0)
    mlp = {
        f"mlp {f.__name__}": eqx.nn.MLP(3, 2, 12, 2, f, key=key)
        for f in (jnp.tanh, jnp.sin, jax.nn.gelu, jax.nn.softplus, jax.nn.silu, jax.nn.sigmoid)
    }
    return mlp | {
        "user module": Residual(key),
        "loop": Looped(eqx.nn.Linear(4, 4, key=key)),
        "powers": lambda p: jnp.stack([p[0] ** 3 * p[1] ** 2.5, (1.5 + p[0]) ** p[2], jnp.sqrt(p[1]) / p[2]]),
        "pieces": lambda p: jnp.where(p[0] > 0.2, p[0] * p[1] ** 4, jnp.abs(p[2]) * jnp.maximum(p[0], p[1])),
        "constant": lambda p: jnp.ones(2),
        "linear": lambda p: 2.0 * p[::-1] - 1.0,
        "special": lambda p: jax.scipy.special.erf(p[0] * p[1]) + jnp.arctan(p[2]) * jnp.cosh(p[0]),
    }


@pytest.mark.parametrize("name", list(_functions()))
def test_planned_equals_nested(name):
    function = _functions()[name]
    point = jnp.array([0.3, 0.7, 1.2])
    wanted = KINDS + LAPLACIANS
    if name == "loop":
        # Nested differentiation of a loop at fourth order compiles for a minute.
        wanted = [k for k in wanted if len(k) < 4]
    planned = jax.jit(lambda p: derivatives(function, p, wanted))(point)
    nested = jax.jit(lambda p: nested_derivatives(function, p, wanted))(point)
    for kind in wanted:
        scale = 1 + float(jnp.max(jnp.abs(nested[kind])))
        assert jnp.max(jnp.abs(planned[kind] - nested[kind])) < 1e-12 * scale, kind


def test_equals_grad_and_jacfwd():
    network = eqx.nn.MLP(3, "scalar", 16, 3, jnp.tanh, key=jax.random.key(1))
    point = jnp.array([0.1, -0.4, 0.9])
    got = derivatives(network, point, KINDS)
    gradient, hessian = jax.grad(network)(point), jax.jacfwd(jax.grad(network))(point)
    third = jax.jacfwd(jax.jacfwd(jax.grad(network)))(point)
    np.testing.assert_allclose([got[(i,)] for i in range(3)], gradient, rtol=1e-12)
    np.testing.assert_allclose(got[(0, 1)], hessian[0, 1], rtol=1e-12)
    np.testing.assert_allclose(got[(0, 0)], hessian[0, 0], rtol=1e-12)
    np.testing.assert_allclose(got[(0, 1, 1)], third[0, 1, 1], rtol=1e-11)
    laplacian = derivatives(network, point, [Laplacian((0, 1, 2))])[Laplacian((0, 1, 2))]
    np.testing.assert_allclose(laplacian, jnp.trace(hessian), rtol=1e-12)


def test_known_functions():
    got = derivatives(lambda p: jnp.sin(2 * p[0]) * jnp.exp(p[1]), jnp.array([0.4, 0.3]), [(0, 0, 0), (0, 1), (1, 1)])
    e = np.exp(0.3)
    np.testing.assert_allclose(got[(0, 0, 0)], -8 * np.cos(0.8) * e, rtol=1e-13)
    np.testing.assert_allclose(got[(0, 1)], 2 * np.cos(0.8) * e, rtol=1e-13)
    np.testing.assert_allclose(got[(1, 1)], np.sin(0.8) * e, rtol=1e-13)


def test_order_of_axes_does_not_matter():
    got = derivatives(lambda p: p[0] ** 2 * p[1] ** 3, jnp.array([1.0, 2.0]), [(1, 0)])
    np.testing.assert_allclose(got[(0, 1)], 2 * 1.0 * 3 * 4.0)


def test_gradients_pass_through():
    network = eqx.nn.MLP(2, "scalar", 8, 2, jnp.tanh, key=jax.random.key(2))
    points = jax.random.normal(jax.random.key(3), (5, 2))
    laplacian = Laplacian((0, 1))

    def planned(n):
        return jnp.mean(jax.vmap(lambda p: derivatives(n, p, [laplacian])[laplacian])(points) ** 2)

    def nested(n):
        return jnp.mean(jax.vmap(lambda p: jnp.trace(jax.hessian(n)(p)))(points) ** 2)

    for a, b in zip(*(jax.tree.leaves(eqx.filter_grad(f)(network)) for f in (planned, nested))):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_one_sweep_does_not_form_a_hessian():
    """The operations of a Laplacian grow like d, not like d squared."""

    def multiplications(d):
        network = eqx.nn.MLP(d, "scalar", 32, 2, jnp.tanh, key=jax.random.key(0))
        ask = Laplacian(range(d))
        jaxpr = jax.make_jaxpr(lambda p: derivatives(network, p, [ask])[ask])(jnp.zeros(d))
        return sum(eqn.primitive.name == "dot_general" for eqn in jaxpr.jaxpr.eqns)

    assert multiplications(20) - multiplications(10) <= 3 * 10


def test_missing_rule_is_reported_inside_and_handled_outside():
    function = Looped(eqx.nn.Linear(4, 4, key=jax.random.key(0)))
    with pytest.raises(NotImplementedError, match="scan"):
        taylor(function, jnp.zeros(3), ((), (0,)))
    assert derivatives(function, jnp.zeros(3), [(0,)])[(0,)].shape == (4,)


def test_more_than_one_output_array_is_refused():
    with pytest.raises(TypeError, match="one array"):
        derivatives(lambda p: (p, p), jnp.zeros(2), [(0,)])


def test_angle():
    """atan2 of two functions, third order and Laplacian, against nested derivatives."""

    def angle(p):
        return jnp.arctan2(jnp.sin(p[0]) + p[1] ** 2, 1.5 + p[0] * p[1])

    partials = [(), (0,), (0, 1), (0, 0, 1), (1, 1, 1)]
    with jax.enable_x64(True):
        point = jnp.array([0.3, 0.7])
        found, nested = derivatives(angle, point, partials), nested_derivatives(angle, point, partials)
        for partial in partials:
            np.testing.assert_allclose(found[partial], nested[partial], rtol=1e-12)
        both = Laplacian((0, 1))
        laplacian = derivatives(angle, point, [both])[both]
        np.testing.assert_allclose(laplacian, nested_derivatives(angle, point, [both])[both], rtol=1e-12)
