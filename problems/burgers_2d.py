"""Burgers' equations in the plane: two velocities carry each other and steepen to layers, periodic.

u_t + u u_x + v u_y = nu (u_xx + u_yy), v_t + u v_x + v v_y = nu (v_xx + v_yy) on t in (0, 1), x and y in (0, 4),
periodic, with nu = 1e-3; the problem Burgers2d-C of PINNacle (Hao et al., NeurIPS 2024) with other initial values, so
that figures for that one are for another problem. PINNacle's are tables of random fields, of which it does not say how
they were made. Here they are sums of the longest waves along each axis, with random numbers from a seed that is fixed,
and so large that the steepest slope of u grows from 0.7 to 7.8.

The reference is a Fourier solution of 384 x 384 points with exponential time stepping (ETDRK4) and dealiased products.
512 x 512 points change it by 1.6e-6 of its norm (at most 7e-5, in the layers), half the time step by 3e-9.
"""

import jax.numpy as jnp
import numpy as np
import xarray as xr

import sciml
from sciml import PDE, Box, periodic, value

EXPECTED = {"relative_l2": 2e-3}
BUDGET = 180.0
LENGTH = 4.0


def problem(nu: float = 1e-3, speed: float = 0.7, field_seed: int = 0, modes: int = 384) -> PDE:
    """nu: viscosity; speed: the largest of u and of v at t = 0; field_seed: of the initial values; modes: points of the
    reference along each axis.
    """
    waves = random_waves(field_seed, speed)

    def momentum_x(u, v, u_t, u_x, u_y, u_xx, u_yy, nu):
        return u_t + u * u_x + v * u_y - nu * (u_xx + u_yy)

    def momentum_y(u, v, v_t, v_x, v_y, v_xx, v_yy, nu):
        return v_t + u * v_x + v * v_y - nu * (v_xx + v_yy)

    domain = Box(t=(0, 1), x=(0, LENGTH), y=(0, LENGTH))
    return PDE(
        domain,
        momentum_x,
        momentum_y,
        value(
            u=lambda x, y: initial(x, y, waves[0], jnp),
            v=lambda x, y: initial(x, y, waves[1], jnp),
            on=domain.at(t=0),
        ),
        periodic("x", "y"),
        nu=nu,
        reference=fourier(nu, waves, modes),
    )


def random_waves(seed: int, speed: float) -> np.ndarray:
    """For u and for v the coefficients of products of 1, cosine and sine along each axis, the mean zero."""
    waves = np.random.default_rng(seed).standard_normal((2, 3, 3))
    waves[:, 0, 0] = 0
    x, y = np.meshgrid(*[np.linspace(0, LENGTH, 201)] * 2, indexing="ij")
    return np.stack([w * speed / np.abs(initial(x, y, w, np)).max() for w in waves])


def initial(x, y, waves, xp):
    """A sum of products of 1, cosine and sine along each axis, with NumPy or JAX as `xp`."""
    along_x, along_y = (xp.stack([xp.ones_like(z), xp.cos(z), xp.sin(z)]) for z in (np.pi / 2 * x, np.pi / 2 * y))
    return xp.einsum("i...,ij,j...->...", along_x, waves, along_y)


def fourier(nu: float, waves: np.ndarray, modes: int, step: float = 1 / 120, frames: int = 20) -> xr.Dataset:
    """The solution at `frames + 1` times and up to 128 x 128 places."""
    line = LENGTH / modes * np.arange(modes)
    x, y = np.meshgrid(line, line, indexing="ij")
    with sciml.double_precision():
        k, m = sciml.data.wavenumbers((modes, modes), (LENGTH, LENGTH))
        kept = max(1, modes // 128)
        size, steps = sciml.data.whole_steps(1 / frames, step)

        def grid(w):
            return jnp.fft.irfft2(w, (modes, modes))

        def transport(w):
            u = grid(w)
            return -jnp.fft.rfft2(u[0] * grid(1j * k * w) + u[1] * grid(1j * m * w)) * dealiased

        dealiased = sciml.data.dealiasing((modes, modes))
        found = sciml.data.etdrk4(
            -nu * (k**2 + m**2),
            transport,
            jnp.fft.rfft2(jnp.stack([initial(x, y, w, np) for w in waves])),
            step=size,
            steps=steps,
            frames=frames,
            observe=lambda w: grid(w)[:, ::kept, ::kept],
        )
        found = np.asarray(found)
    coords = {"t": np.linspace(0, 1, frames + 1), "x": line[::kept], "y": line[::kept]}
    return xr.Dataset({f: (("t", "x", "y"), found[:, i]) for i, f in enumerate("uv")}, coords=coords)
