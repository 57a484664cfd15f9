"""DESIS L2A, from files built to the product specification (see products.py)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401
from broken_products import CASES, assert_refused
from products import GRID, NODATA, cube, write_desis

from pyro_unmix.io import FileError, read_sequence
from pyro_unmix.io.formats.desis import READER
from pyro_unmix.io.registry import find_reader

NM = [402.5, 405.1, 550.3, 700.0, 850.2, 999.5]


@pytest.mark.parametrize("given", ["folder", "metadata", "image"])
def test_values_and_metadata(tmp_path: Path, given: str) -> None:
    values = cube(9, 7)
    values[2, 3] = NODATA
    gain, offset = [1e-4, 2e-4, 1e-4, 1e-4, 1e-4, 1e-4], [0.0, 0.01, -0.005, 0, 0, 0]
    metadata = write_desis(tmp_path / "a", values, NM, gain=gain, offset=offset)
    image = next((tmp_path / "a").glob("*SPECTRAL_IMAGE.tif"))
    path = {"folder": tmp_path / "a", "metadata": metadata, "image": image}[given]
    assert find_reader(path) is READER
    cubes = read_sequence(path)
    expected = values * np.array(gain) + np.array(offset)
    expected[2, 3] = np.nan
    np.testing.assert_allclose(cubes[0], expected, rtol=1e-6)
    np.testing.assert_array_equal(cubes.wavelength, NM)
    np.testing.assert_array_equal(cubes.fwhm, [3.5] * 6)
    assert cubes.time[0] == np.datetime64("2020-06-01T23:45:20.512")
    assert cubes.rio.transform() == GRID


def test_nodata_that_the_image_does_not_declare(tmp_path: Path) -> None:
    values = cube()
    values[0, 0] = NODATA
    metadata = write_desis(tmp_path, values, NM)
    with rasterio.open(next(tmp_path.glob("*IMAGE.tif")), "r+") as file:
        file.nodata = None
    image = READER.read(metadata)
    assert image.nodata == -32768
    assert "nodata is not declared" in image.notes[-1]
    text = metadata.read_text().replace(
        "<specific>", "<specific><backgroundValue>-9999</backgroundValue>"
    )
    metadata.write_text(text)
    assert READER.read(metadata).nodata == -9999


def test_radiance_is_refused(tmp_path: Path) -> None:
    stem = "DESIS-HSI-L1C-DT0884573241_001-20200601T234520-V0210"
    metadata = write_desis(tmp_path, cube(), NM, stem=stem)
    with pytest.raises(FileError, match="file name: expected DESIS-HSI-L2A-.* hold radiance"):
        read_sequence(metadata)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<gainOfBand>0.0001</gainOfBand>", "", "gainOfBand: is missing"),
        (">550.3<", ">inf<", "wavelengthCenterOfBand: must be finite"),
        ("<gainOfBand>0.0001<", "<gainOfBand>0<", "scale: must be positive"),
        ("<bandNumber>6<", "<bandNumber>six<", "bandCharacterisation: must number the bands"),
        ("temporalCoverage>", "x>", "base/temporalCoverage/startTime: is missing"),
        ("</hsi_doc>", "", "XML: is broken: no element found"),
    ],
)
def test_broken_metadata(tmp_path: Path, old: str, new: str, message: str) -> None:
    metadata = write_desis(tmp_path, cube(), NM)
    assert old in metadata.read_text()
    metadata.write_text(metadata.read_text().replace(old, new))
    with pytest.raises(FileError, match=message):
        read_sequence(metadata)


def test_the_image_must_have_as_many_bands(tmp_path: Path) -> None:
    metadata = write_desis(tmp_path, cube(bands=4), NM)
    with pytest.raises(FileError, match="describes 6 bands, but DESIS-.*tif has 4"):
        READER.read(metadata)


@pytest.mark.parametrize("case", CASES["desis"])
def test_the_corpus_of_broken_files(tmp_path: Path, case: str) -> None:
    assert_refused(CASES["desis"][case](tmp_path))
