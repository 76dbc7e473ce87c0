"""The data set of Poisson's equation on random meshes: the meshes, and the solver against exact solutions; and the
problem that trains on it.
"""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sciml
from sciml import operators
from sciml._problem import datasets, load_module, make_dataset, problems

RECIPE = load_module(datasets()["poisson_mesh"])
PROBLEM = load_module(problems()["poisson_mesh"])


def circle(radius, centre=(0.0, 0.0)):
    return RECIPE.Curve(np.array(centre), radius, np.zeros((2, 4)))


def refined(mesh, curves):
    """Each triangle cut into four; the vertices of the mesh keep their numbers."""
    corners = mesh.triangles
    sides = np.sort(np.concatenate([corners[:, [0, 1]], corners[:, [1, 2]], corners[:, [2, 0]]]), axis=1)
    edges, number = np.unique(sides, axis=0, return_inverse=True)
    a, b, c = number.reshape(3, -1) + len(mesh.points)
    triangles = np.concatenate(
        [np.stack(t, axis=1) for t in [(corners[:, 0], a, c), (a, corners[:, 1], b), (c, b, corners[:, 2]), (a, b, c)]]
    )
    middles = mesh.points[edges].mean(axis=1)
    known = {tuple(edge): i for i, edge in enumerate(edges.tolist())}
    on_curve = np.array([known[tuple(edge)] for edge in np.sort(mesh.edges, axis=1).tolist()])
    middles[on_curve] = mesh.middles
    points, new = np.concatenate([mesh.points, middles]), on_curve + len(mesh.points)
    halves = np.concatenate([np.stack([mesh.edges[:, 0], new], axis=1), np.stack([new, mesh.edges[:, 1]], axis=1)])
    return RECIPE.Mesh(points, triangles, halves, onto(curves, points[halves].mean(axis=1)))


def onto(curves, points):
    """The points moved to the nearest curve, seen from its centre."""
    moved = []
    for curve in curves:
        x, y = (points - curve.centre).T
        moved.append(curve(np.arctan2(y, x)))
    steps = np.stack([np.linalg.norm(m - points, axis=1) for m in moved])
    return np.stack(moved)[steps.argmin(axis=0), np.arange(len(points))]


