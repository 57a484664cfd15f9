"""Bands that do not count, in every method: those to ignore, and those that a library has not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from test_contract import MATERIALS, METHODS, run

import pyro_unmix as pu
from pyro_unmix.methods import fcls, mesma, monte_carlo_sma, nnls, sparse_regression

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


@methods
def test_lists_of_images_lose_bands_alike(method: Callable[..., pu.Unmixing]) -> None:
    images = [CUBES[:1], CUBES[1:]]
    images = [image.assign_coords(time=[float(n)]) for n, image in enumerate(images)]
    whole = xr.concat(images, "time")
    known = {"endmembers": SPECTRA, "ignore": IGNORE}
    found, expected = (run(method, cubes=cubes, **known) for cubes in (images, whole))
    np.testing.assert_array_equal(found.abundances, expected.abundances)
    if len(found.abundances["time"]) > 1:
        with pytest.raises(ValueError, match="same bands, got 13 in image 1 and 14 in image 0"):
            run(method, cubes=[images[0], images[1][..., 1:]], **known)


@methods
def test_all_bands_of_spectra_without_wavelengths_are_those_of_the_images(
    method: Callable[..., pu.Unmixing],
) -> None:
    named = xr.DataArray(SPECTRA, dims=("wavelength", "endmember"), coords={"endmember": NAMES})
    alone = run(method, cubes=CUBES[..., COUNT], endmembers=SPECTRA[COUNT])
    for spectra in (named, named[COUNT]):
        result = run(method, cubes=CUBES, endmembers=spectra, ignore=IGNORE)
        np.testing.assert_array_equal(result.abundances, alone.abundances)
        assert result.abundances["endmember"].values.tolist() == NAMES


def test_a_scene_that_was_read_without_the_bands_may_be_told_again(tmp_path: Path) -> None:
    CUBES.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    cubes = pu.io.read_sequence(tmp_path / "a.nc", ignore=IGNORE)
    assert cubes.sizes["wavelength"] == COUNT.sum()
    settings: dict[str, Any] = {"progress": False}
    once = fcls(cubes, endmembers=SPECTRA[COUNT], **settings)
    for spectra in (SPECTRA[COUNT], library(1)):
        again = fcls(cubes, endmembers=spectra, ignore=IGNORE, **settings)
        assert again.dataset.sizes["wavelength"] == COUNT.sum()
    np.testing.assert_array_equal(
        fcls(cubes, endmembers=SPECTRA[COUNT], ignore=IGNORE, **settings).abundances,
        once.abundances,
    )


@pytest.mark.parametrize("method", [fcls, nnls, mesma, sparse_regression, monte_carlo_sma])
def test_the_order_of_the_bands_does_not_matter(method: Any) -> None:
    nm = np.linspace(400.0, 2400.0, 40)
    spectra = RNG.uniform(0.05, 0.6, (40, 6))
    classes = xr.DataArray(
        spectra,
        dims=("wavelength", "endmember"),
        coords={"wavelength": nm, "label": ("endmember", np.repeat(NAMES, 2))},
    )
    values = RNG.dirichlet(np.ones(6), (1, 4, 5)) @ spectra.T + RNG.normal(0, 0.02, (1, 4, 5, 40))
    cubes = pu.as_cube_sequence(values, wavelength=nm)
    order = RNG.permutation(40)
    for ignore in (None, IGNORE):
        given: dict[str, Any] = {"endmembers": classes, "ignore": ignore, "progress": False}
        straight, shuffled = method(cubes, **given), method(cubes[..., order], **given)
        np.testing.assert_allclose(shuffled.abundances, straight.abundances, atol=1e-6)


def test_a_library_without_wavelengths_is_said_to_lack_bands_without_numbers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    holes = library(1).drop_vars("wavelength")
    holes.values[3] = np.nan
    fcls(CUBES, endmembers=holes, progress=False)
    (said,) = [r.getMessage() for r in caplog.records if "library" in r.getMessage()]
    assert said == "left out 1 of 14 bands that the library does not have"
