"""Sets of structures: the recipes of real data, their units and signs, and files of several formats."""

import itertools
import os

import numpy as np
import pytest

import sciml
from sciml import molecules

mirrored = pytest.mark.skipif("SCIML_DATA" not in os.environ, reason="needs the mirror of public data")
PARTS = [
    ("ethanol", {}, (1000, 1000)),
    ("methanol", {}, (300, 145)),
    ("mlearn", {"element": "Si"}, (214, 25)),
    ("mlearn", {"element": "Mo"}, (194, 23)),
]


def test_ragged_holds_arrays_of_several_lengths():
    made = molecules.ragged(
        structure={"n_atoms": ([2, 1], "1"), "energy": ([1.0, 2.0], "eV"), "cell": (np.zeros((2, 3, 3)), "angstrom")},
        atom={"positions": (np.arange(9.0).reshape(3, 3), "angstrom")},
    )
    assert made.dims == {"structure": 2, "atom": 3, "vector": 3, "axis": 3}
    assert made.units == {"n_atoms": "1", "energy": "eV", "cell": "angstrom", "positions": "angstrom"}
    np.testing.assert_array_equal(made.read()["positions"], np.arange(9.0).reshape(3, 3))
    with pytest.raises(ValueError, match="n_atoms adds up to 4, there are 3"):
        molecules.ragged(structure={"n_atoms": ([2, 2], "1")}, atom={"species": ([1, 1, 1], "1")})
    with pytest.raises(ValueError, match="conflicting sizes"):
        molecules.ragged(
            structure={"n_atoms": ([2, 1], "1"), "energy": ([1.0], "eV")}, atom={"species": ([1] * 3, "1")}
        )


@mirrored
@pytest.mark.parametrize("name, settings, counts", PARTS)
def test_parts_hold_what_the_card_says(name, settings, counts):
    for part, count in zip(("train", "test"), counts):
        data = sciml.dataset(name, part=part, **settings)
        held = data.read()
        assert len(held["energy"]) == len(held["n_atoms"]) == count
        assert held["positions"].shape == held["forces"].shape == (held["n_atoms"].sum(), 3)
        assert data.units["forces"] == "eV/angstrom" and data.units["energy"] == "eV"
        assert np.isfinite(held["forces"]).all()
    with pytest.raises(ValueError, match="part must be one of train, test, got 'all'"):
        sciml.dataset(name, part="all")


@mirrored
@pytest.mark.parametrize("element", ["Si", "Mo"])
def test_stress_is_the_derivative_of_the_energy_by_strain(element):
    held = sciml.dataset("mlearn", element=element).read()
    size = held["cell"].reshape(-1, 9).copy()
    diagonal = np.abs(np.delete(size, [0, 4, 8], axis=1)).max(axis=1) < 1e-6
    # Cells that were strained along x alone: the others have the side of the cubic one.
    cubic = np.median(size[held["group"] == 1][:, 4])
    chosen = np.flatnonzero((held["group"] == 1) & diagonal & (np.abs(size[:, [4, 8]] - cubic) < 1e-3).all(axis=1))
    chosen = chosen[np.argsort(size[chosen, 0])]
    length, energy = size[chosen, 0], held["energy"][chosen]
    assert len(chosen) >= 8 and np.ptp(energy) > 1
    # In a straight cell dE = V stress_xx d(ln length).
    slope = np.polynomial.Polynomial.fit(np.log(length), energy, 6).deriv()(np.log(length))
    force = held["stress"][chosen, 0] * length * cubic**2
    np.testing.assert_allclose(force[1:-1], slope[1:-1], atol=0.02 * np.ptp(slope))


@mirrored
@pytest.mark.parametrize("element", ["Si", "Mo"])
def test_a_sheared_crystal_has_the_shear_stress_of_its_strain(element):
    held = sciml.dataset("mlearn", element=element).read()
    cells = held["cell"]
    sheared = np.flatnonzero((held["group"] == 1) & (np.abs(cells * (1 - np.eye(3))).max(axis=(1, 2)) > 0.1))
    # Of yz, xz and xy, by reflections of the cubic crystal, two vanish with their strains, for both signs of the third.
    strain = np.stack([cells[sheared, i, j] + cells[sheared, j, i] for i, j in ((1, 2), (0, 2), (0, 1))], axis=1)
    kind = np.abs(strain).argmax(axis=1)
    assert set(kind) == {0, 1, 2}
    np.testing.assert_array_equal(np.abs(held["stress"][sheared, 3:]).argmax(axis=1), kind)
    rows = np.arange(len(sheared))
    assert (held["stress"][sheared, 3 + kind] * strain[rows, kind] > 0).all()


