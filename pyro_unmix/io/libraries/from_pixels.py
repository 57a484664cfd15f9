"""A spectral library from pixels of images that are known to be pure."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from numbers import Integral
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from pyro_unmix.data.lazy import as_cubes
from pyro_unmix.data.types import ImagesLike
from pyro_unmix.io.libraries.polygons import polygon_masks
from pyro_unmix.io.opening import open_images
from pyro_unmix.ops.checks import positive_int, true_or_false

logger = logging.getLogger(__name__)

#: Where the pixels of each class are: masks by class, or a file of polygons.
ClassPixels: TypeAlias = Mapping[str, ArrayLike | xr.DataArray] | str | os.PathLike[str]


def library_from_pixels(
    cubes: ImagesLike,
    classes: ClassPixels,
    *,
    time: int | None = None,
    field: str | None = None,
    layer: str | None = None,
    crs: str | None = None,
    all_touched: bool = False,
    max_spectra: int | None = None,
    seed: int = 0,
    origin: tuple[int, int] = (0, 0),
) -> xr.DataArray:
    """Spectra of pixels whose class is known, as a library.

    Parameters
    ----------
    cubes
        Anything that `as_cube_sequence` takes, reflectance, in memory or in chunks, of which only these pixels are
        read; or files, as `open_images` reads them. Polygons need its CRS and place, as `read_sequence` gives them. Not
        changed.
    classes : mapping of class to mask, or path
        Masks, bool, (H, W) or (T, H, W). Or polygons in GeoJSON, a shapefile or a GeoPackage with a field for the
        class: pixels whose centres lie in them, after they were brought to the CRS of the images. Pixels in several
        classes belong to none, with a warning, and missing pixels are left out.
    time : int, optional
        Position of the date at which masks (H, W) or polygons hold, negative from the last; needed where there are
        several dates.
    field : str, optional
        Of the class, any case; default the first of class, label, material, category, type.
    layer : str, optional
        Of a GeoPackage with several.
    crs : str, optional
        Of polygons whose file does not say it, for example ``"EPSG:32633"``. GeoJSON is longitude and latitude.
    all_touched : bool
        Take every pixel that a polygon touches, for polygons smaller than a pixel: these are hardly pure.
    max_spectra : int, optional
        Of each class, drawn at random; default all.
    seed : int
        Of that draw.
    origin : (row, column)
        Of the first pixel in the whole image, where `cubes` are a part of it; ``source`` counts from there.

    Returns
    -------
    DataArray (wavelength, endmember)
        Names are the class with a number, ``label`` the classes, ``source`` row, column (from 0) and date.
        `write_library` writes it.

    Raises
    ------
    TypeError, ValueError
        If the images, a mask or a setting is not as described, or a class has no pixel that was observed.
    FileError
        If the class field is missing, the CRS unknown, or no polygon meets the image.
    ImportError
        Polygons need ``pip install "pyro-unmix[io,vector]"``.

    Examples
    --------
    >>> import numpy as np, pyro_unmix as pu
    >>> cubes = pu.as_cube_sequence(np.array([[[.1, .2], [.3, .4], [.5, .5]]]), wavelength=[500., 600.])
    >>> library = pu.io.library_from_pixels(cubes, {"soil": [[True, True, False]], "snow": [[False, False, True]]})
    >>> library.values.tolist(), library["label"].values.tolist()
    ([[0.1, 0.3, 0.5], [0.2, 0.4, 0.5]], ['soil', 'soil', 'snow'])
    """
    if max_spectra is not None:
        positive_int(max_spectra, "max_spectra")
    seed = positive_int(seed, "seed", minimum=0)
    true_or_false(all_touched, "all_touched")
    first = (0, *(positive_int(place, "origin", minimum=0) for place in origin))
    sequence = as_cubes(open_images(cubes))
    if isinstance(classes, Mapping):
        of_polygons = {
            "field=": field is not None,
            "layer=": layer is not None,
            "crs=": crs is not None,
            "all_touched=": all_touched,
        }
        if any(of_polygons.values()):
            listed = " and ".join(name for name, given in of_polygons.items() if given)
            raise TypeError(
                f"{listed} is of polygons, but masks are given: leave it out, or give a file of polygons"
            )
        given: Mapping[str, Any] = classes
    else:
        given = polygon_masks(
            Path(classes), sequence, field=field, layer=layer, crs=crs, all_touched=all_touched
        )  # fmt: skip
    masks = _without_shared(_checked(given, sequence, time))
    rng = np.random.default_rng(seed)
    parts, labels, sources = [], list[str](), list[str]()
    for label, mask in masks.items():
        spectra, where = _observed(sequence, mask, label)
        if max_spectra is not None and len(spectra) > max_spectra:
            kept = np.sort(rng.choice(len(spectra), max_spectra, replace=False))
            spectra, where = spectra[kept], where[kept]
        parts.append(spectra)
        labels += [label] * len(spectra)
        sources += [_source(sequence, *place) for place in (where + first).tolist()]
    counts = dict.fromkeys(masks, 0)
    names = []
    for label in labels:
        counts[label] += 1
        names.append(f"{label} {counts[label]}")
    bands = {n: c for n, c in sequence.coords.items() if c.dims == ("wavelength",)}
    return xr.DataArray(
        np.concatenate(parts).T,
        dims=("wavelength", "endmember"),
        coords={
            **bands,
            "endmember": names,
            "label": ("endmember", labels),
            "source": ("endmember", sources),
        },
        name="library",
        attrs={"long_name": "reflectance", "units": "1"},
    )


def _checked(
    given: Mapping[str, Any], cubes: xr.DataArray, time: int | None
) -> dict[str, np.ndarray]:
    """Masks (T, H, W) by class."""
    if not given:
        raise ValueError("classes must hold a mask for each class, got none")
    shape = tuple(cubes.sizes[dim] for dim in ("time", "y", "x"))
    return {str(label): _mask(label, mask, shape, time) for label, mask in given.items()}


def _mask(label: Any, mask: Any, shape: tuple[int, ...], time: int | None) -> np.ndarray:
    if not isinstance(label, str) or not label.strip():
        raise ValueError(f"classes must be texts that are not empty, got {label!r}")
    if isinstance(mask, xr.DataArray):
        mask = mask.transpose(*(dim for dim in ("time", "y", "x") if dim in mask.dims))
    values = np.asarray(mask)
    if values.dtype != bool:
        raise TypeError(
            f"the mask of {label!r} must hold True and False, got {values.dtype}: pass mask > 0, or mask == number"
        )
    if values.shape == shape:
        if time is not None:
            raise ValueError(
                f"the mask of {label!r} is of all dates: leave out time=, or pass {shape[1:]}"
            )
        return values
    if values.shape != shape[1:]:
        raise ValueError(
            f"the mask of {label!r} must be {shape[1:]} or {shape}, the pixels of the images, got {values.shape}"
        )
    if time is None and shape[0] > 1:
        raise ValueError(
            f"the images are of {shape[0]} dates: pass time= the position of the date at which the classes hold, or "
            "masks of all dates"
        )
    position = 0 if time is None else time
    whole = isinstance(position, Integral) and not isinstance(position, bool)
    if not (whole and -shape[0] <= position < shape[0]):
        raise ValueError(
            f"time must be the position of a date, 0 to {shape[0] - 1}, or negative from the last, got {time!r}"
        )
    dates = np.zeros(shape[0], dtype=bool)
    dates[position] = True
    return np.asarray(dates[:, None, None] & values)


def _without_shared(masks: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    shared = sum(mask.astype(int) for mask in masks.values()) > 1
    if np.any(shared):
        names = [label for label, mask in masks.items() if (mask & shared).any()]
        logger.warning(
            "%d pixels are in several of the classes %s and are left out",
            np.sum(shared), ", ".join(names),
        )  # fmt: skip
    return {label: mask & ~shared for label, mask in masks.items()}


def _observed(cubes: xr.DataArray, mask: np.ndarray, label: str) -> tuple[np.ndarray, np.ndarray]:
    """Spectra (n, L) of the pixels of a mask that were observed, and their (date, row, column)."""
    where = np.argwhere(mask)
    at = {
        dim: xr.DataArray(places, dims="endmember")
        for dim, places in zip(("time", "y", "x"), where.T, strict=True)
    }
    plain = cubes.drop_vars(
        [name for name in cubes.coords if name not in at and name != "wavelength"]
    )
    spectra = plain.isel(at).transpose("endmember", "wavelength").to_numpy()
    seen = np.isfinite(spectra).all(axis=1)
    if not seen.any():
        why = "has no pixel" if not len(where) else f"has {len(where)} pixels, all of them missing"
        raise ValueError(
            f"the class {label!r} {why}: leave it out, or give it pixels that were observed"
        )
    if not seen.all():
        logger.info(
            "%s: left out %d of %d pixels, which are missing", label, (~seen).sum(), len(seen)
        )
    return spectra[seen].astype(np.float64), where[seen]


def _source(cubes: xr.DataArray, date: int, row: int, column: int) -> str:
    text = f"row {row} column {column}"
    if "time" not in cubes.coords:
        return text if cubes.sizes["time"] == 1 else f"{text} date {date}"
    time = cubes["time"].to_numpy()[date]
    if isinstance(time, np.datetime64):
        return f"{text} {np.datetime_as_string(time, unit='D')}"
    return f"{text} time {time:g}"
