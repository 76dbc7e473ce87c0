"""Metrics and losses against hand-computed cases, analytic norms and plain loops over definitions."""

import math
from functools import partial

import cftime
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from memory_source import InMemory

from sciml import double_precision, masked, metrics
from sciml._loss import total as loss_total
from sciml.data import Coordinate, DataError, Dataset
from sciml.data._lazy import Stored
from sciml.metrics import pdebench, the_well
from sciml.metrics._derivatives import derivative, spacings

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _double():
    """Definitions are compared in double precision; where single is meant, arrays are in float32."""
    with double_precision():
        yield


# Two samples, two points.
P = np.array([[1.0, 2.0], [0.0, 4.0]])
T = np.array([[1.0, 4.0], [3.0, 4.0]])


def noise(*shape):
    return RNG.normal(size=shape)


def points(n, length=2 * np.pi):
    return np.arange(n) * length / n


def compiled(metric, *arrays, **options):
    """What a metric gives when compiled as one: far sooner than operation by operation."""
    return jax.jit(partial(metric, **options))(*arrays)


# One table of metrics, one set of properties.

# Names with a function of (prediction, target) on batches (sample, channel, x, y), and whether it is in units.
GRID = (2, 3)
TABLE = {
    "rmse": (partial(metrics.rmse, channel=1), True),
    "mae": (partial(metrics.mae, channel=1), True),
    "max_error": (partial(metrics.max_error, channel=1), True),
    "relative_l2": (metrics.relative_l2, False),
    "nrmse": (partial(metrics.nrmse, channel=1), False),
    "vrmse": (partial(metrics.vrmse, channel=1), False),
    "relative_h1": (partial(metrics.relative_h1, grid=GRID), False),
    "relative_h1_bounded": (partial(metrics.relative_h1, grid=GRID, periodic=False, channel=1), False),
    "relative_sobolev": (lambda p, t: metrics.relative_sobolev(p, t, 1.5, grid=GRID), False),
    "spectrum_error": (partial(metrics.spectrum_error, grid=GRID, channel=1), False),
    "band_rmse": (partial(metrics.band_rmse, grid=GRID, channel=1, edges=(1, 3)), True),
    "pdebench.rmse": (partial(pdebench.rmse, grid=GRID, channel=1), True),
    "pdebench.nrmse": (partial(pdebench.nrmse, grid=GRID, channel=1), False),
    "pdebench.conserved_rmse": (partial(pdebench.conserved_rmse, grid=GRID, channel=1), True),
    "pdebench.max_error": (partial(pdebench.max_error, grid=GRID, channel=1), True),
    "pdebench.boundary_rmse": (partial(pdebench.boundary_rmse, grid=GRID, channel=1), True),
    "pdebench.fourier_rmse": (partial(pdebench.fourier_rmse, grid=GRID, channel=1, low=1, high=2), True),
    "the_well.mae": (partial(the_well.mae, grid=GRID), True),
    "the_well.rmse": (partial(the_well.rmse, grid=GRID), True),
    "the_well.linf": (partial(the_well.linf, grid=GRID), True),
}


@pytest.mark.parametrize("name", TABLE)
def test_properties(name):
    metric, in_units = TABLE[name]
    p, t = noise(3, 2, 8, 10), noise(3, 2, 8, 10) + 1
    both = jax.jit(metric)
    value = both(p, t)
    assert value.dtype == jnp.float64 and np.isfinite(value).all() and (np.asarray(value) > 0).all()
    np.testing.assert_allclose(both(t, t), 0, atol=1e-12)
    np.testing.assert_allclose(both(5 * p, 5 * t), (5 if in_units else 1) * value, rtol=1e-9)
    # In single precision, over a further axis.
    p32, t32 = jnp.asarray(p, jnp.float32), jnp.asarray(t, jnp.float32)
    mapped = jax.jit(jax.vmap(metric))(p32[None], t32[None])
    np.testing.assert_allclose(mapped[0], value, rtol=2e-5)
    for dtype in (jnp.float32, jnp.bfloat16, jnp.int32):
        shape = jax.ShapeDtypeStruct(p.shape, dtype)
        assert jax.eval_shape(metric, shape, shape).dtype == jnp.float32
    slope = jax.jit(jax.grad(lambda q: jnp.sum(metric(q, t32))))
    # At zero error too.
    assert np.isfinite(slope(p32)).all() and np.isfinite(slope(t32)).all()


@pytest.mark.parametrize("name", TABLE)
def test_what_is_no_batch(name):
    metric, _ = TABLE[name]
    with pytest.raises(ValueError, match="one shape"):
        metric(noise(3, 2, 8, 8), noise(3, 2, 8, 1))
    with pytest.raises(ValueError, match="empty batch"):
        metric(noise(0, 2, 8, 8), noise(0, 2, 8, 8))
    with pytest.raises(TypeError, match="complex"):
        metric(noise(3, 2, 8, 8) + 1j, noise(3, 2, 8, 8))
    assert np.isnan(metric(np.full((3, 2, 8, 8), np.nan), noise(3, 2, 8, 8))).all()


# Errors from point to point.


def test_by_hand():
    assert float(metrics.rmse(P, T)) == pytest.approx(math.sqrt((4 + 9) / 4))
    assert float(metrics.mae(P, T)) == pytest.approx((2 + 3) / 4)
    assert float(metrics.bias(P, T)) == pytest.approx((-2 - 3) / 4)
    assert float(metrics.max_error(P, T)) == 3.0
    ratios = [2 / math.sqrt(17), 3 / 5]
    assert float(metrics.relative_l2(P, T)) == pytest.approx(sum(ratios) / 2)
    np.testing.assert_allclose(metrics.relative_l2(P, T, per_sample=True), ratios)
    np.testing.assert_allclose(metrics.nrmse(P, T, per_sample=True), ratios)
    # Standard deviations 1.5 and 0.5.
    np.testing.assert_allclose(metrics.vrmse(P, T, per_sample=True), [math.sqrt(2) / 1.5, math.sqrt(4.5) / 0.5])
    np.testing.assert_allclose(metrics.rmse(P, T, per_sample=True), [math.sqrt(2), math.sqrt(4.5)])
    np.testing.assert_allclose(metrics.max_error(P, T, per_sample=True), [2, 3])


