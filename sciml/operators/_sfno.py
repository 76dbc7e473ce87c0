"""The spherical Fourier neural operator."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._axes import check_field
from ._sphere import Sphere, analysed, synthesised


class SphericalConvolution(eqx.Module):
    """The convolution of a field on the sphere with kernels that depend on the distance alone, one for each pair of an
    input and an output channel, up to a degree: `(in_channels, latitude, longitude) -> (out_channels, latitude,
    longitude)`.

    By the convolution theorem it multiplies the coefficients of degree l by a matrix `weight[l]`, whatever their order
    (Driscoll & Healy, Adv. Appl. Math. 15, 1994, theorem 1), and therefore commutes with all rotations. The weights
    are real: of a complex one the imaginary part would turn waves along the longitude, which only commutes with
    rotations about the poles. A grid that holds fewer degrees uses the first weights only.
    """

    weight: Float[Array, "degrees out_channels in_channels"]

    # Half precision loses the small coefficients among the large ones.
    full_precision = True

    def __init__(self, in_channels: int, out_channels: int, degree: int, *, key: Array):
        self.weight = in_channels**-0.5 * jax.random.normal(key, (degree + 1, out_channels, in_channels))

    def __call__(
        self, u: Float[Array, "in_channels latitude longitude"], sphere: Sphere
    ) -> Float[Array, "out_channels latitude longitude"]:
        """The convolution of one sample."""
        return jnp.moveaxis(self.channels_last(jnp.moveaxis(u, 0, -1), sphere), -1, 0)

    def channels_last(
        self, u: Float[Array, "latitude longitude in_channels"], sphere: Sphere
    ) -> Float[Array, "latitude longitude out_channels"]:
        """The same for a field whose channels come last."""
        rows, columns, _ = u.shape
        degree = min(len(self.weight) - 1, sphere.limit(rows, columns))
        mixed = jnp.einsum("loc,mlpc->mlpo", self.weight[: degree + 1], analysed(u, sphere, degree))
        return synthesised(mixed, sphere, rows, columns).astype(u.dtype)


class _Block(eqx.Module):
    convolution: SphericalConvolution
    skip: eqx.nn.Linear
    wide: eqx.nn.Linear
    narrow: eqx.nn.Linear

    def __init__(self, width: int, hidden: int, degree: int, *, key: Array):
        keys = jax.random.split(key, 4)
        self.convolution = SphericalConvolution(width, width, degree, key=keys[0])
        self.skip = eqx.nn.Linear(width, width, key=keys[1])
        self.wide = eqx.nn.Linear(width, hidden, key=keys[2])
        self.narrow = eqx.nn.Linear(hidden, width, key=keys[3])

    def __call__(self, x: Array, sphere: Sphere, activation: Callable) -> Array:
        y = activation(self.convolution.channels_last(x, sphere) + _pointwise(self.skip, x))
        return x + _pointwise(self.narrow, activation(_pointwise(self.wide, y)))


class SphericalFNO(eqx.Module):
    """Maps fields on a grid of the sphere to fields on it: `(in_channels, latitude, longitude) -> (out_channels,
    latitude, longitude)`. The grid may have another size in each call, the rows of which `sphere` tells the latitudes.

    After a pointwise layer to `width` channels, `layers` blocks add to their input a perceptron over the channels (of
    `expansion * width` hidden units) of the activated sum of a `SphericalConvolution` up to `degree` and a pointwise
    linear map; two pointwise layers follow (Bonev et al., ICML 2023, section 4; with real weights, and neither
    normalisation nor learnt positions).

    It commutes with shifts along the longitude to rounding, and with other rotations as far as the grid resolves what
    the activations produce, unless `latitude` gives it the sine of the latitude as another channel, on which the
    weather depends. Reflected input gives reflected output, so that only then the order of the rows matters.

    Raises ValueError for another number of channels or dimensions than stated, and a negative degree.
    """

    lift: eqx.nn.Linear
    blocks: tuple[_Block, ...]
    wide: eqx.nn.Linear
    project: eqx.nn.Linear
    sphere: Sphere
    activation: Callable = eqx.field(static=True)
    in_channels: int = eqx.field(static=True)
    latitude: bool = eqx.field(static=True)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        degree: int = 15,
        width: int = 32,
        layers: int = 4,
        expansion: int = 2,
        sphere: Sphere = Sphere(),
        latitude: bool = False,
        activation: Callable = jax.nn.gelu,
        key: Array,
    ):
        if degree < 0:
            raise ValueError(f"SphericalFNO: degree must not be negative, got {degree}")
        keys = jax.random.split(key, layers + 3)
        hidden = expansion * width
        self.lift = eqx.nn.Linear(in_channels + latitude, width, key=keys[0])
        self.blocks = tuple(_Block(width, hidden, degree, key=k) for k in keys[3:])
        self.wide = eqx.nn.Linear(width, hidden, key=keys[1])
        self.project = eqx.nn.Linear(hidden, out_channels, key=keys[2])
        self.sphere = sphere
        self.activation = activation
        self.in_channels = in_channels
        self.latitude = latitude

    def __call__(
        self, a: Float[Array, "in_channels latitude longitude"]
    ) -> Float[Array, "out_channels latitude longitude"]:
        check_field(a, self.in_channels, 2, "SphericalFNO")
        if self.latitude:
            sines = np.sin(np.radians(self.sphere.latitudes(a.shape[1])))[None, :, None]
            a = jnp.concatenate([a, jnp.broadcast_to(jnp.asarray(sines, a.dtype), (1, *a.shape[1:]))])
        # Channels last, a linear layer over them is one matrix product over all points.
        x = _pointwise(self.lift, jnp.moveaxis(a, 0, -1))
        for block in self.blocks:
            x = block(x, self.sphere, self.activation)
        return jnp.moveaxis(_pointwise(self.project, self.activation(_pointwise(self.wide, x))), -1, 0)


def _pointwise(layer: eqx.nn.Linear, x: Array) -> Array:
    """A linear layer over the channels, which come last."""
    y = x @ layer.weight.T
    return y if layer.bias is None else y + layer.bias
