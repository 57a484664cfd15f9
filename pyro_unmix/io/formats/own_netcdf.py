"""NetCDF that this package wrote, read by others' hands or not: nothing is followed, nothing is too large."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import xarray as xr

from pyro_unmix.io.errors import FileError
from pyro_unmix.io.formats.netcdf import is_only_a_dim
from pyro_unmix.io.integrity.hdf5 import check_stored, never_written, open_hdf5
from pyro_unmix.io.integrity.hdf5_links import check_layout


@contextmanager
def open_netcdf(path: Path, what: str = "a NetCDF-4 file", **settings: Any) -> Iterator[xr.Dataset]:
    """As `xarray.open_dataset` of a NetCDF-4 file (`what`), after all that it declares was found in it.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    FileError
        If it is no such file, not all of its values are there, or it leads to other files.
    """
    if not path.exists():
        raise FileNotFoundError(f"no such file: {path}")
    if not path.is_file() or not h5py.is_hdf5(path):
        problem = (
            f"cannot be read as {what}: it may be truncated, or of another format than NetCDF-4"
        )
        raise FileError(path, "format", problem)
    with open_hdf5(path, what) as file:
        for dataset in file.values():
            if not isinstance(dataset, h5py.Dataset) or is_only_a_dim(dataset):
                continue
            check_layout(path, dataset)
            if dataset.ndim or not never_written(dataset):
                check_stored(path, dataset, some_chunks=True)
    with xr.open_dataset(path, engine="h5netcdf", **settings) as opened:
        yield opened
