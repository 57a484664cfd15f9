"""`Unmixing`: the one result type of every method."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from pyro_unmix.data.cubes import as_cube_sequence
from pyro_unmix.data.lazy import as_lazy_cubes, is_lazy
from pyro_unmix.data.types import CubesLike, DatesLike, ImagesLike
from pyro_unmix.io.errors import FileError
from pyro_unmix.mixing import Hapke
from pyro_unmix.models.base import Decode
from pyro_unmix.ops.threads import one_thread
from pyro_unmix.posterior import (
    arviz,
    evidence,
    intervals,
    residuals,
    saving,
    spectra,
    tile_store,
    tiles,
)
from pyro_unmix.posterior import dates as dates_module
from pyro_unmix.posterior.decoding import is_of_a_function
from pyro_unmix.posterior.estimates import PosteriorMean, as_estimate
from pyro_unmix.posterior.files import Files
from pyro_unmix.posterior.looks import Looks
from pyro_unmix.posterior.programs import ParamStore

#: Where the classes of results of other rooms are, by the name under which they are saved.
_ELSEWHERE = {"Sampled": "pyro_unmix.infer.sampled"}


@dataclass(frozen=True, eq=False, repr=False)
class Unmixing(Looks, Files):
    """Abundances and endmembers of a cube sequence, as posterior where the method has one.

    Parameters
    ----------
    dataset : xarray.Dataset
        ``abundances`` (time, y, x, endmember) at least, and ``reference_endmembers`` (wavelength, endmember) where
        endmembers are known; ``abundances_std``, ``change``, ``valid``, and ``variability`` with ``components`` where
        the method has them; or ``date_endmembers`` (time, wavelength, endmember), the spectra of each date where they
        differ by date only; or ``endmembers`` (time, y, x, wavelength, endmember).
    losses : array
        Loss after every step: the negative ELBO per observed value.
    model, guide : optional
        The fitted pair: copies, which further training of the originals does not touch.
    cubes : DataArray, optional
        The images that were unmixed; draws need them. Not a copy.
    estimate : PosteriorMean, PlugInMean or PolishedMean
        What `abundances` is an estimate of.
    seed : int
        Of the draws behind the estimate.
    method : str
    store : mapping, optional
        Trained parameters of programs that are plain functions, as Pyro's store had them.
    decode : callable, optional
        What the latent sites mean, as `fit` was given it.
    mixing : Hapke, optional
        Where a method unmixed single-scattering albedos: `dataset` and `cubes` hold these, while `endmembers`,
        `reconstruct`, `residual`, `rmse`, `reference_endmembers` and `reflectance_quantile` are reflectance, and
        `predict` takes it.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> scene = pu.simulate.scaled_scene(num_dates=2, height=10, width=10, seed=0)
    >>> model = pu.SGLMM(scene.reference_endmembers, basis=pu.Brightness())
    >>> guide = pu.ConjugateGuide(model, correction=False)
    >>> result = pu.fit(model, guide, scene.cubes, num_steps=5, progress=False)
    >>> result
    <Unmixing by fit (time: 2, y: 10, x: 10, endmember: 3), 5 steps>
    >>> lower, upper = result.interval(0.9)
    >>> bool((lower <= upper).all())
    True
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
    decode: Decode | None = None
    mixing: Hapke | None = None

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name}: {size}" for name, size in self.abundances.sizes.items())
        posterior = "" if self.model is None else f", {len(self.losses)} steps"
        return f"<Unmixing by {self.method} ({sizes}){posterior}>"

    @property
    def abundances(self) -> xr.DataArray:
        """Estimated fractions (time, y, x, endmember), on the simplex except where a method allows negative ones."""
        return self.dataset["abundances"]

    @property
    def abundances_std(self) -> xr.DataArray:
        """Posterior standard deviation of each fraction; NaN where the method has no posterior."""
        if "abundances_std" in self.dataset:
            return self.dataset["abundances_std"]
        return xr.full_like(self.abundances, np.nan).rename("abundances_std")

    @property
    def reference_endmembers(self) -> xr.DataArray:
        """M0 (wavelength, endmember), reflectance; where every pixel has its own endmembers, their mean.

        Raises
        ------
        AttributeError
            If the method knows no endmembers.
        """
        if not self.has_endmembers:
            raise AttributeError(spectra.no_endmembers("reference_endmembers"))
        return spectra.reference_reflectance(self)

    @property
    def has_endmembers(self) -> bool:
        """Whether endmembers are known, as they are but for programs whose `decode` returns abundances alone."""
        return not {"reference_endmembers", "endmembers"}.isdisjoint(self.dataset)

    @property
    def valid(self) -> xr.DataArray:
        """Which pixel-dates were observed (time, y, x); the others are filled by the model, or NaN."""
        return self.dataset["valid"]

    @property
    def change(self) -> xr.DataArray:
        """``u_t = 1/2 ||s(M_{t-1}^+ y_t) - a_{t-1}||_1`` (time, y, x); NaN at the first date.

        Raises
        ------
        AttributeError
            If the model is a program of one's own, which says nothing of the basis in which M varies.
        """
        if "change" in self.dataset:
            return self.dataset["change"]
        if is_of_a_function(self.model, self.decode):
            raise AttributeError(
                ".change needs endmembers in a basis, those of a VariabilityModel such as SGLMM: compare the "
                "abundances of two dates, result.abundances.diff('time')"
            )
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
        return spectra.endmembers(self, time)

    def reconstruct(self, time: int = 0) -> xr.DataArray:
        """``M_n a_n`` of every pixel of one date, or what the model's own mixing gives.

        Returns
        -------
        DataArray (y, x, wavelength), reflectance
        """
        self._check_time(time)
        return spectra.reconstruction(self, time)

    def residual(self, time: int = 0) -> xr.DataArray:
        """What the reconstruction leaves of the images of one date, ``y_n - M_n a_n``: what no material explains.

        Parameters
        ----------
        time : int
            Position of the date, negative from the end.

        Returns
        -------
        DataArray (y, x, wavelength), reflectance
            NaN where nothing was observed.

        Raises
        ------
        ValueError
            If the result is without its images, or the method knows no endmembers.

        Examples
        --------
        >>> import numpy as np, pyro_unmix as pu
        >>> M = np.array([[.1, .5], [.2, .4], [.3, .3]])
        >>> result = pu.methods.fcls(np.full((1, 1, 3), .35), endmembers=M, progress=False)
        >>> result.residual().values.round(3).ravel().tolist()
        [-0.01, 0.02, 0.05]
        >>> float(result.rmse[0, 0, 0].round(3))
        0.032
        """
        self._check_time(time)
        return residuals.residual(self, time)

    @cached_property
    def rmse(self) -> xr.DataArray:
        """Root mean square of `residual` over the bands (time, y, x), reflectance; NaN where nothing was observed.

        ``sqrt(1/L sum_l (y_l - (M a)_l)^2)``, computed by blocks of rows, so that images in chunks are not loaded as a
        whole. Errors as `residual`.
        """
        return residuals.rmse(self)

    def unit_maximum(self) -> xr.DataArray:
        """Abundances as the references of Jasper Ridge and Samson define them.

        Those references belong to endmembers scaled to maximum one, so that brightness counts as abundance:
        ``b_p`` proportional to ``a_p max_l M_nt(l, p)``, summing to one over materials.

        Returns
        -------
        DataArray (time, y, x, endmember)
            ``pyro_unmix.plots.plot_abundances`` and ``plot_abundance_composite`` draw it.
        """
        return spectra.unit_maximum(self)

    # ------------------------------------------------------------------ the posterior

    @one_thread()
    def sample(self, num_samples: int = 100, *, seed: int = 0) -> xr.DataArray:
        """Posterior draws of the abundances (sample, time, y, x, endmember).

        One draw uses the same noise at every pixel, so that a pixel's draws do not depend on its neighbours. The
        spread of a mean over pixels therefore cannot be read off them: it comes out as large as one pixel's.
        """
        return intervals.draw_maps(self, self._need_posterior("sample"), num_samples, seed)

    @one_thread()
    def quantile(
        self, q: float | Sequence[float], *, num_samples: int = 200, seed: int = 0
    ) -> xr.DataArray:
        """Posterior quantiles of the abundances: one more draw would be below with probability q.

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
        return intervals.quantile_maps(self, cubes, q, num_samples, seed)

    @one_thread()
    def interval(
        self, level: float = 0.9, *, joint: bool = False, num_samples: int = 200, seed: int = 0
    ) -> xr.DataArray:
        """Credible intervals of the abundances: they hold one more draw with probability `level`.

        With equal tails, except at the bounds: an interval with two tails never holds the zero of an absent material.
        Where the Beta distribution of the draws' mean and variance has alpha <= 2, so that its density does not fall
        off towards zero faster than linearly, the interval is from zero to the quantile `level`; with beta <= 2, from
        the quantile ``1 - level`` to one (with both, the mean decides). At alpha = 2, near zero, that is 1 % longer
        than the shortest interval, and the one with equal tails 14 %.

        Parameters
        ----------
        level : float
            In (0, 1). Bounds beyond the outermost draws are these draws.
        joint : bool
            Intervals that hold the abundances of all materials of a pixel and date at once with that probability: a
            box about the vector, with equal ranks in every material (`joint_interval`).
        num_samples : int
            Draws behind them; ``2 / (1 - level)`` or more.

        Returns
        -------
        DataArray (bound, time, y, x, endmember)
            ``lower, upper = result.interval(0.9)``.

        References
        ----------
        On intervals of bounded parameters: Liu, Gelman, Zheng, "Simulation-efficient shortest probability intervals",
        Statistics and Computing 25, 2015.
        """
        return intervals.interval_maps(
            self, self._need_posterior("interval"), level, num_samples, seed, joint
        )

    @one_thread()
    def predict(
        self, other_cubes: ImagesLike, *, estimate: PosteriorMean | None = None
    ) -> Unmixing:
        """Unmix other images of the same bands, or their files, with the fitted model and guide, without training.

        With the estimate of this result, or another one: a `PolishedMean` takes about a millisecond per pixel and
        date (more from fifty dates on), `PosteriorMean` a fiftieth of it.

        Of a DataArray in chunks (Dask, extra ``scale``) the result's dataset is lazy and in the same tiles: nothing
        is computed before it is asked for, as by `to_zarr`, and no more than a few tiles are in memory. Its numbers
        are those of the images in one piece, up to rounding. The threads of one process read out one tile at a
        time; processes of Dask do so side by side. See also `predict_to_zarr`.
        """
        if self.model is None:
            raise ValueError(self._no_posterior("predict"))
        return self._predict(spectra.as_unmixed(self, other_cubes), estimate)

    def _predict(self, other_cubes: CubesLike, estimate: PosteriorMean | None = None) -> Unmixing:
        asked = self if estimate is None else replace(self, estimate=as_estimate(estimate))
        model, guide, cubes, dataset = tiles.predict(asked, other_cubes)
        dataset = spectra.of_albedo(dataset, self.mixing)
        return replace(asked, dataset=dataset, cubes=cubes, model=model, guide=guide)

    def interpolate(self, dates: DatesLike) -> Unmixing:
        """The posterior at dates between the first and the last image, whether there is an image or not.

        `ConjugateGuide` follows the model's transitions there; other guides say what they learned of missing dates,
        however much time passes, and a warning says so.

        Parameters
        ----------
        dates : date or array of dates
            Of the kind of the images' dates; the transitions take the time that passes.

        Returns
        -------
        Unmixing
            At these dates, given all images; ``valid`` where and when there is one.

        Raises
        ------
        ValueError
            If the model knows no dates or no unit of time, a date is outside the sequence, or the guide is one of
            Pyro's autoguides, which know no other dates.
        """
        cubes = self._need_posterior("interpolate")
        dates_module.need_dates(self.model, self.guide, cubes)
        dates_module.check_interpolation(dates, cubes)
        return self._at(cubes, dates)

    def forecast(self, dates: DatesLike) -> Unmixing:
        """The posterior at dates after the last image; as `interpolate`."""
        cubes = self._need_posterior("forecast")
        dates_module.need_dates(self.model, self.guide, cubes)
        dates_module.check_forecast(dates, cubes)
        return self._at(cubes, dates)

    def _at(self, cubes: xr.DataArray, dates: DatesLike) -> Unmixing:
        cubes, places = dates_module.with_dates(cubes, dates)
        predicted = self._predict(cubes)
        return replace(predicted, dataset=predicted.dataset.isel(time=places))

    @one_thread()
    def reflectance_quantile(
        self, q: float | Sequence[float], *, num_samples: int = 200, seed: int = 0
    ) -> xr.DataArray:
        """Quantiles of what would be measured, noise included: the posterior predictive distribution.

        As `quantile`, of reflectance (time, y, x, wavelength) at the dates of this result; of all dates at once, so
        take few (`interpolate`, `forecast`) of a large scene.
        """
        cubes = self._need_posterior("reflectance_quantile")
        quantiles = intervals.reflectance_quantiles(self, cubes, q, num_samples, seed)
        return spectra.as_reflectance(self, quantiles)  # which grows with albedo

    def predict_to_zarr(
        self,
        cubes: xr.DataArray,
        path: str | os.PathLike[str],
        *,
        tile: int = 128,
        num_workers: int = 1,
        overwrite: bool = False,
        progress: bool = True,
        estimate: PosteriorMean | None = None,
    ) -> Path:
        """Predict a scene of any size tile by tile, into a Zarr store with what `to_zarr` writes but `rmse`.

        A call that was killed goes on where it was, if it is made again with the same arguments: it reads the images
        of the tiles that are done, and compares them. `path` exists when all tiles are done; up to then they are in
        a hidden folder beside it.

        Parameters
        ----------
        cubes : DataArray
            As `as_cube_sequence` takes, best in chunks from files (`xarray.open_zarr`, `read_sequence(chunks=...)`).
        path : path
        tile : int
            Side of the tiles in pixels. Memory is for some copies of a tile's images in every process.
        num_workers : int
            Processes that read, predict and write tiles side by side. With more than one, a script must be guarded
            by ``if __name__ == "__main__":``.
        overwrite : bool
            Replace a Zarr store that is there.
        progress : bool
            Show a bar over the tiles.
        estimate : PosteriorMean or PolishedMean, optional
            Default that of this result, see `predict`.

        Returns
        -------
        Path

        Raises
        ------
        FileExistsError
            If `path` exists and is not to be replaced, or is no Zarr store.
        ValueError
            If tiles of another prediction or of other images, unfinished, are in the way.
        BlockingIOError
            If another process, or another call in this one, writes to the same store.
        """
        if self.mixing is not None:
            raise ValueError(
                f"predict_to_zarr does not convert images for {self.mixing!r}: call predict on parts of the scene"
            )
        images = as_lazy_cubes(cubes, tile)
        predicted = self.predict(images, estimate=estimate)
        identity = tiles.identity(predicted, tile)
        return tile_store.write_tiles(
            predicted._known(), images, path, identity,
            num_workers=num_workers, overwrite=overwrite, progress=progress,
        )  # fmt: skip

    def to_arviz(self, pixels: Any, *, num_samples: int = 400, seed: int = 0) -> Any:
        """Draws of chosen pixels for ArviZ (extra ``arviz``); see `pyro_unmix.posterior.arviz.to_arviz`."""
        return arviz.to_arviz(self, pixels, num_samples, seed)

    @one_thread()
    def diagnose(self, *, num_samples: int = 200, seed: int = 0) -> xr.Dataset:
        """Where the posterior is not to be trusted, by importance weights ``p(y, z) / q(z | y)`` of the guide's draws,
        given the parameters and what pixels share (draws of a `SharedVariability` are not weighted).

        Parameters
        ----------
        num_samples : int
            Draws per pixel.

        Returns
        -------
        Dataset (y, x)
            ``elbo`` and ``importance_elbo``, lower bounds of each pixel's log evidence in nats: far apart, the guide is
            loose. ``pareto_k``, the tail of the weights: above 0.7 the posterior of this pixel is not to be trusted,
            below 0.5 it is good.

        Raises
        ------
        ValueError
            If the guide has latent variables that pixels share, such as a joint Gaussian of all of them.
        """
        return evidence.diagnose(self, self._need_posterior("diagnose"), num_samples, seed)

    def _need_posterior(self, what: str) -> xr.DataArray:
        if self.model is None:
            raise ValueError(self._no_posterior(what))
        if self.cubes is None:
            raise ValueError(
                f".{what}() needs the images, and this result was saved without them: call "
                f"result.predict(cubes).{what}(...) with the images"
            )
        return as_cube_sequence(self.cubes) if is_lazy(self.cubes) else self.cubes

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

    # ------------------------------------------------------------------ out of files

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Unmixing:
        """Read what `save` wrote; needs no data and runs no code from the file."""
        parts, file = saving.load(path), Path(path) / "recipe.json"
        name = parts.pop("result")
        if name not in {"Unmixing", *_ELSEWHERE}:
            raise FileError(
                file, "result", f"names the class {name!r:.80}, which this version does not know"
            )
        kind = getattr(import_module(_ELSEWHERE[name]), name) if name in _ELSEWHERE else Unmixing
        with saving.blaming(file, "own"):
            return kind.of_saved(parts)

    def saved_parts(self) -> dict[str, Any]:
        """What `save` also writes of a result of another class: numbers, texts, arrays, programs and lists of them."""
        return {}

    @classmethod
    def of_saved(cls, parts: dict[str, Any]) -> Unmixing:
        """The result of the parts that were saved, those of `saved_parts` among them."""
        return cls(**parts)
