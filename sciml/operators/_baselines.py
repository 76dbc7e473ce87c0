"""Simple models that an operator should beat: persistence, the mean, linear maps and kernel ridge regression.

All but persistence are fitted in closed form, on the host in float64, and are then models as any other: called on one
sample, channels first, in the precision of the data they were fitted on. Data are arrays
`(samples, channels, *grid)`, or a `Dataset` of two variables, input and target; channels are optional throughout.
"""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._precision import double_precision
from ..data._dataset import Dataset
from ._axes import Axis, Periodic, as_axes

# Relative to the largest squared singular value of the inputs.
RIDGES = tuple(10.0 ** (k / 2) for k in range(-24, 1))
# Of kernel ridge regression: relative to the median distance of inputs, and to the kernel's value at distance 0.
SCALES = tuple(2.0 ** (k / 2) for k in range(-4, 7))
KERNEL_RIDGES = tuple(10.0**k for k in range(-6, 2))
CHOICE_SAMPLES = 1000


class Persistence(eqx.Module):
    """What was last is what comes: the last `channels` of the first argument (all by default), `times` times over."""

    channels: int | None = eqx.field(static=True, default=None)
    times: int = eqx.field(static=True, default=1)

    def __check_init__(self):
        if self.times < 1 or (self.channels is not None and self.channels < 1):
            raise ValueError(f"persistence: channels and times must be above 0, got {self.channels}, {self.times}")

    def __call__(self, a: Float[Array, "in_channels *grid"], *others: Any) -> Float[Array, "out_channels *grid"]:
        if self.channels is not None and a.shape[0] < self.channels:
            raise ValueError(f"persistence: expected at least {self.channels} channels, got shape {a.shape}")
        last = a if self.channels is None else a[a.shape[0] - self.channels :]
        return jnp.concatenate([last] * self.times)


def persistence(channels: int | None = None, times: int = 1) -> Persistence:
    """The model whose prediction is its input: of several frames stacked on the first axis the last `channels`; for
    `times` lead times, the same for each. On any grid. Raises ValueError unless both are above 0.
    """
    return Persistence(channels, times)


class Mean(eqx.Module):
    """One field, whatever the input."""

    field: Float[Array, "*sample"]

    def __call__(self, *inputs: Any) -> Float[Array, "*sample"]:
        return self.field


def mean(targets: Any) -> Mean:
    """The mean of the targets over the samples, `(samples, ...)` or a `Dataset` whose last variable they are.

    Raises ValueError for no samples or numbers that are not finite.
    """
    fields, dtype = _checked("mean", _read(targets)[-1])
    return Mean(jnp.asarray(fields.mean(axis=0), dtype))


class LinearMap(eqx.Module):
    """An affine map of whole fields, in factors: `offset + ((a - centre) @ down) @ up` on flattened samples."""

    down: Float[Array, "inputs rank"]
    up: Float[Array, "rank outputs"]
    centre: Float[Array, "*input"]
    offset: Float[Array, "*output"]
    ridge: float = eqx.field(static=True)

    def __call__(self, a: Float[Array, "*input"]) -> Float[Array, "*output"]:
        _check_shape("linear", a, self.centre.shape)
        out = ((a - self.centre).reshape(-1) @ self.down) @ self.up
        return self.offset + out.reshape(self.offset.shape)


def linear(
    inputs: Any, targets: Any = None, *, components: int | None = None, ridges: Sequence[float] = RIDGES
) -> LinearMap:
    """The best affine map from whole input fields to whole output fields: ridge regression.

    The ridge, relative to the largest squared singular value of the centred inputs, is that of `ridges` with the least
    generalised cross-validation score (Golub, Heath & Wahba, 1979, eq. 1.4). `components` keeps as many principal
    components of the inputs only. One singular value decomposition: samples * features * min(samples, features)
    operations and as many numbers as the inputs have.

    Raises ValueError for data that do not belong together, fewer than two samples and numbers that are not finite.
    """
    x, y, dtype = _pair("linear", inputs, targets)
    centre, offset = x.mean(axis=0), y.mean(axis=0)
    flat_x, flat_y = (x - centre).reshape(1, len(x), -1), (y - offset).reshape(1, len(y), -1)
    down, up, ridge = _ridge_maps(flat_x, flat_y, ridges, components, lost=1)
    factors = jnp.asarray(down[0], dtype), jnp.asarray(up[0], dtype)
    return LinearMap(*factors, jnp.asarray(centre, dtype), jnp.asarray(offset, dtype), ridge)


