"""`sciml inspect` and `sciml rechunk`: costs agree with counted chunks, numbers and copies with the file."""

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cftime
import h5py
import numpy as np
import pytest
import xarray as xr
from memory_source import in_memory

import sciml
from sciml import _progress
from sciml.__main__ import main
from sciml._inspect import draw, rechunk_command
from sciml.data import DataError, inspect, suggest_chunks
from sciml.data import _copy as copy_module
from sciml.data import _inspect as inspect_module
from sciml.data._chunking import LEAST_BYTES, LIMIT, MOST_BYTES, cost_of_batches, cost_of_rows, trainable
from sciml.data._copy import block_shape, boxes, decodings
from sciml.data._inspect import open_anyhow
from sciml.data._plan import plan

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Each test in a folder of its own, with a fixed width of tables."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")


def series(times: int = 100, chunks=(24, 10, 12), **coords) -> sciml.data.Dataset:
    """u(time, y, x)."""
    values = RNG.random((times, 10, 12), np.float32)
    return in_memory({"u": (("time", "y", "x"), values)}, {"u": chunks}, coords)


def weather(path: str = "weather.nc", chunks=(8, 6, 7), grid=(6, 7)) -> xr.Dataset:
    """A NetCDF file with packed, missing and constant fields, in a calendar without leap years."""
    numbers = np.round(RNG.random((40, *grid)) * 30 + 270, 2)
    numbers[3, 2:4] = np.nan
    times = xr.date_range("2000-02-27", periods=40, freq="6h", calendar="noleap", use_cftime=True)
    fields = {
        "t": (("time", "lat", "lon"), numbers, {"units": "K", "long_name": "temperature"}),
        "p": (("time", "lat", "lon"), RNG.random((40, *grid), np.float32), {"units": "Pa"}),
        "land": (("lat", "lon"), (RNG.random(grid) > 0.5).astype(np.int8), {"flag": "0 sea, 1 land"}),
    }
    coords = {
        "time": times,
        "lat": ("lat", np.linspace(-50, 50, grid[0]), {"units": "degrees_north"}),
        "lon": ("lon", np.arange(grid[1]) * 20.0, {"units": "degrees_east"}),
        "height": ((), 2.0, {"units": "m"}),
        "area": (("lat", "lon"), RNG.random(grid), {"units": "m2"}),
    }
    dataset = xr.Dataset(fields, coords, {"title": "weather", "list": [1, 2]})
    packing = {"dtype": "i2", "scale_factor": 0.01, "add_offset": 280.0, "_FillValue": -32768}
    cut = {"chunksizes": chunks, "zlib": True}
    dataset.to_netcdf(path, encoding={"t": packing | cut, "p": cut}, engine="netcdf4")
    return dataset


def hidden() -> list[str]:
    """What an interrupted write leaves."""
    return [p.name for p in Path().iterdir() if p.name.startswith(".")]


# What reading costs.


