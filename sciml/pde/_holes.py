"""Discs that are taken out of plane domains, around which solutions are smooth but no polynomials.

What is analytic around a disc is a sum of products of powers of radius / r with cosines and sines of multiples of the
angle, and log(r), and of what is smooth across the disc (for Laplace's equation: Axler, Bourdon & Ramey, Harmonic
Function Theory, 2001, chapter 10).
"""

import jax.numpy as jnp
import numpy as np

from ..nn import HoleFeatures
from ._combine import Combined
from ._domain import TIME, Domain
from ._shapes import Ball

# About how many features all holes have together, and the highest degree of those of one.
FEATURES, HIGHEST = 1000, 24


def without_holes(domain: Domain) -> tuple[Domain, tuple[Ball, ...]]:
    """A domain in two axes of space with the discs that were taken out of it put back, and these discs; others as they
    are, and none.
    """
    plane = domain.dim == 2 and TIME not in domain.axes
    if plane and isinstance(domain, Combined) and domain.operation == "-" and isinstance(domain.second, Ball):
        whole, holes = without_holes(domain.first)
        return whole, (*holes, domain.second)
    return domain, ()


def hole_features(pde) -> HoleFeatures | None:
    """Those of all discs that were taken out of the domain of `pde`; None where there are none, or other than two axes
    of space.
    """
    _, holes = without_holes(pde.domain)
    if not holes or pde.periodic_axes:
        return None
    low, high = np.array([pde.domain.bounds[a] for a in pde.axes]).T
    places = np.array([2 * (hole.centre - low) / (high - low) - 1 for hole in holes])
    radii = np.array([hole.radius for hole in holes])
    # (n + 1)^2 features of each hole.
    highest = int(np.clip((FEATURES / len(holes)) ** 0.5 - 1, 2, HIGHEST))
    scale = (high - low) / 2
    return HoleFeatures(jnp.asarray(places), jnp.asarray(scale), jnp.asarray(radii), highest)
