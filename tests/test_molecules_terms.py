"""Physics terms of an energy, against constants of lattices, closed forms, finite differences and invariances."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from scipy.special import erf

import sciml
from sciml import molecules
from sciml.molecules import Structure, neighbour_list, strained

K = 14.399645478425668


@pytest.fixture(autouse=True, scope="module")
def double():
    with sciml.double_precision():
        yield


def structure(positions, species, cutoff=6.0, cell=None, charge=0.0):
    periodic = cell is not None
    box = np.asarray(cell, float) if periodic else np.zeros((3, 3))
    found = neighbour_list(np.asarray(positions, float), cutoff, cell, (periodic,) * 3)
    arrays = np.asarray(positions, float), np.asarray(species, np.int32), box, *found, np.float64(charge)
    return Structure(*map(jnp.asarray, arrays))


def padded(s, atoms=2, places=3):
    """The same with more atoms and places for neighbours that are none."""
    n, k = s.neighbours.shape
    pad = lambda a, *widths: jnp.pad(a, widths)  # noqa: E731
    neighbours = jnp.broadcast_to(jnp.arange(n + atoms, dtype=s.neighbours.dtype)[:, None], (n + atoms, k + places))
    reverse = jnp.broadcast_to(jnp.arange(k + places, dtype=s.reverse.dtype), (n + atoms, k + places))
    return Structure(
        pad(s.positions, (0, atoms), (0, 0)),
        pad(s.species, (0, atoms)),
        s.cell,
        neighbours.at[:n, :k].set(s.neighbours),
        pad(s.shifts, (0, atoms), (0, places), (0, 0)),
        reverse.at[:n, :k].set(s.reverse),
        pad(s.is_edge, (0, atoms), (0, places)),
        s.charge,
    )


WATER = np.array([[0.0, 0.0, 0.12], [0.0, 0.76, -0.48], [0.0, -0.76, -0.48]])
CHARGES = molecules.species_charges({8: -0.8, 1: 0.4})


def water(**options):
    return structure(WATER, [8, 1, 1], **options)


def disturbed_salt(seed=0):
    """Two formula units of rock salt in a cell without symmetry."""
    random = np.random.default_rng(seed)
    cell = 3.0 * np.array([[1.0, 1.0, 0.0], [1.0, -1.0, 0.1], [0.05, 0.0, 1.9]])
    places = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0.0, 0.5, 0.5]])
    return (places + 0.03 * random.standard_normal((4, 3))) @ cell, [11, 17, 11, 17], cell


IONS = molecules.species_charges({11: 1.0, 17: -1.0})


class WaterNetwork(eqx.Module):
    """Features of atoms: how many neighbours of each species, smoothly."""

    def __call__(self, s):
        near = molecules.polynomial_cutoff(molecules.edges(s).distances, 4.0)
        z = molecules.to_neighbours(s, s.species.astype(near.dtype))
        return jnp.stack([jnp.sum(near, axis=1), jnp.sum(near * z, axis=1), s.species.astype(near.dtype)], axis=1)


def charge_head():
    return molecules.ChargeHead(WaterNetwork(), eqx.nn.MLP(3, 1, 8, 2, jnp.tanh, key=jax.random.key(0)))


TERMS = {
    "reference": lambda: (molecules.reference_energies({1: -13.6, 8: -2040.0}), water()),
    "repulsion": lambda: (molecules.ScreenedRepulsion(), water()),
    "repulsion_to_cutoff": lambda: (molecules.ScreenedRepulsion(2.0), water()),
    "coulomb": lambda: (molecules.Coulomb(CHARGES), water()),
    "coulomb_smeared": lambda: (molecules.Coulomb(charge_head(), width=0.4), water(charge=1.0)),
    "ewald": lambda: ewald_of_salt(),
    "total": lambda: (molecules.total(molecules.ScreenedRepulsion(), molecules.Coulomb(charge_head())), water()),
    "field": lambda: (
        molecules.uniform_field([0.1, -0.2, 0.3], lambda s: molecules.dipole(s, CHARGES(s)), lambda s: jnp.eye(3)),
        water(),
    ),
}


def ewald_of_salt():
    positions, species, cell = disturbed_salt()
    return molecules.ewald(IONS, cell, 6.0, 1e-8), structure(positions, species, 6.0, cell)


@pytest.fixture(params=TERMS)
def term(request):
    return TERMS[request.param]()


def forces(model, s):
    return jax.jit(jax.grad(lambda p: -model(eqx.tree_at(lambda s: s.positions, s, p))))(s.positions)


def test_forces_are_finite_differences_of_the_energy(term):
    model, s = term
    energy = jax.jit(lambda p: model(eqx.tree_at(lambda s: s.positions, s, p)))
    found, step = forces(model, s), 1e-4
    for atom, axis in ((0, 2), (1, 1), (2, 0)):
        up, down = (energy(s.positions.at[atom, axis].add(d)) for d in (step, -step))
        scale = max(1.0, abs(float(found[atom, axis])))
        assert abs(-(up - down) / (2 * step) - found[atom, axis]) < 1e-5 * scale


def test_padding_is_invisible(term):
    model, s = term
    more = padded(s)
    assert float(model(more)) == pytest.approx(float(model(s)), rel=1e-13, abs=1e-13)
    found = forces(model, more)
    np.testing.assert_allclose(found[: len(s.species)], forces(model, s), rtol=1e-11, atol=1e-11)
    assert not np.any(found[len(s.species) :])


def test_gradients_of_padding_are_finite_in_every_leaf(term):
    """Of the structure's own arrays too: a NaN there would spread through a batch."""
    model, s = term
    gradient = eqx.filter_grad(lambda s: model(s))(padded(s))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_a_batch_gives_what_each_structure_gives(term):
    model, s = term
    moved = eqx.tree_at(lambda s: s.positions, s, s.positions.at[0, 0].add(0.05))
    batch = jax.tree.map(jnp.asarray, molecules.stack([s, moved]))
    expected = [float(model(s)), float(model(moved))]
    np.testing.assert_allclose(jax.jit(jax.vmap(model))(batch), expected, rtol=1e-12, atol=1e-13)


