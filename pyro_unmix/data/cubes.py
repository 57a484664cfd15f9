"""The data contract: one labelled array (time, y, x, wavelength), pixels, validity and tiles.

A *pixel-date* is one spectrum: one pixel at one date. It is missing when any of its bands is NaN.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from pyro_unmix.data.bands import ROUNDING, other_bands
from pyro_unmix.data.checks import as_times, as_wavelengths, plausible_reflectance
from pyro_unmix.data.cube_input import DIMS, from_dataarray, from_numpy, fwhm_of, join
from pyro_unmix.data.types import CubesLike, DatesLike

__all__ = ["DIMS", "as_cube_sequence", "check_bands", "from_pixels", "tiles", "to_pixels"]
__all__ += ["valid_mask"]

logger = logging.getLogger(__name__)


def as_cube_sequence(
    x: CubesLike,
    *,
    wavelength: npt.ArrayLike | None = None,
    time: DatesLike | None = None,
) -> xr.DataArray:
    """Return `x` as the labelled array that the whole package works on.

    Axes are taken from their names or from the documented order, never guessed from sizes. `x` is
    never changed: the result is a copy, or a read-only view where nothing had to be converted. Files are not read here,
    where what they leave open could not be said: `read_sequence` reads them, and so do all functions of whole images.

    Parameters
    ----------
    x : numpy.ndarray, xarray.DataArray, or list of them
        Reflectance (about 0 to 1), floating point. One of: an array (T, H, W, L); one image (H, W, L), then T = 1; a
        list of T images (H, W, L); a DataArray with the dims time, y, x and wavelength in any order (without time: one
        image), which may also be named date, lat or latitude, lon or longitude, and band; a list of such
        DataArrays, which are joined in time. NaN or a masked value in any band marks the whole
        pixel-date as missing; so do zeros in all bands, which are the fill of many products and no reflectance. An
        integer coordinate `tile` on y marks disjoint tiles of one scene.
    wavelength : array_like (L,), optional
        Band centres in nm, in any order. Default: the coordinate of `x`, if it has one.
    time : array_like (T,), optional
        Dates, unique and increasing: datetime64, datetime, ISO strings (UTC), or numbers. Default:
        the coordinate of `x`, if it has one.

    Returns
    -------
    xarray.DataArray
        `reflectance` (time, y, x, wavelength), float64 if `x` is, else float32, with all other
        coordinates and the attributes of `x`.

    Raises
    ------
    TypeError
        If `x` is of another type, or its elements are not floating-point numbers.
    ValueError
        If rank, dims, sizes, coordinates or values break the contract.

    Examples
    --------
    >>> import numpy as np, pyro_unmix as pu
    >>> images = np.full((2, 3, 4, 5), .2)  # (T, H, W, L)
    >>> cubes = pu.as_cube_sequence(
    ...     images, wavelength=[450, 550, 650, 850, 1600], time=['2024-05-01', '2024-06-01']
    ... )
    >>> dict(cubes.sizes)
    {'time': 2, 'y': 3, 'x': 4, 'wavelength': 5}
    """
    if isinstance(x, (list, tuple)):
        cubes = join(x)
    elif isinstance(x, xr.DataArray):
        cubes = from_dataarray(x, "the DataArray")
    elif isinstance(x, np.ndarray):
        cubes = from_numpy(x)
    else:
        raise TypeError(
            "a cube sequence must be a numpy array, a DataArray or a list of either, got "
            f"{type(x).__name__}: take one variable of a Dataset, x.numpy() of a tensor, "
            "pyro_unmix.read_sequence for a file"
        )
    if 0 in cubes.shape:
        raise ValueError(f"a cube sequence must not be empty, got sizes {dict(cubes.sizes)}")
    cubes = _with_times(cubes, time)
    cubes = _with_wavelengths(cubes, wavelength)
    cubes = _without_fill(cubes)
    plausible_reflectance(cubes.to_numpy())
    tiles(cubes)
    return cubes.rename("reflectance")


def valid_mask(cubes: xr.DataArray) -> xr.DataArray:
    """Return which pixel-dates are observed: (time, y, x), bool, False if any band is NaN.

    Examples
    --------
    >>> import numpy as np, pyro_unmix as pu
    >>> image = np.full((2, 2, 3), .2)
    >>> image[0, 1, 2] = np.nan  # in one band
    >>> pu.data.valid_mask(pu.as_cube_sequence(image)).values.tolist()
    [[[True, False], [True, True]]]
    """
    cubes = ordered(cubes)
    # One date at a time: the mask of all bands of all dates would be a quarter of the data.
    mask = np.stack([whole_spectra(image) for image in cubes.to_numpy()])
    return xr.DataArray(mask, dims=DIMS[:3], coords=_plane_coords(cubes), name="valid")


def to_pixels(cubes: xr.DataArray) -> tuple[np.ndarray, np.ndarray]:
    """Return the spectra as a list of pixels.

    Returns
    -------
    pixels : numpy.ndarray
        (N, T, L), N = H W with x running fastest, in the dtype of `cubes`; 0 in all bands of a
        missing pixel-date. A copy.
    valid : numpy.ndarray
        (N, T), bool: which pixel-dates are observed.

    Examples
    --------
    >>> import numpy as np, pyro_unmix as pu
    >>> cubes = pu.as_cube_sequence(np.full((2, 3, 4, 5), .2))
    >>> pixels, valid = pu.data.to_pixels(cubes)
    >>> pixels.shape, bool(valid.all())
    ((12, 2, 5), True)
    """
    cubes = ordered(cubes)
    num_dates, height, width, num_bands = cubes.shape
    valid = np.empty((height * width, num_dates), dtype=bool)
    pixels = np.empty((height * width, num_dates, num_bands), dtype=cubes.dtype)
    for t, image in enumerate(cubes.to_numpy()):
        spectra = image.reshape(-1, num_bands)
        valid[:, t] = whole_spectra(spectra)
        pixels[:, t] = spectra
        if not valid[:, t].all():
            pixels[~valid[:, t], t] = 0
    return pixels, valid


def valid_spectra(cubes: xr.DataArray) -> np.ndarray:
    """The observed spectra of all dates, (M, L), float64, in the order of (time, y, x)."""
    spectra = cubes.values.reshape(-1, cubes.sizes["wavelength"])
    return spectra[whole_spectra(spectra)].astype(np.float64)


def whole_spectra(spectra: np.ndarray) -> np.ndarray:
    """Which of some spectra (..., L) have no NaN: (...)."""
    # A sum is NaN where a band is, or where bands are infinite; it takes a quarter of the time of a mask of all bands.
    whole = ~np.isnan(np.einsum("...l->...", spectra))
    if not whole.all():
        whole[~whole] = ~np.isnan(spectra[~whole]).any(axis=-1)
    return whole


def from_pixels(
    values: npt.ArrayLike,
    cubes: xr.DataArray,
    extra_dims: Mapping[str, Any] | Sequence[str] = (),
    *,
    name: str | None = None,
) -> xr.DataArray:
    """Put values per pixel and date back on the grid of `cubes`: the inverse of `to_pixels`.

    Parameters
    ----------
    values : array_like (N, T, ...)
        Pixels in the order of `to_pixels`.
    cubes : xarray.DataArray
        The sequence that the pixels come from: sizes, time, y, x and the other coordinates.
    extra_dims : dict of name to labels (None: no labels), or sequence of names
        The dims after (N, T). A dim `wavelength` without labels takes those of `cubes`.
    name : str, optional
        Of the result.

    Returns
    -------
    xarray.DataArray
        ``(time, y, x, *extra_dims)``. A copy.

    Examples
    --------
    >>> import numpy as np, pyro_unmix as pu
    >>> cubes = pu.as_cube_sequence(np.full((2, 3, 4, 5), .2))
    >>> pixels, valid = pu.data.to_pixels(cubes)
    >>> pu.data.from_pixels(pixels.mean(-1), cubes, name='mean').dims
    ('time', 'y', 'x')
    """
    cubes = ordered(cubes)
    array = np.asarray(values)
    if isinstance(extra_dims, str):
        raise TypeError(
            f"extra_dims must be a list of names or a dict, got a string: [{extra_dims!r}]"
        )
    labels = dict(extra_dims) if isinstance(extra_dims, Mapping) else dict.fromkeys(extra_dims)
    num_dates, height, width = cubes.shape[:3]
    expected = (height * width, num_dates)
    if array.shape[:2] != expected or array.ndim != 2 + len(labels):
        dims = ", ".join(["N", "T", *labels])
        raise ValueError(
            f"values must have the shape ({dims}) with N = {expected[0]} and T = {expected[1]}, "
            f"got {array.shape}"
        )
    grid = np.moveaxis(array.reshape(height, width, *array.shape[1:]), 2, 0)
    coords = _plane_coords(cubes)
    for dim, label in labels.items():
        if label is not None:
            coords[dim] = label
        elif dim == "wavelength":
            coords.update({n: c for n, c in cubes.coords.items() if c.dims == ("wavelength",)})
    return xr.DataArray(grid.copy(order="C"), dims=(*DIMS[:3], *labels), coords=coords, name=name)


def tiles(cubes: xr.DataArray) -> list[slice]:
    """Return the slices along y of the disjoint tiles: the runs of equal `tile`.

    Nothing spatial crosses from one slice to another. Without the coordinate there is one slice.

    Raises
    ------
    TypeError
        If the coordinate is not of integers.
    ValueError
        If the coordinate is not on y alone, or the rows of a tile do not lie together.
    """
    if "tile" not in cubes.coords:
        return [slice(0, cubes.sizes["y"])]
    tile = cubes.coords["tile"]
    if tile.dims != ("y",):
        raise ValueError(f"the coordinate tile must be on the dim y alone, got dims {tile.dims}")
    ids = tile.to_numpy()
    if ids.dtype.kind not in "iu":
        raise TypeError(f"the coordinate tile must be of integers, got {ids.dtype}")
    starts = [0, *(np.flatnonzero(ids[1:] != ids[:-1]) + 1)]
    first, count = np.unique(ids[starts], return_counts=True)
    if (count > 1).any():
        raise ValueError(
            "the rows of a tile must lie together along y, got several runs of tile "
            f"{first[count > 1][0]}: sort with cubes.sortby('tile'), or give each run its own "
            "number"
        )
    return [slice(int(a), int(b)) for a, b in zip(starts, [*starts[1:], ids.size], strict=True)]


def ordered(cubes: xr.DataArray) -> xr.DataArray:
    """Checked cubes with the dims in their order."""
    if not isinstance(cubes, xr.DataArray) or set(cubes.dims) != set(DIMS):
        got = cubes.dims if isinstance(cubes, xr.DataArray) else type(cubes).__name__
        raise ValueError(
            f"cubes must be a DataArray with the dims {DIMS}, got {got}: pass it through "
            "as_cube_sequence first"
        )
    return cubes.transpose(*DIMS)


def _plane_coords(cubes: xr.DataArray) -> dict[Any, Any]:
    return {name: c for name, c in cubes.coords.items() if "wavelength" not in c.dims}


def _without_fill(cubes: xr.DataArray) -> xr.DataArray:
    """Zeros in all bands marked as missing, in a copy if there are any."""
    values = cubes.to_numpy()
    # Most spectra are told apart by their first band.
    candidates = np.argwhere(values[..., 0] == 0)
    fill = candidates[~values[tuple(candidates.T)].any(axis=-1)]
    if not len(fill):
        return cubes
    logger.info("%d pixel-dates are zero in all bands: taken as missing", len(fill))
    marked = values.copy()
    marked[tuple(fill.T)] = np.nan
    return cubes.copy(data=marked)


def check_bands(wavelength: npt.ArrayLike | xr.DataArray | None, cubes: xr.DataArray) -> None:
    """Refuse cubes whose wavelengths are not those that endmembers were given at.

    Parameters
    ----------
    wavelength : array (L,), or None if it is not known
        nm, of the endmembers.
    cubes : xarray.DataArray

    Raises
    ------
    ValueError
        If numbers of bands differ, or wavelengths by more than a tenth of the band width (see
        `pyro_unmix.data.bands.band_tolerance`). Smaller shifts are a WARNING.
    """
    if wavelength is None or "wavelength" not in cubes.coords:
        return
    ours, theirs = np.asarray(wavelength), cubes.coords["wavelength"].to_numpy()
    if ours.shape != theirs.shape:
        raise ValueError(
            f"the endmembers have {ours.size} bands, the cubes {theirs.size}: select or resample "
            "the same bands first"
        )
    worst = np.abs(ours - theirs).max()
    if other_bands(theirs, ours, fwhm_of(cubes)).size:
        raise ValueError(
            f"expected cubes at the wavelengths of the endmembers, got some up to {worst:.1f} nm "
            "off: bring both to the same bands in the same order first"
        )
    if worst > ROUNDING:
        logger.warning(
            "the bands of the endmembers are up to %.2g nm off those of the cubes", worst
        )


def _with_times(cubes: xr.DataArray, time: DatesLike | None) -> xr.DataArray:
    stored = cubes.coords["time"].to_numpy() if "time" in cubes.coords else None
    if time is not None:
        times = as_times(time, cubes.sizes["time"])
        if stored is not None and not np.array_equal(stored, times):
            raise ValueError(
                "time differs from the coordinate time of the data: pass only one of them, or "
                "drop the other with x.drop_vars('time')"
            )
        cubes = cubes.assign_coords(time=("time", times))
    elif stored is None:
        return cubes
    times = cubes.coords["time"].to_numpy()
    values, first, count = np.unique(times, return_index=True, return_counts=True)
    if (count > 1).any():
        again = values[count > 1][0]
        at = ", ".join(map(str, np.flatnonzero(times == again)))
        raise ValueError(
            f"dates must be unique, got duplicated dates: {again} at positions {at}: drop or "
            "average them"
        )
    if (np.diff(first) < 0).any():
        raise ValueError(
            "dates must increase: sort data and dates together, with x.sortby('time') for a "
            "DataArray, or order = np.argsort(time), x[order] and time[order] for an array"
        )
    return cubes


def _with_wavelengths(cubes: xr.DataArray, wavelength: npt.ArrayLike | None) -> xr.DataArray:
    stored = cubes.coords["wavelength"] if "wavelength" in cubes.coords else None
    attrs = {"units": "nm", "long_name": "wavelength"}
    if stored is not None:
        values = as_wavelengths(stored, cubes.sizes["wavelength"])
        attrs |= stored.attrs
    if wavelength is not None:
        passed = as_wavelengths(wavelength, cubes.sizes["wavelength"])
        if stored is not None and not np.allclose(values, passed, rtol=0, atol=1e-3):
            raise ValueError(
                "wavelength differs from the coordinate wavelength of the data: pass only one of "
                "them, or drop the other with x.drop_vars('wavelength')"
            )
        values = passed
    elif stored is None:
        return cubes
    return cubes.assign_coords(wavelength=("wavelength", values, attrs))
