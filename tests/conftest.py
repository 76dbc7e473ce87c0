"""What all tests share."""

import os
from pathlib import Path

import pytest

# Before anything imports matplotlib: figures are written, never shown.
os.environ["MPLBACKEND"] = "Agg"


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The folder of the repository."""
    return Path(__file__).resolve().parent.parent
