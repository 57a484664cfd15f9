"""Linear methods at intimate mixtures: images and endmembers go in as albedo, spectra come out as reflectance."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import xarray as xr

from pyro_unmix.data.bands import Ignore
from pyro_unmix.data.checks import as_endmembers
from pyro_unmix.data.cubes import as_cube_sequence
from pyro_unmix.data.libraries import at_bands_of, is_library
from pyro_unmix.data.types import ImagesLike
from pyro_unmix.methods.arguments import counted_bands
from pyro_unmix.mixing import Hapke
from pyro_unmix.posterior.result import Unmixing
from pyro_unmix.posterior.spectra import of_albedo

logger = logging.getLogger(__name__)

_Result = TypeVar("_Result", bound=Unmixing)


def in_albedo(
    method: Callable[[xr.DataArray, Any], _Result],
    mixing: Hapke,
    cubes: ImagesLike,
    endmembers: Any,
    ignore: Ignore = None,
) -> _Result:
    """What a method gives of images and endmembers as single-scattering albedo, told how to get back.

    Parameters
    ----------
    method : callable
        Of albedo images (time, y, x, wavelength) and endmembers, None if there are none.
    mixing : Hapke
    cubes, endmembers, ignore
        As methods take them.

    Returns
    -------
    Unmixing
        With `mixing`.

    Raises
    ------
    TypeError
        If `mixing` is another one, whose mixtures are not linear in albedo.
    """
    if not isinstance(mixing, Hapke):
        raise TypeError(
            f"mixing must be None or pyro_unmix.mixing.Hapke(), got {mixing!r}: other mixings are parts of a model, "
            "SGLMM(endmembers, mixing=...), which fit trains"
        )
    cubes, endmembers = counted_bands(cubes, endmembers, ignore)
    images = as_cube_sequence(cubes)
    _warn_of_glare(images, mixing)
    albedo = images.copy(data=mixing.to_albedo(images.to_numpy()).astype(images.dtype))
    result = method(albedo, _as_albedo(endmembers, images, mixing))
    return replace(result, dataset=of_albedo(result.dataset, mixing), mixing=mixing)


def _as_albedo(endmembers: Any, images: xr.DataArray, mixing: Hapke) -> Any:
    if endmembers is None:
        return None
    if is_library(endmembers):  # whose bands are means of reflectance
        return mixing.to_albedo(at_bands_of(endmembers, images))
    spectra = as_endmembers(endmembers, images.sizes["wavelength"])
    albedo = mixing.to_albedo(spectra)
    if isinstance(endmembers, xr.DataArray):
        return endmembers.transpose("wavelength", "endmember").copy(data=albedo)
    return albedo


def _warn_of_glare(images: xr.DataArray, mixing: Hapke) -> None:
    values = images.to_numpy()
    share = np.count_nonzero(values > mixing.brightest) / max(np.isfinite(values).sum(), 1)
    if share > 0:
        logger.warning(
            "%.2g %% of the reflectances are above %.3g, the brightest that a powder has by %r: their albedo is one; "
            "the scale, the white reference or the angles may not be right",
            100 * share, mixing.brightest, mixing,
        )  # fmt: skip
