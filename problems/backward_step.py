"""Steady flow over a backward-facing step.

The Navier-Stokes equations u u_x + v u_y + p_x = nu (u_xx + u_yy), u v_x + v v_y + p_y = nu (v_xx + v_yy), u_x + v_y =
0 on (0, 4) x (0, 2) without the step (0, 2) x (1, 2), with u = 4 y (1 - y), v = 0 at the inlet x = 0 and u = v = 0 on
the walls; with nu = 1 / 100 the problem NS2d-CG of PINNacle (Hao et al., NeurIPS 2024). At the outlet x = 4 PINNacle
asks for p = 0 and nothing else, which leaves the flow undetermined; here it is the condition of a free end, p = nu u_x
and v_x = 0, which finite elements have by nature (Heywood, Rannacher & Turek, Int. J. Numer. Methods Fluids 22, 1996).
The flow behind the step turns back, up to the outlet, where u is down to -0.09. At the corner (2, 1) p and the
gradient of the velocity grow as r^(-0.46).

The reference is a finite element solution (scikit-fem, Taylor-Hood elements of orders 4 and 3 on triangles that halve
towards the corner), by Newton's method, at the centres of cells of 1 / 24. It is 2e-5 of its norm (u: 1.5e-5 of its
own, v and p: 1.4e-4) off one with cells of three quarters the size that are halved four times more, which is its error.
"""

import numpy as np
import xarray as xr

from sciml import PDE, Box, condition, value

EXPECTED = {"relative_l2": 1e-1}
BUDGET = 300.0


def problem(nu: float = 0.01, cells: int = 6) -> PDE:
    """nu: viscosity; cells: of the reference, per unit of length, before halving."""

    def momentum_x(u, v, u_x, u_y, p_x, u_xx, u_yy, nu):
        return u * u_x + v * u_y + p_x - nu * (u_xx + u_yy)

    def momentum_y(u, v, v_x, v_y, p_y, v_xx, v_yy, nu):
        return u * v_x + v * v_y + p_y - nu * (v_xx + v_yy)

    def continuity(u_x, v_y):
        return u_x + v_y

    def outlet_x(p, u_x, nu):
        return p - nu * u_x

    def outlet_y(v_x, nu):
        return nu * v_x

    channel, room = Box(x=(0, 2), y=(0, 1)), Box(x=(2, 4), y=(0, 2))
    step = Box(x=(0, 2), y=(1, 2))
    floors = [channel.at(y=0), channel.at(y=1), step.at(x=2), room.at(y=0), room.at(y=2)]
    return PDE(
        channel | room,
        momentum_x,
        momentum_y,
        continuity,
        value(u=lambda y: 4 * y * (1 - y), v=0.0, on=channel.at(x=0)),
        *[value(u=0.0, v=0.0, on=wall) for wall in floors],
        condition(outlet_x, on=room.at(x=4)),
        condition(outlet_y, on=room.at(x=4)),
        nu=nu,
        reference=finite_elements(nu, cells),
    )


def finite_elements(nu: float, cells: int, halved: int = 8, points: int = 24) -> xr.Dataset:
    """The solution at the centres of `points` cells per unit of length, NaN in the step; triangles at the corner are
    halved so many times.
    """
    import scipy.sparse as sparse
    import skfem
    from skfem.models.poisson import laplace

    mesh = skfem.MeshTri.init_tensor(np.linspace(0, 4, 4 * cells + 1), np.linspace(0, 2, 2 * cells + 1))
    mesh = mesh.remove_elements(mesh.elements_satisfying(lambda x: (x[0] < 2) & (x[1] > 1)))
    for _ in range(halved):
        corner = np.flatnonzero(np.isclose(mesh.p.T, (2, 1)).all(axis=1))
        mesh = mesh.refined(np.flatnonzero(np.isin(mesh.t, corner).any(axis=0)))
    velocity = skfem.Basis(mesh, skfem.ElementTriP4(), intorder=8)
    pressure = velocity.with_element(skfem.ElementTriP3())
    stiffness = nu * laplace.assemble(velocity)
    div = sparse.hstack(
        [skfem.BilinearForm(lambda u, q, w, i=i: -u.grad[i] * q).assemble(velocity, pressure) for i in range(2)]
    )
    along = skfem.BilinearForm(lambda u, v, w: (w.u * u.grad[0] + w.v * u.grad[1]) * v)
    change = [[skfem.BilinearForm(lambda u, v, w, c=c, i=i: u * w[c].grad[i] * v) for i in range(2)] for c in "uv"]

    n = velocity.N
    walls = velocity.get_dofs(mesh.facets_satisfying(lambda x: x[0] < 4, boundaries_only=True)).all()
    x, y = velocity.doflocs[:, walls]
    state, fixed = np.zeros(2 * n + pressure.N), np.r_[walls, n + walls]
    state[walls] = np.where(x == 0, 4 * y * (1 - y), 0.0)
    for _ in range(20):
        flow = dict(zip("uv", (velocity.interpolate(part) for part in np.split(state[: 2 * n], 2))))
        carried = sparse.block_diag([stiffness + along.assemble(velocity, **flow)] * 2)
        turned = sparse.bmat([[form.assemble(velocity, **flow) for form in row] for row in change])
        residual = sparse.bmat([[carried, div.T], [div, None]]) @ state
        matrix = sparse.bmat([[carried + turned, div.T], [div, None]]).tocsr()
        change_of_state = skfem.solve(*skfem.condense(matrix, -residual, D=fixed))
        state += change_of_state
        if np.abs(change_of_state[: 2 * n]).max() < 1e-10:
            break
    x, y = ((np.arange(count * points) + 0.5) / points for count in (4, 2))
    at = np.stack(np.meshgrid(x, y, indexing="ij")).reshape(2, -1)
    open_ = (at[0] > 2) | (at[1] < 1)
    values = np.full((3, at.shape[1]), np.nan)
    bases = (velocity, velocity, pressure)
    for row, basis, part in zip(values, bases, np.split(state, [n, 2 * n])):
        row[open_] = basis.probes(at[:, open_]) @ part
    shape = (len(x), len(y))
    return xr.Dataset({k: (("x", "y"), a.reshape(shape)) for k, a in zip("uvp", values)}, coords={"x": x, "y": y})