def test_mean_of_the_target_has_vrmse_one():
    t = noise(4, 2, 6, 5)
    mean = np.broadcast_to(t.mean((2, 3), keepdims=True), t.shape)
    np.testing.assert_allclose(metrics.vrmse(mean, t, channel=1), [1, 1])
    w = RNG.random((6, 5))
    mean = np.broadcast_to((t * w).sum((2, 3), keepdims=True) / w.sum(), t.shape)
    np.testing.assert_allclose(metrics.vrmse(mean, t, channel=1, weights=w), [1, 1])


@pytest.mark.parametrize("metric", [metrics.rmse, metrics.relative_l2, metrics.bias, metrics.vrmse, metrics.max_error])
def test_kept_axes_are_those_of_the_parts(metric):
    p, t = noise(3, 4, 2, 6, 5), noise(3, 4, 2, 6, 5)
    whole = compiled(metric, p, t, time=1, channel=2)
    assert whole.shape == (4, 2)
    part = jax.jit(metric)
    np.testing.assert_allclose(whole, [[part(p[:, i, j], t[:, i, j]) for j in range(2)] for i in range(4)])
    assert compiled(metric, p, t, time=1, channel=2, per_sample=True).shape == (3, 4, 2)
    # Wherever the axes are.
    moved = [np.moveaxis(a, (1, 2), (4, 3)) for a in (p, t)]
    np.testing.assert_allclose(compiled(metric, *moved, time=-1, channel=-2), whole.T)
    # What is neither kept nor of the grid is one with it.
    together = compiled(metric, p, t, channel=2)
    np.testing.assert_allclose(compiled(metric, p, t, grid=(3, 4), channel=2), together)


def test_axes_that_do_not_exist():
    p = noise(3, 2, 6, 5)
    with pytest.raises(ValueError, match="no axis 4"):
        metrics.rmse(p, p, channel=4)
    for options in ({"channel": 1, "time": 1}, {"channel": 1, "grid": (1, 2, 3)}, {"grid": (0, 1)}, {"channel": 0}):
        with pytest.raises(ValueError, match="that of the samples"):
            metrics.rmse(p, p, **options)
    with pytest.raises(ValueError, match="that of the samples"):
        metrics.rmse(noise(3), noise(3))


def test_weights_are_a_quadrature():
    # The mean of sin(latitude)^2 over the sphere is 1/3.
    latitude = np.linspace(90, -90, 181)
    weights = metrics.latitude_weights(latitude)
    assert weights.shape == (181, 1) and weights.mean() == pytest.approx(1) and (weights > 0).all()
    error = np.broadcast_to(np.sin(np.radians(latitude))[:, None], (2, 3, 181, 8))
    got = metrics.rmse(error, 0 * error, channel=1, weights=weights)
    np.testing.assert_allclose(got, math.sqrt(1 / 3), rtol=1e-4)
    np.testing.assert_allclose(metrics.mae(error, 0 * error, weights=weights.T, grid=(3, 2)), 0.5, rtol=1e-4)
    # A region: cells reach half a step beyond it, and equal weights of a ring.
    region = metrics.latitude_weights([0.0, 1.0])[:, 0]
    edges = np.sin(np.radians([-0.5, 0.5, 1.5]))
    np.testing.assert_allclose(region, np.diff(edges) / np.diff(edges).mean())
    # Hand: weights 1 and 3.
    assert float(metrics.rmse(P, T, weights=np.array([1.0, 3.0]))) == pytest.approx(math.sqrt((3 * 4 + 9) / 8))
    assert float(metrics.relative_l2(P[:1], T[:1], weights=np.array([1.0, 3.0]))) == pytest.approx(math.sqrt(12 / 49))
    assert float(metrics.max_error(P, T, weights=np.array([0.0, 1.0]))) == 2.0


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones(5), "do not fit"),
        (np.ones((5, 6)), "do not fit"),
        (-np.ones((6, 5)), "negative"),
        (np.float64(1), "do not fit"),
    ],
)
def test_weights_that_do_not_fit(weights, message):
    with pytest.raises(ValueError, match=message):
        metrics.rmse(noise(3, 6, 5), noise(3, 6, 5), weights=weights)
    with pytest.raises(ValueError, match="finite"):
        metrics.rmse(P, T, weights=np.array([1.0, np.nan]))


@pytest.mark.parametrize("degrees", [[0.0], [0, 10, 5], [[1.0, 2.0]], [80, 100]])
def test_latitudes_that_are_none(degrees):
    with pytest.raises(ValueError, match="latitudes"):
        metrics.latitude_weights(np.array(degrees))


def test_masked_and_missing_points_do_not_count():
    p, t = noise(3, 2, 6, 5), noise(3, 2, 6, 5) + 2
    land = RNG.random((6, 5)) > 0.4
    bad = np.where(land, t, np.nan)
    for metric in (metrics.rmse, metrics.relative_l2, metrics.vrmse, metrics.max_error):
        expected = metric(p[:, :, land], t[:, :, land], channel=1)
        np.testing.assert_allclose(metric(p, t, channel=1, mask=land), expected)
        np.testing.assert_allclose(metric(p, bad, channel=1, mask=land[None, None]), expected)
        np.testing.assert_allclose(metric(p, bad, channel=1, grid=(3, 2), mask=land.T), expected)
        np.testing.assert_allclose(metric(p, bad, channel=1, skip_missing=True), expected)
        assert np.isnan(metric(p, bad, channel=1)).all()
        # A model that fails is not hidden.
        assert np.isnan(metric(p * np.nan, bad, channel=1, skip_missing=True)).all()
        # A sample without any point has no say.
        gone = bad.copy()
        gone[1] = np.nan
        expected = metric(p[[0, 2]][:, :, land], t[[0, 2]][:, :, land], channel=1)
        np.testing.assert_allclose(metric(p, gone, channel=1, skip_missing=True), expected)
        assert np.isnan(metric(p, bad * np.nan, channel=1, skip_missing=True)).all()
    slope = jax.grad(lambda q: metrics.rmse(q, jnp.asarray(bad), skip_missing=True))(jnp.asarray(p))
    assert np.isfinite(slope).all() and (np.asarray(slope)[:, :, ~land] == 0).all()
    with pytest.raises(ValueError, match="a mask has"):
        metrics.rmse(p, t, mask=land.T)


