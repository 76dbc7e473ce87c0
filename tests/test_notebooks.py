"""Every notebook runs from top to bottom; its own assertions hold."""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
# More than a minute of a processor, with assertions of its own.
SLOW = {"2_when_training_fails"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_has_no_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") for cell in notebook.cells), "commit notebooks without outputs"


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::RuntimeWarning")
@pytest.mark.parametrize(
    "path", [pytest.param(p, id=p.stem, marks=[pytest.mark.slow] * (p.stem in SLOW)) for p in NOTEBOOKS]
)
def test_notebook_runs(path):
    notebook = nbformat.read(path, as_version=4)
    if notebook.metadata.get("sciml", {}).get("data") and not os.environ.get("SCIML_DATA"):
        pytest.skip("reads public files: needs a local mirror, SCIML_DATA")
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()


def test_there_is_a_notebook():
    assert NOTEBOOKS
