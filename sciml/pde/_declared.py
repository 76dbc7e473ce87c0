"""Which degrees polynomials need, from what is declared: initial and boundary values and sources.

Along lines through the domain, the Chebyshev coefficients of the lift of the conditions, and of the residuals that it
leaves in the equations, fall as those of the solution of a linear problem mostly do: what oscillates twenty times along
an axis asks for sixty degrees there, whatever the other axes ask for.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .._loss import Groups
from ._compile import compiled_quickly
from ._constraint import factors
from ._degrees import HIGHEST_DEGREE, LARGEST_WEIGHT, Decay
from ._domain import TIME
from ._pde import INTERIOR, PDE

LINES, NODES = 8, 257
# Coefficients below this share of the largest are not needed; those below the second are rounding errors.
NEEDED, ROUNDING = 1e-8, 1e-10
# Of an axis along which what is declared says less: solutions are not constant where data are.
LEAST, IN_WINDOW = 12, 6
# Up to so many times the highest degree of polynomials these may find most of a solution.
BEYOND = 1.5
# A parity is seen in so many degrees.
SEEN = 3


class Declared(NamedTuple):
    """How many degrees what is declared has along each axis, and whether all of it is even (0) or odd (1) about the
    middle; -1 where it is neither.
    """

    degrees: Int[np.ndarray, " axes"]
    parities: Int[np.ndarray, " axes"]
    time: int | None

    def shape(self, outputs: int, windows: int = 1) -> Decay | None:
        """Of the degrees in one of several windows of time; None where there are no such polynomials."""
        degrees = self._within(windows)
        if degrees.max() > BEYOND * HIGHEST_DEGREE:
            return None
        degrees, along_time = np.minimum(degrees, HIGHEST_DEGREE), np.arange(len(degrees)) == self.time
        weights = np.floor(2 * degrees.max() / degrees) / 2
        weights = np.where(along_time & (windows > 1), weights, np.minimum(weights, LARGEST_WEIGHT))
        parities = np.where(along_time, -1, self.parities)
        return Decay(np.tile(weights, (outputs, 1)), np.zeros(outputs), np.tile(parities, (outputs, 1)))

    def count(self, windows: int = 1) -> int:
        """About how many polynomials reach all of the degrees."""
        wide = np.minimum(self._within(windows), HIGHEST_DEGREE) / np.where(self.parities >= 0, 2, 1)
        return int(np.prod(wide / np.arange(1, len(wide) + 1)))

    def _within(self, windows: int) -> Int[np.ndarray, " axes"]:
        least = np.maximum(LEAST, self.degrees)
        # In a short window solutions change little.
        along_time = (np.arange(len(least)) == self.time) & (windows > 1)
        return np.where(along_time, IN_WINDOW + self.degrees // windows, least)


def declared_degrees(pde: PDE, key: Array) -> Declared | None:
    """None where the solution is not made of products of polynomials, or what is declared says nothing about them."""
    if pde.parts > 1 or pde.integrals or pde.periodic_axes or any(c.regions for c in pde.constraints):
        return None
    values = [np.asarray(v) for v in _along_lines(pde, key)]
    if not all(np.isfinite(v).all() for v in values):
        return None
    lift, residuals, factor = (_coefficients(v) for v in values)
    found = np.concatenate([lift, residuals], axis=1)
    found = found[:, found.max(axis=(0, 2)) > 0]
    if not found.shape[1]:
        return None
    degrees = np.array([np.flatnonzero((own > NEEDED).any(axis=0)).max(initial=0) for own in found])
    one = len(pde.fields) == len(pde.equations) == 1
    parities = [_parity(own, even) if one else -1 for own, even in zip(found, factor)]
    time = pde.axes.index(TIME) if TIME in pde.axes else None
    return Declared(degrees, np.array(parities), time)


@compiled_quickly
def _along_lines(pde: PDE, key: Array) -> tuple[Array, ...]:
    """The lift, the residuals that it leaves and the factor of the network, `(axes, functions, lines, nodes)`."""
    through, nodes = pde.domain.sample(key, LINES), np.cos(np.pi * np.arange(NODES) / (NODES - 1))
    lines = []
    for i, axis in enumerate(pde.axes):
        low, high = pde.domain.bounds[axis]
        lines.append(
            jnp.repeat(through[:, None], NODES, axis=1).at[:, :, i].set((low + high + (high - low) * nodes) / 2)
        )
    points = jnp.concatenate(lines).reshape(-1, len(pde.axes))
    nothing = pde.model(lambda inputs: jnp.zeros(pde.out_size, inputs.dtype))

    def by_axis(values):
        return jnp.moveaxis(values.reshape(len(pde.axes), LINES, NODES, -1), -1, 1)

    left = pde.residuals(nothing, Groups({INTERIOR: points}))
    return (
        by_axis(jax.vmap(nothing)(points)),
        by_axis(jnp.stack(list(left.values()), axis=-1)),
        by_axis(jax.vmap(lambda p: factors(pde, p))(points)),
    )


def _coefficients(values: Float[np.ndarray, "axes functions lines nodes"]) -> Float[np.ndarray, "axes functions nodes"]:
    """The largest of each degree over all lines, relative to the largest of the function."""
    from scipy.fft import dct

    found = np.abs(np.asarray(dct(values, type=1))).max(axis=2) / (NODES - 1)  # pyright: ignore
    largest = found.max(axis=(0, 2), keepdims=True)
    return found / np.where(largest > 0, largest, 1.0)


def _parity(own: Float[np.ndarray, "functions nodes"], factor: Float[np.ndarray, "fields nodes"]) -> int:
    """Of fields that are a lift plus a factor, which must be even, times the network."""
    uneven = factor[:, 1::2].max() > ROUNDING
    if uneven or np.flatnonzero((own > NEEDED).any(axis=0)).max(initial=0) < SEEN:
        return -1
    return next((p for p in (0, 1) if own[:, 1 - p :: 2].max() <= ROUNDING), -1)
