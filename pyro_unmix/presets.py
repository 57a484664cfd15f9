"""Whole methods in one call: the paper's `redsunn` and our `unmix`. Each ends in ``fit(model, guide, cubes)``."""

from __future__ import annotations

import inspect
import logging
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike

from pyro_unmix._check import as_endmembers, choice, in_range, positive_int
from pyro_unmix._threads import one_thread
from pyro_unmix.cubes import as_cube_sequence, to_pixels
from pyro_unmix.endmembers import vca
from pyro_unmix.estimates import are_many_to_polish
from pyro_unmix.fit import fit
from pyro_unmix.guides import BiLSTMGuide, ConjugateGuide
from pyro_unmix.libraries import is_library
from pyro_unmix.losses import Ramp, WeightedELBO
from pyro_unmix.misfit import misfit_factor
from pyro_unmix.mixing import DCT, Basis
from pyro_unmix.models import SGLMM
from pyro_unmix.num_endmembers import estimate_num_endmembers
from pyro_unmix.posterior import PlugInMean, PolishedMean
from pyro_unmix.prediction import as_lazy_cubes, is_lazy
from pyro_unmix.priors import (
    AutoRegressive,
    FixedEndmembers,
    Independent,
    JumpWalk,
    RandomWalk,
    SharedVariability,
    VariabilityPrior,
    WhiteNoise,
)
from pyro_unmix.published import (
    FirstDateSGLMM,
    PublishedGuide,
    RawDCT,
    TransposedDCT,
    VarianceWalk,
    along_trajectories,
)
from pyro_unmix.result import Unmixing
from pyro_unmix.selection import (
    choose_season_start,
    choose_smooth_start,
    choose_start,
    field_correlation,
    season_share,
    spread_blocks,
    temporal_correlation,
)

logger = logging.getLogger(__name__)

#: Above this temporal correlation of the variability, `unmix` models it as AR(1), else as independent.
MIN_CORRELATION = 0.1
#: Above this `season_share` of the common variability, `unmix` models seasons.
MIN_SEASON = 0.1
#: Above this share of variability that neighbouring pixels have in common, `unmix` models it as a smooth field ...
MIN_SHARE = 0.25
#: ... in sequences of as many dates at least (in one image smooth variability passes for abundance) ...
MIN_DATES = 3
#: ... of images that are no narrower than this, pixels.
MIN_SIDE = 10
#: Larger sequences, pixels times dates, are unmixed pixel by pixel.
MOST_PIXEL_DATES = 500_000
#: Sweeps of `unmix`.
NUM_SWEEPS = 16
#: Steps of `unmix`.
NUM_STEPS = 100
#: Passes over the pixels of `redsunn`, as in its paper.
NUM_EPOCHS = 30.0


@one_thread()
def redsunn(
    cube_sequence: Any,
    num_endmembers: int,
    *,
    endmembers: ArrayLike | None = None,
    num_basis: int = 10,
    sigma_psi: float = 1e-5**0.5,
    seed: int = 0,
    progress: bool = True,
    num_epochs: float | None = None,
    **settings: Any,
) -> Unmixing:
    """ReDSUNN as its paper describes it: model, guide, settings and read-out.

    `SGLMM` with its defaults, `BiLSTMGuide`, all of theta = {M0, sigma_r, sigma_a, nu_0, gamma_0} learned jointly with
    phi by the ELBO, Adam at 1e-3, batches of 128, 30 epochs, abundances by Algorithm 1 (means fed forward).

    Parameters
    ----------
    cube_sequence
        Anything that `as_cube_sequence` takes.
    num_endmembers : int
        P.
    endmembers : array (L, P), optional
        Initial M0; default VCA on the spectra of all dates.
    num_basis : int
        K; no more than there are bands.
    sigma_psi : float
        Std (not variance) of the variability's steps.
    seed : int
    progress : bool
    num_epochs : float, optional
        Default 30, unless `num_steps` is given.
    **settings
        Passed on to `fit`.

    Returns
    -------
    Unmixing

    References
    ----------
    Borsoi, Imbiriba, Closas, IEEE TIP 32, 2023, Sec. V and VI.
    """
    seed = _checked(seed, settings)
    cubes = as_cube_sequence(cube_sequence)
    if endmembers is None:
        pixels, valid = to_pixels(cubes)
        endmembers = vca(pixels[valid], num_endmembers, seed=seed)
    _check_count(endmembers, num_endmembers)
    num_basis = min(positive_int(num_basis, "num_basis"), cubes.sizes["wavelength"])
    model = SGLMM(
        endmembers, basis=DCT(num_basis), variability_prior=RandomWalk(sigma_psi), seed=seed
    )
    guide = BiLSTMGuide(model, seed=seed)
    if num_epochs is None and settings.get("num_steps") is None:
        num_epochs = NUM_EPOCHS
    return fit(
        model, guide, cubes, num_epochs=num_epochs, seed=seed, progress=progress,
        **{"estimate": PlugInMean(), "method": "redsunn", **settings},
    )  # fmt: skip


