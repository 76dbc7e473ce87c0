"""Physics on operators: residuals of known solutions on grids and at points, and training by them."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray as xr

import sciml
from sciml import PDE, Box, Groups, condition, derived, flux, periodic, value
from sciml._loss import total
from sciml.pde import grid_residuals
from sciml.pde._groups import by_group, together
from sciml.pde._physics import Field, harmonic_mean, physics, refine
from sciml.pde._physics_points import physics_at_points, with_points


def burgers(u, u_t, u_x, u_xx, nu):
    return u_t + u * u_x - nu * u_xx


def burgers_pde(nu=0.05):
    domain = Box(t=(0, 1), x=(-1, 1))
    return PDE(domain, burgers, value(u=lambda u0: u0, on=domain.at(t=0)), periodic("x"), nu=nu, u0=0.0)


def cole_hopf(t, x, nu=0.05):
    """Periodic: u = -2 nu phi_x / phi with phi = 2 + exp(-nu pi^2 t) cos(pi x)."""
    decay = np.exp(-nu * np.pi**2 * t)
    return 2 * nu * np.pi * decay * np.sin(np.pi * x) / (2 + decay * np.cos(np.pi * x))


def darcy(qx_x, qy_y, f):
    return qx_x + qy_y + f


FLUXES = derived(qx=lambda a, u_x: a * u_x, qy=lambda a, u_y: a * u_y)


def darcy_pde(**ranges):
    domain = Box(**(ranges or {"x": (0, 1), "y": (0, 1)}))
    return PDE(domain, darcy, FLUXES, value(u=0.0, on=domain.boundary()), a=1.0, f=1.0)


def evaluated(loss, model, *arguments):
    """The residuals of a model for a batch, as NumPy arrays."""
    return jax.device_get(jax.jit(lambda batch: loss(model, batch))(jax.tree.map(jnp.asarray, arguments)))


def largest(residuals):
    return max(np.abs(r).max() for r in residuals.values())


# On a grid.


@pytest.mark.parametrize("double, size", [(False, 1e-4), (True, 1e-6)])
@pytest.mark.parametrize("n", [64, 65])
def test_known_solutions_have_no_residual(double, size, n):
    t, x = np.linspace(0, 1, 33), -1 + 2 * np.arange(n) / n
    nu = np.array([0.05, 0.08])
    u = cole_hopf(t[:, None], x, nu[:, None, None])
    with sciml.double_precision(double):
        solutions = jnp.asarray(u)
        # The initial value depends on x alone, the viscosity is a number of each sample; the PDE knows the grid.
        loss = physics(burgers_pde(), inputs=("u0", "nu"))
        out = evaluated(loss, lambda u0, nu: solutions[(nu > 0.06).astype(int)], u[:, None, 0], nu)
    assert set(out) == {"burgers", "u on t=0"}
    assert out["burgers"].shape == (2, 33, n) and out["u on t=0"].shape == (2, n)
    assert largest(out) < size and all(r.dtype == ("float64" if double else "float32") for r in out.values())


def transposed_case():
    """Fields of x, y, t on uneven points, the PDE's axes in another order, with a coefficient and a condition."""
    x, y = np.sort(np.random.default_rng(0).uniform(0, 1, (2, 9)), axis=1)
    x[0], x[-1], t = 0.0, 1.0, np.linspace(0.5, 0, 8)
    X, Y, T = np.meshgrid(x, y, t, indexing="ij")
    u, a = np.sin(X + 2 * Y) * np.exp(T), 2 + np.cos(X * Y)[:, :, 0]

    def equation(u_t, qx_x, u_xy, u, a, x, k):
        return u_t - qx_x + k * a * u_xy + x * u**2

    domain = Box(t=(0, 0.5), x=(0, 1), y=(0, 1))
    q = derived(qx=lambda a, u_x: a * u_x)
    conditions = [flux(u=lambda k, y: k + y, on=domain.at(x=0)), condition(lambda u, u_n: u_n + u, on=domain.at(x=1))]
    pde = PDE(domain, equation, q, *conditions, value(u=0.0, on=domain.at(t=0)), a=1.0, k=0.3)
    return pde, {"x": x, "y": y, "t": t}, u, a


