"""The mixing model with its variability integrated out, ``psi ~ N(0, I)``."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from pyro_unmix.bases.linear import Basis
from pyro_unmix.data.checks import as_endmembers
from pyro_unmix.mixing import design_matrix
from pyro_unmix.ops.simplex import tile_components
from pyro_unmix.ops.solvers import MarginalMixing
from pyro_unmix.ops.threads import one_thread

_LEAST_NOISE = 1e-3  # of the signal


class UnitMarginal:
    """Spectra of given endmembers, basis and noise, with ``psi ~ N(0, I)``.

    Parameters
    ----------
    endmembers : array (L, P)
    basis : Basis
    noise_scale : float
    """

    def __init__(self, endmembers: ArrayLike, basis: Basis, noise_scale: float) -> None:
        matrix = torch.from_numpy(np.ascontiguousarray(as_endmembers(endmembers)))
        self.design = design_matrix(matrix, basis.components(matrix).detach())
        self.num_components, self.num_endmembers = basis.num_components, matrix.shape[1]
        zeros = matrix.new_zeros(self.num_components * self.num_endmembers)
        self.mixing = MarginalMixing(
            self.design.mT @ self.design,
            matrix.new_tensor(noise_scale),
            zeros,
            torch.ones_like(zeros),
            self.num_endmembers,
        )

    def abundances(self, spectra: np.ndarray) -> np.ndarray:
        """Marginal generalised least squares, in chunks; (N, P)."""
        parts = [
            self.mixing.solve(_doubles(chunk) @ self.design, num_rounds=2).numpy()
            for chunk in np.array_split(spectra, max(1, len(spectra) // 10_000))
        ]
        return np.concatenate(parts)

    def variability(self, spectra: np.ndarray) -> tuple[Tensor, Tensor]:
        """Means of psi (N, K P) at these abundances, and the abundances (N, K P) through which it is seen."""
        projected = _doubles(spectra) @ self.design
        if not len(projected):
            return (projected[:, : self.num_components * self.num_endmembers],) * 2
        abundances = self.mixing.solve(projected)
        psi = self.mixing.variability_mean(projected, abundances)
        return psi, tile_components(abundances, self.num_components)


def common_part(psi: Tensor, weights: Tensor) -> Tensor:
    """What psi (N, K P) has in common over the pixels, (K P,): its slope on the abundances."""
    return (psi * weights).sum(0) / weights.square().sum(0).clamp(min=1e-12)


def _doubles(spectra: np.ndarray) -> Tensor:
    return torch.from_numpy(spectra.astype(np.float64))


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

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> scene = pu.simulate.scaled_scene(num_dates=2, height=10, width=10, seed=0)
    >>> spectra = scene.cubes.values.reshape(-1, scene.cubes.sizes['wavelength'])
    >>> score, noise = pu.start.marginal_score(spectra, scene.reference_endmembers, pu.Brightness(), 0.01)
    >>> score > 0, 0 < noise < 0.1
    (True, True)
    """
    matrix, y = as_endmembers(endmembers), _doubles(np.asarray(spectra))
    energy, bands = y.square().sum(-1), spectra.shape[1]

    def score(scale: float) -> float:
        marginal = UnitMarginal(matrix, basis, scale)
        projected = y @ marginal.design
        fits = marginal.mixing.log_likelihood(
            energy, projected, marginal.mixing.solve(projected), bands
        )
        return float(fits.median() / bands)

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
