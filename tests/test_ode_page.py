"""The examples of `docs/ode.md` run as they stand, on data of which the truth is known."""

import re
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sciml
from sciml import Unknown, ode, optim

NAMES = {
    "np": np,
    "eqx": eqx,
    "jax": jax,
    "optax": optax,
    "sciml": sciml,
    "ode": ode,
    "optim": optim,
    "Unknown": Unknown,
}
TRUTH = {"alpha": 0.55, "beta": 0.028, "gamma": 0.8, "delta": 0.024}


@pytest.fixture(scope="module")
def run(checkout):
    """Runs the block that contains a text, without a progress bar, after replacements and with further names."""
    blocks = re.findall(r"```python\n(.*?)```", (checkout / "docs" / "ode.md").read_text(), re.DOTALL)

    def execute(text, *changes, **names):
        (source,) = (b for b in blocks if text in b)
        for old, new in changes:
            assert old in source
            source = source.replace(old, new)
        source = re.sub(r"\bsteps=(?=\d)", "report=None, steps=", source)
        given = {"random": np.random.default_rng(1)} | NAMES | names
        exec(source, given)
        return given

    return execute


def predation(hare, lynx, alpha, beta, gamma, delta):
    return alpha * hare - beta * hare * lynx, -gamma * lynx + delta * hare * lynx


def hares(**guesses):
    # Steps of one length compile soonest.
    return ode.mechanism(predation, ("hare", "lynx"), ode.Between(4), **(TRUTH | guesses))


def measured(noise):
    ts = np.linspace(0, 20, 41)
    ys = np.asarray(hares()(np.array([30.0, 4.0]), ts))
    return ts, ys * np.exp(noise * np.random.default_rng(0).standard_normal(ys.shape))


def test_first_example(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with sciml.double_precision():
        ts, ys = measured(0.05)
        np.savetxt("pelts.csv", np.c_[1900 + ts, ys], delimiter=",", header="year,hare,lynx", comments="")
        names = run("pelts.csv", ('("hare", "lynx"),', '("hare", "lynx"), ode.Between(4),'))
        found, errors = ode.parameters(names["model"]), ode.standard_errors(names["at"])
    for name, truth in TRUTH.items():
        assert errors[name] < 0.1 * truth and abs(float(found[name]) - truth) < 3 * errors[name]


def test_subjects(run, tmp_path, monkeypatch):
    """24 subjects after one dose, in closed form: typical numbers and deviations are found."""
    monkeypatch.chdir(tmp_path)
    random, rows = np.random.default_rng(0), ["subject,time,amount,level,weight"]
    for i in range(24):
        clearance, volume = np.array([4.0, 20.0]) * np.exp(0.2 * random.standard_normal(2))
        weight = random.uniform(50, 90)
        rows.append(f"s{i:02d},0,100,,{weight}")
        for t in random.uniform(0.5, 12, 6):
            level = 100 / volume * np.exp(-clearance * weight / 70 / volume * t)
            rows.append(f"s{i:02d},{t},,{level * (1 + 0.05 * random.standard_normal())},{weight}")
    (tmp_path / "events.csv").write_text("\n".join(rows))
    with sciml.double_precision():
        names = run("marginal_likelihood", ("ode.Dosed(ode", "Once(ode"), Once=Once)
        found = ode.parameters(names["population"])
    errors = names["errors"]
    for name, truth in {"clearance": 4, "volume": 20, "sd_clearance": 0.2, "sd_volume": 0.2}.items():
        assert errors[name] < 0.25 * truth and abs(float(found[name]) - truth) < 3 * errors[name]
    assert names["effects"].shape == (24, 2)


class Once(eqx.Module):
    """`ode.Dosed` in closed form, for decay after one dose at the first time, which compiles sooner."""

    field: Callable

    def __call__(self, y0, ts, args):
        # Once the dose is in the body; the first time, which is that of the dose, has no measurement.
        rate = -self.field(0.0, jnp.ones(1), args)[0]
        return args["doses"].amounts[0] * jnp.exp(-rate * (ts - ts[0]))[:, None]


def test_models_of_what_was_observed(run):
    random = np.random.default_rng(0)
    series = [(np.sort(random.uniform(0, 1, 9)), random.standard_normal((9, 14))) for _ in range(40)]
    names = run(
        "ode.smoother(14",
        ("2000", "2"),
        data=ode.trajectories(series),
        key=jax.random.key(0),
        ts_observed=series[0][0][::2],
        ys_observed=series[0][1][::2],
        ts=series[0][0],
    )
    np.testing.assert_allclose(names["ys"][::2], series[0][1][::2], atol=1e-5)


def test_series_as_inputs(run):
    history = run("neural_cde", ("key=jax", "steps=ode.Between(2), key=jax"), ("steps=20", "every=10, steps=20"))[
        "history"
    ]
    assert history["misfit"][-1] < 0.9 * history["misfit"][0]


def test_latent_process(run):
    names = run("latent_sde")
    assert names["given"].shape == (21, 1) and names["new"].shape == (11, 1)
    assert jnp.isfinite(names["given"]).all() and set(ode.parameters(names["model"])) == {"rate", "s"}


def test_density(run):
    names = run("neural_flow")
    assert names["samples"].shape == (5, 2) and jnp.isfinite(names["samples"]).all()


def test_the_way_for_noisy_data_and_its_standard_errors(run):
    with sciml.double_precision():
        ts, ys = measured(0.0)
        random = np.random.default_rng(2)
        data = ode.trajectories([(ts, ys + 0.1 * ys.std(axis=0) * random.standard_normal(ys.shape))])
        guesses = {n: Unknown(1.5 * v, positive=True) for n, v in TRUTH.items()}
        names = run("ode.tightening(segments, 20)", model=hares(**guesses), data=data)
        names = run(
            "ode.first_states(shot, segments)",
            **{n: names[n] for n in ("model", "shot", "segments", "data", "smooth", "newton")},
        )
        found = ode.parameters(names["model"])
        errors = ode.standard_errors(ode.linearised(names["model"], names["loss"], names["data"]))
    for name, truth in TRUTH.items():
        assert errors[name] < 0.1 * truth and abs(float(found[name]) - truth) < 3 * errors[name]
