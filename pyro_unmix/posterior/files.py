"""How a result gets into files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, cast

import xarray as xr

from pyro_unmix.io.write import datasets as writers
from pyro_unmix.io.write import rasters
from pyro_unmix.posterior import residuals, saving

if TYPE_CHECKING:
    from pyro_unmix.posterior.result import Unmixing


class Files:
    """What `Unmixing` has to be written, whole or as maps; `Unmixing.load` reads what `save` wrote."""

    def to_dataset(self) -> xr.Dataset:
        """A copy of everything as one `xarray.Dataset`, with `rmse` where maps are in memory and images known."""
        this = cast("Unmixing", self)
        dataset = this.dataset.copy()
        dataset["abundances_std"] = this.abundances_std
        if "endmembers" in dataset and not dataset.chunks:
            dataset["reference_endmembers"] = this.reference_endmembers
        if residuals.has_rmse(this):
            dataset["rmse"] = this.rmse
        dataset["losses"] = ("step", this.losses)
        dataset.attrs["method"] = this.method
        return dataset

    def to_netcdf(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write everything but the model as CF NetCDF; see `pyro_unmix.io.write.write_netcdf`."""
        return writers.write_netcdf(self._known(), path, overwrite=overwrite)

    def to_zarr(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write the same as a Zarr store; see `pyro_unmix.io.write.write_zarr`."""
        return writers.write_zarr(self._known(), path, overwrite=overwrite)

    def to_geotiff(
        self, directory: str | os.PathLike[str], *, overwrite: bool = False, filled: bool = False
    ) -> list[Path]:
        """Write a GeoTIFF of the abundances and one of their std per date; see
        `pyro_unmix.io.write.write_geotiff`. What was not observed is nodata, or with `filled` the model's filling.
        """
        return rasters.write_geotiff(self._known(), directory, overwrite=overwrite, filled=filled)

    def to_envi(
        self, directory: str | os.PathLike[str], *, overwrite: bool = False, filled: bool = False
    ) -> list[Path]:
        """Write ENVI images of every date and a spectral library, as `pyro_unmix.io.write.write_envi` does."""
        return rasters.write_envi(self._known(), directory, overwrite=overwrite, filled=filled)

    def _known(self) -> xr.Dataset:
        """`to_dataset` without the std that a method does not have."""
        dataset = self.to_dataset()
        known = cast("Unmixing", self).dataset
        return dataset if "abundances_std" in known else dataset.drop_vars("abundances_std")

    def save(
        self, path: str | os.PathLike[str], *, cubes: bool = True, overwrite: bool = False
    ) -> Path:
        """Write a folder that `load` reads: NetCDF, state dicts and JSON, no pickled code.

        Parameters
        ----------
        path : path
            The folder to make.
        cubes : bool
            Also write the images, so that a loaded result can draw samples. Without them it still predicts.
        overwrite : bool
            Replace a result that is there.

        Returns
        -------
        Path

        Raises
        ------
        TypeError
            If model, guide or `decode` cannot be made again from numbers, text and arrays, as plain functions and
            Pyro's autoguides cannot; nothing is written then. `to_netcdf` and the like write the maps all the same.
        """
        return saving.save(cast("Unmixing", self), path, with_cubes=cubes, overwrite=overwrite)
