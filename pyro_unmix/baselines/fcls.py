"""Fully constrained least squares, date by date: what every other method is compared with."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike
from tqdm.auto import tqdm

from pyro_unmix._check import as_endmembers, positive_int
from pyro_unmix.cubes import as_cube_sequence, from_pixels, to_pixels
from pyro_unmix.endmembers import match_endmembers, vca
from pyro_unmix.posterior import describe
from pyro_unmix.result import Unmixing
from pyro_unmix.solvers import fcls as solve_fcls

_CHUNK = 50_000


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
    ValueError
        If the cubes or the endmembers are not as described, or no date has P observed spectra.

    References
    ----------
    Heinz, Chang, IEEE TGRS 39(3), 2001; Nascimento, Bioucas-Dias, IEEE TGRS 43(4), 2005 (VCA).
    """
    sequence = as_cube_sequence(cubes)
    pixels, valid = to_pixels(sequence)
    if _is_count(endmembers):
        count = positive_int(endmembers, "endmembers", minimum=2)
        by_date = _vca_by_date(pixels, valid, count, seed)
        found = np.isfinite(by_date).all(axis=(1, 2))
        reference = by_date[found].mean(axis=0)
        names = np.arange(count)
    else:
        reference = as_endmembers(endmembers, sequence.sizes["wavelength"])
        by_date = np.broadcast_to(reference, (valid.shape[1], *reference.shape))
        names = _names(endmembers, reference.shape[1])

    abundances = np.full((*valid.shape, reference.shape[1]), np.nan)
    for date in tqdm(range(len(by_date)), disable=not progress, desc="fcls", unit="date"):
        if np.isfinite(by_date[date]).all():
            seen = valid[:, date]
            abundances[seen, date] = _solve(pixels[seen, date], by_date[date])

    dataset = _dataset(sequence, abundances, reference, names)
    if _is_count(endmembers):
        attributes = {"long_name": "endmember reflectance of each date", "units": "1"}
        dataset["date_endmembers"] = (("time", "wavelength", "endmember"), by_date, attributes)
    return Unmixing(describe(dataset), cubes=sequence, seed=seed, method="fcls")


def _is_count(endmembers: Any) -> bool:
    return isinstance(endmembers, Integral) and not isinstance(endmembers, bool)


def _vca_by_date(pixels: np.ndarray, valid: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Endmembers (T, L, P) of each date in the order of the first; NaN where a date has too few."""
    num_dates, num_bands = pixels.shape[1:]
    by_date = np.full((num_dates, num_bands, count), np.nan)
    seen = valid & pixels.any(axis=2)  # zero spectra are fill, not darkness
    usable = np.flatnonzero(seen.sum(axis=0) >= count)
    if not usable.size:
        raise ValueError(
            f"VCA of {count} endmembers needs a date with {count} observed pixels, got at most "
            f"{seen.sum(axis=0).max()}: pass the spectra of the endmembers, or a smaller number"
        )
    for date in usable:
        found = vca(pixels[seen[:, date], date], count, seed=seed)
        if date != usable[0]:
            found = found[:, match_endmembers(found, by_date[usable[0]])]
        by_date[date] = found
    return by_date


def _names(endmembers: Any, count: int) -> np.ndarray:
    coords = getattr(endmembers, "coords", {})
    return coords["endmember"].values if "endmember" in coords else np.arange(count)


def _solve(spectra: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Abundances (N, P) of spectra (N, L), in double precision and in chunks."""
    endmembers = torch.tensor(matrix, dtype=torch.float64)
    starts = range(0, len(spectra), _CHUNK)
    parts = [spectra[start : start + _CHUNK].astype(np.float64) for start in starts]
    solved = [solve_fcls(torch.from_numpy(part), endmembers).numpy() for part in parts]
    return np.concatenate(solved) if solved else np.empty((0, matrix.shape[1]))


def _dataset(
    cubes: xr.DataArray, abundances: np.ndarray, reference: np.ndarray, names: np.ndarray
) -> xr.Dataset:
    maps = from_pixels(abundances, cubes, {"endmember": names}, name="abundances")
    wavelength = {"wavelength": cubes["wavelength"]} if "wavelength" in cubes.coords else {}
    return xr.Dataset(
        {
            "abundances": maps,
            "valid": maps.notnull().all("endmember"),
            "reference_endmembers": (("wavelength", "endmember"), reference),
        },
        coords=wavelength,
    )
