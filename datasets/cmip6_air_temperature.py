"""Monthly air temperature of two climate models, CMIP6 historical, in seven files each.

- What: ta(time, plev, lat, lon) in K on a box of 2 x 2 cells and two pressure levels, 1950 to 2014 (2016 for
  FGOALS-g3). MIROC6 has the Gregorian calendar, FGOALS-g3 one of 365 days. Too small to train on: for reading many
  files as one.
- Who: the modelling groups MIROC and CAS, through ESMValTool's sample data (PyPI esmvaltool-sample-data 0.0.4);
  CC BY-SA 4.0, as the CMIP6 terms of use ask: cite the model and acknowledge the WCRP.
- Citation: Eyring et al., "Overview of the Coupled Model Intercomparison Project Phase 6", Geosci. Model Dev. 9, 2016.
- Size: 0.26 MB per model, in an archive of 7.5 MB.
- Baselines: none.
"""

import sciml

WHEEL = (
    "https://files.pythonhosted.org/packages/e8/62/66f132c2535727c4f06e3e145d173604a81cfe838f003e96cbc68a46364b/"
    "esmvaltool_sample_data-0.0.4-py3-none-any.whl"
)
FOLDERS = {
    "MIROC6": "MIROC/MIROC6/historical/r1i1p1f1/Amon/ta/gn/v20190311",
    "FGOALS-g3": "CAS/FGOALS-g3/historical/r1i1p1f1/Amon/ta/gn/v20190818",
}
FILES = {
    "MIROC6": {
        "195001-195912": "cb3e0f36996320f92e10b50bf0d683b0e7b87cad53b6b7b57b60f7ef01dd6ade",
        "196001-196912": "dbc7e8b0809a089aefaab6f44ad2dc66c4a7889fde022db9b91b4fe16b62968c",
        "197001-197912": "327d5885423ab84caf1429e29e9351a7650221e42fa9160979f75031a74c3e5d",
        "198001-198912": "6aeba0cf22e9035bb485768c9b8cf1e3209d0a7e6f152941ef287865d72e69cd",
        "199001-199912": "ea056e9df25dbeac56e388c263096748fc0ac58333a3d9fc163198ac88626c42",
        "200001-200912": "5c6a667879db3c5e29b93edf09ba7379fd2d943b85a0fb1ff4c6a44f5b37fa40",
        "201001-201412": "bc4b846e9599ca554eb16f8ea4126029d4ef5b42f30da69b35106a6db4ced55b",
    },
    "FGOALS-g3": {
        "195001-195912": "dcfa2ad446da489924f5996ce81ad487811390d4b2412f062f3599929ce9d47e",
        "196001-196912": "4b9ef4b36439642171e0ff7fd3f065d072d17ca3d72fd456557bb8cd29b12e34",
        "197001-197912": "6148ba086de1331b09619c02c26d9eed8c2de2da02989313b86194e4344767a5",
        "198001-198912": "1b1b56510443a71a69a7e4997f54fa4af2478d43297add06d4a5d84c272bf6f0",
        "199001-199912": "f5c190473da5fcc1d055931980db876a7e48167210913396a1695b01ec5cb094",
        "200001-200912": "b313b401cba00246e49e05eb8da43196a64a0eba4929af8298d363dde9957198",
        "201001-201612": "4b850ca3684eaa6f2261f7852e5a03de7ec15ba3186990e3ad52a101c469d060",
    },
}


def make(model: str = "MIROC6") -> sciml.data.Dataset:
    """model: MIROC6 or FGOALS-g3."""
    if model not in FILES:
        raise ValueError(f"model must be one of {', '.join(FILES)}, got '{model}'")
    paths = []
    for years, sha256 in FILES[model].items():
        name = f"ta_Amon_{model}_historical_r1i1p1f1_gn_{years}.nc"
        member = f"esmvaltool_sample_data/data/timeseries/CMIP6/CMIP/{FOLDERS[model]}/{name}"
        paths.append(sciml.data.fetch(f"esmvaltool_cmip6/{name}", WHEEL, sha256, member=member))
    return sciml.open(paths, along="time")
