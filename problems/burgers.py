"""Burgers' equation with a shock that forms at x = 0.

u_t + u u_x = nu u_xx on t in (0, 1), x in (-1, 1), with u = -sin(pi x) at t = 0 and u = 0 at x = -1 and 1; the usual
test of PINNs (Raissi, Perdikaris & Karniadakis, J. Comput. Phys. 378, 2019) with nu = 0.01 / pi.

The reference is the Cole-Hopf solution, a quotient of two Gaussian integrals (Basdevant et al., Computers & Fluids 14,
1986, eq. 10), by the trapezoidal rule, which converges geometrically; its own error is below 1e-12.
"""

import jax.numpy as jnp
import numpy as np

import sciml
from sciml import PDE, Box, value

EXPECTED = {"relative_l2": 1e-5}
BUDGET = 60.0


def problem(nu: float = 0.01 / np.pi) -> PDE:
    """nu: viscosity."""

    def burgers(u, u_t, u_x, u_xx, nu):
        return u_t + u * u_x - nu * u_xx

    domain = Box(t=(0, 1), x=(-1, 1))
    return PDE(
        domain,
        burgers,
        value(u=lambda x: -jnp.sin(jnp.pi * x), on=domain.at(t=0)),
        value(u=0.0, on=domain.boundary("x")),
        nu=nu,
        reference=lambda t, x: cole_hopf(t, x, nu),
    )


def cole_hopf(t: np.ndarray, x: np.ndarray, nu: float) -> np.ndarray:
    """The exact solution at times and places of one shape."""
    shape, t, x = np.shape(t), np.ravel(t)[:, None], np.ravel(x)[:, None]
    out = np.empty(t.shape[0])
    # The integrand lives where |z| < 2 / sqrt(4 nu t) + 7, as the phase moves by at most two.
    span = np.linspace(-1.0, 1.0, 801)
    for rows in np.array_split(np.arange(len(out)), max(1, len(out) // 500)):
        width = np.sqrt(4 * nu * np.maximum(t[rows], 1e-12))
        z = span * np.minimum(2.0 / width + 7.0, 7.0 + np.sqrt(1 / (np.pi * nu)))
        y = x[rows] - width * z
        exponent = -np.cos(np.pi * y) / (2 * np.pi * nu) - z**2
        weight = np.exp(exponent - exponent.max(axis=1, keepdims=True))
        out[rows] = -(np.sin(np.pi * y) * weight).sum(axis=1) / weight.sum(axis=1)
    return np.where(t[:, 0] == 0, -np.sin(np.pi * x[:, 0]), out).reshape(shape)


if __name__ == "__main__":
    print(sciml.solve(problem(), budget=BUDGET).error())
