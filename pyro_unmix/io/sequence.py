"""Several files of one place, one labelled array."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from pyro_unmix.data.bands import ROUNDING, Ignore, narrower, other_bands
from pyro_unmix.data.checks import as_times
from pyro_unmix.data.cubes import DIMS, as_cube_sequence
from pyro_unmix.data.types import DatesLike
from pyro_unmix.io.common_bands import with_common_bands
from pyro_unmix.io.errors import FileError, parsing
from pyro_unmix.io.given import with_scaling, with_wavelengths
from pyro_unmix.io.grid import check_same_grid, spatial_coords
from pyro_unmix.io.image import Image
from pyro_unmix.io.lazy import checked, import_dask, lazy_reflectance
from pyro_unmix.io.masks import Masks, masks_of
from pyro_unmix.io.reflectance import band_coords, check_shapes, kept_bands, reflectance
from pyro_unmix.io.registry import find_reader, read_image
from pyro_unmix.io.spectral_axis import Bands, fwhm_in_nm, wavelength_in_nm

logger = logging.getLogger(__name__)

# One specification, several satellites, whose bands go by their names.
_TWINS = ("Sentinel-2",)


def read_sequence(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    dates: DatesLike | None = None,
    scale: npt.ArrayLike | None = None,
    offset: npt.ArrayLike | None = None,
    bands: Bands = None,
    chunks: int | str | Mapping[str, int] | None = None,
    ignore: Ignore = None,
    masks: Masks | None = None,
    wavelength_unit: str | None = None,
    nodata: float | None = None,
) -> xr.DataArray:
    """Read one file, or several that are joined in time, as reflectance.

    The format is found from the content, then from the suffix; `pyro_unmix.io.registry` holds the
    table. Reflectance = stored x scale + offset, with the scale, offset and nodata of the file.
    Nothing is guessed: what a file does not say, or says twice, is an error that names the argument
    to pass. Bands that the file calls bad, and bands without any data at some date, are dropped at
    all dates, with a log line. The other bands must be the same in all files: centres less than a
    tenth of the band width apart (`pyro_unmix.data.bands.band_tolerance`; of Sentinel-2A, B and C, by
    their names). Those of the first file are kept, with a warning that says the largest shift. Of
    PRISMA, whose products do not all use the same bands, the common ones are read, with a warning
    that lists the others.

    Parameters
    ----------
    paths : path, or paths as a list or an iterator, such as of ``Path.glob``
        ``~`` is the home folder. ENVI: the header or the data file.
    dates : array_like (T,), optional
        In the order of `paths`, instead of the dates in the files: datetime64, ISO strings or
        numbers. Without any dates the order of `paths` stands; else the result is sorted.
    scale, offset : number or array_like (L,), optional
        Instead of the scale and the offset in the files; a scale is needed for integers without
        one, both for Sentinel-2 bands without their metadata.
    bands : slice, or list of positions (from 0), of names, or of L bool, optional
        The bands to read, in the order of the file; also those that the file calls bad.
    chunks : int, dict or "auto", optional
        Return dask chunks (`DataArray.chunk`), whose values are read when they are computed, so
        that a part of a large image can be taken, by blocks of rows. Whether bands hold any data is
        looked at before, until each has shown some, and of what the numbers may be a sample of rows
        is checked. Sentinel-2, MATLAB and .npz files are loaded whole.
    ignore : str or sequence of pairs, optional
        Drop the bands whose centres lie in these ranges, nm: ``"0-440,1310-1490"``, ``[(0, 440), (1310, 1490)]``, or
        named ones, ``"water_vapour"`` (1340-1450, 1790-1960) and ``"emit"`` (0-440, 1310-1490, 1770-2050, 2440-2880).
    masks : path, list of paths or None, or "product", optional
        Pixels to take as missing, see `read_mask`: one mask for all files, or one (or None) for each. Or the quality
        layers that lie beside each product: EMIT's L2A_MASK, Sentinel-2's scene classification, EnMAP's clouds, cirrus,
        haze and shadows.
    wavelength_unit : {"nm", "um", "none"}, optional
        Instead of the unit in the files; "none" leaves their wavelengths away.
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

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> import numpy as np, pyro_unmix as pu
    >>> with TemporaryDirectory() as folder:
    ...     np.savez(f'{folder}/a.npz', Y=np.full((1, 3, 4, 5), 2000, 'i2'))
    ...     cubes = pu.read_sequence(f'{folder}/a.npz', dates=['2024-05-01'], scale=1e-4)
    >>> cubes.dims, round(float(cubes.max()), 3)
    (('time', 'y', 'x', 'wavelength'), 0.2)
    """
    files = as_files(paths)
    if chunks is not None:
        import_dask()
    read = read_image if chunks is None else _open_image
    images = [
        with_wavelengths(with_scaling(read(path), path, scale, offset), path, wavelength_unit)
        for path in files
    ]
    images = with_common_bands(images, files)
    if wavelength_unit is not None and str(wavelength_unit).strip().lower() == "none":
        wavelength_unit = None
    for path, image in zip(files, images, strict=True):
        logger.debug("%s: %s; %s", path, image.format, "; ".join(image.notes))
    for path, image in zip(files[1:], images[1:], strict=True):
        check_same_grid(images[0], files[0], image, path)
        _check_same_names(images[0], files[0], image, path)
    times = _times(images, files, dates)
    settings: dict[str, Any] = {"wavelength_unit": wavelength_unit, "nodata": nodata}
    keep = np.logical_and.reduce(
        [
            kept_bands(image, path=path, bands=bands, ignore=ignore, **settings)
            for path, image in zip(files, images, strict=True)
        ]
    )
    if not keep.any():
        raise FileError(files[0], "bands", "no band has data in all files: drop some of the files")
    if ignore is not None and keep.sum() == 1 < images[0].num_bands and bands is None:
        problem = (
            "one is left that has data in all files, two at least must be: leave out less, ignore="
        )
        raise FileError(files[0], "bands", problem)
    _check_same_bands(images, files, keep, wavelength_unit)
    first = images[0]
    coords: dict[str, Any] = dict(spatial_coords(first))
    coords |= band_coords(first, keep, files[0], wavelength_unit)
    if any(not _equal(first.names, image.names) for image in images):
        coords.pop("band", None)
    if first.tile is not None:
        coords["tile"] = ("y", np.asarray(first.tile))
    if times is not None:
        coords["time"] = times
    make = _joined if chunks is None else lazy_reflectance
    values = make(images, files, keep, nodata)
    cubes = xr.DataArray(values, dims=DIMS, coords=coords)
    if masks is not None:
        cubes = cubes.where(xr.DataArray(~masks_of(images, files, masks), dims=DIMS[:3]))
    try:
        if times is not None:
            cubes = cubes.sortby("time")
        return as_cube_sequence(cubes) if chunks is None else checked(cubes).chunk(chunks)
    except (TypeError, ValueError) as error:
        raise FileError(", ".join(map(str, files)), "values", str(error)) from error


def as_files(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[Path]:
    """The paths, with the home folder for ``~``; none of them empty, which would be the current folder."""
    given = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    if not given:
        raise ValueError("paths must name at least one file, got an empty list")
    if any(os.fspath(path) == "" for path in given):
        raise ValueError("a path must not be empty, got '': pass '.' for the current folder")
    return [Path(path).expanduser() for path in given]


def _open_image(path: Path) -> Image:
    """As `read_image`, but without the numbers where the reader can leave them in the file."""
    reader = find_reader(path)
    if not hasattr(reader, "open"):
        return read_image(path)
    with parsing(path, "content", reader.name):
        image: Image = reader.open(path)
        check_shapes(image, path)
    return image


def _joined(
    images: list[Image],
    files: list[Path],
    keep: np.ndarray,
    nodata: float | None,
) -> np.ndarray:
    parts = [
        reflectance(image, keep, path=path, nodata=nodata)
        for path, image in zip(files, images, strict=True)
    ]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _equal(one: Sequence[str] | None, two: Sequence[str] | None) -> bool:
    return (None if one is None else list(one)) == (None if two is None else list(two))


def _check_same_names(first: Image, first_path: Path, other: Image, path: Path) -> None:
    """Number of bands, and their names where nothing else tells them apart."""
    if first.num_bands != other.num_bands:
        problem = f"has {other.num_bands} bands, but {first_path} has {first.num_bands}"
        cure = "choose files of one sensor, or read them one by one and join their common bands"
        raise FileError(path, "bands", f"{problem}: {cure} (xarray.concat)")
    if (first.wavelength is None) != (other.wavelength is None):
        lacking = path if other.wavelength is None else first_path
        problem = f"is missing in {lacking}, but not in the other files"
        raise FileError(path, "wavelength", problem)
    by_name = first.wavelength is None or first.format == other.format in _TWINS
    if not by_name or first.names is None or other.names is None:
        return
    if not _equal(first.names, other.names):
        problem = f"are {list(other.names)}, but {list(first.names)} in {first_path}"
        raise FileError(path, "band names", f"{problem}: bring the bands into one order first")


def _check_same_bands(
    images: list[Image], files: list[Path], keep: np.ndarray, unit: str | None
) -> None:
    """The centres of the bands that are kept, against those of the first file."""
    first = images[0]
    if first.wavelength is None:
        return
    one, width = _centres(first, files[0], unit)
    largest, where = 0.0, files[0]
    for path, image in zip(files[1:], images[1:], strict=True):
        two, other_width = _centres(image, path, unit)
        odd = other_bands(one, two, narrower(width, other_width))
        odd = odd[keep[odd]]
        if odd.size and not (first.format == image.format in _TWINS):
            band = odd[0]
            problem = (
                f"band {band} is at {two[band]:g} nm, but at {one[band]:g} nm in {files[0]}, more "
                "than a tenth of its width away: resample the spectra to the bands of one of them "
                "first, or choose the others with bands="
            )
            raise FileError(path, "wavelength", problem)
        shift = float(np.abs(one - two)[keep].max())
        if shift > largest:
            largest, where = shift, path
    if largest > ROUNDING:
        logger.warning(
            "%s: bands are up to %.2g nm off those of %s, whose wavelengths are kept",
            where,
            largest,
            files[0],
        )


def _centres(image: Image, path: Path, unit: str | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Centres and widths in nm."""
    assert image.wavelength is not None
    stated = image.wavelength_unit
    fwhm = None if image.fwhm is None else fwhm_in_nm(image.fwhm, stated, path, unit)
    return wavelength_in_nm(image.wavelength, stated, path, unit), fwhm


def _times(images: list[Image], files: list[Path], given: Any) -> np.ndarray | None:
    counts = [image.num_dates for image in images]
    if given is not None:
        times = _given_times(given, sum(counts))
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
        cure = "pass" if given is None else "pass others by"
        problem = (
            f"{times[one]} appears twice, also in {files[owners[one]]}: drop or average one of "
            f"them, or {cure} dates= to read_sequence"
        )
        raise FileError(files[owners[two]], "dates", problem)
    if (np.diff(order) < 0).any():
        logger.info("sorted %d dates in time", times.size)
    return times


def _given_times(given: Any, count: int) -> np.ndarray:
    """As `as_times`, in the words of the argument."""
    number = np.size(given)
    if number != count:
        raise ValueError(
            f"dates= must hold one date per image, {count} in the files, got {number}: {given!r}"
        )
    try:
        return as_times(given, count)
    except (TypeError, ValueError) as error:
        raise type(error)(re.sub("^time ", "dates= ", str(error))) from error


def _file_times(image: Image, path: Path) -> np.ndarray:
    try:
        return as_times(image.dates, image.num_dates)
    except (TypeError, ValueError) as error:
        raise FileError(path, "dates", str(error)) from error
