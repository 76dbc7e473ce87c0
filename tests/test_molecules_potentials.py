"""The contract of potentials: what the energy of every one of them, its forces and its stress must satisfy."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sciml
from sciml.molecules import (
    EGNN,
    MACE,
    DimeNet,
    NequIP,
    PaiNN,
    SchNet,
    SO3krates,
    Structure,
    neighbour_list,
    stack,
    strained,
    volume,
)

CUTOFF = 3.0
SIZES = {"width": 6, "layers": 2, "radial": 4}
# Each is made as `make(species, CUTOFF, key=key)`; a further potential is one further line.
POTENTIALS = {
    "SchNet": lambda *a, key: SchNet(*a, **SIZES, key=key),
    "PaiNN": lambda *a, key: PaiNN(*a, **SIZES, key=key),
    "NequIP": lambda *a, key: NequIP(*a, **SIZES, degree=2, key=key),
    "NequIP, products": lambda *a, key: NequIP(*a, **SIZES, degree=2, linear=True, products=True, key=key),
    "MACE": lambda *a, key: MACE(*a, **SIZES, key=key),
    "SO3krates": lambda *a, key: SO3krates(*a, **SIZES, heads=2, key=key),
    "DimeNet": lambda *a, key: DimeNet(*a, **SIZES, degree=3, key=key),
    "EGNN": lambda *a, key: EGNN(*a, **SIZES, key=key),
}
PLACES, NEIGHBOURS = 12, 24


@pytest.fixture(autouse=True)
def double():
    with sciml.double_precision():
        yield


@pytest.fixture(scope="module", params=POTENTIALS)
def model(request):
    with sciml.double_precision():
        return POTENTIALS[request.param]((1, 6, 8), CUTOFF, key=jax.random.key(1))


def arranged(positions, species, cell=None, *, n=PLACES, k=NEIGHBOURS):
    """A structure with n places for atoms and k for neighbours of each."""
    pbc = (cell is not None,) * 3
    found = neighbour_list(positions, CUTOFF, cell, pbc)
    more, wider = n - len(positions), k - found.neighbours.shape[1]
    assert more >= 0 and wider >= 0
    neighbours = np.repeat(np.arange(n, dtype=np.int32)[:, None], k, axis=1)
    reverse = np.repeat(np.arange(k, dtype=np.int32)[None], n, axis=0)
    inside = (slice(len(positions)), slice(found.neighbours.shape[1]))
    neighbours[inside], reverse[inside] = found.neighbours, found.reverse
    numbers = dict(
        positions=np.pad(np.asarray(positions, float), ((0, more), (0, 0))),
        species=np.pad(np.asarray(species, np.int32), (0, more)),
        cell=np.zeros((3, 3)) if cell is None else np.asarray(cell, float),
        neighbours=neighbours,
        shifts=np.pad(found.shifts, ((0, more), (0, wider), (0, 0))),
        reverse=reverse,
        is_edge=np.pad(found.is_edge, ((0, more), (0, wider))),
        charge=np.zeros(()),
    )
    return Structure(**jax.tree.map(jnp.asarray, numbers))


SPECIES = np.array([6, 8, 1, 1, 6, 1])
CELL = np.array([[2.9, 0.0, 0.1], [0.3, 3.1, 0.0], [0.0, -0.2, 3.3]])


def molecule(seed=0):
    """Six atoms about 1.3 angstroms apart."""
    grid = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1]])
    return 1.3 * grid + np.random.default_rng(seed).normal(0, 0.15, (6, 3))


def crystal():
    """Two atoms in a cell as small as the cutoff, so that each has several images."""
    return np.array([[0.1, 0.2, 0.0], [1.4, 1.6, 1.5]]), np.array([6, 8])


def derived(model, structure):
    """Energy, forces and dE/dstrain."""

    def energy(positions, strain):
        return model(strained(eqx.tree_at(lambda s: s.positions, structure, positions), strain))

    value, (slope, stress) = jax.value_and_grad(energy, (0, 1))(jnp.asarray(structure.positions), jnp.zeros((3, 3)))
    return value, -slope, stress


predict = eqx.filter_jit(derived)


def rotation(seed=3):
    """A proper rotation."""
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return q * np.sign(np.linalg.det(q))


def close(a, b, tolerance=1e-10):
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("turn", [rotation(), -np.eye(3), np.diag([1.0, 1.0, -1.0]) @ rotation(4)])
def test_motions_and_reflections_move_forces_and_leave_energies(model, turn):
    energy, forces, _ = predict(model, arranged(molecule(), SPECIES))
    assert jnp.abs(forces).max() > 1e-3
    turned = predict(model, arranged(molecule() @ turn.T + [3.0, -2.0, 1.0], SPECIES))
    close(turned[0], energy)
    close(turned[1], forces @ turn.T)


def test_a_crystal_turned_with_its_cell_has_turned_forces_and_stress(model):
    positions, species = crystal()
    turn = rotation()
    energy, forces, stress = predict(model, arranged(positions, species, CELL))
    turned = predict(model, arranged(positions @ turn.T, species, CELL @ turn.T))
    close(turned[0], energy)
    close(turned[1], forces @ turn.T)
    close(turned[2], turn @ stress @ turn.T)


def test_the_order_of_atoms_does_not_matter(model):
    order = np.array([3, 1, 5, 0, 2, 4])
    energy, forces, _ = predict(model, arranged(molecule(), SPECIES))
    other = predict(model, arranged(molecule()[order], SPECIES[order]))
    close(other[0], energy)
    close(other[1][:6], forces[order])


def test_the_species_of_atoms_matter(model):
    energy, *_ = predict(model, arranged(molecule(), SPECIES))
    other, *_ = predict(model, arranged(molecule(), SPECIES[::-1]))
    assert abs(energy - other) > 1e-4


def test_forces_and_stress_are_differences_of_energies(model):
    positions, species = crystal()
    structure = arranged(positions, species, CELL)
    assert (structure.is_edge.sum(axis=1)[:2] == 9).all()
    _, forces, stress = predict(model, structure)
    step = 1e-4
    for atom, axis in [(0, 0), (1, 2)]:
        shift = np.zeros((PLACES, 3))
        shift[atom, axis] = step
        ends = [eqx.tree_at(lambda s: s.positions, structure, structure.positions + a * shift) for a in (1, -1)]
        close(forces[atom, axis], -np.subtract(*[predict(model, s)[0] for s in ends]) / (2 * step), 1e-6)
    for i, j in [(0, 0), (1, 2)]:
        strain = np.zeros((3, 3))
        strain[i, j] = strain[j, i] = step
        ends = [predict(model, strained(structure, jnp.asarray(a * strain)))[0] for a in (1, -1)]
        # Both elements of a pair off the diagonal are moved.
        expected = np.subtract(*ends) / (2 * step) / (1 if i == j else 2) / volume(structure.cell)
        close(stress[i, j] / volume(structure.cell), expected, 1e-6)


def test_an_atom_that_crosses_the_cutoff_changes_nothing_abruptly(model):
    def leaving(distance):
        positions = np.array([[0.0, 0.0, 0.0], [1.2, 0.0, 0.0], [0.0, distance, 0.0]])
        return predict(model, arranged(positions, [6, 8, 1]))

    inside, outside = leaving(CUTOFF - 1e-6), leaving(CUTOFF + 1e-6)
    close(inside[0], outside[0], 1e-8)
    close(inside[1], outside[1], 1e-4)
    # What is compared would differ if the atom were nearer.
    assert abs(leaving(CUTOFF - 0.8)[0] - outside[0]) > 1e-6
    close(leaving(CUTOFF + 0.5)[0], outside[0])


def test_two_molecules_far_apart_have_the_sum_of_their_energies(model):
    one, other = molecule(), molecule(1) + 50.0
    energies = [predict(model, arranged(p, SPECIES))[0] for p in (one, other)]
    together, *_ = predict(model, arranged(np.concatenate([one, other]), np.tile(SPECIES, 2)))
    close(together, sum(energies))


def test_a_supercell_has_a_multiple_of_the_energy(model):
    positions, species = crystal()
    energy, forces, stress = predict(model, arranged(positions, species, CELL))
    doubled = np.concatenate([positions, positions + CELL[1]])
    larger = predict(model, arranged(doubled, np.tile(species, 2), CELL * [[1], [2], [1]]))
    close(larger[0], 2 * energy)
    close(larger[1][:2], forces[:2])
    close(larger[2], 2 * stress)


def force_loss(model, structure, target):
    energy, forces, _ = derived(model, structure)
    return jnp.sum((forces[:6] - target) ** 2), (energy, forces)


force_gradient = eqx.filter_jit(eqx.filter_vmap(eqx.filter_grad(force_loss, has_aux=True), in_axes=(None, 0, None)))


def test_padding_and_stacking_change_nothing(model):
    """Nor gradients of parameters of a loss of forces, second derivatives of the model, NaN in none of them."""
    random = np.random.default_rng(5)
    target, structure = random.normal(size=(6, 3)), arranged(molecule(), SPECIES)
    padded = jax.tree.map(jnp.asarray, stack([arranged(molecule(s), SPECIES, n=9, k=8) for s in (0, 1)]))
    gradients, (energies, batch_forces) = force_gradient(model, padded, target)
    energy, forces, _ = predict(model, structure)
    close(energies[0], energy, 1e-12)
    close(batch_forces[0, :6], forces[:6], 1e-12)
    assert (batch_forces[:, 6:] == 0).all()
    arrays, rest = eqx.partition(model, eqx.is_inexact_array)
    direction = jax.tree.map(lambda a: jnp.asarray(random.normal(size=a.shape)), arrays)

    def loss(step):
        moved = eqx.combine(jax.tree.map(lambda a, d: a + step * d, arrays, direction), rest)
        return jnp.sum((predict(moved, structure)[1][:6] - target) ** 2)

    slope = sum(jnp.sum(g[0] * d) for g, d in zip(jax.tree.leaves(gradients), jax.tree.leaves(direction)))
    assert float(slope) == pytest.approx(float(loss(1e-5) - loss(-1e-5)) / 2e-5, rel=1e-4)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))


def test_single_precision_is_near_double(model):
    """Within 2e-5 of the largest force, and of the sum of what the energies of atoms are."""
    structure = arranged(molecule(), SPECIES)
    energy, forces, _ = predict(model, structure)

    def single(a):
        return a.astype(np.float32) if eqx.is_inexact_array(a) else a

    with jax.enable_x64(False):
        rough = predict(*jax.tree.map(single, (model, structure)))
    assert rough[0].dtype == jnp.float32
    close(rough[0], energy, 2e-5 * max(1, abs(float(energy))))
    close(rough[1], forces, 2e-5 * max(1, float(jnp.abs(forces).max())))


def test_atoms_that_the_model_does_not_know_give_nan_and_a_check_names_them(model):
    structure = arranged(molecule(), np.where(SPECIES == 8, 7, SPECIES))
    assert jnp.isnan(predict(model, structure)[0])
    with pytest.raises(ValueError, match=r"knows the elements \(1, 6, 8\), the structure has \(7,\)"):
        model.species.check(np.asarray(structure.species))


def test_a_lone_atom_has_an_energy_and_no_force(model):
    energy, forces, _ = predict(model, arranged(np.zeros((1, 3)), [6]))
    assert jnp.isfinite(energy) and (forces == 0).all()


@pytest.mark.parametrize("name", POTENTIALS)
def test_what_is_no_element_or_no_distance_is_named(name):
    with pytest.raises(ValueError, match="cutoff must be"):
        POTENTIALS[name]((1,), -1.0, key=jax.random.key(0))
    with pytest.raises(ValueError, match="atomic numbers from 1 to 118"):
        POTENTIALS[name]((0,), CUTOFF, key=jax.random.key(0))


def test_second_derivatives_where_vectors_vanish(model):
    """In the middle of an octahedron, against differences of forces: 1e-2 of the largest."""
    around = 1.5 * np.concatenate([np.eye(3), -np.eye(3)])
    structure = arranged(np.concatenate([np.zeros((1, 3)), around]), [8, *[1] * 6])

    @jax.jit
    def slope(place):
        return jax.grad(
            lambda p: model(eqx.tree_at(lambda s: s.positions, structure, structure.positions.at[0].set(p)))
        )(place)

    exact = jax.jacfwd(slope)(jnp.zeros(3))
    step = 0.005
    differences = [(slope(step * e) - slope(-step * e)) / (2 * step) for e in jnp.eye(3)]
    size = float(jnp.abs(exact).max())
    np.testing.assert_allclose(exact, jnp.stack(differences), atol=1e-2 * size)


@pytest.mark.parametrize("linear", [True, False])
def test_linear_filters_are_linear_in_the_radial_basis(linear):
    model = NequIP((1, 6, 8), CUTOFF, **SIZES, linear=linear, key=jax.random.key(0))
    messages, keys = model.layers[0].messages, jax.random.split(jax.random.key(1), 3)
    structure = arranged(molecule(), SPECIES)
    x = jax.random.normal(keys[0], (PLACES, 1, 6))
    around = jax.random.normal(keys[1], (PLACES, NEIGHBOURS, 4))
    basis = jax.random.normal(keys[2], (2, PLACES, NEIGHBOURS, 4))
    apart = sum(messages(structure, x, b, around) for b in basis)
    assert np.allclose(messages(structure, x, basis.sum(axis=0), around), apart, atol=1e-10) == linear
