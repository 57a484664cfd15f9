"""Variability that is integrated out: ``log p(y | c)`` of a linear-Gaussian model, and its gradient.

For the exact conditional q of psi, ``log p(y | c) = E_q[log p(y, psi | c)] + H[q]``. Since q is the maximum, the
gradient is that of the expectation under fixed moments: no factorisation is differentiated, and nothing is drawn.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_unmix.guides.conjugate.variability import ExactVariability, GaussianChain
from pyro_unmix.mixing import mixing_features
from pyro_unmix.models.sglmm import SGLMM
from pyro_unmix.ops.simplex import tile_components, to_abundances


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
        model, abundances = self.model, to_abundances(self.states[:, 1:])
        plain = model.design()
        pixels, design, noise_scale = model.noise.whitened(self.pixels, plain)
        gram, (num_dates, p) = design.mT @ design, abundances.shape[1:]
        chain = GaussianChain.of(model.variability_prior, num_dates).later()
        with torch.no_grad():
            posterior = ExactVariability(
                gram=gram, projected=pixels @ design, noise_scale=noise_scale, chain=chain,
                valid=self.valid, abundances=abundances, offsets=offsets,
            )  # fmt: skip
            moments = posterior.moments()
            entropy = 0.5 * moments.mean[0].numel() - posterior.half_log_det()
        psi = moments.mean if offsets is None else moments.mean + offsets
        noise = model.noise.distributions()(mixing_features(abundances, psi) @ plain.mT)
        # of the spectra: at the mean of psi, less e' (Cov * G) e / (2 sigma^2)
        e = tile_components(abundances, model.num_components) * self.valid.unsqueeze(-1)
        dates = zip(moments.covariances, e.unsqueeze(-1).unbind(1), strict=True)
        spread = torch.stack([(part * gram[p:, p:]) @ e_t for part, e_t in dates], dim=1)
        spread = spread.squeeze(-1) * e
        expected = torch.where(self.valid, noise.log_prob(self.pixels), 0.0).sum(-1)
        expected = expected - 0.5 * noise_scale.pow(-2) * spread.sum((-1, -2))
        return expected + chain.expected_log_ratio(moments) + entropy
