"""Spectral libraries: many spectra with class labels, brought to a scene's bands, means and variability of classes.

A *library* is a DataArray (wavelength, endmember) of reflectance with a coordinate ``label`` on ``endmember``, the
class of each spectrum. `pyro_unmix.io.libraries.library.read_library` makes one from a file. A band that is NaN in
every spectrum is missing: nothing is interpolated across it, and no method uses it.
"""

from __future__ import annotations

from typing import Any, TypeGuard

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from pyro_unmix.data.bands import local_spacing, ranges_in_nm, runs_of_bands, same_bands
from pyro_unmix.data.checks import as_wavelengths
from pyro_unmix.ops.checks import finite_array

# nm: a library may end this much before the last band of a scene (headers round to tenths).
_EDGE = 0.1


def is_library(x: object) -> TypeGuard[xr.DataArray]:
    """Whether `x` is a DataArray with the coordinate ``label`` along ``endmember``.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> spectra = pu.simulate.library([500, 600, 700])
    >>> library = spectra.isel(
    ...     endmember=[0, 1, 2]).assign_coords(label=('endmember', ['plant', 'soil', 'soil'])
    ... )
    >>> pu.data.is_library(library), pu.data.is_library(spectra)
    (True, False)
    """
    return isinstance(x, xr.DataArray) and "label" in x.coords and x["label"].dims == ("endmember",)


def has_several(x: object) -> TypeGuard[xr.DataArray]:
    """Whether it is a library that has several spectra of a class."""
    return is_library(x) and len(set(x["label"].values)) < x["label"].size


def missing_bands(library: xr.DataArray) -> np.ndarray:
    """Which bands of a library hold nothing, NaN in every spectrum: (L,), bool."""
    values = library.transpose("wavelength", "endmember").to_numpy()
    return np.isnan(values).all(axis=1)


def library_endmembers(library: xr.DataArray) -> xr.DataArray:
    """Mean spectrum of each class.

    Parameters
    ----------
    library : DataArray (wavelength, endmember) with the coordinate ``label``

    Returns
    -------
    DataArray (wavelength, endmember)
        Named by class, in the order in which the classes first appear. Missing bands stay missing.

    Raises
    ------
    ValueError
        If `library` is no such array, or not finite in bands that are not missing in all spectra.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> spectra = pu.simulate.library([500, 600, 700])
    >>> library = spectra.isel(
    ...     endmember=[0, 1, 2]).assign_coords(label=('endmember', ['plant', 'soil', 'soil'])
    ... )
    >>> pu.data.library_endmembers(library)['endmember'].values.tolist()
    ['plant', 'soil']
    """
    spectra, labels = _labelled(library)
    means = np.stack([spectra[:, labels == label].mean(1) for label in order_of(labels)], axis=1)
    return xr.DataArray(
        means,
        dims=("wavelength", "endmember"),
        coords={**_band_coords(library), "endmember": order_of(labels)},
        name="endmembers",
        attrs={"long_name": "endmember reflectance", "units": "1"},
    )


def resample_library(
    library: xr.DataArray, wavelength: ArrayLike | xr.DataArray, fwhm: ArrayLike | None = None
) -> xr.DataArray:
    """Spectra as a sensor with other bands sees them: Gaussian responses, SPy's `BandResampler`.

    A source band is taken as constant over its own fwhm. SPy cuts the Gaussian of a target band off at half its
    maximum. An unknown fwhm of a target band is the median of the six gaps around it (`local_spacing`), so that
    overlapping detectors and dropped bands do not change it; source bands reach to their farther neighbour, but across
    no hole wider than three times that median.

    Parameters
    ----------
    library : DataArray (wavelength, endmember)
        With the coordinate ``wavelength`` (nm, any order) and perhaps ``fwhm`` (nm).
    wavelength : array (L,) in nm, or cubes
        Band centres in any order. Cubes, a DataArray with a dim ``wavelength``, give their own centres and, where
        they have the coordinate, ``fwhm``.
    fwhm : array (L,), optional
        Full width at half maximum of the target bands, nm.

    Returns
    -------
    DataArray (wavelength, endmember)
        The coordinates of the spectra are kept. Where the bands are the same already (centres and
        widths to a tenth of the width), the spectra are, too. A band that sees any of a missing one is missing, NaN.

    Raises
    ------
    ValueError
        If wavelengths are missing, or bands lie where the library has none; the text names them.
    ImportError
        Without SPy (``pip install "pyro-unmix[io]"``).

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> spectra = pu.simulate.library([500, 600, 700])
    >>> library = spectra.isel(
    ...     endmember=[0, 1, 2]).assign_coords(label=('endmember', ['plant', 'soil', 'soil'])
    ... )
    >>> pu.data.resample_library(library, [550, 650])['wavelength'].values.tolist()
    [550.0, 650.0]
    """
    library = _as_spectra(library)
    if "wavelength" not in library.coords:
        raise ValueError("the library has no coordinate wavelength: add it, in nm")
    centres, widths = target_bands(wavelength, fwhm)
    source = as_wavelengths(library["wavelength"], library.sizes["wavelength"])
    source_widths = library["fwhm"].to_numpy() if "fwhm" in library.coords else None
    if _same_bands(source, source_widths, centres, widths):
        return library.copy()
    matrix = resampling_matrix(source, source_widths, centres, widths)
    uncovered = centres[np.isnan(matrix).any(1)]
    if len(uncovered):
        shown = ", ".join(f"{c:g}" for c in uncovered[:5]) + (", ..." if len(uncovered) > 5 else "")
        raise ValueError(
            f"the library has nothing at {len(uncovered)} of {len(centres)} bands ({shown} nm; it "
            f"spans {source.min():g} to {source.max():g} nm): leave those bands out, "
            f"ignore='{as_ignored(centres, np.isnan(matrix).any(1))}', or take another library"
        )
    bands: dict[str, Any] = {"wavelength": ("wavelength", centres, {"units": "nm"})}
    if widths is not None:
        bands["fwhm"] = ("wavelength", widths, {"units": "nm"})
    coords = {n: c for n, c in library.coords.items() if "wavelength" not in c.dims} | bands
    values = resampled(matrix, library.to_numpy())
    return xr.DataArray(values, coords, library.dims, library.name, library.attrs)


