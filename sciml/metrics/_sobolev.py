"""Relative errors in Sobolev norms: errors of derivatives count too."""

import math
from collections.abc import Sequence
from typing import Unpack

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike

from ._derivatives import higher, spacings, wavenumbers
from ._fields import Fields, Weighted, fields, in_their_precision, root


@in_their_precision
def relative_h1(
    prediction: ArrayLike,
    target: ArrayLike,
    *,
    grid: int | Sequence[int],
    spacing: ArrayLike | Sequence[ArrayLike] | None = None,
    periodic: bool | Sequence[bool] = True,
    channel: int | None = None,
    time: int | None = None,
    weights: ArrayLike | None = None,
    per_sample: bool = False,
) -> Array:
    """The H1 norm of the error over that of the target in each sample, then the mean over samples, where the squared
    norm is the integral of `u^2 + |grad u|^2`. Arguments are those of `relative_sobolev`.
    """
    options: Weighted = {"channel": channel, "time": time, "weights": weights, "per_sample": per_sample}
    return relative_sobolev(prediction, target, 1, grid=grid, spacing=spacing, periodic=periodic, **options)


@in_their_precision
def relative_sobolev(
    prediction: ArrayLike,
    target: ArrayLike,
    order: float,
    *,
    grid: int | Sequence[int],
    spacing: ArrayLike | Sequence[ArrayLike] | None = None,
    periodic: bool | Sequence[bool] = True,
    **options: Unpack[Weighted],
) -> Array:
    """The H^s norm of the error over that of the target in each sample, then the mean over samples.

    - `order`: s. The squared norm is the sum over modes of `(1 + |k|^2)^s |u_k|^2`, or the same by derivatives: the
      integral of the sum over j of `(s over j) |D^j u|^2`, with the tensors of all j-th derivatives.
    - `grid`: the axes along which to differentiate, which must be named. Other axes of a sample are part of its norm.
    - `spacing`: the step between points or their places, one for all axes or a sequence with one for each; by default
      the grid has the length 1 along each axis.
    - `periodic`: of all axes or a sequence with one for each. Derivatives are those of the Fourier series along
      periodic axes, and differences of fourth order along others.

    An order that is not a whole number (or below 0) needs axes that are all periodic and no weights. Derivatives need a
    value at each point: there is no mask. Raises ValueError for what does not fit.
    """
    found = fields(prediction, target, grid=grid, **options)
    shape = found.target.shape[-len(found.layout.grid) :]
    steps = spacings(spacing, shape, periodic)
    if order >= 0 and order == int(order):
        density = [_by_derivatives(found, u, int(order), steps) for u in (found.error, found.target)]
        error, size = (found.sum(d) for d in density)
    elif all(p for _, p in steps) and options.get("weights") is None:
        factors = (1 + wavenumbers(shape, [float(s) for s, _ in steps]) ** 2) ** float(order)
        series = [jnp.fft.fftn(u, axes=found.layout.space) for u in (found.error, found.target)]
        error, size = (
            jnp.sum(jnp.asarray(factors, found.target.dtype) * jnp.abs(s) ** 2, found.layout.summed) for s in series
        )
    else:
        raise ValueError(f"the order {order} needs periodic axes and no weights; a whole order from 0 has any")
    return found.averaged(root(error) / root(size))


def _by_derivatives(found: Fields, u: Array, order: int, steps: list) -> Array:
    """The density of the squared norm."""
    axes = found.layout.space
    density = jnp.zeros_like(u)
    for j in range(order + 1):
        density += math.comb(order, j) * sum(v**2 for v in higher(u, j, axes, steps))
    return density
