"""Writing data sets whole or not at all: formats, layouts, interruption, full disks; fetching and `sciml make`."""

import errno
import fcntl
import hashlib
import json
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr
import zarr

import sciml
from sciml._make import list_datasets, make_command, show_card
from sciml._problem import find_dataset, make_dataset, read_card
from sciml.data import Coordinate, DataError, Dataset, Recipe
from sciml.data import _content as content_module
from sciml.data import _fetch as fetch_module
from sciml.data._content import chunk_shape
from sciml.data._fetch import cache_folder, fetch
from sciml.data._lazy import Stored
from sciml.data._source import Chunk, Source, Variable
from sciml.data._write import write

RECIPE = '''"""Random walks.

What: u(sample, time).
"""

import time

import jax
import numpy as np

import sciml


def make(samples: int = 40, steps: int = 50, seed: int = 0, pause: float = 0.0) -> sciml.data.Recipe:
    """steps: of each walk; pause: seconds per batch."""

    def generate(start, stop):
        time.sleep(pause)
        keys = sciml.data.sample_keys(seed, start, stop)
        return {"u": np.cumsum(jax.vmap(lambda key: jax.random.normal(key, (steps,)))(keys), axis=1)}

    return sciml.data.Recipe.on_grid(
        {"u": (("time",), {"units": "m"})}, {"time": (np.arange(steps), {"units": "s"})},
        samples=samples, generate=generate, batch=3,
    )
'''
CHILD = """
import sys
from pathlib import Path
from sciml._problem import make_dataset
from sciml.data._write import write
write(make_dataset(Path(sys.argv[1]), {"pause": 0.05}), sys.argv[2])
"""
# Writing more than this to one file fails, as on a full disk.
LIMITED = (
    """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(__import__("sys").argv[3]), resource.RLIM_INFINITY))
"""
    + CHILD.replace('write(make_dataset(Path(sys.argv[1]), {"pause": 0.05}), sys.argv[2])', "")
    + """
from sciml.data import DataError
try:
    write(make_dataset(Path(sys.argv[1]), {"samples": 400, "steps": 500}), sys.argv[2], compression=None)
except DataError as error:
    print("DataError:", error)
    sys.exit(3)
"""
)


@pytest.fixture
def walks(tmp_path) -> Path:
    path = tmp_path / "walks.py"
    path.write_text(RECIPE)
    return path


def tiny(generate=None, samples: int = 7, **rest) -> Recipe:
    """A recipe whose values are known: u[s, t, x] = 100 s + 10 t + x."""

    def known(start, stop):
        s, t, x = np.meshgrid(np.arange(start, stop), np.arange(4), np.arange(5), indexing="ij")
        return {"u": 100.0 * s + 10 * t + x, "v": -(100.0 * s + 10 * t + x)}

    coords = {
        "time": (np.linspace(0, 1, 4), {"units": "s"}),
        "x": (np.arange(5) / 5, {"units": "m", "boundary": "periodic"}),
    }
    fields = {"u": (("time", "x"), {"units": "K", "long_name": "temperature"}), "v": (("time", "x"), {})}
    return Recipe.on_grid(
        fields, coords, samples=samples, generate=generate or known, **{"batch": 3, "parameters": {"nu": 0.5}} | rest
    )


class Memory(Source):
    """Arrays in memory as a source."""

    def __init__(self, arrays: dict[str, tuple[tuple[str, ...], np.ndarray]]):
        self.arrays = arrays

    def variables(self):
        return {
            n: Variable(d, a.shape, a.dtype, attributes={"units": "K", "scale_factor": 2.0})
            for n, (d, a) in self.arrays.items()
        }

    def read(self, chunk: Chunk):
        return self.arrays[chunk.variable][1][chunk.slices]


def hidden(folder: Path) -> list[str]:
    """What an interrupted write leaves."""
    return [p.name for p in folder.iterdir() if p.name.startswith(".")]


# Formats.


@pytest.mark.parametrize("suffix", [".h5", ".nc", ".zarr"])
@pytest.mark.parametrize("compression", ["auto", None])
def test_formats_hold_values_coordinates_and_attributes(tmp_path, suffix, compression):
    path = tmp_path / f"tiny{suffix}"
    write(tiny(attributes={"title": "Known", "list": [1, 2], "nested": {"a": 1}}), path, compression=compression)
    engines = ["zarr"] if suffix == ".zarr" else ["netcdf4", "h5netcdf"]
    expected = tiny().to_xarray()
    for engine in engines:
        options = {"consolidated": False} if engine == "zarr" else {}
        with xr.open_dataset(path, engine=engine, **options) as found:
            xr.testing.assert_equal(found.load(), expected)
            assert found["u"].dtype == np.float32
            assert found["u"].attrs["units"] == "K" and found["x"].attrs["boundary"] == "periodic"
            assert found.attrs["title"] == "Known" and found.attrs["nu"] == 0.5
            assert json.loads(found.attrs["nested"]) == {"a": 1}
            assert "created" in found.attrs and "sciml_version" in found.attrs
    assert hidden(tmp_path) == []


