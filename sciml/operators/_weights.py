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

    # In this order the products of small batches, and their gradients, run several times as fast on CPUs as with the
    # parts in front or the inputs first.
    matrices: Array  # (*modes, parts, out, in)

    def __init__(self, in_channels: int, out_channels: int, modes: tuple[int, ...], parts: int, *, key: Array):
        scale = math.sqrt(2 / (in_channels + out_channels) / parts)
        self.matrices = scale * jax.random.normal(key, (*modes, parts, out_channels, in_channels))

    def mix(self, spectrum, chosen):
        return _multiply(spectrum, _kept(self.matrices, chosen))


class Separable(Weights):
    """A number for each channel and mode: channels are not mixed (as depthwise convolutions)."""

    factors: Array  # (*modes, parts, channels)

    def __init__(self, in_channels: int, out_channels: int, modes: tuple[int, ...], parts: int, *, key: Array):
        if in_channels != out_channels:
            raise ValueError(f"Separable: as many channels out as in, got {in_channels} and {out_channels}")
        self.factors = jax.random.normal(key, (*modes, parts, in_channels)) / math.sqrt(parts)

    def mix(self, spectrum, chosen):
        products = spectrum[..., None, :] * _kept(self.factors, chosen)
        return _recombined(products)


class Tucker(Weights):
    """A small core of `rank` times the size along each dimension, and a matrix for each (Kossaifi et al.,
    "Multi-grid tensorized Fourier neural operator for high-resolution PDEs", 2023, section 3.2).
    """

    core: Array
    factors: list[Array]

    def __init__(self, in_channels, out_channels, modes, parts, *, rank: float = 0.5, key: Array):
        sizes = (*modes, out_channels, in_channels)
        ranks = [max(1, math.ceil(rank * n)) for n in sizes]
        keys = jax.random.split(key, len(sizes) + 1)
        scale = math.sqrt(2 / (in_channels + out_channels) / parts)
        self.core = scale * jax.random.normal(keys[0], (parts, *ranks))
        self.factors = [jax.random.normal(k, (n, r)) / math.sqrt(r) for k, n, r in zip(keys[1:], sizes, ranks)]

    def mix(self, spectrum, chosen):
        whole = self.core
        for dim, factor in enumerate(self.factors):
            whole = jnp.moveaxis(jnp.tensordot(whole, factor, axes=(dim + 1, 1)), -1, dim + 1)
        return _multiply(spectrum, _kept(jnp.moveaxis(whole, 0, -3), chosen))


class CP(Weights):
    """A sum of `rank` products of vectors, one for each dimension (as `Tucker`, with a diagonal core)."""

    core: Array  # (parts, rank)
    factors: list[Array]

    def __init__(self, in_channels, out_channels, modes, parts, *, rank: int = 64, key: Array):
        sizes = (*modes, out_channels, in_channels)
        keys = jax.random.split(key, len(sizes) + 1)
        scale = math.sqrt(2 / (in_channels + out_channels) / parts / rank)
        self.core = scale * jax.random.normal(keys[0], (parts, rank))
        self.factors = [jax.random.normal(k, (n, rank)) for k, n in zip(keys[1:], sizes)]

    def mix(self, spectrum, chosen):
        letters = "abcdefgh"[: len(self.factors)]
        terms = ",".join(f"{c}r" for c in letters)
        whole = jnp.einsum(f"pr,{terms}->p{letters}", self.core, *self.factors)
        return _multiply(spectrum, _kept(jnp.moveaxis(whole, 0, -3), chosen))


def _kept(matrices: Array, chosen: tuple) -> Array:
    """The matrices of the modes in use."""
    rows, mask = chosen
    kept = matrices[rows]
    if mask is not None:
        kept = jnp.where(mask.reshape(*mask.shape, *(1,) * (kept.ndim - mask.ndim)), kept, 0)
    return kept


def _multiply(z: Array, w: Array) -> Array:
    """A product for each mode: `(parts, *modes, in)` with `(*modes, parts, out, in)`."""
    modes = "ABCDEFGH"[: z.ndim - 2]
    return _recombined(jnp.einsum(f"p{modes}i,{modes}qoi->p{modes}qo", z, w, precision=jax.lax.Precision.HIGHEST))


def _recombined(products: Array) -> Array:
    """All products of parts, `(parts, *modes, parts, channels)`, as parts of the complex product."""
    if products.shape[0] == 1:
        return products[..., 0, :]
    real = products[0][..., 0, :] - products[1][..., 1, :]
    return jnp.stack([real, products[0][..., 1, :] + products[1][..., 0, :]])
