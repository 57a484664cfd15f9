"""Variability that is integrated out: ``log p(y | c)`` of a linear-Gaussian model, and its gradient.

For the exact conditional q of psi, ``log p(y | c) = E_q[log p(y, psi | c)] + H[q]``. Since q is the maximum, the
gradient is that of the expectation under fixed moments: no factorisation is differentiated, and nothing is drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_unmix.guides.conjugate.variability import Chain, ExactVariability, Moments
from pyro_unmix.mixing import mixing_features
from pyro_unmix.models.sglmm import SGLMM
from pyro_unmix.ops.simplex import to_abundances


@dataclass(frozen=True)
class Integrated:
    """Drawn abundances of an `SGLMM` of linear mixing and Gaussian noise, psi integrated out.

    Parameters
    ----------
    model : SGLMM
    pixels, valid : Tensor, shapes (B, T, L) and (B, T)
    states : Tensor, shape (B, T+1, P)
        c at the dates 0..T.
    """

    model: SGLMM
    pixels: Tensor
    valid: Tensor
    states: Tensor

    def log_evidence(self, offsets: Tensor | None) -> Tensor:
        """``log p(y | c)`` (B,), given what pixels share and add to psi, (B or 1, T, K P)."""
        model, valid = self.model, self.valid
        pixels, design, noise_scale = model.noise.whitened(self.pixels, model.design())
        chain = Chain.of(model.variability_prior, valid.shape[1]).later()
        evidence: Any = _LogEvidence.apply(
            to_abundances(self.states[:, 1:]), design, noise_scale, chain.coefficient,
            chain.variance, offsets, pixels, valid, chain.independent,
        )  # fmt: skip
        noise = model.noise.distributions()(design.new_zeros(model.num_bands))
        fits = noise.log_prob(noise.mean)  # of a pixel that fits exactly
        return evidence + fits * valid.sum(-1)


class _LogEvidence(torch.autograd.Function):
    """``log p(y | c)`` (B,) but for what the noise has of a pixel that fits exactly.

    Of abundances (B, T, P), whitened design (L, Q) and spectra (B, T, L), their noise, a `Chain`, and offsets
    (B or 1, T, K P) or None.
    """

    @staticmethod
    def forward(
        ctx: Any,
        abundances: Tensor,
        design: Tensor,
        noise_scale: Tensor,
        coefficient: Tensor,
        variance: Tensor,
        offsets: Tensor | None,
        pixels: Tensor,
        valid: Tensor,
        independent: bool,
    ) -> Tensor:
        chain = Chain(coefficient, variance, independent)
        posterior = ExactVariability(
            gram=design.mT @ design, projected=pixels @ design, noise_scale=noise_scale,
            chain=chain, valid=valid, abundances=abundances, offsets=offsets,
        )  # fmt: skip
        moments, e = posterior.moments(), posterior.e
        flat = moments.mean if offsets is None else moments.mean + offsets
        features = mixing_features(abundances, flat)
        residual = (pixels - features @ design.mT) * valid.unsqueeze(-1)
        # half the slope of e' (Cov * G) e
        slope = ((moments.covariance * posterior.gram) @ e.unsqueeze(-1)).squeeze(-1)
        misfit = residual.square().sum((-1, -2)) + (slope * e).sum((-1, -2))
        square, lag = _steps(moments, chain)
        expected = (square / variance + variance.log() - 1).sum((-1, -2))
        expected = expected + noise_scale.pow(-2) * misfit
        ctx.save_for_backward(design, noise_scale, variance, offsets, abundances)
        ctx.moments = features, flat, residual, misfit, square, slope, lag, e, moments.covariance
        return -0.5 * expected - posterior.half_log_det()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        design, noise_scale, variance, offsets, abundances = ctx.saved_tensors
        features, flat, residual, misfit, square, slope, lag, e, covariance = ctx.moments
        needed, p = ctx.needs_input_grad, abundances.shape[-1]
        by_design = by_offsets = None
        weight = (noise_scale.pow(-2) * grad)[:, None, None]
        weighted = weight * residual  # minus the slope in the spectra
        plain, varied = (weighted @ design).tensor_split([p], dim=-1)
        by_flat = (varied * flat - weight * slope).unflatten(-1, (-1, p)).sum(-2)
        by_abundances = plain + by_flat
        if needed[1]:
            spread = ((weight * e).unsqueeze(-1) * e.unsqueeze(-2) * covariance).sum((0, 1))
            by_design = weighted.flatten(0, 1).mT @ features.flatten(0, 1)
            by_design[:, p:] -= design[:, p:] @ spread
        if offsets is not None:
            by_offsets = (varied * e).sum_to_size(offsets.shape)
        by_noise = (grad @ misfit) * noise_scale.pow(-3)
        by_coefficient = (grad @ lag.flatten(1)).view_as(variance)
        ratio = (grad @ square.flatten(1)).view_as(variance) / variance
        by_variance = 0.5 * (ratio - grad.sum()) / variance
        moving = by_abundances, by_design, by_noise, by_coefficient, by_variance, by_offsets
        return *moving, -weighted, None, None


def _steps(moments: Moments, chain: Chain) -> tuple[Tensor, Tensor]:
    """``E[(psi_s - coefficient psi_{s-1})^2]``, (B, S, K P), and the slope of the log-density in the coefficients."""
    variance = moments.covariance.diagonal(dim1=-2, dim2=-1)
    before = torch.cat([torch.ones_like(variance[:, :1]), moments.mean[:, :-1]], dim=1)
    varied = torch.cat([torch.zeros_like(variance[:, :1]), variance[:, :-1]], dim=1)
    varied = varied * chain.coefficient
    step = moments.mean - chain.coefficient * before
    square = step.square() + variance + chain.coefficient * (varied - 2 * moments.lagged)
    return square, (step * before + moments.lagged - varied) / chain.variance
