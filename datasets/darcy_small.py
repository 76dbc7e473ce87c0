"""Darcy flow at 16 x 16 and 32 x 32, the small set of the neuraloperator library.

Permeability (0 or 1 for its two values) to pressure on the unit square, as in the recipe `darcy`, subsampled.

- What: the variables `x`, whether the permeability is high, and `y`, the pressure, on samples and two axes.
  `part=train` has 1000 samples at 16 x 16, `part=test_16` 50, `part=test_32` 50 at 32 x 32.
- Who: the developers of neuraloperator (github.com/neuraloperator/neuraloperator; Zenodo 12784353); MIT licence.
- Citation: Kossaifi et al., "A library for learning neural operators", 2024, arXiv:2412.10354.
- Size: 1.3 MB, 65 kB and 257 kB.
- Baselines: the library's example `plot_FNO_darcy` trains an FNO on it in minutes on a CPU; no figure is published.
"""

import sciml

WHEEL = (
    "https://files.pythonhosted.org/packages/4f/f7/348ab3c87fc72eab58fdb765fa411042a25be246599ad09731be11f42317/"
    "neuraloperator-0.3.0-py3-none-any.whl"
)
FILES = {
    "train": ("darcy_train_16.pt", "0be662acdb1dab7dfd1a1da0b140e97f75cc94f98a14edcf768abe6968b3b418"),
    "test_16": ("darcy_test_16.pt", "d2b19af9d4a6ae04ba2de54b8ecccc8b89766472faf6ce7f506c0b2a60f69a4c"),
    "test_32": ("darcy_test_32.pt", "bcbd10622373e94df84a17fcdb72ac4317d76e024c2499d21fd1fd34d0742cfd"),
}


def make(part: str = "train") -> sciml.data.Dataset:
    """part: train, test_16 or test_32."""
    if part not in FILES:
        raise ValueError(f"part must be one of {', '.join(FILES)}, got '{part}'")
    name, sha256 = FILES[part]
    path = sciml.data.fetch(f"neuraloperator/{name}", WHEEL, sha256, member=f"neuralop/datasets/data/{name}")
    return sciml.open(path)
