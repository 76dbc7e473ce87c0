"""ODE-RNN, smoother and latent ODE: what they see, padding and gaps, the bound against its closed form."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sciml
from sciml import ode
from sciml.ode import Series
from sciml.ode._latent import widened

KEY = jax.random.key(0)
# Compiled as a whole: operations one by one would each be a program.
called = eqx.filter_jit(lambda model, *arguments: model(*arguments))
TIMES = np.array([0.0, 0.3, 0.4, 1.1, 1.5, 2.2])


@pytest.fixture(autouse=True)
def double():
    with sciml.double_precision():
        yield


def correcting(smoother):
    """With a correction that is not zero, as it is at first."""
    bias, weight = (lambda m: m.correction.layers[-1].bias), (lambda m: m.correction.layers[-1].weight)
    smoother = eqx.tree_at(bias, smoother, replace_fn=lambda b: b + 0.1)
    return eqx.tree_at(weight, smoother, replace_fn=lambda w: w + 0.05)


with sciml.double_precision():
    MODELS = {
        "ode_rnn": ode.ode_rnn(2, 8, key=KEY),
        "smoother": correcting(ode.smoother(2, 8, key=KEY)),
        "exact smoother": correcting(ode.smoother(2, 8, exact=True, key=KEY)),
        "latent_ode": ode.latent_ode(2, 4, 8, key=KEY),
        "interpolated": ode.interpolated,
    }


def series():
    """Two components at irregular times; one value, and one row, are missing."""
    ys = np.stack([np.sin(3 * TIMES), np.cos(2 * TIMES)], axis=1)
    ys[1, 0] = ys[3, 0] = ys[3, 1] = np.nan
    return Series(TIMES, ys)


def padded(observed, count=4):
    ts, ys = observed
    return Series(np.append(ts, np.full(count, ts[-1])), np.concatenate([ys, np.full((count, ys.shape[1]), np.nan)]))


def waves(count=12, points=15):
    """Sines of different phase and amplitude, at random times."""
    random = np.random.default_rng(0)
    pairs = []
    for _ in range(count):
        ts = np.sort(random.uniform(0, 3, points))
        phase = 2 * ts + random.uniform(0, 6)
        pairs.append((ts, random.uniform(0.5, 1) * np.stack([np.sin(phase), np.cos(phase)], axis=1)))
    return ode.trajectories(pairs)


# What they see.


@pytest.mark.parametrize("name", MODELS)
def test_padding_is_invisible(name):
    """Of what was observed and of the times, whichever is padded."""
    model, at = MODELS[name], np.array([0.0, 0.2, 0.4, 1.0, 2.0])
    short = called(model, series(), at)
    longer = called(model, padded(series()), np.append(at, [at[-1]] * 3))
    assert short.shape == (5, 2) and np.isfinite(short).all()
    np.testing.assert_allclose(longer[:5], short, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(longer[5:], np.broadcast_to(short[-1], (3, 2)), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", MODELS)
def test_missing_values_do_not_matter_and_those_that_are_there_do(name):
    model, at = MODELS[name], np.array([0.1, 0.35, 0.9])
    base = called(model, series(), at)
    other = series()
    other.ys[0, 1] += 1.0
    assert np.abs(called(model, other, at) - base).max() > 1e-6
    assert np.isfinite(called(model, Series(TIMES, np.full((6, 2), np.nan)), at)).all()


def test_prediction_knows_only_the_past():
    model, at = MODELS["ode_rnn"], np.array([0.4, 0.41])
    changed = series()
    changed.ys[2] += 1.0
    before, after = called(model, series(), at), called(model, changed, at)
    np.testing.assert_array_equal(before[0], after[0])
    assert np.abs(before[1] - after[1]).max() > 1e-6
    later = series()
    later.ys[4:] += 1.0
    np.testing.assert_array_equal(called(model, later, at), before)


def test_a_row_without_values_changes_nothing_where_nothing_moves():
    """With the ODE dh/dt = 0 the hidden state only changes at observations."""
    still = ode.ODERNN(lambda h: 0 * h, MODELS["ode_rnn"].cell, MODELS["ode_rnn"].readout, 8)
    keep = np.isfinite(series().ys).any(axis=1)
    fewer = Series(TIMES[keep], series().ys[keep])
    at = TIMES + 0.01
    np.testing.assert_allclose(called(still, series(), at), called(still, fewer, at), rtol=1e-12)


def test_hidden_state_follows_its_equation():
    """dh/dt = -h between observations, to second order."""
    errors = []
    for substeps in (4, 8):
        decays = ode.ODERNN(lambda h: -h, lambda x, h: jnp.ones(8), lambda h: h[:1], 8, substeps)
        found = called(decays, Series(np.array([0.0, 1.0]), np.array([[1.0], [np.nan]])), np.array([0.0, 2.0]))
        assert found[0, 0] == 0
        errors.append(abs(float(found[1, 0]) - np.exp(-2)))
    assert np.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.3)


def test_interpolation_is_that_of_numpy():
    observed, at = series(), np.linspace(-0.5, 2.7, 33)
    for found in (called(ode.interpolated, series, at) for series in (observed, padded(observed))):
        for j in range(2):
            known = np.isfinite(observed.ys[:, j])
            np.testing.assert_allclose(found[:, j], np.interp(at, TIMES[known], observed.ys[known, j]), atol=1e-14)


def test_a_smoother_begins_as_linear_interpolation():
    at = np.linspace(0, 2.5, 9)
    for exact in (False, True):
        found = called(ode.smoother(2, 8, exact=exact, key=KEY), series(), at)
        np.testing.assert_allclose(found, called(ode.interpolated, series(), at), atol=1e-14)


def test_an_exact_smoother_keeps_what_was_observed():
    observed = series()
    known = np.isfinite(observed.ys)
    exact, free = (called(MODELS[n], observed, TIMES) for n in ("exact smoother", "smoother"))
    np.testing.assert_allclose(exact[known], observed.ys[known], atol=1e-14)
    assert np.abs(free[known] - observed.ys[known]).max() > 1e-3


def test_latent_trajectory_is_that_of_its_dynamics():
    """From the first row on; times before it are not predicted."""
    model, observed = MODELS["latent_ode"], series()
    at = np.array([0.2, 1.3, 3.0])

    @eqx.filter_jit
    def solved(model):
        z0 = model.posterior(observed)[0]
        tight = ode.ODE(model.dynamics.field, ode.Steps(rtol=1e-10, atol=1e-12))
        fine = ode.LatentODE(model.encoder, ode.ODE(model.dynamics.field, ode.Between(8)), model.decoder)
        draws = jax.vmap(lambda key: model.sampled(observed, at, key=key))(jax.random.split(KEY, 3))
        return fine(observed, at), jax.vmap(model.decoder)(tight(z0, np.append(0.0, at))[1:]), draws

    found, truth, draws = solved(model)
    np.testing.assert_allclose(found, truth, atol=1e-6)
    assert np.ptp(draws, axis=0).min() > 1e-6


# Steps between times.


def test_steps_between_times_have_order_four():
    ts, errors = np.array([0.0, 0.5, 0.5, 2.0]), []
    for count in (32, 64):
        ys = called(ode.ODE(lambda t, y, args: -y * jnp.cos(t), ode.Between(count)), np.ones(1), ts)
        errors.append(np.abs(ys[:, 0] - np.exp(-np.sin(ts))).max())
        assert ys[1, 0] == ys[2, 0]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(4, abs=0.2)


def test_steps_between_times_fail_without_a_gradient():
    def last(k):
        return ode.ODE(lambda t, y, args: k * y**2, ode.Between(limit=100.0))(np.ones(1), np.arange(6.0))

    ys = jax.jit(last)(1.0)
    assert np.isfinite(ys[0]).all() and np.isnan(ys[-1]).all()
    assert np.isfinite(jax.jit(jax.grad(lambda k: jnp.nansum(last(k))))(1.0))
    grows = ode.ODE(lambda t, y, args: y, ode.Between())
    assert np.isnan(called(grows, np.full(1, np.nan), TIMES)).all()


# Data.


def test_a_share_of_the_observed_times_is_seen():
    whole = Series(np.arange(12.0), np.ones((12, 2)))
    whole.ys[[3, 7]] = np.nan
    hidden = jax.jit(jax.vmap(lambda key: ode.hide(key, whole, 0.3).ys))(jax.random.split(KEY, 60))
    seen = np.isfinite(hidden)
    assert (seen[..., 0] == seen[..., 1]).all() and (seen[..., 0].sum(axis=1) == 3).all()
    counts = seen[..., 0].sum(axis=0)
    assert counts[3] == counts[7] == 0 and (counts[np.arange(12) % 4 != 3] > 5).all()


def test_batches_hide_from_the_model_only():
    data = waves()
    draw = jax.jit(ode.hiding(data, 5, share=0.4))
    batch, other = draw(KEY), draw(jax.random.key(1))
    assert batch.ys.shape == (5, 15, 2) and np.isfinite(batch.ys).all()
    assert (np.isfinite(batch.y0.ys).all(axis=2).sum(axis=1) == 6).all()
    assert len({float(t[0]) for t in batch.ts}) == 5
    assert np.any(batch.ts != other.ts)
    stream = ode.annealed(draw, 10)
    weights = [stream.next(KEY, jnp.asarray(s), None, None)[0].weight for s in (0, 5, 20)]
    np.testing.assert_allclose(weights, np.broadcast_to([[0.0], [0.5], [1.0]], (3, 5)))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: ode.hiding(waves(3), 4), "at most 3"),
        (lambda: ode.hiding(waves(3), 2, share=0.0), r"in \(0, 1\]"),
        (lambda: ode.annealed(ode.hiding(waves(3), 2), 0), "steps"),
        (lambda: ode.observing(waves(3), np.zeros((3, 2, 2))), "expected values of shape"),
        (lambda: ode.ode_rnn(0, key=KEY), "size"),
        (lambda: ode.latent_ode(2, 0, key=KEY), "latent"),
        (lambda: ode.Between(0), "count"),
        (lambda: ode.Between(limit=0.0), "limit"),
        (lambda: MODELS["ode_rnn"](Series(TIMES, np.zeros((3, 2))), TIMES), "of one trajectory"),
    ],
)
def test_bad_inputs(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# The bound.


def test_the_bound_is_that_of_closed_form():
    """-2 / (n m) times the expected log likelihood less the divergence of normal distributions, with one draw."""
    model = MODELS["latent_ode"]
    data = ode.observing(waves(3))
    data.ys[1, 4] = np.nan
    keys = jax.random.split(KEY, 3)
    scale = np.array([0.5, 0.2])
    loss = ode.elbo(scale=scale)

    def bound(observed, ts, target, key):
        mean, log_deviation = model.posterior(observed)
        divergence = jnp.sum((mean**2 + jnp.exp(2 * log_deviation) - 1) / 2 - log_deviation)
        misses = (model.sampled(observed, ts, key=key) - target) / scale
        return -jnp.nansum(misses**2) / 2 - divergence

    terms = called(loss, model, ode.Drawn(data, keys, np.ones(3)))
    found = sum(float(jnp.mean(r**2)) for r in terms.values())
    bounds = jax.jit(jax.vmap(bound))(data.y0, data.ts, data.ys, keys)
    assert found == pytest.approx(-2 * float(jnp.mean(bounds)) / (15 * 2), rel=1e-10)
    off = called(loss, model, ode.Drawn(data, keys, np.zeros(3)))
    assert not off["divergence"].any()


def test_the_divergence_is_smooth_at_the_prior():
    s = jnp.array([-3.0, -0.0101, -0.0099, -1e-6, 0.0, 1e-6, 0.0099, 0.0101, 2.0])
    np.testing.assert_allclose(widened(s[None])[0] ** 2, jnp.expm1(2 * s) - 2 * s, rtol=1e-6, atol=1e-15)
    slopes = jax.vmap(jax.grad(lambda s: widened(s[None, None])[0, 0]))(s)
    assert np.isfinite(slopes).all() and (slopes > 0).all()
    assert slopes[4] == pytest.approx(np.sqrt(2), rel=1e-6)


# Training.


def error(model, batch):
    return float(jnp.mean((ode.predicted(model, batch) - batch.ys) ** 2))


def test_a_smoother_learns_more_than_linear_interpolation():
    batches = ode.hiding(waves(24), 12, share=0.5)
    model, loss = ode.smoother(2, 16, exact=True, key=KEY), ode.trajectory_misfit()
    model, _ = sciml.fit(model, loss, batches, optax.adam(5e-3), steps=300, key=KEY, report=None)
    test = batches(jax.random.key(5))
    assert error(model, test) < 0.8 * error(ode.interpolated, test)


def test_a_latent_ode_learns_by_the_bound():
    """Half the times are hidden from it; it knows more than the variance of the data."""
    batches = ode.hiding(waves(24), 12, share=0.5)
    model, stream = ode.latent_ode(2, 4, 16, key=KEY), ode.annealed(batches, 200)
    model, history = sciml.fit(model, ode.elbo(scale=0.1), stream, optax.adam(5e-3), steps=300, key=KEY, report=None)
    test = batches(jax.random.key(5))
    assert error(model, test) < 0.5 * float(jnp.var(test.ys))
    assert {"misfit", "divergence"} <= set(history)


def test_one_program_for_all_times_and_gaps():
    """Times and missing values are data: other ones do not compile again."""
    model, calls = MODELS["smoother"], []

    @jax.jit
    def run(observed, ts):
        calls.append(0)
        return model(observed, ts)

    for shift in (0.0, 0.1):
        run(Series(TIMES + shift, np.where(TIMES[:, None] > shift, series().ys, np.nan)), TIMES)
    assert len(calls) == 1