def relative(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


def sample(number, fewest=150, most=400):
    """The curves, the source and the mesh of a sample."""
    rng = np.random.default_rng([0, number])
    curves, f = RECIPE.domain(rng, 0.5), RECIPE.source(rng)
    return curves, f, RECIPE.triangulated(curves, fewest + (most - fewest) * rng.random(), most, rng)


# Meshes.


@pytest.fixture(scope="module")
def made():
    return RECIPE.make(samples=40).read()


def test_meshes_fill_their_domains(made):
    counts, with_hole = made["mask"].sum(axis=1), 0
    assert counts.max() <= 400 and counts.min() >= 140 and len(set(counts)) > 25
    for number, n in enumerate(counts):
        triangles = made["triangle"][number]
        triangles = triangles[triangles[:, 0] != triangles[:, 1]]
        points = made["position"][number, :n].astype(float)
        curves, _, mesh = sample(number)
        with_hole += len(curves) == 2
        np.testing.assert_allclose(points, mesh.points, atol=1e-6)
        # Euler's formula; all vertices are used; the area is that within the curves but for the chords.
        edges = operators.mesh_edges(triangles).mask.sum() // 2
        assert n - edges + len(triangles) == 2 - len(curves)
        assert set(triangles.ravel()) == set(range(n))
        areas = [curve.length_and_area()[1] for curve in curves]
        assert made["weight"][number].sum() == pytest.approx(areas[0] - sum(areas[1:]), rel=0.03)
        assert (made["weight"][number, :n] > 0).all()
        assert smallest_angle(points[triangles]) > 5
    assert 12 < with_hole < 28


def smallest_angle(corners):
    sides = np.roll(corners, -1, axis=1) - corners
    sides /= np.linalg.norm(sides, axis=-1, keepdims=True)
    return np.degrees(np.arccos((-sides * np.roll(sides, 1, axis=1)).sum(axis=-1)).min())


def test_padding_is_zero(made):
    there = made["mask"].astype(bool)
    for name in ("f", "u", "distance", "weight"):
        assert not made[name][~there].any()
    assert not made["position"][~there].any()
    assert (made["mask"] == (np.arange(400) < made["mask"].sum(axis=1)[:, None])).all()


# The solver.


def test_solver_converges_in_random_domains():
    def exact(x, y):
        return np.sin(2 * x + y) * np.exp(x - y / 2)

    def source(x, y):
        # With phase p = 2 x + y and growth q = x - y / 2: (1.25 - 5) sin(p) + 2 (2 - 1 / 2) cos(p), times exp(q).
        return (3.75 * np.sin(2 * x + y) - 3 * np.cos(2 * x + y)) * np.exp(x - y / 2)

    for number in (0, 1):
        curves, _, mesh = sample(number, 100, 110)
        errors, first = [], len(mesh.points)
        for _ in range(3):
            u = RECIPE.solve(mesh, source, exact)[:first]
            errors.append(relative(u, exact(*mesh.points[:first].T)))
            mesh = refined(mesh, curves)
        assert errors[0] < 5e-4
        assert np.log2(errors[-2] / errors[-1]) > 2.8


def test_solver_on_a_ring_with_zero_values():
    hole = 0.3

    def exact(x, y):
        r = np.hypot(x, y)
        return (1 - r**2) / 4 - (1 - hole**2) / 4 * np.log(r) / np.log(hole)

    errors = []
    for vertices in (150, 600):
        rng = np.random.default_rng(0)
        mesh = RECIPE.triangulated([circle(1.0), circle(hole)], vertices, 2 * vertices, rng)
        u = RECIPE.solve(mesh, lambda x, y: np.ones_like(x))[: len(mesh.points)]
        errors.append(relative(u, exact(*mesh.points.T)))
        assert not u[: len(mesh.edges)].any()
    assert errors[0] < 2e-3 and errors[1] < errors[0] / 6


def test_data_have_the_error_that_the_card_states(made):
    found = []
    for number in range(12):
        curves, f, mesh = sample(number)
        finer = refined(refined(mesh, curves), curves)
        truth = RECIPE.solve(finer, f)[: len(mesh.points)]
        n = len(mesh.points)
        np.testing.assert_allclose(made["f"][number, :n], f(*mesh.points.T), atol=1e-5)
        found.append(relative(made["u"][number, :n], truth))
    assert np.median(found) < 1.5e-3 and max(found) < 5e-3


def test_distance_and_another_mesh_of_the_same_domain(made):
    disc = circle(1.0)
    points = np.array([[0.0, 0.0], [0.3, 0.4], [0.0, 0.99]])
    np.testing.assert_allclose(RECIPE.to_boundary([disc], points), [1.0, 0.5, 0.01], atol=2e-5)
    finer = make_dataset(datasets()["poisson_mesh"], {"samples": 4, "fewest": 300, "most": 800}).read()
    for number in range(4):
        coarse, fine = made["mask"][number].astype(bool), finer["mask"][number].astype(bool)
        assert fine.sum() == pytest.approx(2 * coarse.sum(), rel=0.1)
        means = [(a["weight"][number] * a["u"][number] ** 2).sum() for a in (made, finer)]
        assert means[0] == pytest.approx(means[1], rel=0.06)
        near = made["distance"][number][coarse] == 0
        assert near.sum() == len(sample(number)[2].edges) and not made["u"][number][coarse][near].any()


@pytest.mark.parametrize("settings", [{"fewest": 20}, {"fewest": 500}, {"holes": 1.5}, {"dtype": "int32"}])
def test_bad_settings(settings):
    with pytest.raises(ValueError, match="got"):
        make_dataset(datasets()["poisson_mesh"], settings)


# The problem.


@pytest.fixture(scope="module")
def train(made):
    return PROBLEM.clouds(made, SimpleNamespace(edges=lambda points: ()))


def test_hat_functions_reproduce_bilinear_fields_and_integrals(train):
    hats = operators.on_hats(lambda x, y: operators.mean(y), train, box=PROBLEM.BOX, factor=PROBLEM.vanishing).hats
    features, points, weights, mask, _ = (jnp.asarray(a[0]) for a in train)
    nodes = np.linspace(*PROBLEM.BOX[0], 16)
    x, y = np.meshgrid(nodes, nodes, indexing="ij")
    vanishing = jnp.tanh(features[1] / 0.2)
    # Nodal values of a bilinear function are its coefficients.
    found = hats(features, points) @ (1 + x - 2 * x * y).ravel()
    expected = vanishing * (1 + points[:, 0] - 2 * points[:, 0] * points[:, 1])
    np.testing.assert_allclose(found, expected * mask, atol=1e-5)
    # Hat functions sum to one.
    sums = hats.integrals(features, points, weights).reshape(3, -1).sum(axis=1)
    wanted = [(weights * vanishing * f).sum() for f in (1, *features)]
    np.testing.assert_allclose(sums, wanted, rtol=1e-3, atol=1e-4)
    best = hats.coefficients(features, points, weights, (expected * mask)[None])
    assert relative((hats(features, points) @ best[0]), expected * mask) < 1e-2


def test_hats_need_a_box(train):
    for options in ({"box": [(-1, 1)]}, {"box": 2 * [(1, -1)]}, {"box": PROBLEM.BOX, "count": 1}):
        with pytest.raises(ValueError, match="on_hats: expected"):
            operators.on_hats(operators.linear, train, **options)


def test_errors_are_norms_with_areas(made, train):
    # Twice the error where y > 0.
    batch = train
    u, up = batch[-1], np.where(batch[1][..., 1] > 0, 0.2, 0.1)[:, None]
    found = PROBLEM.errors(u * (1 + up), batch)
    w, v = made["weight"][3].astype(float), made["u"][3].astype(float)
    factor = np.where(made["position"][3, :, 1] > 0, 0.2, 0.1)
    assert found[3] == pytest.approx(np.sqrt((w * (factor * v) ** 2).sum() / (w * v**2).sum()), rel=1e-5)
    # Padding counts for nothing.
    assert PROBLEM.errors(u + 1e3 * ~batch[-2][:, None], batch).max() < 1e-6


def test_problem(tmp_path, monkeypatch):
    monkeypatch.setenv("SCIML_CACHE", str(tmp_path))
    settings = {"samples": 12, "tests": 4, "steps": 2, "batch": 2, "width": 8, "layers": 1}
    made = sciml.problem("poisson_mesh", **settings)
    model, history = sciml.fit(made.model, made.loss, made.data, made.optimiser, steps=2, report=False)
    assert np.isfinite(history["loss"]).all()
    metrics = made.evaluate(model)
    assert set(metrics) == {"relative_l2", "relative_l2_fine"} and 0 < metrics["relative_l2"] < 5
    features, *rest, mask, u = made.data(jax.random.key(0))
    # Samples of the training part, whole and up to their sign.
    data = sciml.dataset("poisson_mesh", samples=12).read()
    for f, solution in zip(features[:, 0], u[:, 0]):
        number = np.argmin(np.abs(np.abs(data["u"]) - np.abs(solution)).sum(axis=1))
        sign = np.sign(np.vdot(solution, data["u"][number]))
        assert number >= 4
        np.testing.assert_array_equal(sign * f, data["f"][number])
        np.testing.assert_array_equal(sign * solution, data["u"][number])
    out = model(features[0], *(jax.tree.map(lambda a: a[0], entry) for entry in rest), mask[0])
    assert not out[0, features[0, 1] == 0].any() and out.any()
    assert len(made.figure(model).axes) == 3 * 5 + 3 * 4


def test_baselines(train):
    fitted, held_out = (jax.tree.map(lambda a, part=part: a[part], train) for part in (slice(0, 30), slice(30, None)))
    scores = {}
    for name, fit in PROBLEM.SIMPLE.items():
        model = operators.on_hats(fit, fitted, box=PROBLEM.BOX, factor=PROBLEM.vanishing)
        scores[name] = PROBLEM.errors(PROBLEM.predicted(model, held_out), held_out).mean()
    assert 0.8 < scores["mean"] < 1.5 and scores["linear"] < 2 and scores["kernel_ridge"] < 2


def test_figure_of_meshes(made, train):
    u = train[-1]
    drawn = operators.mesh_figure(train, 1.1 * u, made["triangle"], rows=2, input_name="source")
    # Ten panels, and a bar of colours beside the fields.
    assert len(drawn.axes) == 2 * 5 + 2 * 4
    assert "relative error 0.1" in drawn.axes[0].get_title()
    for bad in ((1.1 * u[:, :, 1:], made["triangle"]), (u, made["triangle"][:-1])):
        with pytest.raises(ValueError, match="mesh_figure: predictions"):
            operators.mesh_figure(train, *bad)
    with pytest.raises(ValueError, match="mesh_figure: expected points"):
        operators.mesh_figure((train[0], train[1][..., :1], *train[2:]), u, made["triangle"])