@pytest.mark.parametrize("order", [2, 6])
def test_residuals_are_those_of_grid_residuals(order):
    pde, coordinates, u, a = transposed_case()
    dims = tuple(coordinates)
    stored = xr.Dataset({"u": (dims, u), "a": (dims[:2], a)}, coords=coordinates)
    want = grid_residuals(pde, stored, order=order, k=0.7)
    with sciml.double_precision():
        loss = physics(pde, coordinates, inputs=("a", None), order=order, k=0.7)
        got = evaluated(loss, lambda a: jnp.asarray(u), np.stack([a, 0 * a])[None])
    assert set(got) == set(want.data_vars) and len(got) == 4
    for name, residual in got.items():
        assert residual.shape == (1, *want[name].shape)
        np.testing.assert_allclose(residual[0], want[name], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("order", [2, 4])
def test_order_of_convergence_on_uneven_points(order):
    def equation(u_xx, u_y, f):
        return u_xx + u_y - f

    errors = []
    with sciml.double_precision():
        for n in (24, 48):
            s = np.linspace(0, 1, n)
            x, y = s + 0.1 * np.sin(np.pi * s), s**1.5 + s
            X, Y = np.meshgrid(x, y, indexing="ij")
            u, f = np.sin(3 * X) * np.cos(2 * Y), -9 * np.sin(3 * X) * np.cos(2 * Y) - 2 * np.sin(3 * X) * np.sin(2 * Y)
            loss = physics(equation, {"x": x, "y": y}, inputs="f", order=order)
            errors.append(largest(evaluated(loss, lambda f: jnp.asarray(u)[None], f[None, None])))
    assert np.log2(errors[0] / errors[1]) > order - 0.4


def test_gradient_is_that_of_finite_differences():
    pde, coordinates, u, a = transposed_case()
    with sciml.double_precision():
        loss = physics(pde, coordinates, inputs="a", order=4, staggered=harmonic_mean)
        arguments = (jnp.asarray(a)[None, None],)
        direction = jnp.asarray(np.random.default_rng(1).standard_normal(u.shape))

        @jax.jit
        def value_at(e):
            return total(loss(Field(jnp.asarray(u) + e * direction), arguments))

        slope = float(jax.grad(value_at)(0.0))
        assert slope == pytest.approx(float(value_at(1e-5) - value_at(-1e-5)) / 2e-5, rel=1e-6)


def test_resolution_follows_the_output():
    loss = physics(burgers_pde(), inputs="u0", conditions=False)
    for shape in ((17, 32), (33, 48)):
        t, x = np.linspace(0, 1, shape[0]), -1 + 2 * np.arange(shape[1]) / shape[1]
        u = cole_hopf(t[:, None], x)
        out = evaluated(loss, lambda u0, u=u: jnp.asarray(u)[None], u[None, :1])
        assert list(out) == ["burgers"] and out["burgers"].shape == (1, *shape) and largest(out) < 1e-3
    # Points as functions of their number: the centres of cells.
    cells = {"t": lambda n: np.linspace(0, 1, n), "x": lambda n: -1 + (2 * np.arange(n) + 1) / n}
    u = cole_hopf(cells["t"](33)[:, None], cells["x"](48))
    out = evaluated(physics(burgers_pde(), cells, inputs="u0"), lambda u0: jnp.asarray(u), u[None, None, 0])
    assert len(out) == 2 and largest(out) < 1e-3


def test_closing_point_of_a_periodic_axis():
    x = np.linspace(0, 1, 33)
    u = np.sin(2 * np.pi * x)
    loss = physics(lambda u_x, f: u_x - f, {"x": x}, inputs="f", periodic={"x": 1.0})
    f = (2 * np.pi * np.cos(2 * np.pi * x))[None, None]
    out = evaluated(loss, lambda f: jnp.asarray(u)[None], f)
    assert set(out) == {"equation 1", "u periodic in x"} and largest(out) < 1e-4
    open_ = evaluated(loss, lambda f: jnp.asarray(u).at[-1].set(0.5), f)["u periodic in x"]
    assert open_.shape == (1,) and open_[0] == pytest.approx(0.5)


def test_several_outputs_and_functions_of_the_arguments():
    def continuity(u_x, v_y):
        return u_x + v_y

    def vorticity(v_x, u_y, w):
        return v_x - u_y - w

    x = np.arange(16) / 16
    X, Y = np.meshgrid(2 * np.pi * x, 2 * np.pi * x, indexing="ij")
    u, v = np.cos(X) * np.sin(Y), -np.sin(X) * np.cos(Y)
    loss = physics(
        [continuity, vorticity],
        {"x": x, "y": x},
        outputs=("v", None, "u"),
        inputs={"w": lambda logarithm, scale: scale * jnp.log(logarithm)},
        periodic={"x", "y"},
    )
    w = -4 * np.pi * np.cos(X) * np.cos(Y)
    out = evaluated(loss, lambda *_: jnp.asarray([v, 7 * u, u]), np.exp(w / 20)[None], np.full((1,), 20.0))
    assert set(out) == {"continuity", "vorticity"} and largest(out) < 1e-4


def test_labelled_batches_compose_with_misfit():
    u = jnp.asarray(cole_hopf(np.linspace(0, 1, 9)[:, None], np.arange(16) / 8 - 1))[None, None]
    labelled = physics(burgers_pde(), inputs="u0", labelled=True)
    both = sciml.weighted(sciml.combine(sciml.misfit, labelled), misfit=10.0)
    model = Field(u[0])
    out = both(model, (u[:, :, 0], u))
    assert set(out) == {"misfit", "burgers", "u on t=0"} and float(abs(out["misfit"]).max()) == 0.0
    plain = physics(burgers_pde(), inputs="u0")(model, (u[:, :, 0],))
    np.testing.assert_array_equal(out["burgers"], plain["burgers"])
    with pytest.raises(ValueError, match="in shapes.*None for those"):
        physics(burgers_pde(), inputs="u0")(model, (u[:, :, 0], u))


def test_precision_is_that_of_the_output():
    u = np.ones((1, 1, 9, 9))
    loss = physics(darcy_pde(), inputs="a", staggered=harmonic_mean, norm=-1)

    def types(dtype):
        return {r.dtype.name for r in evaluated(loss, lambda a: a.astype(dtype), u).values()}

    assert types("bfloat16") == {"float32"}
    with sciml.double_precision():
        assert types("float32") == {"float32"} and types("float64") == {"float64"}


def test_conditions_are_chosen_by_name():
    u = jnp.ones((2, 1, 9, 8))

    def names(coordinates=None, **options):
        loss = physics(darcy_pde(), coordinates, inputs="a", order=2, **options)
        return set(jax.eval_shape(lambda u: loss(lambda a: a, (u,)), u))

    faces = {f"u on boundary: {face}" for face in ("x=0", "x=1", "y=0", "y=1")}
    assert names() == faces | {"darcy"}
    assert names(conditions=False) == {"darcy"}
    assert names(conditions="u on boundary") == faces | {"darcy"}
    assert names(conditions=["u on boundary: y=1"]) == {"darcy", "u on boundary: y=1"}
    inner = {"x": np.arange(1, 10) / 10, "y": np.linspace(0, 1, 8)}
    with pytest.raises(ValueError, match="no points of the conditions.*x=0.*conditions=False"):
        names(inner)
    assert names(inner, conditions=["u on boundary: y=0"]) == {"darcy", "u on boundary: y=0"}
    with pytest.raises(ValueError, match="no 'u on boundary: x=0' on the grid; there are.*y=0"):
        names(inner, conditions=["u on boundary: x=0"])


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"inputs": "b"}, ValueError, "know no 'b'.*they know a, f"),
        ({"inputs": ("a", "f")}, ValueError, r"names 2 channels \(a, f\).*have 1, in shapes \(1, 9, 8\)"),
        ({"inputs": "u"}, ValueError, "'u' is named twice"),
        ({"inputs": "a", "outputs": "v"}, ValueError, "need 'u', which is no output"),
        ({"inputs": "a", "outputs": ("u", "v")}, ValueError, r"expected an output of shape \(2, x, y\).*\(1, 9, 8\)"),
        ({"inputs": "a", "k": 1.0}, ValueError, "no parameter 'k'"),
        ({"inputs": "a", "coordinates": {"x": np.linspace(0, 1, 9)}}, ValueError, "expected the axes x, y, got x"),
        (
            {"inputs": "a", "coordinates": {"y": np.linspace(0, 1, 9), "x": np.linspace(0, 1, 9)}},
            ValueError,
            "8 points along 'x', but the coordinates are of shape .9,",
        ),
        ({"inputs": "a", "coordinates": {"x": [0, np.nan, 1], "y": [0, 1]}}, ValueError, "'x' must be 1-D and finite"),
        ({"inputs": "a", "periodic": "z"}, ValueError, "no axis 'z'"),
        ({"inputs": "a", "norm": 1}, ValueError, "norm must be 0 or negative, got 1"),
        ({"inputs": {"a": lambda a: a[0, :4]}}, ValueError, r"'a' has the shape \(4, 8\).*x: 9, y: 8"),
    ],
)
def test_what_does_not_fit_is_named(options, error, message):
    with pytest.raises(error, match=message):
        physics(darcy_pde(), **options)(lambda a: a, (jnp.ones((2, 1, 9, 8)),))


