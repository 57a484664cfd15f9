"""GeoTIFF and COG by rasterio, with the spectral metadata that GDAL programs write into them."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from pyro_unmix.io.errors import FileError
from pyro_unmix.io.formats.geotiff_bands import numbers, spectral_axis
from pyro_unmix.io.formats.metadata import parse_time
from pyro_unmix.io.formats.raster_file import Raster, read_raster
from pyro_unmix.io.image import Image
from pyro_unmix.io.integrity.tiff import is_tiff

__all__ = ["READER", "GeoTiffReader", "Raster", "read_raster"]

# Tags that hold the time of the acquisition, in the order in which they are believed; `time` is what
# `write_geotiff` writes. Not TIFFTAG_DATETIME: by TIFF 6.0 "the date and time of image creation".
_DATE_TAGS = "acquisitiondatetime acquisitiondate acquisition_date acquisition_time".split()
_DATE_TAGS += "start_time sensing_time time".split()
_FILE_TIME = "tifftag_datetime"
SOFTWARE = "pyro_unmix"  # in TIFFTAG_SOFTWARE, of the files of `write_geotiff`


def scaling(raster: Raster, path: Path) -> dict[str, Any]:
    """The fields scale and offset of an Image: GDAL's, or ENVI's `reflectance scale factor`."""
    factor = None
    text = raster.tags.get("reflectance_scale_factor")
    if text is not None:
        factor = numbers([text], "reflectance scale factor", path)[0]
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


def acquisition(raster: Raster) -> list[Any] | None:
    """The date of the file, if its tags state one that can be understood; notes say which."""
    ours = raster.tags.get("tifftag_software", "").startswith(SOFTWARE)
    for name in _DATE_TAGS:
        text = raster.tags.get(name)
        if text is None:
            continue
        with suppress(ValueError):
            # Only our own writer is known to mean a date by a number.
            date = float(text) if ours and name == "time" and _is_number(text) else parse_time(text)
            shown = date if isinstance(date, float) else np.datetime_as_string(date, unit="s")
            raster.notes.append(f"date {shown} from the tag {name}")
            return [date]
        raster.notes.append(f"the date {text!r} in the tag {name} is not understood")
    if _FILE_TIME in raster.tags:
        raster.notes.append(
            f"TIFFTAG_DATETIME {raster.tags[_FILE_TIME]} is when the file was made, no date of the "
            "image: pass dates= to read_sequence if it is"
        )
    return None


def _is_number(text: str) -> bool:
    with suppress(ValueError):
        return np.isfinite(float(text)).item()
    return False


class GeoTiffReader:
    """One image per file, one band per wavelength."""

    name = "GeoTIFF"
    suffixes = (".tif", ".tiff", ".gtif", ".cog")

    def sniff(self, path: Path) -> bool:
        return is_tiff(path)

    def read(self, path: Path) -> Image:
        return self._image(read_raster(path), path)

    def open(self, path: Path) -> Image:
        """As `read`, but the numbers stay in the file until rows of them are asked for."""
        return self._image(read_raster(path, lazy=True), path)

    def _image(self, raster: Raster, path: Path) -> Image:
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
