"""Sentinel-2: the band files of one or several dates in one folder, .SAFE or GeoTIFF.

Source: Sentinel-2 Products Specification Document, S2-PDGS-TAS-DI-PSD, issue 14 (ESA);
reflectance = (stored + ADD_OFFSET) / QUANTIFICATION_VALUE, the offset from baseline 04.00 on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pyro_unmix.data.bands import ROUNDING
from pyro_unmix.data.crs import same_crs
from pyro_unmix.io.errors import FileError
from pyro_unmix.io.formats.geotiff import Raster, read_raster
from pyro_unmix.io.formats.metadata import parse_time, starts_with
from pyro_unmix.io.formats.sentinel2_metadata import (
    BANDS,
    TABLE,
    Metadata,
    metadata_for,
    metadata_near,
)
from pyro_unmix.io.given import Unscaled
from pyro_unmix.io.image import Image, assume
from pyro_unmix.io.integrity.tiff import is_jp2, is_tiff

_NAME = re.compile(r"(?:^|[_.-])B(0?[1-9]|1[0-2]|8A)(?=[_.-]|$)", re.I)
_STAMP = re.compile(r"(?<!\d)20\d{6}(?:T\d{6})?(?!\d)")
# A platform, or a tile of the military grid: what tells the bands from those of other satellites.
_SENTINEL = re.compile(r"S2[A-D](?=[_.-])|(?<![A-Z0-9])T\d\d[A-Z]{3}(?=[_.-])|sentinel", re.I)
_LANDSAT = re.compile(r"(?:^|[_.])L(?:[COTEM]0\d|30)(?=[_.])", re.I)
_SATURATED = 65535


@dataclass(frozen=True)
class _Date:
    """The bands of one date, and how their numbers become reflectance (None: nobody says)."""

    stamp: str
    rasters: list[Raster]
    scale: np.ndarray | None
    offset: np.ndarray | None
    nodata: Any
    metadata: Metadata | None


class Sentinel2Reader:
    """A .SAFE folder, its MTD_MSIL*.xml, or a folder of band files (..._B02....tif or .jp2)."""

    name = "Sentinel-2"
    suffixes = (".safe",)

    def sniff(self, path: Path) -> bool:
        if path.is_dir():
            return bool(_band_files(path)) or bool(_safe_images(path))
        if path.suffix.lower() == ".xml":
            return starts_with(path, b"_User_Product", b"sentinel2")
        return is_jp2(path) and _NAME.search(path.stem) is not None

    def read(self, path: Path) -> Image:
        if path.is_file() and path.suffix.lower() != ".xml":
            problem = "is one band: pass its folder, whose band files are read together"
            raise FileError(path, "band files", problem)
        folder = path if path.is_dir() else path.parent
        files = _band_files(folder) or _safe_images(folder)
        if not files:
            problem = "expected files named ..._B02....tif or .jp2, found none"
            raise FileError(path, "band files", problem)
        groups = _by_date(files, folder)
        near = metadata_near(files[0].parent)
        _check_sensor(files, near, folder)
        dates = [_read_date(stamp, bands, near) for stamp, bands in sorted(groups.items())]
        _check_grids(dates, [list(groups[date.stamp].values()) for date in dates])
        return _image(dates, list(next(iter(groups.values()))), folder)


def _band_files(folder: Path) -> list[Path]:
    """Files in the folder that are named as bands are, if one of them at least is an image.

    The others are kept: a band that is broken must not be left out silently.
    """
    named = [
        p
        for p in sorted(folder.iterdir())
        if p.suffix.lower() in (".tif", ".tiff", ".jp2") and p.is_file() and _NAME.search(p.stem)
    ]
    return named if any(is_tiff(p) or is_jp2(p) for p in named) else []


def _safe_images(folder: Path) -> list[Path]:
    """Band files of a .SAFE folder; those of level 2A lie in one folder per resolution."""
    images = [p for p in sorted(folder.glob("GRANULE/*/IMG_DATA")) if p.is_dir()]
    places = {p for image in images for p in (image, *image.glob("R*m")) if p.is_dir()}
    found = {place: files for place in sorted(places) if (files := _band_files(place))}
    if len(found) > 1:
        listed = ", ".join(str(place.relative_to(folder)) for place in found)
        problem = f"there are several sets of band files: pass one of these folders: {listed}"
        raise FileError(folder, "resolution", problem)
    return next(iter(found.values()), [])


def _band_of(path: Path) -> str:
    """The last such part of the name: B2, ..., B8A, ..., B12."""
    return "B" + _NAME.findall(path.stem)[-1].upper().lstrip("0")


def _by_date(files: list[Path], folder: Path) -> dict[str, dict[str, Path]]:
    """Files by date (as in their names, "" without one) and band, bands in the sensor's order."""
    groups: dict[str, dict[str, Path]] = {}
    for path in files:
        stamp = _STAMP.search(path.name)
        group = groups.setdefault(stamp.group() if stamp else "", {})
        band = _band_of(path)
        if band in group:
            problem = (
                f"{band} is there twice for {stamp.group() if stamp else 'one date'}: "
                f"{group[band].name} and {path.name}; keep one tile and resolution per folder"
            )
            raise FileError(folder, "band files", problem)
        group[band] = path
    everything = {band for group in groups.values() for band in group}
    for stamp_, group in groups.items():
        lacking = sorted(everything - set(group), key=BANDS.index)
        if lacking:
            problem = f"{stamp_ or 'the files without a date'} lacks {', '.join(lacking)}"
            raise FileError(folder, "band files", f"{problem}, which other dates have")
    order = sorted(everything, key=BANDS.index)
    return {stamp_: {band: group[band] for band in order} for stamp_, group in groups.items()}


