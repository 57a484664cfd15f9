"""GeoTIFF that we write, read back by rasterio (GDAL)."""

from __future__ import annotations

import warnings

import h5py
import numpy as np
import pytest
import xarray as xr
from affine import Affine
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning
from writer_cases import GRIDS, NAMES, NORTH_UP, PLACES, at, make_result, maps_of, variables_of

from pyro_unmix import Unmixing

rasterio = pytest.importorskip("rasterio")
pytest.importorskip("rioxarray")
envi = pytest.importorskip("spectral.io.envi")


@pytest.mark.parametrize("kind", GRIDS)
def test_geotiff_is_what_gdal_reads(tmp_path, kind):
    result = make_result(GRIDS[kind])
    paths = result.to_geotiff(tmp_path / "new" / "maps")
    names = [f"abundances_{d}{s}.tif" for d in ("2021-05-01", "2021-06-11") for s in ("", "_std")]
    assert [p.name for p in paths] == names
    looks = ["abundances_2021-05-01.qml", "abundances_2021-06-11.qml"]
    looks += ["style_0_soil.qml", "style_1_vegetation.qml", "style_2_water_2.qml"]
    assert sorted(p.name for p in paths[0].parent.iterdir()) == sorted([*names, *looks])
    for path, (time, name) in zip(
        paths, [(t, n) for t in (0, 1) for n in ("abundances", "abundances_std")], strict=True
    ):
        with rasterio.open(path) as file:
            np.testing.assert_array_equal(file.read(), maps_of(result, time, name))
            assert file.dtypes == ("float32",) * 3
            assert file.descriptions == tuple(NAMES)
            assert file.crs == CRS.from_epsg(32633)
            assert file.transform.almost_equals(GRIDS[kind], precision=1e-9)
            assert np.isnan(file.nodata)
            assert not file.dataset_mask()[-1, 3] or time == 1
            assert file.profile["compress"] == "deflate"
            assert file.profile["tiled"] and file.block_shapes[0] == (16, 16)
            assert file.tags()["time"] == ["2021-05-01", "2021-06-11T10:15:30"][time]
            expected = ["2021:05:01 00:00:00", "2021:06:11 10:15:30"][time]
            assert file.tags()["TIFFTAG_DATETIME"] == expected
            assert file.tags()["method"] == "fit"
        for row, column in PLACES:
            found = at(path, GRIDS[kind], row, column)
            np.testing.assert_array_equal(found, maps_of(result, time, name)[:, row, column])


def test_geotiff_keeps_double_precision_and_has_no_std_without_a_posterior(tmp_path):
    result = make_result(dtype="float64", std=False)
    first, second = result.to_geotiff(tmp_path)
    assert (first.name, second.name) == ("abundances_2021-05-01.tif", "abundances_2021-06-11.tif")
    with rasterio.open(second) as file:
        assert file.dtypes[0] == "float64"
        np.testing.assert_array_equal(file.read(), maps_of(result, 1))


@pytest.mark.parametrize(("size", "block"), [((300, 270), (256, 256)), ((9, 300), None)])
def test_geotiff_tiles(tmp_path, size, block):
    result = make_result(size=size)
    with rasterio.open(result.to_geotiff(tmp_path)[0]) as file:
        assert file.profile["tiled"] == (block is not None)
        assert block is None or file.block_shapes[0] == block
        np.testing.assert_array_equal(file.read(), maps_of(result, 0))


def test_nothing_is_invented_without_crs_and_coordinates(tmp_path):
    result = make_result(None, None)
    with warnings.catch_warnings():
        warnings.simplefilter("error", NotGeoreferencedWarning)  # no fault when writing
        paths = result.to_geotiff(tmp_path)
    headers = result.to_envi(tmp_path)
    for path in [paths[0], headers[0].with_suffix(".img")]:
        with pytest.warns(NotGeoreferencedWarning), rasterio.open(path) as file:
            assert file.crs is None
            assert file.transform == Affine.identity()
    assert {"map info", "coordinate system string"}.isdisjoint(envi.open(headers[0]).metadata)
    with h5py.File(result.to_netcdf(tmp_path / "r.nc")) as file:
        assert "grid_mapping" not in file["abundances"].attrs
        assert "spatial_ref" not in file and not {"x", "y"} & variables_of(file)
    with pytest.warns(NotGeoreferencedWarning):
        with rasterio.open(f"netcdf:{tmp_path / 'r.nc'}:abundances") as file:
            assert file.crs is None


