"""Problems of PDEs with DeepXDE, jinns and this package, on the same machine, one after the other.

    python tests/peers/pinns.py --peer-python PYTHON [--problems burgers poisson ...] [--limit 300] [--seed 0]

PYTHON is an interpreter with `deepxde`, `torch` and `jinns` (the extra `peers`). Each run is a new process with
`--limit` seconds of wall time from its start: imports and compilation count. The peers run with the settings of their
own examples, and with the network and number of points that `sciml.solve` takes; this package with default settings,
for a minute and for the limit. States are kept along the way and compared with the problem's reference afterwards, at
the points of `Solution.error`. Of a peer the best state on its curve is quoted, of this package the last. Before that,
equations and conditions as the peers get them are compared with the problem's.

Writes problems/peers/NAME.json after each run, and leaves out runs that are there with the same limit and seed, so that
it can be stopped and started again (`--again` for all anew). Run it on an otherwise idle machine.
"""

import argparse
import datetime
import importlib
import inspect
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

import numpy as np
from _pinn_problems import PROBLEMS, PeerProblem, Task, probe

PEERS = Path(__file__).parents[2] / "problems" / "peers"
# A run may overrun its limit by one iteration and the evaluation of its states.
GRACE = 240.0
MINUTE = 60.0
OWN = "sciml"
# By package, the module that runs it; by model, what that module calls it.
MODULES = {"DeepXDE": "_deepxde", "jinns": "_jinns"}
MODELS = {
    "DeepXDE": {"its example": "example", "network and points of sciml": "sciml"},
    "jinns": {
        "its example": "example",
        "network and points of sciml, natural gradient": "sciml, natural gradient",
        "network and points of sciml, Broyden": "sciml, self-scaled Broyden",
    },
}


def run_own(task: Task) -> None:
    """`sciml.solve` with default settings, in this process, printed as JSON."""
    import jax
    import jax.numpy as jnp

    import sciml

    pde = sciml.problem(task.name)

    def watch(state) -> None:
        if task.is_due():
            copied = jax.tree.map(lambda a: jnp.array(a, copy=True) if isinstance(a, jax.Array) else a, state.model)
            task.keep(sciml.Solution(pde, copied, None, {}, 0.0))

    solution = sciml.solve(pde, budget=task.limit - task.elapsed(), key=jax.random.key(task.seed), report=watch)
    task.keep(solution)
    coordinates = dict(zip(pde.axes, task.points.T))

    def evaluate(state) -> np.ndarray:
        found = state(**coordinates)
        return np.stack([found[f] for f in pde.fields] if isinstance(found, dict) else [found], axis=1)

    chosen = {k: v for k, v in solution.chosen.items() if isinstance(v, str | int | float | list)}
    count = solution.chosen.get("parameters")
    task.finish(evaluate, keep_best=False, parameters=count, version=metadata.version("sciml-jax"), settings=chosen)


def one(arguments) -> None:
    """The run that a new process was started for."""
    task = Task(arguments.problems[0], arguments.arrays, arguments.limit, arguments.began, arguments.seed)
    if arguments.one == OWN:
        run_own(task)
        return
    importlib.import_module(arguments.one).run(task, arguments.variant, arguments.threads)


def write_arrays(name: str, path: Path) -> None:
    """Points, reference and residuals of the probe, for processes without this package; all conditions checked."""
    import sciml

    problem, pde = PROBLEMS[name], sciml.problem(name)
    if tuple(pde.axes) != problem.axes or tuple(pde.fields) != problem.fields:
        raise ValueError(f"{name}: fields {pde.fields} of {pde.axes}, the peers get {problem.fields} of {problem.axes}")
    if {a: tuple(map(float, pde.domain.bounds[a])) for a in pde.axes} != problem.box:
        raise ValueError(f"{name}: the domain is {pde.domain.bounds}, the peers get {problem.box}")
    points, reference = reference_of(pde)
    check_conditions(name, problem, pde)
    inside = np.random.default_rng(0).uniform(*np.transpose([problem.box[a] for a in problem.axes]), (50, 2))
    np.savez(
        path, points=points, reference=reference, probe_points=inside, probe_residuals=residuals(pde, problem, inside)
    )


