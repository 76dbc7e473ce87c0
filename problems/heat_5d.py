"""The heat equation in a ball of five dimensions.

u_t = laplace u / 5 + f on t in (0, 1), |x| < 1, with u = exp(|x|^2 / 2) at t = 0, the outward derivative exp(1 / 2 +
t) on the sphere and f = -|x|^2 exp(|x|^2 / 2 + t) / 5; the problem HNd of PINNacle (Hao et al., NeurIPS 2024), whose
best method has a relative L2 error of 1.2e-4. PINNacle gives u itself as the derivative on the sphere, which is right
because the radius is 1.

The reference is the exact solution u = exp(|x|^2 / 2 + t), without error, at the points of a grid that lie in the
ball.
"""

import jax.numpy as jnp
import numpy as np

from sciml import PDE, Ball, Box, flux, value

EXPECTED = {"relative_l2": 1e-5}
BUDGET = 60.0


def problem() -> PDE:
    """No settings."""

    def heat(u_t, laplacian_u, t, x1, x2, x3, x4, x5):
        square = x1**2 + x2**2 + x3**2 + x4**2 + x5**2
        return u_t - laplacian_u / 5 + square / 5 * jnp.exp(square / 2 + t)

    def initial(x1, x2, x3, x4, x5):
        return jnp.exp((x1**2 + x2**2 + x3**2 + x4**2 + x5**2) / 2)

    def exact(t, **x):
        return np.exp(sum(xi**2 for xi in x.values()) / 2 + t)

    ball = Ball(x1=0.0, x2=0.0, x3=0.0, x4=0.0, x5=0.0, radius=1.0)
    domain = Box(t=(0, 1)) * ball
    return PDE(
        domain,
        heat,
        value(u=initial, on=domain.at(t=0)),
        flux(u=lambda t: jnp.exp(0.5 + t), on=domain.boundary()),
        reference=exact,
    )
