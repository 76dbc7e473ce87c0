"""Several models of one shape as one: their mean, and what each of them says."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from ._layers import require_positive


class Ensemble(eqx.Module):
    """The mean of several models: called on one sample as each of them is.

    `members` is a model whose arrays have the members as their first axis, as `ensemble` makes it, so that all are
    trained at once; or a tuple of models, which may then be of different shapes.

    Raises ValueError for fewer than two members.
    """

    members: Any

    def __check_init__(self):
        if len(self) < 2:
            raise ValueError(f"Ensemble: expected two members or more, got {len(self)}")

    def __len__(self) -> int:
        if isinstance(self.members, tuple):
            return len(self.members)
        sizes = {jnp.shape(a)[:1] for a in jax.tree.leaves(eqx.filter(self.members, eqx.is_array))}
        if len(sizes) != 1 or () in sizes:
            raise ValueError(
                "Ensemble: the arrays of the members must have one first axis in common, the members, as "
                f"sciml.nn.ensemble makes them; got lengths {sorted(sizes)}"
            )
        return sizes.pop()[0]

    def __call__(self, *inputs: Any) -> Any:
        return jax.tree.map(lambda a: jnp.mean(a, axis=0), self.each(lambda member: member(*inputs)))

    def each(self, function: Callable, *given: Any) -> Any:
        """What a function of one member gives, with the members as the first axis of its arrays. Arrays that are
        `given` have the members as their first axis too, and the function gets what belongs to its member.
        """
        if isinstance(self.members, tuple):
            parts = [jax.tree.map(lambda a: a[i], given) for i in range(len(self))]
            found = [function(member, *part) for member, part in zip(self.members, parts)]
            return jax.tree.map(lambda *arrays: jnp.stack(arrays), *found)
        return eqx.filter_vmap(function)(self.members, *given)

    def changed(self, function: Callable) -> "Ensemble":
        """The ensemble of what `function`, from one model to one model, makes of the members."""
        if isinstance(self.members, tuple):
            return Ensemble(tuple(function(member) for member in self.members))
        return Ensemble(eqx.filter_vmap(function)(self.members))

    def member(self, number: int) -> Any:
        """One of the members, from 0 up."""
        if isinstance(self.members, tuple):
            return self.members[number]
        return jax.tree.map(lambda a: a[number] if eqx.is_array(a) else a, self.members)


def ensemble(make: Callable[[Array], Any], count: int, *, key: Array) -> Ensemble:
    """`count` models `make(key)`, each of a key of its own, as one model that returns their mean (deep ensembles:
    Lakshminarayanan, Pritzel & Blundell, NeurIPS 2017): `ensemble(lambda key: mlp(2, 1, key=key), 5, key=key)`.

    Train it with `sciml.by_member(loss)`, and with `sciml.optim.by_member(optimiser)` unless the optimiser takes each
    number by itself, as Adam does. `model.each(lambda member: member(x))` are the members' values, whose standard
    deviation says how far they are from each other.

    Raises ValueError for fewer than two members.
    """
    require_positive("ensemble", count=count)
    return Ensemble(eqx.filter_jit(eqx.filter_vmap(make))(jax.random.split(key, count)))
