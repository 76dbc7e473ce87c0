"""Losses: named residuals, and functions from losses to losses.

A loss is a function `(model, batch) -> scalar` or `(model, batch) -> dict of residual arrays`; of a dict, the sum of
the mean squares is minimised.
"""

import difflib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import equinox as eqx
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


class OfMember(NamedTuple):
    """A batch on which a loss is asked for one member of an ensemble only: `sciml.optim.by_member` does, for models
    whose floating-point arrays are those of that member alone.
    """

    member: Array
    batch: Any


def by_member(loss: Callable) -> Callable:
    """A loss for an ensemble (`sciml.nn.ensemble`) from one for a member: its residuals have the members as their first
    axis, so that what is minimised is the mean over the members of what `loss` would be for each. All members see the
    same batch.

    Raises TypeError for a model that is no ensemble.
    """

    def of_members(model, batch):
        if isinstance(batch, OfMember):
            member = jax.tree.map(lambda a: a[batch.member] if _is_frozen(a) else a, model.members)
            return loss(member, batch.batch)
        if not (hasattr(model, "members") and hasattr(model, "each")):
            raise TypeError(f"by_member: expected an ensemble, as sciml.nn.ensemble makes, got {type(model).__name__}")
        terms = model.each(lambda member: loss(member, batch))
        return terms if isinstance(terms, Mapping) else jnp.mean(terms)

    return of_members


def _is_frozen(leaf: Any) -> bool:
    return eqx.is_array(leaf) and not eqx.is_inexact_array(leaf)


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


def chunked(loss: Callable, rows: int) -> Callable:
    """The same loss, of `rows` examples of the batch at a time: values and gradients add up over a compiled loop, so
    that memory is that of `rows` examples. On CPUs it is also faster where their arrays then fit into the cache.

    Each term becomes the root mean square over the batch. Its gradient comes with its value, so that each term costs a
    backward pass of its own: put what belongs together into one term. Not for optimisers that need each residual.
    Examples lie along the first axis of each residual and of each array of the batch.

    Raises ValueError for `rows` below 1 and for arrays without a common first axis; TypeError for a scalar loss.
    """
    if rows < 1:
        raise ValueError(f"chunked: rows must be 1 or more, got {rows}")

    def evaluated(model, batch):
        params, static = eqx.partition(model, eqx.is_inexact_array)
        return _chunked_roots(lambda p, b: _dict_of(loss(eqx.combine(p, static), b)), rows, params, batch)

    return evaluated


def _dict_of(terms: Any) -> dict:
    if not isinstance(terms, Mapping):
        raise TypeError("chunked needs a loss that returns a dict of residuals")
    return dict(terms)


def _chunked_roots(terms_of: Callable, rows: int, params: Any, batch: Any) -> dict[str, Array]:
    sizes = {jnp.shape(a)[:1] for a in jax.tree.leaves(batch)}
    if len(sizes) != 1 or () in sizes:
        raise ValueError(f"chunked: expected arrays with one first axis in common, got lengths {sorted(sizes)}")
    count = sizes.pop()[0]

    def squares(params, part):
        return {name: jnp.mean(jnp.square(r)) for name, r in terms_of(params, part).items()}

    @jax.custom_vjp
    def roots(params):
        total = _sum_over_chunks(lambda part: squares(params, part), rows, batch, count)
        return jax.tree.map(jnp.sqrt, total)

    def forward(params):
        def value_and_gradient(part):
            values, pull = jax.vjp(lambda p: squares(p, part), params)
            return values, [pull(_one_of(values, name))[0] for name in values]

        total, gradients = _sum_over_chunks(value_and_gradient, rows, batch, count)
        found = jax.tree.map(jnp.sqrt, total)
        return found, (found, gradients)

    def backward(saved, cotangents):
        found, gradients = saved
        # d sqrt(s) = ds / (2 sqrt(s)); where all residuals vanish, so does the gradient.
        factors = [
            jnp.where(found[n] > 0, cotangents[n] / (2 * jnp.where(found[n] > 0, found[n], 1)), 0) for n in found
        ]
        scaled = [jax.tree.map(lambda g, f=f: f * g, gradient) for f, gradient in zip(factors, gradients)]
        return (jax.tree.map(lambda *g: sum(g), *scaled),)

    roots.defvjp(forward, backward)
    return roots(params)


def _one_of(values: dict, name: str) -> dict:
    return {n: jnp.ones_like(v) if n == name else jnp.zeros_like(v) for n, v in values.items()}


def _sum_over_chunks(function: Callable, rows: int, batch: Any, count: int) -> Any:
    """The mean of `function` over chunks, weighted by their examples; a shorter last one is taken by itself."""
    whole, rest = divmod(count, rows)
    total = None
    if whole:
        # Every so many rows make a chunk, so that a batch that is spread over devices stays so.
        parts = jax.tree.map(lambda a: jnp.moveaxis(a[: whole * rows].reshape(rows, whole, *a.shape[1:]), 1, 0), batch)
        add = lambda total, part: (jax.tree.map(jnp.add, total, function(part)), None)  # noqa: E731
        shapes = jax.eval_shape(function, jax.tree.map(lambda a: a[0], parts))
        zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        total = jax.tree.map(lambda a: a * (rows / count), jax.lax.scan(add, zero, parts)[0])
    if rest:
        last = function(jax.tree.map(lambda a: a[whole * rows :], batch))
        scaled = jax.tree.map(lambda a: a * (rest / count), last)
        total = scaled if total is None else jax.tree.map(jnp.add, total, scaled)
    return total
