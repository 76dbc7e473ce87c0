"""Fits of trajectories: data, losses, warm starts, shooting and uncertainty, against truth that is known."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sciml
from sciml import Unknown, nn, ode, optim
from sciml.ode._uncertainty import CRITICAL

KEY = jax.random.key(0)
TRUTH = {"alpha": 0.55, "beta": 0.028, "gamma": 0.8, "delta": 0.024}


@pytest.fixture(autouse=True)
def double():
    with sciml.double_precision():
        yield


def predation(hare, lynx, alpha, beta, gamma, delta):
    return alpha * hare - beta * hare * lynx, -gamma * lynx + delta * hare * lynx


def hares(**parameters):
    return ode.mechanism(predation, ("hare", "lynx"), **(TRUTH | parameters))


def measured(noise=0.0, seed=0, count=21, starts=((30.0, 4.0),)):
    ts = np.linspace(0, 20, count)
    empty = ode.trajectories([(ts, np.ones((count, 2)))] * len(starts), starts=np.array(starts))
    ys = np.asarray(ode.predicted(hares(), empty))
    random = np.random.default_rng(seed)
    return ode.trajectories([(ts, y * np.exp(noise * random.standard_normal(y.shape))) for y in ys])


def oscillator(q, v, k, damping):
    return v, -k * q - damping * v


SWING = np.linspace(0, 6, 41)


def swinging(noise=0.0, seed=0):
    """The damped oscillator with k = 4.01 and a damping of 0.2, in closed form, with noise."""
    y = np.exp(-0.1 * SWING) * np.cos(2 * SWING)
    v = np.exp(-0.1 * SWING) * (-0.1 * np.cos(2 * SWING) - 2 * np.sin(2 * SWING))
    clean = np.stack([y, v], 1)
    return ode.trajectories([(SWING, clean + noise * np.random.default_rng(seed).standard_normal(clean.shape))]), clean


def swing(**parameters):
    return ode.mechanism(oscillator, ("q", "v"), **({"k": 4.01, "damping": 0.2} | parameters))


def constant(data):
    return lambda key: data


# Data.


def test_ragged_trajectories_are_padded():
    data = ode.trajectories([([0, 1, 2], [[1.0], [2.0], [3.0]]), ([5, 7], [4.0, np.nan])], length=4)
    np.testing.assert_array_equal(data.ts, [[0, 1, 2, 2], [5, 7, 7, 7]])
    np.testing.assert_array_equal(data.ys[..., 0], [[1, 2, 3, np.nan], [4, np.nan, np.nan, np.nan]])
    np.testing.assert_array_equal(data.y0, [[1], [4]])
    np.testing.assert_array_equal(ode.lengths(data), [3, 1])


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: ode.trajectories([]), "at least one"),
        (lambda: ode.trajectories([([1, 0], [1.0, 2.0])]), "not decrease"),
        (lambda: ode.trajectories([([0, 1], [np.nan, 2.0])]), "give starts"),
        (lambda: ode.trajectories([([0, 1], [1.0])]), "expected times"),
        (lambda: ode.trajectories([([0], [1.0]), ([0], [[1.0, 2.0]])]), "differs"),
        (lambda: ode.trajectories([([0, 1], [1.0, 2.0])], length=1), "length is 1"),
        (lambda: ode.trajectories([([0, 1], [1.0, 2.0])], starts=np.zeros((2, 1))), "starts of 1"),
        (lambda: ode.split_by_trajectory(swinging()[0], 0.5), "one part empty"),
        (lambda: ode.split_by_time(swinging()[0], 9.0), "after 9"),
        (lambda: ode.windows(swinging()[0], 1), "2 or more"),
        (lambda: ode.batches(swinging()[0], 0), "size"),
        (lambda: ode.growing(swinging()[0], 10, share=0.0), "share"),
        (lambda: ode.smoothed(ode.trajectories([([0, 1], [1.0, 2.0])])), "has 2 values"),
        (lambda: ode.estimated_noise(ode.trajectories([([0], [1.0])]), ode.trajectory_misfit(), 1), "leave nothing"),
        (lambda: ode.with_prior(ode.trajectory_misfit(), 3, k=(1.0, 0.0)), "above 0"),
        (lambda: ode.free_starts(swing(), ode.trajectories([([0], [[1.0, -1.0]])]), positive=True), "above 0"),
        (lambda: ode.tightening(ode.Segments(*swinging()[:1], 0, 0, 0), 10, first=0.0), "first"),
    ],
)
def test_bad_inputs(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_splits_leak_nothing():
    data = ode.trajectories([(np.arange(n) + 0.5 * n, np.arange(n) + 10.0 * n) for n in (4, 6, 8, 9)])
    first, second = ode.split_by_trajectory(data, 0.5, seed=3)
    assert sorted([*first.y0[:, 0], *second.y0[:, 0]]) == [40, 60, 80, 90] and len(first.y0) == 2
    train, test = ode.split_by_time(data, 6.0)
    assert train.ts.max() <= 6.0
    for k in range(4):
        assert not (np.isfinite(train.ys[k]).any() and (train.ts[k] > 6).any())
        later = np.isfinite(test.ys[k, :, 0])
        assert (test.ts[k][later] > 6).all()
    total = np.isfinite(train.ys).sum() + np.isfinite(test.ys).sum()
    assert total == np.isfinite(data.ys).sum()
    np.testing.assert_array_equal(train.y0, test.y0)


def test_windows_cover_each_interval_once():
    data = ode.trajectories([(np.arange(n), np.arange(n) + 100.0 * n) for n in (5, 8)], args=[3.0, 4.0])
    cut = ode.windows(data, 4)
    np.testing.assert_array_equal(cut.ts, [[0, 1, 2, 3], [3, 4, 4, 4], [0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 7, 7]])
    np.testing.assert_array_equal(cut.y0[:, 0], cut.ys[:, 0, 0])
    np.testing.assert_array_equal(cut.args, [3, 3, 4, 4, 4])
    gap = data._replace(ys=np.where(data.ts[..., None] == 3, np.nan, data.ys))
    assert len(ode.windows(gap, 4).y0) == 3


def test_ragged_batches_compile_once_for_each_bucket():
    random = np.random.default_rng(0)
    data = ode.trajectories([(np.arange(n), random.normal(size=n)) for n in random.integers(5, 60, 23)])
    batches = ode.batches(data, 4, buckets=3, seed=1)
    traces = []

    def loss(model, batch):
        traces.append(batch.ts.shape)
        return {"misfit": jnp.where(jnp.isfinite(batch.ys), batch.ys - model, 0.0)}

    first = [b for _, b in zip(range(len(batches)), batches)]
    seen = np.concatenate([b.ys[np.isfinite(b.ys)] for b in first])
    np.testing.assert_allclose(np.sort(seen), np.sort(data.ys[np.isfinite(data.ys)]))
    assert all((b.ts.shape[1] - ode.lengths(b)).min() >= 0 for b in first)
    eqx.clear_caches()
    step = eqx.filter_jit(lambda m, b: optax.apply_updates(m, jax.grad(lambda m: jnp.sum(loss(m, b)["misfit"]))(m)))
    for _, batch in zip(range(3 * len(batches)), batches):
        step(jnp.zeros(()), batch)
    assert len(traces) == 3 and len(set(traces)) == 3
    # Each way through begins in the same order.
    again = next(iter(batches))
    np.testing.assert_array_equal(again.ys, first[0].ys)


def test_fits_of_ragged_trajectories_compile_once_for_each_bucket():
    """As the right-hand side is traced in each compilation: after an epoch it is not traced again."""
    random, traced = np.random.default_rng(0), []
    data = ode.trajectories([(np.sort(random.uniform(0, 3, n)), random.normal(size=(n, 1))) for n in (4, 5, 9, 12, 20)])
    batches = ode.batches(data, 2, buckets=2)

    def decay(x, rate):
        traced.append(None)
        return -rate * x

    model = ode.mechanism(decay, ("x",), ode.Between(), rate=Unknown(1.0))
    states = sciml.train(
        model, ode.trajectory_misfit(), batches, optax.sgd(1e-3), steps=4 * len(batches), every=len(batches)
    )
    counts = [len(traced) for _ in states]
    assert len(batches.limits) == 2 and len(counts) >= 4 and 0 < counts[1] == counts[-1]


def test_the_horizon_grows_to_the_whole():
    data, _ = swinging()
    stream = ode.growing(data, 100, share=0.25)
    for step, end in ((0, 1.5), (50, 3.75), (100, 6.0), (900, 6.0)):
        batch, _ = stream.next(KEY, jnp.asarray(step), None, None)
        assert float(batch.ts.max()) == pytest.approx(end)
        np.testing.assert_array_equal(np.isfinite(batch.ys[0, :, 0]), SWING <= end + 1e-4)
        np.testing.assert_allclose(batch.ts[0], np.minimum(SWING, end))


# Losses.


def test_missing_values_do_not_count_and_failures_do():
    data, clean = swinging()
    holes = data._replace(ys=np.where(np.arange(41)[:, None] % 2, np.nan, data.ys + 1))
    r = ode.trajectory_misfit(scale=np.array([1.0, 2.0]))(swing(), holes)["misfit"]
    np.testing.assert_allclose(r[0, ::2], np.tile([-1.0, -0.5], (21, 1)), atol=1e-4)
    np.testing.assert_array_equal(r[0, 1::2], 0)
    loss = ode.trajectory_misfit(failed=7.0)
    explosive = ode.mechanism(lambda q, v, k: (k * q**2, 0 * v), ("q", "v"), ode.Steps(max_steps=300), k=Unknown(1.0))
    r, gradient = eqx.filter_jit(
        lambda m: (loss(m, data)["misfit"], eqx.filter_grad(lambda m: jnp.sum(loss(m, data)["misfit"] ** 2))(m))
    )(explosive)
    assert (r[0, -5:] == 7).all() and bool(jnp.isfinite(gradient.field.parameters["k"].raw))
    assert ode.failures(explosive, data).tolist() == [True]
    assert ode.failures(swing(), data).tolist() == [False]


def test_the_loss_compares_what_is_observed():
    data, clean = swinging()
    partial = data._replace(ys=np.log(clean[None, :, :1] + 3))
    loss = ode.trajectory_misfit(observed=lambda y: jnp.log(y[:1] + 3))
    np.testing.assert_allclose(loss(swing(), partial)["misfit"], 0, atol=1e-4)
    with pytest.raises(ValueError, match="observed="):
        ode.trajectory_misfit()(swing(), partial)


def test_a_prior_counts_once_for_any_number_of_rows():
    data = measured(starts=((30.0, 4.0), (20.0, 9.0)))
    model = hares(alpha=Unknown(0.6), delta=Unknown(0.03))
    believed = lambda m: jnp.stack([ode.parameters(m)["delta"] * 100])  # noqa: E731
    loss = ode.with_prior(ode.trajectory_misfit(), data.ys.size, believed, alpha=(0.5, 0.05))
    terms = loss(model, data)
    expected = (2.0**2 + 3.0**2) / data.ys.size
    assert float(jnp.mean(terms["prior"] ** 2)) == pytest.approx(expected)
    # As Gauss-Newton sees it, one row at a time.
    flat, restore = jax.flatten_util.ravel_pytree(eqx.filter(model, eqx.is_inexact_array))
    static = eqx.filter(model, eqx.is_inexact_array, inverse=True)
    residuals = optim.Residuals(lambda p, b: loss(eqx.combine(restore(p), static), b), flat, data, 2e9)
    whole = sum(float(jnp.mean(r**2)) for r in terms.values())
    assert float(residuals.value(flat)) == pytest.approx(whole)
    with pytest.raises(ValueError, match="no unknown 'beta'"):
        ode.with_prior(ode.trajectory_misfit(), 1, beta=(0.0, 1.0))(model, data)


# Smoothing and gradient matching.


def test_smoothing_estimates_noise_and_slopes():
    data, clean = swinging(noise=0.1)
    rates = np.stack([clean[:, 1], -4.01 * clean[:, 0] - 0.2 * clean[:, 1]], 1)
    holes = data._replace(ys=np.where(np.arange(41)[:, None] % 7 == 3, np.nan, data.ys))
    smooth = ode.smoothed(holes)
    np.testing.assert_allclose(smooth.noise[0], [0.1, 0.1], rtol=0.35)
    error = smooth.ys[0] - clean
    assert np.sqrt(np.mean(error**2)) < 0.06
    # Errors are as large as they are said to be.
    for found, deviation, truth in (
        (smooth.ys, smooth.deviations, clean),
        (smooth.slopes, smooth.slope_deviations, rates),
    ):
        z = (found[0] - truth) / deviation[0]
        assert 0.4 < np.sqrt(np.mean(z**2)) < 1.7


def test_gradient_matching_finds_parameters_without_a_solution():
    data, _ = swinging(noise=0.02)
    points = ode.slopes(data, ode.smoothed(data))
    model = swing(k=Unknown(1.0), damping=Unknown(1.0))
    model, _ = sciml.fit(model, ode.slope_misfit, constant(points), optim.gauss_newton(), steps=8, report=None)
    found = ode.parameters(model)
    assert float(found["k"]) == pytest.approx(4.01, rel=0.03) and float(found["damping"]) == pytest.approx(
        0.2, abs=0.05
    )


# Fits.


def test_gauss_newton_finds_parameters_and_starts():
    data = measured()
    guess = {"alpha": 0.8, "beta": 0.04, "gamma": 1.0, "delta": 0.02}
    unknown = hares(**{n: Unknown(v, positive=True) for n, v in guess.items()})
    model, numbered = ode.free_starts(unknown, data._replace(y0=data.y0 * [[1.1, 0.8]]), positive=True)
    loss = ode.trajectory_misfit(transform=ode.log)
    model, history = sciml.fit(
        model, loss, constant(numbered), optim.gauss_newton(accelerate=False), steps=25, report=None
    )
    assert history["loss"].values[-1] < 1e-9
    for name, value in ode.parameters(model).items():
        assert float(value) == pytest.approx(TRUTH[name], rel=1e-3)
    np.testing.assert_allclose(model.starts, [[30, 4]], rtol=1e-3)


def test_multiple_shooting_joins_its_segments_at_states_of_its_own():
    """From a frequency and damping that are far off."""
    data, clean = swinging(noise=0.05)
    guess = swing(k=Unknown(12.0, positive=True), damping=Unknown(0.5, positive=True))
    newton = optim.gauss_newton(accelerate=False)
    smooth = ode.smoothed(data)
    model, segments = ode.shooting(guess, data, 8, smooth.ys)
    assert segments.joined.tolist() == [1, 1, 1, 1, 0] and len(model.starts) == 5
    # The value where two segments meet counts once.
    assert np.isfinite(segments.data.ys).sum() == data.ys.size
    stream = ode.tightening(segments, 20)
    model, _ = sciml.fit(model, ode.shooting_misfit(), stream, newton, steps=30, report=None)
    assert float(ode.parameters(model)["k"]) == pytest.approx(4.01, rel=0.03)
    assert float(jnp.abs(ode.gaps(model, segments)).max()) < 2e-3
    # The states at the nodes are not the noisy values there.
    nodes, values = clean[:40:8], data.ys[0, :40:8]
    assert np.linalg.norm(model.starts - nodes) < 0.7 * np.linalg.norm(values - nodes)


def test_first_states_are_those_of_whole_trajectories():
    """Of different lengths, the last of which is one segment."""
    whole = measured(starts=((30.0, 4.0), (20.0, 6.0), (40.0, 9.0)))
    data = ode.trajectories([(whole.ts[k, :n], whole.ys[k, :n]) for k, n in enumerate((21, 12, 3))])
    model, segments = ode.shooting(hares(), data, 8, data.ys)
    assert len(model.starts) == 6
    np.testing.assert_allclose(ode.first_states(model, segments), data.ys[:, 0])


def test_the_noise_follows_the_model():
    data = measured(noise=0.2)
    loss = ode.trajectory_misfit(transform=ode.log)
    stream = ode.estimated_noise(data, loss)
    batch = stream.init(KEY, hares())
    residual = np.log(data.ys[0]) - np.log(np.asarray(hares()(data.y0[0], data.ts[0])))
    np.testing.assert_allclose(batch.noise[0], np.sqrt(np.mean(residual**2, axis=0)), rtol=1e-5)


@pytest.mark.parametrize("sensitive", [True, False])
def test_an_ensemble_is_trained_as_its_members_alone(sensitive):
    """All members in one program, by either way of differentiating; and their spread."""
    data = ode.windows(swinging(noise=0.02)[0], 9)
    steps = ode.Steps(forward=sensitive)
    model = nn.ensemble(lambda key: ode.neural_ode(2, 4, 1, steps=steps, key=key), 3, key=KEY)
    loss, optimiser = ode.trajectory_misfit(), optim.gauss_newton(accelerate=False) if sensitive else optax.adam(1e-2)
    together = optim.by_member(optimiser) if sensitive else optimiser
    trained, history = sciml.fit(model, sciml.by_member(loss), constant(data), together, steps=4, every=1, report=None)
    alone, _ = sciml.fit(model.member(1), loss, constant(data), optimiser, steps=4, report=None)
    assert history["loss"].values[-1] < history["loss"].values[0]
    each = np.asarray(trained.each(lambda member: ode.predicted(member, data)))
    np.testing.assert_allclose(each[1], ode.predicted(alone, data), rtol=1e-5, atol=1e-7)
    assert each.shape == (3, *data.ys.shape) and (each.std(axis=0)[:, 1:] > 0).all()


# Uncertainty, on a model that is linear in its parameters: x' = a + b t.


def line(x, t, a, b):
    return a + b * t + 0 * x


TIMES = np.linspace(0, 2, 30)


def fitted_line(noise=0.3):
    y = TIMES - 0.5 * TIMES**2 + noise * np.random.default_rng(2).standard_normal(30)
    data = ode.trajectories([(TIMES, y)], starts=np.zeros((1, 1)))
    model = ode.mechanism(line, ("x",), a=Unknown(1.0), b=Unknown(-2.0))
    loss = ode.trajectory_misfit()
    model, _ = sciml.fit(model, loss, constant(data), optim.gauss_newton(accelerate=False), steps=12, report=None)
    return model, loss, data, y


def test_standard_errors_bands_and_profiles_of_a_linear_model():
    model, loss, data, y = fitted_line()
    design = np.stack([TIMES, TIMES**2 / 2], 1)
    best, squares, *_ = np.linalg.lstsq(design, y, rcond=None)
    covariance = np.linalg.inv(design.T @ design) * squares[0] / 28
    at = ode.linearised(model, loss, data)
    errors = ode.standard_errors(at)
    np.testing.assert_allclose([ode.parameters(model)[n] for n in "ab"], best, rtol=1e-4)
    np.testing.assert_allclose([errors["a"], errors["b"]], np.sqrt(np.diag(covariance)), rtol=1e-4)
    ys, deviations = ode.bands(at, np.zeros(1), TIMES)
    np.testing.assert_allclose(ys[:, 0], design @ best, atol=1e-4)
    np.testing.assert_allclose(
        deviations[1:, 0], np.sqrt(np.einsum("ni,ij,nj->n", design, covariance, design))[1:], rtol=1e-4
    )
    values = best[0] + errors["a"] * np.linspace(-3, 3, 13)
    profile = ode.profile(model, loss, data, "a", values)
    # Of a linear model the profile is a parabola.
    np.testing.assert_allclose(profile.rises, np.linspace(-3, 3, 13) ** 2, atol=2e-2)
    np.testing.assert_allclose(
        profile.interval, best[0] + errors["a"] * np.sqrt(CRITICAL) * np.array([-1, 1]), rtol=1e-2
    )
    given = ode.standard_errors(ode.linearised(model, loss, data, noise=0.6))
    assert given["a"] == pytest.approx(errors["a"] * 0.6 / np.sqrt(squares[0] / 28))


def test_the_covariance_of_a_network_is_that_of_its_jacobian():
    """Of x' = tanh(w t + b), a model with a part that is no array."""
    network = eqx.nn.Sequential([eqx.nn.Linear(1, 1, key=KEY), eqx.nn.Lambda(jnp.tanh)])
    model = ode.mechanism(lambda t, f: f(t[None])[0], ("x",), f=network)
    data = ode.trajectories([(TIMES, np.sin(TIMES))], starts=np.zeros((1, 1)))
    at = ode.linearised(model, ode.trajectory_misfit(), data, noise=0.3)
    weights, fixed = eqx.partition(model, eqx.is_inexact_array)
    flat, restore = jax.flatten_util.ravel_pytree(weights)
    jacobian = jax.jit(jax.jacfwd(lambda p: eqx.combine(restore(p), fixed)(np.zeros(1), TIMES)[:, 0]))(flat)
    covariance = 0.3**2 * np.linalg.inv(jacobian.T @ jacobian)
    _, deviations = ode.bands(at, np.zeros(1), TIMES)
    np.testing.assert_allclose(deviations[:, 0] ** 2, np.diag(jacobian @ covariance @ jacobian.T), atol=1e-7)
    assert deviations[-1, 0] > 0.05


