"""The Kuramoto-Sivashinsky equation: chaos in one dimension.

u_t + u u_x + u_xx + u_xxxx = 0 on (0, length), periodic. The initial values are sums of sines of random amplitude,
phase and wavenumber 1 to 3; the first `skip` time units, in which the attractor is reached, are not stored.

- What: u(sample, time, x) at x = i length / resolution.
- Who: made here, free of rights; length 64 and similar initial values are those of Brandstetter, Worrall & Welling,
  "Message passing neural PDE solvers", ICLR 2022, and their Lie point symmetry paper.
- Solver: Fourier, dealiased by the two-thirds rule, ETDRK4 in double precision (Kassam & Trefethen, SIAM J. Sci.
  Comput. 26, 2005): fourth order in time, growth rates of small waves k^2 - k^4 (tests). Neighbouring trajectories
  separate as exp(0.09 t), so two solvers agree over times of about a hundred and share statistics thereafter.
- Size: 100 samples of 101 times and 128 points are 5 MB, made in seconds.
- Baselines: none published for this variant.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import sciml


def make(
    resolution: int = 128,
    samples: int = 100,
    length: float = 64.0,
    end: float = 50.0,
    frames: int = 100,
    skip: float = 50.0,
    step: float = 0.05,
    seed: int = 0,
    dtype: str = "float32",
) -> sciml.data.Recipe:
    """resolution: points; length: of the domain; end: stored time; frames: stored times after the first; skip: time
    before the first; step: largest time step of the solver.
    """
    if resolution < 16 or frames < 1 or skip < 0:
        raise ValueError(f"needs resolution >= 16, frames >= 1 and skip >= 0, got {resolution}, {frames} and {skip}")
    x = np.arange(resolution) * length / resolution

    def generate(start, stop):
        with sciml.double_precision():
            draw = jax.vmap(lambda key: jax.random.uniform(key, (3, 10), float))
            amplitude, phase, number = jnp.moveaxis(draw(sciml.data.sample_keys(seed, start, stop)), 1, 0)[..., None]
            angle = 2 * jnp.pi * ((1 + jnp.floor(3 * number)) * x / length + phase)
            state = ((amplitude - 0.5) * jnp.sin(angle)).sum(axis=1)
            if skip:
                state = solve(state, length, skip, 1, step)[:, -1]
            return {"u": np.asarray(solve(state, length, end, frames, step))}

    coords = {
        "time": (np.linspace(0, end, frames + 1), {"units": "1"}),
        "x": (x, {"units": "1", "boundary": "periodic"}),
    }
    return sciml.data.Recipe.on_grid(
        {"u": (("time", "x"), {"long_name": "slope of the front", "units": "1"})},
        coords,
        samples=samples,
        generate=generate,
        dtype=dtype,
        parameters={"length": length},
    )


def equations(length: float = 64.0, end: float = 50.0, **settings) -> sciml.PDE:
    """length: of the domain."""

    def kuramoto_sivashinsky(u, u_t, u_x, u_xx, u_xxxx):
        return u_t + u * u_x + u_xx + u_xxxx

    return sciml.PDE(sciml.Box(t=(0, end), x=(0, length)), kuramoto_sivashinsky, sciml.periodic("x"))


@partial(jax.jit, static_argnames=("length", "end", "frames", "step"))
def solve(initial: jax.Array, length: float, end: float, frames: int, step: float) -> jax.Array:
    """From initial values (sample, x) to (sample, frames + 1, x)."""
    (k,) = sciml.data.wavenumbers(initial.shape[1:], (length,))
    return sciml.data.etdrk4_burgers(initial, k**2 - k**4, k, end=end, frames=frames, step=step)
