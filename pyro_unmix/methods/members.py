"""What methods of whole libraries share: members with their classes, and a result that says which were taken."""

from __future__ import annotations

import logging
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
from pyro_unmix.data.libraries import at_bands_of, classes_of, is_library, library_endmembers
from pyro_unmix.data.types import ImagesLike
from pyro_unmix.methods.arguments import count_materials, counted_bands
from pyro_unmix.methods.classical import names_of
from pyro_unmix.ops.checks import positive_int
from pyro_unmix.ops.least_squares import Fractions, least_squares
from pyro_unmix.posterior.read_out import describe
from pyro_unmix.posterior.result import Unmixing
from pyro_unmix.start.bundles import extract_bundles
from pyro_unmix.start.extraction import extract_endmembers

logger = logging.getLogger(__name__)

_ADVICE = "see whether the spectra are of the scale and the materials of the images"
#: Spectra of each material that are taken from the image where no library is given.
NUM_PURE = 10


@dataclass(frozen=True, eq=False)
class Members:
    """Checked images as pixels, and library spectra at their bands.

    Attributes
    ----------
    cubes : DataArray (time, y, x, wavelength)
    pixels : array (N, T, L), valid : array (N, T), bool
    spectra : array (L, S), classes : array of int (S,)
        Positions in `names`.
    reference : array (L, P)
        Mean spectra of the classes.
    names, titles : array (P,), array (S,)
        Of the classes and of the spectra.
    """

    cubes: xr.DataArray
    pixels: np.ndarray
    valid: np.ndarray
    spectra: np.ndarray
    classes: np.ndarray
    reference: np.ndarray
    names: np.ndarray
    titles: np.ndarray

    @property
    def num_classes(self) -> int:
        return len(self.names)

    def of_class(self, number: int) -> np.ndarray:
        """Positions of the spectra of a class."""
        return np.flatnonzero(self.classes == number)


def read_members(
    cubes: ImagesLike, num_endmembers: int | None, endmembers: Any, seed: int, ignore: Ignore
) -> Members:
    """Check the input of a method that takes single spectra of a library.

    Without `endmembers` they are taken from the images: `NUM_PURE` spectra for each of those that
    `extract_endmembers` finds, see `extract_bundles`.
    """
    seed = positive_int(seed, "seed", minimum=0)
    cubes, endmembers = counted_bands(cubes, endmembers, ignore)
    sequence = as_cube_sequence(cubes)
    if endmembers is None:
        count = count_materials(num_endmembers, None, minimum=2)
        found = extract_endmembers.unchecked(sequence, count, window=1, seed=seed)
        endmembers = extract_bundles.unchecked(sequence, found, NUM_PURE)
        names: np.ndarray = np.arange(count)
    elif is_library(endmembers):
        endmembers = at_bands_of(endmembers, sequence)
        names = library_endmembers(endmembers)["endmember"].to_numpy()
    else:
        return _of_one_each(sequence, num_endmembers, endmembers)
    means = library_endmembers(endmembers)
    count_materials(num_endmembers, means, minimum=2)
    spectra, labels = classes_of(endmembers)
    order = means["endmember"].to_numpy().tolist()
    classes = np.array([order.index(label) for label in labels])
    reference = as_endmembers(means, sequence.sizes["wavelength"])
    titles = names_of(endmembers, spectra.shape[1])
    _check_not_dark(spectra, titles, labels)
    return Members(sequence, *to_pixels(sequence), spectra, classes, reference, names, titles)


def _check_not_dark(spectra: np.ndarray, titles: np.ndarray, labels: np.ndarray) -> None:
    dark = np.flatnonzero(~spectra.any(axis=0))
    if dark.size:
        named = ", ".join(f"{titles[i]} of class {labels[i]}" for i in dark[:5])
        raise ValueError(
            f"endmembers must not hold zero spectra, got zeros in all bands of {dark.size} of {len(titles)} ({named}"
            f"{', ...' if dark.size > 5 else ''}): remove them; shade=True of mesma, fcls and monte_carlo_sma is a "
            "material without light"
        )


def _of_one_each(
    sequence: xr.DataArray, num_endmembers: int | None, endmembers: ArrayLike
) -> Members:
    matrix = as_endmembers(endmembers, sequence.sizes["wavelength"])
    count = count_materials(num_endmembers, matrix, minimum=2)
    names = names_of(endmembers, count)
    pixels, valid = to_pixels(sequence)
    return Members(sequence, pixels, valid, matrix, np.arange(count), matrix, names, names)


