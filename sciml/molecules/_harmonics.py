"""Real spherical harmonics of low degree, and how two of them couple to a third."""

import functools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

HIGHEST = 2


def harmonics(directions: Float[Array, "*e 3"], degree: int) -> Float[Array, "*e m"]:
    """The (degree + 1)^2 real spherical harmonics of unit vectors up to a degree of at most 2, in the order and signs
    of e3nn; the mean square of each over the sphere is 1.
    """
    x, y, z = (directions[..., i] for i in range(3))
    return jnp.stack(_components(x, y, z, degree), axis=-1)


def _components(x, y, z, degree):
    first = [3**0.5 * x, 3**0.5 * y, 3**0.5 * z]
    second = [x * z, x * y, (y**2 - (x**2 + z**2) / 2) / 3**0.5, y * z, (z**2 - x**2) / 2]
    return [x * 0 + 1, *first, *(15**0.5 * s for s in second)][: (degree + 1) ** 2]


def block(degree: int) -> slice:
    """Where the harmonics of one degree are among all."""
    return slice(degree**2, (degree + 1) ** 2)


def paths(left: int, right: int, out: int) -> list[tuple[int, int, int]]:
    """The degrees (a, b, c) up to the three given whose harmonics a and b couple to c with the parity (-1)^c."""
    every = [(a, b, c) for a in range(left + 1) for b in range(right + 1) for c in range(out + 1)]
    return [(a, b, c) for a, b, c in every if abs(a - b) <= c <= a + b and (a + b + c) % 2 == 0]


@functools.cache
def coupling(a: int, b: int, c: int) -> np.ndarray:
    """The equivariant bilinear map (2a + 1, 2b + 1, 2c + 1) of harmonics of degrees a and b to those of c, which keeps
    mean squares of 1.

    For an even a + b + c, Clebsch-Gordan coefficients are proportional to integrals of three harmonics over the
    sphere, which a quadrature gives exactly.
    """
    y, weights = np.polynomial.legendre.leggauss(3 * HIGHEST + 1)
    angle = 2 * np.pi * np.arange(6 * HIGHEST + 1) / (6 * HIGHEST + 1)
    around = np.sqrt(1 - y**2)[:, None]
    points = around * np.cos(angle), y[:, None] + 0 * angle, around * np.sin(angle)
    values = np.stack(_components(*points, HIGHEST))
    terms = "ipq,jpq,kpq,p->ijk"
    integrals = np.einsum(terms, values[block(a)], values[block(b)], values[block(c)], weights, optimize=True)
    integrals[np.abs(integrals) < 1e-10] = 0
    return integrals * np.sqrt((2 * c + 1) / np.sum(integrals**2))
