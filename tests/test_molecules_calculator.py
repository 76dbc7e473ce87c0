"""Potentials as calculators of ASE, against its own Lennard-Jones potential and differences of the energy."""

import equinox as eqx
import jax
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import CalculationFailed, PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.calculators.lj import LennardJones as Reference

import sciml
from sciml.molecules import Calculator, LennardJones, PaiNN

EPSILON, SIGMA, CUTOFF, ONSET = 0.8, 2.5, 6.0, 4.5
MODEL = LennardJones(EPSILON, SIGMA, CUTOFF, ONSET)


def reference():
    return Reference(epsilon=EPSILON, sigma=SIGMA, rc=CUTOFF, ro=ONSET, smooth=True)


def crystal(seed=0, pbc=True):
    """Four atoms that are shaken in a sheared cell smaller than the cutoff."""
    atoms = bulk("Ar", "fcc", a=4.1, cubic=True)
    shear = np.array([[0.02, 0.05, 0], [0, -0.03, 0.04], [0.03, 0, 0.01]])
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + shear), scale_atoms=True)
    atoms.rattle(0.1, seed=seed)
    atoms.pbc = pbc
    return atoms


def cluster(n, seed=0):
    """Atoms on places of a lattice that are next to each other, shaken."""
    atoms = bulk("Ar", "fcc", a=4.0, cubic=True).repeat(2)
    near = np.argsort(np.linalg.norm(atoms.positions - 3.9, axis=1), kind="stable")[:n]
    atoms = Atoms(f"Ar{n}", atoms.positions[near])
    atoms.rattle(0.15, seed=seed)
    return atoms


class Counted(eqx.Module):
    """Notes whenever it is traced, that is compiled."""

    model: LennardJones
    traced: list = eqx.field(static=True)

    def __call__(self, structure):
        self.traced.append(structure.neighbours.shape)
        return self.model(structure)


class OfCharge(eqx.Module):
    """The charge, as an energy."""

    def __call__(self, structure):
        return structure.charge + 0 * structure.positions.sum()


@pytest.mark.parametrize("pbc", [True, (True, False, True)])
def test_agrees_with_ase(pbc):
    atoms, other = crystal(pbc=pbc), crystal(pbc=pbc)
    atoms.calc, other.calc = Calculator(MODEL, CUTOFF), reference()
    assert atoms.get_potential_energy() == pytest.approx(other.get_potential_energy(), rel=1e-12)
    np.testing.assert_allclose(atoms.get_forces(), other.get_forces(), atol=1e-10)
    np.testing.assert_allclose(atoms.get_stress(), other.get_stress(), atol=1e-11)
    assert np.abs(other.get_stress()).min() > 1e-4  # each component is tested


def test_a_cluster_has_no_stress():
    atoms, other = cluster(20), cluster(20)
    atoms.calc, other.calc = Calculator(MODEL, CUTOFF), reference()
    assert atoms.get_potential_energy() == pytest.approx(other.get_potential_energy(), rel=1e-12)
    np.testing.assert_allclose(atoms.get_forces(), other.get_forces(), atol=1e-10)
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_stress()


def test_supercell_is_as_many_cells():
    atoms = crystal()
    more = atoms.repeat((2, 1, 2))
    atoms.calc, more.calc = Calculator(MODEL, CUTOFF), Calculator(MODEL, CUTOFF)
    assert more.get_potential_energy() == pytest.approx(4 * atoms.get_potential_energy(), rel=1e-12)
    np.testing.assert_allclose(more.get_forces(), np.tile(atoms.get_forces(), (4, 1)), atol=1e-10)
    np.testing.assert_allclose(more.get_stress(), atoms.get_stress(), atol=1e-11)


def test_a_learned_potential_in_both_precisions():
    """Forces and stress of single-precision weights in double precision are slopes of the energy; single is near."""
    model = PaiNN([18], 5.0, width=8, layers=2, key=jax.random.key(0))
    atoms = crystal()
    atoms.calc = Calculator(model, 5.0)
    forces, stress = atoms.get_forces(), atoms.get_stress()
    np.testing.assert_allclose(forces, calculate_numerical_forces(atoms, 1e-4), atol=1e-6)
    np.testing.assert_allclose(stress, calculate_numerical_stress(atoms, 1e-5), atol=1e-7)
    assert np.abs(forces).max() > 1e-3 and np.abs(stress).max() > 1e-5
    atoms.calc = Calculator(model, 5.0, double=False)
    np.testing.assert_allclose(atoms.get_forces(), forces, atol=1e-4)


