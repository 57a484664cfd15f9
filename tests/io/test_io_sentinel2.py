"""Sentinel-2 band files, built to the product specification (see products.py)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rioxarray  # noqa: F401
from broken_products import CASES, assert_refused
from products import write_s2_metadata, write_safe, write_tiff
from rasterio.transform import Affine

from pyro_unmix.io import FileError, read_sequence
from pyro_unmix.io.formats.sentinel2 import READER
from pyro_unmix.io.integrity.tiff import check_jp2
from pyro_unmix.io.registry import find_reader

BANDS = ("B2", "B4", "B8A", "B12")
CENTRES = [492.1, 665.0, 864.0, 2185.7]


def _bands(start: int = 1500) -> dict[str, np.ndarray]:
    """Four bands of 40 x 30 pixels, all numbers different."""
    numbers = np.arange(start, start + 4 * 1200).reshape(4, 40, 30).astype("uint16")
    return dict(zip(BANDS, numbers, strict=True))


def _expected(bands: dict[str, np.ndarray], offset: float) -> np.ndarray:
    return (np.stack(list(bands.values()), axis=-1) + float(offset)) / 10000.0


@pytest.mark.parametrize(
    ("baseline", "stated", "offset"),
    [("05.11", -1000, -1000), ("04.00", -900, -900), ("03.01", None, 0)],
)
@pytest.mark.parametrize("level", ["2A", "1C"])
def test_the_offset_of_the_baseline(
    tmp_path: Path, level: str, baseline: str, stated: int | None, offset: int
) -> None:
    bands = _bands()
    bands["B2"][3, 4] = 0
    safe = write_safe(tmp_path, bands, level=level, baseline=baseline, offset=stated)
    cubes = read_sequence(safe)
    expected = _expected(bands, offset)
    expected[3, 4, 0] = np.nan
    np.testing.assert_allclose(cubes[0], expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(cubes.wavelength, CENTRES)
    np.testing.assert_allclose(cubes.fwhm, [66, 31, 22, 185])
    assert list(cubes.band.values) == ["B02", "B04", "B8A", "B12"]
    assert cubes.time[0] == np.datetime64("2024-08-30T10:05:59")
    assert cubes.rio.crs.to_epsg() == 32632
    assert cubes.rio.transform() == Affine(20, 0, 600000, 0, -20, 5100000)


def test_each_way_to_name_a_product(tmp_path: Path) -> None:
    safe = write_safe(tmp_path, _bands())
    folder = next(safe.glob("GRANULE/*/IMG_DATA/R20m"))
    first = read_sequence(safe)
    for path in (safe / "MTD_MSIL2A.xml", folder):
        assert find_reader(path) is READER
        assert read_sequence(path).identical(first)
    one = next(folder.glob("*B02_20m.jp2"))
    assert find_reader(one) is READER
    with pytest.raises(FileError, match="B02_20m.jp2: band files: is one band: pass its folder"):
        read_sequence(one)


def test_several_resolutions_are_ambiguous(tmp_path: Path) -> None:
    write_safe(tmp_path, _bands(), resolution=20)
    safe = write_safe(tmp_path, _bands(), resolution=60)
    with pytest.raises(FileError, match="pass one of these folders: GRANULE.*R20m, .*R60m"):
        READER.read(safe)


def _geotiffs(
    folder: Path,
    stamp: str,
    bands: dict[str, np.ndarray],
    *,
    pixel: float = 20.0,
    name: str = "S2A_T32TPS_{}_{}.tif",
    **options,
) -> None:
    grid = Affine(pixel, 0, 600000, 0, -pixel, 5100000)
    for band, values in bands.items():
        padded = band if len(band) > 2 else f"B0{band[1:]}"
        path = folder / name.format(stamp, padded)
        write_tiff(path, values[..., np.newaxis], transform=grid, **options)


def test_geotiffs_of_several_dates(tmp_path: Path) -> None:
    late, early = _bands(3000), _bands(1100)
    _geotiffs(tmp_path, "20240905T100559", late)
    _geotiffs(tmp_path, "20240830T100559", early)
    # The offsets differ: each date has its own.
    write_s2_metadata(tmp_path / "early_MTD_MSIL2A.xml", start="2024-08-30T10:05:59Z")
    write_s2_metadata(
        tmp_path / "late_MTD_MSIL2A.xml",
        start="2024-09-05T10:05:59Z",
        baseline="03.00",
        offset=None,
    )
    cubes = read_sequence(tmp_path)
    np.testing.assert_array_equal(
        cubes.time, np.array(["2024-08-30T10:05:59", "2024-09-05T10:05:59"], "M8[ns]")
    )
    np.testing.assert_allclose(cubes[0], _expected(early, -1000), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(cubes[1], _expected(late, 0), rtol=1e-5)
    assert cubes.sizes["time"] == 2


def test_scales_in_the_band_files(tmp_path: Path) -> None:
    bands = _bands()
    _geotiffs(tmp_path, "20240830", bands, scales=[1e-4], offsets=[-0.1], nodata=0)
    cubes = read_sequence(tmp_path)
    np.testing.assert_allclose(cubes[0], _expected(bands, -1000), rtol=1e-5, atol=1e-7)
    assert cubes.time[0] == np.datetime64("2024-08-30")
    # No metadata: the wavelengths of Sentinel-2A, which the names state.
    np.testing.assert_allclose(cubes.wavelength, [492.4, 664.6, 864.7, 2202.4])


def test_integers_without_metadata_are_ambiguous(tmp_path: Path) -> None:
    _geotiffs(tmp_path, "20240830", _bands())
    with pytest.raises(
        FileError, match=r"scale: there is no MTD_MSIL2A.xml .*20240830; .*pass scale=1e-4 and off"
    ):
        read_sequence(tmp_path)
    _geotiffs(tmp_path / "float", "20240830", {b: v / 1e4 for b, v in _bands().items()})
    np.testing.assert_allclose(read_sequence(tmp_path / "float")[0], _expected(_bands(), 0))


def test_the_caller_knows_scale_and_offset(tmp_path: Path) -> None:
    bands = _bands()
    bands["B2"][3, 4] = 0
    bands["B4"][0, 0] = 65535
    _geotiffs(tmp_path, "20240830", bands)
    for offset in (-0.1, 0.0):
        expected = np.stack(list(bands.values()), axis=-1) * 1e-4 + offset
        expected[3, 4, 0] = np.nan
        expected[0, 0, 1] = np.nan
        found = read_sequence(tmp_path, scale=1e-4, offset=offset)[0]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
    # One of them alone leaves 0.1 of reflectance open.
    with pytest.raises(FileError, match="offset: there is no MTD_MSIL2A.xml"):
        read_sequence(tmp_path, scale=1e-4)
    with pytest.raises(FileError, match="scale: there is no MTD_MSIL2A.xml"):
        read_sequence(tmp_path, offset=0)


def test_metadata_of_some_dates_only(tmp_path: Path) -> None:
    late, early = _bands(3000), _bands(1100)
    _geotiffs(tmp_path, "20240905T100559", late)
    _geotiffs(tmp_path, "20240830T100559", early)
    write_s2_metadata(tmp_path / "early_MTD_MSIL2A.xml", start="2024-08-30T10:05:59Z")
    with pytest.raises(FileError, match=r"of these dates: 20240905T100559; without it"):
        read_sequence(tmp_path)
    cubes = read_sequence(tmp_path, scale=1e-4, offset=-0.1)
    np.testing.assert_allclose(cubes[0], _expected(early, -1000), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(cubes[1], _expected(late, -1000), rtol=1e-5, atol=1e-7)


def test_a_scale_of_the_caller_holds_for_dates_of_different_offsets(tmp_path: Path) -> None:
    late, early = _bands(3000), _bands(1100)
    _geotiffs(tmp_path, "20240905", late, scales=[1e-4], offsets=[0])
    _geotiffs(tmp_path, "20240830", early, scales=[1e-4], offsets=[-0.1])
    cubes = read_sequence(tmp_path, scale=5e-5, offset=-0.05)
    np.testing.assert_allclose(cubes[0], _expected(early, -1000) / 2, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(cubes[1], _expected(late, 0) / 2, rtol=1e-5, atol=1e-7)


def test_the_twins_are_one_sensor(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A and B differ by 3.1 nm in B7 (20 nm wide) and 16.7 nm in B12, and are made to be joined."""
    bands = {"B7": _bands()["B2"], "B12": _bands()["B12"]}
    a = write_safe(tmp_path / "a", bands, satellite="S2A", spectral=False)
    b = write_safe(tmp_path / "b", bands, start="2024-09-04T10:05:59Z", spectral=False)
    cubes = read_sequence([b, a])
    np.testing.assert_allclose(cubes.wavelength, [779.7, 2185.7])  # of the first file
    assert [r.getMessage() for r in caplog.records if r.levelname == "WARNING"] == [
        f"{a}: bands are up to 17 nm off those of {b}, whose wavelengths are kept"
    ]
    others = write_safe(tmp_path / "c", _bands(), start="2024-09-04T10:05:59Z")
    with pytest.raises(FileError, match="bands: has 4 bands, but"):
        read_sequence([a, others])
    swapped = {"B6": bands["B7"], "B12": bands["B12"]}
    other = write_safe(tmp_path / "d", swapped, start="2024-09-04T10:05:59Z")
    with pytest.raises(FileError, match=r"band names: are \['B06', 'B12'\], but \['B07', 'B12'\]"):
        read_sequence([a, other])


