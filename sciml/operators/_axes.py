"""How an operator treats an axis of the grid: where its points lie, and what is beyond its ends.

An axis runs from 0 to 1; what it measures is the data's matter. Its points follow from their number alone, so that a
model knows where they are at any resolution.
"""

import abc
from collections.abc import Callable, Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Points = Callable[[int], np.ndarray]


def left(n: int) -> np.ndarray:
    """Points i / n: the first end but not the last, as on a periodic axis."""
    return np.arange(n) / n


def ends(n: int) -> np.ndarray:
    """Points i / (n - 1): both ends, the corners of cells."""
    return np.linspace(0.0, 1.0, n)


def centres(n: int) -> np.ndarray:
    """Points (i + 1/2) / n: the centres of cells."""
    return (np.arange(n) + 0.5) / n


def interior(n: int) -> np.ndarray:
    """Points (i + 1) / (n + 1): neither end, where values at the ends are known to vanish."""
    return np.arange(1, n + 1) / (n + 1)


class Axis(eqx.Module):
    """One axis of a grid. `points` gives its n points, in [0, 1] and rising."""

    points: eqx.AbstractVar[Points]

    def coordinates(self, n: int) -> np.ndarray:
        """The places of n points. Raises ValueError where they are not n rising numbers in [0, 1]."""
        points = np.asarray(self.points(n), float)
        if points.shape != (n,) or points.min() < -1e-9 or points.max() > 1 + 1e-9 or not (np.diff(points) > 0).all():
            raise ValueError(f"points({n}) must be {n} rising numbers in [0, 1], got {points}")
        return points

    def weights(self, n: int) -> np.ndarray:
        """The length that each of n points stands for: an integral over the axis is the sum of values times these."""
        points = self.coordinates(n)
        middles = (points[1:] + points[:-1]) / 2
        return np.diff(np.concatenate([[0.0], middles, [1.0]]))

    @abc.abstractmethod
    def pad(self, u: Array, dim: int, before: int, after: int) -> Array:
        """Values along dimension `dim` with some more beyond each end, as this axis has them there."""

    @abc.abstractmethod
    def limit(self, n: int) -> int:
        """The most modes that n points can tell apart."""

    @abc.abstractmethod
    def modes(self, count: int, x: np.ndarray) -> np.ndarray:
        """The first `count` basis functions at places x, `(count, len(x))`: complex exponentials of wavenumber
        0, 1, ... for a Fourier axis (those of negative wavenumber are their conjugates), else real.
        """

    @abc.abstractmethod
    def norms(self, count: int) -> np.ndarray:
        """The integral over the axis of the squared modulus of each basis function."""


class Periodic(Axis):
    """What leaves at one end enters at the other: Fourier series, exact translation of the grid."""

    points: Points = eqx.field(static=True, default=left)

    def weights(self, n: int) -> np.ndarray:
        points = self.coordinates(n)
        around = np.concatenate([[points[-1] - 1], points, [points[0] + 1]])
        return (around[2:] - around[:-2]) / 2

    def pad(self, u, dim, before, after):
        # Slices laid end to end, which other formats know too, and no gather.
        widths = [(0, 0)] * u.ndim
        widths[dim] = (before, after)
        return jnp.pad(u, widths, mode="wrap")

    def limit(self, n):
        return (n - 1) // 2 + 1

    def modes(self, count, x):
        return np.exp(2j * np.pi * np.arange(count)[:, None] * x)

    def norms(self, count):
        return np.ones(count)


class Bounded(Axis):
    """Nothing is known beyond the ends: zero there, over `padding` times the length, with a Fourier series of the
    whole. Spectral layers thereby become integrals over the domain whose kernel is periodic on the longer one.
    """

    points: Points = eqx.field(static=True, default=centres)
    padding: float = eqx.field(static=True, default=0.25)

    def __check_init__(self):
        if not self.padding >= 0:
            raise ValueError(f"Bounded: padding must not be negative, got {self.padding}")

    def pad(self, u, dim, before, after):
        widths = [(0, 0)] * u.ndim
        widths[dim] = (before, after)
        return jnp.pad(u, widths)

    def limit(self, n):
        return (n - 1) // 2 + 1

    def modes(self, count, x):
        return np.exp(2j * np.pi * np.arange(count)[:, None] * x / (1 + self.padding))

    def norms(self, count):
        return np.full(count, 1 + self.padding)


