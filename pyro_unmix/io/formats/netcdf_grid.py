"""Where the pixels of a NetCDF variable lie (CF conventions, sections 4 and 5.6)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from pyro_unmix.io.errors import FileError
from pyro_unmix.io.formats.netcdf_packing import unpacked
from pyro_unmix.io.image import assume

# Of a pixel; coordinates in float32 are rounded, and a GeoTransform may be of another cut-out.
_REGULAR = 0.01


def grid_of(
    dataset: xr.Dataset,
    cube: xr.DataArray,
    dims: Mapping[str, str],
    path: str | os.PathLike[str],
    notes: list[str],
) -> dict[str, Any]:
    """Return x, y, tile, transform and crs as arguments of `Image`, as far as the file has them.

    The coordinates x and y say where the pixels are. A `GeoTransform` counts only without them:
    tools that cut out a window leave it as it was.
    """
    found: dict[str, Any] = {}
    for name in ("x", "y"):
        axis = dataset.variables.get(dims[name])
        if axis is not None and axis.dims == (dims[name],):
            found[name] = _axis(unpacked(axis, path, dims[name], notes), dims[name], path)
    tile = dataset.variables.get("tile")
    if tile is not None and tile.dims == (dims["y"],):
        found["tile"] = tile.to_numpy()
    attrs = _grid_mapping(dataset, cube)
    found["crs"] = _crs(attrs, path, notes)
    given = _geotransform(attrs, path)
    if "x" in found and "y" in found:
        found["transform"] = _transform(found["x"], found["y"])
        if given is not None and found["transform"] is not None:
            if not np.allclose(given, found["transform"], rtol=1e-6):
                assume(notes, path, "GeoTransform contradicts x and y and was left out")
    elif given is not None:
        found["transform"] = given
    return found


def _axis(values: np.ndarray, name: str, path: str | os.PathLike[str]) -> np.ndarray:
    if values.dtype.kind not in "iuf" or not np.isfinite(values).all():
        raise FileError(path, name, "must hold finite numbers")
    return values.astype(np.float64)


def _transform(x: np.ndarray, y: np.ndarray) -> tuple[float, ...] | None:
    """From pixel centres; None if they are not evenly spaced, or only one."""
    steps = []
    for axis in (x, y):
        if axis.size < 2:
            return None
        step = (axis[-1] - axis[0]) / (axis.size - 1)
        even = axis[0] + step * np.arange(axis.size)
        if step == 0 or np.abs(axis - even).max() > _REGULAR * abs(step):
            return None
        steps.append(float(step))
    dx, dy = steps
    return (dx, 0.0, float(x[0]) - dx / 2, 0.0, dy, float(y[0]) - dy / 2)


def _grid_mapping(dataset: xr.Dataset, cube: xr.DataArray) -> Mapping[Any, Any]:
    # The extended form is "crs: x y".
    named = str(cube.attrs.get("grid_mapping", "")).partition(":")[0].strip()
    for name in (named, "spatial_ref", "crs"):
        if name and name in dataset.variables:
            return dataset.variables[name].attrs
    return {}


def _crs(attrs: Mapping[Any, Any], path: str | os.PathLike[str], notes: list[str]) -> str | None:
    for key in ("crs_wkt", "spatial_ref"):
        if str(attrs.get(key, "")).strip():
            return str(attrs[key])
    if "grid_mapping_name" not in attrs:
        return None
    try:
        from pyproj import CRS
    except ImportError:
        assume(notes, path, "the CRS needs pyproj and was left out")
        return None
    try:
        return str(CRS.from_cf(dict(attrs)).to_wkt())
    except Exception as error:
        raise FileError(path, "grid_mapping", f"is no CRS: {error}") from error


def _geotransform(
    attrs: Mapping[Any, Any], path: str | os.PathLike[str]
) -> tuple[float, ...] | None:
    if "GeoTransform" not in attrs:
        return None
    text = attrs["GeoTransform"]
    try:
        numbers = [float(part) for part in (text.split() if isinstance(text, str) else text)]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != 6 or not np.isfinite(numbers).all():
        raise FileError(path, "GeoTransform", f"must be 6 numbers, got {text!r:.80}")
    c, a, b, f, d, e = numbers
    return (a, b, c, d, e, f)
