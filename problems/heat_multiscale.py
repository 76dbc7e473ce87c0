"""Heat conduction that is slow along x, where the initial values oscillate, and fast along y.

u_t = u_xx / (500 pi)^2 + u_yy / pi^2 on t in (0, 5), x and y in (0, 1), with u = sin(20 pi x) sin(pi y) at t = 0 and
u = 0 on the sides; the problem Heat2d-MS of PINNacle (Hao et al., NeurIPS 2024), which measures errors against a finite
element solution. The reference is the exact solution, a product of exp(-(20^2 / 500^2 + 1) t) and the initial values,
without error.
"""

import jax.numpy as jnp
import numpy as np

from sciml import PDE, Box, value

EXPECTED = {"relative_l2": 1e-8}
BUDGET = 60.0


def problem(half_waves: int = 20) -> PDE:
    """half_waves: of the initial values, along x."""
    slow, fast = 1 / (500 * np.pi) ** 2, 1 / np.pi**2
    rate = slow * (half_waves * np.pi) ** 2 + fast * np.pi**2

    def heat(u_t, u_xx, u_yy, slow, fast):
        return u_t - slow * u_xx - fast * u_yy

    def reference(t, x, y):
        return np.exp(-rate * t) * np.sin(half_waves * np.pi * x) * np.sin(np.pi * y)

    domain = Box(t=(0, 5), x=(0, 1), y=(0, 1))
    return PDE(
        domain,
        heat,
        value(u=lambda x, y: jnp.sin(half_waves * jnp.pi * x) * jnp.sin(jnp.pi * y), on=domain.at(t=0)),
        value(u=0.0, on=domain.boundary("x", "y")),
        slow=slow,
        fast=fast,
        reference=reference,
    )
