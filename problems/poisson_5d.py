"""Poisson's equation in five dimensions.

laplace u = -(pi^2 / 4) sum_i sin(pi x_i / 2) on (0, 1)^5, with u given on the boundary; the problem PNd of PINNacle
(Hao et al., NeurIPS 2024), whose best method has a relative L2 error of 4.7e-4. The reference is the exact solution u
= sum_i sin(pi x_i / 2), without error.
"""

import jax.numpy as jnp
import numpy as np

from sciml import PDE, Box, value

EXPECTED = {"relative_l2": 1e-5}
BUDGET = 60.0


def problem() -> PDE:
    """No settings."""

    def waves(*x, xp=jnp):
        return sum(xp.sin(0.5 * np.pi * xi) for xi in x)

    def poisson(laplacian_u, x1, x2, x3, x4, x5):
        return laplacian_u + 0.25 * np.pi**2 * waves(x1, x2, x3, x4, x5)

    domain = Box(x1=(0, 1), x2=(0, 1), x3=(0, 1), x4=(0, 1), x5=(0, 1))
    return PDE(
        domain,
        poisson,
        value(u=lambda x1, x2, x3, x4, x5: waves(x1, x2, x3, x4, x5), on=domain.boundary()),
        reference=lambda **x: waves(*x.values(), xp=np),
    )
