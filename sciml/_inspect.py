"""`sciml inspect FILE` and `sciml rechunk FILE OUT`: what is in a file, how fast it can be read, and better chunks."""

import math
import re
import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .data._chunking import LEAST_BYTES, LIMIT, short, suggest_chunks
from .data._dataset import Dataset, _bytes
from .data._inspect import ReadingReport, Report, TimesReport, inspect, open_anyhow, size_on_disk, storage
from .data._lazy import Lazy
from .data._open import open as open_data
from .data._write import SUFFIXES, write

FAULTS = {
    "gaps": ("gaps (steps of over 1.5 usual ones)", "before"),
    "duplicates": ("times like the one before", "at"),
    "reversed": ("times before the one before", "at"),
    "missing": ("missing times", "at"),
}
PANELS = 6
# Of a panel: points along an axis, and numbers that are read for it.
POINTS, NUMBERS = 600, 2**24


def inspect_command(
    file: Any, window: tuple[int, int] | None = None, batch: int = 32, figure: str | Path | None = None
) -> int:
    """Prints what is in a file, or in the files of a pattern, and what reading it costs; draws it to `figure`. Returns
    the exit code: 1 where a part cannot be read or `sciml.open` refuses the file, else 0.

    Raises FileNotFoundError, DataError for what is no data, ValueError for a window that does not fit.
    """
    dataset, refusal = open_anyhow(file)
    report = inspect(dataset, window, batch, progress=True)
    _show(str(file), report, dataset, refusal)
    if figure is not None:
        draw(dataset, figure)
        print(f"  {figure}")
    return 1 if refusal or report.problems else 0


def rechunk_command(
    file: Any,
    out: str | Path,
    chunks: Mapping[str, int] | None = None,
    format: str | None = None,
    window: tuple[int, int] | None = None,
    overwrite: bool = False,
) -> int:
    """Writes a data set again with other chunks, whole or not at all; by default those that `inspect` suggests. Prints
    chunks and sizes before and after; returns the exit code.

    Raises ValueError where `out` is read itself, exists (without `overwrite`), or chunks name other dimensions;
    DataError as `sciml.open` and `sciml.data.write`.
    """
    started = time.perf_counter()
    out = Path(out)
    dataset = open_data(file)
    paths = _paths(dataset)
    if any(out.resolve() == p.resolve() for p in paths):
        raise ValueError(f"{out} is read itself; choose another name")
    if out.exists() and not overwrite:
        raise ValueError(f"{out} exists; choose another name, or give --overwrite")
    chosen = suggest_chunks(dataset, window) if chunks is None else dict(chunks)
    write(dataset, out, format=format, chunks=chosen)
    _show_rechunked(dataset, out, sum(map(size_on_disk, paths)), time.perf_counter() - started)
    return 0


def _paths(dataset: Dataset) -> list[Path]:
    found = [getattr(s, "path", None) for s in dataset.sources]
    return list(dict.fromkeys(Path(p) for p in found if p is not None))


# What is printed.


def _console():
    from rich.console import Console

    console = Console(highlight=False)
    # In a file, where there is no width to keep to, tables have room.
    return console if console.is_terminal else Console(highlight=False, width=100)


def _table(title: str, *columns: str):
    """A table whose first two columns and units may be folded."""
    from rich import box
    from rich.table import Table

    style: dict[str, Any] = {"box": box.SIMPLE_HEAD, "padding": (0, 1, 0, 0), "show_edge": False}
    table = Table(title=title, title_justify="left", title_style="bold", **style)
    for number, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=number > 1 and column != "units")
    return table


def _add(table, *cells: str) -> None:
    """A row; brackets in names and units are no markup."""
    table.add_row(*map(_plain, cells))


def _say(console, text: str) -> None:
    """An indented paragraph."""
    from rich.padding import Padding

    console.print(Padding(text, (0, 0, 0, 2)))


