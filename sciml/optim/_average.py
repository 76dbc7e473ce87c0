"""Averages over steps, from optimiser to optimiser: of the parameters, and of the gradients."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array


class AveragedState(NamedTuple):
    """The state of the optimiser inside, the average of the parameters, and what it is made of: the number of steps
    and their weight.
    """

    inner: Any
    average: Any
    steps: Array
    weight: Array

    def result(self, params: Any) -> Any:
        """The parameters that `fit` and `train` put into the model they return: the average, as `params` in type."""
        return jax.tree.map(lambda average, p: average.astype(p.dtype), self.average, params)


def averaged(
    optimiser: optax.GradientTransformation, decay: float = 0.999, *, warm_up: bool = True
) -> optax.GradientTransformationExtraArgs:
    """The optimiser with an exponential moving average of the parameters (Polyak & Juditsky, 1992): steps go on from
    the parameters themselves, but the model that `fit` and `train` return has their average.

    Parameters of earlier steps count `decay` times less with each step; with `warm_up`, step t takes
    min(decay, (1 + t) / (10 + t)), so that a short training does not average over its beginning. Weights are those of
    the steps done, divided by their sum (Kingma & Ba, 2015, section 3): the initial parameters do not count.

    It costs one more copy of the parameters, in float32 at least. It must see the steps as they are taken: put it
    around a whole `optax.chain`, not into it. The losses in the history are those of the parameters themselves. A step
    that is not finite leaves the average as it was.

    Raises ValueError unless 0 <= decay < 1.
    """
    if not 0 <= decay < 1:
        raise ValueError(f"averaged: decay must be at least 0 and below 1, got {decay}")
    inner = optax.with_extra_args_support(optimiser)

    def init(params):
        average = jax.tree.map(lambda p: p.astype(jnp.promote_types(p.dtype, jnp.float32)), params)
        return AveragedState(inner.init(params), average, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.float32))

    def update(updates, state, params=None, **extra):
        if params is None:
            raise ValueError("averaged: update needs the parameters, update(grads, state, params)")
        updates, new_inner = inner.update(updates, state.inner, params, **extra)
        new = optax.apply_updates(params, updates)
        steps = state.steps + 1
        kept = jnp.minimum(decay, (1 + steps) / (10 + steps)) if warm_up else decay
        weight = jnp.asarray(kept * state.weight + (1 - kept), jnp.float32)
        share = (1 - kept) / weight
        # As in `fit`, which keeps the parameters before a step that is not finite.
        ok = jnp.all(jnp.stack([jnp.all(jnp.isfinite(p)) for p in jax.tree.leaves(new)]))

        def moved(average, p):
            return jnp.where(ok, average + share.astype(average.dtype) * (p.astype(average.dtype) - average), average)

        average = jax.tree.map(moved, state.average, new)
        return updates, AveragedState(
            new_inner, average, jnp.where(ok, steps, state.steps), jnp.where(ok, weight, state.weight)
        )

    return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore[reportArgumentType]


class AccumulatedState(NamedTuple):
    """The state of the optimiser inside, the mean of loss and gradient so far, and how many batches are in it."""

    inner: Any
    grad: Any
    value: Array
    batches: Array


def accumulated(optimiser: optax.GradientTransformation, batches: int) -> optax.GradientTransformationExtraArgs:
    """The optimiser with one step for so many batches, on the mean of their gradients: the step of a batch that is as
    many times larger, in the memory of one. Each batch counts as a step of `fit`; parameters stay between.

    The optimiser inside gets the mean loss and gradient as `value` and `grad`, but no `value_fn`, `residual_fn` and
    `batch`, which know one batch only: line searches and Gauss-Newton cannot be accumulated. (`optax.MultiSteps` passes
    on no extra arguments in `fit`, runs the optimiser at every batch and adds up in float32.)

    Raises ValueError unless batches > 0.
    """
    if batches < 1:
        raise ValueError(f"accumulated: batches must be above 0, got {batches}")
    inner = optax.with_extra_args_support(optimiser)

    def init(params):
        zeros = jax.tree.map(lambda p: jnp.zeros_like(p, jnp.promote_types(p.dtype, jnp.float32)), params)
        dtype = jnp.result_type(jnp.float32, *(jnp.finfo(p.dtype).dtype for p in jax.tree.leaves(params)))
        return AccumulatedState(inner.init(params), zeros, jnp.zeros((), dtype), jnp.zeros((), jnp.int32))

    def update(updates, state, params=None, *, value=0.0, **extra):
        del extra
        count = state.batches + 1
        mean = jax.tree.map(lambda m, g: m + (g - m) / count.astype(m.dtype), state.grad, updates)
        mean_value = state.value + (value - state.value) / count.astype(state.value.dtype)

        def step():
            grad = jax.tree.map(lambda m, g: m.astype(g.dtype), mean, updates)
            steps, new_inner = inner.update(grad, state.inner, params, value=mean_value, grad=grad)
            zeros = jax.tree.map(jnp.zeros_like, mean)
            return steps, AccumulatedState(new_inner, zeros, jnp.zeros_like(mean_value), jnp.zeros_like(count))

        def wait():
            # A gradient that is not finite gives such a step, and so is noticed at its own batch.
            steps = jax.tree.map(lambda g: 0 * g, updates)
            return steps, AccumulatedState(state.inner, mean, mean_value, count)

        return jax.lax.cond(count == batches, step, wait)

    return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore[reportArgumentType]
