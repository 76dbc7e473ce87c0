"""Dynamics of ethanol with learned potentials: how well energy is conserved, and vibrations against the oracle's.

    python benchmarks/ethanol_dynamics.py [rMD17] [GFN2-xTB] [--runs runs] [--picoseconds 100] [--table]

Two potentials, each trained on the 950 frames of the problem `ethanol`: `rMD17` on the labels of the revised MD17
(PBE/def2-SVP), which is what `sciml run ethanol` leaves in runs/ethanol; `GFN2-xTB` on labels of the same frames by
tight binding, with the network, loss, optimiser and steps of the problem. Where there is no model, it is trained. Test
errors are against labels of the same method.

A run at constant energy starts at the minimum, with the energy k T in each vibration, signs at random, and neither
momentum nor angular momentum: what a harmonic molecule has at 300 K. Steps of 0.5 fs, in single and in double
precision. The drift is the slope of a least-squares line through the total energy; the fluctuation is the standard
deviation from this line. The largest change of a bond, relative to the minimum, says whether the molecule is whole.

Harmonic wave numbers of a potential at its minimum are compared, in order, with those of the method that made its
labels at that method's minimum (PySCF's PBE/def2-SVP, which is not the program of the data set, and tblite), by central
differences of forces. The spectrum is that of the velocities in double precision.

Writes benchmarks/ethanol_dynamics.json and docs/ethanol_dynamics.png. `--table` prints the table of docs/molecules.md.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import time
from pathlib import Path

import ase.build
import jax
import jax.numpy as jnp
import numpy as np
from ase import units
from ase.data import atomic_masses
from matplotlib.figure import Figure
from scipy.optimize import minimize

import sciml
from sciml import molecules

PATH = Path(__file__).with_suffix(".json")
PICTURE = Path(__file__).parents[1] / "docs" / "ethanol_dynamics.png"
ORACLES = {"rMD17": molecules.DFT(), "GFN2-xTB": molecules.XTB(accuracy=0.1)}
RUNS = {"rMD17": "ethanol", "GFN2-xTB": "ethanol_xtb"}
CUTOFF, TEMPERATURE, STEP, EVERY, SEED = 5.0, 300.0, 0.5, 4, 0
DISPLACEMENT = 0.005  # angstrom, of differences of forces
BOND = 1.6  # angstrom: what is nearer at the minimum is bonded


def labelled(name: str, part: str, mean: float | None = None) -> tuple[molecules.Frames, float]:
    """The frames with energies above the mean energy of the training set, and that mean."""
    data = molecules.frames_from_dataset(sciml.dataset("ethanol", part=part))
    if name != "rMD17":
        data = molecules.labelled(data, ORACLES[name])
    mean = float(data.labels["energy"].mean()) if mean is None else mean
    return data.with_labels({"energy": data.labels["energy"] - mean}), mean


def potential(name: str, file: Path, steps: int | None) -> tuple:
    """A potential, read from a file if it is there, else trained and written to it; and its errors on the test set."""
    made = sciml.problem("ethanol", seed=SEED, **({} if steps is None else {"steps": steps}))
    data, mean = labelled(name, "train")
    if file.exists():
        model = sciml.load(file, made.model)
    else:
        train, _ = molecules.split(data, 950, seed=SEED)
        batches = molecules.batches(train, CUTOFF, 5, buckets=1, seed=SEED)
        model, _ = sciml.fit(made.model, made.loss, batches, made.optimiser, steps=made.steps)
        sciml.save(file, model)
    test, _ = labelled(name, "test", mean)
    return model, molecules.errors(test, molecules.predicted(model, test, CUTOFF))


def at_rest(model) -> tuple:
    """The minimum near a tabulated structure, and vibrations around it, in double precision."""
    with sciml.double_precision():
        start = molecules.structure(ase.build.molecule("CH3CH2OH"), CUTOFF)
        least = molecules.relaxed(model, start, cutoff=CUTOFF, force=1e-6).structure
        return least, molecules.vibrations(model, least)


def equal_shares(found: molecules.Vibrations, species) -> np.ndarray:
    """Velocities in angstrom/fs with the energy k T in each vibration."""
    signs = np.random.default_rng(SEED).choice([-1.0, 1.0], len(found.modes))
    inertia = np.einsum("n,mnx->m", atomic_masses[species], found.modes**2)
    speeds = signs * np.sqrt(2 * units.kB * TEMPERATURE / inertia) * units.fs
    return np.einsum("m,mnx->nx", speeds, found.modes)


def conserved(model, least, velocities, picoseconds: float, double: bool) -> tuple:
    """A run at constant energy, and what it says."""
    began = time.perf_counter()
    with sciml.double_precision(double):
        start = jax.tree.map(lambda a: jnp.asarray(np.asarray(a)), least)
        steps = EVERY * round(1000 * picoseconds / STEP / EVERY)
        run = molecules.dynamics(
            model, start, cutoff=CUTOFF, steps=steps, step=STEP, velocities=velocities, every=EVERY, progress=False
        )
    seconds = time.perf_counter() - began
    total = per_atom(run)
    at = run["time"].values / 1000
    slope, level = np.polyfit(at, total, 1)
    apart = distances(run["positions"].values)
    bonded = (apart[0] < BOND) & (apart[0] > 0)
    return run, {
        "ps": float(at[-1]),
        "drift": float(slope),
        "fluctuation": float(np.std(total - slope * at - level)),
        "temperature": float(run["temperature"].mean()),
        "bond_change": float(abs(apart / np.where(bonded, apart[0], 1) - 1)[:, bonded].max()),
        "seconds": round(seconds, 1),
    }


def per_atom(run) -> np.ndarray:
    """The total energy above that at the start, in meV per atom."""
    total = (run["energy"].astype(float) + run["kinetic"]).values
    return 1000 * (total - total[0]) / run.sizes["atom"]


def distances(positions) -> np.ndarray:
    """Of all pairs of atoms in each frame."""
    return np.linalg.norm(positions[:, :, None] - positions[:, None], axis=-1)


def harmonic(oracle, species, positions) -> np.ndarray:
    """The wave numbers in 1/cm at the minimum of an oracle near these positions."""

    def energy_and_slope(x):
        free = np.zeros((3, 3)), np.zeros(3, bool), 0.0
        found = oracle(molecules.Arrangement(species, x.reshape(-1, 3), *free))
        return found["energy"], -found["forces"].ravel()

    least = minimize(energy_and_slope, positions.ravel(), jac=True, options={"gtol": 1e-3}).x
    slopes = [
        (energy_and_slope(least + d)[1] - energy_and_slope(least - d)[1]) / (2 * DISPLACEMENT)
        for d in DISPLACEMENT * np.eye(least.size)
    ]
    with sciml.double_precision():
        hessian = jnp.asarray((np.array(slopes) + np.array(slopes).T) / 2)
        atoms = molecules.frames(least.reshape(1, -1, 3), species)
        quadratic = lambda s: 0.5 * s.positions.ravel() @ hessian @ s.positions.ravel()  # noqa: E731
        return molecules.vibrations(quadratic, molecules.structure(atoms, CUTOFF)).wavenumbers


def one(name: str, file: Path, steps: int | None, picoseconds: float) -> dict:
    """All that is measured of a potential, and what is drawn of it."""
    model, errors = potential(name, file, steps)
    least, found = at_rest(model)
    species = np.asarray(least.species)
    velocities = equal_shares(found, species)
    runs = {p: conserved(model, least, velocities, picoseconds, p == "double") for p in ("single", "double")}
    print(name, {p: said for p, (_, said) in runs.items()}, flush=True)
    true = harmonic(ORACLES[name], species, np.asarray(least.positions))
    apart = abs(found.wavenumbers - true)
    with_units = {n: float(errors[n]) for n in ("energy_mae", "force_mae")}
    return with_units | {
        "wavenumber_mae": float(apart.mean()),
        "wavenumber_largest_error": float(apart.max()),
        "wavenumbers": np.round(found.wavenumbers, 1).tolist(),
        "oracle_wavenumbers": np.round(true, 1).tolist(),
        "runs": {p: said for p, (_, said) in runs.items()},
        "drawn": {p: run for p, (run, _) in runs.items()},
    }


def draw(found: dict) -> Figure:
    """The total energy over time, and the spectrum between harmonic wave numbers; a column for each potential."""
    figure = Figure(figsize=(5.2 * len(found), 6.4), layout="constrained")
    panels = figure.subplots(2, len(found), squeeze=False)
    for column, (name, row) in enumerate(found.items()):
        above, below = panels[:, column]
        for (precision, run), colour in zip(row["drawn"].items(), ("#D55E00", "#0072B2")):
            drift = row["runs"][precision]["drift"]
            above.plot(run["time"] / 1000, per_atom(run), color=colour, lw=0.4, label=f"{precision}, {drift:+.1e}")
        above.set(title=name, xlabel="time / ps", ylabel="total energy / (meV/atom)")
        above.legend(title="precision, drift in meV/atom/ps", fontsize="small", title_fontsize="small")
        run = row["drawn"]["double"]
        spectrum = molecules.velocity_spectrum(run, max(8.0, 4 * 33_357 / float(run["time"][-1])))
        top = float(spectrum.max())
        below.fill_between(spectrum["wavenumber"], spectrum, color="0.6", label="dynamics at 300 K")
        sticks = {
            "oracle_wavenumbers": ("#D55E00", "harmonic, oracle"),
            "wavenumbers": ("#0072B2", "harmonic, learned"),
        }
        for level, (key, (colour, label)) in enumerate(sticks.items()):
            below.vlines(row[key], -(level + 1) * 0.12 * top, -(level + 0.1) * 0.12 * top, color=colour, label=label)
        below.set(xlim=(0, 4000), xlabel="wave number / (1/cm)", ylabel="density of states / cm")
        below.legend(fontsize="small")
    return figure


def table(report: dict) -> str:
    """Lines of Markdown."""
    head = ("potential", "force MAE, meV/Å", "precision", "drift, meV/atom/ps", "fluctuation, meV/atom")
    head += ("mean temperature, K", "largest change of a bond", "harmonic wave numbers, MAE (largest), 1/cm")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, row in report["potentials"].items():
        waves = f"{row['wavenumber_mae']:.1f} ({row['wavenumber_largest_error']:.1f})"
        for precision, run in row["runs"].items():
            cells = [name, f"{1000 * row['force_mae']:.1f}", precision, f"{run['drift']:+.1e}"]
            cells += [
                f"{run['fluctuation']:.2f}",
                f"{run['temperature']:.0f}",
                f"{100 * run['bond_change']:.0f} %",
                waves,
            ]
            lines.append(f"| {' | '.join(cells)} |")
    ps = min(run["ps"] for row in report["potentials"].values() for run in row["runs"].values())
    return f"`python benchmarks/ethanol_dynamics.py`, {report['date']}: {ps:g} ps, {about(report)}.\n\n" + "\n".join(
        lines
    )


def about(report: dict) -> str:
    return f"seed {report['seed']}, {report['machine']}" + (", shared" if report["shared"] else "")


def main(names: list[str], runs: Path, steps: int | None, picoseconds: float, shared: bool) -> None:
    """Measures these potentials and writes what was found."""
    report = {
        "potentials": {},
        "seed": SEED,
        "machine": f"{os.cpu_count()} CPU cores, Python {platform.python_version()}, JAX {jax.__version__}",
        "versions": {p: importlib.metadata.version(p) for p in ("jax", "equinox", "tblite", "pyscf")},
        "shared": shared,
        "date": datetime.date.today().isoformat(),
    }
    drawn = {}
    for name in names or RUNS:
        drawn[name] = one(name, runs / RUNS[name] / "model.zip", steps, picoseconds)
        report["potentials"][name] = {k: v for k, v in drawn[name].items() if k != "drawn"}
        PATH.write_text(json.dumps(report, indent=1) + "\n")
        draw(drawn).savefig(PICTURE, dpi=110)
    print(table(report))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*RUNS, []], help="all by default")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where models are, or are written")
    parser.add_argument("--steps", type=int, help="of training, where there is no model; by default the problem's")
    parser.add_argument("--picoseconds", type=float, default=100.0)
    parser.add_argument("--shared", action="store_true", help="notes that other programs ran at the same time")
    parser.add_argument("--table", action="store_true", help="prints the table of the last run")
    given = parser.parse_args()
    if given.table:
        print(table(json.loads(PATH.read_text())))
    else:
        main(given.names, given.runs, given.steps, given.picoseconds, given.shared)
