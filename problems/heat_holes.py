"""Heat conduction in a plate with holes, from a cold start that contradicts what the walls ask for.

u_t = u_xx + u_yy on t in (0, 3), (x, y) in (-8, 8) x (-12, 12) without 11 discs of radius 1 and 6 of radius 0.4, with
u = 0 at t = 0 and u_n = 5 - u on the large circles, u_n = 1 - u on the small ones and u_n = 0.1 - u on the rectangle,
where n points out of the domain; the problem Heat2d-CG of PINNacle (Hao et al., NeurIPS 2024). At t = 0 the values
contradict the conditions of the walls: from there a layer of thickness sqrt(t) grows, in which u begins as sqrt(t).

The reference is a finite element solution (scikit-fem, elements of order 3 on triangles with curved sides) at the
vertices and 20 times from 0.15 to 3. It takes no steps in time: it is an inverse Laplace transform, by the trapezoidal
rule on a hyperbola (Weideman & Trefethen, Math. Comput. 76, 2007). One on triangles half as large, and with more
nodes on the hyperbola, is 1.4e-4 of its norm off (8e-4 at t = 0.15, 7e-5 at t = 3), which is its error.
"""

import functools
import operator

import numpy as np
import xarray as xr

import sciml
from sciml import PDE, Ball, Box, condition, value

EXPECTED = {"relative_l2": 0.3}
BUDGET = 120.0
WIDTH, HEIGHT, END = (-8, 8), (-12, 12), 3.0
LARGE = [(x, y, 1.0) for x in (-4, 4) for y in (-9, -3, 3, 9)] + [(0, y, 1.0) for y in (-6, 0, 6)]
SMALL = [(x, y, 0.4) for x in (-3.2, 3.2) for y in (-6, 0, 6)]


def problem(large: float = 5.0, small: float = 1.0, outer: float = 0.1, size: float = 0.8) -> PDE:
    """large, small, outer: temperatures beyond the large circles, the small ones and the rectangle; size: of the
    reference's triangles.
    """

    def heat(u_t, u_xx, u_yy):
        return u_t - u_xx - u_yy

    def on_rectangle(u, u_n, outer):
        return u_n + u - outer

    # The normals of discs point out of the discs, into the domain.
    def on_large(u, u_n, large):
        return -u_n + u - large

    def on_small(u, u_n, small):
        return -u_n + u - small

    time, plate = Box(t=(0, END)), Box(x=WIDTH, y=HEIGHT)
    wide, narrow = (functools.reduce(operator.or_, [Ball(x=x, y=y, radius=r) for x, y, r in d]) for d in (LARGE, SMALL))
    domain = time * (plate - wide - narrow)
    return PDE(
        domain,
        heat,
        value(u=0.0, on=domain.at(t=0)),
        condition(on_rectangle, on=time * plate.boundary()),
        condition(on_large, on=time * wide.boundary()),
        condition(on_small, on=time * narrow.boundary()),
        large=large,
        small=small,
        outer=outer,
        reference=finite_elements(large, small, outer, size),
    )


def finite_elements(
    large: float, small: float, outer: float, size: float, around: int = 16, nodes: int = 14
) -> xr.Dataset:
    """The solution at the vertices of a mesh, see `sciml.data.triangles_around`, by that many nodes of a hyperbola."""
    import scipy.sparse.linalg
    import skfem
    from skfem.models.poisson import laplace, mass, unit_load

    mesh = sciml.data.triangles_around(WIDTH, HEIGHT, LARGE + SMALL, size, around)
    basis = skfem.Basis(mesh, skfem.ElementTriP3(), intorder=6)
    capacity, operator, load = mass.assemble(basis), laplace.assemble(basis), np.zeros(basis.N)
    walls = {f"disc {i}": large if i < len(LARGE) else small for i in range(len(LARGE + SMALL))}
    for name, temperature in (walls | {"rectangle": outer}).items():
        edge = basis.boundary(name)
        operator, load = operator + mass.assemble(edge), load + temperature * unit_load.assemble(edge)
    times, vertices = END * np.arange(1, 21) / 20, basis.nodal_dofs[0]
    values = np.zeros((len(times), len(vertices)))
    for z, weight in zip(*hyperbola(times[0], times[-1], nodes)):
        # The transform of the solution that is 0 at t = 0.
        factors = scipy.sparse.linalg.splu((z * capacity + operator).tocsc(), permc_spec="MMD_AT_PLUS_A")
        transform = factors.solve(load / z)[vertices]
        values += np.imag(np.exp(z * times)[:, None] * weight * transform)
    x, y = basis.doflocs[:, vertices]
    return xr.Dataset({"u": (("t", "node"), values)}, coords={"t": times, "x": ("node", x), "y": ("node", y)})


def hyperbola(first: float, last: float, nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes z and weights w so that f(t) is the sum of Im(w exp(z t) F(z)) for first <= t <= last, for a transform F
    whose singularities are on the negative real axis; the error falls as exp(-b nodes), the angle being the best.
    """
    angles = np.linspace(np.pi / 4, np.pi / 2, 2002)[1:-1]
    ratio = ((np.pi - 2 * angles) * last / first + 4 * angles - np.pi) / ((4 * angles - np.pi) * np.sin(angles))
    rates = (np.pi**2 - 2 * np.pi * angles) / np.arccosh(ratio)
    angle, width = angles[rates.argmax()], np.arccosh(ratio)[rates.argmax()]
    scale, step = (4 * np.pi * angle - np.pi**2) / width * nodes / last, width / nodes
    along = step * (np.arange(nodes) + 0.5)
    z = scale * (1 + np.sin(1j * along - angle))
    return z, scale * step / np.pi * 1j * np.cos(1j * along - angle)
