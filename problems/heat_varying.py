"""Heat conduction with a coefficient that varies from place to place, driven by a source that oscillates.

u_t = a(x, y) (u_xx + u_yy) + strength sin(pi x) sin(5 pi y) sin(pi t) on t in (0, 5), x and y in (0, 1), with u = 0 at
t = 0 and on the sides and strength = 200; the problem Heat2d-VC of PINNacle (Hao et al., NeurIPS 2024) with another
coefficient, so that figures for that one are for another problem. PINNacle's is a table of a random field on 256 x 256
points, of which it takes the nearest, so that a jumps from cell to cell: u_xx + u_yy jumps with it, and a network is
smooth. Here log a is a sum of cosines of up to three half waves along each axis, with random numbers from a seed that
is fixed; a is smooth, from 0.42 to 2.1.

Where a = 1 the wave of the source decays as exp(-26 pi^2 t), so that u follows the source after t = 0.01 and does not
before: functions that are smooth on the scale of all time miss that.

The reference is a solution by collocation of 31 x 31 sines, exact in time. As a is even about the sides and u is odd,
it converges exponentially: 14 x 14 sines are 1.2e-8 of its norm off 29 x 29, and these 6e-14 off 59 x 59. Runge-Kutta
steps of SciPy agree with it to their tolerance (2e-10).
"""

import jax.numpy as jnp
import numpy as np
import xarray as xr

from sciml import PDE, Box, value

EXPECTED = {"relative_l2": 1e-4}
BUDGET = 180.0


def problem(contrast: float = 5.0, strength: float = 200.0, field_seed: int = 0, cells: int = 32) -> PDE:
    """contrast: largest a over the least; strength: of the source; field_seed: of a; cells: of the reference, along
    each axis.
    """
    waves = random_waves(field_seed, contrast)

    def heat(u_t, u_xx, u_yy, t, x, y, strength):
        source = jnp.sin(jnp.pi * x) * jnp.sin(5 * jnp.pi * y) * jnp.sin(jnp.pi * t)
        return u_t - coefficient(x, y, waves, jnp) * (u_xx + u_yy) - strength * source

    domain = Box(t=(0, 5), x=(0, 1), y=(0, 1))
    return PDE(
        domain,
        heat,
        value(u=0.0, on=domain.at(t=0)),
        value(u=0.0, on=domain.boundary("x", "y")),
        strength=strength,
        reference=sines(waves, strength, cells),
    )


def random_waves(seed: int, contrast: float, most: int = 3) -> np.ndarray:
    """The coefficients of log a in cosines of up to `most` half waves along each axis: Gaussian, of deviations that
    fall as the square of the wavenumber, scaled to the contrast.
    """
    m = np.arange(most + 1)
    squared = m[:, None] ** 2 + m**2
    waves = np.random.default_rng(seed).standard_normal(squared.shape) * (squared > 0) / np.maximum(squared, 1)
    x, y = np.meshgrid(*[np.linspace(0, 1, 201)] * 2)
    return waves * np.log(contrast) / np.ptp(np.log(coefficient(x, y, waves, np)))


def coefficient(x, y, waves, xp):
    """The conductivity, positive, with NumPy or JAX as `xp`."""
    m = np.pi * np.arange(len(waves))
    along_x, along_y = (xp.cos(m * z[..., None]) for z in (x, y))
    return xp.exp(xp.sum((along_x @ waves) * along_y, axis=-1))


def sines(waves: np.ndarray, strength: float, cells: int, frames: int = 50, end: float = 5.0) -> xr.Dataset:
    """The solution at `frames + 1` times, by collocation of sines, exact in time.

    With A u = a laplacian(u), of which B = a^(1/2) laplacian(a^(1/2) .) has the eigenvalues and is symmetric, the
    solution is Im(w exp(i pi t)) where i pi w - A w is the source, less what of it is not zero at t = 0, which decays.
    """
    z = np.arange(1, cells) / cells
    x, y = np.meshgrid(z, z, indexing="ij")
    root = np.sqrt(coefficient(x, y, waves, np)).ravel()
    basis = np.sqrt(2 / cells) * np.sin(np.pi * np.outer(np.arange(1, cells), z))
    second, unit = -(basis.T * (np.pi * np.arange(1, cells)) ** 2) @ basis, np.eye(cells - 1)
    rates, modes = np.linalg.eigh(root[:, None] * (np.kron(second, unit) + np.kron(unit, second)) * root)
    source = modes.T @ ((strength * np.sin(np.pi * x) * np.sin(5 * np.pi * y)).ravel() / root)
    t = np.linspace(0, end, frames + 1)[:, None]
    response = source / (1j * np.pi - rates)
    amplitudes = np.imag(response * np.exp(1j * np.pi * t)) - np.imag(response) * np.exp(rates * t)
    values = np.zeros((frames + 1, cells + 1, cells + 1))
    values[:, 1:-1, 1:-1] = (amplitudes @ modes.T * root).reshape(-1, cells - 1, cells - 1)
    line = np.linspace(0, 1, cells + 1)
    return xr.Dataset({"u": (("t", "x", "y"), values)}, coords={"t": t[:, 0], "x": line, "y": line})
