"""`sciml compare`: results of other packages, read, refused, printed and drawn."""

import json
from pathlib import Path

import pytest

import sciml
from sciml import _compare, _problem
from sciml.__main__ import main

RECORDS = [
    {
        "package": "neuraloperator",
        "version": "2.0.0",
        "model": "FNO",
        "parameters": 1234567,
        "epochs": 20,
        "settings": {"modes": 12, "width": 32},
        "metrics": {"relative_l2": 0.121, "relative_l2_32": 0.171},
        "seconds": 54.2,
        "seconds_per_epoch": 2.71,
        "peak_memory_mb": 812.5,
        "command": "python tests/peers/darcy_small.py",
        "machine": "2 cores of an EPYC",
        "date": "2026-11-20",
        "seed": 0,
    },
    {
        "package": "sciml",
        "version": "0.1.0",
        "model": "FNO, residual",
        "metrics": {"relative_l2": 0.08, "relative_l2_32": None},
        "seconds": 20.0,
        "machine": "2 cores of an EPYC",
        "date": "2026-11-20",
    },
]
REPORT = {
    "problem": "poisson",
    "seconds": 61.0,
    "metrics": {"relative_l2": 0.075, "relative_l2_kernel_ridge": 0.139},
    "parameters": 4321,
    "history": {"step": [1, 2], "seconds": [1.0, 33.25]},
    "versions": {"sciml": "0.2.0", "platform": "Linux", "cpus": 4},
    "date": "2026-11-21T10:00:00+00:00",
    "seed": 3,
}