def test_bad_batches_and_equations():
    loss = physics(darcy_pde(), inputs="a")
    with pytest.raises(TypeError, match="a tuple of the model's arguments"):
        loss(lambda a: a, jnp.ones((1, 1, 8, 8)))
    with pytest.raises(ValueError, match="leading axis of samples.*labelled=True"):
        loss(lambda a: a, (jnp.ones((0, 1, 8, 8)),))
    with pytest.raises(ValueError, match="need coordinates"):
        physics(darcy)
    with pytest.raises(ValueError, match="unknown name 'f'.*outputs \\(u\\) and inputs \\(a\\)"):
        physics([darcy, FLUXES], {"x": np.arange(4.0), "y": np.arange(4.0)}, inputs="a")
    ball = sciml.Ball(radius=1.0, x=0.0, y=0.0)
    with pytest.raises(ValueError, match="needs a Box.*physics_at_points"):
        physics(PDE(ball, lambda u_xx, u_yy: u_xx + u_yy, value(u=0.0, on=ball.boundary())))


def test_missing_values_reach_the_residual():
    u = jnp.ones((1, 1, 9, 8)).at[0, 0, 4, 4].set(jnp.nan)
    assert bool(jnp.isnan(physics(darcy_pde(), inputs="a")(lambda a: a, (u,))["darcy"]).any())


# Coefficients that jump.


