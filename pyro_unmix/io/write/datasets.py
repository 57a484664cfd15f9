"""Write a result as CF NetCDF or Zarr; files that appear whole or not at all.

The layouts are described at `write_netcdf` and, for maps of single dates, in `pyro_unmix.io.write.rasters`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from pyro_unmix.data.crs import crs_coordinates, crs_text
from pyro_unmix.io.integrity.zarr_store import GROUP, foreign
from pyro_unmix.io.write.replacing import clean, replace_folder, workshop
from pyro_unmix.io.write.whole_files import write_netcdf4
from pyro_unmix.ops.extras import need

# The first version of the conventions with 64-bit integers, which dates and numbered materials are.
CONVENTIONS = "CF-1.9"
# Coordinates may be off an even grid by this share of a pixel: northings in float32 are.
_TOLERANCE = 0.05

_ATTRIBUTES: dict[str, dict[str, Any]] = {
    "abundances": {"standard_name": "area_fraction", "units": "1"},
    "abundances_std": {"standard_name": "area_fraction standard_error", "units": "1"},
    "rmse": {"long_name": "root mean square error of the reconstruction", "units": "1"},
    "valid": {"flag_values": np.array([0, 1], dtype="int8"), "flag_meanings": "missing observed"},
    "losses": {"long_name": "loss (negative ELBO) per observed value", "units": "1"},
    "endmember": {"long_name": "material"},
    "wavelength": {
        "standard_name": "radiation_wavelength",
        "long_name": "wavelength",
        "units": "nm",
    },
    "fwhm": {"long_name": "full width at half maximum of the band", "units": "nm"},
    "tile": {"long_name": "number of the disjoint tile"},
    "x": {"axis": "X"},
    "y": {"axis": "Y"},
}


# ------------------------------------------------------------------ where the pixels lie


class Georeference(NamedTuple):
    """CRS as WKT, and transform (a, b, c, d, e, f): ``X = a col + b row + c, Y = d col + e row + f``.

    Columns and rows count from the outer corner of the first pixel. None: unknown.
    """

    crs: str | None
    transform: tuple[float, ...] | None


def grid_of(dataset: xr.Dataset) -> Georeference:
    """Return what the coordinates of a dataset say about its CRS and transform; nothing is added.

    The CRS is the ``crs_wkt`` (or ``spatial_ref``) of the scalar coordinate that rioxarray calls
    ``spatial_ref``. The transform comes from evenly spaced ``x`` and ``y`` (pixel centres), so that
    it follows a selection; where they are missing, or have one element, from the attribute
    ``GeoTransform``. A rotated ``GeoTransform`` always counts as it stands, like in rioxarray: a
    selection of rotated images must bring its own.

    Raises
    ------
    ValueError
        If ``x`` or ``y`` is not evenly spaced, or there are two such scalar coordinates.
    """
    name = grid_mapping(dataset)
    attrs = {} if name is None else dataset[name].attrs
    return Georeference(_wkt(attrs), _transform(dataset, _stored_transform(attrs)))


def grid_mapping(dataset: xr.Dataset) -> str | None:
    """Name of the scalar coordinate that holds CRS or transform."""
    found = crs_coordinates(dataset.coords)
    if len(found) > 1:
        raise ValueError(
            f"expected one coordinate with the CRS, got {', '.join(found)}: drop all but one with "
            "dataset.drop_vars(...)"
        )
    return found[0] if found else None


def _wkt(attrs: dict[str, Any]) -> str | None:
    text = crs_text(attrs)
    if text is None and "grid_mapping_name" in attrs:
        return str(need("pyproj", "io").CRS.from_cf(attrs).to_wkt())
    return text


def _stored_transform(attrs: dict[str, Any]) -> tuple[float, ...] | None:
    text = attrs.get("GeoTransform")
    if not text:
        return None
    c, a, b, f, d, e = (float(number) for number in str(text).split())  # GDAL's order
    return a, b, c, d, e, f


def _transform(dataset: xr.Dataset, stored: tuple[float, ...] | None) -> tuple[float, ...] | None:
    if stored is not None and (stored[1] or stored[3]):
        return stored
    width = _axis(dataset, "x", None if stored is None else (stored[2], stored[0]))
    height = _axis(dataset, "y", None if stored is None else (stored[5], stored[4]))
    if width is None or height is None:
        return None
    return width[1], 0.0, width[0], 0.0, height[1], height[0]


def _axis(
    dataset: xr.Dataset, dim: str, stored: tuple[float, float] | None
) -> tuple[float, float] | None:
    """Outer edge of the first pixel, and signed pixel size."""
    if dim not in dataset.coords or dataset[dim].dtype.kind not in "iuf":
        return stored
    centres = dataset[dim].to_numpy().astype(np.float64)
    if centres.size == 1:
        return None if stored is None else (centres[0] - stored[1] / 2, stored[1])
    step = (centres[-1] - centres[0]) / (centres.size - 1)
    index = np.arange(centres.size)
    if not step or np.abs(centres - centres[0] - index * step).max() > _TOLERANCE * abs(step):
        raise ValueError(
            f"expected evenly spaced {dim}, the pixel centres of an image, got steps between "
            f"{np.diff(centres).min():g} and {np.diff(centres).max():g}: write NetCDF, or drop "
            f"the coordinate with drop_vars('{dim}')"
        )
    if stored is not None:
        expected = stored[0] + (index[[0, -1]] + 0.5) * stored[1]
        if np.abs(centres[[0, -1]] - expected).max() <= _TOLERANCE * abs(step):
            return stored  # the same grid, without the rounding of the coordinates
    return float(centres[0] - step / 2), float(step)


# ------------------------------------------------------------------ files


def check_free(paths: Sequence[Path], overwrite: bool) -> None:
    """Refuse to write over anything that is there, unless asked to replace files."""
    for path in paths:
        if path.is_dir():
            raise FileExistsError(f"{path} is a folder, expected the path of a file")
        if path.exists() and not overwrite:
            raise FileExistsError(f"{path} exists: pass overwrite=True, or another path")


def check_free_store(path: Path, overwrite: bool) -> None:
    """Refuse to write over anything that is there, unless asked to replace a Zarr store and nothing else."""
    if path.is_symlink():
        raise FileExistsError(f"{path} is a link: pass the store that it leads to, or another path")
    if not path.exists():
        return
    if not (overwrite and any((path / name).is_file() for name in GROUP)):
        raise FileExistsError(
            f"{path} exists: pass overwrite=True to replace a Zarr store, or another path"
        )
    if found := foreign(path):
        raise FileExistsError(
            f"{path} also holds {', '.join(found[:5])}, which is no part of a Zarr store and would be lost: move it "
            "away, or pass another path"
        )


def write_netcdf(
    dataset: xr.Dataset, path: str | os.PathLike[str], *, overwrite: bool = False
) -> Path:
    """Write a result dataset as NetCDF-4 after the CF conventions (1.9).

    Maps have the dims (..., time, y, x), the order that CF recommends and GDAL reads as bands.
    Abundances have the standard name ``area_fraction``, their std ``area_fraction standard_error``
    as ancillary variable, wavelengths ``radiation_wavelength`` in nm. ``grid_mapping`` names the
    coordinate with the CRS where there is one; with pyproj installed, its CF parameters and the
    standard names of x and y are filled in. What is unknown is left out.

    Parameters
    ----------
    dataset : xarray.Dataset
        As `Unmixing.to_dataset` returns.
    path : path
        File to make, with its folder.
    overwrite : bool
        Replace a file that is there.

    Returns
    -------
    Path

    Raises
    ------
    FileExistsError
        If `path` exists and is not to be replaced.

    References
    ----------
    https://cfconventions.org/Data/cf-conventions/cf-conventions-1.9/cf-conventions.html
    """
    path = Path(path)
    check_free([path], overwrite)
    with workshop(path.parent) as folder:
        write_netcdf4(cf_dataset(dataset), folder / path.name)
        os.replace(folder / path.name, path)
    return path


def write_zarr(
    dataset: xr.Dataset, path: str | os.PathLike[str], *, overwrite: bool = False
) -> Path:
    """Write a result dataset as a Zarr store (a folder), with the attributes of `write_netcdf`.

    Zarr format 2: format 3 has no specification for text, such as the names of materials.

    Raises
    ------
    ImportError
        Without zarr (extra ``scale``).
    FileExistsError
        If `path` exists and is not to be replaced, is no Zarr store, holds other files, or is a link.
    """
    zarr = need("zarr", "scale")
    path = Path(path)
    clean(path.absolute().parent)
    check_free_store(path, overwrite)
    # Zarr 2 knows no other format, and has no such setting.
    config = getattr(zarr, "config", None)
    format_2 = nullcontext() if config is None else config.set({"default_zarr_format": 2})
    with workshop(path.parent) as folder, format_2:
        cf_dataset(dataset).to_zarr(folder / "new")
        replace_folder(folder / "new", path.absolute(), folder)
    return path


# ------------------------------------------------------------------ CF


def cf_dataset(dataset: xr.Dataset) -> xr.Dataset:
    """Return a copy with the dims, attributes and encodings that `write_netcdf` describes."""
    mapping = grid_mapping(dataset)
    # Encodings of the files that coordinates were read from (packing, chunks) do not fit here.
    out = dataset.copy().drop_encoding()
    if "losses" in out and not out.sizes["step"]:
        out = out.drop_vars("losses")
    attributes = {**_ATTRIBUTES, "time": _time_attributes(out)}
    if mapping is not None:
        horizontal = _describe_crs(out, mapping)
        attributes.update({dim: {**attributes[dim], **horizontal[dim]} for dim in horizontal})
    for name, variable in out.variables.items():
        variable.attrs = {**attributes.get(str(name), {}), **variable.attrs}
    for name in out.data_vars:
        out[name] = _as_map(out[name], mapping)
    for name in set(out.coords):
        if out[name].dtype.kind == "f":
            out[name].encoding["_FillValue"] = None  # CF: coordinates have no missing values
    if "abundances_std" in out:
        out["abundances"].attrs["ancillary_variables"] = "abundances_std"
    method = out.attrs.get("method", "")
    if mapping is not None:
        # Beyond CF: xarray makes it a coordinate again, without decode_coords="all".
        out.attrs["coordinates"] = mapping
    out.attrs = {
        "Conventions": CONVENTIONS,
        "title": "Abundances and endmembers of a sequence of images",
        "source": f"pyro_unmix {_version()} {method}".replace("  ", " ").strip(),
        **out.attrs,
    }
    return out


def _as_map(array: xr.DataArray, mapping: str | None) -> xr.DataArray:
    if array.dtype.kind == "f" and array.ndim:
        array.encoding.update(zlib=True, shuffle=True, complevel=4)
    if not {"y", "x"} <= set(array.dims):
        return array
    if mapping is not None:
        array.encoding["grid_mapping"] = mapping
    encoding = array.encoding
    order = [dim for dim in ("time", "y", "x") if dim in array.dims]
    array = array.transpose(..., *order)
    array.encoding = encoding
    return array


def _time_attributes(dataset: xr.Dataset) -> dict[str, Any]:
    """Dates are CF time; plain numbers without a unit are not."""
    if "time" not in dataset.coords:
        return {}
    time = dataset["time"]
    if time.dtype.kind == "M":
        for key in ("units", "calendar"):  # those of the file are written by xarray
            dataset["time"].attrs.pop(key, None)
    elif " since " not in str(time.attrs.get("units", "")):
        return {"long_name": "time"}
    return {"standard_name": "time", "long_name": "time", "axis": "T"}


def _describe_crs(dataset: xr.Dataset, mapping: str) -> dict[str, dict[str, str]]:
    """Complete the grid mapping in place; return the attributes of x and y."""
    attrs = dict(dataset[mapping].attrs)
    wkt = _wkt(attrs)
    try:
        transform = _transform(dataset, _stored_transform(attrs))
    except ValueError:  # uneven coordinates are no error in NetCDF, but have no transform
        transform = None
    attrs.pop("GeoTransform", None)
    if transform is not None:
        a, b, c, d, e, f = transform
        attrs["GeoTransform"] = " ".join(repr(float(v)) for v in (c, a, b, f, d, e))
    axes: dict[str, dict[str, str]] = {}
    if wkt is not None:
        parameters, axes = _cf_parameters(wkt)
        attrs = {**parameters, **attrs, "crs_wkt": wkt, "spatial_ref": wkt}
    dataset[mapping].attrs = attrs
    return axes


def _cf_parameters(wkt: str) -> tuple[dict[str, Any], dict[str, dict[str, str]]]:
    try:
        import pyproj
    except ImportError:
        return {}, {}
    try:
        crs = pyproj.CRS.from_wkt(wkt)
    except pyproj.exceptions.CRSError:
        return {}, {}
    axes = {axis["axis"].lower(): axis for axis in crs.cs_to_cf() if axis.get("axis") in ("X", "Y")}
    return crs.to_cf(), axes


def _version() -> str:
    try:
        return version("pyro-unmix")
    except PackageNotFoundError:
        return ""
