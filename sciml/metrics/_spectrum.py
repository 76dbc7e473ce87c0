"""Power spectra by shells of wavenumbers, and errors of and within them."""

from collections.abc import Sequence
from typing import Unpack

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike

from ._derivatives import spacings, wavenumbers
from ._fields import Fields, Kept, fields, in_their_precision, root

Spaces = ArrayLike | Sequence[ArrayLike] | None
# Power below this part of the target's total is that of rounding.
FLOOR = 1e-10


@in_their_precision
def spectrum(
    field: ArrayLike, *, grid: int | Sequence[int], spacing: Spaces = None, **kept: Unpack[Kept]
) -> tuple[Array, Array]:
    """The isotropic power spectrum of a batch of fields in any number of dimensions: `(wavenumbers, power)`.

    - `grid`: the axes of space, which must be named. What a sample has besides these and what is kept is averaged.
    - `spacing`: the step between points (one, or one for each axis), by default that of a periodic grid of length 1.

    Shell j has all modes whose wave vector has a length from (j - 1/2) dk to (j + 1/2) dk, where dk is 2 pi over the
    longest side; wavenumbers j dk are in radians per unit of length. `power`, `(*kept, shells)`, sums `|u_k|^2`
    of each shell, averaged over samples: over shells it adds up to the mean square of the field (Parseval), so that
    power / dk is a density. Shells beyond the least Nyquist wavenumber are corners of the grid, and hold only a part of
    a sphere.

    The field is taken as periodic; where it is not, the jump at its ends adds power that decays as 1 / k^2.
    """
    found = fields(field, field, grid=grid, **kept)
    power, numbers, _ = _shells(found, found.target, spacing)
    return jnp.asarray(numbers, power.dtype), _averaged(found, power)


@in_their_precision
def spectrum_error(
    prediction: ArrayLike,
    target: ArrayLike,
    *,
    grid: int | Sequence[int],
    spacing: Spaces = None,
    floor: float = FLOOR,
    **kept: Unpack[Kept],
) -> Array:
    """The root mean square over shells of log10 of the prediction's power over the target's, so that 1 is a factor of
    ten: whether the prediction is as rough as the target, wherever its features are.

    Spectra are averaged over samples first (unless `per_sample`); shells are those of `spectrum` from the first to the
    least Nyquist wavenumber. `floor` times the target's total power is added to both, so that rounding does not count.
    Raises ValueError for a grid without such a shell.
    """
    found = fields(prediction, target, grid=grid, **kept)
    ours, numbers, whole = _shells(found, found.prediction, spacing)
    theirs, _, _ = _shells(found, found.target, spacing)
    if whole < 1:
        raise ValueError("spectrum_error needs two points or more along each axis")
    ours, theirs = _averaged(found, ours), _averaged(found, theirs)
    least = floor * jnp.sum(theirs, -1, keepdims=True)
    ratio = jnp.log10((ours + least) / (theirs + least))[..., 1 : whole + 1]
    return root(jnp.mean(ratio**2, -1))


@in_their_precision
def band_rmse(
    prediction: ArrayLike,
    target: ArrayLike,
    *,
    grid: int | Sequence[int],
    edges: Sequence[int] = (4, 12),
    spacing: Spaces = None,
    relative: bool = False,
    **kept: Unpack[Kept],
) -> Array:
    """The root mean square error within bands of wavenumbers, in the units of the data, `(*kept, bands)`: the squares
    add up to that of `rmse`.

    - `edges`: the shells (see `spectrum`) where a band begins: by default the low one is below 4, the middle one goes
      from 4 to 11 and the high one is above, as in PDEBench.
    - `relative`: divided by the root mean square of the target in the band; NaN or infinite where it has nothing there.

    Raises ValueError for edges that do not rise.
    """
    if list(edges) != sorted(set(edges)) or (edges and edges[0] < 1):
        raise ValueError(f"edges must be rising numbers of shells above 0, got {tuple(edges)}")
    found = fields(prediction, target, grid=grid, **kept)
    bands = [_averaged(found, _banded(_shells(found, u, spacing)[0], edges)) for u in (found.error, found.target)]
    return root(bands[0]) / root(bands[1]) if relative else root(bands[0])


def _averaged(found: Fields, power: Array) -> Array:
    return power if found.per_sample else jnp.mean(power, 0)


def _banded(power: Array, edges: Sequence[int]) -> Array:
    limits = [0, *(min(e, power.shape[-1]) for e in edges), power.shape[-1]]
    return jnp.stack([jnp.sum(power[..., a:b], -1) for a, b in zip(limits[:-1], limits[1:])], -1)


def _shells(found: Fields, u: Array, spacing: Spaces) -> tuple[Array, np.ndarray, int]:
    """The power in each shell, `(samples, *kept, shells)`, their wavenumbers, and the last that is a whole sphere."""
    shape = u.shape[-len(found.layout.grid) :]
    steps = [float(s) for s, _ in spacings(spacing, shape, True)]
    unit = 2 * np.pi / max(n * h for n, h in zip(shape, steps))
    # Modes between two shells by rounding alone all go to the upper one.
    index = np.floor(wavenumbers(shape, steps, real=True) / unit + 0.5 + 1e-9).astype(int)
    # Of two modes that are conjugates `rfftn` has one.
    twice = np.full(shape[-1] // 2 + 1, 2.0)
    twice[0] = 1.0
    if shape[-1] % 2 == 0:
        twice[-1] = 1.0
    size = np.prod(shape, dtype=float)
    modes = jnp.fft.rfftn(u, axes=found.layout.space)
    power = (modes.real**2 + modes.imag**2) * jnp.asarray(twice / size**2, u.dtype)
    whole = int(min(n // 2 * 2 * np.pi / (n * h) for n, h in zip(shape, steps)) / unit + 1e-9)
    shells = int(index.max()) + 1
    inner = tuple(range(-1 - len(found.layout.inner), -1))
    return jnp.mean(binned(power, index, shells), inner), unit * np.arange(shells), whole


def binned(values: Array, index: np.ndarray, count: int) -> Array:
    """Sums over the trailing axes, those of `index`, of the values that belong to each of `count` bins; a number below
    0 or from `count` on belongs to none.

    Each bin is a row of a table of places: a sum of a row is as exact as any, which one of scattered values is not.
    """
    flat = values.reshape(*values.shape[: values.ndim - index.ndim], index.size)
    order = np.argsort(index, axis=None, kind="stable")
    starts = np.searchsorted(index.ravel()[order], np.arange(count + 1))
    # Beyond the members of a bin stands the place of a zero.
    table = np.full((count, max(1, np.diff(starts).max())), index.size)
    for row, start, stop in zip(table, starts[:-1], starts[1:]):
        row[: stop - start] = order[start:stop]
    padded = jnp.concatenate([flat, jnp.zeros((*flat.shape[:-1], 1), flat.dtype)], -1)
    return jnp.sum(jnp.take(padded, jnp.asarray(table), axis=-1), -1)