def test_the_twins_in_one_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bands = {"B7": _bands()["B2"], "B12": _bands()["B12"]}
    for day, name in (("20240905", "S2A"), ("20240830", "S2B")):
        _geotiffs(tmp_path, day, bands)
        start = f"{day[:4]}-{day[4:6]}-{day[6:]}T10:05:59Z"
        path = tmp_path / f"{name}_MTD_MSIL2A.xml"
        write_s2_metadata(path, start=start, satellite=name, spectral=False)
    cubes = read_sequence(tmp_path)
    np.testing.assert_allclose(cubes.wavelength, [779.7, 2185.7])  # of the first date, B
    assert "satellites 2A, 2B: bands are up to 17 nm (B12 of 20240905) off" in caplog.text


def test_saturated_pixels_are_missing(tmp_path: Path) -> None:
    bands = _bands()
    bands["B4"][0, 0] = 65535
    expected = _expected(bands, -1000)
    expected[0, 0, 1] = np.nan
    safe = write_safe(tmp_path, bands)
    np.testing.assert_allclose(read_sequence(safe)[0], expected, rtol=1e-5, atol=1e-7)


def test_other_resolutions_are_refused_with_the_cure(tmp_path: Path) -> None:
    bands = _bands()
    _geotiffs(tmp_path, "20240830", {"B2": bands["B2"]}, scales=[1e-4])
    _geotiffs(tmp_path, "20240830", {"B4": bands["B4"][::2, ::2]}, pixel=40, scales=[1e-4])
    with pytest.raises(FileError, match="grid: 20 x 15 pixels of 40 m .* da.rio.reproject_match"):
        read_sequence(tmp_path)
    # The same size at another place is another grid, too.
    _geotiffs(tmp_path / "b", "20240830", {"B2": bands["B2"]}, scales=[1e-4])
    _geotiffs(tmp_path / "b", "20240904", {"B2": bands["B2"]}, scales=[1e-4], crs="EPSG:32631")
    with pytest.raises(FileError, match="grid: 40 x 30 pixels of 20 m"):
        read_sequence(tmp_path / "b")


