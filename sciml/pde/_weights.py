"""Weights that follow the training: of single examples, and of whole terms.

Each function takes a loss and its data and returns both anew: the stream carries a factor for each residual in the
batch and sets it from the present model, the loss multiplies. Within a step the factors are constants, so that line
searches and Gauss-Newton see one objective; where they change, the stream reports the batch as fresh.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float

from .._fit import Stream, _Function
from .._loss import Groups, mean_squares
from ..optim._equations import Residuals

# No term gets more than 1e5 times the weight of an average one (as in jaxpi).
FLOOR = 1e-5
# Bytes for the Jacobian's rows that are held at once.
MEMORY = 2e9


class Weighted(eqx.Module):
    """Examples, and for each residual that they give a factor `(n,)`, by the residual's name.

    `state` is what the rule behind the factors keeps. All arrays have the examples along their first axis, so that a
    batch can be cut into chunks or spread over devices.
    """

    examples: Any
    factors: dict[str, Array]
    state: Any = None


class Rule(NamedTuple):
    """How factors change: `update(loss, model, parts) -> parts`, where parts are `Weighted` by group.

    `state(factors)` is what a new example starts with; `follows` asks for an update wherever examples are new.
    """

    update: Callable
    state: Callable = lambda factors: None
    follows: bool = False


class WeightedStream(Stream):
    """A stream whose batches carry factors that `rule` updates at each `every`-th step."""

    loss: Callable
    data: Stream
    rule: Rule
    every: int

    def init(self, key: Array, model: Any) -> Any:
        """The first batch, with factors of 1."""
        parts = parts_of(self.data.init(key, model))
        return batch_of({label: self._start(model, label, examples) for label, examples in parts.items()})

    def next(self, key: Array, step: Array, model: Any, batch: Any) -> tuple[Any, Array]:
        """The next batch of the data; examples that stay keep their factors, new ones get the mean of their term."""
        before = parts_of(batch)
        plain = batch_of({label: part.examples for label, part in before.items()})
        examples, fresh = self.data.next(key, step, model, plain)
        now = {label: self._carried(before[label], after) for label, after in parts_of(examples).items()}
        due = (step % self.every == 0) | (fresh & self.rule.follows)
        now = jax.lax.cond(due, lambda: self.rule.update(self.loss, model, now), lambda: now)
        return batch_of(now), fresh | due

    def _start(self, model, label, examples) -> Weighted:
        terms = jax.eval_shape(lambda: self.loss(model, batch_of({label: examples})))
        _check_terms(terms, examples)
        factors = {name: jnp.ones(r.shape[0], r.dtype) for name, r in terms.items()}
        return Weighted(examples, factors, self.rule.state(factors))

    def _carried(self, old: Weighted, examples) -> Weighted:
        new = _renewed(old.examples, examples)
        factors = {name: jnp.where(new, jnp.mean(f), f) for name, f in old.factors.items()}
        start = self.rule.state({name: jnp.ones_like(f) for name, f in factors.items()})
        return Weighted(examples, factors, jax.tree.map(lambda a, b: jnp.where(new, a, b), start, old.state))


def multiplied(loss: Callable) -> Callable:
    """`loss` on batches with factors: each residual is multiplied by its own."""

    def counted(model, batch):
        parts = parts_of(batch)
        terms = loss(model, batch_of({label: part.examples for label, part in parts.items()}))
        factors = {name: f for part in parts.values() for name, f in part.factors.items()}
        return {name: r * factors[name].reshape(-1, *(1,) * (r.ndim - 1)) for name, r in terms.items()}

    return counted


def with_rule(name: str, loss: Callable, data: Any, rule: Rule, every: int) -> tuple[Callable, WeightedStream]:
    """The loss and the stream of a rule. Raises ValueError unless every > 0, TypeError for data that is no stream."""
    if every < 1:
        raise ValueError(f"{name}: every must be above 0, got {every}")
    if not isinstance(data, Stream):
        if not callable(data):
            raise TypeError(
                f"{name}: data must be a function key -> batch or a Stream, such as pde.points(n) or adaptive(pde); "
                f"got {type(data).__name__}, whose batches training does not see the model of"
            )
        data = _Function(data)
    return multiplied(loss), WeightedStream(loss, data, rule, every)


# Weights of single examples.


def attention_weights(
    loss: Callable,
    data: Callable | Stream,
    *,
    gamma: float = 0.999,
    eta: float = 0.01,
    every: int = 1,
    terms: Collection[str] | None = None,
) -> tuple[Callable, WeightedStream]:
    """Residual-based attention (Anagnostopoulos, Toscano, Stergiopulos & Karniadakis, CMAME 421, 2024, eqs. 4-6): the
    loss and the data, where each residual r is multiplied by a factor that follows `f <- gamma f + eta |r| / max |r|`.

    Factors lie below `max(1, eta / (1 - gamma))`. They begin at 1, not at 0, so that the first steps are those of the
    plain loss; with `gamma=1, eta=0` so are all. The maximum is that of a term over the batch. `terms` restricts it to
    some of them: not to noisy observations, whose outliers it would attend to.

    Points must stay for it to have an effect: one that is drawn anew begins with the mean factor of its term, so that
    `hold(pde.points(n), k)`, `adaptive` and `r3` suit it, and points that are new at each step do not. Every update
    costs an evaluation of the residuals and, with a quasi-Newton method, one of the gradient: give those `every=10` or
    more.

    Raises ValueError unless 0 < gamma <= 1, eta >= 0 and every > 0, and at the first step for terms that the loss does
    not return; TypeError for a scalar loss and for data that is neither a function of a key nor a `Stream`.
    """
    if not 0 < gamma <= 1 or not eta >= 0:
        raise ValueError(f"attention_weights: expected 0 < gamma <= 1 and eta >= 0, got {gamma} and {eta}")

    def follow(factor, residual, state):
        size = _sizes(residual)
        return gamma * factor + eta * size / (jnp.max(size) + jnp.finfo(size.dtype).tiny), state

    return with_rule("attention_weights", loss, data, _by_example("attention_weights", follow, terms), every)


def self_adaptive_weights(
    loss: Callable,
    data: Callable | Stream,
    optimiser: optax.GradientTransformation | None = None,
    *,
    every: int = 1,
    terms: Collection[str] | None = None,
) -> tuple[Callable, WeightedStream]:
    """Self-adaptive weights (McClenny & Braga-Neto, J. Comput. Phys. 474, 2023, with the mask m(f) = f^2): the loss and
    the data, where each residual is multiplied by a factor f that ascends f^2 r^2 while the model descends.

    `optimiser` sets the ascent: an Optax transformation, by default Adam at a rate of 0.005 as in the paper;
    `optax.sgd(rate)` is plain ascent, and a rate of 0 the plain loss. Each example has a state of it by itself, so that
    one that is drawn anew begins afresh, with the mean factor of its term. Factors begin at 1 and never fall: end their
    growth by a schedule, such as `optax.adam(optax.piecewise_constant_schedule(5e-3, {10_000: 0.0}))`, before a
    quasi-Newton method refines.

    `every`, `terms`, costs and errors are those of `attention_weights`.
    """
    ascent = optax.adam(5e-3) if optimiser is None else optimiser

    def follow(factor, residual, state):
        slope = 2 * factor * _sizes(residual) ** 2
        updates, state = jax.vmap(ascent.update)(-slope, state, factor)
        return factor + updates, state

    def start(factors):
        return {name: jax.vmap(ascent.init)(f) for name, f in factors.items()}

    rule = _by_example("self_adaptive_weights", follow, terms, start)
    return with_rule("self_adaptive_weights", loss, data, rule, every)


def _by_example(name: str, follow: Callable, terms: Collection[str] | None, state=lambda factors: {}) -> Rule:
    """The rule where `follow(factor, residual, state)` gives the next factors and state of a term."""

    def update(loss, model, parts):
        residuals = residuals_of(loss, model, parts)
        unknown = [t for t in terms or () if t not in residuals]
        if unknown:
            raise ValueError(f"{name}: no term '{unknown[0]}' in {', '.join(residuals)}")
        return {label: changed(part, residuals) for label, part in parts.items()}

    def changed(part, residuals):
        factors, states = dict(part.factors), dict(part.state)
        for term, factor in part.factors.items():
            if terms is None or term in terms:
                factor, kept = follow(factor, residuals[term], states.get(term))
                factors[term] = factor.astype(part.factors[term].dtype)
                if kept is not None:
                    states[term] = jax.tree.map(lambda a, b: a.astype(b.dtype), kept, states[term])
        return Weighted(part.examples, factors, states)

    return Rule(update, state)


# Weights of whole terms.


def gradient_norm_weights(
    loss: Callable, data: Callable | Stream, *, momentum: float = 0.9, every: int = 100
) -> tuple[Callable, WeightedStream]:
    """Weights that make the gradients of all terms equally long: the loss and the data, where the mean square L_i of
    each term counts with w_i, the moving average of `mean_j |grad L_j| / |grad L_i|`.

    The method of Wang, Teng & Perdikaris (SIAM J. Sci. Comput. 43, 2021) in the form of An Expert's Guide to Training
    PINNs (Wang, Sankaran, Wang & Perdikaris, 2023, eq. 4.2), whose sum over j is a mean here, so that equal terms have
    a weight of 1. Weights begin at 1 and at each `every`-th step, the first included, become
    `momentum w + (1 - momentum) new`; with `momentum=1` the loss is the plain one. Each update costs a gradient per
    term. The guide updates each 1000 of 10^5 steps.

    Raises ValueError unless 0 <= momentum <= 1 and every > 0; TypeError for a scalar loss and for data that is neither
    a function of a key nor a `Stream`.
    """
    return with_rule("gradient_norm_weights", loss, data, _balanced(gradient_norms, momentum), every)


def ntk_weights(
    loss: Callable, data: Callable | Stream, *, momentum: float = 0.9, every: int = 100
) -> tuple[Callable, WeightedStream]:
    """Weights that make all terms converge at the same rate: as `gradient_norm_weights`, with the mean over the
    examples of a term of `|grad r|^2`, the trace of its neural tangent kernel divided by its size, in place of the norm
    of its gradient.

    The method of Wang, Yu & Perdikaris (J. Comput. Phys. 449, 2022, eqs. 6.5-6.6) for means over examples (Wang et al.,
    2023, eq. 4.5). The trace is exact; each update costs a backward pass per residual, in chunks of bounded memory.
    Each residual must depend on one example only.
    """
    return with_rule("ntk_weights", loss, data, _balanced(ntk_traces, momentum), every)


def _balanced(measure: Callable, momentum: float) -> Rule:
    if not 0 <= momentum <= 1:
        raise ValueError(f"the momentum of weights must be from 0 to 1, got {momentum}")

    def update(loss, model, parts):
        sizes = measure(loss, model, {label: part.examples for label, part in parts.items()})
        mean = sum(sizes.values()) / len(sizes)

        def followed(name, factor):
            new = mean / (sizes[name] + FLOOR * mean)
            weight = momentum * factor**2 + (1 - momentum) * new
            # Where all gradients vanish or one is not finite, nothing is known.
            return jnp.where(jnp.isfinite(weight), jnp.sqrt(weight), factor).astype(factor.dtype)

        return {
            label: Weighted(part.examples, {n: followed(n, f) for n, f in part.factors.items()}, part.state)
            for label, part in parts.items()
        }

    return Rule(update)


def gradient_norms(loss: Callable, model: Any, parts: Mapping) -> dict[str, Float[Array, ""]]:
    """The length of the gradient of each term's mean square by the parameters."""
    params, static = eqx.partition(model, eqx.is_inexact_array)
    gradients = jax.jacrev(lambda p: mean_squares(loss(eqx.combine(p, static), batch_of(parts))))(params)
    return {name: jnp.sqrt(sum(jnp.sum(a**2) for a in jax.tree.leaves(g))) for name, g in gradients.items()}


