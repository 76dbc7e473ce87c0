"""Silicon: energies, forces and stress of periodic cells by density functional theory.

- What: `positions` (angstrom) and `forces` (eV/angstrom) of all atoms one after the other, their `species` (atomic
  numbers), and for each structure `n_atoms`, `energy` (eV; PBE), `cell` (vectors as rows, angstrom), `stress`
  (eV/angstrom^3, positive under tension as in ASE; xx, yy, zz, yz, xz, xy) and `group`: 0 molecular dynamics at
  constant volume, 1 strained cells, 2 surfaces, 3 a vacancy. 214 structures of 12 to 96 atoms for
  training, 25 for tests.
- Settings: `part` is train or test.
- Who: Zuo et al. (github.com/materialsvirtuallab/mlearn, BSD-3), `data/Si/training.json` and `test.json`. These hold
  virials in kbar, positive under pressure, in the order xx, yy, zz, xy, xz, yz: the derivative of the energy of
  strained cells and the traction on surfaces, which is 0, agree with that. A mirror (SCIML_DATA) may hold them as
  .npz, whose checksum is verified; of the public file the number of structures and the mean energy are
  compared.
- Citation: Zuo et al., "Performance and cost assessment of machine learning interatomic potentials", J. Phys. Chem. A
  124, 2020.
- Size: 2.7 MB, 0.5 MB in the mirror.
- Baselines: see the problem `silicon`.
"""

import json

import numpy as np

import sciml
from sciml import molecules

ELEMENT, NUMBER = "Si", 14
COMMIT = "a04d3b6ecaac47c27aa8f7e452c16a5c9a2a8cff"
URL = f"https://raw.githubusercontent.com/materialsvirtuallab/mlearn/{COMMIT}/data/{ELEMENT}"
# The name of the file, the SHA-256 of the mirror's, the number of structures and their mean energy.
PARTS = {
    "train": ("training", "c7261c28f648c7237403e905d8d292ef50fa4b98df6b43ba18225e8c33fca878", 214, -316.465913697),
    "test": ("test", "b61190bdddd412775b6a3ad994a2b2c7b84b445826c4ea35c0e307587d77312e", 25, -309.220487631),
}
GROUPS = ("AIMD-NVT", "Elastic", "Surface", "Vacancy")
KBAR = 6.241509074e-4  # eV/angstrom^3
ORDER = [0, 1, 2, 5, 4, 3]


def make(part: str = "train") -> sciml.data.Dataset:
    """part: train or test."""
    if part not in PARTS:
        raise ValueError(f"part must be one of {', '.join(PARTS)}, got '{part}'")
    name, sha256, count, mean = PARTS[part]
    local = sciml.data.find_local(f"mlearn/{ELEMENT}_{name}.npz", sha256)
    if local is None:
        held = read(sciml.data.fetch(f"mlearn/{ELEMENT}_{name}.json", f"{URL}/{name}.json", None))
        if len(held["E"]) != count or abs(held["E"].mean() - mean) > 1e-6:
            raise sciml.data.DataError(
                f"{URL}/{name}.json: {len(held['E'])} structures of mean energy {held['E'].mean()} eV, expected "
                f"{count} of {mean}"
            )
    else:
        with np.load(local) as opened:
            held = dict(opened)
    n = held["n_atoms"]
    return molecules.ragged(
        structure={
            "n_atoms": (n, "1"),
            "energy": (held["E"], "eV"),
            "cell": (held["cell"], "angstrom"),
            "stress": (-KBAR * held["virial_stress"][:, ORDER], "eV/angstrom^3"),
            "group": (np.array([GROUPS.index(g.split()[0]) for g in held["group"]]), "1"),
        },
        atom={
            "species": (np.full(n.sum(), NUMBER), "1"),
            "positions": (held["R"], "angstrom"),
            "forces": (held["F"], "eV/angstrom"),
        },
    )


def read(path) -> dict[str, np.ndarray]:
    """The arrays of a public file, as the mirror has them."""
    with open(path) as file:
        entries = json.load(file)
    outputs = [e["outputs"] for e in entries]
    sites = [e["structure"]["sites"] for e in entries]
    return {
        "n_atoms": np.array([len(s) for s in sites]),
        "R": np.array([site["xyz"] for s in sites for site in s]),
        "F": np.concatenate([np.array(o["forces"]) for o in outputs]),
        "E": np.array([o["energy"] for o in outputs]),
        "cell": np.array([e["structure"]["lattice"]["matrix"] for e in entries]),
        "virial_stress": np.array([o["virial_stress"] for o in outputs]),
        "group": np.array([e["group"] for e in entries]),
    }
