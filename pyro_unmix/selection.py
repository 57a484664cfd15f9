"""Choose averaging window, spectral basis and rank from the data, by the marginal likelihood."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike

from pyro_unmix._check import as_endmembers, positive_int
from pyro_unmix._threads import one_thread
from pyro_unmix.cubes import as_cube_sequence, check_bands, tiles, to_pixels
from pyro_unmix.endmembers import extract_endmembers
from pyro_unmix.libraries import at_bands_of, is_library, library_basis
from pyro_unmix.mixing import DCT, Basis, Brightness, LearnedBasis, design_matrix, tile_components
from pyro_unmix.solvers import MarginalMixing, fcls

logger = logging.getLogger(__name__)

WINDOWS = (1, 3, 5)
RANKS = (4, 6, 8)
_MAX_PURE = 400
_MIN_PURE = 10
_LEAST_NOISE = 1e-3  # of the signal


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
    """

    endmembers: xr.DataArray
    basis: Basis
    noise_scale: float
    log_likelihoods: dict[str, float]


@one_thread()
def choose_start(
    cubes: Any,
    num_endmembers: int,
    *,
    endmembers: ArrayLike | None = None,
    basis: Basis | None = None,
    seed: int = 0,
    num_spectra: int = 2000,
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
        Anything that `as_cube_sequence` takes.
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
    """
    sequence = as_cube_sequence(cubes)
    positive_int(num_endmembers, "num_endmembers", minimum=2)
    noise_scale = estimate_noise_scale(sequence)
    library = at_bands_of(endmembers, sequence) if is_library(endmembers) else None  # type: ignore[arg-type]
    if library is not None:
        endmembers = extract_endmembers(sequence, num_endmembers, library=library)
    elif "wavelength" in getattr(endmembers, "coords", {}):
        check_bands(endmembers["wavelength"], sequence)  # type: ignore[index, call-overload]
    if basis is not None and not isinstance(basis, Basis):
        raise TypeError(f"basis must be a Basis object such as DCT(6), got {basis!r}")
    subset = _random_spectra(sequence, num_spectra, seed)
    table: dict[str, float] = {}
    best: tuple[tuple[float, float], xr.DataArray, Basis] | None = None
    for label, matrix in _starts(sequence, num_endmembers, endmembers, seed):
        for name, candidate in _bases(sequence, matrix, basis, library):
            scored = marginal_score(subset, matrix, candidate, noise_scale)
            noise_scale = scored[1]  # the next candidate's is not far
            table[f"{label}, {name}"] = scored[0]
            if best is None or scored[0] > best[0][0]:
                best = (scored, matrix, candidate)
    if best is None:
        raise ValueError("no averaging window fits into the image: pass endmembers=...")
    (score, scale), matrix, chosen = best
    if endmembers is None:
        refined = refine_endmembers(sequence, matrix, chosen, scale)
        again = _relearn(sequence, refined, chosen)
        table["refined"], refined_scale = marginal_score(subset, refined, again, scale)
        if table["refined"] > score:
            matrix, chosen, scale = refined, again, refined_scale
    logger.info("chosen by marginal log-likelihood per band: %s", max(table, key=table.__getitem__))
    return Start(matrix, chosen, scale, table)


def _relearn(cubes: xr.DataArray, endmembers: xr.DataArray, basis: Basis) -> Basis:
    """The same kind of basis for other endmembers."""
    if not isinstance(basis, LearnedBasis):
        return basis
    return learn_basis(cubes, endmembers, basis.num_components)


@one_thread()
def refine_endmembers(
    cubes: Any,
    endmembers: xr.DataArray,
    basis: Basis,
    noise_scale: float,
    *,
    num_average: int = 200,
) -> xr.DataArray:
    """Mean spectrum of pixels in pure neighbourhoods: unbiased where variability differs between pixels.

    Pixels chosen for their own extreme spectra have extreme variability and noise, so that their mean lies outside the
    true one. Here a pixel is chosen by the marginal-GLS abundances of its *neighbours*, while its own is only asked to
    exceed one half (a jump may separate it from them), and the plain mean of the chosen spectra is taken.

    Parameters
    ----------
    cubes
        Anything that `as_cube_sequence` takes.
    endmembers : DataArray (wavelength, endmember)
        A first estimate.
    basis : Basis
    noise_scale : float
    num_average : int
        Pixel-dates averaged per material, at most, and at most a twentieth of its share.

    Returns
    -------
    DataArray (wavelength, endmember)
    """
    sequence = as_cube_sequence(cubes)
    matrix = as_endmembers(endmembers, sequence.sizes["wavelength"])
    spectra = sequence.values
    valid = np.isfinite(spectra).all(-1)
    abundances = np.zeros((*valid.shape, matrix.shape[1]))
    abundances[valid] = _marginal_abundances(spectra[valid], matrix, basis, noise_scale)
    purity = _neighbour_mean(abundances, valid, tiles(sequence)) * (abundances > 0.5)
    count = max(1, min(num_average, int(valid.sum()) // (20 * matrix.shape[1])))
    refined = endmembers.copy(data=matrix.copy())
    for p in range(matrix.shape[1]):
        flat = purity[..., p].ravel()
        chosen = np.argsort(-flat, kind="stable")[:count]
        chosen = chosen[flat[chosen] > 0]
        if len(chosen):
            refined[:, p] = spectra.reshape(-1, len(matrix))[chosen].mean(0, dtype=np.float64)
    return refined


def _marginal_abundances(
    spectra: np.ndarray, matrix: np.ndarray, basis: Basis, noise_scale: float
) -> np.ndarray:
    """Marginal generalised least squares, ``psi ~ N(0, I)``, in chunks; (N, P)."""
    mixing, design = _unit_marginal(torch.from_numpy(matrix), basis, noise_scale)
    parts = [
        mixing.solve(torch.from_numpy(chunk.astype(np.float64)) @ design, num_rounds=2).numpy()
        for chunk in np.array_split(spectra, max(1, len(spectra) // 10_000))
    ]
    return np.concatenate(parts)


def _unit_marginal(
    matrix: torch.Tensor, basis: Basis, noise_scale: float
) -> tuple[MarginalMixing, torch.Tensor]:
    design = design_matrix(matrix, basis.components(matrix).detach())
    size = design.shape[1] - matrix.shape[1]
    zeros, ones = matrix.new_zeros(size), matrix.new_ones(size)
    noise = matrix.new_tensor(noise_scale)
    return MarginalMixing(design.mT @ design, noise, zeros, ones, matrix.shape[1]), design


@one_thread()
def temporal_correlation(cubes: Any, start: Start) -> float:
    """Correlation of the variability between neighbouring dates, as seen through its posterior means.

    Psi is estimated date by date at the marginal-GLS abundances under ``N(0, I)``; shrinkage makes the value smaller
    than the true correlation, and independent variability gives about zero. What is the same in all pixels is taken
    out first (its regression on the abundances, through which it is seen): an error of the endmembers lasts, too.
    """
    sequence = as_cube_sequence(cubes)
    if sequence.sizes["time"] < 2:
        return 0.0
    pixels, valid = to_pixels(sequence)
    both = valid.all(1)
    if not both.any():
        return 0.0
    matrix = as_endmembers(start.endmembers)
    mixing, design = _unit_marginal(torch.from_numpy(matrix), start.basis, start.noise_scale)
    rng = np.random.default_rng(0)
    chosen = rng.permutation(np.flatnonzero(both))[:500]
    projected = torch.from_numpy(pixels[chosen].astype(np.float64)) @ design
    flat = projected.reshape(-1, projected.shape[-1])
    abundances = mixing.solve(flat)
    psi = mixing.variability_mean(flat, abundances)
    seen = tile_components(abundances, start.basis.num_components)
    common = (psi * seen).sum(0) / seen.square().sum(0).clamp(min=1e-12)
    psi = (psi - common * seen).reshape(*projected.shape[:2], -1)
    now, before = psi[:, 1:].flatten(), psi[:, :-1].flatten()
    return float((now * before).sum() / (now.square().sum() * before.square().sum()).sqrt())


@one_thread()
def learn_basis(cubes: Any, endmembers: ArrayLike, num_components: int = 6) -> LearnedBasis:
    """Spectral components of each material's variability, from the image itself.

    For each material, pixels are chosen whose *neighbours* are nearly pure (a pixel's own abundance would select on
    its noise and variability), the other materials' share is subtracted, the rest divided by the abundance; the
    leading eigenvectors of the covariance, scaled by the square root of their eigenvalue above the noise, are the
    components. Where no eigenvalue exceeds the noise the component is zero: no variability; so it is for a material
    with fewer than ten neighbourhoods in which it is the larger part.

    Parameters
    ----------
    cubes
        Anything that `as_cube_sequence` takes.
    endmembers : array (L, P)
    num_components : int
        K.

    Returns
    -------
    LearnedBasis
        With ``psi ~ N(0, I)``.
    """
    sequence = as_cube_sequence(cubes)
    matrix = as_endmembers(endmembers, sequence.sizes["wavelength"])
    spectra = sequence.values
    abundances = fcls(
        torch.from_numpy(np.nan_to_num(spectra).astype(np.float64)), torch.from_numpy(matrix)
    ).numpy()
    valid = np.isfinite(spectra).all(-1)
    purity = _neighbour_mean(abundances, valid, tiles(sequence))
    size = min(positive_int(num_components, "num_components"), len(matrix))
    parts = []
    for p in range(matrix.shape[1]):
        chosen = _purest(purity[..., p])
        if len(chosen) < _MIN_PURE:
            parts.append(np.zeros((len(matrix), size)))
            continue
        share = purity.reshape(-1, matrix.shape[1])[chosen]
        rest = share.copy()
        rest[:, p] = 0
        pure = spectra.reshape(-1, len(matrix))[chosen].astype(np.float64)
        pure = (pure - rest @ matrix.T) / share[:, [p]]
        parts.append(_leading_components(pure, size))
    return LearnedBasis(np.stack(parts, axis=-1))


def estimate_noise_scale(cubes: Any) -> float:
    """Std of white noise: what the other bands do not explain of a band, median over bands.

    The residual variance of regressing band l on the others is ``1 / (R^-1)_ll`` for the second-moment matrix R,
    corrected for the degrees of freedom. With fewer than two spectra per band that cannot be told, and an SNR of 40 dB
    is returned; more than 80 dB is never believed.

    References
    ----------
    Roger, Arnold, "Reliably estimating the noise in AVIRIS hyperspectral images", Int. J. Remote Sensing 17(10), 1996.
    """
    sequence = as_cube_sequence(cubes)
    spectra = sequence.values.reshape(-1, sequence.sizes["wavelength"]).astype(np.float64)
    spectra = spectra[np.isfinite(spectra).all(1)]
    count, bands = spectra.shape
    power = float(np.mean(spectra**2))
    if count < 2 * bands or bands == 1:
        return float(np.sqrt(1e-4 * power))
    moment = spectra.T @ spectra / count
    moment = moment + 1e-12 * power * np.eye(bands)
    residual = 1 / np.diagonal(np.linalg.inv(moment))
    variance = np.median(residual) * count / (count - bands + 1)
    return float(np.sqrt(max(variance, 1e-8 * power)))


@one_thread()
def marginal_score(
    spectra: np.ndarray, endmembers: ArrayLike, basis: Basis, noise_scale: float
) -> tuple[float, float]:
    """Median marginal log-likelihood per band, ``psi ~ N(0, I)`` integrated out, at the best noise scale.

    From the given noise scale on, it is changed by factors of ``2^(1/2)`` while that helps: on real images it must also
    cover what the mixing model does not explain. It stays above a thousandth of the signal (60 dB), below which its
    square is lost in single precision.

    Parameters
    ----------
    spectra : array (N, L)
    endmembers : array (L, P)
    basis : Basis
    noise_scale : float
        Where the search starts.

    Returns
    -------
    tuple of float
        Log-likelihood per band, and the noise scale.
    """
    matrix = torch.from_numpy(np.ascontiguousarray(as_endmembers(endmembers)))
    y = torch.from_numpy(np.asarray(spectra, dtype=np.float64))
    energy, bands = y.square().sum(-1), spectra.shape[1]

    def score(scale: float) -> float:
        mixing, design = _unit_marginal(matrix, basis, scale)
        projected = y @ design
        abundances = mixing.solve(projected)
        return float(mixing.log_likelihood(energy, projected, abundances, bands).median() / bands)

    smallest = _LEAST_NOISE * float(y.square().mean().sqrt())
    noise_scale = max(noise_scale, smallest)
    best, start = score(noise_scale), noise_scale
    for factor in (2.0**0.5, 0.5**0.5):
        while smallest <= noise_scale * factor < 1:
            other = score(noise_scale * factor)
            if other <= best:
                break
            best, noise_scale = other, noise_scale * factor
        if noise_scale != start:
            break
    return best, noise_scale


def _starts(
    cubes: xr.DataArray, num_endmembers: int, endmembers: ArrayLike | None, seed: int
) -> list[tuple[str, xr.DataArray]]:
    if endmembers is not None:
        matrix = as_endmembers(endmembers, cubes.sizes["wavelength"])
        if matrix.shape[1] != num_endmembers:
            raise ValueError(
                f"num_endmembers is {num_endmembers}, but {matrix.shape[1]} endmembers were given: "
                "make them agree"
            )
        names = getattr(endmembers, "coords", {}).get("endmember", np.arange(num_endmembers))
        given = xr.DataArray(
            matrix, dims=("wavelength", "endmember"), coords={"endmember": np.asarray(names)}
        )
        return [("given endmembers", given)]
    shortest = min(cubes.sizes["y"], cubes.sizes["x"])
    windows = [w for w in WINDOWS if w == 1 or w <= shortest]
    return [
        (f"window {w}", extract_endmembers(cubes, num_endmembers, window=w, seed=seed))
        for w in windows
    ]


def _bases(
    cubes: xr.DataArray,
    endmembers: xr.DataArray,
    basis: Basis | None,
    library: xr.DataArray | None = None,
) -> list[tuple[str, Basis]]:
    if basis is not None:
        return [(type(basis).__name__, basis)]
    bands = cubes.sizes["wavelength"]
    size = min(6, bands)
    smooth = 0.1 * np.sqrt(bands)  # psi = 1 changes reflectance by some 10 %
    scales = [2 * smooth, *[smooth] * (size - 1)]
    candidates: list[tuple[str, Basis]] = [
        ("hardly any", Brightness(0.02)),
        ("brightness", Brightness()),
        (f"DCT {size}", DCT(size, scale=scales)),
    ]
    # A covariance of few spectra says nothing about the next ones.
    most = min(bands, int(np.isfinite(cubes.values).all(-1).sum()) // (8 * endmembers.shape[1]))
    ranks = [rank for rank in RANKS if rank <= most]
    if ranks:
        largest = learn_basis(cubes, endmembers, ranks[-1]).array.numpy()
        candidates += [(f"learned {rank}", LearnedBasis(largest[:, :rank])) for rank in ranks]
    if library is not None:
        spread = int(np.unique(library["label"], return_counts=True)[1].max()) - 1
        if spread:
            rank = min(size, spread)
            candidates.append((f"library {rank}", library_basis(library, rank)))
    return candidates


def _random_spectra(cubes: xr.DataArray, count: int, seed: int) -> np.ndarray:
    pixels, valid = to_pixels(cubes)
    spectra = pixels[valid]
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(spectra))[:count]
    return spectra[chosen].astype(np.float64)


def _neighbour_mean(abundances: np.ndarray, valid: np.ndarray, rows: Sequence[slice]) -> np.ndarray:
    """Mean over the valid pixels among the eight neighbours; 0 where there are fewer than three."""
    total = np.zeros_like(abundances)
    count = np.zeros(valid.shape)
    weighted = np.where(valid[..., None], abundances, 0.0)
    for tile in rows:
        values, present = weighted[:, tile], valid[:, tile].astype(float)
        height, width = present.shape[1:]
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                if dy == dx == 0:
                    continue
                into = (
                    slice(None),
                    slice(max(0, -dy), height - max(0, dy)),
                    slice(max(0, -dx), width - max(0, dx)),
                )
                source = (
                    slice(None),
                    slice(max(0, dy), height - max(0, -dy)),
                    slice(max(0, dx), width - max(0, -dx)),
                )
                total[:, tile][into] += values[source]
                count[:, tile][into] += present[source]
    # Images too small to have neighbours fall back on the pixels themselves.
    alone = (count < 3)[..., None]
    mean = np.where(alone, 0.0, total / np.maximum(count, 1)[..., None])
    if not (count >= 3).any():
        mean = weighted
    return np.where(valid[..., None], mean, 0.0)


def _purest(purity: np.ndarray) -> np.ndarray:
    """Flat indices of up to 400 pixels of purity above 0.9, or of the 50 purest above one half."""
    flat = purity.ravel()
    order = np.argsort(-flat, kind="stable")[:_MAX_PURE]
    return order[: max(int((flat[order] > 0.9).sum()), min(50, int((flat[order] > 0.5).sum())))]


def _leading_components(spectra: np.ndarray, size: int) -> np.ndarray:
    """Leading eigenvectors of the covariance times the std above the noise, (L, size)."""
    values, vectors = np.linalg.eigh(np.cov(spectra, rowvar=False))
    values, vectors = values[::-1], vectors[:, ::-1]
    rest = values[size : max(size + 1, min(len(spectra), len(values)) - 5)]
    noise = np.median(rest) if len(rest) else 0.0
    return vectors[:, :size] * np.sqrt(np.maximum(values[:size] - noise, 0.0))
