"""Derivatives of arrays on grids: finite differences of any order (Fornberg's weights) and Fourier series."""

import functools
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

ORDER = 6


@dataclass(frozen=True)
class GridAxis:
    """A coordinate along which arrays are differentiated: its points, and its period where there is one.

    A last point that repeats the first one (`closed`) is left out of differences and takes the first one's result.
    """

    name: str
    points: np.ndarray
    period: float | None = None

    def __post_init__(self):
        points = self.points
        if points.ndim != 1 or not np.isfinite(points).all():
            raise ValueError(f"the coordinate '{self.name}' must be 1-D and finite, got shape {points.shape}")
        steps = np.diff(points)
        if not ((steps > 0).all() or (steps < 0).all()):
            bad = int(np.flatnonzero(steps * np.sign(steps.sum() or 1.0) <= 0)[0])
            raise ValueError(
                f"the coordinate '{self.name}' must rise or fall throughout, but goes from {points[bad]:g} to "
                f"{points[bad + 1]:g} at index {bad + 1}; sort it or drop the repeated points"
            )
        if self.period is not None:
            self._check_period(abs(float(points[-1] - points[0])), float(np.abs(steps).max(initial=0.0)))

    def _check_period(self, span: float, step: float) -> None:
        period = float(self.period or 0.0)
        if span > period * (1 + 1e-5) or period - span > 2 * step * (1 + 1e-5) or len(self.points) < 2:
            raise ValueError(
                f"'{self.name}' has the period {period:g}, but its {len(self.points)} points span {span:g} with steps "
                f"up to {step:g}; give the period as periodic={{'{self.name}': period}}, or the whole of one period"
            )

    @functools.cached_property
    def closed(self) -> bool:
        """Whether the last point repeats the first one a period later."""
        if self.period is None:
            return False
        return abs(abs(float(self.points[-1] - self.points[0])) - self.period) <= 1e-5 * self.period

    @functools.cached_property
    def uniform(self) -> bool:
        """Whether the steps are equal, to the rounding of the coordinate, and so is the one that closes a period."""
        points, n = np.asarray(self.points, float), len(self.points)
        first, last = points[0], points[-1]
        if self.period is not None and not self.closed:
            n, last = n + 1, first + np.sign(last - first) * self.period
        even = np.linspace(first, last, n)[: len(points)]
        step = abs(last - first) / max(1, n - 1)
        epsilon = np.finfo(self.points.dtype).eps if self.points.dtype.kind == "f" else 0.0
        return bool(np.abs(points - even).max() <= 1e-9 * step + 4 * epsilon * np.abs(points).max())


def grid_derivative(
    values: Any,
    coordinates: Any,
    axis: int = -1,
    *,
    derivative: int = 1,
    order: int = ORDER,
    periodic: bool | float = False,
    spectral: bool | None = None,
) -> Array:
    """The derivative of an array along one of its axes; may be compiled and differentiated.

    **Arguments:** `values` has any shape with n entries along `axis`. `coordinates` is the step between points, or the
    n points themselves as concrete numbers, rising or falling. `derivative` is 1 for the first one, ... `order` is
    that of the error in the step: central differences inside, one-sided ones at the ends (few points have a lower
    order). `periodic` is True, or the period as a number; then the last point may repeat the first one. By default
    (`spectral=None`) an axis that is periodic and uniform is differentiated by its Fourier series; `False` asks for
    differences.

    Raises ValueError for too few points, coordinates that are not monotonic, and a spectral derivative elsewhere.

    Weights: Fornberg, Mathematics of Computation 51, 699 (1988).
    """
    values = jnp.asarray(values)
    n = values.shape[axis]
    points = np.asarray(coordinates)
    points = np.arange(n) * float(points) if points.ndim == 0 else points
    if points.shape != (n,):
        raise ValueError(f"axis {axis} of the values has {n} entries, but there are {points.shape} coordinates")
    if derivative < 0 or order < 1:
        raise ValueError(f"expected derivative >= 0 and order >= 1, got {derivative} and {order}")
    period = None
    if periodic is True:
        period = whole_period(points)
    elif periodic is not False:
        period = float(periodic)
    along = GridAxis(f"axis {axis}", points, period)
    able = period is not None and along.uniform
    if spectral and not able:
        raise ValueError("a spectral derivative needs a periodic axis with equal steps; use spectral=False")
    return differentiate(values, along, axis, derivative, order, able if spectral is None else spectral)


