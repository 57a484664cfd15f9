"""Results out: `datasets` as CF NetCDF and Zarr, `rasters` as GeoTIFF and ENVI; `libraries` of spectra.

They appear whole or not at all: `whole_files`, `replacing` of folders, `locks` on them.
"""

from pyro_unmix.io.write.datasets import write_netcdf, write_zarr
from pyro_unmix.io.write.rasters import write_envi, write_geotiff

__all__ = [
    "write_envi",
    "write_geotiff",
    "write_netcdf",
    "write_zarr",
]
