"""The tones of an L-shaped drum.

u_xx + u_yy + lam u = 0 on (-1, 1)^2 without the quadrant x > 0, y < 0, with u = 0 on the boundary: MATLAB's logo is the
first of these modes. The first eigenvalue is 9.6397238440219, to 14 digits (Trefethen & Betcke, Computed eigenmodes of
planar regions, 2006, after the method of Fox, Henrici & Moler, SIAM J. Numer. Anal. 4, 1967), the second 15.1972519266
and the third 2 pi^2, whose mode is sin(pi x) sin(pi y) and does not see the corner. The gradient of the first grows as
r^(-1/3) at the corner, which powers of r among the random features represent.

`eigenvalue_error` is the largest relative error of the three.
"""

import jax
import numpy as np

import sciml
from sciml import PDE, Polygon, value

EXPECTED = {"eigenvalue_error": 5e-6}
BUDGET = 60.0
CORNERS = [(0, 0), (1, 0), (1, 1), (-1, 1), (-1, -1), (0, -1)]
EXACT = np.array([9.6397238440219, 15.1972519266, 2 * np.pi**2])


def problem() -> PDE:
    """No settings."""

    def helmholtz(u_xx, u_yy, u, lam):
        return u_xx + u_yy + lam * u

    drum = Polygon(CORNERS)
    return PDE(drum, helmholtz, value(u=0.0, on=drum.boundary()), lam=0.0)


def solve(pde: PDE, budget: float, key: jax.Array) -> sciml.Solution:
    """The first mode, and with it the eigenvalues of the first three."""
    return sciml.eigenmodes(pde, "lam", len(EXACT), budget=budget, key=key)[0]


def evaluate(solution: sciml.Solution) -> dict[str, float]:
    """The eigenvalues and the largest of their relative errors."""
    found = np.array(solution.chosen["eigenvalues"])
    tones = {f"eigenvalue_{i}": float(lam) for i, lam in enumerate(found, start=1)}
    complete = len(found) == len(EXACT)
    return {"eigenvalue_error": float(np.abs(found / EXACT - 1).max()) if complete else np.inf} | tones
