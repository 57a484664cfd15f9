"""Our whole method in one call: `unmix` chooses start, model and guide, and ends in ``fit``, or else in chains."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import xarray as xr
from numpy.typing import ArrayLike

from pyro_unmix.bases.linear import Basis
from pyro_unmix.data.bands import Ignore
from pyro_unmix.data.cubes import as_cube_sequence, valid_mask
from pyro_unmix.data.lazy import as_lazy_cubes, is_lazy
from pyro_unmix.data.libraries import is_library
from pyro_unmix.data.types import CubesLike, ImagesLike
from pyro_unmix.guides import ConjugateGuide
from pyro_unmix.infer.checkpoints import as_checkpoints
from pyro_unmix.infer.fit import fit
from pyro_unmix.infer.settings import FitSettings, SampleSettings
from pyro_unmix.methods.arguments import (
    check_settings,
    count_materials,
    counted_bands,
    judged,
    known_spectra,
)
from pyro_unmix.methods.intimate import in_albedo
from pyro_unmix.methods.unmix_by_chains import unmix_by_chains
from pyro_unmix.mixing import Hapke
from pyro_unmix.models import SGLMM
from pyro_unmix.ops.checks import choice
from pyro_unmix.ops.threads import one_thread
from pyro_unmix.posterior.estimates import are_many_to_polish
from pyro_unmix.posterior.read_out import PolishedMean, PosteriorMean
from pyro_unmix.posterior.result import Unmixing
from pyro_unmix.priors import (
    AutoRegressive,
    FixedEndmembers,
    Independent,
    JumpWalk,
    SharedVariability,
    VariabilityPrior,
    WhiteNoise,
)
from pyro_unmix.start import (
    MIN_SHARE,
    Start,
    choose_season_start,
    choose_smooth_start,
    choose_start,
    estimate_num_endmembers,
    field_coefficient,
    field_correlation,
    may_share_variability,
    misfit_factor,
    season_share,
    shares_variability,
    spread_blocks,
    temporal_correlation,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

logger = logging.getLogger(__name__)

#: Above this temporal correlation of the variability, `unmix` models it as AR(1), else as independent.
MIN_CORRELATION = 0.1
#: Above this `season_share` of the common variability, `unmix` models seasons.
MIN_SEASON = 0.1
#: From so many dates on, draws are polished.
MIN_DATES = 3
#: Larger sequences, pixels times dates, are unmixed pixel by pixel.
MOST_PIXEL_DATES = 500_000
#: Above this `misfit_factor` of the model at the start, `unmix` trains nothing and draws chains.
MOST_MISFIT = 1.9
#: Observed spectra without which there are no chains.
LEAST_SPECTRA = 500
_LEAST_OF_LIBRARY = 20  # whose chains learn a residual and the noise alone
#: Sweeps of `unmix`.
NUM_SWEEPS = 16
#: Steps of `unmix`.
NUM_STEPS = 100


@one_thread()
def unmix(
    cubes: ImagesLike,
    num_endmembers: int | str | None = None,
    *,
    endmembers: ArrayLike | None = None,
    basis: Basis | None = None,
    correction: bool = True,
    polish: bool | None = None,
    trained: bool | None = None,
    mixing: Hapke | None = None,
    uncertainty: ArrayLike | xr.DataArray | None = None,
    ignore: Ignore = None,
    seed: int = 0,
    progress: bool = True,
    num_steps: int | None = None,
    num_epochs: float | None = None,
    **settings: Unpack[FitSettings],
) -> Unmixing:
    """Unmix a sequence with all choices made: data-driven start, jumps in time, conjugate guide, or chains without.

    `choose_start` picks averaging window, endmembers, basis and rank by the marginal likelihood. The abundances drift
    and jump (`JumpWalk`); the variability is AR(1) where neighbouring dates correlate by more than 0.1 at the start,
    else independent. Where, in 36 dates or more over three years at least, what the pixels have in common comes back
    every year (`season_share`), the materials have seasons (`SeasonalVariability`). Where neighbouring pixels share
    more than a quarter of it, in three or more dates, and training was asked for, it is a field that is smooth over
    the image (`SmoothVariability`), and `choose_smooth_start` finds the endmembers anew. M0 and basis are kept; the
    scales, time constants and noise are learned with `ConjugateGuide`.
    Of a DataArray in chunks (`read_sequence(chunks=...)`, `xarray.open_zarr`) with more than 500 000 pixel-dates, the
    start is chosen on blocks from all over the scene (`spread_blocks`), and `fit` reads the rest from disk.
    Where the sequence has dates, the transitions take the days between them; shifting all dates changes nothing.

    That model may not hold. Three things lead to chains: negative abundances much larger than it expects
    (`misfit_factor`), as in real images and where no pixel is pure; neighbouring pixels of a sequence that share more
    than a quarter of the variability (`shares_variability`), of which training comes out too sure where it has to find
    the endmembers; and a library. Then
    nothing is trained, and `unmix_by_chains` unmixes the scene: endmembers drawn from several starts, abundances on the
    simplex, a residual that all materials have in common. Its result, a `Sampled`, says nothing of dates between the
    images or after them.

    Brightness needs no option: it is free where a library is given, has a spread that is learned in chains without one,
    and is part of the variability of the materials where a model is trained (``basis=Brightness()``: all of it).

    Parameters
    ----------
    cubes
        Anything that `as_cube_sequence` takes; or files, as `open_images` reads them.
    num_endmembers : int or "auto"
        P; ``"auto"`` takes it from `estimate_num_endmembers`. May be left out if `endmembers` are given.
    endmembers : array (L, P) or library, optional
        Reference endmembers that are known; default extracted. A library (a DataArray with the coordinate ``label``,
        see `read_library`) gives the classes: chains draw which of its spectra a pixel holds; a model that is trained
        has their means, and a candidate basis.
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
    trained : bool, optional
        Whether to train model and guide in any case, or in none. Default: where the model holds, where anything is
        asked for that only training has (a basis, ``correction=False``, `polish` of either kind, steps, a setting of
        `fit` besides `device` and `checkpoint`), where the materials have seasons, and in scenes of more than 500 000
        pixel-dates or less than 500 spectra (20 with a library).
    mixing : Hapke, optional
        Materials are grains of one powder: all of this is done with single-scattering albedos, which mix linearly, in
        place of reflectances; noise and variability are of albedo. Fractions are of cross section, see `Hapke`.
    uncertainty : array (L,) or DataArray, optional
        Standard deviations of the bands, of which only the ratios count, as `io.read_uncertainty` reads it of a
        product: chains are drawn with them. With a library that has several spectra of a class.
    ignore : str or sequence of pairs, optional
        Leave out the bands in these ranges, nm, as `read_sequence` does: ``"emit"``, ``"0-440,1310-1490"``.
    seed : int
    progress : bool
    num_steps, num_epochs : optional
        How long to train, as in `fit`; default 100 steps. 0 steps give the start itself, without training.
    **settings
        Passed on to `fit`; the defaults are batches of 256 pixels and a learning rate of 0.01 that decays to a tenth.
        `device` and `checkpoint` go to either engine. A killed call that is made again chooses the same one.

    Returns
    -------
    Unmixing, or Sampled
        Of `mixing`, ``dataset`` and `cubes` hold albedos; methods that return spectra convert them back.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described, or ``trained=False`` does not go with the others or with a scene in chunks.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> scene = pu.simulate.scaled_scene(num_dates=2, height=10, width=10, seed=0)
    >>> result = pu.unmix(scene.cubes, num_endmembers=3, num_steps=5, progress=False)
    >>> result
    <Unmixing by unmix (time: 2, y: 10, x: 10, endmember: 3), 5 steps>
    """
    if mixing is not None:
        if uncertainty is not None:
            raise ValueError(
                "uncertainty is of reflectances, not of the albedos of mixing: leave one out"
            )
        return in_albedo(
            lambda albedo, spectra: unmix(
                albedo, num_endmembers, endmembers=spectra, basis=basis, correction=correction, polish=polish,
                trained=trained, seed=seed, progress=progress, num_steps=num_steps, num_epochs=num_epochs, **settings,
            ),
            mixing, cubes, endmembers, ignore,
        )  # fmt: skip
    seed = check_settings(seed, settings)
    if not isinstance(correction, bool):
        raise TypeError(f"correction must be True or False, got {correction!r}")
    if not isinstance(polish, bool | None):
        raise TypeError(f"polish must be True, False or None, got {polish!r}")
    if polish and "estimate" in settings:
        raise ValueError("pass polish=True or an estimate, got both: remove one of them")
    if not isinstance(trained, bool | None):
        raise TypeError(f"trained must be True, False or None, got {trained!r}")
    # Where to compute and what to keep is asked of either engine.
    of_both: SampleSettings = {}
    if "device" in settings:
        of_both["device"] = settings["device"]
    if "checkpoint" in settings:
        of_both["checkpoint"] = as_checkpoints(settings["checkpoint"])
    of_fit = [value for name, value in settings.items() if name not in of_both]
    asked = [basis, polish, num_steps, num_epochs, *of_fit]
    if not correction or any(value is not None for value in asked):
        if trained is False:
            raise ValueError(
                "trained=False, but a basis, correction, polish, steps or settings of fit are given, which only "
                "training has: remove them, or trained=False"
            )
        trained = True
    if uncertainty is not None:
        if trained or endmembers is None:
            raise ValueError(
                "uncertainty= weighs bands in chains of a library: pass endmembers=library, and nothing that only "
                "training has"
            )
        trained = False
    cubes, endmembers = counted_bands(cubes, endmembers, ignore)
    images = _images(cubes)
    if trained is False and is_lazy(images):
        raise ValueError(
            "trained=False, but chains need the scene in memory: cubes.load(), or a part of it"
        )
    scene = spread_blocks(images, seed) if is_lazy(images) else images
    count = _count(scene, num_endmembers, endmembers, seed, progress)
    start = choose_start.unchecked(
        scene, count, endmembers=endmembers, basis=basis, seed=seed, progress=progress
    )
    if trained is None:
        trained = _holds(scene, start, images, seed, endmembers)
    if not trained:
        of_what = "of the given spectra" if endmembers is not None else "about several starts"
        logger.info("nothing is trained: Markov chains are drawn, %s", of_what)
        found: dict[str, Any] = {"uncertainty": uncertainty}
        found |= {"start": start} if endmembers is None else {"endmembers": endmembers}
        return unmix_by_chains(images, count, **found, seed=seed, progress=progress, **of_both)
    chosen, chain = _choose_variability(
        scene, start, num_pixel_dates=_pixel_dates(images), basis_given=basis is not None,
        endmembers_given=endmembers is not None, seed=seed, progress=progress,
    )  # fmt: skip
    model = _model(scene, chosen, chain, seed)
    guide = ConjugateGuide(model, correction=correction, seed=seed)
    defaults: FitSettings = {
        "batch_size": 256, "learning_rate": 0.01, "learning_rate_decay": 0.1, "method": "unmix",
    }  # fmt: skip
    how: FitSettings = {**defaults, **settings}
    how["estimate"] = _choose_estimate(model, images, scene, settings.get("estimate"), polish)
    if num_steps is None and num_epochs is None:
        num_steps = NUM_STEPS
    return judged(fit(
        model, guide, images,
        num_steps=num_steps, num_epochs=num_epochs, seed=seed, progress=progress, **how,
    ))  # fmt: skip


def _model(scene: xr.DataArray, start: Start, chain: VariabilityPrior, seed: int) -> SGLMM:
    return SGLMM(
        FixedEndmembers(start.endmembers),
        basis=start.basis,
        abundance_prior=JumpWalk(),
        variability_prior=chain,
        noise=WhiteNoise(start.noise_scale),
        dates=scene["time"].values if "time" in scene.coords else None,
        seed=seed,
    )


def _holds(
    scene: xr.DataArray, start: Start, images: xr.DataArray, seed: int, endmembers: Any
) -> bool:
    """Whether spectra are as the model says, or too few or too many for chains.

    The spread of a library's classes is wide enough to explain any spectrum, which hides what the model does not hold.
    """
    many = is_lazy(images) or _pixel_dates(images) > MOST_PIXEL_DATES
    if many and is_library(endmembers):
        logger.warning(
            "more than %d pixel-dates: model and guide are trained, which know a class by the mean of its spectra and "
            "are too sure of what the library leaves open; unmix_by_chains draws which spectra a pixel holds, for some "
            "ten milliseconds of each pixel-date",
            MOST_PIXEL_DATES,
        )
    least = _LEAST_OF_LIBRARY if is_library(endmembers) else LEAST_SPECTRA
    few = int(valid_mask(scene).sum()) < least
    if many or few or start.endmembers.sizes["endmember"] < 2:
        return True
    if season_share.unchecked(scene, start, seed=seed) > MIN_SEASON:
        return True  # which the model has, but not yet here
    if is_library(endmembers):
        return False
    if endmembers is None and shares_variability.unchecked(scene, start):
        # The model has a smooth field for it, but takes what it found for endmembers as known. Given ones are known,
        # and chains about them have no variability of single materials.
        return False
    factor = misfit_factor(_model(scene, start, Independent(), seed), images)
    logger.info(
        "negative abundances are %.1f times as large as the model expects, which holds up to %.1f",
        factor, MOST_MISFIT,
    )  # fmt: skip
    return factor <= MOST_MISFIT


def _choose_variability(
    scene: xr.DataArray,
    start: Start,
    *,
    num_pixel_dates: int,
    basis_given: bool,
    endmembers_given: bool,
    seed: int,
    progress: bool,
) -> tuple[Start, VariabilityPrior]:
    """How the variability evolves: seasons, a field that is smooth over the image, or every pixel by itself."""
    correlation = temporal_correlation.unchecked(scene, start)
    chain: VariabilityPrior = (
        AutoRegressive(0.5) if correlation > MIN_CORRELATION else Independent()
    )
    if season_share.unchecked(scene, start, seed=seed) > MIN_SEASON:
        return start, choose_season_start.unchecked(
            scene, start, residual=chain, seed=seed, progress=progress
        )
    if basis_given or not may_share_variability(scene):
        return start, chain
    if num_pixel_dates > MOST_PIXEL_DATES:
        logger.warning(
            "variability of single pixels: more than %d pixel-dates are too many for a field",
            MOST_PIXEL_DATES,
        )
        return start, chain
    share, length = field_correlation.unchecked(scene, start)
    if share <= MIN_SHARE:
        return start, chain
    smooth = choose_smooth_start.unchecked(
        scene, start, length=length, coefficient=field_coefficient(correlation, share),
        train_endmembers=not endmembers_given, seed=seed, progress=progress,
    )  # fmt: skip
    return smooth, smooth.prior


def _choose_estimate(
    model: SGLMM,
    images: xr.DataArray,
    scene: xr.DataArray,
    asked: PosteriorMean | None,
    polish: bool | None,
) -> PosteriorMean | None:
    """What abundances are read out as: what was asked for, or draws polished by sweeps where they pay."""
    shared = isinstance(model.variability_prior, SharedVariability)
    if shared and (polish or isinstance(asked, PolishedMean)):
        logger.warning("not polished: sweeps do not know variability that pixels share")
        return None
    if polish is None:
        many = are_many_to_polish(images.sizes["y"] * images.sizes["x"], images.sizes["time"])
        polish = scene.sizes["time"] >= MIN_DATES and not (many or shared or asked is not None)
    if not polish:
        return asked
    factor = misfit_factor(model, scene)
    return PolishedMean(num_sweeps=NUM_SWEEPS, noise_factor=factor, exact=False)


def _images(cubes: CubesLike) -> xr.DataArray:
    """The images in memory; those in chunks stay where they are if they are many."""
    if is_lazy(cubes):
        images = as_lazy_cubes(cubes)
        if _pixel_dates(images) > MOST_PIXEL_DATES:
            if "tile" in cubes.coords:
                raise ValueError(
                    "large scenes in chunks cannot be of several tiles, whose borders the start would not see: load "
                    "them (cubes.load()), or choose_start on one tile and fit(model, guide, cubes)"
                )
            return images
    return as_cube_sequence(cubes)


def _pixel_dates(images: xr.DataArray) -> int:
    return images.sizes["time"] * images.sizes["y"] * images.sizes["x"]


def _count(
    cubes: xr.DataArray,
    num_endmembers: int | str | None,
    endmembers: ArrayLike | None,
    seed: int,
    progress: bool,
) -> int:
    """P as a number; given endmembers say it themselves."""
    if isinstance(num_endmembers, str):
        choice(num_endmembers, "num_endmembers, if it is no number,", ["auto"])
        if endmembers is None:
            count = estimate_num_endmembers.unchecked(cubes, seed=seed, progress=progress)
            logger.info("num_endmembers='auto': %d", count)
            return count
        num_endmembers = None
    return count_materials(num_endmembers, known_spectra(endmembers, cubes))
