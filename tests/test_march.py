"""Least squares over polynomials and random features, also in windows of time, against exact solutions."""

import itertools
from math import comb

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import least_squares

from sciml import PDE, Ball, Box, Polygon, Solution, condition, double_precision, flux, jump, periodic, value
from sciml.nn import RandomFeatures, TanhFeatures, WindowedFeatures, polynomial_features
from sciml.nn._features import chebyshev
from sciml.optim._newton import Factored, minimise
from sciml.pde import Laplacian, _direct, _linear, derivatives
from sciml.pde._constraint import features
from sciml.pde._corners import corner_features
from sciml.pde._degrees import total_degree
from sciml.pde._linear import (
    Fit,
    _start,
    _worsens,
    draw_features,
    relative_residual,
    solve_whole,
    suits_polynomials,
    tried,
)
from sciml.pde._march import Plan, initial_groups, march

ROD = Box(t=(0, 1), x=(-1, 1))
KEY = jax.random.key(0)
UNLIMITED = _direct.Until(np.inf, np.inf, np.inf)


def reaction(**keywords):
    """u_t = 5 u (1 - u), solved at each x by itself."""

    def exact(t, x, xp=np):
        start = xp.exp(-2 * x**2)
        return start * xp.exp(5 * t) / (start * xp.exp(5 * t) + 1 - start)

    return PDE(
        ROD,
        lambda u, u_t: u_t - 5 * u * (1 - u),
        value(u=lambda x: exact(0.0, x, jnp), on=ROD.at(t=0), **keywords),
        reference=exact,
    )


def travelling_front():
    """Fisher's equation with its exact front of speed 5 / sqrt(6) (Ablowitz & Zeppetella, 1979), 40 times sharper."""

    def exact(t, x, xp=np):
        return (1 + xp.exp((40 * (x + 0.5) - 5 * 40 / 8 * t) / 6**0.5)) ** -2

    rate, diffusivity = 40 / 8 * 6**0.5, 1 / (8 * 40) * 6**0.5
    return PDE(
        ROD,
        lambda u, u_t, u_xx: u_t - diffusivity * u_xx - rate * u * (1 - u),
        value(u=lambda x: exact(0.0, x, jnp), on=ROD.at(t=0)),
        value(u=lambda t: exact(t, -1.0, jnp), on=ROD.at(x=-1)),
        value(u=lambda t: exact(t, 1.0, jnp), on=ROD.at(x=1)),
        reference=exact,
    )


def waves():
    """u_tt = u_xx, periodic, from a velocity: two conditions at the beginning."""
    box = Box(t=(0, 2), x=(0, 2))
    return PDE(
        box,
        lambda u_tt, u_xx: u_tt - u_xx,
        value(u=lambda x: jnp.sin(np.pi * x), u_t=lambda x: np.pi * jnp.cos(np.pi * x), on=box.at(t=0)),
        periodic("x"),
        reference=lambda t, x: np.sin(np.pi * (x + t)),
    )


def error_of(pde, plan):
    with double_precision():
        marched = march(pde, plan, KEY)
        assert marched is not None
        network = marched.network
        assert network.output.shape[0] == plan.windows
        return Solution(pde, pde.model(network), None, {}, 0.0).error()["relative_l2"]


@pytest.mark.parametrize(
    "pde, plan, tolerance",
    [
        (reaction(), Plan(4, 200, 3.0), 1e-5),
        (reaction(exact=False), Plan(4, 200, 3.0), 1e-5),
        (travelling_front(), Plan(8, 450, 4.0), 1e-3),
        (waves(), Plan(4, 200, 1.0), 1e-4),
    ],
    ids=["reaction", "beginning as a penalty", "front", "second order in time"],
)
def test_windows_follow_exact_solutions(pde, plan, tolerance):
    assert error_of(pde, plan) < tolerance