class Cosine(Axis):
    """Mirrored at the ends, so that the derivative along the axis vanishes there: cosine series."""

    points: Points = eqx.field(static=True, default=centres)

    def pad(self, u, dim, before, after):
        index, _ = _mirrored(self.coordinates(u.shape[dim]), before, after)
        return _gathered(u, dim, index)

    def limit(self, n):
        return n

    def modes(self, count, x):
        return np.cos(np.pi * np.arange(count)[:, None] * x)

    def norms(self, count):
        return np.where(np.arange(count) == 0, 1.0, 0.5)


class Sine(Axis):
    """Mirrored with the opposite sign at the ends, so that values vanish there: sine series."""

    points: Points = eqx.field(static=True, default=interior)

    def weights(self, n: int) -> np.ndarray:
        points = self.coordinates(n)
        middles = (points[1:] + points[:-1]) / 2
        # At the ends values vanish, so that a point stands for half a step on either side at most.
        first = points[0] - min(points[0], (points[1] - points[0]) / 2)
        last = points[-1] + min(1 - points[-1], (points[-1] - points[-2]) / 2)
        return np.diff(np.concatenate([[first], middles, [last]]))

    def pad(self, u, dim, before, after):
        index, sign = _mirrored(self.coordinates(u.shape[dim]), before, after)
        shape = [1] * u.ndim
        shape[dim] = -1
        return _gathered(u, dim, index) * jnp.asarray(sign.reshape(shape), u.dtype)

    def limit(self, n):
        points = self.coordinates(n)
        # Points at the ends hold no information.
        return int(((points > 1e-9) & (points < 1 - 1e-9)).sum())

    def modes(self, count, x):
        return np.sin(np.pi * np.arange(1, count + 1)[:, None] * x)

    def norms(self, count):
        return np.full(count, 0.5)


def _gathered(u: Array, dim: int, index: np.ndarray) -> Array:
    return jnp.take(u, jnp.asarray(index), axis=dim)


def _mirrored(points: np.ndarray, before: int, after: int) -> tuple[np.ndarray, np.ndarray]:
    """For points continued beyond the ends: the index of the mirrored one, and the sign of an odd function there."""
    n, step = len(points), (points[-1] - points[0]) / max(1, len(points) - 1)
    places = np.concatenate(
        [points[0] - step * np.arange(before, 0, -1), points, points[-1] + step * np.arange(1, after + 1)]
    )
    folded = np.mod(places, 2.0)
    back = np.where(folded > 1, 2 - folded, folded)
    index = np.abs(back[:, None] - points).argmin(axis=1)
    sign = np.where(folded > 1, -1.0, 1.0)
    at_end = np.minimum(back, 1 - back) < 1e-9
    missing = np.abs(points[index] - back) > step / 4
    sign[at_end & missing] = 0.0
    index[before : before + n], sign[before : before + n] = np.arange(n), 1.0
    return index, sign


def as_axes(axes: Axis | Sequence[Axis], dimensions: int) -> tuple[Axis, ...]:
    """One axis for each dimension. Raises ValueError for another number of them."""
    found = (axes,) * dimensions if isinstance(axes, Axis) else tuple(axes)
    if len(found) != dimensions:
        raise ValueError(f"expected one axis for each of {dimensions} dimensions, got {len(found)}")
    return found


def with_coordinates(a: Float[Array, "channels *grid"], axes: Sequence[Axis]) -> Float[Array, "more *grid"]:
    """The field with a channel for the coordinate of each axis that is not periodic, in [-1, 1]. (Along a periodic
    axis no place differs from another, and a model without its coordinate commutes with translations.)
    """
    places = []
    for dim, axis in enumerate(axes):
        if not isinstance(axis, Periodic):
            n = a.shape[dim + 1]
            shape = [1] * a.ndim
            shape[dim + 1] = n
            x = jnp.asarray(2 * axis.coordinates(n) - 1, a.dtype).reshape(shape)
            places.append(jnp.broadcast_to(x, (1, *a.shape[1:])))
    return jnp.concatenate([a, *places]) if places else a


def extra_channels(axes: Sequence[Axis]) -> int:
    """How many channels `with_coordinates` adds."""
    return sum(not isinstance(axis, Periodic) for axis in axes)


def check_field(a: Array, channels: int, dimensions: int, name: str) -> None:
    """Raises ValueError unless the field has this number of channels and dimensions."""
    if a.ndim != dimensions + 1 or a.shape[0] != channels:
        wanted = f"({channels}, {', '.join('n' for _ in range(dimensions))})"
        last = a.ndim == dimensions + 1 and a.shape[-1] == channels
        remedy = "Dataset.transpose moves channels to the front" if last else "a batch needs jax.vmap"
        raise ValueError(
            f"{name}: expected one sample of shape {wanted}: channels first, then {dimensions} dimensions of space; "
            f"got {a.shape}; {remedy}"
        )
