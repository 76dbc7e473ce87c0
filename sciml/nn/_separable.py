"""Separable networks: sums of products of functions of one coordinate each, cheap on tensor grids."""

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._layers import require_positive
from ._mlp import mlp


class Separable(eqx.Module):
    """`(number of axes,) -> (out_size,)`: the sum over r of f_1r(x_1) f_2r(x_2) ... (Cho et al., NeurIPS 2023, eq. 5).

    `factors` has a network for each axis, `(1,) -> (out_size * rank,)`, the numbers of the first output first: those
    that `separable` makes, or any others, such as `periodic_embedding` of a network for a periodic axis.
    """

    factors: tuple[Callable, ...]
    out_size: int = eqx.field(static=True)

    def __check_init__(self):
        require_positive("Separable", out_size=self.out_size, axes=len(self.factors))
        sizes = [_size(i, factor) for i, factor in enumerate(self.factors)]
        if len(set(sizes)) > 1 or sizes[0] % self.out_size:
            raise ValueError(
                f"Separable: each factor must give out_size * rank numbers, alike for all axes; they give {sizes}, and "
                f"out_size is {self.out_size}"
            )

    def __call__(self, x: Float[Array, " in_size"]) -> Float[Array, " out_size"]:
        if len(x) != len(self.factors):
            raise ValueError(f"Separable: expected one coordinate for each of {len(self.factors)} axes, got {len(x)}")
        product = self.factors[0](x[:1])
        for i, factor in enumerate(self.factors[1:], 1):
            product = product * factor(x[i : i + 1])
        return jnp.sum(product.reshape(self.out_size, -1), axis=1)

    def on_grid(self, *axes: Float[Array, " _"], partial: Sequence[int] = ()) -> Float[Array, "out_size ..."]:
        """The network, or a partial derivative of it, on a tensor grid: from coordinates `(n1,)`, `(n2,)`, ... along
        each axis the numbers `(out_size, n1, n2, ...)`.

        `partial` names the axes that it is taken along, as in `sciml.pde.derivatives`: `()` is the value, `(0,)` the
        first derivative along the first axis, `(1, 1)` the second along the second, `(0, 1)` a mixed one.

        A factor is evaluated at the points of its axis only, and differentiated there by forward mode; what is left is
        one matrix product with 2 * rank operations for each number of the grid. Numbers needed twice by several
        derivatives are computed once if all are taken within one `jax.jit`.
        """
        if len(axes) != len(self.factors):
            raise ValueError(f"on_grid: expected coordinates of {len(self.factors)} axes, got {len(axes)}")
        if any(a not in range(len(axes)) for a in partial):
            raise ValueError(f"on_grid: partial={tuple(partial)} names an axis outside of 0 to {len(axes) - 1}")
        values = [self._along(i, points, list(partial).count(i)) for i, points in enumerate(axes)]
        if len(values) == 1:
            return jnp.sum(values[0], axis=-1)
        half = (len(values) + 1) // 2
        grid = jnp.einsum("opr,oqr->opq", _products(values[:half]), _products(values[half:]))
        return grid.reshape(self.out_size, *(len(points) for points in axes))

    def _along(self, axis: int, points: Array, order: int) -> Array:
        """A factor's derivative of this order at the points of its axis, `(out_size, n, rank)`."""

        def function(s):
            return self.factors[axis](s[None])

        for _ in range(order):
            function = _derivative(function)
        values = jax.vmap(function)(points)
        return jnp.moveaxis(values.reshape(len(points), self.out_size, -1), 0, 1)


def separable(
    in_size: int,
    out_size: int,
    width: int = 20,
    depth: int = 3,
    activation: Callable = jnp.tanh,
    *,
    rank: int = 32,
    spread: float = 1.0,
    key: Array,
) -> Separable:
    """A separable network `(in_size,) -> (out_size,)` (SPINN: Cho, Nam, Yang, Yun, Hong & Park, NeurIPS 2023): the sum
    of `rank` products of functions of one input each, one `mlp` of `depth` hidden layers of `width` units for each
    input.

    The output layers are scaled so that the sum is of order one on [-1, 1]^in_size at the start, whatever the rank and
    the number of inputs. At a point it costs as much as `in_size` networks; on a tensor grid of n points along each
    axis, n evaluations of each of them and a matrix product: see `Separable.on_grid`. Numbers have JAX's default
    precision at the time of the call. Raises ValueError for a size below 1.
    """
    require_positive("separable", in_size=in_size, out_size=out_size, width=width, depth=depth, rank=rank)
    keys = jax.random.split(key, in_size)
    factors = [mlp(1, out_size * rank, width, depth, activation, spread=spread, key=k) for k in keys]
    return Separable(tuple(_scaled(f, rank ** (-0.5 / in_size)) for f in factors), out_size)


@eqx.filter_jit
def _scaled(factor: eqx.nn.MLP, size: float) -> eqx.nn.MLP:
    """The factor with its output layer scaled to this root mean square on [-1, 1]."""
    values = jax.vmap(factor)(jnp.linspace(-1.0, 1.0, 65)[:, None])
    last = factor.layers[-1]
    weight = last.weight * size / jnp.sqrt(jnp.mean(values**2))
    return eqx.tree_at(lambda n: n.layers[-1].weight, factor, weight)


def _size(axis: int, factor: Callable) -> int:
    point = jax.ShapeDtypeStruct((1,), jnp.result_type(float))
    try:
        return jax.eval_shape(factor, point).size
    except (TypeError, ValueError) as error:
        raise ValueError(f"Separable: the factor of axis {axis} does not take one coordinate: {error}") from error


def _derivative(function: Callable) -> Callable:
    return lambda s: jax.jvp(function, (s,), (jnp.ones_like(s),))[1]


def _products(values: list[Array]) -> Array:
    """All products of the points of some axes, in order: `(out_size, n1 * n2 * ..., rank)`."""
    result = values[0]
    for v in values[1:]:
        result = (result[:, :, None] * v[:, None]).reshape(result.shape[0], -1, result.shape[-1])
    return result
