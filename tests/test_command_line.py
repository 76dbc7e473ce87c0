"""`sciml list` and `sciml run`: what they print, write and refuse."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest
import xarray as xr

from sciml.__main__ import main

LINE = '''"""A straight line fitted to four points.

The truth is y = 3 x.
"""

import jax.numpy as jnp
import optax

from sciml import Problem, misfit

EXPECTED = {"slope_error": 1e-3}
BUDGET = 20


def problem(rate: float = 1, steps: int = 300, start: bool = False, shape: tuple = (4,), title="line") -> Problem:
    """rate: of the steps, relative to 0.1."""
    x = jnp.linspace(0.0, 1.0, *shape)
    model = Line(jnp.ones(()) if start else jnp.zeros(()))
    data = [(x, 3 * x)]
    return Problem(model, misfit, data, optax.adam(0.1 * rate), steps, evaluate)


def evaluate(model):
    return {"slope_error": abs(model.slope - 3), "undefined": jnp.nan}


import equinox as eqx


class Line(eqx.Module):
    slope: jnp.ndarray

    def __call__(self, x):
        return self.slope * x
'''

ROD = '''"""A heated rod whose ends are cold.

u_xx = -k on (0, 1): a parabola.
"""

from sciml import PDE, Box, value

EXPECTED = {"relative_l2": 1e-3}
BUDGET = 5


def problem(k: float = 1.0) -> PDE:
    def rod(u_xx, k):
        return u_xx + k

    domain = Box(x=(0, 1))
    return PDE(domain, rod, value(u=0.0, on=domain.boundary()), k=k, reference=lambda x: k * x * (1 - x) / 2)


def evaluate(solution):
    return {"middle": solution(x=0.5)}
'''


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    """Each test runs in a folder of its own; the compilation cache ends with it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCIML_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def write(name: str, text: str) -> str:
    Path(name).write_text(text)
    return name


def refuse_constants(word):
    raise AssertionError(f"not strict JSON: {word}")


def read_report(folder) -> dict:
    return json.loads((Path(folder) / "report.json").read_text(), parse_constant=refuse_constants)


def test_list_shows_each_problem(capsys):
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    row = next(line for line in out.splitlines() if " burgers " in line)
    assert "relative_l2 <= 1e-05" in row and "60 s" in row and "Burgers' equation" in row
    assert "poisson_holes" in out


def test_help_shows_card_and_settings_without_running_the_file(capsys):
    write("own.py", LINE + "\nraise RuntimeError('the file was run')\n")
    assert main(["run", "own.py", "--help"]) == 0
    out = capsys.readouterr().out
    assert "A straight line fitted" in out and "The truth is y = 3 x." in out
    assert any(line.split() == ["--steps", "default", "300"] for line in out.splitlines())
    assert "slope_error <= 0.001" in out and "default 20s" in out


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["run", "burger"], "'burgers'"),
        (["run", "absent.py"], "no file absent.py"),
        (["run", "own.py", "--step", "3"], "'steps'"),
        (["run", "own.py", "--sed", "3"], "'seed'"),
        (["run", "lennard_jones", "--sede", "3"], "did you mean 'seed'?"),
        (["run", "own.py", "--steps", "2.5"], "whole number"),
        (["run", "own.py", "--steps", "many"], "must be a number"),
        (["run", "own.py", "--rate", "fast"], "must be a number"),
        (["run", "own.py", "--rate", "True"], "must be a number"),
        (["run", "own.py", "--start", "yes"], "True or False"),
        (["run", "own.py", "--shape", "4"], "tuple such as (4,)"),
        (["run", "own.py", "--steps"], "needs a value"),
        (["run", "own.py", "stray"], "unexpected 'stray'"),
        (["run", "own.py", "--budget", "soon"], "positive time"),
        (["run", "own.py", "--budget=-3s"], "positive time"),
        (["run", "own.py", "--budget", "nan"], "positive time"),
    ],
)
def test_mistakes_in_what_was_typed_exit_2(arguments, said, capsys):
    write("own.py", LINE)
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert said in message and "Traceback" not in message
    assert not Path("runs").exists()


