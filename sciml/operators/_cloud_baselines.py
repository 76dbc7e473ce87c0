"""Regressions between fixed vectors, for clouds of points that differ from sample to sample."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# Relative to the mean square of a hat function: coefficients where a cloud has no points are small.
RIDGE = 1e-6


def _ones(features: Array) -> Array:
    return jnp.ones(features.shape[1], features.dtype)


class Hats(eqx.Module):
    """Bilinear hat functions on a grid of `count` points along each axis of a box, times a factor of one's own."""

    low: tuple[float, ...] = eqx.field(static=True)
    high: tuple[float, ...] = eqx.field(static=True)
    count: int = eqx.field(static=True)
    factor: Callable = eqx.field(static=True)

    def __call__(self, features: Float[Array, "channels n"], points: Float[Array, "n d"]) -> Float[Array, "n hats"]:
        """Their values at the points."""
        out = self.factor(features)[:, None]
        for axis, (low, high) in enumerate(zip(self.low, self.high)):
            nodes = jnp.linspace(low, high, self.count, dtype=points.dtype)
            step = (high - low) / (self.count - 1)
            hats = jnp.maximum(0, 1 - jnp.abs(points[:, axis, None] - nodes) / step)
            out = (out[:, :, None] * hats[:, None, :]).reshape(len(points), -1)
        return out

    def integrals(self, features, points, weights) -> Float[Array, " moments"]:
        """The integrals of 1 and of each channel of the features over each hat function."""
        values = self(features, points)
        return jnp.concatenate([weights @ values, ((weights * features) @ values).reshape(-1)])

    def coefficients(self, features, points, weights, target) -> Float[Array, "out_channels hats"]:
        """Those of the sum of hat functions that is nearest to each channel of the target."""
        root = jnp.sqrt(weights / jnp.sum(weights))
        values = self(features, points) * root[:, None]
        gram = values.T @ values + RIDGE * jnp.eye(values.shape[1], dtype=values.dtype)
        return jnp.linalg.solve(gram, values.T @ (root * target).T).T


class OnHats(eqx.Module):
    """A map from integrals over hat functions to coefficients of hat functions, as a model on clouds."""

    hats: Hats
    model: Callable

    def __call__(self, features: Array, points: Array, *rest: Any) -> Float[Array, "out_channels n"]:
        *_, weights, _ = rest
        return self.model(self.hats.integrals(features, points, weights)) @ self.hats(features, points).T


def on_hats(
    fit: Callable,
    clouds: tuple,
    *,
    box: Sequence[tuple[float, float]],
    count: int = 16,
    factor: Callable = _ones,
) -> OnHats:
    """A regression for clouds of points, to compare with: `fit` (`linear`, `kernel_ridge`, or another function of
    inputs and targets that returns a model) from the integrals of the features over bilinear hat functions to the
    coefficients of the sum of hat functions that is nearest to the target.

    - `clouds`: a batch of all samples, `(features, points, ..., weights, mask, targets)`, as `stack_clouds` makes them.
      The result takes what a model on clouds takes, `(features, points, ..., weights, mask)`.
    - `box`: the ends of the grid of `count` points along each axis; all points should lie in it.
    - `factor`: a function `(channels, n) -> (n,)` of the features that all hat functions are multiplied by, such as one
      that vanishes on the boundary.

    Raises ValueError for a box that does not fit the points and a count below 2.
    """
    features, points, *_, weights, _, targets = clouds
    if len(box) != points.shape[-1] or count < 2 or any(not low < high for low, high in box):
        raise ValueError(
            f"on_hats: expected (low, high) for each of {points.shape[-1]} axes and count 2 or more, got {box}, {count}"
        )
    low, high = (tuple(float(v) for v in ends) for ends in zip(*box))
    hats = Hats(low, high, count, factor)
    inputs = jax.lax.map(lambda one: hats.integrals(*one), (features, points, weights), batch_size=16)
    best = jax.lax.map(lambda one: hats.coefficients(*one), (features, points, weights, targets), batch_size=16)
    return OnHats(hats, fit(inputs, best))
