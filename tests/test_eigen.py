"""Eigenvalues and eigenfunctions against analytic ones."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import jn_zeros

import sciml
from sciml import PDE, Ball, Box, Unknown, condition, eigenmodes, flux, jump, value

ROD = Box(x=(0, 1))


def helmholtz(u_xx, u, lam):
    return u_xx + lam * u


def string(**settings):
    return PDE(ROD, helmholtz, value(u=0.0, on=ROD.boundary()), **({"lam": 0.0} | settings))


def found(modes):
    return np.array([mode.parameters["lam"] for mode in modes])


def modes_of(pde, count=4, **settings):
    return eigenmodes(pde, "lam", count, budget=settings.pop("budget", 30.0), report=False, **settings)


def test_a_string_of_two_densities():
    """Its halves have a network each; the frequencies w solve 2 sin(w / 2) cos(w) + cos(w / 2) sin(w) = 0."""
    rod = ROD.split(x=2)
    meet = [jump(quantity, on=rod.interface()) for quantity in (lambda u: u, lambda u_n: u_n)]
    pde = PDE(
        rod,
        lambda u_xx, u, lam, density: u_xx + lam * density * u,
        value(u=0.0, on=rod.boundary()),
        *meet,
        density={"x0": 1.0, "x1": 4.0},
        lam=0.0,
    )

    def frequencies(w):
        return 2 * np.sin(w / 2) * np.cos(w) + np.cos(w / 2) * np.sin(w)

    grid = np.linspace(0.1, 10, 400)
    ends = [(a, b) for a, b in zip(grid, grid[1:]) if frequencies(a) * frequencies(b) < 0][:3]
    exact = np.array([brentq(frequencies, a, b, xtol=1e-14) for a, b in ends])
    np.testing.assert_allclose(found(modes_of(pde, 3)), exact**2, rtol=1e-7)


def test_string():
    modes = modes_of(string(lam=3.0))
    np.testing.assert_allclose(found(modes), (np.pi * np.arange(1, 5)) ** 2, rtol=1e-8)
    x = np.linspace(0, 1, 201)
    for k, mode in enumerate(modes, start=1):
        u = mode(x=x)
        assert abs(np.abs(u).max() - 1) < 1e-4
        exact = np.sin(k * np.pi * x)
        np.testing.assert_allclose(u * np.sign(u @ exact), exact, atol=2e-4)
        # Scaled alike, it is the eigenfunction to the accuracy of the residual.
        np.testing.assert_allclose(u * (u @ exact) / (u @ u), exact, atol=1e-6)
        assert mode.chosen["residual"] < 1e-6
        assert mode.history["residual"].values[-1] == mode.chosen["residual"]


def test_the_problem_itself_keeps_its_number():
    pde = string(lam=3.0)
    mode = modes_of(pde, 1)[0]
    assert pde.numbers["lam"] == 3.0 and mode.pde.numbers["lam"] != 3.0
    residuals = mode.pde.residuals
    with sciml.double_precision():
        points = sciml.Groups(interior=jnp.linspace(0.1, 0.9, 5)[:, None])
        assert np.abs(residuals(mode.model, points)["helmholtz"]).max() < 1e-6 * np.pi**2


def test_near_another_number():
    modes = modes_of(string(), 2, near=100.0)
    np.testing.assert_allclose(found(modes), (np.pi * np.array([3, 4])) ** 2, rtol=1e-7)


def test_an_eigenvalue_of_zero():
    pde = PDE(ROD, helmholtz, flux(u=0.0, on=ROD.boundary()), lam=0.0)
    modes = modes_of(pde)
    np.testing.assert_allclose(found(modes), (np.pi * np.arange(4)) ** 2, rtol=1e-7, atol=1e-6)
    np.testing.assert_allclose(modes[0](x=np.linspace(0, 1, 9)), 1.0, atol=1e-6)


def test_oscillator():
    """-u'' + x^2 u = lam u: 1, 3, 5, ..."""
    line = Box(x=(-8, 8))
    pde = PDE(line, lambda u_xx, u, x, lam: x**2 * u - u_xx - lam * u, value(u=0.0, on=line.boundary()), lam=0.0)
    np.testing.assert_allclose(found(modes_of(pde, 5)), 2 * np.arange(5) + 1, rtol=1e-7)


def test_eigenvalue_in_a_condition():
    """u'' + u = 0 with u(0) = 0 and u'(1) = lam u(1): lam = cot 1."""
    pde = PDE(
        ROD,
        lambda u_xx, u: u_xx + u,
        value(u=0.0, on=ROD.at(x=0)),
        condition(lambda u_x, u, lam: u_x - lam * u, on=ROD.at(x=1)),
        lam=0.0,
    )
    np.testing.assert_allclose(found(modes_of(pde, 1)), 1 / np.tan(1), rtol=1e-7)


