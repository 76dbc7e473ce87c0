"""Losses and functions from losses to losses."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sciml
from sciml import Groups, chunked, combine, masked, misfit, relative_misfit, weighted
from sciml._loss import mean_squares, total


def two_terms(model, batch):
    return {"a": model * batch, "long name": model + batch}


def test_total_is_the_sum_of_mean_squares():
    terms = {"a": jnp.array([1.0, 2.0]), "b": jnp.array([[3.0]])}
    assert float(total(terms)) == pytest.approx(2.5 + 9.0)
    assert {k: float(v) for k, v in mean_squares(terms).items()} == {"a": 2.5, "b": 9.0}
    assert float(total(jnp.array(4.0))) == 4.0


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({}, "nothing to minimise"),
        (jnp.ones(3), "real scalar or a dict"),
        ({"z": jnp.array([1j])}, "'z' is complex"),
        (jnp.array(1), "real scalar"),
    ],
)
def test_what_is_no_loss(terms, message):
    with pytest.raises(TypeError, match=message):
        mean_squares(terms)


def test_misfit_maps_over_samples():
    x, w, y = jnp.ones((4, 3)), jnp.arange(4.0), jnp.full((4, 3), 2.0)
    out = misfit(lambda x, w: x * w, (x, w, y))["misfit"]
    np.testing.assert_allclose(out, np.arange(4.0)[:, None] * np.ones((4, 3)) - 2)
    np.testing.assert_allclose(relative_misfit(lambda x, w: x * w, (x, w, y))["misfit"], out / 2)


def test_weights_multiply_mean_squares():
    loss = weighted(two_terms, {"long name": 4.0}, a=0.25)
    plain, changed = (mean_squares(f(2.0, jnp.array([1.0, 3.0]))) for f in (two_terms, loss))
    assert float(changed["a"]) == pytest.approx(0.25 * float(plain["a"]))
    assert float(changed["long name"]) == pytest.approx(4 * float(plain["long name"]))


def test_weights_of_terms_that_do_not_exist():
    with pytest.raises(ValueError, match="did you mean 'long name'"):
        weighted(two_terms, {"long nam": 1.0})(1.0, jnp.ones(2))
    with pytest.raises(ValueError, match="must not be negative"):
        weighted(two_terms, a=-1.0)
    with pytest.raises(TypeError, match="dict of residuals"):
        weighted(lambda m, b: jnp.sum(b), a=1.0)(1.0, jnp.ones(2))


def test_combined_losses():
    both = combine(two_terms, lambda m, b: {"c": m - b})
    assert set(both(1.0, jnp.ones(2))) == {"a", "long name", "c"}
    with pytest.raises(ValueError, match="have a term called"):
        combine(two_terms, two_terms)(1.0, jnp.ones(2))


def test_groups_are_a_pytree_and_a_dict():
    groups = Groups({"b": jnp.ones(2), "a": jnp.zeros(3)})
    doubled = jax.tree.map(lambda x: 2 * x, groups)
    assert isinstance(doubled, Groups) and float(doubled["b"][0]) == 2.0 and set(doubled) == {"a", "b"}


def test_masked_rows_do_not_count():
    batch = (jnp.arange(4.0)[:, None], jnp.array([[1.0], [2.0], [jnp.nan], [7.0]]))
    mask = jnp.array([True, True, False, False])
    terms = masked(misfit)(lambda x: 3 * x, (batch, mask))
    assert float(jnp.mean(terms["misfit"] ** 2)) == pytest.approx((1.0 + 1.0) / 2)


def test_masked_names_a_residual_without_rows():
    def loss(model, batch):
        return {"whole": jnp.zeros(())}

    with pytest.raises(ValueError, match="'whole' has shape"):
        masked(loss)(None, (None, jnp.ones(3, bool)))


@pytest.mark.parametrize("rows", [1, 3, 8, 20])
def test_chunked_equals_the_whole(rows):
    """Values and gradients, of two terms with weights outside, also with a shorter last chunk."""
    with sciml.double_precision():
        model = eqx.nn.MLP(2, 1, 8, 2, key=jax.random.key(0))
        batch = (jax.random.normal(jax.random.key(1), (8, 2)), jax.random.normal(jax.random.key(2), (8, 1)))

        def loss(model, batch):
            value = jax.vmap(model)(batch[0])
            return {"a": value - batch[1], "b": jnp.sin(value)}

        def total(make):
            return lambda m: sum(jnp.mean(r**2) for r in weighted(make(loss), a=3.0)(m, batch).values())

        whole, part = (eqx.filter_value_and_grad(total(f))(model) for f in (lambda x: x, lambda x: chunked(x, rows)))
        np.testing.assert_allclose(part[0], whole[0], rtol=1e-12)
        for a, b in zip(jax.tree.leaves(part[1]), jax.tree.leaves(whole[1])):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_chunked_needs_less_memory():
    model = eqx.nn.MLP(4, 4, 256, 3, key=jax.random.key(0))
    batch = (jnp.ones((4096, 4)), jnp.ones((4096, 4)))
    sizes = []
    for loss in (sciml.misfit, chunked(sciml.misfit, 256)):
        gradient = eqx.filter_grad(lambda m, loss=loss: jnp.mean(loss(m, batch)["misfit"] ** 2))
        params, static = eqx.partition(model, eqx.is_inexact_array)
        compiled = jax.jit(lambda p: gradient(eqx.combine(p, static))).lower(params).compile()
        sizes.append(compiled.memory_analysis().temp_size_in_bytes)
    assert sizes[1] < sizes[0] / 4


def test_chunked_at_a_perfect_fit_has_no_gradient():
    gradient = jax.grad(lambda w: jnp.mean(chunked(lambda m, b: {"r": m * b}, 2)(w, jnp.zeros(4))["r"] ** 2))(1.0)
    assert gradient == 0


def test_chunked_refuses():
    with pytest.raises(ValueError, match="rows must be 1"):
        chunked(sciml.misfit, 0)
    with pytest.raises(ValueError, match="first axis in common"):
        chunked(sciml.misfit, 2)(lambda x: x, (jnp.ones(3), jnp.ones(4)))
    with pytest.raises(TypeError, match="dict of residuals"):
        chunked(lambda m, b: jnp.sum(b), 2)(1.0, jnp.ones(4))
