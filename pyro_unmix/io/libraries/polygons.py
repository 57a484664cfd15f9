"""Polygons with classes from GeoJSON, shapefile or GeoPackage, as masks on the grid of an image."""

from __future__ import annotations

import codecs
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from pyro_unmix.data.crs import same_crs
from pyro_unmix.io.errors import FileError, parsing
from pyro_unmix.io.integrity.kinds import check_beside, check_kind
from pyro_unmix.io.integrity.sqlite import check_sqlite
from pyro_unmix.io.libraries.tables import CLASS_COLUMNS
from pyro_unmix.io.write.datasets import grid_of
from pyro_unmix.ops.extras import need

logger = logging.getLogger(__name__)

# Content by suffix: GDAL would also open other formats under these names, in which a text can name other files.
_FORMATS = {
    ".geojson": (b"{", "GeoJSON"),
    ".json": (b"{", "GeoJSON"),
    ".shp": (b"\x00\x00\x27\x0a", "a shapefile"),
    ".gpkg": (b"SQLite format 3\0", "a GeoPackage"),
}
# Where the standard says it: RFC 7946, section 4.
_GEOJSON_CRS = "EPSG:4326"


def polygon_masks(
    path: Path,
    cubes: xr.DataArray,
    *,
    field: str | None = None,
    layer: str | None = None,
    crs: str | None = None,
    all_touched: bool = False,
) -> dict[str, np.ndarray]:
    """Masks (H, W) of each class, True in pixels whose centres lie in its polygons.

    Parameters
    ----------
    path : Path
    cubes : DataArray (..., y, x, ...)
        With a CRS and a transform, or evenly spaced x and y.
    field, layer, crs, all_touched
        As in `library_from_pixels`.

    Raises
    ------
    FileError
        If the file or its class field is not as described, its CRS is unknown, or no polygon meets the image.
    ValueError
        If the images have no CRS or place.
    ImportError
        Without pyogrio, shapely or rasterio.
    """
    labels, geometries, own = _read(path, field, layer)
    grid = grid_of(cubes.coords.to_dataset())
    if grid.crs is None or grid.transform is None:
        lacking = "CRS" if grid.crs is None else "place (x and y, or a transform)"
        raise ValueError(
            f"the images have no {lacking}, without which {path} cannot lie on them: pass masks, or write it with "
            "rioxarray, cubes.rio.write_crs(...)"
        )
    geometries = _in_crs(path, geometries, _known_crs(path, own, crs), grid.crs)
    shape = cubes.sizes["y"], cubes.sizes["x"]
    with parsing(path, "polygons", "polygons"):
        masks, empty = _burned(labels, geometries, shape, grid.transform, all_touched)
    if empty == len(labels):
        raise FileError(path, "polygons", _apart(geometries, shape, grid.transform))
    if empty:
        logger.info(
            "%s: %d of %d polygons hold no pixel centre of the image", path, empty, len(labels)
        )
    outside = [label for label, mask in masks.items() if not mask.any()]
    if outside:
        logger.warning("%s: no pixel of the image is of %s", path, ", ".join(outside))
    return {label: mask for label, mask in masks.items() if mask.any()}


def _read(path: Path, field: str | None, layer: str | None) -> tuple[list[str], Any, str | None]:
    """Classes, geometries of shapely, and the CRS that the file states."""
    if not path.exists():
        raise FileNotFoundError(f"no such file of polygons: {path}")
    check_kind(path, folder=False)
    if path.suffix.lower() not in _FORMATS:
        problem = f"expected one of the suffixes {', '.join(_FORMATS)}, got {path.suffix!r}"
        raise FileError(path, "format", problem)
    start, name = _FORMATS[path.suffix.lower()]
    with path.open("rb") as file:
        begins = file.read(64)
    if name == "GeoJSON":
        begins = begins.removeprefix(codecs.BOM_UTF8).lstrip()
    if not begins.startswith(start):
        raise FileError(path, "format", f"is not {name}, in spite of its suffix")
    check_beside(path)
    if path.suffix.lower() == ".gpkg":
        check_sqlite(path)
    pyogrio, raw = need("pyogrio", "vector"), need("pyogrio.raw", "vector")
    shapely = need("shapely", "vector")
    with parsing(path, "content", name):
        layer = _layer(path, [str(n) for n, _ in pyogrio.list_layers(path.absolute())], layer)
        meta, _, geometries, columns = raw.read(path.absolute(), layer=layer)
        shapes = shapely.from_wkb(geometries)
    labels = _classes(path, [str(f) for f in meta["fields"]], columns, field)
    kept = [i for i, shape in enumerate(shapes) if shape is not None and not shape.is_empty]
    if not kept:
        raise FileError(path, "polygons", "there are none")
    # GeoJSON without a word is in longitude and latitude by its standard.
    stated = meta["crs"] or (_GEOJSON_CRS if name == "GeoJSON" else None)
    return [labels[i] for i in kept], [shapes[i] for i in kept], stated


