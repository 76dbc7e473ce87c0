"""The script behind the table of success rates: its systems are right, and the page shows what it measured."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sciml
from sciml import ode
from sciml._problem import load_module


@pytest.fixture(scope="module")
def script(checkout):
    return load_module(checkout / "benchmarks" / "success.py")


@pytest.fixture(autouse=True)
def double():
    with sciml.double_precision():
        yield


def test_the_double_pendulum_keeps_its_energy(script):
    task = script.pendulum_task()
    a, b, v, w = np.asarray(task.truth(task.start, task.ts)).T
    length, ratio = 0.7, 0.6
    kinetic = v**2 / 2 + ratio / 2 * (v**2 + length**2 * w**2 + 2 * length * v * w * np.cos(a - b))
    height = -np.cos(a) - ratio * (np.cos(a) + length * np.cos(b))
    energy = kinetic + 9.81 * height
    assert np.ptp(kinetic) > 5
    np.testing.assert_allclose(energy, energy[0], atol=1e-6)


def test_predation_keeps_its_first_integral_over_three_periods(script):
    task = script.predation_task()
    hare, lynx = np.asarray(task.truth(task.start, task.ts)).T
    kept = 1.8 * hare - 0.8 * np.log(hare) + 0.9 * lynx - 1.3 * np.log(lynx)
    np.testing.assert_allclose(kept, kept[0], atol=1e-4)
    rising = (lynx[1:] > 13 / 9) & (lynx[:-1] <= 13 / 9)
    assert 2 <= rising.sum() <= 3


@pytest.mark.parametrize("name", ["predation", "double_pendulum"])
def test_errors_and_first_guesses(script, name):
    task = script.TASKS[name]()
    one, other = (task.guess(jax.random.key(i)) for i in range(2))
    if name == "predation":
        right = task.truth
        # It has no solution as a rule.
        assert not float(task.error(one, task.start)) <= task.least
    else:
        right = script.eqx.tree_at(
            lambda m: [m.field.parameters[n].raw for n in task.truth.field.parameters],
            one,
            [jnp.log(v) for v in task.truth.field.parameters.values()],
        )
        for n, v in task.truth.field.parameters.items():
            assert 0.5 <= float(ode.parameters(one)[n]) / v <= 2
        assert float(ode.parameters(one)["ratio"]) != float(ode.parameters(other)["ratio"])
    assert float(task.error(right, task.start)) < 1e-3


def test_fitting_in_one_program_is_what_fit_does(script):
    """Gradient matching of one seed, alone."""
    task = script.pendulum_task()
    given = jax.tree.map(lambda a: a[0], script.prepared(task, 1))
    guess = task.guess(jax.random.key(3))
    together, start = script.eqx.filter_jit(script.matched)(guess, given)
    newton = script.optim.gauss_newton(accelerate=False)
    points = given.points
    np.testing.assert_array_equal(start, given.smooth[0])
    alone, _ = sciml.fit(guess, ode.slope_misfit, lambda key: points, newton, steps=20, report=None)
    for n, value in ode.parameters(alone).items():
        assert float(ode.parameters(together)[n]) == pytest.approx(float(value), rel=1e-8)


def test_the_page_shows_what_was_measured(script, checkout):
    report = json.loads(script.PATH.read_text())
    page = (checkout / "docs" / "ode.md").read_text()
    assert script.table(report) in page and report["date"] in page and f"{report['seeds']} seeds" in page
    for name, task in script.TASKS.items():
        least = task().least
        for way, found in report[name].items():
            errors = np.array([np.inf if e is None else e for e in found["errors"]])
            assert found["rate"] == pytest.approx(np.mean(errors < least)), way
