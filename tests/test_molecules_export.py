"""Potentials in a file that runs with JAX alone, as energy functions of jax-md, and trajectories in files."""

import subprocess
import sys
from types import SimpleNamespace

import ase.io
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from ase import Atoms
from ase.build import bulk, molecule

import sciml
from sciml import molecules
from sciml.molecules import (
    LennardJones,
    PaiNN,
    dynamics,
    energy_and_forces,
    energy_forces_stress,
    export,
    from_trajectory,
    jax_md_energy,
    structure,
)

CUTOFF = 6.0
ARGON = LennardJones(cutoff=CUTOFF, onset=5.0)
ALONE = """
import sys
for name in ("sciml", "equinox", "ase", "vesin", "optax"):
    sys.modules[name] = None
import jax
import numpy as np

jax.config.update("jax_enable_x64", True)
for name in sys.argv[1:]:
    potential = jax.export.deserialize(bytearray(open(name + ".bin", "rb").read()))
    given = np.load(name + ".npz")
    found = potential.call(*(given[k] for k in ("positions", "species", "cell", "charge")))
    np.savez(name + "_found.npz", *found)
"""


def crystal(seed=0, scale=1.0):
    atoms = bulk("Ar", "fcc", a=5.3 * scale, cubic=True)
    atoms.rattle(0.15, seed=seed)
    return atoms


def given(structure):
    return {n: np.asarray(getattr(structure, n)) for n in ("positions", "species", "cell", "charge")}


def test_export_runs_with_jax_alone(tmp_path):
    """In a fresh process without this package: a molecule in single precision with fewer atoms than places, a crystal
    in double precision in another cell than that it was exported with, and what the file cannot do, which is NaN.
    """
    pytest.importorskip("flatbuffers")
    network = PaiNN([1, 6, 8], 4.0, width=8, layers=2, key=jax.random.key(0))
    with sciml.double_precision():
        export(tmp_path / "crystal.bin", ARGON, structure(crystal(), CUTOFF), cutoff=CUTOFF, places=60)
        other, narrow = structure(crystal(1, 0.9), CUTOFF), structure(crystal(1, 0.6), CUTOFF)
        exact = energy_forces_stress(ARGON, other)
        np.savez(tmp_path / "crystal.npz", **given(other))
        export(tmp_path / "narrow.bin", ARGON, structure(crystal(), CUTOFF), cutoff=CUTOFF, places=200)
        np.savez(tmp_path / "narrow.npz", **given(narrow))
        export(tmp_path / "full.bin", ARGON, structure(crystal(), CUTOFF), cutoff=CUTOFF, places=20)
        np.savez(tmp_path / "full.npz", **given(other))
    ethanol, water = molecule("CH3CH2OH"), molecule("H2O")
    export(tmp_path / "molecule.bin", network, structure(ethanol, 4.0), cutoff=4.0)
    padded = structure(water, 4.0, places=len(ethanol))
    np.savez(tmp_path / "molecule.npz", **given(padded))
    names = ["crystal", "narrow", "full", "molecule"]
    subprocess.run([sys.executable, "-c", ALONE, *names], cwd=tmp_path, check=True, timeout=3600)
    found = {n: [v for v in np.load(tmp_path / f"{n}_found.npz").values()] for n in names}
    for value, truth in zip(found["crystal"], exact):
        np.testing.assert_allclose(value, truth, atol=1e-12)
    assert found["crystal"][0].dtype == "float64" and np.abs(exact.stress).max() > 1e-4
    for name in ("narrow", "full"):
        assert all(np.isnan(v).all() for v in found[name])
    energy, forces, stress = found["molecule"]
    exact = energy_and_forces(network, structure(water, 4.0))
    assert energy.dtype == "float32" and energy == pytest.approx(float(exact.energy), abs=1e-5)
    np.testing.assert_allclose(forces[:3], exact.forces, atol=1e-5)
    assert not forces[3:].any() and np.isnan(stress).all()
    assert sorted(p.name for p in tmp_path.glob("*.bin")) == sorted(f"{n}.bin" for n in names)


