"""Controlled differential equations: paths through what was measured, integrals along them, and a fit."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sciml
from sciml import ode

KEY = jax.random.key(0)


@pytest.fixture(autouse=True)
def double():
    with sciml.double_precision():
        yield


def series_of(*pairs, length=None):
    return ode.trajectories(list(pairs), starts=np.zeros((len(pairs), 1)), length=length)


def one(batch):
    """The first of a batch."""
    return jax.tree.map(lambda a: jnp.asarray(a)[0], batch)


def turning(count, seed=0, longest=30, missing=0.3):
    """Noisy points of circles of any size and phase at irregular times, and the sense in which they turn: +1 or -1."""
    random = np.random.default_rng(seed)
    pairs, senses = [], []
    for i in range(count):
        ts = np.sort(random.uniform(0, 2, random.integers(15, longest + 1)))
        sense = 1.0 if i % 2 else -1.0
        phase, size = random.uniform(0, 2 * np.pi), random.uniform(0.5, 1.5)
        angle = phase + sense * np.pi * ts
        xy = size * np.stack([np.cos(angle), np.sin(angle)], 1) + 0.05 * random.standard_normal((len(ts), 2))
        xy[random.uniform(size=xy.shape) < missing] = np.nan
        pairs.append((ts, xy))
        senses.append([sense])
    return series_of(*pairs, length=longest), np.array(senses)


TIMES = np.array([0.0, 0.3, 1.0, 1.2, 2.0])
VALUES = np.stack([np.sin(TIMES), TIMES**2], 1)


def test_a_path_passes_through_what_was_measured():
    holes = VALUES.copy()
    holes[2, 0] = holes[0, 1] = np.nan
    path = one(ode.controlled(series_of((TIMES, holes)), counts=True).args)
    at = np.asarray(jax.vmap(path)(TIMES))
    np.testing.assert_allclose(at[:, 0], TIMES)
    known = np.isfinite(holes)
    np.testing.assert_allclose(at[:, 1:3][known], holes[known], atol=1e-12)
    assert at[0, 2] == pytest.approx(holes[1, 1])
    np.testing.assert_allclose(at[:, 3:], np.cumsum(known, axis=0), atol=1e-12)
    # Between the neighbours of a missing value.
    assert at[1, 1] < at[2, 1] < at[3, 1]
    inner = np.linspace(0.05, 1.9, 7)
    slopes = jax.vmap(path.derivative)(inner)
    numeric = (jax.vmap(path)(inner + 1e-6) - jax.vmap(path)(inner - 1e-6)) / 2e-6
    np.testing.assert_allclose(slopes, numeric, atol=1e-6)
    # Held beyond the last time.
    np.testing.assert_allclose(path(5.0), [5.0, *at[-1, 1:]])
    np.testing.assert_allclose(path.derivative(5.0), [1.0, 0, 0, 0, 0])


def test_columns_that_were_measured_once_are_constant_and_never_zero():
    once = np.array([3.0, np.nan, np.nan, np.nan, np.nan])
    values = np.stack([TIMES, np.full(5, np.nan), once, once[::-1]], 1)
    path = one(ode.controlled(series_of((TIMES, values))).args)
    np.testing.assert_array_equal(jax.vmap(path)(TIMES)[:, 2:], np.broadcast_to([0.0, 3.0, 3.0], (5, 3)))


def test_a_path_does_not_see_the_future():
    changed = VALUES.copy()
    changed[4] += 100.0
    before, after = (one(ode.controlled(series_of((TIMES, v))).args) for v in (VALUES, changed))
    early = np.linspace(0, TIMES[3], 20)
    np.testing.assert_array_equal(jax.vmap(before)(early), jax.vmap(after)(early))
    np.testing.assert_array_equal(jax.vmap(before.derivative)(early), jax.vmap(after.derivative)(early))


def area(z):
    """dz = (dx, dy, x dy)."""
    return jnp.array([[0.0, 1, 0], [0, 0, 1], [0, 0, z[0]]])


def test_integrals_along_a_path():
    ts = np.sort(np.concatenate([[0.0, 1.0], np.random.default_rng(0).uniform(0, 1, 60)]))
    circle = np.stack([np.cos(2 * np.pi * ts), np.sin(2 * np.pi * ts)], 1)
    data = ode.controlled(series_of((ts, circle)), np.zeros((1, 62, 3)))
    steps = ode.Steps(rtol=1e-9, atol=1e-9, exact=True)
    begin = lambda x: jnp.array([x[1], x[2], 0.0])  # noqa: E731
    model = ode.CDE(begin, ode.ODE(ode.Controlled(area), steps), lambda z: z)
    ys = ode.predicted(model, data)[0]
    np.testing.assert_allclose(ys[:, :2], circle, atol=1e-7)
    # The same integral by quadrature, and the area of the circle.
    path, fine = one(data.args), np.linspace(0, 1, 20001)
    values, slopes = jax.vmap(path)(fine), jax.vmap(path.derivative)(fine)
    assert float(ys[-1, 2]) == pytest.approx(float(np.trapezoid(values[:, 1] * slopes[:, 2], fine)), abs=1e-5)
    assert float(ys[-1, 2]) == pytest.approx(np.pi, rel=0.01)


def test_padding_is_invisible():
    model = ode.neural_cde(4, 2, hidden=4, width=8, key=KEY)
    loss = lambda model, data: jnp.sum(ode.trajectory_misfit()(model, data)["misfit"] ** 2)  # noqa: E731
    found = []
    for padded in (30, 47):
        series, _ = turning(3, longest=30)
        targets = np.ones((3, 30, 2))
        if padded > 30:
            more = padded - 30
            series = series._replace(
                ts=np.concatenate([series.ts, np.repeat(series.ts[:, -1:], more, 1)], 1),
                ys=np.concatenate([series.ys, np.full((3, more, 2), np.nan)], 1),
            )
            targets = np.concatenate([targets, np.full((3, more, 2), np.nan)], 1)
        data = ode.controlled(series, targets, counts=True)
        gradient = eqx.filter_jit(eqx.filter_grad(loss))(model, data)
        found.append((np.asarray(ode.predicted(model, data))[:, :30], jax.tree.leaves(gradient)))
    assert np.isfinite(found[0][0]).all()
    np.testing.assert_array_equal(found[0][0], found[1][0])
    for a, b in zip(found[0][1], found[1][1]):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_targets_at_the_last_time_are_those_at_its_place():
    series, senses = turning(3)
    model = ode.neural_cde(2, 1, hidden=4, width=8, static=1, steps=ode.Steps(rtol=1e-8, atol=1e-8), key=KEY)
    static = np.array([[1.0], [2.0], [3.0]])
    last = ode.predicted(model, ode.controlled(series, senses, static=static))[:, 1]
    whole = ode.predicted(model, ode.controlled(series, static=static))
    np.testing.assert_allclose(last, whole[np.arange(3), ode.lengths(series) - 1], atol=1e-6)
    others = ode.predicted(model, ode.controlled(series, senses, static=-static))[:, 1]
    assert np.abs(others - last).min() > 1e-3


def test_outputs_may_be_asked_for_later_than_the_first_time():
    data = one(ode.controlled(turning(1)[0]))
    model = ode.neural_cde(2, 1, hidden=4, width=8, steps=ode.Steps(rtol=1e-8, atol=1e-8), key=KEY)
    solve = eqx.filter_jit(lambda ts: model(data.y0, ts, data.args))
    ys, later = solve(data.ts), solve(jnp.array([data.ts[5], data.ts[9], 3.0]))
    np.testing.assert_allclose(later[:2], ys[np.array([5, 9])], atol=1e-6)
    assert np.isfinite(later).all()


def test_a_failed_solution_reaches_no_gradient():
    explosive = ode.Controlled(lambda z: 50 * jnp.ones((1, 3)) * z[:, None] ** 2)
    readout = eqx.nn.Linear(1, 1, key=KEY)
    model = ode.CDE(lambda x: jnp.ones(1), ode.ODE(explosive, ode.Steps(max_steps=200)), readout)
    data = ode.controlled(*turning(2))
    loss = lambda model: jnp.sum(ode.trajectory_misfit()(model, data)["misfit"] ** 2)  # noqa: E731
    value, gradient = eqx.filter_jit(eqx.filter_value_and_grad(loss))(model)
    # Two series, each with one target, count as failed.
    assert float(value) == 2 * 10.0**2
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))


def test_the_sense_of_turning_is_learnt_from_irregular_series():
    train, test = (ode.controlled(*turning(count, seed)) for count, seed in ((48, 1), (64, 2)))
    model = ode.neural_cde(2, 1, hidden=6, width=16, steps=ode.Steps(rtol=1e-3, atol=1e-3), key=KEY)
    model, history = sciml.fit(
        model, ode.trajectory_misfit(), lambda key: train, optax.adam(1e-2), steps=150, report=None
    )
    right = np.sign(ode.predicted(model, test)[:, 1]) == test.ys[:, 1]
    assert right.mean() > 0.95


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: ode.controlled(series_of(([0.0], [1.0]))), ValueError, "two times"),
        (lambda: ode.controlled(series_of(([0, 0, 1], [1.0, 2.0, 3.0]))), ValueError, "series 0 must increase"),
        (lambda: ode.controlled(series_of((TIMES, VALUES)), np.zeros((2, 1))), ValueError, "expected targets"),
        (lambda: ode.controlled(series_of((TIMES, VALUES)), np.zeros(1)), ValueError, "expected targets"),
        (lambda: ode.controlled(series_of((TIMES, VALUES)), static=np.zeros(1)), ValueError, "static"),
        (lambda: ode.controlled(series_of((TIMES, VALUES)), static=np.full((1, 1), np.nan)), ValueError, "static"),
        (lambda: ode.neural_cde(0, 1, key=KEY), ValueError, "inputs"),
        (lambda: ode.neural_cde(2, 1, key=KEY)(np.zeros(0), TIMES, None), TypeError, "sciml.ode.controlled"),
        (
            lambda: ode.neural_cde(3, 1, key=KEY).equation.field(
                0.0, jnp.zeros(8), one(ode.controlled(series_of((TIMES, VALUES)))).args
            ),
            ValueError,
            "3 columns with the time",
        ),
    ],
)
def test_bad_inputs(make, error, message):
    with pytest.raises(error, match=message):
        make()
