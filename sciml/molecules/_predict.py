"""Labels by a potential, differences of labels, and errors: from frames to frames, and to numbers."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import equinox as eqx
import jax
import numpy as np

from ..nn._layers import require_positive
from ._batches import grouped
from ._energy import Potential, energy_and_forces, energy_forces_stress
from ._frames import Frames


def predicted(model: Potential, data: Frames, cutoff: float, *, size: int = 50, buckets: int = 4) -> Frames:
    """The same structures with the energy and forces of a potential, and the stress where all of them repeat in three
    directions, as labels; `size` structures at a time, in JAX's default precision.

    Raises ValueError for a size that is not positive, and as `neighbour_list` does.
    """
    require_positive("predicted", size=size, buckets=buckets)
    periodic = bool(data.pbc.all())
    derived = eqx.filter_jit(jax.vmap(lambda s: (energy_forces_stress if periodic else energy_and_forces)(model, s)))
    energy, stress = np.zeros(len(data)), np.zeros((len(data), 3, 3))
    forces = np.zeros((len(data.species), 3))
    for number, found in by_structure(derived, data, cutoff, size, buckets):
        energy[number] = found.energy
        forces[data.atoms_of(number)] = found.forces[: data.counts[number]]
        if found.stress is not None:
            stress[number] = found.stress
    return data.with_labels({"energy": energy} | ({"stress": stress} if periodic else {}), {"forces": forces})


def by_structure(function: Callable, data: Frames, cutoff: float, size: int, buckets: int) -> Iterator[tuple[int, Any]]:
    """The number of each structure, and what a function of batches of `size` structures gives for it."""
    for members, padded in grouped(data, cutoff, buckets):
        for begin in range(0, len(members), size):
            rows = np.resize(np.arange(begin, min(begin + size, len(members))), size)
            found = jax.tree.map(np.asarray, function(jax.tree.map(lambda a: a[rows], padded)))
            for place, number in enumerate(members[begin : begin + size].tolist()):
                yield number, jax.tree.map(lambda a: a[place], found)


def minus(data: Frames, other: Frames) -> Frames:
    """The structures with what is left of their labels when those of `other`, labelled in another way, are taken off:
    `minus(data, labelled(data, XTB()))` for learning the difference to a cheaper method (delta-learning;
    Ramakrishnan et al., J. Chem. Theory Comput. 11, 2087, 2015), `minus(data, predicted(reference, data, cutoff))` for
    the energy of binding. Labels that `other` lacks are left out.

    Raises ValueError where the structures differ or no label is in both.
    """
    same = len(data) == len(other) and np.array_equal(data.species, other.species)
    if not same or not np.allclose(data.positions, other.positions, atol=1e-6):
        raise ValueError("minus: the structures are not the same ones in the same order")
    labels = {n: v - other.labels[n] for n, v in data.labels.items() if n in other.labels}
    atom_labels = {n: v - other.atom_labels[n] for n, v in data.atom_labels.items() if n in other.atom_labels}
    if not labels and not atom_labels:
        raise ValueError(f"minus: no label is in both, {', '.join(data.labels)} and {', '.join(other.labels)}")
    bare = Frames(data.counts, data.positions, data.species, data.cells, data.pbc, data.charges)
    return bare.with_labels(labels, atom_labels)


def errors(data: Frames, found: Frames) -> Mapping[str, float]:
    """The deviations of the labels `found` from those of `data`, where these are known: `energy_mae` in eV of a
    structure, `energy_mae_atom` in eV per atom, `force_mae` and `force_rmse` over components in eV per angstrom, and
    `stress_mae` over components in eV per cubic angstrom.
    """
    out = {}
    if "energy" in data.labels and "energy" in found.labels:
        apart = found.labels["energy"] - data.labels["energy"]
        out["energy_mae"] = float(np.nanmean(np.abs(apart)))
        out["energy_mae_atom"] = float(np.nanmean(np.abs(apart) / data.counts))
    if "forces" in data.atom_labels and "forces" in found.atom_labels:
        apart = found.atom_labels["forces"] - data.atom_labels["forces"]
        out["force_mae"] = float(np.nanmean(np.abs(apart)))
        out["force_rmse"] = float(np.sqrt(np.nanmean(apart**2)))
    if "stress" in data.labels and "stress" in found.labels:
        out["stress_mae"] = float(np.nanmean(np.abs(found.labels["stress"] - data.labels["stress"])))
    return out
