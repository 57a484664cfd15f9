"""The data contract, against arrays indexed by hand."""

from __future__ import annotations

import itertools
from datetime import datetime

import numpy as np
import pytest
import xarray as xr

from pyro_unmix.data import as_cube_sequence, valid_mask
from pyro_unmix.data.cubes import (
    DIMS,
    check_bands,
    from_pixels,
    tiles,
    to_pixels,
    whole_spectra,
    window_mean,
)

T, H, W, L = 3, 4, 5, 6
WAVELENGTH = [450.0, 550.0, 650.0, 993.1, 902.3, 1600.0]
DATES = ["2020-01-01", "2020-02-10", "2020-07-01"]


def make_array(dtype: str = "f4") -> np.ndarray:
    """Reflectances that are all different, some slightly negative."""
    order = np.random.default_rng(0).permutation(T * H * W * L)
    return (order.reshape(T, H, W, L) / order.size - 0.01).astype(dtype)


def make_cubes() -> xr.DataArray:
    return as_cube_sequence(make_array(), wavelength=WAVELENGTH, time=DATES)


def make_labelled() -> xr.DataArray:
    return xr.DataArray(
        make_array(),
        dims=DIMS,
        coords={
            "time": np.array(DATES, dtype="datetime64[ns]"),
            "y": np.arange(H)[::-1] * 30.0,
            "x": np.arange(W) * 30.0,
            "wavelength": WAVELENGTH,
            "fwhm": ("wavelength", np.full(L, 10.0)),
            "tile": ("y", [7, 7, 2, 2]),
            "spatial_ref": 0,
        },
        attrs={"sensor": "made up"},
        name="rho",
    )


def test_endmembers_belong_to_the_bands_of_the_cubes(caplog: pytest.LogCaptureFixture) -> None:
    cubes = as_cube_sequence(make_labelled())  # fwhm 10 nm
    check_bands(None, cubes)
    check_bands(np.array(WAVELENGTH) + 0.004, cubes)
    assert not caplog.records
    check_bands(np.array(WAVELENGTH) + 0.9, cubes)
    assert "bands of the endmembers are up to 0.9 nm off those of the cubes" in caplog.text
    with pytest.raises(ValueError, match=r"wavelengths of the endmembers, got some up to 1.1 nm"):
        check_bands(np.array(WAVELENGTH) + 1.1, cubes)
    with pytest.raises(ValueError, match="endmembers have 5 bands, the cubes 6"):
        check_bands(WAVELENGTH[1:], cubes)


# --- what comes in ---------------------------------------------------------------------------


def test_zeros_in_all_bands_are_missing(caplog):
    values = np.random.default_rng(0).uniform(0.1, 0.9, size=(2, 3, 4, 5))
    values[0, 1] = 0
    values[1, 2, 3, 0] = 0  # one band only: a spectrum
    given = values.copy()
    with caplog.at_level("INFO", logger="pyro_unmix"):
        cubes = as_cube_sequence(values)
    np.testing.assert_array_equal(values, given)
    expected = np.ones((2, 3, 4), dtype=bool)
    expected[0, 1] = False
    np.testing.assert_array_equal(valid_mask(cubes), expected)
    assert np.isnan(cubes.values[0, 1]).all()
    assert "4 pixel-dates are zero in all bands" in caplog.text


def test_numpy_sequence_is_labelled() -> None:
    x = make_array()
    cubes = as_cube_sequence(x, wavelength=WAVELENGTH, time=DATES)
    assert cubes.dims == DIMS
    assert cubes.name == "reflectance"
    np.testing.assert_array_equal(cubes.values, x)
    np.testing.assert_array_equal(cubes["wavelength"], WAVELENGTH)
    assert cubes["wavelength"].attrs["units"] == "nm"
    np.testing.assert_array_equal(cubes["time"], np.array(DATES, dtype="datetime64[ns]"))


def test_without_labels_there_are_no_coordinates() -> None:
    assert list(as_cube_sequence(make_array()).coords) == []


def test_lists_and_single_images() -> None:
    x = make_array()
    np.testing.assert_array_equal(as_cube_sequence(list(x)).values, x)
    np.testing.assert_array_equal(as_cube_sequence(tuple(x)).values, x)
    image = as_cube_sequence(x[1], time="2020-02-10")
    assert image.shape == (1, H, W, L)
    np.testing.assert_array_equal(image.values[0], x[1])
    assert image["time"].values[0] == np.datetime64("2020-02-10")
    np.testing.assert_array_equal(as_cube_sequence([x[1]]).values, image.values)


@pytest.mark.parametrize("order", list(itertools.permutations(DIMS)))
def test_named_dims_in_any_order(order: tuple[str, ...]) -> None:
    labelled = make_labelled()
    xr.testing.assert_identical(
        as_cube_sequence(labelled.transpose(*order)), as_cube_sequence(labelled)
    )


