"""What tells that spectra are no reflectance, or classes are not told apart: of a library that is read, or merged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from pyro_unmix.data.checks import MAX_MEDIAN_REFLECTANCE

#: Even spectra of water reach more somewhere.
DARK = 0.01


def bright_spectra(spectra: Sequence[np.ndarray]) -> list[int]:
    """Positions of spectra, each with bands of its own, that are too bright for reflectance (about 0 to 1)."""
    return [n for n, s in enumerate(spectra) if np.nanmedian(s) > MAX_MEDIAN_REFLECTANCE]


def dark_spectra(spectra: Sequence[np.ndarray]) -> list[int]:
    """Positions of spectra, each with bands of its own, that are darker than materials are, `DARK`."""
    return [n for n, s in enumerate(spectra) if np.nanmax(s) < DARK]


def like_classes(labels: Sequence[str]) -> list[str]:
    """Classes that differ from another in case or spaces alone."""
    classes = list(dict.fromkeys(labels))
    plain = [" ".join(label.split()).casefold() for label in classes]
    counts = Counter(plain)
    return [label for label, text in zip(classes, plain, strict=True) if counts[text] > 1]


def fill_bands(values: np.ndarray) -> np.ndarray:
    """Which bands of spectra (S, L) hold nothing: one number in every spectrum, zero or that of other such bands.

    Of a single spectrum, or of several that are the same, nothing is said: they are alike in every band.
    """
    alike = (values == values[0]).all(axis=0)
    if alike.all():
        return np.zeros_like(alike)
    numbers, counts = np.unique(values[0, alike], return_counts=True)
    fill = numbers[(counts > 1) | (numbers == 0)]
    return alike & np.isin(values[0], fill)
