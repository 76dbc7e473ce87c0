"""Domains of several parts: their geometry, what holds at interfaces, and solutions against exact ones."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sciml
from sciml._loss import Groups
from sciml.pde import PDE, Ball, Box, Solution, Subdomains, jump, value
from sciml.pde._linear import _filled, draw_features, is_affine
from sciml.pde._rows import jacobian_rows, residual_rows, tabulate

KEY = jax.random.key(0)
SQUARE, DISC = Box(x=(-1, 1), y=(-1, 1)), Ball(x=0, y=0, radius=0.5)
RINGS = Subdomains(shell=SQUARE - DISC, core=DISC)
ROD = Box(x=(0, 3)).split(x=(1.0, 1.5))


def continuous(on):
    return jump(lambda u: u, on=on), jump(lambda k, u_n: k * u_n, on=on)


def rings(**k):
    """k laplacian(u) = 1 with u = r^2 / 4 k + constants."""
    return PDE(
        RINGS,
        lambda u_xx, u_yy, k: k * (u_xx + u_yy) - 1,
        value(u=lambda x, y: (x**2 + y**2) / 4, on=SQUARE.boundary()),
        *continuous(DISC.boundary()),
        k={"shell": 1.0, "core": 100.0} | k,
        reference=lambda x, y: np.where(x**2 + y**2 < 0.25, (x**2 + y**2) / 400 + 0.99 / 16, (x**2 + y**2) / 4),
    )


# Geometry.


def test_parts_of_a_box_are_boxes_that_fill_it():
    parts = Box(x=(0, 3), y=(0, 1)).split(x=(1.0, 1.5), y=2)
    assert list(parts.parts) == ["x0_y0", "x0_y1", "x1_y0", "x1_y1", "x2_y0", "x2_y1"]
    assert parts.measure == pytest.approx(3.0) and parts.bounds == {"x": (0, 3), "y": (0, 1)}
    # Two lines of length 1 across, three along.
    assert parts.interface().measure == pytest.approx(2 * 1 + 3)
    assert parts.boundary().measure == pytest.approx(8.0)
    points = parts.sample(KEY, 600)
    expected = 2 * np.searchsorted([1.0, 1.5], np.asarray(points[:, 0])) + np.asarray(points[:, 1] > 0.5)
    assert (np.asarray(jax.vmap(parts.part_at)(points)) == expected).all()


def test_sides_of_an_interface_lie_in_the_parts_that_meet():
    points = DISC.boundary().sample(KEY, 50)
    sides = jax.vmap(RINGS.sides)(points, DISC.boundary().normal(points))
    found = jax.vmap(jax.vmap(RINGS.part_at))(sides)
    assert (found[:, 0] == 1).all() and (found[:, 1] == 0).all()


def test_products_with_time_have_the_same_parts():
    domain = Box(t=(0, 2)) * RINGS
    assert isinstance(domain, Subdomains) and domain.axes == ("t", "x", "y")
    assert domain.measure == pytest.approx(8.0, rel=1e-3)
    assert domain.at(t=0).sample(KEY, 20)[:, 0].max() == 0.0
    assert isinstance(RINGS * Box(z=(0, 1)), Subdomains)


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: Subdomains(one=DISC), ValueError, "two parts or more"),
        (lambda: Subdomains(one=DISC, two=3), TypeError, "must be a domain|Type-check"),
        (lambda: Subdomains(one=DISC, two=Box(x=(0, 1))), ValueError, "same axes"),
        (lambda: Box(x=(0, 1)).split(y=2), ValueError, "no axis 'y'"),
        (lambda: Box(x=(0, 1)).split(x=(0.5, 0.2)), ValueError, "increasing"),
        (lambda: Box(x=(0, 1)).split(x=(1.5,)), ValueError, "increasing"),
        (lambda: RINGS.boundary(), ValueError, "boundary of the shape"),
        (lambda: RINGS.interface(), ValueError, "boundary of the shape"),
        (lambda: Subdomains(a=Box(x=(0, 1)), b=Box(x=(2, 3))).interface(), ValueError, "meet"),
        (lambda: Subdomains(a=Box(x=(0, 1)), b=Box(x=(2, 3))).boundary(), ValueError, "do not fill"),
        (lambda: rings(skin=2.0), ValueError, "values for shell, core, skin"),
        (lambda: PDE(SQUARE, lambda u_xx, k: k * u_xx, k={"a": 1.0}), ValueError, "no parts"),
        (lambda: PDE(SQUARE, lambda u_xx: u_xx, jump(lambda u: u, on=DISC.boundary())), ValueError, "Subdomains"),
        (lambda: jump(3.0, on=DISC.boundary()), TypeError, "expected a function|Type-check"),
        (lambda: jump(lambda u: u, float("nan"), on=DISC.boundary()), ValueError, "finite"),
    ],
)
def test_bad_parts_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


# Residuals.


def test_jumps_and_parameters_are_those_of_the_parts():
    with jax.enable_x64(True):
        pde = rings()
        fields = pde.model(lambda inputs: jnp.stack([inputs[0] ** 2, 3 * inputs[1]]))
        ring = jnp.array([[0.5, 0.0], [0.0, 0.5], [0.3, -0.4]])
        found = pde.residuals(fields, Groups({"jump on boundary": ring, "jump on boundary (2)": ring}))
        x, y = ring.T
        # Outward, from the core (3 y) to the shell (x^2).
        np.testing.assert_allclose(found["jump on boundary"], x**2 - 3 * y, atol=1e-12)
        np.testing.assert_allclose(found["jump on boundary (2)"], 2 * x * x / 0.5 - 100 * 3 * y / 0.5, atol=1e-12)
        inside = pde.residuals(fields, Groups(interior=jnp.array([[0.9, 0.9], [0.1, 0.2]])))
        np.testing.assert_allclose(inside["equation 1"], [1.0, -1.0], atol=1e-12)


def test_tables_equal_residuals_and_their_derivatives():
    with jax.enable_x64(True):
        pde = rings(core=lambda x, part: 5 + x + part)
        network = _filled(draw_features(pde, 7, 1.0, KEY), KEY)
        batch = pde.points(40, 12)(KEY)
        tables = tabulate(pde, network, batch, {})

        def rows(output):
            fields = pde.model(eqx.tree_at(lambda n: n.output, network, output))
            found = pde.residuals(fields, batch)
            terms = {g.label: g.terms[0].name for g in pde.trained_groups}
            scale = {label: (1 if label == "interior" else 100) / np.sqrt(len(batch[label])) for label in terms}
            return jnp.concatenate([scale[label] * found[terms[label]] for label in sorted(terms)])

        np.testing.assert_allclose(residual_rows(pde, tables, network.output), rows(network.output), rtol=1e-9)
        dense = jax.jacfwd(rows)(network.output).reshape(len(rows(network.output)), -1)
        np.testing.assert_allclose(jacobian_rows(pde, tables, network.output), dense, rtol=1e-7, atol=1e-9)
        assert is_affine(pde, KEY)


# Solutions.


def test_a_core_of_another_material(tmp_path):
    pde = rings()
    solution = sciml.solve(pde, budget=30, report=False)
    assert solution.error()["relative_l2"] < 1e-7
    assert solution.chosen["method"].startswith("least squares")
    solution.save(tmp_path / "rings.sciml")
    points = {"x": np.array([0.1, 0.7]), "y": np.array([0.2, 0.7])}
    np.testing.assert_array_equal(Solution.load(tmp_path / "rings.sciml", pde)(**points), solution(**points))


def test_what_is_gained_across_interfaces():
    """u'' = 0 with u = x, then 1 more and twice as steep, then continuous and 5 times as steep."""
    pde = PDE(
        ROD,
        lambda u_xx: u_xx,
        value(u=0.0, on=ROD.at(x=0)),
        value(u=10.5, on=ROD.at(x=3)),
        jump(lambda u: u, lambda x: jnp.where(x < 1.2, 1.0, 0.0), on=ROD.interface()),
        jump(lambda u_n: u_n, lambda x: jnp.where(x < 1.2, 1.0, 3.0), on=ROD.interface()),
        reference=lambda x: np.where(x < 1, x, np.where(x < 1.5, 2 * x, 3 + 5 * (x - 1.5))),
    )
    assert sciml.solve(pde, budget=20, report=False).error()["relative_l2"] < 1e-9


def test_training_takes_a_network_for_each_part():
    """u u_x = k x, so that u^2 = k x^2 + constants, by the default training."""
    rod = Box(x=(0, 1)).split(x=2)
    pde = PDE(
        rod,
        lambda u, u_x, k, x: u * u_x - k * x,
        value(u=1.0, on=rod.at(x=0)),
        jump(lambda u: u, on=rod.interface()),
        k={"x0": 1.0, "x1": 3.0},
        reference=lambda x: np.sqrt(np.where(x < 0.5, 1 + x**2, 0.5 + 3 * x**2)),
    )
    solution = sciml.solve(pde, budget=None, steps=150, points=256, report=False)
    assert solution.chosen["network"].startswith("2 networks MLP 1-")
    assert solution.error()["relative_l2"] < 1e-5