def test_unknown_option_is_refused():
    with pytest.raises(TypeError, match="weight"):
        metrics.rmse(P, T, weight=[1.0, 1.0])  # type: ignore[call-arg]


def test_single_precision_adds_up_many_numbers():
    error = RNG.random((2, 3_000_001)).astype(np.float32)
    zero = np.zeros_like(error)
    expected = math.sqrt((error.astype(float) ** 2).mean())
    assert float(metrics.rmse(error, zero)) == pytest.approx(expected, rel=1e-6)
    # A small error of a large number.
    t = np.float32(100_000) + RNG.random((2, 1000)).astype(np.float32)
    p = t + np.float32(0.125)
    assert float(metrics.rmse(p, t)) == 0.125
    assert float(metrics.vrmse(p, t)) == pytest.approx(0.125 / t.astype(float).std(1).mean(), rel=1e-2)


def test_double_precision_of_numpy_arrays_is_kept():
    t = 1 + noise(2, 50)
    p = t * (1 + 1e-12)
    assert float(jax.jit(metrics.relative_l2)(p, t)) == pytest.approx(1e-12, rel=1e-2)
    with jax.enable_x64(False):
        value = metrics.relative_l2(p, t)
        # What comes back is an array as others are.
        assert value.dtype == jnp.float32 and (2 * value).dtype == jnp.float32
        assert float(value) == pytest.approx(1e-12, rel=1e-2)
        assert float(metrics.relative_l2(jnp.asarray(p), jnp.asarray(t))) == 0
        # Within a compiled function constants follow the rest.
        assert jax.jit(lambda q: metrics.rmse(q, t))(jnp.asarray(p)).dtype == jnp.float32


def test_anomaly_correlation():
    c = noise(6, 5)
    a = noise(4, 6, 5)
    np.testing.assert_allclose(metrics.anomaly_correlation(c + 3 * a, c + a, c), 1)
    np.testing.assert_allclose(metrics.anomaly_correlation(c - a, c + a, np.broadcast_to(c, a.shape)), -1)
    w = RNG.random((6, 5))
    b = noise(4, 6, 5)
    expected = (w * a * b).sum((1, 2)) / np.sqrt((w * a**2).sum((1, 2)) * (w * b**2).sum((1, 2)))
    got = metrics.anomaly_correlation(c + a, c + b, c, weights=w, per_sample=True)
    np.testing.assert_allclose(got, expected)
    assert float(metrics.anomaly_correlation(P, T, 0.0)) == pytest.approx((9 / math.sqrt(5 * 17) + 16 / 20) / 2)
    with pytest.raises(ValueError, match="climatology"):
        metrics.anomaly_correlation(a, a, noise(5))


# Derivatives and Sobolev norms.


def test_derivatives_are_exact_for_what_they_can_hold():
    with double_precision():
        x = points(12)
        u = jnp.asarray(np.sin(3 * x) + np.cos(5 * x))
        (step, around) = spacings(x[1], [12], True)[0]
        np.testing.assert_allclose(derivative(u, 0, step, around), 3 * np.cos(3 * x) - 5 * np.sin(5 * x), atol=1e-12)
        # Odd numbers of points have no highest mode of a single sign.
        x = points(9)
        np.testing.assert_allclose(derivative(jnp.sin(4 * x), 0, x[1], True), 4 * np.cos(4 * x), atol=1e-12)
        # Quartics, on points that are not even, rising and falling, also along the first axis.
        z = np.sort(RNG.random(11))
        for places in (z, z[::-1].copy(), np.linspace(0, 1, 5)):
            u = jnp.asarray(np.stack([places**4 - places, places**3], 1))
            exact = np.stack([4 * places**3 - 1, 3 * places**2], 1)
            np.testing.assert_allclose(derivative(u, 0, places, False), exact, atol=1e-9)
        # Few points: what they allow.
        np.testing.assert_allclose(derivative(jnp.array([1.0, 3.0]), 0, 0.5, False), [4, 4])
        np.testing.assert_allclose(derivative(jnp.array([0.0, 1.0, 4.0]), 0, 1.0, False), [0, 2, 4])


def test_differences_converge_with_fourth_order():
    def error(n):
        x = np.linspace(0, 1, n)
        with double_precision():
            return float(np.abs(derivative(jnp.exp(2 * x), 0, 1 / (n - 1), False) - 2 * np.exp(2 * x)).max())

    order = math.log2(error(41) / error(81))
    assert 3.7 < order < 4.3


def test_spacings_that_do_not_fit():
    assert spacings(None, [4, 5], [True, False]) == [(0.25, True), (0.25, False)]
    for spacing, periodic, message in [
        ([0.1], True, "spacings"),
        (0.1, [True], "periodic"),
        (0.0, True, "above 0"),
        (np.arange(4.0), True, "rising or falling"),
        (np.array([0, 1, 2, 4.0, 5]), True, "equal steps"),
    ]:
        with pytest.raises(ValueError, match=message):
            spacings(spacing, [5, 5], periodic)
    with pytest.raises(ValueError, match="two points"):
        metrics.relative_h1(noise(2, 1), noise(2, 1), grid=1, periodic=False)


