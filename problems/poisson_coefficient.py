"""The coefficient of Poisson's equation on a square from noisy observations.

(a u_x)_x + (a u_y)_y + f = 0 on (0, 1)^2 with u = 0 on the boundary. The coefficient a(x, y) is a second unknown field,
known on the boundary only. It is found together with u from values of u at random points, with Gaussian noise in
proportion to their root mean square. Truth and reference, without error: u = sin(pi x) sin(pi y) and
a = 1 / (1 + x^2 + y^2 + (x - 1)^2 + (y - 1)^2), from which f follows.

The problem is PINNacle's inverse Poisson problem (Hao et al., 2024), whose source has a sign wrong: with 2x + 1 and
2y + 1 in place of 2x - 1 and 2y - 1 its truth does not satisfy its equation. Its data are 2,500 values with noise of
standard deviation 0.1: `--points 2500 --noise 0.2`.
"""

import jax.numpy as jnp
import numpy as np

import sciml
from sciml import PDE, Box, derived, observe, value

EXPECTED = {"relative_l2_a": 3e-2}
BUDGET = 60.0


def coefficient(x, y):
    """The truth."""
    return 1 / (1 + x**2 + y**2 + (x - 1) ** 2 + (y - 1) ** 2)


def solution(x, y):
    """The reference for u."""
    return np.sin(np.pi * x) * np.sin(np.pi * y)


def source(x, y):
    """What makes them solve the equation."""
    a, p = coefficient(x, y), jnp.pi
    sx, cx, sy, cy = jnp.sin(p * x), jnp.cos(p * x), jnp.sin(p * y), jnp.cos(p * y)
    return 2 * p**2 * a * sx * sy + 2 * p * a**2 * ((2 * x - 1) * cx * sy + (2 * y - 1) * sx * cy)


def problem(points: int = 1000, noise: float = 0.01, data_seed: int = 0) -> PDE:
    """points: number of observations; noise: their standard deviation over the rms of u; data_seed: of the points and
    the noise.
    """

    def poisson(p_x, q_y, x, y):
        return p_x + q_y + source(x, y)

    random = np.random.default_rng(data_seed)
    x, y = random.uniform(0, 1, (2, points))
    u = solution(x, y)
    u = u + noise * np.sqrt(np.mean(u**2)) * random.standard_normal(points)
    domain = Box(x=(0, 1), y=(0, 1))
    return PDE(
        domain,
        poisson,
        derived(p=lambda a, u_x: a * u_x, q=lambda a, u_y: a * u_y),
        value(u=0.0, a=coefficient, on=domain.boundary()),
        observe({"x": x, "y": y}, u=u),
        reference=lambda x, y: {"u": solution(x, y), "a": coefficient(x, y)},
    )


def evaluate(solution: sciml.Solution) -> dict[str, float]:
    """At how many of 31 x 31 places the coefficient lies within 2 standard errors, as a share, and the mean of the
    squared deviations in units of theirs.
    """
    x, y = np.meshgrid(*[np.linspace(0, 1, 33)[1:-1]] * 2)
    error = solution(x=x, y=y)["a"] - coefficient(x, y)
    deviations = error / solution.standard_errors(x=x, y=y)["a"]
    return {"a_within_2_se": float(np.mean(abs(deviations) <= 2)), "a_mean_square": float(np.mean(deviations**2))}
