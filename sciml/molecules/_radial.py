"""Functions of a distance: radial bases and cutoffs that are smooth where they end."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def cosine_cutoff(distances: Float[Array, "*e"], cutoff: float) -> Float[Array, "*e"]:
    """(1 + cos(pi r / cutoff)) / 2, and 0 from the cutoff on (Behler & Parrinello, PRL 98, 146401, 2007, eq. 4)."""
    inside = jnp.minimum(distances, cutoff)
    return 0.5 * (1 + jnp.cos(jnp.pi * inside / cutoff))


def polynomial_cutoff(distances: Float[Array, "*e"], cutoff: float, p: int = 6) -> Float[Array, "*e"]:
    """A polynomial from 1 to 0 at the cutoff, with two derivatives that are 0 there (Gasteiger et al., ICLR 2020,
    eq. 8).
    """
    x = jnp.minimum(distances / cutoff, 1.0)
    return 1 - (p + 1) * (p + 2) / 2 * x**p + p * (p + 2) * x ** (p + 1) - p * (p + 1) / 2 * x ** (p + 2)


def bessel_basis(distances: Float[Array, "*e"], count: int, cutoff: float) -> Float[Array, "*e {count}"]:
    """sqrt(2 / cutoff) sin(n pi r / cutoff) / r for n from 1 to `count` (Gasteiger et al., ICLR 2020, eq. 7)."""
    n = jnp.arange(1, count + 1, dtype=distances.dtype)
    # Beyond the cutoff the basis is multiplied by zero; its argument stays small there for the sake of rounding.
    r = jnp.minimum(distances, cutoff)[..., None]
    return jnp.sqrt(2.0 / cutoff) * jnp.sin(n * jnp.pi * r / cutoff) / r


def gaussian_basis(distances: Float[Array, "*e"], count: int, cutoff: float) -> Float[Array, "*e {count}"]:
    """Gaussians around `count` distances from 0 to the cutoff, as wide as these are apart (Schuett et al., NeurIPS
    2017, section 4.1).
    """
    centres = jnp.linspace(0.0, cutoff, count, dtype=distances.dtype)
    return jnp.exp(-0.5 * ((jnp.minimum(distances, cutoff)[..., None] - centres) / (cutoff / (count - 1))) ** 2)