def test_energies_turn_and_move_with_the_molecule(term):
    model, s = term
    if isinstance(model, molecules.UniformField):
        pytest.skip("a field has a direction")
    turn = Rotation.from_rotvec([0.3, -1.1, 0.7]).as_matrix()
    for matrix in (turn, -turn):
        other = eqx.tree_at(lambda s: (s.positions, s.cell), s, (s.positions @ matrix.T + 3.0, s.cell @ matrix.T))
        assert float(model(other)) == pytest.approx(float(model(s)), rel=1e-10, abs=1e-13)


# Sums, and what a sum is made of.


def test_the_energy_of_a_total_is_the_sum():
    parts = molecules.ScreenedRepulsion(2.0), molecules.Coulomb(CHARGES), lambda s: jnp.sum(s.positions**2)
    s = water()
    assert float(molecules.total(*parts)(s)) == pytest.approx(sum(float(p(s)) for p in parts), rel=1e-14)


def test_a_total_needs_functions():
    with pytest.raises(ValueError, match="at least one"):
        molecules.total()
    with pytest.raises(TypeError, match="float as number 1"):
        molecules.total(CHARGES, 2.0)


# Reference energies.


def test_least_squares_find_the_energies_of_atoms():
    random = np.random.default_rng(0)
    table, true = random.integers(0, 9, (30, 3)), np.array([-13.6, -1030.0, -2040.0])
    energies = table @ true
    energies[3] = np.nan
    found = molecules.fitted_reference_energies([1, 6, 8], table, energies)
    assert found.species == (1, 6, 8)
    np.testing.assert_allclose(found.energies, true, rtol=1e-10)


def test_of_one_composition_the_sum_is_right_and_no_energy_is_extreme():
    table, energies = np.tile([6, 2, 1], (5, 1)), np.array([-4200.0, -4201.0, -4199.0, -4200.5, -4199.5])
    found = molecules.fitted_reference_energies([1, 6, 8], table, energies)
    assert float(np.dot([6, 2, 1], found.energies)) == pytest.approx(-4200.0, rel=1e-12)
    np.testing.assert_allclose(found.energies, -4200.0 / 9, rtol=1e-12)


