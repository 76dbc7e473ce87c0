"""Structures from the dynamics of an oracle itself: what a potential should be tested on, with the labels."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from ase import Atoms, units

from ..nn._layers import require_positive
from ._frames import Frames, from_atoms, joined
from ._oracle import XTB, Oracle, arrangement_of, with_found_labels


def sampled(
    atoms: Atoms | Frames,
    oracle: Oracle = XTB(),
    *,
    count: int,
    temperature: float = 300.0,
    every: int = 50,
    settle: int = 500,
    step: float = 0.5,
    friction: float = 0.02,
    seed: int = 0,
) -> Frames:
    """`count` structures, with the oracle's labels, of one run of Langevin dynamics with its forces (BAOAB, as
    `dynamics`). The run costs `settle + count * every` evaluations.

    - `atoms`: one structure, near a minimum: velocities are those of twice the temperature, as half of their energy
      becomes potential energy.
    - `temperature` in K; `step` in fs; `friction` in 1/fs; `every`: steps from one structure to the next; `settle`:
      steps before the first of these.

    Raises ValueError for several structures and numbers out of range, OracleError where the oracle fails.
    """
    require_positive("sampled", count=count, every=every)
    if not (settle >= 0 and step > 0 and friction > 0 and temperature >= 0):
        raise ValueError(
            "sampled: settle and temperature must not be negative, step and friction positive, got "
            f"{settle}, {temperature}, {step} and {friction}"
        )
    frame = from_atoms([atoms]) if isinstance(atoms, Atoms) else atoms
    if len(frame) != 1:
        raise ValueError(f"sampled: expected one structure, got {len(frame)}")
    heat = units.kB * temperature
    states = _langevin(frame, oracle, heat, step, friction, np.random.default_rng(seed))
    found = []
    for number, (positions, labels) in zip(range(1, settle + count * every + 1), states):
        if number > settle and (number - settle) % every == 0:
            found.append((positions, labels))
    places = joined([frame] * count)
    bare = Frames(
        places.counts,
        np.concatenate([positions for positions, _ in found]),
        places.species,
        places.cells,
        places.pbc,
        places.charges,
    )
    return with_found_labels(bare, [labels for _, labels in found])


def _langevin(frame, oracle, heat, step, friction, random) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
    """Positions and labels after each step, without an end."""
    given, mass = arrangement_of(frame, 0), frame.to_atoms()[0].get_masses()[:, None]
    kick, keep = 0.5 * step * units.fs**2 / mass, np.exp(-friction * step)
    speed = np.sqrt(heat * units.fs**2 / mass)
    x = given.positions
    v = np.sqrt(2) * speed * random.normal(size=x.shape)
    labels = oracle(given)
    while True:
        v = v + kick * labels["forces"]
        after = keep * v + np.sqrt(1 - keep**2) * speed * random.normal(size=x.shape)
        x = x + 0.5 * step * (v + after)
        labels = oracle(given._replace(positions=x))
        v = after + kick * labels["forces"]
        yield x, labels
