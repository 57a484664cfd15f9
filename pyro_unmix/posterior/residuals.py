"""What a result leaves unexplained: residual spectra, their RMSE, and when they or the endmembers are implausible."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from pyro_unmix.data.lazy import is_lazy, tile_regions
from pyro_unmix.posterior import spectra

if TYPE_CHECKING:
    from pyro_unmix.posterior.result import Unmixing

logger = logging.getLogger(__name__)

#: RMSE of most pixels that is worth a word, in units of the noise.
FAR_ABOVE_NOISE = 5.0
#: Reflectance beyond 0 and 1 that endmembers may have, whatever the noise: dark bands after a correction, and glint.
MARGIN = 0.05
_ALL = slice(None)
_BLOCK = 2**22  # numbers that are in memory at once
_MOST_PIXELS, _MOST_DATES = 4000, 3  # behind a warning


def residual(result: Unmixing, time: int) -> xr.DataArray:
    """See `Unmixing.residual`."""
    images = spectra.as_reflectance(result, _images(result, "residual").isel(time=time))
    fitted = result.reconstruct(time)
    left = images.transpose("y", "x", "wavelength").to_numpy() - fitted.to_numpy()
    left[~result.valid.isel(time=time).transpose("y", "x").to_numpy()] = np.nan
    attributes = {"long_name": "residual reflectance", "units": "1"}
    return fitted.copy(data=left).rename("residual").assign_attrs(attributes)


def has_rmse(result: Unmixing) -> bool:
    """Whether the RMSE is known, or can be computed for maps in memory; images may be in chunks."""
    if "rmse" in result.dataset:
        return True
    if result.cubes is None or not result.has_endmembers:
        return False
    # Coordinates in chunks, such as widths of bands that came with the images, are no maps.
    return not any(maps.chunks for maps in result.dataset.data_vars.values())


def rmse(result: Unmixing) -> xr.DataArray:
    """See `Unmixing.rmse`."""
    if "rmse" in result.dataset:
        return result.dataset["rmse"]
    maps = result.valid.transpose("time", "y", "x")
    values = np.full(maps.shape, np.nan)
    for rows, columns, part in _blocks(result):
        for time in range(len(values)):
            squares = np.square(residual(part, time).to_numpy(), dtype=np.float64)
            values[time, rows, columns] = np.sqrt(squares.mean(-1))
    attributes = {"long_name": "root mean square error of the reconstruction", "units": "1"}
    array = maps.astype(float).copy(data=values).rename("rmse")
    array.attrs = attributes
    return array


def _images(result: Unmixing, what: str) -> xr.DataArray:
    """The images at the dates of the result, which may have been asked for others."""
    if result.cubes is None:
        raise ValueError(
            f".{what} needs the images, and this result was saved without them: call result.predict(cubes).{what}, or "
            "compare the images with result.reconstruct(time)"
        )
    cubes, dates = result.cubes, result.dataset.coords.get("time")
    if (
        dates is not None
        and "time" in cubes.coords
        and not np.array_equal(cubes["time"].values, dates.values)
    ):
        cubes = cubes.sel(time=dates.values)
    sizes = [tuple(part.sizes[dim] for dim in ("time", "y", "x")) for part in (cubes, result.valid)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f".{what} needs images and maps of the same (time, y, x), got {sizes[0]} and {sizes[1]}"
        )
    return cubes


def _blocks(result: Unmixing) -> Iterator[tuple[slice, slice, Unmixing]]:
    """Rows, columns, and the result of these alone, in memory: of images in chunks, a chunk."""
    images = _images(result, "rmse")
    if is_lazy(images):
        for rows, columns in tile_regions(images):
            yield rows, columns, _part(result, images, rows, columns)
        return
    height = images.sizes["y"]
    step = max(1, int(_BLOCK // max(1, images.size // height)))
    for start in range(0, height, step):
        rows = slice(start, start + step)
        yield rows, _ALL, _part(result, images, rows)


def _part(
    result: Unmixing, images: xr.DataArray, rows: slice | np.ndarray, columns: slice = _ALL
) -> Unmixing:
    place = {"y": rows, "x": columns}
    maps = {
        name: array.isel(place, missing_dims="ignore")
        for name, array in result.dataset.data_vars.items()
    }
    dataset = xr.Dataset(maps, attrs=result.dataset.attrs).load()
    return replace(result, dataset=dataset, cubes=images.isel(place).compute())


def warn_of_misfit(result: Unmixing, noise_scale: float | None) -> None:
    """Log a WARNING where endmembers leave [0, 1] by more than noise, or most pixels are fitted far worse than noise.

    Looked at are some rows and dates from all over the result.

    Parameters
    ----------
    result : Unmixing
        With its images.
    noise_scale : float, optional
        Std of the noise, reflectance; without it the RMSE is not judged.
    """
    if not has_rmse(result):
        return
    images = _images(result, "rmse")
    count = max(1, _MOST_PIXELS // images.sizes["x"])
    rows = np.unique(np.linspace(0, images.sizes["y"] - 1, count).astype(int))
    part = _part(result, images, rows)
    dates = np.unique(np.linspace(0, images.sizes["time"] - 1, _MOST_DATES).astype(int))
    low, high, errors = np.inf, -np.inf, []
    for time in dates:
        # Spectra that were given are not to be judged with the brightness of a pixel.
        own = "brightness" not in part.dataset
        found = (
            spectra.endmembers(part, int(time)) if own else part.reference_endmembers
        ).to_numpy()
        if np.isfinite(found).any():
            low, high = min(low, np.nanmin(found)), max(high, np.nanmax(found))
        errors.append(np.sqrt(np.square(residual(part, int(time)).to_numpy()).mean(-1)).ravel())
    margin = max(MARGIN, FAR_ABOVE_NOISE * (noise_scale or 0.0))
    if low < -margin or high > 1 + margin:
        logger.warning(
            "endmembers reach from %.3g to %.3g, beyond reflectances of 0 to 1 by more than noise: do not trust them "
            "or their abundances there; the model, the bands (ignore=) or the scale may not fit the images",
            low, high,
        )  # fmt: skip
    observed = np.concatenate(errors)
    observed = observed[np.isfinite(observed)]
    if not noise_scale or not observed.size:
        return
    median = float(np.median(observed))
    if median > FAR_ABOVE_NOISE * noise_scale:
        logger.warning(
            "half of the pixels have an RMSE above %.2g, %.0f times the noise (%.2g): materials vary, or one is "
            "missing; result.rmse maps it, and .residual() shows at which wavelengths",
            median, median / noise_scale, noise_scale,
        )  # fmt: skip
