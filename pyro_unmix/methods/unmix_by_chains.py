"""`unmix_by_chains`: a sequence unmixed by Markov chains from several starts."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike
from tqdm.auto import tqdm

from pyro_unmix.bases.linear import library_basis
from pyro_unmix.data.checks import as_endmembers
from pyro_unmix.data.cubes import as_cube_sequence
from pyro_unmix.data.libraries import at_bands_of, is_library, library_endmembers
from pyro_unmix.infer.chains import chain_of, random_spectra
from pyro_unmix.infer.sample import sample, split_spectra
from pyro_unmix.infer.sampled import Sampled
from pyro_unmix.infer.settings import SampleSettings
from pyro_unmix.infer.stacking import log_predictive
from pyro_unmix.kernels import ROUND, EllipticalEndmembers
from pyro_unmix.methods.arguments import check_settings, count_materials, known_spectra
from pyro_unmix.models.simplex import SimplexMixing, as_components
from pyro_unmix.ops.threads import one_thread
from pyro_unmix.priors.bounded import BoundedEndmembers
from pyro_unmix.start.purity import learn_basis
from pyro_unmix.start.several_starts import several_starts

if TYPE_CHECKING:
    from typing_extensions import Unpack

logger = logging.getLogger(__name__)

_COMPONENTS = 4
_SCALINGS = 5
_HELD_OUT, _SPECTRA = 500, 2000
_REFINEMENTS, _SHORT = 2, 50  # short chains of a start, and their rounds
_BEST = 3  # starts that go on
_LIBRARY_COMPONENTS = 8
_CHAINS_OF_GIVEN = 3
_ABOVE = 0.2  # the bound above the largest endmember that a start has

#: A round that leaves the endmembers where they are.
_KEPT = tuple(kernel for kernel in ROUND if not isinstance(kernel, EllipticalEndmembers))


@one_thread()
def unmix_by_chains(
    cubes: Any,
    num_endmembers: int | None = None,
    *,
    endmembers: ArrayLike | None = None,
    seed: int = 0,
    progress: bool = True,
    **settings: Unpack[SampleSettings],
) -> Sampled:
    """Unmix a sequence with everything unknown drawn by Markov chains: endmembers, variability, residual, noise.

    From each of `several_starts` a short chain of a `SimplexMixing` without variability of single materials, whose
    common residual of rank eight leaves the endmembers room to move; twice, the residual found anew. The three that
    predict spectra best that none has seen go on, each with two kinds of own variability whose scales may shrink to
    nothing: scalings that are smooth over wavelength, and four components of each material learned from its
    purest pixels (`learn_basis`). These chains are weighted by what they predict; then all spectra under the chains'
    draws. What dates and neighbours have in common is not used. For scenes that may be unlike those that `unmix` was
    made for, and where intervals matter.

    Parameters
    ----------
    cubes
        Anything that `as_cube_sequence` takes.
    num_endmembers : int, optional
        P; may be left out if `endmembers` are given.
    endmembers : array (L, P) or library, optional
        Spectra that are known and kept; default extracted. A library (a DataArray with the coordinate ``label``) gives
        the mean spectra of its classes, and its spread within them as variability; spectra alone vary in
        brightness only, besides the common residual.
    seed : int
    progress : bool
    **settings
        Passed on to `sample`.

    Returns
    -------
    Sampled

    Raises
    ------
    ValueError
        If neither P nor endmembers are given, or they do not agree.
    """
    seed = check_settings(seed, settings, SampleSettings)
    cubes = as_cube_sequence(cubes)
    count = count_materials(num_endmembers, known_spectra(endmembers, cubes))
    if endmembers is None:
        models = _models(cubes, count, seed, progress)
        result = sample(models, cubes, seed=seed, progress=progress, **settings)
        return replace(result, method="unmix_by_chains")
    model = _of_given(cubes, endmembers)
    chosen: SampleSettings = {"num_chains": _CHAINS_OF_GIVEN, "kernels": _KEPT, **settings}
    result = sample(model, cubes, seed=seed, progress=progress, **chosen)
    return replace(result, method="unmix_by_chains")


def _models(cubes: xr.DataArray, count: int, seed: int, progress: bool) -> list[SimplexMixing]:
    """Programs about refined endmembers, of the starts that predict best, with two kinds of variability."""
    starts = several_starts(cubes, count, seed=seed)
    seen, held_out = split_spectra(cubes, _HELD_OUT, seed)
    scored = []
    total = len(starts) * _REFINEMENTS * _SHORT
    bar = tqdm(total=total, disable=not progress, desc="starts", unit="round")
    for number, start in enumerate(starts):
        for again in range(_REFINEMENTS):
            spectra = random_spectra(
                _model(cubes, start), seen, _SPECTRA, [seed, 3, _REFINEMENTS * number + again]
            )
            chain = chain_of(spectra, _SHORT, kernels=ROUND, num_kept=2, bar=bar)
            start = start.copy(data=chain.shared[-1]["endmembers"].cpu().numpy())
        values = torch.as_tensor(held_out.astype(np.float64))
        score = float(log_predictive(chain, values, seed=seed).mean())
        logger.info("start %d: log predictive density %.2f per spectrum", number, score)
        scored.append((score, start))
    scored.sort(key=lambda pair: -pair[0])
    return [
        _model(cubes, start, components(cubes, start))
        for _, start in scored[:_BEST]
        for components in (scaled, learned)
    ]


def scaled(cubes: xr.DataArray, endmembers: xr.DataArray) -> np.ndarray:
    """Components (L, K, P) of scalings by a tenth: cosines over wavelength, times the endmembers."""
    matrix, num_bands = np.asarray(endmembers), len(endmembers)
    has = "wavelength" in cubes.coords
    place = cubes["wavelength"].values if has else np.arange(num_bands)
    place = (place - place.min()) / np.ptp(place)
    orders = np.arange(min(_SCALINGS, num_bands))
    cosines = np.where(orders > 0, np.sqrt(2), 1.0) * np.cos(np.pi * orders * place[:, None])
    return 0.1 * cosines[:, :, None] * matrix[:, None, :]


def learned(cubes: xr.DataArray, endmembers: xr.DataArray | np.ndarray) -> np.ndarray:
    """Components (L, K, P) of the materials' variability, from the images."""
    return as_components(learn_basis(cubes, endmembers, _COMPONENTS), np.asarray(endmembers))


def _of_given(cubes: xr.DataArray, endmembers: ArrayLike) -> SimplexMixing:
    if is_library(endmembers):
        library = at_bands_of(endmembers, cubes)
        matrix = library_endmembers(library)
        spread = int(np.unique(library["label"], return_counts=True)[1].max()) - 1
        rank = min(_LIBRARY_COMPONENTS, spread)
        components = as_components(library_basis(library, rank), matrix) if rank else None
    else:
        values = as_endmembers(endmembers, cubes.sizes["wavelength"])
        names = getattr(endmembers, "coords", {}).get("endmember", np.arange(values.shape[1]))
        matrix = xr.DataArray(
            values, dims=("wavelength", "endmember"), coords={"endmember": np.asarray(names)}
        )
        components = None
    return _model(cubes, matrix, components)


def _model(
    cubes: xr.DataArray, endmembers: xr.DataArray, components: np.ndarray | None = None
) -> SimplexMixing:
    wavelength = cubes["wavelength"].values if "wavelength" in cubes.coords else None
    high = max(1.2, float(endmembers.max()) + _ABOVE)
    reference = BoundedEndmembers(endmembers, high=high, wavelength=wavelength)
    return SimplexMixing(reference, components=components)