def test_dates_must_have_the_same_bands(tmp_path: Path) -> None:
    bands = _bands()
    _geotiffs(tmp_path, "20240830", bands, scales=[1e-4])
    _geotiffs(tmp_path, "20240904", {b: bands[b] for b in ("B2", "B4", "B12")}, scales=[1e-4])
    with pytest.raises(FileError, match="band files: 20240904 lacks B8A, which other dates have"):
        read_sequence(tmp_path)


def test_a_band_must_be_there_once(tmp_path: Path) -> None:
    _geotiffs(tmp_path, "20240830", _bands(), scales=[1e-4])
    _geotiffs(tmp_path, "20240830", _bands(), name="S2A_T32TPR_{}_{}.tif", scales=[1e-4])
    with pytest.raises(FileError, match="B2 is there twice for 20240830: S2A_T32TPR"):
        read_sequence(tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("LC08_L2SP_{}_SR_{}.tif", "are of Landsat, whose bands have other wavelengths"),
        ("HLS.L30.T32TPS.{}.v2.0.{}.tif", "are of Landsat"),
        ("scene_{}_{}.tif", "nothing says that they are of Sentinel-2: keep MTD_MSIL2A.xml"),
    ],
)
def test_band_files_of_other_satellites(tmp_path: Path, name: str, message: str) -> None:
    _geotiffs(tmp_path, "20240830", _bands(), name=name, scales=[1e-4])
    with pytest.raises(FileError, match=message):
        READER.read(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('<BOA_ADD_OFFSET band_id="3">-1000', '<x band_id="3">-1000', "XML: is broken: mismatched"),
        ("BOA_ADD_OFFSET", "OTHER", "ADD_OFFSET: is missing for B2, but baseline 05.11 has one"),
        ("BOA_QUANTIFICATION_VALUE", "Q", ".//BOA_QUANTIFICATION_VALUE: is missing"),
        (">10000<", ">0<", "QUANTIFICATION_VALUE: must be positive, got 0"),
        (">10000<", ">many<", "QUANTIFICATION_VALUE: must be a number, got 'many'"),
        ('<CENTRAL unit="nm">', '<CENTRAL unit="um">', "CENTRAL: must have the unit nm, got 'um'"),
        ('band_id="3"', 'band_id="33"', "BOA_ADD_OFFSET: has the unknown band_id '33'"),
        (">2024-08-30T", ">30.8.2024 ", "PRODUCT_START_TIME: expected a date"),
        ("Level-2A", "Level-0", "expected the metadata of a product of level 1C or 2A"),
    ],
)
def test_broken_metadata(tmp_path: Path, old: str, new: str, message: str) -> None:
    safe = write_safe(tmp_path, _bands())
    metadata = safe / "MTD_MSIL2A.xml"
    assert old in metadata.read_text()
    metadata.write_text(metadata.read_text().replace(old, new))
    with pytest.raises(FileError, match=message):
        READER.read(safe)


