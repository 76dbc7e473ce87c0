"""Equations by name, conditions, exact constraints, and the errors that a wrong problem gives when it is built."""

import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sciml
from sciml import PDE, Ball, Box, Groups, Unknown, condition, derived, flux, observe, periodic, value
from sciml.pde._checks import UndeterminedWarning

SQUARE = Box(x=(0, 1), y=(0, 1))
ROD = Box(t=(0, 1), x=(-1, 1))


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def burgers(u, u_t, u_x, u_xx, nu):
    return u_t + u * u_x - nu * u_xx


def rod(*items, **keywords):
    start = value(u=lambda x: -jnp.sin(jnp.pi * x), on=ROD.at(t=0))
    return PDE(ROD, burgers, start, value(u=0.0, on=ROD.boundary("x")), *items, **({"nu": 0.1} | keywords))


def residual(pde, function, points, group="interior"):
    """Residuals of an analytic field, without any network."""

    class Field(eqx.Module):
        unknown: dict = eqx.field(default_factory=dict)

        def __call__(self, point):
            return function(*point)

    return pde.residuals(Field(), Groups({group: jnp.asarray(points)}))


def test_equation_is_a_plain_function():
    assert burgers(u=2.0, u_t=1.0, u_x=3.0, u_xx=4.0, nu=0.5) == 1 + 6 - 2


def test_residual_of_an_exact_solution_is_zero():
    # u = x / (1 + t) solves Burgers' equation for every viscosity.
    r = residual(rod(), lambda t, x: x / (1 + t), np.random.default_rng(0).uniform(0, 1, (20, 2)))
    np.testing.assert_allclose(r["burgers"], 0.0, atol=1e-14)


def test_residual_of_another_field_is_what_the_formula_says():
    t, x = np.random.default_rng(0).uniform(0, 1, (2, 20))
    r = residual(rod(), lambda t, x: t**2 * jnp.sin(x), np.stack([t, x], axis=1))["burgers"]
    expected = 2 * t * np.sin(x) + t**4 * np.sin(x) * np.cos(x) + 0.1 * t**2 * np.sin(x)
    np.testing.assert_allclose(r, expected, rtol=1e-12)


def test_mixed_high_and_long_names():
    domain = Box(theta=(0, 1), y=(0, 1))

    def equation(u_theta_theta, u_thetay, u_yyyy, laplacian_u, theta):
        return u_theta_theta + 10 * u_thetay + 100 * u_yyyy + 1000 * laplacian_u + theta

    pde = PDE(domain, equation, value(u=0.0, on=domain.boundary()))
    a, b = np.random.default_rng(1).uniform(0, 1, (2, 9))
    r = residual(pde, lambda a, b: jnp.sin(a) * b**5, np.stack([a, b], axis=1))["equation"]
    second, fourth = -np.sin(a) * b**5, 120 * np.sin(a) * b
    expected = second + 50 * np.cos(a) * b**4 + 100 * fourth + 1000 * (second + 20 * np.sin(a) * b**3) + a
    np.testing.assert_allclose(r, expected, rtol=1e-11)


def test_system_keeps_its_fields_apart():
    def one(u_x, v_y):
        return u_x + 2 * v_y

    def two(u_yy, v):
        return u_yy - v

    pde = PDE(SQUARE, one, two, value(u=0.0, v=0.0, on=SQUARE.boundary()))
    assert pde.fields == ("u", "v") and pde.out_size == 2
    x, y = np.random.default_rng(2).uniform(0, 1, (2, 7))
    r = residual(pde, lambda x, y: jnp.stack([x**2 * y**3, jnp.exp(x * y)]), np.stack([x, y], axis=1))
    np.testing.assert_allclose(r["one"], 2 * x * y**3 + 2 * x * np.exp(x * y), rtol=1e-12)
    np.testing.assert_allclose(r["two"], 6 * x**2 * y - np.exp(x * y), rtol=1e-12)


