"""EnMAP L2A: spectral image (GeoTIFF or COG) and METADATA.XML.

Source: EnMAP HSI Level 1B/1C/2A Product Specification, EN-PCV-ICD-2009-2 (DLR).
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

from pyro_unmix.io.errors import FileError
from pyro_unmix.io.formats.metadata import number_of, read_xml, text_of
from pyro_unmix.io.formats.sidecar import Layout, is_product, locate, read_product
from pyro_unmix.io.image import Image

_LAYOUT = Layout(
    format="EnMAP L2A",
    marks=(b"<level_X", b"ENMAP"),
    band="bandID",
    number="@number",
    centre="wavelengthCenterOfBand",
    fwhm="FWHMOfBand",
    gain="GainOfBand",
    offset="OffsetOfBand",
)


class EnmapReader:
    """The product's folder, its METADATA.XML or its SPECTRAL_IMAGE.TIF."""

    name = "EnMAP L2A"
    suffixes: tuple[str, ...] = ()

    def sniff(self, path: Path) -> bool:
        return is_product(path, _LAYOUT)

    def read(self, path: Path) -> Image:
        return self._image(path, lazy=False)

    def open(self, path: Path) -> Image:
        """As `read`, but the numbers stay in the file until rows of them are asked for."""
        return self._image(path, lazy=True)

    def _image(self, path: Path, *, lazy: bool) -> Image:
        image, metadata = locate(path, _LAYOUT)
        root = read_xml(metadata)
        level = text_of(root, "base/level", metadata)
        if level != "L2A":
            problem = f"expected L2A (surface reflectance), got {level} (radiance): order L2A"
            raise FileError(metadata, "base/level", problem)
        nodata = number_of(root, "specific/backgroundValue", metadata)
        found = read_product(image, metadata, root, _LAYOUT, nodata, lazy=lazy)
        return replace(found, notes=found.notes + _quality(root))


def _quality(root: ET.Element) -> list[str]:
    flags = root.find("specific/qualityFlag")
    texts = [] if flags is None else [f"{flag.tag} {(flag.text or '').strip()}" for flag in flags]
    return [f"quality: {', '.join(texts)}"] if texts else []


READER = EnmapReader()
