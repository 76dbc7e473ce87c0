"""How often the truth of the inverse problems lies within 2 standard errors, over seeds of the data.

    python benchmarks/coverage.py [NAME ...] [--seeds 20] [--budget SECONDS] [--points N]

Each run is a solve of its own with the problem's default settings but for the seed of points and noise. Of a parameter
the number of runs within 2 standard errors is recorded, of a field the mean share of places. Writes
benchmarks/coverage.json and prints a line for each run. Independent Gaussian errors would lie within 2 standard
errors in 95.4 % of cases: in 16 to 20 of 20 runs with a probability of 99.8 %.
"""

import argparse
import datetime
import json
import os
import platform
import time
from pathlib import Path

import jax
import numpy as np

import sciml
from sciml._problem import load_module, read_card

FILE = Path(__file__).with_suffix(".json")
NAMES = ("burgers_inverse", "heat_conductivity", "poisson_coefficient")


def run(name: str, seed: int, budget: float | None, settings: dict) -> dict:
    """One solve: its metrics and seconds."""
    path = sciml.problems()[name]
    module = load_module(path)
    start = time.perf_counter()
    budget = read_card(path).budget if budget is None else budget
    solution = sciml.solve(module.problem(data_seed=seed, **settings), budget=budget, report=None)
    seconds = time.perf_counter() - start
    metrics = solution.error() | module.evaluate(solution)
    found = {"seed": seed, "seconds": round(seconds, 1), "method": solution.chosen["method"]}
    return found | {"metrics": {k: float(f"{v:.4g}") for k, v in metrics.items()}}


def within(runs: list[dict]) -> list[float]:
    """By run, the share of what was found that lies within 2 standard errors."""
    shares = []
    for metrics in (r["metrics"] for r in runs):
        share = next((v for k, v in metrics.items() if k.endswith("_within_2_se")), None)
        shares.append(float(metrics["nu_deviations"] <= 2) if share is None else share)
    return shares


def main(names: list[str], seeds: int, budget: float | None, settings: dict) -> None:
    """Runs the problems, seed after seed, and writes the file after each run."""
    results = json.loads(FILE.read_text()) if FILE.exists() else {}
    runs: dict[str, list[dict]] = {name: [] for name in names}
    for seed in range(seeds):
        for name in names:
            runs[name].append(run(name, seed, budget, settings))
            jax.clear_caches()
            results[name] = summary(name, runs[name], budget, settings)
            FILE.write_text(json.dumps(results, indent=1) + "\n")
            print(name, runs[name][-1], results[name]["within_2_standard_errors"], flush=True)


def summary(name: str, runs: list[dict], budget: float | None, settings: dict) -> dict:
    """The shares within 2 standard errors, and under which circumstances they were found."""
    shares = within(runs)
    return {
        "within_2_standard_errors": round(float(np.mean(shares)), 4),
        "by_seed": shares,
        "budget": budget or read_card(sciml.problems()[name]).budget,
        "settings": settings,
        "runs": runs,
        "versions": {"python": platform.python_version(), "jax": jax.__version__},
        "machine": {"cpus": os.cpu_count(), "kind": platform.machine()},
        "date": datetime.date.today().isoformat(),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--budget", type=float, default=None)
    parser.add_argument("--points", type=int, default=None)
    given = parser.parse_args()
    main(given.names, given.seeds, given.budget, {} if given.points is None else {"points": given.points})
