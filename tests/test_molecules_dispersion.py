"""D3 against the reference implementation (the wheel `dftd3`), and what needs no tables against closed forms."""

import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.build import bulk, molecule

import sciml
from sciml import molecules
from sciml.molecules import Structure, neighbour_list

PBE = {"s8": 0.7875, "a1": 0.4289, "a2": 4.4407}
BOHR, HARTREE = 0.529177210903, 27.211386245988


@pytest.fixture(autouse=True, scope="module")
def double():
    with sciml.double_precision():
        yield


def structure(positions, species, cell=None, cutoff=3.0):
    positions = np.asarray(positions, float)
    found = neighbour_list(positions, cutoff, cell, (cell is not None,) * 3)
    box = np.zeros((3, 3)) if cell is None else cell
    arrays = positions, np.asarray(species, np.int32), box, *found, np.float64(0)
    return Structure(*map(jnp.asarray, arrays))


def one_reference(**options):
    """Tables in which C6 of species 6 with itself is 20 and with species 1 is 8, whatever the coordination."""
    coordination = ((0.0,) + (-1.0,) * 6,) * 2
    c6 = np.zeros((2, 2, 7, 7))
    c6[:, :, 0, 0] = [[4.0, 8.0], [8.0, 20.0]]
    nested = tuple(tuple(tuple(map(tuple, b)) for b in a) for a in c6.tolist())
    return molecules.D3((1, 6), (0.8, 1.9), (2.0, 3.0), coordination, nested, **({"s6": 1.0} | PBE | options))


def test_a_pair_has_the_damped_energy_of_its_coefficients():
    s = structure([[0, 0, 0], [0, 0, 3.5]], [1, 6])
    r, ratio = 3.5 / BOHR, 3 * 2.0 * 3.0
    end = PBE["a1"] * np.sqrt(ratio) + PBE["a2"]
    expected = -8.0 / (r**6 + end**6) - PBE["s8"] * 8.0 * ratio / (r**8 + end**8)
    assert float(one_reference()(s)) == pytest.approx(HARTREE * expected, rel=1e-12)


def test_padding_is_invisible_and_far_atoms_count():
    model, s = one_reference(), structure([[0, 0, 0], [0, 0, 1.1], [0, 5.0, 0]], [6, 1, 6])
    pad = lambda a, *widths: jnp.pad(a, widths)  # noqa: E731
    more = eqx.tree_at(
        lambda s: (s.positions, s.species), s, (pad(s.positions, (0, 2), (0, 0)), pad(s.species, (0, 2)))
    )
    gradient = lambda s: jax.grad(lambda p: model(eqx.tree_at(lambda s: s.positions, s, p)))(s.positions)  # noqa: E731
    assert float(model(more)) == pytest.approx(float(model(s)), rel=1e-13)
    np.testing.assert_allclose(gradient(more)[:3], gradient(s), rtol=1e-12)
    assert not np.any(gradient(more)[3:]) and abs(float(gradient(s)[2, 1])) > 1e-4


def test_a_molecule_within_the_cutoff_has_the_energy_of_all_its_pairs():
    positions, species = [[0, 0, 0], [0, 0, 1.1], [0, 5.0, 0]], [6, 1, 6]
    of_all, of_neighbours = one_reference(), one_reference(periodic=True)
    assert float(of_neighbours(structure(positions, species, cutoff=6.0))) == pytest.approx(
        float(of_all(structure(positions, species))), rel=1e-13
    )
    nothing = structure(positions, species, cutoff=0.5)
    assert float(of_neighbours(nothing)) == 0.0


