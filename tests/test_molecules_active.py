"""Active learning: chains have their temperature and end where members disagree; a loop with argon as the oracle."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ase.build import bulk

import sciml
from sciml import molecules, nn

PLACES = np.array([[0.0, 0, 0], [1.5, 0, 0], [0, 2.0, 0]])


class Spring(eqx.Module):
    """Atoms held to where they belong, each by a spring of this stiffness in eV per square angstrom."""

    stiffness: jax.Array
    places: jax.Array

    def __call__(self, structure):
        off = (structure.positions - self.places) ** 2
        return 0.5 * self.stiffness * jnp.sum(jnp.where(structure.is_atom[:, None], off, 0.0))


def springs(*stiffness):
    places = jnp.broadcast_to(jnp.asarray(PLACES), (len(stiffness), 3, 3))
    return nn.Ensemble(Spring(jnp.asarray(stiffness), places))


def at_rest(count):
    return molecules.frames(np.repeat(PLACES[None], count, axis=0), [1, 8, 6])


def test_select_takes_the_best_of_each_group_first():
    scores = [0.5, 3.0, np.nan, 2.0, np.inf, 2.5, 0.1]
    assert molecules.select(scores, 3).tolist() == [1, 5, 3]
    assert molecules.select(scores, 3, groups=[0, 1, 1, 0, 0, 1, 2]).tolist() == [1, 3, 6]
    assert molecules.select(scores, 9, groups=[0, 1, 1, 0, 0, 1, 2]).tolist() == [1, 3, 6, 5, 0]
    assert molecules.select([], 3).tolist() == []
    with pytest.raises(ValueError, match="groups of shape"):
        molecules.select(scores, 2, groups=[0, 1])
    with pytest.raises(ValueError, match="count"):
        molecules.select(scores, 0)


def test_chains_have_the_temperature_and_the_forces_of_their_member():
    """Each coordinate of a spring has the variance kT / stiffness."""
    with sciml.double_precision():
        kelvin = np.tile(np.repeat([200.0, 800.0], 30), 2)
        settings = dict(steps=1200, every=40, step=1.0, friction=0.05, key=jax.random.key(0))
        found = molecules.explore(springs(3.0, 9.0), at_rest(120), 4.0, temperature=kelvin, **settings)
    assert len(found) == 30 * 120
    late = found.labels["time"] > 300
    squares = ((found.positions.reshape(-1, 3, 3) - PLACES) ** 2).mean(axis=(1, 2))
    for member, stiffness in enumerate([3.0, 9.0]):
        for half, temperature in enumerate([200.0, 800.0]):
            begin = 60 * member + 30 * half
            of = late & (found.labels["chain"] >= begin) & (found.labels["chain"] < begin + 30)
            assert squares[of].mean() == pytest.approx(8.617e-5 * temperature / stiffness, rel=0.1)


def test_labels_of_what_was_explored():
    with sciml.double_precision():
        committee, limit = springs(4.0, 6.0), 0.1
        settings = dict(steps=60, every=2, step=1.0, temperature=300.0, key=jax.random.key(1))
        every = molecules.explore(committee, at_rest(8), 4.0, **settings)
        found = molecules.explore(committee, at_rest(8), 4.0, limit=limit, **settings)
        assert set(found.labels) == {"disagreement", "chain", "time"}
        again = molecules.predicted_with_spread(committee, found, 4.0)
        worst = again.atom_labels["force_spread"].reshape(-1, 3).max(axis=1)
        np.testing.assert_allclose(found.labels["disagreement"], worst, rtol=1e-9)
        separate = nn.Ensemble((committee.member(0), committee.member(1)))
        np.testing.assert_allclose(molecules.explore(separate, at_rest(8), 4.0, **settings).positions, every.positions)
    # A chain is the same as without a limit until it is above it for the first time, and ends before.
    for chain in range(8):
        whole, part = (f[np.flatnonzero(f.labels["chain"] == chain)] for f in (every, found))
        above = whole.labels["disagreement"] > limit
        end = int(np.argmax(above)) if above.any() else len(above)
        assert len(part) == end and len(whole) == 30
        np.testing.assert_allclose(part.positions, whole[:end].positions, atol=1e-9)
        np.testing.assert_array_equal(part.labels["time"], 2.0 * (1 + np.arange(end)))
    assert 0 < len(found) < len(every)


def test_what_cannot_be_explored_is_refused():
    committee, settings = springs(1.0, 2.0), dict(steps=4, every=2, key=jax.random.key(0))
    with pytest.raises(ValueError, match="within the limit"):
        molecules.explore(springs(jnp.nan, 1.0), at_rest(2), 4.0, **settings)
    with pytest.raises(ValueError, match="3 starts cannot be shared equally by 2 members"):
        molecules.explore(committee, at_rest(3), 4.0, **settings)
    with pytest.raises(ValueError, match="multiple of every"):
        molecules.explore(committee, at_rest(2), 4.0, **settings | {"steps": 5})
    with pytest.raises(ValueError, match="temperatures"):
        molecules.explore(committee, at_rest(2), 4.0, temperature=-1.0, **settings)
    with pytest.raises(ValueError, match="limit must be positive"):
        molecules.explore(committee, at_rest(2), 4.0, limit=0.0, **settings)
    with pytest.raises(ValueError, match="same directions"):
        cell = molecules.frames(PLACES[None], [1, 8, 6], cells=9 * np.eye(3))
        molecules.explore(committee, molecules.joined([at_rest(1), cell]), 4.0, **settings)


def test_labels_that_a_curve_needs_for_an_error():
    """Errors fall as the root of the number of labels; what rises again does not count."""
    counts = np.array([10, 20, 80, 160])
    for labels in (10.0, 33.0, 160.0):
        assert molecules.labels_needed(labels**-0.5, counts, counts**-0.5) == pytest.approx(labels)
    assert molecules.labels_needed(1e-3, counts, counts**-0.5) == pytest.approx(160)
    assert molecules.labels_needed(1.0, counts, counts**-0.5) == pytest.approx(10)
    assert molecules.labels_needed(0.1, counts, [0.3, 0.1, 0.2, 0.1]) == pytest.approx(20)
    with pytest.raises(ValueError, match="of one length"):
        molecules.labels_needed(0.1, counts, [0.1])
    with pytest.raises(ValueError, match="must be positive"):
        molecules.labels_needed(0.1, counts[::-1], counts**-0.5)
    figure = molecules.learning_figure({"random": [(n, n**-0.5, 0.01) for n in counts]}, title="errors")
    assert figure.axes[0].get_title() == "errors" and figure.axes[0].get_xscale() == "log"


CUTOFF = 6.0


def test_a_loop_with_argon_as_the_oracle():
    """Crystals are periodic, and become larger and hotter than at the start; the oracle is Lennard-Jones'."""
    exact = molecules.LennardJones(cutoff=CUTOFF, onset=5.0)
    atoms = bulk("Ar", "fcc", a=5.4, cubic=True)
    random = np.random.default_rng(0)

    def oracle(given):
        one = molecules.structure(one_frame(given), CUTOFF)
        found = molecules.energy_and_forces(exact, one)
        return {"energy": np.asarray(found.energy), "forces": np.asarray(found.forces)}

    def one_frame(given):
        return molecules.frames(given.positions[None], given.species, cells=given.cell[None])

    def cold(count):
        positions = atoms.positions + 0.03 * random.standard_normal((count, 4, 3))
        return molecules.frames(positions, atoms.numbers, cells=atoms.cell.array)

    def taught(model, data):
        batches = molecules.batches(data, CUTOFF, 4)
        loss = sciml.by_member(molecules.potential_misfit(energy=0.005, forces=0.02))
        return sciml.fit(model, loss, batches, optax.adam(2e-3), steps=60, key=jax.random.key(0), report=None)[0]

    def made(key):
        return molecules.PaiNN([18], CUTOFF, width=8, layers=1, neighbours=18, key=key)

    data = molecules.labelled(cold(8), oracle, progress=False)
    base = data.labels["energy"].mean()
    above = lambda d: d.with_labels({"energy": d.labels["energy"] - base})  # noqa: E731
    data, model = above(data), nn.ensemble(made, 2, key=jax.random.key(0))
    for number in range(2):
        model = taught(model, data)
        found = molecules.explore(
            model, data[:4], CUTOFF, steps=100, step=4.0, every=20, temperature=60.0, key=jax.random.key(number)
        )
        chosen = molecules.select(found.labels["disagreement"], 4, groups=found.labels["chain"])
        assert len(chosen) == 4 and len(set(found.labels["chain"][chosen])) == 4
        new = above(molecules.labelled(found[chosen], oracle, progress=False))
        # What was chosen is where the committee errs more than where it has learnt.
        say = molecules.predicted(model, molecules.joined([data, new]), CUTOFF)
        off = np.abs(say.atom_labels["forces"] - np.concatenate([d.atom_labels["forces"] for d in (data, new)]))
        assert off[len(data.species) :].mean() > off[: len(data.species)].mean()
        data = molecules.joined([data, new])
    assert len(data) == 16 and np.isfinite(data.atom_labels["forces"]).all()
