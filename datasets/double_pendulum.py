"""A real double pendulum, two recordings by motion capture: angles, velocities and accelerations of both arms.

- What: `angle_1` and `angle_2` (both from the vertical, turns are counted), `velocity_1`, `velocity_2`,
  `acceleration_1` and `acceleration_2` at the times `t`: in radians and seconds, 0.01 s apart but for gaps of up to
  0.19 s. `trial` 0 has 819 times (9 s), in which both arms swing; `trial` 1 has 701 (8 s), in which both turn over.
- Who: Schmidt & Lipson, the file `real_double_pend_h_1.txt` of their supplement, from a public copy
  (github.com/erwincoumans/tiny-differentiable-simulator). The licence is not stated.
- Citation: Schmidt & Lipson, "Distilling free-form natural laws from experimental data", Science 324, 2009.
- Size: 271 kB.
- Baselines: see the problem `double_pendulum`.
"""

import sciml

PATH = "schmidt_lipson/real_double_pend_h_1.txt"
SHA256 = "9ea97ad3b1c6b83b2762f1c84760bfd55638809436a8ece0c2dfffb96ddaec37"
URL = (
    "https://raw.githubusercontent.com/erwincoumans/tiny-differentiable-simulator/"
    "56e4e686cefc854828260448691845de9e626919/data/schmidt-lipson-exp-data/real_double_pend_h_1.txt"
)
# The file has the velocities twice, as part of the state and as its rate.
COLUMNS = {
    "trial": 1,
    "t": 2,
    "angle_1": 3,
    "angle_2": 4,
    "velocity_1": 5,
    "velocity_2": 6,
    "acceleration_1": 9,
    "acceleration_2": 10,
}


def make() -> sciml.data.Dataset:
    """No settings."""
    table = sciml.open(sciml.data.fetch(PATH, URL, SHA256)).to_xarray()
    return sciml.open(table.rename({f"column_{i}": name for name, i in COLUMNS.items()})[list(COLUMNS)])
