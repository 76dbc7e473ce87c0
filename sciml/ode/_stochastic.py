"""Stochastic differential equations, and the likelihood of states that were measured."""

from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import lineax
import numpy as np
from jaxtyping import Array, Float

from ..nn import mlp
from ..nn._layers import require_positive
from ._models import Network
from ._steps import Guarded, with_failures

# A component beyond it is that of a failed solution, as in `Steps`.
LIMIT = 1e6


class SDE(eqx.Module):
    """A path of `dy = drift(t, y, args) dt + diffusion(t, y, args) dW`: `(y0, ts, args, key=key) -> ys`.

    - `drift`: (t, y, args) -> (d,).
    - `diffusion`: (t, y, args) -> (d,) for a Brownian motion of its own for each component, or a matrix (d, m) for m
      that all share: (d, 1) is scalar noise.
    - `solver`: a Diffrax solver, which also says what is meant by dW: Ito's for `diffrax.Euler()` (strong order 1/2; 1
      if the noise is additive) and `diffrax.ItoMilstein()` (order 1; for diagonal or scalar noise), Stratonovich's for
      `diffrax.EulerHeun()`, `diffrax.StratonovichMilstein()` and others.
    - `substeps`: equal steps in each interval of the times.

    `y0` is the state (d,) at the first of the times `ts` (n,), which do not decrease. The same key is the same Brownian
    motion for the solvers named here and, at times that halving the whole interval gives, for all steps. Where the
    solution failed `ys` (n, d) are NaN from there on, and no gradient is. Raises ValueError for `substeps` below 1 and
    shapes that do not fit.
    """

    drift: Callable
    diffusion: Callable
    solver: Any = eqx.field(default_factory=diffrax.Euler)
    substeps: int = eqx.field(default=1, static=True)

    def __check_init__(self):
        require_positive("SDE", substeps=self.substeps)

    def __call__(self, y0: Any, ts: Any, args: Any = None, *, key: Array) -> Float[Array, "n d"]:
        y0 = jnp.asarray(y0)
        y0 = y0.astype(jnp.result_type(y0, float))
        ts = jnp.asarray(ts, y0.dtype)
        shape = noise_shape(self, ts[0], y0, args)
        length = jnp.diff(ts)
        times = refined(ts, self.substeps)
        smallest = jnp.min(jnp.where(length > 0, length, jnp.inf), initial=jnp.inf) / self.substeps
        smallest = jnp.where(jnp.isfinite(smallest), smallest, 1.0)
        end = jnp.maximum(ts[-1], ts[0] + smallest)
        noise = diffrax.VirtualBrownianTree(
            ts[0], end, smallest / 2, jax.ShapeDtypeStruct(shape[-1:], y0.dtype), key, _levy_area(self.solver)
        )
        guard = Guarded(LIMIT)
        drift = diffrax.ODETerm(lambda t, y, args: guard(t, y, (self.drift, y0, args)))
        spread = diffrax.ControlTerm(lambda t, y, args: _operator(guard(t, y, (self.diffusion, y0, args))), noise)
        terms = diffrax.MultiTerm(drift, spread)

        def step(carry, interval):
            y, state = carry
            t0, t1 = interval
            moves = t1 > t0
            # Padding repeats the last time. A step that is not taken has a length too, so that it has a derivative.
            t0, t1 = jnp.where(moves, t0, ts[0]), jnp.where(moves, t1, jnp.minimum(ts[0] + smallest, end))
            new, _, _, next_state, _ = self.solver.step(terms, t0, t1, y, args, state, made_jump=False)
            return jax.tree.map(lambda a, b: jnp.where(moves, a, b), (new, next_state), carry), None

        def interval(carry, times):
            carry, _ = jax.lax.scan(step, carry, (times[:-1], times[1:]))
            return carry, carry[0]

        state = self.solver.init(terms, ts[0], jnp.minimum(ts[0] + smallest, end), y0, args)
        _, ys = jax.lax.scan(interval, (y0, state), times)
        return with_failures(jnp.concatenate([y0[None], ys]), LIMIT)

    def matrix(self, t: Any, y: Float[Array, " d"], args: Any) -> Float[Array, "d m"]:
        """The diffusion as a matrix."""
        values = jnp.asarray(self.diffusion(t, y, args))
        return jnp.diag(values) if values.ndim == 1 else values

    def ito_drift(self, t: Any, y: Float[Array, " d"], args: Any) -> Float[Array, " d"]:
        """The drift of the same process in Ito's form (Kloeden & Platen, Numerical Solution of Stochastic Differential
        Equations, 1992, section 4.9).
        """
        drift = jnp.asarray(self.drift(t, y, args))
        if not isinstance(self.solver, diffrax.AbstractStratonovichSolver):
            return drift
        slopes = jax.jacfwd(lambda y: self.matrix(t, y, args))(y)
        return drift + 0.5 * jnp.einsum("ikj,jk->i", slopes, self.matrix(t, y, args))


