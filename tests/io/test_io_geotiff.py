"""GeoTIFF: layouts, and files that are not complete."""

from __future__ import annotations

import struct
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401
from broken_products import CASES, assert_refused
from products import GRID, cube, write_tiff

from pyro_unmix.io import FileError, read_sequence
from pyro_unmix.io.formats.geotiff import READER
from pyro_unmix.io.integrity.tiff import check_tiff
from pyro_unmix.io.registry import find_reader


def test_the_real_enmap_tile(data_dir: Path) -> None:
    path = data_dir / "readers" / "enmap_l2a_tile.tif"
    with rasterio.open(path) as source:
        stored = source.read()
        tags = [source.tags(band) for band in source.indexes]
        transform, crs = source.transform, source.crs
    kept = [i for i in range(224) if (stored[i] != -32768).any()]
    cubes = read_sequence(path)
    assert cubes.shape == (1, 32, 32, len(kept))
    assert len(kept) < 224
    expected = np.where(stored == -32768, np.nan, stored * np.float64(1e-4))[kept]
    # Spectra of zeros are fill, in any format.
    expected[:, (stored[kept] == 0).all(axis=0)] = np.nan
    np.testing.assert_allclose(cubes[0].transpose("wavelength", "y", "x"), expected, rtol=1e-6)
    wavelength = [float(tags[i]["wavelength"]) for i in kept]
    np.testing.assert_allclose(cubes.wavelength, wavelength)
    assert (np.diff(wavelength) < 0).any()  # the detectors overlap
    np.testing.assert_allclose(cubes.fwhm, [float(tags[i]["fwhm"]) for i in kept])
    assert cubes.time[0] == np.datetime64("2022-07-24T10:45:26")
    assert cubes.rio.crs == crs
    assert cubes.rio.transform() == transform
    assert float(cubes.x[0]) == 366015.0 + 15
    assert float(cubes.y[-1]) == 5806125.0 - 31.5 * 30


def test_a_tiff_is_found_by_its_content(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "image.dat", cube(), driver="GTiff")
    assert find_reader(path).name == "GeoTIFF"
    (tmp_path / "garbage.tif").write_bytes(b"this is no image")
    assert not READER.sniff(tmp_path / "garbage.tif")
    assert not READER.sniff(tmp_path)
    with pytest.raises(FileError, match=r"garbage.tif: header: is no TIFF header \(16 bytes"):
        READER.read(tmp_path / "garbage.tif")
    with pytest.raises(FileNotFoundError, match="no such file"):
        READER.read(tmp_path / "none.tif")


def test_without_rasterio_it_is_said_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_tiff(tmp_path / "a.tif", cube())
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(ImportError, match='pip install "pyro-unmix\\[io\\]"'):
        read_sequence(path)