def _layer(path: Path, layers: Sequence[str], wanted: str | None) -> str:
    if wanted is not None and wanted not in layers:
        problem = f"there is no layer {wanted!r}: there are {', '.join(layers)}"
        raise FileError(path, "layer", problem)
    if wanted is None and len(layers) != 1:
        problem = f"there are several ({', '.join(layers)}): pass layer= one of them"
        raise FileError(path, "layer", problem if layers else "there is none")
    return wanted or layers[0]


def _classes(path: Path, fields: list[str], columns: Any, wanted: str | None) -> list[str]:
    found = {name.lower(): number for number, name in enumerate(fields)}
    names = [wanted] if wanted is not None else [n for n in CLASS_COLUMNS if n in found][:1]
    if not names or names[0].lower() not in found:
        known = "" if wanted else f" (known names: {', '.join(CLASS_COLUMNS)})"
        what = f"there is no field {wanted!r}" if wanted else "cannot tell which field is the class"
        problem = f"{what}: pass field= one of {', '.join(fields) or 'none, there are no fields'}"
        raise FileError(path, "class field", problem + known)
    values = columns[found[names[0].lower()]]
    labels = ["" if v is None or v != v else _text(v) for v in values.tolist()]
    lacking = [number for number, label in enumerate(labels, start=1) if not label]
    if lacking:
        problem = (
            f"is empty in {len(lacking)} of {len(labels)} polygons, the first of them number {lacking[0]}: give each "
            "a class, or remove it"
        )
        raise FileError(path, names[0], problem)
    return labels


def _text(value: Any) -> str:
    whole = isinstance(value, float) and value.is_integer()
    return str(int(value) if whole else value).strip()


def _known_crs(path: Path, stated: str | None, given: str | None) -> str:
    if stated is None and given is None:
        problem = (
            "is unknown: write it into the file (of a shapefile, its .prj), or pass crs='EPSG:...'"
        )
        raise FileError(path, "CRS", problem)
    if stated is not None and given is not None and not same_crs(stated, given):
        problem = f"the file says {stated[:60]}, but crs={given!r} was passed: drop it"
        raise FileError(path, "CRS", problem)
    return str(given if stated is None else stated)


def _in_crs(path: Path, geometries: Sequence[Any], source: str, target: str) -> list[Any]:
    """Geometries in the CRS of the image, as GeoJSON."""
    mapping = [geometry.__geo_interface__ for geometry in geometries]
    if same_crs(source, target):
        return mapping
    warp, errors = need("rasterio.warp", "io"), need("rasterio.errors", "io")
    crs = need("rasterio.crs", "io").CRS
    try:
        known = crs.from_user_input(source)
    except errors.CRSError as error:
        problem = f"is not known to PROJ: {source[:60]!r}: pass crs='EPSG:...'"
        raise FileError(path, "CRS", problem) from error
    with parsing(path, "polygons", f"polygons in the CRS {source[:60]!r}"):
        return list(warp.transform_geom(known, crs.from_user_input(target), mapping))


def _burned(
    labels: Sequence[str],
    geometries: Sequence[Any],
    shape: tuple[int, int],
    transform: tuple[float, ...],
    all_touched: bool,
) -> tuple[dict[str, np.ndarray], int]:
    """Masks of the classes, and how many polygons hold no pixel."""
    features = need("rasterio.features", "io")
    affine = need("rasterio.transform", "io").Affine(*transform)
    masks = {label: np.zeros(shape, dtype=bool) for label in labels}
    empty = 0
    for label, geometry in zip(labels, geometries, strict=True):
        inside = features.geometry_mask(
            [geometry], shape, affine, all_touched=all_touched, invert=True
        )
        empty += not inside.any()
        masks[label] |= inside
    return masks, empty


def _apart(geometries: Sequence[Any], shape: tuple[int, int], transform: tuple[float, ...]) -> str:
    """Why nothing meets: where the polygons lie, and where the image does, in its CRS."""
    bounds = np.array([need("rasterio.features", "io").bounds(g) for g in geometries])
    a, b, c, d, e, f = transform
    corners = np.array([[0, 0], [shape[1], 0], [0, shape[0]], [shape[1], shape[0]]])
    x = a * corners[:, 0] + b * corners[:, 1] + c
    y = d * corners[:, 0] + e * corners[:, 1] + f
    return (
        "none holds a pixel centre of the image: in its CRS they span x "
        f"{bounds[:, 0].min():.10g} to {bounds[:, 2].max():.10g}, y {bounds[:, 1].min():.10g} to "
        f"{bounds[:, 3].max():.10g}, the image x {x.min():.10g} to {x.max():.10g}, y {y.min():.10g} to {y.max():.10g}: "
        "choose polygons of this place, look at the CRS of both, or pass all_touched=True for polygons smaller than a "
        "pixel"
    )
