"""ENVI images: written by hand after the format's documentation, and by Spectral Python."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from envi_files import CODES, UTM, WAVELENGTH, H, L, W, numbers, write

from pyro_unmix.io import FileError, read_sequence
from pyro_unmix.io.formats.envi import metadata, read_header
from pyro_unmix.io.registry import find_reader, read_image

pytest.importorskip("spectral")

# --- the numbers -----------------------------------------------------------------------------


@pytest.mark.parametrize("interleave", ["bsq", "bil", "bip", "BSQ", "BIL", "BIP"])
@pytest.mark.parametrize("byte_order", [0, 1])
@pytest.mark.parametrize("dtype", ["i2", "f4"])
def test_interleave_and_byte_order(
    tmp_path: Path, interleave: str, byte_order: int, dtype: str
) -> None:
    path = write(tmp_path, numbers(dtype), interleave=interleave, byte_order=byte_order, offset=7)
    cubes = read_sequence(path)
    np.testing.assert_allclose(cubes.values[0], numbers() / 250, rtol=2.0**-24)


@pytest.mark.parametrize("dtype", list(CODES))
def test_data_types(tmp_path: Path, dtype: str) -> None:
    cubes = read_sequence(write(tmp_path, numbers(dtype)))
    np.testing.assert_allclose(cubes.values[0], numbers() / 250, rtol=2.0**-24)


@pytest.mark.parametrize("name", ["a", "a.img", "a.dat", "a.DAT", "a.bil", "a.raw"])
def test_header_and_data_file_find_each_other(tmp_path: Path, name: str) -> None:
    write(tmp_path, name=name)
    for path in (tmp_path / "a.hdr", tmp_path / name):
        assert find_reader(path).name == "ENVI image"
        assert read_sequence(path).shape == (1, H, W, L)


def test_the_header_beside_a_data_file_with_a_suffix(tmp_path: Path) -> None:
    write(tmp_path, name="a.img", header="a.img.hdr")
    for path in (tmp_path / "a.img.hdr", tmp_path / "a.img"):
        assert read_sequence(path).shape == (1, H, W, L)


def test_files_as_spectral_python_writes_them(tmp_path: Path) -> None:
    from spectral.io import envi

    stored = numbers("f4") / 250
    facts = {"wavelength": WAVELENGTH, "wavelength units": "Nanometers", "bbl": [1, 1, 0, 1, 1]}
    envi.save_image(str(tmp_path / "a.hdr"), stored, metadata=facts, interleave="bsq", ext="")
    cubes = read_sequence(tmp_path / "a.hdr")
    np.testing.assert_array_equal(cubes.values[0], stored[..., [0, 1, 3, 4]])
    np.testing.assert_array_equal(cubes.wavelength, np.array(WAVELENGTH)[[0, 1, 3, 4]])


# --- what the header says --------------------------------------------------------------------


def test_all_fields(tmp_path: Path) -> None:
    stored = numbers()
    stored[1, 2, 3] = -99
    path = write(
        tmp_path,
        stored,
        wavelength=[0.45, 0.55, 0.65, 0.85, 1.6],
        wavelength_units="Micrometers",
        fwhm=[0.01] * L,
        bbl=[1, 0, 1, 1, 1],
        data_ignore_value=-99,
        band_names=list("abcde"),
        acquisition_time="2014-04-10T18:30:00.5Z",
        map_info=UTM,
    )
    cubes = read_sequence(path)
    keep = [0, 2, 3, 4]
    expected = (stored / 250)[..., keep]
    expected[1, 2, 2] = np.nan
    np.testing.assert_allclose(cubes.values[0], expected, rtol=2.0**-24)
    np.testing.assert_allclose(cubes.wavelength, np.array(WAVELENGTH)[keep], rtol=1e-15)
    np.testing.assert_allclose(cubes.fwhm, 10, rtol=1e-15)
    assert cubes.band.values.tolist() == list("acde")
    assert cubes.time.values[0] == np.datetime64("2014-04-10T18:30:00.5")
    assert cubes.x.values.tolist() == [500_015, 500_045, 500_075, 500_105]
    assert cubes.y.values.tolist() == [3_999_990, 3_999_970, 3_999_950]
    assert 'AUTHORITY["EPSG","32610"]' in cubes.spatial_ref.attrs["crs_wkt"]


def test_gains_and_offsets_per_band(tmp_path: Path) -> None:
    gains, offsets = [0.001, 0.002, 0.003, 0.002, 0.001], [0, 0.1, 0, -0.1, 0]
    path = write(
        tmp_path,
        drop="reflectance scale factor",
        data_reflectance_gain_values=gains,
        data_reflectance_offset_values=offsets,
    )
    expected = numbers() * np.array(gains) + np.array(offsets)
    np.testing.assert_allclose(read_sequence(path).values[0], expected, rtol=1e-6)
    write(tmp_path, data_reflectance_gain_values=gains)
    with pytest.raises(FileError, match="reflectance scale factor: is given together with"):
        read_sequence(path)


@pytest.mark.parametrize("dtype", ["f4", "i2"])
def test_gains_as_gdal_writes_and_reads_them(
    tmp_path: Path, dtype: str, caplog: pytest.LogCaptureFixture
) -> None:
    rasterio = pytest.importorskip("rasterio")
    gains, offsets = [0.001, 0.002, 0.003, 0.002, 0.001], [0, 0.1, 0, -0.1, 0]
    path = write(
        tmp_path,
        numbers(dtype),
        drop="reflectance scale factor",
        data_gain_values=gains,
        data_offset_values=offsets,
    )
    with rasterio.open(tmp_path / "a.img") as gdal:
        assert gdal.scales == tuple(gains)
        assert gdal.offsets == tuple(offsets)
    expected = numbers() * np.array(gains) + np.array(offsets)
    np.testing.assert_allclose(read_sequence(path).values[0], expected, rtol=1e-6)
    assert (
        "a.hdr: 'data gain values' and 'data offset values' are taken for those of" in caplog.text
    )


def test_gains_beside_a_scale(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    expected = numbers() / 250
    fields: dict[str, object]
    for fields in (
        {"data_gain_values": [0.004] * L, "data_offset_values": [0] * L},  # 1 / 250
        {"data_gain_values": [1] * L, "data_offset_values": [0] * L},  # say nothing
        # ENVI keeps those of radiance beside those of reflectance.
        {
            "drop": "reflectance scale factor",
            "data_gain_values": [0.6] * L,
            "data_reflectance_gain_values": [0.004] * L,
        },
    ):
        cubes = read_sequence(write(tmp_path, data_ignore_value=-9, **fields))  # type: ignore[arg-type]
        np.testing.assert_allclose(cubes.values[0], expected, rtol=1e-6)
    assert caplog.records == []
    for fields in ({"data_gain_values": [0.6] * L}, {"data_offset_values": [0.1] * L}):
        with pytest.raises(FileError, match="a.hdr: data gain values: contradict 'reflectance sca"):
            read_image(write(tmp_path, **fields))  # type: ignore[arg-type]
    path = write(tmp_path, drop="reflectance scale factor", data_gain_values=[1] * L)
    with pytest.raises(FileError, match="scale: .*integers"):
        read_sequence(path)
    path = write(tmp_path, drop="reflectance scale factor", data_gain_values=[1, 2])
    with pytest.raises(FileError, match="scale: must be one number or one per band"):
        read_sequence(path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2014-04-10", "2014-04-10"),
        ("2014-04-10T18:30", "2014-04-10T18:30"),
        ("2014-04-10 18:30:01Z", "2014-04-10T18:30:01"),
        ("2014-04-10T18:30:00+02:00", "2014-04-10T16:30"),
        ("2014-04-10T23:30:00-0130", "2014-04-11T01:00"),
    ],
)
def test_acquisition_time(tmp_path: Path, text: str, expected: str) -> None:
    cubes = read_sequence(write(tmp_path, acquisition_time=text))
    assert cubes.time.values[0] == np.datetime64(expected)


def test_upper_case_fields_and_comments(tmp_path: Path) -> None:
    path = write(tmp_path)
    text = path.read_text().replace("samples", "Samples").replace("lines", "; note = 1\nLines")
    path.write_text(text)
    assert read_sequence(path).shape == (1, H, W, L)


# --- refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        *[
            ({"drop": name}, f"a.hdr: {name}: is missing")
            for name in ("samples", "lines", "bands", "data type", "interleave", "byte order")
        ],
        ({"drop": "reflectance scale factor"}, r"scale: .*integers \(int16\) without a scale"),
        ({"samples": 5}, "a.img: size: a.hdr declares 3 lines x 5 samples.*incomplete"),
        ({"bands": 4}, "a.img: size: .*= 96 bytes, but the file has 120: it is too long"),
        ({"samples": 0}, "a.hdr: samples: must be a whole number of at least 1, got '0'"),
        ({"lines": "3.0"}, "a.hdr: lines: must be a whole number"),
        ({"bands": 10**30}, "a.hdr: bands: must be a whole number"),
        ({"header_offset": -1}, "a.hdr: header offset: must be a whole number of at least 0"),
        ({"data_type": 6}, "a.hdr: data type: must be one of .*real numbers.*got '6'"),
        ({"data_type": 2.0}, "a.hdr: data type: "),
        ({"file_compression": 1}, "file compression: must be 0"),
        ({"file_type": "TIFF"}, "file type: must be 'ENVI Standard', got 'TIFF'"),
        ({"file_type": "ENVI Spectral Library"}, "file type: .*pyro_unmix.io.read_library"),
        ({"reflectance_scale_factor": 0}, "reflectance scale factor: must be positive"),
        ({"reflectance_scale_factor": "nan"}, "reflectance scale factor: must be finite"),
        ({"reflectance_scale_factor": "?"}, "reflectance scale factor: must be one number"),
        ({"wavelength": WAVELENGTH}, "wavelength units: are not given.*wavelength_unit='nm'"),
        ({"wavelength": WAVELENGTH, "wavelength_units": "um"}, "'um' contradicts the values 450"),
        ({"wavelength": WAVELENGTH[:4], "wavelength_units": "nm"}, "wavelength: must hold 5"),
        ({"wavelength": ["a"] * L, "wavelength_units": "nm"}, "wavelength: must be a list of numb"),
        ({"wavelength": ["nan"] * L, "wavelength_units": "nm"}, "wavelength: must be finite"),
        ({"wavelength": "{1, 2", "wavelength_units": "nm"}, "header: cannot be read as an ENVI"),
        ({"bbl": [1, 1, 2, 1, 1]}, "bbl: must hold 0"),
        ({"bbl": [1, 0]}, "good: must hold 5 values"),
        ({"data_ignore_value": "none"}, "data ignore value: must be one number"),
        ({"acquisition_time": "10 April"}, "acquisition time: must be an ISO time"),
        ({"acquisition_time": "2014-13-10"}, "acquisition time: "),
        ({"map_info": "{UTM, 1, 1}"}, "map info: must hold at least 7 values"),
        ({"map_info": UTM.replace("30.0", "x")}, "map info: must hold numbers, got 'x'"),
        ({"map_info": UTM.replace("30.0", "-30")}, "map info: pixel sizes must be positive"),
        ({"map_info": UTM.replace(" 10,", " 99,")}, "map info: must name the UTM zone"),
        ({"map_info": UTM.replace("North", "West")}, "map info: must say North or South"),
        ({"map_info": UTM.replace("}", ", rotation=180}")}, "map info: has rotation=180"),
        ({"coordinate_system_string": "{nonsense}", "map_info": UTM}, "coordinate system string"),
        ({"name": "b.img"}, "a.hdr: data file: there is none beside the header: expected a with"),
    ],
)
def test_refused(tmp_path: Path, fields: dict[str, object], text: str) -> None:
    with pytest.raises(FileError, match=text):
        read_sequence(write(tmp_path, **fields))  # type: ignore[arg-type]


@pytest.mark.parametrize("word", ["Bil", "tile", ""])
def test_an_unknown_interleave_is_not_taken_for_bsq(tmp_path: Path, word: str) -> None:
    path = write(tmp_path)
    path.write_text(path.read_text().replace("= bil", f"= {word}"))
    with pytest.raises(FileError, match="a.hdr: interleave: must be one of bsq, bil, bip"):
        read_sequence(path)


def test_an_unknown_byte_order(tmp_path: Path) -> None:
    path = write(tmp_path)
    path.write_text(path.read_text().replace("byte order = 0", "byte order = 2"))
    with pytest.raises(FileError, match="a.hdr: byte order: must be 0 .* got '2'"):
        read_sequence(path)


def test_two_data_files_are_ambiguous(tmp_path: Path) -> None:
    path = write(tmp_path)
    shutil.copy(tmp_path / "a.img", tmp_path / "a.dat")
    with pytest.raises(FileError, match="a.hdr: data file: .*several.*a.img.*Name the data file"):
        read_sequence(path)
    assert read_sequence(tmp_path / "a.dat").shape == (1, H, W, L)


def test_a_library_file_is_sent_to_its_reader(tmp_path: Path) -> None:
    path = write(tmp_path, name="a.sli", file_type="ENVI Spectral Library")
    for file in (path, tmp_path / "a.sli"):
        with pytest.raises(FileError, match="spectral library, not an image: .*read_library"):
            read_sequence(file)


def test_text_in_another_encoding(tmp_path: Path) -> None:
    path = write(tmp_path)
    path.write_bytes(path.read_bytes() + "description = Köln\n".encode("latin-1"))
    with pytest.raises(FileError, match="a.hdr: header: byte .* is not UTF-8 .*Latin-1"):
        read_sequence(path)


# --- real files ------------------------------------------------------------------------------


def test_the_emit_crop(data_dir: Path) -> None:
    path = data_dir / "readers" / "emit_l2a_crop"
    # Interleave, sizes and type as the header says: bil, 10 x 10, 285 bands, float32.
    stored = np.fromfile(path, "<f4").reshape(10, 285, 10).transpose(0, 2, 1)
    bad = [*range(127, 142), *range(187, 213)]  # the zeros of its bbl
    for name in (path, path.with_suffix(".hdr")):
        cubes = read_sequence(name)
        np.testing.assert_array_equal(cubes.values[0], np.delete(stored, bad, axis=-1))
    assert cubes.time.values[0] == np.datetime64("2025-03-24T22:10:05")
    assert cubes.wavelength.values[[0, -1]].round(3).tolist() == [381.006, 2492.924]
    assert cubes.fwhm.values[0] == 8.415000000000001
    # Bands that are named are read, also bad ones.
    np.testing.assert_array_equal(read_sequence(path, bands=[130]).values[0], stored[..., [130]])


def test_a_header_without_its_data(data_dir: Path) -> None:
    path = data_dir / "readers" / "aviris_tahoe.hdr"
    with pytest.raises(FileError, match="aviris_tahoe.hdr: data file: there is none beside"):
        read_sequence(path)


def test_the_rotated_header(data_dir: Path, tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    shutil.copy(data_dir / "readers" / "aviris_tahoe.hdr", tmp_path / "a.hdr")
    found = metadata(read_header(tmp_path / "a.hdr"), "a.hdr")
    (tmp_path / "a").write_bytes(bytes(110 * 150 * 224 * 2))
    with rasterio.open(tmp_path / "a") as gdal:
        np.testing.assert_allclose(found["transform"], gdal.transform[:6], rtol=0, atol=1e-8)
        assert rasterio.crs.CRS.from_wkt(found["crs"]) == gdal.crs
    assert found["wavelength"].shape == found["fwhm"].shape == (224,)
    assert np.flatnonzero(~found["good"]).tolist() == [*range(107, 113), *range(153, 167)]
    assert found["wavelength_unit"] == "Nanometers"
    # Integers without a scale, and a data file that is shorter than declared.
    with pytest.raises(FileError, match="a.hdr: scale|a: scale"):
        read_sequence(tmp_path / "a.hdr")
    (tmp_path / "a").write_bytes(bytes(110 * 150 * 224))
    with pytest.raises(FileError, match="a: size: a.hdr declares 150 lines x 110 samples x 224"):
        read_sequence(tmp_path / "a.hdr", scale=1e-4)
