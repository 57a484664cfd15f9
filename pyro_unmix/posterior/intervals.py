"""Maps of posterior draws and of their quantiles, chunk by chunk."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike

from pyro_unmix.data.cubes import from_pixels
from pyro_unmix.ops.checks import in_range, positive_int
from pyro_unmix.posterior.measurements import iterate_predictive
from pyro_unmix.posterior.read_out import iterate_draws

if TYPE_CHECKING:
    from pyro_unmix.posterior.result import Unmixing


_MOST_SHAPE = 2.0  # parameter of a Beta distribution, up to which an interval begins at the bound


def draw_maps(result: Unmixing, cubes: xr.DataArray, num_samples: int, seed: int) -> xr.DataArray:
    """Posterior draws of the abundances of an `Unmixing`; see `Unmixing.sample`."""
    num_samples = positive_int(num_samples, "num_samples")
    parts = [draws.cpu().numpy() for draws in _draws(result, cubes, num_samples, seed)]
    maps = xr.concat(_maps(result, cubes, np.concatenate(parts, axis=1)), dim="sample")
    return _at_dates_of(result, maps)


def quantile_maps(
    result: Unmixing, cubes: xr.DataArray, q: ArrayLike, num_samples: int, seed: int
) -> xr.DataArray:
    """Posterior quantiles of the abundances of an `Unmixing`; see `Unmixing.quantile`."""
    levels = _levels(q)
    num_samples = positive_int(num_samples, "num_samples", minimum=2)
    parts = [_quantiles(d, levels) for d in _draws(result, cubes, num_samples, seed)]
    maps = _maps(result, cubes, np.concatenate(parts, axis=1))
    return _at_dates_of(result, _stacked(maps, levels, q))


def interval_maps(
    result: Unmixing,
    cubes: xr.DataArray,
    level: float,
    num_samples: int,
    seed: int,
    joint: bool = False,
) -> xr.DataArray:
    """Credible intervals of the abundances of an `Unmixing`; see `Unmixing.interval`."""
    level = in_range(level, "level", 0.0, 1.0, open_low=True, open_high=True)
    num_samples = positive_int(num_samples, "num_samples", minimum=2)
    bounds = joint_interval if joint else credible_interval
    parts = [bounds(d, level).cpu().numpy() for d in _draws(result, cubes, num_samples, seed)]
    maps = _maps(result, cubes, np.concatenate(parts, axis=1))
    return _at_dates_of(result, xr.concat(maps, dim=xr.IndexVariable("bound", ["lower", "upper"])))


def reflectance_quantiles(
    result: Unmixing, cubes: xr.DataArray, q: ArrayLike, num_samples: int, seed: int
) -> xr.DataArray:
    """Quantiles of the posterior predictive of an `Unmixing`; see `Unmixing.reflectance_quantile`."""
    levels = _levels(q)
    num_samples = positive_int(num_samples, "num_samples", minimum=2)
    seed = positive_int(seed, "seed", minimum=0)
    draws = iterate_predictive(
        result.model, result.guide, cubes, num_samples, seed, result.store, result.decode
    )
    values = np.concatenate([_quantiles(d, levels) for d in draws], axis=1)
    maps = [from_pixels(value, cubes, ["wavelength"], name="reflectance") for value in values]
    return _at_dates_of(result, _stacked(maps, levels, q))


def _levels(q: ArrayLike) -> list[float]:
    levels = [in_range(level, "q", 0.0, 1.0) for level in np.atleast_1d(np.asarray(q))]
    if not levels:
        raise ValueError("q must hold at least one number in [0, 1], got an empty list")
    return levels


def _quantiles(draws: torch.Tensor, levels: list[float]) -> np.ndarray:
    ordered = draws.sort(dim=0).values
    return _interpolate_ranks(ordered, draws.new_tensor(levels)).cpu().numpy()


def credible_interval(draws: torch.Tensor, level: float) -> torch.Tensor:
    """Bounds (2, ...) of draws (S, ...) in [0, 1]: central, or one-sided where alpha or beta is at most 2.

    See `Unmixing.interval`.
    """
    tail = (1 - level) / 2
    ordered = draws.sort(dim=0).values
    low, high, one_low, one_high = _interpolate_ranks(
        ordered, draws.new_tensor([tail, 1 - tail, 1 - level, level])
    )
    at_zero, at_one = _at_bounds(draws)
    low = torch.where(at_zero, torch.zeros_like(low), torch.where(at_one, one_low, low))
    high = torch.where(at_one, torch.ones_like(high), torch.where(at_zero, one_high, high))
    return torch.stack([low, high])


def _at_bounds(draws: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where (...) intervals of draws (S, ...) begin at zero, and where they end at one."""
    mean, variance = draws.double().mean(0), draws.double().var(0)
    size = mean * (1 - mean) / variance - 1  # alpha + beta; not finite without spread
    at_zero = (mean * size <= _MOST_SHAPE) & (mean < 0.5)
    at_one = ((1 - mean) * size <= _MOST_SHAPE) & (mean > 0.5)
    return at_zero, at_one


