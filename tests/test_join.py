"""Several files as one: each difference that matters is named with its files, faults of a time axis with a remedy."""

import netCDF4
import numpy as np
import pytest
import xarray as xr

import sciml
from sciml.data import DataError


def month(start=0, times=4, dtype="f4", units="K", calendar="standard", lat=(10.0, 0.0), **rest) -> xr.Dataset:
    days = start + np.arange(times)
    values = np.arange(times * len(lat), dtype=dtype).reshape(times, len(lat))
    dataset = xr.Dataset(
        {"u": (("time", "lat"), values, {"units": units})},
        {"time": ("time", days, {"units": "days since 2000-01-01", "calendar": calendar}), "lat": list(lat)},
    )
    return dataset.assign(**rest)


def with_times(*days):
    return month(times=len(days)).assign_coords(time=("time", list(days), month().time.attrs))


@pytest.mark.parametrize(
    "second, message",
    [
        (month(4).rename(u="v"), "b.nc has no variable 'u', which .*a.nc has"),
        (month(4, v=("lat", [1.0, 2.0])), "a.nc has no variable 'v', which .*b.nc has"),
        (month(4, dtype="i4"), "mixed dtypes: 'u' is float32 in .*a.nc and int32 in .*b.nc"),
        (month(4, units="degC"), "files differ in the units of 'u': 'K' in .*a.nc, 'degC' in .*b.nc"),
        (month(4, calendar="noleap"), "files differ in the calendar of 'time': 'standard' in .*'noleap' in .*b.nc"),
        (month(4, lat=(10.0, 5.0)), "differ along time and lat .*a.nc|the grids differ: 'lat'.*a.nc and .*b.nc"),
        (month(4, lat=(10.0, 0.0, -10.0)), "differ along time and lat .*a.nc|'lat' has 2 .*a.nc and 3 in .*b.nc"),
        (month(4).transpose(), "files differ in the dimensions of 'u'"),
        (month(3), "'time' is repeated: .*a.nc ends at 2000-01-04.*, .*b.nc begins at 2000-01-04"),
        (month(2), "'time' overlaps: .*a.nc ends at 2000-01-04.*, .*b.nc begins at 2000-01-03"),
    ],
)
def test_files_that_do_not_fit_are_named(tmp_path, second, message):
    month().to_netcdf(tmp_path / "a.nc")
    second.to_netcdf(tmp_path / "b.nc")
    for along in (None, "time"):
        with pytest.raises(DataError, match=message):
            sciml.open(tmp_path, along=along)


def test_the_same_times_twice_need_a_new_dimension(tmp_path):
    for name in ("a.nc", "b.nc"):
        month().to_netcdf(tmp_path / name)
    with pytest.raises(DataError, match="the files have the same coordinates .*a.nc.*give along="):
        sciml.open(tmp_path)
    with pytest.raises(DataError, match="'time' overlaps: .*a.nc ends at 2000-01-04.*b.nc begins at 2000-01-01"):
        sciml.open(tmp_path, along="time")
    assert sciml.open(tmp_path, along="member").dims == {"member": 2, "time": 4, "lat": 2}


@pytest.mark.parametrize(
    "days, message",
    [
        ((4, 5, 5, 6), r"'time'\[2\] = 2000-01-06.* repeats the one before \(duplicate times\); "),
        ((4, 6, 5, 7), r"'time'\[2\] = 2000-01-06.* is before the one before it \(reversed times\); "),
        ((7, 6, 5, 4), r"'time'\[1\] = 2000-01-07.* \(reversed times\) and 2 more; "),
        ((4, np.nan, 6), r"'time'\[1\] = NaT is missing; "),
    ],
)
def test_times_out_of_order_are_named_with_a_remedy_that_works(tmp_path, days, message):
    month().to_netcdf(tmp_path / "a.nc")
    with_times(*days).to_netcdf(tmp_path / "b.nc")
    with pytest.raises(DataError, match=rf"b.nc: {message}") as raised:
        sciml.open(tmp_path)
    prepare, remedy = str(raised.value).split("; ")[-2:]
    assert prepare.endswith("ds = xarray.open_dataset(path)")
    with xr.open_dataset(tmp_path / "b.nc") as ds:
        mended = eval(remedy, {"ds": ds, "sciml": sciml})
        found = (mended.coords["time"].values - np.datetime64("2000-01-01")) / np.timedelta64(1, "D")
    assert found.tolist() == sorted({day for day in days if day == day})


def test_constants_must_be_the_same_in_all_files(tmp_path):
    for i, name in enumerate("ab"):
        month(4 * i, mask=("lat", [1.0, float(i)])).to_netcdf(tmp_path / f"{name}.nc")
    with pytest.raises(DataError, match="'mask' differs between .*a.nc and .*b.nc"):
        sciml.open(tmp_path)


@pytest.mark.parametrize(
    "units, calendar", [("fortnights since 2000-01-01", "standard"), ("days since 2000-01-01", "moon")]
)
def test_times_that_cannot_be_decoded(tmp_path, units, calendar):
    with netCDF4.Dataset(tmp_path / "a.nc", "w") as file:
        file.createDimension("time", 3)
        time = file.createVariable("time", "f8", ("time",))
        time.units, time.calendar, time[:] = units, calendar, np.arange(3)
        file.createVariable("u", "f4", ("time",))[:] = np.arange(3)
    with pytest.raises(DataError, match=f"a.nc: 'time': cannot decode times.*{units}.*{calendar}"):
        sciml.open(tmp_path / "a.nc")


def test_a_missing_variable_is_named():
    with pytest.raises(KeyError, match="no variable 'U'; did you mean|no variable 'U'; there are u"):
        sciml.open(month())["U"]
