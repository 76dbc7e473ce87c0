"""The numbers that names stand for at one point, from the partial derivatives of the fields there.

A derived quantity such as a flux q = k u_x is differentiated by the chain rule on Taylor series: q_x needs k, k_x, u_x
and u_xx, so all derivatives of the fields are known before anything is evaluated, and the fields themselves are
evaluated once.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._derivatives import Laplacian, Partial, closure, nested_derivatives, propagate
from ._names import Coordinate, Derivative, Meaning, Normal, Parameter, Point, space

# By quantity, its partial derivatives.
Found = Mapping[str, Mapping[Partial, Array]]
Demands = dict[str, dict[Partial, None]]


def demands(pde, meanings: Iterable[Meaning]) -> Demands:
    """By quantity, the partial derivatives that `meanings` need; of derived quantities before what those need."""
    out: Demands = {}

    def add(of: str, partials: Iterable[Partial]) -> None:
        known = out.setdefault(of, {})
        if of not in pde.derived:
            known.update(dict.fromkeys(partials))
            return
        known.update(dict.fromkeys(closure(expanded(partials))))
        for meaning in pde.derived_meanings[of].values():
            if isinstance(meaning, Derivative):
                add(meaning.of, [p for t in known for p in _joined(meaning.partial, t)])

    for meaning in meanings:
        if isinstance(meaning, Derivative):
            add(meaning.of, [meaning.partial])
        elif isinstance(meaning, Normal):
            add(meaning.of, [(i,) for i in space(pde.axes)])
    return out


def field_partials(pde, needed: Demands) -> tuple[Partial, ...]:
    """The partial derivatives that any of the fields needs."""
    return tuple(dict.fromkeys(p for name, partials in needed.items() if name in pde.fields for p in partials))


def read(
    pde, meanings: Mapping[str, Meaning], found: Found, point: Float[Array, " d"], normal: Any, numbers: Mapping
) -> dict[str, Array | float]:
    """What each name stands for, where `found` has the partial derivatives of the fields."""
    needed = demands(pde, meanings.values())
    every = dict(found)

    def derive(name: str) -> None:
        for meaning in pde.derived_meanings[name].values():
            if isinstance(meaning, Derivative) and meaning.of not in every:
                derive(meaning.of)
        every[name] = _derived(pde, name, tuple(needed[name]), every, point, numbers)

    for name in needed:
        if name in pde.derived and name not in every:
            derive(name)

    def value(meaning: Meaning):
        match meaning:
            case Coordinate(index):
                return point[index]
            case Point():
                return point
            case Parameter(name):
                return numbers[name]
            case Normal(of):
                return sum(normal[i] * every[of][(i,)] for i in space(pde.axes))
            case Derivative(of, partial):
                return _value(every, of, partial)

    return {name: value(meaning) for name, meaning in meanings.items()}


def _derived(pde, name, partials, found: Found, point, numbers) -> dict[Partial, Array]:
    """The partial derivatives of a derived quantity, from those of what it is made of."""
    meanings = pde.derived_meanings[name]

    def function(*values):
        return jnp.asarray(pde.derived[name](**dict(zip(meanings, values))), point.dtype)

    arguments = [_series(meaning, partials, found, point, numbers) for meaning in meanings.values()]
    try:
        series = propagate(function, arguments, partials)
    except NotImplementedError:
        around = [_polynomial(a) if isinstance(a, dict) else lambda shift, a=a: a for a in arguments]
        return nested_derivatives(lambda shift: function(*[f(shift) for f in around]), jnp.zeros_like(point), partials)
    return {p: series.get(p, jnp.zeros_like(series[()])) for p in partials}


def _series(meaning: Meaning, partials, found: Found, point, numbers) -> Any:
    match meaning:
        case Coordinate(index):
            return {(): point[index]} | ({(index,): jnp.ones_like(point[index])} if (index,) in partials else {})
        case Point():
            basis = np.eye(len(point), dtype=point.dtype)
            return {(): point} | {(i,): basis[i] for i in range(len(point)) if (i,) in partials}
        case Parameter(name):
            return numbers[name]
        case Derivative(of, partial):
            return {t: _value(found, of, *_joined(partial, t)) for t in partials}
    raise ValueError(f"a derived quantity cannot depend on {meaning}")


def _polynomial(series: Mapping[Partial, Array]):
    """The function whose derivatives at zero are those of a series."""

    def function(shift):
        total = 0.0
        for partial, value in series.items():
            count = Counter(partial)
            factor = math.prod(math.factorial(n) for n in count.values())
            total = total + value * math.prod(shift[a] ** n for a, n in count.items()) / factor
        return total

    return function


def _value(found: Found, of: str, *partials: Partial):
    """The sum of partial derivatives of a quantity."""
    known = found[of]
    return sum(known[q] for p in partials for q in ((p,) if p in known else expanded((p,))))


def _joined(first: Partial, second: Partial) -> tuple[Partial, ...]:
    """The derivatives whose sum is the `second` derivative of the `first`."""
    if not second:
        return (first,)
    if not first:
        return (second,)
    return tuple(tuple(sorted((*p, *q))) for p in expanded((first,)) for q in expanded((second,)))


def expanded(partials: Iterable[Partial]) -> tuple[tuple[int, ...], ...]:
    """Laplacians as the second derivatives that they are the sum of."""
    return tuple(q for p in partials for q in ([(a, a) for a in p] if isinstance(p, Laplacian) else [tuple(p)]))
