"""Poisson's equation in an L-shaped room, with a singular corner.

u_xx + u_yy = -load on (-1, 1)^2 without the quadrant x > 0, y < 0, with the values of r^(2/3) sin(2 theta / 3) on the
boundary, where theta is the angle from the positive x-axis. Without load this is the solution, the leading
singularity of such corners, and the reference, without error. u vanishes on both walls of the corner, where its
gradient grows as r^(-1/3); finite elements on even meshes converge only as h^(4/3) (Strang & Fix, An Analysis of the
Finite Element Method, 1973, chapter 8).

A basis that has this function solves the problem without load at once. With load = 1 all terms r^(2 k / 3) sin(2 k
theta / 3) occur, and weaker singularities at all corners; to the reference then comes the solution for a load that
vanishes on the boundary, found by collocation of such terms (Fox, Henrici & Moler, SIAM J. Numer. Anal. 4, 1967). Its
error is harmonic, so nowhere larger than on the boundary, where it is below 5e-5 (near the other corners); twice the
terms change it by 5e-6 of its norm.
"""

import functools

import jax.numpy as jnp
import numpy as np

from sciml import PDE, Polygon, value

EXPECTED = {"relative_l2": 1e-4}
BUDGET = 120.0
CORNERS = [(0, 0), (1, 0), (1, 1), (-1, 1), (-1, -1), (0, -1)]


def problem(load: float = 0.0) -> PDE:
    """load: source of heat; without, the solution is the singularity alone."""

    def poisson(u_xx, u_yy, load):
        return u_xx + u_yy + load

    def reference(x, y):
        return corner(x, y, np) + (load * loaded(x, y) if load else 0.0)

    domain = Polygon(CORNERS)
    boundary = value(u=lambda x, y: corner(x, y, jnp), on=domain.boundary())
    return PDE(domain, poisson, boundary, load=load, reference=reference)


def corner(x, y, xp):
    """The singular function, with NumPy or JAX as `xp`."""
    r, theta = polar(x, y, xp)
    return r ** (2 / 3) * xp.sin(2 / 3 * theta)


def polar(x, y, xp):
    """Distance and angle. The angle jumps where the quadrant is missing."""
    return xp.sqrt(x**2 + y**2), 0.75 * np.pi + xp.arctan2(-(x + y), y - x)


def loaded(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The solution for a unit load that vanishes on the boundary."""
    shape, (x, y) = np.shape(x), (np.ravel(x), np.ravel(y))
    return (particular(x, y) + terms(x, y, len(weights())) @ weights()).reshape(shape)


def particular(x, y):
    """A solution for a unit load that vanishes on the walls of the corner."""
    r, theta = polar(x, y, np)
    logarithm = np.log(np.maximum(r, 1e-300)) * np.sin(2 * theta) + theta * np.cos(2 * theta)
    return -(y**2) / 2 - r**2 * logarithm / (3 * np.pi)


def terms(x, y, count: int):
    """Harmonic functions that vanish on those walls, symmetric about the bisector, by column."""
    r, theta = polar(x, y, np)
    power = 2 / 3 * (2 * np.arange(count) + 1)
    return (r[:, None] / np.sqrt(2)) ** power * np.sin(power * theta[:, None])


@functools.cache
def weights(count: int = 100) -> np.ndarray:
    """Of the terms, such that their sum and the particular solution vanish on the other walls, of which symmetry leaves
    one half and one whole.
    """
    s = 0.5 - 0.5 * np.cos(np.pi * (np.arange(8 * count) + 0.5) / (8 * count))
    x, y = np.r_[np.ones_like(s), 1 - 2 * s], np.r_[s, np.ones_like(s)]
    return np.linalg.lstsq(terms(x, y, count), -particular(x, y), rcond=None)[0]
