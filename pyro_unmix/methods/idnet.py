"""`idnet`: one image in one call, with defaults that serve all scenes or with the published settings of a kind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import xarray as xr
from numpy.typing import ArrayLike

from pyro_unmix.bases.decoded import ScalingDecoder
from pyro_unmix.data.bands import Ignore
from pyro_unmix.data.cubes import as_cube_sequence
from pyro_unmix.data.libraries import at_bands_of, is_library
from pyro_unmix.data.types import ImagesLike
from pyro_unmix.guides import NonnegativeRegression, TwoStreamGuide
from pyro_unmix.infer.fit import fit
from pyro_unmix.infer.self_supervised import PUBLISHED_BATCH, SelfSupervisedELBO
from pyro_unmix.infer.settings import FitSettings
from pyro_unmix.methods.arguments import (
    check_settings,
    count_materials,
    counted_bands,
    judged,
    known_spectra,
)
from pyro_unmix.models import IDNet
from pyro_unmix.ops.checks import choice
from pyro_unmix.ops.threads import one_thread
from pyro_unmix.posterior.read_out import PlugInMean, PosteriorMean
from pyro_unmix.posterior.result import Unmixing
from pyro_unmix.priors import WhiteNoise
from pyro_unmix.start import choose_mixing, choose_start, extract_bundles, extract_endmembers

if TYPE_CHECKING:
    from typing_extensions import Unpack

#: Published weights (lambda, tau, lambda_e, lambda_d) by kind of scene; beta is 10 in all.
PUBLISHED = {
    "bilinear": (10.0, 0.0, 1e4, 1e-3),
    "variability": (1.0, 0.005, 0.01, 0.1),
    "samson": (1.0, 0.005, 0.01, 0.1),
    "jasper_ridge": (1.0, 0.0, 0.01, 0.1),
    "cuprite": (10.0, 0.1, 0.05, 5.0),
}
#: Epochs with the published settings; the published program stops after 30 at the latest.
PUBLISHED_EPOCHS = 20.0
#: Passes over the pixels by default.
NUM_EPOCHS = 3.0
#: Of the supervised terms, by default.
WEIGHT = 0.1
#: Rates of the networks and of the few numbers beside them, by default.
NETWORK_RATE, NUMBER_RATE = 2e-3, 0.02
_NETWORKS = (".encoder.", ".correction.", ".net.")


@one_thread()
def idnet(
    cubes: ImagesLike,
    num_endmembers: int | None = None,
    *,
    endmembers: ArrayLike | xr.DataArray | None = None,
    published: str | None = None,
    ignore: Ignore = None,
    seed: int = 0,
    progress: bool = True,
    num_steps: int | None = None,
    num_epochs: float | None = None,
    **settings: Unpack[FitSettings],
) -> Unmixing:
    """Unmix one image with IDNet: nonlinear mixing, a latent endmember per material and pixel, self-supervision.

    The defaults are one set for all scenes. Their *start* is taken from the image: endmembers and noise scale by
    `choose_start`, the mixing by `choose_mixing` (linear, or bilinear with its strengths), decoders that scale the
    endmembers (`ScalingDecoder`), a guide whose regression is a non-negative one and whose z start from the pixel's
    brightness, so that the fit begins where a good deterministic method ends. Then `SelfSupervisedELBO` with
    weights of 0.1, batches of 128 and 3 epochs.

    Parameters
    ----------
    cubes
        One image: (y, x, wavelength), or anything of one date that `as_cube_sequence` takes; or a file, as
        `open_images` reads it.
    num_endmembers : int, optional
        P. May be left out if `endmembers` are given.
    endmembers : array (L, P), DataArray (wavelength, endmember) or library, optional
        Known reference endmembers, reflectance; default extracted. A library gives the mean spectra of its classes,
        and the pure spectra for the supervised terms, which else come from the image.
    published : str, optional
        The published program's architecture and settings instead, for one kind of scene: ``"bilinear"``,
        ``"variability"``, ``"samson"``, ``"jasper_ridge"`` or ``"cuprite"``. `PerceptronDecoder`, `TwoStreamMixing`,
        `ShrinkageSteps`, batches of 16, Adam from 1e-3 that falls to ``0.9^10`` of it (there in the first ten of up to
        30 epochs, and it ends when the loss changes by less than 1 %; here smoothly over 20 epochs). Standard
        deviations are learned by their logarithms, there variances: at equal rates ours move twice as fast. Read out
        by `PlugInMean`: at these rates the endmembers' scale stays near its start, and regressions on endmembers with
        so much white noise say little of dark materials. See `ShrinkageSteps` for why such a fit can fail.
    ignore : str or sequence of pairs, optional
        Leave out the bands in these ranges, nm, as `read_sequence` does: ``"emit"``, ``"0-440,1310-1490"``.
    seed : int
    progress : bool
    num_steps, num_epochs : optional
        How long to train, as in `fit`; default 3 epochs, or 20 with published settings.
    **settings
        Passed on to `fit`.

    Returns
    -------
    Unmixing
        ``variability`` are the latents z, (time, y, x, component, endmember).

    Raises
    ------
    ValueError, TypeError
        If the image has several dates, or an argument is not as described.

    References
    ----------
    Borsoi, Erdogmus, Imbiriba, "Learning interpretable deep disentangled neural networks for hyperspectral
    unmixing", IEEE TCI 9, 2023.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> scene = pu.simulate.scaled_scene(num_dates=2, height=10, width=10, seed=0)
    >>> pu.idnet(scene.cubes[0, ..., ::8], num_endmembers=3, num_steps=5, progress=False)
    <Unmixing by idnet (time: 1, y: 10, x: 10, endmember: 3), 5 steps>
    """
    seed = check_settings(seed, settings)
    cubes, endmembers = counted_bands(cubes, endmembers, ignore)
    cubes = as_cube_sequence(cubes)
    if cubes.sizes["time"] != 1:
        raise ValueError(
            f"idnet unmixes one image, got {cubes.sizes['time']} dates: select one with "
            ".isel(time=[0]), or use unmix for the sequence"
        )
    bundles = at_bands_of(endmembers, cubes) if is_library(endmembers) else None
    endmembers = known_spectra(endmembers, cubes)
    count = count_materials(num_endmembers, endmembers)
    if published is None:
        make = _ours
    else:
        choice(published, "published", PUBLISHED)
        make = _published
    model, guide, loss, defaults = make(
        cubes, count, endmembers, bundles, seed, progress, published or ""
    )
    if num_epochs is None and num_steps is None:
        num_epochs = NUM_EPOCHS if published is None else PUBLISHED_EPOCHS
    how: FitSettings = {"loss": loss, "method": "idnet", **defaults, **settings}
    return judged(fit(
        model, guide, cubes,
        num_steps=num_steps, num_epochs=num_epochs, seed=seed, progress=progress, **how,
    ))  # fmt: skip


Parts = tuple[IDNet, TwoStreamGuide, SelfSupervisedELBO, FitSettings]


def _ours(
    cubes: xr.DataArray,
    count: int,
    endmembers: Any,
    bundles: Any,
    seed: int,
    progress: bool,
    kind: str,
) -> Parts:
    start = choose_start.unchecked(
        cubes, count, endmembers=endmembers, seed=seed, progress=progress
    )
    spectra = start.endmembers
    model = IDNet(
        spectra,
        decoder=ScalingDecoder(),
        mixing=choose_mixing.unchecked(cubes, spectra, seed=seed),
        noise=WhiteNoise(start.noise_scale),
        endmember_scale=0.3 * start.noise_scale,
        seed=seed,
    )
    guide = TwoStreamGuide(
        model,
        regression=NonnegativeRegression(),
        informed=True,
        initial_gain=0.0,
        initial_precision=3000.0,
        seed=seed,
    )
    bundles = extract_bundles.unchecked(cubes, spectra) if bundles is None else bundles
    loss = SelfSupervisedELBO(
        bundles, weight=WEIGHT, label_weight=WEIGHT, guide_penalty=0.0, model_penalty=0.0
    )
    defaults: FitSettings = {
        "batch_size": 128,
        "learning_rate": _rate,
        "learning_rate_decay": 0.1,
        "estimate": PosteriorMean(16),
    }
    return model, guide, loss, defaults


def _rate(name: str) -> float:
    """The learning rate of a parameter: networks move slowly, the few numbers beside them faster."""
    inside = f".{name.replace('$$$', '.')}."
    return NETWORK_RATE if any(net in inside for net in _NETWORKS) else NUMBER_RATE


def _published(
    cubes: xr.DataArray,
    count: int,
    endmembers: Any,
    bundles: Any,
    seed: int,
    progress: bool,
    kind: str,
) -> Parts:
    if endmembers is None:
        endmembers = extract_endmembers.unchecked(cubes, count, seed=seed)
    weight, sparsity, guide_penalty, model_penalty = PUBLISHED[kind]
    model = IDNet(endmembers, seed=seed)
    guide = TwoStreamGuide(model, seed=seed)
    bundles = extract_bundles.unchecked(cubes, endmembers) if bundles is None else bundles
    loss = SelfSupervisedELBO(
        bundles,
        weight=weight,
        sparsity=sparsity,
        guide_penalty=guide_penalty,
        model_penalty=model_penalty,
    )
    defaults: FitSettings = {
        "batch_size": PUBLISHED_BATCH,
        "learning_rate": 1e-3,
        "learning_rate_decay": 0.9**10,
        "estimate": PlugInMean(16),
    }
    return model, guide, loss, defaults
