"""Gaussians of every date whose spread a network gives, with diagonal or full covariance."""

from __future__ import annotations

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyro_unmix.ops.distributions import DiagonalNormal, PrecisionNormal


def num_below(size: int) -> int:
    """Entries of a (size, size) matrix below its diagonal."""
    return size * (size - 1) // 2


class Spreads:
    """``N(mean_t, Sigma_t)`` for given means: the spreads of dates 0..T-1.

    With standard deviations ``e^l`` and a unit lower triangular U, ``Sigma^-1 = C C'`` with ``C = U diag(e^-l)``;
    without U the covariance is ``diag(e^l)^2``.

    Parameters
    ----------
    log_scale : Tensor, shape (B, T, D)
        l.
    below : Tensor, shape (B, T, D (D - 1) / 2), optional
        U below its diagonal, row by row.
    """

    def __init__(self, log_scale: Tensor, below: Tensor | None = None) -> None:
        # unbind: the gradient of a slice per date would fill a tensor of all dates each time
        self._log_det = log_scale.sum(-1).unbind(1)
        self._tril: tuple[Tensor, ...] | None = None
        if below is None:
            self._scale = log_scale.exp().unbind(1)
            return
        size = log_scale.shape[-1]
        rows, columns = torch.tril_indices(size, size, -1, device=log_scale.device)
        unit = torch.eye(size, dtype=log_scale.dtype, device=log_scale.device)
        unit = unit.expand(*log_scale.shape, size).clone()
        unit[..., rows, columns] = below
        self._tril = (unit * (-log_scale).exp().unsqueeze(-2)).unbind(1)

    def around(self, mean: Tensor, t: int) -> TorchDistribution:
        """The distribution of date t about `mean` (..., B, D)."""
        if self._tril is None:
            return DiagonalNormal(mean, self._scale[t], self._log_det[t])
        return PrecisionNormal(mean, self._tril[t], -self._log_det[t])
