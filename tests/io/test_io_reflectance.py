"""From stored numbers to labelled reflectance: the rules that hold for every format."""

from __future__ import annotations

import logging
import pickle

import numpy as np
import pytest

from pyro_unmix.io import FileError
from pyro_unmix.io.errors import parsing
from pyro_unmix.io.image import Image, assume
from pyro_unmix.io.reflectance import Darkness, check_shapes, kept_bands, reflectance, to_array

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


@pytest.mark.parametrize("scale", [1e-8, 1e-6])
def test_too_small_a_scale_is_warned_of(caplog: pytest.LogCaptureFixture, scale: float) -> None:
    cubes = to_array(image(scale=scale, nodata=-1), path="f")
    np.testing.assert_allclose(cubes.values[0], numbers() * scale, rtol=1e-6)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("f: 100.0 % of the reflectances are below 0.01, at most")
    assert "pass scale= to read_sequence" in record.getMessage()


def test_dark_scenes_are_no_mistake(caplog: pytest.LogCaptureFixture) -> None:
    # Water: some per cent in blue and green, next to nothing beyond.
    water = np.broadcast_to(np.array([0.03, 0.02, 0.004, 0.0005, 0.0001], "f4"), (H, W, L)).copy()
    water += np.linspace(0, 1e-4, H * W, dtype="f4").reshape(H, W, 1)
    to_array(image(water, scale=None))
    # Fill around a few dark pixels of land.
    stored = np.zeros((H, W, L), "i2")
    stored[0, 0] = [100, 200, 300, 2000, 1000]
    to_array(image(stored, nodata=-1))
    # A missing date is neither dark nor bright.
    dates = np.stack([numbers(), np.full((H, W, L), -9999, "i2")])
    to_array(image(dates, nodata=-9999))
    assert caplog.records == []


def test_darkness_counts_over_the_parts_of_a_file(caplog: pytest.LogCaptureFixture) -> None:
    dark, keep = image(numbers() // 1000 + 1), np.ones(L, dtype=bool)
    count = Darkness()
    for _ in range(3):
        reflectance(dark, keep, path="f", darkness=count)
    assert caplog.records == []
    count.warn("f")
    (record,) = caplog.records
    largest = float(dark.values.max()) * 1e-4
    assert f"100.0 % of the reflectances are below 0.01, at most {largest:.3g}," in record.message
    caplog.clear()
    reflectance(image(), keep, path="f", darkness=count)  # a bright part
    count.warn("f")
    assert caplog.records == []


def test_integers_without_nodata_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    to_array(image(), path="f")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("f: no nodata value is declared: every number is taken")
    caplog.clear()
    to_array(image(), nodata=-1)
    to_array(image(nodata=-1))
    to_array(image(numbers("f8") / 1e4, scale=None))  # NaN marks missing
    assert caplog.records == []


def test_an_assumption_is_a_note_and_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    notes = ["array a"]
    assume(notes, "f", "taken as nm")
    assert notes == ["array a", "taken as nm"]
    assert [(r.levelno, r.getMessage()) for r in caplog.records] == [
        (logging.WARNING, "f: taken as nm")
    ]


def test_infinite_values_are_refused() -> None:
    stored = numbers("f4")
    stored[0, 1, 2] = np.inf
    with pytest.raises(FileError, match="f: values: .*infinite"):
        to_array(image(stored), path="f")


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


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("transform", (30.0, 0.0, 0.0, 0.0, np.nan, 9.0)),
        ("x", np.array([0, 1, np.inf, 3])),
        ("y", np.array([0, np.nan, 2])),
    ],
)
def test_places_that_are_no_numbers(name: str, part: object) -> None:
    with pytest.raises(FileError, match=f"a.tif: {name}: must be finite, got (nan|inf)"):
        check_shapes(image(**{name: part}), "a.tif")
    check_shapes(image(**{name: np.nan_to_num(part, posinf=2.0)}), "a.tif")


def test_a_band_with_one_pixel_missing_in_every_row_is_kept() -> None:
    values = numbers()
    values[:, 1, 2] = -1
    assert kept_bands(image(values, nodata=-1), path="a.tif").all()
    values[..., 2] = -1
    assert kept_bands(image(values, nodata=-1), path="a.tif").tolist() == [1, 1, 0, 1, 1]
