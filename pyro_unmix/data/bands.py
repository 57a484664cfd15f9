"""When are two lists of band centres the same bands? One rule for files, dates, libraries and models."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

#: Two bands are the same if their centres differ by less than this share of the band's width (fwhm).
SAME_BAND = 0.1
#: nm: what the rounding of a text header may do, and not worth a word.
ROUNDING = 0.01
# nm: neighbouring bands tell the width of a band only where a spectrometer lines them up.
_WIDEST_SPACING = 20.0


def band_tolerance(centres: ArrayLike, fwhm: ArrayLike | None = None) -> np.ndarray:
    """How far another centre may be off before it is another band, nm: a tenth of each band's width.

    Parameters
    ----------
    centres : array (L,), nm
    fwhm : array (L,), nm, optional
        Where none is known, the spacing of the bands stands for it (see `local_spacing`), as a spectrometer's bands
        are about as wide as they are apart; at most 20 nm, because those of multispectral sensors are not. A single
        band without fwhm allows rounding only.

    Returns
    -------
    numpy.ndarray (L,)
    """
    centres = np.asarray(centres, dtype=np.float64)
    if fwhm is not None:
        return SAME_BAND * np.asarray(fwhm, dtype=np.float64)
    if len(np.unique(centres)) < 2:
        return np.full(centres.shape, ROUNDING)
    return SAME_BAND * np.minimum(local_spacing(centres), _WIDEST_SPACING)


def other_bands(one: ArrayLike, two: ArrayLike, fwhm: ArrayLike | None = None) -> np.ndarray:
    """Positions at which two lists of L centres are not the same bands, see `band_tolerance`."""
    first = np.asarray(one, dtype=np.float64)
    return np.flatnonzero(~(np.abs(first - np.asarray(two)) < band_tolerance(first, fwhm)))


def same_bands(one: ArrayLike, two: ArrayLike, fwhm: ArrayLike | None = None) -> bool:
    """Whether two lists of centres have one length and are the same bands, see `band_tolerance`."""
    return np.shape(one) == np.shape(two) and not other_bands(one, two, fwhm).size


def narrower(one: ArrayLike | None, two: ArrayLike | None) -> np.ndarray | None:
    """The smaller fwhm of each band, so that the rule is the same from both sides; None if none is known."""
    widths = [np.asarray(fwhm, dtype=np.float64) for fwhm in (one, two) if fwhm is not None]
    return np.minimum.reduce(widths) if widths else None


def local_spacing(centres: ArrayLike) -> np.ndarray:
    """Median of the six gaps around each band, in the order given: overlaps and holes do not count.

    Raises
    ------
    ValueError
        If there are not two different centres.
    """
    values = np.asarray(centres, dtype=np.float64)
    gaps = np.abs(np.diff(values))
    gaps = gaps[gaps > 0]
    if not len(gaps):
        raise ValueError("a single band has no spacing: pass fwhm=")
    middles = [min(i, len(gaps)) for i in range(len(values))]
    return np.array([np.median(gaps[max(0, i - 3) : i + 3]) for i in middles])


def runs_of_bands(wavelength: ArrayLike, which: ArrayLike) -> list[tuple[float, float]]:
    """First and last centre, nm, of each run of chosen bands that are neighbours in wavelength.

    Parameters
    ----------
    wavelength : array (L,), nm, in any order
    which : array (L,), bool
    """
    centres = np.asarray(wavelength, dtype=np.float64)
    order = np.argsort(centres, kind="stable")
    chosen = np.flatnonzero(np.asarray(which, dtype=bool)[order])
    runs = np.split(chosen, np.flatnonzero(np.diff(chosen) != 1) + 1)
    return [(float(centres[order[r[0]]]), float(centres[order[r[-1]]])) for r in runs if r.size]


def ranges_in_nm(wavelength: ArrayLike, which: ArrayLike) -> str:
    """Chosen bands in words, "1322.6-1422.3, 1810.9 nm", see `runs_of_bands`."""
    runs = runs_of_bands(wavelength, which)
    return ", ".join(f"{a:.1f}-{b:.1f}" if b > a else f"{a:.1f}" for a, b in runs) + " nm"
