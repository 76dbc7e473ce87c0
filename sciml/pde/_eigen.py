"""Eigenvalues and eigenfunctions of linear problems by polynomials or random features.

Equations and conditions that are linear and homogeneous in the fields and affine in a parameter make the residuals
A c - lambda B c for the output layer c: a pencil with more rows than columns. Features are nearly dependent, so the
columns of A and B together are orthogonalised first, which leaves out what rounding cannot tell from zero; of the
least-squares inverse of A - shift B times B the largest eigenvalues are then found by subspace iteration
(rectangular pencils of this origin: Hashemi, Nakatsukasa & Trefethen, SIAM J. Matrix Anal. Appl. 43, 2022). Of these
pairs, those stay that are real and leave a small residual at points that were not used.
"""

import copy
import time
import warnings
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._loss import Groups
from .._precision import double_precision
from .._progress import busy
from ..nn import RandomFeatures
from ._linear import (
    described,
    draw_features,
    is_affine,
    kinds,
    next_larger,
    point_number,
    sobol_points,
    with_singular,
)
from ._pde import PDE
from ._rows import jacobian_rows, residual_rows, tabulate
from ._solution import Solution
from ._solve import _conditions, _single_entry

TRIAL_FEATURES = 400
FEATURES = (1000, 2000)
# Directions of smaller singular values than this share of the largest are rounding errors.
RANK = 1e-13
# Smaller residuals are not worth their time.
ENOUGH = 1e-8
ITERATIONS = 60
# Pairs whose residual is larger than this, relative to the eigenvalue, are no modes.
ACCEPTED = 1e-2
# Imaginary parts below this share come from eigenvalues that coincide.
REAL = 1e-5
# A shift that is no eigenvalue, relative to the size of the pencil.
OFFSET = 1.2e-3
# Points where the largest value of a mode is looked for.
POINTS = 8192


class Modes(NamedTuple):
    """Eigenvalues, output layers by row, and residuals relative to the eigenvalue, for one set of features."""

    values: Float[np.ndarray, " count"]
    outputs: Float[np.ndarray, "count outputs"]
    residuals: Float[np.ndarray, " count"]
    network: RandomFeatures
    spread: float | None

    @property
    def worst(self) -> float:
        """The largest residual."""
        return float(self.residuals.max()) if len(self.residuals) else np.inf


def eigenmodes(
    pde: PDE,
    parameter: str,
    count: int = 4,
    *,
    near: float = 0.0,
    budget: float = 60.0,
    key: Array | None = None,
    report: bool = True,
) -> list[Solution]:
    """The `count` real eigenvalues nearest to `near`, in increasing order, and their eigenfunctions.

    An eigenvalue is a number for `parameter` with which `pde` has a solution other than zero. Equations and conditions
    must be linear and homogeneous in the fields, and affine in the parameter: `u_xx + u_yy + lam * u` with `u = 0` on
    the boundary, `lam=0.0` in `PDE(...)` (its number there does not matter).

    Each solution has the parameter set to its eigenvalue (`solution.parameters[parameter]`) and its fields scaled such
    that the value of largest size among many points of the domain is 1. Of a multiple eigenvalue there are as many
    solutions as its multiplicity. `solution.chosen["residual"]` is the root mean square residual relative to the
    eigenvalue times the mode, at points that were not fitted; for self-adjoint problems the relative error of the
    eigenvalue is not larger. `solution.chosen["eigenvalues"]` are all that were found. Complex eigenvalues are left
    out.

    `budget` is in seconds of wall time. Warns where fewer modes were found. Raises ValueError for a parameter that
    `pde` does not have or that has no effect, for problems that are not linear and homogeneous in the fields or not
    affine in the parameter, and unless count > 0; TypeError for other objects.
    """
    start = time.perf_counter()
    if not isinstance(pde, PDE):
        raise TypeError(f"eigenmodes: expected a PDE, got {type(pde).__name__}")
    if count < 1:
        raise ValueError(f"eigenmodes: count must be above 0, got {count}")
    key = jax.random.key(0) if key is None else key
    with double_precision(), busy("eigenvalues", report):
        problem = _Pencil.of(pde, parameter, jax.random.fold_in(key, 1))
        modes = _best(problem, count, near, key, start + budget)
        if len(modes.values) < count:
            warnings.warn(
                f"eigenmodes: {len(modes.values)} of {count} modes leave a residual below {ACCEPTED:g}; ask for fewer, "
                "or give more time with budget=",
                stacklevel=2,
            )
        seconds = time.perf_counter() - start
        order = np.argsort(modes.values).tolist()
        return [_solution(pde, parameter, modes, i, seconds) for i in order]