def _check_sensor(files: list[Path], near: list[Metadata], folder: Path) -> None:
    names = [str(Path(folder.name) / path.name) for path in files]
    if any(_LANDSAT.search(path.name) for path in files):
        problem = "are of Landsat, whose bands have other wavelengths: stack them into one GeoTIFF"
        raise FileError(folder, "band files", problem)
    if not near and not any(_SENTINEL.search(name) for name in names):
        problem = (
            "nothing says that they are of Sentinel-2: keep MTD_MSIL2A.xml or MTD_MSIL1C.xml "
            "beside them, or S2A, S2B, ... or the tile (T32TPS) in their names"
        )
        raise FileError(folder, "band files", problem)


def _read_date(stamp: str, bands: dict[str, Path], near: list[Metadata]) -> _Date:
    paths = list(bands.values())
    rasters = [read_raster(path) for path in paths]
    for path, raster in zip(paths, rasters, strict=True):
        if raster.values.shape[-1] != 1:
            problem = f"expected one band per file, got {raster.values.shape[-1]}"
            raise FileError(path, "bands", problem)
    if len({raster.values.dtype for raster in rasters}) > 1:
        listed = ", ".join(
            f"{p.name} {r.values.dtype}" for p, r in zip(paths, rasters, strict=True)
        )
        raise FileError(paths[0], "data type", f"must be the same in all bands: {listed}")
    metadata = metadata_for(stamp, near, paths[0])
    whole = rasters[0].values.dtype.kind in "iu"
    scale, offset = _scaling(rasters, list(bands), metadata)
    marks = {raster.nodata for raster in rasters} - {None}
    if len(marks) > 1:
        raise FileError(paths[0], "nodata", f"must be the same in all bands, got {sorted(marks)}")
    nodata = marks.pop() if marks else (0 if whole else None)
    return _Date(stamp, rasters, scale, offset, nodata, metadata)