@pytest.mark.parametrize("order", [0, 1, 2, 3, 0.5, 1.5, -1])
def test_sobolev_norms_of_single_modes(order):
    n, length = 16, 3.0
    x = points(n, length)
    w = 2 * np.pi / length
    target = np.sin(2 * w * x)[:, None] * np.ones(n)
    error = 0.3 * np.cos(3 * w * x)[:, None] * np.sin(w * x)
    p, t = np.stack([target + error] * 2), np.stack([target] * 2)
    # |k|^2 is 10 w^2 in the error and 4 w^2 in the target; mean squares are 0.09 / 4 and 1 / 2.
    expected = math.sqrt(0.0225 / 0.5 * ((1 + 10 * w**2) / (1 + 4 * w**2)) ** order)
    got = compiled(metrics.relative_sobolev, p, t, order=order, grid=(1, 2), spacing=length / n)
    assert float(got) == pytest.approx(expected, rel=1e-10)
    if order == 1:
        both = [length / n, x]
        assert float(metrics.relative_h1(p, t, grid=(1, 2), spacing=both)) == pytest.approx(expected, rel=1e-10)
    if order == 0:
        assert float(metrics.relative_l2(p, t)) == pytest.approx(expected, rel=1e-10)


def test_sobolev_norm_with_an_axis_that_is_not_periodic():
    # u = (z^2, on 7 uneven points) cos(y): the gradient is (2 z cos y, -z^2 sin y).
    z, y = np.sort(RNG.random(7)), points(8)
    w = np.gradient(z)[:, None]

    def norm(f, df):
        squares = (
            f[:, None] ** 2 * np.cos(y) ** 2 + df[:, None] ** 2 * np.cos(y) ** 2 + f[:, None] ** 2 * np.sin(y) ** 2
        )
        return math.sqrt((w * squares).sum())

    t, e = z[:, None] ** 2 * np.cos(y), z[:, None] * np.cos(y)
    got = metrics.relative_h1((t + e)[None], t[None], grid=(1, 2), spacing=[z, y[1]], periodic=[False, True], weights=w)
    assert float(got) == pytest.approx(norm(z, np.ones(7)) / norm(z**2, 2 * z), rel=1e-9)


def test_sobolev_norms_that_are_not_defined():
    u = noise(2, 8)
    for options in ({"periodic": False}, {"weights": np.ones(8)}):
        with pytest.raises(ValueError, match="needs periodic axes"):
            metrics.relative_sobolev(u, u, 0.5, grid=1, **options)


# Spectra.


@pytest.mark.parametrize("shape", [(16,), (15,), (12, 9), (8, 16), (6, 5, 8)])
def test_spectrum_adds_up_to_the_mean_square(shape):
    u = noise(3, 2, *shape) + 0.5
    grid = tuple(range(2, 2 + len(shape)))
    k, power = compiled(metrics.spectrum, u, grid=grid, channel=1)
    assert power.shape == (2, len(k))
    np.testing.assert_allclose(power.sum(1), (u**2).mean((0, *grid)))
    np.testing.assert_allclose(k, 2 * np.pi * np.arange(len(k)))
    each = compiled(metrics.spectrum, u, grid=grid, channel=1, per_sample=True)[1]
    np.testing.assert_allclose(each.mean(0), power)
    np.testing.assert_allclose(power[:, 0], (u.mean(grid) ** 2).mean(0))
    again = compiled(metrics.spectrum, np.moveaxis(u, 1, -1), grid=tuple(g - 1 for g in grid), channel=-1)[1]
    np.testing.assert_allclose(again, power)


def test_modes_lie_in_their_shells():
    n = 16
    x, y = np.meshgrid(points(n), points(n), indexing="ij")
    u = 2 * np.cos(3 * x + 4 * y) + np.sin(2 * y) + 3
    k, power = metrics.spectrum(u[None], grid=(1, 2), spacing=2 * np.pi / n)
    expected = np.zeros(len(k))
    expected[[0, 2, 5]] = 9, 0.5, 2
    np.testing.assert_allclose(power, expected, atol=1e-12)
    np.testing.assert_allclose(k, np.arange(len(k)))
    # A box of lengths 4 and 2: shells are those of the longer one. The highest modes, here with wave vectors of 4 and 8
    # of its units, are single.
    u = np.cos(np.pi * np.arange(8))[:, None] * np.cos(np.pi * np.arange(8))
    k, power = metrics.spectrum(u[None], grid=(1, 2), spacing=[0.5, 0.25])
    assert k[1] == pytest.approx(2 * np.pi / 4) and round(math.hypot(4, 8)) == 9
    np.testing.assert_allclose(power, np.arange(len(k)) == 9, atol=1e-12)


def test_spectrum_error():
    t = noise(4, 3, 16, 16)
    options = {"grid": (2, 3), "channel": 1}
    # Ten times the power; and nothing changes when features are displaced.
    error = jax.jit(partial(metrics.spectrum_error, **options))
    np.testing.assert_allclose(error(t * math.sqrt(10), t), 1, rtol=1e-6)
    np.testing.assert_allclose(error(np.roll(t, 5, 3), t), 0, atol=1e-12)
    smooth = np.fft.irfft2(np.fft.rfft2(t) * (np.hypot(*np.ix_(np.fft.fftfreq(16), np.fft.rfftfreq(16))) < 0.2))
    assert (np.asarray(error(smooth, t)) > 3).all()
    with pytest.raises(ValueError, match="two points"):
        metrics.spectrum_error(noise(2, 1), noise(2, 1), grid=1)


def test_bands_add_up():
    p, t = noise(4, 3, 32, 32), noise(4, 3, 32, 32)
    bands = compiled(metrics.band_rmse, p, t, grid=(2, 3), channel=1)
    assert bands.shape == (3, 3)
    np.testing.assert_allclose(np.sqrt((bands**2).sum(1)), metrics.rmse(p, t, channel=1))
    x = points(32)
    t = np.stack([np.sin(x) + np.sin(5 * x) + np.sin(14 * x)])
    p = np.stack([0.9 * np.sin(x) + 0.5 * np.sin(5 * x)])
    np.testing.assert_allclose(metrics.band_rmse(p, t, grid=1), np.array([0.1, 0.5, 1]) / math.sqrt(2))
    np.testing.assert_allclose(metrics.band_rmse(p, t, grid=1, relative=True), [0.1, 0.5, 1])
    assert metrics.band_rmse(p, t, grid=1, edges=()).shape == (1,)
    np.testing.assert_allclose(metrics.band_rmse(p, t, grid=1, edges=(40,))[1], 0)
    for edges in ((4, 4), (5, 3), (0, 2)):
        with pytest.raises(ValueError, match="edges"):
            metrics.band_rmse(p, t, grid=1, edges=edges)


