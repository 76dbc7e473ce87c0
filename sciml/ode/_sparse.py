"""Equations with few terms, read off from slopes: least squares over a library of terms, of which small ones are left
out.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations_with_replacement
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._smooth import Slopes

ROUNDS = 30


class Sparse(eqx.Module):
    """The right-hand side `coefficients @ terms(y)`, of which the coefficients that are not zero are trained.

    `equations()` writes it down. `sparse_terms` makes it.
    """

    raw: Float[Array, " k"]
    places: tuple[tuple[int, int], ...] = eqx.field(static=True)
    powers: tuple[tuple[int, ...], ...] = eqx.field(static=True)
    others: tuple[Callable, ...] = eqx.field(static=True)
    terms: tuple[str, ...] = eqx.field(static=True)
    states: tuple[str, ...] = eqx.field(static=True)

    @property
    def coefficients(self) -> Float[Array, "d terms"]:
        """Of each term in the rate of each state."""
        rows, columns = np.array(self.places, int).reshape(-1, 2).T
        return jnp.zeros((len(self.states), len(self.terms)), self.raw.dtype).at[rows, columns].set(self.raw)

    def __call__(self, t: Any, y: Float[Array, " d"], args: Any) -> Float[Array, " d"]:
        return self.coefficients @ _library(y, self.powers, self.others)

    def support(self) -> dict[str, set[str]]:
        """The terms in the rate of each state."""
        found: dict[str, set[str]] = {n: set() for n in self.states}
        for i, j in self.places:
            found[self.states[i]].add(self.terms[j])
        return found

    def equations(self, digits: int = 4) -> list[str]:
        """The equations as text, such as `x' = 10 y - 10 x`."""
        written = []
        values = np.asarray(self.coefficients)
        for i, name in enumerate(self.states):
            parts = [(values[i, j], self.terms[j]) for k, j in self.places if k == i]
            text = " ".join(f"{'-' if c < 0 else '+'} {abs(c):.{digits}g} {term}".strip() for c, term in parts)
            # The first sign stands without a blank, if it stands at all.
            text = "-" + text[2:] if text.startswith("-") else text[2:]
            written.append(f"{name}' = {text or '0'}")
        return written


def sparse_terms(
    points: Slopes,
    states: Sequence[str],
    *,
    degree: int = 2,
    terms: Mapping[str, Callable] | None = None,
    threshold: float = 0.05,
) -> Sparse:
    """The sparse right-hand side that fits the slopes of `sciml.ode.slopes`: sequentially thresholded least squares
    (Brunton, Proctor & Kutz, PNAS 113, 2016), in units of the slopes' errors.

    - `states`: names of the state's numbers.
    - `degree`: of the polynomials in them, which are in the library with the constant; further `terms` are functions of
      the state by name.
    - `threshold`: a term is left out whose contribution, its coefficient times its root mean square, is below this
      share of the root mean square of the slope. What remains is fitted again, until nothing more is left out.

    Train it further on trajectories with `ODE(sparse)`. Raises ValueError for names that do not fit the states, for a
    threshold that is not between 0 and 1, and for fewer points than terms.
    """
    states = tuple(states)
    if len(states) != np.shape(points.y)[1]:
        raise ValueError(f"sparse_terms: expected {np.shape(points.y)[1]} names of states, got {', '.join(states)}")
    if not 0 < threshold < 1:
        raise ValueError(f"sparse_terms: threshold must be between 0 and 1, got {threshold}")
    powers = tuple(p for n in range(degree + 1) for p in combinations_with_replacement(range(len(states)), n))
    others = tuple((terms or {}).values())
    names = (*(_name(p, states) for p in powers), *(terms or {}))
    columns = np.asarray(jax.vmap(lambda y: _library(y, powers, others))(jnp.asarray(points.y)))
    if len(columns) < columns.shape[1]:
        raise ValueError(f"sparse_terms: {len(columns)} points cannot determine {columns.shape[1]} terms")
    found = [
        _thresholded(columns, np.asarray(points.slopes)[:, i], np.asarray(points.scale)[:, i], threshold)
        for i in range(len(states))
    ]
    places = tuple((i, int(j)) for i, c in enumerate(found) for j in np.flatnonzero(c))
    raw = jnp.asarray([found[i][j] for i, j in places], float)
    return Sparse(raw, places, powers, others, names, states)


def _thresholded(columns: np.ndarray, slope: np.ndarray, error: np.ndarray, threshold: float) -> np.ndarray:
    sizes = np.sqrt(np.mean(columns**2, axis=0))
    smallest = threshold * np.sqrt(np.mean(slope**2))
    kept = np.ones(columns.shape[1], bool)
    coefficients = np.zeros(columns.shape[1])
    for _ in range(ROUNDS):
        coefficients[:] = 0
        if not kept.any():
            break
        weighted = columns[:, kept] / sizes[kept] / error[:, None]
        coefficients[kept] = np.linalg.lstsq(weighted, slope / error, rcond=None)[0] / sizes[kept]
        large = np.abs(coefficients) * sizes >= smallest
        if (large == kept).all():
            break
        kept &= large
    return np.where(kept, coefficients, 0.0)


def _library(y, powers, others):
    monomials = [jnp.prod(jnp.stack([y[i] for i in p])) if p else jnp.ones((), y.dtype) for p in powers]
    return jnp.stack([*monomials, *(jnp.asarray(f(y)).reshape(()) for f in others)])


def _name(power: tuple[int, ...], states: tuple[str, ...]) -> str:
    counted = [(states[i], power.count(i)) for i in sorted(set(power))]
    return " ".join(n if k == 1 else f"{n}^{k}" for n, k in counted)
