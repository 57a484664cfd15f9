"""NetCDF, HDF5 with named dims, and Zarr, through xarray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xarray as xr

from pyro_unmix.io.errors import FileError, parsing
from pyro_unmix.io.formats.netcdf_grid import grid_of
from pyro_unmix.io.formats.netcdf_packing import (
    Missing,
    as_unsigned,
    mark_missing,
    missing_of,
    number,
    unpacked,
)
from pyro_unmix.io.image import Image
from pyro_unmix.io.integrity.hdf5 import (
    check_stored,
    fill_value,
    never_written,
    open_hdf5,
    unwritten,
)
from pyro_unmix.io.integrity.hdf5_links import check_layout
from pyro_unmix.io.integrity.zarr_store import check_store, is_store, open_store
from pyro_unmix.io.rows import FileRows

# Names under which other programs keep the axes; sizes say nothing.
_ALIASES = {
    "time": ("time", "t", "date"),
    "y": ("y", "lat", "latitude", "northing", "row", "rows", "line", "lines"),
    "x": ("x", "lon", "longitude", "easting", "column", "columns", "sample", "samples"),
    "wavelength": ("wavelength", "wavelengths", "band", "bands", "channel"),
}
_DIM = {alias: dim for dim, names in _ALIASES.items() for alias in names}
_GOOD = ("good_wavelengths", "good", "bbl")
_ONLY_A_DIM = b"This is a netCDF dimension but not a netCDF variable"
_NO_UNIT = ("", "1", "none", "unitless", "dimensionless", "reflectance")


class _NetCDF:
    name = "NetCDF, HDF5 or Zarr"
    suffixes = (".nc", ".nc4", ".h5", ".hdf5", ".he5", ".cdf", ".zarr")

    def sniff(self, path: Path) -> bool:
        if path.is_dir():
            return is_store(path)
        with path.open("rb") as file:
            head = file.read(4)
        return head[:3] == b"CDF" or bool(h5py.is_hdf5(path))

    def read(self, path: Path) -> Image:
        return self._image(path, lazy=False)

    def open(self, path: Path) -> Image:
        """As `read`, but the numbers stay in the file until rows of them are asked for.

        Only integers without a fill, of which some chunks were never written, are loaded: which
        number is free to mark those, only the numbers can tell.
        """
        return self._image(path, lazy=True)

    def _image(self, path: Path, *, lazy: bool) -> Image:
        with parsing(path, "content", "NetCDF, HDF5 or Zarr"), _open(path) as dataset:
            name = _cube_name(dataset, path)
            missing: list[tuple[slice, ...]] = []
            fill = None
            if path.is_file() and h5py.is_hdf5(path):
                with open_hdf5(path) as file:
                    check_stored(path, file[name], some_chunks=True)
                    missing, fill = unwritten(file[name]), fill_value(file[name])
            if fill is not None:
                dataset[name].attrs.setdefault("_FillValue", fill)
            return _image(dataset, name, path, self.name, missing, lazy)


READER = _NetCDF()


def _open(path: Path) -> xr.Dataset:
    """Lazily, with the stored numbers; only the coordinates of the dims are in memory."""
    settings: dict[str, Any] = {"decode_cf": False}
    if path.is_dir():
        if not is_store(path):
            raise FileError(path, "format", "is a folder, but no Zarr store")
        check_store(path)
        return open_store(path)
    with path.open("rb") as file:
        head = file.read(4)
    if head in (b"CDF\x01", b"CDF\x02"):
        return xr.open_dataset(path, engine="scipy", **settings)
    if head[:3] == b"CDF":
        problem = f"is NetCDF of version {head[3:].hex()}: convert it with nccopy -k nc4"
        raise FileError(path, "format", problem)
    if not h5py.is_hdf5(path):
        raise FileError(path, "format", "is neither NetCDF nor HDF5: it may be damaged or empty")
    with open_hdf5(path) as hdf5:
        _check_coordinates(path, hdf5)
    return xr.open_dataset(path, engine="h5netcdf", phony_dims="access", **settings)


def is_only_a_dim(dataset: h5py.Dataset) -> bool:
    """Whether it stands for a dim of NetCDF without coordinates, and has no values."""
    name = dataset.attrs.get("NAME", b"")
    return isinstance(name, (bytes, np.bytes_)) and name.startswith(_ONLY_A_DIM)


def _check_coordinates(path: Path, file: h5py.File) -> None:
    """Opening loads the coordinates of the dims, so they must be there."""
    for dataset in file.values():
        if not isinstance(dataset, h5py.Dataset) or dataset.ndim > 1 or is_only_a_dim(dataset):
            continue
        check_layout(path, dataset)
        if dataset.ndim == 0:
            continue
        if never_written(dataset) and dataset.size * dataset.dtype.itemsize <= path.stat().st_size:
            continue
        check_stored(path, dataset)


def _cube_name(dataset: xr.Dataset, path: Path) -> str:
    spectral = [str(n) for n, v in dataset.data_vars.items() if _is_cube(v)]
    if "reflectance" in spectral:
        return "reflectance"
    if len(spectral) == 1:
        return spectral[0]
    found = ", ".join(f"{n}{v.dims}" for n, v in dataset.data_vars.items() if v.ndim)
    problem = (
        "expected a variable 'reflectance', or one variable, with the dims (time, y, x, "
        f"wavelength), time may be missing, got {len(spectral)} of them among: "
        f"{found or 'nothing'}. "
    )
    if not spectral and any(_known(v.dims) == {"time", "y", "x"} for v in dataset.values()):
        problem += "There is no spectral axis, so nothing to unmix"
    else:
        problem += "Rename the dims, or keep only one such variable"
    raise FileError(path, "variables", problem)


def _known(dims: Any) -> set[str]:
    return {_DIM.get(str(dim).lower(), str(dim)) for dim in dims}


def _is_cube(variable: xr.DataArray) -> bool:
    dims = _known(variable.dims)
    return {"y", "x", "wavelength"} <= dims <= set(_ALIASES) and len(dims) == variable.ndim


def _image(
    dataset: xr.Dataset,
    name: str,
    path: Path,
    kind: str,
    unwritten: Sequence[tuple[slice, ...]],
    lazy: bool,
) -> Image:
    cube = dataset[name]
    dims = {_DIM[str(dim).lower()]: str(dim) for dim in cube.dims}
    axes = [cube.dims.index(dims[dim]) for dim in _ALIASES if dim in dims]
    notes: list[str] = [f"variable {name}{cube.dims}"]
    empty, attrs = as_unsigned(np.empty(0, cube.dtype), cube.attrs)
    missing = missing_of(attrs, empty.dtype, path, name, notes, unwritten)
    values: Any
    if lazy and (missing.plain or missing.mark() is not None):
        values, nodata = _rows(cube, path, name, axes, missing), missing.nodata
        if not missing.plain and empty.dtype.kind != "f":
            nodata = missing.mark()
    else:
        with parsing(path, name, "an array"):
            values, _ = as_unsigned(cube.to_numpy(), cube.attrs)
        values, nodata = mark_missing(values, missing, path, name)
        values = values.transpose(axes)
    scale, offset = _scaling(attrs, path, name)
    grid = grid_of(dataset, cube, dims, path, notes)
    return Image(
        values=values,
        format=kind,
        nodata=nodata,
        scale=scale,
        offset=offset,
        dates=_dates(dataset, dims.get("time"), path),
        notes=notes,
        **_spectral_axis(dataset, dims["wavelength"], path, notes),
        **grid,
    )


def _rows(
    cube: xr.DataArray, path: Path, name: str, axes: Sequence[int], missing: Missing
) -> FileRows:
    """The numbers as `mark_missing` returns them, read by rows; `axes` are time, y, x, band."""
    whole = [slice(0, size) for size in cube.shape]
    attrs, mark = cube.attrs, missing.mark()
    time_axis, y_axis = (axes[0] if cube.ndim == 4 else None), axes[-3]

    def read(time: int, start: int, stop: int) -> np.ndarray:
        where = list(whole)
        where[y_axis] = slice(start, stop)
        if time_axis is not None:
            where[time_axis] = slice(time, time + 1)
        with parsing(path, name, "an array"):
            block, _ = as_unsigned(_load(path, name, tuple(where)), attrs)
        if not missing.plain:
            block = missing.apply(block, mark, where)
        block = block.transpose(axes)
        return block if time_axis is None else block[0]

    chunks = cube.encoding.get("chunksizes") or cube.encoding.get("chunks")
    shape = tuple(cube.shape[axis] for axis in axes)
    return FileRows(shape, missing.dtype, read, chunks[y_axis] if chunks else 1)


def _load(path: Path, name: str, where: tuple[slice, ...]) -> np.ndarray:
    """A part of the stored numbers of a file that was checked before."""
    if path.is_file() and h5py.is_hdf5(path):
        with h5py.File(path, "r") as file:
            return np.asarray(file[name][where])
    settings: dict[str, Any] = {"decode_cf": False}
    if path.is_dir():
        with open_store(path) as dataset:
            return dataset[name][where].to_numpy()
    with xr.open_dataset(path, engine="scipy", **settings) as dataset:
        return dataset[name][where].to_numpy()


def _scaling(attrs: Mapping[Any, Any], path: Path, name: str) -> tuple[Any, Any]:
    scale = number(attrs, "scale_factor", path, name) if "scale_factor" in attrs else None
    offset = number(attrs, "add_offset", path, name) if "add_offset" in attrs else None
    if offset is not None and scale is None:
        scale = 1.0
    units = str(attrs.get("units", "")).strip().lower()
    if units in ("%", "percent"):
        scale = 0.01 if scale is None else 0.01 * np.asarray(scale)
        offset = None if offset is None else 0.01 * np.asarray(offset)
    elif units not in _NO_UNIT:
        problem = f"must be reflectance without a unit or in percent, got {attrs['units']!r}"
        raise FileError(path, f"{name}:units", problem)
    return scale, offset


def _dates(dataset: xr.Dataset, dim: str | None, path: Path) -> list[Any] | None:
    name = dim or next((n for n in _ALIASES["time"] if n in dataset.variables), None)
    if name is None or name not in dataset.variables:
        return None
    variable = dataset.variables[name]
    if dim is None and variable.size != 1:
        return None
    with parsing(path, name, "dates"):
        decoded = xr.decode_cf(xr.Dataset({"_": variable}))["_"].to_numpy()
    if decoded.dtype.kind in "OS" and all(isinstance(d, (str, bytes)) for d in decoded.flat):
        return [_text(date) for date in np.atleast_1d(decoded)]
    if decoded.dtype.kind == "O":
        problem = (
            f"is in the calendar {variable.attrs.get('calendar')!r}, expected the standard one"
        )
        raise FileError(path, name, f"{problem}: pass dates= after converting")
    return list(np.atleast_1d(decoded))


def _spectral_axis(dataset: xr.Dataset, dim: str, path: Path, notes: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    on_axis = {str(n): v for n, v in dataset.variables.items() if v.dims == (dim,)}
    lower = {name.lower(): name for name in on_axis}
    for alias in _ALIASES["wavelength"]:
        if alias in lower:
            labels = on_axis[lower[alias]]
            if labels.dtype.kind in "OUS":
                found.setdefault("names", [_text(label) for label in labels.to_numpy()])
            elif alias.startswith("wavelength"):
                found["wavelength"] = unpacked(labels, path, lower[alias], notes)
                found["wavelength_unit"] = _unit(labels.attrs)
    if "wavelength" not in found and "wavelength" in lower:
        raise FileError(path, lower["wavelength"], "must hold numbers")
    if "fwhm" in lower:
        widths = on_axis[lower["fwhm"]]
        unit = _unit(widths.attrs)
        if unit is not None and unit != found.get("wavelength_unit", unit):
            problem = f"is in {unit!r}, but the wavelengths are in {found['wavelength_unit']!r}"
            raise FileError(path, "fwhm", problem)
        found["fwhm"] = unpacked(widths, path, lower["fwhm"], notes)
    for alias in _GOOD:
        if alias in lower:
            found["good"] = on_axis[lower[alias]].to_numpy() != 0
    return found


def _unit(attrs: Mapping[Any, Any]) -> str | None:
    unit = attrs.get("units", attrs.get("unit"))
    return None if unit is None else _text(unit)


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
