"""Molecular dynamics against conservation laws, ASE's integrator and statistical mechanics."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.lj import LennardJones as Reference
from ase.md.verlet import VelocityVerlet

import sciml
from sciml import molecules
from sciml.molecules import LennardJones, dynamics, neighbour_list, thermal_velocities
from sciml.molecules._search import search

ARGON = LennardJones(cutoff=6.0, onset=5.0)


@pytest.fixture(autouse=True, scope="module")
def double():
    with sciml.double_precision():
        yield


def argon(repeats=2, seed=0, spread=0.05):
    atoms = bulk("Ar", "fcc", a=5.3, cubic=True).repeat(repeats)
    atoms.positions += spread * np.random.default_rng(seed).standard_normal(atoms.positions.shape)
    return atoms


def made(atoms, cutoff=6.0):
    cell = np.asarray(atoms.cell) * atoms.pbc.any()
    found = neighbour_list(atoms.positions, cutoff, np.asarray(atoms.cell), tuple(atoms.pbc.tolist()))
    arrays = atoms.positions, np.asarray(atoms.numbers, np.int32), cell, *found, 0.0
    return molecules.Structure(*(jnp.asarray(a) for a in arrays))


def total(run):
    return (run["energy"] + run["kinetic"]).values


def edge_set(neighbours, shifts, is_edge):
    i, k = np.nonzero(np.asarray(is_edge))
    rows = np.column_stack([i, np.asarray(neighbours)[i, k], np.asarray(shifts)[i, k]])
    return {tuple(row) for row in rows.tolist()}


@pytest.mark.parametrize("pbc", [(True, True, True), (True, True, False), (False, False, False)])
@pytest.mark.parametrize("cutoff", [2.0, 5.0, 9.0])
def test_search_finds_what_a_cell_list_finds(pbc, cutoff):
    """A skewed cell, atoms far outside of it, and cutoffs beyond its size."""
    random = np.random.default_rng(1)
    cell = np.array([[4.0, 0.3, 0.1], [1.0, 5.0, 0.2], [-0.7, 0.4, 6.0]])
    positions = (random.uniform(size=(6, 3)) + random.integers(-3, 4, (6, 3)) * any(pbc)) @ cell
    listed = neighbour_list(positions, cutoff, cell, pbc)
    structure = made(Atoms("Ar6", positions, cell=cell, pbc=pbc), cutoff)
    find = search(cutoff, listed.is_edge.shape[1] + 3, cell, pbc)
    found, most = find(structure)
    assert int(most) == listed.is_edge.sum(axis=1).max(initial=0)
    assert edge_set(found.neighbours, found.shifts, found.is_edge) == edge_set(*listed[:2], listed.is_edge)
    # The reverse of an edge leads back to it.
    i, k = np.nonzero(np.asarray(found.is_edge))
    j, other = np.asarray(found.neighbours)[i, k], np.asarray(found.reverse)[i, k]
    assert (np.asarray(found.neighbours)[j, other] == i).all()
    assert (np.asarray(found.shifts)[j, other] == -np.asarray(found.shifts)[i, k]).all()
    assert np.asarray(found.is_edge)[j, other].all()


@pytest.mark.parametrize(
    "model, reference",
    [
        (LennardJones(cutoff=6.0), Reference(epsilon=0.010323, sigma=3.4, rc=6.0)),
        (ARGON, Reference(epsilon=0.010323, sigma=3.4, rc=6.0, ro=5.0, smooth=True)),
    ],
)
def test_steps_are_those_of_ase(model, reference):
    atoms = argon()
    atoms.calc = reference
    start = thermal_velocities(jax.random.key(0), made(atoms), 60.0)
    atoms.set_velocities(np.asarray(start) / units.fs)
    run = dynamics(model, made(atoms), cutoff=6.0, steps=20, step=4.0, velocities=start, every=1)
    verlet = VelocityVerlet(atoms, 4.0 * units.fs)
    for frame in range(1, 21):
        verlet.run(1)
        np.testing.assert_allclose(run["positions"][frame], atoms.positions, atol=1e-10)
        np.testing.assert_allclose(run["energy"][frame], atoms.get_potential_energy(), atol=1e-10)
    assert run["temperature"].values[-1] == pytest.approx(atoms.get_temperature() * 96 / 93, rel=1e-9)


def test_energy_is_conserved_to_second_order():
    structure, key = made(argon()), jax.random.key(1)
    errors = []
    for step in (16.0, 8.0, 4.0):
        run = dynamics(
            ARGON,
            structure,
            cutoff=6.0,
            steps=int(640 / step),
            step=step,
            temperature=80,
            every=1,
            key=key,
        )
        errors.append(np.std(total(run)))
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    assert (abs(orders - 2) < 0.35).all(), orders


def test_lists_that_change_on_the_way_are_exact():
    """Hot argon with a thin skin, whose lists are found many times, against one with fresh lists for each frame; in
    both, atoms leave the cell.
    """
    structure = made(argon())
    run = dynamics(
        ARGON, structure, cutoff=6.0, steps=400, step=5.0, temperature=900, every=40, skin=0.3, key=jax.random.key(2)
    )
    assert abs(run["positions"][-1] - run["positions"][0]).max() > 1.5
    for frame in (3, 7, 10):
        atoms = argon()
        atoms.positions = run["positions"].values[frame]
        fresh = float(ARGON(made(atoms)))
        assert float(run["energy"][frame]) == pytest.approx(fresh, abs=1e-11)
    momentum = run["velocities"].mean("atom")
    assert abs(momentum).max() < 1e-12


def test_more_neighbours_than_places_are_given_more_places():
    """The corners of an icosahedron fall onto its centre: none has neighbours at first, all have many later."""
    golden = (1 + np.sqrt(5)) / 2
    corners = [np.roll([0, a, b * golden], turn) for turn in range(3) for a in (-1, 1) for b in (-1, 1)]
    positions = 6.5 * np.array(corners)
    inward = jnp.asarray(-positions * 4e-4)
    structure = made(Atoms("Ar12", positions))
    run = dynamics(ARGON, structure, cutoff=6.0, steps=1200, step=2.0, velocities=inward, every=50, skin=0.1)
    assert run.attrs["recompiled"] >= 1
    fresh = [made(Atoms("Ar12", frame)) for frame in run["positions"].values]
    assert max(int(s.is_edge.sum(axis=1).max(initial=0)) for s in fresh) > 5
    np.testing.assert_allclose(run["energy"], [float(ARGON(s)) for s in fresh], atol=1e-11)


class Well(eqx.Module):
    """Each atom alone in a harmonic well."""

    stiffness: float

    def __call__(self, structure):
        return 0.5 * self.stiffness * jnp.sum(structure.positions**2)


def test_langevin_gives_the_canonical_distribution():
    """Of independent oscillators: variances of positions and of velocities, at a large step too, where BAOAB's
    positions are exact (Leimkuhler & Matthews, section 3).
    """
    n, kt, stiffness = 200, units.kB * 300, 2.0
    atoms = Atoms(f"Ar{n}", 10.0 * np.random.default_rng(0).standard_normal((n, 3)))
    structure = eqx.tree_at(lambda s: s.positions, made(atoms, 0.5), jnp.zeros((n, 3)))
    # A tenth of a radian, and one.
    omega = np.sqrt(stiffness * units.fs**2 / 39.948)
    for step in (0.1 / omega, 1.0 / omega):
        run = dynamics(
            Well(stiffness),
            structure,
            cutoff=0.5,
            steps=4000,
            step=step,
            friction=omega,
            every=20,
            skin=1e3,
            key=jax.random.key(3),
        ).isel(time=slice(20, None))
        assert float((run["positions"] ** 2).mean()) == pytest.approx(kt / stiffness, rel=0.02)
    run = dynamics(
        ARGON, made(argon()), cutoff=6.0, steps=3000, step=4.0, temperature=70, friction=0.05, key=jax.random.key(4)
    ).isel(time=slice(50, None))
    assert float(run["temperature"].mean()) == pytest.approx(70, rel=0.05)


def test_velocities_of_molecules_neither_move_nor_turn_them():
    for positions in (np.random.default_rng(0).normal(size=(5, 3)) * 3, np.arange(15.0).reshape(5, 3)):
        structure = made(Atoms("ArNeHeKrXe", positions), 3.0)
        velocities = np.asarray(thermal_velocities(jax.random.key(0), structure, 300.0))
        mass = Atoms("ArNeHeKrXe").get_masses()[:, None]
        arms = positions - (mass * positions).sum(0) / mass.sum()
        assert abs((mass * velocities).sum(0)).max() < 1e-12
        assert abs((mass * np.cross(arms, velocities)).sum(0)).max() < 1e-9
        assert abs(velocities).max() > 1e-4


def test_results_do_not_depend_on_pieces_or_padding(monkeypatch):
    structure = made(argon())
    options = dict(cutoff=6.0, steps=60, step=4.0, temperature=70, friction=0.01, every=10, key=jax.random.key(5))
    whole = dynamics(ARGON, structure, **options)
    monkeypatch.setattr("sciml.molecules._dynamics.STEPS_AT_ONCE", 20)
    np.testing.assert_allclose(dynamics(ARGON, structure, **options)["positions"], whole["positions"], atol=1e-9)
    assert whole["positions"].dims == ("time", "atom", "axis") and whole["time"].attrs["units"] == "fs"
    assert whole.sizes["time"] == 7 and float(whole["time"][-1]) == 240


def test_interrupt_keeps_what_was_done(monkeypatch):
    from sciml.molecules import _dynamics

    calls, piece = [], _dynamics._piece

    def interrupted(*args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return piece(*args)

    monkeypatch.setattr(_dynamics, "STEPS_AT_ONCE", 10)
    monkeypatch.setattr(_dynamics, "_piece", interrupted)
    with pytest.warns(UserWarning, match="interrupted after 20 of 60 steps"):
        run = dynamics(ARGON, made(argon()), cutoff=6.0, steps=60, every=10, key=jax.random.key(0))
    assert run.sizes["time"] == 3


def test_explosion_ends_with_the_finite_part():
    """An oscillator with a step far beyond the limit of stability."""
    structure = made(Atoms("Ar2", [[0.0, 0, 0], [9, 0, 0]]))
    with pytest.warns(UserWarning, match="not finite"):
        run = dynamics(Well(2.0), structure, cutoff=6.0, steps=400, step=1e3, every=10, key=jax.random.key(0))
    assert np.isfinite(run["positions"]).all() and 1 < run.sizes["time"] < 41


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"steps": 0}, "steps"),
        ({"steps": 15, "every": 10}, "multiple"),
        ({"step": np.nan}, "step"),
        ({"temperature": -1.0}, "temperature"),
        ({"friction": -0.1}, "friction"),
        ({"cutoff": 0.0}, "cutoff"),
        ({"key": None}, "key"),
        ({"velocities": jnp.zeros((3, 3))}, "velocities"),
        ({"masses": np.zeros(32)}, "masses"),
    ],
)
def test_bad_input(changes, message):
    options = {"cutoff": 6.0, "steps": 20, "key": jax.random.key(0)} | changes
    with pytest.raises((ValueError, TypeError), match=message):
        dynamics(ARGON, made(argon()), **options)
