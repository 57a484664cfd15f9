"""The `map info` of an ENVI header as a transform and a CRS."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

from pyro_unmix.io.errors import FileError, parsing

Transform = tuple[float, float, float, float, float, float]

_WGS84 = {"wgs-84", "wgs84", "wgs 84", "wgs_1984"}
_NAD83 = {"north america 1983", "nad83", "nad-83"}


def transform_and_crs(
    header: Mapping[str, Any], path: str | os.PathLike[str], notes: list[str]
) -> tuple[Transform | None, str | None]:
    """Return the affine transform and the CRS (WKT), None for what the header does not have.

    The map coordinates belong to a reference pixel, whose upper left corner is (1, 1). A rotation
    by r degrees turns the image counter-clockwise, as GDAL reads it:

        x = c + dx (cos r col + sin r row),  y = f + dy (sin r col - cos r row)

    Parameters
    ----------
    header : mapping
        Fields of the header, see `read_header`.
    path : path
        For the texts of errors.
    notes : list of str
        What was left out is added here.
    """
    if "map info" not in header:
        return None, None
    fields = header["map info"]
    if not isinstance(fields, list) or len(fields) < 7:
        problem = f"must hold at least 7 values in braces, got {fields!r:.80}"
        raise FileError(path, "map info", problem)
    if fields[0].strip().lower() == "arbitrary":
        notes.append("arbitrary map info: no georeference")
        return None, None
    ref_x, ref_y, east, north, dx, dy = (_number(text, path) for text in fields[1:7])
    if dx <= 0 or dy <= 0:
        raise FileError(path, "map info", f"pixel sizes must be positive, got {dx:g} and {dy:g}")
    options: dict[str, str] = {}
    for text in fields[7:]:
        name, _, value = text.lower().partition("=")
        options[name.strip()] = value.strip()
    rotation = _number(options.get("rotation", "0"), path)
    if abs(rotation) == 180:
        problem = (
            "has rotation=180, by which ENVI means an image turned by 180 degrees and GDAL one "
            "that is mirrored upside down: remove the rotation, or all of map info, from the header"
        )
        raise FileError(path, "map info", problem)
    turn = math.radians(rotation)
    a, b = dx * math.cos(turn), dx * math.sin(turn)
    d, e = dy * math.sin(turn), -dy * math.cos(turn)
    c = east - a * (ref_x - 1) - b * (ref_y - 1)
    f = north - d * (ref_x - 1) - e * (ref_y - 1)
    return (a, b, c, d, e, f), _crs(header, fields, path, notes)


def _number(text: str, path: str | os.PathLike[str]) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise FileError(path, "map info", f"must hold numbers, got {text!r:.80}")
    return number


def _crs(
    header: Mapping[str, Any], fields: list[str], path: str | os.PathLike[str], notes: list[str]
) -> str | None:
    wkt = header.get("coordinate system string")
    if wkt is not None:
        # The header's parser has split the text at its commas.
        text = ",".join(wkt) if isinstance(wkt, list) else str(wkt)
        with parsing(path, "coordinate system string", "a coordinate system in WKT"):
            return _to_wkt(text)
    code = _epsg(fields, path)
    if code is None:
        notes.append(f"unknown coordinate system in map info, left out: {', '.join(fields[:1])}")
        return None
    return _to_wkt(f"EPSG:{code}")


def _to_wkt(text: str) -> str:
    try:
        from rasterio.crs import CRS
    except ImportError as error:
        raise ImportError(
            'the CRS of an ENVI file needs rasterio: pip install "pyro-unmix[io]"'
        ) from error
    return str(CRS.from_user_input(text).to_wkt())


def _epsg(fields: list[str], path: str | os.PathLike[str]) -> int | None:
    kind = fields[0].strip().lower()
    plain = [text.strip().lower() for text in fields[7:] if "=" not in text]
    if kind == "geographic lat/lon" and plain[:1] and plain[0] in _WGS84:
        return 4326
    if kind != "utm":
        return None
    if len(plain) < 2 or not plain[0].isdecimal() or not 1 <= int(plain[0]) <= 60:
        raise FileError(path, "map info", f"must name the UTM zone, 1 to 60, got {plain[:1]}")
    if plain[1] not in ("north", "south"):
        raise FileError(path, "map info", f"must say North or South, got {plain[1]!r}")
    zone, datum = int(plain[0]), plain[2] if len(plain) > 2 else ""
    if datum in _WGS84:
        return (32600 if plain[1] == "north" else 32700) + zone
    if datum in _NAD83 and plain[1] == "north" and zone <= 23:
        return 26900 + zone
    return None
