"""Spectral convolution: the lowest modes of a field, mixed over channels, in real arithmetic.

Inside, channels come last: a channel mixing is then one matrix product over all points, a transform one over all
channels, which is what CPUs and GPUs do fastest. Complex numbers are pairs on an axis of their own, so that parameters
are real.
"""

import functools
import math
from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ._axes import Axis, Bounded, Periodic, as_axes, left
from ._weights import Dense, Weights

# A product with a matrix costs as much as this many operations of a Fourier transform (benchmarks/operators.py).
FFT_COST = 8.0
LETTERS = "abcdefgh"


class SpectralConvolution(eqx.Module):
    """Multiplies each of the lowest modes of a field by a matrix over channels (Li et al., "Fourier neural operator for
    parametric partial differential equations", ICLR 2021, eq. 5): `(in_channels, *grid) -> (out_channels, *grid)`.

    `modes` counts the wavenumbers of each axis from 0 up; a Fourier axis has the negative ones too. Weights belong to
    wavenumbers, not to points, so that any grid can be taken; on a grid with fewer points the highest are left out. The
    result is real by construction: one Fourier axis holds the wavenumbers from 0 up only, those below are conjugates.

    With `active`, an integer for each axis, only that many modes count: an array, so that a change of it is no new
    program.
    """

    weights: Weights
    active: Int[Array, "dimensions"] | None
    modes: tuple[int, ...] = eqx.field(static=True)
    axes: tuple[Axis, ...]

    # Half precision loses the small modes among the large ones.
    full_precision = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        modes: int | Sequence[int],
        axes: Axis | Sequence[Axis] = Periodic(),
        weights: Callable[..., Weights] = Dense,
        key: Array,
    ):
        self.modes = (modes,) if isinstance(modes, int) else tuple(modes)
        if not self.modes or min(self.modes) < 1:
            raise ValueError(f"modes must be 1 or more for each dimension, got {modes}")
        self.axes = as_axes(axes, len(self.modes))
        half = _half(self.axes)
        rows = [2 * m - 1 if _signed(a, i, half) else m for i, (m, a) in enumerate(zip(self.modes, self.axes))]
        parts = 1 if half is None else 2
        self.weights = weights(in_channels, out_channels, tuple(rows), parts, key=key)
        self.active = None

    def __call__(
        self, u: Float[Array, "in_channels *grid"], shape: Sequence[int] | None = None
    ) -> Float[Array, "out_channels *other"]:
        """The convolution of one sample, on its grid or on one of another shape."""
        return jnp.moveaxis(self.channels_last(jnp.moveaxis(u, 0, -1), shape), -1, 0)

    def channels_last(
        self, u: Float[Array, "*grid in_channels"], shape: Sequence[int] | None = None
    ) -> Float[Array, "*other out_channels"]:
        """The same for a field whose channels come last."""
        shape = u.shape[:-1] if shape is None else tuple(shape)
        sizes = zip(self.modes, self.axes, u.shape, shape)
        kept = tuple(min(m, a.limit(n), a.limit(other)) for m, a, n, other in sizes)
        spectrum = analysis(u, self.axes, kept)
        return synthesis(self.weights.mix(spectrum, self._chosen(kept)), self.axes, kept, shape)

    def _chosen(self, kept: tuple[int, ...]):
        """Which rows of the weights are used, and how much each counts."""
        half = _half(self.axes)
        rows, masks = [], []
        for i, (count, modes, axis) in enumerate(zip(kept, self.modes, self.axes)):
            signed = _signed(axis, i, half)
            rows.append(slice(modes - count, modes + count - 1) if signed else slice(0, count))
            if self.active is not None:
                wavenumber = jnp.abs(jnp.arange(1 - count, count)) if signed else jnp.arange(count)
                masks.append(wavenumber < self.active[i])
        mask = None
        if masks:
            mask = functools.reduce(jnp.logical_and, jnp.meshgrid(*masks, indexing="ij", sparse=True))
        return tuple(rows), mask


def with_active_modes(model: eqx.Module, *modes: int) -> eqx.Module:
    """The model with only this many modes of each spectral layer in use: the others count as zero and get no gradient.
    From few to many during training (George et al., "Incremental spatial and spectral learning of neural operators",
    2022) this is one program; the first use of it is another one than that of all modes.

    Raises ValueError for another number of dimensions, or for more modes than there are.
    """

    def limited(layer):
        if not isinstance(layer, SpectralConvolution):
            return layer
        wanted = modes * len(layer.modes) if len(modes) == 1 else modes
        if len(wanted) != len(layer.modes) or any(not 1 <= w <= m for w, m in zip(wanted, layer.modes)):
            raise ValueError(f"with_active_modes: expected 1 to {layer.modes} modes by dimension, got {modes}")
        return eqx.tree_at(lambda s: s.active, layer, jnp.asarray(wanted), is_leaf=lambda x: x is None)

    return jax.tree.map(limited, model, is_leaf=lambda x: isinstance(x, SpectralConvolution))