# Conserved quantities.


def test_totals_and_drift():
    u = noise(3, 2, 6, 5)
    areas = RNG.random((6, 5))
    np.testing.assert_allclose(metrics.total(u, channel=1, weights=areas), (u * areas).sum((2, 3)))
    np.testing.assert_allclose(metrics.total(u, channel=1), u.mean((2, 3)))
    np.testing.assert_allclose(metrics.total(u, channel=1, mask=areas > 0.5), u[:, :, areas > 0.5].mean(2))
    # A wave that is carried along keeps mass and energy; one that decays loses energy alone.
    t, x = np.arange(1, 4), points(32)
    carried = np.stack([np.sin(m * (x - 0.3 * t[:, None])) for m in (1, 2)])
    start = np.stack([np.sin(m * x) for m in (1, 2)])
    np.testing.assert_allclose(metrics.drift(carried, start, time=1), 0, atol=1e-12)
    decaying = start[:, None] * np.exp(-t)[:, None]
    np.testing.assert_allclose(metrics.drift(decaying, start, time=1), 0, atol=1e-12)
    np.testing.assert_allclose(metrics.drift(decaying**2 / 2, start**2 / 2, time=1), 1 - np.exp(-2.0 * t))
    signed = metrics.drift(decaying**2, start[:, None] ** 2, time=1, per_sample=True)
    np.testing.assert_allclose(signed, np.broadcast_to(np.exp(-2.0 * t) - 1, (2, 3)))
    with pytest.raises(ValueError, match="initial"):
        metrics.drift(decaying, start[:, :5], time=1)


# PDEBench.


