"""Checks of the field's quantities: endmembers, dates, wavelengths, reflectance."""

from __future__ import annotations

from datetime import date, datetime, timezone

import numpy as np
import numpy.typing as npt
import xarray as xr

from pyro_unmix.data.types import DatesLike
from pyro_unmix.ops.checks import finite_array
from pyro_unmix.ops.engine_lock import lent

# Reflectance of real surfaces lies in [0, 1], with some overshoot by noise and specular glint; a
# median above this is a matter of units.
MAX_MEDIAN_REFLECTANCE = 2.0


# Fill values in use (-9999, -32768, 65535, 1e20, ...) are all far outside, reflectances far inside.
_MAX_MAGNITUDE = 100.0

# A hundredth of what the darkest water reflects; squares of still smaller numbers have no inverse at last.
_FAINTEST = 1e-6

# Noise and corrections of the atmosphere leave bands without light a little below zero, whole bands at a flag of -0.01.
_DEEPEST_SHADE = -0.05


_NM = {"nm", "nanometer", "nanometers", "nanometre", "nanometres"}


def as_endmembers(
    x: npt.ArrayLike | xr.DataArray,
    num_bands: int | None = None,
    *,
    name: str = "endmembers",
) -> np.ndarray:
    """Return a matrix of endmember spectra as float64 (L, P).

    Parameters
    ----------
    x : array_like (L, P), or DataArray with dims wavelength and endmember in any order
        Reflectance of P >= 2 materials in L >= P bands. Small negative values are legal.
    num_bands : int, optional
        The L that the data have.
    name : str
        What the caller's user knows it as.

    Returns
    -------
    numpy.ndarray
        (L, P), float64. It may share memory with `x`: it is for reading.

    Raises
    ------
    TypeError
        If the elements are not real numbers.
    ValueError
        If rank, dims or sizes are wrong, a value is not finite, a spectrum is zero everywhere, or
        the spectra are not in units of reflectance.
    """
    if isinstance(x, xr.DataArray):
        if set(x.dims) != {"wavelength", "endmember"} or x.ndim != 2:
            raise ValueError(
                f"{name} must have the dims ('wavelength', 'endmember'), got {x.dims}: rename or "
                "select, for example x.rename(band='wavelength')"
            )
        if "label" not in x.coords:  # the classes of a library count, not the names of its spectra
            check_names(x, name)
        with lent():
            x = x.transpose("wavelength", "endmember").to_numpy()
    matrix = finite_array(x, name, ndim=2)
    _check_endmember_sizes(matrix, num_bands, name)
    zero = np.flatnonzero(~matrix.any(axis=0))
    if zero.size:
        raise ValueError(
            f"{name} must not hold zero spectra, got zeros in all bands of column "
            f"{', '.join(map(str, zero))}: remove it"
        )
    median = float(np.median(matrix))
    if median > MAX_MEDIAN_REFLECTANCE:
        raise ValueError(
            f"{name} must be reflectances (about 0 to 1), got a median of {median:g}: divide by "
            "the scale of the data"
        )
    if np.abs(matrix).max() < _FAINTEST:
        raise ValueError(
            f"{name} must be reflectances (about 0 to 1), got none beyond {np.abs(matrix).max():g}: multiply by the "
            "scale of the data"
        )
    # torch takes no array that runs backwards, such as endmembers[:, ::-1].
    return matrix.copy() if min(matrix.strides) < 0 else matrix


def can_be_written(text: str) -> bool:
    """Whether files can hold a name: it is not empty, and has no null characters and none that UTF-8 does not have.

    Python makes such ones, halves of characters, of file names in other encodings.
    """
    halves = any("\ud800" <= character <= "\udfff" for character in text)
    return bool(text.strip()) and "\0" not in text and not halves


