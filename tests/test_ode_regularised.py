"""The penalty of steps: against errors in closed form and the steps that are taken."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sciml
from sciml import Unknown, nn, ode
from sciml.ode import ODE, Steps

KEY = jax.random.key(0)


@pytest.fixture(autouse=True)
def double():
    with sciml.double_precision():
        yield


def nothing(model, batch):
    return {}


def decaying(rate, **steps):
    return ode.mechanism(lambda y, k: -k * y, ("y",), Steps(**steps), k=Unknown(rate, positive=True))


def at(ts, starts=((1.0,),)):
    ts = np.asarray(ts, float)
    return ode.trajectories([(ts, np.zeros((len(ts), len(start)))) for start in starts], starts=np.array(starts))


def needed(model, data, weight=1.0):
    """The estimated steps of each interval."""
    return np.asarray(eqx.filter_jit(ode.fewer_steps(nothing, weight))(model, data)["steps"]) ** 2


def test_the_error_is_that_of_heun_in_closed_form():
    """It is (k h)^2 y / 2 for y' = -k y, of order 2."""
    model, data = decaying(3.0, solver=diffrax.Heun(), rtol=1e-3, atol=1e-4), at([0, 0.1, 0.3])
    y = np.asarray(ode.predicted(model, data))[0, :2, 0]
    errors = (3.0 * np.array([0.1, 0.2])) ** 2 / 2 * y / (1e-4 + 1e-3 * y)
    np.testing.assert_allclose(needed(model, data, 0.7)[0], 0.7 * (1 + errors**2) ** (1 / 4), rtol=1e-10)


@pytest.mark.parametrize("solver", [diffrax.Tsit5(), diffrax.Heun()])
def test_the_estimate_is_near_the_steps_that_are_taken(solver):
    """For intervals of a few steps, within a factor of two."""
    rotation = ODE(lambda t, y, args: 6.0 * jnp.stack([y[1], -y[0]]), Steps(solver, rtol=1e-6, atol=1e-6))
    data = at(np.linspace(0, 8, 17 if solver.order(None) > 2 else 801), [[1.0, 0.0]])
    taken = int(ode.step_counts(rotation, data)[0])
    assert taken / 2 < needed(rotation, data).sum() < 2 * taken


@pytest.mark.parametrize("forward", [True, False])
def test_its_derivative_is_that_of_finite_differences(forward):
    loss, data = ode.fewer_steps(nothing, 1.0), at([0, 0.5, 1.5])
    model = ODE(lambda t, y, k: -k * y, Steps(forward=forward))

    @jax.jit
    def total(k):
        return jnp.sum(loss(model, data._replace(args=k[None]))["steps"] ** 2)

    slope = float(jax.jit(jax.grad(total))(jnp.array(4.0)))
    moved = [float(total(jnp.array(4.0 + h))) for h in (1e-5, -1e-5)]
    assert slope == pytest.approx((moved[0] - moved[1]) / 2e-5, rel=1e-3)
    assert slope > 0


def test_padding_and_failures_do_not_count_and_reach_no_gradient():
    model = ODE(ode.Network(nn.mlp(1, 1, 4, 1, key=KEY)))
    longer = ode.trajectories([([0, 1.0, 2.0], np.zeros(3))], length=5)
    np.testing.assert_allclose(needed(model, longer)[0, :2], needed(model, at([0, 1, 2], [[0.0]]))[0], rtol=1e-8)
    assert not needed(model, longer)[0, 2:].any()
    explodes, failing = ODE(lambda t, y, k: k * y**2), at([0, 0.5, 2.0, 3.0])._replace(args=np.ones(1))
    found = needed(explodes, failing)[0]
    assert found[0] >= 1 and found[2] == 0 and np.isfinite(found).all()
    loss = ode.fewer_steps(nothing, 1.0)
    total = lambda k: jnp.sum(loss(explodes, failing._replace(args=k))["steps"])  # noqa: E731
    assert np.isfinite(jax.jit(jax.grad(total))(jnp.ones(1))).all()
    assert not needed(explodes, failing._replace(y0=np.array([[np.nan]]))).any()


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: ode.fewer_steps(nothing, 0.0), ValueError, "above 0"),
        (lambda: ode.fewer_steps(nothing, float("nan")), ValueError, "above 0"),
        (lambda: needed(decaying(1.0, dt=0.1), at([0, 1])), ValueError, "leave out dt"),
        (lambda: needed(decaying(1.0, solver=diffrax.Euler()), at([0, 1])), ValueError, "estimates its error"),
        (lambda: needed(decaying(1.0, solver=diffrax.Kvaerno5()), at([0, 1])), ValueError, "explicit"),
        (lambda: needed(ode.interpolated, at([0, 1])), TypeError, "expected a sciml.ode.ODE"),
        (lambda: ode.step_counts(ODE(jnp.sin, ode.Between()), at([0, 1])), TypeError, "with Between"),
    ],
)
def test_bad_inputs(make, error, message):
    with pytest.raises(error, match=message):
        make()
