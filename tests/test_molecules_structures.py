"""Structures, their neighbours and batches against brute force, ASE and derivatives by differences."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator

import sciml
from sciml import molecules
from sciml.molecules._batches import cheapest_buckets

KEY = jax.random.key(0)
FLAT = np.array([[1.0, 0, 0], [2, 0, 0], [0, 0, 1]])
CELL = np.array([[3.0, 0, 0], [0.5, 2.5, 0], [0.3, 0.2, 4]])


def brute_force(positions, cutoff, cell, pbc):
    """All pairs within the cutoff, as a set of (i, j, shift)."""
    reach = [range(-6, 7) if p else (0,) for p in pbc]
    found = set()
    for shift in itertools.product(*reach):
        moved = positions + np.array(shift) @ cell
        distance = np.linalg.norm(moved[None] - positions[:, None], axis=-1)
        for i, j in zip(*np.nonzero((distance <= cutoff) & (distance > 1e-9))):
            found.add((int(i), int(j), *shift))
    return found


@pytest.mark.parametrize("pbc", [(True, True, True), (False, False, False), (True, False, True)])
def test_neighbours_are_those_of_brute_force_in_a_cell_smaller_than_the_cutoff(pbc):
    positions = np.random.default_rng(0).uniform(size=(4, 3)) @ CELL
    found = molecules.neighbour_list(positions, 5.0, CELL, pbc)
    i, place = np.nonzero(found.is_edge)
    j, shift = found.neighbours[i, place], found.shifts[i, place]
    assert {(int(a), int(b), *map(int, s)) for a, b, s in zip(i, j, shift)} == brute_force(positions, 5.0, CELL, pbc)
    # The same edge from the other side.
    back = found.reverse[i, place]
    np.testing.assert_array_equal(found.neighbours[j, back], i)
    np.testing.assert_array_equal(found.shifts[j, back], -shift)
    np.testing.assert_array_equal(found.reverse[j, back], place)


@pytest.mark.parametrize("cutoff", [20.0, 1e4])
def test_within_a_long_cutoff_all_atoms_of_a_molecule_are_neighbours(cutoff):
    found = molecules.neighbour_list(np.random.default_rng(0).uniform(size=(4, 3)) * 10 - 100, cutoff)
    assert found.is_edge.shape == (4, 3) and found.is_edge.all()
    assert molecules.neighbour_list(np.zeros((0, 3)), cutoff).is_edge.shape == (0, 0)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((np.zeros((2, 3)), 5.0), "apart; atoms may not overlap"),
        ((np.array([[0.0, 0, 0], [0, 0, 1e6]]), 5.0), "has a molecule exploded"),
        ((np.zeros((1, 3)), 5.0, np.diag([4.0, 4.0, 1e6]), (True,) * 3), "or a cell as long"),
        ((np.full((1, 3), np.nan), 5.0), "not finite"),
        ((np.zeros((1, 3)), 0.0), "cutoff must be a positive"),
        ((np.zeros((1, 3)), 5.0, np.zeros((3, 3)), (True, True, True)), "no volume"),
        ((np.zeros((1, 3)), 5.0, FLAT, (True, True, True)), "no volume"),
    ],
)
def test_what_has_no_neighbours_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        molecules.neighbour_list(*arguments)


def test_gathers_along_edges_are_those_of_indexing_with_all_derivatives():
    one = molecules.structure(bulk("Si"), 4.0)
    values = jax.random.normal(KEY, (2, 3))
    plain = lambda v: jnp.sum(jnp.sin(v[one.neighbours]) * jnp.where(one.is_edge, 1.0, 0.0)[..., None])  # noqa: E731
    gathered = lambda v: jnp.sum(  # noqa: E731
        jnp.sin(molecules.to_neighbours(one, v)) * jnp.where(one.is_edge, 1.0, 0.0)[..., None]
    )
    for derivative in (lambda f: f, jax.grad, jax.hessian, lambda f: jax.jacfwd(jax.jacfwd(f))):
        np.testing.assert_allclose(derivative(gathered)(values), derivative(plain)(values), atol=1e-4)


def test_frames_and_atoms_are_the_same_both_ways():
    crystal = bulk("Si").repeat((2, 1, 1))
    results = {"energy": -3.0, "forces": np.ones((4, 3)), "stress": np.arange(6.0)}
    crystal.calc = SinglePointCalculator(crystal, **results)
    ethanol = molecule("CH3CH2OH")
    ethanol.calc = SinglePointCalculator(ethanol, energy=1.5, forces=np.zeros((9, 3)))
    ethanol.info["charge"] = -1.0
    data = molecules.from_atoms([crystal, ethanol])
    assert data.labels["stress"][0, 1, 2] == 3.0 and np.isnan(data.labels["stress"][1]).all()
    again = data.to_atoms()
    for before, after in zip([crystal, ethanol], again):
        np.testing.assert_array_equal(before.numbers, after.numbers)
        np.testing.assert_array_equal(before.positions, after.positions)
        np.testing.assert_array_equal(before.pbc, after.pbc)
        assert before.get_potential_energy() == after.get_potential_energy()
    np.testing.assert_array_equal(again[0].get_stress(), np.arange(6.0))
    assert again[1].info["charge"] == -1.0
    twice = molecules.joined([data[1], data])
    assert len(twice) == 3 and len(twice[[0, 2]].species) == 18
    kinds, table = data.composition()
    assert kinds.tolist() == [1, 6, 8, 14] and table.tolist() == [[0, 0, 0, 4], [6, 2, 1, 0]]


def test_units_are_converted():
    data = molecules.frames(
        np.ones((1, 1, 3)),
        [2],
        labels={"energy": [1.0]},
        atom_labels={"forces": np.ones((1, 1, 3))},
        energy_unit="Ha",
        length_unit="bohr",
    )
    np.testing.assert_allclose(data.labels["energy"], 27.211386245988)
    np.testing.assert_allclose(data.atom_labels["forces"], 27.211386245988 / 0.529177210903)
    np.testing.assert_allclose(data.positions, 0.529177210903)


@pytest.mark.parametrize(
    "given, message",
    [
        ({"labels": {"energy": [np.nan]}}, "energy of structure 0 is nan"),
        ({"atom_labels": {"forces": np.ones((1, 3, 3))}}, "must have shape"),
        ({"species": [0, 1]}, "atomic numbers"),
        ({"species": [1]}, "expected species"),
        ({"energy_unit": "cal"}, "must be one of"),
        ({"positions": np.full((1, 2, 3), np.inf)}, "not finite"),
        ({"pbc": True}, "needs cells"),
        ({"labels": {"energy": [1.0, 2.0]}}, "there are 1 structures"),
    ],
)
def test_frames_that_do_not_fit_are_refused(given, message):
    arguments = {"positions": np.zeros((1, 2, 3)), "species": [1, 1]} | given
    with pytest.raises(ValueError, match=message):
        molecules.frames(arguments.pop("positions"), arguments.pop("species"), **arguments)


def mixed(count=24):
    """Structures of three sizes with the energies and forces of ASE's Lennard-Jones calculator."""
    random, found = np.random.default_rng(0), []
    for i in range(count):
        n = (2, 3, 7)[i % 3]
        sites = np.stack(np.unravel_index(np.arange(n), (3, 3, 1)), axis=1)
        atoms = Atoms(f"Ar{n}", positions=sites + 0.05 * random.normal(size=(n, 3)))
        atoms.calc = LennardJones(sigma=0.8, rc=5.0, smooth=True)
        atoms.get_forces()
        found.append(atoms)
    return molecules.from_atoms(found)


