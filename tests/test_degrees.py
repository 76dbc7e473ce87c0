"""Which polynomials are used, and how they are fitted."""

from itertools import product
from math import comb

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sciml import PDE, Box, Polygon, Solution, double_precision, solve, value
from sciml.optim._newton import Corrected, Equilibrated
from sciml.pde._degrees import Decay, Found, decay, degree_sets, total_degree
from sciml.pde._linear import _fit, refined, tried

KEY = jax.random.key(0)
TRIANGLE = Polygon([(0, 0), (2, 0), (0, 1)])


def coefficients(degrees, *rates):
    """Those of one output that falls by these factors with each degree."""
    return np.prod(np.array(rates) ** degrees, axis=1)


@pytest.mark.parametrize("size, degree", [(2, 7), (3, 5), (6, 3)])
def test_total_degree(size, degree):
    found = total_degree(size, comb(size + degree, size))
    assert {tuple(d) for d in found} == {d for d in product(range(degree + 1), repeat=size) if sum(d) <= degree}


def test_along_one_axis_there_are_as_many_as_the_root_and_more_for_layers():
    np.testing.assert_array_equal(total_degree(1, 100)[:, 0], np.arange(11))
    np.testing.assert_array_equal(total_degree(1, 6000)[:, 0], np.arange(551))


def test_coefficients_that_fall_faster_along_an_axis_are_fewer_there():
    degrees = total_degree(2, 66)
    found = decay(Found(degrees, np.ones((1, 66), bool), coefficients(degrees, 0.5, 0.25)[None]))
    np.testing.assert_array_equal(found.weights, [[1.0, 2.0]])
    np.testing.assert_array_equal(found.offsets, [0.0])
    np.testing.assert_array_equal(found.parities, [[-1, -1]])
    chosen, kept = degree_sets(found, 66)
    assert kept.all() and chosen.max(axis=0).tolist() == [15, 7] and len(chosen) <= 1.15 * 66


def test_one_field_may_need_more_degrees_than_another():
    """One falls as fast, but begins 2^-5 lower; or falls faster."""
    degrees = total_degree(2, 66)
    for shares in (2.0**-5 * coefficients(degrees, 0.5, 0.5), coefficients(degrees, 0.1, 0.1)):
        found = decay(Found(degrees, np.ones((2, 66), bool), np.stack([coefficients(degrees, 0.5, 0.5), shares])))
        chosen, kept = degree_sets(found, 66)
        highest = [chosen[k].sum(axis=1).max() for k in kept]
        assert highest[0] > 11 and highest[1] < 10 and 100 < kept.sum() <= 1.15 * 132


def test_even_and_odd_fields():
    degrees = total_degree(2, 66)
    even = np.where(degrees[:, 0] % 2 == 0, coefficients(degrees, 0.5, 0.5), 1e-6)
    odd = np.where(degrees[:, 1] % 2 == 1, coefficients(degrees, 0.5, 0.5), 0.0)
    found = decay(Found(degrees, np.ones((2, 66), bool), np.stack([even, odd])))
    np.testing.assert_array_equal(found.parities, [[0, -1], [-1, 1]])
    chosen, kept = degree_sets(found, 66)
    assert (chosen[kept[0], 0] % 2 == 0).all() and (chosen[kept[1], 1] % 2 == 1).all()
    assert kept[0].sum() > 60


def test_a_field_that_is_zero_is_left_a_constant():
    degrees = total_degree(2, 66)
    shares = np.stack([coefficients(degrees, 0.5, 0.5), np.zeros(66)])
    chosen, kept = degree_sets(decay(Found(degrees, np.ones((2, 66), bool), shares)), 66)
    assert kept[1, chosen.sum(axis=1) == 0].all()


def test_outputs_that_are_left_without_degrees():
    """An odd one whose weight is larger than the level."""
    found = Decay(np.array([[1.0, 1.0], [4.0, 4.0]]), np.zeros(2), np.array([[-1, -1], [1, 1]]))
    chosen, kept = degree_sets(found, 8)
    assert kept[0].all() and not kept[1].any()
    found = decay(Found(chosen, kept, np.where(kept, coefficients(chosen, 0.5, 0.5), 0.0)))
    assert np.isfinite(found.weights).all() and np.isfinite(found.offsets).all()


def test_coefficients_that_are_not_resolved_show_no_parity():
    degrees = total_degree(2, 15)
    shares = np.where(degrees.sum(axis=1) == 0, 10.0, np.where(degrees[:, 0] % 2, 0.5, 1.0))
    assert (decay(Found(degrees, np.ones((1, 15), bool), shares[None])).parities == -1).all()


