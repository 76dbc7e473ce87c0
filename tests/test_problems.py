"""Every provided problem: its card, two steps of training, a finite error, and a reference that is right."""

import ast
import os

import jax
import numpy as np
import optax
import pytest

import sciml
from sciml._problem import load_module, read_card
from sciml.pde import solve

OPERATORS = ("darcy_small",)
NAMES = [name for name in sciml.problems() if name not in OPERATORS]


def test_all_problems_are_there():
    assert set(OPERATORS) <= set(sciml.problems())
    assert set(NAMES) == {
        "burgers",
        "poisson",
        "heat",
        "wave",
        "helmholtz",
        "poisson_holes",
        "burgers_inverse",
    }


@pytest.mark.parametrize("name", NAMES)
def test_two_steps_and_a_finite_error(name):
    pde = sciml.problem(name)
    solution = solve(pde, points=sciml.adaptive(pde, 64, pool=128), budget=None, steps=2, report=None)
    assert np.isfinite(solution.error()["relative_l2"])
    assert solution.history["step"].values[-1] == 2


@pytest.mark.skipif("SCIML_DATA" not in os.environ, reason="needs public data: set SCIML_DATA")
@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_learns_in_two_steps(name):
    """The loss of a batch falls, and the metrics are those of the baselines."""
    made = sciml.problem(name)
    batch = next(iter(made.data))
    model, history = sciml.fit(made.model, made.loss, [batch], optax.adam(1e-3), steps=3, every=1, report=None)
    assert history["loss"].values[-1] < history["loss"].values[0]
    found = made.evaluations({"trained": model} | made.baselines)
    assert all(np.isfinite(v) for metrics in found.values() for v in metrics.values())
    assert set(read_card(sciml.problems()[name]).expected) <= set(found["trained"])
    assert found["kernel_ridge"]["relative_l2"] < found["linear"]["relative_l2"] < found["mean"]["relative_l2"]


@pytest.mark.parametrize("name", [*NAMES, *OPERATORS])
def test_card(name):
    card = read_card(sciml.problems()[name])
    assert card.expected and card.budget in (30.0, 60.0, 180.0) and card.settings
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


def test_finite_elements_converge():
    """The error of the reference of poisson_holes that its card states."""
    module = load_module(sciml.problems()["poisson_holes"])
    solutions = [module.finite_elements(0.0, 1.0, n).set_index(node=["x", "y"]) for n in (6, 12, 24)]
    values = [{(round(x, 8), round(y, 8)): u for (x, y), u in zip(s.node.values, s.u.values)} for s in solutions]
    common = set.intersection(*(set(v) for v in values))
    tables = [np.array([v[p] for p in sorted(common)]) for v in values]
    steps = [np.linalg.norm(b - a) / np.linalg.norm(b) for a, b in zip(tables, tables[1:])]
    assert len(common) > 500 and steps[1] < 2e-5 and steps[0] / steps[1] > 6


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
