"""`sciml.open`: xarray in and out, sources of one's own, many files as one, selections, processes and threads."""

import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import cftime
import h5py
import numpy as np
import pytest
import torch_archive as torch
import xarray as xr
import zarr
from random_boxes import boxes, numbers, same_boxes

import sciml
from sciml.data import Chunk, DataError, Source, Variable
from sciml.data._dataset import Dataset
from sciml.data._hdf5 import DESCRIPTORS

# xarray.


def weather(times=6, start=0, dtype="f4", seed=0) -> xr.Dataset:
    """Fields on time and a grid, with a coordinate of two dimensions."""
    rng = np.random.default_rng(seed)
    days = np.datetime64("2000-01-01", "ns") + (start + np.arange(times)) * np.timedelta64(1, "D")
    field = rng.normal(size=(times, 3, 4)).astype(dtype)
    return xr.Dataset(
        {"t": (("time", "lat", "lon"), field, {"units": "K"}), "mask": (("lat", "lon"), np.eye(3, 4, dtype="i4"))},
        {
            "time": days,
            "lat": ("lat", [10.0, 0, -10], {"units": "degrees_north"}),
            "lon": [0, 90, 180, 270],
            "area": (("lat", "lon"), np.ones((3, 4)), {"units": "m2"}),
            "level": ((), 500, {"units": "hPa"}),
        },
        {"title": "Known"},
    )


def test_xarray_goes_in_and_out_identical():
    one = weather()
    xr.testing.assert_identical(sciml.open(one).to_xarray(), one)
    xr.testing.assert_identical(sciml.open(one["t"]).to_xarray(), one["t"].to_dataset())
    noleap = one.assign_coords(time=[cftime.datetime(2000, 2, d, calendar="noleap") for d in range(1, 7)])
    xr.testing.assert_identical(sciml.open(noleap).to_xarray(), noleap)
    far = one.assign_coords(time=np.arange(6).astype("M8[D]").astype("M8[s]") + np.timedelta64(500_000, "D"))
    assert str(far.time.values[0])[:4] == "3338"
    xr.testing.assert_identical(sciml.open(far).to_xarray(), far)
    with pytest.raises(DataError, match=r"'time'\[3\] = .* is before"):
        sciml.open(far.isel(time=[0, 1, 3, 2]))
    centuries = weather(4).assign_coords(time=np.array(["1700", "1800", "2100", "2200"], "M8[ns]"))
    xr.testing.assert_identical(sciml.open(centuries).to_xarray(), centuries)


def test_xarray_has_names_of_text_and_numbers():
    regions = xr.Dataset(
        {1: ("region", [1.0, 2.0]), "u": ("region", [3, 4])}, {"region": np.array(["Asia", "Africa"], object)}
    )
    data = sciml.open(regions)
    xr.testing.assert_identical(data.to_xarray(), regions.rename({1: "1"}))
    assert data.sel(region="Africa")["1"].read()["1"] == 2.0 and data.fingerprint() == sciml.open(regions).fingerprint()
    both = sciml.open([regions.isel(region=[0]), regions.isel(region=[1])])
    np.testing.assert_array_equal(both.read()["u"], [3, 4])


def test_xarray_reads_files_lazily(tmp_path):
    weather().to_netcdf(tmp_path / "a.nc")
    with xr.open_dataset(tmp_path / "a.nc", chunks=None) as lazy:
        data = sciml.open(lazy[["t"]])
        for box in boxes((6, 3, 4), 5):
            np.testing.assert_array_equal(data.arrays["t"].read(box), weather()["t"].values[box])
        assert not lazy["t"].variable._in_memory


# A source of one's own.


class Table(Source):
    """Sums of its indices, computed when they are asked for."""

    def variables(self):
        return {"u": Variable(("sample", "x"), (8, 5), "f8", (2, 5), {"units": "m"})}

    def read(self, chunk: Chunk) -> np.ndarray:
        return np.add.outer(*(10.0 ** (1 - i) * np.arange(s.start, s.stop) for i, s in enumerate(chunk.slices)))


