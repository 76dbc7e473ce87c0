"""Sphinx configuration: pages in Markdown (MyST), notebooks shown as stored, names from docstrings."""

import shutil
import tomllib
from pathlib import Path

# Sphinx reads pages below this folder only.
_here = Path(__file__).parent
shutil.copytree(_here.parent / "notebooks", _here / "notebooks", dirs_exist_ok=True)

_project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]

project = "sciml"
author = "the sciml authors"
release = version = _project["version"]

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"sciml {version}"

# Notebooks are run by the tests.
nb_execution_mode = "off"
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
# Annotations stand as they are written: `Float[Array, "n d"]` says more than what it evaluates to.
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
