"""Degrees of polynomials from initial and boundary values and sources."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sciml import PDE, Ball, Box, Solution, double_precision, periodic, solve, value
from sciml.pde import _direct
from sciml.pde._declared import IN_WINDOW, LEAST, Declared, declared_degrees
from sciml.pde._degrees import Decay
from sciml.pde._march import Plan, _polynomials, march

KEY = jax.random.key(0)
SQUARE = Box(x=(0, 1), y=(0, 1))


def declared(pde):
    with double_precision():
        return declared_degrees(pde, KEY)


def poisson(source, sides=("x", "y")):
    zeros = [value(u=0.0, on=SQUARE.boundary(side) if isinstance(side, str) else side) for side in sides]
    return PDE(SQUARE, lambda u_xx, u_yy, x, y: u_xx + u_yy - source(x, y), *zeros)


def many_waves(count=15):
    """Heat that has many waves along x, slow there."""
    box = Box(t=(0, 2), x=(0, 1), y=(0, 1))
    slow = 1 / (count * np.pi) ** 2

    def exact(t, x, y, xp=np):
        return xp.exp(-(1 + np.pi**2 * 0.1) * t) * xp.sin(count * np.pi * x) * xp.sin(np.pi * y)

    return PDE(
        box,
        lambda u_t, u_xx, u_yy: u_t - slow * u_xx - 0.1 * u_yy,
        value(u=lambda x, y: exact(0.0, x, y, jnp), on=box.at(t=0)),
        value(u=0.0, on=box.boundary("x", "y")),
        reference=exact,
    )


def string(end, exact_velocity=True):
    """Two modes of a string, up to a time."""
    box = Box(t=(0, end), x=(0, 1))

    def exact(t, x):
        return np.sin(np.pi * x) * np.cos(2 * np.pi * t) + 0.5 * np.sin(4 * np.pi * x) * np.cos(8 * np.pi * t)

    return PDE(
        box,
        lambda u_tt, u_xx: u_tt - 4 * u_xx,
        value(u=lambda x: jnp.sin(jnp.pi * x) + 0.5 * jnp.sin(4 * jnp.pi * x), on=box.at(t=0)),
        value(u_t=0.0, on=box.at(t=0), exact=None if exact_velocity else False),
        value(u=0.0, on=box.boundary("x")),
        reference=exact,
    )


def test_degrees_follow_the_data_along_each_axis():
    """The Chebyshev coefficients of sin(w s) on (-1, 1) are Bessel functions J_k(w)."""
    from scipy.special import jv

    found = declared(poisson(lambda x, y: jnp.sin(8 * jnp.pi * x) * jnp.sin(jnp.pi * y)))
    k = np.arange(65)
    # An even number of half waves is odd about the middle, an odd number even.
    for degree, parity, half_waves in zip(found.degrees, (1, 0), (8, 1)):
        needed = k[(k % 2 == parity) & (np.abs(jv(k, half_waves * np.pi / 2)) > 1e-8)].max()
        assert abs(degree - needed) <= 2
    assert found.parities.tolist() == [1, 0] and found.time is None


def test_parities_are_those_of_all_that_is_declared():
    assert declared(poisson(lambda x, y: jnp.exp(4 * x) * jnp.sin(jnp.pi * y))).parities.tolist() == [-1, 0]
    # A condition on one side only makes the factor of the network uneven.
    one_side = poisson(lambda x, y: jnp.sin(3 * jnp.pi * x), sides=(SQUARE.at(x=0), "y"))
    assert declared(one_side).parities[0] == -1


def test_nothing_is_known_of_periodic_axes_and_distances():
    box = Box(t=(0, 1), x=(0, 1))
    wave = value(u=lambda x: jnp.sin(2 * jnp.pi * x), on=box.at(t=0))
    assert declared(PDE(box, lambda u_t, u_x: u_t + u_x, wave, periodic("x"))) is None
    disc = Ball(x=0.0, y=0.0, radius=1.0)
    exact = value(u=0.0, on=disc.boundary(), exact=True)
    assert declared(PDE(disc, lambda u_xx, u_yy: u_xx + u_yy + 1, exact)) is None
    assert declared(PDE(box, lambda u_t, u_x: u_t + u_x, value(u=0.0, on=box.at(t=0)))) is None


def test_shapes_of_windows():
    found = Declared(np.array([200, 40, 10]), np.array([-1, -1, 0]), time=0)
    assert found.shape(1) is None
    shape = found.shape(2, windows=20)
    assert shape is not None
    np.testing.assert_array_equal(shape.weights, 2 * [[2.5, 1.0, 3.0]])
    np.testing.assert_array_equal(shape.parities, 2 * [[-1, -1, 0]])
    assert found.count(20) == int((10 + IN_WINDOW) / 1 * 40 / 2 * LEAST / 2 / 3)


def test_many_waves_along_one_axis():
    """Polynomials up to one degree in all axes would need 40,000 of them."""
    pde = many_waves()
    solution = solve(pde, budget=30.0, report=False)
    assert solution.chosen["method"] == "least squares for the output layer of polynomials"
    assert solution.error()["relative_l2"] < 1e-8


@pytest.mark.parametrize("velocity", [True, False], ids=["exact", "as a penalty"])
def test_polynomials_in_windows_keep_waves_for_long(velocity):
    """Forty periods of the faster mode; factors are those of one window for all."""
    pde = string(10.0, velocity)
    with double_precision():
        kind = next(k for k in _direct._kinds(pde, KEY, affine=True) if k.declared is not None)
        shape = kind.declared.shape(1, 128)
        marched = march(pde, Plan(128, 250, following=False, shape=shape), KEY)
        assert marched is not None
        found = Solution(pde, pde.model(marched.network), None, {}, 0.0)
        assert found.error()["relative_l2"] < 1e-8


def test_windows_of_polynomials_are_saved_and_loaded(tmp_path):
    pde = string(1.0)
    with double_precision():
        shape = declared_degrees(pde, KEY).shape(1, 4)
        marched = march(pde, Plan(4, 150, following=False, shape=shape), KEY)
        assert marched is not None
        solution = Solution(pde, pde.model(marched.network), None, {}, 0.0)
        solution.save(tmp_path / "string.eqx")
        again = Solution.load(tmp_path / "string.eqx", pde)
    np.testing.assert_array_equal(again.on(t=9, x=9).u, solution.on(t=9, x=9).u)


def test_fields_of_unusual_size_are_no_failure():
    """Residuals are large where the fields are."""
    box = Box(t=(0, 1), x=(0, 1))
    pde = PDE(
        box,
        lambda u_t, u_xx: u_t - 0.1 * u_xx,
        value(u=lambda x: 1e6 * jnp.sin(jnp.pi * x), on=box.at(t=0)),
        value(u=0.0, on=box.boundary("x")),
        reference=lambda t, x: 1e6 * np.exp(-0.1 * np.pi**2 * t) * np.sin(np.pi * x),
    )
    with double_precision():
        marched = march(pde, Plan(4, 200, 2.0), KEY)
        assert marched is not None
        assert Solution(pde, pde.model(marched.network), None, {}, 0.0).error()["relative_l2"] < 1e-5


def test_points_of_conditions_stay_where_these_are():
    box = Box(t=(0, 1), x=(0, 1), y=(0, 1))
    inside = value(u=lambda t, y: t * y, on=box.at(x=0.25))
    conditions = value(u=0.0, on=box.at(t=0)), value(u_x=0.0, on=box.at(x=1), exact=False), inside
    pde = PDE(box, lambda u_t, u_xx, u_yy: u_t - u_xx - u_yy, *conditions, value(u=0.0, on=box.boundary("y")))
    with double_precision():
        shape = Decay(np.ones((1, 3)), np.zeros(1), np.full((1, 3), -1))
        batch = _polynomials(pde, Plan(4, 100, following=False, shape=shape), KEY).batch
    points = {name: np.asarray(p) for name, p in batch.items()}
    assert (next(p for n, p in points.items() if "0.25" in n)[:, 1] == 0.25).all()
    assert all((p >= 0).all() and (p <= 1).all() for p in points.values())
    # Towards the edges of a whole face.
    face = next(p for n, p in points.items() if "x=1" in n)
    assert (face[:, 1] == 1).all() and np.mean(np.minimum(face[:, 2], 1 - face[:, 2]) < 0.05) > 0.2
