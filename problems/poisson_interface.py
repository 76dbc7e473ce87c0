"""Poisson's equation in a square with a disc of another material.

-div(k grad u) = f on (-1, 1)^2, with k = 1 around and k = contrast in a disc of the given radius, off the centre.
Across its edge the potential u and the flux k u_n are continuous, and u_n is not. The solution is that of a cylinder in
a uniform field (Jackson, Classical Electrodynamics, section 4.4) plus that of a source f = -9 r, u = r^3 / k and a
constant, which LeVeque & Li (SIAM J. Numer. Anal. 31, 1994) take; it is the reference, without error, and gives the
values on the square.

PINNacle's Poisson2d-MS (Hao et al., NeurIPS 2024) has a coefficient that jumps too, but asks for no continuity of the
flux, so that a smooth network solves another problem than the one that the equation means.
"""

import jax.numpy as jnp
import numpy as np

from sciml import PDE, Ball, Box, Subdomains, jump, value

EXPECTED = {"relative_l2": 1e-4}
BUDGET = 60.0
CENTRE = (0.1, -0.05)


def problem(contrast: float = 100.0, radius: float = 0.5) -> PDE:
    """contrast: coefficient in the disc over that around it; radius: of the disc, below 0.9."""

    def poisson(u_xx, u_yy, x, y, k):
        return k * (u_xx + u_yy) - 9 * distance(x, y, jnp)

    def reference(x, y):
        return exact(x, y, contrast, radius, np)

    square, disc = Box(x=(-1, 1), y=(-1, 1)), Ball(x=CENTRE[0], y=CENTRE[1], radius=radius)
    return PDE(
        Subdomains(around=square - disc, disc=disc),
        poisson,
        value(u=lambda x, y: exact(x, y, contrast, radius, jnp), on=square.boundary()),
        jump(lambda u: u, on=disc.boundary()),
        jump(lambda k, u_n: k * u_n, on=disc.boundary()),
        k={"around": 1.0, "disc": contrast},
        reference=reference,
    )


def distance(x, y, xp):
    """From the centre of the disc, with NumPy or JAX as `xp`."""
    return xp.sqrt((x - CENTRE[0]) ** 2 + (y - CENTRE[1]) ** 2 + 1e-30)


def exact(x, y, contrast: float, radius: float, xp):
    """The field of a cylinder and the source's potential."""
    r = distance(x, y, xp)
    share = (contrast - 1) / (contrast + 1)
    inside = (1 - share) * (x - CENTRE[0]) + r**3 / contrast + (1 - 1 / contrast) * radius**3
    outside = (x - CENTRE[0]) * (1 - share * (radius / r) ** 2) + r**3
    return xp.where(r < radius, inside, outside)