def _show(name: str, report: Report, dataset: Dataset, refusal: str) -> None:
    console = _console()
    files = f"{report.files} files, " if report.files > 1 else ""
    disk = f"{_bytes(report.disk)} on disk, " if report.disk is not None else ""
    kind = " and ".join(report.formats)
    console.print(f"[bold]{_plain(name)}[/]: {kind}, {files}{disk}{_bytes(report.nbytes)} in memory\n", soft_wrap=True)
    _show_variables(console, report)
    _show_coordinates(console, report)
    if report.times is not None:
        _show_time_axis(console, report.times)
    if refusal:
        console.print(f"[red]sciml.open refuses this file:[/] {_plain(refusal)}\n", soft_wrap=True)
    if isinstance(report.reading, str):
        console.print(f"[bold]Reading[/]\n  no batches: {_plain(report.reading)}", soft_wrap=True)
        return
    _show_reading(console, report.reading)
    _show_chunks(console, report, report.reading)
    if report.reading.suggestion.reasons and not refusal:
        line = _rechunk_line(name, dataset, report.reading.suggestion.chunks)
        console.print(f"  [bold]{_plain(line)}[/]", soft_wrap=True)


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _show_variables(console, report: Report) -> None:
    table = _table("Variables", "name", "dimensions", "type", "units", "chunks", "compression")
    numbers = _table("Numbers", "name", "missing", "min", "mean", "max", "memory", "file", "ratio")
    for name, v in report.variables.items():
        dims = ", ".join(f"{d} {n}" for d, n in zip(v.dims, v.shape))
        packed = "" if v.stored_dtype == v.dtype else f"{v.stored_dtype} as "
        chunks = "none" if v.chunks is None else " x ".join(map(str, v.chunks))
        _add(table, name, dims, f"{packed}{v.dtype}", v.units, chunks, v.codec or "none")
        found = report.numbers.get(name)
        shown = ["-"] * 4
        if found is not None and not found.problem:
            shown = [f"{100 * found.missing:.4g}%", *(f"{n:.5g}" for n in (found.min, found.mean, found.max))]
        stored = "-" if v.stored is None else _bytes(v.stored)
        _add(numbers, name, *shown, _bytes(v.nbytes), stored, f"{v.ratio:.3g}" if v.ratio else "-")
    console.print(table, "", numbers, "")
    sampled = [n.read for n in report.numbers.values() if n.read < 1]
    if sampled:
        console.print(
            f"  missing, min, mean and max are those of {max(sampled):.2%} of the numbers, chunks at random\n"
        )
    for name, found in report.numbers.items():
        if found.problem:
            console.print(f"  [red]{_plain(name)}:[/] {_plain(found.problem)}\n", soft_wrap=True)
        if found.mark is not None:
            hint = f"{found.mark:.5g} may mark missing numbers, which the file does not say"
            console.print(f"  [yellow]{_plain(name)}:[/] {hint}\n")
    if report.skipped:
        console.print(f"  not numbers, left out: {_plain(', '.join(map(str, report.skipped)))}\n")


def _show_coordinates(console, report: Report) -> None:
    if not report.coords:
        return
    table = _table("Coordinates", "name", "entries", "from", "to", "step", "units")
    for name, c in report.coords.items():
        dims = ", ".join(f"{d} {n}" for d, n in zip(c.dims, c.shape))
        dims = str(c.shape[0]) if c.dims == (name,) else dims or "1"
        step = "-" if c.step is None else f"{c.step:.5g}"
        _add(table, name, dims, _value(c.first), _value(c.last), step, c.units)
    console.print(table, "")


def _show_time_axis(console, times: TimesReport) -> None:
    report = times.report

    def length(step: float) -> str:
        return _duration(step) if times.calendar else f"{step:.6g} {times.units}".rstrip()

    calendar = f", {times.calendar} calendar" if times.calendar else ""
    ends = f"{_value(times.first)} to {_value(times.last)}"
    even = math.isclose(times.shortest, times.longest, rel_tol=1e-3)
    spread = "" if even or not report.step else f" ({length(times.shortest)} to {length(times.longest)})"
    console.print(f"[bold]Time[/]\n  {report.count} times in '{_plain(times.dim)}', {ends}{calendar}", soft_wrap=True)
    if report.step:
        console.print(f"  step: {'' if even else 'usually '}{length(report.step)}{spread}")
    faults = {kind: getattr(report, kind) for kind in FAULTS if getattr(report, kind)}
    for kind, found in faults.items():
        what, where = FAULTS[kind]
        shown = [_value(v) if kind != "missing" else f"number {i}" for v, i in zip(times.places[kind], found)]
        more = ", ..." if len(found) > len(shown) else ""
        console.print(f"  [yellow]{what}: {len(found)}[/], {where} {', '.join(shown)}{more}", soft_wrap=True)
    console.print("" if faults else "  no gaps, none repeated, reversed or missing\n")


