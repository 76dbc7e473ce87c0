"""Losses that ask for less smoothness than an equation: an energy to be minimised, or a form with test functions.

Both replace the loss of a PDE, `solve(pde, loss=deep_ritz(pde, energy))`; its conditions stay what they are.
"""

import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._loss import Groups
from ._domain import Box, Domain
from ._names import Meaning, arguments, read_subscript
from ._pde import INTERIOR, PDE

TEST = "v"


class Rule(NamedTuple):
    """Points and weights that integrate over a domain."""

    points: Float[np.ndarray, "n d"]
    weights: Float[np.ndarray, " n"]


def deep_ritz(pde: PDE, energy: Callable, *, points: int = 4096, penalty: float = 500.0) -> Callable:
    """The loss whose minimum is that of an energy: the integral of `energy` over the domain plus `penalty` times the
    mean squares of the conditions that are trained (deep Ritz method; E & Yu, Commun. Math. Stat. 6, 2018, eq. 9).

    `energy(u, u_x, ...)` is a function of fields, derivatives, coordinates and parameters, as an equation is: for
    -laplacian(u) = f it is `0.5 * (u_x**2 + u_y**2) - f * u`. It is integrated by a Gauss-Legendre rule on boxes and by
    as many Sobol points on other domains, the same ones at each step; interior points of the batch are not used.
    A penalty instead of exact conditions moves the minimum by an amount in proportion to 1 / `penalty`.

    The loss is a number, not residuals: for first-order and quasi-Newton methods, not for Gauss-Newton.

    Raises ValueError for unknown names and unless `points` and `penalty` are positive.
    """
    if not penalty > 0:
        raise ValueError(f"deep_ritz: the penalty must be positive, got {penalty}")
    meanings = _meanings(pde, energy, "energy", skip=())
    rule = _rule(pde.domain, points)

    def loss(model, batch: Groups) -> Array:
        density = jax.vmap(lambda p: jnp.asarray(energy(**pde.evaluate(meanings, model, p))))(_cast(rule.points, batch))
        conditions = pde.residuals(model, _without_interior(batch))
        return _cast(rule.weights, batch) @ density + penalty * sum(jnp.mean(r**2) for r in conditions.values())

    return loss


def petrov_galerkin(
    pde: PDE,
    form: Callable,
    *,
    elements: int | Mapping[str, int] = 1,
    degree: int = 10,
    points: int | None = None,
    penalty: float = 100.0,
) -> Callable:
    """The residuals of a weak form against test functions (variational PINNs; Kharazmi, Zhang & Karniadakis, CMAME 374,
    2021, eq. 8), beside those of the conditions that are trained, times the root of `penalty`.

    `form(u_x, u_y, v, v_x, v_y, ...)` is the integrand, linear in the test function `v` and its first derivatives: for
    -laplacian(u) = f it is `u_x * v_x + u_y * v_y - f * v`. Test functions are products over the axes of the integrated
    Legendre polynomials up to `degree` on each of `elements` per axis, zero on the element's edges, and of length one
    in the H1 seminorm, so that the residuals' squares estimate the error in the energy (Rojas et al., CMAME 420, 2024).
    Each element has Gauss-Legendre points, `points` per axis (by default `degree` + 5).

    Along `t` no condition at the end is implied, since test functions vanish there. Needs a box.
    Raises ValueError for other domains, unknown names, a form that is not linear in `v`, and numbers below 1.
    """
    if not isinstance(pde.domain, Box):
        raise ValueError(f"petrov_galerkin: test functions are known on a Box, got {pde.domain!r}")
    per_axis = (
        dict.fromkeys(pde.axes, elements) if isinstance(elements, int) else dict.fromkeys(pde.axes, 1) | dict(elements)
    )
    order = degree + 5 if points is None else points
    for name, number in (
        ("degree", degree),
        ("points", order),
        *((f"elements of {a}", n) for a, n in per_axis.items()),
    ):
        if number < 1:
            raise ValueError(f"petrov_galerkin: {name} must be 1 or more, got {number}")
    slots = _test_slots(pde, form)
    meanings = _meanings(pde, form, "form", skip=tuple(slots))
    _check_linear(form, meanings, slots)
    lines = [_line(pde.domain.bounds[a], per_axis[a], degree, order) for a in pde.axes]
    nodes = np.stack([m.ravel() for m in np.meshgrid(*[line.nodes for line in lines], indexing="ij")], axis=1)
    scale = _seminorms(lines)

    def coefficients(model, point):
        values = pde.evaluate(meanings, model, point)
        zero = dict.fromkeys(slots, jnp.zeros((), point.dtype))
        return jax.grad(lambda test: jnp.asarray(form(**values, **test), point.dtype))(zero)

    def loss(model, batch: Groups) -> dict[str, Array]:
        found = jax.vmap(lambda p: coefficients(model, p))(_cast(nodes, batch))
        total: Any = 0.0
        for slot, axis in slots.items():
            total = total + _tested(found[slot], lines, axis)
        conditions = pde.residuals(model, _without_interior(batch))
        weak = jnp.ravel(total / _cast(scale, batch))
        # The sum of the squares counts, and the loss takes their mean.
        return {"weak form": jnp.sqrt(weak.size) * weak} | {n: penalty**0.5 * r for n, r in conditions.items()}

    return loss


