"""Markov-chain sweeps over abundances alone, the variability integrated out once: fast, and nearly the posterior.

The covariance of spectra is held fixed at a guide's mean abundances, over all dates at once, so that the likelihood is
a quadratic in the abundances. Given it, blocks of softmax states move as in `sweeps`, the prior as it is: the corners
of the simplex, jumps and what dates have in common are right, and no psi holds a chain back.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pyro_unmix.kernels.block_moves import BlockMoves
from pyro_unmix.kernels.observations import Observations
from pyro_unmix.models.sglmm import SGLMM
from pyro_unmix.ops.simplex import tile_components


class Quadratic:
    """``log p(y | a)`` of all dates with psi integrated out, its covariance that of given abundances.

    With M_t = M0 + W diag(E psi_t), V_t = W diag(e_t) and the precision Lambda of the chain of psi, block-tridiagonal::

        C C' = sigma^2 Lambda + blockdiag(V_t' V_t),    X = C^-1 blockdiag(V_t' M_t),    x = C^-1 (V_t' y_t)
        log p = -(|y - M a|^2 - |x - X a|^2) / (2 sigma^2) + constant = h'a - a'Ga / 2 + constant

    Parameters
    ----------
    observations : Observations
        Of B pixels.
    abundances : Tensor, shape (B, T, P)
    independent : bool
        Whether psi is independent between dates. G (B, T, P, P) and h (B, T, P, 1) are then dates by themselves, else
        (B, 1, T P, T P) and (B, 1, T P, 1).
    """

    def __init__(self, observations: Observations, abundances: Tensor, independent: bool) -> None:
        batch, num_dates, p = abundances.shape
        weight = observations.valid[..., None, None]
        e = tile_components(abundances, observations.num_components).unsqueeze(-1) * weight
        loc, covariance = observations.chain.later().joint()
        lasting = observations.variance * torch.linalg.inv(covariance.permute(2, 0, 1)).permute(
            1, 2, 0
        )
        moved = torch.eye(p).to(e) * loc.unflatten(
            -1, (-1, p, 1)
        )  # (T, K, P, P): W @ moved = M - M0
        moved = moved.flatten(1, 2)
        cross = observations.cross.mT + observations.components @ moved  # W'M (T, K P, P)
        direct = (
            observations.projected[..., :p, None] + moved.mT @ observations.projected[..., p:, None]
        )
        half = observations.cross @ moved
        materials = (
            observations.materials + half + half.mT + moved.mT @ (observations.components @ moved)
        )
        self.loc, self.independent = loc, independent
        groups = num_dates if independent else 1
        columns = num_dates // groups * p
        gram = abundances.new_zeros(batch, groups, columns, columns)
        pull = abundances.new_zeros(batch, groups, columns, 1)
        self.factors: list[Tensor] = []
        self.couplings: list[Tensor] = []  # B_t of the rows of C, [.. B_t C_t ..]
        self.sides: list[Tensor] = []
        for t in range(num_dates):
            group, place = (t, slice(0, p)) if independent else (0, slice(t * p, (t + 1) * p))
            inner = e[:, t] * observations.components * e[:, t].mT
            inner.diagonal(dim1=-2, dim2=-1).add_(lasting[t, t])
            side = abundances.new_zeros(batch, inner.shape[-1], columns + 1)
            side[..., place] = e[:, t] * cross[t]
            side[..., -1:] = e[:, t] * observations.projected[:, t, p:, None]
            if t and not independent:
                last = torch.diag(lasting[t, t - 1]).expand_as(inner)
                coupling = torch.linalg.solve_triangular(self.factors[-1], last, upper=False).mT
                inner = inner - coupling @ coupling.mT
                side = side - coupling @ self.sides[-1]
                self.couplings.append(coupling)
            self.factors.append(torch.linalg.cholesky(inner))
            self.sides.append(torch.linalg.solve_triangular(self.factors[-1], side, upper=False))
            explained = self.sides[-1][..., :-1].mT @ self.sides[-1]
            gram[:, group] -= explained[..., :-1]
            pull[:, group] -= explained[..., -1:]
            gram[:, group, place, place] += materials[t] * weight[:, t]
            pull[:, group, place] += direct[:, t] * weight[:, t]
        # About the given abundances, where single precision is enough for differences of log-densities.
        self.centre = abundances.reshape(batch, groups, columns, 1)
        self.gram = gram / observations.variance
        self.slope = pull / observations.variance - self.gram @ self.centre

    def value(self, abundances: Tensor) -> Tensor:
        """``log p`` of (T, B, P, S) less that of the centre: (T, B, S), or (1, B, S) where dates belong together."""
        a = abundances.transpose(0, 1)
        if not self.independent:
            a = a.flatten(1, 2).unsqueeze(1)
        apart = a - self.centre.to(a)
        change = self.slope.to(a) - 0.5 * (self.gram.to(a) @ apart)
        return (change * apart).sum(-2).transpose(0, 1)

    def variability(self, abundances: Tensor) -> Tensor:
        """``E[psi | y, a]`` of abundances (B, T, P), the covariance as it is: (B, T, K P)."""
        num_dates = len(self.factors)
        a = abundances.unsqueeze(-1)
        deviations = [a.new_zeros(())] * num_dates
        for t in reversed(range(num_dates)):
            columns = a[:, t] if self.independent else a.flatten(1, 2)
            rest = self.sides[t][..., -1:] - self.sides[t][..., :-1] @ columns
            if self.couplings and t + 1 < num_dates:
                rest = rest - self.couplings[t].mT @ deviations[t + 1]
            deviations[t] = torch.linalg.solve_triangular(self.factors[t].mT, rest, upper=True)
        return torch.cat(deviations, dim=-1).mT + self.loc


class CollapsedSweeps(BlockMoves):
    """`BlockMoves` of a model, under the likelihood whose covariance is that of the mean of where they start.

    Parameters
    ----------
    model : SGLMM
    observations : Observations
    abundances : Tensor, shape (S, B, T, P)
        Where the chains start.
    generator : numpy Generator
        The same numbers for all pixels.
    index : Tensor of int, shape (B,), optional
        Which pixels of the scene these are.
    """

    def __init__(
        self,
        model: SGLMM,
        observations: Observations,
        abundances: Tensor,
        generator: np.random.Generator,
        index: Tensor | None = None,
    ) -> None:
        abundances = abundances.double()
        # in the model's precision: log-densities about the guide's mean need no more
        super().__init__(model.abundance_prior, abundances, generator, index)
        independent = model.variability_prior.independent
        self.likelihood = Quadratic(observations, abundances.mean(0), independent)
        self.value = self.likelihood.value(self.c[1:].softmax(-2))

    def sweep(self) -> None:
        """A round of moves of blocks of dates."""
        self.value = self.move_blocks(self.likelihood.value, self.value)
