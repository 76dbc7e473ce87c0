"""Latent stochastic differential equations: a prior process, and the one that explains what was observed."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..nn import mlp
from ..nn._layers import require_positive
from ._latent import ODERNN, Series, backward, decode, drawn_state, encode, interpolated, normal_divergence, ode_rnn
from ._models import Network
from ._stochastic import SDE, neural_sde, refined


class LatentSDE(eqx.Module):
    """A trajectory from a latent path that noise drives (Li, Wong, Chen & Duvenaud, Scalable gradients for stochastic
    differential equations, AISTATS 2020, section 5): `(observed, ts, args) -> ys`, for times from the first row on.

    Before anything is observed the path follows the `prior`, dz = h dt + s dW. Given what was observed, it follows
    dz = (h + s u) dt + s dW, where u depends on what is observed later; after the last of it u is zero. By Girsanov's
    theorem the divergence of the second process from the first is half the mean integral of the square of u.

    - `encoder`: an `ODERNN` that is run from the last row to the first, whose `readout` has mean and logarithm of the
      deviation of each number of the start; its hidden states, and values that are linearly interpolated at the next
      row, are the context of u.
    - `control`: `(t, z and context (d + m + w,), args) -> u`, one number for each Brownian motion of the prior. The
      paper has the drift f = h + s u instead, which asks for noise of its own in every component.
    - `prior`: an `SDE` of the latent state (d,); its solver and substeps are those of both processes.
    - `decoder`: `z -> y`.
    - `start`: from standard normal numbers to the first latent state of the prior.

    Called, it predicts without noise from the mean of the start; `sampled` draws from what is known, `generated` from
    the prior alone. It is trained by `elbo`, with derivatives of the steps that were taken, whose memory grows with
    their number. `latent_sde` makes it. Raises ValueError where u and the noise of the prior do not fit.
    """

    encoder: ODERNN
    control: Callable
    prior: SDE
    decoder: Callable
    start: Callable = eqx.nn.Identity()

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
        divergence from the prior as its mean: those of the start, and u sqrt(dt) of each step. Their sum is that of
        the discrete process for Euler's steps.
        """
        first, second = jax.random.split(key)
        posterior = self.posterior(observed)
        known = self._known(observed, ts, args)
        zs = self._steered()(self.start(drawn_state(posterior, first)), known.times, known, key=second)
        reached = jnp.all(jnp.isfinite(zs), axis=1)[:-1, None]
        us = jax.vmap(self._push, (0, 0, None))(known.times[:-1], jnp.where(reached, zs[:-1], 0), known)
        path = jnp.where(reached, us * jnp.sqrt(jnp.diff(known.times))[:, None], 0)
        return self._decoded(zs), jnp.concatenate([normal_divergence(*posterior), path.ravel()])

    def _known(self, observed: Series, ts: Any, args: Any) -> "_Known":
        times = jnp.concatenate([jnp.asarray(observed.ts)[:1], jnp.asarray(ts)])
        steps = refined(times, self.prior.substeps)
        times = jnp.concatenate([steps[:1, 0], steps[:, 1:].ravel()])
        rows = jnp.any(jnp.isfinite(jnp.asarray(observed.ys)), axis=1)
        until = jnp.max(jnp.where(rows, jnp.asarray(observed.ts), -jnp.inf))
        # In reversed time, what is later was observed before.
        hidden = self.encoder.hidden(backward(observed), -times)
        following = jnp.searchsorted(observed.ts, times, side="right")
        values = interpolated(observed, jnp.asarray(observed.ts)[jnp.minimum(following, len(rows) - 1)])
        return _Known(times, jnp.concatenate([values, hidden], axis=1), until, args)

    def _steered(self) -> SDE:
        """The process given what was observed."""

        def drift(t, z, known):
            matrix, u = self.prior.matrix(t, z, known.args), self._push(t, z, known)
            if u.shape != matrix.shape[1:]:
                raise ValueError(f"the control must have the shape {matrix.shape[1:]} of the noise, it has {u.shape}")
            return self.prior.drift(t, z, known.args) + matrix @ u

        return SDE(drift, lambda t, z, known: self.prior.diffusion(t, z, known.args), self.prior.solver)

    def _push(self, t, z, known: "_Known"):
        """What is observed later, as a velocity in units of the noise."""
        context = known.contexts[jnp.searchsorted(known.times, t, side="right") - 1]
        u = jnp.asarray(self.control(t, jnp.concatenate([z, context]), known.args))
        return jnp.where(t < known.until, u, 0)

    def _decoded(self, zs):
        return decode(self.decoder, zs[:: self.prior.substeps][1:])


class _Known(NamedTuple):
    """The times of all steps, the context of the control at each, the last time of an observation, and the arguments
    of the prior.
    """

    times: Any
    contexts: Any
    until: Any
    args: Any


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
    hidden layers of `width` units. Its control begins as zero.

    - `prior`: by default a `neural_sde` with so many `substeps`; one of known form, such as that of a `mechanism`, has
      its own, a state of `latent` numbers, and `motions` Brownian motions, by default one for each of them.
    - `decoder`, `start`: as in `LatentSDE`; by default a network, and the numbers themselves.

    Choose the unit of time so that states change within about one. Raises ValueError for sizes below 1.
    """
    motions = latent if motions is None else motions
    require_positive("latent_sde", size=size, latent=latent, width=width, depth=depth, motions=motions)
    keys = jax.random.split(key, 4)
    encoder = ode_rnn(size, width, out=2 * latent, key=keys[0])
    seen = latent + size + width
    control = mlp(seen, motions, width, depth, spread=seen**-0.5, key=keys[1])
    control = eqx.tree_at(lambda c: c.layers[-1].weight, control, replace_fn=jnp.zeros_like)
    if prior is None:
        prior = neural_sde(latent, width, depth, substeps=substeps, key=keys[2])
    if decoder is None:
        decoder = mlp(latent, size, width, 1, spread=latent**-0.5, key=keys[3])
    return LatentSDE(encoder, Network(control), prior, decoder, eqx.nn.Identity() if start is None else start)