@one_thread()
def redsunn_published(
    cube_sequence: Any,
    num_endmembers: int,
    *,
    endmembers: ArrayLike | None = None,
    num_basis: int = 10,
    sigma_psi: float = 1e-5**0.5,
    num_trajectories: int = 1,
    seed: int = 0,
    progress: bool = True,
    num_epochs: float | None = None,
    **settings: Any,
) -> Unmixing:
    """The program published with the ReDSUNN paper, where it departs from the paper; see `redsunn` for the paper.

    `FirstDateSGLMM` with `RawDCT` and `VarianceWalk`, `PublishedGuide` with `TransposedDCT`, and as objective the ELBO
    with the KL divergence weighted by ``w_n = L / (P (K + 1)) min(n / 5000, 1)`` at update n: its loss is the sum of
    two *means*, over L bands and over the P (K + 1) latent variables of a date, and the second is annealed. Its
    fourfold squared error, ``log sigma + 2 r^2 / sigma^2``, is the Gaussian density with ``sigma / 2`` (up to a
    constant), so the noise starts at 0.005 where the program has 0.01. `fit`'s ClippedAdam stands for its AMSGrad.

    Parameters
    ----------
    cube_sequence, num_endmembers, endmembers, num_basis, sigma_psi, seed, progress, num_epochs
        As in `redsunn`. The published settings are K = 10 for the paper's first scene and 2 for its second.
    num_trajectories : int
        Sampled trajectories along which the means are read out (`along_trajectories`); the program takes one.
    **settings
        Passed on to `fit`.

    Returns
    -------
    Unmixing
        ``abundances`` and ``variability`` along the trajectories; what `Unmixing.sample` and `Unmixing.predict` give
        is the posterior.

    Raises
    ------
    TypeError
        If a keyword is none of `fit`.
    ValueError
        If the cubes, the endmembers or a setting are not as described.

    References
    ----------
    Borsoi, Imbiriba, Closas, IEEE TIP 32, 2023, and the program that its Sec. VI announces. What each departure does
    is measured in ``benchmarks/redsunn.md``.
    """
    seed = _checked(seed, settings)
    in_range(sigma_psi, "sigma_psi", low=0, open_low=True)
    positive_int(num_trajectories, "num_trajectories")
    cubes = as_cube_sequence(cube_sequence)
    if endmembers is None:
        pixels, valid = to_pixels(cubes)
        endmembers = vca(pixels[valid], num_endmembers, seed=seed)
    _check_count(endmembers, num_endmembers)
    num_bands = cubes.sizes["wavelength"]
    num_basis = min(positive_int(num_basis, "num_basis"), num_bands)
    model = FirstDateSGLMM(
        endmembers,
        basis=RawDCT(num_basis),
        abundance_prior=VarianceWalk(),
        variability_prior=RandomWalk(sigma_psi),
        noise=WhiteNoise(0.005),
        seed=seed,
    )
    guide = PublishedGuide(model, basis=TransposedDCT(num_basis), seed=seed)
    final = num_bands / (num_endmembers * (num_basis + 1))
    if num_epochs is None and settings.get("num_steps") is None:
        num_epochs = NUM_EPOCHS
    defaults = {"loss": WeightedELBO(Ramp(5000, final)), "method": "redsunn_published"}
    result = fit(
        model, guide, cubes, num_epochs=num_epochs, seed=seed, progress=progress,
        **{**defaults, **settings},
    )  # fmt: skip
    return along_trajectories(result, num_trajectories, seed=seed)