def test_a_crystal_has_the_sum_over_its_images():
    """And twice the cell twice the energy."""
    cell, cutoff = np.array([[2.6, 0.3, 0.0], [0.0, 2.8, 0.2], [0.1, 0.0, 3.0]]), 9.0
    steps = np.stack(np.meshgrid(*[np.arange(-5, 6)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    r = np.linalg.norm(steps @ cell, axis=1)
    r = r[(r > 0) & (r < cutoff)] / BOHR
    ratio = 3 * 3.0 * 3.0
    end = PBE["a1"] * np.sqrt(ratio) + PBE["a2"]
    expected = -0.5 * HARTREE * np.sum(20.0 / (r**6 + end**6) + PBE["s8"] * 20.0 * ratio / (r**8 + end**8))
    model = one_reference(periodic=True)
    assert float(model(structure([[0.1, 0.2, 0.3]], [6], cell, cutoff))) == pytest.approx(expected, rel=1e-12)
    twice = structure([[0.1, 0.2, 0.3], [0.1, 0.2, 0.3] + cell[1]], [6, 6], cell * [[1], [2], [1]], cutoff)
    assert float(model(twice)) == pytest.approx(2 * expected, rel=1e-12)


def test_bad_input():
    model = one_reference()
    with pytest.raises(ValueError, match="D3 knows the elements"):
        model(structure([[0, 0, 0], [0, 0, 1.1]], [1, 8]))
    with pytest.raises(ValueError, match="periodic"):
        model(structure([[0, 0, 0]], [6], 2.9 * np.eye(3)))
    for species in ([], [0], [104]):
        with pytest.raises(ValueError, match="from 1 to 103"):
            molecules.d3(species, **PBE)


def test_without_the_tables_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tad_dftd3.data", None)
    with pytest.raises(ImportError, match=r"sciml-jax\[dispersion\]"):
        molecules.d3([1], **PBE)


@pytest.mark.parametrize("name", ["CH3CH2OH", "C6H6", "SiH4", "CH3Cl", "LiF", "P2"])
def test_energies_and_gradients_are_those_of_the_reference_implementation(name):
    pytest.importorskip("tad_dftd3", reason="needs the extra [dispersion]")
    interface = pytest.importorskip("dftd3.interface", reason="needs dftd3")
    atoms = molecule(name)
    s, model = structure(atoms.positions, atoms.numbers), molecules.d3(atoms.numbers, **PBE)
    energy, slope = jax.value_and_grad(lambda p: model(eqx.tree_at(lambda s: s.positions, s, p)))(s.positions)
    reference = interface.DispersionModel(atoms.numbers, atoms.positions / BOHR)
    expected = reference.get_dispersion(interface.RationalDampingParam(s9=0.0, **PBE), grad=True)
    # The same to the digits of the constants that either uses.
    assert float(energy) == pytest.approx(HARTREE * expected["energy"], rel=1e-6)
    np.testing.assert_allclose(slope, HARTREE / BOHR * expected["gradient"], atol=1e-8)


@pytest.mark.parametrize("name", ["C", "NaCl", "Si"])
def test_crystals_are_those_of_the_reference_implementation(name):
    """Energies, forces and stress of shaken and strained cells, with all sums cut at 15 angstroms."""
    pytest.importorskip("tad_dftd3", reason="needs the extra [dispersion]")
    interface = pytest.importorskip("dftd3.interface", reason="needs dftd3")
    cutoff = 15.0
    atoms = {"C": bulk("C"), "Si": bulk("Si"), "NaCl": bulk("NaCl", "rocksalt", a=5.64)}[name]
    atoms.set_cell(atoms.cell.array + np.random.default_rng(0).uniform(-0.1, 0.1, (3, 3)), scale_atoms=True)
    atoms.rattle(0.1, seed=0)
    s = structure(atoms.positions, atoms.numbers, atoms.cell.array, cutoff)
    found = molecules.energy_forces_stress(molecules.d3(atoms.numbers, periodic=True, **PBE), s)
    reference = interface.DispersionModel(atoms.numbers, atoms.positions / BOHR, atoms.cell.array / BOHR, atoms.pbc)
    reference.set_realspace_cutoff(*(cutoff / BOHR,) * 3)
    expected = reference.get_dispersion(interface.RationalDampingParam(s9=0.0, **PBE), grad=True)
    assert float(found.energy) == pytest.approx(HARTREE * expected["energy"], rel=1e-6)
    np.testing.assert_allclose(found.forces, -HARTREE / BOHR * expected["gradient"], atol=1e-7)
    np.testing.assert_allclose(found.stress, HARTREE * expected["virial"] / atoms.cell.volume, atol=1e-9)
