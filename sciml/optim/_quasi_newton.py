"""Self-scaled quasi-Newton methods with a dense inverse Hessian, for up to a few thousand parameters."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

from ._line_search import Trial, strong_wolfe


class QuasiNewtonState(NamedTuple):
    """The inverse Hessian `(p, p)`, the loss and its gradient `(p,)` at the current parameters."""

    inverse: Array
    value: Array
    gradient: Array
    count: Array


def self_scaled_broyden(max_evaluations: int = 15) -> optax.GradientTransformationExtraArgs:
    """Self-scaled Broyden's method (Al-Baali, 1998, as used for PINNs by Urban et al., J. Comput. Phys. 523,
    2025, eqs. 13-23) with a line search for the strong Wolfe conditions.

    The transformation takes the extra arguments `value_fn` (parameters -> loss, on the current batch) and
    `fresh` (whether the batch has changed since the last step, in which case the loss and its gradient are
    computed anew while the inverse Hessian is kept). Memory: p**2 numbers.
    """
    return _quasi_newton(_broyden_coefficients, max_evaluations)


def self_scaled_bfgs(max_evaluations: int = 15) -> optax.GradientTransformationExtraArgs:
    """Self-scaled BFGS: as `self_scaled_broyden`, with the BFGS member of Broyden's family."""
    return _quasi_newton(_bfgs_coefficients, max_evaluations)


def _bfgs_coefficients(b, h, size):
    """Scaling tau and Broyden's phi, from b = s.Bs / y.s and h = y.Hy / y.s."""
    return jnp.minimum(1.0, 1.0 / b), jnp.ones_like(b)


def _broyden_coefficients(b, h, size):
    a = jnp.maximum(h * b - 1.0, 1e-12)
    c = jnp.sqrt(a / (a + 1.0))
    rho = jnp.minimum(1.0, h * (1.0 - c))
    theta = jnp.clip((1.0 - b) / b, (rho - 1.0) / a, 1.0 / rho)
    sigma = 1.0 + theta * a
    root = sigma ** (-1.0 / (size - 1)) if size > 1 else jnp.ones_like(sigma)
    tau = jnp.minimum(1.0, 1.0 / b)
    positive = tau * jnp.minimum(root, 1.0 / jnp.where(theta > 0, theta, 1.0))
    scale = jnp.where(theta > 0, positive, jnp.minimum(tau * root, sigma))
    return scale, (1.0 - theta) / sigma


def _quasi_newton(coefficients, max_evaluations) -> optax.GradientTransformationExtraArgs:
    def init(params):
        flat, _ = ravel_pytree(params)
        size = flat.size
        return QuasiNewtonState(
            jnp.eye(size, dtype=flat.dtype),
            jnp.zeros((), flat.dtype),
            jnp.zeros_like(flat),
            jnp.zeros((), jnp.int32),
        )

    def update(updates, state, params, *, value_fn, fresh=True, **extra):
        del updates, extra
        flat, unravel = ravel_pytree(params)
        value_and_grad = jax.value_and_grad(lambda p: value_fn(unravel(p)).astype(flat.dtype))
        stale = fresh | (state.count == 0)
        value, gradient = jax.lax.cond(stale, value_and_grad, lambda _: (state.value, state.gradient), flat)
        inverse, direction = _descent(state.inverse, gradient)
        start = Trial(jnp.zeros_like(value), value, jnp.vdot(direction, gradient), gradient)
        # The very first direction is the gradient itself, whose length means nothing.
        first = jnp.where(state.count == 0, jnp.minimum(1.0, 1.0 / jnp.linalg.norm(gradient)), 1.0)
        end = strong_wolfe(value_and_grad, flat, start, direction, first=first, max_evaluations=max_evaluations)
        step = end.step * direction
        inverse = _update_inverse(inverse, step, end, gradient, coefficients)
        return unravel(step), QuasiNewtonState(inverse, end.value, end.gradient, state.count + 1)

    return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore[reportArgumentType]


def _descent(inverse, gradient):
    """The quasi-Newton direction; steepest descent, and a new start, where that does not descend."""
    direction = -inverse @ gradient
    descends = jnp.vdot(direction, gradient) < 0

    def restart(_):
        size = jnp.maximum(jnp.linalg.norm(gradient), jnp.finfo(gradient.dtype).tiny)
        return jnp.eye(gradient.size, dtype=gradient.dtype) / size, -gradient / size

    return jax.lax.cond(descends, lambda _: (inverse, direction), restart, None)


def _update_inverse(inverse, step, end: Trial, gradient, coefficients):
    """Broyden's family with scaling: H <- (H - Hy yH / yHy + phi v v) / tau + s s / y.s."""
    change = end.gradient - gradient
    curvature = jnp.vdot(change, step)
    image = inverse @ change
    quadratic = jnp.vdot(change, image)
    b = -end.step * jnp.vdot(gradient, step) / curvature
    tau, phi = coefficients(b, quadratic / curvature, step.size)
    v = jnp.sqrt(quadratic) * (step / curvature - image / quadratic)
    tiny = jnp.finfo(step.dtype).eps
    usable = (curvature > tiny * jnp.linalg.norm(change) * jnp.linalg.norm(step)) & (quadratic > 0)
    usable &= jnp.isfinite(tau) & jnp.isfinite(phi) & (tau > 0)

    def updated(h):
        left = jnp.stack([-image / (quadratic * tau), phi * v / tau, step / curvature], axis=1)
        right = jnp.stack([image, v, step])
        # Three rank-one terms in one elementwise pass over the matrix.
        return h / tau + sum(left[:, i, None] * right[i] for i in range(3))

    return jax.lax.cond(usable, updated, lambda h: h, inverse)