def test_atoms_that_move_far_take_one_compilation_and_fresh_neighbours():
    """Steps of a hot crystal, far beyond the skin in sum, against fresh calculators."""
    traced = []
    atoms, other = crystal().repeat(2), crystal().repeat(2)
    atoms.calc, other.calc = Calculator(Counted(MODEL, traced), CUTOFF), reference()
    random, searched = np.random.default_rng(0), set()
    start = atoms.positions.copy()
    for _ in range(25):
        atoms.positions += 0.05 * random.standard_normal(atoms.positions.shape)
        atoms.positions[:, 0] += 0.3
        other.positions = atoms.positions
        assert atoms.get_potential_energy() == pytest.approx(other.get_potential_energy(), rel=1e-11)
        np.testing.assert_allclose(atoms.get_forces(), other.get_forces(), rtol=1e-9, atol=1e-9)
        searched.add(id(atoms.calc._found_for))
    assert np.abs(atoms.positions - start).max() > 5
    assert len(traced) == 1
    # With a thick skin small steps search once.
    atoms.calc, held = Calculator(MODEL, CUTOFF, skin=2.0), []
    for _ in range(5):
        atoms.rattle(0.01, seed=len(held))
        atoms.get_forces()
        held.append(atoms.calc._found_for)
    assert all(h is held[0] for h in held)


def test_what_changes_is_noticed():
    """Elements, the cell, directions that repeat, the number of atoms and the charge."""
    calculator = Calculator(MODEL, CUTOFF)
    for atoms in (crystal(), crystal(pbc=False), crystal(pbc=(True, False, True)), cluster(5), cluster(6)):
        other = atoms.copy()
        atoms.calc, other.calc = calculator, reference()
        assert atoms.get_potential_energy() == pytest.approx(other.get_potential_energy(), rel=1e-12)
    atoms = crystal()
    atoms.calc, other = calculator, crystal()
    other.calc = reference()
    for changed in (atoms, other):
        changed.get_potential_energy()
        changed.set_cell(1.05 * changed.cell.array, scale_atoms=False)
    assert atoms.get_potential_energy() == pytest.approx(other.get_potential_energy(), rel=1e-12)
    atoms = cluster(3)
    atoms.calc = Calculator(OfCharge(), CUTOFF)
    assert atoms.get_potential_energy() == 0
    atoms.info["charge"] = -2
    assert atoms.get_potential_energy() == -2


def test_precision_outside_is_left_alone():
    atoms = cluster(3)
    atoms.calc = Calculator(MODEL, CUTOFF)
    atoms.get_forces()
    assert jax.numpy.zeros(1).dtype == "float32"
    with sciml.double_precision():
        assert jax.numpy.zeros(1).dtype == "float64"


def test_bad_input():
    with pytest.raises(ValueError, match="skin"):
        Calculator(MODEL, CUTOFF, skin=-1.0)
    atoms = cluster(5)
    atoms.calc = Calculator(MODEL, CUTOFF)
    atoms.get_forces()
    atoms.positions[2] = np.nan
    with pytest.raises(ValueError, match="atom 2 is not finite"):
        atoms.get_forces()
    atoms.positions[2] = atoms.positions[1]
    with pytest.raises(ValueError, match="overlap"):
        atoms.get_potential_energy()
    with pytest.raises(ValueError, match="cutoff"):
        Calculator(MODEL, -1.0).get_potential_energy(cluster(3))
    with pytest.raises(ValueError, match="no volume"):
        Calculator(MODEL, CUTOFF).get_potential_energy(Atoms("Ar2", [[0, 0, 0], [0, 0, 3.0]], pbc=True))
    # Two atoms meet within the skin, before neighbours are found again.
    pair = Atoms("Ar2", [[0, 0, 0], [0.2, 0, 0]])
    pair.calc = Calculator(MODEL, CUTOFF, skin=1.0)
    pair.get_forces()
    pair.positions[1] = 0
    with pytest.raises(CalculationFailed, match="overlap"):
        pair.get_forces()
    unknown = PaiNN([1, 6], 5.0, width=4, layers=1, key=jax.random.key(0))
    with pytest.raises((ValueError, CalculationFailed), match="element|18"):
        Calculator(unknown, 5.0).get_forces(cluster(3))
