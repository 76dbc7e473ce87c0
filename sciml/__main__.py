"""The command line: `sciml list | run | compare | make | check | inspect | rechunk`."""

import argparse
import ast
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

# With the imports behind. Not when the process began: a shell may have waited for an installation and then become it.
_STARTED = time.time() - time.process_time()
# Of a run's budget, at most a tenth and at most this is set aside for what comes after training.
AHEAD_SECONDS = 15.0


class UsageError(Exception):
    """A mistake in what was typed: one line and exit code 2."""


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    # Called from Python, the time before is not that of the command.
    started = _STARTED if arguments is None else time.time()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser, parsers = _parsers()
    options, rest = parser.parse_known_args(arguments)
    own = parsers[options.command]
    commands = {
        "list": lambda: _list(),
        "run": lambda: _run(options, rest, started),
        "compare": lambda: _compare(options),
        "make": lambda: _make(options, rest),
        "check": lambda: _check(options, rest),
        "inspect": lambda: _inspect(options),
        "rechunk": lambda: _rechunk(options),
    }
    try:
        if options.command in ("list", "compare", "inspect", "rechunk") and rest:
            own.error(f"unrecognised: {' '.join(rest)}")
        if options.command == "run" and options.problem is None:
            own.print_help()
            return 0 if options.help else 2
        return commands[options.command]()
    except UsageError as error:
        print(f"sciml: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        done = "nothing half-made was kept" if options.command != "run" else "the results are not complete"
        print(f"sciml: interrupted; {done}", file=sys.stderr)
        return 130


def _parsers():
    """The parser, and that of each command."""
    parser = argparse.ArgumentParser(
        prog="sciml", description="Scientific machine learning on JAX.", allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="the provided problems, with the expected error and time")
    run = commands.add_parser(
        "run", help="solve a problem, provided (NAME) or your own (FILE.py)", add_help=False, allow_abbrev=False
    )
    run.add_argument("problem", nargs="?", metavar="NAME|FILE.py")
    run.add_argument("--seed", type=int, help="of all random numbers (default 0, or that of the problem)")
    run.add_argument("--budget", metavar="60s", help="wall time: seconds, or with a unit as in 90s, 2m, 1h")
    run.add_argument("--out", metavar="DIR", help="where results are written (default runs/NAME)")
    run.add_argument("-h", "--help", action="store_true", help="the problem's card and settings")
    compare = commands.add_parser(
        "compare", help="the results of other packages for a problem, beside those of your own run", allow_abbrev=False
    )
    compare.add_argument("problem", metavar="NAME", help="a provided problem with results of peers")
    compare.add_argument("--run", metavar="DIR", help="where your own run was written (default runs/NAME)")
    compare.add_argument("--figure", metavar="FILE.png", help="default runs/NAME/compare.png")
    make = commands.add_parser(
        "make", help="make or fetch a data set; without NAME, list them", add_help=False, allow_abbrev=False
    )
    make.add_argument("dataset", nargs="?", metavar="NAME|FILE.py")
    make.add_argument("--out", metavar="FILE", help="where it is written (default data/NAME.h5)")
    make.add_argument("--format", choices=["hdf5", "netcdf", "zarr"], help="default: from the suffix of FILE")
    make.add_argument("--layout", choices=["pdebench", "the_well"], help="as those projects store their files (HDF5)")
    make.add_argument("--compression", default="auto", help="auto, gzip, lzf, zstd or none")
    make.add_argument("--overwrite", action="store_true", help="replace FILE if it holds something else")
    make.add_argument("-h", "--help", action="store_true", help="the data set's card and settings")
    check = commands.add_parser("check", help="does a data set satisfy the equations of a problem?", allow_abbrev=False)
    check.add_argument("file")
    check.add_argument("problem", metavar="NAME|FILE.py", help="a problem or a data set; its settings are options")
    check.add_argument("--samples", type=int, help="how many are read (default all)")
    check.add_argument("--skip", type=int, default=0, help="stored times at the beginning to leave out (0)")
    check.add_argument("--tolerance", type=float, default=0.01, help="largest relative residual that passes (0.01)")
    check.add_argument("--periodic", metavar="x,y", help="axes that are periodic, where the file does not say")
    check.add_argument("--order", type=int, default=6, help="of the finite differences (6)")
    check.add_argument("--figure", metavar="FILE.png", help="the residual beside the field")
    inspect = commands.add_parser("inspect", help="what is in a file, and how fast it can be read", allow_abbrev=False)
    inspect.add_argument("file", metavar="FILE", help="a file, a folder, or a pattern in quotes")
    inspect.add_argument("--window", type=_window, metavar="4,1", help="frames of input and target, of a series")
    inspect.add_argument("--batch", type=_positive, default=32, metavar="N", help="rows of a batch (32)")
    inspect.add_argument("--figure", metavar="FILE.png", help="a thumbnail picture")
    rechunk = commands.add_parser(
        "rechunk", help="write a file again with chunks that suit training", allow_abbrev=False
    )
    rechunk.add_argument("file", metavar="FILE", help="a file, a folder, or a pattern in quotes")
    rechunk.add_argument("out", metavar="OUT")
    rechunk.add_argument(
        "--chunks", type=_lengths, metavar="sample=32,time=10", help="default: as sciml inspect suggests"
    )
    rechunk.add_argument(
        "--window", type=_window, metavar="4,1", help="frames of input and target that are suggested for"
    )
    rechunk.add_argument("--format", choices=["hdf5", "netcdf", "zarr"], help="default: from the suffix of OUT")
    rechunk.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    parsers = {"run": run, "compare": compare, "make": make, "check": check, "inspect": inspect, "rechunk": rechunk}
    for command in parsers.values():
        command.add_argument("--traceback", action="store_true", help="show the whole traceback of an error")
    return parser, parsers | {"list": parser}


def _list() -> int:
    from rich.console import Console
    from rich.table import Table

    from ._problem import problems, read_card

    table = Table(title="Problems: sciml run NAME")
    for column in ("name", "what", "expected error", "time"):
        table.add_column(column, no_wrap=column == "name")
    for path in problems().values():
        card = read_card(path)
        expected = ", ".join(f"{k} <= {v:g}" for k, v in card.expected.items())
        table.add_row(card.name, card.title, expected, f"{card.budget:g} s")
    Console().print(table)
    return 0


def _run(options, rest: list[str], started: float) -> int:
    from ._problem import find_problem

    card = _card(find_problem, options.problem, "problem")
    if card is None:
        return 1
    if options.help:
        _show_card(card)
        return 0
    settings = _settings(card, rest, ["seed", "budget", "out"])
    budget = card.budget if options.budget is None else _seconds(options.budget)
    out = Path(options.out or Path("runs") / card.name)
    seed = _default_seed(card) if options.seed is None else options.seed
    return _guarded(options, card.path, lambda: _solve_and_write(card, settings, seed, budget, out, started))


def _default_seed(card) -> int:
    text = card.settings.get("seed", "0")
    return int(text) if text.isdecimal() else 0


def _compare(options) -> int:
    from ._compare import compare_command, find_peers

    try:
        path = find_peers(options.problem)
    except ValueError as error:
        raise UsageError(str(error)) from None
    return _guarded(options, None, lambda: compare_command(path, options.run, options.figure))


def _make(options, rest: list[str]) -> int:
    from ._make import list_datasets, make_command, show_card
    from ._problem import find_dataset

    if options.dataset is None:
        _refuse_rest(rest)
        return list_datasets()
    card = _card(find_dataset, options.dataset, "make")
    if card is None:
        return 1
    if options.help:
        return show_card(card)
    names = ("out", "format", "layout", "compression", "overwrite")
    settings = _settings(card, rest, list(names))
    chosen = {name: getattr(options, name) for name in names}
    return _guarded(options, card.path, lambda: make_command(card, settings, **chosen))


def _check(options, rest: list[str]) -> int:
    from ._check import check_command
    from ._problem import datasets, find_dataset, find_problem

    is_data = options.problem in datasets()
    card = _card(find_dataset if is_data else find_problem, options.problem, "make" if is_data else "problem")
    if card is None:
        return 1
    settings = _settings(card, rest, ["samples", "skip", "tolerance", "periodic", "order", "figure"])
    chosen = {name: getattr(options, name) for name in ("samples", "skip", "tolerance", "order", "figure")}
    periodic = None if options.periodic is None else set(options.periodic.split(","))
    run = lambda: check_command(options.file, options.problem, settings, periodic=periodic, **chosen)  # noqa: E731
    return _guarded(options, card.path, run)


def _inspect(options) -> int:
    from ._inspect import inspect_command

    run = lambda: inspect_command(options.file, options.window, options.batch, options.figure)  # noqa: E731
    return _guarded(options, None, run)


def _rechunk(options) -> int:
    from ._inspect import rechunk_command

    names = ("chunks", "format", "window", "overwrite")
    chosen = {name: getattr(options, name) for name in names}
    return _guarded(options, None, lambda: rechunk_command(options.file, options.out, **chosen))


def _window(text: str) -> tuple[int, int]:
    """`4,1` or `4`: frames of input and of target."""
    parts = text.split(",")
    if len(parts) > 2 or not all(p.strip().isdecimal() and int(p) > 0 for p in parts):
        raise argparse.ArgumentTypeError(f"expected frames of input and target such as 4,1, got '{text}'")
    return int(parts[0]), int(parts[1]) if len(parts) == 2 else 1


def _lengths(text: str) -> dict[str, int]:
    """`sample=32,time=10`: lengths of chunks by dimension."""
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(name.strip() and number.strip().isdecimal() and int(number) > 0 for name, _, number in pairs):
        raise argparse.ArgumentTypeError(f"expected lengths by dimension such as sample=32,time=10, got '{text}'")
    return {name.strip(): int(number) for name, _, number in pairs}


def _positive(text: str) -> int:
    if not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got '{text}'")
    return int(text)


def _card(find, name: str, function: str):
    """The card of a file; None, with a message, where its text is not Python."""
    from ._problem import read_card

    try:
        return read_card(find(name), function)
    except (ValueError, FileNotFoundError) as error:
        raise UsageError(str(error)) from None
    except SyntaxError as error:
        print(f"{error.filename}, line {error.lineno}: {error.msg}\n  {(error.text or '').strip()}", file=sys.stderr)
        return None


def _guarded(options, path: Path | None, command: Callable[[], int]) -> int:
    """Runs a command; an error is one line, and the lines of the user's file that led to it."""
    try:
        return command()
    except Exception as error:
        if options.traceback:
            raise
        if path is None and isinstance(error, ValueError | OSError):
            print(f"sciml: {error}", file=sys.stderr)
        else:
            _show_users_line(path, error)
        return 1


def _refuse_rest(rest: list[str]) -> None:
    if rest:
        raise UsageError(f"unrecognised: {' '.join(rest)}")


def _show_card(card) -> None:
    print(f"{card.name}: {card.text}\n")
    print("Settings:")
    for name, default in card.settings.items():
        if name != "seed":
            print(f"  --{name:<12} default {default}")
    print(f"\nOptions:\n  --seed N       of all random numbers (default {_default_seed(card)})")
    print(f"  --budget TIME  wall time, as in 90s or 2m (default {card.budget:g}s)")
    print(f"  --out DIR      where results are written (default runs/{card.name})")
    print("  --traceback    show the whole traceback of an error")
    for name, value in card.expected.items():
        print(f"\nExpected within the default time: {name} <= {value:g}")


def _settings(card, rest: list[str], others: list[str]) -> dict[str, Any]:
    """`--nu 0.02 --k=3` as keyword arguments, each read as a Python literal where it is one."""
    from ._problem import nearest_names

    out: dict[str, Any] = {}
    words = list(rest)
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            raise UsageError(f"unexpected '{word}'; settings are written as --name value")
        name, _, value = word[2:].partition("=")
        name = name.replace("-", "_")
        if name not in card.settings:
            # A problem may have a setting of the same name as an option, such as the seed.
            known = list(dict.fromkeys([*card.settings, *others]))
            raise UsageError(f"no setting '{name}' in {card.name}; {nearest_names(name, known)}")
        if not value:
            if not words:
                raise UsageError(f"--{name} needs a value, as in --{name} {card.settings[name]}")
            value = words.pop(0)
        out[name] = _value(name, value, card.settings[name], card.annotations.get(name, ""))
    return out


def _value(name: str, text: str, default: str, annotation: str) -> Any:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    wanted = _kind(default, annotation)
    if wanted in (int, float) and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise UsageError(f"--{name} must be a number (default {default}), got '{text}'")
    if wanted is int and not isinstance(value, int):
        raise UsageError(f"--{name} must be a whole number (default {default}), got '{text}'")
    if wanted is bool and not isinstance(value, bool):
        raise UsageError(f"--{name} must be True or False (default {default}), got '{text}'")
    if wanted is tuple and not isinstance(value, tuple):
        raise UsageError(f"--{name} must be a tuple such as {default}, got '{text}'")
    if wanted is float and isinstance(value, int):
        return float(value)
    return text if wanted is str else value


def _kind(default: str, annotation: str) -> type | None:
    """The type of a setting: as annotated, else that of its default, where an expression such as `0.01 / np.pi` is a
    float.
    """
    for kind in (bool, int, float, str, tuple):
        if annotation.partition("[")[0] == kind.__name__:
            return kind
    try:
        return type(ast.literal_eval(default))
    except (ValueError, SyntaxError):
        return float


def _seconds(text: str) -> float:
    units = {"s": 1.0, "m": 60.0, "h": 3600.0}
    number, unit = (text[:-1], text[-1]) if text[-1:] in units else (text, "s")
    try:
        seconds = float(number) * units[unit]
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise UsageError(f"--budget must be a positive time such as 60s, 2m or 1h, got '{text}'")
    return seconds


def _solve_and_write(card, settings, seed, budget, out: Path, started: float) -> int:
    _use_compilation_cache()
    import inspect

    import jax

    from ._problem import Problem, load_module, make_problem

    module = load_module(card.path)
    takes_seed = "seed" in inspect.signature(getattr(module, "problem", lambda: None)).parameters
    problem = make_problem(module, settings | ({"seed": seed} if takes_seed else {}))
    key = jax.random.key(seed)

    def left() -> float:
        # The budget is that of the whole run: imports and data lie behind, evaluation and figure ahead.
        return max(0.1 * budget, budget - (time.time() - started) - min(AHEAD_SECONDS, 0.1 * budget))

    if isinstance(problem, Problem):
        result = _run_problem(problem, key, left, out)
    else:
        result = _run_pde(module, problem, key, left(), out)
    try:
        # A figure that fails takes no results with it.
        result["draw"]()
    finally:
        _write_report(card, settings, seed, result, out, started)
    return 0


def _use_compilation_cache() -> None:
    """Compiled programs of earlier runs are read from the user's cache folder (or SCIML_CACHE)."""
    import jax

    folder = os.environ.get("SCIML_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "sciml", "jax"
    )
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def _run_pde(module, pde, key, budget, out: Path) -> dict:
    from ._save import write_atomically
    from .pde import PDE, solve

    if not isinstance(pde, PDE):
        raise TypeError(f"problem() must return a PDE or a Problem, it returned {type(pde).__name__}")
    # A file may have a way of its own, such as eigenmodes.
    solution = getattr(module, "solve", solve)(pde, budget=budget, key=key)
    metrics = solution.error() if pde.reference is not None else {}
    if hasattr(module, "evaluate"):
        metrics |= {name: float(value) for name, value in module.evaluate(solution).items()}
    dataset = solution.on() if pde.reference is None else solution.compare()
    written = [out / "solution.nc"]
    write_atomically(written[0], lambda file: file.write(_netcdf(dataset)))

    def draw():
        write_atomically(out / "figure.png", lambda file: solution.plot(file))
        written.append(out / "figure.png")

    return {
        "metrics": metrics,
        "history": solution.history,
        "chosen": solution.chosen,
        "written": written,
        "draw": draw,
    }


def _netcdf(dataset) -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "solution.nc"
        dataset.to_netcdf(path, engine="netcdf4")
        return path.read_bytes()


def _run_problem(problem, key, left: Callable[[], float], out: Path) -> dict:
    import equinox as eqx
    import jax

    from ._fit import fit
    from ._precision import double_precision
    from ._problem import TRAINED, flat_metrics
    from ._save import save, write_atomically

    # First, so that a mistake in `evaluate` shows before the training, and their time is known.
    baselines = problem.evaluations(problem.baselines)
    names = {TRAINED: {name: 0.0 for metrics in baselines.values() for name in metrics}}
    flat_metrics(names | baselines)
    optimised = problem.model, problem.loss, problem.data, problem.optimiser
    with double_precision(problem.double):
        model, history = fit(*optimised, steps=problem.steps, seconds=left(), key=key)
    written = [out / "model.zip"]
    save(written[0], model)
    evaluations = problem.evaluations({TRAINED: model}) | baselines

    def draw():
        if problem.figure is not None:
            with double_precision(problem.double):
                figure = problem.figure(model)
            write_atomically(out / "figure.png", lambda file: figure.savefig(file, format="png", dpi=120))
            written.append(out / "figure.png")

    return {
        "metrics": flat_metrics(evaluations),
        "evaluations": evaluations,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))),
        "history": history,
        "chosen": {},
        "written": written,
        "draw": draw,
    }


