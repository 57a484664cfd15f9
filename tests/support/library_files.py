"""Spectral libraries of ECOSTRESS and USGS, built to the public specifications; the values are invented."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_text(text, encoding=encoding)
    return path


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
