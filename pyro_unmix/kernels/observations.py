"""The likelihood of a pixel's abundances: given the variability, or with it integrated out date by date."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_unmix.guides.conjugate.variability import GaussianChain
from pyro_unmix.models.sglmm import SGLMM
from pyro_unmix.ops.simplex import tile_components, to_abundances


class Marginal(NamedTuple):
    """``log p(y_t | c_t)`` (..., B) up to a constant, the Cholesky factor of psi's scaled precision, and ``C^-1 r``."""

    value: Tensor
    factor: Tensor
    white: Tensor


class Observations:
    """Spectra of some pixels, as the likelihood of abundances and variability needs them.

    With ``design = [M0, W]``, ``e = tile(a, K)`` and noise whitened to a std sigma::

        y_t | a_t, psi_t ~ N(M0 a_t + W (e_t * psi_t), sigma^2 I)

    Parameters
    ----------
    model : SGLMM
        Linear, with noise that can be whitened.
    pixels, valid : Tensor, shapes (B, T, L) and (B, T)
    noise_factor : float
        Multiplies sigma.
    """

    def __init__(
        self, model: SGLMM, pixels: Tensor, valid: Tensor, noise_factor: float = 1.0
    ) -> None:
        # In double precision: the terms of a log-likelihood are of the size of |y|^2 / sigma^2.
        whitened = model.noise.whitened(pixels, model.design())
        y, design, noise_scale = (part.double() for part in whitened)
        self.num_endmembers, self.num_components = model.num_endmembers, model.num_components
        p = self.num_endmembers
        gram = design.mT @ design
        self.materials, self.cross, self.components = gram[:p, :p], gram[:p, p:], gram[p:, p:]
        self.projected = y @ design  # (B, T, (K+1) P)
        self.valid = valid.to(y.dtype)
        self.variance = (noise_factor * noise_scale).square()
        self.chain = GaussianChain.of(model.variability_prior, pixels.shape[1], torch.float64)

    # ------------------------------------------------------------ psi integrated out, or drawn

    def neighbours(self, t: int, psi: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and std of ``psi_t`` given those of the dates t-1 and t+1; psi (..., T+1, K P)."""
        coefficient, weight = self.chain.coefficient, self.chain.variance.reciprocal()
        precision, vector = weight[t], weight[t] * coefficient[t]
        if t:
            vector = vector * psi[..., t - 1, :]
        if t + 1 < len(weight):
            pulled = coefficient[t + 1] * weight[t + 1]
            precision = precision + pulled * coefficient[t + 1]
            vector = vector + pulled * psi[..., t + 1, :]
        return vector / precision, precision.rsqrt()

    def marginal(self, t: int, c: Tensor, mean: Tensor, std: Tensor) -> Marginal:
        """The likelihood of c (..., B, P) at date t, with ``psi_t ~ N(mean, diag(std)^2)`` integrated out.

        With ``r = diag(std e) W'(y - M0 a - W (e * mean))`` and
        ``C C' = sigma^2 I + diag(std e) W'W diag(std e)``::

            log p = -(|y - M0 a - W (e * mean)|^2 - |C^-1 r|^2) / (2 sigma^2) - log det C + constant
        """
        p = self.num_endmembers
        a, y, valid = to_abundances(c), self.projected[:, t - 1], self.valid[:, t - 1, None]
        e = tile_components(a, self.num_components) * valid
        moment = y[:, p:] - a @ self.cross
        moved = e * mean
        rest = moment - moved @ self.components
        energy = valid.squeeze(-1) * ((a @ self.materials - 2 * y[:, :p]) * a).sum(-1)
        energy = energy - (moved * (moment + rest)).sum(-1)
        e = e * std
        precision = (e.unsqueeze(-1) * self.components).mul_(e.unsqueeze(-2))
        precision.diagonal(dim1=-2, dim2=-1).add_(self.variance)
        factor = torch.linalg.cholesky_ex(precision).L
        white = torch.linalg.solve_triangular(factor, (e * rest).unsqueeze(-1), upper=False)
        quadratic = (energy - white.squeeze(-1).square().sum(-1)) / self.variance
        log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return Marginal(-0.5 * quadratic - log_det, factor, white)

    def variability(
        self, marginal: Marginal, mean: Tensor, std: Tensor, noise: Tensor | None = None
    ) -> Tensor:
        """``psi_t`` given c_t and y_t (..., B, K P): its mean, or the draw made of standard-normal noise."""
        right = marginal.white
        if noise is not None:
            right = right + self.variance.sqrt() * noise.unsqueeze(-1)
        step = torch.linalg.solve_triangular(marginal.factor.mT, right, upper=True).squeeze(-1)
        return mean + std * step

    # ------------------------------------------------------------ quadratics h'a - a'Ga / 2

    def quadratic(self, psi: Tensor) -> tuple[Tensor, Tensor]:
        """G (..., B, T, P, P) and h (..., B, T, P) of ``log p(y_t | a_t, psi_t)``; psi (..., B, T, K P)."""
        p, shape = self.num_endmembers, (self.num_components, self.num_endmembers)
        varied = psi.unflatten(-1, shape)
        h = self.projected[..., :p]
        h = h + (varied * self.projected[..., p:].unflatten(-1, shape)).sum(-2)
        cross = torch.einsum("pkq,...kq->...pq", self.cross.unflatten(-1, shape), varied)
        gram = self.components.reshape(*shape, *shape)
        left = torch.einsum("kplq,...lq->...kpq", gram, varied)
        g = self.materials + cross + cross.mT + torch.einsum("...kp,...kpq->...pq", varied, left)
        weight = self.valid / self.variance
        return g * weight[..., None, None], h * weight[..., None]


def quadratic_value(quadratic: tuple[Tensor, Tensor], abundances: Tensor) -> Tensor:
    """``h'a - a'Ga / 2``, shape (...)."""
    g, h = quadratic
    return ((h - 0.5 * (g @ abundances.unsqueeze(-1)).squeeze(-1)) * abundances).sum(-1)
