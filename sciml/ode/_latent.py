"""Trajectories from what was observed of them: ODE-RNN, latent ODE, and a smoother; irregular times, missing values."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .._fit import Stream
from ..nn import mlp
from ..nn._layers import require_positive
from ._losses import residuals_of
from ._models import ODE, Network
from ._steps import AbstractSteps, Between
from ._trajectories import Trajectories, take

# The logarithm of a posterior deviation stays between these, with either sign.
WIDEST = 8.0


class Series(NamedTuple):
    """What was observed of a trajectory: times (n,), which do not decrease, and values (n, m), NaN where none was.
    Padding repeats the last time and has no values; it changes nothing.
    """

    ts: Any
    ys: Any


def observing(data: Trajectories, seen: Any = None) -> Trajectories:
    """The trajectories with what was observed of each, a `Series`, in the place of its initial state: data of models
    that are called as `(observed, ts, args) -> ys`.

    - `seen`: values (k, n, m) that the model sees, NaN for those that are hidden from it; by default all.

    Raises ValueError for values of another shape.
    """
    seen = data.ys if seen is None else seen
    if np.shape(seen) != np.shape(data.ys):
        raise ValueError(f"observing: expected values of shape {np.shape(data.ys)}, got {np.shape(seen)}")
    return data._replace(y0=Series(data.ts, seen))


def hide(key: Array, series: Series, share: float) -> Series:
    """The series with values at a random share of its observed times only (rounded down, at least one); at the others
    all are missing.
    """
    rows = jnp.any(jnp.isfinite(series.ys), axis=1)
    drawn = jnp.where(rows, jax.random.uniform(key, rows.shape), jnp.inf)
    rank = jnp.argsort(jnp.argsort(drawn))
    # The share of a count that is whole, such as 0.3 of 10, must not be rounded down to the next.
    kept = jnp.maximum(jnp.floor(share * jnp.sum(rows) + 1e-3), 1)
    return series._replace(ys=jnp.where((rank < kept)[:, None], series.ys, jnp.nan))


def hiding(data: Trajectories, size: int, *, share: float = 1.0) -> Callable:
    """The stream (key -> batch) of `size` trajectories, drawn at random without repetition, of which the model sees
    values at a random `share` of the times and is to predict all of them.

    Raises ValueError unless `share` is above 0 and at most 1 and `size` above 0 and at most the number of trajectories.
    """
    require_positive("hiding", size=size)
    if not 0 < share <= 1 or size > len(data.ts):
        raise ValueError(f"hiding: share {share} must be in (0, 1] and size {size} at most {len(data.ts)}")
    whole = jax.tree.map(jnp.asarray, observing(data))

    def draw(key):
        first, second = jax.random.split(key)
        batch = take(whole, jax.random.permutation(first, len(data.ts))[:size])
        seen = jax.vmap(lambda key, series: hide(key, series, share))(jax.random.split(second, size), batch.y0)
        return batch._replace(y0=seen)

    return draw


def interpolated(observed: Series, ts: Any, args: Any = None) -> Float[Array, "n m"]:
    """Linear interpolation of each component between the times at which it was observed, and its first or last value
    outside; zero for one that was never observed. A model without parameters, to be compared with.
    """
    return _between(observed, jnp.asarray(ts))[0]


def _between(series: Series, ts: Float[Array, " n"]) -> tuple[Float[Array, "n m"], Float[Array, "n m"]]:
    """Interpolated values, and the place in the gap between 0 and 1; 0 outside."""
    times, ys = jnp.asarray(series.ts), jnp.asarray(series.ys)
    count = times.shape[0]
    known = jnp.isfinite(ys)
    rows = jnp.broadcast_to(jnp.arange(count)[:, None], ys.shape)
    before = jax.lax.cummax(jnp.where(known, rows, -1), axis=0)
    after = jax.lax.cummin(jnp.where(known, rows, count), axis=0, reverse=True)
    # Row 0 has nothing before it, row n nothing after it.
    before = jnp.concatenate([jnp.full_like(before[:1], -1), before])
    after = jnp.concatenate([after, jnp.full_like(after[:1], count)])
    at = jnp.searchsorted(times, ts, side="right")
    left, right = before[at], after[at]
    left, right = jnp.where(left < 0, right, left), jnp.where(right == count, left, right)
    never = (left < 0) | (left == count)
    left, right = (jnp.clip(i, 0, count - 1) for i in (left, right))
    filled = jnp.where(known, ys, 0)
    y_left, y_right = (jnp.take_along_axis(filled, i, axis=0) for i in (left, right))
    length = times[right] - times[left]
    share = jnp.where(length > 0, (ts[:, None] - times[left]) / jnp.where(length > 0, length, 1), 0)
    return jnp.where(never, 0, y_left + share * (y_right - y_left)), share


def backward(series: Series) -> Series:
    """The series in reversed time, from its last row to the first."""
    return Series(-jnp.asarray(series.ts)[::-1], jnp.asarray(series.ys)[::-1])


class ODERNN(eqx.Module):
    """A recurrent network whose hidden state follows an ODE between observations (Rubanova, Chen & Duvenaud, Latent
    ODEs for irregularly-sampled time series, NeurIPS 2019, section 3.1), for one trajectory: `(observed, ts, args) ->
    ys`. The prediction at a time depends on what was observed before it only.

    - `field`: `h -> dh/dt` of the hidden state (w,), integrated by `substeps` midpoint steps from row to row.
    - `cell`: `(values and which of them are there (2 m,), h) -> h`, at rows where anything was observed.
    - `readout`: `h -> y`.

    `ode_rnn` makes it. Choose the unit of time so that states change within about one, and that of values so that they
    are of the size of one.
    """

    field: Callable
    cell: Callable
    readout: Callable
    width: int = eqx.field(static=True)
    substeps: int = eqx.field(default=1, static=True)

    def __call__(self, observed: Series, ts: Any, args: Any = None) -> Float[Array, "n m"]:
        return jax.vmap(self.readout)(self.hidden(observed, ts))

    def hidden(self, observed: Series, ts: Any, side: str = "left") -> Float[Array, "n w"]:
        """The hidden states at times, from what was observed before them, or with `side="right"` also at them."""
        times, ts = jnp.asarray(observed.ts), jnp.asarray(ts)
        states = self.states(observed)
        states = jnp.concatenate([jnp.zeros_like(states[:1]), states])
        # Before the first row nothing has happened yet.
        rows = jnp.searchsorted(times, ts, side=side)
        since = jnp.where(rows > 0, ts - times[jnp.maximum(rows - 1, 0)], 0)
        return jax.vmap(self.evolve)(states[rows], since)

    def states(self, observed: Series) -> Float[Array, "n w"]:
        """The hidden states after each row."""
        times, known, rows = _rows(observed)

        def step(h, row):
            dt, values, seen = row
            h = self.evolve(h, dt)
            h = jnp.where(seen, self.cell(values, h), h).astype(rows.dtype)
            return h, h

        gaps = jnp.diff(times, prepend=times[:1])
        return jax.lax.scan(step, jnp.zeros(self.width, rows.dtype), (gaps, rows, known))[1]

    def evolve(self, h: Float[Array, " w"], dt: Float[Array, ""]) -> Float[Array, " w"]:
        """The hidden state after a time in which nothing was observed."""
        for _ in range(self.substeps):
            length = dt / self.substeps
            h = h + length * self.field(h + length / 2 * self.field(h))
        return h


def _rows(observed: Series) -> tuple[Float[Array, " n"], Bool[Array, " n"], Float[Array, "n k"]]:
    """Times, whether anything was observed, and values with which of them are there."""
    times, ys = jnp.asarray(observed.ts), jnp.asarray(observed.ys)
    if times.ndim != 1 or ys.ndim != 2 or len(times) != len(ys):
        raise ValueError(
            f"expected a Series of one trajectory with times (n,) and values (n, m), got {times.shape} and {ys.shape}; "
            "use jax.vmap on the model for several"
        )
    known = jnp.isfinite(ys)
    rows = jnp.concatenate([jnp.where(known, ys, 0), known.astype(ys.dtype)], axis=1)
    return times, jnp.any(known, axis=1), rows


def ode_rnn(
    size: int, width: int = 64, depth: int = 1, *, out: int | None = None, substeps: int = 1, key: Array
) -> ODERNN:
    """An `ODERNN` for values of `size` components, with a hidden state of `width` numbers, a gated recurrent unit, and
    networks of `depth` hidden layers for its ODE and for the `out` (by default `size`) numbers that are predicted.
    """
    out = size if out is None else out
    require_positive("ode_rnn", size=size, width=width, depth=depth, out=out, substeps=substeps)
    keys = jax.random.split(key, 3)
    spread = width**-0.5
    field = mlp(width, width, width, depth, spread=spread, key=keys[0])
    readout = mlp(width, out, width, depth, spread=spread, key=keys[1])
    return ODERNN(field, eqx.nn.GRUCell(2 * size, width, key=keys[2]), readout, width, substeps)


class Smoother(eqx.Module):
    """Values between observations from those before and after: linear interpolation, corrected by a network of the
    hidden states of two `ODERNN`s, one in each direction of time; `(observed, ts, args) -> ys`. `smoother` makes it.

    With `exact` the correction vanishes where a component was observed, for values without noise.
    """

    forward: ODERNN
    backward: ODERNN
    correction: Callable
    exact: bool = eqx.field(default=False, static=True)

    def __call__(self, observed: Series, ts: Any, args: Any = None) -> Float[Array, "n m"]:
        ts = jnp.asarray(ts)
        values, share = _between(observed, ts)
        earlier = self.forward.hidden(observed, ts, "right")
        later = self.backward.hidden(backward(observed), -ts, "right")
        correction = jax.vmap(self.correction)(jnp.concatenate([earlier, later, values, share], axis=1))
        return values + (4 * share * (1 - share) if self.exact else 1) * correction


def smoother(
    size: int, width: int = 64, depth: int = 2, *, exact: bool = False, substeps: int = 1, key: Array
) -> Smoother:
    """A `Smoother` for values of `size` components, with hidden states of `width` numbers and a correction of `depth`
    hidden layers.
    """
    keys = jax.random.split(key, 3)
    ways = [ode_rnn(size, width, substeps=substeps, key=k) for k in keys[:2]]
    inputs = 2 * (width + size)
    correction = mlp(inputs, size, 2 * width, depth, spread=inputs**-0.5, key=keys[2])
    # It begins as linear interpolation.
    correction = eqx.tree_at(lambda c: c.layers[-1].weight, correction, replace_fn=jnp.zeros_like)
    return Smoother(ways[0], ways[1], correction, exact)


class LatentODE(eqx.Module):
    """A trajectory from its latent state at the first row of what was observed (Chen et al., Neural ordinary
    differential equations, NeurIPS 2018, section 5; Rubanova et al., NeurIPS 2019, section 3.2): `(observed, ts, args)
    -> ys`, for times from the first row on, before, between and after other rows.

    - `encoder`: an `ODERNN` that is run from the last row to the first, whose `readout` has mean and logarithm of the
      deviation of each latent number.
    - `dynamics`: the model of the latent state, `(z0, ts, args) -> zs`, such as an `ODE`.
    - `decoder`: `z -> y`.

    Called, it predicts from the mean, and is trained by `trajectory_misfit` as an autoencoder, or by `elbo` as a
    variational one. `latent_ode` makes it.
    """

    encoder: ODERNN
    dynamics: Callable
    decoder: Callable

    def __call__(self, observed: Series, ts: Any, args: Any = None) -> Float[Array, "n m"]:
        return self.decoded(self.posterior(observed)[0], observed, ts, args)

    def posterior(self, observed: Series) -> tuple[Float[Array, " d"], Float[Array, " d"]]:
        """Mean of the latent state, and the logarithm of its standard deviation; the prior has 0 and 0."""
        return encode(self.encoder, observed)

    def sampled(self, observed: Series, ts: Any, args: Any = None, *, key: Array) -> Float[Array, "n m"]:
        """The trajectory of a latent state that is drawn from its distribution."""
        return self.decoded(drawn_state(self.posterior(observed), key), observed, ts, args)

    def evidence(
        self, observed: Series, ts: Any, args: Any = None, *, key: Array
    ) -> tuple[Float[Array, "n m"], Float[Array, " r"]]:
        """The trajectory of a latent state that is drawn, and residuals, half the sum of whose squares is the
        divergence of its distribution from the prior.
        """
        posterior = self.posterior(observed)
        return self.decoded(drawn_state(posterior, key), observed, ts, args), normal_divergence(*posterior)

    def decoded(self, z0: Float[Array, " d"], observed: Series, ts: Any, args: Any = None) -> Float[Array, "n m"]:
        """The trajectory of a latent state at the first row."""
        times = jnp.concatenate([jnp.asarray(observed.ts)[:1], jnp.asarray(ts)])
        return decode(self.decoder, self.dynamics(z0, times, args)[1:])


def encode(encoder: ODERNN, observed: Series) -> tuple[Float[Array, " d"], Float[Array, " d"]]:
    """Mean and logarithm of the deviation that the encoder reads from the last row to the first."""
    mean, raw = jnp.split(encoder.readout(encoder.states(backward(observed))[-1]), 2)
    return mean, WIDEST * jnp.tanh(raw / WIDEST)


def decode(decoder: Callable, zs: Float[Array, "n d"]) -> Float[Array, "n m"]:
    """The values of latent states, NaN where these are. Nothing of a failed state reaches the decoder's gradient."""
    reached = jnp.all(jnp.isfinite(zs), axis=1, keepdims=True)
    return jnp.where(reached, jax.vmap(decoder)(jnp.where(reached, zs, 0)), jnp.nan)