def test_export_writes_whole_files_or_none(tmp_path, monkeypatch):
    pytest.importorskip("flatbuffers")

    def failing(file):
        raise OSError("disk full")

    path = tmp_path / "argon.bin"
    path.write_bytes(b"before")
    monkeypatch.setattr("os.fsync", failing)
    with pytest.raises(OSError, match="disk full"):
        export(path, ARGON, structure(crystal(), CUTOFF), cutoff=CUTOFF)
    assert path.read_bytes() == b"before" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(ValueError, match="cutoff"):
        export(path, ARGON, structure(crystal(), CUTOFF), cutoff=0.0)
    with pytest.raises(ValueError, match="places"):
        export(path, ARGON, structure(crystal(), CUTOFF), cutoff=CUTOFF, places=0)


def dense(structure, more=2):
    """The numbers of neighbours as jax-md has them: n where there is none."""
    n = len(structure.species)
    idx = jnp.where(structure.is_edge, structure.neighbours, n)
    return SimpleNamespace(idx=jnp.pad(idx, [(0, 0), (0, more)], constant_values=n))


def big_crystal(seed=0):
    """Sheared, and wide enough for one image of a pair."""
    atoms = bulk("Ar", "fcc", a=5.3, cubic=True).repeat(3)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + [[0, 0.1, 0], [0, 0, 0.05], [0, 0, 0.02]]), scale_atoms=True)
    atoms.rattle(0.04, seed=seed)
    return atoms


def test_energy_function_in_the_convention_of_jax_md():
    with sciml.double_precision():
        start, moved = structure(big_crystal(), 6.6), structure(big_crystal(1), CUTOFF)
        exact = energy_and_forces(ARGON, moved)
        energy = jax_md_energy(ARGON, start, cutoff=CUTOFF)
        for options in ({}, {"neighbor": dense(start)}, {"neighbor": dense(start), "kT": 1.0}):
            value, slope = jax.jit(jax.value_and_grad(lambda r: energy(r, **options)))(moved.positions)
            assert float(value) == pytest.approx(float(exact.energy), abs=1e-11)
            np.testing.assert_allclose(-slope, exact.forces, atol=1e-11)
        scaled = jax_md_energy(ARGON, start, cutoff=CUTOFF, fractional=True)
        parts = moved.positions @ jnp.linalg.inv(moved.cell)
        stretched = eqx.tree_at(lambda s: s.cell, moved, 1.02 * moved.cell)
        stretched = eqx.tree_at(lambda s: s.positions, stretched, 1.02 * moved.positions)
        assert float(scaled(parts, dense(start))) == pytest.approx(float(exact.energy), abs=1e-11)
        value = scaled(parts, dense(start), box=1.02 * moved.cell.T)
        assert float(value) == pytest.approx(float(ARGON(stretched)), abs=1e-11)
        cluster = Atoms("Ar4", 3.5 * np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1.0]]))
        alone = structure(cluster, CUTOFF)
        assert float(jax_md_energy(ARGON, alone, cutoff=CUTOFF)(alone.positions)) == pytest.approx(float(ARGON(alone)))


def test_energy_function_refuses():
    start = structure(crystal(), CUTOFF)
    with pytest.raises(ValueError, match="repeat the cell"):
        jax_md_energy(ARGON, start, cutoff=CUTOFF)
    with pytest.raises(ValueError, match="padding"):
        jax_md_energy(ARGON, structure(Atoms("Ar"), CUTOFF, places=2), cutoff=CUTOFF)
    energy = jax_md_energy(ARGON, structure(Atoms("Ar2", [[0, 0, 0], [4.0, 0, 0]]), CUTOFF), cutoff=CUTOFF)
    with pytest.raises(ValueError, match="Dense"):
        energy(jnp.zeros((2, 3)), SimpleNamespace(idx=jnp.zeros((5, 2), int)))


