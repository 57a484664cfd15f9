"""Normal numbers between bounds."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_LEAST = 1e-300
_MOST = 1 - 1e-16


def truncated_normal(
    loc: Tensor, scale: Tensor, low: Tensor, high: Tensor, uniform: Tensor
) -> tuple[Tensor, Tensor]:
    """Draws of ``N(loc, scale^2)`` within ``[low, high]``, and the probability of the bounds.

    By the inverse of the distribution function, in the tail that has no cancellation. Bounds more than 37 scales away
    give the nearer one.

    Parameters
    ----------
    loc, scale, low, high, uniform : Tensor
        Of shapes that broadcast; `uniform` in [0, 1).

    Returns
    -------
    tuple of Tensor
        Draws, and probabilities, at least 1e-300.
    """
    left, right = (low - loc) / scale, (high - loc) / scale
    turned = left > 0  # mirror what lies in the upper tail
    left, right = torch.where(turned, -right, left), torch.where(turned, -left, right)
    below, upto = _below(left), _below(right)
    inside = (below + (upto - below) * uniform).clamp(_LEAST, _MOST)
    score = torch.special.ndtri(inside)
    score = torch.where(turned, -score, score)
    drawn = torch.minimum(torch.maximum(loc + scale * score, low), high)
    return drawn, (upto - below).clamp(min=_LEAST)


def _below(score: Tensor) -> Tensor:
    """The normal distribution function, to all digits in the lower tail, where `torch.special.ndtr` has few."""
    return 0.5 * torch.special.erfc(-score / math.sqrt(2))