def test_staggered_fluxes_of_a_jump_are_exact():
    # -(a u')' = 0 with a jump midway between two points: u is linear on either side, the flux is 1.
    x = np.linspace(0, 1, 11)
    a = np.where(x < 0.55, 12.0, 3.0)
    u = np.minimum(x, 0.55) / 12 + np.maximum(x - 0.55, 0) / 3
    equation, q = (lambda q_x: q_x), derived(q=lambda a, u_x: a * u_x)

    def error(**options):
        loss = physics([equation, q], {"x": x}, inputs="a", **options)
        return largest(evaluated(loss, lambda a: jnp.asarray(u)[None], a[None, None]))

    with sciml.double_precision():
        assert error(staggered=harmonic_mean) < 1e-11
        assert error(staggered=lambda low, high: (low + high) / 2) > 1
        assert error(order=2) > 1


def finite_volumes(a, steps, f=1.0):
    """The solution of -div(a grad u) = f with u = 0 at the ends, on a dense matrix."""
    (nx, ny), (hx, hy) = a.shape, steps
    index = np.arange(nx * ny).reshape(nx, ny)
    matrix = np.eye(nx * ny)
    for i in range(1, nx - 1):
        for j in range(1, ny - 1):
            row = np.zeros(nx * ny)
            for di, dj, h in ((1, 0, hx), (-1, 0, hx), (0, 1, hy), (0, -1, hy)):
                k = 2 / (1 / a[i, j] + 1 / a[i + di, j + dj]) / h**2
                row[index[i, j]] += k
                row[index[i + di, j + dj]] -= k
            matrix[index[i, j]] = row
    right = np.zeros((nx, ny))
    right[1:-1, 1:-1] = f
    return np.linalg.solve(matrix, right.ravel()).reshape(nx, ny)


def coefficient(nx, ny, seed=0):
    return np.where(np.random.default_rng(seed).random((nx, ny)) > 0.5, 12.0, 3.0)


def test_staggered_residual_of_finite_volumes_is_zero():
    a = coefficient(9, 12)
    u = finite_volumes(a, (1 / 8, 2 / 11))
    with sciml.double_precision():
        for norm in (0, -2):
            loss = physics(darcy_pde(x=(0, 1), y=(0, 2)), inputs="a", staggered=harmonic_mean, norm=norm)
            out = evaluated(loss, lambda a: jnp.asarray(u)[None], a[None, None])
            assert out["darcy"].shape == (1, 7, 10) and largest(out) < 1e-11


@pytest.mark.parametrize("kind", ["uneven", "periodic", "closed"])
def test_staggered_order_of_convergence(kind):
    errors = []
    with sciml.double_precision():
        for n in (32, 64):
            s = np.linspace(0, 1, n, endpoint=kind != "periodic")
            x = s + 0.05 * np.sin(2 * np.pi * s)
            k = 2 * np.pi
            u, a = np.sin(k * x), 2 + np.cos(k * x)
            f = k**2 * (np.sin(k * x) * (2 + np.cos(k * x)) + np.sin(k * x) * np.cos(k * x))
            equation = lambda q_x, f, x: q_x + f - k * jnp.cos(k * x)  # noqa: E731
            q = derived(q=lambda a, u_x, x: a * u_x + jnp.sin(k * x))
            options = {} if kind == "uneven" else {"periodic": {"x": 1.0}}
            loss = physics([equation, q], {"x": x}, inputs=("a", "f"), staggered=lambda p, q: (p + q) / 2, **options)
            out = evaluated(loss, lambda _: jnp.asarray(u)[None], np.stack([a, f])[None])
            assert out["equation 1"].shape == (1, {"uneven": n - 2, "periodic": n, "closed": n - 1}[kind])
            errors.append(np.sqrt(np.mean(out["equation 1"] ** 2)))
    assert np.log2(errors[0] / errors[1]) > 1.7 and errors[1] < 0.5


@pytest.mark.parametrize("norm", [-1, -2])
def test_norms_of_the_residual_are_errors(norm):
    # u off by w: the residual is the Laplacian of w; norms of w and its differences, weighted by lengths.
    x, y = np.array([0, 0.1, 0.25, 0.5, 0.6, 0.8, 1.0]), np.arange(6) / 6
    w = np.random.default_rng(0).standard_normal((7, 6))
    w[0] = w[-1] = 0
    lengths = (x[2:, None] - x[:-2, None]) / 2
    slopes = (np.diff(w, axis=0) ** 2 / np.diff(x)[:, None]).sum() / 6
    slopes += ((6 * (np.roll(w, -1, 1) - w)[1:-1]) ** 2 * lengths).sum() / 6
    want = {-1: slopes, -2: (w[1:-1] ** 2 * lengths).sum() / 6}[norm] / lengths.sum()

    def laplace(qx_x, qy_y):
        return qx_x + qy_y

    q = derived(qx=lambda u_x: u_x, qy=lambda u_y: u_y)
    options = {"periodic": {"y": 1.0}, "staggered": harmonic_mean, "norm": norm}
    with sciml.double_precision():
        loss = physics([laplace, q], {"x": x, "y": y}, **options)
        out = evaluated(loss, lambda _: jnp.asarray(w)[None], np.ones((1, 1)))
    assert out["laplace"].shape == (1, 5, 6) and np.mean(out["laplace"] ** 2) == pytest.approx(want, rel=1e-9)


