"""How an equation is integrated: solver, tolerances, what a failed solution gives, and how it is differentiated."""

from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from ..nn._layers import require_positive

# Up to as many trained numbers, sensitivities go forward along with the solution.
FORWARD = 32
# Relative and absolute tolerance in single and double precision.
SINGLE, DOUBLE = 1e-4, 1e-6


class AbstractSteps(eqx.Module):
    """A way to integrate `dy/dt = field(t, y, args)`."""

    def solve(self, field: Any, y0: Float[Array, " d"], ts: Float[Array, " n"], args: Any) -> Float[Array, "n d"]:
        """The states at `ts`, of which the first is that of `y0`; NaN from where the solution failed."""
        raise NotImplementedError


class Steps(AbstractSteps):
    """Steps of a Diffrax solver, adaptive unless `dt` is given.

    - `solver`: a Diffrax solver.
    - `rtol`, `atol`: by default 1e-6 in double and 1e-4 in single precision.
    - `dt`: a constant step instead.
    - `max_steps`: a solution that needs more has failed.
    - `exact`: steps end at each of the times, rather than states being interpolated there between two steps. Where the
      system is stiff, interpolation multiplies the error by its largest rate.
    - `limit`: a solution of which a component exceeds it has failed.
    - `checked`: evaluates the right-hand side twice, so that NaN and infinities that it gives for finite states reach
      no gradient. Networks do without.
    - `adjoint`: a Diffrax adjoint; by default the rule below. `forward`: True or False takes its first or second part.

    Derivatives. A right-hand side of at most 32 trained numbers has sensitivities that are integrated forward with the
    solution, one for each number that is differentiated by (Diffrax's `ForwardMode`); the result may then be
    differentiated in either mode and any number of times, as `sciml.optim.gauss_newton` does. Otherwise steps are
    recomputed backward from checkpoints (`RecursiveCheckpointAdjoint`), in reverse mode only.

    A solution that fails gives NaN from there on, and derivatives of zero there, so that the parameters' gradient stays
    finite: beyond `limit` the right-hand side is replaced by zero.

    Raises ValueError for tolerances, `dt`, `max_steps` or `limit` that are not above 0, and for `exact` with `dt`.
    """

    solver: Any = eqx.field(default_factory=diffrax.Tsit5)
    rtol: float | None = eqx.field(default=None, static=True)
    atol: float | None = eqx.field(default=None, static=True)
    dt: float | None = eqx.field(default=None, static=True)
    max_steps: int = eqx.field(default=4096, static=True)
    exact: bool = eqx.field(default=False, static=True)
    limit: float = eqx.field(default=1e6, static=True)
    checked: bool = eqx.field(default=False, static=True)
    adjoint: Any = None
    forward: bool | None = eqx.field(default=None, static=True)

    def __check_init__(self):
        for name in ("rtol", "atol", "dt", "max_steps", "limit"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"Steps: {name} must be above 0, got {value}")
        if self.exact and self.dt is not None:
            raise ValueError("Steps: steps of one length do not end at the times; leave out dt or exact")

    def solve(self, field: Any, y0: Float[Array, " d"], ts: Float[Array, " n"], args: Any) -> Float[Array, "n d"]:
        """As in `AbstractSteps`."""
        if self.adjoint is not None:
            return _solve(field, y0, ts, args, self, self.adjoint)
        if self.goes_forward(field):
            return forward_sensitive((field, y0, ts, args), solve=_Forward(self))
        return _solve(field, y0, ts, args, self, diffrax.RecursiveCheckpointAdjoint())

    def goes_forward(self, field: Any) -> bool:
        """Whether sensitivities are integrated forward."""
        if self.forward is not None:
            return self.forward
        return sum(a.size for a in jax.tree.leaves(eqx.filter(field, eqx.is_inexact_array))) <= FORWARD

    def controller(self, ts: Float[Array, " n"]) -> diffrax.AbstractStepSizeController:
        """Diffrax's controller of the step, for a solution at these times."""
        if self.dt is not None:
            return diffrax.ConstantStepSize()
        usual = DOUBLE if ts.dtype == jnp.float64 else SINGLE
        adaptive = diffrax.PIDController(
            rtol=usual if self.rtol is None else self.rtol, atol=usual if self.atol is None else self.atol
        )
        return diffrax.ClipStepSizeController(adaptive, step_ts=ts) if self.exact else adaptive


