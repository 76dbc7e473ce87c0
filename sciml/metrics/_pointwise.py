"""Errors from point to point, in the units of the data or relative to the target."""

from typing import Unpack

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike

from ._fields import Options, as_floats, fields, in_their_precision, root


@in_their_precision
def rmse(prediction: ArrayLike, target: ArrayLike, **options: Unpack[Options]) -> Array:
    """The root of the mean square error over grid and samples, in the units of the data: the root is taken last."""
    found = fields(prediction, target, **options)
    return root(found.pooled(found.error**2))


@in_their_precision
def mae(prediction: ArrayLike, target: ArrayLike, **options: Unpack[Options]) -> Array:
    """The mean absolute error over grid and samples, in the units of the data."""
    found = fields(prediction, target, **options)
    return found.pooled(jnp.abs(found.error))


@in_their_precision
def bias(prediction: ArrayLike, target: ArrayLike, **options: Unpack[Options]) -> Array:
    """The mean of prediction minus target over grid and samples, in the units of the data."""
    found = fields(prediction, target, **options)
    return found.pooled(found.error)


@in_their_precision
def max_error(prediction: ArrayLike, target: ArrayLike, **options: Unpack[Options]) -> Array:
    """The largest absolute error over grid and samples, in the units of the data, of points whose weight is not 0;
    NaN where there are none.
    """
    found = fields(prediction, target, **options)
    counts = jnp.broadcast_to(found.weight > 0, found.target.shape)
    axes = found.layout.summed if found.per_sample else (0, *found.layout.summed)
    largest = jnp.max(jnp.where(counts, jnp.abs(found.error), 0), axes)
    return jnp.where(jnp.any(counts, axes), largest, jnp.nan)


@in_their_precision
def relative_l2(prediction: ArrayLike, target: ArrayLike, **options: Unpack[Options]) -> Array:
    """The L2 norm of the error over that of the target in each sample, then the mean over samples (Li et al., Fourier
    neural operator, ICLR 2021). Without `channel` and `time` a norm is of all that a sample holds, as there.

    A sample whose target is zero throughout has an infinite error.
    """
    found = fields(prediction, target, **options)
    return found.averaged(root(found.sum(found.error**2)) / root(found.sum(found.target**2)))


@in_their_precision
def nrmse(prediction: ArrayLike, target: ArrayLike, **options: Unpack[Options]) -> Array:
    """The root mean square error over the root mean square of the target in each sample (of each variable and lead time
    if these are kept), then the mean over samples. The number of points cancels, so that this is `relative_l2` under
    the name that PDEBench and The Well give it; their own forms are in `pdebench` and `the_well`.
    """
    return relative_l2(prediction, target, **options)


@in_their_precision
def vrmse(prediction: ArrayLike, target: ArrayLike, **options: Unpack[Options]) -> Array:
    """The root mean square error over the standard deviation of the target on the grid in each sample (of each variable
    and lead time if these are kept), then the mean over samples: 1 for a prediction of the spatial mean.

    The variance is that of the points themselves (divided by their number), and nothing is added to it;
    `the_well.vrmse` has the convention of that benchmark.
    """
    found = fields(prediction, target, **options)
    axes = found.layout.summed
    weight = found.sum(1.0)
    mean = jnp.expand_dims(found.sum(found.target) / weight, axes)
    return found.averaged(root(found.sum(found.error**2)) / root(found.sum((found.target - mean) ** 2)))


@in_their_precision
def anomaly_correlation(
    prediction: ArrayLike, target: ArrayLike, climatology: ArrayLike, **options: Unpack[Options]
) -> Array:
    """The correlation of anomalies (prediction and target minus climatology) over the grid in each sample, without
    removing their means, then the mean over samples (Rasp et al., WeatherBench 2, JAMES 16, 2024, section 2.2).

    `climatology` has the shape of the batch, of one sample, or is a number. Raises ValueError for another shape.
    """
    p, t, c = as_floats(prediction, target, climatology)
    if c.ndim and c.shape not in (t.shape, t.shape[1:]):
        raise ValueError(f"climatology: expected the shape of the batch, {t.shape}, or of a sample; got {c.shape}")
    found = fields(p - c, t - c, **options)
    product = found.sum(found.prediction * found.target)
    return found.averaged(product / (root(found.sum(found.prediction**2)) * root(found.sum(found.target**2))))
