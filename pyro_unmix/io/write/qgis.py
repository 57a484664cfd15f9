"""Styles for QGIS beside GeoTIFFs: a band per material, from white to the colour that it has in all pictures."""

from __future__ import annotations

import re
import unicodedata
from xml.etree import ElementTree

from pyro_unmix.data.colours import material_colour

#: Characters that XML 1.0 has no place for, and others that control.
_NOT_IN_XML = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_DOCTYPE = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"


def style_of(name: str, position: int) -> str:
    """The text of a ``.qml`` that shows the band of a material, fractions from 0 (white) to 1 (its colour).

    Parameters
    ----------
    name : str
        Of the material, for the legend; control characters are left out.
    position : int
        Of the material, from 0; its band is one more.
    """
    name = _NOT_IN_XML.sub("", name)
    root = ElementTree.Element("qgis", version="3.0", styleCategories="Symbology")
    pipe = ElementTree.SubElement(root, "pipe")
    renderer = ElementTree.SubElement(
        pipe, "rasterrenderer", type="singlebandpseudocolor", band=str(position + 1), opacity="1",
        alphaBand="-1", classificationMin="0", classificationMax="1",
    )  # fmt: skip
    ElementTree.SubElement(renderer, "rasterTransparency")
    shader = ElementTree.SubElement(renderer, "rastershader")
    ramp = ElementTree.SubElement(
        shader, "colorrampshader", colorRampType="INTERPOLATED", classificationMode="1", clip="0",
        minimumValue="0", maximumValue="1",
    )  # fmt: skip
    for value, colour in (("0", "#ffffff"), ("1", material_colour(position).lower())):
        ElementTree.SubElement(
            ramp, "item", value=value, label=f"{name}: {value}", color=colour, alpha="255"
        )
    return _DOCTYPE + ElementTree.tostring(root, encoding="unicode") + "\n"


def style_name(name: str, position: int) -> str:
    """The file of the style of a material, such as ``style_0_dry_soil.qml``."""
    letters = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    plain = re.sub(r"[^0-9A-Za-z]+", "_", letters).strip("_")[:40]
    return f"style_{position}{'_' if plain else ''}{plain}.qml"


def styles(names: list[str], files: list[str]) -> dict[str, str]:
    """Names and texts of all styles: of each file (its name without suffix) the first material's, and one per material.

    QGIS takes the style of the name of a file by itself; the others are loaded by hand.
    """
    if not names:
        return {}
    own = {f"{file}.qml": style_of(names[0], 0) for file in files}
    return own | {style_name(name, p): style_of(name, p) for p, name in enumerate(names)}