def test_normal_derivative_on_a_circle():
    ball = Ball(x=0.0, y=0.0, radius=2.0)
    robin = condition(lambda u, u_n: u_n + u - 5, on=ball.boundary(), name="robin")
    pde = PDE(ball, lambda u_xx, u_yy: u_xx + u_yy, robin)
    points = ball.boundary().grid(12)
    r = residual(pde, lambda x, y: x**2 + x * y, points, "robin")["robin"]
    x, y = points.T
    np.testing.assert_allclose(r, ((2 * x + y) * x + x * y) / 2 + x**2 + x * y - 5, rtol=1e-11)


def test_flux_on_the_faces_of_a_box_points_outwards():
    pde = PDE(SQUARE, lambda u, u_xx, u_yy: u_xx + u_yy - u, flux(u=0.0, on=SQUARE.boundary()))
    group = next(g for g in pde.groups if g != "interior")
    points = np.array([[0.0, 0.3], [1.0, 0.3], [0.4, 0.0], [0.4, 1.0]])
    r = residual(pde, lambda x, y: 2 * x + 3 * y, points, group)
    np.testing.assert_allclose(next(iter(r.values())), [-2, 2, -3, 3])


def test_derived_quantities_by_the_chain_rule():
    """Of one another, with coordinates, Laplacians, and an operation without a Taylor rule, against nested derivatives
    of the whole."""

    def cube(u):
        # A loop has no Taylor rule.
        return jax.lax.fori_loop(0, 3, lambda i, a: a * u, jnp.ones_like(u))

    pde = PDE(
        SQUARE,
        lambda u_xx, u_yy, q_x, laplacian_s, s_xy, c_xx: u_xx + u_yy + q_x + 2 * laplacian_s + 3 * s_xy + 5 * c_xx,
        value(u=0.0, on=SQUARE.boundary()),
        derived(q=lambda u_x, laplacian_u, x: x**2 * u_x + laplacian_u, s=lambda q, u, y: q * u + y, c=cube),
    )

    def u(p):
        return jnp.sin(p[0] + 2 * p[1]) * p[0]

    def partial(f, *axes):
        for axis in axes:
            f = lambda p, f=f, a=axis: jax.jacfwd(f)(p)[a]  # noqa: E731
        return f

    def laplacian(f):
        return lambda p: partial(f, 0, 0)(p) + partial(f, 1, 1)(p)

    def q(p):
        return p[0] ** 2 * partial(u, 0)(p) + laplacian(u)(p)

    def s(p):
        return q(p) * u(p) + p[1]

    def c(p):
        return u(p) ** 3

    def expected(p):
        second = 2 * laplacian(s)(p) + 3 * partial(s, 0, 1)(p) + 5 * partial(c, 0, 0)(p)
        return laplacian(u)(p) + partial(q, 0)(p) + second

    points = SQUARE.sample(jax.random.key(0), 5)
    found = residual(pde, lambda x, y: u(jnp.stack([x, y])), points)["equation 1"]
    np.testing.assert_allclose(found, jax.vmap(expected)(points), rtol=1e-11)


def test_initial_values_with_a_corner_between_periodic_ends_are_a_penalty():
    """A lift that has no derivatives of the equation's order at the seam would leave a residual for ever."""

    def made(data, equation, **keywords):
        return PDE(ROD, equation, value(u=data, on=ROD.at(t=0), **keywords), periodic("x"))

    def diffusion(u_t, u_xx):
        return u_t - u_xx

    def transport(u_t, u_x):
        return u_t + u_x

    def hump(x):
        return x**2 * jnp.cos(jnp.pi * x)

    assert not made(hump, diffusion).exact
    assert made(hump, transport).exact and made(hump, diffusion, exact=True).exact
    assert made(lambda x: jnp.sin(jnp.pi * x), diffusion).exact
    assert made(1.0, diffusion).exact


