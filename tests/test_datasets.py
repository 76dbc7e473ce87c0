"""The provided data sets: their solvers against exact solutions, their cards, and that samples depend on their number
only."""

import functools
import os
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.optimize import brentq

import sciml
from sciml._problem import datasets, load_module, make_dataset, read_card

SMALL = {
    "darcy": {"resolution": 16, "samples": 5},
    "burgers_operator": {"resolution": 64, "samples": 5, "end": 0.1, "step": 0.01},
    "advection": {"resolution": 32, "samples": 5, "frames": 4},
    "kuramoto_sivashinsky": {"resolution": 48, "samples": 5, "end": 1.0, "skip": 1.0, "frames": 2},
    "navier_stokes": {"resolution": 16, "samples": 5, "end": 0.2, "frames": 2},
    "gray_scott": {"resolution": 16, "samples": 5, "end": 4.0, "frames": 2},
    "shallow_water": {"resolution": 12, "samples": 5, "end": 0.1, "frames": 2},
    "poisson_mesh": {"samples": 5, "fewest": 80, "most": 120},
}
FETCHED = {
    "darcy_small": {"part": "test_32"},
    "era5_t2m": {},
    "cmip6_air_temperature": {"model": "FGOALS-g3"},
    "ostia": {},
    "a1b_air_temperature": {},
    "lynx_hare": {},
    "phenobarbital": {},
    "hopper": {},
    "pendulum": {},
    "double_pendulum": {},
    "ethanol": {},
    "methanol": {"part": "test"},
    "mlearn": {"part": "test"},
    "qm7": {},
    "freesolv": {},
}
# Made by quantum chemistry; see test_molecules_oracle.
LABELLED = {"ethanol_xtb"}


@pytest.fixture(scope="module")
def recipe():
    """Loads a recipe's file as a module, once, so that its solver is compiled once."""
    return functools.cache(lambda name: load_module(datasets()[name]))


def order(errors: list[float], ratio: float = 2.0) -> float:
    """The order of convergence between the last two errors."""
    return float(np.log(errors[-2] / errors[-1]) / np.log(ratio))


def test_cards_are_complete():
    assert set(datasets()) == set(SMALL) | set(FETCHED) | LABELLED
    for name, path in datasets().items():
        card = read_card(path, "make")
        assert card.title.endswith(".") and card.name == name
        for word in ("What:", "Who:", "Size:", "Baselines"):
            assert word in card.text, f"{name}: no {word}"
        assert set(card.annotations) == set(card.settings), f"{name}: a setting without a type"
        assert all(
            f"{setting}" in card.text for setting in card.settings if setting not in ("samples", "seed", "dtype")
        )


@pytest.mark.parametrize("name", SMALL)
def test_samples_depend_on_their_number_and_the_seed(name, recipe):
    made = recipe(name).make(**SMALL[name])
    whole = made.read()
    part = made.generate(2, 7)
    other = recipe(name).make(**SMALL[name], seed=1).generate(0, 5)
    for variable, array in whole.items():
        assert array.dtype == (np.float32 if array.dtype.kind == "f" else made.variables[variable].dtype)
        assert np.isfinite(array).all()
        np.testing.assert_array_equal(array[2:], np.asarray(part[variable], np.float32)[:3])
        assert np.any(array != np.asarray(other[variable], np.float32))
        assert np.any(array[0] != array[1])
        assert "units" in made.variables[variable].attributes


@pytest.mark.parametrize("name", SMALL)
def test_equations_are_a_pde_of_the_variables(name):
    pde = sciml.equations(name)
    assert isinstance(pde, sciml.PDE)
    assert set(pde.fields) <= set(make_dataset(datasets()[name], SMALL[name]).variables)


