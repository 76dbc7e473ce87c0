"""Kovasznay flow: the steady wake behind a grid.

The Navier-Stokes equations u u_x + v u_y + p_x = (u_xx + u_yy) / re, u v_x + v v_y + p_y = (v_xx + v_yy) / re, u_x +
v_y = 0 on (-0.5, 1) x (-0.5, 1.5), with u and v given on the boundary and, as p is otherwise determined up to a
constant, p at the corner (1, -0.5). The exact solution (Kovasznay, Math. Proc. Camb. Phil. Soc. 44, 1948) is the
reference, without error: u = 1 - exp(l x) cos(2 pi y), v = l / (2 pi) exp(l x) sin(2 pi y), p = (1 - exp(2 l x)) / 2
with l = re / 2 - sqrt(re^2 / 4 + 4 pi^2).

Published: relative L2 errors of the order of 1e-3 in this setting (NSFnets: Jin, Cai, Li & Karniadakis, J. Comput.
Phys. 426, 2021, section 4.1).
"""

import jax.numpy as jnp
import numpy as np

from sciml import PDE, Box, value

EXPECTED = {"relative_l2": 1e-6}
BUDGET = 60.0


def problem(re: float = 40.0) -> PDE:
    """re: Reynolds number."""

    def momentum_x(u, v, u_x, u_y, p_x, u_xx, u_yy, re):
        return u * u_x + v * u_y + p_x - (u_xx + u_yy) / re

    def momentum_y(u, v, v_x, v_y, p_y, v_xx, v_yy, re):
        return u * v_x + v * v_y + p_y - (v_xx + v_yy) / re

    def continuity(u_x, v_y):
        return u_x + v_y

    rate = re / 2 - np.sqrt(re**2 / 4 + 4 * np.pi**2)

    def exact(x, y, xp=np):
        wake = xp.exp(rate * x)
        return {
            "u": 1 - wake * xp.cos(2 * np.pi * y),
            "v": rate / (2 * np.pi) * wake * xp.sin(2 * np.pi * y),
            "p": 0.5 * (1 - wake**2),
        }

    domain = Box(x=(-0.5, 1), y=(-0.5, 1.5))
    return PDE(
        domain,
        momentum_x,
        momentum_y,
        continuity,
        value(u=lambda x, y: exact(x, y, jnp)["u"], v=lambda x, y: exact(x, y, jnp)["v"], on=domain.boundary()),
        value(p=lambda x, y: exact(x, y, jnp)["p"], on=domain.at(x=1, y=-0.5)),
        re=re,
        reference=exact,
    )
