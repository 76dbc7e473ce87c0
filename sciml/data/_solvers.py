"""What generators of data sets share: random fields, wavenumbers and exponential time stepping.

Fields are periodic and real; spectral arrays have the layout of `rfftn` over the last dimensions.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def sample_keys(seed: int, start: int, stop: int) -> Any:
    """One random key per sample, which depends on the seed and the sample's number only."""
    return jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(jnp.arange(start, stop))


def wavenumbers(shape: Sequence[int], lengths: Sequence[float]) -> list[np.ndarray]:
    """The angular wavenumbers along each axis of a periodic box, shaped so that they broadcast in the layout of
    `rfftn`.
    """
    out = []
    for axis, (n, length) in enumerate(zip(shape, lengths)):
        last = axis == len(shape) - 1
        k = (np.fft.rfftfreq if last else np.fft.fftfreq)(n, 1 / n) * 2 * np.pi / length
        out.append(k.reshape([-1 if i == axis else 1 for i in range(len(shape))]))
    return out


def dealiasing(shape: Sequence[int]) -> np.ndarray:
    """1 where all wavenumbers are below two thirds of the largest one, else 0: a product of two such fields has no
    aliased modes there (Orszag, J. Atmos. Sci. 28, 1971).
    """
    indices = wavenumbers(shape, [2 * np.pi] * len(shape))
    kept = [np.abs(k) < n / 3 for k, n in zip(indices, shape)]
    out = kept[0]
    for k in kept[1:]:
        out = out & k
    return out.astype(float)


