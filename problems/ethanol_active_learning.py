"""Ethanol by active learning: dynamics of a committee propose, its disagreement selects, tight binding labels.

Four PaiNNs begin with a short run of GFN2-xTB (extra `chem`) at 300 K. In each round they explore by Langevin dynamics
at 300, 500 and 1000 K, the structures on which they agree least, the worst of each 100 fs of a chain first, are
labelled by GFN2-xTB, and training goes on. Beside it, `random`: as many structures of the same dynamics, drawn at
random in each round, and `random_twice`, with twice as many labels in the end; both are trained as many steps.

Errors are those of the committee's mean on structures from the dynamics of GFN2-xTB itself, in equal shares from the
same three temperatures, which do not count as labels: `force_rmse` and `force_mae` over components in eV per angstrom,
`energy_mae` in eV, and `rmse_300`, `rmse_500`, `rmse_1000` by temperature. `labels_random` is how many labels random
sampling needs for the same `force_rmse`, between its three sets on logarithmic axes (at most those of `random_twice`),
and `ratio` the labels of the active committee over these. No file is needed. All but the last round of the active
committee is trained before the progress bar begins.
"""

import jax
import numpy as np
import optax
from ase.build import molecule

import sciml
from sciml import molecules, nn, optim

EXPECTED = {"ratio": 0.5}
BUDGET = 900.0
CUTOFF, MEMBERS, CHAINS, KELVIN = 5.0, 4, 4, (300, 500, 1000)


def problem(
    first: int = 16,
    more: int = 32,
    rounds: int = 3,
    steps: int = 1200,
    width: int = 32,
    layers: int = 2,
    walk: int = 1000,
    tests: int = 15,
    seed: int = 0,
) -> sciml.Problem:
    """first: labels at the beginning; more: labels of a round; steps: of training in a round; width, layers: of the
    networks; walk: steps of dynamics in a round, 0.5 fs each; tests: structures of each of the 12 chains of the test
    set; seed: of all that is random but the test set."""
    random, ethanol = np.random.default_rng(seed), molecule("CH3CH2OH")
    begin = molecules.sampled(ethanol, oracle, count=first, every=20, seed=1000 + seed)
    how = {"count": tests, "step": 1.0, "settle": 15 * tests}
    test = [molecules.sampled(ethanol, oracle, temperature=t, seed=c, **how) for t in KELVIN for c in range(CHAINS)]
    test, pools = molecules.joined(test), []
    loss = sciml.by_member(molecules.potential_misfit(energy=0.1, forces=1.0))
    schedule = optax.warmup_cosine_decay_schedule(0.0, 4e-3, max(1, steps // 20), steps, 4e-5)
    optimiser = optim.averaged(optax.chain(optax.clip_by_global_norm(40.0), optax.adam(schedule)), 0.995)

    def make(key):
        return molecules.PaiNN((1, 6, 8), CUTOFF, width=width, layers=layers, radial=10, neighbours=8, key=key)

    def batches(data):
        return molecules.batches(data, CUTOFF, 5, buckets=1, seed=seed)

    def fit(model, data):
        return sciml.fit(model, loss, batches(data), optimiser, steps=steps, report=None)[0]

    def disagreed(model, data, number):
        kelvin, key = np.tile(np.repeat(KELVIN, 4), MEMBERS), jax.random.key(1000 * seed + number)
        starts = data[random.integers(len(data), size=len(kelvin))]
        found = molecules.explore(model, starts, CUTOFF, steps=walk, temperature=kelvin, limit=1.0, key=key)
        pools.append(found)
        parts = found.labels["chain"] + len(kelvin) * (found.labels["time"] // 100)
        return found[molecules.select(found.labels["disagreement"], more, groups=parts)]

    def taught(count=0):
        """All rounds but for the last training, with `count` structures drawn at random or, without, selected."""
        model, data, curve = start, begin, [(first, *error(start, test))]
        for number in range(rounds):
            if number:
                model = fit(model, data)
                curve.append((len(data), *error(model, test)))
            drawn = count and pools[number][random.permutation(len(pools[number]))[:count]]
            new = molecules.labelled(drawn or disagreed(model, data, number), oracle, progress=False)
            data = molecules.joined([data, new])
        return model, data, curve

    start = fit(nn.ensemble(make, MEMBERS, key=jax.random.key(seed)), begin)
    model, data, curve = taught()
    baselines, curves = {}, {}
    for name, count in (("random", more), ("random_twice", 2 * more - (-first // rounds))):
        before, known, earlier = taught(count)
        baselines[name] = fit(before, known)
        curves[name] = [*earlier, (len(known), *error(baselines[name], test))]
    sets = np.array([curves["random"][0], curves["random"][-1], curves["random_twice"][-1]])

    def evaluate(model):
        found = molecules.predicted_with_spread(model, test, CUTOFF)
        errors = molecules.errors(test, found)
        squares = np.split((found.atom_labels["forces"] - test.atom_labels["forces"]) ** 2, len(KELVIN))
        by_kelvin = {f"rmse_{t}": np.sqrt(s.mean()) for t, s in zip(KELVIN, squares)}
        need = molecules.labels_needed(errors["force_rmse"], sets[:, 0], sets[:, 1])
        return {**errors, **by_kelvin, "labels_random": need, "ratio": len(data) / need}

    def figure(model):
        shown = {"disagreement": [*curve, (len(data), *error(model, test))]} | curves
        return molecules.learning_figure(shown, title="ethanol, 300 to 1000 K")

    return sciml.Problem(model, loss, batches(data), optimiser, steps, evaluate, baselines=baselines, figure=figure)


def oracle(given):
    """GFN2-xTB, with energies above about that of the minimum."""
    found = molecules.XTB()(given)
    return found | {"energy": found["energy"] + 310.0}


def error(model, test):
    """The RMSE of forces, and its standard error over the chains of the test set."""
    found = molecules.predicted_with_spread(model, test, CUTOFF)
    squares = (found.atom_labels["forces"] - test.atom_labels["forces"]).reshape(len(KELVIN), CHAINS, -1) ** 2
    rmse, chains = np.sqrt(squares.mean()), squares.mean(axis=2)
    return rmse, np.sqrt(chains.var(axis=1, ddof=1).sum() / CHAINS) / len(KELVIN) / (2 * rmse)
