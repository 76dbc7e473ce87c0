"""A line search for the strong Wolfe conditions, as one loop that compiles to few operations."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


class Trial(NamedTuple):
    """A step length, with the value, slope and gradient of the objective there."""

    step: Array
    value: Array
    slope: Array
    gradient: Array


class _Search(NamedTuple):
    low: Trial  # the best step so far that decreases enough
    high: Trial  # the other end of the bracket, once there is one
    bracketed: Array
    done: Array
    next: Array
    evaluations: Array


def strong_wolfe(
    value_and_grad: Callable,
    point: Float[Array, " p"],
    start: Trial,
    direction: Float[Array, " p"],
    *,
    first: Array | float = 1.0,
    decrease: float = 1e-4,
    curvature: float = 0.9,
    max_evaluations: int = 15,
) -> Trial:
    """A step along `direction` that satisfies the strong Wolfe conditions (Nocedal & Wright, 2006, alg. 3.5).

    `start` holds the value, the slope and the gradient at step 0. If the conditions are not met within
    `max_evaluations`, the best step with sufficient decrease is returned; a step of zero means that none was
    found. A value that is not finite counts as too large.
    """

    def evaluate(step):
        value, gradient = value_and_grad(point + step * direction)
        return Trial(step, value, jnp.vdot(gradient, direction), gradient)

    def body(s: _Search) -> _Search:
        trial = evaluate(s.next)
        enough = trial.value <= start.value + decrease * trial.step * start.slope
        too_far = ~(enough & (trial.value < s.low.value))
        done = ~too_far & (jnp.abs(trial.slope) <= -curvature * start.slope)
        # Beyond a minimum the old lower end closes the bracket.
        span = jnp.where(s.bracketed, s.high.step - s.low.step, 1.0)
        turned = ~too_far & (trial.slope * span >= 0)
        high = _choose(too_far, trial, _choose(turned, s.low, s.high))
        low = _choose(too_far, s.low, trial)
        bracketed = s.bracketed | too_far | turned
        following = jnp.where(bracketed, _interpolate(low, high), _extrapolate(s.low, trial))
        return _Search(low, high, bracketed, done, following, s.evaluations + 1)

    def unfinished(s: _Search):
        return ~s.done & (s.evaluations < max_evaluations)

    begin = _Search(start, start, jnp.array(False), jnp.array(False), jnp.asarray(first, point.dtype), jnp.array(0))
    return lax.while_loop(unfinished, body, begin).low


def _choose(condition, a: Trial, b: Trial) -> Trial:
    return Trial(*(jnp.where(condition, x, y) for x, y in zip(a, b)))


def _minimum_of_cubic(a: Trial, b: Trial):
    """The minimum of the cubic through two values and slopes (Nocedal & Wright, 2006, eq. 3.59)."""
    width = b.step - a.step
    d1 = a.slope + b.slope - 3 * (a.value - b.value) / jnp.where(width == 0, 1.0, -width)
    d2 = jnp.sign(width) * jnp.sqrt(jnp.maximum(d1**2 - a.slope * b.slope, 0.0))
    denominator = b.slope - a.slope + 2 * d2
    return b.step - width * (b.slope + d2 - d1) / jnp.where(denominator == 0, 1.0, denominator)


def _interpolate(low: Trial, high: Trial):
    step, width = _minimum_of_cubic(low, high), high.step - low.step
    fraction = (step - low.step) / jnp.where(width == 0, 1.0, width)
    # Keep away from both ends; bisect where the cubic says nothing (values that are not finite).
    fraction = jnp.where(jnp.isfinite(fraction), jnp.clip(fraction, 0.1, 0.9), 0.5)
    fraction = jnp.where(jnp.isfinite(high.value), fraction, 0.2)
    return low.step + fraction * width


def _extrapolate(previous: Trial, trial: Trial):
    step = _minimum_of_cubic(previous, trial)
    step = jnp.where(jnp.isfinite(step) & (step > trial.step), step, 4 * trial.step)
    return jnp.clip(step, 1.5 * trial.step, 4 * trial.step)
