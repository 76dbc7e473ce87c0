"""Regression with kernels of molecules, against loops over atoms and dense linear algebra."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.build import molecule
from scipy.optimize import minimize

import sciml
from sciml import molecules, optim


@pytest.fixture(autouse=True)
def double():
    with sciml.double_precision():
        yield


NAMES = ("H2O", "CH3OH", "CH4", "H2O2", "CH3OH")
# Of water, methanol, methane, hydrogen peroxide and methanol, as ASE orders their atoms.
BONDS = {
    "H2O": [[0, 1], [0, 2]],
    "CH3OH": [[0, 1], [0, 2], [0, 4], [0, 5], [1, 3]],
    "CH4": [[0, 1], [0, 2], [0, 3], [0, 4]],
    "H2O2": [[0, 1], [0, 2], [1, 3]],
}


@pytest.fixture(scope="module")
def data():
    atoms = [molecule(name) for name in NAMES]
    atoms[-1].rattle(0.1, seed=1)
    return molecules.from_atoms(atoms)


def bonds():
    return np.concatenate([BONDS[n] for n in NAMES]), [len(BONDS[n]) for n in NAMES]


def written_out(atoms, species, cutoff, pairs, triples):
    """The environments of an `Atoms` by loops, as the paper writes its equations, with cosine and sine for the first
    Fourier terms of the angle.
    """
    z, r = atoms.numbers, atoms.positions
    near, far = (np.linspace(0, cutoff, count + 1)[1:] for count in (pairs, triples))
    kinds = list(itertools.combinations_with_replacement(species, 2))
    found = []
    for i in range(len(z)):
        others = [j for j in range(len(z)) if j != i and np.linalg.norm(r[j] - r[i]) < cutoff]
        two = {s: np.zeros(pairs) for s in species}
        three = {s: np.zeros((2, triples)) for s in kinds}
        fade = {j: (np.cos(np.pi * np.linalg.norm(r[j] - r[i]) / cutoff) + 1) / 2 for j in others}
        for j in others:
            d = np.linalg.norm(r[j] - r[i])
            variance = np.log(1 + 0.32 / d**2)
            mean = np.log(d) - variance / 2
            bell = np.exp(-((np.log(near) - mean) ** 2) / (2 * variance)) / (near * np.sqrt(2 * np.pi * variance))
            two[z[j]] += bell * fade[j] / d**1.8
        for j, k in itertools.permutations(others, 2):
            if z[j] == z[k] or z[j] < z[k]:
                a, b, c = (np.linalg.norm(v) for v in (r[j] - r[i], r[k] - r[i], r[k] - r[j]))
                cosines = [(a * a + b * b - c * c) / (2 * a * b), (a * a + c * c - b * b) / (2 * a * c)]
                cosines.append((b * b + c * c - a * a) / (2 * b * c))
                weight = 13.4 * (1 + 3 * np.prod(cosines)) / (a * b * c) ** 0.57 * fade[j] * fade[k]
                bell = np.sqrt(2.7 / np.pi) * np.exp(-2.7 * ((a + b) / 2 - far) ** 2) * weight
                angle = 2 * np.exp(-(np.pi**2) / 2) * np.array([cosines[0], np.sqrt(1 - cosines[0] ** 2)])
                three[z[j], z[k]] += angle[:, None] * bell
        found.append(np.concatenate([*two.values(), *(v.ravel() for v in three.values())]))
    return np.array(found)


@pytest.fixture(scope="module")
def turned():
    """Water, a methanol molecule, and the same one turned and moved."""
    atoms = [molecule("H2O"), molecule("CH3OH"), molecule("CH3OH")]
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    atoms[1].rattle(0.1, seed=1)
    atoms[2].positions = atoms[1].positions @ rotation + 3
    return molecules.from_atoms(atoms)


def test_environments_are_those_of_the_paper_and_invariant(turned):
    found = molecules.environments(turned, 3.0, pairs=4, triples=3, size=2)
    expected = [written_out(atoms, [1, 6, 8], 3.0, 4, 3) for atoms in turned.to_atoms()]
    np.testing.assert_allclose(found, np.concatenate(expected), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found[3:9], found[9:], rtol=1e-9, atol=1e-12)


def test_environments_have_derivatives():
    """In a line too, where angles are 0 and 180 degrees."""
    line = molecules.structure(molecules.frames(np.eye(1, 3) * np.arange(3.0)[None, :, None], [6, 6, 6]), 4.0)

    @jax.jit
    @jax.grad
    def slope(r):
        moved = eqx.tree_at(lambda s: s.positions, line, r)
        return jnp.sum(molecules.environment(moved, [6], 4.0, pairs=4, triples=3) ** 2)

    assert np.isfinite(slope(line.positions)).all()


def test_environments_refuse_what_they_do_not_know(data):
    structure = molecules.structure(data[0], 3.0)
    with pytest.raises(ValueError, match=r"environment knows the elements \(6,\)"):
        molecules.environment(structure, [6], 3.0)
    with pytest.raises(ValueError, match="pairs must be a whole number above 0"):
        molecules.environment(structure, [1, 8], 3.0, pairs=0)
    with pytest.raises(ValueError, match="cutoff must be a positive number"):
        molecules.environment(structure, [1, 8], -1.0)
    with pytest.raises(ValueError, match="size must be a whole number above 0"):
        molecules.environments(data, 3.0, size=0)


def test_kernels_of_environments_are_sums_over_pairs_of_atoms(data, monkeypatch):
    """The blocks of molecules make no difference."""
    described = np.random.default_rng(0).normal(size=(len(data.species), 5))
    expected = np.zeros((2, len(data), len(data)))
    owner = np.repeat(np.arange(len(data)), data.counts)
    for (i, a), (j, b) in itertools.product(enumerate(described), repeat=2):
        if data.species[i] == data.species[j]:
            expected[:, owner[i], owner[j]] += [np.exp(-np.sum((a - b) ** 2) / (2 * w**2)) for w in (1.0, 3.0)]
    for block in (64, 2, 1):
        monkeypatch.setattr(molecules._kernels, "BLOCK", block)
        np.testing.assert_allclose(molecules.environment_kernels(data, described, [1.0, 3.0]), expected, rtol=1e-12)


def test_kernels_of_environments_are_checked(data):
    described = np.zeros((len(data.species), 2))
    with pytest.raises(ValueError, match=r"expected described \(24, d\), got \(23, 2\)"):
        molecules.environment_kernels(data, described[1:], [1.0])
    with pytest.raises(ValueError, match="a description of an atom is not finite"):
        molecules.environment_kernels(data, described * np.nan, [1.0])
    with pytest.raises(ValueError, match="width 1 must be finite and above 0, got 0"):
        molecules.environment_kernels(data, described, [1.0, 0.0])


def test_subtrees_of_bonds(data):
    """Counted by hand: methanol and methane share a carbon atom with four bonds and three hydrogen atoms of 7 different
    ones or more at depth 0, nothing else at depth 1 than hydrogen atoms at a carbon atom.
    """
    found = molecules.subtree_kernels(data, *bonds(), depth=2)
    np.testing.assert_array_equal(np.diagonal(found, axis1=1, axis2=2), 1)
    np.testing.assert_array_equal(found, found.transpose(0, 2, 1))
    np.testing.assert_array_equal(found[:, 1, 4], 1)
    # Methanol has 6 atoms, methane 5; they share C and 4 H at depth 0, and 3 H of C at depth 1.
    np.testing.assert_allclose(found[:, 1, 2], [5 / 6, 3 / 8, 0])
    # Water and peroxide share the oxygen with two bonds and 2 H, then the hydrogen atoms at such an oxygen atom.
    np.testing.assert_allclose(found[:2, 0, 3], [3 / 4, 2 / 5])
    doubled = molecules.subtree_kernels(data, *bonds(), 1.0 + np.arange(19), depth=1)
    np.testing.assert_array_equal(doubled[0], found[0])
    assert doubled[1, 1, 4] < 1


def test_subtrees_refuse_a_negative_depth(data):
    with pytest.raises(ValueError, match="depth must be 0 or more, got -1"):
        molecules.subtree_kernels(data, *bonds(), depth=-1)
    with pytest.raises(ValueError, match="add up to 19 bonds, there are 4 molecules"):
        molecules.subtree_kernels(data[:4], *bonds())


def test_kernels_of_numbers():
    x = np.array([[1.0, 2.0], [3.0, 2.0], [-1.0, 2.0]])
    sizes = np.sqrt(11 / 3)
    np.testing.assert_allclose(molecules.linear_kernel(x), np.outer(x[:, 0], x[:, 0]) / sizes**2 + 1)
    apart = (x[:, :1] - x[:, 0]) / x[:, 0].std()
    np.testing.assert_allclose(molecules.gaussian_kernel(x, 0.5), np.exp(-(apart**2) / (2 * 0.5**2 * 2)))
    with pytest.raises(ValueError, match=r"linear_kernel: expected finite features \(m, f\)"):
        molecules.linear_kernel([[np.nan]])
    with pytest.raises(ValueError, match=r"gaussian_kernel: expected finite features \(m, f\), got shape \(2,\)"):
        molecules.gaussian_kernel([1.0, 2.0], 1.0)
    with pytest.raises(ValueError, match="width must be finite and above 0"):
        molecules.gaussian_kernel(x, -1.0)


def samples(m=80, seed=0):
    """Kernels of numbers, and targets that are drawn with a kernel each: one that wiggles, with a deviation of 2, and a
    line; with noise of 0.1.
    """
    random = np.random.default_rng(seed)
    x = random.uniform(-2, 2, (m, 1))
    kernels = np.stack([molecules.gaussian_kernel(x, 0.15), molecules.linear_kernel(x)])
    root = np.linalg.cholesky(kernels[0] + 1e-9 * np.eye(m))
    drawn = np.stack([2 * root @ random.normal(size=m), 3 * x[:, 0]], axis=1)
    return kernels, drawn + 0.1 * random.normal(size=(m, 2))


def dense(kernels, targets, weights, noise, test):
    """What to expect of the samples `test` given the others, and the logarithm of the probability of these."""
    covariance = np.tensordot(weights, kernels, 1)
    noise = noise + 1e-8 * np.mean(np.diag(covariance))
    own = covariance[np.ix_(~test, ~test)] + noise * np.eye((~test).sum())
    gain = covariance[np.ix_(test, ~test)] @ np.linalg.inv(own)
    density = -0.5 * targets[~test] @ np.linalg.inv(own) @ targets[~test] - 0.5 * np.linalg.slogdet(own)[1]
    return gain @ targets[~test], density


def test_evidence_and_predictions_of_folds_are_those_of_dense_algebra():
    kernels, targets = samples(12)
    fold = molecules.fold_numbers(12, 3)
    model = molecules.in_folds(
        lambda key: molecules.kernel_weights(kernels, targets, noise=0.3), 3, key=jax.random.key(0)
    )
    found = molecules.kernel_predictions(model, kernels, targets, fold)
    loss = []
    for number, t in itertools.product(range(3), range(2)):
        own = model.member(number).model
        weights, noise, test = np.exp(own.log_weights[t]), np.exp(own.log_noise[t]), fold == number
        mean, density = dense(kernels, targets[:, t], weights, noise, test)
        np.testing.assert_allclose(found[test, t], mean, rtol=1e-8)
        loss.append(-density / (~test).sum())
    value = molecules.fold_loss(molecules.evidence)(model, ((kernels, targets), fold))
    np.testing.assert_allclose(value, np.mean(loss), rtol=1e-9)


def test_targets_that_are_not_known_are_predicted():
    kernels, targets = samples(12)
    fold, hidden = molecules.fold_numbers(12, 3), targets.copy()
    hidden[4, 0] = np.nan
    model = molecules.in_folds(lambda key: molecules.kernel_weights(kernels, hidden), 3, key=jax.random.key(0))
    found = molecules.kernel_predictions(model, kernels, hidden, fold)
    own, test = model.member(int(fold[4])).model, fold == fold[4]
    mean, _ = dense(kernels, targets[:, 0], np.exp(own.log_weights[0]), np.exp(own.log_noise[0]), test)
    np.testing.assert_allclose(found[test, 0], mean, rtol=1e-9)
    slopes = eqx.filter_grad(molecules.fold_loss(molecules.evidence))(model, ((kernels, hidden), fold))
    assert all(np.isfinite(s).all() for s in jax.tree.leaves(slopes))


def test_fit_finds_the_kernel_and_the_noise():
    """Those with which targets were drawn, and no less than another optimiser finds with dense algebra."""
    kernels, targets = samples()
    fold = molecules.fold_numbers(80, 2)
    model = molecules.in_folds(lambda key: molecules.kernel_weights(kernels, targets), 2, key=jax.random.key(0))
    loss, bfgs = molecules.fold_loss(molecules.evidence), optim.by_member(optim.self_scaled_bfgs())
    model, history = sciml.fit(model, loss, [((kernels, targets), fold)], bfgs, steps=30, every=1, report=None)
    weights, noise = (np.exp(a) for a in (model.members.model.log_weights, model.members.model.log_noise))
    assert ((1 < weights[:, 0, 0]) & (weights[:, 0, 0] < 16)).all()
    assert (weights[:, 1, 1] > 100 * weights[:, 1, 0]).all()
    assert ((0.005 < noise[:, 1]) & (noise[:, 1] < 0.02)).all()
    least = []
    for number, t in itertools.product(range(2), range(2)):
        test = fold == number

        def negative(logarithms):
            *weights, noise = np.exp(logarithms)
            return -dense(kernels, targets[:, t], weights, noise, test)[1] / (~test).sum()  # noqa: B023

        start = np.append(np.asarray(model.member(number).model.log_weights[t]), np.log(0.01))
        least.append(minimize(negative, start, method="Nelder-Mead", options={"maxfev": 600}).fun)
    assert history["loss"].values[-1] < np.mean(least) + 1e-3
    found = molecules.kernel_predictions(model, kernels, targets, fold)
    assert np.abs(found[:, 1] - targets[:, 1]).mean() < 0.1
    assert np.abs(found[:, 0] - targets[:, 0]).mean() < 0.4 * np.abs(targets[:, 0]).mean()


def test_what_does_not_fit_together_is_refused():
    kernels, targets = samples(6)
    with pytest.raises(ValueError, match=r"expected kernels \(g, m, m\) and targets \(m, t\)"):
        molecules.kernel_weights(kernels, targets[:, 0])
    with pytest.raises(ValueError, match="kernels must be finite, with positive diagonals"):
        molecules.kernel_weights(kernels * np.nan, targets)
    with pytest.raises(ValueError, match="targets need a mean square above 0"):
        molecules.kernel_weights(kernels, 0 * targets)
    model = molecules.in_folds(lambda key: molecules.kernel_weights(kernels, targets), 2, key=jax.random.key(0))
    with pytest.raises(ValueError, match=r"kernel_predictions: expected kernels \(g, m, m\)"):
        molecules.kernel_predictions(model, kernels, targets[:5], np.arange(6) % 2)
    with pytest.raises(ValueError, match="2 models have the folds from 0 on"):
        molecules.kernel_predictions(model, kernels, targets, np.arange(6) % 3)
