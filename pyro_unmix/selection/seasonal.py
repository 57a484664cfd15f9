"""Where a model with seasons starts: their coefficients and scales, by variable projection."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import xarray as xr
from tqdm.auto import tqdm

from pyro_unmix._check import positive_int
from pyro_unmix._threads import one_thread
from pyro_unmix.cubes import as_cube_sequence, valid_mask
from pyro_unmix.mixing import tile_components
from pyro_unmix.priors import SeasonalVariability, VariabilityPrior
from pyro_unmix.priors.part import day_numbers
from pyro_unmix.priors.seasonal import YEAR
from pyro_unmix.selection.marginal import unit_marginal
from pyro_unmix.selection.smooth_fit import SmoothFit
from pyro_unmix.selection.start import Start

_ROUNDS = 12
_FIRST_SCALE = 0.3
_LEAST_DATES = 24  # that tell of seasons
_LEAST_PERIODS = 1.5
_NUM_FOLDS = 5
_MOST_PIXEL_DATES = 50_000  # that are looked at


@one_thread()
def choose_season_start(
    cubes: Any,
    start: Start,
    *,
    num_harmonics: int = 3,
    period: float = YEAR,
    residual: VariabilityPrior | None = None,
    seed: int = 0,
    progress: bool = False,
) -> SeasonalVariability:
    """A prior of seasons whose guides start where the images have them.

    The seasons of `SeasonalVariability` and their scales are found by `SmoothFit` with the endmembers, basis and noise
    of `start`, as if all other variability were noise, on a random part of the pixels of large scenes. A guide that
    started without seasons would have taken them for changes of abundance.

    Parameters
    ----------
    cubes
        Anything that `as_cube_sequence` takes, with dates.
    start : Start
        Of `choose_start`.
    num_harmonics, period, residual
        Of `SeasonalVariability`.
    seed : int
        Of the pixels that are looked at.
    progress : bool

    Returns
    -------
    SeasonalVariability

    Raises
    ------
    ValueError
        If the images have no dates.
    """
    sequence = as_cube_sequence(cubes)
    if "time" not in sequence.coords:
        raise ValueError(
            "seasons need dates, and the images have none: pass as_cube_sequence(images, time=dates)"
        )
    sequence = _some_pixels(sequence, positive_int(seed, "seed", minimum=0))
    how: dict[str, Any] = {"num_harmonics": num_harmonics, "period": period, "residual": residual}
    prior = SeasonalVariability(scale=_FIRST_SCALE, **how)
    num_endmembers = start.endmembers.shape[1]
    prior.setup(num_endmembers, start.basis.num_components, generator=torch.Generator())
    prior = prior.double().requires_grad_(False)
    prior.set_days(sequence["time"].values)
    fit = SmoothFit(sequence, start.basis, start.noise_scale, prior)
    state = fit.begin(torch.from_numpy(np.asarray(start.endmembers, dtype=np.float64)))
    with tqdm(total=_ROUNDS, disable=not progress, desc="season start", unit="round") as bar:
        fit.run(state, _ROUNDS, False, learn_scales=True, seed=seed, bar=bar)
    return SeasonalVariability(
        scale=prior.log_scale.exp().view(-1, num_endmembers).numpy(),
        start=state.innovations.numpy().astype(np.float32),
        start_scale=fit.spreads(state).numpy().astype(np.float32),
        **how,
    )


@one_thread()
def season_share(cubes: Any, start: Start, *, period: float = YEAR, seed: int = 0) -> float:
    """How much of what all pixels vary together comes back after a period.

    Psi is estimated pixel by pixel at the marginal-GLS abundances under ``N(0, I)`` and averaged over the pixels of a
    date, weighted by the abundances. Two harmonics of the period are fitted to these averages at four fifths of the
    dates, in turn, and predict the fifth that is left out, which are neighbours in time.

    Parameters
    ----------
    cubes
        Anything that `as_cube_sequence` takes, with dates.
    start : Start
        Of `choose_start`.
    period : float
        Days.
    seed : int
        Of the pixels that are looked at.

    Returns
    -------
    float
        One minus the mean square of the errors over that of a constant: one for seasons alone, about zero or less for
        none; minus infinity for sequences of less than one and a half periods or 24 dates, which cannot tell.
    """
    sequence = as_cube_sequence(cubes)
    if "time" not in sequence.coords:
        return -math.inf
    days = day_numbers(sequence["time"].values)
    if len(days) < _LEAST_DATES or days[-1] - days[0] < _LEAST_PERIODS * period:
        return -math.inf
    means, known = _mean_variability(_some_pixels(sequence, seed), start)
    phase = 2 * np.pi * days[:, np.newaxis] / period * np.array([1, 2])
    waves = np.concatenate([np.ones((len(days), 1)), np.cos(phase), np.sin(phase)], axis=1)
    means, waves = means[known], waves[known]
    errors = constants = 0.0
    for left_out in np.array_split(np.arange(len(means)), _NUM_FOLDS):
        others = np.setdiff1d(np.arange(len(means)), left_out)
        if len(others) <= waves.shape[1]:
            return -math.inf
        fitted = np.linalg.lstsq(waves[others], means[others], rcond=None)[0]
        errors += float(((means[left_out] - waves[left_out] @ fitted) ** 2).sum())
        constants += float(((means[left_out] - means[others].mean(0)) ** 2).sum())
    return 1 - errors / max(constants, 1e-300)


def _mean_variability(sequence: xr.DataArray, start: Start) -> tuple[np.ndarray, np.ndarray]:
    """Averages (T, K P) of psi over the pixels of a date, and which dates have any."""
    matrix = torch.from_numpy(np.asarray(start.endmembers, dtype=np.float64))
    mixing, design = unit_marginal(matrix, start.basis, start.noise_scale)
    valid = valid_mask(sequence).values
    means = np.zeros((len(valid), design.shape[1] - matrix.shape[1]))
    for t, (image, seen) in enumerate(zip(sequence.values, valid, strict=True)):
        if not seen.any():
            continue
        projected = torch.from_numpy(image[seen].astype(np.float64)) @ design
        abundances = mixing.solve(projected)
        weights = tile_components(abundances, start.basis.num_components)
        psi = mixing.variability_mean(projected, abundances)
        means[t] = ((psi * weights).sum(0) / weights.square().sum(0).clamp(min=1e-12)).numpy()
    return means, valid.any((1, 2))


def _some_pixels(sequence: xr.DataArray, seed: int) -> xr.DataArray:
    """The sequence, or so many random pixels that have a date, as a row."""
    flat = sequence.stack(pixel=("y", "x")).transpose("time", "pixel", "wavelength")
    observed = np.flatnonzero(valid_mask(sequence).any("time").values)
    wanted = max(1, _MOST_PIXEL_DATES // sequence.sizes["time"])
    chosen = np.sort(np.random.default_rng(seed).permutation(observed)[:wanted])
    values = flat.isel(pixel=chosen).values[:, np.newaxis]
    return as_cube_sequence(values, time=sequence["time"].values)
