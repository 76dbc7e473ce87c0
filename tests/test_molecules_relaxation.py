"""Relaxed structures against known minima, lattice sums and ASE."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.lj import LennardJones as Reference
from scipy.optimize import minimize_scalar

import sciml
from sciml.molecules import LennardJones, PaiNN, energy_and_forces, energy_forces_stress, relaxed, structure

EPSILON, SIGMA, CUTOFF, ONSET = 0.8, 2.5, 6.0, 4.5
SMOOTH = LennardJones(EPSILON, SIGMA, CUTOFF, ONSET)


@pytest.fixture(autouse=True, scope="module")
def double():
    with sciml.double_precision():
        yield


def icosahedron(edge):
    golden = (1 + np.sqrt(5)) / 2
    corners = [np.roll([0, a, b * golden], turn) for turn in range(3) for a in (-1, 1) for b in (-1, 1)]
    return edge / 2 * np.array([[0, 0, 0], *corners])


def cubic(a, repeats=1):
    return bulk("Ar", "fcc", a=a, cubic=True).repeat(repeats)


def energy_of(atoms):
    atoms = atoms.copy()
    atoms.calc = Reference(epsilon=EPSILON, sigma=SIGMA, rc=CUTOFF, ro=ONSET, smooth=True)
    return atoms.get_potential_energy()


def as_atoms(found):
    return Atoms(np.asarray(found.species), np.asarray(found.positions), cell=np.asarray(found.cell), pbc=True)


def test_thirteen_atoms_are_an_icosahedron():
    """-44.326801 epsilon (Hoare & Pal, Adv. Phys. 20, 161, 1971)."""
    positions = icosahedron(3.2) + 0.2 * np.random.default_rng(0).standard_normal((13, 3))
    far = LennardJones(EPSILON, SIGMA, 100.0)
    found = relaxed(far, structure(Atoms("Ar13", positions), 100.0), cutoff=100.0, force=1e-6)
    assert found.converged and found.force <= 1e-6 and found.stress == 0 and 10 < found.steps < 600
    assert found.energy / EPSILON == pytest.approx(-44.326801, abs=1e-6)
    forces = energy_and_forces(far, found.structure).forces
    assert float(jnp.linalg.norm(forces, axis=1).max()) == pytest.approx(found.force, abs=1e-9)


def test_atoms_that_come_together_have_fresh_neighbours():
    """A line that is not quite straight folds: few neighbours at first, many later, with a thin skin."""
    random = np.random.default_rng(1)
    positions = np.arange(12)[:, None] * [3.2, 0, 0] + 0.3 * random.standard_normal((12, 3))
    start = structure(Atoms("Ar12", positions), CUTOFF)
    found = relaxed(SMOOTH, start, cutoff=CUTOFF, skin=0.2, force=1e-4)
    assert found.converged
    fresh = structure(Atoms("Ar12", np.asarray(found.structure.positions)), CUTOFF)
    assert fresh.is_edge.sum(axis=1).max() > start.is_edge.sum(axis=1).max() + 2
    exact = energy_and_forces(SMOOTH, fresh)
    assert found.energy == pytest.approx(float(exact.energy), abs=1e-10)
    assert float(jnp.linalg.norm(exact.forces, axis=1).max()) == pytest.approx(found.force, abs=1e-9)
    assert found.energy < float(SMOOTH(start)) - 5 * EPSILON


@pytest.mark.parametrize("pressure, stretch", [(0.0, 1.3), (0.05, 0.95)])
def test_a_crystal_has_the_lattice_constant_of_its_lattice_sum(pressure, stretch):
    """From a sheared and shaken cell, so much too large that images are counted again, or under pressure."""
    least = minimize_scalar(
        lambda a: energy_of(cubic(a)) + pressure * a**3, bracket=(3.4, 3.8), options={"xtol": 1e-10}
    ).x
    atoms = cubic(stretch * least)
    atoms.set_cell(
        atoms.cell.array @ (np.eye(3) + [[0.02, 0.05, 0], [0.05, -0.03, 0.04], [0, 0.04, 0]]), scale_atoms=True
    )
    atoms.rattle(0.08, seed=0)
    found = relaxed(
        SMOOTH, structure(atoms, CUTOFF), cutoff=CUTOFF, cell=True, force=1e-6, stress=1e-7, pressure=pressure
    )
    assert found.converged
    cell = np.asarray(found.structure.cell)
    np.testing.assert_allclose(cell @ cell.T, least**2 * np.eye(3), atol=1e-4)
    assert found.energy == pytest.approx(energy_of(cubic(least)) + pressure * least**3, abs=1e-8)
    there = energy_forces_stress(SMOOTH, structure(as_atoms(found.structure), CUTOFF))
    np.testing.assert_allclose(there.stress, -pressure * np.eye(3), atol=1e-6)
    assert pressure == 0 or np.abs(there.forces).max() < 1e-6


def test_a_cell_that_is_kept():
    atoms = cubic(4.0, (2, 1, 1))
    atoms.rattle(0.2, seed=3)
    found = relaxed(SMOOTH, structure(atoms, CUTOFF), cutoff=CUTOFF, force=1e-5)
    np.testing.assert_array_equal(found.structure.cell, atoms.cell.array)
    assert found.energy == pytest.approx(energy_of(cubic(4.0, (2, 1, 1))), abs=1e-6)


def test_padding_and_single_precision():
    atoms = Atoms("Ar3", [[0, 0, 0], [3.0, 0, 0], [0, 3.1, 0.3]])
    for places in (3, 6):
        given = structure(atoms, CUTOFF, places=places)
        found = relaxed(SMOOTH, given, cutoff=CUTOFF, force=1e-6)
        assert found.energy == pytest.approx(-3 * EPSILON, abs=1e-9)
        np.testing.assert_array_equal(found.structure.positions[3:], given.positions[3:])
    with jax.enable_x64(False):
        found = relaxed(SMOOTH, structure(atoms, CUTOFF), cutoff=CUTOFF)
        assert found.structure.positions.dtype == "float32"
    assert found.converged and found.energy == pytest.approx(-3 * EPSILON, abs=1e-5)


def test_a_network():
    model = PaiNN([6, 8], 4.0, width=8, layers=1, key=jax.random.key(0))
    start = structure(Atoms("CO2", [[0, 0, 0], [1.2, 0, 0], [0, 1.3, 0.2]]), 4.0)
    found = relaxed(model, start, cutoff=4.0, force=1e-4, steps=5000)
    assert found.converged and found.energy < float(model(start))


class Falling(eqx.Module):
    """Without a minimum, and NaN beyond a few steps."""

    def __call__(self, structure):
        return jnp.sum(jnp.sqrt(1.0 - structure.positions[:, 0] ** 2))


def test_bad_input():
    atoms = Atoms("Ar2", [[0, 0, 0], [3.0, 0, 0]])
    pair = structure(atoms, CUTOFF)
    for changes in ({"force": 0.0}, {"cutoff": -1.0}, {"steps": 0}, {"skin": np.inf}, {"stress": np.nan}):
        with pytest.raises(ValueError, match=next(iter(changes))):
            relaxed(SMOOTH, pair, **({"cutoff": CUTOFF} | changes))
    with pytest.raises(ValueError, match="three directions"):
        relaxed(SMOOTH, pair, cutoff=CUTOFF, cell=True)
    with pytest.raises(ValueError, match="not|nan|inf"):
        relaxed(SMOOTH, eqx.tree_at(lambda s: s.positions, pair, jnp.zeros((2, 3))), cutoff=CUTOFF)
    alone = structure(Atoms("Ar", [[0.5, 0, 0]]), CUTOFF)
    with pytest.raises(ValueError, match="nan after"):
        relaxed(Falling(), alone, cutoff=CUTOFF)
    with pytest.warns(UserWarning, match="not converged after 3 steps"):
        assert not relaxed(SMOOTH, pair, cutoff=CUTOFF, steps=3).converged
