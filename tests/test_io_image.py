"""From stored numbers to labelled reflectance: the rules that hold for every format."""

from __future__ import annotations

import logging
import pickle

import numpy as np
import pytest

from pyro_unmix.io.errors import FileError, parsing
from pyro_unmix.io.image import Image, kept_bands, to_array, wavelength_to_nm
from pyro_unmix.io.spectral_axis import ranges

H, W, L = 3, 4, 5
WAVELENGTH = np.array([450.0, 550.0, 650.0, 850.0, 1600.0])
UTM = 'PROJCS["WGS 84 / UTM zone 10N"]'


def numbers(dtype: str = "i2") -> np.ndarray:
    return np.random.default_rng(0).integers(100, 5000, (H, W, L)).astype(dtype)


def image(values: np.ndarray | None = None, **fields: object) -> Image:
    fields = {"scale": 1e-4} | fields
    return Image(numbers() if values is None else values, "test", **fields)  # type: ignore[arg-type]


# --- the error -------------------------------------------------------------------------------


def test_the_error_names_file_field_and_problem() -> None:
    error = FileError("a.nc", "wavelength", "is missing")
    assert isinstance(error, ValueError)
    assert str(error) == "a.nc: wavelength: is missing"
    assert str(FileError("a.nc", "", "is missing")) == "a.nc: is missing"
    assert (error.path, error.field, error.problem) == ("a.nc", "wavelength", "is missing")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is FileError
    assert str(copy) == str(error)


@pytest.mark.parametrize("raised", [KeyError("x"), MemoryError(), OSError("bad"), IndexError()])
def test_whatever_a_parser_raises_is_a_file_error(raised: Exception) -> None:
    with pytest.raises(FileError, match=f"a.nc: Y: cannot .* as NetCDF.*{type(raised).__name__}"):
        with parsing("a.nc", "Y", "NetCDF"):
            raise raised


@pytest.mark.parametrize(
    "raised", [FileNotFoundError("a"), ImportError("b"), FileError("f", "g", "h")]
)
def test_other_causes_pass_through_the_parser(raised: Exception) -> None:
    with pytest.raises(type(raised)) as info, parsing("a.nc", "Y", "NetCDF"):
        raise raised
    assert info.value is raised


# --- scale, offset, nodata -------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["i2", ">i2", "u2", "i4", "f4", "f8", ">f4"])
@pytest.mark.parametrize("per_band", [False, True])
def test_scale_and_offset(dtype: str, per_band: bool) -> None:
    stored = numbers(dtype)
    scale = 1e-4 * np.arange(1, L + 1) if per_band else 1e-4
    offset = -0.01 * np.arange(L) if per_band else -0.1
    cubes = to_array(image(stored, scale=scale, offset=offset))
    expected = stored.astype(np.float64) * scale + offset
    wide = dtype in ("i4", "f8")
    assert cubes.dtype == (np.float64 if wide else np.float32)
    # One rounding to the precision of the result.
    np.testing.assert_allclose(cubes.values[0], expected, rtol=2.0**-53 if wide else 2.0**-24)
    assert cubes.dims == ("time", "y", "x", "wavelength")


def test_the_callers_scale_stands_in_for_that_of_the_file() -> None:
    cubes = to_array(image(scale=7.0), scale=2e-4)
    np.testing.assert_allclose(cubes.values[0], numbers() * 2e-4, rtol=1e-7)


def test_integers_need_a_scale() -> None:
    with pytest.raises(FileError, match=r"f: scale: .*integers \(int16\).*pass scale="):
        to_array(image(scale=None), path="f")
    floats = numbers("f8") / 1e4
    np.testing.assert_array_equal(to_array(image(floats, scale=None)).values[0], floats)