def check_names(x: xr.DataArray, name: str) -> None:
    """Raise ValueError unless the materials of a DataArray, where they have names, can be told apart by them."""
    if "endmember" not in x.coords:
        return
    labels = x["endmember"].to_numpy().tolist()
    rename = f"rename with {name}.assign_coords(endmember=[...])"
    for label in labels:
        if isinstance(label, str) and not can_be_written(label):
            raise ValueError(
                f"the names of {name} must be texts of UTF-8 without null characters, and not empty, got "
                f"{label!r}: {rename}"
            )
    again = [label for position, label in enumerate(labels) if label in labels[:position]]
    if again:
        raise ValueError(
            f"the names of {name} must differ, got {again[0]!r} more than once: {rename}"
        )


def _check_endmember_sizes(matrix: np.ndarray, num_bands: int | None, name: str) -> None:
    bands, materials = matrix.shape
    if num_bands is not None and bands != num_bands:
        hint = ": transpose it" if materials == num_bands else ""
        raise ValueError(
            f"{name} must have one row per band, shape ({num_bands}, P), got {matrix.shape}{hint}"
        )
    if materials < 2:
        raise ValueError(
            f"{name} must have at least 2 columns, one per material, got shape {matrix.shape}"
        )
    if materials > bands:
        raise ValueError(
            f"{name} must have at most as many columns (materials) as rows (bands), got shape "
            f"{matrix.shape}: is it transposed?"
        )


def as_times(time: DatesLike | None, num_dates: int) -> np.ndarray:
    """Return dates as datetime64[ns] or finite numbers, (T,).

    Parameters
    ----------
    time : array_like (T,), or one date
        datetime64, datetime (naive: UTC), ISO strings, or numbers.
    num_dates : int
        The T that the data have.

    Raises
    ------
    TypeError
        If an element is no date and no number.
    ValueError
        If the size is wrong, a string is no ISO date, or a value is missing.
    """
    array = np.atleast_1d(np.asarray(time))
    if array.shape != (num_dates,):
        raise ValueError(
            f"time must hold one date per image, shape ({num_dates},), got {array.shape}"
        )
    if array.dtype.kind in "MUOT":
        array = np.array([_as_instant(value) for value in array], dtype="datetime64[ns]")
        if np.isnat(array).any():
            raise ValueError("time must hold no missing dates, got NaT")
    elif array.dtype.kind not in "iuf":
        raise TypeError(f"time must hold dates, ISO strings or numbers, got {array.dtype}")
    elif not np.isfinite(array).all():
        raise ValueError("time must be finite, got NaN or infinite values")
    return array


def _as_instant(value: object) -> np.datetime64:
    if isinstance(value, np.datetime64):
        return value.astype("datetime64[ns]")
    if isinstance(value, str):
        value = str(value)  # of numpy.str_, whose repr would only confuse
        try:
            # Python 3.10 does not know the suffix Z.
            value = datetime.fromisoformat(value.strip().replace("Z", "+00:00"))
        except ValueError:
            raise ValueError(
                f"time must hold ISO dates such as '2021-07-31' or '2021-07-31T10:30', got "
                f"{value!r}"
            ) from None
    if isinstance(value, datetime) and value.tzinfo is not None:
        value = value.astimezone(timezone.utc).replace(tzinfo=None)
    if isinstance(value, date):
        return np.datetime64(value, "ns")
    raise TypeError(
        f"time must hold dates, ISO strings or numbers, got {value!r} ({type(value).__name__})"
    )