def test_reference_energies_are_trained_where_asked():
    frozen = molecules.reference_energies({1: -13.0, 8: -2000.0})
    free = frozen.trainable()
    assert not jax.tree.leaves(eqx.filter(frozen, eqx.is_inexact_array))
    gradient = eqx.filter_grad(lambda m: m(water()))(free)
    np.testing.assert_array_equal(gradient.energies, [2.0, 1.0])
    assert free.frozen().energies == frozen.energies and float(free(water())) == -2026.0


def test_reference_energies_of_unknown_species():
    model = molecules.reference_energies({1: -13.0})
    with pytest.raises(ValueError, match=r"knows the species \[1\] only"):
        model(water())
    assert np.isnan(jax.jit(lambda s: model(s))(water()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 8], np.ones((3, 1)), np.ones(3)), r"\(m, s\)"),
        (([1], np.ones((3, 1)), np.ones(2)), r"\(m, s\)"),
        (([1], np.ones((2, 1)), np.full(2, np.nan)), "no energy is known"),
        (([0], np.ones((2, 1)), np.ones(2)), "by atomic number"),
    ],
)
def test_reference_energies_from_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        molecules.fitted_reference_energies(*arguments)


@pytest.mark.parametrize("energies", [{}, {0: 1.0}, {119: 1.0}, {1: np.nan}])
def test_tables_by_species_are_checked(energies):
    with pytest.raises(ValueError, match="by atomic number|not finite"):
        molecules.reference_energies(energies)


# Repulsion.


@pytest.mark.parametrize(
    ("z", "r", "expected"),
    # By hand: a = 0.46850 / (2 Z^0.23); for H at 0.23425 angstroms, x = 1: phi = 0.18175 e^-3.1998 + 0.50986 e^-0.94229
    # + 0.28022 e^-0.4029 + 0.02817 e^-0.20162 = 0.007409 + 0.198709 + 0.187292 + 0.023026 = 0.416436; times 61.47128.
    [(1, 0.23425, 25.5989)],
)
def test_repulsion_is_what_the_formula_gives_by_hand(z, r, expected):
    s = structure([[0, 0, 0], [0, 0, r]], [z, z], 90.0)
    # At a long cutoff the polynomial is 1 to rounding.
    assert float(molecules.ScreenedRepulsion(80.0)(s)) == pytest.approx(expected, rel=1e-5)


def test_near_nuclei_are_bare_charges():
    s = structure([[0, 0, 0], [0, 0, 0.101]], [2, 3], 90.0)
    close = eqx.tree_at(lambda s: s.positions, s, s.positions * 1e-4)
    assert float(molecules.ScreenedRepulsion(80.0)(close)) == pytest.approx(6 * K / 1.01e-5, rel=1e-3)


def test_repulsion_ends_smoothly_where_bonds_begin():
    model, s = molecules.ScreenedRepulsion(), structure([[0, 0, 0], [0, 0, 0.5]], [6, 8], 4.0)
    energy = lambda r: model(eqx.tree_at(lambda s: s.positions, s, s.positions.at[1, 2].set(r)))  # noqa: E731
    end = 0.76 + 0.66  # Cordero et al., Dalton Trans. 2832, 2008, in angstroms
    assert float(energy(end + 1e-9)) == 0 and float(energy(end - 0.1)) > 0
    slope, curvature = jax.grad(energy), jax.grad(jax.grad(energy))
    assert abs(float(slope(end - 1e-5))) < 1e-5 and abs(float(curvature(end - 1e-5))) < 0.1


@pytest.mark.parametrize("cutoff", [0.0, -1.0, np.nan, np.inf])
def test_repulsion_needs_a_cutoff_that_is_one(cutoff):
    with pytest.raises(ValueError, match="positive cutoff"):
        molecules.ScreenedRepulsion(cutoff)


# Charges.


