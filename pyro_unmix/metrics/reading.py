"""Estimates and truths as arrays, date by date, at the pixels where the truth is known."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import zip_longest
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

Array = npt.NDArray[np.float64]

Dates = npt.ArrayLike | xr.DataArray | Iterable[npt.ArrayLike | xr.DataArray]
_DIMS = ("time", "y", "x", "wavelength", "endmember")


def pairs(
    estimate: Dates, truth: Dates, what: str, last: tuple[str, ...]
) -> Iterator[tuple[Array, Array]]:
    """Estimate and truth of each date, (n, *last), at the pixels where the truth is known."""
    axes = tuple(range(-len(last), 0))
    dates = zip_longest(
        _dates(estimate, what, last), _dates(truth, f"truth of {what}", last), fillvalue=None
    )
    for position, (estimated, true) in enumerate(dates):
        if estimated is None or true is None:
            more, less = (what, "the truth") if true is None else ("the truth", what)
            raise ValueError(
                f"{what} must have the dates of the truth, got more dates in {more}: {less} ends "
                f"after {position}"
            )
        same_shape(estimated, true, what)
        there = ~np.isnan(true).any(axis=axes)
        estimated, true = estimated[there], true[there]
        if not np.isfinite(true).all():
            raise ValueError(
                f"the truth of {what} must be finite, or NaN where unknown, got infinity: set it "
                "to NaN"
            )
        if not np.isfinite(estimated).all():
            raise ValueError(
                f"{what} must be finite wherever the truth is known, got NaN or infinity at date "
                f"{position}: set the truth to NaN where the comparison shall leave it out"
            )
        yield estimated, true


def _dates(values: Any, what: str, last: tuple[str, ...]) -> Iterator[Array]:
    """One float64 array (..., *last) per date, of an array or of an iterable of dates."""
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise TypeError(
            f"{what} must be an array with the dates first or an iterable of arrays, one per date, "
            f"got {type(values).__name__}"
        )
    if isinstance(values, xr.DataArray):
        values = _by_name(values, what, ("time", *last))
    if hasattr(values, "ndim") and values.ndim < 1 + len(last):
        raise ValueError(
            f"{what} must have the shape (time, ..., {', '.join(last)}), got {tuple(values.shape)}"
        )
    for date in values:
        if isinstance(date, xr.DataArray) and "time" in date.dims:
            raise ValueError(
                f"{what} must hold one date per item, got an item with the dim 'time': pass the "
                "array itself"
            )
        array = as_array(date, what, last)
        if array.ndim < len(last):
            raise ValueError(
                f"{what} must have dates of the shape (..., {', '.join(last)}), got {array.shape}: "
                "pass all dates"
            )
        yield array


def as_array(values: Any, what: str, required: tuple[str, ...]) -> Array:
    """A float64 array, masked values as NaN; the dimensions of a DataArray are put in order by name."""
    if isinstance(values, xr.DataArray):
        values = _by_name(values, what, required).values
    try:
        if isinstance(values, np.ma.MaskedArray):
            return np.asarray(np.ma.filled(values.astype(np.float64), np.nan))
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{what} must be a regular array of numbers, got {type(values).__name__}"
        ) from error


def _by_name(values: xr.DataArray, what: str, required: tuple[str, ...]) -> xr.DataArray:
    unknown = [dim for dim in values.dims if dim not in _DIMS]
    missing = [dim for dim in required if dim not in values.dims]
    if unknown or missing:
        needed = f", and among them {required}" if required else ""
        raise ValueError(
            f"{what} must have dims from {_DIMS}{needed}, got {values.dims}: rename or select, for "
            "example x.rename(band='wavelength')"
        )
    return values.transpose(*(dim for dim in _DIMS if dim in values.dims))


def same_shape(estimated: Array, true: Array, what: str) -> None:
    if estimated.shape != true.shape:
        raise ValueError(
            f"{what} must have the shape of the truth, {true.shape}, got {estimated.shape}: pass "
            "both on the same pixels, bands and materials"
        )


def require(count: int, what: str) -> None:
    if count == 0:
        raise ValueError(
            f"the truth of {what} must be known somewhere, got only NaN or no values at all"
        )
