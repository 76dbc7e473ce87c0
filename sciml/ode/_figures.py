"""Figures of trajectories: states over time with bands, the phase portrait, and a quantity such as the energy."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# Told apart by colour-blind readers too (Okabe & Ito).
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9")
# What is drawn in black.
TRUTHS = ("truth", "reference", "measured")
# The size of bands, in standard deviations.
BAND = 1.96


def trajectory_figure(
    ts: Any,
    curves: Mapping[str, Any],
    *,
    names: Sequence[str],
    deviations: Any = None,
    measured: tuple[Any, Any] | None = None,
    phase: tuple[int, int] | None = (0, 1),
    quantities: Mapping[str, Any] | None = None,
    quantity: str = "energy",
    quantity_times: Any = None,
    time: str = "t",
    log: bool = False,
    logarithmic_time: bool = False,
    title: str = "",
) -> Any:
    """A Matplotlib figure of one trajectory: a panel for each state over time, one of two states against each other,
    and one of a quantity over time.

    - `ts`: times (n,), and `curves`: states (n, d) by the name of the model or the truth that they come from. The first
      is drawn in colour with bands, one that is called `truth`, `reference` or `measured` in black.
    - `names`: of the states.
    - `deviations`: standard deviations (n, d) of the first curve, drawn as a band of 95 %; with `log`, those of the
      logarithm of states, whose axes are then logarithmic too. `logarithmic_time` is that of the other axis.
    - `measured`: times (k,) and values (k, d), NaN where nothing was measured.
    - `phase`: the numbers of two states; None for no such panel, as for states of one number.
    - `quantities`: values by the name of the curve, at `ts` or at times of their own; `quantity`: what they are.

    Raises ValueError for curves whose shape does not fit times and names.
    """
    from matplotlib.figure import Figure

    ts = np.asarray(ts)
    curves = {n: np.asarray(c, float) for n, c in curves.items()}
    for name, curve in curves.items():
        if curve.shape != (len(ts), len(names)):
            raise ValueError(
                f"trajectory_figure: '{name}' has shape {curve.shape}, expected {(len(ts), len(names))} from times and "
                "names"
            )
    shown = phase if len(names) > 1 else None
    count = len(names) + (shown is not None) + (quantities is not None)
    figure = Figure(figsize=(4.2 * count, 3.6), layout="constrained")
    panels = list(np.atleast_1d(np.asarray(figure.subplots(1, count))))
    styles = _styles(curves | dict(quantities or {}))
    for i, name in enumerate(names):
        panel = panels[i]
        for label, curve in curves.items():
            panel.plot(ts, curve[:, i], label=label, **styles[label])
        if deviations is not None:
            first = next(iter(curves.values()))[:, i]
            low, high = _band(first, np.asarray(deviations)[:, i], log)
            panel.fill_between(ts, low, high, color=COLOURS[0], alpha=0.2, linewidth=0, label="95 %")
        if measured is not None:
            panel.plot(measured[0], np.asarray(measured[1])[:, i], ".", color="black", markersize=4, label="measured")
        panel.set(xlabel=time, title=name, yscale="log" if log else "linear")
        if log:
            _few_decades(panel.yaxis)
        if logarithmic_time:
            panel.set_xscale("log")
        else:
            # Years have labels so long that more of them would overlap.
            panel.locator_params(axis="x", nbins=5)
    panels[0].legend(fontsize="small")
    if shown is not None:
        _draw_phase(panels[len(names)], curves, styles, names, shown, measured, log)
    if quantities is not None:
        for label, values in quantities.items():
            panels[-1].plot(
                ts if quantity_times is None else quantity_times, values, label=label, **styles.get(label, {})
            )
        panels[-1].set(xlabel=time, title=quantity, yscale="log" if _spans(quantities) else "linear")
        panels[-1].legend(fontsize="small")
    if title:
        figure.suptitle(title)
    return figure


def _styles(curves: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    others = [n for n in curves if n not in TRUTHS]
    found: dict[str, dict[str, Any]] = {n: {"color": COLOURS[i % len(COLOURS)]} for i, n in enumerate(others)}
    return found | {n: {"color": "black", "linewidth": 0.8, "linestyle": "--"} for n in curves if n not in others}


def _band(curve: np.ndarray, deviation: np.ndarray, log: bool) -> tuple[np.ndarray, np.ndarray]:
    if log:
        return curve * np.exp(-BAND * deviation), curve * np.exp(BAND * deviation)
    return curve - BAND * deviation, curve + BAND * deviation


def _draw_phase(panel, curves, styles, names, phase, measured, log: bool) -> None:
    i, j = phase
    for label, curve in curves.items():
        panel.plot(curve[:, i], curve[:, j], **styles[label])
    if measured is not None:
        values = np.asarray(measured[1])
        panel.plot(values[:, i], values[:, j], ".", color="black", markersize=4)
    scale = "log" if log else "linear"
    panel.set(xlabel=names[i], ylabel=names[j], title="phase portrait", xscale=scale, yscale=scale)
    if log:
        _few_decades(panel.xaxis)
        _few_decades(panel.yaxis)


def _few_decades(axis) -> None:
    """Plain numbers at 1, 2 and 5 of each decade, where a logarithmic axis has fewer than three."""
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    low, high = axis.get_view_interval()
    if high < 1e3 * low:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(ScalarFormatter())
        axis.set_minor_formatter(NullFormatter())


def _spans(quantities: Mapping[str, Any]) -> bool:
    """Whether positive values differ so much that only a logarithmic axis shows them all."""
    values = np.concatenate([np.ravel(v) for v in quantities.values()])
    values = values[np.isfinite(values)]
    positive = values[values > 0]
    return bool(len(positive) and (values >= 0).all() and positive.max() > 1e3 * np.quantile(positive, 0.1))
