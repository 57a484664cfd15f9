"""What notices short and damaged files before a library takes memory for them, or runs in a circle.

By kind of file: `flat`, `hdf5` (with `hdf5_heap` and `hdf5_links`), `matlab`, `sqlite`, `tiff`, `zarr_store`; `gdal`
opens files by one driver, `kinds` refuses pipes and devices, `deflate` is what compressed bytes can hold.
"""
