"""Every provided problem: its card, two steps of training, a finite error, and a reference that is right."""

import ast
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import pytest

import sciml
from sciml._problem import load_module, read_card
from sciml.pde import solve

# With settings that take seconds; data that are made have a few samples to learn from.
OPERATORS: dict[str, dict] = {
    "darcy_small": {},
    "darcy": {"resolution": 16, "samples": 24, "width": 8},
    "darcy_physics": {"resolution": 12, "samples": 40, "labelled": 16, "width": 8, "modes": 4},
    "burgers_operator": {"resolution": 128, "stride": 2, "samples": 40, "width": 8},
    "advection_operator": {"samples": 60, "test": 20},
    "navier_stokes": {"samples": 4, "end": 3, "width": 8, "modes": 4},
    "kuramoto_sivashinsky_operator": {"trajectories": 6, "test": 2, "width": 8},
    "gray_scott_operator": {"samples": 4, "test": 1, "resolution": 32, "frames": 20, "width": 8},
    "era5_t2m": {},
    "poisson_mesh": {"samples": 24, "tests": 8, "width": 8},
}
# Potentials of atoms, and properties of molecules.
MOLECULES: dict[str, dict] = {
    "lennard_jones": {"samples": 8, "width": 4, "moved": 20},
    "ethanol": {"width": 4, "layers": 1},
    "ethanol_active_learning": {
        "first": 6,
        "more": 4,
        "rounds": 1,
        "steps": 2,
        "width": 4,
        "layers": 1,
        "walk": 20,
        "tests": 1,
    },
    "silicon": {"width": 4, "layers": 1},
    "qm7": {"samples": 60, "chosen_by": 40},
    "freesolv": {"samples": 60},
}
PUBLIC = (
    "ethanol",
    "silicon",
    "qm7",
    "freesolv",
    "darcy_small",
    "era5_t2m",
    "lynx_hare",
    "lynx_hare_universal",
    "pendulum",
    "double_pendulum",
    "pharmacokinetics",
    "hopper",
)
# Differential equations in time, with settings that take seconds.
ODES: dict[str, dict] = {
    "lynx_hare": {},
    "lynx_hare_universal": {"width": 2},
    "robertson": {"points": 12},
    "kepler": {"steps": 3, "width": 4, "points": 40},
    "bouncing_ball": {"points": 20},
    "lorenz": {"count": 2, "points": 120},
    "spiral": {"width": 8, "steps": 2},
    "pendulum": {"width": 4, "baseline_steps": 2},
    "double_pendulum": {"width": 3, "every": 40},
    "pharmacokinetics": {},
    "hopper": {"samples": 10, "width": 8, "latent_steps": 2, "batch": 4, "times": 20},
}
# With tests of their own below.
OTHERS = ("drum", "poisson_100d")
# Relative L2 errors of problems that take seconds.
QUICK = {
    "poisson": 1e-12,
    "helmholtz": 1e-8,
    "heat": 1e-10,
    "wave": 1e-8,
    "convection": 1e-8,
    "kovasznay": 1e-7,
    "poisson_5d": 1e-10,
    "l_shape": 1e-6,
}
NAMES = [name for name in sciml.problems() if name not in (*OPERATORS, *ODES, *MOLECULES, *OTHERS)]


def test_all_problems_are_there():
    assert set(OPERATORS) | set(ODES) | set(MOLECULES) | set(OTHERS) <= set(sciml.problems())
    assert set(NAMES) == set(
        "burgers poisson heat wave helmholtz poisson_holes burgers_inverse convection reaction reaction_diffusion "
        "sine_gordon schrodinger allen_cahn kdv kuramoto_sivashinsky kovasznay taylor_green beltrami lid_driven "
        "poisson_5d heat_5d heat_family l_shape poisson_interface heat_conductivity poisson_coefficient "
        "poisson_boltzmann heat_varying wave_varying burgers_2d backward_step heat_holes heat_multiscale "
        "wave_long_time heat_long_time gray_scott".split()
    )


@pytest.mark.parametrize("name", NAMES)
def test_two_steps_and_a_finite_error(name):
    pde = sciml.problem(name)
    solution = solve(pde, points=sciml.adaptive(pde, 64, pool=128), budget=None, steps=2, report=None)
    assert np.isfinite(solution.error()["relative_l2"])
    assert solution.history["step"].values[-1] == 2


@pytest.mark.parametrize("name", QUICK)
def test_the_quick_third_of_the_table(name):
    """What `solve` does by default, as accurate as the README says but for a margin."""
    solution = solve(sciml.problem(name), budget=60, report=None)
    assert solution.error()["relative_l2"] < QUICK[name]


