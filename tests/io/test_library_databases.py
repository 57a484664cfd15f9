"""Spectral libraries of ECOSTRESS and USGS, built here to the public specifications.

Those are the ASCII format of the ECOSTRESS library, and the ASCIIdata of USGS splib07, Data Series
1035; the values are invented.
"""

from __future__ import annotations

import logging

import numpy as np
import pytest
from library_files import ecostress_folder, usgs_folder, write_ecostress

from pyro_unmix.io import FileError, read_library

pytest.importorskip("spectral")


# ECOSTRESS


BANDS = {"wavelength": [600.0, 500.0, 900.0], "fwhm": [20.0, 15.0, 30.0]}


def test_a_folder_of_ecostress_spectra_is_read(tmp_path, caplog):
    folder = ecostress_folder(tmp_path / "eco")
    with caplog.at_level(logging.INFO, "pyro_unmix"):
        got = read_library(folder, **BANDS)
    assert got["endmember"].values.tolist() == ["Sand", "Abies one", "Abies two"]
    assert got["label"].values.tolist() == ["soil", "tree", "tree"]
    slopes = dict(zip(["Abies one", "Abies two", "Sand"], [0.5e-3, 0.4e-3, 0.02e-3], strict=True))
    for name, slope in slopes.items():
        expected = slope * np.array(BANDS["wavelength"])
        np.testing.assert_allclose(got.sel(endmember=name), expected, rtol=1e-3)
    assert "dropped 1 of 4 spectra that do not cover the bands: Hot" in caplog.text
    assert "skipped Clear, which is Transmittance" in caplog.text
    kinds = read_library(folder, label="type", **BANDS)["label"].values.tolist()
    assert kinds == ["soil", "vegetation", "vegetation"]
    with pytest.raises(FileError, match="different bands: pass wavelength="):
        read_library(folder)


def test_spys_database_of_ecostress_gives_the_same_as_its_files(tmp_path):
    from spectral.database import EcostressDatabase

    folder = ecostress_folder(tmp_path / "eco")
    EcostressDatabase.create(str(tmp_path / "eco.db"), str(folder)).db.close()
    files = read_library(folder, **BANDS)
    got = read_library(tmp_path / "eco.db", **BANDS).sel(endmember=files["endmember"])
    np.testing.assert_allclose(got, files, rtol=1e-6)  # SPy stores float32
    assert got["label"].values.tolist() == files["label"].values.tolist()


def test_one_ecostress_spectrum_is_a_library_of_one(tmp_path):
    x = np.arange(0.4, 1.0, 0.1)
    got = read_library(write_ecostress(tmp_path, "Only", "tree", x, 100 * x))
    np.testing.assert_allclose(got[:, 0], x, atol=1e-6)
    np.testing.assert_allclose(got["wavelength"], 1000 * x, atol=0.1)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"X_Units": "Wavenumber (cm-1)"}, "x units: expected a wavelength, got Wavenumber"),
        ({"X_Units": ""}, "wavelength units: are not given"),
        ({"Y_Units": "Reflectance"}, "pass scale="),
    ],
)
def test_odd_units_of_ecostress_are_errors(tmp_path, fields, message):
    x = np.arange(0.4, 1.0, 0.1)
    with pytest.raises(FileError, match=message):
        read_library(write_ecostress(tmp_path, "Only", "tree", x, 100 * x, **fields))


def test_truncated_ecostress_spectra_and_databases_are_errors(tmp_path):
    x = np.arange(0.4, 1.0, 0.1)
    path = write_ecostress(tmp_path, "Only", "tree", x, 100 * x)
    text = path.read_text()
    for size in (6, 60, text.index("X Units"), text.index(" 0.4")):
        path.write_text(text[:size])
        with pytest.raises(FileError, match="only.ucsb"):
            read_library(path)
    broken = tmp_path / "a.db"
    broken.write_bytes(b"SQLite format 3\0" + bytes(500))
    with pytest.raises(FileError, match="a.db: content: cannot be read as a SQLite database"):
        read_library(broken)


# USGS


@pytest.mark.parametrize("inside", [False, True])
def test_a_folder_of_usgs_spectra_is_read(tmp_path, inside):
    folder = usgs_folder(tmp_path / "ASCIIdata")
    got = read_library(folder / "ASCIIdata_splib07a" if inside else folder, **BANDS)
    assert got["label"].values.tolist() == ["Minerals", "Vegetation"]
    assert "Acmite" in str(got["endmember"].values[0])
    nm = np.array(BANDS["wavelength"])
    np.testing.assert_allclose(got[:, 0], 0.8e-3 * nm, rtol=2e-3)
    np.testing.assert_allclose(got[:, 1], 0.3e-3 * nm, rtol=2e-3)


def test_spys_database_of_usgs_gives_the_same_as_its_files(tmp_path):
    from spectral.database import USGSDatabase

    folder = usgs_folder(tmp_path / "ASCIIdata")
    USGSDatabase.create(str(tmp_path / "usgs.db"), str(folder)).db.close()
    got, files = read_library(tmp_path / "usgs.db", **BANDS), read_library(folder, **BANDS)
    np.testing.assert_allclose(got.sel(endmember=files["endmember"]), files, rtol=1e-12)


def test_a_usgs_file_that_spy_cannot_read_is_reported(tmp_path, caplog):
    folder = usgs_folder(tmp_path / "ASCIIdata")
    bad = folder / "ASCIIdata_splib07a" / "ChapterM_Minerals" / "bad.txt"
    bad.write_text("nothing of the kind\n")
    with caplog.at_level(logging.WARNING, "pyro_unmix"):
        assert read_library(folder, **BANDS).sizes["endmember"] == 2
    assert "bad.txt: left out, SPy cannot read it" in caplog.text
