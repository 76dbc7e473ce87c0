"""Gauss-Newton with adaptive damping (Levenberg-Marquardt)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

from ._equations import Residuals
from ._solvers import Solver, System, choose

# The longest bend of a step, relative to it: half of Transtrum and Sethna's alpha.
TRUSTED = 0.375


class GaussNewtonState(NamedTuple):
    """The damping that the next step tries first, and by what a refusal multiplies it."""

    damping: Array
    growth: Array


def gauss_newton(
    damping: float = 1e-3,
    *,
    solver: Solver | None = None,
    accelerate: bool = True,
    max_tries: int = 8,
    memory: float = 2e9,
) -> optax.GradientTransformationExtraArgs:
    """Levenberg-Marquardt: solves (J^T J + damping I) s = -J^T r and accepts s if the loss decreases.

    With `accelerate`, the step is bent by the second derivative of the residuals along it (geodesic acceleration,
    Transtrum & Sethna, arXiv 1201.5885): a second solution with the same matrix, and about the cost of two gradients.
    PINNs then reach a given loss in a half to a third of the steps. The bend is left out where it is longer than 0.375
    of the step, so that its series is not to be trusted.

    The damping follows the ratio of the loss's decrease to that of the linearised residuals (Nielsen, Damping parameter
    in Marquardt's method, 1999): it falls by up to 3 where both agree and grows by 2, 4, 8, ... with each
    refusal in a row. After `max_tries` refusals the step is zero.

    `solver` is one of

    - `cholesky`: of J^T J, for up to a few thousand parameters;
    - `qr`: of J, where J^T J is too ill-conditioned;
    - `woodbury`: of J J^T, for fewer residuals than parameters;
    - `conjugate_gradients(...)`: products with J only, where neither matrix fits.

    By default it is the first of `cholesky` (for no more parameters than residuals) and `woodbury` whose matrices fit
    into half of `memory` bytes, or else `conjugate_gradients()`; see `choose`. The other half is for chunks of the
    batch: no temporary array grows with the number of examples, but for `woodbury`.

    The transformation takes the extra arguments `residual_fn` (parameters, batch -> residuals by name) and `batch`, as
    `fit` gives them. Residuals are differentiated one example at a time, so each must depend on one example of the
    batch (its leading axis) only; a `Groups` batch holds one such set per name.

    Raises TypeError where the loss returns a scalar rather than residuals by name; ValueError unless `damping`,
    `max_tries` and `memory` are above 0, and for a batch whose arrays have no first axis in common.
    """
    check_positive("gauss_newton", damping=damping, max_tries=max_tries, memory=memory)

    def init(params):
        flat, _ = ravel_pytree(params)
        return GaussNewtonState(jnp.asarray(damping, flat.dtype), jnp.asarray(2.0, flat.dtype))

    def update(updates, state, params, *, batch, residual_fn=None, **extra):
        del updates, extra
        problem, unravel = linear_problem("gauss_newton", residual_fn, params, batch, memory)
        system = (solver or choose(problem))(problem)
        step, state = _damped_step(problem, system, state, accelerate, max_tries)
        return unravel(step), state

    return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore[reportArgumentType]


def linear_problem(name: str, residual_fn, params, batch, memory: float) -> tuple[Residuals, Any]:
    """The residuals as a function of flat parameters, and what makes parameters of these."""
    if residual_fn is None:
        raise TypeError(f"{name} needs residuals: the loss must return a dict of residual arrays, not a scalar")
    flat, unravel = ravel_pytree(params)
    return Residuals(lambda p, b: residual_fn(unravel(p), b), flat, batch, memory), unravel


def follow_gain(damping: Array, gain: Array) -> Array:
    """The damping after a step whose gain, actual over predicted decrease, is `gain` (Nielsen, 1999)."""
    return damping * jnp.clip(1 - (2 * gain - 1) ** 3, 1 / 3, 2.0)


def check_positive(name: str, **arguments: float) -> None:
    """Raises ValueError for an argument that is not above 0."""
    for argument, value in arguments.items():
        if not value > 0:
            raise ValueError(f"{name}: {argument} must be above 0, got {value}")


def _damped_step(problem: Residuals, system: System, state: GaussNewtonState, accelerate: bool, max_tries: int):
    """Tries growing dampings until the loss decreases; returns the step and what the next one starts with."""
    zero = jnp.zeros_like(problem.flat)

    def attempt(carry):
        (damping, growth), _, _, tries = carry
        step, bend = system.solve(damping, zero)
        predicted = damping * jnp.vdot(step, step) - jnp.vdot(system.gradient, step)
        if accelerate:
            more = bend(step)
            trusted = jnp.linalg.norm(more) <= TRUSTED * jnp.linalg.norm(step)
            step = jnp.where(trusted, step + more, step)
        gain = (system.value - problem.value(problem.flat + step)) / predicted
        # A factorisation that fails gives NaN, which compares as no decrease.
        accepted = gain > 0
        lower = jnp.maximum(follow_gain(damping, gain), system.least)
        following = GaussNewtonState(
            jnp.where(accepted, lower, damping * growth), jnp.where(accepted, 2.0, growth * 2).astype(growth.dtype)
        )
        return following, jnp.where(accepted, step, 0.0), accepted, tries + 1

    def refused(carry):
        _, _, accepted, tries = carry
        return ~accepted & (tries < max_tries)

    following, step, accepted, _ = jax.lax.while_loop(refused, attempt, (state, zero, jnp.array(False), 0))
    # Where no damping helps, rounding errors rule, or `max_tries` is small: the damping must not run away.
    once = GaussNewtonState(state.damping * state.growth, jnp.minimum(state.growth * 2, 2.0**max_tries))
    return step, jax.tree.map(lambda a, b: jnp.where(accepted, a, b), following, once)
