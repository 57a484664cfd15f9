"""What is known of one pixel of a result: its spectrum, the fit, and its materials at every date."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from pyro_unmix.plots.reading import MAP_DIMS

if TYPE_CHECKING:
    from pyro_unmix.posterior.result import Unmixing

#: Up to so many pixel-dates intervals are those of `Unmixing.interval`; of larger scenes they come from mean and std.
MOST_DRAWN = 5000
LEVEL = 0.9
#: Of the standard normal distribution, so that LEVEL lies between minus and plus.
_QUANTILE = 1.6448536

Curve = NDArray[np.float64]


class Pixels:
    """Curves of single pixels, read from a result when they are asked for.

    Parameters
    ----------
    result : Unmixing
        With its images, or the spectra are those of the fit alone.
    """

    def __init__(self, result: Unmixing) -> None:
        self.result = result
        self.maps = result.abundances.transpose(*MAP_DIMS)
        self._bounds = lru_cache(1)(self._found_bounds)

    @property
    def bands(self) -> Curve:
        """Wavelengths in nm, or the numbers of the bands, in the order of the spectra."""
        if self.has_wavelengths:
            return np.asarray(self._spectra["wavelength"].values, dtype=np.float64)
        return np.arange(self._spectra.sizes["wavelength"], dtype=np.float64)

    @property
    def has_wavelengths(self) -> bool:
        """Whether they are known."""
        return "wavelength" in self._spectra.coords

    @property
    def _spectra(self) -> xr.DataArray:
        images = self.result.cubes
        return self.result.reference_endmembers if images is None else images

    def observed(self, time: int, y: int, x: int) -> Curve | None:
        """The measured spectrum (L,), NaN where it is missing; None of a result without its images."""
        if self.result.cubes is None:
            return None
        spectrum = self.result.cubes.isel(time=time, y=y, x=x)
        if self.result.mixing is not None:
            spectrum = self.result.mixing.to_reflectance(spectrum)
        return np.asarray(spectrum, dtype=np.float64)

    def fitted(self, time: int, y: int, x: int) -> Curve | None:
        """The spectrum (L,) that the result says; None where it knows no endmembers."""
        if not self.result.has_endmembers:
            return None
        here = {"y": [y], "x": [x]}
        images = self.result.cubes
        alone = replace(  # an image of one pixel, instead of all spectra of the date
            self.result,
            dataset=self.result.dataset.isel(here),
            cubes=None if images is None else images.isel(here).load(),
        )
        spectrum = alone.reconstruct(time).transpose("y", "x", "wavelength")[0, 0]
        return np.asarray(spectrum, dtype=np.float64)

    def fractions(self, y: int, x: int) -> Curve:
        """The abundances at every date (T, P)."""
        return np.asarray(self.maps[:, y, x], dtype=np.float64)

    def bounds(self, y: int, x: int) -> tuple[Curve, Curve] | None:
        """Ends of the 90 % intervals (T, P) each; None where there is no posterior."""
        found = self._bounds()
        return None if found is None else (found[0][:, y, x], found[1][:, y, x])

    @property
    def kind_of_bounds(self) -> str:
        """How the intervals were found, in words."""
        if self._bounds() is None:
            return "no intervals: the method has no posterior"
        if self._may_draw:
            return "bands: 90 % credible intervals"
        return "bands: mean \N{PLUS-MINUS SIGN} 1.64 standard deviations, about 90 %"

    @property
    def _may_draw(self) -> bool:
        sizes = self.maps.sizes
        few = sizes["time"] * sizes["y"] * sizes["x"] <= MOST_DRAWN
        return few and self.result.model is not None and self.result.cubes is not None

    def _found_bounds(self) -> tuple[Curve, Curve] | None:
        mean = np.asarray(self.maps, dtype=np.float64)
        std = np.asarray(self.result.abundances_std.transpose(*MAP_DIMS), dtype=np.float64)
        if not np.isfinite(std).any():
            return None
        if self._may_draw:
            drawn = self.result.interval(LEVEL).transpose("bound", *MAP_DIMS).to_numpy()
            return drawn[0].astype(np.float64), drawn[1].astype(np.float64)
        return np.clip(mean - _QUANTILE * std, 0, 1), np.clip(mean + _QUANTILE * std, 0, 1)
