"""A neural ODE on the real pendulum with torchdiffeq, torchdyn and this package, on the same machine, one by one.

    python tests/peers/pendulum.py --peer-python PYTHON [--epochs 1000] [--seeds 0 1 2]

PYTHON is an interpreter with `torch`, `torchdiffeq` and `torchdyn`. Each run is a new process: imports, data,
compilation and evaluation count. All have the same network (2-32-32-2, tanh, in single precision), the same data
(windows of ten intervals without a gap within the first 80 % of the recording, all of them at once), the same solver
and tolerances (Dormand and Prince's of order 5, 1e-5 relative and 1e-7 absolute) and the same epochs of Adam, of one
gradient each, at a rate of 5e-3. torchdiffeq and torchdyn take one step for all windows, Diffrax one for each, and all
differentiate through the steps. The test is that of the published protocol: mean squares of what the quotients of
consecutive states are off by. Writes problems/peers/pendulum.json. Run it on an otherwise idle machine.
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
OUT = Path(__file__).parents[2] / "problems" / "peers" / "pendulum.json"
PACKAGES = ("sciml", "torchdiffeq", "torchdyn")
INTERVALS, WIDTH, RATE, RTOL, ATOL = 10, 32, 5e-3, 1e-5, 1e-7


def train_peer(data: Path, seed: int, epochs: int, package: str) -> dict:
    """One training with torchdiffeq or torchdyn, in this process."""
    import numpy as np
    import torch

    torch.manual_seed(seed)
    arrays = {name: torch.from_numpy(array) for name, array in np.load(data).items()}
    layers = [torch.nn.Linear(2, WIDTH), torch.nn.Tanh(), torch.nn.Linear(WIDTH, WIDTH), torch.nn.Tanh()]
    network = torch.nn.Sequential(*layers, torch.nn.Linear(WIDTH, 2))
    optimiser = torch.optim.Adam(network.parameters(), lr=RATE)
    solve = solver(package, lambda t, y: network(y))

    def epoch():
        optimiser.zero_grad()
        loss = torch.mean((solve(arrays["ys"][:, 0], arrays["ts"]).transpose(0, 1) - arrays["ys"]) ** 2)
        loss.backward()
        optimiser.step()

    took = timed(epoch, epochs)
    with torch.no_grad():
        found = solve(arrays["test"][:-1], arrays["ts"][:2])[1].numpy()
    return {
        "version": metadata.version(package),
        "metrics": {"one_step_loss": one_step_loss(found, np.load(data))},
        "seconds_per_epoch": took,
        "parameters": sum(p.numel() for p in network.parameters()),
    }


def solver(package: str, field):
    """`(y0, ts) -> ys` of a package, with the time first."""
    if package == "torchdyn":
        from torchdyn.numerics import odeint

        # What its `NeuralODE` calls where it differentiates through the steps.
        options = {"solver": "dopri5", "rtol": RTOL, "atol": ATOL}
        return lambda y0, ts: odeint(lambda t, y, args=None: field(t, y), y0, ts, **options)[1]
    import torchdiffeq

    return lambda y0, ts: torchdiffeq.odeint(field, y0, ts, method="dopri5", rtol=RTOL, atol=ATOL)


def train_own(data: Path, seed: int, epochs: int) -> dict:
    """One training with this package, in this process."""
    import diffrax
    import equinox as eqx
    import jax
    import numpy as np
    import optax

    import sciml
    from sciml import ode

    arrays = np.load(data)
    steps = ode.Steps(diffrax.Dopri5(), RTOL, ATOL)
    model = ode.neural_ode(2, WIDTH, 2, steps=steps, key=jax.random.key(seed))
    ys = arrays["ys"]
    batch = ode.Trajectories(ys[:, 0], np.tile(arrays["ts"], (len(ys), 1)), None, ys)
    state, marks = None, []
    for state in sciml.train(
        model, ode.trajectory_misfit(), lambda key: batch, optax.adam(RATE), steps=epochs, every=max(1, epochs // 10)
    ):
        marks.append((state.step, time.perf_counter()))
    assert state is not None
    (early, began), (late, ended) = marks[0], marks[-1]
    test = arrays["test"]
    pairs = ode.Trajectories(test[:-1], np.tile(arrays["ts"][:2], (len(test) - 1, 1)), None, None)
    found = np.asarray(ode.predicted(state.model, pairs))[:, 1]
    return {
        "version": None,
        "metrics": {"one_step_loss": one_step_loss(found, arrays)},
        "seconds_per_epoch": (ended - began) / max(1, late - early),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))),
    }


def timed(epoch, epochs: int) -> float:
    """Runs them, and returns the seconds of one after the first tenth."""
    first = max(1, epochs // 10)
    for _ in range(first):
        epoch()
    began = time.perf_counter()
    for _ in range(epochs - first):
        epoch()
    return (time.perf_counter() - began) / max(1, epochs - first)


def one_step_loss(found, arrays) -> float:
    """That of the published protocol, from the states after one interval."""
    return float((((found - arrays["test"][1:]) / (arrays["ts"][1] - arrays["ts"][0])) ** 2).mean())


def one(arguments) -> None:
    """A run in this process, printed as JSON."""
    data, seed = Path(arguments.data), arguments.seeds[0]
    if arguments.one == "sciml":
        record = train_own(data, seed, arguments.epochs)
    else:
        record = train_peer(data, seed, arguments.epochs, arguments.one)
    record["seconds"] = time.time() - STARTED
    record["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(record))


def run(python: str, kind: str, data: Path, seed: int, epochs: int) -> dict:
    """A run in a new process, with cold compilation."""
    command = [python, __file__, "--one", kind, "--data", str(data), "--seeds", str(seed), "--epochs", str(epochs)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ)
    return json.loads(done.stdout.splitlines()[-1])


def write_data(path: Path) -> None:
    """The data as arrays, which need none of this package to be read."""
    import numpy as np

    import sciml

    rows = sciml.dataset("pendulum").to_xarray()
    ts, states = rows["t"].values, np.stack([rows["angle"].values, rows["velocity"].values], 1)
    first = int(0.8 * (len(ts) - 1))
    last = first + int((1 - 0.8) * (len(ts) - 1))
    usual = np.diff(ts).min()
    begins = [i for i in range(first - INTERVALS) if ts[i + INTERVALS] - ts[i] < (INTERVALS + 0.5) * usual]
    windows = np.stack([states[i : i + INTERVALS + 1] for i in begins[:: INTERVALS // 2]])
    arrays = {"ts": usual * np.arange(INTERVALS + 1), "ys": windows, "test": states[first : last + 1]}
    np.savez(path, **{name: array.astype("float32") for name, array in arrays.items()})


def main(arguments) -> None:
    """All runs, and the file."""
    common = {
        "epochs": arguments.epochs,
        "machine": f"{os.cpu_count()} CPU cores, Python {platform.python_version()}",
        "date": datetime.date.today().isoformat(),
        "command": "python tests/peers/pendulum.py --peer-python PYTHON",
        "note": arguments.note,
        "settings": {"width": WIDTH, "rate": RATE, "rtol": RTOL, "atol": ATOL},
    }
    records = []
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "pendulum.npz"
        write_data(data)
        for seed in arguments.seeds:
            for package in PACKAGES:
                python = sys.executable if package == "sciml" else arguments.peer_python
                found = run(python, package, data, seed, arguments.epochs)
                record = {"package": package, "model": "neural ODE", "seed": seed} | found | common
                record["version"] = found["version"] or metadata.version("sciml-jax")
                records.append(record)
                print(package, seed, found["metrics"], round(found["seconds"], 1), found["seconds_per_epoch"])
    arguments.out.write_text(json.dumps(records, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--epochs", type=int, default=1000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--one", choices=PACKAGES)
    parser.add_argument("--out", type=Path, default=OUT, help="where the records go")
    parser.add_argument("--data")
    parser.add_argument("--note", help="such as what else ran on the machine")
    given = parser.parse_args()
    one(given) if given.one else main(given)
