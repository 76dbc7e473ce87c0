"""NetCDF and the CF conventions: values, units, dates and coordinates are those of xarray."""

import os
from pathlib import Path

import cftime
import netCDF4
import numpy as np
import pytest
import xarray as xr
from random_boxes import boxes, numbers, same_boxes

import sciml

FORMATS = ("NETCDF3_CLASSIC", "NETCDF3_64BIT_OFFSET", "NETCDF3_64BIT_DATA", "NETCDF4_CLASSIC", "NETCDF4")
SHAPE = (7, 10, 11)
ERA5 = Path(os.environ.get("SCIML_DATA", "absent")) / "xarray_data/era5_t2m_uk_2019-03_hourly.nc"


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


@pytest.mark.parametrize("format", FORMATS)
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


PACKINGS = {
    "nan": ("f4", [1, np.nan, 3, 4], np.nan, {}),
    "scaled_float": ("f4", [1, 2, 3, 4], None, {"scale_factor": np.float32(0.1)}),
    "default_fill": ("f4", [1, netCDF4.default_fillvals["f4"], 3, 4], netCDF4.default_fillvals["f4"], {}),
    "wide": ("i8", [2**60 + 1, 2, 3, -5], -5, {}),
    "bytes": ("u1", [0, 128, 255, 3], 255, {"scale_factor": 2.0, "add_offset": -1.0}),
    "unsigned": ("i2", [0, -1, -2, 3], -2, {"_Unsigned": "true", "scale_factor": 0.5}),
    "signed": ("u1", [0, 255, 254, 3], None, {"_Unsigned": "false"}),
    "big_endian": (">i2", [1, 2, 3, 4], 3, {"scale_factor": 0.5}),
    "two_marks": ("i4", [1, 2, 3, 4], None, {"missing_value": np.array([2, 3], "i4")}),
    "offset": ("i2", [1, 2, 3, 4], None, {"add_offset": 1e6}),
    "whole_scale": ("i2", [1, 2, 3, 4], None, {"scale_factor": np.int16(2)}),
    "range": ("i2", [1, 2, 3, 4], None, {"valid_range": np.array([2, 3], "i2")}),
}


@pytest.mark.filterwarnings("ignore:.*multiple fill values")
@pytest.mark.parametrize("name", PACKINGS)
def test_packed_and_missing_numbers(tmp_path, name):
    dtype, values, fill, attributes = PACKINGS[name]
    with netCDF4.Dataset(tmp_path / "a.nc", "w") as file:
        file.createDimension("x", 4)
        endian = "big" if dtype[0] == ">" else "native"
        variable = file.createVariable("u", dtype, ("x",), fill_value=fill, endian=endian)
        variable.set_auto_maskandscale(False)
        variable.setncatts(attributes)
        variable[:] = values
    data = sciml.open(tmp_path / "a.nc")
    with xr.open_dataset(tmp_path / "a.nc") as expected:
        np.testing.assert_allclose(data.read()["u"], expected["u"].values, rtol=2e-7)


@pytest.mark.parametrize(
    "units, calendar, numbers",
    [
        ("days since 0001-01-01", "standard", [0, 1, 2]),
        ("days since 2300-01-01", "proleptic_gregorian", [0, 1, 2]),
        ("days since 1700-01-01", "standard", [0, 100_000, 180_000]),
        ("months since 2000-01-01", "360_day", [0, 1, 2]),
        ("seconds since 1970-01-01", "standard", [0.5, 1.25, 2]),
        ("hours since 2000-01-01T00:00:00Z", "gregorian", [0, 1, 2]),
        ("hours since 1900-01-01", "365_day", [0, 10_000, 1_000_000]),
    ],
)
@pytest.mark.filterwarnings("ignore:Unable to decode time axis into full numpy.datetime64")
def test_dates_in_all_units(tmp_path, units, calendar, numbers):
    with netCDF4.Dataset(tmp_path / "a.nc", "w") as file:
        file.createDimension("time", 3)
        time = file.createVariable("time", "f8", ("time",))
        time.units, time.calendar, time[:] = units, calendar, numbers
        file.createVariable("u", "f4", ("time",))[:] = 1
    data = sciml.open(tmp_path / "a.nc")
    with xr.open_dataset(tmp_path / "a.nc") as expected:
        assert (data.coords["time"].values == expected["time"].values).all()
    assert data.isel(time=slice(1, None)).time_dim == "time"


@pytest.mark.parametrize("compression", ["zlib", "zstd", "blosc_lz4", "blosc_zstd"])
@pytest.mark.parametrize("options", [{"shuffle": False}, {"shuffle": True, "fletcher32": True}])
def test_netcdf_filters(tmp_path, compression, options):
    # Few different numbers: blosc leaves alone what it cannot make shorter.
    steps = np.arange(np.prod(SHAPE)).reshape(SHAPE) // 50
    with netCDF4.Dataset(tmp_path / "a.nc", "w") as file:
        if not getattr(file, f"has_{compression.partition('_')[0]}_filter", lambda: True)():
            pytest.skip(f"netCDF4 without {compression}")
        for name, size in zip("xyz", SHAPE):
            file.createDimension(name, size)
        for name, dtype in {"f": "f4", "i": "i2", "d": "f8"}.items():
            settings = {"compression": compression, "chunksizes": (4, 10, 11)} | options
            file.createVariable(name, dtype, ("x", "y", "z"), **settings)[...] = steps
    data = sciml.open(tmp_path / "a.nc")
    for name, dtype in {"f": "f4", "i": "i2", "d": "f8"}.items():
        same_boxes(data.arrays[name], steps.astype(dtype))


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