def test_corrected_normal_equations_are_as_exact_as_qr():
    """Columns of a condition number of 1e5, whose square leaves half of the digits."""
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.normal(size=s))[0] for s in ((200, 40), (40, 40)))
    matrix = (left * np.logspace(0, -5, 40)) @ right * np.logspace(0, 8, 40)
    goal = rng.normal(size=40) / np.logspace(0, 8, 40)
    found, part = Corrected(matrix).solve(matrix @ goal)
    np.testing.assert_allclose(found, goal, rtol=1e-9)
    np.testing.assert_allclose(part, np.linalg.norm(matrix @ goal))


def test_columns_that_are_nearly_dependent_get_qr():
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(100, 20))
    matrix[:, 19] = matrix[:, 18] + 1e-9 * matrix[:, 19]
    values = rng.normal(size=100)
    corrected, exact = Corrected(matrix), Equilibrated(matrix)
    np.testing.assert_allclose(corrected.solve(values)[0], exact.solve(values)[0], rtol=1e-4)


def test_values_that_are_not_finite_have_no_solution():
    matrix = np.eye(5, 3)
    matrix[0, 0] = np.nan
    assert not np.isfinite(Corrected(matrix).solve(np.ones(5))[0]).all()


def test_a_field_that_is_even_in_many_dimensions():
    """So high degrees would be 4,845 polynomials of four inputs."""
    box = Box(x=(-1, 1), y=(-1, 1), z=(-1, 1), w=(-1, 1))

    def exact(x, y, z, w):
        return jnp.cos(2 * x) * jnp.cos(2 * y) * jnp.cos(2 * z) * jnp.cos(2 * w)

    def equation(laplacian_u, x, y, z, w):
        return laplacian_u + 16 * exact(x, y, z, w)

    pde = PDE(box, equation, value(u=exact, on=box.boundary()))
    with double_precision():
        few = tried(pde, KEY, 1e3, affine=True, polynomials_only=True)
        found = refined(pde, few, KEY, 0.0, affine=True)
    assert found.found is not None and (found.found.degrees % 2 == 0).all() and found.found.degrees.max() >= 16
    assert found.residual < 1e-8


def test_symmetry_of_fewer_polynomials_may_be_broken_by_more():
    """Odd terms that a trial does not see: all degrees are used again."""
    box = Box(x=(-1, 1), y=(-1, 1))

    def exact(x, y, xp=jnp):
        return xp.cos(9 * x) * xp.cos(9 * y) + 1e-3 * xp.sin(3 * x)

    def equation(u_xx, u_yy, x, y):
        return u_xx + u_yy + 162 * jnp.cos(9 * x) * jnp.cos(9 * y) + 9e-3 * jnp.sin(3 * x)

    pde = PDE(box, equation, value(u=exact, on=box.boundary()), reference=lambda x, y: exact(x, y, np))
    assert solve(pde, budget=1e3, report=None).error()["relative_l2"] < 1e-8


@pytest.mark.parametrize("spread", [None, 2.0])
@pytest.mark.parametrize("domain", [Box(x=(0, 2), y=(0, 1)), Box(x=(0, 2), y=(0, 1)).split(x=2), TRIANGLE])
def test_solutions_on_the_whole_domain_are_saved_and_loaded(domain, spread, tmp_path):
    pde = PDE(domain, lambda u_xx, u_yy: u_xx + u_yy + 1, value(u=0.0, on=domain.boundary()))
    with double_precision():
        found = Solution(pde, _fit(pde, 60, spread, True, KEY).fields, None, {}, 0.0)
    found.save(tmp_path / "solution.zip")
    x, y = np.array([0.3, 0.7]), np.array([0.1, 0.2])
    np.testing.assert_array_equal(Solution.load(tmp_path / "solution.zip", pde)(x=x, y=y), found(x=x, y=y))


@pytest.mark.parametrize("width", [1e-2, 1e-3, 1e-4])
def test_thin_layers_along_one_axis(width):
    """Convection that ends at a wall: x - (exp((x-1)/e) - exp(-1/e)) / (1 - exp(-1/e)) solves -e u_xx + u_x = 1."""
    rod = Box(x=(0, 1))
    pde = PDE(rod, lambda u_x, u_xx: u_x - width * u_xx - 1, value(u=0.0, on=rod.boundary()))
    solution = solve(pde, budget=60, key=KEY, report=None)
    x = np.append(np.linspace(0, 1, 200), 1 - width * np.linspace(0, 5, 50))
    exact = x - (np.exp((x - 1) / width) - np.exp(-1 / width)) / (1 - np.exp(-1 / width))
    np.testing.assert_allclose(solution(x=x), exact, atol=1e-9)
    assert solution.chosen["residual"] < 1e-8
