"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner, for large networks."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array


class SoapState(NamedTuple):
    """Gradients seen; their mean and, in the eigenbases, that of their squares (both as the parameters); and for each
    parameter and axis the mean of G G^T and its eigenvectors, both None for axes that are not rotated.
    """

    count: Array
    mean: Any
    square: Any
    factors: list
    bases: list


def soap(
    learning_rate: optax.ScalarOrSchedule = 3e-3,
    *,
    b1: float = 0.95,
    b2: float = 0.95,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    every: int = 10,
    largest: int = 4096,
) -> optax.GradientTransformationExtraArgs:
    """SOAP (Vyas et al., arXiv 2409.11321, algorithm 3): Adam on gradients turned, along each axis of each parameter,
    into the eigenvectors of the mean of G G^T.

    Parameters may have any rank. Vectors, axes of length 1 and axes longer than `largest` are not turned; a parameter
    of which nothing is turned sees Adam itself. The eigenvectors follow by one step of orthogonal iteration
    each `every` steps. The first gradient gives the first eigenvectors and no step: in them, it is zero off the
    diagonal, and Adam's first step would be the sign of rounding errors.

    It costs two products with each basis per step and 2 n^2 numbers for an axis of length n, beside Adam's. It works in
    float32 at least. Weight decay is decoupled, as in AdamW. `learning_rate` may be a schedule.

    Raises ValueError for means that do not decay (b1, b2 outside of [0, 1)), and for `every` or `largest` below 1.
    """
    return optax.chain(
        scale_by_soap(b1, b2, eps, every=every, largest=largest),
        optax.add_decayed_weights(weight_decay) if weight_decay else optax.identity(),
        optax.scale_by_learning_rate(learning_rate),
    )


def scale_by_soap(
    b1: float = 0.95, b2: float = 0.95, eps: float = 1e-8, *, every: int = 10, largest: int = 4096
) -> optax.GradientTransformation:
    """The direction of `soap`, without learning rate and weight decay."""
    if not (0 <= b1 < 1 and 0 <= b2 < 1):
        raise ValueError(f"soap: b1 and b2 must be at least 0 and below 1, got {b1} and {b2}")
    if every < 1 or largest < 1:
        raise ValueError(f"soap: every and largest must be above 0, got {every} and {largest}")

    def init(params):
        leaves = [jnp.asarray(p) for p in jax.tree.leaves(params)]
        zeros = jax.tree.map(lambda p: jnp.zeros(jnp.shape(p), _dtype(p)), params)
        factors = [[_square(p, axis, largest, jnp.zeros) for axis in range(p.ndim)] for p in leaves]
        bases = [[_square(p, axis, largest, _identity) for axis in range(p.ndim)] for p in leaves]
        return SoapState(jnp.zeros((), jnp.int32), zeros, jax.tree.map(jnp.zeros_like, zeros), factors, bases)

    def update(updates, state, params=None):
        del params
        grads, structure = jax.tree.flatten(updates)
        parts = (structure.flatten_up_to(state.mean), structure.flatten_up_to(state.square))
        moved = [
            _update(g, m, v, f, q, state.count, b1, b2, eps, every)
            for g, m, v, f, q in zip(grads, *parts, state.factors, state.bases, strict=True)
        ]
        steps, mean, square, factors, bases = ([entry[i] for entry in moved] for i in range(5))
        new = SoapState(state.count + 1, structure.unflatten(mean), structure.unflatten(square), factors, bases)
        return structure.unflatten(steps), new

    return optax.GradientTransformation(init, update)


def _dtype(p):
    return jnp.promote_types(jnp.result_type(p), jnp.float32)


def _identity(shape, dtype):
    return jnp.eye(shape[0], dtype=dtype)


def _square(p, axis: int, largest: int, make):
    """The matrix of an axis, or None for one that is not turned."""
    size = p.shape[axis]
    is_vector = size == p.size
    return make((size, size), _dtype(p)) if not is_vector and 1 < size <= largest else None


def _update(grad, mean, square, factors, bases, count, b1, b2, eps, every):
    """One parameter: its step, and the new state."""
    g = grad.astype(mean.dtype)
    first = count == 0
    turned = _turn(g, bases)
    # The first gradient makes no step, so that both means begin with the second.
    mean = jnp.where(first, mean, b1 * mean + (1 - b1) * g)
    square = jnp.where(first, square, b2 * square + (1 - b2) * turned**2)
    steps = jnp.maximum(count, 1).astype(mean.dtype)
    unbiased, scale = _turn(mean, bases) / (1 - b1**steps), jnp.sqrt(square / (1 - b2**steps))
    step = jnp.where(first, 0.0, _turn(unbiased / (scale + eps), bases, back=True))
    kept = jnp.where(first, 0.0, b2)
    factors = [None if f is None else kept * f + (1 - kept) * _outer(g, axis) for axis, f in enumerate(factors)]
    if any(f is not None for f in factors):
        square, bases = lax.switch(
            jnp.where(first, 0, jnp.where(count % every == 0, 1, 2)),
            [_first_bases, _next_bases, lambda square, _, bases: (square, bases)],
            square,
            factors,
            bases,
        )
    return step.astype(grad.dtype), mean, square, factors, bases


def _outer(g, axis: int):
    """G G^T along one axis, summed over the others."""
    flat = jnp.moveaxis(g, axis, 0).reshape(g.shape[axis], -1)
    return flat @ flat.T


def _turn(g, bases, back: bool = False):
    """The components along the eigenvectors of each axis, or back from there."""
    for axis, basis in enumerate(bases):
        if basis is not None:
            g = jnp.moveaxis(jnp.tensordot(basis, g, axes=(1 if back else 0, axis)), 0, axis)
    return g


def _first_bases(square, factors, bases):
    del bases
    return square, [None if f is None else jnp.linalg.eigh(f)[1][:, ::-1] for f in factors]


def _next_bases(square, factors, bases):
    """One step of orthogonal iteration. Eigenvectors are sorted first, which keeps them apart; the mean of squares is
    sorted with them.
    """
    out = []
    for axis, (factor, basis) in enumerate(zip(factors, bases)):
        if factor is not None:
            order = jnp.argsort(-jnp.sum(basis * (factor @ basis), axis=0))
            square, basis = jnp.take(square, order, axis=axis), basis[:, order]
            basis = jnp.linalg.qr(factor @ basis)[0]
        out.append(basis)
    return square, out
