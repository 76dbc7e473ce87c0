"""Weights that follow the training, against dense references and recursions by hand, and scales of fields."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sciml import PDE, Box, Groups, Stream, condition, fit, hold, observe, optim, train, value
from sciml.nn import mlp
from sciml.pde._causal import bin_weights, causal_weights
from sciml.pde._points import r3
from sciml.pde._scales import Scale, field_scales, nondimensional, scaled_residuals
from sciml.pde._weights import (
    attention_weights,
    gradient_norm_weights,
    gradient_norms,
    ntk_traces,
    ntk_weights,
    self_adaptive_weights,
)

KEY = jax.random.key(0)
ROD = Box(t=(0, 1), x=(0, 1))


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def groups_loss(p, batch):
    """Two groups: one with two terms, of one and of two numbers per example, and one with a single term."""
    out = {}
    if "a" in batch:
        x = batch["a"]
        out |= {"r": jnp.sin(p[0] * x) + p[1], "s": jnp.stack([p[2] * x, p[3] + p[0] * x**2], axis=1)}
    if "b" in batch:
        out["q"] = p[1] * batch["b"]["x"] - jnp.exp(p[2] * batch["b"]["y"])
    return out


PARAMS = np.array([0.3, -0.7, 1.1, 0.2])


def groups(dtype=float):
    b = {"x": np.linspace(2, 3, 5), "y": np.linspace(0, 1, 5)}
    return jax.tree.map(lambda a: jnp.asarray(a, dtype), Groups({"a": np.linspace(0, 1, 7), "b": b}))


def params(dtype=float):
    return jnp.asarray(PARAMS, dtype)


def residuals():
    return {name: np.asarray(r) for name, r in groups_loss(params(), groups()).items()}


def factors_of(batch):
    return {name: np.asarray(f) for part in batch.values() for name, f in part.factors.items()}


def heat(**keywords):
    return PDE(
        ROD,
        lambda u_t, u_xx, a: u_t - a * u_xx,
        value(u=lambda x: jnp.sin(jnp.pi * x), on=ROD.at(t=0), exact=False),
        value(u=0.0, on=ROD.boundary("x")),
        a=0.1,
        **keywords,
    )


class Given(Stream):
    """Batches by step."""

    batches: list

    def init(self, key, model):
        return self.batches[0]

    def next(self, key, step, model, batch):
        return self.batches[int(step)], step > 0


def states(data, steps, model=None):
    """The batches of the first steps, and whether they are fresh."""
    model = params() if model is None else model
    following = data.next if isinstance(getattr(data, "data", None), Given) else eqx.filter_jit(data.next)
    batch, out = data.init(KEY, model), []
    for step in range(steps):
        batch, fresh = following(KEY, jnp.asarray(step), model, batch)
        out.append((batch, bool(fresh)))
    return out


# Attention.


def test_attention_is_its_recursion():
    loss, data = attention_weights(groups_loss, lambda key: groups(), gamma=0.9, eta=0.3, every=2)
    found = states(data, 5)
    sizes = {"r": np.abs(residuals()["r"]), "q": np.abs(residuals()["q"])}
    sizes["s"] = np.sqrt((residuals()["s"] ** 2).mean(1))
    expected = {name: np.ones_like(s) for name, s in sizes.items()}
    for step, (batch, fresh) in enumerate(found):
        # A plain function is a new batch at every step.
        assert fresh
        if step % 2 == 0:
            expected = {n: 0.9 * f + 0.3 * sizes[n] / sizes[n].max() for n, f in expected.items()}
        for name, f in factors_of(batch).items():
            np.testing.assert_allclose(f, expected[name], rtol=1e-12)
    terms = loss(params(), found[-1][0])
    np.testing.assert_allclose(terms["s"], residuals()["s"] * expected["s"][:, None], rtol=1e-12)
    np.testing.assert_allclose(terms["q"], residuals()["q"] * expected["q"], rtol=1e-12)


def test_attention_tends_to_its_bound():
    _, data = attention_weights(groups_loss, lambda key: groups(), gamma=0.5, eta=2.0)
    last = factors_of(states(data, 60)[-1][0])
    for name in ("r", "q"):
        size = np.abs(residuals()[name])
        np.testing.assert_allclose(last[name], 4.0 * size / size.max(), rtol=1e-12)


def test_attention_of_some_terms():
    _, data = attention_weights(groups_loss, lambda key: groups(), terms=("q",))
    last = factors_of(states(data, 3)[-1][0])
    assert (last["r"] == 1).all() and (last["s"] == 1).all() and not (last["q"] == 1).any()
    _, data = attention_weights(groups_loss, lambda key: groups(), terms=("w",))
    with pytest.raises(ValueError, match="no term 'w' in r, s, q"):
        states(data, 1)


@pytest.mark.parametrize("make", [attention_weights, self_adaptive_weights])
def test_new_points_take_the_mean_factor(make):
    old, new = groups(), groups()
    new["a"] = new["a"].at[jnp.array([1, 4])].set(jnp.array([0.33, 0.44]))
    _, data = make(groups_loss, Given([old, new]), every=10)
    (first, fresh), (second, changed) = states(data, 2)
    assert fresh and changed
    before, after = factors_of(first), factors_of(second)
    expected = before["r"].copy()
    expected[[1, 4]] = before["r"].mean()
    np.testing.assert_allclose(after["r"], expected, rtol=1e-14)
    assert (after["q"] == before["q"]).all()


def test_held_points_are_fresh_where_factors_change():
    _, data = attention_weights(groups_loss, Given([groups()] * 4), every=2)
    stream = eqx.tree_at(lambda d: d.data, data, Held(groups()))
    assert [fresh for _, fresh in states(stream, 4)] == [True, False, True, False]


class Held(Stream):
    batch: Groups

    def init(self, key, model):
        return self.batch

    def next(self, key, step, model, batch):
        return batch, jnp.array(False)


def test_residuals_that_are_not_finite_have_no_say():
    bad = groups()
    bad["a"] = bad["a"].at[2].set(jnp.nan)
    _, data = attention_weights(groups_loss, lambda key: bad, gamma=0.9, eta=0.3)
    f = factors_of(states(data, 1)[0][0])["r"]
    size = np.abs(np.delete(residuals()["r"], 2))
    np.testing.assert_allclose(np.delete(f, 2), 0.9 + 0.3 * size / size.max(), rtol=1e-12)


# Self-adaptive weights.


def test_self_adaptive_weights_ascend():
    _, data = self_adaptive_weights(groups_loss, lambda key: groups(), optax.sgd(0.1))
    expected = np.ones(5)
    for batch, _ in states(data, 3):
        # d/df of f^2 r^2
        expected = expected + 0.1 * 2 * expected * residuals()["q"] ** 2
        np.testing.assert_allclose(factors_of(batch)["q"], expected, rtol=1e-12)


def test_self_adaptive_weights_by_adam():
    optimiser = optax.adam(0.01)
    _, data = self_adaptive_weights(groups_loss, lambda key: groups(), optimiser)
    r, f = residuals()["r"], jnp.ones(7)
    state = optimiser.init(f)
    for batch, _ in states(data, 4):
        updates, state = optimiser.update(-2 * f * r**2, state)
        f = f + updates
        np.testing.assert_allclose(factors_of(batch)["r"], f, rtol=1e-12)


# Weights of terms.


def gradients_by_hand():
    p = params()
    mean_square = {n: lambda p, n=n: jnp.mean(groups_loss(p, groups())[n] ** 2) for n in ("r", "s", "q")}
    return {n: float(jnp.linalg.norm(jax.grad(f)(p))) for n, f in mean_square.items()}


def traces_by_hand():
    out = {}
    for name in ("r", "s", "q"):
        jacobian = jax.jacfwd(lambda p, n=name: jnp.ravel(groups_loss(p, groups())[n]))(params())
        out[name] = float(jnp.trace(jacobian @ jacobian.T)) / len(jacobian)
    return out


def test_sizes_of_terms_equal_dense_references():
    for measure, expected in ((gradient_norms, gradients_by_hand()), (ntk_traces, traces_by_hand())):
        found = jax.jit(lambda p, batch, f=measure: f(groups_loss, p, batch))(params(), dict(groups()))
        assert {n: float(v) for n, v in found.items()} == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "make, by_hand",
    [(gradient_norm_weights, gradients_by_hand), (ntk_weights, traces_by_hand)],
    ids=["gradient", "ntk"],
)
def test_weights_of_terms_are_a_moving_average(make, by_hand):
    loss, data = make(groups_loss, Held(groups()), momentum=0.75, every=3)
    sizes = by_hand()
    mean = np.mean(list(sizes.values()))
    found = states(data, 4)
    assert [fresh for _, fresh in found] == [True, False, False, True]
    for step, updates in ((0, 1), (2, 1), (3, 2)):
        terms = loss(params(), found[step][0])
        for name, size in sizes.items():
            new = mean / (size + 1e-5 * mean)
            weight = 0.75**updates + (1 - 0.75**updates) * new
            np.testing.assert_allclose(terms[name] ** 2, weight * residuals()[name] ** 2, rtol=1e-12)


def test_a_term_without_gradient_does_no_harm():
    def loss(p, x):
        return {"constant": jnp.ones(3), "trained": p * x}

    for make in (gradient_norm_weights, ntk_weights):
        weighted, data = make(loss, lambda key: jnp.arange(3.0), momentum=0.0)
        batch = states(data, 1, jnp.asarray(2.0))[0][0]
        assert all(np.isfinite(r).all() for r in weighted(jnp.asarray(2.0), batch).values())


# Causal weights.


def causal_by_hand(times, squares, epsilon, bins, before=0.0):
    order = np.argsort(times)
    weights, total = np.zeros(len(times)), before
    edges = [
        i
        for i in range(len(times) + 1)
        if i in (0, len(times)) or i * bins // len(times) != (i - 1) * bins // len(times)
    ]
    for low, high in zip(edges, edges[1:]):
        weights[order[low:high]] = np.exp(-epsilon * total)
        total += squares[order[low:high]].mean()
    return weights


@pytest.mark.parametrize("n, bins", [(12, 4), (13, 5), (4, 4)])
def test_causal_weights_of_random_times(n, bins):
    random = np.random.default_rng(0)
    times, squares = random.uniform(size=(2, n))
    for before in (0.0, 0.4):
        found = bin_weights(jnp.asarray(times), jnp.asarray(squares), 0.7, bins, before)
        np.testing.assert_allclose(found, causal_by_hand(times, squares, 0.7, bins, before), rtol=1e-12)
    first = np.argsort(times)[: n // bins]
    assert (np.asarray(bin_weights(jnp.asarray(times), jnp.asarray(squares), 0.7, bins))[first] == 1).all()


def test_causal_loss_has_the_gradient_of_the_stopped_one():
    pde = heat()
    model = pde.model(mlp(2, 1, 5, 1, key=KEY))
    loss, data = causal_weights(pde.residuals, pde.points(24, 8), pde, epsilon=0.5, bins=4)
    batch = states(data, 1, model)[0][0]
    arrays, static = eqx.partition(model, eqx.is_inexact_array)

    def stopped(p):
        terms = pde.residuals(eqx.combine(p, static), pde.points(24, 8)(KEY))
        interior = terms.pop("equation 1")
        times = pde.points(24, 8)(KEY)["interior"][:, 0]
        before = jnp.mean(terms["u on t=0"] ** 2)
        weights = jax.lax.stop_gradient(bin_weights(times, interior**2, 0.5, 4, before))
        return jnp.mean(weights * interior**2) + sum(jnp.mean(r**2) for r in terms.values())

    def ours(p):
        return sum(jnp.mean(r**2) for r in loss(eqx.combine(p, static), batch).values())

    found, expected = (jax.jit(jax.grad(f))(arrays) for f in (ours, stopped))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-14)


def test_the_least_weight_and_the_rise_of_epsilon_agree():
    pde = heat()
    model = pde.model(mlp(2, 1, 5, 1, key=KEY))
    _, data = causal_weights(pde.residuals, pde.points(24, 8), pde, epsilon=(50.0, 100.0), bins=4, least=0.995)
    (first, _), (second, _) = states(data, 2, model)
    weights = np.asarray(first["interior"].factors["equation 1"]) ** 2
    np.testing.assert_allclose(weights.min(), 0.995, rtol=1e-12)
    # Weights that are only held above 0.99 are not solved.
    assert float(second["interior"].state["epsilon"][0]) == 50.0


def test_epsilon_rises_once_all_is_solved():
    pde = PDE(Box(t=(0, 1)), lambda u_t: u_t, value(u=1.0, on=Box(t=(0, 1)).at(t=0)))
    solved, unsolved = pde.model(lambda s: 0 * s), pde.model(lambda s: 1 + s)
    _, data = causal_weights(pde.residuals, pde.points(16), pde, epsilon=(0.1, 1.0, 10.0), bins=4)
    levels = [float(b["interior"].state["epsilon"][0]) for b, _ in states(data, 4, solved)]
    assert levels == pytest.approx([1.0, 10.0, 10.0, 10.0])
    levels = [float(b["interior"].state["epsilon"][3]) for b, _ in states(data, 2, unsolved)]
    assert levels == pytest.approx([0.1, 0.1])


def test_causal_weights_follow_points_that_are_drawn_anew():
    pde = heat()
    model = pde.model(mlp(2, 1, 5, 1, key=KEY))
    loss, data = causal_weights(pde.residuals, r3(pde, 24, 8, every=2), pde, epsilon=0.5, bins=4, every=100)
    found = states(data, 3, model)
    assert [fresh for _, fresh in found] == [True, False, True]
    batch = found[2][0]
    plain = Groups({label: part.examples for label, part in batch.items()})
    terms = {n: np.asarray(r) for n, r in pde.residuals(model, plain).items()}
    before = np.mean(terms["u on t=0"] ** 2)
    expected = causal_by_hand(np.asarray(plain["interior"][:, 0]), terms["equation 1"] ** 2, 0.5, 4, before)
    np.testing.assert_allclose(batch["interior"].factors["equation 1"] ** 2, expected, rtol=1e-10)


# All of them.

NOTHING = {
    "attention": lambda loss, data, pde: attention_weights(loss, data, gamma=1.0, eta=0.0),
    "self-adaptive": lambda loss, data, pde: self_adaptive_weights(loss, data, optax.sgd(0.0)),
    "gradient norms": lambda loss, data, pde: gradient_norm_weights(loss, data, momentum=1.0, every=2),
    "ntk": lambda loss, data, pde: ntk_weights(loss, data, momentum=1.0, every=2),
    "causal": lambda loss, data, pde: causal_weights(loss, data, pde, epsilon=0.0, bins=4),
}
STRONG = {
    "attention": lambda loss, data, pde: attention_weights(loss, data, gamma=0.9, eta=0.1, every=3),
    "self-adaptive": lambda loss, data, pde: self_adaptive_weights(loss, data, optax.adam(0.02), every=3),
    "gradient norms": lambda loss, data, pde: gradient_norm_weights(loss, data, momentum=0.5, every=4),
    "ntk": lambda loss, data, pde: ntk_weights(loss, data, momentum=0.5, every=4),
    "causal": lambda loss, data, pde: causal_weights(loss, data, pde, epsilon=1.0, bins=4),
}


def decay():
    time = Box(t=(0, 1))
    return PDE(time, lambda u_t, u: u_t + u, value(u=1.0, on=time.at(t=0), exact=False))


@pytest.mark.parametrize("name", NOTHING)
def test_without_strength_it_is_the_plain_loss(name):
    """To the bit, in single precision too, whose types a constant could change."""
    for dtype in (np.float32, np.float64):
        with jax.enable_x64(dtype == np.float64):
            p, batch = params(dtype), Groups(interior=jnp.linspace(0, 1, 7, dtype=dtype)[:, None])

            def plain(p, batch):
                return {"r": jnp.sin(p[0] * batch["interior"][:, 0]) + p[1]}

            loss, data = NOTHING[name](plain, lambda key: batch, decay())
            for found, _ in states(data, 3, p):
                r = loss(p, found)["r"]
                assert r.dtype == dtype
                np.testing.assert_array_equal(r, plain(p, batch)["r"])


@pytest.mark.parametrize("name, optimiser", list(zip(STRONG, ("broyden", "newton") * 3)))
def test_second_order_methods_descend(name, optimiser):
    """Their line searches and dampings accept only steps that decrease the loss that they see."""
    method = {"broyden": optim.self_scaled_broyden, "newton": optim.gauss_newton}[optimiser]()
    pde = decay()
    model = pde.model(mlp(1, 1, 6, 1, key=KEY))
    loss, data = STRONG[name](pde.residuals, r3(pde, 64, every=10), pde)
    fields, _ = fit(model, loss, data, method, steps=60, report=None)
    batch = pde.points(512)(jax.random.key(7))
    before, after = (sum(float(jnp.mean(r**2)) for r in pde.residuals(m, batch).values()) for m in (model, fields))
    assert after < 1e-3 * before


def test_they_compose_and_compile_once():
    pde = heat()
    calls = []

    def counted(model, batch):
        calls.append(None)
        return pde.residuals(model, batch)

    loss, data = attention_weights(counted, r3(pde, 24, 8, every=5), every=2)
    loss, data = ntk_weights(*causal_weights(loss, data, pde, bins=4), every=3)
    model = pde.model(mlp(2, 1, 5, 1, key=KEY))
    traced = []
    for state in train(model, loss, data, optim.gauss_newton(), steps=40, every=10):
        assert np.isfinite(state.losses["loss"])
        traced.append(len(calls))
    assert len(set(traced[1:])) == 1


def error_after(pde, exact, loss, data, steps):
    """The relative error after some steps of Adam."""
    fields, _ = fit(pde.model(mlp(1, 1, 16, 2, key=KEY)), loss, data, optax.adam(5e-3), steps=steps, report=None)
    low, high = pde.domain.bounds["t"]
    t = jnp.linspace(low, high, 101)
    found = jax.vmap(fields)(t[:, None])[:, 0]
    return float(jnp.linalg.norm(found - exact(t)) / jnp.linalg.norm(exact(t)))


def test_weights_of_examples_help_where_training_stalls():
    """Two periods of an oscillator: the plain loss prefers fields that die out."""
    time = Box(t=(0, 4))
    pde = PDE(time, lambda u_tt, u: u_tt + 10 * u, value(u=1.0, u_t=0.0, on=time.at(t=0)))
    points = hold(pde.points(128), 10**6)
    weights = {
        "plain": (pde.residuals, points),
        "attention": attention_weights(pde.residuals, points, gamma=0.99, eta=0.1),
        "self-adaptive": self_adaptive_weights(pde.residuals, points, optax.adam(0.02)),
        "causal": causal_weights(pde.residuals, points, pde, bins=16),
    }
    errors = {n: error_after(pde, lambda t: jnp.cos(10**0.5 * t), *pair, steps=700) for n, pair in weights.items()}
    plain = errors.pop("plain")
    assert plain > 0.5 and all(error < 0.85 * plain for error in errors.values()), (plain, errors)


def test_weights_of_terms_help_where_one_hides_the_other():
    """u' = -u, in units that make the start a hundredth of the equation."""
    time = Box(t=(0, 2))
    pde = PDE(time, lambda u_t, u: 10 * (u_t + u), condition(lambda u: 0.1 * (u - 1), on=time.at(t=0)))
    plain, *found = (
        error_after(pde, lambda t: jnp.exp(-t), *pair, steps=300)
        for pair in (
            (pde.residuals, pde.points(64)),
            gradient_norm_weights(pde.residuals, pde.points(64), every=10),
            ntk_weights(pde.residuals, pde.points(64), every=10),
        )
    )
    assert plain > 0.3 and max(found) < 0.1, (plain, found)


