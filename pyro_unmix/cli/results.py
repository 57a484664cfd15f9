"""Results and truths from files: what `unmix` and `simulate` wrote, for `info`, `plot` and `score`."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from pyro_unmix.cli.console import bad_input
from pyro_unmix.data.names import material_names
from pyro_unmix.io import FileError
from pyro_unmix.io.errors import parsing
from pyro_unmix.io.formats.own_netcdf import open_netcdf
from pyro_unmix.io.write.replacing import workshop
from pyro_unmix.io.write.whole_files import write_netcdf4

if TYPE_CHECKING:
    from pyro_unmix.posterior.result import Unmixing
    from pyro_unmix.simulate import Scene

_NEEDED = {"abundances", "reference_endmembers"}


@dataclass(frozen=True, eq=False)
class StoredTruth:
    """What a result is compared with, date by date: `images` (y, x, wavelength) and `spectra`, the
    endmembers of every pixel (y, x, wavelength, endmember), or None where the file has none.
    """

    abundances: xr.DataArray
    reference_endmembers: xr.DataArray
    images: Callable[[int], xr.DataArray]
    spectra: Callable[[int], xr.DataArray] | None

    @property
    def cubes(self) -> Any:
        """The images, one after the other."""
        return (self.images(time) for time in range(self.abundances.sizes["time"]))

    def endmembers(self, time: int = 0) -> xr.DataArray:
        assert self.spectra is not None
        return self.spectra(time)

    def where(self, known: xr.DataArray) -> StoredTruth:
        """The same, with NaN at the pixel-dates (time, y, x) that are not to be compared."""
        spectra = self.spectra
        order = ("time", "y", "x")
        sizes = [tuple(part.sizes[dim] for dim in order) for part in (known, self.abundances)]
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"expected a result and a truth of the same (time, y, x), got {sizes[0]} and "
                f"{sizes[1]}: compare results of the same images"
            )
        # Without coordinates: their files may count dates differently.
        mask = known.drop_vars(list(known.coords)).transpose(*order)
        return StoredTruth(
            self.abundances.where(mask),
            self.reference_endmembers,
            lambda time: self.images(time).where(mask.isel(time=time)),
            None if spectra is None else lambda time: spectra(time).where(mask.isel(time=time)),
        )


def load_result(path: Path) -> Unmixing:
    """A result from a folder of `Unmixing.save` (or of the command ``unmix``) or its NetCDF."""
    from pyro_unmix.posterior.result import Unmixing

    with bad_input():
        if not path.exists():
            raise FileNotFoundError(f"no such file or folder: {path}")
        if path.is_dir():
            for folder in (path, path / "saved"):
                if (folder / "recipe.json").is_file():
                    return Unmixing.load(folder)
            problem = "holds no result: expected a folder that Unmixing.save or unmix wrote"
            raise FileError(path, "recipe.json", problem)
        return _as_result(_open(path), path)


def load_truth(path: Path) -> StoredTruth:
    """A scene that `write_scene` wrote, or a result."""
    if path.is_file():
        with bad_input():
            dataset = _open(path)
            if "reflectance" in dataset:
                return _of_scene(dataset)
    return _of_result(load_result(path))


def write_scene(scene: Scene, path: Path, *, endmembers: bool = True) -> None:
    """NetCDF of the images (``reflectance``) and the truth, with the names of a result.

    The endmembers of every pixel take as many numbers as P sequences.
    """
    dataset = xr.Dataset(
        {
            "reflectance": scene.cubes,
            "abundances": scene.abundances,
            "reference_endmembers": scene.reference_endmembers,
        }
    )
    if endmembers:
        dates = [scene.endmembers(t).astype(np.float32) for t in range(scene.cubes.sizes["time"])]
        dataset["endmembers"] = xr.concat(dates, "time", coords="minimal", compat="override")
    dataset.attrs = {"title": "Simulated scene", "source": "pyro_unmix simulate"}
    packing = {name: {"zlib": True, "complevel": 1, "shuffle": True} for name in dataset.data_vars}
    with workshop(path.absolute().parent) as folder:
        write_netcdf4(dataset, folder / path.name, encoding=packing)
        os.replace(folder / path.name, path)


def _open(path: Path) -> xr.Dataset:
    what = "the NetCDF of a result or a scene"
    with parsing(path, "content", what):
        with open_netcdf(path, what, decode_coords="all") as dataset:
            lacking = _NEEDED - set(dataset.variables)
            if lacking:
                problem = (
                    f"lacks {', '.join(sorted(lacking))}: expected a file that pyro-unmix unmix or "
                    "simulate wrote"
                )
                raise FileError(path, "variables", problem)
            return dataset.load()


def _as_result(dataset: xr.Dataset, path: Path) -> Unmixing:
    from pyro_unmix.posterior.result import Unmixing

    with parsing(path, "variables", "a result"):
        losses = dataset["losses"].to_numpy() if "losses" in dataset else np.zeros(0)
        dataset = dataset.drop_vars("losses", errors="ignore")
        order = ("time", "y", "x", ..., "endmember")
        dataset = dataset.transpose(*order, missing_dims="ignore")
        method = str(dataset.attrs.get("method", "unknown"))
        return Unmixing(dataset, losses=losses, method=method)


def _of_scene(dataset: xr.Dataset) -> StoredTruth:
    def spectra(time: int) -> xr.DataArray:
        return dataset["endmembers"].isel(time=time)

    return StoredTruth(
        dataset["abundances"],
        dataset["reference_endmembers"],
        lambda time: dataset["reflectance"].isel(time=time),
        spectra if "endmembers" in dataset else None,
    )


def _of_result(result: Unmixing) -> StoredTruth:
    from pyro_unmix.posterior.spectra import as_reflectance

    def images(time: int) -> xr.DataArray:
        if result.cubes is None:
            return result.reconstruct(time)
        return as_reflectance(result, result.cubes.isel(time=time))

    return StoredTruth(result.abundances, result.reference_endmembers, images, result.endmembers)


def is_result(path: Path) -> bool:
    """Whether a path looks like what `load_result` reads; an image does not."""
    if path.is_dir():
        return any((folder / "recipe.json").is_file() for folder in (path, path / "saved"))
    if path.suffix.lower() != ".nc":
        return False
    try:
        with open_netcdf(path, "a result") as dataset:
            return set(dataset.variables) >= _NEEDED and "reflectance" not in dataset
    except (OSError, ValueError):  # the image readers say what is wrong with it
        return False


def summary_of(result: Unmixing) -> dict[str, Any]:
    """What a result holds, ready for JSON; None where it does not know."""
    from pyro_unmix.posterior.residuals import has_rmse

    abundances = result.abundances
    names = material_names(abundances)
    means = abundances.where(result.valid).mean(("time", "y", "x")).values
    errors = result.rmse.to_numpy() if has_rmse(result) else np.zeros(0)
    errors = errors[np.isfinite(errors)]
    quantiles = np.quantile(errors, [0.5, 0.9]).tolist() if errors.size else [None, None]
    wavelength = result.dataset.coords.get("wavelength")
    return {
        "method": result.method,
        "sizes": {**abundances.sizes, "wavelength": result.dataset.sizes["wavelength"]},
        "wavelength_nm": None if wavelength is None else wavelength.values,
        "dates": list(abundances["time"].values) if "time" in abundances.coords else None,
        "valid_share": float(result.valid.mean()),
        "mean_abundances": dict(zip(names, means.tolist(), strict=True)),
        "rmse": dict(zip(("median", "90 %"), quantiles, strict=True)),
        "steps": len(result.losses),
        "loss": float(result.losses[-1]) if len(result.losses) else None,
        "seed": result.seed,
    }


def texts_of(summary: dict[str, Any]) -> dict[str, str]:
    """A summary in words, for people."""
    shares = (f"{name}: {share:.3f}" for name, share in summary["mean_abundances"].items())
    loss, rmse = summary["loss"], summary["rmse"]
    texts = {
        "method": summary["method"] + ("" if loss is None else f", {summary['steps']} steps"),
        "sizes": ", ".join(f"{name} {size}" for name, size in summary["sizes"].items()),
        "valid": f"{100 * summary['valid_share']:.1f} %",
        "mean abundances": ", ".join(shares),
    }
    if rmse["median"] is not None:
        texts["RMSE"] = (
            f"{rmse['median']:.4f} in half of the pixels or less, {rmse['90 %']:.4f} in 90 %"
        )
    return texts