def test_derived_quantity_is_differentiated():
    pde = PDE(
        SQUARE,
        lambda q_x, r_y: q_x + r_y,
        derived(q=lambda u_x, k: k * u_x, r=lambda u_y, k: k * u_y),
        value(u=0.0, on=SQUARE.boundary()),
        k=lambda x, y: 1 + x * y,
    )
    x, y = np.random.default_rng(3).uniform(0, 1, (2, 9))
    r = residual(pde, lambda x, y: jnp.sin(x) * y**2, np.stack([x, y], axis=1))["equation 1"]
    expected = (
        y * np.cos(x) * y**2 - (1 + x * y) * np.sin(x) * y**2 + 2 * x * np.sin(x) * y + 2 * (1 + x * y) * np.sin(x)
    )
    np.testing.assert_allclose(r, expected, rtol=1e-11)


def test_unknown_parameter_lives_in_the_model():
    observed = observe({"t": [0.5], "x": [0.1]}, u=[0.2])
    pde = rod(observed, nu=Unknown(0.3, positive=True))
    model = pde.model(sciml.nn.mlp(2, 1, 4, 1, key=jax.random.key(0)))
    assert float(pde.parameters(model)["nu"]) == pytest.approx(0.3)
    batch = pde.points(16)(jax.random.key(0))
    gradient = eqx.filter_grad(lambda m: sum(jnp.mean(r**2) for r in pde.residuals(m, batch).values()))(model)
    assert abs(float(gradient.unknown["nu"].raw)) > 1e-8


# Exact constraints: to rounding, for a network that knows nothing.


def network(pde, seed=0):
    return pde.model(sciml.nn.mlp(pde.in_size, pde.out_size, 12, 2, key=jax.random.key(seed)))


def worst(pde, model, groups):
    """The largest residual of conditions at random points."""
    out = {}
    for label in groups:
        points = pde.groups[label].region.sample(jax.random.key(7), 200)
        out |= {n: float(jnp.max(jnp.abs(r))) for n, r in pde.residuals(model, Groups({label: points})).items()}
    return out


@pytest.mark.parametrize("seed", [0, 1])
def test_initial_and_boundary_values_are_exact(seed):
    pde = rod()
    assert [g.label for g in pde.trained_groups] == ["interior"]
    gaps = worst(pde, network(pde, seed), [g for g in pde.groups if g != "interior"])
    assert len(gaps) == 2 and max(gaps.values()) < 1e-13


def test_values_and_initial_velocity_are_exact_in_three_dimensions():
    domain = Box(t=(0, 2), x=(0, 1), y=(-1, 1))
    exact = lambda t, x, y: jnp.cos(t + x) * jnp.sin(y)  # noqa: E731
    pde = PDE(
        domain,
        lambda u_tt, laplacian_u: u_tt - laplacian_u,
        value(u=lambda x, y: exact(0.0, x, y), u_t=lambda x, y: -jnp.sin(x) * jnp.sin(y), on=domain.at(t=0)),
        value(u=exact, on=domain.boundary()),
    )
    gaps = worst(pde, network(pde), [g for g in pde.groups if g != "interior"])
    assert len(gaps) == 3 and max(gaps.values()) < 1e-13


def test_periodicity_is_exact_with_all_derivatives():
    domain = Box(t=(0, 1), x=(-1, 3))
    wave = value(u=lambda x: jnp.sin(jnp.pi * x / 2), on=domain.at(t=0))
    pde = PDE(domain, lambda u_t, u_x, u_xxx: u_t + u_x + u_xxx, wave, periodic("x"))
    assert pde.in_size == 3
    model = network(pde)
    t = np.linspace(0, 1, 9)
    for order in range(4):
        ends = []
        for x in (-1.0, 3.0):
            f = lambda p: model(p)[0]  # noqa: E731
            for _ in range(order):
                f = lambda p, f=f: jax.grad(f)(p)[1]  # noqa: E731
            ends.append(jax.vmap(f)(jnp.stack([jnp.asarray(t), jnp.full(9, x)], axis=1)))
        np.testing.assert_allclose(*ends, atol=1e-13 * 10**order)


