"""EnMAP L2A, from files built to the product specification (see products.py)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rioxarray  # noqa: F401
from broken_products import CASES, assert_refused
from products import GRID, NODATA, cube, write_enmap

from pyro_unmix.io import FileError, read_sequence
from pyro_unmix.io.formats.enmap import READER
from pyro_unmix.io.registry import find_reader

# As in real products, the detectors overlap.
NM = [418.2, 550.0, 993.1, 902.3, 1650.0, 2200.0]


@pytest.mark.parametrize("given", ["folder", "metadata", "image"])
def test_values_and_metadata(tmp_path: Path, given: str) -> None:
    values = cube()
    values[0, 0] = NODATA
    values[:, :, 4] = NODATA
    values[1, 1, 0] = -12  # small negative reflectance is legal
    gain = [1e-4, 1e-4, 2e-4, 1e-4, 1e-4, 1e-4]
    metadata = write_enmap(tmp_path / "product", values, NM, gain=gain, fwhm=6.5)
    image = next((tmp_path / "product").glob("*SPECTRAL_IMAGE.TIF"))
    path = {"folder": tmp_path / "product", "metadata": metadata, "image": image}[given]
    assert find_reader(path) is READER
    cubes = read_sequence(path)
    kept = [0, 1, 2, 3, 5]
    expected = (values * np.array(gain))[:, :, kept]
    expected[0, 0] = np.nan
    np.testing.assert_allclose(cubes[0], expected, rtol=1e-6)
    np.testing.assert_array_equal(cubes.wavelength, np.array(NM)[kept])
    np.testing.assert_array_equal(cubes.fwhm, [6.5] * 5)
    assert cubes.time[0] == np.datetime64("2022-07-24T10:45:26.123456")
    assert cubes.rio.transform() == GRID
    assert cubes.rio.crs.to_epsg() == 32633


def test_bands_stand_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    metadata = write_enmap(tmp_path, cube(bands=2), [500.0, 600.0])
    first, second = '<bandID number="1">', '<bandID number="2">'
    text = metadata.read_text()
    metadata.write_text(text.replace(first, "@").replace(second, first).replace("@", second))
    np.testing.assert_array_equal(READER.read(metadata).wavelength, [600.0, 500.0])


def test_notes_say_what_is_not_used(tmp_path: Path) -> None:
    notes = READER.read(write_enmap(tmp_path, cube(), NM)).notes
    assert "quality: cloudCover 12" in notes
    assert "the quality layers (QL_*) are not applied" in notes


def test_a_namespace_in_the_metadata(tmp_path: Path) -> None:
    metadata = write_enmap(tmp_path, cube(), NM)
    text = metadata.read_text().replace("<level_X ", '<level_X xmlns="http://dlr.de/enmap" ')
    metadata.write_text(text)
    np.testing.assert_array_equal(READER.read(metadata).wavelength, NM)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<level>L2A", "<level>L1C", "base/level: expected L2A .* got L1C \\(radiance\\)"),
        ("<FWHMOfBand>8.0</FWHMOfBand>", "", "FWHMOfBand: is missing"),
        (">550.0<", ">nan<", "wavelengthCenterOfBand: must be finite, got 'nan'"),
        (">550.0<", ">green<", "wavelengthCenterOfBand: must be a number, got 'green'"),
        (">550.0<", ">0.55<", "wavelength: the unit 'nm' contradicts"),
        ('number="6"', 'number="7"', "bandCharacterisation: must number the bands from 1 to 6"),
        ("bandCharacterisation>", "other>", "bandCharacterisation: is missing or empty"),
        ("<startTime>2022", "<startTime>summer 2022", "startTime: expected a date such as"),
        (f"{NODATA}</back", "-9999</back", "nodata: the image has -32768.0, its metadata file -99"),
        ("<backgroundValue>", "<x>", "XML: is broken: mismatched tag"),
        ("<level_X", "<!DOCTYPE x><level_X", "DOCTYPE: is not allowed"),
    ],
)
def test_broken_metadata(tmp_path: Path, old: str, new: str, message: str) -> None:
    metadata = write_enmap(tmp_path, cube(), NM)
    assert old in metadata.read_text()
    metadata.write_text(metadata.read_text().replace(old, new))
    with pytest.raises(FileError, match=message):
        read_sequence(metadata)


def test_metadata_of_another_image(tmp_path: Path) -> None:
    metadata = write_enmap(tmp_path, cube(bands=5), NM)
    with pytest.raises(FileError, match="describes 6 bands, but ENMAP.*IMAGE.TIF has 5"):
        READER.read(metadata)


def test_a_scale_in_the_image_must_agree(tmp_path: Path) -> None:
    metadata = write_enmap(tmp_path, cube(), NM, scales=[1e-4] * 6)
    np.testing.assert_allclose(READER.read(metadata).scale, 1e-4)
    metadata = write_enmap(tmp_path, cube(), NM, scales=[1e-3] * 6)
    with pytest.raises(FileError, match="scale: the image has 0.001, its metadata file 0.0001"):
        READER.read(metadata)


def test_missing_and_several_files(tmp_path: Path) -> None:
    metadata = write_enmap(tmp_path, cube(), NM)
    write_enmap(tmp_path, cube(), NM, stem="ENMAP01-other")
    with pytest.raises(FileError, match="metadata .* expected one such file, got 2: ENMAP01-"):
        READER.read(tmp_path)
    np.testing.assert_array_equal(READER.read(metadata).values, cube())
    next(tmp_path.glob("ENMAP01-____*SPECTRAL_IMAGE.TIF")).unlink()
    with pytest.raises(FileError, match="GeoTIFF beside the metadata .* got 0: none"):
        READER.read(metadata)


def test_other_files_are_not_taken_for_the_product(tmp_path: Path) -> None:
    metadata = write_enmap(tmp_path / "a", cube(), NM)
    assert not READER.sniff(tmp_path)
    assert not READER.sniff(next((tmp_path / "a").glob("*PIXELMASK.TIF")))
    (tmp_path / "METADATA.XML").write_text("<other/>")
    assert not READER.sniff(tmp_path / "METADATA.XML")
    image = next((tmp_path / "a").glob("*SPECTRAL_IMAGE.TIF"))
    metadata.unlink()
    # Without its metadata it is any GeoTIFF, of unknown scale.
    with pytest.raises(FileError, match="scale: the file holds integers"):
        read_sequence(image)


@pytest.mark.parametrize("case", CASES["enmap"])
def test_the_corpus_of_broken_files(tmp_path: Path, case: str) -> None:
    assert_refused(CASES["enmap"][case](tmp_path))
