"""Fully constrained least squares, date by date: what every other method is compared with."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike
from tqdm.auto import tqdm

from pyro_unmix.data.cubes import as_cube_sequence, to_pixels
from pyro_unmix.methods.classical import fcls_of_date, given_spectra, is_count, names_of, to_result
from pyro_unmix.ops.checks import positive_int
from pyro_unmix.ops.threads import one_thread
from pyro_unmix.posterior.result import Unmixing
from pyro_unmix.start.extraction import match_endmembers, vca


@one_thread()
def fcls(
    cubes: Any,
    endmembers: int | ArrayLike | xr.DataArray,
    *,
    seed: int = 0,
    progress: bool = True,
) -> Unmixing:
    """Abundances of every pixel-date by fully constrained least squares.

    ``min_a ||y - M a||^2`` subject to ``a >= 0`` and ``1'a = 1``. A number of endmembers P is the
    baseline of the ReDSUNN paper: VCA finds M anew at every date, and the materials are put in the
    order of the first date by the smallest spectral angles.

    Parameters
    ----------
    cubes
        Anything that `as_cube_sequence` takes, reflectance.
    endmembers : array (L, P), DataArray (wavelength, endmember), or int
        The same spectra for all dates, or P, at least 2.
    seed : int
        Of VCA.
    progress : bool
        Show a bar over the dates.

    Returns
    -------
    Unmixing
        Without posterior. A missing pixel-date stays missing: its abundances are NaN. Endmembers
        that VCA found are `endmembers(time)`; `reference_endmembers` is their mean over the dates.
        A date with fewer observed spectra than P has no VCA endmembers: all of it is NaN.

    Raises
    ------
    TypeError
        If the endmembers are neither spectra nor an integer, or the seed is none.
    ValueError
        If the cubes, the endmembers or the seed are not as described, or no date has P observed
        spectra.

    References
    ----------
    Heinz, Chang, IEEE TGRS 39(3), 2001; Nascimento, Bioucas-Dias, IEEE TGRS 43(4), 2005 (VCA).
    """
    seed = positive_int(seed, "seed", minimum=0)
    sequence = as_cube_sequence(cubes)
    pixels, valid = to_pixels(sequence)
    counted = is_count(endmembers)
    if counted:
        count = positive_int(endmembers, "endmembers", minimum=2)
        by_date = _vca_by_date(pixels, valid, count, seed)
        found = np.isfinite(by_date).all(axis=(1, 2))
        reference = by_date[found].mean(axis=0)
        names = np.arange(count)
    else:
        reference = given_spectra(endmembers, sequence.sizes["wavelength"])
        by_date = np.broadcast_to(reference, (valid.shape[1], *reference.shape))
        names = names_of(endmembers, reference.shape[1])

    abundances = np.full((*valid.shape, reference.shape[1]), np.nan)
    for date in tqdm(range(len(by_date)), disable=not progress, desc="fcls", unit="date"):
        if np.isfinite(by_date[date]).all():
            abundances[:, date] = fcls_of_date(pixels[:, date], valid[:, date], by_date[date])
    spectra = by_date if counted else None
    return to_result(sequence, abundances, reference, names, spectra, seed=seed, method="fcls")


def _vca_by_date(pixels: np.ndarray, valid: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Endmembers (T, L, P) of each date in the order of the first; NaN where a date has too few."""
    num_dates, num_bands = pixels.shape[1:]
    by_date = np.full((num_dates, num_bands, count), np.nan)
    usable = np.flatnonzero(valid.sum(axis=0) >= count)
    if not usable.size:
        raise ValueError(
            f"VCA of {count} endmembers needs a date with {count} observed pixels, got at most "
            f"{valid.sum(axis=0).max()}: pass the spectra of the endmembers, or a smaller number"
        )
    for date in usable:
        found = vca(pixels[valid[:, date], date], count, seed=seed)
        if date != usable[0]:
            found = found[:, match_endmembers(found, by_date[usable[0]])]
        by_date[date] = found
    return by_date
