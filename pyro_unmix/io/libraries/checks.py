"""What is no reflectance in a spectral library: fill, other scales, classes that cannot be told apart."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from pyro_unmix.data.bands import ranges_in_nm
from pyro_unmix.data.checks import can_be_written
from pyro_unmix.data.library_checks import (
    DARK,
    bright_spectra,
    dark_spectra,
    fill_bands,
    like_classes,
)
from pyro_unmix.io.errors import FileError
from pyro_unmix.io.libraries.tables import Spectrum

logger = logging.getLogger(__name__)

_PERCENT = 150.0  # the largest number of a file in per cent, snow and glint included
_CALLER = 4  # of read_library, seen from where a warning is given


def checked_spectra(path: Path, spectra: list[Spectrum]) -> list[Spectrum]:
    """Spectra of reflectance, with NaN in bands that hold only fill.

    Raises
    ------
    FileError
        If a name is empty, a value is not finite, or a spectrum is in other units.
    """
    missing = _missing_in_all(spectra)
    for spectrum in spectra:
        _check_form(path, spectrum, missing)
    _check_scales(path, spectra)
    _warn_of_like_classes(path, [spectrum.label for spectrum in spectra])
    return _without_fill(path, spectra)


def _missing_in_all(spectra: list[Spectrum]) -> np.ndarray:
    """Positions of the bands that no spectrum has, of spectra with the same bands; else none."""
    first = spectra[0].wavelength
    if any(not np.array_equal(s.wavelength, first) for s in spectra):
        return np.array([], dtype=int)
    return np.flatnonzero(np.isnan([s.values for s in spectra]).all(axis=0))


def _check_form(path: Path, spectrum: Spectrum, missing: np.ndarray) -> None:
    for text in (spectrum.name, spectrum.label):
        if not can_be_written(text):
            problem = f"must be texts of UTF-8 without null characters, and not empty, got {text!r}"
            raise FileError(path, "names of spectra and classes", problem)
    known = np.delete(spectrum.values, missing)
    if len(known) < 2:
        raise FileError(path, spectrum.name, "fewer than 2 channels hold a value")
    if not (np.isfinite(known).all() and np.isfinite(spectrum.wavelength).all()):
        raise FileError(path, spectrum.name, "values and wavelengths must be finite numbers")


def _check_scales(path: Path, spectra: list[Spectrum]) -> None:
    values = [spectrum.values for spectrum in spectra]
    bright = bright_spectra(values)
    if bright:
        first = spectra[bright[0]]
        median = float(np.nanmedian(first.values))
        problem = (
            f"{first.name!r} has a median of {median:g}, so it is no reflectance (about 0 to 1): "
        )
        if len(bright) < len(spectra):
            problem += (
                f"{len(bright)} of {len(spectra)} spectra are in another scale than the others: bring all to "
                "reflectance in the file"
            )
        else:
            percent = max(float(np.nanmax(spectrum)) for spectrum in values) <= _PERCENT
            problem += f"pass scale=, for example scale={'0.01' if percent else '1e-4'}"
        raise FileError(path, "values", problem)
    dark = dark_spectra(values)
    if len(dark) == len(spectra):
        brightest = max(float(np.nanmax(spectrum)) for spectrum in values)
        logger.warning(
            "%s: no reflectance is above %.3g, as if the scale were too small: if so, pass scale=",
            path, brightest,
        )  # fmt: skip
    elif dark:
        logger.warning(
            "%s: no reflectance of %s is above %g, as if in another scale than the others: if so, bring all to "
            "reflectance in the file",
            path, ", ".join(spectra[number].name for number in dark), DARK,
        )  # fmt: skip


def _warn_of_like_classes(path: Path, labels: Sequence[str]) -> None:
    like = like_classes(labels)
    if like:
        warnings.warn(
            f"{path}: the classes {', '.join(map(repr, like))} differ in case or spaces alone and are kept apart: "
            "if they are one class, give them one name in the file",
            UserWarning,
            stacklevel=_CALLER + 1,
        )


def _without_fill(path: Path, spectra: list[Spectrum]) -> list[Spectrum]:
    first = spectra[0].wavelength
    if any(not np.array_equal(s.wavelength, first) for s in spectra):
        return spectra  # of instruments of their own, that share no fill
    fill = fill_bands(np.stack([s.values for s in spectra]))
    if not fill.any():
        return spectra
    warnings.warn(
        f"{path}: {int(fill.sum())} of {len(first)} bands hold the same number, fill, in every spectrum and are taken "
        f"as missing: {ranges_in_nm(first, fill)}",
        UserWarning,
        stacklevel=_CALLER + 1,
    )
    return [replace(s, values=np.where(fill, np.nan, s.values)) for s in spectra]
