"""Operators on sensors, point clouds and meshes, and their graphs."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.spatial import Delaunay

from sciml import fit, load, misfit, save
from sciml.operators._axes import Bounded, Periodic, ends
from sciml.operators._deeponet import DeepONet, MultipleInputDeepONet, PODDeepONet, pod
from sciml.operators._graph import FourierGraphOperator, GraphOperator, KernelIntegral, grid_points
from sciml.operators._neighbours import (
    Edges,
    bucket,
    cloud_misfit,
    mesh_edges,
    mesh_weights,
    nearest_edges,
    pad_cloud,
    pad_edges,
    radius_edges,
    stack_clouds,
)
from sciml.operators._transolver import OnGrid, PhysicsAttention, Transolver

RADIUS = 0.3
key = jax.random.key


def filled(make, seed=0):
    """The model that `make` gives for a key, with numbers drawn on the host: nothing is compiled for them."""
    draw = np.random.default_rng(seed)

    def numbers(leaf):
        scale = leaf.shape[-1] ** -0.5 if len(leaf.shape) > 1 else 0.3
        return jnp.asarray(scale * draw.normal(size=leaf.shape), leaf.dtype)

    shapes = eqx.filter_eval_shape(make, key(seed))
    return jax.tree.map(lambda leaf: numbers(leaf) if isinstance(leaf, jax.ShapeDtypeStruct) else leaf, shapes)


@eqx.filter_jit
def run(model, *arguments, **others):
    return model(*arguments, **others)


def places(n, d=2, seed=0):
    return np.random.default_rng(seed).uniform(size=(n, d)).astype(np.float32)


def smooth(x, channels=2):
    return np.stack([np.sin(3 * x[:, 0] + i) * np.cos(2 * x[:, -1]) for i in range(channels)]).astype(np.float32)


def new_graph(key, **settings):
    settings = {"radius": RADIUS, "width": 8, "layers": 1} | settings
    return GraphOperator(2, 3, key=key, **settings)


def graph(seed=0, **settings):
    return filled(lambda k: new_graph(k, **settings), seed)


class Mixing(eqx.Module):
    """A convolution that mixes channels, on any grid."""

    convolution: eqx.nn.Conv2d

    def __init__(self, inputs, outputs):
        self.convolution = eqx.nn.Conv2d(inputs, outputs, 3, padding="SAME", key=key(7))

    def __call__(self, a):
        return jnp.tanh(self.convolution(a))


def new_fourier(key, grid_channels=0, **settings):
    latent = Mixing(8 + grid_channels, 5)
    settings = {"grid": (6, 5), "width": 8, "radius": RADIUS, "grid_channels": grid_channels} | settings
    return FourierGraphOperator(2, 3, latent, key=key, **settings)


def fourier(seed=0, **settings):
    return filled(lambda k: new_fourier(k, **settings), seed)


def new_transolver(key):
    return Transolver(2, 3, width=8, layers=1, heads=2, slices=4, key=key)


def transolver(seed=0):
    return filled(new_transolver, seed)


MODELS = {"graph": graph, "fourier": fourier, "transolver": transolver}


def graphs_of(model, x):
    """The sets of edges that a model takes."""
    if isinstance(model, GraphOperator):
        return (radius_edges(x, RADIUS),)
    return model.edges(x) if isinstance(model, FourierGraphOperator) else ()


def cloud(model, n, seed=0):
    """The arguments of a model but for the mask, on one cloud of n points."""
    x = places(n, seed=seed)
    weights = np.random.default_rng(seed + 1).uniform(0.5, 2, n).astype(np.float32)
    return jax.tree.map(jnp.asarray, (smooth(x), x, *graphs_of(model, x), weights))


def dense_pairs(x, y, radius, period=None):
    """The set of (sender, receiver) by brute force."""
    offsets = x[None] - y[:, None]
    if period is not None:
        offsets -= np.array(period) * np.round(offsets / np.array(period))
    receivers, senders = np.nonzero((offsets**2).sum(-1) <= radius**2)
    return sorted(zip(senders.tolist(), receivers.tolist()))


def pairs(edges):
    return sorted(zip(edges.senders[edges.mask].tolist(), edges.receivers[edges.mask].tolist()))


# Neighbours


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("period", [None, 1.0])
def test_radius_edges_are_those_of_brute_force(d, period):
    x, y = places(60, d).astype(float), places(40, d, seed=1).astype(float)
    found = radius_edges(x, RADIUS, targets=y, period=period)
    assert pairs(found) == dense_pairs(x, y, RADIUS, None if period is None else [period] * d)
    assert (np.diff(found.receivers[found.mask]) >= 0).all()
    assert len(found.mask) == bucket(int(found.mask.sum()))


def test_a_box_may_be_periodic_in_one_dimension_and_points_may_lie_outside():
    x = np.array([[0.05, 0.05], [1.95, 0.05], [0.05, 0.95], [-1e-20, 0.5]])
    found = radius_edges(x, 0.2, period=(2.0, None))
    assert pairs(found) == sorted([(i, i) for i in range(4)] + [(0, 1), (1, 0)])
    assert pairs(radius_edges(x + [14.0, 0.0], 0.2, period=(2.0, None))) == pairs(found)


def test_nearest_edges_are_those_of_brute_force():
    x, y = places(30), places(20, seed=1)
    for k in (1, 4):
        found = nearest_edges(x, k, targets=y)
        nearest = np.argsort(((x[None] - y[:, None]) ** 2).sum(-1), axis=1)[:, :k]
        assert found.mask.sum() == 20 * k
        assert (found.senders[found.mask].reshape(20, k) == nearest).all()
        assert (found.receivers[found.mask].reshape(20, k) == np.arange(20)[:, None]).all()


def test_edges_and_weights_of_two_triangles():
    square = np.array([[0.0, 0.0], [1, 0], [1, 1], [0, 1]])
    triangles = np.array([[0, 1, 2], [0, 2, 3]])
    both_ways = [(0, 1), (1, 2), (0, 2), (2, 3), (0, 3)]
    assert pairs(mesh_edges(triangles)) == sorted(both_ways + [(b, a) for a, b in both_ways])
    assert mesh_weights(square, triangles) == pytest.approx([1 / 3, 1 / 6, 1 / 3, 1 / 6])


def test_weights_measure_curves_surfaces_and_volumes():
    segment = mesh_weights([[0.0, 0, 0], [3, 4, 0]], [[0, 1]])
    assert segment == pytest.approx([2.5, 2.5])
    tilted = mesh_weights([[0.0, 0, 0], [2, 0, 0], [0, 3, 4], [9, 9, 9]], [[0, 1, 2]])
    assert tilted == pytest.approx([5 / 3, 5 / 3, 5 / 3, 0])
    assert mesh_weights(np.eye(4, 3, -1), [[0, 1, 2, 3]]) == pytest.approx([1 / 24] * 4)
    x = places(200).astype(float)
    cells = Delaunay(x).simplices
    # Exact for linear functions on each triangle.
    centres = x[cells].mean(axis=1)
    areas = [mesh_weights(x, [cell]).sum() for cell in cells]
    assert mesh_weights(x, cells) @ (2 + 3 * x[:, 0] - x[:, 1]) == pytest.approx(
        np.array(areas) @ (2 + 3 * centres[:, 0] - centres[:, 1])
    )


def test_buckets():
    assert [bucket(n) for n in (0, 1, 8, 9, 16, 17, 21, 1000, 1025)] == [8, 8, 8, 10, 16, 20, 24, 1024, 1280]
    assert all(n <= bucket(n) <= max(8, 1.25 * n) for n in range(1, 3000))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: radius_edges(np.zeros(3), 0.1), "expected finite points"),
        (lambda: radius_edges(np.zeros((0, 2)), 0.1), "expected finite points"),
        (lambda: radius_edges([[0.0, np.nan]], 0.1), r"nan at \[0, 1\]"),
        (lambda: radius_edges(places(4), -1.0), "radius must be above 0"),
        (lambda: radius_edges(places(4), 0.6, period=1.0), "above half of the period"),
        (lambda: radius_edges(places(4), 0.1, period=(1.0,)), "for each of 2 dimensions"),
        (lambda: radius_edges(places(4), 0.1, targets=places(4, 3)), "points have 2 dimensions, targets 3"),
        (lambda: radius_edges(places(4), 2.0, size=8), "16 entries do not fit in 8"),
        (lambda: nearest_edges(places(4), 5), "k must be 1 to 4"),
        (lambda: mesh_edges([[0.0, 1.0]]), "expected cells"),
        (lambda: mesh_edges([[-1, 1]]), "vertex numbers from 0"),
        (lambda: mesh_weights(places(4), [[0, 1, 9]]), "up to number 9 do not fit 4 points"),
        (lambda: pad_cloud(np.zeros(4), 3), "4 entries do not fit in 3"),
        (lambda: stack_clouds([], []), "one entry for each cloud"),
        (lambda: stack_clouds([np.zeros((2, 3))], [np.zeros((4, 2))]), "features of cloud 0"),
        (lambda: stack_clouds([np.zeros((2, 4))] * 2, [np.zeros((4, 2))]), "one entry for each cloud"),
    ],
)
def test_bad_clouds_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_stacked_clouds_have_the_shapes_of_arguments():
    sizes = (5, 9)
    xs = [places(n) for n in sizes]
    edges = [radius_edges(x, RADIUS) for x in xs]
    batch = stack_clouds([smooth(x) for x in xs], xs, edges, targets=[smooth(x, 1) for x in xs])
    features, points, graphs, weights, mask, targets = batch
    assert (features.shape, points.shape, targets.shape) == ((2, 2, 10), (2, 10, 2), (2, 1, 10))
    assert mask.sum(axis=1).tolist() == [5, 9] and weights.sum(axis=1).tolist() == [5, 9]
    assert weights.dtype == features.dtype == np.float32
    for i, own in enumerate(edges):
        assert pairs(Edges(*(array[i] for array in graphs))) == pairs(own)


def test_misfit_of_clouds_by_hand():
    target = jnp.array([[[3.0, 4.0, jnp.nan]], [[1.0, 2.0, 2.0]], [[jnp.nan] * 3]])
    mask = jnp.array([[True, True, False], [True, True, True], [False] * 3])
    scale = jnp.array([1.0, 2.0, 3.0])
    terms = cloud_misfit(lambda s, m: s * jnp.array([[3.0, 3.0, jnp.inf]]), (scale[:2], mask[:2], target[:2]))
    # |(0, -1)|^2 / 25 and |(5, 4, inf)|^2, whose last entry is no padding
    assert not jnp.isfinite(terms["misfit"][1]).all()
    terms = cloud_misfit(lambda s, m: s * jnp.array([[3.0, 3.0, 3.0]]), (scale, mask, target))
    each = jnp.mean(terms["misfit"] ** 2, axis=(1, 2))
    assert np.asarray(each) == pytest.approx([1 / 25, (25 + 16 + 16) / 9, 0])


# What all models on clouds have in common


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_one_cloud_in_and_out(make, tmp_path):
    model = make()
    arguments = cloud(model, 20)
    out = run(model, *arguments)
    assert out.shape == (3, 20) and np.isfinite(out).all() and np.std(out) > 1e-3
    save(tmp_path / "model.zip", model)
    again = load(tmp_path / "model.zip", make(1))
    assert (run(again, *arguments) == out).all()
    gradient = eqx.filter_jit(eqx.filter_grad(lambda m: jnp.sum(m(*arguments) ** 2)))(model)
    assert all(np.isfinite(leaf).all() and np.any(leaf != 0) for leaf in map(np.asarray, jax.tree.leaves(gradient)))


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_double_precision(make):
    with jax.enable_x64(True):
        model = make()
        double = jax.tree.map(lambda a: a.astype(float) if eqx.is_inexact_array(a) else a, cloud(model, 20))
        single = jax.tree.map(lambda a: a.astype(jnp.float32) if eqx.is_inexact_array(a) else a, (model, double))
        exact, out = run(model, *double), run(single[0], *single[1])
    assert exact.dtype == jnp.float64 and out.dtype == jnp.float32
    assert np.asarray(out) == pytest.approx(np.asarray(exact), abs=1e-4)


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_permuted_points_give_permuted_output(make):
    model, n = make(), 20
    features, points, *_, weights = cloud(model, n)
    order = np.random.default_rng(3).permutation(n)
    moved = points[order]
    out = run(model, features[:, order], moved, *jax.tree.map(jnp.asarray, graphs_of(model, moved)), weights[order])
    assert np.asarray(out) == pytest.approx(np.asarray(run(model, *cloud(model, n))[:, order]), abs=1e-5)


@pytest.mark.parametrize("hold", [np.nan, 1e30])
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_padding_is_invisible(make, hold):
    """Clouds of several sizes in one batch, with anything at all as padding, against each by itself."""
    model, sizes = make(), (11, 20)
    singles = [cloud(model, n, seed=n) for n in sizes]
    features, points, *graphs, weights = zip(*singles)
    target = [np.asarray(smooth(x, 3)) for x in points]
    batch = stack_clouds(features, points, *graphs, weights=weights, targets=target)
    *arguments, mask, padded_target = jax.tree.map(jnp.asarray, batch)

    def spoilt(array):
        if not eqx.is_inexact_array(array):
            return array
        there = mask.reshape(mask.shape + (1,) * (array.ndim - 2))
        return jnp.where(there if array.shape[1] == mask.shape[1] else mask[:, None], array, hold)

    arguments = [spoilt(a) if not isinstance(a, Edges) else a._replace(senders=jnp.where(a.mask, a.senders, 10**6))
                 for a in arguments]  # fmt: skip
    out = run(jax.vmap(model), *arguments, mask)
    for i, (n, single) in enumerate(zip(sizes, singles)):
        assert np.asarray(out[i, :, :n]) == pytest.approx(np.asarray(run(model, *single)), abs=2e-6)
        assert (out[i, :, n:] == 0).all()
    gradient = eqx.filter_jit(eqx.filter_grad(_mean_square))(model, (*arguments, mask, spoilt(padded_target)))
    one = eqx.filter_jit(eqx.filter_grad(_relative_square))
    each = [one(model, single, t) for single, t in zip(singles, target)]
    mean = jax.tree.map(lambda *g: sum(g) / 2, *each)
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(mean), strict=True):
        assert np.asarray(a) == pytest.approx(np.asarray(b), rel=1e-3, abs=1e-5)


def _mean_square(model, batch):
    return jnp.mean(cloud_misfit(model, batch)["misfit"] ** 2)


def _relative_square(model, arguments, target):
    return jnp.sum((model(*arguments) - target) ** 2) / jnp.sum(target**2)


def test_edges_to_and_from_padding_do_not_count():
    model = graph()
    features, points, edges, weights = cloud(model, 20)
    there = jnp.arange(20) < 15
    kept = edges.mask & there[edges.senders] & there[edges.receivers]
    out = run(model, features, points, edges, weights, there)
    few = run(model, features, points, edges._replace(mask=kept), weights, there)
    assert np.asarray(out) == pytest.approx(np.asarray(few), abs=1e-6) and (out[:, 15:] == 0).all()


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_a_point_may_be_split_in_two_of_half_the_weight(make):
    """What depends on an integral does not depend on how it is cut to pieces."""
    model, n = make(), 20
    features, points, *_, weights = cloud(model, n)
    halved = weights.at[4].multiply(0.5)
    twice = [jnp.concatenate([a, a[4:5]]) for a in (features.T, points, halved)]
    graphs = jax.tree.map(jnp.asarray, graphs_of(model, twice[1]))
    out = run(model, twice[0].T, twice[1], *graphs, twice[2])
    assert np.asarray(out[:, :n]) == pytest.approx(np.asarray(run(model, *cloud(model, n))), abs=1e-5)


def test_an_operator_learns_on_clouds_of_several_sizes():
    model = new_graph(key(0))
    clouds = [cloud(model, n, seed=n) for n in (20, 26, 30, 32)]
    features, points, *graphs, weights = zip(*clouds)
    targets = [np.stack([f[0] * f[1], f[0], f[1] ** 2]) for f in map(np.asarray, features)]
    batch = stack_clouds(features, points, *graphs, weights=weights, targets=targets)
    _, history = fit(model, cloud_misfit, [batch], optax.adam(1e-2), steps=120, every=10, report=False)
    assert float(history.loss[-1]) < 0.2 * float(history.loss[0])


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_other_shapes_are_refused(make):
    model = make()
    features, points, *rest = cloud(model, 20)
    with pytest.raises(ValueError, match=r"expected features \(2, n\) and points \(n, 2\)"):
        model(features[:1], points, *rest)
    with pytest.raises(ValueError, match="a batch needs jax.vmap"):
        model(features, jnp.concatenate([points, points], axis=1), *rest)


# Kernel integrals


def integral(kernel, radius=RADIUS, average=False, period=None):
    return KernelIntegral(kernel, radius, average, period)


def test_the_integral_is_that_of_dense_matrices():
    x, y = places(40).astype(np.float32), places(15, seed=1)
    values, contexts = smooth(x, 4).T, (smooth(x, 2).T, smooth(y, 2).T)
    weights = np.linspace(1, 2, 40, dtype=np.float32)
    kernel = filled(lambda k: eqx.nn.MLP(2 + 1 + 4, 4, 8, 1, key=k))
    offsets = (x[None] - y[:, None]) / RADIUS
    squares = (offsets**2).sum(-1)
    spread = [np.broadcast_to(c, (15, 40, 2)) for c in (contexts[0][None], contexts[1][:, None])]
    known = np.concatenate([offsets, squares[..., None], *spread], axis=-1)
    share = weights * np.where(squares < 1, (1 - squares) ** 2, 0)
    dense = np.einsum(
        "mn,mnc,nc->mc", share, np.asarray(jax.jit(jax.vmap(jax.vmap(kernel)))(jnp.asarray(known))), values
    )
    arguments = jax.tree.map(jnp.asarray, (values, x, y, radius_edges(x, RADIUS, targets=y), weights, contexts))
    assert np.asarray(run(integral(kernel), *arguments)) == pytest.approx(dense, abs=1e-4)
    averaged = run(integral(kernel, average=True), *arguments)
    assert np.asarray(averaged) == pytest.approx(dense / share.sum(1, keepdims=True), abs=1e-5)


def uneven_mesh(n, seed=0):
    """Points of [0, 1]^2, denser to the left, their cells, and weights; the same three points in all."""
    grid = np.stack(np.meshgrid(*[np.linspace(0, 1, n)] * 2), -1).reshape(-1, 2)
    inner = ((grid > 0) & (grid < 1)).all(axis=1)
    grid[inner] += np.random.default_rng(seed).uniform(-0.3, 0.3, (inner.sum(), 2)) / n
    grid[:, 0] = grid[:, 0] ** 2
    probes = np.array([[0.4123, 0.5011], [0.5532, 0.4437], [0.3511, 0.6022]])
    x = np.concatenate([probes, grid])
    return x, mesh_weights(x, Delaunay(x).simplices)


def test_integrals_converge_to_the_known_one():
    """Of (1 - s^2)^2 y_1^2 over the ball of radius R: x_1^2 pi R^2 / 3 + pi R^4 / 24."""
    errors = []
    with jax.enable_x64(True):
        for n in (20, 40, 80):
            x, w = uneven_mesh(n)
            probes = x[:3]
            edges = radius_edges(x, RADIUS, targets=probes)
            one = integral(lambda _: jnp.ones(1))
            arguments = (x[:, :1] ** 2, x, probes, edges, w)
            out = run(one, *jax.tree.map(jnp.asarray, arguments))[:, 0]
            exact = probes[:, 0] ** 2 * np.pi * RADIUS**2 / 3 + np.pi * RADIUS**4 / 24
            errors.append(float(np.abs(np.asarray(out) / exact - 1).max()))
    assert errors[-1] < 1e-3 and np.log2(errors[0] / errors[-1]) / 2 > 1.5


def test_the_operator_converges_as_points_are_refined_if_weighted():
    model = graph(average=True)

    def at_probes(n, weighted, seed):
        x, w = uneven_mesh(n, seed)
        arguments = (smooth(x), x.astype(np.float32), radius_edges(x, RADIUS), w.astype(np.float32))
        return run(model, *jax.tree.map(jnp.asarray, arguments if weighted else arguments[:3]))[:, :3]

    fine = at_probes(56, True, 1)
    size = float(jnp.abs(fine).max())
    coarse, finer = (float(jnp.abs(at_probes(n, True, 0) - fine).max()) / size for n in (12, 40))
    biased = float(jnp.abs(at_probes(40, False, 0) - fine).max()) / size
    assert finer < 3e-3 and finer < coarse / 4 and biased > 3 * finer


def test_translated_points_give_the_same_output():
    model = graph()
    features, points, edges, weights = cloud(model, 20)
    moved = run(model, features, points + jnp.array([5.0, -3.0]), edges, weights)
    assert np.asarray(moved) == pytest.approx(np.asarray(run(model, features, points, edges, weights)), abs=1e-4)


def test_a_periodic_box_has_no_edge():
    model = graph(period=(1.0, None))
    x = places(30)
    shifted = np.stack([(x[:, 0] + 0.37) % 1, x[:, 1]], axis=1)
    outs = []
    for points in (x, shifted):
        edges = radius_edges(points, RADIUS, period=(1.0, None))
        outs.append(np.asarray(run(model, *jax.tree.map(jnp.asarray, (smooth(x), points, edges)))))
    assert outs[0] == pytest.approx(outs[1], abs=1e-5)
    bounded = run(graph(), *jax.tree.map(jnp.asarray, (smooth(x), x, radius_edges(x, RADIUS))))
    assert np.abs(outs[0] - np.asarray(bounded)).max() > 1e-3


def test_neighbours_come_within_reach_smoothly():
    model, features = graph(), jnp.ones((2, 2)).at[:, 1].set(-1.0)

    @jax.jit
    def out(distance):
        x = jnp.array([[0.0, 0.0], [1.0, 0.0]]) * distance
        edges = Edges(*map(jnp.asarray, ([0, 1, 0, 1], [0, 1, 1, 0], [True] * 4)))
        return model(features, x, edges)[0, 0]

    near, far = out(RADIUS * (1 - 1e-3)), out(RADIUS * (1 + 1e-3))
    assert abs(float(near - far)) < 1e-4 and abs(float(near - out(RADIUS / 2))) > 1e-3
    slope = jax.jit(jax.grad(out))
    assert np.isfinite(slope(0.0)) and float(slope(RADIUS / 2)) != 0


def test_a_point_without_neighbours_and_a_mesh():
    model = graph()
    x = np.array([[0.0, 0.0], [0.1, 0.0], [0.0, 0.1], [9.0, 9.0]], np.float32)
    out = run(model, *jax.tree.map(jnp.asarray, (smooth(x), x, mesh_edges([[0, 1, 2]]))))
    assert jnp.isfinite(out).all()


@pytest.mark.parametrize("radius", [0.0, -1.0, np.nan])
def test_a_radius_must_be_positive(radius):
    with pytest.raises(ValueError, match="radius must be above 0"):
        graph(radius=radius)
    with pytest.raises(ValueError, match="radius must be above 0"):
        fourier(radius=radius)


# Through a grid


def test_output_at_other_places_than_the_input():
    model, x, y = fourier(), places(20), places(9, seed=5)
    features, points, encode, _, weights = cloud(model, 20)
    forth, back = jax.tree.map(jnp.asarray, model.edges(x, y))
    assert pairs(jax.tree.map(np.asarray, forth)) == pairs(jax.tree.map(np.asarray, encode))
    out = run(model, features, points, forth, back, weights, queries=jnp.asarray(y))
    both = np.concatenate([x, y])
    all_back = model.edges(x, both)[1]
    whole = run(model, features, points, forth, jax.tree.map(jnp.asarray, all_back), weights, queries=jnp.asarray(both))
    assert np.asarray(whole[:, 20:]) == pytest.approx(np.asarray(out), abs=1e-5)
    padded = pad_cloud(y, 12)
    padded[9:] = np.nan
    mask = jnp.arange(12) < 9
    masked = run(model, features, points, forth, back, weights, queries=jnp.asarray(padded), query_mask=mask)
    assert (masked[:, 9:] == 0).all() and np.asarray(masked[:, :9]) == pytest.approx(np.asarray(out), abs=1e-6)


def test_fields_on_the_grid_enter():
    model = fourier(grid_channels=1)
    arguments, field = cloud(model, 20), jnp.asarray(np.ones((1, 6, 5), np.float32))
    out = run(model, *arguments, grid_features=field)
    assert np.abs(np.asarray(out) - np.asarray(run(model, *arguments, grid_features=-field))).max() > 1e-3
    with pytest.raises(ValueError, match=r"expected grid_features of shape \(1, 6, 5\), got None"):
        model(*arguments)


def test_a_periodic_grid_commutes_with_its_translations():
    """With a latent operator that does: here one at each point."""
    settings = {"grid": (6, 4), "box": ((-1, 2), (0, 1)), "axes": (Periodic(), Bounded()), "width": 8, "radius": 0.7}
    model = filled(lambda k: FourierGraphOperator(2, 3, eqx.nn.Lambda(jnp.sin), key=k, **settings))
    x = np.stack([3 * places(30)[:, 0] - 1, places(30)[:, 1]], axis=1)
    moved = np.stack([(x[:, 0] + 1 + 2 * 0.5) % 3 - 1, x[:, 1]], axis=1)
    outs = [
        np.asarray(run(model, *jax.tree.map(jnp.asarray, (smooth(x), points, *model.edges(points)))))
        for points in (x, moved.astype(np.float32))
    ]
    assert outs[0] == pytest.approx(outs[1], abs=1e-5) and np.ptp(outs[0]) > 1e-3


def test_grid_points_are_in_the_order_of_a_flattened_field():
    x = grid_points((2, 3), Bounded(points=ends), [(0, 1), (2, 4)])
    assert x.tolist() == [[0, 2], [0, 3], [0, 4], [1, 2], [1, 3], [1, 4]]


def test_what_does_not_fit_the_grid_is_refused():
    with pytest.raises(ValueError, match=r"1 queries have no point of the grid.*\[5.0, 5.0\]"):
        fourier().edges(places(4), np.array([[0.5, 0.5], [5.0, 5.0]]))
    with pytest.raises(ValueError, match="latent must take"):
        FourierGraphOperator(2, 1, lambda a: a[:, ::2], grid=(6, 6), width=8, key=key(0))
    with pytest.raises(ValueError, match="lower, upper"):
        fourier(box=[(0, 1), (1, 1)])


def test_the_default_radius_reaches_every_place_of_the_box():
    model = fourier(radius=None, grid=(7, 4))
    corners = np.array([[0.0, 0.0], [1, 1], [0, 1], [0.5, 0.5]])
    _, back = model.edges(places(50), np.concatenate([corners, places(500, seed=2)]))
    assert np.bincount(back.receivers[back.mask]).min() >= 1


# Attention among slices


def test_attention_is_that_of_the_paper():
    """One head: eqs. 1-3 written out."""
    attention = filled(lambda k: PhysicsAttention(4, 1, 3, key=k))
    v, w = np.random.default_rng(0).normal(size=(7, 4)), np.linspace(1, 2, 7)

    def linear(layer, x):
        return x @ np.asarray(layer.weight).T + np.asarray(layer.bias)

    def softmax(x):
        return np.exp(x) / np.exp(x).sum(-1, keepdims=True)

    share = softmax(linear(attention.slices, linear(attention.places, v)) / np.exp(float(attention.log_temperature[0])))
    tokens = (share * w[:, None]).T @ linear(attention.values, v) / (share * w[:, None]).sum(0)[:, None]
    q, k, c = (tokens @ np.asarray(m) for m in attention.mix)
    expected = linear(attention.out, share @ (softmax(q @ k.T / 2) @ c))
    out = run(attention, jnp.asarray(v, jnp.float32), jnp.asarray(w, jnp.float32))
    assert np.asarray(out) == pytest.approx(expected, abs=1e-4)


def test_grids_by_flattening():
    model = transolver()
    on_grid = OnGrid(model, axes=Bounded(points=ends))
    a = jax.random.normal(key(0), (2, 4, 5))
    points = np.stack(np.meshgrid(np.linspace(-1, 1, 4), np.linspace(-1, 1, 5), indexing="ij"), -1).reshape(-1, 2)
    weights = np.outer([0.5, 1, 1, 0.5], [0.5, 1, 1, 1, 0.5]).ravel()
    direct = run(model, a.reshape(2, -1), jnp.asarray(points, jnp.float32), jnp.asarray(weights, jnp.float32))
    assert np.asarray(run(on_grid, a).reshape(3, -1)) == pytest.approx(np.asarray(direct), abs=1e-5)
    with pytest.raises(ValueError, match="with 2 dimensions"):
        on_grid(a[:, 0])


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="heads must divide"):
        Transolver(1, 1, width=6, heads=4, key=key(0))


# Sensors


def deeponet(seed=0, **settings):
    settings = {"basis": 6, "width": 16, "layers": 2} | settings
    return filled(lambda k: DeepONet((2, 5), 3, key=k, **settings), seed)


def inputs(*shape):
    return jnp.asarray(np.random.default_rng(1).normal(size=shape), jnp.float32)


def test_one_point_and_many():
    model, a, x = deeponet(), inputs(2, 5), jnp.asarray(places(7))
    whole = np.asarray(run(model, a, x))
    single = np.stack([run(model, a, jnp.asarray(point)) for point in places(7)], axis=1)
    assert whole.shape == (3, 7) and single == pytest.approx(whole, abs=1e-6)
    batch = run(jax.vmap(model, (0, None)), jnp.stack([a, -a]), x)
    assert np.asarray(batch[0]) == pytest.approx(whole, abs=1e-6)
    mask = jnp.arange(7) < 5
    masked = np.asarray(run(model, a, jnp.where(mask[:, None], x, jnp.nan), mask))
    assert (masked[:, 5:] == 0).all() and masked[:, :5] == pytest.approx(whole[:, :5], abs=1e-6)


def test_derivatives_by_the_point_are_those_of_finite_differences():
    with jax.enable_x64(True):
        model, a, x = deeponet(), inputs(2, 5).astype(float), np.array([0.3, -0.2])

        def u(x):
            return model(a, x)

        h, near = 1e-4, 1e-4 * np.array([[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]])
        at, right, left, up, down = np.asarray(jax.jit(jax.vmap(u))(jnp.asarray(x + near)))
        first = np.stack([right - left, up - down], axis=1) / (2 * h)
        second = np.stack([right - 2 * at + left, up - 2 * at + down], axis=1) / h**2
        assert np.asarray(jax.jit(jax.jacfwd(u))(jnp.asarray(x))) == pytest.approx(first, abs=1e-6)
        hessian = np.asarray(jax.jit(jax.hessian(u))(jnp.asarray(x)))
        assert np.einsum("cii->ci", hessian) == pytest.approx(second, abs=1e-5)


def test_sums_of_products_by_hand():
    """Two channels, two basis functions: coefficients from the branch, values from the trunk."""
    model = DeepONet(2, 2, dimensions=1, basis=2, branch=_Pair(), trunk=_Powers(), key=key(0))
    out = run(model, jnp.array([2.0, 5.0]), jnp.array([[3.0], [1.0]]))
    at_three = [2 * 1 + 5 * 3, 4 * 9 + 25 * 27]
    at_one = [2 + 5, 4 + 25]
    assert np.asarray(out) * 2**0.5 == pytest.approx(np.array([at_three, at_one]).T)


class _Pair(eqx.Module):
    def __call__(self, a):
        return jnp.stack([a, a**2])


class _Powers(eqx.Module):
    def __call__(self, x):
        return x[0] ** jnp.arange(4)


class _Scaled(eqx.Module):
    factor: float

    def __call__(self, a):
        return self.factor * jnp.sum(a) * jnp.ones(4)


def test_several_inputs_are_multiplied():
    branches, shapes = (_Pair(), _Scaled(3.0)), (2, (2, 2))
    several = MultipleInputDeepONet(shapes, 2, dimensions=1, basis=2, branches=branches, trunk=_Powers(), key=key(0))
    one = DeepONet(2, 2, dimensions=1, basis=2, branch=_Pair(), trunk=_Powers(), key=key(0))
    a, b, x = jnp.array([2.0, 5.0]), jnp.arange(4.0).reshape(2, 2), jnp.array([[3.0], [1.0]])
    assert np.asarray(run(several, a, b, x)) == pytest.approx(3 * 6 * np.asarray(run(one, a, x)))
    with pytest.raises(ValueError, match="expected 2 inputs and points, got 1"):
        several(a, x)
    with pytest.raises(ValueError, match="2 shapes of sensors, 1 branches"):
        MultipleInputDeepONet(shapes, 2, branches=[_Pair()], key=key(0))


def samples_of(n=12, points=(4, 5), channels=2):
    return np.random.default_rng(0).normal(1, 2, (n, channels, *points))


def several_inputs(seed):
    return filled(lambda k: MultipleInputDeepONet([(2, 5), 3], 2, basis=4, width=16, key=k), seed)


def with_modes(seed):
    return PODDeepONet((2, 5), pod(samples_of(), 4), width=16, layers=1, key=key(seed))


SENSORS = {
    "deeponet": (deeponet, [(2, 5), (7, 2)], (3, 7)),
    "several": (several_inputs, [(2, 5), (3,), (7, 2)], (2, 7)),
    "pod": (with_modes, [(2, 5)], (2, 4, 5)),
}


@pytest.mark.parametrize(("make", "shapes", "result"), SENSORS.values(), ids=SENSORS)
def test_one_function_in_and_out(make, shapes, result, tmp_path):
    model, arguments = make(0), [inputs(*shape) for shape in shapes]
    out = run(model, *arguments)
    assert out.shape == result and np.isfinite(out).all()
    save(tmp_path / "model.zip", model)
    assert (run(load(tmp_path / "model.zip", make(1)), *arguments) == out).all()
    gradient = eqx.filter_jit(eqx.filter_grad(lambda m: jnp.sum(m(*arguments) ** 2)))(model)
    assert all(np.any(np.asarray(leaf) != 0) for leaf in jax.tree.leaves(gradient))
    with pytest.raises(ValueError, match=r"expected one input of shape \(2, 5\), got \(5, 2\)"):
        model(arguments[0].T, *arguments[1:])
    with jax.enable_x64(True):
        double = jax.tree.map(lambda a: a.astype(float) if eqx.is_inexact_array(a) else a, (model, arguments))
        exact = run(double[0], *double[1])
    assert exact.dtype == jnp.float64 and np.asarray(exact) == pytest.approx(np.asarray(out), abs=1e-4)


def test_networks_that_do_not_fit_are_refused():
    a, x = jnp.ones((2, 5)), jnp.ones((4, 2))
    with pytest.raises(ValueError, match="branch must return 3 channels x 6 numbers"):
        deeponet(branch=_Scaled(1.0))(a, x)
    with pytest.raises(ValueError, match="trunk must return 18 numbers"):
        deeponet(trunk=_Scaled(1.0))(a, x)
    with pytest.raises(ValueError, match=r"expected points \(n, 2\)"):
        deeponet()(a, jnp.ones((4, 3)))


def test_deeponet_learns_an_antiderivative():
    """Of a_0 + a_1 cos(pi x) + a_2 sin(pi x), given at 16 sensors."""
    x = jnp.linspace(0, 1, 16)

    def batch(key):
        c = jax.random.normal(key, (64, 3))
        modes = jnp.stack([jnp.ones(16), jnp.cos(jnp.pi * x), jnp.sin(jnp.pi * x)])
        integrals = jnp.stack([x, jnp.sin(jnp.pi * x) / jnp.pi, (1 - jnp.cos(jnp.pi * x)) / jnp.pi])
        return c @ modes, jnp.broadcast_to(x[:, None], (64, 16, 1)), (c @ integrals)[:, None]

    model = DeepONet(16, 1, dimensions=1, basis=16, width=32, layers=2, key=key(0))
    optimiser = optax.adam(optax.cosine_decay_schedule(1e-2, 500))
    trained, _ = fit(model, misfit, batch, optimiser, steps=500, report=False)
    *arguments, target = batch(key(99))
    error = jnp.linalg.norm(jax.vmap(trained)(*arguments) - target) / jnp.linalg.norm(target)
    assert float(error) < 0.05


# Modes


def test_modes_are_orthonormal_and_leave_the_tail_of_singular_values():
    fields = samples_of()
    weights = np.random.default_rng(1).uniform(0.1, 1, (4, 5))
    with jax.enable_x64(True):
        basis = pod(fields, 5, weights)
        inner = np.einsum("ciab,cjab,ab->cij", basis.modes, basis.modes, weights)
        assert inner == pytest.approx(np.broadcast_to(np.eye(5), (2, 5, 5)), abs=1e-12)
        back = jax.jit(jax.vmap(lambda u: basis.expand(basis.project(u))))(jnp.asarray(fields))
        left = np.einsum("ncab,ab->c", (np.asarray(back) - fields) ** 2, weights)
        assert left == pytest.approx((basis.singular_values[:, 5:] ** 2).sum(axis=1))
        coefficients = jax.jit(jax.vmap(basis.project))(jnp.asarray(fields))
        assert np.sqrt(np.mean(np.asarray(coefficients) ** 2, axis=0)) == pytest.approx(basis.deviations)


def test_fields_of_few_modes_are_represented_exactly():
    x = np.linspace(0, 1, 30)
    c = np.random.default_rng(0).normal(size=(10, 2))
    fields = (3 + c @ np.stack([np.sin(x), x**2]))[:, None]
    with jax.enable_x64(True):
        basis = pod(fields, 2)
        u = jnp.asarray(3 + 7 * np.sin(x) - 5 * x**2)[None]
        assert np.asarray(basis.expand(basis.project(u))) == pytest.approx(np.asarray(u), abs=1e-9)


def test_the_trunk_of_modes_is_not_trained():
    basis = pod(samples_of(), 4)
    a = inputs(12, 3)
    model = PODDeepONet(3, basis, width=16, key=key(0))
    batch = (a, jnp.asarray(samples_of(), jnp.float32))
    trained, history = fit(model, misfit, [batch], optax.adamw(1e-2), steps=300, report=False)
    assert (trained.table == model.table).all()
    # No more can be learned than the modes hold.
    floor = (basis.singular_values[:, 4:] ** 2).sum() / 12 / 2
    assert floor < float(history.loss[-1]) < 1.2 * floor


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pod(np.zeros((4, 5)), 1), "expected finite fields"),
        (lambda: pod(np.full((4, 1, 5), np.nan), 1), "expected finite fields"),
        (lambda: pod(np.zeros((4, 1, 5)), 5), "count must be 1 to 4"),
        (lambda: pod(np.zeros((4, 1, 5)), 1, np.zeros(5)), "weights above 0"),
        (lambda: pod(np.zeros((4, 1, 5)), 1, np.ones(4)), "weights above 0"),
    ],
)
def test_bad_fields_have_no_modes(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_edges_can_be_padded_again():
    edges = radius_edges(places(5), RADIUS)
    more = pad_edges(edges, 64)
    assert len(more.mask) == 64 and pairs(more) == pairs(edges)
    assert (more.senders[~more.mask] == 0).all()
