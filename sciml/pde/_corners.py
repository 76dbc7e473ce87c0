"""Corners of plane domains, near which solutions of elliptic equations are not smooth.

Near a corner with the interior angle w the solution of Laplace's equation is a sum of r^a cos(a theta) and
r^a sin(a theta) with a = k pi / w where the two walls have conditions of one kind, and a = (k - 1/2) pi / w where they
have different ones; where a is an integer, data that contradict each other give these a factor log(z), z = r exp(i
theta) (Grisvard, Elliptic Problems in Nonsmooth Domains, 1985, section 4.4).
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from .._loss import Groups
from ..nn import CornerFeatures
from ._combine import Combined
from ._domain import TIME, Box, Domain
from ._shapes import Polygon

# Multiples of half the smallest exponent.
EXPONENTS = 12
DIRECTIONS = 720
# How far from a corner to look, relative to the size of the domain.
NEAR = 1e-6


def corner_features(pde) -> CornerFeatures | None:
    """Those for all corners of the domain of `pde` near which its solution is not smooth; None where there are none, or
    other than two axes of space.
    """
    if not _is_plane(pde):
        return None
    every = [(point, *opening) for point in _vertices(pde.domain) for opening in _opening(pde.domain, point)]
    found = [(point, angle, direction) for point, angle, direction in every if _is_rough(pde, point)]
    if not found:
        return None
    low, high = np.array([pde.domain.bounds[a] for a in pde.axes]).T
    places = np.array([2 * (point - low) / (high - low) - 1 for point, _, _ in found])
    angles = np.array([[angle] for _, angle, _ in found])
    # z^0 is smooth, its product with the logarithm is not.
    exponents = (np.arange(EXPONENTS) + (angles > np.pi)) * np.pi / 2 / angles
    logarithms = (abs(exponents - exponents.round()) < 1e-3).astype(float)
    exponents = np.where(logarithms, exponents.round(), exponents)
    directions = np.array([direction for _, _, direction in found])
    return CornerFeatures(*map(jnp.asarray, (places, (high - low) / 2, directions, exponents, logarithms)))


def contradictions(pde) -> Float[np.ndarray, "corners 2"]:
    """The corners of a box where exact conditions and equations contradict each other, whatever the network, as
    -laplacian(u) = 1 does u = 0 on all sides: there second derivatives of the solution jump.
    """
    if not _is_plane(pde) or not isinstance(pde.domain, Box) or not pde.exact or pde.integrals:
        return np.zeros((0, 2))
    places = np.concatenate(
        [np.array(list(_vertices(pde.domain))), np.asarray(pde.domain.sample(jax.random.key(0), 8))]
    )
    values = _residuals_of_polynomials(pde, jnp.asarray(places))
    at, inside = values[:, :, :4], values[:, :, 4:]
    # By equation and corner.
    moves, size = abs(at[0] - at[1]), abs(at).max(axis=0)
    scale = abs(inside).max(axis=(0, 2))[:, None]
    wrong = (moves < 1e-9 * scale) & (size > 1e-6 * scale)
    return places[:4][wrong.any(axis=0)]


def _residuals_of_polynomials(pde, points) -> Float[np.ndarray, "polynomials equations points"]:
    """The residuals of the equations for two networks that are polynomials of the second degree."""
    coefficients = jax.random.normal(jax.random.key(1), (2, pde.out_size, pde.in_size + 1, pde.in_size + 1))

    @jax.jit
    def residuals(quadratic):
        def network(inputs):
            extended = jnp.concatenate([inputs, jnp.ones(1, inputs.dtype)])
            return jnp.einsum("oij,i,j->o", quadratic.astype(inputs.dtype), extended, extended)

        found = pde.residuals(pde.model(network), Groups(interior=points))
        return jnp.stack(list(found.values()))

    return np.stack([np.asarray(residuals(c)) for c in coefficients])


def _is_plane(pde) -> bool:
    return len(pde.axes) == 2 and TIME not in pde.axes and not pde.periodic_axes


def _is_rough(pde, point: np.ndarray) -> bool:
    """Whether solutions may not be smooth near a corner: in all but boxes, where conditions are known to agree."""
    if not isinstance(pde.domain, Box):
        return True
    return bool((abs(pde.rough_corners - point) < 1e-12).all(axis=1).any())


def _vertices(domain: Domain) -> Iterator[np.ndarray]:
    if isinstance(domain, Polygon):
        yield from domain.vertices
    elif isinstance(domain, Box):
        (left, right), (bottom, top) = domain.bounds.values()
        yield from np.array([(left, bottom), (right, bottom), (right, top), (left, top)])
    elif isinstance(domain, Combined):
        for part in (domain.first, domain.second):
            yield from _vertices(part)


def _opening(domain: Domain, point: np.ndarray) -> Iterator[tuple[float, float]]:
    """The interior angle at a point and the direction of its middle."""
    size = max(high - low for low, high in domain.bounds.values())
    angles = 2 * np.pi * (np.arange(DIRECTIONS) + 0.5) / DIRECTIONS
    outside = ~domain.contains(point + NEAR * size * np.stack([np.cos(angles), np.sin(angles)], axis=1))
    # Where the domain begins after a gap: one gap, or it is no corner.
    gaps = np.flatnonzero(outside & ~np.roll(outside, 1))
    if len(gaps) == 1 and abs(2 * outside.sum() - DIRECTIONS) > 4:
        gap = 2 * np.pi * outside.sum() / DIRECTIONS
        start = 2 * np.pi * gaps[0] / DIRECTIONS
        yield 2 * np.pi - gap, start + gap / 2 + np.pi