def whole_period(points: np.ndarray) -> float:
    """The period of a grid whose last point does not repeat the first one: n equal steps."""
    return abs(float(points[-1] - points[0])) * len(points) / max(1, len(points) - 1)


def differentiate(values: Array, along: GridAxis, axis: int, derivative: int, order: int, spectral: bool) -> Array:
    """The derivative by Fourier series or by differences of an order."""
    if derivative == 0:
        return values
    values = jnp.moveaxis(values, axis, -1)
    inner = values[..., :-1] if along.closed else values
    if spectral:
        out = _fourier(inner, along, derivative)
    else:
        out = _differences(inner, along, derivative, order)
    if along.closed:
        out = jnp.concatenate([out, out[..., :1]], axis=-1)
    return jnp.moveaxis(out, -1, axis)


def possible_order(along: GridAxis, derivative: int, order: int) -> int:
    """The order that the number of points allows. Raises ValueError where none is possible."""
    n = len(along.points) - along.closed
    possible = n - derivative
    if along.period is not None:
        possible = n + 1 - 2 * ((derivative + 1) // 2)
        possible -= possible % 2
    if possible < 1:
        raise ValueError(
            f"a derivative of order {derivative} along '{along.name}' needs at least {derivative + 1} points"
            f"{' (3 or more where it is periodic)' if along.period is not None else ''}, got {n}"
        )
    return min(order, possible)


def half_resolution(values: Array, along: GridAxis, axis: int, derivative: int, order: int, spectral: bool) -> Array:
    """The derivative at every point from every second point only: what it changes tells the error. (The change from one
    order to another is far smaller than the error where a front is not resolved.) Infinite for too few points.
    """
    values = jnp.moveaxis(values, axis, -1)
    n = values.shape[-1] - along.closed
    parts = []
    for first in (0, 1):
        points = along.points[first:n:2]
        try:
            thinned = GridAxis(along.name, points, along.period)
            whole = spectral and thinned.uniform
            possible_order(thinned, derivative, order)
        except ValueError:
            return jnp.moveaxis(jnp.full_like(values, jnp.inf), -1, axis)
        parts.append(differentiate(values[..., first:n:2], thinned, -1, derivative, order, whole))
    out = jnp.zeros_like(values[..., :n]).at[..., 0::2].set(parts[0]).at[..., 1::2].set(parts[1])
    if along.closed:
        out = jnp.concatenate([out, out[..., :1]], axis=-1)
    return jnp.moveaxis(out, -1, axis)


def _fourier(values: Array, along: GridAxis, derivative: int) -> Array:
    n = values.shape[-1]
    period = float(along.period or 0.0) * np.sign(along.points[-1] - along.points[0])
    modes = np.arange(n // 2 + 1)
    factor = (2j * np.pi / period * modes) ** derivative
    if n % 2 == 0 and derivative % 2:
        # The highest mode of an even number of points is a cosine whose derivative vanishes at the points.
        factor[-1] = 0.0
    spectrum = jnp.fft.rfft(values, axis=-1)
    return jnp.fft.irfft(spectrum * jnp.asarray(factor, spectrum.dtype), n=n, axis=-1).astype(values.dtype)


def _differences(values: Array, along: GridAxis, derivative: int, order: int) -> Array:
    order = possible_order(along, derivative, order)
    points = np.asarray(along.points[: values.shape[-1]], float)
    width = _central_width(derivative, order, along.uniform)
    half = width // 2
    if along.period is not None:
        shift = along.period * np.sign(along.points[-1] - along.points[0])
        half = min(half, (len(points) - 1) // 2)
        values = jnp.concatenate([values[..., values.shape[-1] - half :], values, values[..., :half]], axis=-1)
        points = np.concatenate([points[len(points) - half :] - shift, points, points[:half] + shift])
        return _central(values, points, derivative, 2 * half + 1, along.uniform)
    n, side = len(points), derivative + order
    if n < width:
        return values @ _matrix(points, points, derivative).astype(values.dtype)
    first = values[..., :side] @ _matrix(points[:half], points[:side], derivative).astype(values.dtype)
    last = values[..., n - side :] @ _matrix(points[n - half :], points[n - side :], derivative).astype(values.dtype)
    inside = _central(values, points, derivative, width, along.uniform)
    return jnp.concatenate([first, inside, last], axis=-1)


def _central_width(derivative: int, order: int, uniform: bool) -> int:
    """The points of a symmetric stencil, an odd number; equal steps gain an order for even derivatives."""
    width = derivative + order - (uniform and derivative % 2 == 0)
    return width + 1 - width % 2


def _central(values: Array, points: np.ndarray, derivative: int, width: int, uniform: bool) -> Array:
    """Symmetric stencils; the result is `width - 1` entries shorter."""
    half, n = width // 2, len(points)
    if uniform:
        # One stencil for all points: exact zeros and symmetry, and no array of weights.
        step = (points[-1] - points[0]) / (n - 1)
        offsets = np.arange(-half, half + 1, dtype=float)
        weights = fornberg_weights(np.zeros(1), offsets[None], derivative)[0] / step**derivative
        columns = [float(w) if abs(w) > 1e-12 * np.abs(weights).max() else 0.0 for w in weights]
    else:
        windows = np.lib.stride_tricks.sliding_window_view(points, width)
        weights = fornberg_weights(points[half : n - half], windows, derivative)
        columns = list(weights.T.astype(values.dtype))
    terms = [
        w * values[..., k : n - width + 1 + k] for k, w in enumerate(columns) if not (isinstance(w, float) and w == 0)
    ]
    return functools.reduce(jnp.add, terms)


def _matrix(places: np.ndarray, points: np.ndarray, derivative: int) -> np.ndarray:
    """The weights `(points, places)` of the derivative at each place, from all the points."""
    windows = np.broadcast_to(points, (len(places), len(points)))
    return fornberg_weights(places, windows, derivative).T


def fornberg_weights(places: np.ndarray, points: np.ndarray, derivative: int) -> np.ndarray:
    """Weights `(n, w)` of the derivative at `places` `(n,)` from values at `points` `(n, w)`, each row distinct."""
    n, width = points.shape
    weights = np.zeros((n, width, derivative + 1))
    if not n:
        return weights[:, :, 0]
    # In units of the stencil, so that products of distances neither overflow nor vanish.
    unit = np.ptp(points, axis=1, keepdims=True) / max(1, width - 1)
    x = (points - places[:, None]) / unit
    weights[:, 0, 0] = 1.0
    before = np.ones(n)
    for i in range(1, width):
        product = np.ones(n)
        for j in range(i):
            gap = x[:, i] - x[:, j]
            product = product * gap
            if j == i - 1:
                for k in range(min(i, derivative), -1, -1):
                    lower = k * weights[:, j, k - 1] if k else 0.0
                    weights[:, i, k] = before / product * (lower - x[:, j] * weights[:, j, k])
            for k in range(min(i, derivative), -1, -1):
                lower = k * weights[:, j, k - 1] if k else 0.0
                weights[:, j, k] = (x[:, i] * weights[:, j, k] - lower) / gap
        before = product
    return weights[:, :, derivative] / unit**derivative
