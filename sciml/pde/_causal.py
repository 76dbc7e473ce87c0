"""Causal weights: what comes later counts once what comes before is solved."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._fit import Stream
from ._domain import TIME
from ._pde import INTERIOR, PDE
from ._weights import Rule, Weighted, WeightedStream, plain, residuals_of, with_rule

# Weights above this count as solved (delta in the paper's algorithm 1).
SOLVED = 0.99
SEQUENCE = (1e-2, 1e-1, 1.0, 1e1, 1e2)


def causal_weights(
    loss: Callable,
    data: Callable | Stream,
    pde: PDE,
    *,
    epsilon: float | Sequence[float] = SEQUENCE,
    bins: int = 32,
    least: float = 0.0,
    every: int = 1,
) -> tuple[Callable, WeightedStream]:
    """Causal training (Wang, Sankaran & Perdikaris, CMAME 421, 2024, eq. 3.6 and algorithm 1): the loss and the data,
    where squares of the equations' residuals at time bin i count with `w_i = exp(-epsilon sum_{k < i} L_k)`.

    Interior points are sorted by time into `bins` of equal number; L_k is the mean square of the equations in bin k,
    summed over the equations, which share the weights. Conditions at the first time that are penalties come before all
    bins. Weights are constants of a step, as by the paper's stop_gradient.

    `epsilon` is a number, or rising numbers, of which the next is taken whenever all weights are above 0.99. A number
    holds back what is later than about `sum L_k = 1 / epsilon`, so it is one over `bins` times the mean square residual
    that counts as solved. With 0 the loss is the plain one.

    Weights depend on all points of the batch and are therefore set between steps: at each `every`-th one and where
    points are new. Each update costs an evaluation of the residuals and, with a quasi-Newton method, one of the
    gradient.

    Raises ValueError for a domain without the axis t, more bins than points, fewer than two, numbers that do not rise
    or are negative, and unless every > 0; TypeError for a scalar loss and for data that is neither a function of a key
    nor a `Stream`.
    """
    if TIME not in pde.axes:
        raise ValueError(f"causal_weights needs an axis '{TIME}', the axes are {', '.join(pde.axes)}")
    levels = (float(epsilon),) if isinstance(epsilon, int | float) else tuple(float(e) for e in epsilon)
    if not levels or levels[0] < 0 or any(b <= a for a, b in zip(levels, levels[1:])):
        raise ValueError(f"causal_weights: epsilon must be rising numbers, none negative, got {levels}")
    if not 0 <= least < 1:
        raise ValueError(f"causal_weights: least must be at least 0 and below 1, got {least}")
    if bins < 2:
        raise ValueError(f"causal_weights: bins must be 2 or more, got {bins}")
    first = [
        term.name
        for group in pde.trained_groups
        if group.label != INTERIOR and getattr(group.region, "fixed", {}).get(TIME) == pde.domain.bounds[TIME][0]
        for term in group.terms
    ]

    def update(loss, model, parts):
        part = parts[INTERIOR]
        residuals = residuals_of(loss, model, parts)
        squares = jnp.sum(jnp.stack([residuals[name] ** 2 for name in part.factors]), axis=0)
        before = sum((jnp.mean(residuals[n] ** 2) for n in first if n in residuals), start=jnp.zeros((), squares.dtype))
        present = part.state["epsilon"]
        weights = bin_weights(plain(part.examples)[:, pde.axes.index(TIME)], squares, present[0], bins, before)
        held = jnp.maximum(weights, least)
        later = jnp.min(jnp.where(jnp.asarray(levels) > present[0], jnp.asarray(levels), levels[-1]))
        following = jnp.where(jnp.min(weights) > SOLVED, later.astype(present.dtype), present)
        factors = {name: jnp.sqrt(held).astype(f.dtype) for name, f in part.factors.items()}
        return parts | {INTERIOR: Weighted(part.examples, factors, {"epsilon": following})}

    def state(factors):
        return {"epsilon": jnp.full_like(next(iter(factors.values())), levels[0])}

    return with_rule("causal_weights", loss, data, Rule(update, state, follows=True), every)


def bin_weights(
    times: Float[Array, " n"],
    squares: Float[Array, " n"],
    epsilon: Float[Array, ""] | float,
    bins: int,
    before: Float[Array, ""] | float = 0.0,
) -> Float[Array, " n"]:
    """The weight of each point from the squares of all, sorted by time into bins of (nearly) equal number; `before` is
    what precedes the first bin. Raises ValueError for more bins than points.
    """
    n = len(times)
    if n < bins:
        raise ValueError(f"causal_weights: {bins} bins need as many points or more, got {n}")
    ranks = jnp.zeros(n, jnp.int32).at[jnp.argsort(times)].set(jnp.arange(n, dtype=jnp.int32))
    bin = ranks * bins // n
    total = jax.ops.segment_sum(squares, bin, bins)
    means = total / jax.ops.segment_sum(jnp.ones_like(squares), bin, bins)
    earlier = before + jnp.concatenate([jnp.zeros_like(means[:1]), jnp.cumsum(means)[:-1]])
    return jnp.exp(-epsilon * earlier)[bin]
