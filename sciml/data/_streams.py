"""Functions from data to data: batches changed at random on the devices, and batches that change with the step."""

import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._fit import Stream
from .._fit import _batches as batches_from
from .._save import describe


def augmented(batches: Any, *functions: Any, seed: int = 0) -> Any:
    """Batches changed by functions `(key, batch) -> batch`, one after the other, compiled, on the devices.

    The key follows from the seed, the number of the batch and the place of the function: a run that is resumed sees the
    same numbers, and so does one on more devices. Of what `fit` trains on, all is taken: `Dataset.batches`, lists,
    generators, other such streams, and functions `key -> batch` (their own key is used then, not the seed).

    A resumed run is compared by the settings of `noise`, `shifts`, `flips` and `rotations`; of another function its
    name is compared, not the numbers that it closes over. Raises TypeError for what is no data or no function.
    """
    if not functions or not all(callable(f) for f in functions):
        raise TypeError("augmented: give one or more functions (key, batch) -> batch after the batches")
    if isinstance(batches, Stream) or not (callable(batches) or isinstance(batches, Iterable)):
        raise TypeError(f"augmented: expected batches or a function key -> batch, got {type(batches).__name__}")
    if isinstance(batches, Iterable):
        return Augmented(batches, functions, seed)

    def drawn(key):
        first, second = jax.random.split(key)
        return _changed(functions, second, batches(first))

    return drawn


def _changed(functions: Sequence[Callable], key: Array, batch: Any) -> Any:
    for number, function in enumerate(functions):
        batch = function(jax.random.fold_in(key, number), batch)
    return batch


class Augmented:
    """Batches changed at random: see `augmented`. A loop over them gives an epoch where the batches have one."""

    def __init__(self, batches: Iterable, functions: Sequence[Callable], seed: int, sharding: Any = None):
        self._inner, self.functions, self.seed = batches, tuple(functions), seed
        self._sharding = sharding
        self._step = 0

        def change(step, batch):
            return _changed(self.functions, jax.random.fold_in(jax.random.key(seed), step), batch)

        self._change = jax.jit(change)

    def __len__(self) -> int:
        """The number of batches of an epoch."""
        return len(self._inner)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        # Numbers are counted on from loop to loop, as the epochs of the batches are.
        for batch in self._inner:
            step, self._step = self._step, self._step + 1
            yield self._at(step, batch if self._sharding is None else jax.device_put(batch, self._sharding))

    @property
    def mesh(self) -> Any:
        """The mesh that batches lie on; None for a single device."""
        return _mesh(self._sharding) or getattr(self._inner, "mesh", None)

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What must agree for a resumed run to see the same numbers."""
        functions = [describe(f) for f in self.functions]
        return {"batches": _fingerprint(self._inner), "augmented": {"functions": functions, "seed": self.seed}}

    def sharded(self, sharding: Any) -> "Augmented":
        """The same batches on other devices."""
        inner, rest = _sharded(self._inner, sharding)
        return Augmented(inner, self.functions, self.seed, rest)

    def from_step(self, step: int) -> Generator[Any, None, None]:
        """The stream of batches from a step on, epoch after epoch."""
        stream = batches_from(self._inner, step, self._sharding)
        try:
            for number, batch in zip(itertools.count(step), stream):
                yield self._at(number, batch)
        finally:
            stream.close()

    def _at(self, step: int, batch: Any) -> Any:
        changed = self._change(step, batch)
        return _placed_like(changed, batch) if self.mesh is not None else changed


def _placed_like(changed: Any, batch: Any) -> Any:
    """On the devices where the arrays of the batch were, so that the training step is the same program."""
    if jax.tree.structure(changed) != jax.tree.structure(batch):
        return changed
    same = jax.tree.map(lambda a, b: a.shape == b.shape, changed, batch)
    return jax.tree.map(lambda a, b, s: jax.device_put(a, b.sharding) if s else a, changed, batch, same)


class Staged:
    """Batches that change at given steps: see `staged`."""

    def __init__(self, stages: Sequence[tuple[int, Iterable]], last: Iterable, sharding: Any = None):
        self.stages, self.last = tuple(stages), last
        self._sharding = sharding

    def __iter__(self) -> Iterator[Any]:
        return self.from_step(0)

    @property
    def mesh(self) -> Any:
        """The mesh that batches lie on; None for a single device."""
        parts = (*(batches for _, batches in self.stages), self.last)
        known = (getattr(batches, "mesh", None) for batches in parts)
        return _mesh(self._sharding) or next((m for m in known if m is not None), None)

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What must agree for a resumed run to see the same batches."""
        stages = [{"steps": steps, "batches": _fingerprint(batches)} for steps, batches in self.stages]
        return {"stages": [*stages, {"batches": _fingerprint(self.last)}]}

    def sharded(self, sharding: Any) -> "Staged":
        """The same batches on other devices."""
        stages = [(steps, _sharded(batches, sharding)[0]) for steps, batches in self.stages]
        return Staged(stages, _sharded(self.last, sharding)[0], sharding)

    def from_step(self, step: int) -> Generator[Any, None, None]:
        """The stream of batches from a step on."""
        for steps, batches in (*self.stages, (None, self.last)):
            if steps is not None and step >= steps:
                step -= steps
                continue
            # Those that have a sharding of their own are on the devices already.
            sharding = None if hasattr(batches, "from_step") else self._sharding
            stream = batches_from(batches, step, sharding)
            left = None if steps is None else steps - step
            given = 0
            try:
                for batch in itertools.islice(stream, left):
                    given += 1
                    yield batch
            finally:
                stream.close()
            if given != left:
                return
            step = 0


