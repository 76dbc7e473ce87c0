"""Damped linear least squares: four ways to minimise |J s + r|^2 + damping |s - toward|^2."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import lineax as lx
from jax.scipy.linalg import cho_factor, cho_solve, solve_triangular
from jaxtyping import Array, Float

from ._equations import Residuals, gram_matrix


class Step(NamedTuple):
    """The s that minimises |J s + r|^2 + damping |s - toward|^2, and `s -> -(J^T J + damping I)^-1 J^T r''(s, s) / 2`,
    what the curvature of r adds to it (Transtrum & Sethna, arXiv 1201.5885, eq. 16).
    """

    step: Array
    bend: Callable


class System(NamedTuple):
    """A linearised least-squares problem: r^T r, J^T r, the least damping that rounding errors allow, and
    `(damping, toward) -> Step`.
    """

    value: Array
    gradient: Array
    least: Array
    solve: Callable


# A way to solve: it prepares what does not depend on the damping.
Solver = Callable[[Residuals], System]


def cholesky(problem: Residuals) -> System:
    """Factorises J^T J + damping I, P x P for P parameters: 2 N P^2 operations for N residuals, of which the
    factorisation for each damping is a small part. Singular values of J below the root of the machine precision,
    relative to the largest, are lost in J^T J.
    """
    matrix, gradient, value = gram_matrix(problem)

    def solve(damping, toward):
        factor = cho_factor(matrix + damping * jnp.eye(gradient.size, dtype=gradient.dtype))
        step = cho_solve(factor, damping * toward - gradient)
        return Step(step, lambda s: -cho_solve(factor, problem.bend(s)) / 2)

    return System(value, gradient, _rounding(jnp.trace(matrix), gradient), solve)


def qr(problem: Residuals) -> System:
    """QR of J by chunks, then of R on top of sqrt(damping) I. Singular values down to the machine precision count,
    where J^T J knows those above its root only; about four times the operations of `cholesky`.
    """
    size, dtype = problem.flat.size, problem.flat.dtype

    def add(factor, jacobian, r):
        return jnp.linalg.qr(jnp.vstack([factor, jnp.hstack([jacobian, r[:, None]])]), mode="r")

    # The last column becomes Q^T r, so that Q itself is never needed.
    factor = problem.fold_rows(add, jnp.zeros((size + 1, size + 1), dtype))
    upper, image = factor[:size, :size], factor[:size, size]

    def solve(damping, toward):
        root = jnp.sqrt(damping)
        above = jnp.hstack([upper, -image[:, None]])
        below = jnp.hstack([root * jnp.eye(size, dtype=dtype), root * toward[:, None]])
        stacked = jnp.linalg.qr(jnp.vstack([above, below]), mode="r")
        triangle = stacked[:size, :size]

        def bend(s):
            return -solve_triangular(triangle, solve_triangular(triangle, problem.bend(s), trans=1)) / 2

        return Step(solve_triangular(triangle, stacked[:size, size]), bend)

    least = _rounding(jnp.sum(upper**2), image) * jnp.finfo(dtype).eps
    return System(jnp.sum(factor[:, size] ** 2), upper.T @ image, least, solve)


def woodbury(problem: Residuals) -> System:
    """Factorises J J^T + damping I, N x N for N residuals, by the identity (J^T J + damping I)^-1 J^T =
    J^T (J J^T + damping I)^-1: for fewer residuals than parameters. The whole of J is held.
    """
    jacobian, r = problem.rows()
    # Without transposes, of which each would be a copy.
    kernel = jnp.einsum("ip,jp->ij", jacobian, jacobian)

    def solve(damping, toward):
        factor = cho_factor(kernel + damping * jnp.eye(r.size, dtype=r.dtype))
        step = toward - cho_solve(factor, r + jacobian @ toward) @ jacobian
        return Step(step, lambda s: -cho_solve(factor, problem.bend_rows(s)) @ jacobian / 2)

    return System(jnp.vdot(r, r), r @ jacobian, _rounding(jnp.trace(kernel), problem.flat), solve)


def conjugate_gradients(tolerance: float = 1e-2, *, max_steps: int = 200, sketch: int = 100) -> Solver:
    """The solver by conjugate gradients with products J v and J^T w only: no matrix of size P x P or N x N is made, nor
    is the whole of J. Steps end where the residual of the normal equations has fallen by `tolerance`, or after
    `max_steps`; the step found by then still descends.

    The preconditioner is a randomised Nystroem approximation of J^T J of rank `sketch` (Frangella, Tropp & Udell, SIAM
    J. Matrix Anal. Appl. 44, 2023; for PINNs Bioli, Marcati & Sangalli, 2025): J is gone through once, by chunks of its
    rows, and P x sketch numbers are kept. `sketch=0` goes without.

    Raises ValueError for a tolerance outside of (0, 1), for fewer than one step, and for a negative rank.
    """
    if not 0 < tolerance < 1 or max_steps < 1 or sketch < 0:
        raise ValueError(
            "conjugate_gradients: expected 0 < tolerance < 1, max_steps > 0 and sketch >= 0, got "
            f"{tolerance}, {max_steps} and {sketch}"
        )

    def prepare(problem: Residuals) -> System:
        value, gradient = problem.value_and_gradient()
        if sketch:
            precondition, trace = _nystroem(problem, min(sketch, gradient.size))
        else:
            precondition, trace = (lambda damping, v: v), _norm(problem.gram(gradient)) / _norm(gradient)

        def solve(damping, toward):
            def divide(right):
                return _solve_by_products(problem.gram, precondition, right, damping, tolerance, max_steps)

            step = toward - divide(gradient + problem.gram(toward))
            return Step(step, lambda s: -divide(problem.bend(s)) / 2)

        return System(value, gradient, _rounding(trace, gradient), solve)

    return prepare


def _rounding(trace, vector):
    """The damping that is as large as the errors in a matrix of this trace, whose size is that of the vector."""
    return jnp.finfo(vector.dtype).eps * jnp.maximum(trace, jnp.finfo(vector.dtype).tiny) / vector.size


def _norm(vector):
    return jnp.maximum(jnp.linalg.norm(vector), jnp.finfo(vector.dtype).tiny)


def _solve_by_products(gram, precondition, right, damping, tolerance, max_steps):
    """(J^T J + damping I)^-1 right. The unknown is damping * s / |right|, whose length is at most 1, so that one
    tolerance suits both of Lineax's tests: of the equations' residual and of the last change.
    """
    size, structure = _norm(right), jax.eval_shape(lambda: right)
    positive = lx.positive_semidefinite_tag
    operator = lx.FunctionLinearOperator(lambda v: gram(v) / damping + v, structure, positive)
    preconditioner = lx.FunctionLinearOperator(lambda v: precondition(damping, v), structure, positive)
    solver = lx.CG(rtol=0.0, atol=tolerance, norm=jnp.linalg.norm, max_steps=max_steps, stabilise_every=None)
    options = {"preconditioner": preconditioner}
    return size / damping * lx.linear_solve(operator, right / size, solver, options=options, throw=False).value


def _nystroem(problem: Residuals, rank: int) -> tuple[Callable[[Array, Array], Array], Array]:
    """`(damping, v) -> (A / damping + I)^-1 v` with A of that rank, the approximation of J^T J; and the trace of A."""
    dtype = problem.flat.dtype
    test, _ = jnp.linalg.qr(jax.random.normal(jax.random.key(0), (problem.flat.size, rank), dtype))
    image = problem.fold_rows(lambda total, rows, _: total + rows.T @ (rows @ test), jnp.zeros_like(test))
    # A = image core^-1 image^T, on the part of the core that rounding leaves.
    weights, vectors = jnp.linalg.eigh(test.T @ image)
    floor = rank * jnp.finfo(dtype).eps * weights[-1]
    roots = jnp.where(weights > floor, jnp.sqrt(jnp.maximum(weights, floor)), jnp.inf)
    basis, singular, _ = jnp.linalg.svd(image @ (vectors / roots), full_matrices=False)
    spectrum = singular**2

    def apply(damping: Float[Array, ""], v: Float[Array, " p"]) -> Float[Array, " p"]:
        inside = basis.T @ v
        # Beyond the rank, the spectrum goes on at about its last value.
        beyond = spectrum[-1] / damping + 1
        return basis @ (inside / (spectrum / damping + 1)) + (v - basis @ inside) / beyond

    return apply, jnp.sum(spectrum)


def choose(problem: Residuals) -> Solver:
    """The solver for a problem of P parameters and N residuals, at trace time: `cholesky` for P <= N, else `woodbury`,
    if its matrices fit into half of the memory (4 P^2 numbers; N P + 4 N^2 numbers); the other of the two if that one
    fits; else `conjugate_gradients`.
    """
    p, n, room = problem.flat.size, problem.number, problem.memory / 2 / problem.flat.dtype.itemsize
    fits = {cholesky: 4 * p**2 <= room, woodbury: n * p + 4 * n**2 <= room}
    order = (cholesky, woodbury) if p <= n else (woodbury, cholesky)
    return next((solver for solver in order if fits[solver]), conjugate_gradients())
