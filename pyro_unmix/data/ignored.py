"""Images without the bands that do not count."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from pyro_unmix.data.bands import Ignore, ignored_bands, ignored_ranges, ranges_in_nm
from pyro_unmix.data.types import CubesLike

logger = logging.getLogger(__name__)


def ignored_of(cubes: CubesLike, ignore: Ignore) -> np.ndarray:
    """Which bands of images are ignored: (L,), bool, by the coordinate wavelength.

    Raises
    ------
    ValueError
        If the images have no wavelengths, or no two bands are left.
    """
    first: Any = cubes[0] if isinstance(cubes, Sequence) and len(cubes) else cubes
    ranges = ignored_ranges(ignore)
    if not isinstance(first, xr.DataArray) or "wavelength" not in first.coords:
        raise ValueError(
            "ignore needs the wavelengths of the images, which they have not: pass "
            "as_cube_sequence(cubes, wavelength=...)"
        )
    centres = first["wavelength"].to_numpy()
    which = ignored_bands(centres, ranges)
    if len(which) - which.sum() < 2:
        raise ValueError(
            f"ignore leaves {len(which) - which.sum()} of {len(which)} bands ({centres.min():g} to {centres.max():g} "
            "nm), expected two or more: ignore less"
        )
    return which


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