class _Pencil(NamedTuple):
    """The problem with the parameter at 0 and at 1."""

    zero: PDE
    one: PDE

    @staticmethod
    def of(pde: PDE, parameter: str, key: Array) -> "_Pencil":
        if parameter not in pde.numbers or parameter in pde.unknowns:
            known = ", ".join(n for n in pde.numbers if n not in pde.unknowns) or "(none)"
            raise ValueError(
                f"eigenmodes: '{parameter}' is not a parameter of the PDE that has a number; it has {known}. Write it "
                f"as PDE(..., {parameter}=0.0)"
            )
        if pde.unknowns:
            raise ValueError(f"eigenmodes: {', '.join(pde.unknowns)} is unknown; give it a number")
        problem = _Pencil(*(with_number(pde, parameter, x) for x in (0.0, 1.0)))
        problem._check(with_number(pde, parameter, -2.5), parameter, key)
        return problem

    def _check(self, other: PDE, parameter: str, key: Array) -> None:
        if not all(is_affine(p, key) for p in self):
            raise ValueError("eigenmodes: the equations or conditions are not linear in the fields")
        network = draw_features(self.zero, 20, 2.0, key)
        points = self.zero.points(16, 16)(key)
        for p in (*self, other):
            tables = tabulate(p, network, points, {})
            alone = np.abs(residual_rows(p, tables, network.output)).max()
            if not alone <= 1e-12 * np.abs(jacobian_rows(p, tables, network.output)).max():
                raise ValueError(
                    "eigenmodes: the equations and conditions must be homogeneous (zero fields must satisfy them), but "
                    f"zero leaves a residual of {alone:.2g}; remove sources and set declared values to 0"
                )
        a, b = (np.asarray(m) for m in pencil(*self, network, points))
        third = np.asarray(pencil(other, other, network, points)[0])
        if not np.abs(b).max() > 1e-14 * np.abs(a).max():
            raise ValueError(f"eigenmodes: the parameter '{parameter}' has no effect on equations and conditions")
        if not np.abs(third - a - 2.5 * b).max() <= 1e-9 * (np.abs(a) + 2.5 * np.abs(b)).max():
            raise ValueError(f"eigenmodes: the equations or conditions are not affine in '{parameter}'")


def with_number(pde: PDE, parameter: str, number: Any) -> PDE:
    """`pde` with another number for a parameter."""
    changed = copy.copy(pde)
    changed.numbers = pde.numbers | {parameter: number}
    return changed


@eqx.filter_jit
def pencil(zero: PDE, one: PDE, network: RandomFeatures, batch: Groups) -> tuple[Array, Array]:
    """The matrices A and B of the residuals A c - lambda B c."""
    tables = tabulate(zero, network, batch, {})
    a = jacobian_rows(zero, tables, network.output)
    return a, a - jacobian_rows(one, tables, network.output)


def _best(problem: _Pencil, count: int, near: float, key: Array, deadline: float) -> Modes:
    """The modes of the features that leave the smallest residuals."""
    begun = time.perf_counter()
    trials = []
    for i, spread in enumerate(kinds(problem.zero)):
        trials.append(_modes(problem, TRIAL_FEATURES, spread, count, near, None, jax.random.fold_in(key, i)))
        if _enough(trials[-1], count):
            return trials[-1]
        if time.perf_counter() > begun + (deadline - begun) / 3:
            break
    best = min(trials, key=_quality(count))
    for i, size in enumerate(FEATURES):
        # More features resolve finer scales, so the next larger spread is tried with them too.
        for spread in (best.spread, *next_larger(problem.zero, best.spread)):
            began = time.perf_counter()
            drawn = jax.random.fold_in(key, 100 + i)
            found = _modes(problem, size, spread, count, near, _shift(best, near), drawn)
            best = min(best, found, key=_quality(count))
            took = time.perf_counter() - began
            if _enough(best, count) or time.perf_counter() + 8 * took > deadline:
                return best
    return best


def _enough(modes: Modes, count: int) -> bool:
    return len(modes.values) == count and modes.worst <= ENOUGH


def _quality(count: int):
    """Modes found come first, then their residuals."""
    return lambda modes: (-len(modes.values), modes.worst)


def _shift(modes: Modes, near: float) -> float | None:
    """A number close to `near` that is no eigenvalue, as far as is known."""
    if not len(modes.values):
        return None
    gaps = np.abs(modes.values - near)
    size = float(np.median(gaps)) or float(np.abs(modes.values).max()) or 1.0
    tried = near - size * np.linspace(0.05, 0.15, 11)
    return float(max(tried, key=lambda s: np.abs(modes.values - s).min()))


