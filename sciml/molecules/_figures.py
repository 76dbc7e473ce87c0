"""Figures of potentials: predicted against true labels, and their errors."""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from ._frames import Frames

# Told apart by colour-blind readers too (Okabe & Ito).
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7")


def labels_figure(data: Frames, found: Frames, *, title: str = "") -> Any:
    """The `parity_figure` of the energy per atom, forces and stress of frames, as far as both have them."""
    shown = {}
    if "energy" in data.labels and "energy" in found.labels:
        shown["energy"] = data.labels["energy"] / data.counts, found.labels["energy"] / data.counts, "eV/atom"
    if "forces" in data.atom_labels and "forces" in found.atom_labels:
        shown["force"] = data.atom_labels["forces"], found.atom_labels["forces"], "eV/Å"
    if "stress" in data.labels and "stress" in found.labels:
        shown["stress"] = data.labels["stress"], found.labels["stress"], "eV/Å³"
    return parity_figure(shown, title=title)


def parity_figure(quantities: Mapping[str, tuple[Any, Any, str]], *, title: str = "") -> Any:
    """A Matplotlib figure with two panels for each quantity: predicted against true values, and a histogram of the
    errors with a logarithmic axis.

    - `quantities`: by name the true values, the predicted ones, of the same shape, and their unit. What is NaN is left
      out.

    Raises ValueError where there is nothing to show, shapes differ or nothing is finite.
    """
    from matplotlib.figure import Figure

    count = len(quantities)
    if not count:
        raise ValueError("parity_figure: there is nothing to show")
    figure = Figure(figsize=(3.6 * count, 6.4), layout="constrained")
    axes: Any = figure.subplots(2, count, squeeze=False)
    for column, (name, (true, found, unit)) in enumerate(quantities.items()):
        true, found = np.asarray(true, float), np.asarray(found, float)
        if true.shape != found.shape:
            raise ValueError(f"parity_figure: '{name}' has shapes {true.shape} and {found.shape}")
        known = np.isfinite(true) & np.isfinite(found)
        if not known.any():
            raise ValueError(f"parity_figure: no value of '{name}' is finite")
        true, found = true[known], found[known]
        colour = COLOURS[column % len(COLOURS)]
        axes[0, column].set_title(name)
        _parity(axes[0, column], true, found, colour, unit)
        _histogram(axes[1, column], found - true, colour, unit)
    figure.suptitle(title)
    return figure


def learning_figure(curves: Mapping[str, Any], *, error: str = "RMSE of forces (eV/Å)", title: str = "") -> Any:
    """A Matplotlib figure of errors against numbers of labels, with logarithmic axes.

    - `curves`: by name, rows of the number of labels, the error, and its deviation, which is drawn as a bar.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.0, 3.8), layout="constrained")
    panel = figure.subplots()
    for (name, rows), colour in zip(curves.items(), itertools.cycle(COLOURS)):
        panel.errorbar(*np.asarray(rows, float).T, marker="o", markersize=4, capsize=3, color=colour, label=name)
    panel.set(yscale="log", xlabel="labels", ylabel=error, title=title)
    panel.set_xscale("log", base=2)
    panel.xaxis.set_major_formatter("{x:g}")
    panel.yaxis.set_major_formatter("{x:.2g}")
    panel.yaxis.set_minor_formatter("{x:.2g}")
    panel.legend()
    return figure


def _parity(panel, true, found, colour, unit) -> None:
    ends = [min(true.min(), found.min()), max(true.max(), found.max())]
    panel.plot(ends, ends, color="black", linewidth=0.8)
    panel.plot(true, found, ".", color=colour, markersize=2, rasterized=True)
    panel.locator_params(nbins=5)
    panel.set(xlabel=f"true ({unit})", ylabel=f"predicted ({unit})")


def _histogram(panel, errors, colour, unit) -> None:
    panel.hist(errors, bins=60, color=colour, log=True)
    panel.locator_params(axis="x", nbins=4)
    panel.set(xlabel=f"error ({unit})", ylabel="count")
    panel.set_title(f"mean absolute error {np.abs(errors).mean():.3g} {unit}", fontsize=9)
