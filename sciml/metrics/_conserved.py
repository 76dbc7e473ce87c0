"""Conserved quantities: integrals over the grid, and how they drift in time."""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike

from ._fields import as_floats, fields, in_their_precision, layout, root


@in_their_precision
def total(
    field: ArrayLike,
    *,
    grid: int | Sequence[int] | None = None,
    channel: int | None = None,
    time: int | None = None,
    weights: ArrayLike | None = None,
    mask: ArrayLike | None = None,
) -> Array:
    """The integral of a field (a density) over the grid: the sum of values times weights, such as areas of cells, or
    the mean where there are none; `(samples, *kept)`. For axes, weights and mask see `Options`.
    """
    found = fields(field, field, grid=grid, channel=channel, time=time, weights=weights, mask=mask, per_sample=True)
    return found.pooled(found.target) if weights is None else found.sum(found.target)


@in_their_precision
def drift(
    prediction: ArrayLike,
    initial: ArrayLike,
    *,
    time: int,
    grid: int | Sequence[int] | None = None,
    channel: int | None = None,
    weights: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    per_sample: bool = False,
) -> Array:
    """How far the integral of a density has moved from its initial one, as a part of the initial integral of the
    density's modulus, at each lead time: 0 where it is conserved.

    - `prediction`: the density over time: the field itself for mass, `u**2 / 2` for energy, with an axis `time`.
    - `initial`: the density at the start, as the prediction but without the axis of time, or with one entry there.

    The root mean square over samples, or with its sign for each sample. The modulus makes the quotient meaningful where
    the integral itself is 0, as the mean of a periodic field often is. Raises ValueError for other shapes.
    """
    density, start = as_floats(prediction, initial)
    layout(density.shape, grid, channel, time)  # whether the axes exist
    if start.ndim == density.ndim - 1:
        start = jnp.expand_dims(start, time % density.ndim)
    wanted = list(density.shape)
    wanted[time] = 1
    if list(start.shape) != wanted:
        raise ValueError(f"initial: expected the shape {tuple(wanted)}, or without the axis {time}; got {start.shape}")
    start = jnp.broadcast_to(start, density.shape)
    found = fields(density, start, grid=grid, channel=channel, time=time, weights=weights, mask=mask)
    change = found.sum(found.error) / found.sum(jnp.abs(found.target))
    return change if per_sample else root(jnp.mean(change**2, 0))
