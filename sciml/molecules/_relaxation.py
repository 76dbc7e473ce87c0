"""Structures of least energy, compiled as one loop with its neighbour lists."""

import math
import warnings
from dataclasses import replace
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ._search import Search, inverse, room_for, search
from ._structure import Structure, strained, volume

# FIRE's numbers (Bitzek et al., table of section "Parameters"), the time steps those of ASE for masses of 1.
STEP, LARGEST_STEP, PATIENCE, FASTER, SLOWER, MIXING, LESS_MIXING = 0.1, 1.0, 5, 1.1, 0.5, 0.1, 0.99
# No atom moves farther than this in a step, in angstroms.
LONGEST = 0.2
# Once a cell is strained by more than this, the images that can be near are counted again.
STRAINED = 0.1


class Relaxed(NamedTuple):
    """A relaxed `structure`, with the neighbours that were found last; its `energy` in eV; the largest `force` on an
    atom in eV/angstrom; the largest component of the `stress` beyond the pressure in eV per cubic angstrom, 0 where the
    cell is kept; how many `steps` were taken, and whether it is `converged`.
    """

    structure: Structure
    energy: float
    force: float
    stress: float
    steps: int
    converged: bool


class Moving(NamedTuple):
    """The state: of n atoms, positions before they are strained and the strain, one below the other, the neighbours of
    which are in `structure` and were found at `found_at`, the slopes there and velocities, and FIRE's numbers.
    """

    structure: Structure
    places: Float[Array, "n+3 3"]
    slope: Float[Array, "n+3 3"]
    velocity: Float[Array, "n+3 3"]
    energy: Float[Array, ""]
    found_at: Float[Array, "n+3 3"]
    most: Int[Array, ""]
    step: Float[Array, ""]
    mixing: Float[Array, ""]
    since: Int[Array, ""]
    count: Int[Array, ""]


class Rule(NamedTuple):
    """The limits on the slopes, of atoms and of the cell; the pressure; the skin; the most steps."""

    force: float
    stress: float
    pressure: float
    skin: float
    steps: int


def relaxed(
    model: Any,
    structure: Structure,
    *,
    cutoff: float,
    cell: bool = False,
    force: float = 1e-3,
    stress: float = 1e-5,
    pressure: float = 0.0,
    steps: int = 2000,
    pbc: tuple[bool, bool, bool] | None = None,
    skin: float = 1.0,
) -> Relaxed:
    """The nearest minimum of the energy, by FIRE (Bitzek et al., Phys. Rev. Lett. 97, 170201, 2006): from a structure
    of n atoms to the same with other positions and, if so wanted, another cell.

    - `cutoff`: that of the model, in angstroms: what is farther apart must not matter to it.
    - `cell`: whether the cell is relaxed too, by a strain that moves the atoms along (Tadmor et al., Phys. Rev. B 59,
      235, 1999), under a `pressure` in eV per cubic angstrom.
    - `force` in eV/angstrom and `stress` in eV per cubic angstrom: it ends when that on no atom, and no component of
      this, is larger; in single precision they cannot be arbitrarily small.
    - `steps`: the most that are taken.
    - `pbc`: in which directions the cell repeats; by default in all, if there is a cell.
    - `skin` in angstroms: neighbours are found within `cutoff + skin`, and again before they can be incomplete.

    A warning says where it is not converged after all steps. Runs in the precision of the structure.

    Raises ValueError for numbers out of range, a cell to relax that does not repeat in three directions, and where the
    energy is not finite.
    """
    limits = {"cutoff": cutoff, "force": force, "stress": stress, "steps": steps, "skin": skin}
    for name, value in limits.items():
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"relaxed: {name} must be positive and finite, got {value}")
    structure = jax.tree.map(jnp.asarray, structure)
    x, y, z = (bool(np.any(np.asarray(structure.cell))),) * 3 if pbc is None else pbc
    repeats = bool(x), bool(y), bool(z)
    if cell and not all(repeats):
        raise ValueError(f"relaxed: a cell to relax repeats in three directions, got pbc={repeats}")
    rule, state, reach = Rule(force, stress, pressure, skin, steps), None, float(cutoff + skin)
    places, taken = structure.neighbours.shape[1], 0
    while True:
        # Images that can be near in a cell that shrinks by as much as it may before it comes here again.
        find = search(reach, 1, (1 - 2 * STRAINED * cell) * np.asarray(structure.cell, float), repeats)
        find = replace(find, places=max(places, 1))
        state = _started(model, find, rule, structure, cell, jnp.asarray(taken))
        if int(state.most) <= find.places:
            _require_finite(state)
            state = _run(model, find, rule, state, cell)
            _require_finite(state)
        structure, taken = _strained(state.structure, state.places), int(state.count)
        if int(state.most) > find.places:
            places = room_for(int(state.most))
        elif not bool(_is_strained(state)):
            break
    largest, strain = (float(v) for v in _largest(state, cell))
    converged = largest <= force and strain <= stress
    if not converged:
        warnings.warn(
            f"relaxed: not converged after {taken} steps: the largest force is {largest:.2g} eV/angstrom, the largest "
            f"stress {strain:.2g} eV/angstrom^3; take more steps, or larger limits in single precision",
            stacklevel=2,
        )
    return Relaxed(structure, float(state.energy), largest, strain, taken, converged)


