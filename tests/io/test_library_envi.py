"""Spectral libraries of ENVI (.sli), written byte by byte after the format's description, and by SPy."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyro_unmix.io import FileError, read_library

pytest.importorskip("spectral")


def write_sli(folder: Path, stored: np.ndarray, order: str = "<", **fields: Any) -> Path:
    """A spectral library by the ENVI format's description, byte by byte; None leaves a field out."""
    codes = {"f4": 4, "i2": 2, "f8": 5}
    header = {
        "samples": stored.shape[1],
        "lines": stored.shape[0],
        "bands": 1,
        "header offset": 0,
        "file type": "ENVI Spectral Library",
        "data type": codes[stored.dtype.str[1:]],
        "interleave": "bsq",
        "byte order": int(order == ">"),
        "wavelength units": "Micrometers",
        "wavelength": "{0.5, 0.6, 0.7, 0.8}",
        "spectra names": "{grass, soil a, water}",
    } | {name.replace("_", " "): value for name, value in fields.items()}
    text = "".join(f"{k} = {v}\n" for k, v in header.items() if v is not None)
    (folder / "lib.hdr").write_text("ENVI\n" + text)
    data = (
        bytes(max(0, int(header["header offset"])))
        + stored.astype(order + stored.dtype.str[1:]).tobytes()
    )
    (folder / "lib.sli").write_bytes(data)
    return folder / "lib.sli"


SPECTRA = np.random.default_rng(0).uniform(0.05, 0.9, size=(3, 4)).astype("f4")


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("offset", [0, 17])
def test_an_envi_library_is_read(tmp_path, order, offset):
    path = write_sli(tmp_path, SPECTRA, order, header_offset=offset, fwhm="{.01, .02, .03, .04}")
    for given in (path, path.with_suffix(".hdr")):
        got = read_library(given)
        np.testing.assert_array_equal(got.values, SPECTRA.T)
        np.testing.assert_allclose(got["wavelength"], [500, 600, 700, 800])
        np.testing.assert_allclose(got["fwhm"], [10, 20, 30, 40])
        assert got["endmember"].values.tolist() == ["grass", "soil a", "water"]
        assert got["label"].values.tolist() == ["grass", "soil a", "water"]
    assert read_library(path, label=["v", "s", "w"])["label"].values.tolist() == ["v", "s", "w"]


def test_scale_factor_bad_bands_and_ignore_value_are_applied(tmp_path, caplog):
    stored = np.array([[1000, 2000, -1, 4000], [10, 20, -1, 40], [1, 2, -1, 4]], dtype="i2")
    path = write_sli(
        tmp_path, stored, reflectance_scale_factor=5000, bbl="{1, 0, 1, 1}", data_ignore_value=-1
    )
    with caplog.at_level(logging.INFO, "pyro_unmix"):
        got = read_library(path)
    np.testing.assert_allclose(got[[0, 2]], stored[:, [0, 3]].T / 5000, rtol=1e-14)
    assert np.isnan(got[1]).all()  # ignored in every spectrum: missing, and nothing is interpolated
    np.testing.assert_allclose(got["wavelength"], [500, 700, 800])
    assert "dropped the bad bands at [600" in caplog.text
    with pytest.raises(FileError, match="scale: the file says 0.0002, but scale=0.1 was passed"):
        read_library(path, scale=0.1)


@pytest.mark.parametrize("order", ["<", ">"])
def test_gains_and_offsets_of_an_envi_library_are_applied(tmp_path, order):
    stored = np.array([[1000, 2000, 3000, 4000], [10, 20, 30, 40], [1, 2, 3, 4]], dtype="i2")
    gain, offset = np.array([1e-4, 2e-4, 1e-4, 1e-4]), np.array([0.0, 0.1, 0.2, 0.0])
    fields = {
        "data_reflectance_gain_values": "{1e-4, 2e-4, 1e-4, 1e-4}",
        "data_reflectance_offset_values": "{0, .1, .2, 0}",
    }
    path = write_sli(tmp_path, stored, order, **fields)
    np.testing.assert_allclose(read_library(path).values.T, stored * gain + offset, rtol=1e-14)
    with pytest.raises(FileError, match="scale: the file has one per channel: drop scale="):
        read_library(path, scale=1e-4)
    # Also for floating point, and by the names that GDAL uses.
    floats = SPECTRA * 10
    path = write_sli(tmp_path, floats, order, data_gain_values="{.1}", data_offset_values="{.01}")
    expected = floats.astype(np.float64) * 0.1 + 0.01
    np.testing.assert_allclose(read_library(path).values.T, expected, rtol=1e-14)


def test_integers_of_an_envi_library_need_a_scale(tmp_path):
    stored = np.array([[1, 0, 1, 1], [0, 1, 1, 0], [1, 1, 0, 1]], dtype="i2")
    path = write_sli(tmp_path, stored)
    with pytest.raises(
        FileError, match=r"scale: .*integers \(int16\).*pass scale= to read_library"
    ):
        read_library(path)
    np.testing.assert_allclose(read_library(path, scale=0.5).values.T, stored * 0.5)


