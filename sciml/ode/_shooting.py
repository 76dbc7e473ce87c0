"""States that are found from data with the model: at the beginning of each trajectory, or of each of its segments."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._fit import Stream
from ..nn._layers import require_positive, require_scale
from ._losses import predicted, residuals_of
from ._trajectories import Trajectories, lengths, take, trajectories


class FreeStarts(eqx.Module):
    """A model whose initial states are trained too: it is called with the number of one instead of a state."""

    model: Callable
    raw: Float[Array, "k d"]
    positive: bool = eqx.field(default=False, static=True)

    @property
    def starts(self) -> Float[Array, "k d"]:
        """The initial states."""
        return jnp.exp(self.raw) if self.positive else self.raw

    def __call__(self, number: Any, ts: Any, args: Any = None) -> Float[Array, "n d"]:
        return self.model(self.starts[number], ts, args)


def free_starts(model: Callable, data: Trajectories, *, positive: bool = False) -> tuple[FreeStarts, Trajectories]:
    """The model with free initial states, one for each trajectory, which begin at `data.y0`; and the data with their
    numbers in the place of `y0`. With `positive` their logarithms are trained.

    Raises ValueError for states that are not finite, or not above 0 and `positive`.
    """
    return FreeStarts(model, _raw(data.y0, positive), positive), data._replace(y0=np.arange(len(data.y0)))


def _raw(states: Any, positive: bool):
    states = np.asarray(states, float)
    if not np.isfinite(states).all() or (positive and not (states > 0).all()):
        kind = "finite and above 0" if positive else "finite"
        raise ValueError(f"initial states must be {kind}; take those of sciml.ode.smoothed where values are missing")
    return jnp.asarray(np.log(states) if positive else states)


class Segments(NamedTuple):
    """Segments of trajectories: `data` with the number of its first state in the place of `y0`, the number of the state
    that follows, the weight (k,) of their continuity, 0 where a trajectory ends, and what is added to the gaps (k, d);
    see `augmented_lagrangian`.
    """

    data: Trajectories
    following: Any
    joined: Any
    shift: Any


def shooting(
    model: Callable, data: Trajectories, length: int, starts: Any, *, positive: bool = False
) -> tuple[FreeStarts, Segments]:
    """The trajectories cut into segments of `length` intervals, for multiple shooting (Bock, 1983): the state at the
    beginning of each is free and found from the data; that a segment ends where the next begins is a term of
    `shooting_misfit`. No state is tied to the value measured there.

    - `starts`: states (k, n, d) at all times, such as `smoothed(data).ys`, from which those of the segments are taken
      as first guesses.
    - `positive`: trains the logarithms of states.

    Raises ValueError for a length below 1 and for first guesses that are not finite.
    """
    require_positive("shooting", length=length)
    pieces, begins, following, owners = [], [], [], []
    for k, n in enumerate(lengths(data)):
        cuts = [*range(0, max(n - 1, 1), length), n - 1]
        for first, last in zip(cuts, cuts[1:]):
            ys = np.array(np.asarray(data.ys)[k, first : last + 1])
            if last < n - 1:
                # It belongs to the next segment, and counts once.
                ys[-1] = np.nan
            pieces.append((np.asarray(data.ts)[k, first : last + 1], ys))
            begins.append(np.asarray(starts)[k, first])
            following.append(len(pieces) if last < n - 1 else len(pieces) - 1)
            owners.append(k)
    states = np.stack(begins)
    cut = trajectories(pieces, starts=states, length=length + 1)
    numbered = cut._replace(y0=np.arange(len(pieces)), args=take(data.args, np.array(owners)))
    following = np.array(following)
    joined = (following != np.arange(len(pieces))).astype(float)
    return FreeStarts(model, _raw(states, positive), positive), Segments(
        numbered, following, joined, np.zeros_like(states)
    )


def shooting_misfit(
    *,
    scale: Any = 1.0,
    transform: Callable | None = None,
    observed: Callable | None = None,
    failed: float = 10.0,
    gap: Any = None,
) -> Callable:
    """The loss `(model, segments) -> {"misfit": ..., "continuity": ...}` of `Segments`: the residuals of
    `trajectory_misfit`, whose arguments these are, and the gaps between segments, in units of `gap` (by default of
    `scale`) and times the root of their weight.
    """

    def loss(model, batch):
        batch = jax.tree.map(jnp.asarray, batch)
        data, joined = batch.data, batch.joined
        ys = jax.vmap(model)(data.y0, data.ts, data.args)
        ends = ys[:, -1]
        apart = (ends - model.starts[batch.following] + batch.shift) / jnp.asarray(scale if gap is None else gap)
        apart = jnp.where(jnp.isfinite(ends), apart, failed)
        return {
            "misfit": residuals_of(ys, data, jnp.asarray(scale), transform, observed, failed),
            "continuity": jnp.sqrt(joined)[:, None] * apart,
        }

    return loss


class Tightening(Stream):
    """See `tightening`."""

    segments: Segments
    first: float
    last: float
    steps: int

    def init(self, key: Array, model: Any) -> Any:
        """With the first weight."""
        return self._weighted(jnp.zeros((), int))

    def next(self, key: Array, step: Array, model: Any, batch: Any) -> tuple[Any, Array]:
        """With the weight of this step."""
        return self._weighted(step), step <= self.steps

    def _weighted(self, step):
        segments = jax.tree.map(jnp.asarray, self.segments)
        weight = self.first * (self.last / self.first) ** jnp.minimum(step / self.steps, 1.0)
        return segments._replace(joined=segments.joined * weight)


def tightening(segments: Segments, steps: int, *, first: float = 0.1, last: float = 1e4) -> Tightening:
    """A stream of the segments in which the weight of continuity grows geometrically from `first` to `last` within so
    many steps of training, and then stays.

    Raises ValueError unless `steps`, `first` and `last` are above 0.
    """
    require_positive("tightening", steps=steps)
    require_scale("tightening", first=first, last=last)
    return Tightening(segments, first, last, steps)


class AugmentedLagrangian(Stream):
    """See `augmented_lagrangian`."""

    segments: Segments
    weight: float
    every: int

    def init(self, key: Array, model: Any) -> Any:
        """Without multipliers."""
        segments = jax.tree.map(jnp.asarray, self.segments)
        return segments._replace(joined=segments.joined * self.weight)

    def next(self, key: Array, step: Array, model: Any, batch: Any) -> tuple[Any, Array]:
        """With the multipliers of before, or new ones each `every` steps."""
        due = (step > 0) & (step % self.every == 0)
        shift = jax.lax.cond(due, lambda: self._moved(model, batch), lambda: batch.shift)
        return batch._replace(shift=shift), due

    def _moved(self, model, batch):
        apart = gaps(model, batch)
        # Where a segment failed there is no gap to go by.
        return batch.shift + jnp.where(jnp.isfinite(apart), apart, 0)


def augmented_lagrangian(segments: Segments, every: int, *, weight: float = 1.0) -> AugmentedLagrangian:
    """A stream of the segments with a constant `weight` of continuity and with Lagrange multipliers, which are changed
    each `every` steps by weight times gap (Hestenes, 1969; Nocedal & Wright, Numerical Optimization, 2006, equation
    17.39). Gaps go to zero at a weight that keeps the problem well conditioned, where a penalty alone leaves gaps
    inversely proportional to it.

    With multipliers m the terms `weight / 2 gap^2 + m gap` are, but for a constant, `weight / 2 (gap + shift)^2` with
    `shift = m / weight`, a sum of squares, as Gauss-Newton needs.

    Raises ValueError unless `every` and `weight` are above 0.
    """
    require_positive("augmented_lagrangian", every=every)
    require_scale("augmented_lagrangian", weight=weight)
    return AugmentedLagrangian(segments, weight, every)


def first_states(model: FreeStarts, segments: Segments) -> Float[Array, "k d"]:
    """The states at the beginning of the trajectories that multiple shooting found: starts to go on with, as in
    `free_starts(model.model, data._replace(y0=first_states(model, segments)))`.
    """
    begins = np.append(True, np.asarray(segments.joined)[:-1] == 0)
    return model.starts[np.flatnonzero(begins)]


def gaps(model: FreeStarts, segments: Segments) -> Float[Array, "k d"]:
    """By how much the end of each segment misses the beginning of the next."""
    data = segments.data
    ends = predicted(model, data)[:, -1]
    return jnp.where(segments.joined[:, None] > 0, ends - model.starts[segments.following], 0.0)