class Between(AbstractSteps):
    """`count` Runge-Kutta steps of order 4 (Kutta, 1901), of equal length, between each two of the times. Neither
    tolerance nor interpolation: the cheapest for networks and times that lie close together, each trajectory of a batch
    having its own. The result can be differentiated in either mode. `limit` as in `Steps`.

    Raises ValueError unless `count` and `limit` are above 0.
    """

    count: int = eqx.field(default=1, static=True)
    limit: float = eqx.field(default=1e6, static=True)

    def __check_init__(self):
        require_positive("Between", count=self.count)
        if not self.limit > 0:
            raise ValueError(f"Between: limit must be above 0, got {self.limit}")

    def solve(self, field: Any, y0: Float[Array, " d"], ts: Float[Array, " n"], args: Any) -> Float[Array, "n d"]:
        """As in `AbstractSteps`."""
        known = jnp.all(jnp.isfinite(y0))
        start = jnp.where(known, y0, 0)
        guard = Guarded(self.limit)
        # Its four evaluations in a step are traced and differentiated once.
        rates = jax.jit(lambda t, y: guard(t, y, (field, start, args)))

        def step(y, span):
            t, dt = span
            a = rates(t, y)
            b = rates(t + dt / 2, y + dt / 2 * a)
            c = rates(t + dt / 2, y + dt / 2 * b)
            y = y + dt / 6 * (a + 2 * b + 2 * c + rates(t + dt, y + dt * c))
            return y, y

        dts = jnp.diff(ts) / self.count
        begins = ts[:-1, None] + dts[:, None] * jnp.arange(self.count)
        _, ys = jax.lax.scan(step, start, (begins.ravel(), jnp.repeat(dts, self.count)))
        ys = jnp.concatenate([start[None], ys[self.count - 1 :: self.count]])
        return with_failures(jnp.where(known, ys, jnp.nan), self.limit)


def stiff(rtol: float | None = None, atol: float | None = None, max_steps: int = 16384, **options: Any) -> Steps:
    """Implicit steps of fifth order (Kvaerno, BIT 44, 2004) for systems whose rates differ by orders of magnitude. They
    end at each of the times. Solve such systems in double precision. Further arguments are those of `Steps`.
    """
    return Steps(diffrax.Kvaerno5(), rtol, atol, max_steps=max_steps, exact=True, **options)


def integrate(field: Any, y0: Any, ts: Any, args: Any, steps: AbstractSteps) -> Float[Array, "n d"]:
    """The states at the times `ts`, in increasing order, of `dy/dt = field(t, y, args)` with `y = y0` at `ts[0]`.

    Raises ValueError for states and times that are not vectors and for a right-hand side of another shape.
    """
    y0, ts = jnp.asarray(y0), jnp.asarray(ts)
    if y0.ndim != 1 or ts.ndim != 1 or not ts.size:
        raise ValueError(
            f"expected a state (d,) and times (n,) of one trajectory, got {y0.shape} and {ts.shape}; use jax.vmap on "
            "the model for several"
        )
    dtype = jnp.result_type(y0, ts)
    dtype = dtype if jnp.issubdtype(dtype, jnp.floating) else jnp.result_type(float)
    y0, ts = y0.astype(dtype), ts.astype(dtype)
    shape = jax.eval_shape(lambda t, y: jnp.asarray(field(t, y, args)), ts[0], y0).shape
    if shape != y0.shape:
        raise ValueError(f"the right-hand side must have the shape {y0.shape} of the state, it has {shape}")
    return steps.solve(field, y0, ts, args)


