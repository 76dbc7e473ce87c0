"""Residuals that are linear or mildly nonlinear in a few thousand numbers, made small by Newton's method.

Everything is in double precision on the host: LAPACK's factors, and residuals and Jacobians that are compiled.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

# At the level of rounding.
DAMPING = 1e-14
# A step that could take off less than this share of the residual is not worth taking.
CONVERGED = 1e-2
# Factors of another place are good enough while a step takes off this share of what it would if all were linear.
CONTRACTION = 0.7
MAX_STEPS = 20
# Corrections of a solution at most, and how much smaller than it they must be.
CORRECTIONS, CONTRACTING = 3, 1e-3


class Factored:
    """The QR factors of a matrix with a multiple of the identity below it, relative to its longest column."""

    def __init__(self, matrix: np.ndarray, damping: float = DAMPING):
        import scipy.linalg.lapack

        self._lapack: Any = scipy.linalg.lapack
        self.rows, self.size = matrix.shape
        extended = np.zeros((self.rows + self.size, self.size), order="F")
        extended[: self.rows] = matrix
        extended[self.rows :][np.diag_indices(self.size)] = damping * np.sqrt((matrix**2).sum(axis=0).max())
        work, _ = self._lapack.dgeqrf_lwork(*extended.shape)
        self._factors, self._scales, _, _ = self._lapack.dgeqrf(extended, lwork=int(work), overwrite_a=True)

    def solve(self, right: np.ndarray) -> tuple[np.ndarray, float]:
        """The least-squares solution, and the length of the part of `right` that it accounts for."""
        column = np.zeros((self.rows + self.size, 1), order="F")
        column[: self.rows, 0] = right
        turned, _, _ = self._lapack.dormqr("L", "T", self._factors, self._scales, column, lwork=64 * 64)
        solution, info = self._lapack.dtrtrs(self._factors[: self.size], turned[: self.size])
        if info != 0:
            solution = np.full((self.size, 1), np.nan)
        return solution[:, 0], float(np.linalg.norm(turned[: self.size]))

    def variances(self, rows: np.ndarray | None = None) -> np.ndarray:
        """Of the numbers `rows @ x` (of x itself), where x has the covariance (A^T A)^-1 of a matrix A."""
        right = np.eye(self.size, order="F") if rows is None else np.asfortranarray(rows.T)
        solved, _ = self._lapack.dtrtrs(self._factors[: self.size], right, trans=1)
        return (solved**2).sum(axis=0)


class Equilibrated(Factored):
    """The same of a matrix whose columns are brought to one length first, so that the damping knows no units."""

    def __init__(self, matrix: np.ndarray):
        self._units = 1 / np.sqrt(np.maximum((matrix**2).sum(axis=0), np.finfo(float).tiny))
        super().__init__(matrix * self._units)

    def solve(self, right: np.ndarray) -> tuple[np.ndarray, float]:
        """As that of `Factored`."""
        solution, part = super().solve(right)
        return self._units * solution, part

    def variances(self, rows: np.ndarray | None = None) -> np.ndarray:
        """As that of `Factored`."""
        return super().variances(np.diag(self._units) if rows is None else rows * self._units)


class Normal:
    """The Cholesky factor of the normal equations: half the work of QR, for columns that are not nearly dependent."""

    def __init__(self, matrix: np.ndarray):
        import scipy.linalg

        self._scales = 1 / np.sqrt(np.maximum((matrix**2).sum(axis=0), np.finfo(float).tiny))
        self._matrix = matrix * self._scales
        square = self._matrix.T @ self._matrix
        square[np.diag_indices(len(square))] += DAMPING
        try:
            self._factor = scipy.linalg.cho_factor(square, lower=True, overwrite_a=True, check_finite=False)
        except scipy.linalg.LinAlgError:
            self._factor = None

    def solve(self, right: np.ndarray) -> tuple[np.ndarray, float]:
        """The least-squares solution, and the length of the part of `right` that it accounts for."""
        import scipy.linalg

        turned = self._matrix.T @ right
        if self._factor is None:
            return np.full(len(turned), np.nan), np.nan
        solution = scipy.linalg.cho_solve(self._factor, turned, check_finite=False)
        return self._scales * solution, float(np.sqrt(max(turned @ solution, 0.0)))


class Corrected(Normal):
    """As `Normal`, its solutions corrected until rounding: as exact as those of QR for columns that are not nearly
    dependent (corrected seminormal equations: Björck, Linear Algebra Appl. 88, 1987). Those that are get QR's factors.
    """

    def __init__(self, matrix: np.ndarray):
        super().__init__(matrix)
        self._exact = None if self._factor is not None else Equilibrated(matrix)

    def lengths(self, rows: slice) -> np.ndarray:
        """Those of the columns, of these rows."""
        return np.sqrt((self._matrix[rows] ** 2).sum(axis=0)) / self._scales

    def solve(self, right: np.ndarray) -> tuple[np.ndarray, float]:
        """As that of `Normal`."""
        found = self._corrected(right) if self._exact is None else None
        if found is None:
            self._exact = self._exact or Equilibrated(self._matrix / self._scales)
            return self._exact.solve(right)
        return self._scales * found, float(np.sqrt(max((self._matrix.T @ right) @ found, 0.0)))

    def _corrected(self, right: np.ndarray) -> np.ndarray | None:
        """In units of the scaled columns; None where corrections do not become small at once."""
        solution = self._step(right)
        for _ in range(CORRECTIONS):
            step, size = self._step(right - self._matrix @ solution), np.linalg.norm(solution)
            if not np.linalg.norm(step) <= CONTRACTING * size:
                return None
            solution = solution + step
            # What is left is the square of that.
            if np.linalg.norm(step) <= np.sqrt(np.finfo(float).eps) * size:
                break
        return solution

    def _step(self, right: np.ndarray) -> np.ndarray:
        import scipy.linalg

        return scipy.linalg.cho_solve(self._factor, self._matrix.T @ right, check_finite=False)


class Minimum(NamedTuple):
    """Where the residuals are smallest, their norm there, factors that the next problem may begin with, and the seconds
    that factors took.
    """

    point: np.ndarray
    size: float
    factored: Factored | Normal | None
    seconds: float


def minimise(
    residuals: Callable,
    jacobian: Callable,
    start: np.ndarray,
    factored: Factored | Normal | None = None,
    steps: int = MAX_STEPS,
    factor: Callable[[np.ndarray], Factored | Normal] = Factored,
    converged: float = CONVERGED,
) -> Minimum:
    """The least squares of `residuals(point)` by Newton's method with the derivatives of the residuals only
    (Gauss-Newton), the step halved until the residuals decrease.

    Factors are kept from step to step, and those given are used first, as long as they do nearly what new ones would.
    The size is infinite where the residuals are not finite at the start.
    """
    point, values = start, np.asarray(residuals(start))
    size = float(np.linalg.norm(values))
    if not np.isfinite(size):
        return Minimum(start, np.inf, None, 0.0)
    fresh, seconds = False, 0.0
    for _ in range(steps):
        if factored is None:
            matrix = np.asarray(jacobian(point))
            began = time.perf_counter()
            factored, fresh = factor(matrix), True
            seconds += time.perf_counter() - began
        step, part = factored.solve(-values)
        if not np.isfinite(step).all() or part <= converged * size:
            break
        found = _decreased(residuals, point, step, size, smallest=1 / 64 if fresh else 1.0)
        if found is None:
            if fresh:
                break
            factored = None
            continue
        goal = np.sqrt(max(size**2 - part**2, 0.0))
        gain = (size - found[2]) / (size - goal)
        stalled = found[2] > 0.999 * size
        point, values, size = found
        if gain < CONTRACTION:
            if fresh and stalled:
                break
            factored = None
        fresh = False
    return Minimum(point, size, factored, seconds)


def _decreased(residuals, point, step, size, smallest):
    """The first of the steps 1, 1/2, ... down to `smallest` with smaller residuals: point, residuals and their norm."""
    length = 1.0
    while length >= smallest:
        values = np.asarray(residuals(point + length * step))
        now = float(np.linalg.norm(values))
        if now < size:
            return point + length * step, values, now
        length /= 2
    return None
