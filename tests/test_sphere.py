"""Fields on the sphere: harmonics, quadrature, derivatives and the spherical operator, against formulas."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from scipy.spatial.transform import Rotation

import sciml
from sciml.operators._sfno import SphericalConvolution, SphericalFNO
from sciml.operators._sphere import (
    Sphere,
    _legendre,
    equiangular,
    equiangular_with_poles,
    gauss_legendre,
    sphere_of,
)

POINTS = [gauss_legendre, equiangular, equiangular_with_poles]
SPHERES = [Sphere(gauss_legendre, north_first=False), Sphere(equiangular), Sphere(equiangular_with_poles)]
every_sphere = pytest.mark.parametrize("sphere", SPHERES, ids=lambda s: f"{s.points.__name__}-{s.north_first}")


def angles(sphere, rows, columns):
    """Latitude and longitude of a grid in radians."""
    return np.radians(sphere.latitudes(rows))[:, None], np.radians(sphere.longitudes(columns))


def places(sphere, rows, columns):
    """The points of a grid on the unit sphere, `(3, rows, columns)`."""
    latitude, longitude = angles(sphere, rows, columns)
    parts = [
        np.cos(latitude) * np.cos(longitude),
        np.cos(latitude) * np.sin(longitude),
        np.sin(latitude) + 0 * longitude,
    ]
    return np.array(parts)


def harmonic(degree, order, part, latitude, longitude):
    """The real harmonic that the module's docstring describes, from SciPy's complex one."""
    complex_one = scipy.special.sph_harm_y(degree, order, np.pi / 2 - latitude, longitude)
    real = complex_one.real if part == 0 else complex_one.imag
    return real if order == 0 else np.sqrt(2) * (-1) ** order * real


def random_coefficients(degree, channels=(), seed=0):
    c = np.random.default_rng(seed).normal(size=(*channels, 2, degree + 1, degree + 1))
    c = np.tril(c)
    c[..., 1, :, 0] = 0
    return c


def bumps(x):
    """Two polynomials of degree 4 and 3 of the place: fields whose degrees are known."""
    return np.array([1 + x[0] - 2 * x[1] * x[2] + x[0] ** 3 * x[1], x[2] ** 3 - 0.5 * x[0] * x[2] + x[1]])


# Harmonics and quadrature


@every_sphere
@pytest.mark.parametrize("rows, columns, limit", [(16, 32, (15, 15, 14)), (17, 24, (11, 11, 11)), (9, 40, (8, 8, 7))])
def test_round_trip(sphere, rows, columns, limit):
    assert sphere.limit(rows, columns) == limit[POINTS.index(sphere.points)]
    c = random_coefficients(sphere.limit(rows, columns), channels=(2, 3))
    with sciml.double_precision():
        u = sphere.synthesis(jnp.asarray(c), rows, columns)
        assert u.shape == (2, 3, rows, columns)
        np.testing.assert_allclose(sphere.analysis(u), c, atol=1e-13)
        # Of a field of lower degree, fewer coefficients are enough.
        low = sphere.synthesis(jnp.asarray(c[..., :4, :4]), rows, columns)
        np.testing.assert_allclose(sphere.analysis(low, 3), c[..., :4, :4], atol=1e-13)


@every_sphere
@pytest.mark.parametrize("degree, order, part", [(0, 0, 0), (1, 0, 0), (1, 1, 1), (5, 3, 0), (14, 13, 1), (14, 1, 0)])
def test_harmonics_are_scipys(sphere, degree, order, part):
    c = np.zeros((2, 15, 15))
    c[part, degree, order] = 1
    with sciml.double_precision():
        got = sphere.synthesis(jnp.asarray(c), 17, 40)
    np.testing.assert_allclose(got, harmonic(degree, order, part, *angles(sphere, 17, 40)), atol=1e-13)


@every_sphere
def test_first_harmonics_by_formula(sphere):
    x = places(sphere, 8, 16)
    with sciml.double_precision():
        c = sphere.analysis(jnp.asarray([np.ones_like(x[0]), x[2], x[0], x[1]]), 2)
    want = np.zeros((4, 2, 3, 3))
    want[0, 0, 0, 0] = np.sqrt(4 * np.pi)
    want[1, 0, 1, 0] = want[2, 0, 1, 1] = want[3, 1, 1, 1] = np.sqrt(4 * np.pi / 3)
    np.testing.assert_allclose(c, want, atol=1e-14)


@every_sphere
def test_orthonormal_under_the_weights(sphere):
    # The quadrature is exact for the products of two harmonics up to half of what it integrates.
    degree, rows, columns = 7, 16, 32
    index = [(p, k, m) for p in range(2) for k in range(degree + 1) for m in range(p, k + 1)]
    basis = np.array([harmonic(k, m, p, *angles(sphere, rows, columns)) for p, k, m in index])
    gram = np.einsum("aji,bji,ji->ab", basis, basis, sphere.weights(rows, columns))
    np.testing.assert_allclose(gram, np.eye(len(index)), atol=1e-13)


@every_sphere
def test_weights_integrate(sphere):
    for rows in (1, 2, 7, 64):
        if rows == 1 and sphere.points is equiangular_with_poles:
            continue
        weights = sphere.weights(rows, 12)
        assert weights.shape == (rows, 12) and (weights > 0).all()
        assert weights.sum() == pytest.approx(4 * np.pi, rel=1e-13)
    x = places(sphere, 9, 12)
    weights = sphere.weights(9, 12)
    assert (weights * x[2] ** 2).sum() == pytest.approx(4 * np.pi / 3)
    assert (weights * x[0] ** 4 * x[1] ** 2).sum() == pytest.approx(4 * np.pi * 3 / 105)


def test_weights_by_hand():
    def rows_of(sphere, n):
        return sphere.weights(n, 4).sum(axis=1) / (2 * np.pi)

    # Simpson's rule over the sine of the latitude; Gauss's with two and three points.
    np.testing.assert_allclose(rows_of(Sphere(equiangular_with_poles), 3), [1 / 3, 4 / 3, 1 / 3])
    np.testing.assert_allclose(rows_of(Sphere(gauss_legendre), 2), [1, 1])
    np.testing.assert_allclose(rows_of(Sphere(gauss_legendre), 3), [5 / 9, 8 / 9, 5 / 9])
    np.testing.assert_allclose(rows_of(Sphere(equiangular), 2), [1, 1])


@every_sphere
def test_squares_of_coefficients_are_the_integral_of_the_square(sphere):
    u = bumps(places(sphere, 16, 20))
    with sciml.double_precision():
        c = np.asarray(sphere.analysis(jnp.asarray(u)))
    integral = (u**2 * sphere.weights(16, 20)).sum(axis=(1, 2))
    np.testing.assert_allclose((c**2).sum(axis=(1, 2, 3)), integral, rtol=1e-12)


def test_analysis_on_gauss_latitudes_is_quadrature():
    # Of any field, noise too: what the grid cannot hold is projected away, nothing is fitted to it.
    sphere, rows, columns = Sphere(gauss_legendre), 12, 24
    u = np.random.default_rng(0).normal(size=(rows, columns))
    with sciml.double_precision():
        c = np.asarray(sphere.analysis(jnp.asarray(u)))
    for p, k, m in [(0, 0, 0), (0, 11, 4), (1, 11, 11), (1, 6, 1)]:
        by_hand = (u * harmonic(k, m, p, *angles(sphere, rows, columns)) * sphere.weights(rows, columns)).sum()
        assert c[p, k, m] == pytest.approx(by_hand, abs=1e-13)


def test_recurrence_is_stable_to_high_degree():
    n = 241
    table = _legendre(gauss_legendre, True, n, n - 1)
    weights = Sphere(gauss_legendre).weights(n, 1)[:, 0]
    for m in (0, 1, 120, 200, 240):
        np.testing.assert_allclose((table[m, m:] * weights) @ table[m, m:].T, np.eye(n - m), atol=1e-11)


def test_a_grid_without_one_pole_is_understood():
    # As weather models are often given: 0.25 degrees from one pole to the last row before the other.
    sphere = Sphere(without_south_pole)
    c = random_coefficients(sphere.limit(20, 40))
    assert sphere.limit(20, 40) == 18
    with sciml.double_precision():
        np.testing.assert_allclose(sphere.analysis(sphere.synthesis(jnp.asarray(c), 20, 40)), c, atol=1e-12)


def without_south_pole(n):
    return np.linspace(-90, 90, n + 1)[1:]


# Resampling and derivatives


@every_sphere
@pytest.mark.parametrize("onto", [None, Sphere(gauss_legendre), Sphere(equiangular_with_poles, False)])
@pytest.mark.parametrize("size", [(7, 12), (30, 45)])
def test_resampling_band_limited_fields_is_exact(sphere, onto, size):
    with sciml.double_precision():
        got = sphere.resample(jnp.asarray(bumps(places(sphere, 12, 16))), *size, onto=onto)
    np.testing.assert_allclose(got, bumps(places(onto or sphere, *size)), atol=1e-13)


@every_sphere
def test_laplacian_of_harmonics(sphere):
    with sciml.double_precision():
        for degree, order, part in [(0, 0, 0), (1, 1, 0), (6, 2, 1), (11, 11, 0)]:
            y = harmonic(degree, order, part, *angles(sphere, 14, 28))
            got = sphere.laplacian(jnp.asarray(y))
            np.testing.assert_allclose(got, -degree * (degree + 1) * y, atol=1e-11)


@every_sphere
def test_gradient_by_formula(sphere):
    latitude, longitude = angles(sphere, 12, 24)
    u = np.cos(latitude) * np.cos(longitude) * np.sin(latitude) + np.sin(latitude)
    with sciml.double_precision():
        east, north = sphere.gradient(jnp.asarray(u))
    # Divided by cos(latitude) by hand, at the poles too.
    np.testing.assert_allclose(east, -np.sin(latitude) * np.sin(longitude), atol=1e-13)
    np.testing.assert_allclose(north, np.cos(2 * latitude) * np.cos(longitude) + np.cos(latitude), atol=1e-13)


@every_sphere
def test_divergence_and_vorticity_of_potentials(sphere):
    potential, stream = bumps(places(sphere, 14, 24))
    with sciml.double_precision():
        gradient, turned = sphere.gradient(jnp.asarray([potential, stream])).swapaxes(0, 1)
        turned = jnp.stack([-turned[1], turned[0]])
        wind = gradient + turned
        divergence, vorticity = sphere.divergence(wind), sphere.vorticity(wind)
        wanted = np.asarray(sphere.laplacian(jnp.asarray([potential, stream])))
        several = sphere.vorticity(jnp.stack([gradient, turned], axis=1))
    np.testing.assert_allclose(divergence, wanted[0], atol=1e-11)
    np.testing.assert_allclose(vorticity, wanted[1], atol=1e-11)
    np.testing.assert_allclose(several, [0 * wanted[1], wanted[1]], atol=1e-11)


@every_sphere
def test_vorticity_of_a_turning_planet(sphere):
    # Rotation about an axis through the equator: the wind crosses the poles, where its components are not continuous.
    latitude, longitude = angles(sphere, 10, 20)
    wind = [-np.sin(latitude) * np.cos(longitude), np.sin(longitude) + 0 * latitude]
    with sciml.double_precision():
        vorticity = sphere.vorticity(jnp.asarray(wind))
        divergence = sphere.divergence(jnp.asarray(wind))
    np.testing.assert_allclose(vorticity, 2 * np.cos(latitude) * np.cos(longitude), atol=1e-13)
    np.testing.assert_allclose(divergence, 0, atol=1e-13)


# Compiled, differentiated, in single precision


def test_transform_in_single_precision_under_jit_and_vmap():
    sphere = Sphere(equiangular)
    u = jnp.asarray(bumps(places(sphere, 32, 64)), jnp.float32)
    got = jax.jit(jax.vmap(sphere.analysis))(u)
    assert got.dtype == jnp.float32
    with sciml.double_precision():
        want = sphere.analysis(jnp.asarray(bumps(places(sphere, 32, 64))))
    np.testing.assert_allclose(got, want, atol=3e-6)


def test_gradient_through_analysis_is_its_transpose():
    sphere = Sphere(gauss_legendre)
    c = random_coefficients(5)
    with sciml.double_precision():
        _, pull = jax.vjp(sphere.analysis, jnp.zeros((6, 12)))
        # On Gauss-Legendre latitudes analysis is the transpose of synthesis times the weights.
        want = sphere.synthesis(jnp.asarray(c), 6, 12) * sphere.weights(6, 12)
        np.testing.assert_allclose(pull(jnp.asarray(c))[0], want, atol=1e-13)


# What a file says, and what cannot be


@every_sphere
@pytest.mark.parametrize("n", [2, 5, 32, 73])
def test_sphere_is_found_from_its_latitudes(sphere, n):
    found = sphere_of(sphere.latitudes(n).astype(np.float32))
    assert found.north_first == sphere.north_first
    np.testing.assert_allclose(found.latitudes(n), sphere.latitudes(n), atol=1e-5)


@pytest.mark.parametrize(
    "latitudes",
    [np.linspace(20, 60, 41), np.array([0.0, np.nan, 10.0]), np.array([]), np.zeros((3, 2)), np.zeros(4)],
    ids=["region", "nan", "empty", "two dimensions", "constant"],
)
def test_other_latitudes_are_refused(latitudes):
    with pytest.raises(ValueError, match="sphere_of"):
        sphere_of(latitudes)


def test_points_must_be_latitudes():
    for points in (lambda n: np.linspace(90, -90, n), lambda n: np.linspace(0, 91, n), lambda n: np.zeros(3)):
        with pytest.raises(ValueError, match="rising latitudes"):
            Sphere(points).latitudes(8)
    with pytest.raises(ValueError, match="rising latitudes"):
        Sphere().latitudes(0)
    with pytest.raises(ValueError, match="no quadrature with positive weights"):
        Sphere(lambda n: np.linspace(-30, 60, n)).weights(12, 8)


def test_more_degrees_than_the_grid_holds_are_refused():
    with pytest.raises(ValueError, match="degrees 0 to 7, not 8"):
        Sphere().analysis(jnp.zeros((8, 16)), 8)
    with pytest.raises(ValueError, match="degrees 0 to 3, not 4"):
        Sphere().synthesis(jnp.zeros((2, 5, 5)), 8, 8)


# The spherical operator


def model_of(sphere=Sphere(), **settings):
    settings = {"degree": 5, "width": 8, "layers": 1, "key": jax.random.key(0)} | settings
    return SphericalFNO(2, 3, sphere=sphere, **settings)


@eqx.filter_jit
def run(model, u):
    return model(u)


@every_sphere
def test_convolution_is_the_integral_with_a_zonal_kernel(sphere):
    # Funk and Hecke: the factor of degree l is the integral of the kernel times the Legendre polynomial.
    degree, rows, columns = 6, 14, 28
    nodes, node_weights = np.polynomial.legendre.leggauss(40)
    vandermonde = np.polynomial.legendre.legvander(nodes, degree)
    factors = 2 * np.pi * (node_weights * np.exp(2 * nodes)) @ vandermonde
    x, u = places(sphere, rows, columns).reshape(3, -1), bumps(places(sphere, rows, columns))
    # The kernel alone has more degrees than the grid; where it is smooth the dense sum still converges.
    fine = Sphere(gauss_legendre)
    y = places(fine, 30, 60).reshape(3, -1)
    dense = np.exp(2 * x.T @ y) @ (fine.weights(30, 60) * bumps(places(fine, 30, 60))[0]).ravel()
    with sciml.double_precision():
        layer = SphericalConvolution(2, 1, degree, key=jax.random.key(0))
        weight = jnp.stack([factors, jnp.zeros(degree + 1)], axis=-1)[:, None]
        layer = eqx.tree_at(lambda m: m.weight, layer, weight)
        got = layer(jnp.asarray(u), sphere)
    np.testing.assert_allclose(got[0].ravel(), dense, atol=1e-10)


@every_sphere
def test_convolution_commutes_with_rotations(sphere):
    x = places(sphere, 12, 24)
    turned = np.einsum("ab,bji->aji", Rotation.from_euler("xyz", [0.4, -1.1, 2.0]).as_matrix(), x)
    with sciml.double_precision():
        layer = SphericalConvolution(2, 3, 6, key=jax.random.key(0))
        c = np.asarray(sphere.analysis(layer(jnp.asarray(bumps(x)), sphere), 6))
        got = layer(jnp.asarray(bumps(turned)), sphere)
    # The output for the field that was not turned, at the turned places.
    longitude, latitude = np.arctan2(turned[1], turned[0]), np.arcsin(np.clip(turned[2], -1, 1))
    want = sum(
        np.multiply.outer(c[:, p, k, m], harmonic(k, m, p, latitude, longitude))
        for p in range(2)
        for k in range(7)
        for m in range(k + 1)
    )
    np.testing.assert_allclose(got, want, atol=1e-12)


@pytest.mark.parametrize("latitude", [False, True])
def test_operator_commutes_with_shifts_along_the_longitude(latitude):
    u = np.random.default_rng(0).normal(size=(2, 9, 16))
    with sciml.double_precision():
        model = model_of(SPHERES[1 + latitude], latitude=latitude)
        want = np.roll(run(model, jnp.asarray(u)), 5, axis=2)
        np.testing.assert_allclose(run(model, jnp.asarray(np.roll(u, 5, axis=2))), want, atol=1e-13)


def test_operator_commutes_with_reflections():
    u = np.random.default_rng(0).normal(size=(2, 9, 16))
    with sciml.double_precision():
        model = model_of()
        want = np.asarray(run(model, jnp.asarray(u)))
        np.testing.assert_allclose(run(model, jnp.asarray(u[:, ::-1])), want[:, ::-1], atol=1e-13)
        np.testing.assert_allclose(run(model, jnp.asarray(u[:, :, ::-1])), want[:, :, ::-1], atol=1e-13)


def rotation_error(model, rows):
    """How far the operator is from commuting with a rotation about an axis through the equator, relative to its output:
    by the sizes of what each degree up to 5 has in the outputs for both inputs, which no rotation changes.
    """
    sphere, x = model.sphere, places(model.sphere, rows, 2 * rows)
    turned = np.einsum("ab,bji->aji", Rotation.from_euler("x", 77, degrees=True).as_matrix(), x)
    outputs = [run(model, jnp.asarray(bumps(p))) for p in (x, turned)]
    sizes = [np.sum(np.square(sphere.analysis(u, 5)), axis=(1, 3)) ** 0.5 for u in outputs]
    return np.abs(sizes[0] - sizes[1]).max() / np.abs(sizes[0]).max()


def test_operator_commutes_with_rotations_as_the_grid_grows():
    with sciml.double_precision():
        errors = [rotation_error(model_of(layers=2), rows) for rows in (8, 16, 32)]
        assert errors[0] < 3e-2 and errors[1] < 1e-4 and errors[2] < 1e-8, errors
        # Knowing the latitude it need not.
        assert rotation_error(model_of(latitude=True), 32) > 1e-3


@pytest.mark.parametrize("sphere", SPHERES[:2])
def test_second_resolution_agrees_for_band_limited_input(sphere):
    with sciml.double_precision():
        model = model_of(sphere)
        outputs = [run(model, jnp.asarray(bumps(places(sphere, *size)))) for size in ((24, 48), (36, 80))]
        np.testing.assert_allclose(sphere.resample(outputs[0], 36, 80), outputs[1], atol=1e-6)
        # A coarse grid has fewer degrees than the weights.
        assert run(model, jnp.zeros((2, 4, 6))).shape == (3, 4, 6)


def test_order_of_rows_is_that_of_the_sphere():
    u = np.random.default_rng(0).normal(size=(2, 8, 16))
    with sciml.double_precision():
        for latitude in (False, True):
            north, south = (model_of(Sphere(equiangular, n), latitude=latitude) for n in (True, False))
            want = run(north, jnp.asarray(u))
            np.testing.assert_allclose(run(south, jnp.asarray(u[:, ::-1]))[:, ::-1], want, atol=1e-13)


def test_operator_is_compiled_mapped_differentiated_and_saved(tmp_path):
    model = model_of(Sphere(gauss_legendre), latitude=True)
    u = jnp.asarray(np.random.default_rng(0).normal(size=(4, 2, 8, 16)), jnp.float32)
    batch = eqx.filter_jit(eqx.filter_vmap(model))(u)
    assert batch.dtype == jnp.float32
    np.testing.assert_allclose(batch[1], run(model, u[1]), atol=1e-5)
    grads = eqx.filter_jit(eqx.filter_grad(lambda m: jnp.mean(jax.vmap(m)(u) ** 2)))(model)
    sizes = [jnp.abs(g).max() for g in jax.tree.leaves(grads)]
    assert len(sizes) == len(jax.tree.leaves(eqx.filter(model, eqx.is_array))) and min(sizes) > 0
    sciml.save(tmp_path / "model", model)
    other = model_of(Sphere(gauss_legendre), latitude=True, key=jax.random.key(1))
    np.testing.assert_array_equal(run(sciml.load(tmp_path / "model", other), u[0]), run(model, u[0]))
    with pytest.raises(ValueError, match="points"):
        sciml.load(tmp_path / "model", model_of(Sphere(equiangular), latitude=True))


def test_operator_refuses_what_is_not_one_sample():
    model = model_of()
    for shape in ((1, 8, 16), (4, 2, 8, 16), (2, 8)):
        with pytest.raises(Exception, match="one sample of shape|Type-check error"):
            model(jnp.zeros(shape))
    with pytest.raises(ValueError, match="degree must not be negative"):
        model_of(degree=-1)


def test_operator_keeps_nan_visible():
    u = jnp.zeros((2, 8, 16)).at[0, 3, 3].set(jnp.nan)
    assert jnp.isnan(run(model_of(), u)).any()


def test_operator_learns_diffusion():
    # The heat equation on the sphere multiplies degree l by exp(-l (l + 1) t): found from pairs of fields.
    sphere = Sphere(gauss_legendre)
    factors = np.exp(-0.05 * np.arange(8) * np.arange(1, 9))[:, None]
    c = random_coefficients(7, channels=(24, 1))
    a, u = (jnp.asarray(sphere.synthesis(jnp.asarray(x), 8, 16), jnp.float32) for x in (c, c * factors))
    layer = _Diffusion(SphericalConvolution(1, 1, 7, key=jax.random.key(0)), sphere)
    model, _ = sciml.fit(layer, sciml.misfit, [(a, u)], sciml.optim.gauss_newton(), steps=5, report=None)
    np.testing.assert_allclose(model.convolution.weight[:, 0], factors, atol=1e-3)


class _Diffusion(eqx.Module):
    convolution: SphericalConvolution
    sphere: Sphere

    def __call__(self, a):
        return self.convolution(a, self.sphere)
