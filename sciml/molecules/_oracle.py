"""Labels on the spot: energies, forces, stress and dipoles of structures by quantum chemistry."""

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.spatial.distance import pdist

from .._progress import bars
from ._frames import Frames
from ._neighbours import OVERLAP

# CODATA 2018.
HARTREE, BOHR = 27.211386245988, 0.529177210903


class OracleError(Exception):
    """A structure that could not be labelled."""


class OracleWarning(UserWarning):
    """Structures that could not be labelled are left out."""


class Arrangement(NamedTuple):
    """One structure as an oracle gets it: see `Frames`."""

    species: Int[np.ndarray, " n"]
    positions: Float[np.ndarray, "n 3"]
    cell: Float[np.ndarray, "3 3"]
    pbc: Bool[np.ndarray, "3"]
    charge: float


@dataclass(frozen=True)
class XTB:
    """Tight binding by tblite: `energy` (eV), `forces` (eV/angstrom), of molecules the `dipole` (elementary charges
    times angstroms), and of what is periodic along all three cell vectors the `stress` (eV/angstrom^3). Each structure
    is solved from scratch, so that labels do not depend on their order. It runs in one thread, unless the environment
    variable OMP_NUM_THREADS says otherwise when tblite is first imported: several do not make small molecules faster,
    and wait for each other where other programs need the processors. `labelled` shares work among processes.

    - `method`: GFN2-xTB (Bannwarth, Ehlert & Grimme, J. Chem. Theory Comput. 15, 1652, 2019), GFN1-xTB or IPEA1-xTB.
    - `accuracy`: 1 is tblite's usual one; smaller is more exact.
    - `temperature`: of the electrons, in kelvin.

    Raises ImportError without tblite, OracleError where the equations do not converge.
    """

    method: str = "GFN2-xTB"
    accuracy: float = 1.0
    temperature: float = 300.0
    iterations: int = 250

    def __call__(self, given: Arrangement) -> dict[str, Any]:
        with _one_thread():
            interface = _imported("tblite.interface")
        if given.pbc.any() and not given.pbc.all():
            raise OracleError(f"tblite takes structures that are periodic along all vectors or none, got {given.pbc}")
        box = {"lattice": given.cell / BOHR, "periodic": given.pbc} if given.pbc.any() else {}
        unpaired = int(given.species.sum() - given.charge) % 2
        try:
            solver = interface.Calculator(
                self.method, given.species, given.positions / BOHR, given.charge, unpaired, **box
            )
            solver.set("verbosity", 0)
            solver.set("accuracy", self.accuracy)
            solver.set("temperature", self.temperature * 8.617333262e-5 / HARTREE)
            solver.set("max-iter", self.iterations)
            found = solver.singlepoint()
        except RuntimeError as error:
            raise OracleError(f"{self.method}: {error}") from error
        labels = {"energy": found["energy"] * HARTREE, "forces": -found["gradient"] * HARTREE / BOHR}
        if given.pbc.all():
            return labels | {"stress": found["virial"] * HARTREE / abs(np.linalg.det(given.cell))}
        return labels | {"dipole": found["dipole"] * BOHR}


@dataclass(frozen=True)
class DFT:
    """Kohn-Sham density functional theory of molecules by PySCF: `energy` (eV), `forces` (eV/angstrom) and `dipole`
    (elementary charges times angstroms). Forces have the response of the grid, so that they are the derivatives of the
    energy.

    Raises ImportError without PySCF, OracleError where the equations do not converge and for periodic structures.
    """

    functional: str = "PBE"
    basis: str = "def2-svp"
    iterations: int = 50

    def __call__(self, given: Arrangement) -> dict[str, Any]:
        if given.pbc.any():
            raise OracleError("DFT takes molecules, and the structure is periodic")
        gto, dft = _imported("pyscf.gto"), _imported("pyscf.dft")
        unpaired = int(given.species.sum() - given.charge) % 2
        atoms = [(int(z), tuple(r)) for z, r in zip(given.species, given.positions)]
        molecule = gto.M(
            atom=atoms, unit="Angstrom", basis=self.basis, charge=int(given.charge), spin=unpaired, verbose=0
        )
        field = (dft.UKS if unpaired else dft.RKS)(molecule, xc=self.functional)
        field.max_cycle, field.conv_tol = self.iterations, 1e-10
        energy = field.kernel()
        if not field.converged:
            raise OracleError(f"{self.functional}/{self.basis}: no convergence in {self.iterations} iterations")
        gradient = field.nuc_grad_method()
        gradient.grid_response = True
        dipole = field.dip_moment(unit="AU", verbose=0)
        forces = -gradient.kernel() * HARTREE / BOHR
        return {"energy": energy * HARTREE, "forces": forces, "dipole": dipole * BOHR}


