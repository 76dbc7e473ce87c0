"""Discs that are taken out of plane domains: features around them, points near them, solutions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import k0
from scipy.stats import kstest

from sciml import PDE, Ball, Box, Solution, double_precision, value
from sciml.nn import HoleFeatures
from sciml.pde._crowded import crowded
from sciml.pde._holes import FEATURES, hole_features, without_holes
from sciml.pde._linear import _fit, suits_polynomials

KEY = jax.random.key(0)
SQUARE = Box(x=(-1, 1), y=(-1, 2))
HOLES = Ball(x=0.3, y=0.2, radius=0.3), Ball(x=-0.5, y=1.2, radius=0.2)
PLATE = SQUARE - HOLES[0] - HOLES[1]


def test_features_are_polynomials_of_the_inverse_distance_times_waves():
    with double_precision():
        place, scale = jnp.array([[0.1, -0.2]]), jnp.array([2.0, 3.0])
        found = HoleFeatures(place, scale, jnp.array([0.4]), 3)(jnp.array([0.6, 0.5]))
    away = np.array([0.5, 0.7]) * [2.0, 3.0]
    r, angle = np.hypot(*away), np.arctan2(away[1], away[0])
    s = 2 * 0.4 / r - 1
    pairs = [(m, k) for m in range(4) for k in range(4) if m + k <= 3]
    cosines = [np.cos(m * np.arccos(s)) * np.cos(k * angle) for m, k in pairs]
    sines = [np.cos(m * np.arccos(s)) * np.sin(k * angle) for m, k in pairs if k]
    np.testing.assert_allclose(found, [*cosines, *sines, 2 * np.log(r)], rtol=1e-12)


def test_holes_are_found_from_the_domain():
    whole, holes = without_holes(PLATE)
    assert whole is SQUARE and holes == HOLES
    assert without_holes(SQUARE | HOLES[0])[1] == () and without_holes(SQUARE)[0] is SQUARE
    cube = Box(x=(0, 1), y=(0, 1), z=(0, 1)) - Ball(x=0.5, y=0.5, z=0.5, radius=0.1)
    evolution = Box(t=(0, 1), x=(0, 1)) - Ball(t=0.5, x=0.5, radius=0.1)
    assert without_holes(cube) == (cube, ()) and without_holes(evolution) == (evolution, ())
    pde = PDE(PLATE, lambda u_xx, u_yy: u_xx + u_yy, value(u=0.0, on=PLATE.boundary()))
    features = hole_features(pde)
    assert features is not None and suits_polynomials(pde)
    assert features.highest == int((FEATURES / 2) ** 0.5 - 1)
    # In units of the inputs, which are between -1 and 1.
    np.testing.assert_allclose(features.place, [[0.3, -0.2], [-0.5, 7 / 15]], rtol=1e-6)


def test_half_of_the_points_are_around_the_holes():
    with double_precision():
        points = np.asarray(crowded(PLATE, PLATE.sobol(8192, KEY)))
        assert (np.asarray(PLATE.distance(jnp.asarray(points))) <= 1e-12).all()
    # Those of the first hole, near enough that none leaves the domain.
    away = points[:2048] - HOLES[0].centre
    near = np.hypot(*away.T)
    share = 0.3 / near[near < 0.6]
    least = 0.3 / np.hypot(2, 3)

    def arcsine(s):
        return 2 / np.pi * np.arcsin(np.sqrt((s - least) / (1 - least)))

    low = arcsine(0.5)
    assert len(share) > 800
    assert kstest(share, lambda s: (arcsine(s) - low) / (1 - low)).statistic < 0.05


# Boundary values enter the equation through their lift, of which polynomials of degree 23 leave more without screening.
@pytest.mark.parametrize("k, tolerance", [(0.0, 1e-4), (3.0, 1e-7)])
def test_solutions_around_holes(k, tolerance):
    """Laplace's equation, and that of Poisson and Boltzmann, whose solution K_0(k r) decays away from the hole."""

    def solution(x, y, xp=np):
        r = xp.hypot(x - 0.3, y - 0.2)
        if k:
            times = np.linspace(0, 6, 401)
            # The trapezoidal rule for the integral of exp(-k r cosh t) from 0 (Abramowitz & Stegun, 9.6.24).
            weights = np.where(times == 0, 0.5, 1.0) * times[1]
            return xp.sum(weights * xp.exp(-k * xp.maximum(r, 0.1)[..., None] * np.cosh(times)), axis=-1)
        angle = xp.arctan2(y - 1.2, x + 0.5)
        return xp.log(r) + xp.cos(3 * angle) * (0.2 / xp.hypot(x + 0.5, y - 1.2)) ** 3 + x * y

    np.testing.assert_allclose(solution(np.array(0.8), np.array(0.2)), k0(1.5) if k else -0.533847, rtol=1e-6)
    conditions = [value(u=lambda x, y: solution(x, y, jnp), on=part.boundary()) for part in (SQUARE, *HOLES)]
    pde = PDE(PLATE, lambda u, u_xx, u_yy: u_xx + u_yy - k**2 * u, *conditions)
    with double_precision():
        fit = _fit(pde, 300, None, True, KEY)
        points = np.asarray(PLATE.sobol(512, jax.random.key(1)))
        found = Solution(pde, fit.fields, None, {}, 0.0)(x=points[:, 0], y=points[:, 1])
    assert np.abs(found - solution(*points.T)).max() < tolerance


def test_solutions_around_holes_are_saved_and_loaded(tmp_path):
    disc = Ball(x=0.0, y=0.0, radius=1.0) - Ball(x=0.0, y=0.0, radius=0.5)
    ends = [value(u=u, on=Ball(x=0.0, y=0.0, radius=r).boundary()) for u, r in ((0.0, 1.0), (1.0, 0.5))]
    pde = PDE(disc, lambda u_xx, u_yy: u_xx + u_yy, *ends)
    with double_precision():
        solution = Solution(pde, _fit(pde, 100, None, True, KEY).fields, None, {}, 0.0)
        solution.save(tmp_path / "ring.eqx")
        again = Solution.load(tmp_path / "ring.eqx", pde)
    x, y = np.array([0.7, -0.2]), np.array([0.1, 0.8])
    np.testing.assert_allclose(solution(x=x, y=y), np.log(np.hypot(x, y)) / np.log(0.5), rtol=1e-9)
    np.testing.assert_array_equal(again(x=x, y=y), solution(x=x, y=y))