def chunks_of(box, chunks) -> set:
    """The chunks that a box lies in."""
    ranges = [range(s.start // c, (s.stop - 1) // c + 1) for s, c in zip(box, chunks)]
    return set(itertools.product(*ranges))


def test_eight_samples_in_a_chunk_are_decoded_for_one():
    data = in_memory({"a": (("sample", "x"), np.zeros((64, 5)))}, {"a": (8, 5)})
    cost = cost_of_rows(plan(data))
    assert cost.amplification == 8 and cost.per_epoch == 8
    assert cost_of_rows(plan(data), {"sample": 2, "x": 5}).amplification == 2
    assert cost_of_rows(plan(in_memory({"a": (("sample", "x"), np.zeros((64, 5)))}))).amplification == 1


def test_windows_of_five_frames_in_chunks_of_24():
    # Of 96 windows, the 4 that begin in the last 4 frames of a chunk lie in two.
    rows = plan(series(100).windows(4, 1))
    two = sum(i // 24 != (i + 4) // 24 for i in range(96))
    assert cost_of_rows(rows).amplification == pytest.approx((96 + two) * 24 / (96 * 5), rel=1e-12)
    assert cost_of_rows(rows).per_epoch == pytest.approx((96 + two) * 24 / 100, rel=1e-12)


@pytest.mark.parametrize("chunks", [(1, 7, 4, 12), (2, 24, 10, 5), (3, 2, 10, 12), (1, 1, 1, 1)])
@pytest.mark.parametrize("windows", [{}, {"inputs": 3}, {"inputs": 2, "targets": 2, "steps": 5, "stride": 2}])
@pytest.mark.parametrize("patches", [{}, {"y": 4, "x": 5}])
def test_cost_of_single_rows_is_that_of_counted_chunks(chunks, windows, patches):
    shape = (4, 30, 10, 12)
    data = in_memory({"u": (("sample", "time", "y", "x"), np.zeros(shape, np.float32))}, {"u": chunks})
    data = data.windows(**windows) if windows else data
    data = data.patches(**patches) if patches else data
    rows = plan(data)
    frames = np.arange(windows.get("inputs", 1) + windows.get("targets", 1)) * windows.get("steps", 1)
    starts = range(0, 30 - int(frames[-1]), windows.get("stride", 1))
    series = [[slice(s + f, s + f + 1) for f in frames] for s in starts] if windows else [[slice(0, 30)]]
    tiles = itertools.product(*(data.tiles.starts)) if data.tiles else [(0, 0)]
    lengths = data.tiles.lengths if data.tiles else (10, 12)
    grids = [tuple(slice(a, a + n) for a, n in zip(start, lengths)) for start in tiles]
    decoded = used = 0
    for sample, times, grid in itertools.product(range(4), series, grids):
        found = set().union(*(chunks_of((slice(sample, sample + 1), t, *grid), chunks) for t in times))
        decoded += len(found) * int(np.prod(chunks))
        used += sum(t.stop - t.start for t in times) * int(np.prod(lengths))
    assert rows.rows == 4 * len(series) * len(grids)
    assert cost_of_rows(rows).amplification == pytest.approx(decoded / used, rel=1e-12)


@pytest.mark.parametrize("windows", [{}, {"inputs": 4}, {"inputs": 2, "steps": 3, "stride": 2}])
@pytest.mark.parametrize("chunks", [(24, 10, 12), (5, 10, 7), (1, 4, 12)])
@pytest.mark.parametrize("pool", [None, 16])
def test_cost_of_batches_is_that_of_counted_chunks(windows, chunks, pool):
    data = series(100, chunks)
    data = data.windows(**windows) if windows else data
    batches = data.batches(8, pool=pool, pad=True)
    cost = cost_of_batches(plan(data), batches.order)
    source = data.sources[0]
    # The pool after the last batch's belongs to the next epoch.
    before = len(source.reads)
    first = batches.from_step(0)
    for _ in range(len(batches)):
        next(first)
    first.close()
    wanted = [tuple((s.start, s.stop) for s in b) for b in _boxes_of_epoch(plan(data), batches.order)]
    made = [tuple((s.start, s.stop) for s in r.slices) for r in source.reads[before:]]
    assert set(wanted) <= set(made)
    decoded = sum(len(chunks_of([slice(*s) for s in b], chunks)) for b in wanted) * int(np.prod(chunks))
    assert cost.per_epoch == pytest.approx(decoded / (100 * 120), rel=1e-12)
    frames = windows.get("inputs", 0) + 1 if windows else 1
    assert cost.amplification == pytest.approx(decoded / (batches.order.rows * frames * 120), rel=1e-12)


def _boxes_of_epoch(rows, order):
    for pool in range(order.pools):
        rects = rows.rects(order.pieces(0, pool))
        for number in range(len(rects.rows)):
            yield rows.box(rows.feeds[0], rects, number)


def test_cost_of_large_data_is_estimated(monkeypatch):
    data = in_memory({"a": (("sample", "x"), np.zeros((5000, 3)))}, {"a": (7, 3)})
    assert cost_of_rows(plan(data)).amplification == pytest.approx(7, rel=1e-12)
    order = data.batches(10, pool=20).order
    assert order.pools == 250 and 1 <= cost_of_batches(plan(data), order).per_epoch < 2


def test_thinning_reads_what_it_leaves_out():
    data = in_memory({"a": (("sample", "x"), np.zeros((64, 12)))}, {"a": (8, 12)})
    assert cost_of_rows(plan(data.isel(x=slice(None, None, 3)))).amplification == 24
    level = in_memory({"a": (("sample", "z", "x"), np.zeros((64, 10, 12)))}, {"a": (1, 10, 12)}).isel(z=3)
    assert cost_of_rows(plan(level)).amplification == 10


def test_what_is_the_same_in_all_rows_costs_nothing():
    arrays = {"u": (("time", "x"), np.zeros((50, 4))), "mask": (("x",), np.zeros(4))}
    data = in_memory(arrays, {"u": (10, 4), "mask": (4,)})
    assert cost_of_rows(plan(data.windows(9))).per_epoch == pytest.approx((41 + 9 * 4) * 10 / 50)


def test_variables_that_make_no_rows_are_left_out():
    arrays = {
        "u": (("time", "y", "x"), np.zeros((50, 4, 5))),
        "v": (("time", "y", "x"), np.zeros((50, 4, 5))),
        "w": (("time", "z"), np.zeros((50, 3))),
        "mask": (("y", "x"), np.zeros((4, 5))),
    }
    assert trainable(in_memory(arrays))[1] == ("mask",)
    data, left_out = trainable(in_memory(arrays), (4, 1))
    assert left_out == ("w",) and list(data.arrays) == ["u", "v", "mask"] and data.window.inputs == 4
    with pytest.raises(ValueError, match="which dimension is time"):
        trainable(in_memory({"a": (("sample", "x"), np.zeros((4, 3)))}), (4, 1))
    ready = in_memory(arrays)["u"].windows(2)
    assert trainable(ready, (4, 1)) == (ready, ())


# Better chunks.


@pytest.mark.parametrize(
    "shape, dims, window, expected",
    [
        # A frame has 64 KiB: two decoded for one used.
        ((1000, 128, 128), ("sample", "y", "x"), None, (2, 128, 128)),
        # Windows of 5 frames: 6 decode 10 on the average.
        ((1000, 128, 128), ("time", "y", "x"), (4, 1), (6, 128, 128)),
        ((20, 1000, 128, 128), ("sample", "time", "y", "x"), (4, 1), (1, 6, 128, 128)),
        # Rows of 256 bytes: 16 KiB.
        ((10000, 64), ("sample", "x"), None, (64, 64)),
        ((100, 50, 4), ("sample", "time", "x"), (1, 1), (21, 50, 4)),
        # More than a million chunks otherwise.
        ((2**28, 64), ("sample", "x"), None, (256, 64)),
        # A frame has 4 MiB, whole; 64 MiB, cut to 1 MiB.
        ((10, 1024, 1024), ("sample", "y", "x"), None, (1, 1024, 1024)),
        ((10, 4096, 4096), ("sample", "y", "x"), None, (1, 64, 4096)),
        ((3, 5), ("sample", "x"), None, (3, 5)),
    ],
)
def test_suggestions(shape, dims, window, expected):
    values = np.broadcast_to(np.zeros((), np.float32), shape)
    data = in_memory({"u": (dims, values)})
    chunks = suggest_chunks(data, window)
    assert tuple(chunks[d] for d in dims) == expected
    cost = cost_of_rows(plan(trainable(data, window)[0]), chunks)
    size = 4 * int(np.prod(expected))
    assert size <= MOST_BYTES and (cost.amplification <= LIMIT or size < 2 * LEAST_BYTES or shape[0] > 10**8)


def test_patches_are_chunks():
    data = in_memory({"u": (("sample", "y", "x"), np.zeros((10, 256, 256), np.float32))}).patches(y=128, x=64)
    assert suggest_chunks(data) == {"sample": 1, "y": 128, "x": 64} | {"sample": 2}


@pytest.mark.parametrize(
    "shape, chunks, window, reasons",
    [
        ((100, 64, 64), (1, 64, 64), None, []),
        ((100, 64, 64), (2, 64, 64), None, []),
        ((100, 64, 64), (20, 64, 64), None, ["single rows decode 20 times what they use; sciml's shuffled batches"]),
        # No chunk of 16 KiB is much better.
        ((1000, 8, 8), (64, 8, 8), None, []),
        ((20000, 8), (4, 8), None, ["chunks of 0.125 KiB are small"]),
        ((8, 1200, 1200), (4, 1200, 1200), None, ["single rows decode 4 times", "chunks of 22 MiB are large"]),
        ((100, 64, 64), None, None, []),
        ((100, 64, 64), (6, 64, 64), (4, 1), []),
    ],
)
def test_reasons_for_other_chunks(shape, chunks, window, reasons):
    dims = ("sample" if window is None else "time", "y", "x")[: len(shape)]
    data = in_memory({"u": (dims, np.zeros(shape, np.float32))}, {"u": chunks} if chunks else {})
    found = inspect(data, window, 4, seconds=0.1).reading.suggestion.reasons
    assert len(found) == len(reasons) and all(f.startswith(r) for f, r in zip(found, reasons))


@pytest.mark.parametrize("window", [None, (4, 1), (12, 6)])
def test_what_is_suggested_needs_no_better(window):
    weather(chunks=(40, 2, 3))
    data = sciml.open("weather.nc")["p"]
    before = inspect(data, window, seconds=0.1).reading
    assert before.single.amplification > LIMIT
    main(["rechunk", "weather.nc", "again.nc", *(["--window", f"{window[0]},{window[1]}"] if window else [])])
    after = inspect(sciml.open("again.nc")["p"], window, seconds=0.1).reading
    assert after.suggestion.reasons == () and after.single.per_epoch <= before.single.per_epoch


# What there is.


def test_variables_and_their_bytes():
    weather()
    report = inspect(sciml.open("weather.nc"), seconds=0.1)
    assert report.formats == ("NetCDF-4",) and report.files == 1
    assert report.disk == Path("weather.nc").stat().st_size
    t = report.variables["t"]
    assert t.dims == ("time", "lat", "lon") and t.shape == (40, 6, 7) and t.chunks == (8, 6, 7)
    assert (t.stored_dtype, t.dtype, t.units, t.codec) == (np.int16, np.float32, "K", "shuffle+gzip")
    with h5py.File("weather.nc") as file:
        assert t.stored == file["t"].id.get_storage_size() and t.ratio == 40 * 42 * 4 / t.stored
    assert report.variables["land"].chunks is None and report.variables["land"].codec == ""
    assert report.reading.left_out == ("land",)


@pytest.mark.parametrize("format", ["zarr", "npz", "npy", "netcdf3"])
def test_bytes_in_other_formats(format):
    values = np.zeros((100, 30), np.float32)
    dataset = xr.Dataset({"u": (("sample", "x"), values)})
    path = Path(f"u.{format}")
    if format == "zarr":
        dataset.to_zarr(path, consolidated=False, encoding={"u": {"chunks": (10, 30)}})
        stored = sum(p.stat().st_size for p in (path / "u" / "c").rglob("*") if p.is_file())
    elif format == "netcdf3":
        dataset.to_netcdf(path, format="NETCDF3_64BIT", engine="netcdf4")
        stored = values.nbytes
    elif format == "npz":
        np.savez_compressed(path, u=values)
        stored = None
    else:
        np.save(path, values)
        stored = values.nbytes
    report = inspect(sciml.open(path, absent="fill"), seconds=0.1)
    (found,) = report.variables.values()
    if format == "npz":
        assert 0 < found.stored < values.nbytes and found.codec == "zip" and found.chunks is None
    else:
        assert found.stored == pytest.approx(stored, abs=2000) and (found.ratio or 0) > 0


def test_bytes_of_parts_and_of_several_files():
    for number in range(3):
        with h5py.File(f"part_{number}.h5", "w") as file:
            file.create_dataset("u", data=np.zeros((10, 8)), chunks=(5, 8))
    report = inspect(sciml.open("part_*.h5"), seconds=0.1)
    assert report.files == 3 and report.variables["u"].stored == 3 * 10 * 8 * 8
    half = inspect(sciml.open("part_*.h5").isel(dim_1=slice(0, 4)), seconds=0.1)
    assert half.variables["u"].stored == 3 * 10 * 4 * 8


def test_numbers_are_exact():
    expected = weather()
    found = inspect(sciml.open("weather.nc"), seconds=0.1).numbers
    t = expected["t"].values.astype(np.float32)
    assert found["t"].missing == pytest.approx(2 * 7 / t.size, rel=1e-12) and found["t"].read == 1
    assert found["t"].mean == pytest.approx(np.nanmean(t), rel=1e-6)
    assert found["t"].min == pytest.approx(np.nanmin(t)) and found["t"].max == pytest.approx(np.nanmax(t))
    assert found["land"].missing == 0 and found["land"].mean == pytest.approx(expected["land"].values.mean())


def test_numbers_that_are_missing_infinite_or_complex():
    arrays = {n: (("sample", "x"), np.ones((4, 3), t)) for n, t in zip("abcd", "fffF")}
    arrays["a"][1][:] = np.nan
    arrays["b"][1][2, 1] = np.inf
    report = inspect(in_memory(arrays), seconds=0.1)
    assert report.numbers["a"].missing == 1 and np.isnan(report.numbers["a"].mean)
    assert "infinite at sample 2, x 1" in report.numbers["b"].problem and report.problems
    assert report.numbers["c"].max == 1 and "d" not in report.numbers


@pytest.mark.parametrize("mark, dtype", [(9.969209968386869e36, "f4"), (-9999, "i2"), (1e20, "f8"), (290.0, "f4")])
def test_marks_of_missing_numbers_that_are_not_declared(mark, dtype, capsys):
    values = np.arange(12, dtype=dtype).reshape(4, 3)
    values[1, 2] = mark
    with h5py.File("marks.h5", "w") as file:
        file["u"] = values
    assert main(["inspect", "marks.h5"]) == 0
    assert ("may mark missing numbers" in capsys.readouterr().out) == (mark != 290)


def test_numbers_of_large_data_are_of_a_bounded_sample(monkeypatch):
    data = in_memory({"u": (("sample", "x"), RNG.random((400, 2**14), np.float32))}, {"u": (4, 2**14)})
    monkeypatch.setattr(inspect_module, "WHOLE_BYTES", 2**20)
    monkeypatch.setattr(inspect_module, "SAMPLE_BYTES", 2**23)
    found = inspect_module._numbers(data, False)["u"]
    read = sum(int(np.prod(r.shape)) for r in data.sources[0].reads)
    assert found.read == pytest.approx(read / (400 * 2**14)) and 4 * read <= 2**23 * 1.5
    assert found.mean == pytest.approx(0.5, abs=0.01)


def test_coordinates():
    weather()
    coords = inspect(sciml.open("weather.nc"), seconds=0.1).coords
    assert (coords["lat"].first, coords["lat"].last, coords["lat"].step) == (-50, 50, 20)
    assert coords["lat"].units == "degrees_north" and coords["height"].first == 2 and coords["height"].dims == ()
    assert coords["area"].first < coords["area"].last and coords["area"].step is None


# Times.


def test_times_with_gaps():
    hours = np.arange(100)
    hours[50:] += 7
    hours[80:] += 1
    times = np.datetime64("2000-01-01", "ns") + hours * np.timedelta64(1, "h")
    found = inspect(series(time=times), seconds=0.1).times
    assert (found.first, found.last, found.calendar) == (times[0], times[-1], "standard")
    assert found.report.step == 3600 and (found.shortest, found.longest) == (3600, 8 * 3600)
    assert found.report.gaps == (50, 80) and found.places["gaps"] == (times[50], times[80])


def test_times_of_other_calendars_and_of_plain_numbers():
    weather()
    found = inspect(sciml.open("weather.nc"), seconds=0.1).times
    assert (
        found.calendar == "noleap" and found.first == cftime.DatetimeNoLeap(2000, 2, 27) and found.report.step == 21600
    )
    assert not found.report.gaps
    plain = inspect(series(time=np.arange(100) * 0.5), seconds=0.1).times
    assert plain.calendar == "" and plain.report.step == 0.5
    assert inspect(series(), seconds=0.1).times is None


def faulty(path="faulty.nc") -> None:
    """Times that repeat and run backwards."""
    hours = np.arange(100)
    hours[40], hours[60] = 39, 20
    values = RNG.random((100, 4), np.float32)
    time = ("time", hours, {"units": "hours since 2000-01-01"})
    xr.Dataset({"u": (("time", "x"), values)}, {"time": time}).to_netcdf(path, engine="netcdf4")


def test_a_file_that_open_refuses_for_its_times_is_described(capsys):
    faulty()
    with pytest.raises(DataError, match="repeats"):
        sciml.open("faulty.nc")
    data, reason = open_anyhow("faulty.nc")
    assert "repeats the one before" in reason and data.dims == {"time": 100, "x": 4}
    report = inspect(data, seconds=0.1).times.report
    assert report.duplicates == (40,) and report.reversed == (60,)
    assert main(["inspect", "faulty.nc"]) == 1
    out = capsys.readouterr().out
    assert "times like the one before: 1, at 2000-01-02 15:00" in out and "sciml.open refuses this file" in out
    assert "times before the one before: 1, at 2000-01-01 20:00" in out and "sciml rechunk" not in out
    faulty("other.nc")
    with pytest.raises(DataError, match="faulty.nc"):
        open_anyhow(["faulty.nc", "other.nc"])
    assert main(["rechunk", "faulty.nc", "out.nc"]) == 1 and not Path("out.nc").exists()


# Reading.


def test_rates_memory_and_mixing():
    data = in_memory({"a": (("sample", "x"), np.zeros((12, 5)))})
    reading = inspect(data).reading
    assert reading.batch == 12 and reading.rows == 12 and reading.kept and reading.mixing_radius == 12
    assert reading.per_second > 0 and reading.memory == data.batches(12).memory and not reading.problem
    windows = inspect(series(), (4, 1), 8, seconds=0.1).reading
    assert windows.window == (4, 1) and windows.rows == 96 and windows.batch == 8


def test_measuring_takes_bounded_time():
    class Slow(type(in_memory({}).sources[0])):
        def read(self, chunk):
            time.sleep(0.05)
            return super().read(chunk)

    source = Slow({"a": (("sample", "x"), np.broadcast_to(np.zeros((), np.float32), (400, 2**16)))})
    reading = inspect_module._reading(sciml.open(source), None, 4, 0.3)
    assert 0.3 <= reading.seconds < 2


def test_data_without_rows_is_described_all_the_same():
    report = inspect(in_memory({"a": ((), np.float64(3))}), seconds=0.1)
    assert "no dimensions" in report.reading and report.numbers["a"].mean == 3
    with pytest.raises(ValueError, match="spans 101 entries"):
        inspect(series(), (100, 1))
    with pytest.raises(ValueError, match="batch must be above 0"):
        inspect(series(), batch=0)


def test_batches_that_need_too_much_memory_are_not_tried(monkeypatch):
    monkeypatch.setattr(inspect_module, "TRIED_BYTES", 1000)
    assert inspect(series(), seconds=0.1).reading.per_second is None


# Writing again.


@pytest.mark.parametrize("suffix", [".nc", ".h5", ".zarr"])
def test_rechunking_keeps_everything(suffix, capsys):
    weather()
    out = f"again{suffix}"
    assert main(["rechunk", "weather.nc", out, "--chunks", "time=5,lon=3"]) == 0
    shown = capsys.readouterr().out
    assert "int16 to float32" in shown and "8 x 6 x 7" in shown and "5 x 6 x 3" in shown and hidden() == []
    options = {"engine": "zarr", "consolidated": False} if suffix == ".zarr" else {"engine": "netcdf4"}
    with xr.open_dataset("weather.nc") as before, xr.open_dataset(out, **options) as after:
        # xarray unpacks to float64.
        xr.testing.assert_allclose(before.load(), after.load(), rtol=1e-7)
        assert set(before.coords) == set(after.coords) and after.attrs["title"] == "weather"
        for name in (*before.data_vars, "lat", "area", "height"):
            assert {k: after[name].attrs[k] for k in before[name].attrs} == before[name].attrs
        assert after.time.dt.calendar == "noleap" and after["p"].dtype == np.float32
    again, data = sciml.open(out), sciml.open("weather.nc")
    assert {n: a.chunks for n, a in again.arrays.items()} == {"t": (5, 6, 3), "p": (5, 6, 3), "land": (6, 3)}
    for name, values in data.read().items():
        np.testing.assert_array_equal(again[name].read()[name], values)


def test_rechunking_joins_files_and_prints_the_same_line_as_inspect(capsys):
    values = RNG.random((300, 4096), np.float32)
    for number in range(3):
        with h5py.File(f"run {number}.h5", "w") as file:
            file.create_dataset("u", data=values[100 * number :][:100], chunks=(50, 4096))
    assert main(["inspect", "run *.h5"]) == 0
    line = capsys.readouterr().out.strip().splitlines()[-1].strip()
    assert line == "sciml rechunk 'run *.h5' run_rechunked.h5 --chunks sample=2"
    assert main(["rechunk", "run *.h5", "run_rechunked.h5"]) == 0
    with h5py.File("run_rechunked.h5") as file:
        np.testing.assert_array_equal(file["u"][...], values)
        assert file["u"].chunks == (2, 4096)


def test_rechunking_refuses(capsys):
    weather()
    weather("there.nc")
    before = Path("there.nc").read_bytes()
    os.symlink("weather.nc", "link.nc")

    def refusal(*arguments) -> str:
        assert main(["rechunk", *arguments]) == 1
        message = capsys.readouterr().err
        assert len(message.splitlines()) == 1
        return message

    assert "is read itself" in refusal("weather.nc", "weather.nc", "--overwrite")
    assert "is read itself" in refusal("weather.nc", "link.nc", "--overwrite")
    assert "exists" in refusal("weather.nc", "there.nc") and Path("there.nc").read_bytes() == before
    assert "no dimension depth" in refusal("weather.nc", "a.nc", "--chunks", "depth=3")
    assert "suffix" in refusal("weather.nc", "a.txt")
    assert "no file or folder" in refusal("absent.nc", "a.nc")
    Path("text.nc").write_text("no data")
    assert "text.nc" in refusal("text.nc", "a.nc")
    assert not Path("a.nc").exists() and hidden() == []
    assert main(["rechunk", "weather.nc", "there.nc", "--overwrite"]) == 0
    assert Path("there.nc").read_bytes() != before


def test_chunks_of_zeros_are_written():
    values = np.zeros((40, 5), np.float32)
    values[:10] = 1
    sciml.data.write(in_memory({"u": (("sample", "x"), values)}), "zeros.zarr", chunks={"sample": 10})
    np.testing.assert_array_equal(sciml.open("zeros.zarr").read()["u"], values)


def lies_across(chunks=(60, 2, 3), shape=(60, 20, 30)) -> np.ndarray:
    """A file of series at single places, for frames to be cut from."""
    values = RNG.random(shape, np.float32)
    with h5py.File("across.h5", "w") as file:
        file.create_dataset("u", data=values, chunks=chunks)
        file["u"].attrs["units"] = "m"
    return values


@pytest.mark.parametrize("target", [{"sample": 1}, {"dim_1": 1, "dim_2": 1}, {"sample": 7, "dim_1": 3}, {"dim_2": 4}])
@pytest.mark.parametrize("chunks", [(60, 2, 3), (1, 20, 30), (8, 5, 30)])
def test_chunks_that_lie_across_are_decoded_twice_at_most(chunks, target, monkeypatch):
    # Blocks of 4 KiB, of a variable of 144 KiB.
    monkeypatch.setattr(copy_module, "BLOCK_BYTES", 2**12)
    monkeypatch.setattr(copy_module, "MOST_BYTES", 2**12)
    values = RNG.random((60, 20, 30), np.float32)
    data = in_memory({"u": (("sample", "dim_1", "dim_2"), values)}, {"u": chunks})
    sciml.data.write(data, "out.h5", chunks=target)
    with h5py.File("out.h5") as file:
        np.testing.assert_array_equal(file["u"][...], values)
        assert file["u"].chunks == tuple(target.get(d, n) for d, n in data.dims.items())
    reads = [r.slices for r in data.sources[0].reads]
    everything = tuple(slice(0, n) for n in values.shape)
    assert sum(len(chunks_of(box, chunks)) for box in reads) <= 2 * len(chunks_of(everything, chunks))
    # Blocks are no larger than is allowed, or one chunk of either side.
    cut = [target.get(d, n) for d, n in data.dims.items()]
    most = max(2**12, 4 * int(np.prod(chunks)), 4 * int(np.prod(cut)))
    assert max(4 * int(np.prod([s.stop - s.start for s in box])) for box in reads) <= most
    assert hidden() == []


def test_copies_across_keep_names_and_attributes(monkeypatch):
    monkeypatch.setattr(copy_module, "BLOCK_BYTES", 2**12)
    monkeypatch.setattr(copy_module, "MOST_BYTES", 2**12)
    values = lies_across()
    sciml.data.write(sciml.open("across.h5"), "out.nc", chunks={"sample": 1})
    with xr.open_dataset("out.nc", engine="netcdf4") as found:
        np.testing.assert_array_equal(found["u"].values, values)
        assert found["u"].dims == ("sample", "dim_1", "dim_2") and found["u"].attrs["units"] == "m"


def test_blocks_hold_whole_chunks_and_cover_all():
    (array,) = in_memory({"u": (("t", "y", "x"), np.zeros((60, 20, 30)))}, {"u": (8, 20, 30)}).arrays.values()
    block = block_shape(array, (3, 7, 30))
    assert block == (60, 20, 30) and decodings(array, block) == 1
    assert decodings(array, (3, 20, 30)) == 25 / 8  # five of the twenty blocks lie in two of the eight chunks
    covered = np.zeros((5, 7), int)
    for box in boxes((5, 7), (2, 3)):
        covered[box] += 1
    assert (covered == 1).all()


CHILD = """
import sys, time
from sciml.data import _copy
from sciml._inspect import rechunk_command

real = _copy.boxes
def slow(shape, block):
    for box in real(shape, block):
        yield box
        print("block", flush=True)
        time.sleep(0.2)
_copy.boxes, _copy.BLOCK_BYTES, _copy.MOST_BYTES = slow, 2**12, 2**12
rechunk_command(sys.argv[1], sys.argv[2], {"sample": 1})
"""


@pytest.mark.parametrize("chunks", [(1, 20, 30), (60, 2, 3)])
def test_killed_rechunking_leaves_no_file_and_can_be_run_again(chunks):
    values = lies_across(chunks)
    child = subprocess.Popen([sys.executable, "-c", CHILD, "across.h5", "out.h5"], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "block\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert not Path("out.h5").exists() and hidden() == [".out.h5.partial"]
    assert rechunk_command("across.h5", "out.h5", {"sample": 1}) == 0
    with h5py.File("out.h5") as file:
        np.testing.assert_array_equal(file["u"][...], values)
    assert hidden() == []


# Writing more than this to one file fails, as on a full disk.
LIMITED = """
import resource, signal, sys
from sciml.__main__ import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize("chunks, suffix", [((1, 20, 30), ".h5"), ((60, 2, 3), ".h5"), ((60, 2, 3), ".zarr")])
def test_full_disk_leaves_nothing(chunks, suffix):
    lies_across(chunks)

    limit = 3000 if suffix == ".zarr" else 50_000
    command = [
        sys.executable,
        "-c",
        LIMITED,
        str(limit),
        "rechunk",
        "across.h5",
        f"out{suffix}",
        "--chunks",
        "dim_2=15",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and done.stderr.startswith("sciml: no space left to write")
    assert len(done.stderr.splitlines()) == 1 and "Nothing was kept" in done.stderr
    assert not Path(f"out{suffix}").exists() and hidden() == []


def test_damaged_source_leaves_nothing(capsys):
    lies_across((10, 20, 30))
    with h5py.File("across.h5") as file:
        end = file["u"].id.get_chunk_info(5).byte_offset + 100
    weather()
    data = bytearray(Path("weather.nc").read_bytes())
    with h5py.File("weather.nc") as file:
        place = file["p"].id.get_chunk_info(2)
    data[place.byte_offset + 20 : place.byte_offset + place.size] = bytes(place.size - 20)
    Path("damaged.nc").write_bytes(data)
    assert end and main(["rechunk", "damaged.nc", "out.nc"]) == 1
    assert "corrupt" in capsys.readouterr().err and not Path("out.nc").exists() and hidden() == []
    assert main(["inspect", "damaged.nc"]) == 1
    out = capsys.readouterr().out
    assert "chunk at (16, 0, 0) of 'p' is corrupt" in out and "batches fail" in out and "degrees_north" in out


# The command line.


def test_what_inspect_prints(capsys):
    weather(chunks=(40, 60, 70), grid=(60, 70))
    assert main(["inspect", "weather.nc", "--window", "4,1", "--batch", "8", "--figure", "a.png"]) == 0
    out = capsys.readouterr().out
    for words in (
        "weather.nc: NetCDF-4",
        "int16 as float32",
        "0.08333%",
        "40 times in 'time', 2000-02-27 00:00 to 2000-03-08 18:00, noleap calendar",
        "step: 6 h",
        "no gaps",
        "batches of 8 out of 36 windows of 4 + 1 frames",
        "sciml's shuffled batches",
        "rows/s",
        "an exact permutation",
        "single rows decode 8 times what they use",
        "sciml rechunk weather.nc weather_rechunked.nc --chunks time=6",
    ):
        assert words in out, words
    tables = [line for line in out.splitlines() if not line.strip().startswith("sciml")]
    assert max(map(len, tables)) <= 100
    assert Path("a.png").read_bytes().startswith(b"\x89PNG") and hidden() == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["inspect", "a.nc", "--window", "four"],
        ["inspect", "a.nc", "--window", "4,1,1"],
        ["inspect", "a.nc", "--window", "0,1"],
        ["inspect", "a.nc", "--batch", "0"],
        ["inspect", "a.nc", "--wind", "4"],
        ["inspect"],
        ["rechunk", "a.nc"],
        ["rechunk", "a.nc", "b.nc", "--chunks", "time"],
        ["rechunk", "a.nc", "b.nc", "--chunks", "time=0"],
        ["rechunk", "a.nc", "b.nc", "--format", "csv"],
    ],
)
def test_mistakes_in_what_was_typed_exit_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2 and "usage" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["absent.nc"], "no file or folder 'absent.nc'"),
        (["absent*.nc"], "no file matches"),
        (["text.nc"], "text.nc"),
        (["weather.nc", "--window", "50"], "a window spans 51 entries"),
    ],
)
def test_errors_are_one_line_and_exit_1(arguments, said, capsys):
    weather()
    Path("text.nc").write_text("no data")
    assert main(["inspect", *arguments]) == 1
    message = capsys.readouterr().err
    assert said in message and message.startswith("sciml: ") and len(message.splitlines()) == 1


# The picture.


@pytest.mark.parametrize(
    "dims, shape",
    [
        (("sample", "y", "x"), (4, 6, 7)),
        (("sample", "time", "x"), (4, 5, 6)),
        (("sample", "time", "level", "y", "x"), (2, 3, 2, 700, 1300)),
        (("time",), (50,)),
        (("sample",), (1,)),
        (("sample", "x"), (3, 9)),
        ((), ()),
    ],
)
def test_pictures_of_all_kinds_of_arrays(dims, shape):
    values = RNG.random(shape)
    data = in_memory({"u": (dims, values), "empty": (dims, values * np.nan), "same": (dims, values * 0 + 3)})
    draw(data, "picture.png")
    assert Path("picture.png").read_bytes().startswith(b"\x89PNG") and hidden() == []


def test_picture_has_coordinates_and_units(monkeypatch):
    weather()
    from matplotlib.figure import Figure

    drawn = []
    real = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (drawn.append(self), real(self, *a, **k))[1])
    draw(sciml.open("weather.nc"), "picture.png")
    panels = [p for p in drawn[0].axes if p.get_title()]
    assert [p.get_title().splitlines()[0] for p in panels] == ["t", "p", "land"]
    assert panels[0].get_xlabel() == "lon [degrees_east]" and panels[0].get_ylabel() == "lat [degrees_north]"
    assert "time 2000-02-27 00:00" in panels[0].get_title()
    assert panels[0].get_xlim() == (-10, 130) and panels[0].get_ylim() == (-60, 60)


def test_names_are_neither_markup_nor_formulas(capsys):
    with h5py.File("odd.h5", "w") as file:
        file["[red]u$^{$"] = np.ones((4, 3, 3))
        file["[red]u$^{$"].attrs["units"] = "[bold]$m$"
    assert main(["inspect", "odd.h5", "--figure", "odd.png"]) == 0
    out = capsys.readouterr().out
    assert "[red]u$^{$" in out and "[bold]$m$" in out and Path("odd.png").exists()


def test_large_fields_are_drawn_in_part(monkeypatch):
    from sciml import _inspect

    monkeypatch.setattr(_inspect, "NUMBERS", 100)
    data = in_memory({"u": (("sample", "y", "x"), np.ones((2, 40, 50)))})
    draw(data, "picture.png")
    assert [r.shape for r in data.sources[0].reads] == [(1, 10, 10)]


def test_picture_of_no_numbers():
    with pytest.raises(ValueError, match="no variable of real numbers"):
        draw(in_memory({"z": (("sample",), np.ones(3, complex))}), "picture.png")
    assert not Path("picture.png").exists()


# Progress.


def test_bars_only_on_a_terminal(monkeypatch, capsys):
    assert list(_progress.track([1, 2], "counting", True)) == [1, 2]
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    assert list(_progress.track([1, 2], "counting", False)) == [1, 2]
    assert capsys.readouterr().err == ""
    with _progress.bars(True) as begin:
        begin("counting", 2)(2)
    assert "counting" in capsys.readouterr().err
