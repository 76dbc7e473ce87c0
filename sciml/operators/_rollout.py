"""Through time: steppers, rollouts in one scan, the losses that train them, and what tells whether they last.

A stepper is a function of one sample, `(frames, channels, *grid) -> (frames, channels, *grid)`: from a window of the
last frames to one or more next ones, as the batches of `Dataset.stack` and `Dataset.windows` have them.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, ArrayLike, Float

from ..metrics import evaluate, spectrum_error
from ..nn import Normalised, Normaliser

Frames = Float[Array | np.ndarray, "frames *state"]
MEMORY = 256 * 1024 * 1024


class Stepper(eqx.Module):
    """A stepper from any operator on a grid: frames become channels,
    `(frames_in * channels + known, *grid) -> (frames_out * channels, *grid)`, and back.

    - `frames_out`: above 1 for temporal bundling (Brandstetter et al., "Message passing neural PDE solvers", ICLR 2022,
      section 3.1): fewer calls, so fewer places where errors feed on themselves.
    - `residual`: each frame is a change from the last one of the window. In physical units, with a scale of its own,
      that is rather `sciml.nn.normalised(Stepper(...), ..., residual=True)`.

    Raises ValueError for frames that do not fit.
    """

    network: Callable
    frames_in: int = eqx.field(static=True, default=1)
    frames_out: int = eqx.field(static=True, default=1)
    residual: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        if self.frames_in < 1 or self.frames_out < 1:
            raise ValueError(f"Stepper: frames must be 1 or more, got {self.frames_in} in and {self.frames_out} out")

    def __call__(self, window: Float[Array, "frames channels *grid"], *known: Array) -> Array:
        """The next frames. Fields that are known, `(*any, *grid)` each, are further channels of the network."""
        frames, channels, *grid = window.shape
        if frames != self.frames_in:
            raise ValueError(
                f"Stepper: expected one window of {self.frames_in} frames, (frames, channels, *grid), got "
                f"{window.shape}; a batch needs jax.vmap"
            )
        for field in known:
            if field.ndim < len(grid) or list(field.shape[field.ndim - len(grid) :]) != grid:
                raise ValueError(f"Stepper: a known field must end in the grid {tuple(grid)}, got {field.shape}")
        out = self.network(jnp.concatenate([a.reshape(-1, *grid) for a in (window, *known)]))
        wanted = (self.frames_out * channels, *grid)
        if out.shape != wanted:
            raise ValueError(
                f"Stepper: {self.frames_out} frames of {channels} channels are {wanted}, the network gave {out.shape}"
            )
        change = out.reshape(self.frames_out, channels, *grid)
        return window[-1:] + change if self.residual else change


def rollout(
    model: Callable,
    window: Frames,
    steps: int,
    *constant: Any,
    forcing: Any = None,
    remat: bool = False,
    every: int = 1,
) -> Float[Array, "steps *state"]:
    """The next `steps` frames after a window, each predicted from those before: one `lax.scan` for one sample.

    - `model`: a stepper; or one that gives a single frame, without the axis of time. Where it gives more than one, as
      many calls are made as are needed and the last frames are cut.
    - `constant`: further arguments of each call, such as a coefficient field.
    - `forcing`: what is known of each call, its last argument: an array, or a pytree of them, with an entry for each
      call on the leading axis (`steps` divided by the frames of a call, rounded up).
    - `remat`: whether the gradient computes each call anew instead of keeping what is inside of it.
    - `every`: only each such frame is kept, `steps / every` of them. With `remat` the gradient then keeps one window
      for each of those, besides the calls between two.

    Raises ValueError for a model whose frames are not like those of the window, and for numbers that do not fit.
    """
    return _rolled(model, window, steps, constant, forcing, remat, every, lambda frame, number: frame)


def _rolled(model, window, steps, constant, forcing, remat, every, read) -> Any:
    """What `read(frame, number)` gives for each frame that is kept, counted from 0: no frame need be stored."""
    window = jnp.asarray(window)
    size, dtype = _bundle(model, window, constant, forcing)
    if steps < 1 or every < 1 or steps % every:
        raise ValueError(f"rollout: steps must be a multiple of every and both above 0, got {steps} and {every}")
    calls = -(-steps // size)
    inner = math.lcm(size, every) // size
    blocks = -(-calls // inner)
    known = _by_call(forcing, calls, blocks, inner)
    numbers = jnp.arange(blocks * inner * size).reshape(blocks, -1)[:, every - 1 :: every]

    def call(window, known):
        extra = () if forcing is None else (known,)
        frames = model(window, *constant, *extra).astype(dtype).reshape(size, *window.shape[1:])
        return jnp.concatenate([window, frames])[-len(window) :], frames

    def block(window, known_and_numbers):
        known, numbers = known_and_numbers
        if inner == 1:
            window, frames = call(window, jax.tree.map(lambda a: a[0], known))
        else:
            again = jax.checkpoint(call, prevent_cse=False) if remat else call
            window, frames = jax.lax.scan(again, window, known, length=inner)
            frames = frames.reshape(-1, *window.shape[1:])
        return window, jax.vmap(read)(frames[every - 1 :: every], numbers)

    again = jax.checkpoint(block, prevent_cse=False) if remat else block
    _, out = jax.lax.scan(again, window.astype(dtype), (known, numbers))
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[: steps // every], out)


def _bundle(model: Callable, window: Any, constant: Sequence, forcing: Any) -> tuple[int, Any]:
    """How many frames a call gives, and in which type."""
    extra = () if forcing is None else (jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), forcing),)
    out = eqx.filter_eval_shape(model, window, *constant, *extra)
    shape = (1, *out.shape) if out.ndim == window.ndim - 1 else out.shape
    if shape[1:] != window.shape[1:] or shape[0] < 1:
        raise ValueError(
            f"rollout: the model must give frames like those of its window, (frames, {str(window.shape[1:])[1:-1]}); "
            f"of a window of shape {window.shape} it made {out.shape}"
        )
    return shape[0], jnp.result_type(window.dtype, out.dtype)


def _by_call(forcing: Any, calls: int, blocks: int, inner: int) -> Any:
    """Known inputs by block and call; calls whose frames are not wanted get those of the last one."""
    index = np.minimum(np.arange(blocks * inner), calls - 1)

    def split(a):
        if a.shape[0] != calls:
            raise ValueError(f"rollout: the model is called {calls} times, the forcing has {a.shape[0]} entries")
        full = a if len(index) == calls else a[index]
        return full.reshape(blocks, inner, *a.shape[1:])

    return jax.tree.map(split, forcing)


class Rolled(eqx.Module):
    """A model that gives a whole rollout: see `rolled`."""

    model: Callable
    steps: int = eqx.field(static=True)
    forcing: bool = eqx.field(static=True)
    remat: bool = eqx.field(static=True)

    def __call__(self, window: Frames, *known: Any) -> Array:
        """The frames after a window."""
        constant, forcing = _split(known, self.forcing)
        return rollout(self.model, window, self.steps, *constant, forcing=forcing, remat=self.remat)


def rolled(model: Callable, steps: int, *, forcing: bool = False, remat: bool = False) -> Rolled:
    """A model that gives the next `steps` frames: `rollout` as a function from a stepper to a model, for losses and
    measures that call a model once, `sciml.metrics.evaluate(rolled(model, 20), data)`.

    With `forcing` its last argument is that of each call, as for `rollout`; the arguments between are constant.
    """
    return Rolled(model, steps, forcing, remat)


def _split(known: Sequence, forcing: bool) -> tuple[tuple, Any]:
    """Constant inputs, and the forcing or None."""
    if forcing and not known:
        raise ValueError("forcing=True: expected (window, ..., forcing), got a window alone")
    return (tuple(known[:-1]), known[-1]) if forcing else (tuple(known), None)


# Losses.


def through_time(loss: Callable, *, steps: int | None = None, remat: bool = False, forcing: bool = False) -> Callable:
    """A loss of K steps through time: `loss` of the rollout, with the gradient through all of its steps. Batches are
    `(window, *constant, target)`, the target `(batch, K, channels, *grid)`; one step is K = 1.

    - `steps`: only the first so many frames of the target, by default all.
    - `remat`: as for `rollout`.
    - `forcing`: whether the entry before the target is the forcing of each call, `(batch, calls, ...)`.

    A loss of fields becomes one of rollouts: `through_time(sciml.metrics.h1_misfit(grid=(-2, -1)))`.
    """

    def rolled_loss(model, batch):
        *inputs, target = batch
        wanted = target[:, :steps]
        if forcing and steps is not None:
            calls = -(-wanted.shape[1] // _frames_of_call(model, inputs, forcing))
            inputs[-1] = jax.tree.map(lambda a: a[:, :calls], inputs[-1])
        return loss(Rolled(model, wanted.shape[1], forcing, remat), (*inputs, wanted))

    return rolled_loss


def _frames_of_call(model: Callable, inputs: Sequence, forcing: bool) -> int:
    """How many frames a call gives, of a batch of inputs."""
    one = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), list(inputs))
    return _bundle(model, one[0], *_split(one[1:], forcing))[0]


def rollout_misfit(
    *,
    relative: bool = True,
    scale: Normaliser | ArrayLike | Sequence[float] | None = None,
    steps: int | None = None,
    remat: bool = False,
    forcing: bool = False,
) -> Callable:
    """The loss of K steps through time: all frames of the rollout minus the target. Batches, `steps`, `remat` and
    `forcing` are those of `through_time`.

    - `relative`: divided by the root mean square of each target.
    - `scale`: what a channel is measured in before that, so that none counts more for its units: a number, one for each
      channel, or a normaliser (its scales). By default those of the output of a `normalised` model, else 1. Those of
      logarithms do not count.

    A `normalised` model that fills what is missing has no residual where the target is missing. Raises ValueError for
    shapes that do not fit.
    """

    def loss(model, batch):
        *inputs, target = batch
        predicted = jax.vmap(model)(*inputs)
        if predicted.shape != target.shape:
            raise ValueError(f"rollout_misfit: the rollout is {predicted.shape}, the target {target.shape}")
        return {"misfit": _difference(model.model, predicted, target, scale, relative)}

    return through_time(loss, steps=steps, remat=remat, forcing=forcing)


def _difference(model, predicted, target, scale, relative: bool) -> Array:
    """The residual of a batch."""
    outputs = model.outputs if isinstance(model, Normalised) else None
    scale = outputs if scale is None else scale
    axis = 1
    if isinstance(scale, Normaliser):
        axis = 1 if scale.axis is None else scale.axis
        scale = [1.0 if o is not None else s for s, o in zip(scale.scale, scale.offset)]
    factor = _by_channel(1.0 if scale is None else scale, predicted[0], axis)
    missing = jnp.isnan(target) if outputs is not None and outputs.fill else jnp.zeros((), bool)
    residual = jnp.where(missing, 0, predicted - target) / factor
    if not relative:
        return residual
    squares = jnp.where(missing, 0, target / factor) ** 2
    counted = jnp.broadcast_to(~missing, target.shape)
    size = jnp.mean(squares, axis=range(1, target.ndim), keepdims=True, where=counted)
    return residual / jnp.sqrt(size)


def _by_channel(numbers: Any, a: Array, axis: int) -> Array:
    values = jnp.asarray(numbers, a.dtype).reshape(-1)
    if len(values) == 1:
        return values[0]
    if not -a.ndim <= axis < a.ndim or len(values) != a.shape[axis]:
        raise ValueError(f"{len(values)} scales do not fit the channels on axis {axis} of {a.shape}")
    return values.reshape(-1, *(1,) * (a.ndim - 1 - axis % a.ndim))


def pushforward(loss: Callable, steps: int | None = None, *, forcing: bool = False) -> Callable:
    """A loss after a few steps of the model itself (Brandstetter et al., 2022, section 3.2): the window is taken
    `steps` frames ahead without gradient, the first so many of the target are left out, and `loss` is that of the rest.
    The model so learns from its own errors, at the memory of the last step.

    - `steps`: by default all but those of the last call.
    - `forcing`: as for `through_time`.

    Terms are called `pushforward ...`, so that those of one step can be added, as in the paper:
    `sciml.combine(rollout_misfit(steps=1), pushforward(rollout_misfit()))`. Raises ValueError for steps that do not
    leave a frame, or are not a whole number of calls.
    """

    def pushed(model, batch):
        window, *known, target = batch
        size = _frames_of_call(model, (window, *known), forcing)
        count = max(0, target.shape[1] - size) if steps is None else steps
        calls = count // size
        if not 0 <= count < target.shape[1] or count % size:
            raise ValueError(
                f"pushforward: {count} steps of {target.shape[1]} frames in the target, {size} with each call; "
                "expected whole calls, and at least a frame left"
            )
        early, late = list(known), list(known)
        if forcing:
            early[-1] = jax.tree.map(lambda a: a[:, :calls], known[-1])
            late[-1] = jax.tree.map(lambda a: a[:, calls:], known[-1])
        if count:
            frames = jax.vmap(Rolled(model, count, forcing, False))(window, *early)
            window = jax.lax.stop_gradient(jnp.concatenate([window, frames], axis=1)[:, -window.shape[1] :])
        terms = loss(model, (window, *late, target[:, count:]))
        if not isinstance(terms, Mapping):
            raise TypeError("pushforward needs a loss that returns a dict of residuals")
        return {f"pushforward {name}": residual for name, residual in terms.items()}

    return pushed


# Measures.


def rollout_errors(
    model: Callable, data: Any, *, memory: int = MEMORY, forcing: bool = False, remat: bool = False, **options: Any
) -> xr.Dataset:
    """The errors of rollouts by variable and lead time: `sciml.metrics.evaluate` of the rolled model, for as many
    samples at a time as fit into the memory.

    - `data`: a data set of windows, or an iterable of batches `(window, *constant, target)`, gone through once, or of
      padded ones, `(batch, mask)`. Rollouts are as long as the targets, `(batch, K, channels, *grid)`.
    - `memory`: bytes for a rollout and its errors, besides the batches of an iterable. It bounds the samples taken at a
      time by what the program of one needs; one is always taken.
    - `forcing`: as for `through_time`. `options` are those of `evaluate`; the axes of time and channels are 1 and 2
      unless they are given, or a data set knows better.

    Raises ValueError for data without a batch.
    """
    rows = data.batches(1, shuffle=False, nan=True) if hasattr(data, "batches") else None
    first, batches = _peek(data if rows is None else rows)
    *inputs, target = first
    whole = rolled(model, target.shape[1], forcing=forcing, remat=remat)
    size = _samples_within(memory, whole, inputs, target)
    if rows is not None:
        return evaluate(whole, data, size=min(size, len(rows)), **options)
    axes: dict[str, Any] = {"time": 1} | ({"channel": 2} if target.ndim > 3 else {})
    return evaluate(whole, _parts(batches, size), **axes | options)


def _peek(batches: Iterable) -> tuple[tuple, Iterable]:
    """The arrays of the first batch, and all batches."""
    stream = iter(batches)
    first = next(stream, None)
    if first is None:
        raise ValueError("rollout_errors: the data gave no batch")
    arrays = first[0] if isinstance(first[0], tuple) else first
    return tuple(arrays), itertools.chain([first], stream)


def _parts(batches: Iterable, size: int) -> Iterator[tuple]:
    """Batches cut into smaller ones."""
    for batch in batches:
        rows = jax.tree.leaves(batch)[0].shape[0]
        for start in range(0, rows, size):
            yield jax.tree.map(lambda a: a[start : start + size], batch)


def _samples_within(memory: int, model: Callable, inputs: Sequence, target: Any) -> int:
    """How many samples at a time, by what the compiled program of one needs."""
    dynamic, static = eqx.partition(model, eqx.is_array)
    one = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), list(inputs))
    program = jax.jit(lambda dynamic, inputs: eqx.combine(dynamic, static)(*inputs))
    used = program.lower(dynamic, one).compile().memory_analysis()
    # Rollout, target and what their errors need: some arrays of this size at least.
    least = 4 * math.prod(target.shape[1:]) * target.dtype.itemsize
    return max(1, memory // (least + (used.temp_size_in_bytes if used else least)))


def stability(
    model: Callable,
    windows: Float[Array | np.ndarray, "samples frames *state"],
    steps: int,
    *constant: Any,
    forcing: Any = None,
    target: Float[Array | np.ndarray, "samples steps *state"] | None = None,
    limit: float = 10.0,
    correlation: float = 0.8,
    error: float = 0.5,
    every: int = 1,
    names: Sequence[str] = (),
    size: int = 16,
) -> xr.Dataset:
    """Whether rollouts of `steps` frames last: a table by sample, lead time (in frames) and variable.

    - `norm`: root mean square over the grid; `growth`: the same over that of the data, all of `windows`.
    - `growth_rate`: the mean change of log(norm) with a frame, from the last frame of the window to the last one that
      is finite and not zero.
    - `blow_up`: the first lead at which a channel's `growth` is above `limit` or not finite; NaN if none is.
    - `energy_drift`: the mean square summed over channels against the reference, E / E_reference - 1. The reference is
      the target's frame of that lead, or without a target the last frame of the window.
    - `spectrum_drift`: `sciml.metrics.spectrum_error` against the reference, the mean over channels: 1 where power is
      wrong by a factor of ten.
    - with a `target`: `correlation`, and `error`, the RMSE over the standard deviation of the data; and the
      valid-prediction times, how many frames come before the first one with a channel whose correlation is below the
      threshold `correlation` (`correlated`; Kochkov et al., PNAS 2021), or whose error is above `error` (`accurate`;
      Vlachas et al., Neural Networks 2020).

    `constant` and `forcing` are those of `rollout` with samples in front, `every` as there, `names` those of the
    channels. `size` samples run at a time, and no frame is stored. Raises ValueError for a target that does not have
    `steps` frames.
    """
    windows = jnp.asarray(windows)
    if target is not None and target.shape != (len(windows), steps, *windows.shape[2:]):
        raise ValueError(f"stability: expected a target of {steps} frames for each window, got {target.shape}")

    def one(sample):
        window, constant, forcing, truth = sample

        def read(frame, number):
            held = window[-1] if truth is None else jax.lax.dynamic_index_in_dim(truth, number, keepdims=False)
            return _measured(frame, held, truth is not None)

        return _rolled(model, window, steps, constant, forcing, False, every, read)

    samples = jax.tree.map(jnp.asarray, (windows, constant, forcing, target))
    out = jax.jit(lambda samples: jax.lax.map(one, samples, batch_size=size))(samples)
    out = {name: np.asarray(values) for name, values in out.items()}
    rms, deviation = _of_data(windows)
    out["growth"] = out["norm"] / rms
    out["growth_rate"] = _rate(np.asarray(jax.vmap(_norm)(windows[:, -1])), out["norm"], every)
    out["blow_up"] = _first(~(out["growth"] <= limit).all(axis=-1), every)
    if target is not None:
        out["error"] = out["error"] / deviation
        for name, good in (("correlated", out["correlation"] >= correlation), ("accurate", out["error"] <= error)):
            first = _first(~good.all(axis=-1), every)
            out[name] = np.where(np.isnan(first), steps, first - every)
    dims = {n: ("sample", "lead_time", "variable")[: v.ndim] for n, v in out.items()} | {
        "growth_rate": ("sample", "variable")
    }
    coords: dict[str, Any] = {"lead_time": every * np.arange(1, steps // every + 1)}
    return xr.Dataset({n: (dims[n], v) for n, v in out.items()}, coords | ({"variable": list(names)} if names else {}))


def _grid_axes(a: Array) -> tuple[int, ...]:
    return tuple(range(1, a.ndim))


def _single(a: Any) -> Array:
    """In float32 at least."""
    return jnp.asarray(a).astype(jnp.result_type(a.dtype, jnp.float32))


def _norm(frame: Any) -> Array:
    """Root mean square of each channel."""
    frame = _single(frame)
    return jnp.sqrt(jnp.mean(frame**2, axis=_grid_axes(frame)))


def _measured(frame: Any, reference: Any, compare: bool) -> dict[str, Array]:
    """What is told of a frame beside its reference; errors and correlations of each channel if they are compared."""
    frame, reference = _single(frame), _single(reference)
    axes = _grid_axes(frame)
    out = {"norm": _norm(frame)}
    out["energy_drift"] = jnp.sum(out["norm"] ** 2) / jnp.sum(_norm(reference) ** 2) - 1
    if axes and min(frame.shape[1:]) > 1:
        space = tuple(axis + 1 for axis in axes)
        out["spectrum_drift"] = jnp.mean(spectrum_error(frame[None], reference[None], grid=space, channel=1))
    if compare:
        a, b = (u - jnp.mean(u, axis=axes, keepdims=True) for u in (frame, reference))
        out["error"] = _norm(frame - reference)
        out["correlation"] = jnp.mean(a * b, axis=axes) / (_norm(a) * _norm(b))
    return out


def _of_data(windows: Any) -> tuple[np.ndarray, np.ndarray]:
    """Root mean square and standard deviation of each channel over samples, frames and grid."""
    windows = _single(windows)
    over = (0, 1, *range(3, windows.ndim))
    return np.sqrt(np.asarray(jnp.mean(windows**2, axis=over))), np.asarray(jnp.std(windows, axis=over))


def _rate(start: np.ndarray, norms: np.ndarray, every: int) -> np.ndarray:
    """`(samples, channels)`: the mean change of the logarithm with a frame, as long as there is one."""
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(norms)
        bad = ~np.isfinite(logs)
        count = np.where(bad.any(axis=1), bad.argmax(axis=1), logs.shape[1])
        last = np.take_along_axis(logs, np.maximum(count, 1)[:, None] - 1, axis=1)[:, 0]
        return np.where(count > 0, (last - np.log(start)) / (every * np.maximum(count, 1)), np.nan)


def _first(bad: Any, every: int) -> np.ndarray:
    """The lead at which each sample is bad for the first time; NaN if it never is."""
    return np.where(bad.any(axis=1), every * (bad.argmax(axis=1) + 1.0), np.nan)
