"""Measured trajectories as arrays: of different lengths, with gaps, split, cut into windows and drawn in batches."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._fit import Stream
from ..nn._layers import require_positive


class Trajectories(NamedTuple):
    """Several trajectories, each padded to one length: a batch of `fit`, of which the last entry is the target.

    - `y0`: the state (k, d) of each at its first time.
    - `ts`: the times (k, n); padding repeats the last one.
    - `args`: what the right-hand side gets, as a pytree whose arrays have k as their first axis, or None.
    - `ys`: what was measured (k, n, m); NaN where nothing was.
    """

    y0: Any
    ts: Any
    args: Any
    ys: Any


def trajectories(
    series: Sequence[tuple[Any, Any]],
    *,
    starts: Any = None,
    args: Sequence[Any] | None = None,
    length: int | None = None,
) -> Trajectories:
    """`Trajectories` from pairs of times (n,) and values (n, m) or (n,), one for each trajectory.

    - `starts`: the states (k, d) at the first times; by default the values there.
    - `args`: for each one what its right-hand side gets, such as a table of inputs.
    - `length`: to which all are padded, by default that of the longest.

    Raises ValueError where times decrease or are missing, lengths differ, and values at the first time are missing
    while no starts are given.
    """
    pairs = [_pair(i, ts, ys) for i, (ts, ys) in enumerate(series)]
    if not pairs:
        raise ValueError("trajectories: expected at least one pair of times and values")
    widths = {ys.shape[1] for _, ys in pairs}
    if len(widths) > 1:
        raise ValueError(f"trajectories: the number of measured values differs: {sorted(widths)}")
    longest = max(len(ts) for ts, _ in pairs)
    if length is not None and length < longest:
        raise ValueError(f"trajectories: the longest has {longest} times, length is {length}")
    n = length or longest
    if starts is None:
        starts = np.stack([ys[0] for _, ys in pairs])
        if not np.isfinite(starts).all():
            bad = int(np.flatnonzero(~np.isfinite(starts).all(axis=1))[0])
            raise ValueError(
                f"trajectories: values at the first time of trajectory {bad} are missing; leave these times out, or "
                "give starts: first guesses, which sciml.ode.free_starts improves or sciml.ode.smoothed(data).ys[:, 0] "
                "replaces"
            )
    elif np.shape(starts)[:1] != (len(pairs),):
        raise ValueError(f"trajectories: expected starts of {len(pairs)} trajectories, got {np.shape(starts)}")
    stacked = None if args is None else jax.tree.map(lambda *a: np.stack([np.asarray(b) for b in a]), *args)
    ts = np.stack([np.concatenate([ts, np.full(n - len(ts), ts[-1])]) for ts, _ in pairs])
    ys = np.stack([np.concatenate([ys, np.full((n - len(ys), ys.shape[1]), np.nan)]) for _, ys in pairs])
    return Trajectories(np.asarray(starts, float), ts, stacked, ys)


def _pair(i: int, ts: Any, ys: Any) -> tuple[np.ndarray, np.ndarray]:
    ts, ys = np.asarray(ts, float), np.asarray(ys, float)
    ys = ys[:, None] if ys.ndim == 1 else ys
    if ts.ndim != 1 or not len(ts) or ys.ndim != 2 or len(ys) != len(ts):
        raise ValueError(f"trajectory {i}: expected times (n,) and values (n, m), got {ts.shape} and {ys.shape}")
    if not np.isfinite(ts).all() or (np.diff(ts) < 0).any():
        raise ValueError(f"trajectory {i}: times must be finite and not decrease")
    return ts, ys


def lengths(data: Trajectories) -> np.ndarray:
    """How many times each trajectory has up to the last measured value; at least 1."""
    measured: Any = np.isfinite(np.asarray(data.ys)).any(axis=2)
    last = measured.shape[1] - np.argmax(measured[:, ::-1], axis=1)
    return np.where(measured.any(axis=1), last, 1)


def take(data: Any, which: Any) -> Any:
    """Some of the trajectories, by number."""
    return jax.tree.map(lambda a: a[which], data)


def split_by_trajectory(data: Trajectories, share: float, *, seed: int = 0) -> tuple[Trajectories, Trajectories]:
    """A random `share` of the trajectories, and the others. Raises ValueError where either would be empty."""
    count = len(data.ts)
    first = round(share * count)
    if not 0 < first < count:
        raise ValueError(f"split_by_trajectory: a share of {share} of {count} trajectories leaves one part empty")
    order = np.random.default_rng(seed).permutation(count)
    return take(data, np.sort(order[:first])), take(data, np.sort(order[first:]))


def split_by_time(data: Trajectories, until: float) -> tuple[Trajectories, Trajectories]:
    """What was measured up to the time `until`, and what was measured later: a forecast from the same starts. The first
    has no later time, not even as padding. Raises ValueError where either holds no value.
    """
    early = np.asarray(data.ts) <= until
    parts = []
    for chosen in (early, ~early):
        ys = np.where(chosen[..., None], data.ys, np.nan)
        if not np.isfinite(ys).any():
            raise ValueError(f"split_by_time: no value was measured {'up to' if not parts else 'after'} {until}")
        parts.append(ys)
    last = np.max(np.where(early, data.ts, np.min(data.ts, axis=1, keepdims=True)), axis=1, keepdims=True)
    most = max(1, int(early.sum(axis=1).max()))
    train = Trajectories(data.y0, np.minimum(data.ts, last)[:, :most], data.args, parts[0][:, :most])
    return train, Trajectories(data.y0, data.ts, data.args, parts[1])


def windows(data: Trajectories, length: int, step: int | None = None, *, starts: Any = None) -> Trajectories:
    """The trajectories cut into windows of `length` times, each `step` times after the one before (by default
    `length - 1`, so that one begins where the last ended). A shorter rest is a window too.

    A window starts at the values measured there, or at those of `starts`, (k, n, d), such as `smoothed(data).ys`;
    windows without a value there are left out. Raises ValueError for a length below 2 and where no window is left.
    """
    if length < 2:
        raise ValueError(f"windows: length must be 2 or more, got {length}")
    step = length - 1 if step is None else step
    require_positive("windows", step=step)
    states = np.asarray(data.ys if starts is None else starts)
    pieces, begins, owners = [], [], []
    for k, n in enumerate(lengths(data)):
        for begin in range(0, n - 1, step):
            if np.isfinite(states[k, begin]).all():
                chosen = slice(begin, min(begin + length, n))
                pieces.append((np.asarray(data.ts)[k, chosen], np.asarray(data.ys)[k, chosen]))
                begins.append(states[k, begin])
                owners.append(k)
    if not pieces:
        raise ValueError("windows: no window begins where a value was measured; give starts=smoothed(data).ys")
    cut = trajectories(pieces, starts=np.stack(begins), length=length)
    return cut._replace(args=take(data.args, np.array(owners)))


class Batches:
    """Batches of trajectories without an end, epoch after epoch, of at most `buckets` shapes; see `batches`."""

    def __init__(self, data: Trajectories, size: int, buckets: int, seed: int):
        self.data, self.size, self.seed = data, size, seed
        found = lengths(data)
        quantiles = np.quantile(found, np.arange(1, buckets + 1) / buckets, method="higher")
        self.limits = np.unique(quantiles).tolist()
        self.members = [np.flatnonzero(np.searchsorted(self.limits, found) == b) for b in range(len(self.limits))]

    def __len__(self) -> int:
        """The batches of an epoch."""
        return sum(-(-len(m) // self.size) for m in self.members)

    def __iter__(self) -> Iterator[Trajectories]:
        random = np.random.default_rng(self.seed)
        while True:
            groups = []
            for limit, members in zip(self.limits, self.members):
                order = random.permutation(members)
                groups += [(limit, order[i : i + self.size]) for i in range(0, len(order), self.size)]
            for number in random.permutation(len(groups)):
                yield self._batch(*groups[number])

    def _batch(self, limit: int, which: np.ndarray) -> Trajectories:
        padded = take(self.data, np.resize(which, self.size))
        ys = np.array(padded.ys[:, :limit])
        ys[len(which) :] = np.nan
        return padded._replace(ts=padded.ts[:, :limit], ys=ys)


def batches(data: Trajectories, size: int, *, buckets: int = 1, seed: int = 0) -> Batches:
    """Shuffled batches of `size` trajectories, for `fit`. Trajectories of similar length share a batch, cut to one of
    `buckets` lengths, so that a training step is compiled so many times at most; a last batch that is not full is
    filled with trajectories of which nothing was measured.

    Raises ValueError unless `size` and `buckets` are above 0.
    """
    require_positive("batches", size=size, buckets=buckets)
    return Batches(data, size, buckets, seed)


class Growing(Stream):
    """See `growing`."""

    data: Trajectories
    share: float
    steps: int

    def init(self, key: Array, model: Any) -> Any:
        """The shortest horizon."""
        return self._until(jnp.zeros((), int))

    def next(self, key: Array, step: Array, model: Any, batch: Any) -> tuple[Any, Array]:
        """The horizon of this step."""
        return self._until(step), step <= self.steps

    def _until(self, step):
        ts = jnp.asarray(self.data.ts)
        share = jnp.minimum(1.0, self.share + (1 - self.share) * step / self.steps)
        horizon = ts[:, :1] + share * (ts[:, -1:] - ts[:, :1])
        # The comparison allows for rounding, so that the whole is reached.
        seen = (ts <= horizon + 1e-6 * (ts[:, -1:] - ts[:, :1]))[..., None]
        clipped = jnp.minimum(ts, horizon)
        return jax.tree.map(jnp.asarray, self.data)._replace(ts=clipped, ys=jnp.where(seen, self.data.ys, jnp.nan))


def growing(data: Trajectories, steps: int, *, share: float = 0.1) -> Growing:
    """A stream of the trajectories up to a horizon, which grows from this share of their time to the whole within so
    many steps of training. Solutions end at the horizon too.

    Raises ValueError unless `steps` is above 0 and `share` between 0 and 1.
    """
    require_positive("growing", steps=steps)
    if not 0 < share <= 1:
        raise ValueError(f"growing: share must be above 0 and at most 1, got {share}")
    return Growing(data, share, steps)
