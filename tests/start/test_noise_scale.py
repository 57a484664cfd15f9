"""The scale of the noise, from the images alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
from start_cases import linear_scene

from pyro_unmix.start import estimate_noise_scale


@pytest.mark.parametrize("noise_scale", [0.003, 0.03])
def test_noise_scale_of_a_linear_mixture_is_found(noise_scale):
    got = estimate_noise_scale(linear_scene(noise_scale))
    # Three directions of signal carry in the noise of the 59 other bands: a share of 3/60 of the
    # variance on average. The median of 60 residual stds with 940 degrees of freedom each.
    error = 5 / math.sqrt(2 * 940)
    assert noise_scale * (1 - error) < got < noise_scale * (math.sqrt(1 + 2 * 3 / 60) + error)


def test_noise_scale_ignores_missing_pixels():
    cubes = linear_scene(0.01)
    rest = cubes.isel(y=slice(5, None))
    cubes[:, :5, :, 7] = np.nan
    assert estimate_noise_scale(cubes) == pytest.approx(estimate_noise_scale(rest), rel=1e-9)


def test_noise_scale_that_cannot_be_told_is_40_db():
    cubes = linear_scene(0.02, shape=(1, 4, 10))  # 40 spectra of 60 bands
    expected = 10 ** (-40 / 20) * math.sqrt(float((cubes**2).mean()))
    assert estimate_noise_scale(cubes) == pytest.approx(expected, rel=1e-9)
    assert estimate_noise_scale(cubes[:, :1, :1]) > 0


def test_noise_scale_is_never_below_80_db():
    cubes = linear_scene(0.0)
    expected = 10 ** (-80 / 20) * math.sqrt(float((cubes**2).mean()))
    assert estimate_noise_scale(cubes) == pytest.approx(expected, rel=1e-9)
