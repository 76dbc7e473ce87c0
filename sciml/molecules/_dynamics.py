"""Molecular dynamics, compiled as one scan with its neighbour lists: at constant energy, or in a bath of heat."""

import math
import warnings
from dataclasses import replace
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from ase import units
from ase.data import atomic_masses
from jaxtyping import Array, Float, Int

from .._progress import bars
from ._energy import energy_and_forces
from ._search import room_for, search
from ._structure import Structure

# From (angstrom / fs)^2 atomic mass units to eV is a division by this.
PER_MASS = units.fs**2
# Steps that run before a progress bar moves, and that an interrupt may lose.
STEPS_AT_ONCE = 1000


class Moving(NamedTuple):
    """The state of a run: of n atoms, their velocities in angstrom/fs and forces in eV/angstrom, the energy in eV,
    where the atoms were when their neighbours were found, and the most neighbours that one has had.
    """

    structure: Structure
    velocities: Float[Array, "n 3"]
    forces: Float[Array, "n 3"]
    energy: Float[Array, ""]
    found_at: Float[Array, "n 3"]
    most: Int[Array, ""]


class Rule(NamedTuple):
    """What every step needs: `step` in fs, `heat` is k T in eV, `friction` in 1/fs."""

    masses: Float[Array, "n"]
    step: float
    heat: float
    friction: float
    skin: float


