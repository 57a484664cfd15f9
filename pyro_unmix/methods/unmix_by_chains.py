"""`unmix_by_chains`: a sequence unmixed by Markov chains from several starts."""

from __future__ import annotations

import logging
import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike

from pyro_unmix.data.bands import Ignore
from pyro_unmix.data.checks import as_endmembers
from pyro_unmix.data.cubes import as_cube_sequence
from pyro_unmix.data.libraries import (
    at_bands_of,
    classes_of,
    has_several,
    is_library,
    library_endmembers,
)
from pyro_unmix.infer.chain_run import ChainRun, run_chains
from pyro_unmix.infer.checkpoints import Checkpoints, as_checkpoints
from pyro_unmix.infer.sample import NUM_HELD_OUT, sample, split_spectra
from pyro_unmix.infer.sampled import Sampled
from pyro_unmix.infer.settings import SampleSettings
from pyro_unmix.infer.workers import device_of_worker
from pyro_unmix.kernels import ROUND, EllipticalEndmembers
from pyro_unmix.methods.arguments import (
    check_settings,
    count_materials,
    counted_bands,
    judged,
    known_spectra,
)
from pyro_unmix.methods.classical import names_of
from pyro_unmix.methods.weights import band_weights
from pyro_unmix.models.library_mixing import LibraryMixing
from pyro_unmix.models.simplex import SimplexMixing
from pyro_unmix.ops.progress import progress_bar
from pyro_unmix.ops.threads import one_thread
from pyro_unmix.priors.bounded import BoundedEndmembers
from pyro_unmix.start.choice import Start, choose_start, windows_of
from pyro_unmix.start.field import shares_variability
from pyro_unmix.start.field_estimate import estimate_field
from pyro_unmix.start.several_starts import several_starts

if TYPE_CHECKING:
    from typing_extensions import Unpack

logger = logging.getLogger(__name__)

_SPECTRA, _SHORT = 2000, 50  # of the short chain of a start: spectra, and rounds
_CHAINS_OF_GIVEN = 3
#: Settings of `sample` for a library: a chain learns the residual and the noise alone, soon and of few spectra.
_OF_LIBRARY: SampleSettings = {"num_rounds": 60, "num_spectra": 1000, "num_warmup": 12}
_ABOVE = 0.2  # the bound above the largest endmember that a start has
_MOST_FIELDS = 3  # fits of a field, of a dozen rounds each
_NUM_SCALINGS = 3
_SCALING = 0.1  # of an endmember, at psi = 1 and a scale of one

#: A round that leaves the endmembers where they are.
_KEPT = tuple(kernel for kernel in ROUND if not isinstance(kernel, EllipticalEndmembers))


