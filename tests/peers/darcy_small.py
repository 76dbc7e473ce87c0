"""`darcy_small` with neuraloperator and with this package, on the same machine, one after the other.

    python tests/peers/darcy_small.py --peer-python PYTHON [--epochs 20] [--seeds 0 1 2]

PYTHON is an interpreter with `neuraloperator` and `torch` (the extra `peers`). Each run is a new process: imports,
data, compilation and evaluation count. Same data, epochs, batch size, width, layers and wavenumbers; neuraloperator
trains as its own example of this data set does (H1 loss, AdamW with learning rate 8e-3 and weight decay 1e-4, cosine
annealing, normalised outputs), with that example's settings and with those of this package's problem. Writes
problems/peers/darcy_small.json. Run it on an otherwise idle machine.
"""

import argparse
import datetime
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

STARTED = time.time()
OUT = Path(__file__).parents[2] / "problems" / "peers" / "darcy_small.json"
# Width, layers, wavenumbers from 0 up, padding of the domain, learning rate.
PEERS = {
    "FNO, its example": {"width": 32, "layers": 4, "modes": 9, "padding": None, "rate": 8e-3},
    "FNO, padded, rate of sciml": {"width": 32, "layers": 4, "modes": 8, "padding": 1.0, "rate": 2e-3},
}


def train_peer(data: Path, seed: int, epochs: int, settings: dict) -> dict:
    """One training with neuraloperator, in this process."""
    import neuralop
    import numpy as np
    import torch
    from neuralop.losses import H1Loss, LpLoss
    from neuralop.models import FNO

    arrays = np.load(data)
    torch.manual_seed(seed)
    fields = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    mean, std = fields["train_u"].mean(), fields["train_u"].std()
    modes = 2 * settings["modes"] - 1
    model = FNO(
        n_modes=(modes, modes),
        hidden_channels=settings["width"],
        in_channels=1,
        out_channels=1,
        n_layers=settings["layers"],
        domain_padding=settings["padding"],
    )
    optimiser = torch.optim.AdamW(model.parameters(), lr=settings["rate"], weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=epochs)
    loss, relative = H1Loss(d=2), LpLoss(d=2, p=2)
    began = time.time()
    for _ in range(epochs):
        order = torch.randperm(len(fields["train_a"]))
        for rows in order[: len(order) // 16 * 16].reshape(-1, 16):
            optimiser.zero_grad()
            value = loss(model(fields["train_a"][rows]) * std + mean, fields["train_u"][rows])
            value.backward()
            optimiser.step()
        schedule.step()
    trained = time.time() - began
    errors = {}
    with torch.no_grad():
        for name, part in (("relative_l2", "test"), ("relative_l2_32", "fine")):
            predicted = model(fields[f"{part}_a"]) * std + mean
            errors[name] = float(relative(predicted, fields[f"{part}_u"])) / len(predicted)
    return {
        "version": neuralop.__version__,
        "metrics": errors,
        "seconds_per_epoch": trained / epochs,
        "parameters": sum(p.numel() * (2 if p.is_complex() else 1) for p in model.parameters()),
    }


def train_own(seed: int, epochs: int) -> dict:
    """The problem as `sciml run` has it, without the baselines."""
    import equinox as eqx
    import jax

    import sciml

    made = sciml.problem("darcy_small", epochs=epochs, seed=seed)
    began = time.time()
    model, _ = sciml.fit(
        made.model, made.loss, made.data, made.optimiser, steps=made.steps, key=jax.random.key(seed), report=None
    )
    trained = time.time() - began
    leaves = jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))
    return {
        "version": None,
        "metrics": {name: float(value) for name, value in made.evaluate(model).items()},
        "seconds_per_epoch": trained / epochs,
        "parameters": sum(leaf.size for leaf in leaves),
    }


def one(arguments) -> None:
    """A run in this process, printed as JSON."""
    settings = json.loads(arguments.settings)
    if arguments.one == "peer":
        record = train_peer(Path(arguments.data), arguments.seeds[0], arguments.epochs, settings)
    else:
        record = train_own(arguments.seeds[0], arguments.epochs)
    record["seconds"] = time.time() - STARTED
    record["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(record))


def run(python: str, kind: str, data: Path, seed: int, epochs: int, settings: dict) -> dict:
    """A run in a new process, with cold compilation."""
    command = [python, __file__, "--one", kind, "--data", str(data), "--seeds", str(seed), "--epochs", str(epochs)]
    command += ["--settings", json.dumps(settings)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ)
    return json.loads(done.stdout.splitlines()[-1])


def write_data(path: Path) -> None:
    """The data as arrays, which need none of this package to be read."""
    import numpy as np

    import sciml

    found = {}
    for name, part in (("train", "train"), ("test", "test_16"), ("fine", "test_32")):
        read = sciml.dataset("darcy_small", part=part).read()
        found[f"{name}_a"] = read["x"].astype("float32")[:, None]
        found[f"{name}_u"] = read["y"][:, None]
    np.savez(path, **found)


def main(arguments) -> None:
    """All runs, and the file."""

    common = {
        "epochs": arguments.epochs,
        "machine": f"{os.cpu_count()} CPU cores, Python {platform.python_version()}",
        "date": datetime.date.today().isoformat(),
        "command": "python tests/peers/darcy_small.py --peer-python PYTHON",
    }
    records = []
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "darcy.npz"
        write_data(data)
        for seed in arguments.seeds:
            made = [("sciml", "FNO", run(sys.executable, "own", data, seed, arguments.epochs, {}), {})]
            for model, settings in PEERS.items():
                found = run(arguments.peer_python, "peer", data, seed, arguments.epochs, settings)
                made.append(("neuraloperator", model, found, settings))
            for package, model, found, settings in made:
                record = {"package": package, "model": model, "seed": seed} | found | common
                record["version"] = found["version"] or metadata.version("sciml-jax")
                record["settings"] = settings
                records.append(record)
                print(package, model, seed, found["metrics"], round(found["seconds"], 1), flush=True)
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(records, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--one", choices=["own", "peer"])
    parser.add_argument("--data")
    parser.add_argument("--settings", default="{}")
    given = parser.parse_args()
    one(given) if given.one else main(given)