def as_wavelengths(wavelength: npt.ArrayLike | xr.DataArray, num_bands: int) -> np.ndarray:
    """Return band centres in nm, (L,), float64, in any order.

    Parameters
    ----------
    wavelength : array_like or DataArray (L,)
        In nm; a DataArray whose attribute `units` says otherwise is refused.
    num_bands : int
        The L that the data have.

    Raises
    ------
    TypeError
        If the elements are not real numbers.
    ValueError
        If the size is wrong, a value is not finite and positive, or the unit is not nm.
    """
    units = wavelength.attrs.get("units") if isinstance(wavelength, xr.DataArray) else None
    if units is not None and str(units).strip().lower() not in _NM:
        raise ValueError(f"wavelength must be in nm, got the units {units!r}: convert it")
    array = np.asarray(wavelength)
    if array.dtype.kind not in "iuf":
        raise TypeError(
            f"wavelength must hold numbers in nm, got {array.dtype}: keep band names in another "
            "coordinate"
        )
    if array.shape != (num_bands,):
        raise ValueError(
            f"wavelength must hold one number per band, shape ({num_bands},), got {array.shape}"
        )
    array = array.astype(np.float64)
    if not (np.isfinite(array).all() and (array > 0).all()):
        raise ValueError("wavelength must be finite and positive, got NaN, infinite or <= 0")
    if array.max() < 100:
        raise ValueError(
            f"wavelength must be in nm, but its largest value is {array.max():g}, which looks "
            "like um: multiply by 1000"
        )
    if array.size > 1 and array.min() == array.max():
        raise ValueError(
            f"wavelength must differ between bands, got {array[0]:g} nm for all {array.size}: leave "
            "it out if it is not known"
        )
    return array


def plausible_reflectance(values: np.ndarray, *, whole_scene: bool = True) -> None:
    """Raise ValueError unless (T, H, W, L) holds plausible reflectances; one date at a time.

    A part of a scene may lie in the shade, where all values can be negative.
    """
    observed: int = 0
    large: int = 0
    any_valid = False
    low, high = np.inf, -np.inf
    for t, image in enumerate(values):
        # min and max are NaN where one is; fmin and fmax ignore it, without a copy of the data.
        least, most = image.min(), image.max()
        if whole := not np.isnan(least):
            any_valid = True
        else:
            least, most = np.fmin.reduce(image, axis=None), np.fmax.reduce(image, axis=None)
        if np.isinf([least, most]).any():
            where = np.argwhere(np.isinf(image))
            y, x, band = where[0]
            raise ValueError(
                f"reflectance must not be infinite, got {len(where)} infinities at time position "
                f"{t}, first at y {y}, x {x}, band {band}: mark missing values as NaN"
            )
        low, high = np.fmin(low, least), np.fmax(high, most)
        observed += image.size
        if most > MAX_MEDIAN_REFLECTANCE:
            large += int(np.count_nonzero(image > MAX_MEDIAN_REFLECTANCE))
        if not whole:
            missing = np.isnan(image)
            observed -= int(np.count_nonzero(missing))
            any_valid = any_valid or not missing.any(axis=-1).all()
    if not any_valid:
        raise ValueError(
            "a cube sequence must have a valid pixel, but each pixel has NaN in some band at each "
            "date: drop the bands that are missing everywhere"
        )
    if 2 * large > observed:
        raise ValueError(
            f"reflectance must be about 0 to 1, got a median of {np.nanmedian(values):g}, above "
            f"{MAX_MEDIAN_REFLECTANCE:g}: divide by the scale of the product, for example 10000"
        )
    if high < 0 and low < _DEEPEST_SHADE and whole_scene:
        raise ValueError(
            f"reflectance must be about 0 to 1, got no positive value ({low:g} to {high:g}): scale, "
            "offset or sign are wrong, or nodata is not marked as NaN"
        )
    if 0 < max(-low, high) < _FAINTEST and whole_scene:
        raise ValueError(
            f"reflectance must be about 0 to 1, got no value beyond {max(-low, high):g}: multiply by the scale of the "
            "product, or look for an offset and a scale that were applied twice"
        )
    if max(-low, high) > _MAX_MAGNITUDE:
        odd = low if -low > high else high
        raise ValueError(
            f"reflectance must be about 0 to 1, got the value {odd:g}, which looks like a fill "
            "value: mark missing values as NaN, for example with x.where(abs(x) < 100)"
        )
