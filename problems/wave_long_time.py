"""Standing waves for fifty periods, driven at the sides of a square.

u_tt = u_xx + a^2 u_yy - mass u on t in (0, 100), x and y in (0, 1), with a = sqrt(2) and mass = 2 pi^2. PINNacle's
Wave2d-MS (Hao et al., NeurIPS 2024) is this problem without the last term, with initial and boundary values from

    u = (sin(pi x) sinh(pi y) + sinh(3 pi x) sin(2 pi y)) cos(pi t),

of which it says that it is the solution; but u_tt - u_xx - 2 u_yy of it is -2 pi^2 u. With the term it is: a
Klein-Gordon equation. u_t = 0 at t = 0, which PINNacle does not state and which an equation of second order in time
needs. The reference is this exact solution, without error.
"""

import jax.numpy as jnp
import numpy as np

from sciml import PDE, Box, value

EXPECTED = {"relative_l2": 1e-8}
BUDGET = 120.0


def problem(end: float = 100.0) -> PDE:
    """end: last time."""

    def klein_gordon(u, u_tt, u_xx, u_yy, a, mass):
        return u_tt - u_xx - a**2 * u_yy + mass * u

    domain = Box(t=(0, end), x=(0, 1), y=(0, 1))
    return PDE(
        domain,
        klein_gordon,
        value(u=lambda t, x, y: exact(t, x, y, jnp), on=domain.boundary("x", "y")),
        value(u=lambda x, y: exact(0.0, x, y, jnp), u_t=0.0, on=domain.at(t=0)),
        a=np.sqrt(2),
        mass=2 * np.pi**2,
        reference=lambda t, x, y: exact(t, x, y, np),
    )


def exact(t, x, y, xp):
    """The solution, with NumPy or JAX as `xp`."""
    first = xp.sin(np.pi * x) * xp.sinh(np.pi * y)
    second = xp.sinh(3 * np.pi * x) * xp.sin(2 * np.pi * y)
    return (first + second) * xp.cos(np.pi * t)
