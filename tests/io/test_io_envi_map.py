"""Where ENVI images lie: map info and coordinate system, as GDAL reads the same headers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from envi_files import UTM, H, L, W, write

from pyro_unmix.io import FileError, read_sequence
from pyro_unmix.io.registry import read_image
from pyro_unmix.io.write import write_envi

pytest.importorskip("spectral")


@pytest.mark.parametrize("rotation", [0, 30, -43, 90, -135])
def test_the_transform_is_that_of_gdal(tmp_path: Path, rotation: float) -> None:
    rasterio = pytest.importorskip("rasterio")
    square = UTM.replace("30.0, 20.0", "14.5, 14.5")
    path = write(tmp_path, map_info=square.replace("}", f", rotation={rotation}}}"))
    image = read_image(path)
    with rasterio.open(tmp_path / "a.img") as gdal:
        # Sines and cosines of the same angle, times 14.5.
        np.testing.assert_allclose(image.transform, gdal.transform[:6], rtol=0, atol=1e-9)
        assert rasterio.crs.CRS.from_wkt(image.crs) == gdal.crs


def test_the_reference_pixel_is_where_the_map_coordinates_are(tmp_path: Path) -> None:
    for rotation in (0, 25):
        text = UTM.replace("1.0, 1.0", "3.0, 2.5").replace("}", f", rotation={rotation}}}")
        a, b, c, d, e, f = read_image(write(tmp_path, map_info=text)).transform or (0,) * 6
        # Upper left corners count from 1: (3, 2.5) is column 2, row 1.5 from the corner.
        np.testing.assert_allclose(a * 2 + b * 1.5 + c, 500_000, rtol=1e-12)
        np.testing.assert_allclose(d * 2 + e * 1.5 + f, 4_000_000, rtol=1e-12)


@pytest.mark.parametrize(
    ("info", "code"),
    [
        (UTM.replace("North", "South"), 32710),
        (UTM.replace("WGS-84", "North America 1983"), 26910),
        ("{Geographic Lat/Lon, 1, 1, 8.0, 50.0, 0.1, 0.1, WGS-84, units=Degrees}", 4326),
        (UTM.replace("WGS-84", "Unheard Of"), None),
        ("{Sinusoidal, 1, 1, 0, 0, 500, 500, MODIS}", None),
    ],
)
def test_coordinate_systems(tmp_path: Path, info: str, code: int | None) -> None:
    crs = pytest.importorskip("rasterio.crs").CRS
    image = read_image(write(tmp_path, map_info=info))
    if code is None:
        assert image.crs is None
        assert "unknown coordinate system" in " ".join(image.notes)
    else:
        assert crs.from_wkt(image.crs) == crs.from_epsg(code)


def test_a_coordinate_system_string_goes_first(tmp_path: Path) -> None:
    crs = pytest.importorskip("rasterio.crs").CRS.from_epsg(3035)
    path = write(tmp_path, map_info=UTM, coordinate_system_string="{" + crs.to_wkt() + "}")
    assert type(crs).from_wkt(read_image(path).crs) == crs


def as_gdal_reads_it(folder: Path) -> tuple[tuple[float, ...], object]:
    rasterio = pytest.importorskip("rasterio")
    with rasterio.open(folder / "a.img") as gdal:
        return tuple(gdal.transform)[:6], gdal.crs


def crs_of(wkt: str | None) -> object:
    return pytest.importorskip("rasterio.crs").CRS.from_wkt(wkt)


@pytest.mark.parametrize("rotation", [30, -43, 90])
def test_rotated_pixels_that_are_not_square_are_as_gdal_reads_them(
    tmp_path: Path, rotation: float, caplog: pytest.LogCaptureFixture
) -> None:
    image = read_image(write(tmp_path, map_info=UTM.replace("}", f", rotation={rotation}}}")))
    np.testing.assert_allclose(image.transform, as_gdal_reads_it(tmp_path)[0], rtol=0, atol=1e-9)
    assert "a.hdr: map info is rotated and its pixels are not square: taken as GDAL" in caplog.text


def test_a_reference_pixel_elsewhere_is_as_gdal_reads_it(tmp_path: Path) -> None:
    image = read_image(write(tmp_path, map_info=UTM.replace("1.0, 1.0", "3.0, 2.5")))
    assert image.transform == (30, 0, 499_940, 0, -20, 4_000_030)
    assert image.transform == as_gdal_reads_it(tmp_path)[0]


def test_a_rotated_image_with_its_reference_elsewhere_differs_from_gdal_by_what_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = UTM.replace("1.0, 1.0", "3.0, 2.5").replace("30.0, 20.0", "20.0, 20.0")
    image = read_image(write(tmp_path, map_info=text.replace("}", ", rotation=25}")))
    theirs = np.array(as_gdal_reads_it(tmp_path)[0])
    ours = np.array(image.transform)
    np.testing.assert_allclose(ours[[0, 1, 3, 4]], theirs[[0, 1, 3, 4]], rtol=0, atol=1e-9)
    shift = np.hypot(*(ours - theirs)[[2, 5]])
    assert shift > 10
    assert f"GDAL places the image {shift:.3g} map units elsewhere" in caplog.text


@pytest.mark.parametrize(
    "unit", ["Meters", "Feet", "Km", "Yards", "Miles", "Nautical Miles", "feet"]
)
def test_units_of_utm_are_as_gdal_reads_them(tmp_path: Path, unit: str) -> None:
    image = read_image(write(tmp_path, map_info=UTM.replace("Meters", unit)))
    transform, crs = as_gdal_reads_it(tmp_path)
    assert image.transform == transform == (30, 0, 500_000, 0, -20, 4_000_000)
    assert crs_of(image.crs) == crs
    (_, metres), (_, expected) = crs_of(image.crs).units_factor, crs.units_factor  # type: ignore[attr-defined]
    assert metres == expected


@pytest.mark.parametrize("unit", ["Degrees", "Minutes", "Seconds"])
def test_units_of_longitudes_are_as_gdal_reads_them(tmp_path: Path, unit: str) -> None:
    info = f"{{Geographic Lat/Lon, 2, 1, 8.0, 50.0, 0.25, 0.5, WGS-84, units={unit}}}"
    image = read_image(write(tmp_path, map_info=info))
    transform, crs = as_gdal_reads_it(tmp_path)
    np.testing.assert_allclose(image.transform, transform, rtol=1e-14)
    assert crs_of(image.crs) == crs


def test_longitudes_in_radians_become_degrees(tmp_path: Path) -> None:
    info = "{Geographic Lat/Lon, 1, 1, 0.5, 0.25, 0.125, 0.125, WGS-84, units=Radians}"
    image = read_image(write(tmp_path, map_info=info))
    expected = np.degrees([0.125, 0, 0.5, 0, -0.125, 0.25])
    np.testing.assert_allclose(image.transform, expected, rtol=1e-14)


@pytest.mark.parametrize("code", [32610, 32733, 26910, 4326, 3035, 3857, 2229, 5070])
@pytest.mark.parametrize("version", ["WKT1_ESRI", "WKT1_GDAL", "WKT2_2019"])
def test_a_coordinate_system_string_places_arbitrary_map_info(
    tmp_path: Path, code: int, version: str
) -> None:
    crs = pytest.importorskip("rasterio.crs").CRS.from_epsg(code)
    path = write(
        tmp_path,
        map_info="{Arbitrary, 1, 1, 70.0, 40.0, 3.0, 2.0}",
        coordinate_system_string="{" + crs.to_wkt(version=version) + "}",
    )
    image = read_image(path)
    assert image.transform == (3, 0, 70, 0, -2, 40)
    assert crs_of(image.crs) == crs


def test_a_coordinate_system_string_without_map_info(tmp_path: Path) -> None:
    crs = pytest.importorskip("rasterio.crs").CRS.from_epsg(3035)
    wkt = "{" + crs.to_wkt(version="WKT1_ESRI") + "}"
    image = read_image(write(tmp_path, coordinate_system_string=wkt))
    assert image.transform is None
    assert crs_of(image.crs) == crs


def test_feet_are_those_of_the_coordinate_system_string(tmp_path: Path) -> None:
    crs = pytest.importorskip("rasterio.crs").CRS.from_epsg(2229)  # feet of the US survey
    wkt = "{" + crs.to_wkt(version="WKT1_ESRI") + "}"
    info = "{State Plane (NAD 83), 1, 1, 6000000, 1800000, 30, 30, 405, units=Feet}"
    image = read_image(write(tmp_path, map_info=info, coordinate_system_string=wkt))
    assert image.transform == as_gdal_reads_it(tmp_path)[0]
    assert crs_of(image.crs) == crs


@pytest.mark.parametrize(
    ("code", "unit", "text"),
    [
        (None, "Furlongs", "units must be one of meters, .*got 'furlongs'"),
        (None, "Degrees", "has units=degrees, but the unit of its coordinate system is the metre"),
        (32610, "Feet", "has units=feet, but .* is the metre: correct one of them"),
        (2229, "Meters", "has units=meters, but .* is the US survey foot"),
        (4326, "Meters", "has units=meters, but .* is the degree"),
    ],
)
def test_units_that_contradict_the_coordinate_system(
    tmp_path: Path, code: int | None, unit: str, text: str
) -> None:
    crs = pytest.importorskip("rasterio.crs").CRS
    fields = {"map_info": UTM.replace("Meters", unit)}
    if code is not None:
        wkt = crs.from_epsg(code).to_wkt(version="WKT1_ESRI")
        fields["coordinate_system_string"] = "{" + wkt + "}"
    with pytest.raises(FileError, match=f"a.hdr: map info: {text}"):
        read_image(write(tmp_path, **fields))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("code", "transform"),
    [
        (32610, (30.0, 0.0, 500_000.0, 0.0, -20.0, 4_000_000.0)),
        (32733, (24.0, 7.0, 500_000.0, 7.0, -24.0, 8_000_000.0)),
        (4326, (0.25, 0.0, 8.5, 0.0, -0.125, 50.0)),
        (3035, (10.0, 0.0, 4_321_000.0, 0.0, -10.0, 3_210_000.0)),
        (2229, (30.0, 0.0, 6_000_000.0, 0.0, -30.0, 1_800_000.0)),
        (3035, None),
    ],
)
def test_what_we_write_comes_back_with_its_place(
    tmp_path: Path, code: int, transform: tuple[float, ...] | None
) -> None:
    crs = pytest.importorskip("rasterio.crs").CRS.from_epsg(code)
    maps = np.random.default_rng(0).dirichlet(np.ones(2), (1, H, W)).astype("f4")
    attrs = {"crs_wkt": crs.to_wkt()}
    if transform is not None:
        a, b, c, d, e, f = transform
        attrs["GeoTransform"] = " ".join(map(repr, (c, a, b, f, d, e)))
    dataset = xr.Dataset(
        {
            "abundances": (("time", "y", "x", "endmember"), maps),
            "reference_endmembers": (("wavelength", "endmember"), np.ones((L, 2), "f4")),
        },
        coords={
            "endmember": ["soil", "water"],
            "time": [np.datetime64("2021-07-31", "ns")],
            "spatial_ref": ((), 0, attrs),
        },
    )
    header, _ = write_envi(dataset, tmp_path)
    cubes = read_sequence(header)
    np.testing.assert_array_equal(cubes.values[0], maps[0])
    assert cubes.band.values.tolist() == ["soil", "water"]
    assert cubes.time.values[0] == np.datetime64("2021-07-31")
    assert crs_of(cubes.spatial_ref.attrs["crs_wkt"]) == crs
    found = read_image(header).transform
    assert (found is None) == (transform is None)
    if found is not None:
        np.testing.assert_allclose(found, np.array(transform), rtol=1e-12, atol=1e-12)


def test_arbitrary_map_info_is_no_place(tmp_path: Path) -> None:
    image = read_image(write(tmp_path, map_info="{Arbitrary, 1, 1, 0, 0, 1, 1, 0, North}"))
    assert image.transform is None
    assert image.crs is None
