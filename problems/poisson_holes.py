"""Laplace's equation on a square with four holes.

u_xx + u_yy = 0 on (-0.5, 0.5)^2 without four discs of radius 0.1 around (+-0.3, +-0.3), with u = 1 on the square and
u = 0 on the circles; the problem Poisson2d-C of PINNacle (Hao et al., NeurIPS 2024).

The reference is a finite element solution (scikit-fem, biquadratic elements on quadrilaterals between each circle and
its quadrant). Halving its cells changes it by 4e-5 of its norm, which is its error.
"""

import numpy as np
import xarray as xr

from sciml import PDE, Ball, Box, value

EXPECTED = {"relative_l2": 1e-4}
BUDGET = 60.0
CENTRES = [(sx * 0.3, sy * 0.3) for sx in (-1, 1) for sy in (-1, 1)]
RADIUS = 0.1


def problem(inner: float = 0.0, outer: float = 1.0, cells: int = 24) -> PDE:
    """inner, outer: values on the circles and on the square; cells: of the reference, along each side of a quadrant."""

    def laplace(u_xx, u_yy):
        return u_xx + u_yy

    square = Box(x=(-0.5, 0.5), y=(-0.5, 0.5))
    holes = [Ball(x=x, y=y, radius=RADIUS) for x, y in CENTRES]
    domain = square
    for hole in holes:
        domain = domain - hole
    return PDE(
        domain,
        laplace,
        value(u=outer, on=square.boundary()),
        *[value(u=inner, on=hole.boundary()) for hole in holes],
        reference=finite_elements(inner, outer, cells),
    )


def finite_elements(inner: float, outer: float, cells: int) -> xr.Dataset:
    """The solution at the nodes of the mesh."""
    import skfem
    from skfem.models.poisson import laplace

    basis = skfem.Basis(mesh(cells), skfem.ElementQuad2())
    x, y = basis.doflocs
    square = np.flatnonzero(np.maximum(abs(x), abs(y)) > 0.5 - 1e-9)
    circles = np.setdiff1d(basis.get_dofs().all(), square)
    u = np.zeros(basis.N)
    u[square], u[circles] = outer, inner
    u = skfem.solve(*skfem.condense(laplace.assemble(basis), x=u, D=np.r_[square, circles]))
    return xr.Dataset({"u": ("node", u)}, coords={"x": ("node", x), "y": ("node", y)})


def mesh(cells: int):
    """Quadrilaterals between each circle and the quadrant of the square around it."""
    import skfem

    s, r = np.meshgrid(np.linspace(0, 1, cells + 1), np.linspace(0, 1, cells + 1), indexing="ij")
    corners = 0.5 * np.array([(0, 0), (1, 0), (1, 1), (0, 1), (0, 0)])
    index = np.arange((cells + 1) ** 2).reshape(cells + 1, cells + 1)
    block = np.stack([index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]]).reshape(4, -1)
    nodes, elements = [], []
    for x, y in CENTRES:
        centre, low = np.array([x, y]), np.minimum(np.sign([x, y]), 0) * 0.5
        for a, b in zip(corners[:-1] + low, corners[1:] + low):
            side = a + s[..., None] * (b - a)
            outward = side - centre
            circle = centre + RADIUS * outward / np.linalg.norm(outward, axis=-1, keepdims=True)
            # Finer cells at the circle, where the solution bends most.
            points = circle + r[..., None] ** 1.5 * (side - circle)
            elements.append(block + len(nodes) * index.size)
            nodes.append(points.reshape(-1, 2))
    # Blocks share the nodes on their common sides.
    every = np.concatenate(nodes)
    _, first, merged = np.unique(every.round(9), axis=0, return_index=True, return_inverse=True)
    quads = merged.ravel()[np.concatenate(elements, axis=1)]
    mesh = skfem.MeshQuad(np.ascontiguousarray(every[first].T), np.ascontiguousarray(quads))
    curved = skfem.MeshQuad2.from_mesh(mesh)
    for centre in np.array(CENTRES):
        # The nodes in the middle of the chords move onto the circle.
        off = curved.doflocs - centre[:, None]
        distance = np.linalg.norm(off, axis=0)
        near = distance < RADIUS * (1 + 1e-9)
        curved.doflocs[:, near] = centre[:, None] + RADIUS * off[:, near] / distance[near]
    return curved
