"""Mixed effects: subjects of one model, against maximum likelihood in closed form and simulated populations."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

import sciml
from sciml import Unknown, ode, optim


@pytest.fixture(autouse=True, scope="module")
def double():
    with sciml.double_precision():
        yield


class Level(eqx.Module):
    """A constant, whatever the state."""

    numbers: dict

    def __call__(self, y0, ts, args=None):
        return jnp.broadcast_to(self.numbers["level"](), (ts.shape[0], 1))


def level(**options):
    model = Level({"level": Unknown(1.0).trainable()})
    return ode.mixed(model, {"level": 0.5}, **({"additive": 0.5} | options))


def groups(count=12, each=5, seed=0):
    random = np.random.default_rng(seed)
    values = 3 + 1.5 * random.standard_normal((count, 1)) + 0.7 * random.standard_normal((count, each))
    return values, ode.trajectories([(np.arange(each), v) for v in values], starts=np.zeros((count, 1)))


def trained(model, data, steps=15):
    model, history = sciml.fit(
        model, ode.marginal_likelihood, lambda key: data, optim.self_scaled_bfgs(), steps=steps, report=None
    )
    return model, history["loss"].values[-1]


def gaussian(residuals, covariance):
    """-2 log of the density."""
    rows = [r @ np.linalg.solve(covariance, r) + np.linalg.slogdet(covariance)[1] for r in residuals]
    return sum(rows) + residuals.size * np.log(2 * np.pi)


def test_balanced_one_way_effects_have_a_closed_form():
    """Searle, Casella & McCulloch, Variance components, 1992, section 3.7: maximum likelihood."""
    values, data = groups()
    k, n = values.shape
    model, loss = trained(level(), data)
    means = values.mean(axis=1)
    within = ((values - means[:, None]) ** 2).sum() / (k * (n - 1))
    between = ((means - means.mean()) ** 2).mean() - within / n
    found = {name: float(v) for name, v in ode.parameters(model).items()}
    expected = {"level": means.mean(), "sd_level": np.sqrt(between), "additive": np.sqrt(within)}
    assert found == pytest.approx(expected, rel=1e-4)
    assert loss == pytest.approx(gaussian(values - means.mean(), within * np.eye(n) + between), rel=1e-9)
    errors = ode.standard_errors(ode.information(model, data))
    # Of a mean, and of the variance within: 2 within^2 / (k (n - 1)).
    assert errors["level"] == pytest.approx(np.sqrt((within / n + between) / k), rel=1e-4)
    assert 2 * expected["additive"] * errors["additive"] == pytest.approx(within * np.sqrt(2 / (k * (n - 1))), rel=1e-3)
    # The best linear unbiased prediction, and its variance.
    effects, deviations = ode.random_effects(model, data)
    share = between / (between + within / n)
    np.testing.assert_allclose(effects[:, 0], share * (means - means.mean()), rtol=1e-3)
    np.testing.assert_allclose(deviations[:, 0] ** 2, (1 - share) * between, rtol=1e-3)
    np.testing.assert_allclose(ode.individual(model, data)[:, 0, 0], means.mean() + effects[:, 0], rtol=1e-6)
    # Standard errors that hold for any distribution are of a similar size, where the assumed one is right.
    general = ode.standard_errors(ode.information(model, data, sandwich=True))
    assert all(0.4 < general[name] / errors[name] < 2.5 for name in errors)


def test_what_is_missing_does_not_count():
    """A subject of which nothing was measured, values that are missing, and padding."""
    values, data = groups()
    holes = np.array(data.ys)
    holes[0, 2:], holes[1] = np.nan, np.nan
    expected = gaussian(values[:1, :2] - 1, 0.25 * np.eye(2) + 0.25) + gaussian(values[2:] - 1, 0.25 * np.eye(5) + 0.25)
    assert float(ode.marginal_likelihood(level(), data._replace(ys=holes))) == pytest.approx(expected, rel=1e-10)


POPULATION = {"rate": 1.5, "loss": 0.2, "sd_rate": 0.3, "sd_loss": 0.25, "additive": 0.02, "proportional": 0.1}


def uptake(amount, absorbed, rate, loss):
    return -rate * amount, rate * amount - loss * absorbed


class Closed(eqx.Module):
    """What is absorbed (n, 1), as the sum of the solutions of all doses."""

    numbers: dict

    def __call__(self, y0, ts, args):
        rate, loss = self.numbers["rate"](), self.numbers["loss"]()
        since = jnp.maximum(ts[:, None] - args["doses"].times, 0)
        each = rate / (rate - loss) * (jnp.exp(-loss * since) - jnp.exp(-rate * since))
        return (each @ args["doses"].amounts[:, 0])[:, None]


def population(closed=True, **guesses):
    start = {"rate": 1.0, "loss": 0.3, "sd_rate": 0.2, "sd_loss": 0.2, "additive": 0.05, "proportional": 0.2} | guesses
    unknown = {n: Unknown(start[n], positive=True) for n in ("rate", "loss")}
    solved = ode.Dosed(ode.mechanism(uptake, ("amount", "absorbed"), **unknown).field, ode.Steps(rtol=1e-8, atol=1e-10))
    return ode.mixed(
        Closed({n: u.trainable() for n, u in unknown.items()}) if closed else solved,
        {"rate": start["sd_rate"], "loss": start["sd_loss"]},
        additive=start["additive"],
        proportional=start["proportional"],
        observed=None if closed else lambda y: y[1:],
    )


def simulated(count=60, seed=1):
    """Subjects that differ in their numbers, times and schedules."""
    random = np.random.default_rng(seed)
    series, args = [], []
    for _ in range(count):
        ts = np.concatenate([[0.0], np.sort(random.uniform(0.3, 20, random.integers(4, 9)))])
        times = np.array([0.0, random.uniform(4, 8), random.choice([random.uniform(10, 14), 30.0])])
        doses = ode.Doses(times, np.stack([random.uniform(0.5, 2, 3), np.zeros(3)], axis=1))
        drawn = {n: POPULATION[n] * np.exp(POPULATION[f"sd_{n}"] * random.standard_normal()) for n in ("rate", "loss")}
        clean = np.asarray(Closed({n: lambda v=v: v for n, v in drawn.items()})(None, ts, {"doses": doses}))[:, 0]
        size = np.hypot(POPULATION["additive"], POPULATION["proportional"] * clean)
        values = clean + size * random.standard_normal(len(ts))
        series.append((ts, np.where(ts > 0, values, np.nan)))
        args.append({"doses": doses})
    return ode.trajectories(series, starts=np.zeros((count, 2)), args=args)


def test_a_simulated_population_is_found_within_its_standard_errors():
    data = simulated()
    model, loss = trained(population(), data, steps=25)
    likelihood = eqx.filter_jit(ode.marginal_likelihood)
    assert loss < float(likelihood(population(**POPULATION), data))
    found, errors = ode.parameters(model), ode.standard_errors(ode.information(model, data))
    for name, value in POPULATION.items():
        assert abs(float(found[name]) - value) < 3 * errors[name]
        # Which is a statement only where errors are small.
        assert name == "additive" or errors[name] < 0.35 * value
    # The same by steps between doses, of subjects of other times and schedules in one program.
    stepped = population(closed=False, **{n: float(v) for n, v in found.items()})
    assert float(likelihood(stepped, data)) == pytest.approx(loss, abs=1e-4)


def test_gradients_are_those_of_the_likelihood():
    """By differences, with the most probable effects that follow."""
    data = simulated(4)
    trained, fixed = eqx.partition(population(), eqx.is_inexact_array)
    flat, restore = jax.flatten_util.ravel_pytree(trained)
    value = eqx.filter_jit(lambda v: ode.marginal_likelihood(eqx.combine(restore(v), fixed), data))
    gradient = eqx.filter_jit(eqx.filter_grad(lambda v: ode.marginal_likelihood(eqx.combine(restore(v), fixed), data)))
    h = 1e-4 * np.eye(flat.size)
    differences = [(float(value(flat + d)) - float(value(flat - d))) / 2e-4 for d in h]
    np.testing.assert_allclose(gradient(flat), differences, rtol=1e-5, atol=1e-5)


def test_numbers_keep_their_bounds_in_every_subject():
    numbers = {"a": Unknown(2.0, positive=True), "b": Unknown(0.5, between=(0.0, 2.0)), "c": Unknown(5.0)}
    model = ode.mechanism(lambda x, a, b, c: a + b + c + x, ("x",), **numbers)
    varying = ode.mixed(model, {"c": 0.5, "a": 0.1, "b": 0.1}, additive=1.0)
    one = ode.parameters(varying.subject(jnp.array([0.7, -1.0, 10.0])))
    logit = np.log(0.5 / 1.5) + 10
    expected = {"a": 2 * np.exp(-1), "b": 2 / (1 + np.exp(-logit)), "c": 5.7}
    assert {n: float(v) for n, v in one.items()} == pytest.approx(expected)
    assert varying.varies == ("c", "a", "b")
    np.testing.assert_allclose(varying.deviations, [0.5, 0.1, 0.1])


def test_a_solution_that_fails_gives_a_constant():
    data = ode.trajectories([([0.0, 1.0, 2.0], [1.0, 2.0, 3.0])])
    explosive = ode.mechanism(lambda x, k: 50 * k * x**2, ("x",), ode.Steps(max_steps=200), k=Unknown(1.0))
    model = ode.mixed(explosive, {"k": 1e-3}, additive=1.0)
    value, gradient = eqx.filter_jit(eqx.filter_value_and_grad(ode.marginal_likelihood))(model, data)
    assert float(value) == pytest.approx(2 * 10.0**2 + 3 * np.log(2 * np.pi), rel=1e-3)
    assert all(bool(jnp.isfinite(g)) for g in jax.tree.leaves(gradient))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: ode.mixed(Level({}), {"level": 0.5}, additive=1.0), "no unknown 'level'"),
        (lambda: ode.mixed(level().model, {}, additive=1.0), "nothing that differs"),
        (lambda: level(additive=None), "additive=, proportional="),
        (lambda: level(additive=0.0), "above 0"),
        (lambda: ode.mixed(level().model, {"level": np.nan}, additive=1.0), "above 0"),
        (lambda: ode.marginal_likelihood(level(additive=[1.0, 2.0]), groups()[1]), "each of 1"),
        (lambda: ode.marginal_likelihood(level(observed=lambda y: jnp.append(y, y)), groups()[1]), "observed="),
        (lambda: ode.information(level(), groups()[1]._replace(ys=np.full((12, 5, 1), np.nan))), "not at its largest"),
    ],
)
def test_bad_inputs(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def events(**columns):
    table = {
        "id": [7, 7, 7, 7, 9, 9],
        "hour": [0.0, 2.0, 3.0, 1.0, 1.0, 2.0],
        "dose": [5.0, 0.0, 0.0, 3.0, 2.0, np.nan],
        "level": [np.nan, 1.5, 1.0, np.nan, np.nan, 4.0],
        "weight": [60.0] * 4 + [80.0] * 2,
    } | columns
    return xr.Dataset({n: ("row", np.array(v)) for n, v in table.items()})


def test_a_table_of_events_gives_schedules():
    options = {"by": "id", "time": "hour", "amount": "dose"}
    data = ode.from_events(events(), ["level"], constants=["weight"], size=2, into=1, **options)
    np.testing.assert_array_equal(data.ts, [[0, 2, 3], [1, 2, 2]])
    np.testing.assert_array_equal(data.ys[..., 0], [[np.nan, 1.5, 1.0], [np.nan, 4.0, np.nan]])
    np.testing.assert_array_equal(data.args["weight"], [60, 80])
    np.testing.assert_array_equal(data.args["doses"].amounts, [[[0, 5], [0, 3]], [[0, 2], [0, 0]]])
    np.testing.assert_array_equal(data.args["doses"].times, [[0, 1], [1, 3]])
    ys = ode.predicted(ode.Dosed(lambda t, y, args: -y, ode.Steps(rtol=1e-9, atol=1e-9)), data)
    np.testing.assert_allclose(ys[0, 1:, 1], 5 * np.exp([-2.0, -3]) + 3 * np.exp([-1.0, -2]), rtol=1e-6)
    np.testing.assert_allclose(ys[1, 1, 1], 2 * np.exp(-1), rtol=1e-6)
    for bad, message in (
        ({"weight": [60.0, 61.0, 60.0, 60.0, 80.0, 80.0]}, "one value"),
        ({"weight": [np.nan] * 6}, "one value"),
        (
            {"hour": [0.0, 2.0, np.nan, 1.0, 1.0, 2.0]},
            "1 measurements have no value of 'hour'; at the first, 'level' is 1",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            ode.from_events(events(**bad), ["level"], constants=["weight"], **options)
    with pytest.raises(ValueError, match="no variable 'age'"):
        ode.from_events(events(), ["level"], constants=["age"], **options)