def test_coordinates_and_attributes_are_kept() -> None:
    labelled = make_labelled()
    labelled["wavelength"].attrs["comment"] = "centre"
    cubes = as_cube_sequence(labelled)
    assert set(cubes.coords) == set(labelled.coords)
    for name in ("y", "x", "fwhm", "tile", "spatial_ref"):
        xr.testing.assert_equal(cubes[name], labelled[name])
    assert cubes.attrs == {"sensor": "made up"}
    assert cubes["wavelength"].attrs["comment"] == "centre"


def test_list_of_dataarrays_is_joined_in_time() -> None:
    labelled = make_labelled()
    whole = as_cube_sequence(labelled)
    # With a scalar date, in another order of dims; and as a sequence of two dates plus one.
    images = [labelled.isel(time=t).transpose("wavelength", "x", "y") for t in range(T)]
    xr.testing.assert_equal(as_cube_sequence(images), whole)
    pair = [labelled.isel(time=slice(0, 2)), labelled.isel(time=2)]
    xr.testing.assert_equal(as_cube_sequence(pair), whole)
    bare = [image.drop_vars("time") for image in images]
    xr.testing.assert_equal(as_cube_sequence(bare, time=DATES), whole)
    assert "time" not in as_cube_sequence(bare).coords


def test_a_scalar_coordinate_that_varies_goes_along_time() -> None:
    images = [
        xr.DataArray(image, dims=DIMS[1:], coords={"sun_zenith": 30.0 + t, "spatial_ref": 0})
        for t, image in enumerate(make_array())
    ]
    cubes = as_cube_sequence(images)
    assert cubes["sun_zenith"].dims == ("time",)
    assert cubes["sun_zenith"].values.tolist() == [30.0, 31.0, 32.0]
    assert cubes["spatial_ref"].dims == ()


def spelled(text: str, transform: str | None = None) -> xr.Variable:
    """The coordinate of rioxarray that holds the CRS."""
    attrs = {"crs_wkt": text} | ({} if transform is None else {"GeoTransform": transform})
    return xr.Variable((), 0, attrs)


def test_dates_of_other_crs_are_refused() -> None:
    pytest.importorskip("pyproj")
    one, two = (make_labelled().isel(time=t) for t in range(2))
    one = one.assign_coords(spatial_ref=spelled("EPSG:32633"))
    with pytest.raises(
        ValueError,
        match=r"position 0 has EPSG:32633 and position 1 EPSG:32632: bring them to "
        r"one grid first, other.rio.reproject_match\(first\) with rioxarray",
    ):
        as_cube_sequence([one, two.assign_coords(spatial_ref=spelled("EPSG:32632"))])
    with pytest.raises(ValueError, match="position 0 has EPSG:32633 and position 1 none"):
        as_cube_sequence([one, two.assign_coords(spatial_ref=0)])
    with pytest.raises(ValueError, match="position 0 has none and position 1 EPSG:32633"):
        as_cube_sequence([two, one])


def test_dates_of_one_crs_in_two_spellings_are_joined() -> None:
    crs = pytest.importorskip("pyproj").CRS.from_epsg(32633)
    texts = [crs.to_wkt("WKT2_2019"), crs.to_wkt("WKT1_GDAL"), crs.to_wkt("WKT1_ESRI")]
    images = [
        make_labelled().isel(time=t).assign_coords(spatial_ref=spelled(text))
        for t, text in enumerate(texts)
    ]
    cubes = as_cube_sequence(images)
    assert cubes["spatial_ref"].attrs == {"crs_wkt": texts[0]}
    assert cubes["spatial_ref"].dims == ()


def test_rotated_images_are_told_apart_by_their_transforms() -> None:
    images = [make_labelled().isel(time=t).drop_vars(["x", "y"]) for t in range(2)]
    places = ["5e5 20 5 5.8e6 5 -20", "500000 20.0 5.0 5800000.0 5 -20", "5e5 20 6 5.8e6 5 -20"]

    def sequence(one: str, two: str) -> xr.DataArray:
        named = (spelled("EPSG:32633", text) for text in (one, two))
        return as_cube_sequence(
            [i.assign_coords(spatial_ref=n) for i, n in zip(images, named, strict=True)]
        )

    assert sequence(places[0], places[1])["spatial_ref"].attrs["GeoTransform"] == places[0]
    with pytest.raises(ValueError, match="same transform, but position 0 has 5e5 20 5 .*rio.repro"):
        sequence(places[0], places[2])


