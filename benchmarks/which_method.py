"""Which method when: the same problems by several methods, each given the same time.

    python benchmarks/which_method.py [PROBLEM ...] [--methods solve adam ...] [--seconds 30] [--seed 0]
    python benchmarks/which_method.py --table

Each cell is one run in a process of its own: `sciml.solve` with what the method changes and everything else as
`solve` chooses it (network, points, precision, exact conditions, a weight of 100 for penalties). Seconds are wall time
with compilation, from a cold cache; imports and references do not count. Adam and SOAP begin at a rate of 1e-3, which
falls by a tenth each 2,000 steps, as in jaxpi.

Left out: `causal` where there is no time; `attention` where there are no layers to attend to; `fourier` where no wave
is short; some methods on some problems, to save time. `solve_60` is `solve` with its own default budget, where
that gives more windows of time.

A cell that was run replaces that of the same names in benchmarks/which_method.json, which is written whole after each;
`--table` writes the tables of docs/which_method.md from it. Run it on an otherwise idle machine.
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
from typing import NamedTuple

import jax
import optax

import sciml
from sciml import optim
from sciml._save import write_atomically
from sciml.pde._linear import relative_residual
from sciml.pde._solve import default_loss

FILE = Path(__file__).with_suffix(".json")
PAGE = Path(__file__).parent.parent / "docs" / "which_method.md"
BEGIN, END = "<!-- table: python benchmarks/which_method.py --table -->", "<!-- end of the table -->"
# For the output layer after training, most of it compilation.
POLISH_SECONDS = 6.0


def by_default(pde: sciml.PDE, seconds: float, key) -> sciml.Solution:
    """What `solve` chooses."""
    return sciml.solve(pde, budget=seconds, key=key, report=None)


def trained(optimiser: Callable, weights: Callable | None = None, network: Callable | None = None) -> Callable:
    """Training by an optimiser, with weights `(loss, points, pde) -> (loss, points)` and a network `(pde, key)`."""

    def run(pde, seconds, key):
        # Given, as otherwise `solve` finds the output layer of first-order methods anew: that is `polish`.
        loss, points = default_loss(pde), sciml.adaptive(pde)
        if weights is not None:
            loss, points = weights(loss, points, pde)
        model = None if network is None else network(pde, key)
        chosen = {"model": model, "loss": loss, "points": points, "optimiser": optimiser()}
        return sciml.solve(pde, **chosen, budget=seconds, key=key, report=None)

    return run


def polished(run: Callable) -> Callable:
    """Training that leaves some seconds for the output layer by least squares."""

    def both(pde, seconds, key):
        solution = run(pde, max(seconds - POLISH_SECONDS, seconds / 2), key)
        model = sciml.pde.polish(pde, solution.model, key=key)
        chosen = dict(solution.chosen) | {"method": "training, then least squares for the output layer"}
        return sciml.Solution(pde, model, solution.history, chosen, solution.seconds)

    return both


def falling(optimiser: Callable) -> Callable:
    """A first-order method with the rates of jaxpi's examples."""
    return lambda: optimiser(optax.exponential_decay(1e-3, 2000, 0.9))


def causal(loss, points, pde):
    """Causal weights with their own sequence of epsilon."""
    return sciml.pde.causal_weights(loss, points, pde)


def attention(loss, points, pde):
    """Residual-based attention to points that stay for a thousand steps."""
    return sciml.pde.attention_weights(loss, points)


def with_waves(pde, key):
    """The network of `solve` on 40 Fourier features of short waves."""
    drawn, made = jax.random.split(key)
    network = sciml.nn.mlp(40, pde.out_size, 20, 3, key=made)
    return sciml.nn.fourier_features(network, pde.in_size, 40, scale=4.0, key=drawn)


class Method(NamedTuple):
    """How a problem is solved, in words, and a budget of its own."""

    run: Callable
    words: str
    seconds: float | None = None


