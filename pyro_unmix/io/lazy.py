"""Reflectance as dask arrays: files are read by blocks of rows, when and where they are needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from pyro_unmix.data.checks import as_wavelengths
from pyro_unmix.data.cubes import tiles
from pyro_unmix.io.errors import FileError
from pyro_unmix.io.image import Image
from pyro_unmix.io.reflectance import Darkness, is_nodata, per_band, reflectance, scaling
from pyro_unmix.io.rows import FileRows

_BLOCK = 2**21  # numbers per block
_SAMPLE = 2**19  # numbers that are looked at beforehand


def import_dask() -> Any:
    """Return dask; without it, an ImportError that says how to get it."""
    try:
        return import_module("dask")
    except ImportError as error:
        raise ImportError('chunks= needs dask: pip install "pyro-unmix[scale]"') from error


def lazy_reflectance(
    images: Sequence[Image], paths: Sequence[Path], keep: np.ndarray, nodata: float | None
) -> Any:
    """Return what `reflectance` does of all images, joined in time, as a dask array (T, H, W, kept).

    Whether the numbers can be reflectances at all is seen from a sample of rows, at once; zeros in
    all bands are marked as missing, as `as_cube_sequence` does.

    Raises
    ------
    FileError
        If the sample holds no plausible reflectance, or is all that there is and has no valid pixel; later, if a block
        cannot be decoded.
    """
    array = import_module("dask.array")
    parts, hopeful = [], False
    for image, path in zip(images, paths, strict=True):
        darkness = Darkness()
        for t in range(image.num_dates):
            hopeful |= _check_sample(image, path, keep, nodata, t, darkness)
            parts.append(_date(image, path, keep, nodata, t))
        darkness.warn(path)
    if not hopeful:
        problem = "each pixel has no data in some band, or zeros in all of them, at each date"
        raise FileError(", ".join(map(str, paths)), "values", problem)
    return array.concatenate(parts, axis=0)


def checked(cubes: xr.DataArray) -> xr.DataArray:
    """What `as_cube_sequence` checks without the values, and the name it gives."""
    tiles(cubes)
    if "wavelength" in cubes.coords:
        as_wavelengths(cubes["wavelength"], cubes.sizes["wavelength"])
    return cubes.rename("reflectance")


def _date(image: Image, path: Path, keep: np.ndarray, nodata: float | None, t: int) -> Any:
    delayed, array = import_dask().delayed, import_module("dask.array")
    height, width = image.grid
    dtype = _Block(image, path, keep, nodata, t)(slice(0, 1)).dtype
    slab = getattr(image.date(t), "slab", 1)
    step = max(slab, _BLOCK // (width * image.num_bands) // slab * slab)
    # Neither looked into nor hashed: both would read the file.
    block = delayed(_Block(image, path, keep, nodata, t), pure=False, traverse=False)
    rows = [slice(row, min(row + step, height)) for row in range(0, height, step)]
    shape = (width, int(np.count_nonzero(keep)))
    blocks = [
        array.from_delayed(block(part), (1, part.stop - part.start, *shape), dtype) for part in rows
    ]
    return array.concatenate(blocks, axis=1)


class _Block:
    """Rows of one date as reflectance (1, rows, W, kept)."""

    def __init__(
        self, image: Image, path: Path, keep: np.ndarray, nodata: float | None, time: int
    ) -> None:
        self.image, self.path, self.keep, self.time = image, path, keep, time
        self.marks = image.nodata if nodata is None else nodata

    def __call__(self, rows: slice) -> np.ndarray:
        stored = np.asarray(self.image.date(self.time)[rows])
        kind, size = stored.dtype.kind, stored.dtype.itemsize
        wide = size > (4 if kind == "f" else 2)
        factor, shift = (per_band(p, self.keep) for p in scaling(self.image, self.path, None))
        numbers = stored[..., self.keep]
        with np.errstate(over="ignore", invalid="ignore"):
            out = numbers.astype(np.float64) * factor + shift
        if self.marks is not None:
            out[is_nodata(numbers, per_band(self.marks, self.keep))] = np.nan
        out[~out.any(axis=-1)] = np.nan
        return out.astype(np.float64 if wide else np.float32)[np.newaxis]


def _check_sample(
    image: Image,
    path: Path,
    keep: np.ndarray,
    nodata: float | None,
    time: int,
    darkness: Darkness,
) -> bool:
    """Look at rows of a date; return whether it may hold a valid pixel."""
    height, width = image.grid
    count = min(height, max(1, _SAMPLE // (width * image.num_bands)))
    wanted = np.unique(np.linspace(0, height - 1, count).round().astype(int)).tolist()
    date = image.date(time)
    sample = np.stack(list(date.rows(wanted) if isinstance(date, FileRows) else date[wanted]))
    plain: dict[str, Any] = {"x": None, "y": None, "tile": None, "dates": None}
    part = replace(image, values=sample, **plain)
    found = reflectance(part, keep, path=path, nodata=nodata, darkness=darkness)
    valid = ~np.isnan(found).any(axis=-1) & found.any(axis=-1)
    return len(wanted) < height or bool(valid.any())