def _scaling(
    rasters: list[Raster], bands: list[str], metadata: Metadata | None
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Of the band files, where they say it, else of the product; integers without either: None."""
    ones = np.ones(len(rasters))
    if any(raster.scaled for raster in rasters):
        scale = np.array([raster.scales[0] for raster in rasters])
        return scale, np.array([raster.offsets[0] for raster in rasters])
    if rasters[0].values.dtype.kind not in "iu":
        return ones, 0 * ones
    if metadata is None:
        return None, None
    scale = ones / metadata.quantification
    return scale, np.array([metadata.offset_of(band) for band in bands]) * scale


def _check_grids(dates: list[_Date], paths: Sequence[list[Path]]) -> None:
    first, first_path = dates[0].rasters[0], paths[0][0]
    for date, files in zip(dates, paths, strict=True):
        for raster, path in zip(date.rasters, files, strict=True):
            if (
                raster.values.shape == first.values.shape
                and raster.transform == first.transform
                and same_crs(raster.crs, first.crs)
            ):
                continue
            problem = (
                f"{_grid(raster)}, unlike {first_path.name} ({_grid(first)}): bring all bands to "
                "one grid first, with da.rio.reproject_match(other) of rioxarray or gdalwarp -tr; "
                "of level 2A, pass one folder IMG_DATA/R10m, R20m or R60m"
            )
            raise FileError(path, "grid", problem)


def _grid(raster: Raster) -> str:
    height, width = raster.values.shape[:2]
    size = "" if raster.transform is None else f" of {abs(raster.transform[0]):g} m"
    origin = "" if raster.transform is None else f" from {raster.transform[2:6:3]}"
    return f"{height} x {width} pixels{size}{origin}"


def _image(dates: list[_Date], bands: list[str], folder: Path) -> Image:
    first = dates[0]
    notes = [f"dates: {', '.join(date.stamp or 'unknown' for date in dates)}"]
    levels = {date.metadata.level for date in dates if date.metadata}
    if "1C" in levels:
        notes.append("level 1C: reflectance at the top of the atmosphere")
    values = np.stack(
        [np.concatenate([r.values for r in date.rasters], axis=-1) for date in dates], axis=0
    )
    scaled = all(date.scale is not None for date in dates)
    scaling: dict[str, Any] = {"nodata": first.nodata}
    if scaled:
        scaling |= {"scale": first.scale, "offset": first.offset}
    saturated = values.dtype == np.uint16 and bool((values == _SATURATED).any())
    if saturated or not all(_same_scaling(first, date) for date in dates):
        values = _as_in_first(values, dates, scaled=scaled)
        scaling["nodata"] = None
        notes.append("saturated pixels (65535) are missing" if saturated else "scales differ")
    facts: dict[str, Any] = {
        "values": values,
        "format": Sentinel2Reader.name,
        "dates": _times(dates, folder),
        "crs": first.rasters[0].crs,
        "transform": first.rasters[0].transform,
        "names": [f"B{band[1:].zfill(2)}" for band in bands],
        "notes": notes,
        "wavelength_unit": "nm",
        **scaling,
        **_spectral(dates, bands, folder, notes),
    }
    return Image(**facts) if scaled else Unscaled(**facts, reason=_unscaled(dates))


def _unscaled(dates: list[_Date]) -> str:
    lacking = ", ".join(date.stamp or "one without a date" for date in dates if date.scale is None)
    return (
        f"there is no MTD_MSIL2A.xml or MTD_MSIL1C.xml of these dates: {lacking}; without it nobody "
        "can know whether the offset of baseline 04.00 (-1000) is in the numbers: put it into the "
        "folder, or pass scale=1e-4 and offset=-0.1 (baseline 04.00 and later) or offset=0 (before, "
        "or harmonised) to read_sequence, or write them into the files (gdal_edit.py -scale 0.0001 "
        "-offset -0.1, or 0)"
    )


def _same_scaling(one: _Date, two: _Date) -> bool:
    return all(
        np.array_equal(getattr(one, name), getattr(two, name))
        for name in ("scale", "offset", "nodata")
    )


def _as_in_first(values: np.ndarray, dates: list[_Date], *, scaled: bool) -> np.ndarray:
    """float32 (T, H, W, L): numbers that mean the same with the scale and offset of the first date.

    NaN where nodata or saturated. Where a date has no scale, the numbers stay as they are stored.
    """
    out = np.empty(values.shape, dtype=np.float32)
    first = dates[0]
    for number, date in enumerate(dates):
        stored = values[number]
        out[number] = stored
        if scaled and not _same_scaling(first, date):
            shift = (date.offset - first.offset) / first.scale  # type: ignore[operator]
            out[number] = stored * (date.scale / first.scale) + shift  # type: ignore[operator]
        if date.nodata is not None:
            out[number][stored == date.nodata] = np.nan
        if stored.dtype == np.uint16:
            out[number][stored == _SATURATED] = np.nan
    return out


def _times(dates: list[_Date], folder: Path) -> list[np.datetime64] | None:
    times = []
    for date in dates:
        if date.stamp:
            try:
                times.append(parse_time(date.stamp))
            except ValueError as error:
                raise FileError(folder, "date in file names", str(error)) from error
        elif date.metadata is not None:
            times.append(date.metadata.start)
    if len(times) == len(dates):
        return times
    if len(dates) > 1:
        problem = "some file names hold a date (20240830 or 20240830T100559), others do not"
        raise FileError(folder, "date in file names", problem)
    return None


def _spectral(
    dates: list[_Date], bands: list[str], folder: Path, notes: list[str]
) -> dict[str, np.ndarray]:
    """Band centres and widths of the first date; A, B and C are built to one specification."""
    found = re.search(r"S2([A-D])(?=[_.-])", folder.resolve().as_posix())
    named = f"2{found.group(1)}" if found else ""
    known = [date.metadata.satellite if date.metadata else named for date in dates]
    if known[0] not in TABLE:
        text = f"satellite {known[0] or 'unknown'}: widths of the bands of Sentinel-2A"
        assume(notes, folder, text)
    table = TABLE.get(known[0], TABLE["2A"])
    centres = [_centres(date, name, bands) for date, name in zip(dates, known, strict=True)]
    shifts = np.abs(np.array(centres) - centres[0])
    if shifts.max() > ROUNDING:
        date, band = np.unravel_index(shifts.argmax(), shifts.shape)
        text = (
            f"satellites {', '.join(sorted(set(known)))}: bands are up to {shifts.max():.2g} nm "
            f"({bands[band]} of {dates[date].stamp}) off those of the first date, which are kept"
        )
        assume(notes, folder, text)
    return {
        "wavelength": np.array(centres[0]),
        "fwhm": np.array([float(table[band][1]) for band in bands]),
    }


def _centres(date: _Date, satellite: str, bands: list[str]) -> list[float]:
    """As the product states them, else as ESA's table of the satellite does."""
    table = TABLE.get(satellite, TABLE["2A"])
    stated = {} if date.metadata is None else date.metadata.wavelength
    return [float(stated.get(band, table[band][0])) for band in bands]


READER = Sentinel2Reader()
