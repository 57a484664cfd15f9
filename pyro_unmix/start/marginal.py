"""The mixing model with its variability integrated out, ``psi ~ N(0, I)``."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike

from pyro_unmix.bases.linear import Basis
from pyro_unmix.data.checks import as_endmembers
from pyro_unmix.mixing import design_matrix
from pyro_unmix.ops.solvers import MarginalMixing
from pyro_unmix.ops.threads import one_thread

_LEAST_NOISE = 1e-3  # of the signal


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
        mixing, design = unit_marginal(matrix, basis, scale)
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


def marginal_abundances(
    spectra: np.ndarray, matrix: np.ndarray, basis: Basis, noise_scale: float
) -> np.ndarray:
    """Marginal generalised least squares, ``psi ~ N(0, I)``, in chunks; (N, P)."""
    mixing, design = unit_marginal(torch.from_numpy(matrix), basis, noise_scale)
    parts = [
        mixing.solve(torch.from_numpy(chunk.astype(np.float64)) @ design, num_rounds=2).numpy()
        for chunk in np.array_split(spectra, max(1, len(spectra) // 10_000))
    ]
    return np.concatenate(parts)


def unit_marginal(
    matrix: torch.Tensor, basis: Basis, noise_scale: float
) -> tuple[MarginalMixing, torch.Tensor]:
    design = design_matrix(matrix, basis.components(matrix).detach())
    size = design.shape[1] - matrix.shape[1]
    zeros, ones = matrix.new_zeros(size), matrix.new_ones(size)
    noise = matrix.new_tensor(noise_scale)
    return MarginalMixing(design.mT @ design, noise, zeros, ones, matrix.shape[1]), design