def _write_report(card, settings, seed, result, out: Path, started: float) -> None:
    import datetime

    from ._save import write_atomically

    history = result["history"]
    names = [*history.data_vars, *history.coords]
    report = {
        "problem": card.name,
        "settings": settings,
        "seed": seed,
        "seconds": time.time() - started,
        "peak_memory_mb": _peak_memory(),
        "parameters": result.get("parameters"),
        "metrics": result["metrics"],
        "expected": card.expected,
        "stopped": history.attrs.get("stopped", ""),
        "chosen": result["chosen"],
        "history": {name: history[name].values.tolist() for name in names},
        "versions": _versions(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    text = json.dumps(_finite(report), indent=1, allow_nan=False)
    path = out / "report.json"
    write_atomically(path, lambda file: file.write(text.encode()))
    _show_table(card, report, result.get("evaluations", {}), [path, *result["written"]])


def _peak_memory() -> float | None:
    """Of this process, in MB; None where the system does not say."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Bytes on macOS, units of 1024 bytes elsewhere.
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def _finite(value: Any) -> Any:
    """Strict JSON has no NaN: None instead."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, float) and not (abs(value) < float("inf")):
        return None
    return value


def _versions() -> dict:
    import platform
    from importlib.metadata import PackageNotFoundError, version

    def of(name):
        try:
            return version(name)
        except PackageNotFoundError:
            return "checkout"

    packages = {n: of(n) for n in ("jax", "equinox", "optax", "numpy", "xarray")}
    own = {"sciml": of("sciml-jax"), "python": platform.python_version()}
    return own | packages | {"platform": platform.platform(), "cpus": os.cpu_count()}


def _show_table(card, report, evaluations, paths) -> None:
    """A row for each metric; where there are baselines, for each model, and a column for each metric."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{card.name}: {report['seconds']:.1f} s, stopped by {report['stopped'] or 'budget'}")
    if len(evaluations) > 1:
        names = list(dict.fromkeys(name for metrics in evaluations.values() for name in metrics))
        rows = [[model, *(_shown(metrics.get(n, "")) for n in names)] for model, metrics in evaluations.items()]
        if any(n in card.expected for n in names):
            rows.append(["expected", *(f"<= {card.expected[n]:g}" if n in card.expected else "" for n in names)])
        columns = ["model", *names]
    else:
        expected = {n: f"<= {v:g}" for n, v in card.expected.items()}
        rows = [[n, _shown(v), expected.get(n, "")] for n, v in report["metrics"].items()]
        columns = ["metric", "value", "expected"]
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*row)
    console = Console()
    console.print(table)
    for path in paths:
        console.print(f"  {path}", highlight=False, soft_wrap=True)


def _shown(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:.3e}" if abs(value) < float("inf") else "not finite"


def _show_users_line(path: Path | None, error: BaseException) -> None:
    """The error, and of the traceback the frames in the user's file."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if path is not None and Path(f.filename).resolve() == path.resolve()]
    for frame in own:
        print(f"{frame.filename}, line {frame.lineno}, in {frame.name}\n    {frame.line}", file=sys.stderr)
    print(f"{type(error).__name__}: {error}", file=sys.stderr)
    if not own:
        print("(run again with --traceback for the whole traceback)", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