def test_networks_whose_solutions_are_differentiated_backward():
    """More than 32 numbers and more values than numbers: steps and deviations are those of forward sensitivities."""
    data, _ = swinging(0.02)
    network = nn.mlp(1, 1, 12, 1, key=KEY)
    newton, loss, found = optim.gauss_newton(accelerate=False), ode.trajectory_misfit(scale=0.02), []
    for forward in (None, True):
        steps = ode.Steps(diffrax.Heun(), dt=0.1, forward=forward)
        model = ode.mechanism(
            lambda q, v, k, friction: (v, -k * q - friction(v[None])[0]),
            ("q", "v"),
            steps,
            k=Unknown(4.0, positive=True),
            friction=network,
        )
        model, _ = sciml.fit(model, loss, constant(data), newton, steps=2, report=None)
        at = ode.linearised(model, ode.with_prior(loss, data.ys.size, every_number, k=(4.0, 1.0)), data)
        friction = at.deviations(lambda m: m.field.parameters["friction"](jnp.ones(1)))
        found.append([ode.parameters(model)["k"], ode.standard_errors(at)["k"], friction[0]])
    np.testing.assert_allclose(*found, rtol=1e-6)


def every_number(model):
    return jax.flatten_util.ravel_pytree(eqx.filter(model.field.parameters["friction"], eqx.is_inexact_array))[0]


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda m, lo, d: ode.profile(m, lo, d, "c", [0.0, 1.0]), "no unknown 'c'"),
        (lambda m, lo, d: ode.profile(m, lo, d, "a", [5.0, 6.0]), "both sides"),
        (
            lambda m, lo, d: ode.linearised(m, lo, ode.take(d, np.array([0]))._replace(ts=d.ts[:, :2], ys=d.ys[:, :2])),
            "tell the noise",
        ),
        (lambda m, lo, d: ode.linearised(nn.mlp(50, 50, 50, 2, key=KEY), lo, d), "at most"),
    ],
)
def test_bad_inputs_of_uncertainty(change, message):
    data = ode.trajectories([(TIMES, TIMES)])
    with pytest.raises(ValueError, match=message):
        change(ode.mechanism(line, ("x",), a=Unknown(1.0), b=Unknown(-2.0)), ode.trajectory_misfit(), data)