def test_buckets_waste_the_fewest_places():
    atoms, places = np.array([2, 2, 3, 9, 10, 30]), np.array([1, 1, 2, 8, 9, 9])

    def wasted(groups):
        return sum(len(g) * atoms[g].max() * (places[g].max() + 1) for g in groups)

    for count in (1, 2, 3, 6, 9):
        groups = cheapest_buckets(atoms, places, count)
        assert sorted(np.concatenate(groups).tolist()) == list(range(6)) and len(groups) <= count
        # All ways to cut the sizes into so many groups.
        cuts = itertools.combinations(range(1, 5), min(count, 5) - 1)
        sizes = np.unique(atoms)
        every = [[np.flatnonzero(np.isin(atoms, part)) for part in np.split(sizes, cut)] for cut in cuts]
        assert wasted(groups) == min(wasted(g) for g in every)


def test_an_epoch_has_every_structure_once_in_few_shapes_and_compiles_as_often():
    data, seen, shapes = mixed(), [], set()
    stream = molecules.batches(data, 5.0, 5, buckets=2)
    model = molecules.PaiNN([18], 5.0, width=4, layers=1, radial=3, key=KEY)
    compiled, loss = [], molecules.potential_misfit()

    @jax.jit
    def losses(batch):
        compiled.append(1)
        return {n: jnp.mean(r**2) for n, r in loss(model, batch).items()}

    for structures, labels in itertools.islice(stream, len(stream)):
        known = np.isfinite(labels["energy"])
        seen += labels["energy"][known].tolist()
        shapes.add(structures.neighbours.shape)
        assert np.isfinite(list(losses((structures, labels)).values())).all()
    np.testing.assert_allclose(sorted(seen), np.sort(data.labels["energy"]), rtol=1e-6)
    assert len(shapes) == 2 == len(compiled)


def test_a_structure_of_other_units_is_refused():
    data = molecules.frames(10 * np.arange(6.0).reshape(1, 2, 3), [1, 1])
    with pytest.raises(ValueError, match="another unit"):
        molecules.batches(data, 5.0, 1)


def model_and_crystal():
    atoms = bulk("NaCl", "rocksalt", a=5.6)
    atoms.rattle(0.1, seed=1)
    return molecules.PaiNN([11, 17], 4.0, width=8, layers=2, radial=6, key=KEY), molecules.structure(atoms, 4.0)


