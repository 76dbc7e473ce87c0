"""Methanol by density functional theory: energies and forces at 500 K, as for the ethanol set.

- What: `positions` (angstrom) and `forces` (eV/angstrom) of all atoms one after the other, their `species` (atomic
  numbers), and for each structure `n_atoms` and `energy` (eV; PBE/def2-SVP, of all electrons). 300 frames for training,
  145 for tests.
- Settings: `part` is train or test.
- Who: the benchmark of Batatia et al. (github.com/davkovacs/BOTNet-datasets, MIT), the frames of methanol in
  `train_eth_meth.xyz` and `test_eth_meth.xyz`. A mirror (SCIML_DATA) may hold them as .npz, whose checksum is verified;
  of the public file the number of frames and the mean energy are compared.
- Citation: Batatia et al., "The design space of E(3)-equivariant atom-centered interatomic potentials", arXiv
  2205.06643.
- Size: 1.3 MB (with those of ethanol), 0.1 MB in the mirror.
- Baselines: none published for methanol alone.
"""

import numpy as np

import sciml
from sciml import molecules

COMMIT = "4a5ea06c3f514f24164428823ba1f5e2d2233b58"
URL = f"https://raw.githubusercontent.com/davkovacs/BOTNet-datasets/{COMMIT}/dataset_ethanol"
# The SHA-256 of the mirror's file, the number of frames and their mean energy.
PARTS = {
    "train": ("51f679ef20bbd929502ae80dac644f23071635b51b3b30394413cb9df4cefb55", 300, -3142.345942185),
    "test": ("96b3228ccc3e16e38b50abfdf1876158e655cb80abdd7db6c2e884613cb4707e", 145, -3142.323539613),
}


def make(part: str = "train") -> sciml.data.Dataset:
    """part: train or test."""
    if part not in PARTS:
        raise ValueError(f"part must be one of {', '.join(PARTS)}, got '{part}'")
    sha256, count, mean = PARTS[part]
    local = sciml.data.find_local(f"botnet/methanol_{part}.npz", sha256)
    if local is None:
        url = f"{URL}/{part}_eth_meth.xyz"
        z, r, e, f = read(sciml.data.fetch(f"botnet/{part}_eth_meth.xyz", url, None))
        if len(e) != count or abs(e.mean() - mean) > 1e-6:
            raise sciml.data.DataError(f"{url}: {len(e)} frames of mean energy {e.mean()} eV, expected {mean}")
    else:
        with np.load(local) as held:
            z, r, e, f = (held[n] for n in "ZREF")
    return molecules.ragged(
        structure={"n_atoms": (np.full(count, len(z) // count), "1"), "energy": (e, "eV")},
        atom={"species": (z, "1"), "positions": (r, "angstrom"), "forces": (f, "eV/angstrom")},
    )


def read(path):
    """Species, positions, energies and forces of the frames of methanol."""
    from ase.io import read

    frames = [a for a in read(path, ":", format="extxyz") if a.info.get("config_type") == "methanol"]
    energies = np.array([a.get_potential_energy() for a in frames])
    numbers = np.concatenate([a.numbers for a in frames])
    positions, forces = ([a.positions for a in frames], [a.get_forces() for a in frames])
    return numbers, np.concatenate(positions), energies, np.concatenate(forces)
