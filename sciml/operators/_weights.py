"""The weights of spectral convolutions: a matrix over channels for each mode, or a product of small factors."""

import abc
import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array


class Weights(eqx.Module):
    """Matrices over channels by mode. `parts` is 2 for complex numbers as pairs, 1 for real ones."""

    @abc.abstractmethod
    def mix(self, spectrum: Array, chosen: tuple) -> Array:
        """The product of each mode `(parts, *modes, in)` with its matrix: `(parts, *modes, out)`. `chosen` has the
        slices of the modes that the spectrum holds, and a mask of those that count, or None.
        """


class Dense(Weights):
    """A full matrix for each mode."""

    matrices: Array  # (parts, *modes, in, out)

    def __init__(self, in_channels: int, out_channels: int, modes: tuple[int, ...], parts: int, *, key: Array):
        scale = math.sqrt(2 / (in_channels + out_channels) / parts)
        self.matrices = scale * jax.random.normal(key, (parts, *modes, in_channels, out_channels))

    def mix(self, spectrum, chosen):
        return _multiply(spectrum, *_kept(self.matrices, chosen), subscripts="Ki,Kio->Ko")


class Separable(Weights):
    """A number for each channel and mode: channels are not mixed (as depthwise convolutions)."""

    factors: Array  # (parts, *modes, channels)

    def __init__(self, in_channels: int, out_channels: int, modes: tuple[int, ...], parts: int, *, key: Array):
        if in_channels != out_channels:
            raise ValueError(f"Separable: as many channels out as in, got {in_channels} and {out_channels}")
        self.factors = jax.random.normal(key, (parts, *modes, in_channels)) / math.sqrt(parts)

    def mix(self, spectrum, chosen):
        return _multiply(spectrum, *_kept(self.factors, chosen), subscripts="Ki,Ki->Ki")


class Tucker(Weights):
    """A small core of `rank` times the size along each dimension, and a matrix for each (Kossaifi et al.,
    "Multi-grid tensorized Fourier neural operator for high-resolution PDEs", 2023, section 3.2).
    """

    core: Array
    factors: list[Array]

    def __init__(self, in_channels, out_channels, modes, parts, *, rank: float = 0.5, key: Array):
        sizes = (*modes, in_channels, out_channels)
        ranks = [max(1, math.ceil(rank * n)) for n in sizes]
        keys = jax.random.split(key, len(sizes) + 1)
        scale = math.sqrt(2 / (in_channels + out_channels) / parts)
        self.core = scale * jax.random.normal(keys[0], (parts, *ranks))
        self.factors = [jax.random.normal(k, (n, r)) / math.sqrt(r) for k, n, r in zip(keys[1:], sizes, ranks)]

    def mix(self, spectrum, chosen):
        whole = self.core
        for dim, factor in enumerate(self.factors):
            whole = jnp.moveaxis(jnp.tensordot(whole, factor, axes=(dim + 1, 1)), -1, dim + 1)
        return _multiply(spectrum, *_kept(whole, chosen), subscripts="Ki,Kio->Ko")


class CP(Weights):
    """A sum of `rank` products of vectors, one for each dimension (as `Tucker`, with a diagonal core)."""

    core: Array  # (parts, rank)
    factors: list[Array]

    def __init__(self, in_channels, out_channels, modes, parts, *, rank: int = 64, key: Array):
        sizes = (*modes, in_channels, out_channels)
        keys = jax.random.split(key, len(sizes) + 1)
        scale = math.sqrt(2 / (in_channels + out_channels) / parts / rank)
        self.core = scale * jax.random.normal(keys[0], (parts, rank))
        self.factors = [jax.random.normal(k, (n, rank)) for k, n in zip(keys[1:], sizes)]

    def mix(self, spectrum, chosen):
        letters = "abcdefgh"[: len(self.factors)]
        terms = ",".join(f"{c}r" for c in letters)
        whole = jnp.einsum(f"pr,{terms}->p{letters}", self.core, *self.factors)
        return _multiply(spectrum, *_kept(whole, chosen), subscripts="Ki,Kio->Ko")


def _kept(matrices: Array, chosen: tuple) -> tuple[Array, int]:
    """The matrices of the modes in use, and the number of dimensions of these."""
    rows, mask = chosen
    kept = matrices[(slice(None), *rows)]
    if mask is not None:
        kept = jnp.where(mask.reshape(*mask.shape, *(1,) * (kept.ndim - 1 - mask.ndim)), kept, 0)
    return kept, len(rows)


def _multiply(z: Array, w: Array, dimensions: int, *, subscripts: str) -> Array:
    """A product for each mode, of real numbers or of pairs."""
    rule = subscripts.replace("K", "abcdefgh"[:dimensions].upper())

    def times(x, y):
        return jnp.einsum(rule, x, y, precision=jax.lax.Precision.HIGHEST)

    if z.shape[0] == 1:
        return times(z[0], w[0])[None]
    real = times(z[0], w[0]) - times(z[1], w[1])
    imaginary = times(z[0], w[1]) + times(z[1], w[0])
    return jnp.stack([real, imaginary])
