"""HDF5, NetCDF and Zarr: what is read equals what the library reads that has written the file."""

import os
import shutil
from pathlib import Path

import cftime
import h5py
import netCDF4
import numcodecs
import numpy as np
import pytest
import xarray as xr
import zarr
import zarr.codecs
from random_boxes import boxes, numbers, same_boxes

import sciml
from sciml.data import Chunk, DataError
from sciml.data._hdf5 import fletcher32

SHAPE = (7, 10, 11)
CUT = {"chunks": (3, 4, 5)}
TYPES = ("<f4", ">f8", "<f2", "?", "i1", "u2", ">i4", "<u8", "c8", ">c16")
STORAGE = {
    "contiguous": {},
    "chunked": CUT,
    "growing": CUT | {"maxshape": (None, None, None)},
    "gzip": CUT | {"compression": "gzip"},
    "shuffle": CUT | {"shuffle": True},
    "fletcher32": CUT | {"fletcher32": True},
    "gzip_shuffle_fletcher32": CUT | {"compression": 4, "shuffle": True, "fletcher32": True},
    "lzf": CUT | {"compression": "lzf", "shuffle": True},
    "one_chunk": {"chunks": SHAPE, "compression": "gzip", "shuffle": True},
}
ERA5 = Path(os.environ.get("SCIML_DATA", "absent")) / "xarray_data/era5_t2m_uk_2019-03_hourly.nc"

# HDF5.


