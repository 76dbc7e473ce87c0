"""The heat equation on a rod with cold ends.

u_t = alpha u_xx on t in (0, 1), x in (0, 1), with u = sin(k pi x) at t = 0 and u = 0 at both ends. The reference is the
exact solution u = exp(-alpha k^2 pi^2 t) sin(k pi x), without error.
"""

import jax.numpy as jnp
import numpy as np

from sciml import PDE, Box, value

EXPECTED = {"relative_l2": 1e-8}
BUDGET = 30.0


def problem(alpha: float = 0.4, k: int = 1) -> PDE:
    """alpha: diffusivity; k: half waves along the rod."""

    def heat(u_t, u_xx, alpha):
        return u_t - alpha * u_xx

    domain = Box(t=(0, 1), x=(0, 1))
    return PDE(
        domain,
        heat,
        value(u=lambda x: jnp.sin(k * jnp.pi * x), on=domain.at(t=0)),
        value(u=0.0, on=domain.boundary("x")),
        alpha=alpha,
        reference=lambda t, x: np.exp(-alpha * (k * np.pi) ** 2 * t) * np.sin(k * np.pi * x),
    )
