"""Several files of one place, one labelled array."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from pyro_unmix._check import as_times
from pyro_unmix.cubes import DIMS, as_cube_sequence
from pyro_unmix.io.errors import FileError
from pyro_unmix.io.grid import check_same_grid, spatial_coords
from pyro_unmix.io.image import Image, band_coords, kept_bands, reflectance
from pyro_unmix.io.registry import read_image
from pyro_unmix.io.spectral_axis import Bands, wavelength_in_nm

logger = logging.getLogger(__name__)

# In nm: files of one product differ by rounding only.
_SAME_WAVELENGTH = 0.01


def read_sequence(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    dates: Any = None,
    scale: npt.ArrayLike | None = None,
    bands: Bands = None,
    chunks: int | str | Mapping[str, int] | None = None,
    drop_water: bool = False,
    wavelength_unit: str | None = None,
    nodata: float | None = None,
) -> xr.DataArray:
    """Read one file, or several that are joined in time, as reflectance.

    The format is found from the content, then from the suffix; `pyro_unmix.io.registry` holds the
    table. Reflectance = stored x scale + offset, with the scale, offset and nodata of the file.
    Nothing is guessed: what a file does not say, or says twice, is an error that names the argument
    to pass. Bands that the file calls bad, and bands without any data at some date, are dropped at
    all dates, with a log line.

    Parameters
    ----------
    paths : path, or list of paths
        ENVI: the header or the data file.
    dates : array_like (T,), optional
        In the order of `paths`, instead of the dates in the files: datetime64, ISO strings or
        numbers. Without any dates the order of `paths` stands; else the result is sorted.
    scale : number or array_like (L,), optional
        Instead of the scale in the files; needed for integers without one.
    bands : slice, or list of positions (from 0), of names, or of L bool, optional
        The bands to read, in the order of the file; also those that the file calls bad.
    chunks : int, dict or "auto", optional
        Return dask chunks (`DataArray.chunk`). The files themselves are read at once.
    drop_water : bool
        Drop the bands in the windows of water vapour, 1340-1450 and 1790-1960 nm.
    wavelength_unit : {"nm", "um"}, optional
        Instead of the unit in the files.
    nodata : number, optional
        The stored value that marks missing, instead of that in the files.

    Returns
    -------
    xarray.DataArray
        `reflectance` (time, y, x, wavelength), see `as_cube_sequence`, NaN = missing. Coordinates
        as far as the files have them: time, x and y (pixel centres), wavelength and fwhm (nm), band
        (names), tile, spatial_ref (CRS and transform, as rioxarray writes them).

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    FileError
        If a file is broken, ambiguous, of an unknown format, or does not fit the others.
    ImportError
        If a format needs a library that is not there.
    """
    files = [Path(p) for p in ([paths] if isinstance(paths, (str, os.PathLike)) else paths)]
    if not files:
        raise ValueError("paths must name at least one file, got an empty list")
    images = [read_image(path) for path in files]
    for path, image in zip(files, images, strict=True):
        logger.debug("%s: %s; %s", path, image.format, "; ".join(image.notes))
    for path, image in zip(files[1:], images[1:], strict=True):
        check_same_grid(images[0], files[0], image, path)
        _check_same_bands(images[0], files[0], image, path, wavelength_unit)
    times = _times(images, files, dates)
    settings: dict[str, Any] = {"wavelength_unit": wavelength_unit, "nodata": nodata}
    keep = np.logical_and.reduce(
        [
            kept_bands(image, path=path, bands=bands, drop_water=drop_water, **settings)
            for path, image in zip(files, images, strict=True)
        ]
    )
    if not keep.any():
        raise FileError(files[0], "bands", "no band has data in all files: drop some of the files")
    first = images[0]
    coords: dict[str, Any] = dict(spatial_coords(first))
    coords |= band_coords(first, keep, files[0], wavelength_unit)
    if any(not _equal(first.names, image.names) for image in images):
        coords.pop("band", None)
    if first.tile is not None:
        coords["tile"] = ("y", np.asarray(first.tile))
    if times is not None:
        coords["time"] = times
    values = _joined(images, files, keep, scale, nodata)
    cubes = xr.DataArray(values, dims=DIMS, coords=coords)
    try:
        if times is not None:
            cubes = cubes.sortby("time")
        cubes = as_cube_sequence(cubes)
    except (TypeError, ValueError) as error:
        raise FileError(", ".join(map(str, files)), "values", str(error)) from error
    return cubes if chunks is None else _chunked(cubes, chunks)


def _joined(
    images: list[Image],
    files: list[Path],
    keep: np.ndarray,
    scale: npt.ArrayLike | None,
    nodata: float | None,
) -> np.ndarray:
    parts = [
        reflectance(image, keep, path=path, scale=scale, nodata=nodata)
        for path, image in zip(files, images, strict=True)
    ]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _equal(one: Sequence[str] | None, two: Sequence[str] | None) -> bool:
    return (None if one is None else list(one)) == (None if two is None else list(two))


def _check_same_bands(
    first: Image, first_path: Path, other: Image, path: Path, unit: str | None
) -> None:
    if first.num_bands != other.num_bands:
        problem = f"has {other.num_bands} bands, but {first_path} has {first.num_bands}"
        raise FileError(path, "bands", f"{problem}: choose files of one sensor")
    if (first.wavelength is None) != (other.wavelength is None):
        lacking = path if other.wavelength is None else first_path
        problem = f"is missing in {lacking}, but not in the other files"
        raise FileError(path, "wavelength", problem)
    if first.wavelength is None or other.wavelength is None:
        if (
            first.names is not None
            and other.names is not None
            and not _equal(first.names, other.names)
        ):
            problem = f"are {list(other.names)}, but {list(first.names)} in {first_path}"
            raise FileError(path, "band names", f"{problem}: bring the bands into one order first")
        return
    one = wavelength_in_nm(first.wavelength, first.wavelength_unit, first_path, unit)
    two = wavelength_in_nm(other.wavelength, other.wavelength_unit, path, unit)
    odd = np.flatnonzero(np.abs(one - two) > _SAME_WAVELENGTH)
    if odd.size:
        band = odd[0]
        problem = (
            f"band {band} is at {two[band]:g} nm, but at {one[band]:g} nm in {first_path}: "
            "resample the spectra to the bands of one of them first"
        )
        raise FileError(path, "wavelength", problem)


def _times(images: list[Image], files: list[Path], given: Any) -> np.ndarray | None:
    counts = [image.num_dates for image in images]
    if given is not None:
        times = as_times(given, sum(counts))
    else:
        lacking = [p for p, image in zip(files, images, strict=True) if image.dates is None]
        if len(lacking) == len(files):
            return None
        if lacking:
            problem = "is missing here, but not in the other files: pass dates= to read_sequence"
            raise FileError(lacking[0], "dates", problem)
        parts = [_file_times(image, path) for image, path in zip(images, files, strict=True)]
        if len({part.dtype.kind == "M" for part in parts}) > 1:
            problem = "are numbers in some files and dates in others: pass dates= to read_sequence"
            raise FileError(files[0], "dates", problem)
        times = np.concatenate(parts)
    owners = np.repeat(np.arange(len(files)), counts)
    order = np.argsort(times, kind="stable")
    again = np.flatnonzero(times[order][1:] == times[order][:-1])
    if again.size:
        one, two = order[again[0]], order[again[0] + 1]
        problem = (
            f"{times[one]} appears twice, also in {files[owners[one]]}: drop or average one of "
            "them, or pass dates= to read_sequence"
        )
        raise FileError(files[owners[two]], "dates", problem)
    if (np.diff(order) < 0).any():
        logger.info("sorted %d dates in time", times.size)
    return times


def _file_times(image: Image, path: Path) -> np.ndarray:
    try:
        return as_times(image.dates, image.num_dates)
    except (TypeError, ValueError) as error:
        raise FileError(path, "dates", str(error)) from error


def _chunked(cubes: xr.DataArray, chunks: Any) -> xr.DataArray:
    try:
        import_module("dask")
    except ImportError as error:
        raise ImportError('chunks= needs dask: pip install "pyro-unmix[scale]"') from error
    return cubes.chunk(chunks)
