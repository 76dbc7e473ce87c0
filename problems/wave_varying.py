"""Waves in a square whose speed varies from place to place.

u_tt = c(x, y) (u_xx + u_yy) on t in (0, 5), x and y in (-1, 1), with u_n = 0 on the sides, and a Gaussian about
(-0.5, 0) of deviation 0.3 and u_t = 0 at t = 0; the problem Wave2d-CG of PINNacle (Hao et al., NeurIPS 2024) with two
changes, so that figures for that one are for another problem:

- PINNacle's c is a table of a random field on 256 x 256 points with linear interpolation, whose slope jumps. Here log c
  is a sum of cosines of up to three half waves along each axis, with random numbers from a seed that is fixed; c is
  smooth, from 0.42 to 2.1.
- PINNacle's Gaussian has the slope 1.39 at the side x = -1, two thirds of its largest, where u_n = 0 is asked for: its
  solution has a kink that starts there and travels along with the wave. Here the Gaussian is added to its mirror images
  in the sides, so that it has no slope there.

The reference is a solution by collocation of 65 x 65 cosines. As c and u are even about the sides, it converges
exponentially: 33 x 33 cosines are 8e-9 of its norm off 129 x 129, and 65 x 65 are 8e-14 off those, with time steps of
half the size. Runge-Kutta steps of SciPy agree with it to their tolerance (8e-11).
"""

import jax.numpy as jnp
import numpy as np
import xarray as xr

import sciml
from sciml import PDE, Box, flux, value

EXPECTED = {"relative_l2": 1e-3}
BUDGET = 300.0
CENTRE, DEVIATION = (-0.5, 0.0), 0.3


def problem(contrast: float = 5.0, field_seed: int = 0, cells: int = 64) -> PDE:
    """contrast: largest c over the least; field_seed: of c; cells: of the reference, along each axis."""
    waves = random_waves(field_seed, contrast)

    def wave(u_tt, u_xx, u_yy, x, y):
        return u_tt - coefficient(x, y, waves, jnp) * (u_xx + u_yy)

    domain = Box(t=(0, 5), x=(-1, 1), y=(-1, 1))
    return PDE(
        domain,
        wave,
        value(u=lambda x, y: initial(x, y, jnp), u_t=0.0, on=domain.at(t=0)),
        flux(u=0.0, on=domain.boundary("x", "y")),
        reference=cosines(waves, cells),
    )


def random_waves(seed: int, contrast: float, most: int = 3) -> np.ndarray:
    """The coefficients of log c in cosines of up to `most` half waves along each axis: Gaussian, of deviations that
    fall as the square of the wavenumber, scaled to the contrast.
    """
    m = np.arange(most + 1)
    squared = m[:, None] ** 2 + m**2
    waves = np.random.default_rng(seed).standard_normal(squared.shape) * (squared > 0) / np.maximum(squared, 1)
    x, y = np.meshgrid(*[np.linspace(-1, 1, 201)] * 2)
    return waves * np.log(contrast) / np.ptp(np.log(coefficient(x, y, waves, np)))


def coefficient(x, y, waves, xp):
    """The square of the speed, positive, with NumPy or JAX as `xp`."""
    m = np.pi / 2 * np.arange(len(waves))
    along_x, along_y = (xp.cos(m * (z[..., None] + 1)) for z in (x, y))
    return xp.exp(xp.sum((along_x @ waves) * along_y, axis=-1))


def initial(x, y, xp):
    """The Gaussian and its mirror images in the sides; those left out are below 1e-16 of it."""

    def mirrored(z, centre):
        images = [4 * k + c for k in (-1, 0, 1) for c in (centre, 2 - centre)]
        return sum(xp.exp(-((z - c) ** 2) / (2 * DEVIATION**2)) for c in images)

    return mirrored(x, CENTRE[0]) * mirrored(y, CENTRE[1])


def cosines(waves: np.ndarray, cells: int, frames: int = 50, terms: int = 24, end: float = 5.0) -> xr.Dataset:
    """The solution at `frames + 1` times and up to 65 x 65 places, by collocation at `cells + 1` points per axis.

    With A u = -c laplacian(u), u(t) = cos(t sqrt(A)) u(0), so that u(t + h) = 2 cos(h sqrt(A)) u(t) - u(t - h), where
    the cosine is its power series in A. Steps h are as small as it needs to converge without large terms.
    """
    from scipy.fft import dctn, idctn

    x = np.linspace(-1, 1, cells + 1)
    c = coefficient(*np.meshgrid(x, x, indexing="ij"), waves, np)
    m = (np.pi / 2 * np.arange(cells + 1)) ** 2
    laplacian = -(m[:, None] + m)
    h, steps = sciml.data.whole_steps(end / frames, 10 / np.sqrt(-c.max() * laplacian.min()))

    def cosine(u):
        total = term = u
        for k in range(1, terms + 1):
            term = h**2 / (2 * k * (2 * k - 1)) * c * idctn(laplacian * dctn(term, type=1), type=1)
            total = total + term
        return total

    now = initial(*np.meshgrid(x, x, indexing="ij"), np)
    before, values = cosine(now), [now]
    for _ in range(frames):
        for _ in range(steps):
            before, now = now, 2 * cosine(now) - before
        values.append(now)
    t, kept = np.linspace(0, end, frames + 1), max(1, cells // 64)
    u = np.stack(values)[:, ::kept, ::kept]
    return xr.Dataset({"u": (("t", "x", "y"), u)}, coords={"t": t, "x": x[::kept], "y": x[::kept]})
