"""Committees of potentials: what they say, their calibration against known errors, and fine-tuning of a saved one."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ase.build import molecule
from ase.data import covalent_radii
from scipy.stats import norm

import sciml
from sciml import molecules, nn

PLACES = np.array([[0.0, 0, 0], [1.5, 0, 0], [0, 2.0, 0]])
CUTOFF = 4.0


class Spring(eqx.Module):
    """Atoms held to where they belong, each by a spring of this stiffness in eV per square angstrom."""

    stiffness: jax.Array
    places: jax.Array

    def __call__(self, structure):
        off = (structure.positions - jnp.pad(self.places, [(0, len(structure.species) - 3), (0, 0)])) ** 2
        return 0.5 * self.stiffness * jnp.sum(jnp.where(structure.is_atom[:, None], off, 0.0))


def springs(*stiffness):
    places = jnp.broadcast_to(jnp.asarray(PLACES), (len(stiffness), 3, 3))
    return nn.Ensemble(Spring(jnp.asarray(stiffness), places))


def displaced(shifts):
    return molecules.frames(PLACES + np.asarray(shifts), [1, 8, 6])


@pytest.mark.parametrize("as_tuple", [False, True])
def test_opinion_of_springs(as_tuple):
    stiffness = [1.0, 2.0, 6.0]
    with sciml.double_precision():
        committee = springs(*stiffness)
        if as_tuple:
            committee = nn.Ensemble(tuple(committee.member(i) for i in range(3)))
        shift = np.zeros((3, 3))
        shift[2] = [0.3, 0.0, 0.4]
        one = molecules.structure(displaced(shift[None]), 6.0, places=5, neighbours=4)
        said = molecules.opinion(committee, one)
        assert said.energy == pytest.approx(0.125 * 3.0)
        assert said.energy_spread == pytest.approx(0.125 * np.std(stiffness, ddof=1))
        np.testing.assert_allclose(said.forces[:3], -3.0 * shift, atol=1e-12)
        # The force on the atom that moved is half the stiffness, along a line: a third of the variance for each axis.
        expected = 0.5 * np.std(stiffness, ddof=1) / np.sqrt(3)
        np.testing.assert_allclose(said.force_spread, [0, 0, expected, 0, 0], atol=1e-12)
        assert molecules.disagreement(committee, one) == pytest.approx(expected)


def test_predictions_with_spread_are_those_of_the_members():
    with sciml.double_precision():
        data = displaced(np.random.default_rng(0).normal(scale=0.2, size=(7, 3, 3)))
        committee = springs(1.0, 2.0, 6.0)
        found = molecules.predicted_with_spread(committee, data, 6.0, size=3)
        members = [molecules.predicted(committee.member(i), data, 6.0) for i in range(3)]
        energies = np.stack([m.labels["energy"] for m in members])
        forces = np.stack([m.atom_labels["forces"] for m in members])
        np.testing.assert_allclose(found.labels["energy"], energies.mean(axis=0))
        np.testing.assert_allclose(found.labels["energy_spread"], energies.std(axis=0, ddof=1))
        np.testing.assert_allclose(found.atom_labels["forces"], forces.mean(axis=0))
        spread = np.sqrt(forces.var(axis=0, ddof=1).mean(axis=-1))
        np.testing.assert_allclose(found.atom_labels["force_spread"], spread)
        with pytest.raises(ValueError, match="size"):
            molecules.predicted_with_spread(committee, data, 6.0, size=0)


def uncertain(count, factors, seed=0):
    """Truth, and predictions whose errors are normal with a spread that is too small by these factors."""
    random = np.random.default_rng(seed)
    data = displaced(random.normal(size=(count, 3, 3)))
    spread, force_spread = np.exp(random.normal(size=count)), np.exp(random.normal(size=3 * count))
    energy, forces = random.normal(size=count), random.normal(size=(3 * count, 3))
    found = data.with_labels(
        {"energy": energy, "energy_spread": spread}, {"forces": forces, "force_spread": force_spread}
    )
    errors = factors[0] * spread * random.normal(size=count)
    force_errors = factors[1] * force_spread[:, None] * random.normal(size=(3 * count, 3))
    return data.with_labels({"energy": energy + errors}, {"forces": forces + force_errors}), found


def test_calibration_finds_the_factors_and_restores_coverage():
    data, found = uncertain(3000, (3.0, 0.5))
    factors = molecules.calibration(data, found)
    assert factors == pytest.approx((3.0, 0.5), rel=0.04)
    before = molecules.coverage(data, found, 0.9)
    z = norm.ppf(0.95)
    assert before["energy_coverage"] == pytest.approx(2 * norm.cdf(z / 3) - 1, abs=0.03)
    assert before["force_coverage"] == pytest.approx(2 * norm.cdf(z / 0.5) - 1, abs=0.03)
    # On data that the factors have not seen.
    data, found = uncertain(3000, (3.0, 0.5), seed=1)
    for level in (0.5, 0.68, 0.95):
        after = molecules.coverage(data, molecules.calibrated(found, factors), level)
        assert after == pytest.approx({"energy_coverage": level, "force_coverage": level}, abs=0.03)


def test_labels_that_are_not_known_do_not_count():
    data, found = uncertain(400, (2.0, 2.0))
    forces = data.atom_labels["forces"].copy()
    forces[::2] = np.nan
    factors = molecules.calibration(data.with_labels(atom_labels={"forces": forces}), found)
    assert np.isfinite(factors).all() and factors.forces == pytest.approx(2.0, rel=0.1)
    none = data.with_labels(atom_labels={"forces": np.full_like(forces, np.nan)})
    with pytest.raises(ValueError, match="no label 'forces' is known"):
        molecules.coverage(none, found)


def test_what_cannot_be_calibrated_is_refused():
    data, found = uncertain(5, (1.0, 1.0))
    exact = found.with_labels({"energy_spread": np.zeros(5)})
    with pytest.raises(ValueError, match="agree exactly"):
        molecules.calibration(data, exact)
    with pytest.raises(ValueError, match="predicted_with_spread"):
        molecules.calibration(data, data)
    with pytest.raises(ValueError, match="the labels 'energy' and 'forces'"):
        molecules.coverage(displaced(np.zeros((5, 3, 3))), found)
    with pytest.raises(ValueError, match="between 0 and 1"):
        molecules.coverage(data, found, 1.0)


def morse(given):
    """An oracle: all pairs, at rest where covalent radii touch, of 1 eV."""
    vectors = given.positions[:, None] - given.positions[None]
    distances = np.linalg.norm(vectors, axis=-1) + np.eye(len(vectors))
    rest = covalent_radii[given.species][:, None] + covalent_radii[given.species]
    decay = np.exp(rest - distances) * (1 - np.eye(len(vectors)))
    energy = np.triu(decay**2 - 2 * decay, 1).sum()
    slope = 2 * decay * (1 - decay)
    return {"energy": energy, "forces": -np.sum((slope / distances)[..., None] * vectors, axis=1)}


def shaken(name, count, seed, spread=0.08):
    """Molecules of ASE's collection, shaken and labelled; energies above that at rest."""
    random, atoms = np.random.default_rng(seed), molecule(name)
    positions = atoms.positions + spread * random.standard_normal((count, len(atoms), 3))
    given = molecules.frames(np.concatenate([atoms.positions[None], positions]), atoms.numbers)
    data = molecules.labelled(given, morse, progress=False)
    return data.with_labels({"energy": data.labels["energy"] - data.labels["energy"][0]})[1:]


