"""The script behind `docs/which_method.md`: which cells there are, what is kept of a run, and the page's tables."""

import json
import re
import subprocess

import jax
import numpy as np
import optax
import pytest

import sciml
from sciml import optim
from sciml._problem import load_module


@pytest.fixture(scope="module")
def script(checkout):
    return load_module(checkout / "benchmarks" / "which_method.py")


@pytest.fixture
def folder(script, tmp_path, monkeypatch):
    """The script, its file in a folder of its own."""
    monkeypatch.setattr(script, "FILE", tmp_path / "which_method.json")
    return script


def record(error=1.23e-3, **changes):
    facts = {"budget": 30.0, "seed": 0, "machine": "2 CPU cores", "date": "2026-11-26", "seconds": 29.6, "steps": 1234}
    chosen = {"method": "training", "network": "MLP 2-20-20-20-1", "parameters": 921}
    return {"relative_l2": error, "residual": 4.4e-4, "chosen": chosen} | facts | changes


def test_cells_are_of_problems_and_methods_that_there_are(script):
    for name, settings, methods in script.CELLS.values():
        pde = sciml.problem(name, **settings)
        assert len(set(methods)) == len(methods) and set(methods) <= set(script.METHODS)
        assert {"solve", "solve_60"} & set(methods) and pde.reference is not None
        assert "t" in pde.axes or "causal" not in methods
    assert {m for _, _, methods in script.CELLS.values() for m in methods} == set(script.METHODS)


def test_cells_are_selected_by_names(script):
    every = script.selected([], [])
    assert len(every) == len(set(every)) == sum(len(methods) for _, _, methods in script.CELLS.values())
    assert script.selected(["burgers"], ["adam", "attention"]) == [("burgers", "attention"), ("burgers", "adam")]
    assert {m for _, m in script.selected([], ["soap"])} == {"soap"}
    with pytest.raises(ValueError, match="no 'burger'; there are poisson"):
        script.selected(["burger"], [])
    with pytest.raises(ValueError, match="no 'sgd'; there are solve"):
        script.selected([], ["sgd"])
    with pytest.raises(ValueError, match="causal is left out for poisson"):
        script.selected(["poisson"], ["causal"])


def test_records_are_merged(script):
    before = {"burgers": {"adam": record(1.0), "soap": record(2.0)}, "poisson": {"adam": record(3.0)}}
    after = script.merged(before, "burgers", "adam", record(4.0))
    assert after["burgers"] == {"adam": record(4.0), "soap": record(2.0)} and after["poisson"] == before["poisson"]
    assert before["burgers"]["adam"] == record(1.0)
    assert script.merged({}, "burgers", "adam", record()) == {"burgers": {"adam": record()}}


def test_cells_that_fail_leave_the_others(folder, monkeypatch, capsys):
    script = folder
    script.FILE.write_text(json.dumps({"burgers": {"soap": record(0.5), "adam": record(0.1)}}))

    def run(command, **_):
        if "soap" in command:
            raise subprocess.CalledProcessError(1, command, stderr="ValueError: why")
        return subprocess.CompletedProcess(command, 0, stdout="a warning\n" + json.dumps(record(0.2)))

    monkeypatch.setattr(script.subprocess, "run", run)
    failed = script.main(script.selected(["burgers"], ["adam", "soap", "solve_60"]), 30.0, 0)
    assert failed == [("burgers", "soap")]
    assert script.read()["burgers"] == {"soap": record(0.5), "adam": record(0.2), "solve_60": record(0.2)}
    shown = capsys.readouterr().out
    assert "[1/3, 2 min left] burgers, solve_60: error 2.0e-01" in shown and "ValueError: why" in shown
    assert [p.name for p in script.FILE.parent.iterdir()] == ["which_method.json"]


def test_each_cell_is_a_process_without_compiled_programs(script, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "somewhere")
    seen = {}

    def run(command, env, **_):
        seen.update(command=command, env=env)
        return subprocess.CompletedProcess(command, 0, stdout=json.dumps(record()))

    monkeypatch.setattr(script.subprocess, "run", run)
    assert script.run("burgers", "adam", 12.0, 3) == record()
    assert seen["command"][2:] == ["burgers", "--one", "adam", "--seconds", "12.0", "--seed", "3"]
    assert "JAX_COMPILATION_CACHE_DIR" not in seen["env"] and "PATH" in seen["env"]