def resampled(matrix: np.ndarray, values: np.ndarray) -> np.ndarray:
    """``matrix @ values`` of spectra (L, S), NaN where the matrix takes anything from a band that is NaN."""
    missing = np.isnan(values)
    weights = np.abs(matrix) > 0
    result = matrix @ np.where(missing, 0.0, values)
    result[(weights.astype(float) @ missing.astype(float)) > 0] = np.nan
    return result


def as_ignored(centres: np.ndarray, which: np.ndarray) -> str:
    """Bands as the value of ``ignore=``, rounded outwards, so that they are inside."""
    runs = runs_of_bands(centres, which)
    return ",".join(f"{np.floor(low):.0f}-{np.ceil(high):.0f}" for low, high in runs)


def _same_bands(
    source: np.ndarray,
    source_fwhm: np.ndarray | None,
    target: np.ndarray,
    target_fwhm: np.ndarray | None,
) -> bool:
    if not same_bands(target, source, source_fwhm if target_fwhm is None else target_fwhm):
        return False
    if source_fwhm is None or target_fwhm is None:
        return True
    return np.allclose(source_fwhm, target_fwhm, rtol=0.1)


def at_bands_of(library: xr.DataArray, cubes: xr.DataArray) -> xr.DataArray:
    """The library at the bands of cubes: as it is where they are the same (see `band_tolerance`), else resampled.

    Raises
    ------
    ValueError
        If bands cannot be matched, or the library has none of the cubes' somewhere; the text says which.
    """
    matched = matched_to(library, cubes)
    missing = missing_bands(matched)
    if missing.any():
        where = f"{int(missing.sum())} of {len(missing)} bands"
        if "wavelength" in matched.coords:
            centres = matched["wavelength"].to_numpy()
            where += f" ({ranges_in_nm(centres, missing)})"
            where += f": leave them out, ignore='{as_ignored(centres, missing)}'"
        raise ValueError(f"the library has no values at {where}")
    return matched


def matched_to(library: xr.DataArray, cubes: xr.DataArray) -> xr.DataArray:
    """As `at_bands_of`, but bands that are missing in the library are NaN and no error."""
    if "wavelength" not in cubes.coords or "wavelength" not in library.coords:
        if library.sizes["wavelength"] != cubes.sizes["wavelength"]:
            raise ValueError(
                f"the library has {library.sizes['wavelength']} bands and the cubes have "
                f"{cubes.sizes['wavelength']}; without the coordinate wavelength on both they "
                "cannot be matched: pass wavelength= to as_cube_sequence"
            )
        return library
    ours, theirs = library["wavelength"].to_numpy(), cubes["wavelength"].to_numpy()
    fwhm = cubes["fwhm"].to_numpy() if "fwhm" in cubes.coords else None
    if same_bands(theirs, ours, fwhm):
        return library
    places = _places_of(theirs, fwhm, ours)
    return resample_library(library, cubes) if places is None else library.isel(wavelength=places)


def _places_of(theirs: np.ndarray, fwhm: np.ndarray | None, ours: np.ndarray) -> np.ndarray | None:
    """Where the bands of a scene are among those of a library, if it has them all and more; None if it has not.

    A library of narrower bands has centres everywhere, too: it is to be resampled.
    """
    if min(len(theirs), len(ours)) < 2:
        return None
    places = np.abs(theirs[:, None] - ours).argmin(1)
    widths = local_spacing(theirs) if fwhm is None else fwhm
    as_wide = (local_spacing(ours)[places] > widths / 2).all()
    distinct = len(np.unique(places)) == len(places)
    return places if as_wide and distinct and same_bands(theirs, ours[places], widths) else None


