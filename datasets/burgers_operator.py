"""Burgers' equation with periodic boundaries: initial values to the solution at t = 1.

u_t + u u_x = nu u_xx on (0, 1), periodic, from Gaussian random fields with covariance 625 (-Laplace + 25)^-2 and mean
zero.

- What: a(sample, x), the initial values, and u(sample, x) at `end`; with `frames` above 1 the trajectory
  u(sample, time, x) instead, its first frame the initial values. The grid is i / resolution.
- Who: the problem of Li, Kovachki et al., "Fourier neural operator for parametric partial differential equations",
  ICLR 2021, section 5.1; made here, free of rights. `resolution=8192` is that of the paper.
- Solver: Fourier, dealiased by the two-thirds rule, ETDRK4 in double precision; agrees with the Cole-Hopf solution
  to 1e-9 (test). For small nu choose the resolution so that the front, about nu wide, has a few points.
- Size: 1000 samples of 1024 points are 8 MB, made in seconds.
- Baselines (relative L2, 1000 training samples of the published files, from that paper): FNO 0.0149 at 256 points,
  0.0160 at 1024, 0.0139 at 8192; graph kernel network 0.0555 at 256 points.
"""

from functools import partial

import jax
import numpy as np

import sciml


def make(
    resolution: int = 1024,
    samples: int = 1000,
    nu: float = 0.1,
    end: float = 1.0,
    frames: int = 1,
    step: float = 1e-3,
    seed: int = 0,
    dtype: str = "float32",
) -> sciml.data.Recipe:
    """resolution: points; nu: viscosity; end: final time; frames: stored times after the first; step: largest time step
    of the solver.
    """
    if resolution < 4 or frames < 1 or nu < 0:
        raise ValueError(f"needs resolution >= 4, frames >= 1 and nu >= 0, got {resolution}, {frames} and {nu}")

    def generate(start, stop):
        with sciml.double_precision():
            keys = sciml.data.sample_keys(seed, start, stop)
            initial = sciml.data.periodic_gaussian(keys, (resolution,), lambda k2: 25.0 / (k2 + 25.0), modes=512)
            u = np.asarray(solve(initial, nu, end, frames, step))
        return {"u": u} if frames > 1 else {"a": u[:, 0], "u": u[:, 1]}

    x = (np.arange(resolution) / resolution, {"units": "1", "boundary": "periodic"})
    time = (np.linspace(0, end, frames + 1), {"units": "1"})
    velocity = {"long_name": "velocity", "units": "1"}
    if frames > 1:
        fields, coords = {"u": (("time", "x"), velocity)}, {"time": time, "x": x}
    else:
        initial = {"long_name": "initial velocity", "units": "1"}
        fields, coords = {"a": (("x",), initial), "u": (("x",), velocity | {"time": end})}, {"x": x}
    return sciml.data.Recipe.on_grid(
        fields, coords, samples=samples, generate=generate, dtype=dtype, parameters={"nu": nu}
    )


def equations(nu: float = 0.1, end: float = 1.0, **settings) -> sciml.PDE:
    """nu: viscosity. The trajectory is needed (frames above 1)."""

    def burgers(u, u_t, u_x, u_xx, nu):
        return u_t + u * u_x - nu * u_xx

    return sciml.PDE(sciml.Box(t=(0, end), x=(0, 1)), burgers, sciml.periodic("x"), nu=nu)


@partial(jax.jit, static_argnames=("nu", "end", "frames", "step"))
def solve(initial: jax.Array, nu: float, end: float, frames: int, step: float) -> jax.Array:
    """From initial values (sample, x) to (sample, frames + 1, x)."""
    (k,) = sciml.data.wavenumbers(initial.shape[1:], (1.0,))
    return sciml.data.etdrk4_burgers(initial, -nu * k**2, k, end=end, frames=frames, step=step)
