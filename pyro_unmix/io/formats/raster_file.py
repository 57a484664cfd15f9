"""What GDAL says about a TIFF or JPEG 2000 file, which must be complete."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pyro_unmix.io.errors import FileError, parsing
from pyro_unmix.io.image import assume
from pyro_unmix.io.integrity.gdal import closed_world
from pyro_unmix.io.integrity.tiff import check_jp2, check_tiff, is_jp2
from pyro_unmix.io.rows import FileRows

_WARNINGS = threading.Lock()

_PERCENT = ("%", "percent", "per cent", "pct")
_REFLECTANCE = ("", "1", "reflectance", "unitless", "dimensionless", "none", "-", *_PERCENT)


@dataclass
class Raster:
    """What GDAL says about a file; `values` (y, x, band) are the stored numbers, or `FileRows`."""

    values: Any
    nodata: Any
    crs: str | None
    transform: tuple[float, float, float, float, float, float] | None
    scales: np.ndarray
    offsets: np.ndarray
    descriptions: tuple[str | None, ...]
    tags: dict[str, str]
    band_tags: list[dict[str, str]]
    notes: list[str] = field(default_factory=list)

    @property
    def scaled(self) -> bool:
        """Whether the file states a scale or offset: GDAL reports 1 and 0 where there is none."""
        return bool((self.scales != 1).any() or (self.offsets != 0).any())


def import_rasterio() -> Any:
    """Return rasterio; without it, an ImportError that says how to get it."""
    try:
        import rasterio
    except ImportError as error:
        raise ImportError('raster files need rasterio: pip install "pyro-unmix[io]"') from error
    return rasterio


@contextmanager
def _opened(path: Path, driver: str, *, alone: bool = False) -> Iterator[Any]:
    """The image; `alone`, without the files beside it, which say nothing about stored numbers."""
    rasterio = import_rasterio()
    try:
        with closed_world(rasterio, path, alone=alone):
            # The filters of warnings belong to all threads.
            with _WARNINGS, warnings.catch_warnings():
                # A raster without georeference is legal here.
                warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
                # An absolute path is never taken for the name of a data set within a file.
                source = rasterio.open(path.absolute(), driver=driver)
            with source:
                yield source
    except rasterio.errors.RasterioError as error:
        raise FileError(path, "pixels", f"GDAL cannot read them: {error}") from error


def read_raster(path: Path, *, lazy: bool = False) -> Raster:
    """Read a TIFF or JPEG 2000 file, after a check that it is complete.

    Parameters
    ----------
    path : path
    lazy : bool
        Leave the numbers in the file: `values` is then a `FileRows`.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    FileError
        If it is no such file, truncated, or cannot be decoded.
    """
    import_rasterio()
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    if is_jp2(path):
        check_jp2(path)
        driver = "JP2OpenJPEG"
    else:
        check_tiff(path)
        driver = "GTiff"
    # Asked for IMAGERY, GDAL looks for files of many names in the folder, not only beside the image.
    what = "an image"  # not all errors of GDAL are rasterio's
    with parsing(path, "content", what), _opened(path, driver, alone=True) as source:
        imagery = source.tags(ns="IMAGERY")
    with parsing(path, "content", what), _opened(path, driver) as source:
        return _load(source, path, lazy, imagery)


def _load(source: Any, path: Path, lazy: bool, imagery: dict[str, str]) -> Raster:
    if np.dtype(source.dtypes[0]).kind not in "iuf" or len(set(source.dtypes)) > 1:
        problem = f"must be real numbers of one type, got {', '.join(sorted(set(source.dtypes)))}"
        raise FileError(path, "data type", problem)
    if is_jp2(path) and source.width * source.height * source.count > 20_000 * path.stat().st_size:
        problem = f"{source.height} x {source.width} is more than the file can hold"
        raise FileError(path, "size", problem)
    notes: list[str] = []
    bands = _spectral_bands(source, notes)
    missing = _masked(source, notes)
    dtype = np.dtype(source.dtypes[0])
    if missing is not None:
        wide = dtype.itemsize > (4 if dtype.kind == "f" else 2)
        dtype = np.dtype(np.float64 if wide else np.float32)
    shape = (source.height, source.width, len(bands))
    driver, piece = source.driver, source.block_shapes[0][0]

    def read(_: int, start: int, stop: int) -> np.ndarray:
        with _opened(path, driver, alone=True) as again:
            return _rows(again, bands, start, stop, dtype, missing)

    rows = FileRows(shape, dtype, read, piece)
    values = rows if lazy else _rows(source, bands, 0, source.height, dtype, missing)
    identity = source.transform == type(source.transform).identity()
    if identity and source.gcps[0]:
        notes.append("ground control points are not used: warp the image first (gdalwarp)")
    chosen = [band - 1 for band in bands]
    percent = _percent([source.units[i] for i in chosen], path, notes)
    marks = [source.nodatavals[i] for i in chosen]
    return Raster(
        values=values,
        nodata=_nodata(marks),
        crs=source.crs.to_wkt() if source.crs else None,
        transform=None if identity else tuple(source.transform)[:6],
        scales=np.array(source.scales, dtype=float)[chosen] * percent,
        offsets=np.array(source.offsets, dtype=float)[chosen] * percent,
        descriptions=tuple(source.descriptions[i] for i in chosen),
        tags=_merged(imagery, source.tags(ns="ENVI"), source.tags()),
        band_tags=[
            _merged(*(source.tags(bidx=band, ns=name) for name in ("IMAGERY", "ENVI", None)))
            for band in bands
        ],
        notes=notes,
    )


def _rows(
    source: Any,
    bands: list[int],
    start: int,
    stop: int,
    dtype: np.dtype[Any],
    missing: np.ndarray | None,
) -> np.ndarray:
    """Rows of an opened raster (stop - start, x, band), NaN where `missing` (y, x)."""
    window = import_rasterio().windows.Window(0, start, source.width, stop - start)
    values = np.moveaxis(source.read(bands, window=window), 0, -1).astype(dtype, copy=False)
    if missing is not None:
        values[missing[start:stop]] = np.nan
    return values


def _spectral_bands(source: Any, notes: list[str]) -> list[int]:
    """Numbers of the bands without an alpha band."""
    alpha = {i for i, kind in enumerate(source.colorinterp, 1) if kind.name == "alpha"}
    if alpha and len(alpha) < source.count:
        notes.append(f"band {', '.join(map(str, sorted(alpha)))} is an alpha band: used as mask")
        return [band for band in source.indexes if band not in alpha]
    return list(source.indexes)


def _percent(units: list[str | None], path: Path, notes: list[str]) -> np.ndarray:
    """What makes a reflectance between 0 and 1 of each band's unit: 0.01 for %, else 1."""
    names = [(unit or "").strip().lower() for unit in units]
    unknown = sorted({unit for unit in names if unit not in _REFLECTANCE})
    if unknown:
        assume(notes, path, f"unit {', '.join(unknown)} of the bands: taken for reflectance")
    return np.array([0.01 if name in _PERCENT else 1.0 for name in names])


def _masked(source: Any, notes: list[str]) -> np.ndarray | None:
    """Where the file's own mask or alpha band says that there is no data, (y, x); None: nowhere."""
    flags = {flag.name for flag in source.mask_flag_enums[0]}
    if "per_dataset" not in flags:
        return None
    missing = source.dataset_mask() == 0
    if not missing.any():
        return None
    notes.append(f"{np.count_nonzero(missing)} pixels are masked in the file")
    return np.asarray(missing)


def _nodata(marks: list[float | None]) -> Any:
    if all(mark is None for mark in marks):
        return None
    # No stored number equals NaN, so that stands for "none" in single bands.
    numbers = np.array([np.nan if mark is None else mark for mark in marks])
    if np.isnan(numbers).all():
        return None
    return float(numbers[0]) if (numbers == numbers[0]).all() else numbers


def _merged(*tags: dict[str, str]) -> dict[str, str]:
    """Tags with their names in lower case; of the same name, the last."""
    return {
        name.strip().lower().replace(" ", "_"): text for some in tags for name, text in some.items()
    }
