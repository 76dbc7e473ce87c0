"""Darcy flow on the unit square: permeability to pressure, the standard test of neural operators.

-div(a grad u) = 1 with u = 0 on the boundary. The permeability a is 12 where a Gaussian random field with covariance
9 (-Laplace + 9)^-s, s = 2 (zero normal derivative at the boundary) is positive and 3 elsewhere, or the exponential of
that field (`coefficient=lognormal`).

- What: a(sample, x, y), u(sample, x, y) at the points i / (resolution - 1), the boundary among them.
- Who: the problem of Li, Kovachki et al., "Fourier neural operator for parametric partial differential equations",
  ICLR 2021, section 5.2 and appendix A.3.2; made here, free of rights. `resolution=421` has the size of the published
  files, `resolution=85, refine=5` that of their usual subsample.
- Solver: finite volumes around the points, harmonic means of a between neighbours, a sparse direct solver. Second order
  where a is smooth and where it jumps midway between points (tests); `refine` solves on a finer grid and keeps every
  so many points.
- Size: 1000 samples of 64 x 64 are 33 MB, made in about half a minute; a sample of 421 x 421 takes about two seconds.
- Baselines (relative L2 of u, 1000 training samples of the published files, from that paper): FNO 0.0108 at 85 x 85,
  0.0098 at 421 x 421; PCA network 0.0299; graph kernel network 0.0346.
"""

import numpy as np
import scipy.sparse as sparse
from scipy.sparse.linalg import splu

import sciml

FIELD = {"long_name": "permeability", "units": "1"}
SOLUTION = {"long_name": "pressure", "units": "1"}


def make(
    resolution: int = 64,
    samples: int = 1000,
    coefficient: str = "piecewise",
    smoothness: float = 2.0,
    low: float = 3.0,
    high: float = 12.0,
    refine: int = 1,
    seed: int = 0,
    dtype: str = "float32",
) -> sciml.data.Recipe:
    """resolution: points along each axis; coefficient: piecewise (low and high) or lognormal; smoothness: s; refine:
    how many times finer the solver's grid is.
    """
    if coefficient not in ("piecewise", "lognormal"):
        raise ValueError(f"coefficient must be piecewise or lognormal, got '{coefficient}'")
    if resolution < 3 or refine < 1:
        raise ValueError(f"resolution must be 3 or more and refine 1 or more, got {resolution} and {refine}")

    def generate(start, stop):
        a = lognormal(seed, start, stop, refine * (resolution - 1) + 1, smoothness)
        if coefficient == "piecewise":
            a = np.where(a >= 1.0, high, low)
        u = np.stack([solve(one, 1.0) for one in a])
        kept = (slice(None), slice(None, None, refine), slice(None, None, refine))
        return {"a": a[kept], "u": u[kept]}

    axis = (np.linspace(0, 1, resolution), {"units": "1", "boundary": "dirichlet"})
    fields = {"a": (("x", "y"), FIELD), "u": (("x", "y"), SOLUTION)}
    return sciml.data.Recipe.on_grid(
        fields, {"x": axis, "y": axis}, samples=samples, generate=generate, dtype=dtype, parameters={"beta": 1.0}
    )


def equations(**settings) -> sciml.PDE:
    """The flux is a quantity of its own, so that a need not be differentiable."""

    def conservation(qx_x, qy_y):
        return qx_x + qy_y + 1.0

    domain = sciml.Box(x=(0, 1), y=(0, 1))
    fluxes = sciml.derived(qx=lambda a, u_x: a * u_x, qy=lambda a, u_y: a * u_y)
    return sciml.PDE(domain, conservation, fluxes, sciml.value(u=0.0, on=domain.boundary()), a=1.0)


def lognormal(seed: int, start: int, stop: int, points: int, smoothness: float) -> np.ndarray:
    """The exponentials of the random fields of these samples."""
    with sciml.double_precision():
        keys = sciml.data.sample_keys(seed, start, stop)
        return np.exp(sciml.data.neumann_gaussian(keys, points, lambda k2: 3.0 * (k2 + 9.0) ** (-smoothness / 2)))


def solve(a: np.ndarray, f: np.ndarray | float) -> np.ndarray:
    """The solution for a coefficient of shape (n, n) and a right side that is a number or has this shape."""
    n = len(a)
    # Face coefficients between neighbours along x and y, of the inner rows and columns.
    x = 2 * a[1:] * a[:-1] / (a[1:] + a[:-1])
    y = 2 * a[:, 1:] * a[:, :-1] / (a[:, 1:] + a[:, :-1])
    x, y, m = x[:, 1:-1], y[1:-1], n - 2
    along_y = -y[:, 1:-1]
    neighbour = np.zeros((m, m))
    neighbour[:, :-1] = along_y
    diagonal = (x[1:] + x[:-1] + y[:, 1:] + y[:, :-1]).ravel()
    bands = [diagonal, neighbour.ravel()[:-1], neighbour.ravel()[:-1], -x[1:-1].ravel(), -x[1:-1].ravel()]
    matrix = sparse.diags_array(bands, offsets=[0, 1, -1, m, -m], format="csc")
    factors = splu(matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    right = np.broadcast_to(f, a.shape)[1:-1, 1:-1] / (n - 1) ** 2
    out = np.zeros_like(a)
    out[1:-1, 1:-1] = factors.solve(right.ravel()).reshape(m, m)
    return out