def test_charges_sum_to_that_of_the_structure():
    for charge in (0.0, 1.0, -2.0):
        s = padded(water(charge=charge))
        q = charge_head()(s)
        assert float(jnp.sum(q)) == pytest.approx(charge, abs=1e-12) and not np.any(q[3:])
    raw = jnp.array([1.0, 0.0, 0.0])
    weights = jnp.array([1.0, 2.0, 1.0])
    np.testing.assert_allclose(molecules.conserved(water(), raw, weights), [0.75, -0.5, -0.25])


def test_charges_of_unknown_species():
    with pytest.raises(ValueError, match="charges: knows the species"):
        IONS(water())


def test_coulomb_is_the_sum_over_pairs_beyond_the_cutoff():
    far = np.concatenate([WATER, WATER + [40.0, 0, 0]])
    s = structure(far, [8, 1, 1] * 2, 2.0)
    q = np.array([-0.8, 0.4, 0.4] * 2)
    r = np.linalg.norm(far[:, None] - far, axis=-1)
    for width, factor in ((0.0, lambda r: 1.0), (0.5, lambda r: erf(r / 1.0))):
        expected = sum(K * q[i] * q[j] * factor(r[i, j]) / r[i, j] for i in range(6) for j in range(i))
        assert float(molecules.Coulomb(CHARGES, width)(s)) == pytest.approx(expected, rel=1e-12)


def test_coulomb_is_of_molecules():
    positions, species, cell = disturbed_salt()
    s = structure(positions, species, 4.0, cell)
    with pytest.raises(ValueError, match="periodic"):
        molecules.Coulomb(IONS)(s)
    assert np.isnan(jax.jit(molecules.Coulomb(IONS))(s))
    with pytest.raises(ValueError, match="width"):
        molecules.Coulomb(IONS, -1.0)


CUBE = np.eye(3)
FACES = np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]) / 2
# Cell, the place of the second ion, nearest distance in cell lengths, and the Madelung constant of that distance.
LATTICES = {
    "NaCl": (FACES, [0.5, 0.5, 0.5], 0.5, 1.747564594633182),
    "CsCl": (CUBE, [0.5, 0.5, 0.5], np.sqrt(3) / 2, 1.762674773070988),
    "ZnS": (FACES, [0.25, 0.25, 0.25], np.sqrt(3) / 4, 1.638055053388789),
}


@pytest.mark.parametrize("lattice", LATTICES)
@pytest.mark.parametrize("cutoff", [5.0, 9.0])
def test_madelung_constants_whatever_the_splitting(lattice, cutoff):
    cell, place, nearest, madelung = LATTICES[lattice]
    length = 5.0
    s = structure(np.array([[0, 0, 0], place]) * length, [11, 17], cutoff, cell * length)
    energy = float(molecules.ewald(IONS, cell * length, cutoff, 1e-12)(s))
    assert energy == pytest.approx(-madelung * K / (nearest * length), rel=1e-10)


def test_the_accuracy_of_ewald_is_that_asked():
    positions, species, cell = disturbed_salt()
    exact = None
    for accuracy in (1e-12, 1e-6, 1e-4):
        model = molecules.ewald(IONS, cell, 6.0, accuracy)
        energy = float(model(structure(positions, species, 6.0, cell)))
        exact = energy if exact is None else exact
        assert abs(energy - exact) < 10 * accuracy * abs(exact)


def test_stress_of_ewald_is_a_finite_difference_and_its_trace_the_energy():
    model, s = ewald_of_salt()
    energy = jax.jit(lambda e: model(strained(s, e)))
    found, step = jax.grad(energy)(jnp.zeros((3, 3))), 1e-4
    for a, b in ((0, 0), (1, 2), (0, 2)):
        e = jnp.zeros((3, 3)).at[a, b].add(step / 2).at[b, a].add(step / 2)
        assert abs((energy(e) - energy(-e)) / (2 * step) - found[a, b]) < 1e-5
    # The energy is homogeneous of degree -1 in lengths.
    assert float(jnp.trace(found)) == pytest.approx(-float(model(s)), rel=1e-6)


