"""`sciml compare NAME`: the results of other packages for a problem, beside one's own run.

They lie in `problems/peers/NAME.json`, a list of records; the first seven entries are required:

- `package`, `version`, `model`: of what was trained, as text (`version` may be null).
- `metrics`: numbers by name, those of the problem's `evaluate`.
- `seconds`: wall time until the model had these metrics; `machine`: on which; `date`: when, as YYYY-MM-DD.
- `parameters`, `epochs`, `seed`: whole numbers; `seconds_per_epoch`; `peak_memory_mb`: of the process, in MB.
- `curve`: how metrics fell during the training: lists of one length by name, those of `seconds` and of each metric.
- `settings`: what else was set, by name; `command`: the one that gives the record again.
- `note`: what a reader should know, such as why there is no result; it is printed below the table.

An entry that is not known is null or left out. This package's own record, on the machine of the peers, is one of them.
The figure has `seconds` against each metric, of which less is better, and the curves as lines.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

REQUIRED = {
    "package": str,
    "version": str | None,
    "model": str,
    "metrics": dict,
    "seconds": int | float,
    "machine": str,
    "date": str,
}
OPTIONAL = {
    "parameters": int,
    "epochs": int | float,
    "seed": int,
    "seconds_per_epoch": int | float,
    "peak_memory_mb": int | float,
    "curve": dict,
    "settings": dict,
    "command": str,
    "note": str,
}
# Told apart by colour-blind readers too (Okabe & Ito).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"


def find_peers(name: str) -> Path:
    """The file of the peers' results for a problem. Raises ValueError for an unknown problem and one without peers."""
    from ._problem import nearest_names, peers, problems

    known = peers()
    if name in known:
        return known[name]
    if name not in problems():
        raise ValueError(f"no problem '{name}'; {nearest_names(name, list(known))}")
    raise ValueError(f"no results of peers for '{name}'; {nearest_names('', list(known))}")


def compare_command(path: Path, run: str | Path | None, figure: str | Path | None) -> int:
    """Prints the table and writes the figure; returns the exit code."""
    name = path.stem
    folder = Path("runs") / name if run is None else Path(run)
    records = read_peers(path)
    own = read_run(folder / "report.json", required=run is not None)
    show_table(name, records, own)
    target = Path(figure) if figure is not None else Path("runs") / name / "compare.png"
    if draw(name, [*records, *own], target):
        print(f"  {target}")
    return 0


def read_peers(path: str | Path) -> list[dict[str, Any]]:
    """The records of a file. Raises ValueError naming the record and the entry that is wrong."""
    path = Path(path)
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON: {error}") from None
    if not isinstance(records, list) or not records:
        raise ValueError(f"{path}: expected a list of records, at least one")
    for number, record in enumerate(records):
        _check(f"{path}, record {number}", record)
    return records


def _check(where: str, record: Any) -> None:
    if not isinstance(record, dict):
        raise ValueError(f"{where}: expected an object, got {type(record).__name__}")
    for name in REQUIRED:
        if name not in record:
            raise ValueError(f"{where}: has no '{name}'")
    for name, value in record.items():
        kind = REQUIRED.get(name) or OPTIONAL.get(name)
        if kind is None:
            raise ValueError(f"{where}: '{name}' is no entry of a record: {', '.join([*REQUIRED, *OPTIONAL])}")
        unknown = value is None and name in OPTIONAL
        if not unknown and (not isinstance(value, kind) or isinstance(value, bool)):
            raise ValueError(f"{where}: '{name}' is {value!r}, expected {getattr(kind, '__name__', kind)}")
    if not record["seconds"] > 0:
        raise ValueError(f"{where}: 'seconds' must be above 0, got {record['seconds']}")
    for metric, value in record["metrics"].items():
        if value is not None and not _is_number(value):
            raise ValueError(f"{where}: the metric '{metric}' is {value!r}, expected a number")
    if record.get("curve") is not None:
        _check_curve(where, record["curve"])


def _check_curve(where: str, curve: Mapping) -> None:
    if "seconds" not in curve:
        raise ValueError(f"{where}: the curve has no 'seconds'")
    for name, values in curve.items():
        if not isinstance(values, list) or not all(_is_number(v) for v in values):
            raise ValueError(f"{where}: '{name}' of the curve is {values!r}, expected a list of numbers")
        if len(values) != len(curve["seconds"]):
            raise ValueError(
                f"{where}: '{name}' of the curve has {len(values)} numbers, 'seconds' has {len(curve['seconds'])}"
            )


