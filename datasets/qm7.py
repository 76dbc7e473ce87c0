"""QM7: 7,101 organic molecules, their atomisation energies by density functional theory and by tight binding.

- What: `positions` (angstrom) of all atoms one after the other, their `species` (atomic numbers: H, C, N, O, S), and
  for each molecule `n_atoms`, `energy` (kcal/mol: the energy of formation from atoms, PBE0) and `energy_dftb` (the same
  by DFTB3); with `xtb`, labels by GFN2-xTB too: `energy_xtb` (eV, of the valence electrons), `dipole` (e a0), `homo`
  and `lumo` (eV), and of atoms `forces` (eV/angstrom) and `charges` (e).
- Settings: `xtb`, whether the labels by GFN2-xTB are there.
- Who: the molecules are those of Rupp et al., as they are used in the tests of QML (github.com/qmlcode/qml, MIT), one
  .xyz file for each. They are read from a mirror (SCIML_DATA) that holds them as .npz; nothing is downloaded. The
  labels by GFN2-xTB were made with tblite 0.8.0.
- Citation: Rupp et al., "Fast and accurate modeling of molecular atomization energies with machine learning", PRL
  108, 2012; Bannwarth, Ehlert & Grimme, "GFN2-xTB", J. Chem. Theory Comput. 15, 2019.
- Size: 2.3 MB, and 1.9 MB for the labels by GFN2-xTB.
- Baselines: the published error of SchNet is 2.52 kcal/mol.
"""

import numpy as np

import sciml
from sciml import molecules

PATH = "qm7/qm7.npz"
SHA256 = "07d15049b129a78f2690e48c5530514d51972bb3e48b199e5a86e9c67d1dda6a"
XTB = "qm7/qm7_gfn2xtb.npz"
XTB_SHA256 = "a3085d879face19bb2ec2fbc9751fd6a88591d2561d59ce67b31fc50a3e3049f"


def make(xtb: bool = False) -> sciml.data.Dataset:
    """xtb: whether the labels by GFN2-xTB are there."""
    held = arrays(PATH, SHA256)
    structure = {
        "n_atoms": (held["n_atoms"].astype(int), "1"),
        "energy": (held["E_dft"], "kcal/mol"),
        "energy_dftb": (held["E_dftb"], "kcal/mol"),
    }
    atom = {"species": (held["Z"], "1"), "positions": (held["R"], "angstrom")}
    if xtb:
        held = arrays(XTB, XTB_SHA256)
        structure |= {"energy_xtb": (held["E"], "eV"), "dipole": (held["dipole_au"], "e a0")}
        structure |= {"homo": (held["homo"], "eV"), "lumo": (held["lumo"], "eV")}
        atom |= {"forces": (held["F"].astype(float), "eV/angstrom"), "charges": (held["q"].astype(float), "e")}
    return molecules.ragged(structure=structure, atom=atom)


def arrays(path: str, sha256: str) -> dict[str, np.ndarray]:
    """Those of a file of the mirror. Raises DataError where it is not there."""
    local = sciml.data.find_local(path, sha256)
    if local is None:
        raise sciml.data.DataError(
            f"{path} is neither in $SCIML_DATA nor in the cache. The public files are those of "
            "https://github.com/qmlcode/qml/tree/master/tests/qm7 (structures) and the table of energies beside them; "
            "set SCIML_DATA to a mirror that holds them as one .npz file."
        )
    with np.load(local) as opened:
        return dict(opened)