def analysis(u: Float[Array, "*grid channels"], axes: Sequence[Axis], counts: Sequence[int]) -> Array:
    """The lowest modes of a field: `(parts, *modes, channels)`, with parts (real, imaginary), or one part where no axis
    is a Fourier axis.
    """
    half = _half(axes)
    z, done = u, []
    for i in _order(axes):
        places = [d for d in range(len(axes)) if d not in done and d != i]
        z = _forward(z, axes[i], counts[i], u.shape[i], places, i, done, half)
        done = sorted([*done, i])
    return z[None] if half is None else z


def synthesis(z: Array, axes: Sequence[Axis], counts: Sequence[int], shape: Sequence[int]) -> Array:
    """The field on a grid of this shape with these modes: `(*grid, channels)`."""
    half = _half(axes)
    z = z[0] if half is None else z
    done = list(range(len(axes)))
    for i in reversed(_order(axes)):
        done.remove(i)
        places = [d for d in range(len(axes)) if d not in done and d != i]
        z = _backward(z, axes[i], counts[i], shape[i], places, i, done, half)
    return z


# While a field is being transformed its dimensions are (not yet transformed, part, transformed, channel); the part is
# there from the half axis on, which is the first of the Fourier axes to be transformed.


def _letters(places: Sequence[int], done: Sequence[int], part: bool, letter: str) -> str:
    """The dimensions of a field of which some axes are done, as letters: lower case for points, upper for modes."""
    points = "".join(LETTERS[d] for d in sorted(places))
    modes = "".join(LETTERS[d].upper() for d in sorted(done))
    return points + (letter if part else "") + modes + "z"


def _forward(z, axis, count, n, places, i, done, half):
    letter, has_part = LETTERS[i], half is not None and half in done
    before = _letters([*places, i], done, has_part, "p")
    after = _letters(places, [*done, i], has_part or i == half, "q")
    if _uses_fft(axis, count, n):
        return _forward_fft(z, count, before, after, letter, i == half)
    matrix = _analysis_matrix(axis, n, count)
    if not _is_fourier(axis):
        return _product(f"{before},{letter}{letter.upper()}->{after.replace('q', 'p')}", z, matrix)
    if i == half:
        return _product(f"{before},{letter}q{letter.upper()}->{after}", z, matrix)
    both = after.replace("q", "pq")
    parts = _product(f"{before},{letter}q{letter.upper()}->{both}", z, matrix)
    return _signed_from_parts(parts, both.index("p"), after.index(letter.upper()))


def _backward(z, axis, count, n, places, i, done, half):
    letter, keeps_part = LETTERS[i], half is not None and half in done
    before = _letters(places, [*done, i], keeps_part or i == half, "q")
    after = _letters([*places, i], done, keeps_part, "p")
    if _uses_fft(axis, count, n):
        return _backward_fft(z, count, n, before.replace("q", "p"), after.replace("p", "q"), letter, i == half)
    matrix = _synthesis_matrix(axis, n, count)
    if not _is_fourier(axis):
        return _product(f"{before},{letter}{letter.upper()}->{after.replace('p', 'q')}", z, matrix)
    if i == half:
        return _product(f"{before},{letter}q{letter.upper()}->{after}", z, matrix)
    parts = _parts_from_signed(z, before.index("q"), before.index(letter.upper()), count)
    return _product(f"{before.replace('q', 'pq')},{letter}q{letter.upper()}->{after}", parts, matrix)


# Along a signed axis the real and the imaginary part are transformed as real fields, to wavenumbers from 0 up: half the
# work of a product with complex numbers, of which the modes are then made.


def _signed_from_parts(parts: Array, p: int, dim: int) -> Array:
    """The modes of r + i s, by wavenumber from the lowest, of those of r and s: `parts` has (r, s) on the axis p and
    (real, imaginary) on the next. In the result p is (real, imaginary), and `dim` are the wavenumbers.
    """
    (r, ri), (s, si) = (_unstacked(half, p) for half in _unstacked(parts, p))
    low, high = jnp.stack([r + si, s - ri], axis=p), jnp.stack([r - si, s + ri], axis=p)
    return jnp.concatenate([jnp.flip(_from_one(low, dim), dim), high], axis=dim)


def _parts_from_signed(z: Array, p: int, dim: int, count: int) -> Array:
    """The reverse."""
    low = jnp.flip(jax.lax.slice_in_dim(z, 0, count, axis=dim), dim)
    high = jax.lax.slice_in_dim(z, count - 1, 2 * count - 1, axis=dim)
    (r, s), (si, ri) = _unstacked((high + low) / 2, p), _unstacked((low - high) / 2, p)
    return jnp.stack([jnp.stack([r, -ri], axis=p), jnp.stack([s, si], axis=p)], axis=p)