def reference_of(pde) -> tuple[np.ndarray, np.ndarray]:
    """The points of `Solution.error` and the reference there, a column for each field, NaN where it has none."""
    known = pde.reference
    if hasattr(known, "data_vars"):
        axes = [known[a].values for a in pde.axes]
        values = {f: known[f].transpose(*pde.axes).values for f in pde.fields if f in known}
    else:
        axes = [np.linspace(*map(float, pde.domain.bounds[a]), 257) for a in pde.axes]
        values = known(**dict(zip(pde.axes, np.meshgrid(*axes, indexing="ij"))))
        values = values if isinstance(values, dict) else {pde.fields[0]: values}
    points = np.stack([m.ravel() for m in np.meshgrid(*axes, indexing="ij")], axis=1)
    columns = [np.ravel(values[f]) if f in values else np.full(len(points), np.nan) for f in pde.fields]
    return points, np.stack(columns, axis=1).astype(float)


def residuals(pde, problem: PeerProblem, points: np.ndarray) -> np.ndarray:
    """The residuals of `probe` by the problem's own equations, a row for each point."""
    import jax
    import jax.numpy as jnp

    import sciml

    def partial(function, axis: int):
        return lambda p: jax.grad(function)(p)[axis]

    def number(name: str, point):
        if name in pde.axes:
            return point[pde.axes.index(name)]
        if name in pde.numbers:
            return pde.numbers[name]
        field, _, letters = name.partition("_")

        def found(p):
            return probe(jnp, dict(zip(pde.axes, p)), pde.fields)[pde.fields.index(field)]

        for letter in letters:
            found = partial(found, pde.axes.index(letter))
        return found(point)

    def at(point):
        return jnp.stack(
            [e(**{n: number(n, point) for n in inspect.signature(e).parameters}) for e in pde.equations.values()]
        )

    with sciml.double_precision():
        return np.asarray(jax.vmap(at)(jnp.asarray(points)))


def check_conditions(name: str, problem: PeerProblem, pde) -> None:
    """Raises ValueError where the values that the peers get violate a condition of the problem, at random points."""
    import jax
    import jax.numpy as jnp

    import sciml

    def known(point):
        values = dict(zip(problem.axes, point))
        walls = problem.wall(jnp, values) if problem.wall else {}
        fields = [walls.get(f, jnp.zeros(())) for f in problem.fields]
        if problem.initial is None:
            return jnp.stack(fields)
        return jnp.where(values["t"] == 0, problem.initial(jnp, values["x"]), jnp.stack(fields))

    def lifted(point):
        values = dict(zip(problem.axes, point))
        return jnp.stack(problem.lift(jnp, values, probe(jnp, values, problem.fields)))

    with sciml.double_precision():
        # Periodic conditions, which the peers' inputs satisfy, have no values.
        given = [g for g in pde.groups.values() if hasattr(g.source, "targets")]
        batch = sciml.Groups({g.label: pde.draw(g, 64, jax.random.key(0)) for g in given})
        for function in [known, lifted] if problem.lift else [known]:
            for term, found in pde.residuals(function, batch).items():
                # The lift leaves the pressure's level to a penalty.
                is_left = function is lifted and problem.corner and term.startswith(f"{problem.corner} ")
                if not (is_left or float(abs(found).max()) < 1e-12):
                    raise ValueError(f"{name}: what the peers get violates the condition {term}")