def _require_finite(state) -> None:
    if not np.isfinite(float(state.energy)):
        raise ValueError(
            f"relaxed: the energy is {float(state.energy)} after {int(state.count)} steps; do atoms overlap, or does "
            "the potential not know such structures?"
        )


def _strained(structure, places) -> Structure:
    """The structure with these positions and strain; the strain is relative to its cell."""
    return strained(eqx.tree_at(lambda s: s.positions, structure, places[:-3]), places[-3:] / len(places[:-3]))


def _slopes(model, rule, structure, places, cell):
    """The enthalpy and its slopes. A strain is multiplied by the number of atoms, which makes it as stiff as these."""

    def enthalpy(places):
        there = _strained(structure, places)
        return model(there) + (rule.pressure * volume(there.cell) if cell else 0.0)

    energy, slope = jax.value_and_grad(enthalpy)(places)
    return energy, slope if cell else slope.at[-3:].set(0)


@eqx.filter_jit
def _started(model, find, rule, structure, cell, taken) -> Moving:
    listed, most = find(structure)
    places = jnp.concatenate([structure.positions, jnp.zeros((3, 3), structure.positions.dtype)])
    energy, slope = _slopes(model, rule, listed, places, cell)
    kind = places.dtype
    numbers = jnp.asarray(STEP, kind), jnp.asarray(MIXING, kind), jnp.zeros_like(taken), taken
    return Moving(listed, places, slope, jnp.zeros_like(places), energy, places, most, *numbers)


@eqx.filter_jit
def _run(model, find, rule, state, cell) -> Moving:
    def goes_on(state):
        force, stress = _largest(state, cell)
        going = ((force > rule.force) | (stress > rule.stress)) & (state.count < rule.steps)
        return going & jnp.isfinite(state.energy) & (state.most <= find.places) & ~_is_strained(state)

    return jax.lax.while_loop(goes_on, lambda s: _step(model, find, rule, s, cell), state)


def _largest(state, cell) -> tuple[Array, Array]:
    """The largest force on an atom, and component of the stress."""
    n = len(state.places) - 3
    deform = jnp.eye(3, dtype=state.places.dtype) + state.places[-3:] / n
    forces = state.slope[:-3] @ inverse(deform)
    force = jnp.sqrt(jnp.max(jnp.sum(forces**2, axis=1), initial=0))
    if not cell:
        return force, jnp.zeros_like(force)
    there = _strained(state.structure, state.places)
    return force, jnp.max(jnp.abs(n * state.slope[-3:] @ deform)) / volume(there.cell)


def _is_strained(state) -> Bool[Array, ""]:
    n = len(state.places) - 3
    return jnp.sqrt(jnp.sum(state.places[-3:] ** 2)) / n > STRAINED


def _step(model, find: Search, rule, state, cell) -> Moving:
    """FIRE: velocities are turned towards the forces while these do work, else everything stops."""
    forces, v = -state.slope, state.velocity
    power = jnp.sum(forces * v)
    downhill = power > 0
    turned = jnp.sqrt(jnp.sum(v**2) / jnp.maximum(jnp.sum(forces**2), jnp.finfo(v.dtype).tiny)) * forces
    v = jnp.where(downhill, (1 - state.mixing) * v + state.mixing * turned, 0)
    quicker = downhill & (state.since > PATIENCE)
    step = jnp.where(quicker, jnp.minimum(FASTER * state.step, LARGEST_STEP), state.step)
    step = jnp.where(power < 0, SLOWER * step, step)
    mixing = jnp.where(downhill, jnp.where(quicker, LESS_MIXING * state.mixing, state.mixing), MIXING)
    v = v + step * forces
    move = step * v
    longest = jnp.sqrt(jnp.max(jnp.sum(move**2, axis=1)))
    places = state.places + move * LONGEST / jnp.maximum(longest, LONGEST)
    fresh, most, found_at = jax.lax.cond(
        _is_stale(places, state.found_at, state.structure.cell, find.cutoff, rule.skin),
        lambda s: (*_found(find, s, places), places),
        lambda s: (s, state.most, state.found_at),
        state.structure,
    )
    energy, slope = _slopes(model, rule, fresh, places, cell)
    since = jnp.where(downhill, state.since + 1, 0)
    return Moving(fresh, places, slope, v, energy, found_at, most, step, mixing, since, state.count + 1)


def _found(find, structure, places):
    """The structure with fresh neighbours; positions and cell stay those without strain."""
    listed, most = find(_strained(structure, places))
    return eqx.tree_at(lambda s: (s.positions, s.cell), listed, (structure.positions, structure.cell)), most


def _is_stale(places, found_at, cell, reach, skin) -> Bool[Array, ""]:
    """Whether a pair that was farther than reach can be nearer than reach - skin: by as much as both atoms have moved
    and the strain has shortened it.
    """
    n, one = len(places) - 3, jnp.eye(3, dtype=places.dtype)
    then, now = one + found_at[-3:] / n, one + places[-3:] / n
    moved = jnp.sqrt(jnp.max(jnp.sum(((places - found_at)[:-3] @ now) ** 2, axis=1), initial=0))
    shortened = jnp.sqrt(jnp.sum((inverse(then) @ now - one) ** 2))
    return 2 * moved + reach * shortened > skin
