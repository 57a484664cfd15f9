"""What users have (arrays, DataArrays, lists of them) as one DataArray (time, y, x, wavelength), not yet checked."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from pyro_unmix.data.bands import ROUNDING, narrower, other_bands
from pyro_unmix.data.checks import as_times
from pyro_unmix.data.crs import crs_coordinates, crs_text, same_crs
from pyro_unmix.ops.engine_lock import lent

DIMS = ("time", "y", "x", "wavelength")
#: What other programs call them.
_OTHER_NAMES = {
    "date": "time",
    "lat": "y",
    "latitude": "y",
    "lon": "x",
    "longitude": "x",
    "band": "wavelength",
}

logger = logging.getLogger(__name__)


def _as_float(values: np.ndarray, what: str) -> np.ndarray:
    """Native float32 or float64, masked values as NaN: a read-only view where that is possible."""
    if values.dtype.kind in "iu":
        raise TypeError(
            f"{what} must be reflectance in floating point, got the integers {values.dtype} "
            "without a scale: multiply by the scale of the product, for example "
            "x.astype('float32') * 1e-4, after marking its nodata value as NaN"
        )
    if values.dtype.kind != "f":
        raise TypeError(f"{what} must be reflectance in floating point, got {values.dtype}")
    target = np.float64 if values.dtype.itemsize >= 8 else np.float32
    if isinstance(values, np.ma.MaskedArray):
        # A copy: what lies below the mask belongs to the user.
        filled = np.array(values.data, dtype=target)
        filled[np.ma.getmaskarray(values)] = np.nan
        return filled
    view = np.asarray(values).astype(target, copy=False).view()
    # Not even by accident can the user's own array be changed through the result.
    view.flags.writeable = False
    return view


def from_numpy(x: np.ndarray) -> xr.DataArray:
    """An array (time, y, x, wavelength), or (y, x, wavelength) for one image, with named dims."""
    values = _as_float(x, "a cube sequence")
    if x.ndim not in (3, 4):
        raise ValueError(
            "a numpy cube sequence must have the axes (time, y, x, wavelength), or (y, x, "
            f"wavelength) for one image, got {x.ndim} dimensions: shape {x.shape}"
        )
    return xr.DataArray(values if x.ndim == 4 else values[np.newaxis], dims=DIMS)


def check_sizes(x: xr.DataArray, what: str) -> None:
    """Raise ValueError where Dask does not know how many elements a dim has."""
    unknown = [str(dim) for dim, size in x.sizes.items() if size != size]
    if unknown:
        raise ValueError(
            f"{what} must have known sizes, got none along {', '.join(unknown)}: call "
            "compute_chunk_sizes() of the dask array"
        )


def with_our_dims(x: xr.DataArray) -> xr.DataArray:
    """The same with dims that other programs name otherwise, such as band, lat and lon or date, by our names.

    Numbers of bands do not become wavelengths: of a dim ``band`` only a coordinate ``wavelength`` does, and the
    coordinate ``band`` stays one. A dim whose name of ours is taken stays as it is.
    """
    for name, ours in _OTHER_NAMES.items():
        if name not in x.dims or ours in x.dims:
            continue
        if ours in x.coords and x.coords[ours].dims != (name,):
            continue
        if ours in x.coords or ours == "wavelength":
            x = x.swap_dims({name: ours})
        else:
            x = x.rename({name: ours})
    return x


def from_dataarray(x: xr.DataArray, what: str) -> xr.DataArray:
    """A DataArray with the dims in their order and the dates as datetime64 or numbers."""
    x = with_our_dims(x)
    check_sizes(x, what)
    missing = [dim for dim in DIMS if dim not in x.dims and dim != "time"]
    unknown = [dim for dim in x.dims if dim not in DIMS]
    if missing or unknown:
        raise ValueError(
            f"{what} must have the dims {DIMS} in any order (one image: without 'time'), got "
            f"{x.dims}; missing: {missing}, unknown: {unknown}. Rename, for example "
            "x.rename(bands='wavelength'), or select a slice"
        )
    if "time" not in x.dims:
        if "time" in x.coords and x.coords["time"].ndim:
            raise ValueError(
                f"{what} is one image, so its coordinate time must be one date, got dims "
                f"{x.coords['time'].dims}: drop or rename it"
            )
        x = x.expand_dims("time")
    x = x.transpose(*DIMS)
    with lent():
        values = x.to_numpy()
    cubes = x.copy(data=_as_float(values, what))
    if "time" in cubes.coords:
        times = as_times(cubes.coords["time"].to_numpy(), cubes.sizes["time"])
        cubes = cubes.assign_coords(time=("time", times, cubes.coords["time"].attrs))
    return cubes


def join(items: Sequence[Any]) -> xr.DataArray:
    """A list of images, all arrays or all DataArrays of one grid and the same bands, one after the other.

    The first one's wavelengths, fwhm and CRS count for all; see `pyro_unmix.data.bands` for what are the same bands.
    """
    if not items:
        raise ValueError("a list of cubes must hold at least one image, got an empty list")
    if all(isinstance(item, np.ndarray) for item in items):
        for i, item in enumerate(items):
            if item.ndim != 3 or item.shape != items[0].shape:
                raise ValueError(
                    "a list of cubes must hold images (y, x, wavelength) of one shape, got "
                    f"{items[0].shape} at position 0 and {item.shape} at position {i}"
                )
        arrays = [_as_float(item, f"item {i} of the list") for i, item in enumerate(items)]
        return xr.DataArray(np.stack(arrays), dims=DIMS)
    if not all(isinstance(item, xr.DataArray) for item in items):
        kinds = ", ".join(sorted({type(item).__name__ for item in items}))
        raise TypeError(
            f"a list of cubes must hold numpy arrays only or DataArrays only, got {kinds}"
        )
    cubes = [from_dataarray(item, f"item {i} of the list") for i, item in enumerate(items)]
    for i, cube in enumerate(cubes):
        _check_same_grid(cubes[0], cube, i)
    _warn_of_shifts(cubes)
    cubes = [cubes[0], *[_as_first(cubes[0], cube) for cube in cubes[1:]]]
    joined = xr.concat(
        cubes,
        dim="time",
        coords="different",
        compat="equals",
        join="exact",
        combine_attrs="drop_conflicts",
    )
    return joined.transpose(*DIMS)


def _check_same_grid(first: xr.DataArray, other: xr.DataArray, position: int) -> None:
    for dim in DIMS[1:]:
        if first.sizes[dim] != other.sizes[dim]:
            raise ValueError(
                f"all items of the list must have one size along {dim}, got {first.sizes[dim]} at "
                f"position 0 and {other.sizes[dim]} at position {position}"
            )
    if set(first.coords) != set(other.coords):
        odd = ", ".join(sorted(map(str, set(first.coords) ^ set(other.coords))))
        raise ValueError(
            "all items of the list must have the same coordinates, but positions 0 and "
            f"{position} do not share {odd}: add or drop it"
        )
    how = "bring them to one grid first, other.rio.reproject_match(first) with rioxarray"
    for dim in DIMS[1:3]:
        if dim in first.coords and not first.coords[dim].equals(other.coords[dim]):
            raise ValueError(
                f"all items of the list must have the same coordinate {dim}, but positions 0 and "
                f"{position} differ: {how}"
            )
    for name in dict.fromkeys([*crs_coordinates(first.coords), *crs_coordinates(other.coords)]):
        one, two = (cube.coords[name].attrs for cube in (first, other))
        if not same_crs(crs_text(one), crs_text(two)):
            raise ValueError(
                "all items of the list must have the same coordinate reference system, but "
                f"position 0 has {_short(crs_text(one))} and position {position} "
                f"{_short(crs_text(two))}: {how}"
            )
        # Where there are x and y, they say where the pixels lie.
        if "x" not in first.coords and not _same_place(one, two):
            raise ValueError(
                f"all items of the list must have the same transform, but position 0 has "
                f"{one.get('GeoTransform')} and position {position} {two.get('GeoTransform')}: {how}"
            )
    _check_same_bands(first, other, position)


def _check_same_bands(first: xr.DataArray, other: xr.DataArray, position: int) -> None:
    if "wavelength" not in first.coords:
        return
    one, two = (cube.coords["wavelength"].to_numpy() for cube in (first, other))
    if one.dtype.kind not in "iuf" or two.dtype.kind not in "iuf":
        return  # refused later, with its own words
    odd = other_bands(one, two, narrower(fwhm_of(first), fwhm_of(other)))
    if odd.size:
        raise ValueError(
            "all items of the list must have the same coordinate wavelength, but at position 0 "
            f"band {odd[0]} is at {one[odd[0]]:g} nm and at position {position} at "
            f"{two[odd[0]]:g} nm: resample the spectra to the same bands first, for example with "
            "interp(wavelength=first.wavelength)"
        )


def fwhm_of(cube: xr.DataArray) -> np.ndarray | None:
    """The coordinate fwhm (L,), where there is one along wavelength."""
    has_one = "fwhm" in cube.coords and cube.coords["fwhm"].dims == ("wavelength",)
    return cube.coords["fwhm"].to_numpy() if has_one else None


def _warn_of_shifts(cubes: list[xr.DataArray]) -> None:
    if "wavelength" not in cubes[0].coords:
        return
    first = cubes[0].coords["wavelength"].to_numpy()
    if first.dtype.kind not in "iuf":
        return
    shifts = [np.abs(cube.coords["wavelength"].to_numpy() - first).max() for cube in cubes]
    if max(shifts) > ROUNDING:
        logger.warning(
            "item %d of the list has bands up to %.2g nm off those of item 0, whose wavelengths "
            "are kept for all",
            int(np.argmax(shifts)),
            max(shifts),
        )


def _as_first(first: xr.DataArray, other: xr.DataArray) -> xr.DataArray:
    """With the wavelengths, fwhm and CRS of the first, so that rounding and spelling cannot part them."""
    names = [
        *crs_coordinates(first.coords),
        *[n for n in ("wavelength", "fwhm") if n in first.coords],
    ]
    return other.assign_coords({name: first.coords[name] for name in names})


def _same_place(one: Mapping[str, Any], two: Mapping[str, Any]) -> bool:
    texts = [str(attrs.get("GeoTransform", "")) for attrs in (one, two)]
    try:
        numbers = [np.array(text.split(), dtype=float) for text in texts]
    except ValueError:
        return texts[0] == texts[1]
    first, second = numbers
    return first.shape == second.shape and np.allclose(first, second, rtol=1e-9, atol=0)


def _short(crs: str | None) -> str:
    return "none" if not crs else crs if len(crs) < 40 else crs.split(",")[0] + " ..."
