"""Losses of trajectories: what was not measured does not count, and solutions that failed count as a constant."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from .._fit import Stream
from ._models import parameters
from ._trajectories import Trajectories


class Weighed(NamedTuple):
    """Trajectories and the standard deviation of the noise in what was measured of each, (k, m)."""

    data: Any
    noise: Any


def log(y: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """The logarithm, which for numbers that are not positive is that of the smallest one."""
    return jnp.log(jnp.maximum(y, jnp.finfo(jnp.asarray(y).dtype).tiny))


def trajectory_misfit(
    *,
    scale: Any = 1.0,
    transform: Callable | None = None,
    observed: Callable | None = None,
    failed: float = 10.0,
) -> Callable:
    """The loss `(model, batch) -> {"misfit": residuals (k, n, m)}` of `Trajectories`: prediction minus what was
    measured, over `scale`. Missing values give zero.

    - `scale`: the size of deviations, such as the noise, a number or one by component. A batch may be `Weighed`, whose
      noise is that of its components instead.
    - `transform`: of both prediction and measurement before they are compared, as `sciml.ode.log` for log-normal noise.
    - `observed`: what is measured of a state, (d,) -> (m,); by default all.
    - `failed`: the residual where the solution failed, without a gradient, so that failing pays for no model.

    Raises ValueError where prediction and measurement differ in shape.
    """

    def loss(model, batch):
        batch = jax.tree.map(jnp.asarray, batch)
        data, size = (batch.data, batch.noise[:, None]) if isinstance(batch, Weighed) else (batch, jnp.asarray(scale))
        ys = jax.vmap(model)(data.y0, data.ts, data.args)
        return {"misfit": residuals_of(ys, data, size, transform, observed, failed)}

    return loss


def residuals_of(ys, data: Trajectories, scale, transform, observed, failed) -> Float[Array, "k n m"]:
    """The residuals of predicted states (k, n, d)."""
    reached = jnp.all(jnp.isfinite(ys), axis=-1, keepdims=True)
    # Any finite state does, as nothing of it is kept.
    ys = jnp.where(reached, ys, 1.0)
    if observed is not None:
        ys = jax.vmap(jax.vmap(observed))(ys)
    if ys.shape != data.ys.shape:
        raise ValueError(
            f"the model predicts values of shape {ys.shape}, measured ones have {data.ys.shape}; say with observed= "
            "what is measured of a state"
        )
    known = jnp.isfinite(data.ys)
    target = jnp.where(known, data.ys, 1.0)
    if transform is not None:
        ys, target = transform(ys), transform(target)
    residual = jnp.where(reached, (ys - target) / scale, failed)
    return jnp.where(known, residual, 0.0)


def failures(model: Callable, batch: Any) -> Bool[Array, " k"]:
    """Which trajectories have no solution up to their last time."""
    data = batch.data if isinstance(batch, Weighed) else batch
    return ~jnp.all(jnp.isfinite(predicted(model, data)), axis=(1, 2))


@eqx.filter_jit
def predicted(model: Callable, data: Trajectories) -> Float[Array, "k n d"]:
    """The states at all times of all trajectories."""
    return jax.vmap(model)(*jax.tree.map(jnp.asarray, (data.y0, data.ts, data.args)))


class EstimatedNoise(Stream):
    """See `estimated_noise`."""

    data: Trajectories
    loss: Callable = eqx.field(static=True)
    freedom: float

    def init(self, key: Array, model: Any) -> Any:
        """With the noise that the first model leaves."""
        return self._weighed(model)

    def next(self, key: Array, step: Array, model: Any, batch: Any) -> tuple[Any, Array]:
        """With the noise that the present model leaves."""
        return self._weighed(model), jnp.array(True)

    def _weighed(self, model):
        data = jax.tree.map(jnp.asarray, self.data)
        ones = jnp.ones((data.ys.shape[0], data.ys.shape[2]))
        residual = self.loss(model, Weighed(data, ones))["misfit"]
        known = jnp.sum(jnp.isfinite(data.ys), axis=(0, 1))
        squares = jnp.sum(residual**2, axis=(0, 1)) / jnp.maximum(known - self.freedom / len(known), 1.0)
        # Data that are met exactly leave a noise of rounding.
        smallest = jnp.finfo(squares.dtype).eps
        return Weighed(data, jnp.broadcast_to(jnp.sqrt(squares) + smallest, ones.shape))


def estimated_noise(data: Trajectories, loss: Callable, parameters: int = 0) -> EstimatedNoise:
    """A stream of `Weighed` trajectories, with the noise of each component as it follows from what the present model
    misses: `loss` is a `trajectory_misfit`. So many numbers are found from the data: the sum of squares is divided by
    the number of measured values less those per component.

    Raises ValueError where that leaves nothing.
    """
    known = np.isfinite(np.asarray(data.ys)).sum(axis=(0, 1))
    if not (known > parameters / len(known)).all():
        raise ValueError(
            f"estimated_noise: {parameters} parameters leave nothing of {known.tolist()} measured values to tell the "
            "noise from"
        )
    return EstimatedNoise(data, loss, float(parameters))


def with_prior(loss: Callable, size: int, beliefs: Callable | None = None, **normal: tuple[float, float]) -> Callable:
    """The loss with normal beliefs as one more term, `prior`: `alpha=(1.0, 0.5)` for mean and standard deviation of an
    unknown number by its name. `beliefs(model)` gives further terms in units of their standard deviation, as a vector.

    `loss` must be in units of the noise. Mean squares are summed, and `size`, the number of entries of its residuals
    (`data.ys.size`), makes the sum that of squares in the units of either: least squares then find the most probable
    parameters. One row is returned for each example, so that the prior counts once for data of any number of rows.

    Raises ValueError for a name that the model does not have and deviations that are not above 0.
    """
    for name, (_, deviation) in normal.items():
        if not deviation > 0:
            raise ValueError(f"with_prior: the standard deviation of '{name}' must be above 0, got {deviation}")

    def believed(model, batch):
        terms = loss(model, batch)
        known: Mapping[str, Any] = parameters(model)
        if absent := [n for n in normal if n not in known]:
            raise ValueError(f"with_prior: the model has no unknown '{absent[0]}'; it has {', '.join(known)}")
        rows = [(known[n] - mean) / deviation for n, (mean, deviation) in normal.items()]
        z = jnp.stack(rows) if rows else jnp.zeros(0)
        if beliefs is not None:
            z = jnp.concatenate([z, beliefs(model)])
        examples = len(jax.tree.leaves(batch)[0])
        return dict(terms) | {"prior": jnp.broadcast_to(z * np.sqrt(z.size / size), (examples, z.size))}

    return believed
