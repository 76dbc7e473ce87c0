"""Silicon and molybdenum: energies, forces and stress of periodic cells by density functional theory.

- What: `positions` (angstrom) and `forces` (eV/angstrom) of all atoms one after the other, their `species` (atomic
  numbers), and for each structure `n_atoms`, `energy` (eV; PBE), `cell` (vectors as rows, angstrom), `stress`
  (eV/angstrom^3, positive under tension as in ASE; xx, yy, zz, yz, xz, xy) and `group`: 0 molecular dynamics at
  constant volume, 1 strained cells, 2 surfaces, 3 a vacancy. Of silicon 214 structures of 12 to 96 atoms for training
  and 25 for tests, of molybdenum 194 of 2 to 54 atoms and 23.
- Settings: `element` is Si or Mo, `part` train or test.
- Who: Zuo et al. (github.com/materialsvirtuallab/mlearn, BSD-3), `data/ELEMENT/training.json` and `test.json`. These
  hold virials in kbar, positive under pressure, in the order xx, yy, zz, xy, xz, yz, except for silicon's strained
  cells, where it is xx, yy, zz, xy, yz, xz: the derivative of the energy of strained cells, the traction on surfaces,
  which is 0, and the symmetry of sheared crystals agree with that. A mirror (SCIML_DATA) may hold them as .npz, whose
  checksum is verified; of the public file the number of structures and the mean energy are compared.
- Citation: Zuo et al., "Performance and cost assessment of machine learning interatomic potentials", J. Phys. Chem. A
  124, 2020.
- Size: 2.7 MB of silicon, 2.1 MB of molybdenum; 0.5 MB each in the mirror.
- Baselines: see the problem `silicon`, and the paper.
"""

import json

import numpy as np

import sciml
from sciml import molecules

COMMIT = "a04d3b6ecaac47c27aa8f7e452c16a5c9a2a8cff"
URL = f"https://raw.githubusercontent.com/materialsvirtuallab/mlearn/{COMMIT}/data"
NUMBERS = {"Si": 14, "Mo": 42}
NAMES = {"train": "training", "test": "test"}
# The SHA-256 of the mirror's file, the number of structures and their mean energy.
FILES = {
    "Si_training": ("c7261c28f648c7237403e905d8d292ef50fa4b98df6b43ba18225e8c33fca878", 214, -316.465913697),
    "Si_test": ("b61190bdddd412775b6a3ad994a2b2c7b84b445826c4ea35c0e307587d77312e", 25, -309.220487631),
    "Mo_training": ("61e9bbb41beaeeff2f4df5119ce9d26f70f9d91ed5932112eca827f6dd7cfc1c", 194, -543.334703983),
    "Mo_test": ("7773237299c2dd00e4ed3eeb7d000de02c67d58a166a68949b87cf546242c51d", 23, -539.741271212),
}
GROUPS = ("AIMD-NVT", "Elastic", "Surface", "Vacancy")
KBAR = 6.241509074e-4  # eV/angstrom^3
ORDER = [0, 1, 2, 5, 4, 3]
ORDER_STRAINED_SILICON = [0, 1, 2, 4, 5, 3]


def make(element: str = "Si", part: str = "train") -> sciml.data.Dataset:
    """element: Si or Mo; part: train or test."""
    for setting, given, known in (("element", element, NUMBERS), ("part", part, NAMES)):
        if given not in known:
            raise ValueError(f"{setting} must be one of {', '.join(known)}, got '{given}'")
    name = f"{element}_{NAMES[part]}"
    sha256, count, mean = FILES[name]
    local = sciml.data.find_local(f"mlearn/{name}.npz", sha256)
    if local is None:
        url = f"{URL}/{element}/{NAMES[part]}.json"
        held = read(sciml.data.fetch(f"mlearn/{name}.json", url, None))
        if len(held["E"]) != count or abs(held["E"].mean() - mean) > 1e-6:
            raise sciml.data.DataError(
                f"{url}: {len(held['E'])} structures of mean energy {held['E'].mean()} eV, expected {count} of {mean}"
            )
    else:
        with np.load(local) as opened:
            held = dict(opened)
    n = held["n_atoms"]
    group = np.array([GROUPS.index(g.split()[0]) for g in held["group"]])
    virials = held["virial_stress"][:, ORDER]
    if element == "Si":
        strained = group == GROUPS.index("Elastic")
        virials[strained] = held["virial_stress"][strained][:, ORDER_STRAINED_SILICON]
    return molecules.ragged(
        structure={
            "n_atoms": (n, "1"),
            "energy": (held["E"], "eV"),
            "cell": (held["cell"], "angstrom"),
            "stress": (-KBAR * virials, "eV/angstrom^3"),
            "group": (group, "1"),
        },
        atom={
            "species": (np.full(n.sum(), NUMBERS[element]), "1"),
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