def test_windows_are_those_of_evolutions_from_declared_values():
    assert initial_groups(reaction()) == ("u on t=0",)
    assert len(initial_groups(waves())) == 1
    steady = Box(x=(0, 1))
    assert initial_groups(PDE(steady, lambda u_xx: u_xx - 1, value(u=0.0, on=steady.boundary()))) == ()
    equation = (lambda u, u_t: u_t + u,)
    general = condition(lambda u: u - 1, on=ROD.at(t=0))
    assert initial_groups(PDE(ROD, *equation, general)) == ()
    backwards = value(u=1.0, on=ROD.at(t=1))
    assert initial_groups(PDE(ROD, *equation, backwards)) == ()


def test_a_deadline_ends_the_march():
    with double_precision():
        assert march(reaction(), Plan(4, 100, 2.0), KEY, deadline=0.0) is None


def test_nonlinear_problem_without_time():
    """Newton's method on the whole domain: u'' = u^2 + f with u = sin(2 x)."""
    line = Box(x=(0, 3))
    pde = PDE(
        line,
        lambda u, u_xx, x: u_xx - u**2 + 4 * jnp.sin(2 * x) + jnp.sin(2 * x) ** 2,
        value(u=lambda x: jnp.sin(2 * x), on=line.boundary()),
        reference=lambda x: np.sin(2 * x),
    )
    with double_precision():
        found = solve_whole(pde, KEY, 5.0, affine=False)
        assert (
            found.residual == pytest.approx(relative_residual(pde, found.fields, KEY), rel=20) and found.residual < 1e-7
        )
        assert Solution(pde, found.fields, None, {}, 0.0).error()["relative_l2"] < 1e-8


@pytest.mark.parametrize("axis", [0, 1])
def test_windowed_features_are_those_of_each_window(axis):
    keys = jax.random.split(KEY, 3)
    with double_precision():
        weight, bias, output = (jax.random.normal(k, s) for k, s in zip(keys, [(3, 5, 2), (3, 5), (3, 2, 5)]))
        network = WindowedFeatures(TanhFeatures(weight, bias), output, axis)
        for window, place in enumerate((-0.8, 0.1, 0.5)):
            x = jnp.array([0.3, 0.3]).at[axis].set(place)
            local = x.at[axis].set(3 * (place + 1) - 2 * window - 1)
            expected = RandomFeatures(TanhFeatures(weight[window], bias[window]), output[window])(local)
            np.testing.assert_allclose(network(x), expected, rtol=1e-14)
        ends = [jnp.zeros(2).at[axis].set(s) for s in (-1.2, 1.2)]
        assert all(np.isfinite(network(x)).all() for x in ends)
        x = jnp.array([0.3, -0.2])
        third = derivatives(network, x, [(0, 0, 1), (1,)])
        nested = jax.jacfwd(jax.jacfwd(jax.jacfwd(network)))(x)
        np.testing.assert_allclose(third[(0, 0, 1)], nested[:, 0, 0, 1], rtol=1e-10)
        np.testing.assert_allclose(third[(1,)], jax.jacfwd(network)(x)[:, 1], rtol=1e-12)


def test_least_squares_by_factors():
    rng = np.random.default_rng(0)
    matrix, right = rng.normal(size=(30, 8)), rng.normal(size=30)
    solution, part = Factored(matrix).solve(right)
    expected = np.linalg.lstsq(matrix, right)[0]
    np.testing.assert_allclose(solution, expected, rtol=1e-10)
    assert part == pytest.approx(np.linalg.norm(matrix @ expected))


def test_newton_finds_a_minimum_and_reuses_factors():
    """A curve with two parameters, against SciPy; a second curve nearby begins with the factors of the first."""
    x = np.linspace(0, 2, 40)
    calls = []

    def residuals(point, scale=1.0):
        return scale * 1.5 * np.exp(-0.7 * x) + 0.01 * np.cos(20 * x) - point[0] * np.exp(point[1] * x)

    def jacobian(point):
        calls.append(point)
        wave = np.exp(point[1] * x)
        return -np.stack([wave, point[0] * x * wave], axis=1)

    found = minimise(residuals, jacobian, np.array([0.5, 0.5]))
    expected = least_squares(residuals, [0.5, 0.5], xtol=1e-15, ftol=1e-15, gtol=1e-15).x
    np.testing.assert_allclose(found.point, expected, rtol=1e-5)
    assert found.size == pytest.approx(np.linalg.norm(residuals(expected)), rel=1e-8)
    first = len(calls)
    again = minimise(lambda p: residuals(p, 1.01), jacobian, found.point, found.factored)
    assert len(calls) == first
    np.testing.assert_allclose(again.point[1], expected[1], atol=1e-3)