@one_thread()
def unmix_by_chains(
    cubes: Any,
    num_endmembers: int | None = None,
    *,
    endmembers: ArrayLike | None = None,
    start: Start | None = None,
    uncertainty: ArrayLike | xr.DataArray | None = None,
    ignore: Ignore = None,
    seed: int = 0,
    progress: bool = True,
    **settings: Unpack[SampleSettings],
) -> Sampled:
    """Unmix a sequence with everything unknown drawn by Markov chains: endmembers, variability, residual, noise.

    A `SimplexMixing` about the endmembers of each of `several_starts`, refined by a short chain of other spectra; a
    chain of each, weighted by what it predicts of spectra that no chain has seen; then all spectra under their draws.
    What the materials do not explain is a residual that all have in common, of rank eight, besides the brightness of
    the whole pixel: variability of single materials, learned from images that do not hold its model, takes abundance
    for variability, however well it predicts. So materials vary by themselves only in sequences whose neighbouring
    pixels share variability (`shares_variability`): there each is scaled by three cosines over wavelength, in sizes
    that are drawn. The chains do not link neighbours and dates. Where a smooth field of the materials' variability
    explains such a sequence to the noise, fitted from the endmembers of the heaviest three chains (`estimate_field`),
    the draws are moved to the abundances that it leaves: neighbours say where the abundances are, single spectra and
    how far the field is from what they say how much is left open.

    Everywhere else chains of a second kind stand beside these: the spectra of pure neighbourhoods (those of
    `choose_start`, and of windows of 1, 3 and 5 pixels) are kept, and the residual is outside of what they span
    (``SimplexMixing(kept=True)``), so that abundances are near those of non-negative least squares. A residual that
    reaches into the span explains more of any image, and on real ones takes much of the abundances with it; how much
    it explains there sets the weight of either kind (`share_of_kept`). Kept spectra that were given are weighed in the
    same way against the same spectra with a residual in all directions.

    Of a library that has several spectra of a class, every pixel and date holds a few, in amounts whose sum is free,
    and the abundance of a class is the sum of its spectra: `LibraryMixing`, three chains. The library is taken for
    what there is; the residual takes what is in the scene and in no spectrum of it, see ``.residual()``.

    Parameters
    ----------
    cubes
        Anything that `as_cube_sequence` takes.
    num_endmembers : int, optional
        P; may be left out if `endmembers` are given.
    endmembers : array (L, P) or library, optional
        Spectra that are known and kept; default extracted. They vary in brightness only, besides the residual.
        A library (a DataArray with the coordinate ``label``) gives classes with the spectra that each may show.
    start : Start, optional
        What `choose_start` gives for these images, if it is there already. Not with `endmembers`.
    uncertainty : array (L,) or DataArray, optional
        Standard deviations of the bands, of which only the ratios count, with a library that has several spectra of a
        class. As `io.read_uncertainty` reads it of a product.
    ignore : str or sequence of pairs, optional
        Leave out the bands in these ranges, nm, as `read_sequence` does: ``"emit"``, ``"0-440,1310-1490"``.
    seed : int
    progress : bool
    **settings
        Passed on to `sample`. A folder of checkpoints has one inside, ``starts``, for the short chains.

    Returns
    -------
    Sampled

    Raises
    ------
    ValueError
        If neither P nor endmembers are given, or they do not agree, or both a start and endmembers are given;
        if there is an uncertainty, but no library of several spectra of a class.
    KeyboardInterrupt
        After an interrupt (Ctrl-C) during the short chains; later it is as in `sample`.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> scene = pu.simulate.scaled_scene(num_dates=2, height=10, width=10, seed=0)
    >>> result = pu.methods.unmix_by_chains(
    ...     scene.cubes[..., ::16], num_endmembers=3, num_rounds=4, num_spectra=40,
    ...     num_held_out=10, num_samples=8, progress=False,
    ... )
    >>> type(result).__name__, dict(result.abundances.sizes)
    ('Sampled', {'time': 2, 'y': 10, 'x': 10, 'endmember': 3})
    """
    seed = check_settings(seed, settings, SampleSettings)
    cubes, endmembers = counted_bands(cubes, endmembers, ignore)
    cubes = as_cube_sequence(cubes)
    count = count_materials(num_endmembers, known_spectra(endmembers, cubes))
    if start is not None:
        _check_start(start, cubes.sizes["wavelength"], count, endmembers)
    if uncertainty is not None and not has_several(endmembers):
        raise ValueError(
            "uncertainty= is for a library that has several spectra of a class: pass one, or use nnls, fcls, mesma, "
            "monte_carlo_sma or sparse_regression, which take it with any spectra"
        )
    if endmembers is None:
        found = start or choose_start.unchecked(cubes, count, seed=seed, progress=progress)
        settings["checkpoint"] = as_checkpoints(settings.get("checkpoint"))
        starts = several_starts(cubes, found, seed=seed)
        models = _models(cubes, found, starts, settings, seed, progress)
        models = [*models, *_kept(cubes, models[0], starts)]
        result = sample(models, cubes, seed=seed, progress=progress, **settings)
        whole = len(result.chains) >= len(models)  # who stops chains waits for no field
        if whole and models[0].num_components:  # neighbouring pixels share variability
            result = _about_field(result, found, seed, progress)
        return judged(replace(result, method="unmix_by_chains"))
    chosen: SampleSettings
    if has_several(endmembers):
        spread = None if uncertainty is None else 1 / band_weights(uncertainty, cubes)
        programs: Any = _of_library(at_bands_of(endmembers, cubes), spread)
        chosen = {"num_chains": _CHAINS_OF_GIVEN, **_OF_LIBRARY, **settings}
    else:
        programs = _of_given(cubes, endmembers)
        chosen = {"num_chains": _CHAINS_OF_GIVEN, "kernels": _KEPT, **settings}
    result = sample(programs, cubes, seed=seed, progress=progress, **chosen)
    return judged(replace(result, method="unmix_by_chains"))


def _check_start(start: Start, num_bands: int, count: int, endmembers: Any) -> None:
    if not isinstance(start, Start):
        raise TypeError(f"start must be what choose_start returns, got {type(start).__name__}")
    if endmembers is not None:
        raise ValueError("expected endmembers or a start, got both: leave one of them out")
    if start.endmembers.shape != (num_bands, count):
        raise ValueError(
            f"start must be of {num_bands} bands and {count} materials, got {start.endmembers.shape}: pass "
            "choose_start(cubes, num_endmembers) of these images, without the bands that do not count"
        )


