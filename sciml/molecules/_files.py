"""Sets of structures in files and data sets: arrays of structures beside arrays of all their atoms."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..data._dataset import Dataset
from ..data._open import open as open_data
from ._frames import Frames, frames, from_atoms

# Dimensions after the first one, by shape.
AXES = {(): (), (3,): ("axis",), (3, 3): ("vector", "axis"), (6,): ("component",)}


def ragged(attributes: Mapping[str, Any] | None = None, **groups: Mapping[str, tuple[Any, str]]) -> Dataset:
    """A data set of arrays with several first dimensions: `ragged(structure={"energy": (values, "eV"), ...},
    atom={"positions": (values, "angstrom"), ...})`; each array with its units. `n_atoms` says how many of the atoms,
    which stand one after the other, belong to each structure.

    Raises ValueError where arrays of one group have different lengths, or `n_atoms` has another sum than there are
    atoms.
    """
    import xarray as xr

    variables = {}
    for dim, group in groups.items():
        for name, (values, units) in group.items():
            array = np.asarray(values)
            shape = array.shape[1:]
            rest = AXES.get(shape, tuple(f"{name}_{i}" for i in range(len(shape))))
            variables[name] = ((dim, *rest), array, {"units": units})
    made = xr.Dataset(variables, attrs=dict(attributes or {}))
    if "n_atoms" in made and int(made["n_atoms"].sum()) != made.sizes["atom"]:
        raise ValueError(
            f"ragged: n_atoms adds up to {int(made['n_atoms'].sum())}, there are {made.sizes['atom']} atoms"
        )
    return open_data(made)


# Names by which variables are known, and the units in which they may be.
NAMES = {
    "counts": ("n_atoms", "counts", "natoms"),
    "positions": ("positions", "R", "pos", "coordinates"),
    "species": ("species", "Z", "z", "numbers", "atomic_numbers"),
    "cells": ("cell", "cells"),
    "pbc": ("pbc",),
    "charges": ("charge", "total_charge"),
    "energy": ("energy", "E", "energies"),
    "forces": ("forces", "F"),
    "stress": ("stress",),
}
SPELLINGS = {"ev": "eV", "mev": "meV", "ha": "Ha", "hartree": "Ha", "a": "angstrom", "ang": "angstrom"}
SPELLINGS |= {"angstroms": "angstrom", "a0": "bohr", "å": "angstrom"}


def frames_from_dataset(
    dataset: Dataset,
    names: Mapping[str, str] | None = None,
    *,
    energy_unit: str | None = None,
    length_unit: str | None = None,
) -> Frames:
    """`Frames` from a data set of any format: `positions` (m, n, 3) of structures of one size, or (N, 3) of all atoms
    one after the other beside `n_atoms` (m,), with `species`, and where they are there `cell`, `pbc`, `charge`,
    `energy`, `forces` and `stress`. The letters of MD17 (R, Z, E, F) are known too; other numbers of structures or
    atoms become labels of their names.

    - `names`: the variable for a quantity, where it has another name: `{"energy": "E_dft"}`.
    - `energy_unit`, `length_unit`: as in `frames`; by default what the attribute `units` of the variables says, else eV
      and angstroms.

    Raises ValueError where positions or species are missing, the units of two variables do not agree with each other
    or with those that are given, and as `frames` does.
    """
    chosen = _chosen(list(dataset.arrays), dict(names or {}))
    missing = [n for n in ("positions", "species") if n not in chosen]
    if missing:
        raise ValueError(
            f"no variable for {' and '.join(missing)} among {', '.join(dataset.arrays)}; say which by names="
            f"{{'{missing[0]}': ...}}"
        )
    energy, length = _units(dataset.units, chosen, energy_unit, length_unit)
    held = dataset.read()
    given = {quantity: held.pop(variable) for quantity, variable in chosen.items()}
    positions: np.ndarray = given["positions"]
    counts: Any = given.get("counts")
    if positions.ndim == 2 and counts is None:
        raise ValueError(
            f"positions of shape {positions.shape} need the number of atoms of each structure: a variable 'n_atoms', "
            "or names={'counts': ...}"
        )
    structures = len(positions) if positions.ndim == 3 else len(counts)
    lead = positions.shape[:-1] if positions.ndim == 3 else (len(positions),)
    labels = {n: given[n] for n in ("energy", "stress") if n in given}
    labels |= {n: v for n, v in held.items() if v.shape[:1] == (structures,) and v.shape[: len(lead)] != lead}
    atom_labels = {"forces": given["forces"]} if "forces" in given else {}
    atom_labels |= {n: v for n, v in held.items() if v.shape[: len(lead)] == lead and n not in labels}
    rest = {n: given[n] for n in ("cells", "pbc", "charges") if n in given}
    units = {"energy_unit": energy, "length_unit": length}
    return frames(
        positions,
        given["species"],
        counts=None if positions.ndim == 3 else counts,
        labels=labels,
        atom_labels=atom_labels,
        **rest,
        **units,
    )


def read(path: str | os.PathLike, **options: Any) -> Frames:
    """`Frames` from a file: extended XYZ (.xyz, .extxyz), a data base of ASE (.db, .json) and whatever else ASE reads,
    or .npz, .h5, .nc and .zarr, for which `options` are those of `frames_from_dataset`.

    Raises FileNotFoundError, and ValueError for a file that is damaged, ends in the middle of a structure or holds
    none.
    """
    from ase.io import read as read_atoms

    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no file {path}")
    if path.suffix in (".npz", ".h5", ".hdf5", ".nc", ".nc4", ".zarr"):
        return frames_from_dataset(open_data(path), **options)
    if options:
        raise ValueError(
            f"{path}: {', '.join(options)} belong to .npz, .h5, .nc and .zarr; ASE's files are in eV, angstroms"
        )
    kind = "extxyz" if path.suffix in (".xyz", ".extxyz") else None
    try:
        found: Any = read_atoms(path, ":", format=kind)
    except Exception as error:
        raise ValueError(f"{path}: ASE cannot read it, is it damaged or truncated? ({error})") from error
    if not found:
        raise ValueError(f"{path}: holds no structure")
    return from_atoms(list(found))


def to_dataset(structures: Frames) -> Dataset:
    """`Frames` as a data set in eV and angstroms, to be written by `sciml.data.write` and read by
    `frames_from_dataset`.
    """
    known = {"energy": "eV", "stress": "eV/angstrom^3", "forces": "eV/angstrom"}
    of_structures = {
        "n_atoms": (structures.counts, "1"),
        "cell": (structures.cells, "angstrom"),
        "pbc": (structures.pbc.astype(np.int8), "1"),
        "charge": (structures.charges, "e"),
    }
    of_atoms = {"species": (structures.species, "1"), "positions": (structures.positions, "angstrom")}
    return ragged(
        structure=of_structures | {n: (v, known.get(n, "1")) for n, v in structures.labels.items()},
        atom=of_atoms | {n: (v, known.get(n, "1")) for n, v in structures.atom_labels.items()},
    )


def _chosen(variables: list[str], names: dict[str, str]) -> dict[str, str]:
    unknown = set(names) - set(NAMES)
    absent = set(names.values()) - set(variables)
    if unknown or absent:
        raise ValueError(
            f"names: {', '.join(sorted(unknown | absent))} is not there; quantities are {', '.join(NAMES)}, variables "
            f"{', '.join(variables)}"
        )
    found = {q: next((v for v in known if v in variables), None) for q, known in NAMES.items()}
    return {q: v for q, v in found.items() if v is not None} | names


def _units(
    units: Mapping[str, str], chosen: Mapping[str, str], energy: str | None, length: str | None
) -> tuple[str, str]:
    """The unit of energies and that of lengths, on which all variables agree."""
    said: dict[str, tuple[str, str]] = {}

    def note(kind: str, unit: str, by: str) -> None:
        unit = SPELLINGS.get(unit.strip().lower(), unit.strip())
        known, other = said.setdefault(kind, (unit, by))
        if known != unit:
            raise ValueError(f"mixed units: {other} in {known}, {by} in {unit}; convert one of them")

    if energy is not None:
        note("energy", energy, "energy_unit")
    if length is not None:
        note("length", length, "length_unit")
    for quantity, kind in (("positions", "length"), ("cells", "length"), ("energy", "energy")):
        unit = units.get(chosen.get(quantity, ""))
        if unit is not None:
            note(kind, unit, f"'{chosen[quantity]}'")
    for quantity, power in (("forces", ""), ("stress", "3")):
        unit = units.get(chosen.get(quantity, ""))
        if unit is not None:
            # Such as kcal/mol/angstrom or eV/angstrom^3.
            above, _, below = unit.replace("**", "^").rpartition("/")
            note("energy", above, f"'{chosen[quantity]}'")
            note("length", below.removesuffix(f"^{power}"), f"'{chosen[quantity]}'")
    return said.get("energy", ("eV", ""))[0], said.get("length", ("angstrom", ""))[0]
