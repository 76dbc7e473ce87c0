"""Which operator when: every model on the same problems, each trained for the same time.

    python benchmarks/which_operator.py [NAME ...] [--networks FNO UNet ...] [--seconds 60]

Data, loss and augmentation are those of the provided problem, the network is exchanged; AdamW with a cosine schedule,
with a third of the learning rate where training diverges. The number of steps follows from the time that a compiled
step takes; compilation does not count. One seed. Writes benchmarks/which_operator.json.
"""

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import optax

import sciml
from sciml import operators

# From channels in and out, an axis and a key.
NETWORKS: dict[str, Callable] = {
    "FNO": lambda i, o, axes, key: operators.FNO(i, o, modes=(12, 12), width=32, expansion=1.0, axes=axes, key=key),
    "UNO": lambda i, o, axes, key: operators.UNO(i, o, modes=(12, 12), width=32, axes=axes, key=key),
    "LocalOperator": lambda i, o, axes, key: operators.LocalOperator(i, o, width=32, axes=axes, key=key),
    "UNet": lambda i, o, axes, key: operators.UNet(i, o, width=16, levels=3, axes=axes, key=key),
    "ConvNextUNet": lambda i, o, axes, key: operators.ConvNextUNet(i, o, width=16, levels=3, axes=axes, key=key),
    "DilatedResNet": lambda i, o, axes, key: operators.DilatedResNet(i, o, width=32, blocks=2, axes=axes, key=key),
    "AxialTransformer": lambda i, o, axes, key: operators.AxialTransformer(
        i, o, width=48, layers=3, axes=axes, key=key
    ),
    "VisionTransformer": lambda i, o, axes, key: operators.VisionTransformer(i, o, width=96, axes=axes, key=key),
    "Transolver": lambda i, o, axes, key: operators.OnGrid(operators.Transolver(i, o, width=48, key=key), axes=axes),
}
# Settings, where the network is, its channels and its axes.
PROBLEMS: dict[str, tuple] = {
    "darcy": ({}, lambda model: model.model.model, 1, operators.Bounded(points=operators.ends)),
    "navier_stokes": ({"through": 1}, lambda model: model.model.network.network, 3, operators.Periodic()),
}
RATE = 3e-3


def fit(made: sciml.Problem, model, steps: int, rate: float):
    """The trained model, and the seconds of a step after the first few."""
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, steps // 10, steps)
    optimiser = optax.adamw(schedule, weight_decay=0.01)
    marks, state = [], None
    for state in sciml.train(model, made.loss, made.data, optimiser, steps=steps, every=5):
        marks.append((state.step, time.perf_counter()))
    assert state is not None
    (early, began), (late, ended) = marks[0], marks[-1]
    return state.model, (ended - began) / max(1, late - early)


def one(name: str, kind: str, seconds: float) -> dict:
    """A network on a problem."""
    settings, place, channels, axis = PROBLEMS[name]
    made = sciml.problem(name, **settings)
    model = eqx.tree_at(place, made.model, NETWORKS[kind](channels, 1, axis, jax.random.key(0)))
    _, each = fit(made, model, 20, RATE)
    steps = max(50, round(seconds / each))
    for rate in (RATE, RATE / 3):
        trained, each = fit(made, model, steps, rate)
        metrics = {n: float(v) for n, v in made.evaluate(trained).items()}
        if np.isfinite(metrics["relative_l2"]):
            break
    leaves = jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))
    facts = {"seconds": seconds, "rate": rate, "ms per step": round(1e3 * each, 1), "steps": steps}
    return metrics | facts | {"parameters": sum(x.size for x in leaves)}


def main(names: list[str], networks: list[str], seconds: float) -> None:
    """These networks on these problems, each in a process of its own."""
    path = Path(__file__).with_suffix(".json")
    report = json.loads(path.read_text()) if path.exists() else {}
    for name in names or PROBLEMS:
        report.setdefault(name, {})
        for kind in networks or NETWORKS:
            command = [sys.executable, __file__, name, "--one", kind, "--seconds", str(seconds)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            report[name][kind] = json.loads(done.stdout.splitlines()[-1])
            print(name, kind, report[name][kind], flush=True)
            report["machine"] = f"{os.cpu_count()} CPU cores, Python {platform.python_version()}, JAX {jax.__version__}"
            report["date"] = datetime.date.today().isoformat()
            path.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--networks", nargs="+", default=[])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--one")
    given = parser.parse_args()
    if given.one:
        print(json.dumps(one(given.names[0], given.one, given.seconds)))
    else:
        main(given.names, given.networks, given.seconds)
