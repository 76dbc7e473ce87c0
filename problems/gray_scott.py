"""Two chemicals react: a spot becomes a ring that opens.

u_t = eps_1 (u_xx + u_yy) + b (1 - u) - u v^2 and v_t = eps_2 (v_xx + v_yy) - d v + u v^2 on t in (0, 200), x and y in
(-0.5, 0.5), with eps_1 = 1e-5, eps_2 = 5e-6, b = 0.04, d = 0.1 and Gaussian spots of width 0.08 at t = 0; the problem
GS of PINNacle (Hao et al., NeurIPS 2024), which takes (-1, 1) along x and y: nothing leaves the middle, `--half 1` has
the rest too. PINNacle states no condition at the sides, so that its problem has no unique solution; here x and y are
periodic, of which the middle feels nothing. The rest state u = 1, v = 0 is 0.20 of the norm off.

The ring is 0.03 thick.

The reference is a Fourier solution with exponential time stepping (ETDRK4). Half the step changes it by 5e-7 of its
norm, twice the points by 1e-5.
"""

import jax.numpy as jnp
import numpy as np
import xarray as xr

import sciml
from sciml import PDE, Box, periodic, value

EXPECTED = {"relative_l2": 1e-2}
BUDGET = 180.0


def problem(end: float = 200.0, half: float = 0.5, modes: int = 128) -> PDE:
    """end: last time; half: half the side of the square; modes: points of the reference along x and y."""

    def substrate(u, v, u_t, laplacian_u, eps_1, b):
        return u_t - eps_1 * laplacian_u - b * (1 - u) + u * v**2

    def activator(u, v, v_t, laplacian_v, eps_2, d):
        return v_t - eps_2 * laplacian_v + d * v - u * v**2

    def spot(x, y):
        return jnp.exp(-80 * ((x - 0.05) ** 2 + (y - 0.02) ** 2))

    constants = {"eps_1": 1e-5, "eps_2": 5e-6, "b": 0.04, "d": 0.1}
    domain = Box(t=(0, end), x=(-half, half), y=(-half, half))
    return PDE(
        domain,
        substrate,
        activator,
        value(u=lambda x, y: 1 - spot(-x, -y), v=spot, on=domain.at(t=0)),
        periodic("x", "y"),
        reference=fourier(spot, end, half, modes, **constants),
        **constants,
    )


def fourier(spot, end, half, modes, eps_1, eps_2, b, d, step: float = 0.5, frames: int = 40) -> xr.Dataset:
    """The solution at `frames + 1` times and at most 128 points along x and y."""
    x = half * (-1 + 2 * np.arange(modes) / modes)
    kept = max(1, modes // 128)
    with sciml.double_precision():
        k2 = sum(k**2 for k in sciml.data.wavenumbers((modes, modes), (2 * half, 2 * half)))
        size, steps = sciml.data.whole_steps(end / frames, step)

        def rates(state):
            u, v = jnp.fft.irfft2(state, (modes, modes))
            return jnp.fft.rfft2(jnp.stack([b - u * v**2, u * v**2]))

        plane = jnp.meshgrid(jnp.asarray(x), jnp.asarray(x), indexing="ij")
        values = sciml.data.etdrk4(
            np.stack([-b - eps_1 * k2, -d - eps_2 * k2]),
            rates,
            jnp.fft.rfft2(jnp.stack([1 - spot(-plane[0], -plane[1]), spot(*plane)])),
            step=size,
            steps=steps,
            frames=frames,
            observe=lambda state: jnp.fft.irfft2(state, (modes, modes))[:, ::kept, ::kept],
        )
        values = np.asarray(values)
    fields = {name: (("t", "x", "y"), values[:, i]) for i, name in enumerate("uv")}
    return xr.Dataset(fields, coords={"t": np.linspace(0, end, frames + 1), "x": x[::kept], "y": x[::kept]})
