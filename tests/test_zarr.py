"""Zarr, versions 2 and 3: what is read equals zarr-python's own slices, in folders and archives."""

import shutil
from pathlib import Path

import numcodecs
import numpy as np
import pytest
import zarr
import zarr.codecs
from random_boxes import numbers, same_boxes

import sciml
from sciml.data import DataError

CUT = {"chunks": (3, 4, 5)}
TYPES = ("<f4", ">f8", "<f2", "?", "i1", "u2", ">i4", "<u8", "c8", ">c16")


def codecs(version: int) -> dict:
    if version == 2:
        names = ("Zstd", "Blosc", "GZip", "Zlib", "BZ2", "LZ4", "LZMA")
        made = {n: {"compressors": getattr(numcodecs, n)()} for n in names}
        return made | {"delta": {"filters": [numcodecs.Delta("<f4")]}, "columns": {"order": "F"}}
    c = zarr.codecs
    made = {n: {"compressors": getattr(c, n)()} for n in ("ZstdCodec", "BloscCodec", "GzipCodec")}
    return made | {
        "checksum": {"compressors": [c.ZstdCodec(), c.Crc32cCodec()]},
        "transposed": {"filters": [c.TransposeCodec(order=(2, 0, 1))]},
        "sharded": {"shards": (6, 8, 10)},
        "named": {"dimension_names": ("a", "b", "c")},
        "big_endian": {"serializer": c.BytesCodec(endian="big")},
    }


@pytest.fixture(scope="module", params=[2, 3])
def store(request, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("zarr") / "a.zarr"
    root = zarr.open_group(path, mode="w", zarr_format=request.param)
    root.attrs["title"] = "Known"
    for dtype in TYPES:
        if request.param == 2 or dtype[0] != ">":
            root.create_array(f"types/{np.dtype(dtype)}", data=numbers(dtype), **CUT)
    for name, options in ({"none": {"compressors": None}} | codecs(request.param)).items():
        root.create_array(name, data=numbers("f4"), **CUT | options)
    root.create_array("scalar", data=np.array(2.5))
    return path


@pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part in the Zarr format 3")
@pytest.mark.parametrize("form", ["folder", "consolidated", "zip", "zip_of_folder"])
def test_zarr_boxes_are_those_of_zarr(store, tmp_path, form):
    shutil.copytree(store, path := tmp_path / "a.zarr")
    root = zarr.open_group(store, mode="r")
    if form == "consolidated":
        zarr.consolidate_metadata(path)
    elif form != "folder":
        base = path if form == "zip" else tmp_path
        path = shutil.make_archive(str(tmp_path / "packed"), "zip", base, "." if form == "zip" else "a.zarr")
    data = sciml.open(path)
    arrays = {n: a for n, a in root.members(max_depth=None) if isinstance(a, zarr.Array) and a.ndim}
    assert set(data.arrays) == set(arrays) and data.coords["scalar"].values == 2.5
    assert data.attributes["title"] == "Known"
    for name, array in arrays.items():
        same_boxes(data.arrays[name], array[...], 4)
    if "sharded" in arrays:
        assert data.arrays["sharded"].chunks == (3, 4, 5) and data.arrays["named"].dims == ("a", "b", "c")
    assert len(sciml.open(path, group="types").arrays) == sum(n.startswith("types/") for n in arrays)
    with pytest.raises(DataError, match="no group 'typos'; there are .*types"):
        sciml.open(path, group="typos")
