"""Regression with sums of kernels (Gaussian processes): `fit` finds their weights, the rest is linear algebra."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.linalg import cho_factor, cho_solve

from ..nn import Ensemble

# Of the variance of a target, added to that of its noise, so that rounding makes no covariance indefinite.
JITTER = 1e-8


class KernelWeights(eqx.Module):
    """The covariance of t targets as sums of g kernels, and the variance of their noise, as logarithms;
    `kernel_weights` makes it.
    """

    log_weights: Float[Array, "*members t g"]
    log_noise: Float[Array, "*members t"]


def kernel_weights(kernels: Any, targets: Any, *, noise: float = 1e-2) -> KernelWeights:
    """Where to start: kernels (g, m, m) with equal shares of the mean square of the targets, (m, t), and this share of
    it as noise. Targets that are NaN do not count.

    Raises ValueError where shapes do not fit, kernels are not finite or not positive on their diagonals, or all targets
    are 0.
    """
    kernels, targets = np.asarray(kernels, float), np.asarray(targets, float)
    if targets.ndim != 2 or kernels.ndim != 3 or kernels.shape[1:] != (len(targets),) * 2:
        raise ValueError(f"expected kernels (g, m, m) and targets (m, t), got {kernels.shape} and {targets.shape}")
    sizes = np.trace(kernels, axis1=1, axis2=2) / len(targets)
    if not np.isfinite(kernels).all() or not (sizes > 0).all():
        raise ValueError(f"kernel_weights: kernels must be finite, with positive diagonals; their means are {sizes}")
    squares = np.nanmean(targets**2, axis=0)
    if not (squares > 0).all():
        raise ValueError(f"kernel_weights: targets need a mean square above 0, got {squares}")
    weights = squares[:, None] / (len(sizes) * sizes)
    return KernelWeights(jnp.log(jnp.asarray(weights)), jnp.log(jnp.asarray(noise * squares)))


def evidence(model: KernelWeights, batch: tuple[Any, Any]) -> Float[Array, ""]:
    """The loss `(model, (kernels (g, m, m), targets (m, t)))`: minus the logarithm of the probability of the targets
    over their number (Rasmussen & Williams, "Gaussian processes for machine learning", 2006, eq. 2.30, without its
    constant), in the mean over targets. Those that are NaN do not count.

    Needs double precision, and about m^3 operations for each target.
    """
    kernels, targets = (jnp.asarray(a) for a in batch)

    def one(weights, noise, y):
        known = jnp.isfinite(y)
        mask = jnp.where(known, 1.0, 0.0)
        covariance = jnp.tensordot(jnp.exp(weights), kernels, 1)
        noise = jnp.exp(noise) + JITTER * jnp.mean(jnp.diag(covariance))
        # What is not known is independent of the rest, with a variance of 1 and a value of 0.
        covariance = covariance * mask[:, None] * mask + jnp.diag(jnp.where(known, noise, 1.0))
        root = jnp.linalg.cholesky(covariance)
        whitened = jax.scipy.linalg.solve_triangular(root, jnp.where(known, y, 0.0), lower=True)
        return (jnp.sum(whitened**2) / 2 + jnp.sum(jnp.log(jnp.diag(root)))) / jnp.maximum(jnp.sum(mask), 1)

    return jnp.mean(jax.vmap(one, (0, 0, 1))(model.log_weights, model.log_noise, targets))


def kernel_predictions(model: Ensemble, kernels: Any, targets: Any, fold: Any) -> Float[np.ndarray, "m t"]:
    """What to expect of each sample given the targets, (m, t), of the other folds (Rasmussen & Williams, eq. 2.25), by
    the `KernelWeights` that `in_folds` and `fold_loss(evidence)` found from those. Kernels are (g, m, m), of the
    samples of `evidence` or of more of the same kind; targets that are NaN are predicted too. Takes m^3 / 3 operations
    for each fold and target.

    Raises ValueError where shapes do not fit or a fold has no model.
    """
    kernels, fold, targets = np.asarray(kernels), np.asarray(fold), np.asarray(targets, float)
    m = len(targets)
    if kernels.shape[1:] != (m, m) or fold.shape != (m,) or targets.ndim != 2:
        raise ValueError(
            f"kernel_predictions: expected kernels (g, m, m), targets (m, t) and folds (m,), got {kernels.shape}, "
            f"{targets.shape} and {fold.shape}"
        )
    if not ((fold >= 0) & (fold < len(model))).all():
        raise ValueError(f"kernel_predictions: {len(model)} models have the folds from 0 on, got {np.unique(fold)}")
    found = np.empty(targets.shape)
    for number in range(len(model)):
        own: Any = model.member(number).model
        weights, noises = np.exp(own.log_weights), np.exp(own.log_noise)
        for t, noise in enumerate(noises):
            test, train = fold == number, (fold != number) & np.isfinite(targets[:, t])
            covariance = np.tensordot(weights[t], kernels, 1)
            noise = noise + JITTER * np.diag(covariance).mean()
            factor = cho_factor(covariance[np.ix_(train, train)] + noise * np.eye(train.sum()), lower=True)
            found[test, t] = covariance[np.ix_(test, train)] @ cho_solve(factor, targets[train, t])
    return found
