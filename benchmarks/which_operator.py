"""Which operator when: every model on the same problems, each trained for the same time.

    python benchmarks/which_operator.py [--seconds 60] [NAME ...]

Data, loss, augmentation, optimiser and learning rate are those of the provided problem, the network is exchanged; the
rate falls to a third where training with it diverges. The number of steps follows from the time that a compiled step
takes; compilation does not count. One seed, two cores. Writes benchmarks/which_operator.json.
"""

import argparse
import dataclasses
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

# For one input and one output channel; `grid` says which axes.
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


def darcy(steps: int) -> sciml.Problem:
    return sciml.problem("darcy", epochs=max(1, round(steps / 125)))


def navier_stokes(steps: int) -> sciml.Problem:
    return sciml.problem("navier_stokes", steps=steps, through=1)


# The problem with a number of steps, where its network is, the network's channels and axes.
PROBLEMS: dict[str, tuple] = {
    "darcy": (darcy, lambda model: model.model.model, 1, operators.Bounded(points=operators.ends)),
    "navier_stokes": (navier_stokes, lambda model: model.model.network.network, 3, operators.Periodic()),
}


def exchanged(name: str, kind: str, steps: int) -> sciml.Problem:
    """The problem with another network."""
    make, place, channels, axis = PROBLEMS[name]
    made = make(steps)
    return dataclasses.replace(
        made, model=eqx.tree_at(place, made.model, NETWORKS[kind](channels, 1, axis, jax.random.key(0)))
    )


def fit(made: sciml.Problem, steps: int, optimiser=None):
    """Trained for so many steps, and the seconds that they took after the first few."""
    marks = []
    for state in sciml.train(
        made.model, made.loss, made.data, optimiser or made.optimiser, steps=steps, every=5, report=None
    ):
        marks.append((state.step, time.perf_counter()))
    (early, began), (late, ended) = marks[0], marks[-1]
    return state.model, (ended - began) / max(1, late - early)


def one(name: str, kind: str, seconds: float) -> dict:
    """A network on a problem."""
    _, each = fit(exchanged(name, kind, 1000), 20)
    steps = max(50, round(seconds / each))
    made = exchanged(name, kind, steps)
    model, each = fit(made, made.steps)
    metrics = {n: float(v) for n, v in made.evaluate(model).items()}
    if not np.isfinite(metrics["relative_l2"]):
        # The optimiser is linear in its rate: a third of each update is a third of the rate.
        model, each = fit(made, made.steps, optax.chain(made.optimiser, optax.scale(1 / 3)))
        metrics = {n: float(v) for n, v in made.evaluate(model).items()}
    leaves = jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))
    return metrics | {"ms per step": 1e3 * each, "steps": made.steps, "parameters": sum(x.size for x in leaves)}


def main(names: list[str], seconds: float) -> None:
    """All networks on these problems, each in a process of its own."""
    path = Path(__file__).with_suffix(".json")
    report = json.loads(path.read_text()) if path.exists() else {}
    for name in names or PROBLEMS:
        report[name] = {}
        for kind in NETWORKS:
            command = [sys.executable, __file__, name, "--one", kind, "--seconds", str(seconds)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            report[name][kind] = json.loads(done.stdout.splitlines()[-1])
            print(name, kind, report[name][kind], flush=True)
        report[name]["seconds of training"] = seconds
        report["machine"] = f"{os.cpu_count()} CPU cores, Python {platform.python_version()}, JAX {jax.__version__}"
        report["date"] = datetime.date.today().isoformat()
        path.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--one")
    given = parser.parse_args()
    if given.one:
        print(json.dumps(one(given.names[0], given.one, given.seconds)))
    else:
        main(given.names, given.seconds)
