"""Equivariant features of neighbours, coupled to the harmonics of the edges and summed: in NequIP, MACE."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._harmonics import block, coupling
from ._layers import Linear
from ._structure import Structure, to_neighbours


class Messages(eqx.Module):
    """Features (n, m, f) that each atom gets, m by harmonic up to degree `out`, from those of its neighbours by
    `paths`; `neighbours` is how many an atom has on average: the sum is divided by its root. Filters are functions of
    the basis with a hidden layer, or linear.
    """

    sender: Linear
    filters: tuple[Linear, ...]
    mixings: list[Linear]
    paths: tuple[tuple[int, int, int], ...] = eqx.field(static=True)
    neighbours: float = eqx.field(static=True)

    def __init__(
        self,
        width: int,
        radial: int,
        paths: Sequence[tuple[int, int, int]],
        out: int,
        neighbours: float,
        *,
        linear: bool = False,
        key: Array,
    ):
        keys = jax.random.split(key, 4 + out)
        self.sender = Linear(width, width, bias=False, key=keys[0])
        # Without biases the filters are 0 where the basis is.
        sizes = [radial, *([] if linear else [width]), len(paths) * width]
        self.filters = tuple(Linear(i, o, bias=False, key=k) for i, o, k in zip(sizes, sizes[1:], keys[1:]))
        if linear:
            # To variance 1 / radial, whatever the number of paths.
            scale = ((sizes[0] + sizes[1]) / (2 * sizes[0])) ** 0.5
            self.filters = jax.tree.map(lambda w: scale * w, self.filters)
        self.mixings = [Linear(width, width, bias=False, key=k) for k in keys[3:]]
        self.paths, self.neighbours = tuple(paths), neighbours

    def __call__(
        self,
        structure: Structure,
        x: Float[Array, "n m f"],
        basis: Float[Array, "n k b"],
        around: Float[Array, "n k h"],
    ) -> Float[Array, "n o f"]:
        n, k, _ = basis.shape
        weights = self.filters[0](basis)
        for last in self.filters[1:]:
            weights = last(jax.nn.silu(weights))
        weights = weights.reshape(n, k, len(self.paths), -1)
        arriving = to_neighbours(structure, self.sender(x))
        sums = [jnp.zeros((n, 2 * c + 1, x.shape[-1]), x.dtype) for c in range(len(self.mixings))]
        for p, (a, b, c) in enumerate(self.paths):
            turned = jnp.einsum("nkj,ijo->nkio", around[..., block(b)], coupling(a, b, c).astype(x.dtype))
            sums[c] += jnp.einsum("nkif,nkio,nkf->nof", arriving[:, :, block(a)], turned, weights[:, :, p])
        mixed = [mixing(s) / self.neighbours**0.5 for mixing, s in zip(self.mixings, sums)]
        return jnp.concatenate(mixed, axis=1)
