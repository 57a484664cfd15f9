"""The rules that make reflectance of what a reader returns: the same for every format."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from pyro_unmix.data.bands import Ignore
from pyro_unmix.data.checks import plausible_reflectance
from pyro_unmix.data.cubes import as_cube_sequence
from pyro_unmix.io.errors import FileError
from pyro_unmix.io.grid import spatial_coords
from pyro_unmix.io.image import Image
from pyro_unmix.io.spectral_axis import (
    Bands,
    choose_bands,
    fwhm_in_nm,
    wavelength_in_nm,
    wavelength_to_nm,
)

__all__ = [
    "Darkness",
    "Image",
    "band_coords",
    "check_shapes",
    "is_nodata",
    "kept_bands",
    "per_band",
]
__all__ += ["reflectance", "scaling", "to_array", "wavelength_to_nm"]

logger = logging.getLogger(__name__)

AnyPath = str | os.PathLike[str]


def to_array(
    image: Image,
    *,
    path: AnyPath = "",
    scale: npt.ArrayLike | None = None,
    bands: Bands = None,
    ignore: Ignore = None,
    wavelength_unit: str | None = None,
    nodata: float | None = None,
    keep: np.ndarray | None = None,
) -> xr.DataArray:
    """Return the reflectance of an image, labelled.

    Parameters
    ----------
    image : Image
    path : path
        For the texts of errors and log lines.
    scale, bands, ignore, wavelength_unit, nodata
        See `pyro_unmix.io.read_sequence`.
    keep : numpy.ndarray (L,) of bool, optional
        The bands to return, as found by `kept_bands`; then `bands` and `ignore` do not count.

    Returns
    -------
    xarray.DataArray
        `reflectance` (time, y, x, wavelength): float64 if the stored numbers need it, else float32.

    Raises
    ------
    FileError
        If a part of the image is missing, contradicts another or gives no plausible reflectance.
    """
    check_shapes(image, path)
    if keep is None:
        keep = kept_bands(
            image,
            path=path,
            bands=bands,
            ignore=ignore,
            wavelength_unit=wavelength_unit,
            nodata=nodata,
        )
    values = reflectance(image, keep, path=path, scale=scale, nodata=nodata)
    coords: dict[str, Any] = dict(spatial_coords(image))
    coords |= band_coords(image, keep, path, wavelength_unit)
    if image.tile is not None:
        coords["tile"] = ("y", np.asarray(image.tile))
    array = xr.DataArray(values, dims=("time", "y", "x", "wavelength"), coords=coords)
    try:
        return as_cube_sequence(array, time=image.dates)
    except (TypeError, ValueError) as error:
        raise FileError(path, "values", str(error)) from error


def kept_bands(
    image: Image,
    *,
    path: AnyPath = "",
    bands: Bands = None,
    ignore: Ignore = None,
    wavelength_unit: str | None = None,
    nodata: float | None = None,
) -> np.ndarray:
    """Return which bands are used, (L,) bool; one log line lists those that are not, and why."""
    check_shapes(image, path)
    wavelength = None
    if image.wavelength is not None:
        wavelength = wavelength_in_nm(
            image.wavelength, image.wavelength_unit, path, wavelength_unit
        )
    marks = image.nodata if nodata is None else nodata
    if marks is None and image.values.dtype.kind in "iu":
        logger.warning(
            "%s: no nodata value is declared: every number is taken for a measurement, but zeros in "
            "all bands; pass nodata= to read_sequence if another number marks missing",
            path,
        )
    empty = _all_nodata(image, marks)
    if empty.all():
        # A date without any data is a missing date; its bands are as good as those of the others.
        empty[:] = False
    return choose_bands(
        image.num_bands,
        path=path,
        bands=bands,
        names=image.names,
        good=image.good,
        empty=empty,
        wavelength=wavelength,
        ignore=ignore,
    )


def band_coords(
    image: Image, keep: np.ndarray, path: AnyPath, wavelength_unit: str | None
) -> dict[str, Any]:
    """Coordinates on the dim wavelength: wavelength and fwhm in nm, band names."""
    coords: dict[str, Any] = {}
    unit = image.wavelength_unit
    if image.wavelength is not None:
        wavelength = wavelength_in_nm(image.wavelength, unit, path, wavelength_unit)
        attrs = {"units": "nm", "long_name": "wavelength"}
        coords["wavelength"] = ("wavelength", wavelength[keep], attrs)
        if image.fwhm is not None:
            widths = fwhm_in_nm(image.fwhm, unit, path, wavelength_unit)[keep]
            coords["fwhm"] = ("wavelength", widths, {"units": "nm"})
    if image.names is not None:
        coords["band"] = ("wavelength", np.asarray(image.names, dtype=str)[keep])
    return coords


def check_shapes(image: Image, path: AnyPath) -> None:
    """Raise FileError unless the parts of the image fit each other."""
    values = image.values
    if values.dtype.kind not in "iuf":
        problem = f"must be real numbers, got {values.dtype}"
        if values.dtype.kind == "c":
            problem += ": take the real part or the magnitude first"
        raise FileError(path, "values", problem)
    if values.ndim not in (3, 4) or 0 in values.shape:
        problem = "must be (y, x, band) or (time, y, x, band) and not empty, got the shape "
        raise FileError(path, "values", f"{problem}{values.shape}")
    height, width = image.grid
    sizes = {
        "wavelength": image.num_bands,
        "fwhm": image.num_bands,
        "good": image.num_bands,
        "names": image.num_bands,
        "dates": image.num_dates,
        "tile": height,
        "y": height,
        "x": width,
    }
    for name, size in sizes.items():
        part = getattr(image, name)
        if part is not None and np.shape(part) != (size,):
            problem = f"must hold {size} values to fit the shape {values.shape}, got "
            raise FileError(path, name, f"{problem}{np.shape(part)}")
    for name in ("transform", "x", "y"):
        part = getattr(image, name)
        if part is not None and not np.isfinite(part).all():
            odd = np.asarray(part)[~np.isfinite(part)][0]
            raise FileError(
                path, name, f"must be finite, got {odd:g}: the place of the pixels is unknown"
            )
    for name in ("nodata", "scale", "offset"):
        part = getattr(image, name)
        if part is not None and np.shape(part) not in ((), (image.num_bands,)):
            problem = f"must be one number or one per band ({image.num_bands}), got the shape "
            raise FileError(path, name, f"{problem}{np.shape(part)}")


def reflectance(
    image: Image,
    keep: np.ndarray,
    *,
    path: AnyPath = "",
    scale: npt.ArrayLike | None = None,
    nodata: float | None = None,
    darkness: Darkness | None = None,
) -> np.ndarray:
    """Return stored * scale + offset of the kept bands, NaN where nodata: (T, H, W, kept).

    Raises FileError if that is no reflectance, and warns if nearly all of it is dark. Where the
    parts of a file are read one by one, `darkness` counts over all of them, and the caller warns.
    """
    factor, shift = scaling(image, path, scale)
    factor, shift = per_band(factor, keep), per_band(shift, keep)
    marks = image.nodata if nodata is None else nodata
    marks = None if marks is None else per_band(marks, keep)
    stored = image.values.dtype
    # Integers of 16 bits and their products with a scale lose nothing that matters in float32.
    wide = stored.itemsize > (4 if stored.kind == "f" else 2)
    shape = (image.num_dates, *image.grid, int(np.count_nonzero(keep)))
    out = np.empty(shape, dtype=np.float64 if wide else np.float32)
    for t in range(image.num_dates):
        # Row by row, so that no second copy of the image is made.
        for row, numbers in enumerate(image.date(t)):
            line = np.asarray(numbers)[:, keep]
            with np.errstate(over="ignore", invalid="ignore"):
                result = line.astype(np.float64) * factor + shift
                if marks is not None:
                    result[is_nodata(line, marks)] = np.nan
                out[t, row] = result
    _check_plausible(out, image, path, nodata_known=marks is not None)
    counted = Darkness() if darkness is None else darkness
    counted.add(out)
    if darkness is None:
        counted.warn(path)
    return out


def scaling(image: Image, path: AnyPath, given: npt.ArrayLike | None = None) -> tuple[Any, Any]:
    """Return scale and offset of reflectance = stored * scale + offset; `given` is a scale.

    Raises
    ------
    FileError
        If the image has none and needs them, or they are no scale and offset.
    """
    offset = 0.0 if image.offset is None else image.offset
    if given is not None:
        factor = np.asarray(given)
        if (
            factor.dtype.kind not in "iuf"
            or factor.shape not in ((), (image.num_bands,))
            or not (np.isfinite(factor).all() and (factor > 0).all())
        ):
            raise ValueError(
                f"scale must be a positive number, or one per band of {path} "
                f"({image.num_bands}), got {given!r}"
            )
        return factor, offset
    if image.scale is None:
        if image.values.dtype.kind in "iu":
            problem = (
                f"the file holds integers ({image.values.dtype}) without a scale: pass scale= to "
                "read_sequence, for example scale=1e-4 (reflectance = stored x scale)"
            )
            raise FileError(path, "scale", problem)
        return 1.0, offset
    for name, part in (("scale", image.scale), ("offset", offset)):
        part = np.asarray(part)
        if part.dtype.kind not in "iuf" or not np.isfinite(part).all():
            raise FileError(path, name, f"must be finite and numeric, got {part}")
    if not (np.asarray(image.scale) > 0).all():
        raise FileError(path, "scale", f"must be positive, got {image.scale}")
    return image.scale, offset


def per_band(part: Any, keep: np.ndarray) -> np.ndarray:
    """One number, or those of the kept bands."""
    array = np.asarray(part)
    return array[keep] if array.ndim else array


def is_nodata(stored: np.ndarray, marks: np.ndarray) -> np.ndarray:
    """Where stored numbers are marked as missing; marks are one number or one per band."""
    if stored.dtype.kind == "f":
        # A mark such as -3.4028234663852886e+38 must be compared in the precision of the file.
        with np.errstate(over="ignore"):
            return stored == marks.astype(stored.dtype)
    return stored == marks


def _all_nodata(image: Image, nodata: Any) -> np.ndarray:
    """(L,) bool: bands that hold no value anywhere. Row by row, and only while a band is in doubt."""
    empty = np.ones(image.num_bands, dtype=bool)
    for line in (line for t in range(image.num_dates) for line in image.date(t)):
        if not empty.any():
            break
        numbers = np.asarray(line)
        missing = np.isnan(numbers)
        if nodata is not None:
            missing |= is_nodata(numbers, np.asarray(nodata))
        empty &= missing.all(axis=0)
    return empty


def _check_plausible(out: np.ndarray, image: Image, path: AnyPath, *, nodata_known: bool) -> None:
    """Refuse what is no reflectance: a wrong byte order, scale or offset, an undeclared nodata."""
    observed = tiny = low = constant = 0
    example = 0.0
    for date in out:
        size = np.abs(date)
        observed += int(np.count_nonzero(size >= 0))
        tiny += int(np.count_nonzero((size > 0) & (size < _TINY)))
        low += int(np.count_nonzero(date < _LOWEST))
        if date.shape[-1] >= 3:
            flat = (date == date[..., :1]).all(axis=-1) & (
                (date[..., 0] < -0.05) | (size[..., 0] > 2)
            )
            constant += int(np.count_nonzero(flat))
            if flat.any():
                example = float(date[flat][0, 0])
    if observed == 0:
        return  # a missing date
    if constant:
        if nodata_known:
            hint = "it is not the nodata value of the file: pass nodata= to read_sequence"
        else:
            hint = "the file declares no nodata value: pass nodata= to read_sequence"
        problem = f"{constant} pixels have the reflectance {example:g} in all bands; {hint}"
        raise FileError(path, "nodata", problem)
    for count, what in ((tiny, f"closer to 0 than {_TINY:g}"), (low, f"below {_LOWEST:g}")):
        if count > _ODD_SHARE * observed:
            problem = (
                f"{100 * count / observed:.0f} % of the values are {what}, which is no "
                "reflectance: the byte order, data type, scale or offset is wrong, or nodata is "
                "not declared (pass nodata= to read_sequence)"
            )
            raise FileError(path, "values", problem)
    try:
        plausible_reflectance(out)
    except ValueError as error:
        if "must have a valid pixel" not in str(error):
            raise FileError(path, "values", f"{error} (or pass scale= to read_sequence)") from error


@dataclass
class Darkness:
    """Whether hardly any number is as large as a reflectance: a wrong scale, or night.

    Zeros do not count, which mark missing in many files.
    """

    stated: int = 0
    bright: int = 0
    largest: float = 0.0

    def add(self, values: np.ndarray) -> None:
        """Count the reflectances of a part of the image (T, ...)."""
        for date in values:
            self.stated += int(np.count_nonzero(np.abs(date) > 0))
            self.bright += int(np.count_nonzero(np.abs(date) > _DARK))
            self.largest = max(self.largest, float(np.fmax.reduce(date, axis=None)))

    def warn(self, path: AnyPath) -> None:
        """Log the warning, if it is due."""
        if not self.stated or self.bright >= _BRIGHT_SHARE * self.stated:
            return
        logger.warning(
            "%s: %.1f %% of the reflectances are below %g, at most %.3g, as if the scale were too "
            "small: if so, pass scale= to read_sequence (reflectance = stored x scale)",
            path, 100 * (1 - self.bright / self.stated), _DARK, self.largest,
        )  # fmt: skip


# Bytes in the wrong order make denormal numbers, and negative numbers of half of all.
_TINY = 1e-30
_LOWEST = -0.5
_ODD_SHARE = 0.1
# Even water reflects more than this in blue and green; no sunlit surface is darker in all bands.
_DARK = 0.01
_BRIGHT_SHARE = 0.01
