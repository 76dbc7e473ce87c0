"""Fourier series in windows of time against exact solutions, and where they do not apply."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sciml import PDE, Box, condition, flux, nn, periodic, solve, value
from sciml._precision import double_precision
from sciml.pde import Solution
from sciml.pde._checks import UndeterminedWarning
from sciml.pde._direct import _fourier
from sciml.pde._fourier import Lost, _marched, fourier_solutions, suits_fourier
from sciml.pde._waves import DEGREE, Grid

PI = np.pi


def advection(exact=None, speed=1.0):
    """A wave that moves in one direction; its speed varies in space, so that waves are coupled."""
    domain = Box(t=(0, 1), x=(-1, 1))

    def wave(t, x, xp=np):
        return xp.exp(xp.sin(PI * (x - speed * t)))

    def equation(t, x, u_t, u_x):
        return (2 + jnp.cos(PI * x)) * (u_t + speed * u_x)

    initial = value(u=lambda x: wave(0.0, x, jnp), on=domain.at(t=0), exact=exact)
    return PDE(domain, equation, initial, periodic("x"), reference=wave)


def taylor_green(*pressure, nu=0.1):
    """A flow whose pressure, in no initial condition, has the mean zero unless it is declared somewhere."""
    domain = Box(t=(0, 1), x=(0, 2 * PI), y=(0, 2 * PI))

    def reference(t, x, y):
        decay = np.exp(-2 * nu * t)
        u, v = np.cos(x) * np.sin(y) * decay, -np.sin(x) * np.cos(y) * decay
        return {"u": u, "v": v, "p": -(np.cos(2 * x) + np.cos(2 * y)) * decay**2 / 4}

    return PDE(
        domain,
        lambda u, v, u_t, u_x, u_y, p_x, laplacian_u: u_t + u * u_x + v * u_y + p_x - nu * laplacian_u,
        lambda u, v, v_t, v_x, v_y, p_y, laplacian_v: v_t + u * v_x + v * v_y + p_y - nu * laplacian_v,
        lambda u_x, v_y: u_x + v_y,
        value(u=lambda x, y: jnp.cos(x) * jnp.sin(y), v=lambda x, y: -jnp.sin(x) * jnp.cos(y), on=domain.at(t=0)),
        *pressure,
        periodic("x", "y"),
        reference=reference,
    )


def mirrors(pde):
    found = suits_fourier(pde)
    assert found is not None
    return found


def marched(pde, grid):
    found = _marched(pde, mirrors(pde), grid, np.inf)
    assert not isinstance(found, Lost)
    return found


def relative_error(pde, grid):
    with double_precision():
        found = marched(pde, grid)
        return Solution(pde, pde.model(found.network), None, {}, 0.0).error()["relative_l2"]


def test_error_falls_with_the_order_of_radau_collocation():
    errors = [relative_error(advection(), Grid(windows, (48,))) for windows in (3, 6)]
    # Of an order between the degree of the polynomials and twice that, the one at the ends of windows.
    assert 2**DEGREE < errors[0] / errors[1] < 2.0 ** (2 * DEGREE) and errors[1] < 1e-6


def test_error_falls_exponentially_with_the_waves():
    errors = [relative_error(advection(), Grid(32, (points,))) for points in (16, 24, 48)]
    assert errors[1] < 1e-1 * errors[0] and errors[2] < 1e-3 * errors[1]


@pytest.mark.parametrize("exact", [False, True])
def test_initial_values_may_be_exact_or_declared(exact):
    assert relative_error(advection(exact), Grid(32, (48,))) < 1e-9


@pytest.mark.parametrize("exact", [False, True])
def test_equations_of_second_order_in_time(exact):
    domain = Box(t=(0, 1), x=(0, 1))
    pde = PDE(
        domain,
        lambda u, u_tt, u_xx: u_tt - u_xx + u,
        value(u=lambda x: jnp.cos(2 * PI * x), on=domain.at(t=0), exact=exact),
        value(u_t=lambda x: jnp.sin(4 * PI * x), on=domain.at(t=0), exact=exact),
        periodic("x"),
        reference=lambda t, x: (
            np.cos(2 * PI * x) * np.cos(np.hypot(2 * PI, 1) * t)
            + np.sin(4 * PI * x) * np.sin(np.hypot(4 * PI, 1) * t) / np.hypot(4 * PI, 1)
        ),
    )
    solution = solve(pde, budget=30, report=False)
    assert solution.chosen["method"].startswith("collocation in") and solution.error()["relative_l2"] < 1e-9


def test_fields_without_initial_values():
    with pytest.warns(UndeterminedWarning):
        pde = taylor_green()
    solution = solve(pde, budget=60, report=False)
    assert solution.chosen["method"].startswith("collocation in")
    assert max(solution.error()[f"relative_l2_{f}"] for f in "uvp") < 1e-10


def test_fields_declared_at_a_point():
    box = Box(t=(0, 1), x=(0, 2 * PI), y=(0, 2 * PI))
    pinned = taylor_green(value(p=lambda t: -jnp.exp(-0.4 * t) / 2, on=box.at(x=PI, y=0)))
    once = taylor_green(value(p=5.0, on=box.at(t=0.5, x=PI, y=0)))
    for pde, shift in ((pinned, 0.0), (once, 5.0 + np.exp(-0.2) / 2)):
        solution = solve(pde, budget=60, report=False)
        at = {"t": np.array([0.1, 0.8]), "x": np.array([1.0, 4.0]), "y": np.array([2.0, 0.3])}
        assert solution.chosen["method"].startswith("collocation in")
        np.testing.assert_allclose(solution(**at)["p"] - pde.reference(**at)["p"], shift, atol=1e-10)


def test_three_dimensions_and_axes_of_unequal_length():
    domain = Box(x=(0, 1), y=(0, 2), t=(0, 0.1), z=(-1, 0))
    pde = PDE(
        domain,
        lambda u_t, laplacian_u: u_t - laplacian_u,
        value(u=lambda x, y, z: jnp.sin(2 * PI * x) * jnp.cos(PI * y) * jnp.sin(2 * PI * z), on=domain.at(t=0)),
        periodic("x", "y", "z"),
        reference=lambda x, y, t, z: np.exp(-9 * PI**2 * t) * np.sin(2 * PI * x) * np.cos(PI * y) * np.sin(2 * PI * z),
    )
    assert solve(pde, budget=60, report=False).error()["relative_l2"] < 1e-9


def test_sources_and_coefficients_may_depend_on_all_coordinates():
    domain = Box(t=(0, 1), x=(0, 1), y=(0, 1))

    def exact(t, x, y, xp=np):
        return xp.sin(3 * t) * xp.exp(xp.cos(2 * PI * x)) * xp.sin(2 * PI * y)

    def source(t, x, y):
        x_part, s = jnp.exp(jnp.cos(2 * PI * x)), jnp.sin(2 * PI * x)
        second = (2 * PI) ** 2 * (s**2 - jnp.cos(2 * PI * x)) * x_part
        u = exact(t, x, y, jnp)
        laplacian = jnp.sin(3 * t) * second * jnp.sin(2 * PI * y) - (2 * PI) ** 2 * u
        return 3 * jnp.cos(3 * t) * x_part * jnp.sin(2 * PI * y) - 0.01 * (1 + t) * laplacian + u**3

    pde = PDE(
        domain,
        lambda t, x, y, u, u_t, laplacian_u: u_t - 0.01 * (1 + t) * laplacian_u + u**3 - source(t, x, y),
        value(u=0.0, on=domain.at(t=0)),
        periodic("x", "y"),
        reference=exact,
    )
    assert solve(pde, budget=60, report=False).error()["relative_l2"] < 1e-8


def test_a_chaotic_flame_front_needs_more_waves_than_its_beginning():
    """The Kuramoto-Sivashinsky equation in its first instants, beside a finer grid."""
    domain = Box(t=(0, 0.2), x=(0, 2 * PI))
    pde = PDE(
        domain,
        lambda u, u_t, u_x, u_xx, u_xxxx: u_t + 6.25 * u * u_x + 0.39 * u_xx + 0.0015 * u_xxxx,
        value(u=lambda x: jnp.cos(x) * (1 + jnp.sin(x)), on=domain.at(t=0)),
        periodic("x"),
    )
    with double_precision():
        assert _marched(pde, mirrors(pde), Grid(16, (12,)), np.inf).last_waves > 1e-3
        grid, found = list(fourier_solutions(pde, mirrors(pde), np.inf))[-1]
        fine = marched(pde, Grid(2 * grid.windows, (2 * grid.points[0],)))
        points = domain.sobol(100, jax.random.key(0))
        one, two = (jax.vmap(pde.model(f.network))(points) for f in (found, fine))
    np.testing.assert_allclose(one, two, rtol=0, atol=1e-8)


def test_where_series_do_not_apply():
    box = Box(t=(0, 1), x=(0, 1), y=(0, 1))
    heat = lambda u_t, u_xx, u_yy: u_t - u_xx - u_yy  # noqa: E731
    start = value(u=lambda x, y: jnp.sin(2 * PI * x) * jnp.sin(2 * PI * y), on=box.at(t=0))
    assert suits_fourier(PDE(box, heat, start, periodic("x", "y"))) is not None
    walls = value(u=1.0, on=box.boundary("y"), exact=False)
    assert suits_fourier(PDE(box, heat, start, periodic("x"), walls)) is None
    pinned = value(u=0.0, on=box.at(x=0, y=0))
    assert suits_fourier(PDE(box, heat, start, periodic("x", "y"), pinned)) is None, "it has initial values"
    assert (
        suits_fourier(PDE(Box(x=(0, 1), y=(0, 1)), lambda u, u_xx, u_yy: u_xx + u_yy - u, periodic("x", "y"))) is None
    )


@pytest.mark.filterwarnings("ignore:the data of u on t=0")
def test_values_that_jump_leave_a_residual():
    """What the waves lack of a jump is in the residuals of the initial values, however many there are."""
    box = Box(t=(0, 0.1), x=(0, 1))
    start = value(u=lambda x: jnp.where(jnp.abs(x - 0.5) < 0.2, 1.0, 0.0), on=box.at(t=0))
    pde = PDE(box, lambda u_t, u_x: u_t + u_x, start, periodic("x"))
    with double_precision():
        _, found = next(fourier_solutions(pde, mirrors(pde), np.inf))
    assert 1e-4 < found.losses["u on t=0"] < 1e-2


def test_no_time_or_too_long_windows():
    pde, fast = advection(), advection(speed=400.0)
    with double_precision():
        assert list(fourier_solutions(pde, mirrors(pde), deadline=0.0)) == []
        assert isinstance(_marched(fast, mirrors(fast), Grid(1, (24,)), np.inf), Lost)


def test_a_series_is_the_sum_of_its_waves():
    real, imaginary = np.random.default_rng(0).normal(size=(2, 2, 2, 3, 5, 3)).astype(np.float32)
    network = nn.WindowedWaves(
        jnp.asarray(real), jnp.asarray(imaginary), jnp.asarray(0), 2, 0, ((1, False), (3, False))
    )
    time, x, y = 0.3, 0.7, -1.1
    inputs = jnp.array([time, np.cos(x), np.sin(x), np.cos(y), np.sin(y)])
    local = 2 * (time + 1) - 2 - 1
    total, numbers = np.zeros(2), real + 1j * imaginary
    for k in range(-2, 3):
        for m in range(3):
            wave = np.exp(1j * (k * x + m * y))
            for degree, polynomial in enumerate((1, local, 2 * local**2 - 1)):
                total += polynomial * np.real(numbers[1, :, degree, k + 2, m] * wave)
    np.testing.assert_allclose(network(inputs), total, rtol=0, atol=1e-4)
    assert network.window_of(time) == 1 and network.window_of(-1.5) == 0 and network.window_of(2.0) == 1
    np.testing.assert_allclose(network.alone(1)(inputs), total, rtol=0, atol=1e-4)
    np.testing.assert_allclose(network.alone(1, time)(inputs), total, rtol=0, atol=1e-4)


def test_values_on_grids_files_and_at_scattered_points_agree(tmp_path):
    pde = advection()
    solution = solve(pde, budget=30, report=False)
    on_grid = solution.on({"t": 5, "x": 100})
    t, x = np.meshgrid(on_grid["t"], on_grid["x"], indexing="ij")
    np.testing.assert_allclose(solution(t=t, x=x), on_grid["u"], rtol=0, atol=1e-13)
    scattered = np.random.default_rng(0).uniform([0, -1], [1, 1], (40, 2)).T
    one_by_one = jax.vmap(solution.model)
    with double_precision():
        expected = one_by_one(jnp.asarray(scattered.T))[:, 0]
    np.testing.assert_allclose(solution(t=scattered[0], x=scattered[1]), expected, rtol=0, atol=1e-13)
    solution.save(tmp_path / "s.zip")
    loaded = Solution.load(tmp_path / "s.zip", pde)
    np.testing.assert_array_equal(loaded(t=t, x=x), solution(t=t, x=x))


def test_derivatives_of_a_series_are_those_of_the_residual():
    pde = advection()
    with double_precision():
        found = marched(pde, Grid(32, (48,)))
        batch = pde.points(64, 16)(jax.random.key(0))
        residuals = eqx.filter_jit(pde.residuals)(pde.model(found.network), batch)
    assert all(np.abs(np.asarray(r)).max() < 1e-5 for r in residuals.values())


def test_walls_are_mirrors():
    """Fields are odd or even about them, in axes of any order, some of them periodic; waves of all these kinds."""
    box = Box(x=(1, 3), t=(0, 1), y=(0, 1), z=(-1, 0))

    def exact(x, t, y, z, xp=np):
        return xp.exp(-t) * xp.sin(PI * (x - 1)) * xp.cos(PI * y) * (1 + xp.sin(2 * PI * z))

    def equation(x, t, y, z, u, u_t, laplacian_u):
        return u_t - 0.01 * laplacian_u + u**3 - source(x, t, y, z)

    def source(x, t, y, z):
        u, s = exact(x, t, y, z, jnp), jnp.sin(2 * PI * z)
        shape = jnp.exp(-t) * jnp.sin(PI * (x - 1)) * jnp.cos(PI * y)
        return -u + 0.01 * PI**2 * (2 * u + 4 * shape * s) + u**3

    pde = PDE(
        box,
        equation,
        value(u=lambda x, y, z: exact(x, 0.0, y, z, jnp), on=box.at(t=0)),
        value(u=0.0, on=box.boundary("x")),
        value(u_y=0.0, on=box.boundary("y")),
        periodic("z"),
        reference=exact,
    )
    assert relative_error(pde, Grid(8, (24, 24, 16))) < 1e-9


def test_what_equations_and_sources_must_be_at_walls():
    box = Box(t=(0, 1), x=(0, 1))
    start, walls = value(u=lambda x: jnp.sin(PI * x), on=box.at(t=0)), value(u=0.0, on=box.boundary("x"))

    def suits(equation, *conditions):
        return suits_fourier(PDE(box, equation, start, *(conditions or (walls,)))) is not None

    assert suits(lambda u_t, u_xx: u_t - u_xx) and suits(lambda u, u_t, u_x, u_xx: u_t + u * u_x - u_xx)
    assert suits(lambda x, u, u_t, u_xx: u_t - u_xx + jnp.sin(2 * PI * x) * u**2), "zero at the walls"
    assert not suits(lambda u_t, u_x, u_xx: u_t + u_x - u_xx), "neither even nor odd"
    assert not suits(lambda u_t, u_xx: u_t - u_xx - 1.0), "the source goes on with a jump"
    assert not suits(lambda u_t, u_xx: u_t - u_xx, value(u=0.0, on=box.at(x=0)), flux(u=0.0, on=box.at(x=1)))


@pytest.mark.filterwarnings("ignore:'u' has derivatives of order 2")
def test_walls_may_be_equations():
    box = Box(t=(0, 1), x=(0, 1))
    start, ends = value(u=lambda x: jnp.cos(PI * x), on=box.at(t=0)), box.boundary("x")

    def mirrored(wall, **numbers):
        found = suits_fourier(PDE(box, lambda u_t, u_xx: u_t - u_xx, start, condition(wall, on=ends), **numbers))
        return None if found is None else found.fields.tolist()

    assert mirrored(lambda u_n: u_n) == mirrored(lambda u_x: -2.0 * u_x) == [[1.0]]
    assert mirrored(lambda u: u) == [[-1.0]]
    assert mirrored(lambda u_n: u_n - 1.0) is None and mirrored(lambda u_n: u_n**3) is None
    assert mirrored(lambda u, u_n: u + u_n) is None and mirrored(lambda k, u_n: k * u_n, k=2.0) is None


def test_fields_without_derivatives_in_space_need_no_walls():
    """FitzHugh-Nagumo: the recovery v is even as u is; where u is odd, so is v."""
    box = Box(t=(0, 2), x=(0, 1))

    def made(wall, wave, source):
        equations = (lambda u, v, u_t, u_xx: u_t - 0.02 * u_xx - u + u**3 + v, lambda u, v, v_t: v_t - u + v - source)
        start = value(u=lambda x: wave(PI * x), v=lambda x: 0.1 * wave(2 * PI * x), on=box.at(t=0))
        return PDE(box, *equations, start, wall)

    insulation, zero = flux(u=0.0, on=box.boundary("x")), value(u=0.0, on=box.boundary("x"))
    found = solve(made(insulation, jnp.cos, 0.2), budget=20, key=jax.random.key(0), report=None)
    assert found.chosen["network"].startswith("Fourier series") and found.chosen["residual"] < 1e-8
    assert mirrors(made(zero, jnp.sin, 0.0)).fields.tolist() == [[-1.0, -1.0]]
    assert suits_fourier(made(zero, jnp.sin, 0.2)) is None


def insulated(*axes):
    """The Allen-Cahn equation in a box through whose walls nothing goes."""
    box = Box(t=(0, 0.2), **dict.fromkeys(axes, (0, 1)))

    def start(x, y=0.0):
        return 0.5 * jnp.cos(3 * PI * x) * jnp.cos(2 * PI * y) + 0.2 * jnp.cos(PI * x)

    return PDE(
        box,
        lambda u, u_t, laplacian_u: u_t - 0.01 * laplacian_u - 5 * (u - u**3),
        value(u=start if len(axes) > 1 else lambda x: start(x), on=box.at(t=0)),
        flux(u=0.0, on=box.boundary(*axes)),
    )


def test_layers_between_insulated_walls():
    """Beside a finer grid."""
    pde = insulated("x", "y")
    with double_precision():
        coarse, fine = (marched(pde, grid) for grid in (Grid(4, (96, 64)), Grid(8, (128, 80))))
        points = pde.domain.sobol(50, jax.random.key(0))
        one, two = (jax.vmap(pde.model(f.network))(points) for f in (coarse, fine))
        slopes = jax.vmap(jax.jacfwd(pde.model(fine.network)))(jnp.array([[0.1, 0.0, 0.3], [0.1, 1.0, 0.3]]))
    np.testing.assert_allclose(one, two, rtol=0, atol=1e-5)
    np.testing.assert_allclose(slopes[:, 0, 1], 0.0, atol=1e-10)


def test_series_between_walls_become_finer():
    pde = insulated("x")
    with double_precision():
        (found,) = _fourier(pde, mirrors(pde), np.inf)
    assert found.fit.residual < 1e-9 and "Fourier series" in found.network
