"""Gauss-Newton with adaptive damping (Levenberg-Marquardt), for up to a few thousand parameters."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from .._loss import Groups


class GaussNewtonState(NamedTuple):
    """The damping that the next step tries first."""

    damping: Array


def gauss_newton(
    damping: float = 1e-3, *, max_tries: int = 8, memory: float = 256e6
) -> optax.GradientTransformationExtraArgs:
    """Levenberg-Marquardt: solves (J^T J + damping I) s = -J^T r and accepts s if the loss decreases.

    The damping falls by 3 after a step accepted at once and grows by 4 with each refusal (Nocedal & Wright, 2006,
    section 10.3); after `max_tries` refusals the step is zero.

    The transformation takes the extra arguments `residual_fn` (parameters, batch -> residuals by name), `batch`
    and `value_fn`. The rows of J are found one example at a time, so every residual must depend on one example of
    the batch (its leading axis) only; a `Groups` batch holds one such set per name. `memory` bounds the bytes of
    the rows held at once; p**2 numbers come on top.

    Raises TypeError where the loss returns a scalar rather than residuals by name.
    """

    def init(params):
        flat, _ = ravel_pytree(params)
        return GaussNewtonState(jnp.asarray(damping, flat.dtype))

    def update(updates, state, params, *, value_fn, batch, residual_fn=None, **extra):
        del updates, extra
        if residual_fn is None:
            raise TypeError(
                "gauss_newton needs residuals: the loss must return a dict of residual arrays, not a scalar"
            )
        flat, unravel = ravel_pytree(params)
        matrix, gradient, value = normal_equations(lambda p, b: residual_fn(unravel(p), b), flat, batch, memory)
        step, damping = _damped_step(
            matrix, gradient, value, lambda s: value_fn(unravel(flat + s)), state.damping, max_tries
        )
        return unravel(step), GaussNewtonState(damping)

    return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore[reportArgumentType]


def normal_equations(
    residual_fn: Callable, flat: Float[Array, " p"], batch, memory: float = 256e6
) -> tuple[Float[Array, "p p"], Float[Array, " p"], Float[Array, ""]]:
    """`J^T J`, `J^T r` and `r^T r` of the residuals, scaled so that the last is the sum of their mean squares."""
    size = flat.size
    out = (jnp.zeros((size, size), flat.dtype), jnp.zeros_like(flat), jnp.zeros((), flat.dtype))
    groups = [Groups({k: v}) for k, v in batch.items()] if isinstance(batch, Groups) else [batch]
    for group in groups:
        part = _group_equations(residual_fn, flat, group, memory)
        out = jax.tree.map(jnp.add, out, part)
    return out


def _group_equations(residual_fn, flat, batch, memory):
    count = jax.tree.leaves(batch)[0].shape[0]
    chunk = int(max(1, min(count, memory // (flat.size * flat.dtype.itemsize))))

    def one(p, example):
        terms = residual_fn(p, jax.tree.map(lambda a: a[None], example))
        rows = [jnp.ravel(r) / jnp.sqrt(r.size * count) for r in terms.values()]
        return jnp.concatenate(rows).astype(flat.dtype)

    def equations(examples):
        def row(example):
            r, pullback = jax.vjp(lambda p: one(p, example), flat)
            return r, jax.vmap(lambda v: pullback(v)[0])(jnp.eye(r.size, dtype=r.dtype))

        residual, rows = jax.vmap(row)(examples)
        residual, rows = residual.reshape(-1), rows.reshape(-1, flat.size)
        return rows.T @ rows, rows.T @ residual, jnp.vdot(residual, residual)

    whole = count // chunk * chunk
    pieces = jax.tree.map(lambda a: a[:whole].reshape(-1, chunk, *a.shape[1:]), batch)

    def add(total, examples):
        return jax.tree.map(jnp.add, total, equations(examples)), None

    start = jax.tree.map(jnp.zeros_like, jax.eval_shape(equations, jax.tree.map(lambda a: a[0], pieces)))
    if chunk == count:
        return equations(batch)
    total, _ = jax.lax.scan(add, start, pieces)
    if whole < count:
        total = jax.tree.map(jnp.add, total, equations(jax.tree.map(lambda a: a[whole:], batch)))
    return total


def _damped_step(matrix, gradient, value, value_at, damping, max_tries):
    """Tries growing dampings until the loss decreases; returns the step and the damping for the next one."""
    identity = jnp.eye(gradient.size, dtype=gradient.dtype)

    def attempt(damping):
        factor = jax.scipy.linalg.cho_factor(matrix + damping * identity)
        step = -jax.scipy.linalg.cho_solve(factor, gradient)
        # A factorisation that fails gives NaN, which compares as no decrease.
        return step, value_at(step) < value

    def refused(carry):
        _, _, accepted, tries = carry
        return ~accepted & (tries < max_tries)

    def again(carry):
        damping, _, _, tries = carry
        step, accepted = attempt(4 * damping)
        return 4 * damping, step, accepted, tries + 1

    step, accepted = attempt(damping)
    damping, step, accepted, tries = jax.lax.while_loop(refused, again, (damping, step, accepted, 1))
    floor = jnp.finfo(gradient.dtype).eps * jnp.trace(matrix) / gradient.size
    following = jnp.where(tries == 1, jnp.maximum(damping / 3, floor), damping)
    return jnp.where(accepted, step, 0.0), following
