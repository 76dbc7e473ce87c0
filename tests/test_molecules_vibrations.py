"""Vibrations and phonons against closed forms and ASE's finite differences."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.vibrations import Vibrations as Differences

import sciml
from sciml.molecules import Calculator, LennardJones, edges, hessian, phonons, structure, vibrations

# Nothing is cut off between the atoms of the clusters.
EPSILON, SIGMA = 0.8, 2.5
FAR = LennardJones(EPSILON, SIGMA, 40.0)
LEAST = 2 ** (1 / 6) * SIGMA
# Of a pair at its minimum: 72 epsilon / (2^(1/3) sigma^2).
STIFFNESS = 72 * EPSILON / (2 ** (1 / 3) * SIGMA**2)
CRYSTAL = LennardJones(0.010323, 3.4, 6.0)
LATTICE = 5.26


@pytest.fixture(autouse=True, scope="module")
def double():
    with sciml.double_precision():
        yield


def wavenumber(stiffness, mass):
    """In 1/cm, from the stiffness in eV/angstrom^2 and the mass in atomic mass units, by SI units."""
    omega = np.sqrt(stiffness * units._e * 1e20 / (mass * units._amu))
    return omega / (2 * np.pi * units._c * 100)


def tetrahedron(symbols="Ar4"):
    corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) * LEAST / np.sqrt(8)
    return Atoms(symbols, corners)


class Springs(eqx.Module):
    """Between all neighbours."""

    stiffness: float
    length: float

    def __call__(self, structure):
        stretched = jnp.where(structure.is_edge, edges(structure).distances - self.length, 0.0)
        return 0.25 * self.stiffness * jnp.sum(stretched**2)


def test_a_pair_has_the_frequency_of_its_reduced_mass():
    pair = structure(Atoms("ArNe", [[0, 0, 0], [0, LEAST * 0.6, LEAST * 0.8]]), 40.0)
    found = vibrations(FAR, pair)
    mass = 39.948 * 20.1797 / (39.948 + 20.1797)
    np.testing.assert_allclose(found.wavenumbers, [wavenumber(STIFFNESS, mass)], rtol=1e-6)
    assert found.rigid.shape == (5,) and np.abs(found.rigid).max() < 1e-3
    # The lighter atom moves more, along the pair.
    mode = found.modes[0]
    np.testing.assert_allclose(39.948 * mode[0] + 20.1797 * mode[1], 0, atol=1e-9)
    np.testing.assert_allclose(np.abs(mode[1] / np.linalg.norm(mode[1])), [0, 0.6, 0.8], atol=1e-9)
    given = vibrations(FAR, pair, masses=np.array([2.0, 2.0]))
    np.testing.assert_allclose(given.wavenumbers, [wavenumber(STIFFNESS, 1.0)], rtol=1e-6)


def test_three_in_a_line():
    """As carbon dioxide without forces that keep it straight (Herzberg, Infrared and Raman spectra, 1945, section
    II 4): two bends of frequency 0, and two stretches.
    """
    line = structure(Atoms("OCO", [[0, 0, 0], [1.2, 0, 0], [2.4, 0, 0]]), 1.5)
    found = vibrations(Springs(80.0, 1.2), line)
    oxygen, carbon = 15.999, 12.011
    expected = [0, 0, wavenumber(80.0, oxygen), wavenumber(80.0 * (1 + 2 * oxygen / carbon), oxygen)]
    np.testing.assert_allclose(found.wavenumbers, expected, rtol=1e-9, atol=1e-3)
    assert found.rigid.shape == (5,)


def test_a_tetrahedron():
    """Its modes have 4, 2 and 1 times k / m: once, three times and twice."""
    found = vibrations(FAR, structure(tetrahedron(), 40.0))
    expected = wavenumber(STIFFNESS * np.array([1, 1, 2, 2, 2, 4]), 39.948)
    np.testing.assert_allclose(found.wavenumbers, expected, rtol=1e-6)
    assert found.rigid.shape == (6,) and np.abs(found.rigid).max() < 1e-3


def test_against_differences_of_ase(tmp_path):
    atoms = tetrahedron("ArNeKrHe")
    atoms.calc = Calculator(FAR, 40.0)
    other = Differences(atoms, name=str(tmp_path / "vib"), delta=1e-3)
    other.run()
    found = vibrations(FAR, structure(atoms, 40.0))
    np.testing.assert_allclose(found.wavenumbers, other.get_frequencies().real[6:], rtol=1e-5)


def test_padding_changes_nothing():
    bare = vibrations(FAR, structure(tetrahedron("ArNeKrHe"), 40.0))
    padded = structure(tetrahedron("ArNeKrHe"), 40.0, places=7, neighbours=5)
    found = vibrations(FAR, padded)
    np.testing.assert_allclose(found.wavenumbers, bare.wavenumbers, rtol=1e-12)
    assert found.modes.shape == (6, 4, 3)
    assert not np.asarray(hessian(FAR, padded))[4:].any()


def test_structures_that_are_not_relaxed():
    """Turns of a compressed pair cost energy, and a saddle has an imaginary frequency."""
    pair = structure(Atoms("Ar2", [[0, 0, 0], [0, 0, 0.95 * LEAST]]), 40.0)
    with pytest.warns(UserWarning, match="relax"):
        found = vibrations(FAR, pair)
    assert found.rigid[0] < -5
    line = structure(Atoms("Ar3", [[0, 0, 0], [LEAST, 0, 0], [2 * LEAST, 0, 0]]), 1.5 * LEAST)
    with pytest.warns(UserWarning, match="relax"):
        assert vibrations(Springs(-1.0, LEAST * 0.9), line).wavenumbers[0] < 0


def test_an_atom_alone():
    found = vibrations(FAR, structure(Atoms("Ar"), 5.0))
    assert found.wavenumbers.shape == (0,) and found.modes.shape == (0, 1, 3)
    np.testing.assert_array_equal(found.rigid, 0)


def waves(points):
    """Of the face-centred crystal, by the sum over lattice vectors R of second derivatives times 1 - cos q.R."""
    cell = bulk("Ar", "fcc", a=LATTICE).cell.array
    numbers = np.stack(np.meshgrid(*[np.arange(-5, 6)] * 3, indexing="ij"), -1).reshape(-1, 3)
    vectors = numbers @ cell
    r = np.linalg.norm(vectors, axis=1)
    near = (r > 0) & (r < 6.0)
    numbers, vectors, r = numbers[near], vectors[near], r[near]
    s = (3.4 / r) ** 6
    first = 4 * 0.010323 * (-12 * s**2 + 6 * s) / r
    second = 4 * 0.010323 * (156 * s**2 - 42 * s) / r**2
    along = vectors[:, :, None] * vectors[:, None] / r[:, None, None] ** 2
    constants = (first / r)[:, None, None] * np.eye(3) + (second - first / r)[:, None, None] * along
    found = []
    for point in points:
        matrix = ((1 - np.cos(2 * np.pi * numbers @ point))[:, None, None] * constants).sum(0)
        values = np.linalg.eigvalsh(matrix)
        found.append(np.sign(values) * wavenumber(np.abs(values), 39.948))
    return np.array(found)


def test_phonons_are_the_sum_over_the_lattice():
    """At the Gamma point, at waves that fit into the supercell, and at others."""
    points = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.25, 0.5, 0.75], [0.5, 0, 0], [0.13, -0.2, 0.41], [0.01, 0, 0.02]])
    atoms = bulk("Ar", "fcc", a=LATTICE)
    found = phonons(CRYSTAL, atoms, 6.0, points, repeats=(4, 4, 4))
    np.testing.assert_allclose(found, waves(points), atol=2e-3)
    assert found.dims == ("point", "branch") and found.attrs["units"] == "1/cm"
    np.testing.assert_array_equal(np.stack([found["h"], found["k"], found["l"]], axis=1), points)
    assert float(found[1].min()) > 20  # 1/cm
    heavy = phonons(CRYSTAL, atoms, 6.0, points[1:2], repeats=(2, 2, 2), masses=np.array([4 * 39.948]))
    light = phonons(CRYSTAL, atoms, 6.0, points[1:2], repeats=(2, 2, 2))
    np.testing.assert_allclose(2 * heavy, light, rtol=1e-9)


def test_waves_that_fit_are_exact_in_small_supercells():
    points = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0]])
    found = phonons(CRYSTAL, bulk("Ar", "fcc", a=LATTICE), 6.0, points, repeats=(2, 2, 2))
    np.testing.assert_allclose(found, waves(points), atol=2e-3)


def test_a_larger_cell_folds_the_waves():
    """The cubic cell has at its Gamma point the waves of Gamma and of the three X points of the primitive one."""
    cubic = bulk("Ar", "fcc", a=LATTICE, cubic=True)
    expected = np.sort(waves(np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])).ravel())
    found = phonons(CRYSTAL, cubic, 6.0, repeats=(1, 1, 1))
    np.testing.assert_allclose(found[0], expected, atol=2e-3)
    np.testing.assert_allclose(vibrations(CRYSTAL, structure(cubic, 6.0)).wavenumbers, expected[3:], atol=2e-3)
    # Away from it: a wave along x of the cubic cell is one of the primitive cell's.
    wave = phonons(CRYSTAL, cubic, 6.0, np.array([[0.25, 0, 0]]), repeats=(4, 3, 3))
    folded = 0.25 * np.array([0, 1, 1]) / 2
    others = [folded + shift for shift in ([0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5])]
    np.testing.assert_allclose(wave[0], np.sort(waves(np.array(others)).ravel()), atol=2e-3)


def test_bad_input():
    pair = structure(Atoms("Ar2", [[0, 0, 0], [0, 0, LEAST]]), 40.0)
    with pytest.raises(ValueError, match="masses"):
        vibrations(FAR, pair, masses=np.ones(3))
    meeting = eqx.tree_at(lambda s: s.positions, pair, jnp.zeros((2, 3)))
    with pytest.raises(ValueError, match="not finite"):
        vibrations(FAR, meeting)
    with pytest.raises(ValueError, match="pbc"):
        phonons(CRYSTAL, Atoms("Ar"), 6.0)
    with pytest.raises(ValueError, match="repeats"):
        phonons(CRYSTAL, bulk("Ar", "fcc", a=LATTICE), 6.0, repeats=(0, 1, 1))
    with pytest.raises(ValueError, match="points"):
        phonons(CRYSTAL, bulk("Ar", "fcc", a=LATTICE), 6.0, np.zeros((2, 2)))
