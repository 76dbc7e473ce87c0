"""Shallow water: a round dam that breaks.

h_t + (h u)_x + (h v)_y = 0, (h u)_t + (h u^2 + g h^2 / 2)_x + (h u v)_y = 0 and the same along y, g = 1, on
(-2.5, 2.5)^2 with open boundaries. At the beginning the water rests, `inside` deep within a circle of random radius
(uniform in 0.3 to 0.7) around the centre, and 1 deep outside.

- What: h(sample, time, x, y), the depth, and the velocity u and v, at the centres of the cells.
- Who: as the 2D shallow water set of PDEBench (Takamoto et al., NeurIPS 2022, appendix D.5), which has 1000 samples of
  101 times and 128 x 128 and stores h only; made here, free of rights.
- Solver: finite volumes, second order (MUSCL with the van Albada limiter), HLL fluxes, third-order strong-stability-
  preserving Runge-Kutta. It converges in L1 to Stoker's exact solution of the plane dam break and conserves mass to
  rounding (tests). Shocks are about two cells wide, so that the residual of the equations does not vanish there; with
  a wide `edge` there are none.
- Size: 100 samples of 21 times and 128 x 128 with velocity are 413 MB.
- Baselines (RMSE of h, PDEBench's files, from that paper): FNO 0.0044, U-Net 0.086, PINN 0.017.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import sciml

EXTENT = 2.5


def make(
    resolution: int = 128,
    samples: int = 100,
    inside: float = 2.0,
    end: float = 1.0,
    frames: int = 20,
    edge: float = 0.0,
    boundary: str = "open",
    velocity: bool = True,
    seed: int = 0,
    dtype: str = "float32",
) -> sciml.data.Recipe:
    """resolution: cells along each axis; inside: depth behind the dam; end: final time; frames: stored times after the
    first; edge: width over which the depth falls, 0 for a dam; boundary: open, periodic or wall; velocity: whether
    u and v are stored.
    """
    if boundary not in ("open", "periodic", "wall"):
        raise ValueError(f"boundary must be open, periodic or wall, got '{boundary}'")
    if resolution < 4 or frames < 1 or not inside > 0:
        raise ValueError(f"needs resolution >= 4, frames >= 1 and inside > 0, got {resolution}, {frames} and {inside}")
    x = EXTENT * ((2 * np.arange(resolution) + 1) / resolution - 1)

    def generate(start, stop):
        with sciml.double_precision():
            keys = sciml.data.sample_keys(seed, start, stop)
            radius = jax.vmap(lambda key: jax.random.uniform(key, (), float, 0.3, 0.7))(keys)
            depth = round_dam(jnp.asarray(x), radius, inside, edge)
            state = jnp.stack([depth, jnp.zeros_like(depth), jnp.zeros_like(depth)], axis=1)
            out = np.asarray(solve(state, 2 * EXTENT / resolution, max(inside, 1.0), end, frames, boundary))
            return {"h": out[:, :, 0], "u": out[:, :, 1] / out[:, :, 0], "v": out[:, :, 2] / out[:, :, 0]}

    names = {"h": "depth", "u": "velocity along x", "v": "velocity along y"}
    fields = {
        name: (("time", "x", "y"), {"long_name": text, "units": "1"})
        for name, text in names.items()
        if velocity or name == "h"
    }
    axis = (x, {"units": "1", "boundary": boundary})
    coords = {"time": (np.linspace(0, end, frames + 1), {"units": "1"}), "x": axis, "y": axis}
    return sciml.data.Recipe.on_grid(
        fields, coords, samples=samples, generate=generate, dtype=dtype, batch=4, parameters={"g": 1.0}
    )


def equations(end: float = 1.0, **settings) -> sciml.PDE:
    """In conservative form; the velocity is needed."""

    def mass(h_t, hu_x, hv_y):
        return h_t + hu_x + hv_y

    def momentum_x(hu_t, fx_x, hw_y):
        return hu_t + fx_x + hw_y

    def momentum_y(hv_t, hw_x, fy_y):
        return hv_t + hw_x + fy_y

    fluxes = sciml.derived(
        hu=lambda h, u: h * u,
        hv=lambda h, v: h * v,
        hw=lambda h, u, v: h * u * v,
        fx=lambda h, u: h * u**2 + 0.5 * h**2,
        fy=lambda h, v: h * v**2 + 0.5 * h**2,
    )
    domain = sciml.Box(t=(0, end), x=(-EXTENT, EXTENT), y=(-EXTENT, EXTENT))
    rest = sciml.value(u=0.0, v=0.0, on=domain.at(t=0))
    return sciml.PDE(domain, mass, momentum_x, momentum_y, fluxes, rest)


def round_dam(x: jax.Array, radius: jax.Array, inside: float, edge: float, parts: int = 8) -> jax.Array:
    """Depths (sample, x, y), means over `parts`^2 points per cell."""
    width = x[1] - x[0]
    fine = (x[:, None] + width * ((jnp.arange(parts) + 0.5) / parts - 0.5)).ravel()
    n = len(x)

    def one(radius):
        inwards = radius - jnp.hypot(fine[:, None], fine[None, :])
        covered = 0.5 + 0.5 * jnp.tanh(inwards / edge) if edge else (inwards > 0).astype(x.dtype)
        return 1.0 + (inside - 1.0) * covered.reshape(n, parts, n, parts).mean(axis=(1, 3))

    return jax.vmap(one)(radius)


@partial(jax.jit, static_argnames=("width", "deepest", "end", "frames", "boundary"))
def solve(initial: jax.Array, width: float, deepest: float, end: float, frames: int, boundary: str) -> jax.Array:
    """From depth and momenta (sample, 3, x, y) to (sample, frames + 1, 3, x, y), in cells of this width; `deepest` is
    the largest depth at the beginning.
    """
    # The front of a dam break moves at most twice as fast as a small wave on the water behind the dam.
    size, steps = sciml.data.whole_steps(end / frames, 0.3 * width / (2 * np.sqrt(deepest)))

    def rate(q):
        return -(_divergence(q, boundary, 2) + _divergence(q, boundary, 3)) / width

    def advance(q, _):
        a = q + size * rate(q)
        b = 0.75 * q + 0.25 * (a + size * rate(a))
        return q / 3 + 2 / 3 * (b + size * rate(b)), None

    def frame(q, _):
        q, _ = jax.lax.scan(advance, q, None, length=steps)
        return q, q

    _, rest = jax.lax.scan(frame, initial, None, length=frames)
    return jnp.moveaxis(jnp.concatenate([initial[None], rest]), 0, 1)


def _divergence(q: jax.Array, boundary: str, axis: int) -> jax.Array:
    """Differences of the HLL fluxes along an axis of (sample, 3, x, y)."""
    normal = axis - 1
    q = jnp.moveaxis(q, (1, axis), (0, 1))
    mode = {"open": "edge", "periodic": "wrap", "wall": "symmetric"}[boundary]
    q = jnp.pad(q, [(0, 0), (2, 2), (0, 0), (0, 0)], mode=mode)
    if boundary == "wall":
        q = q.at[normal, :2].multiply(-1.0).at[normal, -2:].multiply(-1.0)
    # Reconstruction of depth and velocities; van Albada's limiter.
    p = jnp.concatenate([q[:1], q[1:] / q[:1]])
    left, right = p[:, 1:-1] - p[:, :-2], p[:, 2:] - p[:, 1:-1]
    tiny = 1e-12
    slope = jnp.where(left * right > 0, left * right * (left + right) / (left**2 + right**2 + tiny), 0.0)
    low, high = p[:, 1:-1] + 0.5 * slope, p[:, 1:-1] - 0.5 * slope
    flux = _hll(low[:, :-1], high[:, 1:], normal)
    return jnp.moveaxis(flux[:, 1:] - flux[:, :-1], (0, 1), (1, axis))


def _hll(left: jax.Array, right: jax.Array, normal: int) -> jax.Array:
    """The flux between two states of depth and velocities (Harten, Lax & van Leer, SIAM Rev. 25, 1983)."""

    def parts(p):
        q = jnp.concatenate([p[:1], p[:1] * p[1:]])
        flux = (q * p[normal]).at[normal].add(0.5 * p[0] ** 2)
        return q, flux, p[normal], jnp.sqrt(p[0])

    (ql, fl, ul, cl), (qr, fr, ur, cr) = parts(left), parts(right)
    slow = jnp.minimum(jnp.minimum(ul - cl, ur - cr), 0.0)
    fast = jnp.maximum(jnp.maximum(ul + cl, ur + cr), 0.0)
    return (fast * fl - slow * fr + slow * fast * (qr - ql)) / (fast - slow)
