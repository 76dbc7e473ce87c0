"""Active learning: the chains of a committee explore, and where its members disagree, structures are labelled next."""

from dataclasses import replace
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from ase import units
from jaxtyping import Array, Bool, Float, Int

from ..nn._ensemble import Ensemble
from ..nn._layers import require_positive
from ._batches import structures
from ._committee import disagreement
from ._dynamics import PER_MASS, Rule, atomic_masses_of, started, stepped
from ._frames import Frames
from ._search import Search, search


def explore(
    committee: Ensemble,
    starts: Frames,
    cutoff: float,
    *,
    steps: int,
    temperature: Any = 300.0,
    step: float = 0.5,
    friction: float = 0.02,
    every: int = 20,
    limit: float = np.inf,
    skin: float = 1.0,
    key: Array,
) -> Frames:
    """Langevin dynamics (see `dynamics`) of many chains at once: as many of each member as there are starts for it, the
    first ones those of the first member. All of them are one compiled program.

    The result has the structures after every `every`-th step, with the labels `disagreement` (eV per angstrom), `chain`
    (the number of its start) and `time` (fs). A chain ends for good, without this structure, where `disagreement` is
    above `limit` or not finite: farther on, the members know nothing (Zhang et al., Comput. Phys. Commun. 253, 107206,
    2020).

    - `starts`: of which there must be as many, or some times as many, as members, with the same periodic directions.
    - `cutoff`: that of the members, in angstroms; `skin`: how much farther neighbours are listed.
    - `temperature` in K: a number, or one for each start; `step` in fs; `friction` in 1/fs.

    Raises ValueError for numbers out of range, starts that do not fit, and where no chain goes on to its first
    structure.
    """
    _check(committee, starts, steps, every, limit)
    listed = structures(starts, cutoff + skin)
    kelvin = np.broadcast_to(np.asarray(temperature, float), (len(starts),))
    if not (np.isfinite(kelvin) & (kelvin >= 0)).all():
        raise ValueError(f"explore: temperatures must be finite and not negative, got {temperature}")
    heat = jnp.asarray(units.kB * kelvin, listed.positions.dtype)
    chains = listed, atomic_masses_of(listed, None), heat
    by_member = jax.tree.map(lambda a: a.reshape(len(committee), -1, *a.shape[1:]), chains)
    find = _widest(starts, cutoff + skin, listed.is_edge.shape[-1] + 4)
    while True:
        walk = _walked(committee, find, by_member, (step, friction, skin), limit, key, steps // every, every)
        if int(walk.most) <= find.places:
            return _as_frames(starts, jax.tree.map(np.asarray, walk), step * every)
        find = replace(find, places=int(walk.most) + 4)


def select(scores: Any, count: int, *, groups: Any = None) -> Int[np.ndarray, " chosen"]:
    """The numbers of the `count` highest scores that are finite, highest first; fewer where there are not so many. With
    `groups`, such as the chains that structures come from, the best of each group come first, then the second best of
    each, and so on, since neighbours in time teach the same.

    Raises ValueError unless `count` is positive and there are as many groups as scores.
    """
    require_positive("select", count=count)
    found = np.asarray(scores, float)
    if groups is not None and np.shape(groups) != found.shape:
        raise ValueError(f"select: expected groups of shape {found.shape} like the scores, got {np.shape(groups)}")
    order = np.argsort(-found, kind="stable")
    order = order[np.isfinite(found[order])]
    if groups is not None:
        of = np.asarray(groups)[order]
        rank = np.array([np.count_nonzero(of[:i] == g) for i, g in enumerate(of)], int)
        order = order[np.argsort(rank, kind="stable")]
    return order[:count]


def labels_needed(error: float, counts: Any, errors: Any) -> float:
    """With how many labels a learning curve gets down to an error: between its points a line in logarithms. It is the
    first number of labels, or that of the lowest error, where the error is beyond those of the curve.

    - `counts`: of labels, rising; `errors`: with each of them, positive; where they rise, the lowest so far counts.

    Raises ValueError where shapes differ, numbers are not positive or counts do not rise.
    """
    count, known = np.asarray(counts, float), np.asarray(errors, float)
    if count.ndim != 1 or count.shape != known.shape or not len(count):
        raise ValueError(f"labels_needed: expected counts and errors of one length, got {count.shape}, {known.shape}")
    if not (error > 0 and (known > 0).all() and (count > 0).all() and (np.diff(count) > 0).all()):
        raise ValueError("labels_needed: errors and counts must be positive, and counts rise")
    # Only where the curve gets lower than before: what has the same error with fewer labels is what is asked.
    lower = np.append(True, known[1:] < np.minimum.accumulate(known)[:-1])
    return float(np.exp(np.interp(-np.log(error), -np.log(known[lower]), np.log(count[lower]))))


def _check(committee, starts, steps, every, limit) -> None:
    require_positive("explore", steps=steps, every=every)
    if steps % every:
        raise ValueError(f"explore: steps must be a multiple of every, got {steps} and {every}")
    if len(starts) % len(committee):
        raise ValueError(
            f"explore: {len(starts)} starts cannot be shared equally by {len(committee)} members; give a multiple"
        )
    if (starts.pbc != starts.pbc[0]).any():
        raise ValueError("explore: all starts must repeat in the same directions")
    if not limit > 0:
        raise ValueError(f"explore: the limit must be positive, got {limit}")


def _widest(starts: Frames, cutoff: float, places: int) -> Search:
    """The search of the cell that needs the most images, which suits all."""
    x, y, z = starts.pbc[0].tolist()
    return max((search(cutoff, places, cell, (x, y, z)) for cell in starts.cells), key=lambda found: len(found.images))


class Walk(NamedTuple):
    """At t times, of each member's chains: positions, disagreement, and whether a chain has not ended; and the most
    neighbours that an atom had.
    """

    positions: Float[Array, "t members chains n 3"]
    scores: Float[Array, "t members chains"]
    goes_on: Bool[Array, "t members chains"]
    most: Int[Array, ""]


@eqx.filter_jit
def _walked(committee, find, chains, settings, limit, key, frames, every):
    starts, masses, heat = chains
    step, friction, skin = settings

    def for_all(function, *given):
        """Of a member and one chain, for all members and their chains."""
        return committee.each(lambda member, *own: jax.vmap(lambda *one: function(member, *one))(*own), *given)

    def one(state, number):
        keys = jax.random.split(jax.random.fold_in(key, number), heat.shape)

        def moved(member, state, mass, heat, key):
            return stepped(member, find, Rule(mass, step, heat, friction, skin), state, key)

        return for_all(moved, state, masses, heat, keys), None

    def frame(carry, number):
        state, goes_on = carry
        after, _ = jax.lax.scan(one, state, number * every + jnp.arange(every))
        scores = jax.vmap(jax.vmap(lambda s: disagreement(committee, s)))(after.structure)
        goes_on = goes_on & (scores <= limit) & jnp.isfinite(scores)
        # A chain that has ended stays where it was, so that nothing overflows.
        state = jax.tree.map(
            lambda a, b: jnp.where(goes_on.reshape(*heat.shape, *[1] * (a.ndim - 2)), a, b), after, state
        )
        return (state, goes_on), (after.structure.positions, scores, goes_on, jnp.max(after.most))

    noise = jax.random.normal(jax.random.fold_in(key, 2**32 - 1), starts.positions.shape, starts.positions.dtype)
    velocities = jnp.sqrt(heat[..., None, None] * PER_MASS / masses[..., None]) * noise * starts.is_atom[..., None]
    state = for_all(lambda member, s, v: started(member, find, s, v), starts, velocities)
    _, (positions, scores, goes_on, most) = jax.lax.scan(frame, (state, jnp.ones(heat.shape, bool)), jnp.arange(frames))
    return Walk(positions, scores, goes_on, jnp.maximum(jnp.max(most), jnp.max(state.most)))


def _as_frames(starts: Frames, walk: Walk, interval: float) -> Frames:
    """The structures of chains that had not ended, one time after the other."""
    times = len(walk.positions)
    goes_on = walk.goes_on.reshape(times, -1)
    time, chain = np.nonzero(goes_on)
    if not len(time):
        raise ValueError(
            f"explore: no chain got to its first structure after {interval:g} fs within the limit of "
            "disagreement; give a higher limit, a lower temperature or a smaller 'every', or train longer"
        )
    there = starts[chain]
    places = walk.positions.shape[-2]
    positions = walk.positions.reshape(times, -1, places, 3)[goes_on]
    positions = positions[np.arange(places) < there.counts[:, None]]
    bare = replace(there, positions=positions.astype(float), labels={}, atom_labels={})
    scores = walk.scores.reshape(times, -1)[goes_on]
    return bare.with_labels({"disagreement": scores, "chain": chain, "time": interval * (time + 1)})
