"""Spectral libraries of ECOSTRESS and USGS, built here to the public specifications.

Those are the ASCII format of the ECOSTRESS library, and the ASCIIdata of USGS splib07, Data Series
1035; the values are invented.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from pyro_unmix.io import FileError, read_library

pytest.importorskip("spectral")


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_text(text, encoding=encoding)
    return path


# ECOSTRESS


def write_ecostress(
    folder: Path, name: str, cls: str, x: np.ndarray, y: np.ndarray, **fields: str
) -> Path:
    """The ASCII format of the ECOSTRESS spectral library, version 1."""
    values = {
        "Name": name, "Type": "vegetation", "Class": cls, "Subclass": "none",
        "Particle Size": "Unknown", "Sample No.": "1", "Owner": "nobody", "Wavelength Range": "All",
        "Origin": "nowhere", "Collection Date": "N/A", "Description": "invented: for a test",
        "Measurement": "Bidirectional reflectance", "First Column": "X", "Second Column": "Y",
        "X Units": "Wavelength (micrometers)", "Y Units": "Reflectance (percent)",
        "First X Value": str(x[0]), "Last X Value": str(x[-1]), "Number of X Values": str(len(x)),
        "Additional Information": "none",
    } | {k.replace("_", " "): v for k, v in fields.items()}  # fmt: skip
    text = "".join(f"{k}: {v}\n" for k, v in values.items()) + "\n"
    text += "".join(f" {a:.4f}\t{b:.4f}\n" for a, b in zip(x, y, strict=True))
    stem = name.replace(" ", "_").lower()
    return write(folder / f"{cls}.all.{stem}.ucsb.asd.spectrum.txt", text, "iso-8859-1")


def ecostress_folder(folder: Path) -> Path:
    folder.mkdir()
    x = np.arange(0.4, 1.0, 0.002)
    write_ecostress(folder, "Abies one", "tree", x, 50 * x)
    write_ecostress(folder, "Abies two", "tree", x[::-1], 40 * x[::-1])  # many run downwards
    other = np.arange(0.35, 14, 0.01)
    write_ecostress(folder, "Sand", "soil", other, 2 * other, Type="soil")
    thermal = np.arange(3, 14, 0.01)
    write_ecostress(folder, "Hot", "rock", thermal, thermal, Type="rock")
    write_ecostress(folder, "Clear", "glass", x, x, Y_Units="Transmittance (percent)")
    return folder


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


def usgs_folder(root: Path) -> Path:
    """``ASCIIdata`` of splib07 with two samples of one spectrometer."""
    library = root / "ASCIIdata_splib07a"
    chapters = library / "ChapterM_Minerals", library / "ChapterV_Vegetation"
    for chapter in chapters:
        chapter.mkdir(parents=True)
    x = np.arange(0.4, 1.0, 0.01)

    def column(path: Path, head: str, values: np.ndarray) -> None:
        write(path, f" splib07a Record={head}\n" + "".join(f" {v:.6e}\n" for v in values))

    column(
        library / "splib07a_Wavelengths_BECK_Beckman_0.2-3.0_microns.txt",
        "1: Wavelengths BECK Beckman 0.2-3.0 microns", x,
    )  # fmt: skip
    mineral = 0.8 * x
    mineral[20] = -1.23e34  # a deleted channel, amid one of BANDS
    column(chapters[0] / "a_BECKa_AREF.txt", "10: Acmite NMNH133746 Pyroxene BECKa AREF", mineral)
    column(chapters[1] / "b_BECKb_AREF.txt", "11: Aspen_Leaf-A DW92-2 BECKb AREF", 0.3 * x)
    return root


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
