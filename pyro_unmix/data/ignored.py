"""Images without the bands that do not count."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from pyro_unmix.data.bands import Ignore, ignored_bands, ignored_ranges, other_bands, ranges_in_nm
from pyro_unmix.data.checks import as_wavelengths
from pyro_unmix.data.types import CubesLike

logger = logging.getLogger(__name__)


def ignored_of(cubes: CubesLike, ignore: Ignore) -> np.ndarray:
    """Which bands of images are ignored: (L,), bool, by the coordinate wavelength.

    Raises
    ------
    ValueError
        If the images have no wavelengths in nm or not the same, or no two bands are left.
    """
    images: Any = list(cubes) if isinstance(cubes, Sequence) and len(cubes) else [cubes]
    ranges = ignored_ranges(ignore)
    centres = _centres(images[0])
    for number, image in enumerate(images[1:], start=1):
        _check_same(centres, _centres(image), images[0], number)
    which = ignored_bands(centres, ranges)
    if len(which) - which.sum() < 2:
        raise ValueError(
            f"ignore leaves {len(which) - which.sum()} of {len(which)} bands ({centres.min():g} to {centres.max():g} "
            "nm), expected two or more: ignore less"
        )
    return which


def _centres(image: Any) -> np.ndarray:
    if not isinstance(image, xr.DataArray) or "wavelength" not in image.coords:
        raise ValueError(
            "ignore needs the wavelengths of the images, which they have not: pass "
            "as_cube_sequence(cubes, wavelength=...)"
        )
    if "wavelength" not in image.dims:
        named = ", ".join(map(repr, image["wavelength"].dims)) or "no dim"
        raise ValueError(
            f"ignore needs images with the dim 'wavelength', got the dims {image.dims} with wavelengths on {named}: "
            "name it so, for example x.swap_dims(band='wavelength')"
        )
    return as_wavelengths(image["wavelength"], image.sizes["wavelength"])


def _check_same(ours: np.ndarray, theirs: np.ndarray, first: xr.DataArray, number: int) -> None:
    if len(ours) != len(theirs):
        raise ValueError(
            f"ignore needs images of the same bands, got {len(theirs)} in image {number} and {len(ours)} in image 0"
        )
    odd = other_bands(ours, theirs, first["fwhm"].to_numpy() if "fwhm" in first.coords else None)
    if odd.size:
        raise ValueError(
            f"ignore needs images of the same bands, got band {odd[0]} at {theirs[odd[0]]:g} nm in image {number} and "
            f"at {ours[odd[0]]:g} nm in image 0"
        )


def without_bands(cubes: CubesLike, ignore: Ignore) -> CubesLike:
    """Images without the bands in some ranges of wavelength.

    Parameters
    ----------
    cubes : DataArray, or list of DataArrays
        With the coordinate ``wavelength`` in nm, in memory or in chunks; not checked otherwise.
    ignore : str, sequence of pairs, or None
        See `pyro_unmix.data.bands.ignored_ranges`: ``"0-440,1310-1490"``, ``"emit"``, ``[(0, 440)]``.

    Returns
    -------
    As `cubes`; themselves if nothing is ignored.

    Raises
    ------
    TypeError, ValueError
        If `ignore` is not as described, the images have no wavelengths, or no two bands are left.

    Examples
    --------
    >>> import numpy as np, pyro_unmix as pu
    >>> cubes = pu.as_cube_sequence(np.full((2, 2, 5), 0.2), wavelength=[400, 800, 1320, 1400, 2000])
    >>> pu.data.without_bands(cubes, "0-440,1310-1490")["wavelength"].values
    array([ 800., 2000.])
    """
    if ignore is None:
        return cubes
    which = ignored_of(cubes, ignore)
    if not which.any():
        return cubes
    images: Any = cubes
    first = images if isinstance(images, xr.DataArray) else images[0]
    logger.info(
        "left out %d of %d bands: %s",
        which.sum(), len(which), ranges_in_nm(first["wavelength"].to_numpy(), which),
    )  # fmt: skip
    if isinstance(images, xr.DataArray):
        return images.isel(wavelength=~which)
    return [image.isel(wavelength=~which) for image in images]
