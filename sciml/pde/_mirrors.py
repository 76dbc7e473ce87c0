"""Fields that are even or odd about the ends of an axis, and so periodic over twice its length.

A field that is zero at both ends goes on as an odd function beyond them, one whose derivative is zero there as an even
one. The residuals of equations beyond the ends are those in the domain, with a sign.
"""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ._condition import Condition, Value
from ._constraint import order_along, whole_face
from ._derivatives import Laplacian, Partial
from ._domain import TIME
from ._names import Derivative, Normal
from ._pde import INTERIOR, PDE, Group
from ._rows import Partials, Table, bare_table, partials_of, slopes_at, terms_at

# Points at which parities are looked at, and what counts as zero there, relative to what is usual.
POINTS, ZERO = 16, 1e-6
# Parities that are tried are two to the power of this at most.
MOST_FREE = 4


class Mirrors(NamedTuple):
    """The axes along which fields are continued beyond their ends, by their places, and whether fields and residuals
    are even (1) or odd (-1) there.
    """

    axes: tuple[int, ...]
    fields: Float[np.ndarray, "axes fields"]
    terms: Float[np.ndarray, "axes terms"]


class Places(NamedTuple):
    """Points in the domain, and whether they stand for their mirror images along each axis of `Mirrors`."""

    table: Table
    mirrored: Bool[Array, "n axes"]


def places_of(pde: PDE, mirrors: Mirrors, points: np.ndarray) -> Places:
    """Points anywhere, moved into the domain."""
    ends = np.array([pde.domain.bounds[pde.axes[a]][1] for a in mirrors.axes])
    columns, points = list(mirrors.axes), np.array(points)
    mirrored = points[:, columns] > ends
    points[:, columns] = np.where(mirrored, 2 * ends - points[:, columns], points[:, columns])
    return Places(bare_table(jnp.asarray(points)), jnp.asarray(mirrored))


def terms_on(pde: PDE, mirrors: Mirrors, label: str, places: Places, partials: Partials) -> Float[Array, "n terms"]:
    """The residuals of a group, continued, from fields that are."""
    if not mirrors.axes:
        return terms_at(pde, label, places.table, partials)
    inside = {p: v * _signs(mirrors, places, p) for p, v in partials.items()}
    return terms_at(pde, label, places.table, inside) * _term_signs(pde, mirrors, label, places)


def slopes_on(pde: PDE, mirrors: Mirrors, places: Places, partials: Partials) -> dict[Partial, Array]:
    """The derivatives of the equations' residuals by those of the fields, `(n, terms, fields)`."""
    if not mirrors.axes:
        return slopes_at(pde, INTERIOR, places.table, partials)
    inside = {p: v * _signs(mirrors, places, p) for p, v in partials.items()}
    of_terms = _term_signs(pde, mirrors, INTERIOR, places)
    found = slopes_at(pde, INTERIOR, places.table, inside)
    return {p: s * of_terms[:, :, None] * _signs(mirrors, places, p)[:, None] for p, s in found.items()}


def _signs(mirrors: Mirrors, places: Places, partial: Partial) -> Float[Array, "n fields"]:
    """What a partial derivative of each field beyond the ends is multiplied by in the domain."""
    counts = np.array([0 if isinstance(partial, Laplacian) else partial.count(a) for a in mirrors.axes])
    beyond = mirrors.fields * ((-1.0) ** counts)[:, None]
    return jnp.prod(jnp.where(places.mirrored[:, :, None], beyond, 1.0), axis=1)


def _term_signs(pde: PDE, mirrors: Mirrors, label: str, places: Places) -> Float[Array, "n terms"]:
    if label == INTERIOR:
        parities = mirrors.terms
    else:
        # Conditions at the first time are about fields and their derivatives along time.
        parities = mirrors.fields[:, [pde.fields.index(m.of) for m in targets_of(pde.groups[label])]]
    return jnp.prod(jnp.where(places.mirrored[:, :, None], parities, 1.0), axis=1)


def mirrors_of(pde: PDE) -> Mirrors | None:
    """None where something else is declared at the ends of axes that are not periodic, or where residuals would not go
    on smoothly, as those of sources that are not zero where fields are.
    """
    axes = tuple(i for i, a in enumerate(pde.axes) if a != TIME and a not in pde.periodic_axes)
    if not axes:
        return Mirrors((), np.zeros((0, len(pde.fields))), np.zeros((0, len(pde.equations))))
    kinds: dict[tuple[int, int], set] = {(axis, field): set() for axis in axes for field in range(len(pde.fields))}
    for name in walls(pde):
        for (axis, at, field), kind in _of_wall(pde, pde.groups[name]):
            kinds[axis, field].add((at, kind))
    fields, free = np.zeros((len(axes), len(pde.fields))), []
    for i, axis in enumerate(axes):
        for j, name in enumerate(pde.fields):
            found = kinds[axis, j]
            kind = next((k for _, k in found), 0.0)
            if not found and order_along(pde, name, axis) == 0:
                free.append((i, j))
            elif found != {(at, kind) for at in pde.domain.bounds[pde.axes[axis]]}:
                return None
            fields[i, j] = kind
    return _with_parities(pde, axes, fields, free)


