"""Streams of points that follow the residual. Their numbers of points are constant, so that steps compile once."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._fit import Stream
from .._loss import Groups
from ..nn import Ensemble
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
        picked = _pick(chosen, candidates, half, relative_sizes(self.pde, model, candidates) + 1.0)
        even = self.pde.domain.sobol(self.n - half, uniform)
        return Groups(dict(batch) | {INTERIOR: jnp.concatenate([picked, even])})


class EnrichedPoints(Stream):
    """Uniform points, some of which give way for ever to points where the residual is large; see `rar_d`."""

    pde: PDE
    n: int
    boundary: int | None
    start: int
    added: int
    every: int
    pool: int

    def init(self, key: Array, model) -> Groups:
        return self.pde.points(self.n, self.boundary)(key)

    def next(self, key: Array, step: Array, model, batch: Groups) -> tuple[Groups, Array]:
        place = self.start + (step // self.every - 1) * self.added
        fresh = (step > 0) & (step % self.every == 0) & (place + self.added <= self.n)
        grown = jax.lax.cond(fresh, lambda: self._add(key, model, batch, place), lambda: batch)
        return grown, fresh

    def _add(self, key, model, batch, place) -> Groups:
        pool, chosen = jax.random.split(key)
        candidates = self.pde.domain.sobol(self.pool, pool)
        picked = _pick(chosen, candidates, self.added, relative_sizes(self.pde, model, candidates, power=2))
        points = jax.lax.dynamic_update_slice_in_dim(batch[INTERIOR], picked, place, axis=0)
        return Groups(dict(batch) | {INTERIOR: points})


class RetainedPoints(Stream):
    """Points that stay as long as their residual is above the mean, and are drawn anew below it; see `r3`."""

    pde: PDE
    n: int
    boundary: int | None
    every: int

    def init(self, key: Array, model) -> Groups:
        return self.pde.points(self.n, self.boundary)(key)

    def next(self, key: Array, step: Array, model, batch: Groups) -> tuple[Groups, Array]:
        fresh = (step > 0) & (step % self.every == 0)
        return jax.lax.cond(fresh, lambda: self._release(key, model, batch), lambda: batch), fresh

    def _release(self, key, model, batch) -> Groups:
        drawn = self.pde.points(self.n, self.boundary)(key)
        retained = relative_sizes(self.pde, model, batch[INTERIOR]) > 1
        points = jnp.where(retained[:, None], batch[INTERIOR], drawn[INTERIOR])
        return Groups(dict(drawn) | {INTERIOR: points})


def adaptive(
    pde: PDE, n: int = 4096, boundary: int | None = None, every: int = 1000, pool: int = 16384
) -> AdaptivePoints:
    """A stream of `n` interior points, and `boundary` on each trained condition, that follows the residual of `pde`;
    redrawn each `every` steps from `pool` candidates. Raises ValueError unless 2 <= n <= pool.
    """
    if not 2 <= n <= pool:
        raise ValueError(f"adaptive: n must be between 2 and pool = {pool}, got {n}")
    return AdaptivePoints(pde, n, boundary, every, pool)


def rar_d(
    pde: PDE,
    n: int = 4096,
    boundary: int | None = None,
    *,
    start: int | None = None,
    added: int = 256,
    every: int = 1000,
    pool: int = 16384,
) -> EnrichedPoints:
    """Residual-based adaptive refinement with distribution (RAR-D; Wu, Zhu, Tan, Kartha & Lu, CMAME 403, 2023,
    algorithm 3 with k = 2, c = 0): a stream of points that are kept, and to which `added` are added each `every` steps,
    drawn without replacement from `pool` candidates with probability proportional to r^2.

    Of the `n` interior points, `start` (by default half) are there from the beginning. The others, whose places a
    compiled program has anyway, are uniform until those that are added take their place, so that there are `n` at all
    times. Of several equations, r^2 is the mean of r^2 / mean r^2. On each trained condition there are `boundary`
    points, that are kept.

    Raises ValueError unless 0 < start < n, 0 < added <= n - start, added <= pool and every > 0.
    """
    start = n // 2 if start is None else start
    if not (0 < start < n and 0 < added <= min(n - start, pool)):
        raise ValueError(
            f"rar_d: expected 0 < start < n and 0 < added <= n - start and pool, got start = {start}, n = {n}, "
            f"added = {added}, pool = {pool}"
        )
    _check_every("rar_d", every)
    return EnrichedPoints(pde, n, boundary, start, added, every, pool)


def r3(pde: PDE, n: int = 4096, boundary: int | None = None, *, every: int = 100) -> RetainedPoints:
    """Retain-resample-release sampling (R3; Daw, Bu, Wang, Perdikaris & Karpatne, ICML 2023, algorithm 1): a stream of
    `n` interior points. Each `every` steps those whose residual is in size above the mean are retained and the others
    drawn anew, uniformly. Of several equations, it is the mean of the sizes, each relative to its mean.

    The paper resamples at each step, which suits Adam; quasi-Newton methods want points to stay for some steps. The
    `boundary` points of each trained condition are drawn anew with the others.

    Raises ValueError unless n > 0 and every > 0.
    """
    if n < 1:
        raise ValueError(f"r3: n must be above 0, got {n}")
    _check_every("r3", every)
    return RetainedPoints(pde, n, boundary, every)


def relative_sizes(pde: PDE, model, points: Float[Array, "n d"], power: int = 1) -> Float[Array, " n"]:
    """|r|^power at each point, divided by its mean; the mean of these over the equations. Residuals that are not finite
    count as zero: they must not decide where the points go. Of an ensemble, it is the mean over its members.
    """
    if isinstance(model, Ensemble):
        return jnp.mean(model.each(lambda member: relative_sizes(pde, member, points, power)), axis=0)
    terms = pde.residuals(model, Groups({INTERIOR: points}))
    sizes = [jnp.where(jnp.isfinite(r), jnp.abs(r), 0.0) ** power for r in terms.values()]
    return sum((s / (jnp.mean(s) + jnp.finfo(s.dtype).tiny) for s in sizes), start=jnp.zeros(len(points))) / len(sizes)


def _pick(key, candidates, count: int, weight):
    """`count` different candidates, drawn with probabilities proportional to `weight`."""
    # With few candidates of any weight, and none where all residuals vanish, the choice must still be possible.
    weight = weight + jnp.finfo(weight.dtype).eps
    index = jax.random.choice(key, len(candidates), (count,), replace=False, p=weight / weight.sum())
    return candidates[index]


def _check_every(name: str, every: int) -> None:
    if every < 1:
        raise ValueError(f"{name}: every must be above 0, got {every}")
