"""Sets of structures: the recipes of real data, their units and signs, and files of several formats."""

import itertools
import os

import numpy as np
import pytest

import sciml
from sciml import molecules

mirrored = pytest.mark.skipif("SCIML_DATA" not in os.environ, reason="needs the mirror of public data")
PARTS = {"ethanol": (1000, 1000), "methanol": (300, 145), "silicon": (214, 25), "molybdenum": (194, 23)}


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
@pytest.mark.parametrize("name", PARTS)
def test_parts_hold_what_the_card_says(name):
    for part, count in zip(("train", "test"), PARTS[name]):
        data = sciml.dataset(name, part=part)
        held = data.read()
        assert len(held["energy"]) == len(held["n_atoms"]) == count
        assert held["positions"].shape == held["forces"].shape == (held["n_atoms"].sum(), 3)
        assert data.units["forces"] == "eV/angstrom" and data.units["energy"] == "eV"
        assert np.isfinite(held["forces"]).all()
    with pytest.raises(ValueError, match="part must be one of train, test, got 'all'"):
        sciml.dataset(name, part="all")


@mirrored
@pytest.mark.parametrize("name", ["silicon", "molybdenum"])
def test_stress_is_the_derivative_of_the_energy_by_strain(name):
    held = sciml.dataset(name).read()
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
@pytest.mark.parametrize("name", ["silicon", "molybdenum"])
def test_no_traction_acts_on_surfaces(name):
    held = sciml.dataset(name).read()
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
