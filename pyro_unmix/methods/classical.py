"""What the classical methods share: their input, FCLS of many spectra, and their result."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike

from pyro_unmix.data.bands import Ignore
from pyro_unmix.data.checks import as_endmembers
from pyro_unmix.data.cubes import as_cube_sequence, from_pixels, to_pixels
from pyro_unmix.data.types import ImagesLike
from pyro_unmix.methods.arguments import counted_bands, materials
from pyro_unmix.ops.checks import positive_int
from pyro_unmix.ops.solvers import fcls as solve_fcls
from pyro_unmix.posterior.read_out import describe
from pyro_unmix.posterior.result import Unmixing

_CHUNK = 50_000


@dataclass(frozen=True, eq=False)
class Input:
    """A checked cube sequence as pixels, and the endmembers that a method starts from.

    Attributes
    ----------
    cubes : DataArray (time, y, x, wavelength)
    pixels : array (N, T, L)
        In the precision of the cubes, 0 where missing.
    valid : array (N, T), bool
    reference : array (L, P), float64
    names : array (P,)
    spectra : array or DataArray
        Where `reference` comes from.
    """

    cubes: xr.DataArray
    pixels: np.ndarray
    valid: np.ndarray
    reference: np.ndarray
    names: np.ndarray
    spectra: Any


def read_input(
    cubes: ImagesLike,
    num_endmembers: int | None,
    endmembers: ArrayLike | None,
    seed: int,
    ignore: Ignore = None,
) -> Input:
    """Check the input of a method whose endmembers start alike at all dates."""
    seed = positive_int(seed, "seed", minimum=0)
    cubes, endmembers = counted_bands(cubes, endmembers, ignore)
    sequence = as_cube_sequence(cubes)
    spectra, count = materials(sequence, num_endmembers, endmembers, seed, minimum=2)
    reference = as_endmembers(spectra, sequence.sizes["wavelength"])
    return Input(sequence, *to_pixels(sequence), reference, names_of(spectra, count), spectra)


def names_of(endmembers: ArrayLike | None, count: int) -> np.ndarray:
    """The labels of the materials: those of a DataArray, else 0, 1, ..."""
    coords = getattr(endmembers, "coords", {})
    return coords["endmember"].values if "endmember" in coords else np.arange(count)


def chunks(spectra: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Parts of spectra (N, L) in double precision, so that no copy of all of them is needed."""
    for start in range(0, len(spectra), _CHUNK):
        part = slice(start, start + _CHUNK)
        yield part, spectra[part].astype(np.float64)


def fcls_of_date(spectra: np.ndarray, valid: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """FCLS abundances (N, P) of spectra (N, L) with endmembers (L, P); NaN where not valid (N,)."""
    abundances = np.full((len(spectra), matrix.shape[1]), np.nan)
    endmembers = torch.tensor(matrix, dtype=torch.float64)
    rows = np.flatnonzero(valid)
    for part, values in chunks(spectra[rows]):
        abundances[rows[part]] = solve_fcls(torch.from_numpy(values), endmembers).numpy()
    return abundances


def to_result(
    cubes: xr.DataArray,
    abundances: np.ndarray,
    reference: np.ndarray,
    names: np.ndarray,
    by_date: np.ndarray | None = None,
    brightness: np.ndarray | None = None,
    valid: np.ndarray | None = None,
    **fields: Any,
) -> Unmixing:
    """The result of a method without a posterior of the abundances.

    Parameters
    ----------
    abundances : array (N, T, P)
        NaN at missing pixel-dates.
    reference : array (L, P)
    by_date : array (T, L, P), optional
        The endmembers of each date, where they differ.
    brightness : array (N, T), optional
        What the fractions summed to before they were scaled to one.
    valid : array (N, T), bool, optional
        Default where there are abundances.
    **fields
        More of `Unmixing`.
    """
    maps = from_pixels(abundances, cubes, {"endmember": names}, name="abundances")
    wavelength = {"wavelength": cubes["wavelength"]} if "wavelength" in cubes.coords else {}
    dataset = xr.Dataset(
        {
            "abundances": maps,
            "valid": maps.notnull().all("endmember")
            if valid is None
            else from_pixels(valid, cubes),
            "reference_endmembers": (("wavelength", "endmember"), reference),
        },
        coords=wavelength,
    )
    if by_date is not None:
        attributes = {"long_name": "endmember reflectance of each date", "units": "1"}
        dataset["date_endmembers"] = (("time", "wavelength", "endmember"), by_date, attributes)
    if brightness is not None:
        dataset["brightness"] = from_pixels(brightness, cubes)
    return Unmixing(describe(dataset), cubes=cubes, **fields)
