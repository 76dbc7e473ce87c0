"""PaiNN and SchNet on `ethanol` with SchNetPack and with this package, on the same machine, in turn.

    python tests/peers/ethanol.py --peer-python PYTHON [--epochs 3] [--seed 0] [--note TEXT]

PYTHON is an interpreter with `schnetpack` and `torch`. Each run is a new process. Both sides have the same 950 frames
in batches of 5, width, layers, radial functions, cutoff, loss, epochs and Adam with the same step sizes, in single
precision. `settings` has, after warming up, the median milliseconds of a training step on a batch that is ready
(energy, forces, gradient, Adam), and those of a step of dynamics of one molecule at constant energy with neighbour
lists, by the simulator of SchNetPack and by `dynamics`. Writes problems/peers/ethanol.json. Run it on an otherwise idle
machine.
"""

import argparse
import datetime
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import typing
from importlib import metadata
from pathlib import Path

STARTED = time.time()
OUT = Path(__file__).parents[2] / "problems" / "peers" / "ethanol.json"
WIDTH, LAYERS, RADIAL, CUTOFF, BATCH, RATE, ENERGY, FORCE = 64, 3, 20, 5.0, 5, 2e-3, 0.1, 1.0
MOVED = 1000


def with_schnetpack(data, kind: str, seed: int, epochs: int) -> dict:
    """Training, test and dynamics with SchNetPack, in this process."""
    # Its simulator loads the whole model, as PyTorch did by default before 2.6.
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
    import numpy as np
    import torch
    import torch.utils.data.dataloader as loader

    # A name that SchNetPack 2.1 imports, and PyTorch no longer has.
    if not hasattr(loader, "T_co"):
        loader.T_co = typing.TypeVar("T_co", covariant=True)
    import schnetpack
    from ase import Atoms
    from schnetpack import properties, transform
    from schnetpack.data.loader import _atoms_collate_fn

    torch.manual_seed(seed)
    prepare = [transform.MatScipyNeighborList(cutoff=CUTOFF), transform.CastTo32()]

    def inputs(atoms):
        one = {
            properties.n_atoms: torch.tensor([len(atoms)]),
            properties.Z: torch.tensor(atoms.numbers),
            properties.R: torch.tensor(atoms.positions),
            properties.cell: torch.zeros(1, 3, 3, dtype=torch.float64),
            properties.pbc: torch.zeros(3, dtype=torch.bool),
            properties.idx: torch.tensor([0]),
        }
        for step in prepare:
            one = step(one)
        return one

    frames = {p: [inputs(Atoms(data["species"], r)) for r in data[f"{p}_positions"]] for p in ("train", "test")}
    energies, forces = (torch.tensor(data[f"train_{n}"], dtype=torch.float32) for n in ("energy", "forces"))
    basis = schnetpack.nn.GaussianRBF(n_rbf=RADIAL, cutoff=CUTOFF)
    of_kind = {"PaiNN": schnetpack.representation.PaiNN, "SchNet": schnetpack.representation.SchNet}[kind]
    model = schnetpack.model.NeuralNetworkPotential(
        representation=of_kind(WIDTH, LAYERS, basis, schnetpack.nn.CosineCutoff(CUTOFF)),
        input_modules=[schnetpack.atomistic.PairwiseDistances()],
        output_modules=[
            schnetpack.atomistic.Atomwise(WIDTH, output_key="energy"),
            schnetpack.atomistic.Forces(),
        ],
    )
    steps = epochs * (len(energies) // BATCH)
    optimiser = torch.optim.Adam(model.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)

    def collated(which):
        return _atoms_collate_fn([frames["train"][i] for i in which]), energies[which], forces[which].reshape(-1, 3)

    def trained(batch):
        given, energy, force = batch
        optimiser.zero_grad()
        found = model(dict(given))
        apart = (found["energy"] - energy) / len(data["species"]) / ENERGY
        loss = torch.mean(apart**2) + torch.mean(((found["forces"] - force) / FORCE) ** 2)
        loss.backward()
        optimiser.step()

    order = np.concatenate([np.random.default_rng([seed, e]).permutation(len(energies)) for e in range(epochs)])
    began = time.time()
    for which in order.reshape(-1, BATCH):
        trained(collated(which))
        schedule.step()
    took = time.time() - began
    parts = [_atoms_collate_fn(frames["test"][i : i + 50]) for i in range(0, len(frames["test"]), 50)]
    found = [model(p) for p in parts]
    metrics = scores(data, *(np.concatenate([f[n].detach().numpy() for f in found]) for n in ("energy", "forces")))
    seconds = time.time() - STARTED
    batch = collated(np.arange(BATCH))
    return {
        "version": metadata.version("schnetpack"),
        "metrics": metrics,
        "seconds": seconds,
        "seconds_per_epoch": took / epochs,
        "parameters": sum(p.numel() for p in model.parameters()),
        "settings": {
            "milliseconds_per_training_step": _milliseconds(lambda: trained(batch)),
            "milliseconds_per_dynamics_step": simulated(model, Atoms(data["species"], data["test_positions"][0])),
        },
    }


def simulated(model, atoms) -> float:
    """Milliseconds of a step of the simulator of SchNetPack."""
    import torch
    from schnetpack import transform
    from schnetpack.md import Simulator, System, UniformInit
    from schnetpack.md.calculators import SchNetPackCalculator
    from schnetpack.md.integrators import VelocityVerlet
    from schnetpack.md.neighborlist_md import NeighborListMD

    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "model")
        torch.save(model, path)
        neighbours = NeighborListMD(CUTOFF, 1.0, transform.MatScipyNeighborList)
        forces = SchNetPackCalculator(
            path, "forces", "eV", "Angstrom", neighbours, energy_key="energy", required_properties=[]
        )
    system = System()
    system.load_molecules(atoms, 1, position_unit_input="Angstrom")
    UniformInit(300.0).initialize_system(system)
    run = Simulator(system, VelocityVerlet(0.5), forces, simulator_hooks=[], progress=False)
    run.simulate(20)
    began = time.perf_counter()
    run.simulate(MOVED)
    return 1e3 * (time.perf_counter() - began) / MOVED