def ntk_traces(loss: Callable, model: Any, parts: Mapping) -> dict[str, Float[Array, ""]]:
    """The mean of |grad r|^2 over the residuals r of each term: the trace of its neural tangent kernel by its size."""
    params, static = eqx.partition(model, eqx.is_inexact_array)
    flat, unravel = ravel_pytree(params)

    def trace(name, batch):
        def term(p, b):
            return {name: loss(eqx.combine(unravel(p), static), b)[name]}

        # Its rows are scaled by 1 / sqrt(size of the term).
        rows = Residuals(term, flat, batch, MEMORY)
        return rows.fold_rows(lambda total, jacobian, r: total + jnp.sum(jacobian**2), jnp.zeros((), flat.dtype))

    found = {}
    for label, examples in parts.items():
        batch = batch_of({label: examples})
        found |= {name: trace(name, batch) for name in jax.eval_shape(lambda b=batch: loss(model, b))}
    return found


# Batches as parts by group.


def parts_of(batch: Any) -> dict:
    """The groups of a batch by name; a batch that is no `Groups` is one part, named None."""
    return dict(batch) if isinstance(batch, Groups) else {None: batch}


def batch_of(parts: Mapping) -> Any:
    """The inverse of `parts_of`."""
    return parts[None] if None in parts else Groups(parts)