@dataclass(frozen=True)
class FromASE:
    """The energy and forces, and those others of `properties`, by any calculator of ASE: `FromASE(EMT)` calls `EMT()`
    for each structure.
    """

    make: Callable[[], Any]
    properties: tuple[str, ...] = ()

    def __call__(self, given: Arrangement) -> dict[str, Any]:
        from ase import Atoms
        from ase.calculators.calculator import CalculationFailed

        atoms = Atoms(given.species, given.positions, cell=given.cell, pbc=given.pbc)
        atoms.calc = self.make()
        try:
            labels = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
            if "stress" in self.properties:
                labels["stress"] = atoms.get_stress(voigt=False)
            if "dipole" in self.properties:
                labels["dipole"] = atoms.get_dipole_moment()
        except CalculationFailed as error:
            raise OracleError(str(error)) from error
        return labels


Oracle = Callable[[Arrangement], dict[str, Any]]


def labelled(structures: Frames, oracle: Oracle = XTB(), *, processes: int = 1, progress: bool = True) -> Frames:
    """The structures with labels by an `oracle`: `XTB()`, `DFT()`, `FromASE(...)` or one's own function of an
    `Arrangement` that gives `energy`, `forces` and others and raises `OracleError` where it cannot.

    Structures of which a label is not finite, whose equations do not converge or whose atoms overlap are left out, with
    an `OracleWarning` that says which and why: no label is NaN. `processes` above 1 share the work (in a script they
    need `if __name__ == "__main__":`).

    Raises OracleError where no structure is left.
    """
    given = [arrangement_of(structures, i) for i in range(len(structures))]
    with bars(progress) as begin:
        advance = begin("labels", len(given))
        if processes == 1:
            found = [_counted(_attempt(oracle, one), advance) for one in given]
        else:
            with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
                results = pool.map(_attempt, [oracle] * len(given), given, chunksize=8)
                found = [_counted(one, advance) for one in results]
    kept = [i for i, one in enumerate(found) if not isinstance(one, str)]
    lost = [f"structure {i}: {one}" for i, one in enumerate(found) if isinstance(one, str)]
    if not kept:
        raise OracleError(f"no structure could be labelled; {lost[0]}")
    if lost:
        more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
        warnings.warn(f"left out {'; '.join(lost[:3])}{more}", OracleWarning, stacklevel=2)
    return with_found_labels(structures[np.array(kept)], [found[i] for i in kept])


def with_found_labels(structures: Frames, found: Sequence[Any]) -> Frames:
    names = set.intersection(*(set(one) for one in found))
    of_atoms = {n for n in names if n in ("forces", "charges")}
    return structures.with_labels(
        {n: np.stack([one[n] for one in found]) for n in sorted(names - of_atoms)},
        {n: np.concatenate([one[n] for one in found]) for n in sorted(of_atoms)},
    )


def arrangement_of(structures: Frames, i: int) -> Arrangement:
    rows = structures.atoms_of(i)
    charge = float(structures.charges[i])
    return Arrangement(
        structures.species[rows], structures.positions[rows], structures.cells[i], structures.pbc[i], charge
    )


def _attempt(oracle: Oracle, given: Arrangement) -> dict[str, Any] | str:
    """The labels, or why there are none."""
    nearest = pdist(given.positions).min(initial=np.inf)
    if nearest < OVERLAP:
        return f"two atoms are {nearest:.2g} angstroms apart"
    try:
        labels = oracle(given)
    except OracleError as error:
        return str(error)
    for name, values in labels.items():
        if not np.isfinite(values).all():
            return f"'{name}' is not finite"
    return {n: np.asarray(v) for n, v in labels.items()}


def _counted(result: Any, advance: Callable[[int], None]) -> Any:
    advance(1)
    return result


@contextmanager
def _one_thread() -> Iterator[None]:
    """What is imported within and counts its threads (OpenMP) then has one, unless the environment says how many."""
    given = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = given or "1"
    try:
        yield
    finally:
        if given is None:
            del os.environ["OMP_NUM_THREADS"]


def _imported(name: str) -> Any:
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise ImportError(f'labels by {package} need it: pip install "sciml-jax[chem]"') from error
