"""What we write, other libraries read back: rasterio (GDAL), SPy, h5py, xarray, rioxarray."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr

from pyro_unmix import SGLMM, ConjugateGuide, Unmixing, fit, simulate
from pyro_unmix.bases import DCT
from pyro_unmix.io.write import write_envi, write_geotiff
from pyro_unmix.methods import fcls

rasterio = pytest.importorskip("rasterio")
pytest.importorskip("rioxarray")
envi = pytest.importorskip("spectral.io.envi")
from affine import Affine  # noqa: E402
from rasterio.crs import CRS  # noqa: E402
from rasterio.errors import NotGeoreferencedWarning  # noqa: E402


def grid(width: float, height: float, degrees: float = 0.0, shear: float = 0.0) -> Affine:
    """Pixel size along columns and rows, turned counter-clockwise."""
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return Affine(
        width * cos, -height * sin + shear, 5e5, width * sin, height * cos + shear / 2, 5.8e6
    )


GRIDS = {
    "north-up": grid(30, -20),
    "south-up": grid(30, 20),
    "rotated": grid(30, -30, 25),
    "rotated, south-up": grid(30, 30, -130),
    "quarter turn": grid(30, -30, 90),
    "upside down": grid(-30, 30),
    "sheared": grid(30, -20, shear=7),
}
NORTH_UP = GRIDS["north-up"]
NAMES = ["soil", "végétation", "water 2"]
DATES = np.array(["2021-05-01", "2021-06-11T10:15:30"], dtype="datetime64[ns]")
HEIGHT, WIDTH, BANDS = 19, 23, 12
WAVELENGTHS = np.linspace(450.5, 2400.25, BANDS)
# What no grid has: every pixel, date and material its own number.
PLACES = [(0, 0), (0, WIDTH - 1), (HEIGHT - 1, 0), (HEIGHT - 2, WIDTH - 1), (7, 11)]


def make_result(
    transform: Affine | None = NORTH_UP,
    crs: int | None = 32633,
    *,
    times=DATES,
    names=NAMES,
    size=(HEIGHT, WIDTH),
    dtype="float32",
    std=True,
) -> Unmixing:
    """A result whose georeference rioxarray wrote."""
    rng = np.random.default_rng(0)
    num_dates = 2 if times is None else len(times)
    fractions = rng.dirichlet(np.ones(len(names)), (num_dates, *size)).astype(dtype)
    fractions[0, -1, 3:] = np.nan
    coords = {
        "endmember": names,
        "wavelength": ("wavelength", WAVELENGTHS, {"units": "nm", "long_name": "wavelength"}),
        "fwhm": ("wavelength", np.linspace(8, 12.5, BANDS)),
    }
    if times is not None:
        coords["time"] = times
    if transform is not None and not (transform.b or transform.d):
        coords["x"] = transform.c + transform.a * (np.arange(size[1]) + 0.5)
        coords["y"] = transform.f + transform.e * (np.arange(size[0]) + 0.5)
    maps = ("time", "y", "x", "endmember")
    described = {"long_name": "abundance estimate", "units": "1"}
    variables = {
        "abundances": (maps, fractions, described),
        "abundances_std": (maps, (fractions / 7).astype(dtype)),
        "valid": (maps[:3], rng.uniform(size=fractions.shape[:3]) < 0.8),
        "change": (maps[:3], rng.uniform(size=fractions.shape[:3]).astype(dtype)),
        "reference_endmembers": (
            ("wavelength", "endmember"),
            rng.uniform(0, 1, (BANDS, len(names))).astype(dtype),
        ),
    }
    if not std:
        del variables["abundances_std"]
    dataset = xr.Dataset(variables, coords)
    if crs is not None:
        dataset = dataset.rio.write_crs(crs)
    if transform is not None and (crs is not None or transform.b or transform.d):
        dataset = dataset.rio.write_transform(transform)
    for variable in dataset.variables.values():
        variable.encoding.clear()  # what a fit returns has none
    return Unmixing(dataset, losses=np.array([3.0, 2.0, 1.5]), method="fit")


def place(transform: Affine, row: float, column: float) -> tuple[float, float]:
    a, b, c, d, e, f = transform[:6]
    return a * column + b * row + c, d * column + e * row + f


def at(path: Path | str, transform: Affine, row: int, column: int) -> np.ndarray:
    """The bands that GDAL finds at the place of a pixel, whatever the order of the rows."""
    with rasterio.open(path) as file:
        return next(file.sample([place(transform, row + 0.5, column + 0.5)]))


def maps_of(
    result: Unmixing, time: int, name: str = "abundances", *, filled: bool = False
) -> np.ndarray:
    """(material, y, x); NaN where the pixel-date was not observed, unless filled."""
    maps = result.dataset[name].isel(time=time).transpose("endmember", "y", "x").to_numpy().copy()
    if not filled:
        maps[:, ~result.dataset["valid"].isel(time=time).to_numpy()] = np.nan
    return maps


def left_over(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.rglob("*") if p.name.startswith("."))


# ------------------------------------------------------------------ GeoTIFF


@pytest.mark.parametrize("kind", GRIDS)
def test_geotiff_is_what_gdal_reads(tmp_path, kind):
    result = make_result(GRIDS[kind])
    paths = result.to_geotiff(tmp_path / "new" / "maps")
    names = [f"abundances_{d}{s}.tif" for d in ("2021-05-01", "2021-06-11") for s in ("", "_std")]
    assert [p.name for p in paths] == names
    assert sorted(p.name for p in (tmp_path / "new" / "maps").iterdir()) == sorted(names)
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
        assert "spatial_ref" not in file and not {"x", "y"} & _variables(file)
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


# ------------------------------------------------------------------ ENVI


@pytest.mark.parametrize("epsg", [32633, 32733, 25833, 3035, 4326])
def test_envi_is_what_spy_and_gdal_read(tmp_path, epsg):
    result = make_result(crs=epsg)
    headers = result.to_envi(tmp_path)
    assert [p.name for p in headers] == [
        "abundances_2021-05-01.hdr",
        "abundances_2021-05-01_std.hdr",
        "abundances_2021-06-11.hdr",
        "abundances_2021-06-11_std.hdr",
        "endmembers.hdr",
    ]
    assert len(list(tmp_path.iterdir())) == 10
    for header, (time, name) in zip(
        headers, [(t, n) for t in (0, 1) for n in ("abundances", "abundances_std")], strict=False
    ):
        image = envi.open(header)
        expected = maps_of(result, time, name)
        np.testing.assert_array_equal(image.open_memmap(interleave="bsq"), expected)
        assert image.metadata["band names"] == NAMES
        assert image.metadata["data ignore value"] == "nan"
        date = ["2021-05-01T00:00:00Z", "2021-06-11T10:15:30Z"][time]
        assert image.metadata["acquisition time"] == date
        with rasterio.open(header.with_suffix(".img")) as file:
            np.testing.assert_array_equal(file.read(), expected)
            assert file.descriptions == tuple(NAMES)
            assert np.isnan(file.nodata)
            assert file.crs == CRS.from_epsg(epsg)
            assert file.transform.almost_equals(NORTH_UP, precision=1e-9)


def test_envi_says_utm_where_it_is(tmp_path):
    """For programs that read `map info` alone."""
    for epsg, expected in ((32633, ["33", "North", "WGS-84"]), (32701, ["1", "South", "WGS-84"])):
        fields = envi.open(make_result(crs=epsg).to_envi(tmp_path / str(epsg))[0]).metadata
        assert fields["map info"][0] == "UTM"
        assert [float(v) for v in fields["map info"][1:7]] == [1, 1, 500_000, 5_800_000, 30, 20]
        assert fields["map info"][7:] == expected
    fields = envi.open(make_result(crs=4326).to_envi(tmp_path / "geographic")[0]).metadata
    assert fields["map info"][0] == "Geographic Lat/Lon"


@pytest.mark.parametrize("kind", [name for name in GRIDS if name != "sheared"])
def test_envi_pixels_lie_where_they_belong(tmp_path, kind):
    result = make_result(GRIDS[kind])
    header = result.to_envi(tmp_path)[2]
    for row, column in PLACES:
        found = at(header.with_suffix(".img"), GRIDS[kind], row, column)
        np.testing.assert_array_equal(found, maps_of(result, 1)[:, row, column])
    with rasterio.open(header.with_suffix(".img")) as file:
        assert file.crs == CRS.from_epsg(32633)
        # The same footprint.
        corners = [(row, column) for row in (0, HEIGHT) for column in (0, WIDTH)]
        found = sorted(place(file.transform, *corner) for corner in corners)
        expected = sorted(place(GRIDS[kind], *corner) for corner in corners)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("transform", [GRIDS["sheared"], grid(30, -20, 25)])
def test_envi_refuses_a_transform_that_it_cannot_hold(tmp_path, transform):
    with pytest.raises(ValueError, match="no sheared images.*not square.*write GeoTIFF"):
        make_result(transform).to_envi(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_envi_library_of_the_endmembers(tmp_path, dtype):
    result = make_result(dtype=dtype)
    library = envi.open(result.to_envi(tmp_path)[-1])
    assert isinstance(library, envi.SpectralLibrary)
    np.testing.assert_array_equal(library.spectra, result.reference_endmembers.to_numpy().T)
    assert library.spectra.dtype == dtype
    assert library.names == NAMES
    assert library.bands.centers == WAVELENGTHS.tolist()
    assert library.bands.bandwidths == np.linspace(8, 12.5, BANDS).tolist()
    assert library.bands.band_unit == "Nanometers"


def test_envi_library_without_wavelengths(tmp_path):
    dataset = make_result().dataset.drop_vars(["wavelength", "fwhm"])
    header = Unmixing(dataset).to_envi(tmp_path)[-1]
    assert "wavelength" not in header.read_text(encoding="utf-8")
    assert envi.open(header).bands.centers is None


@pytest.mark.parametrize("name", ["soil, dry", "so}il", "two\nlines"])
def test_envi_refuses_names_that_a_header_cannot_hold(tmp_path, name):
    with pytest.raises(ValueError, match="commas, braces or line breaks.*assign_coords"):
        make_result(names=["a", name, "c"]).to_envi(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with rasterio.open(make_result(names=["a", name, "c"]).to_geotiff(tmp_path)[0]) as file:
        assert file.descriptions[1] == name


def test_what_was_not_observed_is_nodata_unless_asked_for(tmp_path):
    result = make_result()
    valid = result.valid.to_numpy()
    assert 0 < valid.mean() < 1
    for write, suffix in ((write_geotiff, ".tif"), (write_envi, ".img")):
        for filled in (False, True):
            folder = tmp_path / f"{suffix}{filled}"
            write(result.to_dataset(), folder, filled=filled)
            for time, date in enumerate(("2021-05-01", "2021-06-11")):
                for name, end in (("abundances", ""), ("abundances_std", "_std")):
                    with rasterio.open(folder / f"abundances_{date}{end}{suffix}") as file:
                        found, known = file.read(), file.dataset_mask() > 0
                    expected = result.dataset[name][time].transpose("endmember", "y", "x").values
                    seen = valid[time] | filled
                    np.testing.assert_array_equal(found[:, seen], expected[:, seen])
                    assert np.isnan(found[:, ~seen]).all()
                    np.testing.assert_array_equal(known, seen & ~np.isnan(expected[0]))
    # The result itself keeps what the model says.
    assert result.abundances.notnull().values[~valid].any()


def test_materials_without_names_are_numbered(tmp_path):
    result = make_result(names=[0, 1, 2])
    with rasterio.open(result.to_geotiff(tmp_path)[0]) as file:
        assert file.descriptions == ("material 0", "material 1", "material 2")
    assert envi.open(result.to_envi(tmp_path)[0]).metadata["band names"] == [
        "material 0",
        "material 1",
        "material 2",
    ]


# ------------------------------------------------------------------ NetCDF


def _variables(file: h5py.File) -> set[str]:
    """Names with data; a dimension without coordinate is a placeholder in HDF5."""
    placeholder = b"This is a netCDF dimension but not a netCDF variable"
    return {n for n in file if not file[n].attrs.get("NAME", b"").startswith(placeholder)}


def _text(attributes, name: str) -> str:
    value = attributes[name]
    return value.decode() if isinstance(value, bytes) else value


def _dims(variable) -> tuple[str, ...]:
    return tuple(scale[0].name.strip("/") for scale in variable.dims)


def test_netcdf_follows_the_cf_conventions(tmp_path):
    path = make_result().to_netcdf(tmp_path / "new" / "r.nc")
    assert path == tmp_path / "new" / "r.nc"
    with h5py.File(path) as file:
        assert _text(file.attrs, "Conventions") == "CF-1.9"
        assert _text(file.attrs, "method") == "fit"
        assert _text(file.attrs, "source").startswith("pyro_unmix")
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
            found = {key: _text(file[name].attrs, key) for key in attributes}
            assert found == attributes, name
        assert _dims(file["abundances"]) == ("endmember", "time", "y", "x")
        assert _dims(file["valid"]) == ("time", "y", "x")
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
        assert CRS.from_wkt(_text(parameters, "crs_wkt")) == CRS.from_epsg(32633)


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
        assert _text(file["x"].attrs, "standard_name") == "longitude"
        assert _text(file["y"].attrs, "standard_name") == "latitude"
        assert _text(file["x"].attrs, "units") == "degrees_east"
        assert _text(file["spatial_ref"].attrs, "grid_mapping_name") == "latitude_longitude"
    with rasterio.open(f"netcdf:{path}:valid") as file:
        assert file.crs == CRS.from_epsg(4326)


def test_netcdf_completes_a_bare_wkt_and_goes_without_pyproj(tmp_path, monkeypatch):
    """The readers write crs_wkt and GeoTransform, nothing more."""
    result = make_result()
    keep = ("crs_wkt", "GeoTransform")
    attrs = result.dataset["spatial_ref"].attrs
    result.dataset["spatial_ref"].attrs = {key: attrs[key] for key in keep}
    with h5py.File(result.to_netcdf(tmp_path / "a.nc")) as file:
        assert _text(file["spatial_ref"].attrs, "grid_mapping_name") == "transverse_mercator"
    monkeypatch.setitem(sys.modules, "pyproj", None)
    with h5py.File(result.to_netcdf(tmp_path / "b.nc")) as file:
        assert "grid_mapping_name" not in file["spatial_ref"].attrs
        assert "standard_name" not in file["x"].attrs
        assert CRS.from_wkt(_text(file["spatial_ref"].attrs, "crs_wkt")).to_epsg() == 32633
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
        assert "time" not in _variables(file)


def test_netcdf_leaves_out_what_the_method_has_not(tmp_path):
    result = Unmixing(make_result(std=False).dataset, method="fcls")
    with h5py.File(result.to_netcdf(tmp_path / "r.nc")) as file:
        assert {"abundances_std", "losses"}.isdisjoint(_variables(file))
        assert "ancillary_variables" not in file["abundances"].attrs


def test_packed_coordinates_of_a_source_file_stay_what_they_are(tmp_path):
    """An encoding that fitted the file of the images would round x to whole kilometres here."""
    result = make_result()
    result.dataset["x"].encoding = {"dtype": "int16", "scale_factor": 1000.0, "chunksizes": (500,)}
    result.dataset["time"].attrs["calendar"] = "standard"
    with xr.open_dataset(result.to_netcdf(tmp_path / "r.nc")) as back:
        np.testing.assert_array_equal(back["x"], result.dataset["x"])
        np.testing.assert_array_equal(back["time"], DATES)


# ------------------------------------------------------------------ Zarr


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


# ------------------------------------------------------------------ files that are there


def test_files_are_replaced_only_on_demand_and_together(tmp_path):
    old, new = make_result(), make_result(dtype="float64")
    (tmp_path / "abundances_2021-06-11.tif").write_text("mine")
    with pytest.raises(FileExistsError, match="2021-06-11.tif exists: pass overwrite=True"):
        old.to_geotiff(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["abundances_2021-06-11.tif"]
    assert (tmp_path / "abundances_2021-06-11.tif").read_text() == "mine"
    paths = old.to_geotiff(tmp_path, overwrite=True)
    new.to_geotiff(tmp_path, overwrite=True)
    with rasterio.open(paths[2]) as file:
        assert file.dtypes[0] == "float64"

    (tmp_path / "endmembers.sli").write_text("mine")
    with pytest.raises(FileExistsError, match="endmembers.sli exists"):
        old.to_envi(tmp_path)
    assert not list(tmp_path.glob("*.hdr"))
    old.to_envi(tmp_path, overwrite=True)
    header = new.to_envi(tmp_path, overwrite=True)[0]
    assert np.dtype(envi.open(header).dtype) == "float64"

    path = old.to_netcdf(tmp_path / "r.nc")
    with pytest.raises(FileExistsError, match="r.nc exists: pass overwrite=True, or another"):
        new.to_netcdf(path)
    new.to_netcdf(path, overwrite=True)
    with xr.open_dataset(path) as back:
        assert back["abundances"].dtype == "float64"
    with pytest.raises(FileExistsError, match="is a folder"):
        new.to_netcdf(tmp_path, overwrite=True)
    assert left_over(tmp_path) == []


def test_a_failure_leaves_the_old_file_and_nothing_half_done(tmp_path, monkeypatch):
    result = make_result()
    path = result.to_netcdf(tmp_path / "r.nc")
    tif = result.to_geotiff(tmp_path)[0]
    before = path.read_bytes(), tif.read_bytes()
    result.dataset.attrs["broken"] = json  # no attribute can hold a module
    with pytest.raises(TypeError):
        result.to_netcdf(path, overwrite=True)

    def full(*_args, **_kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(rasterio.io.DatasetWriter, "update_tags", full, raising=False)
    with pytest.raises((OSError, TypeError)):
        result.to_geotiff(tmp_path, overwrite=True)
    assert (path.read_bytes(), tif.read_bytes()) == before
    assert left_over(tmp_path) == []


def test_files_have_the_usual_permissions(tmp_path):
    (tmp_path / "mine").write_text("")
    usual = (tmp_path / "mine").stat().st_mode
    result = make_result()
    paths = [*result.to_geotiff(tmp_path), *result.to_envi(tmp_path)]
    for path in [*paths, result.to_netcdf(tmp_path / "r.nc")]:
        assert path.stat().st_mode == usual, path


def test_writing_changes_nothing_in_the_result(tmp_path):
    result = make_result()
    before = result.dataset.copy(deep=True)
    result.to_netcdf(tmp_path / "r.nc")
    result.to_geotiff(tmp_path)
    result.to_envi(tmp_path)
    xr.testing.assert_identical(result.dataset, before)
    assert result.dataset["abundances"].dims == ("time", "y", "x", "endmember")
    assert not any(v.encoding for v in result.dataset.variables.values())


# ------------------------------------------------------------------ from cubes to files


def test_the_place_of_the_cubes_reaches_the_files_of_every_method(tmp_path):
    library = simulate.library(WAVELENGTHS)
    scene = simulate.scaled_scene(num_dates=2, height=5, width=6, library=library, seed=2)
    cubes = scene.cubes.assign_coords(
        time=DATES,
        x=500_015.0 + 30 * np.arange(6),
        y=5_799_990.0 - 20 * np.arange(5),
        fwhm=("wavelength", np.full(BANDS, 9.5)),
    )
    cubes = cubes.rio.write_crs(32633).rio.write_transform(NORTH_UP)
    cubes.attrs["standard_name"] = "surface_bidirectional_reflectance"
    model = SGLMM(scene.reference_endmembers, basis=DCT(2))
    images = [cubes.isel(time=t) for t in range(2)]
    results = {
        "fit": fit(model, ConjugateGuide(model), images, num_steps=2, progress=False),
        "fcls": fcls(cubes, 3, progress=False),
    }
    for name, result in results.items():
        with rasterio.open(result.to_geotiff(tmp_path / name)[0]) as file:
            assert file.crs == CRS.from_epsg(32633) and file.transform == NORTH_UP
            np.testing.assert_array_equal(file.read(), maps_of(result, 0))
        library = envi.open(result.to_envi(tmp_path / name)[-1])
        np.testing.assert_allclose(library.bands.centers, WAVELENGTHS, rtol=0, atol=1e-9)
        assert library.bands.bandwidths == [9.5] * BANDS
        with xr.open_dataset(result.to_netcdf(tmp_path / name / "r.nc")) as back:
            assert back.rio.crs == CRS.from_epsg(32633)
            np.testing.assert_array_equal(back["time"], DATES)
            # Attributes of the images are not those of the mask.
            assert "standard_name" not in back["valid"].attrs
