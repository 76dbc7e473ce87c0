"""Normalisation as part of the model: physical units outside, numbers of order one inside."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike

Numbers = tuple[float, ...]


class Normaliser(eqx.Module):
    """`(x - mean) / scale` by channel, or `(log(x + offset) - mean) / scale` where a channel has an offset.

    The numbers are part of the configuration, not parameters: `fit` leaves them as they are, and `load` compares them.

    - `mean`, `scale`: one number for all of an array, or one for each channel; `offset`: of the logarithm, None where a
      channel has none; `floor`: the least `x + offset` of which the logarithm is taken, lower ones are raised to it.
    - `axis`: which axis of one sample has the channels; None where there are none.
    - `difference`: whether the numbers are those of a change in time; `encode` and `decode` then need a `base`.
    - `fill`: whether missing numbers (NaN) are encoded as 0, the mean; otherwise they stay NaN. What is added to a
      missing base is missing.

    Computed in float32 at least: the mean is subtracted in two parts, so that encoding is as exact as x itself.
    Raises ValueError for numbers that are not finite, a scale that is not above 0 and channels that do not agree.
    """

    mean: Numbers = eqx.field(static=True)
    scale: Numbers = eqx.field(static=True)
    offset: tuple[float | None, ...] = eqx.field(static=True)
    floor: Numbers = eqx.field(static=True)
    names: tuple[str, ...] = eqx.field(static=True)
    axis: int | None = eqx.field(static=True)
    difference: bool = eqx.field(static=True)
    fill: bool = eqx.field(static=True)

    def __init__(
        self,
        mean: float | Sequence[float],
        scale: float | Sequence[float],
        *,
        offset: float | None | Sequence[float | None] = None,
        floor: float | Sequence[float] = 0.0,
        names: Sequence[str] = (),
        axis: int | None = None,
        difference: bool = False,
        fill: bool = False,
    ):
        self.mean, self.scale = _floats(mean), _floats(scale)
        count = len(self.mean)
        self.offset = tuple(offset) if isinstance(offset, Sequence) else (offset,) * count
        self.floor = tuple(floor) if isinstance(floor, Sequence) else (float(floor),) * count
        self.names, self.axis, self.difference, self.fill = tuple(names), axis, difference, fill
        lengths = [len(v) for v in (self.mean, self.scale, self.offset, self.floor)]
        if len(set(lengths)) > 1:
            raise ValueError(f"mean, scale, offset and floor differ in length: {lengths}")
        if axis is None and count != 1:
            raise ValueError(f"{count} channels need axis=, the axis of a sample that has them")
        known = [o for o in self.offset if o is not None]
        if not all(map(math.isfinite, (*self.mean, *self.scale, *known, *self.floor))) or min(self.scale) <= 0:
            raise ValueError(f"numbers must be finite and scales above 0, got mean {self.mean}, scale {self.scale}")

    def encode(self, x: ArrayLike, base: ArrayLike | None = None) -> Array:
        """Physical units to numbers of order one, of the same shape; of a difference, x as a change from `base`."""
        self._check_base(base)
        array = self._as_float(x)
        mean, rest, scale = self._parts(array)
        values = self._forward(array)
        if base is not None:
            values = values - self._forward(jnp.broadcast_to(self._as_float(base), array.shape))
        values = ((values - mean) - rest) / scale
        return jnp.where(jnp.isnan(values), 0, values) if self.fill else values

    def decode(self, z: ArrayLike, base: ArrayLike | None = None) -> Array:
        """Numbers of order one to physical units, of the same shape; of a difference, added to `base`."""
        self._check_base(base)
        array = self._as_float(z)
        mean, rest, scale = self._parts(array)
        values = (array * scale + rest) + mean
        if base is not None:
            values = self._forward(jnp.broadcast_to(self._as_float(base), array.shape)) + values
        return self._back(values)

    def _forward(self, x: Array) -> Array:
        """The logarithm of the channels that have one."""
        if not any(o is not None for o in self.offset):
            return x
        logged = self._spread([o is not None for o in self.offset], x, bool)
        shifted = x + self._spread([o or 0.0 for o in self.offset], x)
        # Where there is no logarithm its argument is 1, for the sake of the gradient.
        return jnp.where(logged, jnp.log(jnp.where(logged, jnp.maximum(shifted, self._spread(self.floor, x)), 1)), x)

    def _back(self, values: Array) -> Array:
        """The inverse of the logarithm, but for the floor."""
        if not any(o is not None for o in self.offset):
            return values
        logged = self._spread([o is not None for o in self.offset], values, bool)
        raised = jnp.exp(jnp.where(logged, values, 0)) - self._spread([o or 0.0 for o in self.offset], values)
        return jnp.where(logged, raised, values)

    def _parts(self, x: Array) -> tuple[Array, Array, Array]:
        """The mean as what the type of x can hold and the rest, and the scale."""
        mean = self._spread(self.mean, x)
        held = jnp.finfo(x.dtype).dtype.type
        rest = self._spread([m - float(held(m)) for m in self.mean], x)
        return mean, rest, self._spread(self.scale, x)

    def _spread(self, numbers: Sequence, x: Array, dtype: Any = None) -> Array:
        """Numbers by channel, broadcast against x."""
        array = jnp.asarray(numbers, dtype or x.dtype)
        if self.axis is None:
            return array[0]
        if not -x.ndim <= self.axis < x.ndim or x.shape[self.axis] != len(numbers):
            who = f" ({', '.join(self.names)})" if self.names else ""
            raise ValueError(
                f"expected {len(numbers)} channels{who} on axis {self.axis} of one sample, got the shape {x.shape}; "
                "a batch needs jax.vmap"
            )
        return array.reshape(-1, *(1,) * (x.ndim - 1 - self.axis % x.ndim))

    def _as_float(self, x: ArrayLike) -> Array:
        array = jnp.asarray(x)
        return array.astype(jnp.result_type(array.dtype, jnp.float32))

    def _check_base(self, base: ArrayLike | None) -> None:
        if self.difference != (base is not None):
            need = "needs a base, the frame before" if self.difference else "takes no base; use difference=True"
            raise ValueError(f"the normaliser of {', '.join(self.names) or 'these numbers'} {need}")


def _floats(numbers: Any) -> Numbers:
    return tuple(float(n) for n in numbers) if hasattr(numbers, "__len__") else (float(numbers),)


def normaliser(
    statistics: Any,
    *names: str,
    channel_axis: int | None = None,
    difference: bool = False,
    fill: bool = False,
) -> Normaliser:
    """The normaliser of one variable, or of several that lie beside each other on the channel axis, in this order.

    - `statistics`: of a data set (`train.statistics()`), or numbers by name: `{"u": {"mean": 0.0, "std": 1.0}}`, with
      `difference_mean`, `difference_std`, `log_offset` and `min` where they are needed.
    - `channel_axis`: of one sample: 0 for `(channel, *grid)`, 1 for `(time, channel, *grid)`, None without channels.
    - `difference`: for the change in time instead of the variable itself.

    A constant channel (standard deviation 0) has scale 1: it is encoded as 0. Raises ValueError for a name without
    statistics and where the differences are not known.
    """
    variables = getattr(statistics, "variables", statistics)
    if not names:
        raise ValueError(f"normaliser: give names of variables, of {', '.join(variables)}")
    mean, std, offset, floor, channels = [], [], [], [], []
    for name in names:
        if name not in variables:
            raise ValueError(f"normaliser: no statistics of '{name}'; there are {', '.join(variables)}")
        prefix = "difference_" if difference else ""
        means, stds = (_numbers(variables[name], name, prefix + key) for key in ("mean", "std"))
        log_offset = _field(variables[name], "log_offset")
        least = [-math.inf] * len(means) if log_offset is None else _numbers(variables[name], name, "min")
        mean += means
        std += stds
        offset += [log_offset] * len(means)
        floor += [math.exp(v) for v in least]
        channels += [name] * len(means)
    scale = [s if s > 0 else 1.0 for s in std]
    options = {"names": tuple(channels), "axis": channel_axis, "difference": difference, "fill": fill}
    return Normaliser(mean, scale, offset=offset, floor=floor, **options)


def _field(entry: Any, key: str) -> Any:
    return entry.get(key) if isinstance(entry, Mapping) else getattr(entry, key, None)


def _numbers(entry: Any, name: str, key: str) -> list[float]:
    value = _field(entry, key)
    if value is None:
        remedy = "; the data have no two frames in time beside each other" if key.startswith("difference") else ""
        raise ValueError(f"normaliser: the statistics of '{name}' have no {key}{remedy}")
    if getattr(value, "ndim", 0) > 1:
        raise ValueError(f"normaliser: '{name}' has channels of shape {value.shape}; expected one axis of channels")
    return list(_floats(value.tolist() if hasattr(value, "tolist") else value))


class Normalised(eqx.Module):
    """A model that takes and gives physical units: see `normalised`."""

    model: Callable
    inputs: tuple[Normaliser | None, ...]
    outputs: Normaliser
    time_axis: int | None = eqx.field(static=True)

    def __call__(self, *arguments: Any, **options: Any) -> Array:
        """The prediction for one sample, in physical units."""
        z = self.model(*self._encoded(arguments), **options)
        return self.outputs.decode(z, self._base(arguments, z))

    def misfit(self, *batch: Any) -> Array:
        """Prediction minus target for one sample `(*arguments, target)`, in units of the scale of the output; 0 where
        the target is missing, or what it is a change from, if `outputs.fill` is set.
        """
        *arguments, target = batch
        z = self.model(*self._encoded(tuple(arguments)))
        if z.shape != jnp.shape(target):
            raise ValueError(f"the model gives the shape {z.shape}, the target has {jnp.shape(target)}")
        base = self._base(tuple(arguments), z)
        wanted = self.outputs.encode(target, base)
        if not self.outputs.fill:
            return z - wanted
        missing = jnp.isnan(target) if base is None else jnp.isnan(target) | jnp.isnan(base)
        return jnp.where(missing, 0, z - wanted)

    def _encoded(self, arguments: tuple) -> tuple:
        if len(self.inputs) > len(arguments):
            raise ValueError(f"normalised for {len(self.inputs)} arguments, called with {len(arguments)}")
        first = tuple(x if n is None else n.encode(x) for n, x in zip(self.inputs, arguments))
        return first + arguments[len(first) :]

    def _base(self, arguments: tuple, z: Array) -> Array | None:
        """The last frame of the first argument, of the shape of the prediction."""
        if not self.outputs.difference:
            return None
        base = jnp.asarray(arguments[0])
        if self.time_axis is not None:
            frame = jax.lax.index_in_dim(base, -1, self.time_axis, keepdims=z.ndim == base.ndim)
        else:
            frame = base
        if frame.ndim != z.ndim or any(n not in (1, m) for n, m in zip(frame.shape, z.shape)):
            raise ValueError(
                f"residual: the last frame of the input has the shape {frame.shape}, the prediction {z.shape}; both "
                "must have the same channels and grid"
            )
        return jnp.broadcast_to(frame, z.shape)


def normalised(
    model: Callable,
    inputs: Normaliser | None | Sequence[Normaliser | None],
    outputs: Normaliser,
    *,
    residual: bool = False,
    time_axis: int | None = 0,
) -> Normalised:
    """A model in physical units about one on numbers of order one.

    - `inputs`: of the first argument, or a sequence for the first few; None leaves an argument as it is.
    - `residual`: the model predicts the change from the last input frame, on the scale of `outputs`, a normaliser with
      `difference=True` of the same variables. Frames lie along `time_axis` of the first argument, as windows have
      them; the prediction has that axis too (each frame is a change from the last input) or is one frame. None
      where the argument is a single frame.

    Evaluation and errors are in physical units; train with `scaled_misfit`, or any loss in physical units. Raises
    ValueError where `residual` and `outputs` do not agree.
    """
    if residual != outputs.difference:
        need = "normaliser(statistics, ..., difference=True)" if residual else "residual=True for these differences"
        raise ValueError(f"normalised: outputs and residual do not agree; give {need}")
    first = inputs if isinstance(inputs, Sequence) else (inputs,)
    if any(n is not None and n.difference for n in first):
        raise ValueError("normalised: inputs are normalised as they are; give normalisers without difference=True")
    return Normalised(model, tuple(first), outputs, time_axis)


def scaled_misfit(model: Any, batch: tuple) -> dict[str, Array]:
    """The loss of a `normalised` model: as `misfit`, in units of the scale of the output, so that each channel counts
    alike. Computed before decoding, so that no digits are lost to the mean. Raises TypeError for another model.
    """
    if not isinstance(model, Normalised):
        raise TypeError(f"scaled_misfit needs a model made by normalised, got {type(model).__name__}; use misfit")
    return {"misfit": jax.vmap(model.misfit)(*batch)}
