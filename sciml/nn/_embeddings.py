"""Functions of the input before a network: random Fourier features, and coordinates that are exactly periodic."""

import math
from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ._layers import require_positive, require_scale

# Frozen frequencies are whole multiples of this. Kept as integers, they are parameters to no optimiser.
GRAIN = 2.0**-16


class Embedded(eqx.Module):
    """A network of the embedding of its input: network(embedding(x))."""

    embedding: Callable
    network: Callable

    def __call__(self, x: Float[Array, " in_size"]) -> Array:
        return self.network(self.embedding(x))


class FourierFeatures(eqx.Module):
    """`(in_size,) -> (2 m,)`: the cosines of m frequencies, then their sines, times `amplitude`."""

    frequencies: Float[Array, "m in_size"] | Int[Array, "m in_size"]
    amplitude: float = eqx.field(static=True, default=1.0)

    def __call__(self, x: Float[Array, " in_size"]) -> Float[Array, " features"]:
        if jnp.issubdtype(self.frequencies.dtype, jnp.integer):
            frequencies = GRAIN * self.frequencies.astype(x.dtype)
        else:
            frequencies = self.frequencies
        angle = frequencies @ x
        return self.amplitude * jnp.concatenate([jnp.cos(angle), jnp.sin(angle)])


def draw_frequencies(in_size: int, features: int, scale: float | Sequence[float], key: Array) -> Array:
    """features / 2 normal frequencies `(features / 2, in_size)`, as many of each standard deviation in `scale`."""
    scales = tuple(scale) if isinstance(scale, Sequence) else (scale,)
    if not scales:
        raise ValueError("Fourier features need a scale, got an empty sequence")
    for s in scales:
        require_scale("Fourier features", scale=s)
    if features % (2 * len(scales)):
        raise ValueError(
            f"Fourier features: as many cosines as sines for each of {len(scales)} scale(s) make a multiple of "
            f"{2 * len(scales)} features, got {features}"
        )
    deviations = jnp.repeat(jnp.asarray(scales, jnp.result_type(float)), features // (2 * len(scales)))
    return deviations[:, None] * jax.random.normal(key, (features // 2, in_size))


def fourier_features(
    network: Callable,
    in_size: int,
    features: int,
    *,
    scale: float | Sequence[float] = 2.0,
    trainable: bool = False,
    key: Array,
) -> Embedded:
    """`network` on random Fourier features of the input, `(in_size,) -> (out_size,)` (Tancik et al., NeurIPS 2020): the
    cosines and sines of b x for random normal frequencies b.

    - `features`: how many inputs `network` has, half cosines and half sines. Their squares sum to 1 (Rahimi & Recht,
      NeurIPS 2007, eq. 2), so that the first layer of `mlp`, made for coordinates of order one, need not be changed.
    - `scale`: the standard deviation of b in radians per unit of the input, 2 pi sigma in the notation of the paper;
      the features tell points apart that are 1 / scale from each other. With several scales each has an equal share
      of the features (after Wang, Wang & Perdikaris, CMAME 384, 2021, where each has a copy of the network).
    - `trainable`: whether the frequencies are trained. By default, as in both papers, they are not: they are then kept
      as integer multiples of 2^-16, so that no optimiser counts them among the parameters.

    Numbers have JAX's default precision at the time of the call. Raises ValueError for sizes below 1, scales that are
    not above 0, features that cannot be shared equally and a network with another number of inputs.
    """
    require_positive("fourier_features", in_size=in_size, features=features)
    frequencies = draw_frequencies(in_size, features, scale, key)
    require_inputs("fourier_features", network, features)
    if not trainable:
        frequencies = jnp.round(frequencies / GRAIN).astype(jnp.int32)
    return Embedded(FourierFeatures(frequencies, math.sqrt(2 / features)), network)


class PeriodicInput(eqx.Module):
    """One of the inputs replaced by cosines and sines of its harmonics: see `periodic_embedding`."""

    axis: int = eqx.field(static=True)
    period: float = eqx.field(static=True)
    harmonics: int = eqx.field(static=True)
    log_stretch: Float[Array, ""] | None

    def __call__(self, x: Float[Array, " in_size"]) -> Float[Array, " features"]:
        if self.axis >= len(x):
            raise ValueError(f"periodic_embedding: no input {self.axis} among {len(x)}")
        rate = 2 * math.pi / self.period
        if self.log_stretch is not None:
            rate = rate * jnp.exp(-self.log_stretch)
        angle = rate * jnp.arange(1, self.harmonics + 1, dtype=x.dtype) * x[self.axis]
        return jnp.concatenate([x[: self.axis], jnp.cos(angle), jnp.sin(angle), x[self.axis + 1 :]])

    @property
    def current_period(self) -> Array:
        """The period at present, in the units of the input."""
        return jnp.asarray(self.period) * (1.0 if self.log_stretch is None else jnp.exp(self.log_stretch))


def periodic_embedding(
    network: Callable, axis: int, period: float = 2.0, *, harmonics: int = 1, trainable: bool = False
) -> Embedded:
    """`network` made periodic in one input, with all derivatives: the input number `axis` is replaced by the cosines
    and then the sines of 2 pi k x / period for k = 1, ..., `harmonics` (Dong & Ni, J. Comput. Phys. 435, 2021).

    - `network` has 2 harmonics - 1 inputs more than the result.
    - `period`: in units of the input. Coordinates that `PDE.model` has scaled run over [-1, 1]: 2 is all of an axis.
    - `trainable`: whether the period is trained from there (for a time axis whose period is not known; Wang,
      Sankaran, Wang & Perdikaris, arXiv:2308.08468), as a factor that stays above 0.
      `result.embedding.current_period` is its value.

    An axis that the PDE declares `periodic` arrives as cosine and sine already; add harmonics to these by `harmonics`.
    Raises ValueError for a period that is not above 0, an axis that the input does not have and no harmonics.
    """
    require_positive("periodic_embedding", harmonics=harmonics)
    require_axis("periodic_embedding", axis)
    require_scale("periodic_embedding", period=period)
    return Embedded(PeriodicInput(axis, float(period), harmonics, jnp.zeros(()) if trainable else None), network)


class Harmonics(eqx.Module):
    """A cosine and a sine among the inputs joined by those of multiples of their angle: see `harmonics`."""

    axis: int = eqx.field(static=True)
    count: int = eqx.field(static=True)

    def __call__(self, x: Float[Array, " in_size"]) -> Float[Array, " features"]:
        if self.axis + 1 >= len(x):
            raise ValueError(f"harmonics: no inputs {self.axis} and {self.axis + 1} among {len(x)}")
        c, s = x[self.axis], x[self.axis + 1]
        cosines, sines = [c], [s]
        for _ in range(self.count - 1):
            # The angle addition formulas.
            cosines, sines = [*cosines, c * cosines[-1] - s * sines[-1]], [*sines, s * cosines[-1] + c * sines[-1]]
        return jnp.concatenate([x[: self.axis], jnp.stack(cosines + sines), x[self.axis + 2 :]])


def harmonics(network: Callable, axis: int, count: int) -> Embedded:
    """`network` on `count` harmonics of an axis that the PDE declares `periodic`. The inputs number `axis` and
    `axis` + 1, its cosine and sine, are replaced by the cosines and then the sines of 1, ..., `count` times the angle,
    so `network` has 2 count - 2 inputs more than the result.

    Raises ValueError for a count below 1 and an axis that the input does not have.
    """
    require_positive("harmonics", count=count)
    require_axis("harmonics", axis)
    return Embedded(Harmonics(axis, count), network)


def require_inputs(name: str, network: Callable, size: int) -> None:
    """Raises ValueError where a network does not take an input of shape `(size,)`."""
    try:
        jax.eval_shape(network, jax.ShapeDtypeStruct((size,), jnp.result_type(float)))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: the network does not take {size} inputs: {error}") from error


def require_axis(name: str, axis: int) -> None:
    """Raises ValueError for the number of an input that is not a whole number from 0 up."""
    if isinstance(axis, bool) or not isinstance(axis, int) or axis < 0:
        raise ValueError(f"{name}: axis is the number of an input, from 0 up, got {axis!r}")
