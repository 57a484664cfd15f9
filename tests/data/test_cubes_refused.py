"""The data contract: what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from cube_cases import DATES, DIMS, WAVELENGTH, H, W, make_array, make_labelled

from pyro_unmix.data import as_cube_sequence


def changed(index: tuple[int, ...] | slice, value: float) -> np.ndarray:
    x = make_array()
    x[index] = value
    return x


@pytest.mark.parametrize(
    ("x", "error", "text"),
    [
        (make_array()[0, 0], ValueError, r"axes \(time, y, x, wavelength\).*got 2 dimensions"),
        (make_array()[None], ValueError, "got 5 dimensions"),
        (make_array()[:0], ValueError, "must not be empty, got sizes"),
        ([], ValueError, "at least one image, got an empty list"),
        ([make_array()], ValueError, r"images \(y, x, wavelength\) of one shape"),
        (
            [make_array()[0], make_array()[1, :-1]],
            ValueError,
            r"of one shape, got \(4, 5, 6\) at position 0 and \(3, 5, 6\) at position 1",
        ),
        (
            [make_array()[0], xr.DataArray(make_array()[1], dims=DIMS[1:])],
            TypeError,
            "numpy arrays only or DataArrays only, got DataArray, ndarray",
        ),
        (make_array().tolist(), TypeError, "numpy arrays only or DataArrays only, got list"),
        (xr.Dataset({"a": 1}), TypeError, "got Dataset: take one variable of a Dataset"),
        ("scene.nc", TypeError, "got str: .*read_sequence for a file"),
        (make_array().astype("i2"), TypeError, "integers int16 without a scale: multiply by"),
        (list(make_array().astype("u2")), TypeError, "item 0 of the list .*uint16 without a scale"),
        (make_array().astype(complex), TypeError, "in floating point, got complex128"),
        (make_array().astype(object), TypeError, "in floating point, got object"),
        (make_array() > 0, TypeError, "in floating point, got bool"),
        (
            changed((1, 2, 3, 4), np.inf),
            ValueError,
            "infinite, got 1 infinities at time position 1, first at y 2, x 3, band 4",
        ),
        (changed((0, 0, 0), -np.inf), ValueError, "got 6 infinities at time position 0"),
        (make_array() * 100, ValueError, "a median of 48.*, above 2: divide by the scale"),
        (changed((0, 0, 0, 0), -9999.0), ValueError, "got the value -9999, .*fill value.*NaN"),
        (changed((0, 0, 0, 0), 1e20), ValueError, r"got the value 1e\+20, .*fill value"),
        (changed((..., 2), np.nan), ValueError, "must have a valid pixel, but each pixel has NaN"),
    ],
)
def test_refused_arrays(x: object, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        as_cube_sequence(x)


@pytest.mark.parametrize(("value", "text"), [(np.inf, "infinite, got 1"), (-9999, "fill value")])
def test_missing_values_hide_nothing(value: float, text: str) -> None:
    x = make_array()
    x[1, 0] = np.nan
    x[1, 2, 3, 4] = value
    with pytest.raises(ValueError, match=text):
        as_cube_sequence(x)


def test_the_median_ignores_missing_values_and_bounds_are_legal() -> None:
    x = make_array()
    x[:, :, 1:] = np.nan
    x[:, :, 0] = 2.0
    assert as_cube_sequence(x).shape == x.shape
    x[:, :, 0] = 2.1
    with pytest.raises(ValueError, match="a median of 2.1, above 2"):
        as_cube_sequence(x)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (
            make_labelled().rename(wavelength="bands"),
            r"missing: \['wavelength'\], unknown: \['bands'",
        ),
        (make_labelled().isel(x=0), r"missing: \['x'\], unknown: \[\]"),
        (make_labelled().expand_dims("scene"), r"missing: \[\], unknown: \['scene'\]"),
        (make_labelled().isel(time=[0, 1, 1]), "duplicated dates: 2020-02-10.* positions 1, 2"),
        (make_labelled()[::-1], r"dates must increase: .*x.sortby\('time'\)"),
        (make_labelled().assign_coords(tile=("x", range(W))), "tile must be on the dim y alone"),
        (make_labelled().assign_coords(tile=("y", [0, 1, 0, 0])), "several runs of tile 0"),
        (
            make_labelled().isel(time=0, drop=True).assign_coords(time=("y", range(H))),
            r"coordinate time must be one date, got dims \('y',\)",
        ),
    ],
)
def test_refused_labels(given: xr.DataArray, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        as_cube_sequence(given)


def test_a_tile_must_be_an_integer() -> None:
    with pytest.raises(TypeError, match="tile must be of integers, got float64"):
        as_cube_sequence(make_labelled().assign_coords(tile=("y", [0.0, 0.0, 1.0, 1.0])))


@pytest.mark.parametrize(
    ("second", "text"),
    [
        (make_labelled().isel(time=1, x=slice(1, None)), "one size along x, got 5 at position 0"),
        (make_labelled().isel(time=1).drop_vars("fwhm"), "positions 0 and 1 do not share fwhm"),
        (
            make_labelled().isel(time=1).assign_coords(x=np.arange(W) * 30.0 + 15),
            r"same coordinate x, but positions 0 and 1 differ: .*other.rio.reproject_match\(first\)",
        ),
        (make_labelled().isel(time=0), "duplicated dates"),
        (make_labelled().isel(time=1).rename(y="row"), "item 1 of the list must have the dims"),
    ],
)
def test_refused_lists_of_dataarrays(second: xr.DataArray, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        as_cube_sequence([make_labelled().isel(time=0), second])


@pytest.mark.parametrize(
    ("keywords", "text"),
    [
        ({"time": ["2020-01-01"] * 3}, "duplicated dates: 2020-01-01.* positions 0, 1, 2"),
        ({"time": [2, 1, 3]}, r"dates must increase: .*order = np.argsort\(time\)"),
        ({"time": [1, 2]}, r"one date per image, shape \(3,\), got \(2,\)"),
        ({"wavelength": WAVELENGTH[:-1]}, r"one number per band, shape \(6,\), got \(5,\)"),
        ({"wavelength": np.array(WAVELENGTH) / 1000}, "looks like um: multiply by 1000"),
        ({"wavelength": [-1.0, *WAVELENGTH[1:]]}, "finite and positive"),
    ],
)
def test_refused_keywords(keywords: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        as_cube_sequence(make_array(), **keywords)


def test_keywords_that_contradict_the_labels_are_refused() -> None:
    labelled = make_labelled()
    as_cube_sequence(labelled, time=DATES, wavelength=WAVELENGTH)
    with pytest.raises(ValueError, match="time differs from the coordinate time"):
        as_cube_sequence(labelled, time=["2020-01-01", "2020-02-10", "2020-07-02"])
    with pytest.raises(ValueError, match="wavelength differs from the coordinate wavelength"):
        as_cube_sequence(labelled, wavelength=np.add(WAVELENGTH, 1))
