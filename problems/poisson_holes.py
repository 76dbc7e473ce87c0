"""Laplace's equation on a square with four holes.

u_xx + u_yy = 0 on (-0.5, 0.5)^2 without four discs of radius 0.1 around (+-0.3, +-0.3), with u = 1 on the square and
u = 0 on the circles; the problem Poisson2d-C of PINNacle (Hao et al., NeurIPS 2024).

The reference is a finite element solution (scikit-fem, elements of order 4 on triangles with curved sides), at the
vertices. One on triangles twice as large is 6.6e-7 of its norm off, on those twice as large again 1.0e-5, so that its
error is about 4e-8.
"""

import numpy as np
import xarray as xr

import sciml
from sciml import PDE, Ball, Box, value

EXPECTED = {"relative_l2": 1e-4}
BUDGET = 60.0
CENTRES = [(sx * 0.3, sy * 0.3) for sx in (-1, 1) for sy in (-1, 1)]
RADIUS = 0.1


def problem(inner: float = 0.0, outer: float = 1.0, size: float = 0.01) -> PDE:
    """inner, outer: values on the circles and on the square; size: of the reference's triangles."""

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
        reference=finite_elements(inner, outer, size),
    )


def finite_elements(inner: float, outer: float, size: float, around: int = 72) -> xr.Dataset:
    """The solution at the vertices of a mesh; see `sciml.data.triangles_around`."""
    import skfem
    from skfem.models.poisson import laplace

    discs = [(x, y, RADIUS) for x, y in CENTRES]
    basis = skfem.Basis(
        sciml.data.triangles_around((-0.5, 0.5), (-0.5, 0.5), discs, size, around), skfem.ElementTriP4()
    )
    square, every = basis.get_dofs("rectangle").all(), basis.get_dofs().all()
    u = np.zeros(basis.N)
    u[every], u[square] = inner, outer
    u = skfem.solve(*skfem.condense(laplace.assemble(basis), x=u, D=every))
    at = basis.nodal_dofs[0]
    x, y = basis.doflocs[:, at]
    return xr.Dataset({"u": ("node", u[at])}, coords={"x": ("node", x), "y": ("node", y)})
