"""A figure of what an operator does: input, prediction, truth, error and spectrum of some samples."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..metrics._spectrum import spectrum

# Told apart by colour-blind readers too (Okabe & Ito): prediction, truth, error, input.
COLOURS = {"prediction": "#D55E00", "truth": "#000000", "error": "#0072B2", "input": "#009E73"}
# Spectra are shown down to this part of the largest value.
SPECTRUM_FLOOR = 1e-12


def field_figure(
    inputs: Any,
    predictions: Any,
    targets: Any,
    *,
    rows: int = 3,
    name: str = "u",
    units: str = "",
    input_name: str = "input",
    input_units: str = "",
    axes: Sequence[str] = ("x", "y"),
    coordinates: Sequence[Any] | None = None,
    across: int = 0,
    channel: int = -1,
    input_channel: int = -1,
    title: str = "",
) -> Any:
    """A Matplotlib figure of fields in one or two dimensions, `(samples, channels, *grid)` each, as arrays of JAX or
    NumPy: a row for each of `rows` samples, from the least to the largest relative error, with input, prediction,
    truth, error (prediction - truth) and power spectra.

    - `name`, `units`: of what is predicted, `input_name`, `input_units`: of the input.
    - `axes`: the names of the axes of the grid; of fields in space and time, `("t", "x")`. `coordinates`: their values,
      by default from 0 to 1. `across`: which axis of the two lies across the page.
    - `channel`, `input_channel`: which channels are shown, the last by default. The input may have another grid.

    Prediction and truth of a row share their colours and their limits; those of the error are symmetric. Spectra are
    those of `sciml.metrics.spectrum` by periods in the length of the longest axis: fields are taken as periodic.

    Raises ValueError for shapes that do not agree, no samples and grids of other than 1 or 2 dimensions.
    """
    a, p, u = (np.asarray(f, float) for f in (inputs, predictions, targets))
    _check(a, p, u)
    a, p, u = a[:, input_channel], p[:, channel], u[:, channel]
    dimensions = u.ndim - 1
    errors = _relative_errors(p, u)
    chosen = _spread(errors, rows)
    figure, panels = _panels(len(chosen), dimensions, title)
    style = _Style(tuple(axes), coordinates, across, _with_unit(name, units), _with_unit(input_name, input_units))
    draw = _draw_lines if dimensions == 1 else _draw_maps
    for row, i in zip(panels, chosen):
        draw(figure, row, style, a[i], p[i], u[i])
        row[0].set_title(f"{style.input_name}\nsample {i}, relative error {errors[i]:.2g}")
        unit = f" {units}" if units else ""
        row[-2].set_title(f"error\nroot mean square {np.sqrt(np.mean((p[i] - u[i]) ** 2)):.2g}{unit}")
        _draw_spectra(row[-1], p[i], u[i])
    titles = (f"prediction and truth\n{style.name}",) if dimensions == 1 else (f"prediction\n{style.name}", "truth")
    for panel, text in zip(panels[0][1:], titles):
        panel.set_title(text)
    panels[0][-1].set_title("power spectrum")
    for row in panels[:-1]:
        for panel in row[: len(row) - 1]:
            panel.set_xlabel("")
        row[-1].set_xlabel("")
    return figure


def mesh_figure(
    clouds: tuple,
    predictions: Any,
    cells: Any,
    *,
    rows: int = 3,
    name: str = "u",
    units: str = "",
    input_name: str = "input",
    input_units: str = "",
    axes: Sequence[str] = ("x", "y"),
    channel: int = 0,
    input_channel: int = 0,
    title: str = "",
) -> Any:
    """A Matplotlib figure of fields on triangulations in the plane: a row for each of `rows` samples, from the least to
    the largest relative error, with input, prediction, truth, error and predicted against true values.

    - `clouds`: a batch `(features, points, ..., mask, targets)`, as `stack_clouds` makes them.
    - `predictions`: `(samples, out_channels, n)`, padded as the targets are.
    - `cells`: the triangles of each sample, as numbers of points, `(samples, m, 3)` or a list of `(m, 3)`; those with a
      corner twice are padding.
    - The other arguments are those of `field_figure`.

    Raises ValueError for points that are not in a plane, predictions and cells that do not fit, and no samples.
    """
    features, points, *_, mask, targets = clouds
    samples = len(np.asarray(points))
    if np.ndim(points) != 3 or np.shape(points)[2] != 2 or not samples:
        raise ValueError(f"mesh_figure: expected points (samples, n, 2) of some samples, got {np.shape(points)}")
    if np.shape(predictions) != np.shape(targets) or len(cells) != samples:
        raise ValueError(
            f"mesh_figure: predictions {np.shape(predictions)} and cells of {len(cells)} samples do not fit the "
            f"targets {np.shape(targets)}"
        )
    fields = (points, features[:, input_channel], predictions[:, channel], targets[:, channel])
    chosen = [[np.asarray(f[i], float)[np.asarray(mask[i], bool)] for f in fields] for i in range(samples)]
    errors = np.array([_relative_errors(p[None], u[None])[0] for _, _, p, u in chosen])
    shown = _spread(errors, rows)
    figure, panels = _panels(len(shown), 2, title)
    for row, i in zip(panels, shown):
        x, a, p, u = chosen[i]
        _draw_mesh(figure, row, x, np.asarray(cells[i]), a, p, u, axes)
        row[0].set_title(f"{_with_unit(input_name, input_units)}\nsample {i}, relative error {errors[i]:.2g}")
        unit = f" {units}" if units else ""
        row[3].set_title(f"error\nroot mean square {np.sqrt(np.mean((p - u) ** 2)):.2g}{unit}")
    for panel, text in zip(panels[0][1:3], (f"prediction\n{_with_unit(name, units)}", "truth")):
        panel.set_title(text)
    return figure


def _draw_mesh(figure, row, x, cells, a, p, u, axes) -> None:
    a_scale, u_scale, size = _scale(a), _scale(u), _largest(p - u)
    corners = cells[(cells[:, 0] != cells[:, 1]) & (cells[:, 1] != cells[:, 2])]
    fields = ((a, a_scale), (p, u_scale), (u, u_scale), (p - u, ("RdBu_r", (-size, size))))
    for panel, (field, (colours, (low, high))) in zip(row, fields):
        image = panel.tripcolor(*x.T, corners, field, cmap=colours, vmin=low, vmax=high, shading="gouraud")
        image.set_rasterized(True)
        figure.colorbar(image, ax=panel)
        panel.set(aspect="equal", xlabel=axes[0])
    row[0].set_ylabel(axes[1])
    _draw_parity(row[4], p, u)


def _draw_parity(panel, p, u) -> None:
    ends = [min(u.min(), p.min()), max(u.max(), p.max())]
    panel.plot(ends, ends, color="grey", linewidth=0.6)
    panel.plot(u, p, ".", color=COLOURS["prediction"], markersize=3)
    panel.set(xlabel="truth", ylabel="prediction", aspect="equal")


class _Style:
    """How fields are labelled, and which axis lies where."""

    def __init__(self, axes, coordinates, across, name, input_name):
        self.axes, self.coordinates, self.across = axes, coordinates, across
        self.name, self.input_name = name, input_name

    def places(self, shape: tuple[int, ...], dim: int) -> np.ndarray:
        """The coordinates along a dimension; of a grid that is not the one they belong to, over the same range."""
        n = shape[dim]
        if self.coordinates is None:
            return (np.arange(n) + 0.5) / n
        values = np.asarray(self.coordinates[dim])
        return values if len(values) == n else np.linspace(values[0], values[-1], n)


def _panels(rows: int, dimensions: int, title: str):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = 4 if dimensions == 1 else 5
    # A Figure of its own leaves the user's pyplot state alone.
    figure = Figure(figsize=(3.6 * columns, 2.9 * rows + 0.3), layout="constrained")
    FigureCanvasAgg(figure)
    if title:
        figure.suptitle(title)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _draw_lines(figure, row, style: _Style, a, p, u) -> None:
    first, both, error, _ = row
    x, own = style.places(u.shape, 0), style.places(a.shape, 0)
    first.plot(own, a, color=COLOURS["input"])
    both.plot(x, u, color=COLOURS["truth"], label="truth", linewidth=2.2)
    both.plot(x, p, color=COLOURS["prediction"], label="prediction", linestyle="--")
    both.legend(fontsize="small")
    error.plot(x, p - u, color=COLOURS["error"])
    error.axhline(0.0, color="grey", linewidth=0.6)
    size = _largest(p - u)
    error.set_ylim(-1.05 * size, 1.05 * size)
    for panel in (first, both, error):
        panel.set_xlabel(style.axes[0])
        # A common factor of the labels stands beside the title, not in it.
        panel.yaxis.get_offset_text().set_x(-0.18)


def _draw_maps(figure, row, style: _Style, a, p, u) -> None:
    _draw_map(figure, row[0], style, a, *_scale(a))
    colours, limits = _scale(u)
    _draw_map(figure, row[1], style, p, colours, limits)
    _draw_map(figure, row[2], style, u, colours, limits)
    size = _largest(p - u)
    _draw_map(figure, row[3], style, p - u, "RdBu_r", (-size, size))
    row[0].set_ylabel(style.axes[1 - style.across])


def _draw_map(figure, panel, style: _Style, field, colours: str, limits) -> None:
    up = 1 - style.across
    shown = field if up == 0 else field.T
    x, y = style.places(field.shape, style.across), style.places(field.shape, up)
    image = panel.pcolormesh(x, y, shown, cmap=colours, shading="nearest", vmin=limits[0], vmax=limits[1])
    image.set_rasterized(True)
    figure.colorbar(image, ax=panel)
    panel.set_xlabel(style.axes[style.across])
    if not {"t", "time"} & set(style.axes):
        panel.set_aspect("equal")


def _draw_spectra(panel, p, u) -> None:
    from matplotlib.ticker import NullLocator

    lines = {"truth": ("-", 2.2, u), "prediction": ("--", 1.5, p), "error": (":", 1.5, p - u)}
    # Shells beyond are corners of the grid.
    whole = max(1, min(u.shape) // 2)
    low, high = np.inf, 0.0
    for label, (line, width, field) in lines.items():
        numbers, power = (np.asarray(v, float) for v in spectrum(field[None], grid=tuple(range(1, field.ndim + 1))))
        k, power = numbers[1 : whole + 1] / (2 * np.pi), power[1 : whole + 1]
        panel.loglog(k, power, linestyle=line, linewidth=width, color=COLOURS[label], label=label)
        shown = power[np.isfinite(power) & (power > 0)]
        low, high = min(low, shown.min(initial=np.inf)), max(high, shown.max(initial=0.0))
    if high > 0:
        panel.set_ylim(0.5 * max(low, SPECTRUM_FLOOR * high), 2 * high)
    panel.set_xticks(ticks := [2**j for j in range(whole.bit_length())], [str(k) for k in ticks])
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set_xlabel("wavenumber (periods)")
    panel.legend(fontsize="small")


def _scale(field) -> tuple[str, tuple[float, float]]:
    """Colours and limits: fields of both signs are centred at zero."""
    finite = field[np.isfinite(field)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    size = max(-low, high, 0.0)
    if low < -0.1 * size and high > 0.1 * size:
        return "RdBu_r", (-size, size)
    return "viridis", (low, high)


def _largest(error) -> float:
    finite = np.abs(error[np.isfinite(error)])
    return float(finite.max(initial=0.0)) or 1.0


def _relative_errors(p, u) -> np.ndarray:
    over = tuple(range(1, u.ndim))
    size = np.maximum(np.sqrt(np.sum(u**2, axis=over)), np.finfo(float).tiny)
    return np.sqrt(np.sum((p - u) ** 2, axis=over)) / size


def _spread(errors: np.ndarray, rows: int) -> np.ndarray:
    """The numbers of so many samples, from the least to the largest error."""
    # Not a number comes last: it is the largest error.
    order = np.argsort(errors, kind="stable")
    return order[np.unique(np.linspace(0, len(order) - 1, min(rows, len(order))).round().astype(int))]


def _with_unit(name: str, unit: str) -> str:
    return f"{name} ({unit})" if unit else name


def _check(a, p, u) -> None:
    if p.shape != u.shape or len(a) != len(u) or a.ndim != u.ndim:
        raise ValueError(
            f"field_figure: predictions and targets must have one shape and inputs as many samples and dimensions, got "
            f"inputs {a.shape}, predictions {p.shape}, targets {u.shape}"
        )
    if u.ndim not in (3, 4):
        raise ValueError(
            "field_figure: draws grids of 1 or 2 dimensions, (samples, channels, *grid); of more, give a slice. Got "
            f"{u.shape}"
        )
    if not len(u):
        raise ValueError("field_figure: there are no samples to draw")