@pytest.mark.parametrize("arguments", [[], ["lst"], ["list", "all"], ["run", "own.py", "--seed", "one"]])
def test_usage_errors_exit_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage" in capsys.readouterr().err


@pytest.mark.parametrize("text, seconds", [("60", 60.0), ("60s", 60.0), ("2m", 120.0), ("0.5h", 1800.0)])
def test_budget_units(text, seconds):
    from sciml.__main__ import _seconds

    assert _seconds(text) == seconds


def test_run_of_a_problem_to_fit(capsys):
    write("own.py", LINE)
    assert main(["run", "own.py", "--rate", "2", "--shape", "(5,)", "--seed=7", "--out", "here"]) == 0
    report = read_report("here")
    assert report["settings"] == {"rate": 2.0, "shape": [5]}
    assert isinstance(report["settings"]["rate"], float)
    assert report["seed"] == 7 and report["problem"] == "own"
    assert report["metrics"]["slope_error"] < 1e-3
    assert report["metrics"]["undefined"] is None
    assert report["expected"] == {"slope_error": 1e-3}
    assert 0 < report["seconds"]
    assert report["history"]["step"][-1] == 300
    assert len(report["history"]["loss"]) == len(report["history"]["step"])
    assert {"sciml", "python", "jax", "equinox", "optax", "numpy", "platform", "cpus"} <= set(report["versions"])
    assert report["date"]
    out = capsys.readouterr().out
    assert "slope_error" in out and "<= 0.001" in out
    for name in ("report.json", "model.zip"):
        assert (Path("here") / name).is_file() and str(Path("here") / name) in out
    assert not list(Path("here").glob(".*")), "a temporary file was left behind"


def test_run_of_a_pde(capsys):
    write("rod.py", ROD)
    assert main(["run", "rod.py", "--k", "2", "--budget", "5s"]) == 0
    report = read_report("runs/rod")
    assert report["metrics"]["relative_l2"] < 1e-3
    assert report["metrics"]["middle"] == pytest.approx(0.25, rel=1e-3)
    assert report["chosen"]
    dataset = xr.load_dataset("runs/rod/solution.nc")
    truth = dataset.x * (1 - dataset.x)
    assert float(abs(dataset.u_reference - truth).max()) < 1e-12
    assert float(abs(dataset.u - truth).max()) < 1e-3 * 0.25
    assert float(abs(dataset.u - dataset.u_reference - dataset.u_error).max()) < 1e-12
    assert Path("runs/rod/figure.png").read_bytes().startswith(b"\x89PNG")
    assert "relative_l2" in capsys.readouterr().out


COMPARED = (
    LINE.replace(
        "steps, evaluate)",
        "steps, evaluate, {'half': Half(), 'slope 2': lambda x: 2 * x}, draw)",
    )
    .replace(
        "import equinox as eqx",
        """class Half:
    slope = 1.5

    def __call__(self, x):
        return 1.5 * x


def draw(model):
    from matplotlib.figure import Figure

    figure = Figure()
    figure.add_subplot().plot([0, 1], [0, float(model.slope)])
    return figure


import equinox as eqx""",
    )
    .replace(
        """    return {"slope_error": abs(model.slope - 3), "undefined": jnp.nan}""",
        """    value = {"value": model(2.0)}
    return value | ({"slope_error": abs(model.slope - 3)} if hasattr(model, "slope") else {})""",
    )
)


