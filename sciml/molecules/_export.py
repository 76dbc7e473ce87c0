"""A potential as a file that runs with JAX alone, and as an energy function of jax-md."""

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export
from jaxtyping import Array, Float

from .._save import write_atomically
from ._energy import Potential, energy_and_forces, energy_forces_stress
from ._search import Search, heights, inverse, reverse_places, room_for, search
from ._structure import Structure

# A cell whose heights shrink by up to this share has the images that it needs.
SHRUNK = 0.2


def export(
    path: str | os.PathLike,
    model: Potential,
    structure: Structure,
    *,
    cutoff: float,
    pbc: tuple[bool, bool, bool] | None = None,
    places: int | None = None,
    platforms: tuple[str, ...] = ("cpu", "cuda"),
) -> None:
    """Writes a potential to one file, whole or not at all, that runs without this package, by JAX and flatbuffers:

    ```python
    potential = jax.export.deserialize(bytearray(open(path, "rb").read()))
    energy, forces, stress = potential.call(positions, species, cell, charge)
    ```

    with positions (n, 3) and forces, species (n,) in int32, the cell and the stress (3, 3), the stress NaN where
    nothing is periodic. Neighbours are found inside, by comparing all pairs and images.

    Shapes are fixed: n is that of `structure`; of fewer atoms the last have species 0. The types are those of
    `structure`: in double precision, `jax_enable_x64` must be on where it is called. Everything is NaN where an atom
    has more neighbours than places, or the cell is narrower by more than a fifth than that of `structure`. JAX reads
    such files for about six months of its releases: keep the model, by `sciml.save`, too.

    - `cutoff`: that of the model, in angstroms.
    - `pbc`: in which directions the cell repeats; by default in all, if there is a cell.
    - `places`: for the neighbours of an atom; by default half as many again as one has in `structure`, or more.
    - `platforms`: on which it can run.

    Raises ValueError for a cutoff or places that are not positive, ImportError without flatbuffers (extra `export`).
    """
    if not cutoff > 0 or (places is not None and places < 1):
        raise ValueError(f"export: cutoff and places must be positive, got {cutoff} and {places}")
    structure = jax.tree.map(jnp.asarray, structure)
    cell = np.asarray(structure.cell, float)
    x, y, z = (bool(cell.any()),) * 3 if pbc is None else pbc
    find = search(float(cutoff), 1, (1 - SHRUNK) * cell, (bool(x), bool(y), bool(z)))
    if places is None:
        places = room_for(int(1.25 * int(find(structure)[1])))
    find = replace(find, places=places)

    def evaluated(positions, species, cell, charge):
        given = eqx.tree_at(
            lambda s: (s.positions, s.species, s.cell, s.charge), structure, (positions, species, cell, charge)
        )
        listed, most = find(given)
        found = (energy_forces_stress if any(find.pbc) else energy_and_forces)(model, listed)
        stress = jnp.full((3, 3), jnp.nan, positions.dtype) if found.stress is None else found.stress
        known = (most <= places) & find.reaches(cell)
        return tuple(jnp.where(known, v, jnp.nan) for v in (found.energy, found.forces, stress))

    given = structure.positions, structure.species, structure.cell, structure.charge
    shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in given]
    exported = jax_export.export(jax.jit(evaluated), platforms=platforms)(*shapes)
    try:
        written = exported.serialize()
    except ImportError as error:
        raise ImportError('export: JAX writes such files by flatbuffers: pip install "sciml-jax[export]"') from error
    write_atomically(path, lambda file: file.write(written))


def jax_md_energy(
    model: Potential, structure: Structure, *, cutoff: float, fractional: bool = False
) -> Callable[..., Float[Array, ""]]:
    """The function `energy(R, neighbor=None, **kwargs)` of positions in angstroms (n, 3), in the convention of jax-md:
    for its `simulate` and `minimize`, whose forces are derivatives of it. It needs no jax-md.

    - `structure`: without padding; says the species, the charge and the cell, which repeats in three directions where
      there is one.
    - `cutoff`: that of the model, in angstroms: at most half of the smallest height of the cell, as jax-md knows one
      image of a pair.
    - `fractional`: whether R is in units of the cell vectors, as in jax-md's `periodic_general` by default.
    - `neighbor`: a neighbour list of jax-md in the format `Dense`, found within the cutoff or more; without one, all
      pairs are compared.
    - among `kwargs`, `box` replaces the cell: a number, the lengths (3,) or a matrix (3, 3) whose columns are the cell
      vectors. Others are ignored.

    Raises ValueError for a cutoff that is not positive or too large, padding, and a list in another format.
    """
    structure = jax.tree.map(jnp.asarray, structure)
    n, periodic = structure.positions.shape[0], bool(np.any(np.asarray(structure.cell)))
    if not bool(jnp.all(structure.is_atom)):
        raise ValueError("jax_md_energy: expected a structure without padding")
    narrowest = float(heights(np.asarray(structure.cell, float)).min()) if periodic else np.inf
    if not 0 < cutoff <= narrowest / 2:
        raise ValueError(
            f"jax_md_energy: the cutoff must be positive and at most half of the cell's height {narrowest:.4g}, got "
            f"{cutoff}; repeat the cell"
        )
    find = Search(float(cutoff), max(1, n - 1), ((0, 0, 0),), (periodic, periodic, periodic))

    def energy(R: Array, neighbor: Any = None, **kwargs: Any) -> Float[Array, ""]:
        cell = structure.cell if kwargs.get("box") is None else _cell_of(kwargs["box"], R.dtype)
        positions = R @ cell if fractional else R
        there = eqx.tree_at(lambda s: (s.positions, s.cell), structure, (positions, cell))
        if neighbor is None:
            return model(find(there)[0])
        if jnp.ndim(neighbor.idx) != 2 or neighbor.idx.shape[0] != n:
            raise ValueError(f"expected a neighbour list of format Dense, ({n}, k), got shape {neighbor.idx.shape}")
        return model(_listed(there, neighbor.idx, periodic))

    return energy


def _cell_of(box, dtype):
    box = jnp.asarray(box, dtype)
    return box.T if box.ndim == 2 else jnp.eye(3, dtype=dtype) * box


def _listed(structure, numbers, periodic):
    """The structure with neighbours of these numbers, n where there is none, each in its nearest image."""
    n, k = numbers.shape
    is_edge = numbers < n
    own = jnp.arange(n, dtype=jnp.int32)[:, None]
    neighbours = jnp.where(is_edge, numbers, own).astype(jnp.int32)
    shifts = jnp.zeros((n, k, 3), jnp.int32)
    if periodic:
        apart = structure.positions[neighbours] - structure.positions[:, None]
        shifts = -jnp.round(jax.lax.stop_gradient(apart @ inverse(structure.cell))).astype(jnp.int32)
        shifts = jnp.where(is_edge[..., None], shifts, 0)
    reverse = jnp.where(is_edge, reverse_places(neighbours, shifts, is_edge), jnp.arange(k, dtype=jnp.int32))
    fields = neighbours, shifts, reverse, is_edge
    return eqx.tree_at(lambda s: (s.neighbours, s.shifts, s.reverse, s.is_edge), structure, fields)
