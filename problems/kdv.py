"""The Korteweg-de Vries equation: a wave that breaks up into solitons.

u_t + u u_x + mu^2 u_xxx = 0 on t in (0, 1), x in (-1, 1), periodic, with u = cos(pi x) at t = 0 and mu = 0.022; the
experiment in which Zabusky & Kruskal found solitons (Phys. Rev. Lett. 15, 1965), up to t = 1.

A relative L2 error of 2.2e-6 for self-scaled Broyden with residual-based attention is quoted without a source that we
could find (the optimiser: Kiyani, Shukla, Urban, Darbon & Karniadakis, arXiv:2501.16371, 2025).

The reference is a Fourier solution with exponential time stepping (ETDRK4). Half the time step changes it by 1.5e-10
of its norm, twice the modes by less than 1e-13.
"""

import jax.numpy as jnp
import numpy as np
import xarray as xr

import sciml
from sciml import PDE, Box, periodic, value

EXPECTED = {"relative_l2": 1e-5}
BUDGET = 180.0


def problem(mu: float = 0.022, end: float = 1.0, modes: int = 512) -> PDE:
    """mu: strength of dispersion; end: last time; modes: points of the reference along x."""

    def kdv(u, u_t, u_x, u_xxx, mu):
        return u_t + u * u_x + mu**2 * u_xxx

    domain = Box(t=(0, end), x=(-1, 1))
    return PDE(
        domain,
        kdv,
        value(u=lambda x: jnp.cos(jnp.pi * x), on=domain.at(t=0)),
        periodic("x"),
        mu=mu,
        reference=fourier(mu, end, modes),
    )


def fourier(mu: float, end: float, modes: int, step: float = 1e-4, frames: int = 200) -> xr.Dataset:
    """The solution at `frames + 1` times and all points along x."""
    x = -1 + 2 * np.arange(modes) / modes
    with sciml.double_precision():
        (k,) = sciml.data.wavenumbers((modes,), (2.0,))
        start = jnp.cos(jnp.pi * x)[None]
        u = sciml.data.etdrk4_burgers(start, 1j * mu**2 * k**3, k, end=end, frames=frames, step=step)
        values = np.asarray(u)[0]
    return xr.Dataset({"u": (("t", "x"), values)}, coords={"t": np.linspace(0, end, frames + 1), "x": x})