def _models(
    cubes: xr.DataArray,
    start: Start,
    starts: list[xr.DataArray],
    settings: SampleSettings,
    seed: int,
    progress: bool,
) -> list[SimplexMixing]:
    """Programs about the endmembers of several starts, each refined by a short chain.

    The residual of endmembers that are far off holds much of the materials, and would keep them there: so a short
    chain, and the residual is found anew where the endmembers have come to.
    """
    varied = shares_variability.unchecked(cubes, start)
    logger.info(
        "variability: %s",
        "every material varies by itself" if varied else "all materials of a pixel vary together",
    )  # fmt: skip

    def about(endmembers: xr.DataArray) -> SimplexMixing:
        model = _model(cubes, endmembers, _scalings(cubes, endmembers) if varied else None)
        device = settings.get("device")
        return model if device is None else model.to(device_of_worker(device))

    seen, _ = split_spectra(cubes, settings.get("num_held_out", NUM_HELD_OUT), seed)
    run = ChainRun.of_random_spectra(
        [about(one) for one in starts], seen, _SPECTRA, [seed, 3], _SHORT, num_kept=1, kernels=ROUND
    )
    with (
        _before(settings.get("checkpoint")) as keeper,
        progress_bar(total=run.total, shown=progress, desc="starts", unit="round") as bar,
    ):
        if not run_chains(run, keeper, bar):
            raise KeyboardInterrupt("interrupted before the chains began")
    refined = [chain.shared[-1]["endmembers"].cpu().numpy() for chain in run.chains]
    return [about(one.copy(data=data)) for one, data in zip(starts, refined, strict=True)]


def _kept(
    cubes: xr.DataArray, other: SimplexMixing, starts: list[xr.DataArray]
) -> list[SimplexMixing]:
    """Programs that keep the spectra of pure neighbourhoods, where materials do not vary by themselves."""
    if other.num_components or other.num_endmembers >= other.num_bands:
        return []
    num_pure = 1 + len(windows_of(cubes))  # those of the start and of the windows, which come first
    return [_model(cubes, endmembers, kept=True) for endmembers in starts[:num_pure]]


def _before(checkpoint: Any) -> AbstractContextManager[Checkpoints | None]:
    """The folder for the short chains, inside that of the others."""
    return nullcontext() if checkpoint is None else checkpoint.before("starts")


def _about_field(result: Sampled, start: Start, seed: int, progress: bool) -> Sampled:
    """The result moved to what neighbouring pixels say, where a smooth field explains the images.

    Of the chains that weigh most the ends are near enough for a field to be found from, which starts are not.
    """
    assert result.weights is not None and result.orders is not None
    heaviest = np.argsort(-result.weights, kind="stable")[:_MOST_FIELDS]
    endmembers = [
        result.chains[n].stacked("endmembers").mean(0).cpu().numpy()[:, result.orders[n]]
        for n in heaviest
    ]
    weights = result.weights[heaviest].tolist()
    try:
        field = estimate_field.unchecked(
            result.images(), start, endmembers, weights, seed=seed, progress=progress
        )
        return result if field is None else result.about(field, progress=progress)
    except KeyboardInterrupt:
        why = "interrupted"
    except (ArithmeticError, MemoryError, torch.linalg.LinAlgError) as error:
        why = f"no field was found ({type(error).__name__}: {error})"
    logger.warning("%s: abundances are of single pixels, without a field of variability", why)
    return result


def _scalings(cubes: xr.DataArray, endmembers: xr.DataArray) -> np.ndarray:
    """Components (L, K, P): every endmember times cosines over wavelength, or over bands without wavelengths."""
    if "wavelength" in cubes.coords:
        at = cubes["wavelength"].values.astype(float)
    else:
        at = np.arange(cubes.sizes["wavelength"], dtype=float)
    place = (at - at.min()) / max(np.ptp(at), np.finfo(float).tiny)
    order = np.arange(_NUM_SCALINGS)
    waves = np.cos(np.pi * order * place[:, None]) * np.where(order > 0, math.sqrt(2), 1)
    return np.asarray(_SCALING * waves[:, :, None] * endmembers.values[:, None, :])


def _of_library(library: xr.DataArray, spread: np.ndarray | None) -> LibraryMixing:
    spectra, labels = classes_of(library)
    titles = [str(title) for title in names_of(library, spectra.shape[1])]
    names = [str(label) for label in labels]
    return LibraryMixing(spectra, names, titles=titles, uncertainty=spread)


def _of_given(cubes: xr.DataArray, endmembers: ArrayLike) -> list[SimplexMixing]:
    """About spectra that are known, one of each material: the residual anywhere, and outside of what they span."""
    if is_library(endmembers):
        matrix = library_endmembers(at_bands_of(endmembers, cubes))
    else:
        values = as_endmembers(endmembers, cubes.sizes["wavelength"])
        names = getattr(endmembers, "coords", {}).get("endmember", np.arange(values.shape[1]))
        matrix = xr.DataArray(
            values, dims=("wavelength", "endmember"), coords={"endmember": np.asarray(names)}
        )
    outside = [_model(cubes, matrix, kept=True)] if matrix.shape[1] < matrix.shape[0] else []
    return [_model(cubes, matrix), *outside]


def _model(
    cubes: xr.DataArray,
    endmembers: xr.DataArray,
    components: np.ndarray | None = None,
    *,
    kept: bool = False,
) -> SimplexMixing:
    wavelength = cubes["wavelength"].values if "wavelength" in cubes.coords else None
    high = max(1.2, float(endmembers.max()) + _ABOVE)
    reference = BoundedEndmembers(endmembers, high=high, wavelength=wavelength)
    return SimplexMixing(reference, components=components, kept=kept)
