"""Helmholtz' equation on a square with a manufactured solution.

u_xx + u_yy + k^2 u = f on (-1, 1)^2 with u = 0 on the boundary, where f is chosen such that
u = sin(a pi x) sin(b pi y) solves the problem; with k = 1, a = 1, b = 4 the test of Wang, Teng & Perdikaris (SIAM J.
Sci. Comput. 43, 2021, section 4.1). The reference is that u, without error.
"""

import jax.numpy as jnp
import numpy as np

from sciml import PDE, Box, value

EXPECTED = {"relative_l2": 1e-8}
BUDGET = 60.0


def problem(k: float = 1.0, a: int = 1, b: int = 4) -> PDE:
    """k: wave number; a, b: half waves per unit length along x and y."""

    def helmholtz(u, u_xx, u_yy, x, y, k, a, b):
        wave = jnp.sin(a * jnp.pi * x) * jnp.sin(b * jnp.pi * y)
        return u_xx + u_yy + k**2 * u - (k**2 - (a**2 + b**2) * jnp.pi**2) * wave

    domain = Box(x=(-1, 1), y=(-1, 1))
    return PDE(
        domain,
        helmholtz,
        value(u=0.0, on=domain.boundary()),
        k=k,
        a=a,
        b=b,
        reference=lambda x, y: np.sin(a * np.pi * x) * np.sin(b * np.pi * y),
    )
