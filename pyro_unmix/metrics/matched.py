"""All scores at once, after the materials have been matched."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from pyro_unmix.data.cube_input import with_our_dims
from pyro_unmix.data.types import HasAbundances, HasImages, HasSpectra, Truth
from pyro_unmix.metrics.reading import Array, as_array, require, same_shape
from pyro_unmix.metrics.scores import (
    endmember_scores,
    nrmse_abundances,
    nrmse_reconstruction,
    rmse_abundances,
)
from pyro_unmix.start.extraction import match_endmembers


def score(result: HasImages, truth: Truth | np.ndarray | xr.DataArray) -> dict[str, float]:
    """All scores of a result against a known truth.

    The materials are matched first, by the permutation with the smallest spectral angles between
    the mean endmembers over pixels and dates of both. Endmembers and reconstructions are computed
    date by date. Without endmembers (``result.has_endmembers`` is False) the permutation is that of
    the smallest error of the abundances, whose scores are the only ones; so it is where the truth is an array.

    Parameters
    ----------
    result : Unmixing
        Or anything with ``abundances``, ``endmembers(time)`` and ``reconstruct(time)``.
    truth : Scene, or array (T, ..., P)
        Or anything with ``cubes``, ``abundances`` and ``endmembers(time)``; or the true abundances alone, of one image
        also without its date; a DataArray may have the dims lat, lon and date. NaN or masked where unknown.

    Returns
    -------
    dict of str to float
        ``NRMSE_A``, ``RMSE_A`` and, with endmembers, ``NRMSE_M``, ``SAM_M`` (radians), ``NRMSE_Y``.

    Raises
    ------
    TypeError
        If the result is an array, or one of them anything else without these attributes.
    ValueError
        If the two differ in size, or as in the functions for each score.

    Examples
    --------
    >>> import numpy as np, pyro_unmix as pu
    >>> M = np.array([[.1, .5], [.2, .4], [.3, .3]])
    >>> truth = np.array([[[.25, .75], [1, 0]]])
    >>> result = pu.methods.fcls(truth @ M.T, endmembers=M[:, ::-1], progress=False)
    >>> {name: round(value, 3) for name, value in pu.metrics.score(result, truth).items()}
    {'NRMSE_A': 0.0, 'RMSE_A': 0.0}
    """
    if isinstance(truth, xr.DataArray):
        truth = with_our_dims(truth)
    if isinstance(truth, (np.ndarray, xr.DataArray)):
        return _score_abundances(result, truth)
    if isinstance(truth, xr.Dataset):
        raise TypeError(
            "truth must be a scene or true abundances, got a Dataset: pass truth['abundances']"
        )
    if isinstance(truth, (list, tuple)) or hasattr(type(truth), "__array__"):
        raise TypeError(
            f"truth must be a scene, or true abundances in an array of NumPy or a DataArray, got "
            f"{type(truth).__name__}: pass np.asarray(truth)"
        )
    _need(result, "result", ("abundances", "endmembers", "reconstruct"))
    _need(truth, "truth", ("abundances", "endmembers", "cubes"))
    estimated = as_array(result.abundances, "abundances", ("time", "endmember"))
    true = as_array(truth.abundances, "truth", ("time", "endmember"))
    same_shape(estimated, true, "abundances")
    times = range(len(true))

    if not getattr(result, "has_endmembers", True):
        return _matched_by_abundances(estimated, true)
    order = match_endmembers(_mean_endmembers(result, times), _mean_endmembers(truth, times))
    matched = estimated[..., order]
    endmembers = (_date_of_endmembers(result, time)[..., order] for time in times)
    true_endmembers = (_date_of_endmembers(truth, time) for time in times)
    nrmse, angle = endmember_scores(endmembers, true_endmembers)
    return {
        "NRMSE_A": nrmse_abundances(matched, true),
        "RMSE_A": rmse_abundances(matched, true),
        "NRMSE_M": nrmse,
        "SAM_M": angle,
        "NRMSE_Y": nrmse_reconstruction((result.reconstruct(time) for time in times), truth.cubes),
    }


def _score_abundances(result: HasAbundances, truth: Any) -> dict[str, float]:
    """The scores that true abundances alone allow."""
    _need(result, "result", ("abundances",))
    estimated = as_array(result.abundances, "abundances", ("time", "endmember"))
    last = ("endmember",) if isinstance(truth, xr.DataArray) else ()
    true = as_array(truth, "truth", last)
    if true.ndim == estimated.ndim - 1 and len(estimated) == 1:
        true = true[np.newaxis]
    same_shape(estimated, true, "abundances")
    return _matched_by_abundances(estimated, true)


def _matched_by_abundances(estimated: Array, true: Array) -> dict[str, float]:
    matched = estimated[..., _order_of_abundances(estimated, true)]
    return {
        "NRMSE_A": nrmse_abundances(matched, true),
        "RMSE_A": rmse_abundances(matched, true),
    }


def _order_of_abundances(estimated: Array, true: Array) -> Array:
    """Which estimated material goes with each true one, by the sum of their squared differences."""
    from scipy.optimize import linear_sum_assignment

    known = ~np.isnan(true).any(axis=-1)
    require(int(known.sum()), "abundances")
    differences = true[known][:, :, np.newaxis] - estimated[known][:, np.newaxis]
    order: Array = linear_sum_assignment((differences**2).sum(axis=0))[1]
    return order


def _need(source: object, name: str, attributes: tuple[str, ...]) -> None:
    lacking = [attribute for attribute in attributes if not hasattr(source, attribute)]
    if lacking:
        raise TypeError(
            f"{name} must have {', '.join(attributes)}, got {type(source).__name__} without "
            f"{', '.join(lacking)}: compare arrays with nrmse_abundances, nrmse_endmembers, "
            "nrmse_reconstruction"
        )


def _date_of_endmembers(source: HasSpectra, time: int) -> Array:
    return as_array(source.endmembers(time), "endmembers", ("wavelength", "endmember"))


def _mean_endmembers(source: HasSpectra, times: range) -> Array:
    """Mean (L, P) over the pixels and dates whose endmembers are known."""
    total: Array | float = 0.0
    count = 0
    for time in times:
        spectra = _date_of_endmembers(source, time)
        spectra = spectra.reshape(-1, *spectra.shape[-2:])
        spectra = spectra[~np.isnan(spectra).any(axis=(1, 2))]
        total = total + spectra.sum(axis=0)
        count += len(spectra)
    require(count, "endmembers")
    return np.asarray(total) / count
