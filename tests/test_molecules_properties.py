"""Properties of molecules: graphs with bonds, readouts, vectors, and models of k folds trained at once."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sciml
from sciml import molecules

SPECIES = (1, 6, 8)


@pytest.fixture(autouse=True)
def double():
    with sciml.double_precision():
        yield


def chain(elements, rng):
    """The positions, elements and bonds of an unbranched chain that is folded at random."""
    n = len(elements)
    positions = np.cumsum(rng.normal(0.6, 0.3, (n, 3)), axis=0)
    return (
        positions,
        np.array(elements),
        np.stack([np.arange(n - 1), np.arange(1, n)], 1),
        1.0 + rng.integers(0, 2, n - 1),
    )


def batch_of(chains, **options):
    positions, species, ends, orders = (np.concatenate(a) for a in zip(*chains))
    data = molecules.frames(positions, species, counts=[len(c[1]) for c in chains])
    return molecules.graphs(data, ends, [len(c[2]) for c in chains], orders, features=species[:, None] / 10, **options)


def one(batch, number=0):
    return jax.tree.map(lambda a: a[number], batch)


def chains(sizes=(4, 6, 3), seed=0):
    rng = np.random.default_rng(seed)
    return [chain(rng.choice(SPECIES, n), rng) for n in sizes]


def network(cutoff=None, vector=False, outputs=2, readout=molecules.summed, seed=0):
    keys = jax.random.split(jax.random.key(seed))
    body = molecules.BondNetwork(SPECIES, cutoff, features=1, width=8, layers=2, radial=6, key=keys[0])
    return molecules.Property(body, 8, outputs, readout=readout, vector=vector, key=keys[1])


def attention():
    return molecules.Attention(8, key=jax.random.key(5))


READOUTS = {"summed": lambda: molecules.summed, "averaged": lambda: molecules.averaged, "attention": attention}


def test_graphs_hold_bonds_and_orders():
    batch = batch_of([(np.zeros((3, 3)), np.array([8, 1, 1]), np.array([[0, 1], [2, 0]]), np.array([1.0, 2.0]))])
    graph = one(batch)
    table = np.zeros((3, 3))
    for i, k in zip(*np.nonzero(np.asarray(graph.structure.is_edge))):
        table[i, graph.structure.neighbours[i, k]] = graph.orders[i, k]
    np.testing.assert_array_equal(table, [[0, 1, 2], [1, 0, 0], [2, 0, 0]])
    np.testing.assert_allclose(graph.features[:, 0], [0.8, 0.1, 0.1])


def test_near_atoms_are_neighbours_within_a_cutoff():
    """Bonds longer than the cutoff stay."""
    line = (np.arange(4.0)[:, None] * [1, 0, 0], np.array([6, 6, 6, 6]), np.array([[0, 3]]), np.array([2.0]))
    graph = one(batch_of([line], cutoff=1.5))
    inside = np.asarray(graph.structure.is_edge)
    found = {(i, int(graph.structure.neighbours[i, k])) for i, k in zip(*np.nonzero(inside))}
    assert found == {(0, 1), (1, 0), (1, 2), (2, 1), (2, 3), (3, 2), (0, 3), (3, 0)}
    assert np.asarray(graph.orders)[inside].sum() == 4


def test_messages_are_those_of_the_paper():
    """Against loops over directed bonds, as the equations are written."""
    molecule = chains((5,))[0]
    graph = one(batch_of([molecule]))
    body = network().body
    z, bonds, orders = molecule[1], molecule[2].tolist(), molecule[3]
    order = {(a, b): o for (a, b), o in zip(bonds, orders)} | {(b, a): o for (a, b), o in zip(bonds, orders)}
    x = np.concatenate([np.eye(3)[np.searchsorted(SPECIES, z)], z[:, None] / 10], 1)

    def silu(v):
        return v / (1 + np.exp(-v))

    def basis(o):
        return np.exp(-0.5 * ((o - np.linspace(0, 3, 13)) / 0.25) ** 2)

    def linear(layer, v):
        return v @ np.asarray(layer.weight) + np.asarray(layer.bias)

    start = {e: linear(body.first, np.concatenate([x[e[0]], basis(o)])) for e, o in order.items()}
    h = {e: silu(v) for e, v in start.items()}
    for _ in range(2):
        into = {(v, w): sum((h[e] for e in order if e[1] == v and e[0] != w), np.zeros(8)) for v, w in order}
        h = {e: silu(start[e] + linear(body.step, into[e])) for e in order}
    sums = [sum((h[e] for e in order if e[1] == v), np.zeros(8)) for v in range(len(z))]
    expected = silu(linear(body.last, np.concatenate([x, np.stack(sums)], 1)))
    np.testing.assert_allclose(body.features(graph)[0], expected, atol=1e-12)


@pytest.mark.parametrize(("readout", "cutoff"), [("summed", None), *((name, 3.0) for name in READOUTS)])
def test_order_and_padding_of_atoms_do_not_matter(cutoff, readout):
    model = network(cutoff, readout=READOUTS[readout]())
    positions, species, ends, orders = chains((6,))[0]
    alone = model(one(batch_of([(positions, species, ends, orders)], cutoff=cutoff)))
    order = np.random.default_rng(1).permutation(6)
    place = np.argsort(order)
    turned = np.random.default_rng(2).permutation(5)
    shuffled = positions[order], species[order], place[ends][turned][:, ::-1], orders[turned]
    large = chain([6] * 9, np.random.default_rng(3))
    for molecule in ((positions, species, ends, orders), shuffled):
        np.testing.assert_allclose(model(one(batch_of([molecule, large], cutoff=cutoff))), alone, atol=1e-12)
    assert np.abs(alone - model(one(batch_of([(positions, species, ends, 3 - orders)], cutoff=cutoff)))).max() > 1e-4


@pytest.mark.parametrize("readout", READOUTS)
def test_two_molecules_far_apart(readout):
    """Sums add up; means of two of the same are those of one."""
    model = network(3.0, readout=READOUTS[readout]())
    positions, species, ends, orders = chains((5,))[0]
    twice = np.concatenate([positions, positions + 50]), np.tile(species, 2), np.concatenate([ends, ends + 5])
    single, double = (
        model(one(batch_of([c], cutoff=3.0)))
        for c in ((positions, species, ends, orders), (*twice, np.tile(orders, 2)))
    )
    np.testing.assert_allclose(double, (2 if readout == "summed" else 1) * single, atol=1e-12)


def test_vectors_turn_with_the_molecule():
    model = network(3.0, vector=True)
    positions, species, ends, orders = chains((6,))[0]
    rotation, _ = np.linalg.qr(np.random.default_rng(4).normal(size=(3, 3)))
    before = model(one(batch_of([(positions, species, ends, orders)], cutoff=3.0)))
    after = model(one(batch_of([(positions @ rotation + 7, species, ends, orders)], cutoff=3.0)))
    assert before.shape == (2, 3) and np.abs(before).max() > 1e-3
    np.testing.assert_allclose(after, before @ rotation, atol=1e-10)


def test_vectors_need_the_geometry():
    with pytest.raises(ValueError, match="vectors need the geometry: give the body a cutoff"):
        network(vector=True)(one(batch_of(chains())))


def test_features_of_a_potential_give_properties():
    keys = jax.random.split(jax.random.key(0))
    model = molecules.Property(molecules.PaiNN(SPECIES, 3.0, width=8, layers=1, key=keys[0]), 8, 3, key=keys[1])
    positions, species, _, _ = chains((5,))[0]
    found = molecules.structures(molecules.frames(positions[None], species), 3.0)
    assert model(one(found)).shape == (3,)


def test_folds_are_of_one_size_and_differ_by_seed():
    fold = molecules.fold_numbers(23, 5, seed=1)
    assert sorted(np.bincount(fold).tolist()) == [4, 4, 5, 5, 5]
    assert not np.array_equal(fold, molecules.fold_numbers(23, 5, seed=2))
    np.testing.assert_array_equal(fold, molecules.fold_numbers(23, 5, seed=1))


def test_strata_are_shared_out():
    """Of 50 sorted numbers each fold has one of every five; of labels their share."""
    strata = np.random.default_rng(0).normal(size=50)
    fold = molecules.fold_numbers(50, 5, strata=strata)
    for group in fold[np.argsort(strata)].reshape(10, 5):
        assert set(group.tolist()) == set(range(5))
    labels = np.array(["acid"] * 10 + ["base"] * 40)
    fold = molecules.fold_numbers(50, 5, strata=labels)
    np.testing.assert_array_equal(np.bincount(fold[labels == "acid"]), [2] * 5)


@pytest.mark.parametrize("k", [0, 1, 4])
def test_empty_folds_are_refused(k):
    with pytest.raises(ValueError, match=f"3 samples give from 2 to 3 folds that are not empty, got k={k}"):
        molecules.fold_numbers(3, k)


def test_strata_of_another_length_or_nan_are_refused():
    with pytest.raises(ValueError, match=r"expected strata of shape \(4,\), got \(3,\)"):
        molecules.fold_numbers(4, 2, strata=[1, 2, 3])
    with pytest.raises(ValueError, match="strata hold numbers that are not finite"):
        molecules.fold_numbers(3, 2, strata=[1.0, np.nan, 2.0])


def folded(k, seed=0):
    return molecules.in_folds(lambda key: network(outputs=1, seed=seed), k, key=jax.random.key(0))


def test_the_models_of_folds_learn_a_sum_that_none_of_them_saw():
    """Bonds by order and carbon atoms have energies that add up; 60 molecules are enough to find them."""
    rng = np.random.default_rng(0)
    made = [chain(rng.choice(SPECIES, n), rng) for n in rng.integers(3, 7, 60)]
    batch = batch_of(made)
    targets = np.array([[-1.5 * c[3].sum() + 0.7 * (c[1] == 6).sum()] for c in made])
    targets = targets - targets.mean()
    fold = molecules.fold_numbers(60, 3)
    loss = molecules.fold_loss(molecules.property_misfit())
    fitted, _ = sciml.fit(folded(3), loss, [((batch, targets), fold)], optax.adam(0.02), steps=400, report=None)
    error = np.abs(molecules.held_out(fitted, batch, fold) - targets).mean()
    assert error < 0.15 * np.abs(targets).mean()
    np.testing.assert_array_equal(fitted.members.fold, [0, 1, 2])


def test_a_fold_learns_nothing_of_its_own_samples():
    """Neither the loss nor its gradient changes with the targets of a model's own fold, or with those that are NaN."""
    batch, fold = batch_of(chains((3, 3, 3, 3))), np.array([0, 1, 0, 1])
    model, loss = folded(2), molecules.fold_loss(molecules.property_misfit())

    @eqx.filter_jit
    @eqx.filter_grad
    def slope(model, targets):
        return jnp.mean(loss(model, ((batch, targets), fold))["property"] ** 2)

    first, second = (slope(model, jnp.array(t)[:, None]).members.model.head for t in ([1.0, 2, 3, 4], [1.0, 5, 3, 6]))
    np.testing.assert_array_equal(first.second.bias[1], second.second.bias[1])
    assert abs(first.second.bias[0] - second.second.bias[0]).max() > 0.1
    unknown = slope(model, jnp.array([1.0, np.nan, 3.0, 4.0])[:, None]).members.model.head.second.bias
    assert np.isfinite(unknown).all()
    # The square mean is that over the two samples that are seen.
    terms = loss(model, ((batch, np.zeros((4, 1))), fold))
    seen = jax.vmap(model.member(0))(batch)[fold != 0]
    assert jnp.mean(terms["property"][0] ** 2) == pytest.approx(float(jnp.mean(seen**2)))


