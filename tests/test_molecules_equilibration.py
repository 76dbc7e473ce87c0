"""Charge equilibration against dense sums and solutions by NumPy, finite differences, and what it conserves."""

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
# Rappe & Goddard, J. Phys. Chem. 95, 3358, 1991, table I, in eV.
CHI = {1: 4.528, 6: 5.343, 8: 8.741}
HARDNESS = {1: 13.8904, 6: 10.126, 8: 13.364}
WATER = np.array([[0.0, 0.0, 0.12], [0.0, 0.76, -0.48], [0.0, -0.76, -0.48]])
WATERS = np.concatenate([WATER, [[2.9, 0.3, 0.2], [3.3, 1.1, 0.5], [3.4, -0.5, 0.0]]])
SPECIES = np.array([8, 1, 1, 8, 1, 1])
CELL = np.array([[5.6, 0.2, 0.0], [0.1, 5.2, 0.3], [-0.4, 0.0, 5.9]])
CUTOFF = 7.0


@pytest.fixture(autouse=True, scope="module")
def double():
    with sciml.double_precision():
        yield


def structure(cell=None, charge=0.0, atoms=0, places=0):
    """Two molecules of water, padded by so many."""
    found = neighbour_list(WATERS, CUTOFF, cell, (cell is not None,) * 3)
    n, k = found.neighbours.shape
    neighbours = np.repeat(np.arange(n + atoms)[:, None], k + places, axis=1)
    reverse = np.repeat(np.arange(k + places)[None], n + atoms, axis=0)
    neighbours[:n, :k], reverse[:n, :k] = found.neighbours, found.reverse
    arrays = (
        np.pad(WATERS, ((0, atoms), (0, 0))),
        np.pad(SPECIES, (0, atoms)).astype(np.int32),
        np.zeros((3, 3)) if cell is None else cell,
        neighbours.astype(np.int32),
        np.pad(found.shifts, ((0, atoms), (0, places), (0, 0))),
        reverse.astype(np.int32),
        np.pad(found.is_edge, ((0, atoms), (0, places))),
        np.float64(charge),
    )
    return Structure(*map(jnp.asarray, arrays))


def model(cell=None, **options):
    near = {} if cell is None else {"cell": cell, "cutoff": CUTOFF, "accuracy": 1e-8}
    return molecules.charge_equilibration(CHI, HARDNESS, **near | options)


WIDTHS = {1: 0.65, 8: 0.7}
# The cell, the charge, and the widths of Gaussians where they do not follow from the hardness.
CASES = {
    "molecule": (None, 0.0, None),
    "ion": (None, 1.0, None),
    "widths": (None, 0.0, WIDTHS),
    "crystal": (CELL, 0.0, None),
    "crystal with a charge": (CELL, -1.0, WIDTHS),
}


@pytest.fixture(params=CASES)
def case(request):
    cell, charge, widths = CASES[request.param]
    return cell, model(cell, width=widths), charge, widths


