"""Latent SDE: divergence and bound against closed forms, what its paths know, padding, and a fit of noisy data."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.stats import norm

import sciml
from sciml import Unknown, ode
from sciml.ode import Drawn, Series

KEY = jax.random.key(0)
TIMES = np.array([0.0, 0.3, 0.4, 1.1, 1.5, 2.0])
identity = eqx.nn.Identity()
called = eqx.filter_jit(lambda model, *arguments: model(*arguments))


@pytest.fixture(autouse=True)
def double():
    with sciml.double_precision():
        yield


def steered(control, drift=lambda t, z, args: 0 * z, diffusion=None, size=2, substeps=4, **parts):
    """Started from the prior, whatever was observed; for a `control` in closed form, and by default Brownian motion."""
    encoder = ode.ode_rnn(size, 4, out=2 * size, key=KEY)
    encoder = eqx.tree_at(lambda e: e.readout, encoder, lambda h: jnp.zeros(2 * size))
    solver = parts.pop("solver", diffrax.Euler())
    prior = ode.SDE(drift, diffusion or (lambda t, z, args: jnp.ones(size)), solver, substeps)
    return ode.LatentSDE(
        encoder, lambda t, z, args: control(t, z[:size]), prior, parts.pop("decoder", identity), **parts
    )


def series(size=2, times=TIMES):
    return Series(times, np.stack([np.sin(3 * times + j) for j in range(size)], axis=1))


def divergences(model, observed, ts, count, args=None):
    """Of several draws."""
    found = jax.jit(jax.vmap(lambda key: model.evidence(observed, ts, args, key=key)[1]))
    return np.sum(np.asarray(found(jax.random.split(KEY, count))) ** 2, axis=1) / 2


def batch(count=3, size=2, **options):
    random = np.random.default_rng(0)
    pairs = [(np.sort(random.uniform(0, 2, 8)), random.standard_normal((8, size))) for _ in range(count)]
    data = ode.observing(ode.trajectories(pairs, **options))
    return Drawn(data, jax.random.split(KEY, count), np.ones(count))


def moving(**options):
    """With networks, and control and knowledge that are not zero as they are at first."""
    model = ode.latent_sde(2, 3, 8, key=KEY, **options)
    last = lambda m: [part.network.layers[-1].weight for part in (m.control, m.knowledge)]  # noqa: E731
    return eqx.tree_at(last, model, replace_fn=lambda w: w + 0.3)


# The divergence.


@pytest.mark.parametrize("solver", [diffrax.Euler(), diffrax.EulerHeun()])
def test_a_constant_control_costs_half_its_square_in_each_dimension(solver):
    """Whatever the noise: from the first row to the last time that was observed."""
    model = steered(
        lambda t, z: jnp.array([0.7, -0.2]), diffusion=lambda t, z, args: 0.3 + 0.2 * jnp.sin(z), solver=solver
    )
    truth = (0.7**2 + 0.2**2) * 2.0 / 2
    np.testing.assert_allclose(divergences(model, series(), TIMES, 3), truth, rtol=1e-12)
    half = divergences(model, series(), TIMES[:4], 1)
    np.testing.assert_allclose(half, truth * 1.1 / 2, rtol=1e-12)


def test_the_divergence_of_two_ornstein_uhlenbeck_processes():
    """That of rate 2 from that of rate 1/2: the integral of the variance, (a - b)^2 / (2 s^2) times."""
    a, b, s, count = 2.0, 0.5, 0.6, 1000
    model = steered(lambda t, z: (b - a) * z / s, lambda t, z, args: -b * z, lambda t, z, args: s * jnp.ones(1), 1, 100)
    found = divergences(model, series(1), TIMES, count)
    time, stationary = TIMES[-1], s**2 / (2 * a)
    # It starts with variance 1.
    integral = stationary * time + (1 - stationary) * (1 - np.exp(-2 * a * time)) / (2 * a)
    truth = (a - b) ** 2 / (2 * s**2) * integral
    assert abs(found.mean() - truth) < 3 * found.std() / np.sqrt(count) + 0.02 * truth
    assert found.std() / np.sqrt(count) < 0.05 * truth


def test_noise_that_is_shared_and_components_without_it():
    """A position without noise of its own: the control pushes where the noise does, and costs as much."""
    matrix = np.array([[0.0], [0.5]])
    drift = lambda t, z, args: jnp.stack([z[1], 0 * z[1]])  # noqa: E731
    model = steered(lambda t, z: jnp.array([0.8]), drift, lambda t, z, args: jnp.asarray(matrix))
    np.testing.assert_allclose(divergences(model, series(), TIMES, 2), 0.8**2 * 2 / 2, rtol=1e-12)
    ys = called(model, series(), TIMES)
    np.testing.assert_allclose(ys[:, 1], 0.4 * TIMES, atol=1e-12)
    # Of Euler's steps.
    squares = np.cumsum(np.diff(TIMES, prepend=0) ** 2 / 4)
    np.testing.assert_allclose(ys[:, 0], 0.4 * (TIMES**2 - squares) / 2, atol=1e-12)


def test_the_bound_is_the_likelihood_where_the_control_is_the_exact_one():
    """Brownian motion from zero, measured once with noise: the bridge to the value is the process that explains it."""
    x, noise, last, count = 0.8, 0.5, 1.0, 2000
    bridge = steered(lambda t, z: (x - z) / (last - t + noise**2), size=1, substeps=100, start=lambda w: 0 * w)
    other = eqx.tree_at(lambda m: m.control, bridge, lambda t, z, args: 0 * z[:1])
    data = ode.trajectories([([0.0, last], [np.nan, x])] * count, starts=np.zeros((count, 1)))
    drawn = Drawn(ode.observing(data), jax.random.split(KEY, count), np.ones(count))
    truth = norm(0, np.sqrt(last + noise**2)).logpdf(x)

    def bounds(model):
        terms = called(ode.elbo(scale=noise), model, drawn)
        # Two rows, of which one was measured.
        squares = sum(2 * np.asarray(jnp.mean(r**2, axis=tuple(range(1, r.ndim)))) for r in terms.values())
        return -squares / 2 - np.log(noise * np.sqrt(2 * np.pi))

    best, plain = bounds(bridge), bounds(other)
    assert best.mean() == pytest.approx(truth, abs=3 * best.std() / np.sqrt(count) + 0.01)
    assert plain.mean() < truth - 0.5
    # Without control it is the mean logarithm of the likelihood of paths.
    square = (x**2 + last) / (2 * noise**2) + np.log(noise * np.sqrt(2 * np.pi))
    assert plain.mean() == pytest.approx(-square, abs=4 * plain.std() / np.sqrt(count))


def test_coarse_steps_have_the_exact_bound_with_knowledge_and_a_lower_one_without():
    """Three steps of a Brownian motion from zero to a value with little noise."""
    x, noise, count, dt = 0.8, 0.1, 4000, 1 / 3

    def knowledge(context):
        return jnp.atleast_1d(1 / (noise**2 + context[1] - dt))

    def control(t, seen, args):
        """Of the state, the value that is interpolated, and the time until then."""
        z, value, ahead = seen[:3]
        k = knowledge(seen[1:])
        return (value - z) / (noise**2 + ahead) * (1 + k * dt) / (1 + k)

    model = steered(lambda t, z: z, size=1, substeps=3, start=lambda w: 0 * w)
    exact = eqx.tree_at(
        lambda m: (m.control, m.knowledge), model, (control, knowledge), is_leaf=lambda leaf: leaf is None
    )
    plain = eqx.tree_at(lambda m: m.control, model, lambda t, seen, args: (x - seen[:1]) / (noise**2 + 1 - t))
    observed = Series(np.array([0.0, 1.0]), np.array([[np.nan], [x]]))

    @jax.jit
    def squares(key):
        """Twice minus the bound."""
        found = []
        for m in (exact, plain):
            ys, apart = m.evidence(observed, observed.ts[1:], key=key)
            found.append(((ys[0, 0] - x) / noise) ** 2 + jnp.sum(apart**2) + np.log(2 * np.pi * noise**2))
        return jnp.stack(found)

    bounds = -np.asarray(jax.vmap(squares)(jax.random.split(KEY, count))) / 2
    truth = norm(0, np.sqrt(1 + noise**2)).logpdf(x)
    ratios = dt / (noise**2 + dt * np.arange(3))
    lost = np.sum(ratios - np.log1p(ratios)) / 2
    assert lost > 14
    error = 4 * bounds.std(axis=0) / np.sqrt(count)
    assert error[0] < 0.1
    np.testing.assert_array_less(np.abs(bounds.mean(axis=0) - [truth, truth - lost]), error)


def test_a_rate_of_knowledge_narrows_steps_of_any_length_alike():
    """Brownian motion with a constant rate k and no control: a step has the variance dt / (1 + k dt), and its mirror
    image for k < 0.
    """
    for rate in (3.0, -3.0):
        model = steered(lambda t, z: 0 * z, size=1, substeps=1, start=lambda w: 0 * w)
        model = eqx.tree_at(
            lambda m: m.knowledge, model, lambda context: jnp.full(1, rate), is_leaf=lambda leaf: leaf is None
        )
        lengths = np.diff(TIMES)
        variances = lengths * (1 + 3.0 * lengths) ** -np.sign(rate)
        draws = jax.jit(jax.vmap(lambda key: model.evidence(series(1), TIMES, key=key)))
        ys, apart = draws(jax.random.split(KEY, 4000))
        np.testing.assert_allclose(np.diff(ys[..., 0], axis=1).var(axis=0), variances, rtol=0.1)
        shares = variances / lengths
        truth = np.sum(shares - 1 - np.log(shares)) / 2
        np.testing.assert_allclose(np.sum(np.asarray(apart) ** 2, axis=1) / 2, truth, rtol=1e-10)


def test_a_new_model_is_its_prior_and_has_derivatives():
    """Its path costs nothing, where a square root would have no derivative."""
    model, loss = ode.latent_sde(2, 3, 8, key=KEY), ode.elbo(scale=0.5)

    @eqx.filter_jit
    @eqx.filter_value_and_grad(has_aux=True)
    def slopes(model):
        terms = loss(model, batch())
        return sum(jnp.mean(r**2) for r in terms.values()), terms

    (_, terms), gradient = slopes(model)
    assert not terms["divergence"][:, 6:].any() and terms["divergence"][:, :6].any()
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))
    last = [part.network.layers[-1] for part in (gradient.control, gradient.knowledge)]
    parts = (*last, gradient.prior, gradient.encoder.cell, gradient.decoder)
    assert all(any(np.abs(g).max() > 0 for g in jax.tree.leaves(part)) for part in parts)


# What paths know.


def test_after_what_was_observed_paths_follow_the_prior():
    """There nothing is added to the divergence, and the drift is that of the prior."""
    model, late = moving(), np.array([0.5, 2.0, 3.0, 4.0])
    found = np.asarray(eqx.filter_jit(model.evidence)(series(), late, key=KEY)[1])
    # For each step, three numbers of the control and three of the variance.
    steps = found[6:].reshape(-1, 4, 6)
    assert np.abs(steps[:2]).min() > 0 and not steps[2:].any()
    observed = Series(TIMES, np.where(TIMES[:, None] > 1.0, np.nan, series().ys))
    assert not np.asarray(eqx.filter_jit(model.evidence)(observed, late, key=KEY)[1])[6 + 24 :].any()


def test_the_control_knows_what_comes_and_not_what_was():
    """A value that changes matters to the steps before it only, but for the start."""
    model = moving()
    model = eqx.tree_at(lambda m: m.encoder.readout, model, lambda h: jnp.zeros(6))
    other = series()
    other.ys[3] += 1.0
    run = eqx.filter_jit(lambda observed: model._known(observed, TIMES, None).contexts)
    before, after = run(series()), run(other)
    # The first interval has no length.
    at = 4 * 4
    assert np.abs(before - after)[:at].max(axis=1).min() > 1e-6
    np.testing.assert_array_equal(before[at:], after[at:])


@pytest.mark.parametrize("name", ["called", "evidence"])
def test_padding_is_invisible(name):
    model, at = moving(), np.array([0.0, 0.2, 0.4, 1.0, 2.5])
    longer = Series(np.append(TIMES, [TIMES[-1]] * 4), np.concatenate([series().ys, np.full((4, 2), np.nan)]))
    run = called if name == "called" else eqx.filter_jit(lambda m, *a: m.evidence(*a, key=KEY))
    short, padded = run(model, series(), at), run(model, longer, np.append(at, [at[-1]] * 3))
    if name == "evidence":
        (short, apart), (padded, same) = short, padded
        np.testing.assert_allclose(same[: len(apart)], apart, rtol=1e-12, atol=1e-14)
        assert not same[len(apart) :].any()
    assert short.shape == (5, 2) and np.isfinite(short).all()
    np.testing.assert_allclose(padded[:5], short, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(padded[5:], np.broadcast_to(short[-1], (3, 2)), rtol=1e-12, atol=1e-14)


def test_padded_batches_have_the_same_bound():
    """The loss is by value: of twice the rows it is half, padded trajectories are of no account."""
    model, loss = moving(), ode.elbo(scale=0.5)
    sums = []
    for length in (8, 16):
        terms = called(loss, model, batch(length=length))
        sums.append([float(jnp.mean(r**2)) * length for r in terms.values()])
    np.testing.assert_allclose(sums[0], sums[1], rtol=1e-10)


def test_the_same_key_is_the_same_path():
    model = moving()
    run = eqx.filter_jit(lambda key: (model.sampled(series(), TIMES, key=key), model.generated(TIMES, key=key)))
    first, again, other = run(KEY), run(KEY), run(jax.random.key(1))
    for a, b, c in zip(first, again, other):
        np.testing.assert_array_equal(a, b)
        assert a.shape == (6, 2) and np.abs(a - c).max() > 1e-3


def test_nothing_observed_is_no_error():
    empty = Series(TIMES, np.full((6, 2), np.nan))
    ys, apart = eqx.filter_jit(moving().evidence)(empty, TIMES, key=KEY)
    assert np.isfinite(ys).all() and not apart[6:].any()


def test_paths_that_fail_count_as_a_constant_without_a_gradient():
    model = steered(lambda t, z: jnp.ones(2), lambda t, z, args: args * z**3, start=lambda w: 3 + 0 * w)
    model = eqx.tree_at(lambda m: m.decoder, model, eqx.nn.Linear(2, 2, key=KEY))
    drawn = batch()
    loss = ode.elbo(failed=7.0)

    @eqx.filter_jit
    @eqx.filter_value_and_grad(has_aux=True)
    def slopes(parts):
        model, k = parts
        data = drawn.data._replace(args=jnp.broadcast_to(k, 3))
        terms = loss(model, drawn._replace(data=data))
        return sum(jnp.mean(r**2) for r in terms.values()), terms

    (value, terms), gradient = slopes((model, jnp.array(5.0)))
    assert np.isfinite(value) and (terms["misfit"][:, -1] == 7.0).all()
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))


def test_a_fit_recovers_an_ornstein_uhlenbeck_process():
    """512 trajectories of 11 times, with noise of a seventh of the deviation: the decay within 10 % and the stationary
    deviation within 4 %, both of the process that Euler's steps make of the two numbers. Of 21 times, the best bound of
    steps of one variance has 0.72 of the true deviation.
    """
    random, ts, noise = np.random.default_rng(1), np.arange(11) / 4, 0.1
    deviation, kept = np.sqrt(0.5), np.exp(-0.25)
    xs = [deviation * random.standard_normal(512)]
    for _ in ts[1:]:
        xs.append(kept * xs[-1] + deviation * np.sqrt(1 - kept**2) * random.standard_normal(512))
    ys = np.stack(xs, axis=1)
    data = ode.trajectories([(ts, y) for y in ys + noise * random.standard_normal(ys.shape)])
    drift = ode.mechanism(lambda z, rate: -rate * z, ("z",), rate=Unknown(2.0, positive=True)).field
    spread = ode.mechanism(lambda z, s: s, ("z",), s=Unknown(0.5, positive=True)).field
    prior, start = ode.SDE(drift, spread, substeps=4), eqx.nn.Linear(1, 1, key=KEY)
    model = ode.latent_sde(1, 1, 16, prior=prior, decoder=identity, start=start, key=KEY)
    stream, steps = ode.annealed(ode.hiding(data, 64), 50), 450
    optimiser = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(1.5e-2, steps, alpha=0.02))
    )
    model, history = sciml.fit(model, ode.elbo(scale=noise), stream, optimiser, steps=steps, report=None)
    rate, s = (float(ode.parameters(model)[n]) for n in ("rate", "s"))
    h = 0.25 / 4
    assert -np.log(1 - rate * h) / h == pytest.approx(1.0, rel=0.1)
    assert s / np.sqrt(2 * rate * (1 - rate * h / 2)) == pytest.approx(deviation, rel=0.04)
    # Twice the bound by value is the mean square of the misfit, about one, and the divergence.
    assert history["misfit"][-1] == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: ode.latent_sde(0, key=KEY), "size"),
        (lambda: ode.latent_sde(2, 0, key=KEY), "latent"),
        (lambda: ode.latent_sde(2, motions=0, key=KEY), "motions"),
        (lambda: ode.latent_sde(2, substeps=0, key=KEY), "substeps"),
        (lambda: called(ode.latent_sde(2, 3, motions=2, key=KEY), series(), TIMES), "of the noise"),
        (lambda: called(moving(), Series(TIMES, np.zeros((3, 2))), TIMES), "of one trajectory"),
    ],
)
def test_bad_inputs(make, message):
    with pytest.raises(ValueError, match=message):
        make()
