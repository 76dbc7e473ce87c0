"""Tables in text files, and trajectories from them."""

import h5py
import numpy as np
import pandas as pd
import pytest
import xarray as xr

import sciml
from sciml import ode
from sciml.data import DataError


def opened(tmp_path, text, name="table.csv"):
    (tmp_path / name).write_text(text)
    return sciml.open(tmp_path / name)


def test_a_table_with_times(tmp_path):
    data = opened(tmp_path, "time, x ,y\n0,1,\n0.5,2,NA\n\n2.0,-3e1,7\n")
    assert data.dims == {"time": 3}
    np.testing.assert_array_equal(data.coords["time"].values, [0, 0.5, 2])
    read = data.read()
    np.testing.assert_array_equal(read["x"], [1, 2, -30])
    np.testing.assert_array_equal(read["y"], [np.nan, np.nan, 7])


@pytest.mark.parametrize(
    "name, text, names",
    [
        ("a.tsv", "1900\t30\t4\n1901\t47.2\t6.1\n", ["column_1", "column_2", "column_3"]),
        ("a.txt", "# made by hand\n% trial t angle\n 0 0.1 1.5\n 0  0.2 1.4\n", ["trial", "t", "angle"]),
        ("a.txt", "% o v\n 0 0.1 1.5\n", ["column_1", "column_2", "column_3"]),
        ("a.dat", 'a;"b;c"\n1;2\n', ["a", "b;c"]),
        ("a.csv", "a;b\n1,5;x\n", ["a", "b"]),
    ],
)
def test_names_and_separators(tmp_path, name, text, names):
    data = opened(tmp_path, text, name)
    found = [*data.coords, *data.variables] if hasattr(data, "variables") else [*data.coords, *data.read()]
    assert sorted(found) == sorted(names)


def test_decimal_commas_between_semicolons(tmp_path):
    read = opened(tmp_path, "a;b;c\n-1,5;2,5e-1;1,2,3\n2;,5;\n").to_xarray()
    np.testing.assert_array_equal(read["a"], [-1.5, 2])
    np.testing.assert_array_equal(read["b"], [0.25, 0.5])
    assert read["c"].attrs["flag_meanings"] == "missing 1,2,3"


def test_words_are_numbered(tmp_path):
    data = opened(tmp_path, "id,x\nrat 2,1\nape,2\nrat 2,3\n").to_xarray()
    np.testing.assert_array_equal(data["id"], [1, 0, 1])
    assert data["id"].attrs["flag_meanings"] == "ape rat_2"


def test_dates_are_days(tmp_path):
    data = opened(
        tmp_path, "id,when,x\na,2024-03-01 12:00,1\na,2024-02-28,2\nb,,3\nb,2024-02-28T06:00:30.5,4\n"
    ).to_xarray()
    np.testing.assert_allclose(data["when"], [2.5, 0, np.nan, 0.25 + 30.5 / 86400], rtol=1e-12)
    assert data["when"].attrs["units"] == "days since 2024-02-28 00:00:00"
    zones = opened(tmp_path, "when,x\n2024-03-01T00:30:00+02:00,1\n2024-02-29T22:00Z,2\n2024-02-29T20:00-0500,3\n")
    np.testing.assert_allclose(zones.to_xarray()["when"], [0.5 / 24, 0, 3 / 24], rtol=1e-12)
    # No date, but words.
    assert "flag_meanings" in opened(tmp_path, "when,x\n2024-02-30,1\n2024-03-01,2\n").to_xarray()["when"].attrs


