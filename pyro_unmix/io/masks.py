"""Pixels to leave out, from files of masks and the quality layers of products."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import xarray as xr

from pyro_unmix.io.companions import STAMP, companion, expected_companion, is_reflectance
from pyro_unmix.io.errors import FileError
from pyro_unmix.io.formats.envi import read_header
from pyro_unmix.io.formats.metadata import parse_time
from pyro_unmix.io.formats.npz import load_array
from pyro_unmix.io.formats.raster_file import read_raster
from pyro_unmix.io.grid import check_same_grid
from pyro_unmix.io.image import Image
from pyro_unmix.io.integrity.hdf5 import open_hdf5, read_dataset
from pyro_unmix.io.integrity.kinds import check_kind
from pyro_unmix.io.integrity.tiff import is_jp2, is_tiff
from pyro_unmix.io.registry import read_image
from pyro_unmix.io.write.datasets import grid_of

logger = logging.getLogger(__name__)

#: "product" for the quality layers beside each file, one mask for all files, or one (or None) for each.
Masks: TypeAlias = str | os.PathLike[str] | Sequence[str | os.PathLike[str] | None]
#: Classes of Sentinel-2's scene classification that are left out: no data, saturated or defective, shadow of clouds,
#: clouds of medium and high probability, thin cirrus. (2 cast shadows, 7 unclassified and 11 snow are kept.)
SCENE_CLASSES = (0, 1, 3, 8, 9, 10)
#: Layers of EnMAP that leave pixels out where they are above zero.
ENMAP_LAYERS = ("CLOUD", "CIRRUS", "HAZE", "CLOUDSHADOW")
# Water is a material like others; the aggregate holds it, too.
_KEPT_FLAGS = ("water", "aggregate")
_SCL = re.compile(r"(^|[_.-])SCL([_.-]|$)")
_ADVICE = "read masks from GeoTIFF, ENVI, .npy, or EMIT's L2A_MASK"


@dataclass(frozen=True, eq=False)
class _Marked:
    """Pixels (T, H, W), True where they are left out, and where they lie as far as the file says."""

    pixels: np.ndarray
    crs: str | None = None
    transform: tuple[float, float, float, float, float, float] | None = None


def read_mask(
    path: str | os.PathLike[str],
    cubes: xr.DataArray | None = None,
    *,
    flags: Sequence[int | str] | None = None,
) -> xr.DataArray:
    """Read which pixels a file leaves out.

    - GeoTIFF, ENVI and ``.npy`` of one band: pixels above zero are left out; nodata and NaN are not. ``.npy`` may hold
      (T, H, W).
    - Sentinel-2's scene classification, a file with ``SCL`` in its name: the classes `SCENE_CLASSES` are left out.
    - EMIT L2A mask of any version (``EMIT_L2A_MASK_*.nc``), and other masks of several bands with names: every band
      whose name ends in "flag", but those of water and the aggregate, in which water is.
    - EnMAP's layers ``QL_QUALITY_CLOUD``, ``_CIRRUS``, ``_HAZE``, ``_CLOUDSHADOW``, cloud-optimised (``_COG``) or not:
      above zero.

    Parameters
    ----------
    path : path
    cubes : DataArray (time, y, x, wavelength), optional
        Images on whose grid the mask must lie, or on one that is coarser by a whole number (Sentinel-2's of 20 m).
    flags : sequence, optional
        Instead of these: numbers of the classes, or names of the bands (any case), that are left out.

    Returns
    -------
    DataArray (y, x), or (time, y, x)
        True where a pixel is left out, so that ``cubes.where(~mask)`` leaves them out; `read_sequence` does it by
        ``masks=``.

    Raises
    ------
    FileNotFoundError, FileError
        If the file is broken, no mask, or does not lie on the images.
    ImportError
        If a format needs a library that is not there.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import numpy as np, pyro_unmix as pu
    >>> cubes = pu.as_cube_sequence(np.full((1, 1, 2, 3), .3))
    >>> with TemporaryDirectory() as folder:
    ...     np.save(Path(folder) / "clouds.npy", np.array([[0, 1]]))
    ...     mask = pu.io.read_mask(Path(folder) / "clouds.npy", cubes)
    >>> cubes.where(~mask).isnull().all("wavelength").values.tolist()
    [[[False, True]]]

    References
    ----------
    Sentinel-2 Products Specification Document, S2-PDGS-TAS-DI-PSD (scene classification); EMIT L2A Mask user guide,
    EMITL2AMASK (bands); EnMAP Product Specification, EN-PCV-ICD-2009-2 (quality layers).
    """
    path = Path(path)
    marked = _read(path, flags)
    if cubes is not None:
        grid = grid_of(cubes.coords.to_dataset())
        transform: Any = grid.transform
        image = Image(
            np.empty((cubes.sizes["y"], cubes.sizes["x"], 0)), "images",
            crs=grid.crs, transform=transform,
        )  # fmt: skip
        marked = _on_grid(marked, image, "the images", path)
        if len(marked.pixels) not in (1, cubes.sizes["time"]):
            problem = f"has {len(marked.pixels)} dates, the images have {cubes.sizes['time']}"
            raise FileError(path, "dates", problem)
    if len(marked.pixels) == 1:
        return xr.DataArray(marked.pixels[0], dims=("y", "x"), name="mask")
    return xr.DataArray(marked.pixels, dims=("time", "y", "x"), name="mask")


def masks_of(images: Sequence[Image], files: Sequence[Path], masks: Masks) -> np.ndarray:
    """Which pixels of images in the order of their files are left out: (T, H, W), bool."""
    parts = []
    for image, file, layers in zip(images, files, _by_file(files, masks), strict=True):
        pixels = np.zeros((image.num_dates, *image.grid), dtype=bool)
        for number, layer in _dated(layers, image, file):
            marked = _on_grid(_read(layer, None), image, file, layer).pixels
            dates: Any = slice(None) if number is None else [number]
            if len(marked) not in (1, len(pixels[dates])):
                problem = f"has {len(marked)} dates, {file} has {image.num_dates}"
                raise FileError(layer, "dates", problem)
            pixels[dates] |= marked
        if layers:
            logger.info("%s: %.1f %% of the pixels are masked", file, 100 * pixels.mean())
        parts.append(pixels)
    return np.concatenate(parts)


def _by_file(files: Sequence[Path], masks: Masks) -> list[list[Path]]:
    """The masks of each file."""
    if isinstance(masks, str) and masks == "product":
        return [product_masks(file) for file in files]
    if isinstance(masks, str | os.PathLike):
        return [[Path(masks)]] * len(files)
    if len(masks) != len(files):
        raise ValueError(
            f"masks= must be 'product', one mask, or one for each of {len(files)} files, got {len(masks)}"
        )
    return [[] if mask is None else [Path(mask)] for mask in masks]


def _dated(layers: Sequence[Path], image: Image, file: Path) -> list[tuple[int | None, Path]]:
    """Masks with the date of the file that they are of; None for all of them."""
    if image.num_dates == 1 or not layers or not all(_SCL.search(path.stem) for path in layers):
        return [(None, path) for path in layers]
    known = [] if image.dates is None else list(image.dates)
    dates = np.array(known, dtype="datetime64[s]").tolist()
    found = []
    for path in layers:
        stamp = STAMP.search(path.name)
        own = None
        if stamp is not None:
            own = parse_time(stamp.group()).astype("datetime64[s]").item()
        if own not in dates:
            raise FileError(path, "date", f"is none of the dates of {file}: pass masks= yourself")
        found.append((dates.index(own), path))
    lacking = [str(date) for number, date in enumerate(dates) if number not in dict(found)]
    if lacking:
        raise FileError(file, "mask", f"no scene classification (SCL) of {', '.join(lacking)}")
    return list(found)


def product_masks(file: Path) -> list[Path]:
    """The quality layers beside a product: of EMIT, Sentinel-2 L2A and EnMAP.

    Raises
    ------
    FileError
        If there are none.
    """
    folder = file if file.is_dir() else file.parent
    if is_reflectance(file):
        mask = companion(file, "MASK")
        found = [] if mask is None else [mask]
        expected = expected_companion(file, "MASK").name
    elif layers := _enmap_layers(file, folder):
        return layers
    else:
        found = _scene_classifications(folder)
        expected = "EMIT_L2A_MASK_*.nc, *_SCL_*.jp2 or .tif, or *QL_QUALITY_CLOUD.TIF"
    if not found:
        problem = f"there is none beside it (expected {expected}): pass masks= the file of the mask"
        raise FileError(file, "mask of the product", problem)
    return found


def _enmap_layers(file: Path, folder: Path) -> list[Path]:
    names = "|".join(ENMAP_LAYERS)
    pattern = re.compile(rf"(.*?)[-_]?QL_QUALITY_({names})(?:_COG)?\.tiff?", re.I)
    stem = re.split(r"[-_]?(?:SPECTRAL_IMAGE|METADATA)", file.name, flags=re.I)[0]
    matches = [(path, pattern.fullmatch(path.name)) for path in sorted(folder.iterdir())]
    whole = file.is_dir()
    found = {
        path: match.group(2).upper()
        for path, match in matches
        if match and (whole or path.name.startswith(stem))
    }
    lacking = [name for name in ENMAP_LAYERS if name not in found.values()]
    if found and lacking:
        logger.warning(
            "%s: the quality layers %s are not beside it, so that their pixels are not left out",
            file, ", ".join(f"QL_QUALITY_{name}" for name in lacking),
        )  # fmt: skip
    return list(found)


def _scene_classifications(folder: Path) -> list[Path]:
    """Of a .SAFE folder the finest (20 m), which is nearest to the bands of 10 m, too; else those of the folder."""
    for pattern in ("*", "GRANULE/*/IMG_DATA/R20m/*", "GRANULE/*/IMG_DATA/R*m/*"):
        found = [
            path
            for path in sorted(folder.glob(pattern))
            if path.suffix.lower() in (".tif", ".tiff", ".jp2") and _SCL.search(path.stem)
        ]
        if found:
            return found
    # The bands of one resolution, in a folder beside that of 20 m.
    beside = folder.parent / "R20m"
    if beside.is_dir() and beside != folder:
        return _scene_classifications(beside)
    return []


# ------------------------------------------------------------------ files


def _read(path: Path, flags: Sequence[int | str] | None) -> _Marked:
    if not path.exists():
        raise FileNotFoundError(f"no such mask: {path}")
    check_kind(path, folder=False)
    if path.suffix.lower() == ".npy":
        return _Marked(_numpy_mask(path))
    if is_tiff(path) or is_jp2(path):
        raster = read_raster(path)
        names = [str(text or "") for text in raster.descriptions]
        pixels = _chosen(path, np.asarray(raster.values), names, raster.nodata, flags)
        return _Marked(pixels[None], raster.crs, raster.transform)
    if _is_hdf5(path):
        return _Marked(_emit_mask(path, flags)[None])
    image = read_image(path) if _is_envi(path) else None
    if image is None or image.values.ndim != 3:
        raise FileError(path, "format", f"is no mask: {_ADVICE}")
    names = list(image.names or [""] * image.num_bands)
    pixels = _chosen(path, np.asarray(image.values), names, image.nodata, flags)
    return _Marked(pixels[None], image.crs, image.transform)


def _is_hdf5(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(8) == b"\x89HDF\r\n\x1a\n"


def _is_envi(path: Path) -> bool:
    header = path if path.suffix.lower() == ".hdr" else path.with_suffix(".hdr")
    for beside in (header, Path(f"{path}.hdr")):
        if beside.is_file():
            read_header(beside)  # or say what is wrong with it
            return True
    return False


def _numpy_mask(path: Path) -> np.ndarray:
    values = load_array(path)
    if values.ndim not in (2, 3) or values.dtype.kind not in "biuf":
        problem = (
            f"must hold (H, W) or (T, H, W) numbers or bool, got {values.dtype} {values.shape}"
        )
        raise FileError(path, "mask", problem)
    marked = np.asarray(values > 0)
    return marked if marked.ndim == 3 else marked[None]


def _emit_mask(path: Path, flags: Sequence[int | str] | None) -> np.ndarray:
    with open_hdf5(path, "a NetCDF-4 file") as file:
        if "mask" not in file or "sensor_band_parameters/mask_bands" not in file:
            problem = f"holds no mask with mask_bands, as EMIT's L2A_MASK does: {_ADVICE}"
            raise FileError(path, "mask", problem)
        stored = read_dataset(path, file["sensor_band_parameters"], "mask_bands")
        values = read_dataset(path, file, "mask")
    names = [n.decode() if isinstance(n, bytes) else str(n) for n in np.ravel(stored).tolist()]
    if values.ndim != 3 or values.shape[-1] != len(names):
        problem = f"must have the dims (downtrack, crosstrack, bands) with {len(names)} bands, got {values.shape}"
        raise FileError(path, "mask", problem)
    return _chosen(path, values, names, None, flags)


def _chosen(
    path: Path,
    values: np.ndarray,
    names: Sequence[str],
    nodata: Any,
    flags: Sequence[int | str] | None,
) -> np.ndarray:
    """Pixels (H, W) that are marked in bands (H, W, K), by classes or by flags."""
    numbers = flags is not None and all(isinstance(flag, Integral) for flag in flags)
    if _SCL.search(path.stem) or numbers:
        if values.shape[-1] != 1:
            problem = f"classes are of one band, got {values.shape[-1]}"
            raise FileError(path, "bands", problem)
        return np.isin(values[..., 0], SCENE_CLASSES if flags is None else list(flags))
    known = np.ones(values.shape, dtype=bool) if nodata is None else values != np.asarray(nodata)
    marked = (values > 0) & known
    if flags is None and values.shape[-1] == 1:
        return np.asarray(marked[..., 0])
    plain = [name.strip().lower() for name in names]
    if flags is None:
        chosen = [
            number
            for number, name in enumerate(plain)
            if name.endswith("flag") and not name.startswith(_KEPT_FLAGS)
        ]
    else:
        wanted = [str(flag).strip().lower() for flag in flags]
        lacking = [str(flag) for flag in flags if str(flag).strip().lower() not in plain]
        if lacking:
            problem = (
                f"there is no {', '.join(map(repr, lacking))}: the bands are {', '.join(names)}"
            )
            raise FileError(path, "flags", problem)
        chosen = [plain.index(name) for name in wanted]
    if not chosen:
        problem = f"expected one, or names that end in 'flag', got {values.shape[-1]} ({', '.join(names)})"
        raise FileError(path, "bands", problem)
    return np.asarray(marked[..., chosen].any(axis=-1))


def _on_grid(marked: _Marked, image: Image, whose: str | os.PathLike[str], path: Path) -> _Marked:
    """The mask on the grid of an image, whose pixels may divide those of the mask."""
    shape = marked.pixels.shape[1:]
    factor = image.grid[0] // shape[0] if shape[0] else 0
    placed = marked.transform is not None and image.transform is not None
    if placed and factor > 1 and (shape[0] * factor, shape[1] * factor) == image.grid:
        a, b, c, d, e, f = marked.transform  # type: ignore[misc]
        finer = np.repeat(np.repeat(marked.pixels, factor, axis=1), factor, axis=2)
        marked = replace(
            marked, pixels=finer, transform=(a / factor, b / factor, c, d / factor, e / factor, f)
        )
    if marked.pixels.shape[1:] != image.grid:
        problem = f"has {shape[0]} rows and {shape[1]} columns, but {whose} {image.grid}: bring it to their grid first"
        raise FileError(path, "grid", problem)
    if placed:  # else nothing says that it lies elsewhere
        own = Image(
            np.empty((*image.grid, 0)), "mask", crs=marked.crs or image.crs, transform=marked.transform
        )  # fmt: skip
        check_same_grid(replace(image, x=None, y=None, tile=None), whose, own, path)
    return marked
