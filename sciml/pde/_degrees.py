"""Which polynomials: sets of degrees that follow from what fewer polynomials found.

Coefficients of degrees k fall about as a_f exp(-sum_i r_fi k_i) with rates r of each field f and axis i. Fields may
vary faster along one axis than along another, one field faster than another, and many are even or odd about the middle
of an axis. The degrees whose coefficients are expected above a limit, the same for all fields (Gerstner & Griebel,
Computing 71, 2003, choose by the size of contributions too), are then fewer than all up to a total degree.
"""

from math import isqrt
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

# Second derivatives of higher degrees suffer from rounding.
HIGHEST_DEGREE = 64
# Of one input, beyond so many polynomials asked for there is one in ten of them.
FEW = 500
# As many polynomials more than asked for may complete a degree.
COMPLETION = 1.15
# A field that depends little on an axis is not known not to need a few degrees.
LARGEST_WEIGHT = 4.0
# Degrees that show rates which differ by one more.
FEW_DEGREES = 4.0
# Coefficients of a parity are not needed if they are less than this share of what those next to them suggest.
STRAY = 0.1


class Found(NamedTuple):
    """Polynomials by their degrees, which of them each output is made of, and their shares of the residuals."""

    degrees: Int[np.ndarray, "features inputs"]
    kept: Bool[np.ndarray, "outputs features"]
    shares: Float[np.ndarray, "outputs features"]


class Decay(NamedTuple):
    """The rates of each output and axis, in units of the slowest; how many degrees later than those of the largest
    output coefficients begin; and the degrees that occur: 0 only even ones, 1 only odd ones, -1 both.
    """

    weights: Float[np.ndarray, "outputs inputs"]
    offsets: Float[np.ndarray, " outputs"]
    parities: Int[np.ndarray, "outputs inputs"]


def total_degree(size: int, count: int) -> Int[np.ndarray, "features inputs"]:
    """All degrees in so many inputs up to a total one, about `count` of them; along one axis fewer, as derivatives
    suffer from rounding before so many are of use: the root, and more only where count is large, for thin layers.
    """
    if size == 1:
        return np.arange(max(1, isqrt(count), (count - FEW) // 10) + 1)[:, None]
    return degree_sets(Decay(np.ones((1, size)), np.zeros(1), np.full((1, size), -1)), count)[0]


def decay(found: Found) -> Decay:
    """That of the coefficients found, by their shares of the residuals.

    Those of the outermost degrees of a set, the largest of which is its tail, show what those beyond it may be.
    """
    degrees, kept, shares = found
    tails = [own[_outermost(degrees, of)].max(initial=0.0) for own, of in zip(shares, kept)]
    largest = np.maximum(shares.max(axis=1), np.finfo(float).tiny)
    along = [[_along(column, own) for column in degrees.T] for own in shares]
    rates = np.array([[_rate(a, top, tail) for a in row] for row, top, tail in zip(along, largest, tails)])
    parities = np.array([[_parity(a, tail) for a in row] for row, tail in zip(along, tails)])
    # Rounded down: rather too many degrees than too few.
    weights = np.floor(2 * rates / rates.min()) / 2
    return Decay(np.minimum(weights, _largest_weight(degrees)), np.log(largest / largest.max()) / rates.min(), parities)


def _largest_weight(degrees: Int[np.ndarray, "features inputs"]) -> float:
    """Few degrees say little about rates: up to five say that they are all alike."""
    return float(np.clip(np.floor(2 * degrees.max() / FEW_DEGREES) / 2, 1.0, LARGEST_WEIGHT))


def is_uneven(found: Found | None) -> bool:
    """Whether other degrees than all up to a total one are worth trying."""
    if found is None or found.degrees.shape[1] == 1:
        return False
    weights, _, parities = decay(found)
    return bool((weights > 1).any() or (parities >= 0).any())


def degree_sets(found: Decay, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The degrees of all polynomials, `(features, inputs)`, and which of them each output is made of, `(outputs,
    features)`: the most whose number for all outputs is about `count` of each.
    """
    limit, best = COMPLETION * count * len(found.weights), None
    # Where one axis needs many more degrees than others, these have more when it has reached the highest.
    highest = HIGHEST_DEGREE * max(1.0, found.weights.max() / 2)
    for level in np.arange(1.0, highest + 1, 0.5 if (found.weights % 1).any() or found.offsets.any() else 1.0):
        sets = [_set(w, p, max(0.0, level + offset)) for w, offset, p in zip(*found)]
        if best is not None and sum(map(len, sets)) > limit:
            break
        best = sets
    assert best is not None
    degrees = np.unique(np.concatenate(best), axis=0)
    place = {tuple(d): i for i, d in enumerate(degrees.tolist())}
    kept = np.zeros((len(best), len(degrees)), bool)
    for row, own in zip(kept, best):
        row[[place[tuple(d)] for d in own.tolist()]] = True
    return degrees, kept


def _set(weights, parities, level: float) -> Int[np.ndarray, "features inputs"]:
    found, left = np.zeros((1, 0), int), np.array([level])
    for weight, parity in zip(weights, parities):
        each = range(max(parity, 0), HIGHEST_DEGREE + 1, 1 if parity < 0 else 2)
        rows = [(found[ok], k, left[ok] - weight * k) for k in each if (ok := left >= weight * k).any()]
        if not rows:
            return np.zeros((0, len(weights)), int)
        found = np.concatenate([np.column_stack([f, np.full(len(f), k)]) for f, k, _ in rows])
        left = np.concatenate([rest for *_, rest in rows])
    return found


def _outermost(degrees, kept) -> Int[np.ndarray, " some"]:
    """Which polynomials of a set have one or two degrees more along some axis than the set."""
    inside, steps = set(map(tuple, degrees[kept].tolist())), np.eye(degrees.shape[1], dtype=int)
    beyond = lambda d: any(not {tuple(d + e), tuple(d + 2 * e)} & inside for e in steps)  # noqa: E731
    return np.array([n for n in np.flatnonzero(kept) if beyond(degrees[n])], int)


def _along(degrees: Int[np.ndarray, " features"], shares: Float[np.ndarray, " features"]):
    """The largest share of each degree along an axis."""
    return np.array([shares[degrees == j].max(initial=0.0) for j in range(degrees.max() + 1)])


def _rate(along: Float[np.ndarray, " degrees"], largest: float, tail: float) -> float:
    """From the largest coefficient down to the last degree above the tail."""
    above = np.flatnonzero(along > tail)
    return max(np.log(largest / tail), 1.0) / (above[-1] + 1) if len(above) else 1.0


def _parity(along: Float[np.ndarray, " degrees"], tail: float) -> int:
    """Of a field that is even, odd degrees are far below their neighbours, or in the tail."""
    usual = np.sqrt(along * np.pad(along, (0, 2))[2:])[:-1]
    stray = along[1:] <= np.maximum(STRAY * usual, tail)
    for parity in (0, 1):
        if usual[parity:].size and STRAY * usual[parity] > tail and stray[parity::2].all():
            return parity if parity == 0 or along[0] <= STRAY * along[1] else -1
    return -1
