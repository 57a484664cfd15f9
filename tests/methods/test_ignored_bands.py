"""Bands that do not count, in every method: those to ignore, and those that a library has not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import xarray as xr
from test_contract import MATERIALS, METHODS, run

import pyro_unmix as pu

BANDS = 14
NM = np.linspace(400.0, 2400.0, BANDS)
IGNORE = "0-450,1310-1490"
COUNT = (NM > 450) & ~((NM >= 1310) & (NM <= 1490))
RNG = np.random.default_rng(1)
SPECTRA = RNG.uniform(0.05, 0.6, size=(BANDS, MATERIALS))
MIXED = RNG.dirichlet(np.ones(MATERIALS), size=(2, 4, 5)) @ SPECTRA.T
VALUES = MIXED + RNG.normal(0, 0.01, size=MIXED.shape)
NAMES = ["soil", "leaf", "roof"]

methods = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)


CUBES = pu.as_cube_sequence(VALUES, wavelength=NM)


def library(count: int = 4) -> xr.DataArray:
    spectra = np.repeat(SPECTRA, count, axis=1) * RNG.uniform(0.9, 1.1, (1, MATERIALS * count))
    labels = np.repeat(NAMES, count)
    return xr.DataArray(
        spectra,
        dims=("wavelength", "endmember"),
        coords={"wavelength": NM, "label": ("endmember", labels)},
    )


@methods
def test_ignored_bands_are_as_if_they_were_not_there(method: Callable[..., pu.Unmixing]) -> None:
    known = {"endmembers": SPECTRA}
    ignored = run(method, cubes=CUBES, ignore=IGNORE, **known)
    alone = run(method, cubes=CUBES[..., COUNT], endmembers=SPECTRA[COUNT])
    np.testing.assert_array_equal(ignored.abundances, alone.abundances)
    np.testing.assert_array_equal(ignored.dataset["wavelength"], NM[COUNT])
    nothing = CUBES.copy(deep=True)
    nothing.values[..., ~COUNT] = np.nan  # which as_cube_sequence would refuse
    again = run(method, cubes=nothing, ignore=IGNORE, **known)
    np.testing.assert_array_equal(again.abundances, alone.abundances)


@methods
def test_bands_that_a_library_has_not_are_left_out(
    method: Callable[..., pu.Unmixing], caplog: pytest.LogCaptureFixture
) -> None:
    spectra = library()
    holes = spectra.copy(deep=True)
    holes.values[~COUNT] = np.nan
    result = run(method, cubes=CUBES, endmembers=holes)
    assert (
        "left out 3 of 14 bands that the library does not have: 400.0, 1323.1-1476.9" in caplog.text
    )
    alone = run(method, cubes=CUBES[..., COUNT], endmembers=spectra[COUNT])
    np.testing.assert_array_equal(result.abundances, alone.abundances)
    ignored = run(method, cubes=CUBES, endmembers=spectra, ignore=IGNORE)
    np.testing.assert_array_equal(ignored.abundances, alone.abundances)


@methods
def test_wrong_ranges_are_refused(method: Callable[..., pu.Unmixing]) -> None:
    with pytest.raises(ValueError, match="ignore must be ranges in nm"):
        run(method, cubes=CUBES, num_endmembers=3, ignore="water")
    with pytest.raises(ValueError, match="needs the wavelengths"):
        run(method, cubes=VALUES, num_endmembers=3, ignore="emit")
