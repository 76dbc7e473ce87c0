"""Energies and weak forms: of known functions, and solutions against exact ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sciml
from sciml.optim import gauss_newton
from sciml.pde import PDE, Ball, Box, deep_ritz, petrov_galerkin, value

KEY = jax.random.key(0)
SQUARE = Box(x=(0, 1), y=(0, 1))
LINE = Box(x=(0, 1))


def source(x, y):
    return 2 * jnp.pi**2 * jnp.sin(jnp.pi * x) * jnp.sin(jnp.pi * y)


def poisson(exact=None):
    return PDE(
        SQUARE,
        lambda u_xx, u_yy, x, y: u_xx + u_yy + source(x, y),
        value(u=0.0, on=SQUARE.boundary(), exact=exact),
        reference=lambda x, y: np.sin(np.pi * x) * np.sin(np.pi * y),
    )


def exact(p):
    return jnp.sin(jnp.pi * p[0]) * jnp.sin(jnp.pi * p[1])


def energy(u, u_x, u_y, x, y):
    return 0.5 * (u_x**2 + u_y**2) - source(x, y) * u


def form(u_x, u_y, v, v_x, v_y, x, y):
    return u_x * v_x + u_y * v_y - source(x, y) * v


def test_energy_of_known_functions():
    """-pi^2 / 4 at the solution; a penalty counts the mean square of what conditions miss."""
    with jax.enable_x64(True):
        pde = poisson(exact=False)
        loss, batch = deep_ritz(pde, energy, points=400, penalty=7.0), pde.points(16)(KEY)
        assert float(loss(exact, batch)) == pytest.approx(-(np.pi**2) / 4, abs=1e-10)
        shifted = float(loss(lambda p: exact(p) + 0.5, batch))
        # The source's integral is 8.
        assert shifted == pytest.approx(-(np.pi**2) / 4 - 0.5 * 8 + 7 * 0.25, abs=1e-8)


def test_energy_on_other_domains():
    """The integral of r^2 / 2 over the disc is pi / 4, to the accuracy of the points."""
    disc = Ball(x=0, y=0, radius=1)
    pde = PDE(disc, lambda u_xx, u_yy: u_xx + u_yy, value(u=0.0, on=disc.boundary(), exact=True))
    loss = deep_ritz(pde, lambda u_x, u_y: 0.5 * (u_x**2 + u_y**2), points=8192)
    found = loss(lambda p: 0.5 * jnp.sum(p**2), pde.points(16)(KEY))
    assert float(found) == pytest.approx(np.pi / 4, rel=1e-3)


def test_weak_residuals_vanish_at_the_solution_only():
    with jax.enable_x64(True):
        pde = poisson()
        loss, batch = petrov_galerkin(pde, form, elements={"x": 2, "y": 3}, degree=4, points=12), pde.points(16)(KEY)
        found = loss(exact, batch)["weak form"]
        assert found.shape == (2 * 3 * 4 * 4,)
        np.testing.assert_allclose(found, 0.0, atol=1e-9)
        assert float(jnp.abs(loss(lambda p: 1.1 * exact(p), batch)["weak form"]).max()) > 0.1


def test_squares_of_weak_residuals_are_the_error_in_the_energy():
    """Of -u'' = f with test functions that span it, |e'|^2 for u = solution + e with e a polynomial."""
    with jax.enable_x64(True):
        pde = PDE(LINE, lambda u_xx: u_xx + 2, value(u=0.0, on=LINE.boundary()))
        loss = petrov_galerkin(pde, lambda u_x, v_x, v: u_x * v_x - 2 * v, degree=6)
        e = np.polynomial.Polynomial([0, 0.3, -0.5, 0, 0.2])
        found = loss(lambda p: p[0] * (1 - p[0]) + jnp.polyval(e.coef[::-1], p[0]), pde.points(16)(KEY))["weak form"]
        expected = (e.deriv() ** 2).integ()(1.0)
        assert float(jnp.mean(found**2)) == pytest.approx(expected, rel=1e-9)


def test_a_source_with_a_jump():
    """-u'' = 1 beyond the middle: two elements meet at the jump, and the network need not follow it."""
    pde = PDE(
        LINE,
        lambda u_xx, x: u_xx + (x > 0.5),
        value(u=0.0, on=LINE.boundary()),
        reference=lambda x: x / 8 - np.maximum(x - 0.5, 0) ** 2 / 2,
    )
    loss = petrov_galerkin(pde, lambda u_x, v_x, v, x: u_x * v_x - (x > 0.5) * v, elements=2, degree=12)
    solution = sciml.solve(
        pde, loss=loss, optimiser=gauss_newton(), points=16, budget=None, steps=60, report=False, key=KEY
    )
    assert solution.error()["relative_l2"] < 1e-3


def test_the_minimum_of_an_energy_is_the_solution():
    pde = PDE(
        LINE,
        lambda u_xx, x: u_xx + jnp.pi**2 * jnp.sin(jnp.pi * x),
        value(u=0.0, on=LINE.boundary()),
        reference=lambda x: np.sin(np.pi * x),
    )
    loss = deep_ritz(pde, lambda u, u_x, x: 0.5 * u_x**2 - jnp.pi**2 * jnp.sin(jnp.pi * x) * u, points=40)
    solution = sciml.solve(pde, loss=loss, points=16, budget=None, steps=150, report=False, key=KEY)
    assert solution.error()["relative_l2"] < 1e-5


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: deep_ritz(poisson(), energy, points=0), "points"),
        (lambda: deep_ritz(poisson(), energy, penalty=0.0), "penalty"),
        (lambda: deep_ritz(poisson(), lambda u_q: u_q), "u_q"),
        (lambda: petrov_galerkin(poisson(), lambda u_x, v_x: u_x * v_x**2), "linear in 'v'"),
        (lambda: petrov_galerkin(poisson(), lambda u_x: u_x), "test function"),
        (lambda: petrov_galerkin(poisson(), lambda u_x, v_xx: u_x * v_xx), "no first derivative"),
        (lambda: petrov_galerkin(poisson(), form, degree=0), "degree"),
        (lambda: petrov_galerkin(poisson(), form, elements={"x": 0}), "elements of x"),
        (
            lambda: petrov_galerkin(
                PDE(
                    Ball(x=0, y=0, radius=1),
                    lambda u_xx, u_yy: u_xx + u_yy,
                    value(u=0.0, on=Ball(x=0, y=0, radius=1).boundary()),
                ),
                form,
            ),
            "on a Box",
        ),
    ],
)
def test_bad_forms_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
