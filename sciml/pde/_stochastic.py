"""The Laplacian in a hundred dimensions and more, estimated along a few random directions.

The Laplacian is the trace of the Hessian H, and the mean of v^T H v over random v with E[v v^T] = I. A sum over B
directions costs B + 2 numbers per operation of the network instead of d + 2: one sweep of second-order Taylor mode in
the coordinates s of u(x + V s). Directions along axes, drawn without replacement, are those of SDGD (Hu, Shukla,
Karniadakis & Kawaguchi, Neural Networks 176, 2024) and STDE (Shi, Hu, Lin & Kawaguchi, NeurIPS 2024); random signs
those of Hutchinson's trace estimator and HTE (Hu, Shi, Karniadakis & Kawaguchi, CMAME 424, 2024).
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._fit import Stream, _Function
from .._loss import Groups, mean_squares
from ._derivatives import Laplacian, Partial, derivatives
from ._names import INTERIOR, Derivative, space

# Directions of one sweep.
AT_ONCE = 24


class Directed(eqx.Module):
    """Points, and for each the directions along which Laplacians are estimated, over the axes that are not time."""

    points: Float[Array, "n d"]
    directions: Float[Array, "n b k"]


def derivatives_along(
    function: Callable, point: Float[Array, " d"], partials: Iterable[Partial], directions: Float[Array, "b k"] | None
) -> dict[Partial, Array]:
    """As `derivatives`, where a Laplacian over k axes is the sum of v^T H v over the directions v, if there are any."""
    partials = tuple(partials)
    over = next((p for p in partials if isinstance(p, Laplacian)), None)
    if over is None or (directions is None and len(over) <= AT_ONCE):
        return derivatives(function, point, partials)
    d, directions = len(point), jnp.eye(len(over)) if directions is None else directions
    along = jnp.zeros((len(directions), d), point.dtype).at[:, jnp.array(over)].set(directions.astype(point.dtype))

    def sweep(along, wanted):
        estimate = Laplacian(range(d, d + len(along)))
        swapped = {p: estimate if p == over else p for p in wanted}
        start = jnp.zeros(d + len(along), point.dtype)
        found = derivatives(lambda shift: function(point + shift[:d] + shift[d:] @ along), start, swapped.values())
        return {p: found[q] for p, q in swapped.items()}

    if len(along) <= AT_ONCE:
        return sweep(along, partials)
    # Each direction is a series of its own to the compiler: many of them go in groups, one program for all.
    groups = jnp.pad(along, ((0, -len(along) % AT_ONCE), (0, 0))).reshape(-1, AT_ONCE, d)
    parts = jax.vmap(lambda group: sweep(group, (over,))[over])(groups)
    return derivatives(function, point, [p for p in partials if p != over]) | {over: jnp.sum(parts, axis=0)}


def axis_directions(key: Array, count: int, dimensions: int) -> Float[Array, "count dimensions"]:
    """`count` different axes, each direction of length sqrt(dimensions / count).

    The estimate is exact where all second derivatives are equal, and with all axes. Raises ValueError for more
    directions than axes.
    """
    if count > dimensions:
        raise ValueError(
            f"axis_directions: {count} directions of {dimensions} axes; at most {dimensions} can be drawn without "
            "replacement, where the Laplacian is exact"
        )
    chosen = jax.random.choice(key, dimensions, (count,), replace=False)
    return (dimensions / count) ** 0.5 * jax.nn.one_hot(chosen, dimensions, dtype=jnp.result_type(float))


def rademacher_directions(key: Array, count: int, dimensions: int) -> Float[Array, "count dimensions"]:
    """`count` vectors of random signs, of length sqrt(dimensions / count).

    The estimate is exact where there are no mixed second derivatives; its variance is 2 / count times the sum of
    their squares.
    """
    return jax.random.rademacher(key, (count, dimensions), jnp.result_type(float)) / count**0.5


class DirectedStream(Stream):
    """A stream whose interior points carry random directions."""

    data: Stream
    draw: Callable
    count: int
    sets: int
    dimensions: int
    every: int

    def init(self, key: Array, model: Any) -> Groups:
        """The first points and their directions."""
        return self._directed(key, self.data.init(key, model))

    def next(self, key: Array, step: Array, model: Any, batch: Groups) -> tuple[Groups, Array]:
        """The next points; new directions for them at each `every`-th step, and for points that are new."""
        plain = Groups(dict(batch) | {INTERIOR: batch[INTERIOR].points})
        points, fresh = self.data.next(key, step, model, plain)
        due = fresh | (step % self.every == 0)
        kept = Groups(dict(points) | {INTERIOR: Directed(points[INTERIOR], batch[INTERIOR].directions)})
        return jax.lax.cond(due & (step > 0), lambda: self._directed(key, points), lambda: kept), due

    def _directed(self, key, batch) -> Groups:
        points = _interior(batch)
        keys = jax.random.split(jax.random.fold_in(key, 1), (len(points), self.sets))
        drawn = jax.vmap(jax.vmap(lambda k: self.draw(k, self.count, self.dimensions)))(keys)
        directions = drawn.reshape(len(points), self.sets * self.count, self.dimensions).astype(points.dtype)
        return Groups(dict(batch) | {INTERIOR: Directed(points, directions)})


def stochastic_laplacian(
    pde: Any,
    data: Callable | Stream,
    directions: int = 16,
    *,
    draw: Callable = axis_directions,
    every: int = 1,
    unbiased: bool = False,
    loss: Callable | None = None,
) -> tuple[Callable, DirectedStream]:
    """The loss and the data of `pde`, where `laplacian_u` in its equations is estimated along random directions.

    **Arguments:** `data` is a stream of points, such as `pde.points(100)` or `adaptive(pde)`. Each interior point
    gets `directions` of its own, new at each `every`-th step; `draw(key, directions, dimensions)` makes them:
    `axis_directions`, `rademacher_directions`, or a function whose vectors v satisfy E[sum v v^T] = I. `loss` is by
    default `pde.residuals`; one that is made of it (`weighted`, ...) may be given.

    The residual of an equation that is affine in the Laplacian has no bias, but its square has: the mean square is
    larger by the variance of the estimate, which training then makes small too. That is harmless where the variance
    vanishes with the residual or is small beside it, and not where the second derivatives differ much from axis to axis
    (`axis_directions`) or the mixed ones are large (`rademacher_directions`). `unbiased=True` takes two independent
    sets of `directions` per point and minimises the mean of the product of the two residuals (Hu et al., CMAME 424,
    2024), whose expectation is the exact loss. It costs twice as much, may be negative and is a scalar: no
    method that needs residuals (Gauss-Newton, weights by term) works on it.

    With `every=1` each step has an objective of its own: use Adam, SOAP or another first-order method. Line searches
    and weights of single residuals (`attention_weights`, `self_adaptive_weights`) need directions that stay for some
    steps; weights of whole terms do not. Apply those functions to the loss and data that this one returns. Points that
    follow the residual (`adaptive`, ...) evaluate the exact one at their pool, each time that they are redrawn.

    Raises ValueError where no equation asks for the Laplacian of a field, for numbers below 1 and more directions than
    axes (`axis_directions`); TypeError for data that is neither a function of a key nor a `Stream`.
    """
    dimensions = len(space(pde.axes))
    _check(pde, directions, every, data)
    drawn = jax.eval_shape(lambda key: draw(key, directions, dimensions), jax.random.key(0))
    if drawn.shape != (directions, dimensions):
        raise ValueError(
            f"stochastic_laplacian: draw must return an array of shape ({directions}, {dimensions}), got {drawn.shape}"
        )
    stream = data if isinstance(data, Stream) else _Function(data)
    directed = DirectedStream(stream, draw, directions, 2 if unbiased else 1, dimensions, every)
    plain: Callable = pde.residuals if loss is None else loss
    return (_product(plain, directions) if unbiased else plain), directed


def _product(loss: Callable, count: int) -> Callable:
    """The mean squares of conditions, and for equations the mean products of residuals along two sets of directions."""

    def unbiased(model, batch) -> Float[Array, ""]:
        points = batch[INTERIOR].points
        first, second = (Directed(points, batch[INTERIOR].directions[:, i : i + count]) for i in (0, count))
        one = loss(model, Groups(dict(batch) | {INTERIOR: first}))
        two = loss(model, Groups({INTERIOR: second}))
        conditions = {name: r for name, r in one.items() if name not in two}
        squares = mean_squares(conditions) if conditions else {}
        return sum((jnp.mean(one[name] * r) for name, r in two.items()), start=sum(squares.values(), jnp.zeros(())))

    return unbiased


def _interior(batch) -> Array:
    if not isinstance(batch, Mapping) or not hasattr(batch.get(INTERIOR), "shape"):
        raise TypeError(
            "stochastic_laplacian: expected batches of points such as those of pde.points(n) or adaptive(pde); apply "
            "functions of weights to what stochastic_laplacian returns"
        )
    return batch[INTERIOR]


def _check(pde, directions: int, every: int, data) -> None:
    meanings = [m for term in pde.groups[INTERIOR].terms for m in term.meanings.values()]
    if not any(isinstance(m, Derivative) and m.of in pde.fields and isinstance(m.partial, Laplacian) for m in meanings):
        raise ValueError(
            f"stochastic_laplacian: no equation asks for a Laplacian; write it as 'laplacian_{pde.fields[0]}' instead "
            "of a sum of second derivatives"
        )
    if directions < 1 or every < 1:
        raise ValueError(f"stochastic_laplacian: directions and every must be above 0, got {directions} and {every}")
    if not isinstance(data, Stream) and not callable(data):
        raise TypeError(
            f"stochastic_laplacian: data must be a function key -> batch or a Stream, such as pde.points(n); got "
            f"{type(data).__name__}"
        )
