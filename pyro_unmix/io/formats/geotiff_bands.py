"""The band centres and widths that programs write into a GeoTIFF, in four places."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from pyro_unmix.data.bands import band_tolerance
from pyro_unmix.io.errors import FileError
from pyro_unmix.io.formats.raster_file import Raster
from pyro_unmix.io.reflectance import wavelength_to_nm

_DESCRIPTION = re.compile(
    r"(?:^|[\s(])(\d+(?:\.\d*)?)\s*(nm|nanomet(?:er|re)s?|um|[µμ]m|micromet(?:er|re)s?)\b", re.I
)


def spectral_axis(raster: Raster, path: Path) -> dict[str, Any]:
    """The fields wavelength, wavelength_unit, fwhm and good of an Image, where the file has them.

    Sources, the first that is complete wins, the others must not contradict it: band tags
    `wavelength`, `wavelength_units`, `fwhm`, `bbl`; GDAL's domain IMAGERY
    (`CENTRAL_WAVELENGTH_UM`, `FWHM_UM`); the lists of ENVI headers in dataset tags; band
    descriptions such as "band 3 (560.2 Nanometers)".
    """
    candidates = [
        found
        for found in (
            _from_band_tags(raster, path),
            _from_imagery(raster, path),
            _from_lists(raster, path),
            _from_descriptions(raster, path),
        )
        if found
    ]
    if not candidates:
        return _good_bands(raster, path)
    first = candidates[0]
    for other in candidates[1:]:
        _check_agreement(first, other, path)
    found = {name: part for name, part in first.items() if name != "rounding"}
    return found | _good_bands(raster, path)


def _check_agreement(first: dict[str, Any], other: dict[str, Any], path: Path) -> None:
    """The same bands, as far as the digits of the two texts go."""
    if first["wavelength_unit"] is None or other["wavelength_unit"] is None:
        return
    one, two = (_in_nm(found, "wavelength", path) for found in (first, other))
    widths = [_in_nm(f, "fwhm", path) for f in (first, other) if f.get("fwhm") is not None]
    rounding = sum(_in_nm(found, "rounding", path) for found in (first, other))
    allowed = np.maximum(
        band_tolerance(one, np.minimum.reduce(widths) if widths else None), rounding
    )
    odd = np.flatnonzero(~(np.abs(one - two) <= allowed))
    if odd.size:
        band = odd[0]
        problem = (
            f"band {band + 1} is at {one[band]:g} nm in one place of the file and at "
            f"{two[band]:g} nm in another: correct one of them"
        )
        raise FileError(path, "wavelength", problem)


def _in_nm(found: dict[str, Any], name: str, path: Path) -> np.ndarray:
    """Centres, and by their factor what else is in their unit."""
    centres = np.asarray(found["wavelength"], dtype=float)
    in_nm = wavelength_to_nm(centres, found["wavelength_unit"], path)
    return in_nm if name == "wavelength" else np.asarray(found[name]) * (in_nm / centres)


def _from_band_tags(raster: Raster, path: Path) -> dict[str, Any]:
    texts = _per_band(raster, "wavelength", path)
    if texts is None:
        return {}
    units = {_unit(tags) for tags in raster.band_tags}
    shared = _unit(raster.tags)
    units = {shared if unit is None else unit for unit in units}
    if len(units) > 1:
        listed = ", ".join(sorted(map(str, units)))
        raise FileError(path, "wavelength_units", f"must be the same in all bands, got {listed}")
    return _axis(texts, units.pop(), _per_band(raster, "fwhm", path), path)


def _unit(tags: Mapping[str, str]) -> str | None:
    return tags.get("wavelength_units", tags.get("wavelength_unit"))


def _from_imagery(raster: Raster, path: Path) -> dict[str, Any]:
    texts = _per_band(raster, "central_wavelength_um", path)
    return _axis(texts, "um", _per_band(raster, "fwhm_um", path), path)


def _from_lists(raster: Raster, path: Path) -> dict[str, Any]:
    texts = _listed(raster, "wavelength", path)
    return _axis(texts, _unit(raster.tags), _listed(raster, "fwhm", path), path)


def _from_descriptions(raster: Raster, path: Path) -> dict[str, Any]:
    matches = [_DESCRIPTION.search(text or "") for text in raster.descriptions]
    found = [match.groups() for match in matches if match]
    micro = {not unit.lower().startswith("n") for _, unit in found}
    if len(found) < len(matches) or len(micro) > 1:
        return {}
    return _axis([text for text, _ in found], "um" if micro.pop() else "nm", None, path)


def _axis(
    texts: list[str] | None, unit: str | None, fwhm: list[str] | None, path: Path
) -> dict[str, Any]:
    """Fields of an Image; `rounding` is one of the last digit that any of the centres has."""
    if texts is None:
        return {}
    centres = numbers(texts, "wavelength", path)
    exponents = [Decimal(text).as_tuple().exponent for text in texts]
    digits = [10.0**exponent for exponent in exponents if isinstance(exponent, int)]
    return {
        "wavelength": centres,
        "wavelength_unit": unit,
        "fwhm": None if fwhm is None else numbers(fwhm, "fwhm", path),
        "rounding": min(digits, default=0.0),
    }


def _good_bands(raster: Raster, path: Path) -> dict[str, Any]:
    flags = _per_band(raster, "bbl", path)
    flags = _listed(raster, "bbl", path) if flags is None else flags
    return {} if flags is None else {"good": numbers(flags, "bbl", path) != 0}


def _per_band(raster: Raster, name: str, path: Path) -> list[str] | None:
    texts = [tags.get(name) for tags in raster.band_tags]
    known = [text for text in texts if text is not None]
    if not known:
        return None
    if len(known) < len(texts):
        problem = f"is given for {len(known)} of {len(texts)} bands only: complete it or remove it"
        raise FileError(path, name, problem)
    return known


def _listed(raster: Raster, name: str, path: Path) -> list[str] | None:
    text = raster.tags.get(name)
    if text is None:
        return None
    parts = text.strip().strip("{}[]").replace(",", " ").split()
    if len(parts) != len(raster.band_tags):
        problem = f"must hold one number per band ({len(raster.band_tags)}), got {len(parts)}"
        raise FileError(path, name, problem)
    return parts


def numbers(texts: list[str], name: str, path: Path) -> np.ndarray:
    try:
        return np.array([float(text) for text in texts])
    except ValueError as error:
        raise FileError(path, name, f"must be numbers: {error}") from error
