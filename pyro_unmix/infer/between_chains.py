"""What several chains say together: how they share draws, how far apart they are, and what that says of the truth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_LEVEL = 0.95  # quantile at which the widening is taken
_FEWEST = 3.0  # chains that a widening is taken of


def widening(weights: np.ndarray) -> float:
    """How much farther than the chains are from their mean the truth may be, if it is to them as they to each other.

    Of n values of a normal distribution another one is, with probability 1 - 2 p, within ``t_(n-1, p) s sqrt(1 + 1/n)``
    of their mean; s with n - 1 degrees of freedom. The factor is that bound over the one of a normal distribution that
    has the mean square of the n: ``t / z sqrt((n + 1) / (n - 1))``, at p = 0.05 and ``n = 1 / sum w^2``, at least 3.

    Parameters
    ----------
    weights : array
        Of the chains, summing to one.

    Returns
    -------
    float
        Towards 1 for many chains.
    """
    count = max(1 / float(np.square(weights).sum()), _FEWEST)
    import scipy.stats

    quantile = scipy.stats.t.ppf(_LEVEL, count - 1) / scipy.stats.norm.ppf(_LEVEL)
    return float(quantile * np.sqrt((count + 1) / (count - 1)))


def spread_apart(
    draws: Sequence[Tensor], factor: float, weights: Sequence[float] | None = None
) -> Tensor:
    """Draws (S, ...) of all chains in a row, the means of the chains moved away from the mean of all by a factor.

    Chains from several starts end in several modes, and the truth is none of them: each is taken for one draw of where
    such a chain may end. A chain with m draws is moved by ``1 + (factor - 1) (1 - 1/m)``, as m draws do not tell its
    mean.

    Parameters
    ----------
    draws : sequence of Tensor, shapes (S_c, ...)
        Of every chain.
    factor : float
        See `widening`.
    weights : sequence of float, optional
        Of the chains; default in proportion to their draws.
    """
    of_chains = [float(len(own)) for own in draws] if weights is None else list(weights)
    means = torch.stack([own.mean(0) for own in draws])
    share = torch.as_tensor(of_chains).to(means) / sum(of_chains)
    centre = torch.tensordot(share, means, dims=1)
    moved = [
        own + (factor - 1) * (1 - 1 / len(own)) * (mean - centre)
        for own, mean in zip(draws, means, strict=True)
    ]
    return torch.cat(moved)


def shares(weights: np.ndarray, num_samples: int) -> np.ndarray:
    """How many of the draws are a chain's: in proportion to its weight, by largest remainders."""
    exact = np.asarray(weights) * num_samples
    counts = np.floor(exact).astype(int)
    rest = num_samples - counts.sum()
    counts[np.argsort(counts - exact, kind="stable")[:rest]] += 1
    return counts


def weighted_quantiles(values: np.ndarray, weights: np.ndarray, q: Sequence[float]) -> np.ndarray:
    """Quantiles (len(q), ...) over the first axis of values, whose weights sum to one."""
    order = np.argsort(values, axis=0)
    ordered = np.take_along_axis(values, order, axis=0)
    below = np.cumsum(weights[order], axis=0)
    places = [(below < level).sum(0).clip(max=len(values) - 1) for level in q]
    return np.stack([np.take_along_axis(ordered, place[None], axis=0)[0] for place in places])


def split_r_hat(draws: Tensor) -> Tensor:
    """Potential scale reduction (...) of draws (chains, draws, ...), every chain cut in two halves."""
    half = draws.shape[1] // 2
    parts = torch.cat([draws[:, :half], draws[:, -half:]])
    within = parts.var(1).mean(0)
    between = half * parts.mean(1).var(0)
    return (((half - 1) * within + between) / (half * within)).sqrt()
