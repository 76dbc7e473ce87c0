"""Unknown parameters and fields from data, and their standard errors, against what is known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import binom

from sciml import PDE, Box, Solution, Unknown, derived, double_precision, observe, solve, value
from sciml.nn import PriorFeatures, TanhFeatures, mlp
from sciml.optim._newton import Equilibrated, Factored
from sciml.pde._hidden import Drawn, Group, adapted, steady_axes
from sciml.pde._inverse import is_inverse, solve_inverse

LINE = Box(t=(0, 2))
RATE = 1.3


def decay(seed, count=100, noise=0.02, guess=0.5):
    """u_t = -k u from 1, observed at random times: the problem, the times and the values."""
    random = np.random.default_rng(seed)
    t = random.uniform(0, 2, count)
    u = np.exp(-RATE * t) + noise * random.standard_normal(count)
    start = value(u=1.0, on=LINE.at(t=0))
    return (
        PDE(LINE, lambda u_t, u, k: u_t + k * u, start, observe({"t": t}, u=u), k=Unknown(guess, positive=True)),
        t,
        u,
    )


@pytest.fixture(scope="module")
def decayed():
    pde, t, u = decay(0)
    return solve(pde, budget=120.0, report=None), t, u


def test_a_rate_and_its_standard_error(decayed):
    """Those of nonlinear least squares with the exact solution exp(-k t)."""
    solution, t, u = decayed
    assert solution.chosen["method"].startswith("least squares")
    k = solution.parameters["k"]
    slope = t * np.exp(-k * t)
    # Where the sum of squares is least.
    assert abs(np.sum(slope * (u - np.exp(-k * t)))) / np.sum(slope**2) < 1e-4
    noise = np.sqrt(np.sum((u - np.exp(-k * t)) ** 2) / (len(t) - 1))
    known = noise / np.sqrt(np.sum(slope**2))
    assert solution.standard_errors() == {"k": pytest.approx(known, rel=5e-3)}
    times = np.array([[0.0, 0.5], [1.0, 2.0]])
    of_field = solution.standard_errors(t=times)
    np.testing.assert_allclose(of_field, known * times * np.exp(-k * times), rtol=2e-2, atol=1e-12)


def test_a_trained_network_has_the_same_standard_error(decayed):
    """All numbers of a network, in place of the output of random features."""
    solution, _, _ = decayed
    pde, k = solution.pde, solution.parameters["k"]
    with double_precision():
        network = mlp(1, 1, 12, 2, key=jax.random.key(0))
    trained = solve(pde, model=network, points=128, budget=None, steps=200, report=None)
    assert trained.parameters["k"] == pytest.approx(k, abs=0.2 * solution.standard_errors()["k"])
    assert trained.standard_errors()["k"] == pytest.approx(solution.standard_errors()["k"], rel=0.03)


def test_standard_errors_survive_a_file(decayed, tmp_path):
    solution, _, _ = decayed
    solution.save(tmp_path / "solution")
    loaded = Solution.load(tmp_path / "solution", solution.pde)
    assert loaded.standard_errors() == pytest.approx(solution.standard_errors(), rel=1e-9)


def rod(observed, exact=True):
    """u_t = a u_xx with u = b sin(pi x) at the beginning: two unknown numbers, one of them in an initial value."""
    box = Box(t=(0, 1), x=(0, 1))
    start = value(u=lambda x, b: b * jnp.sin(jnp.pi * x), on=box.at(t=0), exact=exact)
    ends = value(u=0.0, on=box.boundary("x"), exact=exact)
    return PDE(box, lambda u_t, u_xx, a: u_t - a * u_xx, start, ends, observed, a=Unknown(1.0), b=Unknown(1.0))


@pytest.mark.parametrize("exact", [True, False])
def test_parameters_of_equation_and_initial_value(exact):
    """Two parameters against the normal equations of the exact solution b exp(-a pi^2 t) sin(pi x)."""
    random = np.random.default_rng(1)
    t, x = random.uniform(0, 1, (2, 150))
    a, b = 0.2, 3.0
    model = np.exp(-a * np.pi**2 * t) * np.sin(np.pi * x)
    noise = 0.03
    u = b * model + noise * random.standard_normal(150)
    slopes = np.stack([-b * np.pi**2 * t * model, model], axis=1)
    known = noise * np.sqrt(np.diag(np.linalg.inv(slopes.T @ slopes)))
    with double_precision():
        found = solve_inverse(rod(observe({"t": t, "x": x}, u=u), exact), jax.random.key(0), 30.0)
        assert found is not None and found.strain < 1
    solution = Solution(found.fields.pde, found.fields, None, {}, 0.0)
    errors = solution.standard_errors()
    for name, truth, error in zip("ab", (a, b), known):
        assert solution.parameters[name] == pytest.approx(truth, abs=3 * error)
        # The noise is estimated from 148 degrees of freedom, to 6 %.
        assert errors[name] == pytest.approx(error, rel=0.2)


def test_coverage():
    """Of 20 data sets the rate lies within 2 standard errors in 16 or more, as it would with a probability of 99.8 %
    if it did so in 95.4 % of cases; and deviations are not much smaller than they should be.
    """
    assert binom(20, 0.954).sf(15) > 0.997
    deviations = []
    pde, t, _ = decay(0, count=60)
    random = np.random.default_rng(7)
    with double_precision():
        for _ in range(20):
            u = np.exp(-RATE * t) + 0.02 * random.standard_normal(len(t))
            replaced(pde, u)
            found = solve_inverse(pde, jax.random.key(0), 30.0)
            assert found is not None
            solution = Solution(pde, found.fields, None, {}, 0.0)
            deviations.append((solution.parameters["k"] - RATE) / solution.standard_errors()["k"])
    assert sum(abs(d) <= 2 for d in deviations) >= 16
    # The sum of 20 squares is below 8.3 with a probability of 1 %.
    assert np.sum(np.square(deviations)) > 8.3


def replaced(pde, u):
    """Other measured values at the same points: nothing is compiled anew."""
    pde.conditions[1].values["u"][:] = u


def test_a_coefficient_that_nothing_observes():
    """(k u_x)_x = 0 in a wall of two ends: k u_x is one number, so u says k up to a factor, given at an end."""
    line = Box(x=(0, 1))
    x = np.random.default_rng(0).uniform(0, 1, 400)
    # u_x = exp(-x) / (1 - exp(-1)) and k = exp(x).
    exact = (1 - np.exp(-x)) / (1 - np.exp(-1))
    u = exact + 1e-3 * np.random.default_rng(1).standard_normal(400)
    pde = PDE(
        line,
        lambda q_x: q_x,
        derived(q=lambda k, u_x: k * u_x),
        value(u=0.0, k=1.0, on=line.at(x=0)),
        value(u=1.0, on=line.at(x=1)),
        observe({"x": x}, u=u),
    )
    solution = solve(pde, budget=30.0, report=None)
    assert solution.chosen["method"].startswith("least squares")
    places = np.linspace(0, 1, 21)
    error, bars = (f(x=places)["k"] for f in (solution, solution.standard_errors))
    error = error - np.exp(places)
    assert np.abs(error).max() < 0.05
    assert np.mean(np.abs(error) <= 2 * bars + 1e-9) >= 0.8
    assert bars[0] == pytest.approx(0.0, abs=1e-9) and 1e-4 < bars[1:].max() < 0.1


def test_fields_that_an_equation_keeps_constant():
    box = Box(t=(0, 1), x=(0, 1))
    t, x = np.random.default_rng(0).uniform(0, 1, (2, 20))
    items = (value(u=0.0, on=box.boundary("x")), observe({"t": t, "x": x}, u=t))
    pde = PDE(box, lambda u_t, u_xx, k: u_t - k * u_xx, lambda k_t: 3 * k_t, *items)
    assert steady_axes(pde, "k") == {0} and steady_axes(pde, "u") == set()
    assert steady_axes(PDE(box, lambda u_t, u_xx, k: u_t - k * u_xx, lambda k_t: k_t - 1, *items), "k") == set()


def test_the_most_probable_prior():
    """Of outputs that are measured directly, w + noise: the most probable variance is mean(w^2) - noise^2."""
    random = np.random.default_rng(0)
    measured = 3.0 * random.standard_normal(200) + 0.5 * random.standard_normal(200)
    hidden = TanhFeatures(jnp.zeros((201, 1)), jnp.full(201, 20.0))
    scale = np.ones((1, 201))
    drawn = Drawn(
        PriorFeatures(hidden, jnp.zeros((1, 201)), jnp.asarray(scale), (0,)),
        np.ones((1, 201), bool),
        (Group(0, slice(0, 200), False), Group(0, slice(200, 201), True)),
    )
    for _ in range(30):
        s = np.asarray(drawn.network.scale)[0, :200]
        precision = 1 + (s / 0.5) ** 2
        outputs = np.append((s / 0.5**2) * measured / precision, 1 / np.asarray(drawn.network.scale)[0, 200])
        drawn, change = adapted(drawn, outputs, np.append(1 / precision, 0.0), np.ones(1))
    assert change < 1e-3
    assert float(drawn.network.scale[0, 0]) ** 2 == pytest.approx(np.mean(measured**2) - 0.25, rel=2e-2)


def test_variances_from_factors():
    random = np.random.default_rng(0)
    matrix, rows = random.standard_normal((30, 4)), random.standard_normal((5, 4))
    covariance = np.linalg.inv(matrix.T @ matrix)
    for factored in (Factored(matrix), Equilibrated(matrix)):
        np.testing.assert_allclose(factored.variances(), np.diag(covariance), rtol=1e-10)
        np.testing.assert_allclose(factored.variances(rows), np.diag(rows @ covariance @ rows.T), rtol=1e-10)
    # Columns of any unit.
    units = np.array([1e-12, 1.0, 1e3, 1e12])
    right = random.standard_normal(30)
    np.testing.assert_allclose(Equilibrated(matrix * units).variances(), np.diag(covariance) / units**2, rtol=1e-9)
    found, _ = Equilibrated(matrix * units).solve(right)
    np.testing.assert_allclose(found * units, np.linalg.lstsq(matrix, right)[0], rtol=1e-9)


def test_noise_in_units_of_its_own():
    """Two fields whose observations differ a millionfold in unit and noise."""
    random = np.random.default_rng(3)
    t = random.uniform(0, 2, 80)
    u = np.exp(-RATE * t)
    data = observe({"t": t}, u=u + 0.02 * random.standard_normal(80), v=1e6 * (u + 0.5 * random.standard_normal(80)))
    start = value(u=1.0, v=1e6, on=LINE.at(t=0))
    pde = PDE(LINE, lambda u_t, u, k: u_t + k * u, lambda v, u: v / 1e6 - u, start, data, k=Unknown(1.0))
    with double_precision():
        found = solve_inverse(pde, jax.random.key(0), 30.0)
    assert found is not None
    errors = Solution(pde, found.fields, None, {}, 0.0).standard_errors()
    slope = t * np.exp(-RATE * t)
    # The noisy field adds a little to what the other one says.
    known = 1 / np.sqrt(np.sum(slope**2) * (0.02**-2 + 0.5**-2))
    assert errors["k"] == pytest.approx(known, rel=0.25)


def test_standard_errors_need_data():
    plain = PDE(LINE, lambda u_t, u: u_t + u, value(u=1.0, on=LINE.at(t=0)))
    assert not is_inverse(plain)
    with double_precision():
        model = plain.model(mlp(1, 1, 4, 1, key=jax.random.key(0)))
    with pytest.raises(ValueError, match="no observe"):
        Solution(plain, model, None, {}, 0.0).standard_errors()
    pde, _, _ = decay(0, count=1)
    with double_precision():
        model = pde.model(mlp(1, 1, 4, 1, key=jax.random.key(0)))
    with pytest.raises(ValueError, match="more observations"):
        Solution(pde, model, None, {}, 0.0).standard_errors()
    with pytest.raises(ValueError, match="missing: t; unknown: x"):
        Solution(decay(0)[0], model, None, {}, 0.0).standard_errors(x=1.0)
    with double_precision():
        large = pde.model(mlp(1, 1, 100, 2, key=jax.random.key(0)))
    with pytest.raises(ValueError, match="smaller network"):
        Solution(pde, large, None, {}, 0.0).standard_errors()
