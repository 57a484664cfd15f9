"""Broken files of every format, each made from a whole one: what no reader may swallow.

A maker gets an empty folder, writes there, and yields the whole file first (`field` is None), then
the broken ones. To add a format, write a maker and add it to `MAKERS`.
"""

from __future__ import annotations

from broken_case import Maker
from broken_envi import envi
from broken_matlab import matlab_v5, matlab_v5_packed, matlab_v73
from broken_netcdf import netcdf3, netcdf4
from broken_numpy import numpy_archives, numpy_arrays

MAKERS: dict[str, Maker] = {
    "envi": envi,
    "npz": numpy_archives,
    "npy": numpy_arrays,
    "matlab v5": matlab_v5,
    "matlab v5 packed": matlab_v5_packed,
    "matlab v7.3": matlab_v73,
    "netcdf4": netcdf4,
    "netcdf3": netcdf3,
}