def test_batches_that_are_no_groups():
    x = jnp.linspace(0, 1, 9)
    loss, data = ntk_weights(*attention_weights(lambda p, b: {"fit": p * b[0] - b[1]}, lambda key: (x, x**2)))
    p, _ = fit(jnp.asarray(0.0), loss, data, optim.gauss_newton(), steps=20, report=None)
    weight = np.abs(float(p) * np.asarray(x) - np.asarray(x) ** 2)
    assert np.isfinite(float(p)) and weight.max() > 0


def test_wrong_arguments():
    data = lambda key: groups()  # noqa: E731
    for make in (attention_weights, self_adaptive_weights, gradient_norm_weights, ntk_weights):
        with pytest.raises(ValueError, match="every must be above 0"):
            make(groups_loss, data, every=0)
        with pytest.raises(TypeError, match="dict of residuals"):
            states(make(lambda p, b: jnp.sum(b), lambda key: jnp.ones(3))[1], 1)
        with pytest.raises(ValueError, match="a residual per example"):
            states(make(lambda p, b: {"mean": jnp.mean(b)}, lambda key: jnp.ones(3))[1], 1)
    with pytest.raises(TypeError, match="a function key -> batch or a Stream|Expected type"):
        attention_weights(groups_loss, [groups()])
    with pytest.raises(ValueError, match="0 < gamma <= 1"):
        attention_weights(groups_loss, data, gamma=1.5)
    for make in (gradient_norm_weights, ntk_weights):
        with pytest.raises(ValueError, match="momentum of weights"):
            make(groups_loss, data, momentum=-0.1)
    pde = heat()
    with pytest.raises(ValueError, match="rising numbers"):
        causal_weights(pde.residuals, pde.points(8), pde, epsilon=(1.0, 0.1))
    with pytest.raises(ValueError, match="least must be at least 0 and below 1"):
        causal_weights(pde.residuals, pde.points(8), pde, least=1.0)
    with pytest.raises(ValueError, match="bins must be 2"):
        causal_weights(pde.residuals, pde.points(8), pde, bins=1)
    with pytest.raises(ValueError, match="as many points or more"):
        states(causal_weights(pde.residuals, pde.points(8), pde, bins=9)[1], 1, pde.model(mlp(2, 1, 3, 1, key=KEY)))
    line = Box(x=(0, 1))
    still = PDE(line, lambda u_x: u_x, value(u=0.0, on=line.at(x=0)))
    with pytest.raises(ValueError, match="needs an axis 't'"):
        causal_weights(still.residuals, still.points(8), still)


