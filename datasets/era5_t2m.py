"""Hourly temperature at 2 m over the British Isles, March 2019, ERA5.

- What: t2m(time, latitude, longitude) in K, 744 hours on a grid of 0.25 degrees, 33 x 49; packed in 16 bits.
- Who: ECMWF, Copernicus Climate Change Service; Copernicus licence (attribution: "contains modified Copernicus Climate
  Change Service information"). The public file is the GRIB in github.com/pydata/xarray-data, which is read with cfgrib;
  a mirror (SCIML_DATA) may hold its conversion to NetCDF.
- Citation: Hersbach et al., "The ERA5 global reanalysis", Q. J. R. Meteorol. Soc. 146, 2020.
- Size: 2.4 MB in GRIB, 5 MB in memory.
- Baselines: none published for this month and region.
"""

import sciml

PATH = "xarray_data/era5_t2m_uk_2019-03_hourly.nc"
SHA256 = "b3542eb7bac43e954160b68adfd56def121fdf96c17f817f039a244987b05b8b"
GRIB = "https://raw.githubusercontent.com/pydata/xarray-data/master/era5-2mt-2019-03-uk.grib"
GRIB_MD5 = "md5:eae4f0d198f4f6c16ba950975a217155"


def make() -> sciml.data.Dataset:
    """No settings."""
    local = sciml.data.find_local(PATH, SHA256)
    if local is not None:
        return sciml.open(local)
    import xarray as xr

    path = sciml.data.fetch("xarray_data/era5-2mt-2019-03-uk.grib", GRIB, GRIB_MD5)
    try:
        opened = xr.open_dataset(path, engine="cfgrib", backend_kwargs={"indexpath": ""})
    except ValueError as error:
        raise sciml.data.DataError(f"{path} is GRIB: install cfgrib to read it ({error})") from error
    return sciml.open(opened[["t2m"]].drop_vars(["number", "step", "surface", "valid_time"], errors="ignore"))
