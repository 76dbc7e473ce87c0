"""Convection around a circle, fast enough for eight turns.

u_t + beta u_x = 0 on t in (0, 1), x in (0, 2 pi), periodic, with u = sin(x) at t = 0; with beta = 30 and more the
first failure of PINNs that Krishnapriyan, Gholami, Zhe, Kirby & Mahoney describe (NeurIPS 2021, section 3.1).

Published: relative L2 errors of plain PINNs near 1 (ibid.); 6.9e-4 for beta = 100 with a period in time that is
trained (jaxpi's example of advection: Wang, Sankaran, Wang & Perdikaris, arXiv:2308.08468, 2023). The reference is
the exact solution u = sin(x - beta t), without error.
"""

import jax.numpy as jnp
import numpy as np

from sciml import PDE, Box, periodic, value

EXPECTED = {"relative_l2": 1e-8}
BUDGET = 20.0


def problem(beta: float = 50.0) -> PDE:
    """beta: speed, in radians per unit of time."""

    def convection(u_t, u_x, beta):
        return u_t + beta * u_x

    domain = Box(t=(0, 1), x=(0, 2 * np.pi))
    return PDE(
        domain,
        convection,
        value(u=lambda x: jnp.sin(x), on=domain.at(t=0)),
        periodic("x"),
        beta=beta,
        reference=lambda t, x: np.sin(x - beta * t),
    )
