"""Results out: `datasets` as CF NetCDF and Zarr, `rasters` as GeoTIFF and ENVI."""

from pyro_unmix.io.write.datasets import write_netcdf, write_zarr
from pyro_unmix.io.write.rasters import write_envi, write_geotiff

__all__ = [
    "write_envi",
    "write_geotiff",
    "write_netcdf",
    "write_zarr",
]