def test_chunks_have_a_megabyte_and_whole_samples():
    assert chunk_shape(Variable(("sample", "x"), (10**6, 64), "f4")) == (4096, 64)
    assert chunk_shape(Variable(("sample", "x"), (10, 64), "f4")) == (10, 64)
    assert chunk_shape(Variable(("sample", "time", "x"), (10, 100, 2**16), "f4")) == (1, 4, 2**16)
    assert chunk_shape(Variable(("sample", "x"), (4, 2**20), "f4")) == (1, 2**18)
    assert chunk_shape(Variable((), (), "f4")) == ()
    asked = chunk_shape(Variable(("sample", "time", "x"), (10, 100, 8), "f4"), {"time": 5})
    assert asked == (10, 5, 8)


@pytest.mark.parametrize("suffix", [".h5", ".zarr"])
def test_chunks_on_request(tmp_path, suffix):
    path = tmp_path / f"tiny{suffix}"
    write(tiny(), path, chunks={"sample": 2, "time": 1})
    found = h5py.File(path)["u"] if suffix == ".h5" else zarr.open_group(path, mode="r")["u"]
    assert found.chunks == (2, 1, 5)
    np.testing.assert_array_equal(found[...], tiny().read()["u"])
    if suffix == ".h5":
        found.file.close()
    with pytest.raises(ValueError, match="no dimension y"):
        write(tiny(), path, chunks={"y": 2})


def test_data_sets_are_written_decoded_with_dates(tmp_path):
    days = np.array(["2001-01-01T06", "2001-01-01T12"], "datetime64[ns]")
    names = np.array(["east", "north"])
    source = Memory({"wind": (("time", "channel"), np.arange(4.0).reshape(2, 2)), "height": ((), np.array(2.5))})
    coords = {
        "time": Coordinate(("time",), days),
        "channel": Coordinate(("channel",), names),
        "latitude": Coordinate(("channel",), np.array([1.0, 2.0])),
    }
    data = Dataset({n: Stored(source, n) for n in source.arrays}, coords, {"title": "wind"}, (source,))
    for suffix in (".h5", ".zarr"):
        path = tmp_path / f"wind{suffix}"
        write(data, path)
        options = {"engine": "zarr", "consolidated": False} if suffix == ".zarr" else {"engine": "netcdf4"}
        with xr.open_dataset(path, **options) as found:
            np.testing.assert_array_equal(found["time"].values, days)
            np.testing.assert_array_equal(found["channel"].values.astype(str), names)
            np.testing.assert_array_equal(found["wind"].values, np.arange(4.0).reshape(2, 2))
            assert found["height"].item() == 2.5 and found["wind"].attrs == {"units": "K"}


def test_layout_of_pdebench(tmp_path):
    path = tmp_path / "p.h5"
    one = tiny()
    arrays = tiny().read()
    single = Recipe({"u": one.variables["u"]}, one.coords, 7, one.generate, 3)
    write(single, path, layout="pdebench")
    with h5py.File(path) as file:
        assert set(file) == {"tensor", "x-coordinate", "t-coordinate"}
        np.testing.assert_array_equal(file["tensor"][...], arrays["u"])
        np.testing.assert_allclose(file["x-coordinate"][...], np.arange(5) / 5, rtol=1e-6)
    write(one, path, layout="pdebench")
    with h5py.File(path) as file:
        assert list(file) == [f"{i:04d}" for i in range(7)]
        np.testing.assert_array_equal(file["0003/data"][...], np.stack([arrays["u"][3], arrays["v"][3]], axis=-1))
        assert set(file["0003/grid"]) == {"t", "x"}
    write(make_dataset(find_dataset("darcy"), {"samples": 3, "resolution": 9}), path, layout="pdebench")
    with h5py.File(path) as file:
        assert file["nu"].shape == (3, 9, 9) and file["tensor"].shape == (3, 1, 9, 9)
        assert file.attrs["beta"] == 1.0
    with pytest.raises(DataError, match="layout pdebench holds fields.*'a': .'sample', 'x'."):
        write(make_dataset(find_dataset("burgers_operator"), {"samples": 3, "resolution": 16}), path, layout="pdebench")