def test_norm_of_a_constant_on_a_periodic_axis():
    loss = physics(lambda u_xx: u_xx - 1.0, {"x": np.arange(8) / 8}, periodic="x", norm=-1)
    out = evaluated(loss, lambda a: jnp.zeros((1, 8)), np.ones((1, 1)))["equation 1"]
    slowest = (2 - 2 * np.cos(2 * np.pi / 8)) * 64
    assert np.mean(out**2) == pytest.approx(1 / slowest, rel=1e-4)


# Training.


class Convolution(eqx.Module):
    """Two circular convolutions along x, and time as a channel: `(1, nx) -> (1, nt, nx)`."""

    first: jax.Array
    second: jax.Array

    def __init__(self, key, width=8):
        keys = jax.random.split(key)
        self.first = jax.random.normal(keys[0], (3, width, 2)) / 6**0.5
        self.second = jax.random.normal(keys[1], (3, 1, width)) / (3 * width) ** 0.5

    def __call__(self, a):
        t = jnp.linspace(0, 1, 9)[:, None]
        h = jnp.stack(jnp.broadcast_arrays(a, t))
        for i, kernel in enumerate((self.first, self.second)):
            h = sum(jnp.tensordot(kernel[k], jnp.roll(h, k - 1, -1), 1) for k in range(3))
            h = jnp.tanh(h) if i == 0 else h
        return a + t * h


def initial_values(key, samples, n, modes=2):
    """Random sums of waves on [-1, 1)."""
    x = -1 + 2 * jnp.arange(n) / n
    waves = jnp.stack([f(np.pi * k * x) for k in range(1, modes + 1) for f in (jnp.sin, jnp.cos)])
    return (jax.random.normal(key, (samples, 2 * modes)) @ waves / modes)[:, None]


def test_burgers_without_data():
    loss = physics(burgers_pde(0.1), inputs="u0")
    data = [(initial_values(jax.random.key(i), 8, 16),) for i in range(4)]
    start = Convolution(jax.random.key(0))
    model, _ = sciml.fit(start, loss, data, optax.adam(1e-2), steps=150, report=False)
    (test,) = data[0]
    before, after = (evaluated(loss, m, test) for m in (start, model))
    assert np.mean(after["burgers"] ** 2) < 0.2 * np.mean(before["burgers"] ** 2)
    assert np.abs(after["u on t=0"]).max() < 1e-6


class Multiplier(eqx.Module):
    """A periodic linear operator by its values on every pair of points."""

    matrix: jax.Array

    def __call__(self, a):
        return a @ self.matrix


def helmholtz(u, u_xx, a):
    return u - 0.02 * u_xx - a


def solve_helmholtz(a):
    k = 2 * np.pi * np.fft.rfftfreq(a.shape[-1], 1 / a.shape[-1]) / 2
    return jnp.asarray(np.fft.irfft(np.fft.rfft(np.asarray(a)) / (1 + 0.02 * k**2), n=a.shape[-1]), jnp.float32)


COORDINATES = {"x": -1 + 2 * np.arange(16) / 16}


def test_few_labels_and_many_inputs():
    a = initial_values(jax.random.key(0), 64, 16, modes=4)
    u = solve_helmholtz(a)
    test = initial_values(jax.random.key(1), 64, 16, modes=4)
    both = by_group(labelled=sciml.misfit, unlabelled=physics(helmholtz, COORDINATES, inputs="a", periodic="x"))
    labels = [(a[:2], u[:2]), (a[2:4], u[2:4])]
    inputs = [(a[i : i + 16],) for i in (16, 32, 48)]

    def error(loss, data):
        model, _ = sciml.fit(Multiplier(jnp.zeros((16, 16))), loss, data, optax.adam(0.02), steps=300, report=False)
        return float(
            jnp.linalg.norm(jax.vmap(model)(test) - solve_helmholtz(test)) / jnp.linalg.norm(solve_helmholtz(test))
        )

    alone = error(sciml.misfit, labels)
    assert alone > 0.2
    assert error(both, together(labelled=labels, unlabelled=inputs)) < alone / 5


def test_refinement_of_one_instance():
    loss = physics(helmholtz, COORDINATES, inputs="a", periodic="x")
    a = initial_values(jax.random.key(0), 1, 16, modes=4)
    truth = solve_helmholtz(a)[0]
    model = Multiplier(0.5 * jnp.eye(16))
    error = float(jnp.linalg.norm(model(a[0]) - truth))
    refined, history = refine(model, loss, (a,), steps=30)
    assert float(jnp.linalg.norm(refined(a[0]) - truth)) < 0.01 * error and history.attrs["stopped"] == "steps"
    with pytest.raises(ValueError, match="budget"):
        refine(model, loss, (a,))


