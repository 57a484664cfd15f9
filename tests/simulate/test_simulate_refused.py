"""Settings, libraries and bundles that no scene can be made of."""

from __future__ import annotations

import math

import numpy as np
import pytest
import xarray as xr
from scene_cases import flat_library

from pyro_unmix import simulate


@pytest.mark.parametrize(
    ("wavelength", "text"),
    [
        ([0.4, 2.5], r"between 350 and 2600 nm, got 0.4 to 2.5: multiply micrometres by 1000"),
        ([], r"between 350 and 2600 nm, got none"),
        ([[500.0]], r"wavelength must have 1 dimensions, got 2"),
        ([np.nan], r"wavelength must be finite"),
    ],
)
def test_library_errors(wavelength, text):
    with pytest.raises(ValueError, match=text):
        simulate.library(wavelength)


NAN_LIBRARY = np.full((4, 3), np.nan)


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"num_dates": 0}, ValueError, r"num_dates must be at least 1, got 0"),
        ({"height": 2.5}, TypeError, r"height must be an integer, got 2.5"),
        ({"width": -1}, ValueError, r"width must be at least 1, got -1"),
        ({"num_endmembers": 1}, ValueError, r"num_endmembers must be at least 2, got 1"),
        ({"seed": -1}, ValueError, r"seed must be at least 0, got -1"),
        ({"seed": None}, TypeError, r"seed must be an integer, got None"),
        ({"snr_db": math.nan}, ValueError, r"snr_db must lie in .*, got nan"),
        ({"snr_db": -math.inf}, ValueError, r"snr_db must lie in .*, got -inf"),
        ({"snr_db": "30"}, TypeError, r"snr_db must be one real number, got '30'"),
        ({"cloud_fraction": 1.0}, ValueError, r"cloud_fraction must lie in \[0, 1\), got 1"),
        ({"cloud_fraction": -0.1}, ValueError, r"cloud_fraction must lie in \[0, 1\), got -0.1"),
    ],
)
@pytest.mark.parametrize(
    "make", [simulate.scaled_scene, simulate.bundle_scene, simulate.smooth_scene]
)
def test_errors_of_settings(make, settings, error, text):
    with pytest.raises(error, match=text):
        make(**{"num_dates": 2, "height": 3, "width": 3, **settings})


@pytest.mark.parametrize(
    ("library", "text"),
    [
        (flat_library(5, 2), r"library must hold num_endmembers=3 spectra, got 2: pass more"),
        (np.ones(5), r"library must have 2 dimensions, got 1"),
        (NAN_LIBRARY, r"library must be finite, got 12 NaN"),
        (xr.DataArray(np.ones((5, 3)), dims=("band", "endmember")), r"library must have the dims"),
        (xr.DataArray(np.ones((5, 3)), dims=("wavelength", "name")), r"library must have the dims"),
        (np.eye(5)[:, :3] * 0, r"library must not hold zero spectra"),
    ],
)
def test_errors_of_libraries(library, text):
    with pytest.raises(ValueError, match=text):
        simulate.scaled_scene(library=library, num_dates=2, height=3, width=3)


BUNDLE = np.full((4, 3), 0.5)


@pytest.mark.parametrize(
    ("bundles", "settings", "error", "text"),
    [
        (np.ones((2, 4, 3)), {}, TypeError, r"bundles must be a list .* got ndarray"),
        ([BUNDLE], {}, ValueError, r"number of bundles must be at least 2, got 1"),
        ([BUNDLE, BUNDLE], {"num_endmembers": 3}, ValueError, r"at most the number of bundles, 2"),
        (None, {"num_endmembers": 99}, ValueError, r"at most the number of bundles, 12, got 99"),
        ([BUNDLE, BUNDLE[:3]], {}, ValueError, r"must have the same bands, got \[3, 4\] bands"),
        ([BUNDLE, BUNDLE[0]], {}, ValueError, r"bundles\[1\] must have 2 dimensions, got 1"),
        ([BUNDLE, BUNDLE[:, :0]], {}, ValueError, r"bundles\[1\] must hold spectra"),
        ([BUNDLE, BUNDLE * 0], {}, ValueError, r"bundles\[1\] .* with a zero column: remove it"),
        (
            [BUNDLE, xr.DataArray(BUNDLE, dims=("band", "pixel"))],
            {},
            ValueError,
            r"bundles\[1\] must have the dim 'wavelength' and one other, got \('band', 'pixel'\)",
        ),
        (
            [
                xr.DataArray(BUNDLE, dims=("wavelength", "s"), coords={"wavelength": range(4)}),
                xr.DataArray(BUNDLE, dims=("wavelength", "s"), coords={"wavelength": range(1, 5)}),
            ],
            {},
            ValueError,
            r"bundles must have the same wavelengths",
        ),
    ],
)
def test_errors_of_bundles(bundles, settings, error, text):
    with pytest.raises(error, match=text):
        simulate.bundle_scene(bundles, num_dates=2, height=3, width=3, **settings)