def test_layout_of_the_well(tmp_path):
    path = tmp_path / "w.h5"
    write(tiny(), path, layout="the_well")
    with h5py.File(path) as file:
        assert file.attrs["n_trajectories"] == 7 and file.attrs["n_spatial_dims"] == 1
        assert list(file.attrs["simulation_parameters"]) == ["nu"] and file["scalars/nu"][()] == 0.5
        assert list(file["dimensions"].attrs["spatial_dims"]) == ["x"]
        assert set(file["dimensions"]) == {"time", "x"} and not file["dimensions/time"].attrs["sample_varying"]
        assert list(file["t0_fields"].attrs["field_names"]) == ["u", "v"]
        assert len(file["t1_fields"].attrs["field_names"]) == len(file["t2_fields"].attrs["field_names"]) == 0
        field = file["t0_fields/u"]
        assert (
            field.attrs["time_varying"] and field.attrs["sample_varying"] and list(field.attrs["dim_varying"]) == [True]
        )
        np.testing.assert_array_equal(field[...], tiny().read()["u"])
        (boundary,) = file["boundary_conditions"].values()
        assert boundary.attrs["bc_type"] == "PERIODIC" and list(boundary["mask"][...]) == [True, *[False] * 3, True]


@pytest.mark.parametrize(
    "path, options, message",
    [
        ("a.txt", {}, "does not follow from the suffix"),
        ("a.h5", {"format": "csv"}, "no format 'csv'"),
        ("a.h5", {"layout": "mine"}, "no layout 'mine'"),
        ("a.zarr", {"layout": "the_well"}, "the_well is HDF5"),
        ("a.nc", {"compression": "lzf"}, "no compression 'lzf' in netcdf"),
    ],
)
def test_unknown_options(tmp_path, path, options, message):
    with pytest.raises(ValueError, match=message):
        write(tiny(), tmp_path / path, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_foreign_folder_is_not_replaced(tmp_path):
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr" / "thesis.tex").write_text("")
    with pytest.raises(DataError, match="not Zarr and is not replaced"):
        write(tiny(), tmp_path / "a.zarr")
    write(tiny(samples=3), tmp_path / "b.zarr")
    write(tiny(), tmp_path / "b.zarr")
    assert zarr.open_group(tmp_path / "b.zarr", mode="r")["u"].shape[0] == 7
    assert hidden(tmp_path) == []


# Recipes that go wrong.


def test_recipes_are_checked(tmp_path):
    with pytest.raises(ValueError, match="samples and batch"):
        tiny(samples=0)
    with pytest.raises(ValueError, match="first dimension 'sample' of 3"):
        Recipe({"u": Variable(("time",), (3,), "f4")}, {}, 3, lambda start, stop: {})
    with pytest.raises(ValueError, match="'x' has the name of a dimension"):
        Recipe({"x": Variable(("sample", "x"), (3, 4), "f4")}, {}, 3, lambda start, stop: {})
    with pytest.raises(ValueError, match="'x' has 4 entries, its coordinate 5"):
        Recipe({"u": Variable(("sample", "x"), (3, 4), "f4")}, {"x": (("x",), np.arange(5), {})}, 3, lambda a, b: {})
    with pytest.raises(DataError, match=r"expected 'u' of shape \(3, 4, 5\), got \(3, 4\)"):
        write(tiny(lambda start, stop: {"u": np.ones((3, 4))}), tmp_path / "a.h5")
    assert not (tmp_path / "a.h5").exists()


def test_values_that_are_not_finite_are_refused_by_number(tmp_path):
    def explodes(start, stop):
        made = {n: np.ones((stop - start, 4, 5)) for n in "uv"}
        made["v"][np.arange(start, stop) == 4] = np.inf
        return made

    with pytest.raises(DataError, match="'v' is not finite in sample 4: .*smaller time steps"):
        write(tiny(explodes), tmp_path / "a.h5")
    assert not (tmp_path / "a.h5").exists()


def test_batches_do_not_matter():
    for batch in (1, 2, 7, 100):
        np.testing.assert_array_equal(tiny(batch=batch).read()["u"], tiny().read()["u"])


# Interruption.


def test_killed_run_goes_on_and_gives_the_same_bits(walks, tmp_path):
    out = tmp_path / "made" / "walks.h5"
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(walks), str(out)])
    parts = out.parent / ".walks.h5.partial" / "parts"
    deadline = time.monotonic() + 60
    while len(list(parts.glob("*.npz"))) < 4 and time.monotonic() < deadline:
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    kept = {p.name: p.stat().st_mtime_ns for p in parts.glob("*.npz")}
    assert 4 <= len(kept) < 14 and not out.exists()
    # What a kill during the last stage leaves.
    (parts.parent / "whole").write_bytes(b"half a file")

    with pytest.raises(DataError, match="interrupted run of other settings.*settings.*Run it again"):
        write(make_dataset(walks, {"seed": 1}), out)
    write(make_dataset(walks, {"pause": 0.05}), out)
    assert hidden(out.parent) == []
    whole = tmp_path / "uninterrupted.h5"
    write(make_dataset(walks, {"pause": 0.05}), whole)
    with h5py.File(out) as a, h5py.File(whole) as b:
        assert a["u"][...].tobytes() == b["u"][...].tobytes()
        assert {k: v for k, v in a.attrs.items() if k != "created"} == {
            k: v for k, v in b.attrs.items() if k != "created"
        }


