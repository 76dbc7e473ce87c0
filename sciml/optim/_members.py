"""An optimiser for each member of an ensemble."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from .._loss import OfMember


def by_member(optimiser: optax.GradientTransformation, *, at_once: int = 1) -> optax.GradientTransformationExtraArgs:
    """The optimiser for an ensemble (`sciml.nn.ensemble`), where each member has a state of its own and takes the steps
    that it would take alone: its own line search, its own damping, its own curvature.

    The loss must be `sciml.by_member(loss)`, the mean over members; the gradient of a member is as many times its share
    of that mean as there are members. All arrays of the parameters have the members as their first axis. Optimisers
    that take each number by itself, such as Adam, need no wrapping.

    - `at_once`: of how many members a step is computed at the same time. More than one pays on devices that a member
      does not fill. A line search then goes on for all of them until it ends for the last, and what one alone
      would leave out by a condition is computed.

    Raises TypeError where the loss cannot be evaluated for a member, ValueError for `at_once` below 1 and arrays
    without a common first axis.
    """
    if at_once < 1:
        raise ValueError(f"by_member: at_once must be above 0, got {at_once}")
    inner = optax.with_extra_args_support(optimiser)

    def init(params):
        _count(params)
        return jax.vmap(inner.init)(params)

    def update(updates, state, params=None, **extra):
        count = _count(params)
        # Of the mean over members each gradient is one share.
        scaled = {"updates": updates, "grad": extra.pop("grad", updates)}
        scaled = jax.tree.map(lambda g: count * g, scaled)

        def one(of_one):
            own, state, params = of_one["scaled"], of_one["state"], of_one["params"]
            own_extra = _extra_of(of_one["member"], extra, params)
            return inner.update(own["updates"], state, params, grad=own["grad"], **own_extra)

        every = {"member": jnp.arange(count), "scaled": scaled, "state": state, "params": params}
        return jax.lax.map(one, every, batch_size=None if at_once == 1 else min(at_once, count))

    return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore[reportArgumentType]


def _extra_of(member, extra: dict, params) -> dict[str, Any]:
    """The extra arguments of an optimiser for one member; those that are shared stay."""
    own = dict(extra)
    value_fn, residual_fn = extra.get("value_fn"), extra.get("residual_fn")
    if value_fn is not None:

        def own_value(p, batch=extra.get("batch"), residual_fn=None, fresh=None):
            # As in `fit`, the signature names what Optax's line searches may pass on.
            return _evaluated(value_fn, p, OfMember(member, batch))

        own |= {"value_fn": own_value, "value": own_value(params)}
    if residual_fn is not None:
        own["residual_fn"] = lambda p, batch: _evaluated(residual_fn, p, OfMember(member, batch))
    return own


def _evaluated(function: Callable, params, batch: OfMember):
    try:
        return function(params, batch)
    except (AttributeError, TypeError, ValueError) as error:
        raise TypeError(
            f"by_member: the loss cannot be evaluated for one member; it must be sciml.by_member(loss): {error}"
        ) from error


def _count(params) -> int:
    sizes = {jnp.shape(a)[:1] for a in jax.tree.leaves(params)}
    if len(sizes) != 1 or () in sizes:
        raise ValueError(
            "by_member: the parameters must have one first axis in common, the members of an ensemble; got lengths "
            f"{sorted(sizes)}"
        )
    return sizes.pop()[0]
