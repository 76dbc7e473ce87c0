"""The README tells the truth: its examples run, and its figures are those that the scripts wrote."""

import json
import re

import numpy as np
import pytest

import sciml
from sciml.pde import solve


@pytest.fixture(scope="module")
def blocks(checkout):
    return re.findall(r"```python\n(.*?)```", (checkout / "README.md").read_text(), re.DOTALL)


def test_first_example_is_short_and_runs(blocks, monkeypatch):
    assert len(blocks[0].strip().splitlines()) <= 25
    monkeypatch.setattr(sciml, "solve", lambda pde: solve(pde, budget=None, steps=3, report=None))
    names: dict = {}
    exec(blocks[0], names)
    assert names["solution"](t=0.0, x=0.5) == pytest.approx(-1.0)


def test_problem_file_of_ones_own_runs(blocks, tmp_path):
    path = tmp_path / "my_problem.py"
    path.write_text(blocks[1])
    solution = solve(sciml.problem(path, k=2.0), budget=10.0, report=None)
    # The steady state of k u_xx + sin(pi x) = 0, which t = 1 has reached to exp(-2 pi^2).
    x = np.linspace(0, 1, 11)
    np.testing.assert_allclose(solution(t=1.0, x=x), np.sin(np.pi * x) / (2 * np.pi**2), atol=1e-7)


def test_figures_are_those_of_the_script(checkout):
    readme = (checkout / "README.md").read_text()
    figures = json.loads((checkout / "benchmarks" / "figures.json").read_text())
    assert set(figures) == set(sciml.problems())
    for name, runs in figures.items():
        metric = next(iter(runs[0]["expected"]))
        median = np.median([run["metrics"][metric] for run in runs])
        assert f"`{name}`" in readme and f"{median:.1e}" in readme
    derivatives = json.loads((checkout / "benchmarks" / "derivatives.json").read_text())["milliseconds"]
    for case in derivatives.values():
        assert all(f"{t:g}" in readme for t in case.values())
