"""Tables in text files, and trajectories from them."""

import numpy as np
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
    ],
)
def test_names_and_separators(tmp_path, name, text, names):
    data = opened(tmp_path, text, name)
    found = [*data.coords, *data.variables] if hasattr(data, "variables") else [*data.coords, *data.read()]
    assert sorted(found) == sorted(names)


def test_words_are_numbered(tmp_path):
    data = opened(tmp_path, "id,x\nrat 2,1\nape,2\nrat 2,3\n").to_xarray()
    np.testing.assert_array_equal(data["id"], [1, 0, 1])
    assert data["id"].attrs["flag_meanings"] == "ape rat_2"


@pytest.mark.parametrize(
    "text, message",
    [
        ("a,b\n1,2\n3\n", "line 3 has 1 cells, expected 2"),
        ("a,a\n1,2\n", "called 'a'"),
        ("# nothing\n", "holds no rows"),
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


def test_trajectories_of_a_grid_and_of_dates():
    values = np.arange(6.0).reshape(2, 3)
    grid = xr.Dataset({"x": (("sample", "time"), values)}, {"time": [0.0, 1.0, 3.0]})
    found = ode.from_dataset(grid, ["x"])
    np.testing.assert_array_equal(found.ys[..., 0], values)
    np.testing.assert_array_equal(found.ts, [[0, 1, 3]] * 2)
    dates = xr.Dataset({"x": ("time", [1.0, 2.0])}, {"time": np.array(["2001-01-01", "2001-01-04"], "M8[ns]")})
    np.testing.assert_array_equal(ode.from_dataset(dates, ["x"]).ts, [[0, 3]])


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
