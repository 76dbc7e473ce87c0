"""Heat with a source that grows, saturates and changes its sign, for a long time.

u_t = diffusivity (u_xx + u_yy) + 5 sin(u^2) (1 + 2 sin(pi t / 4)) sin(4 pi x) sin(2 pi y) on t in (0, 100), x and y in
(0, 1), with u = sin(4 pi x) sin(3 pi y) at t = 0, u = 0 on the sides and diffusivity = 0.001; the problem Heat2d-LT of
PINNacle (Hao et al., NeurIPS 2024). Where the source is positive u tends to sqrt(pi), with layers about 0.02 thick
between; every eight time units the source changes its sign twice, and u starts again from almost nothing. `solve` does
not resolve the layers: what it finds is no better than zero.

The reference is a solution by sines with exponential time stepping (ETDRK4); along x it has the period 1/2. Half the
time step changes it by 1e-6 of its norm, twice the points by 2e-5.
"""

import jax.numpy as jnp
import numpy as np
import xarray as xr

import sciml
from sciml import PDE, Box, value

EXPECTED = {"relative_l2": 0.1}
BUDGET = 60.0


def problem(end: float = 100.0, diffusivity: float = 0.001, modes: int = 256) -> PDE:
    """end: last time; modes: points of the reference along y, from 0 to 2."""

    def heat(u, u_t, u_xx, u_yy, t, x, y, diffusivity):
        return u_t - diffusivity * (u_xx + u_yy) - source(u, t, pattern(x, y))

    domain = Box(t=(0, end), x=(0, 1), y=(0, 1))
    return PDE(
        domain,
        heat,
        value(u=initial, on=domain.at(t=0)),
        value(u=0.0, on=domain.boundary("x", "y")),
        diffusivity=diffusivity,
        reference=sines(end, diffusivity, modes),
    )


def initial(x, y):
    return jnp.sin(4 * jnp.pi * x) * jnp.sin(3 * jnp.pi * y)


def pattern(x, y):
    """Where the source is, and its sign at first."""
    return jnp.sin(4 * jnp.pi * x) * jnp.sin(2 * jnp.pi * y)


def source(u, t, there):
    return 5 * jnp.sin(u**2) * (1 + 2 * jnp.sin(jnp.pi * t / 4)) * there


def sines(end: float, diffusivity: float, modes: int, step: float = 0.01, frames: int = 100) -> xr.Dataset:
    """The solution at `frames + 1` times, on the square. An odd function of x and y, continued to (0, 2)^2, is periodic
    there; this one repeats along x.
    """
    shape, lengths = (modes // 4, modes), (0.5, 2.0)
    x, y = (length * np.arange(n) / n for n, length in zip(shape, lengths))
    with sciml.double_precision():
        k2 = sum(k**2 for k in sciml.data.wavenumbers(shape, lengths))
        size, steps = sciml.data.whole_steps(end / frames, step)
        plane = jnp.meshgrid(jnp.asarray(x), jnp.asarray(y), indexing="ij")
        there = pattern(*plane)

        def rates(state):
            # The second part of the state is the time.
            u, t = jnp.fft.irfft2(state[0], shape), state[1, 0, 0].real
            return jnp.stack([jnp.fft.rfft2(source(u, t, there)), jnp.ones_like(state[1])])

        first = jnp.fft.rfft2(initial(*plane))
        values = sciml.data.etdrk4(
            np.stack([-diffusivity * k2, 0 * k2]),
            rates,
            jnp.stack([first, jnp.zeros_like(first)]),
            step=size,
            steps=steps,
            frames=frames,
            observe=lambda state: jnp.fft.irfft2(state[0], shape)[:, : modes // 2],
        )
        half = np.asarray(values)
    whole = np.concatenate([half, half, half[:, :1]], axis=1)
    whole = np.concatenate([whole, 0 * whole[:, :, :1]], axis=2)
    coords = {"t": np.linspace(0, end, frames + 1), "x": np.linspace(0, 1, whole.shape[1])}
    return xr.Dataset({"u": (("t", "x", "y"), whole)}, coords=coords | {"y": np.linspace(0, 1, whole.shape[2])})