def test_shapes_of_targets_are_checked():
    with pytest.raises(ValueError, match=r"predictions have shape \(3, 1\), targets \(3,\)"):
        molecules.property_misfit()(network(outputs=1), (batch_of(chains()), np.zeros(3)))
    with pytest.raises(ValueError, match="expected 2 folds or more, got 1"):
        folded(1)


def test_unknown_species_are_named():
    positions, _, ends, orders = chains((3,))[0]
    graph = one(batch_of([(positions, np.array([6, 17, 6]), ends, orders)]))
    with pytest.raises(ValueError, match=r"the model knows the elements \(1, 6, 8\), the structure has \(17,\) too"):
        network()(graph)
    assert np.isnan(eqx.filter_jit(network())(graph)).all()


@pytest.mark.parametrize(
    "ends, orders, message",
    [
        ([[0, 3]], [1.0], "molecule 0 has 3 atoms, its bonds join 0 to 3"),
        ([[1, 1]], [1.0], "one of molecule 0 joins an atom with itself"),
        ([[0, 1], [1, 0]], [1.0, 1.0], "molecule 0 has that of atoms 1 and 0 twice"),
        ([[0, 1]], [0.0], "orders must be positive numbers"),
        ([[0, 1]], [np.nan], "orders must be positive numbers"),
        ([[0, 1]], [1.0, 1.0], "add up to 1 bonds"),
    ],
)
def test_bonds_that_are_none_are_refused(ends, orders, message):
    data = molecules.frames(np.eye(3)[None], [6, 6, 6])
    with pytest.raises(ValueError, match=message):
        molecules.graphs(data, ends, [len(ends)], orders)


def test_features_are_checked():
    data = molecules.frames(np.eye(3)[None], [6, 6, 6])
    with pytest.raises(ValueError, match=r"expected features \(3, f\), got \(2, 1\)"):
        molecules.graphs(data, [[0, 1]], [1], features=np.zeros((2, 1)))
    with pytest.raises(ValueError, match="a feature of atom 1 is not finite"):
        molecules.graphs(data, [[0, 1]], [1], features=[[0.0], [np.nan], [0.0]])
    with pytest.raises(ValueError, match="width"):
        molecules.BondNetwork(SPECIES, width=0, key=jax.random.key(0))
    with pytest.raises(ValueError, match="positive cutoff, got 0, -1"):
        molecules.BondNetwork(SPECIES, -1.0, key=jax.random.key(0))
