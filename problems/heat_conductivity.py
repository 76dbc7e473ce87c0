"""The conductivity of a rod from noisy temperatures.

u_t = (k u_x)_x on t in (0, 1), x in (0, 1), with u = x + sin(pi x) at t = 0, u = 0 at x = 0 and u = 1 at x = 1. The
conductivity k(x) is a second unknown field, of which nothing is declared but that it does not depend on time (k_t = 0).
It is found together with u from temperatures at random points and times, with Gaussian noise in proportion to their
root mean square. The truth is k = 0.2 + 0.1 cos(pi x) - 0.05 cos(3 pi x).

The reference for u, from which the data are made, is a Galerkin solution in 40 sines, exact in time; as k is even and
u - x odd about both ends, it converges exponentially: 60 sines change it by less than 1e-11.
"""

import jax.numpy as jnp
import numpy as np

import sciml
from sciml import PDE, Box, derived, observe, value

EXPECTED = {"relative_l2_k": 5e-2}
BUDGET = 30.0


def conductivity(x):
    """The truth."""
    return 0.2 + 0.1 * np.cos(np.pi * x) - 0.05 * np.cos(3 * np.pi * x)


def temperature(t, x, waves: int = 40):
    """u - x as a sum of sines, whose coefficients b solve b' = -2 (K b + f)."""
    m = np.pi * np.arange(1, waves + 1)
    nodes, weights = np.polynomial.legendre.leggauss(4 * waves)
    nodes, weights = (nodes + 1) / 2, weights / 2
    slopes = m[:, None] * np.cos(np.outer(m, nodes))
    weighted = weights * conductivity(nodes)
    values, vectors = np.linalg.eigh((slopes * weighted) @ slopes.T)
    limit = -vectors.T @ (slopes @ weighted) / values
    start = vectors.T @ np.eye(waves)[0]
    t, x = np.broadcast_arrays(t, x)
    decay = np.exp(-2 * values * t[..., None])
    b = (limit + decay * (start - limit)) @ vectors.T
    return x + np.sum(b * np.sin(m * x[..., None]), axis=-1)


def problem(points: int = 1000, noise: float = 0.01, data_seed: int = 0) -> PDE:
    """points: number of observations; noise: their standard deviation over the rms of u; data_seed: of the points and
    the noise.
    """

    def heat(u_t, q_x):
        return u_t - q_x

    def steady(k_t):
        return k_t

    random = np.random.default_rng(data_seed)
    t, x = random.uniform(0, 1, (2, points))
    u = temperature(t, x)
    u = u + noise * np.sqrt(np.mean(u**2)) * random.standard_normal(points)
    domain = Box(t=(0, 1), x=(0, 1))
    return PDE(
        domain,
        heat,
        steady,
        derived(q=lambda k, u_x: k * u_x),
        value(u=lambda x: x + jnp.sin(jnp.pi * x), on=domain.at(t=0)),
        value(u=0.0, on=domain.at(x=0)),
        value(u=1.0, on=domain.at(x=1)),
        observe({"t": t, "x": x}, u=u),
        reference=lambda t, x: {"u": temperature(t, x), "k": conductivity(x) + 0 * t},
    )


def evaluate(solution: sciml.Solution) -> dict[str, float]:
    """At how many of 201 places the conductivity lies within 2 standard errors, as a share, and the mean of the
    squared deviations in units of theirs.
    """
    x = np.linspace(0, 1, 201)
    error = solution(t=0.5, x=x)["k"] - conductivity(x)
    deviations = error / solution.standard_errors(t=0.5, x=x)["k"]
    return {"k_within_2_se": float(np.mean(abs(deviations) <= 2)), "k_mean_square": float(np.mean(deviations**2))}