def test_values_by_distance_are_exact_off_boxes():
    square, disc = Box(x=(-1, 1), y=(-1, 1)), Ball(x=0.2, y=0.0, radius=0.3)
    pde = PDE(
        square - disc,
        lambda u_xx, u_yy: u_xx + u_yy,
        value(u=lambda x, y: x + y**2, on=square.boundary(), exact=True),
        value(u=2.0, on=disc.boundary(), exact=True),
    )
    assert [g.label for g in pde.trained_groups] == ["interior"]
    gaps = worst(pde, network(pde), [g for g in pde.groups if g != "interior"])
    assert max(gaps.values()) < 1e-10
    inside = pde.domain.sample(jax.random.key(0), 50)
    assert jnp.isfinite(pde.residuals(network(pde), Groups({"interior": inside}))["equation 1"]).all()


def test_values_that_disagree_at_a_corner_become_a_penalty():
    with pytest.warns(UserWarning, match="differ by 1 where they meet"):
        pde = PDE(
            SQUARE,
            lambda u_xx, u_yy: u_xx + u_yy,
            value(u=1.0, on=SQUARE.at(y=1)),
            value(u=0.0, on=SQUARE.boundary("x")),
            value(u=0.0, on=SQUARE.at(y=0)),
        )
    assert [g.label for g in pde.trained_groups] == ["interior", "u on y=1"]


def test_exact_false_is_a_penalty():
    pde = rod(value(u=0.0, on=ROD.at(t=1), exact=False))
    assert "u on t=1" in [g.label for g in pde.trained_groups]


def test_points_have_their_regions():
    pde = rod(value(u_x=0.0, on=ROD.at(x=0.5), exact=False))
    batch = jax.jit(pde.points(100, 20))(jax.random.key(0))
    assert {k: v.shape for k, v in batch.items()} == {"interior": (100, 2), "u_x on x=0.5": (20, 2)}
    assert (batch["u_x on x=0.5"][:, 1] == 0.5).all()


def test_all_end_points_of_an_interval_are_used():
    """Two ends are a region of dimension 0; each counts, whatever the number of points."""
    line = Box(x=(0, 1))
    pde = PDE(line, lambda u_xx: u_xx, value(u=0.0, on=line.boundary(), exact=False))
    np.testing.assert_allclose(np.sort(pde.points(8)(jax.random.key(0))["u on boundary"][:, 0]), [0, 1])