@pytest.mark.parametrize("scale", [0, -1e-4, np.nan, [1.0, 2.0], "a"])
def test_a_bad_scale_of_the_caller(scale: object) -> None:
    with pytest.raises(ValueError, match=r"scale must be a positive number, or one per band of f"):
        to_array(image(), path="f", scale=scale)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"scale": 0.0}, "f: scale: must be positive"),
        ({"scale": np.nan}, "f: scale: must be finite"),
        ({"scale": "a"}, "f: scale: must be finite and numeric"),
        ({"offset": np.inf}, "f: offset: must be finite"),
        ({"scale": np.ones(2)}, r"f: scale: must be one number or one per band \(5\)"),
        ({"nodata": np.ones(2)}, "f: nodata: must be one number or one per band"),
        ({"wavelength": WAVELENGTH[:2]}, "f: wavelength: must hold 5 values"),
        ({"good": np.ones(4, bool)}, "f: good: must hold 5 values"),
        ({"names": ["a"]}, "f: names: must hold 5 values"),
        ({"dates": ["2020-01-01", "2020-01-02"]}, "f: dates: must hold 1 values"),
        ({"tile": np.arange(2)}, "f: tile: must hold 3 values"),
        ({"values": numbers("c8")}, "f: values: must be real numbers, got complex64"),
        ({"values": numbers()[0]}, r"f: values: must be \(y, x, band\)"),
        ({"values": numbers()[:0]}, "f: values: .*not empty"),
        ({"dates": ["yesterday"]}, "f: values: time must hold ISO dates"),
    ],
)
def test_parts_that_do_not_fit(fields: dict[str, object], text: str) -> None:
    with pytest.raises(FileError, match=text):
        to_array(image(**fields), path="f")


def test_nodata_is_marked_by_the_stored_number() -> None:
    stored = numbers()
    stored[1, 2, 3] = -9999
    expected = stored * 1e-4
    expected[1, 2, 3] = np.nan
    np.testing.assert_allclose(to_array(image(stored, nodata=-9999)).values[0], expected, rtol=1e-7)
    np.testing.assert_allclose(to_array(image(stored), nodata=-9999).values[0], expected, rtol=1e-7)


def test_nodata_per_band() -> None:
    stored = numbers()
    stored[0, 0, 0] = stored[0, 0, 1] = -1
    cubes = to_array(image(stored, nodata=np.array([-1, -2, -2, -2, -2])))
    assert np.isnan(cubes.values[0, 0, 0]).tolist() == [True, False, False, False, False]


def test_nodata_is_compared_in_the_precision_of_the_file() -> None:
    stored = (numbers() / 1e4).astype("f4")
    mark = -3.4028234663852886e38  # as text, of the smallest float32
    stored[0, 0, 0] = mark
    cubes = to_array(image(stored, scale=None, nodata=mark))
    assert np.isnan(cubes.values[0, 0, 0, 0])
    # 0.1 is no float32, but the file holds the nearest one.
    stored[0, 0, 0] = 0.1
    assert np.isnan(to_array(image(stored, scale=None, nodata=0.1)).values[0, 0, 0, 0])


def test_nodata_outside_the_integers_marks_nothing() -> None:
    cubes = to_array(image(numbers("u2"), nodata=-9999))
    assert not np.isnan(cubes).any()


# --- what is no reflectance ------------------------------------------------------------------


def test_an_undeclared_nodata_is_noticed() -> None:
    stored = numbers()
    stored[2, 3] = -9999
    with pytest.raises(FileError, match="f: nodata: 1 pixels have the reflectance -0.9999 in all"):
        to_array(image(stored), path="f")
    with pytest.raises(FileError, match="it is not the nodata value of the file"):
        to_array(image(stored, nodata=-32768), path="f")
    stored = numbers("u2")
    stored[:, 0] = 65535
    with pytest.raises(FileError, match="f: nodata: 3 pixels have the reflectance 6.5535"):
        to_array(image(stored), path="f")


@pytest.mark.parametrize("dtype", ["i2", "u2", "f4", "f8", "i4"])
def test_a_wrong_byte_order_is_noticed(dtype: str) -> None:
    stored = np.random.default_rng(1).integers(100, 5000, (20, 20, L)).astype(dtype)
    stored = stored / 10000 if dtype.startswith("f") else stored
    scale = None if dtype.startswith("f") else 1e-4
    to_array(image(stored, scale=scale))
    with pytest.raises(FileError, match="f: values: "):
        to_array(image(stored.astype(dtype).byteswap(), scale=scale), path="f")


def test_round_numbers_in_a_wrong_byte_order() -> None:
    # Swapped, 0.5 is the denormal number 8.8e-44: in range, but of no use.
    stored = np.random.default_rng(1).choice(np.array([0.25, 0.5, 0.75], "f4"), (9, 9, L))
    with pytest.raises(FileError, match="f: values: 100 % of the values are closer to 0 than"):
        to_array(image(stored.byteswap(), scale=None), path="f")


def test_small_negative_reflectance_is_legal() -> None:
    stored = numbers()
    stored[:, :, 0] = -50
    stored[0, 0, 1] = -9000
    assert to_array(image(stored)).values.min() == np.float32(-0.9)


def test_a_forgotten_scale_is_noticed() -> None:
    with pytest.raises(FileError, match="f: values: reflectance must be about 0 to 1.*scale="):
        to_array(image(numbers("f4"), scale=None), path="f")


