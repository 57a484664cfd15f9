"""MTD_MSIL1C.xml and MTD_MSIL2A.xml: what the numbers of a Sentinel-2 product mean."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from pyro_unmix.io.errors import FileError
from pyro_unmix.io.formats.metadata import number_of, read_time, read_xml, text_of

BANDS = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B10", "B11", "B12")

# Centre and width in nm, ESA's Sentinel-2 MSI technical guide.
_A = "442.7 21 492.4 66 559.8 36 664.6 31 704.1 15 740.5 15 782.8 20 832.8 106 864.7 21 945.1 20 "
_A += "1373.5 31 1613.7 91 2202.4 175"
_B = "442.3 21 492.1 66 559.0 36 665.0 31 703.8 16 739.1 15 779.7 20 833.0 106 864.0 22 943.2 21 "
_B += "1376.9 30 1610.4 94 2185.7 185"
TABLE = {
    satellite: {
        band: (float(centre), float(width))
        for band, centre, width in zip(BANDS, text.split()[::2], text.split()[1::2], strict=True)
    }
    for satellite, text in (("2A", _A), ("2B", _B))
}
_OFFSET_BASELINE = 4.0


@dataclass(frozen=True)
class Metadata:
    """One product: reflectance = (stored + offset) / quantification."""

    path: Path
    level: str
    baseline: float
    quantification: float
    offsets: dict[str, float]
    wavelength: dict[str, float]
    start: np.datetime64
    satellite: str

    @property
    def day(self) -> str:
        return str(self.start)[:10].replace("-", "")

    def offset_of(self, band: str) -> float:
        if band in self.offsets:
            return self.offsets[band]
        if self.baseline < _OFFSET_BASELINE:
            return 0.0
        problem = f"is missing for {band}, but baseline {self.baseline:05.2f} has one (since 04.00)"
        raise FileError(self.path, "ADD_OFFSET", problem)


def metadata_near(folder: Path) -> list[Metadata]:
    """The product metadata in the folder, else in the nearest folder above it (of one .SAFE)."""
    for place in islice((folder.absolute(), *folder.absolute().parents), 6):
        found = sorted(p for p in place.glob("*MTD_MSIL*.xml") if p.is_file())
        if found:
            return [read_metadata(path) for path in found]
    return []


def metadata_for(stamp: str, near: list[Metadata], band_file: Path) -> Metadata | None:
    """The metadata of one date (text such as 20240830T100559 or 20240830; "": unknown)."""
    fitting = [m for m in near if not stamp or stamp[:8] == m.day]
    if len(fitting) > 1:
        listed = ", ".join(m.path.name for m in fitting)
        problem = f"several metadata files fit: {listed}; keep the one of this tile and level"
        raise FileError(band_file, "metadata", problem)
    return fitting[0] if fitting else None


def read_metadata(path: Path) -> Metadata:
    """Read one product metadata file.

    Raises
    ------
    FileError
        If a field is missing or no number.
    """
    root = read_xml(path)
    level = "2A" if "Level-2A" in root.tag else "1C" if "Level-1C" in root.tag else ""
    if not level:
        raise FileError(path, root.tag, "expected the metadata of a product of level 1C or 2A")
    name = ".//BOA_QUANTIFICATION_VALUE" if level == "2A" else ".//QUANTIFICATION_VALUE"
    quantification = number_of(root, name, path)
    if quantification <= 0:
        raise FileError(path, name, f"must be positive, got {quantification:g}")
    start = read_time(text_of(root, ".//PRODUCT_START_TIME", path), path, "PRODUCT_START_TIME")
    return Metadata(
        path=path,
        level=level,
        baseline=number_of(root, ".//PROCESSING_BASELINE", path),
        quantification=quantification,
        offsets=_offsets(root, path, "BOA_ADD_OFFSET" if level == "2A" else "RADIO_ADD_OFFSET"),
        wavelength=_wavelengths(root, path),
        start=start,
        satellite=root.findtext(".//SPACECRAFT_NAME", "").strip().removeprefix("Sentinel-"),
    )


def _band_names(root: ET.Element) -> dict[str, str]:
    """Band names by the numbers that the offsets use: as listed, else in the sensor's order."""
    listed = {
        element.get("bandId", ""): element.get("physicalBand", "")
        for element in root.iter("Spectral_Information")
    }
    return listed or {str(number): band for number, band in enumerate(BANDS)}


def _offsets(root: ET.Element, path: Path, name: str) -> dict[str, float]:
    names = _band_names(root)
    found = {}
    for element in root.iter(name):
        number = element.get("band_id", "")
        if number not in names:
            raise FileError(path, name, f"has the unknown band_id {number!r}")
        found[names[number]] = number_of(element, ".", path)
    return found


def _wavelengths(root: ET.Element, path: Path) -> dict[str, float]:
    found = {}
    for element in root.iter("Spectral_Information"):
        centre = element.find("Wavelength/CENTRAL")
        if centre is None:
            continue
        if centre.get("unit", "") != "nm":
            problem = f"must have the unit nm, got {centre.get('unit')!r}"
            raise FileError(path, "Wavelength/CENTRAL", problem)
        found[element.get("physicalBand", "")] = number_of(element, "Wavelength/CENTRAL", path)
    return found
