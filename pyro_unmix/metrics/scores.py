"""The single scores; endmembers are compared by position."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import xarray as xr

from pyro_unmix.metrics.reading import Array, Dates, as_array, pairs, require, same_shape


def nrmse_abundances(abundances: Dates, truth: Dates) -> float:
    """Normalised root mean square error of the abundances.

    ``NRMSE_A = sqrt(mean_t ||A_t - Ahat_t||_F^2 / ||A_t||_F^2)``, over the pixels whose true abundances are known.

    Parameters
    ----------
    abundances, truth : array (T, ..., P), DataArray, or iterable of T arrays (..., P)
        Estimated and true abundances.

    Raises
    ------
    ValueError
        If shapes differ, the truth is unknown or zero everywhere, or an estimate is NaN where the truth is known.

    Examples
    --------
    >>> import numpy as np, pyro_unmix as pu
    >>> truth = np.array([[[.5, .5], [1, 0]]])  # (T, N, P)
    >>> estimate = np.array([[[.4, .6], [1, 0]]])
    >>> round(pu.metrics.nrmse_abundances(estimate, truth), 4)
    0.1155
    """
    return _normalised_error(abundances, truth, "abundances", "endmember")


def nrmse_reconstruction(reconstruction: Dates, cubes: Dates) -> float:
    """Normalised root mean square error of the reconstructed images.

    ``NRMSE_Y = sqrt(mean_t ||Y_t - Yhat_t||_F^2 / ||Y_t||_F^2)``. A pixel with NaN in any band is
    missing at that date and left out. Errors are those of `nrmse_abundances`.

    Parameters
    ----------
    reconstruction, cubes : array (T, ..., L), DataArray, or iterable of T arrays (..., L)
        Reconstructed and observed reflectance; a generator of dates keeps little in memory.

    Examples
    --------
    >>> import numpy as np, pyro_unmix as pu
    >>> images = np.full((1, 4, 3), .2)
    >>> round(pu.metrics.nrmse_reconstruction(images + .01, images), 4)
    0.05
    """
    return _normalised_error(reconstruction, cubes, "reconstruction", "wavelength")


def rmse_abundances(abundances: Dates, truth: Dates) -> float:
    """Root mean square error of the abundances.

    ``RMSE_A = sqrt(mean_{t,n,p} (a_ntp - ahat_ntp)^2)``, over the pixels whose true abundances are known.

    Parameters and errors are those of `nrmse_abundances`.

    Examples
    --------
    >>> import numpy as np, pyro_unmix as pu
    >>> truth = np.array([[[.5, .5], [1, 0]]])  # (T, N, P)
    >>> estimate = np.array([[[.4, .6], [1, 0]]])
    >>> round(pu.metrics.rmse_abundances(estimate, truth), 4)
    0.0707
    """
    total, count = 0.0, 0
    for estimated, true in pairs(abundances, truth, "abundances", ("endmember",)):
        total += float(np.sum((estimated - true) ** 2))
        count += true.size
    require(count, "abundances")
    return math.sqrt(total / count)


def nrmse_endmembers(endmembers: Dates, truth: Dates) -> float:
    """Normalised root mean square error of the endmembers of every pixel and date.

    ``NRMSE_M = sqrt(mean_{n,t} ||M_nt - Mhat_nt||_F^2 / ||M_nt||_F^2)``.

    Parameters
    ----------
    endmembers, truth : array (T, ..., L, P), DataArray, or iterable of T arrays (..., L, P)
        Estimated and true endmembers, reflectance; a generator of dates keeps little in memory.

    Raises
    ------
    ValueError
        If shapes differ, the truth is unknown everywhere or zero somewhere, or an estimate is NaN
        where the truth is known.

    Examples
    --------
    >>> import numpy as np, pyro_unmix as pu
    >>> M = np.array([[.1, .5], [.2, .4], [.3, .3]])  # (L, P)
    >>> truth = np.broadcast_to(M, (1, 5, 3, 2))  # (T, N, L, P)
    >>> round(pu.metrics.nrmse_endmembers(1.1 * truth, truth), 4)
    0.1
    """
    return endmember_scores(endmembers, truth)[0]


def sam_endmembers(endmembers: Dates, truth: Dates) -> float:
    """Mean spectral angle between estimated and true endmembers, in radians.

    ``SAM_M = mean_{n,t,p} arccos(m' mhat / (||m|| ||mhat||))``. An estimated spectrum of zeros has
    no direction and counts as a right angle.

    Parameters and errors are those of `nrmse_endmembers`.

    Examples
    --------
    >>> import numpy as np, pyro_unmix as pu
    >>> M = np.array([[.1, .5], [.2, .4], [.3, .3]])  # (L, P)
    >>> truth = np.broadcast_to(M, (1, 5, 3, 2))
    >>> round(pu.metrics.sam_endmembers(truth[..., ::-1], truth), 3)  # radians
    0.589
    """
    return endmember_scores(endmembers, truth)[1]


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

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> pu.metrics.coverage([.1, .2, .3], [.3, .4, .5], truth=[.2, .2, .9])
    0.6666666666666666
    """
    low, high, true = (
        as_array(values, what, ())
        for values, what in ((lower, "lower"), (upper, "upper"), (truth, "truth"))
    )
    same_shape(low, true, "lower")
    same_shape(high, true, "upper")
    there = ~np.isnan(true)
    require(int(np.count_nonzero(there)), "the intervals")
    low, high, true = low[there], high[there], true[there]
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


def _normalised_error(estimate: Dates, truth: Dates, what: str, last: str) -> float:
    """Square root of the mean over dates of the squared error relative to the squared norm."""
    ratios = []
    for estimated, true in pairs(estimate, truth, what, (last,)):
        if len(true) == 0:
            continue  # a date without a known pixel says nothing about the error
        norm = float(np.sum(true**2))
        if norm == 0:
            raise ValueError(
                f"the truth of {what} must not be zero, got zeros at a whole date: leave it out"
            )
        ratios.append(float(np.sum((estimated - true) ** 2)) / norm)
    require(len(ratios), what)
    return math.sqrt(math.fsum(ratios) / len(ratios))


def endmember_scores(endmembers: Dates, truth: Dates) -> tuple[float, float]:
    """NRMSE_M and SAM_M in one pass over the dates."""
    ratio, angle, num_pixels, num_spectra = 0.0, 0.0, 0, 0
    for estimated, true in pairs(endmembers, truth, "endmembers", ("wavelength", "endmember")):
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
    require(num_pixels, "endmembers")
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
    angles: Array = 2.0 * np.arctan2(difference, total)
    return angles