def residuals_of(loss: Callable, model: Any, parts: Mapping[Any, Weighted]) -> dict[str, Array]:
    """The residuals before their multiplication; those that are not finite count as zero here."""
    terms = loss(model, batch_of({label: part.examples for label, part in parts.items()}))
    return {name: jnp.where(jnp.isfinite(r), r, 0) for name, r in terms.items()}


def plain(examples: Any) -> Any:
    """The examples below all factors."""
    return plain(examples.examples) if isinstance(examples, Weighted) else examples


def _sizes(residual: Array) -> Float[Array, " n"]:
    """|r| of each example; the root mean square where it has several numbers."""
    if residual.ndim == 1:
        return jnp.abs(residual)
    return jnp.sqrt(jnp.mean(residual**2, axis=tuple(range(1, residual.ndim))))


def _renewed(old: Any, new: Any) -> Bool[Array, " n"]:
    """Which examples differ from those before in any of their numbers."""

    def differ(a, b):
        return jnp.any((a != b).reshape(a.shape[0], -1), axis=1)

    leaves = zip(jax.tree.leaves(plain(old)), jax.tree.leaves(plain(new)))
    return jnp.any(jnp.stack([differ(a, b) for a, b in leaves]), axis=0)


def _check_terms(terms: Any, examples: Any) -> None:
    if not isinstance(terms, Mapping):
        raise TypeError("weights that follow the training need a loss that returns a dict of residuals, not a scalar")
    rows = {jnp.shape(a)[:1] for a in jax.tree.leaves(examples)}
    for name, residual in terms.items():
        if residual.shape[:1] not in rows or len(rows) != 1:
            raise ValueError(
                f"'{name}' has shape {residual.shape}; expected a residual per example, along the first axis of each "
                f"array of the batch, whose lengths are {sorted(rows)}"
            )