# Scales.

SEGMENT = Box(x=(0, 1))


def pressure(size, **keywords):
    """p'' = -size pi^2 sin(pi x) between size and 2 size: p = size (1 + x + sin(pi x))."""
    return PDE(
        SEGMENT,
        lambda p_xx, x: p_xx + size * jnp.pi**2 * jnp.sin(jnp.pi * x),
        value(p=size, on=SEGMENT.at(x=0), **keywords),
        value(p=2 * size, on=SEGMENT.at(x=1), **keywords),
    )


def test_scales_are_read_from_what_is_declared():
    assert field_scales(pressure(1e5)) == {"p": Scale(0.0, 5e4)}
    assert field_scales(pressure(1e5, exact=False)) == {"p": Scale(0.0, 2e5)}
    # Of order 1, nothing changes.
    assert field_scales(pressure(1.0)) == {"p": Scale(0.0, 1.0)}
    pde = PDE(
        ROD,
        lambda u_t, u_xx: u_t - u_xx,
        lambda v_t, v_xx, w: v_t - v_xx - w,
        lambda w_t: w_t,
        value(u=lambda x, a: a * jnp.sin(jnp.pi * x), on=ROD.at(t=0)),
        value(u=0.0, v=0.0, on=ROD.boundary("x")),
        observe({"t": [0.1, 0.5, 0.9], "x": [0.2, 0.4, 0.6]}, w=[300.0, 301.0, 302.0]),
        a=1e-6,
    )
    found = field_scales(pde)
    assert found["u"].size == pytest.approx(0.5e-6, rel=1e-2) and found["u"].centre == 0
    assert found["v"] == Scale(0.0, 1.0)
    assert found["w"] == Scale(301.0, 1.0)


