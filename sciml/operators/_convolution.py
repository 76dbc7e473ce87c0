"""Convolutions on grids that know what each axis has beyond its ends, and coarser grids whose points fit the finer
ones.

Halving an axis (in general: dividing it by a `factor`) must leave an axis of the same kind, or what the coarse grid
has beyond its ends would not be what the fine one has there. Where points lie at the ends (`ends`, `interior`, and
`left` on an axis that is not periodic), coarse points are every second fine one, and windows are centred on them. On
periodic axes, where any place is as good as another, and for `centres`, coarse points lie in the middle of pairs.
"""

import functools
import math
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float
from scipy.fft import next_fast_len

from ._axes import Axis, Bounded, Cosine, Periodic, Sine, as_axes, check_field, ends, interior, left

# From this many weights on, the CPU convolves channel by channel faster by Fourier transform.
_LONG_KERNEL = 9


def coarse_start(axis: Axis, factor: int) -> int | None:
    """The fine point on which the first coarse one lies; None where coarse points lie in the middle of blocks."""
    if isinstance(axis, Periodic) or axis.points not in (left, ends, interior):
        return None
    return factor - 1 if axis.points is interior else 0


def coarse_size(axis: Axis, n: int, factor: int) -> int:
    """How many points an axis of n has when it is made coarser by `factor`. A bounded axis takes any number and goes
    on with what is beyond its end; raises ValueError where another kind does not fit.
    """
    check_sizes([axis], (n,), factor, "coarse_size")
    if isinstance(axis, Bounded):
        return -(-(n - (coarse_start(axis, factor) or 0)) // factor)
    return (n - _excess(axis)) // factor + _excess(axis)


def check_sizes(axes: Sequence[Axis], grid: tuple[int, ...], factor: int, name: str) -> None:
    """Raises ValueError, with the nearest sizes that fit, unless the grid can be made coarser by `factor`.

    Periodic axes, and `centres`, need a multiple of it; `ends` one point more than a multiple, `interior` one less.
    """
    for dim, (axis, n) in enumerate(zip(axes, grid)):
        start = coarse_start(axis, factor) or 0
        if isinstance(axis, Bounded):
            if n <= start:
                raise ValueError(f"{name}: axis {dim} has {n} points; at least {start + 1} are needed")
            continue
        excess = _excess(axis)
        # A mirror needs two points to know their distance.
        least = max(1, (2 if isinstance(axis, Cosine | Sine) else 1) - excess)
        below = (n - excess) // factor
        if (n - excess) % factor or below < least:
            fitting = sorted({max(least, below) * factor + excess, max(least, below + 1) * factor + excess})
            raise ValueError(
                f"{name}: {n} points along axis {dim} ({type(axis).__name__}) do not fit a grid {factor} times "
                f"coarser; the nearest numbers that do: {', '.join(map(str, fitting))}. Resample the field, or make "
                "it less coarse"
            )


def _excess(axis: Axis) -> int:
    """Numbers of points that fit are multiples of the factor, plus this."""
    if isinstance(axis, Periodic):
        return 0
    return (axis.points is ends) - (axis.points is interior)


def pad_all(u: Array, axes: Sequence[Axis], widths: Sequence[tuple[int, int]]) -> Array:
    """A field `(channels, *grid)` with more values beyond the ends of each axis."""
    for dim, (axis, (before, after)) in enumerate(zip(axes, widths)):
        if before or after:
            u = axis.pad(u, dim + 1, before, after)
    return u


def max_pool(u: Float[Array, " channels *grid"], axes: Sequence[Axis]) -> Float[Array, " channels *coarse"]:
    """The largest value about each point of the grid of half as many: of the pair, or of the point and its two
    neighbours.
    """
    for dim, axis in enumerate(axes):
        n = u.shape[dim + 1]
        m = coarse_size(axis, n, 2)
        window = 2 if coarse_start(axis, 2) is None else 3
        u = axis.pad(u, dim + 1, *_beyond(axis, n, window, 2, 1))
        parts = [lax.slice_in_dim(u, i, i + 2 * m - 1, 2, dim + 1) for i in range(window)]
        u = functools.reduce(jnp.maximum, parts)
    return u


def _beyond(axis: Axis, n: int, window: int, stride: int, dilation: int) -> tuple[int, int]:
    """How many values before and after n a convolution needs."""
    start, reach = coarse_start(axis, stride), dilation * (window - 1)
    m = coarse_size(axis, n, stride) if stride > 1 else n
    before = (reach + 1 - stride) // 2 if start is None else reach // 2 - start
    return before, stride * (m - 1) + reach + 1 - before - n


class Convolution(eqx.Module):
    """Convolution `(in_channels, *grid) -> (out_channels, *grid)` over `window` points along each axis, with what the
    axis has beyond its ends: the field that goes around, zero, or the mirrored field.

    With a `stride`, the result lies on the coarser grid that `coarse_size` tells of. Without a `window` it takes 3
    points, or with a stride just those that belong to each coarse point. `groups` of channels do not see each other.
    Weights are normal with variance `gain` / fan in and biases zero.

    Raises ValueError for a window that cannot lie centred on the points of the result.
    """

    weight: Float[Array, "out_channels inner *window"]
    bias: Float[Array, " out_channels"] | None
    axes: tuple[Axis, ...]
    stride: int = eqx.field(static=True)
    dilation: int = eqx.field(static=True)
    groups: int = eqx.field(static=True)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        dimensions: int = 2,
        window: int | None = None,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        use_bias: bool = True,
        gain: float = 1.0,
        axes: Axis | Sequence[Axis] = Periodic(),
        key: Array,
    ):
        self.axes = as_axes(axes, dimensions)
        self.stride, self.dilation, self.groups = stride, dilation, groups
        if in_channels % groups or out_channels % groups:
            raise ValueError(
                f"Convolution: {in_channels} and {out_channels} channels do not divide into {groups} groups"
            )
        windows = tuple(_window(axis, window, stride, dilation) for axis in self.axes)
        shape = (out_channels, in_channels // groups, *windows)
        self.weight = (gain / math.prod(shape[1:])) ** 0.5 * jax.random.normal(key, shape)
        self.bias = jnp.zeros(out_channels) if use_bias else None

    def __call__(self, u: Float[Array, " in_channels *grid"]) -> Float[Array, " out_channels *coarse"]:
        check_field(u, self.weight.shape[1] * self.groups, len(self.axes), "Convolution")
        windows = self.weight.shape[2:]
        widths = [
            _beyond(axis, n, window, self.stride, self.dilation)
            for axis, n, window in zip(self.axes, u.shape[1:], windows)
        ]
        dtype = jnp.result_type(u, self.weight)
        v = self._convolve(pad_all(u, self.axes, widths).astype(dtype), self.weight.astype(dtype))
        return v if self.bias is None else v + along_channels(self.bias, v)

    def _convolve(self, u: Array, weight: Array) -> Array:
        windows = weight.shape[2:]
        if self.groups == self.dilation == 1 and all(window == self.stride for window in windows):
            return _blocks(u, weight, self.stride)
        depthwise = weight.shape[1] == 1 and weight.shape[0] == self.groups > 1
        if depthwise and self.stride == self.dilation == 1 and math.prod(windows) >= _LONG_KERNEL:
            return lax.platform_dependent(u, weight, cpu=_by_fourier, default=_by_channel)
        strides, dilations = (self.stride,) * len(windows), (self.dilation,) * len(windows)
        return lax.conv_general_dilated(
            u[None], weight, strides, "VALID", rhs_dilation=dilations, feature_group_count=self.groups
        )[0]


def _window(axis: Axis, window: int | None, stride: int, dilation: int) -> int:
    centred = stride == 1 or coarse_start(axis, stride) is not None
    least = 2 * stride - 1 if centred else stride
    if window is None:
        return 3 if stride == 1 else least
    reach = dilation * (window - 1) + 1
    if reach < least or (reach - least) % 2 or (centred and window % 2 == 0):
        raise ValueError(
            f"Convolution: a window of {window} points (dilation {dilation}) does not lie centred at stride {stride} "
            f"along a {type(axis).__name__} axis; take {least}, {least + 2}, ... and no dilation, or leave it out"
        )
    return window


def along_channels(values: Array, u: Array) -> Array:
    """One value for each channel, in a shape that multiplies a field."""
    return values.reshape(-1, *(1,) * (u.ndim - 1))


def _blocks(u: Array, weight: Array, size: int) -> Array:
    """Convolution with a stride as long as its window: a product with each block of points."""
    dimensions = u.ndim - 1
    if size > 1:
        u = u.reshape(u.shape[0], *(part for n in u.shape[1:] for part in (n // size, size)))
        u = u.transpose(0, *range(2, 2 * dimensions + 1, 2), *range(1, 2 * dimensions, 2))
    else:
        weight = weight.reshape(weight.shape[:2])
    inner = weight.ndim - 1
    return lax.dot_general(weight, u, ((range(1, weight.ndim), range(inner)), ((), ())))


def _by_channel(u: Array, weight: Array) -> Array:
    """Each channel convolved with a kernel of its own, as the values that need nothing beyond the ends."""
    return lax.conv_general_dilated(u[None], weight, (1,) * (u.ndim - 1), "VALID", feature_group_count=weight.shape[0])[
        0
    ]


def _by_fourier(u: Array, weight: Array) -> Array:
    """As `_by_channel`, by Fourier transform: on CPUs XLA has no fast loop for it (7 x 7 points, 32 channels, 64 x 64,
    a batch of 16: 50 ms instead of 310, with the gradient 110 instead of 1,500).
    """
    dims = tuple(range(1, u.ndim))
    sizes = [int(next_fast_len(n, real=True)) for n in u.shape[1:]]  # pyright: ignore[reportArgumentType]
    dtype = jnp.result_type(u, jnp.float32)
    spectrum = jnp.fft.rfftn(u.astype(dtype), sizes, dims)
    kernel = jnp.fft.rfftn(weight[:, 0].astype(dtype), sizes, dims)
    v = jnp.fft.irfftn(spectrum * kernel.conj(), sizes, dims)
    kept = tuple(slice(n - k + 1) for n, k in zip(u.shape[1:], weight.shape[2:]))
    return v[(slice(None), *kept)].astype(u.dtype)


class Upsampling(eqx.Module):
    """Linear map from a grid `(in_channels, *coarse)` to the one twice as fine `(out_channels, *grid)`, the transposed
    form of a strided `Convolution`: each coarse point adds to its pair of fine ones, or to the one it lies on and the
    two beside it. Weights are normal with variance 1 / fan in and biases zero.
    """

    weight: Float[Array, "out_channels in_channels *window"]
    bias: Float[Array, " out_channels"]
    axes: tuple[Axis, ...]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        dimensions: int = 2,
        axes: Axis | Sequence[Axis] = Periodic(),
        key: Array,
    ):
        self.axes = as_axes(axes, dimensions)
        windows = tuple(2 if coarse_start(axis, 2) is None else 3 for axis in self.axes)
        shape = (out_channels, in_channels, *windows)
        # Of a window of three, one or two coarse points meet at a fine one.
        meeting = in_channels * 1.5 ** windows.count(3)
        self.weight = jax.random.normal(key, shape) / meeting**0.5
        self.bias = jnp.zeros(out_channels)

    def __call__(
        self, u: Float[Array, " in_channels *coarse"], grid: tuple[int, ...]
    ) -> Float[Array, " out_channels *fine"]:
        """The field on the finer grid with these numbers of points."""
        check_field(u, self.weight.shape[1], len(self.axes), "Upsampling")
        weight, begins = self.weight, []
        for dim, axis in enumerate(self.axes):
            start = coarse_start(axis, 2)
            weight = _phases(weight, dim + 2)
            begins.append(0 if start is None else 2 - start)
            u = u if start is None else axis.pad(u, dim + 1, 1, 1)
        dtype = jnp.result_type(u, weight)
        fine = _interleaved(u.astype(dtype), weight.astype(dtype))
        kept = tuple(slice(begin, begin + n) for begin, n in zip(begins, grid))
        return fine[(slice(None), *kept)] + along_channels(self.bias, fine)


def _phases(weight: Array, dim: int) -> Array:
    """The window along a dimension as what the two fine points from each coarse one on take of it and of its next:
    dimension `dim` becomes 1 or 2 (of the coarse points) and another follows at the end (of the fine ones).
    """
    parts = [lax.index_in_dim(weight, i, dim, keepdims=False) for i in range(weight.shape[dim])]
    if len(parts) == 2:
        taps = [jnp.stack(parts, -1)]
    else:
        before, on, after = parts
        taps = [jnp.stack([on, after], -1), jnp.stack([jnp.zeros_like(before), before], -1)]
    return jnp.stack(taps, dim)


def _interleaved(u: Array, weight: Array) -> Array:
    """Convolution with weights `(out, in, *taps, *phases)`, the phases laid side by side on the finer grid."""
    dimensions = u.ndim - 1
    weight = jnp.moveaxis(weight, range(dimensions + 2, 2 * dimensions + 2), range(1, dimensions + 1))
    shape = weight.shape[: dimensions + 1]
    kernel = weight.reshape(math.prod(shape), *weight.shape[dimensions + 1 :])
    if math.prod(kernel.shape[2:]) == 1:
        v = _blocks(u, kernel, 1)
    else:
        v = lax.conv_general_dilated(u[None], kernel, (1,) * dimensions, "VALID")[0]
    v = v.reshape(*shape, *v.shape[1:])
    v = v.transpose(0, *(place for i in range(1, dimensions + 1) for place in (i + dimensions, i)))
    return v.reshape(v.shape[0], *(v.shape[i] * v.shape[i + 1] for i in range(1, 2 * dimensions, 2)))


class ChannelNorm(eqx.Module):
    """Layer normalisation over the channels of each point by itself, with a scale and an offset for each channel."""

    scale: Float[Array, " channels"]
    offset: Float[Array, " channels"]

    def __init__(self, channels: int):
        self.scale = jnp.ones(channels)
        self.offset = jnp.zeros(channels)

    def __call__(self, u: Float[Array, " channels *grid"]) -> Float[Array, " channels *grid"]:
        # Variances of half-precision numbers are taken in single precision.
        v = u.astype(jnp.result_type(u, jnp.float32))
        v = v - jnp.mean(v, 0, keepdims=True)
        v = v * lax.rsqrt(jnp.mean(v**2, 0, keepdims=True) + 1e-6)
        return (v * along_channels(self.scale, v) + along_channels(self.offset, v)).astype(u.dtype)