def test_a_source_needs_variables_and_read():
    expected = np.add.outer(10.0 * np.arange(8), np.arange(5.0))
    data = sciml.open(Table())
    same_boxes(data.arrays["u"], expected)
    assert data.units == {"u": "m"} and data.arrays["u"].chunks == (2, 5)
    both = sciml.open([Table(), Table()])
    np.testing.assert_array_equal(both.read()["u"], np.concatenate([expected, expected]))
    (batch,) = next(iter(both.batches(16, shuffle=False)))
    np.testing.assert_array_equal(batch, both.read()["u"])


# Many files.


@pytest.fixture
def runs(tmp_path) -> Path:
    """Eleven files of three samples each; run_10 comes after run_9."""
    folder = tmp_path / "runs"
    folder.mkdir()
    for number in range(11):
        with h5py.File(folder / f"run_{number}.h5", "w") as file:
            file["u"] = 100.0 * number + np.arange(3.0)[:, None] + np.zeros(4)
    (folder / "notes.txt").write_text("not data")
    (folder / ".hidden.h5").write_text("not data")
    return folder


EXPECTED = [100 * number + sample for number in range(11) for sample in range(3)]


def test_files_are_found_by_pattern_list_and_folder_in_natural_order(runs):
    listed = [runs / f"run_{number}.h5" for number in range(11)]
    for path in (runs, str(runs), runs / "run_*.h5", str(runs / "*.h5"), listed, [str(p) for p in listed]):
        data = sciml.open(path)
        assert data.dims == {"sample": 33, "dim_1": 4} and len(data.sources) == 11
        assert data.read()["u"][:, 0].tolist() == EXPECTED
    assert sciml.open([runs / "run_1*.h5", runs / "run_0.h5"]).read()["u"][:, 0].tolist() == [
        *EXPECTED[3:6],
        *EXPECTED[30:],
        *EXPECTED[:3],
    ]


def test_files_are_joined_along_a_new_dimension(runs):
    data = sciml.open(runs / "run_?.h5", along="run")
    assert data.dims == {"run": 10, "sample": 3, "dim_1": 4}
    assert data.coords["run"].values[9] == "run_9.h5"
    same_boxes(data.arrays["u"], np.array(EXPECTED[:30]).reshape(10, 3, 1) + np.zeros(4))


def test_files_are_joined_in_the_order_of_their_coordinate(tmp_path):
    parts = [weather(4, start=4 * i, seed=i) for i in range(3)]
    for name, part in zip("bca", parts):
        part.to_netcdf(tmp_path / f"{name}.nc")
    for along in (None, "time"):
        data = sciml.open(tmp_path, along=along)
        xr.testing.assert_equal(data.to_xarray(), xr.concat(parts, "time", data_vars="minimal"))
    same_boxes(data.arrays["t"], np.concatenate([p["t"].values for p in parts]))
    falling = [parts[0].isel(lat=rows) for rows in ([2], [0, 1])]
    np.testing.assert_array_equal(sciml.open(falling, along="lat").read()["t"], parts[0]["t"].values)
    members = [p.assign_coords(time=parts[0].time, member=i) for i, p in enumerate(parts)]
    data = sciml.open(members, along="member")
    np.testing.assert_array_equal(data.coords["member"].values, [0, 1, 2])
    np.testing.assert_array_equal(data.read()["t"], np.stack([p["t"].values for p in parts]))


def test_files_of_several_formats_are_joined(tmp_path):
    u = numbers("f4", (12, 4))
    np.save(tmp_path / "0.npy", u[:3])
    torch.save(torch.tensor(u[3:6]), tmp_path / "1.pt")
    with h5py.File(tmp_path / "2.h5", "w") as file:
        file["data"] = u[6:9]
    zarr.create_array(tmp_path / "3.zarr", data=u[9:], chunks=(2, 2))
    data = sciml.open([p for p in sorted(tmp_path.iterdir())])
    same_boxes(data.arrays["data"], u)


def test_a_few_open_files_are_enough_for_many(runs, monkeypatch):
    monkeypatch.setattr(DESCRIPTORS, "_most", 3)
    data = sciml.open(runs)
    with ThreadPoolExecutor(8) as pool:
        rows = list(pool.map(lambda i: data.arrays["u"].read((slice(i, i + 1), slice(0, 4)))[0, 0], [*range(33)] * 5))
    assert rows == EXPECTED * 5
    data.read()
    assert len(DESCRIPTORS._open) <= 3


