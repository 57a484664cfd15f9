"""GeoTIFF: what several writers say in tags of wavelengths, scale, masks, places and dates."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401
import xarray as xr
from products import UTM33, cube, write_tiff
from rasterio.errors import NotGeoreferencedWarning
from rasterio.transform import Affine

from pyro_unmix.io import FileError, read_sequence
from pyro_unmix.io.formats.geotiff import READER
from pyro_unmix.io.formats.metadata import parse_time
from pyro_unmix.io.write import write_geotiff

NM = [450.0, 550.0, 650.0, 860.0, 1600.0, 2200.0]


def _band_tags(unit: str | None, values: list[float], **more: str) -> list[dict[str, str]]:
    unit_tag = {} if unit is None else {"wavelength_units": unit}
    return [{"wavelength": str(value), **unit_tag, **more} for value in values]


@pytest.mark.parametrize(
    "written",
    [
        {"band_tags": _band_tags("Nanometers", NM)},
        {"band_tags": _band_tags("Micrometers", [nm / 1000 for nm in NM])},
        {"band_tags": _band_tags(None, NM), "tags": {"wavelength_units": "nm"}},
        {"descriptions": [f"band {i} ({nm:.2f} Nanometers)" for i, nm in enumerate(NM)]},
        {"descriptions": [f"{nm / 1000:.3f} um" for nm in NM]},
        {"tags": {"wavelength": str(NM).strip("[]"), "wavelength units": "nm"}},
        {
            "namespaced": {
                "ENVI": {
                    "wavelength": "{" + ", ".join(map(str, NM)) + "}",
                    "wavelength_units": "nm",
                }
            }
        },
    ],
)
def test_wavelengths_of_several_writers(tmp_path: Path, written: dict) -> None:
    cubes = read_sequence(write_tiff(tmp_path / "a.tif", cube() / 1e4, **written))
    np.testing.assert_allclose(cubes.wavelength, NM)


def test_wavelengths_of_the_imagery_domain(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", cube() / 1e4)
    with rasterio.open(path, "r+") as file:
        for band, nm in enumerate(NM, start=1):
            um = {"CENTRAL_WAVELENGTH_UM": nm / 1000, "FWHM_UM": 0.01}
            file.update_tags(band, ns="IMAGERY", **um)
        file.update_tags(ns="IMAGERY", ACQUISITIONDATETIME="2021-05-06 10:11:12")
    cubes = read_sequence(path)
    np.testing.assert_allclose(cubes.wavelength, NM)
    np.testing.assert_allclose(cubes.fwhm, 10.0)
    assert cubes.time[0] == np.datetime64("2021-05-06T10:11:12")


def test_width_and_bad_bands_in_band_tags(tmp_path: Path) -> None:
    tags = _band_tags("nm", NM, fwhm="9.5", bbl="1")
    tags[2]["bbl"] = "0"
    cubes = read_sequence(write_tiff(tmp_path / "a.tif", cube() / 1e4, band_tags=tags))
    np.testing.assert_allclose(cubes.wavelength, NM[:2] + NM[3:])
    np.testing.assert_allclose(cubes.fwhm, 9.5)


def test_a_missing_unit_is_an_error_with_its_cure(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", cube() / 1e4, band_tags=_band_tags(None, NM))
    with pytest.raises(FileError, match="wavelength units: are not given .* wavelength_unit='nm'"):
        read_sequence(path)
    cubes = read_sequence(path, wavelength_unit="nm")
    np.testing.assert_allclose(cubes.wavelength, NM)


def test_rounded_descriptions_agree_with_the_tags(tmp_path: Path) -> None:
    """As far as the digits of the texts go, whatever the width of the bands."""
    exact = [450.4, 550.6, 650.2, 860.9, 1600.7, 2200.3]
    for texts in ([f"{nm:.0f} nm" for nm in exact], [f"{nm / 1000:.3f} um" for nm in exact]):
        tags = _band_tags("nm", exact, fwhm="2.5")
        path = write_tiff(tmp_path / "a.tif", cube() / 1e4, band_tags=tags, descriptions=texts)
        np.testing.assert_allclose(read_sequence(path).wavelength, exact)
    texts = [f"{nm + 0.4:.1f} nm" for nm in exact]
    path = write_tiff(tmp_path / "a.tif", cube() / 1e4, band_tags=tags, descriptions=texts)
    with pytest.raises(FileError, match="band 1 is at 450.4 nm in one place .* at 450.8 nm"):
        read_sequence(path)  # more than a tenth of 2.5 nm
    tags = _band_tags("nm", exact, fwhm="5")
    path = write_tiff(tmp_path / "a.tif", cube() / 1e4, band_tags=tags, descriptions=texts)
    np.testing.assert_allclose(read_sequence(path).wavelength, exact)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"band_tags": _band_tags("nm", [0.45, 0.5, 0.6, 0.7, 0.8, 0.9])}, "contradicts the val"),
        (
            {"band_tags": _band_tags("nm", NM), "descriptions": [f"{nm + 30} nm" for nm in NM]},
            "wavelength: band 1 is at 450 nm in one place of the file and at 480 nm in another",
        ),
        ({"band_tags": _band_tags("nm", NM)[:4]}, "wavelength: is given for 4 of 6 bands only"),
        ({"band_tags": _band_tags("nm", [1.0] * 5 + [np.nan])}, "wavelength: must be finite"),
        ({"band_tags": [{"wavelength": "red"}] * 6}, "wavelength: must be numbers: could not"),
        ({"tags": {"wavelength": "450, 550"}}, "must hold one number per band \\(6\\), got 2"),
        (
            {"band_tags": _band_tags("nm", NM[:3]) + _band_tags("um", [0.86, 1.6, 2.2])},
            "wavelength_units: must be the same in all bands, got nm, um",
        ),
    ],
)
def test_contradictions(tmp_path: Path, written: dict, message: str) -> None:
    path = write_tiff(tmp_path / "a.tif", cube() / 1e4, **written)
    with pytest.raises(FileError, match=message):
        read_sequence(path)


def test_scale_offset_and_nodata(tmp_path: Path) -> None:
    values = cube()
    values[1, 2] = -9999
    scales, offsets = [1e-4, 2e-4, 1e-4, 1e-4, 1e-4, 1e-4], [0.0, 0.01, -0.02, 0, 0, 0]
    path = write_tiff(tmp_path / "a.tif", values, nodata=-9999, scales=scales, offsets=offsets)
    cubes = read_sequence(path)
    expected = values * np.array(scales) + np.array(offsets)
    expected[1, 2] = np.nan
    np.testing.assert_allclose(cubes[0], expected, rtol=1e-6)


def test_the_reflectance_scale_factor_of_envi(tmp_path: Path) -> None:
    tags = {"namespaced": {"ENVI": {"reflectance_scale_factor": "10000"}}}
    cubes = read_sequence(write_tiff(tmp_path / "a.tif", cube(), **tags))
    np.testing.assert_allclose(cubes[0], cube() / 1e4, rtol=1e-6)
    both = write_tiff(tmp_path / "b.tif", cube(), **tags, scales=[1e-3] * 6)
    with pytest.raises(FileError, match="scale 0.001, but the reflectance scale factor is 10000"):
        read_sequence(both)
    broken = {"namespaced": {"ENVI": {"reflectance_scale_factor": "0"}}}
    with pytest.raises(FileError, match="reflectance scale factor: must be positive, got 0"):
        read_sequence(write_tiff(tmp_path / "c.tif", cube(), **broken))


def test_integers_without_a_scale_need_one(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", cube())
    with pytest.raises(FileError, match="scale: the file holds integers .* pass scale="):
        read_sequence(path)
    np.testing.assert_allclose(read_sequence(path, scale=1e-3)[0], cube() * 1e-3, rtol=1e-6)


def test_a_mask_in_the_file_marks_missing_pixels(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", cube())
    mask = np.full((4, 5), 255, dtype="uint8")
    mask[0, 1] = 0
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as file:
        file.write_mask(mask)
    expected = cube().astype("float32")
    expected[0, 1] = np.nan
    image = READER.read(path)
    np.testing.assert_array_equal(image.values, expected)
    assert "1 pixels are masked in the file" in image.notes


def test_an_alpha_band_is_no_spectral_band(tmp_path: Path) -> None:
    values = cube(bands=4).astype("uint16")
    values[..., 3] = 65535
    values[2, 3, 3] = 0
    path = write_tiff(tmp_path / "a.tif", values, photometric="RGB", ALPHA="YES")
    image = READER.read(path)
    assert image.values.shape == (4, 5, 3)
    assert np.isnan(image.values[2, 3]).all()
    assert np.isfinite(image.values).sum() == 3 * 19


def test_a_rotated_transform_is_kept(tmp_path: Path) -> None:
    rotated = Affine(26.0, 15.0, 5e5, 15.0, -26.0, 5e6)
    cubes = read_sequence(write_tiff(tmp_path / "a.tif", cube() / 1e4, transform=rotated))
    np.testing.assert_allclose(tuple(cubes.rio.transform()), tuple(rotated))
    assert "x" not in cubes.coords


def test_a_file_without_a_map(tmp_path: Path) -> None:
    with pytest.warns(NotGeoreferencedWarning):
        path = write_tiff(tmp_path / "a.tif", cube() / 1e4, crs=None, transform=None)
    cubes = read_sequence(path)
    assert "x" not in cubes.coords
    assert "spatial_ref" not in cubes.coords
    assert UTM33 not in str(cubes.coords)


def test_complex_numbers_are_refused(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", cube(dtype="complex64"))
    with pytest.raises(FileError, match="data type: must be real numbers of one type, got comp"):
        READER.read(path)


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({"ACQUISITIONDATE": "2021-03-04"}, "2021-03-04"),
        ({"time": "2021-03-04T05:06:07"}, "2021-03-04T05:06:07"),
        ({"time": "2024-01-01", "acquisition_date": "2021-03-04"}, "2021-03-04"),
        (
            {"TIFFTAG_DATETIME": "2024:01:01 00:00:00", "start_time": "2021-03-04T05:06:07Z"},
            "2021-03-04T05:06:07",
        ),
    ],
)
def test_dates_in_tags(tmp_path: Path, tags: dict[str, str], expected: str) -> None:
    cubes = read_sequence(write_tiff(tmp_path / "a.tif", cube() / 1e4, tags=tags))
    assert cubes.time[0] == np.datetime64(expected)


def test_when_the_file_was_made_is_no_date(tmp_path: Path) -> None:
    tags = {"TIFFTAG_DATETIME": "2021:03:04 05:06:07"}
    image = READER.read(write_tiff(tmp_path / "a.tif", cube(), tags=tags))
    assert image.dates is None
    assert image.notes == [
        "TIFFTAG_DATETIME 2021:03:04 05:06:07 is when the file was made, no date of the image: pass "
        "dates= to read_sequence if it is"
    ]
    # Beside a date of the image it is not worth a word.
    tags["start_time"] = "2021-01-01"
    image = READER.read(write_tiff(tmp_path / "b.tif", cube(), tags=tags))
    assert image.notes == ["date 2021-01-01T00:00:00 from the tag start_time"]


@pytest.mark.parametrize("text", ["10:15:00", "3.5", "20"])
def test_a_time_that_may_be_anything_is_no_date(tmp_path: Path, text: str) -> None:
    image = READER.read(write_tiff(tmp_path / "a.tif", cube(), tags={"time": text}))
    assert image.dates is None
    assert image.notes == [f"the date {text!r} in the tag time is not understood"]


@pytest.mark.parametrize("times", [["2021-05-01", "2021-06-11T10:15:30"], [1.5, 2.25], [3, 4]])
def test_our_own_maps_give_their_dates_back(tmp_path: Path, times: list[object]) -> None:
    cubes = xr.Dataset(
        {"abundances": (("time", "y", "x", "endmember"), np.full((2, 3, 4, 2), 0.5, "f4"))},
        {"time": np.array(times, "M8[ns]" if isinstance(times[0], str) else None)},
    )
    read = read_sequence(write_geotiff(cubes.assign_coords(endmember=["a", "b"]), tmp_path)[::-1])
    np.testing.assert_array_equal(read.time, cubes.time)
    assert list(read.band.values) == ["a", "b"]


def test_percent_is_a_hundredth(tmp_path: Path) -> None:
    values = cube(5, 4, 3).astype("f4") * 0.01  # some %
    path = write_tiff(tmp_path / "a.tif", values)
    expected = values.astype(np.float64) / 100
    with rasterio.open(path, "r+") as file:
        file.units = ("%", "percent", "%")
    np.testing.assert_allclose(read_sequence(path)[0], expected, rtol=1e-6)
    with rasterio.open(path, "r+") as file:  # of some bands; of numbers with a scale and offset
        file.units = ("%", "1", "")
        file.scales, file.offsets = (0.5, 0.5, 0.5), (2.0, 0.1, 0.1)
    expected = values.astype(np.float64) * 0.5 + [2.0, 0.1, 0.1]
    expected[..., 0] /= 100
    np.testing.assert_allclose(read_sequence(path)[0], expected, rtol=1e-6)


def test_percent_must_not_contradict_the_scale_factor(tmp_path: Path) -> None:
    stored = cube(5, 4, 2)
    for factor, fits in ((100, True), (10000, False)):
        tags = {"reflectance_scale_factor": str(factor)}
        path = write_tiff(tmp_path / f"{factor}.tif", stored, tags=tags)
        with rasterio.open(path, "r+") as file:
            file.units = ("%", "%")
        if fits:
            np.testing.assert_allclose(READER.read(path).scale, 0.01)
        else:
            with pytest.raises(FileError, match="the bands have the scale 0.01, but the reflec"):
                READER.read(path)


def test_other_units_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_tiff(tmp_path / "a.tif", cube(5, 4, 2).astype("f4") * 1e-4)
    with rasterio.open(path, "r+") as file:
        file.units = ("W/m2/sr/um", "")
    read_sequence(path)
    assert "unit w/m2/sr/um of the bands: taken for reflectance" in caplog.text


def test_a_date_that_is_none_is_told(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", cube(), tags={"acquisition_date": "last spring"})
    image = READER.read(path)
    assert image.dates is None
    assert "the date 'last spring' in the tag acquisition_date is not understood" in image.notes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2022-07-24T10:45:26.123456Z", "2022-07-24T10:45:26.123456"),
        ("2022-08-17T10:05:33+0000", "2022-08-17T10:05:33"),
        ("2022-08-17T00:05:33+02:00", "2022-08-16T22:05:33"),
        ("20240830T100559", "2024-08-30T10:05:59"),
        ("2024:02:29 10:05:59", "2024-02-29T10:05:59"),
    ],
)
def test_parse_time(text: str, expected: str) -> None:
    assert parse_time(text) == np.datetime64(expected)


@pytest.mark.parametrize("text", ["", "2023-02-29", "2023", "2023-01-01T25:00", "yesterday"])
def test_what_is_no_date(text: str) -> None:
    with pytest.raises(ValueError):
        parse_time(text)


@pytest.mark.parametrize("tag", [256, 258, 277, 284, 339])
def test_tags_without_a_value(tmp_path: Path, tag: int) -> None:
    """Such as damage makes: each is an error of the file, or as if it were not there."""
    path = write_tiff(tmp_path / "a.tif", cube() / 1e4, band_tags=_band_tags("nm", NM))
    content = bytearray(path.read_bytes())
    (first,) = struct.unpack("<I", content[4:8])
    (number,) = struct.unpack("<H", content[first : first + 2])
    places = [first + 2 + 12 * entry for entry in range(number)]
    (place,) = [p for p in places if struct.unpack("<H", content[p : p + 2]) == (tag,)]
    content[place + 4 : place + 8] = bytes(4)
    path.write_bytes(content)
    with contextlib.suppress(FileError):
        assert read_sequence(path).sizes["wavelength"] == len(NM)
