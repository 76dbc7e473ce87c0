"""What all tests share."""

import os
from pathlib import Path

import pytest

# Before anything imports matplotlib: figures are written, never shown.
os.environ["MPLBACKEND"] = "Agg"
# Most of the time of the tests is compilation, which this shortens by a fourth.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=1")


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The folder of the repository."""
    return Path(__file__).resolve().parent.parent
