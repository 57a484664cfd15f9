"""NetCDF and Zarr that we write, read back by h5py, xarray, rioxarray and GDAL."""

from __future__ import annotations

import sys

import h5py
import numpy as np
import pytest
import xarray as xr
from affine import Affine
from rasterio.crs import CRS
from writer_cases import (
    DATES,
    GRIDS,
    NAMES,
    NORTH_UP,
    PLACES,
    at,
    make_result,
    maps_of,
    variables_of,
)

from pyro_unmix import Unmixing

rasterio = pytest.importorskip("rasterio")
pytest.importorskip("rioxarray")
pytest.importorskip("spectral.io.envi")


def text_of(attributes, name: str) -> str:
    value = attributes[name]
    return value.decode() if isinstance(value, bytes) else value


def dims_of(variable) -> tuple[str, ...]:
    return tuple(scale[0].name.strip("/") for scale in variable.dims)


def test_netcdf_follows_the_cf_conventions(tmp_path):
    path = make_result().to_netcdf(tmp_path / "new" / "r.nc")
    assert path == tmp_path / "new" / "r.nc"
    with h5py.File(path) as file:
        assert text_of(file.attrs, "Conventions") == "CF-1.9"
        assert text_of(file.attrs, "method") == "fit"
        assert text_of(file.attrs, "source").startswith("pyro_unmix")
        expected = {
            "abundances": {
                "standard_name": "area_fraction",
                "units": "1",
                "long_name": "abundance estimate",
                "grid_mapping": "spatial_ref",
                "ancillary_variables": "abundances_std",
            },
            "abundances_std": {
                "standard_name": "area_fraction standard_error",
                "units": "1",
                "grid_mapping": "spatial_ref",
            },
            "valid": {"flag_meanings": "missing observed", "grid_mapping": "spatial_ref"},
            "change": {"grid_mapping": "spatial_ref"},
            "wavelength": {"standard_name": "radiation_wavelength", "units": "nm"},
            "fwhm": {"units": "nm"},
            "x": {"standard_name": "projection_x_coordinate", "units": "metre", "axis": "X"},
            "y": {"standard_name": "projection_y_coordinate", "units": "metre", "axis": "Y"},
            "time": {
                "standard_name": "time",
                "axis": "T",
                "calendar": "proleptic_gregorian",
                "units": "seconds since 2021-05-01 00:00:00",
            },
            "spatial_ref": {"grid_mapping_name": "transverse_mercator"},
            "losses": {"units": "1"},
        }
        for name, attributes in expected.items():
            found = {key: text_of(file[name].attrs, key) for key in attributes}
            assert found == attributes, name
        assert dims_of(file["abundances"]) == ("endmember", "time", "y", "x")
        assert dims_of(file["valid"]) == ("time", "y", "x")
        np.testing.assert_array_equal(file["valid"].attrs["flag_values"], [0, 1])
        assert file["valid"].attrs["flag_values"].dtype == file["valid"].dtype == np.int8
        # Coordinates have no missing values, and CF forbids the attribute there.
        for name in ("x", "y", "time", "wavelength", "fwhm", "endmember", "spatial_ref"):
            assert "_FillValue" not in file[name].attrs
        assert np.isnan(file["abundances"].attrs["_FillValue"])
        assert file["abundances"].compression == "gzip"
        np.testing.assert_array_equal(file["losses"], [3.0, 2.0, 1.5])
        parameters = file["spatial_ref"].attrs
        assert parameters["longitude_of_central_meridian"] == 15.0
        assert parameters["scale_factor_at_central_meridian"] == 0.9996
        assert CRS.from_wkt(text_of(parameters, "crs_wkt")) == CRS.from_epsg(32633)


@pytest.mark.parametrize("kind", GRIDS)
def test_netcdf_is_what_xarray_rioxarray_and_gdal_read(tmp_path, kind):
    result = make_result(GRIDS[kind])
    path = result.to_netcdf(tmp_path / "r.nc")
    with xr.open_dataset(path) as plain:
        assert plain["abundances"].rio.crs == CRS.from_epsg(32633)
        assert plain.rio.crs == CRS.from_epsg(32633)
    with xr.open_dataset(path, decode_coords="all") as back:
        assert back.rio.crs == CRS.from_epsg(32633)
        assert back.rio.transform().almost_equals(GRIDS[kind], precision=1e-9)
        for name, array in result.dataset.variables.items():
            if name != "spatial_ref":
                read = back[name].transpose(*array.dims)
                np.testing.assert_array_equal(read.to_numpy(), array.to_numpy(), err_msg=name)
                assert read.dtype == array.dtype or array.dtype.kind == "U"
        assert list(back["endmember"].to_numpy()) == NAMES
    bands = maps_of(result, 0).shape[0] * 2
    expected = result.abundances.transpose("endmember", "time", "y", "x").to_numpy()
    with rasterio.open(f"netcdf:{path}:abundances") as file:
        assert file.count == bands
        assert file.crs == CRS.from_epsg(32633)
    for row, column in PLACES:
        found = at(f"netcdf:{path}:abundances", GRIDS[kind], row, column)
        np.testing.assert_array_equal(found, expected[:, :, row, column].ravel())