def resampling_matrix(
    source: np.ndarray,
    source_fwhm: np.ndarray | None,
    target: np.ndarray,
    target_fwhm: np.ndarray | None,
) -> np.ndarray:
    """SPy's matrix (target, source) for bands in any order; NaN in the rows of bands that are not covered."""
    try:
        from spectral import BandResampler
    except ImportError as error:
        raise ImportError(
            'resampling needs the package spectral: pip install "pyro-unmix[io]"'
        ) from error
    # SPy stops at the first source band beyond the target: it needs them in order.
    order = np.argsort(source, kind="stable")
    ours = source[order]
    widths = _reach(ours) if source_fwhm is None else np.asarray(source_fwhm, float)[order]
    theirs = local_spacing(target) if target_fwhm is None else target_fwhm
    # A band beyond the ends would be extrapolated, even if its flank touches them.
    low, high = (ours - widths / 2).min() - _EDGE, (ours + widths / 2).max() + _EDGE
    touched = np.abs(target[:, None] - ours) < (widths + theirs[:, None]) / 2
    covered = touched.any(1) & (target >= low) & (target <= high)
    matrix = np.full((len(target), len(source)), np.nan)
    if covered.any():
        resampler = BandResampler(
            ours.tolist(), target[covered].tolist(), widths.tolist(), theirs[covered].tolist()
        )
        matrix[np.ix_(covered, order)] = resampler.matrix
    return matrix


def target_bands(
    wavelength: ArrayLike | xr.DataArray, fwhm: ArrayLike | None
) -> tuple[np.ndarray, np.ndarray | None]:
    if isinstance(wavelength, xr.DataArray) and wavelength.ndim > 1:
        if "wavelength" not in wavelength.coords:
            raise ValueError(
                "the cubes have no coordinate wavelength, so that the library cannot be brought "
                "to their bands: pass wavelength= to as_cube_sequence"
            )
        if fwhm is None and "fwhm" in wavelength.coords:
            fwhm = wavelength["fwhm"].to_numpy()
        wavelength = wavelength["wavelength"]
    centres = as_wavelengths(wavelength, int(np.size(wavelength)))
    if fwhm is None:
        return centres, None
    widths = finite_array(fwhm, "fwhm", ndim=1)
    if widths.shape != centres.shape or not (widths > 0).all():
        raise ValueError(
            f"fwhm must hold one positive width per band, shape {centres.shape}, got shape "
            f"{widths.shape} with a smallest value of {widths.min(initial=np.inf):g}"
        )
    return centres, widths


def _reach(centres: np.ndarray) -> np.ndarray:
    """Width of source bands in order: up to the farther neighbour, but not across a hole."""
    gaps = np.diff(centres)
    farther = np.maximum(np.append(gaps, 0), np.insert(gaps, 0, 0))
    return np.minimum(farther, 3 * local_spacing(centres))


def _as_spectra(library: object) -> xr.DataArray:
    if not isinstance(library, xr.DataArray) or set(library.dims) != {"wavelength", "endmember"}:
        got = library.dims if isinstance(library, xr.DataArray) else type(library).__name__
        raise ValueError(
            "a library must be a DataArray with the dims ('wavelength', 'endmember'), got "
            f"{got}: make it with read_library"
        )
    library = library.transpose("wavelength", "endmember")
    finite_array(library.to_numpy()[~missing_bands(library)], "library", ndim=2)
    return library


def checked_library(library: object) -> xr.DataArray:
    """A library (wavelength, endmember) with classes and wavelengths in nm, in that order of dims.

    Raises
    ------
    ValueError
        If it is no such array, or not finite in bands that are not missing in all spectra.
    """
    spectra = _as_spectra(library)
    _check_labelled(spectra)
    if "wavelength" not in spectra.coords:
        raise ValueError("the library has no coordinate wavelength: add it, in nm")
    as_wavelengths(spectra["wavelength"], spectra.sizes["wavelength"])
    return spectra


def classes_of(library: xr.DataArray) -> tuple[np.ndarray, np.ndarray]:
    """Spectra (L, S) and their classes (S,) as text; of a library without missing bands."""
    spectra, labels = _labelled(library)
    if np.isnan(spectra).any():
        raise ValueError(
            f"the library has no values at {np.isnan(spectra).all(1).sum()} of {len(spectra)} bands: leave them out, "
            "library.dropna('wavelength'), in the images, too"
        )
    return spectra, labels


def _labelled(library: xr.DataArray) -> tuple[np.ndarray, np.ndarray]:
    spectra = _as_spectra(library)
    _check_labelled(spectra)
    return spectra.to_numpy().astype(np.float64), spectra["label"].to_numpy().astype(str)


def _check_labelled(spectra: xr.DataArray) -> None:
    if not is_library(spectra):
        raise ValueError(
            "a library must have the coordinate label along endmember, the class of each "
            "spectrum: add it, for example x.assign_coords(label=('endmember', classes))"
        )


def order_of(labels: np.ndarray) -> list[str]:
    return list(dict.fromkeys(labels.tolist()))


def _band_coords(library: xr.DataArray) -> dict[Any, Any]:
    return {n: c for n, c in library.coords.items() if c.dims == ("wavelength",)}