def test_infinite_values_are_refused() -> None:
    stored = numbers("f4")
    stored[0, 1, 2] = np.inf
    with pytest.raises(FileError, match="f: values: .*infinite"):
        to_array(image(stored), path="f")


# --- wavelengths -----------------------------------------------------------------------------


@pytest.mark.parametrize("unit", ["nm", "Nanometers", " nanometres ", "NM"])
def test_nanometres(unit: str) -> None:
    np.testing.assert_array_equal(wavelength_to_nm(WAVELENGTH, unit, "f"), WAVELENGTH)


@pytest.mark.parametrize(
    "unit", ["um", "µm", "μm", "Micrometers", "micrometre", "micron", "Microns"]
)
def test_micrometres(unit: str) -> None:
    np.testing.assert_allclose(
        wavelength_to_nm(WAVELENGTH / 1000, unit, "f"), WAVELENGTH, rtol=1e-15
    )


@pytest.mark.parametrize(
    ("values", "unit", "text"),
    [
        (WAVELENGTH, None, r"f: wavelength units: are not given.*wavelength_unit='nm' or .*'um'"),
        (WAVELENGTH, "Unknown", "wavelength units: are not given"),
        (WAVELENGTH, " ", "wavelength units: are not given"),
        (WAVELENGTH, "Wavenumber", "wavelength units: must be nm or um, got 'Wavenumber'"),
        (
            WAVELENGTH / 1000,
            "nm",
            "f: wavelength: the unit 'nm' contradicts the values 0.45 to 1.6",
        ),
        (WAVELENGTH, "um", "the unit 'um' contradicts the values 450 to 1600.*expected 0.1 to 100"),
        (np.array([0.45, 550.0]), "nm", "contradicts"),
        (np.array([450.0, np.nan]), "nm", "wavelength: must be finite, got nan at band 1"),
        (np.array([450.0, -1.0]), "nm", "wavelength: must be positive, got -1"),
        (np.array(["450"]), "nm", "wavelength: must be a list of numbers"),
        (np.ones((2, 2)), "nm", "wavelength: must be a list of numbers"),
    ],
)
def test_refused_wavelengths(values: np.ndarray, unit: str | None, text: str) -> None:
    with pytest.raises(FileError, match=text):
        wavelength_to_nm(values, unit, "f")


def test_the_caller_can_say_the_unit() -> None:
    part = image(wavelength=WAVELENGTH / 1000, wavelength_unit=None, fwhm=np.full(L, 0.01))
    cubes = to_array(part, wavelength_unit="um")
    np.testing.assert_allclose(cubes.wavelength, WAVELENGTH, rtol=1e-15)
    np.testing.assert_allclose(cubes.fwhm, 10.0, rtol=1e-15)
    assert cubes.wavelength.attrs["units"] == cubes.fwhm.attrs["units"] == "nm"
    with pytest.raises(ValueError, match="wavelength_unit must be 'nm' or 'um', got 'm'"):
        to_array(part, wavelength_unit="m")
    with pytest.raises(FileError, match="contradicts"):
        to_array(part, wavelength_unit="nm")


def test_fwhm_in_another_unit_is_refused() -> None:
    part = image(wavelength=WAVELENGTH, fwhm=np.full(L, 0.005))
    with pytest.raises(FileError, match="f: fwhm: the unit 'nm' contradicts the widths 0.005"):
        to_array(part, path="f")


def test_unsorted_wavelengths_stay_as_they_are() -> None:
    order = np.array([450.0, 993.1, 902.3, 1000.0, 1600.0])
    np.testing.assert_array_equal(to_array(image(wavelength=order)).wavelength, order)


# --- choice of bands -------------------------------------------------------------------------


def test_bad_and_empty_bands_are_dropped_with_one_log_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    stored = numbers()
    stored[:, :, 3] = -9999
    good = np.array([True, False, True, True, True])
    part = image(stored, wavelength=WAVELENGTH, good=good, nodata=-9999, names=list("abcde"))
    cubes = to_array(part, path="f")
    np.testing.assert_array_equal(cubes.wavelength, WAVELENGTH[[0, 2, 4]])
    assert cubes.band.values.tolist() == ["a", "c", "e"]
    assert [record.getMessage() for record in caplog.records] == [
        "f: dropped 2 of 5 bands (counted from 0): bad-band list: 1; no data: 3"
    ]
    np.testing.assert_allclose(cubes.values[0], stored[:, :, [0, 2, 4]] * 1e-4, rtol=1e-7)


