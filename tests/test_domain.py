"""Domains against exact measures, normals and moments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sciml import Ball, Box, Cloud, Polygon

KEY = jax.random.key(0)
SQUARE = Box(x=(-1, 1), y=(-1, 1))
DISC = Ball(x=0.0, y=0.0, radius=0.5)
L_VERTICES = [(0, 0), (2, 0), (2, 1), (1, 1), (1, 2), (0, 2)]
L_BOXES = Box(x=(0, 2), y=(0, 1)) | Box(x=(0, 1), y=(1, 2))
HOLES = SQUARE - Ball(x=-0.5, y=-0.5, radius=0.2) - Ball(x=0.5, y=-0.5, radius=0.2) - Ball(x=0.5, y=0.5, radius=0.3)
LENS = Ball(x=0.0, y=0.0, radius=1.0) & Ball(x=1.0, y=0.0, radius=1.0)
HALF = Ball(x=0.0, y=0.0, radius=1.0) & Box(x=(0, 2), y=(-2, 2))
LENS_AREA = 2 * np.pi / 3 - np.sqrt(3) / 2

# name: (domain, measure, measure of the boundary, relative tolerance)
SOLIDS = {
    "interval": (Box(x=(-1, 2)), 3.0, 2.0, 1e-12),
    "square": (SQUARE, 4.0, 8.0, 1e-12),
    "box 3-D": (Box(x=(0, 1), y=(0, 2), z=(0, 3)), 6.0, 22.0, 1e-12),
    "space-time": (Box(t=(0, 2), x=(0, 3)), 6.0, 4.0, 1e-12),
    "ball 1-D": (Ball(x=1.0, radius=2.0), 4.0, 2.0, 1e-12),
    "disc": (DISC, np.pi / 4, np.pi, 1e-12),
    "ball 3-D": (Ball(x=0.0, y=0.0, z=1.0, radius=2.0), 32 * np.pi / 3, 16 * np.pi, 1e-12),
    "ball 5-D": (Ball(a=0.0, b=0.0, c=0.0, d=0.0, e=0.0, radius=1.0), 8 * np.pi**2 / 15, 8 * np.pi**2 / 3, 1e-12),
    "triangle": (Polygon([(0, 0), (1, 0), (0, 1)]), 0.5, 2 + np.sqrt(2), 1e-12),
    "clockwise L": (Polygon(L_VERTICES[::-1]), 3.0, 8.0, 1e-12),
    "star": (Polygon([(0, 0), (2, 1), (4, 0), (3, 2), (4, 4), (2, 3), (0, 4), (1, 2)]), 8.0, 8 * np.sqrt(5), 1e-12),
    "L of boxes": (L_BOXES, 3.0, 8.0, 2e-3),
    "boxes on one line": (Box(x=(0, 2), y=(0, 1)) | Box(x=(1, 3), y=(0, 1)), 3.0, 8.0, 2e-3),
    "holes": (HOLES, 4 - 0.17 * np.pi, 8 + 1.4 * np.pi, 1e-3),
    "lens": (LENS, LENS_AREA, 4 * np.pi / 3, 2e-3),
    "half disc": (HALF, np.pi / 2, np.pi + 2, 2e-3),
    "notch": (SQUARE - Box(x=(0, 1), y=(0, 1)), 3.0, 8.0, 2e-3),
    "time x ring": (Box(t=(0, 3)) * (SQUARE - DISC), 3 * (4 - np.pi / 4), 3 * (8 + np.pi), 1e-3),
}
PLANE = ["square", "disc", "triangle", "clockwise L", "star", "L of boxes", "holes", "lens", "half disc", "notch"]


@pytest.fixture
def double():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("name", SOLIDS)
def test_measures(name):
    domain, inside, edge, tolerance = SOLIDS[name]
    assert domain.measure == pytest.approx(inside, rel=tolerance)
    assert domain.boundary().measure == pytest.approx(edge, rel=tolerance)


@pytest.mark.parametrize("name", SOLIDS)
def test_samples_lie_inside_and_on_the_boundary(name, double):
    domain = SOLIDS[name][0]
    sample = jax.jit(lambda key: domain.sample(key, 500))(KEY)
    assert sample.shape == (500, len(domain.axes)) and domain.contains(sample).all()
    # Compiled or not, the same points to rounding; the same way, the same bits.
    np.testing.assert_allclose(sample, domain.sample(KEY, 500), atol=1e-13)
    assert (domain.sample(KEY, 50) == domain.sample(KEY, 50)).all()
    edge = domain.boundary().sample(KEY, 500)
    if "t" not in domain.axes:
        assert float(jnp.max(jnp.abs(domain.distance(edge)))) < 1e-12
    assert domain.contains(edge, tolerance=1e-9).all()
    assert domain.contains(domain.sobol(300)).all() and domain.contains(domain.grid(9)).all()


@pytest.mark.parametrize("name", ["disc", "triangle", "star", "holes", "lens", "notch", "ball 3-D", "L of boxes"])
def test_samples_are_uniform(name, double):
    """Counts in the cells of a grid against areas found by a fine grid: a chi-square test."""
    domain = SOLIDS[name][0]
    points = np.asarray(domain.sample(KEY, 40_000))
    fine = domain.grid(80 if len(domain.axes) == 3 else 600)
    low, high = np.array([domain.bounds[a] for a in domain.axes]).T

    def counts(p):
        cell = np.minimum(((p - low) / (high - low) * 5).astype(int), 4)
        return np.bincount(np.ravel_multi_index(cell.T, (5,) * len(low)), minlength=5 ** len(low))

    expected = counts(fine) / len(fine) * len(points)
    large = expected > 400
    z = (counts(points)[large] - expected[large]) / np.sqrt(expected[large])
    # The fine grid has an error of its own at the boundary of the cells.
    assert np.abs(z).max() < 6 and np.mean(z**2) < 3


@pytest.mark.parametrize("name", ["disc", "star", "holes", "half disc", "notch"])
def test_boundary_samples_are_uniform(name, double):
    """The divergence theorem with F = (x, 0): the area is the integral of x n_x over the boundary."""
    domain, area, length, _ = SOLIDS[name]
    edge = domain.boundary()
    points = edge.sobol(20_000, KEY)
    normals = edge.normal(points)
    for axis in (0, 1):
        flux = float(jnp.mean(points[:, axis] * normals[:, axis])) * length
        assert flux == pytest.approx(area, abs=0.02 * length)
        assert float(jnp.mean(normals[:, axis])) * length == pytest.approx(0.0, abs=0.02 * length)


@pytest.mark.parametrize("name", [*PLANE, "ball 3-D", "box 3-D"])
def test_normals_are_unit_and_point_outwards(name, double):
    domain = SOLIDS[name][0]
    edge = domain.boundary()
    points = edge.sample(KEY, 400)
    normals = edge.normal(points)
    np.testing.assert_allclose(jnp.linalg.norm(normals, axis=1), 1.0, rtol=1e-12)
    step = 1e-6
    # Within a step of a corner the direction is not defined.
    assert np.mean(domain.contains(points + step * normals, tolerance=0.0)) < 0.01
    assert np.mean(domain.contains(points - step * normals, tolerance=0.0)) > 0.99


def test_normals_of_a_product_have_no_time_component(double):
    edge = (Box(t=(0, 1)) * DISC).boundary()
    points = edge.sample(KEY, 50)
    np.testing.assert_allclose(edge.normal(points), jnp.concatenate([jnp.zeros((50, 1)), 2 * points[:, 1:]], 1))


def test_moments_of_the_ball(double):
    r2 = jnp.sum(Ball(x=0.0, y=0.0, z=0.0, radius=1.0).sample(KEY, 50_000) ** 2, axis=1)
    assert float(r2.mean()) == pytest.approx(3 / 5, abs=0.005)
    angle = jnp.arctan2(*DISC.boundary().sample(KEY, 50_000).T)
    assert float(jnp.mean(jnp.cos(2 * angle))) == pytest.approx(0.0, abs=0.02)


def test_sobol_integrates_better_than_random(double):
    def error(points):
        return abs(float(jnp.mean(jnp.exp(points[:, 0] + points[:, 1]))) - np.sinh(1) ** 2)

    random = np.mean([error(SQUARE.sample(jax.random.key(i), 1024)) for i in range(10)])
    shifted = np.mean([error(SQUARE.sobol(1024, jax.random.key(i))) for i in range(10)])
    assert shifted < random / 8


def test_faces_slices_and_points(double):
    domain = Box(t=(0, 1), x=(-1, 1), y=(0, 2))
    start = domain.at(t=0)
    assert start.fixed == {"t": 0.0} and start.dim == 2 and start.measure == 4.0 and start.label == "t=0"
    assert (start.sample(KEY, 10)[:, 0] == 0).all()
    faces = domain.boundary("x")
    assert [p.fixed for p in faces.pieces] == [{"x": -1.0}, {"x": 1.0}] and faces.label == "x boundary"
    points = faces.sample(KEY, 40)
    np.testing.assert_array_equal(faces.normal(points)[:, 1], points[:, 1])
    assert len(domain.boundary().pieces) == 4
    corner = domain.at(t=0, x=1, y=2)
    assert corner.dim == 0 and corner.measure == 1.0
    np.testing.assert_array_equal(corner.sample(KEY, 3), [[0, 1, 2]] * 3)
    with pytest.raises(ValueError, match="not one face"):
        domain.at(x=0.5).normal(points)


def test_grid_of_a_box():
    grid = Box(x=(0, 1), y=(0, 2)).grid({"x": 3, "y": 2})
    np.testing.assert_array_equal(grid, [[0, 0], [0, 2], [0.5, 0], [0.5, 2], [1, 0], [1, 2]])
    with pytest.raises(ValueError, match="given for y"):
        Box(x=(0, 1), y=(0, 2)).grid({"x": 3})


def test_cloud():
    normals = np.array([[0.0, 1.0], [1.0, 0.0]])
    cloud = Cloud(x=[0.0, 1.0], y=[2.0, 3.0], normals=normals)
    assert cloud.measure == 2 and cloud.dim == 0
    assert set(map(tuple, np.asarray(cloud.sample(KEY, 20)))) == {(0.0, 2.0), (1.0, 3.0)}
    np.testing.assert_array_equal(cloud.normal(jnp.array([[1.0, 3.0]])), [[1.0, 0.0]])


def test_distance_is_exact_for_simple_shapes(double):
    points = jax.random.uniform(KEY, (200, 2), minval=-2, maxval=2)
    x, y = np.abs(np.asarray(points)).T
    outside = np.hypot(np.maximum(x - 1, 0), np.maximum(y - 1, 0))
    expected = np.where(outside > 0, outside, np.maximum(x, y) - 1)
    np.testing.assert_allclose(SQUARE.distance(points), expected, atol=1e-14)
    as_polygon = Polygon([(-1, -1), (1, -1), (1, 1), (-1, 1)])
    np.testing.assert_allclose(as_polygon.distance(points), expected, atol=1e-14)


@pytest.mark.parametrize("name", ["disc", "triangle", "star", "holes", "notch", "ball 3-D"])
def test_smooth_distance_vanishes_on_the_boundary_only(name, double):
    domain = SOLIDS[name][0]
    edge = domain.boundary()
    on = jax.vmap(edge.smooth_distance)(edge.sample(KEY, 200))
    assert float(jnp.max(jnp.abs(on))) < 1e-8
    inside = domain.sample(KEY, 300)
    inside = inside[np.asarray(domain.distance(inside) < -0.02)]
    assert float(jnp.min(jnp.abs(jax.vmap(edge.smooth_distance)(inside)))) > 1e-4


def test_precision_follows_the_context():
    """In single precision after double, without warnings: nothing is cached in the wrong one."""
    for domain, *_ in SOLIDS.values():
        with jax.enable_x64(True):
            assert domain.sample(KEY, 4).dtype == np.float64 and domain.sobol(4).dtype == np.float64
        edge = domain.boundary()
        points = edge.sample(KEY, 4)
        assert domain.sample(KEY, 4).dtype == points.dtype == domain.sobol(4, KEY).dtype == np.float32
        assert edge.normal(points).dtype == domain.distance(points).dtype == np.float32


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Box(), "at least one axis"),
        (lambda: Box(x=(1, 0)), "low < high"),
        (lambda: Box(x=(0, 0)), "low < high"),
        (lambda: Box(x=(0, np.inf)), "finite"),
        (lambda: Box(x=(0, np.nan)), "finite"),
        (lambda: Box(n=(0, 1)), "cannot be called 'n'"),
        (lambda: Ball(x=0.0, radius=-1.0), "positive"),
        (lambda: Ball(x=np.nan, radius=1.0), "finite"),
        (lambda: Polygon([(0, 0), (1, 1)]), "three or more"),
        (lambda: Polygon([(0, 0), (1, 1), (2, 2)]), "area is zero"),
        (lambda: Polygon([(0, 0), (1, 1), (1, 0), (0, 1)]), "cross|zero"),
        (lambda: Polygon([(0, 0), (1, np.nan), (1, 0)]), "finite"),
        (lambda: Cloud(x=[0.0], y=[1.0, 2.0]), "common length"),
        (lambda: Cloud(x=[np.nan]), "finite"),
        (lambda: SQUARE.at(t=0), "no axis 't'"),
        (lambda: SQUARE.at(x=3), "runs from -1 to 1"),
        (lambda: SQUARE.boundary("z"), "no axis 'z'"),
        (lambda: DISC.boundary("x"), "write boundary"),
        (lambda: DISC.at(x=0), "no slices"),
        (lambda: SQUARE.sample(KEY, 0), "above 0"),
        (lambda: SQUARE * Box(x=(0, 1)), "different axes"),
        (lambda: SQUARE - Ball(y=0.0, x=0.0, radius=1.0), "same order"),
        (lambda: SQUARE & Ball(x=5.0, y=0.0, radius=1.0), "empty"),
        (lambda: SQUARE.normal(jnp.zeros((1, 2))), "no outward normal"),
        (lambda: Cloud(x=[0.0]).boundary(), "no boundary"),
    ],
)
def test_errors(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_atoms_of_a_union_may_be_found_while_a_function_is_compiled():
    left, right = Ball(x=-2.0, y=0.0, radius=1.0), Ball(x=2.0, y=0.0, radius=0.5)
    edge = Box(t=(0, 1)) * (left | right).boundary()
    points = np.asarray(jax.jit(lambda key: edge.sample(key, 200))(jax.random.key(0)))
    on_left = points[:, 1] < 0
    np.testing.assert_allclose(np.hypot(points[on_left, 1] + 2, points[on_left, 2]), 1, atol=1e-5)
    np.testing.assert_allclose(np.hypot(points[~on_left, 1] - 2, points[~on_left, 2]), 0.5, atol=1e-5)
    # Each circle has its share of the length.
    assert abs(on_left.mean() - 2 / 3) < 0.15