def rows(text):
    """Cells by the first one of a line, of each table."""
    tables = [[line.strip("| ").split(" | ") for line in re.findall(r"^\|.*", t, re.M)] for t in text.split("\n\n")]
    return [{row[0]: row[1:] for row in t} for t in tables if t]


def test_tables_show_the_records(script):
    least = {"method": "least squares in windows", "network": "400 features", "parameters": 400}
    report = {
        "poisson": {"adam": record(), "solve": record(9e-16, chosen=least, steps=None, seconds=3.4)},
        "burgers": {"solve_60": record(2e-7, budget=60.0, date="2026-11-28", chosen=least, steps=None)},
    }
    text = script.tables(report)
    errors, steps, choices = rows(text)
    problems = list(script.CELLS)
    assert errors["method"] == [f"`{p}`" for p in problems]
    assert errors["Adam"][problems.index("poisson")] == "1.2e-03 (4e-04)"
    assert errors["Adam"][problems.index("burgers")] == "not run"
    assert errors["Gauss-Newton, causal weights"][problems.index("poisson")] == ""
    assert steps["Adam"][problems.index("poisson")] == "1,234" and "`solve(pde)`" not in steps
    assert "| `poisson` | 30 s | least squares in windows | 400 features | 3 s |" in text
    assert "| `burgers` | 60 s | least squares in windows | 400 features | 30 s |" in text
    assert "2026-11-26 to 2026-11-28: 2 CPU cores; one run each, seed 0, budgets of 30 s, 60 s" in text
    assert script.tables({}) == "No cell was run yet."


def test_tables_go_between_the_markers(script):
    page = f"before\n\n{script.BEGIN}\nold\n{script.END}\n\nafter\n"
    assert script.with_tables(page, {}) == f"before\n\n{script.BEGIN}\n\n{script.tables({})}\n\n{script.END}\n\nafter\n"
    assert script.with_tables(script.with_tables(page, {}), {}) == script.with_tables(page, {})
    for bad in ("nothing", f"{script.END} {script.BEGIN}", script.BEGIN):
        with pytest.raises(ValueError, match="the page needs the lines"):
            script.with_tables(bad, {})


def test_page_has_the_tables_of_the_records(script):
    page = script.PAGE.read_text()
    assert script.with_tables(page, script.read()) == page
    methods = {m.words for m in script.METHODS.values()}
    assert all(words in page for words in methods - {"`solve(pde)` in 60 s"})


@pytest.mark.parametrize("problem, method", [("poisson", "polish"), ("helmholtz_4", "fourier")])
def test_cell_runs(script, problem, method):
    found = script.one(problem, method, seconds=0.5, seed=1)
    assert np.isfinite([found["relative_l2"], found["residual"]]).all() and found["relative_l2"] > 0
    assert (found["budget"], found["seed"], found["steps"] >= 1) == (0.5, 1, True)
    assert found["chosen"]["method"].startswith("training") and found["settings"] == script.CELLS[problem][1]
    if method == "polish":
        # Twenty features of a network that is hardly trained; without a polish the error is 0.68.
        assert found["chosen"]["method"].endswith("output layer") and found["relative_l2"] < 0.3
    json.dumps(found, allow_nan=False)


def test_examples_of_the_page_run(checkout, monkeypatch):
    page = (checkout / "docs" / "which_method.md").read_text()
    blocks = [re.sub("^  ", "", b, flags=re.M) for b in re.findall(r"^ *```python\n(.*?)^ *```", page, re.M | re.S)]
    pde = sciml.problem("convection", beta=1.0)
    # Steps that compile fast, by which the calls are judged and not their results.
    quick = {
        "budget": None,
        "steps": 2,
        "points": 64,
        "loss": pde.residuals,
        "optimiser": optax.sgd(1e-6),
        "report": None,
    }
    names: dict = {"sciml": sciml, "pde": pde, "jax": jax, "key": jax.random.key(0), "optim": optim, "optax": optax}
    names["solve"] = lambda pde, **given: sciml.solve(pde, **(quick | given))
    names |= {"solution": names["solve"](pde), "network": sciml.nn.mlp(3, 1, 8, 2, key=names["key"]), "x": np.ones(2)}
    for block in blocks:
        exec(block.replace('"figure.png"', "").replace("range(3)", "range(2)"), names)
