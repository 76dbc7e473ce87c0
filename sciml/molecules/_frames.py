"""Sets of structures with labels, of any numbers of atoms: what files hold, before neighbours are searched."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_stress

# In eV and angstroms.
ENERGIES = {"eV": 1.0, "meV": 1e-3, "kcal/mol": 0.0433641043, "kJ/mol": 0.0103642697, "Ha": 27.211386245988}
LENGTHS = {"angstrom": 1.0, "bohr": 0.529177210903, "nm": 10.0}


@dataclass(frozen=True)
class Frames:
    """m structures, their N atoms one after the other; `frames` makes them. Indexed by a number, slice or array, it
    gives the frames there.

    - `counts`: the number of atoms of each, (m,).
    - `positions` in angstroms, (N, 3); `species`: atomic numbers, (N,).
    - `cells`: (m, 3, 3), vectors as rows, in angstroms; `pbc`: (m, 3), along which of them the structure repeats.
    - `charges`: the total charge of each, (m,), in elementary charges.
    - `labels` of structures, (m, ...): `energy` in eV, `stress` in eV per cubic angstrom, (m, 3, 3), positive under
      tension (as in ASE), and any others.
    - `atom_labels`, (N, ...): `forces` in eV per angstrom, and any others.

    What was not computed for a structure is NaN.
    """

    counts: np.ndarray
    positions: np.ndarray
    species: np.ndarray
    cells: np.ndarray
    pbc: np.ndarray
    charges: np.ndarray
    labels: Mapping[str, np.ndarray] = field(default_factory=dict)
    atom_labels: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def starts(self) -> np.ndarray:
        """Where the atoms of each structure begin, (m,)."""
        return np.cumsum(self.counts) - self.counts

    def atoms_of(self, number: int) -> slice:
        """Where the atoms of a structure are."""
        start = int(self.starts[number])
        return slice(start, start + int(self.counts[number]))

    def __getitem__(self, which: Any) -> "Frames":
        chosen = np.atleast_1d(np.arange(len(self))[which])
        starts = self.starts
        ranges = [np.arange(start, end) for start, end in zip(starts[chosen], (starts + self.counts)[chosen])]
        rows = np.concatenate([*ranges, np.arange(0)])
        of_frames = {n: getattr(self, n)[chosen] for n in ("counts", "cells", "pbc", "charges")}
        of_atoms = {n: getattr(self, n)[rows] for n in ("positions", "species")}
        return Frames(
            **of_frames,
            **of_atoms,
            labels={n: v[chosen] for n, v in self.labels.items()},
            atom_labels={n: v[rows] for n, v in self.atom_labels.items()},
        )

    def __iter__(self) -> Iterator["Frames"]:
        return (self[i] for i in range(len(self)))

    def with_labels(self, labels: Mapping[str, Any] = {}, atom_labels: Mapping[str, Any] = {}) -> "Frames":
        """The same structures with these labels added or replaced. Raises ValueError as `frames` does."""
        of_frames = dict(self.labels) | {n: np.asarray(v) for n, v in labels.items()}
        of_atoms = dict(self.atom_labels) | {n: np.asarray(v) for n, v in atom_labels.items()}
        return _checked(replace(self, labels=of_frames, atom_labels=of_atoms))

    def composition(self) -> tuple[np.ndarray, np.ndarray]:
        """The atomic numbers that occur, (s,), and how many atoms of each a structure has, (m, s)."""
        kinds = np.unique(self.species)
        owner = np.repeat(np.arange(len(self)), self.counts)
        table = np.zeros((len(self), len(kinds)))
        np.add.at(table, (owner, np.searchsorted(kinds, self.species)), 1)
        return kinds, table

    def to_atoms(self) -> list[Atoms]:
        """As ASE's `Atoms`; energy, forces and stress in a calculator, other labels in `info` and `arrays`."""
        from ase.calculators.singlepoint import SinglePointCalculator

        found = []
        for i in range(len(self)):
            rows = self.atoms_of(i)
            atoms = Atoms(self.species[rows], self.positions[rows], cell=self.cells[i], pbc=self.pbc[i])
            labels = {n: v[i] for n, v in self.labels.items()}
            per_atom = {n: v[rows] for n, v in self.atom_labels.items()}
            known = {n: v for n, v in (labels | per_atom).items() if np.isfinite(v).all()}
            results = {n: known.pop(n) for n in ("energy", "forces", "stress") if n in known}
            if "stress" in results:
                results["stress"] = results["stress"].ravel()[[0, 4, 8, 5, 2, 1]]
            atoms.calc = SinglePointCalculator(atoms, **results) if results else None
            atoms.info.update({n: v for n, v in known.items() if n in labels})
            for name in set(known) & set(per_atom):
                atoms.set_array(name, known[name])
            if self.charges[i]:
                atoms.info["charge"] = float(self.charges[i])
            found.append(atoms)
        return found


