"""Moves of the concentration of the abundances."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_unmix.kernels.state import Spectra, State


class ConcentrationMoves:
    """Random-walk Metropolis steps of ``log alpha`` given the abundances, reflected at the prior's bounds.

    The density of ``x = log alpha``, with N spectra and ``T = sum_np log a_np``, is
    ``N (lgamma(P alpha) - P lgamma(alpha)) + alpha T``; the prior is flat in it.

    Parameters
    ----------
    num_steps : int
        In a row; each costs nothing that grows with N.

    Examples
    --------
    >>> import torch, pyro_unmix as pu
    >>> from pyro_unmix.infer.programs import program_of
    >>> M = torch.tensor([[.1, .5], [.2, .4], [.3, .3], [.4, .2]], dtype=torch.double)
    >>> values = torch.tensor([[.3, .7], [.9, .1], [.5, .5]], dtype=torch.double) @ M.T
    >>> spectra = pu.kernels.Spectra(pu.models.SimplexMixing(M), values, torch.Generator().manual_seed(0))
    >>> state = program_of(spectra.model).start(spectra.model, values)
    >>> new = pu.kernels.ConcentrationMoves()(state, spectra)
    >>> bool(new.concentration > 0)
    True
    """

    def __init__(self, num_steps: int = 5) -> None:
        self.num_steps = num_steps

    def __repr__(self) -> str:
        return f"ConcentrationMoves(num_steps={self.num_steps})"

    def __call__(self, state: State, spectra: Spectra) -> State:
        count, num_endmembers = state.abundances.shape
        total = state.abundances.log().sum()
        low, high = spectra.model.concentration_bounds.log().unbind()
        # Near alpha = 1/4, a number tells log alpha with a precision of about one.
        length = 2.4 / (count * (num_endmembers - 1)) ** 0.5
        x = state.concentration.log()
        density = self.log_density(x, count, num_endmembers, total)
        for _ in range(self.num_steps):
            new = reflected(x + length * spectra.normal(1).squeeze(0), low, high)
            other = self.log_density(new, count, num_endmembers, total)
            accept = spectra.uniform(1).squeeze(0).log() < other - density
            x, density = torch.where(accept, new, x), torch.where(accept, other, density)
        return state.having(concentration=x.exp())

    @staticmethod
    def log_density(x: Tensor, count: int, num_endmembers: int, total: Tensor) -> Tensor:
        """Of ``x = log alpha``, up to a constant."""
        alpha = x.exp()
        normaliser = torch.lgamma(num_endmembers * alpha) - num_endmembers * torch.lgamma(alpha)
        return count * normaliser + (alpha - 1) * total


def reflected(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """x folded back into the bounds, so that a symmetric step stays symmetric."""
    width = high - low
    place = (x - low).remainder(2 * width)
    return low + torch.minimum(place, 2 * width - place)