def _modes(
    problem: _Pencil, size: int, spread: float | None, count: int, near: float, shift: float | None, key
) -> Modes:
    drawn, fitted, checked = jax.random.split(key, 3)
    pde = problem.zero
    network = with_singular(pde, draw_features(pde, size // pde.out_size, spread, drawn))
    number = point_number(pde, network.output.size)
    a, b = (np.asarray(m) for m in pencil(*problem, network, sobol_points(pde, fitted, number, spread is None)))
    values, outputs = _pairs(a, b, count, near, shift)
    # The residual where nothing was fitted.
    a, b = (np.asarray(m) for m in pencil(*problem, network, sobol_points(pde, checked, number)))
    right, left = b @ outputs.T, a @ outputs.T
    sizes = np.linalg.norm(right, axis=0)
    gaps = np.linalg.norm(left - values * right, axis=0) / np.maximum(sizes, np.finfo(float).tiny)
    # An eigenvalue of zero is compared with the size of those around it.
    order = np.argsort(np.abs(values - near), kind="stable")
    scale = np.maximum(np.abs(values), np.median(np.abs(values[order[: 2 * count]])) if len(values) else 1.0)
    relative = gaps / np.maximum(scale, np.finfo(float).tiny)
    chosen = [i for i in order if relative[i] <= ACCEPTED][:count]
    return Modes(values[chosen], outputs[chosen], relative[chosen], network, spread)


def _pairs(a: np.ndarray, b: np.ndarray, count: int, near: float, shift: float | None):
    """Real eigenvalues of A c = lambda B c in the sense of least squares, nearest to `near`, and vectors by row."""
    import scipy.linalg

    linalg: Any = scipy.linalg
    unit = float(np.linalg.norm(a) / np.linalg.norm(b))
    upper = linalg.qr(np.concatenate([a, unit * b]), mode="r", check_finite=False, overwrite_a=True)[0]
    _, sizes, directions = linalg.svd(upper[: a.shape[1]], full_matrices=False, overwrite_a=True)
    kept = sizes > RANK * sizes[0]
    basis = directions[kept].T / sizes[kept]
    left, right = a @ basis, unit * (b @ basis)
    shift = near / unit - OFFSET if shift is None else shift / unit
    orthogonal, triangle = linalg.qr(left - shift * right, mode="economic", check_finite=False)
    inner = orthogonal.T @ right

    def inverse(block):
        return linalg.solve_triangular(triangle, inner @ block, check_finite=False)

    block = np.random.default_rng(0).standard_normal((basis.shape[1], min(3 * count + 12, basis.shape[1])))
    for _ in range(ITERATIONS):
        block = np.linalg.qr(inverse(block))[0]
    inverses, vectors = np.linalg.eig(block.T @ inverse(block))
    values, found = [], []
    for mu, vector in zip(inverses, vectors.T):
        value = unit * (shift + 1 / mu) if mu != 0 else np.inf
        if not np.isfinite(value) or abs(value.imag) > REAL * abs(value - near):
            continue
        # Eigenvalues that coincide may come as a conjugate pair: its real and imaginary part are the two modes.
        values.append(value.real)
        found.append(block @ (vector.imag if value.imag < 0 else vector.real))
    return np.array(values), np.array(found).reshape(len(values), -1) @ basis.T


def _solution(pde: PDE, parameter: str, modes: Modes, index: int, seconds: float) -> Solution:
    there = with_number(pde, parameter, float(modes.values[index]))
    shape, output = modes.network.output.shape, jnp.asarray(modes.outputs[index])
    fields = there.model(eqx.tree_at(lambda n: n.output, modes.network, output.reshape(shape)))
    found = np.asarray(_values(fields, pde.domain.sobol(POINTS))).ravel()
    scaled = eqx.tree_at(lambda f: f.network.output, fields, fields.network.output / found[np.abs(found).argmax()])
    residual = float(modes.residuals[index])
    kind = "polynomials" if modes.spread is None else "random features"
    choice = _conditions(pde) | {
        "method": f"eigenvalues of a rectangular pencil of {kind}",
        "network": described(shape[1], modes.spread),
        "parameters": output.size,
        "residual": residual,
        "eigenvalues": sorted(map(float, modes.values)),
        "precision": "float64",
    }
    return Solution(there, scaled, _single_entry({"residual": residual}, seconds), choice, seconds)


@eqx.filter_jit
def _values(fields, points) -> Array:
    return jax.vmap(fields)(points)
