"""Advection at constant speed with periodic boundaries, from the exact solution.

u_t + beta u_x = 0 on (0, 1), periodic; the initial values are sums of `waves` sines with wavenumbers 1 to `largest`,
amplitudes in (0, 1) and random phases, all uniform.

- What: u(sample, time, x) at x = (i + 1/2) / resolution.
- Who: as the 1D advection of PDEBench (Takamoto et al., NeurIPS 2022, appendix D.1) without its windows and absolute
  values; made here, free of rights. PDEBench has beta = 0.1, 0.2, 0.4, 0.7, 1, 2, 4 and 7, 1024 points and 201 times.
- Solver: none; each value is u0(x - beta t), exact to rounding.
- Size: 1000 samples of 41 times and 256 points are 42 MB, made in seconds.
- Baselines: none published for this variant.
"""

import jax
import jax.numpy as jnp
import numpy as np

import sciml


def make(
    resolution: int = 256,
    samples: int = 1000,
    beta: float = 0.4,
    end: float = 2.0,
    frames: int = 40,
    waves: int = 2,
    largest: int = 8,
    seed: int = 0,
    dtype: str = "float32",
) -> sciml.data.Recipe:
    """resolution: points; beta: speed; end: final time; frames: stored times after the first."""
    if resolution <= 2 * largest or waves < 1 or largest < 1 or frames < 1:
        raise ValueError(
            f"needs waves, largest and frames above 0 and more than {2 * largest} points for wave number {largest}, "
            f"got {waves}, {largest}, {frames} and {resolution}"
        )
    x = (np.arange(resolution) + 0.5) / resolution
    times = np.linspace(0, end, frames + 1)

    def generate(start, stop):
        with sciml.double_precision():
            draw = jax.vmap(lambda key: jax.random.uniform(key, (3, waves), float))
            amplitude, phase, number = jnp.moveaxis(draw(sciml.data.sample_keys(seed, start, stop)), 1, 0)
            number = 1 + jnp.floor(number * largest)
            moved = jnp.asarray(x[None, :] - beta * times[:, None])
            angle = 2 * jnp.pi * (number[:, :, None, None] * moved + phase[:, :, None, None])
            return {"u": np.asarray((amplitude[:, :, None, None] * jnp.sin(angle)).sum(axis=1))}

    coords = {"time": (times, {"units": "1"}), "x": (x, {"units": "1", "boundary": "periodic"})}
    return sciml.data.Recipe.on_grid(
        {"u": (("time", "x"), {"long_name": "transported quantity", "units": "1"})},
        coords,
        samples=samples,
        generate=generate,
        dtype=dtype,
        parameters={"beta": beta},
    )


def equations(beta: float = 0.4, end: float = 2.0, **settings) -> sciml.PDE:
    """beta: speed."""

    def advection(u_t, u_x, beta):
        return u_t + beta * u_x

    return sciml.PDE(sciml.Box(t=(0, end), x=(0, 1)), advection, sciml.periodic("x"), beta=beta)