def made(key):
    return molecules.PaiNN([1, 6, 8], CUTOFF, width=16, layers=2, key=key)


LOSS = molecules.potential_misfit(energy=0.01, forces=0.1)


def trained(model, data, steps, loss=LOSS, rate=5e-3):
    batches = molecules.batches(data, CUTOFF, 5, seed=0)
    optimiser = optax.adam(optax.cosine_decay_schedule(rate, steps, 0.01))
    return sciml.fit(model, loss, batches, optimiser, steps=steps, key=jax.random.key(0), report=None)[0]


def force_rmse(model, data):
    return molecules.errors(data, molecules.predicted(model, data, CUTOFF))["force_rmse"]


def test_a_committee_is_trained_at_once_and_knows_where_it_errs():
    start = nn.ensemble(made, 3, key=jax.random.key(0))
    committee = trained(start, shaken("CH3OH", 40, 0), 200, sciml.by_member(LOSS))
    held_out, test = shaken("CH3OH", 40, 1), shaken("CH3OH", 40, 2)
    assert force_rmse(committee, test) < 0.4 * force_rmse(start, test)
    # Training by `vmap` is that of a member alone, up to rounding, which grows.
    alone = trained(start.member(1), shaken("CH3OH", 40, 0), 200)
    assert force_rmse(committee.member(1), test) == pytest.approx(force_rmse(alone, test), rel=0.05)
    # The square of the mean's error is below the mean of the squares.
    members = [force_rmse(committee.member(i), test) for i in range(3)]
    assert force_rmse(committee, test) < np.sqrt(np.mean(np.square(members)))
    factors = molecules.calibration(held_out, molecules.predicted_with_spread(committee, held_out, CUTOFF))
    found = molecules.calibrated(molecules.predicted_with_spread(committee, test, CUTOFF), factors)
    assert molecules.coverage(test, found, 0.95)["force_coverage"] == pytest.approx(0.95, abs=0.04)
    far = molecules.predicted_with_spread(committee, shaken("CH3OH", 40, 3, spread=0.25), CUTOFF)
    near = molecules.predicted_with_spread(committee, test, CUTOFF)
    assert np.median(far.atom_labels["force_spread"]) > 1.3 * np.median(near.atom_labels["force_spread"])


def test_a_saved_potential_is_tuned_for_another_molecule(tmp_path):
    before = trained(made(jax.random.key(0)), shaken("CH3CH2OH", 60, 0), 200)
    sciml.save(tmp_path / "ethanol.sciml", before)
    loaded = sciml.load(tmp_path / "ethanol.sciml", made(jax.random.key(1)))
    few, test = shaken("CH3OH", 10, 1), shaken("CH3OH", 40, 2)
    old = force_rmse(before, test)
    assert force_rmse(loaded, test) == old
    tuned = force_rmse(trained(loaded, few, 60, rate=1e-3), test)
    scratch = force_rmse(trained(made(jax.random.key(1)), few, 60, rate=1e-3), test)
    assert tuned < 0.85 * old and tuned < 0.5 * scratch
