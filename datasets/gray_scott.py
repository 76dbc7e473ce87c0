"""The Gray-Scott reaction of two chemicals: spots, stripes and waves.

u_t = du Laplace(u) - u v^2 + feed (1 - u), v_t = dv Laplace(v) + u v^2 - (feed + kill) v on (-1, 1)^2, periodic. The
initial values are u = 1, v = 0 but for Gaussian spots at random places.

- What: u(sample, time, x, y) and v at x = -1 + 2 i / resolution.
- Who: made here, free of rights; equations and parameters as in The Well (Ohana et al., NeurIPS 2024, after Pearson,
  Science 261, 1993), which has feed and kill of 0.014, 0.054 (gliders), 0.018, 0.051 (bubbles), 0.029, 0.057 (maze),
  0.030, 0.062 (spirals), 0.058, 0.065 (worms) and 0.098, 0.057 (spots), at 128 x 128, 1001 times ten units apart.
- Solver: Fourier, dealiased by the two-thirds rule, ETDRK4 in double precision: fourth order in time; uniform states
  follow the ordinary differential equation (tests).
- Limits: with these diffusivities fields at 128 points differ from those at 256 by 7 to 19 %, and of 20 spots none
  may survive; `--du 1.6e-4 --dv 8e-5 --spots 60` resolves the fronts and keeps some.
- Size: 20 samples of 101 times and 128 x 128 are 265 MB.
- Baselines (one-step VRMSE, The Well, table 2): FNO 0.1365, TFNO 0.3633, U-Net 0.2252, CNextU-Net 0.1761.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import sciml


def make(
    resolution: int = 128,
    samples: int = 20,
    feed: float = 0.029,
    kill: float = 0.057,
    du: float = 2e-5,
    dv: float = 1e-5,
    end: float = 1000.0,
    frames: int = 100,
    step: float = 1.0,
    spots: int = 20,
    seed: int = 0,
    dtype: str = "float32",
) -> sciml.data.Recipe:
    """resolution: points along each axis; feed, kill: rates; du, dv: diffusivities; end: final time; frames: stored
    times after the first; step: largest time step of the solver; spots: their number at the beginning.
    """
    if resolution < 4 or frames < 1 or spots < 1:
        raise ValueError(f"needs resolution >= 4, frames >= 1 and spots >= 1, got {resolution}, {frames} and {spots}")
    x = -1 + 2 * np.arange(resolution) / resolution
    constants = {"feed": feed, "kill": kill, "du": du, "dv": dv}

    def generate(start, stop):
        with sciml.double_precision():
            keys = sciml.data.sample_keys(seed, start, stop)
            state = jax.vmap(lambda key: initial_spots(key, jnp.asarray(x), spots))(keys)
            out = np.asarray(solve(state, tuple(constants.values()), end, frames, step))
            return {"u": out[:, :, 0], "v": out[:, :, 1]}

    dims = ("time", "x", "y")
    fields = {
        "u": (dims, {"long_name": "concentration of the substrate", "units": "1"}),
        "v": (dims, {"long_name": "concentration of the activator", "units": "1"}),
    }
    axis = (x, {"units": "1", "boundary": "periodic"})
    coords = {"time": (np.linspace(0, end, frames + 1), {"units": "1"}), "x": axis, "y": axis}
    return sciml.data.Recipe.on_grid(
        fields, coords, samples=samples, generate=generate, dtype=dtype, batch=4, parameters=constants
    )


def equations(
    feed: float = 0.029, kill: float = 0.057, du: float = 2e-5, dv: float = 1e-5, end: float = 1000.0, **settings
) -> sciml.PDE:
    """The constants of the data."""

    def substrate(u, v, u_t, laplacian_u, feed, du):
        return u_t - du * laplacian_u + u * v**2 - feed * (1 - u)

    def activator(u, v, v_t, laplacian_v, feed, kill, dv):
        return v_t - dv * laplacian_v - u * v**2 + (feed + kill) * v

    domain = sciml.Box(t=(0, end), x=(-1, 1), y=(-1, 1))
    constants = {"feed": feed, "kill": kill, "du": du, "dv": dv}
    return sciml.PDE(domain, substrate, activator, sciml.periodic("x", "y"), **constants)


def initial_spots(key: jax.Array, x: jax.Array, spots: int) -> jax.Array:
    """Both concentrations, (2, x, y), at the beginning of one sample."""
    places = jax.random.uniform(key, (2, spots, 1), float, -1.0, 1.0)
    # Distances on the torus.
    along = (x - places + 1) % 2 - 1
    near = jnp.exp(-((along / 0.05) ** 2))
    cover = 1 - jnp.prod(1 - near[0][:, :, None] * near[1][:, None, :], axis=0)
    return jnp.stack([1 - 0.5 * cover, 0.25 * cover])


@partial(jax.jit, static_argnames=("constants", "end", "frames", "step"))
def solve(
    initial: jax.Array, constants: tuple[float, float, float, float], end: float, frames: int, step: float
) -> jax.Array:
    """From initial concentrations (sample, 2, x, y) to (sample, frames + 1, 2, x, y); the constants are feed, kill, du
    and dv.
    """
    shape = initial.shape[-2:]
    feed, kill, du, dv = constants
    size, steps = sciml.data.whole_steps(end / frames, step)
    k2 = sum(k**2 for k in sciml.data.wavenumbers(shape, (2.0, 2.0)))
    kept = sciml.data.dealiasing(shape)
    linear = np.stack([-du * k2 - feed, -dv * k2 - feed - kill])

    def back(spectrum):
        return jnp.fft.irfftn(spectrum, shape, axes=(-2, -1))

    def nonlinear(state):
        fields = back(state * kept)
        reaction = fields[:, 0] * fields[:, 1] ** 2
        rates = jnp.stack([feed - reaction, reaction], axis=1)
        return kept * jnp.fft.rfftn(rates, axes=(-2, -1))

    state = jnp.fft.rfftn(initial, axes=(-2, -1))
    out = sciml.data.etdrk4(linear, nonlinear, state, step=size, steps=steps, frames=frames, observe=back)
    return jnp.moveaxis(out, 0, 1)
