"""MATLAB's files, and dimensions in another order."""

import h5py
import numpy as np
import pytest
import scipy.io

import sciml
from sciml import data as sciml_data


def fields(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "a": rng.standard_normal((12, 5, 4)),
        "u": rng.standard_normal((12, 5, 4, 6)).astype("f4"),
        "t": np.linspace(0, 1, 6)[None],
        "nu": np.array([[1e-3]]),
    }


def write_73(path, arrays):
    """As MATLAB 7.3: HDF5 after 512 bytes, dimensions reversed, text as numbers, cells as references."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, array in arrays.items():
            stored = file.create_dataset(name, data=array.T, chunks=True if array.size > 6 else None)
            stored.attrs["MATLAB_class"] = np.bytes_("single" if array.dtype == "f4" else "double")
        text = file.create_dataset("label", data=np.array([[102], [110], [111]], "u2"))
        text.attrs["MATLAB_class"] = np.bytes_("char")
        file.create_dataset("#refs#/b", data=np.ones((3, 1)))
    with open(path, "r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512))


@pytest.fixture(params=["7.3", "5"])
def file(request, tmp_path):
    path = tmp_path / "ns.mat"
    if request.param == "7.3":
        write_73(path, fields())
    else:
        scipy.io.savemat(path, fields() | {"label": "fno", "parts": {"x": np.ones(2)}}, do_compression=True)
    return path


def test_arrays_are_in_the_order_of_matlab(file):
    data, truth = sciml.open(file), fields()
    assert set(data.arrays) == {"a", "t", "u"}
    assert data.coords["nu"].values == truth["nu"][0, 0]
    for name in ("a", "u"):
        np.testing.assert_array_equal(data.arrays[name].read(), truth[name])
        assert data.arrays[name].dtype == truth[name].dtype
    np.testing.assert_array_equal(data.arrays["t"].read(), truth["t"][0])
    assert data.arrays["u"].dims[0] == "sample"


def test_windows_of_a_series_whose_time_was_last(file):
    data = sciml.open(file)["u"].rename(dim_3="time").transpose("sample", "time", ...)
    assert data.dims == {"sample": 12, "time": 6, "dim_1": 5, "dim_2": 4}
    inputs, targets = data.windows(inputs=2, targets=1).samples()
    truth = np.moveaxis(fields()["u"], -1, 1)
    np.testing.assert_array_equal(inputs[:4], [truth[0, i : i + 2] for i in range(4)])
    np.testing.assert_array_equal(targets[:4], [truth[0, i + 2 : i + 3] for i in range(4)])


def test_plain_layout_is_that_of_the_file(tmp_path):
    write_73(tmp_path / "ns.mat", fields())
    assert sciml.open(tmp_path / "ns.mat", layout="plain").arrays["a"].shape == (4, 5, 12)


def test_damaged_file(tmp_path):
    scipy.io.savemat(tmp_path / "whole.mat", fields())
    (tmp_path / "cut.mat").write_bytes((tmp_path / "whole.mat").read_bytes()[:3000])
    with pytest.raises(sciml_data.DataError, match="cut.mat"):
        sciml.open(tmp_path / "cut.mat")


def test_transpose_and_rename(tmp_path):
    x, y = np.arange(48.0).reshape(2, 3, 4, 2), np.arange(24.0).reshape(2, 3, 4)
    np.savez(tmp_path / "last.npz", x=x, y=y)
    data = sciml.open(tmp_path / "last.npz").rename(dim_3="channel", x="state")
    turned = data.transpose("sample", "channel", ...)
    np.testing.assert_array_equal(turned.arrays["state"].read(), np.moveaxis(x, -1, 1))
    np.testing.assert_array_equal(turned.arrays["y"].read(), y)
    (batch,) = turned["state"].batches(2, shuffle=False)
    np.testing.assert_array_equal(batch[0], np.moveaxis(x, -1, 1))
    assert turned.fingerprint() != data.fingerprint()
    for dims in [("sample",), ("sample", "sample", ...), (..., "sample", ...)]:
        with pytest.raises(ValueError, match="transpose: each dimension once"):
            data.transpose(*dims)
    with pytest.raises(ValueError, match="no dimension 'chanel'.*channel"):
        data.transpose("chanel", ...)
    with pytest.raises(KeyError, match="no variable or dimension 'z'"):
        data.rename(z="w")
    with pytest.raises(ValueError, match="'y' is taken"):
        data.rename(state="y")
    with pytest.raises(ValueError, match="'dim_1' is taken"):
        data.rename(dim_2="dim_1")