def test_refinement_of_a_field_with_jumps():
    a = coefficient(17, 17, 3)
    truth = finite_volumes(a, (1 / 16, 1 / 16))
    start = Field(jnp.asarray(truth + 0.3 * np.random.default_rng(0).standard_normal(truth.shape) * truth.max())[None])
    errors = {}
    for norm in (0, -2):
        loss = physics(darcy_pde(), inputs="a", staggered=harmonic_mean, norm=norm)
        found, _ = refine(start, loss, (a[None, None],), steps=50)
        errors[norm] = np.linalg.norm(found.values[0] - truth) / np.linalg.norm(truth)
    # The squares of second derivatives hardly see slow waves.
    assert errors[-2] < 0.01 and errors[0] > 0.1


# At points.


def decay(u_t, u_xx, k):
    return u_t - k * u_xx


def heat_pde():
    domain = Box(t=(0, 1), x=(0, 1))
    conditions = [value(u=lambda u0: u0, on=domain.at(t=0)), flux(u=lambda k: 0 * k, on=domain.boundary("x"))]
    return PDE(domain, decay, *conditions, u0=0.0, k=0.1)


def heat_operator(u0, k, point):
    """Exact, from the cosine coefficients of sensors at the centres of cells."""
    n = u0.shape[0]
    modes, x = jnp.arange(n), (jnp.arange(n) + 0.5) / n
    coefficients = jnp.cos(jnp.pi * modes[:, None] * x) @ u0 * jnp.where(modes == 0, 1, 2) / n
    waves = jnp.exp(-k * (jnp.pi * modes) ** 2 * point[0]) * jnp.cos(jnp.pi * modes * point[1])
    return coefficients @ waves


def twice(u0, k, point):
    return heat_operator(u0, 2 * k, point)


def cosine_series(u0, k, point):
    return heat_operator(u0, k, point.at[0].set(0.0))


def heat_batch():
    x = (np.arange(6) + 0.5) / 6
    return jnp.asarray(np.stack([1 + np.cos(np.pi * x), np.cos(2 * np.pi * x)])), jnp.asarray([0.1, 0.3])


def test_exact_operator_has_no_residual_at_points(monkeypatch):
    def refuse(*_):
        raise AssertionError("not by the planner")

    monkeypatch.setattr("sciml.pde._derivatives.nested_derivatives", refuse)
    with sciml.double_precision():
        pde = heat_pde()
        loss = physics_at_points(pde, inputs={"u0": cosine_series, "k": lambda u0, k, point: k})
        batch = with_points(lambda key: heat_batch(), pde, 20, 7)(jax.random.key(0))
        out, wrong = jax.device_get(jax.jit(lambda b: (loss(heat_operator, b), loss(twice, b)))(batch))
    assert len(out) == 3 and {r.shape for r in out.values()} == {(2, 20), (2, 7)} and largest(out) < 1e-10
    assert np.abs(wrong["decay"]).max() > 0.1


def test_sensors_are_interpolated():
    # Piecewise linear initial values, known exactly at the sensors: u0 at a point is that of numpy.
    x = np.array([1.0, 0.7, 0.2, 0.0])
    rng = np.random.default_rng(0)
    values, k = rng.standard_normal((3, 4)), rng.random((3, 1))
    pde = heat_pde()
    loss = physics_at_points(pde, inputs=("u0", "k"), sensors={"x": x})
    points = rng.random((3, 9, 2)) * [0, 1]
    out = loss(lambda u0, k, p: k[0], Groups({"u on t=0": (jnp.asarray(values), jnp.asarray(k), jnp.asarray(points))}))
    want = [k[i] - np.interp(points[i, :, 1], x[::-1], values[i, ::-1]) for i in range(3)]
    np.testing.assert_allclose(out["u on t=0"], want, atol=1e-5)


def test_sensors_on_a_grid_and_the_slope_of_an_input():
    x, y = np.linspace(0, 1, 5), np.linspace(0, 2, 7)
    X, Y = np.meshgrid(x, y, indexing="ij")
    f = 1 + 2 * X - Y + 3 * X * Y  # bilinear, so that the interpolation is exact

    def equation(u, f, f_x, f_xy, nothing):
        return jnp.stack([u, f, f_x, f_xy]) @ jnp.array([1.0, 10.0, 100.0, 1000.0]) + nothing

    loss = physics_at_points(equation, ("x", "y"), inputs=("nothing", "f"), sensors={"x": x, "y": y})
    points = np.random.default_rng(0).random((6, 2)) * [1, 2]
    fields = jnp.asarray(np.stack([0 * f, f]))[None]
    out = loss(lambda a, p: p[0], Groups({"interior": (fields, jnp.asarray(points))}))["equation"]
    px, py = points.T
    want = px + 10 * (1 + 2 * px - py + 3 * px * py) + 100 * (2 + 3 * py) + 3000
    np.testing.assert_allclose(out[0], want, rtol=1e-5)