def joint_interval(draws: torch.Tensor, level: float) -> torch.Tensor:
    """Bounds (2, ..., P) between which all of the last axis of draws (S, ..., P) lies with probability `level`.

    The k-th smallest and largest value of every component, the same k for all: the largest for which a share `level`
    of the draws is inside in all components (Besag, Green, Higdon, Mengersen, Statistical Science 10(1), 1995, section
    6.3). Components whose own interval is one-sided (`credible_interval`) have one bound that counts.
    """
    count = len(draws)
    order = draws.argsort(dim=0)
    places = torch.arange(count, device=draws.device).reshape(-1, *[1] * (draws.dim() - 1))
    above = torch.empty_like(order).scatter_(0, order, places.expand_as(order))  # rank from below
    below = count - 1 - above
    at_zero, at_one = _at_bounds(draws)
    two_sided = torch.maximum(above, below)
    counted = torch.where(at_zero, above, torch.where(at_one, below, two_sided))
    farthest = counted.amax(-1).sort(dim=0).values  # of every draw
    chosen = farthest[min(math.ceil(level * (count + 1)), count) - 1]
    ordered = draws.gather(0, order)
    index = torch.stack([count - 1 - chosen, chosen]).unsqueeze(-1)
    low, high = ordered.gather(0, index.expand(2, *draws.shape[1:]))
    low = torch.where(at_zero, torch.zeros_like(low), low)
    return torch.stack([low, torch.where(at_one, torch.ones_like(high), high)])


def _stacked(maps: list[xr.DataArray], levels: list[float], q: ArrayLike) -> xr.DataArray:
    if np.ndim(q) == 0:
        return maps[0].assign_coords(quantile=levels[0])
    return xr.concat(maps, dim=xr.IndexVariable("quantile", levels))


def _at_dates_of(result: Unmixing, maps: xr.DataArray) -> xr.DataArray:
    """The dates of a result, in its order: those of its images, or some of them and others between."""
    if "time" not in maps.coords or np.array_equal(maps["time"], result.dataset["time"]):
        return maps
    return maps.sel(time=result.dataset["time"].values)


def _draws(result: Unmixing, cubes: xr.DataArray, num_samples: int, seed: int) -> Any:
    seed = positive_int(seed, "seed", minimum=0)
    chunks = iterate_draws(
        result.model, result.guide, cubes, num_samples, seed, result.store,
        estimate=result.estimate, decode=result.decode,
    )  # fmt: skip
    return (chunk["draws"] for _, chunk in chunks)


def _maps(result: Unmixing, cubes: xr.DataArray, values: np.ndarray) -> list[xr.DataArray]:
    """A map (time, y, x, endmember) of each of the values (S, N, T, P)."""
    labels = {"endmember": result.abundances["endmember"].values}
    return [from_pixels(value, cubes, labels, name="abundances") for value in values]


def _interpolate_ranks(ordered: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """Linear interpolation between order statistics, so that one more draw is below with probability q.

    Definition 6 of Hyndman, Fan, "Sample quantiles in statistical packages", The American Statistician 50, 1996;
    numpy's "weibull". Its default would make intervals of few draws too narrow.
    """
    position = (q * (len(ordered) + 1) - 1).clamp(0, len(ordered) - 1)
    below = position.floor().long()
    above = (below + 1).clamp(max=len(ordered) - 1)
    weight = (position - below).reshape(-1, *[1] * (ordered.dim() - 1))
    return ordered[below] * (1 - weight) + ordered[above] * weight
