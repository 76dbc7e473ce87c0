"""Continuous normalising flows, against dense Jacobians and known densities, and flow matching."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.linalg import expm
from scipy.stats import multivariate_normal

import sciml
from sciml import ode

KEY = jax.random.key(0)
TIGHT = ode.Steps(rtol=1e-9, atol=1e-9, forward=True)
ENDS = np.array([0.0, 1.0])


@pytest.fixture(autouse=True)
def double():
    with sciml.double_precision():
        yield


class Linear(eqx.Module):
    """The velocity A y + b + what the density depends on."""

    matrix: jax.Array
    shift: jax.Array

    def __call__(self, t, y, args):
        return self.matrix @ y + self.shift + (0 if args is None else args(t))


MATRIX = np.array([[0.3, -0.8], [0.5, -0.4]])
SHIFT = np.array([1.0, -0.5])


def linear(steps=TIGHT):
    return ode.Flow(ode.ODE(Linear(jnp.asarray(MATRIX), jnp.asarray(SHIFT)), steps), 2)


def gaussian(shift):
    """The density that the linear flow makes of the normal one."""
    whole = expm(np.block([[MATRIX, shift[:, None]], [np.zeros((1, 3))]]))
    return multivariate_normal(whole[:2, 2], whole[:2, :2] @ whole[:2, :2].T)


def trained(flow, loss, stream, steps, rate=5e-3):
    return sciml.fit(flow, loss, stream, optax.adam(optax.cosine_decay_schedule(rate, steps)), steps=steps, report=None)


@pytest.mark.parametrize("size", [1, 3])
def test_the_density_is_that_of_the_change_of_variables(size):
    flow = ode.neural_flow(size, 8, 1, steps=TIGHT, key=KEY)
    noise = np.linspace(-1, 0.7, size)
    move = jax.jit(lambda y0: flow(y0, ENDS)[-1])
    y = move(noise)
    _, stretch = np.linalg.slogdet(jax.jit(jax.jacfwd(move))(jnp.asarray(noise)))
    truth = multivariate_normal(np.zeros(size)).logpdf(noise) - stretch
    assert float(eqx.filter_jit(flow.log_density)(y)) == pytest.approx(truth, abs=1e-7)


def test_estimates_of_the_divergence_are_right_in_the_mean():
    flow = ode.neural_flow(3, 8, 1, steps=ode.Steps(rtol=1e-8, atol=1e-8), key=KEY)
    y = jnp.array([0.4, -1.0, 0.8])
    signs = jnp.array(list(itertools.product([-1.0, 1.0], repeat=3)))
    density = eqx.filter_jit(flow.log_density)
    exact = float(density(y))
    # All signs at once have the identity as their covariance.
    assert float(density(y, None, signs)) == pytest.approx(exact, abs=1e-6)
    single = np.array([float(density(y, None, s[None])) for s in signs])
    assert single.std() > 1e-3 and single.mean() == pytest.approx(exact, abs=1e-6)


def test_a_linear_flow_makes_a_gaussian():
    ys = np.array([[0.0, 0.0], [2.0, -1.0], [1.0, 3.0]])
    found = jax.jit(jax.vmap(linear().log_density))(ys)
    np.testing.assert_allclose(found, gaussian(SHIFT).logpdf(ys), atol=1e-7)
    args = np.array([[0.0, 0.0], [3.0, 1.0], [-2.0, 0.5]])
    found = jax.jit(jax.vmap(linear().log_density))(ys, args)
    np.testing.assert_allclose(found, [gaussian(SHIFT + a).logpdf(y) for y, a in zip(ys, args)], atol=1e-7)


def test_samples_have_the_moments_of_the_density():
    count = 4000
    ys = np.asarray(jax.jit(jax.vmap(linear(ode.Steps()).sample))(jax.random.split(KEY, count)))
    truth = gaussian(SHIFT)
    errors = np.sqrt(np.diag(truth.cov) / count)
    assert (np.abs(ys.mean(axis=0) - truth.mean) < 4 * errors).all()
    # The standard error of a variance is itself times sqrt(2 / n).
    np.testing.assert_allclose(np.cov(ys.T), truth.cov, atol=4 * np.sqrt(2 / count) * truth.cov.max())


def test_a_failed_solution_has_no_density_and_reaches_no_gradient():
    flow = ode.neural_flow(2, 8, 1, steps=ode.Steps(max_steps=2, rtol=1e-9, atol=1e-9), key=KEY)
    batch = ode.Samples(None, None, jnp.ones((3, 2)))
    value, gradient = eqx.filter_jit(eqx.filter_value_and_grad(ode.sample_likelihood(failed=7.0)))(flow, batch)
    assert value == 7 and all((np.asarray(g) == 0).all() for g in jax.tree.leaves(gradient))


def test_optimal_paths_go_from_noise_to_samples():
    ys = np.array([[1.0, 2.0], [-3.0, 0.5]])
    inputs = np.array([[1.0], [2.0]])
    batch = ode.optimal_paths(ys, 1000, inputs=inputs, sigma=0.1)(KEY)
    t = np.asarray(batch.ts)[:, None]
    target = ys[(np.asarray(batch.args)[:, 0] - 1).astype(int)]
    noise = batch.points - t * batch.velocities
    np.testing.assert_allclose(noise + batch.velocities, target + 0.1 * noise, atol=1e-12)
    assert abs(np.mean(noise)) < 0.1 and np.std(noise) == pytest.approx(1, abs=0.1)
    assert 0 <= t.min() < 0.01 and 0.99 < t.max() <= 1
    assert np.mean(np.asarray(batch.args) == 1) == pytest.approx(0.5, abs=0.1)
    other = ode.optimal_paths(ys, 1000)(jax.random.key(1))
    assert other.args is None and not np.allclose(other.ts, batch.ts)


def test_flow_matching_of_a_gaussian_has_the_known_velocity():
    # From N(0, 1) to N(m, s^2) the marginal velocity is m + (t s^2 - (1 - t)) (y - t m) / ((1 - t)^2 + t^2 s^2).
    mean, spread = 2.0, 0.5
    ys = mean + spread * np.random.default_rng(0).standard_normal((4000, 1))
    flow, _ = trained(ode.neural_flow(1, 32, 2, key=KEY), ode.flow_matching, ode.optimal_paths(ys, 512), 800)
    t, z = (a.ravel() for a in np.meshgrid(np.linspace(0.1, 0.9, 9), np.linspace(-1.5, 1.5, 7)))
    scale = (1 - t) ** 2 + t**2 * spread**2
    y = t * mean + np.sqrt(scale) * z
    truth = mean + (t * spread**2 - (1 - t)) * (y - t * mean) / scale
    found = jax.vmap(flow.velocity)(t, y[:, None])[:, 0]
    assert np.sqrt(np.mean((found - truth) ** 2)) < 0.15
