"""Poisson's equation on a square with a manufactured solution.

u_xx + u_yy = f on (0, 1)^2 with u = 0 on the boundary. The right-hand side f is chosen such that
u = sin(a pi x) sin(b pi y) solves the problem for whole numbers a and b; this is the reference, without error.
"""

import jax.numpy as jnp
import numpy as np

from sciml import PDE, Box, value

EXPECTED = {"relative_l2": 1e-8}
BUDGET = 30.0


def problem(a: int = 1, b: int = 1) -> PDE:
    """a, b: half waves along x and y."""

    def poisson(u_xx, u_yy, x, y, a, b):
        wave = jnp.sin(a * jnp.pi * x) * jnp.sin(b * jnp.pi * y)
        return u_xx + u_yy + (a**2 + b**2) * jnp.pi**2 * wave

    domain = Box(x=(0, 1), y=(0, 1))
    return PDE(
        domain,
        poisson,
        value(u=0.0, on=domain.boundary()),
        a=a,
        b=b,
        reference=lambda x, y: np.sin(a * np.pi * x) * np.sin(b * np.pi * y),
    )
