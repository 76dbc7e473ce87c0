"""Stochastic differential equations: moments, strong convergence, and likelihoods against dense references."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.linalg import expm, solve_continuous_lyapunov
from scipy.stats import multivariate_normal

import sciml
from sciml import Unknown, ode

KEY = jax.random.key(0)
THETA, LEVEL, SIGMA = 1.5, 0.7, 0.4


@pytest.fixture(autouse=True)
def double():
    with sciml.double_precision():
        yield


def restoring(x, theta, level):
    return theta * (level - x)


def ornstein_uhlenbeck(theta=THETA, sigma=SIGMA, **options):
    drift = ode.mechanism(restoring, ("x",), theta=theta, level=LEVEL).field
    return ode.SDE(drift, ode.mechanism(lambda x, sigma: sigma, ("x",), sigma=sigma).field, **options)


def proportional(share, drift=0.0, shape=(), **options):
    """dy = drift y dt + share y dW."""
    spread = lambda t, y, args: (share * y).reshape((*y.shape, *shape))  # noqa: E731
    return ode.SDE(lambda t, y, args: drift * y, spread, **options)


def paths(model, y0, ts, count=1, key=KEY, args=None):
    solve = lambda key: model(jnp.asarray(y0), jnp.asarray(ts), args, key=key)  # noqa: E731
    return np.asarray(jax.jit(jax.vmap(solve))(jax.random.split(key, count)))


def brownian(ts, count, size=1, key=KEY):
    """The Brownian motions behind `paths`."""
    plain = ode.SDE(lambda t, y, args: 0 * y, lambda t, y, args: jnp.ones(size))
    return paths(plain, np.zeros(size), ts, count, key)


def simulated(count, times, seed=0, theta=THETA, sigma=SIGMA):
    """Trajectories of the Ornstein-Uhlenbeck process from its exact transitions."""
    random = np.random.default_rng(seed)
    x = LEVEL + sigma / np.sqrt(2 * theta) * random.standard_normal(count)
    xs = [x]
    for dt in np.diff(times):
        decay = np.exp(-theta * dt)
        spread = sigma * np.sqrt((1 - decay**2) / (2 * theta))
        xs.append(LEVEL + decay * (xs[-1] - LEVEL) + spread * random.standard_normal(count))
    return ode.trajectories([(times, x) for x in np.stack(xs, 1)])


# Paths.


def test_moments_of_the_ornstein_uhlenbeck_process():
    count, ts = 4000, np.array([0.0, 0.4, 1.0])
    xs = paths(ornstein_uhlenbeck(substeps=40), [2.0], ts, count)[..., 0]
    decay = np.exp(-THETA * ts)
    mean = LEVEL + (2.0 - LEVEL) * decay
    variance = SIGMA**2 / (2 * THETA) * (1 - decay**2)
    np.testing.assert_allclose(xs[:, 0], 2.0)
    assert (np.abs(xs.mean(axis=0) - mean)[1:] < 4 * np.sqrt(variance / count)[1:] + 0.01).all()
    np.testing.assert_allclose(xs.var(axis=0)[1:], variance[1:], rtol=4 * np.sqrt(2 / count) + 0.02)
    correlation = np.exp(-THETA * 0.6) * np.sqrt(variance[1] / variance[2])
    assert np.corrcoef(xs[:, 1], xs[:, 2])[0, 1] == pytest.approx(correlation, abs=0.05)


@pytest.mark.parametrize(
    "solver, order, ito", [(diffrax.Euler, 0.5, 1), (diffrax.ItoMilstein, 1, 1), (diffrax.EulerHeun, 1, 0)]
)
def test_strong_order_for_geometric_brownian_motion(solver, order, ito):
    ts, count, share, drift = np.array([0.0, 1.0]), 300, 0.8, 0.3
    moved = brownian(ts, count)[:, -1]
    exact = np.exp((drift - ito * share**2 / 2) + share * moved)
    errors = []
    for substeps in (16, 128):
        model = proportional(share, drift, solver=solver(), substeps=substeps)
        errors.append(np.sqrt(np.mean((paths(model, [1.0], ts, count)[:, -1] - exact) ** 2)))
    assert np.log(errors[0] / errors[1]) / np.log(8) == pytest.approx(order, abs=0.15)
    assert errors[1] < 0.15


def test_additive_noise_is_summed_exactly():
    ts = np.array([0.0, 0.25, 1.0])
    model = ode.SDE(lambda t, y, args: jnp.array([1.0, 0.0]), lambda t, y, args: jnp.array([2.0, args]), substeps=8)
    ys = paths(model, [3.0, 1.0], ts, 5, args=0.5)
    moved = brownian(ts, 5, size=2)
    np.testing.assert_allclose(ys, [3.0, 1.0] + np.stack([ts, 0 * ts], 1) + moved * [2.0, 0.5], atol=1e-10)
    assert np.abs(np.corrcoef(moved[:, 1].T)[0, 1]) < 0.99


def test_scalar_noise_is_shared():
    ys = paths(proportional(0.5, shape=(1,), substeps=8), [1.0, 3.0], [0.0, 1.0], 4)
    np.testing.assert_allclose(ys[..., 1], 3 * ys[..., 0])
    both = paths(proportional(0.5, substeps=8), [1.0, 3.0], [0.0, 1.0], 4)
    assert np.abs(both[:, 1, 1] / both[:, 1, 0] - 3).min() > 1e-3


def test_padding_is_invisible_and_keys_are_not():
    model = ornstein_uhlenbeck(substeps=3, solver=diffrax.ItoMilstein())
    ts = np.array([0.0, 0.1, 0.7])
    ys = paths(model, [1.0], ts)
    padded = paths(model, [1.0], [*ts, 0.7, 0.7])
    np.testing.assert_array_equal(ys, padded[:, :3])
    np.testing.assert_array_equal(padded[:, 2:], np.repeat(ys[:, 2:], 3, axis=1))
    assert np.abs(paths(model, [1.0], ts, key=jax.random.key(1)) - ys)[:, 1:].min() > 1e-6
    np.testing.assert_array_equal(paths(model, [1.0], [2.0, 2.0]), np.ones((1, 2, 1)))


def exact_likelihood(data):
    """Minus the mean logarithm of the exact transition densities."""
    x, dt = data.ys[..., 0], np.diff(data.ts, axis=1)
    decay = np.exp(-THETA * dt)
    variance = SIGMA**2 * (1 - decay**2) / (2 * THETA)
    missed = x[:, 1:] - LEVEL - decay * (x[:, :-1] - LEVEL)
    return np.nanmean(0.5 * missed**2 / variance + 0.5 * np.log(2 * np.pi * variance))


TIMES = np.array([0.0, 0.2, 0.3, 0.9, 1.4])


def test_the_likelihood_of_linear_drift_is_exact():
    data = simulated(3, TIMES)
    loss = ode.transition_likelihood(substeps=8)
    assert float(loss(ornstein_uhlenbeck(), data)) == pytest.approx(exact_likelihood(data), abs=1e-5)
    # Padding does not count.
    longer = ode.trajectories([(t, y) for t, y in zip(data.ts, data.ys)], length=9)
    assert float(loss(ornstein_uhlenbeck(), longer)) == pytest.approx(exact_likelihood(data), abs=1e-5)


ROTATION = np.array([[-0.5, 1.0], [-1.0, -0.8]])
SPREAD = np.array([[0.5, 0.0], [0.3, 0.4]])


def test_the_likelihood_with_noise_and_missing_components_is_that_of_all_values_together():
    model = ode.SDE(lambda t, y, args: ROTATION @ y, lambda t, y, args: jnp.asarray(SPREAD))
    ys = np.array([[1.0, 0.0], [0.9, -0.3], [np.nan, -0.6], [0.1, np.nan], [np.nan, np.nan], [0.2, -0.4]])
    ts, noise = np.array([0.0, 0.2, 0.5, 0.9, 1.0, 1.3]), np.array([0.1, 0.2])
    data = ode.trajectories([(ts, ys)])
    # The covariance between two times is that of the earlier one, carried on.
    still = solve_continuous_lyapunov(ROTATION, -SPREAD @ SPREAD.T)
    moves = [expm(ROTATION * t) for t in ts]
    own = [still + m @ (np.diag(noise**2) - still) @ m.T for m in moves]
    blocks = [
        [expm(ROTATION * (ts[i] - ts[j])) @ own[j] if i >= j else own[i] @ expm(ROTATION * (ts[j] - ts[i])).T
         for j in range(1, 6)]
        for i in range(1, 6)
    ]  # fmt: skip
    covariance = np.block(blocks) + np.diag(np.tile(noise**2, 5))
    mean, known = np.concatenate([m @ ys[0] for m in moves[1:]]), np.isfinite(ys[1:].ravel())
    density = multivariate_normal(mean[known], covariance[np.ix_(known, known)])
    truth = -density.logpdf(ys[1:].ravel()[known]) / known.sum()
    found = ode.transition_likelihood(noise=noise, substeps=8)(model, data)
    assert float(found) == pytest.approx(truth, abs=1e-5)


def test_the_likelihood_is_that_of_the_process_in_either_form():
    data = simulated(2, TIMES)
    loss = ode.transition_likelihood()
    ito = proportional(0.5, drift=0.3)
    stratonovich = proportional(0.5, drift=0.3 - 0.5**2 / 2, solver=diffrax.EulerHeun())
    assert float(loss(ito, data)) == pytest.approx(float(loss(stratonovich, data)), rel=1e-12)
    assert abs(float(loss(proportional(0.5, drift=0.3, solver=diffrax.EulerHeun()), data) - loss(ito, data))) > 1e-3


def test_parameters_are_found_within_their_standard_errors():
    data = simulated(40, np.linspace(0, 6, 31), seed=1)
    model = ornstein_uhlenbeck(Unknown(0.5, positive=True), Unknown(1.0, positive=True))
    loss = ode.transition_likelihood(substeps=2)
    model, _ = sciml.fit(model, loss, lambda key: data, optax.lbfgs(), steps=30, report=None)
    found = {n: float(v) for n, v in ode.parameters(model).items()}
    # The inverse of the second derivatives of minus the logarithm of the likelihood is the covariance.
    hessian = jax.jit(jax.hessian(lambda p: of_values(p, data, loss)))(jnp.array([found["theta"], found["sigma"]]))
    errors = np.sqrt(np.diag(np.linalg.inv(hessian * 40 * 30)))
    assert errors[0] < 0.2 and errors[1] < 0.02
    assert abs(found["theta"] - THETA) < 3 * errors[0]
    assert abs(found["sigma"] - SIGMA) < 3 * errors[1]


def of_values(p, data, loss):
    model = ode.SDE(lambda t, y, args: p[0] * (LEVEL - y), lambda t, y, args: p[1] * jnp.ones(1))
    return loss(model, data)
