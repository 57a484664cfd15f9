"""What all methods take: a number of materials or their spectra, a seed, and settings of `fit`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from pyro_unmix.data.bands import Ignore, ranges_in_nm, same_bands
from pyro_unmix.data.checks import as_endmembers
from pyro_unmix.data.cubes import DIMS, to_pixels, valid_spectra
from pyro_unmix.data.ignored import ignored_of, without_bands
from pyro_unmix.data.lazy import as_cubes, is_lazy
from pyro_unmix.data.libraries import (
    at_bands_of,
    is_library,
    library_endmembers,
    matched_to,
    missing_bands,
)
from pyro_unmix.data.types import CubesLike, ImagesLike
from pyro_unmix.infer.settings import FitSettings
from pyro_unmix.io.opening import open_images
from pyro_unmix.ops.checks import positive_int
from pyro_unmix.posterior.residuals import warn_of_misfit
from pyro_unmix.posterior.result import Unmixing
from pyro_unmix.start.extraction import vca
from pyro_unmix.start.noise import estimate_noise_scale

logger = logging.getLogger(__name__)

_MOST_SPECTRA = 20_000  # behind an estimate of the noise
_LEAST_ROWS = 20  # of them, as far as there are so many
_LEAST_SPECTRA = 2  # per band, from which the noise can be told


def check_settings(seed: int, settings: Mapping[str, Any], allowed: type = FitSettings) -> int:
    """The seed as an int; what the engine would refuse is refused before anything is computed."""
    if unknown := sorted(set(settings) - set(allowed.__annotations__)):
        engine = "fit" if allowed is FitSettings else "sample"
        raise TypeError(
            f"got an unexpected keyword argument {unknown[0]!r}: settings are those of `{engine}`"
        )
    return positive_int(seed, "seed", minimum=0)


def counted_bands(
    cubes: ImagesLike, endmembers: Any, ignore: Ignore = None
) -> tuple[CubesLike, Any]:
    """Images and spectra in the bands that count: without those to ignore, and those that a library has not.

    What every method does first. Images are not looked at where nothing is to be left out.

    Parameters
    ----------
    cubes
        Anything that `as_cube_sequence` takes, or files, as `open_images` reads them; with wavelengths, if bands are to
        be ignored.
    endmembers : array (L, P), library, or None
        At the bands of the images, or of those that are left; a library at any bands.
    ignore : str, sequence of pairs, or None
        See `pyro_unmix.data.bands.ignored_ranges`.
    """
    cubes = open_images(cubes)
    if ignore is not None:
        which = ignored_of(cubes, ignore)
        endmembers = _without(endmembers, cubes, which)
        cubes = without_bands(cubes, ignore)
    if not is_library(endmembers) or not missing_bands(endmembers).any():
        return cubes, endmembers
    images = as_cubes(cubes)
    library = matched_to(endmembers, images)
    missing = missing_bands(library)
    if not missing.any():
        return images, library
    centres = library["wavelength"] if "wavelength" in library.coords else None
    logger.warning(
        "left out %d of %d bands that the library does not have%s",
        missing.sum(), len(missing), "" if centres is None else f": {ranges_in_nm(centres, missing)}",
    )  # fmt: skip
    return images.isel(wavelength=~missing), library.isel(wavelength=~missing)


def _without(endmembers: Any, cubes: Any, which: np.ndarray) -> Any:
    """Spectra without the ignored bands, where they have the bands of the images; else as they are."""
    if isinstance(endmembers, xr.DataArray) and "wavelength" in endmembers.dims:
        first = cubes if isinstance(cubes, xr.DataArray) else cubes[0]
        # `coords.get` would make up numbers of bands.
        known = endmembers if "wavelength" in endmembers.coords else first
        same = same_bands(first["wavelength"].to_numpy(), known["wavelength"].to_numpy())
        if same and endmembers.sizes["wavelength"] == len(which):
            return endmembers.isel(wavelength=~which)
        return endmembers
    if endmembers is not None and np.ndim(endmembers) == 2 and len(endmembers) == len(which):
        return np.asarray(endmembers)[~which]
    return endmembers


_Judged = TypeVar("_Judged", bound=Unmixing)


def judged(result: _Judged) -> _Judged:
    """The result of a method, after a warning where it cannot be right; see `warn_of_misfit`.

    The noise is that of `estimate_noise_scale`, of scenes that have spectra enough to tell.
    """
    cubes = result.cubes
    if cubes is None or is_lazy(cubes):
        return result
    noise = None
    spectra = valid_spectra(_thinned(cubes))
    if len(spectra) >= _LEAST_SPECTRA * cubes.sizes["wavelength"]:
        noise = estimate_noise_scale.unchecked(xr.DataArray(spectra[None, :, None], dims=DIMS))
    warn_of_misfit(result, noise)
    return result


def _thinned(cubes: xr.DataArray) -> xr.DataArray:
    """Rows, and of few rows columns, from all over the images: some tens of thousands of spectra."""
    height, width = cubes.sizes["y"], cubes.sizes["x"]
    step = max(1, cubes.sizes["time"] * height * width // _MOST_SPECTRA)
    rows = min(step, max(1, height // _LEAST_ROWS))
    columns = min(-(-step // rows), width)
    rows = min(max(rows, step // columns), height)
    return cubes.isel(y=slice(None, None, rows), x=slice(None, None, columns))


def known_spectra(endmembers: ArrayLike | None, cubes: xr.DataArray) -> Any:
    """Spectra (L, P) that the user gave, checked; of a library the means of its classes at the bands of the cubes."""
    if is_library(endmembers):
        return library_endmembers(at_bands_of(endmembers, cubes))
    if endmembers is not None:
        as_endmembers(endmembers, cubes.sizes["wavelength"])
    return endmembers


def materials(
    cubes: xr.DataArray,
    num_endmembers: int | None,
    endmembers: ArrayLike | None,
    seed: int,
    minimum: int = 1,
) -> tuple[Any, int]:
    """Spectra (L, P), those given or VCA of all dates as in the ReDSUNN paper, and P."""
    spectra = known_spectra(endmembers, cubes)
    count = count_materials(num_endmembers, spectra, minimum=minimum)
    if spectra is None:
        pixels, valid = to_pixels(cubes)
        spectra = vca(pixels[valid], count, seed=seed)
    return spectra, count


def count_materials(num_endmembers: Any, endmembers: Any, *, minimum: int = 1) -> int:
    """P, as a number, or of checked spectra; both must agree.

    Raises
    ------
    TypeError
        If `num_endmembers` is no integer.
    ValueError
        If neither is given, or they do not agree.
    """
    if num_endmembers is None:
        if endmembers is None:
            raise ValueError(
                "expected num_endmembers, or the spectra of the materials as endmembers=...: got neither"
            )
        return int(endmembers.shape[1] if hasattr(endmembers, "shape") else len(endmembers[0]))
    if np.ndim(num_endmembers):
        raise TypeError(
            "num_endmembers must be the number of materials, got something of shape "
            f"{np.shape(num_endmembers)}: pass spectra by their name, endmembers=..."
        )
    count = positive_int(num_endmembers, "num_endmembers", minimum=minimum)
    if endmembers is not None and count_materials(None, endmembers) != count:
        raise ValueError(
            f"num_endmembers is {count}, but endmembers are the spectra of "
            f"{count_materials(None, endmembers)} materials: leave out num_endmembers, or pass (bands, {count})"
        )
    return count
