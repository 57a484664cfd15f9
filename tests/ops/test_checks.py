"""Input checks: what passes, and what each error says."""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone

import numpy as np
import pytest
import xarray as xr

from pyro_unmix.data.checks import as_endmembers, as_times, as_wavelengths
from pyro_unmix.ops import checks


def test_finite_array_reads_numbers_and_keeps_shape() -> None:
    array = checks.finite_array([[1, 2], [3, 4]], "x", ndim=2)
    assert array.dtype == np.float64
    assert array.tolist() == [[1.0, 2.0], [3.0, 4.0]]


@pytest.mark.parametrize(
    ("x", "error", "text"),
    [
        ([1.0, np.nan, np.inf], ValueError, "x must be finite, got 2 NaN or infinite of 3 values"),
        ([[1.0]], ValueError, r"x must have 1 dimensions, got 2: shape \(1, 1\)"),
        (["a"], TypeError, "x must hold real numbers"),
        ([1j], TypeError, "x must hold real numbers, got complex128"),
        ([True], TypeError, "x must hold real numbers, got bool"),
        ([[1.0], [1.0, 2.0]], ValueError, "x must be a regular array"),
        (np.ma.masked_array([1.0, 2.0], [True, False]), ValueError, "no masked values, got 1"),
    ],
)
def test_finite_array_refuses(x: object, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        checks.finite_array(x, "x", ndim=1)


def test_positive_int() -> None:
    assert checks.positive_int(np.int32(3), "n") == 3
    assert checks.positive_int(0, "n", minimum=0) == 0
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        checks.positive_int(0, "n")
    for value in (3.0, "3", None, True, np.True_):
        with pytest.raises(TypeError, match="n must be an integer, got"):
            checks.positive_int(value, "n")


def test_in_range() -> None:
    assert checks.in_range(0, "p", 0, 1) == 0.0
    assert checks.in_range(1, "p", 0, 1) == 1.0
    assert checks.in_range(np.float32(0.5), "p", 0, 1, open_low=True) == 0.5
    with pytest.raises(ValueError, match=r"p must lie in \(0, 1\], got 0"):
        checks.in_range(0, "p", 0, 1, open_low=True)
    with pytest.raises(ValueError, match=r"p must lie in \[0, 1\), got 1"):
        checks.in_range(1, "p", 0, 1, open_high=True)
    with pytest.raises(ValueError, match=r"p must lie in \[0, inf\), got inf"):
        checks.in_range(np.inf, "p", 0)
    with pytest.raises(ValueError, match="p must lie in .*, got nan"):
        checks.in_range(np.nan, "p")
    for value in ("0.5", [0.5], None, True, 1j):
        with pytest.raises(TypeError, match="p must be one real number, got"):
            checks.in_range(value, "p")


def test_choice_suggests_the_closest() -> None:
    assert checks.choice("vca", "method", ["vca", "nfindr"]) == "vca"
    text = r"method must be one of 'vca', 'nfindr', got 'nfinder' \(did you mean 'nfindr'\?\)"
    with pytest.raises(ValueError, match=text):
        checks.choice("nfinder", "method", ["vca", "nfindr"])
    with pytest.raises(ValueError, match="got 7$"):
        checks.choice(7, "method", ["vca", "nfindr"])


SPECTRA = np.array([[0.1, 0.5], [0.2, -0.01], [0.3, 0.4]])


def test_as_endmembers_reads_arrays_and_named_dims() -> None:
    kept = SPECTRA.copy()
    for x in (
        SPECTRA,
        SPECTRA.astype(">f4"),
        SPECTRA.tolist(),
        xr.DataArray(SPECTRA, dims=("wavelength", "endmember")),
        xr.DataArray(SPECTRA.T, dims=("endmember", "wavelength")),
    ):
        matrix = as_endmembers(x, 3)
        assert matrix.dtype == np.float64
        np.testing.assert_allclose(matrix, SPECTRA, rtol=0, atol=2.0**-24)
    np.testing.assert_array_equal(SPECTRA, kept)


@pytest.mark.parametrize(
    ("x", "num_bands", "text"),
    [
        (SPECTRA[0], None, "endmembers must have 2 dimensions"),
        (SPECTRA[:, :1], None, "at least 2 columns, one per material"),
        (SPECTRA.T, None, "as many columns .materials. as rows .bands.*is it transposed"),
        (SPECTRA.T, 3, r"shape \(3, P\), got \(2, 3\): transpose it"),
        (SPECTRA, 4, r"shape \(4, P\), got \(3, 2\)$"),
        (SPECTRA * [1, 0], None, "zero spectra, got zeros in all bands of column 1: remove it"),
        (SPECTRA * [1, np.nan], None, "endmembers must be finite, got 3 NaN"),
        (SPECTRA * 1e4, None, "must be reflectances .*got a median of 2500"),
        (xr.DataArray(SPECTRA, dims=("band", "endmember")), None, "dims .*rename"),
    ],
)
def test_as_endmembers_refuses(x: object, num_bands: int | None, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        as_endmembers(x, num_bands)


def test_as_times_knows_every_spelling_of_a_date() -> None:
    expected = np.array(["2021-07-31T10:30"], dtype="datetime64[ns]")
    plain = datetime(2021, 7, 31, 10, 30)
    ahead = datetime(2021, 7, 31, 12, 30, tzinfo=timezone(timedelta(hours=2)))
    for time in (
        plain,
        [ahead],
        "2021-07-31T10:30",
        ["2021-07-31T10:30:00Z"],
        ["2021-07-31T12:30+02:00"],
        np.array(["2021-07-31T10:30"], dtype="datetime64[m]"),
        xr.DataArray(expected, dims="time"),
    ):
        times = as_times(time, 1)
        assert times.dtype == "datetime64[ns]"
        np.testing.assert_array_equal(times, expected)
    np.testing.assert_array_equal(
        as_times([date(2021, 1, 1), "2021-01-02"], 2),
        np.array(["2021-01-01", "2021-01-02"], dtype="datetime64[ns]"),
    )
    assert as_times([0, 2], 2).tolist() == [0, 2]
    assert as_times(1.5, 1).tolist() == [1.5]


@pytest.mark.parametrize(
    ("time", "error", "text"),
    [
        ([1, 2, 3], ValueError, r"one date per image, shape \(2,\), got \(3,\)"),
        ([1.0, np.nan], ValueError, "time must be finite"),
        (["2021-01-01", "spring"], ValueError, "ISO dates such as .*got 'spring'"),
        (np.array(["2021-01-01", "NaT"], dtype="M8[D]"), ValueError, "no missing dates, got NaT"),
        ([True, False], TypeError, "dates, ISO strings or numbers, got bool"),
        (["2021-01-01", None], TypeError, "dates, ISO strings or numbers, got None"),
        (
            np.array([1, 2], dtype="m8[D]"),
            TypeError,
            "dates, ISO strings or numbers, got timedelta",
        ),
    ],
)
def test_as_times_refuses(time: object, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        as_times(time, 2)


def test_as_wavelengths_takes_any_order() -> None:
    # EnMAP's detectors overlap: 993.1 nm is followed by 902.3 nm.
    assert as_wavelengths([900, 993.1, 902.3], 3).tolist() == [900.0, 993.1, 902.3]


@pytest.mark.parametrize(
    ("wavelength", "error", "text"),
    [
        ([400.0, 500.0, 600.0], ValueError, r"one number per band, shape \(2,\), got \(3,\)"),
        ([-400.0, 500.0], ValueError, "finite and positive"),
        ([np.nan, 500.0], ValueError, "finite and positive"),
        ([0.4, 2.5], ValueError, "in nm, but its largest value is 2.5, .*um: multiply by 1000"),
        (["B02", "B03"], TypeError, "numbers in nm, got <U3"),
        (
            xr.DataArray([400.0, 2500.0], dims="wavelength", attrs={"units": "um"}),
            ValueError,
            "in nm, got the units 'um'",
        ),
    ],
)
def test_as_wavelengths_refuses(wavelength: object, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        as_wavelengths(wavelength, 2)
