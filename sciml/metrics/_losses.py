"""Losses on fields: residuals whose mean square is a weighted or a Sobolev norm.

A loss is a function `(model, batch) -> dict of residual arrays`; a batch is `(*arguments, target)`, and the model is
called on one sample. Axes are those of the batch, `(sample, [time], [channel], *grid)`, as in the metrics.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike

from ._derivatives import gradient, spacings
from ._fields import Layout, layout, quadrature, spread

Loss = Callable[[Callable, tuple], dict[str, Array]]


def weighted_misfit(
    weights: ArrayLike | None = None,
    *,
    grid: int | Sequence[int] | None = None,
    channel: int | None = None,
    time: int | None = None,
    scales: ArrayLike | Sequence[float] | None = None,
    relative: bool = False,
    skip_missing: bool = False,
) -> Loss:
    """A loss: the term `misfit`, prediction minus target, whose mean square is the mean weighted by `weights`.

    - `weights`: quadrature weights on the axes `grid`, such as areas of cells or `latitude_weights`.
    - `scales`: what a unit is: a number, or one for each variable along `channel`, so that each counts alike.
    - `relative`: divided by the root mean square of each target: of a whole sample, or of each variable and lead time
      where `channel` and `time` name their axes.
    - `skip_missing`: points whose target is NaN do not count; the mean is that of the others in the batch.

    Raises ValueError for weights and scales that do not fit.
    """

    def loss(model: Callable, batch: tuple) -> dict[str, Array]:
        prediction, target = _predicted(model, batch)
        places = layout(target.shape, grid, channel, time)
        weight = _relative_weights(weights, places, target)
        residual = prediction - target
        if skip_missing:
            present = ~jnp.isnan(target)
            residual, target = jnp.where(present, residual, 0), jnp.where(present, target, 0)
            present = jnp.broadcast_to(weight * present, target.shape)
            share = jnp.mean(present)
            residual = residual / jnp.sqrt(jnp.where(share > 0, share, 1))
        else:
            present = jnp.broadcast_to(weight, target.shape)
        if relative:
            axes = (*places.inner, *places.grid)
            count = jnp.sum(present, axes, keepdims=True)
            square = jnp.sum(present * target**2, axes, keepdims=True) / jnp.where(count > 0, count, 1)
            # Of a target that is missing altogether nothing counts.
            residual = residual / jnp.sqrt(jnp.where(count > 0, square, 1))
        return {"misfit": residual * jnp.sqrt(weight) / _by_channel(scales, target, channel)}

    return loss


def h1_misfit(
    *,
    grid: int | Sequence[int],
    spacing: ArrayLike | Sequence[ArrayLike] | None = None,
    periodic: bool | Sequence[bool] = True,
    channel: int | None = None,
    time: int | None = None,
    weights: ArrayLike | None = None,
) -> Loss:
    """A loss: the terms `misfit` and `gradient`, both divided by the H1 norm of each target, so that the sum of their
    mean squares is the mean over samples of the squared relative error in the H1 norm (see `relative_h1`).

    `grid`, `spacing` and `periodic` are those of `relative_sobolev`. Where `channel` and `time` name their axes, each
    variable and lead time is divided by a norm of its own and counts alike; otherwise a sample has one norm.
    """

    def loss(model: Callable, batch: tuple) -> dict[str, Array]:
        prediction, target = _predicted(model, batch)
        places = layout(target.shape, grid, channel, time)
        steps = spacings(spacing, [target.shape[a] for a in places.grid], periodic)
        weight = _relative_weights(weights, places, target)
        slopes = gradient(target, places.grid, steps)
        density = target**2 + sum(s**2 for s in slopes)
        size = jnp.mean(weight * density, (*places.inner, *places.grid), keepdims=True)
        factor = jnp.sqrt(weight / size)
        residual = (prediction - target) * factor
        # The mean over the entries of the gradient has to be their sum.
        parts = [d * factor * len(places.grid) ** 0.5 for d in gradient(prediction - target, places.grid, steps)]
        return {"misfit": residual, "gradient": jnp.stack(parts, 1)}

    return loss


def _predicted(model: Callable, batch: tuple) -> tuple[Array, Array]:
    *arguments, target = batch
    prediction, target = jax.vmap(model)(*arguments), jnp.asarray(target)
    if prediction.shape != target.shape:
        raise ValueError(f"the model gives the shape {prediction.shape}, the target has {target.shape}")
    return prediction, target


def _relative_weights(weights: ArrayLike | None, places: Layout, target: Array) -> Array:
    """Weights with a mean of 1 that broadcast against the batch."""
    sizes = [target.shape[a] for a in places.grid]
    found = quadrature(weights, sizes, target.dtype)
    return spread(found / jnp.mean(found), places, target.ndim)


def _by_channel(scales: ArrayLike | Sequence[float] | None, target: Array, channel: int | None) -> Array:
    found = jnp.asarray(1.0 if scales is None else scales, target.dtype)
    if found.ndim == 0:
        return found
    if channel is None or found.shape != (target.shape[channel],):
        raise ValueError(
            f"scales of shape {found.shape}: expected a number, or one for each variable along the axis channel="
            f"{channel} of {target.shape}"
        )
    return jnp.expand_dims(found, [a for a in range(target.ndim) if a != channel % target.ndim])
