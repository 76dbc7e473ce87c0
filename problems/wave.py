"""The wave equation on a string with fixed ends and two modes.

u_tt = c^2 u_xx on t in (0, 1), x in (0, 1), with u = sin(pi x) + sin(4 pi x) / 2 and u_t = 0 at t = 0, and u = 0 at
both ends; with c = 2 the test of Wang, Yu & Perdikaris (J. Comput. Phys. 449, 2022, section 4.3). The reference is
the exact solution u = sin(pi x) cos(c pi t) + sin(4 pi x) cos(4 c pi t) / 2, without error.
"""

import jax.numpy as jnp
import numpy as np

from sciml import PDE, Box, value

EXPECTED = {"relative_l2": 1e-8}
BUDGET = 60.0


def problem(c: float = 2.0) -> PDE:
    """c: speed of the waves."""

    def wave(u_tt, u_xx, c):
        return u_tt - c**2 * u_xx

    def initial(x):
        return jnp.sin(jnp.pi * x) + 0.5 * jnp.sin(4 * jnp.pi * x)

    def exact(t, x):
        slow = np.sin(np.pi * x) * np.cos(c * np.pi * t)
        return slow + 0.5 * np.sin(4 * np.pi * x) * np.cos(4 * c * np.pi * t)

    domain = Box(t=(0, 1), x=(0, 1))
    return PDE(
        domain,
        wave,
        value(u=initial, u_t=0.0, on=domain.at(t=0)),
        value(u=0.0, on=domain.boundary("x")),
        c=c,
        reference=exact,
    )
