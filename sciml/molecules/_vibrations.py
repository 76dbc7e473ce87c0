"""Vibrations of molecules and of crystals in the harmonic approximation."""

import warnings
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from ase import Atoms, units
from jaxtyping import Array, Float

from ._batches import structure as structure_of
from ._dynamics import atomic_masses_of
from ._structure import Structure

# From angular frequencies sqrt(eV / (angstrom^2 atomic mass units)) to wave numbers in 1/cm.
PER_CM = units._hbar * np.sqrt(units._e / units._amu) * 1e10 / units._e / units.invcm
# A molecule is a line where its atoms turn about an axis with less than this share of the others' inertia, in roots.
LINE = 5e-3
# Translations and rotations are free where their wave numbers are less than this share of the largest.
FREE = 0.02


class Vibrations(NamedTuple):
    """Of n atoms with m vibrations: `wavenumbers` in 1/cm, ascending, negative where the frequency is imaginary (no
    minimum); `modes`: how atoms move in each, of length 1 over all atoms; `rigid`: the wavenumbers, ascending, of
    translations and rotations, which are 0 at a minimum of an energy that does not depend on them.
    """

    wavenumbers: Float[np.ndarray, "m"]
    modes: Float[np.ndarray, "m n 3"]
    rigid: Float[np.ndarray, "r"]


def hessian(model: Any, structure: Structure) -> Float[Array, "n 3 n 3"]:
    """The second derivatives of the energy in eV/angstrom^2, by automatic differentiation, one atom after the other;
    those of padded atoms are 0.
    """
    structure = jax.tree.map(jnp.asarray, structure)
    return _rows(model, structure, jnp.arange(structure.positions.shape[0]))


@eqx.filter_jit
def _rows(model, structure, atoms):
    """The rows of the Hessian that belong to these atoms, (len(atoms), 3, n, 3)."""

    def slope(positions):
        return jax.grad(lambda r: model(eqx.tree_at(lambda s: s.positions, structure, r)))(positions)

    _, push = jax.linearize(slope, structure.positions)
    still = jnp.zeros_like(structure.positions)
    return jax.lax.map(
        lambda i: jax.vmap(lambda axis: push(still.at[i].set(axis)))(jnp.eye(3, dtype=still.dtype)), atoms
    )


def vibrations(model: Any, structure: Structure, *, masses: Float[np.ndarray, "n"] | None = None) -> Vibrations:
    """Harmonic vibrations around a structure, best one that is `relaxed`, in the precision of its positions; those of a
    cell where it has one (at the Gamma point).

    Translations, and rotations unless there is a cell, are projected out (Wilson, Decius & Cross, Molecular
    vibrations, 1955, section 2): n atoms leave 3 n - 6 vibrations, 3 n - 5 in a line, 3 n - 3 in a cell. Of the modes
    that are taken out, the wavenumbers are given too, and a warning where they are not small, as in a structure that is
    not relaxed.

    - `masses` in atomic mass units; by default those of the elements.

    Raises ValueError for masses that do not fit and where the Hessian is not finite.
    """
    there = np.asarray(structure.is_atom)
    root = np.sqrt(np.asarray(atomic_masses_of(structure, masses), float))[there]
    n = len(root)
    matrix = np.asarray(hessian(model, structure), float)[there][:, :, there].reshape(3 * n, 3 * n)
    if not np.isfinite(matrix).all():
        raise ValueError("vibrations: the second derivatives of the energy are not finite; do atoms overlap?")
    weights = np.repeat(root, 3)
    matrix = (matrix + matrix.T) / 2 / np.outer(weights, weights)
    periodic = bool(np.any(np.asarray(structure.cell)))
    stiff, free = _rigid_and_free(np.asarray(structure.positions, float)[there], root, periodic)
    values, vectors = np.linalg.eigh(free.T @ matrix @ free)
    modes = (free @ vectors).T / weights
    modes /= np.linalg.norm(modes, axis=1, keepdims=True)
    found = Vibrations(
        _wavenumbers(values), modes.reshape(-1, n, 3), _wavenumbers(np.linalg.eigvalsh(stiff.T @ matrix @ stiff))
    )
    largest = np.abs(found.wavenumbers).max(initial=0)
    if np.abs(found.rigid).max() > FREE * largest:
        warnings.warn(
            f"vibrations: translations and rotations have wave numbers of {np.round(found.rigid, 1).tolist()} 1/cm "
            "instead of 0; relax the structure first",
            stacklevel=2,
        )
    return found


def _wavenumbers(values):
    return PER_CM * np.sign(values) * np.sqrt(np.abs(values))


