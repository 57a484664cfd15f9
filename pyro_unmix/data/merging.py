"""Several spectral libraries as one, at the bands of one of them."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Sequence
from itertools import count, pairwise
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from pyro_unmix.data.bands import ranges_in_nm
from pyro_unmix.data.libraries import checked_library, missing_bands, resample_library, target_bands
from pyro_unmix.data.library_checks import (
    DARK,
    bright_spectra,
    dark_spectra,
    fill_bands,
    like_classes,
)

logger = logging.getLogger(__name__)


def merge_libraries(
    libraries: Sequence[xr.DataArray],
    *,
    wavelength: ArrayLike | xr.DataArray | None = None,
    fwhm: ArrayLike | None = None,
) -> xr.DataArray:
    """All spectra of several libraries, one after the other.

    Libraries with other bands are resampled as `resample_library` does. A band that is missing in one of them is
    missing in the whole, because methods use bands that all spectra have.

    A name that an earlier spectrum has already gets a number behind, of which a log line tells; made names, the class
    with a number (``soil 2``), are numbered on.

    Parameters
    ----------
    libraries : sequence of DataArray (wavelength, endmember)
        With the coordinates ``wavelength`` (nm) and ``label``; names (``endmember``) are there in all or in none.
    wavelength : array (L,) in nm, or cubes, optional
        Bands of the whole; default those of the first library.
    fwhm : array (L,), optional
        Of these bands, nm; not without `wavelength`.

    Returns
    -------
    DataArray (wavelength, endmember)
        With the coordinate ``label``; ``source`` where one of them has it, empty for the others.

    Raises
    ------
    ValueError
        If there is no library, one is none, a spectrum is there twice (name, class and reflectance) or in another
        scale than reflectance, a library does not cover the bands, or no band is left.

    Warns
    -----
    UserWarning
        Of classes whose names differ by case or spaces alone, and of bands that hold only fill, as `read_library` does.

    Examples
    --------
    >>> import xarray as xr, pyro_unmix as pu
    >>> def library(name, label, values):
    ...     return xr.DataArray(values, dims=("wavelength", "endmember"), coords={"wavelength": [500., 600., 700.],
    ...         "endmember": [name], "label": ("endmember", [label])})
    >>> field = library("plot 7", "soil", [[.1], [.2], [.3]])
    >>> merged = pu.data.merge_libraries([field, library("oak", "leaf", [[.04], [.1], [.05]])])
    >>> merged["endmember"].values.tolist(), merged["label"].values.tolist()
    (['plot 7', 'oak'], ['soil', 'leaf'])
    """
    if isinstance(libraries, xr.DataArray) or not len(libraries):
        got = "a single one" if isinstance(libraries, xr.DataArray) else "none"
        raise ValueError(f"expected a list of libraries, got {got}")
    parts = [checked_library(library) for library in libraries]
    if fwhm is not None and wavelength is None:
        raise ValueError("fwhm is that of the bands of the whole: pass wavelength= with it")
    if wavelength is None:
        first = parts[0]
        wavelength = first["wavelength"]
        fwhm = first["fwhm"].to_numpy() if "fwhm" in first.coords else None
    _check_names(parts)
    centres, widths = target_bands(wavelength, fwhm)
    parts = [resample_library(part, centres, widths) for part in parts]
    values = np.concatenate([part.to_numpy() for part in parts], axis=1)
    values[np.isnan(values).any(axis=1)] = np.nan
    labels = _joined(parts, "label")
    _check_bands(parts, values, centres)
    names = labels
    if "endmember" in parts[0].coords:
        names = _distinct_names(parts, values)
    _check_scales(values, names)
    _warn_of_like_classes(labels)
    _leave_out_fill(values, centres)
    coords: dict[str, Any] = {
        "wavelength": ("wavelength", centres, {"units": "nm"}),
        "label": ("endmember", labels),
    }
    if widths is not None:
        coords["fwhm"] = ("wavelength", widths, {"units": "nm"})
    if "endmember" in parts[0].coords:
        coords["endmember"] = ("endmember", names)
    if any("source" in part.coords for part in parts):
        coords["source"] = ("endmember", _joined(parts, "source"))
    # What `select_iteratively` reached holds of its choice alone.
    attrs = {name: value for name, value in parts[0].attrs.items() if name != "kappa"}
    return xr.DataArray(values, coords, ("wavelength", "endmember"), parts[0].name, attrs)


def _joined(parts: Sequence[xr.DataArray], coordinate: str) -> list[str]:
    return [
        text
        for part in parts
        for text in (
            part[coordinate].to_numpy().astype(str).tolist()
            if coordinate in part.coords
            else [""] * part.sizes["endmember"]
        )
    ]


def _check_names(parts: Sequence[xr.DataArray]) -> None:
    named = ["endmember" in part.coords for part in parts]
    for number, (before, after) in enumerate(pairwise(named), start=1):
        if before != after:
            lacking = number if before else number - 1
            raise ValueError(
                f"library {lacking} has no names of spectra, unlike the others: add them, "
                "library.assign_coords(endmember=[...])"
            )


def _distinct_names(parts: Sequence[xr.DataArray], values: np.ndarray) -> list[str]:
    """Names of spectra (L, S); where an earlier one has the name, with the next free number."""
    names, labels = _joined(parts, "endmember"), _joined(parts, "label")
    taken, last = set(names), dict[str, int]()
    result, used, seen, renamed = list[str](), set[str](), set[Any](), list[str]()
    for name, label, spectrum in zip(names, labels, values.T, strict=True):
        same = (name, label, spectrum.tobytes())
        if same in seen:
            raise ValueError(
                f"the spectrum {name!r} of the class {label!r} is there twice: give each library once, and leave out "
                "of one what is in another, too"
            )
        seen.add(same)
        if name not in used:
            used.add(name)
            result.append(name)
            continue
        stem = label if re.fullmatch(rf"{re.escape(label)} \d+", name) else name
        numbers = count(last.get(stem, 1) + 1)
        last[stem] = next(n for n in numbers if f"{stem} {n}" not in taken)
        result.append(f"{stem} {last[stem]}")
        taken.add(result[-1])
        renamed.append(f"{name!r} as {result[-1]!r}")
    if renamed:
        more = ", ..." if len(renamed) > 5 else ""
        logger.info(
            "%d spectra have names of earlier ones and are numbered on: %s%s",
            len(renamed), ", ".join(renamed[:5]), more,
        )  # fmt: skip
    return result


def _check_bands(parts: Sequence[xr.DataArray], values: np.ndarray, centres: np.ndarray) -> None:
    if np.isfinite(values).any():
        return
    lacking = [
        f"library {number} has nothing at {ranges_in_nm(centres, missing)}"
        for number, missing in enumerate(map(missing_bands, parts))
        if missing.any()
    ]
    raise ValueError(
        f"no band is left that all libraries have ({'; '.join(lacking)}): merge libraries that have bands in common"
    )


def _check_scales(values: np.ndarray, names: Sequence[str]) -> None:
    spectra = list(values.T)
    bright = bright_spectra(spectra)
    if bright:
        median = float(np.nanmedian(spectra[bright[0]]))
        raise ValueError(
            f"{names[bright[0]]!r} has a median of {median:g}, so it is no reflectance (about 0 to 1), like "
            f"{len(bright)} of {len(spectra)} spectra: bring each library to reflectance before they are merged, for "
            "example with scale=1e-4 where it is read"
        )
    dark = dark_spectra(spectra)
    if dark:
        logger.warning(
            "no reflectance of %s is above %g, as if in another scale than reflectance: if so, bring each library to "
            "it before they are merged",
            ", ".join(names[number] for number in dark), DARK,
        )  # fmt: skip


def _warn_of_like_classes(labels: Sequence[str]) -> None:
    like = like_classes(labels)
    if like:
        warnings.warn(
            f"the classes {', '.join(map(repr, like))} differ in case or spaces alone and are kept apart: if they are "
            "one class, give them one name before they are merged",
            UserWarning,
            stacklevel=3,
        )


def _leave_out_fill(values: np.ndarray, centres: np.ndarray) -> None:
    """Make bands of spectra (L, S) that hold only fill missing."""
    fill = fill_bands(values.T)
    if fill.any():
        warnings.warn(
            f"{int(fill.sum())} of {len(fill)} bands hold the same number, fill, in every spectrum and are taken as "
            f"missing: {ranges_in_nm(centres, fill)}",
            UserWarning,
            stacklevel=3,
        )
        values[fill] = np.nan
