"""Pixels, tiles and windows of cubes, against loops."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from cube_cases import DATES, DIMS, WAVELENGTH, H, L, T, W, make_array, make_labelled

from pyro_unmix.data import as_cube_sequence, valid_mask
from pyro_unmix.data.cubes import from_pixels, tiles, to_pixels, whole_spectra
from pyro_unmix.data.windows import window_mean


def make_cubes() -> xr.DataArray:
    return as_cube_sequence(make_array(), wavelength=WAVELENGTH, time=DATES)


def make_gappy() -> xr.DataArray:
    x = make_array()
    x[0, 1, 2, 3] = np.nan  # one band
    x[1, 3] = np.nan  # a row
    x[2, 0, 0] = np.nan
    return as_cube_sequence(xr.DataArray(x, coords=make_labelled().coords))


def test_valid_mask_is_false_where_any_band_is_missing() -> None:
    mask = valid_mask(make_gappy())
    expected = np.ones((T, H, W), dtype=bool)
    expected[0, 1, 2] = expected[1, 3] = expected[2, 0, 0] = False
    assert mask.dims == DIMS[:3]
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, expected)
    assert set(mask.coords) == {"time", "y", "x", "tile", "spatial_ref"}


def test_to_pixels_runs_x_fastest_and_zero_fills() -> None:
    cubes = make_gappy()
    pixels, valid = to_pixels(cubes)
    assert pixels.shape == (H * W, T, L)
    assert pixels.dtype == cubes.dtype
    for t, y, x in np.ndindex(T, H, W):
        spectrum = cubes.values[t, y, x]
        observed = not np.isnan(spectrum).any()
        assert valid[y * W + x, t] == observed
        np.testing.assert_array_equal(pixels[y * W + x, t], spectrum if observed else np.zeros(L))


def test_to_pixels_gives_a_copy() -> None:
    x = make_array()
    kept = x.copy()
    pixels, _ = to_pixels(as_cube_sequence(x))
    pixels[:] = 1
    np.testing.assert_array_equal(x, kept)


def test_from_pixels_undoes_to_pixels() -> None:
    cubes = make_gappy()
    pixels, valid = to_pixels(cubes)
    back = from_pixels(pixels, cubes, ["wavelength"], name="reflectance")
    xr.testing.assert_identical(back.where(valid_mask(cubes)), cubes.where(valid_mask(cubes)))
    xr.testing.assert_identical(from_pixels(valid, cubes, name="valid"), valid_mask(cubes))


def test_from_pixels_places_extra_dims() -> None:
    cubes = make_gappy()
    values = np.arange(H * W * T * 2.0 * 3).reshape(H * W, T, 2, 3)
    grid = from_pixels(values, cubes, {"endmember": ["soil", "water"], "component": None})
    assert grid.dims == ("time", "y", "x", "endmember", "component")
    assert grid["endmember"].values.tolist() == ["soil", "water"]
    assert "component" not in grid.coords
    for t, y, x in np.ndindex(T, H, W):
        np.testing.assert_array_equal(grid.values[t, y, x], values[y * W + x, t])
    grid.values[:] = 0
    assert values[1, 0, 0, 0] == T * 2 * 3


@pytest.mark.parametrize(
    ("shape", "dims"),
    [((H * W, T), ["endmember"]), ((T, H * W), []), ((H * W, T, 2), []), ((H * W,), [])],
)
def test_from_pixels_refuses_other_shapes(shape: tuple[int, ...], dims: list[str]) -> None:
    with pytest.raises(ValueError, match=r"values must have the shape \(N, T.*N = 20 and T = 3"):
        from_pixels(np.zeros(shape), make_cubes(), dims)


def test_from_pixels_refuses_a_bare_name() -> None:
    with pytest.raises(TypeError, match=r"got a string: \['endmember'\]"):
        from_pixels(np.zeros((H * W, T, 2)), make_cubes(), "endmember")


def test_helpers_ask_for_labelled_cubes() -> None:
    for function in (valid_mask, to_pixels, lambda c: window_mean(c, 3)):
        with pytest.raises(ValueError, match="got ndarray: pass it through as_cube_sequence"):
            function(make_array())


def test_pixels_do_not_depend_on_the_order_of_dims() -> None:
    cubes = make_gappy()
    turned = cubes.transpose("wavelength", "x", "time", "y")
    np.testing.assert_array_equal(to_pixels(turned)[0], to_pixels(cubes)[0])
    xr.testing.assert_identical(valid_mask(turned), valid_mask(cubes))


def test_tiles_are_the_runs_of_equal_numbers() -> None:
    assert tiles(make_cubes()) == [slice(0, H)]
    for ids, expected in (
        ([7, 7, 2, 2], [slice(0, 2), slice(2, 4)]),
        ([1, 2, 2, 3], [slice(0, 1), slice(1, 3), slice(3, 4)]),
        ([5, 5, 5, 5], [slice(0, 4)]),
    ):
        assert tiles(make_cubes().assign_coords(tile=("y", ids))) == expected


def window_mean_by_hand(cubes: xr.DataArray, size: int, ids: list[int]) -> np.ndarray:
    values = cubes.values.astype(np.float64)
    valid = ~np.isnan(values).any(axis=-1)
    out = np.full(values.shape, np.nan)
    reach = size // 2
    for t, y, x in np.argwhere(valid):
        near = [
            values[t, i, j]
            for i in range(max(0, y - reach), min(H, y + reach + 1))
            for j in range(max(0, x - reach), min(W, x + reach + 1))
            if valid[t, i, j] and ids[i] == ids[y]
        ]
        out[t, y, x] = np.mean(near, axis=0)
    return out


@pytest.mark.parametrize("size", [1, 3, 5, 9])
@pytest.mark.parametrize("ids", [None, [7, 7, 2, 2], [1, 2, 2, 3]])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_window_mean(size: int, ids: list[int] | None, dtype: str) -> None:
    cubes = make_gappy().drop_vars("tile").astype(dtype)
    if ids is not None:
        cubes = cubes.assign_coords(tile=("y", ids))
    kept = cubes.copy(deep=True)
    mean = window_mean(cubes, size)
    assert mean.dtype == cubes.dtype
    assert mean.dims == DIMS
    assert set(mean.coords) == set(cubes.coords)
    # Values below 1: one rounding to the dtype, or some twenty sums and a quotient in float64.
    atol = np.finfo("f4").eps / 2 if dtype == "f4" else 100 * np.finfo("f8").eps
    expected = window_mean_by_hand(cubes, size, ids or [0] * H)
    np.testing.assert_allclose(mean.values, expected, rtol=0, atol=atol)
    xr.testing.assert_identical(cubes, kept)


def test_window_mean_of_a_constant_is_that_constant() -> None:
    cubes = make_gappy()
    constant = cubes.where(cubes.isnull(), np.float32(0.3))
    assert constant.dtype == np.float32
    mean = window_mean(constant, 3)
    xr.testing.assert_equal(mean, constant.where(valid_mask(cubes)))


@pytest.mark.parametrize(
    ("size", "error", "text"),
    [
        (2, ValueError, "size must be odd, .*got 2"),
        (0, ValueError, "size must be at least 1, got 0"),
        (3.0, TypeError, "size must be an integer"),
    ],
)
def test_window_size_is_checked(size: object, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        window_mean(make_cubes(), size)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_whole_spectra_are_those_without_nan(dtype: str) -> None:
    largest = np.finfo(dtype).max
    spectra = np.full((2, 4, 5), 0.3, dtype=dtype)
    spectra[0, 0, 4] = np.nan
    spectra[0, 1] = largest  # its sum is infinite
    spectra[0, 2, :2] = np.inf, -np.inf  # and of these NaN
    spectra[1, 0] = np.nan
    spectra[1, 1, :3] = np.inf, -np.inf, np.nan
    expected = [[False, True, True, True], [False, False, True, True]]
    assert np.array_equal(whole_spectra(spectra), expected)
    assert np.array_equal(whole_spectra(spectra[:, ::2, ::-1]), np.array(expected)[:, ::2])
