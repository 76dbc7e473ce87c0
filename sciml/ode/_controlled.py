"""Neural controlled differential equations: a series that was measured irregularly and in part drives the state."""

from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..nn import mlp
from ..nn._layers import require_positive
from ._models import ODE
from ._steps import AbstractSteps, Steps
from ._trajectories import Trajectories, lengths


class Path(eqx.Module):
    """A measured series as a smooth function of time to a vector (c,): first the time itself, then its columns.

    `controlled` makes it. In a batch of series its arrays have one more axis in front.
    """

    ts: Float[Array, "*k n"]
    coefficients: tuple[Float[Array, "*k intervals m"], ...]
    end: Float[Array, "*k"]

    def __call__(self, t: Any) -> Float[Array, " c"]:
        t = jnp.asarray(t, self.ts.dtype)
        values = self._spline.evaluate(jnp.clip(t, self.ts[0], self.end))
        return jnp.concatenate([t[None], values])

    def derivative(self, t: Any) -> Float[Array, " c"]:
        """The derivative by time. Outside of the measured times only time goes on."""
        t = jnp.asarray(t, self.ts.dtype)
        inside = (t >= self.ts[0]) & (t <= self.end)
        slopes = self._spline.derivative(jnp.clip(t, self.ts[0], self.end))
        return jnp.concatenate([jnp.ones(1, slopes.dtype), jnp.where(inside, slopes, 0)])

    @property
    def _spline(self):
        d, c, b, a = self.coefficients
        return diffrax.CubicInterpolation(self.ts, (d, c, b, a))


def controlled(series: Trajectories, targets: Any = None, *, static: Any = None, counts: bool = False) -> Trajectories:
    """Measured series as inputs of a model: `Trajectories` whose `args` are a `Path` for each, from cubic Hermite
    splines with backward differences (Morrill et al., Neural controlled differential equations for online prediction
    tasks, arXiv 2106.11028, section 3.2), which a value enters only at the interval that ends with it.

    - `series`: k of them, of different lengths and with missing values (NaN), as `trajectories` makes them. A missing
      value is interpolated between its neighbours in the same column; before the first one of a column it is that one,
      after the last one that, and 0 where a column of a series has none.
    - `targets`: what the model should give: (k, m) at the last measured time, such as a class, or (k, n, m) at all
      times of the series, with NaN where it is not known; None to predict only.
    - `static`: numbers (k, s) that do not depend on time, given to the model as `y0`.
    - `counts`: also how often each column was measured until then, as further columns (Kidger et al., arXiv 2005.08926,
      section 3), so that the model sees that a value is missing.

    Columns and times should have a size near one. Raises ValueError for series of a single time, times that do not
    increase up to the last measured one, targets of another shape and static numbers that are not finite.
    """
    ts, values, found = np.asarray(series.ts, float), np.asarray(series.ys, float), lengths(series)
    count, n = ts.shape
    if n < 2:
        raise ValueError("controlled: expected series of two times or more")
    static = np.zeros((count, 0)) if static is None else np.asarray(static, float)
    if static.ndim != 2 or len(static) != count or not np.isfinite(static).all():
        raise ValueError(f"controlled: expected finite static numbers ({count}, s), got shape {static.shape}")
    knots = np.stack([_increasing(i, times, int(last)) for i, (times, last) in enumerate(zip(ts, found))])
    if counts:
        values = np.concatenate([values, np.cumsum(np.isfinite(values), axis=1)], axis=2)
    knots = jnp.asarray(knots)
    coefficients = jax.vmap(diffrax.backward_hermite_coefficients)(knots, jnp.asarray(_with_ends(values)))
    end = ts[np.arange(count), found - 1]
    times, ys = _targets(targets, ts, end)
    return Trajectories(static, times, Path(knots, coefficients, jnp.asarray(end)), ys)


def _increasing(i: int, ts: np.ndarray, count: int) -> np.ndarray:
    """The measured times, and later ones for the padding, which increase too."""
    if (np.diff(ts[:count]) <= 0).any():
        raise ValueError(
            f"controlled: the times of series {i} must increase; put what was measured at one time together"
        )
    return np.concatenate([ts[:count], ts[count - 1] + np.arange(1.0, len(ts) - count + 1)])


def _with_ends(values: np.ndarray) -> np.ndarray:
    """With the first and the last measured value of each column before and after them, and 0 in columns without any."""
    known: Any = np.isfinite(values)
    rows = np.arange(values.shape[1])[None, :, None]
    first = np.argmax(known, axis=1)[:, None]
    last = values.shape[1] - 1 - np.argmax(known[:, ::-1], axis=1)[:, None]
    values = np.where(rows < first, np.take_along_axis(values, first, axis=1), values)
    values = np.where(rows > last, np.take_along_axis(values, last, axis=1), values)
    return np.where(known.any(axis=1, keepdims=True), values, 0)