# Errors, when the problem is built.


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: rod(lambda u_xx, nuu: nuu * u_xx), ValueError, "unknown name 'nuu'.*Did you mean 'nu'"),
        (lambda: rod(lambda u, u_z: u + u_z), ValueError, "along 'z', but the axes of the domain are t, x"),
        (lambda: rod(lambda u_x: jnp.stack([u_x, u_x])), ValueError, "array of shape"),
        (lambda: rod(lambda u_x: (u_x, u_x)), TypeError, "one number per point"),
        (lambda: rod(lambda u_x: 1j * u_x), TypeError, "two fields"),
        (lambda: rod(lambda u_n: u_n), ValueError, "exists on boundaries only"),
        (lambda: rod(lambda *args: 0.0), TypeError, "read by name"),
        (lambda: rod(value(u=1.0, on=ROD.at(t=0))), ValueError, "two different values for 'u' on t=0"),
        (lambda: rod(value(v_y=1.0, on=ROD.at(t=0))), ValueError, "unknown name 'v_y'"),
        (lambda: rod(value(u=lambda u_x: u_x, on=ROD.at(t=1))), ValueError, "coordinates and parameters"),
        (lambda: rod(value(u=0.0, on=SQUARE.at(x=0))), ValueError, "take regions from the domain"),
        (lambda: rod(value(u=jnp.nan, on=ROD.at(t=1))), ValueError, "finite"),
        (lambda: rod(value(u=lambda x: jnp.log(x - 5), on=ROD.at(t=1))), ValueError, "must be finite"),
        (lambda: rod(value(u=np.ones(3), on=ROD.at(t=1))), ValueError, "observe"),
        (lambda: rod(value(on=ROD.at(t=1))), ValueError, "needs a field"),
        (lambda: rod(value(u=0.0, on="t=1")), TypeError, "must be a region|Expected type"),
        (lambda: rod(periodic("x")), ValueError, "periodic, so it has no boundary"),
        (lambda: rod(periodic("z")), ValueError, "no axis 'z'"),
        (lambda: rod(nu=jnp.nan), ValueError, "parameter 'nu'"),
        (lambda: rod(x=3.0), ValueError, "both an axis"),
        (lambda: rod(observe({"x": [0.0]}, u=[1.0])), ValueError, "coordinates x given, expected t, x"),
        (lambda: observe({"x": [0.0, 1.0]}, u=[1.0]), ValueError, "lengths"),
        (lambda: observe({"x": [0.0]}, u=[np.nan]), ValueError, "nan at index 0"),
        (lambda: Unknown(np.inf), ValueError, "finite"),
        (lambda: Unknown(0.0, positive=True), ValueError, "above 0"),
        (lambda: PDE("box", burgers), TypeError, "first argument must be a domain|Expected type"),
        (lambda: PDE(ROD, 3.0), TypeError, "expected equations"),
        (lambda: PDE(ROD, value(u=0.0, on=ROD.at(t=0))), ValueError, "no equation given"),
        (lambda: PDE(ROD, lambda x: x), ValueError, "no field found"),
        (
            lambda: rod(derived(a=lambda b: b, b=lambda a: a)),
            ValueError,
            "defined by one another: a -> b -> a",
        ),
        (
            lambda: PDE(
                Ball(x=0.0, y=0.0, radius=1.0),
                lambda u, u_xx, u_yy: u_xx + u_yy - u,
                value(u_x=0.0, on=Ball(x=0.0, y=0.0, radius=1.0).boundary(), exact=True),
            ),
            ValueError,
            "cannot hold exactly",
        ),
    ],
)
def test_errors_name_the_remedy(build, error, message):
    with pytest.raises(error, match=message):
        build()


def test_wrong_networks_are_refused():
    pde = rod()
    with pytest.raises(TypeError, match=r"one input of shape \(2,\)"):
        pde.model(eqx.nn.MLP(3, 1, 4, 1, key=jax.random.key(0)))
    with pytest.raises(TypeError, match="must return 1 numbers"):
        pde.model(eqx.nn.MLP(2, 2, 4, 1, key=jax.random.key(0)))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: PDE(SQUARE, lambda u_xx, u_yy: u_xx + u_yy, flux(u=0.0, on=SQUARE.boundary())), "up to a constant"),
        (lambda: PDE(ROD, burgers, value(u=0.0, on=ROD.boundary("x")), nu=1.0), "0 condition.s. in time"),
        (
            lambda: PDE(
                ROD, lambda u_tt, u_xx: u_tt - u_xx, value(u=0.0, on=ROD.at(t=0)), value(u=0.0, on=ROD.boundary("x"))
            ),
            "time derivatives of order 2 but 1",
        ),
        (lambda: PDE(ROD, burgers, value(u=0.0, on=ROD.at(t=0)), nu=1.0), "along 'x' but no condition"),
    ],
)
def test_undetermined_problems_are_said_to_be_so(build, message):
    with pytest.warns(UndeterminedWarning, match=message):
        build()


def test_determined_problems_give_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rod()
        pinned = value(u=0.0, on=SQUARE.at(x=0, y=0))
        PDE(SQUARE, lambda u_xx, u_yy: u_xx + u_yy, flux(u=0.0, on=SQUARE.boundary()), pinned)
