"""Beltrami flow: an unsteady solution of the Navier-Stokes equations in three dimensions.

u_t + (u . grad) u + grad p = laplace u, div u = 0 for the velocity (u, v, w) on t in (0, 1), (x, y, z) in (-1, 1)^3,
with the velocity given at t = 0 and on the boundary and, as p is otherwise determined up to a function of time, p in
the centre. The exact solution (Ethier & Steinman, Int. J. Numer. Methods Fluids 19, 1994) is the reference, without
error; a and d are 1 as in NSFnets.

Published: relative L2 errors of the order of 1e-3 in this setting (NSFnets: Jin, Cai, Li & Karniadakis, J. Comput.
Phys. 426, 2021, section 4.3).
"""

import jax.numpy as jnp
import numpy as np

from sciml import PDE, Box, value

EXPECTED = {"relative_l2": 1e-6}
BUDGET = 120.0


def problem(a: float = 1.0, d: float = 1.0) -> PDE:
    """a, d: wave numbers of the solution."""

    def momentum_x(u, v, w, u_t, u_x, u_y, u_z, p_x, laplacian_u):
        return u_t + u * u_x + v * u_y + w * u_z + p_x - laplacian_u

    def momentum_y(u, v, w, v_t, v_x, v_y, v_z, p_y, laplacian_v):
        return v_t + u * v_x + v * v_y + w * v_z + p_y - laplacian_v

    def momentum_z(u, v, w, w_t, w_x, w_y, w_z, p_z, laplacian_w):
        return w_t + u * w_x + v * w_y + w * w_z + p_z - laplacian_w

    def continuity(u_x, v_y, w_z):
        return u_x + v_y + w_z

    def velocity(t, x, y, z, xp=jnp):
        turning = xp.exp(a * x) * xp.sin(a * y + d * z) + xp.exp(a * z) * xp.cos(a * x + d * y)
        return -a * turning * xp.exp(-(d**2) * t)

    def pressure(t, x, y, z, xp=jnp):
        def mixed(x, y, z):
            return xp.exp(2 * a * x) + 2 * xp.sin(a * x + d * y) * xp.cos(a * z + d * x) * xp.exp(a * (y + z))

        return -0.5 * a**2 * (mixed(x, y, z) + mixed(y, z, x) + mixed(z, x, y)) * xp.exp(-2 * d**2 * t)

    # The components follow from one another by turning the axes.
    fields = {
        "u": lambda t, x, y, z: velocity(t, x, y, z),
        "v": lambda t, x, y, z: velocity(t, y, z, x),
        "w": lambda t, x, y, z: velocity(t, z, x, y),
    }

    def exact(t, x, y, z):
        turned = {"u": (x, y, z), "v": (y, z, x), "w": (z, x, y)}
        return {f: velocity(t, *at, np) for f, at in turned.items()} | {"p": pressure(t, x, y, z, np)}

    domain = Box(t=(0, 1), x=(-1, 1), y=(-1, 1), z=(-1, 1))
    return PDE(
        domain,
        momentum_x,
        momentum_y,
        momentum_z,
        continuity,
        value(**fields, on=domain.at(t=0)),
        value(**fields, on=domain.boundary()),
        value(p=lambda t: pressure(t, 0.0, 0.0, 0.0), on=domain.at(x=0, y=0, z=0)),
        reference=exact,
    )