class _Line(NamedTuple):
    """Along one axis: the nodes of all elements, and by node what each test function of its element and its derivative
    are, times the node's weight; and the integrals of their squares.
    """

    nodes: Float[np.ndarray, " n"]
    values: Float[np.ndarray, "elements points degrees"]
    slopes: Float[np.ndarray, "elements points degrees"]
    mass: Float[np.ndarray, " degrees"]
    stiffness: Float[np.ndarray, " degrees"]


def _line(ends: tuple[float, float], elements: int, degree: int, points: int) -> _Line:
    from numpy.polynomial import legendre

    x, w = legendre.leggauss(points)
    length = (ends[1] - ends[0]) / elements
    starts = ends[0] + length * np.arange(elements)
    # P_(k+1) - P_(k-1) vanishes at both ends, and its derivative is (2 k + 1) P_k.
    polynomials = legendre.legvander(x, degree + 1)
    k = np.arange(1, degree + 1)
    values, slopes = polynomials[:, 2:] - polynomials[:, :-2], (2 * k + 1) * polynomials[:, 1:-1] * 2 / length
    mass, stiffness = ((w * length / 2) @ f**2 for f in (values, slopes))
    weight = (w * length / 2)[None, :, None] * np.ones((elements, 1, 1))
    nodes = (starts[:, None] + length * (x + 1) / 2).ravel()
    return _Line(nodes, weight * values, weight * slopes, mass, stiffness)


def _tested(coefficient: Float[Array, " n"], lines: list[_Line], axis: int | None):
    """The integrals of a coefficient times each test function, or its derivative along an axis."""
    shape = [n for line in lines for n in line.values.shape[:2]]
    out = coefficient.reshape(shape)
    for i, line in enumerate(lines):
        factor = jnp.asarray(line.slopes if i == axis else line.values, out.dtype)
        # The element and the points of this axis come first; its element and degree go last.
        out = jnp.einsum("eq...,eqk->...ek", out, factor)
    return out


def _seminorms(lines: list[_Line]) -> np.ndarray:
    """The H1 seminorm of each test function, in the order of `_tested`."""
    squares: Any = 0.0
    for chosen in range(len(lines)):
        product: Any = np.ones(())
        for i, line in enumerate(lines):
            one = line.stiffness if i == chosen else line.mass
            product = product[..., None, None] * np.broadcast_to(one, (len(line.values), len(one)))
        squares = squares + product
    return np.sqrt(squares)


def _test_slots(pde: PDE, form: Callable) -> dict[str, int | None]:
    """By argument that is the test function or its derivative, the axis of the derivative."""
    if TEST in (*pde.fields, *pde.numbers, *pde.derived, *pde.axes):
        raise ValueError(f"petrov_galerkin: '{TEST}' is the test function; rename the other '{TEST}' of the PDE")
    slots = {}
    for name in arguments(form, "form"):
        if name == TEST:
            slots[name] = None
        elif name.startswith(f"{TEST}_"):
            axes = read_subscript(name.removeprefix(f"{TEST}_"), pde.axes)
            if axes is None or len(axes) != 1:
                raise ValueError(
                    f"petrov_galerkin: '{name}' is no first derivative of the test function along {', '.join(pde.axes)}"
                )
            slots[name] = axes[0]
    if not slots:
        raise ValueError(f"petrov_galerkin: the form does not ask for the test function '{TEST}'")
    return slots


def _check_linear(form: Callable, meanings: Mapping[str, Meaning], slots: Mapping[str, int | None]) -> None:
    random = np.random.default_rng(0)
    given = {n: random.uniform(0.5, 1.5) for n in meanings}
    one, two = ({n: random.uniform(0.5, 1.5) for n in slots} for _ in range(2))
    first, second, both = (float(form(**given, **test)) for test in (one, two, {n: one[n] + 2 * two[n] for n in slots}))
    if abs(both - first - 2 * second) > 1e-4 * (abs(first) + abs(second) + abs(both)):
        raise ValueError(f"petrov_galerkin: the form must be linear in '{TEST}' and its derivatives")


def _meanings(pde: PDE, function: Callable, where: str, skip: tuple[str, ...]) -> dict[str, Meaning]:
    return {n: pde.vocabulary.meaning(n, where) for n in arguments(function, where) if n not in skip}


def _rule(domain: Domain, points: int) -> Rule:
    if isinstance(points, bool) or not isinstance(points, int) or points < 1:
        raise ValueError(f"deep_ritz: points must be an integer above 0, got {points!r}")
    if not isinstance(domain, Box):
        with jax.enable_x64(True):
            return Rule(np.asarray(domain.sobol(points)), np.full(points, domain.measure / points))
    count = max(2, round(points ** (1 / len(domain.axes))))
    x, w = np.polynomial.legendre.leggauss(count)
    ends = domain.bounds.values()
    grid = np.meshgrid(*[low + (high - low) * (x + 1) / 2 for low, high in ends], indexing="ij")
    weights = [(high - low) / 2 * w for low, high in ends]
    products = [np.prod(c) for c in itertools.product(*weights)]
    return Rule(np.stack([g.ravel() for g in grid], axis=1), np.array(products))


def _without_interior(batch: Groups) -> Groups:
    return Groups({label: points for label, points in batch.items() if label != INTERIOR})


def _cast(array: np.ndarray, batch: Groups) -> Array:
    """A constant in the precision of the batch."""
    return jnp.asarray(array, jnp.result_type(*jax.tree.leaves(dict(batch))))