@pytest.mark.parametrize(
    "name, settings",
    [
        ("darcy", {"coefficient": "constant"}),
        ("darcy", {"resolution": 2}),
        ("burgers_operator", {"nu": -1.0}),
        ("burgers_operator", {"samples": 0}),
        ("advection", {"resolution": 8}),
        ("kuramoto_sivashinsky", {"frames": 0}),
        ("navier_stokes", {"refine": 0}),
        ("gray_scott", {"spots": 0}),
        ("shallow_water", {"boundary": "inflow"}),
        ("shallow_water", {"dtype": "int32"}),
        ("darcy_small", {"part": "all"}),
        ("cmip6_air_temperature", {"model": "CESM2"}),
        ("ethanol", {"part": "all"}),
    ],
)
def test_bad_settings(name, settings):
    with pytest.raises(ValueError, match=f"{next(iter(settings))}.*got|got"):
        made = make_dataset(datasets()[name], settings)
        made.make_batch(0)


# Random fields.


def test_gaussian_fields_have_the_stated_variance_and_no_mean():
    with sciml.double_precision():
        keys = sciml.data.sample_keys(0, 0, 2000)
        field = np.asarray(sciml.data.periodic_gaussian(keys, (32,), lambda k2: 25.0 / (k2 + 25.0)))
        sheet = np.asarray(sciml.data.neumann_gaussian(keys[:500], 33, lambda k2: 1.0 / (k2 + 9.0), modes=16))
    k = 2 * np.pi * np.arange(1, 16)
    assert np.var(field) == pytest.approx(2 * np.sum((25 / (k**2 + 25)) ** 2), rel=0.05)
    spectrum = np.mean(np.abs(np.fft.rfft(field, axis=1) / 32) ** 2, axis=0)
    np.testing.assert_allclose(spectrum[1:5], ((25 / (k**2 + 25)) ** 2)[:4], rtol=0.1)
    assert np.abs(field.mean(axis=1)).max() < 1e-12
    # The mean over the square of each eigenfunction squared is one; the trapezoidal rule is exact here.
    weights = np.ones(33)
    weights[[0, -1]] = 0.5
    mean = np.einsum("sxy,x,y->s", sheet**2, weights / 32, weights / 32).mean()
    squared = np.pi**2 * (np.arange(16)[:, None] ** 2 + np.arange(16)[None] ** 2).ravel()[1:]
    assert mean == pytest.approx(np.sum((squared + 9.0) ** -2), rel=0.1)


def test_a_sample_is_the_same_function_on_every_grid():
    with sciml.double_precision():
        keys = sciml.data.sample_keys(3, 0, 2)
        fields = [sciml.data.periodic_gaussian(keys, (n, n), lambda k2: 1 / (k2 + 1), modes=6) for n in (16, 32)]
        sheets = [sciml.data.neumann_gaussian(keys, n, lambda k2: 1 / (k2 + 1), modes=6) for n in (9, 17)]
    np.testing.assert_allclose(fields[0], fields[1][:, ::2, ::2], atol=1e-14)
    np.testing.assert_allclose(sheets[0], sheets[1][:, ::2, ::2], atol=1e-14)


# Solvers.


def test_darcy_converges_to_exact_solutions(recipe):
    solve = recipe("darcy").solve
    smooth, jumps = [], []
    for n in (17, 33, 65):
        x, y = np.meshgrid(np.linspace(0, 1, n), np.linspace(0, 1, n), indexing="ij")
        u = np.sin(np.pi * x) * np.sin(2 * np.pi * y)
        f = 5 * np.pi**2 * np.exp(x) * u - np.exp(x) * np.pi * np.cos(np.pi * x) * np.sin(2 * np.pi * y)
        smooth.append(np.abs(solve(np.exp(x), f) - u).max())
    for n in (18, 34, 66):
        # A continuous flux through a jump of the coefficient midway between two columns of points.
        x, y = np.meshgrid(np.linspace(0, 1, n), np.linspace(0, 1, n), indexing="ij")
        a = np.where(x < 0.5, 12.0, 3.0)
        wave = np.sin(2 * np.pi * x) * np.sin(np.pi * y)
        jumps.append(np.abs(solve(a, 5 * np.pi**2 * wave) - wave / a).max())
    assert order(smooth) > 1.9 and smooth[-1] < 2e-3
    assert order(jumps) > 1.8 and jumps[-1] < 1e-3