def staged(*stages: Any) -> Staged:
    """Batches by stages: `staged((1000, first), (500, second), last)` gives 1000 batches of `first`, then 500 of
    `second`, then those of `last` without end. Each stage begins with the first batch of its data.

    Batches may differ in shape from stage to stage: one `fit`, with one state of the optimiser, trains on windows of
    growing length, a curriculum on the number of steps of a rollout:
    `staged((1000, data.windows(1, 1).batches(16)), data.windows(1, 4).batches(16))`. The step of training is compiled
    once for each shape. Stages are those of `augmented`, but for functions of a key. Where one ends early, all end.

    Raises TypeError for a stage that is not `(steps, batches)`, ValueError for steps that are not above 0.
    """
    if not stages:
        raise TypeError("staged: give (steps, batches), ..., and batches alone at the end")
    *first, last = stages
    for stage in first:
        if not (isinstance(stage, tuple) and len(stage) == 2 and isinstance(stage[0], int)):
            raise TypeError(
                f"staged: expected (steps, batches), and batches alone at the end, got {type(stage).__name__}"
            )
        if stage[0] < 1:
            raise ValueError(f"staged: the steps of a stage must be above 0, got {stage[0]}")
    for batches in (*(batches for _, batches in first), last):
        if isinstance(batches, Stream) or callable(batches) or not isinstance(batches, Iterable):
            raise TypeError(f"staged: expected an iterable of batches, got {type(batches).__name__}")
    return Staged(first, last)


def _fingerprint(batches: Any) -> Any:
    """Of data that can be resumed at a step; lists and generators are trusted, as `fit` does."""
    return getattr(batches, "fingerprint", None)


def _sharded(batches: Any, sharding: Any) -> tuple[Any, Any]:
    """Batches on other devices, and the sharding that is left to do for those that do not know of any."""
    return (batches.sharded(sharding), None) if hasattr(batches, "from_step") else (batches, sharding)


def _mesh(sharding: Any) -> Any:
    return next((s.mesh for s in jax.tree.leaves(sharding) if hasattr(s, "mesh")), None)


# Functions (key, batch) -> batch.


@dataclass(frozen=True, eq=False)
class Change:
    """A function `(key, batch) -> batch` and its settings, by which a resumed run knows it."""

    function: Callable
    settings: Mapping[str, Any]

    def __call__(self, key: Array, batch: Any) -> Any:
        """The batch, changed; of a padded one, `(batch, mask)`, the first part."""
        if isinstance(batch, tuple) and len(batch) == 2 and isinstance(batch[0], tuple):
            return self(key, batch[0]), batch[1]
        if not isinstance(batch, tuple):
            raise TypeError(f"expected a batch that is a tuple of arrays, got {type(batch).__name__}")
        return self.function(key, batch, **self.settings)