def frames(
    positions: Any,
    species: Any,
    *,
    counts: Any = None,
    cells: Any = None,
    pbc: Any = None,
    charges: Any = 0.0,
    labels: Mapping[str, Any] = {},
    atom_labels: Mapping[str, Any] = {},
    energy_unit: str = "eV",
    length_unit: str = "angstrom",
) -> Frames:
    """`Frames` from arrays: either (m, n, 3) positions of structures of one size with (n,) or (m, n) species, or (N, 3)
    positions and (N,) species of all atoms one after the other, with `counts`, (m,).

    - `pbc`: along which cell vectors structures repeat, (3,) or (m, 3); by default along all where there are `cells`.
    - `labels` and `atom_labels` as in `Frames`; stress may have six components, xx, yy, zz, yz, xz, xy.
    - `energy_unit`: eV, meV, kcal/mol, kJ/mol or Ha; `length_unit`: angstrom, bohr or nm. Those of energies, forces and
      stress follow. Other labels stay as they are.

    Raises ValueError for shapes that do not fit, unknown units, positions that are not finite, cells without volume
    where they repeat, species that are no elements, and energies that are NaN.
    """
    energy, length = _factor("energy_unit", energy_unit, ENERGIES), _factor("length_unit", length_unit, LENGTHS)
    positions, species = np.asarray(positions, float), np.asarray(species)
    if counts is None:
        if positions.ndim != 3 or positions.shape[2] != 3:
            raise ValueError(f"frames: expected positions (m, n, 3), or (N, 3) with counts, got {positions.shape}")
        m, n = positions.shape[:2]
        if species.shape not in ((n,), (m, n)):
            raise ValueError(f"frames: expected species ({n},) or ({m}, {n}), got {species.shape}")
        counts, species = np.full(m, n), np.broadcast_to(species, (m, n)).ravel()
        positions = positions.reshape(-1, 3)
        atom_labels = {name: _flattened(name, v, m, n) for name, v in atom_labels.items()}
    counts = np.asarray(counts, int)
    m = len(counts)
    if cells is None and np.any(pbc):
        raise ValueError("frames: pbc needs cells")
    repeats = np.broadcast_to(np.asarray(cells is not None if pbc is None else pbc, bool), (m, 3))
    boxes = np.zeros((m, 3, 3)) if cells is None else length * np.broadcast_to(np.asarray(cells, float), (m, 3, 3))
    units = {"energy": energy, "forces": energy / length, "stress": energy / length**3}

    def in_units(given):
        return {n: _label(n, v) * units[n] if n in units else np.asarray(v) for n, v in given.items()}

    total = np.broadcast_to(np.asarray(charges, float), (m,))
    numbers, labelled = np.asarray(species, int), (in_units(labels), in_units(atom_labels))
    return _checked(Frames(counts, length * positions, numbers, boxes, repeats, total, *labelled))


def from_atoms(atoms: Sequence[Atoms]) -> Frames:
    """`Frames` from ASE's `Atoms`, with the energy, forces and stress that their calculators hold, and the numbers in
    `info` that all of them have. Nothing is computed. Raises ValueError as `frames` does.
    """
    if not len(atoms):
        raise ValueError("from_atoms: expected at least one structure")
    results = [dict(getattr(a.calc, "results", {}) or {}) for a in atoms]
    labels: dict[str, Any] = {}
    atom_labels: dict[str, Any] = {}
    sizes = [len(a) for a in atoms]
    if any("energy" in r for r in results):
        labels["energy"] = [r.get("energy", np.nan) for r in results]
    if any("stress" in r for r in results):
        labels["stress"] = [_label("stress", r.get("stress", np.full(6, np.nan))) for r in results]
    if any("forces" in r for r in results):
        given = [np.asarray(r.get("forces", np.full((n, 3), np.nan))) for r, n in zip(results, sizes)]
        atom_labels["forces"] = np.concatenate(given)
    shared = set.intersection(*(set(a.info) for a in atoms)) - {"charge"}
    labels |= {n: [a.info[n] for a in atoms] for n in sorted(shared) if all(np.isscalar(a.info[n]) for a in atoms)}
    labels = {n: v for n, v in labels.items() if np.asarray(v).dtype.kind in "fiu"}
    return frames(
        np.concatenate([a.positions for a in atoms]),
        np.concatenate([a.numbers for a in atoms]),
        counts=sizes,
        cells=np.stack([a.cell.array for a in atoms]),
        pbc=np.stack([a.pbc for a in atoms]),
        charges=[a.info.get("charge", 0.0) for a in atoms],
        labels=labels,
        atom_labels=atom_labels,
    )


