"""Ethanol by tight binding, made on the spot: thermal displacements along normal modes, with energies and forces.

The molecule of ASE's collection G2 is relaxed by GFN2-xTB, and its vibrations found from central differences of forces.
Each sample is a random displacement along the vibrations, as a classical harmonic molecule has them at a
`temperature`, and is labelled by GFN2-xTB. Where the equations do not converge, it is drawn again.

- What: for each sample `positions` (angstrom), `species` (atomic numbers), `forces` (eV/angstrom), `energy` (eV, of
  valence electrons) and `dipole` (elementary charges times angstroms).
- Who: made here with tblite (LGPL-3.0-or-later), which `pip install "sciml-jax[chem]"` installs; its version stands in
  the attributes of the file.
- Citation: Bannwarth, Ehlert & Grimme, "GFN2-xTB - an accurate and broadly parametrized self-consistent tight-binding
  quantum chemical method", J. Chem. Theory Comput. 15, 2019; for the sampling Smith, Isayev & Roitberg, "ANI-1", Chem.
  Sci. 8, 2017.
- Size: 2,000 samples are 1 MB.
- Baselines: none.
"""

import functools
from importlib.metadata import PackageNotFoundError, version

import numpy as np

import sciml
from sciml import molecules

STEP = 0.005  # angstrom, of differences of forces
BOLTZMANN = 8.617333262e-5  # eV/K
VARIABLES = {
    "positions": (("atom", "axis"), (9, 3), "angstrom"),
    "forces": (("atom", "axis"), (9, 3), "eV/angstrom"),
    "species": (("atom",), (9,), "1"),
    "energy": ((), (), "eV"),
    "dipole": (("axis",), (3,), "e angstrom"),
}


def make(samples: int = 2000, temperature: float = 500.0, seed: int = 0, dtype: str = "float64") -> sciml.data.Recipe:
    """temperature: in kelvin."""
    if not temperature > 0 or np.dtype(dtype).kind != "f":
        raise ValueError(f"needs temperature above 0 and a dtype float32 or float64, got {temperature} and {dtype}")

    def generate(start, stop):
        made = [sample(number, temperature, seed) for number in range(start, stop)]
        return {name: np.stack([one[name] for one in made]) for name in VARIABLES}

    def variable(name):
        dims, shape, units = VARIABLES[name]
        kind = "int64" if name == "species" else dtype
        return sciml.data.Variable(("sample", *dims), (samples, *shape), kind, attributes={"units": units})

    try:
        made_by = f"tblite {version('tblite')}"
    except PackageNotFoundError:
        made_by = "tblite"
    facts = {"method": "GFN2-xTB", "made_by": made_by}
    return sciml.data.Recipe({n: variable(n) for n in VARIABLES}, {}, samples, generate, attributes=facts)


def sample(number: int, temperature: float, seed: int) -> dict[str, np.ndarray]:
    """The arrays of one sample."""
    numbers, relaxed, modes = vibrations()
    random = np.random.default_rng([seed, number])
    for _ in range(20):
        amplitudes = np.sqrt(BOLTZMANN * temperature) * random.standard_normal(modes.shape[-1])
        positions = relaxed + modes @ amplitudes
        try:
            labels = label(numbers, positions)
        except molecules.OracleError:
            continue
        return labels | {"positions": positions, "species": numbers}
    raise sciml.data.DataError(f"sample {number}: no convergence in 20 attempts; take a lower temperature")


@functools.cache
def vibrations() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Species, relaxed positions (n, 3), and displacements (n, 3, 3n - 6) along the vibrations for an energy of 1/2 eV
    each.
    """
    from ase.build import molecule
    from scipy.optimize import minimize

    atoms = molecule("CH3CH2OH")

    def energy_and_slope(x):
        labels = label(atoms.numbers, x.reshape(-1, 3))
        return labels["energy"], -labels["forces"].ravel()

    found = minimize(energy_and_slope, atoms.positions.ravel(), jac=True, options={"gtol": 1e-3})
    relaxed, size = found.x, len(found.x)
    slopes = [
        (energy_and_slope(relaxed + STEP * e)[1] - energy_and_slope(relaxed - STEP * e)[1]) / (2 * STEP)
        for e in np.eye(size)
    ]
    hessian = (np.array(slopes) + np.array(slopes).T) / 2
    heavy = np.repeat(np.sqrt(atoms.get_masses()), 3)
    curvatures, shapes = np.linalg.eigh(hessian / np.outer(heavy, heavy))
    # The six smallest are translations and rotations.
    modes = shapes[:, 6:] / heavy[:, None] / np.sqrt(curvatures[6:])
    return atoms.numbers, relaxed.reshape(-1, 3), modes.reshape(len(atoms), 3, -1)


def label(numbers, positions) -> dict[str, np.ndarray]:
    """Energy, forces and dipole by GFN2-xTB."""
    free = np.zeros((3, 3)), np.zeros(3, bool), 0.0
    return molecules.XTB(accuracy=0.1)(molecules.Arrangement(numbers, positions, *free))