def test_darcy_has_the_standard_coefficient(recipe):
    made = make_dataset(datasets()["darcy"], {"resolution": 33, "samples": 8, "dtype": "float64"}).read()
    assert set(np.unique(made["a"])) == {3.0, 12.0}
    assert 0.3 < (made["a"] == 12.0).mean() < 0.7
    assert (made["u"][:, 1:-1, 1:-1] > 0).all() and not made["u"][:, [0, -1]].any()
    # Between the solutions for the two constant coefficients (maximum principle).
    bound = recipe("darcy").solve(np.ones((33, 33)), 1.0).max()
    assert bound / 12 < made["u"].max(axis=(1, 2)).min() and made["u"].max() < bound / 3
    finer = make_dataset(datasets()["darcy"], {"resolution": 33, "samples": 8, "refine": 4, "dtype": "float64"}).read()
    np.testing.assert_array_equal(made["a"], finer["a"])
    assert np.linalg.norm(made["u"] - finer["u"]) < 0.05 * np.linalg.norm(finer["u"])


def test_burgers_agrees_with_cole_hopf(recipe):
    n, nu, end = 256, 0.05, 0.3
    x = np.arange(n) / n
    potential = (1 - np.cos(2 * np.pi * x)) / (2 * np.pi)
    k = 2 * np.pi * np.fft.rfftfreq(n, 1 / n)
    theta = np.fft.rfft(np.exp(-potential / (2 * nu))) * np.exp(-nu * k**2 * end)
    exact = -2 * nu * np.fft.irfft(1j * k * theta, n) / np.fft.irfft(theta, n)
    with sciml.double_precision():
        u = np.asarray(recipe("burgers_operator").solve(jnp.sin(2 * jnp.pi * x)[None], nu, end, 1, 1e-3))
    assert np.abs(u[0, 1] - exact).max() < 1e-9
    assert np.abs(exact).max() > 0.5


def test_burgers_frames_agree_with_the_final_state():
    common = {"resolution": 32, "samples": 2, "end": 0.2, "step": 0.01, "dtype": "float64"}
    pair = make_dataset(datasets()["burgers_operator"], common).read()
    frames = make_dataset(datasets()["burgers_operator"], common | {"frames": 4})
    path = frames.read()["u"]
    np.testing.assert_allclose(path[:, 0], pair["a"], atol=1e-14)
    np.testing.assert_allclose(path[:, -1], pair["u"], atol=1e-12)
    np.testing.assert_allclose(frames.coords["time"][1], [0, 0.05, 0.1, 0.15, 0.2])


def test_advection_is_a_shift():
    made = make_dataset(
        datasets()["advection"],
        {"resolution": 32, "samples": 3, "beta": 0.5, "end": 1.0, "frames": 4, "dtype": "float64"},
    )
    u = made.read()["u"]
    for frame in range(5):
        np.testing.assert_allclose(u[:, frame], np.roll(u[:, 0], 4 * frame, axis=-1), atol=1e-13)


def test_kuramoto_sivashinsky_grows_small_waves_and_converges(recipe):
    solve = recipe("kuramoto_sivashinsky").solve
    length, n = 64.0, 64
    with sciml.double_precision():
        x = jnp.arange(n) * length / n
        for number in (3, 7, 12):
            k = 2 * np.pi * number / length
            u = solve(1e-9 * jnp.cos(k * x)[None], length, 2.0, 1, 0.1)
            np.testing.assert_allclose(u[0, 1], 1e-9 * np.exp((k**2 - k**4) * 2.0) * np.cos(k * x), atol=1e-16)
        start = (jnp.cos(2 * jnp.pi * x / length) * (1 + jnp.sin(4 * jnp.pi * x / length)))[None]
        truth = solve(start, length, 10.0, 1, 0.0125)[0, 1]
        errors = [float(jnp.abs(solve(start, length, 10.0, 1, step)[0, 1] - truth).max()) for step in (0.2, 0.1)]
    assert order(errors) > 3.6 and errors[-1] < 2e-5


