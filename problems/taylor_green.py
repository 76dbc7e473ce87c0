"""Taylor-Green vortices that decay.

The Navier-Stokes equations u_t + u u_x + v u_y + p_x = nu (u_xx + u_yy), v_t + u v_x + v v_y + p_y = nu (v_xx +
v_yy), u_x + v_y = 0 on t in (0, 1), x and y in (0, 2 pi), periodic, with u and v given at t = 0 and, as p is
otherwise determined up to a function of time, p at the point (0, 0). The exact solution (Taylor & Green, Proc. R.
Soc. A 158, 1937) is the reference, without error: u = -cos(x) sin(y) f, v = sin(x) cos(y) f, p = -(cos(2 x) + cos(2
y)) f^2 / 4 with f = exp(-2 nu t).

Published: relative L2 errors of PINNs of the order of 1e-3 for such vortices; none that we know for this setting.
"""

import jax.numpy as jnp
import numpy as np

from sciml import PDE, Box, periodic, value

EXPECTED = {"relative_l2": 1e-6}
BUDGET = 60.0


def problem(nu: float = 0.1, end: float = 1.0) -> PDE:
    """nu: viscosity; end: last time."""

    def momentum_x(u, v, u_t, u_x, u_y, p_x, u_xx, u_yy, nu):
        return u_t + u * u_x + v * u_y + p_x - nu * (u_xx + u_yy)

    def momentum_y(u, v, v_t, v_x, v_y, p_y, v_xx, v_yy, nu):
        return v_t + u * v_x + v * v_y + p_y - nu * (v_xx + v_yy)

    def continuity(u_x, v_y):
        return u_x + v_y

    def exact(t, x, y, xp=np):
        f = xp.exp(-2 * nu * t)
        return {
            "u": -xp.cos(x) * xp.sin(y) * f,
            "v": xp.sin(x) * xp.cos(y) * f,
            "p": -0.25 * (xp.cos(2 * x) + xp.cos(2 * y)) * f**2,
        }

    def start(field):
        return lambda x, y: exact(0.0, x, y, jnp)[field]

    domain = Box(t=(0, end), x=(0, 2 * np.pi), y=(0, 2 * np.pi))
    return PDE(
        domain,
        momentum_x,
        momentum_y,
        continuity,
        value(u=start("u"), v=start("v"), on=domain.at(t=0)),
        value(p=lambda t: exact(t, 0.0, 0.0, jnp)["p"], on=domain.at(x=0, y=0)),
        periodic("x", "y"),
        nu=nu,
        reference=exact,
    )
