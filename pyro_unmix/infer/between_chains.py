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


def effective_size(draws: Tensor) -> Tensor:
    """How many independent draws (...) tell a mean as well as draws (chains, draws, ...), every chain cut in halves.

    With the autocorrelation ``rho_t`` of the parts about a common mean, ``rho_t = 1 - (W - c_t) / V``, W the variance
    within the parts, ``c_t`` their autocovariance, V the variance that R-hat compares with W, it is
    ``S / (-1 + 2 sum_m (rho_2m + rho_2m+1))`` of S draws. Of these sums of pairs, which fall and are positive for any
    reversible chain, those from the first that is not positive on are left out, and none counts for more than those
    before it. At most ``S log10 S``. NaN of less than four draws, and of draws that are all equal.

    References
    ----------
    Geyer, "Practical Markov chain Monte Carlo", Statistical Science 7(4), 1992; Vehtari et al., Bayesian Analysis
    16(2), 2021, eqs. 10 to 13.
    """
    half = draws.shape[1] // 2
    if half < 2:
        return draws.new_full(draws.shape[2:], torch.nan)
    parts = torch.cat([draws[:, :half], draws[:, -half:]])
    turned = torch.fft.rfft(parts - parts.mean(1, keepdim=True), n=2 * half, dim=1)
    covariance = torch.fft.irfft(turned.abs().square(), n=2 * half, dim=1)[:, :half].mean(0) / half
    within = covariance[0] * half / (half - 1)
    total = covariance[0] + parts.mean(1).var(0)
    correlation = 1 - (within - covariance) / total
    correlation[0] = torch.where(total > 0, 1.0, torch.nan)
    count = half // 2 * 2
    pairs = correlation[0:count:2] + correlation[1:count:2]
    pairs = (pairs.clamp(min=0) * (pairs > 0).cumprod(0)).cummin(0).values
    size = len(parts) * half
    length = (2 * pairs.sum(0) - 1).clamp(min=1 / np.log10(size))
    return torch.where(total > 0, size / length, torch.nan)