def blocks(pixels: np.ndarray, valid: np.ndarray, size: int) -> Iterator[tuple[Any, np.ndarray]]:
    """Observed spectra (n, L) in double precision, `size` at a time, and where they are in (N, T)."""
    rows, dates = np.nonzero(valid)
    for start in range(0, len(rows), size):
        part = rows[start : start + size], dates[start : start + size]
        yield part, pixels[part].astype(np.float64)


def solve(
    spectra: np.ndarray, members: np.ndarray, how: Fractions, normalize: bool = False
) -> np.ndarray:
    """Fractions (n, S) with ``y`` about ``E a``, of spectra (n, L) and members (L, S).

    Normalised, spectra and members have length one while they are compared; the fractions are of the members as they
    are.
    """
    if not normalize:
        return least_squares(torch.tensor(spectra), torch.tensor(members), how).numpy()
    lengths, norms = lengths_of(spectra, axis=1)[:, None], lengths_of(members, axis=0)
    found = solve(spectra / lengths, members / norms, how)
    return found * lengths / norms


def lengths_of(spectra: np.ndarray, *, axis: int) -> np.ndarray:
    """By which spectra are divided to have length one; never zero."""
    return np.asarray(np.maximum(np.linalg.norm(spectra, axis=axis), np.finfo(float).tiny))


def scaled_to_one(fractions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fractions (..., P) that sum to one, and what they summed to; NaN where that is not positive."""
    total = fractions.sum(-1)
    positive = np.where(total > 0, total, np.nan)
    return fractions / positive[..., None], positive


def class_sums(fractions: np.ndarray, members: Members) -> np.ndarray:
    """Of fractions of spectra (..., S) those of classes (..., P)."""
    belongs = members.classes[:, None] == np.arange(members.num_classes)
    return fractions @ belongs.astype(fractions.dtype)


def warn_of_unfitted(shares: np.ndarray, observed: np.ndarray, advice: str = _ADVICE) -> None:
    """Log a WARNING where abundances (N, T, P) of observed pixels (N, T) are NaN, and what to do."""
    unfitted = observed & np.isnan(shares).any(-1)
    if unfitted.any():
        logger.warning(
            "%d of %d observed pixels fit no model: their abundances are NaN; %s",
            unfitted.sum(), observed.sum(), advice,
        )  # fmt: skip


def to_library_result(
    members: Members,
    fractions: np.ndarray,
    *,
    abundances: np.ndarray | None = None,
    std: np.ndarray | None = None,
    advice: str = _ADVICE,
    **fields: Any,
) -> Unmixing:
    """The result of a method that gives fractions of single spectra of a library.

    Parameters
    ----------
    fractions : array (N, T, S)
        Before they are scaled to one, with ``y`` about ``E a``; NaN at missing pixel-dates, and at observed ones that
        no model fits, of which a warning tells.
    abundances : array (N, T, P), optional
        Default the sums of the classes, scaled to one.
    std : array (N, T, P), optional
    advice : str
        What to do where no model fits.
    **fields
        More of `Unmixing`.
    """
    cubes = members.cubes
    shares, brightness = scaled_to_one(class_sums(fractions, members))
    shares = shares if abundances is None else abundances
    warn_of_unfitted(shares, members.valid, advice)
    unfitted = np.isnan(shares).any(-1)
    if np.isfinite(fractions[unfitted]).any():
        fractions = np.where(unfitted[..., None], np.nan, fractions)
    labels = {"endmember": members.names}
    maps = from_pixels(shares, cubes, labels, name="abundances")
    wavelength = {"wavelength": cubes["wavelength"]} if "wavelength" in cubes.coords else {}
    titles = [str(title) for title in members.titles]
    dataset = xr.Dataset(
        {
            "abundances": maps,
            "valid": from_pixels(members.valid, cubes),
            "reference_endmembers": (("wavelength", "endmember"), members.reference),
            "brightness": from_pixels(brightness, cubes),
            "library_fractions": from_pixels(fractions, cubes, {"spectrum": titles}),
            "library": (("wavelength", "spectrum"), members.spectra),
        },
        coords={
            **wavelength,
            "label": ("spectrum", [str(members.names[c]) for c in members.classes]),
        },
    )
    if std is not None:
        dataset["abundances_std"] = from_pixels(std, cubes, labels)
    return Unmixing(describe(dataset), cubes=cubes, **fields)