# Reading equations off.


def test_terms_of_exact_slopes_are_found():
    random = np.random.default_rng(0)
    y = random.uniform(-2, 2, (60, 2))
    rates = np.stack([3 * y[:, 1] - 0.5 * y[:, 0] * y[:, 1], 2 - y[:, 0] ** 2 + np.sin(y[:, 1])], 1)
    noisy = rates + 1e-3 * random.standard_normal(rates.shape)
    points = ode.Slopes(np.zeros(60), y, None, np.full((60, 2), 1e-3), noisy)
    found = ode.sparse_terms(points, ("x", "y"), degree=3, terms={"sin(y)": lambda y: jnp.sin(y[1])}, threshold=0.02)
    assert found.support() == {"x": {"y", "x y"}, "y": {"", "x^2", "sin(y)"}}
    np.testing.assert_allclose(jax.vmap(lambda y: found(0.0, y, None))(jnp.asarray(y)), rates, atol=3e-3)
    assert found.equations(2) == ["x' = 3 y - 0.5 x y", "y' = 2 - 1 x^2 + 1 sin(y)"]
    for options, message in (({"threshold": 1.0}, "threshold"), ({"degree": 12}, "60 points")):
        with pytest.raises(ValueError, match=message):
            ode.sparse_terms(points, ("x", "y"), **options)
    with pytest.raises(ValueError, match="2 names"):
        ode.sparse_terms(points, ("x",))
