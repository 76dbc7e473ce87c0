"""Where data along a line jump, or their derivatives do.

Automatic differentiation does not see a jump: of `jnp.where(x < 0, 1.0, 0.0)` it gives the slope 0 everywhere. So what
a function gains over a short stretch is compared with the integral of its derivative, and the stretches with the
largest differences are halved again and again: the difference falls with the length where the function is smooth,
however steep, and stays where it jumps.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._derivatives import derivatives

# Stretches of an axis, those that are halved, and how often.
STRETCHES, SUSPECTS, HALVINGS = 1024, 8, 30
# Differences of an order above that of the equation are looked at first. Where none is so many times the median, and
# larger than rounding relative to the values, there is no kink whose size is above 1e-4 of the curvature.
UNUSUAL, ROUNDING = 100.0, 1e-13
# Gains relative to the values of all that are no rounding errors.
LARGE = 1e-6
# How far from the ends of the axis, where a function may have no slope, relative to its length.
MARGIN = 1e-9


def kink(
    data: Callable, points: Float[Array, "n d"], axis: int, bounds: tuple[float, float], order: int
) -> float | None:
    """Where, on lines along an axis through some points, a function or one of its derivatives below `order` jumps; None
    where there is no such place.

    **Arguments:** `data` maps a point `(d,)` to a number; `bounds` are the ends of the axis. Call it in double
    precision.
    """
    low, high = bounds
    # One shape for all lines, so that operations are compiled once for all data.
    ends = low + (high - low) * np.linspace(MARGIN, 1 - MARGIN, STRETCHES + 1)
    on_lines = jnp.repeat(points, len(ends), axis=0).at[:, axis].set(jnp.tile(ends, len(points)))
    if not _is_suspicious(np.asarray(jax.vmap(data)(on_lines)).reshape(len(points), -1), order):
        return None
    orders = tuple(range(order + 1))

    @jax.jit
    def along(at):
        """The function and its derivatives, `(orders, n, *at)`."""

        def one(point, x):
            found = derivatives(lambda p: data(p) + 0 * p[0], point.at[axis].set(x), [(axis,) * k for k in orders])
            return jnp.stack([found[(axis,) * k] for k in orders])

        over_points = jax.vmap(jax.vmap(one, in_axes=(None, 0)), in_axes=(0, None if at.ndim == 1 else 0))
        return jnp.moveaxis(over_points(points, at), -1, 0)

    values, length = np.asarray(along(jnp.asarray(ends))), ends[1] - ends[0]
    gains = _gains(values, length)
    scale = np.abs(values[:-1]).max(axis=(1, 2)) + np.finfo(float).tiny
    for k in range(order):
        at = np.argsort(-gains[k], axis=1)[:, :SUSPECTS]
        place, gain = _narrowed(along, ends[at], length, k)
        if gain > LARGE * scale[k]:
            return place
    return None


def _is_suspicious(values: Float[np.ndarray, "n stretches"], order: int) -> bool:
    """Whether a difference of a function is much larger than others on the same line."""
    differences = np.abs(np.diff(values, n=order + 1, axis=1))
    usual = UNUSUAL * np.median(differences, axis=1) + ROUNDING * np.abs(values).max(axis=1)
    return bool((differences > usual[:, None]).any())


def _gains(values: np.ndarray, length: float) -> np.ndarray:
    """What functions gain over stretches beyond the integrals of their derivatives, `(orders, n, stretches)`."""
    integrals = (values[1:, :, 1:] + values[1:, :, :-1]) / 2 * length
    return np.nan_to_num(np.abs(np.diff(values[:-1], axis=2) - integrals), posinf=0.0)


def _narrowed(along: Callable, starts: np.ndarray, length: float, order: int) -> tuple[float, float]:
    """The place of the largest gain of a derivative after all halvings, from stretches `(n, suspects)`; and that."""
    gain = np.zeros(starts.shape)
    for _ in range(HALVINGS):
        length /= 2
        ends = np.stack([starts, starts + length, starts + 2 * length], axis=2)
        values = np.asarray(along(jnp.asarray(ends.reshape(len(starts), -1)))).reshape(-1, *ends.shape)
        both = np.stack([_gains(values[order : order + 2, i], length)[0] for i in range(len(starts))])
        starts, gain = np.where(both[..., 0] >= both[..., 1], starts, starts + length), both.max(axis=2)
    worst = np.unravel_index(gain.argmax(), gain.shape)
    return float(starts[worst]), float(gain[worst])
