"""One file a format: each holds a reader that `pyro_unmix.io.registry` lists.

Images: `envi`, `geotiff`, `netcdf` (HDF5 with named dims and Zarr too), `matlab`, `npz`. Products: `emit`, `prisma`,
`enmap` and `desis` (one `sidecar` layout), `sentinel2`. What a format needs beside its reader is in files of its name
(`netcdf_grid`, `netcdf_packing`, `own_netcdf`, `envi_map`, `geotiff_bands`, `sentinel2_metadata`); `raster_file` is
what GDAL says of a raster, `metadata` small XML and dates.
"""
