"""What pixels in pure neighbourhoods tell: endmembers and the basis of their variability."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike

from pyro_unmix.bases.linear import Basis, LearnedBasis
from pyro_unmix.data.checks import as_endmembers
from pyro_unmix.data.cubes import tiles
from pyro_unmix.io.opening import takes_images
from pyro_unmix.ops.checks import positive_int
from pyro_unmix.ops.solvers import fcls
from pyro_unmix.ops.threads import one_thread
from pyro_unmix.start.marginal import UnitMarginal

_MAX_PURE = 400
_MIN_PURE = 10


@takes_images
@one_thread()
def refine_endmembers(
    cubes: xr.DataArray,
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
        Anything that `as_cube_sequence` takes, or files.
    endmembers : DataArray (wavelength, endmember)
        A first estimate.
    basis : Basis
    noise_scale : float
    num_average : int
        Pixel-dates averaged per material, at most, and at most a twentieth of its share.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> scene = pu.simulate.scaled_scene(num_dates=2, height=10, width=10, seed=0)
    >>> refined = pu.start.refine_endmembers(scene.cubes, scene.reference_endmembers, pu.Brightness(), 0.01)
    >>> refined.shape == scene.reference_endmembers.shape
    True
    """
    matrix = as_endmembers(endmembers, cubes.sizes["wavelength"])
    spectra = cubes.values
    valid = np.isfinite(spectra).all(-1)
    abundances = np.zeros((*valid.shape, matrix.shape[1]))
    abundances[valid] = UnitMarginal(matrix, basis, noise_scale).abundances(spectra[valid])
    purity = neighbour_mean(abundances, valid, tiles(cubes)) * (abundances > 0.5)
    count = max(1, min(num_average, int(valid.sum()) // (20 * matrix.shape[1])))
    refined = endmembers.copy(data=matrix.copy())
    for p in range(matrix.shape[1]):
        flat = purity[..., p].ravel()
        chosen = np.argsort(-flat, kind="stable")[:count]
        chosen = chosen[flat[chosen] > 0]
        if len(chosen):
            refined[:, p] = spectra.reshape(-1, len(matrix))[chosen].mean(0, dtype=np.float64)
    return refined


@takes_images
@one_thread()
def learn_basis(
    cubes: xr.DataArray, endmembers: ArrayLike, num_components: int = 6
) -> LearnedBasis:
    """Spectral components of each material's variability, from the image itself.

    For each material, pixels are chosen whose *neighbours* are nearly pure (a pixel's own abundance would select on
    its noise and variability), the other materials' share is subtracted, the rest divided by the abundance; the
    leading eigenvectors of the covariance, scaled by the square root of their eigenvalue above the noise, are the
    components. Where no eigenvalue exceeds the noise the component is zero: no variability; so it is for a material
    with fewer than ten neighbourhoods in which it is the larger part.

    Parameters
    ----------
    cubes
        Anything that `as_cube_sequence` takes, or files.
    endmembers : array (L, P)
    num_components : int
        K.

    Returns
    -------
    LearnedBasis
        With ``psi ~ N(0, I)``.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> scene = pu.simulate.scaled_scene(num_dates=2, height=10, width=10, seed=0)
    >>> pu.start.learn_basis(scene.cubes, scene.reference_endmembers, 4).num_components
    4
    """
    matrix = as_endmembers(endmembers, cubes.sizes["wavelength"])
    spectra = cubes.values
    abundances = fcls(
        torch.from_numpy(np.nan_to_num(spectra).astype(np.float64)), torch.from_numpy(matrix)
    ).numpy()
    valid = np.isfinite(spectra).all(-1)
    purity = neighbour_mean(abundances, valid, tiles(cubes))
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


def neighbour_mean(abundances: np.ndarray, valid: np.ndarray, rows: Sequence[slice]) -> np.ndarray:
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
