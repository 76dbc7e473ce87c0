"""The metrics of PDEBench (Takamoto et al., NeurIPS 2022 Datasets and Benchmarks; `metric_func` in its
`pdebench/models/metrics.py`), by their definitions there.

Axes are named as in the other metrics. Each function gives one value for each variable and lead time, in the order of
the axes `channel` and `time`, as `if_mean=False` there; the mean of these is the published number.

What to know when comparing:

- a root is taken in each sample, variable and lead time, and then averaged (`rmse`, `nrmse`, `boundary_rmse`), but over
  the samples together in `conserved_rmse` and `fourier_rmse`;
- `max_error` is the largest over all samples of a batch; the published number is its mean over variables, times and
  batches;
- the published numbers average over all frames of a trajectory, with the initial ones that the model is given, whose
  error is 0, and over batches as if each were of one size;
- nothing is added to a denominator.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike

from ._fields import Fields, fields, in_their_precision, root
from ._pointwise import max_error as max_error
from ._spectrum import binned

Grid = int | Sequence[int]


@in_their_precision
def rmse(
    prediction: ArrayLike, target: ArrayLike, *, grid: Grid, channel: int | None = None, time: int | None = None
) -> Array:
    """RMSE: the root mean square error of each sample, averaged over samples."""
    found = fields(prediction, target, grid=grid, channel=channel, time=time)
    return jnp.mean(root(found.sum(found.error**2) / found.sum(1.0)), 0)


@in_their_precision
def nrmse(
    prediction: ArrayLike, target: ArrayLike, *, grid: Grid, channel: int | None = None, time: int | None = None
) -> Array:
    """nRMSE: the root mean square error over the target's root mean square in each sample, averaged over samples."""
    found = fields(prediction, target, grid=grid, channel=channel, time=time)
    return jnp.mean(root(found.sum(found.error**2)) / root(found.sum(found.target**2)), 0)


@in_their_precision
def conserved_rmse(
    prediction: ArrayLike, target: ArrayLike, *, grid: Grid, channel: int | None = None, time: int | None = None
) -> Array:
    """cRMSE (CSV): the root mean square over samples of the error of the mean over the grid."""
    found = fields(prediction, target, grid=grid, channel=channel, time=time)
    return root(jnp.mean((found.sum(found.error) / found.sum(1.0)) ** 2, 0))


@in_their_precision
def boundary_rmse(
    prediction: ArrayLike, target: ArrayLike, *, grid: Grid, channel: int | None = None, time: int | None = None
) -> Array:
    """bRMSE: the root mean square error of each sample on the first and last points along each axis, averaged over
    samples. A point on two faces counts twice.

    In three dimensions the code of PDEBench adds up all variables below the root and cannot average the result; here
    each variable has its own value, as in one and two dimensions. With one variable both agree.
    """
    found = fields(prediction, target, grid=grid, channel=channel, time=time)
    square, axes = found.error**2, found.layout.summed
    faces = [jnp.take(square, jnp.asarray([0, -1]), axis) for axis in found.layout.space]
    points = sum(int(np.prod(f.shape[-len(axes) :])) for f in faces)
    squares = jnp.sum(jnp.stack([jnp.sum(f, axes) for f in faces]), 0)
    return jnp.mean(root(squares / points), 0)


@in_their_precision
def fourier_rmse(
    prediction: ArrayLike,
    target: ArrayLike,
    *,
    grid: Grid,
    channel: int | None = None,
    time: int | None = None,
    lengths: Sequence[float] | None = None,
    low: int = 4,
    high: int = 12,
) -> Array:
    """fRMSE: the root mean square over samples of the error's Fourier coefficients, averaged over the shells of three
    bands: below `low`, below `high`, and from there on; `(*kept, 3)`.

    In one dimension a shell is a mode, from 0 to n / 2. In more, only modes whose numbers are all from 0 to n / 2 - 1
    count, a quarter or an eighth of them, and a shell is the sum over those whose modulus, rounded down, is its number,
    up to that of the shortest axis. `lengths`, by default 1 each, multiply the result. A band without shells is NaN.
    """
    found = fields(prediction, target, grid=grid, channel=channel, time=time)
    shape = found.target.shape[-len(found.layout.grid) :]
    if lengths is not None and len(lengths) != len(shape):
        raise ValueError(f"lengths: expected one for each of {len(shape)} axes of the grid, got {len(lengths)}")
    power = _shells(found, shape)
    volume = 1.0 if lengths is None else float(np.prod(lengths))
    coefficients = root(jnp.mean(power, 0)) / float(np.prod(shape)) * volume
    bands = [coefficients[..., a:b] for a, b in ((0, low), (low, high), (high, None))]
    return jnp.stack([jnp.mean(b, -1) if b.shape[-1] else jnp.full(b.shape[:-1], jnp.nan) for b in bands], -1)


def _shells(found: Fields, shape: tuple[int, ...]) -> Array:
    """The squared modulus of the error's Fourier coefficients in each shell, `(samples, *kept, shells)`."""
    modes = jnp.fft.fftn(found.error, axes=found.layout.space)
    power = modes.real**2 + modes.imag**2
    if len(shape) == 1:
        return power[..., : shape[0] // 2 + 1]
    quarter = tuple(n // 2 for n in shape)
    power = power[(..., *(slice(n) for n in quarter))]
    numbers = np.sqrt(sum(np.ix_(*(np.arange(n) ** 2 for n in quarter)), start=np.zeros(())))
    return binned(power, np.floor(numbers).astype(int), min(quarter))