def test_coordinates_without_crs_give_a_transform_only(tmp_path, caplog):
    result = make_result(NORTH_UP, None)
    with rasterio.open(result.to_geotiff(tmp_path)[0]) as file:
        assert file.crs is None
        assert file.transform.almost_equals(NORTH_UP, precision=1e-9)
    with caplog.at_level("INFO"):
        header = result.to_envi(tmp_path)[0]
    assert "map info is left out" in caplog.text
    with pytest.warns(NotGeoreferencedWarning):
        with rasterio.open(header.with_suffix(".img")) as file:
            assert file.crs is None
    with rasterio.open(f"netcdf:{result.to_netcdf(tmp_path / 'r.nc')}:abundances") as file:
        assert file.crs is None


def test_a_selection_moves_the_transform(tmp_path):
    """GeoTransform of the whole image is out of date then, as with any xarray selection."""
    dataset = make_result().dataset.isel(x=slice(4, 20, 2), y=slice(3, None))
    result = Unmixing(dataset)
    # The centre of the first pixel stays where it was, at 4.5 pixels, while its width doubles.
    expected = Affine(60, 0, 5e5 + 4.5 * 30 - 30, 0, -20, 5.8e6 - 3 * 20)
    with rasterio.open(result.to_geotiff(tmp_path)[0]) as file:
        assert file.transform.almost_equals(expected, precision=1e-6)
    back = xr.open_dataset(result.to_netcdf(tmp_path / "r.nc"), decode_coords="all")
    assert back.rio.transform().almost_equals(expected, precision=1e-6)


def test_one_row_takes_its_height_from_the_stored_transform(tmp_path):
    row = Unmixing(make_result().dataset.isel(y=slice(5, 6)))
    with rasterio.open(row.to_geotiff(tmp_path)[0]) as file:
        expected = Affine(30, 0, 5e5, 0, -20, 5.8e6 - 5 * 20)
        assert file.transform.almost_equals(expected, precision=1e-6)
    bare = make_result(NORTH_UP, None).dataset.isel(y=slice(5, 6))
    with pytest.warns(NotGeoreferencedWarning):
        with rasterio.open(Unmixing(bare).to_geotiff(tmp_path, overwrite=True)[0]) as file:
            assert file.transform == Affine.identity()


def test_coordinates_in_single_precision_do_not_blur_the_transform(tmp_path):
    transform = Affine(30, 0, 500_000.25, 0, -20, 5_800_000.125)  # float32 has steps of 0.5 there
    dataset = make_result(transform).dataset
    dataset = dataset.assign_coords(y=dataset["y"].astype("float32"))
    assert (dataset["y"][0] + 10).item() != transform.f
    with rasterio.open(Unmixing(dataset).to_geotiff(tmp_path)[0]) as file:
        assert file.transform == transform


