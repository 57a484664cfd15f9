"""Moves of the reference endmembers under their truncated prior, without rejection."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_unmix.kernels.state import Spectra, State
from pyro_unmix.ops.factors import cholesky, solved
from pyro_unmix.priors.bounded import elliptical_step


class EllipticalEndmembers:
    """One material's spectrum after the other given everything but r: a normal within bounds, by `elliptical_step`.

    Given the other columns, ``m_p`` has the precision ``n C^-1 + K^-1`` with ``n = sum_n c_np^2``, c the lit abundances
    (1 + v b) a. In the eigenvectors of K, which never change, this is a diagonal less a matrix of rank Q, and so mean
    and draw take O(L^2). One material at a time, so that a dark one, near the bound in many bands, holds only itself
    back.

    Examples
    --------
    >>> import torch, pyro_unmix as pu
    >>> from pyro_unmix.infer.programs import program_of
    >>> M = torch.tensor([[.1, .5], [.2, .4], [.3, .3], [.4, .2]], dtype=torch.double)
    >>> values = torch.tensor([[.3, .7], [.9, .1], [.5, .5]], dtype=torch.double) @ M.T
    >>> spectra = pu.kernels.Spectra(pu.models.SimplexMixing(M), values, torch.Generator().manual_seed(0))
    >>> state = program_of(spectra.model).start(spectra.model, values)
    >>> new = pu.kernels.EllipticalEndmembers()(state, spectra)
    >>> new.endmembers.shape
    torch.Size([4, 2])
    """

    def __repr__(self) -> str:
        return "EllipticalEndmembers()"

    def __call__(self, state: State, spectra: Spectra) -> State:
        if spectra.model.kept:
            return state
        prior = spectra.model.reference
        weights = state.lit
        rest = spectra.values - state.spread @ spectra.model.components.mT
        squares, pull = weights.mT @ weights, rest.mT @ weights
        columns = list(state.endmembers.unbind(-1))
        for p in range(len(columns)):
            others = torch.stack(columns, dim=-1) @ squares[:, p] - columns[p] * squares[p, p]
            loc, away = self.normal(p, pull[:, p] - others, squares[p, p], state, spectra)
            uniform = spectra.uniform(1).squeeze(0)
            columns[p] = elliptical_step(columns[p], loc, away, 0.0, prior.high, uniform)
        return state.having(endmembers=torch.stack(columns, dim=-1), residual=None)

    @staticmethod
    def normal(
        p: int, pull: Tensor, weight: Tensor, state: State, spectra: Spectra
    ) -> tuple[Tensor, Tensor]:
        """Mean (L,) of column p without its bounds, and a draw of what it is away from it.

        Parameters
        ----------
        p : int
        pull : Tensor, shape (L,)
            ``sum_n c_np (y_n - what others explain)``.
        weight : Tensor, scalar
            ``sum_n c_np^2``.
        """
        prior, variance = spectra.model.reference, state.noise_variance
        weight = weight.clamp(min=1e-12)  # of a material that is nowhere
        factor = prior.vectors.mT @ state.residual_factor
        inner = factor.mT @ factor
        inner.diagonal().add_(variance)  # U'U + sigma^2 I
        # C^-1 = (I - U inner^-1 U') / sigma^2
        turned = prior.vectors.mT @ pull
        turned = turned - factor @ solved(inner, factor.mT @ turned)
        turned = turned / variance + (prior.vectors.mT @ prior.centre[:, p]) / prior.variances
        # (D - w U inner^-1 U' / sigma^2)^-1 = D^-1 + D^-1 U (sigma^2 inner / w - U' D^-1 U)^-1 U' D^-1
        diagonal = weight / variance + 1 / prior.variances
        scaled = factor / diagonal.unsqueeze(-1)
        middle = inner * (variance / weight) - factor.mT @ scaled
        root = cholesky((middle + middle.mT) / 2)
        loc = turned / diagonal + scaled @ torch.cholesky_solve(
            (scaled.mT @ turned).unsqueeze(-1), root
        ).squeeze(-1)
        common = torch.linalg.solve_triangular(
            root.mT, spectra.normal(len(root), 1), upper=True
        ).squeeze(-1)
        away = spectra.normal(len(diagonal)) / diagonal.sqrt() + scaled @ common
        return prior.vectors @ loc, prior.vectors @ away