def dynamics(
    model: Any,
    structure: Structure,
    *,
    cutoff: float,
    steps: int,
    step: float = 1.0,
    temperature: float = 300.0,
    friction: float = 0.0,
    velocities: Float[Array, "n 3"] | None = None,
    masses: Float[np.ndarray, "n"] | None = None,
    pbc: tuple[bool, bool, bool] | None = None,
    every: int = 10,
    skin: float = 1.0,
    key: Array | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """Molecular dynamics of a potential from a structure of n atoms; positions are not folded into the cell.

    At constant energy (NVE) where `friction` is 0: velocity Verlet. Otherwise at constant temperature (NVT): Langevin's
    equation by BAOAB (Leimkuhler & Matthews, Appl. Math. Res. Express 2013, 34), of which velocity Verlet is the limit.

    - `cutoff`: that of the model, in angstroms: what is farther apart must not matter to it.
    - `step` in fs; `steps`: how many, of which every `every`-th is stored, and the start.
    - `temperature` in K: of the bath, and of the velocities at the start where none are given.
    - `friction` in 1/fs, such as 0.01.
    - `velocities` in angstrom/fs; by default `thermal_velocities`.
    - `masses` in atomic mass units; by default those of the elements.
    - `pbc`: in which directions the cell repeats; by default in all, if there is a cell.
    - `skin` in angstroms: neighbours are found within `cutoff + skin`, and again once an atom has moved half a skin.
    - `key`: for random velocities and forces. It is folded with the number of each step.

    The result has `positions` (time, atom, axis), `velocities`, `energy` (potential) and `kinetic`, `temperature`, the
    `cell`, `pbc` and `charge`, and the coordinates `time` and `species`; units are attributes. Its `.to_netcdf(path)`
    writes it, `from_trajectory` makes frames of it. An interrupt (Ctrl-C) keeps what was done. Where there
    come to be more neighbours than places, steps are repeated with more places, which compiles again; `recompiled`, an
    attribute, counts these. Where the energy is no longer finite, the run ends with a warning and the finite part.

    Raises ValueError for numbers out of range, shapes that do not fit, a missing key, and atoms that have no finite
    energy at the start. Runs in the precision of the structure.
    """
    _check(steps, every, step, temperature, friction, cutoff, skin)
    structure = jax.tree.map(jnp.asarray, structure)
    kind, n = structure.positions.dtype, structure.positions.shape[0]
    if key is None and (velocities is None or friction > 0):
        raise ValueError("dynamics: random velocities or forces need a key, such as key=jax.random.key(0)")
    # Where nothing is random, any key will do.
    key = jax.random.key(0) if key is None else key
    mass = atomic_masses_of(structure, masses)
    if velocities is None:
        velocities = thermal_velocities(jax.random.fold_in(key, 2**32 - 1), structure, temperature, masses=masses)
    if np.shape(velocities) != (n, 3):
        raise ValueError(f"dynamics: expected velocities of shape {(n, 3)}, got {np.shape(velocities)}")
    periodic = bool(np.any(np.asarray(structure.cell)))
    x, y, z = (periodic,) * 3 if pbc is None else pbc
    repeats = bool(x), bool(y), bool(z)
    rule = Rule(mass, step, units.kB * temperature, friction, skin)
    find = search(float(cutoff + skin), 1, np.asarray(structure.cell, float), repeats)
    find = replace(find, places=room_for(int(_find(find, structure)[1])))
    start = started(model, find, structure, jnp.asarray(velocities, kind))
    if not np.isfinite(float(start.energy)):
        raise ValueError(f"dynamics: the energy at the start is {float(start.energy)}; do atoms overlap?")
    free = _degrees_of_freedom(structure, mass, any(repeats), friction)
    stored, recompiled = _run(model, find, rule, start, steps // every, every, key, progress)
    return _as_dataset(stored, structure, repeats, mass, free, step * every, recompiled)


def _check(steps, every, step, temperature, friction, cutoff, skin) -> None:
    for name, value in {"steps": steps, "every": every, "step": step, "cutoff": cutoff, "skin": skin}.items():
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"dynamics: {name} must be positive and finite, got {value}")
    for name, value in {"temperature": temperature, "friction": friction}.items():
        if not (value >= 0 and math.isfinite(value)):
            raise ValueError(f"dynamics: {name} must be finite and not negative, got {value}")
    if steps % every:
        raise ValueError(f"dynamics: steps must be a multiple of every, got {steps} and {every}")


def atomic_masses_of(structure: Structure, masses: Any) -> Array:
    """The given masses, checked, or those of the elements; 1 where there is no atom."""
    species = np.asarray(structure.species)
    if masses is None:
        masses = np.where(species > 0, atomic_masses[species], 1.0)
    masses = np.asarray(masses, float)
    if masses.shape != species.shape or not (masses > 0).all():
        raise ValueError(f"expected {species.shape} positive masses, got shape {masses.shape}: {masses}")
    return jnp.asarray(masses, structure.positions.dtype)


def thermal_velocities(
    key: Array, structure: Structure, temperature: float, *, masses: Float[np.ndarray, "n"] | None = None
) -> Float[Array, "n 3"]:
    """Random velocities in angstrom/fs (Maxwell and Boltzmann's distribution) without momentum, and without angular
    momentum where there is no cell. Raises ValueError where masses do not fit.
    """
    mass = atomic_masses_of(structure, masses)[:, None]
    positions, there = jnp.asarray(structure.positions), jnp.asarray(structure.is_atom)[:, None]
    noise = jax.random.normal(key, positions.shape, positions.dtype)
    velocities = jnp.where(there, jnp.sqrt(units.kB * temperature * PER_MASS / mass) * noise, 0)
    mass = jnp.where(there, mass, 0)
    velocities = velocities - jnp.sum(mass * velocities, axis=0) / jnp.sum(mass)
    if not np.any(np.asarray(structure.cell)):
        arms = positions - jnp.sum(mass * positions, axis=0) / jnp.sum(mass)
        turning = jnp.sum(mass * jnp.cross(arms, velocities), axis=0)
        spin = jnp.linalg.pinv(_inertia(arms, mass), rtol=1e-5, hermitian=True) @ turning
        velocities = velocities - jnp.cross(spin, arms)
    return jnp.where(there, velocities, 0)


def _inertia(arms, mass):
    return np.eye(3, dtype=arms.dtype) * (mass * arms**2).sum() - (mass * arms).T @ arms


def _degrees_of_freedom(structure, mass, periodic, friction) -> int:
    """Those that have heat: all in a bath, else without momentum, and without angular momentum unless periodic."""
    count = int(structure.count)
    if friction > 0:
        return 3 * count
    rank = 0
    if not periodic:
        weights = np.asarray(jnp.where(structure.is_atom, mass, 0), float)[:, None]
        arms = np.asarray(structure.positions, float)
        arms = arms - (weights * arms).sum(0) / weights.sum()
        rank = np.linalg.matrix_rank(np.asarray(_inertia(arms, weights)), rtol=1e-5) if count > 1 else 0
    return max(1, 3 * count - 3 - int(rank))


@eqx.filter_jit
def _find(find, structure):
    return find(structure)


@eqx.filter_jit
def started(model, find, structure, velocities) -> Moving:
    """The state at the beginning."""
    listed, most = find(structure)
    energy, forces, _ = energy_and_forces(model, listed)
    return Moving(listed, velocities, forces, energy, structure.positions, most)


def _run(model, find, rule, state, frames, every, key, progress):
    """The stored frames as arrays, and how often places were too few. The first is the start."""
    pieces = math.ceil(frames * every / STEPS_AT_ONCE)
    length = math.ceil(frames / pieces)
    stored, recompiled, done = [jax.tree.map(lambda a: np.asarray(a)[None], _frame(state))], 0, 0
    with bars(progress, transient=True) as begin:
        advance = begin("dynamics", frames * every)
        try:
            while done < frames:
                after, piece = _piece(model, find, rule, state, jnp.asarray(done * every), key, length, every)
                if int(after.most) > find.places:
                    find, recompiled = replace(find, places=room_for(int(after.most))), recompiled + 1
                    state = started(model, find, state.structure, state.velocities)
                    continue
                kept = min(length, frames - done)
                stored.append(jax.tree.map(lambda a: np.asarray(a)[:kept], piece))
                state, done = after, done + kept
                advance(kept * every)
                if not np.isfinite(stored[-1][2]).all():
                    break
        except KeyboardInterrupt:
            warnings.warn(f"dynamics: interrupted after {done * every} of {frames * every} steps", stacklevel=3)
    return jax.tree.map(lambda *a: np.concatenate(a), *stored), recompiled


def _frame(state):
    return state.structure.positions, state.velocities, state.energy


@eqx.filter_jit
def _piece(model, find, rule, state, first, key, length, every):
    def one(state, number):
        return stepped(model, find, rule, state, jax.random.fold_in(key, number)), None

    def frame(state, number):
        state, _ = jax.lax.scan(one, state, first + number * every + jnp.arange(every))
        return state, _frame(state)

    return jax.lax.scan(frame, state, jnp.arange(length))


def stepped(model, find, rule, state, key) -> Moving:
    """B A O A B: half a kick, half a drift, the bath, half a drift, half a kick."""
    mass, dt = rule.masses[:, None], rule.step
    kick = 0.5 * dt * PER_MASS / mass
    velocities = state.velocities + kick * state.forces
    positions = state.structure.positions + 0.5 * dt * velocities
    keep = jnp.exp(-rule.friction * dt)
    noise = jax.random.normal(key, velocities.shape, velocities.dtype)
    spread = jnp.sqrt((1 - keep**2) * rule.heat * PER_MASS / mass) * state.structure.is_atom[:, None]
    velocities = keep * velocities + spread * noise
    positions = positions + 0.5 * dt * velocities
    moved = eqx.tree_at(lambda s: s.positions, state.structure, positions)
    farthest = jnp.max(jnp.sum((positions - state.found_at) ** 2, axis=-1))
    fresh, most, found_at = jax.lax.cond(
        farthest > (0.5 * rule.skin) ** 2,
        lambda s: (*find(s), s.positions),
        lambda s: (s, state.most, state.found_at),
        moved,
    )
    energy, forces, _ = energy_and_forces(model, fresh)
    # Once neighbours were missing, what follows means nothing: the number that was needed stays.
    most = jnp.where(state.most > find.places, state.most, jnp.maximum(state.most, most))
    return Moving(fresh, velocities + kick * forces, forces, energy, found_at, most)


def _as_dataset(stored, structure, repeats, mass, free, interval, recompiled) -> xr.Dataset:
    positions, velocities, energy = (np.asarray(a) for a in stored)
    good = np.isfinite(energy) & np.isfinite(positions).all(axis=(1, 2))
    end = len(good) if good.all() else int(np.argmin(good))
    if end < len(good):
        warnings.warn(
            f"dynamics: the energy is not finite after {end * interval:g} fs, where the run ends; "
            "take a shorter time step, or a potential that knows such structures",
            stacklevel=3,
        )
    there = np.asarray(structure.is_atom)
    positions, velocities, energy = positions[:end, there], velocities[:end, there], energy[:end]
    weights = np.asarray(mass, float)[there]
    kinetic = 0.5 * (weights[:, None] * velocities.astype(float) ** 2).sum(axis=(1, 2)) / PER_MASS
    vectors = ("time", "atom", "axis")
    return xr.Dataset(
        {
            "positions": (vectors, positions, {"units": "angstrom"}),
            "velocities": (vectors, velocities, {"units": "angstrom/fs"}),
            "energy": ("time", energy, {"units": "eV", "long_name": "potential energy"}),
            "kinetic": ("time", kinetic, {"units": "eV", "long_name": "kinetic energy"}),
            "temperature": ("time", 2 * kinetic / (free * units.kB), {"units": "K"}),
            "cell": (("vector", "axis"), np.asarray(structure.cell), {"units": "angstrom"}),
            "pbc": ("vector", np.asarray(repeats, np.int8)),
            "charge": ((), np.asarray(structure.charge), {"units": "e"}),
        },
        {
            "time": ("time", interval * np.arange(end), {"units": "fs"}),
            "species": ("atom", np.asarray(structure.species)[there]),
            "axis": ["x", "y", "z"],
        },
        {"recompiled": recompiled},
    )