@one_thread()
def unmix(
    cube_sequence: Any,
    num_endmembers: int | str | None = None,
    *,
    endmembers: ArrayLike | None = None,
    basis: Basis | None = None,
    correction: bool = True,
    polish: bool | None = None,
    seed: int = 0,
    progress: bool = True,
    num_steps: int | None = None,
    **settings: Any,
) -> Unmixing:
    """Unmix a sequence with all choices made: data-driven start, jumps in time, conjugate guide.

    `choose_start` picks averaging window, endmembers, basis and rank by the marginal likelihood. The abundances drift
    and jump (`JumpWalk`); the variability is AR(1) where neighbouring dates correlate by more than 0.1 at the start,
    else independent. Where, in 36 dates or more over three years at least, what the pixels have in common comes back
    every year (`season_share`), the materials have seasons (`SeasonalVariability`). Else, where neighbouring pixels
    share more than a quarter of it, in three or more dates, it is a field that is smooth over the image
    (`SmoothVariability`), and `choose_smooth_start` finds the endmembers anew. M0 and basis are kept; the scales, time
    constants and noise are learned with `ConjugateGuide`.
    Of a DataArray in chunks (`read_sequence(chunks=...)`, `xarray.open_zarr`) with more than 500 000 pixel-dates, the
    start is chosen on blocks from all over the scene (`spread_blocks`), and `fit` reads the rest from disk.
    Where the sequence has dates, the transitions take the days between them; shifting all dates changes nothing.

    Parameters
    ----------
    cube_sequence
        Anything that `as_cube_sequence` takes.
    num_endmembers : int or "auto"
        P; ``"auto"`` takes it from `estimate_num_endmembers`. May be left out if `endmembers` are given.
    endmembers : array (L, P) or library, optional
        Reference endmembers that are known; default extracted. A library (a DataArray with the coordinate ``label``,
        see `read_library`) gives the mean spectra of its classes at the bands of the cubes, and a candidate basis.
    basis : Basis, optional
        Default chosen from the data.
    correction : bool
        Whether the guide has its LSTM correction.
    polish : bool, optional
        Read out by 16 rounds of Markov-chain sweeps from the guide's draws, with the noise enlarged by `misfit_factor`
        (``PolishedMean(num_sweeps=16, exact=False)``): intervals that hold the truth more often, and on sequences
        better abundances, for about a millisecond per pixel and date (more from fifty dates on). Default: in sequences
        of three dates or more and 100 000 pixel-dates at most (fewer from fifty dates on), unless `estimate` says
        otherwise. Variability that pixels share cannot be polished, which a warning says where it was asked for.
    seed : int
    progress : bool
    num_steps : int, optional
        Default 100, unless `num_epochs` is given; 0 gives the start itself, without training.
    **settings
        Passed on to `fit`; the defaults are batches of 256 pixels and a learning rate of 0.01 that decays to a tenth.

    Returns
    -------
    Unmixing
    """
    seed = _checked(seed, settings)
    if not isinstance(correction, bool):
        raise TypeError(f"correction must be True or False, got {correction!r}")
    if not isinstance(polish, bool | None):
        raise TypeError(f"polish must be True, False or None, got {polish!r}")
    if polish and "estimate" in settings:
        raise ValueError("pass polish=True or an estimate, got both: remove one of them")
    images = _images(cube_sequence)
    cubes = spread_blocks(images, seed) if is_lazy(images) else images
    count = _count(cubes, num_endmembers, endmembers, seed)
    start = choose_start(cubes, count, endmembers=endmembers, basis=basis, seed=seed)
    correlation = temporal_correlation(cubes, start)
    chain: VariabilityPrior = (
        AutoRegressive(0.5) if correlation > MIN_CORRELATION else Independent()
    )
    found, noise_scale = (start.endmembers, start.basis), start.noise_scale
    large = min(cubes.sizes["y"], cubes.sizes["x"]) >= MIN_SIDE
    seasonal = season_share(cubes, start, seed=seed) > MIN_SEASON
    if seasonal:
        chain = choose_season_start(cubes, start, residual=chain, seed=seed, progress=progress)
    searched = not seasonal and basis is None and large and cubes.sizes["time"] >= MIN_DATES
    if searched and _pixel_dates(images) > MOST_PIXEL_DATES:
        searched = False
        logger.warning(
            "variability of single pixels: more than %d pixel-dates are too many for a field",
            MOST_PIXEL_DATES,
        )
    share, length = field_correlation(cubes, start) if searched else (0.0, 1.0)
    if share > MIN_SHARE:
        smooth = choose_smooth_start(
            cubes, start, length=length, coefficient=min(max(correlation, 0.0) / share, 0.95),
            train_endmembers=endmembers is None, seed=seed, progress=progress,
        )  # fmt: skip
        found, noise_scale = (smooth.endmembers, smooth.basis), smooth.noise_scale
        chain = smooth.prior
    model = SGLMM(
        FixedEndmembers(found[0]),
        basis=found[1],
        abundance_prior=JumpWalk(),
        variability_prior=chain,
        noise=WhiteNoise(noise_scale),
        dates=cubes["time"].values if "time" in cubes.coords else None,
        seed=seed,
    )
    guide = ConjugateGuide(model, correction=correction, seed=seed)
    defaults: dict[str, Any] = {
        "batch_size": 256,
        "learning_rate": 0.01,
        "learning_rate_decay": 0.1,
        "method": "unmix",
    }
    if num_steps is None and settings.get("num_epochs") is None:
        num_steps = NUM_STEPS
    shared = isinstance(chain, SharedVariability)
    if polish is None:
        many = are_many_to_polish(images.sizes["y"] * images.sizes["x"], images.sizes["time"])
        sequence = cubes.sizes["time"] >= MIN_DATES
        polish = sequence and not many and not shared and "estimate" not in settings
    if shared and (polish or isinstance(settings.get("estimate"), PolishedMean)):
        logger.warning("not polished: sweeps do not know variability that pixels share")
        settings.pop("estimate", None)
    elif polish:
        settings["estimate"] = PolishedMean(
            num_sweeps=NUM_SWEEPS, noise_factor=misfit_factor(model, cubes), exact=False
        )
    return fit(
        model, guide, images, num_steps=num_steps, seed=seed, progress=progress,
        **{**defaults, **settings},
    )  # fmt: skip


