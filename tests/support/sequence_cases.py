"""A small sequence, in files of one date each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xarray as xr

from pyro_unmix.data import as_cube_sequence

T, H, W, L = 3, 3, 4, 5
WAVELENGTH = [450.0, 550.0, 650.0, 850.0, 1600.0]
DATES = ["2020-01-01", "2020-02-10", "2021-01-01"]


def make_cubes() -> xr.DataArray:
    cubes = as_cube_sequence(
        np.random.default_rng(0).random((T, H, W, L)), wavelength=WAVELENGTH, time=DATES
    )
    x, y = 500_015 + 30.0 * np.arange(W), 4_000_000 - 30.0 * np.arange(H)
    return cubes.assign_coords(x=x, y=y)


def write(path: Path, cubes: xr.DataArray) -> Path:
    cubes.to_dataset().to_netcdf(path, engine="h5netcdf")
    return path
