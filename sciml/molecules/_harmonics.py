"""Real spherical harmonics of low degree, and how products of them couple to others."""

import functools
import itertools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

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


class Products(NamedTuple):
    """Equivariant polynomials of one order of features of all degrees up to one, and each way they couple to one
    degree: products of the features numbered in a column of `factors`, then the map `maps`.
    """

    factors: Int[np.ndarray, "order t"]
    maps: Float[np.ndarray, "t c p"]


@functools.cache
def symmetric_products(degree: int, order: int, out: int) -> Products:
    """All p independent couplings of `order` times the same features (degree + 1)^2 to the degree `out`, of the parity
    (-1)^out. A set of degrees has the same basis on every machine, up to rounding.

    They are the maps that two rotations, which generate all others, leave as they are.
    """
    factors, parts = [], []
    for degrees in itertools.combinations_with_replacement(range(degree + 1), order):
        if (sum(degrees) + out) % 2 == 0:
            chosen = _monomials(degrees)
            found = _commuting(chosen, degree, out)
            if found.shape[-1]:
                factors.append(chosen)
                parts.append(found)
    maps = np.zeros((sum(len(p) for p in parts), 2 * out + 1, sum(p.shape[-1] for p in parts)))
    row = column = 0
    for part in parts:
        maps[row : row + len(part), :, column : column + part.shape[-1]] = part
        row, column = row + len(part), column + part.shape[-1]
    return Products(np.concatenate(factors).T, maps)


def _monomials(degrees):
    """The different products of features of these degrees, as their numbers (t, order)."""
    choices = itertools.product(*(range(d**2, (d + 1) ** 2) for d in degrees))
    return np.array([c for c in choices if list(c) == sorted(c)])


def _commuting(chosen, degree, out):
    """The maps (t, 2 out + 1, p) of products that turn as harmonics do, of mean square 1 for normal features."""
    random = np.random.default_rng(0)
    features = random.normal(size=(4 * len(chosen) + 1000, (degree + 1) ** 2))
    products = features[:, chosen].prod(axis=-1)
    conditions = []
    for _ in range(2):
        turn = _turning(random, max(degree, out))
        turned = (features @ turn[: features.shape[1], : features.shape[1]].T)[:, chosen].prod(axis=-1)
        before = np.linalg.lstsq(products, turned, rcond=None)[0]
        after = turn[block(out), block(out)]
        conditions.append(np.kron(before, np.eye(len(after))) - np.kron(np.eye(len(chosen)), after))
    _, values, right = np.linalg.svd(np.concatenate(conditions))
    null = right[values < 1e-8]
    basis = _canonical(null).reshape(-1, len(chosen), 2 * out + 1)
    sizes = np.sqrt(np.mean(np.einsum("st,ptc->spc", products, basis) ** 2, axis=(0, 2)))
    return np.moveaxis(basis / sizes[:, None, None], 0, -1)


def _turning(random, degree):
    """The matrix that turns harmonics by a random rotation."""
    rotation = np.linalg.qr(random.normal(size=(3, 3)))[0]
    rotation *= np.linalg.det(rotation)
    points = random.normal(size=(50, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    before, after = (np.stack(_components(p[0], p[1], p[2], degree), axis=-1) for p in (points.T, rotation @ points.T))
    return np.linalg.lstsq(before, after, rcond=None)[0].T


def _canonical(null):
    """An orthonormal basis of the rows' span that depends on the span only: of its projector's columns in order."""
    basis = []
    for column in null.T @ null:
        rest = column - sum((b * (b @ column) for b in basis), np.zeros_like(column))
        if len(basis) < len(null) and np.linalg.norm(rest) > 1e-3:
            basis.append(rest / np.linalg.norm(rest))
    return np.array(basis).reshape(len(basis), null.shape[1])