@pytest.mark.parametrize("name", [*OPERATORS, *MOLECULES])
def test_an_operator_or_potential_learns_in_two_steps(name):
    """The loss of a batch falls, and the baselines have the metrics of the model."""
    if name in PUBLIC and "SCIML_DATA" not in os.environ:
        pytest.skip("needs public data: set SCIML_DATA")
    if name == "ethanol_active_learning":
        pytest.importorskip("tblite")
    made = sciml.problem(name, **(OPERATORS | MOLECULES)[name])
    batch = made.data(jax.random.key(0)) if callable(made.data) else next(iter(made.data))
    with sciml.double_precision(made.double):
        model, history = sciml.fit(made.model, made.loss, [batch], optax.adam(1e-3), steps=3, every=1, report=None)
    assert history["loss"].values[-1] < history["loss"].values[0]
    found = made.evaluations({"trained": model} | made.baselines)
    assert all(np.isfinite(v) for metrics in found.values() for v in metrics.values())
    promised = set(read_card(sciml.problems()[name]).expected)
    assert made.baselines and all(promised <= set(metrics) for metrics in found.values())
    assert made.figure is not None
    plt.close(made.figure(model))


@pytest.mark.parametrize("name", ODES)
def test_a_model_of_time_learns_in_two_steps(name):
    """The loss falls, what the card promises is measured and the figure is drawn."""
    if name in PUBLIC and "SCIML_DATA" not in os.environ:
        pytest.skip("needs public data: set SCIML_DATA")
    if name == "pharmacokinetics" and not Path(os.environ["SCIML_DATA"], "pharmpy/pheno.dat").is_file():
        pytest.skip("the mirror has no pharmpy/pheno.dat")
    made = sciml.problem(name, **ODES[name])
    with sciml.double_precision():
        model, history = sciml.fit(
            made.model, made.loss, made.data, made.optimiser, steps=3, every=1, key=jax.random.key(0), report=None
        )
        # Where noise follows the model, the weight of continuity grows or batches differ, losses do not compare models.
        assert name in ("lynx_hare", "lorenz", "hopper") or history["loss"].values[-1] < history["loss"].values[0]
        metrics = made.evaluations({"trained": model} | dict(made.baselines))
        assert all(np.isfinite(v) for found in metrics.values() for v in found.values())
        assert set(read_card(sciml.problems()[name]).expected) <= set(metrics["trained"])
        assert metrics["trained"].get("failed", 0) == 0
        assert made.figure is not None
        plt.close(made.figure(model))


@pytest.mark.skipif("SCIML_DATA" not in os.environ, reason="needs public data: set SCIML_DATA")
def test_lynx_and_hare_agree_with_stan():
    """Posterior means and deviations of Carpenter's case study."""
    made = sciml.problem("lynx_hare")
    with sciml.double_precision():
        model, _ = sciml.fit(made.model, made.loss, made.data, made.optimiser, steps=made.steps, report=None)
    metrics = made.evaluations({"trained": model})["trained"]
    assert metrics["error_stan"] < 0.02 and metrics["error_stan_se"] < 0.2


@pytest.mark.skipif("SCIML_DATA" not in os.environ, reason="needs public data: set SCIML_DATA")
def test_the_network_of_lynx_and_hare_begins_at_constants():
    """Without weights it is Lotka and Volterra's equation with both rates at 0.025."""
    made = sciml.problem("lynx_hare_universal", width=2)
    metrics = made.evaluations({"first": made.model})["first"]
    assert metrics["beta"] == pytest.approx(0.025) and metrics["delta"] == pytest.approx(0.025)
    assert metrics["bend_beta"] == metrics["bend_delta"] == 0
    known = {"alpha": 0.545, "beta": 0.025, "gamma": 0.803, "delta": 0.025}
    rates = load_module(sciml.problems()["lynx_hare"]).predation
    with sciml.double_precision():
        plain = sciml.ode.mechanism(rates, ("hare", "lynx"), sciml.ode.Steps(rtol=1e-9, atol=1e-9), **known)
        start, ts = np.asarray(made.model.starts)[0], np.arange(21.0)
        np.testing.assert_allclose(made.model(0, ts), plain(start, ts), rtol=1e-5)


