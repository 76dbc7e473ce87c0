"""Dispersion between the atoms of molecules and crystals: DFT-D3 with the damping of Becke and Johnson."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._layers import Species
from ._structure import Structure, edges
from ._terms import BOHR, HARTREE, all_pairs

# Grimme, Antony, Ehrlich & Krieg, JCP 132, 154104, 2010, eqs. 15 and 16: k1 and k3.
STEEPNESS, SHARPNESS = 16.0, 4.0


class D3(eqx.Module):
    """DFT-D3(BJ) without three-body terms (Grimme, Ehrlich & Goerigk, J. Comput. Chem. 32, 1456, 2011, eqs. 5 to 7):
    C6 of pairs depend on the coordination of their atoms. `d3` makes it. Nothing of it is trained.

    - `species`: the s atomic numbers it knows; `radii` (s,), `moments` (s,), `coordination` (s, 7) and `c6`
      (s, s, 7, 7): covalent radii times 4/3, the roots of <r^4>/<r^2> that C8 is made of, the coordination numbers of
      the systems of reference, -1 where there is none, and C6 between these, in atomic units.
    - `s6`, `s8`, `a1`, `a2`: the parameters of a functional, a2 in Bohr radii.
    - `periodic`: whether the pairs are those of the structure's neighbours, images among them, or all of a molecule.
    """

    species: tuple[int, ...] = eqx.field(static=True)
    radii: tuple = eqx.field(static=True)
    moments: tuple = eqx.field(static=True)
    coordination: tuple = eqx.field(static=True)
    c6: tuple = eqx.field(static=True)
    s6: float = eqx.field(static=True)
    s8: float = eqx.field(static=True)
    a1: float = eqx.field(static=True)
    a2: float = eqx.field(static=True)
    periodic: bool = eqx.field(static=True, default=False)

    def __call__(self, structure: Structure) -> Float[Array, ""]:
        """In eV. Raises ValueError where a species is unknown or, without `periodic`, the structure is periodic; inside
        `jit` the energy is NaN then.
        """
        if self.periodic:
            r, is_pair = edges(structure).distances, structure.is_edge
        else:
            r, is_pair = all_pairs(structure, "D3 without periodic=True")
        r = r / BOHR
        c6 = self._of_pairs(structure, self._c6(structure, self._coordination(structure, r, is_pair)))
        # C8 / C6 = 3 q q'. What is no atom has 1, whose root has a derivative.
        q = jnp.where(structure.is_atom, self._of_atoms(structure, self.moments), 1.0)
        ratio = self._of_pairs(structure, 3 * q[:, None] * q)
        damping = self.a1 * jnp.sqrt(ratio) + self.a2
        pairs = self.s6 / (r**6 + damping**6) + self.s8 * ratio / (r**8 + damping**8)
        return -0.5 * HARTREE * jnp.sum(jnp.where(is_pair, c6 * pairs, 0.0))

    def _of_atoms(self, structure, values):
        table = jnp.asarray(values, structure.positions.dtype)
        return Species(self.species).values(structure.species, table, "D3")

    def _of_pairs(self, structure, matrix):
        """What the pairs have, of a matrix (n, n) of kinds of pairs."""
        return jnp.take_along_axis(matrix, structure.neighbours, axis=1) if self.periodic else matrix

    def _coordination(self, structure, r, is_pair):
        radii = self._of_atoms(structure, self.radii)
        bonds = jax.nn.sigmoid(STEEPNESS * (self._of_pairs(structure, radii[:, None] + radii) / r - 1))
        return jnp.sum(jnp.where(is_pair, bonds, 0.0), axis=1)

    def _c6(self, structure, number):
        kind = jnp.argmax(structure.species[:, None] == jnp.asarray(self.species), axis=1)
        reference = jnp.asarray(self.coordination, number.dtype)[kind]
        nearness = jnp.where(reference < 0, -jnp.inf, -SHARPNESS * (number[:, None] - reference) ** 2)
        # The Gaussian weights of a pair are products of those of its atoms; their ratio never underflows this way.
        weights = jax.nn.softmax(nearness, axis=1)
        table = jnp.asarray(self.c6, number.dtype)[kind[:, None], kind]
        return jnp.einsum("ia,jb,ijab->ij", weights, weights, table)


def d3(species: Any, *, s8: float, a1: float, a2: float, s6: float = 1.0, periodic: bool = False) -> D3:
    """`D3` of these atomic numbers, with the parameters of a functional: s8=0.7875, a1=0.4289, a2=4.4407 are PBE's
    (Grimme et al., 2011, table II).

    - `periodic`: for crystals. The sum is then over the neighbours within the cutoff of the structures, images among
      them, beyond which nothing is added: its error falls with the cutoff cubed.

    The tables are those of the package tad-dftd3 (Apache-2.0), read when this is called: `pip install
    'sciml-jax[dispersion]'`. Three-body terms are left out.

    Raises ImportError without that package and ValueError for no species or such as have no table (1 to 103 have).
    """
    kinds = tuple(sorted({int(z) for z in species}))
    if not kinds or kinds[0] < 1 or kinds[-1] > 103:
        raise ValueError(f"d3: expected atomic numbers from 1 to 103, got {list(kinds)}")
    try:
        from tad_dftd3.data import R4R2  # pyright: ignore[reportMissingImports]
        from tad_dftd3.reference import Reference  # pyright: ignore[reportMissingImports]
        from tad_mctc.data.radii import COV_D3  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError("d3 reads the tables of tad-dftd3: pip install 'sciml-jax[dispersion]'") from error
    at, found = np.array(kinds), Reference()
    tables = COV_D3().numpy()[at], R4R2().numpy()[at], found.cn.numpy()[at], found.c6.numpy()[np.ix_(at, at)]
    radii, moments, coordination, c6 = (_as_tuples(np.asarray(t, float)) for t in tables)
    return D3(kinds, radii, moments, coordination, c6, s6=s6, s8=s8, a1=a1, a2=a2, periodic=periodic)


def _as_tuples(values) -> Any:
    return tuple(map(_as_tuples, values)) if np.ndim(values) else float(values)
