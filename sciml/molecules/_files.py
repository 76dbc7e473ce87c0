"""Ragged sets of structures as data sets: arrays of structures beside arrays of all their atoms."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..data._dataset import Dataset
from ..data._open import open as open_data

# Dimensions after the first one, by shape.
AXES = {(): (), (3,): ("axis",), (3, 3): ("vector", "axis"), (6,): ("component",)}


def ragged(attributes: Mapping[str, Any] | None = None, **groups: Mapping[str, tuple[Any, str]]) -> Dataset:
    """A data set of arrays with several first dimensions: `ragged(structure={"energy": (values, "eV"), ...},
    atom={"positions": (values, "angstrom"), ...})`; each array with its units. `n_atoms` says how many of the atoms,
    which stand one after the other, belong to each structure.

    Raises ValueError where arrays of one group have different lengths, or `n_atoms` has another sum than there are
    atoms.
    """
    import xarray as xr

    variables = {}
    for dim, group in groups.items():
        for name, (values, units) in group.items():
            array = np.asarray(values)
            shape = array.shape[1:]
            rest = AXES.get(shape, tuple(f"{name}_{i}" for i in range(len(shape))))
            variables[name] = ((dim, *rest), array, {"units": units})
    made = xr.Dataset(variables, attrs=dict(attributes or {}))
    if "n_atoms" in made and int(made["n_atoms"].sum()) != made.sizes["atom"]:
        raise ValueError(
            f"ragged: n_atoms adds up to {int(made['n_atoms'].sum())}, there are {made.sizes['atom']} atoms"
        )
    return open_data(made)