def test_navier_stokes_decays_as_taylor_green(recipe):
    module = recipe("navier_stokes")
    n, nu = 32, 0.01
    with sciml.double_precision():
        x = 2 * jnp.pi * jnp.arange(n) / n
        vortices = jnp.cos(2 * x)[:, None] * jnp.cos(2 * x)[None, :]
        k = 4 * np.pi
        w, u, v = module.solve(vortices[None], jnp.zeros((n, n)), nu, 1.0, 2, 0.05)
        decay = np.exp(-2 * k**2 * nu * 1.0)
        np.testing.assert_allclose(w[0, -1], decay * vortices, atol=1e-12)
        np.testing.assert_allclose(u[0, -1], -decay / (2 * k) * jnp.cos(2 * x)[:, None] * jnp.sin(2 * x), atol=1e-12)
        np.testing.assert_allclose(v[0, -1], decay / (2 * k) * jnp.sin(2 * x)[:, None] * jnp.cos(2 * x), atol=1e-12)


def test_navier_stokes_converges_in_time_and_space(recipe):
    module = recipe("navier_stokes")

    def final(n, step):
        keys = sciml.data.sample_keys(0, 0, 1)
        start = 8 * sciml.data.periodic_gaussian(keys, (n, n), lambda k2: 100 * (k2 + 49.0) ** -1.5, modes=6)
        return module.solve(start, module.standard_forcing(n), 0.005, 1.0, 1, step, n // 32)[0][0, 1]

    with sciml.double_precision():
        truth = final(32, 1 / 320)
        errors = [float(jnp.abs(final(32, step) - truth).max()) for step in (1 / 20, 1 / 40)]
        finer = float(jnp.abs(final(64, 1 / 320) - truth).max() / jnp.abs(truth).max())
    assert order(errors) > 3.6
    assert finer < 1e-3


def test_gray_scott_follows_the_rates_and_converges(recipe):
    solve = recipe("gray_scott").solve
    constants = (0.03, 0.06, 2e-5, 1e-5)

    def rates(_, state):
        u, v = state
        return [-u * v**2 + 0.03 * (1 - u), u * v**2 - 0.09 * v]

    exact = solve_ivp(rates, (0, 50), [0.5, 0.4], rtol=1e-11, atol=1e-13).y[:, -1]
    with sciml.double_precision():
        uniform = jnp.broadcast_to(jnp.array([0.5, 0.4])[:, None, None], (1, 2, 4, 4))
        out = solve(uniform, constants, 50.0, 1, 0.25)[0, 1]
        np.testing.assert_allclose(out, np.broadcast_to(exact[:, None, None], (2, 4, 4)), rtol=1e-7)
        x = -1 + 2 * jnp.arange(32) / 32
        bump = jnp.exp(-8 * (1 - jnp.cos(jnp.pi * x)))
        start = jnp.stack([1 - 0.5 * bump[:, None] * bump, 0.4 * bump[:, None] * bump])[None]
        truth = solve(start, constants, 40.0, 1, 0.25)[0, 1]
        errors = [float(jnp.abs(solve(start, constants, 40.0, 1, step)[0, 1] - truth).max()) for step in (4.0, 2.0)]
    assert order(errors) > 3.5


def dam_break(x: np.ndarray, t: float, left: float, right: float) -> np.ndarray:
    """Stoker's solution for the depth, g = 1, dam at 0."""
    middle = brentq(lambda h: 2 * (left**0.5 - h**0.5) - (h - right) * np.sqrt(0.5 * (1 / h + 1 / right)), right, left)
    speed = 2 * (left**0.5 - middle**0.5)
    shock = middle * speed / (middle - right)
    fan = (2 * left**0.5 - x / t) ** 2 / 9
    h = np.where(x < -(left**0.5) * t, left, np.where(x < (speed - middle**0.5) * t, fan, middle))
    return np.where(x > shock * t, right, h)


def test_shallow_water_converges_to_stokers_dam_break(recipe):
    solve = recipe("shallow_water").solve
    for axis in (0, 1):
        errors = []
        for n in (64, 128):
            x = 5 * (np.arange(n) + 0.5) / n - 2.5
            shape = (n, 4) if axis == 0 else (4, n)
            depth = np.broadcast_to(
                np.where(x < 0, 2.0, 1.0)[:, None] if axis == 0 else np.where(x < 0, 2.0, 1.0), shape
            )
            with sciml.double_precision():
                state = jnp.stack([jnp.asarray(depth), jnp.zeros(shape), jnp.zeros(shape)])[None]
                out = np.asarray(solve(state, 5 / n, 2.0, 1.0, 1, "open"))[0, 1]
            profile = out[0][:, 1] if axis == 0 else out[0][1]
            errors.append(np.abs(profile - dam_break(x, 1.0, 2.0, 1.0)).mean())
            assert np.abs(out[2 - axis]).max() < 1e-12
        assert errors[-1] < 0.007 and order(errors) > 0.75


@pytest.mark.parametrize("boundary", ["open", "periodic", "wall"])
def test_shallow_water_conserves_mass_and_symmetry(boundary):
    end = 0.5 if boundary == "open" else 2.0
    settings = {"resolution": 32, "samples": 2, "boundary": boundary, "end": end, "frames": 2, "dtype": "float64"}
    made = make_dataset(datasets()["shallow_water"], settings).read()
    mass = made["h"].sum(axis=(2, 3))
    tolerance = 1e-3 if boundary == "open" else 1e-12
    np.testing.assert_allclose(mass, np.broadcast_to(mass[:, :1], mass.shape), rtol=tolerance)
    np.testing.assert_allclose(made["h"], made["h"].swapaxes(2, 3), atol=1e-12)
    np.testing.assert_allclose(made["u"], -made["u"][:, :, ::-1], atol=1e-12)


# The equations on the grid, by the functions that a PINN trains with.


@pytest.mark.parametrize(
    "name, settings, first",
    [
        # The first frames are left out where small waves decay faster than frames follow one another.
        ("burgers_operator", {"resolution": 128, "frames": 100, "end": 0.2}, 30),
        ("advection", {"resolution": 64, "frames": 80, "end": 1.0}, 0),
        ("kuramoto_sivashinsky", {"resolution": 128, "frames": 60, "end": 3.0}, 0),
        ("navier_stokes", {"resolution": 48, "frames": 40, "end": 2.0, "nu": 0.005}, 20),
        ("gray_scott", {"resolution": 128, "frames": 16, "end": 8.0, "du": 1e-4, "dv": 5e-5, "step": 0.5}, 4),
    ],
)
def test_data_satisfy_their_equations(name, settings, first, recipe):
    made = recipe(name).make(**settings, samples=1, dtype="float64").to_xarray().isel(time=slice(first, None))
    constants = {k: v for k, v in settings.items() if k not in ("resolution", "frames", "step")}
    found = sciml.pde.grid_residuals(sciml.equations(name, **constants), made)
    assert {v.attrs["verdict"] for v in found.values()} == {"yes"}
    assert max(v.attrs["relative"] for v in found.values()) < 0.005


def test_equations_of_unknown_and_measured_data():
    with pytest.raises(ValueError, match="no data set 'darci'; did you mean 'darcy'"):
        sciml.equations("darci")
    with pytest.raises(ValueError, match="needs a function `equations"):
        sciml.equations("era5_t2m")


def test_residual_of_darcy_vanishes_with_the_solvers_grid(recipe):
    pde = sciml.equations("darcy")
    found = []
    for refine in (1, 4):
        made = recipe("darcy").make(33, 1, "lognormal", smoothness=6.0, refine=refine, dtype="float64").to_xarray()
        # The solution is singular in the corners.
        inner = sciml.pde.grid_residuals(pde, made)["conservation"].values[0, 4:-4, 4:-4]
        found.append(float(np.sqrt(np.mean(inner**2))))
    assert order(found, 4.0) > 1.8 and found[-1] < 1e-4


def test_residual_of_shallow_water_is_small_without_shocks(recipe):
    pde = sciml.equations("shallow_water", end=0.5)
    made = recipe("shallow_water").make(48, 1, 1.2, end=0.5, frames=10, edge=0.5, dtype="float64").to_xarray()
    residuals = sciml.pde.grid_residuals(pde, made)
    assert max(residuals[e].attrs["relative"] for e in ("mass", "momentum_x", "momentum_y")) < 0.06


def test_initial_states_of_the_hopper_are_those_of_the_original_order(recipe):
    """Drawn as the original program does, number by number; further samples do not change the first."""
    module = recipe("hopper")
    random = np.random.RandomState(123)
    drawn = [
        np.concatenate([random.uniform(0, 0.5, 2), random.uniform(-2, 2, 5), random.uniform(-5, 5, 7)])
        for _ in range(3)
    ]
    np.testing.assert_array_equal(module.initial_states(5, 123)[:3], drawn)
    with pytest.raises(ValueError, match="frames"):
        module.make(frames=0)


def test_the_hopper_is_that_of_the_mirror(recipe):
    """Simulated, the first trajectories are those that were made elsewhere with the same versions."""
    pytest.importorskip("dm_control")
    if not os.environ.get("SCIML_DATA"):
        pytest.skip("needs a local mirror, SCIML_DATA")
    module = recipe("hopper")
    made = module.simulate(module.initial_states(3, 123), 200)
    np.testing.assert_allclose(made, module.make().generate(0, 3)["x"], atol=1e-5)


# Fetched ones.


@pytest.mark.parametrize("name", FETCHED)
def test_fetched_data_sets(name, tmp_path, monkeypatch):
    if not os.environ.get("SCIML_DATA"):
        pytest.skip("needs a local mirror, SCIML_DATA")
    if name == "phenobarbital" and not Path(os.environ["SCIML_DATA"], "pharmpy/pheno.dat").is_file():
        pytest.skip("the mirror has no pharmpy/pheno.dat")
    monkeypatch.setenv("SCIML_CACHE", str(tmp_path))
    found = sciml.dataset(name, **FETCHED[name])
    shapes = {"darcy_small": 50, "era5_t2m": 744, "cmip6_air_temperature": 804, "ostia": 54}
    shapes |= {"a1b_air_temperature": 240, "lynx_hare": 21, "phenobarbital": 744, "hopper": 200}
    shapes |= {"pendulum": 556, "double_pendulum": 1520}
    shapes |= {"ethanol": 1000, "methanol": 145, "mlearn": 25, "qm7": 7101, "freesolv": 642}
    array = next(iter(found.arrays.values()))
    assert array.shape[0] == shapes[name]
    values = array.read()
    share = np.isnan(values.astype(float)).mean()
    assert 0 < share < 0.5 if name == "ostia" else share == 0
    if name in ("era5_t2m", "ostia", "a1b_air_temperature"):
        assert 240 < np.nanmin(values) and np.nanmax(values) < 320
    assert not list(tmp_path.rglob("*.nc"))


@pytest.mark.skipif("SCIML_DATA" not in os.environ, reason="needs public data: set SCIML_DATA")
@pytest.mark.parametrize("name, arms", [("pendulum", [""]), ("double_pendulum", ["_1", "_2"])])
def test_velocities_of_pendulums_are_the_rates_of_their_angles(name, arms):
    """Over the usual interval, where the mean of both ends is right to second order."""
    read = sciml.dataset(name).to_xarray()
    for trial in np.unique(read["trial"]):
        rows = read.isel(row=np.flatnonzero(read["trial"].values == trial))
        steps = np.diff(rows["t"].values)
        usual = steps < 1.1 * np.median(steps)
        for arm in arms:
            angle, velocity = rows[f"angle{arm}"].values, rows[f"velocity{arm}"].values
            quotient, mean = np.diff(angle)[usual] / steps[usual], (velocity[1:] + velocity[:-1])[usual] / 2
            assert np.linalg.norm(quotient - mean) < 0.1 * np.linalg.norm(quotient)
