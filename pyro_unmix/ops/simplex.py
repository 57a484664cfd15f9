"""Algebra of the simplex: the softmax map, its inverse, and fractions repeated for the components."""

from __future__ import annotations

import torch
from torch import Tensor

LOG_FLOOR = 1e-8


def to_abundances(c: Tensor) -> Tensor:
    """Softmax map of equation (15), from the softmax basis (..., P) to the simplex (..., P)."""
    return torch.softmax(c, dim=-1)


def to_softmax_basis(values: Tensor, floor: float = LOG_FLOOR) -> Tensor:
    """``pi^-1`` of equation (14): ``log(max(v, 0) + floor)``, centred over the last axis.

    Parameters
    ----------
    values : Tensor, shape (..., P)
        Abundances, or a crude estimate of them that may be negative.
    floor : float
        Keeps the logarithm finite at zero.

    Returns
    -------
    Tensor, shape (..., P)
        Sums to zero over the last axis.
    """
    logs = torch.log(values.clamp(min=0) + floor)
    return logs - logs.mean(-1, keepdim=True)


def clip_to_simplex(values: Tensor) -> Tensor:
    """``s(.)`` below equation (44): clip at zero and divide by the sum (uniform where nothing is left)."""
    clipped = values.clamp(min=0) + 1e-12
    return clipped / clipped.sum(-1, keepdim=True)


def tile_components(abundances: Tensor, num_components: int) -> Tensor:
    """``e = tile(a, K)``, shape (..., K P)."""
    return abundances.repeat(*[1] * (abundances.dim() - 1), num_components)