def test_scaled_outputs_are_in_the_units_of_the_field():
    pde = pressure(1e5)
    network = mlp(1, 1, 5, 1, key=KEY)
    scaled, plain = (pde.model(n) for n in (nondimensional(pde, network), network))
    x = jnp.array([0.3])
    lift = 1e5 * (1 + x[0])
    assert float(scaled(x)[0] - lift) == pytest.approx(5e4 * float(plain(x)[0] - lift), rel=1e-6)
    assert nondimensional(pressure(1.0), network) is network
    given = nondimensional(pressure(1.0), network, p=100.0)
    assert float(given(x)[0]) == pytest.approx(100 * float(network(x)[0]), rel=1e-12)


@pytest.mark.parametrize(
    "size, exact, dtype",
    [(1e5, None, np.float32), (1e5, False, np.float64), (1e-6, None, np.float64), (1e-6, False, np.float32)],
)
def test_any_size_trains_as_well(size, exact, dtype):
    with jax.enable_x64(dtype == np.float64):
        pde = pressure(size, exact=exact)
        model = pde.model(nondimensional(pde, mlp(1, 1, 10, 1, key=KEY)))
        loss = scaled_residuals(pde, pde.residuals, model)
        fields, _ = fit(model, loss, pde.points(64), optax.adam(1e-2), steps=800, report=None)
        x = jnp.linspace(0, 1, 30, dtype=dtype)
        exactly = size * (1 + x + jnp.sin(jnp.pi * x))
        error = jax.vmap(fields)(x[:, None])[:, 0] - exactly
        assert float(jnp.linalg.norm(error) / jnp.linalg.norm(exactly)) < 2e-2


