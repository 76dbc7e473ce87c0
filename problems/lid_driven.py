"""The lid-driven cavity with a lid that moves fastest in its middle.

The Navier-Stokes equations u u_x + v u_y + p_x = (u_xx + u_yy) / re, u v_x + v v_y + p_y = (v_xx + v_yy) / re, u_x +
v_y = 0 on (0, 1)^2, with u = 4 x (1 - x), v = 0 on the lid y = 1, u = v = 0 on the other walls and, as p is otherwise
determined up to a constant, p = 0 at the corner (0, 0); with re = 100 the problem NS2d-C of PINNacle (Hao et al.,
NeurIPS 2024), whose best method has a relative L2 error of 3.6e-2. With this lid the velocity is continuous, but its
gradient is not at the upper corners, where p grows as the logarithm of the distance.

The reference is a finite element solution (scikit-fem, Taylor-Hood elements of orders 4 and 3 on triangles that halve
towards the upper corners), by Newton's method, at the centres of 64 x 64 cells. It is 6e-5 of its norm (u, v: 3e-5 of
theirs, p: 2e-4) off one with elements of orders 5 and 4, which is its error.
"""

import numpy as np
import xarray as xr

from sciml import PDE, Box, value

EXPECTED = {"relative_l2": 1e-3}
BUDGET = 120.0


def problem(re: float = 100.0, cells: int = 10) -> PDE:
    """re: Reynolds number; cells: of the reference, along each axis."""

    def momentum_x(u, v, u_x, u_y, p_x, u_xx, u_yy, re):
        return u * u_x + v * u_y + p_x - (u_xx + u_yy) / re

    def momentum_y(u, v, v_x, v_y, p_y, v_xx, v_yy, re):
        return u * v_x + v * v_y + p_y - (v_xx + v_yy) / re

    def continuity(u_x, v_y):
        return u_x + v_y

    domain = Box(x=(0, 1), y=(0, 1))
    return PDE(
        domain,
        momentum_x,
        momentum_y,
        continuity,
        value(u=lambda x: 4 * x * (1 - x), v=0.0, on=domain.at(y=1)),
        value(u=0.0, v=0.0, on=domain.boundary("x")),
        value(u=0.0, v=0.0, on=domain.at(y=0)),
        value(p=0.0, on=domain.at(x=0, y=0)),
        re=re,
        reference=finite_elements(re, cells),
    )


def finite_elements(re: float, cells: int, points: int = 64) -> xr.Dataset:
    """The solution at the centres of `points` x `points` equal cells; `cells` along each axis, before halving."""
    import scipy.sparse as sparse
    import skfem
    from skfem.models.poisson import laplace

    line, finer = np.linspace(0, 1, cells + 1), 0.5 ** np.arange(1, 7) / cells
    mesh = skfem.MeshTri.init_tensor(np.unique(np.r_[line, finer, 1 - finer]), np.unique(np.r_[line, 1 - finer]))
    velocity = skfem.Basis(mesh, skfem.ElementTriP4(), intorder=8)
    pressure = velocity.with_element(skfem.ElementTriP3())
    stiffness = laplace.assemble(velocity) / re
    slopes = [skfem.BilinearForm(lambda u, q, w, i=i: -u.grad[i] * q).assemble(velocity, pressure) for i in range(2)]
    along = skfem.BilinearForm(lambda u, v, w: (w.u * u.grad[0] + w.v * u.grad[1]) * v)
    change = [[skfem.BilinearForm(lambda u, v, w, c=c, i=i: u * w[c].grad[i] * v) for i in range(2)] for c in "uv"]

    n, m = velocity.N, pressure.N
    x, y = velocity.doflocs
    walls = velocity.get_dofs().all()
    state = np.zeros(2 * n + m)
    state[:n] = np.where(np.isclose(y, 1), 4 * x * (1 - x), 0.0)
    fixed = np.r_[walls, n + walls, 2 * n + np.flatnonzero(np.isclose(pressure.doflocs, 0).all(axis=0))]
    div = sparse.hstack(slopes)
    for _ in range(20):
        u, v = (velocity.interpolate(part) for part in (state[:n], state[n : 2 * n]))
        carried = stiffness + along.assemble(velocity, u=u, v=v)
        block = [[form.assemble(velocity, u=u, v=v) for form in row] for row in change]
        matrix = sparse.bmat([[sparse.bmat(block) + sparse.block_diag([carried] * 2), div.T], [div, None]]).tocsr()
        residual = np.r_[
            carried @ state[:n] + slopes[0].T @ state[2 * n :],
            carried @ state[n : 2 * n] + slopes[1].T @ state[2 * n :],
            div @ state[: 2 * n],
        ]
        step = skfem.solve(*skfem.condense(matrix, -residual, D=fixed))
        state += step
        if np.abs(step[: 2 * n]).max() < 1e-10:
            break
    centres = (np.arange(points) + 0.5) / points
    at = np.stack(np.meshgrid(centres, centres, indexing="ij")).reshape(2, -1)
    parts = {"u": (velocity, state[:n]), "v": (velocity, state[n : 2 * n]), "p": (pressure, state[2 * n :])}
    values = {name: (basis.probes(at) @ part).reshape(points, points) for name, (basis, part) in parts.items()}
    return xr.Dataset({k: (("x", "y"), a) for k, a in values.items()}, coords={"x": centres, "y": centres})
