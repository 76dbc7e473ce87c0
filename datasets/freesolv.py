"""FreeSolv: free energies of hydration of 642 neutral molecules, measured and from molecular dynamics.

- What: for each molecule `n_atoms`, `n_bonds`, `energy` (kcal/mol: the measured free energy of hydration) and its
  `uncertainty`, `energy_gaff` and `uncertainty_gaff` (by alchemical molecular dynamics with the GAFF force field); of
  atoms, one after the other, `species` (atomic numbers), `positions` (angstrom) and `charges` (e; AM1-BCC); of bonds
  `ends` (the two atoms, counted from 0 in each molecule) and `bond_order` (1.5 aromatic, 1.25 in amides).
- Who: Mobley & Guthrie, version 0.52 (github.com/MobleyLab/FreeSolv, CC BY 4.0; `database.txt` and the folder
  `mol2files_gaff`). They are read from a mirror (SCIML_DATA) that holds them as .npz; nothing is downloaded.
- Citation: Mobley & Guthrie, "FreeSolv: a database of experimental and calculated hydration free energies, with input
  files", J. Comput.-Aided Mol. Des. 28, 2014; Duarte Ramos Matos et al., J. Chem. Eng. Data 62, 2017.
- Size: 0.2 MB.
- Baselines: GAFF has a mean absolute error of 1.1 kcal/mol.
"""

import numpy as np

import sciml
from sciml import molecules

PATH = "freesolv/freesolv_v0.52.npz"
SHA256 = "4356d09f39a8e0baf21b58a47aef01a94c2b2ae68db40d076d9f547c8f0811a1"
NAMES = {
    "energy": "dG_exp",
    "uncertainty": "dG_exp_unc",
    "energy_gaff": "dG_gaff",
    "uncertainty_gaff": "dG_gaff_unc",
}


def make() -> sciml.data.Dataset:
    """No settings."""
    local = sciml.data.find_local(PATH, SHA256)
    if local is None:
        raise sciml.data.DataError(
            f"{PATH} is neither in $SCIML_DATA nor in the cache. The public files are those of "
            "https://github.com/MobleyLab/FreeSolv, version 0.52; set SCIML_DATA to a mirror that holds them as one "
            ".npz file."
        )
    with np.load(local) as opened:
        held = dict(opened)
    counts = {name: (held[name], "1") for name in ("n_atoms", "n_bonds")}
    return molecules.ragged(
        structure=counts | {name: (held[source], "kcal/mol") for name, source in NAMES.items()},
        atom={
            "species": (held["Z"], "1"),
            "positions": (held["R"], "angstrom"),
            "charges": (held["q_am1bcc"], "e"),
        },
        bond={"ends": (held["bonds"][:, :2].astype(int), "1"), "bond_order": (held["bonds"][:, 2], "1")},
    )