METHODS = {
    "solve": Method(by_default, "`solve(pde)`"),
    "solve_60": Method(by_default, "`solve(pde)` in 60 s", 60.0),
    "broyden": Method(trained(optim.self_scaled_broyden), "self-scaled Broyden"),
    "gauss_newton": Method(trained(optim.gauss_newton), "Gauss-Newton"),
    "causal": Method(trained(optim.gauss_newton, causal), "Gauss-Newton, causal weights"),
    "attention": Method(trained(optim.gauss_newton, attention), "Gauss-Newton, residual-based attention"),
    "fourier": Method(trained(optim.self_scaled_broyden, network=with_waves), "self-scaled Broyden, Fourier features"),
    "adam": Method(trained(falling(optax.adam)), "Adam"),
    "soap": Method(trained(falling(optim.soap)), "SOAP"),
    "polish": Method(polished(trained(falling(optax.adam))), "Adam, then `polish`"),
}
# Settings of the problem, and methods that make sense.
CELLS: dict[str, tuple[str, dict, tuple[str, ...]]] = {
    "poisson": ("poisson", {}, ("solve", "broyden", "gauss_newton", "adam", "soap", "polish")),
    "helmholtz": ("helmholtz", {}, ("solve", "broyden", "fourier", "adam", "polish")),
    "helmholtz_4": ("helmholtz", {"a": 4, "b": 4}, ("solve",)),
    "convection": ("convection", {}, ("solve", "broyden", "gauss_newton", "causal", "adam")),
    "reaction": ("reaction", {}, ("solve", "broyden", "gauss_newton", "causal", "adam")),
    "burgers": ("burgers", {}, ("solve", "solve_60", "broyden", "gauss_newton", "attention", "adam", "soap")),
    "allen_cahn": ("allen_cahn", {}, ("solve_60", "broyden", "gauss_newton", "causal", "attention", "adam")),
}


def one(problem: str, method: str, seconds: float, seed: int) -> dict:
    """A cell in this process: what came of it, and under which circumstances."""
    name, settings, _ = CELLS[problem]
    pde, key = sciml.problem(name, **settings), jax.random.key(seed)
    budget = METHODS[method].seconds or seconds
    start = time.perf_counter()
    solution = METHODS[method].run(pde, budget, key)
    took = time.perf_counter() - start
    with sciml.double_precision():
        residual = relative_residual(pde, solution.model, jax.random.fold_in(key, 7))
    chosen = {k: solution.chosen[k] for k in ("method", "network", "parameters")}
    return {
        "relative_l2": _short(solution.error()["relative_l2"]),
        "residual": _short(residual),
        "seconds": round(took, 1),
        "steps": _steps(solution),
        "chosen": chosen,
        "settings": settings,
        "budget": budget,
        "seed": seed,
        "machine": machine(),
        "date": datetime.date.today().isoformat(),
    }


def _steps(solution: sciml.Solution) -> int | None:
    """How many steps training took; None where there was none."""
    trained = solution.history.attrs["stopped"] != "solved"
    return int(solution.history["step"][-1]) if trained and solution.history.sizes["step"] else None


def machine() -> str:
    """Cores and versions."""
    return f"{os.cpu_count()} CPU cores, Python {platform.python_version()}, JAX {jax.__version__}"


def _short(number: float) -> float:
    return float(f"{number:.4g}")


def selected(problems: list[str], methods: list[str]) -> list[tuple[str, str]]:
    """The cells of these problems and methods, of all where none is named. Raises ValueError for unknown names, and
    where no cell is left.
    """
    for names, known in ((problems, CELLS), (methods, METHODS)):
        unknown = [n for n in names if n not in known]
        if unknown:
            raise ValueError(f"no '{unknown[0]}'; there are {', '.join(known)}")
    found = [(p, m) for p in problems or CELLS for m in CELLS[p][2] if not methods or m in methods]
    if not found:
        raise ValueError(f"{', '.join(methods)} is left out for {', '.join(problems)}: see the top of the script")
    return found


def run(problem: str, method: str, seconds: float, seed: int) -> dict:
    """A cell in a new process, without programs that were compiled before."""
    command = [sys.executable, __file__, problem, "--one", method, "--seconds", str(seconds), "--seed", str(seed)]
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def main(cells: list[tuple[str, str]], seconds: float, seed: int) -> list[tuple[str, str]]:
    """Runs the cells one after the other, and writes the file after each; returns those that failed."""
    failed = []
    ahead = [METHODS[m].seconds or seconds for _, m in cells]
    for i, (problem, method) in enumerate(cells):
        print(f"[{i + 1}/{len(cells)}, {sum(ahead[i:]) / 60:.0f} min left] {problem}, {method}: ", end="", flush=True)
        try:
            record = run(problem, method, seconds, seed)
        except subprocess.CalledProcessError as error:
            failed.append((problem, method))
            print(f"failed\n{error.stderr[-2000:]}", flush=True)
            continue
        _write(FILE, json.dumps(merged(read(), problem, method, record), indent=1) + "\n")
        print(f"error {record['relative_l2']:.1e}, residual {record['residual']:.1e}", flush=True)
    return failed