def with_this(data, kind: str, seed: int, epochs: int) -> dict:
    """The same with this package."""
    import equinox as eqx
    import jax
    import optax

    import sciml
    from sciml import molecules

    def part(name):
        labels = {"energy": data[f"{name}_energy"]}, {"forces": data[f"{name}_forces"]}
        return molecules.frames(data[f"{name}_positions"], data["species"], labels=labels[0], atom_labels=labels[1])

    train, test = part("train"), part("test")
    of_kind = {"PaiNN": molecules.PaiNN, "SchNet": molecules.SchNet}[kind]
    key = jax.random.key(seed)
    model = of_kind([1, 6, 8], CUTOFF, width=WIDTH, layers=LAYERS, radial=RADIAL, key=key)
    steps = epochs * (len(train) // BATCH)
    optimiser = optax.adam(optax.cosine_decay_schedule(RATE, steps))
    loss = molecules.potential_misfit(energy=ENERGY, forces=FORCE)
    batches = molecules.batches(train, CUTOFF, BATCH, buckets=1, seed=seed)
    began = time.time()
    model, _ = sciml.fit(model, loss, batches, optimiser, steps=steps, report=None)
    took = time.time() - began
    found = molecules.predicted(model, test, CUTOFF)
    metrics = scores(data, found.labels["energy"], found.atom_labels["forces"])
    seconds = time.time() - STARTED
    batch = jax.tree.map(jax.numpy.asarray, next(iter(batches)))
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def value(params):
        return sum(jax.numpy.mean(r**2) for r in loss(eqx.combine(params, static), batch).values())

    @jax.jit
    def step(params, state):
        updates, state = optimiser.update(jax.grad(value)(params), state, params)
        return optax.apply_updates(params, updates), state

    carry = [params, optimiser.init(params)]

    def trained():
        carry[:] = jax.block_until_ready(step(*carry))

    def moved():
        molecules.dynamics(
            model, molecules.structure(test[0], CUTOFF), cutoff=CUTOFF, steps=MOVED, step=0.5, key=key, progress=False
        )

    moved()
    began = time.perf_counter()
    moved()
    return {
        "version": metadata.version("sciml-jax"),
        "metrics": metrics,
        "seconds": seconds,
        "seconds_per_epoch": took / epochs,
        "parameters": sum(a.size for a in jax.tree.leaves(params)),
        "settings": {
            "milliseconds_per_dynamics_step": 1e3 * (time.perf_counter() - began) / MOVED,
            "milliseconds_per_training_step": _milliseconds(trained),
        },
    }


def scores(data, energy, forces) -> dict[str, float]:
    import numpy as np

    apart = forces.reshape(-1, 3) - data["test_forces"].reshape(-1, 3)
    return {
        "force_mae": float(np.abs(apart).mean()),
        "force_rmse": float(np.sqrt((apart**2).mean())),
        "energy_mae": float(np.abs(energy - data["test_energy"]).mean()),
    }


def _milliseconds(function) -> float:
    for _ in range(5):
        function()
    times = []
    for _ in range(100):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return 1e3 * statistics.median(times)


def one(arguments) -> None:
    """A run in this process, printed as JSON."""
    import numpy as np

    run = with_schnetpack if arguments.one == "schnetpack" else with_this
    record = run(dict(np.load(arguments.data)), arguments.kind, arguments.seed, arguments.epochs)
    record["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(record))


def write_data(path: Path) -> None:
    """The frames of the problem, energies above the mean of its training set."""
    import numpy as np

    import sciml
    from sciml import molecules

    arrays = {}
    for name, count in (("train", 950), ("test", 1000)):
        found = molecules.frames_from_dataset(sciml.dataset("ethanol", part=name))[:count]
        arrays["species"] = found.species[: found.counts[0]]
        arrays[f"{name}_energy"] = found.labels["energy"]
        for label, values in (("positions", found.positions), ("forces", found.atom_labels["forces"])):
            arrays[f"{name}_{label}"] = values.reshape(count, -1, 3)
    mean = arrays["train_energy"].mean()
    for name in ("train", "test"):
        arrays[f"{name}_energy"] = arrays[f"{name}_energy"] - mean
    np.savez(path, **arrays)


def main(arguments) -> None:
    """All runs, and the file."""
    common = {
        "machine": f"{os.cpu_count()} CPU cores, Python {platform.python_version()}",
        "date": datetime.date.today().isoformat(),
        "command": "python tests/peers/ethanol.py --peer-python PYTHON",
        "epochs": arguments.epochs,
        "seed": arguments.seed,
    } | ({"note": arguments.note} if arguments.note else {})
    records = []
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "ethanol.npz"
        write_data(data)
        for kind in ("PaiNN", "SchNet"):
            for package in ("schnetpack", "sciml"):
                python = arguments.peer_python if package == "schnetpack" else sys.executable
                command = [python, __file__, "--one", package, "--data", str(data), "--kind", kind]
                command += ["--seed", str(arguments.seed), "--epochs", str(arguments.epochs)]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                records.append({"package": package, "model": kind} | json.loads(done.stdout.splitlines()[-1]) | common)
                print(json.dumps(records[-1]), flush=True)
    OUT.write_text(json.dumps(records, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--note", help="what a reader should know, such as what ran beside")
    parser.add_argument("--one", choices=["schnetpack", "sciml"])
    parser.add_argument("--kind", choices=["PaiNN", "SchNet"])
    parser.add_argument("--data")
    given = parser.parse_args()
    one(given) if given.one else main(given)
