"""Wavelengths in nm from whatever unit a file gives, and the choice of bands."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from pyro_unmix.data.bands import Ignore, ignored_bands
from pyro_unmix.io.errors import FileError

logger = logging.getLogger(__name__)

Bands: TypeAlias = "Sequence[int] | Sequence[str] | slice | np.ndarray | None"

_TO_NM = {
    **dict.fromkeys(("nm", "nanometer", "nanometers", "nanometre", "nanometres"), 1.0),
    **dict.fromkeys(
        # micro sign (U+00B5) and Greek mu (U+03BC) look alike
        ("um", "\u00b5m", "\u03bcm", "micrometer", "micrometers", "micrometre", "micrometres"),
        1000.0,
    ),
    **dict.fromkeys(("micron", "microns"), 1000.0),
}
_HOW = "pass wavelength_unit='nm' or wavelength_unit='um' to read_sequence"
# No optical sensor is outside; in between lies no wavelength that both units could mean.
_RANGE_NM = (100.0, 100_000.0)
_FWHM_RANGE_NM = (0.01, 5000.0)


def wavelength_to_nm(
    values: npt.ArrayLike, unit: str | None, path: str | os.PathLike[str]
) -> np.ndarray:
    """Return band centres in nm, (L,), float64.

    Raises
    ------
    FileError
        If the unit is missing or unknown, contradicts the values, or a value is not finite.
    """
    return wavelength_in_nm(values, unit, path)


def wavelength_in_nm(
    values: npt.ArrayLike,
    unit: str | None,
    path: str | os.PathLike[str],
    given: str | None = None,
) -> np.ndarray:
    """As `wavelength_to_nm`; a unit given by the caller stands in for that of the file."""
    array = _numbers(values, path, "wavelength")
    if not (array > 0).all():
        raise FileError(path, "wavelength", f"must be positive, got {array.min():g}")
    factor, name = _factor(unit, path, given)
    nm = array * factor
    low, high = _RANGE_NM
    if nm.min() < low or nm.max() > high:
        problem = (
            f"the unit {name!r} contradicts the values {array.min():g} to {array.max():g}, "
            f"expected {low / factor:g} to {high / factor:g}: correct the file, or {_HOW}"
        )
        raise FileError(path, "wavelength", problem)
    if nm.size > 1 and nm.min() == nm.max():
        problem = f"must differ between bands, got {array[0]:g} {name} for all {nm.size}"
        raise FileError(path, "wavelength", problem)
    return nm


def fwhm_in_nm(
    values: npt.ArrayLike,
    unit: str | None,
    path: str | os.PathLike[str],
    given: str | None = None,
) -> np.ndarray:
    """Return band widths in nm, (L,), float64."""
    array = _numbers(values, path, "fwhm")
    factor, name = _factor(unit, path, given)
    nm = array * factor
    low, high = _FWHM_RANGE_NM
    if nm.min() < low or nm.max() > high:
        problem = (
            f"the unit {name!r} contradicts the widths {array.min():g} to {array.max():g}: "
            f"expected {low / factor:g} to {high / factor:g}"
        )
        raise FileError(path, "fwhm", problem)
    return nm


def _numbers(values: npt.ArrayLike, path: str | os.PathLike[str], name: str) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "iuf":
        problem = f"must be a list of numbers, got {array.dtype} of shape {array.shape}"
        raise FileError(path, name, problem)
    array = array.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        problem = f"must be finite, got {array[bad[0]]} at band {bad[0]} ({bad.size} such bands)"
        raise FileError(path, name, problem)
    return array


def _factor(unit: str | None, path: str | os.PathLike[str], given: str | None) -> tuple[float, str]:
    if given is not None:
        if str(given).strip().lower() not in _TO_NM:
            raise ValueError(f"wavelength_unit must be 'nm' or 'um', got {given!r}")
        return _TO_NM[str(given).strip().lower()], given
    if unit is None or not str(unit).strip() or str(unit).strip().lower() == "unknown":
        raise FileError(path, "wavelength units", f"are not given in the file: {_HOW}")
    try:
        return _TO_NM[str(unit).strip().lower()], str(unit).strip()
    except KeyError:
        problem = f"must be nm or um, got {unit!r}: convert the wavelengths, or {_HOW}"
        raise FileError(path, "wavelength units", problem) from None


def choose_bands(
    num_bands: int,
    *,
    path: str | os.PathLike[str] = "",
    bands: Bands = None,
    names: Sequence[str] | None = None,
    good: np.ndarray | None = None,
    empty: np.ndarray | None = None,
    wavelength: np.ndarray | None = None,
    ignore: Ignore = None,
) -> np.ndarray:
    """Return which bands are used, (L,) bool; one log line lists those that are not, and why.

    Bands that the caller names are used even if the file calls them bad; bands without any data
    never are.
    """
    chosen = np.ones(num_bands, dtype=bool) if bands is None else _named(num_bands, bands, names)
    reasons: dict[str, np.ndarray] = {}
    if good is not None and bands is None:
        reasons["bad-band list"] = ~np.asarray(good, dtype=bool)
    if empty is not None:
        reasons["no data"] = empty
    if ignore is not None:
        if wavelength is None:
            problem = "is not in the file, so that ignore= cannot find the bands to drop"
            raise FileError(path, "wavelength", problem)
        reasons["ignored"] = ignored_bands(wavelength, ignore)
    keep = chosen.copy()
    texts = []
    for reason, drop in reasons.items():
        drop = drop & keep
        keep &= ~drop
        if drop.any():
            texts.append(f"{reason}: {ranges(np.flatnonzero(drop))}")
    if texts:
        logger.info(
            "%s: dropped %d of %d bands (counted from 0): %s",
            path,
            int(chosen.sum() - keep.sum()),
            num_bands,
            "; ".join(texts),
        )
    if reasons.get("ignored", np.zeros(1)).any() and keep.sum() < min(2, chosen.sum()):
        left = f"{keep.sum()} of {num_bands}" if keep.any() else f"none of the {num_bands}"
        problem = (
            f"{left} is left, two at least must be: {'; '.join(texts)}. Leave out less, ignore="
        )
        raise FileError(path, "bands", problem)
    if not keep.any():
        problem = f"none of the {num_bands} is left: {'; '.join(texts)}. Choose with bands="
        raise FileError(path, "bands", problem)
    return keep


def _named(num_bands: int, bands: Bands, names: Sequence[str] | None) -> np.ndarray:
    keep = np.zeros(num_bands, dtype=bool)
    if isinstance(bands, slice):
        keep[bands] = True
        return keep
    chosen = np.atleast_1d(np.asarray(bands))
    if chosen.dtype.kind == "b" and chosen.shape == (num_bands,):
        return chosen.copy()
    if chosen.dtype.kind == "U":
        positions = _positions(list(chosen), names)
    elif chosen.dtype.kind in "iu" and chosen.ndim == 1:
        positions = chosen
    else:
        raise TypeError(
            "bands must be a slice, a list of positions from 0, of band names, or a mask of "
            f"{num_bands} bool, got {bands!r}"
        )
    outside = [int(p) for p in positions if not 0 <= p < num_bands]
    if outside:
        raise ValueError(f"bands must lie in 0 to {num_bands - 1}, got {outside}")
    keep[positions] = True
    return keep


def _positions(chosen: list[str], names: Sequence[str] | None) -> np.ndarray:
    known = [] if names is None else list(names)
    unknown = [name for name in chosen if name not in known]
    if unknown:
        listed = ", ".join(known) or "none, the file does not name its bands"
        raise ValueError(f"bands: no band is called {', '.join(unknown)}; there are: {listed}")
    return np.array([known.index(name) for name in chosen])


def ranges(positions: npt.ArrayLike) -> str:
    """Increasing numbers in short: "1-3, 7"."""
    numbers = np.asarray(positions)
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1)
    return ", ".join(f"{r[0]}-{r[-1]}" if r.size > 1 else f"{r[0]}" for r in runs if r.size)