def test_the_header_of_a_library_in_another_encoding(tmp_path):
    path = write_sli(tmp_path, SPECTRA)
    header = path.with_suffix(".hdr")
    header.write_bytes(header.read_bytes() + "description = Rasen, grün\n".encode("latin-1"))
    with pytest.raises(FileError, match="lib.hdr: header: byte .* is not UTF-8 .*Latin-1.*save"):
        read_library(path)


def test_the_ignore_value_is_compared_in_the_precision_of_the_file(tmp_path):
    stored = SPECTRA.copy()
    stored[0, 1] = stored[1, 1] = stored[2, 1] = 0.1  # no float32
    got = read_library(write_sli(tmp_path, stored, data_ignore_value=0.1))
    stored[:, 1] = np.nan
    np.testing.assert_array_equal(got.values, stored.T)


def test_what_spy_writes_is_read(tmp_path):
    from spectral.io.envi import SpectralLibrary

    header = {
        "wavelength": [500, 600, 700, 800],
        "wavelength units": "nm",
        "spectra names": list("abc"),
    }
    SpectralLibrary(SPECTRA, header).save(str(tmp_path / "spy"))
    got = read_library(tmp_path / "spy.sli")
    np.testing.assert_array_equal(got.values, SPECTRA.T)
    np.testing.assert_allclose(got["wavelength"], [500, 600, 700, 800])


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"lines": 4}, "lib.sli: size: lib.hdr declares 4 lines x 4 samples x 1 .*= 64 bytes, but .* has 48"),
        ({"lines": 2}, "size: .*= 32 bytes, but the file has 48"),
        ({"lines": 10**9, "samples": 10**9}, "lib.sli: size: "),
        ({"lines": 0}, "lib.hdr: lines: must be a whole number of at least 1"),
        ({"lines": "many"}, "lib.hdr: lines: must be a whole number"),
        ({"samples": None}, "lib.hdr: samples: is missing"),
        ({"bands": 2}, "lib.hdr: bands: must be 1 in a spectral library"),
        ({"data_type": 99}, "data type: must be one of .*got '99'"),
        ({"data_type": 6}, "data type: must be one of .*real numbers.*got '6'"),
        ({"byte_order": 7}, "byte order: must be 0 .little. or 1 .big., got '7'"),
        ({"byte_order": None}, "byte order: is missing"),
        ({"file_compression": 1}, "file compression: must be 0"),
        ({"header_offset": -4}, "header offset: must be a whole number"),
        ({"data_reflectance_gain_values": "{1, 2}"}, r"scale: must be one number or one per channel .4., got 2"),
        ({"data_reflectance_gain_values": "{1, 2, 0, 1}"}, "scale: must be positive"),
        ({"data_reflectance_gain_values": "{.5}", "reflectance_scale_factor": 2}, "given together with"),
        ({"data_gain_values": "{.4}", "reflectance_scale_factor": 2}, "data gain values: contradict"),
        ({"wavelength_units": None}, "wavelength units: .*pass unit='nm' or unit='um' to read_library"),
        ({"wavelength_units": "Unknown"}, "wavelength units: are not given"),
        ({"wavelength_units": "nm"}, "contradicts"),
        ({"wavelength": None}, "wavelength: the header has no wavelengths"),
        ({"wavelength": "{0.5, 0.6}"}, "wavelength: expected 4 numbers, got 2"),
        ({"wavelength": "{0.5, 0.6, x, 1}"}, "wavelength: must be a list of numbers"),
        ({"wavelength": "{0.5, 0.6, nan, 1}"}, "wavelength: must be finite"),
        ({"spectra_names": "abc"}, "spectra names: got 'abc' names for 3 spectra"),
        ({"spectra_names": "{a, b}"}, "spectra names: got 2 names for 3 spectra"),
        ({"reflectance_scale_factor": 0}, "reflectance scale factor: must be positive"),
        ({"file_type": "ENVI Standard"}, "file type: expected 'ENVI Spectral Library'.*is it an image"),
    ],
)  # fmt: skip
def test_a_broken_envi_library_is_an_error(tmp_path, fields, message):
    path = write_sli(tmp_path, SPECTRA, **fields) if "lines" not in fields else None
    if path is None:
        path = write_sli(tmp_path, SPECTRA)
        header = tmp_path / "lib.hdr"
        for name, value in fields.items():
            old = {"lines": "lines = 3", "samples": "samples = 4"}[name]
            header.write_text(header.read_text().replace(old, f"{name} = {value}"))
    with pytest.raises(FileError, match=message) as caught:
        read_library(path)
    assert str(tmp_path / "lib") in str(caught.value)


def test_the_unit_can_be_given_where_the_file_does_not_say_it(tmp_path):
    path = write_sli(tmp_path, SPECTRA, wavelength_units=None)
    np.testing.assert_allclose(read_library(path, unit="um")["wavelength"], [500, 600, 700, 800])
