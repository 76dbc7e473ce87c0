"""Labels by quantum chemistry against finite differences, their failures, and the data set that is made of them."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones

import sciml
from sciml import molecules
from sciml._problem import datasets, load_module

WATER = molecules.Arrangement(
    np.array([8, 1, 1]), molecule("H2O").positions + 0.05 * np.eye(3), np.zeros((3, 3)), np.zeros(3, bool), 0.0
)


def moved(given, i, axis, step):
    positions = given.positions.copy()
    positions[i, axis] += step
    return given._replace(positions=positions)


def strained(given, i, j, step):
    deform = np.eye(3)
    deform[i, j] += step
    deform = (deform + deform.T) / 2
    return given._replace(positions=given.positions @ deform, cell=given.cell @ deform)


def slope(oracle, change, step=1e-3):
    return (oracle(change(step))["energy"] - oracle(change(-step))["energy"]) / (2 * step)


@pytest.mark.parametrize("name", ["tblite", "pyscf"])
def test_forces_and_dipoles_of_water(name):
    pytest.importorskip(name)
    oracle = molecules.XTB(accuracy=0.01) if name == "tblite" else molecules.DFT(basis="sto-3g")
    labels = oracle(WATER)
    for i, axis in ((0, 1), (1, 2))[: 2 if name == "tblite" else 1]:
        found = slope(oracle, lambda step: moved(WATER, i, axis, step))
        assert labels["forces"][i, axis] == pytest.approx(-found, abs=2e-4)
    assert np.abs(labels["forces"].sum(axis=0)).max() < 1e-4
    # In debye; measured 1.85 in equilibrium.
    assert 1.2 < np.linalg.norm(labels["dipole"]) * 4.80320 < 2.8


def test_stress_of_a_crystal():
    pytest.importorskip("tblite")
    silicon = bulk("Si", cubic=False)
    given = molecules.Arrangement(
        silicon.numbers, silicon.positions + [[0, 0, 0], [0.1, 0, 0.05]], silicon.cell.array, np.ones(3, bool), 0.0
    )
    oracle = molecules.XTB("GFN1-xTB", accuracy=0.01)
    stress = oracle(given)["stress"]
    volume = abs(np.linalg.det(given.cell))
    for i, j in ((0, 0), (0, 2)):
        found = slope(oracle, lambda step: strained(given, i, j, step)) / volume
        assert stress[i, j] == pytest.approx(found, abs=2e-5)
    with pytest.raises(molecules.OracleError, match="along all vectors or none"):
        oracle(given._replace(pbc=np.array([True, True, False])))


def test_dissociated_hydrogen_by_density_functional_theory():
    pytest.importorskip("pyscf")
    hydrogen = molecules.Arrangement(np.array([1]), np.zeros((1, 3)), np.zeros((3, 3)), np.zeros(3, bool), 0.0)
    # The exact energy of the atom is -13.6057 eV.
    assert molecules.DFT()(hydrogen)["energy"] == pytest.approx(-13.6057, abs=0.3)
    with pytest.raises(molecules.OracleError, match="no convergence in 1 iterations"):
        molecules.DFT(iterations=1)(WATER)


def crystals(count):
    random = np.random.default_rng(0)
    atoms = [bulk("Cu", cubic=True) for _ in range(count)]
    for a in atoms:
        a.positions += 0.1 * random.standard_normal(a.positions.shape)
    return atoms


def test_labels_are_those_of_the_calculator():
    atoms = crystals(3)
    found = molecules.labelled(molecules.from_atoms(atoms), molecules.FromASE(EMT, ("stress",)), progress=False)
    for i, a in enumerate(atoms):
        a.calc = EMT()
        assert found.labels["energy"][i] == pytest.approx(a.get_potential_energy())
        np.testing.assert_allclose(found.atom_labels["forces"][found.atoms_of(i)], a.get_forces(), atol=1e-12)
        np.testing.assert_allclose(found.labels["stress"][i], a.get_stress(voigt=False), atol=1e-12)


def test_processes_give_the_same_labels():
    given = molecules.from_atoms([molecule("H2O"), molecule("CH4")])
    one, two = (molecules.labelled(given, molecules.FromASE(LennardJones), processes=p) for p in (1, 2))
    np.testing.assert_array_equal(one.labels["energy"], two.labels["energy"])
    np.testing.assert_array_equal(one.atom_labels["forces"], two.atom_labels["forces"])


def test_what_fails_is_reported_and_left_out():
    atoms = [molecule("H2O") for _ in range(4)]
    atoms[1].positions[1] = atoms[1].positions[0] + 0.01

    def fragile(given):
        if given.positions[0, 0] > 5:
            raise molecules.OracleError("no convergence")
        return {"energy": np.nan if given.positions[0, 0] < -5 else 1.0, "forces": np.zeros((3, 3))}

    atoms[2].positions += 10
    atoms[3].positions -= 10
    given = molecules.from_atoms(atoms)
    with pytest.warns(
        molecules.OracleWarning, match="(?s)structure 1: two atoms are 0.017.*2: no conv.*3: 'energy' is"
    ):
        found = molecules.labelled(given, fragile)
    assert len(found) == 1 and found.labels["energy"].tolist() == [1.0]
    with pytest.raises(molecules.OracleError, match="no structure could be labelled; structure 0: no convergence"):
        molecules.labelled(given[2:3], fragile)


def test_unconverged_tight_binding_is_an_error():
    pytest.importorskip("tblite")
    with pytest.raises(molecules.OracleError, match="GFN2-xTB: SCF not converged in 2 cycles"):
        molecules.XTB(iterations=2)(WATER)


@pytest.mark.skipif(sys.platform != "linux", reason="asks the OpenMP library of Linux")
@pytest.mark.parametrize("given, threads", [(None, 1), ("3", 3)])
def test_tight_binding_has_one_thread_unless_told_otherwise(given, threads):
    pytest.importorskip("tblite")
    source = """
