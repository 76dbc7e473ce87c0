"""Yearly air temperature over North America, 1860 to 2099, a climate model under scenario A1B.

- What: air_temperature(time, latitude, longitude) in K at 1.5 m, 240 yearly means on 37 latitudes (15 to 60 N) and 49
  longitudes; a calendar of 360 days.
- Who: UK Met Office, through the sample data of Iris (PyPI iris-sample-data 2.5.2); Open Government Licence.
- Citation: Johns et al., "The new Hadley Centre climate model (HadGEM1): evaluation of coupled simulations", J. Climate
  19, 2006.
- Size: 1.8 MB, in an archive of 29 MB.
- Baselines: none.
"""

import sciml

WHEEL = (
    "https://files.pythonhosted.org/packages/33/9a/8e7f426477b336beccb6ae089b0415de25825b1a9605d2c7074a1ed76ec4/"
    "iris_sample_data-2.5.2-py3-none-any.whl"
)
SHA256 = "5f728a78bfc2d2503e26ab6faab82c23313eefd56bfae244ccc04b9d41b71816"


def make() -> sciml.data.Dataset:
    """No settings."""
    member = "iris_sample_data/sample_data/A1B_north_america.nc"
    return sciml.open(sciml.data.fetch("iris_sample_data/A1B_north_america.nc", WHEEL, SHA256, member=member))