def test_clamped_beam():
    """u'''' = lam u: the fourth powers of the roots of cos b cosh b = 1."""
    edges = (value(u=0.0, on=ROD.boundary()), value(u_x=0.0, on=ROD.boundary()))
    pde = PDE(ROD, lambda u_xxxx, u, lam: u_xxxx - lam * u, *edges, lam=0.0)
    roots = [brentq(lambda b: np.cos(b) - 1 / np.cosh(b), g - 0.2, g + 0.2, xtol=1e-14) for g in (4.73, 7.85, 11.0)]
    np.testing.assert_allclose(found(modes_of(pde, 3)), np.array(roots) ** 4, rtol=1e-6)


def test_a_system():
    """v = u', v' = -lam u with u = 0 at both ends is the string."""
    equations = (lambda u_x, v: u_x - v, lambda v_x, u, lam: v_x + lam * u)
    pde = PDE(ROD, *equations, value(u=0.0, on=ROD.boundary()), lam=0.0)
    np.testing.assert_allclose(found(modes_of(pde, 3)), (np.pi * np.arange(1, 4)) ** 2, rtol=1e-6)


def test_square_with_double_eigenvalues():
    square = Box(x=(0, 1), y=(0, 1))
    equation = lambda u_xx, u_yy, u, lam: u_xx + u_yy + lam * u  # noqa: E731
    pde = PDE(square, equation, value(u=0.0, on=square.boundary()), lam=0.0)
    modes = modes_of(pde, 4)
    np.testing.assert_allclose(found(modes), np.pi**2 * np.array([2, 5, 5, 8]), rtol=1e-6)
    # The two modes of one eigenvalue are different ones.
    x, y = np.random.default_rng(0).uniform(0, 1, (2, 500))
    first, second = (m(x=x, y=y) for m in modes[1:3])
    assert np.linalg.svd(np.stack([first, second]), compute_uv=False)[1] > 1.0
    span = np.stack([np.sin(np.pi * x) * np.sin(2 * np.pi * y), np.sin(2 * np.pi * x) * np.sin(np.pi * y)], axis=1)
    for mode in (first, second):
        assert np.linalg.norm(mode - span @ np.linalg.lstsq(span, mode, rcond=None)[0]) < 1e-4 * np.linalg.norm(mode)


def test_disc():
    disc = Ball(x=0.0, y=0.0, radius=1.0)
    pde = PDE(disc, lambda laplacian_u, u, lam: laplacian_u + lam * u, value(u=0.0, on=disc.boundary()), lam=0.0)
    exact = [jn_zeros(0, 1)[0], jn_zeros(1, 1)[0], jn_zeros(1, 1)[0]]
    np.testing.assert_allclose(found(modes_of(pde, 3)), np.square(exact), rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PDE(ROD, lambda u_xx, u, lam: u_xx + lam * u + 1, value(u=0.0, on=ROD.boundary()), lam=0.0), "homog"),
        (lambda: PDE(ROD, helmholtz, value(u=2.0, on=ROD.boundary()), lam=0.0), "homog"),
        (lambda: PDE(ROD, lambda u_xx, u, lam: u_xx + lam * u**2, value(u=0.0, on=ROD.boundary()), lam=0.0), "linear"),
        (lambda: PDE(ROD, lambda u_xx, u, lam: u_xx + lam**2 * u, value(u=0.0, on=ROD.boundary()), lam=0.0), "affine"),
        (lambda: PDE(ROD, lambda u_xx, u, lam: u_xx + 0 * lam, value(u=0.0, on=ROD.boundary()), lam=0.0), "no effect"),
        (lambda: PDE(ROD, lambda u_xx, u, mu: u_xx + mu * u, value(u=0.0, on=ROD.boundary()), mu=0.0), "it has mu"),
        (lambda: string(lam=Unknown(1.0)), "not a parameter"),
    ],
)
def test_problems_without_eigenvalues(make, message):
    with pytest.raises(ValueError, match=message):
        modes_of(make())


def test_bad_arguments():
    with pytest.raises(ValueError, match="above 0"):
        modes_of(string(), 0)
    with pytest.raises(TypeError):
        eigenmodes(ROD, "lam")
