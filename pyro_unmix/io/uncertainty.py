"""How uncertain the reflectance of a product is, band by band."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xarray as xr

from pyro_unmix.io.companions import companion, expected_companion, is_reflectance
from pyro_unmix.io.errors import FileError
from pyro_unmix.io.formats.metadata import attribute_text
from pyro_unmix.io.integrity.hdf5 import check_stored, open_hdf5, read_dataset
from pyro_unmix.io.spectral_axis import fwhm_in_nm, wavelength_in_nm

_CUBE = "reflectance_uncertainty"
_BANDS = "sensor_band_parameters"
_ROWS = 64  # at once


def read_uncertainty(path: str | os.PathLike[str]) -> xr.DataArray:
    """Read the uncertainty of the reflectance of an EMIT L2A granule (``EMIT_L2A_RFLUNCERT_*.nc``).

    Of N pixels with standard deviations ``s_nl`` in band l::

        s_l = sqrt(sum_n s_nl^2 / N)

    Methods that take ``uncertainty=`` weigh bands by it.

    Parameters
    ----------
    path : path
        Of the file, or of the granule's reflectance (``EMIT_L2A_RFL_*.nc``), beside which it lies.

    Returns
    -------
    DataArray (wavelength)
        Reflectance, with ``wavelength`` and ``fwhm`` in nm; NaN in bands without any.

    Raises
    ------
    FileNotFoundError, FileError
        If there is no such file, or it is none of these.

    Examples
    --------
    >>> import tempfile, h5py
    >>> from pathlib import Path
    >>> from pyro_unmix.io import read_uncertainty
    >>> path = Path(tempfile.mkdtemp()) / "EMIT_L2A_RFLUNCERT_001.nc"
    >>> with h5py.File(path, "w") as file:
    ...     file["reflectance_uncertainty"] = [[[0.01, 0.03]]]
    ...     file["sensor_band_parameters/wavelengths"] = [500.0, 800.0]
    ...     file["sensor_band_parameters/wavelengths"].attrs["units"] = "nm"
    >>> read_uncertainty(path).values.tolist()
    [0.01, 0.03]

    References
    ----------
    EMIT L2A product user guide, EMITL2ARFL.001 (NASA LP DAAC).
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no such file: {path}")
    if is_reflectance(path):
        path = _beside(path)
    with open_hdf5(path, "a NetCDF-4 file") as file:
        cube, bands = file.get(_CUBE), file.get(_BANDS)
        if not isinstance(cube, h5py.Dataset) or not isinstance(bands, h5py.Group):
            problem = (
                f"is no EMIT_L2A_RFLUNCERT file, which holds {_CUBE} and {_BANDS}: take that of the granule; in "
                "Python, methods take a number for each band, too"
            )
            raise FileError(path, _CUBE, problem)
        wavelength = read_dataset(path, bands, "wavelengths")
        if cube.ndim != 3 or cube.shape[-1] != wavelength.size:
            problem = f"must be (downtrack, crosstrack, bands) with {wavelength.size} bands, got {cube.shape}"
            raise FileError(path, _CUBE, problem)
        unit = attribute_text(bands["wavelengths"], "units")
        coords: dict[str, Any] = {"wavelength": wavelength_in_nm(wavelength, unit, path)}
        if "fwhm" in bands:
            widths = fwhm_in_nm(read_dataset(path, bands, "fwhm"), unit, path)
            coords["fwhm"] = ("wavelength", widths)
        check_stored(path, cube)
        squares, counts = np.zeros(wavelength.size), np.zeros(wavelength.size)
        for row in range(0, cube.shape[0], _ROWS):
            part = np.asarray(cube[row : row + _ROWS], dtype=np.float64)
            known = part > 0  # fill is -9999
            squares += np.square(np.where(known, part, 0.0)).sum(axis=(0, 1))
            counts += known.sum(axis=(0, 1))
    if not counts.any():
        raise FileError(
            path, _CUBE, "holds no positive number in any band: it is damaged, or all fill"
        )
    values = np.sqrt(squares / np.where(counts > 0, counts, np.nan))
    return xr.DataArray(
        values,
        coords,
        ("wavelength",),
        "uncertainty",
        {"long_name": "std of reflectance", "units": "1"},
    )


def _beside(path: Path) -> Path:
    found = companion(path, "RFLUNCERT")
    if found is None:
        problem = f"there is none beside it (expected {expected_companion(path, 'RFLUNCERT').name})"
        raise FileError(path, "uncertainty", problem)
    return found
