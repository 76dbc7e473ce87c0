"""`sciml check FILE NAME`: does a data set satisfy its equations?"""

import inspect
import warnings
from pathlib import Path
from typing import Any


def check_command(
    file: Any,
    name: str | Path,
    settings: dict[str, Any],
    *,
    rename: dict[str, str] | None = None,
    periodic: Any = None,
    order: int = 6,
    tolerance: float = 0.01,
    samples: int | None = None,
    skip: int = 0,
    figure: str | Path | None = None,
) -> int:
    """Prints a table of the residuals of a problem's equations on a file's grid: exit code 0 where all verdicts are
    "yes", 1 where one is "no", 3 where one is "undecided".

    `file` is anything that `sciml.open` opens, or a Dataset of sciml or xarray; `name` a problem, a data set or a path
    of either. `samples` limits how many are read, `skip` leaves out stored times at the beginning. Raises ValueError
    for what the file or the problem does not have.
    """
    from .pde._grid import ALIASES, assess_grid

    equations = find_equations(name, settings)
    data, read = _reader(file, skip)
    sizes = {str(d): int(n) for d, n in (data.sizes if hasattr(data, "sizes") else data.dims).items()}
    names = rename or {}
    axes = _axes(equations, {names.get(d, d) for d in sizes})
    other = {long: short for short, long in ALIASES} | {short: long for short, long in ALIASES}
    batch = [d for d in sizes if names.get(d, d) not in axes and other.get(d) not in axes]
    if samples is not None and batch:
        sizes[batch[0]] = min(samples, sizes[batch[0]])
    options: dict[str, Any] = dict(
        equations=equations, rename=rename, periodic=periodic, axes=None, order=order, spectral=None, parameters={}
    )
    totals, grid = assess_grid(read, sizes, batch, tolerance=tolerance, **options)
    _show(str(name), totals, grid, tolerance)
    if figure is not None:
        worst = max(totals.values(), key=lambda a: a.relative)
        chosen = {b: slice(worst.where.get(b, 0), worst.where.get(b, 0) + 1) for b in batch}
        draw(read(chosen), options | {"tolerance": tolerance}, worst, figure)
        print(f"  {figure}")
    verdicts = {a.verdict for a in totals.values()}
    return 1 if "no" in verdicts else 3 if "undecided" in verdicts else 0


def find_equations(name: str | Path, settings: dict[str, Any]) -> Any:
    """The equations of a data set (its function `equations`) or of a problem that is a PDE. Raises ValueError."""
    from ._problem import datasets, find_problem, load_module, make_problem, nearest_names, problems
    from .pde import PDE

    text = str(name)
    known = problems() | datasets()
    is_path = text.endswith(".py") or "/" in text
    if not is_path and text not in known:
        raise ValueError(f"no problem or data set '{text}'; {nearest_names(text, list(known))}")
    module = load_module(find_problem(name) if is_path else known[text])
    with warnings.catch_warnings():
        # What determines a solution is of no matter to one that is there.
        warnings.simplefilter("ignore")
        function = getattr(module, "equations", None)
        if callable(function):
            _check_settings(function, settings)
            return function(**settings)
        if not hasattr(module, "problem"):
            raise ValueError(f"{module.__file__}: to check data, a file needs a function `equations` or `problem`")
        made = make_problem(module, settings)
    if not isinstance(made, PDE):
        raise ValueError(f"'{text}' has no equations to check: its problem is a {type(made).__name__}, not a PDE")
    return made


def _check_settings(function, settings) -> None:
    from ._problem import nearest_names

    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    known = [p.name for p in parameters]
    for setting in settings:
        if setting not in known:
            raise ValueError(f"no setting '{setting}'; {nearest_names(setting, known)}")


