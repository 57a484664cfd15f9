"""GeoTIFF and COG by rasterio, with the spectral metadata that GDAL programs write into them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pyro_unmix.io.errors import FileError
from pyro_unmix.io.image import Image, wavelength_to_nm
from pyro_unmix.io.metadata import parse_time
from pyro_unmix.io.tiff import check_jp2, check_tiff, is_jp2, is_tiff

# Tags that hold the time of the acquisition, in the order in which they are believed. The last one
# is by TIFF 6.0 "the date and time of image creation", which many programs set to the time of
# writing.
_DATE_TAGS = "acquisitiondatetime acquisitiondate acquisition_date acquisition_time".split()
_DATE_TAGS += "start_time sensing_time tifftag_datetime".split()

_DESCRIPTION = re.compile(
    r"(?:^|[\s(])(\d+(?:\.\d*)?)\s*(nm|nanomet(?:er|re)s?|um|[µμ]m|micromet(?:er|re)s?)\b", re.I
)
# In nm: band descriptions are rounded.
_SAME_WAVELENGTH = 2.0


@dataclass
class Raster:
    """What GDAL says about a file; `values` (y, x, band) are the stored numbers."""

    values: np.ndarray
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


def read_raster(path: Path) -> Raster:
    """Read a TIFF or JPEG 2000 file whole, after a check that it is complete.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    FileError
        If it is no such file, truncated, or cannot be decoded.
    """
    rasterio = import_rasterio()
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    if is_jp2(path):
        check_jp2(path)
        driver = "JP2OpenJPEG"
    else:
        check_tiff(path)
        driver = "GTiff"
    with warnings.catch_warnings():
        # A raster without georeference is legal here.
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        try:
            with rasterio.open(path, driver=driver) as source:
                return _load(source, path)
        except rasterio.errors.RasterioError as error:
            raise FileError(path, "pixels", f"GDAL cannot read them: {error}") from error


def _load(source: Any, path: Path) -> Raster:
    if np.dtype(source.dtypes[0]).kind not in "iuf" or len(set(source.dtypes)) > 1:
        problem = f"must be real numbers of one type, got {', '.join(sorted(set(source.dtypes)))}"
        raise FileError(path, "data type", problem)
    if is_jp2(path) and source.width * source.height * source.count > 20_000 * path.stat().st_size:
        problem = f"{source.height} x {source.width} is more than the file can hold"
        raise FileError(path, "size", problem)
    notes: list[str] = []
    bands = _spectral_bands(source, notes)
    values = _without_masked(np.moveaxis(source.read(bands), 0, -1), source, notes)
    identity = source.transform == type(source.transform).identity()
    if identity and source.gcps[0]:
        notes.append("ground control points are not used: warp the image first (gdalwarp)")
    chosen = [band - 1 for band in bands]
    marks = [source.nodatavals[i] for i in chosen]
    return Raster(
        values=values,
        nodata=_nodata(marks),
        crs=source.crs.to_wkt() if source.crs else None,
        transform=None if identity else tuple(source.transform)[:6],
        scales=np.array(source.scales, dtype=float)[chosen],
        offsets=np.array(source.offsets, dtype=float)[chosen],
        descriptions=tuple(source.descriptions[i] for i in chosen),
        tags=_all_tags(source, None),
        band_tags=[_all_tags(source, band) for band in bands],
        notes=notes,
    )


def _spectral_bands(source: Any, notes: list[str]) -> list[int]:
    """Numbers of the bands without an alpha band."""
    alpha = {i for i, kind in enumerate(source.colorinterp, 1) if kind.name == "alpha"}
    if alpha and len(alpha) < source.count:
        notes.append(f"band {', '.join(map(str, sorted(alpha)))} is an alpha band: used as mask")
        return [band for band in source.indexes if band not in alpha]
    return list(source.indexes)


def _without_masked(values: np.ndarray, source: Any, notes: list[str]) -> np.ndarray:
    """NaN where the file's own mask or alpha band says that there is no data."""
    flags = {flag.name for flag in source.mask_flag_enums[0]}
    if "per_dataset" not in flags:
        return values
    missing = source.dataset_mask() == 0
    if not missing.any():
        return values
    notes.append(f"{np.count_nonzero(missing)} pixels are masked in the file")
    wide = values.dtype.itemsize > (4 if values.dtype.kind == "f" else 2)
    values = values.astype(np.float64 if wide else np.float32)
    values[missing] = np.nan
    return values