@pytest.mark.filterwarnings("ignore")
def test_dynamics_of_jax_md():
    """Its own lists and integrator against ours. It is no dependency: where it is not installed this is skipped."""
    pytest.importorskip("jax_md", exc_type=ImportError)
    from ase import units
    from jax_md import partition, simulate, space

    with sciml.double_precision():
        atoms = bulk("Ar", "fcc", a=5.3, cubic=True).repeat(3)
        start = structure(atoms, CUTOFF)
        side = float(atoms.cell.array[0, 0])
        displacement, shift = space.periodic(side)
        lists = partition.neighbor_list(displacement, side, CUTOFF, 0.5, format=partition.Dense)
        near = lists.allocate(start.positions)
        velocities = molecules.thermal_velocities(jax.random.key(0), start, 60.0)
        begin, apply = simulate.nve(jax_md_energy(ARGON, start, cutoff=CUTOFF), shift, 4.0)
        # In units of angstroms, femtoseconds and eV the unit of mass is not that of atoms.
        mass = 39.948 / units.fs**2
        state = begin(jax.random.key(0), start.positions, 0.0, mass=mass, neighbor=near)
        state = state.set(momentum=velocities * mass)

        @jax.jit
        def step(state, near):
            near = near.update(state.position)
            return apply(state, neighbor=near), near

        for _ in range(20):
            state, near = step(state, near)
        assert not bool(near.did_buffer_overflow)
        run = dynamics(ARGON, start, cutoff=CUTOFF, steps=20, step=4.0, velocities=velocities, every=20)
        apart = jax.vmap(displacement)(state.position, jnp.asarray(run["positions"].values[-1]))
        assert float(jnp.abs(apart).max()) < 1e-9
        assert np.abs(run["positions"].values[-1] - np.asarray(start.positions)).max() > 0.05


@pytest.fixture(scope="module")
def run():
    start = structure(crystal(), CUTOFF)
    return dynamics(ARGON, start, cutoff=CUTOFF, steps=40, step=2.0, temperature=60, every=10, key=jax.random.key(0))


def test_trajectories_become_frames(run):
    data = from_trajectory(run)
    assert len(data) == 5 and data.pbc.all() and (data.species == 18).all()
    np.testing.assert_allclose(data.labels["energy"], run["energy"])
    np.testing.assert_allclose(data.atom_labels["velocities"].reshape(5, 4, 3), run["velocities"])
    found = molecules.predicted(ARGON, data, CUTOFF)
    np.testing.assert_allclose(found.labels["energy"], data.labels["energy"], atol=1e-5)
    alone = dynamics(
        ARGON,
        eqx.tree_at(lambda s: s.charge, structure(Atoms("Ar2", [[0, 0, 0], [3.8, 0, 0]]), CUTOFF), jnp.asarray(-1.0)),
        cutoff=CUTOFF,
        steps=2,
        every=1,
        key=jax.random.key(0),
    )
    data = from_trajectory(alone)
    assert not data.pbc.any() and (data.charges == -1).all()
    with pytest.raises(ValueError, match="species"):
        from_trajectory(run.drop_vars("species"))


def test_trajectories_in_files(run, tmp_path):
    run.to_netcdf(tmp_path / "run.nc")
    with xr.open_dataset(tmp_path / "run.nc") as again:
        xr.testing.assert_allclose(again.load(), run)
        assert again["time"].attrs["units"] == "fs"
        assert len(from_trajectory(again)) == 5
    data = from_trajectory(run)
    for name in ("run.xyz", "frames.nc", "frames.h5"):
        molecules.write(data, tmp_path / name)
        found = molecules.read(tmp_path / name)
        np.testing.assert_allclose(found.positions, data.positions, atol=1e-7)
        np.testing.assert_allclose(found.cells, data.cells, atol=1e-7)
        np.testing.assert_allclose(found.labels["energy"], data.labels["energy"], atol=1e-7)
        np.testing.assert_allclose(found.labels["temperature"], data.labels["temperature"], rtol=1e-6)
    atoms = ase.io.read(tmp_path / "run.xyz", -1)
    np.testing.assert_allclose(atoms.arrays["velocities"], run["velocities"][-1], atol=1e-7)
    with pytest.raises(ValueError, match="xyz"):
        molecules.write(data, tmp_path / "run.pdb")