def _show_reading(console, reading: ReadingReport) -> None:
    what = "rows" if reading.window is None else f"windows of {reading.window[0]} + {reading.window[1]} frames"
    title = f"Reading: batches of {reading.batch} out of {reading.rows} {what}"
    table = _table(title, "bytes decoded", "per byte used", "times the file, per epoch")
    single, shuffled = reading.single, reading.shuffled
    _add(table, "single rows, one by one at random", short(single.amplification), short(single.per_epoch))
    kept = "; later epochs 0" if reading.kept else ""
    _add(table, "sciml's shuffled batches", short(shuffled.amplification), short(shuffled.per_epoch) + kept)
    console.print(table, "")
    if reading.left_out:
        names = ", ".join(reading.left_out[:6]) + (", ..." if len(reading.left_out) > 6 else "")
        console.print(f"  without {_plain(names)}: other dimensions")
    if reading.problem:
        console.print(f"  [red]batches fail:[/] {_plain(reading.problem)}", soft_wrap=True)
    elif reading.per_second is None:
        console.print("  not measured: batches may need too much memory")
    else:
        seconds = f"{reading.seconds:.2g} s of the first epoch, warm or cold"
        console.print(f"  measured now: {reading.per_second:,.0f} rows/s ({seconds})")
    mixing = "all rows, an exact permutation" if reading.kept else f"{reading.mixing_radius} rows at a time"
    console.print(f"  memory: at most {_bytes(reading.memory)}; mixing: {mixing}\n")


def _show_chunks(console, report: Report, reading: ReadingReport) -> None:
    better = reading.suggestion
    console.print("[bold]Chunks[/]")
    if not better.reasons:
        _say(console, _why_they_will_do(report, reading))
        return
    for reason in better.reasons:
        _say(console, f"[yellow]{reason}[/]")
    lengths = ", ".join(f"{d} {n}" for d, n in better.chunks.items())
    console.print(f"  better: {_plain(lengths)}")
    then = f"single rows then decode {short(better.rows.amplification)} times what they use"
    console.print(f"  these have {_bytes(better.chunk_bytes)}; {then}")


def _why_they_will_do(report: Report, reading: ReadingReport) -> str:
    if all(v.chunks is None for v in report.variables.values()):
        return "There are none: any part can be read at its own cost."
    if reading.single.amplification <= LIMIT:
        return "They will do."
    return (
        f"They will do. Single rows decode {short(reading.single.amplification)} times what they use; rows are small "
        f"beside chunks of {LEAST_BYTES // 1024} KiB, so read them in batches."
    )


def _rechunk_line(name: str, dataset: Dataset, chunks: Mapping[str, int]) -> str:
    suffixes = [p.suffix for p in _paths(dataset)] or [""]
    suffix = suffixes[0] if suffixes[0] in SUFFIXES else ".h5"
    stem = re.sub(r"[^\w.-]+", "", Path(name).name.removesuffix(suffixes[0])).strip("_.-") or "data"
    cut = {d: n for d, n in chunks.items() if n < dataset.dims[d]} or chunks
    asked = ",".join(f"{d}={n}" for d, n in cut.items())
    return f"sciml rechunk {shlex.quote(name)} {stem}_rechunked{suffix} --chunks {shlex.quote(asked)}"


def _show_rechunked(before: Dataset, out: Path, old_size: int, seconds: float) -> None:
    after = storage(open_data(out))
    table = _table("", "name", "type", "chunks before", "chunks now", "in file before", "in file now")
    for name, old in storage(before).items():
        new = after[name]
        kind = f"{new.dtype}" if old.stored_dtype == new.stored_dtype else f"{old.stored_dtype} to {new.stored_dtype}"
        cuts = ["none" if v.chunks is None else " x ".join(map(str, v.chunks)) for v in (old, new)]
        sizes = ["-" if v.stored is None else _bytes(v.stored) for v in (old, new)]
        _add(table, name, kind, *cuts, *sizes)
    console = _console()
    console.print(table)
    skipped = before.attributes.get("skipped", ())
    if skipped:
        console.print(f"  not numbers, not written: {_plain(', '.join(map(str, skipped)))}")
    size = f"{_bytes(size_on_disk(out))} (before {_bytes(old_size)})"
    console.print(f"{_plain(str(out))}: {size}, written in {seconds:.1f} s", soft_wrap=True)


def _duration(seconds: float) -> str:
    for size, one, many in ((86400, "day", "days"), (3600, "h", "h"), (60, "min", "min")):
        if abs(seconds) >= size:
            number = f"{seconds / size:.4g}"
            return f"{number} {one if number == '1' else many}"
    return f"{seconds:.4g} s"


def _value(value: Any) -> str:
    """A number, a name or a date, as short as it can be."""
    if isinstance(value, np.datetime64):
        text = "NaT" if np.isnat(value) else str(np.datetime_as_string(value, unit="us")).replace("T", " ")
    elif hasattr(value, "calendar"):
        text = value.isoformat(sep=" ", timespec="microseconds")
    else:
        return f"{value:.6g}" if isinstance(value, float | np.floating) else str(value)
    return text.removesuffix(".000000").removesuffix(":00")


# The picture.