def _unstacked(array: Array, axis: int) -> tuple[Array, Array]:
    return jnp.take(array, 0, axis=axis), jnp.take(array, 1, axis=axis)


def _from_one(array: Array, dim: int) -> Array:
    return jax.lax.slice_in_dim(array, 1, array.shape[dim], axis=dim)


def _product(subscripts: str, z: Array, matrix: np.ndarray) -> Array:
    # Accelerators would round the factors to 10 bits.
    return jnp.einsum(subscripts, z, jnp.asarray(matrix, z.dtype), precision=jax.lax.Precision.HIGHEST)


def _forward_fft(z, count, before, after, letter, half):
    dims = before.replace("p", "")
    dim = dims.index(letter)
    if half:
        spectrum = jax.lax.slice_in_dim(jnp.fft.rfft(z, axis=dim, norm="forward"), 0, count, axis=dim)
    else:
        whole = jnp.fft.fft(_complex(z, before.index("p")), axis=dim, norm="forward")
        low = jax.lax.slice_in_dim(whole, whole.shape[dim] - count + 1, whole.shape[dim], axis=dim)
        spectrum = jnp.concatenate([low, jax.lax.slice_in_dim(whole, 0, count, axis=dim)], axis=dim)
    return _pair(_reordered(spectrum, dims.replace(letter, letter.upper()), after.replace("q", "")), after)


def _backward_fft(z, count, n, before, after, letter, half):
    spectrum = _complex(z, before.index("p"))
    dims = before.replace("p", "")
    dim = dims.index(letter.upper())
    found = dims.replace(letter.upper(), letter)
    if half:
        return _reordered(jnp.fft.irfft(spectrum, n=n, axis=dim, norm="forward"), found, after)
    gap = list(spectrum.shape)
    gap[dim] = n - 2 * count + 1
    low = jax.lax.slice_in_dim(spectrum, 0, count - 1, axis=dim)
    high = jax.lax.slice_in_dim(spectrum, count - 1, 2 * count - 1, axis=dim)
    whole = jnp.concatenate([high, jnp.zeros(gap, spectrum.dtype), low], axis=dim)
    return _pair(_reordered(jnp.fft.ifft(whole, axis=dim, norm="forward"), found, after.replace("q", "")), after)


def _reordered(array: Array, found: str, wanted: str) -> Array:
    return jnp.transpose(array, [found.index(c) for c in wanted])


def _pair(spectrum: Array, dims: str) -> Array:
    return jnp.stack([spectrum.real, spectrum.imag], axis=dims.index("q"))


def _complex(z: Array, part: int) -> Array:
    return jax.lax.complex(*_unstacked(z, part))


def _uses_fft(axis: Axis, count: int, n: int) -> bool:
    """Whether a fast transform of n points costs less than a product with a matrix."""
    if not (isinstance(axis, Periodic) and axis.points is left):
        return False
    return 4 * count > FFT_COST * 2.5 * math.log2(max(2, n))


def _is_fourier(axis: Axis) -> bool:
    return isinstance(axis, Periodic | Bounded)


def _half(axes: Sequence[Axis]) -> int | None:
    """The axis that holds wavenumbers from 0 up only: the last Fourier axis."""
    found = [i for i, axis in enumerate(axes) if _is_fourier(axis)]
    return found[-1] if found else None


def _signed(axis: Axis, i: int, half: int | None) -> bool:
    return _is_fourier(axis) and i != half


def _order(axes: Sequence[Axis]) -> list[int]:
    """In which order axes are transformed: the half axis first, which keeps least, then from the last."""
    half = _half(axes)
    return ([] if half is None else [half]) + [i for i in reversed(range(len(axes))) if i != half]


@functools.lru_cache(maxsize=256)
def _analysis_matrix(axis: Axis, n: int, count: int) -> np.ndarray:
    """From n values to modes: `(n, 2, count)` with real and imaginary parts, `(n, count)` where the basis is real."""
    basis = axis.modes(count, axis.coordinates(n)) / axis.norms(count)[:, None] * axis.weights(n)
    return np.stack([np.real(basis).T, -np.imag(basis).T], axis=1) if _is_fourier(axis) else basis.T


@functools.lru_cache(maxsize=256)
def _synthesis_matrix(axis: Axis, n: int, count: int) -> np.ndarray:
    """From modes to n values, as the transpose of the analysis. Those of negative wavenumber are the conjugates."""
    basis = axis.modes(count, axis.coordinates(n))
    if not _is_fourier(axis):
        return basis.T
    twice = np.where(np.arange(count) == 0, 1.0, 2.0)[:, None]
    return np.stack([(twice * np.real(basis)).T, (-twice * np.imag(basis)).T], axis=1)