def _targets(targets: Any, ts: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if targets is None:
        return ts, np.full((*ts.shape, 1), np.nan)
    targets = np.asarray(targets, float)
    if targets.ndim == 2 and len(targets) == len(ts):
        return np.stack([ts[:, 0], end], axis=1), np.stack([np.full_like(targets, np.nan), targets], axis=1)
    if targets.ndim != 3 or targets.shape[:2] != ts.shape:
        raise ValueError(
            f"controlled: expected targets ({len(ts)}, m) or ({ts.shape[0]}, {ts.shape[1]}, m) of the series, got "
            f"{targets.shape}"
        )
    return ts, targets


class Controlled(eqx.Module):
    """The right-hand side `F(z) dx/dt` of a state z (h,), for a path `args = x` of c columns with the time as the
    first. `network` gives F, of shape (h, c) or (h c,).
    """

    network: Callable

    def __call__(self, t: Any, z: Float[Array, " h"], args: Any) -> Float[Array, " h"]:
        slopes = _path(args).derivative(t)
        matrix = jnp.asarray(self.network(z))
        if matrix.size != z.size * slopes.size:
            raise ValueError(
                f"the path has {slopes.size} columns with the time, so that {z.size} states need a network with "
                f"{z.size * slopes.size} numbers, it has {matrix.size}"
            )
        return (matrix.reshape(z.size, slopes.size) @ slopes).astype(z.dtype)


def _path(args: Any) -> Path:
    if not isinstance(args, Path):
        raise TypeError(f"expected args to be a path, as sciml.ode.controlled makes, got {type(args).__name__}")
    return args


class CDE(eqx.Module):
    """A controlled differential equation with a read-out, `(static, ts, path) -> ys` (Kidger, Morrill, Foster & Lyons,
    Neural controlled differential equations for irregular time series, arXiv 2005.08926, equation 3):

        z(t_0) = initial(x(t_0), static),  dz = field(z) dx,  y(t) = readout(z(t))

    - `initial`: (c + s,) -> (h,), of the first values of the path, with time, and static numbers (s,).
    - `equation`: the `ODE` of a `Controlled` right-hand side.
    - `readout`: (h,) -> (m,).

    `ts` (n,) do not decrease, and none is before the first one of the path; later than its last one the path is held,
    which makes a forecast. Where the solution failed `ys` (n, m) are NaN from there on, and no gradient is.
    """

    initial: Callable
    equation: ODE
    readout: Callable

    def __call__(self, y0: Any, ts: Any, args: Any) -> Float[Array, "n m"]:
        path, ts = _path(args), jnp.asarray(ts)
        # The state begins with the path, also where outputs are asked for later.
        since = jnp.concatenate([path.ts[:1], ts])
        begin = path(since[0])
        zs = self.equation(self.initial(jnp.concatenate([begin, jnp.asarray(y0, begin.dtype)])), since, path)[1:]
        reached = jnp.all(jnp.isfinite(zs), axis=1, keepdims=True)
        return jnp.where(reached, jax.vmap(self.readout)(jnp.where(reached, zs, 0)), jnp.nan)


def neural_cde(
    inputs: int,
    outputs: int,
    hidden: int = 8,
    width: int = 32,
    depth: int = 1,
    activation: Callable = jax.nn.softplus,
    *,
    static: int = 0,
    steps: AbstractSteps | None = None,
    key: Array,
) -> CDE:
    """A neural controlled differential equation of `hidden` states, for series of `inputs` columns (twice as many with
    `counts`; time is added to them) and `outputs` numbers, a linear function of the state. The right-hand side is a
    multilayer perceptron with `depth` hidden layers of `width` units and a tanh at its end, as the source's; the
    initial state one of the first values and of `static` numbers.

        data = ode.controlled(series, labels)
        model = ode.neural_cde(2, 1, key=key)
        model, history = sciml.fit(model, ode.trajectory_misfit(), lambda key: data, optax.adam(1e-2), steps=300)
    """
    require_positive("neural_cde", inputs=inputs, outputs=outputs, hidden=hidden, width=width, depth=depth)
    first, middle, last = jax.random.split(key, 3)
    network = mlp(hidden, hidden * (inputs + 1), width, depth, activation, key=middle)
    bounded = eqx.nn.Sequential([network, eqx.nn.Lambda(jnp.tanh)])
    return CDE(
        mlp(inputs + 1 + static, hidden, width, 1, activation, key=first),
        ODE(Controlled(bounded), Steps() if steps is None else steps),
        eqx.nn.Linear(hidden, outputs, key=last),
    )
