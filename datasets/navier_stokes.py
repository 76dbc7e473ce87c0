"""Two-dimensional incompressible flow on the torus, in vorticity, with a constant forcing.

w_t + u w_x + v w_y = nu Laplace(w) + f on (0, 1)^2, periodic, where w = v_x - u_y, u_x + v_y = 0 and
f = 0.1 (sin(2 pi (x + y)) + cos(2 pi (x + y))). The initial vorticity is a Gaussian random field with covariance
2 * 7^3 (-Laplace + 49)^-2.5 and mean zero.

- What: w(sample, time, x, y) and, unless `velocity=False`, u and v, at x = i / resolution; the first frame is the
  initial vorticity.
- Who: the problem of Li, Kovachki et al., "Fourier neural operator for parametric partial differential equations",
  ICLR 2021, section 5.3, made here, free of rights. The paper prints the covariance 7^(3/2) (-Laplace + 49)^-2.5; the
  one above is that of its code, from which the published files come. Its settings are `nu=1e-3, end=50, frames=50`,
  `nu=1e-4, end=30, frames=30` and `nu=1e-5, end=20, frames=20`, solved at 256 x 256 and stored at 64 x 64, which is
  `resolution=64, refine=4`.
- Solver: Fourier, dealiased by the two-thirds rule, ETDRK4 in double precision: fourth order in time, agrees with
  Taylor-Green vortices to rounding (tests). `refine` solves on a finer grid and keeps every so many points.
- Size: 100 samples of 51 times and 64 x 64 with velocity are 251 MB.
- Baselines (relative L2, 1000 training samples, times above 10, from that paper): nu = 1e-3 FNO-3D 0.0086, FNO-2D
  0.0128, U-Net 0.0245; nu = 1e-4 FNO-2D 0.1559; nu = 1e-5 FNO-2D 0.1556.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import sciml


def make(
    resolution: int = 64,
    samples: int = 100,
    nu: float = 1e-3,
    end: float = 50.0,
    frames: int = 50,
    step: float = 0.02,
    refine: int = 1,
    velocity: bool = True,
    seed: int = 0,
    dtype: str = "float32",
) -> sciml.data.Recipe:
    """resolution: points along each axis; nu: viscosity; end: final time; frames: stored times after the first; step:
    largest time step of the solver at 64 points, in proportion smaller on finer grids; refine: how many times finer the
    solver's grid is; velocity: whether u and v are stored.
    """
    if resolution < 4 or frames < 1 or refine < 1 or nu < 0:
        raise ValueError(
            f"needs resolution >= 4, frames >= 1, refine >= 1 and nu >= 0, got {resolution}, {frames}, {refine}, {nu}"
        )
    points = resolution * refine

    def generate(start, stop):
        with sciml.double_precision():
            keys = sciml.data.sample_keys(seed, start, stop)
            deviation = np.sqrt(2.0) * 7.0**1.5
            initial = sciml.data.periodic_gaussian(keys, (points, points), lambda k2: deviation * (k2 + 49.0) ** -1.25)
            forcing = standard_forcing(points)
            found = solve(initial, forcing, nu, end, frames, step * min(1.0, 64 / points), refine)
            return {name: np.asarray(values) for name, values in zip("wuv", found)}

    names = {"w": "vorticity", "u": "velocity along x", "v": "velocity along y"}
    fields = {
        name: (("time", "x", "y"), {"long_name": text, "units": "1"})
        for name, text in names.items()
        if velocity or name == "w"
    }
    axis = (np.arange(resolution) / resolution, {"units": "1", "boundary": "periodic"})
    coords = {"time": (np.linspace(0, end, frames + 1), {"units": "1"}), "x": axis, "y": axis}
    return sciml.data.Recipe.on_grid(
        fields, coords, samples=samples, generate=generate, dtype=dtype, batch=8, parameters={"nu": nu}
    )


def equations(nu: float = 1e-3, end: float = 50.0, **settings) -> sciml.PDE:
    """nu: viscosity. The velocity is needed."""

    def transport(w_t, u, v, w_x, w_y, laplacian_w, nu, x, y):
        phase = 2 * jnp.pi * (x + y)
        return w_t + u * w_x + v * w_y - nu * laplacian_w - 0.1 * (jnp.sin(phase) + jnp.cos(phase))

    def vorticity(w, v_x, u_y):
        return w - v_x + u_y

    def continuity(u_x, v_y):
        return u_x + v_y

    domain = sciml.Box(t=(0, end), x=(0, 1), y=(0, 1))
    return sciml.PDE(domain, transport, vorticity, continuity, sciml.periodic("x", "y"), nu=nu)


def standard_forcing(points: int) -> jax.Array:
    """The forcing on the grid."""
    x = jnp.arange(points) / points
    phase = 2 * jnp.pi * (x[:, None] + x[None, :])
    return 0.1 * (jnp.sin(phase) + jnp.cos(phase))


@partial(jax.jit, static_argnames=("nu", "end", "frames", "step", "every"))
def solve(
    initial: jax.Array, forcing: jax.Array, nu: float, end: float, frames: int, step: float, every: int = 1
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Vorticity and velocity (sample, frames + 1, x, y), every so many points, from the vorticity (sample, x, y)."""
    shape = initial.shape[1:]
    size, steps = sciml.data.whole_steps(end / frames, step)
    kx, ky = sciml.data.wavenumbers(shape, (1.0, 1.0))
    k2 = kx**2 + ky**2
    kept = sciml.data.dealiasing(shape)

    def back(spectrum):
        return jnp.fft.irfftn(spectrum, shape, axes=(-2, -1))

    def velocity(w):
        stream = w / np.where(k2 > 0, k2, 1.0)
        return back(1j * ky * stream), back(-1j * kx * stream)

    def nonlinear(w):
        u, v = velocity(w * kept)
        transport = u * back(1j * kx * kept * w) + v * back(1j * ky * kept * w)
        return source - kept * jnp.fft.rfftn(transport, axes=(-2, -1))

    def observe(w):
        return tuple(f[..., ::every, ::every] for f in (back(w), *velocity(w)))

    source = jnp.fft.rfftn(forcing)
    state = jnp.fft.rfftn(initial, axes=(-2, -1))
    out = sciml.data.etdrk4(-nu * k2, nonlinear, state, step=size, steps=steps, frames=frames, observe=observe)
    w, u, v = (jnp.moveaxis(f, 0, 1) for f in out)
    return w, u, v
