"""PRISMA L2D: HDF-EOS5 with one cube per detector, stored (line, band, sample).

Source: PRISMA Products Specification Document, issue 2.3 (ASI). That the corner coordinates are
those of pixel centres was found by other readers (prismaread, EnMAP-Box); here the distance of the
corners decides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import h5py
import numpy as np

from pyro_unmix.io.errors import FileError, parsing
from pyro_unmix.io.formats.metadata import attribute_text, read_time
from pyro_unmix.io.image import Image, assume
from pyro_unmix.io.integrity.hdf5 import check_stored, open_hdf5, read_dataset
from pyro_unmix.io.integrity.hdf5_links import without_links
from pyro_unmix.io.rows import FileRows

_SWATHS = "HDFEOS/SWATHS"
_FIELDS = f"{_SWATHS}/PRS_L2D_HCO/Data Fields"
_PIXEL = 30.0  # m, of the hyperspectral cubes
_MAX_STORED = 65535


class _Detector(NamedTuple):
    """One cube; its bands in increasing wavelength, those without light dropped."""

    cube: str
    shape: tuple[int, int]  # (y, x)
    order: np.ndarray  # positions of the bands in the file
    wavelength: np.ndarray
    fwhm: np.ndarray
    scale: float
    offset: float
    names: list[str]

    def arranged(self, stored: np.ndarray) -> np.ndarray:
        """Stored (line, band, sample) as (y, x, band)."""
        return stored.transpose(0, 2, 1)[:, :, self.order]


class PrismaReader:
    """One product per file: PRS_L2D_STD_*.he5."""

    name = "PRISMA L2D"
    suffixes = (".he5",)

    def sniff(self, path: Path) -> bool:
        try:
            with without_links(path) as file:
                return any(str(name).startswith("PRS_") for name in file.get(_SWATHS, ()))
        except (OSError, RuntimeError, KeyError, ValueError):
            return False

    def read(self, path: Path) -> Image:
        with open_hdf5(path, "an HDF5 file") as file:
            return _image(file, path, _joined)

    def open(self, path: Path) -> Image:
        """As `read`, but the numbers stay in the file until rows of them are asked for."""
        with open_hdf5(path, "an HDF5 file") as file:
            return _image(file, path, _rows)


_Load: TypeAlias = "Callable[[h5py.File, Path, Sequence[_Detector], list[str]], Any]"


def _image(file: h5py.File, path: Path, load: _Load) -> Image:
    if _FIELDS not in file:
        levels = ", ".join(file[_SWATHS]) if _SWATHS in file else "none"
        problem = f"expected PRS_L2D_HCO (map-projected reflectance), got {levels}: order L2D"
        raise FileError(path, _SWATHS, problem)
    detectors = [_detector(file, path, name) for name in ("Vnir", "Swir")]
    shapes = [detector.shape for detector in detectors]
    if shapes[0] != shapes[1]:
        problem = f"VNIR_Cube has {shapes[0]} pixels, SWIR_Cube {shapes[1]}"
        raise FileError(path, _FIELDS, problem)
    notes = ["the matrices *_PIXEL_L2_ERR_MATRIX are not applied"]
    values = load(file, path, detectors, notes)
    start = attribute_text(file, "Product_StartTime")
    if start is None:
        raise FileError(path, "Product_StartTime", "is missing")
    counts = [detector.wavelength.size for detector in detectors]
    return Image(
        values=values,
        format=PrismaReader.name,
        wavelength=np.concatenate([detector.wavelength for detector in detectors]),
        fwhm=np.concatenate([detector.fwhm for detector in detectors]),
        wavelength_unit="nm",
        scale=np.repeat([detector.scale for detector in detectors], counts),
        offset=np.repeat([detector.offset for detector in detectors], counts),
        dates=[read_time(start, path, "Product_StartTime")],
        names=[name for detector in detectors for name in detector.names],
        notes=notes,
        **_georeference(file, path, shapes[0], notes),
    )


def _detector(file: h5py.File, path: Path, name: str) -> _Detector:
    cube = f"{name.upper()}_Cube"
    stored = file[_FIELDS].get(cube)
    if not isinstance(stored, h5py.Dataset):
        listed = ", ".join(file[_FIELDS]) or "nothing"
        raise FileError(path, cube, f"is no dataset of the file, which holds: {listed}")
    check_stored(path, stored)
    if stored.ndim != 3 or stored.dtype != np.uint16:
        problem = f"must be uint16 (line, band, sample), got {stored.dtype} {stored.shape}"
        raise FileError(path, cube, problem)
    centres = _numbers(file, path, f"List_Cw_{name}", stored.shape[1])
    widths = _numbers(file, path, f"List_Fwhm_{name}", stored.shape[1])
    used = centres > 0
    flags = f"List_Cw_{name}_Flags"
    if flags in file.attrs:
        used &= _numbers(file, path, flags, stored.shape[1]) != 0
    if not used.any():
        raise FileError(path, f"List_Cw_{name}", "marks no band as used")
    # The file runs from long to short waves.
    order = np.flatnonzero(used)
    order = order[np.argsort(centres[order])]
    low, high = (_number(file, path, f"L2Scale{name}{end}") for end in ("Min", "Max"))
    if not high > low:
        problem = f"must be larger than L2Scale{name}Min ({low:g}), got {high:g}"
        raise FileError(path, f"L2Scale{name}Max", problem)
    return _Detector(
        cube=cube,
        shape=(stored.shape[0], stored.shape[2]),
        order=order,
        wavelength=centres[order],
        fwhm=widths[order],
        scale=(high - low) / _MAX_STORED,
        offset=low,
        names=[f"{name.upper()} {band + 1}" for band in order],
    )


def _joined(
    file: h5py.File, path: Path, detectors: Sequence[_Detector], notes: list[str]
) -> np.ndarray:
    """All bands; NaN in the pixels outside the scene, which hold 0 in all bands.

    A single 0 is legal: the smallest reflectance of the detector.
    """
    parts = [part.arranged(read_dataset(path, file[_FIELDS], part.cube)) for part in detectors]
    outside = _outside(parts)
    dtype = np.float32 if outside.any() else np.uint16
    values = np.concatenate(parts, axis=-1, dtype=dtype)
    if outside.any():
        notes.append(f"{np.count_nonzero(outside)} pixels are 0 in all bands: outside the scene")
        values[outside] = np.nan
    return values


def _outside(parts: Sequence[np.ndarray]) -> np.ndarray:
    return ~np.logical_or.reduce([part.any(axis=-1) for part in parts])


def _rows(
    file: h5py.File, path: Path, detectors: Sequence[_Detector], notes: list[str]
) -> FileRows:
    """As `_joined`, but left in the file; with or without pixels outside, of one type."""
    notes.append("pixels that are 0 in all bands are outside the scene")

    def read(_: int, start: int, stop: int) -> np.ndarray:
        with parsing(path, _FIELDS, "an HDF5 dataset"), h5py.File(path, "r") as again:
            fields = again[_FIELDS]
            parts = [part.arranged(fields[part.cube][start:stop]) for part in detectors]
        values = np.concatenate(parts, axis=-1, dtype=np.float32)
        values[_outside(parts)] = np.nan
        return values

    chunks = [file[_FIELDS][part.cube].chunks for part in detectors]
    shape = (*detectors[0].shape, sum(part.order.size for part in detectors))
    return FileRows(shape, np.dtype(np.float32), read, max(c[0] if c else 1 for c in chunks))


def _georeference(
    file: h5py.File, path: Path, shape: tuple[int, ...], notes: list[str]
) -> dict[str, Any]:
    east, north = _number(file, path, f"{_UL}easting"), _number(file, path, f"{_UL}northing")
    right, bottom = _number(file, path, f"{_LR}easting"), _number(file, path, f"{_LR}northing")
    spans = np.array([right - east, north - bottom])
    counts = np.array([shape[1], shape[0]])
    half = _PIXEL / 2
    if (np.abs(spans - _PIXEL * (counts - 1)) < half).all():
        east, north = east - half, north + half  # the corners are pixel centres
    elif not (np.abs(spans - _PIXEL * counts) < half).all():
        text = (
            f"the corners are {spans[0]:g} m x {spans[1]:g} m apart, which does not fit "
            f"{counts[0]} x {counts[1]} pixels of {_PIXEL:g} m: taken without coordinates"
        )
        assume(notes, path, text)
        return {}
    code = _number(file, path, "Epsg_Code")
    return {"crs": _wkt(int(code), path), "transform": (_PIXEL, 0.0, east, 0.0, -_PIXEL, north)}


_UL, _LR = "Product_ULcorner_", "Product_LRcorner_"


def _wkt(code: int, path: Path) -> str:
    try:
        from rasterio.crs import CRS
        from rasterio.errors import CRSError
    except ImportError as error:
        message = 'the coordinate system needs rasterio: pip install "pyro-unmix[io]"'
        raise ImportError(message) from error
    try:
        return str(CRS.from_epsg(code).to_wkt())
    except CRSError as error:
        raise FileError(path, "Epsg_Code", f"is unknown: {code}") from error


def _number(file: h5py.File, path: Path, name: str) -> float:
    return float(_numbers(file, path, name, 1)[0])


def _numbers(file: h5py.File, path: Path, name: str, size: int) -> np.ndarray:
    value = file.attrs.get(name)
    if value is None:
        raise FileError(path, name, "is missing")
    try:
        array = np.ravel(value).astype(np.float64)
    except (TypeError, ValueError):
        raise FileError(path, name, f"must be numbers, got {value!r}") from None
    if array.size != size or not np.isfinite(array).all():
        problem = f"must be {size} finite numbers, got {array.size}: {array[:5]}"
        raise FileError(path, name, problem)
    return array


READER = PrismaReader()
