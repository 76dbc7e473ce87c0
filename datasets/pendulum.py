"""A real pendulum, its angle and velocity by motion capture: a swing that slowly dies away.

- What: `angle` and `velocity` at the times `t`, 556 of them, 1/6 apart but for a few gaps; `trial` is 0 throughout.
  Angles are in radians. The unit of time is not stated.
- Who: Schmidt & Lipson, the file `real_pend_h_1.txt` of their supplement, from a public copy
  (github.com/erwincoumans/tiny-differentiable-simulator). The licence is not stated.
- Citation: Schmidt & Lipson, "Distilling free-form natural laws from experimental data", Science 324, 2009.
- Size: 57 kB.
- Baselines: Greydanus, Dzamba & Yosinski, "Hamiltonian neural networks", NeurIPS 2019, section 3; see the problem
  `pendulum`.
"""

import sciml

PATH = "schmidt_lipson/real_pend_h_1.txt"
SHA256 = "45d92988198b89a5933f5a53e67aa819d06937516f71a462ac09e1307d8b3411"
URL = (
    "https://raw.githubusercontent.com/erwincoumans/tiny-differentiable-simulator/"
    "2202b51fdf36cfa17c2f0d6ad9172ecf6c40e773/data/schmidt-lipson-exp-data/real_pend_h_1.txt"
)
COLUMNS = ("trial", "t", "angle", "velocity")


def make() -> sciml.data.Dataset:
    """No settings."""
    table = sciml.open(sciml.data.fetch(PATH, URL, SHA256)).to_xarray()
    return sciml.open(table.rename({f"column_{i + 1}": name for i, name in enumerate(COLUMNS)}))
