"""Start of a model whose variability pixels share: endmembers, field and its scales, by variable projection."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike

from pyro_unmix.bases.linear import DCT
from pyro_unmix.data.cubes import tiles
from pyro_unmix.data.days import as_days
from pyro_unmix.io.opening import takes_images
from pyro_unmix.ops.progress import progress_bar
from pyro_unmix.ops.threads import one_thread
from pyro_unmix.priors import Independent, SmoothVariability
from pyro_unmix.start.choice import Start
from pyro_unmix.start.extraction import extract_endmembers
from pyro_unmix.start.field_fit import FitState, SmoothFit
from pyro_unmix.start.marginal import UnitMarginal, common_part

logger = logging.getLogger(__name__)

_FIRST_ROUNDS = 4  # of every candidate
_ROUNDS = 10  # of the chosen one
_FIRST_SCALE = 0.3  # of the field
_RESIDUAL = 0.02  # scale of what a pixel has for itself, at the start
_LAGS = (1, 2, 3, 4, 6, 8)  # pixels
_NUM_COMPONENTS = 6  # of the basis
_LARGEST_COEFFICIENT = 0.95
_LONGEST = 8.0  # length that is looked for
_MOST_DATES = 8  # that are looked at
_WIDEST = 100  # rows and columns that are looked at
#: Share of the variability above which neighbouring pixels have it in common.
MIN_SHARE = 0.25
#: Dates without which that cannot be told from abundances ...
MIN_DATES = 3
#: ... and pixels along either side of the images.
MIN_SIDE = 10


@dataclass(frozen=True)
class SmoothStart(Start):
    """What `choose_smooth_start` chose, from a `Start` whose table it keeps.

    Parameters
    ----------
    prior : SmoothVariability
        Its scales and the mode of the field are where a fit starts.
    objectives : dict
        Description of each candidate -> its `SmoothFit.objective`.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> issubclass(pu.start.SmoothStart, pu.start.Start)
    True
    """

    prior: SmoothVariability
    objectives: dict[str, float]


@takes_images
@one_thread()
def choose_smooth_start(
    cubes: xr.DataArray,
    start: Start,
    *,
    length: float,
    coefficient: float,
    train_endmembers: bool = True,
    seed: int = 0,
    progress: bool = False,
) -> SmoothStart:
    """Endmembers and a smooth field of variability that explain a sequence best.

    Candidates for the endmembers are those of `start` and those that `extract_endmembers` finds where spectra are
    scaled to length one (windows 1 and 5; P and P + 4 directions). From each, a few rounds of `SmoothFit` with a DCT
    basis of 6 components are run; the one with the smallest objective is gone on with, and the scales of the field are
    learned.

    Parameters
    ----------
    cubes
        Anything that `as_cube_sequence` takes, or files.
    start : Start
        Of `choose_start`.
    length, coefficient : float
        Of `SmoothVariability`; see `field_correlation`.
    train_endmembers : bool
        False keeps those of `start`.
    seed : int
    progress : bool

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> scene = pu.simulate.smooth_scene(num_dates=2, height=6, width=6, num_endmembers=2, seed=0)
    >>> start = pu.choose_start(scene.cubes, num_endmembers=2, progress=False)
    >>> smooth = pu.start.choose_smooth_start(scene.cubes, start, length=4, coefficient=.5)
    >>> type(smooth.prior).__name__
    'SmoothVariability'
    """
    num_endmembers = start.endmembers.shape[1]
    num_bands = cubes.sizes["wavelength"]
    candidates = {"start": start.endmembers}
    if train_endmembers:
        for window, more in ((1, 0), (5, 0), (1, 4), (5, 4)):
            if window <= min(cubes.sizes["y"], cubes.sizes["x"]):
                candidates[f"unit length, window {window}, {more} more directions"] = (
                    extract_endmembers.unchecked(
                        cubes, num_endmembers, window=window, seed=seed,
                        directions=min(num_endmembers + more, num_bands),
                    )
                )  # fmt: skip
    rounds = _FIRST_ROUNDS * (len(candidates) if len(candidates) > 1 else 0) + _ROUNDS
    bar = progress_bar(total=rounds, shown=progress, desc="smooth start", unit="round")
    fitted: dict[str, tuple[SmoothFit, FitState]] = {}
    begin = smooth_fits(cubes, num_endmembers, start.noise_scale, length, coefficient)
    for name, matrix in candidates.items():
        fit, state = begin(matrix)
        if len(candidates) > 1:
            fit.run(
                state,
                _FIRST_ROUNDS,
                train_endmembers,
                learn_scales=False,
                seed=seed,
                advance=bar.update,
            )
        fitted[name] = fit, state
    objectives = {name: fit.objective(state) for name, (fit, state) in fitted.items()}
    best = min(objectives, key=objectives.__getitem__)
    logger.info("endmembers under variability that neighbours share: from %s", best)
    fit, state = fitted[best]
    fit.run(
        state,
        _ROUNDS,
        train_endmembers,
        learn_scales=True,
        seed=seed + _FIRST_ROUNDS,
        advance=bar.update,
    )
    bar.close()
    prior = SmoothVariability(
        **_layout(cubes),
        length=length,
        coefficient=coefficient,
        scale=fit.prior.log_scale.exp().view(fit.basis.num_components, num_endmembers).numpy(),
        light=float(fit.prior.log_light.exp()),
        residual=Independent(_RESIDUAL),
        start=state.innovations.numpy().astype(np.float32),
        start_scale=fit.spreads(state).numpy().astype(np.float32),
    )
    endmembers = start.endmembers.copy(data=state.endmembers.numpy())
    noise_scale, table = fit.variance**0.5, start.log_likelihoods
    return SmoothStart(endmembers, fit.basis, noise_scale, table, prior, objectives)


def may_share_variability(cubes: xr.DataArray) -> bool:
    """Whether there are dates and pixels enough to tell: in one image smooth variability passes for abundance.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> scene = pu.simulate.scaled_scene(num_dates=2, height=10, width=10, seed=0)
    >>> pu.start.may_share_variability(scene.cubes)  # of two dates
    False
    """
    narrow = min(cubes.sizes["y"], cubes.sizes["x"]) < MIN_SIDE
    return not narrow and cubes.sizes["time"] >= MIN_DATES


@takes_images
def shares_variability(cubes: xr.DataArray, start: Start) -> bool:
    """Whether neighbouring pixels of a sequence share more than `MIN_SHARE` of the variability.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> scene = pu.simulate.smooth_scene(
    ...     num_dates=3, height=14, width=14, num_endmembers=3, cloud_fraction=0, seed=0
    ... )
    >>> start = pu.choose_start(scene.cubes, num_endmembers=3, progress=False)
    >>> pu.start.shares_variability(scene.cubes, start)
    True
    """
    return may_share_variability(cubes) and field_correlation.unchecked(cubes, start)[0] > MIN_SHARE


@takes_images
@one_thread()
def field_correlation(cubes: xr.DataArray, start: Start) -> tuple[float, float]:
    """How much of the variability neighbouring pixels share, and over which distance.

    Psi is estimated pixel by pixel at the marginal-GLS abundances under ``N(0, I)``, what is the same in all pixels is
    taken out (see `temporal_correlation`), and ``c exp(-r^2 / (4 l^2))`` is fitted to the correlation of pixels r
    apart along rows and columns.

    Returns
    -------
    tuple of float
        c, the share at distance zero (shrunken, as psi is known badly; about zero where pixels are independent), and
        l, pixels.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> scene = pu.simulate.smooth_scene(
    ...     num_dates=3, height=14, width=14, num_endmembers=3, cloud_fraction=0, seed=0
    ... )
    >>> start = pu.choose_start(scene.cubes, num_endmembers=3, progress=False)
    >>> share, length = pu.start.field_correlation(scene.cubes, start)
    >>> share > 0.25, length > 0
    (True, True)
    """
    cubes = _window(cubes)
    psi, observed = _estimated_variability(cubes, start)
    if not observed.any():
        return 0.0, 1.0
    lags, correlations = [], []
    for lag in _LAGS:
        total = norms = 0.0
        for rows in tiles(cubes):
            for axis in (1, 2):
                one, two = _shifted(psi[:, rows], lag, axis)
                both = np.logical_and(*_shifted(observed[:, rows], lag, axis))[..., np.newaxis]
                total += float((one * two * both).sum())
                norms += 0.5 * float(((one**2 + two**2) * both).sum())
        if norms > 0:
            lags.append(lag)
            correlations.append(total / norms)
    if len(correlations) < 2:
        return 0.0, 1.0
    best = (math.inf, 0.0, 1.0)
    for length in np.geomspace(1.0, _LONGEST, 40):
        shape = np.exp(-((np.array(lags) / (2 * length)) ** 2))
        share = float(shape @ correlations / (shape @ shape))
        misfit = float(((share * shape - correlations) ** 2).sum())
        best = min(best, (misfit, share, float(length)))
    return best[1], best[2]


def _layout(cubes: xr.DataArray) -> dict[str, Any]:
    """Sizes and tiles, as `SmoothVariability` takes them."""
    heights = [rows.stop - rows.start for rows in tiles(cubes)]
    return {"shape": cubes.shape[:3], "tile_heights": heights}


def _window(sequence: xr.DataArray) -> xr.DataArray:
    """All of it, or the middle of its first tile where the images are large."""
    if sequence.sizes["y"] * sequence.sizes["x"] <= _WIDEST**2:
        return sequence
    rows, width = tiles(sequence)[0], sequence.sizes["x"]
    height = min(rows.stop - rows.start, _WIDEST)
    top = (rows.start + rows.stop - height) // 2
    left = max(0, (width - _WIDEST) // 2)
    return sequence.isel(y=slice(top, top + height), x=slice(left, left + _WIDEST))


def _shifted(values: np.ndarray, lag: int, axis: int) -> tuple[np.ndarray, np.ndarray]:
    count = max(values.shape[axis] - lag, 0)
    first = np.take(values, range(count), axis)
    return first, np.take(values, range(lag, lag + count) if count else [], axis)


def _estimated_variability(sequence: xr.DataArray, start: Start) -> tuple[np.ndarray, np.ndarray]:
    """Psi weighted by the abundances, (T, H, W, K P), without what all pixels share; and where it is observed."""
    step = max(1, math.ceil(sequence.sizes["time"] / _MOST_DATES))
    values = sequence.values[::step]
    observed = np.isfinite(values).all(-1)
    if not observed.any():
        return np.zeros((*observed.shape, 1)), observed
    marginal = UnitMarginal(start.endmembers, start.basis, start.noise_scale)
    by_date = [
        marginal.variability(image[there]) for image, there in zip(values, observed, strict=True)
    ]
    psi, weights = (torch.cat(dates) for dates in zip(*by_date, strict=True))
    rest = np.zeros((*observed.shape, psi.shape[1]))
    rest[observed] = (psi - common_part(psi, weights) * weights).numpy()
    return rest, observed


def smooth_fits(
    cubes: xr.DataArray, num_endmembers: int, noise_scale: float, length: float, coefficient: float
) -> Callable[[ArrayLike], tuple[SmoothFit, FitState]]:
    """What begins fits of one sequence, whose spectra they share: from endmembers (L, P) and no field.

    The basis is a DCT of six components.
    """
    num_bands = cubes.sizes["wavelength"]
    basis = DCT(min(_NUM_COMPONENTS, num_bands), scale=0.1 * num_bands**0.5)

    def prior() -> SmoothVariability:
        return _field_prior(
            cubes, length, coefficient,
            num_endmembers=num_endmembers, num_components=basis.num_components,
        )  # fmt: skip

    images = SmoothFit(cubes, basis, noise_scale, prior())

    def begin(endmembers: ArrayLike) -> tuple[SmoothFit, FitState]:
        fit = images.with_prior(prior())
        return fit, fit.begin(torch.from_numpy(np.array(endmembers, dtype=np.float64)))

    return begin


def field_coefficient(correlation: float, share: float) -> float:
    """The field's persistence per date: the `temporal_correlation` of all variability over the field's share.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> pu.start.field_coefficient(0.3, 0.6)
    0.5
    """
    return min(max(correlation, 0.0) / max(share, 1e-9), _LARGEST_COEFFICIENT)


def _field_prior(
    sequence: xr.DataArray, length: float, coefficient: float, **sizes: int
) -> SmoothVariability:
    """The prior in double precision, with the dates of the sequence."""
    prior = SmoothVariability(
        **_layout(sequence), length=length, coefficient=coefficient,
        scale=_FIRST_SCALE, light=_FIRST_SCALE,
    )  # fmt: skip
    prior.setup(**sizes, generator=torch.Generator())
    prior = prior.double().requires_grad_(False)
    if "time" in sequence.coords and sequence.sizes["time"] > 1:
        gaps = np.diff(as_days(sequence["time"].values))
        prior.set_elapsed(torch.from_numpy(np.concatenate([[1.0], gaps / np.median(gaps)])))
    return prior
