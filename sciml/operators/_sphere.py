"""Fields on the sphere: grids of latitude and longitude, the real spherical harmonic transform, derivatives.

A field has shape `(*channels, latitude, longitude)`, its coefficients `(*channels, 2, degrees, orders)`: entry
`[0, l, m]` multiplies the harmonic of degree l that varies as cos(m longitude), `[1, l, m]` the one that varies as
sin(m longitude). The harmonics are real, orthonormal on the unit sphere and without the Condon-Shortley phase, so that
the squares of the coefficients add up to the integral of the square of the field. Entries with m > l, and sines of
order 0, are zero.
"""

from collections.abc import Callable
from functools import lru_cache

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Points = Callable[[int], np.ndarray]


def gauss_legendre(n: int) -> np.ndarray:
    """Latitudes in degrees whose sines are the n nodes of Gauss-Legendre quadrature: the grid of spectral models."""
    return np.degrees(np.arcsin(np.polynomial.legendre.leggauss(n)[0]))


def equiangular(n: int) -> np.ndarray:
    """Latitudes in degrees in the middles of n equal intervals between the poles."""
    return -90 + 180 * (np.arange(n) + 0.5) / n


def equiangular_with_poles(n: int) -> np.ndarray:
    """n latitudes in degrees in equal steps from pole to pole."""
    return np.linspace(-90.0, 90.0, n)