def start(python: str, kind: str, variant: str, name: str, arrays: Path, limit: float, arguments) -> dict:
    """A run in a new process, with cold compilation; what it printed, or a note of how it failed."""
    command = [python, __file__, "--one", kind, "--problems", name, "--arrays", str(arrays), "--limit", str(limit)]
    command += ["--seed", str(arguments.seed), "--threads", str(arguments.threads), "--variant", variant]
    environment = {k: v for k, v in os.environ.items() if k not in ("JAX_COMPILATION_CACHE_DIR", "XLA_FLAGS")}
    environment["OMP_NUM_THREADS"] = str(arguments.threads)
    began = time.time()
    try:
        done = subprocess.run(
            [*command, "--began", str(began)],
            capture_output=True,
            text=True,
            env=environment,
            timeout=limit + GRACE,
        )
        said = done.stdout.splitlines()[-1:] if done.returncode == 0 else []
        if said:
            return json.loads(said[0])
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    except subprocess.TimeoutExpired:
        reason = f"no result {GRACE:g} s after the limit"
    return {"metrics": {"relative_l2": None}, "seconds": time.time() - began, "version": None, "note": reason[:300]}


def planned(arguments) -> list[tuple]:
    """Package, model, interpreter, what the new process is told to run, and limit, of the runs of one problem."""
    found = []
    for package in (p for p in MODULES if p in arguments.packages):
        for model, variant in MODELS[package].items():
            found.append((package, model, arguments.peer_python, MODULES[package], variant, arguments.limit))
    if OWN in arguments.packages:
        for limit in sorted({min(MINUTE, arguments.limit), arguments.limit}):
            found.append((OWN, f"solve, {limit:g} s", sys.executable, OWN, "", limit))
    return found


def measure(name: str, arrays: Path, arguments) -> None:
    """All runs of a problem that are not there yet; the file is written after each."""
    path = Path(arguments.out) / f"{name}.json"
    records = json.loads(path.read_text()) if path.is_file() else []
    for package, model, python, kind, variant, limit in planned(arguments):
        key = (package, model, arguments.seed, limit)
        there = [(r["package"], r["model"], r.get("seed"), r.get("settings", {}).get("limit")) for r in records]
        if key in there and not arguments.again:
            print(f"{name}: {package}, {model}: there already", flush=True)
            continue
        found = start(python, kind, variant, name, arrays, limit, arguments)
        record = {"package": package, "model": model, "seed": arguments.seed} | found
        record["settings"] = found.get("settings", {}) | {"limit": limit, "threads": arguments.threads}
        record["machine"] = f"{arguments.threads} CPU cores, Python {platform.python_version()}"
        record["date"] = datetime.date.today().isoformat()
        record["command"] = "python tests/peers/pinns.py --peer-python PYTHON"
        records = [r for r, k in zip(records, there) if k[:3] != key[:3]] + [record]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(records, indent=1) + "\n")
        error = found["metrics"]["relative_l2"]
        said = f"relative L2 {error:.2e}" if error is not None else f"failed: {found.get('note')}"
        print(f"{name}: {package}, {model}: {said} in {found['seconds']:.1f} s", flush=True)


def main(arguments) -> None:
    """All problems, one after the other, on as many cores as there are to be threads."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.threads])
    count = sum(run[-1] for run in planned(arguments)) * len(arguments.problems)
    print(f"at most about {count / 60:.0f} minutes", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.problems:
            arrays = Path(folder) / f"{name}.npz"
            write_arrays(name, arrays)
            measure(name, arrays, arguments)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--problems", nargs="+", choices=list(PROBLEMS), default=list(PROBLEMS))
    parser.add_argument("--packages", nargs="+", choices=[*MODULES, OWN], default=[*MODULES, OWN])
    parser.add_argument("--limit", type=float, default=300.0, help="seconds of each run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", default=PEERS)
    parser.add_argument("--again", action="store_true", help="runs that are there too")
    for name in ("--one", "--arrays", "--variant"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    parser.add_argument("--began", type=float, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    given = parse()
    one(given) if given.one else main(given)