def draw(dataset: Dataset, path: str | Path) -> None:
    """A PNG of the first variables: fields of the first sample and time as pictures, series and profiles as lines."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    from ._save import write_atomically

    names = [n for n, a in dataset.arrays.items() if a.dtype.kind in "biuf"][:PANELS]
    if not names:
        raise ValueError("no variable of real numbers to draw")
    columns = min(len(names), 3 if len(names) != 4 else 2)
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.6 * rows), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12))
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, name in zip(panels, names):
        _draw_variable(figure, panel, dataset, name)
    for panel in panels[len(names) :]:
        panel.set_axis_off()
    write_atomically(path, lambda file: figure.savefig(file, dpi=120, format="png"))


def _draw_variable(figure, panel, dataset: Dataset, name: str) -> None:
    array = dataset.arrays[name]
    dims = _dims_to_draw(dataset, array)
    # Of a larger field, the corner that it begins with.
    most = round(NUMBERS ** (1 / max(1, len(dims))))
    sizes = {d: min(n, most) for d, n in zip(array.dims, array.shape) if d in dims}
    box = tuple(slice(0, sizes.get(d, 1)) for d in array.dims)
    values = array.read(box).reshape(list(sizes.values()))
    values = values[tuple(slice(None, None, _stride(n)) for n in values.shape)].astype(np.float64)
    values = np.ma.masked_invalid(values)
    label = _named(name, dataset.units.get(name, ""))
    at = [f"{d} {_position(dataset, d)}" for d in array.dims if d not in dims]
    panel.set_title("\n".join([_named(name), *([_named(", ".join(at))] if at else [])]), fontsize=9)
    axes = [_axis(dataset, d, n) for d, n in sizes.items()]
    if values.ndim == 2:
        (y, down), (x, across) = axes
        picture = panel.pcolormesh(x, y, values, shading="nearest", cmap="viridis", rasterized=True)
        # As high as the panel, whose height follows from its scales.
        figure.colorbar(picture, cax=panel.inset_axes((1.04, 0.0, 0.05, 1.0)), label=label)
        panel.set_ylabel(down)
        panel.set_facecolor("0.85")  # behind what is missing
        if _same_scale(x, y, across, down):
            panel.set_aspect("equal")
    else:
        x, across = axes[0] if axes else (np.zeros(1), "")
        panel.plot(x, values.reshape(-1), "." if values.size == 1 else "-", linewidth=1)
        panel.set_ylabel(label)
    panel.set_xlabel(across)
    if x.dtype.kind == "M":
        from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

        locator = AutoDateLocator()
        panel.xaxis.set_major_locator(locator)
        panel.xaxis.set_major_formatter(ConciseDateFormatter(locator))


def _dims_to_draw(dataset: Dataset, array: Lazy) -> list[str]:
    """At most two dimensions: not those of samples, and time only where there is room."""
    times, sample = dataset._time_dims(), dataset.sample_dim if dataset.dims else ""
    dims = [d for d, n in zip(array.dims, array.shape) if n > 1]
    if len(dims) > 1 and sample not in times:
        dims = [d for d in dims if d != sample and not d.startswith("sample_")]
    while len(dims) > 2:
        dims.remove(next((d for d in dims if d in times), dims[0]))
    return dims


def _named(name: str, units: str = "") -> str:
    """A label; dollars would be formulas for matplotlib."""
    return (f"{name} [{units}]" if units else name).replace("$", r"\$")


def _axis(dataset: Dataset, dim: str, size: int) -> tuple[np.ndarray, str]:
    """The positions along a dimension and how they are called: its coordinate, or the numbers of its entries."""
    places = np.arange(0, size, _stride(size))
    coord = dataset.coords.get(dim)
    if coord is None or coord.dims != (dim,) or coord.values.dtype.kind not in "iufM":
        return places, _named(f"{dim} (number)")
    values = coord.values[places]
    steps = np.diff(values.astype(np.float64))
    if not (np.all(steps > 0) or np.all(steps < 0)):
        return places, _named(f"{dim} (number)")
    return values, _named(dim, str(coord.attributes.get("units", "")))


def _stride(size: int) -> int:
    return -(-size // POINTS)


def _same_scale(x: np.ndarray, y: np.ndarray, across: str, down: str) -> bool:
    """Whether a unit is as long on both axes: of the same kind, and not so that the picture becomes a stripe."""
    if "M" in (x.dtype.kind, y.dtype.kind):
        return False
    kinds = [re.sub(r"degrees?_\w+", "degrees", re.sub(r"^\S+", "", text)) for text in (across, down)]
    spans = [float(abs(p[-1] - p[0])) for p in (x, y)]
    return kinds[0] == kinds[1] and 0.25 <= spans[0] / spans[1] <= 4


def _position(dataset: Dataset, dim: str) -> str:
    coord = dataset.coords.get(dim)
    return _value(coord.values[0]) if coord is not None and coord.dims == (dim,) else "0"