def read() -> dict:
    """The records that there are, by problem and method."""
    return json.loads(FILE.read_text()) if FILE.exists() else {}


def merged(report: dict, problem: str, method: str, record: dict) -> dict:
    """The report with a record in its place."""
    return report | {problem: report.get(problem, {}) | {method: record}}


def _write(path: Path, text: str) -> None:
    write_atomically(path, lambda file: file.write(text.encode()))


# The tables of the page.


def tables(report: dict) -> str:
    """What the page shows of the report."""
    records = [record for row in report.values() for record in row.values()]
    if not records:
        return "No cell was run yet."
    heads = "| method | " + " | ".join(f"`{p}`" for p in CELLS) + " |\n|---|" + "---|" * len(CELLS)
    errors = "\n".join([heads, *(_line(report, m, _error) for m in METHODS)])
    steps = "\n".join([heads, *(_line(report, m, _taken) for m in METHODS if METHODS[m].run is not by_default)])
    return f"{_circumstances(records)}\n\n{errors}\n\nSteps that training took:\n\n{steps}\n\n{_choices(report)}"


def _circumstances(records: list[dict]) -> str:
    def every(name):
        return "; ".join(dict.fromkeys(str(r[name]) for r in records))

    dates = sorted({r["date"] for r in records})
    period = " to ".join(dict.fromkeys([dates[0], dates[-1]]))
    budgets = ", ".join(f"{b:g} s" for b in sorted({r["budget"] for r in records}))
    return (
        f"`python benchmarks/which_method.py`, {period}: {every('machine')}; "
        f"one run each, seed {every('seed')}, budgets of {budgets} of wall time with compilation. Relative L2 error, "
        "and in brackets the residual relative to that of a network that returns zero."
    )


def _line(report: dict, method: str, shown: Callable) -> str:
    entries = [_entry(report, p, method, shown) for p in CELLS]
    return f"| {METHODS[method].words} | " + " | ".join(entries) + " |"


def _entry(report: dict, problem: str, method: str, shown: Callable) -> str:
    if method not in CELLS[problem][2]:
        return ""
    record = report.get(problem, {}).get(method)
    return "not run" if record is None else shown(record)


def _error(record: dict) -> str:
    return f"{record['relative_l2']:.1e} ({record['residual']:.0e})"


def _taken(record: dict) -> str:
    return f"{record['steps']:,}"


def _choices(report: dict) -> str:
    """What `solve` chose."""
    lines = ["| problem | budget | `solve` chose | features or network | it took |\n|---|---|---|---|---|"]
    for problem in CELLS:
        for record in (report.get(problem, {}).get(m) for m in ("solve", "solve_60")):
            if record is not None:
                chosen = record["chosen"]
                facts = (f"`{problem}`", f"{record['budget']:g} s", chosen["method"], chosen["network"])
                lines.append(f"| {' | '.join(facts)} | {record['seconds']:.0f} s |")
    return "\n".join(lines)


def with_tables(page: str, report: dict) -> str:
    """The page with the tables of the report between its markers. Raises ValueError for a page without them."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the page needs the lines '{BEGIN}' and '{END}'")
    return f"{before}{begin}\n\n{tables(report)}\n\n{end}{after}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problems", nargs="*", metavar="PROBLEM", help=", ".join(CELLS))
    parser.add_argument("--methods", nargs="+", default=[], metavar="METHOD", help=", ".join(METHODS))
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", action="store_true", help="write the tables of the page from what was run")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(one(given.problems[0], given.one, given.seconds, given.seed)))
    elif given.table:
        _write(PAGE, with_tables(PAGE.read_text(), read()))
    else:
        try:
            chosen = selected(given.problems, given.methods)
        except ValueError as error:
            parser.error(str(error))
        failures = main(chosen, given.seconds, given.seed)
        sys.exit(f"failed: {', '.join(' '.join(f) for f in failures)}" if failures else 0)
