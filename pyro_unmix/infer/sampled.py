"""The result of `sample`: chains over what all spectra share, from which single spectra are drawn anew."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike
from torch import Tensor

from pyro_unmix.data.cubes import as_cube_sequence, check_bands, from_pixels, to_pixels, valid_mask
from pyro_unmix.infer.between_chains import (
    spread_apart,
    weighted_quantiles,
    widening,
)
from pyro_unmix.infer.block_draws import Drawn, blocks_of, nearest_dates
from pyro_unmix.infer.chain_arviz import chains_to_arviz
from pyro_unmix.infer.chain_checks import checks_of
from pyro_unmix.infer.chains import BLOCK, Chain
from pyro_unmix.infer.saved_chains import chains_of, field_of, parts_of, parts_of_field
from pyro_unmix.models.library_mixing import LibraryMixing
from pyro_unmix.ops.checks import finite_array, in_range, positive_int
from pyro_unmix.ops.threads import one_thread
from pyro_unmix.posterior.intervals import credible_interval, joint_interval
from pyro_unmix.posterior.read_out import describe
from pyro_unmix.posterior.result import Unmixing
from pyro_unmix.posterior.spectra import (
    as_reflectance,
    as_unmixed,
    lit_reconstruction,
    of_albedo,
)
from pyro_unmix.start.field_estimate import FieldEstimate

_MOST_KEPT = 2**26  # numbers of draws that a result keeps


@dataclass(frozen=True, eq=False, repr=False)
class Sampled(Unmixing):
    """A posterior held as chains over what all spectra share; what single spectra have is drawn given these.

    As `Unmixing`, and: draws of one number belong to one draw of what is shared, for all spectra alike, and have random
    numbers of their own besides, so that sums and means over pixels may be read off them (`area`). Chains of several
    starts end near where they start from, so that the truth may be farther from them than they are from each other:
    their draws are moved apart (`widening`), for six starts of equal weight by 45 %. There is no guide,
    and nothing is said of other dates; a pixel is filled with the draws of its nearest observed date, or, where it has
    none, of the prior. `endmembers(time)` are the posterior mean of M: chains from several starts have
    variability of several bases.

    Parameters
    ----------
    chains : tuple of Chain
    weights : array
        Of the chains, summing to one.
    orders : array of int, shape (chains, P)
        Which of a chain's materials are the result's.
    field : FieldEstimate, optional
        What neighbouring pixels say besides: draws are moved to it, see `FieldEstimate.about`.
    num_samples, num_warmup : int
        Draws behind the estimate, of all chains together, and rounds of the kernels before the first of a chain.
    drawn : Tensor, shape (num_samples, pixel-dates, P), optional
        Those draws, in single precision; not of large scenes, and not saved: they are drawn again.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> scene = pu.simulate.scaled_scene(num_dates=2, height=10, width=10, seed=0)
    >>> model = pu.models.SimplexMixing(scene.reference_endmembers)
    >>> result = pu.sample(
    ...     model, scene.cubes, num_rounds=4, num_spectra=40, num_held_out=10, num_samples=8, progress=False
    ... )
    >>> type(result).__name__, result.area()['area'].dims
    ('Sampled', ('time', 'endmember'))
    """

    chains: tuple[Chain, ...] = ()
    weights: np.ndarray | None = None
    orders: np.ndarray | None = None
    field: FieldEstimate | None = None
    num_samples: int = 48
    num_warmup: int = 4
    drawn: Tensor | None = None

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name}: {size}" for name, size in self.abundances.sizes.items())
        return f"<Sampled by {self.method} ({sizes}), {len(self.chains)} chains>"

    @property
    def change(self) -> xr.DataArray:
        """NaN (time, y, x): the program has no change from date to date."""
        return xr.full_like(self.valid, np.nan, dtype=float).rename("change")

    def reconstruct(self, time: int = 0) -> xr.DataArray:
        """``s_n M a_n`` of every pixel of one date, in the light s_n that fits what was observed best.

        With a library, the members that were drawn, whose fractions hold the light. Variability of single materials
        and the residual that all have in common are not in it, so that they are in `residual` and `rmse`: what no
        class explains, whatever its light.

        Returns
        -------
        DataArray (y, x, wavelength), reflectance
        """
        self._check_time(time)
        return lit_reconstruction(self, time)

    # ---------------------------------------------------------------- draws of the abundances

    @one_thread()
    def sample(self, num_samples: int | None = None, *, seed: int = 0) -> xr.DataArray:
        """Posterior draws of the abundances (sample, time, y, x, endmember), for sums over pixels as well.

        Parameters
        ----------
        num_samples : int, optional
            Of new draws; default those behind the maps, which are there already, but for large scenes and saved
            results.
        seed : int
            Of new draws.
        """
        return self._maps(num_samples, seed, lambda draws: draws, "sample")

    @one_thread()
    def quantile(
        self, q: float | Sequence[float], *, num_samples: int | None = None, seed: int = 0
    ) -> xr.DataArray:
        """See `Unmixing.quantile`; draws as in `sample`."""
        levels = [in_range(level, "q", 0.0, 1.0) for level in np.atleast_1d(np.asarray(q))]

        def quantiles(draws: Tensor) -> Tensor:
            return torch.as_tensor(
                np.quantile(draws.cpu().numpy(), levels, axis=0, method="weibull")
            )

        maps = self._maps(num_samples, seed, quantiles, "quantile")
        maps = maps.assign_coords(quantile=levels)
        return maps[0] if np.ndim(q) == 0 else maps

    @one_thread()
    def interval(
        self,
        level: float = 0.9,
        *,
        joint: bool = False,
        num_samples: int | None = None,
        seed: int = 0,
    ) -> xr.DataArray:
        """See `Unmixing.interval`; draws as in `sample`."""
        level = in_range(level, "level", 0.0, 1.0, open_low=True, open_high=True)
        bounds = joint_interval if joint else credible_interval
        maps = self._maps(num_samples, seed, lambda draws: bounds(draws, level), "bound")
        return maps.assign_coords(bound=["lower", "upper"])

    @one_thread()
    def area(
        self, mask: ArrayLike | None = None, level: float = 0.9, *, num_samples: int | None = None,
        seed: int = 0,
    ) -> xr.Dataset:  # fmt: skip
        """Sum of the abundances over a region, in pixels, with its credible interval.

        Parameters
        ----------
        mask : array of bool (y, x), optional
            Default all pixels. Those not observed at a date count with what the model says of them.
        level : float
            In (0, 1).
        num_samples, seed
            As in `sample`.

        Returns
        -------
        Dataset
            ``area``, the mean, ``lower`` and ``upper`` (time, endmember).
        """
        level = in_range(level, "level", 0.0, 1.0, open_low=True, open_high=True)
        plane = self.abundances.isel(time=0, endmember=0).shape
        chosen = np.ones(plane, bool) if mask is None else np.asarray(mask, dtype=bool)
        if chosen.shape != plane:
            raise ValueError(f"mask must have the shape (y, x) = {plane}, got {chosen.shape}")
        draws = self.sample(num_samples, seed=seed).where(xr.DataArray(chosen, dims=("y", "x")), 0)
        sums = draws.sum(("y", "x"))
        tail = (1 - level) / 2
        bounds = sums.quantile([tail, 1 - tail], "sample", method="weibull")
        return xr.Dataset(
            {
                "area": sums.mean("sample"),
                "lower": bounds.isel(quantile=0, drop=True),
                "upper": bounds.isel(quantile=1, drop=True),
            }
        )

    def endmembers_interval(self, level: float = 0.9) -> xr.DataArray:
        """Credible intervals of the reference endmembers (bound, wavelength, endmember), reflectance.

        With equal tails, of the draws that the chains kept, moved apart, each with the weight of its chain. With a
        library they are what a class shows in the scene: quantiles of its spectra, each as often as there is of it.
        """
        level = in_range(level, "level", 0.0, 1.0, open_low=True, open_high=True)
        levels = [(1 - level) / 2, (1 + level) / 2]
        if isinstance(self.chains[0].model, LibraryMixing):
            bounds = self._shown_by_classes(levels)
        else:
            drawn, weights = self._endmember_draws(apart=True)
            bounds = weighted_quantiles(drawn, weights, levels)
        like = self.reference_endmembers.transpose("wavelength", "endmember")
        spectra = [
            as_reflectance(self, like.copy(data=bound)) for bound in bounds
        ]  # which grows with albedo
        return xr.concat(spectra, dim="bound").assign_coords(bound=["lower", "upper"])

    def _shown_by_classes(self, levels: Sequence[float]) -> np.ndarray:
        """Quantiles (level, L, P) of the spectra of a library by class, weighted by their amounts in the scene."""
        model = self.chains[0].model
        amounts = self.dataset["library_fractions"].sum(("time", "y", "x")).values.astype(float)
        columns = []
        for number in range(model.num_endmembers):
            own = np.flatnonzero(model.classes.cpu().numpy() == number)
            weights = amounts[own] + np.finfo(float).tiny
            spectra = model.spectra.cpu().numpy().T[own]
            columns.append(weighted_quantiles(spectra, weights / weights.sum(), levels))
        return np.stack(columns, axis=-1)

    @one_thread()
    def predict(self, other_cubes: Any, *, estimate: Any = None) -> Sampled:
        """Unmix other images of the same bands with what the chains know; a `field` is of these images alone."""
        if estimate is not None:
            raise ValueError("a sampled result has one estimate, the posterior mean: leave it out")
        cubes = as_cube_sequence(as_unmixed(self, other_cubes))
        if "wavelength" in self.reference_endmembers.coords:
            check_bands(self.reference_endmembers["wavelength"], cubes)
        return replace(self, cubes=cubes, field=None).read_out(progress=False)

    def diagnose(self, *, num_samples: int = 200, seed: int = 0) -> xr.Dataset:
        """Split R-hat and effective sample size of what spectra share.

        R-hat is near one where chains have settled, above 1.05 where they have not. The effective size is of the draws
        that were kept, rounds apart from each other: where it is a small part of them, means are noisy, and chains of
        more rounds help.

        Chains of one `SimplexMixing` are compared with each other. Those of several start apart, and are not meant to
        mix; those of a library differ by the spectra that each of them sees: of these each is compared with itself,
        cut in two, and the worst counts. After an interrupt, as many draws of every chain as the shortest kept. How
        far apart chains end is in the intervals.

        Returns
        -------
        Dataset (endmember)
            ``r_hat`` and ``ess`` of an endmember's mean over bands, but for a library; ``r_hat_noise`` and
            ``ess_noise``; ``r_hat_concentration`` and ``ess_concentration`` of programs that have one.

        References
        ----------
        Vehtari, Gelman, Simpson, Carpenter, Buerkner, Bayesian Analysis 16(2), 2021 (without their ranks).
        """
        return checks_of(self)

    def to_arviz(self, pixels: Any = None, *, num_samples: int | None = None, seed: int = 0) -> Any:
        """What the chains kept, for ArviZ (extra ``arviz``); see `pyro_unmix.infer.chain_arviz.chains_to_arviz`."""
        return chains_to_arviz(self, pixels, num_samples, seed)

    # ---------------------------------------------------------------- saving

    def saved_parts(self) -> dict[str, Any]:
        """The chains, their weights and how draws are made."""
        how = {
            name: getattr(self, name) for name in ("weights", "orders", "num_samples", "num_warmup")
        }
        return {**how, **parts_of_field(self.field), **parts_of(self.chains)}

    @classmethod
    def of_saved(cls, parts: dict[str, Any]) -> Sampled:
        """The result of the parts that were saved."""
        chains = chains_of(parts)
        size, count = chains[0].model.num_endmembers, len(chains)
        weights = finite_array(parts.pop("weights"), "weights", ndim=1)
        if len(weights) != count or weights.min() < 0 or abs(weights.sum() - 1) > 1e-6:
            raise ValueError(f"expected {count} weights that sum to one, got {weights}")
        orders = np.asarray(parts.pop("orders"), dtype=int)
        if orders.shape != (count, size) or (np.sort(orders, 1) != np.arange(size)).any():
            raise ValueError("the orders of the materials are none")
        parts["num_samples"] = positive_int(parts["num_samples"], "num_samples", minimum=2)
        parts["num_warmup"] = positive_int(parts["num_warmup"], "num_warmup", minimum=0)
        field = field_of(parts, chains[0].model)
        if field is not None and len(field.abundances) != parts["dataset"]["valid"].size:
            raise ValueError("the field has not as many pixel-dates as the maps")
        return cls(chains=chains, weights=weights, orders=orders, field=field, **parts)

    # ---------------------------------------------------------------- what a sampled result has not

    def interpolate(self, dates: Any) -> NoReturn:
        """Refused: the program knows nothing of other dates."""
        self._refuse("interpolate")

    def forecast(self, dates: Any) -> NoReturn:
        """Refused: the program knows nothing of other dates."""
        self._refuse("forecast")

    def reflectance_quantile(self, *args: Any, **settings: Any) -> NoReturn:
        """Refused."""
        self._refuse("reflectance_quantile")

    def predict_to_zarr(self, *args: Any, **settings: Any) -> NoReturn:
        """Refused."""
        self._refuse("predict_to_zarr")

    def _need_posterior(self, what: str) -> NoReturn:
        self._refuse(what)

    def _refuse(self, what: str) -> NoReturn:
        raise ValueError(
            f".{what}() is not there for sampled results, whose program knows single images only: use sample(), "
            "interval(), area() or predict(cubes), or unmix(..., trained=True) for a result that has it"
        )

    # ---------------------------------------------------------------- reading out

    def about(self, field: FieldEstimate, *, progress: bool = True) -> Sampled:
        """The same with all draws moved to what neighbouring pixels say, and nearer to it (`FieldEstimate.beside`).

        Parameters
        ----------
        field : FieldEstimate
            Of these images, materials in the order of this result.
        progress : bool

        Raises
        ------
        ValueError
            If the field is of other images, or this result of a library.
        """
        if isinstance(self.chains[0].model, LibraryMixing):
            raise ValueError(
                "a field is of endmembers: results of a library cannot be moved to one"
            )
        sources = torch.as_tensor(nearest_dates(to_pixels(self.images())[1]).ravel())
        if len(field.abundances) != len(sources):
            raise ValueError(
                f"a field of these images must have {len(sources)} pixel-dates, got {len(field.abundances)}"
            )
        alone = self
        if self.field is not None:  # the maps are about another field
            alone = replace(self, field=None, drawn=None).read_out(progress=progress)
        maps = (alone.dataset[name] for name in ("abundances", "abundances_std"))
        rows = [m.transpose("y", "x", "time", "endmember").values for m in maps]
        field = field.beside(*(torch.from_numpy(m.reshape(field.abundances.shape)) for m in rows))
        moved = replace(self, field=field, drawn=None)
        if self.drawn is None or self.field is not None:
            return moved.read_out(progress=progress)
        parts = zip(self.drawn.split(BLOCK, dim=1), sources.split(BLOCK), strict=True)
        return moved.read_out(
            blocks=(
                Drawn(field.about(draws.double(), of), draws.new_empty(len(of), 0))
                for draws, of in parts
            )
        )

    def read_out(self, *, progress: bool = True, blocks: Iterable[Drawn] | None = None) -> Sampled:
        """The same with means and standard deviations of all its images, of new draws if none are given."""
        cubes = self.images()
        means, deviations, fractions, kept = [], [], [], []
        assert self.orders is not None
        few = self.num_samples * self.orders[0].size * cubes[..., 0].size <= _MOST_KEPT
        for block in blocks or blocks_of(self, self.num_samples, self.seed, progress):
            means.append(block.abundances.mean(0))
            deviations.append(block.abundances.std(0))
            fractions.append(block.fractions)
            if few:
                kept.append(block.abundances.cpu().float())
        names = {"endmember": self._names()}
        parts = {"abundances": torch.cat(means), "abundances_std": torch.cat(deviations)}
        shape = (cubes.sizes["y"] * cubes.sizes["x"], cubes.sizes["time"], -1)

        def mapped(name: str, value: Tensor, labels: dict[str, Any]) -> xr.DataArray:
            return from_pixels(value.cpu().numpy().reshape(shape), cubes, labels, name=name)

        maps = {name: mapped(name, value, names) for name, value in parts.items()}
        model = self.chains[0].model
        if isinstance(model, LibraryMixing):
            numbers = {"spectrum": model.titles}
            maps["library_fractions"] = mapped("library_fractions", torch.cat(fractions), numbers)
            maps["brightness"] = maps["library_fractions"].sum("spectrum", skipna=False)
            labels = [model.endmember_names[c] for c in model.classes.tolist()]
            library = xr.DataArray(
                model.spectra.cpu().numpy(), dims=("wavelength", "spectrum"),
                coords={"label": ("spectrum", labels)},
            )  # fmt: skip
            maps["library"] = library
        drawn, weights = self._endmember_draws()
        reference = np.average(drawn, axis=0, weights=weights)
        wavelength = {"wavelength": cubes["wavelength"]} if "wavelength" in cubes.coords else {}
        dataset = xr.Dataset(
            {
                **maps,
                "valid": valid_mask(cubes),
                "reference_endmembers": (("wavelength", "endmember"), reference),
            },
            coords=wavelength,
        )
        alone = torch.cat(kept, dim=1) if few else None
        return replace(self, dataset=of_albedo(describe(dataset), self.mixing), drawn=alone)

    def _endmember_draws(self, apart: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Draws (D, L, P) of all chains, and their weights (D,)."""
        assert self.weights is not None and self.orders is not None
        parts = [
            chain.stacked("endmembers").cpu()[..., list(order)]
            for chain, order in zip(self.chains, self.orders, strict=True)
        ]
        moved, weights = [], []
        for starts in self.kinds_of_starts(self.weights):
            of_starts = self.start_weights(starts)
            factor = widening(of_starts) if apart else 1.0
            together = [torch.cat([parts[n] for n in own]) for own in starts]
            moved.append(spread_apart(together, factor, of_starts.tolist()))
            weights += [
                np.full(len(parts[n]), self.weights[n] / len(parts[n])) for s in starts for n in s
            ]
        drawn, of_draws = torch.cat(moved).clamp(min=0).numpy(), np.concatenate(weights)
        if self.field is not None:
            drawn = drawn - np.average(drawn, axis=0, weights=of_draws) + self.field.endmembers
        return drawn.clip(0), of_draws

    def kinds_of_starts(self, counts: np.ndarray) -> list[list[list[int]]]:
        """Numbers of the chains of every program, which start at one place, of those that count for something.

        Programs that keep their endmembers are by themselves: how far they are from the others is no sample of
        where chains of either kind may end.
        """
        found: dict[bool, dict[int, list[int]]] = {}
        for number, chain in enumerate(self.chains):
            if counts[number] > 0:
                kind = found.setdefault(chain.model.kept, {})
                kind.setdefault(id(chain.model), []).append(number)
        return [list(kind.values()) for kind in found.values()]

    def start_weights(self, starts: list[list[int]]) -> np.ndarray:
        """Weights of the programs, summing to one."""
        assert self.weights is not None
        weights = np.array([self.weights[own].sum() for own in starts])
        return weights / weights.sum()

    def _names(self) -> Any:
        names = self.chains[0].model.endmember_names
        return np.arange(self.chains[0].model.num_endmembers) if names is None else names

    def images(self) -> xr.DataArray:
        """What was unmixed."""
        if self.cubes is None:
            without = (
                "" if self.field is None else ", which leaves out what neighbouring pixels say"
            )
            raise ValueError(
                f"the images are not there: call result.predict(cubes) with them{without}"
            )
        return self.cubes

    def _maps(self, num_samples: int | None, seed: int, what: Any, dim: str) -> xr.DataArray:
        """Maps (dim, time, y, x, endmember) of what is made of draws (S, B, P), block by block."""
        seed = positive_int(seed, "seed", minimum=0)
        if num_samples is None:
            num_samples, seed = self.num_samples, self.seed
            known = self.drawn
        else:
            num_samples, known = positive_int(num_samples, "num_samples", minimum=2), None
        cubes = self.images()
        if known is None:
            blocks = blocks_of(self, num_samples, seed, False)
            parts = [what(block.abundances).cpu() for block in blocks]
        else:
            parts = [what(part) for part in known.split(BLOCK, dim=1)]
        values = torch.cat(parts, dim=1).numpy()
        shape = (len(values), cubes.sizes["y"] * cubes.sizes["x"], cubes.sizes["time"], -1)
        names = {"endmember": self._names()}
        maps = [from_pixels(v, cubes, names, name="abundances") for v in values.reshape(shape)]
        return xr.concat(maps, dim=dim)
