"""Coordinate reference systems: where an array holds its own, and whether two texts mean the same one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# What PROJ and GDAL call a datum that the text does not name.
_NO_DATUM = re.compile(r'DATUM\["(unknown|not[ _]specified)', re.IGNORECASE)
# What is no CRS by itself, GDAL takes for a file or an address, and reads that.
_BY_ITSELF = re.compile(
    r"\s*(\w+\s*[\[(]|\{|\+(proj|init)\b|(EPSG|ESRI|IGNF|OGC|urn):|(WGS|NAD)\d\d)", re.IGNORECASE
)
_MARKS = {"crs_wkt", "spatial_ref", "grid_mapping_name", "GeoTransform"}


def crs_coordinates(coords: Mapping[Any, Any]) -> list[str]:
    """Names of the scalar coordinates that hold a CRS or a transform (rioxarray's `spatial_ref`)."""
    return [str(name) for name, c in coords.items() if c.ndim == 0 and _MARKS & set(c.attrs)]


def crs_text(attrs: Mapping[str, Any]) -> str | None:
    """The CRS in the attributes of such a coordinate, as text; None where it has none."""
    for key in ("crs_wkt", "spatial_ref"):
        if attrs.get(key):
            return str(attrs[key])
    return None


def same_crs(one: str | None, two: str | None) -> bool:
    """Whether two CRS, in any text that pyproj or rasterio knows (WKT 1 or 2, EPSG:32633, ...), are one.

    Spellings, names and identifiers do not count, nor does the order of the axes: x runs east in all rasters. With
    pyproj or rasterio, they decide; with neither, the texts must be equal. A CRS that names an ellipsoid but no datum,
    as Proj4 texts may, is none of those with one (ETRS89 and WGS 84 are nearly alike, ED50 lies 100 m off): see
    `lacks_datum`.
    """
    if not one or not two:
        return (one or None) == (two or None)
    if one == two:
        return True
    try:
        return _same_by_pyproj(one, two)
    except ImportError:
        pass
    try:
        return _same_by_rasterio(one, two)
    except ImportError:
        return False


def lacks_datum(text: str | None) -> bool:
    """Whether a CRS in any text names an ellipsoid only, so that nobody can know where its pixels lie."""
    wkt = text or ""
    if "+proj" in wkt:
        try:
            from pyproj import CRS

            wkt = CRS.from_user_input(wkt).to_wkt()
        except ImportError:
            return "+datum" not in wkt and "+towgs84" not in wkt and "+nadgrids" not in wkt
        except ValueError:  # CRSError
            return False
    return _NO_DATUM.search(wkt) is not None


def _same_by_pyproj(one: str, two: str) -> bool:
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    try:
        first, other = CRS.from_user_input(one), CRS.from_user_input(two)
    except CRSError:
        return False
    # WKT of ESRI has other names of parameters in some projections, but is identified.
    return bool(first.equals(other, ignore_axis_order=True)) or _same_code(first, other)


def _same_by_rasterio(one: str, two: str) -> bool:
    from rasterio.crs import CRS
    from rasterio.errors import CRSError

    if not (_BY_ITSELF.match(one) and _BY_ITSELF.match(two)):
        return False
    try:
        first, other = CRS.from_user_input(one), CRS.from_user_input(two)
    except CRSError:
        return False
    return bool(first == other) or _same_code(first, other)


def _same_code(first: Any, other: Any) -> bool:
    # Codes are also found for a CRS without a datum: the likeliest one of its ellipsoid.
    if any(_NO_DATUM.search(crs.to_wkt()) for crs in (first, other)):
        return False
    code = first.to_epsg()
    return code is not None and code == other.to_epsg()
