"""The sine-Gordon equation: a breather.

u_tt = u_xx - sin(u) on t in (0, 10), x in (-10, 10), with the values of the breather at the ends and at t = 0, where
it is at rest. A breather of frequency w < 1 is u = 4 arctan(m / w cos(w t) / cosh(m x)) with m = sqrt(1 - w^2)
(Ablowitz, Kaup, Newell & Segur, Phys. Rev. Lett. 30, 1973); this is the reference, without error. With w = 0.5 it
swings between 4 pi / 3 and -4 pi / 3, where the equation is far from linear, and has done so for four fifths of a
period at t = 10.

Published: relative L2 errors of PINNs of 1e-2 to 1e-3 for solutions of this equation; none that we know for this
setting.
"""

import jax.numpy as jnp
import numpy as np

from sciml import PDE, Box, value

EXPECTED = {"relative_l2": 1e-6}
BUDGET = 120.0


def problem(w: float = 0.5, end: float = 10.0, half: float = 10.0) -> PDE:
    """w: frequency, between 0 and 1; end: last time; half: half of the domain's length."""
    if not 0 < w < 1:
        raise ValueError(f"the frequency of a breather lies between 0 and 1, got w={w}")
    m = np.sqrt(1 - w**2)

    def sine_gordon(u, u_tt, u_xx):
        return u_tt - u_xx + jnp.sin(u)

    def breather(t, x, xp=jnp):
        return 4 * xp.arctan(m / w * xp.cos(w * t) / xp.cosh(m * x))

    domain = Box(t=(0, end), x=(-half, half))
    return PDE(
        domain,
        sine_gordon,
        value(u=lambda x: breather(0.0, x), u_t=0.0, on=domain.at(t=0)),
        value(u=lambda t, x: breather(t, x), on=domain.boundary("x")),
        reference=lambda t, x: breather(t, x, np),
    )
