"""An unknown parameter of an equation."""

from dataclasses import dataclass

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


@dataclass(frozen=True)
class Unknown:
    """A parameter to be found together with the solution: `PDE(..., nu=Unknown(0.01))`.

    `initial` is the first guess; its magnitude also sets the scale in which the parameter is trained (1 where
    it is zero). `positive=True` keeps the sign of the guess by training the logarithm.

    Raises ValueError for a guess that is not finite, or is zero and `positive`.
    """

    initial: float
    positive: bool = False

    def __post_init__(self):
        if not np.isfinite(self.initial):
            raise ValueError(f"Unknown: the first guess must be a finite number, got {self.initial}")
        if self.positive and self.initial <= 0:
            raise ValueError(f"Unknown: a positive parameter needs a first guess above 0, got {self.initial}")

    def trainable(self) -> "TrainableNumber":
        """The parameter as a part of a model."""
        scale = abs(self.initial) or 1.0
        start = 0.0 if self.positive else self.initial / scale
        return TrainableNumber(jnp.asarray(start, jnp.result_type(float)), float(scale), self.positive)


class TrainableNumber(eqx.Module):
    """A number in units of its first guess, or its logarithm."""

    raw: Float[Array, ""]
    scale: float = eqx.field(static=True)
    positive: bool = eqx.field(static=True)

    def __call__(self) -> Float[Array, ""]:
        return self.scale * (jnp.exp(self.raw) if self.positive else self.raw)
