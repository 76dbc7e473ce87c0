"""Ethanol by density functional theory: energies and forces of frames of the revised MD17.

- What: `positions` (angstrom) and `forces` (eV/angstrom) of all atoms one after the other, their `species` (atomic
  numbers), and for each structure `n_atoms` and `energy` (eV; PBE/def2-SVP, of all electrons). 1,000 frames in each
  part.
- Settings: `part` is train or test.
- Who: frames of Christensen & von Lilienfeld, chosen and labelled again for the benchmark of Batatia et al.
  (github.com/davkovacs/BOTNet-datasets, MIT). A mirror (SCIML_DATA) may hold them as .npz, whose checksum is verified;
  of the public file the number of frames and the mean energy are compared.
- Citation: Christensen & von Lilienfeld, "On the role of gradients for machine learning of molecular energies and
  forces", Mach. Learn.: Sci. Technol. 1, 2020; Batatia et al., "The design space of E(3)-equivariant atom-centered
  interatomic potentials", arXiv 2205.06643.
- Size: 1 MB for each part, 0.4 MB in the mirror.
- Baselines: see the problem `ethanol`.
"""

import numpy as np

import sciml
from sciml import molecules

COMMIT = "4a5ea06c3f514f24164428823ba1f5e2d2233b58"
URL = f"https://raw.githubusercontent.com/davkovacs/BOTNet-datasets/{COMMIT}/dataset_ethanol"
# The file of the mirror and its SHA-256; the public one, its frames and their mean energy.
PARTS = {
    "train": ("ethanol_train", "fbd65bde3d00883fdb9504b433e2d67bbdecba597e6b1c5e669909d4ba6e8905", -4209.617132528),
    "test": ("ethanol_test_MD", "54c3bed3ecc36be220120d7e751c4c3fe08d129e9b28153b2c22c1d7796c240b", -4209.622109428),
}


def make(part: str = "train") -> sciml.data.Dataset:
    """part: train or test."""
    if part not in PARTS:
        raise ValueError(f"part must be one of {', '.join(PARTS)}, got '{part}'")
    name, sha256, mean = PARTS[part]
    local = sciml.data.find_local(f"botnet/{name}.npz", sha256)
    if local is None:
        public = f"{name.removeprefix('ethanol_')}.xyz"
        z, r, e, f = read(sciml.data.fetch(f"botnet/ethanol_{public}", f"{URL}/{public}", None))
        if len(e) != 1000 or abs(e.mean() - mean) > 1e-6:
            raise sciml.data.DataError(f"{URL}/{public}: {len(e)} frames of mean energy {e.mean()} eV, expected {mean}")
    else:
        with np.load(local) as held:
            z, r, e, f = (held[n] for n in "ZREF")
    counts = np.full(len(e), len(z))
    return molecules.ragged(
        structure={"n_atoms": (counts, "1"), "energy": (e, "eV")},
        atom={
            "species": (np.tile(z, len(e)), "1"),
            "positions": (r.reshape(-1, 3), "angstrom"),
            "forces": (f.reshape(-1, 3), "eV/angstrom"),
        },
    )


def read(path):
    """Species, positions, energies and forces of frames of one molecule."""
    from ase.io import read

    frames = read(path, ":", format="extxyz")
    energies = np.array([a.get_potential_energy() for a in frames])
    return (
        frames[0].numbers,
        np.stack([a.positions for a in frames]),
        energies,
        np.stack([a.get_forces() for a in frames]),
    )
