"""NumPy's and torch's files: what is read equals what was written, mapped or not."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch_archive as torch
from random_boxes import numbers, same_boxes

import sciml

DARCY = Path(os.environ.get("SCIML_DATA", "absent")) / "neuraloperator"


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["f4", ">f8", "?", "u2", ">c16"])
def test_npy_and_npz_are_those_of_numpy(tmp_path, dtype, order):
    u = np.asarray(numbers(dtype), order=order)
    np.save(tmp_path / "a.npy", u)
    contents = {"u": u, "g/v": u[0], "scalar": u[0, 0, 0], "text": np.array(["a"]), "part": u[::2, :, 1]}
    np.savez(tmp_path / "a.npz", **contents)
    np.savez_compressed(tmp_path / "b.npz", **contents)
    same_boxes(sciml.open(tmp_path / "a.npy").arrays["data"], u)
    for name in ("a.npz", "b.npz"):
        data = sciml.open(tmp_path / name)
        assert set(data.arrays) == {"u", "g/v", "part"} and data.attributes["skipped"] == ["text"]
        assert data.coords["scalar"].values == u[0, 0, 0]
        for key, array in data.arrays.items():
            same_boxes(array, contents[key])


def test_numpy_files_are_mapped_unless_they_are_compressed(tmp_path):
    u = numbers("f4")
    np.save(tmp_path / "a.npy", u)
    np.savez(tmp_path / "a.npz", u=u)
    np.savez_compressed(tmp_path / "b.npz", u=u)
    for name, mapped in {"a.npy": True, "a.npz": True, "b.npz": False}.items():
        (source,) = sciml.open(tmp_path / name).sources
        (variable,) = source.variables()
        assert isinstance(source._whole(variable), np.memmap) == mapped


# torch.


@pytest.mark.parametrize("kind", [k for k in torch.KINDS if k != "bfloat16"])
@pytest.mark.parametrize("order", ["little", "big"])
def test_torch_tensors_of_all_types(tmp_path, kind, order):
    u = numbers(kind)
    torch.save({"u": torch.tensor(u), "s": torch.tensor(u[0, 0, 0])}, tmp_path / "a.pt", order)
    data = sciml.open(tmp_path / "a.pt")
    same_boxes(data.arrays["u"], u)
    assert data.coords["s"].values == u[0, 0, 0]


def test_torch_nested_shared_and_strided_tensors(tmp_path):
    u = numbers("f4", (4, 5, 6))
    storage = torch.Storage(u)
    columns = np.lib.stride_tricks.as_strided(u.ravel()[3:], (6, 2), (4, 24))
    content = {
        "state": {"weight": torch.Parameter(torch.Tensor(storage, u.shape)), "epoch": 3, "name": "net", "none": None},
        "views": [
            torch.Tensor(storage, (6, 5, 4), (1, 6, 30)),
            torch.Tensor(storage, (6, 2), (1, 6), offset=3),
            torch.Tensor(storage, (3, 5), (0, 1)),
        ],
        "half": torch.bfloat16([[1.5, -2.0], [3.25, 1e30]]),
    }
    torch.save(content, tmp_path / "a.pt")
    data = sciml.open(tmp_path / "a.pt")
    assert data.attributes["state/epoch"] == 3 and data.attributes["state/name"] == "net"
    assert set(data.arrays) == {"state/weight", "views/0", "views/1", "views/2", "half"}
    same_boxes(data.arrays["state/weight"], u)
    same_boxes(data.arrays["views/0"], u.transpose(2, 1, 0))
    same_boxes(data.arrays["views/1"], columns)
    same_boxes(data.arrays["views/2"], np.tile(u.ravel()[:5], (3, 1)))
    halves = data.arrays["half"].read()
    assert halves.dtype == np.float32
    np.testing.assert_allclose(halves, [[1.5, -2.0], [3.25, 1e30]], rtol=2**-7)
    torch.save(torch.tensor(u), tmp_path / "one.pt")
    same_boxes(sciml.open(tmp_path / "one.pt").arrays["data"], u)


@pytest.mark.skipif(not DARCY.exists(), reason="needs a local mirror, SCIML_DATA")
def test_a_file_of_torch_itself_holds_what_its_copies_hold():
    one = sciml.open(DARCY / "darcy_train_16.pt").read()
    other = sciml.open(DARCY / "darcy_train_16.h5").read()
    for name in ("x", "y"):
        np.testing.assert_array_equal(one[name], other[name])