@mirrored
@pytest.mark.parametrize("element", ["Si", "Mo"])
def test_no_traction_acts_on_surfaces(element):
    held = sciml.dataset("mlearn", element=element).read()
    slabs = held["group"] == 2
    normals = np.cross(held["cell"][slabs, 0], held["cell"][slabs, 1])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    assert (np.abs(normals[:, 2]) < 0.999).sum() >= 1

    def traction(order):
        stress = held["stress"][slabs][:, order]
        full = stress[:, [0, 5, 4, 5, 1, 3, 4, 3, 2]].reshape(-1, 3, 3)
        found = np.linalg.norm(np.einsum("mij,mj->mi", full, normals), axis=1)
        return found.mean() / np.linalg.norm(full, axis=(1, 2)).mean()

    assert traction([0, 1, 2, 3, 4, 5]) < 0.1
    for rest in itertools.permutations([3, 4, 5]):
        assert traction([0, 1, 2, 3, 4, 5]) <= traction([0, 1, 2, *rest])


@mirrored
def test_molecules_of_qm7_and_freesolv():
    qm7 = sciml.dataset("qm7", xtb=True).read()
    assert len(qm7["energy"]) == 7101 and qm7["n_atoms"].sum() == len(qm7["species"]) == len(qm7["forces"])
    # Methane, whose atomisation by PBE0 takes 417 kcal/mol.
    assert qm7["n_atoms"][0] == 5 and qm7["energy"][0] == pytest.approx(-417.0, abs=0.1)
    free = sciml.dataset("freesolv").read()
    assert (
        free["n_bonds"].sum() == len(free["ends"])
        and (free["ends"] < np.repeat(free["n_atoms"], free["n_bonds"])[:, None]).all()
    )
    assert np.abs(free["energy"] - free["energy_gaff"]).mean() == pytest.approx(1.1, abs=0.05)
    # Molecules are neutral, to the digits of the charges.
    owner = np.repeat(np.arange(642), free["n_atoms"])
    assert np.abs(np.bincount(owner, free["charges"])).max() < 0.02


def some(rng=np.random.default_rng(1)):
    """Three structures of different sizes, one of them periodic, with all labels."""
    counts = np.array([2, 3, 1])
    cells = np.stack([np.zeros((3, 3)), 5 * np.eye(3) + 0.1 * rng.random((3, 3)), np.zeros((3, 3))])
    stress = rng.standard_normal((3, 3, 3))
    return molecules.frames(
        3 * np.arange(18).reshape(6, 3) + rng.random((6, 3)),
        [1, 8, 6, 1, 1, 7],
        counts=counts,
        cells=cells,
        pbc=np.array([[False] * 3, [True] * 3, [False] * 3]),
        labels={"energy": rng.standard_normal(3), "stress": stress + stress.transpose(0, 2, 1)},
        atom_labels={"forces": rng.standard_normal((6, 3))},
    )


def assert_same(found, given, rtol=1e-12):
    for name in ("counts", "species", "positions", "cells", "pbc"):
        np.testing.assert_allclose(getattr(found, name), getattr(given, name), rtol=rtol, atol=rtol)
    for name in ("energy", "stress"):
        np.testing.assert_allclose(found.labels[name], given.labels[name], rtol=rtol, atol=rtol)
    np.testing.assert_allclose(found.atom_labels["forces"], given.atom_labels["forces"], rtol=rtol, atol=rtol)


@pytest.mark.parametrize("suffix", [".h5", ".nc", ".zarr", ".npz"])
def test_frames_through_files_of_numbers(suffix, tmp_path):
    given, path = some(), tmp_path / f"set{suffix}"
    made = molecules.to_dataset(given)
    if suffix == ".npz":
        np.savez(path, **made.read())
    else:
        sciml.data.write(made, path, progress=False)
    assert_same(molecules.read(path), given)
    assert_same(molecules.frames_from_dataset(sciml.open(path)), given)


@pytest.mark.parametrize("name", ["set.xyz", "set.db"])
def test_frames_through_the_files_of_ase(name, tmp_path):
    from ase.db import connect
    from ase.io import write

    given, path = some(), tmp_path / name
    atoms = given.to_atoms()
    if name == "set.db":
        with connect(path) as base:
            for one in atoms:
                base.write(one)
    else:
        write(path, atoms, format="extxyz")
    assert_same(molecules.read(path), given, rtol=1e-7)