def test_a_charged_cell_has_the_energy_of_a_wigner_crystal():
    """One electron in a uniform background: -k 2.837297479 / (2 L) in a simple cubic cell (Makov & Payne, PRB 51, 4014,
    1995).
    """
    cell, one = 4.0 * CUBE, molecules.species_charges({11: 1.0})
    s = structure([[0.3, 0.2, 0.1]], [11], 7.0, cell, charge=1.0)
    energy = float(molecules.ewald(one, cell, 7.0, 1e-12, background=True)(s))
    assert energy == pytest.approx(-2.837297479480 * K / (2 * 4.0), rel=1e-9)
    without = molecules.ewald(one, cell, 7.0, 1e-12)
    with pytest.raises(ValueError, match="do not sum to 0"):
        without(s)
    assert np.isnan(jax.jit(lambda s: without(s))(s))


def test_ewald_needs_a_cell():
    with pytest.raises(ValueError, match="no volume"):
        molecules.ewald(IONS, np.zeros((3, 3)), 5.0)
    model, _ = ewald_of_salt()
    with pytest.raises(ValueError, match="not periodic"):
        model(structure([[0, 0, 0], [0, 0, 2.5]], [11, 17], 6.0))
    for options in ({"cutoff": -1.0}, {"cutoff": 5.0, "accuracy": 0.0}, {"cutoff": np.nan}):
        with pytest.raises(ValueError, match="cutoff > 0"):
            molecules.ewald(IONS, CUBE * 5, **options)


# Properties.


def test_a_neutral_dipole_is_the_same_everywhere_and_turns():
    s = water()
    mu = lambda s: molecules.dipole(s, charge_head()(s), jnp.ones((len(s.species), 3)) * 0.1)  # noqa: E731
    moved = eqx.tree_at(lambda s: s.positions, s, s.positions + 100.0)
    np.testing.assert_allclose(mu(moved), mu(s), atol=1e-10)
    np.testing.assert_allclose(mu(padded(s)), mu(s), atol=1e-14)
    np.testing.assert_allclose(molecules.dipole(s, CHARGES(s)), [0, 0, -0.8 * 0.12 - 2 * 0.4 * 0.48], atol=1e-14)


def test_polarisabilities_are_symmetric_and_turn_with_the_vectors():
    random, s = np.random.default_rng(0), water()
    a, left, right = (jnp.asarray(random.standard_normal(shape)) for shape in ((3,), (3, 2, 3), (3, 2, 3)))
    turn = Rotation.from_rotvec([0.3, -1.1, 0.7]).as_matrix()
    alpha = molecules.polarisability(s, a, left, right)
    np.testing.assert_allclose(alpha, alpha.T)
    np.testing.assert_allclose(
        molecules.polarisability(s, a, left @ turn.T, right @ turn.T), turn @ alpha @ turn.T, atol=1e-12
    )
    np.testing.assert_allclose(molecules.polarisability(s, a), float(a.sum()) * np.eye(3))
    with pytest.raises(ValueError, match="both left and right"):
        molecules.polarisability(s, a, left)


def test_derivatives_by_the_field_are_the_dipole_and_the_polarisability():
    random = np.random.default_rng(1)
    mu, b = jnp.asarray(random.standard_normal(3)), random.standard_normal((3, 3))
    alpha, field = jnp.asarray(b + b.T), jnp.asarray([0.1, -0.2, 0.3])
    np.testing.assert_allclose(-jax.grad(molecules.field_energy)(field, mu, alpha), mu + alpha @ field, rtol=1e-12)
    np.testing.assert_allclose(-jax.hessian(molecules.field_energy)(field, mu, alpha), alpha, rtol=1e-12)


def test_a_field_pulls_charges():
    model = molecules.uniform_field([0.0, 0.0, 2.0], lambda s: molecules.dipole(s, CHARGES(s)))
    np.testing.assert_allclose(forces(model, water()), np.outer([-0.8, 0.4, 0.4], [0, 0, 2.0]), atol=1e-12)


@pytest.mark.parametrize("field", [[1.0, 0.0], [np.nan, 0, 0], 1.0])
def test_a_field_has_three_components(field):
    with pytest.raises(ValueError, match="three finite numbers"):
        molecules.uniform_field(field, lambda s: jnp.zeros(3))