def test_residuals_are_divided_by_their_size():
    def large(u_x):
        return 1e6 * (u_x + 1)

    def small(v_x, x):
        return 1e-4 * (v_x + x)

    def usual(w_x):
        return w_x + 3

    def rounding(z_x):
        return z_x + 1e-14

    starts = {f: 0.0 for f in "uvwz"}
    pde = PDE(SEGMENT, large, small, usual, rounding, value(**starts, on=SEGMENT.at(x=0)))
    model = pde.model(lambda s: jnp.zeros(4))
    batch = pde.points(256)(jax.random.key(0))
    plain, scaled = (f(model, batch) for f in (pde.residuals, scaled_residuals(pde, pde.residuals, model)))
    for name in ("large", "small"):
        np.testing.assert_allclose(jnp.sqrt(jnp.mean(scaled[name] ** 2)), 1.0, rtol=1e-6)
    assert (scaled["usual"] == plain["usual"]).all()
    # Divided by 1e-12 of the largest, not by its own 1e-14.
    np.testing.assert_allclose(scaled["rounding"], 1e-14 / 1e-6, rtol=1e-6)


def test_wrong_sizes():
    network = mlp(1, 1, 3, 1, key=KEY)
    with pytest.raises(ValueError, match="'q' is not a field; the fields are p"):
        nondimensional(pressure(1.0), network, q=1.0)
    with pytest.raises(ValueError, match="must be positive and finite"):
        nondimensional(pressure(1.0), network, p=0.0)
