"""Smooth trajectories and their slopes from noisy values, and right-hand sides that are fitted to the slopes."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ._trajectories import Trajectories, lengths

# Length scales over the mean distance of the times up to their range, and noise over signal, that are tried.
SCALES, RATIOS = 32, np.geomspace(1e-4, 30.0, 120)
# Matrices are dense.
MOST = 2000


class Smoothed(NamedTuple):
    """Of trajectories (k, n, m): smooth values, their slopes, the standard deviations of both, and the estimated noise
    (k, m). NaN where a trajectory has ended.
    """

    ys: Any
    slopes: Any
    deviations: Any
    slope_deviations: Any
    noise: Any


def smoothed(data: Trajectories) -> Smoothed:
    """Each component of each trajectory by regression with a Gaussian process of squared-exponential covariance around
    its mean (Rasmussen & Williams, Gaussian Processes for Machine Learning, 2006, sections 2.2, 5.4.1 and 9.4). Length,
    signal and noise are those of the largest marginal likelihood on a grid. Values that are missing in between are
    filled.

    Raises ValueError for a component with fewer than 4 values and for trajectories of more than 2,000.
    """
    ts, ys = np.asarray(data.ts, float), np.asarray(data.ys, float)
    found = [np.full(ys.shape, np.nan) for _ in range(4)]
    noise = np.empty((len(ys), ys.shape[2]))
    spectra: dict[bytes, list[_Spectrum]] = {}
    for k, n in enumerate(lengths(data)):
        for j in range(ys.shape[2]):
            known = np.isfinite(ys[k, :n, j])
            if not 4 <= known.sum() <= MOST:
                raise ValueError(
                    f"smoothed: component {j} of trajectory {k} has {known.sum()} values; from 4 to {MOST} can be "
                    "smoothed, so leave it out or cut it into windows"
                )
            t = ts[k, :n][known]
            # Matrices of the same distances are factorised once.
            apart = np.round((t - t[0]) / np.ptp(t), 9).tobytes() + np.round(np.ptp(t), 9).tobytes()
            if apart not in spectra:
                spectra[apart] = _spectra(t)
            *parts, noise[k, j] = _smooth(t, ys[k, :n, j][known], ts[k, :n], spectra[apart])
            for array, part in zip(found, parts):
                array[k, :n, j] = part
    values, slopes, deviations, slope_deviations = found
    return Smoothed(values, slopes, deviations, slope_deviations, noise)


def _smooth(t: np.ndarray, y: np.ndarray, at: np.ndarray, spectra: list["_Spectrum"]):
    """Mean and slope at the times `at`, their deviations, and the noise."""
    centred = y - y.mean()
    best, ratio = _most_likely(centred, spectra)
    weights = 1 / (best.values + ratio)
    turned = best.vectors.T @ centred
    signal = np.mean(turned**2 * weights)
    apart = (at[:, None] - t) / best.length
    cross = np.exp(-(apart**2) / 2)
    sloped = -apart / best.length * cross
    alpha = best.vectors @ (weights * turned)
    covered = [
        1 - ((cross @ best.vectors) ** 2 @ weights),
        1 / best.length**2 - ((sloped @ best.vectors) ** 2 @ weights),
    ]
    deviations = [np.sqrt(np.maximum(signal * c, 0)) for c in covered]
    return y.mean() + cross @ alpha, sloped @ alpha, *deviations, np.sqrt(signal * ratio)


class _Spectrum(NamedTuple):
    """A length scale, and the eigenvalues and eigenvectors of the kernel."""

    length: float
    values: np.ndarray
    vectors: np.ndarray


def _spectra(t: np.ndarray) -> list[_Spectrum]:
    found = []
    for length in np.geomspace(np.ptp(t) / len(t), np.ptp(t), SCALES):
        values, vectors = np.linalg.eigh(np.exp(-(((t[:, None] - t) / length) ** 2) / 2))
        found.append(_Spectrum(float(length), np.maximum(values, 0), vectors))
    return found


def _most_likely(centred: np.ndarray, spectra: list[_Spectrum]) -> tuple[_Spectrum, float]:
    """The length, and the ratio of the noise's variance to that of the signal."""
    ratios, tried = RATIOS**2, []
    for spectrum in spectra:
        squares = (spectrum.vectors.T @ centred) ** 2
        variances = spectrum.values[:, None] + ratios
        signal = np.maximum(np.mean(squares[:, None] / variances, axis=0), np.finfo(float).tiny)
        # Minus twice the logarithm of the likelihood, with the signal's variance at its best.
        tried.append(len(centred) * np.log(signal) + np.log(variances).sum(axis=0))
    length, ratio = np.unravel_index(np.argmin(tried), np.shape(tried))
    return spectra[length], float(ratios[ratio])


class Slopes(NamedTuple):
    """Points of trajectories for gradient matching: times (p,), states (p, d), what the right-hand side gets, the size
    of the slopes' errors (p, d), and the slopes (p, d).
    """

    t: Any
    y: Any
    args: Any
    scale: Any
    slopes: Any


def slopes(data: Trajectories, smooth: Smoothed) -> Slopes:
    """The smooth states and slopes at all times that were measured, as one batch for `slope_misfit`: to be fitted
    before any solution is computed (gradient matching: Varah, SIAM J. Sci. Stat. Comput. 3, 1982). Needs every
    component of the state to be measured.
    """
    inside = np.arange(np.shape(data.ts)[1]) < lengths(data)[:, None]
    owners, places = np.nonzero(inside)
    size = np.nanstd(smooth.slopes[inside], axis=0)
    size = np.where(size > 0, size, 1.0)
    # Where slopes are known exactly, as in the middle of dense data, they count as all others do.
    errors = np.maximum(smooth.slope_deviations[owners, places] / size, 0.05) * size
    return Slopes(
        np.asarray(data.ts)[owners, places],
        smooth.ys[owners, places],
        jax.tree.map(lambda a: np.asarray(a)[owners], data.args),
        errors,
        smooth.slopes[owners, places],
    )


def slope_misfit(model: Any, batch: Slopes) -> dict[str, Any]:
    """The loss of gradient matching: right-hand side minus slope, in units of the slope's error. Takes a model with a
    `field`, such as an `ODE`, or a right-hand side itself.
    """
    field: Callable = getattr(model, "field", model)
    rates = jax.vmap(lambda t, y, args: jnp.asarray(field(t, y, args)))(batch.t, batch.y, batch.args)
    return {"slopes": (rates - batch.slopes) / batch.scale}
