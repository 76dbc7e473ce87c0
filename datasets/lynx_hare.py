"""Lynx and hare in Canada, 1900 to 1920: pelts collected by the Hudson's Bay Company.

- What: `hare` and `lynx`, thousands of pelts by `year`, 21 years.
- Who: the table of Stan's case study (github.com/stan-dev/example-models), after Howard,
  "Modeling basics", 2009. A mirror (SCIML_DATA) may hold it as year, hare and lynx between tabs.
- Citation: Carpenter, "Predator-prey population dynamics: the Lotka-Volterra model in Stan", 2018; Elton & Nicholson,
  "The ten-year cycle in numbers of the lynx in Canada", J. Animal Ecology 11, 1942.
- Size: 0.5 kB.
- Baselines: the posterior of the case study; see the problem `lynx_hare`.
"""

import sciml

PATH = "hudson_bay/hudson_bay_lynx_hare.tsv"
SHA256 = "7653cdd9cf35c34620c87b0d93cc2858b5214180a93eea0f7b2096e1b471b6bb"
CSV = "hudson_bay/hudson-bay-lynx-hare.csv"
URL = "https://raw.githubusercontent.com/stan-dev/example-models/master/knitr/lotka-volterra/hudson-bay-lynx-hare.csv"
CSV_SHA256 = "66d3b24d30221a5654ab48cc461ea1d3f725f8f5719016f702cfb56610b4ee63"


def make() -> sciml.data.Dataset:
    """No settings."""
    local = sciml.data.find_local(PATH, SHA256)
    if local is not None:
        names = {"column_1": "year", "column_2": "hare", "column_3": "lynx"}
        return sciml.open(sciml.open(local).to_xarray().rename(names))
    names = {"Year": "year", "Hare": "hare", "Lynx": "lynx"}
    return sciml.open(sciml.open(sciml.data.fetch(CSV, URL, CSV_SHA256)).to_xarray().rename(names))
