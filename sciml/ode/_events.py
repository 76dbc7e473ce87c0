"""Solutions with jumps of the state: when something happens, as a ball that bounces, or at given times, as doses."""

from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix
from jaxtyping import Array, Float

from ..nn._layers import require_positive
from ._steps import Steps, forward_sensitive, guarded, with_failures

# The first step after a jump, as a share of the time that is left.
FIRST = 1e-4


class Hybrid(eqx.Module):
    """The solution of `dy/dt = field(t, y, args)` whose state jumps when something happens: `(y0, ts, args) -> ys`.

    - `when(t, y, args)`: a number that falls through zero when it happens, such as the height of a ball.
    - `jump(t, y, args)`: the state after it.
    - `most`: how often it can happen. A solution in which it happens more often is NaN from there on.
    - `steps`: those of `Steps`, whose rule says how it is differentiated; the times of events are differentiated too.

    The time of an event is found by Newton's method on the solver's interpolation; of a number that falls and rises
    again within one step nothing is seen. At the time of an event itself, the state is that before the jump.

    Raises ValueError unless `most` is above 0.
    """

    field: Callable
    when: Callable
    jump: Callable
    most: int = eqx.field(default=10, static=True)
    steps: Steps = eqx.field(default_factory=Steps)

    def __check_init__(self):
        require_positive("Hybrid", most=self.most)

    def __call__(self, y0: Any, ts: Any, args: Any = None) -> Float[Array, "n d"]:
        ts = jnp.asarray(ts, float)
        y0 = jnp.asarray(y0, ts.dtype)
        inputs = (self.field, self.when, self.jump), y0, ts, args
        if self.steps.adjoint is None and self.steps.goes_forward(inputs[0]):
            return forward_sensitive(inputs, solve=_Pieces(self.steps, self.most, diffrax.ForwardMode()))
        adjoint = self.steps.adjoint or diffrax.RecursiveCheckpointAdjoint()
        return _Pieces(self.steps, self.most, adjoint)(inputs)


class _Pieces(eqx.Module):
    """One solution after the other, each up to the next event."""

    steps: Steps
    most: int = eqx.field(static=True)
    adjoint: Any

    def __call__(self, inputs):
        functions, y0, ts, args = inputs

        def piece(carry, _):
            t, y, ys = carry
            end, state, found = self._until(functions, t, y, ts, args)
            ys = jnp.where(((ts >= t) & (ts <= end))[:, None] & (ts > t)[:, None], found, ys)
            happened = end < ts[-1]
            after = jnp.where(happened, functions[2](end, state, args), state)
            return (end, after.astype(y.dtype), ys), None

        # What happens at the first time is the initial state.
        ys = jnp.where((ts <= ts[0])[:, None], y0, jnp.nan)
        (_, _, ys), _ = jax.lax.scan(piece, (ts[0], y0, ys), None, length=self.most + 1)
        return with_failures(ys, self.steps.limit)

    def _until(self, functions, t, y, ts, args):
        """The time at which the piece ends, the state there, and the states at all times within it."""
        field, when, _ = functions
        saved = diffrax.SaveAt(subs=[diffrax.SubSaveAt(t1=True), diffrax.SubSaveAt(ts=jnp.clip(ts, t, ts[-1]))])
        # The first step after a jump is short: it must end before the next event, or that is not seen.
        first = FIRST * jnp.maximum(ts[-1] - t, jnp.finfo(ts.dtype).eps)
        tolerance = 1e-10 if ts.dtype == jnp.float64 else 1e-5
        event = diffrax.Event(
            lambda t, y, args, **_: when(t, y, args[2]), optimistix.Newton(tolerance, tolerance), direction=False
        )
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(guarded(self.steps)),
            self.steps.solver,
            t,
            ts[-1],
            jnp.asarray(first if self.steps.dt is None else self.steps.dt, ts.dtype),
            y,
            (field, y, args),
            saveat=saved,
            stepsize_controller=self.steps.controller(ts),
            adjoint=self.adjoint,
            max_steps=self.steps.max_steps,
            event=event,
            throw=False,
        )
        times: Any = solution.ts
        states: Any = solution.ys
        failed = ~(
            (solution.result == diffrax.RESULTS.successful) | (solution.result == diffrax.RESULTS.event_occurred)
        )
        # A failed piece ends all: nothing comes after the last time.
        end = jnp.where(failed, ts[-1], times[0][0])
        return end, jnp.where(failed, jnp.nan, states[0][0]), states[1]


class Doses(eqx.Module):
    """What is added to the state at given times: increasing `times` (k,) and `amounts` (k, d). Padding has times after
    the last one of the trajectory.
    """

    times: Float[Array | np.ndarray, "..."]
    amounts: Float[Array | np.ndarray, "..."]


class Dosed(eqx.Module):
    """The solution of `dy/dt = field(t, y, args)` to whose state `args["doses"]`, `Doses`, are added at their times;
    further entries of `args` are those of the right-hand side.

    At the time of a dose itself the state is that before it. Doses before the first time do not count. Raises TypeError
    for other `args`.
    """

    field: Callable
    steps: Steps = eqx.field(default_factory=Steps)

    def __call__(self, y0: Any, ts: Any, args: Any = None) -> Float[Array, "n d"]:
        if not (isinstance(args, dict) and isinstance(args.get("doses"), Doses)):
            raise TypeError('Dosed: expected args={"doses": Doses(times, amounts)}, with further inputs by name')
        ts = jnp.asarray(ts, float)
        y0 = jnp.asarray(y0, ts.dtype)
        doses, rest = args["doses"], {n: a for n, a in args.items() if n != "doses"}
        counted = doses.times >= ts[0]
        begins = jnp.clip(jnp.concatenate([ts[:1], doses.times]), ts[0], ts[-1])
        ends = jnp.concatenate([begins[1:], ts[-1:]])
        added = jnp.concatenate([jnp.zeros((1, y0.size)), jnp.where(counted[:, None], doses.amounts, 0)])

        def piece(carry, interval):
            y, ys = carry
            begin, end, amount = interval
            y = y + amount.astype(y.dtype)
            at = jnp.concatenate([begin[None], jnp.clip(ts, begin, end), end[None]])
            found = self.steps.solve(self.field, y, at, rest or None)
            inside = ((ts > begin) & (ts <= end))[:, None]
            return (found[-1], jnp.where(inside, found[1:-1], ys)), None

        ys = jnp.where((ts <= ts[0])[:, None], y0, jnp.nan)
        (_, ys), _ = jax.lax.scan(piece, (y0, ys), (begins, ends, added))
        return ys
