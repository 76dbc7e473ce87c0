"""An unknown parameter of an equation."""

from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


@dataclass(frozen=True)
class Unknown:
    """A parameter to be found together with the solution: `PDE(..., nu=Unknown(0.01))`.

    `initial` is the first guess; its magnitude also sets the scale in which the parameter is trained (1 where
    it is zero). `positive=True` keeps the sign of the guess by training the logarithm; `between=(low, high)` keeps the
    parameter between these numbers by training the logit of its place there.

    Raises ValueError for a guess that is not finite, or is zero and `positive`, for bounds that are not finite or have
    the guess not between them, and for both kinds at once.
    """

    initial: float
    positive: bool = False
    between: tuple[float, float] | None = None

    def __post_init__(self):
        if not np.isfinite(self.initial):
            raise ValueError(f"Unknown: the first guess must be a finite number, got {self.initial}")
        if self.positive and self.initial <= 0:
            raise ValueError(f"Unknown: a positive parameter needs a first guess above 0, got {self.initial}")
        if self.between is None:
            return
        low, high = self.between
        if self.positive:
            raise ValueError("Unknown: give positive=True or between=(low, high), not both")
        if not (np.isfinite(low) and np.isfinite(high) and low < self.initial < high):
            raise ValueError(
                f"Unknown: between=(low, high) needs finite numbers with the first guess between them, got {low} and "
                f"{high} for {self.initial}"
            )

    def trainable(self) -> "TrainableNumber":
        """The parameter as a part of a model."""
        scale = abs(self.initial) or 1.0
        if self.between is not None:
            low, high = map(float, self.between)
            place = (self.initial - low) / (high - low)
            start = np.log(place / (1 - place))
            return TrainableNumber(jnp.asarray(start, jnp.result_type(float)), high - low, False, low)
        start = 0.0 if self.positive else self.initial / scale
        return TrainableNumber(jnp.asarray(start, jnp.result_type(float)), float(scale), self.positive)


class TrainableNumber(eqx.Module):
    """A number in units of its first guess, or its logarithm; with `low`, the logit of its place in an interval of
    length `scale` that begins there.
    """

    raw: Float[Array, ""]
    scale: float = eqx.field(static=True)
    positive: bool = eqx.field(static=True)
    low: float | None = eqx.field(static=True, default=None)

    def __call__(self) -> Float[Array, ""]:
        if self.low is not None:
            return self.low + self.scale * jax.nn.sigmoid(self.raw)
        return self.scale * (jnp.exp(self.raw) if self.positive else self.raw)

    def raw_of(self, value: float) -> Float[Array, ""]:
        """The `raw` with which the number is `value`. Raises ValueError for a value outside of its bounds."""
        if self.low is not None:
            place = (value - self.low) / self.scale
            found = np.log(place / (1 - place)) if 0 < place < 1 else np.nan
        elif self.positive:
            found = np.log(value / self.scale) if value > 0 else np.nan
        else:
            found = value / self.scale
        if not np.isfinite(found):
            raise ValueError(f"the parameter cannot be {value}: it is outside of its bounds")
        return jnp.asarray(found, self.raw.dtype)
