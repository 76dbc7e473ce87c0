"""Random features: a hidden layer that is drawn, and an output layer that is found."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


class RandomFeatures(eqx.Module):
    """`(in_size,) -> (out_size,)`: output @ hidden(x), linear in `output`. `hidden` returns the features of all
    outputs, `(features,)`, or those of each, `(out_size, features)`.
    """

    hidden: Callable
    output: Float[Array, "out_size features"]

    def __call__(self, x: Float[Array, " in_size"]) -> Float[Array, " out_size"]:
        hidden = self.hidden(x)
        return self.output @ hidden if hidden.ndim == 1 else jnp.sum(self.output * hidden, axis=1)


class PriorFeatures(eqx.Module):
    """`(in_size,) -> (out_size,)`: (scale * output) @ hidden(x), where the rows `believed` of `output` are standard
    normal before anything is known: `scale` is the standard deviation of their weights. It is zero where an output does
    not depend on a feature.
    """

    hidden: Callable
    output: Float[Array, "out_size features"]
    scale: Float[Array, "out_size features"]
    believed: tuple[int, ...] = eqx.field(static=True)

    def __call__(self, x: Float[Array, " in_size"]) -> Float[Array, " out_size"]:
        return (self.scale * self.output) @ self.hidden(x)


class TanhFeatures(eqx.Module):
    """`(in_size,) -> (features,)`: tanh(weight @ x + bias)."""

    weight: Float[Array, "*windows features in_size"]
    bias: Float[Array, "*windows features"]

    def __call__(self, x: Float[Array, " in_size"]) -> Float[Array, " features"]:
        return jnp.tanh(self.weight @ x + self.bias)


class CornerFeatures(eqx.Module):
    """`(2,) -> (features,)`: the real and the imaginary part of z^a, where z = r exp(i angle), and these times r^2,
    around corners, for the exponents a of each. Where `logarithm` is 1 it is z^a log(z) instead.

    `place` are the corners, `scale` the length of a unit of each input, `direction` where the angle is zero, opposite
    to which it jumps.
    """

    place: Float[Array, "corners 2"]
    scale: Float[Array, " 2"]
    direction: Float[Array, " corners"]
    exponent: Float[Array, "corners exponents"]
    logarithm: Float[Array, "corners exponents"]

    def __call__(self, x: Float[Array, " 2"]) -> Float[Array, " features"]:
        right, up = ((x - self.place) * self.scale).T
        cosine, sine = jnp.cos(self.direction), jnp.sin(self.direction)
        ahead, left = cosine * right + sine * up, cosine * up - sine * right
        # The corner itself is a point of the domain.
        squared = ahead * ahead + left * left + 1e-30
        angle, logarithm = jnp.arctan2(left, ahead)[:, None], 0.5 * jnp.log(squared)[:, None]
        size = jnp.exp(self.exponent * logarithm)
        real, imaginary = size * jnp.cos(self.exponent * angle), size * jnp.sin(self.exponent * angle)
        # Times log(z), or 1.
        by, turn = 1 + self.logarithm * (logarithm - 1), self.logarithm * angle
        waves = jnp.concatenate([real * by - imaginary * turn, real * turn + imaginary * by], axis=1)
        return jnp.concatenate([jnp.ravel(waves), jnp.ravel(waves * squared[:, None])])


class HoleFeatures(eqx.Module):
    """`(2,) -> (features,)`: around discs that are taken away, the Chebyshev polynomials of degrees m in radius / r,
    times cos(k angle) and sin(k angle), with m + k up to `highest`; and log(r).

    `place` are the middles, `scale` the length of a unit of each input, `radius` those of the discs.
    """

    place: Float[Array, "holes 2"]
    scale: Float[Array, " 2"]
    radius: Float[Array, " holes"]
    highest: int = eqx.field(static=True)

    def __call__(self, x: Float[Array, " 2"]) -> Float[Array, " features"]:
        right, up = ((x - self.place) * self.scale).T
        # Within a disc, where there is no domain, features go on as at half its radius.
        squared = jnp.maximum(right * right + up * up, (0.5 * self.radius) ** 2)
        inverse = self.radius / jnp.sqrt(squared)
        # Powers of (cos, sin), by the recurrence of Chebyshev's polynomials, have derivatives of all orders.
        cosine, sine = right / jnp.sqrt(squared), up / jnp.sqrt(squared)
        radial = jax.vmap(lambda s: chebyshev(2 * s - 1, self.highest))(inverse)
        cosines = jax.vmap(lambda c: chebyshev(c, self.highest))(cosine)
        sines = sine[:, None] * jax.vmap(lambda c: chebyshev_second(c, self.highest - 1))(cosine)
        m, k = np.nonzero(np.add.outer(np.arange(self.highest + 1), np.arange(self.highest + 1)) <= self.highest)
        even, odd = radial[:, m] * cosines[:, k], radial[:, m[k > 0]] * sines[:, k[k > 0] - 1]
        return jnp.concatenate([jnp.ravel(even), jnp.ravel(odd), jnp.log(squared)])


class JoinedFeatures(eqx.Module):
    """`(in_size,) -> (features,)`: the features of several kinds, one after the other."""

    parts: tuple[Callable, ...]

    def __call__(self, x: Float[Array, " in_size"]) -> Float[Array, " features"]:
        return jnp.concatenate([part(x) for part in self.parts])


class PolynomialFeatures(eqx.Module):
    """`(in_size,) -> (features,)`: products of a Chebyshev polynomial in each input, of the `degrees` stated."""

    degrees: Int[Array, "*parts features in_size"]
    highest: int = eqx.field(static=True)

    def __call__(self, x: Float[Array, " in_size"]) -> Float[Array, " features"]:
        each = jax.vmap(lambda value: chebyshev(value, self.highest))(x)
        product = each[0][self.degrees[:, 0]]
        for i in range(1, x.size):
            product = product * each[i][self.degrees[:, i]]
        return product


class PartFeatures(eqx.Module):
    """`(in_size,) -> (parts * fields, features)`: features of their own for each of several parts of a domain, the same
    for all fields. Inputs between `low` and `high` of a part become those between -1 and 1.

    The arrays of `hidden` have the parts as their first axis.
    """

    hidden: Callable
    low: tuple[tuple[float, ...], ...] = eqx.field(static=True)
    high: tuple[tuple[float, ...], ...] = eqx.field(static=True)
    fields: int = eqx.field(static=True)

    def __call__(self, x: Float[Array, " in_size"]) -> Float[Array, "outputs features"]:
        inputs = _between(x, self.low, self.high)
        found = eqx.filter_vmap(lambda hidden, own: hidden(own))(self.hidden, inputs)
        return jnp.repeat(found, self.fields, axis=0)


class PartNetworks(eqx.Module):
    """`(in_size,) -> (parts * fields,)`: a network of its own for each of several parts of a domain, all of one shape.
    Inputs between `low` and `high` of a part become those between -1 and 1.

    The arrays of `networks` have the parts as their first axis.
    """

    networks: Callable
    low: tuple[tuple[float, ...], ...] = eqx.field(static=True)
    high: tuple[tuple[float, ...], ...] = eqx.field(static=True)

    def __call__(self, x: Float[Array, " in_size"]) -> Float[Array, " outputs"]:
        inputs = _between(x, self.low, self.high)
        return jnp.ravel(eqx.filter_vmap(lambda network, own: network(own))(self.networks, inputs))


def _between(x: Float[Array, " in_size"], low, high) -> Float[Array, "parts in_size"]:
    """The inputs in units of half the extent of each part, from its middle."""
    low, high = jnp.asarray(low, x.dtype), jnp.asarray(high, x.dtype)
    return (2 * x - low - high) / (high - low)


class WindowedFeatures(eqx.Module):
    """`(in_size,) -> (out_size,)`: features of their own, and an output, in each of several windows of equal length
    along one input, which goes from -1 to 1 in each window. Beyond the ends the outermost windows go on.

    The arrays of `hidden` and `output` have the windows as their first axis. In all windows but the first, features are
    divided by ((1 + input) / 2)^power: where they are multiplied by that, to be zero at the beginning, they are the
    same in all those.
    """

    hidden: Callable
    output: Float[Array, "windows out_size features"]
    axis: int = eqx.field(static=True)
    power: int = eqx.field(static=True, default=0)

    def __call__(self, x: Float[Array, " in_size"]) -> Float[Array, " out_size"]:
        windows = self.output.shape[0]
        # Which window it is has no derivative.
        place = jax.lax.stop_gradient(x[self.axis])
        window = _window_at(place, windows)
        arrays, static = eqx.partition(self.hidden, eqx.is_array)
        hidden = eqx.combine(jax.tree.map(lambda a: a[window], arrays), static)
        features = hidden(in_window(x, self.axis, windows, window))
        return self.output[window] @ _divided(features, x[self.axis], window, self.power)


class InWindow(eqx.Module):
    """`(in_size,) -> (features,)`: features in one window of `WindowedFeatures`."""

    hidden: Callable
    window: Array
    windows: int = eqx.field(static=True)
    axis: int = eqx.field(static=True)
    power: int = eqx.field(static=True, default=0)

    def __call__(self, x: Float[Array, " in_size"]) -> Float[Array, " features"]:
        features = self.hidden(in_window(x, self.axis, self.windows, self.window))
        return _divided(features, x[self.axis], self.window, self.power)


class WindowedWaves(eqx.Module):
    """`(in_size,) -> (out_size,)`: in each of several windows of equal length along one input, `axis`, a Fourier series
    in angles times Chebyshev polynomials of that input, which goes from -1 to 1 in each window: the real part of the
    sum of (real + i imaginary) T_degree exp(i number . angles). Numbers of waves go from -K to K, those of the last
    angle from 0 to K. Of all windows, `count`, it may have some only, from the one of number `first` on.

    `angles` says where they come from: the place of an input, and whether that goes from -1 to 1 along half a period;
    otherwise it is the cosine of the angle, and the next one the sine.

    It is the fields of a PDE themselves: `pde.model` adds no exact conditions to it.
    """

    real: Float[Array, "windows out_size degrees *numbers"]
    imaginary: Float[Array, "windows out_size degrees *numbers"]
    first: Array
    count: int = eqx.field(static=True)
    axis: int = eqx.field(static=True)
    angles: tuple[tuple[int, bool], ...] = eqx.field(static=True)

    def __call__(self, x: Float[Array, " in_size"]) -> Float[Array, " out_size"]:
        held = len(self.real)
        window = _window_at(jax.lax.stop_gradient(x[self.axis]), self.count)
        local = jnp.clip(window - self.first, 0, held - 1) if held > 1 else 0
        real, imaginary = self.real[local], self.imaginary[local]
        for place, (i, half) in reversed(list(enumerate(self.angles))):
            last = place == len(self.angles) - 1
            most = real.shape[-1] - 1 if last else real.shape[-1] // 2
            angle = 0.5 * jnp.pi * (x[i] + 1) if half else jnp.arctan2(x[i + 1], x[i])
            angle = angle * jnp.arange(0 if last else -most, most + 1)
            cosine, sine = jnp.cos(angle), jnp.sin(angle)
            real, imaginary = real @ cosine - imaginary @ sine, real @ sine + imaginary @ cosine
        # Last, so that no wave of a point has a number of its own.
        if real.shape[1] == 1:
            return real[:, 0]
        return real @ chebyshev(self.count * (x[self.axis] + 1) - 2 * window - 1, real.shape[1] - 1)

    def window_of(self, x: float) -> int:
        """In which window an input along `axis` is."""
        return int(_window_at(jnp.asarray(x), self.count))

    def alone(self, window: int, at: float | None = None) -> "WindowedWaves":
        """One window, or what it is when the input along `axis` is `at`: at many points much less work, as they have
        the same coefficients.
        """
        local = window - int(self.first)
        real, imaginary = (part[local : local + 1] for part in (self.real, self.imaginary))
        if at is not None:
            time = chebyshev(jnp.asarray(self.count * (at + 1) - 2 * window - 1), real.shape[2] - 1)
            real, imaginary = (jnp.einsum("d,wfd...->wf...", time, p)[:, :, None] for p in (real, imaginary))
        return eqx.tree_at(lambda n: (n.real, n.imaginary, n.first), self, (real, imaginary, jnp.asarray(window)))


def _window_at(x, windows: int) -> Array:
    return jnp.clip(jnp.floor((x + 1) / 2 * windows), 0, windows - 1).astype(int)


def _divided(features: Float[Array, " features"], x: Float[Array, ""], window, power: int) -> Float[Array, " features"]:
    return features / jnp.where(window > 0, (1 + x) / 2, 1.0) ** power if power else features


def in_window(x: Float[Array, " in_size"], axis: int, windows: int, window) -> Float[Array, " in_size"]:
    """The inputs with that of an axis in [-1, 1] scaled such that a window of it goes from -1 to 1."""
    return jnp.where(jnp.arange(x.size) == axis, windows * (x + 1) - 2 * window - 1, x)


def chebyshev(x: Float[Array, ""], highest: int) -> Float[Array, " degrees"]:
    """The Chebyshev polynomials of degrees 0 to `highest`, as many new ones at a time as there are:
    T_(m+j) = 2 T_m T_j - T_(m-j).
    """
    out = jnp.stack([jnp.ones_like(x), x])
    while len(out) <= highest:
        last = len(out) - 1
        out = jnp.concatenate([out, 2 * out[last] * out[1:] - out[last - 1 :: -1]])
    return out[: highest + 1]


def chebyshev_second(x: Float[Array, ""], highest: int) -> Float[Array, " degrees"]:
    """The Chebyshev polynomials of the second kind, of degrees 0 to `highest`: U_k = 2 x U_(k-1) - U_(k-2)."""
    out = [jnp.ones_like(x), 2 * x]
    while len(out) <= highest:
        out.append(2 * x * out[-1] - out[-2])
    return jnp.stack(out[: highest + 1])


def polynomial_features(degrees: Int[np.ndarray, "features in_size"], out_size: int) -> RandomFeatures:
    """The products of Chebyshev polynomials of these degrees in each input, and an output of zero."""
    hidden = PolynomialFeatures(jnp.asarray(degrees), int(degrees.max()))
    return RandomFeatures(hidden, jnp.zeros((out_size, len(degrees))))


def random_features(in_size: int, out_size: int, count: int, spread: float | Array, *, key: Array) -> RandomFeatures:
    """`count` features with normal weights of standard deviation `spread`, each bending at a random place of
    [-1, 1]^in_size (Huang, Zhu & Siew, Neurocomputing 70, 2006), and an output of zero.
    """
    directions, places = jax.random.split(key)
    weight = spread * jax.random.normal(directions, (count, in_size))
    centre = jax.random.uniform(places, (count, in_size), minval=-1.0, maxval=1.0)
    hidden = TanhFeatures(weight, -jnp.sum(weight * centre, axis=1))
    return RandomFeatures(hidden, jnp.zeros((out_size, count)))
