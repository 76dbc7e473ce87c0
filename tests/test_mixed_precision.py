"""Half precision inside a model, and values computed again in the backward pass."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sciml
from sciml.nn._precision import mixed_precision, remat


class Smoothing(eqx.Module):
    """A multiplier on Fourier modes: what must stay in float32."""

    weight: jax.Array

    def __call__(self, x):
        assert x.dtype == self.weight.dtype, "the kept module was called in another precision"
        return jnp.fft.irfft(self.weight * jnp.fft.rfft(x), n=x.size).astype(x.dtype)

    def reversed(self, x):
        """Another method, as models may call."""
        return self(x[::-1])


class Declared(eqx.Module):
    """As above, by its own class."""

    weight: jax.Array
    full_precision = True

    def __call__(self, x):
        assert x.dtype == self.weight.dtype
        return x * self.weight


class Network(eqx.Module):
    first: eqx.nn.Linear
    middle: eqx.Module
    blocks: list[eqx.nn.Linear]
    width: int = eqx.field(static=True)

    def __init__(self, middle, key):
        keys = jax.random.split(key, 3)
        self.first = eqx.nn.Linear(8, 8, key=keys[0])
        self.middle = middle
        self.blocks = [eqx.nn.Linear(8, 8, key=k) for k in keys[1:]]
        self.width = 8

    def __call__(self, x):
        x = self.middle(jnp.tanh(self.first(x)))
        for block in self.blocks:
            x = x + jnp.tanh(block(x))
        return x


def network(middle=None):
    return Network(Smoothing(jnp.array([1.0, 0.5, 0.25, 0.1, 0.0])) if middle is None else middle, jax.random.key(0))


X = jax.random.normal(jax.random.key(1), (8,))


def squares(model, x):
    return jnp.sum(model(x) ** 2)


def test_parameters_and_gradients_stay_in_float32():
    model = mixed_precision(network(), keep=Smoothing)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(model))
    grad = eqx.filter_grad(squares)(model, X)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(grad))
    exact = eqx.filter_grad(squares)(network(), X)
    for g, e in zip(jax.tree.leaves(grad), jax.tree.leaves(exact), strict=True):
        np.testing.assert_allclose(g, e, atol=0.03 * float(jnp.abs(e).max()))


def test_error_is_that_of_bfloat16():
    model, low = network(), mixed_precision(network(), keep=(Smoothing,))
    exact, rounded = model(X), low(X)
    assert rounded.dtype == jnp.float32
    error = float(jnp.linalg.norm(rounded - exact) / jnp.linalg.norm(exact))
    # A unit of bfloat16 is 2**-8; there are a few operations in a row.
    assert 2**-11 < error < 2**-5
    # The same arithmetic by hand.
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), (model.first, model.blocks))
    y = jnp.tanh(half[0](X.astype(jnp.bfloat16)))
    y = model.middle(y.astype(jnp.float32)).astype(jnp.bfloat16)
    for block in half[1]:
        y = y + jnp.tanh(block(y))
    np.testing.assert_array_equal(rounded, y.astype(jnp.float32))


def test_a_kept_module_alone_is_exact():
    module = Smoothing(jnp.array([1.0, 0.5, 0.25, 0.1, 0.0]))
    x = X.astype(jnp.bfloat16).astype(jnp.float32)
    exact = module(x)
    low = mixed_precision(module, keep=Smoothing)(x)
    np.testing.assert_allclose(low, exact, rtol=2**-8)
    np.testing.assert_array_equal(low, exact.astype(jnp.bfloat16).astype(jnp.float32))


def test_a_class_may_ask_for_full_precision_itself():
    middle = Declared(jnp.linspace(1.0, 2.0, 8))
    assert jnp.isfinite(mixed_precision(network(middle))(X)).all()


def test_the_result_has_the_type_of_the_arguments():
    model = mixed_precision(eqx.nn.Linear(8, 2, key=jax.random.key(0)))
    assert model(X).dtype == jnp.float32
    assert model(X.astype(jnp.bfloat16)).dtype == jnp.bfloat16
    with sciml.double_precision():
        wide = mixed_precision(eqx.nn.Linear(8, 2, key=jax.random.key(0)), jnp.float32)
        assert wide(jnp.asarray(np.asarray(X), jnp.float64)).dtype == jnp.float64
    seen = {}

    def embed(species, x):
        seen["dtypes"] = species.dtype, x.dtype
        return {"x": x, "count": species}

    out = mixed_precision(embed)(jnp.arange(3), X)
    assert seen["dtypes"] == (jnp.int32, jnp.bfloat16)
    assert out["x"].dtype == jnp.float32 and out["count"].dtype == jnp.int32


def test_it_trains_saves_and_loads(tmp_path):
    x = jax.random.normal(jax.random.key(2), (64, 8))
    y = x @ jax.random.normal(jax.random.key(3), (8, 2))
    start = mixed_precision(eqx.nn.Linear(8, 2, key=jax.random.key(0)))
    model, history = sciml.fit(start, sciml.misfit, [(x, y)], optax.adam(3e-2), steps=400, report=None)
    assert history["loss"].values[-1] < 1e-3
    sciml.save(tmp_path / "model.zip", model)
    again = sciml.load(tmp_path / "model.zip", start)
    np.testing.assert_array_equal(jax.vmap(again)(x), jax.vmap(model)(x))
    other = mixed_precision(eqx.nn.Linear(8, 2, key=jax.random.key(0)), jnp.float16)
    with pytest.raises(ValueError, match="compute"):
        sciml.load(tmp_path / "model.zip", other)


class Caller(eqx.Module):
    """Calls a method of its kept module, and an activation that is a field."""

    inner: Smoothing
    activation: object = eqx.field(static=True, default=jnp.tanh)

    def __call__(self, x):
        y = self.inner.reversed(x)
        assert y.dtype == x.dtype
        return self.activation(y)

    def twice(self, x):
        assert x.dtype == jnp.bfloat16
        return self(self(x))


def test_methods_are_called_in_the_same_way():
    model = Caller(Smoothing(jnp.linspace(1.0, 0.0, 5)))
    low = mixed_precision(model, keep=Smoothing)
    np.testing.assert_allclose(low(X), model(X), atol=2**-6)
    assert low.activation is jnp.tanh
    out = low.twice(X)
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, jnp.tanh(model.inner.reversed(model(X))), atol=2**-6)
    again = remat(model, lambda m: m.inner)
    np.testing.assert_allclose(again(X), model(X), rtol=1e-6)
    assert "remat" in str(jax.make_jaxpr(jax.grad(lambda x: jnp.sum(again(x))))(X))


def test_fourier_neural_operator_in_half_precision():
    """Its spectral layers ask for full precision themselves: the error is that of the other parts."""
    from sciml.operators import FNO

    model = FNO(1, 1, modes=(4, 4), width=8, layers=2, key=jax.random.key(0))
    a = jax.random.normal(jax.random.key(1), (1, 16, 16))
    exact, low = model(a), mixed_precision(model)(a)
    assert low.dtype == jnp.float32
    error = float(jnp.linalg.norm(low - exact) / jnp.linalg.norm(exact))
    assert 2**-12 < error < 2**-5
    grads = [eqx.filter_jit(eqx.filter_grad(lambda m: jnp.mean(m(a) ** 2)))(m) for m in (model, mixed_precision(model))]
    for e, g in zip(*map(jax.tree.leaves, grads), strict=True):
        assert g.dtype == jnp.float32
        # CPUs may add up the many terms of a bias in bfloat16.
        assert jnp.linalg.norm(g - e) < (0.2 if e.ndim == 1 else 0.02) * jnp.linalg.norm(e)


def test_other_attributes_are_those_of_the_model():
    model = mixed_precision(network())
    assert model.width == 8 and remat(network()).width == 8
    with pytest.raises(AttributeError, match="depth"):
        model.depth


@pytest.mark.parametrize("compute", [jnp.int32, jnp.complex64, bool])
def test_precision_must_be_floating(compute):
    with pytest.raises(ValueError, match="floating-point"):
        mixed_precision(network(), compute)


@pytest.mark.parametrize(
    "where",
    [None, lambda m: m.first, lambda m: m.blocks, lambda m: (m.first, m.middle)],
    ids=["whole", "one", "list", "two"],
)
def test_remat_gives_the_same_numbers(where):
    model = network()
    again = remat(model, where)
    np.testing.assert_allclose(again(X), model(X), rtol=1e-6)
    grads = [eqx.filter_jit(eqx.filter_grad(squares))(m, X) for m in (model, again)]
    for a, b in zip(*map(jax.tree.leaves, grads), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_remat_keeps_less():
    keys = jax.random.split(jax.random.key(0), 8)
    model = eqx.nn.Sequential([eqx.nn.Sequential([eqx.nn.Linear(8, 8, key=k), eqx.nn.Lambda(jnp.tanh)]) for k in keys])

    def kept(model):
        """How many numbers the backward pass is given."""
        params, static = eqx.partition(model, eqx.is_array)
        _, pullback = jax.vjp(lambda p, x: jax.vmap(eqx.combine(p, static))(x), params, jnp.ones((256, 8)))
        return sum(leaf.size for leaf in jax.tree.leaves(pullback))

    assert kept(remat(model, lambda m: m.layers)) < 0.7 * kept(model)


def test_remat_needs_modules():
    with pytest.raises(ValueError, match="can be called"):
        remat(network(), lambda m: m.first.weight)
