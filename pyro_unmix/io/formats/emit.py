"""EMIT L2A surface reflectance: NetCDF-4 with groups, in the geometry of the sensor.

Source: EMIT L2A product user guide, EMITL2ARFL.001 (NASA LP DAAC).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pyro_unmix.io.errors import FileError
from pyro_unmix.io.formats.metadata import attribute_text, read_time
from pyro_unmix.io.image import Image, assume
from pyro_unmix.io.integrity.hdf5 import dataset_rows, open_hdf5, read_dataset
from pyro_unmix.io.integrity.hdf5_links import without_links

_CUBE = "reflectance"
_BANDS = "sensor_band_parameters"
_DIMS = ("downtrack", "crosstrack", "bands")


class EmitReader:
    """One granule per file: EMIT_L2A_RFL_*.nc."""

    name = "EMIT L2A"
    suffixes: tuple[str, ...] = ()

    def sniff(self, path: Path) -> bool:
        try:
            with without_links(path) as file:
                return f"{_BANDS}/wavelengths" in file and _CUBE in file
        except (OSError, RuntimeError, KeyError, ValueError):
            return False

    def read(self, path: Path) -> Image:
        with open_hdf5(path, "a NetCDF-4 file") as file:
            return _image(file, path, read_dataset)

    def open(self, path: Path) -> Image:
        """As `read`, but the numbers stay in the file until rows of them are asked for."""
        with open_hdf5(path, "a NetCDF-4 file") as file:
            return _image(file, path, dataset_rows)


def _image(file: h5py.File, path: Path, load: Callable[[Path, h5py.Group, str], Any]) -> Image:
    cube = file.get(_CUBE)
    bands = file.get(_BANDS)
    if not isinstance(cube, h5py.Dataset):
        raise FileError(path, _CUBE, "is missing: expected the L2A reflectance file (L2A_RFL)")
    if not isinstance(bands, h5py.Group):
        raise FileError(path, _BANDS, "is missing")
    wavelength = read_dataset(path, bands, "wavelengths")
    _check_dims(file, cube, wavelength.size, path)
    unit = attribute_text(bands["wavelengths"], "units")
    fwhm = read_dataset(path, bands, "fwhm") if "fwhm" in bands else None
    if fwhm is not None and attribute_text(bands["fwhm"], "units") != unit:
        problem = f"has the units {attribute_text(bands['fwhm'], 'units')!r}, the centres {unit!r}"
        raise FileError(path, f"{_BANDS}/fwhm", problem)
    notes = [
        "in the geometry of the sensor, without a map projection: rows are along the track; the "
        "lookup table of the group location is not applied"
    ]
    good = None
    if "good_wavelengths" in bands:
        good = read_dataset(path, bands, "good_wavelengths") != 0
    else:
        text = "no good_wavelengths: all bands are taken for good, those of water vapour among them"
        assume(notes, path, text)
    return Image(
        values=load(path, file, _CUBE),
        format=EmitReader.name,
        wavelength=np.asarray(wavelength),
        fwhm=fwhm,
        wavelength_unit=unit,
        good=good,
        nodata=_fill_value(cube, path),
        scale=1.0,
        offset=0.0,
        dates=_dates(file, path, notes),
        notes=notes,
    )


def _check_dims(file: h5py.File, cube: h5py.Dataset, num_bands: int, path: Path) -> None:
    """Bands last; rows and columns as in the latitudes, which have no bands.

    The names of the dims are not asked for: HDF5 can hang on a broken list of them.
    """
    if cube.ndim != 3 or cube.shape[2] != num_bands:
        problem = f"must have the dims {_DIMS} and {num_bands} bands, got the shape {cube.shape}"
        raise FileError(path, _CUBE, problem)
    latitude = file.get("location/lat")
    if isinstance(latitude, h5py.Dataset) and latitude.shape != cube.shape[:2]:
        problem = f"has {cube.shape[:2]} pixels, but location/lat {latitude.shape}"
        raise FileError(path, _CUBE, problem)


def _fill_value(cube: h5py.Dataset, path: Path) -> Any:
    mark = np.ravel(cube.attrs.get("_FillValue", cube.attrs.get("missing_value", -9999.0)))
    if mark.size != 1 or mark.dtype.kind not in "iuf":
        raise FileError(path, f"{_CUBE} _FillValue", f"must be one number, got {mark}")
    return float(mark[0])


def _dates(file: h5py.File, path: Path, notes: list[str]) -> list[np.datetime64] | None:
    text = attribute_text(file, "time_coverage_start")
    if text is None:
        notes.append("no time_coverage_start")
        return None
    return [read_time(text, path, "time_coverage_start")]


READER = EmitReader()
