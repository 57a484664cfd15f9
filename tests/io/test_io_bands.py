"""Wavelengths in nm, and which bands are read."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from pyro_unmix.io import FileError
from pyro_unmix.io.image import Image
from pyro_unmix.io.reflectance import kept_bands, to_array, wavelength_to_nm
from pyro_unmix.io.spectral_axis import ranges

H, W, L = 3, 4, 5
WAVELENGTH = np.array([450.0, 550.0, 650.0, 850.0, 1600.0])


def numbers(dtype: str = "i2") -> np.ndarray:
    return np.random.default_rng(0).integers(100, 5000, (H, W, L)).astype(dtype)


def image(values: np.ndarray | None = None, **fields: object) -> Image:
    fields = {"scale": 1e-4} | fields
    return Image(numbers() if values is None else values, "test", **fields)  # type: ignore[arg-type]


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


def test_ignored_ranges(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    wavelength = np.array([1339.0, 1400.0, 1451.0, 1900.0, 2200.0])
    keep = kept_bands(image(wavelength=wavelength), path="f", ignore="1300-1350,2200-2300")
    assert keep.tolist() == [False, True, True, True, False]
    assert "ignored: 0, 4" in caplog.text
    assert kept_bands(image(wavelength=wavelength)).all()
    both = kept_bands(image(wavelength=wavelength), ignore="0-1400,water_vapour")
    assert both.tolist() == [False, False, True, False, True]
    with pytest.raises(FileError, match="f: wavelength: .*ignore= cannot find the bands"):
        kept_bands(image(), path="f", ignore="emit")


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
