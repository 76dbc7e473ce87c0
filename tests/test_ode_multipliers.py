"""Multiple shooting with Lagrange multipliers."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sciml
from sciml import Unknown, ode, optim

KEY = jax.random.key(0)
TIMES = np.linspace(0, 3, 31)


@pytest.fixture(autouse=True)
def double():
    with sciml.double_precision():
        yield


def spirals(count=8):
    """x = exp(-0.1 t) (cos(2 t + phase), sin(2 t + phase)) and its like from other starts."""
    phases = np.linspace(0, 2 * np.pi, count, endpoint=False)[:, None]
    angles = 2 * TIMES + phases
    ys = np.exp(-0.1 * TIMES)[:, None] * np.stack([np.cos(angles), np.sin(angles)], -1)
    return ode.trajectories([(TIMES, y) for y in ys])


def segments_of(data, length=8):
    guess = {"k": Unknown(6.0, positive=True), "damping": Unknown(0.5, positive=True)}
    turn = ode.mechanism(lambda x, y, k, damping: (-damping * x - k * y, k * x - damping * y), ("x", "y"), **guess)
    return ode.shooting(turn, data, length, ode.smoothed(data).ys)


def noisy():
    data = spirals(1)
    return data._replace(ys=data.ys + 0.05 * np.random.default_rng(0).standard_normal(data.ys.shape))


def test_multipliers_close_the_gaps_at_a_moderate_weight():
    data = noisy()
    model, segments = segments_of(data)
    newton = optim.gauss_newton(accelerate=False)
    found = {}
    for name, every in (("penalty", 1000), ("multipliers", 3)):
        stream = ode.augmented_lagrangian(segments, every, weight=1.0)
        fitted, _ = sciml.fit(model, ode.shooting_misfit(), stream, newton, steps=60, report=None)
        found[name] = fitted, float(jnp.abs(ode.gaps(fitted, segments)).max())
    assert found["penalty"][1] > 1e-2 and found["multipliers"][1] < 1e-5
    # Joined, it is the least-squares solution of the whole trajectory.
    fitted = found["multipliers"][0]
    whole, numbered = ode.free_starts(model.model, data)
    whole, _ = sciml.fit(
        eqx.tree_at(lambda m: m.model, whole, fitted.model),
        ode.trajectory_misfit(),
        lambda key: numbered,
        newton,
        steps=10,
        report=None,
    )
    single = ode.parameters(whole)
    for name, truth in (("k", 2.0), ("damping", 0.1)):
        value = float(ode.parameters(fitted)[name])
        assert value == pytest.approx(float(single[name]), rel=1e-3)
        assert value == pytest.approx(truth, abs=0.05)


def test_multipliers_change_by_the_gap():
    data = noisy()
    model, segments = segments_of(data)
    stream = ode.augmented_lagrangian(segments, 5, weight=3.0)
    batch = stream.init(KEY, model)
    np.testing.assert_array_equal(batch.joined, 3 * segments.joined)
    for step, times in ((0, 0), (4, 0), (5, 1), (6, 1), (10, 2)):
        batch, fresh = stream.next(KEY, jnp.asarray(step), model, batch)
        assert bool(fresh) == (step in (5, 10))
        np.testing.assert_allclose(batch.shift, times * ode.gaps(model, segments), atol=1e-12)
    assert float(jnp.abs(batch.shift[:-1]).min()) > 0 and (batch.shift[-1] == 0).all()