@pytest.fixture(autouse=True)
def peers(tmp_path, monkeypatch):
    """Peers of the problem `poisson`, in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    path = tmp_path / "shipped" / "poisson.json"
    path.parent.mkdir()
    path.write_text(json.dumps(RECORDS))
    monkeypatch.setattr(_problem, "peers", lambda: {"poisson": path})
    return path


def test_table_and_figure(capsys):
    assert main(["compare", "poisson"]) == 0
    out = capsys.readouterr().out
    row = next(line for line in out.splitlines() if "neuraloperator" in line)
    for text in ("2.0.0", "FNO", "1,234,567", "20", "0.121", "0.171", "54.2", "2.71", "812"):
        assert text in row
    ours = next(line for line in out.splitlines() if "residual" in line)
    assert "0.08" in ours and "None" not in out
    assert "2 cores of an EPYC (2026-11-20)" in out and "sciml run poisson" in out
    assert Path("runs/poisson/compare.png").read_bytes().startswith(b"\x89PNG")


def test_own_run_stands_beside_them(capsys):
    Path("mine").mkdir()
    Path("mine/report.json").write_text(json.dumps(REPORT))
    assert main(["compare", "poisson", "--run", "mine", "--figure", "here/all.png"]) == 0
    out = capsys.readouterr().out
    row = next(line for line in out.splitlines() if "your run 0.2.0" in line)
    # The time of training, as the peers', not that of the process.
    assert "0.075" in row and "33.2" in row and "4,321" in row and "61" not in row
    assert "0.139" not in out, "a baseline of one's own run is no column of the peers'"
    assert "Linux, 4 CPUs (2026-11-21)" in out
    assert Path("here/all.png").is_file() and not Path("runs").exists()


def test_points_lie_where_the_numbers_are(monkeypatch, tmp_path):
    figures = []
    monkeypatch.setattr(sciml._save, "write_atomically", lambda path, write: write(None))
    from matplotlib.figure import Figure

    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **options: figures.append(self))
    assert _compare.draw("poisson", RECORDS, tmp_path / "x.png")
    panels = figures[0].axes
    assert [p.get_ylabel() for p in panels] == ["relative_l2", "relative_l2_32"]
    assert [tuple(map(list, line.get_data())) for line in panels[0].lines] == [([54.2], [0.121]), ([20.0], [0.08])]
    assert [len(line.get_xdata()) for line in panels[1].lines] == [1, 0]
    assert [p.get_xscale() for p in panels] == ["log", "log"]
    assert not _compare.draw("poisson", [RECORDS[1] | {"metrics": {"a": None}}], tmp_path / "y.png")


def test_curves_are_lines_of_the_colour_of_their_marker(monkeypatch, tmp_path):
    figures = []
    monkeypatch.setattr(sciml._save, "write_atomically", lambda path, write: write(None))
    from matplotlib.figure import Figure

    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **options: figures.append(self))
    curve = {"seconds": [1.0, 10.0, 54.2], "relative_l2": [1.0, 0.5, 0.121]}
    assert _compare.draw("poisson", [RECORDS[0] | {"curve": curve}, RECORDS[1]], tmp_path / "x.png")
    first, second = figures[0].axes
    line, marker, other = first.lines
    assert tuple(map(list, line.get_data())) == (curve["seconds"], curve["relative_l2"])
    assert line.get_linestyle() == "-" and marker.get_linestyle() == "None"
    assert line.get_color() == marker.get_color() != other.get_color()
    assert len(second.lines) == 2, "the curve has no such metric"


def test_notes_are_printed_below(peers, capsys):
    note = "boxes only: [the domain] has holes"
    peers.write_text(json.dumps([RECORDS[0] | {"metrics": {"relative_l2": None}, "note": note}, RECORDS[1]]))
    assert main(["compare", "poisson"]) == 0
    assert f"neuraloperator 2.0.0, FNO: {note}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name, said",
    [("poison", "no problem 'poison'.*'poisson'"), ("heat", "no results of peers for 'heat'; there are poisson")],
)
def test_problems_without_peers_exit_2(name, said, capsys):
    import re

    assert main(["compare", name]) == 2
    message = capsys.readouterr().err
    assert re.search(said, message) and "Traceback" not in message


@pytest.mark.parametrize(
    "change, said",
    [
        ({"seconds": None}, "record 0: 'seconds' is None"),
        ({"seconds": 0}, "'seconds' must be above 0"),
        ({"parameters": "many"}, "'parameters' is 'many', expected int"),
        ({"metrics": {"relative_l2": "small"}}, "the metric 'relative_l2' is 'small'"),
        ({"metrics": [0.1]}, "'metrics' is"),
        ({"paramters": 3}, "'paramters' is no entry of a record"),
        ({"seed": True}, "'seed' is True"),
        ({"note": 3}, "'note' is 3"),
        ({"curve": {"relative_l2": [0.1]}}, "record 0: the curve has no 'seconds'"),
        ({"curve": {"seconds": [1], "relative_l2": 0.1}}, "'relative_l2' of the curve is 0.1"),
        ({"curve": {"seconds": [1, 2], "relative_l2": [0.1, None]}}, "'relative_l2' of the curve is [0.1, None]"),
        ({"curve": {"seconds": [1, 2], "relative_l2": [0.1]}}, "has 1 numbers, 'seconds' has 2"),
    ],
)
def test_wrong_records_are_named(change, said, peers, capsys):
    peers.write_text(json.dumps([RECORDS[0] | change]))
    assert main(["compare", "poisson"]) == 1
    assert said in capsys.readouterr().err
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    "text, said",
    [
        ("{", "not JSON"),
        ("[]", "at least one"),
        ("{}", "expected a list"),
        ("[3]", "record 0: expected an object"),
        ('[{"package": "a"}]', "record 0: has no 'version'"),
    ],
)
def test_files_that_hold_no_records(text, said, peers):
    peers.write_text(text)
    with pytest.raises(ValueError, match=said):
        _compare.read_peers(peers)


def test_runs_that_cannot_be_read(capsys):
    assert main(["compare", "poisson", "--run", "absent"]) == 1
    assert "run the problem first" in capsys.readouterr().err
    Path("bad").mkdir()
    Path("bad/report.json").write_text('{"seconds": 1}')
    assert main(["compare", "poisson", "--run", "bad"]) == 1
    assert "not a report of sciml run" in capsys.readouterr().err


def test_provided_peers_are_complete(checkout):
    for path in sorted((checkout / "problems" / "peers").glob("*.json")):
        assert path.stem in sciml.problems(), f"{path.name}: no problem of that name"
        assert len(_compare.read_peers(path)) > 0
