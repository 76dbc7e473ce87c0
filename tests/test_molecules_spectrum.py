"""The spectrum of trajectories against harmonic vibrations and the theorem of equipartition."""

import jax
import numpy as np
import pytest
from ase import Atoms

import sciml
from sciml import molecules

ARGON = molecules.LennardJones(cutoff=8.0, onset=7.0)


@pytest.fixture(autouse=True, scope="module")
def double():
    with sciml.double_precision():
        yield


@pytest.fixture(scope="module")
def least():
    """Three atoms in a triangle at the minimum of their energy."""
    atoms = Atoms("Ar3", [[0, 0, 0], [3.8, 0, 0], [1.9, 3.3, 0]])
    return molecules.relaxed(ARGON, molecules.structure(atoms, 8.0), cutoff=8.0, force=1e-9).structure


@pytest.fixture(scope="module")
def run(least):
    options = {"cutoff": 8.0, "steps": 10_000, "step": 20.0, "temperature": 0.02, "every": 2}
    return molecules.dynamics(ARGON, least, key=jax.random.key(0), progress=False, **options)


def test_peaks_are_harmonic_wave_numbers_and_their_integral_the_degrees_of_freedom(least, run):
    found = molecules.velocity_spectrum(run, 0.5)
    assert float(found.sum() * 0.5) == pytest.approx(3, rel=0.05)
    waves = found["wavenumber"].values
    assert waves[1] == pytest.approx(0.5, rel=1e-3) and waves[-1] == pytest.approx(16678.2 / 40, rel=1e-2)
    harmonic = molecules.vibrations(ARGON, least).wavenumbers
    # Two of three are equal, in a triangle with equal sides.
    for one in harmonic[[0, 2]]:
        near = abs(waves - one) < 4
        assert waves[near][found.values[near].argmax()] == pytest.approx(one, abs=0.5)
    outside = np.min(abs(waves[:, None] - harmonic), axis=1) > 4
    assert found.values[outside].sum() < 0.01 * found.values.sum()


def test_heavier_atoms_that_move_alike_weigh_more(run):
    found = molecules.velocity_spectrum(run, 1.0)
    masses = np.full(3, 2 * 39.948)
    np.testing.assert_allclose(molecules.velocity_spectrum(run, 1.0, masses=masses), 2 * found, rtol=1e-6)


def test_bad_input(run):
    for resolution in (0.0, -1.0, np.nan, 1e-3, 1e6):
        with pytest.raises(ValueError, match=r"takes .* frames \(8 or more\)"):
            molecules.velocity_spectrum(run, resolution)
    with pytest.raises(ValueError, match="no 'velocities'"):
        molecules.velocity_spectrum(run.drop_vars("velocities"))
    with pytest.raises(ValueError, match="positive masses"):
        molecules.velocity_spectrum(run, masses=np.ones(2))
    with pytest.raises(ValueError, match="at rest"):
        molecules.velocity_spectrum(run.assign(temperature=0 * run["temperature"]))
    with pytest.raises(ValueError, match="8 or more"):
        molecules.velocity_spectrum(run.isel(time=slice(1)))