def _rigid_and_free(positions, root, periodic):
    """Orthonormal bases, as columns, of the mass-weighted moves that are translations and rotations, and of others."""
    arms = positions - (root[:, None] ** 2 * positions).sum(0) / (root**2).sum()
    rigid = [root[:, None] * axis for axis in np.eye(3)]
    if not periodic:
        turns = np.stack([root[:, None] * np.cross(axis, arms) for axis in np.eye(3)]).reshape(3, -1)
        # Turns about the axes of inertia.
        _, sizes, axes = np.linalg.svd(turns.T, full_matrices=False)
        rigid += [turn for turn, size in zip(axes @ turns, sizes) if size > LINE * max(sizes[0], 1e-9)]
    basis, _ = np.linalg.qr(np.stack([r.ravel() for r in rigid]).T, mode="complete")
    return basis[:, : len(rigid)], basis[:, len(rigid) :]


def phonons(
    model: Any,
    atoms: Atoms,
    cutoff: float,
    points: Any = (0.0, 0.0, 0.0),
    *,
    repeats: tuple[int, int, int] = (3, 3, 3),
    masses: Float[np.ndarray, "n"] | None = None,
) -> xr.DataArray:
    """The wavenumbers in 1/cm of the harmonic waves of a crystal with n atoms in its cell, best a relaxed one,
    ascending at each of m wave vectors (`point`, `branch`), which are its coordinates h, k and l; negative where the
    frequency is imaginary.

    - `cutoff`: that of the model, in angstroms.
    - `points`: wave vectors, (m, 3) or one, in units of the reciprocal cell vectors; by default the Gamma point.
    - `repeats`: the cells, along each vector, of the supercell whose force constants are taken, by automatic
      differentiation. The waves that fit into it are exact; others are where it is twice as wide as the interactions
      reach (with message passing, all layers together). Constants between atoms that are equally far through several
      boundaries are shared among these (Parlinski et al., Phys. Rev. Lett. 78, 4063, 1997).
    - `masses` of the n atoms in atomic mass units; by default those of the elements.

    Raises ValueError where the crystal does not repeat in three directions, for shapes that do not fit, and where the
    force constants are not finite.
    """
    points = np.atleast_2d(np.asarray(points, float))
    if not atoms.pbc.all():
        raise ValueError(f"phonons: a crystal repeats in three directions, got pbc={atoms.pbc.tolist()}")
    if points.shape[1:] != (3,) or len(repeats) != 3 or min(repeats) < 1:
        raise ValueError(
            f"phonons: expected points (m, 3) and three repeats of at least 1, got {points.shape}, {repeats}"
        )
    n, cell = len(atoms), atoms.cell.array
    whole = atoms.repeat(repeats)
    made = structure_of(whole, cutoff)
    constants = np.asarray(_rows(model, made, jnp.arange(n)), float)
    if not np.isfinite(constants).all():
        raise ValueError("phonons: the second derivatives of the energy are not finite; do atoms overlap?")
    root = np.sqrt(np.asarray(atomic_masses_of(structure_of(atoms, cutoff), masses), float))
    cells = np.rint((whole.positions - np.tile(atoms.positions, (len(whole) // n, 1))) @ np.linalg.inv(cell))
    phases = _phases(atoms.positions, whole.positions, cells, cell, np.asarray(repeats), points)
    # Over the atoms of the supercell that are images of the same one.
    constants = constants.reshape(n, 3, -1, n, 3) / (root[:, None, None, None, None] * root[:, None])
    matrices = np.einsum("iacjb,micj->miajb", constants, phases.reshape(len(points), n, -1, n))
    matrices = matrices.reshape(len(points), 3 * n, 3 * n)
    values = np.linalg.eigvalsh((matrices + matrices.conj().swapaxes(1, 2)) / 2)
    return xr.DataArray(
        _wavenumbers(values),
        {name: ("point", column) for name, column in zip("hkl", points.T)},
        ("point", "branch"),
        "wavenumber",
        {"units": "1/cm"},
    )


def _phases(positions, everywhere, cells, cell, repeats, points):
    """exp(2 pi i q.R) for each wave vector q, atom of the cell and atom of the supercell, which is R cells away: the
    mean over its nearest images.
    """
    images = np.stack(np.meshgrid(*[np.arange(-2, 3)] * 3, indexing="ij"), axis=-1).reshape(-1, 3) * repeats
    apart = everywhere[None] - positions[:, None]
    distances = np.linalg.norm(apart[:, :, None] + images @ cell, axis=-1)
    nearest = distances < distances.min(axis=2, keepdims=True) + 1e-4
    waves = np.exp(2j * np.pi * np.einsum("mx,cix->mci", points, cells[:, None] + images))
    return np.einsum("mci,aci->mac", waves, nearest / nearest.sum(axis=2, keepdims=True))