def _operator(values):
    return lineax.DiagonalLinearOperator(values) if values.ndim == 1 else values


def refined(ts: Float[Array, " n"], substeps: int) -> Float[Array, "intervals times"]:
    """The times of the steps in each interval, its ends among them."""
    begin, length = ts[:-1, None], jnp.diff(ts)[:, None]
    # Rounding must not lead beyond the interval.
    times = jnp.minimum(begin + jnp.arange(substeps + 1) / substeps * length, ts[1:, None])
    return times.at[:, -1].set(ts[1:])


def noise_shape(model: SDE, t: Any, y: Float[Array, " d"], args: Any) -> tuple[int, ...]:
    """The shape of the diffusion. Raises ValueError unless it and that of the drift are those of the state."""
    drift = jax.eval_shape(lambda y: jnp.asarray(model.drift(t, y, args)), y).shape
    shape = jax.eval_shape(lambda y: jnp.asarray(model.diffusion(t, y, args)), y).shape
    if y.ndim != 1 or drift != y.shape:
        raise ValueError(f"expected a state (d,) and a drift of its shape, got {y.shape} and {drift}")
    if len(shape) not in (1, 2) or shape[0] != y.shape[0]:
        raise ValueError(f"the diffusion must have the shape ({y.size},) or ({y.size}, m), it has {shape}")
    return shape


def _levy_area(solver: Any) -> Any:
    """What the solver must know of the Brownian motion within a step."""
    asked = getattr(solver, "minimal_levy_area", diffrax.BrownianIncrement)
    kinds = (diffrax.BrownianIncrement, diffrax.SpaceTimeLevyArea, diffrax.SpaceTimeTimeLevyArea)
    return next(kind for kind in kinds if issubclass(kind, asked))


def neural_sde(
    size: int,
    width: int = 32,
    depth: int = 2,
    activation: Callable = jnp.tanh,
    *,
    timed: bool = False,
    inputs: int = 0,
    solver: Any = None,
    substeps: int = 10,
    key: Array,
) -> SDE:
    """A neural stochastic differential equation of a state of `size` numbers with diagonal noise: drift and diffusion
    are multilayer perceptrons with `depth` hidden layers of `width` units, with a softplus at the end of the second;
    `timed` and `inputs` as in `Network`.
    """
    require_positive("neural_sde", size=size, width=width, depth=depth)
    first, second = jax.random.split(key)
    drift = mlp(size + timed + inputs, size, width, depth, activation, key=first)
    diffusion = mlp(size + timed + inputs, size, width, depth, activation, key=second)
    positive = eqx.nn.Sequential([diffusion, eqx.nn.Lambda(jax.nn.softplus)])
    return SDE(
        Network(drift, timed, inputs),
        Network(positive, timed, inputs),
        diffrax.Euler() if solver is None else solver,
        substeps,
    )