def test_a_start_that_is_not_finite_is_no_minimum():
    found = minimise(lambda p: np.full(3, np.nan), lambda p: np.ones((3, 1)), np.zeros(1))
    assert found.size == np.inf and found.factored is None


def test_solutions_in_windows_get_better_while_there_is_time():
    pde = reaction()
    with double_precision():
        found = list(itertools.islice(_direct._marched(pde, KEY, UNLIMITED), 2))
        assert [f.method.split(" windows")[0] for f in found] == ["least squares in 8"] * 2
        assert all(f.fit.residual < 1e-4 for f in found)
        assert list(_direct._marched(pde, KEY, _direct.Until(0.0, 0.0, 0.0))) == []


def test_drawn_networks_are_saved_and_loaded(tmp_path):
    pde = reaction()
    with double_precision():
        marched = march(pde, Plan(2, 60, 2.0), KEY)
        assert marched is not None
        fields = pde.model(marched.network)
    found = Solution(pde, fields, None, {}, 0.0)
    found.save(tmp_path / "solution.zip")
    again = Solution.load(tmp_path / "solution.zip", pde)
    t, x = np.linspace(0, 1, 7), np.linspace(-1, 1, 7)
    np.testing.assert_array_equal(again(t=t, x=x), found(t=t, x=x))


def test_corner_features_are_harmonic_and_found_from_the_domain():
    """The L-shaped domain has one corner that points inwards, as a polygon and as a difference of boxes, and five that
    point outwards.
    """
    outline = [(0, 0), (2, 0), (2, 1), (1, 1), (1, 3), (0, 3)]
    shapes = [Polygon(outline), Box(x=(0, 2), y=(0, 3)) - Box(x=(1, 2), y=(1, 3))]
    for domain in shapes:
        pde = PDE(domain, lambda u_xx, u_yy: u_xx + u_yy, value(u=0.0, on=domain.boundary()))
        with double_precision():
            corner = corner_features(pde)
            assert corner is not None
            inward = np.asarray(corner.exponent[:, 0]) > 0
            assert inward.sum() == 1 and len(inward) == 6
            np.testing.assert_allclose(corner.exponent[inward, :4], [[1 / 3, 2 / 3, 1, 4 / 3]], rtol=3e-3)
            assert np.asarray(corner.logarithm[~inward]).all() and (np.asarray(corner.exponent[~inward, 3]) == 3).all()
            half = 2 * corner.exponent.size
            for point in ((0.9, 0.8), (1.3, 0.9), (0.8, 2.0), (0.2, 0.3)):
                found = derivatives(
                    lambda p, c=corner, e=pde: c(features(e, p)), jnp.array(point), [(0, 0), (1, 1), Laplacian((0, 1))]
                )
                np.testing.assert_allclose(found[Laplacian((0, 1))], found[(0, 0)] + found[(1, 1)], atol=1e-9)
                np.testing.assert_allclose(found[Laplacian((0, 1))][:half], 0.0, atol=2e-9)


