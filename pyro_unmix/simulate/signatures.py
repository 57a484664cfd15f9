"""Reflectance curves from formulas, and labels of endmembers."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from pyro_unmix.ops.checks import finite_array
from pyro_unmix.simulate import materials
from pyro_unmix.simulate.maps import Array


def library(wavelength: npt.ArrayLike | None = None) -> xr.DataArray:
    """Reflectance curves of twelve materials, from formulas.

    Sums of sigmoids and Gaussians with the red edge of plants, the liquid-water bands near 1.4 and 1.9 um, the clay
    band near 2.2 um and the carbonate band near 2.34 um. They are made to look like measured spectra and are none.

    Parameters
    ----------
    wavelength : array (L,), optional
        Wavelengths in nm, 350 to 2600, in any order; by default 224 bands from 400 to 2500 nm.

    Returns
    -------
    DataArray (wavelength, endmember)
        Reflectance between 0 and 1; ``endmember`` holds the names. Select materials with
        ``library().sel(endmember=["soil", "snow"])``.

    Raises
    ------
    ValueError
        If the wavelengths are not finite, not one-dimensional or out of range.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> spectra = pu.simulate.library([550, 850])
    >>> spectra['endmember'].values[:3].tolist(), dict(spectra.sizes)
    (['vegetation', 'soil', 'water'], {'wavelength': 2, 'endmember': 12})
    """
    if wavelength is None:
        nm = np.linspace(400.0, 2500.0, 224)
    else:
        nm = finite_array(np.atleast_1d(wavelength), "wavelength", ndim=1).copy()
    shortest, longest = materials.RANGE_NM
    if nm.size == 0 or nm.min() < shortest or nm.max() > longest:
        came = f"{nm.min():g} to {nm.max():g}" if nm.size else "none"
        raise ValueError(
            f"wavelength must lie between {shortest:g} and {longest:g} nm, got {came}: multiply "
            "micrometres by 1000"
        )
    curves = np.stack([curve(nm) for curve in materials.CURVES.values()], axis=1)
    return label_endmembers(curves, list(materials.CURVES), nm)


def label_endmembers(
    spectra: Array,
    names: npt.ArrayLike | Sequence[Hashable] | None = None,
    wavelength: npt.ArrayLike | None = None,
) -> xr.DataArray:
    coords: dict[str, Any] = {"endmember": np.arange(spectra.shape[1]) if names is None else names}
    if wavelength is not None:
        attributes = {"units": "nm", "long_name": "wavelength"}
        coords["wavelength"] = ("wavelength", np.asarray(wavelength), attributes)
    return xr.DataArray(
        spectra, dims=("wavelength", "endmember"), coords=coords, name="reference_endmembers"
    )


def coordinate(array: object, name: str) -> npt.NDArray[Any] | None:
    """Values of a coordinate; None where there is none."""
    if isinstance(array, xr.DataArray) and name in array.coords:
        return array[name].values
    return None