def _nodata(marks: list[float | None]) -> Any:
    if all(mark is None for mark in marks):
        return None
    # No stored number equals NaN, so that stands for "none" in single bands.
    numbers = np.array([np.nan if mark is None else mark for mark in marks])
    if np.isnan(numbers).all():
        return None
    return float(numbers[0]) if (numbers == numbers[0]).all() else numbers


def _all_tags(source: Any, band: int | None) -> dict[str, str]:
    """Tags of the dataset or of a band, names in lower case, ENVI's and IMAGERY's among them."""
    bidx = {} if band is None else {"bidx": band}
    merged: dict[str, str] = {}
    for namespace in ("IMAGERY", "ENVI", None):
        found = source.tags(ns=namespace, **bidx) if namespace else source.tags(**bidx)
        merged |= {name.strip().lower().replace(" ", "_"): text for name, text in found.items()}
    return merged


def spectral_axis(raster: Raster, path: Path) -> dict[str, Any]:
    """The fields wavelength, wavelength_unit, fwhm and good of an Image, where the file has them.

    Sources, the first that is complete wins, the others must not contradict it: band tags
    `wavelength`, `wavelength_units`, `fwhm`, `bbl`; GDAL's domain IMAGERY
    (`CENTRAL_WAVELENGTH_UM`, `FWHM_UM`); the lists of ENVI headers in dataset tags; band
    descriptions such as "band 3 (560.2 Nanometers)".
    """
    candidates = [
        found
        for found in (
            _from_band_tags(raster, path),
            _from_imagery(raster, path),
            _from_lists(raster, path),
            _from_descriptions(raster),
        )
        if found
    ]
    if not candidates:
        return _good_bands(raster, path)
    first = candidates[0]
    for other in candidates[1:]:
        _check_agreement(first, other, path)
    return first | _good_bands(raster, path)


def _check_agreement(first: dict[str, Any], other: dict[str, Any], path: Path) -> None:
    if first["wavelength_unit"] is None or other["wavelength_unit"] is None:
        return
    one, two = (
        wavelength_to_nm(found["wavelength"], found["wavelength_unit"], path)
        for found in (first, other)
    )
    odd = np.flatnonzero(np.abs(one - two) > _SAME_WAVELENGTH)
    if odd.size:
        band = odd[0]
        problem = (
            f"band {band + 1} is at {one[band]:g} nm in one place of the file and at "
            f"{two[band]:g} nm in another: correct one of them"
        )
        raise FileError(path, "wavelength", problem)


def _from_band_tags(raster: Raster, path: Path) -> dict[str, Any]:
    centres = _per_band(raster, "wavelength", path)
    if centres is None:
        return {}
    units = {_unit(tags) for tags in raster.band_tags}
    shared = _unit(raster.tags)
    units = {shared if unit is None else unit for unit in units}
    if len(units) > 1:
        listed = ", ".join(sorted(map(str, units)))
        raise FileError(path, "wavelength_units", f"must be the same in all bands, got {listed}")
    fwhm = _per_band(raster, "fwhm", path)
    return {"wavelength": centres, "wavelength_unit": units.pop(), "fwhm": fwhm}


def _unit(tags: Mapping[str, str]) -> str | None:
    return tags.get("wavelength_units", tags.get("wavelength_unit"))


def _from_imagery(raster: Raster, path: Path) -> dict[str, Any]:
    centres = _per_band(raster, "central_wavelength_um", path)
    if centres is None:
        return {}
    fwhm = _per_band(raster, "fwhm_um", path)
    return {"wavelength": centres, "wavelength_unit": "um", "fwhm": fwhm}


def _from_lists(raster: Raster, path: Path) -> dict[str, Any]:
    centres = _listed(raster, "wavelength", path)
    if centres is None:
        return {}
    fwhm = _listed(raster, "fwhm", path)
    return {"wavelength": centres, "wavelength_unit": _unit(raster.tags), "fwhm": fwhm}


