"""Phenobarbital in 59 newborn infants: doses as they were given, and 155 concentrations in plasma.

- What: a table of events, one row for each dose or measurement: `subject`, `time` (h), `amount` (mg; 0 where none was
  given), `weight` (kg), `apgar` (score after five minutes), `concentration` (mg/l; missing in rows of doses).
- Who: Grasela & Donn; the file is that of the example of Pharmpy (PyPI `pharmpy-core` 2.2.0, LGPL-3.0-or-later), the
  member `pharmpy/internals/example_models/pheno.dta` of its wheel.
- Citation: Grasela & Donn, "Neonatal population pharmacokinetics of phenobarbital derived from routine clinical data",
  Dev. Pharmacol. Ther. 8, 1985.
- Size: 39 kB, in a wheel of 1.1 MB.
- Baselines: the estimates of NONMEM beside it in the wheel; see the problem `pharmacokinetics`.
"""

import numpy as np

import sciml

MEMBER = "pharmpy/internals/example_models/pheno.dta"
WHEEL = (
    "https://files.pythonhosted.org/packages/aa/ce/95e2fe9913f522c1584eda8915b33468a2e77a88b656c2be88c8b2f16898/"
    "pharmpy_core-2.2.0-py3-none-any.whl"
)
SHA256 = "a6d327880806c79304fb93b58ab4f6399c92f55d973413db74fb0457ac96b620"
NAMES = {"ID": "subject", "TIME": "time", "AMT": "amount", "WGT": "weight", "APGR": "apgar", "DV": "concentration"}


def make() -> sciml.data.Dataset:
    """No settings."""
    table = sciml.open(sciml.data.fetch("pharmpy/pheno.dat", WHEEL, SHA256, member=MEMBER)).to_xarray()
    table = table[list(NAMES)].rename(NAMES)
    measured = table["concentration"].where(table["amount"] == 0, np.nan)
    return sciml.open(table.assign(concentration=measured))
