"""When are two lists of band centres the same bands, and which bands do not count? One rule for all of the package."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike

#: Two bands are the same if their centres differ by less than this share of the band's width (fwhm).
SAME_BAND = 0.1
#: nm: what the rounding of a text header may do, and not worth a word.
ROUNDING = 0.01
#: Bands to leave out: ranges in nm, as text "0-440,1310-1490" with names of `IGNORED` among them, or pairs of numbers.
Ignore: TypeAlias = str | Sequence[tuple[float, float]] | None
#: Named ranges, nm: where water vapour absorbs nearly all light; what the example of EMIT's SpectralUnmixing leaves out
#: (noise at short wavelengths and about the water vapour, little signal beyond).
IGNORED: dict[str, tuple[tuple[float, float], ...]] = {
    "water_vapour": ((1340.0, 1450.0), (1790.0, 1960.0)),
    "emit": ((0.0, 440.0), (1310.0, 1490.0), (1770.0, 2050.0), (2440.0, 2880.0)),
}
# nm: neighbouring bands tell the width of a band only where a spectrometer lines them up.
_WIDEST_SPACING = 20.0
# Bands per turn from longer to shorter wavelengths or back, below which they are in no order.
_MOST_TURNS = 6


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
    """Median of the six gaps around each band: overlaps and holes do not count.

    The order given is that of detectors, which may overlap. Bands in no order, which turn back more often than once in
    six, are looked at in the order of their centres.

    Raises
    ------
    ValueError
        If there are not two different centres.
    """
    values = np.asarray(centres, dtype=np.float64)
    gaps = np.diff(values)
    gaps = gaps[gaps != 0]
    if not len(gaps):
        raise ValueError("a single band has no spacing: pass fwhm=")
    turns = np.count_nonzero((gaps[1:] > 0) != (gaps[:-1] > 0))
    if turns * _MOST_TURNS > len(gaps):
        order = np.argsort(values, kind="stable")
        spacing = np.empty_like(values)
        spacing[order] = local_spacing(values[order])
        return spacing
    gaps = np.abs(gaps)
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


def ignored_ranges(ignore: Ignore) -> tuple[tuple[float, float], ...]:
    """Ranges (low, high) in nm, both included.

    Parameters
    ----------
    ignore : str, sequence of pairs, or None
        ``"0-440,1310-1490"``, ``"emit"``, ``"water_vapour,2440-2880"`` or ``[(0, 440), (1310, 1490)]``.

    Raises
    ------
    TypeError, ValueError
        If it is none of these.

    Examples
    --------
    >>> ignored_ranges("water_vapour,0-440")
    ((1340.0, 1450.0), (1790.0, 1960.0), (0.0, 440.0))
    """
    if ignore is None:
        return ()
    if isinstance(ignore, str):
        parts = [part.strip() for part in ignore.split(",")]
        return tuple(pair for part in parts for pair in _ranges_of(part, ignore))
    try:
        pairs = [(float(low), float(high)) for low, high in ignore]
    except (TypeError, ValueError):
        raise TypeError(
            "ignore must be text such as '0-440,1310-1490', or pairs of numbers such as [(0, 440), (1310, 1490)], in "
            f"nm, got {ignore!r}"
        ) from None
    return tuple(_checked_range(low, high, ignore) for low, high in pairs)


def _ranges_of(part: str, ignore: str) -> tuple[tuple[float, float], ...]:
    if part in IGNORED:
        return IGNORED[part]
    number = r"\d+(?:\.\d*)?|\.\d+"
    found = re.fullmatch(rf"({number})\s*-\s*({number})", part)
    if found is None:
        raise ValueError(
            f"ignore must be ranges in nm such as '0-440,1310-1490', or {', '.join(IGNORED)}, got {part!r} in "
            f"{ignore!r}"
        )
    return (_checked_range(float(found[1]), float(found[2]), ignore),)


def _checked_range(low: float, high: float, ignore: object) -> tuple[float, float]:
    if not 0 <= low <= high < np.inf:
        raise ValueError(f"ignore must be ranges from low to high, got {low:g}-{high:g}")
    if 0 < high < 10:
        raise ValueError(
            f"ignore must be in nm, got {low:g}-{high:g} in {ignore!r}, which looks like um: multiply by 1000"
        )
    return low, high


def ignored_bands(wavelength: ArrayLike, ignore: Ignore) -> np.ndarray:
    """Which bands have their centre in an ignored range: (L,), bool, of centres (L,) in nm; see `ignored_ranges`."""
    centres = np.asarray(wavelength, dtype=np.float64)
    inside = np.zeros(centres.shape, dtype=bool)
    for low, high in ignored_ranges(ignore):
        inside |= (centres >= low) & (centres <= high)
    return inside
