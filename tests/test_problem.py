"""Problems found by path, their settings and their cards."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import sciml
from sciml import PDE, Problem
from sciml._problem import find_problem, load_module, nearest_names, read_card

CARD = '''"""A rod that cools.

Its ends are held at zero.
"""

import sciml

EXPECTED = {"relative_l2": 1e-6, "peak": 0.5}
BUDGET = 12.5


def problem(nu: float = 1 / 3, modes: int = 2, *, ends: tuple[float, float] = (0.0, 1.0), name="rod"):
    """nu: diffusivity."""
    return nu, modes, ends, name
'''


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "rod.py"
    path.write_text(CARD)
    return path


def test_provided_problems_have_cards():
    found = sciml.problems()
    assert {"burgers", "poisson", "heat", "wave", "helmholtz", "poisson_holes", "burgers_inverse"} <= set(found)
    for name, path in found.items():
        card = read_card(path)
        assert card.name == name
        assert card.title.endswith(".") and len(card.text) > len(card.title)
        assert card.expected and all(value > 0 for value in card.expected.values())
        assert card.budget > 0
        assert set(card.annotations) >= set(card.settings), f"{name}: a setting without a type"


@pytest.mark.parametrize("name", ["burgers", "poisson", "heat", "wave", "helmholtz"])
def test_provided_problems_can_be_made(name):
    assert isinstance(sciml.problem(name), PDE)


def test_settings_reach_the_function(file):
    assert sciml.problem(file) == (1 / 3, 2, (0.0, 1.0), "rod")
    assert sciml.problem(str(file), nu=2.0, ends=(1.0, 3.0)) == (2.0, 2, (1.0, 3.0), "rod")


def test_card_is_read_without_running_the_file(file):
    file.write_text(CARD + "\nraise RuntimeError('the file was run')\n")
    card = read_card(file)
    assert (card.name, card.title) == ("rod", "A rod that cools.")
    assert "held at zero" in card.text and "nu: diffusivity." in card.text
    assert card.settings == {"nu": "1 / 3", "modes": "2", "ends": "(0.0, 1.0)", "name": "'rod'"}
    assert card.annotations == {"nu": "float", "modes": "int", "ends": "tuple[float, float]"}
    assert card.expected == {"relative_l2": 1e-6, "peak": 0.5}
    assert card.budget == 12.5


def test_card_of_a_bare_file(tmp_path):
    (tmp_path / "bare.py").write_text("def problem():\n    pass\n")
    card = read_card(tmp_path / "bare.py")
    assert (card.settings, card.expected, card.budget) == ({}, {}, 60.0)
    assert card.title


def test_unknown_names_come_with_the_nearest(file):
    with pytest.raises(ValueError, match="no problem 'burger'.*'burgers'"):
        sciml.problem("burger")
    with pytest.raises(ValueError, match="no problem 'zzz'.*burgers, "):
        sciml.problem("zzz")
    with pytest.raises(ValueError, match="no setting 'mode'.*'modes'"):
        sciml.problem(file, mode=3)


def test_bad_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent.py"):
        find_problem(tmp_path / "absent.py")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ValueError, match="ends in .py"):
        find_problem(tmp_path / "notes.txt")
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(ValueError, match="needs a function `problem"):
        sciml.problem(tmp_path / "empty.py")


def test_file_may_define_classes_with_deferred_annotations(tmp_path):
    path = tmp_path / "deferred.py"
    path.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n\n"
        "@dataclass\nclass Rod:\n    length: float\n\ndef problem():\n    return Rod(2.0)\n"
    )
    assert sciml.problem(path).length == 2.0


def test_file_that_fails_leaves_no_module_behind(tmp_path):
    path = tmp_path / "fails_while_loading.py"
    path.write_text("raise RuntimeError('here')\n")
    with pytest.raises(RuntimeError, match="here"):
        load_module(path)
    assert "sciml_file_fails_while_loading" not in sys.modules


def test_neighbour_of_an_installed_package_is_not_ours(checkout, tmp_path):
    # As in site-packages: the package, and beside it Hugging Face's `datasets`.
    shutil.copytree(checkout / "sciml", tmp_path / "sciml", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(checkout / "problems", tmp_path / "sciml" / "problems")
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "foreign.py").write_text("")
    code = "import sciml; print(sciml.__file__); print(*sciml.datasets()); print(*sciml.problems())"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    where, found_datasets, found_problems = done.stdout.split("\n")[:3]
    assert Path(where).is_relative_to(tmp_path)
    assert "foreign" not in found_datasets
    assert "burgers" in found_problems.split()


def test_problem_record_is_frozen():
    record = Problem(None, abs, None, None, 1, lambda model: {})
    with pytest.raises(AttributeError):
        record.steps = 2  # type: ignore[misc]


def test_nearest_names():
    assert nearest_names("modee", ["modes", "model", "length"]) == "did you mean 'modes' or 'model'?"
    assert nearest_names("zzz", ["nu", "k"]) == "there are nu, k"
    assert nearest_names("zzz", []) == "there are none"


def test_problem_file_in_the_documentation(checkout, tmp_path):
    page = (checkout / "docs" / "command_line.md").read_text(encoding="utf-8")
    path = tmp_path / "rod.py"
    path.write_text(page.partition("```python\n")[2].partition("```")[0])
    card = read_card(path)
    assert card.title == "A heated rod whose ends are cold."
    assert (card.settings, card.budget) == ({"k": "1.0"}, 20.0)
    assert isinstance(sciml.problem(path, k=2.0), PDE)