def test_baselines_are_evaluated_as_the_trained_model_is(capsys):
    write("own.py", COMPARED)
    assert main(["run", "own.py"]) == 0
    report = read_report("runs/own")
    assert list(report["metrics"]) == ["value", "slope_error", "value_half", "slope_error_half", "value_slope 2"]
    assert report["metrics"]["value"] == pytest.approx(6, abs=0.01)
    assert report["metrics"]["slope_error"] < 1e-3
    assert report["metrics"]["value_half"] == 3 and report["metrics"]["slope_error_half"] == 1.5
    assert report["metrics"]["value_slope 2"] == 4
    assert report["parameters"] == 1 and report["peak_memory_mb"] > 10
    rows = {line.split("│")[1].strip(): line for line in capsys.readouterr().out.splitlines() if "│" in line}
    assert list(rows) == ["trained", "half", "slope 2", "expected"]
    assert "1.500e+00" in rows["half"] and "4.000e+00" in rows["slope 2"] and "<= 0.001" in rows["expected"]
    assert Path("runs/own/figure.png").read_bytes().startswith(b"\x89PNG")


def test_figure_that_fails_takes_no_results_with_it(capsys):
    write("own.py", COMPARED.replace("    figure = Figure()", "    figure = 1 / 0"))
    assert main(["run", "own.py"]) == 1
    assert "figure = 1 / 0" in capsys.readouterr().err
    assert read_report("runs/own")["metrics"]["slope_error"] < 1e-3
    assert sorted(p.name for p in Path("runs/own").iterdir()) == ["model.zip", "report.json"]


def test_mistake_in_evaluate_shows_before_the_training(capsys):
    write("own.py", COMPARED.replace("model(2.0)", "model(absent)"))
    assert main(["run", "own.py"]) == 1
    assert "absent" in capsys.readouterr().err and not Path("runs").exists()
    write(
        "own.py",
        COMPARED.replace("'slope 2'", "'half_half'").replace('"value": model', '"value": 0, "value_half": model'),
    )
    assert main(["run", "own.py"]) == 1
    assert "two metrics are called 'value_half" in capsys.readouterr().err and not Path("runs").exists()


@pytest.mark.parametrize("name", ["", "trained", 3])
def test_baselines_need_names_of_their_own(name, capsys):
    write("own.py", COMPARED.replace("'slope 2'", repr(name)))
    assert main(["run", "own.py"]) == 1
    assert f"a baseline needs a name of its own, got {name!r}" in capsys.readouterr().err


SEEDED = LINE.replace("rate: float = 1,", "rate: float = 1, seed: int = 5,").replace(
    '{"slope_error": abs(model.slope - 3), "undefined": jnp.nan}', '{"seed": SEED}'
)
SEEDED = SEEDED.replace("    x = jnp.linspace", "    global SEED\n    SEED = seed\n    x = jnp.linspace")


@pytest.mark.parametrize("arguments, seed", [([], 5), (["--seed", "7"], 7), (["--seed=0"], 0)])
def test_seed_reaches_a_problem_that_has_one(arguments, seed, capsys):
    write("own.py", SEEDED)
    assert main(["run", "own.py", "--steps", "1", *arguments]) == 0
    report = read_report("runs/own")
    assert report["seed"] == report["metrics"]["seed"] == seed and report["settings"] == {"steps": 1}
    capsys.readouterr()
    assert main(["run", "own.py", "--help"]) == 0
    assert capsys.readouterr().out.count("--seed") == 1


def test_budget_is_that_of_the_whole_run(monkeypatch):
    import sciml._fit

    asked = []
    fit = sciml._fit.fit

    def recorded(*args, seconds, **rest):
        asked.append(seconds)
        return fit(*args, **rest)

    monkeypatch.setattr(sciml._fit, "fit", recorded)
    slow = "    import time\n    time.sleep(2)\n    x = jnp.linspace"
    write("own.py", LINE.replace("    x = jnp.linspace", slow))
    for budget in ("100s", "1s", "1h"):
        assert main(["run", "own.py", "--steps", "1", "--budget", budget]) == 0
    # Two seconds went by before the training; what comes after has a tenth, or 15 s. A tenth at least is for training.
    assert 60 < asked[0] < 100 - 2 - 10 and asked[1] == pytest.approx(0.1) and 3500 < asked[2] < 3600 - 2 - 15


