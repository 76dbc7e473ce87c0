"""The figures of the README: every problem with its default budget, three seeds, each a whole run with cold caches.

    python benchmarks/figures.py [NAME ...] [--seeds 0 1 2]

Writes benchmarks/figures.json and prints the table. Run it on an otherwise idle machine.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import sciml

HERE = Path(__file__).parent


def run(name: str, seed: int) -> dict:
    """One whole run in a new process."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "sciml", "run", name, "--seed", str(seed), "--out", folder]
        subprocess.run(command, check=True, env=os.environ | {"SCIML_CACHE": f"{folder}/cache"}, capture_output=True)
        report = json.loads(Path(folder, "report.json").read_text())
    return {k: report[k] for k in ("problem", "seed", "seconds", "metrics", "expected", "versions", "date")} | {
        "method": report["chosen"].get("method", "training")
    }


def main(names: list[str], seeds: list[int]) -> None:
    """Runs the problems and writes the table."""
    path = HERE / "figures.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    for name in names or sciml.problems():
        results[name] = [run(name, seed) for seed in seeds]
        path.write_text(json.dumps(results, indent=1) + "\n")
        print(row(name, results[name]), flush=True)


def row(name: str, runs: list[dict]) -> str:
    """A line of the table: the median of the metric that the problem promises."""
    metric, target = next(iter(runs[0]["expected"].items()))
    values = [r["metrics"][metric] for r in runs]
    seconds = statistics.median(r["seconds"] for r in runs)
    worst = max(values)
    return f"| `{name}` | {metric} | {statistics.median(values):.1e} | {worst:.1e} | {target:g} | {seconds:.0f} s |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    given = parser.parse_args()
    main(given.names, given.seeds)