def noise(
    scale: float | Sequence[float], *, walk: bool = False, entries: Sequence[int] = (0,), channel_axis: int = 2
) -> Change:
    """Normal noise on the inputs, so that a stepper learns to correct what its own errors will be (Sanchez-Gonzalez et
    al., "Learning to simulate complex physics with graph networks", ICML 2020, section 4.3).

    - `scale`: the standard deviation in the units of the data, or one for each channel on the `channel_axis` of the
      batch (2 for windows, 1 for single fields).
    - `walk`: along the frames (axis 1) a random walk whose last frame has that deviation, as errors pile up in a
      rollout; otherwise each frame has noise of its own.
    - `entries`: which of the batch; the target, the last one, stays as it is, so that a model that predicts the change
      from the last frame learns to take the noise out again.

    Raises ValueError for a scale that is negative, TypeError at an entry that is not of floating point.
    """
    scales = tuple(float(s) for s in scale) if isinstance(scale, Sequence) else (float(scale),)
    if not min(scales) >= 0:
        raise ValueError(f"noise: the scale must not be negative, got {scale}")
    settings = {"scale": scales, "walk": walk, "entries": tuple(entries), "channel_axis": channel_axis}
    return Change(_noisy, settings)


def _noisy(key, batch, scale, walk, entries, channel_axis):
    out = list(batch)
    for entry in entries:
        a = out[entry]
        if not jnp.issubdtype(a.dtype, jnp.floating):
            raise TypeError(f"noise: entry {entry} of the batch is of type {a.dtype}, not of floating point")
        size = jnp.asarray(scale, a.dtype)
        if len(scale) > 1:
            _check_channels(a, channel_axis, len(scale), "noise")
            size = size.reshape(-1, *(1,) * (a.ndim - 1 - channel_axis))
        drawn = jax.random.normal(jax.random.fold_in(key, entry), a.shape, a.dtype)
        if walk:
            drawn = jnp.cumsum(drawn, axis=1) / a.shape[1] ** 0.5
        out[entry] = a + size * drawn
    return tuple(out)


def shifts(*axes: int, entries: Sequence[int] | None = None) -> Change:
    """Each sample moved by a random number of points along periodic axes of the grid.

    - `axes`: counted from the end, as arrays of a batch may differ in what stands in front: `shifts(-2, -1)`.
    - `entries`: those that lie on the grid, by default all arrays of the batch; they move together.

    Raises ValueError for axes not counted from the end and for entries on another grid.
    """
    return Change(_shifted, {"axes": _from_the_end(axes, "shifts"), "entries": _as_tuple(entries)})


def _shifted(key, batch, axes, entries):
    rows, sizes = _grid(batch, entries, axes, "shifts")
    moves = jax.random.randint(key, (rows, len(axes)), 0, jnp.asarray(sizes))
    return _each(batch, entries, lambda a: jax.vmap(lambda x, by: jnp.roll(x, by, axes))(a, moves))


def flips(
    *axes: int,
    odd: Mapping[int, Sequence[int]] | None = None,
    entries: Sequence[int] | None = None,
    channel_axis: int = 2,
) -> Change:
    """Each sample mirrored, or not, along each of these axes, `flips(-2, -1, odd={-2: [0], -1: [1]})`.

    - `axes`: counted from the end. Point i goes to n - 1 - i: a mirror image of points at centres, ends or interior; of
      a periodic axis one that is moved too, which matters only if places differ from each other.
    - `odd`: which channels change sign when an axis is flipped: of a velocity its component along that axis; of a
      vorticity in two dimensions the whole of it along each; of a scalar nothing.
    - `entries`: as for `shifts`; `channel_axis`: that of the batch, 2 for windows, 1 for single fields.

    Raises ValueError as `shifts` does, and for channels that do not exist.
    """
    chosen = _from_the_end(axes, "flips")
    signs = {int(axis): tuple(channels) for axis, channels in (odd or {}).items()}
    if not set(signs) <= set(chosen):
        raise ValueError(f"flips: odd channels are given for axes {sorted(signs)}, those flipped are {sorted(chosen)}")
    settings = {"axes": chosen, "odd": signs, "entries": _as_tuple(entries), "channel_axis": channel_axis}
    return Change(_flipped, settings)


def _flipped(key, batch, axes, odd, entries, channel_axis):
    rows, _ = _grid(batch, entries, axes, "flips")
    chosen = jax.random.bernoulli(key, 0.5, (rows, len(axes)))

    def flip(a):
        for i, axis in enumerate(axes):
            mirrored = jnp.flip(a, axis)
            if odd.get(axis):
                _check_channels(a, channel_axis, max(odd[axis]) + 1, "flips", least=True)
                index = (slice(None),) * channel_axis + (jnp.asarray(odd[axis]),)
                mirrored = mirrored.at[index].multiply(-1)
            a = jnp.where(_for_rows(chosen[:, i], a), mirrored, a)
        return a

    return _each(batch, entries, flip)