def test_parts_are_not_made_twice(tmp_path):
    asked = []

    def stops_once(start, stop):
        asked.append(start)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return {n: np.full((stop - start, 4, 5), float(start)) for n in "uv"}

    with pytest.raises(KeyboardInterrupt):
        write(tiny(stops_once), tmp_path / "a.h5")
    write(tiny(stops_once), tmp_path / "a.h5")
    assert asked == [0, 3, 6, 6]


def test_two_processes_do_not_write_one_file(tmp_path):
    work = tmp_path / ".a.h5.partial"
    work.mkdir()
    with open(work / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="another process is writing"):
            write(tiny(), tmp_path / "a.h5")
    write(tiny(), tmp_path / "a.h5")


@pytest.mark.parametrize("suffix", [".h5", ".zarr"])
def test_full_disk_while_batches_are_made(tmp_path, monkeypatch, suffix):
    real = content_module.write_atomically

    def full(path, function):
        if path.name == "00001.npz":
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, function)

    monkeypatch.setattr(content_module, "write_atomically", full)
    path = tmp_path / f"a{suffix}"
    with pytest.raises(DataError, match="no space left to write .*MiB free.*make room and run the same again"):
        write(tiny(), path)
    assert not path.exists() and hidden(tmp_path) == [f".a{suffix}.partial"]
    monkeypatch.undo()
    write(tiny(), path)
    assert hidden(tmp_path) == []