def _reader(file: Any, skip: int):
    """A data set, and a function from a selection to an xarray Dataset in memory."""
    import xarray as xr

    if not isinstance(file, xr.Dataset) and not hasattr(file, "to_xarray"):
        from .data._open import open as open_data

        file = open_data(file)
    if skip:
        sizes = file.sizes if isinstance(file, xr.Dataset) else file.dims
        time = next((d for d in ("t", "time") if d in sizes), None)
        if time is None or not 0 < skip < sizes[time]:
            have = "no dimension of time" if time is None else f"{sizes[time]} times"
            raise ValueError(f"skip: cannot leave out the first {skip} stored times, the file has {have}")
        later: dict[str, Any] = {time: slice(skip, None)}
        file = file.isel(**later)
    if isinstance(file, xr.Dataset):
        return file, lambda chosen: file.isel(chosen).load()
    return file, lambda chosen: file.isel(**chosen).to_xarray()


def _axes(equations, dims) -> set[str]:
    from .pde import PDE
    from .pde._grid import BATCH

    return set(equations.axes) if isinstance(equations, PDE) else {d for d in dims if d not in BATCH}


def _show(name: str, totals, grid, tolerance: float) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{name}: residuals on the grid")
    for column in ("equation", "residual (rms)", "relative", "floor", "of", "worst at", f"within {tolerance:g}?"):
        table.add_column(column, overflow="fold")
    for one in totals.values():
        place = ", ".join(f"{k}={v:.4g}" for k, v in one.where.items())
        figures = [f"{v:.2e}" for v in (one.rms, one.relative, one.floor)]
        table.add_row(one.name, *figures, one.largest_term, f"{one.worst:.2e} ({place})", one.verdict)
    console = Console()
    console.print(table)
    console.print(f"  derivatives: {grid.treatment()}", highlight=False)
    if any(one.verdict == "undecided" for one in totals.values()):
        console.print(
            "  undecided: the grid or the stored times are too coarse for these derivatives (the floor); store more, "
            "or leave out early times (--skip N)",
            highlight=False,
        )
    left_out = {a.name: 1 - a.count / max(1, a.points) for a in totals.values() if a.count < a.points}
    for equation, share in left_out.items():
        console.print(
            f"  {equation}: {share:.1%} of the points have no finite residual (missing values)", highlight=False
        )
    if grid.skipped:
        console.print(f"  not checked, the grid has no such points: {grid.skipped}", highlight=False)


def draw(fields, options: dict[str, Any], worst, path: str | Path) -> None:
    """A field beside the residual of one equation, for one sample, through the place of the largest residual."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from ._save import write_atomically
    from .pde._grid import grid_residuals

    options = dict(options)
    equations, parameters = options.pop("equations"), options.pop("parameters")
    residuals = grid_residuals(equations, fields, **options, **parameters)
    first = next(n for n in fields.data_vars if fields[n].dtype.kind in "fiu")
    figure = Figure(figsize=(9.5, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2)
    for panel, array, title in (
        (panels[0], fields[first], first),
        (panels[1], residuals[worst.name], f"residual of {worst.name}"),
    ):
        _panel(figure, panel, array, worst.where, title)
    write_atomically(Path(path), lambda file: figure.savefig(file, dpi=120, format="png"))


def _panel(figure, panel, array, where, title: str) -> None:
    import numpy as np

    array = array.squeeze(drop=True)
    for dim in array.dims[: max(0, array.ndim - 2)]:
        here = where.get(dim, where.get("t") if dim == "time" else None)
        numeric = dim in array.coords and array[dim].dtype.kind == "f" and here is not None
        index = int(np.argmin(np.abs(array[dim].values - here))) if numeric else array.sizes[dim] // 2
        title = f"{title} at {dim} = {array[dim].values[index] if dim in array.coords else index}"
        array = array.isel({dim: index}, drop=True)
    panel.set_title(title)
    if array.ndim == 2:
        image = panel.pcolormesh(array.values, rasterized=True, cmap="RdBu_r" if "residual" in title else "viridis")
        figure.colorbar(image, ax=panel)
        panel.set_xlabel(f"index of {array.dims[1]}")
        panel.set_ylabel(f"index of {array.dims[0]}")
    elif array.ndim == 1:
        panel.plot(array.values)
        panel.set_xlabel(f"index of {array.dims[0]}")
