"""Energy natural gradient with momentum (SPRING)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

from ._gauss_newton import check_positive, follow_gain, linear_problem
from ._solvers import Solver, System, choose

# A direction is not solved for a second time, so that its damping stays this far above rounding errors.
ROUNDING = 1e3


class NaturalGradientState(NamedTuple):
    """The damping of the next step, and the last direction `(p,)`."""

    damping: Array
    direction: Array


def energy_natural_gradient(
    damping: float = 1e-3,
    momentum: float = 0.5,
    *,
    solver: Solver | None = None,
    max_tries: int = 12,
    memory: float = 2e9,
) -> optax.GradientTransformationExtraArgs:
    """The natural gradient of least squares with momentum: SPRING (Goldshlager, Abrahamsen & Lin, J. Comput. Phys. 516,
    2024), for PINNs Guzman-Cordero et al., Improving energy natural gradient descent through Woodbury, momentum, and
    randomization, 2025.

    The direction d minimises `|J d + r|^2 + damping |d - momentum e|^2`, where e is the last one: what the present
    batch does not determine is kept from earlier ones. One system is solved for each step. The parameters move by
    length * d, where the length is the first of l, l/2, l/4, ... that decreases the loss on the present batch. If none
    of `max_tries` does, the step is zero and the momentum is dropped.

    It begins at l = min(1, 2 (1 - momentum)). Directions that no batch contradicts add up to d / (1 - momentum): on a
    linear problem, a length of 1 - momentum gives the path of no momentum at all, twice that converges several times as
    fast, and much longer ones diverge, which the batch at hand cannot see. With the default, full steps remain, as
    the batches that determine all parameters want them; noisy residuals want more momentum.

    The damping follows the agreement of loss and linearised residuals as in `gauss_newton`, and grows as a step is
    shortened. With `momentum=0` on one batch this is `gauss_newton` with shorter steps in place of larger dampings: for
    solvers whose every solution is dear.

    `solver`, `memory` and the extra arguments are those of `gauss_newton`.

    Raises TypeError where the loss returns a scalar rather than residuals by name; ValueError unless `damping`,
    `max_tries` and `memory` are above 0 and `momentum` is at least 0 and below 1, and for a batch whose arrays have no
    first axis in common.
    """
    check_positive("energy_natural_gradient", damping=damping, max_tries=max_tries, memory=memory)
    if not 0 <= momentum < 1:
        raise ValueError(f"energy_natural_gradient: momentum must be at least 0 and below 1, got {momentum}")

    def init(params):
        flat, _ = ravel_pytree(params)
        return NaturalGradientState(jnp.asarray(damping, flat.dtype), jnp.zeros_like(flat))

    def update(updates, state, params, *, batch, residual_fn=None, **extra):
        del updates, extra
        problem, unravel = linear_problem("energy_natural_gradient", residual_fn, params, batch, memory)
        system = (solver or choose(problem))(problem)
        direction = system.solve(state.damping, momentum * state.direction).step
        longest = min(1.0, 2 * (1 - momentum))
        length, gain = _shorten(problem, system, state, momentum, direction, longest, max_tries)
        found = length > 0
        # A step that is not shortened agrees more or less; each halving doubles the damping, as does a failure.
        factor = jnp.where(found, longest / length, 2.0)
        after = jnp.where(factor == 1, follow_gain(state.damping, gain), factor * state.damping)
        kept = jnp.where(found, direction, 0.0)
        return unravel(length * kept), NaturalGradientState(jnp.maximum(after, ROUNDING * system.least), kept)

    return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore[reportArgumentType]


def _shorten(problem, system: System, state: NaturalGradientState, momentum, direction, longest, max_tries):
    """The first length of `longest` times 1, 1/2, 1/4, ... that decreases the loss, and its gain; (0, 0) for none."""
    slope = jnp.vdot(system.gradient, direction)
    towards = jnp.vdot(direction, momentum * state.direction - direction)
    # From the equations of the direction: d^T J^T J d.
    curvature = state.damping * towards - slope

    def refused(carry):
        _, gain, tries = carry
        return ~(gain > 0) & (tries < max_tries)

    def attempt(carry):
        length, _, tries = carry
        length = jnp.where(tries > 0, length / 2, length)
        decrease = system.value - problem.value(problem.flat + length * direction)
        predicted = -2 * length * slope - length**2 * curvature
        # Momentum may lead where the linearised residuals grow: then no decrease is as predicted.
        return length, jnp.where((decrease > 0) & (predicted > 0), decrease / predicted, 0.0), tries + 1

    begin = (jnp.full_like(system.value, longest), jnp.zeros_like(system.value), 0)
    length, gain, _ = jax.lax.while_loop(refused, attempt, begin)
    return jnp.where(gain > 0, length, 0.0), gain
