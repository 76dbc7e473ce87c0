"""Points that crowd towards the boundary: their densities, and what stays as it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import kstest

from sciml import Ball, Box, Polygon, Subdomains
from sciml.pde._crowded import crowded, crowded_on

N = 4096


def drawn(domain):
    with jax.enable_x64(True):
        return np.asarray(domain.sobol(N, jax.random.key(0)))


def moved(domain, **settings):
    with jax.enable_x64(True):
        return np.asarray(crowded(domain, jnp.asarray(drawn(domain)), **settings))


def arcsine(share):
    """The distribution with the density 1 / (pi sqrt(s (1 - s)))."""
    return 2 / np.pi * np.arcsin(np.sqrt(share))


def test_along_each_axis_of_a_box():
    points = moved(Box(x=(1, 3), y=(-1, 0)))
    for share in ((points[:, 0] - 1) / 2, points[:, 1] + 1):
        assert kstest(share, arcsine).statistic < 0.01


@pytest.mark.parametrize("axes", ["xy", "xyz"])
def test_in_a_ball(axes):
    """The density 1 / sqrt(1 - r^2): r^2 has the distribution beta(d / 2, 1 / 2)."""
    from scipy.stats import beta

    ball = Ball(**{a: 0.5 for a in axes}, radius=2.0)
    away = (moved(ball) - 0.5) / 2
    squares = (away**2).sum(axis=1)
    assert squares.max() <= 1 + 1e-9
    assert kstest(squares, beta(len(axes) / 2, 0.5).cdf).statistic < 0.02
    np.testing.assert_allclose(away.mean(axis=0), 0, atol=0.02)


def test_a_product_and_kept_axes():
    domain = Box(t=(0, 1)) * Ball(x=0.0, y=0.0, radius=1.0)
    points, before = moved(domain, kept=("t",)), drawn(domain)
    np.testing.assert_allclose(points[:, 0], before[:, 0], rtol=1e-14)
    assert np.linalg.norm(points[:, 1:], axis=1).mean() > np.linalg.norm(before[:, 1:], axis=1).mean() + 0.1
    assert kstest(moved(domain)[:, 0], arcsine).statistic < 0.01


def test_each_part_has_a_boundary_of_its_own():
    points = moved(Subdomains(left=Box(x=(0, 1)), right=Box(x=(1, 3))))[:, 0]
    for low, high in ((0, 1), (1, 3)):
        own = points[(points >= low) & (points <= high)]
        assert kstest((own - low) / (high - low), arcsine).statistic < 0.02


def test_other_domains_stay_as_they_are():
    triangle = Polygon([(0, 0), (1, 0), (0, 1)])
    np.testing.assert_array_equal(moved(triangle), drawn(triangle))


def test_faces_of_a_box():
    """Towards their edges, on the face; slices, shares of faces and curves inside stay as they are."""
    box, ball = Box(x=(1, 3), y=(-1, 0)), Ball(x=2.0, y=-0.5, radius=0.25)
    with jax.enable_x64(True):
        points = np.asarray(crowded_on(box.boundary(), box, box.boundary().sobol(N)))
        np.testing.assert_allclose(box.distance(jnp.asarray(points)), 0, atol=1e-14)
        ends = points[np.isin(points[:, 0], (1, 3))]
        assert len(ends) > N / 4 and kstest(ends[:, 1] + 1, arcsine).statistic < 0.01
        part = Box(x=(1, 2), y=(-1, 0)).at(y=0)
        for region in (box.at(x=2), part, ball.boundary(), box.at(x=1, y=0)):
            before = region.sobol(64)
            np.testing.assert_array_equal(crowded_on(region, box, before), before)
        inside = ball.sobol(64)
        np.testing.assert_array_equal(crowded_on(ball, ball, inside), crowded(ball, inside))
