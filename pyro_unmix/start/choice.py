"""Choose averaging window, endmembers, spectral basis and rank by the marginal likelihood."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike

from pyro_unmix.bases.linear import DCT, Basis, Brightness, LearnedBasis, library_basis
from pyro_unmix.data.checks import as_endmembers
from pyro_unmix.data.cubes import check_bands, to_pixels
from pyro_unmix.data.libraries import at_bands_of, is_library
from pyro_unmix.io.opening import takes_images
from pyro_unmix.ops.checks import positive_int
from pyro_unmix.ops.progress import progress_bar
from pyro_unmix.ops.threads import one_thread
from pyro_unmix.start.extraction import extract_endmembers
from pyro_unmix.start.marginal import UnitMarginal, common_part, marginal_score
from pyro_unmix.start.noise import estimate_noise_scale
from pyro_unmix.start.purity import learn_basis, refine_endmembers

logger = logging.getLogger(__name__)
#: Neighbourhoods, pixels to a side, in which `choose_start` looks for endmembers.
WINDOWS = (1, 3, 5)
#: Ranks of the bases of smooth curves that `choose_start` tries.
RANKS = (4, 6, 8)


@dataclass(frozen=True)
class Start:
    """Where a fit starts, and why.

    Parameters
    ----------
    endmembers : DataArray (wavelength, endmember)
    basis : Basis
        Scaled for ``psi ~ N(0, I)``.
    noise_scale : float
        Reflectance.
    log_likelihoods : dict
        Description of each candidate -> median marginal log-likelihood per band.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> scene = pu.simulate.scaled_scene(num_dates=2, height=10, width=10, seed=0)
    >>> start = pu.choose_start(scene.cubes, num_endmembers=3, progress=False)
    >>> round(start.noise_scale, 3)
    0.008
    """

    endmembers: xr.DataArray
    basis: Basis
    noise_scale: float
    log_likelihoods: dict[str, float]


@takes_images
@one_thread()
def choose_start(
    cubes: xr.DataArray,
    num_endmembers: int,
    *,
    endmembers: ArrayLike | None = None,
    basis: Basis | None = None,
    seed: int = 0,
    num_spectra: int = 2000,
    progress: bool = True,
) -> Start:
    """Endmembers, basis and noise scale with the largest marginal likelihood.

    Rule: for every averaging window (1, 3, 5) of the endmember extraction and every basis (learned with 4, 6 and 8
    components; DCT with 6 components, the constant one at twice the scale; brightness at 30 %; brightness at 2 %, which
    is hardly any variability) the variability is integrated out and the abundances are solved for by marginal
    generalised least squares. The candidate with the largest median log-likelihood over a random subset of spectra
    wins: the median, because pixels that no candidate explains must not decide. Where the endmembers were extracted,
    each is then replaced by the mean spectrum of pixels with pure *neighbours* (see `refine_endmembers`), if that
    raises the log-likelihood.

    Parameters
    ----------
    cubes
        Anything that `as_cube_sequence` takes, or files.
    num_endmembers : int
    endmembers : array, optional
        Given ones are not extracted; only the basis is chosen. A library (DataArray with the coordinate ``label``)
        gives the mean spectra of its classes, at the bands of the cubes, and another candidate for the basis: the
        spread within its classes (`library_basis` with up to 6 components).
    basis : Basis, optional
        A given one is not chosen; only the window is.
    seed : int
        Of extraction and subset.
    num_spectra : int
        Size of the subset.
    progress : bool
        Show a bar over the extractions.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> scene = pu.simulate.scaled_scene(num_dates=2, height=10, width=10, seed=0)
    >>> start = pu.choose_start(scene.cubes, num_endmembers=3, progress=False)
    >>> dict(start.endmembers.sizes)['endmember'], type(start.basis).__name__
    (3, 'LearnedBasis')
    >>> max(start.log_likelihoods, key=start.log_likelihoods.get)
    'window 3, learned 8'
    """
    positive_int(num_endmembers, "num_endmembers", minimum=2)
    noise_scale = estimate_noise_scale.unchecked(cubes)
    library = at_bands_of(endmembers, cubes) if is_library(endmembers) else None
    if library is not None:
        endmembers = extract_endmembers.unchecked(cubes, num_endmembers, library=library)
    elif "wavelength" in getattr(endmembers, "coords", {}):
        check_bands(endmembers["wavelength"], cubes)  # type: ignore[index, call-overload]
    if basis is not None and not isinstance(basis, Basis):
        raise TypeError(f"basis must be a Basis object such as DCT(6), got {basis!r}")
    subset = _random_spectra(cubes, num_spectra, seed)
    table: dict[str, float] = {}
    best: _Candidate | None = None
    starts = progress_bar(
        _starts(cubes, num_endmembers, endmembers, seed),
        total=1 if endmembers is not None else len(windows_of(cubes)),
        shown=progress, desc="start", unit="extraction",
    )  # fmt: skip
    for label, whence, matrix in starts:
        for name, candidate, words in _bases(cubes, matrix, basis, library):
            score, noise_scale = marginal_score(subset, matrix, candidate, noise_scale)
            table[f"{label}, {name}"] = score
            if best is None or score > best.score:
                best = _Candidate(score, noise_scale, matrix, candidate, whence, words)
    if best is None:
        raise ValueError("no averaging window fits into the image: pass endmembers=...")
    if endmembers is None:
        refined = refine_endmembers.unchecked(cubes, best.endmembers, best.basis, best.noise_scale)
        again = best.basis
        if isinstance(again, LearnedBasis):
            again = learn_basis.unchecked(cubes, refined, again.num_components)
        score, noise_scale = marginal_score(subset, refined, again, best.noise_scale)
        table["refined"] = score
        if score > best.score:
            best = _Candidate(score, noise_scale, refined, again, _REFINED, best.how)
    logger.info("endmembers: %s", best.whence)
    logger.info("variability: %s", best.how)
    return Start(best.endmembers, best.basis, best.noise_scale, table)


class _Candidate(NamedTuple):
    score: float
    noise_scale: float
    endmembers: xr.DataArray
    basis: Basis
    whence: str  # the endmembers are, in words
    how: str  # the materials vary, in words


_BEST = "because they explain the spectra best"
_REFINED = f"the means of pixels with pure neighbours, {_BEST}"


@takes_images
@one_thread()
def temporal_correlation(cubes: xr.DataArray, start: Start) -> float:
    """Correlation of the variability between neighbouring dates, as seen through its posterior means.

    Psi is estimated date by date at the marginal-GLS abundances under ``N(0, I)``; shrinkage makes the value smaller
    than the true correlation, and independent variability gives about zero. What is the same in all pixels is taken
    out first (its regression on the abundances, through which it is seen): an error of the endmembers lasts, too.
    Counted are all pixels and neighbouring dates where both dates are observed.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> scene = pu.simulate.scaled_scene(num_dates=2, height=10, width=10, seed=0)
    >>> start = pu.choose_start(scene.cubes, num_endmembers=3, progress=False)
    >>> -1 <= pu.start.temporal_correlation(scene.cubes, start) <= 1
    True
    """
    if cubes.sizes["time"] < 2:
        return 0.0
    pixels, valid = to_pixels(cubes)
    both = valid[:, 1:] & valid[:, :-1]
    if not both.any():
        return 0.0
    rng = np.random.default_rng(0)
    chosen = rng.permutation(np.flatnonzero(both.any(1)))[:500]
    marginal = UnitMarginal(start.endmembers, start.basis, start.noise_scale)
    # missing pixel-dates are zero in `pixels`
    psi, weights = marginal.variability(pixels[chosen].reshape(-1, pixels.shape[-1]))
    weights = weights * torch.from_numpy(valid[chosen]).reshape(-1, 1)
    psi = (psi - common_part(psi, weights) * weights).reshape(*valid[chosen].shape, -1)
    pairs = torch.from_numpy(both[chosen])
    now, before = psi[:, 1:][pairs].flatten(), psi[:, :-1][pairs].flatten()
    return float((now * before).sum() / (now.square().sum() * before.square().sum()).sqrt())


def _starts(
    cubes: xr.DataArray, num_endmembers: int, endmembers: ArrayLike | None, seed: int
) -> Iterator[tuple[str, str, xr.DataArray]]:
    """Label, whence they are in words, endmembers."""
    if endmembers is not None:
        matrix = as_endmembers(endmembers, cubes.sizes["wavelength"])
        if matrix.shape[1] != num_endmembers:
            raise ValueError(
                f"num_endmembers is {num_endmembers}, but {matrix.shape[1]} endmembers were given: "
                "make them agree"
            )
        names = getattr(endmembers, "coords", {}).get("endmember", np.arange(num_endmembers))
        spectra = xr.DataArray(
            matrix, dims=("wavelength", "endmember"), coords={"endmember": np.asarray(names)}
        )
        yield "given endmembers", "those that were given", spectra
        return
    for w in windows_of(cubes):
        found = extract_endmembers.unchecked(cubes, num_endmembers, window=w, seed=seed)
        whence = "single pixels" if w == 1 else f"neighbourhoods of {w} x {w} pixels"
        yield f"window {w}", f"taken from {whence}, {_BEST}", found


def windows_of(cubes: xr.DataArray) -> list[int]:
    """Those of `WINDOWS` that fit into the images."""
    shortest = min(cubes.sizes["y"], cubes.sizes["x"])
    return [w for w in WINDOWS if w == 1 or w <= shortest]


def _bases(
    cubes: xr.DataArray,
    endmembers: xr.DataArray,
    basis: Basis | None,
    library: xr.DataArray | None = None,
) -> list[tuple[str, Basis, str]]:
    """Label, basis, how the materials vary in words."""
    if basis is not None:
        name = type(basis).__name__
        return [(name, basis, f"as in the {name} that was given")]
    bands = cubes.sizes["wavelength"]
    size = min(6, bands)
    smooth = 0.1 * np.sqrt(bands)  # psi = 1 changes reflectance by some 10 %
    scales = [2 * smooth, *[smooth] * (size - 1)]
    smoothly = f"the materials vary smoothly over wavelength ({size} cosines)"
    candidates: list[tuple[str, Basis, str]] = [
        ("hardly any", Brightness(0.02), "the materials hardly vary"),
        ("brightness", Brightness(), "the materials vary in brightness"),
        (f"DCT {size}", DCT(size, scale=scales), smoothly),
    ]
    ways = "the materials vary in {} ways, which {}"
    # A covariance of few spectra says nothing about the next ones.
    most = min(bands, int(np.isfinite(cubes.values).all(-1).sum()) // (8 * endmembers.shape[1]))
    ranks = [rank for rank in RANKS if rank <= most]
    if ranks:
        largest = learn_basis.unchecked(cubes, endmembers, ranks[-1]).array.numpy()
        for rank in ranks:
            learned = LearnedBasis(largest[:, :rank])
            words = ways.format(rank, "pure neighbourhoods show")
            candidates.append((f"learned {rank}", learned, words))
    if library is not None:
        spread = int(np.unique(library["label"], return_counts=True)[1].max()) - 1
        if spread:
            rank = min(size, spread)
            words = ways.format(rank, "the library shows")
            candidates.append((f"library {rank}", library_basis(library, rank), words))
    return candidates


def _random_spectra(cubes: xr.DataArray, count: int, seed: int) -> np.ndarray:
    pixels, valid = to_pixels(cubes)
    spectra = pixels[valid]
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(spectra))[:count]
    return spectra[chosen].astype(np.float64)