def test_forces_and_stress_are_derivatives_of_the_energy():
    with sciml.double_precision():
        model, one = model_and_crystal()
        found = molecules.energy_forces_stress(model, one)
        step = 1e-4

        def moved(i, axis, by):
            return model(eqx.tree_at(lambda s: s.positions, one, one.positions.at[i, axis].add(by)))

        one = eqx.tree_at(lambda s: s.positions, one, jnp.asarray(one.positions))
        for i, axis in itertools.product(range(2), range(3)):
            slope = (moved(i, axis, step) - moved(i, axis, -step)) / (2 * step)
            np.testing.assert_allclose(found.forces[i, axis], -slope, atol=1e-7)
        for a, b in itertools.product(range(3), range(3)):
            strain = jnp.zeros((3, 3)).at[a, b].set(step)
            up, down = (model(molecules.strained(one, s)) for s in (strain, -strain))
            slope = (up - down) / (2 * step) / molecules.volume(one.cell)
            np.testing.assert_allclose(found.stress[a, b], slope, atol=1e-7)
        np.testing.assert_array_equal(molecules.energy_and_forces(model, one).forces, found.forces)


def test_residuals_count_what_is_known_and_energies_by_atom():
    data = mixed(3)
    structures = molecules.structures(data, 5.0)
    labels = {"energy": np.array([1.0, np.nan, 5.0]), "forces": np.full((3, 7, 3), np.nan)}
    labels["forces"][0, 0] = 2.0
    residuals = molecules.potential_misfit(energy=0.5, forces=4.0)(
        lambda s: 0.0 * jnp.sum(s.positions), (structures, labels)
    )
    np.testing.assert_allclose(jnp.mean(residuals["energy"] ** 2), ((1 / 2 / 0.5) ** 2 + (5 / 7 / 0.5) ** 2) / 2)
    np.testing.assert_allclose(jnp.mean(residuals["forces"] ** 2), 0.25)
    with pytest.raises(ValueError, match="no label 'stress'"):
        molecules.potential_misfit(stress=1.0)(lambda s: 0.0, (structures, labels))
    with pytest.raises(ValueError, match="unit of 'forces'"):
        molecules.potential_misfit(forces=0.0)


def test_a_potential_learns_the_forces_of_another():
    data = mixed(60)
    model = molecules.PaiNN([18], 5.0, width=16, layers=1, radial=8, key=KEY)
    stream = molecules.batches(data, 5.0, 20, buckets=1)
    loss = molecules.potential_misfit(energy=5.0, forces=5.0)
    falling = optax.adam(optax.cosine_decay_schedule(1e-2, 600))
    model, _ = sciml.fit(model, loss, stream, falling, steps=600, report=None)
    found = molecules.errors(data, molecules.predicted(model, data, 5.0))
    assert found["force_rmse"] < 0.25 * np.sqrt(np.mean(data.atom_labels["forces"] ** 2))


def test_labels_by_a_potential_and_what_is_left_of_others():
    data = mixed(6)
    exact = molecules.LennardJones(epsilon=1.0, sigma=0.8, cutoff=5.0, onset=4.0)
    with sciml.double_precision():
        found = molecules.predicted(exact, data, 5.0, size=4, buckets=2)
    for i, atoms in enumerate(data.to_atoms()):
        atoms.calc = LennardJones(sigma=0.8, rc=5.0, ro=4.0, smooth=True)
        np.testing.assert_allclose(found.labels["energy"][i], atoms.get_potential_energy(), rtol=1e-10)
        np.testing.assert_allclose(found.atom_labels["forces"][found.atoms_of(i)], atoms.get_forces(), atol=1e-9)
    left = molecules.minus(found, found)
    assert not left.labels["energy"].any() and not left.atom_labels["forces"].any()
    shifted = found.with_labels({"energy": found.labels["energy"] + 2.0})
    expected = {"energy_mae": 2.0, "energy_mae_atom": np.mean(2 / data.counts), "force_mae": 0.0, "force_rmse": 0.0}
    assert molecules.errors(found, shifted) == pytest.approx(expected)
    with pytest.raises(ValueError, match="not the same"):
        molecules.minus(found, found[:3])
    with pytest.raises(ValueError, match="no label is in both"):
        molecules.minus(found, molecules.frames(data.positions, data.species, counts=data.counts))


def test_errors_of_a_figure_are_said():
    figure = molecules.parity_figure({"energy": ([1.0, np.nan, 3.0], [1.5, 2.0, 3.5], "eV")})
    assert "0.5 eV" in figure.axes[1].get_title()
    with pytest.raises(ValueError, match="shapes"):
        molecules.parity_figure({"energy": ([1.0], [1.0, 2.0], "eV")})
    with pytest.raises(ValueError, match="no value"):
        molecules.parity_figure({"energy": ([np.nan], [1.0], "eV")})


def test_unknown_species_are_refused_or_give_nan():
    model, one = model_and_crystal()
    with pytest.raises(ValueError, match="knows the elements"):
        model.species.check(np.array([11, 3]))
    other = eqx.tree_at(lambda s: s.species, one, jnp.array([11, 3]))
    with pytest.raises(ValueError, match="knows the elements"):
        model(other)
    assert jnp.isnan(eqx.filter_jit(model)(other))