def _from_descriptions(raster: Raster) -> dict[str, Any]:
    matches = [_DESCRIPTION.search(text or "") for text in raster.descriptions]
    found = [match.groups() for match in matches if match]
    if len(found) < len(matches):
        return {}
    micro = [not unit.lower().startswith("n") for _, unit in found]
    if len(set(micro)) > 1:
        return {}
    centres = np.array([float(number) for number, _ in found])
    return {"wavelength": centres, "wavelength_unit": "um" if micro[0] else "nm"}


def _good_bands(raster: Raster, path: Path) -> dict[str, Any]:
    flags = _per_band(raster, "bbl", path)
    flags = _listed(raster, "bbl", path) if flags is None else flags
    return {} if flags is None else {"good": flags != 0}


def _per_band(raster: Raster, name: str, path: Path) -> np.ndarray | None:
    texts = [tags.get(name) for tags in raster.band_tags]
    known = [text for text in texts if text is not None]
    if not known:
        return None
    if len(known) < len(texts):
        problem = f"is given for {len(known)} of {len(texts)} bands only: complete it or remove it"
        raise FileError(path, name, problem)
    return _numbers(known, name, path)


def _listed(raster: Raster, name: str, path: Path) -> np.ndarray | None:
    text = raster.tags.get(name)
    if text is None:
        return None
    numbers = _numbers(text.strip().strip("{}[]").replace(",", " ").split(), name, path)
    if numbers.size != len(raster.band_tags):
        problem = f"must hold one number per band ({len(raster.band_tags)}), got {numbers.size}"
        raise FileError(path, name, problem)
    return numbers


def _numbers(texts: list[str], name: str, path: Path) -> np.ndarray:
    try:
        return np.array([float(text) for text in texts])
    except ValueError as error:
        raise FileError(path, name, f"must be numbers: {error}") from error


def scaling(raster: Raster, path: Path) -> dict[str, Any]:
    """The fields scale and offset of an Image: GDAL's, or ENVI's `reflectance scale factor`."""
    factor = None
    text = raster.tags.get("reflectance_scale_factor")
    if text is not None:
        factor = _numbers([text], "reflectance scale factor", path)[0]
        if not (np.isfinite(factor) and factor > 0):
            problem = f"must be positive, got {text}"
            raise FileError(path, "reflectance scale factor", problem)
    if not raster.scaled:
        return {} if factor is None else {"scale": 1 / factor, "offset": 0.0}
    if factor is not None and not np.allclose(raster.scales * factor, 1, rtol=1e-3):
        problem = (
            f"the bands have the scale {raster.scales[0]:g}, but the reflectance scale factor is "
            f"{factor:g}: pass scale= to read_sequence, or correct the file"
        )
        raise FileError(path, "scale", problem)
    return {"scale": _one_or_all(raster.scales), "offset": _one_or_all(raster.offsets)}


def _one_or_all(numbers: np.ndarray) -> Any:
    return float(numbers[0]) if (numbers == numbers[0]).all() else numbers


def acquisition(raster: Raster) -> list[np.datetime64] | None:
    """The date of the file, if its tags state one that can be understood; notes say which."""
    for name in _DATE_TAGS:
        text = raster.tags.get(name)
        if text is None:
            continue
        with suppress(ValueError):
            date = parse_time(text)
            doubt = ", which may be the time of writing" if name == "tifftag_datetime" else ""
            raster.notes.append(f"date {date} from the tag {name}{doubt}")
            return [date]
        raster.notes.append(f"the date {text!r} in the tag {name} is not understood")
    return None


class GeoTiffReader:
    """One image per file, one band per wavelength."""

    name = "GeoTIFF"
    suffixes = (".tif", ".tiff", ".gtif", ".cog")

    def sniff(self, path: Path) -> bool:
        return is_tiff(path)

    def read(self, path: Path) -> Image:
        raster = read_raster(path)
        names = None
        if all(raster.descriptions):
            names = [str(text) for text in raster.descriptions]
        return Image(
            values=raster.values,
            format=self.name,
            nodata=raster.nodata,
            dates=acquisition(raster),
            crs=raster.crs,
            transform=raster.transform,
            names=names,
            notes=raster.notes,
            **spectral_axis(raster, path),
            **scaling(raster, path),
        )


READER = GeoTiffReader()
