"""One training step of an FNO, with this package and with neuraloperator, at several sizes.

    python benchmarks/operators.py --peer-python PYTHON

PYTHON is an interpreter with `neuraloperator` and `torch` (the extra `peers`). Batch of 16 (4 in three dimensions),
width 32, four layers, float32, mean squared error, Adam. Both have the same wavenumbers and numbers of parameters equal
to 1 %: neuraloperator's FNO with its default settings (channel perceptrons of half the width, hence `expansion=0.5`
here) and no padding, ours on periodic axes. "chunked" is `sciml.chunked` with the rows that the table names; "whole" is
the plain loss. Each measurement is a process of its own: the least of 10 steps after three, and the peak of the
process's resident memory less what it was before the model and data were made (imports of JAX and of torch differ).
That of this package includes the compiler's; "compiled before" is "chunked" with the program from JAX's cache on disk,
as every run but the first has it. Processes alternate, three times; the medians are written to
benchmarks/operators.json.
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
from pathlib import Path

# Grid, wavenumbers from 0 up, batch, rows of a chunk.
SIZES = {
    "2-D 16": ((16, 16), 8, 16, 16),
    "2-D 64": ((64, 64), 16, 16, 4),
    "2-D 128": ((128, 128), 16, 16, 1),
    "1-D 1024": ((1024,), 16, 16, 4),
    "3-D 32": ((32, 32, 32), 8, 4, 1),
}
STEPS = 10
ROUNDS = 3


def peer_step(grid, modes, batch):
    """A function that takes a step with neuraloperator, and the number of its parameters."""
    import torch
    from neuralop.models import FNO

    torch.manual_seed(0)
    count = tuple(2 * modes - 1 for _ in grid)
    model = FNO(n_modes=count, hidden_channels=32, in_channels=1, out_channels=1, n_layers=4)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    x, y = torch.randn(batch, 1, *grid), torch.randn(batch, 1, *grid)

    def step():
        optimiser.zero_grad()
        torch.nn.functional.mse_loss(model(x), y).backward()
        optimiser.step()

    return step, sum(p.numel() * (2 if p.is_complex() else 1) for p in model.parameters())


def own_step(grid, modes, batch, rows):
    """The same with this package; all rows at once where `rows` is 0."""
    import equinox as eqx
    import jax
    import optax

    import sciml

    model = sciml.operators.FNO(1, 1, modes=tuple(modes for _ in grid), width=32, layers=4, key=jax.random.key(0))
    loss = sciml.chunked(sciml.misfit, rows) if rows else sciml.misfit
    optimiser = optax.adam(1e-3)
    params, static = eqx.partition(model, eqx.is_inexact_array)
    state = [params, optimiser.init(params)]
    data = tuple(jax.random.normal(jax.random.key(i), (batch, 1, *grid)) for i in (1, 2))

    @jax.jit
    def update(params, state, data):
        def total(p):
            return sum((r**2).mean() for r in loss(eqx.combine(p, static), data).values())

        updates, state = optimiser.update(jax.grad(total)(params), state, params)
        return eqx.apply_updates(params, updates), state

    def step():
        state[:] = jax.block_until_ready(update(*state, data))

    return step, sum(leaf.size for leaf in jax.tree.leaves(params))


def memory() -> float:
    """The peak of this process's memory, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def one(kind: str, size: str) -> dict:
    """A measurement in this process."""
    grid, modes, batch, rows = SIZES[size]
    if kind == "neuraloperator":
        import neuralop.models  # noqa: F401
    else:
        import jax

        import sciml  # noqa: F401

        jax.devices()
    before = memory()
    began = time.perf_counter()
    if kind == "neuraloperator":
        step, parameters = peer_step(grid, modes, batch)
    else:
        step, parameters = own_step(grid, modes, batch, 0 if kind == "whole" else rows)
    for _ in range(3):
        step()
    first = time.perf_counter() - began
    times = []
    for _ in range(STEPS):
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    return {"ms": 1e3 * min(times), "start s": first, "memory MB": memory() - before, "parameters": parameters}


def run(peer_python: str, kind: str, size: str, cache: str) -> dict:
    """A measurement in a new process."""
    settings = {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    done = subprocess.run(
        [peer_python if kind == "neuraloperator" else sys.executable, __file__, "--one", kind, "--size", size],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | (settings if kind == "compiled before" else {}),
    )
    return json.loads(done.stdout.splitlines()[-1])


def main(peer_python: str, names: list[str]) -> None:
    """All measurements, and the table."""
    path = Path(__file__).with_suffix(".json")
    report = json.loads(path.read_text()) if path.exists() else {}
    for name in names or SIZES:
        found: dict = {"neuraloperator": [], "whole": [], "chunked": [], "compiled before": []}
        with tempfile.TemporaryDirectory() as cache:
            run(peer_python, "compiled before", name, cache)
            for _ in range(ROUNDS):
                for kind, records in found.items():
                    records.append(run(peer_python, kind, name, cache))
        row = {k: {f: round(statistics.median(r[f] for r in v), 2) for f in v[0]} for k, v in found.items()}
        row["rows of a chunk"] = SIZES[name][3]
        row["times as fast"] = round(row["neuraloperator"]["ms"] / row["chunked"]["ms"], 2)
        report[name] = row
        report["machine"] = f"{os.cpu_count()} CPU cores, Python {platform.python_version()}"
        report["date"] = datetime.date.today().isoformat()
        path.write_text(json.dumps(report, indent=1) + "\n")
        print(name, row, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--one")
    parser.add_argument("--size")
    parser.add_argument("names", nargs="*")
    given = parser.parse_args()
    if given.one:
        print(json.dumps(one(given.one, given.size)))
    else:
        main(given.peer_python, given.names)
