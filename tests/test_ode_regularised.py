"""The penalty of steps: against errors in closed form and the steps that are taken."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sciml
from sciml import Unknown, nn, ode, optim
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
    @jax.value_and_grad
    def total(k):
        return jnp.sum(loss(model, data._replace(args=k[None]))["steps"] ** 2)

    slope = float(total(jnp.array(4.0))[1])
    moved = [float(total(jnp.array(4.0 + h))[0]) for h in (1e-5, -1e-5)]
    assert slope == pytest.approx((moved[0] - moved[1]) / 2e-5, rel=1e-3)
    assert slope > 0


class Either(eqx.Module):
    """The right-hand side k y^2, or for k = 0 a network."""

    network: eqx.nn.MLP

    def __call__(self, t, y, k):
        return jnp.where(k > 0, k * y**2, self.network(y))


def test_padding_and_failures_do_not_count_and_reach_no_gradient():
    """In one batch: a network at two lengths, a solution that explodes at t = 1, and one that has no start."""
    network = nn.mlp(1, 1, 4, 1, key=KEY)
    series = [([0, 0.5, 2.0], 0.3), ([0, 0.5, 2.0, 3.0, 4.0], 0.3), ([0, 0.5, 2.0, 3.0], 1.0), ([0, 0.5], np.nan)]
    starts = np.array([[y] for _, y in series])
    data = ode.trajectories([(t, np.zeros(len(t))) for t, _ in series], starts=starts)
    data = data._replace(args=np.array([0.0, 0.0, 1.0, 1.0]))

    @eqx.filter_jit
    @eqx.filter_value_and_grad
    def total(parts, which):
        """Of the intervals that are chosen."""
        network, k = parts
        found = ode.fewer_steps(nothing, 1.0)(ODE(Either(network)), data._replace(args=k))["steps"]
        return jnp.sum(which * found**2)

    def of(k, *intervals):
        which = np.zeros((4, 4))
        which[k, list(intervals)] = 1
        return total((network, data.args), which)

    (short, slopes), (long, same) = of(0, 0, 1, 2, 3), of(1, 0, 1)
    assert float(short) == pytest.approx(float(long), rel=1e-8) and short >= 2
    for a, b in zip(*(jax.tree.leaves(g[0]) for g in (slopes, same))):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-12)
    before, after = of(2, 0)[0], of(2, 2, 3)[0]
    assert before >= 1 and after == 0 and np.isfinite(of(2, 1)[0])
    assert of(3, 0, 1, 2, 3)[0] == 0
    gradient = total((network, data.args), np.ones((4, 4)))[1]
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))


def test_a_fit_with_it_takes_fewer_steps_at_the_same_misfit():
    """x' = (rate + swing cos(8 pi t)) x maps start to end as it does without the swing, and measured ends say nothing
    of it: a fit to them alone keeps it.
    """

    def swinging(t, x, rate, swing):
        return (rate + swing * jnp.cos(8 * jnp.pi * t)) * x

    def model(rate):
        numbers = {"rate": Unknown(rate), "swing": Unknown(5.0)}
        return ode.mechanism(swinging, ("x",), Steps(diffrax.Heun(), 1e-4, 1e-5), **numbers)

    def missed(model):
        return np.abs(np.asarray(ode.predicted(model, data))[:, -1, 0] - starts / 2).max()

    starts, ts, newton = np.linspace(0.5, 1.5, 5), np.linspace(0, 1, 9), optim.gauss_newton(accelerate=False)
    ends = [np.append(np.full(8, np.nan), x / 2) for x in starts]
    data = ode.trajectories([(ts, x) for x in ends], starts=starts[:, None])
    loss = ode.fewer_steps(ode.trajectory_misfit(scale=0.01), 0.1)
    found, _ = sciml.fit(model(-0.2), loss, lambda key: data, newton, steps=20, report=None)
    values = ode.parameters(found)
    assert float(values["rate"]) == pytest.approx(-np.log(2), abs=1e-3) and abs(float(values["swing"])) < 1e-2
    alone = model(-np.log(2))
    assert missed(alone) < 1e-3 and missed(found) < 1e-3
    assert ode.step_counts(found, data).sum() < ode.step_counts(alone, data).sum() / 10


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