def test_interrupted_problem_is_evaluated_and_written(checkout):
    import signal
    import time

    write("own.py", COMPARED.replace("steps: int = 300", "steps: int = 10**9"))
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    # Tests that run as a background job ignore the signal, and so would what they start.
    listening = (
        "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "runpy.run_module('sciml', run_name='__main__', alter_sys=True)"
    )
    command = [sys.executable, "-c", listening, "run", "own.py", "--budget", "5m"]
    with open("err", "w") as err:
        # Of its own group, so that the signal is its own.
        process = subprocess.Popen(command, env=environment, stdout=err, stderr=err, start_new_session=True)
    try:
        time.sleep(1)
        for _ in range(120):
            if list(Path(os.environ["SCIML_CACHE"]).glob("*")) or process.poll() is not None:
                break
            time.sleep(0.25)
        time.sleep(8)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, Path("err").read_text()
    finally:
        process.kill()
        process.wait()
    report = read_report("runs/own")
    assert report["stopped"] == "interrupted" and "value_half" in report["metrics"]
    assert Path("runs/own/figure.png").is_file() and Path("runs/own/model.zip").is_file()


@pytest.mark.parametrize(
    "change, line, error",
    [
        (("    x = jnp.linspace", "    wrong = 1 / 0\n    x = jnp.linspace"), "wrong = 1 / 0", "ZeroDivisionError"),
        (("import optax", "import optax\nundefined_name"), "undefined_name", "NameError"),
        (("return self.slope * x", "return jnp.ones(3) @ jnp.ones(4) * x"), "jnp.ones(3) @ jnp.ones(4)", "TypeError"),
    ],
)
def test_failing_file_shows_its_own_line_only(change, line, error, capsys):
    write("own.py", LINE.replace(*change))
    assert main(["run", "own.py"]) == 1
    message = capsys.readouterr().err
    assert line in message and error in message and "own.py, line" in message
    assert "site-packages" not in message and len(message.splitlines()) < 12


def test_traceback_on_demand():
    write("own.py", LINE.replace("    x = jnp.linspace", "    wrong = 1 / 0\n    x = jnp.linspace"))
    with pytest.raises(ZeroDivisionError):
        main(["run", "own.py", "--traceback"])


def test_syntax_error_is_shown(capsys):
    write("own.py", "x = (\n")
    assert main(["run", "own.py"]) == 1
    assert "own.py, line 1" in capsys.readouterr().err


def test_file_that_returns_something_else(capsys):
    write("own.py", "def problem():\n    return 3\n")
    assert main(["run", "own.py"]) == 1
    assert "must return a PDE or a Problem" in capsys.readouterr().err


def test_compiled_programs_are_kept_where_sciml_cache_says():
    write("own.py", LINE)
    assert main(["run", "own.py", "--steps", "1"]) == 0
    assert jax.config.jax_compilation_cache_dir == os.environ["SCIML_CACHE"]


def test_module_as_a_command(checkout):
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    command = [sys.executable, "-m", "sciml", "run", "poison"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert "'poisson'" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="a shell that becomes the process")
def test_time_that_a_shell_waited_is_not_that_of_the_run(tmp_path):
    """As in `install && sciml run`, where the last command takes the place of the shell."""
    (tmp_path / "line.py").write_text(LINE)
    script = f"sleep 5; date +%s; exec '{sys.executable}' -m sciml run line.py --out found >/dev/null"
    said = subprocess.run(["sh", "-c", script], cwd=tmp_path, text=True, capture_output=True, check=True).stdout
    # `date` is in whole seconds, and processor time of several threads goes faster than time.
    assert json.loads((tmp_path / "found" / "report.json").read_text())["seconds"] < time.time() - float(said) + 2