def _with_parities(pde: PDE, axes: tuple[int, ...], fields: np.ndarray, free: list[tuple[int, int]]) -> Mirrors | None:
    """With those of fields that need no conditions, as they have no derivatives along an axis: as equations ask for."""
    for kinds in itertools.product((1.0, -1.0), repeat=len(free)) if len(free) <= MOST_FREE else ():
        for place, kind in zip(free, kinds):
            fields[place] = kind
        terms = _parities(pde, axes, fields)
        if terms is not None:
            return Mirrors(axes, fields, terms)
    return None


def walls(pde: PDE) -> list[str]:
    """The conditions that declare zero on whole faces at the ends of axes of space."""
    return [n for n, g in pde.groups.items() if isinstance(g.source, Value | Condition) and _of_wall(pde, g)]


def targets_of(group: Group) -> list[Any]:
    """What a condition declares the values of."""
    return [t.meanings[t.function.target] for t in group.terms]  # pyright: ignore


def _of_wall(pde: PDE, group: Group) -> list[tuple[tuple[int, float, int], float]]:
    """By axis, end and field, the parity of what is zero there; empty where anything else is declared."""
    found = []
    for piece in group.region.pieces:
        face = whole_face(pde, piece)
        if face is None or pde.axes[face[0]] == TIME:
            return []
        for meaning in _zeros(group):
            across = isinstance(meaning, Normal) or (isinstance(meaning, Derivative) and meaning.partial == (face[0],))
            bare = isinstance(meaning, Derivative) and meaning.partial == ()
            if not (across or bare) or meaning.of not in pde.fields:
                return []
            found.append(((*face, pde.fields.index(meaning.of)), 1.0 if across else -1.0))
    return found


def _zeros(group: Group) -> list[Any]:
    """What a condition declares to be zero, as a value or as an equation, a number times one name; a None for anything
    else it asks for.
    """
    if isinstance(group.source, Value):
        data = [t.function.data for t in group.terms]  # pyright: ignore
        return [None if callable(d) or float(d) != 0 else m for d, m in zip(data, targets_of(group))]
    (term,) = group.terms
    (name, meaning), *others = term.meanings.items()
    if others or not isinstance(meaning, Derivative | Normal):
        return [None]
    zero, one, minus_two = (float(term.function(**{name: jnp.asarray(x)})) for x in (0.0, 1.0, -2.0))
    return [meaning if zero == 0 and one != 0 and minus_two == -2 * one else None]


def _parities(pde: PDE, axes: tuple[int, ...], fields: np.ndarray) -> np.ndarray | None:
    """Those of the equations, from random derivatives of fields: odd where nothing is left at the ends by fields that
    are what they must be there; even where turning the fields round changes nothing.
    """
    random = np.random.default_rng(0)
    table = bare_table(pde.domain.sobol(POINTS, jax.random.key(0)))
    partials = {p: random.normal(size=(POINTS, len(pde.fields))) for p in partials_of(pde, pde.groups[INTERIOR])}

    def terms(partials, table=table):
        return np.asarray(terms_at(pde, INTERIOR, table, {p: jnp.asarray(v) for p, v in partials.items()}))

    zero = terms({p: 0 * v for p, v in partials.items()})
    usual, found = terms(partials), np.zeros((len(axes), len(pde.equations)))
    change, size = np.abs(usual - zero).max(axis=0), np.abs(usual).max(axis=0)
    for row, axis, of in zip(found, axes, fields):
        signs = {p: of * (1 if isinstance(p, Laplacian) else (-1.0) ** p.count(axis)) for p in partials}
        even = np.abs(terms({p: v * signs[p] for p, v in partials.items()}) - usual).max(axis=0) <= ZERO * change
        ends = [bare_table(table.points.at[:, axis].set(at)) for at in pde.domain.bounds[pde.axes[axis]]]
        at_ends = [terms({p: v * (signs[p] > 0) for p, v in partials.items()}, end) for end in ends]
        odd = np.abs(at_ends).max(axis=(0, 1)) <= ZERO * size
        if not (even | odd).all():
            return None
        row[:] = np.where(odd, -1.0, 1.0)
    return found