def joined(parts: Sequence[Frames]) -> Frames:
    """Several sets as one; a label that one of them lacks is NaN there."""
    arrays = ("counts", "positions", "species", "cells", "pbc", "charges")
    return Frames(
        *(np.concatenate([getattr(p, a) for p in parts]) for a in arrays),
        labels=_filled([p.labels for p in parts], [len(p) for p in parts]),
        atom_labels=_filled([p.atom_labels for p in parts], [len(p.species) for p in parts]),
    )


def split(data: Frames, *sizes: int, seed: int = 0) -> tuple[Frames, ...]:
    """Random parts of these sizes, and the rest if any is left. Raises ValueError where there are too few."""
    if min(sizes) < 1 or sum(sizes) > len(data):
        raise ValueError(f"split: parts of {sizes} need {sum(sizes)} structures, there are {len(data)}")
    order = np.random.default_rng(seed).permutation(len(data))
    ends = np.cumsum(sizes)
    parts = [np.sort(p) for p in np.split(order, ends)]
    return tuple(data[p] for p in parts if len(p))


def _filled(parts: Sequence[Mapping[str, np.ndarray]], sizes: Sequence[int]) -> dict[str, np.ndarray]:
    """The labels of all parts, one after the other, NaN where a part lacks one."""
    found = {}
    for name in sorted({n for p in parts for n in p}):
        shape = next(p[name].shape[1:] for p in parts if name in p)
        found[name] = np.concatenate([p.get(name, np.full((n, *shape), np.nan)) for p, n in zip(parts, sizes)])
    return found


def _factor(what: str, unit: str, known: Mapping[str, float]) -> float:
    if unit not in known:
        raise ValueError(f"frames: {what} must be one of {', '.join(known)}, got '{unit}'")
    return known[unit]


def _flattened(name: str, values: Any, m: int, n: int) -> np.ndarray:
    values = np.asarray(values)
    if values.shape[:2] != (m, n):
        raise ValueError(f"frames: '{name}' must have shape ({m}, {n}, ...) like the positions, got {values.shape}")
    return values.reshape(m * n, *values.shape[2:])


def _label(name: str, values: Any) -> np.ndarray:
    values = np.asarray(values, float)
    return voigt_6_to_full_3x3_stress(values) if name == "stress" and values.shape[-1:] == (6,) else values


def _checked(found: Frames) -> Frames:
    m, total = len(found.counts), int(found.counts.sum())
    if found.positions.shape != (total, 3) or found.species.shape != (total,):
        raise ValueError(
            f"frames: counts add up to {total} atoms, positions have shape {found.positions.shape}, species "
            f"{found.species.shape}"
        )
    if m == 0 or (found.counts < 1).any():
        raise ValueError("frames: expected structures of one atom or more")
    if not np.isfinite(found.positions).all():
        bad = int(np.flatnonzero(~np.isfinite(found.positions).all(axis=1))[0])
        raise ValueError(f"frames: the position of atom {bad} is not finite: {found.positions[bad]}")
    if ((found.species < 1) | (found.species > 118)).any():
        raise ValueError(f"frames: species must be atomic numbers from 1 to 118, got {np.unique(found.species)}")
    for kind, given, size in (("structures", found.labels, m), ("atoms", found.atom_labels, total)):
        for name, values in given.items():
            if np.shape(values)[:1] != (size,):
                raise ValueError(f"frames: '{name}' has shape {np.shape(values)}, there are {size} {kind}")
    shape = np.shape(found.atom_labels.get("forces", found.positions))
    if shape != (total, 3):
        raise ValueError(f"frames: forces must have shape ({total}, 3), got {shape}")
    if not np.isfinite(found.labels.get("energy", 0.0)).all():
        bad = int(np.flatnonzero(~np.isfinite(found.labels["energy"]))[0])
        raise ValueError(f"frames: the energy of structure {bad} is {found.labels['energy'][bad]}; leave such ones out")
    return found