def test_shifted_bands_of_dates_are_joined_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    one, two, three = (make_labelled().isel(time=t) for t in range(T))  # fwhm 10 nm
    two = two.assign_coords(wavelength=two["wavelength"] + 0.3)
    three = three.assign_coords(
        wavelength=three["wavelength"] - 0.9, fwhm=("wavelength", np.full(L, 9.5))
    )
    cubes = as_cube_sequence([one, two, three])
    np.testing.assert_array_equal(cubes["wavelength"], one["wavelength"])
    np.testing.assert_array_equal(cubes["fwhm"], np.full(L, 10.0))
    np.testing.assert_array_equal(cubes.values[2], three.transpose(*DIMS[1:]).values)
    assert [r.getMessage() for r in caplog.records if r.levelname == "WARNING"] == [
        "item 2 of the list has bands up to 0.9 nm off those of item 0, whose wavelengths are kept "
        "for all"
    ]
    with pytest.raises(ValueError, match=r"wavelength, but at position 0 band 0 is at 450 nm and"):
        as_cube_sequence([one, two, three.assign_coords(wavelength=one["wavelength"] + 1)])


def test_rounded_wavelengths_are_no_shift(caplog: pytest.LogCaptureFixture) -> None:
    one, two = (make_labelled().isel(time=t) for t in range(2))
    as_cube_sequence([one, two.assign_coords(wavelength=two["wavelength"] + 0.004)])
    assert not caplog.records


def test_one_image_keeps_its_date() -> None:
    cubes = as_cube_sequence(make_labelled().isel(time=1))
    assert cubes.dims == DIMS
    assert cubes["time"].values.tolist() == [np.datetime64(DATES[1], "ns").astype(int)]


@pytest.mark.parametrize(
    "time",
    [
        DATES,
        [datetime.fromisoformat(d) for d in DATES],
        np.array(DATES, dtype="datetime64[D]"),
        xr.DataArray(np.array(DATES, dtype="datetime64[s]").astype("M8[ns]"), dims="time"),
    ],
)
def test_dates_in_any_spelling(time: object) -> None:
    cubes = as_cube_sequence(make_array(), time=time)
    assert cubes["time"].dtype == "datetime64[ns]"
    np.testing.assert_array_equal(cubes["time"], np.array(DATES, dtype="datetime64[ns]"))


def test_dates_may_be_numbers() -> None:
    assert as_cube_sequence(make_array(), time=[0, 3, 10])["time"].values.tolist() == [0, 3, 10]


@pytest.mark.parametrize(
    ("dtype", "result"), [("f2", "f4"), ("f4", "f4"), (">f4", "f4"), ("f8", "f8"), (">f8", "f8")]
)
def test_dtypes(dtype: str, result: str) -> None:
    x = make_array(dtype)
    cubes = as_cube_sequence(x)
    assert cubes.dtype == np.dtype(result)
    assert cubes.dtype.isnative
    np.testing.assert_array_equal(cubes.values, x.astype(result))


@pytest.mark.parametrize("as_list", [False, True])
def test_masked_values_are_missing(as_list: bool) -> None:
    x = np.ma.masked_array(make_array())
    x[1, 2, 3, 4] = np.ma.masked
    # What lies below the mask does not count, not even a fill value.
    x.data[1, 2, 3, 4] = 1e20
    cubes = as_cube_sequence(list(x) if as_list else x)
    expected = make_array()
    expected[1, 2, 3, 4] = np.nan
    np.testing.assert_array_equal(cubes.values, expected)
    assert x.data[1, 2, 3, 4] == np.float32(1e20)


@pytest.mark.parametrize("dtype", ["f4", "f8", ">f4"])
def test_the_users_array_cannot_be_changed_through_the_result(dtype: str) -> None:
    x = make_array(dtype)
    kept = x.copy()
    for given in (x, xr.DataArray(x, dims=DIMS), list(x), xr.DataArray(x[0], dims=DIMS[1:])):
        cubes = as_cube_sequence(given)
        try:
            cubes.values[:] = 0
        except ValueError as error:
            assert "read-only" in str(error)
        np.testing.assert_array_equal(x, kept)
    assert x.flags.writeable


def test_the_users_labels_are_not_changed() -> None:
    labelled = make_labelled()
    kept = labelled.copy(deep=True)
    cubes = as_cube_sequence(labelled)
    cubes.attrs["sensor"] = "other"
    cubes["fwhm"].attrs["units"] = "nm"
    cubes["fwhm"].values[:] = 0
    xr.testing.assert_identical(labelled, kept)


def test_read_only_arrays_are_legal() -> None:
    x = make_array()
    x.flags.writeable = False
    np.testing.assert_array_equal(as_cube_sequence(x).values, x)


def test_the_result_passes_unchanged() -> None:
    cubes = as_cube_sequence(make_labelled())
    xr.testing.assert_identical(as_cube_sequence(cubes), cubes)


def test_a_date_without_any_valid_pixel_is_legal() -> None:
    x = make_array()
    x[1] = np.nan
    assert valid_mask(as_cube_sequence(x)).sum("x").sum("y").values.tolist() == [H * W, 0, H * W]


# --- what is refused -------------------------------------------------------------------------


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
            make_labelled().rename(wavelength="band"),
            r"missing: \['wavelength'\], unknown: \['band'",
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


# --- pixels ----------------------------------------------------------------------------------


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


# --- tiles and windows -----------------------------------------------------------------------


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
