"""The README tells the truth: its examples run, and its figures are those that the scripts wrote."""

import json
import os
import re
from pathlib import Path

import equinox as eqx
import h5py
import jax
import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

import sciml
from sciml._problem import make_dataset
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


def test_training_on_files_runs(blocks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCIML_CACHE", str(tmp_path / "cache"))
    Path("data").mkdir()
    for number in range(2):
        a = np.random.default_rng(number).normal(300, 5, (80, 6)).astype(np.float32)
        with h5py.File(f"data/run_{number}.h5", "w") as file:
            for name, values in (("a", a), ("u", 2 * a + 1)):
                file.create_dataset(name, data=values, chunks=(8, 6), compression="gzip")
    names = {"network": eqx.nn.MLP(6, 6, 16, 1, key=jax.random.key(0))}
    exec(blocks[2], names)
    assert names["history"].attrs["stopped"] == "steps" and Path("run.zip").is_file()
    # The model takes and gives physical units.
    assert np.allclose(names["model"](np.full(6, 300.0, np.float32)), 601, atol=20)
    assert len(names["test"].read()["a"]) == 32


def test_operator_trains(blocks):
    fields = np.random.default_rng(0).normal(size=(2, 4, 1, 16, 16)).astype(np.float32)
    source = blocks[3].replace("steps=100", "steps=2, report=None")
    assert source != blocks[3]
    names = {"batches": [tuple(fields)]}
    exec(source, names)
    assert names["history"].attrs["stopped"] == "steps"


@pytest.mark.skipif("SCIML_DATA" not in os.environ, reason="needs public data: set SCIML_DATA")
def test_equations_are_fitted_to_a_table(blocks):
    source = blocks[4].replace("steps=20", "steps=20, report=None")
    assert source != blocks[4]
    names: dict = {}
    exec(source, names)
    with sciml.double_precision():
        found = sciml.ode.parameters(names["model"])
    # Without the priors of Stan's case study, within two of its deviations.
    assert float(found["alpha"]) == pytest.approx(0.545, abs=0.13)
    assert names["errors"]["alpha"] == pytest.approx(0.065, rel=0.5)


def test_potential_is_fitted_to_a_file(blocks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frames = []
    for number in range(20):
        atoms = molecule("CH3CH2OH")
        atoms.rattle(0.05, seed=number)
        atoms.calc = SinglePointCalculator(atoms, energy=-1.0 * number, forces=np.ones((9, 3)))
        frames.append(atoms)
    write("frames.xyz", frames)
    source = blocks[5].replace("900", "16").replace("steps=5000", "steps=2, report=None")
    names: dict = {}
    exec(source, names)
    assert names["history"].attrs["stopped"] == "steps" and len(names["test"]) == 4


def test_recipe_of_ones_own_is_made(checkout, tmp_path):
    page = (checkout / "docs" / "datasets.md").read_text()
    path = tmp_path / "pendulum.py"
    path.write_text(re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0])
    made = make_dataset(path, {"samples": 3}).read()["angle"]
    np.testing.assert_allclose(made, made[:, :1] * np.cos(2 * np.linspace(0, 10, 50)), atol=1e-7)


def test_source_of_ones_own_is_read(checkout):
    page = (checkout / "docs" / "data.md").read_text()
    block = next(b for b in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "class Waves" in b)
    names: dict = {"sciml": sciml, "np": np}
    exec(block, names)
    u = sciml.open(names["Waves"]()).read()["u"]
    assert u.shape == (1000, 64) and u[3, 5] == pytest.approx(np.sin(2 * np.pi * 3 * 5 / 64), abs=1e-6)


def test_loading_figures_are_those_of_the_scripts(checkout):
    page = (checkout / "docs" / "data.md").read_text() + (checkout / "README.md").read_text()
    found = {
        n: json.loads((checkout / "benchmarks" / f"loading{n}.json").read_text()) for n in ("", "_memory", "_waiting")
    }
    for state in ("warm", "cold"):
        for entry in found[""][state]["ratios"].values():
            assert all(f" {entry[key]} " in page for key in ("ratio", "ten epochs") if key in entry)
    assert f"{found['_memory']['growth of the memory, MiB']} MiB" in page
    assert f"{found['_memory']['stated bound, MiB']} MiB" in page
    for run in ("kept in memory", "read again"):
        assert f"{100 * found['_waiting'][run]['waiting, whole run']:.1f} %" in page


@pytest.mark.parametrize("name", ["burgers", "poisson", "wave", "allen_cahn", "lid_driven"])
def test_peers_are_those_of_the_records(name, checkout):
    """The best of each, and of this package the runs with the shortest and the longest limit."""
    records = json.loads((checkout / "problems" / "peers" / f"{name}.json").read_text())
    own = sorted((r for r in records if r["package"] == "sciml"), key=lambda r: r["settings"]["limit"])
    groups = [[r for r in records if r["package"] == p] for p in ("DeepXDE", "jinns")] + [own[:1], own[-1:]]
    best = [min(g, key=lambda r: r["metrics"]["relative_l2"]) for g in groups]
    cells = [f"{r['metrics']['relative_l2']:.1e} in {r['seconds']:.0f} s" for r in best]
    row = f"| `{name}` | {own[-1]['settings']['limit']:.0f} s | {' | '.join(cells)} |"
    assert row in (checkout / "README.md").read_text()


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