def test_conditions_that_contradict_an_equation_at_corners_are_penalties():
    """u = 0 on all sides cannot go with -laplacian(u) = f in the corners but where f = 0 there."""
    square = Box(x=(0, 1), y=(0, 2))

    def corners(equation, *conditions):
        pde = PDE(square, equation, *conditions)
        with double_precision():
            return len(pde.exact), [] if (found := corner_features(pde)) is None else found.place.tolist()

    wall = value(u=0.0, on=square.boundary())
    assert corners(lambda u_xx, u_yy: u_xx + u_yy, wall) == (1, [])
    assert corners(lambda u_xx, u_yy, x, y: u_xx + u_yy + jnp.sin(jnp.pi * x) * (y - 2), wall) == (1, [])
    assert corners(lambda u_xx, u_yy, u_xy: u_xx + u_yy + u_xy + 1, wall) == (1, [])
    assert corners(lambda u_xx, u_yy, x: u_xx + u_yy + x, wall) == (0, [[1, -1], [1, 1]])
    kept = value(u=0.0, on=square.boundary(), exact=True)
    assert corners(lambda u_xx, u_yy: u_xx + u_yy + 1, kept)[0] == 1


def test_a_load_up_to_the_corners():
    """-laplacian(u) = 1 with u = 0 around, against its Fourier series (Timoshenko & Goodier, section 109)."""
    square = Box(x=(0, 1), y=(0, 1))

    def series(x, y):
        out = x * (1 - x) / 2
        for a in np.pi * np.arange(1, 2000, 2):
            out = out - 4 / a**3 * np.sin(a * x) * (np.exp(-a * y) + np.exp(-a * (1 - y))) / (1 + np.exp(-a))
        return out

    pde = PDE(square, lambda u_xx, u_yy: u_xx + u_yy + 1, value(u=0.0, on=square.boundary()))
    with double_precision():
        found = solve_whole(pde, KEY, 1.0, affine=True)
        solution = Solution(pde, found.fields, None, {}, 0.0)
    x, y = np.random.default_rng(0).uniform(0, 1, (2, 200))
    assert abs(solution(x=x, y=y) - series(x, y)).max() < 1e-7


def test_more_polynomials_where_few_tell_nothing(monkeypatch):
    """Waves between ends where u_n = 0: a trial that is too small leaves about as much as no solution would."""
    monkeypatch.setattr(_linear, "NOTHING", 0.5)
    monkeypatch.setattr(_linear, "TRIAL_FEATURES", 20)
    monkeypatch.setattr(_linear, "FEATURES", (600,))
    monkeypatch.setattr(_linear, "kinds", lambda pde: [None])
    rod, k = Box(t=(0, 1), x=(0, 1)), 5 * np.pi
    start = value(u=lambda x: jnp.cos(k * x), u_t=0.0, on=rod.at(t=0))
    pde = PDE(rod, lambda u_tt, u_xx: u_tt - u_xx, start, flux(u=0.0, on=rod.boundary("x")))
    with double_precision():
        few = _linear._fit(pde, 20, None, True, KEY)
        found = tried(pde, KEY, 1e3, affine=True)
        solution = Solution(pde, found.fields, None, {}, 0.0)
    t, x = np.random.default_rng(0).uniform(0, 1, (2, 200))
    assert few.residual > 0.5 and found.fields.network.output.size > 500
    assert abs(solution(t=t, x=x) - np.cos(k * t) * np.cos(k * x)).max() < 1e-7


def test_polynomial_features_are_products_of_chebyshev_polynomials():
    degrees = total_degree(3, comb(8, 3))
    network = polynomial_features(degrees, 2)
    assert network.output.shape == (2, comb(8, 3)) and network.hidden.degrees.sum(axis=1).max() == 5
    x = np.array([0.3, -0.7, 0.9])
    each = np.polynomial.chebyshev.chebvander(x, 5)
    want = [np.prod([each[i][d] for i, d in enumerate(row)]) for row in degrees]
    with double_precision():
        np.testing.assert_allclose(polynomial_features(degrees, 2).hidden(jnp.asarray(x)), want, rtol=0, atol=1e-14)
        for highest in (1, 2, 7, 64):
            got = chebyshev(jnp.asarray(0.37), highest)
            np.testing.assert_allclose(got, np.polynomial.chebyshev.chebvander(0.37, highest)[0], rtol=0, atol=1e-13)


