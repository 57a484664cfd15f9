"""Where the pixels lie: coordinates from a transform, and whether two images share one grid."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import xarray as xr

from pyro_unmix.data.crs import lacks_datum, same_crs
from pyro_unmix.io.errors import FileError
from pyro_unmix.io.image import Image

# Of a pixel: more than rounding in text headers, less than any registration can reach.
_SAME_PLACE = 1e-3


def spatial_coords(image: Image) -> dict[str, Any]:
    """Coordinates x and y (pixel centres) and `spatial_ref`, as rioxarray reads and writes them.

    A rotated grid has no x and y of its own: its transform stands in `spatial_ref` alone.
    """
    coords: dict[str, Any] = {}
    height, width = image.grid
    if image.transform is not None and not is_rotated(image.transform):
        a, _, c, _, e, f = image.transform
        coords["x"] = ("x", c + a * (np.arange(width) + 0.5))
        coords["y"] = ("y", f + e * (np.arange(height) + 0.5))
    if image.x is not None:
        coords["x"] = ("x", np.asarray(image.x))
    if image.y is not None:
        coords["y"] = ("y", np.asarray(image.y))
    attrs: dict[str, str] = {}
    if image.crs:
        attrs |= {"crs_wkt": image.crs, "spatial_ref": image.crs}
    if image.transform is not None:
        a, b, c, d, e, f = (float(number) for number in image.transform)
        # GDAL's order: origin, then steps along a row and a column, of x and of y.
        attrs["GeoTransform"] = " ".join(repr(number) for number in (c, a, b, f, d, e))
    if attrs:
        coords["spatial_ref"] = xr.Variable((), 0, attrs)
    return coords


def is_rotated(transform: tuple[float, ...]) -> bool:
    """Whether rows and columns are not parallel to the axes of the CRS."""
    return transform[1] != 0 or transform[3] != 0


def check_same_grid(
    first: Image, first_path: str | os.PathLike[str], other: Image, path: str | os.PathLike[str]
) -> None:
    """Raise FileError unless both images cover the same pixels.

    Raises
    ------
    FileError
        It names the call of rioxarray that brings `other` to the grid of `first`.
    """
    difference = _difference(first, other)
    if difference:
        problem = (
            f"{difference}, unlike {first_path}: align the dates first; with rioxarray, for "
            "DataArrays da and other of the two files, da.rio.reproject_match(other)"
        )
        raise FileError(path, "grid", problem)


def _difference(first: Image, other: Image) -> str:
    """What tells the grid of `other` from that of `first`; empty if nothing does."""
    if first.grid != other.grid:
        return f"it has {other.grid[0]} rows and {other.grid[1]} columns, not {first.grid}"
    if not same_crs(first.crs, other.crs):
        text = f"its coordinate reference system is {_short(other.crs)}, not {_short(first.crs)}"
        if lacks_datum(first.crs) != lacks_datum(other.crs):
            which = "the first" if lacks_datum(first.crs) else "it"
            text += f" ({which} names an ellipsoid but no datum: write the whole CRS into the file)"
        return text
    for name in ("transform", "x", "y", "tile"):
        one, two = getattr(first, name), getattr(other, name)
        if (one is None) != (two is None):
            return f"it has {'no' if two is None else 'a'} {name}"
    if first.transform is not None and other.transform is not None:
        one, two = np.array(first.transform), np.array(other.transform)
        step = np.abs(one[[0, 1, 3, 4]]).max()
        # The steps add up over the image, the origin does not.
        reach = np.array([max(first.grid)] * 2 + [1] + [max(first.grid)] * 2 + [1])
        if (np.abs(one - two) * reach > _SAME_PLACE * step).any():
            return f"its transform is {other.transform}, not {first.transform}"
    for name in ("x", "y", "tile"):
        one, two = getattr(first, name), getattr(other, name)
        if one is not None and not np.allclose(one, two, rtol=0, atol=_SAME_PLACE * _step(one)):
            return f"its {name} runs from {two[0]} to {two[-1]}, not from {one[0]} to {one[-1]}"
    return ""


def _step(axis: np.ndarray) -> float:
    return float(np.abs(np.diff(axis)).min()) if len(axis) > 1 else 1.0


def _short(crs: str | None) -> str:
    return "missing" if not crs else crs.split(",")[0] + " ..."
