"""Bands that count more or less, by the uncertainty of their reflectance."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from pyro_unmix.data.bands import band_tolerance, ranges_in_nm
from pyro_unmix.ops.checks import finite_array


def band_weights(uncertainty: Any, cubes: xr.DataArray) -> np.ndarray:
    """Weights (L,) of the bands of checked images: ``w_l = c / s_l`` with ``sum_l w_l^2 = L``.

    Least squares of ``w * y`` by ``w * E`` is that of independent noise with the standard deviations s. Ones where none
    is given.

    Parameters
    ----------
    uncertainty : array (L,), DataArray with the dim wavelength, or None
        s, reflectance: of the bands of the images; or with the coordinate ``wavelength``, nm, of these and others. A
        DataArray with more dims, pixel by pixel, counts by its root mean square.

    Raises
    ------
    ValueError
        If it is not positive in a band of the images, or has no number for one.
    """
    num_bands = cubes.sizes["wavelength"]
    if uncertainty is None:
        return np.ones(num_bands)
    values: Any = uncertainty
    if isinstance(uncertainty, xr.DataArray):
        if "wavelength" not in uncertainty.dims:
            raise ValueError(
                f"uncertainty must have the dim 'wavelength', got {uncertainty.dims}: see read_uncertainty"
            )
        others = [dim for dim in uncertainty.dims if dim != "wavelength"]
        values = np.sqrt((uncertainty**2).mean(others)) if others else uncertainty
        if "wavelength" in uncertainty.coords and "wavelength" in cubes.coords:
            values = values.isel(wavelength=_places(uncertainty, cubes))
        values = values.to_numpy()
    if np.shape(values) != (num_bands,):
        raise ValueError(
            f"uncertainty must be a standard deviation for each of {num_bands} bands that count, got the shape "
            f"{np.shape(values)}: pass a DataArray with the coordinate wavelength, of which the bands are taken"
        )
    spread = np.asarray(values, dtype=np.float64)
    bad = ~(np.isfinite(spread) & (spread > 0))
    if bad.any():
        where = f"{int(bad.sum())} of {num_bands} bands"
        if "wavelength" in cubes.coords:
            where += f" ({ranges_in_nm(cubes['wavelength'], bad)})"
        raise ValueError(
            f"uncertainty must be positive and finite, which it is not in {where}: leave these bands out, ignore="
        )
    weights = 1 / finite_array(spread, "uncertainty", ndim=1)
    return np.asarray(weights / np.sqrt(np.square(weights).mean()))


def _places(uncertainty: xr.DataArray, cubes: xr.DataArray) -> np.ndarray:
    """Where the bands of the images are among those of the uncertainty."""
    ours = uncertainty["wavelength"].to_numpy().astype(np.float64)
    theirs = cubes["wavelength"].to_numpy().astype(np.float64)
    places = np.abs(theirs[:, None] - ours).argmin(axis=1)
    fwhm = cubes["fwhm"].to_numpy() if "fwhm" in cubes.coords else None
    lacking = ~(np.abs(theirs - ours[places]) < band_tolerance(theirs, fwhm))
    if lacking.any():
        raise ValueError(
            f"uncertainty has no number for {int(lacking.sum())} of {len(theirs)} bands of the images "
            f"({ranges_in_nm(theirs, lacking)}): is it of the same product?"
        )
    return places
