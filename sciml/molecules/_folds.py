"""k-fold evaluation: the models of all folds are trained as the members of one ensemble."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .._loss import by_member
from ..nn import Ensemble


class Folded(eqx.Module):
    """A model, called as it is, and the fold that it does not see; `in_folds` makes them."""

    model: Any
    fold: Int[Array, "*members"]

    def __call__(self, *inputs: Any) -> Any:
        return self.model(*inputs)


def fold_numbers(count: int, k: int, *, seed: int = 0, strata: Any = None) -> Int[np.ndarray, " {count}"]:
    """The fold of each of `count` samples, from 0 to k - 1, at random; sizes differ by one at most.

    - `strata`: a number or label for each sample, (count,). Samples in its order are dealt out k at a time, so that
      each fold has about the same share of every label, or of every quantile of a target.

    Raises ValueError unless there are 2 or more folds and a sample for each, and where strata have another length or
    are NaN.
    """
    if not 2 <= k <= count:
        raise ValueError(f"fold_numbers: {count} samples give from 2 to {count} folds that are not empty, got k={k}")
    random = np.random.default_rng(seed)
    order = random.permutation(count)
    if strata is not None:
        strata = np.asarray(strata)
        if strata.shape != (count,):
            raise ValueError(f"fold_numbers: expected strata of shape ({count},), got {strata.shape}")
        if strata.dtype.kind == "f" and not np.isfinite(strata).all():
            raise ValueError("fold_numbers: strata hold numbers that are not finite; leave these samples out")
        order = order[np.argsort(strata[order], kind="stable")]
    dealt = [random.permutation(k) for _ in range(-(-count // k))]
    fold = np.empty(count, int)
    fold[order] = np.concatenate(dealt)[:count]
    return fold


def in_folds(make: Callable[[Array], Any], k: int, *, key: Array) -> Ensemble:
    """The models of k folds, each `make(key)` with a key of its own, as the members of an ensemble: `fit` with a
    `fold_loss` trains them at once, in one compiled step.

    Raises ValueError for fewer than two folds.
    """
    if k < 2:
        raise ValueError(f"in_folds: expected 2 folds or more, got {k}")
    members = eqx.filter_vmap(lambda key, fold: Folded(make(key), fold))(jax.random.split(key, k), jnp.arange(k))
    return Ensemble(members)


def fold_loss(loss: Callable) -> Callable:
    """The loss of the models of `in_folds` on batches `((*inputs, targets), fold)`, with the fold of each sample, (m,):
    that of one model on `(*inputs, targets)`, where the targets of a model's own fold are NaN. `property_misfit`,
    `potential_misfit` and `evidence` leave those out.
    """

    def of_member(member, batch):
        (*inputs, targets), fold = batch
        own = jnp.asarray(fold) == member.fold

        def hidden(values):
            values = jnp.asarray(values)
            return jnp.where(own.reshape(-1, *(1,) * (values.ndim - 1)), jnp.nan, values)

        return loss(member.model, (*inputs, jax.tree.map(hidden, targets)))

    return by_member(of_member)


@eqx.filter_jit
def held_out(model: Ensemble, inputs: Any, fold: Int[Array, " m"]) -> Float[Array, "m *t"]:
    """The prediction for each sample by the model that has not seen it, of those that `in_folds` made."""
    found = model.each(lambda member: jax.vmap(member)(inputs))
    return found[jnp.asarray(fold), jnp.arange(found.shape[1])]