def test_derived_fluxes_of_an_input_at_points():
    def coefficient(a, point):
        return 2 + a * jnp.sin(point[0])

    def operator(a, point):
        return jnp.exp(point[0]) * jnp.cos(point[1])

    def exact(a, x, y):
        q_x = (2 + a * np.sin(x) + a * np.cos(x)) * np.exp(x) * np.cos(y)
        return q_x - (2 + a * np.sin(x)) * np.exp(x) * np.cos(y)

    loss = physics_at_points([lambda qx_x, qy_y: qx_x + qy_y, FLUXES], ("x", "y"), inputs={"a": coefficient})
    points, a = np.random.default_rng(0).random((2, 8, 2)), np.array([0.5, 1.5])
    with sciml.double_precision():
        out = loss(operator, Groups({"interior": (jnp.asarray(a), jnp.asarray(points))}))["equation 1"]
    np.testing.assert_allclose(out, exact(a[:, None], points[..., 0], points[..., 1]), rtol=1e-9)


def test_grid_and_points_agree():
    pde = heat_pde()
    t, x = np.linspace(0, 1, 25), np.linspace(0, 1, 25)
    k = np.array([0.1, 0.3])

    def operator(k, point):
        return jnp.sin(point[0] + k) * point[1] ** 3

    with sciml.double_precision():
        mesh = jnp.stack([jnp.asarray(m).ravel() for m in np.meshgrid(t, x, indexing="ij")], axis=1)
        grid = physics(pde, {"t": t, "x": x}, inputs="k", conditions=False)
        found = evaluated(grid, lambda k: jax.vmap(lambda p: operator(k, p))(mesh).reshape(25, 25), k)
        points = physics_at_points(pde, inputs="k")(operator, Groups({"interior": (jnp.asarray(k), mesh)}))
    np.testing.assert_allclose(found["decay"].reshape(2, -1), points["decay"], atol=1e-8)


class Network(eqx.Module):
    """A small DeepONet."""

    branch: eqx.nn.Linear
    trunk: eqx.nn.MLP

    def __init__(self, key):
        keys = jax.random.split(key)
        self.branch = eqx.nn.Linear(6, 16, key=keys[0])
        self.trunk = eqx.nn.MLP(2, 16, 16, 2, jnp.tanh, key=keys[1])

    def __call__(self, u0, point):
        return self.branch(u0) @ self.trunk(point)


def test_training_at_points_without_data():
    sensors = (np.arange(6) + 0.5) / 6
    slow = jnp.asarray(np.stack([np.ones(6), np.cos(np.pi * sensors)]), jnp.float32)

    def draw(key):
        return (jax.random.normal(key, (8, 2)) @ slow,)

    pde = heat_pde()
    loss = sciml.weighted(physics_at_points(pde, inputs="u0", sensors={"x": sensors}), {"u on t=0": 10.0})
    (test,), points = draw(jax.random.key(1)), pde.domain.sample(jax.random.key(2), 64)

    def error(model):
        def at(operator):
            return jax.vmap(lambda u0: jax.vmap(lambda p: operator(u0, p))(points))(test)

        truth = at(lambda u0, p: heat_operator(u0, 0.1, p))
        return float(jnp.linalg.norm(at(model) - truth) / jnp.linalg.norm(truth))

    stream = with_points([draw(jax.random.key(i)) for i in range(10, 40)], pde, 32, 16, shared=True)
    model, _ = sciml.fit(Network(jax.random.key(0)), loss, stream, optax.adam(5e-3), steps=400, report=False)
    assert error(model) < 0.15 < 0.8 < error(Network(jax.random.key(0)))


@pytest.mark.parametrize(
    "change, error, message",
    [
        (lambda b: b["interior"], TypeError, "expected Groups.*with_points"),
        (lambda b: Groups({"interio": b["interior"]}), ValueError, "no group 'interio'.*'interior'"),
        (
            lambda b: Groups({"interior": (*b["interior"][:2], jnp.ones((2, 3)))}),
            ValueError,
            r"points of shape \(2, n, 2\)",
        ),
        (lambda b: Groups({"interior": (*b["interior"][:2], jnp.ones((3, 5, 2)))}), ValueError, "points of shape"),
        (lambda b: Groups({"interior": (jnp.ones((2, 3, 3)), *b["interior"][1:])}), ValueError, "argument 1 .*sensors"),
        (lambda b: Groups({"interior": (b["interior"][0], b["interior"][2])}), ValueError, "have 1; give None"),
    ],
)
def test_bad_points(change, error, message):
    pde = heat_pde()
    loss = physics_at_points(pde, inputs=("u0", "k"), sensors={"x": (np.arange(6) + 0.5) / 6})
    points = with_points(lambda key: heat_batch(), pde, 4, 4)(jax.random.key(0))
    with pytest.raises(error, match=message):
        loss(lambda *a: jnp.zeros(()), change(points))