def _solve(field, y0, ts, args, steps: Steps, adjoint):
    known = jnp.all(jnp.isfinite(y0))
    y0 = jnp.where(known, y0, 0)
    found: Any = solution(field, y0, ts, args, steps, adjoint).ys
    ys = jnp.where(known, found, jnp.nan)
    if steps.checked:
        inside = jnp.all(jnp.abs(ys) < steps.limit, axis=1, keepdims=True)
        slopes = jax.vmap(lambda t, y: jnp.asarray(field(t, y, args)))(ts, jnp.where(inside, ys, y0))
        ys = jnp.where(jnp.all(jnp.isfinite(jax.lax.stop_gradient(slopes)), axis=1, keepdims=True), ys, jnp.nan)
    return with_failures(ys, steps.limit)


def solution(field, y0, ts, args, steps: Steps, adjoint) -> diffrax.Solution:
    """That of Diffrax, which does not raise where it fails."""
    return diffrax.diffeqsolve(
        diffrax.ODETerm(guarded(steps)),
        steps.solver,
        ts[0],
        ts[-1],
        None if steps.dt is None else jnp.asarray(steps.dt, ts.dtype),
        y0,
        (field, y0, args),
        saveat=diffrax.SaveAt(ts=ts),
        stepsize_controller=steps.controller(ts),
        adjoint=adjoint,
        max_steps=steps.max_steps,
        throw=False,
    )


def with_failures(ys: Float[Array, "n d"], limit: float) -> Float[Array, "n d"]:
    """The states, NaN from where the first is not finite or exceeds the limit."""
    reached = jnp.cumprod(jnp.all(jnp.abs(ys) < limit, axis=1).astype(int)).astype(bool)
    return jnp.where(reached[:, None], ys, jnp.nan)


def guarded(steps: Steps) -> Callable:
    """What Diffrax integrates: it gets right-hand side, initial state and arguments together."""
    return Guarded(steps.limit, steps.checked)


class Guarded(eqx.Module):
    """A right-hand side that is zero where the state exceeds the limit; it is then evaluated at the initial state, so
    that no derivative of it is infinite either. `checked` holds for values that are not finite too.
    """

    limit: float = eqx.field(static=True)
    checked: bool = eqx.field(default=False, static=True)

    def __call__(self, t, y, everything):
        field, y0, args = everything
        fine = jnp.all(jnp.abs(y) < self.limit)
        y = jnp.where(fine, y, y0)
        if self.checked:
            tried = jnp.asarray(field(t, jax.lax.stop_gradient(y), args))
            fine &= jnp.all(jnp.isfinite(jax.lax.stop_gradient(tried)))
            y = jnp.where(fine, y, y0)
        return jnp.where(fine, jnp.asarray(field(t, y, args)), 0).astype(y.dtype)


class _Forward(eqx.Module):
    """The solution, to be differentiated forward only."""

    steps: Steps

    def __call__(self, inputs):
        field, y0, ts, args = inputs
        return _solve(field, y0, ts, args, self.steps, diffrax.ForwardMode())


@eqx.filter_custom_jvp
def forward_sensitive(inputs: Any, *, solve: Any) -> Float[Array, "n d"]:
    """`solve(inputs)`, which may only be differentiated forward, as what may be differentiated in either mode."""
    return solve(inputs)


@forward_sensitive.def_jvp
def _sensitivities(primals, tangents, *, solve):
    """All sensitivities at once, so that what is left is linear in the tangents and has a transpose."""
    primals, structure = jax.tree.flatten(primals, is_leaf=lambda a: a is None)
    tangents = jax.tree.leaves(tangents, is_leaf=lambda a: a is None)
    moving = [i for i, t in enumerate(tangents) if t is not None]
    flat, restore = ravel_pytree([primals[i] for i in moving])

    def solved(flat):
        leaves = list(primals)
        for i, leaf in zip(moving, restore(flat)):
            leaves[i] = leaf
        (inputs,) = jax.tree.unflatten(structure, leaves)
        ys = solve(inputs)
        return ys, ys

    jacobian, ys = jax.jacfwd(solved, has_aux=True)(flat)
    # Where the solution failed it is NaN, of which nothing may come into derivatives.
    jacobian = jnp.where(jnp.isfinite(ys)[..., None] & jnp.isfinite(jacobian), jacobian, 0)
    return ys, jacobian @ ravel_pytree([tangents[i] for i in moving])[0]
