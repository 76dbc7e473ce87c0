"""Standard errors, prediction bands and profiles of what was found from trajectories.

The residuals are linearised in all trained numbers at the least squares: with their derivatives J, in units of the
noise, the covariance of the numbers is (J^T J)^-1 (Seber & Wild, Nonlinear Regression, 1989, section 2.1).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from ..nn import TrainableNumber
from ..optim._equations import forward_or_backward
from ..optim._newton import Equilibrated, minimise
from ._models import numbers_of, parameters

# What a chi-square of one degree of freedom exceeds with a probability of 5 %.
CRITICAL = 3.841458820694124
MOST = 2000


class Linearised(NamedTuple):
    """A model at its least squares: the factors of J, and the noise in units of the loss."""

    model: Any
    factored: Equilibrated
    noise: float

    def deviations(self, function: Callable) -> np.ndarray:
        """The standard deviation of what a function of the model gives, in its shape."""
        return self.evaluated(function)[1]

    def evaluated(self, function: Callable) -> tuple[np.ndarray, np.ndarray]:
        """What a function of the model gives, and its standard deviation."""
        value, gradients = map(np.asarray, _value_and_gradients(function, self.model))
        variances = self.factored.variances(gradients.astype(float).reshape(-1, self.factored.size))
        return value, self.noise * np.sqrt(variances).reshape(value.shape)


def linearised(model: Any, loss: Callable, batch: Any, noise: float | None = None) -> Linearised:
    """The covariance of a model that makes the squares of `loss` on `batch` least.

    - `loss`: residuals by name, one of them `misfit`, of which zeros without a derivative are values that are missing.
    - `noise`: the standard deviation of the noise in units of these; 1 where the loss is in units of the noise. By
      default it follows from what the model misses, which a loss with a prior cannot tell.

    Raises ValueError for models of more than 2,000 numbers, and without `noise` for fewer values than numbers.
    """
    vector, _ = ravel_pytree(eqx.filter(model, eqx.is_inexact_array))
    if vector.size > MOST:
        raise ValueError(f"linearised: at most {MOST} trained numbers are supported, the model has {vector.size}")
    residuals, columns, misfit = map(np.asarray, _rows(model, loss, batch))
    if noise is None:
        count = int(((columns[:misfit] != 0).any(axis=1) | (residuals[:misfit] != 0)).sum())
        if count <= vector.size:
            raise ValueError(
                f"linearised: {count} values cannot tell the noise from {vector.size} trained numbers; give noise="
            )
        noise = float(np.sqrt(np.sum(residuals[:misfit] ** 2) / (count - vector.size)))
    return Linearised(model, Equilibrated(columns.astype(float)), noise)


def standard_errors(at: Linearised) -> dict[str, float]:
    """Those of the unknown numbers of a model, by name."""
    found = at.deviations(lambda m: jnp.stack(list(parameters(m).values())))
    return dict(zip(parameters(at.model), found.tolist()))


def bands(at: Linearised, y0: Any, ts: Any, args: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """The states (n, d) that the model predicts for one trajectory, and their standard deviations: those of the
    solution, without the noise of a measurement.
    """
    return at.evaluated(lambda m: m(y0, ts, args))


class Profile(NamedTuple):
    """Values of a parameter, by how much the sum of squares over the noise's variance exceeds its least there with all
    other numbers at their best, and the interval of 95 % confidence. An end beyond the values is infinite.
    """

    values: np.ndarray
    rises: np.ndarray
    interval: tuple[float, float]


def profile(model: Any, loss: Callable, batch: Any, name: str, values: Any, noise: float | None = None) -> Profile:
    """The profile likelihood of the unknown number `name`, over increasing values around that of the model (Raue et
    al., Bioinformatics 25, 2009): a parameter that the data do not determine has a flat one.

    `loss`, `batch` and `noise` as in `linearised`; the model is that of the least squares. Raises ValueError for a name
    that the model does not have, values that do not increase around its value, and as `linearised`.
    """
    known = numbers_of(model)
    if name not in known:
        raise ValueError(f"profile: the model has no unknown '{name}'; it has {', '.join(known)}")
    values, best = np.asarray(values, float), float(known[name]())
    if values.ndim != 1 or len(values) < 2 or (np.diff(values) <= 0).any() or not values[0] < best < values[-1]:
        raise ValueError(f"profile: values of '{name}' must increase and lie on both sides of {best:.6g}")
    noise = linearised(model, loss, batch, noise).noise
    squares = _Squares(model, loss, batch, name)
    lowest = squares.at(best)
    rises = np.empty(len(values))
    # Outward from the best, each from where the one before ended.
    middle = int(np.searchsorted(values, best))
    for side in (range(middle - 1, -1, -1), range(middle, len(values))):
        squares.restart()
        for i in side:
            rises[i] = (squares.at(values[i]) - lowest) / noise**2
    return Profile(values, rises, _interval(values, rises, best))


def _interval(values: np.ndarray, rises: np.ndarray, best: float) -> tuple[float, float]:
    """Where the rise crosses the critical value, with its root linear between two values."""
    ends = []
    for inward in (-1, 1):
        side = values > best if inward == 1 else values < best
        v, r = values[side][::inward], np.sqrt(np.maximum(rises[side][::inward], 0))
        v, r = np.concatenate([[best], v]), np.concatenate([[0.0], r])
        over = np.flatnonzero(r >= np.sqrt(CRITICAL))
        if not len(over):
            ends.append(float(inward) * np.inf)
            continue
        i = int(over[0])
        share = (np.sqrt(CRITICAL) - r[i - 1]) / (r[i] - r[i - 1])
        ends.append(float(v[i - 1] + share * (v[i] - v[i - 1])))
    return ends[0], ends[1]


class _Squares:
    """The least sum of squares with one number fixed, by Gauss-Newton steps on the host."""

    def __init__(self, model, loss, batch, name: str):
        self._number = numbers_of(model)[name]
        place = lambda m: numbers_of(m)[name].raw  # noqa: E731
        free, self._fixed = eqx.partition(eqx.tree_at(place, model, None), eqx.is_inexact_array)
        vector, self._restore = ravel_pytree(free)
        self._start: np.ndarray = np.asarray(vector, float)
        self._loss, self._batch, self._place = loss, batch, name
        self._point = self._start
        self._residuals = eqx.filter_jit(self._rows_at)
        self._jacobian = eqx.filter_jit(lambda point, raw: _jacobian(lambda p: self._rows_at(p, raw))(point))

    def restart(self) -> None:
        """Goes on from the best point."""
        self._point = self._start

    def at(self, value: float) -> float:
        """The sum of squares with the number at `value`."""
        raw = self._number.raw_of(value)
        residuals = lambda p: np.asarray(self._residuals(p, raw), float)  # noqa: E731
        if not len(self._start):
            return float(np.sum(residuals(self._start) ** 2))
        jacobian = lambda p: np.asarray(self._jacobian(p, raw), float)  # noqa: E731
        found = minimise(residuals, jacobian, self._point, factor=Equilibrated, converged=1e-4)
        self._point = found.point
        return found.size**2

    def _rows_at(self, point, raw):
        number = eqx.tree_at(lambda n: n.raw, self._number, raw)
        model = eqx.combine(self._restore(point), self._fixed)
        model = jax.tree_util.tree_map_with_path(
            lambda path, leaf: number if _is_number(leaf) and str(path[-1].key) == self._place else leaf,
            model,
            is_leaf=_is_number,
        )
        return _flat(self._loss(model, self._batch))


def _is_number(leaf: Any) -> bool:
    return isinstance(leaf, TrainableNumber)


def _flat(terms: dict[str, Any]):
    """All residuals, the misfit first; others in units of it, as mean squares are summed."""
    size = terms["misfit"].size
    others = [r.ravel() * np.sqrt(size / max(r.size, 1)) for n, r in terms.items() if n != "misfit"]
    return jnp.concatenate([terms["misfit"].ravel(), *others])


@eqx.filter_jit
def _rows(model, loss: Callable, batch):
    """Residuals, their derivatives (n, numbers), and how many belong to the misfit."""
    rows, columns = _value_and_gradients_traced(lambda m: _flat(loss(m, batch)), model)
    return rows, columns, eqx.filter_eval_shape(lambda m: loss(m, batch)["misfit"], model).size


def _value_and_gradients(function: Callable, model):
    return eqx.filter_jit(_value_and_gradients_traced)(function, model)


def _value_and_gradients_traced(function: Callable, model):
    trained, fixed = eqx.partition(model, eqx.is_inexact_array)
    vector, restore = ravel_pytree(trained)

    def of_vector(v):
        value = function(eqx.combine(restore(v), fixed))
        return value, value

    gradients, value = _jacobian(of_vector, has_aux=True)(vector)
    return value, gradients


def _jacobian(function: Callable, **options: Any) -> Callable:
    forward, backward = jax.jacfwd(function, **options), jax.jacrev(function, **options)
    return lambda point: forward_or_backward(lambda: forward(point), lambda: backward(point))
