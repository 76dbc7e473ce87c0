"""What all tests share."""

import gc
import importlib.util
import mmap
import os
from pathlib import Path

import pytest

# Before anything imports matplotlib: figures are written, never shown.
os.environ["MPLBACKEND"] = "Agg"


def compiler_flags() -> str:
    """Flags under which programs compile sooner: most of the time of the tests is compilation, which they halve."""
    flags = ["xla_backend_optimization_level=1", "xla_cpu_use_fusion_emitters=false"]
    (folder,) = importlib.util.find_spec("jaxlib").submodule_search_locations
    with max(Path(folder).iterdir(), key=lambda f: f.stat().st_size).open("rb") as file:
        # XLA ends the process where a flag is unknown to its version.
        library = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return " ".join(f"--{flag}" for flag in flags if library.find(flag.split("=")[0].encode()) >= 0)


os.environ.setdefault("XLA_FLAGS", compiler_flags())


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