def rotations(
    first: int = -2,
    second: int = -1,
    *,
    vectors: Sequence[tuple[int, int]] = (),
    entries: Sequence[int] | None = None,
    channel_axis: int = 2,
) -> Change:
    """Each sample turned by 0, 90, 180 or 270 degrees in the plane of two axes of as many points.

    - `first`, `second`: the axes, counted from the end.
    - `vectors`: pairs of channels that are components along them, in this order, which turn with the field. A scalar,
      and a vorticity in two dimensions, stays as it is.
    - `entries`, `channel_axis`: as for `flips`, with which these make up all symmetries of a square.

    Raises ValueError as `shifts` does, for axes of different lengths and for channels that do not exist.
    """
    axes = _from_the_end((first, second), "rotations")
    pairs = tuple((int(a), int(b)) for a, b in vectors)
    settings = {"axes": axes, "vectors": pairs, "entries": _as_tuple(entries), "channel_axis": channel_axis}
    return Change(_rotated, settings)


def _rotated(key, batch, axes, vectors, entries, channel_axis):
    rows, sizes = _grid(batch, entries, axes, "rotations")
    if sizes[0] != sizes[1]:
        raise ValueError(f"rotations: the axes must have as many points, they have {sizes}")
    turns = jax.random.randint(key, (rows,), 0, 4)

    def quarter(a, times):
        turned = jnp.rot90(a, times, axes)
        for u, v in vectors:
            _check_channels(a, channel_axis, max(u, v) + 1, "rotations", least=True)
            lead = (slice(None),) * channel_axis
            along, across = turned[(*lead, u)], turned[(*lead, v)]
            # By a quarter (u, v) becomes (-v, u), by a half (-u, -v).
            new = (-across, along) if times == 1 else (-along, -across)
            turned = turned.at[(*lead, u)].set(new[0]).at[(*lead, v)].set(new[1])
        return turned

    def turn(a):
        a = jnp.where(_for_rows(turns % 2 == 1, a), quarter(a, 1), a)
        return jnp.where(_for_rows(turns >= 2, a), quarter(a, 2), a)

    return _each(batch, entries, turn)


def _each(batch: tuple, entries: tuple[int, ...] | None, function: Callable) -> tuple:
    chosen = range(len(batch)) if entries is None else [e % len(batch) for e in entries]
    return tuple(function(a) if i in chosen else a for i, a in enumerate(batch))


def _grid(batch: tuple, entries, axes: Sequence[int], who: str) -> tuple[int, tuple[int, ...]]:
    """The rows of the batch and the points along each axis. Raises ValueError where entries differ in them."""
    chosen = batch if entries is None else tuple(batch[e] for e in entries)
    found = {(a.shape[0], *(a.shape[i] if 1 - a.ndim <= i else 0 for i in axes)) for a in chosen}
    if len(found) != 1 or 0 in next(iter(found)):
        raise ValueError(
            f"{who}: entries of the batch differ in their grid: {[a.shape for a in chosen]} along axes {tuple(axes)}; "
            "name those that have one with entries=..."
        )
    rows, *sizes = found.pop()
    return rows, tuple(sizes)


def _for_rows(chosen: Array, a: Array) -> Array:
    return chosen.reshape(-1, *(1,) * (a.ndim - 1))


def _from_the_end(axes: Sequence[int], who: str) -> tuple[int, ...]:
    if not axes or max(axes) >= 0 or len(set(axes)) != len(axes):
        raise ValueError(f"{who}: give different axes of the grid counted from the end, such as -2, -1; got {axes}")
    return tuple(axes)


def _as_tuple(entries: Sequence[int] | None) -> tuple[int, ...] | None:
    return None if entries is None else tuple(entries)


def _check_channels(a: Array, axis: int, count: int, who: str, *, least: bool = False) -> None:
    size = a.shape[axis] if axis < a.ndim else 0
    if size < count or (size != count and not least):
        raise ValueError(
            f"{who}: expected {'at least ' if least else ''}{count} channels on axis {axis} of a batch, got {a.shape}; "
            "channel_axis=... says which axis it is"
        )
