"""DESIS L2A: spectral image (GeoTIFF) and METADATA.xml.

Source: DESIS Product Specification, PAV-DLR-ICD-003 (DLR).
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from pyro_unmix.io.errors import FileError
from pyro_unmix.io.formats.metadata import number_of, read_xml
from pyro_unmix.io.formats.sidecar import Layout, is_product, locate, read_product
from pyro_unmix.io.image import Image, assume

_LAYOUT = Layout(
    format="DESIS L2A",
    marks=(b"<hsi_doc", b"DESIS"),
    band="band",
    number="bandNumber",
    centre="wavelengthCenterOfBand",
    fwhm="wavelengthWidthOfBand",
    gain="gainOfBand",
    offset="offsetOfBand",
)
_NODATA = -32768
_LEVEL = re.compile(r"DESIS-HSI-(L\d[A-Z])", re.I)


class DesisReader:
    """The product's folder, its METADATA.xml or its SPECTRAL_IMAGE.tif."""

    name = "DESIS L2A"
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
        level = _LEVEL.match(metadata.name)
        if level is None or level.group(1).upper() != "L2A":
            problem = (
                "expected DESIS-HSI-L2A-... (surface reflectance): the levels L1B and L1C hold "
                "radiance in the same layout. Keep the names of the delivered files"
            )
            raise FileError(metadata, "file name", problem)
        background = root.find("specific/backgroundValue")
        nodata = None
        if background is not None:
            nodata = number_of(root, "specific/backgroundValue", metadata)
        found = read_product(image, metadata, root, _LAYOUT, nodata, lazy=lazy)
        if found.nodata is None:
            note = f"nodata is not declared: taken for {_NODATA}, as in all products of this sensor"
            assume(found.notes, metadata, note)
            found = replace(found, nodata=_NODATA)
        return found


READER = DesisReader()
