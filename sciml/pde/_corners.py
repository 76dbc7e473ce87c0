"""Corners that point into a plane domain, near which solutions of elliptic equations are not smooth.

Near a corner with the interior angle w the solution of Laplace's equation is a sum of r^a cos(a theta) and
r^a sin(a theta) with a = k pi / w where the two walls have conditions of one kind, and a = (k - 1/2) pi / w where they
have different ones (Grisvard, Elliptic Problems in Nonsmooth Domains, 1985, section 4.4).
"""

from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np

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
    """Those for all corners that point into the domain of `pde`; None where there are none, or other than two axes."""
    if len(pde.axes) != 2 or TIME in pde.axes or pde.periodic_axes:
        return None
    found = [(point, *opening) for point in _vertices(pde.domain) for opening in _opening(pde.domain, point)]
    if not found:
        return None
    low, high = np.array([pde.domain.bounds[a] for a in pde.axes]).T
    places = np.array([2 * (point - low) / (high - low) - 1 for point, _, _ in found])
    exponents = np.arange(1, EXPONENTS + 1) * np.pi / 2 / np.array([[angle] for _, angle, _ in found])
    directions = np.array([direction for _, _, direction in found])
    return CornerFeatures(*map(jnp.asarray, (places, (high - low) / 2, directions, exponents)))


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
    """The interior angle at a point and the direction of its middle, if the domain is around more than half of it."""
    size = max(high - low for low, high in domain.bounds.values())
    angles = 2 * np.pi * (np.arange(DIRECTIONS) + 0.5) / DIRECTIONS
    outside = ~domain.contains(point + NEAR * size * np.stack([np.cos(angles), np.sin(angles)], axis=1))
    # Where the domain begins after a gap: one gap, or it is no corner.
    gaps = np.flatnonzero(outside & ~np.roll(outside, 1))
    if len(gaps) == 1 and 2 * outside.sum() < DIRECTIONS - 4:
        gap = 2 * np.pi * outside.sum() / DIRECTIONS
        start = 2 * np.pi * gaps[0] / DIRECTIONS
        yield 2 * np.pi - gap, start + gap / 2 + np.pi