class Multiplier(eqx.Module):
    """A matrix from input to output channels for each wavenumber of a periodic grid, real and imaginary parts."""

    weights: Float[Array, "2 out_channels in_channels *modes"]
    centre: Float[Array, " in_channels"]
    offset: Float[Array, " out_channels"]
    grid: tuple[int, ...] = eqx.field(static=True)
    ridge: float = eqx.field(static=True)

    def __call__(self, a: Float[Array, "in_channels *grid"]) -> Float[Array, "out_channels *grid"]:
        _check_shape("linear_multiplier", a, (len(self.centre), *self.grid))
        ones = (1,) * len(self.grid)
        axes = tuple(range(-len(self.grid), 0))
        modes = jnp.fft.rfftn(a - self.centre.reshape(-1, *ones), axes=axes)
        out = jnp.einsum("oi...,i...->o...", jax.lax.complex(self.weights[0], self.weights[1]), modes)
        return jnp.fft.irfftn(out, s=self.grid, axes=axes) + self.offset.reshape(-1, *ones)


def linear_multiplier(inputs: Any, targets: Any = None, *, ridges: Sequence[float] = RIDGES) -> Multiplier:
    """The best affine map that commutes with all translations of a periodic grid: for each wavenumber a matrix from the
    input to the output channels, by ridge regression. It holds the solution operator of every linear equation with
    constant coefficients, at any step in time. Samples are `(channels, *grid)`.

    One ridge for all wavenumbers, relative to each one's largest squared singular value, by generalised
    cross-validation as in `linear`.

    Raises ValueError for data that do not belong together, fewer than two samples and numbers that are not finite.
    """
    x, y, dtype = _pair("linear_multiplier", inputs, targets)
    grid = _common_grid("linear_multiplier", x, y)
    axes = tuple(range(2, x.ndim))
    over = (0, *axes)
    centre, offset = x.mean(axis=over, keepdims=True), y.mean(axis=over, keepdims=True)
    parts = [np.fft.rfftn(f, axes=axes).reshape(*f.shape[:2], -1) for f in (x - centre, y - offset)]
    modes_x, modes_y = (np.moveaxis(p, -1, 0) for p in parts)
    down, up, ridge = _ridge_maps(modes_x, modes_y, ridges, None, lost=0)
    matrix = np.moveaxis(down @ up, 0, -1).swapaxes(0, 1)
    matrix = matrix.reshape(y.shape[1], x.shape[1], *grid[:-1], grid[-1] // 2 + 1)
    weights = jnp.asarray(np.stack([np.real(matrix), np.imag(matrix)]), dtype)
    return Multiplier(weights, jnp.asarray(centre.ravel(), dtype), jnp.asarray(offset.ravel(), dtype), grid, ridge)


class Stencil(eqx.Module):
    """The same weighted sum of neighbours at each point of a grid, of any size."""

    weights: Float[Array, "out_channels in_channels *window"]
    offset: Float[Array, " out_channels"]
    axes: tuple[Axis, ...] = eqx.field(static=True)

    def __call__(self, a: Float[Array, "in_channels *grid"]) -> Float[Array, "out_channels *grid"]:
        window = self.weights.shape[2:]
        if a.ndim != len(window) + 1 or a.shape[0] != self.weights.shape[1]:
            wanted = (self.weights.shape[1], *("n" for _ in window))
            raise ValueError(f"linear_stencil: expected one sample of shape {wanted}, got {a.shape}")
        padded = _padded(a, self.axes, window[0] // 2)
        out = jax.lax.conv_general_dilated(padded[None], self.weights, (1,) * len(window), "VALID")[0]
        return out + self.offset.reshape(-1, *(1,) * len(window))


def linear_stencil(
    inputs: Any,
    targets: Any = None,
    *,
    radius: int = 2,
    axes: Axis | Sequence[Axis] = Periodic(),
    ridge: float = 1e-10,
    points: int = 200_000,
) -> Stencil:
    """The best weighted sum of the neighbours up to `radius` points away, the same everywhere: a linear map for any
    size of grid, and for axes of any kind (as `axes` continue fields beyond their ends). Samples are
    `(channels, *grid)`.

    Least squares over evenly spaced samples that hold about `points` points, with a ridge relative to the mean square
    of the inputs. What moves farther than `radius` in a step is out of its reach: see `linear_multiplier`.

    Raises ValueError for data that do not belong together, radius below 0 and numbers that are not finite.
    """
    x, y, dtype = _pair("linear_stencil", inputs, targets)
    grid = _common_grid("linear_stencil", x, y)
    if radius < 0:
        raise ValueError(f"linear_stencil: radius must not be negative, got {radius}")
    known = as_axes(axes, len(grid))
    window = (2 * radius + 1,) * len(grid)
    gram, moment = 0.0, 0.0
    count = min(len(x), -(-points // int(np.prod(grid))))
    for i in np.linspace(0, len(x) - 1, count).round().astype(int):
        with double_precision():
            padded = np.asarray(_padded(jnp.asarray(x[i]), known, radius))
        views = np.lib.stride_tricks.sliding_window_view(padded, window, axis=tuple(range(1, padded.ndim)))
        rows = np.moveaxis(views, 0, len(grid)).reshape(int(np.prod(grid)), -1)
        rows = np.concatenate([rows, np.ones((len(rows), 1))], axis=1)
        gram, moment = gram + rows.T @ rows, moment + rows.T @ y[i].reshape(y.shape[1], -1).T
    gram = np.asarray(gram)
    penalty = ridge * np.trace(gram[:-1, :-1]) / max(1, len(gram) - 1) * np.eye(len(gram))
    # The offset is not penalised.
    penalty[-1, -1] = 0.0
    solution = np.linalg.lstsq(gram + penalty, np.asarray(moment), rcond=1e-15)[0].T
    weights = solution[:, :-1].reshape(y.shape[1], x.shape[1], *window)
    return Stencil(jnp.asarray(weights, dtype), jnp.asarray(solution[:, -1], dtype), known)


def gaussian(r2: Array) -> Array:
    """The kernel exp(-r**2 / 2) of squared distances r2 over the length scale squared."""
    return jnp.exp(-r2 / 2)


def matern(r2: Array) -> Array:
    """The Matern kernel with smoothness 5/2 (Rasmussen & Williams, 2006, eq. 4.17)."""
    r = jnp.sqrt(5 * r2)
    return (1 + r + 5 * r2 / 3) * jnp.exp(-r)


class KernelRidge(eqx.Module):
    """`offset + k(a, centres) @ coefficients`: a sum of kernels around the training inputs."""

    centres: Float[Array, "samples *input"]
    coefficients: Float[Array, "samples outputs"]
    offset: Float[Array, "*output"]
    scale: float = eqx.field(static=True)
    ridge: float = eqx.field(static=True)
    kernel: Callable = eqx.field(static=True)

    def __call__(self, a: Float[Array, "*input"]) -> Float[Array, "*output"]:
        _check_shape("kernel_ridge", a, self.centres.shape[1:])
        r2 = jnp.sum((self.centres - a) ** 2, axis=tuple(range(1, self.centres.ndim))) / self.scale**2
        return self.offset + (self.kernel(r2) @ self.coefficients).reshape(self.offset.shape)


def kernel_ridge(
    inputs: Any,
    targets: Any = None,
    *,
    kernel: Callable = gaussian,
    scales: Sequence[float] = SCALES,
    ridges: Sequence[float] = KERNEL_RIDGES,
    held_out: float = 0.2,
    seed: int = 0,
) -> KernelRidge:
    """Kernel ridge regression from whole input fields to whole output fields (Rasmussen & Williams, 2006, eq. 2.25: the
    mean of a Gaussian process): coefficients (K + ridge I)^-1 (Y - mean).

    `kernel` is `gaussian`, `matern` or another function of the squared distance over the length scale squared, written
    with `jax.numpy`. The length scale (`scales` times the median distance between inputs) and the ridge are those with
    the least relative L2 error on a random share `held_out` of the samples, of a thousand of them where there are more;
    the fit is then repeated on all. With one scale and one ridge nothing is held out. A system of equations for each
    choice: samples**3 / 3 operations and samples**2 numbers.

    Raises ValueError for data that do not belong together, fewer than two samples (five where some are held out),
    numbers that are not finite and a kernel whose matrix is not positive definite.
    """
    x, y, dtype = _pair("kernel_ridge", inputs, targets)
    flat_x, flat_y = x.reshape(len(x), -1), y.reshape(len(y), -1)
    r2 = _squared_distances(flat_x)
    median = float(np.sqrt(np.median(r2[np.triu_indices(len(x), 1)]))) or 1.0
    choices = [(s * median, r) for s in scales for r in ridges]
    if len(choices) > 1:
        choices = [_choose(r2, flat_y, kernel, [s * median for s in scales], ridges, held_out, seed)]
    scale, ridge = map(float, choices[0])
    offset = flat_y.mean(axis=0)
    coefficients = _coefficients(_kernel(kernel, r2 / scale**2), ridge, flat_y - offset)
    field = offset.reshape(y.shape[1:])
    arrays = jnp.asarray(x, dtype), jnp.asarray(coefficients, dtype), jnp.asarray(field, dtype)
    return KernelRidge(*arrays, scale, ridge, kernel)


def _choose(r2, y, kernel, scales, ridges, held_out, seed) -> tuple[float, float]:
    """The length scale and the ridge with the least error on samples held out."""
    rows = len(y)
    if rows < 5 or not 0 < held_out < 1:
        raise ValueError(f"kernel_ridge: cannot hold out {held_out} of {rows} samples; give one scale and one ridge")
    order = np.random.default_rng(seed).permutation(rows)[:CHOICE_SAMPLES]
    test, fit = np.split(order, [max(1, round(held_out * len(order)))])
    offset = y[fit].mean(axis=0)
    sizes = np.maximum(np.linalg.norm(y[test], axis=1), np.finfo(float).tiny)
    errors = {}
    for scale in scales:
        among = _kernel(kernel, r2[np.ix_(fit, fit)] / scale**2)
        across = _kernel(kernel, r2[np.ix_(test, fit)] / scale**2)
        for ridge in ridges:
            predicted = offset + across @ _coefficients(among, ridge, y[fit] - offset)
            errors[scale, ridge] = np.mean(np.linalg.norm(predicted - y[test], axis=1) / sizes)
    return min(errors, key=errors.__getitem__)


def _coefficients(matrix: np.ndarray, ridge: float, y: np.ndarray) -> np.ndarray:
    from scipy.linalg import LinAlgError, cho_factor, cho_solve

    try:
        return cho_solve(cho_factor(matrix + ridge * np.eye(len(matrix))), y)
    except LinAlgError:
        raise ValueError(
            f"kernel_ridge: the matrix of the kernel is not positive definite with the ridge {ridge:g}; samples may be "
            "repeated: take a larger ridge, or another kernel"
        ) from None


def _kernel(kernel: Callable, r2: np.ndarray) -> np.ndarray:
    with double_precision():
        return np.asarray(kernel(jnp.asarray(r2)))


def _squared_distances(x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(axis=0)
    squares = (centred**2).sum(axis=1)
    r2 = np.maximum(squares[:, None] + squares - 2 * centred @ centred.T, 0.0)
    np.fill_diagonal(r2, 0.0)
    return r2


def _ridge_maps(x, y, ridges, components, lost: int):
    """Ridge regression for several problems at once, `(problems, samples, features)` to `(problems, samples, outputs)`:
    factors `(features, rank)` and `(rank, outputs)`, and the ridge, common to all of them. `lost` are the degrees of
    freedom that centring took.
    """
    u, s, vh = np.linalg.svd(x, full_matrices=False)
    keep = s > s[:, :1] * max(x.shape[1:]) * np.finfo(float).eps
    if components is not None:
        keep &= np.arange(s.shape[1]) < components
    inverse = np.where(keep, 1 / np.where(keep, s, 1.0), 0.0)
    rotated = u.conj().swapaxes(1, 2) @ y
    outside = np.sum(np.abs(y) ** 2) - np.sum(np.abs(rotated) ** 2)
    scores = []
    for ridge in ridges:
        rest = 1 - _shrinkage(s, ridge) * keep
        residual = max(outside, 0.0) + np.sum(np.abs(rest[:, :, None] * rotated) ** 2)
        freedom = np.sum(x.shape[1] - lost - np.sum(1 - rest, axis=1))
        scores.append(residual / max(freedom, 1e-12) ** 2)
    best = float(ridges[int(np.argmin(scores))])
    up = (_shrinkage(s, best) * inverse)[:, :, None] * rotated
    rank = int(keep.sum(axis=1).max())
    return vh.conj().swapaxes(1, 2)[:, :, :rank], up[:, :rank], best


def _shrinkage(s: np.ndarray, ridge: float) -> np.ndarray:
    """What a relative ridge leaves of each singular direction."""
    largest = np.maximum(s[:, :1], np.finfo(float).tiny ** 0.25)
    relative = (s / largest) ** 2
    return relative / (relative + ridge)


def _padded(a: Array, axes: Sequence[Axis], radius: int) -> Array:
    for dim, axis in enumerate(axes):
        a = axis.pad(a, dim + 1, radius, radius)
    return a


def _read(data: Any) -> tuple:
    """The arrays of a data set in the order of its variables (as its batches have them), or the array itself."""
    return data.samples() if isinstance(data, Dataset) else (data,)


def _pair(name: str, inputs: Any, targets: Any) -> tuple[np.ndarray, np.ndarray, Any]:
    """Inputs and targets in float64, and the type of the inputs."""
    arrays = _read(inputs) if targets is None else [inputs, targets]
    if len(arrays) != 2:
        raise ValueError(
            f"{name}: expected an input and a target, got {len(arrays)} variables; give two arrays, or stack inputs "
            "into one variable (Dataset.stack)"
        )
    x, dtype = _checked(name, arrays[0])
    y, _ = _checked(name, arrays[1])
    if len(x) != len(y):
        raise ValueError(f"{name}: {len(x)} inputs for {len(y)} targets")
    if len(x) < 2:
        raise ValueError(f"{name}: needs two samples at least, got {len(x)}")
    return x, y, dtype


def _checked(name: str, array: Any) -> tuple[np.ndarray, Any]:
    given = np.asarray(array)
    found = given.astype(np.float64)
    if found.ndim < 1 or found.size == 0:
        raise ValueError(f"{name}: expected samples on the first axis, got an array of shape {found.shape}")
    if not np.isfinite(found).all():
        raise ValueError(f"{name}: the data hold numbers that are not finite; fill or drop those samples first")
    return found, jax.dtypes.canonicalize_dtype(np.float64 if given.dtype == np.float64 else np.float32)


def _common_grid(name: str, x: np.ndarray, y: np.ndarray) -> tuple[int, ...]:
    if x.ndim < 3 or x.shape[2:] != y.shape[2:]:
        raise ValueError(
            f"{name}: expected inputs and targets (samples, channels, *grid) on one grid, got {x.shape} and {y.shape}"
        )
    return x.shape[2:]


def _check_shape(name: str, a: Array, wanted: tuple[int, ...]) -> None:
    if a.shape != wanted:
        raise ValueError(
            f"{name}: expected one sample of shape {wanted}, as it was fitted on, got {a.shape}; a batch needs jax.vmap"
        )
