"""Residuals of a batch and products with their Jacobian, a chunk of examples at a time."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from .._loss import Groups

# Chunks beyond this many bytes are no faster, and on CPUs slower, as they leave the cache.
CHUNK = 64e6
# What a chunk takes at its peak, in units of its rows and of what differentiation keeps (measured on PINNs).
PEAK = 3


class Part(NamedTuple):
    """One group of a batch, its arrays as (chunks, size, ...); `real` is 1 for examples and 0 for what pads the last
    chunk.
    """

    examples: Any
    real: Array
    number: int  # of examples
    rows: int  # residuals of one example


@dataclass(frozen=True)
class Residuals:
    """The residuals r of a batch at the parameters `flat`, scaled so that r^T r is the sum of their mean squares, and
    products with their Jacobian J, of shape (residuals, parameters).

    `function` is (parameters, batch) -> residuals by name, in which the rows of one example depend on that example
    only; a `Groups` batch holds a set of examples per name. Temporary arrays stay below half of `memory` bytes, or are
    those of one example.

    Raises ValueError for a batch whose arrays have no first axis in common, or no examples.
    """

    function: Callable
    flat: Float[Array, " p"]
    batch: Any
    memory: float

    @property
    def number(self) -> int:
        """How many residuals there are."""
        return sum(part.number * part.rows for part in self.parts)

    @cached_property
    def parts(self) -> list[Part]:
        """The groups in chunks as large as products with vectors allow."""
        return [_part(self, group, with_rows=False) for group in _groups(self.batch)]

    @cached_property
    def parts_with_rows(self) -> list[Part]:
        """The groups in smaller chunks, whose rows of J are held at once."""
        return [_part(self, group, with_rows=True) for group in _groups(self.batch)]

    def value(self, flat: Float[Array, " p"]) -> Float[Array, ""]:
        """r^T r at other parameters."""

        def add(total, part, examples, real):
            return total + jnp.sum(_chunk(self, part, flat, examples, real) ** 2)

        return _fold(add, jnp.zeros((), flat.dtype), self.parts)

    def value_and_gradient(self) -> tuple[Float[Array, ""], Float[Array, " p"]]:
        """r^T r and J^T r."""

        def add(total, part, examples, real):
            r, pullback = jax.vjp(lambda p: _chunk(self, part, p, examples, real), self.flat)
            return total[0] + jnp.sum(r**2), total[1] + pullback(r)[0]

        return _fold(add, (jnp.zeros((), self.flat.dtype), jnp.zeros_like(self.flat)), self.parts)

    def gram(self, vector: Float[Array, " p"]) -> Float[Array, " p"]:
        """J^T J v, without rows of J."""

        def add(total, part, examples, real):
            _, push = jax.linearize(lambda p: _chunk(self, part, p, examples, real), self.flat)
            return total + jax.linear_transpose(push, vector)(push(vector))[0]

        return _fold(add, jnp.zeros_like(vector), self.parts)

    def bend(self, step: Float[Array, " p"]) -> Float[Array, " p"]:
        """J^T r''(s, s), where r'' is the second derivative along a step s."""

        def add(total, part, examples, real):
            def r(flat):
                return _chunk(self, part, flat, examples, real)

            return total + jax.vjp(r, self.flat)[1](_second(r, self.flat, step))[0]

        return _fold(add, jnp.zeros_like(step), self.parts)

    def bend_rows(self, step: Float[Array, " p"]) -> Float[Array, " n"]:
        """r''(s, s), in the order of `rows`."""

        def second(part, chunk):
            return _second(lambda flat: _chunk(self, part, flat, *chunk), self.flat, step)

        parts = self.parts_with_rows
        found = [lax.map(lambda c, p=part: second(p, c), (part.examples, part.real)) for part in parts]
        return jnp.concatenate([r.reshape(-1) for r in found])

    def fold_rows(self, step: Callable, start: Any) -> Any:
        """Goes through J and r by chunks: `start = step(start, rows, residuals)`. Rows of zeros may be among them."""
        return _fold(lambda total, *chunk: step(total, *_rows(self, *chunk)), start, self.parts_with_rows)

    def rows(self) -> tuple[Float[Array, "n p"], Float[Array, " n"]]:
        """The whole of J, and r; rows of zeros may be among them."""
        found = []
        for part in self.parts_with_rows:
            jacobian, r = lax.map(lambda chunk, part=part: _rows(self, part, *chunk), (part.examples, part.real))
            found.append((jacobian.reshape(-1, self.flat.size), r.reshape(-1)))
        if len(found) == 1:
            return found[0]
        return jnp.concatenate([jacobian for jacobian, _ in found]), jnp.concatenate([r for _, r in found])


def normal_equations(
    residual_fn: Callable, flat: Float[Array, " p"], batch: Any, memory: float = 2e9
) -> tuple[Float[Array, "p p"], Float[Array, " p"], Float[Array, ""]]:
    """`J^T J`, `J^T r` and `r^T r` of the residuals, scaled so that the last is the sum of their mean squares; see
    `gauss_newton` for `residual_fn`, `batch` and `memory`.
    """
    return gram_matrix(Residuals(residual_fn, flat, batch, memory))


def gram_matrix(problem: Residuals) -> tuple[Float[Array, "p p"], Float[Array, " p"], Float[Array, ""]]:
    """`J^T J`, `J^T r` and `r^T r`."""
    flat = problem.flat

    def add(total, jacobian, r):
        matrix, gradient, value = total
        return matrix + jacobian.T @ jacobian, gradient + jacobian.T @ r, value + jnp.vdot(r, r)

    start = (jnp.zeros((flat.size, flat.size), flat.dtype), jnp.zeros_like(flat), jnp.zeros((), flat.dtype))
    return problem.fold_rows(add, start)


def _groups(batch: Any) -> list:
    return [Groups({name: part}) for name, part in batch.items()] if isinstance(batch, Groups) else [batch]


def _part(problem: Residuals, group: Any, *, with_rows: bool) -> Part:
    shapes = {jnp.shape(a)[:1] for a in jax.tree.leaves(group)}
    if len(shapes) != 1 or shapes & {(), (0,)}:
        raise ValueError(
            "Gauss-Newton takes residuals by example: expected a batch of arrays with one first axis in common, of at "
            f"least one example, got {sorted(jnp.shape(a) for a in jax.tree.leaves(group))}"
        )
    number = shapes.pop()[0]
    rows, kept = _sizes_of_one(problem, group)
    numbers = kept + rows * problem.flat.size if with_rows else kept
    size = min(problem.memory / 2, CHUNK) // (PEAK * numbers * problem.flat.dtype.itemsize)
    chunks = -(-number // int(max(1, min(size, number))))
    size = -(-number // chunks)

    def cut(a):
        # Every so many examples make a chunk, so that a batch that is spread over devices stays so.
        return jnp.moveaxis(a.reshape(size, chunks, *a.shape[1:]), 1, 0)

    if (padded := chunks * size) > number:
        group = jax.tree.map(lambda a: a[jnp.arange(padded) % number], group)
    real = (jnp.arange(padded) < number).astype(problem.flat.dtype)
    return Part(jax.tree.map(cut, group), cut(real), number, rows)


def _sizes_of_one(problem: Residuals, group: Any) -> tuple[int, int]:
    """How many residuals an example has, and how many numbers differentiation keeps of it."""

    def pull(flat, group):
        example = jax.tree.map(lambda a: a[0], group)
        return jax.vjp(lambda p: _one(problem, 1, p, example), flat)

    r, pullback = jax.eval_shape(pull, problem.flat, group)
    # The parameters are among what is kept, once for all examples.
    kept = sum(a.size for a in jax.tree.leaves(pullback)) - problem.flat.size
    return r.size, max(kept, r.size)


def _one(problem: Residuals, number: int, flat, example):
    terms = problem.function(flat, jax.tree.map(lambda a: a[None], example))
    scaled = [jnp.ravel(r) / jnp.sqrt(r.size * number).astype(r.dtype) for r in terms.values()]
    return jnp.concatenate(scaled).astype(flat.dtype)


def _chunk(problem: Residuals, part: Part, flat, examples, real):
    """The residuals of a chunk, (size, rows)."""
    r = jax.vmap(lambda example: _one(problem, part.number, flat, example))(examples)
    return r * real[:, None]


def _second(function, flat, step):
    return jax.jvp(lambda p: jax.jvp(function, (p,), (step,))[1], (flat,), (step,))[1]


def _rows(problem: Residuals, part: Part, examples, real):
    """The rows of J and the residuals of a chunk."""
    flat = problem.flat

    def backward(example):
        r, pullback = jax.vjp(lambda p: _one(problem, part.number, p, example), flat)
        return jax.vmap(lambda v: pullback(v)[0])(jnp.eye(r.size, dtype=r.dtype)), r

    def forward(example):
        r, push = jax.linearize(lambda p: _one(problem, part.number, p, example), flat)
        return jax.vmap(push, out_axes=1)(jnp.eye(flat.size, dtype=flat.dtype)), r

    if part.rows <= flat.size:
        jacobian, r = jax.vmap(backward)(examples)
    else:
        jacobian, r = forward_or_backward(lambda: jax.vmap(forward)(examples), lambda: jax.vmap(backward)(examples))
    jacobian, r = jacobian * real[:, None, None], r * real[:, None]
    return jacobian.reshape(-1, flat.size), r.reshape(-1)


def forward_or_backward(forward: Callable, backward: Callable) -> Any:
    """`forward()`, or `backward()` where a function has derivatives in reverse mode only, such as the solution of an
    equation whose steps are recomputed.
    """
    try:
        return forward()
    except TypeError as error:
        if "custom_vjp" not in str(error):
            raise
        return backward()


def _fold(step, start, parts: list[Part]):
    for part in parts:
        if part.real.shape[0] == 1:
            start = step(start, part, *jax.tree.map(lambda a: a[0], (part.examples, part.real)))
        else:
            body = lambda total, chunk, part=part: (step(total, part, *chunk), None)  # noqa: E731
            start, _ = lax.scan(body, start, (part.examples, part.real))
    return start
