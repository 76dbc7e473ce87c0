"""Meshes around discs: areas, nodes on circles, orders of convergence, and what is refused."""

import numpy as np
import pytest
import skfem
from skfem.models.poisson import laplace

from sciml.data import triangles_around

SQUARE = (-1.0, 1.0)
DISCS = [(0.5, 0.5, 0.2), (0.4, -0.4, 0.4), (-0.2, -0.7, 0.1), (-0.6, 0.5, 0.3)]
SIZES = ((0.2, 12), (0.1, 24), (0.05, 48))


@pytest.fixture(scope="module")
def meshes():
    return [triangles_around(SQUARE, SQUARE, DISCS, size, around) for size, around in SIZES]


def integral(mesh):
    return skfem.Functional(lambda w: 1.0 + 0 * w.x[0]).assemble(skfem.Basis(mesh, skfem.ElementTriP1(), intorder=4))


def test_area_converges_to_that_of_the_domain(meshes):
    area = 4 - np.pi * sum(radius**2 for *_, radius in DISCS)
    errors = [abs(integral(mesh) - area) for mesh in meshes]
    # Parabolas on arcs miss the fourth power of their length.
    assert errors[0] < 2e-4 and errors[0] / errors[1] > 12 and errors[1] / errors[2] > 12


def test_boundaries_are_named_and_on_their_curves(meshes):
    mesh = meshes[0]
    assert set(mesh.boundaries) == {"rectangle", *(f"disc {i}" for i in range(4))}
    assert sorted(np.concatenate(list(mesh.boundaries.values()))) == sorted(mesh.boundary_facets())
    basis = skfem.Basis(mesh, skfem.ElementTriP2())
    nodes = {name: mesh.doflocs[:, basis.get_dofs(name).all()] for name in mesh.boundaries}
    np.testing.assert_allclose(abs(nodes["rectangle"]).max(axis=0), 1, atol=1e-14)
    for i, (x, y, radius) in enumerate(DISCS):
        assert nodes[f"disc {i}"].shape[1] >= 24
        np.testing.assert_allclose(np.hypot(*(nodes[f"disc {i}"] - [[x], [y]])), radius, rtol=1e-12)


def test_triangles_are_neither_flat_nor_of_unlike_size(meshes):
    for mesh, (size, _) in zip(meshes, SIZES):
        corners = mesh.p[:, mesh.t]
        sides = np.stack([np.linalg.norm(corners[:, i] - corners[:, i - 1], axis=0) for i in range(3)])
        (ax, bx, cx), (ay, by, cy) = corners
        twice = abs((bx - ax) * (cy - ay) - (by - ay) * (cx - ax))
        # The sine of the smallest angle is twice the area over the product of the two longer sides.
        assert (twice * sides.min(axis=0) / sides.prod(axis=0)).min() > np.sin(np.radians(20))
        assert sides.max() < 2.5 * size


@pytest.mark.parametrize("element, order", [(skfem.ElementTriP2(), 3), (skfem.ElementTriP3(), 4)])
def test_a_harmonic_function_is_found_with_the_order_of_the_element(meshes, element, order):
    def exact(x, y):
        return np.log(np.hypot(x - 0.5, y - 0.5)) + 0.1 * (x + 0.6) / ((x + 0.6) ** 2 + (y - 0.5) ** 2)

    errors = []
    for mesh in meshes:
        basis = skfem.Basis(mesh, element, intorder=8)
        edge = basis.get_dofs().all()
        u = np.where(np.isin(np.arange(basis.N), edge), exact(*basis.doflocs), 0.0)
        u = skfem.solve(*skfem.condense(laplace.assemble(basis), x=u, D=edge))
        miss = basis.interpolate(u) - exact(*basis.global_coordinates())
        errors.append(np.sqrt((miss**2 * basis.dx).sum()))
    assert np.log2(errors[1] / errors[2]) > order - 0.1 and errors[2] < 1e-4


def test_a_rectangle_without_discs_and_discs_close_to_each_other():
    plain = triangles_around((0, 2), (0, 1), [], 0.25)
    assert integral(plain) == pytest.approx(2, rel=1e-12) and list(plain.boundaries) == ["rectangle"]
    close = triangles_around(SQUARE, SQUARE, [(-0.31, 0, 0.3), (0.31, 0, 0.3)], 0.1, 64)
    assert integral(close) == pytest.approx(4 - 2 * np.pi * 0.09, rel=1e-6)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (((1, -1), SQUARE, DISCS, 0.1), "low, high"),
        (((-1, np.nan), SQUARE, DISCS, 0.1), "low, high"),
        ((SQUARE, SQUARE, [(0, 0, np.nan)], 0.1), "finite"),
        ((SQUARE, SQUARE, [(0, 0, -0.1)], 0.1), "radius > 0"),
        ((SQUARE, SQUARE, [(0, 0)], 0.1), "x, y, radius"),
        ((SQUARE, SQUARE, DISCS, 0.0), "size > 0"),
        ((SQUARE, SQUARE, DISCS, np.nan), "size > 0"),
        ((SQUARE, SQUARE, DISCS, 0.1, 4), "around >= 8"),
        ((SQUARE, SQUARE, [(0.9, 0, 0.1)], 0.1), "leaves the rectangle"),
        ((SQUARE, SQUARE, [(0, 0, 0.3), (0.5, 0, 0.1), (0.1, 0, 0.1)], 0.1), r"discs \(0, 0, 0.3\) and \(0.1"),
        ((SQUARE, SQUARE, [(0, 0, 0.3), (0.597, 0.078, 0.301)], 0.1), "too narrow"),
    ],
)
def test_what_is_no_domain_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        triangles_around(*arguments)