@pytest.mark.parametrize("storage", STORAGE)
def test_hdf5_boxes_of_all_types_are_those_of_h5py(tmp_path, storage):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for i, dtype in enumerate(TYPES):
            file.create_dataset(f"v{i}", data=numbers(dtype), **STORAGE[storage])
    data = sciml.open(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5") as file:
        assert set(data.arrays) == set(file)
        for name in file:
            same_boxes(data.arrays[name], file[name][...])


@pytest.mark.parametrize(
    "dtype, options",
    [
        ("i4", {"scaleoffset": 0}),
        ("f4", {"scaleoffset": 3}),
        ("f8", {"compression": "szip"}),
        ("u1", {"chunks": (3, 3, 3), "fletcher32": True}),
        ("f4", {"chunks": (1, 1, 11), "compression": "gzip"}),
        ("i2", {"chunks": (20, 20, 20), "maxshape": (None, None, None), "compression": "gzip", "shuffle": True}),
    ],
)
def test_hdf5_other_filters_and_chunks_of_odd_size_or_beyond_the_array(tmp_path, dtype, options):
    if options.get("compression") == "szip" and not h5py.h5z.filter_avail(h5py.h5z.FILTER_SZIP):
        pytest.skip("h5py without szip")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("u", data=numbers(dtype) % 100 if dtype != "f8" else numbers(dtype), **CUT | options)
    with h5py.File(tmp_path / "a.h5") as file:
        expected = file["u"][...]
    same_boxes(sciml.open(tmp_path / "a.h5").arrays["u"], expected)


@pytest.mark.parametrize("length", [1, 2, 3, 7, 8, 1001, 100_000])
@pytest.mark.parametrize("byte", [None, 0, 255])
def test_the_checksum_is_that_of_the_library(tmp_path, length, byte):
    data = np.random.default_rng(length).bytes(length) if byte is None else bytes([byte]) * length
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("u", data=np.frombuffer(data, "u1"), chunks=(length,), fletcher32=True)
        stored = file["u"].id.read_direct_chunk((0,))[1]
    assert fletcher32(data) == int.from_bytes(stored[-4:], "little")


@pytest.mark.parametrize("dtype", ["f4", ">i4", "?", "c8"])
def test_hdf5_chunks_that_were_never_written_hold_the_fill_value(tmp_path, dtype):
    fill = np.dtype(dtype).type(1)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        cut = file.create_dataset("cut", SHAPE, dtype, fillvalue=fill, maxshape=(None, None, None), **CUT)
        cut[1:4, 2:5] = numbers(dtype)[1:4, 2:5]
        cut.resize((5, 10, 11))
        cut.resize((12, 10, 6))
        file.create_dataset("whole", SHAPE, dtype, fillvalue=fill)
        file.create_dataset("gzip", SHAPE, dtype, fillvalue=fill, compression="gzip", **CUT)
    data = sciml.open(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5") as file:
        for name in file:
            same_boxes(data.arrays[name], file[name][...])


def test_hdf5_reads_into_other_types_and_parts_of_arrays(tmp_path):
    u = numbers("f8")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name, options in STORAGE.items():
            file.create_dataset(name, data=u, **options)
    (source,) = sciml.open(tmp_path / "a.h5").sources
    for name in STORAGE:
        for box in boxes(SHAPE, 5):
            wanted = u[box].astype(np.float32)
            outer = np.zeros((*wanted.shape, 2), np.float32)
            source.read_into(Chunk(name, box), outer[..., 1])
            np.testing.assert_array_equal(outer[..., 1], wanted)
            assert not outer[..., 0].any()


def test_hdf5_groups_scalars_attributes_and_a_user_block(tmp_path):
    u = numbers("f4")
    with h5py.File(tmp_path / "a.h5", "w", userblock_size=1024) as file:
        file["g/deep/u"], file["g/v"], file["w"] = u, u[0], u
        file["s"], file["text"], file["strings"] = 2.5, "hello", ["a", "b"]
        file["nothing"] = h5py.Empty("f4")
        file["g/v"].attrs.update({"units": "K", "levels": [1, 2], "empty": h5py.Empty("S1"), "to": file["w"].ref})
        file.create_dataset("packed", data=u, compression="gzip", **CUT)
        file.attrs["title"] = "Known"
    data = sciml.open(tmp_path / "a.h5")
    assert set(data.arrays) == {"g/deep/u", "g/v", "w", "packed"} and data.coords["s"].values == 2.5
    assert set(data.attributes["skipped"]) == {"text", "strings", "nothing"} and data.attributes["title"] == "Known"
    attributes = data.arrays["g/v"].attributes
    assert attributes["units"] == "K" and attributes["levels"] == [1, 2] and not attributes["empty"]
    assert "to" not in attributes
    for name, expected in {"g/deep/u": u, "g/v": u[0], "w": u, "packed": u}.items():
        same_boxes(data.arrays[name], expected, 3)
    assert set(sciml.open(tmp_path / "a.h5", group="g").arrays) == {"deep/u", "v"}
    with pytest.raises(DataError, match="a.h5: no group 'h'; there are g, "):
        sciml.open(tmp_path / "a.h5", group="h")


def test_hdf5_links_virtual_and_external_arrays_lead_to_their_numbers(tmp_path):
    u, other, path = numbers("f4"), numbers("f4", seed=1), tmp_path / "a.h5"
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["pad"], file["g/z"] = np.zeros(1000), other
        file.create_dataset("cut", data=other, compression="gzip", **CUT)
    with h5py.File(path, "w") as file:
        file["g/u"] = u
        file["soft"], file["hard"] = h5py.SoftLink("/g/u"), file["g/u"]
        file["other"], file["other_cut"] = (h5py.ExternalLink("other.h5", n) for n in ("/g", "/cut"))
        file["dangling"], file["lost"] = h5py.SoftLink("/none"), h5py.ExternalLink("absent.h5", "/z")
        file["loop"], file["g/up"] = h5py.SoftLink("/"), file["g"]
        layout = h5py.VirtualLayout((2, *SHAPE), "f4")
        layout[0], layout[1] = h5py.VirtualSource("other.h5", "cut", SHAPE), h5py.VirtualSource(".", "g/u", SHAPE)
        file.create_virtual_dataset("virtual", layout)
        file.create_dataset("external", data=u, external=[(str(tmp_path / "raw.bin"), 0, u.nbytes)])
    data = sciml.open(path)
    assert set(data.attributes["skipped"]) == {"dangling", "lost"}
    assert set(data.arrays) == {"g/u", "soft", "hard", "other/z", "other_cut", "virtual", "external"}
    for name in ("g/u", "soft", "hard", "external"):
        same_boxes(data.arrays[name], u, 3)
    for name in ("other/z", "other_cut"):
        same_boxes(data.arrays[name], other, 3)
    same_boxes(data.arrays["virtual"], np.stack([other, u]), 3)
    (tmp_path / "other.h5").unlink()
    with pytest.raises(DataError, match="'virtual'.*other.h5"):
        sciml.open(path)["virtual"].read()


def test_hdf5_numbers_of_unusual_width_are_converted(tmp_path):
    def write(file, name, stored, values):
        space = h5py.h5s.create_simple(values.shape)
        node = h5py.h5d.create(file.id, name, stored, space, h5py.h5p.create(h5py.h5p.DATASET_CREATE))
        node.write(h5py.h5s.ALL, h5py.h5s.ALL, values)

    twelve_bits = h5py.h5t.STD_I16LE.copy()
    twelve_bits.set_precision(12)
    twelve_bits.set_offset(2)
    bfloat16 = h5py.h5t.IEEE_F32LE.copy()
    bfloat16.set_fields(15, 7, 8, 0, 7)
    bfloat16.set_precision(16)
    bfloat16.set_size(2)
    whole, halves = np.arange(-6, 6, dtype="i2").reshape(3, 4), np.arange(-6, 6, dtype="f4").reshape(3, 4) / 4
    with h5py.File(tmp_path / "a.h5", "w") as file:
        write(file, b"whole", twelve_bits, whole)
        write(file, b"halves", bfloat16, halves)
    found = sciml.open(tmp_path / "a.h5").read()
    np.testing.assert_array_equal(found["whole"], whole)
    np.testing.assert_array_equal(found["halves"], halves)


def test_hdf5_dimensions_are_named_by_scales_labels_and_sizes(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["u"], file["x"] = np.zeros((3, 4)), np.linspace(0, 1, 4)
        file["x"].make_scale("x")
        file["u"].dims[1].attach_scale(file["x"])
        file["u"].dims[0].label = "run"
        file["v"], file["w"] = np.zeros((3, 5)), np.zeros(3)
    data = sciml.open(tmp_path / "a.h5")
    assert data.arrays["u"].dims == ("run", "x") and data.arrays["v"].dims == ("sample", "dim_1")
    assert data.arrays["w"].dims == ("sample",)
    np.testing.assert_array_equal(data.coords["x"].values, np.linspace(0, 1, 4))


# NetCDF.


def agrees(data, expected: xr.Dataset):
    """Values, dimensions, units and coordinates are those of xarray."""
    arrays = {n: v for n, v in expected.data_vars.items() if v.dtype.kind in "biufc" and v.ndim}
    assert set(data.arrays) == set(arrays)
    for name, variable in arrays.items():
        found = data.arrays[name]
        assert found.dims == variable.dims and found.attributes.get("units") == variable.attrs.get("units")
        assert (found.dtype.kind == "f") == (variable.dtype.kind == "f")
        np.testing.assert_allclose(found.read(), variable.values, rtol=2e-7, err_msg=name)
    for name, variable in expected.coords.items():
        found = data.coords[name]
        assert found.dims == variable.dims and (found.values == variable.values).all()


NETCDF = ("NETCDF3_CLASSIC", "NETCDF3_64BIT_OFFSET", "NETCDF3_64BIT_DATA", "NETCDF4_CLASSIC", "NETCDF4")


@pytest.mark.parametrize("format", NETCDF)
@pytest.mark.parametrize("calendar", ["noleap", "360_day", "standard"])
@pytest.mark.filterwarnings("ignore:.*multiple fill values", "ignore:Variable time has datetime type and a bounds")
def test_netcdf_is_decoded_as_xarray_does(tmp_path, format, calendar):
    rng = np.random.default_rng(0)
    with netCDF4.Dataset(tmp_path / "a.nc", "w", format=format) as file:
        file.title = "Known"
        for name, size in {"time": None, "lat": 3, "lon": 4, "bounds": 2, "text": 5}.items():
            file.createDimension(name, size)

        def put(name, dtype, dims, values, fill=None, **attributes):
            variable = file.createVariable(name, dtype, dims, fill_value=fill)
            variable.setncatts(attributes)
            variable.set_auto_maskandscale(False)
            variable[...] = values

        days = np.array([0, 31, 59.25, 90, 120.5, 151])
        put("time", "f8", ("time",), days, units="days since 1999-12-30 06:00", calendar=calendar, bounds="time_bounds")
        put("time_bounds", "f8", ("time", "bounds"), np.stack([days, days + 1], 1))
        put("lat", "f4", ("lat",), [-1, 0, 1], units="degrees_north", axis="Y")
        put("area", "f4", ("lat", "lon"), rng.random((3, 4)), units="m2")
        put("height", "f8", (), 2.0, units="m")
        whole = rng.integers(-99, 99, (6, 3, 4))
        scaled = {"scale_factor": 0.01, "add_offset": 273.15, "units": "K", "coordinates": "area height"}
        put("scaled", "i2", ("time", "lat", "lon"), whole, -99, **scaled, missing_value=np.int16(-98))
        put("bytes", "i1", ("time", "lat"), rng.integers(-128, 128, (6, 3)), np.int8(-1), _Unsigned="true")
        put("offset", "i4", ("lon",), [1, 2, 3, -9], -9, add_offset=1e6)
        put("plain", "i4", ("lat", "lon"), whole[0], units="1", empty="")
        missing = np.where(rng.random((3, 4)) < 0.5, 1e20, rng.random((3, 4)))
        put("missing", "f4", ("lat", "lon"), missing, missing_value=np.float32(1e20))
        file.createVariable("letters", "S1", ("lat", "text"))[:] = b"x"
    data = sciml.open(tmp_path / "a.nc")
    with xr.open_dataset(tmp_path / "a.nc", decode_coords="all") as expected:
        agrees(data, expected.load())
    assert data.attributes["title"] == "Known" and data.attributes["skipped"] == ["letters"]
    assert data.coords["lat"].attributes["axis"] == "Y" and data.time_dim == "time"
    if calendar != "standard":
        date = data.coords["time"].values[1]
        assert isinstance(date, cftime.datetime) and date.calendar == calendar
    data.to_xarray().to_netcdf(tmp_path / "again.nc")
    with xr.open_dataset(tmp_path / "again.nc") as again:
        np.testing.assert_array_equal(again["scaled"].values, data.read()["scaled"])
        assert (again["time"].values == data.coords["time"].values).all()


@pytest.mark.parametrize("format", ["NETCDF3_CLASSIC", "NETCDF4"])
def test_netcdf_records_that_were_not_written_are_missing(tmp_path, format):
    with netCDF4.Dataset(tmp_path / "a.nc", "w", format=format) as file:
        file.createDimension("time", None)
        file.createDimension("x", 4)
        for name in ("long", "short", "none"):
            file.createVariable(name, "f4", ("time", "x"), fill_value=-1.0)
        file["long"][:] = np.ones((7, 4))
        file["short"][:3] = 2 * np.ones((3, 4))
    data = sciml.open(tmp_path / "a.nc")
    with xr.open_dataset(tmp_path / "a.nc") as expected:
        agrees(data, expected.load())
        for box in boxes((7, 4), 10):
            np.testing.assert_array_equal(data.arrays["short"].read(box), expected["short"].values[box])


def test_netcdf_groups_inherit_dimensions_and_variables_may_be_named_like_them(tmp_path):
    with netCDF4.Dataset(tmp_path / "a.nc", "w") as file:
        for name, size in {"time": 6, "lat": 3, "level": 2, "x": 4}.items():
            file.createDimension(name, size)
        file.createVariable("time", "i4", ("time",))[:] = np.arange(6)
        file.createVariable("v", "i4", ("lat",))[:] = np.arange(3)
        # FVCOM has a level(level, x) that varies over the grid; x(time) is no coordinate.
        file.createVariable("level", "f4", ("level", "x"))[:] = np.arange(8.0).reshape(2, 4)
        file.createVariable("u", "f4", ("time", "level", "x"))[:] = numbers("f4", (6, 2, 4))
        group = file.createGroup("deep").createGroup("er")
        group.createDimension("lat", 5)
        group.createVariable("u", "f8", ("time", "lat"))[:] = numbers("f8", (6, 5))
        file.createGroup("deep").createVariable("x", "f4", ("time",))[:] = np.arange(6.0)
    data = sciml.open(tmp_path / "a.nc")
    assert data.arrays["u"].dims == ("time", "level", "x") and data.arrays["deep/er/u"].dims == ("time", "deep_er_lat")
    assert data.arrays["deep/x"].dims == ("time",)
    np.testing.assert_array_equal(data.arrays["u"].read(), numbers("f4", (6, 2, 4)))
    np.testing.assert_array_equal(data.arrays["deep/er/u"].read(), numbers("f8", (6, 5)))
    assert {**data.arrays, **data.coords}["level"].dims == ("level", "x")
    assert sciml.open(tmp_path / "a.nc", group="deep/er").arrays["u"].dims == ("time", "lat")
    data.to_xarray()


@pytest.mark.skipif(not ERA5.exists(), reason="needs a local mirror, SCIML_DATA")
def test_reanalysis_is_read_as_xarray_does():
    with xr.open_dataset(ERA5, decode_coords="all") as expected:
        agrees(sciml.open(ERA5), expected.load())


# Zarr.


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


@pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr version 3")
@pytest.mark.parametrize("form", ["folder", "consolidated", "zip", "zip_of_folder"])
def test_zarr_boxes_are_those_of_zarr(store, tmp_path, form):
    shutil.copytree(store, path := tmp_path / "a.zarr")
    root = zarr.open_group(store, mode="r")
    if form == "consolidated":
        if root.metadata.zarr_format == 3:
            pytest.skip("not in the specification of version 3")
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


@pytest.mark.parametrize("version", [2, 3])
def test_zarr_of_xarray_is_decoded_as_xarray_does(tmp_path, version):
    packed = np.arange(24, dtype="i2").reshape(6, 4)
    dataset = xr.Dataset(
        {
            "t": (("time", "x"), packed, {"scale_factor": 0.1, "_FillValue": 7, "units": "K"}),
            "u": (("time", "x"), np.where(packed % 5, packed, np.nan).astype("f4"), {"_FillValue": 1e20}),
        },
        {"time": ("time", np.arange(6), {"units": "hours since 2000-01-01", "calendar": "noleap"}), "x": [0, 1, 2, 3]},
    )
    dataset.to_zarr(tmp_path / "a.zarr", zarr_format=version, consolidated=False)
    with xr.open_zarr(tmp_path / "a.zarr", consolidated=False) as expected:
        agrees(sciml.open(tmp_path / "a.zarr"), expected.load())