def test_water_vapour(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    wavelength = np.array([1339.0, 1400.0, 1451.0, 1900.0, 2200.0])
    keep = kept_bands(image(wavelength=wavelength), path="f", drop_water=True)
    assert keep.tolist() == [True, False, True, False, True]
    assert "water vapour: 1, 3" in caplog.text
    assert kept_bands(image(wavelength=wavelength)).all()
    with pytest.raises(FileError, match="f: wavelength: .*drop_water"):
        kept_bands(image(), path="f", drop_water=True)


@pytest.mark.parametrize(
    ("bands", "kept"),
    [
        ([0, 2], [0, 2]),
        ([1], [1]),  # named by the caller, though the file calls it bad
        (slice(1, 4), [1, 2, 3]),
        (np.array([True, False, False, False, True]), [0, 4]),
        (["c", "a"], [0, 2]),
        (range(2), [0, 1]),
    ],
)
def test_bands_chosen_by_the_caller(bands: object, kept: list[int]) -> None:
    good = np.array([True, False, True, True, True])
    part = image(good=good, names=list("abcde"))
    found = kept_bands(part, bands=bands)  # type: ignore[arg-type]
    assert np.flatnonzero(found).tolist() == kept


@pytest.mark.parametrize(
    ("bands", "error", "text"),
    [
        ([5], ValueError, r"bands must lie in 0 to 4, got \[5\]"),
        ([-1], ValueError, "bands must lie in 0 to 4"),
        (["z"], ValueError, "no band is called z; there are: a, b"),
        ([0.5], TypeError, "bands must be a slice"),
        ([True, False], TypeError, "a mask of 5 bool"),
    ],
)
def test_refused_choices(bands: object, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        kept_bands(image(names=list("abcde")), bands=bands)  # type: ignore[arg-type]


def test_no_band_left() -> None:
    with pytest.raises(FileError, match="f: bands: none of the 5 is left: bad-band list: 0-4"):
        kept_bands(image(good=np.zeros(L, bool)), path="f")


def test_a_missing_date_does_not_cost_the_bands() -> None:
    values = np.stack([numbers(), np.full((H, W, L), -9999, "i2")])
    assert kept_bands(image(values, nodata=-9999)).all()
    cubes = to_array(image(values, nodata=-9999))
    assert np.isnan(cubes.values[1]).all()


def test_ranges() -> None:
    assert ranges([1, 2, 3, 7, 9, 10]) == "1-3, 7, 9-10"
    assert ranges([]) == ""


# --- place -----------------------------------------------------------------------------------


def test_pixel_centres_and_crs_as_rioxarray_reads_them() -> None:
    pytest.importorskip("rioxarray")
    crs = pytest.importorskip("rasterio.crs").CRS.from_epsg(32610)
    transform = (30.0, 0.0, 500_000.0, 0.0, -20.0, 4_000_000.0)
    cubes = to_array(image(crs=crs.to_wkt(), transform=transform))
    assert cubes.x.values.tolist() == [500_015, 500_045, 500_075, 500_105]
    assert cubes.y.values.tolist() == [3_999_990, 3_999_970, 3_999_950]
    assert cubes.rio.crs == crs
    assert tuple(cubes.rio.transform())[:6] == transform
    assert cubes.rio.transform(recalc=True) == cubes.rio.transform()


def test_a_rotated_grid_as_rioxarray_reads_it() -> None:
    pytest.importorskip("rioxarray")
    transform = (10.6, -9.9, 783_998.6, -9.9, -10.6, 4_305_970.4)
    cubes = to_array(image(transform=transform))
    assert not {"x", "y"} & set(cubes.coords)
    assert tuple(cubes.rio.transform())[:6] == transform


def test_coordinates_of_the_file_stay_as_they_are() -> None:
    y = np.array([50.0, 50.1, 50.3])
    cubes = to_array(image(x=np.arange(4.0), y=y, tile=np.array([0, 0, 1])))
    np.testing.assert_array_equal(cubes.y, y)
    assert cubes.tile.dims == ("y",)
    assert cubes.tile.values.tolist() == [0, 0, 1]


def test_nothing_known_leaves_no_coordinates() -> None:
    assert not to_array(image()).coords


def test_dates() -> None:
    cubes = to_array(image(dates=[np.datetime64("2020-02-03")]))
    assert cubes.time.values.tolist() == [np.datetime64("2020-02-03", "ns").astype(int)]


def test_the_stored_numbers_are_not_changed() -> None:
    stored = numbers()
    stored.flags.writeable = False
    to_array(image(stored, nodata=200))