@pytest.mark.skipif("SCIML_DATA" not in os.environ, reason="needs public data: set SCIML_DATA")
def test_the_protocol_of_the_pendulum():
    """What a spring that is as stiff as gravity gives, computed here without any solver: the energy of the published
    formula along its circle, and the quotients that its exact steps predict.
    """
    made = sciml.problem("pendulum", width=2, baseline_steps=1)
    with sciml.double_precision():
        spring = sciml.ode.ODE(sciml.ode.SecondOrder(lambda y: -y[:1]), sciml.ode.Steps(rtol=1e-10, atol=1e-10))
        found = made.evaluations({"spring": spring})["spring"]
    rows = sciml.dataset("pendulum").to_xarray()
    ts, x = rows["t"].values, np.stack([rows["angle"].values, rows["velocity"].values], 1)

    def turned(x, t):
        q, p = x[..., 0], x[..., 1]
        return np.stack([q * np.cos(t) + p * np.sin(t), p * np.cos(t) - q * np.sin(t)], -1)

    def energy(x):
        return 2.4 * (1 - np.cos(x[:, 0])) + x[:, 1] ** 2

    test, steps = slice(444, 554), np.diff(ts)
    error = (turned(x[:-1], steps) - x[1:]) / steps[:, None]
    assert found["one_step_loss"] == pytest.approx(np.mean(error[test] ** 2), rel=1e-4)
    path = turned(x[444], ts[test] - ts[444])
    assert found["energy_mse"] == pytest.approx(np.mean((energy(path) - energy(x[test])) ** 2), rel=1e-4)


@pytest.mark.skipif("SCIML_DATA" not in os.environ, reason="needs public data: set SCIML_DATA")
def test_baselines_of_the_public_problems():
    """Figures that were computed without this package: persistence of March 2019, and kernel ridge regression."""
    made = sciml.problem("era5_t2m")
    found = made.evaluations({name: made.baselines[name] for name in ("persistence", "yesterday", "climatology")})
    assert found["persistence"]["rmse"] == pytest.approx(2.742, abs=0.002)
    assert found["persistence"]["rmse_24"] == pytest.approx(1.570, abs=0.002)
    assert found["yesterday"]["rmse"] < found["climatology"]["rmse"] < found["persistence"]["rmse"]
    made = sciml.problem("darcy_small")
    errors = {name: m["relative_l2"] for name, m in made.evaluations(made.baselines).items()}
    assert errors["kernel_ridge"] == pytest.approx(0.137, abs=0.005)
    assert errors["kernel_ridge"] < errors["linear"] < errors["mean"]


def test_symmetries_of_the_small_darcy_set():
    """Each sample becomes one of its eight images, with the points on their places."""
    x, y = np.meshgrid(np.arange(16) / 16, np.arange(16) / 16, indexing="ij")
    fields = [lambda x, y: 1 + x + 2 * y, lambda x, y: np.sin(np.pi * x) * np.sin(np.pi * y) * (x + 3 * y)]
    images = {
        (sx, sy, turned): [f(*(v if not turned else v[::-1])) for f in fields]
        for sx, vx in ((0, x), (1, 1 - x))
        for sy, vy in ((0, y), (1, 1 - y))
        for turned, v in ((0, (vx, vy)), (1, (vx, vy)))
    }
    batch = tuple(jnp.asarray(np.tile(f(x, y), (64, 1, 1, 1))) for f in fields)
    found = set()
    a, u = load_module(sciml.problems()["darcy_small"]).symmetric(jax.random.key(0), batch)
    for permeability, pressure in zip(np.asarray(a)[:, 0], np.asarray(u)[:, 0]):
        equal = [n for n, image in images.items() if np.allclose(image[0][1:, 1:], permeability[1:, 1:], atol=1e-5)]
        assert len(equal) == 1
        np.testing.assert_allclose(pressure, images[equal[0]][1], atol=1e-5)
        found.add(equal[0])
    assert len(found) == 8


def test_symmetries_of_navier_stokes():
    """Samples that are mirrored and turned satisfy the equation with the forcing where it was."""
    problem, recipe = (load_module(files["navier_stokes"]) for files in (sciml.problems(), sciml.datasets()))
    settings = {"resolution": 32, "samples": 4, "end": 1.0, "frames": 1, "velocity": False, "dtype": "float64"}
    w = np.asarray(recipe.make(**settings).read()["w"])
    with sciml.double_precision():
        batch = tuple(jnp.asarray(w[:, i : i + 1, None]) for i in (0, 1))
        seen = np.zeros(4, bool)
        for seed in range(4):
            before, after = (np.asarray(f)[:, 0, 0] for f in problem.symmetric(jax.random.key(seed), batch))
            again = recipe.solve(jnp.asarray(before), recipe.standard_forcing(32), 1e-3, 1.0, 1, 0.02)[0][:, 1]
            np.testing.assert_allclose(again, after, atol=1e-9)
            changed = np.abs(before - w[:, 0]).max(axis=(1, 2)) > 1e-3
            seen |= changed
        assert seen.all()