def test_bad_settings_at_points():
    pde = heat_pde()
    with pytest.raises(ValueError, match="need axes"):
        physics_at_points(decay)
    with pytest.raises(ValueError, match="know no 'v0'; they know u0, k, u"):
        physics_at_points(pde, inputs="v0")
    with pytest.raises(ValueError, match="sensors: no axis 'y'"):
        physics_at_points(pde, inputs="u0", sensors={"y": [0.0, 1.0]})
    with pytest.raises(ValueError, match="1 numbers|2 numbers"):
        loss = physics_at_points(pde, inputs=("u0", "k"), sensors={"x": (np.arange(6) + 0.5) / 6})
        loss(lambda *a: jnp.zeros(2), with_points(lambda key: heat_batch(), pde, 4, 4)(jax.random.key(0)))
    with pytest.raises(ValueError, match="above 0"):
        with_points([], pde, 0)
    with pytest.raises(TypeError, match="a function key -> batch or an iterable"):
        with_points(3.0, pde)


def test_points_lie_on_their_regions_and_differ():
    pde = heat_pde()
    stream = with_points([heat_batch()], pde, 30, 5, key=jax.random.key(3))
    drawn = stream.from_step(0)
    first, second = next(drawn), next(drawn)
    jax.tree.map(np.testing.assert_array_equal, next(stream.from_step(1)), second)
    shared = with_points(lambda key: heat_batch(), pde, 30, 5, shared=True)
    assert jax.eval_shape(shared, jax.random.key(0))["interior"][2].shape == (30, 2)
    assert set(first) == set(pde.groups) and first["interior"][2].shape == (2, 30, 2)
    assert float(abs(first["u on t=0"][2][..., 0]).max()) == 0.0
    assert not np.array_equal(first["interior"][2][0], first["interior"][2][1])
    assert not np.array_equal(first["interior"][2], second["interior"][2])
    np.testing.assert_array_equal(first["interior"][0], heat_batch()[0])


# Groups.


def test_losses_by_group():
    loss = by_group(labelled=sciml.misfit, rest=lambda m, b: {"size": m(b[0])})
    x = jnp.arange(3.0)
    out = loss(lambda x: 2 * x, Groups({"labelled": (x, x), "rest": (jnp.ones(5),)}))
    np.testing.assert_array_equal(out["misfit"], x)
    np.testing.assert_array_equal(out["size"], np.full(5, 2.0))
    assert set(loss(lambda x: x, Groups({"rest": (x,)}))) == {"size"}
    with pytest.raises(ValueError, match="no loss for 'labeled'; did you mean 'labelled'"):
        loss(lambda x: x, Groups({"labeled": (x, x)}))
    with pytest.raises(TypeError, match="a batch that is Groups"):
        loss(lambda x: x, (x, x))
    with pytest.raises(ValueError, match="two groups have a term called 'misfit'"):
        by_group(a=sciml.misfit, b=sciml.misfit)(lambda x: x, Groups({"a": (x, x), "b": (x, x)}))
    with pytest.raises(TypeError, match="must return a dict"):
        by_group(a=lambda m, b: 0.0)(lambda x: x, Groups({"a": (x,)}))
    with pytest.raises(ValueError, match="a loss for each group"):
        by_group()


def test_streams_together():
    few, many = [(np.float32(i),) for i in range(2)], [(np.float32(10 * i),) for i in range(3)]
    stream = together(few=few, many=many)
    seen = [(float(b["few"][0]), float(b["many"][0])) for b, _ in zip(stream, range(5))]
    assert seen == [(0, 0), (1, 10), (0, 20), (1, 0), (0, 10)]
    resumed = next(iter(stream.from_step(4)))
    assert isinstance(resumed, Groups) and float(resumed["many"][0]) == 10
    drawn = together(a=jax.random.normal, b=jax.random.normal)(jax.random.key(0))
    assert float(drawn["a"]) != float(drawn["b"])
    with pytest.raises(TypeError, match="all of them iterables; '.' is a"):
        together(a=few, b=jax.random.normal)
    with pytest.raises(ValueError, match="streams by name"):
        together()


def test_streams_of_a_data_set_are_resumed(tmp_path):
    a = initial_values(jax.random.key(0), 12, 16)
    data = xr.Dataset(
        {"a": (("sample", "c", "x"), np.asarray(a)), "u": (("sample", "c", "x"), np.asarray(solve_helmholtz(a)))}
    )
    data.to_netcdf(tmp_path / "data.nc")
    opened = sciml.open(tmp_path / "data.nc")
    loss = by_group(labelled=sciml.misfit, unlabelled=physics(helmholtz, COORDINATES, inputs="a", periodic="x"))

    def run(steps, checkpoint):
        stream = together(labelled=opened["a", "u"].batches(2), unlabelled=opened["a"].batches(5))
        model = Multiplier(jnp.zeros((16, 16)))
        options = {"steps": steps, "report": False, "checkpoint": tmp_path / checkpoint}
        return sciml.fit(model, loss, stream, optax.adam(0.01), **options)[0].matrix

    whole = run(9, "whole")
    run(5, "parts")
    np.testing.assert_array_equal(run(9, "parts"), whole)