def read_run(path: Path, required: bool) -> list[dict[str, Any]]:
    """The report of one's own run as a record, and its history; none where there is no report.

    Raises FileNotFoundError for one that is `required`, ValueError for a file that is no report.
    """
    if not path.is_file():
        if required:
            raise FileNotFoundError(f"no {path}; run the problem first (sciml run)")
        return []
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        versions, training = report["versions"], report["history"]["seconds"]
        record = {
            "package": "your run",
            "version": versions.get("sciml"),
            "model": "",
            "parameters": report.get("parameters"),
            "metrics": dict(report["metrics"]),
            "seconds": float(training[-1] if training else report["seconds"]),
            "machine": f"{versions.get('platform')}, {versions.get('cpus')} CPUs",
            "date": str(report["date"])[:10],
            "seed": report.get("seed"),
            "peak_memory_mb": report.get("peak_memory_mb"),
        }
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path}: not a report of sciml run ({error!r}); run the problem again") from None
    return [record]


def show_table(name: str, records: Sequence[Mapping], own: Sequence[Mapping]) -> None:
    """A row for each record, with the metrics that the peers have; machines below."""
    from rich.console import Console
    from rich.table import Table

    metrics = _metrics(records)
    table = Table(title=f"{name}: other packages and your own run" if own else f"{name}: other packages")
    rows = [*records, *own]
    columns = {
        "package": [_label(r) for r in rows],
        "model": [r["model"] for r in rows],
        "parameters": [_number(r.get("parameters"), ",d") for r in rows],
        "epochs": [_number(r.get("epochs"), "g") for r in rows],
        **{m: [_number(r["metrics"].get(m), ".3g") for r in rows] for m in metrics},
        "seconds": [_number(r["seconds"], ".1f") for r in rows],
        "s/epoch": [_number(r.get("seconds_per_epoch"), ".3g") for r in rows],
        "memory (MB)": [_number(r.get("peak_memory_mb"), ".0f") for r in rows],
    }
    columns = {heading: column for heading, column in columns.items() if any(column)}
    for heading in columns:
        table.add_column(heading, justify="left" if heading in ("package", "model") else "right")
    for row in zip(*columns.values()):
        table.add_row(*row)
    console = Console()
    console.print(table)
    machines = dict.fromkeys(f"{r['machine']} ({r['date']})" for r in [*records, *own])
    for machine in machines:
        of = [_label(r) for r in [*records, *own] if f"{r['machine']} ({r['date']})" == machine]
        console.print(f"  {', '.join(dict.fromkeys(of))}: {machine}", highlight=False, soft_wrap=True)
    for record in records:
        if record.get("note"):
            said = f"  {_label(record)}, {record['model']}: {record['note']}"
            console.print(said, highlight=False, soft_wrap=True, markup=False)
    if not own:
        console.print(f"  for your own beside them: sciml run {name}", highlight=False, soft_wrap=True)


def draw(name: str, records: Sequence[Mapping], path: Path) -> bool:
    """The figure: each metric against the seconds of training, both logarithmic; whether there was any to draw."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from ._save import write_atomically

    metrics = [m for m in _metrics(records) if any(_is_positive(r["metrics"].get(m)) for r in records)]
    # The peers' come first; a run's own baselines would crowd the figure.
    metrics = [m for m in metrics if any(m in r["metrics"] for r in records if r["package"] != "your run")][:4]
    if not metrics:
        return False
    figure = Figure(figsize=(4.6 * len(metrics) + 2.2, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(metrics), squeeze=False)[0]
    handles = []
    for panel, metric in zip(panels, metrics):
        handles = [_point(panel, i, record, metric) for i, record in enumerate(records)]
        panel.set(xscale="log", yscale="log", xlabel="seconds", ylabel=metric)
        panel.grid(which="both", linewidth=0.3)
    texts = [f"{_label(r)}\n{r['model']}" if r["model"] else _label(r) for r in records]
    figure.legend(handles, texts, loc="outside right center", fontsize="small")
    figure.suptitle(name)
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=120))
    return True


def _point(panel, number: int, record: Mapping, metric: str):
    """The marker of a record, and the line of its curve."""
    value = record["metrics"].get(metric)
    is_own = record["package"] == "your run"
    x, y = ([record["seconds"]], [value]) if _is_positive(value) else ([], [])
    colour, marker = COLOURS[number % len(COLOURS)], "*" if is_own else MARKERS[number % len(MARKERS)]
    curve = record.get("curve") or {}
    if metric in curve:
        panel.plot(curve["seconds"], curve[metric], linewidth=1.2, color=colour)
    (point,) = panel.plot(x, y, linestyle="", marker=marker, markersize=14 if is_own else 8, color=colour)
    return point


def _metrics(records: Sequence[Mapping]) -> list[str]:
    return list(dict.fromkeys(m for r in records for m in r["metrics"]))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_positive(value: Any) -> bool:
    return value is not None and math.isfinite(value) and value > 0


def _label(record: Mapping) -> str:
    return f"{record['package']} {record.get('version') or ''}".strip()


def _number(value: Any, form: str) -> str:
    return "" if value is None else format(value, form)
