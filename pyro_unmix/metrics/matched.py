"""All scores at once, after the materials have been matched."""

from __future__ import annotations

import numpy as np

from pyro_unmix.data.types import HasImages, HasSpectra, Truth
from pyro_unmix.metrics.reading import Array, as_array, require, same_shape
from pyro_unmix.metrics.scores import (
    endmember_scores,
    nrmse_abundances,
    nrmse_reconstruction,
    rmse_abundances,
)
from pyro_unmix.start.extraction import match_endmembers


def score(result: HasImages, truth: Truth) -> dict[str, float]:
    """All scores of a result against a known truth.

    The materials are matched first, by the permutation with the smallest spectral angles between the mean endmembers
    over pixels and dates of both. Endmembers and reconstructions are computed date by date.

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
    estimated = as_array(result.abundances, "abundances", ("time", "endmember"))
    true = as_array(truth.abundances, "truth", ("time", "endmember"))
    same_shape(estimated, true, "abundances")
    times = range(len(true))

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