class Sphere(eqx.Module):
    """A grid on the sphere. Rows are the latitudes of `points`, a function from their number to rising degrees, from
    north to south unless `north_first` is false; columns are longitudes in equal steps eastwards around the sphere.
    `sphere_of` finds the sphere of the latitudes in a file.

    The transform is the quadrature-weighted least-squares fit of the harmonics. On Gauss-Legendre latitudes that is
    Gaussian quadrature; on equal steps too it recovers every field of degree up to `limit`, where quadrature alone
    would only do so for half of it. Legendre functions are computed in float64 on the host and stored as dense tables
    of latitudes * degrees**2 numbers (0.1 GB in float64 for degree 127 on 721 latitudes).
    """

    points: Points = eqx.field(static=True, default=equiangular)
    north_first: bool = eqx.field(static=True, default=True)

    def latitudes(self, n: int) -> np.ndarray:
        """The latitudes of n rows in degrees. Raises ValueError where `points` does not give n rising ones."""
        return np.degrees(_angles(self.points, self.north_first, n))

    def longitudes(self, n: int) -> np.ndarray:
        """n longitudes in degrees, counted from the first column."""
        return 360 * np.arange(n) / n

    def weights(self, latitudes: int, longitudes: int) -> np.ndarray:
        """The area on the unit sphere that each point of the grid stands for, `(latitudes, longitudes)`: an integral
        is the sum of values times these, exact for fields of degree < latitudes (Gauss-Legendre: 2 * latitudes) and
        order < longitudes. Raises ValueError for latitudes that have no quadrature with positive weights.
        """
        rows = _weights(self.points, self.north_first, latitudes)
        return np.repeat(rows[:, None] * (2 * np.pi / longitudes), longitudes, axis=1)

    def limit(self, latitudes: int, longitudes: int) -> int:
        """The highest degree that a grid of this size tells apart."""
        return min(_limit(self.points, self.north_first, latitudes), (longitudes - 1) // 2)

    def analysis(
        self, u: Float[Array, "*channels latitude longitude"], degree: int | None = None
    ) -> Float[Array, "*channels 2 degrees orders"]:
        """The coefficients of a field up to `degree`, by default the grid's limit. Exact for a field without higher
        degrees. Raises ValueError for a degree above the limit.
        """
        *channels, rows, columns = u.shape
        degree = self._allowed(rows, columns, degree)
        z = analysed(jnp.moveaxis(u.reshape(-1, rows, columns), 0, -1), self, degree)
        return z.transpose(3, 2, 1, 0).reshape(*channels, 2, degree + 1, degree + 1)

    def synthesis(
        self, coefficients: Float[Array, "*channels 2 degrees orders"], latitudes: int, longitudes: int
    ) -> Float[Array, "*channels latitude longitude"]:
        """The field on a grid of this size. Raises ValueError where the grid cannot hold the degrees."""
        self._allowed(latitudes, longitudes, coefficients.shape[-1] - 1)
        return _first(synthesised(_last(coefficients), self, latitudes, longitudes), coefficients.shape[:-3])

    def resample(
        self,
        u: Float[Array, "*channels latitude longitude"],
        latitudes: int,
        longitudes: int,
        onto: "Sphere | None" = None,
    ) -> Float[Array, "*channels latitude2 longitude2"]:
        """The field on a grid of another size, or on that of the sphere `onto`, without the degrees that either grid
        cannot hold.
        """
        onto = self if onto is None else onto
        degree = min(self.limit(*u.shape[-2:]), onto.limit(latitudes, longitudes))
        return onto.synthesis(self.analysis(u, degree), latitudes, longitudes)

    def laplacian(
        self, u: Float[Array, "*channels latitude longitude"]
    ) -> Float[Array, "*channels latitude longitude"]:
        """The Laplacian on the unit sphere (divide by the square of the radius): degree l times -l (l + 1)."""
        coefficients = self.analysis(u)
        degrees = jnp.arange(coefficients.shape[-2], dtype=coefficients.dtype)[:, None]
        return self.synthesis(-degrees * (degrees + 1) * coefficients, *u.shape[-2:])

    def gradient(
        self, u: Float[Array, "*channels latitude longitude"]
    ) -> Float[Array, "2 *channels latitude longitude"]:
        """The derivatives eastwards and northwards on the unit sphere (divide by the radius). At a pole, where east
        depends on the longitude, they are the limits along each meridian.
        """
        rows, columns = u.shape[-2:]
        degree = self.limit(rows, columns)
        grid = (self.points, self.north_first, rows, degree)
        z = _last(self.analysis(u, degree))
        turned = jnp.stack([z[:, :, 1], -z[:, :, 0]], axis=2)
        parts = [_summed(turned, _eastward(*grid), columns), _summed(z, _northward(*grid), columns)]
        return jnp.stack([_first(part, u.shape[:-2]) for part in parts])

    def divergence(
        self, wind: Float[Array, "2 *channels latitude longitude"]
    ) -> Float[Array, "*channels latitude longitude"]:
        """The divergence of a tangent vector field, given by its components eastwards and northwards, on the unit
        sphere (divide by the radius).
        """
        frame = jnp.asarray(_frame(self.points, self.north_first, *wind.shape[-2:]), wind.dtype)
        # Components along fixed axes are smooth at the poles, where east and north are not.
        fixed = jnp.einsum("axji,a...ji->x...ji", frame, wind)
        return jnp.einsum("axji,ax...ji->...ji", frame, self.gradient(fixed)).astype(wind.dtype)

    def vorticity(
        self, wind: Float[Array, "2 *channels latitude longitude"]
    ) -> Float[Array, "*channels latitude longitude"]:
        """The vertical component of the curl of a tangent vector field, positive where it turns anticlockwise, on the
        unit sphere (divide by the radius).
        """
        return self.divergence(jnp.stack([wind[1], -wind[0]]))

    def _allowed(self, rows: int, columns: int, degree: int | None) -> int:
        limit = self.limit(rows, columns)
        if degree is not None and not 0 <= degree <= limit:
            raise ValueError(
                f"a grid of {rows} latitudes and {columns} longitudes holds degrees 0 to {limit}, not {degree}; take "
                "fewer degrees or a finer grid"
            )
        return limit if degree is None else degree


def sphere_of(latitudes: np.ndarray) -> Sphere:
    """The sphere with these latitudes in degrees, north or south first, as a file has them.

    Raises ValueError where they are neither Gauss-Legendre nor in equal steps with or without both poles.
    """
    given = np.asarray(latitudes, float)
    if given.ndim != 1 or not len(given) or not np.isfinite(given).all():
        raise ValueError(f"sphere_of: expected latitudes in degrees of shape (n,), got {given}")
    north_first = bool(given[0] >= given[-1])
    for points in (equiangular, equiangular_with_poles, gauss_legendre):
        sphere = Sphere(points, north_first)
        # Files round their coordinates; the three kinds differ by far more than this.
        if np.abs(sphere.latitudes(len(given)) - given).max() < 1.8 / len(given):
            return sphere
    raise ValueError(
        f"sphere_of: {len(given)} latitudes from {given[0]:g} to {given[-1]:g} degrees are neither Gauss-Legendre nor "
        "in equal steps from pole to pole; give Sphere a function of your own from their number to the latitudes"
    )


# Inside, channels come last: a transform is then one product over all of them (see SphericalConvolution).


def analysed(u: Float[Array, "latitude longitude channels"], sphere: Sphere, degree: int) -> Array:
    """The coefficients of a field as `(orders, degrees, 2, channels)`, in float32 at least."""
    rows, columns, _ = u.shape
    dtype = jnp.promote_types(u.dtype, jnp.float32)
    fourier = jnp.asarray(_fourier(columns, degree) / columns, dtype)
    table = jnp.asarray(_fits(sphere.points, sphere.north_first, rows, degree), dtype)
    return _product("mlj,jpmc->mlpc", table, _product("pmi,jic->jpmc", fourier, u.astype(dtype)))


def synthesised(z: Array, sphere: Sphere, rows: int, columns: int) -> Array:
    """The field with coefficients as `analysed` gives them: `(latitude, longitude, channels)`."""
    return _summed(z, _legendre(sphere.points, sphere.north_first, rows, z.shape[0] - 1), columns)


def _summed(z: Array, table: np.ndarray, columns: int) -> Array:
    """The sum over degrees and orders of coefficients times functions of latitude in `table` and waves along it."""
    fourier = jnp.asarray(_fourier(columns, z.shape[0] - 1), z.dtype)
    return _product("pmi,mjpc->jic", fourier, _product("mlj,mlpc->mjpc", jnp.asarray(table, z.dtype), z))


def _product(subscripts: str, a: Array, b: Array) -> Array:
    # Accelerators would round the factors to 10 bits.
    return jnp.einsum(subscripts, a, b, precision=jax.lax.Precision.HIGHEST)


def _last(coefficients: Float[Array, "*channels 2 degrees orders"]) -> Array:
    """Coefficients as `(orders, degrees, 2, channels)`, in float32 at least."""
    z = coefficients.reshape(-1, *coefficients.shape[-3:]).transpose(3, 2, 1, 0)
    return z.astype(jnp.promote_types(z.dtype, jnp.float32))


def _first(u: Array, channels: tuple[int, ...]) -> Array:
    """A field with its channels first."""
    return jnp.moveaxis(u, -1, 0).reshape(*channels, *u.shape[:-1])


def _fourier(columns: int, degree: int) -> np.ndarray:
    """Cosines and sines of each order at each longitude, with mean square 1: `(2, orders, columns)`."""
    angles = 2 * np.pi * (np.outer(np.arange(degree + 1), np.arange(columns)) % columns) / columns
    waves = np.sqrt(2) * np.stack([np.cos(angles), np.sin(angles)])
    waves[:, 0] /= np.sqrt(2)
    return waves


def _angles(points: Points, north_first: bool, n: int) -> np.ndarray:
    latitudes = np.asarray(points(n), float)
    if latitudes.shape != (n,) or not n or np.abs(latitudes).max() > 90 + 1e-9 or not (np.diff(latitudes) > 0).all():
        raise ValueError(f"points({n}) must be {n} rising latitudes within [-90, 90] degrees, got {latitudes}")
    angles = np.radians(np.clip(latitudes, -90, 90))
    return angles[::-1] if north_first else angles


@lru_cache(maxsize=64)
def _weights(points: Points, north_first: bool, n: int) -> np.ndarray:
    """The quadrature over the sine of the latitude that is exact for polynomials of degree < n. (At Gauss-Legendre
    nodes this is Gauss's rule, in equal steps Clenshaw and Curtis's or Fejer's.)
    """
    vandermonde = np.polynomial.legendre.legvander(np.sin(_angles(points, north_first, n)), n - 1)
    integrals = np.zeros(n)
    integrals[0] = 2.0
    weights = np.linalg.solve(vandermonde.T, integrals)
    if weights.min() < -1e-9:
        raise ValueError(
            f"{n} latitudes of {getattr(points, '__name__', points)} have no quadrature with positive weights: they "
            "must reach from pole to pole and be about equal steps in degrees; interpolate the data onto such a grid"
        )
    return weights


def _limit(points: Points, north_first: bool, n: int) -> int:
    counted = _weights(points, north_first, n) > 1e-9 / n
    # At a pole all orders but 0 vanish.
    inside = counted & (np.abs(_angles(points, north_first, n)) < np.pi / 2 - 1e-9)
    return int(min(counted.sum() - 1, inside.sum()))


@lru_cache(maxsize=16)
def _legendre(points: Points, north_first: bool, n: int, degree: int) -> np.ndarray:
    """Associated Legendre functions, `(orders, degrees, n)`, with square integral 1 / (2 pi) over the sine of the
    latitude, by the recurrence over the degree (Holmes & Featherstone, J. Geodesy 76, 2002, eq. 11-13). Without
    rescaling as there, numbers that matter underflow for degrees above about 1,900.
    """
    angles = _angles(points, north_first, n)
    x, cosine = np.sin(angles), np.cos(angles)
    table = np.zeros((degree + 1, degree + 1, n))
    table[0, 0] = 1 / np.sqrt(4 * np.pi)
    for m in range(1, degree + 1):
        table[m, m] = np.sqrt((2 * m + 1) / (2 * m)) * cosine * table[m - 1, m - 1]
    for k in range(1, degree + 1):
        m = np.arange(k)[:, None]
        table[:k, k] = x * table[:k, k - 1]
        if k > 1:
            table[:k, k] -= np.sqrt(np.maximum((k - 1) ** 2 - m**2, 0) / (4 * (k - 1) ** 2 - 1)) * table[:k, k - 2]
        table[:k, k] *= np.sqrt((4 * k**2 - 1) / (k**2 - m**2))
    return table


@lru_cache(maxsize=16)
def _fits(points: Points, north_first: bool, n: int, degree: int) -> np.ndarray:
    """What takes the values of one order at n latitudes to its coefficients: `(orders, degrees, n)`."""
    root = np.sqrt(np.maximum(_weights(points, north_first, n), 0.0))
    legendre = _legendre(points, north_first, n, degree)
    table = np.zeros_like(legendre)
    for m in range(degree + 1):
        q, r = np.linalg.qr((legendre[m, m:] * root).T)
        table[m, m:] = np.linalg.solve(r, q.T) * root
    return table


@lru_cache(maxsize=16)
def _eastward(points: Points, north_first: bool, n: int, degree: int) -> np.ndarray:
    """m / cos(latitude) times the Legendre functions."""
    # In floating point the cosine is not zero at a pole, and the functions are proportional to a power of it: right.
    orders = np.arange(degree + 1)[:, None, None]
    return orders * _legendre(points, north_first, n, degree) / np.cos(_angles(points, north_first, n))


@lru_cache(maxsize=16)
def _northward(points: Points, north_first: bool, n: int, degree: int) -> np.ndarray:
    """The derivatives of the Legendre functions by latitude, from those of the orders next to each."""
    legendre = _legendre(points, north_first, n, degree)
    m, k = np.arange(degree)[:, None, None], np.arange(degree + 1)[:, None]
    step = np.sqrt(np.maximum((k - m) * (k + m + 1), 0)) / 2
    table = np.zeros_like(legendre)
    table[:-1] += step * legendre[1:]
    table[1:] -= step * legendre[:-1]
    if degree:
        table[0] *= 2
    return table


def _frame(points: Points, north_first: bool, rows: int, columns: int) -> np.ndarray:
    """The unit vectors eastwards and northwards along three fixed axes: `(2, 3, rows, columns)`."""
    latitude = _angles(points, north_first, rows)[:, None]
    longitude = 2 * np.pi * np.arange(columns) / columns
    parts = [
        [-np.sin(longitude), np.cos(longitude), 0],
        [-np.sin(latitude) * np.cos(longitude), -np.sin(latitude) * np.sin(longitude), np.cos(latitude)],
    ]
    return np.array([[np.broadcast_to(part, (rows, columns)) for part in vector] for vector in parts])