def test_truncated_band_files(tmp_path: Path) -> None:
    safe = write_safe(tmp_path, _bands())
    band = next(safe.glob("GRANULE/*/IMG_DATA/R20m/*B04*"))
    whole = band.read_bytes()
    for size in range(len(whole) // 10, len(whole), len(whole) // 10):
        band.write_bytes(whole[:size])
        with pytest.raises(FileError, match="B04_20m.jp2: (size|jp2c): .* truncated"):
            READER.read(safe)


def test_the_boxes_and_the_end_of_a_code_stream(tmp_path: Path) -> None:
    stream = b"\xff\x4f\xff\x51" + bytes(20) + b"\xff\xd9"
    signature = b"\0\0\0\x0cjP  \r\n\x87\n"

    def check(content: bytes) -> None:
        (tmp_path / "a.jp2").write_bytes(content)
        check_jp2(tmp_path / "a.jp2")

    def box(length: int) -> bytes:
        return length.to_bytes(4, "big") + b"jp2c" + stream

    check(stream)
    check(signature + box(len(stream) + 8))
    check(signature + box(0))  # a length of 0: to the end of the file
    check(signature + b"\0\0\0\1jp2c" + (len(stream) + 16).to_bytes(8, "big") + stream)
    with pytest.raises(FileError, match="size: the code stream has no end"):
        check(stream[:-2])
    with pytest.raises(FileError, match="size: the code stream has no end"):
        check((signature + box(0))[:-3])
    # The end of the code stream is where the box says, whatever follows.
    with pytest.raises(FileError, match="size: the code stream has no end"):
        check(signature + box(len(stream) + 4) + b"\xff\xd9")
    with pytest.raises(FileError, match="size: the box b'jp2c' at byte 12 needs 35 bytes"):
        check(signature + box(len(stream) + 9))
    with pytest.raises(FileError, match="jp2c: there is no code stream"):
        check(signature)


def test_what_is_no_sentinel(tmp_path: Path) -> None:
    (tmp_path / "x_B02.tif").write_bytes(b"no image")
    assert not READER.sniff(tmp_path)
    (tmp_path / "MTD_MSIL2A.xml").write_text("<other/>")
    assert not READER.sniff(tmp_path / "MTD_MSIL2A.xml")
    safe = tmp_path / "a.SAFE"
    safe.mkdir()
    with pytest.raises(FileError, match="band files: expected files named ..._B02....tif"):
        read_sequence(safe)


def test_the_files_of_level_2a_that_are_no_bands(tmp_path: Path) -> None:
    safe = write_safe(tmp_path, _bands())
    folder = next(safe.glob("GRANULE/*/IMG_DATA/R20m"))
    for layer in ("SCL", "AOT", "TCI"):
        write_tiff(folder / f"T32TPS_20240830T100559_{layer}_20m.tif", np.ones((40, 30, 1), "u1"))
    assert READER.read(safe).num_bands == 4


def test_the_real_dates_as_band_files(data_dir: Path, tmp_path: Path) -> None:
    cubes = np.load(data_dir / "sentinel2_5dates.npy")
    names = ["B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B10", "B11", "B12"]
    for day, cube in enumerate(cubes, start=1):
        _geotiffs(
            tmp_path, f"2020030{day}", dict(zip(names, np.moveaxis(cube, -1, 0), strict=True))
        )
    read = read_sequence(tmp_path)
    np.testing.assert_array_equal(read, cubes)
    assert read.sizes["time"] == 5


@pytest.mark.parametrize("case", CASES["sentinel2"])
def test_the_corpus_of_broken_files(tmp_path: Path, case: str) -> None:
    assert_refused(CASES["sentinel2"][case](tmp_path))
