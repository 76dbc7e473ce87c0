"""Losses: named residuals, and functions from losses to losses.

A loss is a function `(model, batch) -> scalar` or `(model, batch) -> dict of residual arrays`; of a dict, the sum of
the mean squares is minimised.
"""

import difflib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.tree_util.register_pytree_with_keys_class
class Groups(dict):
    """Independent sets of examples by name, such as the points of each region.

    A loss on groups is the union of its terms on each one, and may be called with any of them alone; Gauss-Newton
    uses this to take one example at a time.
    """

    def tree_flatten_with_keys(self):
        """The groups in the order of their names."""
        names = tuple(sorted(self))
        return [(jax.tree_util.DictKey(n), self[n]) for n in names], names

    @classmethod
    def tree_unflatten(cls, names, values):
        """Rebuilds the groups."""
        return cls(zip(names, values))


def mean_squares(terms: Any) -> dict[str, Float[Array, ""]]:
    """The mean square of each named residual, or `{"loss": value}` for a scalar loss.

    Raises TypeError for a result that is neither, for an empty dict and for complex residuals.
    """
    if not isinstance(terms, Mapping):
        if jnp.shape(terms) != () or not jnp.issubdtype(jnp.result_type(terms), jnp.floating):
            raise TypeError(
                "a loss must return a real scalar or a dict of residual arrays, it returned "
                f"{type(terms).__name__} of shape {jnp.shape(terms)}"
            )
        return {"loss": jnp.asarray(terms)}
    if not terms:
        raise TypeError("the loss returned an empty dict: there is nothing to minimise")
    for name, residual in terms.items():
        if jnp.iscomplexobj(residual):
            raise TypeError(f"the residual '{name}' is complex; return its real and imaginary part as two residuals")
    return {name: jnp.mean(jnp.square(residual)) for name, residual in terms.items()}


def total(terms: Any) -> Float[Array, ""]:
    """The number that is minimised: the sum of the mean squares of residuals, or the scalar itself."""
    return sum(mean_squares(terms).values(), start=jnp.zeros(()))


def misfit(model: Callable, batch: tuple) -> dict[str, Array]:
    """Prediction minus target: the last entry of the batch is the target, the others are the model's arguments."""
    *arguments, target = batch
    return {"misfit": jax.vmap(model)(*arguments) - target}


def relative_misfit(model: Callable, batch: tuple) -> dict[str, Array]:
    """As `misfit`, divided by the root mean square of each target."""
    *arguments, target = batch
    size = jnp.sqrt(jnp.mean(target**2, axis=tuple(range(1, target.ndim)), keepdims=True))
    return {"misfit": (jax.vmap(model)(*arguments) - target) / size}


def weighted(loss: Callable, by_name: Mapping[str, float] | None = None, **weights: float) -> Callable:
    """A loss whose named terms count with these weights: `weighted(loss, poisson=10)`, or a mapping for names with
    spaces. A weight w multiplies the residual by sqrt(w).

    Raises ValueError for a negative weight, and for a name that the loss does not return.
    """
    factors = dict(by_name or {}) | weights
    for name, weight in factors.items():
        if not weight >= 0:
            raise ValueError(f"weighted: the weight of '{name}' must not be negative, got {weight}")

    def reweighted(model, batch):
        terms = loss(model, batch)
        if not isinstance(terms, Mapping):
            raise TypeError("weighted needs a loss that returns a dict of residuals")
        # Of groups any subset may be asked for; otherwise a name that is absent is a mistake.
        unknown = [n for n in factors if n not in terms]
        if unknown and not isinstance(batch, Groups):
            close = difflib.get_close_matches(unknown[0], list(terms), n=1)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            raise ValueError(f"weighted: no term '{unknown[0]}' in {', '.join(terms)}{hint}")
        return {n: r * factors[n] ** 0.5 if n in factors else r for n, r in terms.items()}

    return reweighted


def combine(*losses: Callable) -> Callable:
    """One loss with the terms of several on the same batch. Raises ValueError where two have a term of one name."""

    def combined(model, batch):
        out: dict = {}
        for loss in losses:
            terms = loss(model, batch)
            repeated = set(out) & set(terms)
            if repeated:
                raise ValueError(f"two losses have a term called '{repeated.pop()}'; rename one of them")
            out |= terms
        return out

    return combined


def masked(loss: Callable) -> Callable:
    """A loss on batches `(batch, mask)`, as padded ones are: rows whose mask is 0 do not count, and mean squares are
    those of the others. Each residual has the rows of the batch as its first axis.

    Raises ValueError for a residual without that axis.
    """

    def counted(model, masked_batch):
        batch, mask = masked_batch
        terms = loss(model, batch)
        if not isinstance(terms, Mapping):
            raise TypeError("masked needs a loss that returns a dict of residuals")
        share = mask / jnp.maximum(jnp.mean(mask, dtype=float), 1 / mask.shape[0])
        out = {}
        for name, residual in terms.items():
            if jnp.shape(residual)[:1] != mask.shape:
                raise ValueError(f"masked: '{name}' has shape {jnp.shape(residual)}, the batch {mask.shape[0]} rows")
            weight = jnp.sqrt(share).reshape(-1, *(1,) * (residual.ndim - 1))
            # A row that does not count may hold anything, NaN too.
            out[name] = jnp.where(weight > 0, residual, 0) * weight
        return out

    return counted
