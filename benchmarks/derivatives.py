"""The derivative planner against `jax.hessian` and nested `jax.grad`: loss and parameter gradient of a Laplacian.

    python benchmarks/derivatives.py

MLP with three hidden layers of 64 tanh units, float32; 2048 points in two dimensions and 512 in ten. The methods are
timed in turn, so that a drift of the machine's speed meets them all; medians in milliseconds, compilation excluded.
"""

import datetime
import json
import os
import platform
import statistics
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp

from sciml.pde import Laplacian, derivatives

ROUNDS = 40


def by_hessian(network, point):
    """The trace of the full Hessian."""
    return jnp.trace(jax.hessian(network)(point))


def by_nested_grad(network, point):
    """The gradient of each component of the gradient."""
    gradient = jax.grad(network)
    return sum(jax.grad(lambda p, i=i: gradient(p)[i])(point)[i] for i in range(point.size))


def by_planner(network, point):
    """One sweep of the planner."""
    laplacian = Laplacian(range(point.size))
    return derivatives(network, point, [laplacian])[laplacian]


METHODS = {"hessian": by_hessian, "nested grad": by_nested_grad, "planner": by_planner}


def measure(dim: int, count: int) -> dict[str, float]:
    """Median milliseconds by method."""
    network = eqx.nn.MLP(dim, "scalar", 64, 3, jnp.tanh, key=jax.random.key(0))
    points = jax.random.uniform(jax.random.key(1), (count, dim))

    def compiled(method):
        def loss(n):
            return jnp.mean(jax.vmap(lambda p: method(n, p))(points) ** 2)

        return eqx.filter_jit(eqx.filter_value_and_grad(loss))

    functions = {name: compiled(method) for name, method in METHODS.items()}
    times = {name: [] for name in functions}
    for function in functions.values():
        jax.block_until_ready(function(network))
    for _ in range(ROUNDS):
        for name, function in functions.items():
            start = time.perf_counter()
            jax.block_until_ready(function(network))
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: round(statistics.median(t), 2) for name, t in times.items()}


if __name__ == "__main__":
    results = {f"{dim}-D, {count} points": measure(dim, count) for dim, count in ((2, 2048), (10, 512))}
    for case, found in results.items():
        ratios = {n: round(t / found["planner"], 1) for n, t in found.items()}
        print(case, found, "ms; ratio to the planner", ratios)
    about = {
        "jax": jax.__version__,
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "date": datetime.date.today().isoformat(),
    }
    path = Path(__file__).with_name("derivatives.json")
    path.write_text(json.dumps({"milliseconds": results} | about, indent=1) + "\n")