def drawn_state(posterior: tuple[Float[Array, " d"], Float[Array, " d"]], key: Array) -> Float[Array, " d"]:
    """Mean plus deviation times normal numbers."""
    mean, log_deviation = posterior
    return mean + jnp.exp(log_deviation) * jax.random.normal(key, mean.shape, mean.dtype)


def normal_divergence(mean: Float[Array, " d"], log_deviation: Float[Array, " d"]) -> Float[Array, " r"]:
    """Residuals, half the sum of whose squares is the divergence from the standard normal distribution."""
    return jnp.concatenate([mean, widened(log_deviation)])


def latent_ode(
    size: int,
    latent: int = 16,
    width: int = 64,
    depth: int = 2,
    *,
    steps: AbstractSteps | None = None,
    substeps: int = 1,
    key: Array,
) -> LatentODE:
    """A `LatentODE` for values of `size` components, with `latent` latent numbers and networks of `depth` hidden layers
    of `width` units; `steps` of its dynamics are by default `Between()`.
    """
    require_positive("latent_ode", size=size, latent=latent, width=width, depth=depth)
    keys = jax.random.split(key, 3)
    encoder = ode_rnn(size, width, out=2 * latent, substeps=substeps, key=keys[0])
    field = Network(mlp(latent, latent, width, depth, spread=latent**-0.5, key=keys[1]))
    decoder = mlp(latent, size, width, 1, spread=latent**-0.5, key=keys[2])
    return LatentODE(encoder, ODE(field, Between() if steps is None else steps), decoder)


