"""The viscosity in Burgers' equation from noisy observations.

As the problem `burgers`, but nu is unknown: it is found, together with u, from values of u at random points with
Gaussian noise in proportion to their root mean square. The truth is nu = 0.01 / pi; the first guess is 0.01,
three times too large. The data are computed from the Cole-Hopf solution, as is the reference for u;
its own error is below 1e-12.
"""

import jax.numpy as jnp
import numpy as np

import sciml
from sciml import PDE, Box, Unknown, observe, value

EXPECTED = {"nu_relative_error": 1e-2}
BUDGET = 120.0
NU = 0.01 / np.pi


def problem(points: int = 2000, noise: float = 0.01, guess: float = 0.01, data_seed: int = 0) -> PDE:
    """points: number of observations; noise: their standard deviation over the rms of u; guess: first guess of nu;
    data_seed: of the points and the noise.
    """

    def burgers(u, u_t, u_x, u_xx, nu):
        return u_t + u * u_x - nu * u_xx

    exact = sciml.problem("burgers", nu=NU).reference
    random = np.random.default_rng(data_seed)
    t, x = random.uniform(0, 1, points), random.uniform(-1, 1, points)
    u = exact(t=t, x=x)
    u = u + noise * np.sqrt(np.mean(u**2)) * random.standard_normal(points)
    domain = Box(t=(0, 1), x=(-1, 1))
    return PDE(
        domain,
        burgers,
        value(u=lambda x: -jnp.sin(jnp.pi * x), on=domain.at(t=0)),
        value(u=0.0, on=domain.boundary("x")),
        observe({"t": t, "x": x}, u=u),
        nu=Unknown(guess, positive=True),
        reference=exact,
    )


def evaluate(solution: sciml.Solution) -> dict[str, float]:
    """The viscosity found, its relative error, its standard error, and by how many of these it is off."""
    nu, error = solution.parameters["nu"], solution.standard_errors()["nu"]
    return {
        "nu": nu,
        "nu_relative_error": abs(nu - NU) / NU,
        "nu_se": error,
        "nu_deviations": abs(nu - NU) / error,
    }
