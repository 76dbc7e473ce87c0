"""Logistic growth from a Gaussian: a reaction without diffusion.

u_t = rho u (1 - u) on t in (0, 1), x in (0, 2 pi), with u = exp(-(x - pi)^2 / (2 (pi / 4)^2)) at t = 0; with rho = 5
a failure of PINNs that Krishnapriyan, Gholami, Zhe, Kirby & Mahoney describe (NeurIPS 2021, section 3.2): the zero
solution satisfies the equation too. Their condition that the ends have one value follows from the symmetry of the
initial values. It is not asked here that u is periodic: there is no derivative along x, and the slope of u jumps
between the ends, by 0.46 at t = 1.

Published: relative L2 errors of plain PINNs near 1, about 1e-2 when trained window after window in time (ibid.). The
reference is the exact solution u = a / (a + 1 - u(0, x)) with a = u(0, x) exp(rho t), without error.
"""

import jax.numpy as jnp
import numpy as np

from sciml import PDE, Box, value

EXPECTED = {"relative_l2": 1e-6}
BUDGET = 60.0


def problem(rho: float = 5.0, width: float = np.pi / 4) -> PDE:
    """rho: rate of growth; width: standard deviation of the Gaussian."""

    def reaction(u, u_t, rho):
        return u_t - rho * u * (1 - u)

    def initial(x):
        return jnp.exp(-((x - jnp.pi) ** 2) / (2 * width**2))

    def exact(t, x):
        start = np.exp(-((x - np.pi) ** 2) / (2 * width**2))
        grown = start * np.exp(rho * t)
        return grown / (grown + 1 - start)

    domain = Box(t=(0, 1), x=(0, 2 * np.pi))
    return PDE(domain, reaction, value(u=initial, on=domain.at(t=0)), rho=rho, reference=exact)
