"""Scores of an unmixing against the truth, as the evaluation programs of the ReDSUNN paper compute
them.

Arrays have the dates first. DataArrays are put in the order (time, y, x, wavelength, endmember) by
the names of their dimensions, so that theirs may be any. Endmembers are compared by position: match
them first (`pyro_unmix.endmembers.match_endmembers`), or use `score`, which does. Whatever the
truth does not know (NaN) is left out; an estimate must be finite wherever the truth is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import zip_longest
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import xarray as xr

from pyro_unmix.endmembers import match_endmembers

__all__ = [
    "coverage",
    "nrmse_abundances",
    "nrmse_endmembers",
    "nrmse_reconstruction",
    "rmse_abundances",
    "sam_endmembers",
    "score",
]

Array = npt.NDArray[np.float64]
Dates = npt.ArrayLike | xr.DataArray | Iterable[npt.ArrayLike | xr.DataArray]

_DIMS = ("time", "y", "x", "wavelength", "endmember")


class _Estimate(Protocol):
    @property
    def abundances(self) -> xr.DataArray: ...

    def endmembers(self, time: int = ...) -> xr.DataArray: ...

    def reconstruct(self, time: int = ...) -> xr.DataArray: ...


class _Truth(Protocol):
    @property
    def cubes(self) -> xr.DataArray: ...

    @property
    def abundances(self) -> xr.DataArray: ...

    def endmembers(self, time: int = ...) -> xr.DataArray: ...


def nrmse_abundances(abundances: Dates, truth: Dates) -> float:
    """Normalised root mean square error of the abundances.

    ``NRMSE_A = sqrt(mean_t ||A_t - Ahat_t||_F^2 / ||A_t||_F^2)``, over the pixels whose true
    abundances are known.

    Parameters
    ----------
    abundances, truth : array (T, ..., P), DataArray, or iterable of T arrays (..., P)
        Estimated and true abundances.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If shapes differ, the truth is unknown or zero everywhere, or an estimate is NaN where the
        truth is known.
    """
    return _normalised_error(abundances, truth, "abundances", "endmember")


def nrmse_reconstruction(reconstruction: Dates, cubes: Dates) -> float:
    """Normalised root mean square error of the reconstructed images.

    ``NRMSE_Y = sqrt(mean_t ||Y_t - Yhat_t||_F^2 / ||Y_t||_F^2)``. A pixel with NaN in any band is
    missing at that date and left out.

    Parameters
    ----------
    reconstruction, cubes : array (T, ..., L), DataArray, or iterable of T arrays (..., L)
        Reconstructed and observed reflectance; a generator of dates keeps little in memory.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        As `nrmse_abundances`.
    """
    return _normalised_error(reconstruction, cubes, "reconstruction", "wavelength")


def rmse_abundances(abundances: Dates, truth: Dates) -> float:
    """Root mean square error of the abundances.

    ``RMSE_A = sqrt(mean_{t,n,p} (a_ntp - ahat_ntp)^2)``, over the pixels whose true abundances are
    known.

    Parameters
    ----------
    abundances, truth : array (T, ..., P), DataArray, or iterable of T arrays (..., P)
        Estimated and true abundances.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        As `nrmse_abundances`.
    """
    total, count = 0.0, 0
    for estimated, true in _pairs(abundances, truth, "abundances", ("endmember",)):
        total += float(np.sum((estimated - true) ** 2))
        count += true.size
    _require(count, "abundances")
    return math.sqrt(total / count)


def nrmse_endmembers(endmembers: Dates, truth: Dates) -> float:
    """Normalised root mean square error of the endmembers of every pixel and date.

    ``NRMSE_M = sqrt(mean_{n,t} ||M_nt - Mhat_nt||_F^2 / ||M_nt||_F^2)``.

    Parameters
    ----------
    endmembers, truth : array (T, ..., L, P), DataArray, or iterable of T arrays (..., L, P)
        Estimated and true endmembers, reflectance; a generator of dates keeps little in memory.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If shapes differ, the truth is unknown everywhere or zero somewhere, or an estimate is NaN
        where the truth is known.
    """
    return _endmember_scores(endmembers, truth)[0]


def sam_endmembers(endmembers: Dates, truth: Dates) -> float:
    """Mean spectral angle between estimated and true endmembers, in radians.

    ``SAM_M = mean_{n,t,p} arccos(m' mhat / (||m|| ||mhat||))``. An estimated spectrum of zeros has
    no direction and counts as a right angle.

    Parameters
    ----------
    endmembers, truth
        As for `nrmse_endmembers`.

    Returns
    -------
    float
        Radians, 0 to pi.

    Raises
    ------
    ValueError
        As `nrmse_endmembers`.
    """
    return _endmember_scores(endmembers, truth)[1]


def coverage(
    lower: npt.ArrayLike | xr.DataArray,
    upper: npt.ArrayLike | xr.DataArray,
    truth: npt.ArrayLike | xr.DataArray,
) -> float:
    """Share of the true values inside their intervals, bounds included.

    Compare it with the level of the intervals, for example 0.9 for the quantiles 0.05 and 0.95.

    Parameters
    ----------
    lower, upper, truth : arrays of one shape, or DataArrays
        Bounds and true values. True values that are NaN are left out.

    Returns
    -------
    float
        Between 0 and 1.

    Raises
    ------
    ValueError
        If shapes differ, no true value is known, a bound is NaN where the truth is known, or a
        lower bound exceeds its upper bound.
    """
    low, high, true = (
        _array(values, what, ())
        for values, what in ((lower, "lower"), (upper, "upper"), (truth, "truth"))
    )
    _same_shape(low, true, "lower")
    _same_shape(high, true, "upper")
    known = ~np.isnan(true)
    _require(int(np.count_nonzero(known)), "the intervals")
    low, high, true = low[known], high[known], true[known]
    if np.isnan(low).any() or np.isnan(high).any():
        raise ValueError(
            "lower and upper must be known wherever the truth is, got NaN: pass the quantiles of a "
            "method with a posterior"
        )
    if (low > high).any():
        raise ValueError(
            "lower must not exceed upper, got a lower bound above its upper bound: swap them"
        )
    return float(np.mean((low <= true) & (true <= high)))


def score(result: _Estimate, truth: _Truth) -> dict[str, float]:
    """All scores of a result against a known truth.

    The materials are matched first, by the permutation with the smallest spectral angles between
    the mean endmembers over pixels and dates of both. Endmembers and reconstructions are computed
    date by date.

    Parameters
    ----------
    result : Unmixing
        Or anything with ``abundances``, ``endmembers(time)`` and ``reconstruct(time)``.
    truth : Scene
        Or anything with ``cubes``, ``abundances`` and ``endmembers(time)``.

    Returns
    -------
    dict of str to float
        ``NRMSE_A``, ``RMSE_A``, ``NRMSE_M``, ``SAM_M`` (radians) and ``NRMSE_Y``.

    Raises
    ------
    ValueError
        If the two differ in size, or as in the functions for each score.
    """
    estimated = _array(result.abundances, "abundances", ("time", "endmember"))
    true = _array(truth.abundances, "truth", ("time", "endmember"))
    _same_shape(estimated, true, "abundances")
    times = range(len(true))

    order = match_endmembers(_mean_endmembers(result, times), _mean_endmembers(truth, times))
    matched = estimated[..., order]
    endmembers = (_date_of_endmembers(result, time)[..., order] for time in times)
    true_endmembers = (_date_of_endmembers(truth, time) for time in times)
    nrmse, angle = _endmember_scores(endmembers, true_endmembers)
    return {
        "NRMSE_A": nrmse_abundances(matched, true),
        "RMSE_A": rmse_abundances(matched, true),
        "NRMSE_M": nrmse,
        "SAM_M": angle,
        "NRMSE_Y": nrmse_reconstruction((result.reconstruct(time) for time in times), truth.cubes),
    }


def _date_of_endmembers(source: _Estimate | _Truth, time: int) -> Array:
    return _array(source.endmembers(time), "endmembers", ("wavelength", "endmember"))


def _mean_endmembers(source: _Estimate | _Truth, times: range) -> Array:
    """Mean (L, P) over the pixels and dates whose endmembers are known."""
    total: Array | float = 0.0
    count = 0
    for time in times:
        spectra = _date_of_endmembers(source, time)
        spectra = spectra.reshape(-1, *spectra.shape[-2:])
        spectra = spectra[~np.isnan(spectra).any(axis=(1, 2))]
        total = total + spectra.sum(axis=0)
        count += len(spectra)
    _require(count, "endmembers")
    return np.asarray(total) / count


def _normalised_error(estimate: Dates, truth: Dates, what: str, last: str) -> float:
    """Square root of the mean over dates of the squared error relative to the squared norm."""
    ratios = []
    for estimated, true in _pairs(estimate, truth, what, (last,)):
        if len(true) == 0:
            continue  # a date without a known pixel says nothing about the error
        norm = float(np.sum(true**2))
        if norm == 0:
            raise ValueError(
                f"the truth of {what} must not be zero, got zeros at a whole date: leave it out"
            )
        ratios.append(float(np.sum((estimated - true) ** 2)) / norm)
    _require(len(ratios), what)
    return math.sqrt(math.fsum(ratios) / len(ratios))


def _endmember_scores(endmembers: Dates, truth: Dates) -> tuple[float, float]:
    """NRMSE_M and SAM_M in one pass over the dates."""
    ratio, angle, num_pixels, num_spectra = 0.0, 0.0, 0, 0
    for estimated, true in _pairs(endmembers, truth, "endmembers", ("wavelength", "endmember")):
        norms = np.sqrt(np.sum(true**2, axis=1))  # (n, P)
        if (norms == 0).any():
            raise ValueError(
                "the truth of endmembers must not be zero, got a spectrum of zeros: set that pixel "
                "to NaN to leave it out"
            )
        squared_error = np.sum((estimated - true) ** 2, axis=(1, 2))
        ratio += float(np.sum(squared_error / np.sum(norms**2, axis=1)))
        angle += float(np.sum(_angles(estimated, true, norms)))
        num_pixels += len(true)
        num_spectra += norms.size
    _require(num_pixels, "endmembers")
    return math.sqrt(ratio / num_pixels), angle / num_spectra


def _angles(estimated: Array, true: Array, norms: Array) -> Array:
    """Spectral angles (n, P) of spectra (n, L, P).

    They are accurate near 0 too, where the arccosine of a rounded cosine is off by 1e-8.
    """
    estimated_norms = np.sqrt(np.sum(estimated**2, axis=1))
    unit = true / norms[:, None]
    # A zero spectrum stays zero, is as far from `unit` as from `-unit`, and so lies at a right
    # angle.
    other = estimated / np.where(estimated_norms > 0, estimated_norms, 1.0)[:, None]
    difference = np.sqrt(np.sum((unit - other) ** 2, axis=1))
    total = np.sqrt(np.sum((unit + other) ** 2, axis=1))
    return 2.0 * np.arctan2(difference, total)


# Reading what the user passes


def _pairs(
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
        _same_shape(estimated, true, what)
        known = ~np.isnan(true).any(axis=axes)
        estimated, true = estimated[known], true[known]
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
        array = _array(date, what, last)
        if array.ndim < len(last):
            raise ValueError(
                f"{what} must have dates of the shape (..., {', '.join(last)}), got {array.shape}: "
                "pass all dates"
            )
        yield array


def _array(values: Any, what: str, required: tuple[str, ...]) -> Array:
    """A float64 array; the dimensions of a DataArray are put in order by name."""
    if isinstance(values, xr.DataArray):
        values = _by_name(values, what, required).values
    try:
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


def _same_shape(estimated: Array, true: Array, what: str) -> None:
    if estimated.shape != true.shape:
        raise ValueError(
            f"{what} must have the shape of the truth, {true.shape}, got {estimated.shape}: pass "
            "both on the same pixels, bands and materials"
        )


def _require(count: int, what: str) -> None:
    if count == 0:
        raise ValueError(
            f"the truth of {what} must be known somewhere, got only NaN or no values at all"
        )