@pytest.mark.parametrize("suffix", [".h5", ".zarr"])
def test_full_disk_while_the_file_is_put_together(walks, tmp_path, suffix):
    out = tmp_path / "made" / f"walks{suffix}"
    command = [sys.executable, "-c", LIMITED, str(walks), str(out), "100000"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 3, done.stderr
    assert "no space left to write" in done.stdout and not done.stderr
    assert not out.exists()
    work = out.parent / f".walks{suffix}.partial"
    assert len(list((work / "parts").glob("*.npz"))) == 134 and not (work / "whole").exists()
    write(make_dataset(walks, {"samples": 400, "steps": 500}), out, compression=None)
    assert out.exists() and hidden(out.parent) == []


# Fetching.


@pytest.fixture
def public(tmp_path, monkeypatch):
    """A file with its checksum; a cache and a mirror of the test's own; the number of downloads."""
    monkeypatch.setenv("SCIML_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SCIML_DATA", raising=False)
    content = b"numbers"
    served = tmp_path / "served.bin"
    served.write_bytes(content)
    count = []

    def download(url, path, sha256):
        count.append(url)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(served.read_bytes())

    monkeypatch.setattr(fetch_module, "_download", download)
    return served, hashlib.sha256(content).hexdigest(), count


def test_fetch_downloads_once_and_prefers_the_mirror(public, tmp_path, monkeypatch):
    served, sha256, count = public
    first = fetch("set/file.bin", "https://example.org/file.bin", sha256)
    assert first == cache_folder() / "set/file.bin" == tmp_path / "cache/data/set/file.bin"
    assert fetch("set/file.bin", "https://example.org/file.bin", sha256) == first and len(count) == 1
    first.write_bytes(b"damaged")
    assert fetch("set/file.bin", "https://example.org/file.bin", sha256).read_bytes() == b"numbers" and len(count) == 2
    (tmp_path / "mirror/set").mkdir(parents=True)
    (tmp_path / "mirror/set/file.bin").write_bytes(b"numbers")
    monkeypatch.setenv("SCIML_DATA", str(tmp_path / "mirror"))
    assert fetch("set/file.bin", "https://example.org/file.bin", sha256) == tmp_path / "mirror/set/file.bin"
    (tmp_path / "mirror/set/file.bin").write_bytes(b"other")
    with pytest.raises(DataError, match="expected .*unset SCIML_DATA"):
        fetch("set/file.bin", "https://example.org/file.bin", sha256)


def test_fetch_takes_a_member_of_an_archive(public):
    served, sha256, count = public
    with zipfile.ZipFile(served, "w") as archive:
        archive.writestr("package/a.bin", b"numbers")
        archive.writestr("package/b.bin", b"others")
    url = "https://example.org/package.whl"
    assert fetch("set/a.bin", url, sha256, member="package/a.bin").read_bytes() == b"numbers"
    with pytest.raises(DataError, match="another SHA-256"):
        fetch("set/b.bin", url, sha256, member="package/b.bin")
    with pytest.raises(DataError, match="no 'package/c.bin' in it"):
        fetch("set/c.bin", url, sha256, member="package/c.bin")
    assert len(count) == 1


def test_fetch_without_network_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("SCIML_CACHE", str(tmp_path))
    monkeypatch.delenv("SCIML_DATA", raising=False)
    with pytest.raises(DataError, match=r"neither in \$SCIML_DATA \(not set\) nor in the cache.*Without network"):
        fetch("set/file.bin", "http://127.0.0.1:9/file.bin", "0" * 64)


# The command.


def test_list_and_card(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert list_datasets() == 0
    assert show_card(read_card(find_dataset("darcy"), "make")) == 0
    out = capsys.readouterr().out
    assert "sciml make NAME" in out and "navier_stokes" in out
    assert "--resolution" in out and "default 64" in out and "data/darcy.h5" in out and "--layout" in out


def test_make_writes_once_and_does_not_overwrite(walks, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    card = read_card(walks, "make")
    assert make_command(card, {"samples": 5}) == 0
    path = tmp_path / "data" / "walks.h5"
    with h5py.File(path) as file:
        assert json.loads(file.attrs["settings"])["samples"] == 5
        assert file.attrs["title"] == "Random walks." and file.attrs["dataset"] == "walks"
    made = path.stat().st_mtime_ns
    assert make_command(card, {"samples": 5}) == 0
    assert "there already" in capsys.readouterr().out and path.stat().st_mtime_ns == made
    with pytest.raises(ValueError, match="holds something else.*--overwrite"):
        make_command(card, {"samples": 6})
    assert make_command(card, {"samples": 6}, overwrite=True) == 0
    assert make_command(card, {"samples": 6}, format="zarr", compression="none") == 0
    assert (tmp_path / "data" / "walks.zarr" / "zarr.json").is_file()
    assert make_command(card, {"samples": 6}, format="zarr") == 0
    with pytest.raises(ValueError, match="suffix must be one of"):
        make_command(card, {}, out="walks")
    with pytest.raises(ValueError, match="no setting 'sample'.*'samples'"):
        make_command(card, {"sample": 6})


def test_files_that_are_no_recipes(tmp_path):
    path = tmp_path / "a.py"
    path.write_text("def make():\n    return 3\n")
    with pytest.raises(ValueError, match="must return a Recipe or a Dataset, it returned int"):
        make_dataset(path, {})
    path.write_text("")
    with pytest.raises(ValueError, match="needs a function `make"):
        make_dataset(path, {})
    with pytest.raises(ValueError, match="no data set 'darci'.*'darcy'"):
        find_dataset("darci")
    with pytest.raises(FileNotFoundError):
        find_dataset(tmp_path / "absent.py")


def test_dataset_is_made_into_the_cache_once(walks, tmp_path, monkeypatch):
    monkeypatch.setenv("SCIML_CACHE", str(tmp_path / "cache"))
    found = sciml.dataset(walks, samples=4)
    assert found.dims == {"sample": 4, "time": 50}
    (made,) = (tmp_path / "cache/data").glob("walks-*.h5")
    before = made.stat().st_mtime_ns
    np.testing.assert_array_equal(
        sciml.dataset(walks, samples=4).read()["u"], make_dataset(walks, {"samples": 4}).read()["u"]
    )
    assert made.stat().st_mtime_ns == before
    sciml.dataset(walks, samples=5)
    assert len(list((tmp_path / "cache/data").glob("walks-*.h5"))) == 2