def test_netcdf_of_a_geographic_grid(tmp_path):
    path = make_result(Affine(0.01, 0, 13, 0, -0.01, 52), 4326).to_netcdf(tmp_path / "r.nc")
    with h5py.File(path) as file:
        assert text_of(file["x"].attrs, "standard_name") == "longitude"
        assert text_of(file["y"].attrs, "standard_name") == "latitude"
        assert text_of(file["x"].attrs, "units") == "degrees_east"
        assert text_of(file["spatial_ref"].attrs, "grid_mapping_name") == "latitude_longitude"
    with rasterio.open(f"netcdf:{path}:valid") as file:
        assert file.crs == CRS.from_epsg(4326)


def test_netcdf_completes_a_bare_wkt_and_goes_without_pyproj(tmp_path, monkeypatch):
    """The readers write crs_wkt and GeoTransform, nothing more."""
    result = make_result()
    keep = ("crs_wkt", "GeoTransform")
    attrs = result.dataset["spatial_ref"].attrs
    result.dataset["spatial_ref"].attrs = {key: attrs[key] for key in keep}
    with h5py.File(result.to_netcdf(tmp_path / "a.nc")) as file:
        assert text_of(file["spatial_ref"].attrs, "grid_mapping_name") == "transverse_mercator"
    monkeypatch.setitem(sys.modules, "pyproj", None)
    with h5py.File(result.to_netcdf(tmp_path / "b.nc")) as file:
        assert "grid_mapping_name" not in file["spatial_ref"].attrs
        assert "standard_name" not in file["x"].attrs
        assert CRS.from_wkt(text_of(file["spatial_ref"].attrs, "crs_wkt")).to_epsg() == 32633
    assert set(result.dataset["spatial_ref"].attrs) == set(keep)


def test_a_crs_given_by_cf_parameters_alone_is_understood(tmp_path):
    result = make_result()
    attrs = result.dataset["spatial_ref"].attrs
    for key in ("crs_wkt", "spatial_ref"):
        del attrs[key]
    with rasterio.open(result.to_geotiff(tmp_path)[0]) as file:
        assert file.crs.to_dict()["proj"] == "utm" and file.crs.to_dict()["zone"] == 33


def test_netcdf_of_times_without_a_calendar(tmp_path):
    path = make_result(times=np.array([2019.25, 2021.5])).to_netcdf(tmp_path / "a.nc")
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["time"], [2019.25, 2021.5])
        assert {"standard_name", "units", "axis"}.isdisjoint(file["time"].attrs)
    with h5py.File(make_result(times=None).to_netcdf(tmp_path / "b.nc")) as file:
        assert "time" not in variables_of(file)


def test_netcdf_leaves_out_what_the_method_has_not(tmp_path):
    result = Unmixing(make_result(std=False).dataset, method="fcls")
    with h5py.File(result.to_netcdf(tmp_path / "r.nc")) as file:
        assert {"abundances_std", "losses"}.isdisjoint(variables_of(file))
        assert "ancillary_variables" not in file["abundances"].attrs


def test_packed_coordinates_of_a_source_file_stay_what_they_are(tmp_path):
    """An encoding that fitted the file of the images would round x to whole kilometres here."""
    result = make_result()
    result.dataset["x"].encoding = {"dtype": "int16", "scale_factor": 1000.0, "chunksizes": (500,)}
    result.dataset["time"].attrs["calendar"] = "standard"
    with xr.open_dataset(result.to_netcdf(tmp_path / "r.nc")) as back:
        np.testing.assert_array_equal(back["x"], result.dataset["x"])
        np.testing.assert_array_equal(back["time"], DATES)


def test_zarr_is_the_same_dataset(tmp_path):
    pytest.importorskip("zarr")
    result = make_result()
    path = result.to_zarr(tmp_path / "new" / "r.zarr")
    assert (path / ".zgroup").is_file()  # format 2
    with xr.open_zarr(path, decode_coords="all") as back:
        assert back.attrs["Conventions"] == "CF-1.9"
        assert back["abundances"].attrs["standard_name"] == "area_fraction"
        assert back.rio.crs == CRS.from_epsg(32633)
        assert back.rio.transform().almost_equals(NORTH_UP, precision=1e-9)
        assert list(back["endmember"].to_numpy()) == NAMES
        np.testing.assert_array_equal(back["time"], DATES)
        for name, array in result.dataset.data_vars.items():
            np.testing.assert_array_equal(back[name].transpose(*array.dims), array)
    with pytest.raises(FileExistsError, match="overwrite=True to replace a Zarr store"):
        result.to_zarr(path)
    make_result(dtype="float64").to_zarr(path, overwrite=True)
    assert xr.open_zarr(path)["abundances"].dtype == "float64"
    (tmp_path / "mine").mkdir()
    with pytest.raises(FileExistsError, match="mine exists"):
        result.to_zarr(tmp_path / "mine", overwrite=True)
    assert [p.name for p in path.parent.iterdir()] == ["r.zarr"]


def test_zarr_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(ImportError, match=r'needs zarr: pip install "pyro-unmix\[scale\]"'):
        make_result().to_zarr(tmp_path / "r.zarr")


@pytest.mark.parametrize(
    ("module", "method"), [("rasterio", "to_geotiff"), ("spectral.io.envi", "to_envi")]
)
def test_maps_say_what_to_install(tmp_path, monkeypatch, module, method):
    monkeypatch.setitem(sys.modules, module, None)
    name = module.partition(".")[0]
    with pytest.raises(ImportError, match=rf'needs {name}: pip install "pyro-unmix\[io\]"'):
        getattr(make_result(), method)(tmp_path)