def test_smooth_solutions_are_found_by_polynomials():
    """A Robin condition on a disc; no declared value holds the solution."""
    disc = Ball(x=0.5, y=0.0, radius=1.5)

    def exact(x, y, xp=np):
        return xp.exp(0.5 * x) * xp.sin(y)

    pde = PDE(
        disc,
        lambda u_xx, u_yy, x, y: u_xx + u_yy + 0.75 * exact(x, y, jnp),
        condition(
            lambda u, u_n, x, y: u_n + u - exact(x, y, jnp) * (1 + (0.5 * (x - 0.5) + y / jnp.tan(y)) / 1.5),
            on=disc.boundary(),
        ),
        reference=exact,
    )
    with double_precision():
        found = solve_whole(pde, KEY, 5.0, affine=True)
        assert found.spread is None and found.residual < 1e-7
        assert Solution(pde, found.fields, None, {}, 0.0).error()["relative_l2"] < 1e-8


def test_each_part_has_polynomials_of_its_own():
    """-(k u')' = 1 with k = 1 on the left and 100 on the right: a parabola each."""
    rod = Box(x=(0, 2)).split(x=2)
    pde = PDE(
        rod,
        lambda u_xx, k: k * u_xx + 1,
        value(u=0.0, on=rod.boundary()),
        jump(lambda u: u, on=rod.interface()),
        jump(lambda k, u_n: k * u_n, on=rod.interface()),
        k={"x0": 1.0, "x1": 100.0},
    )
    with double_precision():
        found = solve_whole(pde, KEY, 2.0, affine=True)
        solution = Solution(pde, found.fields, None, {}, 0.0)
    # q = c - x with continuous u: c (1 + 1 / 100) = 1 / 2 + 3 / 200.
    c = (0.5 + 0.015) / 1.01
    assert found.spread is None
    x = np.array([0.2, 0.9, 1.3, 1.8])
    want = np.where(x < 1, c * x - x**2 / 2, c - 0.5 + (c * (x - 1) - (x**2 - 1) / 2) / 100)
    np.testing.assert_allclose(solution(x=x), want, rtol=0, atol=1e-12)


def test_a_layer_along_one_axis():
    """e u'' = u' with e = 0.02: polynomials of degree 38 have the layer at the end."""
    e, rod = 0.02, Box(x=(0, 1))

    def exact(x, xp=np):
        return (xp.exp((x - 1) / e) - np.exp(-1 / e)) / (1 - np.exp(-1 / e))

    pde = PDE(
        rod, lambda u_x, u_xx: u_x - e * u_xx, value(u=lambda x: exact(x, jnp), on=rod.boundary()), reference=exact
    )
    with double_precision():
        found = solve_whole(pde, KEY, 60.0, affine=True)
        assert found.spread is None and Solution(pde, found.fields, None, {}, 0.0).error()["relative_l2"] < 1e-10


def test_a_smooth_nonlinear_evolution_by_polynomials():
    """A front of Burgers' equation, 0.2 wide, that a window's features would resolve no better."""
    nu, box = 0.05, Box(t=(0, 1), x=(0, 1))

    def front(t, x, xp=np):
        return 0.5 * (1 - xp.tanh((x - 0.5 * t - 0.3) / (4 * nu)))

    pde = PDE(
        box,
        lambda u_t, u, u_x, u_xx: u_t + u * u_x - nu * u_xx,
        value(u=lambda x: front(0.0, x, jnp), on=box.at(t=0)),
        value(u=lambda t, x: front(t, x, jnp), on=box.boundary("x")),
        reference=front,
    )
    with double_precision():
        found = tried(pde, KEY, 0.0, affine=False, polynomials_only=True)
        assert Solution(pde, found.fields, None, {}, 0.0).error()["relative_l2"] < 2e-6


