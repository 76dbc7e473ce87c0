"""Boundary values of fields, satisfied by construction."""

from collections.abc import Callable, Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._axes import Axis, Periodic, as_axes


class Vanishing(eqx.Module):
    """A model whose output is zero at the ends of its axes: see `vanishing`."""

    model: Callable
    axes: tuple[Axis, ...]

    def __call__(self, *arguments: Array) -> Float[Array, "channels *grid"]:
        """The output of one sample."""
        out = self.model(*arguments)
        if out.ndim != len(self.axes) + 1:
            raise ValueError(f"vanishing: expected (channels, {len(self.axes)} dimensions), got {out.shape}")
        for dim, axis in enumerate(self.axes):
            if not isinstance(axis, Periodic):
                x = axis.coordinates(out.shape[dim + 1])
                shape = np.ones(out.ndim, int)
                shape[dim + 1] = -1
                out = out * jnp.asarray((4 * x * (1 - x)).reshape(shape), out.dtype)
        return out


def vanishing(model: Callable, axes: Axis | Sequence[Axis]) -> Vanishing:
    """The model times 4 x (1 - x) for each axis that is not periodic, so that homogeneous Dirichlet conditions hold
    exactly, on grids that have the ends and on those that do not (Lagaris, Likas & Fotiadis, IEEE Trans. Neural
    Networks 9, 1998). `axes` is one for each dimension. Raises ValueError for an output of other dimensions.
    """
    return Vanishing(model, as_axes(axes, 1) if isinstance(axes, Axis) else tuple(axes))
