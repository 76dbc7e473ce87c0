"""Monthly sea surface temperature along the equator, 2006 to 2010, OSTIA.

- What: surface_temperature(time, latitude, longitude) in K, 54 months, 18 latitudes from 5 S to 4.4 N, 432 longitudes;
  land is missing (NaN).
- Who: UK Met Office, through the sample data of Iris (PyPI iris-sample-data 2.5.2); Open Government Licence.
- Citation: Donlon et al., "The Operational Sea Surface Temperature and Sea Ice Analysis (OSTIA) system", Remote Sens.
  Environ. 116, 2012.
- Size: 1.7 MB, in an archive of 29 MB.
- Baselines: none.
"""

import sciml

WHEEL = (
    "https://files.pythonhosted.org/packages/33/9a/8e7f426477b336beccb6ae089b0415de25825b1a9605d2c7074a1ed76ec4/"
    "iris_sample_data-2.5.2-py3-none-any.whl"
)
SHA256 = "e40d33fef22eabae985dae0fcee7643e127394195cef55a2e40e1f5416d57f98"


def make() -> sciml.data.Dataset:
    """No settings."""
    member = "iris_sample_data/sample_data/ostia_monthly.nc"
    return sciml.open(sciml.data.fetch("iris_sample_data/ostia_monthly.nc", WHEEL, SHA256, member=member))
