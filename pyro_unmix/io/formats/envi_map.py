"""The `map info` of an ENVI header as a transform and a CRS."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from pyro_unmix.io.errors import FileError, parsing
from pyro_unmix.io.image import assume

Transform = tuple[float, float, float, float, float, float]
AnyPath = str | os.PathLike[str]

_WGS84 = {"wgs-84", "wgs84", "wgs 84", "wgs_1984"}
_NAD83 = {"north america 1983", "nad83", "nad-83"}
# In metres, and as PROJ calls them.
_LINEAR = {
    **dict.fromkeys(("meters", "metres", "meter", "metre", "m"), (1.0, "m")),
    **dict.fromkeys(("feet", "foot", "ft"), (0.3048, "ft")),
    **dict.fromkeys(("km", "kilometers", "kilometres"), (1000.0, "km")),
    "yards": (0.9144, "yd"),
    "miles": (1609.344, "mi"),
    "nautical miles": (1852.0, "kmi"),
}
_ANGULAR = {"degrees": 1.0, "minutes": 1 / 60, "seconds": 1 / 3600, "radians": 180 / math.pi}
# The foot of the US survey differs by 2e-6 from the international one; ENVI calls both Feet.
_SAME_UNIT = 1e-5


def transform_and_crs(
    header: Mapping[str, Any], path: AnyPath, notes: list[str]
) -> tuple[Transform | None, str | None]:
    """Return the affine transform and the CRS (WKT), None for what the header does not have.

    The map coordinates belong to a reference pixel, whose upper left corner is (1, 1). A rotation
    by r degrees turns the image counter-clockwise, as GDAL reads it:

        x = c + dx (cos r col + sin r row),  y = f + dy (sin r col - cos r row)

    The CRS is the `coordinate system string`, else what map info names. Minutes, seconds and radians
    of a geographic CRS become degrees.

    Parameters
    ----------
    header : mapping
        Fields of the header, see `read_header`.
    path : path
        For the texts of errors.
    notes : list of str
        What was left out or assumed is added here.

    Raises
    ------
    FileError
        If a field is broken, or the units of map info contradict the CRS.
    """
    crs = _stated_crs(header, path)
    if "map info" not in header:
        return None, None if crs is None else str(crs.to_wkt())
    fields = header["map info"]
    if not isinstance(fields, list) or len(fields) < 7:
        problem = f"must hold at least 7 values in braces, got {fields!r:.80}"
        raise FileError(path, "map info", problem)
    if crs is None and fields[0].strip().lower() == "arbitrary":
        notes.append("arbitrary map info: no georeference")
        return None, None
    options: dict[str, str] = {}
    for text in fields[7:]:
        name, _, value = text.lower().partition("=")
        options[name.strip()] = value.strip()
    unit = options.get("units", "")
    if crs is None:
        crs = _named_crs(fields, unit, path)
    numbers = [_number(text, path) for text in fields[1:7]]
    transform = _transform(numbers, _number(options.get("rotation", "0"), path), path, notes)
    if crs is None:
        text = f"unknown coordinate system in map info: {fields[0].strip()}; the CRS is left out"
        assume(notes, path, text)
        return transform, None
    factor = _to_crs_unit(crs, unit, path)
    a, b, c, d, e, f = (factor * number for number in transform)
    return (a, b, c, d, e, f), str(crs.to_wkt())


def _transform(
    numbers: Sequence[float], rotation: float, path: AnyPath, notes: list[str]
) -> Transform:
    ref_x, ref_y, east, north, dx, dy = numbers
    if dx <= 0 or dy <= 0:
        raise FileError(path, "map info", f"pixel sizes must be positive, got {dx:g} and {dy:g}")
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
    if rotation and not math.isclose(dx, dy, rel_tol=1e-6):
        text = "is rotated and its pixels are not square: taken as GDAL takes it, as sheared"
        assume(notes, path, f"map info {text}")
    # GDAL goes from the reference to the first pixel as if there were no rotation.
    shift = math.hypot(c - east + dx * (ref_x - 1), f - north - dy * (ref_y - 1))
    if shift > 1e-6 * dx:
        text = f"its coordinates are taken for those of the pixel ({ref_x:g}, {ref_y:g})"
        text += f", as ENVI states; GDAL places the image {shift:.3g} map units elsewhere"
        assume(notes, path, f"map info is rotated: {text}")
    return (a, b, c, d, e, f)


def _number(text: str, path: AnyPath) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise FileError(path, "map info", f"must hold numbers, got {text!r:.80}")
    return number


def _stated_crs(header: Mapping[str, Any], path: AnyPath) -> Any:
    """The CRS of the coordinate system string, None without one."""
    wkt = header.get("coordinate system string")
    # The header's parser has split the text at its commas.
    text = ",".join(wkt) if isinstance(wkt, list) else str(wkt or "")
    if not text.strip():
        return None
    with parsing(path, "coordinate system string", "a coordinate system in WKT"):
        crs = _crs_class().from_wkt(text, morph_from_esri_dialect=True)
        # ENVI's dialect of WKT has no axes, so that EPSG:3035 (north first) would not be itself.
        code = crs.to_epsg(confidence_threshold=100)
        return crs if code is None else _crs_class().from_epsg(code)


def _named_crs(fields: Sequence[str], unit: str, path: AnyPath) -> Any:
    """The CRS that map info names, None if it is not known here."""
    kind = fields[0].strip().lower()
    plain = [text.strip().lower() for text in fields[7:] if "=" not in text]
    if kind == "geographic lat/lon":
        code = 4326 if plain[:1] and plain[0] in _WGS84 else None
        code = 4269 if plain[:1] and plain[0] in _NAD83 else code
        return None if code is None else _crs_class().from_epsg(code)
    if kind != "utm":
        return None
    if len(plain) < 2 or not plain[0].isdecimal() or not 1 <= int(plain[0]) <= 60:
        raise FileError(path, "map info", f"must name the UTM zone, 1 to 60, got {plain[:1]}")
    if plain[1] not in ("north", "south"):
        raise FileError(path, "map info", f"must say North or South, got {plain[1]!r}")
    zone, south, datum = int(plain[0]), plain[1] == "south", plain[2] if len(plain) > 2 else ""
    if datum in _WGS84:
        code, name = (32700 if south else 32600) + zone, "WGS84"
    elif datum in _NAD83 and not south and zone <= 23:
        code, name = 26900 + zone, "NAD83"
    else:
        return None
    short = _LINEAR.get(unit, (1.0, "m"))[1]
    if short == "m":
        return _crs_class().from_epsg(code)
    hemisphere = " +south" if south else ""
    text = f"+proj=utm +zone={zone}{hemisphere} +datum={name} +units={short} +no_defs"
    return _crs_class().from_string(text)


def _to_crs_unit(crs: Any, unit: str, path: AnyPath) -> float:
    """What turns the numbers of map info into those of the CRS."""
    if not unit:
        return 1.0
    if unit not in _LINEAR and unit not in _ANGULAR:
        known = ", ".join([*_LINEAR, *_ANGULAR])
        raise FileError(path, "map info", f"units must be one of {known}, got {unit!r}")
    if crs.is_geographic and unit in _ANGULAR:
        return _ANGULAR[unit]
    if not crs.is_geographic and unit in _LINEAR:
        metres = crs.linear_units_factor[1]
        if math.isclose(_LINEAR[unit][0], metres, rel_tol=_SAME_UNIT):
            return 1.0
    own = "degree" if crs.is_geographic else crs.linear_units
    problem = (
        f"has units={unit}, but the unit of its coordinate system is the {own}: correct one of them"
    )
    raise FileError(path, "map info", problem)


def _crs_class() -> Any:
    try:
        from rasterio.crs import CRS
    except ImportError as error:
        raise ImportError(
            'the CRS of an ENVI file needs rasterio: pip install "pyro-unmix[io]"'
        ) from error
    return CRS
