"""Means over the neighbourhoods of pixels."""

from __future__ import annotations

import numpy as np
import xarray as xr

from pyro_unmix.data.cubes import ordered, tiles
from pyro_unmix.ops.checks import positive_int


def window_mean(cubes: xr.DataArray, size: int) -> xr.DataArray:
    """Return the mean spectrum of the observed pixels in a window around each pixel.

    The windows end at the edges of the image and of its tiles, where the mean is over the pixels
    that exist; missing pixel-dates do not count, and stay missing (NaN in all bands).

    Parameters
    ----------
    cubes : xarray.DataArray
        (time, y, x, wavelength).
    size : int
        Side of the square window in pixels, odd.

    Returns
    -------
    xarray.DataArray
        As `cubes`, a copy. Sums are in float64.
    """
    size = positive_int(size, "size")
    if size % 2 == 0:
        raise ValueError(f"size must be odd, so that a window has a centre, got {size}")
    cubes = ordered(cubes)
    out = np.empty(cubes.shape, dtype=cubes.dtype)
    for t, image in enumerate(cubes.to_numpy()):
        for rows in tiles(cubes):
            valid = ~np.isnan(image[rows]).any(axis=-1, keepdims=True)
            # Sum over observed = filter of the zero-filled image, count = filter of the mask: the
            # padding outside the tile is zero in both.
            total = _boxcar(np.where(valid, image[rows], 0), size)
            share = _boxcar(valid, size)
            out[t, rows] = np.divide(total, share, where=valid, out=np.full_like(total, np.nan))
    return cubes.copy(data=out)


def _boxcar(block: np.ndarray, size: int) -> np.ndarray:
    from scipy import ndimage

    return ndimage.uniform_filter(
        block, size=(size, size, 1), output=np.float64, mode="constant", cval=0.0
    )
