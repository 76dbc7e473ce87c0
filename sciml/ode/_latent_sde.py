"""Latent stochastic differential equations: a prior process, and the one that explains what was observed."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..nn import mlp
from ..nn._layers import require_positive
from ._latent import (
    ODERNN,
    Series,
    backward,
    decode,
    drawn_state,
    encode,
    interpolated,
    normal_divergence,
    ode_rnn,
    widened,
)
from ._models import Network
from ._stochastic import SDE, neural_sde, refined

# The logarithm of the largest rate of knowledge, but for a factor of two.
LARGEST = 12.0


class LatentSDE(eqx.Module):
    """A trajectory from a latent path that noise drives (Li, Wong, Chen & Duvenaud, Scalable gradients for stochastic
    differential equations, AISTATS 2020, section 5): `(observed, ts, args) -> ys`, for times from the first row on.

    Before anything is observed the path follows the `prior`, dz = h dt + s dW. Given what was observed, it follows
    dz = (h + s u) dt + s dW, where u depends on what is observed later; after the last of it u is zero. By Girsanov's
    theorem the divergence of the second process from the first is half the mean integral of the square of u.

    - `encoder`: an `ODERNN` that is run from the last row to the first, whose `readout` has mean and logarithm of the
      deviation of each number of the start. Its hidden states (w,), values that are linearly interpolated at the next
      observation, the time until then, and the share that this is of the time between two observations are the context
      (m + 2 + w,) of u.
    - `control`: `(t, z and context, args) -> u`, one number for each Brownian motion of the prior. The paper has the
      drift f = h + s u instead, which asks for noise of its own in every component.
    - `prior`: an `SDE` of the latent state (d,); its solver and substeps are those of both processes.
    - `decoder`: `z -> y`.
    - `start`: from standard normal numbers to the first latent state of the prior.
    - `knowledge`: `context -> k`, a rate for each Brownian motion: how much of a step's noise what is observed later
      takes away. With noise of the variance dt in every step, a path cannot be closer to a precise observation than
      that of the last step, and training makes the noise of the prior smaller instead. A step of length dt has the
      variance dt / (1 + k dt), and u is that of `control` times (1 + abs(k)) / (1 + k dt): that has the exact posterior
      of Euler's steps where the equations are linear and the noise is constant, k being the square of s times the
      information, and as dt -> 0 it is the process above. Below zero, 1 + k dt is 1 / (1 - k dt). By default k = 0.

    Called, it predicts without noise from the mean of the start; `sampled` draws from what is known, `generated` from
    the prior alone. It is trained by `elbo`, with derivatives of the steps that were taken, whose memory grows with
    their number. `latent_sde` makes it. Raises ValueError where u and the noise of the prior do not fit.
    """

    encoder: ODERNN
    control: Callable
    prior: SDE
    decoder: Callable
    start: Callable = eqx.nn.Identity()
    knowledge: Callable | None = None

    def __call__(self, observed: Series, ts: Any, args: Any = None) -> Float[Array, "n m"]:
        z0 = self.start(self.posterior(observed)[0])
        known = self._known(observed, ts, args)
        still = SDE(self._steered().ito_drift, lambda t, z, known: jnp.zeros((z.size, 0), z.dtype))
        return self._decoded(still(z0, known.times, known, key=jax.random.key(0)))

    def posterior(self, observed: Series) -> tuple[Float[Array, " d"], Float[Array, " d"]]:
        """Mean of the numbers of the start, and the logarithm of their standard deviation; the prior has 0 and 0."""
        return encode(self.encoder, observed)

    def sampled(self, observed: Series, ts: Any, args: Any = None, *, key: Array) -> Float[Array, "n m"]:
        """A trajectory that is drawn given what was observed."""
        return self.evidence(observed, ts, args, key=key)[0]

    def generated(self, ts: Any, args: Any = None, *, key: Array) -> Float[Array, "n m"]:
        """A trajectory that is drawn from the prior, which starts at the first of the times."""
        first, second = jax.random.split(key)
        hidden = jax.ShapeDtypeStruct((self.encoder.width,), jnp.result_type(float))
        numbers = jax.eval_shape(self.encoder.readout, hidden)
        z0 = self.start(jax.random.normal(first, (numbers.shape[0] // 2,), numbers.dtype))
        return decode(self.decoder, self.prior(z0, ts, args, key=second))

    def evidence(
        self, observed: Series, ts: Any, args: Any = None, *, key: Array
    ) -> tuple[Float[Array, "n m"], Float[Array, " r"]]:
        """A trajectory that is drawn given what was observed, and residuals, half the sum of whose squares has the
        divergence from the prior as its mean: those of the start, u sqrt(dt) of each step, and those of the variance
        of each step's noise. Their sum is that of the discrete process for Euler's steps.
        """
        first, second = jax.random.split(key)
        posterior = self.posterior(observed)
        known = self._known(observed, ts, args)
        zs = self._steered()(self.start(drawn_state(posterior, first)), known.times, known, key=second)
        reached = jnp.all(jnp.isfinite(zs), axis=1)[:-1, None]
        us = jax.vmap(self._push, (0, 0, None))(known.times[:-1], jnp.where(reached, zs[:-1], 0), known)
        path = jnp.concatenate([us * jnp.sqrt(known.lengths[:-1])[:, None], widened(known.spreads[:-1])], axis=1)
        path = jnp.where(reached, path, 0)
        return self._decoded(zs), jnp.concatenate([normal_divergence(*posterior), path.ravel()])

    def _known(self, observed: Series, ts: Any, args: Any) -> "_Known":
        times = jnp.concatenate([jnp.asarray(observed.ts)[:1], jnp.asarray(ts)])
        steps = refined(times, self.prior.substeps)
        times = jnp.concatenate([steps[:1, 0], steps[:, 1:].ravel()])
        following, length = _gaps(observed, times)
        # In reversed time, what is later was observed before.
        hidden = self.encoder.hidden(backward(observed), -times)
        ahead = jnp.stack([following - times, (following - times) / jnp.where(length > 0, length, 1)], axis=1)
        contexts = jnp.concatenate([interpolated(observed, following), ahead, hidden], axis=1)
        lengths = jnp.diff(times, append=times[-1:])
        if self.knowledge is None:
            gains = spreads = jnp.zeros((len(times), 1), contexts.dtype)
        else:
            rates = jnp.where((times < following)[:, None], jax.vmap(self.knowledge)(contexts), 0)
            spreads = -0.5 * _signed_logarithm(rates * lengths[:, None])
            gains = jnp.log1p(jnp.abs(rates)) + 2 * spreads
        return _Known(times, lengths, contexts, following, jnp.exp(gains), spreads, args)

    def _steered(self) -> SDE:
        """The process given what was observed."""

        def drift(t, z, known):
            matrix, u = self.prior.matrix(t, z, known.args), self._push(t, z, known)
            if u.shape != matrix.shape[1:]:
                raise ValueError(f"the control must have the shape {matrix.shape[1:]} of the noise, it has {u.shape}")
            return self.prior.drift(t, z, known.args) + matrix @ u

        def diffusion(t, z, known):
            return self.prior.diffusion(t, z, known.args) * jnp.exp(known.spreads[known.step(t)])

        return SDE(drift, diffusion, self.prior.solver)

    def _push(self, t, z, known: "_Known"):
        """What is observed later, as a velocity in units of the noise."""
        at = known.step(t)
        u = jnp.asarray(self.control(t, jnp.concatenate([z, known.contexts[at]]), known.args)) * known.gains[at]
        return jnp.where(t < known.following[at], u, 0)

    def _decoded(self, zs):
        return decode(self.decoder, zs[:: self.prior.substeps][1:])


class _Known(NamedTuple):
    """Of all steps: their times and lengths, the context of the control, the time of the next observation or of the
    last one, the factor of the control, and the logarithm of that of the noise; and the arguments of the prior.
    """

    times: Any
    lengths: Any
    contexts: Any
    following: Any
    gains: Any
    spreads: Any
    args: Any

    def step(self, t: Any) -> Any:
        """The number of the step that begins last before a time, or at it."""
        return jnp.searchsorted(self.times, t, side="right") - 1


def _gaps(observed: Series, times: Float[Array, " n"]) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """The next times at which anything was observed, at the end the last one, and the lengths of the gaps before them,
    the first of which begins with the first row.
    """
    ts = jnp.asarray(observed.ts)
    rows = jnp.any(jnp.isfinite(jnp.asarray(observed.ys)), axis=1)
    last = jnp.max(jnp.where(rows, ts, ts[0]))
    later = jax.lax.cummin(jnp.where(rows, ts, last), reverse=True)
    earlier = jax.lax.cummax(jnp.where(rows, ts, ts[0]))
    at = jnp.searchsorted(ts, times, side="right")
    following = jnp.append(later, last)[at]
    return following, following - jnp.append(earlier[:1], earlier)[at]


def _signed_logarithm(x: Float[Array, " *n"]) -> Float[Array, " *n"]:
    """log(1 + x), and -log(1 - x) below zero, with a derivative at zero."""
    positive = x >= 0
    size = jnp.log1p(jnp.where(positive, x, -x))
    return jnp.where(positive, size, -size)


class Knowledge(eqx.Module):
    """The rate sinh(network(context)), zero for a network that is zero; its logarithm is what the network has to learn
    where it is large.
    """

    network: Callable

    def __call__(self, context: Float[Array, " c"]) -> Float[Array, " m"]:
        return jnp.sinh(LARGEST * jnp.tanh(self.network(context) / LARGEST))


def latent_sde(
    size: int,
    latent: int = 4,
    width: int = 64,
    depth: int = 2,
    *,
    prior: SDE | None = None,
    decoder: Callable | None = None,
    start: Callable | None = None,
    motions: int | None = None,
    substeps: int = 4,
    key: Array,
) -> LatentSDE:
    """A `LatentSDE` for values of `size` components, with a latent state of `latent` numbers and networks of `depth`
    hidden layers of `width` units. Its control and knowledge begin as zero.

    - `prior`: by default a `neural_sde` with so many `substeps`; one of known form, such as that of a `mechanism`, has
      its own, a state of `latent` numbers, and `motions` Brownian motions, by default one for each of them.
    - `decoder`, `start`: as in `LatentSDE`; by default a network, and the numbers themselves.

    Choose the unit of time so that states change within about one. Raises ValueError for sizes below 1.
    """
    motions = latent if motions is None else motions
    require_positive("latent_sde", size=size, latent=latent, width=width, depth=depth, motions=motions)
    keys = jax.random.split(key, 5)
    encoder = ode_rnn(size, width, out=2 * latent, key=keys[0])
    seen = size + 2 + width
    control = _beginning_with_zero(latent + seen, motions, width, depth, keys[1])
    knowledge = _beginning_with_zero(seen, motions, width, depth, keys[4])
    if prior is None:
        prior = neural_sde(latent, width, depth, substeps=substeps, key=keys[2])
    if decoder is None:
        decoder = mlp(latent, size, width, 1, spread=latent**-0.5, key=keys[3])
    start = eqx.nn.Identity() if start is None else start
    return LatentSDE(encoder, Network(control), prior, decoder, start, Knowledge(knowledge))


def _beginning_with_zero(inputs: int, outputs: int, width: int, depth: int, key: Array) -> Any:
    network = mlp(inputs, outputs, width, depth, spread=inputs**-0.5, key=key)
    return eqx.tree_at(lambda n: n.layers[-1].weight, network, replace_fn=jnp.zeros_like)
