"""The spectrum of the motion in a trajectory."""

from typing import Any

import numpy as np
import xarray as xr
from ase import units
from ase.data import atomic_masses
from jaxtyping import Float
from scipy.signal import welch


def velocity_spectrum(
    run: xr.Dataset, resolution: float = 5.0, *, masses: Float[np.ndarray, "n"] | None = None
) -> xr.DataArray:
    """The vibrational density of states of a run of `dynamics` in cm, over `wavenumber` in 1/cm: the power spectrum of
    the velocities times the roots of the masses, by Welch's method with Hann's window. Its integral is the number of
    degrees of freedom; where there is equipartition, that over a peak is the number of vibrations in it.

    - `resolution` in 1/cm: the distance of two wave numbers. A peak is about twice as wide at least; what is finer
      needs a longer run: 1/cm is 33 ps.
    - `masses` in atomic mass units, those of the run; by default those of the elements.

    The highest wave number is 16,678 / (fs between frames): `every=4` steps of 0.5 fs suffice for stretched bonds to
    hydrogen.

    Raises ValueError for another data set, masses that do not fit, atoms at rest, a resolution that is not positive and
    a run that is too short for it.
    """
    missing = [n for n in ("velocities", "temperature", "kinetic", "species") if n not in run]
    if missing:
        raise ValueError(f"velocity_spectrum: expected what dynamics returns, there is no '{missing[0]}'")
    species = run["species"].values
    mass = atomic_masses[species] if masses is None else np.asarray(masses, float)
    if mass.shape != species.shape or not (mass > 0).all():
        raise ValueError(f"velocity_spectrum: expected {species.shape} positive masses, got shape {mass.shape}: {mass}")
    heat = units.kB * float(run["temperature"].mean())
    if not heat > 0:
        raise ValueError("velocity_spectrum: atoms are at rest, nothing vibrates")
    between = float(np.diff(run["time"].values[:2])[0]) if run.sizes["time"] > 1 else np.inf
    # Waves per fs in 1/cm.
    per_fs = 1 / (units._c * 100 * 1e-15)
    length = per_fs / (between * resolution) if resolution > 0 else np.nan
    if not 8 <= length <= run.sizes["time"]:
        raise ValueError(
            f"velocity_spectrum: a resolution of {resolution} 1/cm takes {length:.0f} frames (8 or more), "
            f"the run has {run.sizes['time']}"
        )
    weighted = np.sqrt(mass)[:, None] * run["velocities"].values.astype(float) / units.fs
    no_trend: Any = False
    frequencies, density = welch(weighted, 1 / between, nperseg=round(length), detrend=no_trend, axis=0)
    return xr.DataArray(
        density.sum(axis=(1, 2)) / heat / per_fs,
        {"wavenumber": ("wavenumber", frequencies * per_fs, {"units": "1/cm"})},
        ("wavenumber",),
        "density",
        {"units": "cm", "long_name": "vibrational density of states"},
    )