def pdebench_by_loops(p, t, dims, lengths, low, high):
    """Of arrays (sample, channel, *grid, time): the definitions, number by number."""
    samples, channels, *grid, times = p.shape
    out = {n: np.zeros((channels, times)) for n in ("rmse", "nrmse", "conserved", "max", "boundary")}
    out["fourier"] = np.zeros((channels, times, 3))
    for c in range(channels):
        for i in range(times):
            e, y = p[:, c, ..., i] - t[:, c, ..., i], t[:, c, ..., i]
            each = [math.sqrt((e[s] ** 2).mean()) for s in range(samples)]
            out["rmse"][c, i] = np.mean(each)
            out["nrmse"][c, i] = np.mean([r / math.sqrt((y[s] ** 2).mean()) for s, r in enumerate(each)])
            out["conserved"][c, i] = math.sqrt(np.mean([e[s].mean() ** 2 for s in range(samples)]))
            out["max"][c, i] = np.abs(e).max()
            edge = []
            for s in range(samples):
                values = []
                for axis in range(dims):
                    for end in (0, -1):
                        values += np.take(e[s], end, axis).ravel().tolist()
                edge.append(math.sqrt(np.mean(np.square(values))))
            out["boundary"][c, i] = np.mean(edge)
            shells = np.zeros((samples, grid[0] // 2 + 1 if dims == 1 else min(grid) // 2))
            for s in range(samples):
                modes = np.fft.fftn(e[s])
                for place in np.ndindex(*([grid[0] // 2 + 1] if dims == 1 else [n // 2 for n in grid])):
                    shell = math.floor(math.sqrt(sum(q**2 for q in place)))
                    if shell < shells.shape[1]:
                        shells[s, shell] += abs(modes[place]) ** 2
            means = np.sqrt(shells.mean(0)) / math.prod(grid) * math.prod(lengths)
            out["fourier"][c, i] = means[:low].mean(), means[low:high].mean(), means[high:].mean()
    return out


@pytest.mark.parametrize("grid", [(30,), (31,), (14, 10), (9, 12), (8, 6, 10)])
def test_pdebench_definitions(grid):
    dims, lengths, low, high = len(grid), (2.0, 0.5, 3.0)[: len(grid)], 1, 2
    p, t = noise(3, 2, *grid, 4), noise(3, 2, *grid, 4)
    expected = pdebench_by_loops(p, t, dims, lengths, low, high)
    axes = {"grid": tuple(range(2, 2 + dims)), "channel": 1, "time": -1}

    def every(p, t):
        return {
            "rmse": pdebench.rmse(p, t, **axes),
            "nrmse": pdebench.nrmse(p, t, **axes),
            "conserved": pdebench.conserved_rmse(p, t, **axes),
            "max": pdebench.max_error(p, t, **axes),
            "boundary": pdebench.boundary_rmse(p, t, **axes),
            "fourier": pdebench.fourier_rmse(p, t, **axes, lengths=lengths, low=low, high=high),
        }

    got = compiled(every, p, t)
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, err_msg=name)
    with pytest.raises(ValueError, match="lengths"):
        pdebench.fourier_rmse(p, t, **axes, lengths=(1.0,) * 4)


def test_pdebench_by_hand():
    """One variable, two samples on four points: errors (1, 0, 0, 1) and (0, 2, 0, 0), targets of 2."""
    error = np.array([[1.0, 0, 0, 1], [0, 2, 0, 0]])
    t = np.full((2, 4), 2.0)
    p = t + error
    assert float(pdebench.rmse(p, t, grid=1)) == pytest.approx((math.sqrt(0.5) + 1) / 2)
    assert float(metrics.rmse(p, t)) == pytest.approx(math.sqrt(0.75))
    assert float(pdebench.nrmse(p, t, grid=1)) == pytest.approx((math.sqrt(0.5) + 1) / 4)
    assert float(pdebench.conserved_rmse(p, t, grid=1)) == pytest.approx(0.5)
    assert float(pdebench.boundary_rmse(p, t, grid=1)) == pytest.approx((1 + 0) / 2)
    # Transforms (2, 1+i, 0) and (2, -2i, -2): mean squares 4, 3 and 2.
    got = pdebench.fourier_rmse(p, t, grid=1, low=1, high=2)
    np.testing.assert_allclose(got, np.sqrt([4, 3, 2]) / 4)
    # The default bands begin beyond the three modes.
    got = np.asarray(pdebench.fourier_rmse(p, t, grid=1))
    assert got[0] == pytest.approx((2 + math.sqrt(3) + math.sqrt(2)) / 12) and np.isnan(got[1:]).all()


# The Well.


def test_the_well_by_hand():
    """Targets (1, 3), errors (0, 2): mean squares 5 and 2; the variance over n - 1 is 2."""
    t, p = np.array([[1.0, 3.0]]), np.array([[1.0, 5.0]])
    eps = 1e-7
    for name, expected in {
        "mse": 2,
        "mae": 1,
        "nmse": 2 / (5 + eps),
        "nmae": 1 / (2 + eps),
        "rmse": math.sqrt(2),
        "nrmse": math.sqrt(2 / (5 + eps)),
        "vmse": 2 / (2 + eps),
        "vrmse": math.sqrt(2 / (2 + eps)),
        "linf": 2,
        # Deviations (-1, 1) and (-2, 2): covariance over n 2, standard deviations over n - 1 of 2^0.5 and 8^0.5.
        "pearson_r": 2 / (4 + eps),
    }.items():
        got = getattr(the_well, name)(p, t, grid=1)
        assert got.shape == (1,) and float(got[0]) == pytest.approx(expected, rel=1e-14), name
    # In a target that is small the epsilon is what counts.
    assert float(the_well.vmse(p * 1e-4, t * 1e-4, grid=1)[0]) == pytest.approx(2e-8 / (2e-8 + 1e-7), rel=1e-12)


def test_the_well_keeps_all_other_axes():
    p, t = noise(3, 4, 6, 5, 2), noise(3, 4, 6, 5, 2)
    got = the_well.vrmse(p, t, grid=(2, 3))
    assert got.shape == (3, 4, 2)
    var = t.var((2, 3), ddof=1)
    np.testing.assert_allclose(got, np.sqrt(((p - t) ** 2).mean((2, 3)) / (var + 1e-7)))
    np.testing.assert_allclose(the_well.linf(p, t, grid=(2, 3)), np.abs(p - t).max((2, 3)))
    bins, normalised = the_well.binned_spectral_mse(p, t, grid=(2, 3))
    assert bins.shape == normalised.shape == (3, 4, 2, 3)
    np.testing.assert_allclose(bins.sum(-1), the_well.mse(p, t, grid=(2, 3)), rtol=1e-6)


def test_the_well_bins():
    """On 16 points in one dimension the edges are 0, 2, 4 and 8 times the lowest wavenumber, a little above by 1e-6."""
    edges = the_well.default_edges((16,))
    np.testing.assert_allclose(edges * 16 / (2 * np.pi), [0, 2, 4, 8], rtol=1e-6)
    x = points(16)
    modes = {1: (0.5, 0), 3: (2.0, 1), 6: (3.0, 2)}
    t = sum(np.sin(m * x) for m in modes)[None]
    p = t + sum(a * np.cos(m * x) for m, (a, _) in modes.items())
    error, normalised = the_well.binned_spectral_mse(p, t, grid=1)
    expected = np.array([[0.125, 2.0, 4.5]])
    np.testing.assert_allclose(error, expected, rtol=2e-7)
    np.testing.assert_allclose(normalised, expected / (0.5 + 1e-7), rtol=2e-7)
    # Edges of one's own; modes outside are left out, a lower edge belongs to its bin.
    unit = 2 * np.pi / 16
    own, _ = the_well.binned_spectral_mse(p, t, grid=1, edges=[0, 3 * unit - 1e-3, 6 * unit - 1e-3])
    np.testing.assert_allclose(own, [[0.125, 2.0]], rtol=2e-7)
    # The zero mode alone: a mean over one mode, whose count of 1 + 1e-7 rounds up in single precision.
    one, _ = the_well.binned_spectral_mse(p + 1, t, grid=1, edges=[0, unit / 2])
    np.testing.assert_allclose(one, [[1 / float(np.float32(1) + np.float32(1e-7))]], rtol=1e-12)
    for edges in ([0.0], [0, 2, 1], [0.1, 1]):
        with pytest.raises(ValueError, match="edges"):
            the_well.binned_spectral_mse(p, t, grid=1, edges=edges)


# Modes in each default bin as counted by `power_spectrum` of the_well 1.2; there is a mode on an edge in each of these.
COUNTS = {
    (16,): (5, 4, 7),
    (128,): (9, 24, 95),
    (1024,): (17, 112, 895),
    (32, 32): (21, 176, 827),
    (256, 256): (97, 3112, 62327),
}


@pytest.mark.parametrize("sides", COUNTS)
def test_the_well_rounds_edges(sides):
    moduli = the_well._moduli(sides)
    counts = np.histogram(moduli, the_well.default_edges(sides))[0]
    assert tuple(counts) == COUNTS[sides]


# Losses.


def identity(u):
    return u


def test_h1_misfit_is_the_relative_norm():
    p, t = noise(3, 2, 8, 9), noise(3, 2, 8, 9)
    weights = RNG.random((8, 1))
    for options in (
        {"spacing": [0.1, 0.2]},
        {"periodic": [True, False], "spacing": 0.3, "weights": weights},
        {"channel": 1, "periodic": False, "weights": weights},
    ):
        with double_precision():
            loss = partial(metrics.h1_misfit(grid=(2, 3), **options), identity)
            terms = jax.jit(loss)((p, t))
            value = float(loss_total(terms))
        assert set(terms) == {"misfit", "gradient"} and terms["gradient"].shape == (3, 2, 2, 8, 9)
        ratios = compiled(metrics.relative_h1, p, t, grid=(2, 3), per_sample=True, **options)
        assert ratios.shape == ((3, 2) if "channel" in options else (3,))
        assert value == pytest.approx(float((ratios**2).mean()), rel=1e-10)


def test_weighted_misfit():
    p, t = noise(3, 2, 6, 5), noise(3, 2, 6, 5)
    w = RNG.random((6, 5))
    with double_precision():
        batch = (jnp.asarray(p), jnp.asarray(t))

        def value(loss, batch=batch):
            return float(jax.jit(lambda b: loss_total(loss(identity, b)))(batch))

        mean = ((p - t) ** 2 * w).mean() / w.mean()
        assert value(metrics.weighted_misfit()) == pytest.approx(((p - t) ** 2).mean())
        assert value(metrics.weighted_misfit(w, grid=(2, 3))) == pytest.approx(mean)
        assert value(metrics.weighted_misfit(w.T, grid=(3, 2))) == pytest.approx(mean)
        loss = metrics.weighted_misfit(w, grid=(2, 3), channel=1, scales=[2.0, 0.5])
        scaled = (p - t) / np.array([2.0, 0.5])[:, None, None]
        assert value(loss) == pytest.approx((scaled**2 * w).mean() / w.mean())
        ratios = metrics.relative_l2(p, t, grid=(2, 3), channel=1, weights=w, per_sample=True)
        relative = metrics.weighted_misfit(w, grid=(2, 3), channel=1, relative=True)
        assert value(relative) == pytest.approx(float((ratios**2).mean()))
        ratios = metrics.relative_l2(p, t, per_sample=True)
        assert value(metrics.weighted_misfit(relative=True)) == pytest.approx(float((ratios**2).mean()))
        # Missing points.
        bad = t.copy()
        bad[0, :, 2], bad[1, 0] = np.nan, np.nan
        loss = metrics.weighted_misfit(w, grid=(2, 3), skip_missing=True)
        present = ~np.isnan(bad)
        expected = np.sum(np.where(present, (p - t) ** 2 * w, 0)) / np.sum(present * w)
        assert value(loss, (jnp.asarray(p), jnp.asarray(bad))) == pytest.approx(expected)
        bad[2] = np.nan
        for relative in (False, True):
            loss = metrics.weighted_misfit(w, grid=(2, 3), channel=1, skip_missing=True, relative=relative)
            slope = jax.jit(jax.grad(lambda q, loss=loss: loss_total(loss(identity, (q, bad)))))(p)
            assert np.isfinite(slope).all() and not slope[2].any() and slope[0].any()


def test_losses_that_do_not_fit():
    u = jnp.zeros((3, 2, 6, 5))
    with pytest.raises(ValueError, match="scales of shape"):
        metrics.weighted_misfit(channel=1, scales=[1.0, 1.0, 1.0])(identity, (u, u))
    with pytest.raises(ValueError, match="the model gives"):
        metrics.weighted_misfit()(lambda a: a[:1], (u, u))
    with pytest.raises(ValueError, match="do not fit"):
        metrics.h1_misfit(grid=(2, 3), weights=np.ones(6))(identity, (u, u))


@pytest.mark.parametrize("loss", [metrics.weighted_misfit(relative=True), metrics.h1_misfit(grid=(2, 3))])
def test_losses_train(loss):
    a, t = jnp.asarray(noise(3, 2, 6, 5), jnp.float32), jnp.asarray(noise(3, 2, 6, 5), jnp.float32)

    def value(scale):
        return loss_total(loss(lambda u: scale * u, (a, scale * 0 + 3 * a + 0 * t)))

    assert float(jax.jit(value)(3.0)) == pytest.approx(0, abs=1e-12)
    # (s / 3 - 1)^2 has the slope 2 (s / 3 - 1) / 3.
    assert float(jax.jit(jax.grad(value))(4.5)) == pytest.approx(1 / 3, rel=1e-4)
    # As all losses do, rows of the batch come first: padding does not count.
    mask = jnp.array([True, False, True])
    padded = jax.jit(lambda b: loss_total(masked(loss)(identity, b)))(((a, t), mask))
    chosen = jax.jit(lambda b: loss_total(loss(identity, b)))((a[mask], t[mask]))
    assert float(padded) == pytest.approx(float(chosen), rel=1e-5)


# A table of errors.


def halved(u):
    return u / 2


def test_evaluate_streams():
    a, t = noise(7, 3, 2, 6, 5), noise(7, 3, 2, 6, 5) + 1
    bad = t.copy()
    bad[2, 1, 0, :3] = np.nan
    bad[4] = np.nan
    w = metrics.latitude_weights(np.linspace(10, 70, 6))
    options = {"time": 1, "channel": 2, "weights": w, "skip_missing": True}
    cuts = [slice(0, 3), slice(3, 6), slice(6, 7)]
    batches = ((a[s], bad[s]) for s in cuts)
    table = metrics.evaluate(halved, batches, names=["u", "v"], units={"u": "K"}, lead_times=[6, 12, 18], **options)
    assert table.attrs["samples"] == 7
    assert dict(table.sizes) == {"variable": 2, "lead_time": 3}
    for name in ("rmse", "mae", "bias", "max_error", "relative_l2", "vrmse"):
        whole = compiled(getattr(metrics, name), a / 2, bad, **options)
        np.testing.assert_allclose(table[name].transpose("lead_time", "variable"), whole, rtol=1e-12, err_msg=name)
    assert table["units"].values.tolist() == ["K", ""] and "units" not in table["rmse"].attrs
    assert table["vrmse"].attrs["units"] == "1"
    assert float(table["rmse"].sel(variable="v", lead_time=12)) > 0


def test_evaluate_without_axes_and_with_padding():
    a, t = noise(5, 8).astype(np.float32), noise(5, 8).astype(np.float32)
    batches = [((a[:3], t[:3]), np.ones(3, bool)), ((a[[3, 4, 3]], t[[3, 4, 3]]), np.array([True, True, False]))]
    table = metrics.evaluate(halved, batches, names=["u"], units={"u": "m"})
    assert table.attrs["samples"] == 5 and dict(table.sizes) == {"variable": 1}
    assert float(table["rmse"][0]) == pytest.approx(float(metrics.rmse(a / 2, t)), rel=1e-6)
    assert table["rmse"].attrs["units"] == "m"


def test_evaluate_refuses():
    u = noise(3, 2, 8)
    with pytest.raises(TypeError, match="expected batches"):
        metrics.evaluate(halved, u)
    with pytest.raises(ValueError, match="no batch"):
        metrics.evaluate(halved, [])
    with pytest.raises(ValueError, match="3 names"):
        metrics.evaluate(halved, [(u, u)], channel=1, names=["a", "b", "c"])
    with pytest.raises(ValueError, match="lead_times"):
        metrics.evaluate(halved, [(u, u)], time=1, lead_times=[1, 2, 3])
    with pytest.raises(ValueError, match="one shape"):
        metrics.evaluate(lambda a: a[:, :4], [(u, u)])
    with pytest.raises(ValueError, match="variables and times"):
        metrics.evaluate(halved, [(u, u), (u[:, :1], u[:, :1])], channel=1)


def dataset(coords, **arrays):
    source = InMemory({n: (dims, np.asarray(a)) for n, (dims, a) in arrays.items()})
    found = {n: Coordinate((n,), np.asarray(c)) for n, c in coords.items()}
    return Dataset({n: Stored(source, n) for n in arrays}, found, sources=(source,))


def persistence(frames):
    return jnp.broadcast_to(frames[-1], (2, *frames.shape[1:]))


def test_evaluate_on_windows_of_a_data_set():
    time = np.datetime64("2001-01-01T00", "ns") + np.arange(30) * np.timedelta64(1, "h")
    t2m, msl = noise(30, 6, 5).astype(np.float32), noise(30, 6, 5).astype(np.float32)
    dims = ("time", "latitude", "longitude")
    data = dataset({"time": time}, t2m=(dims, t2m), msl=(dims, msl))
    table = metrics.evaluate(persistence, data.windows(2, 2, steps=6), size=4)
    assert table["variable"].values.tolist() == ["t2m", "msl"]
    np.testing.assert_array_equal(table["lead_time"], [np.timedelta64(6, "h"), np.timedelta64(12, "h")])
    # Windows begin at 0 .. 11: the last input is 6 later.
    assert table.attrs["samples"] == 12
    for name, field in (("t2m", t2m), ("msl", msl)):
        for lead, offset in ((0, 6), (1, 12)):
            error = field[6:18] - field[6 + offset : 18 + offset]
            expected = math.sqrt((error.astype(float) ** 2).mean())
            assert float(table["rmse"].sel(variable=name)[lead]) == pytest.approx(expected, rel=1e-6)
    one = metrics.evaluate(persistence, data["msl"].windows(2, 2, steps=6).batches(5, pad=True))
    assert one.attrs["samples"] == 12 and one["variable"].values.tolist() == ["msl"]
    np.testing.assert_allclose(one["rmse"].sel(variable="msl"), table["rmse"].sel(variable="msl"), rtol=1e-6)


def test_lead_times_of_other_coordinates():
    def leads(coordinate):
        data = dataset({"time": coordinate}, u=(("time", "x"), noise(6, 8).astype(np.float32)))
        return metrics.evaluate(persistence, data.windows(1, 2))["lead_time"].values

    dates = [cftime.DatetimeNoLeap(2001, 2, day) for day in range(24, 29)] + [cftime.DatetimeNoLeap(2001, 3, 1)]
    np.testing.assert_array_equal(leads(np.array(dates)), [np.timedelta64(1, "D"), np.timedelta64(2, "D")])
    np.testing.assert_allclose(leads(np.linspace(0, 1, 6, dtype=np.float32)), [0.2, 0.4], rtol=1e-6)
    # Steps that are not equal are counted.
    np.testing.assert_array_equal(leads(np.array([0, 1, 2, 4, 5, 9])), [1, 2])


def test_evaluate_on_trajectories_and_samples():
    u, v = noise(4, 10, 8).astype(np.float32), noise(4, 10, 8).astype(np.float32)
    dims = ("sample", "time", "x")
    data = dataset({"time": 0.5 * np.arange(10)}, u=(dims, u), v=(dims, v))
    table = metrics.evaluate(persistence, data.windows(1, 2))
    assert table.attrs["samples"] == 4 * 8
    np.testing.assert_allclose(table["lead_time"], [0.5, 1.0])
    expected = math.sqrt(((u[:, :8] - u[:, 2:]).astype(float) ** 2).mean())
    assert float(table["rmse"].sel(variable="u", lead_time=1.0)) == pytest.approx(expected, rel=1e-6)
    # Input and target as two variables; with channels; with gaps.
    pair = dataset({}, a=(("sample", "x"), u[:, 0]), b=(("sample", "x"), v[:, 0]))
    table = metrics.evaluate(halved, pair, size=3)
    assert table["variable"].values.tolist() == ["b"] and table.attrs["samples"] == 4
    assert float(table["mae"][0]) == pytest.approx(float(np.abs(u[:, 0] / 2 - v[:, 0]).mean()), rel=1e-6)
    stacked = dataset({}, a=(dims, u), b=(dims, v)).stack(state=["a", "b"])
    table = metrics.evaluate(halved, [(np.stack([u, v], 2),) * 2], channel=2, time=1)
    again = metrics.evaluate(lambda z: z / 2, _pairs(stacked))
    assert again["variable"].values.tolist() == ["a", "b"]
    np.testing.assert_allclose(again["rmse"], table["rmse"], rtol=1e-6)
    gaps = v[:, 0].copy()
    gaps[1, 2] = np.nan
    pair = dataset({}, a=(("sample", "x"), u[:, 0]), b=(("sample", "x"), gaps))
    with pytest.raises(DataError, match="missing"):
        metrics.evaluate(halved, pair)
    table = metrics.evaluate(halved, pair, skip_missing=True)
    assert float(table["mae"][0]) == pytest.approx(float(np.nanmean(np.abs(u[:, 0] / 2 - gaps))), rel=1e-6)


def _pairs(data):
    """A data set whose input is its target."""
    from dataclasses import replace

    return replace(data, arrays={"input": data.arrays["state"], "state": data.arrays["state"]})
