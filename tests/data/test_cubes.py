"""The data contract: what comes in, against arrays indexed by hand."""

from __future__ import annotations

import itertools
from datetime import datetime

import numpy as np
import pytest
import xarray as xr
from cube_cases import DATES, DIMS, WAVELENGTH, H, L, T, W, make_array, make_labelled

from pyro_unmix.data import as_cube_sequence, as_lazy_cubes, valid_mask
from pyro_unmix.data.cubes import check_bands


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


@pytest.mark.parametrize("chunked", [False, True])
def test_dims_by_the_names_of_other_programs(chunked: bool) -> None:
    values = np.random.default_rng(0).uniform(0.1, 0.5, size=(2, 3, 4, 5))
    days = np.array(["2024-05-01", "2024-06-01"], dtype="datetime64[ns]")
    x = xr.DataArray(
        values.transpose(3, 0, 1, 2),
        dims=("band", "date", "latitude", "longitude"),
        coords={
            "band": [1, 2, 3, 4, 5],
            "date": days,
            "latitude": [47.3, 47.2, 47.1],
            "longitude": [11.0, 11.1, 11.2, 11.3],
        },
    )
    before = x.copy(deep=True)
    if chunked:
        pytest.importorskip("dask")
        cubes = as_lazy_cubes(x.chunk(latitude=2))
    else:
        cubes = as_cube_sequence(x)
    np.testing.assert_array_equal(cubes.values, values)
    np.testing.assert_array_equal(cubes["time"], days)
    np.testing.assert_array_equal(cubes["y"], [47.3, 47.2, 47.1])
    np.testing.assert_array_equal(cubes["x"], [11.0, 11.1, 11.2, 11.3])
    assert "wavelength" not in cubes.coords  # numbers of bands are none
    np.testing.assert_array_equal(cubes["band"], [1, 2, 3, 4, 5])
    xr.testing.assert_identical(x, before)
    short = xr.DataArray(values, dims=("date", "lat", "lon", "band"))
    known = short.assign_coords(wavelength=("band", np.arange(500.0, 505.0)))
    np.testing.assert_array_equal(as_cube_sequence(known)["wavelength"], np.arange(500.0, 505.0))
    with pytest.raises(ValueError, match=r"unknown: \['lat'\]"):  # two rows of y
        as_cube_sequence(short.rename(lon="y"))