class Drawn(NamedTuple):
    """Trajectories, a key (k,) for the latent state of each, and the weight (k,) of the divergence from the prior."""

    data: Any
    keys: Any
    weight: Any


class Annealed(Stream):
    """See `annealed`."""

    data: Callable
    steps: int

    def init(self, key: Array, model: Any) -> Any:
        """With a weight of zero."""
        return self._drawn(key, jnp.zeros((), int))

    def next(self, key: Array, step: Array, model: Any, batch: Any) -> tuple[Any, Array]:
        """With the weight of this step."""
        return self._drawn(key, step), jnp.array(True)

    def _drawn(self, key: Array, step: Int[Array, ""]):
        first, second = jax.random.split(key)
        batch = self.data(first)
        count = batch.ts.shape[0]
        weight = jnp.minimum(step / self.steps, 1.0).astype(batch.ts.dtype)
        return Drawn(batch, jax.random.split(second, count), jnp.full(count, weight))


def annealed(data: Callable, steps: int) -> Annealed:
    """A stream of `Drawn` batches from a function key -> `Trajectories` such as `hiding`, for `elbo`: the weight of the
    divergence grows from 0 to 1 within so many steps of training (Bowman et al., CoNLL 2016), so that the latent state
    is used before the prior counts.

    Raises ValueError unless `steps` is above 0.
    """
    require_positive("annealed", steps=steps)
    return Annealed(data, steps)


