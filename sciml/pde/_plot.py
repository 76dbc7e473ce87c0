"""A figure of a solution: fields, reference, error and the curves of the losses."""

from typing import Any

import numpy as np

# Curves of these colours are told apart by colour-blind readers too (Okabe & Ito).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def plot_solution(solution, path=None) -> Any:
    """One row per field (solution, reference, error) and the losses; written to `path` (a name or a file) if given."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    pde = solution.pde
    compared = pde.reference is not None
    dataset = solution.compare() if compared else solution.on()
    fields = pde.fields
    columns = 4 if compared else 2
    # A Figure of its own leaves the user's pyplot state alone.
    figure = Figure(figsize=(4.2 * columns, 3.5 * len(fields)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(fields), columns, squeeze=False)
    for row, field in zip(panels, fields):
        names = [field]
        if compared and f"{field}_reference" in dataset:
            names += [f"{field}_reference", f"{field}_error"]
        for panel, name in zip(row, names):
            _draw(figure, panel, pde, dataset, name)
        for panel in row[len(names) : -1]:
            panel.set_axis_off()
    _draw_losses(panels[0][-1], solution.history)
    for row in panels[1:]:
        row[-1].set_axis_off()
    if path is not None:
        figure.savefig(path, dpi=120, format="png")
    return figure


def _title(name: str) -> str:
    for suffix in ("reference", "error"):
        if name.endswith(f"_{suffix}"):
            return f"{suffix} of {name.removesuffix(f'_{suffix}')}"
    return f"solution {name}"


def _draw(figure, panel, pde, dataset, name: str) -> None:
    values = dataset[name]
    panel.set_title(_title(name))
    if len(pde.axes) == 1:
        panel.plot(dataset[pde.axes[0]], values, color=COLOURS[0])
        _label(panel, dataset, pde.axes[0], name)
        return
    across, up = _shown_axes(pde)
    rest = {a: values.sizes[a] // 2 for a in pde.axes if a not in (across, up) and a in values.dims}
    if rest:
        at = ", ".join(f"{a} = {float(dataset[a][i]):.3g}" for a, i in rest.items())
        panel.set_title(f"{_title(name)} at {at}")
    if not {across, up} <= set(values.dims):
        _draw_scatter(figure, panel, pde, dataset.isel(rest), name)
        return
    shown = values.isel(rest).transpose(up, across)
    colours, limits = _scale(name, shown.values)
    image = panel.pcolormesh(dataset[across], dataset[up], shown, cmap=colours, shading="nearest", **limits)
    image.set_rasterized(True)
    figure.colorbar(image, ax=panel)
    _label(panel, dataset, across, up)
    if "t" not in (across, up):
        panel.set_aspect("equal")


def _draw_scatter(figure, panel, pde, dataset, name) -> None:
    """A reference at scattered nodes."""
    across, up = _shown_axes(pde)
    colours, limits = _scale(name, dataset[name].values)
    points = panel.scatter(dataset[across], dataset[up], c=dataset[name], s=3, cmap=colours, linewidths=0, **limits)
    points.set_rasterized(True)
    figure.colorbar(points, ax=panel)
    _label(panel, dataset, across, up)
    if "t" not in (across, up):
        panel.set_aspect("equal")


def _shown_axes(pde) -> tuple[str, str]:
    """Time across and space up; else the first two axes."""
    space = [a for a in pde.axes if a != "t"]
    return ("t", space[0]) if "t" in pde.axes and len(space) == 1 else (space[0], space[1])


def _scale(name: str, values) -> tuple[str, dict]:
    """Errors and fields of both signs are centred at zero."""
    size = float(np.nanmax(np.abs(values))) if np.isfinite(values).any() else 1.0
    if name.endswith("_error") or (np.nanmin(values) < -0.1 * size and np.nanmax(values) > 0.1 * size):
        return "RdBu_r", {"vmin": -size, "vmax": size}
    return "viridis", {}


def _label(panel, dataset, across, up) -> None:
    def with_unit(name):
        unit = dataset[name].attrs.get("units") if name in dataset else None
        return f"{name} ({unit})" if unit else name

    panel.set_xlabel(with_unit(across))
    panel.set_ylabel(with_unit(up))


def _draw_losses(panel, history) -> None:
    panel.set_title("losses")
    names = [n for n in history.data_vars if n != "loss"] or list(history.data_vars)
    # A direct solution has one entry: points instead of curves.
    marker = "o" if history.sizes.get("step", 0) == 1 else ""
    for name, colour in zip(names, COLOURS * (len(names) // len(COLOURS) + 1)):
        panel.semilogy(history["seconds"], history[name], marker=marker, color=colour, label=name)
    panel.set_xlabel("seconds")
    panel.set_ylabel("mean square residual")
    if names:
        panel.legend(fontsize="small")