def test_polynomials_are_for_plain_domains():
    square = Box(x=(0, 1), y=(0, 1))

    def suits(domain, *more, wall=()):
        return suits_polynomials(
            PDE(domain, lambda u_xx, u_yy: u_xx + u_yy + 1, value(u=0.0, on=domain.boundary(*wall)), *more)
        )

    assert suits(square) and suits(Ball(x=0.0, y=0.0, radius=1.0))
    assert suits(square - Ball(x=0.5, y=0.5, radius=0.1)) and not suits(square - Box(x=(0.4, 0.6), y=(0.4, 0.6)))
    assert suits(Polygon([(0, 0), (1, 0), (0, 1)])) and suits(Polygon([(0, 1), (1, 0), (0, 0)]))
    assert not suits(Polygon([(0, 0), (2, 0), (0, 2), (0.5, 0.5)]))
    assert not suits(square, periodic("x"), wall="y")


def test_a_singular_corner_by_least_squares():
    """u = r^(2/3) sin(2 angle / 3) around the corner of an L, whose features are in the span."""
    domain = Polygon([(0, 0), (1, 0), (1, 1), (-1, 1), (-1, -1), (0, -1)])

    def exact(x, y, xp=np):
        return (x**2 + y**2) ** (1 / 3) * xp.sin(2 / 3 * xp.mod(xp.arctan2(y, x), 2 * np.pi))

    wall = value(u=lambda x, y: exact(x, y, jnp), on=domain.boundary())
    pde = PDE(domain, lambda u_xx, u_yy: u_xx + u_yy, wall, reference=exact)
    with double_precision():
        found = solve_whole(pde, KEY, 1.0, affine=True)
        assert Solution(pde, found.fields, None, {}, 0.0).error()["relative_l2"] < 1e-6


def test_features_that_stay_keep_a_narrow_pulse():
    """u_t + u_x = 0 damps nothing: what a window hands over has to be in the span of the next one's features."""
    box = Box(t=(0, 0.5), x=(0, 1.2))

    def pulse(t, x, xp=np):
        return xp.exp(-(((x - 0.4 - t) / 0.08) ** 2))

    pde = PDE(
        box,
        lambda u_t, u_x: u_t + u_x,
        value(u=lambda x: pulse(0.0, x, jnp), on=box.at(t=0)),
        value(u=lambda t: pulse(t, 0.0, jnp), on=box.at(x=0)),
        reference=pulse,
    )
    stays, follows = (error_of(pde, Plan(16, 400, spread, following=f)) for spread, f in ((8.0, False), (2.0, True)))
    assert stays < 1e-4 and stays < follows / 10


@pytest.mark.parametrize("domain", [Box(x=(0, 2), y=(0, 1)), Box(x=(0, 2), y=(0, 1)).split(x=2)])
def test_more_polynomials_go_on_from_fewer(domain):
    pde = PDE(domain, lambda u_xx, u_yy: u_xx + u_yy, value(u=0.0, on=domain.boundary()))
    with double_precision():
        few, more = draw_features(pde, 15, None, KEY), draw_features(pde, 66, None, KEY)
        few = eqx.tree_at(lambda n: n.output, few, jax.random.normal(KEY, few.output.shape))
        start = _start(more, np.ones(more.output.shape, bool), Fit(pde.model(few), 1.0, None, {}))
        assert start.shape == more.output.shape and np.count_nonzero(start) == few.output.size
        more = eqx.tree_at(lambda n: n.output, more, jnp.asarray(start))
        points = domain.sobol(32, KEY)
        np.testing.assert_allclose(*(jax.vmap(pde.model(n))(points) for n in (more, few)), rtol=0, atol=1e-12)


def test_trials_end_when_two_larger_scales_leave_more():
    def ends(*residuals):
        return _worsens([Fit(None, r, spread, {}) for spread, r in zip((None, 1.0, 2.0, 3.0, 4.0), residuals)])

    assert ends(0.0, 0.1, 0.2, 0.3) and ends(9.0, 0.2, 0.1, 0.2, 0.3)
    assert not ends(0.0, 0.1, 0.2) and not ends(0.0, 0.3, 0.2, 0.1) and not ends(9.0, 0.1, 0.3, 0.2)