def _images(cube_sequence: Any) -> xr.DataArray:
    """The images in memory; those in chunks stay where they are if they are many."""
    if is_lazy(cube_sequence):
        images = as_lazy_cubes(cube_sequence)
        if _pixel_dates(images) > MOST_PIXEL_DATES:
            if "tile" in cube_sequence.coords:
                raise ValueError(
                    "large scenes in chunks cannot be of several tiles, whose borders the start would not see: load "
                    "them (cubes.load()), or choose_start on one tile and fit(model, guide, cubes)"
                )
            return images
    return as_cube_sequence(cube_sequence)


def _pixel_dates(images: xr.DataArray) -> int:
    return images.sizes["time"] * images.sizes["y"] * images.sizes["x"]


def _checked(seed: int, settings: dict[str, Any]) -> int:
    """The seed as an int; what `fit` would refuse is refused before anything is computed."""
    unknown = sorted(set(settings) - set(inspect.signature(fit).parameters))
    if unknown:
        raise TypeError(
            f"got an unexpected keyword argument {unknown[0]!r}: settings are those of `fit`"
        )
    return positive_int(seed, "seed", minimum=0)


def _count(
    cubes: xr.DataArray, num_endmembers: int | str | None, endmembers: Any, seed: int
) -> int:
    """P as a number; given endmembers say it themselves."""
    if isinstance(num_endmembers, str):
        choice(num_endmembers, "num_endmembers, if it is no number,", ["auto"])
    elif num_endmembers is not None:
        return num_endmembers
    if is_library(endmembers):
        return len(np.unique(endmembers["label"]))
    if endmembers is not None:
        return as_endmembers(endmembers, cubes.sizes["wavelength"]).shape[1]
    if num_endmembers is None:
        raise ValueError("expected num_endmembers (a number or 'auto'), or endmembers: got neither")
    count = estimate_num_endmembers(cubes, seed=seed)
    logger.info("num_endmembers='auto': %d", count)
    return count


def _check_count(endmembers: ArrayLike, num_endmembers: int) -> None:
    shape = np.shape(endmembers) if not isinstance(endmembers, torch.Tensor) else endmembers.shape
    if len(shape) != 2 or shape[1] != num_endmembers:
        raise ValueError(
            f"num_endmembers is {num_endmembers}, but endmembers has shape {tuple(shape)}: pass "
            f"(bands, {num_endmembers})"
        )
