"""Streams of points that follow the residual."""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._fit import Stream
from .._loss import Groups
from ._pde import INTERIOR, PDE


class AdaptivePoints(Stream):
    """Points that are held for some steps and then drawn anew, half of them where the residual is large.

    The other half of the interior points is a low-discrepancy sequence. Candidates for the first half are
    a low-discrepancy pool from which points are drawn with probability proportional to |r| / mean |r| + 1 (RAD;
    Wu et al., CMAME 403, 2023, eq. 3 with k = 1, c = 1). Points of conditions are redrawn uniformly.
    """

    pde: PDE
    n: int
    boundary: int | None
    every: int
    pool: int

    def init(self, key: Array, model) -> Groups:
        return self._draw(key, model)

    def next(self, key: Array, step: Array, model, batch: Groups) -> tuple[Groups, Array]:
        fresh = (step > 0) & (step % self.every == 0)
        drawn = jax.lax.cond(fresh, lambda: self._draw(key, model), lambda: batch)
        return drawn, fresh

    def _draw(self, key, model) -> Groups:
        uniform, chosen, pool = jax.random.split(key, 3)
        batch = self.pde.points(self.n, self.boundary)(uniform)
        half = self.n // 2
        candidates = self.pde.domain.sobol(self.pool, pool)
        terms = self.pde.residuals(model, Groups({INTERIOR: candidates}))
        size = sum(jnp.abs(r) / (jnp.mean(jnp.abs(r)) + jnp.finfo(r.dtype).tiny) for r in terms.values())
        # A residual that is not finite must not decide where the points go.
        weight = jnp.where(jnp.isfinite(size), size / len(terms), 0.0) + 1.0
        index = jax.random.choice(chosen, self.pool, (half,), replace=False, p=weight / weight.sum())
        even = self.pde.domain.sobol(self.n - half, uniform)
        return Groups(dict(batch) | {INTERIOR: jnp.concatenate([candidates[index], even])})


def adaptive(
    pde: PDE, n: int = 4096, boundary: int | None = None, every: int = 1000, pool: int = 16384
) -> AdaptivePoints:
    """A stream of `n` interior points, and `boundary` on each trained condition, that follows the residual of `pde`;
    redrawn each `every` steps from `pool` candidates. Raises ValueError unless 2 <= n <= pool.
    """
    if not 2 <= n <= pool:
        raise ValueError(f"adaptive: n must be between 2 and pool = {pool}, got {n}")
    return AdaptivePoints(pde, n, boundary, every, pool)
