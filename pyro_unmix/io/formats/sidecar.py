"""Products of one spectral image and one XML file beside it, as DLR delivers EnMAP and DESIS."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pyro_unmix.io.errors import FileError
from pyro_unmix.io.formats.geotiff import Raster, read_raster
from pyro_unmix.io.formats.metadata import number_of, only_one, read_time, starts_with, text_of
from pyro_unmix.io.image import Image
from pyro_unmix.io.integrity.tiff import is_tiff

_IMAGE = re.compile(r"(.*?)[-_]?SPECTRAL_IMAGE.*\.tiff?", re.I)
_METADATA = re.compile(r"(.*?)[-_]?METADATA.*\.xml", re.I)


@dataclass(frozen=True)
class Layout:
    """Where the metadata of a product stand; names of elements within those of a band."""

    format: str
    marks: tuple[bytes, ...]  # what the first bytes of the XML file hold
    band: str
    number: str  # an attribute (@name) or an element
    centre: str
    fwhm: str
    gain: str
    offset: str


def is_product(path: Path, layout: Layout) -> bool:
    """Whether a folder, an image or a metadata file belongs to a product of this layout."""
    return any(starts_with(candidate, *layout.marks) for candidate in _metadata_files(path))


def locate(path: Path, layout: Layout) -> tuple[Path, Path]:
    """Return the spectral image and the metadata file of a product.

    `path` is one of them or their folder.
    """
    found = [p for p in _metadata_files(path) if starts_with(p, *layout.marks)]
    metadata = only_one(found, path, f"{layout.format} metadata (*METADATA*.XML)")
    if path.is_file() and _IMAGE.fullmatch(path.name):
        return path, metadata
    stem = _stem(metadata, _METADATA)
    images = [p for p in _siblings(metadata, _IMAGE) if _stem(p, _IMAGE) == stem]
    image = only_one(images, metadata, "GeoTIFF beside the metadata (*SPECTRAL_IMAGE*.TIF)")
    return image, metadata


def _metadata_files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(p for p in path.iterdir() if p.is_file() and _METADATA.fullmatch(p.name))
    if path.is_file() and _METADATA.fullmatch(path.name):
        return [path]
    if path.is_file() and _IMAGE.fullmatch(path.name) and is_tiff(path):
        stem = _stem(path, _IMAGE)
        return [p for p in _siblings(path, _METADATA) if _stem(p, _METADATA) == stem]
    return []


def _siblings(path: Path, pattern: re.Pattern[str]) -> list[Path]:
    return sorted(p for p in path.parent.iterdir() if p.is_file() and pattern.fullmatch(p.name))


def _stem(path: Path, pattern: re.Pattern[str]) -> str:
    match = pattern.fullmatch(path.name)
    return match.group(1) if match else path.stem


def read_product(
    image: Path,
    metadata: Path,
    root: ET.Element,
    layout: Layout,
    nodata: float | None,
    *,
    lazy: bool = False,
) -> Image:
    """Return the image, its bands described by the XML file.

    reflectance = stored * gain + offset, per band. If `lazy`, the numbers stay in the file.

    Raises
    ------
    FileError
        If image and metadata do not belong together, or one of them is broken.
    """
    bands = _bands(root, metadata, layout)
    raster = read_raster(image, lazy=lazy)
    count = raster.values.shape[-1]
    if len(bands) != count:
        problem = f"describes {len(bands)} bands, but {image.name} has {count}"
        raise FileError(metadata, "bandCharacterisation", problem)
    columns = {
        name: np.array([number_of(band, element, metadata) for band in bands])
        for name, element in (
            ("wavelength", layout.centre),
            ("fwhm", layout.fwhm),
            ("scale", layout.gain),
            ("offset", layout.offset),
        )
    }
    _check_scale(raster, columns["scale"], columns["offset"], image)
    start = text_of(root, "base/temporalCoverage/startTime", metadata)
    return Image(
        values=raster.values,
        format=layout.format,
        wavelength=columns["wavelength"],
        fwhm=columns["fwhm"],
        wavelength_unit="nm",
        scale=columns["scale"],
        offset=columns["offset"],
        nodata=_nodata(raster.nodata, nodata, image),
        dates=[read_time(start, metadata, "base/temporalCoverage/startTime")],
        crs=raster.crs,
        transform=raster.transform,
        names=[f"band {number}" for number in range(1, count + 1)],
        notes=[*raster.notes, "the quality layers (QL_*) are not applied"],
    )


def _bands(root: ET.Element, metadata: Path, layout: Layout) -> list[ET.Element]:
    """The elements of the bands in the order of their numbers, which must be 1, 2, 3, ..."""
    table = root.find("specific/bandCharacterisation")
    bands = [] if table is None else table.findall(layout.band)
    if not bands:
        raise FileError(metadata, "specific/bandCharacterisation", "is missing or empty")
    numbers = []
    for band in bands:
        if layout.number.startswith("@"):
            text = band.get(layout.number[1:]) or ""
        else:
            text = text_of(band, layout.number, metadata)
        numbers.append(int(text) if text.isdecimal() else -1)
    if sorted(numbers) != list(range(1, len(bands) + 1)):
        problem = f"must number the bands from 1 to {len(bands)}, got {sorted(numbers)[:5]} ..."
        raise FileError(metadata, "specific/bandCharacterisation", problem)
    return [bands[i] for i in np.argsort(numbers)]


def _check_scale(raster: Raster, gain: np.ndarray, offset: np.ndarray, image: Path) -> None:
    if raster.scaled and not (
        np.allclose(raster.scales, gain, rtol=1e-3) and np.allclose(raster.offsets, offset)
    ):
        problem = (
            f"the image has {raster.scales[0]:g}, its metadata file {gain[0]:g}: remove one of "
            "them (gdal_edit.py -unsetscale for the image)"
        )
        raise FileError(image, "scale", problem)


def _nodata(of_image: Any, of_metadata: float | None, image: Path) -> Any:
    if of_image is None or of_metadata is None:
        return of_metadata if of_image is None else of_image
    if np.any(np.asarray(of_image) != of_metadata):
        problem = f"the image has {of_image}, its metadata file {of_metadata}: correct one of them"
        raise FileError(image, "nodata", problem)
    return of_image
