"""Integrals as quantities: of known functions, in tables, and in equations with known solutions."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sciml
from sciml._loss import Groups
from sciml.pde import PDE, Box, condition, derived, flux, integral, value
from sciml.pde._linear import _filled
from sciml.pde._rows import jacobian_rows, residual_rows, tabulate

KEY = jax.random.key(0)
LINE = Box(x=(0, 5))
PLANE = Box(t=(0, 1), x=(0, 2))
MEMORY = integral("memory", lambda u, s, x: jnp.exp(s - x) * u, s=("x", 0.0, lambda x: x))


def volterra(**more):
    """u' + u = the integral of e^(s - x) u(s) from 0 to x, u(0) = 1, solved by e^-x cosh x."""
    return PDE(
        LINE,
        lambda u_x, u, memory: u_x + u - memory,
        value(u=1.0, on=LINE.at(x=0)),
        MEMORY,
        reference=lambda x: np.exp(-x) * np.cosh(x),
        **more,
    )


def at(pde, function, points):
    """The first residual of a known function, which takes a point and returns the fields."""
    return next(iter(pde.residuals(function, Groups(interior=jnp.asarray(points))).values()))


def test_known_integrals():
    points = np.random.default_rng(0).uniform(0.1, 0.9, (20, 2))
    t, x = points.T
    cases = [
        # Over the whole axis, at the same time.
        (integral("q", lambda u, s: u**2, s=("x", 0, 2)), lambda t, x: t**2 * 8 / 3),
        # Up to the point, of a derivative, with a coordinate of the point and a parameter.
        (
            integral("q", lambda u_x, s, x, k: k * (x - s) * u_x, s=("x", 0.0, lambda x: x)),
            lambda t, x: 3 * t * x**2 / 2,
        ),
        # Over both axes.
        (integral("q", lambda u, r, s: r * u, r=("t", 0, 1), s=("x", 0, lambda x: 2 * x)), lambda t, x: 2 / 3 * x**2),
        # Of a derived quantity and a coefficient, those of the place.
        (integral("q", lambda w, c, s: w * c, s=("x", 0, 1)), lambda t, x: 2 * t / 3),
    ]
    with jax.enable_x64(True):
        for wanted, expected in cases:
            pde = PDE(
                PLANE,
                lambda u_t, q: q + 0 * u_t,
                value(u=0.0, on=PLANE.at(t=0)),
                wanted,
                derived(w=lambda u: 2 * u),
                k=3.0,
                c=lambda x: x,
            )
            found = at(pde, lambda p: p[0] * p[1], points)
            np.testing.assert_allclose(found, expected(t, x), rtol=1e-12)


def test_order_of_the_rule():
    """Two nodes are exact for cubics, and not for more."""
    with jax.enable_x64(True):
        for power, exact in ((3, True), (4, False)):
            wanted = integral("q", lambda u, s: u, s=("x", 0, 5), points=2)
            pde = PDE(LINE, lambda u_x, q: q + 0 * u_x, value(u=0.0, on=LINE.at(x=0)), wanted)
            gap = float(at(pde, lambda p, n=power: p[0] ** n, [[1.0]])[0]) - 5 ** (power + 1) / (power + 1)
            assert (abs(gap) < 1e-9) == exact


def test_tables_equal_residuals_and_their_derivatives():
    with jax.enable_x64(True):
        pde = PDE(
            LINE,
            lambda u_x, u, memory, w_x: u_x * w_x + u - memory,
            lambda w_x, u, mean: w_x - u * mean,
            value(u=1.0, on=LINE.at(x=0)),
            value(w=0.0, on=LINE.at(x=0)),
            MEMORY,
            integral("mean", lambda w, u, s, x: x * w + 2 * u + 1, s=("x", 0, 5)),
        )
        from sciml.nn import random_features

        network = _filled(random_features(1, 2, 6, 1.0, key=KEY), KEY)
        batch = Groups(interior=pde.points(30)(KEY)["interior"])
        tables = tabulate(pde, network, batch, {})

        def rows(output):
            found = pde.residuals(pde.model(eqx.tree_at(lambda n: n.output, network, output)), batch)
            return jnp.stack(list(found.values()), axis=1).ravel() / np.sqrt(30)

        np.testing.assert_allclose(residual_rows(pde, tables, network.output), rows(network.output), rtol=1e-9)
        dense = jax.jacfwd(rows)(network.output).reshape(60, -1)
        np.testing.assert_allclose(jacobian_rows(pde, tables, network.output), dense, rtol=1e-8, atol=1e-9)


def test_an_equation_with_memory():
    solution = sciml.solve(volterra(), budget=20, report=False)
    assert solution.chosen["method"].startswith("least squares")
    assert solution.error()["relative_l2"] < 1e-9


def test_a_constraint_on_the_mean_determines_a_constant():
    line = Box(x=(0, 1))
    pde = PDE(
        line,
        lambda u_xx, x: u_xx + jnp.pi**2 * jnp.cos(jnp.pi * x),
        flux(u=0.0, on=line.boundary()),
        condition(lambda mean: mean - 2, on=line.at(x=0)),
        integral("mean", lambda u, s: u, s=("x", 0, 1)),
        reference=lambda x: np.cos(np.pi * x) + 2,
    )
    assert sciml.solve(pde, budget=20, report=False).error()["relative_l2"] < 1e-9


def test_fields_without_derivatives():
    """Fredholm's equation of the second kind: u = sin(pi x) is given by the equation alone."""
    line = Box(x=(0, 1))
    pde = PDE(
        line,
        lambda u, q, x: u - q - jnp.sin(jnp.pi * x) + x / jnp.pi,
        integral("q", lambda u, s, x: x * s * u, s=("x", 0, 1)),
    )
    assert pde.fields == ("u",)
    with jax.enable_x64(True):
        np.testing.assert_allclose(at(pde, lambda p: jnp.sin(jnp.pi * p), [[0.2], [0.7]]), 0.0, atol=1e-14)


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: integral("q", lambda u: u), ValueError, "needs a variable"),
        (lambda: integral("two words", lambda u: u, s=("x", 0, 1)), TypeError, "is a name"),
        (lambda: integral("q", lambda u: u, s=(0, 1)), TypeError, "axis, low, high|Type-check"),
        (lambda: integral("q", lambda u: u, s=("x", 0, np.inf)), ValueError, "finite"),
        (lambda: integral("q", lambda u: u, s=("x", 0, 1), points=0), ValueError, "points"),
        (lambda: volterra(s=2.0), ValueError, "'s' is known already"),
        (
            lambda: PDE(LINE, lambda u_x, q: u_x - q, integral("q", lambda u, s: u, s=("y", 0, 1))),
            ValueError,
            "axis 'y'",
        ),
        (
            lambda: PDE(LINE, lambda u_x, q: u_x - q, integral("q", lambda u, s: u, s=("x", 0, lambda u: u))),
            ValueError,
            "limits may depend on",
        ),
        (
            lambda: PDE(LINE, lambda u_x, q: u_x - q, MEMORY, integral("q", lambda memory, s: memory, s=("x", 0, 1))),
            ValueError,
            "depends on the integral",
        ),
        (lambda: PDE(LINE, lambda u_x, memory_x: u_x - memory_x, MEMORY), ValueError, "memory_x"),
    ],
)
def test_bad_integrals_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