def dense(cell, charge, widths):
    """Charges and energy by NumPy; of a crystal by waves alone, without Ewald's splitting."""
    chi, hardness = (np.array([t[z] for z in SPECIES]) for t in (CHI, HARDNESS))
    width = K / np.sqrt(np.pi) / hardness if widths is None else np.array([widths[z] for z in SPECIES])
    apart = WATERS[:, None] - WATERS
    squares = width[:, None] ** 2 + width**2
    if cell is None:
        r = np.linalg.norm(apart, axis=-1) + np.eye(6)
        matrix = K * erf(r / np.sqrt(2 * squares)) / r
        np.fill_diagonal(matrix, hardness)
    else:
        grid = np.stack(np.meshgrid(*[np.arange(-14, 15)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
        k = 2 * np.pi * grid[np.any(grid != 0, axis=1)] @ np.linalg.inv(cell).T
        power = (k**2).sum(1)
        waves = np.cos(apart @ k.T) * np.exp(-0.5 * squares[..., None] * power) / power
        matrix = 4 * np.pi * K / abs(np.linalg.det(cell)) * waves.sum(-1)
        matrix += np.diag(hardness - K / np.sqrt(np.pi) / width)
    bordered = np.block([[matrix, np.ones((6, 1))], [np.ones((1, 6)), np.zeros((1, 1))]])
    q = np.linalg.solve(bordered, np.append(-chi, charge))[:6]
    return q, chi @ q + 0.5 * q @ matrix @ q


def test_charges_and_energy_are_those_of_a_dense_solution(case):
    cell, qeq, charge, widths = case
    s = structure(cell, charge)
    q, energy = dense(cell, charge, widths)
    np.testing.assert_allclose(eqx.filter_jit(lambda s: qeq.charges(s))(s), q, atol=2e-8)
    assert float(eqx.filter_jit(qeq)(s)) == pytest.approx(energy, rel=1e-8)
    # Oxygen takes what hydrogen gives.
    assert (q[[0, 3]] < q.min(where=SPECIES == 1, initial=np.inf)).all()


def test_the_total_charge_is_conserved_and_padding_invisible(case):
    cell, qeq, charge, _ = case
    charges, energy = (
        eqx.filter_jit(lambda s: qeq.charges(s)),
        eqx.filter_jit(eqx.filter_value_and_grad(lambda s: qeq(s))),
    )
    s, more = structure(cell, charge), structure(cell, charge, atoms=2, places=3)
    q = charges(more)
    assert float(jnp.sum(q)) == pytest.approx(charge, abs=1e-13) and not np.any(q[6:])
    np.testing.assert_allclose(q[:6], charges(s), atol=1e-13)
    (one, slope), (other, padded) = energy(s), energy(more)
    assert float(other) == pytest.approx(float(one), rel=1e-13)
    np.testing.assert_allclose(padded.positions[:6], slope.positions, atol=1e-12)
    assert not np.any(padded.positions[6:])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(padded))


def test_forces_and_stress_are_finite_differences(case):
    cell, qeq, charge, _ = case
    s, step = structure(cell, charge), 1e-4
    found = molecules.energy_forces_stress(qeq, s)
    energy = jax.jit(lambda r: qeq(eqx.tree_at(lambda s: s.positions, s, r)))
    for atom, axis in ((0, 2), (1, 1), (5, 0)):
        up, down = (energy(s.positions.at[atom, axis].add(d)) for d in (step, -step))
        assert float(found.forces[atom, axis]) == pytest.approx(-float(up - down) / (2 * step), abs=2e-6)
    if cell is not None:
        of_strain = jax.jit(lambda e: qeq(strained(s, e)))
        e = jnp.zeros((3, 3)).at[0, 1].set(step / 2).at[1, 0].set(step / 2)
        slope = float(of_strain(e) - of_strain(-e)) / (2 * step)
        assert float(found.stress[0, 1] * abs(np.linalg.det(cell))) == pytest.approx(slope, abs=2e-6)


def test_charge_flows_between_molecules():
    qeq, s = model(), structure()
    of_one = lambda r: jnp.sum(qeq.charges(eqx.tree_at(lambda s: s.positions, s, r))[:3])  # noqa: E731
    assert abs(np.asarray(jax.jit(jax.grad(of_one))(s.positions))).max() > 1e-3


def test_far_atoms_have_charges_by_their_hardness():
    """q = (chi' - chi) / (J + J' - 2 e^2 / (4 pi eps_0 r))."""
    far = molecules.frames(np.array([[[0, 0, 0], [0, 0, 4e4]]]), [1, 8])
    expected = (CHI[8] - CHI[1]) / (HARDNESS[1] + HARDNESS[8] - 2 * 14.3996 / 4e4)
    np.testing.assert_allclose(model().charges(molecules.structure(far, CUTOFF)), [expected, -expected], rtol=1e-7)


def test_the_energy_turns_and_moves_with_the_atoms(case):
    cell, qeq, charge, _ = case
    s, turn = structure(cell, charge), -Rotation.from_rotvec([0.3, -1.1, 0.7]).as_matrix()
    other = eqx.tree_at(lambda s: (s.positions, s.cell), s, (s.positions @ turn.T + 3.0, s.cell @ turn.T))
    energy = eqx.filter_jit(qeq)
    assert float(energy(other)) == pytest.approx(float(energy(s)), rel=1e-10)


def test_functions_are_learned_and_terms_add():
    """Parameters of the electronegativity have gradients through the charges, and a batch is what each gives."""
    network = eqx.nn.MLP(1, "scalar", 4, 1, jnp.tanh, key=jax.random.key(0))
    learned = lambda s: jax.vmap(network)(s.species[:, None] / 8.0)  # noqa: E731
    s = structure(atoms=1)

    def charge_of_oxygen(bias):
        return molecules.charge_equilibration(lambda s: learned(s) + bias * s.species, HARDNESS).charges(s)[0]

    slope, step = float(jax.grad(charge_of_oxygen)(0.1)), 1e-5
    difference = float(charge_of_oxygen(0.1 + step) - charge_of_oxygen(0.1 - step)) / (2 * step)
    assert slope == pytest.approx(difference, rel=1e-7) and abs(slope) > 1e-2
    qeq, repulsion = model(), molecules.ScreenedRepulsion()
    both = jax.tree.map(lambda a: jnp.stack([a, a]), s)
    expected = float(qeq(s) + repulsion(s))
    np.testing.assert_allclose(jax.jit(jax.vmap(molecules.total(qeq, repulsion)))(both), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("make", "s", "message"),
    [
        (lambda: model(), lambda: structure(CELL), "periodic"),
        (lambda: model(CELL), lambda: structure(), "not periodic"),
        (lambda: model(width={1: 0.3, 8: 0.7}), lambda: structure(), "Gaussians wider"),
        (lambda: model(CELL, cutoff=3.0), lambda: structure(CELL), "larger cutoff"),
        (lambda: molecules.charge_equilibration({1: 4.5}, HARDNESS), lambda: structure(), "electronegativity knows"),
    ],
)
def test_what_has_no_solution_raises_and_is_nan_inside_jit(make, s, message):
    qeq, given = make(), s()
    with pytest.raises(ValueError, match=message):
        qeq(given)
    assert np.isnan(eqx.filter_jit(qeq)(given))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cell": CELL, "cutoff": None}, "both a cell and a cutoff"),
        ({"cutoff": 5.0}, "both a cell and a cutoff"),
        ({"cell": CELL, "cutoff": -1.0}, "cutoff > 0"),
        ({"cell": np.zeros((3, 3)), "cutoff": 5.0}, "no volume"),
        ({"width": {1: 0.0, 8: 0.6}}, "positive width"),
        ({"width": {}}, "by atomic number"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        molecules.charge_equilibration(CHI, HARDNESS, **options)


def test_hardnesses_are_positive():
    with pytest.raises(ValueError, match="positive hardness"):
        molecules.charge_equilibration(CHI, {1: -1.0, 8: 2.0})