def test_uneven_coordinates_are_refused_for_maps_and_legal_in_netcdf(tmp_path):
    dataset = make_result().dataset.isel(y=[0, 1, 2, 9, 10, 11])
    result = Unmixing(dataset)
    for write in (result.to_geotiff, result.to_envi):
        with pytest.raises(ValueError, match="expected evenly spaced y.*drop_vars\\('y'\\)"):
            write(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with h5py.File(result.to_netcdf(tmp_path / "r.nc")) as file:
        assert "GeoTransform" not in file["spatial_ref"].attrs
        np.testing.assert_array_equal(file["y"], dataset["y"])


def test_two_coordinates_with_a_crs_are_refused(tmp_path):
    dataset = make_result().dataset
    dataset = dataset.assign_coords(other=dataset["spatial_ref"])
    with pytest.raises(ValueError, match="one coordinate with the CRS, got .*drop all but one"):
        Unmixing(dataset).to_geotiff(tmp_path)


@pytest.mark.parametrize(
    ("times", "labels", "tags"),
    [
        (
            np.array(["2021-05-01T10:15:30", "2021-05-01T22:00"], dtype="datetime64[ns]"),
            ["2021-05-01T101530", "2021-05-01T220000"],
            ["2021-05-01T10:15:30", "2021-05-01T22:00"],
        ),
        (
            np.array(["2021-05-01T10", "2021-05-01T10:00:00.25"], dtype="datetime64[ns]"),
            ["2021-05-01T100000.000000000", "2021-05-01T100000.250000000"],
            ["2021-05-01T10:00", "2021-05-01T10:00:00.250"],
        ),
        (np.array([2019.25, 2021.5]), ["t2019.25", "t2021.5"], ["2019.25", "2021.5"]),
        (np.array([3, 40]), ["t3", "t40"], ["3", "40"]),
        (None, ["0", "1"], [None, None]),
    ],
)
def test_files_are_named_by_their_dates(tmp_path, times, labels, tags):
    result = make_result(times=times, std=False)
    paths = result.to_geotiff(tmp_path)
    assert [p.name for p in paths] == [f"abundances_{label}.tif" for label in labels]
    for time, path in enumerate(paths):
        with rasterio.open(path) as file:
            assert file.tags().get("time") == tags[time]
            assert ("TIFFTAG_DATETIME" in file.tags()) == (np.asarray(times).dtype.kind == "M")
            np.testing.assert_array_equal(file.read(), maps_of(result, time))
    headers = result.to_envi(tmp_path)
    assert [p.name for p in headers[:-1]] == [f"abundances_{label}.hdr" for label in labels]


def test_positions_of_many_images_sort(tmp_path):
    dataset = make_result(times=None, size=(2, 2), std=False).dataset
    many = Unmixing(dataset.isel(time=[0] * 11))
    names = [p.name for p in many.to_geotiff(tmp_path)]
    assert names[0] == "abundances_00.tif" and names[10] == "abundances_10.tif"


def test_a_material_called_rmse_leaves_the_band_rmse_its_name(tmp_path):
    result = make_result(names=["soil", "rmse", "rock"])
    error = result.dataset["valid"].astype("float32") * 0.25
    dataset = result.dataset.assign(rmse=error)
    path = Unmixing(dataset).to_geotiff(tmp_path)[0]
    with rasterio.open(path) as file:
        assert file.descriptions == ("soil", "rmse (material)", "rock", "rmse")


@pytest.mark.parametrize("text", ["+proj=utm +zone=33", "GEOGCS[" * 20_000, "EPSG:" + "9" * 400])
def test_what_is_no_crs_is_an_error_that_says_so(tmp_path, text):
    dataset = make_result(NORTH_UP).dataset
    for attribute in ("crs_wkt", "spatial_ref"):
        dataset["spatial_ref"].attrs[attribute] = text
    for write in (Unmixing(dataset).to_geotiff, Unmixing(dataset).to_envi):
        with pytest.raises(
            ValueError, match="expected a CRS in WKT, got .*rio.write_crs"
        ) as caught:
            write(tmp_path / "maps")
        assert len(str(caught.value)) < 300
    assert not list(tmp_path.glob("maps/*"))


def test_brightness_is_a_band_before_the_rmse(tmp_path):
    result = make_result(names=["soil", "brightness", "rock"])
    shape = result.dataset["valid"]
    light = shape.copy(data=np.linspace(0.5, 1.5, shape.size).reshape(shape.shape))
    dataset = result.dataset.assign(brightness=light, rmse=0.01 * light)
    path = Unmixing(dataset).to_geotiff(tmp_path)[0]
    with rasterio.open(path) as file:
        assert file.descriptions == (
            "soil", "brightness (material)", "rock", "brightness", "rmse"
        )  # fmt: skip
        seen = dataset["valid"].isel(time=0).values
        np.testing.assert_allclose(file.read(4)[seen], light.values[0][seen], rtol=1e-6)