LAYOUTS = {
    "strips": {},
    "pixel": {"interleave": "pixel"},
    "tiled": {"tiled": True, "blockxsize": 16, "blockysize": 16},
    "deflate": {"compress": "deflate", "tiled": True, "blockxsize": 16, "blockysize": 16},
    "lzw": {"compress": "lzw", "predictor": 2},
    "zstd": {"compress": "zstd"},
    "big": {"BIGTIFF": "YES"},
    "big-endian": {"ENDIANNESS": "BIG"},
    "big both": {"BIGTIFF": "YES", "ENDIANNESS": "BIG", "compress": "packbits"},
    "cog": {"driver": "COG", "compress": "deflate"},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_numbers(tmp_path: Path, layout: str) -> None:
    values = cube(33, 21, 3)
    image = READER.read(write_tiff(tmp_path / "a.tif", values, **LAYOUTS[layout]))
    np.testing.assert_array_equal(image.values, values)
    assert image.values.dtype == np.int16
    assert image.transform == tuple(GRID)[:6]
    assert "33N" in str(image.crs)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_truncated_file_is_read(tmp_path: Path, layout: str) -> None:
    """GDAL opens them; each cut is an error, or the part that is lost holds no data."""
    values = cube(33, 21, 3)
    whole = write_tiff(tmp_path / "a.tif", values, **LAYOUTS[layout]).read_bytes()
    path = tmp_path / "cut.tif"
    errors = 0
    for size in [*range(0, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:size])
        try:
            read = READER.read(path).values
        except FileError as error:
            errors += 1
            assert str(error).startswith(str(path))
        else:
            np.testing.assert_array_equal(read, values)
    assert errors > 0.9 * len(whole) / 97


def _change_tag(path: Path, tag: int, value: int) -> None:
    """Set a tag of a small little-endian TIFF to another number."""
    raw = bytearray(path.read_bytes())
    start = struct.unpack("<I", raw[4:8])[0]
    for entry in range(struct.unpack("<H", raw[start : start + 2])[0]):
        position = start + 2 + 12 * entry
        found, kind = struct.unpack("<HH", raw[position : position + 4])
        if found == tag:
            size = {3: "<HH", 4: "<I"}[kind]
            content = (value, 0) if kind == 3 else (value,)
            raw[position + 8 : position + 12] = struct.pack(size, *content)
            path.write_bytes(raw)
            return
    raise LookupError(tag)


@pytest.mark.parametrize(
    ("tag", "value", "message"),
    [
        (256, 0, "ImageWidth: must be positive, got \\[0\\]"),
        (256, 60, "declares .* bytes of pixels, but the blocks hold only"),
        (256, 60000, "declares .* bytes of pixels, but the blocks hold only"),
        (257, 60000, "StripOffsets: lists 1 blocks, but 60000 rows, 21 columns and 3 bands need "),
        (277, 60000, "declares .* bytes of pixels, but the blocks hold only"),
        (258, 64, "declares .* bytes of pixels"),
    ],
)
def test_header_and_size_must_agree(tmp_path: Path, tag: int, value: int, message: str) -> None:
    path = write_tiff(tmp_path / "a.tif", cube(33, 21, 3))
    if tag == 258:
        # One value per band stands elsewhere in the file: a file of one band has it inline.
        path = write_tiff(tmp_path / "a.tif", cube(33, 21, 1))
    _change_tag(path, tag, value)
    size = path.stat().st_size
    tracemalloc.start()
    try:
        with pytest.raises(FileError, match=message):
            READER.read(path)
        assert tracemalloc.get_traced_memory()[1] < 2 * size + 200_000
    finally:
        tracemalloc.stop()


def test_blocks_beyond_the_end_are_noticed_without_reading_them(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", cube(33, 21, 1), compress="deflate")
    check_tiff(path)
    _change_tag(path, 279, 100_000)
    with pytest.raises(FileError, match="size: 1 of 1 blocks of page 0 lie beyond the [0-9]+ byte"):
        check_tiff(path)


def test_a_compressed_header_cannot_declare_without_bound(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", cube(33, 21, 1), compress="deflate")
    _change_tag(path, 257, 65000)
    _change_tag(path, 278, 65000)
    with pytest.raises(FileError, match="size: the header declares 2730000 bytes"):
        check_tiff(path)


def test_a_list_of_pages_without_end_is_refused(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", cube())
    raw = bytearray(path.read_bytes())
    start = struct.unpack("<I", raw[4:8])[0]
    end = start + 2 + 12 * struct.unpack("<H", raw[start : start + 2])[0]
    raw[end : end + 4] = struct.pack("<I", start)
    path.write_bytes(raw)
    with pytest.raises(FileError, match="pages: the list of pages does not end"):
        READER.read(path)


def test_pages_are_not_dropped_silently(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", cube(bands=1))
    raw = bytearray(path.read_bytes())
    start = struct.unpack("<I", raw[4:8])[0]
    length = 2 + 12 * struct.unpack("<H", raw[start : start + 2])[0] + 4
    page = raw[start : start + length]
    # Link a copy of the page behind the first one.
    raw[start + length - 4 : start + length] = struct.pack("<I", len(raw))
    path.write_bytes(raw + page)
    with pytest.raises(FileError, match="pages: the file holds 2 full-size images"):
        READER.read(path)


def test_overviews_are_no_pages(tmp_path: Path) -> None:
    values = cube(64, 64, 2)
    path = write_tiff(tmp_path / "a.tif", values)
    with rasterio.open(path, "r+") as file:
        file.build_overviews([2, 4])
    np.testing.assert_array_equal(READER.read(path).values, values)


def test_blocks_that_were_never_written(tmp_path: Path) -> None:
    values = np.zeros((40, 40, 1), dtype="int16")
    values[:16, :16] = 7
    tiles = {"tiled": True, "blockxsize": 16, "blockysize": 16, "SPARSE_OK": True}
    path = write_tiff(tmp_path / "a.tif", values, **tiles)
    with pytest.raises(FileError, match="TileByteCounts: 8 of 9 blocks were never written"):
        READER.read(path)
    path = write_tiff(tmp_path / "b.tif", values, nodata=0, **tiles)
    np.testing.assert_array_equal(READER.read(path).values, values)


@pytest.mark.parametrize("case", CASES["geotiff"])
def test_the_corpus_of_broken_files(tmp_path: Path, case: str) -> None:
    assert_refused(CASES["geotiff"][case](tmp_path))
