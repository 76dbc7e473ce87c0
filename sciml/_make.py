"""`sciml make`: the provided data sets, and one of them made or fetched and written to a file."""

import time
from pathlib import Path
from typing import Any

from ._problem import Card, datasets, make_dataset, read_card
from .data._recipe import Recipe
from .data._write import SUFFIXES, write

SUFFIX_OF = {"hdf5": ".h5", "netcdf": ".nc", "zarr": ".zarr"}
OPTIONS = {
    "out": ("FILE", "where it is written (default data/{name}.h5)"),
    "format": ("NAME", "hdf5, netcdf or zarr (default: from the suffix of FILE)"),
    "layout": ("NAME", "pdebench or the_well: as those projects store their files (HDF5)"),
    "compression": ("NAME", "auto, gzip, lzf, zstd or none (default auto)"),
    "overwrite": ("", "replace FILE if it holds something else"),
}


def list_datasets() -> int:
    """Prints the provided data sets with the titles of their cards; returns the exit code."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Data sets: sciml make NAME")
    table.add_column("name", no_wrap=True)
    table.add_column("what")
    for path in datasets().values():
        card = read_card(path, "make")
        table.add_row(card.name, card.title)
    Console().print(table)
    return 0


def show_card(card: Card) -> int:
    """Prints the card of a data set, its settings and the options; returns the exit code."""
    print(f"{card.name}: {card.text}\n")
    print("Settings:" if card.settings else "No settings.")
    for name, default in card.settings.items():
        print(f"  --{name:<12} default {default}")
    print("\nOptions:")
    for name, (value, text) in OPTIONS.items():
        print(f"  {f'--{name} {value}':<20} {text.format(name=card.name)}")
    return 0


def make_command(
    card: Card,
    settings: dict[str, Any],
    *,
    out: str | Path | None = None,
    format: str | None = None,
    layout: str | None = None,
    compression: str | None = "auto",
    overwrite: bool = False,
) -> int:
    """Makes or fetches a data set and writes it to `out`, whole or not at all; an interrupted run goes on. Prints where
    it is; returns the exit code.

    A file that was written with the same settings is left as it is. Raises ValueError for unknown options and settings
    and where `out` holds something else and `overwrite` is false; DataError as `sciml.data.write`.
    """
    started = time.time()
    path = Path(out) if out is not None else Path("data") / f"{card.name}{SUFFIX_OF.get(format or 'hdf5', '.h5')}"
    if format is None and path.suffix not in SUFFIXES:
        raise ValueError(f"--out {path}: the suffix must be one of {', '.join(SUFFIXES)}, or give --format")
    made = make_dataset(card.path, settings)
    if path.exists() and not overwrite:
        if isinstance(made, Recipe) and layout is None and _written_by(path) == _mark(made):
            print(f"{path} is there already, made with these settings")
            return 0
        raise ValueError(f"{path} exists and holds something else; choose another --out, or give --overwrite")
    write(made, path, format=format, layout=layout, compression=None if compression == "none" else compression)
    size = sum(p.stat().st_size for p in ([path] if path.is_file() else path.rglob("*")) if p.is_file())
    count = f"{made.samples} samples, " if isinstance(made, Recipe) else ""
    print(f"{path}: {count}{size / 1e6:.1f} MB in {time.time() - started:.1f} s")
    return 0


def _mark(recipe: Recipe) -> tuple[str, str]:
    return str(recipe.attributes.get("settings", "")), str(recipe.attributes.get("recipe_sha256", ""))


def _written_by(path: Path) -> tuple[str, str] | None:
    """The settings and the recipe that a file names; None for any other file."""
    try:
        if path.is_dir():
            import zarr

            attributes: Any = dict(zarr.open_group(path, mode="r").attrs)
        else:
            import h5py

            with h5py.File(path, "r") as file:
                attributes = dict(file.attrs)
    except Exception:
        return None
    return str(attributes.get("settings", "")), str(attributes.get("recipe_sha256", ""))
