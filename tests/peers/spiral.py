"""`spiral` with torchdiffeq and with this package, on the same machine, one after the other.

    python tests/peers/spiral.py --peer-python PYTHON [--iterations 2000] [--seeds 0 1 2] [--note TEXT]

PYTHON is an interpreter with `torch`, `torchdiffeq` and `torchdyn` (the extra `peers`). Each run is a new process:
imports, data, compilation and evaluation count. torchdiffeq trains as its own example does (`examples/ode_demo.py`): a
network of y^3 with 50 hidden units, Dopri5 with tolerances 1e-7 and 1e-9, single precision, 2,000 iterations of RMSprop
(1e-3) on the mean absolute error of 20 random windows of 10 times. torchdyn does the same, and this package with
Diffrax's Dopri5, and besides what its problem `spiral` does by default. `settings` has the milliseconds of one gradient
of the same batch, after compilation, the median of 100. Writes problems/peers/spiral.json. Run it on an otherwise idle
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
from importlib import metadata
from pathlib import Path

STARTED = time.time()
OUT = Path(__file__).parents[2] / "problems" / "peers" / "spiral.json"
WIDTH, BATCH, WINDOW, RATE = 50, 20, 10, 1e-3
TOLERANCES = {"rtol": 1e-7, "atol": 1e-9}


def train_peer(data: Path, seed: int, iterations: int, package: str) -> dict:
    """One training with torchdiffeq or torchdyn, in this process."""
    import numpy as np
    import torch

    arrays = np.load(data)
    ts, truth = (torch.from_numpy(arrays[name].astype("float32")) for name in ("ts", "truth"))
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    network = torch.nn.Sequential(torch.nn.Linear(2, WIDTH), torch.nn.Tanh(), torch.nn.Linear(WIDTH, 2))
    for layer in (network[0], network[2]):
        torch.nn.init.normal_(layer.weight, std=0.1)
        torch.nn.init.zeros_(layer.bias)
    solve = solver(package, lambda t, y: network(y**3))
    optimiser = torch.optim.RMSprop(network.parameters(), lr=RATE)

    def gradient(begins):
        optimiser.zero_grad()
        windows = truth[begins[:, None] + np.arange(WINDOW)]
        value = torch.mean(torch.abs(solve(windows[:, 0], ts[:WINDOW]).transpose(0, 1) - windows))
        value.backward()

    began = time.time()
    for _ in range(iterations):
        gradient(random.choice(len(ts) - WINDOW, BATCH, replace=False))
        optimiser.step()
    trained = time.time() - began
    with torch.no_grad():
        apart = solve(truth[0], ts) - truth
    error = float(torch.linalg.norm(apart) / torch.linalg.norm(truth))
    seconds = time.time() - STARTED
    begins = np.arange(0, BATCH * 40, 40)
    return {
        "version": metadata.version(package),
        "metrics": {"relative_l2": error},
        "seconds": seconds,
        "seconds_per_epoch": trained / iterations,
        "epochs": iterations,
        "parameters": sum(p.numel() for p in network.parameters()),
        "settings": {"milliseconds_per_gradient": _milliseconds(lambda: gradient(begins))},
    }


def solver(package: str, field):
    """`(y0, ts) -> ys` of a package, with the time first."""
    if package == "torchdyn":
        from torchdyn.numerics import odeint

        # What its `NeuralODE` calls where it differentiates through the steps.
        options = {"solver": "dopri5", **TOLERANCES}
        return lambda y0, ts: odeint(lambda t, y, args=None: field(t, y), y0, ts, **options)[1]
    import torchdiffeq

    return lambda y0, ts: torchdiffeq.odeint(field, y0, ts, method="dopri5", **TOLERANCES)


def train_same(data: Path, seed: int, iterations: int) -> dict:
    """The same training with this package."""
    import diffrax
    import equinox as eqx
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    import sciml
    from sciml import nn, ode

    arrays = np.load(data)
    ts, truth = (jnp.asarray(arrays[name], jnp.float32) for name in ("ts", "truth"))
    keys = jax.random.split(jax.random.key(seed), 3)
    network = nn.mlp(2, 2, WIDTH, 1, key=keys[0])
    layers = lambda n: [n.layers[0].weight, n.layers[1].weight]  # noqa: E731
    weights = [0.1 * jax.random.normal(k, w.shape) for k, w in zip(keys[:2], layers(network))]
    network = eqx.tree_at(layers, network, weights)
    network = eqx.tree_at(lambda n: n.layers[0].bias, network, jnp.zeros(WIDTH))
    cubes = eqx.nn.Sequential([eqx.nn.Lambda(lambda y: y**3), network])
    model = ode.ODE(ode.Network(cubes), ode.Steps(diffrax.Dopri5(), **TOLERANCES))

    def windows(begins):
        found = truth[begins[:, None] + jnp.arange(WINDOW)]
        times = jnp.broadcast_to(ts[:WINDOW], (BATCH, WINDOW))
        return ode.Trajectories(found[:, 0], times, None, found)

    def draw(key):
        return windows(jax.random.choice(key, len(ts) - WINDOW, (BATCH,), replace=False))

    def loss(model, batch):
        return jnp.mean(jnp.abs(ode.predicted(model, batch) - batch.ys))

    optimiser = optax.rmsprop(RATE, decay=0.99, eps=1e-8, eps_in_sqrt=False)
    began = time.time()
    model, _ = sciml.fit(model, loss, draw, optimiser, steps=iterations, key=keys[2], report=None)
    trained = time.time() - began
    whole = ode.Trajectories(truth[:1], ts[None], None, truth[None])
    error = float(jnp.linalg.norm(ode.predicted(model, whole)[0] - truth) / jnp.linalg.norm(truth))
    seconds = time.time() - STARTED
    batch = windows(40 * jnp.arange(BATCH))
    gradient = eqx.filter_jit(eqx.filter_grad(loss))
    return {
        "version": None,
        "metrics": {"relative_l2": error},
        "seconds": seconds,
        "seconds_per_epoch": trained / iterations,
        "epochs": iterations,
        "parameters": sum(a.size for a in jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))),
        "settings": {"milliseconds_per_gradient": _milliseconds(lambda: jax.block_until_ready(gradient(model, batch)))},
    }


def train_own(seed: int) -> dict:
    """The problem as `sciml run` has it."""
    import equinox as eqx
    import jax

    import sciml

    made = sciml.problem("spiral", seed=seed)
    with sciml.double_precision():
        model, _ = sciml.fit(made.model, made.loss, made.data, made.optimiser, steps=made.steps, report=None)
    return {
        "version": None,
        "metrics": {"relative_l2": made.evaluations({"trained": model})["trained"]["relative_l2"]},
        "seconds": time.time() - STARTED,
        "parameters": sum(a.size for a in jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))),
        "settings": {},
    }


def _milliseconds(function) -> float:
    function()
    times = []
    for _ in range(100):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return 1e3 * statistics.median(times)


RUNS = {
    "torchdiffeq": ("torchdiffeq", "its example"),
    "torchdyn": ("torchdyn", "the same training"),
    "same": ("sciml", "the same training"),
    "own": ("sciml", "gradient matching, windows, Gauss-Newton"),
}


def one(arguments) -> None:
    """A run in this process, printed as JSON."""
    data, seed = Path(arguments.data), arguments.seeds[0]
    if arguments.one == "own":
        record = train_own(seed)
    elif arguments.one == "same":
        record = train_same(data, seed, arguments.iterations)
    else:
        record = train_peer(data, seed, arguments.iterations, arguments.one)
    record["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(record))


def run(python: str, kind: str, data: Path, seed: int, iterations: int) -> dict:
    """A run in a new process, with cold compilation."""
    command = [python, __file__, "--one", kind, "--data", str(data), "--seeds", str(seed)]
    command += ["--iterations", str(iterations)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ)
    return json.loads(done.stdout.splitlines()[-1])


def main(arguments) -> None:
    """All runs, and the file."""
    import numpy as np

    import sciml
    from sciml._problem import load_module

    common = {
        "machine": f"{os.cpu_count()} CPU cores, Python {platform.python_version()}",
        "date": datetime.date.today().isoformat(),
        "command": "python tests/peers/spiral.py --peer-python PYTHON",
    } | ({"note": arguments.note} if arguments.note else {})
    records = []
    with tempfile.TemporaryDirectory() as folder:
        data, ts = Path(folder) / "spiral.npz", np.linspace(0, 25, 1000)
        np.savez(data, ts=ts, truth=load_module(sciml.problems()["spiral"]).solution(ts, (2.0, 0.0)))
        for seed in arguments.seeds:
            for kind, (package, model) in RUNS.items():
                python = arguments.peer_python if package.startswith("torch") else sys.executable
                found = run(python, kind, data, seed, arguments.iterations)
                found["version"] = found["version"] or metadata.version("sciml-jax")
                records.append({"package": package, "model": model, "seed": seed} | found | common)
                print(package, model, seed, found["metrics"], round(found["seconds"], 1), flush=True)
    arguments.out.write_text(json.dumps(records, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--iterations", type=int, default=2000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--note", help="what a reader should know, such as what ran beside")
    parser.add_argument("--out", type=Path, default=OUT, help="where the records go")
    parser.add_argument("--one", choices=list(RUNS))
    parser.add_argument("--data")
    given = parser.parse_args()
    one(given) if given.one else main(given)