def elbo(*, scale: Any = 1.0, failed: float = 10.0) -> Callable:
    """The loss `(model, batch) -> {"misfit": ..., "divergence": ...}` of a `LatentODE` or `LatentSDE` and `Drawn`
    trajectories, the negative evidence lower bound (Kingma & Welling, ICLR 2014) as residuals: the sum of the mean
    squares of both is -2 / (n m) times the bound of a trajectory of n times and m components, but for a constant.

    - `scale`: the standard deviation of the normal noise of observations, a number or one by component.
    - `failed`: as in `trajectory_misfit`.
    """

    def loss(model, batch):
        batch = jax.tree.map(jnp.asarray, batch)
        data = batch.data
        one = lambda observed, ts, args, key: model.evidence(observed, ts, args, key=key)  # noqa: E731
        ys, apart = jax.vmap(one)(data.y0, data.ts, data.args, batch.keys)
        weight = batch.weight[:, None] * apart.shape[1] / (data.ys.shape[1] * data.ys.shape[2])
        misfit = residuals_of(ys, data, jnp.asarray(scale), None, None, failed)
        return {"misfit": misfit, "divergence": jnp.sqrt(weight) * apart}

    return loss


def widened(log_deviation: Float[Array, " *n"]) -> Float[Array, " *n"]:
    """The root, with a sign, of s^2 - 1 - 2 log(s), which with the mean's square makes twice the divergence."""
    small = jnp.abs(log_deviation) < 0.01
    # Both signs of a square root have no derivative at zero; its series has.
    other = jnp.where(small, 1.0, log_deviation)
    series = np.sqrt(2) * log_deviation * (1 + log_deviation / 3 + log_deviation**2 / 9)
    return jnp.where(small, series, jnp.sign(other) * jnp.sqrt(jnp.expm1(2 * other) - 2 * other))