@pytest.mark.parametrize(
    "text, message",
    [
        ("a,b\n1,2\n3\n", "line 3 has 1 cells, expected 2"),
        ("a,a\n1,2\n", "called 'a'"),
        ("# nothing\n", "holds no rows"),
        ("a,b\n", "holds no rows below the names a, b"),
        ("a,b\n1,\xff\n".encode("latin-1"), "not a text file"),
    ],
)
def test_bad_tables(tmp_path, text, message):
    (tmp_path / "a.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=message):
        sciml.open(tmp_path / "a.csv")


def test_tables_of_a_folder(tmp_path):
    for i in range(2):
        (tmp_path / f"{i}.csv").write_text(f"x,y\n{i},1\n")
    (tmp_path / "notes.txt").write_text("about them")
    assert sciml.open(tmp_path, along="row").read()["x"].ravel().tolist() == [0, 1]


def test_trajectories_of_a_table(tmp_path):
    data = opened(tmp_path, "subject,t,x,u\nb,0,5,1\na,2,3,\na,0,1,0\nb,1,,4\nb,2,6,5\n")
    found = ode.from_dataset(data, ["x"], time="t", by="subject", inputs=["u"])
    np.testing.assert_array_equal(found.ts, [[0, 2, 2], [0, 1, 2]])
    np.testing.assert_array_equal(found.ys[..., 0], [[1, 3, np.nan], [5, np.nan, 6]])
    np.testing.assert_array_equal(ode.lengths(found), [2, 3])
    first, second = (ode.take(found.args, i) for i in range(2))
    assert float(first(1.0)[0]) == 0 and float(second(0.5)[0]) == 2.5 and float(second(9.0)[0]) == 5


def test_inputs_of_a_table_are_those_of_a_mechanism_and_of_a_network(tmp_path):
    """x' = heat + 2 cold, with rows at the same time, of which the last counts."""
    table = opened(tmp_path, "run,t,x,cold,heat\na,0,1,0,1\na,1,2,1,1\na,1,2,0,3\na,2,,0,3\nb,0,0,2,0\nb,2,,2,0\n")
    data = ode.from_dataset(table, ["x"], time="t", by="run", inputs=["cold", "heat"], held=True)
    model = ode.mechanism(lambda x, heat, cold: heat + 2 * cold, ("x",), ode.Steps(exact=True, rtol=1e-8))
    found = np.asarray(ode.predicted(model, data))[..., 0]
    np.testing.assert_allclose(found, [[1, 2, 2, 5], [0, 8, 8, 8]], rtol=1e-4)
    one = model(data.y0[1], data.ts[1], ode.take(data.args, 1))
    np.testing.assert_allclose(one[:, 0], found[1], rtol=1e-10)
    network = ode.ODE(ode.Network(lambda seen: seen[1:2] * 2 + seen[2:], inputs=2), ode.Steps(exact=True, rtol=1e-8))
    np.testing.assert_allclose(np.asarray(ode.predicted(network, data))[..., 0], found, rtol=1e-4)
    renamed = ode.from_dataset(table, ["x"], time="t", by="run", inputs={"heat": "heat", "cold": "cold"}, held=True)
    np.testing.assert_array_equal(np.asarray(ode.predicted(model, renamed))[..., 0], found)
    wind = ode.from_dataset(table, ["x"], time="t", by="run", inputs={"wind": "heat"}, held=True)
    np.testing.assert_array_equal(ode.take(wind.args, 0).columns()["wind"].values[:3], [1, 3, 3])
    other = ode.mechanism(lambda x, wind: wind, ("x",))
    with pytest.raises(ValueError, match="asks for wind.*got cold, heat"):
        ode.predicted(other, data)


def test_trajectories_of_a_grid_and_of_dates():
    values = np.arange(6.0).reshape(2, 3)
    grid = xr.Dataset({"x": (("sample", "time"), values)}, {"time": [0.0, 1.0, 3.0]})
    found = ode.from_dataset(grid, ["x"])
    np.testing.assert_array_equal(found.ys[..., 0], values)
    np.testing.assert_array_equal(found.ts, [[0, 1, 3]] * 2)
    dates = xr.Dataset({"x": ("time", [1.0, 2.0])}, {"time": np.array(["2001-01-01", "2001-01-04"], "M8[ns]")})
    np.testing.assert_array_equal(ode.from_dataset(dates, ["x"]).ts, [[0, 3]])


NONE = np.nan
PADDED = {
    "clock": [[0.0, 1, 3], [2, 4, NONE]],
    "x": [[1, 2, NONE], [4, 5, NONE]],
    "u": [[0.0, 1, 2], [3, 5, NONE]],
}


def hdf5(path):
    with h5py.File(path, "w") as file:
        for name, values in PADDED.items():
            file[name] = np.array(values)


@pytest.mark.parametrize(
    "name, write",
    [
        ("a.nc", lambda path: padded().to_netcdf(path)),
        ("a.zarr", lambda path: padded().to_zarr(path, zarr_format=2)),
        ("a.h5", hdf5),
    ],
)
def test_trajectories_on_two_axes_may_be_padded(name, write, tmp_path):
    """Where there is no time there is no row, of inputs neither."""
    write(tmp_path / name)
    found = ode.from_dataset(sciml.open(tmp_path / name), ["x"], time="clock", inputs=["u"])
    np.testing.assert_array_equal(found.ts, [[0, 1, 3], [2, 4, 4]])
    np.testing.assert_array_equal(found.ys[..., 0], [[1, 2, NONE], [4, 5, NONE]])
    np.testing.assert_allclose([float(ode.take(found.args, 1)(t)[0]) for t in (3.0, 9.0)], [4, 5])


def padded():
    return xr.Dataset({name: (("run", "step"), np.array(values)) for name, values in PADDED.items()})


def test_several_data_sets_follow_each_other(tmp_path):
    """Files with a trajectory each, and dates that count from the first of all."""
    made = [
        opened(tmp_path, f"when,x,u\n2024-03-0{day},{day},0\n2024-03-0{day + day},7,{day}\n", f"{day}.csv")
        for day in (2, 1)
    ]
    found = ode.from_dataset(made, ["x"], time="when", inputs=["u"])
    np.testing.assert_array_equal(found.ts, [[1, 3], [0, 1]])
    np.testing.assert_array_equal(found.ys[..., 0], [[2, 7], [1, 7]])
    np.testing.assert_allclose([float(ode.take(found.args, k)(t)[0]) for k, t in ((0, 2.0), (1, 0.5))], [1, 0.5])
    with pytest.raises(ValueError, match="no variable 'v'"):
        ode.from_dataset(made, ["v"], time="when")


def test_groups_of_a_file_are_trajectories(tmp_path):
    with h5py.File(tmp_path / "runs.h5", "w") as file:
        for run, count in enumerate((3, 2)):
            file[f"run_{run}/t"], file[f"run_{run}/x"] = np.arange(count), np.arange(count) + 10.0 * run
    groups = [sciml.open(tmp_path / "runs.h5", group=f"run_{run}") for run in range(2)]
    found = ode.from_dataset(groups, ["x"], time="t")
    np.testing.assert_array_equal(found.ts, [[0, 1, 2], [0, 1, 1]])
    np.testing.assert_array_equal(found.ys[..., 0], [[0, 1, 2], [10, 11, np.nan]])


@pytest.mark.parametrize("unit", ["days", "hours"])
def test_dates_on_two_axes(unit, tmp_path):
    """As NetCDF has them, numbers of days or hours since one of them."""
    dates = np.array([["2024-01-01", "2024-01-02"], ["2024-01-03", "NaT"]], "M8[ns]")
    data = xr.Dataset({"when": (("run", "step"), dates), "x": (("run", "step"), [[1, 2], [3, NONE]])})
    data.to_netcdf(tmp_path / "a.nc", encoding={"when": {"units": f"{unit} since 2023-12-01"}})
    found = ode.from_dataset(sciml.open(tmp_path / "a.nc"), ["x"], time="when")
    np.testing.assert_array_equal(found.ts, [[0, 1], [2, 2]])
    # No date, but numbers.
    data["when"] = (("run", "step"), [[0.0, 6], [3, NONE]], {"units": "hours since the start"})
    np.testing.assert_array_equal(ode.from_dataset(data, ["x"], time="when").ts, [[0, 6], [3, 3]])


def test_a_data_frame():
    frame = pd.DataFrame({"run": ["b", "a", "a"], "t": [0.0, 1, 0], "x": [1.0, 2, 3]})
    found = ode.from_dataset(frame, ["x"], time="t", by="run")
    np.testing.assert_array_equal(found.ys[..., 0], [[3, 2], [1, NONE]])
    with pytest.raises(ValueError, match="1 rows have no value of 'run', the first is row 1"):
        ode.from_dataset(frame.assign(run=["b", None, "a"]), ["x"], time="t", by="run")
    with pytest.raises(ValueError, match="expected numbers in 'x', it holds words such as high"):
        ode.from_dataset(frame.assign(x=["1", "2", "high"]), ["x"], time="t", by="run")


def test_what_is_no_data_set():
    with pytest.raises(TypeError, match=r"got a path; give sciml.open\('a.csv'\)"):
        ode.from_dataset("a.csv", ["x"])
    with pytest.raises(ValueError, match="got 0 and 1"):
        ode.from_dataset([], ["x"])


@pytest.mark.parametrize(
    "states, options, message",
    [
        (["z"], {}, "no variable 'z'"),
        (["x"], {"by": "who"}, "no variable 'who'"),
        (["w"], {}, "has the dimensions"),
    ],
)
def test_bad_names(states, options, message):
    data = xr.Dataset({"x": ("time", [1.0]), "w": (("time", "a", "b"), np.ones((1, 1, 1)))}, {"time": [0.0]})
    with pytest.raises(ValueError, match=message):
        ode.from_dataset(data, states, **options)


@pytest.mark.parametrize(
    "rows, message",
    [
        ("a,0,1,1\nb,0,1,\nb,1,2,\n", "input 'u' has no value where 'run' is 'b'"),
        ("1,0,1,1\n,0,1,3\n", "1 rows have no value of 'run', the first is row 1"),
        ("a,0,1,1\n,0,1,3\n", "1 rows have no value of 'run', the first is row 1"),
        ("7,0,1,1\n8,0,1,\n", "input 'u' has no value where 'run' is 8"),
    ],
)
def test_bad_groups_are_named(rows, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        ode.from_dataset(opened(tmp_path, "run,t,x,u\n" + rows), ["x"], time="t", by="run", inputs=["u"])


@pytest.mark.parametrize(
    "text, message",
    [
        ("t,x\n0,1\n1,2\n0,1\n", "'t' decreases .* with by="),
        ("t,x\n0,1\n1,high\n", "expected numbers in 'x', it holds words such as high; .* as 2026-03-31"),
        ("t,x\nsoon,1\nlater,2\n", "expected numbers in 't', it holds words such as later, soon"),
        ("t,x\n0,1\n,2\n1,\n", "1 measurements have no value of 't'; at the first, 'x' is 2"),
        ("t,x\n,1\nNA,\n", "1 measurements have no value of 't'"),
        ("t,x\n,\nNA,\n", "all measurements have no value of 't'"),
        ("t,x\n0,\n1,2\n", "trajectory 0 are missing; .* give starts"),
    ],
)
def test_tables_that_hold_no_trajectories(text, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        ode.from_dataset(opened(tmp_path, text), ["x"], time="t")