def test_letters_of_md17_and_other_names(tmp_path):
    rng = np.random.default_rng(0)
    held = {"R": rng.random((4, 2, 3)), "Z": np.array([6, 8]), "E": rng.random(4), "F": rng.random((4, 2, 3))}
    np.savez(tmp_path / "md17.npz", **held)
    found = molecules.read(tmp_path / "md17.npz", energy_unit="kcal/mol")
    np.testing.assert_allclose(found.labels["energy"], held["E"] * 0.0433641043, rtol=1e-8)
    np.testing.assert_allclose(found.atom_labels["forces"], held["F"].reshape(8, 3) * 0.0433641043, rtol=1e-8)
    assert found.species.tolist() == [6, 8] * 4
    np.savez(tmp_path / "other.npz", where=held["R"], Z=held["Z"], gap=held["E"])
    with pytest.raises(ValueError, match="no variable for positions among where, Z, gap"):
        molecules.read(tmp_path / "other.npz")
    found = molecules.read(tmp_path / "other.npz", names={"positions": "where"})
    np.testing.assert_array_equal(found.labels["gap"], held["E"])
    with pytest.raises(ValueError, match="names: place is not there"):
        molecules.read(tmp_path / "other.npz", names={"positions": "place"})


def hydrogen(energy_unit, force_unit, length_unit="angstrom"):
    return molecules.ragged(
        structure={"n_atoms": ([2], "1"), "energy": ([1.0], energy_unit)},
        atom={
            "species": ([1, 1], "1"),
            "positions": ([[0.0, 0, 0], [0, 0, 1]], length_unit),
            "forces": (np.ones((2, 3)), force_unit),
        },
    )


def test_units_follow_the_attributes_and_may_not_be_mixed():
    found = molecules.frames_from_dataset(hydrogen("hartree", "Ha/bohr", "bohr"))
    assert found.labels["energy"][0] == pytest.approx(27.211386246)
    assert found.positions[1, 2] == pytest.approx(0.529177211)
    assert found.atom_labels["forces"][0, 0] == pytest.approx(51.4220675)
    found = molecules.frames_from_dataset(hydrogen("kcal/mol", "kcal/mol/angstrom"))
    assert found.atom_labels["forces"][0, 0] == pytest.approx(0.0433641)
    for units, message in {
        ("kcal/mol", "eV/angstrom"): "mixed units: 'energy' in kcal/mol, 'forces' in eV",
        ("eV", "eV/bohr"): "mixed units: 'positions' in angstrom, 'forces' in bohr",
        ("furlong", "furlong/angstrom"): "energy_unit must be one of .*, got 'furlong'",
    }.items():
        with pytest.raises(ValueError, match=message):
            molecules.frames_from_dataset(hydrogen(*units))
    with pytest.raises(ValueError, match="mixed units: energy_unit in meV, 'energy' in eV"):
        molecules.frames_from_dataset(hydrogen("eV", "eV/angstrom"), energy_unit="meV")


def test_damaged_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file"):
        molecules.read(tmp_path / "none.xyz")
    (tmp_path / "cut.xyz").write_text("3\nProperties=species:S:1:pos:R:3 energy=1.0\nH 0 0 0\nH 0 0 1\n")
    (tmp_path / "empty.xyz").write_text("")
    (tmp_path / "text.db").write_text("no data base")
    for name in ("cut.xyz", "empty.xyz", "text.db"):
        with pytest.raises(ValueError, match=f"{name}: (ASE cannot read it|holds no structure)"):
            molecules.read(tmp_path / name)
    np.savez(tmp_path / "flat.npz", R=np.zeros((4, 3)), Z=np.ones(4, int))
    with pytest.raises(ValueError, match="need the number of atoms of each structure"):
        molecules.read(tmp_path / "flat.npz")
    np.savez(tmp_path / "short.npz", R=np.zeros((4, 3)), Z=np.ones(3, int), n_atoms=[2, 2])
    with pytest.raises(ValueError, match="species"):
        molecules.read(tmp_path / "short.npz")
    with pytest.raises(ValueError, match="energy_unit belong to"):
        molecules.read(tmp_path / "cut.xyz", energy_unit="Ha")


@mirrored
def test_recipes_become_frames():
    silicon = molecules.frames_from_dataset(sciml.dataset("mlearn", part="test"))
    assert len(silicon) == 25 and silicon.pbc.all() and silicon.labels["stress"].shape == (25, 3, 3)
    atoms = silicon[3].to_atoms()[0]
    np.testing.assert_allclose(atoms.get_stress(), sciml.dataset("mlearn", part="test").read()["stress"][3])