def test_the_drum():
    module = load_module(sciml.problems()["drum"])
    metrics = module.evaluate(module.solve(module.problem(), budget=4.0, key=jax.random.key(0)))
    assert metrics["eigenvalue_error"] < 1e-4
    # The third mode is that of a square: known exactly.
    assert metrics["eigenvalue_3"] == pytest.approx(2 * np.pi**2, rel=1e-6)


def test_two_body_interactions():
    """The source by automatic differentiation, and training that gains on the constant in a few steps."""
    module = load_module(sciml.problems()["poisson_100d"])
    with sciml.double_precision():
        c, x = jnp.array([0.3, -1.2, 0.7]), jnp.array([0.1, -0.3, 0.5, 0.2])
        hessian = jax.hessian(lambda x: (1 - jnp.sum(x**2)) * jnp.sum(c * jnp.sin(module.argument(x))))(x)
        np.testing.assert_allclose(module.laplacian(x, c), jnp.trace(hessian), rtol=1e-12)
    made = module.problem(dimensions=6, directions=3, width=16, points=64, steps=100)
    model, _ = sciml.fit(made.model, made.loss, made.data, made.optimiser, steps=made.steps, report=None)
    found = made.evaluations({"trained": model} | made.baselines)
    assert found["trained"]["relative_l2"] < found["constant"]["relative_l2"]


@pytest.mark.parametrize("name", [*NAMES, *OPERATORS, *ODES, *OTHERS])
def test_card(name):
    card = read_card(sciml.problems()[name])
    assert card.expected and card.budget in (20.0, 30.0, 60.0, 120.0, 180.0, 300.0, 600.0)
    lines = card.path.read_text().splitlines()
    assert len(lines) <= 110
    imported = [n for n in ast.walk(ast.parse(card.path.read_text())) if isinstance(n, ast.Import | ast.ImportFrom)]
    assert not any("sciml." in (getattr(n, "module", None) or "") for n in imported)


def test_cole_hopf_solves_burgers():
    """The reference against the equation, by central differences, and against Gauss-Hermite quadrature."""
    exact = load_module(sciml.problems()["burgers"]).cole_hopf
    nu, h = 0.05, 1e-4
    t, x = np.random.default_rng(0).uniform(0.1, 0.9, (2, 50))
    u_t = (exact(t + h, x, nu) - exact(t - h, x, nu)) / (2 * h)
    u_x = (exact(t, x + h, nu) - exact(t, x - h, nu)) / (2 * h)
    u_xx = (exact(t, x + h, nu) - 2 * exact(t, x, nu) + exact(t, x - h, nu)) / h**2
    np.testing.assert_allclose(u_t + exact(t, x, nu) * u_x - nu * u_xx, 0, atol=2e-5)

    nu = 0.01 / np.pi
    z, weights = np.polynomial.hermite.hermgauss(160)
    y = x[:, None] - np.sqrt(4 * nu * t[:, None]) * z
    kernel = weights * np.exp(-np.cos(np.pi * y) / (2 * np.pi * nu))
    quadrature = -(np.sin(np.pi * y) * kernel).sum(axis=1) / kernel.sum(axis=1)
    np.testing.assert_allclose(exact(t, x, nu), quadrature, atol=1e-12)
    np.testing.assert_allclose(exact(np.zeros(3), np.array([-0.5, 0.0, 0.5]), nu), [1, 0, -1], atol=1e-12)


def test_exact_references_satisfy_their_equations():
    """Residuals of the references of poisson, heat, wave and helmholtz, by central differences of fourth order."""
    for name in ("poisson", "heat", "wave", "helmholtz"):
        pde = sciml.problem(name)
        points = np.asarray(pde.domain.sample(jax.random.key(0), 20), float) * 0.8
        h = 1e-3

        def shifted(axis, k, points=points, pde=pde):
            moved = points.copy()
            moved[:, axis] += k * h
            return pde.reference(**dict(zip(pde.axes, moved.T)))

        values = {"u": shifted(0, 0)} | dict(zip(pde.axes, points.T)) | pde.numbers
        for i, axis in enumerate(pde.axes):
            f = {k: shifted(i, k) for k in range(-2, 3)}
            values[f"u_{axis}"] = (f[-2] - 8 * f[-1] + 8 * f[1] - f[2]) / (12 * h)
            values[f"u_{axis}{axis}"] = (-f[-2] + 16 * f[-1] - 30 * f[0] + 16 * f[1] - f[2]) / (12 * h**2)
        (term,) = pde.groups["interior"].terms
        residual = term.function(**{n: values[n] for n in term.meanings})
        np.testing.assert_allclose(np.asarray(residual), 0, atol=2e-3 if name == "wave" else 2e-4)