def periodic_gaussian(
    keys: Any, shape: Sequence[int], deviation: Callable[[Array], Array], modes: int = 128
) -> Float[Array, " sample *grid"]:
    """Gaussian random fields on the periodic unit box with mean zero.

    The covariance has the eigenfunctions exp(2 pi i k.x) and the eigenvalues `deviation(|2 pi k|^2)^2`, for |k_i| up
    to `modes` along each axis and k != 0. The random numbers belong to the modes and not to the grid, so a sample is
    the same function on every grid that resolves it.
    """
    size = 2 * modes + 1
    dims = len(shape)
    axes = tuple(range(1, dims + 1))
    white = jax.vmap(lambda key: jax.random.normal(key, (size,) * dims, float))(keys)
    spectrum = jnp.fft.fftn(white, axes=axes) / np.sqrt(float(size) ** dims)
    most = [min(modes, (n - 1) // 2) for n in shape]
    numbers = [np.arange(-m, m + 1) for m in most]
    squared = sum((2 * np.pi * k) ** 2 for k in np.meshgrid(*numbers, indexing="ij"))
    scale = jnp.where(squared > 0, deviation(jnp.asarray(squared)), 0.0)
    kept = spectrum[(slice(None), *np.ix_(*[k % size for k in numbers]))] * scale
    out = jnp.zeros((white.shape[0], *shape), kept.dtype)
    out = out.at[(slice(None), *np.ix_(*[k % n for k, n in zip(numbers, shape)]))].set(kept)
    return jnp.fft.ifftn(out, axes=axes).real * float(np.prod(shape))


def neumann_gaussian(
    keys: Any, resolution: int, deviation: Callable[[Array], Array], modes: int = 128
) -> Float[Array, "sample x y"]:
    """Gaussian random fields on the unit square with zero normal derivative and mean zero, at the points i / (n - 1).

    The covariance has the orthonormal eigenfunctions 2 cos(pi k x) cos(pi l y) (sqrt 2 instead of 2 where k or l is
    zero) and the eigenvalues `deviation(pi^2 (k^2 + l^2))^2`, for k and l below `modes` and not both zero. As in
    `periodic_gaussian`, a sample is the same function on every grid.
    """
    k = np.arange(modes)
    squared = np.pi**2 * (k[:, None] ** 2 + k[None, :] ** 2)
    scale = jnp.where(squared > 0, deviation(jnp.asarray(squared)), 0.0)
    basis = np.cos(np.pi * np.outer(np.linspace(0, 1, resolution), k)) * np.where(k == 0, 1.0, np.sqrt(2.0))
    noise = jax.vmap(lambda key: jax.random.normal(key, (modes, modes), float))(keys)
    return jnp.einsum("xk,skl,yl->sxy", basis, noise * scale, basis)


def etdrk4(
    linear: np.ndarray,
    nonlinear: Callable[[Array], Array],
    state: Array,
    *,
    step: float,
    steps: int,
    frames: int,
    observe: Callable[[Array], Any] = lambda state: state,
) -> Any:
    """Solves v' = linear * v + nonlinear(v) by exponential time differencing with a fourth-order Runge-Kutta scheme
    (Cox & Matthews, J. Comput. Phys. 176, 2002, eqs. 26-29), with coefficients from contour integrals (Kassam &
    Trefethen, SIAM J. Sci. Comput. 26, 2005).

    The linear part, diagonal in the modes, is solved exactly. `observe(state)` is stored at the beginning and
    after every `steps` steps of size `step`, `frames` times: the result has the leading dimension `frames + 1`.
    """
    half, full, q, f1, f2, f3 = _coefficients(linear, step)

    def advance(v, _):
        nv = nonlinear(v)
        a = half * v + q * nv
        na = nonlinear(a)
        b = half * v + q * na
        nb = nonlinear(b)
        c = half * a + q * (2 * nb - nv)
        return full * v + f1 * nv + 2 * f2 * (na + nb) + f3 * nonlinear(c), None

    def frame(v, _):
        v, _ = jax.lax.scan(advance, v, None, length=steps)
        return v, observe(v)

    first = observe(state)
    _, rest = jax.lax.scan(frame, state, None, length=frames)
    return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, rest)


def etdrk4_burgers(
    initial: Float[Array, "sample x"],
    growth: np.ndarray,
    wavenumber: np.ndarray,
    *,
    end: float,
    frames: int,
    step: float,
) -> Float[Array, "sample frame x"]:
    """Solves u_t + u u_x = L u, periodic, by `etdrk4` with products dealiased; `growth` are the eigenvalues of L at the
    wavenumbers (those of `wavenumbers`). The result has `frames + 1` times from 0 to `end`; steps are at most `step`.
    """
    n = initial.shape[1]
    size, steps = whole_steps(end / frames, step)
    transport = jnp.asarray(-0.5j * wavenumber * dealiasing((n,)))
    kept = jnp.asarray(dealiasing((n,)))

    def nonlinear(v: Array) -> Array:
        return transport * jnp.fft.rfft(jnp.fft.irfft(v * kept, n) ** 2)

    def observe(v: Array) -> Array:
        return jnp.fft.irfft(v, n)

    state = jnp.fft.rfft(initial)
    out = etdrk4(growth, nonlinear, state, step=size, steps=steps, frames=frames, observe=observe)
    return jnp.moveaxis(out, 0, 1)


def _coefficients(linear: np.ndarray, step: float, points: int = 32) -> list[Array]:
    z = step * linear
    roots = np.exp(2j * np.pi * (np.arange(points) + 0.5) / points)
    f = np.zeros((4, *z.shape), complex)
    for root in roots:
        r = z + root
        e = np.exp(r)
        f[0] += (np.exp(r / 2) - 1) / r
        f[1] += (-4 - r + e * (4 - 3 * r + r**2)) / r**3
        f[2] += (2 + r + e * (r - 2)) / r**3
        f[3] += (-4 - 3 * r - r**2 + e * (4 - r)) / r**3
    f *= step / points
    out = [np.exp(z / 2), np.exp(z), *(f if np.iscomplexobj(linear) else np.real(f))]
    return [jnp.asarray(c) for c in out]


def whole_steps(interval: float, largest: float) -> tuple[float, int]:
    """The size and number of equal steps, none above `largest`, that fill an interval.

    Raises ValueError where one of them is not positive.
    """
    if not interval > 0 or not largest > 0:
        raise ValueError(f"times and time steps must be positive, got an interval of {interval} and steps of {largest}")
    count = max(1, int(np.ceil(interval / largest - 1e-9)))
    return interval / count, count
