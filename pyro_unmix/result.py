"""`Unmixing`: the one result type of every method."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

from pyro_unmix._check import in_range, positive_int
from pyro_unmix._recipe import from_recipe, to_recipe
from pyro_unmix._threads import one_thread
from pyro_unmix.cubes import as_cube_sequence, check_bands, from_pixels
from pyro_unmix.io import rasters, writers
from pyro_unmix.posterior import ParamStore, PlugInMean, PosteriorMean, iterate_draws, read_out

_FORMAT = 1
_ESTIMATES = {cls.__name__: cls for cls in (PosteriorMean, PlugInMean)}


@dataclass(frozen=True, eq=False, repr=False)
class Unmixing:
    """Abundances and endmembers of a cube sequence, as posterior where the method has one.

    Parameters
    ----------
    dataset : xarray.Dataset
        ``abundances`` (time, y, x, endmember) and ``reference_endmembers`` (wavelength, endmember) at least;
        ``abundances_std``, ``change``, ``valid``, and ``variability`` with ``components`` where the method has them;
        or ``date_endmembers`` (time, wavelength, endmember), the spectra of each date where they differ by date only.
    losses : array
        Loss after every step: the negative ELBO per observed value.
    model, guide : optional
        The fitted pair: copies, which further training of the originals does not touch.
    cubes : DataArray, optional
        The images that were unmixed; draws need them. Not a copy.
    estimate : PosteriorMean or PlugInMean
        What `abundances` is an estimate of.
    seed : int
        Of the draws behind the estimate.
    method : str
    store : mapping, optional
        Trained parameters of a guide that is a plain function, as Pyro's store had them.
    """

    dataset: xr.Dataset
    losses: np.ndarray = field(default_factory=lambda: np.zeros(0))
    model: Any = None
    guide: Any = None
    cubes: xr.DataArray | None = None
    estimate: PosteriorMean = field(default_factory=PosteriorMean)
    seed: int = 0
    method: str = "fit"
    store: ParamStore | None = None

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name}: {size}" for name, size in self.abundances.sizes.items())
        posterior = "" if self.model is None else f", {len(self.losses)} steps"
        return f"<Unmixing by {self.method} ({sizes}){posterior}>"

    @property
    def abundances(self) -> xr.DataArray:
        """Estimated fractions (time, y, x, endmember), on the simplex."""
        return self.dataset["abundances"]

    @property
    def abundances_std(self) -> xr.DataArray:
        """Posterior standard deviation of each fraction; NaN where the method has no posterior."""
        if "abundances_std" in self.dataset:
            return self.dataset["abundances_std"]
        return xr.full_like(self.abundances, np.nan).rename("abundances_std")

    @property
    def reference_endmembers(self) -> xr.DataArray:
        """M0 (wavelength, endmember), reflectance."""
        return self.dataset["reference_endmembers"]

    @property
    def valid(self) -> xr.DataArray:
        """Which pixel-dates were observed (time, y, x); the others are filled by the model."""
        return self.dataset["valid"]

    @property
    def change(self) -> xr.DataArray:
        """``u_t = 1/2 ||s(M_{t-1}^+ y_t) - a_{t-1}||_1`` (time, y, x); NaN at the first date."""
        if "change" in self.dataset:
            return self.dataset["change"]
        return xr.full_like(self.valid, np.nan, dtype=float).rename("change")

    @property
    def num_endmembers(self) -> int:
        """P."""
        return self.dataset.sizes["endmember"]

    def endmembers(self, time: int = 0) -> xr.DataArray:
        """Endmembers of every pixel of one date, ``M0 + sum_k F_k diag(psi_k)``.

        Parameters
        ----------
        time : int
            Position of the date, negative from the end.

        Returns
        -------
        DataArray (y, x, wavelength, endmember), reflectance
        """
        self._check_time(time)
        reference = self._date_reference(time)
        if "variability" not in self.dataset:
            plane = self.abundances.isel(time=time, endmember=0, drop=True)
            spectra = xr.ones_like(plane) * reference
        else:
            psi = self.dataset["variability"].isel(time=time)
            # one matrix product per material, instead of xarray's general contraction
            parts = np.einsum(
                "yxkp,lkp->yxlp",
                psi.transpose("y", "x", "component", "endmember").to_numpy(),
                self._components(),
                optimize=True,
            )
            plane = psi.isel(component=0, endmember=0, drop=True)
            spectra = xr.DataArray(
                parts + reference.transpose("wavelength", "endmember").to_numpy(),
                dims=("y", "x", "wavelength", "endmember"),
                coords={**plane.coords, **reference.coords},
            )
        spectra.attrs = {"long_name": "endmember reflectance", "units": "1"}
        order = ("y", "x", "wavelength", "endmember")
        return spectra.transpose(*order).rename("endmembers")

    def reconstruct(self, time: int = 0) -> xr.DataArray:
        """``M_n a_n`` of every pixel of one date.

        Returns
        -------
        DataArray (y, x, wavelength), reflectance
        """
        self._check_time(time)
        fractions = self.abundances.isel(time=time).transpose("y", "x", "endmember").to_numpy()
        reference = self._date_reference(time).transpose("wavelength", "endmember")
        spectra = fractions @ reference.to_numpy().T
        if "variability" in self.dataset:
            psi = self.dataset["variability"].isel(time=time)
            weighted = psi.transpose("y", "x", "component", "endmember").to_numpy()
            weighted = weighted * fractions[:, :, None, :]
            flat = self._components().reshape(len(reference), -1)
            spectra = spectra + weighted.reshape(*fractions.shape[:2], -1) @ flat.T
        plane = self.abundances.isel(time=time, endmember=0, drop=True)
        coords = {k: v for k, v in reference.coords.items() if v.dims == ("wavelength",)}
        return xr.DataArray(
            spectra,
            dims=("y", "x", "wavelength"),
            coords={**plane.coords, **coords},
            name="reconstruction",
            attrs={"long_name": "reconstructed reflectance", "units": "1"},
        )

    def _date_reference(self, time: int) -> xr.DataArray:
        """The spectra that the pixels of one date vary around (wavelength, endmember)."""
        if "date_endmembers" in self.dataset:
            return self.dataset["date_endmembers"].isel(time=time, drop=True)
        return self.reference_endmembers

    def _components(self) -> np.ndarray:
        order = ("wavelength", "component", "endmember")
        return self.dataset["components"].transpose(*order).to_numpy()

    def unit_maximum(self) -> xr.DataArray:
        """Abundances as the references of Jasper Ridge and Samson define them.

        Those references belong to endmembers scaled to maximum one, so that brightness counts as abundance:
        ``b_p`` proportional to ``a_p max_l M_nt(l, p)``, summing to one over materials.

        Returns
        -------
        DataArray (time, y, x, endmember)
        """
        peaks = xr.concat(
            [self.endmembers(t).max("wavelength") for t in range(self.dataset.sizes["time"])],
            dim="time",
            coords="minimal",
            compat="override",
        ).transpose(*self.abundances.dims)
        weighted = self.abundances * peaks.to_numpy().clip(min=0)
        total = weighted.sum("endmember")
        return (weighted / total.where(total > 0)).rename("unit_maximum_abundances")

    # ------------------------------------------------------------------ the posterior

    @one_thread()
    def sample(self, num_samples: int = 100, *, seed: int = 0) -> xr.DataArray:
        """Posterior draws of the abundances (sample, time, y, x, endmember).

        One draw uses the same noise at every pixel, so that a pixel's draws do not depend on its neighbours. The
        spread of a mean over pixels therefore cannot be read off them: it comes out as large as one pixel's.
        """
        cubes = self._need_posterior("sample")
        num_samples = positive_int(num_samples, "num_samples")
        seed = positive_int(seed, "seed", minimum=0)
        parts = iterate_draws(self.model, self.guide, cubes, num_samples, seed, self.store)
        draws = np.concatenate([chunk["draws"].cpu().numpy() for _, chunk in parts], axis=1)
        labels = {"endmember": self.abundances["endmember"].values}
        maps = [from_pixels(draw, cubes, labels, name="abundances") for draw in draws]
        return xr.concat(maps, dim="sample")

    @one_thread()
    def quantile(
        self, q: float | Sequence[float], *, num_samples: int = 200, seed: int = 0
    ) -> xr.DataArray:
        """Posterior quantiles of the abundances.

        Parameters
        ----------
        q : float or sequence of floats in [0, 1]
        num_samples : int
            Draws behind them.

        Returns
        -------
        DataArray (time, y, x, endmember), with a leading ``quantile`` dim for a sequence
        """
        cubes = self._need_posterior("quantile")
        levels = [in_range(level, "q", 0.0, 1.0) for level in np.atleast_1d(np.asarray(q))]
        if not levels:
            raise ValueError("q must hold at least one number in [0, 1], got an empty list")
        num_samples = positive_int(num_samples, "num_samples", minimum=2)
        seed = positive_int(seed, "seed", minimum=0)
        draws = iterate_draws(self.model, self.guide, cubes, num_samples, seed, self.store)
        parts = []
        for _, chunk in draws:
            at = chunk["draws"].new_tensor(levels)
            ordered = chunk["draws"].sort(dim=0).values
            parts.append(_interpolate_ranks(ordered, at).cpu().numpy())
        values = np.concatenate(parts, axis=1)
        labels = {"endmember": self.abundances["endmember"].values}
        maps = [from_pixels(value, cubes, labels, name="abundances") for value in values]
        if np.ndim(q) == 0:
            return maps[0].assign_coords(quantile=levels[0])
        return xr.concat(maps, dim=xr.IndexVariable("quantile", levels))

    @one_thread()
    def predict(self, other_cubes: Any) -> Unmixing:
        """Unmix other images of the same bands with the fitted model and guide, without training."""
        if self.model is None:
            raise ValueError(self._no_posterior("predict"))
        cubes = as_cube_sequence(other_cubes)
        bands = self.dataset.sizes["wavelength"]
        if cubes.sizes["wavelength"] != bands:
            raise ValueError(
                f"expected cubes with the {bands} bands of the fit, got "
                f"{cubes.sizes['wavelength']}: select or resample the same bands first"
            )
        reference = self.reference_endmembers
        if "wavelength" in reference.coords:
            check_bands(reference["wavelength"], cubes)
        estimate, seed = self.estimate, self.seed
        dataset = read_out(
            self.model, self.guide, cubes, estimate=estimate, seed=seed, store=self.store
        )
        return replace(self, dataset=dataset, cubes=cubes)

    def _need_posterior(self, what: str) -> xr.DataArray:
        if self.model is None:
            raise ValueError(self._no_posterior(what))
        if self.cubes is None:
            raise ValueError(
                f".{what}() needs the images, and this result was saved without them: call "
                f"result.predict(cubes).{what}(...) with the images"
            )
        return self.cubes

    def _no_posterior(self, what: str) -> str:
        return (
            f".{what}() needs a posterior, and {self.method} has none: fit a model and a guide, "
            "for example with unmix(), redsunn() or fit(model, guide, cubes)"
        )

    def _check_time(self, time: int) -> None:
        num_dates = self.dataset.sizes["time"]
        if isinstance(time, bool) or not isinstance(time, (int, np.integer)):
            raise TypeError(
                f"time must be the position of a date (0 to {num_dates - 1}), got {time!r}"
            )
        if not -num_dates <= time < num_dates:
            raise IndexError(
                f"time must be the position of one of {num_dates} dates "
                f"({-num_dates} to {num_dates - 1}), got {time}"
            )

    # ------------------------------------------------------------------ out

    def to_dataset(self) -> xr.Dataset:
        """A copy of everything as one `xarray.Dataset`."""
        dataset = self.dataset.copy()
        dataset["abundances_std"] = self.abundances_std
        dataset["losses"] = ("step", self.losses)
        dataset.attrs["method"] = self.method
        return dataset

    def to_netcdf(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write everything but the model as CF NetCDF; see `pyro_unmix.io.writers.write_netcdf`."""
        return writers.write_netcdf(self._known(), path, overwrite=overwrite)

    def to_zarr(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write the same as a Zarr store; see `pyro_unmix.io.writers.write_zarr`."""
        return writers.write_zarr(self._known(), path, overwrite=overwrite)

    def to_geotiff(
        self, directory: str | os.PathLike[str], *, overwrite: bool = False
    ) -> list[Path]:
        """Write a GeoTIFF of the abundances and one of their std per date; see
        `pyro_unmix.io.rasters.write_geotiff`.
        """
        return rasters.write_geotiff(self._known(), directory, overwrite=overwrite)

    def to_envi(self, directory: str | os.PathLike[str], *, overwrite: bool = False) -> list[Path]:
        """Write ENVI images of every date and a spectral library of the endmembers; see
        `pyro_unmix.io.rasters.write_envi`.
        """
        return rasters.write_envi(self._known(), directory, overwrite=overwrite)

    def _known(self) -> xr.Dataset:
        """`to_dataset` without the std that a method does not have."""
        dataset = self.to_dataset()
        return dataset if "abundances_std" in self.dataset else dataset.drop_vars("abundances_std")

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
        """
        path = Path(path)
        if path.exists() and not (overwrite and (path / "recipe.json").is_file()):
            raise FileExistsError(
                f"{path} exists: pass overwrite=True to replace a saved result, or another path"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
        try:
            self._write(folder, cubes)
            if path.exists():
                shutil.rmtree(path)
            os.replace(folder, path)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        path.chmod(0o755)
        return path

    def _write(self, folder: Path, with_cubes: bool) -> None:
        arrays: list[np.ndarray] = []
        known = {id(self.model): "model"}
        recipe = {
            "format": _FORMAT,
            "method": self.method,
            "seed": self.seed,
            "estimate": [type(self.estimate).__name__, self.estimate.num_samples],
            "model": to_recipe(self.model, arrays),
            "guide": to_recipe(self.guide, arrays, None if self.model is None else known),
        }
        states = {
            name: {} if part is None else part.state_dict()
            for name, part in (("model", self.model), ("guide", self.guide))
        }
        tensors = [torch.from_numpy(array) for array in arrays]
        torch.save({**states, "arrays": tensors}, folder / "weights.pt")
        (folder / "recipe.json").write_text(json.dumps(recipe, indent=1), encoding="utf-8")
        self.to_dataset().to_netcdf(folder / "result.nc", engine="h5netcdf")
        if with_cubes and self.cubes is not None:
            self.cubes.to_netcdf(folder / "cubes.nc", engine="h5netcdf")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Unmixing:
        """Read what `save` wrote; needs no data and runs no code from the file."""
        path = Path(path)
        try:
            recipe = json.loads((path / "recipe.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{path} is not a saved result (recipe.json: {error}): pass the folder that "
                "Unmixing.save wrote"
            ) from error
        if recipe.get("format") != _FORMAT:
            raise ValueError(
                f"{path} has format {recipe.get('format')}, this version reads {_FORMAT}: load it "
                "with the version of pyro_unmix that wrote it"
            )
        saved = torch.load(path / "weights.pt", weights_only=True, map_location="cpu")
        arrays = [tensor.numpy() for tensor in saved["arrays"]]
        model = _rebuild(recipe["model"], arrays, saved["model"], {})
        guide = _rebuild(recipe["guide"], arrays, saved["guide"], {"model": model})
        dataset = _read_netcdf(path / "result.nc")
        cubes = _read_netcdf(path / "cubes.nc") if (path / "cubes.nc").exists() else None
        kind, num_samples = recipe["estimate"]
        return cls(
            dataset=dataset.drop_vars("losses"),
            losses=dataset["losses"].to_numpy(),
            model=model,
            guide=guide,
            cubes=None if cubes is None else cubes["reflectance"],
            estimate=_ESTIMATES[kind](num_samples),
            seed=recipe["seed"],
            method=recipe["method"],
        )


def _rebuild(recipe: Any, arrays: list[np.ndarray], state: Any, known: dict[str, Any]) -> Any:
    part = from_recipe(recipe, arrays, known)
    if part is not None:
        floating = [tensor.dtype for tensor in state.values() if tensor.is_floating_point()]
        if floating:
            part.to(floating[0])
        part.load_state_dict(state)
    return part


def _read_netcdf(path: Path) -> xr.Dataset:
    with xr.open_dataset(path, engine="h5netcdf") as dataset:
        return dataset.load()


def _interpolate_ranks(ordered: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """Linear interpolation between order statistics, as numpy's default; any number of elements."""
    position = q * (len(ordered) - 1)
    below = position.floor().long().clamp(max=len(ordered) - 1)
    above = (below + 1).clamp(max=len(ordered) - 1)
    weight = (position - below).reshape(-1, *[1] * (ordered.dim() - 1))
    return ordered[below] * (1 - weight) + ordered[above] * weight