def test_a_split_by_file_keeps_files_whole(runs):
    data = sciml.open(runs)
    first, rest = data.split(8, by="file")
    assert first.read()["u"][:, 0].tolist() == EXPECTED[:24] and rest.read()["u"][:, 0].tolist() == EXPECTED[24:]
    one, other = sciml.open(runs / "run_[01].h5").split(1, 1, by="file")
    assert one.read()["u"][:, 0].tolist() == EXPECTED[:3] and other.read()["u"][:, 0].tolist() == EXPECTED[3:6]
    dealt = data.isel(sample=slice(1, None)).split(0.5, 0.5, by="file", seed=3)
    seen = [np.unique(part.read()["u"] // 100).tolist() for part in dealt]
    assert sorted(seen[0] + seen[1]) == list(range(11)) and seen[0] != sorted(seen[0] + seen[1])[: len(seen[0])]


# Selections.


def grid() -> Dataset:
    return sciml.open(weather(12))


def test_isel_and_sel_are_those_of_xarray():
    data, expected = grid(), weather(12)
    for index in (
        {"time": slice(2, 9, 3)},
        {"time": -1, "lat": slice(None, 2)},
        {"time": slice(1, None), "lon": slice(3, None), "lat": np.int64(1)},
        {"lon": 0, "lat": 0},
    ):
        xr.testing.assert_identical(data.isel(**index).to_xarray(), expected.isel(index))
    twice = data.isel(time=slice(1, 11, 2)).isel(time=slice(1, 4, 2))
    xr.testing.assert_identical(twice.to_xarray(), expected.isel(time=slice(3, 8, 4)))
    for label in (
        {"time": slice("2000-01-03", "2000-01-07")},
        {"time": "2000-01-05", "lon": 90},
        {"lat": slice(10, 0), "lon": slice(90, 200)},
    ):
        xr.testing.assert_identical(data.sel(**label).to_xarray(), expected.sel(label))


def test_splits_share_no_sample_and_keep_a_gap():
    data = sciml.open(Table())
    u = data.read()["u"]
    for parts, lengths in (((0.5, 0.25), (4, 2, 2)), ((5,), (5, 3)), ((0.75, 0.25), (6, 2)), ((1,), (1, 7))):
        found = data.split(*parts)
        assert tuple(p.dims["sample"] for p in found) == lengths
        np.testing.assert_array_equal(np.concatenate([p.read()["u"] for p in found]), u)
    first, rest = data.split(4, gap=2)
    np.testing.assert_array_equal(first.read()["u"], u[:4])
    np.testing.assert_array_equal(rest.read()["u"], u[6:])
    one, other = data.split(0.5, 0.5, seed=1)
    again = data.split(0.5, 0.5, seed=1)
    rows = [p.read()["u"][:, 0] / 10 for p in (one, other)]
    assert sorted(np.concatenate(rows)) == list(range(8)) and (again[0].read()["u"][:, 0] / 10 == rows[0]).all()
    # Chunks of two samples are dealt whole.
    assert all((r[::2] % 2 == 0).all() and (r[1::2] == r[::2] + 1).all() for r in rows)
    assert len(data.split(3, by="x")) == 2


def test_names_order_maps_and_stacks():
    data = grid()
    assert list(data["mask", "t"].arrays) == list(data[["mask", "t"]].arrays) == ["mask", "t"]
    assert set(data["mask"].coords) == {"lat", "lon", "area", "level"}
    t = data.read()["t"]
    mapped = data.map(t=lambda t: t - 273.15)["t"].map(t=np.float64).read()["t"]
    assert mapped.dtype == np.float64
    np.testing.assert_array_equal(mapped, (t - 273.15).astype(np.float64))
    stacked = sciml.open(weather(12).assign(u=weather(12)["t"] * 2)).stack(state=["u", "t"])
    assert stacked.arrays["state"].dims == ("time", "channel", "lat", "lon") and "t" not in stacked.arrays
    same_boxes(stacked.arrays["state"], np.stack([2 * t, t], 1))
    assert stacked.coords["channel"].values.tolist() == ["u", "t"]


@pytest.mark.parametrize(
    "mistake, kind, message",
    [
        (lambda d: d["mas"], KeyError, "no variable 'mas'; did you mean 'mask'"),
        (lambda d: d["q"], KeyError, "no variable 'q'; there are t, mask"),
        (lambda d: d.isel(tim=0), ValueError, "no dimension 'tim'; did you mean 'time'"),
        (lambda d: d.isel(time=12), ValueError, "'time' has 12 entries, there is no number 12"),
        (lambda d: d.isel(time=slice(5, 5)), ValueError, "selects nothing of 'time'"),
        (lambda d: d.isel(time=slice(None, None, -1)), ValueError, "step for 'time' must be positive"),
        (lambda d: d.sel(lat=slice(0, 10)), ValueError, "nothing of 'lat'.*the other way"),
        (lambda d: d.sel(lon=45), KeyError, "'lon'|45"),
        (lambda d: d.map(temperature=abs), KeyError, "no variable 'temperature'"),
        (lambda d: d.stack(a=["t", "mask"]), ValueError, "t, mask differ in shape"),
        (lambda d: d.split(13, by="time"), ValueError, "need 13 entries, there are 12"),
        (lambda d: d.split(0.9, 0.2, by="time"), ValueError, "add up to more than 1"),
        (lambda d: d.split(6, by="time", gap=6), ValueError, "a gap of 6 leaves nothing"),
        (lambda d: sciml.open(Table(), layout="pdebnch"), ValueError, "layout must be 'plain' or one of pdebench"),
        (lambda d: sciml.open(Table(), layout="pdebench"), DataError, "Table: not in the layout 'pdebench'"),
        (lambda d: sciml.open(3), TypeError, "expected a path.*got int"),
        (lambda d: sciml.open([]), FileNotFoundError, "the list is empty"),
    ],
)
def test_mistakes_are_named(mistake, kind, message):
    with pytest.raises(kind, match=message):
        mistake(grid())


# Processes and threads.


@pytest.fixture
def formats(tmp_path) -> dict[str, Path]:
    """The same numbers in every format."""
    values = weather(20)["t"].drop_vars("time").to_dataset()
    u = values["t"].values
    values.to_netcdf(tmp_path / "3.nc", format="NETCDF3_64BIT")
    values.to_netcdf(tmp_path / "4.nc", encoding={"t": {"chunksizes": (3, 2, 4), "zlib": True}})
    values.to_zarr(tmp_path / "a.zarr", encoding={"t": {"chunks": (3, 2, 4)}}, consolidated=False)
    with h5py.File(tmp_path / "lzf.h5", "w") as file:
        file.create_dataset("t", data=u, compression="lzf", chunks=(3, 2, 4))
    np.savez(tmp_path / "a.npz", t=u)
    np.savez_compressed(tmp_path / "b.npz", t=u)
    torch.save({"t": torch.tensor(u)}, tmp_path / "a.pt")
    return {p.name: p for p in tmp_path.iterdir()}


def _sums(data: Dataset) -> float:
    return float(data.read()["t"].astype(np.float64).sum())


def test_other_processes_read_the_same(formats):
    data = [
        sciml.open(path)["t"].isel(**{"lon": slice(1, 3)} if "nc" in name else {}).map(t=np.float64)
        for name, path in formats.items()
    ]
    data.append(sciml.open(weather(20))["t"])
    expected = [_sums(d) for d in data]
    for copy, original in zip(pickle.loads(pickle.dumps(data)), data):
        assert copy.fingerprint() == original.fingerprint()
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        assert list(pool.map(_sums, data)) == expected


def test_many_threads_read_the_same(formats):
    expected = weather(20)["t"].values
    lazy = xr.open_dataset(formats["4.nc"])
    data = [*(sciml.open(path) for path in formats.values()), sciml.open(lazy)]

    def read(job):
        one, box = job
        return np.array_equal(one.arrays["t"].read(box), expected[box])

    jobs = [(one, box) for box in boxes(expected.shape, 60) for one in data]
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, jobs))
    lazy.close()
