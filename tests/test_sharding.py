"""One device, eight devices and two processes: the same losses, each reading its part only."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parent / "sharded_training.py"


def run(processes: int, devices: int, folder: Path) -> list[dict]:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    environment = os.environ | {"PYTHONPATH": str(SCRIPT.parent), "JAX_PLATFORMS": "cpu"}
    started = [
        subprocess.Popen(
            [
                sys.executable,
                SCRIPT,
                *map(str, (rank, processes, devices)),
                address,
                folder / "cut.zip",
                folder / "begun.zip",
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for rank in range(processes)
    ]
    results = []
    try:
        for process in started:
            out, error = process.communicate(timeout=120)
            assert process.returncode == 0, error
            results.append(json.loads(next(line[7:] for line in out.splitlines() if line.startswith("RESULT "))))
    finally:
        for process in started:
            process.kill()
            process.communicate()
    return results


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    shapes = {"one": (1, 1), "eight": (1, 8), "two processes": (2, 2)}
    folders = {name: tmp_path_factory.mktemp(name.split()[0]) for name in shapes}
    found = {"one": run(*shapes["one"], folders["one"])}
    for name in ("eight", "two processes"):
        # They go on from what one device has begun.
        shutil.copy(folders["one"] / "begun.zip", folders[name])
        found[name] = run(*shapes[name], folders[name])
    return found


def test_losses_agree_to_rounding(runs):
    expected = np.array(runs["one"][0]["losses"])
    for result in (*runs["eight"], *runs["two processes"]):
        np.testing.assert_allclose(result["losses"], expected, rtol=2e-6)
        np.testing.assert_allclose(result["cut"], expected, rtol=2e-6)
        np.testing.assert_allclose(result["resumed"], expected, rtol=2e-6)


def test_parameters_are_cut(runs):
    assert runs["eight"][0]["shape of a part"] == [8, 64]
    assert runs["two processes"][0]["shape of a part"] == [16, 64]


def test_each_process_reads_its_own_rows(runs):
    first, second = ({tuple(r) for r in result["rows"]} for result in runs["two processes"])
    assert not first & second
    whole = {tuple(r) for r in runs["eight"][0]["rows"]}
    # The second pool may not have been read to its end.
    assert len(first) >= 10 and len(second) >= 10 and first | second <= {(i, i + 8) for i in range(0, 640, 8)}
    assert len(first & whole) >= 10 and len(second & whole) >= 10


def test_each_process_reads_its_slab(runs):
    for rank, result in enumerate(runs["two processes"]):
        slab = result["slab"]
        assert slab["good"]
        assert slab["columns"] == [[8 * rank, 8 * rank + 8]]
        assert slab["mine"] == [[8 * rank, 8 * rank + 4], [8 * rank + 4, 8 * rank + 8]]
