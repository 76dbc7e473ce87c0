"""Frames from a trajectory, and to files."""

import io
import os
from pathlib import Path

import numpy as np
import xarray as xr

from .._save import write_atomically
from ..data._write import SUFFIXES
from ..data._write import write as write_data
from ._files import to_dataset
from ._frames import Frames, frames


def from_trajectory(run: xr.Dataset) -> Frames:
    """The `Frames` of a run of `dynamics`, with the energy and the kinetic energy in eV and the temperature in K as
    labels, and velocities in angstrom/fs as a label of atoms. Raises ValueError for another data set.
    """
    missing = [n for n in ("positions", "species", "cell", "pbc", "charge") if n not in run]
    if missing:
        raise ValueError(f"from_trajectory: expected what dynamics returns, there is no '{missing[0]}'")
    count = run.sizes["time"]
    return frames(
        run["positions"].values,
        run["species"].values,
        cells=np.repeat(run["cell"].values[None], count, axis=0),
        pbc=run["pbc"].values.astype(bool),
        charges=np.full(count, float(run["charge"])),
        labels={n: run[n].values for n in ("energy", "kinetic", "temperature") if n in run},
        atom_labels={n: run[n].values for n in ("velocities",) if n in run},
    )


def write(data: Frames, path: str | os.PathLike) -> None:
    """Writes frames in eV and angstroms, whole or not at all, to a file that `read` reads: extended XYZ (.xyz,
    .extxyz), or .nc, .h5 and .zarr. Raises ValueError for another suffix.
    """
    suffix = Path(path).suffix
    if suffix in SUFFIXES:
        write_data(to_dataset(data), path, progress=False)
    elif suffix in (".xyz", ".extxyz"):
        from ase.io import write as write_atoms

        text = io.StringIO()
        write_atoms(text, data.to_atoms(), format="extxyz")
        write_atomically(path, lambda file: file.write(text.getvalue().encode()))
    else:
        raise ValueError(
            f"{path}: expected .xyz, .extxyz, {', '.join(SUFFIXES)}; for others use ASE's write of data.to_atoms()"
        )
