"""The heat equation for all conductivities in a range at once.

u_t = k u_xx on t, x in (0, 1) for k in (0.1, 1), with u = sin(pi x) + sin(2 pi x) / 2 at t = 0 and u = 0 at both ends:
k is an axis of the domain beside t and x, so that the solution is a function of all three and a value of k costs an
evaluation. No derivative along k occurs; domain.boundary("x") leaves its faces alone. The reference is the exact
solution, sin(pi x) exp(-pi^2 k t) + sin(2 pi x) exp(-4 pi^2 k t) / 2, without error. At k = 1 the second wave decays
within 1 / 40 of the time, so that the family has a layer at t = 0 that is ten times thinner at one end of the range
than at the other.
"""

import jax.numpy as jnp
import numpy as np

from sciml import PDE, Box, value

EXPECTED = {"relative_l2": 2e-3}
BUDGET = 60.0


def problem(low: float = 0.1, high: float = 1.0) -> PDE:
    """low, high: the range of k."""

    def heat(u_t, u_xx, k):
        return u_t - k * u_xx

    def waves(t, x, k, xp):
        first, second = (xp.exp(-((n * np.pi) ** 2) * k * t) * xp.sin(n * np.pi * x) for n in (1, 2))
        return first + second / 2

    domain = Box(t=(0, 1), x=(0, 1), k=(low, high))
    return PDE(
        domain,
        heat,
        value(u=lambda x: waves(0.0, x, 0.0, jnp), on=domain.at(t=0)),
        value(u=0.0, on=domain.boundary("x")),
        reference=lambda t, x, k: waves(t, x, k, np),
    )
