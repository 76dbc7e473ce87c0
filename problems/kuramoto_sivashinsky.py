"""The Kuramoto-Sivashinsky equation: from a smooth wave to chaos.

u_t + a u u_x + b u_xx + c u_xxxx = 0 on t in (0, 1), x in (0, 2 pi), periodic, with u = cos(x) (1 + sin(x)) at t = 0
and a = 100 / 16, b = 100 / 16^2, c = 100 / 16^4; the chaotic setting of Wang, Sankaran & Perdikaris (CMAME 421, 2024)
and of jaxpi (`ks_chaotic`). It is also the problem KS of PINNacle (Hao et al., NeurIPS 2024), which states no
condition at the ends, so that its problem has no unique solution; its data are periodic.

Published relative L2 errors: 1.6e-1 (jaxpi: Wang, Sankaran, Wang & Perdikaris, arXiv:2308.08468, 2023); about 1 for
all methods of PINNacle.

The reference is a Fourier solution with exponential time stepping (ETDRK4). Half its time step changes it by 1e-7 of
its norm (3e-7 at t = 1), twice its modes by less than 1e-11. A small perturbation of the initial values grows four
hundredfold until t = 1, so a solution cannot be much better there than its beginning.
"""

import jax.numpy as jnp
import numpy as np
import xarray as xr

import sciml
from sciml import PDE, Box, periodic, value

EXPECTED = {"relative_l2": 1e-2}
BUDGET = 600.0


def problem(end: float = 1.0, modes: int = 512) -> PDE:
    """end: last time; modes: points of the reference along x."""

    def kuramoto_sivashinsky(u, u_t, u_x, u_xx, u_xxxx, a, b, c):
        return u_t + a * u * u_x + b * u_xx + c * u_xxxx

    a, b, c = 100 / 16, 100 / 16**2, 100 / 16**4
    domain = Box(t=(0, end), x=(0, 2 * np.pi))
    return PDE(
        domain,
        kuramoto_sivashinsky,
        value(u=initial, on=domain.at(t=0)),
        periodic("x"),
        a=a,
        b=b,
        c=c,
        reference=fourier(a, b, c, end, modes),
    )


def initial(x):
    """A wave with one crest higher than the other."""
    return jnp.cos(x) * (1 + jnp.sin(x))


def fourier(
    a: float, b: float, c: float, end: float, modes: int, step: float = 1e-4, frames: int = 200, start=initial
) -> xr.Dataset:
    """The solution at `frames + 1` times and all points along x."""
    x = 2 * np.pi * np.arange(modes) / modes
    with sciml.double_precision():
        (k,) = sciml.data.wavenumbers((modes,), (2 * np.pi,))
        # With a u in place of u this is Burgers' nonlinearity.
        scaled = a * jnp.asarray(start(x))[None]
        u = sciml.data.etdrk4_burgers(scaled, b * k**2 - c * k**4, k, end=end, frames=frames, step=step)
        values = np.asarray(u)[0] / a
    return xr.Dataset({"u": (("t", "x"), values)}, coords={"t": np.linspace(0, end, frames + 1), "x": x})