import ctypes, os
from sciml import molecules
from test_molecules_oracle import WATER
before = dict(os.environ)
molecules.XTB()(WATER)
assert dict(os.environ) == before
print(ctypes.CDLL("libgomp.so.1").omp_get_max_threads())
"""
    environment = {n: v for n, v in os.environ.items() if n != "OMP_NUM_THREADS"}
    environment["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")])
    )
    environment |= {} if given is None else {"OMP_NUM_THREADS": given}
    run = subprocess.run([sys.executable, "-c", source], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) == threads


def test_displacements_of_ethanol_follow_the_temperature():
    pytest.importorskip("tblite")
    recipe = load_module(datasets()["ethanol_xtb"])
    numbers, relaxed, modes = recipe.vibrations()
    lowest = recipe.label(numbers, relaxed)
    assert np.abs(lowest["forces"]).max() < 2e-3
    # A displacement by one mode raises the energy by 1/2 eV for an amplitude of 1, as far as it is harmonic.
    for i in (2, -1):
        raised = [recipe.label(numbers, relaxed + s * 0.05 * modes[..., i])["energy"] for s in (1, -1)]
        assert np.mean(raised) - lowest["energy"] == pytest.approx(0.5 * 0.05**2, rel=0.05)
    made = recipe.make(samples=6, temperature=300.0, dtype="float32")
    whole = made.read()
    np.testing.assert_array_equal(whole["positions"][2:4], np.asarray(made.generate(2, 4)["positions"], np.float32))
    assert np.any(recipe.make(samples=6, seed=1).generate(0, 1)["positions"] != whole["positions"][:1])
    energies = recipe.make(samples=24, temperature=100.0).read()["energy"] - lowest["energy"]
    # Of 21 classical vibrations, each with kT / 2 on the average.
    assert energies.mean() == pytest.approx(21 * 0.5 * 100 * 8.617e-5, rel=0.25)
    with pytest.raises(ValueError, match="temperature above 0"):
        recipe.make(temperature=-1.0)


def test_the_data_set_opens_as_frames(tmp_path, monkeypatch):
    pytest.importorskip("tblite")
    monkeypatch.setenv("SCIML_CACHE", str(tmp_path))
    data = sciml.dataset("ethanol_xtb", samples=3)
    assert data.attributes["method"] == "GFN2-xTB" and data.attributes["made_by"].startswith("tblite")
    found = molecules.frames_from_dataset(data)
    assert len(found) == 3 and found.counts.tolist() == [9, 9, 9]
    again = molecules.labelled(found, molecules.XTB(accuracy=0.1), progress=False)
    np.testing.assert_allclose(again.labels["energy"], found.labels["energy"], atol=1e-6)
    np.testing.assert_allclose(again.atom_labels["forces"], found.atom_labels["forces"], atol=1e-5)


def test_an_oracle_is_sampled_at_its_temperature():
    """A molecule whose atoms are held by springs: each coordinate has the variance k T / stiffness."""
    places, stiffness, calls = molecule("H2O").positions, 5.0, []

    def springs(given):
        calls.append(given.charge)
        off = given.positions - places
        return {"energy": 0.5 * stiffness * np.sum(off**2), "forces": -stiffness * off}

    settings = {"temperature": 400.0, "step": 1.0, "friction": 0.05, "settle": 200, "every": 20}
    found = molecules.sampled(molecule("H2O"), springs, count=2000, **settings)
    assert len(found) == 2000 and len(calls) == 1 + 200 + 20 * 2000
    off = found.positions.reshape(-1, 3, 3) - places
    assert (off**2).mean() == pytest.approx(8.617e-5 * 400 / stiffness, rel=0.05)
    np.testing.assert_allclose(found.labels["energy"], 0.5 * stiffness * (off**2).sum(axis=(1, 2)))
    np.testing.assert_allclose(found.atom_labels["forces"].reshape(-1, 3, 3), -stiffness * off)
    again = molecules.sampled(molecules.from_atoms([molecule("H2O")]), springs, count=3, **settings)
    np.testing.assert_array_equal(again.positions, found[:3].positions)
    with pytest.raises(ValueError, match="one structure"):
        molecules.sampled(found[:2], springs, count=1)
    with pytest.raises(ValueError, match="friction positive"):
        molecules.sampled(molecule("H2O"), springs, count=1, friction=0.0)