def transition_likelihood(*, noise: Any = 0.0, substeps: int = 1) -> Callable:
    """The loss `(sde, Trajectories) -> number` of measured states: minus the logarithm of their likelihood, by measured
    value, where that of each given those before it is taken as normal. No path is simulated.

    Between two times, mean and covariance follow the linearised equation (Sarkka & Solin, Applied Stochastic
    Differential Equations, 2019, section 9.1), by `substeps` Runge-Kutta steps of order 4; at each of them what was
    measured is taken in as by a Kalman filter, and components that were not (NaN) are left out. That is exact for
    linear drift and a diffusion that does not depend on the state, but for the error of the steps. Otherwise it holds
    for intervals in which the state moves little; it is then that of Euler-Maruyama to first order.

    - `noise`: the standard deviation of the error of measurements, a number or one for each component. `data.y0` is
      known up to the same error, and what was measured at the first time does not count.

    The times of measured values must increase, and each diffusion matrix have as many independent columns as the state
    has components unless there is noise. Raises ValueError for negative noise, `substeps` below 1, and measured values
    that are not those of the state.
    """
    require_positive("transition_likelihood", substeps=substeps)
    if not (np.asarray(noise) >= 0).all():
        raise ValueError(f"transition_likelihood: noise must not be negative, got {noise}")

    def loss(model, batch):
        y0, ts, args, ys = jax.tree.map(jnp.asarray, batch)
        if ys.shape[2:] != y0.shape[1:]:
            raise ValueError(
                f"transition_likelihood: expected measured states of {y0.shape[1]} components, NaN where they were "
                f"not measured, got {ys.shape[2]}"
            )
        variance = jnp.broadcast_to(jnp.square(jnp.asarray(noise, y0.dtype)), y0.shape[1:])
        one = lambda y0, ts, args, ys: _minus_logarithm(model, y0, ts, args, ys, variance, substeps)  # noqa: E731
        found = jax.vmap(one)(y0, ts, args, ys)
        return jnp.sum(found) / jnp.maximum(jnp.sum(jnp.isfinite(ys[:, 1:])), 1)

    return loss


def _minus_logarithm(model: SDE, y0, ts, args, ys, variance, substeps: int):
    noise_shape(model, ts[0], y0, args)

    def rates(t, moments):
        mean, covariance = moments
        slopes = jax.jacfwd(lambda y: model.ito_drift(t, y, args))(mean)
        spread, matrix = slopes @ covariance, model.matrix(t, mean, args)
        return model.ito_drift(t, mean, args), spread + spread.T + matrix @ matrix.T

    def advance(moments, measured):
        t0, t1, y = measured
        h = (t1 - t0) / substeps
        step = lambda i, moments: _runge_kutta(rates, t0 + i * h, h, moments)  # noqa: E731
        mean, covariance = jax.lax.fori_loop(0, substeps, step, moments)
        return _taken_in(mean, covariance, y, variance)

    first = (y0, jnp.diag(variance))
    return jnp.sum(jax.lax.scan(advance, first, (ts[:-1], ts[1:], ys[1:]))[1])


def _runge_kutta(rates: Callable, t, h, y):
    """The classical step of order 4."""
    ahead = lambda share, k: jax.tree.map(lambda a, b: a + share * h * b, y, k)  # noqa: E731
    first = rates(t, y)
    second = rates(t + h / 2, ahead(0.5, first))
    third = rates(t + h / 2, ahead(0.5, second))
    last = rates(t + h, ahead(1.0, third))
    return jax.tree.map(lambda y, a, b, c, d: y + h / 6 * (a + 2 * b + 2 * c + d), y, first, second, third, last)


def _taken_in(mean, covariance, y, variance):
    """Mean and covariance given the components of `y` that are known, and minus the logarithm of their density."""
    known = jnp.isfinite(y)
    missed = jnp.where(known, y - mean, 0)
    both = known[:, None] & known[None, :]
    expected = jnp.where(both, covariance, 0) + jnp.diag(jnp.where(known, variance, 1))
    root = jnp.linalg.cholesky(expected)
    half = jax.scipy.linalg.solve_triangular(root, missed, lower=True)
    gain = jax.scipy.linalg.cho_solve((root, True), jnp.where(known[:, None], covariance, 0)).T
    left = jnp.eye(y.size) - jnp.where(known[None, :], gain, 0)
    # In this form it stays symmetric and positive.
    after = left @ covariance @ left.T + (gain * jnp.where(known, variance, 0)) @ gain.T
    logarithm = 0.5 * jnp.sum(half**2) + jnp.sum(jnp.log(jnp.diag(root))) + 0.5 * np.log(2 * np.pi) * jnp.sum(known)
    return (mean + gain @ missed, after), logarithm
