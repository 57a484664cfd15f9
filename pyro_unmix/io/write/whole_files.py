"""NetCDF that is made in memory before it is written: the HDF5 library ends the process where a disk is full."""

from __future__ import annotations

import errno
import io
import os
import shutil
from pathlib import Path
from typing import Any

import xarray as xr

_IN_MEMORY = 2**30  # bytes
_FULL = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))


def is_full(error: OSError) -> bool:
    """Whether the disk, the quota or the largest size of a file was reached."""
    return error.errno in _FULL


def write_netcdf4(dataset: xr.Dataset, path: Path, *, encoding: Any = None) -> None:
    """Write a NetCDF-4 file.

    Up to 1 GB of numbers are packed in memory first; for more, the disk must have room for them.

    Raises
    ------
    OSError
        Where the disk is full; the file may be there in part.
    """
    if dataset.nbytes > _IN_MEMORY:
        _check_room(path, dataset.nbytes)
        dataset.to_netcdf(path, engine="h5netcdf", encoding=encoding)
    else:
        path.write_bytes(_packed(dataset.compute(), encoding))


def _packed(dataset: xr.Dataset, encoding: Any) -> memoryview:
    import h5netcdf
    from xarray.backends import H5NetCDFStore

    buffer = io.BytesIO()
    with h5netcdf.File(buffer, "w") as file:
        dataset.dump_to_store(H5NetCDFStore(file), encoding=encoding)
    return buffer.getbuffer()


def _check_room(path: Path, num_bytes: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if free < num_bytes:
        problem = (
            f"{os.strerror(errno.ENOSPC)}: up to {num_bytes} bytes are needed, {free} are free"
        )
        raise OSError(errno.ENOSPC, problem, os.fspath(path))
