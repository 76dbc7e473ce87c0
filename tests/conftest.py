"""What all tests share."""

import gc
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


@pytest.fixture(scope="module", autouse=True)
def compiled_programs():
    """Compiled programs end with their file: thousands of them exceed the memory maps that a process may have."""
    yield
    import jax

    jax.clear_caches()
    gc.collect()
