"""The number of steps that the solver needs, by its local error, as one more term of a loss."""

from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ._losses import Weighed
from ._models import ODE
from ._steps import DOUBLE, SINGLE, Steps, guarded, solution
from ._trajectories import Trajectories


def fewer_steps(loss: Callable, weight: float) -> Callable:
    """The loss with one more term, `steps`, whose mean square is `weight` times the number of steps that the solver
    needs in an interval of the times, as its own estimate of the local error says: (1 + E^2)^(1 / 2p) for the error E
    of one step over the whole interval, in units of the tolerance, by a solver whose estimate is of order p.

    Of models that fit equally well it is lowest for those with slower and smoother dynamics; compare `step_counts` to
    see what it saves (Pal, Ma, Shah & Rackauckas, Opening the blackbox, ICML 2021, which adds up the errors of the
    steps that were taken; at states along the solution rather than within the solver as by Pal, Edelman & Rackauckas,
    Locally regularized neural differential equations, ICML 2023). The solution is computed once more for it. The
    estimate is good for intervals of a few steps; over longer ones it grows with the error all the same.

    For an `ODE` with adaptive `Steps` of an explicit Runge-Kutta solver, and `Trajectories`, `Weighed` or not. Padding,
    and states after which a solution failed, give zero. Raises ValueError for a weight that is not above 0, constant
    steps, and solvers that are implicit or do not estimate their error; TypeError for other models.
    """
    if not weight > 0:
        raise ValueError(f"fewer_steps: weight must be above 0, got {weight}")

    def regularised(model, batch):
        data = jax.tree.map(jnp.asarray, batch.data if isinstance(batch, Weighed) else batch)
        needed = jax.vmap(lambda y0, ts, args: steps_needed(model, y0, ts, args))(data.y0, data.ts, data.args)
        return dict(loss(model, batch)) | {"steps": jnp.sqrt(weight) * needed}

    return regularised


def steps_needed(model: Any, y0: Float[Array, " d"], ts: Float[Array, " n"], args: Any) -> Float[Array, " m"]:
    """The root of the number of steps that each of the n - 1 intervals needs, see `fewer_steps`."""
    steps = _adaptive(model)
    ys = model(y0, ts, args)
    ts = ts.astype(ys.dtype)
    usual = DOUBLE if ys.dtype == jnp.float64 else SINGLE
    rtol, atol = (usual if tolerance is None else tolerance for tolerance in (steps.rtol, steps.atol))
    order = steps.solver.error_order(diffrax.ODETerm(model.field))
    fine = jnp.all(jnp.isfinite(ys[:-1]), axis=1) & (jnp.diff(ts) > 0)
    # An interval that does not count has a step too, of which nothing is kept.
    start = jnp.where(jnp.isfinite(ys[0]), ys[0], 0)
    states, ends = jnp.where(fine[:, None], ys[:-1], start), jnp.where(fine, ts[1:], ts[:-1] + 1)

    def interval(t0, t1, y):
        error = _local_error(steps, model.field, t0, t1, y, args)
        squares = jnp.mean((error / (atol + rtol * jnp.abs(y))) ** 2)
        return (1 + squares) ** (0.25 / order)

    return jnp.where(fine, jax.vmap(interval)(ts[:-1], ends, states), 0)


def step_counts(model: Any, data: Trajectories) -> Int[Array, " k"]:
    """How many steps the solver takes for each trajectory, those that it rejects included. Raises TypeError for models
    other than an `ODE` with `Steps`.
    """
    steps = _steps(model)

    @eqx.filter_jit
    def counted(field, data):
        def one(y0, ts, args):
            return solution(field, y0, ts, args, steps, diffrax.RecursiveCheckpointAdjoint()).stats["num_steps"]

        return jax.vmap(one)(data.y0, data.ts, data.args)

    data = jax.tree.map(jnp.asarray, data)
    return counted(model.field, data._replace(ts=data.ts.astype(data.y0.dtype)))


def _steps(model: Any) -> Steps:
    if not (isinstance(model, ODE) and isinstance(model.steps, Steps)):
        within = f" with {type(model.steps).__name__}" if isinstance(model, ODE) else ""
        raise TypeError(f"expected a sciml.ode.ODE with sciml.ode.Steps, got {type(model).__name__}{within}")
    return model.steps


def _adaptive(model: Any) -> Steps:
    steps = _steps(model)
    if steps.dt is not None:
        raise ValueError("fewer_steps: the number of constant steps does not depend on the model; leave out dt")
    if not isinstance(steps.solver, diffrax.AbstractERK) or not isinstance(
        steps.solver, diffrax.AbstractAdaptiveSolver
    ):
        raise ValueError(
            f"fewer_steps: expected an explicit Runge-Kutta solver that estimates its error, such as diffrax.Tsit5(), "
            f"got {type(steps.solver).__name__}"
        )
    return steps


def _local_error(steps: Steps, field: Callable, t0, t1, y, args) -> Float[Array, " d"]:
    """The solver's estimate of the error of one step."""
    # Loops over stages that can be differentiated in either mode.
    solver = eqx.tree_at(lambda s: s.scan_kind, steps.solver, "bounded", is_leaf=lambda a: a is None)
    term = diffrax.ODETerm(guarded(steps))
    everything = (field, y, args)
    state = solver.init(term, t0, t1, y, everything)
    return solver.step(term, t0, t1, y, everything, state, made_jump=False)[1]
